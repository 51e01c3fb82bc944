//! `/api/execute`: the native face, with the fields of codify and backend beside its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{Id, Parameters};
use super::caller::Identity;
use super::error::{NativeError, NativeReadRefusals, NativeRunRefusals, add_rate_headers};
use super::{body, stream};
use crate::answer::{self, Answer};
use crate::history::ListQuery;
use crate::runner::StepKind;
use crate::service::execution::{Event, EventKind, Execution};
use crate::service::refusal::{Class, Refusal};
use crate::service::{Caller, Feed, Service, Submission, Wanted, several_files, single_file, unix_ms};
use crate::words::limits::LimitsRequest;
use crate::words::request::{SourceFile, bounds, check_file_name};
use crate::words::verdict::Status;

/// A program to run: either `code` or `files`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteBody {
    /// Name or alias; without one the entry's extension decides.
    pub language: Option<String>,
    /// The program's text.
    pub code: Option<String>,
    /// Several files; `entry` is run, or the first.
    pub files: Option<Vec<FileBody>>,
    pub entry: Option<String>,
    /// What the program reads.
    #[serde(alias = "input")]
    pub stdin: Option<String>,
    /// `utf-8` (default) or `base64`.
    #[serde(default)]
    pub stdin_encoding: Encoding,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub limits: LimitsBody,
    /// Longest wall time: up to 60 these are seconds, above it milliseconds. `limits.wall_time_ms` never guesses.
    #[schema(exclusive_minimum = 0.0)]
    pub timeout: Option<f64>,
    /// Answer with events as they come (SSE), as `Accept: text/event-stream` does.
    #[serde(default)]
    pub stream: bool,
    /// Answer at once with the id, and run on.
    #[serde(default, rename = "async")]
    pub detached: bool,
    /// Both streams also as one list of timestamped pieces in the order written.
    #[serde(default)]
    pub chunks: bool,
    /// Names or globs of files that are to come back.
    #[serde(default)]
    pub files_out: Vec<String>,
    /// Over WebSocket: input comes in messages, until `stdin_close`.
    #[serde(default)]
    pub interactive: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileBody {
    /// Relative to the work directory.
    pub name: String,
    pub content: String,
    #[serde(default)]
    pub encoding: Encoding,
}

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub enum Encoding {
    #[default]
    #[serde(rename = "utf-8", alias = "utf8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
    #[serde(rename = "hex")]
    Hex,
}

/// Limits asked for; each at most its ceiling in `/api/languages`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsBody {
    #[schema(exclusive_minimum = 0.0)]
    pub wall_time_ms: Option<f64>,
    #[schema(exclusive_minimum = 0.0)]
    pub cpu_time_ms: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub processes: Option<u32>,
    pub output_bytes: Option<u64>,
    /// Cores: 0.5 is half of one.
    pub cpu_rate: Option<f64>,
}

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

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// 20 unless it is given.
    #[param(minimum = 1, maximum = 100, nullable = false)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub offset: u64,
    /// Executions older than this one.
    #[param(nullable = false)]
    pub before: Option<String>,
    #[param(nullable = false)]
    pub language: Option<String>,
    #[param(nullable = false)]
    pub status: Option<String>,
}

#[utoipa::path(
    post, path = "/api/execute", tag = "native", request_body = ExecuteBody,
    responses(
        (status = 200, description = "The verdict; whatever the program did is no error. Or events as they come, if those \
                                      are accepted",
         content((ExecuteAnswer = "application/json"), (ServerSentEvent = "text/event-stream"), (Value = "application/x-ndjson"))),
        (status = 202, description = "Accepted, with `async`", body = Accepted),
        NativeRunRefusals,
    )
)]
pub async fn execute(
    State(service): State<Arc<Service>>,
    identity: Identity,
    request: Request,
) -> Result<Response, NativeError> {
    let caller = identity.caller()?;
    let rate = service.check_rate(&caller)?;
    let mut response =
        execute_now(service, caller, identity.request_id, request).await.unwrap_or_else(NativeError::into_response);
    if let Some(rate) = rate {
        add_rate_headers(&rate, &mut response);
    }
    Ok(response)
}

