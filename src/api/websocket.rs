//! What the WebSockets of all dialects share: who may open one, its bounds, its keep-alive, its end.
//!
//! A browser sends no preflight for a WebSocket, so the `Origin` is looked at here: without that, any web page could
//! drive a service that listens on its reader's own machine. Nothing is queued: a message is taken over only when the
//! one before it has left, so that a reader that does not read holds up its own events and nothing else.

use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::caller::Place;
use crate::service::Service;
use crate::service::refusal::{Class, Refusal};
use crate::words::settings::ServiceSettings;

/// How long a connection waits for what; tests wait shorter.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Between two pings.
    pub ping_pause: Duration,
    /// A client that has sent nothing for so long, not even an answer to a ping, is gone.
    pub silence_max: Duration,
    /// For the other side to say goodbye, too.
    pub goodbye_max: Duration,
    /// Native: for a client's key.
    pub key_max: Duration,
    /// Native: a connection that follows nothing and asks for nothing is closed after so long.
    pub idle_max: Duration,
    /// Piston's: for a client's `init`.
    pub init_max: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            ping_pause: Duration::from_secs(20),
            silence_max: Duration::from_secs(60),
            goodbye_max: Duration::from_secs(2),
            key_max: Duration::from_secs(10),
            idle_max: Duration::from_secs(600),
            init_max: Duration::from_secs(1),
        }
    }
}

/// Written at once when there is that much.
const WRITE_BYTES: usize = 64 << 10;
/// Greatest message that leaves: an answer with both streams at the greatest cap, each byte escaped.
const WRITE_BYTES_MAX: usize = 1 << 30;

/// Why a connection is closed (RFC 6455, section 7.4.1).
pub mod close_codes {
    pub const NORMAL: u16 = 1000;
    pub const GOING_AWAY: u16 = 1001;
    pub const POLICY: u16 = 1008;
    pub const TOO_LARGE: u16 = 1009;
}

/// Whether `headers` ask for a WebSocket.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Refuses browsers' requests that come from pages of other hosts, unless the settings name their origin.
///
/// # Errors
/// The page's origin is another one.
fn check_origin(headers: &HeaderMap, settings: &ServiceSettings) -> Result<(), Refusal> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let listed = |own: &String| own == "*" || own.trim_end_matches('/').eq_ignore_ascii_case(origin);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let same = origin.split_once("://").zip(host).is_some_and(|((_, page), host)| page.eq_ignore_ascii_case(host));
    if same || settings.cors_origins.iter().any(listed) {
        return Ok(());
    }
    let shown: String = origin.chars().take(200).collect();
    let message = format!("pages of origin {shown:?} may not open a WebSocket here");
    Err(Refusal::new(Class::Forbidden, "origin_not_allowed", message).hint("an operator allows it in cors_origins"))
}

/// The upgrade that a request asks for, within bounds.
///
/// # Errors
/// It asks for none, comes from another's page, or too late.
pub fn admitted(
    service: &Service,
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<WebSocketUpgrade, Refusal> {
    let upgrade = upgrade_of(upgrade)?;
    let current = service.current();
    check_origin(headers, &current.settings)?;
    if service.is_draining() {
        return Err(Refusal::new(Class::Unavailable, "draining", "the service is shutting down"));
    }
    Ok(bounded(upgrade, &current.settings))
}

/// Upgrades a connection to `serve`, for which a drain waits; it keeps its `place` among the connections.
pub fn open<F: Future<Output = ()> + Send + 'static>(
    service: &Service,
    upgrade: WebSocketUpgrade,
    place: Option<Extension<Place>>,
    serve: impl FnOnce(WebSocket) -> F + Send + 'static,
) -> Response {
    let sockets = service.sockets.clone();
    upgrade.on_upgrade(move |socket| {
        let served = serve(socket);
        sockets.track_future(async move {
            served.await;
            drop(place);
        })
    })
}

/// # Errors
/// The request is no WebSocket's.
fn upgrade_of<E: std::fmt::Display>(upgrade: Result<WebSocketUpgrade, E>) -> Result<WebSocketUpgrade, Refusal> {
    upgrade.map_err(|error| {
        Refusal::new(Class::BadRequest, "not_a_websocket", format!("this path is a WebSocket: {error}"))
            .hint("connect with a WebSocket client")
    })
}

