//! Piston's face, as its clients know it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::has_image;
use crate::harness::{Server, Socket};

fn job(language: &str, code: &str) -> Value {
    json!({"language": language, "version": "*", "files": [{"content": code}]})
}

#[track_caller]
fn execute(server: &Server, body: &Value) -> Value {
    let reply = server.post_json("/api/v2/execute", body);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

#[test]
fn runtimes_and_packages_are_listed_with_versions_that_can_be_asked_for() {
    let Some(server) = Server::start() else { return };
    let runtimes = server.get("/api/v2/runtimes").json();
    let python = runtimes.as_array().unwrap().iter().find(|runtime| runtime["language"] == "python").expect("python");
    assert!(python["aliases"].as_array().unwrap().contains(&json!("py")), "{python}");
    let version = python["version"].as_str().unwrap();
    let (major, _) = version.split_once('.').unwrap();
    for selector in [version, major, &format!("{major}.x"), &format!("^{major}.0.0"), "*", &format!("2 || {version}")] {
        let mut body = job("PY", "print(1)");
        body["version"] = json!(selector);
        let answer = execute(&server, &body);
        assert_eq!((&answer["language"], &answer["version"]), (&json!("python"), &json!(version)), "{selector}");
    }
    assert_eq!(server.get("/api/v2/piston/runtimes").json(), runtimes, "the second path");
    let packages = server.get("/api/v2/packages").json();
    let wanted = json!({"language": "python", "language_version": version, "installed": true});
    assert!(packages.as_array().unwrap().contains(&wanted), "{packages}");
    let install = server.post_json("/api/v2/packages", &json!({"language": "python", "version": "3"}));
    assert_eq!((install.status, install.json()["message"].is_string()), (403, true));
}

#[test]
fn a_job_is_answered_stage_by_stage() {
    let Some(server) = Server::start() else { return };
    let mut body = job(
        "python",
        "import sys, time\nprint(sys.argv[1:], input(), flush=True)\ntime.sleep(.05)\nprint('e', file=sys.stderr, flush=True)\n\
         time.sleep(.05)\nprint('o')",
    );
    body["stdin"] = json!("in");
    body["args"] = json!(["1", "two"]);
    let answer = execute(&server, &body);
    let run = &answer["run"];
    assert_eq!(run["stdout"], "['1', 'two'] in\no\n");
    assert_eq!(run["stderr"], "e\n");
    assert_eq!(run["output"], "['1', 'two'] in\ne\no\n", "in the order written");
    assert_eq!((&run["code"], &run["signal"]), (&json!(0), &Value::Null));
    assert_eq!((&run["status"], &run["message"]), (&Value::Null, &Value::Null));
    let number = |name: &str| run[name].as_u64().unwrap_or_else(|| panic!("{name} of {run}"));
    assert!(number("wall_time") >= 100 && number("memory") > 1 << 20, "{run}");
    assert!(number("cpu_time") < 3000, "{run}");
    assert!(answer.get("compile").is_none(), "python has no such stage");
}

#[test]
fn every_end_has_its_status() {
    let Some(server) = Server::start() else { return };
    let mut slow = job("bash", "sleep 9");
    slow["run_timeout"] = json!(300);
    let mut busy = job("bash", "while :; do :; done");
    busy["run_cpu_time"] = json!(200);
    let mut hungry = job("python", "x = bytearray(200 << 20)");
    hungry["run_memory_limit"] = json!(64 << 20);
    let rows = [
        (job("bash", "exit 7"), "RE", json!(7), Value::Null),
        (job("bash", "kill -SEGV $$"), "SG", Value::Null, json!("SIGSEGV")),
        (slow, "TO", Value::Null, json!("SIGKILL")),
        (busy, "TO", Value::Null, json!("SIGKILL")),
        (hungry, "SG", Value::Null, json!("SIGKILL")),
        (job("bash", "yes"), "OL", Value::Null, json!("SIGKILL")),
        (job("bash", "yes >&2"), "EL", Value::Null, json!("SIGKILL")),
    ];
    for (body, status, code, signal) in rows {
        let run = &execute(&server, &body)["run"];
        assert_eq!((&run["status"], &run["code"], &run["signal"]), (&json!(status), &code, &signal), "{body}: {run}");
        assert!(run["message"].as_str().is_some_and(|message| !message.is_empty()), "{run}");
        let longest = run["stdout"].as_str().unwrap().len().max(run["stderr"].as_str().unwrap().len());
        assert!(longest <= 64 << 10, "{longest} bytes of one stream");
    }
    // Both streams may be filled, each to its own cap.
    let both = job("bash", "head -c 65536 /dev/zero | tr '\\0' a; head -c 65536 /dev/zero | tr '\\0' b >&2");
    let run = &execute(&server, &both)["run"];
    assert_eq!((&run["status"], run["output"].as_str().unwrap().len()), (&Value::Null, 128 << 10));
}

#[test]
fn files_have_encodings_and_need_no_names_or_extensions() {
    let Some(server) = Server::start() else { return };
    let body = json!({
        "language": "python", "version": "*",
        "files": [
            {"name": "data.bin", "content": "/w==", "encoding": "base64"},
            {"name": "my_code", "content": "import lib\nprint(open('data.bin', 'rb').read(), lib.x, open('file3.code').read())"},
            {"name": "lib.py", "content": "78203d2035", "encoding": "hex"},
            {"content": "unnamed"},
        ],
    });
    assert_eq!(execute(&server, &body)["run"]["output"], "b'\\xff' 5 unnamed\n");
}

#[test]
fn compiled_languages_have_two_stages_and_a_failure_is_told_in_both() {
    if !has_image("gcc") {
        return;
    }
    let Some(server) = Server::start() else { return };
    let code = "#include <stdio.h>\nint main(void) { int unused; puts(\"c\"); return 2; }";
    let body = json!({"language": "c", "version": "*", "files": [{"name": "no_extension", "content": code}]});
    for _ in 0..2 {
        let answer = execute(&server, &body);
        assert_eq!((&answer["run"]["stdout"], &answer["run"]["code"]), (&json!("c\n"), &json!(2)), "{answer}");
        assert_eq!((&answer["compile"]["code"], &answer["compile"]["status"]), (&json!(0), &Value::Null));
        let output = answer["compile"]["output"].as_str().unwrap();
        assert!(output.contains("unused") && output == answer["compile"]["stderr"], "also when it is kept: {answer}");
    }
    let failed = execute(&server, &job("c", "int main(void) { return x; }"));
    assert_eq!(failed["run"], failed["compile"], "the run repeats it");
    assert_eq!((&failed["run"]["status"], &failed["run"]["code"]), (&json!("RE"), &json!(1)));
    let mut slow = job("c", "#include <stdio.h>\nint main(void) { return 0; }");
    slow["compile_timeout"] = json!(1);
    let slow = execute(&server, &slow);
    assert_eq!((&slow["compile"]["status"], &slow["run"]["status"]), (&json!("TO"), &json!("TO")), "{slow}");
}

#[test]
fn errors_are_those_that_clients_know() {
    let Some(server) = Server::start() else { return };
    let file = json!([{"content": "x"}]);
    let with = |name: &str, value: Value| {
        let mut body = job("python", "1");
        body[name] = value;
        body
    };
    for (body, message) in [
        (json!({"version": "*", "files": file}), "language is required as a string"),
        (json!({"language": 1, "version": "*", "files": file}), "language is required as a string"),
        (json!({"language": "python", "files": file}), "version is required as a string"),
        (json!({"language": "python", "version": "*"}), "files is required as an array"),
        (json!({"language": "python", "version": "*", "files": [{}]}), "files[0].content is required as a string"),
        (json!({"language": "html", "version": "5.0.0", "files": file}), "html-5.0.0 runtime is unknown"),
        (with("version", json!("2.7")), "python-2.7 runtime is unknown"),
        (with("run_timeout", json!(3001)), "run_timeout cannot exceed the configured limit of 3000"),
        (with("compile_timeout", json!(10001)), "compile_timeout cannot exceed the configured limit of 10000"),
        (with("run_cpu_time", json!(4000)), "run_cpu_time cannot exceed the configured limit of 3000"),
        (with("run_timeout", json!(-5)), "run_timeout must be non-negative"),
        (with("run_timeout", json!("1")), "if specified, run_timeout must be a number"),
        (with("stdin", json!(1)), "if specified, stdin must be a string"),
        (with("args", json!("a")), "if specified, args must be an array"),
        (
            with("files", json!([{"content": "eA==", "encoding": "base64"}])),
            "files must include at least one utf8 encoded file",
        ),
    ] {
        let reply = server.post_json("/api/v2/execute", &body);
        assert_eq!((reply.status, reply.json()), (400, json!({"message": message})), "{body}");
    }
    for (reply, status) in [
        (server.post("/api/v2/execute", &[("content-type", "application/xml")], b"{}"), 415),
        (server.post("/api/v2/execute", &[("content-type", "application/json")], b"{"), 400),
        (server.get("/api/v2/execute"), 405),
        (server.get("/api/v2/nothing"), 404),
        (server.get("/api/v2/piston/nothing"), 404),
        (server.get("/api/v2/connect"), 400),
        (server.post_json("/api/v2/execute", &job("python", &"x".repeat(17 << 20))), 413),
        (server.post_json("/api/v2/execute", &with("files", json!([{"name": "../x", "content": "1"}]))), 400),
        (server.post_json("/api/v2/execute", &with("files", json!(vec![json!({"content": "1"}); 257]))), 400),
    ] {
        assert_eq!(reply.status, status, "{reply:?}");
        let body = reply.json();
        assert!(body["message"].is_string() && body.as_object().unwrap().len() == 1, "{body}");
    }
    // Clients' libraries call JSON text, or nothing; a browser that does may do it for any page.
    let hello = job("python", "print(1)").to_string();
    for (headers, status) in [
        (&[("content-type", "text/plain;charset=UTF-8")][..], 200),
        (&[], 200),
        (&[("content-type", "text/plain;charset=UTF-8"), ("origin", "null")], 415),
        (&[("origin", "http://127.0.0.1")], 415),
        (&[("content-type", "application/x-www-form-urlencoded")], 415),
    ] {
        let reply = server.post("/api/v2/execute", headers, hello.as_bytes());
        assert_eq!(reply.status, status, "{headers:?}: {reply:?}");
        if status == 415 {
            assert_eq!(reply.json(), json!({"message": "requests must be of type application/json"}));
        }
    }
    // -1 asks for no limit of one's own.
    for name in ["run_timeout", "run_memory_limit", "compile_memory_limit", "compile_timeout"] {
        assert_eq!(server.post_json("/api/v2/execute", &with(name, json!(-1))).status, 200, "{name}");
    }
}

fn init(language: &str, code: &str) -> Value {
    let mut body = job(language, code);
    body["type"] = json!("init");
    body
}

/// All messages up to the close, and its code.
#[track_caller]
fn rest(socket: &mut Socket) -> (Vec<Value>, Option<u16>) {
    let mut messages = Vec::new();
    loop {
        match socket.read() {
            Ok(message) => messages.push(message),
            Err(code) => return (messages, code),
        }
    }
}

#[test]
fn an_interactive_job_is_told_as_it_goes() {
    let Some(server) = Server::start() else { return };
    let mut socket = server.socket("/api/v2/connect");
    socket.send(&init("python", "import sys\nsys.stdout.write('name?\\n')\nsys.stdout.write(f'hello {input()}\\n')"));
    let runtime = socket.next().unwrap();
    assert_eq!((&runtime["type"], &runtime["language"]), (&json!("runtime"), &json!("python")));
    assert!(runtime["version"].as_str().is_some_and(|version| version.starts_with('3')), "{runtime}");
    assert_eq!(socket.next(), Some(json!({"type": "stage", "stage": "run"})));
    assert_eq!(socket.next(), Some(json!({"type": "data", "stream": "stdout", "data": "name?\n"})));
    socket.send(&json!({"type": "data", "stream": "stdin", "data": "Ada\n"}));
    let (messages, code) = rest(&mut socket);
    let expected = [
        json!({"type": "data", "stream": "stdout", "data": "hello Ada\n"}),
        json!({"type": "exit", "stage": "run", "code": 0, "signal": null}),
    ];
    assert_eq!((messages.as_slice(), code), (expected.as_slice(), Some(4999)));
}

#[test]
fn both_stages_are_told_and_a_failed_compile_step_is_the_last() {
    if !has_image("gcc") {
        return;
    }
    let Some(server) = Server::start() else { return };
    for _ in 0..2 {
        let mut socket = server.socket("/api/v2/piston/connect");
        socket.send(&init("c", "int main(void) { return 3; }"));
        let (messages, code) = rest(&mut socket);
        let expected = [
            json!({"type": "stage", "stage": "compile"}),
            json!({"type": "exit", "stage": "compile", "code": 0, "signal": null}),
            json!({"type": "stage", "stage": "run"}),
            json!({"type": "exit", "stage": "run", "code": 3, "signal": null}),
        ];
        assert_eq!((&messages[1..], code), (expected.as_slice(), Some(4999)), "also when it was compiled before");
    }
    let mut socket = server.socket("/api/v2/connect");
    socket.send(&init("c", "int main(void) { return x; }"));
    let (messages, code) = rest(&mut socket);
    assert_eq!(messages.last(), Some(&json!({"type": "exit", "stage": "compile", "code": 1, "signal": null})));
    assert!(messages.iter().any(|message| message["stream"] == "stderr"), "{messages:?}");
    assert_eq!(code, Some(4999));
}

#[test]
fn close_codes_are_those_that_clients_know() {
    let Some(server) = Server::start() else { return };
    let began = Instant::now();
    assert_eq!(rest(&mut server.socket("/api/v2/connect")), (Vec::new(), Some(4001)));
    assert!(began.elapsed() > Duration::from_millis(900));
    let first = |message: Value| {
        let mut socket = server.socket("/api/v2/connect");
        socket.send(&message);
        rest(&mut socket)
    };
    assert_eq!(first(json!({"type": "data", "stream": "stdin", "data": "x"})).1, Some(4003));
    assert_eq!(first(json!({"type": "signal", "signal": "SIGINT"})).1, Some(4003));
    let mut bad = init("python", "1");
    bad["version"] = json!("1");
    let error = json!({"type": "error", "message": "python-1 runtime is unknown"});
    assert_eq!(first(bad), (vec![error], Some(4002)));
    let second = |message: Value| {
        let mut socket = server.socket("/api/v2/connect");
        socket.send(&init("bash", "echo on; sleep 2"));
        socket.until("data");
        socket.send(&message);
        rest(&mut socket).1
    };
    assert_eq!(second(init("python", "1")), Some(4000));
    assert_eq!(second(json!({"type": "data", "stream": "stdout", "data": "x"})), Some(4004));
    assert_eq!(second(json!({"type": "signal", "signal": "SIGNONE"})), Some(4005));
    server.wait_until("their programs are gone", Duration::from_secs(5), |server| server.programs() == 0);
    let mut socket = server.socket("/api/v2/connect");
    socket.send(&init("bash", "echo on; exec sleep 2"));
    socket.until("data");
    socket.send(&json!({"type": "signal", "signal": "SIGTERM"}));
    let (messages, code) = rest(&mut socket);
    let ended = json!({"type": "exit", "stage": "run", "code": null, "signal": "SIGTERM"});
    assert_eq!((messages.last(), code), (Some(&ended), Some(4999)));
    let mut socket = server.socket("/api/v2/connect");
    socket.send_text("no json");
    let (messages, code) = rest(&mut socket);
    assert_eq!((messages[0]["type"].as_str(), code), (Some("error"), Some(4002)));
}
