//! Cgroups against the real kernel: limits hold, usage counts, nothing is left over.
//!
//! Needs root and a machine with cgroups (either kind); elsewhere each test says why it did nothing. On pure v2:
//! `tests/uml/run --swap 400 target/debug/deps/cgroup-…`. The payloads are this same program, started again with an environment
//! variable that says what to do.

use rustix::io::Errno;
use sandboxd::sandbox::cgroup::{self, Backend, CellGroup, Choice, GroupLimits, Join, Kind, Probe};
mod common;

use std::{
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const MIB: u64 = 1 << 20;

fn limits() -> GroupLimits {
    GroupLimits { memory_bytes: 64 * MIB, processes: 16, cpu_rate: None }
}

#[test]
fn the_same_holds_on_pure_cgroup_v2() {
    if std::env::var_os("SANDBOXD_TEST_UNDER_V2").is_some() {
        return;
    }
    let myself = std::env::current_exe().expect("this test's program");
    let script = format!("SANDBOXD_TEST_UNDER_V2=1 exec {}", myself.display());
    if let Some(output) = common::run_under_v2(&script) {
        assert!(output.status.success(), "{}", common::text(&output.stdout));
    }
}

#[test]
fn a_process_joins_is_found_and_is_killed() {
    let Some(mut host) = Host::open() else { return };
    let cell = host.backend.create_cell("join", &GroupLimits { cpu_rate: Some(1.0), ..limits() }).unwrap();
    let mut child = host.spawn(&*cell, "sleep");
    host.wait_for(&*cell, &child);
    assert!(!cell.contains(std::process::id() as i32).unwrap(), "the test itself is not in the cell");

    cell.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_none(cell.remove());
    host.close();
}

#[test]
fn memory_beyond_the_limit_is_killed_and_within_is_not() {
    let Some(mut host) = Host::open() else { return };
    let cell = host.backend.create_cell("over", &limits()).unwrap();
    host.assert_no_swap("over", 64 * MIB);
    let status = host.run(&*cell, "memory 200");
    let usage = cell.usage().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{usage:?}");
    // v2 with oom.group counts the first victim twice.
    assert!((1..=2).contains(&usage.oom_kills), "{usage:?}");
    assert_eq!(cell.oom_kills().unwrap(), usage.oom_kills);
    assert!((48 * MIB..=64 * MIB).contains(&usage.memory_peak_bytes), "{usage:?}");
    println!("eventfd for memory: {}", cell.oom_event().is_some());
    if let Some(event) = cell.oom_event() {
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(event, &mut count), Ok(8), "the eventfd tells of the kill");
    }
    assert_none(cell.remove());

    let cell = host.backend.create_cell("within", &GroupLimits { memory_bytes: 256 * MIB, ..limits() }).unwrap();
    assert!(host.run(&*cell, "memory 100").success());
    let usage = cell.usage().unwrap();
    assert_eq!(usage.oom_kills, 0);
    assert!((100 * MIB..130 * MIB).contains(&usage.memory_peak_bytes), "{usage:?}");
    if let Some(event) = cell.oom_event() {
        assert_eq!(rustix::io::read(event, &mut [0; 8]), Err(Errno::AGAIN));
    }
    assert_none(cell.remove());
    host.close();
}

/// `tests/uml/run --swap 400 …` has swap to try it with.
#[test]
fn swap_does_not_stretch_the_limit() {
    let Some(mut host) = Host::open() else { return };
    if std::fs::read_to_string("/proc/swaps").unwrap().lines().count() < 2 {
        println!("skipped: needs swap");
        return host.close();
    }
    let cell = host.backend.create_cell("swap", &limits()).unwrap();
    assert_eq!(host.run(&*cell, "memory 200").signal(), Some(libc::SIGKILL));
    assert_none(cell.remove());

    // The control: with the limit of swap lifted by hand, the same payload gets away with it.
    let cell = host.backend.create_cell("swap", &limits()).unwrap();
    let memory = host.cell_directories("swap").next().unwrap();
    let (file, unlimited) = match host.backend.kind() {
        Kind::V2 => ("memory.swap.max", "max"),
        _ => ("memory.memsw.limit_in_bytes", "-1"),
    };
    std::fs::write(memory.join(file), unlimited).unwrap();
    assert!(host.run(&*cell, "memory 200").success());
    assert_none(cell.remove());
    host.close();
}

