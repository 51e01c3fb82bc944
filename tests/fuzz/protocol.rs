//! What processes of ours say to each other. The front may be in the hands of an attacker and says what it likes to the
//! supervisor; a front that gets nonsense must not take it for an end of a run either.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use sandboxd::answer;
use sandboxd::daemon::control::{Control, FromFront, ToFront};
use sandboxd::plan::Plan;
use sandboxd::runner::{Captured, RunResult, StepResult};
use sandboxd::sandbox::message;
use sandboxd::sandbox::report::Report;
use sandboxd::sandbox::start::{START_BYTES_MAX, STRINGS_MAX, Start, StartFile, StartReader};
use sandboxd::supervisor::files::{Carried, bundle};
use sandboxd::supervisor::protocol::{
    FileWire, FromSupervisor, Job, LimitsWire, MESSAGE_BYTES_MAX, OutcomeWire, StopWire, ToSupervisor, decode, encode,
    table_of,
};
use sandboxd::supervisor::start_of;
use sandboxd::words::limits::Limits;
use sandboxd::words::profile::Profiles;
use sandboxd::words::request::{Program, Request, SourceFile, bounds, check_file_name};
use sandboxd::words::verdict::{Outcome, judge};

use crate::driver::{Target, fuzz};
use crate::world;

fn bytes<T: serde::Serialize>(message: &T) -> Vec<u8> {
    encode(message).expect("a message that is short enough")
}

fn file(name: &str, bytes: u64) -> FileWire {
    FileWire { name: name.to_owned(), mode: 0o644, bytes }
}

fn jobs() -> Vec<Job> {
    let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let python = Job {
        job: 1,
        language: Some("python".to_owned()),
        source: Some("main.py".to_owned()),
        files: vec![file("main.py", 9), file("data/in.csv", 300)],
        arguments: words(&["a", ""]),
        environment: vec![(b"A".to_vec(), b"1".to_vec())],
        files_out: vec!["*.csv".to_owned()],
        ..Job::default()
    };
    let limits = LimitsWire {
        wall_time_us: Some(2_000_000),
        cpu_time_us: Some(1_000_000),
        memory_bytes: Some(64 << 20),
        processes: Some(8),
        output_bytes: Some(1 << 16),
        stdout_bytes: Some(1 << 15),
        stderr_bytes: Some(1 << 15),
        cpu_rate: Some(0.5),
    };
    let c = Job {
        job: 2,
        compile: true,
        language: None,
        source: Some("a.c".to_owned()),
        files: vec![file("a.c", 80)],
        limits: limits.clone(),
        compile_limits: limits,
        ..Job::default()
    };
    let check = Job { job: 3, check: true, ..python.clone() };
    let command =
        Job { job: 4, command: words(&["/bin/sh", "-c", "true"]), rootfs: Some("host".to_owned()), ..Job::default() };
    vec![python, c, check, command]
}

#[test]
fn what_the_front_says() {
    let mut made: Vec<_> = jobs().into_iter().map(|job| bytes(&ToSupervisor::Start(Box::new(job)))).collect();
    made.push(bytes(&ToSupervisor::Stop { job: 7, reason: StopWire::Output }));
    made.push(bytes(&ToSupervisor::Signal { job: 7, signal: 15 }));
    let target = Target { name: "what_the_front_says", words: &["protocol"], bytes_max: MESSAGE_BYTES_MAX, made };
    let (profiles, host) = (world::profiles(), world::host());
    fuzz(&target, |input| {
        let Some(message) = decode::<ToSupervisor>(input) else { return "no message".to_owned() };
        let again = bytes(&message);
        let read: ToSupervisor = decode(&again).expect("what is written is read");
        assert_eq!(bytes(&read), again, "written, read and written again");
        match message {
            ToSupervisor::Start(job) => check_job(&job, &profiles, &host),
            ToSupervisor::Stop { reason, .. } => format!("{reason:?}"),
            ToSupervisor::Signal { .. } => "a signal".to_owned(),
        }
    });
}

