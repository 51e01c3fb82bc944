//! What the faces of the services before this one say where a request is not served, in the shape their clients look for:
//! `{"success":false,"error":"a sentence", …}`, whoever's fault it is. In process: no cell is made.

#[path = "common/quiet.rs"]
mod quiet;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use sandboxd::api;
use sandboxd::api::seeds::SeedError;
use sandboxd::service::Service;
use sandboxd::service::refusal::{Class, Refusal};
use sandboxd::words::settings::{PatternPolicy, PatternRule, ServiceSettings};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use quiet::{key, service};

/// The paths that take code.
const PATHS: [&str; 3] = ["/typescript", "/execute", "/validate"];

struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    key: Option<&'a str>,
    content_type: &'a str,
    body: String,
}

fn post<'a>(path: &'a str, body: &Value) -> Asked<'a> {
    Asked { method: "POST", path, key: None, content_type: "application/json", body: body.to_string() }
}

/// The refusal, which must have the shape of all.
#[track_caller]
fn refused(service: &Arc<Service>, asked: Asked, status: u16) -> Value {
    let mut request =
        Request::builder().method(asked.method).uri(asked.path).header("content-type", asked.content_type);
    if let Some(key) = asked.key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(Body::from(asked.body)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (got, headers, body) = runtime.block_on(async {
        let response = api::app(Arc::clone(service)).oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.into_body().collect().await.unwrap().to_bytes())
    });
    let answer: Value = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"));
    assert_eq!(got, status, "{}: {answer}", asked.path);
    assert_eq!(answer["success"], false, "{answer}");
    assert!(answer["error"].as_str().is_some_and(|text| !text.is_empty() && !text.contains("src/")), "{answer}");
    assert_eq!((&answer["detail"], answer["code"].is_string()), (&answer["error"], true));
    assert_eq!(headers.contains_key("www-authenticate"), status == 401);
    assert!(status != 503 || answer["code"] == "language_unavailable" || headers.contains_key("retry-after"));
    answer
}

#[test]
fn keys_that_are_missing_wrong_or_not_for_this() {
    let keys = vec![key("docs", &[]), key("only-python", &["python"])];
    let service = service(ServiceSettings { keys, ..ServiceSettings::default() }, 1);
    let code = json!({"code": "return 1"});
    for path in PATHS {
        assert_eq!(refused(&service, post(path, &code), 401)["code"], "key_missing");
        assert_eq!(refused(&service, Asked { key: Some("guess"), ..post(path, &code) }, 401)["code"], "key_wrong");
        let other = Asked { key: Some("only-python"), ..post(path, &code) };
        assert_eq!(refused(&service, other, 403)["field"], "language");
    }
    for path in ["/executions", "/executions/1"] {
        refused(&service, Asked { method: "GET", ..post(path, &json!(null)) }, 401);
    }
}

#[test]
fn requests_that_are_at_fault() {
    let settings = ServiceSettings { body_bytes_max: 2000, code_bytes_max: 1000, ..ServiceSettings::default() };
    let service = service(settings, 1);
    let code = |length: usize| json!({"code": "x".repeat(length), "language": "javascript"});
    for path in PATHS {
        let typescript = path == "/typescript";
        let code = |length| if typescript { json!({"code": "x".repeat(length)}) } else { code(length) };
        assert_eq!(refused(&service, post(path, &code(3000)), 413)["code"], "body_too_large");
        assert_eq!(refused(&service, post(path, &code(1001)), 413)["code"], "code_too_large");
        assert_eq!(
            refused(&service, Asked { content_type: "text/plain", ..post(path, &code(1)) }, 415)["code"],
            "not_json"
        );
        assert_eq!(refused(&service, Asked { body: "{".to_owned(), ..post(path, &code(1)) }, 400)["code"], "bad_json");
        let unknown = json!({"code": "x", "langage": "c"});
        assert_eq!(refused(&service, post(path, &unknown), 400)["code"], "unknown_field");
        assert_eq!(refused(&service, post(path, &json!({"code": 1})), 400)["field"], "code");
        assert_eq!(refused(&service, Asked { method: "PUT", ..post(path, &code(1)) }, 405)["code"], "wrong_method");
        refused(&service, post(path, &json!({"code": ""})), 400);
    }
    for path in ["/executions", "/executions/1"] {
        // No history is kept here.
        refused(&service, Asked { method: "GET", ..post(path, &json!(null)) }, 404);
        refused(&service, Asked { method: "DELETE", ..post(path, &json!(null)) }, 405);
    }
}