/// As a cell prepared ahead is given the limits of its run: larger ones, smaller ones, and back.
#[test]
fn limits_set_anew_hold_like_those_a_group_was_made_with() {
    let Some(mut host) = Host::open() else { return };
    let mut cell = host.backend.create_cell("anew", &GroupLimits { cpu_rate: Some(1.0), ..limits() }).unwrap();
    for (megabytes, rate) in [(256, Some(2.0)), (16, None), (64, Some(0.5)), (48, Some(0.5))] {
        let limits = GroupLimits { memory_bytes: megabytes * MIB, processes: megabytes as u32, cpu_rate: rate };
        cell.limit(&limits).unwrap();
        let read = |file: &str| {
            let mut found =
                host.cell_directories("anew").map(|directory| std::fs::read_to_string(directory.join(file)));
            found.find_map(Result::ok).unwrap_or_else(|| panic!("{file}")).trim().to_owned()
        };
        let quota = rate.map(|rate| ((rate * 1e5) as u64).to_string());
        let (memory, quota, quota_file) = match host.backend.kind() {
            Kind::V2 => ("memory.max", format!("{} 100000", quota.unwrap_or("max".into())), "cpu.max"),
            _ => ("memory.limit_in_bytes", quota.unwrap_or("-1".into()), "cpu.cfs_quota_us"),
        };
        assert_eq!(read(memory), limits.memory_bytes.to_string());
        assert_eq!(read("pids.max"), (limits.processes + 1).to_string());
        assert_eq!(read(quota_file), quota);
        host.assert_no_swap("anew", limits.memory_bytes);
    }
    assert_eq!(host.run(&*cell, "memory 100").signal(), Some(libc::SIGKILL));
    assert!(cell.limit(&GroupLimits { processes: 0, ..limits() }).is_err(), "nonsense is refused here too");
    assert_none(cell.remove());
    host.close();
}

#[test]
fn forks_beyond_the_limit_fail_and_are_counted() {
    let Some(mut host) = Host::open() else { return };
    let cell = host.backend.create_cell("forks", &limits()).unwrap();
    let status = host.run(&*cell, "forks");
    let usage = cell.usage().unwrap();
    assert!(status.success(), "the fork failed with something else than EAGAIN: {status:?}");
    assert!(usage.process_limit_hits >= 1, "{usage:?}");
    if let Some(peak) = usage.processes_peak {
        assert_eq!(peak, limits().processes + 1, "init comes on top of the limit");
    }
    cell.kill().unwrap();
    host.wait_until_empty("forks");
    assert_none(cell.remove());
    host.close();
}

#[test]
fn forks_refused_by_the_kill_are_no_evidence() {
    let Some(mut host) = Host::open() else { return };
    for round in 0..20 {
        let name = format!("fork-on-{round}");
        let cell = host.backend.create_cell(&name, &limits()).unwrap();
        let mut child = host.spawn(&*cell, "fork-on");
        host.wait_for(&*cell, &child);
        std::thread::sleep(Duration::from_millis(20));
        cell.kill().unwrap();
        child.wait().unwrap();
        host.wait_until_empty(&name);
        assert_eq!(cell.usage().unwrap().process_limit_hits, 0);
        assert_none(cell.remove());
    }
    host.close();
}

