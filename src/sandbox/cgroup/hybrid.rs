//! The controllers on v1 hierarchies: hybrid systemd machines, Fly machines, old hosts.
//!
//! One group per cell and hierarchy (the parent's own, where there will be one cell alone): memory, pids, cpuacct; cpu
//! only if a rate is asked (or it is co-mounted with cpuacct). `use_hierarchy` is taken for granted (always on since 5.11). An almost empty cgroup2 at `unified` is left
//! alone: a twin group there would buy `cgroup.kill` at the price of another mkdir and rmdir per run, and the death of
//! init kills a cell just as surely.

use super::dir::{Dir, kernel};
use super::error::{CgroupError, Verb};
use super::parent::{self, Parent, Swept};
use super::{
    Backend, CellGroup, GroupLimits, Hierarchy, Join, Kind, Missing, Probe, Usage, View, check_cell_name, child_group,
    cpu_quota_us, memberships_of, mounts,
};
use crate::sandbox::fault;
use cgroups_rs::{Cgroup, Subsystem, cpu, cpuacct, memory, pid};
use rustix::{event::EventfdFlags, fs::OFlags, io::Errno};
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpuacct", "cpu"];

pub(super) fn probe(view: &View, unified: bool, parent: Option<&str>) -> Result<Probe, CgroupError> {
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    let mut missing = Vec::new();
    for controller in CONTROLLERS {
        match place(view, controller, parent) {
            Ok((directory, group)) => match hierarchies.iter_mut().find(|known| known.directory == directory) {
                Some(known) => known.controllers.push(controller),
                None => hierarchies.push(Hierarchy {
                    controllers: vec![controller],
                    directory,
                    group,
                    enable: vec![],
                    step_aside: false,
                }),
            },
            Err(error @ CgroupError::Unavailable { .. }) if controller == "cpu" => {
                missing.push(Missing { what: format!("cpu rates: {error}"), remedy: error.hint().unwrap_or_default() })
            }
            Err(error) => return Err(error),
        }
    }
    let memory = hierarchies.iter().find(|hierarchy| hierarchy.controllers.contains(&"memory"));
    if let Some(memory) = memory
        && !Dir::open(&memory.directory, "memory")?.has("memory.memsw.limit_in_bytes")?
    {
        missing.push(Missing {
            what: "a limit of swap: swappiness 0 is set instead".into(),
            remedy: "boot with swapaccount=1, or without swap".into(),
        });
    }
    Ok(Probe { kind: Kind::Hybrid, unified, hierarchies, missing })
}

