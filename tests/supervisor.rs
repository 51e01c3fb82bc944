//! The supervisor as a process of its own, with a test in the front's place: what it does for an honest front, and what
//! a front in the wrong hands gets from it.

mod common;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::front::{Front, bundle, shell};
use sandboxd::supervisor::protocol::{FileWire, FromSupervisor, Job, LimitsWire, StopWire, ToSupervisor, encode};
use sandboxd::words::verdict::{Exit, Stop};

#[test]
fn an_honest_front_gets_its_programs_run() {
    if !common::is_root() {
        return;
    }
    let front = Front::start();
    let mut stdout = front.start_job(shell(7, "echo out; exit 3"), &bundle(b"", true));
    let (job, outcome) = front.ended();
    assert_eq!((job, outcome.exit_code), (7, Some(3)));
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "out\n");

    let file = FileWire { name: "dir/a.txt".to_owned(), mode: 0o644, bytes: 5 };
    let job = Job { files: vec![file], ..shell(8, "cat dir/a.txt; cat /work/dir/a.txt >&2") };
    let mut stdout = front.start_job(job, &bundle(b"hello", true));
    assert_eq!(front.ended().1.exit_code, Some(0));
    text.clear();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

#[test]
fn a_front_in_the_wrong_hands_gets_errors_and_never_more_than_a_cell() {
    if !common::is_root() {
        return;
    }
    let mut front = Front::start();
    let empty = bundle(b"", true);
    let limits = |limits: LimitsWire| Job { limits, ..shell(1, "true") };
    let refused = [
        (Job { language: Some("/etc/passwd".to_owned()), ..shell(1, "true") }, "language"),
        (Job { rootfs: Some("../../etc".to_owned()), ..shell(1, "true") }, "rootfs"),
        (Job { rootfs: Some("/".to_owned()), ..shell(1, "true") }, "rootfs"),
        (limits(LimitsWire { memory_bytes: Some(u64::MAX), ..LimitsWire::default() }), "limits"),
        (limits(LimitsWire { wall_time_us: Some(u64::MAX), ..LimitsWire::default() }), "limits"),
        (limits(LimitsWire { cpu_rate: Some(f64::NAN), ..LimitsWire::default() }), "limits"),
        (limits(LimitsWire { processes: Some(0), ..LimitsWire::default() }), "limits"),
        (Job { files: vec![FileWire { name: "../x".to_owned(), mode: 0o644, bytes: 0 }], ..shell(1, "true") }, "files"),
        (Job { files: vec![FileWire { name: "x".to_owned(), mode: 0o4755, bytes: 0 }], ..shell(1, "true") }, "files"),
        (Job { files: vec![FileWire { name: "x".to_owned(), mode: 0o644, bytes: 9 }], ..shell(1, "true") }, "files"),
        (Job { compile: true, ..shell(1, "true") }, "compile"),
        (Job { environment: vec![(b"A=B".to_vec(), b"".to_vec())], ..shell(1, "true") }, "env"),
        (Job { command: vec![b"a\0b".to_vec()], ..shell(1, "true") }, "command"),
        (shell(0, "true"), "job"),
    ];
    for (job, field) in refused {
        let described = format!("{job:?}");
        front.start_job(job, &empty);
        assert_eq!(front.refused().1, field, "{described}");
    }
    // A memfd that could change under init's eyes, and a file that is no memfd.
    front.start_job(shell(1, "true"), &bundle(b"", false));
    assert_eq!(front.refused().1, "files");
    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    front.start_job(shell(1, "true"), &null);
    assert_eq!(front.refused().1, "files");
    // Junk, too few descriptors, too many descriptors.
    front.send(b"\xff\xff\xff\xff\xff junk", &[]);
    assert_eq!(front.refused().1, "message");
    front.send(&encode(&ToSupervisor::Start(Box::new(shell(1, "true")))).unwrap(), &[&empty]);
    assert_eq!(front.refused().1, "descriptors");
    flood_with_descriptors(&front);
    assert_eq!(front.refused().0, 0);
    // Stopping what does not exist is nothing.
    front.send(&encode(&ToSupervisor::Stop { job: 99, reason: StopWire::Canceled }).unwrap(), &[]);
    // After all that it still serves, and holds none of the hundreds of descriptors it was sent: what there is belongs to
    // itself, to this cell, and to those it keeps prepared.
    front.start_job(shell(2, "exit 5"), &empty);
    assert_eq!(front.ended().1.exit_code, Some(5));
    let open = std::fs::read_dir(format!("/proc/{}/fd", front.process.id())).unwrap().count();
    assert!(open < 100, "{open} descriptors are open");
    front.hang_up();
    assert_eq!(front.groups(), Vec::<String>::new());
}

