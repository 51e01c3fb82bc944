//! What happened ([`Outcome`], facts) and what it means ([`Verdict`], by the pure function [`judge`]).

use std::time::Duration;

use super::limits::{Limits, format_size, format_time};

/// The facts of one cell's run, as the supervisor saw them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// How the payload's first process ended; `None` when it was killed together with its init.
    pub exit: Option<Exit>,
    /// Set when the supervisor ended the cell, to the reason it had.
    pub stop: Option<Stop>,
    /// The payload's command could not be executed: errno.
    pub exec_errno: Option<i32>,
    pub wall_time: Duration,
    pub cpu_time: Duration,
    pub memory_peak_bytes: u64,
    pub processes_peak: u32,
    /// Processes the kernel killed because the cell was out of memory.
    pub oom_kills: u64,
    /// Times a fork failed at the process limit.
    pub process_limit_hits: u64,
    pub denied_syscalls: Vec<DeniedSyscall>,
    pub output: OutputFacts,
}

/// How a process ended, as wait(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// Why the supervisor ended a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    WallTime,
    CpuTime,
    Memory,
    Output,
    Canceled,
}

/// A system call the filter denied, with how often (counted up to a bound).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedSyscall {
    pub name: String,
    pub count: u32,
}

/// What the collector saw of the two streams: bytes kept and bytes cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputFacts {
    pub stdout_bytes: u64,
    pub stderr_bytes: u64,
    pub stdout_truncated_bytes: u64,
    pub stderr_truncated_bytes: u64,
}

/// The status words of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    NonzeroExit,
    Signaled,
    CpuTimeExceeded,
    WallTimeExceeded,
    MemoryExceeded,
    OutputExceeded,
    SyscallDenied,
    CompileError,
    Canceled,
    SandboxError,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::NonzeroExit => "nonzero_exit",
            Status::Signaled => "signaled",
            Status::CpuTimeExceeded => "cpu_time_exceeded",
            Status::WallTimeExceeded => "wall_time_exceeded",
            Status::MemoryExceeded => "memory_exceeded",
            Status::OutputExceeded => "output_exceeded",
            Status::SyscallDenied => "syscall_denied",
            Status::CompileError => "compile_error",
            Status::Canceled => "canceled",
            Status::SandboxError => "sandbox_error",
        }
    }
}

/// Who ended the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KilledBy {
    Supervisor,
    /// The kernel's out-of-memory killer, at the cell's limit.
    KernelOom,
    /// The system call filter.
    Seccomp,
    /// A fault signal of the kernel (or the same signal raised by the program: wait(2) does not tell them apart).
    Kernel,
    /// A process of the cell.
    Payload,
}

impl KilledBy {
    pub fn word(self) -> &'static str {
        match self {
            KilledBy::Supervisor => "supervisor",
            KilledBy::KernelOom => "kernel_oom",
            KilledBy::Seccomp => "seccomp",
            KilledBy::Kernel => "kernel",
            KilledBy::Payload => "payload",
        }
    }
}

/// The limit that decided, its value and what was measured, in the unit its name ends with.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitEvidence {
    pub name: &'static str,
    pub value: f64,
    pub measured: f64,
}

/// What a run came to and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub status: Status,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub limit: Option<LimitEvidence>,
    pub killed_by: Option<KilledBy>,
    /// One sentence for a person.
    pub message: String,
    pub outcome: Outcome,
}

