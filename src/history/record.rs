//! What the history keeps of a run: what is known when it starts, what is known when it ends, and both as read back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::journal::as_bytes;

/// The status word of a run that has not ended.
pub const RUNNING: &str = "running";
/// The status word of a run whose end is not known: the service ended first, or the history lost the record of it.
/// These two words exist in the history alone; all others are those of a verdict.
pub const INTERRUPTED: &str = "interrupted";

/// Longest single-line text (name, address, version, message) in bytes; the rest is cut.
const TEXT_BYTES_MAX: usize = 1 << 10;
/// Longest source text in bytes; a longer one is left out, and known by its digest alone.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Longest JSON text in bytes; a longer one is left out, because half of one says nothing.
const JSON_BYTES_MAX: usize = 256 << 10;
/// Most denied system calls listed with a run.
const SYSCALLS_MAX: usize = 64;
/// What a record takes in memory beside its texts, in bytes, roughly.
const RECORD_BYTES: usize = 512;

/// A run that was accepted: who asked for what. The journal has it field by field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// UUIDv7, as text.
    pub id: String,
    /// Unix time in milliseconds.
    pub created_ms: u64,
    /// Name of the caller's key; `None` without a key.
    pub caller: Option<String>,
    pub address: Option<String>,
    pub request_id: String,
    pub dialect: String,
    pub language: String,
    pub version: Option<String>,
    /// In hexadecimal.
    pub source_sha256: String,
    pub source_bytes: u64,
    /// Only where the settings say `keep_source`; the caller of the history sees to it.
    pub source: Option<String>,
    pub files: u32,
}

/// A run that ended: what came of it. The journal has it field by field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// The id it was started with.
    pub id: String,
    /// Unix time in milliseconds.
    pub finished_ms: u64,
    /// A status word of the verdict.
    pub status: String,
    pub exit_code: Option<i32>,
    pub signal: Option<String>,
    pub message: String,
    pub wall_time_ms: f64,
    pub cpu_time_ms: f64,
    pub memory_peak_bytes: u64,
    pub queue_time_ms: f64,
    /// Cut to `output_bytes_max` of the settings, as `stderr` is.
    #[serde(with = "as_bytes")]
    pub stdout: Vec<u8>,
    #[serde(with = "as_bytes")]
    pub stderr: Vec<u8>,
    /// Bytes that were cut before they came here; those cut here are added.
    pub stdout_truncated_bytes: u64,
    pub stderr_truncated_bytes: u64,
    /// The verdict without outputs.
    pub answer_json: Option<String>,
    pub denied_syscalls: Vec<String>,
    /// Function mode: the value the code returned, and its console calls.
    pub result_json: Option<String>,
    pub logs_json: Option<String>,
}

/// A run as read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub id: String,
    pub created_ms: u64,
    /// `None` while the run goes on, and for one that was interrupted.
    pub finished_ms: Option<u64>,
    pub caller: Option<String>,
    pub address: Option<String>,
    pub request_id: String,
    pub dialect: String,
    pub language: String,
    pub version: Option<String>,
    pub source_sha256: String,
    pub source_bytes: u64,
    pub files: u32,
    /// A status word of the verdict, or [`RUNNING`] or [`INTERRUPTED`].
    pub status: String,
    pub exit_code: Option<i32>,
    pub signal: Option<String>,
    pub message: String,
    /// What was measured is `None` as long as the run has not finished.
    pub wall_time_ms: Option<f64>,
    pub cpu_time_ms: Option<f64>,
    pub memory_peak_bytes: Option<u64>,
    pub queue_time_ms: Option<f64>,
    pub stdout_truncated_bytes: u64,
    pub stderr_truncated_bytes: u64,
    pub denied_syscalls: Vec<String>,
    /// The large parts: read with one run, left out of lists.
    pub details: Option<Details>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    pub source: Option<String>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub answer_json: Option<String>,
    pub result_json: Option<String>,
    pub logs_json: Option<String>,
}

/// Which runs to list. `None` everywhere stands for all.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListQuery<'a> {
    /// At least 1 and at most [`ListQuery::LIMIT_MAX`]; what is beyond counts as the nearest of the two.
    pub limit: u32,
    pub offset: u64,
    /// Runs of this key alone.
    pub caller: Option<&'a str>,
    pub language: Option<&'a str>,
    pub status: Option<&'a str>,
    /// Runs older than this one. Pages that follow one another by it stay stable while runs are added; by `offset`
    /// they do not. Nothing is older than a run that is not known.
    pub before_id: Option<&'a str>,
}

impl ListQuery<'_> {
    pub const LIMIT_MAX: u32 = 100;
}

/// Part of a list, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub records: Vec<Record>,
    /// Runs the query matches, on all pages: `limit`, `offset` and `before_id` do not count.
    pub total: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    pub total: u64,
    pub by_status: BTreeMap<String, u64>,
    /// When the oldest run was created, as Unix time in milliseconds.
    pub oldest_ms: Option<u64>,
}

impl Started {
    /// The record within the bounds of the history.
    pub(super) fn bounded(mut self) -> Started {
        let texts = [&mut self.id, &mut self.request_id, &mut self.dialect, &mut self.language];
        texts.into_iter().for_each(cut_text);
        cut_text(&mut self.source_sha256);
        [&mut self.caller, &mut self.address, &mut self.version].into_iter().flatten().for_each(cut_text);
        self.source = self.source.filter(|source| source.len() <= SOURCE_BYTES_MAX);
        self
    }