#[test]
fn what_the_service_cannot_do_now() {
    let python = json!({"code": "print(1)", "language": "python"});
    let code = json!({"code": "return 1"});
    for path in ["/execute", "/validate"] {
        let service = service(ServiceSettings::default(), 1);
        assert_eq!(refused(&service, post(path, &python), 503)["code"], "language_unavailable");
    }
    for path in PATHS {
        let full = service(ServiceSettings { queue_max: 0, ..ServiceSettings::default() }, 0);
        assert_eq!(refused(&full, post(path, &code), 503)["code"], "queue_full");
        let busy = ServiceSettings { queue_time_max: Duration::from_millis(20), ..ServiceSettings::default() };
        let late = refused(&service(busy, 0), post(path, &code), 503);
        assert_eq!(late["code"], "queue_timeout");
        assert!(late["error"].as_str().unwrap().starts_with("no turn came within 20ms"), "{late}");
        let draining = service(ServiceSettings::default(), 1);
        draining.drain();
        assert_eq!(refused(&draining, post(path, &code), 503)["code"], "draining");
    }
}

#[test]
fn the_pattern_policy_refuses_what_validate_tells_of() {
    let rule = PatternRule {
        name: "no-eval".to_owned(),
        pattern: r"\beval\s*\(".to_owned(),
        message: "eval() is not allowed".to_owned(),
    };
    let policy = PatternPolicy {
        name: "preset".to_owned(),
        dialects: vec!["workers".to_owned()],
        keys: Vec::new(),
        rules: [("javascript".to_owned(), vec![rule])].into(),
    };
    let service = service(ServiceSettings { policies: vec![policy], queue_max: 0, ..ServiceSettings::default() }, 0);
    let function = json!({"code": "const a = 1\nreturn eval('1')"});
    let answer = refused(&service, post("/execute", &function), 400);
    assert_eq!(
        (&answer["code"], &answer["error"]),
        (&json!("policy"), &json!("eval() is not allowed (main.js:2:8, rule no-eval)"))
    );
    // The policy is for functions; and the runner around them, which is ours, is not what it is about.
    let program = json!({"code": "eval('1')", "language": "javascript"});
    assert_eq!(refused(&service, post("/execute", &program), 503)["code"], "queue_full");
    assert_eq!(refused(&service, post("/execute", &json!({"code": "return 1"})), 503)["code"], "queue_full");
    // A check is admitted as a run is, whatever it would find.
    assert_eq!(refused(&service, post("/validate", &function), 503)["code"], "queue_full");
}

#[test]
fn a_refusal_says_when_to_come_again() {
    use axum::response::IntoResponse as _;
    let refusal =
        Refusal::new(Class::TooManyRequests, "rate_limited", "too many").retry_after(Duration::from_millis(1500));
    let response = SeedError(refusal).into_response();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "2");
}

#[test]
fn what_is_wrong_with_the_configuration_is_for_operators() {
    let problems = |settings: ServiceSettings, path: &str, key: Option<&str>| {
        let mut request = Request::builder().uri(path);
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        let request = request.body(Body::empty()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let body = runtime.block_on(async {
            let response = api::app(service(settings, 1)).oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        });
        let answer: Value = serde_json::from_slice(&body).unwrap();
        answer["problems"].as_array().unwrap_or_else(|| panic!("{path}: {answer}")).clone()
    };
    let open = ServiceSettings { open: true, ..ServiceSettings::default() };
    let admin = sandboxd::words::settings::Key { admin: true, ..key("root", &[]) };
    let keyed = ServiceSettings { keys: vec![admin, key("docs", &[])], ..ServiceSettings::default() };
    for path in ["/api/health/ready", "/api/health/detailed", "/api/system"] {
        assert_eq!(problems(ServiceSettings::default(), path, None), [quiet::PROBLEM], "{path}: this machine's own");
        assert_eq!(problems(keyed.clone(), path, Some("root")), [quiet::PROBLEM], "{path}");
        let key = (path == "/api/system").then_some("docs");
        for told in [problems(keyed.clone(), path, key), problems(open.clone(), path, None)] {
            assert!(told.len() == 1 && !told[0].as_str().unwrap().contains('/'), "{path}: {told:?}");
        }
    }
}