#[test]
fn init_has_no_copy_of_what_the_supervisor_knows_of_other_runs() {
    if !common::is_root() {
        return;
    }
    // Each cell is made when it is asked for.
    let front = Front::start_with(&["--pool-cells-per-shape", "0"]);
    let empty = bundle(b"", true);
    let secret = format!("a secret of {} others", std::process::id());
    // Far behind what the other one's own message could lie over.
    let script = format!("echo begun; sleep 30; #{}{secret}", "x".repeat(50_000));
    let mut stdout = front.start_job(shell(1, &script), &empty);
    stdout.read_exact(&mut [0]).unwrap();
    let supervisor = front.process.id() as i32;
    let other = common::children_of(supervisor);
    let mut stdout = front.start_job(shell(2, "echo begun; sleep 30"), &empty);
    stdout.read_exact(&mut [0]).unwrap();
    let inits = common::children_of(supervisor);
    let [own] = inits.iter().filter(|init| !other.contains(init)).collect::<Vec<_>>()[..] else {
        panic!("{other:?} {inits:?}")
    };
    let knows = |process: i32| holds(process, secret.as_bytes());
    assert!(knows(supervisor) && other.iter().all(|init| knows(*init)), "the control");
    assert!(!knows(*own));
}

/// Whether `bytes` are anywhere in the memory of `process`.
fn holds(process: i32, bytes: &[u8]) -> bool {
    use std::os::unix::fs::FileExt as _;
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let address = |digits| u64::from_str_radix(digits, 16).unwrap();
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let mut content = vec![0; (address(end) - address(start)) as usize];
        memory.read_exact_at(&mut content, address(start)).unwrap();
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

/// One message with as many descriptors as the kernel lets through.
fn flood_with_descriptors(front: &Front) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let null = File::open("/dev/null").unwrap();
    let many = vec![null.as_fd(); 250];
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&many)));
    let parts = [std::io::IoSlice::new(b"x")];
    rustix::net::sendmsg(front.socket(), &parts, &mut ancillary, SendFlags::empty()).unwrap();
}

