let () = print_endline (Helper.greeting ())
