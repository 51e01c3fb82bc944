//! What each face says, in its own shape of errors, to whoever has no key, asks for what their key or the operator's policy
//! does not allow, asks too often, or sends what is wrong.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::common::has_image;
use crate::harness::{Reply, Server};

/// `ada` may run anything but what the policy forbids, `bob` bash alone, and `eve` once in an hour.
const CONFIG: &str = r#"
[[service.keys]]
name = "ada"
key = "a-key-of-ada-0123456789abcdef"
[[service.keys]]
name = "bob"
key = "a-key-of-bob-0123456789abcdef"
languages = ["bash"]
[[service.keys]]
name = "eve"
key = "a-key-of-eve-0123456789abcdef"
rate = "1/1h"
[[service.policies]]
name = "preset"
[[service.policies.rules.javascript]]
name = "no-eval"
pattern = '\beval\s*\('
message = "eval() is not allowed"
[[service.policies.rules.typescript]]
name = "no-eval"
pattern = '\beval\s*\('
message = "eval() is not allowed"
"#;
const ADA: &str = "a-key-of-ada-0123456789abcdef";
const BOB: &str = "a-key-of-bob-0123456789abcdef";
const EVE: &str = "a-key-of-eve-0123456789abcdef";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dialect {
    Native,
    Piston,
    Light,
    Codesandbox,
    Workers,
}

const DIALECTS: [Dialect; 5] =
    [Dialect::Native, Dialect::Piston, Dialect::Light, Dialect::Codesandbox, Dialect::Workers];

impl Dialect {
    fn path(self) -> &'static str {
        match self {
            Dialect::Native => "/api/execute",
            Dialect::Piston => "/api/v2/execute",
            Dialect::Light => "/typescript",
            Dialect::Codesandbox | Dialect::Workers => "/execute",
        }
    }

    /// A request to run `code`, which is JavaScript and TypeScript alike.
    fn body(self, code: &str) -> Value {
        match self {
            Dialect::Native | Dialect::Codesandbox => json!({"language": "javascript", "code": code}),
            Dialect::Piston => json!({"language": "javascript", "version": "*", "files": [{"content": code}]}),
            Dialect::Light => json!({"code": code}),
            Dialect::Workers => json!({"code": code, "language": "javascript", "context": {}}),
        }
    }

    fn post(self, server: &Server, key: Option<&str>, code: &str) -> Reply {
        let bearer = key.map(|key| format!("Bearer {key}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        server.post(self.path(), &headers, self.body(code).to_string().as_bytes())
    }

    /// The sentence of a refusal, which has the shape of this dialect and no other.
    #[track_caller]
    fn refusal(self, reply: &Reply, status: u16, code: &str) -> String {
        assert_eq!(reply.status, status, "{self:?}: {reply:?}");
        let answer = reply.json();
        let (object, fields) = match self {
            Dialect::Native => (&answer["error"], &["code", "field", "hint", "message"][..]),
            Dialect::Piston => (&answer, &["message"][..]),
            _ => (&answer, &["code", "detail", "error", "field", "hint", "success"][..]),
        };
        let mut names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, fields, "{self:?}: {answer}");
        let sentence = match self {
            Dialect::Native | Dialect::Piston => &object["message"],
            _ => {
                assert_eq!((&answer["success"], &answer["detail"]), (&json!(false), &answer["error"]), "{answer}");
                &object["error"]
            }
        };
        assert!(self == Dialect::Piston || object["code"] == code, "{self:?}: {answer}");
        for secret in ["/tmp/", "/root", "/home", "/var/lib", "/etc/", "/sys/", "src/", ".rs:", "panicked", "backtrace"]
        {
            assert!(!reply.text.contains(secret), "{self:?}: {secret} is told: {answer}");
        }
        assert_eq!(reply.headers.contains_key("www-authenticate"), status == 401, "{self:?}: {reply:?}");
        assert_eq!(reply.headers.contains_key("retry-after"), status == 429, "{self:?}: {reply:?}");
        sentence.as_str().expect("a sentence").to_owned()
    }
}

fn server() -> Option<Server> {
    if has_image("node") { Server::with_config(CONFIG) } else { None }
}

