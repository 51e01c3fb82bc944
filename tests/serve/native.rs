//! The native face.

use std::io::{BufRead as _, BufReader, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::has_image;
use crate::harness::Server;

fn python(code: &str) -> Value {
    json!({"language": "python", "code": code})
}

/// A program that says that it runs, and goes on until it is ended.
fn endless() -> Value {
    python("import sys, time\nsys.stdout.write('on\\n')\ntime.sleep(50)")
}

#[test]
fn a_run_is_answered_with_its_verdict_and_the_fields_of_every_client() {
    let Some(server) = Server::start() else { return };
    let mut body = python("import sys\nprint('out', sys.argv[1:], input())\nprint('err', file=sys.stderr)");
    body["args"] = json!(["a", "ü"]);
    body["stdin"] = json!("in\n");
    let answer = server.execute(&body);
    for (field, value) in [
        ("status", json!("ok")),
        ("exit_code", json!(0)),
        ("exitCode", json!(0)),
        ("success", json!(true)),
        ("stdout", json!("out ['a', 'ü'] in\n")),
        ("output", json!("out ['a', 'ü'] in\n")),
        ("stderr", json!("err\n")),
        ("language", json!("python")),
        ("compile", Value::Null),
    ] {
        assert_eq!(answer[field], value, "{field} of {answer}");
    }
    assert_eq!(answer["id"], answer["executionId"]);
    assert!(answer["executionTime"].as_f64().is_some_and(|time| time > 0.0), "{answer}");
    assert!(answer["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{answer}");
    let failed = server.execute(&python("import sys\nsys.exit(3)"));
    assert_eq!((&failed["status"], &failed["success"]), (&json!("nonzero_exit"), &json!(false)));
    assert_eq!(failed["error"], failed["message"], "without stderr it says why: {failed}");
}

#[test]
fn input_comes_as_text_or_base64_and_output_as_chunks_in_order() {
    let Some(server) = Server::start() else { return };
    let mut body = python(
        "import sys, time\nsys.stdout.write(f'{sys.stdin.buffer.read()}\\n')\ntime.sleep(.05)\n\
         sys.stderr.write('e\\n')\ntime.sleep(.05)\nsys.stdout.buffer.write(bytes([255, 10]))",
    );
    body["stdin"] = json!("AP8K");
    body["stdin_encoding"] = json!("base64");
    body["chunks"] = json!(true);
    let answer = server.execute(&body);
    let chunks = answer["chunks"].as_array().expect("chunks");
    let told: Vec<_> =
        chunks.iter().map(|chunk| (chunk["stream"].as_str().unwrap(), chunk["data"].as_str().unwrap())).collect();
    assert_eq!(told, [("stdout", "b'\\x00\\xff\\n'\n"), ("stderr", "e\n"), ("stdout", "/wo=")], "{answer}");
    assert_eq!(chunks[2]["encoding"], "base64");
    let times: Vec<f64> = chunks.iter().map(|chunk| chunk["time_ms"].as_f64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] > 0.0, "{times:?}");
    assert_eq!(answer["stdout_encoding"], "base64", "what is not UTF-8 comes as base64");
    assert!(server.execute(&python("print(1)"))["chunks"].is_null(), "only who asks gets them");
}

#[test]
fn several_files_run_from_their_entry_and_results_come_back() {
    let Some(server) = Server::start() else { return };
    let body = json!({
        "language": "python",
        "files": [
            {"name": "lib/words.py", "content": "WORD = 'hi'"},
            {"name": "main.py", "content": "from lib.words import WORD\nimport data\nprint(WORD, data.N)\n\
                                            open('out.txt', 'w').write('é')\nopen('out.bin', 'wb').write(b'\\xff')"},
            {"name": "data.py", "content": "TiA9IDU=", "encoding": "base64"},
        ],
        "entry": "main.py",
        "files_out": ["out.*", "none"],
    });
    let answer = server.execute(&body);
    assert_eq!(answer["stdout"], "hi 5\n", "{answer}");
    let mut files: Vec<_> = answer["files_out"].as_array().expect("files").iter().collect();
    files.sort_by_key(|file| file["name"].as_str());
    assert_eq!(files.len(), 2, "{answer}");
    assert_eq!((&files[0]["content"], &files[0]["encoding"]), (&json!("/w=="), &json!("base64")));
    assert_eq!((&files[1]["name"], &files[1]["content"]), (&json!("out.txt"), &json!("é")));
}

#[test]
fn a_program_that_does_not_compile_says_why_and_one_that_does_is_compiled_once() {
    if !has_image("gcc") {
        return;
    }
    let Some(server) = Server::start() else { return };
    let failed = server.execute(&json!({"language": "c", "code": "int main(void) { return x; }"}));
    assert_eq!(failed["status"], "compile_error", "{failed}");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("main.c:1")), "{failed}");
    assert!(failed["compile"]["stderr"].as_str().is_some_and(|error| error.contains("main.c:1")), "{failed}");
    let body = json!({"language": "c", "code": "#include <stdio.h>\nint main(void) { puts(\"c\"); int unused; }"});
    let (first, second) = (server.execute(&body), server.execute(&body));
    assert_eq!((&first["stdout"], &first["compile_cached"]), (&json!("c\n"), &Value::Null), "{first}");
    assert_eq!((&second["stdout"], &second["compile_cached"]), (&json!("c\n"), &json!(true)), "{second}");
    assert_eq!(first["compile"]["stderr"], second["compile"]["stderr"], "its warnings are kept");
    assert!(first["compile"]["stderr"].as_str().is_some_and(|text| text.contains("unused")), "{first}");
}

