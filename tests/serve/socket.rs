//! The native WebSocket.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::{Server, Socket};

fn python(code: &str) -> Value {
    json!({"language": "python", "code": code})
}

fn endless() -> Value {
    python("import sys, time\nsys.stdout.write('on\\n')\ntime.sleep(50)")
}

/// Sends something that must be refused.
#[track_caller]
fn refused(socket: &mut Socket, message: &Value) -> Value {
    socket.send(message);
    loop {
        let answer = socket.next().expect("an answer");
        match answer["type"].as_str() {
            Some("error") => return answer,
            // Of what goes on meanwhile.
            Some("queued" | "stage" | "output") => {}
            _ => panic!("{message} was accepted: {answer}"),
        }
    }
}

#[test]
fn a_terminal_drives_a_program_over_either_path() {
    let Some(server) = Server::start() else { return };
    for path in ["/ws", "/"] {
        let mut socket = server.socket(path);
        socket.send(&json!({"type": "ping"}));
        assert_eq!(socket.next(), Some(json!({"type": "pong"})));
        let mut body = python(
            "import sys\nname = input('name? ')\nsys.stdout.write(f'hello {name}\\n')\nprint(ascii(sys.stdin.buffer.read()))",
        );
        body["interactive"] = json!(true);
        let id = socket.execute(body);
        assert_eq!(socket.until("stage")["executionId"], json!(id));
        assert_eq!(socket.until("output")["data"], "name? ");
        socket.send(&json!({"type": "stdin", "executionId": id, "data": "Ada\n"}));
        assert_eq!(socket.until("output")["data"], "hello Ada\n");
        socket.send(&json!({"type": "stdin", "executionId": id, "data": "AP8=", "encoding": "base64"}));
        socket.send(&json!({"type": "stdin", "executionId": id, "data": "61", "encoding": "hex"}));
        socket.send(&json!({"type": "stdin_close", "executionId": id}));
        let (output, finished) = socket.run_out();
        assert_eq!(output, "b'\\x00\\xffa'\n");
        assert_eq!((&finished["answer"]["status"], &finished["executionId"]), (&json!("ok"), &json!(id)));
        let answer = refused(&mut socket, &json!({"type": "stdin", "executionId": id, "data": "late"}));
        assert_eq!(answer["error"]["code"], "not_running");
    }
}

#[test]
fn signals_reach_the_program_by_name_and_number() {
    let Some(server) = Server::start() else { return };
    let mut socket = server.socket("/ws");
    let id = socket.execute(python(
        "import signal, sys, time\nfor number in (2, 15):\n \
         signal.signal(number, lambda number, _: sys.stdout.write(f'{number}\\n') and number == 15 and sys.exit(4))\n\
         sys.stdout.write('on\\n')\ntime.sleep(50)",
    ));
    assert_eq!(socket.until("output")["data"], "on\n");
    socket.send(&json!({"type": "signal", "executionId": id, "signal": "SIGINT"}));
    assert_eq!(socket.until("output")["data"], "2\n");
    socket.send(&json!({"type": "signal", "executionId": id, "signal": 15}));
    let (output, finished) = socket.run_out();
    assert_eq!((output.as_str(), &finished["answer"]["exit_code"]), ("15\n", &json!(4)));
}

#[test]
fn input_that_nobody_reads_is_bounded_and_the_rest_of_the_connection_goes_on() {
    let Some(server) = Server::start() else { return };
    let mut socket = server.socket("/ws");
    let mut body = endless();
    body["interactive"] = json!(true);
    let id = socket.execute(body);
    socket.until("output");
    let piece = "x".repeat(512 << 10);
    let full = (0..20).any(|_| {
        socket.send(&json!({"type": "stdin", "executionId": id, "data": piece}));
        socket.send(&json!({"type": "ping"}));
        socket.next().expect("an answer")["error"]["code"] == "stdin_full"
    });
    assert!(full, "10 MB were taken for a program that does not read");
    socket.until("pong");
    socket.send(&json!({"type": "cancel", "executionId": id}));
    assert_eq!(socket.until("finished")["answer"]["status"], "canceled");
}

#[test]
fn input_in_many_pieces_arrives_whole_and_in_order() {
    let Some(server) = Server::start() else { return };
    let mut socket = server.socket("/ws");
    let mut body = python(
        "import sys, time\ntime.sleep(.2)\ntext = sys.stdin.read()\nprint(len(text), text == ''.join(f'{i:07}\\n' for i in range(100000)))",
    );
    body["interactive"] = json!(true);
    let id = socket.execute(body);
    let lines: Vec<String> = (0..100_000).map(|number| format!("{number:07}\n")).collect();
    for part in lines.chunks(20_000) {
        socket.send(&json!({"type": "stdin", "executionId": id, "data": part.concat()}));
    }
    socket.send(&json!({"type": "stdin_close", "executionId": id}));
    assert_eq!(socket.run_out().0, "800000 True\n");
}