    /// Memory it takes in the queue, in bytes.
    pub(super) fn weight(&self) -> usize {
        let texts = [&self.id, &self.request_id, &self.dialect, &self.language, &self.source_sha256];
        let optional = [&self.caller, &self.address, &self.version, &self.source].into_iter().flatten();
        RECORD_BYTES + texts.into_iter().chain(optional).map(String::len).sum::<usize>()
    }
}

impl Finished {
    /// The record within the bounds of the history.
    pub(super) fn bounded(mut self, output_bytes_max: u64) -> Finished {
        let output_bytes_max = usize::try_from(output_bytes_max).unwrap_or(usize::MAX);
        self.stdout_truncated_bytes += cut_output(&mut self.stdout, output_bytes_max);
        self.stderr_truncated_bytes += cut_output(&mut self.stderr, output_bytes_max);
        [&mut self.id, &mut self.status, &mut self.message].into_iter().for_each(cut_text);
        self.signal.iter_mut().for_each(cut_text);
        self.denied_syscalls.truncate(SYSCALLS_MAX);
        self.denied_syscalls.iter_mut().for_each(cut_text);
        for json in [&mut self.answer_json, &mut self.result_json, &mut self.logs_json] {
            json.take_if(|json| json.len() > JSON_BYTES_MAX);
        }
        self
    }

    /// The record without its large parts, for when memory is scarce; the verdict remains.
    pub(super) fn lightened(self) -> Finished {
        let mut record = self.bounded(0);
        record.answer_json = None;
        record.result_json = None;
        record.logs_json = None;
        record
    }

    /// Memory it takes in the queue, in bytes.
    pub(super) fn weight(&self) -> usize {
        let texts = [&self.id, &self.status, &self.message].into_iter().chain(&self.denied_syscalls);
        let optional = [&self.signal, &self.answer_json, &self.result_json, &self.logs_json].into_iter().flatten();
        let texts: usize = texts.chain(optional).map(String::len).sum();
        RECORD_BYTES + self.stdout.len() + self.stderr.len() + texts
    }
}

fn cut_text(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
}

/// Cuts at the end and returns how many bytes. Text is not cut within a character, so that it stays text.
fn cut_output(bytes: &mut Vec<u8>, bytes_max: usize) -> u64 {
    /// A character of UTF-8 has at most this many bytes after its first.
    const CONTINUATION_BYTES_MAX: usize = 3;
    let before = bytes.len();
    if before <= bytes_max {
        return 0;
    }
    let is_inside = |at: &usize| bytes[*at] & 0b1100_0000 == 0b1000_0000;
    let lowest = bytes_max.saturating_sub(CONTINUATION_BYTES_MAX);
    let end = (lowest..=bytes_max).rev().find(|at| !is_inside(at)).unwrap_or(bytes_max);
    bytes.truncate(end);
    bytes.shrink_to_fit();
    (before - end) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_cut_between_characters_and_the_rest_is_counted() {
        for (text, bytes_max, kept) in [
            ("abc", 3, "abc"),
            ("abc", 2, "ab"),
            ("aé", 2, "a"),
            ("a€b", 3, "a"),
            ("a€b", 4, "a€"),
            ("🦀", 3, ""),
            ("🦀", 0, ""),
        ] {
            let mut bytes = text.as_bytes().to_vec();
            let cut = cut_output(&mut bytes, bytes_max);
            assert_eq!((bytes.as_slice(), cut), (kept.as_bytes(), (text.len() - kept.len()) as u64), "{text}");
        }
        // What is no text is cut to the byte.
        let mut bytes = vec![0x80; 10];
        assert_eq!((cut_output(&mut bytes, 7), bytes.len()), (3, 7));
    }

    #[test]
    fn a_record_is_bounded_whatever_it_holds() {
        let record = Finished {
            message: "é".repeat(10_000),
            stdout: vec![b'a'; 1000],
            stdout_truncated_bytes: 5,
            stderr: vec![b'b'; 1000],
            answer_json: Some("x".repeat(JSON_BYTES_MAX + 1)),
            logs_json: Some("[]".to_owned()),
            denied_syscalls: vec!["ptrace".to_owned(); 1000],
            ..Finished::default()
        };
        let record = record.bounded(100);
        assert_eq!((record.stdout.len(), record.stdout_truncated_bytes), (100, 905));
        assert_eq!((record.stderr.len(), record.stderr_truncated_bytes), (100, 900));
        assert_eq!((record.message.len(), record.denied_syscalls.len()), (TEXT_BYTES_MAX, SYSCALLS_MAX));
        assert_eq!((record.answer_json.as_deref(), record.logs_json.as_deref()), (None, Some("[]")));
        let record = record.lightened();
        assert_eq!((record.stdout_truncated_bytes, record.stdout.len(), record.logs_json.as_ref()), (1005, 0, None));
        assert!(record.weight() < 4 * TEXT_BYTES_MAX, "{}", record.weight());

        let source = |length| Started { source: Some("x".repeat(length)), ..Started::default() }.bounded().source;
        assert_eq!(source(SOURCE_BYTES_MAX).map(|source| source.len()), Some(SOURCE_BYTES_MAX));
        assert_eq!(source(SOURCE_BYTES_MAX + 1), None);
    }
}
