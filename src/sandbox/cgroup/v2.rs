//! cgroup2 with real controllers: a delegated subtree, or the root of a container or virtual machine. `v2_place.rs`
//! has found where our groups go.
//!
//! Where we step aside, the controllers we enabled are disabled again at the end; those enabled at a root stay, for
//! others may have come to rely on them.

use super::dir::Dir;
use super::error::{CgroupError, Verb};
use super::parent::{self, PREFIX, Parent, Swept};
use super::{
    Backend, CPU_PERIOD_US, CellGroup, GroupLimits, Hierarchy, Join, Kind, Probe, Usage, check_cell_name, child_group,
    cpu_quota_us, memberships_of, mounts,
};
use rustix::io::Errno;
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

pub(super) const LABEL: &str = "v2";

/// Where our own processes go when they must step aside.
pub(super) const SUPERVISOR: &str = "sandboxd.supervisor";

pub(super) fn open(probe: &Probe, name: &str) -> Result<Box<dyn Backend>, CgroupError> {
    let [hierarchy] = probe.hierarchies.as_slice() else {
        return Err(CgroupError::Invalid { what: "v2 probe", value: format!("{:?}", probe.hierarchies) });
    };
    let base = Dir::open(&hierarchy.directory, LABEL)?;
    let mut swept = Swept::default();
    parent::sweep(&base, &mut swept);

    let mut aside = StepAside { base, moved: false, enabled: vec![] };
    let made = aside.go(hierarchy).and_then(|()| {
        let base = Dir::open(&hierarchy.directory, LABEL)?;
        let parent = Parent::create(base, name, Dir::create)?;
        match Tree::prepare(&parent, hierarchy) {
            Ok((limits_swap, counts_peak)) => Ok(Tree {
                group: child_group(&hierarchy.group, name),
                has_cpu: hierarchy.controllers.contains(&"cpu"),
                limits_swap,
                counts_peak,
                parent,
            }),
            Err(error) => Err(error.with_cleanup(parent.remove())),
        }
    });
    match made {
        Ok(tree) => Ok(Box::new(V2 { tree: Arc::new(tree), aside, swept })),
        Err(error) => Err(error.with_cleanup(aside.back())),
    }
}

/// Steps aside without making a group for cells.
pub(super) fn step_aside(hierarchy: &Hierarchy) -> Result<StepAside, CgroupError> {
    let mut aside = StepAside { base: Dir::open(&hierarchy.directory, LABEL)?, moved: false, enabled: vec![] };
    match aside.go(hierarchy) {
        Ok(()) => Ok(aside),
        Err(error) => Err(error.with_cleanup(aside.back())),
    }
}

/// Our own processes out of the way of the controllers, and back again.
#[derive(Debug)]
pub(super) struct StepAside {
    base: Dir,
    moved: bool,
    /// Controllers to be disabled again at the end.
    enabled: Vec<&'static str>,
}

impl StepAside {
    fn go(&mut self, hierarchy: &Hierarchy) -> Result<(), CgroupError> {
        if hierarchy.step_aside {
            debug_assert!(SUPERVISOR.starts_with(PREFIX));
            if !self.base.has(SUPERVISOR)? {
                self.base.create(SUPERVISOR)?;
            }
            self.moved = true;
            // At the start only: this write may wait for a grace period.
            self.base.write(SUPERVISOR, "cgroup.procs", "0")?;
        }
        if !hierarchy.enable.is_empty() {
            self.base.write("", "cgroup.subtree_control", &signed('+', &hierarchy.enable))?;
            if hierarchy.step_aside {
                self.enabled = hierarchy.enable.clone();
            }
        }
        Ok(())
    }