/// Sets the bounds of a connection.
fn bounded(upgrade: WebSocketUpgrade, settings: &ServiceSettings) -> WebSocketUpgrade {
    let bytes_max = usize::try_from(settings.body_bytes_max).unwrap_or(usize::MAX);
    upgrade
        .max_message_size(bytes_max)
        .max_frame_size(bytes_max)
        .write_buffer_size(WRITE_BYTES)
        .max_write_buffer_size(WRITE_BYTES_MAX)
}

/// One end of a WebSocket.
pub struct Wire {
    sink: SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
    /// Something is on its way out.
    leaving: bool,
    heard: Instant,
    ping: Interval,
    times: Times,
}

/// What happened on a connection.
pub enum Turn {
    Text(Utf8Bytes),
    /// A message that is no text.
    Binary,
    /// What was put has left: there is room for the next.
    Sent,
    /// Larger than allowed; nothing that follows can be read.
    TooLarge,
    /// The other side is gone.
    Gone,
}

impl Wire {
    pub fn new(socket: WebSocket, times: Times) -> Wire {
        let (sink, stream) = socket.split();
        let mut ping = interval(times.ping_pause);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is now.
        ping.reset();
        Wire { sink, stream, leaving: false, heard: Instant::now(), ping, times }
    }

    /// Whether a message can be put.
    pub fn is_free(&self) -> bool {
        !self.leaving
    }

    /// Takes a message over, to be sent by the turns that follow. False when the connection is broken.
    pub async fn put(&mut self, text: String) -> bool {
        self.leaving = true;
        self.sink.feed(Message::Text(text.into())).await.is_ok()
    }

    /// Waits for what happens next; sends what was put meanwhile. Reads nothing unless `reads`. May be dropped at any
    /// time without losing anything.
    pub async fn turn(&mut self, reads: bool) -> Turn {
        loop {
            let message = tokio::select! {
                sent = self.sink.flush(), if self.leaving => {
                    self.leaving = false;
                    return if sent.is_ok() { Turn::Sent } else { Turn::Gone };
                }
                message = self.stream.next(), if reads => message,
                _ = self.ping.tick() => {
                    if !reads {
                        // Nothing is heard because nobody listens; a reader that takes nothing ends by the write's timer.
                        self.heard = Instant::now();
                    } else if self.heard.elapsed() > self.times.silence_max {
                        return Turn::Gone;
                    }
                    if !self.leaving {
                        self.leaving = true;
                        if self.sink.feed(Message::Ping(bytes::Bytes::new())).await.is_err() {
                            return Turn::Gone;
                        }
                    }
                    continue;
                }
            };
            self.heard = Instant::now();
            match message {
                Some(Ok(Message::Text(text))) => return Turn::Text(text),
                Some(Ok(Message::Binary(_))) => return Turn::Binary,
                // Answers to pings leave by themselves, with the next flush.
                Some(Ok(Message::Ping(_))) => self.leaving = true,
                Some(Ok(Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Turn::Gone,
                Some(Err(error)) if error.to_string().contains("too long") => return Turn::TooLarge,
                Some(Err(_)) => return Turn::Gone,
            }
        }
    }

    /// Closes with a code and a reason, and waits a little for the other side, so that it reads both.
    pub async fn close(mut self, code: u16, reason: &'static str) {
        let goodbye = async {
            let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
            if self.sink.send(Message::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        };
        let _ = timeout(self.times.goodbye_max, goodbye).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn pages_of_other_origins_are_refused_unless_listed() {
        let settings = |origins: &[&str]| ServiceSettings {
            cors_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            ..ServiceSettings::default()
        };
        let asked = |origin, origins: &[&str]| {
            check_origin(&headers(&[("origin", origin), ("host", "127.0.0.1:8080")]), &settings(origins)).is_ok()
        };
        assert!(check_origin(&headers(&[("host", "a")]), &settings(&[])).is_ok(), "no browser");
        assert!(asked("http://127.0.0.1:8080", &[]));
        for other in ["http://evil.example", "http://127.0.0.1:8081", "http://127.0.0.1", "null", ""] {
            assert!(!asked(other, &["http://play.example"]), "{other}");
        }
        assert!(asked("http://play.example", &["http://play.example/"]) && asked("null", &["*"]));
        assert!(check_origin(&headers(&[("origin", "http://a")]), &settings(&[])).is_err(), "no host to compare with");
    }
}
