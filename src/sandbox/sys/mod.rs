//! The only `unsafe` of the program: system calls that nix and rustix lack or wrap with an allocation, each behind a
//! safe face.
//!
//! Everything here may be called between clone and exec: no function allocates, locks, logs or panics. Errors are the
//! kernel's errno and nothing else. Numbers and structures come from linux-raw-sys where libc's are missing or wrong
//! (`libc::CLONE_INTO_CGROUP` is truncated to 0 and would silently give a cell no cgroup). The supervisor's memory, and
//! what a cell gets of it, is in [`memory`].

mod memory;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::general as raw;
use linux_raw_sys::loop_device as raw_loop;
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

pub use memory::{Arena, Heap, trim_heap};

pub type SysResult<T> = Result<T, Errno>;

fn check(result: libc::c_long) -> SysResult<libc::c_long> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

/// A process made by [`clone_init`].
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Starts a copy of this process in the new namespaces of `flags`, born in the cgroup directory `cgroup` when one is
/// given (`CLONE_INTO_CGROUP`: no migration, hence no wait for an RCU grace period). The copy runs `child` and exits
/// with its result. With `heap` it has nothing of the heap: `child` must refer to none of it, or it is killed.
///
/// # Errors
/// clone3(2): EPERM without the right to make user namespaces, ENOSPC or EUSERS at a namespace limit, EAGAIN at a
/// process limit, EBUSY for a cgroup that has controllers enabled for its children. madvise(2): ENOMEM.
pub fn clone_init(
    flags: u64,
    cgroup: Option<BorrowedFd>,
    heap: Option<&Heap>,
    child: impl FnOnce() -> i32,
) -> SysResult<Child> {
    let mut pidfd: RawFd = -1;
    let mut arguments = raw::clone_args {
        // Handlers of the supervisor's runtime must not run in init, where a payload could trigger them.
        flags: flags | u64::from(raw::CLONE_PIDFD) | raw::CLONE_CLEAR_SIGHAND,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        child_tid: 0,
        parent_tid: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= raw::CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    let left_behind = heap.map(Heap::leave_behind).transpose()?;
    // SAFETY: clone3 reads `size` bytes of a fully initialised clone_args and writes one int to `pidfd`, both of which
    // outlive the call. Without CLONE_VM and with no stack given the child continues on a copy of this stack, as after
    // fork. What is unsafe about forking is running code that needs another thread (locks, the allocator): `child`
    // keeps to system calls on memory prepared before, which is the rule of the modules `init` and `payload`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<raw::clone_args>()) };
    if pid == 0 {
        exit(child());
    }
    let pid = check(pid);
    drop(left_behind);
    let pid = pid? as i32;
    // SAFETY: the kernel has just installed this descriptor for us alone, because CLONE_PIDFD was set.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// Ends this process without running destructors or exit handlers, which belong to the process it was cloned from.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit takes any status, touches no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// Bytes of the stack of the vforked payload until it executes its program.
pub const VFORK_STACK_BYTES: usize = 64 << 10;

/// Runs `child` in a new process that shares this process's memory and descriptors until it executes a program or
/// exits; the caller waits meanwhile (vfork semantics). Returns the process id. What `child` writes is seen here.
///
/// The wait is for the word that the kernel clears when the child lets go of the memory (`CLONE_CHILD_CLEARTID`, as
/// pthread_join(3) waits), not that of `CLONE_VFORK`, which counts as load: cells wait for their program for minutes.
///
/// # Errors
/// clone(2): EAGAIN at a process limit, ENOMEM.
pub fn vfork<F: FnMut() -> i32>(stack: &mut [MaybeUninit<u8>], mut child: F) -> SysResult<i32> {
    extern "C" fn enter<F: FnMut() -> i32>(argument: *mut c_void) -> c_int {
        // SAFETY: `argument` is the pointer to `child` passed below, whose owner sleeps until this process is through
        // with the memory, so that this is the only reference in use.
        let child = unsafe { &mut *argument.cast::<F>() };
        child()
    }
    let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
    let sharing = AtomicU32::new(1);
    let (none, word) = (std::ptr::null_mut::<c_void>(), sharing.as_ptr());
    // Stacks grow down and must be aligned to 16 bytes at their top.
    let top = stack.as_mut_ptr_range().end.map_addr(|end| end & !0xf).cast::<c_void>();
    // SAFETY: `enter` has the signature clone wants, `top` is the end of memory that nobody else uses, and it, `child`
    // and `sharing` live until the loop below has ended, which is after the child's exec or exit. The two processes
    // share one `errno`, which the waiting one leaves alone: rustix makes the call without libc.
    let pid = unsafe { libc::clone(enter::<F>, top, flags, (&raw mut child).cast::<c_void>(), none, none, word) };
    let pid = check(libc::c_long::from(pid))?;
    while sharing.load(Ordering::Acquire) != 0 {
        // Woken, interrupted or too late: the word tells.
        let _woken = rustix::thread::futex::wait(&sharing, rustix::thread::futex::Flags::empty(), 1, None);
    }
    Ok(pid as i32)
}

/// Pointers to NUL-terminated strings, ended by a null pointer, as execve(2) wants them.
///
/// Made before the clone with room for as many strings as a start message can hold; filled without allocating.
pub struct PointerArray<'a> {
    room: &'a mut [MaybeUninit<*const c_char>],
    filled: bool,
}

impl<'a> PointerArray<'a> {
    /// # Errors
    /// As [`Arena::room`].
    pub fn with_capacity(arena: &'a Arena, strings: usize) -> SysResult<PointerArray<'a>> {
        Ok(PointerArray { room: arena.room(strings + 1)?, filled: false })
    }

    /// Refers to each of `strings` in turn; E2BIG when they are more than there is room for.
    pub fn fill<'s>(&mut self, strings: impl Iterator<Item = &'s CStr>) -> SysResult<()> {
        self.filled = false;
        let pointers = strings.map(CStr::as_ptr).chain([std::ptr::null()]);
        let mut room = self.room.iter_mut();
        for pointer in pointers {
            room.next().ok_or(Errno::E2BIG)?.write(pointer);
        }
        self.filled = true;
        Ok(())
    }
}

/// Replaces this process's program; returns only the reason why it could not.
///
/// The strings that `arguments` and `environment` were filled with must still be in place, which holds for the start
/// message's buffer: init keeps it until it exits.
pub fn execve(path: &CStr, arguments: &PointerArray, environment: &PointerArray) -> Errno {
    if !arguments.filled || !environment.filled {
        return Errno::EINVAL;
    }
    let (arguments, environment) = (arguments.room.as_ptr().cast(), environment.room.as_ptr().cast());
    // SAFETY: `path` is NUL-terminated; both arrays are filled up to and with a null pointer, and point to strings in a
    // buffer that is not written again before the exec.
    unsafe { libc::execve(path.as_ptr(), arguments, environment) };
    Errno::last()
}

/// Sends `signal` to the process of `pidfd`.
///
/// # Errors
/// pidfd_send_signal(2): ESRCH when it has ended and been reaped, EINVAL for no signal, EPERM.
pub fn signal_process(pidfd: BorrowedFd, signal: i32) -> SysResult<()> {
    send_signal(pidfd, signal, 0)
}

/// Sends `signal` to the process group that the process of `pidfd` leads.
///
/// # Errors
/// As [`signal_process`]; EINVAL before Linux 6.9.
pub fn signal_process_group(pidfd: BorrowedFd, signal: i32) -> SysResult<()> {
    const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;
    send_signal(pidfd, signal, PIDFD_SIGNAL_PROCESS_GROUP)
}

fn send_signal(pidfd: BorrowedFd, signal: i32, flags: u32) -> SysResult<()> {
    let no_information = std::ptr::null::<c_void>();
    // SAFETY: without information to send along the call refers to no memory.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_information, flags) })
        .map(drop)
}

/// prctl(2) with four integer arguments; options that take pointers are not passed through here.
pub fn prctl(option: c_int, a: u64, b: u64, c: u64, d: u64) -> SysResult<i32> {
    // SAFETY: callers in this crate pass options whose arguments are plain numbers, so no memory is referred to.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, a, b, c, d) }).map(|value| value as i32)
}

/// Empties the effective, permitted and inheritable capability sets of this thread.
pub fn clear_capabilities() -> SysResult<()> {
    let (header, data) = capability_arguments();
    // SAFETY: capset reads one header and, for version 3, two data elements; both live through the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// True when this thread has no capability in any of the three sets.
pub fn has_no_capabilities() -> SysResult<bool> {
    let (mut header, mut data) = capability_arguments();
    // SAFETY: capget reads and may write one header and writes two data elements for version 3; both are ours.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(data.iter().all(|sets| sets.effective == 0 && sets.permitted == 0 && sets.inheritable == 0))
}

fn capability_arguments() -> (raw::__user_cap_header_struct, [raw::__user_cap_data_struct; 2]) {
    let header = raw::__user_cap_header_struct { version: raw::_LINUX_CAPABILITY_VERSION_3, pid: 0 };
    (header, [raw::__user_cap_data_struct { effective: 0, permitted: 0, inheritable: 0 }; 2])
}

/// Gives this process a new, empty session keyring, so that it shares no key with its ancestors.
pub fn join_new_session_keyring() -> SysResult<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: with a null name the call reads no memory.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<c_char>()) }).map(drop)
}

