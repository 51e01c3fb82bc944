//! What needs a look inside: steps of retention, a writer that stands still, and a database that breaks while in use.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::process::Command;

use tempfile::TempDir;

use super::retention::Retention;
use super::*;

/// A handle is for all threads; that this compiles is the test.
const _: fn() = || {
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_shared::<History>();
};

const DAY_MS: u64 = 24 * 3600 * 1000;

fn settings() -> HistorySettings {
    HistorySettings { age_max: Duration::from_secs(365_000 * 24 * 3600), ..HistorySettings::default() }
}

fn id(number: u64) -> String {
    format!("0199-{number:08}")
}

fn started(number: u64) -> Started {
    Started { id: id(number), created_ms: number, language: "python".to_owned(), ..Started::default() }
}

fn finished(number: u64, bytes: usize) -> Finished {
    Finished { id: id(number), status: "ok".to_owned(), stdout: vec![b'x'; bytes], ..Finished::default() }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A closed history of that many ended runs, and a writing connection to it.
fn filled(runs: u64, bytes: usize) -> (TempDir, Connection) {
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(directory.path(), &settings()).unwrap();
    for number in 1..=runs {
        history.started(started(number));
        history.finished(finished(number, bytes));
        if number % 100 == 0 {
            assert!(history.flush());
        }
    }
    assert!(history.close());
    assert_eq!(history.dropped(), 0);
    let connection = database::open(&directory.path().join(database::FILE), |_| Ok(())).unwrap().writer;
    (directory, connection)
}

/// Steps until there is nothing more to do; the number of steps that did something.
fn forget(settings: &HistorySettings, connection: &mut Connection, now_ms: u64) -> u32 {
    let mut retention = Retention::new(settings, connection).unwrap();
    let mut steps = 0;
    while retention.step(connection, now_ms).unwrap() {
        steps += 1;
        assert!(steps < 10_000, "retention comes to an end");
    }
    steps
}

/// How many runs there are, and the ids of the oldest and the newest of them.
fn rest(connection: &Connection) -> (u64, Option<String>, Option<String>) {
    let details: i64 = connection.query_row("SELECT COUNT(*) FROM details", [], |row| row.get(0)).unwrap();
    let sql = "SELECT COUNT(*), MIN(id), MAX(id) FROM runs";
    let rest = connection
        .query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?, row.get(2)?)))
        .unwrap();
    assert_eq!(rest.0, details.unsigned_abs(), "every run has its details, and no others are left");
    rest
}

#[test]
fn runs_are_forgotten_by_count_the_oldest_first_and_in_steps() {
    let (_directory, mut connection) = filled(1000, 10);
    let steps = forget(&HistorySettings { count_max: 300, ..settings() }, &mut connection, 1000);
    assert_eq!(rest(&connection), (300, Some(id(701)), Some(id(1000))));
    assert!(steps >= 700 / 64, "{steps} steps");
    assert_eq!(forget(&HistorySettings { count_max: 300, ..settings() }, &mut connection, 1000), 0);
}

#[test]
fn runs_are_forgotten_by_age_even_behind_one_from_the_future() {
    let (_directory, mut connection) = filled(200, 10);
    connection.execute("UPDATE runs SET created_ms = 400 * ?1 WHERE seq = 1", [DAY_MS as i64]).unwrap();
    let age_max = Duration::from_millis(DAY_MS);
    forget(&HistorySettings { age_max, ..settings() }, &mut connection, DAY_MS + 151);
    assert_eq!(rest(&connection), (51, Some(id(1)), Some(id(200))));
    let second: String =
        connection.query_row("SELECT id FROM runs WHERE seq > 1 LIMIT 1", [], |row| row.get(0)).unwrap();
    assert_eq!(second, id(151));
}

