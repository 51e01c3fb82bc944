//! A sweep: each fault once, and what became of it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::errno::Errno;

use crate::tracer::{Fault, Point};

/// How many faults a sweep passes over for each that it tries, where the environment does not say.
const STRIDE_DEFAULT: usize = 41;

/// For looking into one thing: calls whose name has this in it, as `openat 7 of init`, and every ending is told.
const ONLY: &str = "FAULT_ONLY";

/// How often a call is waited for that is not made every time.
const ATTEMPTS_MAX: usize = 3;

/// What a fault led to, in a word for the count.
pub type Ending = Result<&'static str, String>;

/// Faults at each of `points` by each error there is for it, or those of them that this run of the tests tries.
pub fn faults_of(points: impl IntoIterator<Item = (Point, &'static [Errno])>) -> Vec<Fault> {
    let stride = std::env::var("FAULT_STRIDE").ok();
    let stride = stride.map_or(STRIDE_DEFAULT, |stride| stride.parse().expect("FAULT_STRIDE is a number"));
    let only = std::env::var(ONLY).unwrap_or_default();
    let each =
        |(point, errnos): (Point, &'static [Errno])| errnos.iter().map(move |errno| Fault { point, errno: *errno });
    let faults = points.into_iter().filter(|(point, _)| point.to_string().contains(&only)).flat_map(each);
    faults.step_by(stride).collect()
}

/// Tries each fault, `workers` at a time, and fails if any ended as none may. Some end as `telling` says.
pub fn sweep(what: &str, faults: &[Fault], workers: usize, telling: &str, attempt: impl Fn(&Fault) -> Ending + Sync) {
    let (began, next) = (Instant::now(), AtomicUsize::new(0));
    let (counts, wrong) = (Mutex::new(BTreeMap::<&str, usize>::new()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Threads take turns, and whoever waits may do so once more or less.
                    let mut endings = std::iter::repeat_with(|| caught(&attempt, fault)).take(ATTEMPTS_MAX);
                    let ending = endings.find(|ending| *ending != Ok(NEVER_MADE));
                    match ending.unwrap_or(Ok(NEVER_MADE)) {
                        Ok(ending) => {
                            *counts.lock().unwrap().entry(ending).or_default() += 1;
                            if is_tried_alone() {
                                println!("{}: {}: {ending}", fault.point, fault.errno);
                            }
                        }
                        Err(error) => {
                            println!("{}: {}: {error}", fault.point, fault.errno);
                            wrong.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (counts, wrong) = (counts.into_inner().unwrap(), wrong.into_inner());
    println!("{what}: {} faults in {:.0?}: {counts:?}", faults.len(), began.elapsed());
    assert!(wrong == 0, "{what}: {wrong} faults of {} ended as none may; told above", faults.len());
    if !is_tried_alone() {
        // Or nothing fails at all.
        assert!(counts.contains_key(telling), "{what}: no fault {telling}");
        let never = counts.get(NEVER_MADE).copied().unwrap_or_default();
        assert!(never * 2 <= faults.len(), "{what}: {never} of {} calls were never made", faults.len());
    }
}

fn is_tried_alone() -> bool {
    std::env::var_os(ONLY).is_some()
}

/// An attempt whose own assertions are errors like others.
fn caught(attempt: &impl Fn(&Fault) -> Ending, fault: &Fault) -> Ending {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(fault))).unwrap_or_else(|panic| {
        Err(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".to_owned()))
    })
}

/// The ending of a fault whose call was not made this time.
pub const NEVER_MADE: &str = "never made";
