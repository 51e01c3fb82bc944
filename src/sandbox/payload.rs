//! The steps that the payload performs before its program: it locks itself, waits for the program, and becomes it.
//!
//! Each function is one row of [`super::sequence::SEQUENCE`]. It shares init's memory until the exec: system calls
//! only; see [`super::child`]. Each lock is tried right after it is shut.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;

use super::child::ChildImage;
use super::init::{become_user, duplicate, look};
use super::message;
use super::report::Report;
use super::start::StartReader;
use super::sys;

type Step = Result<(), Errno>;

/// What a lock that did not hold is reported as: the kernel accepted it and it is not in force.
const NOT_IN_FORCE: Errno = Errno::ENOTRECOVERABLE;

pub(super) fn new_session(_: &mut ChildImage) -> Step {
    nix::unistd::setsid().map(drop)
}

pub(super) fn unblock_signals(_: &mut ChildImage) -> Step {
    sys::unblock_signals()
}

pub(super) fn report_prepared(image: &mut ChildImage) -> Step {
    // With the program waiting already nobody waits to hear of it; not to say so spares the supervisor a wake-up.
    let mut events = [PollFd::new(sys::borrow_fd(image.control), PollFlags::POLLIN)];
    look(&mut events)?;
    let is_waited_for = events[0].revents().is_some_and(|events| events.is_empty());
    if is_waited_for { image.report(Report::Prepared) } else { Ok(()) }
}

pub(super) fn receive_start(image: &mut ChildImage) -> Step {
    let flags = rustix::net::RecvFlags::empty();
    let (length, descriptors) = message::receive(sys::borrow_fd(image.control), image.message, flags)?;
    if length == 0 {
        // The supervisor is gone: nobody is left to be told.
        return Err(Errno::ENOTCONN);
    }
    image.message_bytes = length;
    for (slot, descriptor) in image.received.iter_mut().zip(descriptors) {
        *slot = descriptor.ok_or(Errno::EBADMSG)?.into_raw_fd();
    }
    Ok(())
}

pub(super) fn write_files(image: &mut ChildImage) -> Step {
    let mut reader = reader(image)?;
    if reader.files == 0 {
        return Ok(());
    }
    reader.skip_rlimits()?;
    let mut remaining = reader;
    remaining.skip_files()?;
    let workdir =
        nix::fcntl::open(remaining.string()?, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    for _ in 0..reader.files {
        let (name, mode, bytes) = reader.file()?;
        make_parents(workdir.as_fd(), name)?;
        // O_EXCL: the work directory is new, so whatever exists already is a name given twice.
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = nix::fcntl::openat(workdir.as_fd(), name, flags, Mode::from_bits_truncate(mode))?;
        let mut left = bytes;
        while left > 0 {
            let chunk = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
            match nix::sys::sendfile::sendfile64(&file, sys::borrow_fd(image.received[3]), None, chunk) {
                // The bundle is shorter than its table says.
                Ok(0) => return Err(Errno::EBADMSG),
                Ok(sent) => left -= sent as u64,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

/// Makes the directories above `name`, one after the other.
fn make_parents(workdir: BorrowedFd, name: &CStr) -> Step {
    let bytes = name.to_bytes();
    let mut prefix = [0u8; 4096];
    for (index, byte) in bytes.iter().enumerate() {
        if *byte == b'/' {
            let head = bytes.get(..index).ok_or(Errno::EBADMSG)?;
            prefix.get_mut(..index).ok_or(Errno::ENAMETOOLONG)?.copy_from_slice(head);
            *prefix.get_mut(index).ok_or(Errno::ENAMETOOLONG)? = 0;
            let directory = CStr::from_bytes_until_nul(&prefix).map_err(|_| Errno::EBADMSG)?;
            match nix::sys::stat::mkdirat(workdir, directory, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

pub(super) fn install_streams(image: &mut ChildImage) -> Step {
    for (stream, descriptor) in image.received.iter().take(3).enumerate() {
        duplicate(*descriptor, stream as i32)?;
    }
    Ok(())
}

pub(super) fn set_rlimits(image: &mut ChildImage) -> Step {
    let mut reader = reader(image)?;
    for _ in 0..reader.rlimits {
        let (resource, value) = reader.rlimit()?;
        sys::set_rlimit(resource, value)?;
    }
    Ok(())
}

pub(super) fn enter_workdir(image: &mut ChildImage) -> Step {
    let mut reader = reader(image)?;
    reader.skip_rlimits()?;
    reader.skip_files()?;
    nix::unistd::chdir(reader.string()?)
}

pub(super) fn become_payload_user(image: &mut ChildImage) -> Step {
    become_user(image.payload_id)
}

pub(super) fn drop_capabilities(_: &mut ChildImage) -> Step {
    sys::clear_capabilities()?;
    if sys::has_no_capabilities()? { Ok(()) } else { Err(NOT_IN_FORCE) }
}

pub(super) fn set_no_new_privileges(_: &mut ChildImage) -> Step {
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
    if sys::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)? == 1 { Ok(()) } else { Err(NOT_IN_FORCE) }
}

pub(super) fn limit_core_dumps(_: &mut ChildImage) -> Step {
    // 1, not 0: a core_pattern that pipes into a handler ignores 0 and runs the handler on the host; the kernel's
    // coredump.c refuses exactly 1 for pipes, and no core fits in one byte for files.
    sys::set_rlimit(libc::RLIMIT_CORE, 1)
}

pub(super) fn mark_descriptors(_: &mut ChildImage) -> Step {
    sys::close_on_exec_from(3)
}

pub(super) fn restrict_by_landlock(image: &mut ChildImage) -> Step {
    sys::landlock_restrict_self(sys::borrow_fd(image.landlock))
}

pub(super) fn install_seccomp(image: &mut ChildImage) -> Step {
    let Some(program) = image.seccomp else { return Err(Errno::EINVAL) };
    image.listener = sys::install_seccomp(program, image.seccomp_notify)?;
    if sys::clone3_refusal() == Errno::ENOSYS { Ok(()) } else { Err(NOT_IN_FORCE) }
}

pub(super) fn execute(image: &mut ChildImage) -> Step {
    let message = image.message.get(..image.message_bytes).ok_or(Errno::EBADMSG)?;
    let mut reader = StartReader::new(message)?;
    let (candidates, arguments, environment) = (reader.candidates, reader.arguments, reader.environment);
    reader.skip_rlimits()?;
    reader.skip_files()?;
    reader.string()?;
    let candidates = reader.strings(candidates)?;
    image.arguments.fill(reader.strings(arguments)?)?;
    image.environment.fill(reader.strings(environment)?)?;
    // As execvp(3): go on past what is not there, and remember a refusal over an absence.
    let mut worst = Errno::ENOENT;
    // Here rather than when init wakes: a short program may have ended by then.
    image.executed_ns = sys::monotonic_ns();
    for candidate in candidates {
        match sys::execve(candidate, &image.arguments, &image.environment) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => worst = Errno::EACCES,
            errno => return Err(errno),
        }
    }
    Err(worst)
}

fn reader<'a>(image: &'a ChildImage<'_>) -> Result<StartReader<'a>, Errno> {
    StartReader::new(image.message.get(..image.message_bytes).ok_or(Errno::EBADMSG)?)
}
