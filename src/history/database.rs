//! The database file: how it is opened, brought up to date, and moved aside when it is damaged.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};

use super::error::{HistoryError, is_damage, is_foreign};
use super::record::{INTERRUPTED, RUNNING};

pub(super) const FILE: &str = "history.db";
const LOCK_FILE: &str = "history.lock";
/// Damaged files that are kept for whoever wants to look at them.
const DAMAGED_FILES_MAX: usize = 3;
/// How long the lock of a predecessor that is about to end is waited for.
const LOCK_TIME_MAX: Duration = Duration::from_secs(2);
/// Only a foreign program, as the `sqlite3` of a curious administrator, ever holds the database for longer.
const BUSY_TIME_MAX: Duration = Duration::from_secs(5);

/// Steps from each version of the schema to the next: version N is made by the first N. Only ever appended to.
///
/// Integer row ids in order of arrival make appending cheap, and the large parts stand apart so that lists and counts
/// read little. Deleting goes by `seq` and by `created_ms`, lists by `caller` and `status`.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE runs (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        created_ms INTEGER NOT NULL,
        finished_ms INTEGER,
        caller TEXT,
        address TEXT,
        request_id TEXT NOT NULL,
        dialect TEXT NOT NULL,
        language TEXT NOT NULL,
        version TEXT,
        source_sha256 TEXT NOT NULL,
        source_bytes INTEGER NOT NULL,
        files INTEGER NOT NULL,
        status TEXT NOT NULL,
        exit_code INTEGER,
        signal TEXT,
        message TEXT NOT NULL DEFAULT '',
        wall_time_ms REAL,
        cpu_time_ms REAL,
        memory_peak_bytes INTEGER,
        queue_time_ms REAL,
        stdout_truncated_bytes INTEGER NOT NULL DEFAULT 0,
        stderr_truncated_bytes INTEGER NOT NULL DEFAULT 0,
        denied_syscalls TEXT NOT NULL DEFAULT '[]'
    ) STRICT;
    CREATE INDEX runs_created ON runs (created_ms);
    CREATE INDEX runs_caller ON runs (caller);
    CREATE INDEX runs_status ON runs (status);
    CREATE TABLE details (
        seq INTEGER PRIMARY KEY,
        source TEXT,
        stdout BLOB,
        stderr BLOB,
        answer_json TEXT,
        result_json TEXT,
        logs_json TEXT
    ) STRICT;
"];

/// The two connections to one database: all writing is done by the first, all reading by the second.
pub(super) struct Database {
    pub writer: Connection,
    pub reader: Connection,
}

/// Takes the state directory for this process, and makes it where there is none. The lock is the kernel's: it ends with
/// its holder, however that ends.
pub(super) fn lock(state_dir: &Path) -> Result<File, HistoryError> {
    const RETRY: Duration = Duration::from_millis(20);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
    made.map_err(HistoryError::io("create", state_dir))?;
    let path = state_dir.join(LOCK_FILE);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(HistoryError::io("open", &path))?;
    let deadline = Instant::now() + LOCK_TIME_MAX;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(RETRY),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(HistoryError::InUse { path: state_dir.to_owned() }),
            Err(errno) => return Err(HistoryError::io("lock", &path)(errno.into())),
        }
    }
}

/// Opens the database, brings its schema up to date, has `recover` add what is missing, and marks what an earlier life
/// left running. A damaged file is moved aside and a new one begun.
pub(super) fn open(
    path: &Path,
    recover: impl Fn(&mut Connection) -> rusqlite::Result<()>,
) -> Result<Database, HistoryError> {
    match open_once(path, &recover) {
        Err(HistoryError::Database { source, operation }) if is_damage(&source) || is_foreign(&source) => {
            move_aside(path, &HistoryError::Database { source, operation })?;
            open_once(path, &recover)
        }
        result => result,
    }
}

