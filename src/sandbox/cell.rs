//! A cell: one fresh sandbox, used for exactly one run and then destroyed.
//!
//! ```text
//! prepare --> prepared --start--> running --payload ends or is killed--> drained --finish--> gone
//! ```
//! Preparing and starting are two calls, because a prepared cell holds nothing of any run and can wait in a pool.
//! They are also two messages that the cell reads one after the other, so that a caller in a hurry sends both at once.
//! Whatever fails on the way, and whenever a [`Cell`] is dropped, init is killed, reaped, and its cgroup removed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::cgroup::{Backend, CellGroup, CgroupError, GroupLimits, Join, Usage};
use super::child::{ARENA_BYTES, ChildImage, run_init};
use super::network::Networks;
use super::report::{REPORT_BYTES, Report};
use super::seccomp::Program;
use super::sequence::{Act, SEQUENCE};
use super::stage::{Overlay, Stage};
use super::start::Start;
use super::sys::{self, Arena, Child, Heap};
use super::{init, landlock, message, signal};
use crate::plan::{CellPlan, Scratch};

/// Longest wait for a cell that is being prepared: it takes a millisecond or two.
const PREPARE_TIME_MAX: Duration = Duration::from_secs(1);

/// Why a step of the supervisor failed: an errno, or what a layer below says.
#[derive(Debug, thiserror::Error)]
pub enum StepFailure {
    #[error("{}", crate::words::verdict::errno_text(*.0 as i32))]
    Errno(Errno),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{what}: {}", crate::words::verdict::errno_text(*.errno as i32))]
    File { what: String, errno: Errno },
    #[error("{0}")]
    Message(String),
}

impl From<Errno> for StepFailure {
    fn from(errno: Errno) -> StepFailure {
        StepFailure::Errno(errno)
    }
}

/// A cell that could not be made or started: the step of the sequence, and why.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {failure}")]
pub struct CellError {
    pub step: &'static str,
    #[source]
    pub failure: StepFailure,
}

impl CellError {
    pub fn new(step: &'static str, failure: impl Into<StepFailure>) -> CellError {
        CellError { step, failure: failure.into() }
    }

    /// The failure that a report of init names.
    pub fn of_report(step: u8, errno: i32) -> CellError {
        let name = SEQUENCE.get(usize::from(step)).map_or("unknown_step", |step| step.name);
        CellError::new(name, Errno::from_raw(errno))
    }

    /// The errno behind the failure, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match &self.failure {
            StepFailure::Errno(errno) => Some(*errno),
            StepFailure::Io(error) => error.raw_os_error().map(Errno::from_raw),
            StepFailure::Cgroup(error) => error.errno().map(|errno| Errno::from_raw(errno.raw_os_error())),
            StepFailure::File { errno, .. } => Some(*errno),
            StepFailure::Message(_) => None,
        }
    }
}

/// Ids of the parent user namespace that cells may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    pub first: u32,
    pub count: u32,
}

/// What making cells needs beside a plan; one per supervisor.
pub struct Workshop<'a> {
    pub stage: &'a Stage,
    pub networks: &'a mut Networks,
    pub cgroups: &'a mut dyn Backend,
    pub seccomp: Option<&'a Program>,
    pub ids: IdRange,
    /// The heap of this process, which no cell gets a copy of.
    pub heap: Option<&'a Heap>,
}

/// A cell under way; the supervisor's steps of the sequence fill it in, one after the other.
pub struct Preparation<'a, 'b> {
    plan: &'a CellPlan,
    workshop: &'a mut Workshop<'b>,
    name: &'a str,
    image: ChildImage<'a>,
    control: Option<(OwnedFd, OwnedFd)>,
    group: Option<Box<dyn CellGroup>>,
    ruleset: Option<OwnedFd>,
    network: Option<OwnedFd>,
    child: Option<Child>,
}

/// A prepared or running cell.
pub struct Cell {
    child: Child,
    control: OwnedFd,
    group: Option<Box<dyn CellGroup>>,
    /// What the cell was made with, or has been given since.
    limits: GroupLimits,
    scratch: Vec<Scratch>,
    /// Reports read while something else was waited for.
    early: VecDeque<(Report, Option<OwnedFd>)>,
    reaped: bool,
}

