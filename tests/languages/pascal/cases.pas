program cases;

uses
  cthreads, Classes, SysUtils;

type
  TAdder = class(TThread)
  public
    Sum: Integer;
    procedure Execute; override;
  end;

procedure TAdder.Execute;
var
  n: Integer;
begin
  for n := 1 to 1000 do Sum := Sum + n;
end;

var
  name, line: string;
  index, total: Integer;
  adders: array[1..4] of TAdder;
  block: PByte;
  lines: TStringList;
begin
  name := ParamStr(1);
  case name of
    'echo': while not Eof do begin readln(line); writeln(line) end;
    'args': for index := 2 to ParamCount do writeln('[', ParamStr(index), ']');
    'exit': halt(3);
    'stderr': begin writeln('to stdout'); writeln(StdErr, 'to stderr') end;
    'unicode': writeln('žluťoučký 你好 🦀');
    'output': for index := 1 to 10000 do writeln(StringOfChar('x', 99));
    'uncaught': raise Exception.Create('corpus failure');
    'memory': while true do begin block := GetMem(1048576); FillByte(block^, 1048576, 1) end;
    'loop': while true do;
    'threads':
      begin
        total := 0;
        for index := 1 to 4 do adders[index] := TAdder.Create(false);
        for index := 1 to 4 do begin adders[index].WaitFor; total := total + adders[index].Sum end;
        writeln(total);
      end;
    'missing': if not FileExists('absent.txt') then writeln('missing');
    'workdir':
      begin
        lines := TStringList.Create;
        lines.Add('written');
        lines.SaveToFile('out.txt');
        lines.Clear;
        lines.LoadFromFile('out.txt');
        writeln(lines[0]);
      end;
  end;
end.
