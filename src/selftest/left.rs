//! What a selftest might leave behind in this process and on the host.

use std::collections::BTreeSet;
use std::path::Path;

/// Directories below which cgroups of ours are looked for.
const CGROUP_DEPTH_MAX: usize = 6;

/// What this process had before.
pub struct Snapshot {
    descriptors: usize,
    ipc: BTreeSet<String>,
}

impl Snapshot {
    pub fn take() -> Snapshot {
        Snapshot { descriptors: descriptors(), ipc: ipc_objects() }
    }

    /// What there is now beyond it: processes and descriptors of ours, our cgroups, System V objects of cells.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        left.extend(children.split_whitespace().map(|pid| format!("process {pid}")));
        let now = descriptors();
        if now > self.descriptors {
            left.push(format!("{} descriptors", now - self.descriptors));
        }
        find_groups(Path::new("/sys/fs/cgroup"), &format!("sandboxd.{}", std::process::id()), 0, &mut left);
        // Others may use the machine meanwhile: only the attacks' own key is theirs for certain.
        left.extend(ipc_objects().difference(&self.ipc).cloned());
        left
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count())
}

/// System V objects under the key of `programs/ipc.c`.
fn ipc_objects() -> BTreeSet<String> {
    const KEY: &str = "1515012696";
    let mut found = BTreeSet::new();
    for kind in ["shm", "msg", "sem"] {
        let table = std::fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        let keys = table.lines().filter_map(|line| line.split_whitespace().next());
        if keys.into_iter().any(|key| key == KEY) {
            found.insert(format!("a System V object ({kind}) of an attack"));
        }
    }
    found
}

fn find_groups(directory: &Path, name: &str, depth: usize, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name() == name {
            found.push(format!("cgroup {}", entry.path().display()));
        } else if depth < CGROUP_DEPTH_MAX {
            find_groups(&entry.path(), name, depth + 1, found);
        }
    }
}
