//! What the faces of the services before this one share: the shape of their errors, and how they run a program.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{read_refusals, run_refusals, status_code, with_headers};
use super::execute::CancelOnDrop;
use crate::answer::{Answer, from_base64};
use crate::service::execution::Execution;
use crate::service::refusal::{Class, Refusal};
use crate::service::{Caller, Current, Service, Submission};

/// Wall time of a run that asks for none, as light and workers promise it.
pub const WALL_TIME_DEFAULT: Duration = Duration::from_secs(30);

/// Why a request was not served. Their documents show no error; this has the fields that clients of such services look for.
#[derive(Debug, Serialize, ToSchema)]
pub struct SeedErrorBody {
    /// False.
    pub success: bool,
    /// A sentence that names the thing.
    pub error: String,
    /// As `error`, where clients of FastAPI services look.
    pub detail: String,
    /// A word for programs.
    pub code: &'static str,
    /// The remedy, where there is one.
    pub hint: Option<String>,
    /// The part of the request that is at fault, where it is one.
    pub field: Option<String>,
}

run_refusals!(SeedRunRefusals, SeedErrorBody);
read_refusals!(SeedReadRefusals, SeedErrorBody);

/// A refusal in that shape.
pub struct SeedError(pub Refusal);

impl From<Refusal> for SeedError {
    fn from(refusal: Refusal) -> SeedError {
        SeedError(refusal)
    }
}

impl IntoResponse for SeedError {
    fn into_response(self) -> Response {
        let refusal = self.0;
        let body = SeedErrorBody {
            success: false,
            error: refusal.message.clone(),
            detail: refusal.message.clone(),
            code: refusal.code,
            hint: refusal.hint.clone(),
            field: refusal.field.clone(),
        };
        with_headers(&refusal, (status_code(refusal.class), Json(body)).into_response())
    }
}

/// The answer to a method that a path of theirs does not take.
pub async fn wrong_method(request: Request) -> SeedError {
    let (method, path) = (request.method(), request.uri().path());
    SeedError(
        Refusal::new(Class::MethodNotAllowed, "wrong_method", format!("{path} does not take {method}"))
            .hint("see /docs"),
    )
}

/// Does what `caller` asks for, if it is not one request too many.
///
/// # Errors
/// It is.
pub async fn counted<R: IntoResponse>(
    service: &Service,
    caller: &Caller,
    work: impl Future<Output = Result<R, SeedError>>,
) -> Result<Response, SeedError> {
    service.check_rate(caller)?;
    Ok(work.await.into_response())
}

/// Runs a program to its end, or to that of the request.
///
/// # Errors
/// It was not accepted, or has no verdict.
pub async fn run(service: &Arc<Service>, submission: Submission) -> Result<(Arc<Execution>, Answer), Refusal> {
    let execution = service.submit(submission)?;
    let guard = CancelOnDrop(Arc::clone(&execution));
    let answer = execution.verdict().await;
    drop(guard);
    Ok((execution, answer?))
}

/// The wall time to ask for: the caller's own, else the operator's default, else `promised` as far as it may be had.
pub fn wall_time(
    current: &Current,
    caller: &Caller,
    language: &str,
    asked: Option<Duration>,
    promised: Duration,
) -> Option<Duration> {
    if asked.is_some() || current.settings.wall_time_default.is_some() {
        return asked;
    }
    let profile = current.profiles.by_name(language)?;
    let ceiling = current.limits_of(profile, caller).0.wall_time;
    Some(ceiling.map_or(promised, |ceiling| ceiling.min(promised)))
}

/// Output as text, whatever it is.
pub fn plain(text: &str, encoding: &str) -> String {
    match encoding {
        "base64" => String::from_utf8_lossy(&from_base64(text).unwrap_or_default()).into_owned(),
        _ => text.to_owned(),
    }
}

/// The header that tells an execution's id where the body has no place for it.
pub fn with_id(execution: &Execution, mut response: Response) -> Response {
    if let Ok(value) = HeaderValue::from_str(&execution.about.id) {
        response.headers_mut().insert("x-execution-id", value);
    }
    response
}
