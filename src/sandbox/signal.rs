//! Signals for a running payload, sent by the supervisor: init has neither the user nor the capability for it.
//!
//! They go to the process group of the payload's first process, as from a terminal: a program that a shell script runs
//! gets its Ctrl-C, and whoever has left the group does not.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::sys::{self, Child};

/// Sends `signal` to the payload of the cell that has `init`.
///
/// # Errors
/// ESRCH when the payload has ended, or has not begun; ENOENT where the kernel does not list children.
pub fn send(init: &Child, signal: i32) -> Result<(), Errno> {
    // init's first child: orphans that it adopts come after it in the list, and when it is gone so is the cell.
    let payload = first_child(init.pid)?.ok_or(Errno::ESRCH)?;
    let pid = rustix::process::Pid::from_raw(payload).ok_or(Errno::ESRCH)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
    // The numbers may belong to others by now. init, as long as it is not reaped, keeps its own; and what is still
    // its child after the descriptor was opened is what the descriptor refers to.
    if first_child(init.pid)? != Some(payload) || has_ended(init.pidfd.as_fd()) {
        return Err(Errno::ESRCH);
    }
    match sys::signal_process_group(pidfd.as_fd(), signal) {
        // Before Linux 6.9 a descriptor stands for the process alone.
        Err(Errno::EINVAL) => sys::signal_process(pidfd.as_fd(), signal),
        sent => sent,
    }
}

/// True once the process of `pidfd` has ended, reaped or not.
pub fn has_ended(pidfd: BorrowedFd) -> bool {
    let mut events = [PollFd::new(pidfd, PollFlags::POLLIN)];
    !matches!(poll(&mut events, PollTimeout::ZERO), Ok(0) | Err(Errno::EINTR))
}

fn first_child(pid: i32) -> Result<Option<i32>, Errno> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let listed = listed.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(listed.split_whitespace().next().and_then(|child| child.parse().ok()))
}
