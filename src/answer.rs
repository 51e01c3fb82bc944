//! The answer: the one JSON object that `sandboxd run --json` prints and `POST /api/execute` returns.

use base64::Engine as _;
use serde::Serialize;
use utoipa::ToSchema;

use crate::plan::{CellPlan, Plan};
use crate::runner::{Captured, RunResult, StepResult};
use crate::supervisor::files::Carried;
use crate::words::limits::Limits;
use crate::words::request::SourceFile;
use crate::words::verdict::{Outcome, Status, Verdict, signal_name};

/// A run's verdict with its evidence.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Answer {
    pub id: String,
    pub language: Option<String>,
    pub version: Option<String>,
    /// The run step; with the status and message of the whole.
    #[serde(flatten)]
    pub run: StepAnswer,
    pub compile: Option<StepAnswer>,
    /// The compile step is that of an earlier run of the same sources; absent when it is not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub compile_cached: bool,
    /// Files that the request wanted back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files_out: Vec<FileAnswer>,
    /// Why wanted files did not come back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files_out_problems: Vec<String>,
    /// Function mode: what ended the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thrown: Option<Thrown>,
    pub enforcement: Enforcement,
}

/// An error that ended the code of a function, or kept it from being one.
#[derive(Debug, Clone, Serialize, serde::Deserialize, ToSchema)]
pub struct Thrown {
    /// As `TypeError`; empty where something else than an error was thrown.
    pub name: String,
    pub message: String,
    /// Where in the author's code, from 1, if it is known.
    pub line: Option<u32>,
    pub column: Option<u32>,
}

/// A file of the work directory.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FileAnswer {
    pub name: String,
    pub bytes: u64,
    pub content: String,
    /// `utf-8` or `base64`.
    pub encoding: &'static str,
}

/// One step: how it ended, what it wrote and used.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StepAnswer {
    pub status: &'static str,
    /// One sentence that says why.
    pub message: String,
    pub exit_code: Option<i32>,
    pub signal: Option<String>,
    #[serde(flatten)]
    pub output: Output,
    pub usage: Usage,
    pub limits: LimitsJson,
    pub evidence: Evidence,
}