/// The landlock ABI version of this kernel.
///
/// # Errors
/// ENOSYS when it has no landlock, EOPNOTSUPP when that is switched off.
pub fn landlock_abi() -> SysResult<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the kernel reads no attributes and makes no ruleset.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<c_void>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    check(version).map(|version| version as u32)
}

/// Lets the landlock `ruleset` allow `access` below the directory or file `parent`.
pub fn landlock_add_path_rule(ruleset: BorrowedFd, parent: BorrowedFd, access: u64) -> SysResult<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: i32,
    }
    const LANDLOCK_RULE_PATH_BENEATH: c_int = 1;
    let rule = PathBeneath { allowed_access: access, parent_fd: parent.as_raw_fd() };
    // SAFETY: the kernel reads a landlock_path_beneath_attr, which is packed like `PathBeneath`, during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            LANDLOCK_RULE_PATH_BENEATH,
            &raw const rule,
            0u32,
        )
    };
    check(result).map(drop)
}

/// Confines this thread, and what it starts, to `ruleset`.
pub fn landlock_restrict_self(ruleset: BorrowedFd) -> SysResult<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) }).map(drop)
}

/// Installs one filter program for this thread and what it starts. With `listener` the kernel returns a descriptor on
/// which the denials marked for notification can be received; its number is returned.
pub fn install_seccomp(program: &[libc::sock_filter], listener: bool) -> SysResult<Option<RawFd>> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let flags = if listener { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    // SAFETY: the kernel copies `len` instructions from `filter` during the call and does not write to them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    check(result).map(|descriptor| listener.then_some(descriptor as RawFd))
}

