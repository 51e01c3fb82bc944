//! `sandboxd run`: one run at the terminal.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use tokio::signal::unix::{SignalKind, signal};

use super::ahead::Ahead;
use super::{EXIT_SANDBOX_FAILED, RunArguments, say, say_error, say_hint, say_warning};
use crate::answer;
use crate::config::Config;
use crate::machine::{Machine, MachineError};
use crate::plan::{Plan, Surroundings, plan, select_profile};
use crate::runner::{self, InProcess, Input, Sink, Stdin};
use crate::sandbox::cell::{CellError, StepFailure, trace_time};
use crate::sandbox::seccomp::Policy;
use crate::sandbox::sequence;
use crate::sandbox::sys;
use crate::words::causes::chain;
use crate::words::host::{CgroupKind, Host, Privilege};
use crate::words::limits::LimitsRequest;
use crate::words::profile::{Profile, Profiles};
use crate::words::request::{Program, Purpose, Request, RequestError, SourceFile, bounds};
use crate::words::verdict::{Status, signal_name};

/// Traces how long each part of the command takes, beside the steps of the cell itself.
struct Stopwatch(u64);

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch(sys::monotonic_ns())
    }

    fn lap(&mut self, part: &'static str) {
        let now = sys::monotonic_ns();
        trace_time("command", part, now - self.0);
        self.0 = now;
    }
}

/// Why a run never came to a verdict.
struct Failure {
    message: String,
    hint: Option<String>,
    /// The whole object, once it is known what was to be run.
    answer: Option<String>,
}

impl Failure {
    fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), hint: None, answer: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Failure {
        Failure { message: error.message, hint: error.hint, answer: None }
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Failure {
        Failure { hint: error.hint(), message: chain(&error), answer: None }
    }
}

/// Runs and returns the exit code of the contract; everything that goes wrong is said on stderr.
pub fn main(config: &Config, arguments: RunArguments, ahead: Option<Ahead>) -> ExitCode {
    let json = arguments.json;
    match run(config, arguments, ahead) {
        Ok(code) => code,
        Err(failure) => {
            say_error(&anyhow::anyhow!(failure.message.clone()));
            if let Some(hint) = &failure.hint {
                say_hint(hint);
            }
            if json {
                let object =
                    serde_json::json!({"status": "sandbox_error", "message": failure.message, "hint": failure.hint});
                // That nobody reads it has been said, if it is what went wrong.
                let _ = print_answer(&failure.answer.unwrap_or_else(|| object.to_string()));
            }
            ExitCode::from(EXIT_SANDBOX_FAILED)
        }
    }
}

