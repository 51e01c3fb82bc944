//! Many programs through one service, hostile ones among them, over two dialects: when all of them have ended, everything
//! on the machine is as it was after the first ones.
//!
//! SOAK_RUNS says how many; `make soak` has 100,000 and prints the table that the README shows.

mod common;
// Shared with the tests of the service, which use more of it.
#[allow(dead_code)]
#[path = "serve/harness.rs"]
mod harness;
#[path = "soak/held.rs"]
mod held;
#[path = "soak/programs.rs"]
mod programs;
// Shared with the benchmark of cells, which reads more.
#[allow(dead_code)]
#[path = "../benches/cell/readings.rs"]
mod readings;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use common::has_image;
use harness::Server;
use held::Held;
use programs::{PROGRAMS, Program};

const RUNS_DEFAULT: usize = 1_500;
/// Runs before the first count: everything that is made once is there then.
const RUNS_BEFORE: usize = 300;
const CLIENTS: usize = 6;
/// Cells that wait ahead are cleared when nobody has asked for them for half a minute.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(120);
const IMAGES: &[&str] = &["base", "gcc", "python", "perl", "lua"];

/// What became of the runs.
#[derive(Default)]
struct Tally {
    /// By program and status word.
    ended: BTreeMap<(&'static str, String), usize>,
    /// Answers that no sandbox may give.
    wrong: Vec<String>,
}

#[test]
fn many_programs_leave_what_the_first_ones_left() {
    if !IMAGES.iter().all(|image| has_image(image)) {
        return;
    }
    let Some(server) = Server::with(&["--log", "warn"]) else { return };
    let runs = std::env::var("SOAK_RUNS").map_or(RUNS_DEFAULT, |runs| runs.parse().expect("SOAK_RUNS is a number"));
    let tally = Mutex::new(Tally::default());
    run(&server, 0..RUNS_BEFORE, &tally);
    let before = settled(&server, None);
    let began = Instant::now();
    run(&server, RUNS_BEFORE..RUNS_BEFORE + runs, &tally);
    let took = began.elapsed();
    let after = settled(&server, Some(&before));
    let tally = tally.into_inner().expect("no client panicked");
    println!("{}", table(&tally, &before, &after, runs, took));
    assert_eq!(tally.wrong, [] as [String; 0], "{}", server.log());
    assert_eq!(after.exact, before.exact, "{}", server.log());
    assert_eq!(after.complaints_of_the_kernel, before.complaints_of_the_kernel);
    for (name, (limit, value)) in after.growth(&before, runs) {
        assert!(value <= limit, "{name} grew by {value}, more than {limit}\n{}", server.log());
    }
}

fn run(server: &Server, numbers: std::ops::Range<usize>, tally: &Mutex<Tally>) {
    let next = AtomicUsize::new(numbers.start);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    one(server, Program::of(number), number, tally);
                }
            });
        }
    });
}

fn one(server: &Server, program: &'static Program, number: usize, tally: &Mutex<Tally>) {
    let status = if program.abandoned {
        abandon(server, &program.body());
        Ok("abandoned".to_owned())
    } else if number.is_multiple_of(7) && program.is_plain() {
        let reply = server.post_json("/api/v2/piston/execute", &program.piston_body());
        match (reply.status, reply.json()["run"]["code"].as_i64()) {
            (200, Some(0)) => Ok("ok".to_owned()),
            _ => Err(format!("{reply:?}")),
        }
    } else {
        let reply = server.post_json("/api/execute", &program.body());
        program.check(reply.status, &reply.json()).map_err(|why| format!("{why}: {reply:?}"))
    };
    let mut tally = tally.lock().expect("no client panicked");
    match status {
        Ok(status) => *tally.ended.entry((program.name, status)).or_default() += 1,
        Err(why) if tally.wrong.len() < 5 => tally.wrong.push(format!("{}: {why}", program.name)),
        Err(_) => {}
    }
}

/// Asks for a run and goes away.
fn abandon(server: &Server, body: &Value) {
    let body = body.to_string();
    let head = format!(
        "POST /api/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = server.connect();
    stream.write_all((head + &body).as_bytes()).expect("the request is sent");
    std::thread::sleep(Duration::from_millis(20));
}

/// What is held once nothing runs and no cell waits; the same as `before`, if that comes in time.
fn settled(server: &Server, before: Option<&Held>) -> Held {
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    let mut last = Held::read(server.pid());
    let mut same = 0;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let held = Held::read(server.pid());
        same = if held.exact == last.exact { same + 1 } else { 0 };
        let is_quiet = held.exact["cells"] == 0 && same >= 2;
        if (is_quiet && before.is_none_or(|before| before.exact == held.exact)) || Instant::now() > deadline {
            return held;
        }
        last = held;
    }
}

fn table(tally: &Tally, before: &Held, after: &Held, runs: usize, took: Duration) -> String {
    let mut text =
        format!("\n{runs} runs in {:.0} s\n\n| held | before | after |\n|---|---:|---:|\n", took.as_secs_f64());
    for (name, value) in &before.exact {
        text += &format!("| {name} | {value} | {} |\n", after.exact[name]);
    }
    for (name, value) in &before.rough {
        text += &format!("| {name} | {value} | {} |\n", after.rough[name]);
    }
    let complaints = (before.complaints_of_the_kernel.len(), after.complaints_of_the_kernel.len());
    text += &format!("| complaints of the kernel | {} | {} |\n", complaints.0, complaints.1);
    text += "\n| program | ended | runs |\n|---|---|---:|\n";
    for program in PROGRAMS {
        for ((_, status), count) in tally.ended.iter().filter(|((name, _), _)| *name == program.name) {
            text += &format!("| {} | {status} | {count} |\n", program.name);
        }
    }
    text
}