impl Cell {
    /// Performs the supervisor's steps; init goes on by itself and reports when it is prepared.
    ///
    /// # Errors
    /// The step that failed. Nothing of the cell is left then.
    pub fn prepare(plan: &CellPlan, name: &str, workshop: &mut Workshop) -> Result<Cell, CellError> {
        let no_room = |errno| CellError::new("clone_init", errno);
        let arena = Arena::new(ARENA_BYTES).map_err(no_room)?;
        let mut preparation = Preparation {
            image: image_of(plan, workshop, &arena).map_err(no_room)?,
            plan,
            workshop,
            name,
            control: None,
            group: None,
            ruleset: None,
            network: None,
            child: None,
        };
        for step in SEQUENCE.iter().filter(|step| step.applies(plan)) {
            let Act::Supervisor(act) = step.act else { continue };
            let started = sys::monotonic_ns();
            let result = step.fault().map_err(StepFailure::from).and_then(|()| act(&mut preparation));
            trace_time("supervisor", step.name, sys::monotonic_ns() - started);
            if let Err(failure) = result {
                let reported = preparation.control.as_ref().and_then(|(control, _)| reported_failure(control.as_fd()));
                preparation.undo();
                return Err(reported.unwrap_or(CellError { step: step.name, failure }));
            }
        }
        let Preparation { control, group, child, .. } = preparation;
        match (control, child) {
            (Some((control, _)), Some(child)) => Ok(Cell {
                child,
                control,
                group,
                limits: group_limits(plan),
                scratch: plan.scratch.clone(),
                early: VecDeque::new(),
                reaped: false,
            }),
            _ => Err(CellError::new("clone_init", Errno::EINVAL)),
        }
    }

    /// Gives the cell, not yet started, the sizes that `plan` has: memory, processes, CPU rate and scratch places. In
    /// everything else that matters before the start, `plan` must agree with the one the cell was prepared under.
    ///
    /// # Errors
    /// The cgroup's limits could not be set; the cell is of no use then.
    pub fn adapt(&mut self, plan: &CellPlan) -> Result<(), CellError> {
        let limits = group_limits(plan);
        if limits != self.limits {
            if let Some(group) = &mut self.group {
                group.limit(&limits).map_err(|error| CellError::new("create_cgroup", error))?;
            }
            self.limits = limits;
        }
        if plan.scratch != self.scratch {
            self.wait_until_prepared()?;
            for scratch in plan.scratch.iter().filter(|scratch| !self.scratch.contains(scratch)) {
                resize_scratch(self.child.pid, scratch).map_err(|errno| CellError::new("mount_scratch", errno))?;
            }
            self.scratch = plan.scratch.clone();
        }
        Ok(())
    }