fn run(config: &Config, arguments: RunArguments, ahead: Option<Ahead>) -> Result<ExitCode, Failure> {
    let mut stopwatch = Stopwatch::start();
    let is_command = command_is_meant(&arguments.words);
    // A bare command has no language.
    let wants_profiles = arguments.language.is_some() || arguments.profile.is_some() || !is_command;
    let (profiles, problems) = if wants_profiles { config.profiles() } else { Default::default() };
    for problem in &problems {
        say_warning(&format!("profile left out: {problem}"));
    }
    let profiles = with_profile_of(config, &arguments, profiles)?;
    let json = arguments.json;
    let dry_run = arguments.dry_run;
    #[cfg(debug_assertions)]
    let (left_out, without_namespace) = arm_hooks(&arguments.hooks)?;
    #[cfg(not(debug_assertions))]
    let (left_out, without_namespace) = (Vec::new(), Vec::<String>::new());
    let stdin_path = arguments.stdin.clone();
    let (request, sources) = request_of(arguments, is_command)?;
    let profile = select_profile(&request, &profiles)?;
    stopwatch.lap("read_request");

    let runtime = runner::event_loop().map_err(|error| {
        let failure = Failure::new(format!("failed to start the event loop: {error}"));
        Failure {
            hint: error.raw_os_error().map(Errno::from_raw).and_then(runner::remedy).map(str::to_owned),
            ..failure
        }
    })?;
    stopwatch.lap("start_runtime");
    let mut machine = Machine::without_cgroup(config)?;
    let rootfs = machine.choose_rootfs(request.rootfs.as_deref(), profile.map(|profile| profile.rootfs.as_str()))?;
    // As soon as it is known; but the runtime panics where the thread takes the last descriptors from under it.
    if let Some(ahead) = &ahead {
        ahead.build_stage(&machine, &rootfs);
    }
    stopwatch.lap("choose_image");
    machine.look_at_cgroups(config)?;
    stopwatch.lap("look_at_cgroups");
    let around = Surroundings { profiles: &profiles, host: &machine.host, rootfs: &rootfs, left_out: &left_out };
    let mut plan = plan(&request, &around)?;
    for cell in plan.compile.iter_mut().chain([&mut plan.run]) {
        cell.namespaces.retain(|name| !without_namespace.iter().any(|without| without == name));
    }
    if dry_run {
        print_answer(&dry_run_text(&plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    let stdin = open_stdin(stdin_path.as_deref())?;
    warn_of_what_is_weaker(&machine);
    stopwatch.lap("plan");

    let id = uuid::Uuid::now_v7().to_string();
    let input = Input { files: sources.iter().collect(), stdin, compiled: None };
    // Before anything exists that a signal's own action would leave behind.
    let (interrupted, signaled) = {
        let _context = runtime.enter();
        interruption()?
    };
    let mut supervisor = machine.supervisor()?;
    // A compile step is a cell of its own, and so is the question for a language's version.
    if plan.compile.is_none() && !(json && profile.is_some()) {
        supervisor.expect_one_cell();
    }
    stopwatch.lap("open_supervisor");
    // Needed by every cell, and read only once: now, while the thread is at work.
    Policy::embedded();
    stopwatch.lap("read_policy");
    let ran = runtime.block_on(async {
        let (network, stage) = ahead.map(Ahead::end).unwrap_or_default();
        if let Some(network) = network {
            supervisor.provide_network(network);
        }
        if let Some(stage) = stage {
            supervisor.provide_stage(&rootfs, stage?);
        }
        stopwatch.lap("wait_for_thread");
        // Where there was no thread.
        machine.stage(&mut supervisor, &rootfs)?;
        stopwatch.lap("build_stage");
        let mut sink = if json { Sink::capture() } else { Sink::forward() };
        let result = runner::run(&mut InProcess(&mut supervisor), &plan, input, &mut sink, interrupted).await;
        stopwatch.lap("run");
        let version = match (&result, json, profile) {
            (Ok(_), true, Some(profile)) => {
                machine.version(&mut supervisor, profile, &around_of(&plan, &profiles, &machine)).await
            }
            _ => None,
        };
        Ok::<_, Failure>((result, version, signaled.get()))
    });
    for error in supervisor.close() {
        say_warning(&format!("left over: {}", chain(&error)));
    }
    stopwatch.lap("close_supervisor");
    let (result, version, signaled) = ran?;
    let result = match result {
        Ok(result) => result,
        Err(error) => {
            let failure = explain(&error, &plan);
            let answer = answer::without_run(id, Status::SandboxError, &plan, failure.message.clone());
            return Err(Failure { answer: serde_json::to_string(&answer).ok(), ..failure });
        }
    };
    for problem in &result.cleanup {
        say_warning(&format!("left over: {problem}"));
    }
    let code = match signaled {
        Some(number) => 128 + number,
        None => exit_code(&result),
    };
    if json {
        let answer = answer::answer(id, version, &plan, result);
        let text =
            serde_json::to_string(&answer).map_err(|error| Failure::new(format!("failed to write JSON: {error}")))?;
        print_answer(&text)?;
    } else {
        say_verdict(&result, signaled);
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(EXIT_SANDBOX_FAILED)))
}

fn around_of<'a>(plan: &'a Plan, profiles: &'a Profiles, machine: &'a Machine) -> Surroundings<'a> {
    Surroundings { profiles, host: &machine.host, rootfs: &plan.rootfs, left_out: &[] }
}