async fn execute_now(
    service: Arc<Service>,
    caller: Caller,
    request_id: String,
    request: Request,
) -> Result<Response, NativeError> {
    let form = stream::Form::wanted(request.headers());
    let current = service.current();
    let body: ExecuteBody = body::json(request, &current.settings).await?;
    let (detached, chunks) = (body.detached, body.chunks);
    let form = form.or(body.stream.then_some(stream::Form::Sse));
    let submission = submission(body, caller, request_id)?;
    let execution = service.submit(submission)?;
    if detached {
        let location = format!("/api/execute/{}", execution.about.id);
        let accepted = Json(accepted(&execution));
        return Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], accepted).into_response());
    }
    // Whoever asked goes away with their connection, and the run with them.
    let guard = CancelOnDrop(Arc::clone(&execution));
    if let Some(form) = form {
        return Ok(stream::response(form, execution, 0, Some(guard)));
    }
    let answer = execution.verdict().await;
    drop(guard);
    Ok(Json(execute_answer(&execution, answer?, chunks)).into_response())
}

/// Ends an execution that nobody waits for any more.
pub struct CancelOnDrop(pub Arc<Execution>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.0.is_finished() {
            self.0.cancel();
        }
    }
}

/// The submission that a body asks for.
///
/// # Errors
/// It contradicts itself, or a value is out of range.
pub fn submission(body: ExecuteBody, caller: Caller, request_id: String) -> Result<Submission, Refusal> {
    let encoded = |text: String, encoding: Encoding, field: &str| {
        encoding.decode(text).map_err(|why| Refusal::bad("bad_encoding", field, format!("{field}: {why}")))
    };
    let (mut request, files) = match (body.code, body.files) {
        (Some(_), Some(_)) => {
            return Err(Refusal::bad("code_and_files", "files", "both code and files are given; choose one"));
        }
        (None, None) => {
            return Err(Refusal::bad("code_required", "code", "code is missing")
                .hint("give the program's text as `code`, or `files`"));
        }
        (Some(code), None) => {
            let name = body.entry.unwrap_or_default();
            single_file(body.language, SourceFile { name, content: code.into_bytes() })
        }
        (None, Some(files)) => {
            if files.len() > bounds::FILES_MAX {
                let message = format!("{} files are more than the {} allowed", files.len(), bounds::FILES_MAX);
                return Err(Refusal::bad("too_many_files", "files", message));
            }
            let mut sources = Vec::with_capacity(files.len());
            for (index, file) in files.into_iter().enumerate() {
                check_file_name(&file.name)?;
                let content = encoded(file.content, file.encoding, &format!("files[{index}].content"))?;
                sources.push(SourceFile { name: file.name, content });
            }
            let first = sources.first().map(|file| file.name.clone());
            let entry = body.entry.or(first).ok_or_else(|| Refusal::bad("bad_files", "files", "files is empty"))?;
            several_files(body.language, &entry, sources)?
        }
    };
    request.arguments = body.args.into_iter().map(String::into_bytes).collect();
    request.environment = body.env.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
    request.limits = limits(&body.limits, body.timeout)?;
    request.files_out = body.files_out;
    let stdin = match (body.interactive, body.stdin) {
        (true, None) => Feed::Interactive,
        (true, Some(_)) => {
            return Err(Refusal::bad("bad_request", "stdin", "interactive runs get their stdin in messages"));
        }
        (false, stdin) => Feed::Bytes(encoded(stdin.unwrap_or_default(), body.stdin_encoding, "stdin")?.into()),
    };
    Ok(Submission { request, files, stdin, caller, dialect: "native", request_id, extract: None })
}

fn limits(asked: &LimitsBody, timeout: Option<f64>) -> Result<LimitsRequest, Refusal> {
    let time = |name: &str, milliseconds: Option<f64>| milliseconds.map(|value| duration_ms(name, value)).transpose();
    let wall_time = match (asked.wall_time_ms, timeout) {
        (Some(value), _) => Some(duration_ms("limits.wall_time_ms", value)?),
        (None, Some(value)) if value <= 60.0 => Some(duration_ms("timeout", value * 1e3)?),
        (None, Some(value)) => Some(duration_ms("timeout", value)?),
        (None, None) => None,
    };
    Ok(LimitsRequest {
        wall_time,
        cpu_time: time("limits.cpu_time_ms", asked.cpu_time_ms)?,
        memory_bytes: asked.memory_bytes,
        processes: asked.processes,
        output_bytes: asked.output_bytes,
        cpu_rate: asked.cpu_rate,
        ..LimitsRequest::default()
    })
}

