//! `sandboxd run` with each of its system calls failing once: its own, its thread's, init's and the payload's.

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::Value;

use crate::common::{PATIENCE, is_root, sandboxd, text};
use crate::sweep::{Ending, NEVER_MADE, faults_of, sweep};
use crate::tracer::{self, Fault, Trace};

#[test]
fn a_run_whose_system_calls_fail_ends_with_the_reason_or_is_as_strict_as_planned() {
    if !is_root() {
        return;
    }
    // The first one sweeps what others have left on this machine.
    let (output, control) = traced_run(None).and_then(|_| traced_run(None)).expect("a run without a fault");
    let planned = serde_json::from_slice::<Value>(&output.stdout).expect("an answer");
    assert_eq!((&planned["status"], &planned["stdout"]), (&"ok".into(), &"hello\n".into()), "{planned}");
    let [facts] = &control.facts[..] else { panic!("one program is executed: {:?}", control.facts) };
    let roles: BTreeSet<_> = control.points.iter().map(|(point, _)| point.role).collect();
    assert_eq!(roles, BTreeSet::from(["init", "payload", "run", "the thread of run"]));
    sweep("run", &faults_of(control.points), 2, ENDED, |fault| {
        let (output, trace) = traced_run(Some(*fault))?;
        let Some(struck) = trace.struck else { return Ok(NEVER_MADE) };
        let judged = weaker(&trace.facts, facts).and_then(|()| judge(&output, &planned["enforcement"]));
        let judged = judged.and_then(|ending| match (ending, trace.facts.is_empty()) {
            (CHANGED_NOTHING, true) => Err("nothing was executed".to_owned()),
            _ => Ok(ending),
        });
        judged.map_err(|error| format!("{error}\n  {struck}"))
    });
}

const ENDED: &str = "ended the run";
const CHANGED_NOTHING: &str = "changed nothing";

/// What became of a run, if it is one of the things that may: exit 125 and a reason, or a whole answer.
fn judge(output: &Output, enforcement: &Value) -> Ending {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let said = || format!("{:?}: {stdout} {stderr}", output.status);
    if stderr.contains("panicked") || stderr.contains("left over") {
        return Err(said());
    }
    if output.status.code() == Some(125) {
        let reason = stderr.lines().find_map(|line| line.strip_prefix("error: "));
        return if reason.is_some_and(|reason| reason.contains(": ")) { Ok(ENDED) } else { Err(said()) };
    }
    let answer = serde_json::from_slice::<Value>(&output.stdout).map_err(|error| format!("{error}: {}", said()))?;
    if answer["enforcement"] != *enforcement {
        return Err(said());
    }
    match (answer["status"].as_str(), output.status.code()) {
        (Some("ok"), Some(0)) if answer["stdout"] == "hello\n" => Ok(CHANGED_NOTHING),
        // What is executed is the program's, and so is that it cannot be.
        (Some("nonzero_exit"), Some(126)) if answer["stdout"] == "" => Ok("stopped the exec"),
        _ => Err(said()),
    }
}

/// An error if any program was executed with other `facts` than these.
pub fn weaker(found: &[String], facts: &str) -> Result<(), String> {
    let other = |found: &&String| found.as_str() != facts;
    found.iter().find(other).map_or(Ok(()), |other| {
        let (lines, planned): (BTreeSet<_>, BTreeSet<_>) = (other.lines().collect(), facts.lines().collect());
        let found: Vec<_> = lines.difference(&planned).collect();
        Err(format!("it ran with {found:?} in place of {:?}", planned.difference(&lines).collect::<Vec<_>>()))
    })
}

/// A run of which nothing may be left.
fn traced_run(fault: Option<Fault>) -> Result<(Output, Trace), String> {
    let mut command = sandboxd();
    command.args(["run", "--rootfs", "host", "--json", "--", "echo", "hello"]);
    let (running, trace) = tracer::start(&command, "run", fault).wait(PATIENCE / 2)?;
    let (output, left) = running.end();
    if left.is_empty() { Ok((output, trace)) } else { Err(format!("left over: {left:?}: {:?}", trace.struck)) }
}