/// With `--profile FILE` that profile stands in place of the known ones of its name.
fn with_profile_of(config: &Config, arguments: &RunArguments, mut profiles: Profiles) -> Result<Profiles, Failure> {
    let Some(path) = &arguments.profile else { return Ok(profiles) };
    let file = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| Failure::new(format!("failed to read {file}: {error}")))?;
    let profile = config.own_profile(&file, &text).map_err(|error| Failure::new(error.to_string()))?;
    profiles.add(profile, &file).map_err(|error| Failure::new(error.to_string()))?;
    Ok(profiles)
}

/// The request that the command line describes, and the files it names.
fn request_of(arguments: RunArguments, is_command: bool) -> Result<(Request, Vec<SourceFile>), Failure> {
    let mut sources = arguments.files.iter().map(|file| named_file(file)).collect::<Result<Vec<_>, _>>()?;
    let files = sources.iter().map(SourceFile::entry).collect();
    let mut words = arguments.words.into_iter();
    let first = words.next().ok_or_else(|| Failure::new("there is nothing to run").hint("write: sandboxd run FILE"))?;
    let mut program_arguments: Vec<Vec<u8>> = arguments.arguments.into_iter().map(OsString::into_vec).collect();
    let program = if is_command {
        Program::Command(std::iter::once(first).chain(words).map(OsString::into_vec).collect())
    } else {
        // `run FILE -- --flag` is how other tools mark arguments that look like flags.
        let rest = words.enumerate().filter(|(index, word)| !(*index == 0 && word == "--"));
        program_arguments.extend(rest.map(|(_, word)| word.into_vec()));
        let path = PathBuf::from(&first);
        let name = path.file_name().and_then(OsStr::to_str);
        let name = name.ok_or_else(|| Failure::new(format!("{path:?} has no file name that is UTF-8 text")))?;
        let source = SourceFile { name: name.to_owned(), content: read_source(&path)? };
        let entry = source.entry();
        sources.push(source);
        Program::Source(entry)
    };
    let environment = arguments.environment.iter().map(|variable| {
        let bytes = variable.as_bytes();
        let split = bytes.iter().position(|byte| *byte == b'=');
        let split =
            split.ok_or_else(|| Failure::new(format!("--env {variable:?} has no `=`")).hint("write NAME=VALUE"))?;
        Ok((bytes[..split].to_vec(), bytes[split + 1..].to_vec()))
    });
    let request = Request {
        language: arguments.language.or_else(|| profile_language(arguments.profile.as_deref())),
        program,
        purpose: Purpose::Run,
        arguments: program_arguments,
        environment: environment.collect::<Result<_, Failure>>()?,
        files,
        limits: LimitsRequest {
            wall_time: arguments.wall_time,
            cpu_time: arguments.cpu_time,
            memory_bytes: arguments.memory,
            processes: arguments.processes,
            output_bytes: arguments.output,
            cpu_rate: arguments.cpu_rate,
            ..LimitsRequest::default()
        },
        compile_limits: LimitsRequest::default(),
        rootfs: arguments.rootfs,
        files_out: Vec::new(),
    };
    Ok((request, sources))
}

/// `run [FLAGS] -- COMMAND`: the parser swallows the first `--`, so the raw arguments, of which `words` are the tail, tell
/// whether it stood right before the first word.
fn command_is_meant(words: &[OsString]) -> bool {
    let raw: Vec<OsString> = std::env::args_os().collect();
    let head = &raw[..raw.len().saturating_sub(words.len())];
    let [head @ .., separator] = head else { return false };
    if separator != "--" {
        return false;
    }
    // What follows a flag may be its value. Parsing again is dear, so it is done only where that can be.
    let flag_before = head.last().is_some_and(|word| word.as_bytes().starts_with(b"-"));
    !flag_before || {
        use clap::Parser as _;
        // Without the separator and all behind it nothing is left to run exactly when a command was meant.
        super::Cli::try_parse_from(head)
            .is_err_and(|error| error.kind() == clap::error::ErrorKind::MissingRequiredArgument)
    }
}

/// With `--profile` the file's own language is meant, unless another is named.
fn profile_language(path: Option<&Path>) -> Option<String> {
    let path = path?;
    let text = std::fs::read_to_string(path).ok()?;
    Profile::parse(&path.display().to_string(), &text).ok().map(|profile| profile.name)
}

