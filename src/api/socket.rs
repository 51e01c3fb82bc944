//! The WebSocket of the native face, at `/ws` and `/`: a terminal page drives programs over it, and codify's clients
//! follow executions that were asked for elsewhere.
//!
//! ```text
//! client: authenticate{key}  execute{…}  subscribe{executionId}  unsubscribe{executionId}  stdin{executionId,data}
//!         stdin_close{executionId}  signal{executionId,signal}  cancel{executionId}  ping
//! server: authenticated  accepted  subscribed  unsubscribed  queued  stage  output  finished  pong  error
//! ```
//! One task serves a connection. Events are taken from their execution one by one as the client reads them, so that one
//! that does not read costs nothing; what it sends meanwhile is read until a few answers wait for it.

pub mod input;
mod messages;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep_until};

use self::input::Inputs;
use self::messages::{About, Authenticate, Nothing, Signal, Stdin, Subscribe, error_json, parse, signal_number};
use super::body;
use super::caller::{Identity, Place};
use super::error::NativeError;
use super::execute::{CancelOnDrop, ExecuteBody, accepted, recorded, submission, unknown};
use super::stream::event_json;
use super::websocket::{self, Times, Turn, Wire, close_codes};
use crate::service::execution::{Event, EventKind, Execution};
use crate::service::refusal::{Class, Refusal};
use crate::service::{Caller, Service};

