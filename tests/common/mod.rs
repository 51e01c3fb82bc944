//! What the integration tests share: running the real program, and looking for what it left over.
#![allow(dead_code)] // Each test file is a crate of its own and uses a part of this.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// The program under test.
pub fn sandboxd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sandboxd"))
}

/// True when this test may make namespaces and cgroups as root; says so when it skips.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// One run of the program, with a time limit of its own so that a hanging sandbox fails the test.
pub fn run_with(command: &mut Command, stdin: &[u8], limit: Duration) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut pipe = child.stdin.take().expect("stdin is piped");
    let stdin = stdin.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that does not read all of its stdin is no failure.
        let _ = pipe.write_all(&stdin);
    });
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let (done, timed_out) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        let late =
            timed_out.recv_timeout(limit).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        late
    });
    let output = child.wait_with_output().expect("the program can be waited for");
    drop(done);
    assert!(!guard.join().expect("the guard ends"), "still running after {limit:?}: {}", text(&output.stderr));
    writer.join().expect("the writer ends");
    output
}

/// `sandboxd run ARGUMENTS`, at most 60 s.
pub fn run(arguments: &[&str]) -> Output {
    run_with(sandboxd().arg("run").args(arguments), b"", Duration::from_secs(60))
}

/// `sandboxd run --json ARGUMENTS` and its answer.
pub fn run_json(arguments: &[&str]) -> serde_json::Value {
    let output = run_with(sandboxd().args(["run", "--json"]).args(arguments), b"", Duration::from_secs(60));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory with one source file, and the file's path.
pub fn source(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name);
    std::fs::write(&path, content).expect("the source is written");
    (directory, path)
}

/// What exists on this machine under our name: cgroups, mounts, and processes of ids that only cells have.
pub fn leftovers() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    find_groups(Path::new("/sys/fs/cgroup"), 0, &mut found);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains("rootfs") && line.contains("sandboxd")).map(str::to_owned));
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let uid =
            status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse::<u32>().ok());
        if uid.is_some_and(|uid| (0x7000_0000..0x7000_0000 + (1 << 23)).contains(&uid)) {
            found.insert(format!("process {}", entry.path().display()));
        }
    }
    found
}

fn find_groups(directory: &Path, depth: usize, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with("sandboxd.") {
            found.insert(entry.path().display().to_string());
        } else if depth < 6 {
            find_groups(&entry.path(), depth + 1, found);
        }
    }
}