/// Where our groups go on the hierarchy of a controller: our own group, or the configured one.
fn place(view: &View, controller: &str, parent: Option<&str>) -> Result<(PathBuf, String), CgroupError> {
    let unavailable = |what: String, remedy: &str| CgroupError::Unavailable { what, remedy: remedy.to_owned() };
    let own = view.own_group(controller).ok_or_else(|| {
        let what = format!("the {controller} controller is on no v1 hierarchy");
        unavailable(what, "mount it under /sys/fs/cgroup, or boot with cgroup v2")
    })?;
    let group = parent.unwrap_or(own);
    let seen = |mount: &mounts::CgroupMount| mount.has(controller).then(|| mount.directory(group))?;
    // A later mount may lie on top of an earlier one at the same place.
    let mut found = None;
    for directory in view.mounts.iter().rev().filter_map(seen) {
        match rustix::fs::stat(&directory) {
            Ok(_) => {
                found = Some(directory);
                break;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(kernel(Verb::Open, directory, None, errno)),
        }
    }
    let directory = found.ok_or_else(|| {
        let what = format!("the {controller} group {group} is not to be seen in any mount");
        unavailable(what, "mount the v1 hierarchy writable into this container")
    })?;
    if rustix::fs::access(&directory, rustix::fs::Access::WRITE_OK).is_err() {
        let what = format!("{} is not writable", directory.display());
        return Err(unavailable(what, "run as root, with the cgroup mounts writable"));
    }
    Ok((directory, group.to_owned()))
}

pub(super) fn open(probe: &Probe, name: &str) -> Result<Box<dyn Backend>, CgroupError> {
    let mut swept = Swept::default();
    let mut parents = Vec::new();
    for hierarchy in &probe.hierarchies {
        let made = Dir::open(&hierarchy.directory, hierarchy.controllers[0]).and_then(|base| {
            parent::sweep(&base, &mut swept);
            Parent::create(base, name, |base, name| create_parent_group(base, name, hierarchy))
        });
        match made {
            Ok(parent) => parents.push(parent),
            Err(error) => return Err(error.with_cleanup(remove_all(&parents))),
        }
    }
    let index = |controller: &str| probe.hierarchies.iter().position(|it| it.controllers.contains(&controller));
    let required = |controller: &'static str| {
        index(controller)
            .ok_or_else(|| CgroupError::Invalid { what: "probe without controller", value: controller.into() })
    };
    let roles = (|| Ok((required("memory")?, required("pids")?, required("cpuacct")?)))();
    let (memory, pids, cpuacct) = match roles {
        Ok(roles) => roles,
        Err(error) => return Err(CgroupError::with_cleanup(error, remove_all(&parents))),
    };
    let has = |role: usize, file| parents[role].group().has(file);
    let files = (|| {
        let limits_swap = has(memory, "memory.memsw.limit_in_bytes")?;
        Ok((limits_swap, has(memory, "memory.kmem.tcp.limit_in_bytes")?, has(pids, "pids.peak")?))
    })();
    let (limits_swap, limits_tcp, counts_peak) = match files {
        Ok(files) => files,
        Err(error) => return Err(CgroupError::with_cleanup(error, remove_all(&parents))),
    };
    let mut trees = Trees {
        memory,
        pids,
        cpuacct,
        cpu: index("cpu"),
        groups: probe.hierarchies.iter().map(|hierarchy| child_group(&hierarchy.group, name)).collect(),
        limits_swap,
        limits_tcp,
        counts_peak,
        oom_events: false,
        parents,
    };
    if let Err(error) = trees.prepare() {
        return Err(error.with_cleanup(remove_all(&trees.parents)));
    }
    Ok(Box::new(Hybrid { trees: Arc::new(trees), swept, spare: None, spares_made: 0, one_cell: None }))
}

/// Creates `sandboxd.<pid>` by cgroups-rs, with only our controllers and below our own group: its stock hierarchy
/// would make groups in all of v1, `name=systemd` included, at the root, out of the reach of the service's own limits.
/// The crate only logs a failed mkdir; the caller opens and locks the result, which tells.
fn create_parent_group(base: &Dir, name: &str, hierarchy: &Hierarchy) -> Result<(), CgroupError> {
    fault::check("cgroup.create", hierarchy.controllers[0]).map_err(|errno| base.error(Verb::Create, name, errno))?;
    // It would also take an existing group, which is somebody else's.
    if base.has(name)? {
        return Err(base.error(Verb::Create, name, Errno::EXIST));
    }
    let own = OwnHierarchy(hierarchy.clone());
    Cgroup::new(Box::new(own), name).map(drop).map_err(|error| CgroupError::Unavailable {
        what: format!("failed to create {}: {error}", hierarchy.directory.join(name).display()),
        remedy: "run as root, with the cgroup mounts writable".into(),
    })
}

/// cgroups-rs' view of one hierarchy, rooted at our own group.
#[derive(Debug)]
struct OwnHierarchy(Hierarchy);

impl cgroups_rs::Hierarchy for OwnHierarchy {
    fn subsystems(&self) -> Vec<Subsystem> {
        let root = || self.0.directory.clone();
        let subsystem = |controller: &&str| match *controller {
            "memory" => Some(Subsystem::Mem(memory::MemController::new(root(), false))),
            "pids" => Some(Subsystem::Pid(pid::PidController::new(root(), false))),
            "cpuacct" => Some(Subsystem::CpuAcct(cpuacct::CpuAcctController::new(root()))),
            "cpu" => Some(Subsystem::Cpu(cpu::CpuController::new(root(), false))),
            _ => None,
        };
        self.0.controllers.iter().filter_map(subsystem).collect()
    }

