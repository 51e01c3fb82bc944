//! How long the WebSockets wait for what, with shorter times than the service's own, and what becomes of those whose key is
//! revoked. In process: no cell is made.

#[path = "common/quiet.rs"]
mod quiet;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use sandboxd::api::app_with;
use sandboxd::api::websocket::Times;
use sandboxd::service::Service;
use sandboxd::words::settings::ServiceSettings;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use quiet::{current, key, service};

/// Far longer than any of these tests takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A service on a port of loopback, as long as this lives.
struct Live {
    runtime: Runtime,
    address: SocketAddr,
    service: Arc<Service>,
}

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

impl Live {
    /// Runs wait for a turn that never comes.
    fn start(settings: ServiceSettings, times: Times) -> Live {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let service = service(ServiceSettings { queue_time_max: PATIENCE, ..settings }, 0);
        let app = app_with(Arc::clone(&service), times);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await
        });
        Live { runtime, address, service }
    }

    fn connect(&self, path: &str) -> Socket {
        self.connect_with(path, None)
    }

    fn connect_with(&self, path: &str, key: Option<&'static str>) -> Socket {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        if let Some(key) = key {
            request.headers_mut().insert("x-api-key", HeaderValue::from_static(key));
        }
        self.runtime.block_on(connect_async(request)).unwrap().0
    }

    fn send(&self, socket: &mut Socket, message: &Value) {
        self.runtime.block_on(socket.send(Message::text(message.to_string()))).unwrap();
    }

    /// The next message; pings are answered by the way, and counted.
    fn next(&self, socket: &mut Socket, pings: &mut u32) -> Message {
        loop {
            let message = self.runtime.block_on(async { timeout(PATIENCE, socket.next()).await });
            match message.expect("something comes in time").expect("it says goodbye first").unwrap() {
                Message::Ping(_) => *pings += 1,
                message => return message,
            }
        }
    }

    /// The next message of this type.
    fn until(&self, socket: &mut Socket, kind: &str) -> Value {
        loop {
            let message = self.next(socket, &mut 0);
            let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// The code with which the service closes, when, and how often it pinged before.
    fn end(&self, socket: &mut Socket) -> (u16, Duration, u32) {
        let (began, mut pings) = (Instant::now(), 0);
        loop {
            if let Message::Close(frame) = self.next(socket, &mut pings) {
                return (frame.unwrap().code.into(), began.elapsed(), pings);
            }
        }
    }

    /// That nothing but pings comes for so long.
    fn stays(&self, socket: &mut Socket, time: Duration) {
        let deadline = Instant::now() + time;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            if let Ok(message) = self.runtime.block_on(async { timeout(left, socket.next()).await }) {
                assert!(matches!(message, Some(Ok(Message::Ping(_)))), "{message:?}");
            }
        }
    }

    /// A client that opens a WebSocket and then says nothing more, not even what the protocol wants.
    fn mute(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        stream
    }
}

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

#[test]
fn who_asks_for_nothing_is_closed_and_who_follows_something_is_not() {
    let times = Times { idle_max: milliseconds(1500), ping_pause: milliseconds(200), ..Times::default() };
    let live = Live::start(ServiceSettings::default(), times);
    let (code, took, pings) = live.end(&mut live.connect("/ws"));
    assert_eq!(code, 1000);
    assert!(took > milliseconds(1300), "{took:?}");
    assert!(pings >= 3, "{pings} pings in {took:?}");

    let mut socket = live.connect("/ws");
    live.send(&mut socket, &json!({"type": "execute", "language": "javascript", "code": "1"}));
    let id = live.until(&mut socket, "accepted")["executionId"].clone();
    live.until(&mut socket, "queued");
    live.stays(&mut socket, milliseconds(4000));
    live.send(&mut socket, &json!({"type": "cancel", "executionId": id}));
    live.until(&mut socket, "finished");
    assert_eq!(live.end(&mut socket).0, 1000);
}

#[test]
fn a_key_has_to_come_soon() {
    let settings = ServiceSettings { keys: vec![key("ada", &[])], ..ServiceSettings::default() };
    let live = Live::start(settings, Times { key_max: milliseconds(500), ..Times::default() });
    let mut late = live.connect("/ws");
    let mut known = live.connect("/ws");
    live.send(&mut known, &json!({"type": "authenticate", "key": "ada"}));
    assert_eq!(live.end(&mut late).0, 1008);
    live.until(&mut known, "authenticated");
    live.stays(&mut known, milliseconds(2500));
}

