//! The history as its users see it: what is read back, what outlives a killed service, and what a full disk does.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sandboxd::history::{Finished, History, HistoryError, INTERRUPTED, ListQuery, RUNNING, Started};
use sandboxd::words::settings::HistorySettings;

/// Set for a process that this one started as its own helper, to the directory it is to use.
const HELPER: &str = "SANDBOXD_TEST_HISTORY";

fn settings() -> HistorySettings {
    HistorySettings::default()
}

fn now_ms() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

fn started(id: &str) -> Started {
    Started {
        id: id.to_owned(),
        created_ms: now_ms(),
        caller: Some("alice".to_owned()),
        address: Some("192.0.2.7".to_owned()),
        request_id: format!("request of {id}"),
        dialect: "native".to_owned(),
        language: "python".to_owned(),
        version: Some("3.13".to_owned()),
        source_sha256: "ab".repeat(32),
        source_bytes: 12,
        source: None,
        files: 1,
    }
}

fn finished(id: &str) -> Finished {
    Finished {
        id: id.to_owned(),
        finished_ms: now_ms(),
        status: "nonzero_exit".to_owned(),
        exit_code: Some(3),
        message: "exit code 3".to_owned(),
        wall_time_ms: 12.5,
        cpu_time_ms: 7.25,
        memory_peak_bytes: 9 << 20,
        queue_time_ms: 0.5,
        stdout: format!("output of {id}\n").into_bytes(),
        stderr: vec![0xFF, 0],
        answer_json: Some("{}".to_owned()),
        denied_syscalls: vec!["ptrace".to_owned(), "bpf".to_owned()],
        ..Finished::default()
    }
}

fn uuid() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The test of this name again in a process of its own, as the helper of this one.
fn helper(test: &str, directory: &Path) -> Vec<std::ffi::OsString> {
    let program = std::env::current_exe().unwrap();
    let variable = [std::ffi::OsString::from("env"), format!("{HELPER}={}", directory.display()).into()];
    let arguments = [test, "--exact", "--nocapture", "--test-threads=1"].map(Into::into);
    variable.into_iter().chain([program.into_os_string()]).chain(arguments).collect()
}

fn helper_directory() -> Option<PathBuf> {
    std::env::var_os(HELPER).map(PathBuf::from)
}

#[test]
fn what_is_kept_is_read_back_whole_and_outlives_the_service() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("made/by/it");
    let history = History::open(&state_dir, &settings()).unwrap();
    let (first, second) = (uuid(), uuid());
    let start = Started { source: Some("print('é')".to_owned()), ..started(&first) };
    history.started(start.clone());
    assert!(history.flush());
    let running = history.get(&first).unwrap().unwrap();
    assert_eq!((running.status.as_str(), running.finished_ms, running.wall_time_ms), (RUNNING, None, None));
    let end = Finished {
        signal: Some("SIGSEGV".to_owned()),
        result_json: Some("[1]".to_owned()),
        logs_json: Some("[]".to_owned()),
        stdout_truncated_bytes: 17,
        ..finished(&first)
    };
    assert!(history.finished(end.clone()).blocking_recv().is_ok());
    // The first answer counts.
    let again = history.finished(Finished { status: "ok".to_owned(), ..finished(&first) });
    assert!(history.flush());
    assert_eq!(history.dropped(), 1);
    drop(again);
    history.started(started(&second));
    history.finished(finished(&second));

    let check = |history: &History| {
        let record = history.get(&first).unwrap().unwrap();
        let details = record.details.clone().unwrap();
        let read = Started {
            id: record.id,
            created_ms: record.created_ms,
            caller: record.caller,
            address: record.address,
            request_id: record.request_id,
            dialect: record.dialect,
            language: record.language,
            version: record.version,
            source_sha256: record.source_sha256,
            source_bytes: record.source_bytes,
            source: details.source,
            files: record.files,
        };
        assert_eq!(read, start);
        let read = Finished {
            id: first.clone(),
            finished_ms: record.finished_ms.unwrap(),
            status: record.status,
            exit_code: record.exit_code,
            signal: record.signal,
            message: record.message,
            wall_time_ms: record.wall_time_ms.unwrap(),
            cpu_time_ms: record.cpu_time_ms.unwrap(),
            memory_peak_bytes: record.memory_peak_bytes.unwrap(),
            queue_time_ms: record.queue_time_ms.unwrap(),
            stdout: details.stdout,
            stderr: details.stderr,
            stdout_truncated_bytes: record.stdout_truncated_bytes,
            stderr_truncated_bytes: record.stderr_truncated_bytes,
            answer_json: details.answer_json,
            denied_syscalls: record.denied_syscalls,
            result_json: details.result_json,
            logs_json: details.logs_json,
        };
        assert_eq!(read, end);
        assert_eq!(history.get("unknown").unwrap(), None);
    };
    assert!(history.flush());
    check(&history);
    let file = state_dir.join("history.db");
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("{}{suffix}", file.display());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }

    let other = History::open(&state_dir, &settings()).err().unwrap();
    assert!(matches!(other, HistoryError::InUse { .. }), "{other}");
    // The last handle closes it, and nothing stays in the log.
    drop(history);
    assert!(!state_dir.join("history.db-wal").exists());
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let history = History::open(&state_dir, &settings()).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    check(&history);
    assert_eq!(history.get(&second).unwrap().unwrap().status, "nonzero_exit");
    assert!(history.database_bytes() > 4096);

    assert!(history.close());
    history.started(started(&uuid()));
    assert!(history.finished(finished(&first)).blocking_recv().is_err());
    assert_eq!((history.dropped(), history.flush()), (2, false));
}

