//! Section A: files, mounts, devices.

use super::{LANDLOCK, SECCOMP};
use crate::selftest::attack::Control::{Allowed, Bare, Test, Unshared, Without};
use crate::selftest::attack::{
    ATTACK, Attack, Expected, Layer, Needs, Printed, Program, REFUSED, Section, attempts, text,
};

const FILES: Attack = Attack { section: Section::Files, ..ATTACK };

/// Capabilities cannot be left in place: the exec of a user that is not root drops them in any case.
const MOUNTS: Attack = Attack {
    rows: "12",
    layers: &[Layer::Seccomp, Layer::Capabilities],
    program: Program::Builtin("mounts", &[]),
    alone: &[("no capabilities", &[SECCOMP, LANDLOCK])],
    control: Unshared(&[]),
    ..FILES
};

const PROC_OF_INIT: Attack = Attack {
    layers: &[Layer::Mounts, Layer::Init],
    program: Program::Builtin("executable", &["parent"]),
    alone: &[
        ("the invisible process", &[SECCOMP, LANDLOCK]),
        ("an init that nobody may trace", &["become_payload_user", SECCOMP, LANDLOCK]),
    ],
    control: Allowed(&["self"]),
    ..FILES
};

const NOTICES: Attack = Attack {
    rows: "18",
    layers: &[Layer::Seccomp],
    program: Program::Builtin("notices", &[]),
    alone: &[("seccomp", &[LANDLOCK])],
    control: Without(&[SECCOMP]),
    ..FILES
};

