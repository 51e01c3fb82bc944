//! One run from its acceptance to its answer, and everything that is to be told of it meanwhile.
//!
//! What happens is kept as a list of events that only grows: those who follow read it at their own pace from a position
//! of their own, so that a slow reader holds up nothing and a late one misses nothing. Its size is bounded by the run's
//! output cap, and the number of pieces by pausing between reads when there are many.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Extracted;
use super::refusal::Refusal;
use crate::answer::Answer;
use crate::runner::{Captured, Recorder, StepKind, Stream};

/// Pieces of output after which reading pauses, so that more comes at once.
const PIECES_MANY: usize = 4096;
const PIECES_PAUSE: Duration = Duration::from_millis(10);

/// Something that happened, since the run was accepted.
#[derive(Debug, Clone)]
pub struct Event {
    pub time: Duration,
    pub kind: EventKind,
}

#[derive(Debug, Clone)]
pub enum EventKind {
    /// Waits for its turn, behind so many.
    Queued {
        position: usize,
    },
    Stage(StepKind),
    /// Ends at a character's end, unless the output is no UTF-8.
    Output {
        step: StepKind,
        stream: Stream,
        data: Bytes,
    },
    Finished,
}

/// What is known of a run from the start.
#[derive(Debug, Clone)]
pub struct About {
    pub id: String,
    pub created: SystemTime,
    /// Name of the key it was asked for with, if any.
    pub key: Option<String>,
    /// Who may see it: the key's name, else the address.
    pub owner: String,
    pub dialect: &'static str,
    pub request_id: String,
    pub language: Option<String>,
    pub version: Option<String>,
}

pub struct Execution {
    pub about: About,
    accepted: Instant,
    state: Mutex<State>,
    /// The number of events; closed state is the event `Finished`.
    events_count: watch::Sender<usize>,
    cancel: CancellationToken,
    stdin: Mutex<Option<mpsc::Sender<Bytes>>>,
    signals: mpsc::Sender<i32>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    pieces: usize,
    /// The first bytes of a character whose rest is still to come, by step and stream.
    halves: Vec<(StepKind, Stream, Vec<u8>)>,
    /// Without its outputs, which the events hold.
    answer: Option<Answer>,
    /// Why there is no verdict, if there is none.
    refusal: Option<Refusal>,
    extracted: Option<Extracted>,
    finished: Option<Duration>,
}

impl Execution {
    /// An execution whose further input goes to `stdin` and whose signals to `signals`.
    pub fn new(about: About, stdin: Option<mpsc::Sender<Bytes>>, signals: mpsc::Sender<i32>) -> Execution {
        Execution {
            about,
            accepted: Instant::now(),
            state: Mutex::default(),
            events_count: watch::Sender::new(0),
            cancel: CancellationToken::new(),
            stdin: Mutex::new(stdin),
            signals,
        }
    }