    /// Undoes it, unless other processes of the service have come to live there; may be repeated after an error.
    pub(super) fn back(&mut self) -> Vec<CgroupError> {
        let mut errors = Vec::new();
        if !self.moved {
            return errors;
        }
        match self.base.processes(SUPERVISOR) {
            Ok(processes) if processes.iter().any(|pid| *pid != std::process::id() as i32) => {
                return errors;
            }
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
        if !self.enabled.is_empty() {
            errors.extend(self.base.write("", "cgroup.subtree_control", &signed('-', &self.enabled)).err());
        }
        errors.extend(self.base.write("", "cgroup.procs", "0").err());
        errors.extend(self.base.remove(SUPERVISOR).err());
        self.moved = !errors.is_empty();
        errors
    }
}

/// `+memory +pids`
fn signed(sign: char, controllers: &[&str]) -> String {
    controllers.iter().map(|controller| format!("{sign}{controller}")).collect::<Vec<_>>().join(" ")
}

fn swap_is_on() -> Result<bool, CgroupError> {
    match super::read_proc("/proc/swaps") {
        // A line of headings, and one for each swap.
        Ok(swaps) => Ok(swaps.lines().count() > 1),
        // A kernel without swap.
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[derive(Debug)]
struct V2 {
    tree: Arc<Tree>,
    aside: StepAside,
    swept: Swept,
}

/// Our parent group and what its children can do.
#[derive(Debug)]
struct Tree {
    parent: Parent,
    /// The parent group as /proc/PID/cgroup shows it.
    group: String,
    has_cpu: bool,
    limits_swap: bool,
    counts_peak: bool,
}

impl Tree {
    /// Hands the controllers on to the cells; tells whether swap can be limited and processes have a peak.
    fn prepare(parent: &Parent, hierarchy: &Hierarchy) -> Result<(bool, bool), CgroupError> {
        let group = parent.group();
        group.write("", "cgroup.subtree_control", &signed('+', &hierarchy.controllers))?;
        let limits_swap = group.has("memory.swap.max")?;
        // Without the file there must be no swap either, or a cell could use far more than its limit.
        if !limits_swap && swap_is_on()? {
            return Err(CgroupError::Unavailable {
                what: "swap is on, but this kernel cannot limit it per cgroup".into(),
                remedy: "turn swap off, or boot with swapaccount=1".into(),
            });
        }
        for file in ["memory.oom.group", "memory.peak"] {
            if !group.has(file)? {
                return Err(group.error(Verb::Open, file, Errno::NOENT));
            }
        }
        Ok((limits_swap, group.has("pids.peak")?))
    }

    fn group(&self) -> &Dir {
        self.parent.group()
    }
}

impl Backend for V2 {
    fn create_cell(&mut self, name: &str, limits: &GroupLimits) -> Result<Box<dyn CellGroup>, CgroupError> {
        check_cell_name(name)?;
        check(&self.tree, limits)?;
        let group = self.tree.group();
        group.create(name)?;
        match limit(&self.tree, name, limits).and_then(|()| group.open_group_for_clone(name)) {
            Ok(directory) => Ok(Box::new(V2Cell { tree: Arc::clone(&self.tree), name: name.to_owned(), directory })),
            Err(error) => Err(error.with_cleanup(group.remove(name).err().into_iter().collect())),
        }
    }

    fn kind(&self) -> Kind {
        Kind::V2
    }

    fn swept(&self) -> &Swept {
        &self.swept
    }

    fn close(&mut self) -> Vec<CgroupError> {
        let mut errors = self.tree.parent.remove();
        errors.extend(self.aside.back());
        errors
    }
}

/// Whether `limits` make sense and can be had here.
fn check(tree: &Tree, limits: &GroupLimits) -> Result<(), CgroupError> {
    limits.check()?;
    if limits.cpu_rate.is_some() && !tree.has_cpu {
        return Err(CgroupError::Unavailable {
            what: "cpu rates need the cpu controller, which is not enabled for our groups".into(),
            remedy: "enable +cpu in the cgroup.subtree_control of the groups above, or ask for no cpu rate".into(),
        });
    }
    Ok(())
}

fn limit(tree: &Tree, name: &str, limits: &GroupLimits) -> Result<(), CgroupError> {
    let group = tree.group();
    group.write(name, "memory.max", &limits.memory_bytes.to_string())?;
    if tree.limits_swap {
        group.write(name, "memory.swap.max", "0")?;
    }
    group.write(name, "memory.oom.group", "1")?;
    group.write(name, "pids.max", &limits.pids_max().to_string())?;
    match limits.cpu_rate {
        Some(rate) => group.write(name, "cpu.max", &format!("{} {CPU_PERIOD_US}", cpu_quota_us(rate))),
        // What an earlier limit left must not go on.
        None if tree.has_cpu => group.write(name, "cpu.max", &format!("max {CPU_PERIOD_US}")),
        None => Ok(()),
    }
}

#[derive(Debug)]
struct V2Cell {
    tree: Arc<Tree>,
    name: String,
    directory: OwnedFd,
}

impl CellGroup for V2Cell {
    fn join(&self) -> Join<'_> {
        Join::AtClone(self.directory.as_fd())
    }

    fn limit(&mut self, limits: &GroupLimits) -> Result<(), CgroupError> {
        check(&self.tree, limits)?;
        limit(&self.tree, &self.name, limits)
    }

    fn contains(&self, pid: i32) -> Result<bool, CgroupError> {
        let memberships = memberships_of(pid)?;
        let below = mounts::membership(&memberships, "").and_then(|group| group.strip_prefix(self.tree.group.as_str()));
        Ok(below.and_then(|below| below.strip_prefix('/')) == Some(self.name.as_str()))
    }

    fn usage(&self) -> Result<Usage, CgroupError> {
        let group = self.tree.group();
        let processes_peak = match self.tree.counts_peak {
            true => Some(group.read_number(&self.name, "pids.peak")? as u32),
            false => None,
        };
        Ok(Usage {
            cpu_time: self.cpu_time()?,
            memory_peak_bytes: group.read_number(&self.name, "memory.peak")?,
            processes_peak,
            oom_kills: self.oom_kills()?,
            process_limit_hits: group.read_keyed(&self.name, "pids.events", "max")?,
        })
    }

    fn cpu_time(&self) -> Result<Duration, CgroupError> {
        self.tree.group().read_keyed(&self.name, "cpu.stat", "usage_usec").map(Duration::from_micros)
    }

    fn processes(&self) -> Result<Option<u64>, CgroupError> {
        self.tree.group().read_number(&self.name, "pids.current").map(Some)
    }

    fn oom_kills(&self) -> Result<u64, CgroupError> {
        self.tree.group().read_keyed(&self.name, "memory.events", "oom_kill")
    }

    fn oom_event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn kill(&self) -> Result<(), CgroupError> {
        let group = self.tree.group();
        match group.write(&self.name, "cgroup.kill", "1") {
            // Before 5.14.
            Err(error) if error.errno() == Some(Errno::NOENT) => group.kill_listed(&self.name),
            done => done,
        }
    }

    fn remove(self: Box<Self>) -> Vec<CgroupError> {
        self.tree.group().remove(&self.name).err().into_iter().collect()
    }
}
