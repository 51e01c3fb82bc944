//! What a service and the machine hold at one moment.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::common::{children_named, children_of, groups_of};
use crate::readings::{self, kilobytes};

/// Words by which the kernel speaks of a fault of its own (a call trace alone it prints for every cell out of memory).
const SIGNS: &[&str] = &["BUG:", "WARNING:", "Oops", "blocked for more than", "soft lockup", "refcount_t"];

pub struct Held {
    /// Counts that must be the same again.
    pub exact: BTreeMap<&'static str, usize>,
    /// Quantities that may grow a little, in the unit their name says.
    pub rough: BTreeMap<&'static str, u64>,
    /// Lines of the kernel's log that speak of a fault of its own.
    pub complaints_of_the_kernel: Vec<String>,
}

impl Held {
    pub fn read(service: i32) -> Held {
        let children = children_of(service);
        let own: Vec<i32> = std::iter::once(service).chain(children.iter().copied()).collect();
        let all = descendants(service);
        let sum = |of: &dyn Fn(i32) -> usize| own.iter().map(|pid| of(*pid)).sum::<usize>();
        let exact = BTreeMap::from([
            ("processes", all.len() + 1),
            ("cells", all.len() + 1 - own.len()),
            ("threads", sum(&|pid| entries(&format!("/proc/{pid}/task")))),
            ("descriptors", sum(&|pid| entries(&format!("/proc/{pid}/fd")))),
            ("mounts", sum(&|pid| lines(&format!("/proc/{pid}/mountinfo")))),
            ("cgroups", own.iter().flat_map(|pid| groups_of(*pid as u32)).map(|group| directories(&group)).sum()),
            (
                "System V IPC objects",
                ["msg", "sem", "shm"]
                    .iter()
                    .map(|kind| lines(&format!("/proc/sysvipc/{kind}")).saturating_sub(1))
                    .sum(),
            ),
        ]);
        let memory = |pid: i32| kilobytes(format!("/proc/{pid}/status"), &["VmRSS"]);
        let resident = |word: &str| children_named(service, word).into_iter().map(memory).sum();
        let rough = BTreeMap::from([
            ("memory of the front, kB", resident("front")),
            ("memory of the supervisors, kB", resident("supervisor")),
            ("unreclaimable memory of the kernel, kB", readings::kernel()),
            ("network namespaces of the machine", slab("net_namespace")),
            ("pid namespaces of the machine", slab("pid_namespace")),
            ("mounts of the machine", slab("mnt_cache")),
            ("inodes of tmpfs of the machine", slab("shmem_inode_cache")),
        ]);
        Held { exact, rough, complaints_of_the_kernel: complaints() }
    }

    /// By how much each rough quantity has grown over `runs` runs, behind what it may have.
    pub fn growth(&self, before: &Held, runs: usize) -> BTreeMap<&'static str, (u64, u64)> {
        let runs = runs as u64;
        let limit = |name: &str| match name {
            // Answers of late are kept for who may ask again, up to a bound.
            "memory of the front, kB" => 32 << 10,
            "memory of the supervisors, kB" => 2 << 10,
            // The machine does other things too: a build beside it moves this by 100 MB.
            "unreclaimable memory of the kernel, kB" => (128 << 10) + runs / 4,
            // The kernel keeps freed objects at hand, by pages.
            _ => 1000 + runs / 100,
        };
        let grown =
            |(name, value): (&&'static str, &u64)| (*name, (limit(name), value.saturating_sub(before.rough[name])));
        self.rough.iter().map(grown).collect()
    }
}

fn descendants(pid: i32) -> Vec<i32> {
    children_of(pid).into_iter().flat_map(|child| std::iter::once(child).chain(descendants(child))).collect()
}

fn entries(directory: &str) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

fn lines(file: &str) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

/// The directory itself, and all below it.
fn directories(directory: &Path) -> usize {
    let below = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    1 + below.map(|entry| directories(&entry.path())).sum::<usize>()
}

/// Objects of this kind that the kernel has; 0 where it does not tell.
fn slab(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let count = |line: &str| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok();
    text.lines().find_map(count).unwrap_or(0)
}

/// Each read of the kernel's log is one record; what is not there yet would block.
fn complaints() -> Vec<String> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let mut log = std::fs::File::options().read(true).custom_flags(flags).open("/dev/kmsg").expect("root reads it");
    let mut complaints = Vec::new();
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(length) => {
                let line = String::from_utf8_lossy(&record[..length]);
                if SIGNS.iter().any(|sign| line.contains(sign)) {
                    complaints.push(line.into_owned());
                }
            }
            // This record was overwritten before it was read.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return complaints,
            Err(error) => panic!("the kernel's log: {error}"),
        }
    }
}
