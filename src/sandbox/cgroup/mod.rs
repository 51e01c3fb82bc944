//! Cgroups: what a cell may use, and what it used.
//!
//! Three backends behind [`Backend`] and [`CellGroup`]:
//! - `v2`: one hierarchy; a process is born in its group (CLONE_INTO_CGROUP).
//! - `hybrid`: the controllers on v1 hierarchies, with or without an almost empty cgroup2 beside them; the
//!   single-threaded child writes "0" to each `tasks` file.
//! - `none`: nothing is enforced, usage is polled; only where configuration names it.
//!
//! [`probe`] looks and creates nothing. [`open`] makes our parent group, `sandboxd.<pid>`, under the group we are in
//! ourselves - a limit set on the service keeps holding for its cells - and sweeps what dead owners left. Each cell
//! is one group below that: created, limited, used once, removed.
//!
//! Nobody writes to `cgroup.procs` on the path of a run: that waits for an RCU grace period (8-20 ms when idle).
//!
//! cgroups-rs is used off that path: to tell the kind of hierarchy (here) and to create the parent group on v1
//! (`hybrid.rs`). The groups of cells are plain files relative to a descriptor: the crate has no oom.group, no pids.peak, no
//! eventfd, logs instead of returning the errors of mkdir, and needs twice the system calls.
//!
//! Nothing here knows of requests, plans or HTTP; nothing here writes outside `sandboxd.*` groups, with one exception:
//! on v2 it may enable controllers in a `cgroup.subtree_control` that the probe found to be ours (see `v2_place.rs`).

mod dir;
mod error;
mod hybrid;
mod mounts;
mod none;
mod parent;
mod v2;
mod v2_place;

pub use error::{CgroupError, Verb};
pub use parent::Swept;

use crate::sandbox::fault;
use crate::words::causes::chain;
use mounts::{CgroupMount, Membership};
use rustix::fs::{Mode, OFlags};
use std::{
    fmt,
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

/// What a cell may use.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupLimits {
    /// Memory of all kinds, page cache and kernel objects included; never swapped out.
    pub memory_bytes: u64,
    /// Processes and threads of the payload; the cell's init comes on top.
    pub processes: u32,
    /// In cores: 1.5 is 150 % of one core. None: as much as the machine gives.
    pub cpu_rate: Option<f64>,
}

/// What a cell used. Memory and processes are peaks of the whole group at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    pub cpu_time: Duration,
    pub memory_peak_bytes: u64,
    /// The cell's init included. None where the kernel has no `pids.peak` (before 6.1).
    pub processes_peak: Option<u32>,
    /// Processes that the OOM killer ended: a sign, not a count (v2 counts the first victim of a group kill twice), and
    /// raised by a machine that is out of memory as well as by the cell's own limit.
    pub oom_kills: u64,
    /// How often a fork or clone was refused by the limit of processes.
    pub process_limit_hits: u64,
}

/// The wish of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// v2 or hybrid, whichever can enforce; never `none`.
    Auto,
    V2,
    Hybrid,
    None,
}

impl Choice {
    /// As configuration says it.
    pub fn word(self) -> &'static str {
        match self {
            Choice::Auto => "auto",
            Choice::V2 => "v2",
            Choice::Hybrid => "hybrid",
            Choice::None => "none",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    V2,
    Hybrid,
    None,
}

/// What this host can enforce, and where our groups would go.
#[derive(Debug, Clone)]
pub struct Probe {
    pub kind: Kind,
    /// The layout by cgroups-rs' judgement: true if /sys/fs/cgroup itself is cgroup2.
    pub unified: bool,
    pub hierarchies: Vec<Hierarchy>,
    pub missing: Vec<Missing>,
}

/// One hierarchy we would use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// The controllers of interest on it: memory, pids, cpu, cpuacct.
    pub controllers: Vec<&'static str>,
    /// The group under which `sandboxd.<pid>` goes, as a directory …
    pub directory: PathBuf,
    /// … and as /proc/PID/cgroup shows it.
    pub group: String,
    /// v2 only: controllers that `open` must enable in that group first.
    pub enable: Vec<&'static str>,
    /// v2 only: our own processes live in that group and must step aside into `sandboxd.supervisor`.
    pub step_aside: bool,
}

/// Something that cannot be enforced although the rest can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub what: String,
    pub remedy: String,
}

