//! What the kernel says of a payload at the moment it becomes a program that is not ours: what would differ in a run that
//! is weaker than planned.

use std::fs::{read_dir, read_link, read_to_string};
use std::path::Path;

/// Lines of /proc/PID/status that say what a process may do.
const STATUS: &[&str] = &[
    "Groups:",
    "NSpid:",
    "CapInh:",
    "CapPrm:",
    "CapEff:",
    "CapBnd:",
    "CapAmb:",
    "NoNewPrivs:",
    "Seccomp:",
    "Seccomp_filters:",
    "Speculation_Store_Bypass:",
    "SpeculationIndirectBranch:",
    "SigBlk:",
    "SigIgn:",
];
/// The limits of a group, on v2 and on v1.
const LIMITS: &[&str] = &[
    "memory.max",
    "memory.swap.max",
    "memory.oom.group",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "pids.max",
    "cpu.max",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
];

/// The facts of process `pid`, which must be stopped; the same text for each cell made under the same plan.
pub fn facts_of(pid: i32) -> String {
    let mut facts = Vec::new();
    let file = |name: &str| read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let status = file("status");
    for name in STATUS {
        let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("missing").trim();
        // Of its numbers the one in the cell.
        let value = if *name == "NSpid:" { value.rsplit('\t').next().unwrap_or_default() } else { value };
        facts.push(format!("{name} {value}"));
    }
    for name in ["Uid:", "Gid:"] {
        let ids = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let ids: Vec<u32> = ids.split_whitespace().filter_map(|id| id.parse().ok()).collect();
        // An id that no other cell has now is another one each time.
        let of_cells = ids.len() == 4 && ids.iter().all(|id| *id == ids[0] && *id >= 0x7000_0000);
        facts.push(format!("{name} of a cell alone: {of_cells}"));
    }
    facts.push(format!("oom_score_adj {}", file("oom_score_adj").trim()));
    facts.extend(file("limits").lines().map(str::to_owned));
    for namespace in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        let of = |process: &str| read_link(format!("/proc/{process}/ns/{namespace}")).ok();
        facts.push(format!("{namespace} namespace of its own: {}", of(&pid.to_string()) != of("self")));
    }
    for line in file("mountinfo").lines() {
        // Without the numbers of mounts and devices, and without the ids of a cell alone, which all begin with 18.
        let words = line.split(' ').skip(3).filter(|word| !word.starts_with("master:"));
        let parts = words.flat_map(|word| word.split_inclusive(',')).filter(|part| !part.contains("id=18"));
        facts.push(parts.collect::<Vec<_>>().join(" "));
    }
    let descriptors = read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut descriptors: Vec<_> = descriptors.map(|entry| entry.file_name()).collect();
    descriptors.sort();
    facts.push(format!("descriptors {descriptors:?}"));
    facts.extend(limits_of(&file("cgroup")));
    facts.join("\n")
}

/// The limits of the groups that `memberships`, as of /proc/PID/cgroup, names.
fn limits_of(memberships: &str) -> Vec<String> {
    let mounts = read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for line in memberships.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let is_of_it = |mount: &&str| {
            let (options, kind) = mount.split_once(" - ").unwrap_or_default();
            let kind = kind.split(' ').next().unwrap_or_default();
            let names = mount.rsplit(' ').next().unwrap_or_default();
            !options.is_empty()
                && match controllers {
                    "" => kind == "cgroup2",
                    controllers => {
                        kind == "cgroup" && controllers.split(',').all(|name| names.split(',').any(|has| has == name))
                    }
                }
        };
        let Some(mount) = mounts.lines().find(is_of_it) else { continue };
        let place = mount.split(' ').nth(4).unwrap_or_default();
        let group = Path::new(place).join(path.trim_start_matches('/'));
        for name in LIMITS {
            if let Ok(value) = read_to_string(group.join(name)) {
                found.push(format!("{controllers} {name} {}", value.trim()));
            }
        }
    }
    found
}
