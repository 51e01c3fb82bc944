//! `POST /execute`: codesandbox's programs and workers' functions, by one path.
//!
//! codesandbox sends `{code, language, timeout}` with the timeout in seconds; workers `{code, language, context, config}`,
//! where the code is the body of an async function. A body with `context` or `config` is of the second kind, and so is
//! JavaScript or TypeScript with a `return` at its top level, which no program can have. The answer is one for both.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, Value};
use utoipa::ToSchema;

use super::caller::Identity;
use super::execute::duration_ms;
use super::seeds::{self, SeedError, SeedRunRefusals};
use super::{body, function, object, workers};
use crate::answer::{Answer, Thrown};
use crate::service::execution::Execution;
use crate::service::refusal::Refusal;
use crate::service::{Caller, Current, Extracted, Feed, Service, Submission, single_file};
use crate::words::request::SourceFile;
use crate::words::verdict::Status;

/// A program, or the body of a function.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunBody {
    pub code: String,
    /// Name or alias; a function's is JavaScript unless it is named.
    pub language: Option<String>,
    /// Longest wall time in seconds.
    #[schema(exclusive_minimum = 0.0)]
    pub timeout: Option<f64>,
    /// Function mode: the value of `context`.
    pub context: Option<Value>,
    /// Function mode: its timeout and what it may use.
    #[serde(default, deserialize_with = "object::optional")]
    pub config: Option<workers::RunConfig>,
}

/// What came of it, in the words of both services.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunAnswer {
    /// The program ended with exit code 0; the function returned.
    pub success: bool,
    /// What was written to stdout.
    pub output: String,
    /// Why it was no success.
    pub error: Option<String>,
    /// Wall time in seconds.
    pub execution_time: f64,
    /// Function mode: what the function returned; `null` for `undefined`.
    #[schema(value_type = Option<Value>)]
    pub result: Option<Box<RawValue>>,
    /// Console calls as `{level, message}`. Of a JavaScript program: its lines, by stream.
    #[schema(value_type = Vec<workers::Log>)]
    pub logs: Box<RawValue>,
    /// Wall time in milliseconds.
    #[serde(rename = "executionTime")]
    pub execution_time_ms: f64,
    #[serde(rename = "executionId")]
    pub execution_id: String,
    /// Function mode: the error that was thrown, with its place.
    #[serde(rename = "errorDetail")]
    pub error_detail: Option<Thrown>,
    /// What was written to stderr.
    pub stderr: String,
    /// The verdict's word.
    pub status: &'static str,
}

#[utoipa::path(
    post, operation_id = "codesandbox_execute", path = "/execute", operation_id = "execute_code", tag = "codesandbox", request_body = RunBody,
    responses(
        (status = 200, description = "What came of it; an error of the code is one in the answer", body = RunAnswer),
        SeedRunRefusals,
    )
)]
pub async fn execute(
    State(service): State<Arc<Service>>,
    identity: Identity,
    request: Request,
) -> Result<Response, SeedError> {
    let caller = identity.caller()?;
    let work = execute_now(&service, caller.clone(), identity.request_id, request);
    seeds::counted(&service, &caller, work).await
}

async fn execute_now(
    service: &Arc<Service>,
    caller: Caller,
    request_id: String,
    request: Request,
) -> Result<Json<RunAnswer>, SeedError> {
    let current = service.current();
    let body: RunBody = body::json(request, &current.settings).await?;
    let submission = submission(&current, body, caller, request_id)?;
    let (execution, answer) = seeds::run(service, submission).await?;
    Ok(Json(run_answer(&execution, &answer)))
}

/// Whether `body` is a function's; code of a language that is not known is a program, and refused as that.
fn is_function(current: &Current, body: &RunBody) -> bool {
    if body.context.is_some() || body.config.is_some() {
        return true;
    }
    let language = body.language.as_deref().map(|name| current.profiles.by_name(name).map(|profile| &profile.name));
    let can_be = match language {
        None => true,
        Some(language) => language.is_some_and(|name| function::is_language(name)),
    };
    can_be && function::has_top_level_return(&body.code)
}

fn submission(current: &Current, body: RunBody, caller: Caller, request_id: String) -> Result<Submission, Refusal> {
    let seconds = body.timeout.map(|seconds| duration_ms("timeout", seconds * 1e3)).transpose()?;
    if is_function(current, &body) {
        return workers::submission(current, body, seconds, caller, request_id);
    }
    let file = SourceFile { name: String::new(), content: body.code.into_bytes() };
    let (mut request, files) = single_file(body.language, file);
    if request.language.is_none() {
        return Err(Refusal::bad("language_required", "language", "language is missing").hint("name one of /languages"));
    }
    request.limits.wall_time = seconds;
    let stdin = Feed::Bytes(Default::default());
    Ok(Submission { request, files, stdin, caller, dialect: "codesandbox", request_id, extract: None })
}

fn run_answer(execution: &Execution, answer: &Answer) -> RunAnswer {
    let step = &answer.run;
    let output = seeds::plain(&step.output.stdout, step.output.stdout_encoding);
    let stderr = stderr(answer);
    let extracted = execution.extracted();
    let is_function = extracted.is_some();
    let Extracted { result_json, logs_json } = extracted.unwrap_or_else(|| Extracted {
        result_json: None,
        logs_json: Some(workers::logs_of_program(execution.about.language.as_deref(), &output, &stderr)),
    });
    let success = step.status == Status::Ok.word() && (!is_function || result_json.is_some());
    RunAnswer {
        success,
        error: (!success).then(|| error(answer, &stderr, is_function)),
        output,
        execution_time: step.usage.wall_time_ms.round() / 1e3,
        result: result_json.and_then(raw),
        logs: logs_json.and_then(raw).unwrap_or_else(|| RawValue::NULL.to_owned()),
        execution_time_ms: step.usage.wall_time_ms,
        execution_id: execution.about.id.clone(),
        error_detail: answer.thrown.clone(),
        stderr,
        status: step.status,
    }
}

/// What the program wrote to stderr; for one that did not compile, what its compiler wrote.
fn stderr(answer: &Answer) -> String {
    match &answer.compile {
        Some(compile) if answer.run.status == Status::CompileError.word() => {
            let output = &compile.output;
            seeds::plain(&output.stderr, output.stderr_encoding) + &seeds::plain(&output.stdout, output.stdout_encoding)
        }
        _ => seeds::plain(&answer.run.output.stderr, answer.run.output.stderr_encoding),
    }
}

/// Why there was no success: what the program says itself, unless it was ended by another.
fn error(answer: &Answer, stderr: &str, is_function: bool) -> String {
    let speaks = [Status::NonzeroExit.word(), Status::CompileError.word()].contains(&answer.run.status);
    if speaks && !is_function && !stderr.is_empty() { stderr.to_owned() } else { answer.run.message.clone() }
}

/// JSON text as it is.
pub fn raw(json: String) -> Option<Box<RawValue>> {
    RawValue::from_string(json).ok()
}
