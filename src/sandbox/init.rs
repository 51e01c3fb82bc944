//! The steps that init performs: it builds the cell from inside, starts the payload and reaps.
//!
//! Each function is one row of [`super::sequence::SEQUENCE`], which states the order and the reasons. System calls
//! only; see [`super::child`].

use std::ffi::CStr;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use super::child::{ChildImage, DENIED_MAX, run_payload};
use super::message::{self, errno};
use super::report::Report;
use super::sys;

/// Where the stage holds the image's root.
pub const STAGED_ROOT: &CStr = c"/rootfs";
/// The byte by which the supervisor says that the id maps are written.
pub const GO: u8 = b'G';

type Step = Result<(), Errno>;

pub(super) fn set_oom_score(_: &mut ChildImage) -> Step {
    write_file(c"/proc/self/oom_score_adj", b"1000")
}

pub(super) fn close_descriptors(image: &mut ChildImage) -> Step {
    // Numbers 0 to 2 stay taken, so that no descriptor received later gets one of them and is lost to dup2.
    for stream in 0..3 {
        duplicate(image.control, stream)?;
    }
    let mut next = 3;
    for kept in image.kept.as_slice() {
        let kept = *kept as u32;
        if kept > next {
            sys::close_range(next, kept - 1)?;
        }
        next = next.max(kept + 1);
    }
    sys::close_range(next, u32::MAX)
}

pub(super) fn wait_for_id_maps(image: &mut ChildImage) -> Step {
    let mut byte = [0];
    loop {
        match nix::unistd::read(sys::borrow_fd(image.control), &mut byte) {
            Ok(1) if byte[0] == GO => return Ok(()),
            Err(Errno::EINTR) => {}
            // The end of the stream: the supervisor is gone.
            Ok(0) => sys::exit(1),
            Ok(_) => return Err(Errno::EBADMSG),
            Err(errno) => return Err(errno),
        }
    }
}

pub(super) fn join_cgroups(image: &mut ChildImage) -> Step {
    for tasks in image.tasks.as_slice() {
        // "0" is the writer itself. Written by a process with one thread this takes no lock that waits for RCU.
        nix::unistd::write(sys::borrow_fd(*tasks), b"0")?;
    }
    Ok(())
}

pub(super) fn unshare_cgroup_namespace(_: &mut ChildImage) -> Step {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
}

pub(super) fn become_init_user(image: &mut ChildImage) -> Step {
    become_user(image.init_id)?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0).map(drop)
}

pub(super) fn die_with_supervisor(image: &mut ChildImage) -> Step {
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0, 0, 0)?;
    // A supervisor that died just before sends no signal any more, and its start message may be waiting already: such
    // a cell would run without anybody who watches its limits. Its end of the socket tells.
    let mut events = [PollFd::new(sys::borrow_fd(image.control), PollFlags::empty())];
    look(&mut events)?;
    if events[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
        sys::exit(1);
    }
    Ok(())
}