#[test]
fn executions_started_elsewhere_are_followed_from_any_event() {
    let Some(server) = Server::start() else { return };
    let id = server.start_run(&python("import time\ntime.sleep(1)\nprint(1)\nprint(2)"));
    let mut socket = server.socket("/");
    socket.send(&json!({"type": "subscribe", "executionId": id}));
    assert_eq!(socket.until("subscribed")["executionId"], json!(id));
    let again = refused(&mut socket, &json!({"type": "subscribe", "executionId": id}));
    assert_eq!((&again["error"]["code"], &again["executionId"]), (&json!("already_subscribed"), &json!(id)));
    let (output, finished) = socket.run_out();
    assert_eq!((output.as_str(), &finished["answer"]["stdout"]), ("1\n2\n", &json!("1\n2\n")));
    let last = finished["eventId"].as_u64().unwrap();
    // It has ended: all of it, or what comes after an event.
    socket.send(&json!({"type": "subscribe", "executionId": id, "lastEventId": last - 1}));
    socket.until("subscribed");
    assert_eq!(socket.next().unwrap()["eventId"], json!(last));
    let unknown = refused(&mut socket, &json!({"type": "subscribe", "executionId": "nothing"}));
    assert_eq!(unknown["error"]["code"], "unknown_execution");
    let other = server.start_run(&endless());
    socket.send(&json!({"type": "subscribe", "executionId": other}));
    socket.until("output");
    socket.send(&json!({"type": "unsubscribe", "executionId": other}));
    assert_eq!(socket.until("unsubscribed")["executionId"], json!(other));
    server.delete(&format!("/api/execute/{other}"));
    socket.send(&json!({"type": "ping"}));
    assert_eq!(socket.next(), Some(json!({"type": "pong"})), "nothing comes of what is not followed");
}

#[test]
fn runs_end_with_their_connection_unless_they_are_detached() {
    let Some(server) = Server::start() else { return };
    let mut socket = server.socket("/ws");
    socket.execute(endless());
    socket.until("output");
    let mut detached = endless();
    detached["async"] = json!(true);
    let id = socket.execute(detached);
    socket.until("output");
    server.wait_until("both run", Duration::from_secs(5), |server| server.programs() == 2);
    drop(socket);
    server.wait_until("the first is gone", Duration::from_secs(5), |server| server.programs() == 1);
    assert_eq!(server.get(&format!("/api/execute/{id}")).json()["status"], "running");
    server.delete(&format!("/api/execute/{id}"));
}

#[test]
fn ten_thousand_subscriptions_do_no_harm() {
    let Some(server) = Server::start() else { return };
    let ids: Vec<String> = (0..3).map(|_| server.start_run(&endless())).collect();
    let mut socket = server.socket("/ws");
    for id in &ids {
        socket.send(&json!({"type": "subscribe", "executionId": id}));
        socket.until("output");
    }
    let asked = (0..10_000).map(|number| json!({"type": "subscribe", "executionId": ids[number % 3]}));
    let (mut sent, mut answered) = (asked, 0);
    // In parts, since nothing that this client does not read is kept for it.
    while answered < 10_000 {
        let part: Vec<Value> = sent.by_ref().take(100).collect();
        let count = part.len();
        socket.send_many(part.into_iter()).unwrap();
        for _ in 0..count {
            assert_eq!(socket.next().unwrap()["error"]["code"], "already_subscribed");
        }
        answered += count;
    }
    // Others, up to the bound; most of them wait for their turn.
    let more: Vec<String> =
        (0..62).map(|_| server.start_run(&json!({"language": "bash", "code": "sleep 50"}))).collect();
    for id in &more[..61] {
        socket.send(&json!({"type": "subscribe", "executionId": id}));
        socket.until("subscribed");
    }
    let one_too_many = refused(&mut socket, &json!({"type": "subscribe", "executionId": more[61]}));
    assert_eq!(one_too_many["error"]["code"], "too_many_subscriptions");
    socket.send(&json!({"type": "unsubscribe", "executionId": more[0]}));
    socket.until("unsubscribed");
    socket.send(&json!({"type": "subscribe", "executionId": more[61]}));
    socket.until("subscribed");
    for id in &more {
        socket.send(&json!({"type": "cancel", "executionId": id}));
    }
    drop(socket);
    ids.iter().for_each(|id| drop(server.delete(&format!("/api/execute/{id}"))));
}

#[test]
fn one_connection_has_so_many_runs() {
    let Some(server) = Server::start() else { return };
    let mut socket = server.socket("/ws");
    for _ in 0..16 {
        socket.execute(json!({"language": "bash", "code": "sleep 50"}));
    }
    socket.send(&json!({"type": "execute", "language": "bash", "code": "true"}));
    let refused = loop {
        let message = socket.next().unwrap();
        if message["type"] == "error" {
            break message;
        }
    };
    assert_eq!(refused["error"]["code"], "too_many_runs");
}

