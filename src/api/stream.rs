//! Events of an execution as they come: server-sent events or lines of JSON.
//!
//! A reader that is slow is given what there is when it asks again; nothing is held back for it beyond what the
//! execution keeps anyway.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use super::execute::{CancelOnDrop, chunk, execute_answer, stage_word};
use crate::service::execution::{Event, EventKind, Execution};

/// After so long without an event a comment or an empty line goes out, so that those between know the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Sse,
    NdJson,
}

impl Form {
    /// The form that the `Accept` header asks for, if it does.
    pub fn wanted(headers: &HeaderMap) -> Option<Form> {
        let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
        accept.split(',').find_map(|kind| match kind.split(';').next()?.trim() {
            "text/event-stream" => Some(Form::Sse),
            "application/x-ndjson" | "application/jsonl" => Some(Form::NdJson),
            _ => None,
        })
    }
}

/// The events of `execution` from number `from` on; `guard` goes with the response's body.
pub fn response(form: Form, execution: Arc<Execution>, from: usize, guard: Option<CancelOnDrop>) -> Response {
    let id = execution.about.id.clone();
    let next = move |(execution, position, guard): (Arc<Execution>, usize, Option<CancelOnDrop>)| async move {
        let events = tokio::time::timeout(KEEP_ALIVE, execution.events_from(position)).await;
        let (bytes, position) = match events {
            Ok(None) => return None,
            Ok(Some(events)) => (encode(form, &execution, position, &events), position + events.len()),
            Err(_) => (Bytes::from_static(if form == Form::Sse { b": still here\n\n" } else { b"\n" }), position),
        };
        Some((Ok::<_, Infallible>(bytes), (execution, position, guard)))
    };
    let body = Body::from_stream(stream::unfold((execution, from, guard), next));
    let kind = match form {
        Form::Sse => "text/event-stream",
        Form::NdJson => "application/x-ndjson",
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect the events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-execution-id", value);
    }
    response
}

fn encode(form: Form, execution: &Execution, first: usize, events: &[Event]) -> Bytes {
    let mut text = String::new();
    for (index, event) in events.iter().enumerate() {
        let value = event_json(execution, event);
        match form {
            Form::NdJson => text += &format!("{value}\n"),
            Form::Sse => {
                let kind = value["type"].as_str().unwrap_or_default();
                text += &format!("id: {}\nevent: {kind}\ndata: {value}\n\n", first + index);
            }
        }
    }
    text.into()
}

/// One event as JSON; its `type` tells the rest.
pub fn event_json(execution: &Execution, event: &Event) -> Value {
    let time_ms = milliseconds(event.time);
    match &event.kind {
        EventKind::Queued { position } => {
            json!({"type": "queued", "execution_id": execution.about.id, "position": position, "time_ms": time_ms})
        }
        EventKind::Stage(step) => {
            json!({"type": "stage", "execution_id": execution.about.id, "stage": stage_word(*step), "time_ms": time_ms})
        }
        EventKind::Output { .. } => {
            let mut value = chunk(event).and_then(|chunk| serde_json::to_value(chunk).ok()).unwrap_or_default();
            value["type"] = "output".into();
            value
        }
        EventKind::Finished => {
            let answer = execution.answer().map(|answer| execute_answer(execution, answer, false));
            json!({"type": "finished", "time_ms": time_ms, "answer": answer})
        }
    }
}

/// To three places: microseconds, where it is milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
