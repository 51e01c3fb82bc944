//! Who ran what, when, and what came of it: kept in an SQLite database that outlives the service.
//!
//! ```text
//! front --try_send--> bounded queue --> writer thread --one transaction a batch--> history.db
//!    +----write------> journal - - - - - - after a death - - - - - - - - - - - - - - -^
//! front <-------------------------------- read-only connection <---------------------+
//! ```
//! - Writing never delays a run and never fails one. A record that finds no place in the queue, or that the disk
//!   refuses, is dropped and counted.
//! - A record in the journal outlives the process, as one that is committed does; it is committed some milliseconds
//!   later. Whoever must know that it outlives the process waits for the [`Receipt`].
//! - Whoever reads finds all that was sent before, if the writer is not held up.
//! - A run that was started but not finished when the service died is marked [`INTERRUPTED`] by its next life.
//! - Old runs are forgotten by age, count and size, in small steps between writing. The size is that of the database; its
//!   log comes on top, with 16 MB as a rule, and the journal, with as much at most.
//! - A damaged database is moved aside and a new one begun; a full disk is waited out.

mod database;
mod error;
mod journal;
mod reader;
mod record;
mod retention;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::words::settings::HistorySettings;
pub use error::HistoryError;
use journal::{Frame, Journal};
pub use record::{Counts, Details, Finished, INTERRUPTED, ListQuery, Page, RUNNING, Record, Started};
use writer::{LOST_RUNS_MAX, Message, Writer};

/// Records that wait to be written.
const QUEUE_RECORDS_MAX: usize = 4096;
/// Memory of the records that wait, in bytes. Beyond it a run is kept without its source and outputs, and beyond twice as
/// much not at all.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// Longest wait for the queue to be written out, when the service ends.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest wait of a reader for what was sent before.
const READ_FLUSH_TIME_MAX: Duration = Duration::from_millis(500);
/// How often waiting looks again.
const RETRY: Duration = Duration::from_millis(1);

/// The history. A handle: clones are the same history, which closes with the last of them.
#[derive(Clone)]
pub struct History {
    inner: Arc<Inner>,
}

/// Resolves when the record outlives the process, as a rule at once, and to an error when it was dropped. It need not be
/// waited for.
pub type Receipt = oneshot::Receiver<()>;

