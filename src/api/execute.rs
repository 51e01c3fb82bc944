//! `/api/execute`: the native face, with the fields of codify and backend beside its own.

mod answer;
mod request;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

pub use self::answer::{
    Accepted, Chunk, ExecuteAnswer, Found, Listing, ServerSentEvent, Summary, accepted, chunk, execute_answer,
    recorded, stage_word, timestamp_ms,
};
pub use self::request::{Encoding, ExecuteBody, FileBody, LimitsBody, duration_ms, submission};
use super::body::{Id, Parameters};
use super::caller::Identity;
use super::error::{NativeError, NativeReadRefusals, NativeRunRefusals, add_rate_headers};
use super::{body, stream};
use crate::history::ListQuery;
use crate::service::execution::Execution;
use crate::service::refusal::{Class, Refusal};
use crate::service::{Caller, Service, Wanted};

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
