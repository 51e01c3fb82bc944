//! What the native face tells of a run.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::super::stream;
use crate::answer::{self, Answer};
use crate::runner::StepKind;
use crate::service::execution::{Event, EventKind, Execution};
use crate::service::unix_ms;
use crate::words::verdict::Status;

/// The verdict, with the fields that clients of codify and backend know.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExecuteAnswer {
    #[serde(flatten)]
    pub answer: Answer,
    /// The program ended by itself with exit code 0.
    pub success: bool,
    /// As `stdout`.
    pub output: String,
    /// As `stderr`, or why the program did not end well.
    pub error: String,
    #[serde(rename = "exitCode")]
    pub exit_code: Option<i32>,
    /// Wall time in milliseconds.
    #[serde(rename = "executionTime")]
    pub execution_time: f64,
    /// When it was accepted, as RFC 3339.
    pub timestamp: String,
    #[serde(rename = "executionId")]
    pub execution_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Vec<Chunk>>,
}

/// A piece of output.
#[derive(Debug, Serialize, ToSchema)]
pub struct Chunk {
    /// `compile` or `run`.
    pub stage: &'static str,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// Since the run was accepted.
    pub time_ms: f64,
    pub data: String,
    /// `utf-8` or `base64`.
    pub encoding: &'static str,
}

/// An execution that was accepted, or goes on.
#[derive(Debug, Serialize, ToSchema)]
pub struct Accepted {
    pub id: String,
    #[serde(rename = "executionId")]
    pub execution_id: String,
    #[schema(value_type = GoingOn)]
    pub status: &'static str,
    pub language: Option<String>,
    pub timestamp: String,
}

/// For the OpenAPI document: the status of an execution that has not ended.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code)]
pub enum GoingOn {
    Queued,
    Running,
}

/// For the OpenAPI document: one of the events that come, as its lines say.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ServerSentEvent {
    /// Number of the event, to go on from as `Last-Event-ID`.
    pub id: Option<String>,
    /// Its type, as in the data.
    pub event: Option<String>,
    /// JSON: `type` and what belongs to it.
    pub data: String,
}

/// For the OpenAPI document: an execution as far as it has got.
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub enum Found {
    Ended(Box<ExecuteAnswer>),
    GoesOn(Accepted),
    Interrupted(Interrupted),
}

/// For the OpenAPI document: an execution during which the service ended, as [`recorded`] tells it.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct Interrupted {
    pub id: String,
    #[schema(rename = "executionId")]
    pub execution_id: String,
    #[schema(pattern = "^interrupted$")]
    pub status: String,
    pub language: String,
    pub message: String,
    pub timestamp: String,
}

/// An execution in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Summary {
    pub id: String,
    #[serde(rename = "executionId")]
    pub execution_id: String,
    pub status: String,
    pub language: String,
    pub timestamp: String,
    pub exit_code: Option<i32>,
    pub wall_time_ms: Option<f64>,
    pub memory_peak_bytes: Option<u64>,
    pub message: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Listing {
    pub executions: Vec<Summary>,
    /// Of all pages.
    pub total: u64,
    pub limit: u32,
    pub offset: u64,
}

pub fn accepted(execution: &Execution) -> Accepted {
    Accepted {
        id: execution.about.id.clone(),
        execution_id: execution.about.id.clone(),
        status: execution.status_word(),
        language: execution.about.language.clone(),
        timestamp: timestamp_ms(unix_ms(execution.about.created)),
    }
}

/// The native answer with everything that clients of other services look for.
pub fn execute_answer(execution: &Execution, answer: Answer, chunks: bool) -> ExecuteAnswer {
    let (step, success) = (&answer.run, answer.run.status == Status::Ok.word());
    // A program that did not compile has nothing to say for itself.
    let stderr = match &answer.compile {
        Some(compile) if answer.run.exit_code.is_none() && step.output.stderr.is_empty() => {
            [compile.output.stderr.as_str(), compile.output.stdout.as_str()].concat()
        }
        _ => step.output.stderr.clone(),
    };
    let error = if success || !stderr.is_empty() { stderr } else { step.message.clone() };
    ExecuteAnswer {
        success,
        output: step.output.stdout.clone(),
        error,
        exit_code: step.exit_code,
        execution_time: step.usage.wall_time_ms,
        timestamp: timestamp_ms(unix_ms(execution.about.created)),
        execution_id: answer.id.clone(),
        chunks: chunks.then(|| execution.events().iter().filter_map(chunk).collect()),
        answer,
    }
}

/// A piece of output as it is told.
pub fn chunk(event: &Event) -> Option<Chunk> {
    let EventKind::Output { step, stream, data } = &event.kind else { return None };
    let (data, encoding) = answer::text_or_base64(data.to_vec(), false);
    let time_ms = stream::milliseconds(event.time);
    Some(Chunk { stage: stage_word(*step), stream: stream.word(), time_ms, data, encoding })
}

pub fn stage_word(step: StepKind) -> &'static str {
    match step {
        StepKind::Compile => "compile",
        StepKind::Run => "run",
    }
}

/// An execution that only the history knows: its answer as it was, with the output that was kept.
pub fn recorded(record: crate::history::Record) -> serde_json::Value {
    let details = record.details.unwrap_or_default();
    let parsed = details.answer_json.as_deref().and_then(|json| serde_json::from_str(json).ok());
    let mut object: serde_json::Map<String, serde_json::Value> = parsed.unwrap_or_default();
    let (stdout, stdout_encoding) = answer::text_or_base64(details.stdout, record.stdout_truncated_bytes > 0);
    let (stderr, stderr_encoding) = answer::text_or_base64(details.stderr, record.stderr_truncated_bytes > 0);
    let success = record.status == Status::Ok.word();
    let error = if success || !stderr.is_empty() { stderr.clone() } else { record.message.clone() };
    let fields = serde_json::json!({
        "id": record.id, "executionId": record.id, "status": record.status, "language": record.language,
        "version": record.version, "message": record.message, "exit_code": record.exit_code, "signal": record.signal,
        "stdout": stdout, "stderr": stderr, "stdout_encoding": stdout_encoding, "stderr_encoding": stderr_encoding,
        "stdout_truncated_bytes": record.stdout_truncated_bytes, "stderr_truncated_bytes": record.stderr_truncated_bytes,
        "success": success, "output": stdout, "error": error, "exitCode": record.exit_code,
        "executionTime": record.wall_time_ms, "timestamp": timestamp_ms(record.created_ms),
    });
    if let serde_json::Value::Object(fields) = fields {
        object.extend(fields);
    }
    object.into()
}

pub fn timestamp_ms(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(unix_ms);
    humantime::format_rfc3339_millis(time).to_string()
}