#[test]
fn garbage_is_answered_and_too_much_of_it_ends_the_connection() {
    let Some(server) = Server::start() else { return };
    let mut socket = server.socket("/ws");
    for (message, code, field) in [
        (json!({"type": "exec"}), "unknown_type", "type"),
        (json!({}), "unknown_type", "type"),
        (json!({"type": "subscribe"}), "bad_request", ""),
        (json!({"type": "execute", "langauge": "python"}), "unknown_field", "langauge"),
        (json!({"type": "execute", "language": "python"}), "code_required", "code"),
        (json!({"type": "execute", "code": "x", "limits": {"processes": "1"}}), "bad_request", "limits.processes"),
        (json!({"type": "signal", "executionId": "x", "signal": "SIGNONE"}), "unknown_signal", "signal"),
        (json!({"type": "ping", "more": 1}), "unknown_field", "more"),
    ] {
        let error = &refused(&mut socket, &message)["error"];
        assert_eq!(error["code"], code, "{message}: {error}");
        assert_eq!(error["field"].as_str().unwrap_or_default(), field, "{message}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    }
    let misspelt = refused(&mut socket, &json!({"type": "execute", "langauge": "python"}));
    assert_eq!(misspelt["error"]["hint"], "did you mean `language`?");
    socket.send_message(Message::text("{\"type\":\n ping}")).unwrap();
    let broken = socket.next().unwrap();
    assert!(broken["error"]["message"].as_str().unwrap().contains("line 2 column 2"), "{broken}");
    socket.send_message(Message::binary(vec![0, 1, 2])).unwrap();
    assert_eq!(socket.next().unwrap()["error"]["code"], "bad_message");
    // One after the other: what nobody reads is not kept.
    for _ in 0..200 {
        if socket.send_message(Message::text("garbage")).is_err() {
            break;
        }
    }
    assert_eq!(socket.close_code(), Some(1008));
}

#[test]
fn a_message_over_the_cap_ends_the_connection() {
    let Some(server) = Server::start() else { return };
    let mut socket = server.socket("/ws");
    let large = Message::text("x".repeat((16 << 20) + 1));
    // The service may hang up before it has read all of it.
    let _ = socket.send_message(large);
    let mut code = None;
    while let Some(message) = socket.next() {
        code = Some(message);
    }
    assert_eq!(code, None);
    server.get("/health");
}

#[test]
fn pages_of_other_origins_are_refused() {
    let Some(server) = Server::start() else { return };
    for path in ["/ws", "/", "/api/v2/connect", "/api/v2/piston/connect"] {
        let own = format!("http://{}", server.address);
        assert!(server.socket_with(path, &[("origin", own.as_str())]).is_ok(), "{path}");
        for origin in ["http://evil.example", "null", "http://127.0.0.1"] {
            match server.socket_with(path, &[("origin", origin)]) {
                Err(Error::Http(response)) => assert_eq!(response.status(), 403, "{path} {origin}"),
                Err(error) => panic!("{error}"),
                Ok(_) => panic!("{path}: a page of {origin} was let in"),
            }
        }
    }
}

#[test]
fn a_shutdown_waits_for_runs_and_says_goodbye() {
    let Some(server) = Server::start() else { return };
    let mut idle = server.socket("/ws");
    let mut busy = server.socket("/ws");
    busy.execute(python("import sys, time\nsys.stdout.write('on\\n')\ntime.sleep(1)\nprint('end')"));
    busy.until("output");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(idle.close_code(), Some(1001));
    busy.send(&json!({"type": "execute", "language": "python", "code": "1"}));
    let mut refused = None;
    loop {
        let message = busy.next().expect("it goes on to its end");
        match message["type"].as_str() {
            Some("error") => refused = Some(message["error"]["code"].clone()),
            Some("finished") => {
                assert_eq!(message["answer"]["stdout"], "on\nend\n");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(refused, Some(json!("draining")));
    assert_eq!(busy.close_code(), Some(1001));
}

#[test]
fn a_client_that_never_reads_costs_nothing() {
    let Some(server) = Server::start() else { return };
    let memory = |server: &Server| server.get("/api/system").json()["memory_bytes"].as_u64().unwrap();
    let before = memory(&server);
    let mut sockets: Vec<Socket> = (0..4).map(|_| server.socket("/ws")).collect();
    for socket in &mut sockets {
        socket.send(&json!({"type": "execute", "language": "bash", "code": "yes | head -c 1000000"}));
        // And it asks, without reading the answers, for as long as anybody listens.
        socket.send_for(Duration::from_secs(1), std::iter::repeat(json!({"type": "ping"})));
    }
    let grown = memory(&server).saturating_sub(before);
    assert!(grown < 32 << 20, "the front has grown by {grown} bytes");
    assert_eq!(server.execute(&python("print(1)"))["stdout"], "1\n", "others are served");
}
