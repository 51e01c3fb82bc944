-module(main).
-export([main/1]).

main(_) ->
    {ok, helper} = compile:file("helper"),
    io:format("~s~n", [helper:greeting()]).
