//! Section B: processes, CPU time, memory and the limits on them.

use std::time::Duration;

use super::{LANDLOCK, PATIENT, SECCOMP};
use crate::selftest::attack::Control::{Allowed, Roomy, Test, Without};
use crate::selftest::attack::{
    ATTACK, Attack, Evidence, Expected, Layer, Printed, Program, REFUSED, Section, attempts,
};
use crate::words::limits::LimitsRequest;
use crate::words::verdict::{KilledBy, Status};

const PROCESSES: Attack = Attack { section: Section::Processes, ..ATTACK };

/// A few processes and a moment: what multiplies without end is stopped by the clock.
const BOMB: Attack = Attack {
    rows: "22",
    layers: &[Layer::Cgroup],
    limits: LimitsRequest {
        processes: Some(16),
        // Enough for the slowest machine to come to the limit.
        wall_time: Some(Duration::from_millis(1200)),
        memory_bytes: Some(64 << 20),
        ..PATIENT
    },
    expected: Expected {
        // Whichever of its limits the bomb comes to first.
        ends: &[
            (Status::WallTimeExceeded, Some(KilledBy::Supervisor)),
            (Status::CpuTimeExceeded, Some(KilledBy::Supervisor)),
            (Status::MemoryExceeded, Some(KilledBy::KernelOom)),
            (Status::Ok, None),
            (Status::NonzeroExit, None),
        ],
        printed: Printed::Anything,
        evidence: &[Evidence::ProcessLimitHits],
    },
    control: Roomy { flags: &["--processes", "64"], program: Program::Builtin("bombs", &["40"]) },
    ..PROCESSES
};

const BURNER: Attack = Attack {
    rows: "27 76",
    layers: &[Layer::Cgroup],
    limits: LimitsRequest {
        cpu_time: Some(Duration::from_millis(300)),
        wall_time: Some(Duration::from_secs(20)),
        ..PATIENT
    },
    expected: Expected {
        ends: &[(Status::CpuTimeExceeded, Some(KilledBy::Supervisor))],
        printed: Printed::Anything,
        evidence: &[Evidence::Limit("cpu_time_ms")],
    },
    control: Roomy { flags: &["--cpu-time", "300ms"], program: Program::Shell("sleep 0.6") },
    ..PROCESSES
};

const MEMORY_BYTES: u64 = 48 << 20;

/// Takes memory of one kind until something says no.
const EATER: Attack = Attack {
    rows: "33 34",
    layers: &[Layer::Cgroup],
    limits: LimitsRequest { memory_bytes: Some(MEMORY_BYTES), ..PATIENT },
    expected: Expected {
        ends: &[(Status::MemoryExceeded, Some(KilledBy::KernelOom))],
        printed: Printed::NothingGranted,
        evidence: &[Evidence::Limit("memory_bytes"), Evidence::OomKills],
    },
    control: Test("memory_of_every_kind_is_counted"),
    ..PROCESSES
};

/// As [`EATER`], for what has limits of its own that may be met first.
const NIBBLER: Attack = Attack {
    expected: Expected {
        ends: &[(Status::MemoryExceeded, Some(KilledBy::KernelOom)), (Status::Ok, None)],
        printed: Printed::NothingGranted,
        evidence: &[],
    },
    ..EATER
};

pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "fork-bomb", title: "fork without end", program: Program::Builtin("bombs", &["fork"]), ..BOMB },
    Attack {
        name: "vfork-bomb",
        title: "vfork and exec without end",
        program: Program::Builtin("bombs", &["vfork"]),
        ..BOMB
    },
    Attack {
        name: "thread-bomb",
        title: "threads without end",
        program: Program::Builtin("bombs", &["thread"]),
        ..BOMB
    },
    Attack {
        name: "daemon-bomb",
        title: "fork without end, each away from its parent, session and signals",
        program: Program::Builtin("bombs", &["daemon"]),
        ..BOMB
    },
    Attack {
        name: "process-limit",
        title: "more processes than the limit says",
        limits: LimitsRequest { processes: Some(20), ..PATIENT },
        program: Program::Builtin("bombs", &["40"]),
        expected: Expected { evidence: &[Evidence::ProcessLimitHits], ..attempts(&["processes: EAGAIN"]) },
        ..BOMB
    },
    Attack {
        name: "zombies",
        rows: "23",
        title: "children that end and are never waited for",
        limits: LimitsRequest { processes: Some(16), ..PATIENT },
        program: Program::Builtin("zombies", &["kept", "100"]),
        expected: Expected { evidence: &[Evidence::ProcessLimitHits], ..attempts(&["kept: EAGAIN"]) },
        control: Roomy { flags: &["--processes", "16"], program: Program::Builtin("zombies", &["kept", "8"]) },
        ..BOMB
    },
    Attack {
        name: "orphans-unreaped",
        rows: "23",
        title: "many times more orphans than there may be processes, which init must reap",
        layers: &[Layer::Init],
        program: Program::Builtin("zombies", &["orphans", "200"]),
        expected: attempts(&["orphans: ok"]),
        control: Test("zombies_are_counted_and_orphans_reaped"),
        ..PROCESSES
    },
    Attack {
        name: "raise-limits",
        rows: "73",
        title: "raise each resource limit by one",
        // The program knows the service's own limits.
        limits: LimitsRequest { cpu_time: None, ..PATIENT },
        layers: &[Layer::Rlimits],
        program: Program::Builtin("limits", &[]),
        expected: attempts(&[
            "core: EPERM",
            "cpu: EPERM",
            "fsize: EPERM",
            "nofile: EPERM",
            "stack: EPERM",
            "nproc: EPERM",
            "memlock: EPERM",
            "msgqueue: EPERM",
            "nice: EPERM",
            "rtprio: EPERM",
            "sigpending: EPERM",
        ]),
        alone: &[("hard limits", &[SECCOMP, LANDLOCK])],
        control: Without(&[SECCOMP, "limit_core_dumps", "set_rlimits"]),
        closed: &[("nice", "0 on the host too"), ("rtprio", "0 on the host too")],
        ..PROCESSES
    },
    Attack { name: "cpu-burn", title: "a busy loop", program: Program::Shell("while :; do :; done"), ..BURNER },
    Attack {
        name: "cpu-burn-by-many",
        title: "four busy loops, to spend the time four times",
        program: Program::Shell("for i in 1 2 3 4; do while :; do :; done & done; wait"),
        ..BURNER
    },
    Attack {
        name: "cpu-burn-by-orphan",
        title: "a busy orphan in a session of its own, while the program sleeps",
        program: Program::Shell("(setsid sh -c 'while :; do :; done' &); sleep 30"),
        ..BURNER
    },
    Attack { name: "memory-heap", title: "memory by malloc", program: Program::Builtin("memory", &["heap"]), ..EATER },
    Attack {
        name: "memory-memfd",
        title: "memory in memfds",
        program: Program::Builtin("memory", &["memfd"]),
        ..EATER
    },
    Attack {
        name: "memory-tmpfs",
        title: "memory in files of /tmp and the work directory",
        program: Program::Builtin("memory", &["tmpfs"]),
        ..EATER
    },
    Attack {
        name: "memory-shm",
        title: "memory in System V segments",
        program: Program::Builtin("memory", &["shm"]),
        ..EATER
    },
    Attack {
        name: "memory-page-tables",
        title: "page tables, for pages that hold nothing",
        program: Program::Builtin("memory", &["page tables"]),
        ..EATER
    },
    Attack {
        name: "memory-pipes",
        title: "memory in pipes made as large as may be",
        program: Program::Builtin("memory", &["pipes"]),
        ..NIBBLER
    },
    Attack {
        name: "memory-sockets",
        title: "memory in socket buffers",
        program: Program::Builtin("memory", &["sockets"]),
        ..NIBBLER
    },
    Attack {
        name: "memory-children",
        title: "a megabyte in each of many children",
        program: Program::Builtin("memory", &["children"]),
        ..NIBBLER
    },
    Attack {
        name: "memory-messages",
        title: "memory in System V message queues",
        program: Program::Builtin("memory", &["messages", "8192"]),
        ..NIBBLER
    },
    Attack {
        name: "memory-locked",
        title: "memory that cannot be taken back",
        layers: &[Layer::Rlimits],
        program: Program::Builtin("memory", &["mlock"]),
        expected: Expected { printed: Printed::AllAttempts(&["mlock: ENOMEM|EPERM|EAGAIN"]), ..REFUSED },
        ..NIBBLER
    },
    Attack {
        name: "stack-dive",
        rows: "35",
        title: "recurse past the end of the stack",
        layers: &[Layer::Rlimits],
        program: Program::Builtin("memory", &["stack", "100000"]),
        expected: Expected {
            ends: &[(Status::Signaled, Some(KilledBy::Kernel))],
            printed: Printed::Text(""),
            evidence: &[Evidence::Signal(libc::SIGSEGV)],
        },
        control: Allowed(&["stack", "10"]),
        ..PROCESSES
    },
    Attack {
        name: "raise-the-stack",
        rows: "35",
        title: "an unlimited stack",
        layers: &[Layer::Rlimits],
        program: Program::Builtin("memory", &["raise stack"]),
        expected: attempts(&["raise stack: EPERM"]),
        control: Without(&["set_rlimits"]),
        ..PROCESSES
    },
    Attack {
        name: "oom-victim",
        rows: "33",
        title: "have the kernel kill somebody else first when memory is short",
        layers: &[Layer::Mounts],
        program: Program::Shell(
            "cat /proc/self/oom_score_adj; (echo 0 > /proc/self/oom_score_adj) 2>/dev/null; cat /proc/self/oom_score_adj",
        ),
        expected: Expected { printed: Printed::Text("1000\n1000\n"), ..REFUSED },
        control: Without(&["set_oom_score"]),
        ..PROCESSES
    },
];
