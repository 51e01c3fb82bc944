-module(broken).
-export([main/1]).

main(_) -> unreached(.
