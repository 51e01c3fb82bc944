//! No cgroups: nothing is enforced, usage is what polling sees.
//!
//! Weaker in every way, and only where configuration names it: a process that lives shorter than the polling interval
//! is seen only through its parent's account, memory shared by several processes is counted several times, and one that
//! ignores SIGCHLD loses its children's CPU time. Limits are left to rlimits and to the caller, who polls `usage`.

use super::dir::kernel;
use super::error::{CgroupError, Verb};
use super::{Backend, CellGroup, GroupLimits, Join, Kind, Missing, Probe, Swept, Usage, check_cell_name};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal},
};
use std::{
    fs,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::Duration,
};

pub(super) fn probe(unified: bool) -> Probe {
    let missing = Missing {
        what: "every cgroup limit: memory, processes and cpu are polled, not enforced".into(),
        remedy: "let configuration choose cgroups automatically".into(),
    };
    Probe { kind: Kind::None, unified, hierarchies: vec![], missing: vec![missing] }
}

pub(super) fn open() -> Box<dyn Backend> {
    Box::new(NoBackend { swept: Swept::default() })
}

#[derive(Debug)]
struct NoBackend {
    swept: Swept,
}

impl Backend for NoBackend {
    fn create_cell(&mut self, name: &str, limits: &GroupLimits) -> Result<Box<dyn CellGroup>, CgroupError> {
        check_cell_name(name)?;
        limits.check()?;
        Ok(Box::new(NoCell { init: None, highest: Mutex::default() }))
    }

    fn kind(&self) -> Kind {
        Kind::None
    }

    fn swept(&self) -> &Swept {
        &self.swept
    }

    fn close(&mut self) -> Vec<CgroupError> {
        vec![]
    }
}

#[derive(Debug)]
struct NoCell {
    init: Option<Init>,
    /// The highest of each quantity that any poll saw.
    highest: Mutex<Usage>,
}

#[derive(Debug)]
struct Init {
    pid: i32,
    /// Signals through this reach init or nobody, whoever has its number now.
    pidfd: OwnedFd,
}

impl CellGroup for NoCell {
    fn join(&self) -> Join<'_> {
        Join::Nothing
    }

    fn limit(&mut self, limits: &GroupLimits) -> Result<(), CgroupError> {
        limits.check()
    }

    fn adopt(&mut self, init_pid: i32) -> Result<(), CgroupError> {
        let opened = Pid::from_raw(init_pid)
            .ok_or(Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
        let pidfd = opened.map_err(|errno| kernel(Verb::Open, format!("/proc/{init_pid}").into(), None, errno))?;
        self.init = Some(Init { pid: init_pid, pidfd });
        Ok(())
    }

    /// There is no group, so there is nothing to be outside of.
    fn contains(&self, _pid: i32) -> Result<bool, CgroupError> {
        Ok(true)
    }

    fn usage(&self) -> Result<Usage, CgroupError> {
        let seen = self.init.as_ref().map(|init| sum_of_tree(init.pid)).unwrap_or_default();
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        highest.cpu_time = highest.cpu_time.max(seen.cpu_time);
        highest.memory_peak_bytes = highest.memory_peak_bytes.max(seen.memory_peak_bytes);
        highest.processes_peak = highest.processes_peak.max(seen.processes_peak);
        Ok(highest.clone())
    }

    fn cpu_time(&self) -> Result<Duration, CgroupError> {
        self.usage().map(|usage| usage.cpu_time)
    }

    fn processes(&self) -> Result<Option<u64>, CgroupError> {
        Ok(None)
    }

    fn oom_kills(&self) -> Result<u64, CgroupError> {
        Ok(0)
    }

    fn oom_event(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The death of init ends its pid namespace.
    fn kill(&self) -> Result<(), CgroupError> {
        let Some(init) = &self.init else {
            return Ok(());
        };
        match rustix::process::pidfd_send_signal(&init.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(kernel(Verb::Kill, format!("/proc/{}", init.pid).into(), None, errno)),
        }
    }

    fn remove(self: Box<Self>) -> Vec<CgroupError> {
        vec![]
    }
}

/// More than any limit of processes we hand out; what is beyond goes uncounted.
const PROCESSES_MAX: usize = 4096;

/// Adds up `init` and its descendants. Processes come and go meanwhile: whatever cannot be read has just gone.
fn sum_of_tree(init: i32) -> Usage {
    let mut pending = vec![init];
    let (mut ticks, mut pages, mut threads, mut visited) = (0, 0, 0, 0);
    while let Some(pid) = pending.pop()
        && visited < PROCESSES_MAX
    {
        visited += 1;
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let stat = Stat::parse(&read("stat")).unwrap_or_default();
        ticks += stat.ticks;
        threads += stat.threads;
        pages += read("statm").split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks.take(PROCESSES_MAX) {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pending.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    Usage {
        cpu_time: Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND),
        memory_peak_bytes: pages * page_size(),
        processes_peak: Some(threads),
        ..Usage::default()
    }
}

/// USER_HZ, the unit of /proc/PID/stat, is 100 on every architecture but alpha and ia64.
const TICKS_PER_SECOND: u64 = 100;

fn page_size() -> u64 {
    let known = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    known.map_or(4096, |size| size as u64)
}

#[derive(Debug, Default, PartialEq)]
struct Stat {
    /// utime + stime of the process and of the children it has reaped.
    ticks: u64,
    threads: u32,
}

impl Stat {
    /// /proc/PID/stat; the name in parentheses is the payload's to choose, so the last parenthesis counts.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum::<Option<u64>>()?;
        Some(Stat { ticks, threads: fields.get(17)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_hostile_name() {
        let line =
            "12 (a) R 1 (b) S 1 12 12 0 -1 4194304 100 0 0 0 7 5 20 10 20 0 3 0 999 1000000 250 18446744073709551615";
        assert_eq!(Stat::parse(line), Some(Stat { ticks: 42, threads: 3 }));
        assert_eq!(Stat::parse("12 (short) R 1"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
