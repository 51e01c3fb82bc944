//! What an attack is, as data: what it tries, what must stop it, how it must end, and where it would succeed.
//!
//! An attack without a control proves nothing: an attempt that could never work is "refused" by any sandbox. So each
//! says where the same attempts succeed ([`Control`]); `tests/attacks` and `tests/selftest.rs` hold them to it.

use std::time::Duration;

use crate::words::host::{CgroupKind, Host, Privilege};
use crate::words::limits::LimitsRequest;
use crate::words::verdict::{KilledBy, Status};

/// One row of the corpus.
#[derive(Debug, Clone)]
pub struct Attack {
    /// Unique; what `--only` matches.
    pub name: &'static str,
    pub section: Section,
    /// Numbers in the field's list of attacks (advisories, other projects' test suites) that this row stands for.
    pub rows: &'static str,
    /// What it tries, in one line.
    pub title: &'static str,
    /// Layers that stop it, in the order in which they are met. One of them must be in force on the host.
    pub layers: &'static [Layer],
    pub program: Program,
    pub limits: LimitsRequest,
    pub stdin: Stdin,
    /// Arguments of the same program for an earlier run in a cell of its own, which must succeed.
    pub before: &'static [&'static str],
    pub expected: Expected,
    /// Layers that hold by themselves: their names, and what is left out to show it.
    pub alone: &'static [(&'static str, &'static [&'static str])],
    /// Where the same attempts succeed.
    pub control: Control,
    /// Attempts that need not succeed in the control, each with the reason.
    pub closed: &'static [(&'static str, &'static str)],
    pub needs: Needs,
}

/// Sections of the field's list of attacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Files,
    Processes,
    Streams,
    Kernel,
}

impl Section {
    pub const ALL: [Section; 4] = [Section::Files, Section::Processes, Section::Streams, Section::Kernel];

    pub fn title(self) -> &'static str {
        match self {
            Section::Files => "A  files",
            Section::Processes => "B  processes, resources, lifetime",
            Section::Streams => "C  streams",
            Section::Kernel => "D  namespaces and the kernel",
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Section::Files => "files",
            Section::Processes => "processes",
            Section::Streams => "streams",
            Section::Kernel => "kernel",
        }
    }
}

/// A layer of defence, as SECURITY.md describes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// User, pid, mount, net, ipc, uts and cgroup namespaces of the cell's own.
    Namespaces,
    /// What is mounted in a cell: a read-only image, scratch of limited size, few devices, a /proc of one's own processes.
    Mounts,
    /// A user of the payload's own, who is not init's.
    Identity,
    /// No capability is left and none can be gained: bounding set, securebits, no_new_privs.
    Capabilities,
    Landlock,
    Seccomp,
    Rlimits,
    Cgroup,
    /// The supervisor's watch over wall time, CPU time and output, from outside.
    Watch,
    /// The cell's init: not dumpable, another user's, reaps, and takes everything along when it ends.
    Init,
    /// Nothing but the three streams is inherited: descriptors, environment, session, keyring.
    Inheritance,
}

impl Layer {
    pub const ALL: [Layer; 11] = [
        Layer::Namespaces,
        Layer::Mounts,
        Layer::Identity,
        Layer::Capabilities,
        Layer::Landlock,
        Layer::Seccomp,
        Layer::Rlimits,
        Layer::Cgroup,
        Layer::Watch,
        Layer::Init,
        Layer::Inheritance,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Layer::Namespaces => "namespaces",
            Layer::Mounts => "mounts",
            Layer::Identity => "identity",
            Layer::Capabilities => "capabilities",
            Layer::Landlock => "landlock",
            Layer::Seccomp => "seccomp",
            Layer::Rlimits => "rlimits",
            Layer::Cgroup => "cgroup",
            Layer::Watch => "watch",
            Layer::Init => "init",
            Layer::Inheritance => "inheritance",
        }
    }

    /// Whether this host has the layer at all, as it is configured.
    pub fn is_in_force(self, host: &Host) -> bool {
        match self {
            Layer::Landlock => host.landlock_abi > 0,
            Layer::Seccomp => host.seccomp,
            Layer::Cgroup => host.cgroup != CgroupKind::None,
            // An ordinary user has one id to give: init's and the payload's are the same.
            Layer::Identity => host.privilege == Privilege::Root,
            _ => true,
        }
    }
}

