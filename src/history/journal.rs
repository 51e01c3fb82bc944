//! The journal: records that the database may not hold yet, in files that outlive the process.
//!
//! To commit a record takes a transaction in another thread, and a short run's answer that waited for it would come a
//! fifth later. Here it takes one write(2), which leaves the record with the kernel: whatever ends this process, the next
//! one finds it and puts it into the database ([`Journal::open`]). A machine that loses its power may lose the last
//! seconds, as it may of the database.
//!
//! Two files take turns, so that one can be emptied while the other grows. A file is empty again when the writer has
//! settled every record in it. Where the journal cannot be used - it is full because the writer stands still, or the
//! disk has just been slow - records are queued all the same, and whoever wants to be sure waits for the commit.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::HistoryError;
use super::record::{Finished, Started};

/// A file takes no more records once it holds this much.
const PART_BYTES_MAX: u64 = 8 << 20;
/// A file that holds less is not worth emptying between two runs; it is when nothing is going on.
const EMPTY_BYTES_MIN: u64 = 256 << 10;
/// A write that took longer shows a disk in trouble, and the journal rests: it must not hold up answers.
const WRITE_TIME_MAX: Duration = Duration::from_millis(20);
const REST_TIME: Duration = Duration::from_secs(10);
/// The first byte of a frame: the version of its records' format. Behind it come the record's length, as four bytes,
/// the lowest first, and the record.
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 5;

/// Any of the records, as it is written.
#[derive(Serialize)]
enum EntryToWrite<'a> {
    Started(&'a Started),
    Finished(&'a Finished),
}

/// Any of the records, as it is read back.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) enum Entry {
    Started(Started),
    Finished(Finished),
}

/// A record ready to be written.
pub(super) struct Frame(Option<Vec<u8>>);

impl Frame {
    pub fn of_start(record: &Started) -> Frame {
        Frame::of(&EntryToWrite::Started(record))
    }

    pub fn of_end(record: &Finished) -> Frame {
        Frame::of(&EntryToWrite::Finished(record))
    }

    fn of(entry: &EntryToWrite) -> Frame {
        let mut head = Vec::with_capacity(2 << 10);
        head.extend([0; HEAD_BYTES]);
        let frame = postcard::to_extend(entry, head).ok().and_then(|mut bytes| {
            let length = u32::try_from(bytes.len() - HEAD_BYTES).ok()?;
            let head = bytes.first_chunk_mut::<HEAD_BYTES>()?;
            let [a, b, c, d] = length.to_le_bytes();
            *head = [VERSION, a, b, c, d];
            Some(bytes)
        });
        Frame(frame)
    }
}

/// Which of the two files a record is in, for [`Journal::settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(usize);

pub(super) struct Journal {
    state: Mutex<State>,
}

struct State {
    parts: [Part; 2],
    active: usize,
    /// Not before this time again.
    rests_until: Option<Instant>,
    /// What an earlier process left is not in the database yet.
    holds_remains: bool,
}

struct Part {
    file: File,
    bytes: u64,
    /// Records that the writer has not settled.
    waiting: u64,
}

impl Journal {
    /// Opens the files beside `database`, or makes them; also returns what an earlier process left in them, starts first.
    /// Nothing is written before [`Journal::begin`].
    ///
    /// # Errors
    /// A file cannot be opened or read.
    pub fn open(database: &Path) -> Result<(Journal, Vec<Entry>), HistoryError> {
        let (first, mut entries) = open_part(&database.with_extension("journal-a"))?;
        let (second, others) = open_part(&database.with_extension("journal-b"))?;
        entries.extend(others);
        // Which of the files is the older one does not show, and an end may stand in the other than its start.
        entries.sort_by_key(|entry| matches!(entry, Entry::Finished(_)));
        let state = State { parts: [first, second], active: 0, rests_until: None, holds_remains: true };
        Ok((Journal { state: Mutex::new(state) }, entries))
    }

    /// The database holds all that [`Journal::open`] found.
    pub fn begin(&self) {
        let mut state = self.lock();
        state.holds_remains = false;
        state.parts.iter_mut().for_each(Part::empty);
    }

