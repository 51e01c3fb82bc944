//! Section D: namespaces, the kernel's surface, the network, and what could be told from one run to the next.

use super::{LANDLOCK, SECCOMP};
use crate::selftest::attack::Control::{Bare, Test, Unshared, Without};
use crate::selftest::attack::{
    ATTACK, Attack, Evidence, Expected, Layer, Needs, Printed, Program, REFUSED, Section, attempts,
};
use crate::selftest::golden::Sweep;

const KERNEL: Attack = Attack { section: Section::Kernel, ..ATTACK };

const NAMESPACES: Attack = Attack {
    rows: "53",
    layers: &[Layer::Seccomp, Layer::Namespaces],
    program: Program::Builtin("namespaces", &[]),
    alone: &[("seccomp", &["forbid_user_namespaces"]), ("max_user_namespaces", &[SECCOMP])],
    control: Without(&[SECCOMP, "forbid_user_namespaces"]),
    ..KERNEL
};

/// Doors of the kernel that exploits come through, knocked at so that they would open.
const DOORS: Attack = Attack {
    rows: "59",
    layers: &[Layer::Seccomp],
    program: Program::Builtin("kernel", &[]),
    alone: &[("seccomp", &[LANDLOCK])],
    control: Without(&[SECCOMP]),
    ..KERNEL
};

/// Calls that are root's, over the whole machine. Nothing but the filter stands before one of which a kernel lacks the
/// code.
const MACHINE: Attack = Attack {
    rows: "59",
    layers: &[Layer::Seccomp, Layer::Capabilities],
    program: Program::Builtin("machine", &[]),
    alone: &[("seccomp", &[LANDLOCK])],
    control: Bare(&[]),
    ..KERNEL
};

const ABI: Attack = Attack {
    rows: "60",
    layers: &[Layer::Seccomp],
    program: Program::Builtin("abi", &[]),
    alone: &[("seccomp", &[LANDLOCK])],
    control: Without(&[SECCOMP]),
    ..KERNEL
};

const FAMILIES: Attack = Attack {
    rows: "61",
    layers: &[Layer::Seccomp],
    program: Program::Builtin("families", &["16"]),
    alone: &[("seccomp", &[LANDLOCK])],
    control: Without(&[SECCOMP]),
    ..KERNEL
};

const CONNECT: Attack = Attack {
    rows: "65",
    layers: &[Layer::Landlock, Layer::Namespaces],
    control: Test("the_hosts_services_are_out_of_reach"),
    ..KERNEL
};

const SWEEP: Attack = Attack { layers: &[Layer::Seccomp], control: Without(&[SECCOMP]), ..KERNEL };

