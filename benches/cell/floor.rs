//! What all cores together reach with nothing of a cell but its namespaces and its root, against bare forks: whatever
//! else is done for a run, on its way over HTTP or in its cell, no more of them can be had from this kernel.

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use sandboxd::sandbox::sys::monotonic_ns;

use crate::measure::Row;
use crate::{Bench, Outcome, TRUE, fork_and_execute, namespaces_alone, null};

/// The word by which a worker is started.
pub const WORKER: &str = "worker";
const BARE: &str = "bare";
const NAMESPACES: &str = "namespaces";

const TURNS: usize = 5;
const SLICE: Duration = Duration::from_secs(1);
/// Until all workers of a turn have set themselves up.
const LEAD: Duration = Duration::from_millis(500);

pub fn section() -> Outcome {
    let (mut bare, mut namespaces) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        bare.push(rate(BARE)?);
        namespaces.push(rate(NAMESPACES)?);
    }
    let peer = ("bare fork+exec+wait", bare);
    Ok(vec![Row::of_rates("namespaces and root alone, one process per core", namespaces, peer, None)])
}

/// How many of `what` as many processes as there are cores do in a second.
fn rate(what: &str) -> Result<f64, Box<dyn std::error::Error>> {
    let begin_ns = monotonic_ns() + LEAD.as_nanos() as u64;
    let workers = std::thread::available_parallelism()?.get();
    let start = || {
        Command::new(std::env::current_exe()?)
            .args([WORKER, what, &begin_ns.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
    };
    let workers = (0..workers).map(|_| start()).collect::<std::io::Result<Vec<_>>>()?;
    let mut done = 0;
    for worker in workers {
        let output = worker.wait_with_output()?;
        done += String::from_utf8_lossy(&output.stdout).trim().parse::<u64>()?;
    }
    Ok(done as f64 / SLICE.as_secs_f64())
}

/// Does `what` over and over from `begin_ns` on, for a slice; prints how often it was done.
pub fn worker(what: &str, begin_ns: &str) -> ExitCode {
    let work = || -> Result<u64, Box<dyn std::error::Error>> {
        let begin_ns: u64 = begin_ns.parse()?;
        let end_ns = begin_ns + SLICE.as_nanos() as u64;
        let count = |act: &mut dyn FnMut()| {
            std::thread::sleep(Duration::from_nanos(begin_ns.saturating_sub(monotonic_ns())));
            let mut done = 0;
            while monotonic_ns() < end_ns {
                act();
                done += 1;
            }
            done
        };
        if what == BARE {
            return Ok(count(&mut || fork_and_execute(c"/usr/bin/true")));
        }
        let mut bench = Bench::new(&[TRUE])?;
        let (start, null, floor) = (bench.start_message(), null()?, namespaces_alone(&bench.plan.run));
        Ok(count(&mut || bench.cell_of(&floor, &start, &null)))
    };
    match work() {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{what}: {error}");
            ExitCode::FAILURE
        }
    }
}