/// Makes groups for cells.
pub trait Backend: Send + fmt::Debug {
    /// Makes a limited, empty group; `name` is unique among the living cells.
    fn create_cell(&mut self, name: &str, limits: &GroupLimits) -> Result<Box<dyn CellGroup>, CgroupError>;
    /// Makes now what the next cell will need, where that takes long; it may serve one cell only, like any group. False
    /// when there was nothing to make.
    fn prepare_ahead(&mut self) -> Result<bool, CgroupError> {
        Ok(false)
    }
    /// Promises that one cell will be made and no second one: where the layout allows it, that cell gets our parent
    /// group itself, which spares making and removing another.
    fn expect_one_cell(&mut self) {}
    fn kind(&self) -> Kind;
    /// What `open` found of dead owners.
    fn swept(&self) -> &Swept;
    /// Removes our parent group with anything left in it; goes on after an error and reports all. May be repeated.
    fn close(&mut self) -> Vec<CgroupError>;
}

/// The group of one cell.
pub trait CellGroup: Send + fmt::Debug {
    /// How a process gets in.
    fn join(&self) -> Join<'_>;
    /// Sets other limits than those the group was made with. After an error the group must not be used.
    fn limit(&mut self, limits: &GroupLimits) -> Result<(), CgroupError>;
    /// Closes the descriptors that only joining needed.
    fn joined(&mut self) {}
    /// Tells the group which process is the cell's init. Only `none` needs to know.
    fn adopt(&mut self, _init_pid: i32) -> Result<(), CgroupError> {
        Ok(())
    }
    /// Whether a living process is in the group with all its controllers; to be asserted once after clone.
    fn contains(&self, pid: i32) -> Result<bool, CgroupError>;
    fn usage(&self) -> Result<Usage, CgroupError>;
    /// The CPU time of all processes of the cell, dead ones included.
    fn cpu_time(&self) -> Result<Duration, CgroupError>;
    /// Processes and threads now; `None` where nobody counts them.
    fn processes(&self) -> Result<Option<u64>, CgroupError>;
    /// How many processes the OOM killer ended.
    fn oom_kills(&self) -> Result<u64, CgroupError>;
    /// An eventfd, readable once the cell ran out of memory (or its group was removed): on v1 the kernel kills one
    /// process and leaves the rest to us. None on v2, where `memory.oom.group` kills the whole cell.
    fn oom_event(&self) -> Option<BorrowedFd<'_>>;
    /// SIGKILL to everything in the group. Killing init ends a pid namespace as well; this holds without its help.
    fn kill(&self) -> Result<(), CgroupError>;
    /// Removes the group, after its last process; goes on after an error and reports all.
    fn remove(self: Box<Self>) -> Vec<CgroupError>;
}

/// How a process gets into a group.
#[derive(Debug)]
pub enum Join<'a> {
    /// Be born there: the directory for clone3's CLONE_INTO_CGROUP.
    AtClone(BorrowedFd<'a>),
    /// The child writes "0" to each, while it has one thread.
    Tasks(&'a [OwnedFd]),
    Nothing,
}

/// Finds out what this host can enforce. `parent` overrides the group under which ours go, as /proc/PID/cgroup names
/// groups; it must exist (on each hierarchy) and be ours to fill.
pub fn probe(choice: Choice, parent: Option<&str>) -> Result<Probe, CgroupError> {
    let unified = cgroups_rs::hierarchies::is_cgroup2_unified_mode();
    match choice {
        Choice::V2 => v2_place::probe(&View::read()?, unified, parent),
        Choice::Hybrid => hybrid::probe(&View::read()?, unified, parent),
        Choice::None => Ok(none::probe(unified)),
        Choice::Auto => {
            let view = View::read()?;
            // cgroups-rs looks at /sys/fs/cgroup only: its word decides which is tried first, not which is possible.
            let v2 = || v2_place::probe(&view, unified, parent);
            let hybrid = || hybrid::probe(&view, unified, parent);
            let neither = |first, second| neither(&first, &second);
            if unified {
                v2().or_else(|first| hybrid().map_err(|second| neither(first, second)))
            } else {
                hybrid().or_else(|first| v2().map_err(|second| neither(first, second)))
            }
        }
    }
}

/// Makes our parent group `sandboxd.<owner_pid>` where the probe found a place, after sweeping what dead owners left.
/// To be called before the process forks helpers: on v2 it can step aside only while it is alone in its group.
pub fn open(probe: &Probe, owner_pid: u32) -> Result<Box<dyn Backend>, CgroupError> {
    let name = format!("{}{owner_pid}", parent::PREFIX);
    match probe.kind {
        Kind::V2 => v2::open(probe, &name),
        Kind::Hybrid => hybrid::open(probe, &name),
        Kind::None => Ok(none::open()),
    }
}

/// This process out of the way of the controllers: see [`step_aside`].
#[derive(Debug)]
pub struct Aside(Option<v2::StepAside>);

/// For a service of several processes, before the first of the others is started: on v2, where this process is alone in a
/// group that was delegated to it, moves it into `sandboxd.supervisor`, where its children are born. Then every one of
/// them finds the delegated group free for cells; else they would find it taken, by one another, and go further up.
pub fn step_aside(choice: Choice, parent: Option<&str>) -> Result<Aside, CgroupError> {
    // Where nothing can be enforced, whoever needs it says so.
    let Ok(probe) = probe(choice, parent) else { return Ok(Aside(None)) };
    match probe.hierarchies.as_slice() {
        [hierarchy] if hierarchy.step_aside => v2::step_aside(hierarchy).map(|aside| Aside(Some(aside))),
        _ => Ok(Aside(None)),
    }
}

impl Aside {
    /// Goes back once the others have ended; may be repeated after an error.
    pub fn back(&mut self) -> Vec<CgroupError> {
        self.0.as_mut().map(v2::StepAside::back).unwrap_or_default()
    }
}

impl GroupLimits {
    /// Zero is not "unlimited", and the kernel's rounding is no place to find out about nonsense.
    fn check(&self) -> Result<(), CgroupError> {
        let invalid = |what, value: String| Err(CgroupError::Invalid { what, value });
        if self.memory_bytes < 64 * 1024 {
            return invalid("memory limit (less than 64 KiB)", self.memory_bytes.to_string());
        }
        if self.processes == 0 {
            return invalid("limit of processes", self.processes.to_string());
        }
        match self.cpu_rate {
            Some(rate) if !(0.01..=4096.0).contains(&rate) => invalid("cpu rate", rate.to_string()),
            _ => Ok(()),
        }
    }

    /// `pids.max`: one more, for init.
    fn pids_max(&self) -> u64 {
        u64::from(self.processes) + 1
    }
}

/// Quotas are per period of 100 ms, the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

fn cpu_quota_us(rate: f64) -> u64 {
    (rate * CPU_PERIOD_US as f64).round() as u64
}

/// Cell names become directory names: no separators, no dot files.
fn check_cell_name(name: &str) -> Result<(), CgroupError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.bytes().all(allowed) {
        return Err(CgroupError::Invalid { what: "cell name", value: name.to_owned() });
    }
    Ok(())
}