#[test]
fn a_detached_run_is_accepted_at_once_and_asked_for_later() {
    let Some(server) = Server::start() else { return };
    let mut body = endless();
    body["async"] = json!(true);
    let began = Instant::now();
    let accepted = server.post_json("/api/execute", &body);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(accepted.status, 202);
    let id = accepted.json()["executionId"].as_str().unwrap().to_owned();
    assert_eq!(accepted.headers["location"].to_str().unwrap(), format!("/api/execute/{id}"));
    server.wait_for_output(&id);
    let path = format!("/api/execute/{id}");
    assert_eq!(server.get(&path).json()["status"], "running");
    let began = Instant::now();
    let canceled = server.delete(&path);
    let took = began.elapsed();
    assert_eq!((canceled.status, &canceled.json()["status"]), (200, &json!("canceled")));
    assert_eq!(canceled.json()["stdout"], "on\n");
    assert!(
        took < Duration::from_millis(500),
        "{took:?}, of which 100 ms are promised on a machine with nothing else to do"
    );
    server.wait_until("the cell is gone", Duration::from_secs(5), |server| server.programs() == 0);
    assert_eq!(server.get(&path).json()["status"], "canceled");
    server.wait_until("it is listed", Duration::from_secs(5), |server| {
        server.get("/api/execute?limit=5").json()["executions"][0]["status"] == "canceled"
    });
    let listed = server.get("/api/execute?limit=1&language=python").json();
    assert_eq!((&listed["total"], &listed["executions"][0]["id"]), (&json!(1), &json!(id)), "{listed}");
}

#[test]
fn events_come_as_they_happen_and_can_be_resumed() {
    let Some(server) = Server::start() else { return };
    let mut body = python("import sys, time\nfor i in range(3):\n sys.stdout.write(f'{i}\\n')\n time.sleep(.2)");
    for (accept, prefix) in [("text/event-stream", "data: "), ("application/x-ndjson", "")] {
        let text = body.to_string();
        let mut stream = server.connect();
        let head = format!(
            "POST /api/execute HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut arrivals = Vec::new();
        let mut last = Value::Null;
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let Some(event) = line.strip_prefix(prefix).and_then(|line| serde_json::from_str::<Value>(line).ok())
            else {
                continue;
            };
            if event["type"] == "output" {
                arrivals.push(Instant::now());
            }
            if event.is_object() {
                last = event;
            }
        }
        assert_eq!(arrivals.len(), 3, "{accept}");
        assert!(arrivals[2] - arrivals[0] > Duration::from_millis(200), "they come one by one");
        assert_eq!((&last["type"], &last["answer"]["stdout"]), (&json!("finished"), &json!("0\n1\n2\n")), "{accept}");
    }
    body["stream"] = json!(true);
    let streamed = server.post_json("/api/execute", &body);
    assert_eq!(streamed.headers["content-type"], "text/event-stream");
    let id = streamed.headers["x-execution-id"].to_str().unwrap().to_owned();
    let path = format!("/api/execute/{id}/events");
    let all = server.get(&path).text;
    assert_eq!(all, streamed.text, "what is kept is replayed");
    let ids =
        |text: &str| -> Vec<u64> { text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect() };
    assert_eq!(ids(&all), (0..ids(&all).len() as u64).collect::<Vec<_>>());
    let rest = server.get_with(&path, &[("last-event-id", "1")]).text;
    assert_eq!(ids(&rest), ids(&all)[2..]);
    assert_eq!(server.get_with(&path, &[("last-event-id", "x")]).status, 400);
}

#[test]
fn a_client_that_goes_away_takes_its_run_along() {
    let Some(server) = Server::start() else { return };
    let body = endless().to_string();
    for accept in ["application/json", "text/event-stream"] {
        let mut stream = server.connect();
        let head = format!(
            "POST /api/execute HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        server.wait_until("the program runs", Duration::from_secs(30), |server| server.programs() == 1);
        drop(stream);
        server.wait_until("the cell is gone", Duration::from_secs(5), |server| server.programs() == 0);
    }
}

#[test]
fn a_shutdown_lets_running_programs_end() {
    let Some(server) = Server::start() else { return };
    let body = python("import sys, time\nsys.stdout.write('on\\n')\ntime.sleep(1)\nprint('end')");
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| server.execute(&body));
        server.wait_until("the program runs", Duration::from_secs(30), |server| server.programs() == 1);
        server.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(answer.join().unwrap()["stdout"], "on\nend\n");
    });
}
