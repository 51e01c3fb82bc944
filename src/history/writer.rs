//! The thread that writes: it takes what is waiting, commits it as one transaction, and forgets old runs in between.
//!
//! Records that the journal has wait for a moment, so that one transaction takes several runs, or at least a run's start
//! and end. One that somebody waits for is committed as soon as nothing else is waiting. A transaction that fails loses
//! its batch: what the disk refuses cannot be kept in memory for as long as it likes. The runs of lost records are marked
//! when there is room again.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::Shared;
use super::database::{self, Database, now_ms, signed};
use super::error::{HistoryError, is_damage};
use super::journal::{Entry, Place};
use super::record::{Finished, INTERRUPTED, RUNNING, Started};
use super::retention::Retention;
use crate::words::settings::HistorySettings;

/// Records written in one transaction.
const BATCH_RECORDS_MAX: usize = 256;
/// How long a record for which nobody waits is kept back for what may come to be written with it.
const GATHER_TIME: Duration = Duration::from_millis(20);
/// How often old runs are looked for when nothing is written.
const RETENTION_EVERY: Duration = Duration::from_secs(60);
/// How often a database that could not be opened is tried again.
const REOPEN_EVERY: Duration = Duration::from_secs(1);
/// How often it is tried to mark the runs of lost records.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// How often the same complaint may stand in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Runs whose lost end is remembered until it can be marked.
pub(super) const LOST_RUNS_MAX: usize = 4096;

pub(super) enum Message {
    Started(Box<Started>, Option<Place>),
    /// With whom to tell of the commit, where the journal does not have it.
    Finished(Box<Finished>, Option<oneshot::Sender<()>>, Option<Place>),
    /// Answered when everything sent before it is written or lost.
    Flush(SyncSender<()>),
    Close,
}

impl Message {
    pub fn weight(&self) -> usize {
        match self {
            Message::Started(record, _) => record.weight(),
            Message::Finished(record, ..) => record.weight(),
            Message::Flush(_) | Message::Close => 0,
        }
    }

    /// True when somebody waits for what it asks for.
    pub fn is_waited_for(&self) -> bool {
        !matches!(self, Message::Started(..) | Message::Finished(_, None, _))
    }

    /// Where it is in the journal.
    fn place(&self) -> Option<Place> {
        match self {
            Message::Started(_, place) | Message::Finished(_, _, place) => *place,
            Message::Flush(_) | Message::Close => None,
        }
    }
}

pub(super) struct Writer {
    path: PathBuf,
    settings: HistorySettings,
    shared: Arc<Shared>,
    receiver: Receiver<Message>,
    /// The database and what is known of its size; `None` while it cannot be opened.
    open: Option<(Connection, Retention)>,
    reopen_at: Instant,
    retention_at: Instant,
    /// What an earlier process left in the journal, until the database has it.
    remains: Vec<Entry>,
    /// Runs whose end was lost, and which may be marked once all that was waiting at the time is written.
    lost: Vec<String>,
    complaint: Complaint,
    /// Holds the state directory for this process.
    _lock: File,
}

/// What one round of taking from the queue came to.
#[derive(Default)]
struct Round {
    batch: Vec<Message>,
    flushes: Vec<SyncSender<()>>,
    /// Nothing was left waiting.
    emptied: bool,
    closing: bool,
}

impl Writer {
    pub fn new(
        path: PathBuf,
        settings: HistorySettings,
        shared: Arc<Shared>,
        receiver: Receiver<Message>,
        remains: Vec<Entry>,
        lock: File,
    ) -> Writer {
        let now = Instant::now();
        Writer {
            path,
            settings,
            shared,
            receiver,
            open: None,
            reopen_at: now,
            retention_at: now,
            remains,
            lost: Vec::new(),
            complaint: Complaint::default(),
            _lock: lock,
        }
    }

    /// Opens the database. What may pass by itself is logged and tried again later; all else is an error.
    pub fn open(&mut self) -> Result<(), HistoryError> {
        match self.try_open() {
            Err(error) if error.may_pass() => {
                self.complaint.about(&error);
                Ok(())
            }
            result => result,
        }
    }

