//! Piston's WebSocket: one connection, one job.
//!
//! ```text
//! client: init{language,version,files,…}  data{stream:"stdin",data}  signal{signal}
//! server: runtime{language,version}  stage{stage}  data{stream,data}  exit{stage,code,signal}  error{message}
//! ```

use std::str::FromStr as _;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep_until};

use super::body;
use super::caller::{Identity, Place};
use super::execute::{CancelOnDrop, stage_word};
use super::piston::{Job, PistonError, exit_json, job, stages};
use super::socket::input::Inputs;
use super::websocket::{self, Times, Turn, Wire, close_codes};
use crate::runner::StepKind;
use crate::service::execution::{Event, EventKind, Execution};
use crate::service::refusal::Refusal;
use crate::service::{Caller, Service};

/// Why a connection is closed, in Piston's numbers.
const ALREADY_INITIALIZED: (u16, &str) = (4000, "Already Initialized");
const INITIALIZATION_TIMEOUT: (u16, &str) = (4001, "Initialization Timeout");
const NOTIFIED_ERROR: (u16, &str) = (4002, "Notified Error");
const NOT_YET_INITIALIZED: (u16, &str) = (4003, "Not yet initialized");
const ONLY_STDIN: (u16, &str) = (4004, "Can only write to stdin");
const INVALID_SIGNAL: (u16, &str) = (4005, "Invalid signal");
const JOB_COMPLETED: (u16, &str) = (4999, "Job Completed");

