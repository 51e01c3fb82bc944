//! What this machine can enforce: looked at once, without changing anything, and then a plain value.

use std::fs;

use nix::errno::Errno;

use super::cell::IdRange;
use super::message::errno;
use super::{cgroup, sys};
use crate::words::host::{CgroupKind, Host, NAMESPACES, Privilege};
use crate::words::verdict::errno_text;

/// What the machine can do could not be found out.
#[derive(Debug, thiserror::Error)]
#[error("failed to find out whether this kernel has {what}: {}", errno_text(*.source as i32))]
pub struct ProbeError {
    pub what: &'static str,
    pub source: Errno,
}

/// Looks at the machine. The cgroup layout is probed beside this, because it depends on configuration.
///
/// # Errors
/// The kernel answered neither yes nor no. To take that for a no would make every run weaker than it has to be.
pub fn host(cgroup: cgroup::Kind) -> Result<Host, ProbeError> {
    let uname = rustix::system::uname();
    let (_, open_files_hard) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap_or((256, 256));
    let action = |action, what| is_there(sys::seccomp_action_available(action), what).map(|there| there.is_some());
    Ok(Host {
        kernel: uname.release().to_string_lossy().into_owned(),
        privilege: if nix::unistd::geteuid().is_root() { Privilege::Root } else { Privilege::Rootless },
        cgroup: cgroup_kind(cgroup),
        overlay: has_overlay()?,
        landlock_abi: is_there(sys::landlock_abi(), "landlock")?.unwrap_or(0),
        seccomp: action(libc::SECCOMP_RET_ERRNO, "seccomp")?,
        seccomp_notify: action(libc::SECCOMP_RET_USER_NOTIF, "seccomp notifications")?,
        namespaces: namespaces()?,
        speculation_store_bypass: speculation_is_controllable(0)?,
        speculation_indirect_branch: speculation_is_controllable(1)?,
        open_files_hard,
        cores: cores(),
    })
}

/// A layout of cgroups in the words of plans and verdicts.
pub fn cgroup_kind(cgroup: cgroup::Kind) -> CgroupKind {
    match cgroup {
        cgroup::Kind::V2 => CgroupKind::V2,
        cgroup::Kind::Hybrid => CgroupKind::Hybrid,
        cgroup::Kind::None => CgroupKind::None,
    }
}

/// `None` for the answers by which a kernel, or a container around us, says that it has no such thing.
fn is_there<T>(answer: Result<T, Errno>, what: &'static str) -> Result<Option<T>, ProbeError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENODEV | Errno::ENXIO | Errno::EPERM) => {
            Ok(None)
        }
        Err(source) => Err(ProbeError { what, source }),
    }
}

/// Whether the kernel has overlayfs; asking for it loads its module where that is allowed.
fn has_overlay() -> Result<bool, ProbeError> {
    let listed = |text: String| text.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    if fs::read_to_string("/proc/filesystems").is_ok_and(listed) {
        return Ok(true);
    }
    let opened = rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC);
    is_there(opened.map_err(errno), "overlayfs").map(|there| there.is_some())
}

fn namespaces() -> Result<Vec<&'static str>, ProbeError> {
    let mut found = Vec::new();
    for name in NAMESPACES {
        let file = format!("/proc/self/ns/{}", if name == "mount" { "mnt" } else { name });
        match fs::exists(file) {
            Ok(true) => found.push(name),
            Ok(false) => {}
            Err(error) => {
                let source = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                return Err(ProbeError { what: "namespaces", source });
            }
        }
    }
    Ok(found)
}

/// CPUs this process may run on. (std's answer reads five cgroup files besides, at every start.)
fn cores() -> u32 {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    let count = |set: nix::sched::CpuSet| {
        (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count()
    };
    allowed.map_or(1, |set| count(set).max(1) as u32)
}

/// Whether prctl can force a speculation misfeature off for a task (linux/prctl.h: PR_SPEC_PRCTL), and it is not off
/// for good already.
fn speculation_is_controllable(feature: u64) -> Result<bool, ProbeError> {
    const PR_GET_SPECULATION_CTRL: i32 = 52;
    const PR_SPEC_PRCTL: i32 = 1;
    const PR_SPEC_FORCE_DISABLE: i32 = 8;
    let state = is_there(sys::prctl(PR_GET_SPECULATION_CTRL, feature, 0, 0, 0), "speculation controls")?;
    Ok(state.is_some_and(|state| state & PR_SPEC_PRCTL != 0 && state & PR_SPEC_FORCE_DISABLE == 0))
}

/// Ids that no account of a machine has: systemd's table of ids marks 1879048192 to 2147483647 as unused by anybody.
const IDS_FIRST: u32 = 0x7000_0000;
/// Two ids for every process id there can be (PID_MAX_LIMIT is 2^22).
const IDS_COUNT: u32 = 1 << 23;

/// The ids that this process may give to cells: the usual range where it is mapped, else the upper half of the largest
/// range that is (in a container).
///
/// # Errors
/// What is mapped cannot be read. Nothing may stand in for it: the ids would be the machine's own.
pub fn id_range() -> Result<IdRange, Errno> {
    let map = fs::read_to_string("/proc/self/uid_map");
    let map = map.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(id_range_within(&map))
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
