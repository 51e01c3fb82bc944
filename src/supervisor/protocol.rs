//! What the front and the supervisor say to each other: small typed messages over a SOCK_SEQPACKET pair, descriptors
//! beside them.
//!
//! The front may be in the hands of an attacker, so a message can name nothing but a known profile or image, limits
//! within the profile's ceilings, arguments, and sealed files: there is no word for a host path, a mount, a user or a
//! system call. One message is one run of one cell; a compiled language takes two.
//!
//! Encoding is postcard: compact, without self-description, so that decoding junk is cheap and allocates no more than
//! the message is long.

use std::ffi::CString;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::words::limits::LimitsRequest;
use crate::words::request::{FileEntry, Program, Purpose, Request};
use crate::words::verdict::{DeniedSyscall, Exit, Outcome, OutputFacts, Stop};

/// Longest message in either direction.
pub const MESSAGE_BYTES_MAX: usize = 160 << 10;

/// From the front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// Four descriptors come along: stdin, stdout, stderr, and the sealed memfd with the files' contents.
    Start(Box<Job>),
    /// Ends a running job.
    Stop { job: u64, reason: StopWire },
    /// A signal, by number, for the program of a running job.
    Signal { job: u64, signal: i32 },
}

/// From the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromSupervisor {
    /// The job's cell is gone. Files that come out of it, what a compile step left or the results a run was asked for,
    /// are in a sealed descriptor beside the message; `problems` are sentences about those that do not.
    Ended { job: u64, outcome: OutcomeWire, files: Vec<FileWire>, problems: Vec<String> },
    /// The request is at fault; `field` is the part of it. Job 0 stands for a message that could not be read.
    Refused { job: u64, field: String, message: String, hint: Option<String> },
    /// The sandbox failed at a step of the sequence; the run never was, or its end is unknown.
    Failed { job: u64, step: String, message: String },
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Chosen by the front, not 0, unique among its running jobs.
    pub job: u64,
    pub compile: bool,
    /// The program is not run; its syntax is checked.
    pub check: bool,
    pub language: Option<String>,
    /// The program's file by name; with none, `command` is run.
    pub source: Option<String>,
    pub command: Vec<Vec<u8>>,
    pub arguments: Vec<Vec<u8>>,
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    pub files: Vec<FileWire>,
    pub limits: LimitsWire,
    /// Of the compile step, in place of the profile's.
    pub compile_limits: LimitsWire,
    pub rootfs: Option<String>,
    /// Names or globs of the results to bring back.
    pub files_out: Vec<String>,
}

/// A file: its content is the next `bytes` of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWire {
    pub name: String,
    pub mode: u32,
    pub bytes: u64,
}

/// Limits asked for; times in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitsWire {
    pub wall_time_us: Option<u64>,
    pub cpu_time_us: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub processes: Option<u32>,
    pub output_bytes: Option<u64>,
    pub stdout_bytes: Option<u64>,
    pub stderr_bytes: Option<u64>,
    pub cpu_rate: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopWire {
    Canceled,
    Output,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OutcomeWire {
    pub exit_code: Option<i32>,
    pub exit_signal: Option<i32>,
    pub stop: Option<u8>,
    pub exec_errno: Option<i32>,
    pub wall_time_ns: u64,
    pub cpu_time_ns: u64,
    pub memory_peak_bytes: u64,
    pub processes_peak: u32,
    pub oom_kills: u64,
    pub process_limit_hits: u64,
    pub denied_syscalls: Vec<(String, u32)>,
}

/// The table of a bundle as it travels.
pub fn wire_of(table: &[(CString, u32, u64)]) -> Vec<FileWire> {
    let wire = |(name, mode, bytes): &(CString, u32, u64)| FileWire {
        name: name.to_string_lossy().into_owned(),
        mode: *mode,
        bytes: *bytes,
    };
    table.iter().map(wire).collect()
}

/// The table of a bundle that travelled.
pub fn table_of(files: &[FileWire]) -> Vec<(CString, u32, u64)> {
    // A name came out of a file system or a C string, so that it has no NUL.
    let entry = |file: &FileWire| (CString::new(file.name.as_str()).unwrap_or_default(), file.mode, file.bytes);
    files.iter().map(entry).collect()
}

/// The bytes of `message`, or `None` when they are too many for one message.
pub fn encode<T: Serialize>(message: &T) -> Option<Vec<u8>> {
    postcard::to_stdvec(message).ok().filter(|bytes| bytes.len() <= MESSAGE_BYTES_MAX)
}

/// The message in `bytes`, all of which it must use.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Some(message),
        _ => None,
    }
}

impl Job {
    /// The request that this job is a step of.
    pub fn request(&self) -> Request {
        let entry = |file: &FileWire| FileEntry { name: file.name.clone(), bytes: file.bytes };
        let is_source = |file: &&FileWire| self.source.as_ref() == Some(&file.name);
        let program = match self.files.iter().find(is_source) {
            Some(file) => Program::Source(entry(file)),
            // A source that is not among the files is empty, and refused as such.
            None => match &self.source {
                Some(name) => Program::Source(FileEntry { name: name.clone(), bytes: 0 }),
                None => Program::Command(self.command.clone()),
            },
        };
        Request {
            language: self.language.clone(),
            program,
            purpose: if self.check { Purpose::Check } else { Purpose::Run },
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            files: self.files.iter().filter(|file| !is_source(file)).map(entry).collect(),
            limits: LimitsRequest::from(&self.limits),
            compile_limits: LimitsRequest::from(&self.compile_limits),
            rootfs: self.rootfs.clone(),
            files_out: self.files_out.clone(),
        }
    }

