unit helper;

interface

function greeting: string;

implementation

function greeting: string;
begin
  greeting := 'from helper';
end;

end.
