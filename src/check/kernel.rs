//! What the kernel offers this process, beside what a cell shows from inside: version, privilege, namespaces, limits.

use std::fs;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::{CELLS_WANTED, Group, Layer};
use crate::sandbox::sys;

/// Everything a cell is made of exists since 5.12, with mount_setattr(2).
const KERNEL_NEEDED: (u32, u32) = (5, 12);

pub(super) fn layers() -> Vec<Layer> {
    let mut layers = vec![version(), privilege()];
    layers.extend(NAMESPACES.iter().map(namespace));
    layers.extend([seccomp_notification(), core_pattern(), processes(), namespace_limits()]);
    layers
}

fn version() -> Layer {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = KERNEL_NEEDED;
    if version < KERNEL_NEEDED {
        let detail = format!("Linux {release} is older than {major}.{minor}");
        return Layer::missing(Group::Machine, "kernel", detail, "install a newer kernel; 6.12 and later serve best")
            .required();
    }
    Layer::enforced(Group::Machine, "kernel", format!("Linux {release}; {major}.{minor} is needed")).required()
}

/// What the supervisor needs as root, and what the lack of each costs. The first five are indispensable.
const CAPABILITIES: [(Capability, &str); 8] = [
    (Capability::CAP_SYS_ADMIN, "no namespaces, no mounts"),
    (Capability::CAP_SETUID, "no id maps"),
    (Capability::CAP_SETGID, "no id maps"),
    (Capability::CAP_MKNOD, "no /dev for the images"),
    (Capability::CAP_KILL, "no end to a cell"),
    (Capability::CAP_DAC_OVERRIDE, "files of other users stay closed to the supervisor"),
    (Capability::CAP_CHOWN, "files cannot be given to the payload"),
    (
        Capability::CAP_SYS_RESOURCE,
        "a cell gets no more open files than this process's own hard limit, and sandboxd cannot shield itself from \
         the out-of-memory killer",
    ),
];
const CAPABILITIES_INDISPENSABLE: usize = 5;

/// The capabilities that root lacks here.
fn lacking() -> Vec<usize> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    (0..CAPABILITIES.len()).filter(|index| !held.contains(&CAPABILITIES[*index].0)).collect()
}

fn privilege() -> Layer {
    if !nix::unistd::geteuid().is_root() {
        let detail = "an ordinary user: init and the program share your user id, images of erofs layers cannot be \
                      mounted, and cgroups only if a subtree is delegated";
        return Layer::weaker(Group::Machine, "privilege", detail, "run as root").required();
    }
    let lacking = lacking();
    let costs: Vec<_> = lacking
        .iter()
        .map(|index| CAPABILITIES[*index])
        .map(|(capability, cost)| format!("without {capability}: {cost}"))
        .collect();
    let detail = format!("root {}", costs.join("; "));
    let remedy = "let the container or service keep the capability (CapabilityBoundingSet= in systemd)";
    let layer = match lacking.first() {
        None => Layer::enforced(Group::Machine, "privilege", "root with every capability that is needed"),
        Some(index) if *index < CAPABILITIES_INDISPENSABLE => {
            Layer::missing(Group::Machine, "privilege", detail, remedy)
        }
        Some(_) => Layer::weaker(Group::Machine, "privilege", detail, remedy),
    };
    layer.required()
}

struct Namespace {
    name: &'static str,
    flag: CloneFlags,
    option: &'static str,
    sysctl: &'static str,
}

const fn namespace_type(name: &'static str, flag: CloneFlags, option: &'static str, sysctl: &'static str) -> Namespace {
    Namespace { name, flag, option, sysctl }
}

const NAMESPACES: [Namespace; 7] = [
    namespace_type("user", CloneFlags::CLONE_NEWUSER, "CONFIG_USER_NS", "max_user_namespaces"),
    namespace_type("pid", CloneFlags::CLONE_NEWPID, "CONFIG_PID_NS", "max_pid_namespaces"),
    namespace_type("mount", CloneFlags::CLONE_NEWNS, "CONFIG_NAMESPACES", "max_mnt_namespaces"),
    namespace_type("net", CloneFlags::CLONE_NEWNET, "CONFIG_NET_NS", "max_net_namespaces"),
    namespace_type("ipc", CloneFlags::CLONE_NEWIPC, "CONFIG_IPC_NS", "max_ipc_namespaces"),
    namespace_type("uts", CloneFlags::CLONE_NEWUTS, "CONFIG_UTS_NS", "max_uts_namespaces"),
    namespace_type("cgroup", CloneFlags::CLONE_NEWCGROUP, "CONFIG_CGROUPS", "max_cgroup_namespaces"),
];