fn check_job(job: &Job, profiles: &Profiles, host: &sandboxd::words::host::Host) -> String {
    let request = job.request();
    let plan = match world::planned(&request, profiles, host) {
        Ok(plan) => plan,
        Err(error) => {
            world::check_refusal(&error);
            // Some messages begin with what they are about.
            let kind = if error.message.contains("NUL byte") { "NUL" } else { &error.message };
            return format!("{}: {}", error.field, world::kind_of(kind));
        }
    };
    check_plan(&plan, &request, profiles);
    let table = table_of(&job.files);
    // A step of the request is the job again.
    let step = Job { job: job.job, rootfs: job.rootfs.clone(), ..Job::of(&request, job.compile, &table) };
    let modes = job.files.iter().zip(&step.files).all(|(one, two)| one == two);
    assert!(modes && format!("{:?}", step.request()) == format!("{request:?}"), "{step:?}");
    for cell in plan.compile.iter().chain([&plan.run]) {
        let start = start_of(cell, &table);
        assert!(start.arguments.len() + start.environment.len() <= STRINGS_MAX, "{}", start.arguments.len());
        match start.encode() {
            Ok(bytes) => assert_eq!(read_start(&bytes), Ok((start, bytes.len()))),
            Err(length) => assert!(length > START_BYTES_MAX),
        }
    }
    format!("a plan: {:?} {} {}", plan.language, plan.compile.is_some(), request.files.len().min(3))
}

/// Whatever was asked for, a plan stays within what its profile allows.
fn check_plan(plan: &Plan, request: &Request, profiles: &Profiles) {
    let greatest = match &plan.language {
        Some(name) => profiles.by_name(name).expect("a plan's language").greatest_limits(),
        None => Limits::greatest(),
    };
    for cell in plan.compile.iter().chain([&plan.run]) {
        cell.limits.clone().check(&greatest, "a plan").expect("limits within their ceilings");
        cell.files.iter().for_each(|(name, _)| check_file_name(name).expect("names within the work directory"));
        assert!(cell.files.len() <= bounds::FILES_MAX);
        assert!(cell.scratch.iter().all(|scratch| scratch.bytes <= cell.limits.memory_bytes));
    }
    assert!(matches!(request.program, Program::Source(_) | Program::Command(_)));
}

#[test]
fn what_the_supervisor_says() {
    let outcome = OutcomeWire {
        exit_code: Some(3),
        wall_time_ns: 18_000_000,
        cpu_time_ns: 9_000_000,
        memory_peak_bytes: 11 << 20,
        processes_peak: 1,
        denied_syscalls: vec![("mount".to_owned(), 2)],
        ..OutcomeWire::default()
    };
    let killed = OutcomeWire { exit_code: None, exit_signal: Some(9), stop: Some(2), oom_kills: 1, ..outcome.clone() };
    let made = vec![
        bytes(&FromSupervisor::Ended {
            job: 1,
            outcome,
            files: vec![file("a.csv", 3)],
            problems: vec!["no b".to_owned()],
        }),
        bytes(&FromSupervisor::Ended { job: 2, outcome: killed, files: Vec::new(), problems: Vec::new() }),
        bytes(&FromSupervisor::Refused {
            job: 3,
            field: "limits".into(),
            message: "no".into(),
            hint: Some("yes".into()),
        }),
        bytes(&FromSupervisor::Failed { job: 4, step: "clone_init".to_owned(), message: "ENOMEM".to_owned() }),
    ];
    let target = Target { name: "what_the_supervisor_says", words: &["protocol"], bytes_max: MESSAGE_BYTES_MAX, made };
    let plan = world::planned(&jobs()[0].request(), &world::profiles(), &world::host()).expect("a plan");
    let content = SourceFile { name: "a".to_owned(), content: b"abc".to_vec() };
    fuzz(&target, |input| {
        let Some(message) = decode::<FromSupervisor>(input) else { return "no message".to_owned() };
        let again = bytes(&message);
        assert_eq!(bytes(&decode::<FromSupervisor>(&again).expect("what is written is read")), again);
        let FromSupervisor::Ended { outcome, files, problems, .. } = message else { return "no outcome".to_owned() };
        let verdict = judge(Outcome::from(outcome), &plan.run.limits);
        assert!(!verdict.message.is_empty());
        let status = verdict.status;
        // The table is the supervisor's to say; the bytes beside it are these three.
        let mut bundle = bundle(&[&content], None).expect("a bundle");
        bundle.table = table_of(&files);
        let run = StepResult { verdict, output: Captured::default() };
        let results = Carried { files: Some(bundle), problems };
        let result = RunResult { compile: None, run: Some(run), results, compiled: None, cleanup: Vec::new() };
        let answer = answer::answer("1".to_owned(), None, &plan, result);
        let json = serde_json::to_value(&answer).expect("an answer is JSON");
        assert_eq!(json["status"], status.word(), "{json}");
        format!("{status:?} {:?} {}", answer.run.signal, answer.files_out.len())
    });
}

