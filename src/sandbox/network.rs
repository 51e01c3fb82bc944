//! Network namespaces: the dearest part of a cell, made ahead where there is time for it.
//!
//! A new one costs about as much as everything else of a clone together. It depends on nothing of a run, so it can be
//! made while the supervisor has nothing to do but wait. Each is used by one cell and never again; [`Networks::take`]
//! gives it away. It belongs to the supervisor's user namespace, not to the cell's: a payload that gained every
//! capability of its cell could still configure nothing in it.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;

/// The supervisor's own network namespace, and perhaps one that waits for a cell.
pub struct Networks {
    home: OwnedFd,
    spare: Option<OwnedFd>,
}

impl Networks {
    /// # Errors
    /// No descriptor left, or no proc.
    pub fn open() -> Result<Networks, Errno> {
        Ok(Networks { home: current()?, spare: None })
    }

    /// A namespace that no cell has seen: the spare one, or else a new one.
    ///
    /// # Errors
    /// unshare(2): ENOSPC at the limit of network namespaces, ENOMEM.
    pub fn take(&mut self) -> Result<OwnedFd, Errno> {
        self.make_spare()?;
        self.spare.take().ok_or(Errno::EAGAIN)
    }

    /// Makes a spare namespace; false when there is one already.
    ///
    /// # Errors
    /// As [`Networks::take`].
    pub fn make_spare(&mut self) -> Result<bool, Errno> {
        if self.spare.is_some() {
            return Ok(false);
        }
        unshare(CloneFlags::CLONE_NEWNET)?;
        let made = current();
        setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET)?;
        self.spare = Some(made?);
        Ok(true)
    }

    /// Takes over a namespace made by [`make_aside`].
    pub fn provide(&mut self, network: OwnedFd) {
        self.spare = Some(network);
    }

    /// Runs `act` inside `network` and returns to the supervisor's own.
    ///
    /// # Errors
    /// setns(2) or `act`'s own.
    pub fn within<T>(&self, network: &OwnedFd, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        setns(network.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let result = act();
        setns(self.home.as_fd(), CloneFlags::CLONE_NEWNET)?;
        result
    }
}

fn current() -> Result<OwnedFd, Errno> {
    // Of the thread, as namespaces are; it is the process's where there is but one.
    nix::fcntl::open(c"/proc/thread-self/ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Moves the calling thread, which is about to end, into a new namespace, for [`Networks::provide`].
///
/// # Errors
/// As [`Networks::take`].
pub fn make_aside() -> Result<OwnedFd, Errno> {
    // CLONE_FS: a joined thread may be seen to share the process's root and working directory for another moment,
    // during which the kernel would let nobody enter a mount namespace.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNET)?;
    current()
}
