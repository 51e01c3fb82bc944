//! Section B: signals, tracing, identity, the end of a run.

use std::time::Duration;

use super::{LANDLOCK, PATIENT, SECCOMP};
use crate::selftest::attack::Control::{Bare, Roomy, Test, Without};
use crate::selftest::attack::{
    ATTACK, Attack, Evidence, Expected, Layer, Printed, Program, REFUSED, Section, attempts,
};
use crate::words::limits::LimitsRequest;
use crate::words::verdict::{KilledBy, Status};

const PROCESSES: Attack = Attack { section: Section::Processes, ..ATTACK };

/// A run that would not end by itself, or whose end others try to delay.
const LINGERER: Attack = Attack {
    layers: &[Layer::Watch],
    limits: LimitsRequest { wall_time: Some(Duration::from_millis(400)), ..PATIENT },
    expected: Expected {
        ends: &[(Status::WallTimeExceeded, Some(KilledBy::Supervisor))],
        printed: Printed::Anything,
        evidence: &[Evidence::Limit("wall_time_ms")],
    },
    control: Roomy { flags: &["--wall-time", "5s"], program: Program::Shell("sleep 0.6") },
    ..PROCESSES
};

/// The first process is done at once, and so is the run.
const LEFT_BEHIND: Attack = Attack {
    rows: "24",
    layers: &[Layer::Init],
    expected: Expected { printed: Printed::Text("done\n"), evidence: &[Evidence::Soon], ..REFUSED },
    control: Test("a_run_ends_when_it_must"),
    ..PROCESSES
};

const SIGNALS: Attack = Attack {
    rows: "25",
    program: Program::Builtin("signals", &["parent", "{pid}"]),
    control: Test("signals_stay_among_the_payload"),
    ..PROCESSES
};

const TRACING: Attack = Attack {
    rows: "30",
    layers: &[Layer::Seccomp],
    program: Program::Builtin("tracing", &["child"]),
    alone: &[("seccomp", &[LANDLOCK])],
    control: Without(&[SECCOMP]),
    ..PROCESSES
};

/// init is closed to its own user too; what the calls can do is shown on a child.
const TRACING_INIT: Attack = Attack {
    layers: &[Layer::Seccomp, Layer::Identity, Layer::Init],
    program: Program::Builtin("tracing", &["parent"]),
    alone: &[
        ("another user's init", &[SECCOMP, LANDLOCK]),
        ("an init that is not dumpable", &[SECCOMP, LANDLOCK, "become_payload_user"]),
    ],
    control: Test("attacks_on_processes_are_refused"),
    ..TRACING
};

const SCHEDULING: Attack = Attack {
    rows: "31",
    layers: &[Layer::Capabilities, Layer::Rlimits],
    program: Program::Builtin("scheduling", &["parent"]),
    alone: &[("no capabilities", &[SECCOMP, LANDLOCK])],
    control: Bare(&["self"]),
    ..PROCESSES
};

const PRCTLS: Attack = Attack {
    rows: "32",
    layers: &[Layer::Seccomp],
    program: Program::Builtin("prctls", &[]),
    alone: &[("seccomp", &[LANDLOCK])],
    control: Without(&[SECCOMP]),
    ..PROCESSES
};

const IDENTITY: Attack = Attack {
    rows: "69",
    layers: &[Layer::Namespaces, Layer::Capabilities],
    program: Program::Builtin("identity", &[]),
    alone: &[("the user namespace", &[SECCOMP, LANDLOCK])],
    control: Bare(&[]),
    ..PROCESSES
};