#[test]
fn a_cpu_rate_throttles_and_without_one_nothing_does() {
    let Some(mut host) = Host::open() else { return };
    let slow = host.backend.create_cell("slow", &GroupLimits { cpu_rate: Some(0.2), ..limits() }).unwrap();
    let fast = host.backend.create_cell("fast", &limits()).unwrap();
    assert!(host.run(&*slow, "spin-wall 1000").success());
    let slow_time = slow.cpu_time().unwrap();
    assert!(slow_time < Duration::from_millis(400), "{slow_time:?}");
    // Where others want the processor, too, it takes more than one second to get more of it than a throttled cell may.
    let mut fast_time = Duration::ZERO;
    for _ in 0..10 {
        let before = fast.cpu_time().unwrap();
        assert!(host.run(&*fast, "spin-wall 1000").success());
        fast_time = fast_time.max(fast.cpu_time().unwrap() - before);
        if fast_time > 2 * slow_time {
            break;
        }
    }
    assert!(fast_time > 2 * slow_time, "{fast_time:?} against {slow_time:?}");
    assert_none(slow.remove());
    assert_none(fast.remove());
    host.close();
}

#[test]
fn cpu_time_counts_children_that_are_gone() {
    let Some(mut host) = Host::open() else { return };
    let cell = host.backend.create_cell("family", &limits()).unwrap();
    assert!(host.run(&*cell, "spin-children 3").success());
    let usage = cell.usage().unwrap();
    assert!(usage.cpu_time >= Duration::from_millis(440), "{usage:?}");
    assert_none(cell.remove());
    host.close();
}

#[test]
fn a_dead_owners_groups_are_swept_and_a_live_ones_are_not() {
    let Some(mut host) = Host::open() else { return };
    let mut child = {
        let mut dead = cgroup::open(&host.probe, host.owner + 1).unwrap();
        let cell = dead.create_cell("leftover", &limits()).unwrap();
        let child = host.spawn(&*cell, "sleep");
        host.wait_for(&*cell, &child);
        child
        // Dropped without close, as if the owner had died.
    };
    let live = host.backend.create_cell("live", &limits()).unwrap();

    let mut third = cgroup::open(&host.probe, host.owner + 2).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    let dead_name = format!("sandboxd.{}", host.owner + 1);
    let removed = &third.swept().removed;
    assert_eq!(removed.len(), host.probe.hierarchies.len(), "{removed:?}");
    assert!(removed.iter().all(|path| path.ends_with(&dead_name) && !path.exists()), "{removed:?}");
    assert!(third.swept().errors.is_empty(), "{:?}", third.swept().errors);

    assert!(host.run(&*live, "memory 1").success(), "the live owner's cell still works");
    assert_none(live.remove());
    assert_none(third.close());
    let taken = cgroup::open(&host.probe, host.owner).expect_err("the owner lives");
    assert!(taken.hint().is_some(), "{taken}");
    host.close();
}

#[test]
fn nonsense_is_refused_before_the_kernel_sees_it() {
    let Some(mut host) = Host::open() else { return };
    for name in ["", "..", ".hidden", "a/b", "a b", "a\n", &"x".repeat(101)] {
        assert!(host.backend.create_cell(name, &limits()).is_err(), "{name:?}");
    }
    for wrong in [
        GroupLimits { memory_bytes: 0, ..limits() },
        GroupLimits { processes: 0, ..limits() },
        GroupLimits { cpu_rate: Some(0.0), ..limits() },
        GroupLimits { cpu_rate: Some(-1.0), ..limits() },
        GroupLimits { cpu_rate: Some(f64::NAN), ..limits() },
        GroupLimits { cpu_rate: Some(1e308), ..limits() },
    ] {
        assert!(host.backend.create_cell("wrong", &wrong).is_err(), "{wrong:?}");
    }
    // The kernel's own refusal names the file and the value, and leaves nothing.
    let refused = host.backend.create_cell("refused", &GroupLimits { processes: u32::MAX, ..limits() }).unwrap_err();
    assert!(refused.to_string().contains("refused/pids.max (value \"4294967296\")"), "{refused}");
    let cell = host.backend.create_cell("twice", &limits()).unwrap();
    let twice = host.backend.create_cell("twice", &limits()).unwrap_err();
    assert_eq!(twice.errno(), Some(Errno::EXIST));
    assert!(twice.hint().is_some());
    assert_none(cell.remove());
    assert_eq!(host.groups_left(), [] as [PathBuf; 0]);
    host.close();
}

