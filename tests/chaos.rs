//! Faults from outside: our processes killed at random moments under load, and a clock that is stepped. Whatever happens,
//! no run is weaker than planned, nothing is left over, and the service comes again by itself.

mod common;
// Shared with the tests of the service, which use more of it.
#[allow(dead_code)]
#[path = "serve/harness.rs"]
mod harness;

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use common::{PATIENCE, children_named, children_of, groups_of, has_image, text};
use harness::Server;

/// How many processes are killed.
const KILLS: usize = 24;
const CLIENTS: usize = 4;

#[test]
fn processes_killed_at_random_moments_under_load_leave_a_whole_service() {
    if !has_image("base") {
        return;
    }
    let Some(server) = Server::start() else { return };
    let control = server.execute(&hello());
    assert_eq!(control["status"], "ok", "{control}");
    let planned = &control["enforcement"];
    let done = AtomicBool::new(false);
    let (verdicts, errors) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut killed = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    match try_execute(&server, &hello()) {
                        // A verdict, of a program that ran as strictly as ever or of none.
                        Some((200, answer)) if answer["status"] != "sandbox_error" => {
                            assert_eq!(&answer["enforcement"], planned, "{answer}");
                            let is_whole = answer["status"] == "ok" && answer["stdout"] == "Hello\n";
                            assert!(is_whole || answer["status"] == "signaled", "{answer}");
                            verdicts.fetch_add(1, Ordering::Relaxed);
                        }
                        // Told that it failed, or cut off with the front.
                        Some((200 | 429 | 500 | 503, _)) | None => {
                            errors.fetch_add(1, Ordering::Relaxed);
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        Some((status, answer)) => panic!("{status}: {answer}"),
                    }
                }
            });
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        while killed.len() < KILLS {
            std::thread::sleep(Duration::from_millis(20 + random.below(300)));
            if let Some(victim) = kill_one(&server, killed.len(), &mut random) {
                killed.push(victim);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("{} verdicts, {} errors; killed {killed:?}", verdicts.into_inner(), errors.into_inner());
    server.wait_until("it serves again", PATIENCE, |server| {
        try_execute(server, &hello()).is_some_and(|(_, answer)| answer["stdout"] == "Hello\n")
    });
    let supervisors = || killed.iter().filter(|(kind, _)| *kind == "supervisor").map(|(_, pid)| *pid as u32);
    server
        .wait_until("what the killed left is swept", PATIENCE, |_| supervisors().all(|pid| groups_of(pid).is_empty()));
    // The server's end asserts that nothing else is left.
}

fn hello() -> Value {
    json!({"language": "bash", "code": "sleep 0.01; echo Hello"})
}

/// Status and answer; `None` when the connection did not hold.
fn try_execute(server: &Server, body: &Value) -> Option<(u16, Value)> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
    let request = agent.post(server.url("/api/execute")).header("content-type", "application/json");
    let mut response = request.send(body.to_string()).ok()?;
    let body = response.body_mut().read_to_string().ok()?;
    Some((response.status().as_u16(), serde_json::from_str(&body).ok()?))
}

/// Kills a process of the service, of each kind in turn, if there is one now.
fn kill_one(server: &Server, round: usize, random: &mut Random) -> Option<(&'static str, i32)> {
    let supervisors = children_named(server.pid(), "supervisor");
    let inits: Vec<_> = supervisors.iter().flat_map(|pid| children_of(*pid)).collect();
    let (kind, candidates) = match round % 4 {
        0 => ("init", inits),
        1 => ("supervisor", supervisors),
        2 => ("payload", inits.iter().flat_map(|pid| children_of(*pid)).collect()),
        _ => ("front", children_named(server.pid(), "front")),
    };
    let victim = *candidates.get(random.below(candidates.len().max(1) as u64) as usize)?;
    let pidfd = pidfd_open(Pid::from_raw(victim)?, PidfdFlags::empty()).ok()?;
    // Whoever has the number now has it for as long as the descriptor is open: is it still one of ours?
    let is_ours = descends_from(victim, server.pid());
    (is_ours && pidfd_send_signal(pidfd.as_fd(), Signal::KILL).is_ok()).then_some((kind, victim))
}

