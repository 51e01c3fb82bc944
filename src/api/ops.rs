//! For operators: health, readiness, the state of the system, metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::caller::Identity;
use super::error::{NativeError, OperatorRefusals};
use crate::service::metrics::resident_memory_bytes;
use crate::service::refusal::{Class, Refusal};
use crate::service::{Caller, Current, Service};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[utoipa::path(get, path = "/health", tag = "operations", responses((status = 200, description = "The process answers", body = Value)))]
pub async fn health() -> Json<Value> {
    Json(json!({"status": "ok", "version": VERSION}))
}

#[utoipa::path(
    get, path = "/api/health", tag = "operations", responses((status = 200, description = "As /health", body = Value))
)]
pub async fn api_health() -> Json<Value> {
    health().await
}

#[utoipa::path(
    get, path = "/api/health/ready", tag = "operations",
    responses(
        (status = 200, description = "Runs are accepted", body = Value),
        (status = 503, description = "They are not, and why", body = Value),
    )
)]
pub async fn ready(State(service): State<Arc<Service>>, identity: Identity) -> Response {
    let reasons = service.not_ready();
    let current = service.current();
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let status = if reasons.is_empty() { "ready" } else { "not_ready" };
    let problems = problems(&current, &identity);
    let body = json!({"status": status, "ready": reasons.is_empty(), "reasons": reasons, "problems": problems});
    (code, Json(body)).into_response()
}

#[utoipa::path(
    get, path = "/api/health/detailed", tag = "operations",
    responses((status = 200, description = "Health with load and languages", body = Value))
)]
pub async fn detailed(State(service): State<Arc<Service>>, identity: Identity) -> Json<Value> {
    let reasons = service.not_ready();
    let current = service.current();
    let (running, queued) = service.admission.load();
    let available: Vec<&str> =
        current.languages.values().filter(|state| state.problem.is_none()).map(|state| state.name.as_str()).collect();
    Json(json!({
        "status": if reasons.is_empty() { "ok" } else { "degraded" },
        "version": VERSION,
        "uptime_seconds": service.started.elapsed().as_secs(),
        "reasons": reasons,
        "problems": problems(&current, &identity),
        "running": running,
        "queued": queued,
        "max_concurrent": service.admission.bounds().concurrent_max,
        "supervisors": service.fleet.count(),
        "languages": available,
    }))
}

#[utoipa::path(
    get, path = "/api/system", tag = "operations",
    responses((status = 200, description = "Host, load, counters", body = Value), OperatorRefusals)
)]
pub async fn system(State(service): State<Arc<Service>>, identity: Identity) -> Result<Json<Value>, NativeError> {
    identity.caller()?;
    let current = service.current();
    let host = &current.host;
    let (running, queued) = service.admission.load();
    let bounds = service.admission.bounds();
    let (kept, kept_bytes) = service.executions.load();
    let (compiled_bytes, compiled) = service.compiled().load();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<f64> = load.split(' ').take(3).filter_map(|number| number.parse().ok()).collect();
    let versions: serde_json::Map<String, Value> =
        current.languages.values().map(|state| (state.name.clone(), json!(state.version))).collect();
    let history = service.history.as_ref();
    Ok(Json(json!({
        "version": VERSION,
        "uptime_seconds": service.started.elapsed().as_secs(),
        "host": {
            "kernel": host.kernel, "cores": host.cores, "cgroup": host.cgroup.name(),
            "landlock_abi": host.landlock_abi, "seccomp": host.seccomp, "namespaces": host.namespaces,
        },
        "load": load,
        "running": running, "queued": queued,
        "max_concurrent": bounds.concurrent_max, "queue_max": bounds.queue_max,
        "supervisors": service.fleet.count(),
        "executions_kept": kept, "executions_kept_bytes": kept_bytes,
        "compiled_kept": compiled, "compiled_kept_bytes": compiled_bytes,
        "history_dropped": history.map(crate::history::History::dropped),
        "history_bytes": history.map(crate::history::History::database_bytes),
        "memory_bytes": resident_memory_bytes(),
        "languages": versions,
        "problems": problems(&current, &identity),
    })))
}

#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses(
        (status = 200, description = "Prometheus text", body = String, content_type = "application/openmetrics-text"),
        OperatorRefusals,
    )
)]
pub async fn metrics(State(service): State<Arc<Service>>, identity: Identity) -> Result<Response, NativeError> {
    require_admin(&identity.caller()?)?;
    service.measure();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], service.metrics.text()).into_response())
}

/// What is wrong with the configuration: to operators in its own words, with the files it is in; to others, that there is
/// something.
fn problems(current: &Current, identity: &Identity) -> Vec<String> {
    let is_operator = identity.caller().is_ok_and(|caller| match &caller.key {
        Some(key) => key.admin,
        None => !current.settings.open,
    });
    if is_operator {
        return current.problems.clone();
    }
    current.problems.iter().map(|_| "a part of the configuration; operators are told which".to_owned()).collect()
}

/// # Errors
/// Keys are configured, and this one is not marked `admin`.
fn require_admin(caller: &Caller) -> Result<(), Refusal> {
    match &caller.key {
        Some(key) if !key.admin => {
            let message = format!("key {} is not an administrator's", key.name);
            Err(Refusal::new(Class::Forbidden, "not_admin", message).hint("use a key with admin = true"))
        }
        _ => Ok(()),
    }
}
