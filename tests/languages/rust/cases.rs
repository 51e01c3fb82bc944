use std::io::{self, Read, Write};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words[0].as_str() {
        "echo" => {
            let mut text = Vec::new();
            io::stdin().read_to_end(&mut text).unwrap();
            io::stdout().write_all(&text).unwrap();
        }
        "args" => words[1..].iter().for_each(|arg| println!("[{arg}]")),
        "exit" => std::process::exit(3),
        "stderr" => {
            println!("to stdout");
            eprintln!("to stderr");
        }
        "unicode" => println!("žluťoučký 你好 🦀"),
        "output" => (0..10_000).for_each(|_| println!("{}", "x".repeat(99))),
        "uncaught" => panic!("corpus failure"),
        "memory" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1u8; 1 << 20]);
            }
        }
        "loop" => loop {
            std::hint::spin_loop();
        },
        "threads" => {
            let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(|| (1..=1000).sum::<u64>())).collect();
            println!("{}", threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>());
        }
        "missing" => match std::fs::read("absent.txt") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => println!("missing"),
            other => println!("{other:?}"),
        },
        "workdir" => {
            std::fs::write("out.txt", "written").unwrap();
            println!("{}", std::fs::read_to_string("out.txt").unwrap());
        }
        other => panic!("no case {other}"),
    }
}