/// The meaning of the facts; pure, so that every row of it can be tested as a table.
///
/// The order matters: what the supervisor did is known for certain and comes first; then what the kernel counted; then
/// how the payload ended by itself. A program that kills itself with SIGKILL is `signaled`, never `memory_exceeded`.
pub fn judge(outcome: Outcome, limits: &Limits) -> Verdict {
    let (exit_code, signal) = match outcome.exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal(signal)) => (None, Some(signal)),
        None => (None, Some(libc::SIGKILL)),
    };
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let wall = || LimitEvidence {
        name: "wall_time_ms",
        value: milliseconds(limits.wall_time),
        measured: milliseconds(outcome.wall_time),
    };
    let cpu = || LimitEvidence {
        name: "cpu_time_ms",
        value: milliseconds(limits.cpu_time),
        measured: milliseconds(outcome.cpu_time),
    };
    let memory = || LimitEvidence {
        name: "memory_bytes",
        value: limits.memory_bytes as f64,
        measured: outcome.memory_peak_bytes as f64,
    };
    let decided = |status, limit, killed_by, message: String| (status, limit, Some(killed_by), message);
    let cpu_message =
        || format!("used {} ms of CPU time (limit {})", outcome.cpu_time.as_millis(), format_time(limits.cpu_time));
    let memory_message = || format!("went past {} of memory", format_size(limits.memory_bytes));

    let (status, limit, killed_by, message) = match (outcome.stop, outcome.exit) {
        (Some(Stop::Canceled), _) => decided(Status::Canceled, None, KilledBy::Supervisor, "canceled".to_owned()),
        (Some(Stop::WallTime), _) => {
            let message = format!("still running after {} (limit wall_time)", format_time(limits.wall_time));
            decided(Status::WallTimeExceeded, Some(wall()), KilledBy::Supervisor, message)
        }
        (Some(Stop::CpuTime), _) => decided(Status::CpuTimeExceeded, Some(cpu()), KilledBy::Supervisor, cpu_message()),
        (Some(Stop::Output), _) => {
            let (limit, message) = output_evidence(&outcome.output, limits);
            decided(Status::OutputExceeded, Some(limit), KilledBy::Supervisor, message)
        }
        // With a memory limit hit, SIGKILL (or the death of everything, init included) is the kernel's work.
        (Some(Stop::Memory), _) => {
            decided(Status::MemoryExceeded, Some(memory()), KilledBy::KernelOom, memory_message())
        }
        // Whatever the payload made of it: some kernels leave the rest of the cell to us, and a payload that ends before
        // we do has still lost a process to its memory limit.
        (None, _) if outcome.oom_kills > 0 => {
            decided(Status::MemoryExceeded, Some(memory()), KilledBy::KernelOom, memory_message())
        }
        (None, Some(Exit::Signal(libc::SIGXCPU))) if outcome.cpu_time >= limits.cpu_time => {
            decided(Status::CpuTimeExceeded, Some(cpu()), KilledBy::Kernel, cpu_message())
        }
        (None, Some(Exit::Signal(libc::SIGSYS))) => {
            let message = "killed for a system call of a foreign ABI".to_owned();
            decided(Status::SyscallDenied, None, KilledBy::Seccomp, message)
        }
        (None, Some(Exit::Signal(number))) => {
            let killed_by = match number {
                libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP | libc::SIGXFSZ => {
                    KilledBy::Kernel
                }
                _ => KilledBy::Payload,
            };
            let limit = (number == libc::SIGXFSZ).then_some(LimitEvidence {
                name: "file_bytes",
                value: limits.file_bytes as f64,
                measured: limits.file_bytes as f64,
            });
            (Status::Signaled, limit, Some(killed_by), format!("ended by {}", signal_name(number)))
        }
        (None, None) => {
            decided(Status::Signaled, None, KilledBy::Kernel, "the whole cell was killed from outside".to_owned())
        }
        (None, Some(Exit::Code(code))) => match (outcome.exec_errno, code) {
            (Some(errno), _) => {
                let message = format!("could not be executed: {}", errno_text(errno));
                (Status::NonzeroExit, None, None, message)
            }
            (None, 0) => (Status::Ok, None, None, "ok".to_owned()),
            (None, code) => (Status::NonzeroExit, None, None, format!("exit code {code}")),
        },
    };
    // A run that is merely told it hit the process limit keeps its own ending; the limit is named beside it.
    let limit = limit.or_else(|| {
        (outcome.process_limit_hits > 0).then_some(LimitEvidence {
            name: "processes",
            value: f64::from(limits.processes),
            measured: f64::from(outcome.processes_peak),
        })
    });
    Verdict { status, exit_code, signal, limit, killed_by, message, outcome }
}

fn output_evidence(output: &OutputFacts, limits: &Limits) -> (LimitEvidence, String) {
    let stdout = output.stdout_bytes + output.stdout_truncated_bytes;
    let stderr = output.stderr_bytes + output.stderr_truncated_bytes;
    let (name, value, measured) = if stdout > limits.stdout_bytes {
        ("stdout_bytes", limits.stdout_bytes, stdout)
    } else if stderr > limits.stderr_bytes {
        ("stderr_bytes", limits.stderr_bytes, stderr)
    } else {
        ("output_bytes", limits.output_bytes, stdout + stderr)
    };
    let message = format!("wrote more than {} (limit {name})", format_size(value));
    (LimitEvidence { name, value: value as f64, measured: measured as f64 }, message)
}

