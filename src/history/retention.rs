//! Forgetting: by age, by count and by size, the oldest first, and in small steps between which writing goes on.

use rusqlite::{Connection, TransactionBehavior};

use super::database::{signed, unsigned};
use super::record::RUNNING;
use crate::words::settings::HistorySettings;

/// Runs deleted in one step, beside as many as were written since the last one: so it keeps up with any load.
const STEP_RUNS: u64 = 64;
/// Pages given back to the file system in one step.
const STEP_PAGES: u64 = 256;
/// Free pages that are kept for the next records, in bytes: giving them back only to take them again is wasted work.
const SLACK_BYTES: u64 = 1 << 20;

pub(super) struct Retention {
    age_max_ms: u64,
    count_max: u64,
    bytes_max: u64,
    /// Runs in the database.
    runs: u64,
    written: u64,
    /// Something was deleted or given back since the log was last folded into the file.
    changed: bool,
}

impl Retention {
    pub fn new(settings: &HistorySettings, connection: &Connection) -> rusqlite::Result<Retention> {
        let runs = connection.query_row("SELECT COUNT(*) FROM runs", [], |row| row.get(0))?;
        Ok(Retention {
            age_max_ms: u64::try_from(settings.age_max.as_millis()).unwrap_or(u64::MAX),
            count_max: settings.count_max,
            bytes_max: settings.bytes_max,
            runs: unsigned(runs),
            written: 0,
            changed: false,
        })
    }

    /// Tells that runs were added.
    pub fn added(&mut self, runs: u64) {
        self.runs += runs;
        self.written += runs;
    }

    /// True when so many runs came that a step should not wait for a pause.
    pub fn is_due(&self) -> bool {
        self.written >= STEP_RUNS
    }

    /// One step of what there is to do. False when nothing is left to do for now.
    pub fn step(&mut self, connection: &mut Connection, now_ms: u64) -> rusqlite::Result<bool> {
        let runs_max = STEP_RUNS + std::mem::take(&mut self.written);
        if self.delete(connection, now_ms, runs_max)? > 0 || self.shrink(connection)? {
            self.changed = true;
            return Ok(true);
        }
        if std::mem::take(&mut self.changed) {
            // The file itself becomes smaller when the log is folded into it.
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        }
        Ok(false)
    }

    /// Deletes what is to be forgotten, `runs_max` runs at most, and returns how many; never one that still runs, whose
    /// end is yet to be written.
    fn delete(&mut self, connection: &mut Connection, now_ms: u64, runs_max: u64) -> rusqlite::Result<u64> {
        let mut seqs = self.expired(connection, now_ms, runs_max)?;
        if seqs.is_empty() {
            seqs = self.surplus(connection, runs_max)?;
        }
        if seqs.is_empty() {
            return Ok(0);
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut run = transaction.prepare_cached("DELETE FROM runs WHERE seq = ?1")?;
            let mut details = transaction.prepare_cached("DELETE FROM details WHERE seq = ?1")?;
            for seq in &seqs {
                run.execute([seq])?;
                details.execute([seq])?;
            }
        }
        transaction.commit()?;
        let deleted = seqs.len() as u64;
        self.runs = self.runs.saturating_sub(deleted);
        tracing::debug!(runs = deleted, "the history forgot its oldest runs");
        Ok(deleted)
    }

    /// Runs that are too old.
    fn expired(&self, connection: &Connection, now_ms: u64, runs_max: u64) -> rusqlite::Result<Vec<i64>> {
        let expiry = signed(now_ms.saturating_sub(self.age_max_ms));
        let sql = "SELECT seq FROM runs WHERE created_ms < ?1 AND status <> ?2 ORDER BY created_ms LIMIT ?3";
        let mut statement = connection.prepare_cached(sql)?;
        let seqs = statement.query_map((expiry, RUNNING, signed(runs_max)), |row| row.get(0))?;
        seqs.collect()
    }

    /// The oldest runs, as far as they are too many or take too much.
    fn surplus(&self, connection: &Connection, runs_max: u64) -> rusqlite::Result<Vec<i64>> {
        let too_many = self.runs.saturating_sub(self.count_max);
        let excess_bytes = Size::of(connection)?.used_bytes().saturating_sub(self.bytes_max);
        if too_many == 0 && excess_bytes == 0 {
            return Ok(Vec::new());
        }
        // Sizes are of what is stored in whole pages; the rest of a run is small.
        let sql = "SELECT runs.seq, coalesce(octet_length(source), 0) + coalesce(octet_length(stdout), 0)
                       + coalesce(octet_length(stderr), 0) + coalesce(octet_length(answer_json), 0)
                       + coalesce(octet_length(result_json), 0) + coalesce(octet_length(logs_json), 0)
                   FROM runs LEFT JOIN details USING (seq) WHERE status <> ?1 ORDER BY runs.seq LIMIT ?2";
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query((RUNNING, signed(runs_max)))?;
        let (mut seqs, mut freed_bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            if seqs.len() as u64 >= too_many && freed_bytes >= excess_bytes {
                break;
            }
            seqs.push(row.get(0)?);
            freed_bytes += unsigned(row.get(1)?);
        }
        Ok(seqs)
    }

    /// Gives free pages back to the file system. True when some were.
    fn shrink(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let size = Size::of(connection)?;
        let is_too_large = size.pages * size.page_bytes > self.bytes_max;
        let slack_pages = if is_too_large { 0 } else { SLACK_BYTES / size.page_bytes };
        let pages = size.free_pages.saturating_sub(slack_pages).min(STEP_PAGES);
        if pages == 0 {
            return Ok(false);
        }
        // A row a page: only who asks for all rows has all pages freed.
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        drop(rows);
        Ok(Size::of(connection)?.free_pages < size.free_pages)
    }
}

/// Of the database file as the next checkpoint makes it.
struct Size {
    pages: u64,
    free_pages: u64,
    page_bytes: u64,
}

impl Size {
    fn of(connection: &Connection) -> rusqlite::Result<Size> {
        let sql = "SELECT page_count, freelist_count, page_size
                   FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
        connection.prepare_cached(sql)?.query_row([], |row| {
            Ok(Size {
                pages: unsigned(row.get(0)?),
                free_pages: unsigned(row.get(1)?),
                page_bytes: unsigned(row.get(2)?).max(1),
            })
        })
    }

    fn used_bytes(&self) -> u64 {
        self.pages.saturating_sub(self.free_pages) * self.page_bytes
    }
}