/// Executions followed at once by one connection.
const SUBSCRIPTIONS_MAX: usize = 64;
/// Runs going on at once that one connection has started.
const RUNS_MAX: usize = 16;
/// Messages that could not be understood, before the connection is closed.
const GARBAGE_MAX: u32 = 100;
/// Wrong keys, before the connection is closed.
const WRONG_KEYS_MAX: u32 = 5;
/// Answers that wait for the client to read; while there are so many, none of its messages is read.
const ANSWERS_MAX: usize = 16;
/// Pause between two looks at whether a connection is idle.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Opens the WebSocket. A key may come in a header, or, since browsers send none, in the first message.
pub async fn socket(
    State(service): State<Arc<Service>>,
    identity: Identity,
    place: Option<Extension<Place>>,
    Extension(times): Extension<Times>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, NativeError> {
    let upgrade = websocket::admitted(&service, &headers, upgrade)?;
    let caller = match identity.caller() {
        Ok(caller) => Some(caller),
        Err(refusal) if refusal.code == "key_missing" => None,
        Err(refusal) => return Err(refusal.into()),
    };
    let connection = Connection::new(Arc::clone(&service), identity, caller, times);
    Ok(websocket::open(&service, upgrade, place, move |socket| connection.serve(Wire::new(socket, times))))
}

/// Events of one execution from some position on: its number among this connection's subscriptions, and the events, if
/// it has not ended before.
type Awaited = (u64, Option<Vec<Event>>);

struct Connection {
    service: Arc<Service>,
    identity: Identity,
    caller: Option<Caller>,
    /// By execution.
    subscriptions: BTreeMap<String, Subscription>,
    awaited: FuturesUnordered<Abortable<BoxFuture<'static, Awaited>>>,
    next_number: u64,
    /// Events that came at once and are still to be sent: whose, and which is the next.
    batch: Option<Batch>,
    runs: Vec<CancelOnDrop>,
    inputs: Inputs,
    answers: VecDeque<Value>,
    garbage: u32,
    wrong_keys: u32,
    last_message: Instant,
    times: Times,
}

struct Subscription {
    number: u64,
    execution: Arc<Execution>,
    /// Number of the next event.
    position: usize,
    /// Of the wait for more events.
    wait: AbortHandle,
}

struct Batch {
    id: String,
    events: std::vec::IntoIter<Event>,
}

/// How a connection ends.
type End = (u16, &'static str);

impl Connection {
    fn new(service: Arc<Service>, identity: Identity, caller: Option<Caller>, times: Times) -> Connection {
        Connection {
            service,
            identity,
            caller,
            subscriptions: BTreeMap::new(),
            awaited: FuturesUnordered::new(),
            next_number: 0,
            batch: None,
            runs: Vec::new(),
            inputs: Inputs::default(),
            answers: VecDeque::new(),
            garbage: 0,
            wrong_keys: 0,
            last_message: Instant::now(),
            times,
        }
    }

    async fn serve(mut self, mut wire: Wire) {
        let service = Arc::clone(&self.service);
        let mut draining = false;
        loop {
            if wire.is_free()
                && let Some(message) = self.next_message()
                && !wire.put(message.to_string()).await
            {
                return;
            }
            let is_quiet = wire.is_free() && self.batch.is_none() && self.subscriptions.is_empty();
            if is_quiet && let Some((code, reason)) = self.end(draining) {
                return wire.close(code, reason).await;
            }
            let (reads, awaits) = (self.answers.len() < ANSWERS_MAX, self.batch.is_none());
            // Runs whose events nobody wants end unnoticed: looked for once in a while.
            let idle_until = (self.last_message + self.patience()).max(Instant::now() + LOOK_PAUSE);
            let text = tokio::select! {
                turn = wire.turn(reads) => match turn {
                    Turn::Sent => continue,
                    Turn::Text(text) => Some(text),
                    Turn::Binary => None,
                    Turn::TooLarge => return wire.close(close_codes::TOO_LARGE, "the message is too large").await,
                    Turn::Gone => return,
                },
                Some(awaited) = self.awaited.next(), if awaits => {
                    if let Ok((number, events)) = awaited {
                        self.take(number, events);
                    }
                    continue;
                }
                () = self.inputs.feed(), if !self.inputs.is_empty() => continue,
                () = service.drained(), if !draining => {
                    draining = true;
                    continue;
                }
                () = sleep_until(idle_until), if is_quiet => continue,
            };
            self.last_message = Instant::now();
            if let Err(refusal) = self.message(text.as_deref()).await {
                self.answers.push_back(refusal);
            }
            if self.garbage > GARBAGE_MAX || self.wrong_keys >= WRONG_KEYS_MAX {
                return wire.close(close_codes::POLICY, "too many errors").await;
            }
        }
    }

    /// How long this client may say nothing while nothing goes on.
    fn patience(&self) -> Duration {
        if self.caller.is_some() { self.times.idle_max } else { self.times.key_max }
    }

    /// Why a connection on which nothing goes on ends now, if it does.
    fn end(&mut self, draining: bool) -> Option<End> {
        self.runs.retain(|run| !run.0.is_finished());
        if draining && self.runs.is_empty() {
            return Some((close_codes::GOING_AWAY, "the service is shutting down"));
        }
        (self.runs.is_empty() && self.last_message.elapsed() >= self.patience()).then_some(match self.caller {
            Some(_) => (close_codes::NORMAL, "idle"),
            None => (close_codes::POLICY, "no key came"),
        })
    }

    /// What is to be sent next.
    fn next_message(&mut self) -> Option<Value> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        let batch = self.batch.as_mut()?;
        let (id, event) = (batch.id.clone(), batch.events.next());
        let subscription = self.subscriptions.get_mut(&id);
        let (Some(event), Some(subscription)) = (event, subscription) else {
            self.batch = None;
            self.wait(&id);
            // Answers that have come meanwhile are sent in the next turn.
            return None;
        };
        let mut value = event_json(&subscription.execution, &event);
        value["executionId"] = id.as_str().into();
        value["eventId"] = subscription.position.into();
        subscription.position += 1;
        // Whoever has read the end may ask for all of it again.
        if matches!(event.kind, EventKind::Finished) {
            self.batch = None;
            self.subscriptions.remove(&id);
        }
        Some(value)
    }

    /// Takes events over that were waited for.
    fn take(&mut self, number: u64, events: Option<Vec<Event>>) {
        let Some((id, _)) = self.subscriptions.iter().find(|(_, own)| own.number == number) else { return };
        let id = id.clone();
        match events {
            Some(events) => self.batch = Some(Batch { id, events: events.into_iter() }),
            None => {
                self.subscriptions.remove(&id);
            }
        }
    }

    /// Waits for the next events of execution `id`, if it is followed.
    fn wait(&mut self, id: &str) {
        let Some(subscription) = self.subscriptions.get_mut(id) else { return };
        let (execution, position, number) =
            (Arc::clone(&subscription.execution), subscription.position, subscription.number);
        let events: BoxFuture<'static, Awaited> =
            Box::pin(async move { (number, execution.events_from(position).await) });
        let (wait, registration) = AbortHandle::new_pair();
        subscription.wait = wait;
        self.awaited.push(Abortable::new(events, registration));
    }

    /// Does what a message asks for.
    ///
    /// # Errors
    /// The answer that says why it cannot be done.
    async fn message(&mut self, text: Option<&str>) -> Result<(), Value> {
        let (kind, fields) = match parse(text) {
            Ok(parsed) => parsed,
            Err(refusal) => {
                self.garbage += 1;
                return Err(error_json(&refusal, None));
            }
        };
        let id = fields.get("executionId").or(fields.get("execution_id")).and_then(Value::as_str).map(str::to_owned);
        let done = match kind {
            "authenticate" => self.authenticate(fields),
            "ping" => body::of_value(fields.into()).map(|Nothing {}| self.answer(json!({"type": "pong"}))),
            kind => match self.caller.clone() {
                Some(caller) => self.authorized(kind, fields, caller).await,
                None => Err(Refusal::new(Class::Unauthorized, "key_missing", "a key is required")
                    .hint("send {\"type\": \"authenticate\", \"key\": …} first")),
            },
        };
        done.map_err(|refusal| {
            // What has the wrong shape is garbage; what only cannot be had is not.
            if matches!(refusal.code, "bad_request" | "unknown_field") {
                self.garbage += 1;
            }
            error_json(&refusal, id.as_deref())
        })
    }

    async fn authorized(&mut self, kind: &str, fields: Map<String, Value>, caller: Caller) -> Result<(), Refusal> {
        let fields = Value::from(fields);
        match kind {
            "execute" => self.execute(body::of_value(fields)?, caller),
            "subscribe" => self.subscribe(body::of_value(fields)?, &caller).await,
            "unsubscribe" => {
                let About { id } = body::of_value(fields)?;
                if let Some(subscription) = self.subscriptions.remove(&id) {
                    subscription.wait.abort();
                }
                self.answer(json!({"type": "unsubscribed", "executionId": id}));
                Ok(())
            }
            "stdin" => {
                let Stdin { id, data, encoding } = body::of_value(fields)?;
                let bytes = encoding.decode(data).map_err(|why| Refusal::bad("bad_encoding", "data", why))?;
                self.inputs.add(&*self.running(&caller, &id)?, bytes)
            }
            "stdin_close" => {
                let About { id } = body::of_value(fields)?;
                let execution = self.running(&caller, &id)?;
                self.inputs.close(&execution);
                Ok(())
            }
            "signal" => {
                let Signal { id, signal } = body::of_value(fields)?;
                let number = signal_number(&signal)?;
                if !self.running(&caller, &id)?.signal(number) {
                    let message = "the signal could not be delivered: others are on their way";
                    return Err(Refusal::new(Class::TooManyRequests, "too_many_signals", message));
                }
                Ok(())
            }
            // `parse` lets no other kind through.
            _ => {
                let About { id } = body::of_value(fields)?;
                self.running(&caller, &id)?.cancel();
                Ok(())
            }
        }
    }

    fn authenticate(&mut self, fields: Map<String, Value>) -> Result<(), Refusal> {
        let Authenticate { key } = body::of_value(fields.into())?;
        match self.identity.with_key(&self.service, &key) {
            Ok(caller) => {
                self.caller = Some(caller);
                self.answer(json!({"type": "authenticated"}));
                Ok(())
            }
            Err(refusal) => {
                let (address, request_id) = (&self.identity.address, &self.identity.request_id);
                tracing::warn!(target: "security", address, request_id, reason = refusal.code, "authentication failed");
                self.wrong_keys += 1;
                Err(refusal)
            }
        }
    }

    fn execute(&mut self, body: ExecuteBody, caller: Caller) -> Result<(), Refusal> {
        self.service.check_rate(&caller)?;
        self.runs.retain(|run| !run.0.is_finished());
        if self.runs.len() >= RUNS_MAX {
            let message = format!("{RUNS_MAX} runs of this connection are going on");
            return Err(Refusal::new(Class::TooManyRequests, "too_many_runs", message).hint("wait for one to end"));
        }
        self.check_subscriptions()?;
        let detached = body.detached;
        let submission = submission(body, caller, self.identity.request_id.clone())?;
        let execution = self.service.submit(submission)?;
        let mut value = serde_json::to_value(accepted(&execution)).unwrap_or_default();
        value["type"] = "accepted".into();
        self.answer(value);
        if !detached {
            self.runs.push(CancelOnDrop(Arc::clone(&execution)));
        }
        self.follow(execution, 0);
        Ok(())
    }

    async fn subscribe(&mut self, asked: Subscribe, caller: &Caller) -> Result<(), Refusal> {
        self.service.renewed(caller)?;
        let Subscribe { id, last_event_id } = asked;
        if self.subscriptions.contains_key(&id) {
            return Err(Refusal::bad("already_subscribed", "executionId", "this execution is followed already"));
        }
        self.check_subscriptions()?;
        if let Some(execution) = self.service.visible(caller, &id) {
            let status = execution.status_word();
            self.answer(json!({"type": "subscribed", "executionId": id, "status": status}));
            self.follow(execution, last_event_id.map_or(0, |last| last.saturating_add(1)));
            return Ok(());
        }
        // One that only the history knows has ended.
        let record = self.service.history_record(caller, &id).await?.ok_or_else(|| unknown(&id))?;
        self.answer(json!({"type": "subscribed", "executionId": id, "status": record.status}));
        self.answer(json!({"type": "finished", "executionId": id, "answer": recorded(record)}));
        Ok(())
    }

    fn check_subscriptions(&self) -> Result<(), Refusal> {
        if self.subscriptions.len() < SUBSCRIPTIONS_MAX {
            return Ok(());
        }
        let message = format!("{SUBSCRIPTIONS_MAX} executions are followed by this connection already");
        Err(Refusal::new(Class::TooManyRequests, "too_many_subscriptions", message).hint("unsubscribe from one"))
    }

    fn follow(&mut self, execution: Arc<Execution>, position: usize) {
        let (id, number) = (execution.about.id.clone(), self.next_number);
        self.next_number += 1;
        let (wait, _) = AbortHandle::new_pair();
        self.subscriptions.insert(id.clone(), Subscription { number, execution, position, wait });
        self.wait(&id);
    }

    /// The execution `id`, which has not ended.
    fn running(&self, caller: &Caller, id: &str) -> Result<Arc<Execution>, Refusal> {
        let execution = self.service.visible(caller, id).ok_or_else(|| unknown(id))?;
        if execution.is_finished() {
            return Err(Refusal::bad("not_running", "executionId", "this execution has ended"));
        }
        Ok(execution)
    }

    fn answer(&mut self, value: Value) {
        self.answers.push_back(value);
    }
}
