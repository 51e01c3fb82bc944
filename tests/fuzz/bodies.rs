//! Requests to every face: the whole router, over a service whose supervisor is played by [`crate::world::Service`].
//!
//! An input is a request as text: method and path, headers, an empty line, the body. Headers that begin with `fuzz-` are
//! for this test: `fuzz-parts` are the sizes of the pieces in which the body comes (`!` breaks it off), `fuzz-cell` is what
//! the supervisor does, `fuzz-output` what the program prints.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use sandboxd::api::function::as_program;
use sandboxd::api::function::has_top_level_return;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::driver::{Target, fuzz};
use crate::world::{Cell, Service, kind_of};

/// What must not be told: where this machine keeps things, and where in our code something is.
const SECRETS: &[&str] = &[
    env!("CARGO_MANIFEST_DIR"),
    env!("CARGO_TARGET_TMPDIR"),
    "/proc/self",
    "/root",
    "/var/lib",
    "src/",
    ".rs:",
    "panicked",
    "RUST_BACKTRACE",
];

/// A request, and what the machine does about it.
struct Asked {
    request: Request<Body>,
    path: String,
    cell: Cell,
}

fn asked(input: &[u8]) -> Option<Asked> {
    let at = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = at.map_or((input, &b""[..]), |at| (&input[..at], &input[at + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (method, path) = first.split_once(' ')?;
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    let uri: Uri = path.parse().ok()?;
    let (mut cell, mut parts) = (Cell::default(), String::new());
    let mut request = Request::builder().method(method).uri(uri);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let text = String::from_utf8_lossy(value);
        match name {
            b"fuzz-parts" => parts = text.into_owned(),
            b"fuzz-cell" => cell.does = text.into_owned(),
            b"fuzz-output" => cell.prints = value.to_vec(),
            name => {
                let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
                    continue;
                };
                request = request.header(name, value);
            }
        }
    }
    let path = request.uri_ref()?.path().to_owned();
    Some(Asked { request: request.body(body_of(body, &parts)).ok()?, path, cell })
}

/// `bytes` in pieces of the sizes that `parts` says.
fn body_of(bytes: &[u8], parts: &str) -> Body {
    if parts.is_empty() {
        return Body::from(bytes.to_vec());
    }
    let mut pieces: Vec<Result<Bytes, std::io::Error>> = Vec::new();
    let mut rest = Bytes::copy_from_slice(bytes);
    for size in parts.split(' ').take(64) {
        match size.parse::<usize>() {
            Ok(size) => pieces.push(Ok(rest.split_to(size.min(rest.len())))),
            Err(_) => {
                pieces.push(Err(std::io::ErrorKind::ConnectionReset.into()));
                return Body::from_stream(futures_util::stream::iter(pieces));
            }
        }
    }
    pieces.push(Ok(rest));
    Body::from_stream(futures_util::stream::iter(pieces))
}

#[test]
fn requests() {
    let target = Target { name: "requests", words: &["requests"], bytes_max: 8 << 10, made: Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let service = runtime.block_on(async { Service::start() });
    let app = sandboxd::api::app(std::sync::Arc::clone(&service.service));
    fuzz(&target, |input| {
        let Some(Asked { request, path, cell }) = asked(input) else { return "no request".to_owned() };
        runtime.block_on(async {
            let well = cell.ends_well();
            service.prepare(cell);
            let method = request.method().clone();
            let response: Result<_, Infallible> = app.clone().oneshot(request).await;
            let Ok(response) = response;
            let (head, body) = response.into_parts();
            let body = tokio::time::timeout(Duration::from_secs(10), body.collect()).await.expect("the answer ends");
            let body = body.expect("the answer is whole").to_bytes();
            service.settle().await;
            assert!(head.headers.contains_key("x-request-id") || method == Method::OPTIONS, "{head:?}");
            check_answer(&path, &method, head.status, &head.headers, &body, well);
            check_secrets(input, &body);
            kind_of_answer(head.status, &body)
        })
    });
}

fn check_answer(
    path: &str,
    method: &Method,
    status: StatusCode,
    headers: &axum::http::HeaderMap,
    body: &[u8],
    well: bool,
) {
    let told = String::from_utf8_lossy(&body[..body.len().min(2000)]);
    assert!(status != StatusCode::INTERNAL_SERVER_ERROR || !well, "{status}: {told}");
    let is_json = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json && method != Method::HEAD {
        serde_json::from_slice::<Value>(body).unwrap_or_else(|error| panic!("no JSON ({error}): {told}"));
    }
    if status.is_success() || status.is_redirection() || method == Method::HEAD {
        return;
    }
    assert!(is_json, "{status} {headers:?}: {told}");
    let body: Value = serde_json::from_slice(body).expect("JSON");
    let (message, code) = if path == "/api/v2" || path.starts_with("/api/v2/") {
        (&body["message"], None)
    } else if of_seeds(path) {
        assert!(body["success"] == false && body["error"] == body["detail"], "{body}");
        (&body["error"], Some(&body["code"]))
    } else {
        (&body["error"]["message"], Some(&body["error"]["code"]))
    };
    assert!(message.as_str().is_some_and(|message| !message.is_empty()), "{status} {path} has no message: {body}");
    assert!(
        code.is_none_or(|code| code.as_str().is_some_and(|code| !code.is_empty())),
        "{status} {path} has no code: {body}"
    );
    let later = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
    assert!(
        !later || headers.contains_key(header::RETRY_AFTER) || body.to_string().contains("cannot be run here"),
        "{status}: {body}"
    );
}

/// Whether `path` is one of the services before this one.
fn of_seeds(path: &str) -> bool {
    let one = path.strip_prefix("/executions/").is_some_and(|id| !id.is_empty() && !id.contains('/'));
    one || ["/typescript", "/execute", "/validate", "/executions", "/languages"].contains(&path)
}

pub fn check_secrets(input: &[u8], answer: &[u8]) {
    let (input, answer) = (String::from_utf8_lossy(input), String::from_utf8_lossy(answer));
    // The pages and documents say in which file to look.
    if answer.starts_with("<!doctype") || answer.contains("\"openapi\"") {
        return;
    }
    for secret in SECRETS {
        assert!(!answer.contains(secret) || input.contains(secret), "{secret} is told: {answer}");
    }
}

/// What kind of answer it is. There are as many paths as one likes that are none.
fn kind_of_answer(status: StatusCode, body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return format!("{status} text") };
    if [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&status) {
        return format!("{status} {}", body["success"]);
    }
    let error = if body["error"].is_object() { &body["error"] } else { &body };
    let text = |name: &str| error[name].as_str().map(kind_of).unwrap_or_default();
    let message = body["message"].as_str().unwrap_or_default();
    // Nor do names that are none lead anywhere.
    if error["code"] == "unknown_field" || error["field"] == "query" || message.ends_with("runtime is unknown") {
        return format!("{status} {} unknown", text("code"));
    }
    format!("{status} {} {} {} {} {}", text("code"), text("field"), text("status"), text("message"), text("language"))
}

#[test]
fn functions() {
    let made = [
        "return 1",
        "const f = () => { return 1 }",
        "`${(() => { return `${1}` })()}`",
        "a / b / (c)\n/[/]return/.test(a)",
        "switch (a) { case (1): return 2 }",
        "class A { static { return } m() { return 1 } }",
        "#!x\nreturn // '",
        "({return: 1}).return",
    ];
    let made = made.iter().map(|code| code.as_bytes().to_vec()).collect();
    let target = Target { name: "functions", words: &["functions"], bytes_max: 4 << 10, made };
    fuzz(&target, |input| {
        let code = String::from_utf8_lossy(input);
        let returns = has_top_level_return(&code);
        assert!(!returns || code.contains("return"), "there is no return");
        // The place of its author's lines is theirs plus one.
        assert_eq!(as_program(&code).matches('\n').count(), code.matches('\n').count() + 2);
        // A return inside of a function is not at the top.
        assert!(!has_top_level_return(&format!("function f() {{ return {} }}", code.len())));
        format!("{returns} {} {}", code.matches('{').count().min(8), code.matches('`').count().min(8))
    });
}
