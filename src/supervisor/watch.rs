//! Watching one running cell until everything in it is dead.
//!
//! What can end a cell: its payload's end (init reports and leaves), a limit (wall clock, CPU time, memory where the
//! kernel does not kill the whole cell itself), or its owner. Every one of them is SIGKILL to init or init's own exit,
//! and shows on init's pidfd once the last process is gone.

use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::PAYLOAD_SIGNALS;
use crate::plan::{CellPlan, CommandOwner, FilesOut};
use crate::sandbox::cell::{Cell, CellError, StepFailure, trace_time};
use crate::sandbox::cgroup::{CgroupError, Usage};
use crate::sandbox::report::Report;
use crate::sandbox::seccomp::syscall_name;
use crate::sandbox::sequence::SEQUENCE;
use crate::sandbox::sys;
use crate::words::causes::chain;
use crate::words::host::CgroupKind;
use crate::words::verdict::{DeniedSyscall, Exit, Outcome, Stop};

/// Longest time from the start of a cell to its payload's exec: what it does is a few dozen system calls.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Shortest and longest pause between two looks at the CPU clock.
const CPU_LOOK_MIN: Duration = Duration::from_millis(5);
const CPU_LOOK_MAX: Duration = Duration::from_secs(1);
/// Pause between two looks at the count of kills, after the kernel has said that memory is out.
const OOM_PAUSE: Duration = Duration::from_millis(1);
/// Pause between two looks where no kernel limit stands behind them.
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// A cell being watched.
pub struct Watch<'a> {
    cell: Cell,
    workdir: Option<OwnedFd>,
    plan: &'a CellPlan,
    outcome: Outcome,
    failure: Option<CellError>,
    /// When the payload's program was executed, by the kernel's and by our clock; CPU time of init by then.
    started: Option<(u64, Instant)>,
    ended_ns: Option<u64>,
    init_cpu_ns: u64,
    next_look: Option<Instant>,
    /// Errors of a cleanup that is done already.
    cleanup: Vec<String>,
    signals: Option<mpsc::Receiver<i32>>,
    /// Told when the program has started.
    told: Option<&'a Notify>,
}

/// Watches a duplicate, so that the cell itself stays free to be asked and killed meanwhile.
fn readable(descriptor: BorrowedFd) -> io::Result<AsyncFd<OwnedFd>> {
    sys::watch(descriptor.try_clone_to_owned()?, Interest::READABLE)
}

impl<'a> Watch<'a> {
    /// Watches `cell`, which has been given its program.
    pub fn new(cell: Cell, plan: &'a CellPlan) -> Watch<'a> {
        Watch {
            cell,
            workdir: None,
            plan,
            outcome: Outcome::default(),
            failure: None,
            started: None,
            ended_ns: None,
            init_cpu_ns: 0,
            next_look: None,
            cleanup: Vec::new(),
            signals: None,
            told: None,
        }
    }

    /// Hands on to the program the signals that come out of `signals`, once it has started; only those of
    /// [`PAYLOAD_SIGNALS`].
    pub fn with_signals(self, signals: mpsc::Receiver<i32>) -> Watch<'a> {
        Watch { signals: Some(signals), ..self }
    }