/// True when the kernel has the seccomp filter action `action` (`SECCOMP_RET_…`).
///
/// # Errors
/// EOPNOTSUPP when it does not, EINVAL or ENOSYS from one that knows no such question.
pub fn seccomp_action_available(action: u32) -> SysResult<()> {
    // SAFETY: the kernel reads one u32 during the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) }).map(drop)
}

/// A system call that waits for an answer from the listener.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    pub id: u64,
    pub number: i32,
}

/// Receives the next notification; ENOENT when its process died meanwhile.
pub fn seccomp_receive(listener: RawFd) -> SysResult<Notification> {
    // SAFETY: seccomp_notif is plain integers, for which all zeroes, which the kernel demands, is a valid value.
    let mut notification: libc::seccomp_notif = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the request's size is that of the structure it fills, which lives through the call.
    check(unsafe { libc::ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification) }.into())?;
    Ok(Notification { id: notification.id, number: notification.data.nr })
}

/// Answers a notification with `errno`; ENOENT when its process died meanwhile.
pub fn seccomp_answer(listener: RawFd, id: u64, errno: Errno) -> SysResult<()> {
    let mut response = libc::seccomp_notif_resp { id, val: 0, error: -(errno as i32), flags: 0 };
    // SAFETY: the request's size is that of the structure it reads, which lives through the call.
    check(unsafe { libc::ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) }.into()).map(drop)
}

const fn ioctl_read_write(kind: u8, number: u8, size: usize) -> libc::Ioctl {
    // _IOWR of asm-generic/ioctl.h: direction in bits 30-31, size in 16-29, type in 8-15, number in 0-7.
    ((3u64 << 30) | ((size as u64) << 16) | ((kind as u64) << 8) | number as u64) as libc::Ioctl
}
const SECCOMP_IOCTL_NOTIF_RECV: libc::Ioctl = ioctl_read_write(b'!', 0, size_of::<libc::seccomp_notif>());
const SECCOMP_IOCTL_NOTIF_SEND: libc::Ioctl = ioctl_read_write(b'!', 1, size_of::<libc::seccomp_notif_resp>());

/// The clone3 probe by which the payload tries the door after locking it: with the filter in force the answer is
/// ENOSYS, without it the kernel's own EINVAL for a structure of no size.
pub fn clone3_refusal() -> Errno {
    // SAFETY: with a size of 0 the kernel reads nothing and creates nothing.
    match check(unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<c_void>(), 0usize) }) {
        Err(errno) => errno,
        Ok(_) => Errno::UnknownErrno,
    }
}

