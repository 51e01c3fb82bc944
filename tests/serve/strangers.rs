//! Pages of others in a browser on the service's own machine: without keys there is nothing that they would have to know, so
//! they are told by what their browser says of them.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::harness::{Reply, Server};

/// A request to every path that runs something or tells of runs, and where its answer has the sentence.
fn requests() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let code = json!({"language": "bash", "code": "echo ran > /dev/stderr"});
    let job = json!({"language": "bash", "version": "*", "files": [{"content": "true"}]});
    vec![
        ("POST", "/api/execute", code.clone(), "/error/message"),
        ("GET", "/api/execute", Value::Null, "/error/message"),
        ("GET", "/api/execute/none", Value::Null, "/error/message"),
        ("GET", "/api/execute/none/events", Value::Null, "/error/message"),
        ("GET", "/api/system", Value::Null, "/error/message"),
        ("GET", "/metrics", Value::Null, "/error/message"),
        ("POST", "/api/v2/execute", job.clone(), "/message"),
        ("POST", "/api/v2/piston/execute", job, "/message"),
        ("POST", "/execute", code.clone(), "/error"),
        ("POST", "/typescript", json!({"code": "1"}), "/error"),
        ("POST", "/validate", code, "/error"),
        ("GET", "/executions", Value::Null, "/error"),
        ("GET", "/executions/none", Value::Null, "/error"),
    ]
}

fn ask(server: &Server, method: &str, path: &str, body: &Value, host: &str) -> Reply {
    match method {
        "GET" => server.get_with(path, &[("host", host)]),
        _ => server.post(path, &[("host", host), ("content-type", "application/json")], body.to_string().as_bytes()),
    }
}

#[track_caller]
fn socket_is_refused(server: &Server, path: &str, headers: &[(&'static str, &str)]) {
    match server.socket_with(path, headers) {
        Err(Error::Http(response)) => assert_eq!(response.status(), 403, "{path} {headers:?}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{path}: {headers:?} was let in"),
    }
}

#[test]
fn a_name_that_a_page_had_resolve_here_is_refused_by_every_face() {
    let Some(server) = Server::start() else { return };
    let port = server.address.port();
    for (method, path, body, sentence) in requests() {
        for host in
            ["evil.example", &format!("evil.example:{port}"), "localhost.evil.example", "127.0.0.1.evil.example"]
        {
            let reply = ask(&server, method, path, &body, host);
            assert_eq!(reply.status, 403, "{path} {host}: {reply:?}");
            let answer = reply.json();
            let said = answer.pointer(sentence).and_then(Value::as_str).unwrap_or_default();
            assert!(said.contains("does not answer to the name") && said.contains("evil.example"), "{path}: {answer}");
            // Piston's shape has no place for a remedy.
            assert!(sentence == "/message" || reply.text.contains("allowed_hosts"), "{path}: {answer}");
        }
        for host in ["localhost", &format!("LOCALHOST:{port}"), "127.0.0.1", &format!("[::1]:{port}"), "192.0.2.7"] {
            let reply = ask(&server, method, path, &body, host);
            assert!(![403, 421].contains(&reply.status), "{path} {host}: {reply:?}");
        }
    }
    for path in ["/ws", "/", "/api/v2/connect", "/api/v2/piston/connect"] {
        // To the browser this page is of the service's own origin.
        socket_is_refused(&server, path, &[("host", "evil.example"), ("origin", "http://evil.example")]);
        socket_is_refused(&server, path, &[("host", "evil.example")]);
        let own = format!("http://localhost:{port}");
        let host = format!("localhost:{port}");
        assert!(server.socket_with(path, &[("host", host.as_str()), ("origin", own.as_str())]).is_ok(), "{path}");
    }
    assert!(server.log().contains("host_not_allowed"), "an operator can see it: {}", server.log());
}

#[test]
fn names_that_an_operator_allows_are_answered_to_and_with_keys_any() {
    let Some(mut server) = Server::with_config("[service]\nallowed_hosts = [\"sandbox.example\"]\n") else { return };
    let ask = |server: &Server, host: &str| {
        ask(server, "POST", "/api/execute", &json!({"language": "bash", "code": "true"}), host).status
    };
    assert_eq!((ask(&server, "sandbox.example:80"), ask(&server, "other.example")), (200, 403));
    server.reload("[service]\nallowed_hosts = [\"*\"]\n");
    assert_eq!(ask(&server, "other.example"), 200);
    server.reload("[[service.keys]]\nname = \"ada\"\nkey = \"a-key-of-ada-0123456789abcdef\"\n");
    assert_eq!(ask(&server, "other.example"), 401, "a page has no key");
}

#[test]
fn what_a_page_may_send_without_asking_runs_nothing() {
    let Some(server) = Server::start() else { return };
    // A browser asks before it sends any other content type, and is told no.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", ""] {
        for (_, path, body, _) in requests().into_iter().filter(|(method, ..)| *method == "POST") {
            let headers = [("origin", "http://evil.example"), ("content-type", kind)];
            let headers = if kind.is_empty() { &headers[..1] } else { &headers[..] };
            let reply = server.post(path, headers, body.to_string().as_bytes());
            assert_eq!(reply.status, 415, "{path} {kind}: {reply:?}");
        }
    }
    let asked = server.raw(
        b"OPTIONS /api/execute HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\nconnection: close\r\n\
          access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n\r\n",
    );
    assert!(!asked.to_ascii_lowercase().contains("access-control-allow-origin"), "{asked}");
    assert_eq!(server.get("/api/execute").json()["total"], 0, "nothing ran");
    for path in ["/ws", "/api/v2/connect"] {
        socket_is_refused(&server, path, &[("origin", "http://evil.example")]);
    }
}
