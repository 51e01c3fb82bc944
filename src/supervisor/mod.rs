//! The supervisor: makes cells, watches them, destroys them.
//!
//! One thread, because a clone copies the whole process and is safe only when no other thread can hold a lock, and
//! because stepping into a stage changes the file system root of all threads at once. It parses nothing that came from
//! a network and touches no byte of output. `sandboxd run` holds the same code in its own process.

pub mod client;
pub mod files;
mod pool;
pub mod protocol;
pub mod server;
mod watch;

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sched::CloneFlags;

pub use pool::{Ahead, PoolSize};
pub use watch::Watch;

use self::pool::Pool;
use crate::plan::{CellPlan, Seccomp, WORKDIR};
use crate::sandbox::cell::{Cell, CellError, IdRange, StepFailure, Workshop};
use crate::sandbox::cgroup::{self, Backend, CgroupError};
use crate::sandbox::network::Networks;
use crate::sandbox::seccomp::{Denial, Policy, Program};
use crate::sandbox::stage::{ImageSource, Stage, StageError};
use crate::sandbox::start::{Start, StartFile};
use crate::sandbox::sys::Heap;
use crate::words::host::{Host, Privilege};

/// The signals that a program may be sent on behalf of its author: those that a terminal or a shell would send.
pub const PAYLOAD_SIGNALS: [i32; 13] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGKILL,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGTSTP,
    libc::SIGWINCH,
];

/// Makes cells on this machine.
pub struct Supervisor {
    host: Host,
    ids: IdRange,
    heap: Option<Heap>,
    cgroups: Box<dyn Backend>,
    stages: HashMap<String, Stage>,
    programs: Vec<(Seccomp, Arc<Program>)>,
    networks: Networks,
    cells_made: u64,
    pool: Pool,
    /// True when no more than one cell will be made.
    one_cell: bool,
    /// True when nothing is left of the cgroups.
    closed: bool,
}

/// The supervisor itself could not start.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("failed to {step}: {}", crate::words::verdict::errno_text(*.errno as i32))]
    Setup { step: &'static str, errno: Errno },
}

impl Supervisor {
    /// Takes over cell making for this process: opens the cgroup parent and lets go of supplementary groups.
    ///
    /// As an ordinary user it first makes a user namespace of its own, in which it may do what follows.
    ///
    /// # Errors
    /// No place for cgroups, or the kernel allows no user namespace.
    pub fn open(host: &Host, cgroup: &cgroup::Probe) -> Result<Supervisor, SupervisorError> {
        // Opened before the user namespace is made: what the user may do to cgroups is decided by who they were.
        let mut cgroups = cgroup::open(cgroup, std::process::id())?;
        let (ids, heap, networks) = settle(host).inspect_err(|_| {
            for error in cgroups.close() {
                tracing::error!(%error, "left over");
            }
        })?;
        Ok(Supervisor {
            host: host.clone(),
            ids,
            heap,
            cgroups,
            stages: HashMap::new(),
            programs: Vec::new(),
            networks,
            cells_made: 0,
            pool: Pool::new(PoolSize::default()),
            one_cell: false,
            closed: false,
        })
    }

    /// Promises that no more than one cell will be made, which then costs less; a second one is refused where it does.
    pub fn expect_one_cell(&mut self) {
        self.one_cell = true;
        self.cgroups.expect_one_cell();
    }

    /// Makes now one part of the next cell that takes long; to be called when there is nothing else to do. False when
    /// all of them are made.
    pub fn prepare_part_ahead(&mut self) -> bool {
        // What fails is tried again by the next cell, which fails of it if it must.
        let network = self.networks.make_spare().unwrap_or_else(|errno| {
            tracing::debug!(%errno, "no network namespace was made ahead");
            false
        });
        network
            || self.cgroups.prepare_ahead().unwrap_or_else(|error| {
                tracing::debug!(%error, "no cgroup was made ahead");
                false
            })
    }

    /// Takes over a network namespace for the next cell, made by [`crate::sandbox::network::make_aside`].
    pub fn provide_network(&mut self, network: OwnedFd) {
        self.networks.provide(network);
    }

    /// Whether cells can be made from image `name` already.
    pub fn is_staged(&self, name: &str) -> bool {
        self.stages.contains_key(name)
    }

    /// Makes image `name` available to cells.
    ///
    /// # Errors
    /// What could not be mounted.
    pub fn stage(&mut self, name: &str, source: &ImageSource) -> Result<(), StageError> {
        let stage = Stage::build(source, self.host.privilege, self.host.overlay)?;
        self.provide_stage(name, stage);
        Ok(())
    }

    /// Makes image `name` available to cells, by a stage that was built already.
    pub fn provide_stage(&mut self, name: &str, stage: Stage) {
        // Cells of an earlier image of this name must not be used any more.
        self.pool.forget(name);
        self.stages.insert(name.to_owned(), stage);
    }