#[test]
fn a_thousand_cells_leave_nothing() {
    let Some(mut host) = Host::open() else { return };
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for round in 0..1000 {
        let mut cell = host.backend.create_cell(&format!("cell-{round}"), &limits()).unwrap();
        cell.joined();
        assert_none(cell.remove());
    }
    assert_eq!(descriptors(), before);
    assert_eq!(host.groups_left(), [] as [PathBuf; 0]);
    host.close();
}

/// Lets every operation fail once, one after another, until a whole life passes untouched.
#[cfg(debug_assertions)]
#[test]
fn any_verb_may_fail_once_and_nothing_is_left() {
    use sandboxd::sandbox::fault;
    let Some(host) = Host::open() else { return };
    let (probe, owner) = (host.probe.clone(), host.owner);
    let (_lock, _) = host.close_keeping_lock();

    let mut failed = 0;
    for pass in 0.. {
        fault::arm_after("cgroup", pass, Errno::IO);
        let outcome = one_life(&probe, owner);
        let untouched = fault::disarm_all() == 1;
        assert_eq!(groups_of(&probe, owner), [] as [PathBuf; 0], "operation {pass}: {outcome:?}");
        if untouched {
            assert!(outcome.is_empty(), "{outcome:?}");
            break;
        }
        assert!(!outcome.is_empty(), "operation {pass} failed and nobody said so");
        failed += 1;
    }
    println!("{failed} operations failed once each");
    assert!(failed > 20);
}

/// Opens, makes a cell, asks everything, removes, closes; goes on after errors as the supervisor does.
#[cfg(debug_assertions)]
fn one_life(probe: &Probe, owner: u32) -> Vec<String> {
    let mut errors = Vec::new();
    let mut note = |error: cgroup::CgroupError| errors.push(error.to_string());
    let mut backend = match cgroup::open(probe, owner) {
        Ok(backend) => backend,
        Err(error) => return vec![error.to_string()],
    };
    backend.swept().errors.iter().for_each(|error| println!("sweep: {error}"));
    let swept_badly = backend.swept().errors.len();
    match backend.create_cell("life", &GroupLimits { cpu_rate: Some(0.5), ..limits() }) {
        Ok(cell) => {
            cell.usage().err().map(&mut note);
            cell.contains(std::process::id() as i32).err().map(&mut note);
            cell.kill().err().map(&mut note);
            cell.remove().into_iter().for_each(&mut note);
        }
        Err(error) => note(error),
    }
    let first = backend.close();
    if !first.is_empty() {
        assert_none(backend.close());
    }
    first.into_iter().for_each(&mut note);
    if swept_badly > 0 {
        errors.push("sweep".into());
    }
    errors
}

#[test]
fn a_service_alone_in_its_group_steps_aside_and_comes_back() {
    let Some(host) = Host::open() else { return };
    if host.backend.kind() != Kind::V2 {
        println!("skipped: needs cgroup v2");
        return host.close();
    }
    let base = host.probe.hierarchies[0].directory.clone();
    let (_lock, _) = host.close_keeping_lock();
    let unit = base.join(format!("unit-{}", std::process::id()));
    std::fs::create_dir(&unit).unwrap();
    std::fs::write(base.join("cgroup.subtree_control"), "+memory +pids +cpu").unwrap();
    let status = payload_command("delegated", &[unit.join("cgroup.procs")]).status().unwrap();
    let left: Vec<_> = std::fs::read_dir(&unit).unwrap().flatten().filter(|it| it.path().is_dir()).collect();
    let control = std::fs::read_to_string(unit.join("cgroup.subtree_control")).unwrap();
    std::fs::remove_dir(&unit).unwrap();
    assert!(status.success());
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(control.trim(), "");
}