    /// Queues a record by `queue` and writes it down; true when it outlives this process from now on. `queue` is told
    /// where the record will be, and `None` if it will be nowhere. It goes first, so that nothing is written down that
    /// is dropped, and within the lock, so that nothing is settled before it is written.
    ///
    /// # Errors
    /// Those of `queue`.
    pub fn keep<E>(&self, frame: Frame, queue: impl FnOnce(Option<Place>) -> Result<(), E>) -> Result<bool, E> {
        let mut state = self.lock();
        let Some((bytes, place)) = frame.0.and_then(|bytes| Some((bytes, state.place()?))) else {
            drop(state);
            return queue(None).map(|()| false);
        };
        queue(Some(place))?;
        let began = Instant::now();
        let part = &mut state.parts[place.0];
        part.waiting += 1;
        let written = part.write(&bytes);
        if !written || began.elapsed() > WRITE_TIME_MAX {
            state.rests_until = Some(Instant::now() + REST_TIME);
        }
        Ok(written)
    }

    /// A record that was to be at `place` is in the database, or given up.
    pub fn settle(&self, place: Place) {
        let mut state = self.lock();
        let part = &mut state.parts[place.0];
        part.waiting = part.waiting.saturating_sub(1);
        if part.bytes >= EMPTY_BYTES_MIN {
            part.empty_if_settled();
        }
    }

    /// Empties what need not be kept; for a time when nothing is going on.
    pub fn tidy(&self) {
        let mut state = self.lock();
        if !state.holds_remains {
            state.parts.iter_mut().for_each(Part::empty_if_settled);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A holder that panicked has at worst not counted a record.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Where the next record goes.
    fn place(&mut self) -> Option<Place> {
        if self.holds_remains || self.rests_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        self.rests_until = None;
        if self.parts[self.active].bytes >= PART_BYTES_MAX {
            let other = 1 - self.active;
            self.parts[other].empty_if_settled();
            if self.parts[other].bytes > 0 {
                return None;
            }
            self.active = other;
        }
        Some(Place(self.active))
    }
}

impl Part {
    /// False when not all of it could be written; none of it is left then.
    fn write(&mut self, bytes: &[u8]) -> bool {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.bytes += bytes.len() as u64;
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the history's journal could not be written");
                // Half a frame would hide those behind it: where it stays, nothing more goes there until the file is emptied.
                if self.file.set_len(self.bytes).is_err() {
                    self.bytes = PART_BYTES_MAX;
                }
                false
            }
        }
    }

    fn empty_if_settled(&mut self) {
        if self.waiting == 0 {
            self.empty();
        }
    }

    fn empty(&mut self) {
        if self.bytes > 0 && self.file.set_len(0).is_ok() {
            self.bytes = 0;
        }
    }
}

/// Opens a file of the journal for appending, and reads what is in it.
fn open_part(path: &PathBuf) -> Result<(Part, Vec<Entry>), HistoryError> {
    let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    let mut file = opened.map_err(HistoryError::io("open", path))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(HistoryError::io("read", path))?;
    let (entries, rest) = decode(&bytes);
    if !rest.is_empty() {
        // The process was killed while it wrote, as a rule; its client has no answer then.
        tracing::warn!(file = %path.display(), bytes = rest.len(), "the end of the history's journal is no record");
    }
    Ok((Part { file, bytes: bytes.len() as u64, waiting: 0 }, entries))
}

