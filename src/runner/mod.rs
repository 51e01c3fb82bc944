//! One run from plan to verdict: compile, carry the artefacts over, run, judge.
//!
//! This is the side of the streams: it holds the near ends of the pipes, which the supervisor never reads. Every face
//! (the terminal, HTTP) runs programs through [`run`]; where the cells are made is up to its [`Cells`]: in this process
//! ([`InProcess`]) or by a supervisor at the other end of a socket ([`Remote`]).

mod cells;
#[doc(hidden)]
pub mod streams;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use nix::errno::Errno;
use tokio::sync::Notify;

pub use cells::{Cells, InProcess, Launch, Remote, RemoteError, StepEnd};
pub use streams::{Captured, Far, Recorder, Sink, SinkClosed, Stdin, StepKind, Stream};

use crate::plan::{CellPlan, Plan};
use crate::sandbox::cell::{CellError, StepFailure};
use crate::supervisor::Supervisor;
use crate::supervisor::files::{self, Bundle, Carried};
use crate::words::request::SourceFile;
use crate::words::verdict::{Exit, Status, Stop, Verdict, judge};

/// The end of one step.
#[derive(Debug, Clone)]
pub struct StepResult {
    pub verdict: Verdict,
    pub output: Captured,
}

/// A compile step that went well, and what the run needs of it.
#[derive(Debug)]
pub struct Compiled {
    pub result: StepResult,
    /// Sources and artefacts together.
    pub files: Bundle,
}

/// The end of a run.
#[derive(Debug)]
pub struct RunResult {
    pub compile: Option<StepResult>,
    /// `None` when the compile step did not succeed.
    pub run: Option<StepResult>,
    /// Files that the request wanted back.
    pub results: Carried,
    /// What may be given to the next run of the same program in place of its compile step.
    pub compiled: Option<Arc<Compiled>>,
    /// What could not be cleaned up; the run itself is not affected.
    pub cleanup: Vec<String>,
}

impl RunResult {
    /// The status of the whole: a failed compile step is `compile_error`, whatever it failed of.
    pub fn status(&self) -> Status {
        match (&self.run, &self.compile) {
            (Some(run), _) => run.verdict.status,
            (None, Some(compile)) if compile.verdict.status == Status::Canceled => Status::Canceled,
            (None, _) => Status::CompileError,
        }
    }
}

/// A program's files and its stdin.
pub struct Input<'a> {
    pub files: Vec<&'a SourceFile>,
    pub stdin: Stdin,
    /// From an earlier run of the same files under the same plan.
    pub compiled: Option<Arc<Compiled>>,
}

/// Runs `plan`. `sink` receives the output as it comes; `canceled` ends the run when it completes.
///
/// # Errors
/// The sandbox failed: a step of the sequence, or a file that could not be carried over. Never the payload's doing.
pub async fn run<C: Cells>(
    cells: &mut C,
    plan: &Plan,
    input: Input<'_>,
    sink: &mut Sink,
    canceled: impl Future<Output = ()>,
) -> Result<RunResult, C::Error> {
    let mut canceled = Cancellation { wish: std::pin::pin!(canceled), came: false };
    let mut cleanup = Vec::new();
    let compiled = match (&plan.compile, input.compiled) {
        (None, _) => None,
        (Some(_), Some(compiled)) => Some(compiled),
        (Some(step), None) => {
            let sources = files::bundle(&input.files, None)?;
            let done = run_step(cells, step, StepKind::Compile, &sources, Stdin::Empty, sink, &mut canceled).await?;
            drop(sources);
            cleanup.extend(done.cleanup);
            let mut result = done.result;
            match done.carried.files.filter(|_| result.verdict.status == Status::Ok) {
                Some(artifacts) => {
                    let files = files::bundle(&input.files, Some(&artifacts))?;
                    Some(Arc::new(Compiled { result, files }))
                }
                None => {
                    // The compiler's doing: it said that all is well and left nothing, or too much.
                    if let Some(problem) = done.carried.problems.into_iter().next() {
                        result.verdict.status = Status::NonzeroExit;
                        result.verdict.message = problem;
                    }
                    let (compile, results) = (Some(result), Carried::default());
                    return Ok(RunResult { compile, run: None, results, compiled: None, cleanup });
                }
            }
        }
    };
    let own;
    let files = match &compiled {
        Some(compiled) => &compiled.files,
        None => {
            own = files::bundle(&input.files, None)?;
            &own
        }
    };
    let done = run_step(cells, &plan.run, StepKind::Run, files, input.stdin, sink, &mut canceled).await?;
    cleanup.extend(done.cleanup);
    let compile = compiled.as_ref().map(|compiled| compiled.result.clone());
    Ok(RunResult { compile, run: Some(done.result), results: done.carried, compiled, cleanup })
}

/// Runs one cell that reads nothing and keeps its output: for questions to a toolchain.
///
/// # Errors
/// As [`run`].
pub async fn ask(supervisor: &mut Supervisor, plan: &CellPlan) -> Result<StepResult, CellError> {
    let files = files::bundle(&[], None)?;
    let mut never = Cancellation { wish: std::pin::pin!(std::future::pending()), came: false };
    let mut sink = Sink::capture();
    let mut cells = InProcess(supervisor);
    Ok(run_step(&mut cells, plan, StepKind::Run, &files, Stdin::Empty, &mut sink, &mut never).await?.result)
}

