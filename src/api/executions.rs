//! workers' history: `GET /executions` and `GET /executions/{id}`, every run with who asked for what, when, and its end.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::caller::Identity;
use super::codesandbox::raw;
use super::execute::{timestamp_ms, unknown};
use super::function;
use super::seeds::{SeedError, SeedReadRefusals, plain};
use crate::answer::{Thrown, text_or_base64};
use crate::history::{Details, ListQuery, RUNNING, Record};
use crate::service::refusal::{Class, Refusal};
use crate::service::{Caller, Service, Wanted};
use crate::words::verdict::Status;

/// Longest wait for the history to write down the end of a run that has ended, and how often it is looked at.
const RECORD_TIME_MAX: Duration = Duration::from_secs(2);
const RECORD_RETRY: Duration = Duration::from_millis(10);

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExecutionsParameters {
    /// 20 unless it is given.
    #[param(minimum = 1, maximum = 100, nullable = false)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub offset: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Executions {
    /// Newest first.
    pub executions: Vec<PastExecution>,
    /// Of all pages.
    pub total: u64,
    pub limit: u32,
    pub offset: u64,
    #[serde(rename = "hasMore")]
    pub has_more: bool,
}

/// A run that the history knows.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastExecution {
    pub id: String,
    pub execution_id: String,
    pub language: String,
    /// The verdict's word, `running`, or `interrupted` where the service ended first.
    pub status: String,
    pub success: bool,
    /// Why it was no success, once it has ended.
    pub error: Option<String>,
    /// Wall time in milliseconds.
    pub execution_time: Option<f64>,
    pub created_at: String,
    pub completed_at: Option<String>,
    pub audit: Audit,
}

/// A run with what only one execution is asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct DetailedExecution {
    #[serde(flatten)]
    pub execution: PastExecution,
    #[serde(flatten)]
    pub details: PastDetails,
}

/// Who asked for what.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// Name of the key.
    pub caller: Option<String>,
    pub address: Option<String>,
    pub request_id: String,
    /// `workers` for functions, `codesandbox` for programs, `native`, `light`, `piston`.
    pub dialect: String,
    /// Version of the language.
    pub version: Option<String>,
    pub source_sha256: String,
    pub source_bytes: u64,
    pub files: u32,
    pub exit_code: Option<i32>,
    pub signal: Option<String>,
    pub cpu_time_ms: Option<f64>,
    pub memory_peak_bytes: Option<u64>,
    pub queue_time_ms: Option<f64>,
    /// System calls that were denied.
    pub denied_syscalls: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastDetails {
    /// The source, where the operator lets it be kept.
    pub code: Option<String>,
    /// Function mode: what the function returned.
    #[schema(value_type = Option<Value>)]
    pub result: Option<Box<RawValue>>,
    /// Function mode: its console calls.
    #[schema(value_type = Option<Vec<super::workers::Log>>)]
    pub logs: Option<Box<RawValue>>,
    pub error_detail: Option<Thrown>,
    /// What was written to stdout, as far as it was kept.
    pub output: String,
    pub stderr: String,
}

#[utoipa::path(
    get, path = "/executions", operation_id = "list_executions", tag = "workers", params(ExecutionsParameters),
    responses((status = 200, body = Executions), SeedReadRefusals)
)]
pub async fn list(
    State(service): State<Arc<Service>>,
    identity: Identity,
    parameters: Result<Query<ExecutionsParameters>, QueryRejection>,
) -> Result<Json<Executions>, SeedError> {
    let caller = identity.caller()?;
    let Query(parameters) =
        parameters.map_err(|error| Refusal::new(Class::BadRequest, "bad_request", error.body_text()))?;
    let limit = parameters.limit.unwrap_or(20);
    if limit == 0 || limit > ListQuery::LIMIT_MAX {
        let message = format!("limit = {limit} is not between 1 and {}", ListQuery::LIMIT_MAX);
        return Err(Refusal::bad("bad_request", "limit", message).into());
    }
    let offset = parameters.offset;
    let page = service.history_page(&caller, Wanted { limit, offset, ..Wanted::default() }).await?;
    let has_more = offset.saturating_add(page.records.len() as u64) < page.total;
    let executions = page.records.into_iter().map(past).collect();
    Ok(Json(Executions { executions, total: page.total, limit, offset, has_more }))
}

