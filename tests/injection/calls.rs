//! Which system calls are failed, and by what.
//!
//! Every call is, by every error below, unless a row here says otherwise and why: so a call that the program begins to
//! make tomorrow is in the sweep from then on.

use std::path::PathBuf;

use nix::errno::Errno::{self, EAGAIN, EINTR, EMFILE, ENOMEM, ENOSPC};
use syscalls::Sysno;

/// What the kernel says when there is no memory, descriptor, process or room left, and when a signal comes between.
const ALL: &[Errno] = &[ENOMEM, EMFILE, EAGAIN, ENOSPC, EINTR];
const NONE: &[Errno] = &[];

/// Calls that are spared some errors, or all: which are left, and why.
const SPARED: &[(&[Sysno], &[Errno], &str)] = &[
    (
        &[Sysno::exit, Sysno::exit_group, Sysno::rt_sigreturn, Sysno::restart_syscall],
        NONE,
        "they do not return, or are the kernel's own",
    ),
    (
        &[Sysno::brk, Sysno::mmap, Sysno::munmap, Sysno::mremap, Sysno::mprotect, Sysno::madvise],
        NONE,
        "memory of the process itself: without it the allocator ends the process, as the test that kills processes does",
    ),
    (&[Sysno::close], NONE, "the descriptor is free whatever it answers; one not performed would leave it open"),
    (
        &[Sysno::kill, Sysno::tgkill, Sysno::pidfd_send_signal],
        NONE,
        "kill(2): EPERM and ESRCH alone; no room is taken for the signals sent here",
    ),
    (
        &[Sysno::getpid, Sysno::gettid, Sysno::getppid, Sysno::getuid, Sysno::geteuid, Sysno::getgid, Sysno::getegid],
        NONE,
        "getpid(2), getuid(2): they always succeed",
    ),
    (&[Sysno::uname], NONE, "uname(2): EFAULT alone"),
    (
        &[
            Sysno::rt_sigaction,
            Sysno::rt_sigprocmask,
            Sysno::sigaltstack,
            Sysno::set_robust_list,
            Sysno::rseq,
            Sysno::futex,
        ],
        NONE,
        "the C library's own, which take no room, and end the process at an error that their manual pages do not have",
    ),
    (
        &[Sysno::epoll_wait, Sysno::epoll_pwait, Sysno::wait4, Sysno::waitid],
        &[EINTR],
        "epoll_wait(2), wait(2): they take nothing, and wait",
    ),
    (&[Sysno::poll, Sysno::ppoll], &[ENOMEM, EINTR], "poll(2) has no others, and Rust's start aborts at them"),
    (&[Sysno::getrandom], &[EINTR], "getrandom(2): it takes no room, and waits at most in a machine's first seconds"),
    (
        &[Sysno::recvmsg, Sysno::recvfrom, Sysno::accept4],
        &[ENOMEM, EMFILE, ENOSPC, EINTR],
        "EAGAIN says that nothing has come, and nothing would say again that it has",
    ),
];

/// The errors that `call` of a process of this role is failed by; none for one that is left alone. `descriptor` is what
/// /proc says of the call's first argument.
pub fn errnos_of(role: &str, call: Sysno, descriptor: impl Fn() -> PathBuf) -> &'static [Errno] {
    let is_service = ["serve", "front"].contains(&role);
    if matches!(call, Sysno::read | Sysno::write) {
        let name = descriptor();
        let name = name.to_string_lossy();
        // eventfd(2): a counter takes no room, and tokio ends the process where its own cannot be written.
        if name == "anon_inode:[eventfd]" {
            return NONE;
        }
        // pipe(7): what is there is read without room. Rust's library, which is told so whether a process has become its
        // program, otherwise waits for the end of that process.
        if role == "serve" && name.starts_with("pipe:") {
            return &[EINTR];
        }
    }
    match call {
        // The pair of sockets by which tokio hears of signals: written in their handler, where nobody could be told of an
        // error, and read without waiting and without room, where tokio ends the process otherwise.
        Sysno::sendto | Sysno::recvfrom if role == "serve" => NONE,
        // EAGAIN says that there is no room now, and nothing would say again that there is.
        Sysno::sendto | Sysno::sendmsg | Sysno::writev if is_service => &[ENOMEM, EMFILE, ENOSPC, EINTR],
        _ => SPARED.iter().find(|(calls, ..)| calls.contains(&call)).map_or(ALL, |(_, errnos, _)| errnos),
    }
}