fn named_file(argument: &OsStr) -> Result<SourceFile, Failure> {
    let text = argument.to_str().ok_or_else(|| Failure::new(format!("--file {argument:?} is not UTF-8 text")))?;
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name.to_owned(), PathBuf::from(path)),
        None => {
            let path = PathBuf::from(text);
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
            (name, path)
        }
    };
    Ok(SourceFile { name, content: read_source(&path)? })
}

/// Reads a regular file within the bound on a request's files.
fn read_source(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |what: String| Failure::new(format!("failed to read {}: {what}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if metadata.is_dir() {
        return Err(failed("it is a directory".to_owned()).hint("name the source file"));
    }
    if !metadata.is_file() {
        return Err(failed("it is not a regular file".to_owned()));
    }
    if metadata.len() > bounds::FILES_BYTES_MAX {
        return Err(failed(format!(
            "it has {} bytes, more than the {} allowed",
            metadata.len(),
            bounds::FILES_BYTES_MAX
        )));
    }
    std::fs::read(path).map_err(|error| failed(error.to_string()))
}

fn open_stdin(path: Option<&Path>) -> Result<Stdin, Failure> {
    let Some(path) = path else { return Ok(Stdin::Empty) };
    let descriptor: OwnedFd = if path == Path::new("-") {
        let cloned = std::io::stdin().as_fd().try_clone_to_owned();
        cloned.map_err(|error| Failure::new(format!("failed to read stdin: {error}")))?
    } else {
        let failed =
            |error: std::io::Error| Failure::new(format!("failed to read --stdin {}: {error}", path.display()));
        let file = File::open(path).map_err(failed)?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Failure::new(format!("--stdin {} is a directory", path.display())));
        }
        file.into()
    };
    Ok(Stdin::Copy(descriptor))
}

fn warn_of_what_is_weaker(machine: &Machine) {
    for weakness in weaknesses(&machine.host) {
        say_warning(weakness);
    }
}

/// What runs on this host have less of than they could.
pub(super) fn weaknesses(host: &Host) -> Vec<&'static str> {
    let mut found = Vec::new();
    if host.privilege == Privilege::Rootless {
        found.push("not root: init and the program share your user id, and no image of layers can be mounted");
    }
    if host.cgroup == CgroupKind::None {
        found.push(
            "no cgroup: memory, CPU time and processes are polled and limited per process, not enforced for the whole cell",
        );
    }
    if host.landlock_abi == 0 {
        found.push("this kernel has no landlock: file access is confined by mounts and permissions alone");
    }
    if !host.seccomp {
        found.push("this kernel has no seccomp: system calls are not filtered");
    }
    found
}

fn dry_run_text(plan: &Plan) -> String {
    let steps = |what: &str, cell| format!("{what} in image {}:\n{}", plan.rootfs, sequence::dry_run(cell));
    let compile = plan.compile.as_ref().map(|compile| steps("compile", compile) + "\n").unwrap_or_default();
    compile + steps("run", &plan.run).trim_end()
}

/// The whole answer and a line's end on stdout.
fn print_answer(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    let written =
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::new(format!("failed to write to stdout: {error}")))
}

/// The signal that interrupted the run.
type SignalSeen = std::rc::Rc<std::cell::Cell<Option<i32>>>;

/// Completes at the first SIGINT, SIGTERM or SIGHUP, whose number the cell then holds.
fn interruption() -> Result<(impl Future<Output = ()>, SignalSeen), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("failed to listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let seen = std::rc::Rc::new(std::cell::Cell::new(None));
    let set = seen.clone();
    let wait = async move {
        let number = tokio::select! {
            _ = interrupt.recv() => libc::SIGINT,
            _ = terminate.recv() => libc::SIGTERM,
            _ = hangup.recv() => libc::SIGHUP,
        };
        set.set(Some(number));
    };
    Ok((wait, seen))
}