#[test]
fn a_client_that_answers_no_ping_is_gone_and_one_that_does_is_not() {
    let times = Times { ping_pause: milliseconds(200), silence_max: milliseconds(700), ..Times::default() };
    let live = Live::start(ServiceSettings::default(), times);
    let (began, mut mute, mut heard) = (Instant::now(), live.mute("/ws"), Vec::new());
    // It is hung up on without a goodbye, which nobody would hear.
    let _ = mute.read_to_end(&mut heard);
    assert!(began.elapsed() > milliseconds(600) && began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert!(heard.len() >= 6 && heard.chunks(2).all(|frame| frame == [0x89, 0]), "pings alone: {heard:x?}");
    let mut answering = live.connect("/ws");
    live.stays(&mut answering, milliseconds(2500));
    live.send(&mut answering, &json!({"type": "ping"}));
    live.until(&mut answering, "pong");
}

#[test]
fn a_goodbye_that_is_not_answered_is_waited_for_so_long() {
    let settings = ServiceSettings { keys: vec![key("ada", &[])], ..ServiceSettings::default() };
    let times = Times { key_max: milliseconds(100), goodbye_max: milliseconds(800), ..Times::default() };
    let live = Live::start(settings, times);
    let mut mute = live.mute("/ws");
    let mut frame = [0; 4];
    mute.read_exact(&mut frame).unwrap();
    let (began, mut rest) = (Instant::now(), Vec::new());
    // Text follows the code.
    assert_eq!((frame[0], u16::from_be_bytes([frame[2], frame[3]])), (0x88, 1008));
    let _ = mute.read_to_end(&mut rest);
    assert!(began.elapsed() > milliseconds(600) && began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(String::from_utf8_lossy(&rest), "no key came");
}

#[test]
fn pistons_init_has_to_come_soon() {
    let live = Live::start(ServiceSettings::default(), Times { init_max: milliseconds(400), ..Times::default() });
    let mut late = live.connect("/api/v2/connect");
    let mut soon = live.connect("/api/v2/connect");
    let file = json!({"name": "a.js", "content": "1"});
    live.send(&mut soon, &json!({"type": "init", "language": "javascript", "version": "*", "files": [file]}));
    let (code, took, _) = live.end(&mut late);
    assert_eq!(code, 4001);
    assert!(took > milliseconds(200), "{took:?}");
    live.until(&mut soon, "runtime");
    live.stays(&mut soon, milliseconds(1000));
}

#[test]
fn a_key_that_is_revoked_starts_nothing_on_a_socket_that_is_open() {
    let settings = |names: &[&str]| ServiceSettings {
        keys: names.iter().map(|name| key(name, &[])).collect(),
        queue_time_max: PATIENCE,
        ..ServiceSettings::default()
    };
    let live = Live::start(settings(&["ada", "bob"]), Times { init_max: PATIENCE, ..Times::default() });
    let mut native = live.connect_with("/ws", Some("bob"));
    let mut piston = live.connect_with("/api/v2/connect", Some("bob"));
    let mut other = live.connect_with("/api/v2/connect", Some("ada"));
    let execute = json!({"type": "execute", "language": "javascript", "code": "1"});
    live.send(&mut native, &execute);
    let id = live.until(&mut native, "accepted")["executionId"].clone();
    live.service.reload(current(settings(&["ada"])), 0);

    let refused = |socket: &mut Socket, message: &Value| {
        live.send(socket, message);
        live.until(socket, "error")
    };
    for message in [&execute, &json!({"type": "subscribe", "executionId": "none"})] {
        let error = refused(&mut native, message);
        assert_eq!(error["error"]["code"], "key_revoked", "{error}");
    }
    let init = json!({"type": "init", "language": "javascript", "version": "*", "files": [{"content": "1"}]});
    assert_eq!(refused(&mut piston, &init)["message"], "the key of bob is not known any more");
    assert_eq!(live.end(&mut piston).0, 4002);
    live.send(&mut other, &init);
    live.until(&mut other, "runtime");
    // What goes on is still its own, and another key can be given.
    live.send(&mut native, &json!({"type": "cancel", "executionId": id}));
    assert_eq!(live.until(&mut native, "finished")["answer"]["status"], "canceled");
    live.send(&mut native, &json!({"type": "authenticate", "key": "ada"}));
    live.until(&mut native, "authenticated");
    live.send(&mut native, &execute);
    live.until(&mut native, "accepted");
    // Without any key the service is another's: for this machine.
    live.service.reload(current(settings(&[])), 0);
    assert_eq!(refused(&mut native, &execute)["error"]["code"], "key_revoked");
    let mut keyless = live.connect("/ws");
    live.send(&mut keyless, &execute);
    live.until(&mut keyless, "accepted");
    live.service.reload(current(settings(&["ada"])), 0);
    assert_eq!(refused(&mut keyless, &execute)["error"]["code"], "key_missing");
}