    /// Ends the run, whatever it is doing.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    pub fn canceled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Where further input goes, if the run was started to take it.
    pub fn stdin(&self) -> Option<mpsc::Sender<Bytes>> {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The program reads the end of its input.
    pub fn close_stdin(&self) {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn record(&self, kind: EventKind) {
        let mut state = self.lock();
        self.push(&mut state, kind);
    }

    fn push(&self, state: &mut State, kind: EventKind) {
        state.events.push(Event { time: self.accepted.elapsed(), kind });
        self.events_count.send_replace(state.events.len());
    }

    /// No output comes any more: halves of characters stay what they are.
    pub fn flush(&self) {
        let mut state = self.lock();
        for (step, stream, half) in std::mem::take(&mut state.halves) {
            self.push(&mut state, EventKind::Output { step, stream, data: half.into() });
        }
    }

    /// The run has ended: the last event. With a `refusal` where there is no verdict.
    pub(super) fn finish(&self, answer: Answer, refusal: Option<Refusal>) {
        self.close_stdin();
        let mut state = self.lock();
        state.answer = Some(answer);
        state.refusal = refusal;
        state.finished = Some(self.accepted.elapsed());
        self.push(&mut state, EventKind::Finished);
    }

    pub(super) fn set_extracted(&self, extracted: Extracted) {
        self.lock().extracted = Some(extracted);
    }

    /// Function mode: what the code left, once the run has ended.
    pub fn extracted(&self) -> Option<Extracted> {
        self.lock().extracted.clone()
    }

    pub fn is_finished(&self) -> bool {
        self.lock().finished.is_some()
    }

    /// Time from acceptance to the end, if it has ended.
    pub fn duration(&self) -> Option<Duration> {
        self.lock().finished
    }

    pub fn status_word(&self) -> &'static str {
        let state = self.lock();
        match &state.answer {
            Some(answer) => answer.run.status,
            None if state.events.iter().any(|event| matches!(event.kind, EventKind::Stage(_))) => "running",
            None => "queued",
        }
    }

    /// The answer with all outputs, once the run has ended.
    pub fn answer(&self) -> Option<Answer> {
        let answer = self.lock().answer.clone()?;
        let mut answer = self.with_compile_output(answer);
        answer.run.set_output(self.output_of(StepKind::Run));
        Some(answer)
    }

    /// Why the run has ended without a verdict, if it has: whoever waits for one is refused so.
    pub fn refusal(&self) -> Option<Refusal> {
        self.lock().refusal.clone()
    }

    /// The answer, once the run has ended with a verdict.
    ///
    /// # Errors
    /// It has ended without one.
    pub async fn verdict(&self) -> Result<Answer, Refusal> {
        let answer = self.finished().await;
        self.refusal().map_or(Ok(answer), Err)
    }

    /// `answer` with what the compile step has written.
    pub(super) fn with_compile_output(&self, mut answer: Answer) -> Answer {
        if let Some(compile) = &mut answer.compile {
            // A compile step taken over from an earlier run brings its output along.
            let output = self.output_of(StepKind::Compile);
            if !output.stdout.is_empty() || !output.stderr.is_empty() {
                compile.set_output(output);
            }
        }
        answer
    }

    /// What `step` has written so far.
    pub fn output_of(&self, step: StepKind) -> Captured {
        captured(&self.lock().events, step)
    }

    /// Waits for the end.
    pub async fn finished(&self) -> Answer {
        let mut count = self.events_count.subscribe();
        loop {
            if let Some(answer) = self.answer() {
                return answer;
            }
            // The sender lives as long as this execution.
            let _ = count.changed().await;
        }
    }

    /// The events from `position` on; waits until there is one. `None` after the last.
    pub async fn events_from(&self, position: usize) -> Option<Vec<Event>> {
        let mut count = self.events_count.subscribe();
        loop {
            {
                let state = self.lock();
                if let Some(events) = state.events.get(position..).filter(|events| !events.is_empty()) {
                    return Some(events.to_vec());
                }
                if state.finished.is_some() {
                    return None;
                }
            }
            let _ = count.changed().await;
        }
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Bytes that are kept of it.
    pub fn bytes(&self) -> usize {
        let state = self.lock();
        let output: usize = state.events.iter().map(|event| event.kind.bytes()).sum();
        let files =
            state.answer.as_ref().map_or(0, |answer| answer.files_out.iter().map(|file| file.content.len()).sum());
        let extracted = state.extracted.as_ref().map_or(0, Extracted::bytes);
        output + files + extracted + state.events.len() * size_of::<Event>()
    }

    /// Signals the program; false when too many are under way already, or it has ended.
    pub fn signal(&self, number: i32) -> bool {
        self.signals.try_send(number).is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventKind {
    fn bytes(&self) -> usize {
        match self {
            EventKind::Output { data, .. } => data.len(),
            _ => 0,
        }
    }
}

/// What a step wrote, from the events.
fn captured(events: &[Event], wanted: StepKind) -> Captured {
    let of = |wanted_stream: Stream| {
        let pieces = events.iter().filter_map(|event| match &event.kind {
            EventKind::Output { step, stream, data } if *step == wanted && *stream == wanted_stream => Some(data),
            _ => None,
        });
        let mut bytes = Vec::with_capacity(pieces.clone().map(Bytes::len).sum());
        pieces.for_each(|piece| bytes.extend_from_slice(piece));
        bytes
    };
    Captured { stdout: of(Stream::Stdout), stderr: of(Stream::Stderr) }
}

impl Recorder for Execution {
    fn begin(&self, kind: StepKind) {
        self.record(EventKind::Stage(kind));
    }

    fn output(&self, step: StepKind, stream: Stream, bytes: &[u8]) -> Duration {
        let mut state = self.lock();
        let half = state.halves.iter().position(|(of, on, _)| *of == step && *on == stream);
        let mut data = half.map(|index| state.halves.swap_remove(index).2).unwrap_or_default();
        data.extend_from_slice(bytes);
        let whole = whole_characters(&data);
        if whole < data.len() {
            let half = data.split_off(whole);
            state.halves.push((step, stream, half));
        }
        if !data.is_empty() {
            state.pieces += 1;
            self.push(&mut state, EventKind::Output { step, stream, data: data.into() });
        }
        if state.pieces > PIECES_MANY { PIECES_PAUSE } else { Duration::ZERO }
    }
}

/// Length of `bytes` without a character at its end of which more is to come.
fn whole_characters(bytes: &[u8]) -> usize {
    // A character has at most four bytes; what is no UTF-8 anyway is not held back.
    let tail = bytes.len().saturating_sub(3);
    for start in (tail..bytes.len()).rev() {
        let needed = match bytes[start] {
            0x00..=0x7f => return bytes.len(),
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return bytes.len(),
        };
        return if bytes.len() - start < needed { start } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execution() -> Execution {
        let about = About {
            id: "1".to_owned(),
            created: SystemTime::UNIX_EPOCH,
            key: None,
            owner: "a".to_owned(),
            dialect: "native",
            request_id: "r".to_owned(),
            language: None,
            version: None,
        };
        Execution::new(about, None, mpsc::channel(1).0)
    }

    fn outputs(execution: &Execution) -> Vec<Bytes> {
        let data = |event: Event| match event.kind {
            EventKind::Output { data, .. } => Some(data),
            _ => None,
        };
        execution.events().into_iter().filter_map(data).collect()
    }

    #[test]
    fn characters_are_not_cut_between_events_and_streams_do_not_mix() {
        let execution = execution();
        let euro = "€".as_bytes();
        execution.output(StepKind::Run, Stream::Stdout, &[b"a", &euro[..1]].concat());
        execution.output(StepKind::Run, Stream::Stderr, b"e");
        execution.output(StepKind::Run, Stream::Stdout, &euro[1..]);
        assert_eq!(outputs(&execution), ["a".as_bytes(), b"e", euro]);
        let output = captured(&execution.events(), StepKind::Run);
        assert_eq!((output.stdout, output.stderr), ("a€".into(), b"e".to_vec()));
    }

    #[test]
    fn bytes_that_are_no_text_are_not_held_back() {
        for bytes in [&[0xff, 0xfe][..], &[0x80], &[0xe2, 0x28], b"ok"] {
            assert_eq!(whole_characters(bytes), bytes.len(), "{bytes:x?}");
        }
        assert_eq!(whole_characters(&[b'a', 0xf0, 0x9f, 0x98]), 1);
    }

    #[test]
    fn very_many_pieces_slow_the_reading_down() {
        let execution = execution();
        let pauses = (0..PIECES_MANY + 2).map(|_| execution.output(StepKind::Run, Stream::Stdout, b"x"));
        assert_eq!(pauses.filter(|pause| !pause.is_zero()).count(), 2);
    }

    #[tokio::test]
    async fn followers_see_every_event_once_and_then_the_end() {
        let execution = execution();
        execution.begin(StepKind::Run);
        assert_eq!(execution.events_from(0).await.map(|events| events.len()), Some(1));
        execution.output(StepKind::Run, Stream::Stdout, b"x");
        assert_eq!(execution.events_from(1).await.map(|events| events.len()), Some(1));
        assert_eq!(execution.status_word(), "running");
    }
}