/// A child is really made in it; as every cell is, inside a new user namespace.
fn namespace(kind: &Namespace) -> Layer {
    let name = format!("namespace {}", kind.name);
    let flags = (CloneFlags::CLONE_NEWUSER | kind.flag).bits() as u64;
    let errno = match sys::clone_init(flags, None, None, || 0) {
        Ok(child) => {
            let pidfd = std::os::fd::AsFd::as_fd(&child.pidfd);
            // It ends by itself at once; there is nothing to learn from how.
            let _ended = waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED | WaitPidFlag::__WALL);
            return Layer::enforced(Group::Machine, name, "a process was made in a new one").required();
        }
        Err(errno) => errno,
    };
    let remedy = match errno {
        Errno::EINVAL => format!("use a kernel with {}", kind.option),
        Errno::ENOSPC | Errno::EUSERS => format!("raise the sysctl user.{}", kind.sysctl),
        Errno::EPERM | Errno::EACCES if nix::unistd::geteuid().is_root() => {
            "a container must keep CAP_SYS_ADMIN and let clone3 pass its seccomp filter".to_owned()
        }
        Errno::EPERM | Errno::EACCES => "run as root, or allow it: sysctl kernel.unprivileged_userns_clone=1, \
                                         kernel.apparmor_restrict_unprivileged_userns=0"
            .to_owned(),
        errno => crate::runner::remedy(errno).unwrap_or("look at the kernel's log").to_owned(),
    };
    let detail = format!("refused: {}", crate::words::verdict::errno_text(errno as i32));
    Layer::missing(Group::Machine, name, detail, remedy).required()
}

fn seccomp_notification() -> Layer {
    let name = "seccomp notification";
    if sys::seccomp_action_available(libc::SECCOMP_RET_USER_NOTIF).is_ok() {
        return Layer::enforced(Group::Machine, name, "denied system calls are reported by their names");
    }
    let detail = "denied system calls fail just as surely, but no verdict names them";
    Layer::weaker(Group::Machine, name, detail, "use Linux 5.0 or later with CONFIG_SECCOMP_FILTER")
}

fn core_pattern() -> Layer {
    let pattern = read("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let detail = match pattern.strip_prefix('|') {
        // A limit of 0 would be ignored for a pipe.
        Some(handler) => format!(
            "crashes here are piped into {}, on the host; RLIMIT_CORE of 1 keeps those of a cell from it",
            handler.split_whitespace().next().unwrap_or("a program")
        ),
        None => format!("crashes go to the file {pattern:?}; RLIMIT_CORE of 1 leaves none of a cell's"),
    };
    Layer::enforced(Group::Machine, "core dumps", detail)
}

/// init and one payload for each cell are the least.
fn processes() -> Layer {
    let named = |name: &'static str, path: &str| Some((number(path)?, name));
    let mut limits: Vec<(u64, &str)> = vec![];
    limits.extend(named("kernel.threads-max", "/proc/sys/kernel/threads-max"));
    limits.extend(named("kernel.pid_max", "/proc/sys/kernel/pid_max"));
    if !nix::unistd::geteuid().is_root()
        && let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NPROC)
    {
        limits.push((soft, "RLIMIT_NPROC"));
    }
    let Some((least, name)) = limits.into_iter().min() else {
        return Layer::weaker(Group::Capacity, "processes", "/proc tells no limits", "mount /proc");
    };
    let wanted = 2 * CELLS_WANTED;
    let detail = format!("{least} at once ({name}); {CELLS_WANTED} cells need at least {wanted}");
    match least >= wanted {
        true => Layer::enforced(Group::Capacity, "processes", detail),
        false => Layer::weaker(Group::Capacity, "processes", detail, format!("raise {name}")),
    }
}

fn namespace_limits() -> Layer {
    let limits = NAMESPACES.iter().filter_map(|kind| Some((number(&format!("/proc/sys/user/{}", kind.sysctl))?, kind)));
    let Some((least, kind)) = limits.min_by_key(|(limit, _)| *limit) else {
        return Layer::enforced(Group::Capacity, "namespaces", "this kernel has no limits of its own");
    };
    let detail = format!("{least} at once (user.{}); each cell needs one of each kind", kind.sysctl);
    let remedy = format!("raise the sysctl user.{}", kind.sysctl);
    match least {
        0 => Layer::missing(Group::Capacity, "namespaces", detail, remedy).required(),
        few if few < CELLS_WANTED => Layer::weaker(Group::Capacity, "namespaces", detail, remedy),
        _ => Layer::enforced(Group::Capacity, "namespaces", detail),
    }
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    read(path)?.parse().ok()
}