/// # Errors
/// Zero, negative, or no number.
pub fn duration_ms(field: &str, milliseconds: f64) -> Result<Duration, Refusal> {
    let refuse = |why: &str| {
        let refusal = Refusal::bad("limit_out_of_range", field, format!("{field} = {milliseconds} {why}"));
        Err(refusal.hint("give a positive number, or leave it out for the default"))
    };
    if milliseconds.is_nan() || milliseconds <= 0.0 {
        return refuse("is not greater than zero");
    }
    match Duration::try_from_secs_f64(milliseconds / 1e3) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => refuse("is no time"),
    }
}

impl Encoding {
    /// # Errors
    /// The text is not of this encoding.
    pub fn decode(self, text: String) -> Result<Vec<u8>, &'static str> {
        match self {
            Encoding::Utf8 => Ok(text.into_bytes()),
            Encoding::Base64 => answer::from_base64(&text).ok_or("the text is no base64"),
            Encoding::Hex => from_hex(&text).ok_or("the text is no hexadecimal"),
        }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok())
        .collect()
}

#[utoipa::path(
    get, path = "/api/execute", tag = "native", params(ListParameters),
    responses((status = 200, body = Listing), NativeReadRefusals)
)]
pub async fn list(
    State(service): State<Arc<Service>>,
    identity: Identity,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<Listing>, NativeError> {
    let caller = identity.caller()?;
    Ok(Json(listing(&service, &caller, parameters).await?))
}

/// Executions that `caller` may see, newest first.
///
/// # Errors
/// A limit out of range, or the history cannot be read.
pub async fn listing(service: &Arc<Service>, caller: &Caller, parameters: ListParameters) -> Result<Listing, Refusal> {
    let limit = parameters.limit.unwrap_or(20);
    if limit == 0 || limit > ListQuery::LIMIT_MAX {
        let message = format!("limit = {limit} is not between 1 and {}", ListQuery::LIMIT_MAX);
        return Err(Refusal::bad("bad_request", "limit", message));
    }
    let offset = parameters.offset;
    let ListParameters { before, language, status, .. } = parameters;
    let page = service.history_page(caller, Wanted { limit, offset, before, language, status }).await?;
    let summary = |record: crate::history::Record| Summary {
        execution_id: record.id.clone(),
        id: record.id,
        status: record.status,
        language: record.language,
        timestamp: timestamp_ms(record.created_ms),
        exit_code: record.exit_code,
        wall_time_ms: record.wall_time_ms,
        memory_peak_bytes: record.memory_peak_bytes,
        message: record.message,
    };
    Ok(Listing { executions: page.records.into_iter().map(summary).collect(), total: page.total, limit, offset })
}

#[utoipa::path(
    get, path = "/api/execute/{id}", tag = "native", params(("id" = String, Path, description = "Id of the execution")),
    responses(
        (status = 200, description = "The verdict, or where it stands", body = Found),
        NativeReadRefusals,
    )
)]
pub async fn one(State(service): State<Arc<Service>>, identity: Identity, Id(id): Id) -> Result<Response, NativeError> {
    let caller = identity.caller()?;
    if let Some(execution) = service.visible(&caller, &id) {
        return Ok(match execution.answer() {
            Some(answer) => Json(execute_answer(&execution, answer, false)).into_response(),
            None => Json(accepted(&execution)).into_response(),
        });
    }
    match service.history_record(&caller, &id).await? {
        Some(record) => Ok(Json(recorded(record)).into_response()),
        None => Err(unknown(&id).into()),
    }
}

#[utoipa::path(
    delete, path = "/api/execute/{id}", tag = "native", params(("id" = String, Path, description = "Id of the execution")),
    responses(
        (status = 200, description = "It has ended; if it had not before, by this", body = Found),
        NativeReadRefusals,
    )
)]
pub async fn cancel(
    State(service): State<Arc<Service>>,
    identity: Identity,
    Id(id): Id,
) -> Result<Response, NativeError> {
    let caller = identity.caller()?;
    if let Some(execution) = service.visible(&caller, &id) {
        execution.cancel();
        let answer = execution.finished().await;
        return Ok(Json(execute_answer(&execution, answer, false)).into_response());
    }
    match service.history_record(&caller, &id).await? {
        Some(record) => Ok(Json(recorded(record)).into_response()),
        None => Err(unknown(&id).into()),
    }
}

