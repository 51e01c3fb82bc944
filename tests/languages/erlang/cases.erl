-module(cases).
-export([main/1]).

main([Name | Rest]) ->
    ok = io:setopts([{encoding, unicode}]),
    case Name of
        "echo" -> copy();
        "args" -> [io:format("[~ts]~n", [Arg]) || Arg <- Rest];
        "exit" -> halt(3);
        "stderr" ->
            io:format("to stdout~n"),
            io:format(standard_error, "to stderr~n", []);
        "unicode" -> io:format("~ts~n", ["žluťoučký 你好 🦀"]);
        "output" -> io:put_chars([[lists:duplicate(99, $x), $\n] || _ <- lists:seq(1, 10000)]);
        "uncaught" -> error("corpus failure");
        "memory" -> hoard([]);
        "loop" -> loop(0);
        "threads" ->
            Self = self(),
            [spawn(fun() -> Self ! {sum, lists:sum(lists:seq(1, 1000))} end) || _ <- lists:seq(1, 4)],
            io:format("~p~n", [lists:sum([receive {sum, Sum} -> Sum end || _ <- lists:seq(1, 4)])]);
        "missing" ->
            {error, enoent} = file:read_file("absent.txt"),
            io:format("missing~n");
        "workdir" ->
            ok = file:write_file("out.txt", "written"),
            {ok, Text} = file:read_file("out.txt"),
            io:format("~s~n", [Text])
    end.

copy() ->
    case io:get_line("") of
        eof -> ok;
        Line -> io:put_chars(Line), copy()
    end.

hoard(List) -> hoard([binary:copy(<<1>>, 1048576) | List]).

loop(N) -> loop(N + 1).