/// Bytes that are not UTF-8 come as base64, and the encoding says so.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub stdout_encoding: &'static str,
    pub stderr_encoding: &'static str,
    pub stdout_truncated_bytes: u64,
    pub stderr_truncated_bytes: u64,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Usage {
    pub wall_time_ms: f64,
    pub cpu_time_ms: f64,
    pub memory_peak_bytes: u64,
    pub processes_peak: u32,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LimitsJson {
    pub wall_time_ms: f64,
    pub cpu_time_ms: f64,
    pub memory_bytes: u64,
    pub processes: u32,
    pub output_bytes: u64,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Evidence {
    /// The limit that decided, or that the run ran into without ending of it.
    pub limit: Option<LimitJson>,
    pub oom_kills: u64,
    pub process_limit_hits: u64,
    pub killed_by: Option<&'static str>,
    pub denied_syscalls: Vec<DeniedJson>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LimitJson {
    pub name: &'static str,
    pub value: f64,
    pub measured: f64,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeniedJson {
    pub name: String,
    pub count: u32,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Enforcement {
    pub cgroup: &'static str,
    pub landlock_abi: u32,
    pub seccomp: bool,
    pub namespaces: Vec<&'static str>,
    pub rootfs: String,
    /// False when an ordinary user runs the sandbox: init and payload then share that user's id.
    pub privileged: bool,
}

/// The answer for a finished run.
pub fn answer(id: String, version: Option<String>, plan: &Plan, result: RunResult) -> Answer {
    let status = result.status();
    let run = match result.run {
        Some(step) => step_answer(step, &plan.run),
        None => no_step(status, &plan.run),
    };
    let (files_out, files_out_problems) = files_answer(result.results);
    Answer {
        id,
        language: plan.language.clone(),
        version,
        run,
        compile: result.compile.zip(plan.compile.as_ref()).map(|(step, cell)| step_answer(step, cell)),
        compile_cached: false,
        files_out,
        files_out_problems,
        thrown: None,
        enforcement: enforcement(&plan.run),
    }
}

/// The answer when there is no verdict on the program: the sandbox failed, or the run was canceled before it began.
pub fn without_run(id: String, status: Status, plan: &Plan, message: String) -> Answer {
    let run = StepAnswer { message, ..no_step(status, &plan.run) };
    Answer {
        id,
        language: plan.language.clone(),
        version: None,
        run,
        compile: None,
        compile_cached: false,
        files_out: Vec::new(),
        files_out_problems: Vec::new(),
        thrown: None,
        enforcement: enforcement(&plan.run),
    }
}

impl StepAnswer {
    /// Puts in what the step wrote, where it was kept elsewhere until now.
    pub fn set_output(&mut self, output: Captured) {
        (self.output.stdout, self.output.stdout_encoding) =
            text_or_base64(output.stdout, self.output.stdout_truncated_bytes > 0);
        (self.output.stderr, self.output.stderr_encoding) =
            text_or_base64(output.stderr, self.output.stderr_truncated_bytes > 0);
    }
}

fn files_answer(results: Carried) -> (Vec<FileAnswer>, Vec<String>) {
    let mut problems = results.problems;
    let files = match results.files.map(|bundle| bundle.read()).transpose() {
        Ok(files) => files.unwrap_or_default(),
        Err(error) => {
            problems.push(format!("the results could not be read: {error}"));
            Vec::new()
        }
    };
    let file = |file: SourceFile| {
        let bytes = file.content.len() as u64;
        let (content, encoding) = text_or_base64(file.content, false);
        FileAnswer { name: file.name, bytes, content, encoding }
    };
    (files.into_iter().map(file).collect(), problems)
}

fn step_answer(step: StepResult, cell: &CellPlan) -> StepAnswer {
    let StepResult { verdict, output } = step;
    StepAnswer {
        status: verdict.status.word(),
        exit_code: verdict.exit_code,
        signal: verdict.signal.map(signal_name),
        output: output_json(output, &verdict.outcome),
        usage: usage(&verdict.outcome),
        limits: limits(&cell.limits),
        evidence: evidence(&verdict),
        message: verdict.message,
    }
}

/// A step that never was, because what came before it ended the run.
fn no_step(status: Status, cell: &CellPlan) -> StepAnswer {
    let message = match status {
        Status::Canceled => "canceled while compiling",
        Status::CompileError => "the program did not compile",
        _ => "",
    };
    StepAnswer {
        status: status.word(),
        message: message.to_owned(),
        exit_code: None,
        signal: None,
        output: output_json(Captured::default(), &Outcome::default()),
        usage: Usage::default(),
        limits: limits(&cell.limits),
        evidence: no_evidence(),
    }
}

fn no_evidence() -> Evidence {
    Evidence { limit: None, oom_kills: 0, process_limit_hits: 0, killed_by: None, denied_syscalls: Vec::new() }
}

fn evidence(verdict: &Verdict) -> Evidence {
    let outcome = &verdict.outcome;
    let denied =
        |denied: &crate::words::verdict::DeniedSyscall| DeniedJson { name: denied.name.clone(), count: denied.count };
    Evidence {
        limit: verdict.limit.as_ref().map(|limit| LimitJson {
            name: limit.name,
            value: rounded(limit.value),
            measured: rounded(limit.measured),
        }),
        oom_kills: outcome.oom_kills,
        process_limit_hits: outcome.process_limit_hits,
        killed_by: verdict.killed_by.map(|by| by.word()),
        denied_syscalls: outcome.denied_syscalls.iter().map(denied).collect(),
    }
}

fn usage(outcome: &Outcome) -> Usage {
    let milliseconds = |time: std::time::Duration| rounded(time.as_secs_f64() * 1e3);
    Usage {
        wall_time_ms: milliseconds(outcome.wall_time),
        cpu_time_ms: milliseconds(outcome.cpu_time),
        memory_peak_bytes: outcome.memory_peak_bytes,
        processes_peak: outcome.processes_peak,
    }
}

/// To three places: microseconds, where it is milliseconds.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

fn limits(limits: &Limits) -> LimitsJson {
    LimitsJson {
        wall_time_ms: rounded(limits.wall_time.as_secs_f64() * 1e3),
        cpu_time_ms: rounded(limits.cpu_time.as_secs_f64() * 1e3),
        memory_bytes: limits.memory_bytes,
        processes: limits.processes,
        output_bytes: limits.output_bytes,
    }
}

fn enforcement(plan: &CellPlan) -> Enforcement {
    Enforcement {
        cgroup: plan.cgroup.name(),
        landlock_abi: plan.landlock.as_ref().map_or(0, |landlock| landlock.abi),
        seccomp: plan.seccomp.is_some(),
        namespaces: plan.namespaces.clone(),
        rootfs: plan.rootfs.clone(),
        privileged: plan.identity.init != plan.identity.payload,
    }
}

fn output_json(output: Captured, outcome: &Outcome) -> Output {
    let facts = &outcome.output;
    let (stdout, stdout_encoding) = text_or_base64(output.stdout, facts.stdout_truncated_bytes > 0);
    let (stderr, stderr_encoding) = text_or_base64(output.stderr, facts.stderr_truncated_bytes > 0);
    Output {
        stdout,
        stderr,
        stdout_encoding,
        stderr_encoding,
        stdout_truncated_bytes: facts.stdout_truncated_bytes,
        stderr_truncated_bytes: facts.stderr_truncated_bytes,
    }
}

/// The bytes of a base64 text; `None` if it is none.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// UTF-8 as it is, anything else as base64. A cap that cut through the last character does not make text binary: the
/// up to three bytes of the broken character are left away.
pub fn text_or_base64(bytes: Vec<u8>, cut: bool) -> (String, &'static str) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, "utf-8"),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let only_the_end_is_broken = error.utf8_error().error_len().is_none();
            let mut bytes = error.into_bytes();
            if cut && only_the_end_is_broken {
                bytes.truncate(valid);
                return (String::from_utf8(bytes).unwrap_or_default(), "utf-8");
            }
            (base64::engine::general_purpose::STANDARD.encode(bytes), "base64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_text_where_it_is_text_and_base64_elsewhere() {
        assert_eq!(text_or_base64("é\0\u{1b}".into(), false), ("é\0\u{1b}".to_owned(), "utf-8"));
        assert_eq!(text_or_base64(vec![0xff, 0xfe], false), ("//4=".to_owned(), "base64"));
        let half = "aé".as_bytes()[..2].to_vec();
        assert_eq!(text_or_base64(half.clone(), true), ("a".to_owned(), "utf-8"));
        assert_eq!(text_or_base64(half, false).1, "base64");
    }
}
