//! What this machine can enforce, probed once and then a plain value that plans are computed against.

use serde::{Deserialize, Deserializer, Serialize};

/// Who the supervisor is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privilege {
    /// Root of the initial user namespace, or of a container's that holds the needed capabilities.
    Root,
    /// An ordinary user: the supervisor makes a user namespace of its own first.
    Rootless,
}

/// How resources are limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupKind {
    V2,
    Hybrid,
    None,
}

impl CgroupKind {
    pub fn name(self) -> &'static str {
        match self {
            CgroupKind::V2 => "v2",
            CgroupKind::Hybrid => "hybrid",
            CgroupKind::None => "none",
        }
    }
}

/// The facts about this machine that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Kernel release as uname(2) gives it.
    pub kernel: String,
    pub privilege: Privilege,
    pub cgroup: CgroupKind,
    /// Overlayfs can give each cell inodes of its own over the image's.
    pub overlay: bool,
    /// Landlock ABI version; 0 when the kernel has none.
    pub landlock_abi: u32,
    pub seccomp: bool,
    /// Denied system calls can be reported to the cell's init (SECCOMP_RET_USER_NOTIF, Linux 5.0).
    pub seccomp_notify: bool,
    /// Namespace types the kernel has, by the names of /proc/self/ns.
    #[serde(deserialize_with = "known_namespaces")]
    pub namespaces: Vec<&'static str>,
    /// Speculation controls that prctl can force on.
    pub speculation_store_bypass: bool,
    pub speculation_indirect_branch: bool,
    /// The supervisor's own hard limit on open descriptors; a cell cannot get more.
    pub open_files_hard: u64,
    pub cores: u32,
}

/// Names as static words again; a name this version does not know is left out.
fn known_namespaces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<&'static str>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    Ok(NAMESPACES.into_iter().chain(["time"]).filter(|known| names.iter().any(|name| name == known)).collect())
}

/// The namespaces every cell has.
pub const NAMESPACES: [&str; 7] = ["user", "pid", "mount", "net", "ipc", "uts", "cgroup"];