    /// Waits for the report of a cell that was prepared a moment ago; one that has lain on a shelf has made it.
    fn wait_until_prepared(&mut self) -> Result<(), CellError> {
        let deadline = Instant::now() + PREPARE_TIME_MAX;
        let failed = |errno| CellError::new("report_prepared", errno);
        loop {
            if let Some((Report::Failed { step, errno }, _)) = self.early.back() {
                return Err(CellError::of_report(*step, *errno));
            }
            if matches!(self.early.back(), Some((Report::Prepared, _))) {
                return Ok(());
            }
            match next_report(self.control.as_fd()).map_err(failed)? {
                Some(report) => self.early.push_back(report),
                None => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let mut events = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
                    match poll(&mut events, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                        Ok(0) => return Err(failed(Errno::ETIMEDOUT)),
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(errno) => return Err(failed(errno)),
                    }
                }
            }
        }
    }

    /// False once init has ended, by whatever cause: with it the cell is dead.
    pub fn is_alive(&self) -> bool {
        !signal::has_ended(self.pidfd())
    }

    /// Sends `signal` to the running payload and whatever it has started in its process group.
    ///
    /// # Errors
    /// ESRCH when the payload has ended, or has not begun.
    pub fn signal(&self, signal: i32) -> Result<(), Errno> {
        if self.reaped { Err(Errno::ESRCH) } else { signal::send(&self.child, signal) }
    }

    /// Gives the cell its program; `descriptors` are stdin, stdout, stderr and the bundle of file contents.
    ///
    /// # Errors
    /// The message is too long, or init is gone.
    pub fn start(&mut self, start: &Start, descriptors: &[BorrowedFd; 4]) -> Result<(), CellError> {
        let message = start.encode().map_err(|bytes| {
            let text =
                format!("the start message of {bytes} bytes is over the {} allowed", super::start::START_BYTES_MAX);
            CellError::new("receive_start", StepFailure::Message(text))
        })?;
        message::send(self.control.as_fd(), &message, descriptors).map_err(|errno| {
            reported_failure(self.control.as_fd()).unwrap_or_else(|| CellError::new("receive_start", errno))
        })
    }

    /// Becomes readable when init has something to report.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Becomes readable when init, and with it everything in the cell, is dead.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// Becomes readable when the kernel's out-of-memory killer acted, where that must be watched for.
    pub fn oom_event(&self) -> Option<BorrowedFd<'_>> {
        self.group.as_ref().and_then(|group| group.oom_event())
    }

    /// init's process id in the supervisor's namespace.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// The next report, without waiting, with the descriptor that came with it; `None` when there is none now.
    ///
    /// # Errors
    /// ENOTCONN once init has hung up; EBADMSG for what is no report.
    pub fn next_report(&mut self) -> Result<Option<(Report, Option<OwnedFd>)>, Errno> {
        match self.early.pop_front() {
            Some(report) => Ok(Some(report)),
            None => next_report(self.control.as_fd()),
        }
    }

    /// CPU time of the whole cell up to now.
    pub fn cpu_time(&self) -> Result<Duration, CgroupError> {
        self.group.as_ref().map_or(Ok(Duration::ZERO), |group| group.cpu_time())
    }

    /// What the whole cell used up to now.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        let began = sys::monotonic_ns();
        let usage = self.group.as_ref().map_or(Ok(Usage::default()), |group| group.usage());
        trace_time("supervisor", "read_usage", sys::monotonic_ns() - began);
        usage
    }

    /// True when nothing but init is known to be left of the cell: what it used can change no more.
    pub fn is_over(&self) -> bool {
        let processes = self.group.as_ref().map(|group| group.processes());
        matches!(processes, Some(Ok(Some(0 | 1))))
    }

    /// Processes the kernel killed for memory up to now.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        self.group.as_ref().map_or(Ok(0), |group| group.oom_kills())
    }

    /// Kills everything in the cell. Its death shows on [`Cell::pidfd`].
    pub fn kill(&self) {
        // ESRCH, the only error left once the pidfd is ours, means that it is dead already.
        let _dead = rustix::process::pidfd_send_signal(&self.child.pidfd, rustix::process::Signal::KILL);
    }

    /// The most memory the cell has held, as far as the backend knows now.
    pub fn memory_peak_bytes(&self) -> u64 {
        self.group.as_ref().and_then(|group| group.usage().ok()).map_or(0, |usage| usage.memory_peak_bytes)
    }

    /// Kills what still runs and waits until it is gone. What it used can be asked for until [`Cell::finish`].
    pub fn end(&mut self) {
        if self.reaped {
            return;
        }
        let began = sys::monotonic_ns();
        self.kill();
        reap(&self.child);
        self.reaped = true;
        trace_time("supervisor", "reap_init", sys::monotonic_ns() - began);
    }

    /// Destroys the cell, killing what still runs; every error of the cleanup. A second call finds nothing left to do.
    pub fn finish(&mut self) -> Vec<CgroupError> {
        self.end();
        let Some(group) = self.group.take() else { return Vec::new() };
        let began = sys::monotonic_ns();
        let errors = group.remove();
        trace_time("supervisor", "remove_cgroup", sys::monotonic_ns() - began);
        errors
    }
}

/// One line of the trace: who performed which step, and how long it took.
pub fn trace_time(actor: &'static str, step: &'static str, nanoseconds: u64) {
    tracing::trace!(actor, step, microseconds = nanoseconds as f64 / 1000.0, "performed");
}

impl Drop for Cell {
    fn drop(&mut self) {
        for error in self.finish() {
            tracing::error!(%error, "a dropped cell was not cleaned up");
        }
    }
}

fn next_report(control: BorrowedFd) -> Result<Option<(Report, Option<OwnedFd>)>, Errno> {
    let mut bytes = [0; REPORT_BYTES];
    loop {
        match message::receive(control, &mut bytes, rustix::net::RecvFlags::DONTWAIT) {
            Err(Errno::EAGAIN) => return Ok(None),
            // init ended without having read all that it was sent. Told once, ahead of the reports that it sent before.
            Err(Errno::ECONNRESET) => {}
            Err(errno) => return Err(errno),
            Ok((0, _)) => return Err(Errno::ENOTCONN),
            Ok((length, [descriptor, ..])) => {
                let report = bytes.get(..length).and_then(Report::decode).ok_or(Errno::EBADMSG)?;
                return Ok(Some((report, descriptor)));
            }
        }
    }
}

