//! Piston v2, under `/api/v2` and `/api/v2/piston`: its words, its limits, its errors.
//!
//! What is this service's own: a program's file without an extension gets its language's, as Piston's compilers do it;
//! memory and time are bounded by this service's ceilings even where Piston knows no bound.

mod job;
mod selector;
mod stages;

use std::sync::Arc;

use axum::extract::{OriginalUri, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use utoipa::ToSchema;

pub use self::job::{Job, PistonBody, job};
pub use self::stages::{Stage, exit_json, stages};
use super::caller::Identity;
use super::error::{run_refusals, status_code, with_headers};
use super::execute::CancelOnDrop;
use super::{body, piston_socket};
use crate::service::refusal::{Class, Refusal};
use crate::service::{Current, Service};
use crate::words::profile::Profile;

/// The routes, relative to `/api/v2`.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/runtimes", get(runtimes))
        .route("/execute", axum::routing::post(execute))
        .route("/packages", get(packages).post(install).delete(uninstall))
        .route("/connect", get(piston_socket::connect))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
}

/// A refusal in Piston's shape.
pub struct PistonError(pub Refusal);

impl From<Refusal> for PistonError {
    fn from(refusal: Refusal) -> PistonError {
        PistonError(refusal)
    }
}

impl IntoResponse for PistonError {
    fn into_response(self) -> Response {
        let body = Json(PistonMessage { message: self.0.message.clone() });
        with_headers(&self.0, (status_code(self.0.class), body).into_response())
    }
}

/// Why a request was not served.
#[derive(Debug, Serialize, ToSchema)]
pub struct PistonMessage {
    pub message: String,
}

run_refusals!(PistonRefusals, PistonMessage);

/// A language that can be run.
#[derive(Debug, Serialize, ToSchema)]
pub struct Runtime {
    pub language: String,
    /// A semantic version.
    pub version: String,
    pub aliases: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Package {
    pub language: String,
    pub language_version: String,
    pub installed: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PistonAnswer {
    pub language: String,
    pub version: String,
    pub run: Stage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compile: Option<Stage>,
}

#[utoipa::path(get, path = "/api/v2/runtimes", tag = "piston", responses((status = 200, body = Vec<Runtime>)))]
pub async fn runtimes(State(service): State<Arc<Service>>) -> Json<Vec<Runtime>> {
    let current = service.current();
    let runtime = |profile: &Profile| {
        let version = available(&current, profile)?;
        Some(Runtime { language: profile.name.clone(), version: version.to_string(), aliases: profile.aliases.clone() })
    };
    Json(current.profiles.iter().filter_map(runtime).collect())
}

#[utoipa::path(get, path = "/api/v2/packages", tag = "piston", responses((status = 200, body = Vec<Package>)))]
pub async fn packages(State(service): State<Arc<Service>>) -> Json<Vec<Package>> {
    let current = service.current();
    // The version of a language whose image is not built is known to nobody.
    let package = |profile: &Profile| {
        let state = current.languages.get(&profile.name)?;
        let version = selector::version(state.version.as_deref()?)?;
        Some(Package {
            language: profile.name.clone(),
            language_version: version.to_string(),
            installed: state.problem.is_none(),
        })
    };
    Json(current.profiles.iter().filter_map(package).collect())
}

/// Piston installs a language so; here its operator does.
#[utoipa::path(post, path = "/api/v2/packages", tag = "piston",
               responses((status = 403, description = "Always", body = PistonMessage)))]
pub async fn install() -> PistonError {
    no_packages()
}

/// The same of taking one away.
#[utoipa::path(delete, path = "/api/v2/packages", tag = "piston",
               responses((status = 403, description = "Always", body = PistonMessage)))]
pub async fn uninstall() -> PistonError {
    no_packages()
}

fn no_packages() -> PistonError {
    let message = "languages are installed by the operator: sandboxd rootfs build";
    PistonError(Refusal::new(Class::Forbidden, "not_by_http", message))
}

pub async fn no_such_path(OriginalUri(uri): OriginalUri) -> PistonError {
    let path: String = uri.path().chars().take(200).collect();
    PistonError(Refusal::new(Class::NotFound, "unknown_path", format!("there is no {path}")))
}

async fn no_such_method(method: Method, OriginalUri(uri): OriginalUri) -> PistonError {
    let message = format!("{} does not take {method}", uri.path());
    PistonError(Refusal::new(Class::MethodNotAllowed, "wrong_method", message))
}

#[utoipa::path(
    post, operation_id = "piston_execute", path = "/api/v2/execute", tag = "piston", request_body = PistonBody,
    responses(
        (status = 200, description = "How both steps ended", body = PistonAnswer),
        PistonRefusals,
    )
)]
pub async fn execute(
    State(service): State<Arc<Service>>,
    identity: Identity,
    request: Request,
) -> Result<Json<PistonAnswer>, PistonError> {
    let caller = identity.caller()?;
    service.check_rate(&caller)?;
    check_content_type(request.headers())?;
    let current = service.current();
    let bytes = body::read(request, &current.settings).await?;
    let fields = body::parse(&bytes)?;
    let Job { submission, language, version } = job(&current, fields, caller, identity.request_id, false)?;
    let execution = service.submit(submission)?;
    let guard = CancelOnDrop(Arc::clone(&execution));
    let answer = execution.verdict().await;
    drop(guard);
    let (run, compile) = stages(&execution, &answer?);
    Ok(Json(PistonAnswer { language, version, run, compile }))
}

/// Piston's clients leave the content type to their HTTP library, which names none, or text, for the JSON they hand it. So
/// these are taken too; but not from a browser, which sends them for a page of any origin without asking first, and always
/// says so with an `Origin`.
fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_json = body::check_content_type(headers).is_ok();
    let is_nothing_else =
        headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if is_json || (is_nothing_else && !headers.contains_key(header::ORIGIN)) {
        return Ok(());
    }
    Err(Refusal::new(Class::UnsupportedMediaType, "not_json", "requests must be of type application/json"))
}

/// The version of a language that can be run now.
fn available(current: &Current, profile: &Profile) -> Option<semver::Version> {
    let state = current.languages.get(&profile.name).filter(|state| state.problem.is_none())?;
    selector::version(state.version.as_deref()?)
}
