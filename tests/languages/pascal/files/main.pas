program main;

uses helper;

begin
  writeln(greeting());
end.
