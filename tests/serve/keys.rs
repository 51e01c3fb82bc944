//! Keys and rates over sockets, where a browser can send no header.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::harness::{Server, Socket};

const CONFIG: &str = r#"
[[service.keys]]
name = "ada"
key = "a-key-of-ada-0123456789abcdef"
rate = "6/1m"
[[service.keys]]
name = "bob"
key = "a-key-of-bob-0123456789abcdef"
"#;
const ADA: &str = "a-key-of-ada-0123456789abcdef";
const BOB: &str = "a-key-of-bob-0123456789abcdef";

fn endless() -> Value {
    json!({"language": "python", "code": "import sys, time\nsys.stdout.write('on\\n')\ntime.sleep(50)"})
}

fn with_key(server: &Server, key: &str) -> Socket {
    server.socket_with("/ws", &[("authorization", &format!("Bearer {key}"))]).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_key_comes_in_a_header_or_the_first_message_and_in_no_other_way() {
    let Some(server) = Server::with_config(CONFIG) else { return };
    let mut socket = server.socket("/ws");
    for kind in ["execute", "subscribe", "cancel", "stdin"] {
        socket.send(&json!({"type": kind}));
        assert_eq!(socket.next().unwrap()["error"]["code"], "key_missing", "{kind}");
    }
    socket.send(&json!({"type": "authenticate", "key": BOB}));
    assert_eq!(socket.next(), Some(json!({"type": "authenticated"})));
    let id = socket.execute(endless());
    socket.until("output");
    // Others neither see nor end it.
    let mut other = with_key(&server, ADA);
    for kind in ["subscribe", "cancel", "stdin_close"] {
        other.send(&json!({"type": kind, "executionId": id}));
        assert_eq!(other.next().unwrap()["error"]["code"], "unknown_execution", "{kind}");
    }
    let mut own = with_key(&server, BOB);
    own.send(&json!({"type": "cancel", "executionId": id}));
    assert_eq!(socket.until("finished")["answer"]["status"], "canceled");
    for (path, headers) in [
        ("/ws", &[("authorization", "Bearer wrong")][..]),
        ("/api/v2/connect", &[("x-api-key", "wrong")]),
        ("/api/v2/connect", &[]),
    ] {
        match server.socket_with(path, headers) {
            Err(Error::Http(response)) => assert_eq!(response.status(), 401, "{path}"),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{path} {headers:?} was let in"),
        }
    }
    let piston = server.post_json("/api/v2/execute", &json!({}));
    assert_eq!((piston.status, piston.json()), (401, json!({"message": "a key is required"})));
}

#[test]
fn who_guesses_keys_or_sends_none_is_hung_up_on() {
    let Some(server) = Server::with_config(CONFIG) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let began = Instant::now();
            assert_eq!(server.socket("/ws").close_code(), Some(1008));
            assert!((8..30).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        });
        scope.spawn(|| {
            let mut socket = server.socket("/ws");
            for number in 0..5 {
                socket.send(&json!({"type": "authenticate", "key": format!("guess {number}")}));
            }
            assert_eq!(socket.close_code(), Some(1008));
        });
    });
    assert!(server.log().matches("authentication failed").count() >= 5, "{}", server.log());
}

#[test]
fn runs_over_a_socket_count_like_others() {
    let Some(server) = Server::with_config(CONFIG) else { return };
    let mut socket = with_key(&server, ADA);
    let refused = (0..7).find_map(|_| {
        socket.send(&json!({"type": "execute", "language": "bash", "code": "true"}));
        let message = socket.next().unwrap();
        if message["type"] == "error" {
            return Some(message);
        }
        socket.run_out();
        None
    });
    let refused = refused.expect("the seventh of six is refused");
    assert_eq!(refused["error"]["code"], "rate_limited", "{refused}");
    assert!(refused["retryAfterMs"].as_u64().is_some_and(|after| after > 0), "{refused}");
    let mut piston =
        server.socket_with("/api/v2/connect", &[("x-api-key", ADA)]).unwrap_or_else(|error| panic!("{error}"));
    piston.send(&json!({"type": "init", "language": "bash", "version": "*", "files": [{"content": "true"}]}));
    assert_eq!(piston.next().unwrap()["type"], "error");
    assert_eq!(piston.close_code(), Some(4002));
    server.wait_until("it has ended", Duration::from_secs(5), |server| server.programs() == 0);
}

#[test]
fn a_revoked_key_starts_nothing_more_and_its_runs_may_end() {
    let Some(mut server) = Server::with_config(CONFIG) else { return };
    let mut socket = with_key(&server, BOB);
    let code = "import sys\nsys.stdout.write('on\\n')\nprint(input())";
    let id = socket.execute(json!({"language": "python", "code": code, "interactive": true}));
    socket.until("output");
    // The same name with another key is another key.
    server.reload(&CONFIG.replace(BOB, "another-key-of-bob-0123456789"));
    socket.send(&json!({"type": "execute", "language": "bash", "code": "true"}));
    let refused = socket.next().unwrap();
    assert_eq!(refused["error"]["code"], "key_revoked", "{refused}");
    socket.send(&json!({"type": "stdin", "executionId": id, "data": "still here\n"}));
    let (output, finished) = socket.run_out();
    assert_eq!((output.as_str(), &finished["answer"]["status"]), ("still here\n", &json!("ok")));
    assert!(server.socket_with("/ws", &[("x-api-key", BOB)]).is_err(), "nor is it let in again");
}
