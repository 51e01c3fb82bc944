//! Request bodies: bounded in size and time, parsed strictly, with errors that name line, column, field and remedy.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use nix::errno::Errno;
use serde::de::DeserializeOwned;

use super::error::NativeError;
use crate::runner;
use crate::service::refusal::{Class, Refusal};
use crate::words::limits::{format_size, format_time};
use crate::words::settings::ServiceSettings;
use crate::words::suggest;

/// Of a body that is too large, so much is read on before the answer.
const DISCARD_BYTES_MAX: usize = 64 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// When to send again what there was no room for.
const RETRY: Duration = Duration::from_secs(1);

/// What follows the `?` of a native path.
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = NativeError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Parameters<T>, NativeError> {
        let refused = |error: axum::extract::rejection::QueryRejection| {
            let text = error.body_text();
            let why = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            NativeError(Refusal::bad("bad_request", "query", format!("the query is not understood: {why}")))
        };
        Query::try_from_uri(&parts.uri).map(|Query(value)| Parameters(value)).map_err(refused)
    }
}

/// The id in a native path.
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = NativeError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, NativeError> {
        let refused = |_| NativeError(Refusal::bad("bad_request", "id", "the id in the path is no text"));
        Path::from_request_parts(parts, state).await.map(|Path(id)| Id(id)).map_err(refused)
    }
}

/// Reads the whole body of `request`.
///
/// # Errors
/// It is too large, too slow, or breaks off.
pub async fn read(request: Request, settings: &ServiceSettings) -> Result<Bytes, Refusal> {
    let bytes_max = settings.body_bytes_max;
    let too_large = || {
        let message = format!("the body is over {}", format_size(bytes_max));
        Refusal::new(Class::TooLarge, "body_too_large", message).hint("send less, or raise body_bytes_max")
    };
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > bytes_max) {
        // Whoever asks before sending is answered instead.
        if !request.headers().contains_key(header::EXPECT) {
            discard(request.into_body()).await;
        }
        return Err(too_large());
    }
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let mut body = request.into_body();
    let time_max = settings.body_time_max;
    match tokio::time::timeout(time_max, collect(&mut body, bytes_max)).await {
        Err(_) => Err(slow(time_max)),
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => {
            discard(body).await;
            Err(too_large())
        }
        Ok(Err(error)) => Err(broken(&error)),
    }
}

/// All of `body`; `None` when it is longer than `bytes_max`.
async fn collect(body: &mut Body, bytes_max: usize) -> Result<Option<Bytes>, axum::Error> {
    let mut whole = Bytes::new();
    let mut parts = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if whole.len() + parts.len() + data.len() > bytes_max {
            return Ok(None);
        }
        // Most come in one piece, which need not be copied.
        if whole.is_empty() && parts.is_empty() {
            whole = data;
        } else {
            parts.extend_from_slice(&std::mem::take(&mut whole));
            parts.extend_from_slice(&data);
        }
    }
    Ok(Some(if parts.is_empty() { whole } else { parts.freeze() }))
}

/// Reads on for a while: a client that is hung up on while it sends never sees the answer.
async fn discard(mut body: Body) {
    let rest = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARD_BYTES_MAX {
                return;
            }
        }
    };
    // Whoever is slower learns nothing.
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, rest).await;
}

/// A body that breaks off is its sender's doing, unless this machine has no room for it.
fn broken(error: &axum::Error) -> Refusal {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let errno = causes.find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error()).map(Errno::from_raw);
    let message = format!("the body could not be read: {error}");
    if errno.and_then(runner::remedy).is_some() {
        Refusal::new(Class::Unavailable, "body_broken", message).retry_after(RETRY)
    } else {
        Refusal::new(Class::BadRequest, "body_broken", message)
    }
}

fn slow(time_max: Duration) -> Refusal {
    let message = format!("the body did not arrive within {}", format_time(time_max));
    Refusal::new(Class::Timeout, "body_too_slow", message)
}

/// Reads a JSON body.
///
/// # Errors
/// As [`read`]; also another content type, and JSON that is broken or not what is asked for.
pub async fn json<T: DeserializeOwned>(request: Request, settings: &ServiceSettings) -> Result<T, Refusal> {
    check_content_type(request.headers())?;
    let bytes = read(request, settings).await?;
    parse(&bytes)
}