    /// Tells `told` when the program has started.
    pub fn telling(self, told: &'a Notify) -> Watch<'a> {
        Watch { told: Some(told), ..self }
    }

    /// Waits for the end of the run; `stop` may bring it before its time. Returns as soon as the facts (without output)
    /// are known and final: with a payload that leaves no process behind that is when it has ended, and the kernel still
    /// takes the cell apart. [`Watch::destroy`] then waits for that.
    ///
    /// # Errors
    /// A step of the sequence failed, or the cell could not be watched; it is destroyed as this is dropped.
    pub async fn run(&mut self, stop: impl Future<Output = Stop>) -> Result<Outcome, CellError> {
        let watched = self.until_over(stop).await;
        self.take_reports();
        let over = watched.map_err(|error| CellError::new("watch", error))?;
        let usage = match over {
            Over::Facts => self.cell.usage(),
            Over::Dead => {
                let usage = self.final_usage();
                self.cleanup = self.finish();
                usage
            }
        };
        self.conclude(usage)
    }

    /// Waits until the cell is dead and destroys it; the errors of the cleanup.
    pub async fn destroy(&mut self) -> Vec<String> {
        if self.cell.is_alive() {
            // init leaves by itself; this holds whatever it does. A cell that cannot be waited for here is below.
            self.cell.kill();
            if let Ok(dead) = readable(self.cell.pidfd()) {
                let _dead = dead.readable().await;
            }
            self.trace_end();
        }
        let mut cleanup = std::mem::take(&mut self.cleanup);
        cleanup.extend(self.finish());
        cleanup
    }

    /// How long the kernel has taken the cell apart, which is dead now.
    fn trace_end(&self) {
        if let Some(ended_ns) = self.ended_ns {
            trace_time("kernel", "end_cell", sys::monotonic_ns().saturating_sub(ended_ns));
        }
    }

    /// What the cell used up to its death, which is waited for.
    fn final_usage(&mut self) -> Result<Usage, CgroupError> {
        self.cell.end();
        self.cell.usage()
    }

    fn finish(&mut self) -> Vec<String> {
        self.cell.finish().iter().map(|error| chain(error)).collect()
    }

    /// The facts of a cell that is over, with what it used.
    fn conclude(&mut self, usage: Result<Usage, CgroupError>) -> Result<Outcome, CellError> {
        let mut outcome = std::mem::take(&mut self.outcome);
        if let Some(failure) = self.failure.take() {
            outcome = Watch::judge_failure(self.plan, outcome, failure)?;
        }
        // Whether memory ran out is part of it: without these facts there is no verdict.
        let usage = usage.map_err(|error| CellError::new("read_usage", error))?;
        if let Some((started_ns, at)) = self.started {
            outcome.wall_time = match self.ended_ns {
                Some(ended_ns) => Duration::from_nanos(ended_ns.saturating_sub(started_ns)),
                None => at.elapsed(),
            };
        } else if outcome.stop.is_none() && outcome.exec_errno.is_none() && usage.oom_kills == 0 {
            let message = "init ended without a report".to_owned();
            return Err(CellError::new("start_payload", StepFailure::Message(message)));
        }
        // What init itself used before the program ran is ours, not the run's.
        let counted = usage.cpu_time.saturating_sub(Duration::from_nanos(self.init_cpu_ns));
        outcome.cpu_time = outcome.cpu_time.max(counted);
        outcome.memory_peak_bytes = outcome.memory_peak_bytes.max(usage.memory_peak_bytes);
        outcome.processes_peak = usage.processes_peak.unwrap_or(2).saturating_sub(1).max(1);
        outcome.oom_kills = outcome.oom_kills.max(usage.oom_kills);
        outcome.process_limit_hits = usage.process_limit_hits;
        Ok(outcome)
    }

    /// The work directory of a compile step, once the cell is dead.
    pub fn take_workdir(&mut self) -> Option<OwnedFd> {
        self.workdir.take()
    }

    /// A program that cannot be executed is a verdict when its author named or made it, else our failure.
    fn judge_failure(plan: &CellPlan, mut outcome: Outcome, failure: CellError) -> Result<Outcome, CellError> {
        let execute = SEQUENCE.last().map(|step| step.name);
        match failure.errno().filter(|_| Some(failure.step) == execute) {
            Some(errno) if plan.command.owner == CommandOwner::Author => {
                // The shell's convention: 127 for what is not there, 126 for what cannot be executed.
                let code = if errno == Errno::ENOENT { 127 } else { 126 };
                outcome.exit = Some(Exit::Code(code));
                outcome.exec_errno = Some(errno as i32);
                Ok(outcome)
            }
            Some(errno) => {
                let program = plan.command.arguments.first().map(|first| first.to_string_lossy().into_owned());
                let what = program.unwrap_or_default();
                Err(CellError::new(failure.step, StepFailure::File { what, errno }))
            }
            None => Err(failure),
        }
    }

    /// Returns as soon as the facts are final; those of a cell that files come out of never are before its death, because
    /// its work directory is read then.
    async fn until_over(&mut self, stop: impl Future<Output = Stop>) -> io::Result<Over> {
        let early = self.plan.files_out == FilesOut::None;
        let control = readable(self.cell.control())?;
        let dead = readable(self.cell.pidfd())?;
        let out_of_memory = self.cell.oom_event().map(readable).transpose()?;
        let mut deadline = Instant::now() + START_TIME_MAX;
        let mut hung_up = false;
        let mut memory_is_out = false;
        let mut signals = self.signals.take();
        tokio::pin!(stop);
        let mut stopped = false;
        loop {
            let look = self.next_look;
            tokio::select! {
                biased;
                // Unless there is a hurry only the start is waited for: what init reports later is read when something
                // else happens, and at the latest when the cell is dead.
                ready = control.readable(), if !hung_up && (early || self.started.is_none()) => {
                    ready?.clear_ready();
                    let waiting = self.started.is_none();
                    hung_up = !self.take_reports();
                    if early && self.ended_ns.is_some() && self.cell.is_over() {
                        return Ok(Over::Facts);
                    }
                    if waiting && let Some((_, at)) = self.started {
                        deadline = at + self.plan.limits.wall_time;
                        self.next_look = Some(at + self.pause_for(self.plan.limits.cpu_time));
                    }
                }
                ready = dead.readable() => {
                    ready?.retain_ready();
                    self.trace_end();
                    return Ok(Over::Dead);
                }
                // v1 tells first, then kills and counts; the count is what the verdict shows, so it is waited for.
                () = next_event(out_of_memory.as_ref()), if !memory_is_out => memory_is_out = true,
                () = sleep(OOM_PAUSE), if memory_is_out && self.outcome.stop.is_none() => {
                    if self.cell.oom_kills().unwrap_or(0) > 0 {
                        self.stop(Stop::Memory);
                    }
                }
                reason = &mut stop, if !stopped => {
                    stopped = true;
                    self.stop(reason);
                }
                signal = next_signal(&mut signals), if self.started.is_some() => self.signal(signal),
                () = sleep_until(deadline), if self.outcome.stop.is_none() => {
                    if self.started.is_none() {
                        let message = format!("the payload did not start within {START_TIME_MAX:?}");
                        self.failure.get_or_insert(CellError::new("start_payload", StepFailure::Message(message)));
                    }
                    self.stop(Stop::WallTime);
                }
                () = async { if let Some(at) = look { sleep_until(at).await } }, if look.is_some() && self.outcome.stop.is_none() => {
                    self.look();
                }
            }
        }
    }

    /// Ends the cell for `reason`, unless its payload has ended by itself already.
    fn stop(&mut self, reason: Stop) {
        // A report of the payload's end that is there already wins over any limit.
        self.take_reports();
        if self.ended_ns.is_none() && self.outcome.stop.is_none() {
            self.outcome.stop = Some(reason);
        }
        self.cell.kill();
    }

    fn signal(&self, signal: i32) {
        let sent = if PAYLOAD_SIGNALS.contains(&signal) { self.cell.signal(signal) } else { Err(Errno::EINVAL) };
        if let Err(errno) = sent {
            // ESRCH: it has ended meanwhile, which its report will tell.
            tracing::debug!(signal, %errno, "a signal did not reach the program");
        }
    }

    /// Looks at the CPU clock, and at memory where nobody else does.
    fn look(&mut self) {
        let used =
            self.cell.cpu_time().unwrap_or(Duration::ZERO).saturating_sub(Duration::from_nanos(self.init_cpu_ns));
        if used >= self.plan.limits.cpu_time {
            self.stop(Stop::CpuTime);
            self.next_look = None;
            return;
        }
        if self.plan.cgroup == CgroupKind::None && self.cell.memory_peak_bytes() > self.plan.limits.memory_bytes {
            self.outcome.oom_kills = 1;
            self.stop(Stop::Memory);
            self.next_look = None;
            return;
        }
        self.next_look = Some(Instant::now() + self.pause_for(self.plan.limits.cpu_time - used));
    }

    /// The earliest time at which `left` of CPU time could be used up.
    fn pause_for(&self, left: Duration) -> Duration {
        if self.plan.cgroup == CgroupKind::None {
            return POLL_PAUSE;
        }
        // The quota is the greatest speed; quota is granted by the period, hence the floor at one core.
        left.div_f64(self.plan.limits.cpu_rate.max(1.0)).clamp(CPU_LOOK_MIN, CPU_LOOK_MAX)
    }

    /// Takes every report that is there; false once init has hung up.
    fn take_reports(&mut self) -> bool {
        loop {
            match self.cell.next_report() {
                Ok(Some((report, descriptor))) => self.take(report, descriptor),
                Ok(None) => return true,
                Err(Errno::ENOTCONN) => return false,
                // What was not read may say anything: how the payload ended, or that a lock was not shut.
                Err(errno) => {
                    self.failure.get_or_insert(CellError::new("read_report", errno));
                    self.cell.kill();
                    return false;
                }
            }
        }
    }

    fn take(&mut self, report: Report, descriptor: Option<OwnedFd>) {
        match report {
            Report::Prepared => {}
            Report::Workdir => self.workdir = descriptor,
            Report::Started { at_ns, init_cpu_ns } => {
                self.started = Some((at_ns, Instant::now()));
                if let Some(told) = self.told {
                    told.notify_one();
                }
                self.init_cpu_ns = init_cpu_ns;
            }
            Report::Failed { step, errno } => {
                self.failure.get_or_insert(CellError::of_report(step, errno));
            }
            Report::Denied { number, count } => {
                let name = syscall_name(number);
                match self.outcome.denied_syscalls.iter_mut().find(|denied| denied.name == name) {
                    Some(denied) => denied.count = denied.count.max(count),
                    None => self.outcome.denied_syscalls.push(DeniedSyscall { name: name.into_owned(), count }),
                }
            }
            Report::Timed { step, nanoseconds } => {
                if let Some(step) = SEQUENCE.get(usize::from(step)) {
                    trace_time(step.act.actor(), step.name, nanoseconds);
                }
            }
            Report::Ended { status, at_ns, init_cpu_ns, reaped_cpu_ns, reaped_memory_bytes } => {
                self.outcome.exit = Some(exit_of(status));
                if self.plan.cgroup == CgroupKind::None {
                    self.outcome.cpu_time = self.outcome.cpu_time.max(Duration::from_nanos(reaped_cpu_ns));
                    self.outcome.memory_peak_bytes = self.outcome.memory_peak_bytes.max(reaped_memory_bytes);
                }
                self.ended_ns = Some(at_ns);
                self.init_cpu_ns = init_cpu_ns;
            }
        }
    }
}

/// What there is no more of.
enum Over {
    /// The facts are final.
    Facts,
    /// The cell is dead.
    Dead,
}

/// Completes when the kernel says that the cell is out of memory; never, where it does not say so.
async fn next_event(out_of_memory: Option<&AsyncFd<OwnedFd>>) {
    match out_of_memory {
        Some(event) => drop(event.readable().await),
        None => std::future::pending().await,
    }
}

/// The next signal for the program; never, when none will come.
async fn next_signal(signals: &mut Option<mpsc::Receiver<i32>>) -> i32 {
    if let Some(receiver) = signals {
        if let Some(signal) = receiver.recv().await {
            return signal;
        }
        *signals = None;
    }
    std::future::pending().await
}

fn exit_of(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) { Exit::Signal(libc::WTERMSIG(status)) } else { Exit::Code(libc::WEXITSTATUS(status)) }
}