/// What is ready now.
pub(super) fn look(events: &mut [PollFd]) -> Step {
    loop {
        match poll(events, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}

pub(super) fn new_session(_: &mut ChildImage) -> Step {
    nix::unistd::setsid().map(drop)
}

pub(super) fn new_session_keyring(_: &mut ChildImage) -> Step {
    sys::join_new_session_keyring()
}

pub(super) fn set_hostname(image: &mut ChildImage) -> Step {
    let name = std::os::unix::ffi::OsStrExt::from_bytes(image.hostname.to_bytes());
    nix::unistd::sethostname::<&std::ffi::OsStr>(name)?;
    rustix::system::setdomainname(b"(none)").map_err(errno)
}

pub(super) fn forbid_user_namespaces(_: &mut ChildImage) -> Step {
    write_file(c"/proc/sys/user/max_user_namespaces", b"0")
}

pub(super) fn bind_root(_: &mut ChildImage) -> Step {
    let none = None::<&CStr>;
    nix::mount::mount(Some(STAGED_ROOT), STAGED_ROOT, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
}

pub(super) fn mount_overlays(image: &mut ChildImage) -> Step {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (target, options) in image.overlays {
        nix::mount::mount(Some(c"overlay"), *target, Some(c"overlay"), flags, Some(*options))?;
    }
    Ok(())
}

pub(super) fn enter_root(_: &mut ChildImage) -> Step {
    nix::unistd::chdir(STAGED_ROOT)
}

pub(super) fn bind_devices(_: &mut ChildImage) -> Step {
    let none = None::<&CStr>;
    nix::mount::mount(Some(c"/dev"), c"dev", none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
}

pub(super) fn mount_proc(_: &mut ChildImage) -> Step {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    nix::mount::mount(Some(c"proc"), c"proc", Some(c"proc"), flags, Some(c"subset=pid,hidepid=invisible"))
}

pub(super) fn mount_scratch(image: &mut ChildImage) -> Step {
    for (target, options) in image.scratch {
        nix::mount::mount(Some(c"tmpfs"), *target, Some(c"tmpfs"), SCRATCH_FLAGS, Some(*options))?;
    }
    Ok(())
}

const SCRATCH_FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

pub(super) fn hand_over_workdir(image: &mut ChildImage) -> Step {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let workdir = nix::fcntl::open(c"work", flags, Mode::empty())?;
    message::send(sys::borrow_fd(image.control), &Report::Workdir.encode(), &[workdir.as_fd()])
}

pub(super) fn pivot_root(_: &mut ChildImage) -> Step {
    // Both at ".": the old root then lies over the new one at the same place, from where it is taken next.
    nix::unistd::pivot_root(c".", c".")
}

pub(super) fn detach_old_root(_: &mut ChildImage) -> Step {
    nix::mount::umount2(c".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir(c"/")
}

pub(super) fn add_landlock_rules(image: &mut ChildImage) -> Step {
    for (path, access) in image.landlock_rules {
        let parent = nix::fcntl::open(*path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        sys::landlock_add_path_rule(sys::borrow_fd(image.landlock), parent.as_fd(), *access)?;
    }
    Ok(())
}

pub(super) fn force_speculation_mitigations(image: &mut ChildImage) -> Step {
    // Values of linux/prctl.h, which libc lacks.
    const PR_SET_SPECULATION_CTRL: i32 = 53;
    const STORE_BYPASS: u64 = 0;
    const INDIRECT_BRANCH: u64 = 1;
    const FORCE_DISABLE: u64 = 8;
    if image.speculation_store_bypass {
        sys::prctl(PR_SET_SPECULATION_CTRL, STORE_BYPASS, FORCE_DISABLE, 0, 0)?;
    }
    if image.speculation_indirect_branch {
        sys::prctl(PR_SET_SPECULATION_CTRL, INDIRECT_BRANCH, FORCE_DISABLE, 0, 0)?;
    }
    Ok(())
}

pub(super) fn lock_securebits(_: &mut ChildImage) -> Step {
    // Root is nobody special, setuid changes no capability, none is kept or made ambient; every bit with its lock.
    const NOROOT: u64 = 0b11;
    const NO_SETUID_FIXUP: u64 = 0b11 << 2;
    const KEEP_CAPS_LOCKED: u64 = 1 << 5;
    const NO_CAP_AMBIENT_RAISE: u64 = 0b11 << 6;
    let bits = NOROOT | NO_SETUID_FIXUP | KEEP_CAPS_LOCKED | NO_CAP_AMBIENT_RAISE;
    sys::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0).map(drop)
}

pub(super) fn drop_bounding_set(_: &mut ChildImage) -> Step {
    // The kernel knows how many capabilities it has; 64 is what the set can hold.
    for capability in 0..64 {
        match sys::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) {
            Err(Errno::EINVAL) if capability > 0 => return Ok(()),
            result => result?,
        };
    }
    Ok(())
}

pub(super) fn reset_signals(_: &mut ChildImage) -> Step {
    sys::reset_signals()
}

pub(super) fn block_child_signals(image: &mut ChildImage) -> Step {
    use nix::sys::signal::{SigSet, Signal};
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    let flags = nix::sys::signalfd::SfdFlags::SFD_CLOEXEC | nix::sys::signalfd::SfdFlags::SFD_NONBLOCK;
    image.signals = OwnedFd::from(nix::sys::signalfd::SignalFd::with_flags(&set, flags)?).into_raw_fd();
    Ok(())
}

pub(super) fn start_payload(image: &mut ChildImage) -> Step {
    let stack = image.stack.take().ok_or(Errno::EALREADY)?;
    image.payload = sys::vfork(stack, || run_payload(image))?;
    let at_ns = sys::monotonic_ns();
    if image.timed
        && let Some(execute) = image.times.last_mut()
    {
        *execute = at_ns.saturating_sub(image.executed_ns);
    }
    match image.failure {
        Some((_, errno)) => Err(errno),
        // Killed before it had a program; what is reaped tells by what.
        None if image.executed_ns == 0 => Ok(()),
        None => image.report(Report::Started { at_ns: image.executed_ns, init_cpu_ns: sys::process_cpu_ns() }),
    }
}

pub(super) fn drop_init_privileges(_: &mut ChildImage) -> Step {
    // init's copies of the streams go too, else they would outlive the payload's.
    sys::close_range(0, 2)?;
    sys::clear_capabilities()
}

pub(super) fn reap(image: &mut ChildImage) -> Step {
    loop {
        // Reap whatever has ended, orphans among them: zombies count against the process limit.
        while let Some((pid, status)) = reaped()? {
            if pid == image.payload {
                for (number, count) in image.denied.iter().filter(|(_, count)| *count > 1) {
                    image.report(Report::Denied { number: *number as u32, count: *count })?;
                }
                let at_ns = sys::monotonic_ns();
                let (reaped_cpu_ns, reaped_memory_bytes) = sys::children_usage();
                let init_cpu_ns = sys::process_cpu_ns();
                return image.report(Report::Ended { status, at_ns, init_cpu_ns, reaped_cpu_ns, reaped_memory_bytes });
            }
        }
        wait_for_event(image)?;
    }
}

fn reaped() -> Result<Option<(i32, i32)>, Errno> {
    match sys::wait_any(true) {
        Err(Errno::ECHILD) => Ok(None),
        Err(Errno::EINTR) => reaped(),
        result => result,
    }
}

fn wait_for_event(image: &mut ChildImage) -> Step {
    let listener = image.listener.unwrap_or(image.signals);
    let mut events = [
        PollFd::new(sys::borrow_fd(image.signals), PollFlags::POLLIN),
        PollFd::new(sys::borrow_fd(listener), PollFlags::POLLIN),
    ];
    match poll(&mut events, PollTimeout::NONE) {
        Err(Errno::EINTR) => return Ok(()),
        result => result?,
    };
    let (signaled, notified) = (events[0].revents(), events[1].revents());
    if signaled.is_some_and(|events| events.contains(PollFlags::POLLIN)) {
        let mut information = [0u8; 128];
        while nix::unistd::read(sys::borrow_fd(image.signals), &mut information).is_ok() {}
    }
    let Some(listener) = image.listener else { return Ok(()) };
    match notified {
        Some(events) if events.contains(PollFlags::POLLIN) => answer_denied(image, listener),
        // Nobody is left under the filter; poll would return at once for ever.
        Some(events) if !events.is_empty() => {
            image.listener = None;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Counts one denied system call, reports a number seen for the first time, and answers EPERM.
fn answer_denied(image: &mut ChildImage, listener: RawFd) -> Step {
    let notification = match sys::seccomp_receive(listener) {
        // Its process died, or a signal came first.
        Err(Errno::ENOENT | Errno::EINTR) => return Ok(()),
        result => result?,
    };
    let mut first = false;
    for index in 0..DENIED_MAX {
        let Some(slot) = image.denied.get_mut(index) else { break };
        if slot.1 == 0 {
            *slot = (notification.number, 1);
            first = true;
            break;
        }
        if slot.0 == notification.number {
            slot.1 = slot.1.saturating_add(1);
            break;
        }
    }
    if first {
        image.report(Report::Denied { number: notification.number as u32, count: 1 })?;
    }
    match sys::seccomp_answer(listener, notification.id, Errno::EPERM) {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// Takes `id` as real, effective and saved user and group id.
pub(super) fn become_user(id: u32) -> Step {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)
}

/// Makes the stream `to` (0, 1 or 2) another name of `from`, without close-on-exec.
pub(super) fn duplicate(from: RawFd, to: RawFd) -> Step {
    let from = sys::borrow_fd(from);
    match to {
        0 => rustix::stdio::dup2_stdin(from),
        1 => rustix::stdio::dup2_stdout(from),
        2 => rustix::stdio::dup2_stderr(from),
        _ => return Err(Errno::EBADF),
    }
    .map_err(errno)
}

fn write_file(path: &CStr, content: &[u8]) -> Step {
    let file = nix::fcntl::open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::write(&file, content).map(drop)
}
