//! What the integration tests share: running the real program, and looking for what it left over.
#![allow(dead_code)] // Each test file is a crate of its own and uses a part of this.

pub mod front;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

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

/// True under `make test`, which has installed and built everything: there, nothing may be skipped for want of it.
pub fn nothing_may_be_missing() -> bool {
    std::env::var_os("SANDBOXD_TEST_IMAGES").is_some()
}

/// True when there is User Mode Linux; says so when there is not.
pub fn has_uml() -> bool {
    let there = Command::new("linux.uml").arg("--version").output().is_ok();
    assert!(there || !nothing_may_be_missing(), "linux.uml is missing: apt-get install user-mode-linux");
    if !there {
        eprintln!("skipped: linux.uml is missing (apt-get install user-mode-linux)");
    }
    there
}

/// Runs `script` as root of a User Mode Linux machine with pure cgroup v2; `None` when there is no User Mode Linux.
pub fn run_under_v2(script: &str) -> Option<Output> {
    if !is_root() || !has_uml() {
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("tests/uml/run"));
    // Swap, so that a limit which forgets it is found out.
    command.args(["--timeout", "240", "--swap", "400", "sh", "-c", script]).current_dir(root);
    Some(run_with(&mut command, b"", Duration::from_secs(300)))
}

/// An address of loopback for a service to listen on. Its port is none of those that the kernel gives to connections
/// and to whoever asks for any, which another test might get before the service does; and no other test of this process
/// is given it.
pub fn free_address() -> SocketAddr {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from(([127, 0, 0, 1], (FIRST + number % COUNT) as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// An environment variable that tells the processes of one run of the program from everybody else's: init keeps the
/// memory of the process it was cloned from, and with it this.
pub const TAG: &str = "SANDBOXD_TEST_RUN";

/// One run of the program that a test looks into while and after it runs.
pub struct Running {
    child: std::process::Child,
    tag: String,
    mounts_before: usize,
    stdin: Option<std::process::ChildStdin>,
    stdout: Option<std::thread::JoinHandle<Vec<u8>>>,
    stderr: Option<std::thread::JoinHandle<Vec<u8>>>,
    started: SystemTime,
    deadline: Instant,
}

/// How long any run of a test may take, on a machine that compiles something else at the same time.
pub const PATIENCE: Duration = Duration::from_secs(60);

impl Running {
    /// Starts `command`, with whatever stdin, stdout and stderr it was given; streams not given are piped.
    pub fn start(command: &mut Command) -> Running {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let tag = format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let mounts_before = own_mounts();
        let started = SystemTime::now();
        let mut child = command.env(TAG, &tag).spawn().expect("the program starts");
        let (stdout, stderr) = (child.stdout.take().map(read_all), child.stderr.take().map(read_all));
        let stdin = child.stdin.take();
        let deadline = Instant::now() + PATIENCE;
        Running { child, tag, mounts_before, stdin, stdout, stderr, started, deadline }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the program's stdin before its end.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Processes of this run: the program itself, and every init that was cloned from it.
    pub fn processes(&self) -> Vec<i32> {
        tagged(&self.tag)
    }

    /// Waits until `done` holds, at most as long as any run may take.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&Running) -> bool) {
        while !done(self) {
            assert!(Instant::now() < self.deadline, "{what}: not within {PATIENCE:?}");
            if self.child.try_wait().expect("the program can be waited for").is_some() {
                assert!(done(self), "{what}: the program ended before");
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a payload runs, which is when init (a second process of ours) has left the state of its clone: its
    /// child is the payload, and that has been executed once it no longer has our tag.
    #[track_caller]
    pub fn wait_for_payload(&mut self) {
        self.wait_until("the payload starts", |running| !running.payloads().is_empty());
    }

    /// The payload's first processes: children of an init of ours that have become another program.
    pub fn payloads(&self) -> Vec<i32> {
        let ours = self.processes();
        let inits = ours.iter().filter(|pid| **pid != self.pid() as i32);
        let children = inits.flat_map(|init| children_of(*init));
        children.filter(|child| !ours.contains(child) && is_alive(*child)).collect()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).expect("the program lives");
    }

    /// Waits for the end, and asserts that nothing is left of the run but what the machine had before.
    #[track_caller]
    pub fn finish(self) -> Output {
        let (output, left) = self.end();
        assert_eq!(left, [] as [String; 0], "{}", text(&output.stderr));
        output
    }

    /// Waits for the end; what is left of the run at that moment: processes, cgroups, mounts.
    #[track_caller]
    pub fn end(mut self) -> (Output, Vec<String>) {
        drop(self.stdin.take());
        let status = loop {
            match self.child.try_wait().expect("the program can be waited for") {
                Some(status) => break status,
                None if Instant::now() > self.deadline => {
                    let _ = self.child.kill();
                    panic!("still running after {PATIENCE:?}");
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let left = self.left();
        let joined = |stream: Option<std::thread::JoinHandle<Vec<u8>>>| {
            stream.map(|thread| thread.join().expect("the reader ends")).unwrap_or_default()
        };
        (Output { status, stdout: joined(self.stdout.take()), stderr: joined(self.stderr.take()) }, left)
    }

    /// What there is of this run now, beside the program itself.
    pub fn left(&self) -> Vec<String> {
        let pid = self.child.id();
        let processes = self.processes().into_iter().filter(|process| *process != pid as i32);
        let mut left: Vec<String> = processes.map(|process| format!("process {process}")).collect();
        // An older one is of an earlier owner of this number, out of the reach of our sweep: below another group.
        let is_ours = |group: &PathBuf| {
            let made = group.metadata().and_then(|metadata| metadata.modified());
            made.is_ok_and(|made| made + Duration::from_secs(1) > self.started)
        };
        left.extend(groups_of(pid).into_iter().filter(is_ours).map(|group| group.display().to_string()));
        let mounts = own_mounts();
        if mounts > self.mounts_before {
            left.push(format!("{} mounts", mounts - self.mounts_before));
        }
        left
    }
}

fn read_all(mut stream: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// Living processes whose environment has our tag with this value.
pub fn tagged(tag: &str) -> Vec<i32> {
    let wanted = format!("{TAG}={tag}");
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    })
    .collect()
}

pub fn children_of(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Children of `pid` that were started with `word` among their arguments.
pub fn children_named(pid: i32, word: &str) -> Vec<i32> {
    let is_named = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    };
    children_of(pid).into_iter().filter(is_named).collect()
}

/// Whether the cell of `init` runs its program: its payload waits for one as another process of ours.
pub fn runs_a_program(init: i32) -> bool {
    let program = |pid: i32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    children_of(init).into_iter().any(|child| program(child).is_some_and(|own| Some(own) != program(init)))
}

/// A process that is neither gone nor a zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The groups that a supervisor of this process id has made, on whatever hierarchy.
pub fn groups_of(pid: u32) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    find_groups(Path::new("/sys/fs/cgroup"), 0, &mut found);
    let name = format!("sandboxd.{pid}");
    found.iter().map(PathBuf::from).filter(|path| path.file_name().is_some_and(|file| file == name.as_str())).collect()
}

/// Mounts in the machine's own view that could be ours; a stage and a cell are to be seen in none of them.
fn own_mounts() -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = |line: &&str| {
        [" stage ", " rootfs ", "/sandboxd/rootfs/", "sandboxd-test"].iter().any(|word| line.contains(word))
    };
    mounts.lines().filter(ours).count()
}

/// `sandboxd run FLAGS…` with its streams piped.
pub fn run_command(arguments: &[&str]) -> Command {
    let mut command = sandboxd();
    command.arg("run").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `sandboxd run --json FLAGS…`: its answer, its exit code, and nothing left over.
#[track_caller]
pub fn answer(arguments: &[&str]) -> (serde_json::Value, i32) {
    answer_of(run_command(&["--json"]).args(arguments))
}

#[track_caller]
pub fn answer_of(command: &mut Command) -> (serde_json::Value, i32) {
    let output = Running::start(command).finish();
    let answer = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)));
    (answer, output.status.code().expect("the program ends by itself"))
}

/// True when image `name` is built. Where the images are promised, one that is missing is a failure, not a reason to skip.
pub fn has_image(name: &str) -> bool {
    let store = std::env::var_os("SANDBOXD_ROOTFS_DIR").map_or("/var/lib/sandboxd/rootfs".into(), PathBuf::from);
    let built = store.join("images").join(format!("{name}.json")).exists();
    assert!(built || !nothing_may_be_missing(), "the image {name} is not built");
    if !built {
        eprintln!("skipped: the image {name} is not built");
    }
    built
}