    fn try_open(&mut self) -> Result<(), HistoryError> {
        self.reopen_at = Instant::now() + REOPEN_EVERY;
        let remains = &self.remains;
        let Database { writer, reader } = database::open(&self.path, |connection| recover(connection, remains))?;
        self.remains = Vec::new();
        self.shared.journal.begin();
        let retention = Retention::new(&self.settings, &writer).map_err(HistoryError::database("count the runs of"))?;
        *self.shared.reader() = Some(reader);
        self.open = Some((writer, retention));
        Ok(())
    }

    /// Writes until it is told to close, or nobody is left to tell.
    pub fn run(mut self) {
        loop {
            // What was lost before the queue is found empty was started before, and so its start is written by then.
            self.lost.append(&mut self.shared.lost());
            let round = self.take();
            if self.open.is_none() && Instant::now() >= self.reopen_at {
                self.reopen();
            }
            if !round.batch.is_empty() || (round.emptied && !self.lost.is_empty()) {
                self.write(round.batch, round.emptied);
            }
            self.keep_retention(round.emptied);
            if self.shared.damaged.swap(false, Ordering::Relaxed) {
                self.begin_anew("read");
            }
            for flush in round.flushes {
                // Whoever asked may have stopped waiting.
                let _ = flush.try_send(());
            }
            self.complaint.about_drops(self.shared.dropped.load(Ordering::Relaxed));
            if round.closing {
                break;
            }
        }
        if let Some((connection, _)) = self.open.take() {
            *self.shared.reader() = None;
            // The last connection folds the log into the file when it closes.
            if let Err((_, error)) = connection.close() {
                tracing::warn!(%error, "the history was not closed cleanly; the next start repairs it");
            }
            self.shared.journal.tidy();
        }
    }

    /// Waits for a message, until the next thing is to be done, and takes what else is there.
    fn take(&mut self) -> Round {
        let mut round = Round::default();
        let until = if self.open.is_some() { self.retention_at } else { self.reopen_at };
        let mut time_max = until.saturating_duration_since(Instant::now());
        if !self.lost.is_empty() {
            time_max = time_max.min(MARK_EVERY);
        }
        match self.receiver.recv_timeout(time_max) {
            Ok(message) => round.sort(message),
            Err(RecvTimeoutError::Timeout) => round.emptied = true,
            Err(RecvTimeoutError::Disconnected) => (round.emptied, round.closing) = (true, true),
        }
        self.drain(&mut round);
        // Parked rather than at the queue: only who sends what is waited for wakes this thread meanwhile.
        let write_at = Instant::now() + GATHER_TIME;
        while round.may_wait() && Instant::now() < write_at {
            std::thread::park_timeout(write_at.saturating_duration_since(Instant::now()));
            self.drain(&mut round);
        }
        round
    }

