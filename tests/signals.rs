//! Signals that the front sends to a running program.

mod common;

use std::io::Read as _;
use std::time::{Duration, Instant};

use common::front::{Front, bundle, shell};
use common::{children_of, is_root};
use sandboxd::supervisor::PAYLOAD_SIGNALS;
use sandboxd::supervisor::protocol::{ToSupervisor, encode};

fn send(front: &Front, job: u64, signal: i32) {
    front.send(&encode(&ToSupervisor::Signal { job, signal }).unwrap(), &[]);
}

#[track_caller]
fn read_up_to(stream: &mut std::fs::File, end: &str) {
    let mut said = String::new();
    while !said.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {said:?}"));
        said.push(byte[0] as char);
    }
}

/// The program's first process, and the letter of its state; of the one job that runs.
fn payload(front: &Front) -> Option<(i32, char)> {
    let inits = children_of(front.process.id() as i32);
    let payload = inits.iter().find_map(|init| children_of(*init).first().copied())?;
    let stat = std::fs::read_to_string(format!("/proc/{payload}/stat")).ok()?;
    Some((payload, stat.rsplit_once(") ")?.1.chars().next()?))
}

#[track_caller]
fn wait_for_state(front: &Front, wanted: fn(char) -> bool) {
    let deadline = Instant::now() + common::PATIENCE;
    while !payload(front).is_some_and(|(_, state)| wanted(state)) {
        assert!(Instant::now() < deadline, "{:?}", payload(front));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_program_gets_the_signals_it_is_sent_and_what_it_runs_gets_them_too() {
    if !is_root() {
        return;
    }
    let front = Front::start();
    let script = "trap 'echo interrupted' INT; trap 'echo told; exit 9' USR1; echo up\nsleep 60; echo $?; sleep 60";
    let mut stdout = front.start_job(shell(1, script), &bundle(b"", true));
    read_up_to(&mut stdout, "up\n");
    // So that the signal meets both: the shell runs its trap once sleep, which it waits for, has died of it.
    wait_for_state(&front, |state| state == 'S');
    std::thread::sleep(Duration::from_millis(100));
    send(&front, 1, libc::SIGINT);
    read_up_to(&mut stdout, "interrupted\n130\n");
    std::thread::sleep(Duration::from_millis(100));
    send(&front, 1, libc::SIGUSR1);
    read_up_to(&mut stdout, "told\n");
    let (_, outcome) = front.ended();
    assert_eq!((outcome.exit_code, outcome.exit_signal, outcome.stop), (Some(9), None, None));
}

#[test]
fn a_stopped_program_goes_on_and_a_killed_one_is_signaled() {
    if !is_root() {
        return;
    }
    let front = Front::start();
    let mut stdout = front.start_job(shell(1, "echo up; exec sleep 60"), &bundle(b"", true));
    read_up_to(&mut stdout, "up\n");
    send(&front, 1, libc::SIGSTOP);
    wait_for_state(&front, |state| state == 'T');
    send(&front, 1, libc::SIGCONT);
    wait_for_state(&front, |state| state == 'S');
    send(&front, 1, libc::SIGKILL);
    let (_, outcome) = front.ended();
    assert_eq!((outcome.exit_signal, outcome.stop, outcome.oom_kills), (Some(libc::SIGKILL), None, 0));
}

#[test]
fn a_signal_that_comes_before_the_program_has_started_waits_for_it() {
    if !is_root() {
        return;
    }
    let front = Front::start();
    for job in 1..30 {
        front.start_job(shell(job, "exec sleep 60"), &bundle(b"", true));
        send(&front, job, libc::SIGTERM);
        let (ended, outcome) = front.ended();
        assert_eq!((ended, outcome.exit_signal, outcome.stop), (job, Some(libc::SIGTERM), None));
        assert!(outcome.wall_time_ns < 30_000_000_000, "{outcome:?}");
    }
}

#[test]
fn no_other_signal_and_no_other_process_is_reached() {
    if !is_root() {
        return;
    }
    let front = Front::start();
    for signal in (-1..=70).filter(|signal| !PAYLOAD_SIGNALS.contains(signal)) {
        send(&front, 1, signal);
        assert_eq!(front.refused().1, "signal", "{signal}");
    }
    // Nobody is there, and nobody gets it.
    send(&front, 1, libc::SIGKILL);
    let mut one = front.start_job(shell(1, "echo up; sleep 0.5; exit 3"), &bundle(b"", true));
    let mut two = front.start_job(shell(2, "setsid sleep 60 & echo up; exec sleep 60"), &bundle(b"", true));
    read_up_to(&mut one, "up\n");
    read_up_to(&mut two, "up\n");
    send(&front, 2, libc::SIGKILL);
    let (job, outcome) = front.ended();
    assert_eq!((job, outcome.exit_signal), (2, Some(libc::SIGKILL)));
    let (job, outcome) = front.ended();
    assert_eq!((job, outcome.exit_code), (1, Some(3)), "a neighbour's signal is not its own");
    send(&front, 2, libc::SIGKILL);
    front.start_job(shell(3, "exit 4"), &bundle(b"", true));
    assert_eq!(front.ended().1.exit_code, Some(4));
}
