//! The start of the service with each of its system calls failing once: of the process that starts the others, of the
//! front and of the supervisor until the service is ready.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Output;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::{PATIENCE, free_address, groups_of, has_image, is_alive, is_root, sandboxd, text};
use crate::sweep::{Ending, NEVER_MADE, faults_of, sweep};
use crate::tracer::{self, Fault, Trace};

#[test]
fn a_service_whose_start_fails_says_why_or_serves_and_leaves_nothing() {
    if !is_root() || !has_image("base") {
        return;
    }
    // The first one sweeps what others have left on this machine.
    let started = start(None).and_then(|_| start(None)).expect("a start without a fault");
    assert!(started.served, "{}", text(&started.output.stderr));
    for role in ["serve", "front", "supervisor"] {
        assert!(started.trace.points.iter().any(|(point, _)| point.role == role), "{role} starts");
    }
    sweep("start", &faults_of(started.trace.points), 2, "said why it does not start", |fault| {
        let started = start(Some(*fault))?;
        let Some(struck) = &started.trace.struck else { return Ok(NEVER_MADE) };
        judge(&started).map_err(|error| format!("{error}\n  {struck}"))
    });
}

struct Started {
    /// Whether it became ready.
    served: bool,
    output: Output,
    trace: Trace,
}

/// What became of the start, if it is one of the things that may.
fn judge(started: &Started) -> Ending {
    let log = text(&started.output.stderr);
    let said = || format!("{:?}: {}", started.output.status, log.lines().rev().take(6).collect::<Vec<_>>().join("\n"));
    if log.contains("panicked") || log.contains("left over") {
        return Err(said());
    }
    // A front answers a moment before its parent hears that it does.
    let served = started.served && !log.contains("error: the front did not start");
    match (served, started.output.status.code()) {
        (true, Some(0)) => Ok("served"),
        (false, Some(code)) if code != 0 && log.lines().any(|line| line.starts_with("error: ") && line.len() > 10) => {
            Ok("said why it does not start")
        }
        _ => Err(said()),
    }
}

/// Starts a service, waits until it serves or has ended, and ends it; nothing may be left.
fn start(fault: Option<Fault>) -> Result<Started, String> {
    let directory = crate::harness::state_directory();
    let mut config = tempfile::NamedTempFile::new().expect("a temporary file");
    config.write_all(b"[service]\nsupervisors = 1\n").expect("the file is written");
    let address = free_address();
    let mut command = sandboxd();
    command.args(["serve", "--listen", &address.to_string(), "--config"]).arg(config.path());
    command.arg("--state-dir").arg(directory.path().join("state"));
    let tracer = tracer::start(&command, "serve", fault);
    let deadline = Instant::now() + PATIENCE / 2;
    let mut served = false;
    while !served && is_alive(tracer.root()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
        served = is_ready(address);
    }
    let (running, trace) = tracer.stop();
    if served {
        running.signal(Signal::SIGTERM);
    } else if Instant::now() >= deadline {
        running.signal(Signal::SIGKILL);
        return Err(format!("neither ready nor over: {:?}: {}", trace.struck, text(&running.end().0.stderr)));
    }
    // A process that its parent could not get hold of leaves by itself, and nobody waits for it.
    while !running.processes().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (output, mut left) = running.end();
    left.extend(trace.processes.iter().flat_map(|pid| groups_of(*pid as u32)).map(|group| group.display().to_string()));
    if left.is_empty() {
        Ok(Started { served, output, trace })
    } else {
        Err(format!("left over: {left:?}: {:?}: {}", trace.struck, text(&output.stderr)))
    }
}

fn is_ready(address: SocketAddr) -> bool {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(2)));
    let agent: ureq::Agent = config.build().into();
    agent.get(format!("http://{address}/api/health/ready")).call().is_ok_and(|reply| reply.status() == 200)
}