/// Moves a damaged database aside, with its log. Every connection to it must be closed: SQLite finds the log by name,
/// and one that is still open would take the new file's for its own.
pub(super) fn move_aside(path: &Path, why: &HistoryError) -> Result<(), HistoryError> {
    let aside = with_suffix(path, &format!(".corrupt-{}", now_ms()));
    for suffix in ["", "-wal", "-shm"] {
        let from = with_suffix(path, suffix);
        match fs::rename(&from, with_suffix(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(HistoryError::io("move aside", &from)(error));
            }
            _ => {}
        }
    }
    tracing::error!(
        error = std::error::Error::source(why).map(tracing::field::display),
        kept = %aside.display(),
        "the history was damaged and is begun anew; the damaged file is kept"
    );
    forget_damaged_files(path);
    Ok(())
}

/// Removes all but the newest damaged files. What cannot be removed is left for the next time.
fn forget_damaged_files(path: &Path) {
    let prefix = format!("{FILE}.corrupt-");
    let Some(entries) = path.parent().and_then(|directory| fs::read_dir(directory).ok()) else { return };
    // By the time in the name, under which its log goes too.
    let time = |name: &str| name.strip_prefix(&prefix)?.split('-').next()?.parse::<u64>().ok();
    let mut files: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|entry| Some((time(entry.file_name().to_str()?)?, entry.path()))).collect();
    files.sort();
    let mut times: Vec<u64> = files.iter().map(|(time, _)| *time).collect();
    times.dedup();
    let Some(oldest_kept) = times.len().checked_sub(DAMAGED_FILES_MAX).and_then(|index| times.get(index)) else {
        return;
    };
    for (_, file) in files.iter().filter(|(time, _)| time < oldest_kept) {
        if let Err(error) = fs::remove_file(file) {
            tracing::warn!(%error, file = %file.display(), "an old damaged history was not removed");
        }
    }
}

fn open_once(path: &Path, recover: impl Fn(&mut Connection) -> rusqlite::Result<()>) -> Result<Database, HistoryError> {
    // SQLite gives its log the permissions of the file, so they are set before it sees the file.
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = opened.map_err(HistoryError::io("open", path))?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(HistoryError::io("protect", path))?;
    // Closed first: closing any descriptor of a file drops the locks that SQLite holds on it.
    drop(file);

    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut writer = Connection::open_with_flags(path, flags).map_err(HistoryError::database("open"))?;
    configure_writer(&writer).map_err(HistoryError::database("configure"))?;
    migrate(&mut writer, path, MIGRATIONS)?;
    recover(&mut writer).map_err(HistoryError::database("put the journal into"))?;
    let marked = mark_interrupted(&writer).map_err(HistoryError::database("mark interrupted runs in"))?;
    if marked > 0 {
        tracing::warn!(
            runs = marked,
            "runs that an earlier life of the service left unfinished are marked interrupted"
        );
    }

    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags(path, flags).map_err(HistoryError::database("open"))?;
    configure_reader(&reader).map_err(HistoryError::database("configure"))?;
    Ok(Database { writer, reader })
}

fn configure_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIME_MAX)?;
    // Incremental vacuum must be chosen before the first table is made. A commit in WAL mode with synchronous NORMAL
    // outlives this process at once, and the machine's power after the next checkpoint. A checkpoint waits for the disk
    // and holds up what comes meanwhile, so there are few: the log may grow to 16 MB, as often as it is written over.
    connection.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -2048;
         PRAGMA wal_autocheckpoint = 4096;
         PRAGMA journal_size_limit = 16777216;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;",
    )
}

fn configure_reader(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIME_MAX)?;
    connection.execute_batch(
        "PRAGMA query_only = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -2048;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;",
    )
}

/// Brings the schema to the newest version, a transaction a step. There is no way back.
fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), HistoryError> {
    let known = migrations.len() as i64;
    let version = |connection: &Connection| connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    let mut found = version(connection).map_err(HistoryError::database("read the version of"))?;
    if !(0..=known).contains(&found) {
        return Err(HistoryError::Newer { path: path.to_owned(), found, known });
    }
    for migration in &migrations[found as usize..] {
        found += 1;
        let mut step = || -> rusqlite::Result<()> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", found)?;
            transaction.commit()
        };
        step().map_err(HistoryError::database("bring up to date"))?;
        tracing::info!(version = found, "the history is brought up to date");
    }
    Ok(())
}

