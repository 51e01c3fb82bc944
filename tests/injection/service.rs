//! The service with each system call that serves a request failing once: of a supervisor and its cells, and of the front.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{PATIENCE, children_named, groups_of, has_image, is_alive, is_root, run};
use crate::harness::Server;
use crate::run::weaker;
use crate::sweep::{Ending, NEVER_MADE, faults_of, sweep};
use crate::tracer::{self, Fault, Point, Trace};

/// One supervisor, so that it is known which one makes the cell.
const CONFIG: &str = "[service]\nsupervisors = 1\n";
/// Until the service has recovered; what has ended is started again after pauses of up to a second.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(30);

#[test]
fn a_supervisor_whose_system_calls_fail_runs_nothing_weaker_and_comes_again() {
    sweep_service("supervisor");
}

#[test]
fn a_front_whose_system_calls_fail_answers_or_hangs_up_and_comes_again() {
    sweep_service("front");
}

fn sweep_service(role: &'static str) {
    if !has_image("base") {
        return;
    }
    let Some(server) = start() else { return };
    let planned = server.execute(&hello());
    // Not every request makes the same calls: what is made ahead for the next one may be this one's or not.
    let mut points = Vec::new();
    let mut facts = Vec::new();
    for _ in 0..3 {
        let (answer, trace) = traced_request(&server, role, None);
        assert_eq!(answer.map(|answer| answer.0), Some(200), "{}", server.log());
        points.extend(trace.points.into_iter().filter(|point| !points.contains(point)).collect::<Vec<_>>());
        facts.extend(trace.facts);
    }
    assert!(role == "front" || facts.len() == 3 && weaker(&facts, &facts[0]).is_ok(), "{facts:?}");
    drop(server);
    let servers = Mutex::new(Vec::new());
    sweep(role, &faults_of(points), 2, "refused", |fault| {
        let ready = servers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let server = ready.or_else(start).expect("it has started before");
        let before = processes(&server);
        let (answer, trace) = traced_request(&server, role, Some(*fault));
        let judged = match &trace.struck {
            None => Ok(NEVER_MADE),
            Some(struck) => weaker(&trace.facts, facts.first().map_or("", String::as_str))
                .and_then(|()| judge(answer, &planned["enforcement"], role))
                .map_err(|error| format!("{error}\n  {struck}")),
        };
        let recovered = recovers(&server, &planned["enforcement"]);
        let after = processes(&server);
        let left = swept(&server, &before, &after);
        let log = server.log();
        let ended = if before == after {
            servers.lock().unwrap_or_else(PoisonError::into_inner).push(server);
            judged
        } else {
            // Its next restart would take its time; the end of a service asserts that nothing is left.
            drop(server);
            judged.map(|_| "restarted a process")
        };
        ended
            .and_then(|ended| recovered.and(left).map(|()| ended))
            .map_err(|error| format!("{error}\n{}", last_lines(&log)))
    });
}

/// A supervisor and the front are killed, and started again, and the service is told to end.
#[test]
fn a_service_whose_system_calls_fail_starts_again_what_was_killed() {
    if !has_image("base") || !is_root() {
        return;
    }
    let (server, trace) = traced_life(None).expect("a life without a fault");
    drop(server);
    let ours = |(point, _): &(Point, _)| ["serve", "a child of serve"].contains(&point.role);
    // Most of it is spent on waiting.
    sweep("restart", &faults_of(trace.points.into_iter().filter(ours)), 4, "came again", |fault| {
        let (_, trace) = traced_life(Some(*fault))?;
        Ok(if trace.struck.is_some() { "came again" } else { NEVER_MADE })
    });
}