fn delegated() {
    let probe = cgroup::probe(Choice::Auto, None).unwrap();
    let place = &probe.hierarchies[0];
    assert!(place.step_aside && place.group.contains("/unit-"), "{probe:?}");
    let mut backend = cgroup::open(&probe, std::process::id()).unwrap();
    let own_group = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    assert!(own_group.trim().ends_with("/sandboxd.supervisor"), "{own_group}");
    // A second supervisor of the same service finds the place prepared.
    let second = cgroup::probe(Choice::Auto, None).unwrap();
    assert_eq!((&second.hierarchies[0].group, second.hierarchies[0].step_aside), (&place.group, false));
    let cell = backend.create_cell("cell", &GroupLimits { cpu_rate: Some(0.5), ..limits() }).unwrap();
    assert_none(cell.remove());
    assert_none(backend.close());
}

#[test]
fn without_cgroups_usage_is_polled() {
    let _lock = serialize();
    let probe = cgroup::probe(Choice::None, None).unwrap();
    assert_eq!((probe.kind, probe.missing.len()), (Kind::None, 1));
    let mut backend = cgroup::open(&probe, 1).unwrap();
    let mut cell = backend.create_cell("polled", &limits()).unwrap();
    assert!(matches!(cell.join(), Join::Nothing));
    let mut child = payload_command("memory-and-sleep 50", &[]).spawn().unwrap();
    cell.adopt(child.id() as i32).unwrap();
    let patience = Instant::now() + Duration::from_secs(20);
    while cell.usage().unwrap().memory_peak_bytes < 50 * MIB {
        assert!(Instant::now() < patience, "{:?}", cell.usage());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(cell.usage().unwrap().processes_peak >= Some(1));
    cell.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(cell.usage().unwrap().memory_peak_bytes >= 50 * MIB, "the peak outlives the process");
    assert_none(cell.remove());
    assert_none(backend.close());
}

// Payloads.

/// Not a test of its own: what the other tests start inside a cell.
#[test]
fn payload() {
    let Ok(order) = std::env::var("SANDBOXD_TEST_PAYLOAD") else { return };
    let (verb, number) = order.split_once(' ').unwrap_or((&order, "0"));
    let number: u64 = number.parse().unwrap();
    match verb {
        "sleep" => std::thread::sleep(Duration::from_secs(60)),
        "memory" => drop(touched(number)),
        "memory-and-sleep" => {
            let memory = touched(number);
            std::thread::sleep(Duration::from_secs(60));
            drop(memory);
        }
        "forks" => fork_until_refused(),
        "fork-on" => loop {
            assert!(Command::new("true").status().is_ok());
        },
        "spin-wall" => {
            let end = Instant::now() + Duration::from_millis(number);
            while Instant::now() < end {}
        }
        "spin-cpu" => {
            let cpu_time =
                || Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime)).unwrap();
            let end = cpu_time() + Duration::from_millis(number);
            while cpu_time() < end {}
        }
        "spin-children" => {
            for _ in 0..number {
                assert!(payload_command("spin-cpu 150", &[]).status().unwrap().success());
            }
        }
        "delegated" => delegated(),
        other => panic!("no payload {other:?}"),
    }
}

fn touched(mebibytes: u64) -> Vec<u8> {
    std::hint::black_box(vec![1; (mebibytes * MIB) as usize])
}

fn fork_until_refused() {
    for _ in 0..1000 {
        match Command::new("sleep").arg("60").spawn() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
                return;
            }
        }
    }
    panic!("no fork was refused");
}

/// A shell that writes itself into groups and then becomes this program.
fn payload_command(order: &str, join: &[PathBuf]) -> Command {
    let mut command = Command::new("/bin/sh");
    let script = r#"set -e; while [ "$1" != -- ]; do echo 0 > "$1"; shift; done; shift; exec "$@""#;
    command.args(["-c", script, "sh"]).args(join).arg("--").arg(std::env::current_exe().unwrap());
    command.args(["--exact", "payload", "--nocapture", "--test-threads=1"]);
    command.env("SANDBOXD_TEST_PAYLOAD", order).stdout(Stdio::null());
    command
}

