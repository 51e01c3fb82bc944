//! What can go wrong with cgroups, each with the operation, the file, the value and a remedy.

use rustix::io::Errno;
use std::{fmt, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The kernel refused one operation on one file or directory.
    #[error("failed to {verb} {}{}", path.display(), Shown(value))]
    Kernel { verb: Verb, path: PathBuf, value: Option<String>, source: Errno },
    /// The kernel answered something this code does not understand.
    #[error("unexpected content in {}: {content:?}", path.display())]
    Unexpected { path: PathBuf, content: String },
    /// This host, or this place in its hierarchy, cannot do what is needed.
    #[error("{what}")]
    Unavailable { what: String, remedy: String },
    /// A name or limit that no kernel should be asked to take.
    #[error("invalid {what}: {value:?}")]
    Invalid { what: &'static str, value: String },
    /// Something failed, and undoing what had been done before failed as well.
    #[error("{}; cleaning up after it failed too: {}", Listed(std::slice::from_ref(first)), Listed(also))]
    Uncleaned { first: Box<CgroupError>, also: Vec<CgroupError> },
}

/// What was attempted; its Display fits "failed to … PATH".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Open,
    Create,
    Lock,
    Read,
    Write,
    List,
    Remove,
    Kill,
    Notify,
}

impl CgroupError {
    /// What an operator can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            CgroupError::Unavailable { remedy, .. } => Some(remedy.clone()),
            CgroupError::Uncleaned { first, .. } => first.hint(),
            CgroupError::Kernel { verb, path, source, .. } => {
                let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
                kernel_hint(*verb, file.as_deref().unwrap_or(""), *source).map(str::to_owned)
            }
            CgroupError::Unexpected { .. } | CgroupError::Invalid { .. } => None,
        }
    }

    pub fn errno(&self) -> Option<Errno> {
        match self {
            CgroupError::Kernel { source, .. } => Some(*source),
            CgroupError::Uncleaned { first, .. } => first.errno(),
            _ => None,
        }
    }

    /// This error, or both stories if undoing failed as well.
    pub(super) fn with_cleanup(self, also: Vec<CgroupError>) -> CgroupError {
        if also.is_empty() {
            return self;
        }
        CgroupError::Uncleaned { first: Box::new(self), also }
    }
}

fn kernel_hint(verb: Verb, file: &str, errno: Errno) -> Option<&'static str> {
    let hint = match (verb, errno) {
        (Verb::Create, Errno::AGAIN) => {
            "an ancestor's cgroup.max.descendants or cgroup.max.depth is reached: raise it, or look for leftover groups"
        }
        (Verb::Create, Errno::EXIST) => "a group of this name exists already: cell names must be unique",
        (Verb::Create, Errno::NOMEM | Errno::NOSPC) => {
            "the kernel is out of cgroups or memory for them: look for leftover groups"
        }
        (_, Errno::ACCESS | Errno::PERM) => "run as root, or have the subtree delegated (systemd: Delegate=yes)",
        (_, Errno::ROFS) => "the cgroup file system is mounted read-only: a container needs it writable",
        (Verb::Write, Errno::BUSY) if file == "cgroup.subtree_control" => {
            "processes live directly in this group: move them into a child group, or start sandboxd with `systemd-run --scope -p Delegate=yes`"
        }
        (Verb::Write, Errno::NOENT) if file == "cgroup.subtree_control" => {
            "the controller is not available here: enable it in the parents' cgroup.subtree_control (systemd: Delegate=yes)"
        }
        (Verb::Write, Errno::INVAL) if file.starts_with("cpu.") => {
            "the rate is outside what the kernel takes, or above the quota of a parent group: lower cpu_rate"
        }
        (Verb::Write | Verb::Read | Verb::Open, Errno::NOENT | Errno::OPNOTSUPP) => {
            "the group was removed from outside, or this kernel lacks the file: see `sandboxd check`"
        }
        (Verb::Remove, Errno::BUSY) => {
            "processes are still in the group, or child groups: they are swept at the next start"
        }
        (Verb::Lock, Errno::WOULDBLOCK) => {
            "another live sandboxd owns this group: give each supervisor its own process id"
        }
        (_, Errno::MFILE | Errno::NFILE) => "raise the limit of open files (LimitNOFILE=)",
        _ => return None,
    };
    Some(hint)
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Open => "open",
            Verb::Create => "create the group",
            Verb::Lock => "lock",
            Verb::Read => "read",
            Verb::Write => "write",
            Verb::List => "list",
            Verb::Remove => "remove the group",
            Verb::Kill => "kill the processes of",
            Verb::Notify => "ask for notifications from",
        })
    }
}

struct Shown<'a>(&'a Option<String>);
impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|value| write!(f, " (value {value:?})"))
    }
}

struct Listed<'a>(&'a [CgroupError]);
impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
            if let Some(errno) = error.errno() {
                write!(f, ": {errno}")?;
            }
        }
        Ok(())
    }
}