/// What runs in the cell. In its arguments `{tcp}`, `{udp}`, `{abstract}`, `{path}`, `{pid}` stand for what the host
/// has to offer meanwhile (see `bait`).
#[derive(Debug, Clone, Copy)]
pub enum Program {
    /// One of `programs/*.c`, with its arguments.
    Builtin(&'static str, &'static [&'static str]),
    /// A script for the image's `/bin/sh`.
    Shell(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    Empty,
    /// Zeroes for as long as anybody reads.
    Endless,
}

/// How the attack must end.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// One of these.
    pub ends: &'static [(Status, Option<KilledBy>)],
    pub printed: Printed,
    /// What else must be in the verdict.
    pub evidence: &'static [Evidence],
}

/// What the program must have printed on stdout.
#[derive(Debug, Clone, Copy)]
pub enum Printed {
    /// These attempts with these ends, `attempt: END`, in any order; `END|END` where kernels or layers differ. The
    /// program is told to try these only.
    Attempts(&'static [&'static str]),
    /// These attempts and no others, though the program is not told which to try.
    AllAttempts(&'static [&'static str]),
    /// If it came to print anything, no attempt is `ok`.
    NothingGranted,
    Text(&'static str),
    Anything,
    /// The answers of a sweep, held against a golden table.
    Sweep(super::golden::Sweep),
}

/// A fact that the verdict must hold.
#[derive(Debug, Clone, Copy)]
pub enum Evidence {
    /// The limit that decided, by name.
    Limit(&'static str),
    /// Forks were refused at the limit of processes.
    ProcessLimitHits,
    OomKills,
    /// This system call was reported as denied (where the kernel can report).
    Denied(&'static str),
    Signal(i32),
    ExitCode(i32),
    /// It ended long before its wall time.
    Soon,
}

/// Where the same program succeeds.
#[derive(Debug, Clone, Copy)]
pub enum Control {
    /// In the sandbox without these steps, or namespaces (`ns:NAME`).
    Without(&'static [&'static str]),
    /// On the host, as root, in an empty directory, where that is harmless.
    Bare(&'static [&'static str]),
    /// On the host as root of fresh namespaces.
    Unshared(&'static [&'static str]),
    /// In the complete sandbox, with arguments for which the attempt is allowed.
    Allowed(&'static [&'static str]),
    /// In the complete sandbox, with these flags of `sandboxd run` for room: the run then ends as `ok`.
    Roomy { flags: &'static [&'static str], program: Program },
    /// In this test, which needs more than one program to show it.
    Test(&'static str),
}

/// What an attack needs to be one; where it is lacking, the attack is not applicable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// An image of our own building.
    BuiltImage,
    /// A processor (or emulator) that tells system calls of another architecture apart.
    ForeignAbi,
}

/// A program that has done what it wanted and ended by itself, with all attempts refused.
pub const REFUSED: Expected = Expected { ends: &[(Status::Ok, None)], printed: Printed::Anything, evidence: &[] };

const MINUTE: Duration = Duration::from_secs(60);

/// What most attacks have in common; rows are written as changes to it.
pub const ATTACK: Attack = Attack {
    name: "",
    section: Section::Files,
    rows: "",
    title: "",
    layers: &[],
    program: Program::Shell(""),
    limits: PATIENT,
    stdin: Stdin::Empty,
    before: &[],
    expected: REFUSED,
    alone: &[],
    control: Control::Without(&[]),
    closed: &[],
    needs: Needs::Nothing,
};

/// The service's own limits, and time enough for the slowest machine.
pub const PATIENT: LimitsRequest = LimitsRequest {
    wall_time: Some(MINUTE),
    cpu_time: Some(MINUTE),
    memory_bytes: None,
    processes: None,
    output_bytes: None,
    stdout_bytes: None,
    stderr_bytes: None,
    cpu_rate: None,
    scratch_bytes: None,
    scratch_inodes: None,
    file_bytes: None,
    open_files: None,
    stack_bytes: None,
};

/// Attempts that the program is told to try, and how each must end.
pub const fn attempts(list: &'static [&'static str]) -> Expected {
    Expected { printed: Printed::Attempts(list), ..REFUSED }
}

/// A text that the program must have printed.
pub const fn text(text: &'static str) -> Expected {
    Expected { printed: Printed::Text(text), ..REFUSED }
}