/// `SIGKILL` for 9; a number without a name is `SIG42`.
pub fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| format!("SIG{number}"), |signal| signal.as_str().to_owned())
}

/// `ENOENT: No such file or directory` for 2.
pub fn errno_text(errno: i32) -> String {
    let errno = nix::errno::Errno::from_raw(errno);
    format!("{errno:?}: {}", errno.desc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_combination_of_facts_has_one_meaning() {
        let limits = Limits::default();
        let base = Outcome::default;
        let exit = |code| Some(Exit::Code(code));
        let signal = |number| Some(Exit::Signal(number));
        let rows: Vec<(Outcome, Status, Option<KilledBy>)> = vec![
            (Outcome { exit: exit(0), ..base() }, Status::Ok, None),
            (Outcome { exit: exit(3), ..base() }, Status::NonzeroExit, None),
            // Exit codes that imitate signals stay exit codes.
            (Outcome { exit: exit(137), ..base() }, Status::NonzeroExit, None),
            // A shell that lost its child to the memory limit and ended before the whole cell was killed.
            (Outcome { exit: exit(137), oom_kills: 1, ..base() }, Status::MemoryExceeded, Some(KilledBy::KernelOom)),
            // A self-inflicted SIGKILL imitates neither memory nor time.
            (Outcome { exit: signal(libc::SIGKILL), ..base() }, Status::Signaled, Some(KilledBy::Payload)),
            (
                Outcome { exit: signal(libc::SIGKILL), oom_kills: 1, ..base() },
                Status::MemoryExceeded,
                Some(KilledBy::KernelOom),
            ),
            (Outcome { exit: None, oom_kills: 2, ..base() }, Status::MemoryExceeded, Some(KilledBy::KernelOom)),
            (Outcome { exit: None, ..base() }, Status::Signaled, Some(KilledBy::Kernel)),
            (Outcome { exit: signal(libc::SIGSEGV), ..base() }, Status::Signaled, Some(KilledBy::Kernel)),
            (Outcome { exit: signal(libc::SIGTERM), ..base() }, Status::Signaled, Some(KilledBy::Payload)),
            (Outcome { exit: signal(libc::SIGSYS), ..base() }, Status::SyscallDenied, Some(KilledBy::Seccomp)),
            (Outcome { stop: Some(Stop::WallTime), ..base() }, Status::WallTimeExceeded, Some(KilledBy::Supervisor)),
            (Outcome { stop: Some(Stop::CpuTime), ..base() }, Status::CpuTimeExceeded, Some(KilledBy::Supervisor)),
            (Outcome { stop: Some(Stop::Memory), ..base() }, Status::MemoryExceeded, Some(KilledBy::KernelOom)),
            (Outcome { stop: Some(Stop::Output), ..base() }, Status::OutputExceeded, Some(KilledBy::Supervisor)),
            (
                Outcome { stop: Some(Stop::Canceled), exit: exit(0), ..base() },
                Status::Canceled,
                Some(KilledBy::Supervisor),
            ),
            (Outcome { exit: exit(127), exec_errno: Some(libc::ENOENT), ..base() }, Status::NonzeroExit, None),
        ];
        for (outcome, status, killed_by) in rows {
            let verdict = judge(outcome.clone(), &limits);
            assert_eq!((verdict.status, verdict.killed_by), (status, killed_by), "{outcome:?}");
        }
    }

    #[test]
    fn the_stream_that_was_too_long_is_named() {
        let limits = Limits { stdout_bytes: 10, stderr_bytes: 10, output_bytes: 15, ..Limits::default() };
        let facts = |out, err| OutputFacts { stdout_bytes: out, stderr_bytes: err, ..OutputFacts::default() };
        assert_eq!(output_evidence(&facts(11, 0), &limits).0.name, "stdout_bytes");
        assert_eq!(output_evidence(&facts(0, 11), &limits).0.name, "stderr_bytes");
        assert_eq!(output_evidence(&facts(8, 8), &limits).0.name, "output_bytes");
    }
}