/// The service after its end.
fn traced_life(fault: Option<Fault>) -> Result<(Server, Trace), String> {
    let server = start().ok_or("it has started before")?;
    let enforcement = server.execute(&hello())["enforcement"].clone();
    let mut ended = processes(&server);
    let tracer = tracer::attach(server.pid(), "serve", fault);
    let lived = ["supervisor", "front"].iter().try_for_each(|role| {
        let victims = children_named(server.pid(), role);
        let [victim] = victims[..] else { return Err(format!("{role}s: {victims:?}: {}", last_lines(&server.log()))) };
        kill(Pid::from_raw(victim), Signal::SIGKILL).map_err(|errno| format!("{role}: {errno}"))?;
        recovers(&server, &enforcement).map_err(|error| format!("{role}: {error}: {}", last_lines(&server.log())))
    });
    ended.extend(processes(&server));
    server.signal(Signal::SIGTERM);
    let deadline = Instant::now() + PATIENCE;
    while is_alive(server.pid()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Nobody else can wait for it before.
    let ((), trace) = tracer.stop();
    let struck = &trace.struck;
    lived.map_err(|error| format!("{error}: {struck:?}"))?;
    ended.extend(&trace.processes);
    let left = left_of(&ended);
    if left.is_empty() { Ok((server, trace)) } else { Err(format!("left over: {left:?}: {struck:?}")) }
}

/// The groups that nobody sweeps of the processes that have ended. One who did may have been killed at it, as supervisors
/// are here: then the next one does.
fn left_of(ended: &[i32]) -> Vec<PathBuf> {
    let left = || ended.iter().flat_map(|pid| groups_of(*pid as u32)).collect::<Vec<_>>();
    if !left().is_empty() {
        run(&["--rootfs", "host", "--", "true"]);
    }
    left()
}

fn start() -> Option<Server> {
    let server = Server::with_config(CONFIG)?;
    for _ in 0..2 {
        server.execute(&hello());
    }
    Some(server)
}

fn hello() -> Value {
    json!({"language": "bash", "code": "echo hello"})
}

/// The processes that serve.
fn processes(server: &Server) -> Vec<i32> {
    ["front", "supervisor"].iter().flat_map(|role| children_named(server.pid(), role)).collect()
}

/// A request while `role` is traced: status and body of the answer, if there was a whole one.
fn traced_request(server: &Server, role: &'static str, fault: Option<Fault>) -> (Option<(u16, String)>, Trace) {
    let [process] = children_named(server.pid(), role)[..] else { panic!("one {role}: {}", server.log()) };
    let tracer = tracer::attach(process, role, fault);
    let answer = request(server);
    // What is done behind the answer belongs to it: the end of the cell, the next cell, the history.
    tracer.settle();
    (answer, tracer.stop().1)
}

/// Status and body of the answer; `None` when the connection did not hold.
fn request(server: &Server) -> Option<(u16, String)> {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE / 2));
    let agent: ureq::Agent = config.build().into();
    let request = agent.post(server.url("/api/execute")).header("content-type", "application/json");
    let mut response = request.send(hello().to_string()).ok()?;
    let body = response.body_mut().read_to_string().ok()?;
    Some((response.status().as_u16(), body))
}

/// What became of a request, if it is one of the things that may: a whole answer, or an error that names something.
fn judge(answer: Option<(u16, String)>, enforcement: &Value, role: &str) -> Ending {
    let Some((status, body)) = answer else {
        // Nobody can be answered over a connection that the front could not take, read or write.
        return if role == "front" { Ok("hung up") } else { Err("no answer".to_owned()) };
    };
    let said = || format!("{status}: {body}");
    let answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {}", said()))?;
    match status {
        200 if is_whole(&answer, enforcement) => Ok("changed nothing"),
        429 | 500 | 503 => {
            let named = answer["error"]["code"].is_string()
                && answer["error"]["message"].as_str().is_some_and(|text| !text.is_empty());
            if named { Ok("refused") } else { Err(said()) }
        }
        _ => Err(said()),
    }
}

fn is_whole(answer: &Value, enforcement: &Value) -> bool {
    answer["status"] == "ok" && answer["stdout"] == "hello\n" && answer["enforcement"] == *enforcement
}

/// The fault is spent: requests succeed again, at once or after a restart of what it ended.
fn recovers(server: &Server, enforcement: &Value) -> Result<(), String> {
    let (mut last, deadline) = (None, Instant::now() + RECOVERY_TIME_MAX);
    while Instant::now() < deadline {
        last = request(server);
        let whole = last.as_ref().and_then(|(_, body)| serde_json::from_str::<Value>(body).ok());
        if whole.is_some_and(|answer| is_whole(&answer, enforcement)) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("it does not recover: {last:?}"))
}

/// What a process that ended has left is swept by those that came after it.
fn swept(server: &Server, before: &[i32], after: &[i32]) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE / 2;
    let gone: Vec<_> = before.iter().filter(|process| !after.contains(process)).copied().collect();
    while gone.iter().any(|process| !groups_of(*process as u32).is_empty()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = left_of(&gone);
    if left.is_empty() { Ok(()) } else { Err(format!("left over: {left:?}: {}", server.log())) }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