#[test]
fn a_flood_of_jobs_is_bounded_and_every_job_is_answered() {
    if !common::is_root() {
        return;
    }
    let front = Front::start();
    let empty = bundle(b"", true);
    let mut answered = Vec::new();
    for job in 1..=100 {
        front.start_job(shell(job, "sleep 2"), &empty);
    }
    let (mut ended, mut refused) = (0, 0);
    for _ in 1..=100 {
        match front.receive().0 {
            FromSupervisor::Ended { job, outcome, .. } => {
                assert_eq!(outcome.exit_code, Some(0));
                ended += 1;
                answered.push(job);
            }
            FromSupervisor::Refused { job, message, .. } => {
                assert!(message.contains("60 cells"), "{message}");
                refused += 1;
                answered.push(job);
            }
            FromSupervisor::Failed { message, .. } => panic!("{message}"),
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, (1..=100).collect::<Vec<_>>());
    assert!(ended >= 60, "{ended} ended, {refused} refused");
}

#[test]
fn a_stopped_job_ends_at_once_and_a_lost_front_takes_every_cell_along() {
    if !common::is_root() {
        return;
    }
    let mut front = Front::start();
    let empty = bundle(b"", true);
    let mut stdout = front.start_job(shell(1, "echo up; exec sleep 30"), &empty);
    let mut up = [0; 3];
    stdout.read_exact(&mut up).unwrap();
    let before = Instant::now();
    front.send(&encode(&ToSupervisor::Stop { job: 1, reason: StopWire::Canceled }).unwrap(), &[]);
    let (_, outcome) = front.ended();
    assert_eq!(outcome.stop, Some(4), "canceled");
    assert!(before.elapsed() < Duration::from_secs(2));

    let mut outputs = Vec::new();
    for job in 2..12 {
        let mut stdout = front.start_job(shell(job, "echo up; exec sleep 60"), &empty);
        stdout.read_exact(&mut up).unwrap();
        outputs.push(stdout);
    }
    front.hang_up();
    for mut stdout in outputs {
        let mut rest = Vec::new();
        // The end of the stream: every process of the cell is dead.
        stdout.read_to_end(&mut rest).unwrap();
    }
    assert_eq!(front.groups(), Vec::<String>::new());
}

/// The answer may come before the kernel has taken the cell apart, but never before what it says is final.
#[test]
fn what_is_told_of_a_run_is_final() {
    if !common::is_root() {
        return;
    }
    let front = Front::start();
    let empty = bundle(b"", true);
    let run = |number: u64, script: &str| {
        let limits = LimitsWire { memory_bytes: Some(48 << 20), ..LimitsWire::default() };
        front.start_job(Job { limits, ..shell(number, script) }, &empty);
        let (job, outcome) = front.ended();
        assert_eq!(job, number);
        outcome
    };
    for number in 1..5 {
        let number = 10 * number;
        let alone = run(number, "x=$(printf %070000000d 1); exit 3");
        assert!(alone.oom_kills > 0 && alone.memory_peak_bytes > 40 << 20, "{alone:?}");
        let busy = run(number + 1, "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done");
        assert!(busy.exit_code == Some(0) && busy.cpu_time_ns > 5_000_000, "{busy:?}");
        let orphan = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; touch done; exec sleep 60";
        let left = run(number + 2, &format!("sh -c '{orphan}' & while [ ! -e done ]; do sleep 0.01; done; exit 4"));
        assert!(left.exit_code == Some(4) && left.cpu_time_ns > 5_000_000, "{left:?}");
        let left = run(number + 3, "sleep 60 & sleep 60 & exit 5");
        assert!(left.exit_code == Some(5) && left.processes_peak == 3, "{left:?}");
        assert!(left.wall_time_ns < 5_000_000_000, "{left:?}");
    }
}

#[test]
fn the_supervisor_has_one_thread_and_stays_small() {
    if !common::is_root() {
        return;
    }
    let front = Front::start();
    let empty = bundle(b"", true);
    for job in 1..=50 {
        front.start_job(shell(job, "true"), &empty);
        front.ended();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", front.process.id())).unwrap();
    let value = |key: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert_eq!(value("Threads:"), 1);
    // What is its own; the pages of the program file are shared, and a debug build has many.
    assert!(value("RssAnon:") < 10_000, "{status}");
}

#[test]
fn killing_the_supervisor_kills_its_cells() {
    if !common::is_root() {
        return;
    }
    let mut front = Front::start();
    let mut stdout = front.start_job(shell(1, "echo up; exec sleep 60"), &bundle(b"", true));
    let mut up = [0; 3];
    stdout.read_exact(&mut up).unwrap();
    front.process.kill().unwrap();
    front.process.wait().unwrap();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    // Its cgroups are swept by whoever comes next.
    let status = Command::new(env!("CARGO_BIN_EXE_sandboxd"))
        .args(["run", "--rootfs", "host", "--", "true"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(front.groups(), Vec::<String>::new());
}

/// Whether a cell sees the lock that another cell of the same supervisor holds on `file`, in image `rootfs`.
fn sees_a_neighbours_lock(front: &Front, number: u64, rootfs: &str, file: &str) -> bool {
    let job = |number, script: String| Job { rootfs: Some(rootfs.to_owned()), ..shell(number, &script) };
    let hold = job(number, format!("exec 9<{file}; flock -x 9 && echo held; exec sleep 60"));
    let mut held = front.start_job(hold, &bundle(b"", true));
    held.read_exact(&mut [0; 5]).expect("the first cell holds its lock");
    let attempt = job(number + 1, format!("exec 9<{file}; flock -n -x 9"));
    front.start_job(attempt, &bundle(b"", true));
    let (ended, outcome) = front.ended();
    assert_eq!(ended, number + 1);
    front.send(&encode(&ToSupervisor::Stop { job: number, reason: StopWire::Canceled }).unwrap(), &[]);
    assert_eq!(front.ended().0, number);
    outcome.exit_code != Some(0)
}

/// Row 18 of the attacks, for cells that share a stage: see `tests/attacks` for those that do not.
#[test]
fn file_locks_reach_from_cell_to_cell_only_by_what_the_stage_holds() {
    if !common::is_root() {
        return;
    }
    let front = Front::start();
    let mut number = 1;
    let mut sees = |rootfs, file| {
        number += 2;
        sees_a_neighbours_lock(&front, number, rootfs, file)
    };
    for file in ["/usr/bin/env", "/usr", "/proc", "/tmp", "/work"] {
        assert!(!sees("host", file), "{file} of the host's programs");
    }
    // FIXME: the root of the `host` image is a tmpfs of the stage's, and so is /dev in every image: their inodes are
    // the same in all cells of one supervisor, and two colluding payloads can signal each other by locking them.
    for file in ["/", "/etc/passwd", "/dev", "/dev/null"] {
        assert!(sees("host", file), "{file} is a cell's own now: turn this round");
    }
    if std::path::Path::new("/var/lib/sandboxd/rootfs/images/base.json").exists() {
        for file in ["/", "/etc/passwd", "/usr/bin/env"] {
            assert!(!sees("base", file), "{file} of an image");
        }
        assert!(sees("base", "/dev/null"), "/dev/null is a cell's own now: turn this round");
    }
}

#[test]
fn the_client_runs_stops_and_learns_of_a_lost_supervisor() {
    use sandboxd::supervisor::client::{Client, Reply};
    if !common::is_root() {
        return;
    }
    let mut front = Front::start();
    let socket = front.socket.take().expect("the front has not hung up");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, answers) = Client::connect(socket).unwrap();
        let answers = tokio::spawn(answers);
        let null: OwnedFd = File::options().read(true).write(true).open("/dev/null").unwrap().into();
        let content = bundle(b"", true);
        let descriptors = || [null.as_fd(), null.as_fd(), null.as_fd(), content.as_fd()];
        let never = std::future::pending;
        let run = async |job, stop: &mut (dyn Future<Output = StopWire> + Unpin)| match client
            .start(job, descriptors())
            .await
        {
            Ok(running) => running.wait(stop, &mut tokio::sync::mpsc::channel(1).1).await,
            Err(reply) => reply,
        };

        // Several at once, each with its own answer.
        let scripts = ["exit 1", "exit 2", "exit 3"];
        let [one, two, three] = scripts.map(|script| async { run(shell(0, script), &mut Box::pin(never())).await });
        let (one, two, three) = tokio::join!(one, two, three);
        for (reply, code) in [one, two, three].into_iter().zip(1..) {
            assert!(
                matches!(&reply, Reply::Ended { outcome, .. } if outcome.exit == Some(Exit::Code(code))),
                "{reply:?}"
            );
        }
        let unknown = Job { language: Some("klingon".to_owned()), ..shell(0, "true") };
        let reply = run(unknown, &mut Box::pin(never())).await;
        assert!(matches!(&reply, Reply::Refused { field, .. } if field == "language"), "{reply:?}");

        let soon = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            StopWire::Canceled
        };
        let reply = run(shell(0, "exec sleep 60"), &mut Box::pin(soon)).await;
        assert!(matches!(&reply, Reply::Ended { outcome, .. } if outcome.stop == Some(Stop::Canceled)), "{reply:?}");

        // Whoever waits when the supervisor dies is told so.
        let pid = nix::unistd::Pid::from_raw(front.process.id() as i32);
        let killer = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        };
        let mut forever = Box::pin(never());
        let (reply, ()) = tokio::join!(run(shell(0, "exec sleep 60"), &mut forever), killer);
        assert!(matches!(reply, Reply::Lost), "{reply:?}");
        // The end of the stream, or its reset.
        let _ended = answers.await.unwrap();
    });
    front.process.wait().unwrap();
}
