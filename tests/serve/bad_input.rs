//! Bad input over HTTP: each is answered with its status, a code for programs, a sentence that names the thing, the field
//! and a remedy; nothing is left running, and nothing of the host is told.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::text;
use crate::harness::{Reply, Server};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// The error of a reply in the one shape there is.
#[track_caller]
fn error(reply: &Reply, status: u16, code: &str) -> Value {
    assert_eq!(reply.status, status, "{reply:?}");
    let body = reply.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{body}"));
    let names: Vec<&String> = error.keys().collect();
    assert_eq!(names, ["code", "field", "hint", "message"], "{body}");
    assert_eq!(error["code"], code, "{body}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    assert!(reply.headers.contains_key("x-request-id"), "{reply:?}");
    for secret in ["/tmp/", "/root", "/home", "/var/lib", "src/", ".rs:", "panicked", "backtrace"] {
        assert!(!reply.text.contains(secret), "{secret} is told: {body}");
    }
    body["error"].clone()
}

/// Posts a program that must be refused as a bad request.
#[track_caller]
fn refused(server: &Server, body: &Value, code: &str, field: &str) -> Value {
    let error = error(&server.post_json("/api/execute", body), 400, code);
    assert_eq!(error["field"].as_str().unwrap_or_default(), field, "{body}: {error}");
    error
}

#[test]
fn methods_paths_and_content_types_that_are_wrong_are_named() {
    let Some(server) = Server::start() else { return };
    let path = error(&server.get("/api/exceute"), 404, "unknown_path");
    assert!(path["message"].as_str().unwrap().contains("/api/exceute"), "{path}");
    error(&server.get("/api/execute/none/none"), 404, "unknown_path");
    let method = error(&server.delete("/api/execute"), 405, "wrong_method");
    assert!(method["message"].as_str().unwrap().contains("DELETE"), "{method}");
    assert!(server.delete("/api/execute").headers["allow"].to_str().unwrap().contains("POST"));
    let kind = error(&server.post("/api/execute", &[("content-type", "text/plain")], b"{}"), 415, "not_json");
    assert!(kind["hint"].as_str().unwrap().contains("application/json"), "{kind}");
    error(&server.post("/api/execute", &[], b"{}"), 415, "not_json");
}

#[test]
fn json_that_is_broken_or_means_nothing_is_told_by_place_and_field() {
    let Some(server) = Server::start() else { return };
    let broken = error(&server.post("/api/execute", JSON, b"{\n \"code\": nil}"), 400, "bad_json");
    assert!(broken["message"].as_str().unwrap().contains("line 2 column 11"), "{broken}");
    error(&server.post("/api/execute", JSON, b""), 400, "bad_json");
    error(&server.post("/api/execute", JSON, b"{} {}"), 400, "bad_json");
    error(&server.post("/api/execute", JSON, b"[]"), 400, "bad_request");
    error(&server.post("/api/execute", JSON, b"\xff\xfe"), 400, "bad_json");
    error(&server.post("/api/execute", JSON, "[".repeat(100_000).as_bytes()), 400, "bad_request");
    let unknown = refused(&server, &json!({"langauge": "python", "code": "1"}), "unknown_field", "langauge");
    assert_eq!(unknown["hint"], "did you mean `language`?");
    let nested = json!({"code": "1", "limits": {"memory": 1}});
    let nested = refused(&server, &nested, "unknown_field", "limits.memory");
    assert!(nested["hint"].as_str().unwrap().contains("memory_bytes"), "{nested}");
    refused(&server, &json!({"code": "1", "args": "a"}), "bad_request", "args");
    refused(&server, &json!({"code": 1}), "bad_request", "code");
    refused(&server, &json!({"code": "1", "limits": {"memory_bytes": "64M"}}), "bad_request", "limits.memory_bytes");
    refused(&server, &json!({"code": "1", "limits": {"processes": -1}}), "bad_request", "limits.processes");
}

#[test]
fn programs_that_are_missing_twofold_or_badly_named_are_refused() {
    let Some(server) = Server::start() else { return };
    refused(&server, &json!({"language": "python"}), "code_required", "code");
    let none = refused(&server, &json!({"code": "1"}), "unknown_language", "language");
    assert!(none["hint"].as_str().unwrap().contains("python"), "{none}");
    let near = refused(&server, &json!({"language": "pyton", "code": "1"}), "unknown_language", "language");
    assert_eq!(near["hint"], "did you mean `python`?");
    let file = |name: &str| json!({"name": name, "content": "1"});
    refused(&server, &json!({"code": "1", "files": [file("a.py")]}), "code_and_files", "files");
    refused(&server, &json!({"language": "python", "files": []}), "bad_files", "files");
    let many: Vec<Value> = (0..300).map(|number| file(&format!("{number}.py"))).collect();
    let many = refused(&server, &json!({"language": "python", "files": many}), "too_many_files", "files");
    assert!(many["message"].as_str().unwrap().contains("256"), "{many}");
    for name in ["../a.py", "/etc/a.py", "", "a//b.py", "a\nb.py", "a\0.py", "./a.py", &"x".repeat(300)] {
        refused(&server, &json!({"language": "python", "files": [file(name)]}), "bad_files", "files");
    }
    refused(&server, &json!({"language": "python", "files": [file("a.py"), file("a.py")]}), "bad_files", "files");
    refused(&server, &json!({"language": "python", "files": [file("a.py")], "entry": "b.py"}), "bad_request", "entry");
    refused(
        &server,
        &json!({"language": "python", "code": "1", "stdin": "!", "stdin_encoding": "base64"}),
        "bad_encoding",
        "stdin",
    );
    let nul = json!({"language": "python", "code": "1", "args": ["a\0b"]});
    assert_eq!(server.post_json("/api/execute", &nul).status, 400);
    let nul = json!({"language": "python", "code": "1", "env": {"A=B": "1"}});
    assert_eq!(server.post_json("/api/execute", &nul).status, 400);
    let many = json!({"language": "python", "code": "1", "args": vec!["a"; 5000]});
    assert_eq!(server.post_json("/api/execute", &many).status, 400);
    assert_eq!(server.programs(), 0);
}

#[test]
fn limits_out_of_range_name_their_ceiling_and_sizes_their_cap() {
    let Some(server) = Server::start() else { return };
    let with = |limits: Value| json!({"language": "python", "code": "1", "limits": limits});
    for (name, value) in [
        ("wall_time_ms", json!(1e12)),
        ("cpu_time_ms", json!(1e12)),
        ("memory_bytes", json!(1_u64 << 50)),
        ("processes", json!(1_000_000)),
        ("output_bytes", json!(1_u64 << 50)),
        ("wall_time_ms", json!(0)),
        ("wall_time_ms", json!(-1)),
    ] {
        let mut limits = json!({});
        limits[name] = value;
        let error = refused(&server, &with(limits), "limit_out_of_range", &format!("limits.{name}"));
        assert!(error["hint"].is_string(), "{error}");
    }
    let ceiling = refused(&server, &with(json!({"wall_time_ms": 1e9})), "limit_out_of_range", "limits.wall_time_ms");
    assert!(ceiling["message"].as_str().unwrap().contains("60000"), "{ceiling}");
    refused(&server, &with(json!({"memory_bytes": 0})), "limit_out_of_range", "limits");
    refused(
        &server,
        &json!({"language": "python", "code": "1", "timeout": 1e9}),
        "limit_out_of_range",
        "limits.wall_time_ms",
    );
    let code = server.post_json("/api/execute", &json!({"language": "python", "code": "#".repeat(2 << 20)}));
    assert!(error(&code, 413, "code_too_large")["message"].as_str().unwrap().contains("1M"), "{code:?}");
    let body = server.post_json("/api/execute", &json!({"language": "python", "code": "#".repeat(17 << 20)}));
    assert!(error(&body, 413, "body_too_large")["message"].as_str().unwrap().contains("16M"), "{body:?}");
    // The same without saying so before.
    let mut stream = server.connect();
    stream.write_all(b"POST /api/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let mut chunk = b"100000\r\n".to_vec();
    chunk.extend_from_slice(&[b' '; 0x100000]);
    chunk.extend_from_slice(b"\r\n");
    for _ in 0..20 {
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(text(&answer), "HTTP/1.1 413");
}

#[test]
fn executions_that_nobody_knows_are_not_found() {
    let Some(server) = Server::start() else { return };
    for path in [
        "/api/execute/none",
        "/api/execute/..%2f..%2fetc%2fpasswd",
        "/api/execute/01890a5d-ac96-774b-bcce-b302099a8057",
    ] {
        error(&server.get(path), 404, "unknown_execution");
        error(&server.delete(path), 404, "unknown_execution");
        error(&server.get(&format!("{path}/events")), 404, "unknown_execution");
    }
    error(&server.get("/api/execute?limit=0"), 400, "bad_request");
    error(&server.get("/api/execute?limit=101"), 400, "bad_request");
    error(&server.get("/api/execute?limit=x"), 400, "bad_request");
    error(&server.get("/api/execute?lmit=1"), 400, "bad_request");
    error(&server.get("/api/execute?offset=-1"), 400, "bad_request");
    error(&server.get("/api/execute/%ff"), 400, "bad_request");
}

#[test]
fn what_is_no_http_is_refused_and_closed() {
    let Some(server) = Server::start() else { return };
    for bytes in [
        &b"garbage\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0],
    ] {
        let answer = server.raw(bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(100 << 10));
    assert!(server.raw(long.as_bytes()).starts_with("HTTP/1.1 431"));
    let smuggled =
        b"POST /api/execute HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = server.raw(smuggled);
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn heads_and_bodies_that_do_not_come_are_timed_out() {
    let Some(server) = Server::with(&["--head-time-max", "2s", "--body-time-max", "3s"]) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let began = Instant::now();
            let answer = server.raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow:");
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
            assert!(answer.contains("\"code\":\"head_too_slow\""), "{answer}");
            assert!((1..10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        });
        scope.spawn(|| {
            // Who says nothing at all is told nothing.
            assert_eq!(server.raw(b""), "");
        });
        scope.spawn(|| {
            // An idle connection that was answered before is closed without a word.
            let answer = server.raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        });
        scope.spawn(|| {
            let began = Instant::now();
            let head = b"POST /api/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
            let answer = server.raw(head);
            assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_too_slow"), "{answer:?}");
            assert!((2..12).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        });
    });
}

#[test]
fn a_reader_that_never_reads_costs_nothing_and_is_hung_up_on() {
    let Some(server) = Server::start() else { return };
    let memory = |server: &Server| server.get("/api/system").json()["memory_bytes"].as_u64().unwrap();
    let code = "import sys\nfor i in range(30): sys.stdout.write('x' * (1 << 20)); sys.stdout.flush()\nprint('end')";
    let body = json!({"language": "python", "code": code, "limits": {"output_bytes": 32 << 20}}).to_string();
    let head = format!(
        "POST /api/execute HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let before = memory(&server);
    let streams: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    server.wait_until("they have written", Duration::from_secs(30), |server| {
        let listed = server.get("/api/execute?status=ok").json();
        listed["total"] == 3
    });
    // The output itself is kept once, for whoever asks later; a copy for each of them would be as much again.
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < 3 * (32 << 20) * 2, "the front has grown by {grown} bytes");
    assert_eq!(
        server.execute(&json!({"language": "python", "code": "print(1)"}))["stdout"],
        "1\n",
        "others are served"
    );
    // Longer than the service waits for a client to take what it writes.
    std::thread::sleep(Duration::from_secs(35));
    for mut stream in streams {
        // What is in the kernel's buffers comes, and then the end, well before that of the output.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.starts_with(b"HTTP/1.1 200") && rest.len() < 24 << 20, "{} bytes came", rest.len());
    }
}