fn mark_interrupted(connection: &Connection) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE runs SET status = ?1, message = 'the service ended before the run did' WHERE status = ?2",
        [INTERRUPTED, RUNNING],
    )
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// SQLite's integers are signed; what is stored is never negative, and far from the bound.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(value: i64) -> u64 {
    value.max(0).unsigned_abs()
}

/// Unix time in milliseconds.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Connection {
        Connection::open_in_memory().unwrap()
    }

    fn version(connection: &Connection) -> i64 {
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_database_of_any_earlier_version_is_brought_up_to_date_with_its_rows() {
        // The real steps and three of a possible future, so that there is a way to go from each version.
        let future = [
            "ALTER TABLE runs ADD COLUMN first TEXT NOT NULL DEFAULT 'one'",
            "CREATE TABLE second (seq INTEGER PRIMARY KEY) STRICT; INSERT INTO second SELECT seq FROM runs",
            "ALTER TABLE second ADD COLUMN third INTEGER NOT NULL DEFAULT 3",
        ];
        let all = [MIGRATIONS, &future].concat();
        for from in 0..=all.len() {
            let mut connection = memory();
            migrate(&mut connection, Path::new("x"), &all[..from]).unwrap();
            assert_eq!(version(&connection), from as i64);
            if from > 0 {
                let sql = "INSERT INTO runs (id, created_ms, request_id, dialect, language, source_sha256,
                           source_bytes, files, status) VALUES ('kept', 1, '', '', '', '', 0, 1, 'ok')";
                connection.execute(sql, []).unwrap();
            }
            migrate(&mut connection, Path::new("x"), &all).unwrap();
            assert_eq!(version(&connection), all.len() as i64);
            let kept = connection.query_row("SELECT id || first FROM runs", [], |row| row.get::<_, String>(0));
            assert_eq!(kept.ok().as_deref(), (from > 0).then_some("keptone"), "from version {from}");
            let copied = connection.query_row("SELECT third FROM second", [], |row| row.get::<_, i64>(0)).ok();
            assert_eq!(copied, (1..=MIGRATIONS.len() + 1).contains(&from).then_some(3), "from version {from}");
        }
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let mut connection = memory();
        let broken = [MIGRATIONS, &["CREATE TABLE half (x); CREATE TABLE runs (x)"]].concat();
        assert!(matches!(migrate(&mut connection, Path::new("x"), &broken), Err(HistoryError::Database { .. })));
        assert_eq!(version(&connection), MIGRATIONS.len() as i64);
        let half = connection.prepare("SELECT * FROM half");
        assert!(half.is_err_and(|error| error.to_string().contains("no such table")));
    }

    #[test]
    fn a_newer_database_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE things (x); PRAGMA user_version = 7").unwrap();
        drop(connection);
        let error = open(&path, |_| Ok(())).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("version 7") && text.contains(FILE) && error.hint().is_some(), "{text}");
        assert!(!error.may_pass());
        let connection = Connection::open(&path).unwrap();
        assert_eq!(version(&connection), 7);
        connection.execute("INSERT INTO things VALUES (1)", []).unwrap();
    }

    #[test]
    fn few_damaged_files_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for time in 1..=5 {
            for suffix in ["", "-wal"] {
                fs::write(with_suffix(&path, &format!(".corrupt-{time}{suffix}")), "x").unwrap();
            }
        }
        let other = directory.path().join("history.db.corrupt-by-hand");
        fs::write(&other, "x").unwrap();
        forget_damaged_files(&path);
        for time in 1..=5 {
            for suffix in ["", "-wal"] {
                let file = with_suffix(&path, &format!(".corrupt-{time}{suffix}"));
                assert_eq!(file.exists(), time > 2, "{}", file.display());
            }
        }
        assert!(other.exists());
    }
}