    /// Takes what is there, up to a batch.
    fn drain(&self, round: &mut Round) {
        if round.closing {
            return;
        }
        while round.batch.len() < BATCH_RECORDS_MAX && !round.closing {
            match self.receiver.try_recv() {
                Ok(message) => round.sort(message),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                    round.emptied = true;
                    return;
                }
            }
        }
        round.emptied = false;
    }

    /// Commits a batch, or counts it as lost.
    fn write(&mut self, batch: Vec<Message>, emptied: bool) {
        let weight: usize = batch.iter().map(Message::weight).sum();
        let lost = if emptied { std::mem::take(&mut self.lost) } else { Vec::new() };
        let result = match &mut self.open {
            Some((connection, _)) => write_batch(connection, &batch, &lost),
            None => {
                self.settle(&batch);
                self.lose(batch, lost);
                self.shared.queued_bytes.fetch_sub(weight, Ordering::Relaxed);
                return;
            }
        };
        self.settle(&batch);
        match result {
            Ok(written) => {
                if let Some((_, retention)) = &mut self.open {
                    retention.added(written.added);
                }
                self.shared.dropped.fetch_add(written.ignored, Ordering::Relaxed);
                for message in batch {
                    if let Message::Finished(_, Some(receipt), _) = message {
                        let _ = receipt.send(());
                    }
                }
            }
            Err(source) => {
                self.lose(batch, lost);
                if is_damage(&source) {
                    self.begin_anew("write");
                } else {
                    let error = HistoryError::Database { operation: "write", source };
                    self.complaint.about(&error);
                }
            }
        }
        self.shared.queued_bytes.fetch_sub(weight, Ordering::Relaxed);
    }

    /// The journal need not keep these any more, written or given up.
    fn settle(&self, batch: &[Message]) {
        batch.iter().filter_map(Message::place).for_each(|place| self.shared.journal.settle(place));
    }

    fn lose(&mut self, batch: Vec<Message>, lost: Vec<String>) {
        self.shared.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.lost = lost;
        for message in batch {
            if let Message::Finished(record, ..) = message
                && self.lost.len() < LOST_RUNS_MAX
            {
                self.lost.push(record.id);
            }
        }
    }

    /// One step of retention when it is due, and the next at once when there is more to do and nothing is waiting.
    fn keep_retention(&mut self, emptied: bool) {
        let Some((connection, retention)) = &mut self.open else { return };
        let is_time = emptied && Instant::now() >= self.retention_at;
        if is_time {
            self.shared.journal.tidy();
        }
        if !is_time && !retention.is_due() {
            return;
        }
        match retention.step(connection, now_ms()) {
            Ok(true) => self.retention_at = Instant::now(),
            Ok(false) => self.retention_at = Instant::now() + RETENTION_EVERY,
            Err(source) => {
                self.retention_at = Instant::now() + RETENTION_EVERY;
                if is_damage(&source) {
                    return self.begin_anew("write");
                }
                let error = HistoryError::Database { operation: "forget old runs of", source };
                self.complaint.about(&error);
            }
        }
    }

    /// Moves a database that turned out to be damaged aside and begins another.
    fn begin_anew(&mut self, operation: &'static str) {
        *self.shared.reader() = None;
        self.shared.damaged.store(false, Ordering::Relaxed);
        self.open = None;
        let damage = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        let source = rusqlite::Error::SqliteFailure(damage, None);
        let moved = database::move_aside(&self.path, &HistoryError::Database { operation, source });
        if let Err(error) = moved {
            self.complaint.about(&error);
        }
        self.reopen();
    }

    fn reopen(&mut self) {
        match self.try_open() {
            Ok(()) => tracing::info!("the history is open again"),
            Err(error) => self.complaint.about(&error),
        }
    }
}

impl Round {
    /// True when there are some records, with room for more, and nobody waits for this round to be written.
    fn may_wait(&self) -> bool {
        let some = 1..BATCH_RECORDS_MAX;
        let is_waited_for = !self.flushes.is_empty() || self.batch.iter().any(Message::is_waited_for);
        some.contains(&self.batch.len()) && !is_waited_for && !self.closing
    }

    fn sort(&mut self, message: Message) {
        match message {
            Message::Flush(answer) => self.flushes.push(answer),
            Message::Close => self.closing = true,
            record => self.batch.push(record),
        }
    }
}

/// What a committed batch came to.
#[derive(Default)]
struct Written {
    added: u64,
    /// Records that could not be kept: a start of an id that is there already, an end without a start.
    ignored: u64,
}

fn write_batch(connection: &mut Connection, batch: &[Message], lost: &[String]) -> rusqlite::Result<Written> {
    let mut written = Written::default();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for message in batch {
        match message {
            Message::Started(record, _) if insert(&transaction, record)? => written.added += 1,
            Message::Finished(record, ..) if update(&transaction, record)? => {}
            Message::Started(..) | Message::Finished(..) => written.ignored += 1,
            Message::Flush(_) | Message::Close => {}
        }
    }
    for id in lost {
        let sql = "UPDATE runs SET status = ?2, message = 'the run ended, but the record of it was lost'
                   WHERE id = ?1 AND status = ?3";
        transaction.prepare_cached(sql)?.execute([id, INTERRUPTED, RUNNING])?;
    }
    transaction.commit()?;
    Ok(written)
}