/// What /proc tells us about our own place.
struct View {
    mounts: Vec<CgroupMount>,
    memberships: Vec<Membership>,
}

impl View {
    fn read() -> Result<View, CgroupError> {
        Ok(View {
            mounts: mounts::parse_mountinfo(&read_proc("/proc/self/mountinfo")?),
            memberships: mounts::parse_memberships(&read_proc("/proc/self/cgroup")?),
        })
    }

    /// Our own group of a controller ("" for v2).
    fn own_group(&self, controller: &str) -> Option<&str> {
        mounts::membership(&self.memberships, controller)
    }
}

/// The groups of a living process. On the path of a run, so one read into the stack.
fn memberships_of(pid: i32) -> Result<Vec<Membership>, CgroupError> {
    let path = format!("/proc/{pid}/cgroup");
    let mut bytes = [0; 4096];
    let read = fault::check("cgroup.read", "membership").and_then(|()| {
        let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::read(&fd, &mut bytes)
    });
    let length = read.map_err(|errno| dir::kernel(Verb::Read, path.clone().into(), None, errno))?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    // A cut line could be taken for another group.
    if length == bytes.len() {
        return Err(CgroupError::Unexpected { path: path.into(), content: text.into_owned() });
    }
    Ok(mounts::parse_memberships(&text))
}

fn read_proc(path: &str) -> Result<String, CgroupError> {
    let read = std::fs::File::open(path).and_then(|mut file| {
        // Nobody can know the size: with room for it, it is read at once rather than 32 bytes at first.
        let mut text = String::with_capacity(16 << 10);
        std::io::Read::read_to_string(&mut file, &mut text).map(|_| text)
    });
    read.map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        dir::kernel(Verb::Read, path.into(), None, errno)
    })
}

/// `/` + `sandboxd.7` without a double slash.
fn child_group(group: &str, name: &str) -> String {
    format!("{}/{name}", group.trim_end_matches('/'))
}

fn neither(first: &CgroupError, second: &CgroupError) -> CgroupError {
    let mut remedies: Vec<_> = [first, second].iter().filter_map(|error| error.hint()).collect();
    remedies.dedup();
    let what = format!("cgroups cannot be enforced here: {}; {}", chain(first), chain(second));
    CgroupError::Unavailable { what, remedy: remedies.join("; or ") }
}

impl Kind {
    /// The word used in configuration, verdicts and `check`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::V2 => "v2",
            Kind::Hybrid => "hybrid",
            Kind::None => "none",
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cgroups: {}", self.kind.as_str())?;
        for hierarchy in &self.hierarchies {
            writeln!(f, "  {}: under {}", hierarchy.controllers.join(","), hierarchy.directory.display())?;
        }
        for missing in &self.missing {
            writeln!(f, "  missing: {} (remedy: {})", missing.what, missing.remedy)?;
        }
        Ok(())
    }
}
