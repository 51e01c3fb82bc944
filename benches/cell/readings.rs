//! What the machine holds: processes, mounts, cgroups, descriptors, memory.

use std::fs;
use std::path::{Path, PathBuf};

/// Everything that a run might leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Descendants of this process, zombies among them.
    pub processes: usize,
    pub mounts: usize,
    pub cgroups: usize,
    pub descriptors: usize,
}

impl Left {
    pub fn read() -> Left {
        Left {
            processes: descendants(std::process::id()),
            mounts: fs::read_to_string("/proc/self/mountinfo").map_or(0, |text| text.lines().count()),
            cgroups: own_groups(),
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        }
    }
}

fn descendants(process: u32) -> usize {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).map(|child: u32| 1 + descendants(child)).sum()
}

/// Groups of this process's supervisor, itself included, wherever they are.
fn own_groups() -> usize {
    let own = format!("sandboxd.{}", std::process::id());
    let mut found = 0;
    let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = pending.pop() {
        let inside_own = directory.components().any(|part| part.as_os_str() == own.as_str());
        found += usize::from(inside_own);
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        pending.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
    found
}

/// Sum of the values of `keys`, in kilobytes, in a file of `Key:  123 kB` lines.
pub fn kilobytes(file: impl AsRef<Path>, keys: &[&str]) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = |line: &str| {
        let (key, rest) = line.split_once(':')?;
        keys.contains(&key).then(|| rest.split_whitespace().next()?.parse::<u64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

/// What the kernel itself holds, in kilobytes: objects, stacks, page tables. Unlike the machine's free memory it hardly
/// moves with what other processes do.
pub fn kernel() -> u64 {
    kilobytes("/proc/meminfo", &["SUnreclaim", "Percpu", "KernelStack", "PageTables"])
}

/// Resident memory of this process, in kilobytes.
pub fn resident() -> u64 {
    kilobytes("/proc/self/status", &["VmRSS"])
}