const fn sweep(sweep: Sweep) -> Expected {
    Expected { printed: Printed::Sweep(sweep), ..REFUSED }
}

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "unshare",
        title: "namespaces of one's own by unshare",
        expected: Expected {
            evidence: &[Evidence::Denied("unshare")],
            ..attempts(&[
                "unshare user: EPERM",
                "unshare mount: EPERM",
                "unshare net: EPERM",
                "unshare pid: EPERM",
                "unshare ipc: EPERM",
                "unshare uts: EPERM",
                "unshare cgroup: EPERM",
                "unshare time: EPERM",
            ])
        },
        ..NAMESPACES
    },
    Attack {
        name: "clone-namespaces",
        title: "namespaces of one's own by clone, also with the high half of the flags set",
        expected: attempts(&[
            "clone user: EPERM",
            "clone mount: EPERM",
            "clone net: EPERM",
            "clone pid: EPERM",
            "clone ipc: EPERM",
            "clone uts: EPERM",
            "clone cgroup: EPERM",
            "clone user, high bits set: EPERM",
        ]),
        ..NAMESPACES
    },
    Attack {
        name: "clone3-namespaces",
        title: "namespaces of one's own by clone3, whose flags no filter can see",
        expected: attempts(&[
            "clone3 user: ENOSYS",
            "clone3 mount: ENOSYS",
            "clone3 net: ENOSYS",
            "clone3 pid: ENOSYS",
            "clone3 ipc: ENOSYS",
            "clone3 uts: ENOSYS",
            "clone3 cgroup: ENOSYS",
            "clone3 time: ENOSYS",
        ]),
        ..NAMESPACES
    },
    Attack {
        name: "setns",
        rows: "54",
        title: "enter a namespace by a pidfd, or by its file",
        expected: attempts(&["setns by pid: EPERM", "setns by file: EPERM"]),
        ..NAMESPACES
    },
    Attack {
        name: "host-name",
        rows: "72",
        title: "change the machine's host name and domain name",
        layers: &[Layer::Seccomp, Layer::Capabilities, Layer::Namespaces],
        program: Program::Builtin("mounts", &[]),
        expected: attempts(&["sethostname: EPERM", "setdomainname: EPERM"]),
        alone: &[("no capabilities", &[SECCOMP, LANDLOCK])],
        control: Unshared(&[]),
        ..NAMESPACES
    },
    Attack {
        name: "io-uring",
        rows: "58",
        title: "io_uring, which acts past every filter",
        expected: attempts(&["io_uring: ENOSYS"]),
        ..DOORS
    },
    Attack {
        name: "perf-events",
        title: "count and trace kernel events",
        expected: Expected {
            evidence: &[Evidence::Denied("perf_event_open")],
            ..attempts(&["perf_event_open: EPERM"])
        },
        ..DOORS
    },
    Attack {
        name: "userfaultfd",
        title: "stop the kernel in the middle of a copy",
        expected: Expected { evidence: &[Evidence::Denied("userfaultfd")], ..attempts(&["userfaultfd: EPERM"]) },
        ..DOORS
    },
    Attack {
        name: "kernel-aio",
        title: "use up the machine's kernel aio contexts",
        expected: attempts(&["kernel aio: ENOSYS"]),
        ..DOORS
    },
    Attack {
        name: "modify-ldt",
        title: "a segment descriptor of one's own",
        expected: attempts(&["modify_ldt: EPERM"]),
        ..DOORS
    },
    Attack {
        name: "vmsplice",
        rows: "17 59",
        title: "pages into a pipe by vmsplice, as Dirty Pipe does",
        expected: attempts(&["vmsplice: EPERM"]),
        ..DOORS
    },
    Attack {
        name: "file-handles",
        title: "a file handle, which no path rule stops",
        expected: attempts(&["file handle: EPERM"]),
        ..DOORS
    },
    Attack {
        name: "restrict-again",
        title: "landlock and seccomp of one's own",
        expected: attempts(&["landlock again: ENOSYS", "seccomp question: ENOSYS"]),
        closed: &[("landlock again", "not in every kernel")],
        ..DOORS
    },
    Attack {
        name: "secret-memory",
        title: "memory that the kernel itself cannot see",
        expected: attempts(&["memfd_secret: EPERM"]),
        closed: &[("memfd_secret", "not in every kernel")],
        ..DOORS
    },
    Attack {
        name: "socket-filter",
        title: "a BPF program on a socket",
        expected: attempts(&["socket filter: ENOPROTOOPT"]),
        ..DOORS
    },
    Attack {
        name: "memory-policy",
        title: "choose where memory lies",
        expected: attempts(&["memory policy: EPERM"]),
        ..DOORS
    },
    Attack { name: "bpf", title: "a BPF map", expected: attempts(&["bpf: EPERM"]), ..MACHINE },
    Attack {
        name: "fanotify",
        title: "see every open on a mount",
        expected: attempts(&["fanotify: EPERM"]),
        ..MACHINE
    },
    Attack {
        name: "kernel-log",
        rows: "57",
        title: "read the kernel's log, where addresses are",
        expected: attempts(&["kernel log: EPERM"]),
        ..MACHINE
    },
    Attack {
        name: "ports",
        title: "the machine's ports by ioperm and iopl",
        expected: attempts(&["ports: EPERM", "all ports: EPERM"]),
        closed: &[("ports", "not in every kernel"), ("all ports", "not in every kernel")],
        ..MACHINE
    },
    Attack {
        name: "kernel-modules",
        title: "load and unload kernel modules",
        expected: attempts(&["load a module: EPERM", "load a module's file: EPERM", "unload a module: EPERM"]),
        closed: &[
            ("load a module", "not in every kernel"),
            ("load a module's file", "not in every kernel"),
            ("unload a module", "not in every kernel"),
        ],
        ..MACHINE
    },
    Attack {
        name: "another-kernel",
        title: "kexec and reboot",
        expected: attempts(&["kexec: EPERM", "reboot: EPERM"]),
        closed: &[("kexec", "not in every kernel")],
        ..MACHINE
    },
    Attack {
        name: "swap-and-quota",
        title: "swap, accounting and quotas of the machine",
        expected: attempts(&["swapon: EPERM", "swapoff: EPERM", "accounting: EPERM", "quota: EPERM"]),
        ..MACHINE
    },
    Attack {
        name: "open-by-handle",
        title: "open a file by its inode number, the Shocker escape",
        expected: attempts(&["open by handle: EPERM"]),
        ..MACHINE
    },
    Attack {
        name: "abi-i386",
        title: "getpid, socketcall and ipc by int 0x80, where numbers mean something else",
        expected: attempts(&[
            "getpid by int 0x80: SIGSYS",
            "socketcall by int 0x80: SIGSYS",
            "ipc by int 0x80: SIGSYS",
        ]),
        needs: Needs::ForeignAbi,
        ..ABI
    },
    Attack {
        name: "abi-x32",
        title: "getpid and ptrace by their x32 numbers",
        expected: attempts(&["getpid of x32: SIGSYS", "ptrace of x32: SIGSYS"]),
        closed: &[("getpid of x32", "not in every kernel"), ("ptrace of x32", "not in every kernel")],
        ..ABI
    },
    Attack {
        name: "netlink",
        title: "a netlink socket, also with the high half of the family set",
        expected: attempts(&["family 16: EAFNOSUPPORT", "netlink, high bits set: EAFNOSUPPORT"]),
        ..FAMILIES
    },
    Attack {
        name: "odd-protocols",
        title: "raw sockets, UDP-Lite, MPTCP, pairs of another family than unix",
        expected: attempts(&[
            "raw: EAFNOSUPPORT",
            "udp-lite: EAFNOSUPPORT",
            "mptcp: EAFNOSUPPORT",
            "pair of another family: EAFNOSUPPORT",
        ]),
        closed: &[("raw", "needs CAP_NET_RAW"), ("udp-lite", "not in every kernel"), ("mptcp", "not in every kernel")],
        ..FAMILIES
    },
    Attack {
        name: "keyrings",
        rows: "62",
        title: "keys for the next run, in the user's and the session's keyring",
        layers: &[Layer::Seccomp, Layer::Inheritance],
        program: Program::Builtin("keys", &["add"]),
        expected: attempts(&[
            "add to the user's keyring: ENOSYS",
            "add to the session's keyring: ENOSYS",
            "find in the user's keyring: ENOSYS",
            "find in the session's keyring: ENOSYS",
            "request: ENOSYS",
        ]),
        alone: &[("seccomp", &["new_session_keyring"])],
        ..DOORS
    },
    Attack {
        name: "type-into-a-terminal",
        rows: "67",
        title: "TIOCSTI and TIOCLINUX, also with the high half of the number set",
        layers: &[Layer::Seccomp, Layer::Inheritance],
        program: Program::Builtin("terminal", &[]),
        expected: attempts(&["type: ENOTTY", "type, high bits set: ENOTTY", "paste: ENOTTY"]),
        alone: &[("no terminal and no ptmx", &[SECCOMP, LANDLOCK])],
        control: Bare(&[]),
        closed: &[
            ("paste", "only on a console of the machine"),
            ("type", "needs the sysctl dev.tty.legacy_tiocsti"),
            ("type, high bits set", "needs the sysctl dev.tty.legacy_tiocsti"),
        ],
        ..KERNEL
    },
    Attack {
        name: "open-the-terminal",
        rows: "67",
        title: "open the terminal that sandboxd was started from",
        layers: &[Layer::Mounts, Layer::Inheritance],
        program: Program::Builtin("terminal", &[]),
        expected: attempts(&["open the terminal: ENOENT"]),
        alone: &[("no terminal and no ptmx", &[SECCOMP, LANDLOCK])],
        control: Bare(&[]),
        ..KERNEL
    },
    Attack {
        name: "set-the-clock",
        rows: "68",
        title: "the machine's clock, by the four calls that set it",
        program: Program::Builtin("clocks", &[]),
        expected: attempts(&[
            "ask adjtimex: EPERM",
            "ask clock_adjtime: EPERM",
            "clock_settime: EPERM",
            "settimeofday: EPERM",
        ]),
        ..DOORS
    },
    Attack {
        name: "connect-tcp",
        title: "reach a TCP service on the host's loopback",
        program: Program::Builtin("connect", &["tcp", "{tcp}"]),
        expected: attempts(&["tcp: EACCES|ENETUNREACH"]),
        ..CONNECT
    },
    Attack {
        name: "send-udp",
        title: "reach a UDP service on the host's loopback",
        layers: &[Layer::Namespaces],
        program: Program::Builtin("connect", &["udp", "{udp}"]),
        expected: attempts(&["udp: ENETUNREACH"]),
        ..CONNECT
    },
    Attack {
        name: "abstract-socket",
        rows: "63",
        title: "reach an abstract unix socket of the host (CVE-2020-15257)",
        layers: &[Layer::Namespaces, Layer::Landlock],
        program: Program::Builtin("connect", &["abstract", "{abstract}"]),
        expected: attempts(&["abstract socket: ECONNREFUSED"]),
        ..CONNECT
    },
    Attack {
        name: "socket-by-path",
        rows: "64",
        title: "reach a unix socket of the host by its path, as docker.sock",
        layers: &[Layer::Mounts],
        program: Program::Builtin("connect", &["path", "{path}"]),
        expected: attempts(&["socket by path: ENOENT"]),
        ..CONNECT
    },
    Attack {
        name: "far-network",
        title: "the metadata service, a name server, a private network, IPv6 loopback",
        program: Program::Builtin("connect", &["far"]),
        expected: attempts(&[
            "metadata service: EACCES|ENETUNREACH",
            "name server: ENETUNREACH",
            "private network: EACCES|ENETUNREACH|EADDRNOTAVAIL|EAFNOSUPPORT|EBADF",
            "loopback of version 6: EACCES|ENETUNREACH|EADDRNOTAVAIL|EAFNOSUPPORT|EBADF",
        ]),
        ..CONNECT
    },
    Attack {
        name: "ipc-for-the-next-run",
        rows: "66",
        title: "leave shared memory, a queue and semaphores for the next run",
        layers: &[Layer::Namespaces],
        program: Program::Builtin("ipc", &["find"]),
        before: &["leave"],
        expected: attempts(&["find shared memory: ENOENT", "find a queue: ENOENT", "find a semaphore: ENOENT"]),
        control: Test("ipc_objects_do_not_outlive_their_run"),
        ..KERNEL
    },
    Attack {
        name: "posix-queue",
        rows: "66",
        title: "make a POSIX message queue, which outlives its maker",
        layers: &[Layer::Rlimits, Layer::Landlock, Layer::Namespaces],
        program: Program::Builtin("ipc", &["leave"]),
        expected: attempts(&["leave a posix queue: EMFILE"]),
        control: Without(&["set_rlimits", LANDLOCK]),
        ..KERNEL
    },
    Attack {
        name: "machine-names",
        rows: "57 64 72",
        title: "learn the machine's name, ids, addresses, processes and devices from 35 well-known files",
        layers: &[Layer::Mounts, Layer::Namespaces],
        program: Program::Shell(include_str!("../programs/names.sh")),
        expected: Expected { printed: Printed::Text("name: sandbox\n"), ..REFUSED },
        control: Test("the_machine_keeps_its_secrets"),
        ..KERNEL
    },
    Attack {
        name: "proc-of-others",
        rows: "57",
        title: "see any process but oneself",
        layers: &[Layer::Mounts],
        program: Program::Shell(
            "cd /proc; for f in *; do case $f in $$) ;; *) echo $f;; esac; done; for i in 1 3 4 5 6 7 8 9 10; do [ $i = $$ ] || [ ! -e $i ] || echo $i; done; true",
        ),
        expected: Expected { printed: Printed::Text("self\nthread-self\n"), ..REFUSED },
        control: Test("the_machine_keeps_its_secrets"),
        ..KERNEL
    },
    Attack {
        name: "sweep-x86-64",
        rows: "59",
        title: "every system call number from 0 to 600",
        program: Program::Builtin("sweep", &["x86_64", "0", "600"]),
        expected: sweep(Sweep::Calls),
        ..SWEEP
    },
    Attack {
        name: "sweep-i386",
        rows: "60",
        title: "every system call number from 0 to 600 by int 0x80",
        program: Program::Builtin("sweep", &["i386", "0", "600"]),
        expected: sweep(Sweep::Foreign),
        needs: Needs::ForeignAbi,
        ..SWEEP
    },
    Attack {
        name: "sweep-x32",
        rows: "60",
        title: "every system call number from 0 to 600 with the x32 bit",
        program: Program::Builtin("sweep", &["x32", "0", "600"]),
        expected: sweep(Sweep::Foreign),
        ..SWEEP
    },
    Attack {
        name: "sweep-socket-families",
        rows: "61",
        title: "a socket of every family from 0 to 63 and of four types",
        program: Program::Builtin("sweep", &["families", "0", "63"]),
        expected: sweep(Sweep::Families),
        // Asking for a family may load its module on the host, so only netlink is asked for without the filter.
        control: Test("attacks_on_the_kernel_are_refused"),
        ..SWEEP
    },
    Attack {
        name: "sweep-prctl",
        rows: "32 59",
        title: "every prctl option from 0 to 127 and those that are words",
        program: Program::Builtin("sweep", &["prctl", "0", "127"]),
        expected: sweep(Sweep::Prctl),
        ..SWEEP
    },
    Attack {
        name: "sweep-ioctl",
        rows: "67",
        title: "350,000 ioctls of terminals, consoles, networks, disks and virtual machines",
        program: Program::Builtin("sweep", &["ioctl"]),
        expected: sweep(Sweep::Ioctl),
        ..SWEEP
    },
];