#[test]
fn every_face_says_in_its_own_shape_who_may_not_and_how_often() {
    let Some(server) = server() else { return };
    for dialect in DIALECTS {
        let none = dialect.refusal(&dialect.post(&server, None, "1"), 401, "key_missing");
        assert_eq!(none, "a key is required", "{dialect:?}");
        let wrong = dialect.refusal(&dialect.post(&server, Some("guess"), "1"), 401, "key_wrong");
        assert_eq!(wrong, "the key is not known", "{dialect:?}");
        let other = dialect.refusal(&dialect.post(&server, Some(BOB), "1"), 403, "language_not_allowed");
        let language = if dialect == Dialect::Light { "typescript" } else { "javascript" };
        assert_eq!(other, format!("key bob may not run {language}"), "{dialect:?}");
        let policy = dialect.refusal(&dialect.post(&server, Some(ADA), "let a = 1\neval('a')"), 400, "policy");
        let place = if dialect == Dialect::Light { "main.ts:2:1" } else { ".js:2:1" };
        assert!(policy.starts_with("eval() is not allowed (") && policy.contains(place), "{dialect:?}: {policy}");
        // And whoever may, may.
        let good = dialect.post(&server, Some(ADA), "let a = 1");
        assert_eq!(good.status, 200, "{dialect:?}: {good:?}");
    }
    for (method_path, key) in [("/api/execute", None), ("/executions", None), ("/api/system", Some("guess"))] {
        let bearer = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        assert_eq!(server.get_with(method_path, &headers).status, 401, "{method_path}");
    }
    // The first request is counted whatever it was; all faces count together.
    assert_eq!(Dialect::Native.post(&server, Some(EVE), "1").status, 200);
    for dialect in DIALECTS {
        let reply = dialect.post(&server, Some(EVE), "1");
        let sentence = dialect.refusal(&reply, 429, "rate_limited");
        assert_eq!(sentence, "key:eve has used up its 1 requests", "{dialect:?}");
        let number = |name: &str| reply.headers[name].to_str().unwrap().parse::<u64>().unwrap();
        assert_eq!((number("ratelimit-limit"), number("ratelimit-remaining")), (1, 0), "{dialect:?}: {reply:?}");
        assert!((3000..=3600).contains(&number("retry-after")), "{dialect:?}: {reply:?}");
    }
    let validate = server.post(
        "/validate",
        &[("content-type", "application/json"), ("x-api-key", EVE)],
        json!({"code": "1"}).to_string().as_bytes(),
    );
    Dialect::Workers.refusal(&validate, 429, "rate_limited");
}