/// Sets soft and hard limit of `resource` (`RLIMIT_…`) to `value`.
pub fn set_rlimit(resource: u32, value: u64) -> SysResult<()> {
    let limit = libc::rlimit64 { rlim_cur: value, rlim_max: value };
    // SAFETY: the kernel reads one rlimit64 during the call; no old limit is asked for.
    let result =
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null::<c_void>()) };
    check(result).map(drop)
}

/// Gives every signal its default action, whatever the caller's own program had set.
pub fn reset_signals() -> SysResult<()> {
    // SAFETY: sigaction is integers and a nullable function pointer, for which zeroes (SIG_DFL, no flags) are valid.
    let default: raw::kernel_sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    let set_size = size_of::<raw::kernel_sigset_t>();
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: the kernel reads one kernel_sigaction, whose mask has the size passed.
        let result = unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, std::ptr::null::<c_void>(), set_size)
        };
        check(result)?;
    }
    Ok(())
}

/// Blocks no signal.
pub fn unblock_signals() -> SysResult<()> {
    let none = 0u64;
    // SAFETY: the kernel reads eight bytes of signal mask.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null::<c_void>(),
            size_of::<u64>(),
        )
    };
    check(result).map(drop)
}

/// Marks every descriptor from `first` upwards close-on-exec.
pub fn close_on_exec_from(first: u32) -> SysResult<()> {
    // SAFETY: no memory is passed; with CLOSE_RANGE_CLOEXEC nothing is closed that somebody still owns.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint) };
    check(result).map(drop)
}