#[utoipa::path(
    get, path = "/api/execute/{id}/events", tag = "native",
    params(("id" = String, Path, description = "Id of the execution"),
           ("Last-Event-ID" = Option<u64>, Header, description = "Events after this one only")),
    responses(
        (status = 200, description = "Server-sent events, or NDJSON if that is accepted",
         content((ServerSentEvent = "text/event-stream"), (Value = "application/x-ndjson"))),
        NativeReadRefusals,
    )
)]
pub async fn events(
    State(service): State<Arc<Service>>,
    identity: Identity,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, NativeError> {
    let caller = identity.caller()?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let from = match last.map(str::parse::<usize>) {
        None => 0,
        Some(Ok(last)) => last.saturating_add(1),
        Some(Err(_)) => return Err(Refusal::bad("bad_request", "Last-Event-ID", "Last-Event-ID is no number").into()),
    };
    let execution = service.visible(&caller, &id).ok_or_else(|| unknown(&id))?;
    let form = stream::Form::wanted(&headers).unwrap_or(stream::Form::Sse);
    Ok(stream::response(form, execution, from, None))
}

pub fn unknown(id: &str) -> Refusal {
    let shown: String = id.chars().take(64).collect();
    Refusal::new(Class::NotFound, "unknown_execution", format!("no execution is called {shown:?}"))
        .hint("ids come with the answer, as `id`; old executions are let go of")
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn asked(json: &str) -> Result<Submission, Refusal> {
        let caller = Caller { key: None, address: "127.0.0.1".to_owned() };
        submission(body::parse(json.as_bytes())?, caller, "r".to_owned())
    }

    #[test]
    fn timeouts_up_to_60_are_seconds_and_above_milliseconds() {
        for (timeout, milliseconds) in [("10", 10_000), ("60", 60_000), ("61", 61), ("10000", 10_000), ("0.5", 500)] {
            let submission = asked(&format!(r#"{{"code":"x","timeout":{timeout}}}"#)).unwrap();
            assert_eq!(submission.request.limits.wall_time, Some(Duration::from_millis(milliseconds)), "{timeout}");
        }
        let both = asked(r#"{"code":"x","timeout":10,"limits":{"wall_time_ms":50}}"#).unwrap();
        assert_eq!(both.request.limits.wall_time, Some(Duration::from_millis(50)));
    }

    #[test]
    fn contradictions_and_values_out_of_range_are_refused_by_field() {
        for (json, code, field) in [
            (r#"{"code":"x","files":[]}"#, "code_and_files", "files"),
            (r#"{"language":"c"}"#, "code_required", "code"),
            (r#"{"files":[]}"#, "bad_files", "files"),
            (r#"{"files":[{"name":"a.py","content":"!","encoding":"base64"}]}"#, "bad_encoding", "files[0].content"),
            (r#"{"files":[{"name":"a.py","content":"abc","encoding":"hex"}]}"#, "bad_encoding", "files[0].content"),
            (r#"{"files":[{"name":"a.py","content":""}],"entry":"b.py"}"#, "bad_request", "entry"),
            (r#"{"code":"x","limits":{"wall_time_ms":0}}"#, "limit_out_of_range", "limits.wall_time_ms"),
            (r#"{"code":"x","limits":{"cpu_time_ms":-1}}"#, "limit_out_of_range", "limits.cpu_time_ms"),
            (r#"{"code":"x","timeout":1e300}"#, "limit_out_of_range", "timeout"),
            (r#"{"code":"x","stdin":"a","stdin_encoding":"base64"}"#, "bad_encoding", "stdin"),
            (r#"{"code":"x","interactive":true,"stdin":"a"}"#, "bad_request", "stdin"),
        ] {
            let refusal = asked(json).err().unwrap_or_else(|| panic!("{json} was accepted"));
            assert_eq!((refusal.code, refusal.field.as_deref()), (code, Some(field)), "{json}");
        }
    }

    #[test]
    fn several_files_run_their_entry_and_contents_are_decoded() {
        let json = r#"{"files":[{"name":"lib.py","content":"eA==","encoding":"base64"},
                      {"name":"main.py","content":"6869","encoding":"hex"}],"entry":"main.py","input":"in"}"#;
        let submission = asked(json).unwrap();
        let contents: Vec<_> = submission.files.iter().map(|file| file.content.as_slice()).collect();
        assert_eq!(contents, [b"x".as_slice(), b"hi"]);
        assert_eq!(submission.request.files.len(), 1);
        assert!(matches!(submission.stdin, Feed::Bytes(bytes) if bytes == Bytes::from_static(b"in")));
    }
}
