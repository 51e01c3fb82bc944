//! What this machine can enforce: looked at once, without changing anything, and then a plain value.

use std::fs;

use super::cell::IdRange;
use super::{cgroup, sys};
use crate::words::host::{CgroupKind, Host, NAMESPACES, Privilege};

/// Looks at the machine. The cgroup layout is probed beside this, because it depends on configuration.
pub fn host(cgroup: cgroup::Kind) -> Host {
    let uname = rustix::system::uname();
    let (_, open_files_hard) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap_or((256, 256));
    Host {
        kernel: uname.release().to_string_lossy().into_owned(),
        privilege: if nix::unistd::geteuid().is_root() { Privilege::Root } else { Privilege::Rootless },
        cgroup: match cgroup {
            cgroup::Kind::V2 => CgroupKind::V2,
            cgroup::Kind::Hybrid => CgroupKind::Hybrid,
            cgroup::Kind::None => CgroupKind::None,
        },
        overlay: has_overlay(),
        landlock_abi: sys::landlock_abi(),
        seccomp: sys::seccomp_action_available(libc::SECCOMP_RET_ERRNO),
        seccomp_notify: sys::seccomp_action_available(libc::SECCOMP_RET_USER_NOTIF),
        namespaces: NAMESPACES.into_iter().filter(|name| fs::exists(namespace_file(name)).unwrap_or(false)).collect(),
        speculation_store_bypass: speculation_is_controllable(0),
        speculation_indirect_branch: speculation_is_controllable(1),
        open_files_hard,
        cores: cores(),
    }
}

/// Whether the kernel has overlayfs; asking for it loads its module where that is allowed.
fn has_overlay() -> bool {
    let listed = |text: String| text.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    fs::read_to_string("/proc/filesystems").is_ok_and(listed)
        || rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

/// CPUs this process may run on. (std's answer reads five cgroup files besides, at every start.)
fn cores() -> u32 {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    let count = |set: nix::sched::CpuSet| {
        (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count()
    };
    allowed.map_or(1, |set| count(set).max(1) as u32)
}

fn namespace_file(name: &str) -> String {
    format!("/proc/self/ns/{}", if name == "mount" { "mnt" } else { name })
}

/// Whether prctl can force a speculation misfeature off for a task (linux/prctl.h: PR_SPEC_PRCTL), and it is not off
/// for good already.
fn speculation_is_controllable(feature: u64) -> bool {
    const PR_GET_SPECULATION_CTRL: i32 = 52;
    const PR_SPEC_PRCTL: i32 = 1;
    const PR_SPEC_FORCE_DISABLE: i32 = 8;
    sys::prctl(PR_GET_SPECULATION_CTRL, feature, 0, 0, 0)
        .is_ok_and(|state| state & PR_SPEC_PRCTL != 0 && state & PR_SPEC_FORCE_DISABLE == 0)
}

/// Ids that no account of a machine has: systemd's table of ids marks 1879048192 to 2147483647 as unused by anybody.
const IDS_FIRST: u32 = 0x7000_0000;
/// Two ids for every process id there can be (PID_MAX_LIMIT is 2^22).
const IDS_COUNT: u32 = 1 << 23;

/// The ids that this process may give to cells: the usual range where it is mapped, else the upper half of the largest
/// range that is (in a container).
pub fn id_range() -> IdRange {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    id_range_within(&map)
}

fn id_range_within(map: &str) -> IdRange {
    let extents = map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        Some((numbers.next()??, numbers.nth(1)??))
    });
    let usual = IdRange { first: IDS_FIRST, count: IDS_COUNT };
    let end = u64::from(IDS_FIRST) + u64::from(IDS_COUNT);
    let mut largest = (0, 0);
    for (first, count) in extents {
        if first <= u64::from(IDS_FIRST) && first + count >= end {
            return usual;
        }
        if count > largest.1 {
            largest = (first, count);
        }
    }
    let half = (largest.1 / 2).max(2) & !1;
    IdRange { first: (largest.0 + largest.1.saturating_sub(half)) as u32, count: half as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_get_ids_that_are_mapped() {
        let full = id_range_within("         0          0 4294967295\n");
        assert_eq!(full, IdRange { first: IDS_FIRST, count: IDS_COUNT });
        let container = id_range_within("0 100000 65536\n");
        assert_eq!(container, IdRange { first: 32768, count: 32768 });
    }
}