#[test]
fn outputs_are_cut_to_the_configured_size() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(directory.path(), &HistorySettings { output_bytes_max: 10, ..settings() }).unwrap();
    let id = uuid();
    history.started(started(&id));
    let end = Finished { stdout: "123456789é!".into(), stdout_truncated_bytes: 100, ..finished(&id) };
    assert!(history.finished(end).blocking_recv().is_ok());
    let record = history.get(&id).unwrap().unwrap();
    assert_eq!((record.details.unwrap().stdout.as_slice(), record.stdout_truncated_bytes), (&b"123456789"[..], 103));
}

#[test]
fn every_finished_run_outlives_kill_9_and_every_unfinished_one_is_marked() {
    if let Some(directory) = helper_directory() {
        return run_until_killed(&directory);
    }
    let directory = tempfile::tempdir().unwrap();
    let (mut finished, mut started) = (Vec::new(), Vec::new());
    for kill_after in [1, 13, 40, 77, 99] {
        let command = helper("every_finished_run_outlives_kill_9_and_every_unfinished_one_is_marked", directory.path());
        let mut child = Command::new(&command[0]).args(&command[1..]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ends = 0;
        while ends < kill_after {
            let line = lines.next().expect("the helper goes on until it is killed").unwrap();
            if let Some((_, id)) = line.split_once("finished: ") {
                finished.push(id.to_owned());
                ends += 1;
            } else if let Some((_, id)) = line.split_once("started: ") {
                started.push(id.to_owned());
            }
        }
        child.kill().unwrap();
        // What it told before it was killed counts too.
        let rest = lines.map_while(Result::ok);
        finished.extend(rest.filter_map(|line| Some(line.split_once("finished: ")?.1.to_owned())));
        child.wait().unwrap();

        let history = History::open(directory.path(), &settings()).unwrap();
        for id in &finished {
            let record = history.get(id).unwrap().unwrap_or_else(|| panic!("{id} is kept"));
            assert_eq!((record.status.as_str(), record.exit_code), ("nonzero_exit", Some(3)));
            assert_eq!(record.details.unwrap().stdout, format!("output of {id}\n").into_bytes());
        }
        for id in started.iter().filter(|id| !finished.contains(id)) {
            let record = history.get(id).unwrap().unwrap_or_else(|| panic!("{id} is kept"));
            if record.status != "nonzero_exit" {
                assert_eq!((record.status.as_str(), record.finished_ms), (INTERRUPTED, None));
                assert!(!record.message.is_empty());
            }
        }
        let counts = history.counts().unwrap();
        assert_eq!(counts.by_status.get(RUNNING), None, "{counts:?}");
        let interrupted = counts.by_status[INTERRUPTED];
        assert!(interrupted >= 5, "the long runs at least are marked: {counts:?}");
        assert!(counts.by_status["nonzero_exit"] >= finished.len() as u64, "{counts:?}");
        println!("killed after {kill_after}: {counts:?}");
    }
}

/// 100 runs by four threads, five of which never end. Tells of each what is certain, and never returns.
fn run_until_killed(directory: &Path) {
    let history = History::open(directory, &settings()).unwrap();
    for _ in 0..5 {
        let id = uuid();
        history.started(started(&id));
        assert!(history.flush());
        println!("started: {id}");
    }
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let history = history.clone();
            std::thread::spawn(move || {
                for _ in 0..25 {
                    let id = uuid();
                    history.started(started(&id));
                    std::thread::sleep(Duration::from_micros(500));
                    assert!(history.finished(finished(&id)).blocking_recv().is_ok());
                    println!("finished: {id}");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    std::thread::sleep(Duration::from_secs(60));
    panic!("nobody killed this");
}

#[test]
fn a_full_disk_loses_records_and_nothing_else_and_passes_by_itself() {
    if let Some(directory) = helper_directory() {
        return fill_the_disk(&directory);
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let command = helper("a_full_disk_loses_records_and_nothing_else_and_passes_by_itself", directory.path());
    // A small file system of its own, that goes with the mount namespace.
    let mount = format!("mount -t tmpfs -o size=4m tmpfs {} && exec \"$@\"", directory.path().display());
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &mount, "sh"]).args(command).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
    println!("{stdout}");
}

fn fill_the_disk(directory: &Path) {
    let filler = directory.join("filler");
    let fill = || {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&filler).unwrap();
        let full = std::io::copy(&mut std::io::repeat(0), &mut file).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    };
    // A disk that is full from the start: the history opens when there is room.
    fill();
    let state_dir = directory.join("state");
    let history = History::open(&state_dir, &settings()).unwrap();
    history.started(started(&uuid()));
    assert!(history.flush());
    assert!(matches!(history.list(&ListQuery::default()), Err(HistoryError::Unavailable)));
    assert_eq!(history.dropped(), 1);
    std::fs::remove_file(&filler).unwrap();
    let wait = |what: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let id = uuid();
            history.started(started(&id));
            if history.finished(finished(&id)).blocking_recv().is_ok() {
                return id;
            }
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let before = wait("it opens when there is room");
    assert_eq!(history.get(&before).unwrap().unwrap().status, "nonzero_exit");

    // A disk that becomes full: what was kept stays, what comes is counted, and nothing waits.
    let unfinished = uuid();
    history.started(started(&unfinished));
    assert!(history.flush());
    fill();
    let dropped = history.dropped();
    let mut lost = Vec::new();
    while history.dropped() == dropped {
        assert!(lost.len() < 10_000, "a full disk is noticed");
        let id = uuid();
        history.started(started(&id));
        history.finished(Finished { stdout: vec![b'x'; 60_000], ..finished(&id) });
        assert!(history.flush());
        lost.push(id);
    }
    let before_the_end = history.dropped();
    assert!(
        history.finished(Finished { stdout: vec![b'x'; 60_000], ..finished(&unfinished) }).blocking_recv().is_err()
    );
    assert_eq!(history.dropped(), before_the_end + 1);
    assert_eq!(history.get(&before).unwrap().unwrap().details.unwrap().stderr, [0xFF, 0]);
    println!("full after {} records, {} dropped", 2 * lost.len(), history.dropped());

    std::fs::remove_file(&filler).unwrap();
    let after = wait("it goes on when there is room");
    assert!(history.flush());
    // The lost end is told by a mark as soon as there is room for one.
    let deadline = Instant::now() + Duration::from_secs(5);
    while history.get(&unfinished).unwrap().unwrap().status != INTERRUPTED {
        assert!(Instant::now() < deadline, "the run whose end was lost is marked");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(history);
    let history = History::open(&state_dir, &settings()).unwrap();
    for id in [&before, &after] {
        assert_eq!(history.get(id).unwrap().unwrap().status, "nonzero_exit");
    }
    let aside = std::fs::read_dir(&state_dir).unwrap().flatten();
    let aside = aside.filter(|entry| entry.file_name().to_string_lossy().contains("corrupt")).count();
    assert_eq!(aside, 0, "a full disk is no damage");
}

#[test]
fn pages_stay_stable_while_runs_are_added_and_filters_hold() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(directory.path(), &settings()).unwrap();
    let ids: Vec<String> = (0..250).map(|_| uuid()).collect();
    for (number, id) in ids.iter().enumerate() {
        let caller = [None, Some("alice"), Some("bob")][number % 3].map(str::to_owned);
        let language = if number % 2 == 0 { "python" } else { "c" }.to_owned();
        history.started(Started { caller, language, ..started(id) });
        let status = if number % 5 == 0 { "ok" } else { "nonzero_exit" }.to_owned();
        history.finished(Finished { status, ..finished(id) });
    }
    assert!(history.flush());
    let mut seen: Vec<String> = Vec::new();
    loop {
        let before_id = seen.last().cloned();
        let query = ListQuery { limit: 30, before_id: before_id.as_deref(), ..ListQuery::default() };
        let page = history.list(&query).unwrap();
        if page.records.is_empty() {
            break;
        }
        assert!(page.records.iter().all(|record| record.details.is_none()));
        // One more a page, so the total moves while the pages do not.
        assert_eq!(page.total, 250 + (seen.len() / 30) as u64);
        seen.extend(page.records.into_iter().map(|record| record.id));
        history.started(started(&uuid()));
        assert!(history.flush());
    }
    assert!(seen.iter().eq(ids.iter().rev()), "every run once, newest first");

    let of = |query: ListQuery| {
        let page = history.list(&query).unwrap();
        (page.records.len(), page.total)
    };
    let all = ListQuery { limit: 100, ..ListQuery::default() };
    assert_eq!(of(ListQuery { caller: Some("bob"), ..all }), (83, 83));
    assert_eq!(of(ListQuery { language: Some("c"), ..all }), (100, 125));
    assert_eq!(of(ListQuery { status: Some("ok"), ..all }), (50, 50));
    let all_three = ListQuery { caller: Some("bob"), language: Some("c"), status: Some("ok"), ..all };
    let by_hand = (0..250).filter(|number| number % 3 == 2 && number % 2 == 1 && number % 5 == 0).count();
    assert_eq!(of(all_three), (by_hand, by_hand as u64));
    assert_eq!(of(ListQuery { caller: Some("' OR 1 --"), ..all }), (0, 0));
    assert_eq!(of(ListQuery { before_id: Some("unknown"), ..all }), (0, 259));
    // The size of a page is bounded on both sides, whatever is asked for.
    assert_eq!(of(ListQuery { limit: 0, ..all }).0, 1);
    assert_eq!(of(ListQuery { limit: 4_000_000_000, ..all }).0, 100);
    assert_eq!(of(ListQuery { offset: 209, ..all }), (50, 259));
    assert_eq!(of(ListQuery { offset: u64::MAX, ..all }), (0, 259));
    let page = history.list(&ListQuery { limit: 1, offset: 9, ..all }).unwrap();
    assert_eq!(page.records[0].id, ids[249]);
}

#[test]
fn thousands_of_records_are_quick() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(directory.path(), &settings()).unwrap();
    const RUNS: u32 = 10_000;
    let before = Instant::now();
    let mut longest = Duration::ZERO;
    for number in 0..RUNS {
        let id = uuid();
        let (start, end) = (started(&id), finished(&id));
        let call = Instant::now();
        history.started(start);
        history.finished(end);
        longest = longest.max(call.elapsed());
        if number % 1000 == 999 {
            assert!(history.flush());
        }
    }
    let took = before.elapsed();
    println!("{RUNS} runs written in batches: {took:?}, {:?} a run, longest call {longest:?}", took / RUNS);

    const SINGLE: u32 = 1000;
    let before = Instant::now();
    let mut receipts = Vec::new();
    for _ in 0..SINGLE {
        let id = uuid();
        history.started(started(&id));
        let call = Instant::now();
        assert!(history.finished(finished(&id)).blocking_recv().is_ok());
        receipts.push(call.elapsed());
    }
    receipts.sort();
    let (p50, p99) = (receipts[receipts.len() / 2], receipts[receipts.len() * 99 / 100]);
    println!("{SINGLE} runs one by one: {:?} a run; receipt p50 {p50:?}, p99 {p99:?}", before.elapsed() / SINGLE);

    let before = Instant::now();
    let page = history.list(&ListQuery { limit: 100, ..ListQuery::default() }).unwrap();
    println!("a page of 100: {:?}", before.elapsed());
    let before = Instant::now();
    let record = history.get(&page.records[50].id).unwrap().unwrap();
    println!("one run: {:?}", before.elapsed());
    assert!(record.details.is_some_and(|details| !details.stdout.is_empty()));
    let before = Instant::now();
    let counts = history.counts().unwrap();
    println!("counts: {:?}; {} bytes", before.elapsed(), history.database_bytes());
    assert_eq!((page.total, counts.total, history.dropped()), (11_000, 11_000, 0));
}
