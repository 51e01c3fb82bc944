-module(helper).
-export([greeting/0]).

greeting() -> "from helper".
