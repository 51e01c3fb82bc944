program broken;
begin
  writeln(1 + );
end.
