:- module(helper, [from/1]).

from("from helper").
