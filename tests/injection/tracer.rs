//! Fails one system call of a tree of processes, by ptrace(2): it is not performed, and answers an error.
//!
//! A call is told from all others by who makes it and how many of its kind they have made before: the seventh `openat`
//! of init. Unlike a count over everything, that is the same call in each run, however the processes take turns, and no
//! process's calls stand in the way of another's. What is counted begins with our program: calls of the dynamic loader
//! are not ours, and neither is anything after the exec of another program.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use syscalls::Sysno;

use crate::calls::errnos_of;
use crate::common::{PATIENCE, Running, children_of};
use crate::facts::facts_of;

/// One system call of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Who makes it: `init`, `payload`, or what the process is called by its command line.
    pub role: &'static str,
    pub call: Sysno,
    /// Which of those of this role, from 1.
    pub number: usize,
}

impl std::fmt::Display for Point {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "{} {} of {}", self.call, self.number, self.role)
    }
}

/// What a call is to answer instead of being performed.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub point: Point,
    pub errno: Errno,
}

/// What was seen.
#[derive(Default)]
pub struct Trace {
    /// Every call that could have failed, and of what, in the order in which they were made.
    pub points: Vec<(Point, &'static [Errno])>,
    /// The call that failed, with its arguments; `None` when it was never made.
    pub struck: Option<String>,
    /// What the kernel said of each payload as its program began.
    pub facts: Vec<String>,
    /// Every process there was.
    pub processes: BTreeSet<i32>,
}

/// A thread that traces.
pub struct Tracer<T> {
    thread: JoinHandle<(T, Trace)>,
    root: i32,
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicUsize>,
}

/// Starts `command`, which is `sandboxd` with its arguments, under a tracer; the first process has role `role`.
pub fn start(command: &Command, role: &'static str, fault: Option<Fault>) -> Tracer<Running> {
    // A shell waits for the tracer and then becomes the program.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "read line; exec \"$@\" < /dev/null", "sh"]).arg(command.get_program()).args(command.get_args());
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Tracer::begin(fault, move |tracing| {
        let mut running = Running::start(&mut shell);
        let root = running.pid() as i32;
        ptrace::seize(Pid::from_raw(root), options()).expect("a process of ours can be traced");
        tracing.tasks.insert(root, Task { role, counts: false, loader: (0, 0) });
        running.close_stdin();
        (root, running)
    })
}

/// Traces process `root`, which has role `role`, with all that it will start, and the cells that it has.
pub fn attach(root: i32, role: &'static str, fault: Option<Fault>) -> Tracer<()> {
    Tracer::begin(fault, move |tracing| {
        tracing.attach(root, role);
        (root, ())
    })
}

impl<T: Send + 'static> Tracer<T> {
    fn begin(fault: Option<Fault>, begin: impl FnOnce(&mut Tracing) -> (i32, T) + Send + 'static) -> Tracer<T> {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&seen));
        // The kernel knows tracers by their thread; when it ends, so does the tracing.
        let thread = std::thread::spawn(move || {
            let mut tracing = Tracing { fault, ..Tracing::default() };
            let (root, traced) = begin(&mut tracing);
            tracing.root = root;
            // Whoever waits for a process to be attached to waits for its first stop.
            let mut ready = Some(ready);
            while !(stopped.load(Ordering::Acquire) && tracing.failing.is_none()) {
                if tracing.unseen.is_empty()
                    && let Some(ready) = ready.take()
                {
                    let _gone = ready.send(root);
                }
                let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
                match waitpid(None, Some(flags)) {
                    Ok(status) if tracing.step(status) => {}
                    Err(Errno::EINTR) => {}
                    // Nobody is left, or the first process is let go of.
                    Ok(_) | Err(Errno::ECHILD) => break,
                    Err(errno) => panic!("waitpid: {errno}"),
                }
                count.store(tracing.trace.points.len(), Ordering::Release);
            }
            // The fault may be the first call of all.
            if let Some(ready) = ready {
                let _gone = ready.send(root);
            }
            (traced, tracing.trace)
        });
        let root = is_ready.recv_timeout(PATIENCE).expect("the tracer starts");
        Tracer { thread, root, stop, seen }
    }

    /// The first process.
    pub fn root(&self) -> i32 {
        self.root
    }

    /// True when there is nothing left to trace.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until no call has been counted for a while.
    pub fn settle(&self) {
        let (mut seen, deadline) = (usize::MAX, Instant::now() + PATIENCE);
        while !self.is_over() && seen != self.seen.load(Ordering::Acquire) && Instant::now() < deadline {
            seen = self.seen.load(Ordering::Acquire);
            std::thread::sleep(QUIET_TIME);
        }
    }