    fn root(&self) -> PathBuf {
        self.0.directory.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        Cgroup::load(Box::new(OwnHierarchy(self.0.clone())), "")
    }

    fn parent_control_group(&self, _path: &str) -> Cgroup {
        self.root_control_group()
    }

    fn v2(&self) -> bool {
        false
    }
}

fn remove_all(parents: &[Parent]) -> Vec<CgroupError> {
    parents.iter().flat_map(Parent::remove).collect()
}

#[derive(Debug)]
struct Hybrid {
    trees: Arc<Trees>,
    swept: Swept,
    /// Groups without limits yet, on every hierarchy, that wait for a cell.
    spare: Option<HybridCell>,
    spares_made: u64,
    /// Set when there will be one cell alone; true once it has been made.
    one_cell: Option<bool>,
}

/// Our parent groups, one per hierarchy, and which controller is where.
#[derive(Debug)]
struct Trees {
    parents: Vec<Parent>,
    /// The parent groups as /proc/PID/cgroup shows them.
    groups: Vec<String>,
    memory: usize,
    pids: usize,
    cpuacct: usize,
    cpu: Option<usize>,
    limits_swap: bool,
    limits_tcp: bool,
    counts_peak: bool,
    oom_events: bool,
}

impl Trees {
    /// v1 charges TCP buffers only where their own limit was set once, and setting the first such limit of the machine
    /// patches kernel code: done here once, so that a cell's is a plain write. OOM events are tried out here as well.
    fn prepare(&mut self) -> Result<(), CgroupError> {
        if self.limits_tcp {
            self.memory().write("", "memory.kmem.tcp.limit_in_bytes", "9223372036854771712")?;
        }
        self.oom_events = match watch_oom(self.memory(), "") {
            Ok(_event) => true,
            // This kernel has the file or the event no more; anything else is a fault.
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP)) => false,
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// Whether `limits` make sense and can be had here.
    fn check(&self, limits: &GroupLimits) -> Result<(), CgroupError> {
        limits.check()?;
        if limits.cpu_rate.is_some() && self.cpu.is_none() {
            return Err(CgroupError::Unavailable {
                what: "cpu rates need the cpu controller, which this host has not mounted".into(),
                remedy: "mount the v1 cpu hierarchy, or ask for no cpu rate".into(),
            });
        }
        Ok(())
    }

    fn memory(&self) -> &Dir {
        self.parents[self.memory].group()
    }

    fn pids(&self) -> &Dir {
        self.parents[self.pids].group()
    }

    fn cpuacct(&self) -> &Dir {
        self.parents[self.cpuacct].group()
    }
}

impl Backend for Hybrid {
    fn create_cell(&mut self, name: &str, limits: &GroupLimits) -> Result<Box<dyn CellGroup>, CgroupError> {
        check_cell_name(name)?;
        self.trees.check(limits)?;
        let mut cell = match (&mut self.one_cell, self.spare.take()) {
            (None, Some(spare)) => spare,
            (None, None) => HybridCell::create(&self.trees, name, limits.cpu_rate.and(self.trees.cpu))?,
            (Some(made @ false), _) => {
                *made = true;
                HybridCell::create(&self.trees, OWN_GROUPS, self.trees.cpu)?
            }
            // Its limits would be beneath those of the first one.
            (Some(true), _) => return Err(CgroupError::Invalid { what: "second cell of one", value: name.to_owned() }),
        };
        match cell.write_limits(limits) {
            Ok(()) => Ok(Box::new(cell)),
            Err(error) => Err(error.with_cleanup(cell.remove_groups())),
        }
    }

    fn prepare_ahead(&mut self) -> Result<bool, CgroupError> {
        if self.spare.is_some() || self.one_cell.is_some() {
            return Ok(false);
        }
        self.spares_made += 1;
        let name = format!("spare-{}", self.spares_made);
        self.spare = Some(HybridCell::create(&self.trees, &name, self.trees.cpu)?);
        Ok(true)
    }

