//! The words a policy may use for numbers.

use nix::errno::Errno;

use super::Value;

/// A table of the C library's constants by their names.
macro_rules! named {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name as u64)),*] };
}

/// Those libc has.
const FROM_LIBC: &[(&str, u64)] = named! {
    AF_INET AF_INET6 AF_UNIX
    CLONE_NEWCGROUP CLONE_NEWIPC CLONE_NEWNET CLONE_NEWNS CLONE_NEWPID CLONE_NEWTIME CLONE_NEWUSER CLONE_NEWUTS
    CLONE_THREAD
    FIOASYNC FIOCLEX FIONBIO FIONCLEX FIONREAD F_GETLEASE F_NOTIFY F_SETLEASE
    IPPROTO_TCP IPPROTO_UDP
    MADV_MERGEABLE
    POSIX_FADV_DONTNEED
    PR_CAPBSET_READ PR_GET_CHILD_SUBREAPER PR_GET_DUMPABLE PR_GET_NAME PR_GET_NO_NEW_PRIVS
    PR_GET_PDEATHSIG PR_GET_SECCOMP PR_GET_SECUREBITS PR_GET_SPECULATION_CTRL PR_GET_THP_DISABLE PR_GET_TIMERSLACK
    PR_SET_CHILD_SUBREAPER PR_SET_DUMPABLE PR_SET_NAME PR_SET_NO_NEW_PRIVS PR_SET_PDEATHSIG PR_SET_THP_DISABLE
    PR_SET_TIMERSLACK PR_SET_VMA
    RLIMIT_CORE
    SIOCGIFADDR SIOCGIFBRDADDR SIOCGIFCONF SIOCGIFFLAGS SIOCGIFHWADDR SIOCGIFINDEX SIOCGIFMTU SIOCGIFNAME SIOCGIFNETMASK
    SOL_SOCKET SO_ATTACH_BPF SO_ATTACH_FILTER SO_ATTACH_REUSEPORT_CBPF SO_ATTACH_REUSEPORT_EBPF
    S_IFBLK S_IFCHR S_IFMT
    TCFLSH TCGETS TCGETS2 TCP_ULP TCSBRK TCSBRKP TCSETS TCSETS2 TCSETSF TCSETSF2 TCSETSW TCSETSW2 TCXONC
    TIOCGPGRP TIOCGPTN TIOCGPTPEER TIOCGSID TIOCGWINSZ TIOCNOTTY TIOCOUTQ TIOCSCTTY TIOCSPGRP TIOCSPTLCK TIOCSWINSZ
};

/// Those it has not: linux/prctl.h, and asm/prctl.h of x86.
const FROM_KERNEL: &[(&str, u64)] = &[
    ("PR_GET_AUXV", 0x4155_5856),
    ("ARCH_SET_GS", 0x1001),
    ("ARCH_SET_FS", 0x1002),
    ("ARCH_GET_FS", 0x1003),
    ("ARCH_GET_GS", 0x1004),
    ("ARCH_GET_CPUID", 0x1011),
    ("ARCH_GET_XCOMP_SUPP", 0x1021),
    ("ARCH_GET_XCOMP_PERM", 0x1022),
    ("ARCH_REQ_XCOMP_PERM", 0x1023),
    ("ARCH_CET_STATUS", 0x3001),
    ("ARCH_SHSTK_ENABLE", 0x5001),
    ("ARCH_SHSTK_DISABLE", 0x5002),
    ("ARCH_SHSTK_LOCK", 0x5003),
    ("ARCH_SHSTK_STATUS", 0x5005),
];

/// What a call may be answered with.
const ERRNOS: &[(&str, Errno)] = &[
    ("EACCES", Errno::EACCES),
    ("EAFNOSUPPORT", Errno::EAFNOSUPPORT),
    ("EINVAL", Errno::EINVAL),
    ("ENOPROTOOPT", Errno::ENOPROTOOPT),
    ("ENOSYS", Errno::ENOSYS),
    ("ENOTTY", Errno::ENOTTY),
    ("EOPNOTSUPP", Errno::EOPNOTSUPP),
    ("EPERM", Errno::EPERM),
];

fn constants() -> impl Iterator<Item = (&'static str, u64)> {
    FROM_LIBC.iter().chain(FROM_KERNEL).copied()
}

pub(super) fn constant(word: &str) -> Option<Value> {
    let (name, bits) = constants().find(|(name, _)| *name == word)?;
    Some(Value { bits, name: Some(name) })
}

pub(super) fn constant_names() -> impl Iterator<Item = &'static str> {
    constants().map(|(name, _)| name)
}

pub(super) fn errno(word: &str) -> Option<Errno> {
    ERRNOS.iter().find(|(name, _)| *name == word).map(|(_, errno)| *errno)
}

pub(super) fn errno_names() -> impl Iterator<Item = &'static str> {
    ERRNOS.iter().map(|(name, _)| *name)
}