/// Puts what an earlier process left in the journal where it belongs; most of it may be there already.
fn recover(connection: &mut Connection, remains: &[Entry]) -> rusqlite::Result<()> {
    if remains.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut found = 0;
    for entry in remains {
        let is_new = match entry {
            Entry::Started(record) => insert(&transaction, record)?,
            Entry::Finished(record) => update(&transaction, record)?,
        };
        found += usize::from(is_new);
    }
    transaction.commit()?;
    if found > 0 {
        tracing::info!(records = found, "records of an earlier life of the service are taken from the journal");
    }
    Ok(())
}

/// False when there is a run of this id.
fn insert(transaction: &Transaction, record: &Started) -> rusqlite::Result<bool> {
    let sql = "INSERT OR IGNORE INTO runs (id, created_ms, caller, address, request_id, dialect, language, version,
               source_sha256, source_bytes, files, status) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let added = transaction.prepare_cached(sql)?.execute(params![
        record.id,
        signed(record.created_ms),
        record.caller,
        record.address,
        record.request_id,
        record.dialect,
        record.language,
        record.version,
        record.source_sha256,
        signed(record.source_bytes),
        record.files,
        RUNNING,
    ])?;
    if let (1, Some(source)) = (added, &record.source) {
        let sql = "INSERT OR REPLACE INTO details (seq, source) VALUES (?1, ?2)";
        transaction.prepare_cached(sql)?.execute(params![transaction.last_insert_rowid(), source])?;
    }
    Ok(added == 1)
}

/// False when there is no run of this id that has not ended.
fn update(transaction: &Transaction, record: &Finished) -> rusqlite::Result<bool> {
    let sql = "UPDATE runs SET finished_ms = ?2, status = ?3, exit_code = ?4, signal = ?5, message = ?6,
               wall_time_ms = ?7, cpu_time_ms = ?8, memory_peak_bytes = ?9, queue_time_ms = ?10,
               stdout_truncated_bytes = ?11, stderr_truncated_bytes = ?12, denied_syscalls = ?13
               WHERE id = ?1 AND status = ?14 RETURNING seq";
    let denied_syscalls = serde_json::Value::from(record.denied_syscalls.as_slice()).to_string();
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows = statement.query(params![
        record.id,
        signed(record.finished_ms),
        record.status,
        record.exit_code,
        record.signal,
        record.message,
        record.wall_time_ms,
        record.cpu_time_ms,
        signed(record.memory_peak_bytes),
        record.queue_time_ms,
        signed(record.stdout_truncated_bytes),
        signed(record.stderr_truncated_bytes),
        denied_syscalls,
        RUNNING,
    ])?;
    let Some(row) = rows.next()? else { return Ok(false) };
    let seq: i64 = row.get(0)?;
    let sql = "INSERT INTO details (seq, stdout, stderr, answer_json, result_json, logs_json)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)
               ON CONFLICT (seq) DO UPDATE SET stdout = ?2, stderr = ?3, answer_json = ?4, result_json = ?5, logs_json = ?6";
    transaction.prepare_cached(sql)?.execute(params![
        seq,
        record.stdout,
        record.stderr,
        record.answer_json,
        record.result_json,
        record.logs_json,
    ])?;
    Ok(true)
}

/// Says what is wrong, but not again and again.
#[derive(Default)]
struct Complaint {
    about: Option<Instant>,
    about_drops: Option<Instant>,
    drops_told: u64,
}

impl Complaint {
    fn about(&mut self, error: &HistoryError) {
        if is_time(&mut self.about) {
            let cause = std::error::Error::source(error).map(tracing::field::display);
            tracing::error!(%error, cause, "the history cannot be kept; runs go on without it");
        }
    }

    fn about_drops(&mut self, dropped: u64) {
        if dropped > self.drops_told && is_time(&mut self.about_drops) {
            tracing::warn!(records = dropped - self.drops_told, "records of the history were dropped");
            self.drops_told = dropped;
        }
    }
}

fn is_time(last: &mut Option<Instant>) -> bool {
    let is_time = last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY);
    if is_time {
        *last = Some(Instant::now());
    }
    is_time
}