    /// Waits until there is nothing left to trace, at most `limit`; then everything is killed, and it is an error.
    pub fn wait(self, limit: Duration) -> Result<(T, Trace), String> {
        let deadline = Instant::now() + limit;
        while !self.is_over() {
            if Instant::now() > deadline {
                let _ = kill(Pid::from_raw(self.root), Signal::SIGKILL);
                let struck = self.thread.join().map(|(_, trace)| trace.struck).unwrap_or_default();
                return Err(format!("still running after {limit:?}; what failed is {struck:?}"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(self.thread.join().expect("the tracer ends"))
    }

    /// Ends the tracing; what was traced goes on by itself.
    pub fn stop(self) -> (T, Trace) {
        self.stop.store(true, Ordering::Release);
        // The tracer sleeps until something happens, and keeps this from who it is sent to.
        while !self.is_over() {
            let _gone = kill(Pid::from_raw(self.root), POKE);
            std::thread::sleep(Duration::from_micros(200));
        }
        self.thread.join().expect("the tracer ends")
    }
}

/// Nothing more is done for a request when nobody has made a call for so long; the history is written in batches.
const QUIET_TIME: Duration = Duration::from_millis(40);

/// Wakes the tracer; ignored by everybody else.
const POKE: Signal = Signal::SIGWINCH;

fn options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEEXIT
}

#[derive(Clone, Copy)]
struct Task {
    role: &'static str,
    /// Our program, as opposed to the shell before it.
    counts: bool,
    /// Where the dynamic loader lies.
    loader: (u64, u64),
}

#[derive(Default)]
struct Tracing {
    root: i32,
    fault: Option<Fault>,
    tasks: BTreeMap<i32, Task>,
    /// Attached to, and not yet stopped for the first time.
    unseen: BTreeSet<i32>,
    counts: BTreeMap<(&'static str, Sysno), usize>,
    /// The task whose call is failing just now.
    failing: Option<i32>,
    trace: Trace,
}

impl Tracing {
    fn attach(&mut self, process: i32, role: &'static str) {
        let loader = loader_of(process);
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        for task in tasks.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            let pid = Pid::from_raw(task);
            if ptrace::seize(pid, options()).and_then(|()| ptrace::interrupt(pid)).is_ok() {
                self.tasks.insert(task, Task { role, counts: true, loader });
                self.unseen.insert(task);
                self.trace.processes.insert(process);
            }
        }
        for child in children_of(process).into_iter().filter(|_| role != "serve") {
            self.attach(child, role_of_child(role));
        }
    }

    /// Deals with one stop; false when the first process is let go of.
    fn step(&mut self, status: WaitStatus) -> bool {
        match status {
            WaitStatus::PtraceSyscall(pid) => {
                self.at_call(pid);
                self.resume(pid, None)
            }
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) if !self.at_exec(pid) => {
                self.trace.facts.push(facts_of(pid.as_raw()));
                self.let_go(pid, None)
            }
            // Whoever started it waits for it, and is told of its end but once.
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXIT) => self.let_go(pid, None),
            WaitStatus::PtraceEvent(pid, _, _) => {
                self.task(pid);
                self.unseen.remove(&pid.as_raw());
                self.resume(pid, None)
            }
            WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal).filter(|signal| *signal != POKE)),
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _) => self.forget(pid),
            WaitStatus::Continued(_) | WaitStatus::StillAlive => true,
        }
    }

    /// Lets a stopped task go on. After the fault only those are of interest that make cells.
    fn resume(&mut self, pid: Pid, signal: Option<Signal>) -> bool {
        let spent = self.trace.struck.is_some() && self.failing.is_none();
        if spent && !["run", "the thread of run", "supervisor", "init", "payload"].contains(&self.task(pid).role) {
            return self.let_go(pid, signal);
        }
        // ESRCH: killed meanwhile, which the next wait tells.
        let _gone = if spent { ptrace::cont(pid, signal) } else { ptrace::syscall(pid, signal) };
        true
    }

    fn let_go(&mut self, pid: Pid, signal: Option<Signal>) -> bool {
        let _gone = ptrace::detach(pid, signal);
        self.forget(pid)
    }

    fn forget(&mut self, pid: Pid) -> bool {
        self.tasks.remove(&pid.as_raw());
        self.unseen.remove(&pid.as_raw());
        self.failing = self.failing.filter(|failing| *failing != pid.as_raw());
        pid.as_raw() != self.root
    }

    /// The task of this number; a new one is known by its parent.
    fn task(&mut self, pid: Pid) -> Task {
        if let Some(task) = self.tasks.get(&pid.as_raw()) {
            return *task;
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<i32>().ok()).unwrap_or_default()
        };
        let process = number("Tgid:");
        let is_thread = process != pid.as_raw();
        let parent = self.tasks.get(&if is_thread { process } else { number("PPid:") });
        let parent = parent.copied().unwrap_or(Task { role: "orphan", counts: true, loader: (0, 0) });
        let role = if is_thread { role_of_thread(parent.role) } else { role_of_child(parent.role) };
        let task = Task { role, ..parent };
        self.trace.processes.insert(process);
        self.tasks.insert(pid.as_raw(), task);
        task
    }

    /// True when it is our program that runs, or the shell that will become it, which may still be about to begin.
    fn at_exec(&mut self, pid: Pid) -> bool {
        let before = self.task(pid);
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if program != Path::new(env!("CARGO_BIN_EXE_sandboxd")) {
            return !before.counts;
        }
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: BTreeSet<_> = line.split(|byte| *byte == 0).collect();
        let named = ["front", "supervisor"].into_iter().find(|role| words.contains(role.as_bytes()));
        let role = named.unwrap_or(before.role);
        self.tasks.insert(pid.as_raw(), Task { role, counts: true, loader: loader_of(pid.as_raw()) });
        true
    }

    fn at_call(&mut self, pid: Pid) {
        let task = self.task(pid);
        // Asked, not counted: neither the first stop of a process nor that after an exec need be an entry.
        let enters = ptrace::syscall_info(pid).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
        let fails_now = !enters && self.failing == Some(pid.as_raw());
        if !task.counts || !(enters || fails_now) {
            return;
        }
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        if fails_now {
            self.failing = None;
            let errno = self.fault.map_or(0, |fault| fault.errno as i64);
            registers.rax = (-errno) as u64;
            let _gone = ptrace::setregs(pid, registers);
            return;
        }
        if (task.loader.0..task.loader.1).contains(&registers.rip) {
            return;
        }
        let Some(call) = Sysno::new(registers.orig_rax as usize) else { return };
        let descriptor = || std::fs::read_link(format!("/proc/{pid}/fd/{}", registers.rdi)).unwrap_or_default();
        let errnos = errnos_of(task.role, call, descriptor);
        if errnos.is_empty() {
            return;
        }
        let number = self.counts.entry((task.role, call)).or_default();
        *number += 1;
        let point = Point { role: task.role, call, number: *number };
        self.trace.points.push((point, errnos));
        let strikes = |fault: Fault| fault.point == point && errnos.contains(&fault.errno);
        if self.trace.struck.is_none() && self.fault.is_some_and(strikes) {
            let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
            let arguments: Vec<_> = arguments.iter().map(|argument| shown(pid, *argument)).collect();
            self.trace.struck = Some(format!("{point}: {call}({}) of process {pid}", arguments.join(", ")));
            self.failing = Some(pid.as_raw());
            // Performed in its place: a call that changes nothing, and that the payload's own filter lets pass.
            registers.orig_rax = Sysno::getpid as u64;
            let _gone = ptrace::setregs(pid, registers);
        }
    }
}