/// What init says it failed of: then a supervisor's step that fails because init is gone is not the one to name.
fn reported_failure(control: BorrowedFd) -> Option<CellError> {
    while let Ok(Some((report, _))) = next_report(control) {
        if let Report::Failed { step, errno } = report {
            return Some(CellError::of_report(step, errno));
        }
    }
    None
}

/// Gives a scratch place of the cell of `init`, in which nothing has been written yet, another size.
fn resize_scratch(init: i32, scratch: &Scratch) -> Result<(), Errno> {
    use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fsconfig_set_string, fspick};
    // init is not reaped, so the number is its own; and nothing of the run is in the cell that could lead the path astray.
    let path = format!("/proc/{init}/root{}", scratch.target);
    let resize = || {
        let filesystem = fspick(rustix::fs::CWD, path, FsPickFlags::FSPICK_CLOEXEC)?;
        fsconfig_set_string(&filesystem, "size", scratch.bytes.to_string())?;
        fsconfig_set_string(&filesystem, "nr_inodes", scratch.inodes.to_string())?;
        fsconfig_reconfigure(&filesystem)
    };
    resize().map_err(message::errno)
}

/// Waits for init; it is a PID 1, so its end is the end of every process of the cell.
fn reap(child: &Child) {
    while let Err(Errno::EINTR) = waitid(Id::PIDFd(child.pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::__WALL) {}
}

impl Preparation<'_, '_> {
    /// Takes back what the steps up to now have made.
    fn undo(&mut self) {
        if let Some(child) = self.child.take() {
            let _dead = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
            reap(&child);
        }
        if let Some(group) = self.group.take() {
            for error in group.remove() {
                tracing::error!(%error, "a failed cell's cgroup was not removed");
            }
        }
    }
}

/// The memory of init and payload under `plan`, before any descriptor exists.
fn image_of<'a>(plan: &CellPlan, workshop: &Workshop, arena: &'a Arena) -> Result<ChildImage<'a>, Errno> {
    let mut image = ChildImage::new(arena)?;
    for (index, step) in SEQUENCE.iter().enumerate() {
        if step.applies(plan) {
            image.enabled |= 1 << index;
        }
    }
    image.init_id = plan.identity.init;
    image.payload_id = plan.identity.payload;
    image.hostname = arena.c_string(plan.hostname)?;
    let scratch = |scratch: &Scratch| {
        let Scratch { target, bytes, inodes, mode } = scratch;
        // The payload's, which a test's control may leave as init's.
        let id = if plan.leaves_out("become_payload_user") { plan.identity.init } else { plan.identity.payload };
        let options = format!("size={bytes},nr_inodes={inodes},mode={mode:o},uid={id},gid={id}");
        Ok((arena.c_string(target.trim_start_matches('/'))?, arena.c_string(&options)?))
    };
    image.scratch = list(arena, plan.scratch.iter().map(scratch))?;
    if let Some(plan) = &plan.landlock {
        let rule = |(path, access): &(&str, _)| Ok((arena.c_string(path)?, landlock::access_bits(*access, plan.abi)));
        image.landlock_rules = list(arena, plan.rules.iter().map(rule))?;
    }
    image.seccomp_notify = plan.seccomp.as_ref().is_some_and(|seccomp| seccomp.notify);
    image.seccomp = workshop.seccomp.map(|program| arena.copy(program.instructions())).transpose()?;
    let overlay = |overlay: &Overlay| Ok((arena.c_string(&overlay.target)?, arena.c_string(&overlay.options())?));
    image.overlays = list(arena, workshop.stage.overlays().iter().map(overlay))?;
    image.speculation_store_bypass = plan.speculation_store_bypass;
    image.speculation_indirect_branch = plan.speculation_indirect_branch;
    image.timed = tracing::enabled!(tracing::Level::TRACE);
    Ok(image)
}

fn list<T: Copy>(arena: &Arena, items: impl Iterator<Item = Result<T, Errno>>) -> Result<&[T], Errno> {
    arena.copy(&items.collect::<Result<Vec<_>, _>>()?)
}

/// What a plan's limits mean for the cgroup.
fn group_limits(plan: &CellPlan) -> GroupLimits {
    let limits = &plan.limits;
    GroupLimits { memory_bytes: limits.memory_bytes, processes: limits.processes, cpu_rate: Some(limits.cpu_rate) }
}

type StepResult = Result<(), StepFailure>;

pub(super) fn create_control_socket(preparation: &mut Preparation) -> StepResult {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    preparation.image.control = pair.1.as_raw_fd();
    preparation.image.kept.push(pair.1.as_raw_fd())?;
    preparation.control = Some(pair);
    Ok(())
}