const FLOOD: Attack =
    Attack { layers: &[Layer::Mounts], control: Test("scratch_places_fill_up_and_nothing_else_does"), ..FILES };

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "mount-filesystem",
        rows: "12 55",
        title: "mount a tmpfs, mount a cgroup hierarchy to write release_agent",
        expected: attempts(&["mount tmpfs: EPERM", "mount cgroup: EPERM"]),
        ..MOUNTS
    },
    Attack {
        name: "mount-bind",
        title: "bind a directory of one's own over a system file",
        expected: attempts(&["bind: EPERM", "bind over a system file: EPERM"]),
        ..MOUNTS
    },
    Attack {
        name: "mount-remount",
        title: "remount the root writable, share mounts with the host",
        expected: attempts(&["remount the root writable: EPERM", "change propagation: EPERM"]),
        ..MOUNTS
    },
    Attack {
        name: "mount-umount",
        title: "take a mount off what it covers",
        expected: attempts(&["umount: EPERM"]),
        ..MOUNTS
    },
    Attack {
        name: "mount-by-descriptor",
        title: "the same by fsopen, fspick, open_tree and move_mount",
        expected: attempts(&["fsopen: EPERM", "fspick: EPERM", "open_tree: EPERM", "move_mount: EPERM"]),
        ..MOUNTS
    },
    Attack {
        name: "mount-attributes",
        title: "clear read-only by mount_setattr",
        expected: attempts(&["mount_setattr: EPERM"]),
        ..MOUNTS
    },
    Attack {
        name: "chroot",
        rows: "13",
        title: "chroot, the first half of the classic escape",
        expected: attempts(&["chroot: EPERM"]),
        ..MOUNTS
    },
    Attack {
        name: "pivot-root",
        rows: "13",
        title: "put another root in place of the image",
        expected: attempts(&["pivot_root: EPERM"]),
        ..MOUNTS
    },
    Attack {
        name: "host-file",
        rows: "1 13",
        title: "open a file of the host by its path, and by enough `..`",
        layers: &[Layer::Mounts],
        program: Program::Builtin("paths", &["{file}"]),
        expected: attempts(&[
            "by its path: ENOENT",
            "by dots: ENOENT",
            "by the root of /proc: ENOENT",
            "by the working directory of /proc: ENOENT",
            "by the starter's root: ENOENT",
        ]),
        control: Bare(&["{file}"]),
        ..FILES
    },
    Attack {
        name: "device-nodes",
        rows: "15",
        title: "make device nodes of all 512 major numbers",
        layers: &[Layer::Seccomp, Layer::Landlock, Layer::Capabilities],
        program: Program::Builtin("devices", &["make"]),
        expected: attempts(&["devices of all majors: EPERM"]),
        alone: &[("landlock and no capabilities", &[SECCOMP]), ("seccomp and no capabilities", &[LANDLOCK])],
        control: Bare(&["make"]),
        ..FILES
    },
    Attack {
        name: "whiteout",
        rows: "15",
        title: "make an overlay's whiteout, the one device that needs no capability",
        layers: &[Layer::Seccomp, Layer::Landlock],
        program: Program::Builtin("devices", &["make"]),
        expected: attempts(&["whiteout: EPERM"]),
        alone: &[("landlock", &[SECCOMP]), ("seccomp", &[LANDLOCK])],
        control: Without(&[SECCOMP, LANDLOCK]),
        ..FILES
    },
    Attack {
        name: "device-files",
        rows: "15",
        title: "open kmsg, mem, kvm, fuse, net/tun, vsock, loops, disks and more",
        layers: &[Layer::Mounts],
        program: Program::Builtin("devices", &["open"]),
        expected: attempts(&["open any: ENOENT"]),
        alone: &[("mounts", &[SECCOMP, LANDLOCK])],
        control: Bare(&["open"]),
        ..FILES
    },
    Attack {
        name: "runtime-overwrite",
        rows: "14",
        title: "reach the program that started the payload (CVE-2019-5736)",
        expected: attempts(&["read the link to the starter's program: ENOENT", "open the starter's program: ENOENT"]),
        ..PROC_OF_INIT
    },
    Attack {
        name: "init-by-proc",
        rows: "25 50",
        title: "read root, memory and environment of init through /proc",
        expected: attempts(&[
            "open the starter's root: ENOENT",
            "open the starter's memory: ENOENT",
            "open the starter's environment: ENOENT",
        ]),
        ..PROC_OF_INIT
    },
    Attack {
        name: "writable-tree",
        rows: "12 56 57",
        title: "walk everything there is and try to create or open it for writing",
        layers: &[Layer::Landlock, Layer::Mounts],
        program: Program::Builtin("walk", &["/"]),
        expected: Expected {
            printed: Printed::AllAttempts(&[
                "/dev/full: ok",
                "/dev/null: ok",
                "/dev/random: ok",
                "/dev/urandom: ok",
                "/dev/zero: ok",
                "/tmp/: ok",
                "/work/: ok",
                "/work/attack: ok",
                "anything refused: yes",
            ]),
            ..REFUSED
        },
        control: Test("only_the_scratch_places_and_devices_are_writable"),
        ..FILES
    },
    Attack {
        name: "hard-links",
        rows: "5",
        title: "link every file of the image into one's own directory",
        layers: &[Layer::Landlock, Layer::Mounts],
        program: Program::Builtin("hardlinks", &["/usr/bin", "/etc", "/work"]),
        expected: attempts(&["link a file of /etc: EXDEV", "link a file of /usr/bin: EXDEV"]),
        control: Test("system_files_cannot_be_linked_to"),
        ..FILES
    },
    Attack {
        name: "inode-flood-tmp",
        rows: "7",
        title: "a million files in /tmp",
        program: Program::Builtin("flood", &["files", "/tmp", "1000000"]),
        expected: attempts(&["files: ENOSPC"]),
        ..FLOOD
    },
    Attack {
        name: "inode-flood-work",
        rows: "7",
        title: "a million files in the work directory",
        program: Program::Builtin("flood", &["files", "/work", "1000000"]),
        expected: attempts(&["files: ENOSPC"]),
        ..FLOOD
    },
    Attack {
        name: "disk-flood-tmp",
        rows: "8",
        title: "a gigabyte into one file of /tmp",
        layers: &[Layer::Rlimits, Layer::Mounts],
        program: Program::Builtin("flood", &["bytes", "/tmp", "1000000000"]),
        expected: attempts(&["bytes: ENOSPC|EFBIG"]),
        ..FLOOD
    },
    Attack {
        name: "disk-flood-work",
        rows: "8",
        title: "a gigabyte into one file of the work directory",
        layers: &[Layer::Rlimits, Layer::Mounts],
        program: Program::Builtin("flood", &["bytes", "/work", "1000000000"]),
        expected: attempts(&["bytes: ENOSPC|EFBIG"]),
        ..FLOOD
    },
    Attack {
        name: "preallocate",
        rows: "8",
        title: "reserve a gigabyte by fallocate",
        layers: &[Layer::Rlimits, Layer::Mounts],
        program: Program::Builtin("flood", &["fallocate", "/tmp", "1000000000"]),
        expected: attempts(&["fallocate: EFBIG"]),
        ..FLOOD
    },
    Attack {
        name: "sparse-giant",
        rows: "4",
        title: "a file of a tebibyte that has no bytes",
        layers: &[Layer::Rlimits],
        program: Program::Builtin("flood", &["sparse", "/tmp", "1099511627776"]),
        expected: attempts(&["sparse: EFBIG"]),
        control: Without(&["set_rlimits"]),
        ..FILES
    },
    Attack {
        name: "files-for-the-next-run",
        rows: "9 37",
        title: "leave files in /tmp, the work directory and /dev/shm for the next run to find",
        layers: &[Layer::Mounts],
        program: Program::Builtin("leave", &["find"]),
        before: &["leave"],
        expected: attempts(&["find in /tmp: ENOENT", "find in /work: ENOENT", "find in /dev/shm: ENOENT"]),
        control: Allowed(&["leave", "find"]),
        ..FILES
    },
    Attack {
        name: "leases",
        title: "take a lease or ask for notices on files that neighbours share",
        expected: attempts(&["lease: EINVAL", "directory notice: EINVAL"]),
        ..NOTICES
    },
    Attack {
        name: "inotify",
        title: "watch which programs of the image neighbours open",
        expected: attempts(&["inotify: ENOSYS", "inotify on a shared directory: ENOSYS"]),
        ..NOTICES
    },
    Attack {
        name: "page-cache-probe",
        rows: "18 74",
        title: "see which pages of shared files are in memory, and drop them",
        expected: attempts(&["mincore: ENOSYS", "cachestat: ENOSYS", "drop shared pages: EINVAL"]),
        ..NOTICES
    },
    Attack {
        name: "core-dump",
        rows: "19",
        title: "have a core dumped, by way of the limits that a piped core_pattern ignores",
        layers: &[Layer::Seccomp, Layer::Rlimits],
        program: Program::Builtin("dumps", &[]),
        expected: attempts(&[
            "setrlimit core: EPERM",
            "prlimit core: EPERM",
            "raise core: EPERM",
            "leave a core: ENOENT",
        ]),
        alone: &[("seccomp", &[LANDLOCK])],
        control: Without(&[SECCOMP, "limit_core_dumps"]),
        closed: &[("leave a core", "asked for by a test of its own, where core_pattern names a file")],
        ..FILES
    },
    Attack {
        name: "set-user-id-files",
        rows: "16",
        title: "find a set-user-id file, a socket or a device in the image",
        layers: &[Layer::Mounts],
        program: Program::Shell(
            "find / -xdev \\( -perm /6000 -o -type s -o -type b -o -type c -o -type p \\) -not -path '/dev/*' 2>/dev/null",
        ),
        expected: text(""),
        control: Test("images_hold_no_set_user_id_file"),
        needs: Needs::BuiltImage,
        ..FILES
    },
    Attack {
        name: "own-a-file-as-root",
        rows: "16 69",
        title: "give a file to root",
        layers: &[Layer::Namespaces],
        program: Program::Builtin("identity", &[]),
        expected: attempts(&["own a file as root: EINVAL"]),
        alone: &[("the user namespace", &[SECCOMP, LANDLOCK])],
        control: Bare(&[]),
        ..FILES
    },
];