struct Inner {
    path: PathBuf,
    output_bytes_max: u64,
    shared: Arc<Shared>,
    sender: SyncSender<Message>,
    /// Woken for what is waited for; all else it finds by itself.
    writer: Thread,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the handles and the writer both see.
struct Shared {
    reader: Mutex<Option<Connection>>,
    journal: Journal,
    /// Records that were not kept.
    dropped: AtomicU64,
    queued_bytes: AtomicUsize,
    /// Set by who reads what cannot be: the writer begins anew.
    damaged: AtomicBool,
    /// Runs whose end found no place in the queue.
    lost: Mutex<Vec<String>>,
}

impl Shared {
    // A holder that panicked leaves a connection whose transaction is rolled back, and a list that is whole.
    fn reader(&self) -> MutexGuard<'_, Option<Connection>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> MutexGuard<'_, Vec<String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// Opens the history in a directory, which is made where there is none, and starts its writer.
    ///
    /// `settings.enabled` is the caller's to look at. A damaged database is moved aside, and one on a full disk is opened
    /// when there is room. Errors: the directory or the file cannot be used, another process uses it, or it was written
    /// by a newer version. May wait some seconds for a predecessor that is about to end.
    pub fn open(state_dir: &Path, settings: &HistorySettings) -> Result<History, HistoryError> {
        let lock = database::lock(state_dir)?;
        let path = state_dir.join(database::FILE);
        let (journal, remains) = Journal::open(&path)?;
        let shared = Arc::new(Shared {
            reader: Mutex::new(None),
            journal,
            dropped: AtomicU64::new(0),
            queued_bytes: AtomicUsize::new(0),
            damaged: AtomicBool::new(false),
            lost: Mutex::new(Vec::new()),
        });
        let (sender, receiver) = sync_channel(QUEUE_RECORDS_MAX);
        let mut writer = Writer::new(path.clone(), settings.clone(), shared.clone(), receiver, remains, lock);
        writer.open()?;
        let thread = std::thread::Builder::new().name("history".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(HistoryError::io("start the writer of", &path))?;
        let (writer, thread) = (thread.thread().clone(), Mutex::new(Some(thread)));
        let output_bytes_max = settings.output_bytes_max;
        Ok(History { inner: Arc::new(Inner { path, output_bytes_max, shared, sender, writer, thread }) })
    }

    /// Keeps that a run was accepted. Never waits.
    pub fn started(&self, record: Started) {
        let mut record = record.bounded();
        if !self.inner.has_room(record.weight()) {
            record.source = None;
        }
        let frame = Frame::of_start(&record);
        // A start that was lost needs no mark: there is no run to be marked.
        let _ =
            self.inner.shared.journal.keep(frame, |place| self.inner.send(Message::Started(Box::new(record), place)));
    }

    /// Keeps how a run ended. Never waits.
    pub fn finished(&self, record: Finished) -> Receipt {
        let (sender, receipt) = oneshot::channel();
        let mut record = record.bounded(self.inner.output_bytes_max);
        if !self.inner.has_room(record.weight()) {
            record = record.lightened();
        }
        // Of the two, the one who makes it outlive the process keeps the promise.
        let (mut here, mut there) = (None, Some(sender));
        let kept = self.inner.shared.journal.keep(Frame::of_end(&record), |place| {
            if place.is_some() {
                here = there.take();
            }
            self.inner.send(Message::Finished(Box::new(record), there, place))
        });
        match (kept, here) {
            (Ok(true), Some(sender)) => {
                let _ = sender.send(());
            }
            (Err(Message::Finished(record, ..)), _) => {
                let mut lost = self.inner.shared.lost();
                if lost.len() < LOST_RUNS_MAX {
                    lost.push(record.id);
                }
            }
            _ => {}
        }
        receipt
    }

    /// One run with its outputs. Waits for the disk, as all reading does: an event loop calls it on a blocking thread.
    pub fn get(&self, id: &str) -> Result<Option<Record>, HistoryError> {
        self.inner.read(|connection| reader::get(connection, id))
    }

    /// Runs without their outputs, newest first.
    pub fn list(&self, query: &ListQuery) -> Result<Page, HistoryError> {
        self.inner.read(|connection| reader::list(connection, query))
    }

    pub fn counts(&self) -> Result<Counts, HistoryError> {
        self.inner.read(reader::counts)
    }

    /// Size of the database with its log, in bytes.
    pub fn database_bytes(&self) -> u64 {
        let files = ["", "-wal"].map(|suffix| database::with_suffix(&self.inner.path, suffix));
        files.iter().filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum()
    }

    /// Records that were not kept since the service started: the queue or the disk was full, or a record made no sense
    /// (an id twice, an end without a start).
    pub fn dropped(&self) -> u64 {
        self.inner.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all records sent before are committed or dropped; false when that took longer than 10 seconds, or the
    /// history is closed.
    pub fn flush(&self) -> bool {
        self.inner.flush(FLUSH_TIME_MAX)
    }

    /// Commits what was sent before and closes the database; false when that took longer than 10 seconds, after which it
    /// goes on by itself. Records that come later are dropped. The last handle does the same when it goes.
    pub fn close(&self) -> bool {
        self.inner.close()
    }
}

impl Inner {
    fn has_room(&self, weight: usize) -> bool {
        self.shared.queued_bytes.load(Ordering::Relaxed) + weight <= QUEUE_BYTES_MAX
    }

    /// Queues a record, or counts it as dropped and gives it back.
    fn send(&self, message: Message) -> Result<(), Message> {
        let weight = message.weight();
        let queued = self.shared.queued_bytes.fetch_add(weight, Ordering::Relaxed);
        let result = if queued + weight > 2 * QUEUE_BYTES_MAX {
            Err(message)
        } else {
            self.try_send(message).map_err(|error| match error {
                TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
            })
        };
        if result.is_err() {
            self.shared.queued_bytes.fetch_sub(weight, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn try_send(&self, message: Message) -> Result<(), TrySendError<Message>> {
        let is_waited_for = message.is_waited_for();
        self.sender.try_send(message)?;
        if is_waited_for {
            self.writer.unpark();
        }
        Ok(())
    }

    /// Queues a message that may wait for its place. False when it found none, or the writer is gone.
    fn send_until(&self, deadline: Instant, mut message: Message) -> bool {
        while let Err(error) = self.try_send(message) {
            message = match error {
                TrySendError::Full(message) if Instant::now() < deadline => message,
                _ => return false,
            };
            std::thread::sleep(RETRY);
        }
        true
    }

    fn flush(&self, time_max: Duration) -> bool {
        let deadline = Instant::now() + time_max;
        let (sender, answer) = sync_channel(1);
        self.send_until(deadline, Message::Flush(sender))
            && answer.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }

    fn read<T>(&self, read: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, HistoryError> {
        if self.shared.queued_bytes.load(Ordering::Relaxed) > 0 {
            // What is not there by then is held up, and the rest can be read all the same.
            let _ = self.flush(READ_FLUSH_TIME_MAX);
        }
        let mut connection = self.shared.reader();
        let result = read(connection.as_mut().ok_or(HistoryError::Unavailable)?);
        if result.as_ref().is_err_and(error::is_damage) {
            // Before the connection is let go, so that the writer cannot take it for a word about the next database.
            self.shared.damaged.store(true, Ordering::Relaxed);
            // Wakes the writer; one that has something to do anyway needs no waking.
            let _ = self.try_send(Message::Flush(sync_channel(1).0));
        }
        result.map_err(HistoryError::database("read"))
    }

    fn close(&self) -> bool {
        let deadline = Instant::now() + FLUSH_TIME_MAX;
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return true };
        // A writer that is gone is as good as closed.
        self.send_until(deadline, Message::Close);
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(RETRY);
        }
        if thread.join().is_err() {
            tracing::error!("the writer of the history ended before its time");
        }
        true
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