pub(super) fn create_cgroup(preparation: &mut Preparation) -> StepResult {
    let limits = group_limits(preparation.plan);
    let group = preparation.workshop.cgroups.create_cell(preparation.name, &limits)?;
    if let Join::Tasks(tasks) = group.join() {
        for tasks in tasks {
            preparation.image.tasks.push(tasks.as_raw_fd())?;
            preparation.image.kept.push(tasks.as_raw_fd())?;
        }
    }
    preparation.group = Some(group);
    Ok(())
}

pub(super) fn create_landlock_ruleset(preparation: &mut Preparation) -> StepResult {
    let Some(plan) = &preparation.plan.landlock else { return Ok(()) };
    let ruleset = landlock::ruleset(plan.abi)?;
    preparation.image.landlock = ruleset.as_raw_fd();
    preparation.image.kept.push(ruleset.as_raw_fd())?;
    preparation.ruleset = Some(ruleset);
    Ok(())
}

pub(super) fn take_network(preparation: &mut Preparation) -> StepResult {
    preparation.network = Some(preparation.workshop.networks.take()?);
    Ok(())
}

pub(super) fn clone_init(preparation: &mut Preparation) -> StepResult {
    let Preparation { plan, workshop, image, group, network, child, .. } = preparation;
    image.kept.sort();
    let flags = plan.namespaces.iter().map(|name| namespace_flag(name)).fold(0, |all, flag| all | flag);
    let cgroup = match group.as_ref().map(|group| group.join()) {
        Some(Join::AtClone(directory)) => Some(directory),
        _ => None,
    };
    let mut clone = || workshop.stage.within(|| sys::clone_init(flags, cgroup, workshop.heap, || run_init(image)));
    let made = match network {
        Some(network) => workshop.networks.within(network, clone)?,
        None => clone()?,
    };
    let pid = made.pid;
    *child = Some(made);
    // What is left to do here takes as long as init's first steps.
    sys::move_process_elsewhere(pid)?;
    if let Some(group) = group {
        group.adopt(pid)?;
        // init has its own copies of what it joins by.
        group.joined();
    }
    Ok(())
}

/// The clone flag of a namespace. Two have none: init is cloned inside the network namespace taken for it, and makes
/// the cgroup namespace after it has joined its group.
fn namespace_flag(name: &str) -> u64 {
    let flag = match name {
        "user" => CloneFlags::CLONE_NEWUSER,
        "pid" => CloneFlags::CLONE_NEWPID,
        "mount" => CloneFlags::CLONE_NEWNS,
        "ipc" => CloneFlags::CLONE_NEWIPC,
        "uts" => CloneFlags::CLONE_NEWUTS,
        _ => CloneFlags::empty(),
    };
    flag.bits() as u64
}

pub(super) fn check_cgroup_membership(preparation: &mut Preparation) -> StepResult {
    match (&preparation.group, &preparation.child) {
        (Some(group), Some(child)) if group.contains(child.pid)? => Ok(()),
        _ => Err(StepFailure::Message("the cell's init is not in its cgroup".to_owned())),
    }
}

pub(super) fn write_id_maps(preparation: &mut Preparation) -> StepResult {
    let Some(child) = &preparation.child else { return Err(Errno::ESRCH.into()) };
    let (identity, ids) = (preparation.plan.identity, preparation.workshop.ids);
    let map = if identity.init == identity.payload {
        format!("{} {} 1\n", identity.payload, ids.first)
    } else {
        // Two ids of its own for each cell: process ids are unique among the living, so these are too.
        let first = ids.first + 2 * (child.pid as u32 % (ids.count / 2));
        format!("{} {} 1\n{} {} 1\n", identity.init, first, identity.payload, first + 1)
    };
    for (file, content) in [("setgroups", "deny"), ("gid_map", map.as_str()), ("uid_map", map.as_str())] {
        let path = format!("/proc/{}/{file}", child.pid);
        // One write each: the kernel takes a map whole or not at all.
        File::options().write(true).open(&path).and_then(|mut file| file.write_all(content.as_bytes())).map_err(
            |error| {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                StepFailure::File { what: format!("{file} {:?}", content.trim_end()), errno }
            },
        )?;
    }
    Ok(())
}

pub(super) fn release_init(preparation: &mut Preparation) -> StepResult {
    let Some((control, _)) = &preparation.control else { return Err(Errno::ENOTCONN.into()) };
    nix::unistd::write(control, &[init::GO])?;
    Ok(())
}