/// The wish to end a run. It holds for every step: one that comes while a step is ending by itself ends the next.
struct Cancellation<'a, F> {
    wish: Pin<&'a mut F>,
    came: bool,
}

impl<F: Future<Output = ()>> Cancellation<'_, F> {
    async fn wait(&mut self) {
        if !self.came {
            self.wish.as_mut().await;
            self.came = true;
        }
    }
}

struct StepDone {
    result: StepResult,
    carried: Carried,
    cleanup: Vec<String>,
}

async fn run_step<C: Cells>(
    cells: &mut C,
    plan: &CellPlan,
    kind: StepKind,
    files: &Bundle,
    stdin: Stdin,
    sink: &mut Sink,
    canceled: &mut Cancellation<'_, impl Future<Output = ()>>,
) -> Result<StepDone, C::Error> {
    let failed = |error: std::io::Error| CellError::new("create_streams", StepFailure::from(error));
    let (far, near) = streams::open(stdin).map_err(failed)?;
    sink.begin(kind);
    let (overflow, stop_cell, stop_output) = (Notify::new(), Notify::new(), Notify::new());
    let stop = async {
        tokio::select! {
            () = stop_cell.notified() => Stop::Canceled,
            () = overflow.notified() => Stop::Output,
        }
    };
    let step = cells.step(Launch { kind, plan, files, far }, stop);
    let streams::Near { stdin, stdout, stderr } = near;
    let collect = streams::collect(stdout, stderr, &plan.limits, kind, sink, &overflow, &stop_output);
    let pump = async {
        streams::pump(stdin).await;
        std::future::pending::<()>().await;
    };
    // Beside the watch, which ends with the cell: the output may still wait for its reader then.
    let cancel = async {
        canceled.wait().await;
        stop_cell.notify_one();
        stop_output.notify_one();
        std::future::pending::<()>().await;
    };
    let (ended, collected) = tokio::select! {
        both = async { tokio::join!(step, collect) } => both,
        () = pump => unreachable!("the pump never completes"),
        () = cancel => unreachable!("the cancellation never completes"),
    };
    let StepEnd { mut outcome, carried, cleanup } = ended?;
    if let Some(error) = collected.broken {
        return Err(CellError::new("read_output", error).into());
    }
    outcome.output = collected.facts;
    // Output that was lost is told of, whether the payload had ended by itself meanwhile or not.
    let unwritten = collected.sink_closed.filter(|_| matches!(outcome.stop, None | Some(Stop::Output)));
    if unwritten.is_some() {
        outcome.stop = Some(Stop::Canceled);
    }
    // Everything was within its cap when the payload ended by itself, or the cap was passed before it did.
    let over = outcome.output.stdout_truncated_bytes + outcome.output.stderr_truncated_bytes > 0;
    if over && outcome.stop.is_none() && matches!(outcome.exit, Some(Exit::Code(_) | Exit::Signal(libc::SIGPIPE))) {
        outcome.stop = Some(Stop::Output);
    }
    let mut verdict = judge(outcome, &plan.limits);
    if let Some(SinkClosed(error)) = unwritten {
        verdict.message = format!("canceled: its output could not be written: {error}");
    }
    Ok(StepDone { result: StepResult { verdict, output: collected.captured }, carried, cleanup })
}

/// An event loop of this thread alone, with clocks, descriptors and signals.
///
/// # Errors
/// There is no room for it.
pub fn event_loop() -> io::Result<tokio::runtime::Runtime> {
    // tokio asks for what signals need with a panic. Whether there are enough descriptors is found out before, because
    // then there is an errno to tell; what is left becomes an error here.
    const DESCRIPTORS: usize = 8;
    let spare = (0..DESCRIPTORS).map(|_| std::fs::File::open("/dev/null")).collect::<io::Result<Vec<_>>>()?;
    drop(spare);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let built = std::panic::catch_unwind(|| tokio::runtime::Builder::new_current_thread().enable_all().build());
    std::panic::set_hook(hook);
    built.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map_or("no room for an event loop", String::as_str);
        Err(io::Error::other(said))
    })
}

/// What an errno of ours means when the machine has run out of something.
pub fn remedy(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::EMFILE => "this process has too many open descriptors: raise `ulimit -n` (LimitNOFILE= in systemd)",
        Errno::ENFILE => "the machine has too many open files: raise the sysctl fs.file-max",
        Errno::EAGAIN => {
            "the machine or its cgroup is at its limit of processes: raise `ulimit -u`, pids.max or kernel.pid_max"
        }
        Errno::ENOSPC => {
            "the disk or a namespace limit is full: free space, or raise the sysctls user.max_*_namespaces"
        }
        Errno::ENOMEM => "the machine is out of memory: run fewer cells at once",
        Errno::EPERM | Errno::EACCES => "run as root, or see `sandboxd check` for what this user may do",
        Errno::ENOSYS => "the kernel is too old: see `sandboxd check`",
        Errno::EUSERS => "user namespaces are nested too deep or used up: raise the sysctl user.max_user_namespaces",
        _ => return None,
    })
}