    /// A fresh cell under `plan`, whose image must be staged: one that was prepared ahead, or a new one.
    ///
    /// # Errors
    /// The step that failed; nothing of the cell is left.
    pub fn prepare(&mut self, plan: &CellPlan) -> Result<Cell, CellError> {
        if let Some(mut cell) = self.pool.take(plan) {
            match cell.adapt(plan) {
                Ok(()) => return Ok(cell),
                Err(error) => tracing::warn!(%error, "a cell prepared ahead could not be given its limits"),
            }
        }
        self.make(plan)
    }

    /// Makes a cell.
    fn make(&mut self, plan: &CellPlan) -> Result<Cell, CellError> {
        let seccomp = plan.seccomp.as_ref().map(|seccomp| self.program(seccomp)).transpose()?;
        let stage = self.stages.get(&plan.rootfs).ok_or_else(|| {
            CellError::new("clone_init", StepFailure::Message(format!("image {} is not staged", plan.rootfs)))
        })?;
        self.cells_made += 1;
        let name = format!("cell-{}", self.cells_made);
        let mut workshop = Workshop {
            stage,
            networks: &mut self.networks,
            cgroups: &mut *self.cgroups,
            seccomp: seccomp.as_deref(),
            ids: self.ids,
            heap: self.heap.as_ref(),
        };
        let cell = Cell::prepare(plan, &name, &mut workshop)?;
        if self.one_cell {
            // Taken apart now, while the cell goes on preparing itself, rather than when the run's end is waited for.
            self.stages.remove(&plan.rootfs);
        }
        Ok(cell)
    }

    /// The compiled filter of a plan; each distinct policy is compiled once.
    fn program(&mut self, wanted: &Seccomp) -> Result<Arc<Program>, CellError> {
        if let Some((_, program)) = self.programs.iter().find(|(known, _)| known == wanted) {
            return Ok(Arc::clone(program));
        }
        let policy = Policy::embedded()
            .with(&wanted.additions)
            .map_err(|error| CellError::new("install_seccomp", StepFailure::Message(error.to_string())))?;
        let program = Arc::new(policy.compile(if wanted.notify { Denial::Notify } else { Denial::Errno }));
        self.programs.push((wanted.clone(), Arc::clone(&program)));
        Ok(program)
    }

    /// What was left over by supervisors that died, and is swept now.
    pub fn swept(&self) -> &cgroup::Swept {
        self.cgroups.swept()
    }

    /// Removes the supervisor's own cgroups, at the second attempt if need be; reports everything that could not be.
    pub fn close(mut self) -> Vec<CgroupError> {
        self.pool.clear();
        let mut errors = self.cgroups.close();
        if !errors.is_empty() {
            errors = self.cgroups.close();
        }
        self.closed = errors.is_empty();
        errors
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.pool.clear();
        if self.closed {
            return;
        }
        for error in self.cgroups.close() {
            tracing::error!(%error, "left over");
        }
    }
}

/// Puts this process where it can make cells from: the ids they may have, what they get no copy of, and its own network
/// namespace.
fn settle(host: &Host) -> Result<(IdRange, Option<Heap>, Networks), SupervisorError> {
    let setup = |step| move |errno| SupervisorError::Setup { step, errno };
    let ids = match host.privilege {
        Privilege::Root => {
            // The system call itself: libc's would wait for a thread that makes something ahead.
            rustix::thread::set_thread_groups(&[])
                .map_err(|errno| Errno::from_raw(errno.raw_os_error()))
                .map_err(setup("let go of supplementary groups"))?;
            crate::sandbox::probe::id_range().map_err(setup("read /proc/self/uid_map"))?
        }
        Privilege::Rootless => {
            enter_user_namespace().map_err(setup("make a user namespace as an ordinary user"))?;
            IdRange { first: 0, count: 1 }
        }
    };
    let heap = Heap::find().map_err(setup("find the heap"))?;
    Ok((ids, heap, Networks::open().map_err(setup("open the network namespace"))?))
}

/// A user namespace in which this process is root and may make mounts and further namespaces; with network and mount
/// namespaces that belong to it, since it could not return to the machine's own from those it makes for cells.
fn enter_user_namespace() -> Result<(), Errno> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    for (file, content) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
    {
        let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        std::fs::write(format!("/proc/self/{file}"), content).map_err(errno)?;
    }
    Ok(())
}

/// The start message of a cell under `plan` whose files are those of `table`: name, permission bits and size of each.
pub fn start_of(plan: &CellPlan, table: &[(CString, u32, u64)]) -> Start {
    Start {
        workdir: CString::new(WORKDIR).unwrap_or_default(),
        candidates: plan.command.candidates.clone(),
        arguments: plan.command.arguments.clone(),
        environment: plan.command.environment.clone(),
        rlimits: plan.rlimits.iter().map(|rlimit| (rlimit.resource, rlimit.value)).collect(),
        files: table
            .iter()
            .map(|(name, mode, bytes)| StartFile { name: name.clone(), mode: *mode, bytes: *bytes })
            .collect(),
    }
}