/// The program in a start message and the bytes it takes, read as the payload reads them.
fn read_start(bytes: &[u8]) -> Result<(Start, usize), nix::errno::Errno> {
    let mut reader = StartReader::new(bytes)?;
    let own = |string: &CStr| CString::from(string);
    let (candidates, arguments, environment) = (reader.candidates, reader.arguments, reader.environment);
    let mut start = Start::default();
    for _ in 0..reader.rlimits {
        start.rlimits.push(reader.rlimit()?);
    }
    for _ in 0..reader.files {
        let (name, mode, bytes) = reader.file()?;
        start.files.push(StartFile { name: own(name), mode, bytes });
    }
    start.workdir = own(reader.string()?);
    start.candidates = reader.strings(candidates)?.map(own).collect();
    start.arguments = reader.strings(arguments)?.map(own).collect();
    start.environment = reader.strings(environment)?.map(own).collect();
    let mut skipping = StartReader::new(bytes)?;
    skipping.skip_rlimits().and_then(|()| skipping.skip_files())?;
    assert_eq!(skipping.string(), Ok(start.workdir.as_c_str()));
    match start.encode() {
        Ok(again) => {
            assert!(bytes.starts_with(&again), "written again it is another");
            Ok((start, again.len()))
        }
        Err(length) => panic!("{} bytes were read and are {length} when written", bytes.len()),
    }
}

#[test]
fn what_the_payload_reads() {
    let (profiles, host) = (world::profiles(), world::host());
    let start = |job: &Job| {
        let plan = world::planned(&job.request(), &profiles, &host).expect("a plan");
        start_of(&plan.run, &table_of(&job.files)).encode().expect("a message that is short enough")
    };
    let made = jobs().iter().map(start).collect();
    let target = Target { name: "what_the_payload_reads", words: &["protocol"], bytes_max: START_BYTES_MAX, made };
    fuzz(&target, |input| match read_start(input) {
        Err(errno) => errno.to_string(),
        Ok((start, _)) => format!(
            "{} {} {} {}",
            start.files.len().min(9),
            start.candidates.len().min(9),
            start.arguments.len().min(9),
            start.rlimits.len().min(9)
        ),
    });
}

#[test]
fn what_init_reports() {
    let made = vec![
        Report::Prepared.encode().to_vec(),
        Report::Started { at_ns: 1 << 40, init_cpu_ns: 9 }.encode().to_vec(),
        Report::Failed { step: 3, errno: 12 }.encode().to_vec(),
        Report::Denied { number: 41, count: 2 }.encode().to_vec(),
        Report::Ended { status: 9, at_ns: 1, init_cpu_ns: 2, reaped_cpu_ns: 3, reaped_memory_bytes: 4 }
            .encode()
            .to_vec(),
        Report::Timed { step: 3, nanoseconds: 7 }.encode().to_vec(),
    ];
    let target = Target { name: "what_init_reports", words: &[], bytes_max: 64, made };
    fuzz(&target, |input| {
        let Some(report) = Report::decode(input) else { return "no report".to_owned() };
        assert_eq!(Report::decode(&report.encode()), Some(report));
        format!("{:?}", std::mem::discriminant(&report))
    });
}

#[test]
fn what_parent_and_front_say() {
    let made = vec![
        bytes(&ToFront::Configure),
        bytes(&ToFront::Listen { unix: true }),
        bytes(&ToFront::Supervisor { generation: 3 }),
        bytes(&FromFront::Refused { message: "profile c.toml:3: no".to_owned() }),
    ];
    let target = Target { name: "what_parent_and_front_say", words: &["protocol"], bytes_max: 20 << 10, made };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    fuzz(&target, |input| {
        if input.is_empty() {
            return "nothing".to_owned();
        }
        runtime.block_on(async {
            let to_front = over_a_socket::<ToFront>(input).await;
            let from_front = over_a_socket::<FromFront>(input).await;
            format!("{to_front} {from_front}")
        })
    });
}

/// Sends `input` as a message; what is received as one must arrive again, whole, when it is sent.
async fn over_a_socket<T>(input: &[u8]) -> String
where
    T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let pair =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("a socket pair");
    message::send(pair.0.as_fd(), input, &[]).expect("the message is sent");
    let (near, far) = (Control::new(pair.0).expect("a socket"), Control::new(pair.1).expect("a socket"));
    let received = match far.receive::<T>().await {
        Ok(Some((message, None))) => message,
        Ok(other) => panic!("{other:?}"),
        Err(_) => return "no message".to_owned(),
    };
    near.send(&received, None).await.expect("a message that was received can be sent");
    let again = far.receive::<T>().await.expect("and received").expect("a message").0;
    assert_eq!(format!("{received:?}"), format!("{again:?}"));
    format!("{received:?}").split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_owned()
}
