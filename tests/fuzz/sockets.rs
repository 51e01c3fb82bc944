//! WebSockets: the native one and Piston's, over a connection in memory.
//!
//! An input is a list of messages, one a line. `$ID` stands for the execution that was accepted last. A line that is no
//! UTF-8 is sent as a binary message; `wait` waits for one answer, and `cell ` and a word tell the machine what to do.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::bodies::check_secrets;
use crate::driver::{Target, fuzz};
use crate::world::{Cell, Service, kind_of};

/// Types of the messages that the service sends.
const NATIVE: &[&str] = &[
    "authenticated",
    "accepted",
    "subscribed",
    "unsubscribed",
    "queued",
    "stage",
    "output",
    "finished",
    "pong",
    "error",
];
const PISTON: &[&str] = &["runtime", "stage", "data", "exit", "error"];

#[test]
fn native_messages() {
    speak("native_messages", "/ws", NATIVE);
}

#[test]
fn piston_messages() {
    speak("piston_messages", "/api/v2/connect", PISTON);
}

fn speak(name: &'static str, path: &str, types: &[&str]) {
    let target = Target { name, words: &["messages", "requests"], bytes_max: 4 << 10, made: Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let service = runtime.block_on(async { Service::start() });
    let app = sandboxd::api::app(Arc::clone(&service.service));
    fuzz(&target, |input| {
        runtime.block_on(async {
            service.prepare(Cell::default());
            let (near, far) = tokio::io::duplex(64 << 10);
            let app = TowerToHyperService::new(app.clone());
            let connection = tokio::spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(far), app).await;
            });
            let url = format!("ws://localhost{path}");
            let (socket, _) = tokio_tungstenite::client_async(url, near).await.expect("a WebSocket");
            let heard = tokio::time::timeout(Duration::from_secs(10), talk(socket, input, &service));
            let heard = heard.await.expect("the conversation ends");
            // Whoever hangs up leaves nothing behind that runs, unless it was told to run on.
            let _ = tokio::time::timeout(Duration::from_secs(5), connection).await.expect("the connection ends");
            service.settle().await;
            let mut kinds: Vec<String> = Vec::new();
            for text in heard {
                check_secrets(input, text.as_bytes());
                let message: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                let kind = message["type"].as_str().unwrap_or_default();
                assert!(types.contains(&kind), "not one of the protocol: {text}");
                let error = if message["error"].is_object() { &message["error"] } else { &message };
                let told = error["message"].as_str().unwrap_or_default();
                assert!(kind != "error" || !told.is_empty(), "{text}");
                let kind = format!("{kind} {} {}", error["code"].as_str().unwrap_or_default(), kind_of(told));
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
            kinds.join(", ")
        })
    });
}

/// Says what `input` says, hangs up, and returns what was heard.
async fn talk<S>(mut socket: WebSocketStream<S>, input: &[u8], service: &Service) -> Vec<String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut heard, mut id) = (Vec::new(), "none".to_owned());
    let pause = Duration::from_millis(3);
    for line in input.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).take(40) {
        let message = match std::str::from_utf8(line) {
            Ok("wait") => {
                if let Ok(Some(Ok(Message::Text(text)))) = tokio::time::timeout(pause, socket.next()).await {
                    note(&text, &mut heard, &mut id);
                }
                continue;
            }
            Ok(text) if text.starts_with("cell ") => {
                service.prepare(Cell { does: text[5..].to_owned(), prints: b"printed \xe2\x82\xac\n".to_vec() });
                continue;
            }
            Ok(text) => Message::Text(text.replace("$ID", &id).into()),
            Err(_) => Message::Binary(line.to_vec().into()),
        };
        if socket.send(message).await.is_err() {
            break;
        }
        if line.windows(9).any(|word| word == b"\"execute\"")
            && let Ok(Some(Ok(Message::Text(text)))) = tokio::time::timeout(pause, socket.next()).await
        {
            note(&text, &mut heard, &mut id);
        }
    }
    // What comes to an end in the meantime is told; the rest is hung up on.
    while let Ok(Some(Ok(message))) = tokio::time::timeout(pause, socket.next()).await {
        if let Message::Text(text) = message {
            note(&text, &mut heard, &mut id);
        }
    }
    let _ = socket.close(None).await;
    while let Ok(Some(Ok(message))) = tokio::time::timeout(pause, socket.next()).await {
        if let Message::Text(text) = message {
            note(&text, &mut heard, &mut id);
        }
    }
    heard
}

fn note(text: &str, heard: &mut Vec<String>, id: &mut String) {
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    if message["type"] == "accepted" {
        *id = message["executionId"].as_str().unwrap_or_default().to_owned();
    }
    heard.push(text.to_owned());
}