    /// One step of `request`, whose files are those of `table`: name, permission bits and size of each.
    pub fn of(request: &Request, compile: bool, table: &[(CString, u32, u64)]) -> Job {
        let (source, command) = match &request.program {
            Program::Source(file) => (Some(file.name.clone()), Vec::new()),
            Program::Command(words) => (None, words.clone()),
        };
        Job {
            job: 0,
            compile,
            check: request.purpose == Purpose::Check,
            language: request.language.clone(),
            source,
            command,
            arguments: request.arguments.clone(),
            environment: request.environment.clone(),
            files: wire_of(table),
            limits: LimitsWire::from(&request.limits),
            compile_limits: LimitsWire::from(&request.compile_limits),
            rootfs: request.rootfs.clone(),
            files_out: request.files_out.clone(),
        }
    }
}

impl From<&LimitsRequest> for LimitsWire {
    fn from(limits: &LimitsRequest) -> LimitsWire {
        // Rounded up: a time that is not zero must not become zero, which the supervisor refuses.
        let microseconds = |time: Duration| time.as_nanos().div_ceil(1000) as u64;
        LimitsWire {
            wall_time_us: limits.wall_time.map(microseconds),
            cpu_time_us: limits.cpu_time.map(microseconds),
            memory_bytes: limits.memory_bytes,
            processes: limits.processes,
            output_bytes: limits.output_bytes,
            stdout_bytes: limits.stdout_bytes,
            stderr_bytes: limits.stderr_bytes,
            cpu_rate: limits.cpu_rate,
        }
    }
}

impl From<&LimitsWire> for LimitsRequest {
    fn from(wire: &LimitsWire) -> LimitsRequest {
        LimitsRequest {
            wall_time: wire.wall_time_us.map(Duration::from_micros),
            cpu_time: wire.cpu_time_us.map(Duration::from_micros),
            memory_bytes: wire.memory_bytes,
            processes: wire.processes,
            output_bytes: wire.output_bytes,
            stdout_bytes: wire.stdout_bytes,
            stderr_bytes: wire.stderr_bytes,
            cpu_rate: wire.cpu_rate,
            ..LimitsRequest::default()
        }
    }
}

impl From<StopWire> for Stop {
    fn from(reason: StopWire) -> Stop {
        match reason {
            StopWire::Canceled => Stop::Canceled,
            StopWire::Output => Stop::Output,
        }
    }
}

/// In the order of their numbers on the wire.
const STOPS: [Stop; 5] = [Stop::WallTime, Stop::CpuTime, Stop::Memory, Stop::Output, Stop::Canceled];

impl From<&Outcome> for OutcomeWire {
    fn from(outcome: &Outcome) -> OutcomeWire {
        let (exit_code, exit_signal) = match outcome.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        OutcomeWire {
            exit_code,
            exit_signal,
            stop: outcome.stop.and_then(|stop| STOPS.iter().position(|known| *known == stop)).map(|index| index as u8),
            exec_errno: outcome.exec_errno,
            wall_time_ns: outcome.wall_time.as_nanos() as u64,
            cpu_time_ns: outcome.cpu_time.as_nanos() as u64,
            memory_peak_bytes: outcome.memory_peak_bytes,
            processes_peak: outcome.processes_peak,
            oom_kills: outcome.oom_kills,
            process_limit_hits: outcome.process_limit_hits,
            denied_syscalls: outcome.denied_syscalls.iter().map(|denied| (denied.name.clone(), denied.count)).collect(),
        }
    }
}

impl From<OutcomeWire> for Outcome {
    fn from(wire: OutcomeWire) -> Outcome {
        let denied = |(name, count)| DeniedSyscall { name, count };
        Outcome {
            exit: wire.exit_signal.map(Exit::Signal).or(wire.exit_code.map(Exit::Code)),
            stop: wire.stop.and_then(|index| STOPS.get(usize::from(index)).copied()),
            exec_errno: wire.exec_errno,
            wall_time: Duration::from_nanos(wire.wall_time_ns),
            cpu_time: Duration::from_nanos(wire.cpu_time_ns),
            memory_peak_bytes: wire.memory_peak_bytes,
            processes_peak: wire.processes_peak,
            oom_kills: wire.oom_kills,
            process_limit_hits: wire.process_limit_hits,
            denied_syscalls: wire.denied_syscalls.into_iter().map(denied).collect(),
            output: OutputFacts::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn outcomes_survive_the_wire() {
        let outcome = Outcome {
            exit: Some(Exit::Signal(9)),
            stop: Some(Stop::Canceled),
            wall_time: Duration::from_micros(1234),
            denied_syscalls: vec![DeniedSyscall { name: "mount".to_owned(), count: 2 }],
            ..Outcome::default()
        };
        let bytes = encode(&OutcomeWire::from(&outcome)).unwrap();
        assert_eq!(Outcome::from(decode::<OutcomeWire>(&bytes).unwrap()), outcome);
    }

    #[test]
    fn trailing_bytes_and_giants_are_refused() {
        let mut bytes = encode(&ToSupervisor::Stop { job: 1, reason: StopWire::Canceled }).unwrap();
        bytes.push(0);
        assert_eq!(decode::<ToSupervisor>(&bytes), None);
        let giant = Job { arguments: vec![vec![0; MESSAGE_BYTES_MAX]], ..Job::default() };
        assert_eq!(encode(&giant), None);
    }

    proptest! {
        #[test]
        fn no_junk_makes_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(ToSupervisor::Start(job)) = decode::<ToSupervisor>(&bytes) {
                let _ = job.request();
            }
        }
    }
}
