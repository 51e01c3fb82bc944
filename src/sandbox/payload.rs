//! The steps that the payload performs between the vfork and its program: it locks itself, then becomes the program.
//!
//! Each function is one row of [`super::sequence::SEQUENCE`]. It shares init's memory until the exec: system calls
//! only; see [`super::child`]. Each lock is tried right after it is shut.

use nix::errno::Errno;

use super::child::ChildImage;
use super::init::{become_user, duplicate};
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

pub(super) fn mark_descriptors(_: &mut ChildImage) -> Step {
    sys::close_on_exec_from(3)
}

pub(super) fn restrict_by_landlock(image: &mut ChildImage) -> Step {
    sys::landlock_restrict_self(sys::borrow_fd(image.landlock))
}

pub(super) fn install_seccomp(image: &mut ChildImage) -> Step {
    let Some(program) = &image.seccomp else { return Err(Errno::EINVAL) };
    image.listener = sys::install_seccomp(program.instructions(), image.seccomp_notify)?;
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

fn reader(image: &ChildImage) -> Result<StartReader<'_>, Errno> {
    StartReader::new(image.message.get(..image.message_bytes).ok_or(Errno::EBADMSG)?)
}
