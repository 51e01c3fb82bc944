//! Request bodies: bounded in size and time, parsed strictly, with errors that name line, column, field and remedy.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::service::refusal::{Class, Refusal};
use crate::words::limits::{format_size, format_time};
use crate::words::settings::ServiceSettings;
use crate::words::suggest;

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
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), usize::try_from(bytes_max).unwrap_or(usize::MAX));
    let time_max = settings.body_time_max;
    match tokio::time::timeout(time_max, body.collect()).await {
        Err(_) => Err(slow(time_max)),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            Err(Refusal::new(Class::BadRequest, "body_broken", format!("the body could not be read: {error}")))
        }
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
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, error.inner())
    })?;
    deserializer.end().map_err(|error| explain(".", &error))?;
    Ok(parsed)
}

fn explain(path: &str, error: &serde_json::Error) -> Refusal {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
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
    let at = format!("(line {line} column {column})");
    match path {
        "." => Refusal::new(Class::BadRequest, "bad_request", format!("{text} {at}")),
        path => Refusal::bad("bad_request", path, format!("{path}: {text} {at}")),
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