/// Closes descriptor numbers `first..=last` that nobody in this process owns any more.
///
/// For init after the payload's exec: its copies of the streams would otherwise keep them open.
pub fn close_range(first: u32, last: u32) -> SysResult<()> {
    // SAFETY: no memory is passed. Ownership: init never drops an OwnedFd (it ends with _exit), so no later close can
    // hit a number reused after this one.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Waits for any child; `None` when `no_hang` and none has ended. Returns its id and raw wait status.
pub fn wait_any(no_hang: bool) -> SysResult<Option<(i32, i32)>> {
    let mut status: c_int = 0;
    let options = libc::__WALL | if no_hang { libc::WNOHANG } else { 0 };
    // SAFETY: the kernel writes one int to `status`.
    let pid = unsafe { libc::syscall(libc::SYS_wait4, -1, &raw mut status, options, std::ptr::null::<c_void>()) };
    check(pid).map(|pid| (pid != 0).then_some((pid as i32, status)))
}

/// CPU time, in nanoseconds, of all children reaped up to now, and the most memory one of them had resident, in bytes.
pub fn children_usage() -> (u64, u64) {
    // SAFETY: rusage is plain integers, for which zeroes are valid.
    let mut usage: libc::rusage = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the kernel writes one rusage; with these arguments the call cannot fail.
    unsafe { libc::syscall(libc::SYS_getrusage, libc::RUSAGE_CHILDREN, &raw mut usage) };
    let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
    (ns(usage.ru_utime) + ns(usage.ru_stime), usage.ru_maxrss as u64 * 1024)
}

/// Moves a child just made off the processor of the caller, if there is another that it may use, and leaves it free to
/// run anywhere. A kernel that does not balance at every fork (those of Firecracker machines) leaves it waiting there
/// until the caller sleeps, while the other processors are idle.
///
/// # Errors
/// The child may run on fewer processors than before. That it was not moved is none.
pub fn move_process_elsewhere(pid: i32) -> SysResult<()> {
    // SAFETY: the kernel reads one set of processors.
    move_elsewhere(|set| unsafe { libc::sched_setaffinity(pid, size_of_val(set), set) })
}

/// As [`move_process_elsewhere`], for a thread of this process that has just been started.
///
/// # Errors
/// As [`move_process_elsewhere`].
pub fn move_thread_elsewhere<T>(thread: &std::thread::JoinHandle<T>) -> SysResult<()> {
    let thread = std::os::unix::thread::JoinHandleExt::as_pthread_t(thread);
    // SAFETY: the thread is neither joined nor detached while its handle is borrowed; the call reads one set.
    move_elsewhere(|set| match unsafe { libc::pthread_setaffinity_np(thread, size_of_val(set), set) } {
        0 => 0,
        // This one returns what the others leave in errno.
        number => {
            Errno::set_raw(number);
            -1
        }
    })
}

fn move_elsewhere(set_affinity: impl Fn(&libc::cpu_set_t) -> c_int) -> SysResult<()> {
    // SAFETY: an array of integers, for which zeroes are valid.
    let mut all: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the kernel writes at most the size passed.
    let known = unsafe { libc::sched_getaffinity(0, size_of_val(&all), &raw mut all) } == 0;
    // SAFETY: no memory is passed.
    let here = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(usize::MAX);
    let mut others = all;
    // SAFETY: both only look at the set; a number beyond it is left alone.
    let count = unsafe {
        libc::CPU_CLR(here, &mut others);
        libc::CPU_COUNT(&others)
    };
    if !known || count == 0 || set_affinity(&others) < 0 {
        return Ok(());
    }
    check(set_affinity(&all).into()).map(drop)
}

/// CPU time this process has used, in nanoseconds.
pub fn process_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The monotonic clock, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel (or the vDSO) writes one timespec; both clocks always exist, so the result can't be an error.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Makes the mount at `path` and every mount below it read-only, nosuid and nodev.
pub fn make_read_only_recursively(path: &CStr) -> SysResult<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: `path` is NUL-terminated and the kernel reads one mount_attr of the size passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Binds `file` read-only to a free loop device, which the kernel frees when its last mount goes. Returns its path;
/// the mount must be made while the returned descriptor lives.
///
/// # Errors
/// ENOENT without loop devices, EBUSY when others keep taking the free one first.
pub fn attach_loop_device(file: BorrowedFd) -> SysResult<LoopDevice> {
    let control = open_device(c"/dev/loop-control")?;
    for _ in 0..16 {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument.
        let index = check(unsafe { libc::ioctl(control.as_raw_fd(), raw_loop::LOOP_CTL_GET_FREE.into()) }.into())?;
        let path = std::path::PathBuf::from(format!("/dev/loop{index}"));
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Errno::EINVAL)?;
        let device = open_device(&name)?;
        // SAFETY: loop_config is integers and byte arrays, for which zeroes are valid.
        let mut configuration: raw_loop::loop_config = unsafe { MaybeUninit::zeroed().assume_init() };
        configuration.fd = file.as_raw_fd() as u32;
        configuration.info.lo_flags = raw_loop::LO_FLAGS_READ_ONLY as u32 | raw_loop::LO_FLAGS_AUTOCLEAR as u32;
        // SAFETY: the kernel reads one loop_config during the call.
        let result =
            unsafe { libc::ioctl(device.as_raw_fd(), raw_loop::LOOP_CONFIGURE.into(), &raw const configuration) };
        match check(result.into()) {
            Err(Errno::EBUSY) => continue,
            result => result?,
        };
        return Ok(LoopDevice { path, _open: device });
    }
    Err(Errno::EBUSY)
}

/// A configured loop device; it stays bound while this lives or it is mounted.
pub struct LoopDevice {
    path: std::path::PathBuf,
    _open: OwnedFd,
}

impl LoopDevice {
    pub fn as_path(&self) -> &std::path::Path {
        &self.path
    }
}

fn open_device(path: &CStr) -> SysResult<OwnedFd> {
    use nix::fcntl::OFlag;
    nix::fcntl::open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
}

/// Lets the event loop watch `descriptor`, which the result borrows or owns.
///
/// The one function here that is not for init and payload; it stands here because it is unsafe in tokio.
///
/// # Errors
/// EPERM for a regular file, which epoll does not watch because it is always ready.
pub fn watch<T: AsFd + AsRawFd>(descriptor: T, interest: tokio::io::Interest) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: the caller of `register` must keep the number the same and open until deregistration. OwnedFd and
    // BorrowedFd, the only types passed, always give the same number, and own or borrow it for as long as they live
    // inside the AsyncFd.
    unsafe { AsyncFd::register_with_interest(descriptor, interest) }.map_err(std::io::Error::from)
}

/// Borrows a descriptor number that this process knows to be open, such as one inherited over clone.
pub fn borrow_fd<'a>(descriptor: RawFd) -> BorrowedFd<'a> {
    debug_assert!(descriptor >= 0);
    // SAFETY: -1 is the only value that BorrowedFd forbids; callers pass numbers of descriptors prepared before the
    // clone, which init and payload never close.
    unsafe { BorrowedFd::borrow_raw(descriptor.max(0)) }
}