#[test]
fn runs_are_forgotten_by_size_and_the_file_shrinks() {
    let (directory, mut connection) = filled(400, 60_000);
    let file = directory.path().join(database::FILE);
    let before = fs::metadata(&file).unwrap().len();
    assert!(before > 24_000_000, "{before}");
    let bytes_max = 8 << 20;
    forget(&HistorySettings { bytes_max, ..settings() }, &mut connection, 1000);
    let after = fs::metadata(&file).unwrap().len();
    assert!(after <= bytes_max && after > bytes_max * 8 / 10, "{after}: shrunk to the bound, and not far below");
    let log = fs::metadata(database::with_suffix(&file, "-wal")).map_or(0, |metadata| metadata.len());
    assert_eq!(log, 0, "the log is folded in");
    let (runs, _, newest) = rest(&connection);
    assert!((100..=140).contains(&runs) && newest == Some(id(400)), "{runs} {newest:?}");
    // A bound that cannot be kept forgets everything and comes to an end.
    forget(&HistorySettings { bytes_max: 1, ..settings() }, &mut connection, 1000);
    assert_eq!(rest(&connection), (0, None, None));
    assert!(fs::metadata(&file).unwrap().len() < 100_000);
}

#[test]
fn a_run_that_goes_on_is_not_forgotten() {
    let (_directory, mut connection) = filled(100, 10);
    connection.execute("UPDATE runs SET status = ?1 WHERE seq <= 3", [RUNNING]).unwrap();
    let nothing = HistorySettings { count_max: 0, age_max: Duration::ZERO, bytes_max: 0, ..settings() };
    forget(&nothing, &mut connection, 1_000_000);
    assert_eq!(rest(&connection), (3, Some(id(1)), Some(id(3))));
}

#[test]
fn retention_keeps_up_with_what_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(directory.path(), &HistorySettings { count_max: 200, ..settings() }).unwrap();
    let mut most = 0;
    for number in 1..=4000 {
        history.started(started(number));
        history.finished(finished(number, 2000));
        if number % 500 == 0 {
            assert!(history.flush());
            most = most.max(history.counts().unwrap().total);
        }
    }
    assert!(history.flush());
    // One batch and one step of retention beside what is to be kept.
    assert!(most <= 200 + 256 + 64, "{most}");
    wait_for("200 runs are left", || history.counts().unwrap().total <= 200 + 64);
    assert_eq!(history.dropped(), 0);
    assert_eq!(history.list(&ListQuery { limit: 1, ..ListQuery::default() }).unwrap().records[0].id, id(4000));
}

/// Keeps others from writing the database, as a program that forgot its transaction does.
fn hold(directory: &Path) -> Connection {
    let holder = Connection::open(directory.join(database::FILE)).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    holder
}