// The host.

struct Host {
    probe: Probe,
    backend: Box<dyn Backend>,
    owner: u32,
    lock: MutexGuard<'static, ()>,
}

/// Fault points and groups belong to the whole process: one test at a time.
fn serialize() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    fn open() -> Option<Host> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let lock = serialize();
        let probe =
            cgroup::probe(Choice::Auto, None).unwrap_or_else(|error| panic!("{error}; hint: {:?}", error.hint()));
        let owner = 1_000_000_000 + std::process::id() * 10;
        let backend = cgroup::open(&probe, owner).unwrap_or_else(|error| panic!("{error:?}; hint: {:?}", error.hint()));
        assert!(backend.swept().errors.is_empty(), "{:?}", backend.swept().errors);
        Some(Host { probe, backend, owner, lock })
    }

    fn close(self) {
        drop(self.close_keeping_lock());
    }

    fn close_keeping_lock(mut self) -> (MutexGuard<'static, ()>, Probe) {
        assert_none(self.backend.close());
        assert_eq!(groups_of(&self.probe, self.owner), [] as [PathBuf; 0]);
        (self.lock, self.probe)
    }

    fn spawn(&self, cell: &dyn CellGroup, order: &str) -> Child {
        let own_fd = |fd: i32| PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id()));
        let files = match cell.join() {
            Join::AtClone(directory) => vec![own_fd(directory.as_raw_fd()).join("cgroup.procs")],
            Join::Tasks(tasks) => tasks.iter().map(|task| own_fd(task.as_raw_fd())).collect(),
            Join::Nothing => vec![],
        };
        payload_command(order, &files).spawn().unwrap()
    }

    fn run(&self, cell: &dyn CellGroup, order: &str) -> std::process::ExitStatus {
        self.spawn(cell, order).wait().unwrap()
    }

    fn wait_for(&self, cell: &dyn CellGroup, child: &Child) {
        let patience = Instant::now() + Duration::from_secs(20);
        while !cell.contains(child.id() as i32).unwrap() {
            assert!(Instant::now() < patience, "the child never joined");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn cell_directories(&self, cell: &str) -> impl Iterator<Item = PathBuf> {
        let own = format!("sandboxd.{}/{cell}", self.owner);
        self.probe.hierarchies.iter().map(move |it| it.directory.join(&own))
    }

    fn wait_until_empty(&self, cell: &str) {
        let patience = Instant::now() + Duration::from_secs(20);
        let populated = |directory: PathBuf| {
            std::fs::read_to_string(directory.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty())
        };
        while self.cell_directories(cell).any(populated) {
            assert!(Instant::now() < patience, "the cell never emptied");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where there is no swap to try it with: the kernel's word for it.
    fn assert_no_swap(&self, cell: &str, memory_bytes: u64) {
        let memory = self.cell_directories(cell).next().unwrap();
        let read = |file: &str| std::fs::read_to_string(memory.join(file)).map(|text| text.trim().to_owned());
        match self.backend.kind() {
            Kind::V2 => assert_eq!(read("memory.swap.max").unwrap(), "0"),
            _ => assert_eq!(read("memory.memsw.limit_in_bytes").unwrap(), memory_bytes.to_string()),
        }
    }

    fn groups_left(&self) -> Vec<PathBuf> {
        let own = format!("sandboxd.{}", self.owner);
        let parents = self.probe.hierarchies.iter().map(|it| it.directory.join(&own));
        let children = parents.flat_map(|parent| std::fs::read_dir(parent).unwrap().flatten());
        children.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

fn groups_of(probe: &Probe, owner: u32) -> Vec<PathBuf> {
    let paths = probe.hierarchies.iter().map(|it| it.directory.join(format!("sandboxd.{owner}")));
    paths.filter(|path| path.exists()).collect()
}

#[track_caller]
fn assert_none(errors: Vec<cgroup::CgroupError>) {
    assert!(errors.is_empty(), "{errors:?}");
}
