IO.puts("unreached" broken