#[test]
fn a_writer_that_stands_still_delays_nobody_and_every_lost_record_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(directory.path(), &settings()).unwrap();
    let runs = QUEUE_RECORDS_MAX as u64;
    let first = 2 + runs;
    history.started(started(1));
    history.started(started(first));
    assert!(history.flush());
    let holder = hold(directory.path());
    // The writer goes with this one to where it stands still. On its way it would take records out of the full queue, and
    // the end of a run could find the place that its start had not.
    drop(history.finished(finished(first, 10)));
    std::thread::sleep(Duration::from_millis(200));
    let before = Instant::now();
    let mut receipts = Vec::new();
    for number in 2..2 + runs {
        history.started(started(number));
        receipts.push((number, history.finished(finished(number, 10))));
    }
    // The end of a run that was kept finds no place either.
    let mut late = history.finished(finished(1, 10));
    let took = before.elapsed();
    println!("{} records to a writer that stands still: {took:?}", 2 * runs);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(late.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
    let dropped = history.dropped();
    // The queue is full, and a batch may be in the writer's hands.
    assert!((runs - 256..=runs + 1).contains(&dropped), "{dropped} of {} records", 2 * runs + 1);

    holder.execute_batch("ROLLBACK").unwrap();
    assert!(history.flush());
    assert_eq!(history.dropped(), dropped, "all that was queued is written");
    for (number, mut receipt) in receipts {
        if receipt.try_recv().is_ok() {
            assert_eq!(history.get(&id(number)).unwrap().unwrap().status, "ok", "{number}");
        }
    }
    // What ended without a record is marked, so that nothing seems to go on for ever.
    wait_for("the lost run is marked", || history.get(&id(1)).unwrap().unwrap().status == INTERRUPTED);
    assert_eq!(history.counts().unwrap().by_status.get(RUNNING), None);
    assert_eq!(history.inner.shared.queued_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn outputs_are_left_out_when_the_queue_holds_much_but_verdicts_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let history =
        History::open(directory.path(), &HistorySettings { output_bytes_max: 1 << 20, ..settings() }).unwrap();
    let holder = hold(directory.path());
    for number in 1..=100 {
        history.started(Started { source: Some("x".repeat(100_000)), ..started(number) });
        history.finished(finished(number, 1 << 20));
        assert!(history.inner.shared.queued_bytes.load(Ordering::Relaxed) <= QUEUE_BYTES_MAX + number as usize * 2048);
    }
    holder.execute_batch("ROLLBACK").unwrap();
    assert!(history.flush());
    assert_eq!(history.dropped(), 0);
    let first = history.get(&id(1)).unwrap().unwrap();
    assert_eq!((first.details.unwrap().stdout.len(), first.stdout_truncated_bytes), (1 << 20, 0));
    let last = history.get(&id(100)).unwrap().unwrap();
    assert_eq!((last.status.as_str(), last.stdout_truncated_bytes), ("ok", 1 << 20));
    let details = last.details.unwrap();
    assert_eq!((details.stdout.len(), details.source), (0, None));
}

#[test]
fn a_database_that_breaks_while_in_use_is_begun_anew() {
    // In the file itself: what is in the log would be read from there.
    let (directory, connection) = filled(600, 20_000);
    drop(connection);
    let history = History::open(directory.path(), &settings()).unwrap();
    // Another process overwrites everything behind the first page: in this one, closing the file would drop the locks.
    let file = directory.path().join(database::FILE);
    let pages = fs::metadata(&file).unwrap().len() / 4096;
    assert!(pages > 1000, "{pages}");
    let written = Command::new("dd")
        .args(["if=/dev/urandom", "bs=4096", "seek=1", "conv=notrunc", "status=none"])
        .arg(format!("count={}", pages - 1))
        .arg(format!("of={}", file.display()))
        .status();
    assert!(written.unwrap().success());
    // Some read or some write comes upon it.
    let mut number = 1000;
    wait_for("a new history is begun", || {
        number += 1;
        history.started(started(number));
        history.finished(finished(number, 10));
        let _ = history.get(&id(number - 999));
        history.flush();
        history.counts().is_ok_and(|counts| counts.total < 600)
    });
    history.started(started(1));
    let receipt = history.finished(finished(1, 10));
    assert!(receipt.blocking_recv().is_ok());
    assert_eq!(history.get(&id(1)).unwrap().unwrap().status, "ok");
    let kept = fs::read_dir(directory.path()).unwrap().flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("history.db.corrupt-")).count();
    assert!(kept >= 1, "the damaged file is kept");
}

#[test]
fn a_file_that_is_no_history_is_moved_aside() {
    let garbage = |path: &Path| fs::write(path, vec![0xA5; 10_000]).unwrap();
    let foreign = |path: &Path| {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("CREATE TABLE runs (x); PRAGMA user_version = 1").unwrap();
    };
    let half = |path: &Path| {
        let connection = database::open(path, |_| Ok(())).unwrap().writer;
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        drop(connection);
        let length = fs::metadata(path).unwrap().len();
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(4096)).unwrap();
        file.write_all(&vec![0xFF; length as usize - 4096]).unwrap();
    };
    let ways = [("garbage", garbage as fn(&Path)), ("foreign", foreign), ("half", half)];
    for (name, make) in ways {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(database::FILE);
        make(&path);
        let before = fs::read(&path).unwrap();
        let history = History::open(directory.path(), &settings()).unwrap();
        history.started(started(1));
        assert!(history.finished(finished(1, 10)).blocking_recv().is_ok(), "{name}");
        assert_eq!(history.get(&id(1)).unwrap().unwrap().status, "ok", "{name}");
        let entries = fs::read_dir(directory.path()).unwrap().flatten().map(|entry| entry.path());
        let aside: Vec<PathBuf> =
            entries.filter(|path| path.to_string_lossy().contains("history.db.corrupt-")).collect();
        assert_eq!(aside.len(), 1, "{name}: {aside:?}");
        if name != "foreign" {
            // SQLite counts its openings in the first page.
            let after = fs::read(&aside[0]).unwrap();
            let first_page = 4096;
            assert!(after.len() == before.len() && after[first_page..] == before[first_page..], "{name}: kept");
        }
    }
}
