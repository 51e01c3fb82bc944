//! Section C: output, input, and what is inherited.

use std::time::Duration;

use super::{LANDLOCK, PATIENT, SECCOMP};
use crate::selftest::attack::Control::{Roomy, Test};
use crate::selftest::attack::{
    ATTACK, Attack, Evidence, Expected, Layer, Printed, Program, REFUSED, Section, Stdin, attempts,
};
use crate::words::limits::LimitsRequest;
use crate::words::verdict::{KilledBy, Status};

const STREAMS: Attack = Attack { section: Section::Streams, layers: &[Layer::Watch], ..ATTACK };

const FLOOD: Attack = Attack {
    rows: "39",
    limits: LimitsRequest { output_bytes: Some(64 << 10), wall_time: Some(Duration::from_secs(20)), ..PATIENT },
    expected: Expected {
        ends: &[(Status::OutputExceeded, Some(KilledBy::Supervisor))],
        printed: Printed::Anything,
        evidence: &[],
    },
    control: Roomy { flags: &["--output", "64K"], program: Program::Shell("yes | head -c 60000") },
    ..STREAMS
};

pub(super) const ATTACKS: &[Attack] = &[
    Attack { name: "stdout-flood", title: "write to stdout without end", program: Program::Shell("exec yes"), ..FLOOD },
    Attack {
        name: "stderr-flood",
        title: "write to stderr without end",
        program: Program::Shell("exec yes >&2"),
        ..FLOOD
    },
    Attack {
        name: "both-streams-flood",
        rows: "39 40",
        title: "write lines to both streams in turn, to hide behind a cap for each",
        program: Program::Shell(
            "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; echo bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb >&2; done",
        ),
        ..FLOOD
    },
    Attack {
        name: "flood-by-an-orphan",
        title: "have an orphan write on while the program waits for nothing",
        program: Program::Shell("(setsid yes &) ; exec sleep 30"),
        ..FLOOD
    },
    Attack {
        name: "flood-through-dev-stdout",
        title: "open the pipes anew through /dev/stdout and write without end",
        program: Program::Shell("exec yes > /dev/stdout"),
        ..FLOOD
    },
    Attack {
        name: "closed-streams",
        rows: "41",
        title: "close the streams and go on",
        program: Program::Shell("echo done; exec >&- 2>&- <&-; exit 0"),
        expected: Expected { printed: Printed::Text("done\n"), evidence: &[Evidence::Soon], ..REFUSED },
        control: Test("a_run_ends_when_it_must"),
        ..STREAMS
    },
    Attack {
        name: "closed-streams-and-stays",
        rows: "41",
        title: "close the streams and stay, so that the end of output is not the end of the run",
        program: Program::Shell("exec >&- 2>&- <&-; exec sleep 1000"),
        limits: LimitsRequest { wall_time: Some(Duration::from_millis(400)), ..PATIENT },
        expected: Expected {
            ends: &[(Status::WallTimeExceeded, Some(KilledBy::Supervisor))],
            printed: Printed::Text(""),
            evidence: &[Evidence::Limit("wall_time_ms")],
        },
        control: Roomy { flags: &["--wall-time", "5s"], program: Program::Shell("exec >&- 2>&- <&-; sleep 0.6") },
        ..STREAMS
    },
    Attack {
        name: "unread-input",
        rows: "42",
        title: "read nothing of an input that has no end",
        program: Program::Shell("echo done"),
        stdin: Stdin::Endless,
        expected: Expected { printed: Printed::Text("done\n"), evidence: &[Evidence::Soon], ..REFUSED },
        control: Test("stdin_of_any_size_is_read_or_not_read"),
        ..STREAMS
    },
    Attack {
        name: "endless-input",
        rows: "42",
        title: "read an input that has no end",
        program: Program::Shell("exec cat > /dev/null"),
        stdin: Stdin::Endless,
        limits: LimitsRequest {
            wall_time: Some(Duration::from_millis(400)),
            cpu_time: Some(Duration::from_secs(10)),
            ..PATIENT
        },
        expected: Expected {
            ends: &[(Status::WallTimeExceeded, Some(KilledBy::Supervisor))],
            printed: Printed::Text(""),
            evidence: &[Evidence::Limit("wall_time_ms")],
        },
        control: Roomy { flags: &["--wall-time", "5s"], program: Program::Shell("cat > /dev/null") },
        ..STREAMS
    },
    Attack {
        name: "unreadable-bytes",
        rows: "43",
        title: "write bytes that are no text: NUL, escapes, broken UTF-8",
        program: Program::Shell("printf 'a\\000\\033[2J\\377\\300\\200z' | od -An -tx1"),
        expected: Expected { printed: Printed::Text(" 61 00 1b 5b 32 4a ff c0 80 7a\n"), ..REFUSED },
        control: Test("output_streams_through_as_it_comes"),
        ..STREAMS
    },
    Attack {
        name: "inherited-descriptors",
        rows: "13 50 51 78",
        title: "use a descriptor that was not given (CVE-2024-21626)",
        layers: &[Layer::Inheritance],
        program: Program::Builtin("descriptors", &[]),
        expected: attempts(&[
            "descriptor 42: EBADF",
            "work directory by 42: ENOENT",
            "open beneath 42: EBADF",
            "escape by 42: EBADF",
        ]),
        alone: &[("closing", &[SECCOMP, LANDLOCK])],
        control: Test("no_descriptor_of_the_host_reaches_the_payload"),
        ..STREAMS
    },
    Attack {
        name: "inherited-environment",
        rows: "50 71",
        title: "read the operator's environment",
        layers: &[Layer::Inheritance],
        program: Program::Shell(
            // What a shell adds by itself is not the operator's.
            "cat /proc/self/environ | tr '\\0' '\\n' | cut -d= -f1 | grep -vx -e PWD -e OLDPWD -e SHLVL -e _ | sort",
        ),
        expected: Expected { printed: Printed::Text("HOME\nLANG\nPATH\nTMPDIR\nUSER\n"), ..REFUSED },
        control: Test("a_requests_environment_does_not_reach_the_sandbox"),
        ..STREAMS
    },
];
