//! The faces to the outside: one file a dialect. Each translates its own words to the crate's and back.

pub mod body;
pub mod caller;
pub mod codesandbox;
pub mod error;
pub mod execute;
pub mod executions;
pub mod function;
pub mod host;
pub mod languages;
pub mod light;
mod object;
pub mod openapi;
pub mod ops;
pub mod pages;
pub mod piston;
pub mod piston_socket;
pub mod seeds;
pub mod socket;
pub mod stream;
pub mod validate;
pub mod websocket;
pub mod workers;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument as _;
use tracing::field::Empty;

use self::caller::Identity;
use self::error::NativeError;
use self::websocket::Times;
use crate::service::Service;
use crate::service::metrics::RequestLabels;
use crate::service::refusal::{Class, Refusal};

/// Every face in one router.
pub fn app(service: Arc<Service>) -> Router {
    app_with(service, Times::default())
}

/// The same with other times of WebSockets.
pub fn app_with(service: Arc<Service>, times: Times) -> Router {
    let cors = cors(&service.current().settings.cors_origins);
    Router::new()
        .route("/api/execute", post(execute::execute).get(execute::list))
        .route("/api/execute/{id}", get(execute::one).delete(execute::cancel))
        .route("/api/execute/{id}/events", get(execute::events))
        .route("/api/languages", get(languages::languages))
        .route("/api/system", get(ops::system))
        .route("/health", get(ops::health))
        .route("/api/health", get(ops::api_health))
        .route("/api/health/ready", get(ops::ready))
        .route("/api/health/detailed", get(ops::detailed))
        .route("/metrics", get(ops::metrics))
        .route("/openapi.json", get(openapi::document))
        .merge(pages::files())
        .route("/", get(root))
        .route("/ws", get(socket::socket))
        // Piston.
        .nest("/api/v2", piston::routes())
        .nest("/api/v2/piston", piston::routes())
        // Nested routes do not begin before this slash.
        .route("/api/v2/", any(piston::no_such_path))
        // light.
        .route("/typescript", post(light::typescript).fallback(seeds::wrong_method))
        // codesandbox and workers.
        .route("/execute", post(codesandbox::execute).fallback(seeds::wrong_method))
        .route("/validate", post(validate::validate).fallback(seeds::wrong_method))
        .route("/executions", get(executions::list).fallback(seeds::wrong_method))
        .route("/executions/{id}", get(executions::one).fallback(seeds::wrong_method))
        .route("/languages", get(languages::languages).fallback(seeds::wrong_method))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(Extension(times))
        .layer(middleware::from_fn_with_state(Arc::clone(&service), count))
        .layer(middleware::from_fn_with_state(Arc::clone(&service), caller::identify))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(cors)
        .with_state(service)
}

/// `/` is a WebSocket for whoever upgrades, and the front page for everybody else.
async fn root(
    state: State<Arc<Service>>,
    identity: Identity,
    place: Option<Extension<caller::Place>>,
    times: Extension<Times>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if headers.contains_key(header::UPGRADE) {
        return socket::socket(state, identity, place, times, headers, upgrade).await.into_response();
    }
    let languages = state.current().profiles.iter().map(|profile| profile.name.clone()).collect();
    pages::front_page(&headers, languages)
}

async fn no_such_path(request: Request) -> NativeError {
    let path: String = request.uri().path().chars().take(200).collect();
    let refusal = Refusal::new(Class::NotFound, "unknown_path", format!("there is no {path}"));
    NativeError(refusal.hint("see /docs"))
}

async fn no_such_method(request: Request) -> NativeError {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let refusal = Refusal::new(Class::MethodNotAllowed, "wrong_method", format!("{path} does not take {method}"));
    NativeError(refusal.hint("see /docs"))
}

/// A bug of ours in one request is the end of that request alone.
fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("no text"), "a request ended in a panic");
    NativeError(Refusal::new(Class::Internal, "internal", "something went wrong on our side")).into_response()
}

/// Counts requests by route and status, and logs them.
async fn count(State(service): State<Arc<Service>>, identity: Identity, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let Identity { request_id, address, .. } = identity;
    let span = tracing::info_span!(target: "requests", "request", %method, route, address, request_id, status = Empty);
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    span.record("status", status);
    let took_ms = stream::milliseconds(began.elapsed());
    span.in_scope(|| tracing::info!(target: "requests", took_ms, "answered"));
    service.metrics.requests.get_or_create(&RequestLabels { route, status }).inc();
    response
}

fn cors(origins: &[String]) -> CorsLayer {
    let allowed = match origins {
        [only] if only == "*" => AllowOrigin::any(),
        origins => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    let headers = [
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
        HeaderName::from_static("x-api-key"),
        HeaderName::from_static("last-event-id"),
    ];
    let exposed =
        ["x-request-id", "x-execution-id", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "retry-after"];
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(headers)
        .expose_headers(exposed.map(HeaderName::from_static))
}
