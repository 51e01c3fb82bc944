//! Input on its way from a connection to its programs: held here while a program does not read, up to a bound.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{OwnedPermit, Sender};

use crate::service::execution::Execution;
use crate::service::refusal::{Class, Refusal};

/// Bytes that wait for one program, beside what is already in its pipe.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Bytes handed over at once.
const PIECE_BYTES: usize = 64 << 10;

/// What waits for programs that do not read.
#[derive(Default)]
pub struct Inputs {
    waiting: BTreeMap<String, Waiting>,
    permits: FuturesUnordered<BoxFuture<'static, (String, Option<OwnedPermit<Bytes>>)>>,
}

struct Waiting {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    sender: Sender<Bytes>,
}

impl Inputs {
    pub fn is_empty(&self) -> bool {
        self.permits.is_empty()
    }

    /// Passes `bytes` on to `execution`.
    ///
    /// # Errors
    /// It takes no input, or does not read what it was given before.
    pub fn add(&mut self, execution: &Execution, bytes: Vec<u8>) -> Result<(), Refusal> {
        let id = &execution.about.id;
        let waiting = match self.waiting.get_mut(id) {
            Some(waiting) => waiting,
            None => {
                let sender = execution.stdin().ok_or_else(|| {
                    let message = "the program's input is closed";
                    Refusal::bad("stdin_closed", "executionId", message)
                        .hint("start it with \"interactive\": true, and close its input once")
                })?;
                let new = Waiting { pieces: VecDeque::new(), bytes: 0, sender };
                self.waiting.entry(id.clone()).or_insert(new)
            }
        };
        if waiting.bytes > 0 && waiting.bytes + bytes.len() > WAITING_BYTES_MAX {
            let message = format!("{} bytes of input wait already, and the program does not read", waiting.bytes);
            return Err(Refusal::new(Class::TooManyRequests, "stdin_full", message).hint("send again when it has read"));
        }
        waiting.bytes += bytes.len();
        let mut bytes = Bytes::from(bytes);
        let was_empty = waiting.pieces.is_empty();
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            waiting.pieces.push_back(piece);
        }
        if was_empty {
            self.ask(id.clone());
        }
        Ok(())
    }

    /// The end of the input of `execution`, after what waits.
    pub fn close(&mut self, execution: &Execution) {
        // What waits has a sender of its own; the program reads the end when that one is dropped, too.
        execution.close_stdin();
    }

    /// Asks for room for the next piece of `id`.
    fn ask(&mut self, id: String) {
        let Some(waiting) = self.waiting.get(&id) else { return };
        if waiting.pieces.is_empty() {
            self.waiting.remove(&id);
            return;
        }
        let sender = waiting.sender.clone();
        self.permits.push(Box::pin(async move { (id, sender.reserve_owned().await.ok()) }));
    }

    /// Passes one piece on, once there is room.
    pub async fn feed(&mut self) {
        let Some((id, permit)) = self.permits.next().await else { return };
        match (permit, self.waiting.get_mut(&id)) {
            (Some(permit), Some(waiting)) => {
                if let Some(piece) = waiting.pieces.pop_front() {
                    waiting.bytes -= piece.len();
                    permit.send(piece);
                }
                self.ask(id);
            }
            // The program reads no more.
            (None, _) => {
                self.waiting.remove(&id);
            }
            (Some(_), None) => {}
        }
    }
}