pub async fn connect(
    State(service): State<Arc<Service>>,
    identity: Identity,
    place: Option<Extension<Place>>,
    Extension(times): Extension<Times>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, PistonError> {
    let caller = identity.caller()?;
    let upgrade = websocket::admitted(&service, &headers, upgrade)?;
    let connection =
        Connection { service: Arc::clone(&service), caller, request_id: identity.request_id, started: None };
    Ok(websocket::open(&service, upgrade, place, move |socket| connection.serve(Wire::new(socket, times), times)))
}

struct Connection {
    service: Arc<Service>,
    caller: Caller,
    request_id: String,
    started: Option<Started>,
}

struct Started {
    /// Ends the run with the connection.
    run: CancelOnDrop,
    inputs: Inputs,
    /// Number of the next event.
    position: usize,
    events: std::vec::IntoIter<Event>,
    /// Messages that belong together, still to be sent.
    messages: std::collections::VecDeque<Value>,
    is_compiled: bool,
    /// The step that the client was told of last.
    step: Option<StepKind>,
    /// Everything was told.
    is_over: bool,
}

type End = (u16, &'static str);

impl Connection {
    async fn serve(mut self, mut wire: Wire, times: Times) {
        let service = Arc::clone(&self.service);
        let init_until = Instant::now() + times.init_max;
        loop {
            if wire.is_free()
                && let Some(started) = &mut self.started
            {
                if let Some(message) = started.next_message() {
                    if !wire.put(message.to_string()).await {
                        return;
                    }
                } else if started.is_over {
                    return wire.close(JOB_COMPLETED.0, JOB_COMPLETED.1).await;
                }
            }
            let is_waiting = self.started.is_none();
            let end = tokio::select! {
                turn = wire.turn(true) => match turn {
                    Turn::Sent => continue,
                    Turn::Text(text) => self.message(text.as_str()),
                    Turn::Binary => Err(Why::Message("messages are JSON as text, not binary".to_owned())),
                    Turn::TooLarge => Err(Why::End((close_codes::TOO_LARGE, "the message is too large"))),
                    Turn::Gone => return,
                },
                () = progress(&mut self.started), if !is_waiting => continue,
                () = sleep_until(init_until), if is_waiting => Err(Why::End(INITIALIZATION_TIMEOUT)),
                () = service.drained(), if is_waiting => {
                    Err(Why::End((close_codes::GOING_AWAY, "the service is shutting down")))
                }
            };
            match end {
                Ok(()) => {}
                Err(Why::End((code, reason))) => return wire.close(code, reason).await,
                Err(Why::Message(message)) => {
                    // Whatever is on its way is before this.
                    while !wire.is_free() {
                        if matches!(wire.turn(false).await, Turn::Gone) {
                            return;
                        }
                    }
                    wire.put(json!({"type": "error", "message": message}).to_string()).await;
                    return wire.close(NOTIFIED_ERROR.0, NOTIFIED_ERROR.1).await;
                }
            }
        }
    }

    fn message(&mut self, text: &str) -> Result<(), Why> {
        let fields: Map<String, Value> = body::parse(text.as_bytes())?;
        let word = |name: &str| fields.get(name).and_then(Value::as_str);
        match (word("type"), &mut self.started) {
            (Some("init"), None) => {
                self.started = Some(self.init(fields)?);
                Ok(())
            }
            (Some("init"), Some(_)) => Err(Why::End(ALREADY_INITIALIZED)),
            (Some("data" | "signal"), None) => Err(Why::End(NOT_YET_INITIALIZED)),
            (Some("data"), Some(started)) => {
                if word("stream") != Some("stdin") {
                    return Err(Why::End(ONLY_STDIN));
                }
                let data = word("data").unwrap_or_default().as_bytes().to_vec();
                match started.inputs.add(&started.run.0, data) {
                    // A program that has ended reads no more; its client learns that soon.
                    Err(refusal) if refusal.code == "stdin_closed" => Ok(()),
                    result => result.map_err(Why::from),
                }
            }
            (Some("signal"), Some(started)) => {
                let signal = word("signal").and_then(|name| Signal::from_str(name).ok());
                let signal = signal.ok_or(Why::End(INVALID_SIGNAL))?;
                // Lost where so many are on their way already, as signals are.
                started.run.0.signal(signal as i32);
                Ok(())
            }
            // Others mean nothing, to Piston neither.
            _ => Ok(()),
        }
    }

    fn init(&self, fields: Map<String, Value>) -> Result<Started, Refusal> {
        self.service.check_rate(&self.caller)?;
        let current = self.service.current();
        let first = fields.get("stdin").and_then(Value::as_str).unwrap_or_default().as_bytes().to_vec();
        let Job { submission, language, version } =
            job(&current, fields, self.caller.clone(), self.request_id.clone(), true)?;
        let execution = self.service.submit(submission)?;
        let mut inputs = Inputs::default();
        if !first.is_empty() {
            inputs.add(&execution, first)?;
        }
        let is_compiled = current.profiles.by_name(&language).is_some_and(|profile| profile.compile.is_some());
        Ok(Started {
            run: CancelOnDrop(execution),
            inputs,
            position: 0,
            events: Vec::new().into_iter(),
            messages: [json!({"type": "runtime", "language": language, "version": version})].into(),
            is_compiled,
            step: None,
            is_over: false,
        })
    }
}

/// Why a connection ends.
enum Why {
    End(End),
    /// The client is told, and then it ends.
    Message(String),
}

impl From<Refusal> for Why {
    fn from(refusal: Refusal) -> Why {
        Why::Message(refusal.message)
    }
}

/// Waits until there are events to tell of, or input has gone.
async fn progress(started: &mut Option<Started>) {
    let Some(started) = started else { return std::future::pending().await };
    let wants = started.events.len() == 0 && started.messages.is_empty() && !started.is_over;
    let execution = Arc::clone(&started.run.0);
    tokio::select! {
        events = execution.events_from(started.position), if wants => {
            let events = events.unwrap_or_default();
            started.position += events.len();
            started.events = events.into_iter();
        }
        () = started.inputs.feed(), if !started.inputs.is_empty() => {}
        else => std::future::pending().await,
    }
}

impl Started {
    fn next_message(&mut self) -> Option<Value> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Some(message);
            }
            let event = self.events.next()?;
            self.tell(event.kind);
        }
    }

    fn tell(&mut self, kind: EventKind) {
        match kind {
            EventKind::Queued { .. } => {}
            EventKind::Stage(step) => {
                // A program compiled before has no compile step now, and one that runs has compiled well.
                if step == StepKind::Run && self.is_compiled {
                    if self.step.is_none() {
                        self.messages.push_back(stage_json(StepKind::Compile));
                    }
                    self.messages.push_back(exit_json(stage_word(StepKind::Compile), Some(0), None));
                }
                self.step = Some(step);
                self.messages.push_back(stage_json(step));
            }
            EventKind::Output { stream, data, .. } => {
                let text = String::from_utf8_lossy(&data);
                self.messages.push_back(json!({"type": "data", "stream": stream.word(), "data": text}));
            }
            EventKind::Finished => {
                self.is_over = true;
                let message = end_json(&self.run.0, self.step);
                self.messages.extend(message);
            }
        }
    }
}

fn stage_json(step: StepKind) -> Value {
    json!({"type": "stage", "stage": stage_word(step)})
}

/// The end of the last step; the run step's, or that of a compile step that failed.
fn end_json(execution: &Execution, step: Option<StepKind>) -> Option<Value> {
    if let Some(refusal) = execution.refusal() {
        return Some(json!({"type": "error", "message": refusal.message}));
    }
    let answer = execution.answer()?;
    let (run, compile) = stages(execution, &answer);
    let (word, ended) = match (step, compile) {
        (Some(StepKind::Compile), Some(compile)) => (StepKind::Compile, compile),
        _ => (StepKind::Run, run),
    };
    Some(exit_json(stage_word(word), ended.code, ended.signal.as_deref()))
}