fn descends_from(pid: i32, ancestor: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<i32>().ok());
    parent.is_some_and(|parent| parent == ancestor || (parent > 1 && descends_from(parent, ancestor)))
}

/// A small generator of numbers, the same in every run of the test (xorshift64, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Set for this program where it runs on a machine whose clock is its own.
const OWN_CLOCK: &str = "TEST_OWN_CLOCK";
/// How far the clock is stepped, one after the other, in seconds: hours, days, and decades back.
const CLOCK_STEPS: [i64; 7] = [3600, -7200, 86_400, -86_400, 3600, -3600, -900_000_000];

#[test]
fn a_clock_that_is_stepped_changes_no_limit_and_loses_no_run() {
    if std::env::var_os(OWN_CLOCK).is_some() {
        return run_while_the_clock_is_stepped();
    }
    let myself = std::env::current_exe().expect("this test's program");
    let name = "a_clock_that_is_stepped_changes_no_limit_and_loses_no_run";
    let script = format!("ip link set lo up; {OWN_CLOCK}=1 exec {} --exact {name} --nocapture", myself.display());
    if let Some(output) = common::run_under_v2(&script) {
        let said = text(&output.stdout);
        assert!(output.status.success() && said.contains("runs while the clock was stepped"), "{said}");
    }
}

/// Runs that end by themselves and by their limits, while the clock is stepped under them.
fn run_while_the_clock_is_stepped() {
    // User Mode Linux has no landlock.
    let config = "[service]\ngive_up = [\"landlock\"]\nuse_host_image = true\n";
    let server = Server::with_config(config).expect("this is root");
    let done = AtomicBool::new(false);
    let sleep = |seconds: &str, limit_ms: u64| json!({"language": "bash", "code": format!("sleep {seconds}"), "limits": {"wall_time_ms": limit_ms}});
    let (whole, ended) = std::thread::scope(|scope| {
        let run = |body: Value, expected: &'static str, least: f64| {
            let (server, done) = (&server, &done);
            scope.spawn(move || {
                let mut ids = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let (began, answer) = (Instant::now(), server.execute(&body));
                    let (took, told) = (began.elapsed(), answer["usage"]["wall_time_ms"].as_f64().unwrap_or(-1.0));
                    assert_eq!(answer["status"], expected, "{answer}");
                    // A busy machine is slow, but by less than any clock is stepped.
                    let most = PATIENCE.as_secs_f64() * 1e3;
                    assert!((least..most).contains(&told) && took < PATIENCE, "{took:?}: {answer}");
                    ids.push((answer["id"].as_str().expect("an id").to_owned(), expected));
                }
                ids
            })
        };
        let whole = run(sleep("0.5", 60_000), "ok", 500.0);
        let ended = run(sleep("3600", 1000), "wall_time_exceeded", 1000.0);
        for step in CLOCK_STEPS {
            std::thread::sleep(Duration::from_millis(1200));
            step_clock(step);
        }
        done.store(true, Ordering::Relaxed);
        (whole.join().expect("the runs end"), ended.join().expect("the runs end"))
    });
    for (id, status) in whole.iter().chain(&ended) {
        assert_eq!(server.get(&format!("/api/execute/{id}")).json()["status"], *status, "{id}");
    }
    assert!(!whole.is_empty() && !ended.is_empty());
    println!("{} runs while the clock was stepped {} times", whole.len() + ended.len(), CLOCK_STEPS.len());
}

fn step_clock(seconds: i64) {
    use rustix::time::{ClockId, clock_gettime, clock_settime};
    let mut time = clock_gettime(ClockId::Realtime);
    time.tv_sec += seconds;
    clock_settime(ClockId::Realtime, time).expect("the clock is this machine's own");
}