/// The records of a file, and what follows the last whole one.
fn decode(mut bytes: &[u8]) -> (Vec<Entry>, &[u8]) {
    let mut entries = Vec::new();
    while let Some(([VERSION, length @ ..], rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((record, rest)) = rest.split_at_checked(length) else { break };
        let Ok(entry) = postcard::from_bytes(record) else { break };
        entries.push(entry);
        bytes = rest;
    }
    (entries, bytes)
}

/// Serializes bytes as bytes: serde takes a `Vec<u8>` for a list of numbers, one call for each.
pub(super) mod as_bytes {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(id: &str) -> Started {
        Started { id: id.to_owned(), language: "c".to_owned(), caller: Some("kim".to_owned()), ..Started::default() }
    }

    fn end(id: &str, bytes: usize) -> Finished {
        let exit_code = Some(-3);
        Finished { id: id.to_owned(), exit_code, wall_time_ms: 1.5, stdout: vec![200; bytes], ..Finished::default() }
    }

    fn opened(directory: &Path) -> (Journal, Vec<Entry>) {
        Journal::open(&directory.join("history.db")).unwrap()
    }

    /// Keeps a record that whoever queues it takes.
    fn keep(journal: &Journal, frame: Frame) -> Option<Place> {
        // Whatever the disk was busy with a moment ago.
        journal.lock().rests_until = None;
        let mut place = None;
        let kept = journal.keep::<()>(frame, |there| {
            place = there;
            Ok(())
        });
        assert_eq!(kept, Ok(place.is_some()));
        place
    }

    #[test]
    fn what_was_not_settled_is_found_by_the_next_process_starts_first() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, found) = opened(directory.path());
        assert_eq!(found, []);
        journal.begin();
        keep(&journal, Frame::of_end(&end("b", 10))).unwrap();
        keep(&journal, Frame::of_start(&start("a"))).unwrap();
        drop(journal);
        let (journal, found) = opened(directory.path());
        assert_eq!(found, [Entry::Started(start("a")), Entry::Finished(end("b", 10))]);
        assert_eq!(keep(&journal, Frame::of_start(&start("c"))), None, "nothing is written over what is still needed");
        journal.begin();
        drop(journal);
        assert_eq!(opened(directory.path()).1, []);
    }

    #[test]
    fn a_record_that_finds_no_place_in_the_queue_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = opened(directory.path());
        journal.begin();
        assert_eq!(journal.keep(Frame::of_start(&start("a")), |_| Err("full")), Err("full"));
        drop(journal);
        assert_eq!(opened(directory.path()).1, []);
    }

    #[test]
    fn the_files_take_turns_and_rest_while_nothing_is_settled() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = opened(directory.path());
        journal.begin();
        let mut places = Vec::new();
        while let Some(place) = keep(&journal, Frame::of_end(&end("a", 1 << 20))) {
            places.push(place);
            assert!(places.len() < 100, "the journal is bounded");
        }
        assert_eq!((places.first(), places.last()), (Some(&Place(0)), Some(&Place(1))));
        for place in places.drain(..).filter(|place| *place == Place(0)) {
            journal.settle(place);
        }
        assert_eq!(keep(&journal, Frame::of_end(&end("a", 10))), Some(Place(0)));
        // Small as it is, it is emptied when there is time for it, and not while it is needed.
        journal.tidy();
        assert!(journal.lock().parts[0].bytes > 0);
        journal.settle(Place(0));
        journal.tidy();
        assert_eq!(journal.lock().parts[0].bytes, 0);
    }

    #[test]
    fn a_torn_end_hides_nothing_that_stands_before_it() {
        let whole = Frame::of_start(&start("a")).0.unwrap();
        for length in 0..whole.len() {
            let bytes = [whole.as_slice(), &whole[..length]].concat();
            assert_eq!(decode(&bytes), (vec![Entry::Started(start("a"))], &whole[..length]), "{length}");
        }
        let mut other = whole.clone();
        other[0] = VERSION + 1;
        assert_eq!(decode(&other), (vec![], other.as_slice()), "what another version wrote is not read");
    }

    /// The format is that of [`VERSION`]: a change of the records' fields needs a new one, and then this text.
    #[test]
    fn the_format_has_not_changed_without_its_version() {
        let started = Started { source: Some("s".to_owned()), created_ms: 300, files: 1, ..start("i") };
        let finished =
            Finished { signal: Some("SIGXX".to_owned()), denied_syscalls: vec!["x".to_owned()], ..end("j", 2) };
        let digits = |frame: Frame| frame.0.unwrap().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(digits(Frame::of_start(&started)), "0116000000000169ac0201036b696d000000016300000001017301");
        assert_eq!(
            digits(Frame::of_end(&finished)),
            "013400000001016a000001050105534947585800000000000000f83f000000000000000000000000000000000002c8c8000000000101780000"
        );
    }
}
