//! How the steps of a job ended, in Piston's words.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::answer::{self, Answer, StepAnswer};
use crate::runner::{StepKind, Stream};
use crate::service::execution::{EventKind, Execution};
use crate::words::verdict::Status;

/// How one step ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Stage {
    pub stdout: String,
    pub stderr: String,
    /// Both streams in the order written.
    pub output: String,
    pub code: Option<i32>,
    pub signal: Option<String>,
    pub message: Option<String>,
    /// `RE` exit code, `SG` signal, `TO` time, `OL` stdout too long, `EL` stderr too long, `XX` our fault.
    pub status: Option<&'static str>,
    /// Milliseconds.
    pub cpu_time: u64,
    pub wall_time: u64,
    /// Greatest use, in bytes.
    pub memory: u64,
}

/// How both steps ended; a run that never was, because its program did not compile, is told as the compile step.
pub fn stages(execution: &Execution, answer: &Answer) -> (Stage, Option<Stage>) {
    let compile = answer.compile.as_ref().map(|step| stage(execution, StepKind::Compile, step));
    match &compile {
        Some(failed) if answer.run.status == Status::CompileError.word() => (failed.clone(), compile),
        _ => (stage(execution, StepKind::Run, &answer.run), compile),
    }
}

fn stage(execution: &Execution, kind: StepKind, step: &StepAnswer) -> Stage {
    let mut streams = [Vec::new(), Vec::new(), Vec::new()];
    for event in execution.events() {
        if let EventKind::Output { step, stream, data } = event.kind
            && step == kind
        {
            streams[usize::from(stream == Stream::Stderr)].extend_from_slice(&data);
            streams[2].extend_from_slice(&data);
        }
    }
    if streams[2].is_empty() {
        // A compile step of an earlier run has no events; the order of its streams is not known any more.
        let bytes = |text: &str, encoding: &str| match encoding {
            "base64" => answer::from_base64(text).unwrap_or_default(),
            _ => text.as_bytes().to_vec(),
        };
        let stdout = bytes(&step.output.stdout, step.output.stdout_encoding);
        let stderr = bytes(&step.output.stderr, step.output.stderr_encoding);
        streams = [stdout.clone(), stderr.clone(), [stdout, stderr].concat()];
    }
    let [stdout, stderr, output] = streams.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let status = status(step);
    // Whoever was stopped from outside has no exit code of their own.
    let was_stopped = matches!(status, Some("TO" | "OL" | "EL"));
    Stage {
        stdout,
        stderr,
        output,
        code: step.exit_code.filter(|_| !was_stopped),
        signal: if was_stopped { Some("SIGKILL".to_owned()) } else { step.signal.clone() },
        message: status.map(|_| step.message.clone()),
        status,
        cpu_time: step.usage.cpu_time_ms.round() as u64,
        wall_time: step.usage.wall_time_ms.round() as u64,
        memory: step.usage.memory_peak_bytes,
    }
}

fn status(step: &StepAnswer) -> Option<&'static str> {
    let is = |status: Status| step.status == status.word();
    Some(match step {
        _ if is(Status::Ok) => return None,
        _ if is(Status::NonzeroExit) => "RE",
        _ if is(Status::Signaled) || is(Status::MemoryExceeded) || is(Status::SyscallDenied) => "SG",
        _ if is(Status::WallTimeExceeded) || is(Status::CpuTimeExceeded) => "TO",
        _ if is(Status::OutputExceeded) => match &step.evidence.limit {
            Some(limit) if limit.name == "stderr_bytes" => "EL",
            _ => "OL",
        },
        _ => "XX",
    })
}

/// As an event of the WebSocket tells it.
pub fn exit_json(stage: &'static str, code: Option<i32>, signal: Option<&str>) -> Value {
    json!({"type": "exit", "stage": stage, "code": code, "signal": signal})
}