/// Looks like something else than it is.
const IMPOSTOR: Attack =
    Attack { rows: "77", layers: &[Layer::Watch], control: Test("verdicts_cannot_be_imitated"), ..PROCESSES };

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "orphan-holds-stdout",
        title: "an orphan that outlives the program keeps the streams open",
        program: Program::Shell("sleep 1000 & echo done"),
        ..LEFT_BEHIND
    },
    Attack {
        name: "daemon-holds-stdout",
        title: "so does a daemon in a session of its own that no signal ends",
        program: Program::Shell("(setsid sh -c 'trap \"\" TERM HUP INT; sleep 1000' &) ; echo done"),
        ..LEFT_BEHIND
    },
    Attack {
        name: "kill-everybody",
        rows: "25",
        title: "kill(-1, SIGKILL)",
        layers: &[Layer::Namespaces],
        program: Program::Shell("sleep 1000 & sleep 1000 & echo done; kill -9 -1; exit 0"),
        ..LEFT_BEHIND
    },
    Attack {
        name: "stop-itself",
        rows: "26",
        title: "SIGSTOP to itself, so that it never ends",
        program: Program::Shell("kill -STOP $$"),
        ..LINGERER
    },
    Attack {
        name: "ignore-signals",
        rows: "26",
        title: "ignore every signal that can be ignored",
        program: Program::Shell("trap '' TERM INT HUP QUIT ALRM USR1 USR2; while :; do sleep 1000; done"),
        ..LINGERER
    },
    Attack {
        name: "sleep-forever",
        rows: "28",
        title: "sleep without using any CPU",
        program: Program::Shell("exec sleep 1000"),
        ..LINGERER
    },
    Attack {
        name: "trickle-output",
        rows: "28",
        title: "write a byte now and then, to look alive",
        program: Program::Shell("while :; do printf .; sleep 0.05; done"),
        ..LINGERER
    },
    Attack {
        name: "stop-the-parent",
        rows: "26",
        title: "SIGSTOP to init, so that nobody reaps",
        layers: &[Layer::Init, Layer::Watch],
        program: Program::Shell("kill -STOP $PPID; exec sleep 1000"),
        ..LINGERER
    },
    Attack {
        name: "signal-init",
        title: "signal init by kill, tgkill, sigqueue and a pidfd",
        layers: &[Layer::Identity, Layer::Landlock],
        expected: attempts(&[
            "question init: EPERM",
            "kill init: EPERM",
            "tgkill init: EPERM",
            "sigqueue init: EPERM",
            "pidfd init: EPERM",
        ]),
        ..SIGNALS
    },
    Attack {
        name: "signal-the-host",
        title: "signal a process of the host, or hold it by a pidfd",
        layers: &[Layer::Namespaces],
        expected: attempts(&["kill a process of the host: ESRCH", "pidfd of the host: ESRCH"]),
        ..SIGNALS
    },
    Attack {
        name: "ptrace",
        title: "trace another process of one's own",
        expected: attempts(&["ptrace: EPERM"]),
        ..TRACING
    },
    Attack {
        name: "process-memory",
        title: "read and write another process's memory by process_vm_readv and writev",
        expected: attempts(&["process_vm_readv: EPERM", "process_vm_writev: EPERM"]),
        ..TRACING
    },
    Attack {
        name: "steal-descriptors",
        title: "take a descriptor by pidfd_getfd, compare kernel objects by kcmp",
        expected: attempts(&["kcmp: EPERM", "pidfd_getfd: EPERM"]),
        ..TRACING
    },
    Attack {
        name: "trace-init",
        title: "the same against init",
        expected: attempts(&[
            "ptrace: EPERM",
            "process_vm_readv: EPERM",
            "process_vm_writev: EPERM",
            "kcmp: EPERM",
            "pidfd_getfd: EPERM",
        ]),
        ..TRACING_INIT
    },
    Attack {
        name: "real-time",
        title: "real-time and deadline scheduling",
        expected: attempts(&["real time: EPERM", "round robin: EPERM", "deadline: EPERM", "ioprio: EPERM"]),
        ..SCHEDULING
    },
    Attack {
        name: "niceness",
        title: "a better niceness than one was given",
        expected: attempts(&["nice -5: EACCES", "nice 5 and back: EACCES"]),
        ..SCHEDULING
    },
    Attack {
        name: "slow-down-init",
        title: "give init the worst niceness",
        layers: &[Layer::Identity],
        expected: attempts(&["priority of init: EPERM"]),
        ..SCHEDULING
    },
    Attack {
        name: "seccomp-again",
        title: "change the filter by prctl",
        expected: attempts(&["seccomp again: EINVAL"]),
        ..PRCTLS
    },
    Attack {
        name: "capability-prctls",
        rows: "32 69",
        title: "keep capabilities, change securebits, raise an ambient capability",
        expected: attempts(&["keep capabilities: EINVAL", "securebits: EINVAL", "ambient capability: EINVAL"]),
        closed: &[("keep capabilities", "locked by securebits as well"), ("securebits", "needs CAP_SETPCAP")],
        ..PRCTLS
    },
    Attack {
        name: "speculation",
        rows: "68",
        title: "turn speculation back on, change the timestamp counter and cpuid",
        expected: attempts(&["speculation: EINVAL", "timestamp counter: EINVAL", "cpuid faulting: EINVAL"]),
        closed: &[
            ("speculation", "a matter of the processor"),
            ("timestamp counter", "a matter of the processor"),
            ("cpuid faulting", "a matter of the processor"),
        ],
        ..PRCTLS
    },
    Attack {
        name: "memory-layout",
        title: "lie about one's memory layout by PR_SET_MM",
        expected: attempts(&["memory layout: EINVAL"]),
        ..PRCTLS
    },
    Attack {
        name: "page-merging",
        rows: "59 74",
        title: "have equal pages merged, whose timing tells what neighbours hold",
        expected: attempts(&["merge equal pages: EINVAL", "merge equal pages by madvise: EINVAL"]),
        closed: &[
            ("merge equal pages", "not in every kernel"),
            ("merge equal pages by madvise", "not in every kernel"),
        ],
        ..PRCTLS
    },
    Attack {
        name: "personality",
        rows: "59",
        title: "turn off address randomisation, make data executable",
        expected: attempts(&["no address randomisation: EPERM", "executable data: EPERM"]),
        ..PRCTLS
    },
    Attack {
        name: "become-root",
        rows: "16 69",
        title: "become root, take its group, set groups",
        expected: attempts(&["become root: EINVAL", "root's group: EINVAL", "set groups: EPERM"]),
        ..IDENTITY
    },
    Attack {
        name: "become-init",
        title: "become init's user, who may signal it",
        // An ordinary user has one id to give: there is no other to become.
        expected: attempts(&["become init's user: EPERM|EINVAL"]),
        ..IDENTITY
    },
    Attack {
        name: "take-a-capability",
        title: "capset",
        layers: &[Layer::Seccomp, Layer::Capabilities],
        expected: attempts(&["take a capability: EPERM"]),
        ..IDENTITY
    },
    Attack {
        name: "privileges",
        title: "have any privilege left: ids, groups, capabilities, no_new_privs, filter",
        layers: &[Layer::Capabilities],
        program: Program::Builtin("identity", &["status"]),
        expected: Expected {
            printed: Printed::Text(
                "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t \n\
                 CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
                 CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
                 NoNewPrivs:\t1\nSeccomp:\t2\n",
            ),
            ..REFUSED
        },
        control: Without(&["set_no_new_privileges", LANDLOCK, SECCOMP, "drop_bounding_set"]),
        ..IDENTITY
    },
    Attack {
        name: "imitate-out-of-memory",
        title: "kill itself by SIGKILL, to be taken for out of memory",
        program: Program::Shell("kill -9 $$"),
        expected: Expected {
            ends: &[(Status::Signaled, Some(KilledBy::Payload))],
            printed: Printed::Anything,
            evidence: &[Evidence::Signal(libc::SIGKILL)],
        },
        ..IMPOSTOR
    },
    Attack {
        name: "imitate-a-time-limit",
        title: "exit 124, to be taken for a time limit",
        program: Program::Shell("exit 124"),
        expected: Expected {
            ends: &[(Status::NonzeroExit, None)],
            printed: Printed::Anything,
            evidence: &[Evidence::ExitCode(124)],
        },
        ..IMPOSTOR
    },
    Attack {
        name: "spoof-the-verdict",
        rows: "78",
        title: "write a verdict of one's own to every descriptor",
        layers: &[Layer::Inheritance],
        program: Program::Shell(
            "fd=3; while [ $fd -lt 256 ]; do eval \"echo '{\\\"status\\\":\\\"ok\\\"}' >&$fd\"; fd=$((fd+1)); done 2>/dev/null; exit 3",
        ),
        expected: Expected { ends: &[(Status::NonzeroExit, None)], printed: Printed::Text(""), evidence: &[] },
        ..IMPOSTOR
    },
];
