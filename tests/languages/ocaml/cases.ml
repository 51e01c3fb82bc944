let rec copy () =
  match input_char stdin with
  | c -> print_char c; copy ()
  | exception End_of_file -> ()

let () =
  let words = List.tl (Array.to_list Sys.argv) in
  match words with
  | "echo" :: _ -> copy ()
  | "args" :: rest -> List.iter (Printf.printf "[%s]\n") rest
  | "exit" :: _ -> exit 3
  | "stderr" :: _ -> print_endline "to stdout"; prerr_endline "to stderr"
  | "unicode" :: _ -> print_endline "žluťoučký 你好 🦀"
  | "output" :: _ -> for _ = 1 to 10_000 do print_endline (String.make 99 'x') done
  | "uncaught" :: _ -> failwith "corpus failure"
  | "memory" :: _ ->
    let hoard = ref [] in
    while true do hoard := Bytes.make 1_048_576 'x' :: !hoard done
  | "loop" :: _ -> while true do ignore (Sys.opaque_identity 0) done
  | "threads" :: _ ->
    let add () = List.fold_left ( + ) 0 (List.init 1000 succ) in
    let domains = List.init 4 (fun _ -> Domain.spawn add) in
    Printf.printf "%d\n" (List.fold_left (fun total domain -> total + Domain.join domain) 0 domains)
  | "missing" :: _ -> (try ignore (open_in "absent.txt") with Sys_error _ -> print_endline "missing")
  | "workdir" :: _ ->
    Out_channel.with_open_text "out.txt" (fun out -> output_string out "written");
    print_endline (In_channel.with_open_text "out.txt" In_channel.input_all)
  | _ -> exit 1