/// The failure of a step, with what can be done about it.
fn explain(error: &CellError, plan: &Plan) -> Failure {
    if error.step == "execute"
        && let StepFailure::File { what: program, errno: Errno::ENOENT } = &error.failure
    {
        let failure = Failure::new(format!("execute: {program} is not in image {}", plan.rootfs));
        return match (&plan.language, plan.rootfs == "host") {
            (Some(_), true) => failure.hint("install it, or build the language's image: sandboxd rootfs build"),
            _ => failure.hint("name another image with --rootfs"),
        };
    }
    let failure = Failure::new(chain(error));
    match error.errno().and_then(runner::remedy) {
        Some(remedy) => failure.hint(remedy),
        None => failure,
    }
}

/// 124 for a time limit, 128+n for signal n, else the payload's own.
fn exit_code(result: &runner::RunResult) -> i32 {
    let verdict = match (&result.run, &result.compile) {
        (Some(step), _) | (None, Some(step)) => &step.verdict,
        (None, None) => return i32::from(EXIT_SANDBOX_FAILED),
    };
    match verdict.status {
        Status::WallTimeExceeded | Status::CpuTimeExceeded => 124,
        Status::SandboxError => i32::from(EXIT_SANDBOX_FAILED),
        _ => match (verdict.exit_code, verdict.signal) {
            (Some(code), _) if !matches!(verdict.status, Status::OutputExceeded | Status::Canceled) => match code {
                0 if result.run.is_none() => 1,
                code => code,
            },
            (_, Some(signal)) => 128 + signal,
            _ => 128 + libc::SIGKILL,
        },
    }
}

/// The verdict in one line on stderr; nothing for a program that simply ended well.
fn say_verdict(result: &runner::RunResult, signaled: Option<i32>) {
    let (step, verdict) = match (&result.run, &result.compile) {
        (Some(run), _) => ("", &run.verdict),
        (None, Some(compile)) => ("compile step: ", &compile.verdict),
        (None, None) => return,
    };
    let outcome = &verdict.outcome;
    let usage = format!(
        "wall {:.1} ms, cpu {:.1} ms, memory {:.1} MB",
        outcome.wall_time.as_secs_f64() * 1e3,
        outcome.cpu_time.as_secs_f64() * 1e3,
        outcome.memory_peak_bytes as f64 / 1e6
    );
    let denied: Vec<_> = outcome.denied_syscalls.iter().map(|denied| denied.name.as_str()).collect();
    let denied = if denied.is_empty() { String::new() } else { format!(", denied: {}", denied.join(" ")) };
    let by = signaled.map(|number| format!(" by {}", signal_name(number))).unwrap_or_default();
    let status = result.status();
    let color = if status == Status::Ok { anstyle::AnsiColor::Green } else { anstyle::AnsiColor::Red };
    let style = anstyle::Style::new().bold().fg_color(Some(color.into()));
    say(format_args!("{style}{}{style:#}: {step}{}{by} ({usage}{denied})", status.word(), verdict.message));
}

#[cfg(debug_assertions)]
pub(super) fn arm_faults(faults: &[String]) -> Result<(), String> {
    for fault in faults {
        let (point, errno) = fault.split_once('=').unwrap_or((fault, "5"));
        let (point, pass) = point.split_once('+').unwrap_or((point, "0"));
        let wrong = || format!("--fail {fault}: write POINT[+PASS][=ERRNO], with numbers");
        let errno: i32 = errno.parse().map_err(|_| wrong())?;
        let pass: u32 = pass.parse().map_err(|_| wrong())?;
        crate::sandbox::fault::arm_after(point.to_owned().leak(), pass, rustix::io::Errno::from_raw_os_error(errno));
    }
    Ok(())
}

#[cfg(debug_assertions)]
fn arm_hooks(hooks: &super::TestHooks) -> Result<(Vec<String>, Vec<String>), Failure> {
    arm_faults(&hooks.fail).map_err(Failure::new)?;
    for name in &hooks.without_step {
        if !sequence::SEQUENCE.iter().any(|step| step.name == name) {
            return Err(Failure::new(format!("--without-step {name}: no such step")));
        }
    }
    Ok((hooks.without_step.clone(), hooks.without_namespace.clone()))
}
