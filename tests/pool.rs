//! Cells prepared ahead: each is used once, under exactly the limits of its run, and none is ever waited for in vain.

mod common;

use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, Instant};

use common::front::{Front, bundle, shell};
use common::{children_of, groups_of, is_alive, is_root, runs_a_program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandboxd::supervisor::protocol::{FromSupervisor, Job, LimitsWire};

/// The inits of a supervisor's living cells.
fn inits(front: &Front) -> Vec<i32> {
    children_of(front.process.id() as i32).into_iter().filter(|pid| is_alive(*pid)).collect()
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + common::PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {:?}", common::PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A supervisor that has run one job, and since then keeps two cells like that job's.
fn with_full_pool(flags: &[&str]) -> Front {
    let front = Front::start_with(flags);
    front.start_job(shell(1, "exit 7"), &bundle(b"", true));
    assert_eq!(front.ended().1.exit_code, Some(7));
    wait_for_pool(&front);
    front
}

#[track_caller]
fn wait_for_pool(front: &Front) {
    // Each alone and waiting: not one that has run its program and is being taken apart.
    wait_until("two cells are prepared ahead", || {
        inits(front).len() == 2 && children_of(front.process.id() as i32).len() == 2
    });
}

/// Starts `job`, which says "up" and then runs on; what it said before, and the init of its cell, one of `waiting`.
#[track_caller]
fn start_in_one_of(front: &Front, job: Job, waiting: &[i32]) -> (String, i32) {
    let mut stdout = front.start_job(job, &bundle(b"", true));
    let said = read_up_to(&mut stdout, "up\n");
    let used: Vec<i32> = waiting.iter().copied().filter(|init| runs_a_program(*init)).collect();
    assert_eq!(used.len(), 1, "one of the cells that waited runs it: {waiting:?}");
    (said, used[0])
}

fn read_up_to(stream: &mut File, end: &str) -> String {
    let mut said = String::new();
    while !said.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {said:?}"));
        said.push(byte[0] as char);
    }
    said.trim_end_matches(end).to_owned()
}

#[test]
fn a_cell_prepared_ahead_is_used_by_one_run_and_never_again() {
    if !is_root() {
        return;
    }
    let mut front = with_full_pool(&[]);
    let script = "echo /tmp/* /work/*; touch /tmp/left /work/left; echo up; exec sleep 60";
    let mut used = Vec::new();
    for number in 2..8 {
        wait_for_pool(&front);
        let (found, init) = start_in_one_of(&front, shell(number, script), &inits(&front));
        assert_eq!(found, "/tmp/* /work/*\n", "nothing of an earlier run");
        assert!(!used.contains(&init), "{init} has run a program before");
        used.push(init);
        front.stop(number);
        assert_eq!(front.ended().0, number);
        assert!(!is_alive(init), "its cell is dead with it");
    }
    front.hang_up();
    assert_eq!(front.groups(), Vec::<String>::new());
}

/// The value of a cgroup file of the cell that has this init, on whichever hierarchy has the file.
fn limit_of(front: &Front, init: i32, files: [&str; 2]) -> String {
    let cells = groups_of(front.process.id()).into_iter().flat_map(|parent| std::fs::read_dir(parent).unwrap());
    let holds = |group: &std::path::PathBuf| {
        let processes = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        processes.lines().any(|pid| pid == init.to_string())
    };
    let groups: Vec<_> = cells.flatten().map(|entry| entry.path()).filter(holds).collect();
    let values = groups.iter().flat_map(|group| files.map(|file| std::fs::read_to_string(group.join(file))));
    values.flatten().next().unwrap_or_else(|| panic!("no {files:?} in {groups:?}")).trim_end().to_owned()
}

#[test]
fn a_cell_prepared_ahead_has_exactly_the_limits_of_its_run() {
    if !is_root() {
        return;
    }
    let front = with_full_pool(&[]);
    // Smaller and larger than those before, and the default in between.
    let wishes =
        [(Some(20), Some(3), Some(0.5)), (None, None, None), (Some(200), Some(30), Some(2.0)), (Some(48), None, None)];
    for ((megabytes, processes, rate), number) in wishes.into_iter().zip(2..) {
        let memory_bytes = megabytes.map(|megabytes: u64| megabytes << 20);
        let limits = LimitsWire { memory_bytes, processes, cpu_rate: rate, ..LimitsWire::default() };
        let script = "stat -f -c '%b %S %c' /tmp /work; ulimit -p; echo up; exec sleep 60";
        wait_for_pool(&front);
        let (sizes, init) = start_in_one_of(&front, Job { limits, ..shell(number, script) }, &inits(&front));
        let (memory, processes) = (memory_bytes.unwrap_or(256 << 20), processes.unwrap_or(64));
        let scratch = format!("{} 4096 4096\n", memory.min(64 << 20) / 4096);
        assert_eq!(sizes, format!("{scratch}{scratch}{}\n", processes + 1));
        let limit = |files| limit_of(&front, init, files);
        assert_eq!(limit(["memory.limit_in_bytes", "memory.max"]), memory.to_string());
        assert_eq!(limit(["pids.max", "pids.max"]), (processes + 1).to_string());
        let quota = (rate.unwrap_or(1.0) * 100_000.0) as u64;
        let set = limit(["cpu.cfs_quota_us", "cpu.max"]);
        assert_eq!(set.split(' ').next(), Some(quota.to_string().as_str()), "{set}");
        if groups_of(front.process.id()).iter().any(|group| group.join("memory.memsw.limit_in_bytes").exists()) {
            assert_eq!(limit(["memory.memsw.limit_in_bytes"; 2]), memory.to_string(), "no swap beside it");
        }
        front.stop(number);
        assert_eq!(front.ended().0, number);
    }
}

#[test]
fn a_cell_whose_init_died_while_it_waited_fails_no_run() {
    if !is_root() {
        return;
    }
    let front = with_full_pool(&[]);
    for (count, number) in [(1, 2), (2, 3)] {
        for init in inits(&front).into_iter().take(count) {
            kill(Pid::from_raw(init), Signal::SIGKILL).unwrap();
            wait_until("init is dead", || !is_alive(init));
        }
        front.start_job(shell(number, "exit 3"), &bundle(b"", true));
        assert_eq!(front.ended().1.exit_code, Some(3));
        wait_for_pool(&front);
        wait_until("the dead ones are reaped", || children_of(front.process.id() as i32) == inits(&front));
    }
}

#[test]
fn an_idle_pool_is_cleared_and_filled_again() {
    if !is_root() {
        return;
    }
    let front = with_full_pool(&["--pool-idle-time", "300ms"]);
    wait_until("the pool is empty", || children_of(front.process.id() as i32).is_empty());
    front.start_job(shell(2, "exit 3"), &bundle(b"", true));
    assert_eq!(front.ended().1.exit_code, Some(3));
    wait_for_pool(&front);
}

#[test]
fn a_pool_of_no_cells_keeps_none() {
    if !is_root() {
        return;
    }
    let front = Front::start_with(&["--pool-cells-per-shape", "0"]);
    for number in 1..4 {
        front.start_job(shell(number, "exit 3"), &bundle(b"", true));
        assert_eq!(front.ended().1.exit_code, Some(3));
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(inits(&front), Vec::<i32>::new());
}

#[test]
fn cells_prepared_ahead_die_with_the_supervisor() {
    if !is_root() {
        return;
    }
    let mut front = with_full_pool(&[]);
    let waiting = inits(&front);
    front.process.kill().unwrap();
    front.process.wait().unwrap();
    wait_until("the waiting cells are dead", || !waiting.iter().any(|init| is_alive(*init)));
}

/// The fault points exist in debug builds alone.
#[cfg(debug_assertions)]
#[test]
fn what_fails_ahead_fails_no_run_and_what_fails_a_run_is_named() {
    if !is_root() {
        return;
    }
    // Armed in the supervisor, it strikes in every init made: that of a run, and those made ahead.
    let front = Front::start_with(&["--fail", "step.mount_proc=12"]);
    for number in 1..4 {
        front.start_job(shell(number, "exit 3"), &bundle(b"", true));
        match front.receive().0 {
            FromSupervisor::Failed { job, step, .. } => assert_eq!((job, step.as_str()), (number, "mount_proc")),
            other => panic!("{other:?}"),
        }
    }
    // Once, when the first cell is made ahead; and once, when one that waits gets the limits of a run.
    for fail in ["step.create_control_socket+1=12", "cgroup.write.pids.max+3=12"] {
        let front = Front::start_with(&["--fail", fail]);
        for number in 1..4 {
            let limits = LimitsWire { processes: Some(10 + number as u32), ..LimitsWire::default() };
            let script = "ulimit -p; echo up; exec sleep 60";
            let mut stdout = front.start_job(Job { limits, ..shell(number, script) }, &bundle(b"", true));
            assert_eq!(read_up_to(&mut stdout, "up\n"), format!("{}\n", 11 + number), "{fail}");
            let used: Vec<i32> = inits(&front).into_iter().filter(|init| runs_a_program(*init)).collect();
            let limit = limit_of(&front, used[0], ["pids.max", "pids.max"]);
            assert_eq!(limit, (11 + number).to_string(), "{fail}");
            front.stop(number);
            assert_eq!(front.ended().0, number);
            if number > 1 || !fail.starts_with("step") {
                wait_for_pool(&front);
            }
        }
    }
}