#[utoipa::path(
    get, path = "/executions/{id}", operation_id = "get_execution", tag = "workers", params(("id" = String, Path, description = "Id of the execution")),
    responses((status = 200, body = DetailedExecution), SeedReadRefusals)
)]
pub async fn one(
    State(service): State<Arc<Service>>,
    identity: Identity,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<DetailedExecution>, SeedError> {
    let caller = identity.caller()?;
    let Path(id) = id.map_err(|_| Refusal::bad("bad_request", "id", "the id in the path is no text"))?;
    if service.history.is_none() {
        let refusal = Refusal::new(Class::NotFound, "no_history", "this service keeps no history");
        return Err(refusal.hint("an operator turns it on with history.enabled = true").into());
    }
    let record = recorded(&service, &caller, &id).await?;
    Ok(Json(detailed(record.ok_or_else(|| unknown(&id))?)))
}

/// What the history says of an execution. Writing goes on behind the answers; whoever asks for a run that has ended is
/// not told that it is still running.
async fn recorded(service: &Arc<Service>, caller: &Caller, id: &str) -> Result<Option<Record>, Refusal> {
    let ended = service.visible(caller, id).is_some_and(|execution| execution.is_finished());
    let asked = tokio::time::Instant::now();
    loop {
        let record = service.history_record(caller, id).await?;
        let is_behind = ended && record.as_ref().is_none_or(|record| record.status == RUNNING);
        if !is_behind || asked.elapsed() > RECORD_TIME_MAX {
            return Ok(record);
        }
        tokio::time::sleep(RECORD_RETRY).await;
    }
}

fn detailed(mut record: Record) -> DetailedExecution {
    let details = record.details.take().unwrap_or_default();
    let details = past_details(details, &record);
    DetailedExecution { execution: past(record), details }
}

fn is_function(record: &Record) -> bool {
    record.dialect == "workers"
}

fn past(record: Record) -> PastExecution {
    // A function that ended well without a result says so in its message.
    let success =
        record.status == Status::Ok.word() && !(is_function(&record) && record.message == function::NO_RESULT);
    let ended = record.finished_ms.is_some();
    PastExecution {
        execution_id: record.id.clone(),
        id: record.id,
        language: record.language,
        status: record.status,
        success,
        error: (!success && ended).then_some(record.message),
        execution_time: record.wall_time_ms,
        created_at: timestamp_ms(record.created_ms),
        completed_at: record.finished_ms.map(timestamp_ms),
        audit: Audit {
            caller: record.caller,
            address: record.address,
            request_id: record.request_id,
            dialect: record.dialect,
            version: record.version,
            source_sha256: record.source_sha256,
            source_bytes: record.source_bytes,
            files: record.files,
            exit_code: record.exit_code,
            signal: record.signal,
            cpu_time_ms: record.cpu_time_ms,
            memory_peak_bytes: record.memory_peak_bytes,
            queue_time_ms: record.queue_time_ms,
            denied_syscalls: record.denied_syscalls,
        },
    }
}

fn past_details(details: Details, record: &Record) -> PastDetails {
    /// The part of an answer that is looked for.
    #[derive(Default, Deserialize)]
    struct Kept {
        thrown: Option<Thrown>,
    }
    let kept: Option<Kept> = details.answer_json.as_deref().and_then(|json| serde_json::from_str(json).ok());
    let text = |bytes: Vec<u8>, truncated_bytes: u64| {
        let (text, encoding) = text_or_base64(bytes, truncated_bytes > 0);
        plain(&text, encoding)
    };
    PastDetails {
        code: details.source,
        result: details.result_json.and_then(raw),
        logs: details.logs_json.filter(|_| is_function(record)).and_then(raw),
        error_detail: kept.unwrap_or_default().thrown,
        output: text(details.stdout, record.stdout_truncated_bytes),
        stderr: text(details.stderr, record.stderr_truncated_bytes),
    }
}