#[test]
fn so_do_the_sockets() {
    let Some(server) = server() else { return };
    let connect = |path: &str, key: &str| {
        server.socket_with(path, &[("x-api-key", key)]).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    for (key, code, word) in [(BOB, "1", "language_not_allowed"), (ADA, "eval('1')", "policy")] {
        let mut native = connect("/ws", key);
        native.send(&json!({"type": "execute", "language": "javascript", "code": code}));
        assert_eq!(native.next().unwrap()["error"]["code"], word);
        let mut piston = connect("/api/v2/connect", key);
        let mut init = Dialect::Piston.body(code);
        init["type"] = json!("init");
        piston.send(&init);
        let told = piston.next().unwrap();
        let sentence = if key == BOB { "key bob may not run javascript" } else { "eval() is not allowed (" };
        assert_eq!(told["type"], "error", "{told}");
        assert!(told["message"].as_str().unwrap().starts_with(sentence), "{told}");
        assert_eq!(piston.close_code(), Some(4002));
    }
}

const ALL: &[(&str, &str)] = &[("content-type", "application/json"), ("x-api-key", ADA)];

#[test]
fn bad_requests_are_named_in_each_faces_own_shape() {
    let Some(server) = server() else { return };
    for dialect in DIALECTS {
        let post = |headers: &[(&str, &str)], body: &str| server.post(dialect.path(), headers, body.as_bytes());
        let refused = |body: &Value, code: &str| dialect.refusal(&post(ALL, &body.to_string()), 400, code);
        let has = |sentence: String, words: &str| assert!(sentence.contains(words), "{dialect:?}: {sentence}");

        let method = dialect.refusal(&server.delete(dialect.path()), 405, "wrong_method");
        assert_eq!(method, format!("{} does not take DELETE", dialect.path()), "{dialect:?}");
        let kind = post(&[("content-type", "text/html"), ALL[1]], "{}");
        has(dialect.refusal(&kind, 415, "not_json"), "application/json");
        has(dialect.refusal(&post(ALL, "{\n \"code\": nil}"), 400, "bad_json"), "line 2 column 11");
        has(dialect.refusal(&post(ALL, "[]"), 400, "bad_request"), "the body is a list, expected an object");
        let large = json!({"code": "#".repeat(17 << 20)}).to_string();
        has(dialect.refusal(&post(ALL, &large), 413, "body_too_large"), "16M");
        let code = dialect.body(&"//".repeat(1 << 20));
        has(dialect.refusal(&post(ALL, &code.to_string()), 413, "code_too_large"), "1M");

        if dialect == Dialect::Piston {
            let with = |name: &str, value: Value| {
                let mut body = dialect.body("1");
                body[name] = value;
                body
            };
            has(refused(&with("language", json!("javascrip")), ""), "javascrip-* runtime is unknown");
            has(refused(&with("language", Value::Null), ""), "language is required as a string");
            has(refused(&with("version", json!(1)), ""), "version is required as a string");
            has(refused(&with("files", Value::Null), ""), "files is required as an array");
            has(refused(&with("files", json!([{"content": 1}])), ""), "files[0].content is required as a string");
            has(refused(&with("files", json!(vec![json!({"content": ""}); 300])), ""), "256");
            has(refused(&with("files", json!([{"name": "../a.js", "content": "1"}])), ""), "../a.js");
            has(
                refused(&with("run_timeout", json!(3001)), ""),
                "run_timeout cannot exceed the configured limit of 3000",
            );
            has(refused(&with("run_memory_limit", json!(1e18)), ""), "run_memory_limit cannot exceed");
            has(refused(&with("stdin", json!(1)), ""), "stdin must be a string");
            let path = server.get("/api/v2/nope");
            assert_eq!(dialect.refusal(&path, 404, ""), "there is no /api/v2/nope");
            continue;
        }
        has(refused(&json!({"code": 1}), "bad_request"), "code: invalid type");
        let missing = if dialect == Dialect::Native { "code_required" } else { "bad_request" };
        has(refused(&json!({}), missing), "code");
        let unknown = post(ALL, &json!({"code": "1", "cdoe": "1"}).to_string());
        has(dialect.refusal(&unknown, 400, "unknown_field"), "`cdoe`");
        assert!(unknown.text.contains("did you mean `code`?"), "{unknown:?}");
        if dialect == Dialect::Light {
            continue;
        }
        let language = post(ALL, &json!({"code": "1", "language": "javascrip"}).to_string());
        has(dialect.refusal(&language, 400, "unknown_language"), "javascrip");
        assert!(language.text.contains("did you mean `javascript`?"), "{language:?}");
        let mut limited = dialect.body("1");
        match dialect {
            Dialect::Native => limited["limits"] = json!({"wall_time_ms": 1e9}),
            Dialect::Workers => limited["config"] = json!({"timeout": 1e9}),
            _ => limited["timeout"] = json!(1e6),
        }
        has(refused(&limited, "limit_out_of_range"), "is above the ceiling of 60000");
    }
    for path in ["/execute/none", "/typescript/none", "/nope", "/api/nope"] {
        assert_eq!(Dialect::Native.refusal(&server.get(path), 404, "unknown_path"), format!("there is no {path}"));
    }
}

#[test]
fn bodies_that_do_not_come_are_timed_out_in_each_faces_own_shape() {
    let Some(server) = Server::with(&["--body-time-max", "1s"]) else { return };
    std::thread::scope(|scope| {
        for dialect in DIALECTS {
            let server = &server;
            scope.spawn(move || {
                let mut stream = server.connect();
                let head = format!(
                    "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     content-length: 9\r\n\r\n{{",
                    dialect.path()
                );
                stream.write_all(head.as_bytes()).unwrap();
                let mut answer = String::new();
                std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
                let (head, text) = answer.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with("HTTP/1.1 408 "), "{answer}");
                let reply = Reply { status: 408, headers: Default::default(), text: text.to_owned() };
                let sentence = dialect.refusal(&reply, 408, "body_too_slow");
                assert_eq!(sentence, "the body did not arrive within 1s");
            });
        }
    });
}