/// # Errors
/// The body is declared to be something else than JSON, or nothing at all.
pub fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = content_type.unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json")) {
        return Ok(());
    }
    let message = match content_type {
        Some(other) => format!("content type {other:?} is not application/json"),
        None => "the content type is missing".to_owned(),
    };
    let refusal = Refusal::new(Class::UnsupportedMediaType, "not_json", message);
    Err(refusal.hint("send the header Content-Type: application/json"))
}

/// Parses JSON.
///
/// # Errors
/// Where it is broken by line and column; which field is unknown, with the nearest valid one, or of a wrong type.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    // A list would be taken for the fields one after the other.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Refusal::new(Class::BadRequest, "bad_request", "the body is a list, expected an object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| explain(".", &error))?;
    Ok(parsed)
}

/// What a JSON value means, with errors that name the field.
///
/// # Errors
/// As [`parse`], without line and column.
pub fn of_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value).map_err(|error| explain(&error.path().to_string(), error.inner()))
}

fn explain(path: &str, error: &serde_json::Error) -> Refusal {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let text = without_names(text.split(" at line ").next().unwrap_or_default());
    if !error.is_data() {
        let message = format!("the body is no JSON: {text} at line {line} column {column}");
        return Refusal::new(Class::BadRequest, "bad_json", message);
    }
    let mut words = text.split('`');
    if text.starts_with("unknown field ")
        && let (Some(_), Some(unknown)) = (words.next(), words.next())
    {
        let known: Vec<&str> = words.skip(1).step_by(2).collect();
        let refusal = Refusal::bad("unknown_field", path, format!("unknown field `{unknown}`"));
        return match suggest::nearest(unknown, known.iter().copied()) {
            Some(near) => refusal.hint(format!("did you mean `{near}`?")),
            None => refusal.hint(format!("fields here: {}", known.join(", "))),
        };
    }
    // A value that was parsed before has no place.
    let at = if line == 0 { String::new() } else { format!(" (line {line} column {column})") };
    match path {
        "." => Refusal::new(Class::BadRequest, "bad_request", format!("{text}{at}")),
        path => Refusal::bad("bad_request", path, format!("{path}: {text}{at}")),
    }
}

/// The parser's sentence without our own name of what was expected.
fn without_names(text: &str) -> String {
    match text.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected an object"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Sample {
        language: String,
        limits: Option<Limits>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Limits {
        memory_bytes: u64,
    }

    fn refused(text: &str) -> Refusal {
        parse::<Sample>(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn broken_json_is_told_by_line_and_column() {
        let refusal = refused("{\n  \"language\": python}");
        assert_eq!((refusal.code, refusal.field.as_deref()), ("bad_json", None));
        assert_eq!(refusal.message, "the body is no JSON: expected value at line 2 column 15");
        assert_eq!(refused("").code, "bad_json");
        assert_eq!(refused(r#"{"language":"c"} x"#).code, "bad_json");
    }

    #[test]
    fn unknown_fields_and_wrong_types_are_named_with_their_path() {
        let refusal = refused(r#"{"langauge":"python"}"#);
        assert_eq!(refusal.hint.as_deref(), Some("did you mean `language`?"));
        let refusal = refused(r#"{"language":"python","limits":{"memory_bytes":"64M"}}"#);
        assert_eq!(refusal.field.as_deref(), Some("limits.memory_bytes"));
        assert!(refusal.message.starts_with("limits.memory_bytes: invalid type: string"), "{}", refusal.message);
        let refusal = refused(r#"{"language":"python","limits":3}"#);
        assert_eq!(refusal.message, "limits: invalid type: integer `3`, expected an object (line 1 column 31)");
        let refusal = refused(r#"{"language":"python","limits":[]}"#);
        assert!(refusal.message.contains("expected an object"), "{}", refusal.message);
        for text in [r#"["python",null]"#, "[", "\"python\"", "1", "null"] {
            let refusal = refused(text);
            assert_eq!(refusal.code, "bad_request", "{text}");
            assert!(refusal.message.contains("expected an object"), "{text}: {}", refusal.message);
        }
        let refusal = refused(r#"{"limits":null}"#);
        assert!(refusal.message.contains("missing field `language`"), "{}", refusal.message);
    }

    #[test]
    fn other_content_types_are_refused_by_name() {
        let mut headers = HeaderMap::new();
        assert_eq!(check_content_type(&headers).unwrap_err().class, Class::UnsupportedMediaType);
        for (kind, ok) in
            [("application/json; charset=utf-8", true), ("application/problem+json", true), ("text/plain", false)]
        {
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(check_content_type(&headers).is_ok(), ok, "{kind}");
        }
    }
}