    fn expect_one_cell(&mut self) {
        self.one_cell = Some(false);
    }

    fn kind(&self) -> Kind {
        Kind::Hybrid
    }

    fn swept(&self) -> &Swept {
        &self.swept
    }

    fn close(&mut self) -> Vec<CgroupError> {
        let mut errors = self.spare.take().map(|spare| spare.remove_groups()).unwrap_or_default();
        errors.extend(remove_all(&self.trees.parents));
        errors
    }
}

/// The name, relative to our parent groups, of these themselves.
const OWN_GROUPS: &str = "";

#[derive(Debug)]
struct HybridCell {
    trees: Arc<Trees>,
    name: String,
    /// The hierarchies on which the cell has a group.
    used: Vec<usize>,
    tasks: Vec<OwnedFd>,
    /// The limit of memory that was set last.
    memory_bytes: Option<u64>,
    oom_event: Option<OwnedFd>,
    /// Forks refused before `kill` forbade them all: those it refuses itself are no evidence against the payload.
    refused_before_kill: OnceLock<u64>,
}

impl HybridCell {
    /// Groups called `name`, without limits yet, and what a cell needs to join them.
    fn create(trees: &Arc<Trees>, name: &str, cpu: Option<usize>) -> Result<HybridCell, CgroupError> {
        let mut cell = HybridCell {
            trees: Arc::clone(trees),
            name: name.to_owned(),
            used: Vec::with_capacity(4),
            tasks: Vec::with_capacity(4),
            memory_bytes: None,
            oom_event: None,
            refused_before_kill: OnceLock::new(),
        };
        match cell.make_groups(cpu) {
            Ok(()) => Ok(cell),
            Err(error) => Err(error.with_cleanup(cell.remove_groups())),
        }
    }

    fn make_groups(&mut self, cpu: Option<usize>) -> Result<(), CgroupError> {
        let trees = Arc::clone(&self.trees);
        for tree in [trees.memory, trees.pids, trees.cpuacct].into_iter().chain(cpu) {
            if !self.used.contains(&tree) {
                if self.name != OWN_GROUPS {
                    trees.parents[tree].group().create(&self.name)?;
                }
                self.used.push(tree);
            }
        }
        if trees.oom_events {
            self.oom_event = Some(watch_oom(trees.memory(), &self.name)?);
        }
        for tree in &self.used {
            self.tasks.push(trees.parents[*tree].group().open_file(&self.name, "tasks", OFlags::WRONLY)?);
        }
        Ok(())
    }

    fn write_limits(&mut self, limits: &GroupLimits) -> Result<(), CgroupError> {
        let (trees, name) = (&self.trees, self.name.as_str());
        let memory_bytes = limits.memory_bytes.to_string();
        // memsw may never be below the limit of memory: at first it is without limit.
        let mut files = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
        if self.memory_bytes.is_some_and(|before| before < limits.memory_bytes) {
            files.reverse();
        }
        for file in files.into_iter().filter(|file| trees.limits_swap || !file.contains("memsw")) {
            trees.memory().write(name, file, &memory_bytes)?;
        }
        self.memory_bytes = Some(limits.memory_bytes);
        if !trees.limits_swap {
            trees.memory().write(name, "memory.swappiness", "0")?;
        }
        if trees.limits_tcp {
            trees.memory().write(name, "memory.kmem.tcp.limit_in_bytes", &memory_bytes)?;
        }
        trees.pids().write(name, "pids.max", &limits.pids_max().to_string())?;
        match (trees.cpu.filter(|tree| self.used.contains(tree)), limits.cpu_rate) {
            (Some(tree), rate) => {
                let quota = rate.map_or("-1".to_owned(), |rate| cpu_quota_us(rate).to_string());
                trees.parents[tree].group().write(name, "cpu.cfs_quota_us", &quota)
            }
            (None, None) => Ok(()),
            // It was made without, and no process can be moved into another now.
            (None, Some(rate)) => {
                Err(CgroupError::Invalid { what: "cpu rate for a group without cpu", value: rate.to_string() })
            }
        }
    }

