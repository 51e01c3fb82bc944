//! The front gives up everything it will not need, before it has read a single byte from anybody.

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid};

use crate::sandbox::seccomp::{Denial, Policy};
use crate::sandbox::sys;

const POLICY: &str = include_str!("../../sandbox-profiles/front-seccomp.toml");
const POLICY_FILE: &str = "sandbox-profiles/front-seccomp.toml";

/// The policy of the front's system calls.
///
/// # Errors
/// It does not parse; a test holds that it does.
pub fn policy() -> Result<Policy, crate::sandbox::seccomp::PolicyError> {
    Policy::parse(POLICY, POLICY_FILE)
}

/// Becomes `uid` and `gid`, without supplementary groups, capabilities or a way to get any, and without the system calls
/// that the front's policy does not name. Then each lock is tried.
///
/// # Errors
/// Any of it failed, or did not hold.
pub fn give_up(uid: Uid, gid: Gid) -> anyhow::Result<()> {
    let prctl = |option, argument, what: &'static str| sys::prctl(option, argument, 0, 0, 0).context(what);
    if nix::unistd::geteuid().is_root() {
        // From the bounding set while there is still the capability to do so.
        for capability in caps::all() {
            caps::drop(None, caps::CapSet::Bounding, capability).context("drop a capability from the bounding set")?;
        }
        nix::unistd::setgroups(&[]).context("let go of supplementary groups")?;
        nix::unistd::setresgid(gid, gid, gid).with_context(|| format!("become group {gid}"))?;
        nix::unistd::setresuid(uid, uid, uid).with_context(|| format!("become user {uid}"))?;
    }
    for set in [caps::CapSet::Ambient, caps::CapSet::Inheritable, caps::CapSet::Effective, caps::CapSet::Permitted] {
        caps::clear(None, set).with_context(|| format!("clear the {set:?} capabilities"))?;
    }
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, "set no_new_privs")?;
    // Nobody of the same user may look into it, and no core of it may hold keys.
    prctl(libc::PR_SET_DUMPABLE, 0, "forbid dumps")?;
    let program = policy()?.compile(Denial::Errno);
    sys::install_seccomp(program.instructions(), false).context("install the front's system call filter")?;
    try_the_locks(uid)
}

fn try_the_locks(uid: Uid) -> anyhow::Result<()> {
    if nix::unistd::geteuid() != uid {
        bail!("the front is user {} and not {uid}", nix::unistd::geteuid());
    }
    if !uid.is_root() && nix::unistd::setuid(Uid::from_raw(0)).is_ok() {
        bail!("the front could become root again");
    }
    if std::process::Command::new("/proc/self/exe").arg("--version").status().is_ok() {
        bail!("the front could start a program");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fronts_policy_parses_and_lets_it_start_nothing() {
        let policy = policy().unwrap();
        for name in
            ["execve", "execveat", "ptrace", "mount", "unshare", "setns", "setuid", "bind", "listen", "kill", "bpf"]
        {
            let row = policy.table().into_iter().find(|row| row.name == name).unwrap();
            assert!(!matches!(row.verdict, crate::sandbox::seccomp::SyscallVerdict::Allow), "{name}");
        }
    }
}