fn role_of_child(parent: &'static str) -> &'static str {
    match parent {
        "run" | "supervisor" => "init",
        "init" => "payload",
        "serve" => "a child of serve",
        "a child of serve" => "its child",
        _ => "another process",
    }
}

fn role_of_thread(process: &'static str) -> &'static str {
    match process {
        "run" => "the thread of run",
        "serve" => "a thread of serve",
        // Its tasks run on whatever thread is free.
        "front" => "front",
        _ => "another thread",
    }
}

/// Where the dynamic loader lies in the memory of this process; nowhere for one without.
fn loader_of(process: i32) -> (u64, u64) {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    let range = |line: &str| {
        let (first, last) = line.split_whitespace().next()?.split_once('-')?;
        Some((u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(last, 16).ok()?))
    };
    let lines = maps.lines().filter(|line| line.contains("/ld-linux"));
    lines.filter_map(range).reduce(|whole, part| (whole.0.min(part.0), whole.1.max(part.1))).unwrap_or_default()
}

/// An argument as a string, if it points to one, else as a number.
fn shown(pid: Pid, argument: u64) -> String {
    let mut bytes = [0; 48];
    let length = std::fs::File::open(format!("/proc/{pid}/mem"))
        .and_then(|memory| memory.read_at(&mut bytes, argument))
        .unwrap_or_default();
    let text = bytes[..length].split(|byte| *byte == 0).next().unwrap_or_default();
    if text.len() > 1 && text.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        format!("{:?}", String::from_utf8_lossy(text))
    } else {
        format!("{argument:#x}")
    }
}