    fn refused_forks(&self) -> Result<u64, CgroupError> {
        match self.refused_before_kill.get() {
            Some(refused) => Ok(*refused),
            None => self.trees.pids().read_keyed(&self.name, "pids.events", "max"),
        }
    }

    fn remove_groups(&self) -> Vec<CgroupError> {
        if self.name == OWN_GROUPS {
            // They go with the backend.
            return Vec::new();
        }
        let remove = |tree: &usize| self.trees.parents[*tree].group().remove(&self.name).err();
        self.used.iter().filter_map(remove).collect()
    }
}

impl CellGroup for HybridCell {
    fn join(&self) -> Join<'_> {
        Join::Tasks(&self.tasks)
    }

    fn limit(&mut self, limits: &GroupLimits) -> Result<(), CgroupError> {
        self.trees.check(limits)?;
        self.write_limits(limits)
    }

    fn joined(&mut self) {
        self.tasks = Vec::new();
    }

    fn contains(&self, pid: i32) -> Result<bool, CgroupError> {
        let memberships = memberships_of(pid)?;
        let cpu = self.trees.cpu.filter(|tree| self.used.contains(tree)).map(|tree| ("cpu", tree));
        let roles = [("memory", self.trees.memory), ("pids", self.trees.pids), ("cpuacct", self.trees.cpuacct)];
        let inside = |(controller, tree): (&str, usize)| {
            let group = mounts::membership(&memberships, controller);
            let below = group.and_then(|group| group.strip_prefix(self.trees.groups[tree].as_str()));
            match self.name.as_str() {
                OWN_GROUPS => below == Some(""),
                name => below.and_then(|below| below.strip_prefix('/')) == Some(name),
            }
        };
        Ok(roles.into_iter().chain(cpu).all(inside))
    }

    fn usage(&self) -> Result<Usage, CgroupError> {
        let (memory, pids) = (self.trees.memory(), self.trees.pids());
        let processes_peak = match self.trees.counts_peak {
            true => Some(pids.read_number(&self.name, "pids.peak")? as u32),
            false => None,
        };
        Ok(Usage {
            cpu_time: self.cpu_time()?,
            memory_peak_bytes: memory.read_number(&self.name, "memory.max_usage_in_bytes")?,
            processes_peak,
            oom_kills: self.oom_kills()?,
            process_limit_hits: self.refused_forks()?,
        })
    }

    fn cpu_time(&self) -> Result<Duration, CgroupError> {
        self.trees.cpuacct().read_number(&self.name, "cpuacct.usage").map(Duration::from_nanos)
    }

    fn processes(&self) -> Result<Option<u64>, CgroupError> {
        self.trees.pids().read_number(&self.name, "pids.current").map(Some)
    }

    fn oom_kills(&self) -> Result<u64, CgroupError> {
        self.trees.memory().read_keyed(&self.name, "memory.oom_control", "oom_kill")
    }

    fn oom_event(&self) -> Option<BorrowedFd<'_>> {
        self.oom_event.as_ref().map(AsFd::as_fd)
    }

    fn kill(&self) -> Result<(), CgroupError> {
        let _first_kill_counts = self.refused_before_kill.set(self.refused_forks()?);
        // No more forks first, or a fork bomb could outrun the signals.
        self.trees.pids().write(&self.name, "pids.max", "0")?;
        self.trees.pids().kill_listed(&self.name)
    }

    fn remove(self: Box<Self>) -> Vec<CgroupError> {
        self.remove_groups()
    }
}

/// An eventfd that the kernel signals when the group runs out of memory. Deprecated since 6.10 but there; the caller
/// has asked the parent group once whether this kernel still does it.
fn watch_oom(dir: &Dir, group: &str) -> Result<OwnedFd, CgroupError> {
    let control = dir.open_file(group, "memory.oom_control", OFlags::RDONLY)?;
    let event = fault::check("cgroup.notify", "memory")
        .and_then(|()| rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))
        .map_err(|errno| dir.error(Verb::Notify, group, errno))?;
    let request = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    dir.write(group, "cgroup.event_control", &request)?;
    Ok(event)
}
