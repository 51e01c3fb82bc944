//! Other kinds of hosts than the one the tests run on: pure cgroup v2, under User Mode Linux.

mod common;

/// Runs each program with `--json` on the v2 machine and returns the answers.
fn answers(runs: &[&str]) -> Option<Vec<serde_json::Value>> {
    let program = env!("CARGO_BIN_EXE_sandboxd");
    let script: String =
        runs.iter().map(|run| format!("{program} run --rootfs host --json {run} 2>/dev/null\n")).collect();
    let leftovers = "find /sys/fs/cgroup -name 'sandboxd*' | sed 's/^/LEFT /'\n";
    let output = common::run_under_v2(&format!("{script}{leftovers}"))?;
    let text = common::text(&output.stdout);
    assert!(!text.contains("LEFT "), "{text}");
    let answers: Vec<_> = text.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(answers.len(), runs.len(), "{text}");
    Some(answers.into_iter().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn pure_cgroup_v2_enforces_every_limit() {
    let runs = [
        "-- sh -c 'echo hello; cat /proc/self/cgroup'",
        "--memory 64M -- python3 -c 'x = bytearray(200 << 20)'",
        // A child that is killed for memory takes the sleeping rest along.
        "--memory 64M -- sh -c 'python3 -c \"x = bytearray(200 << 20)\"; sleep 20'",
        "--processes 5 -- sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait'",
        "--cpu-time 1s -- sh -c 'while :; do :; done'",
        "--wall-time 1s -- sleep 20",
        "--cpu-rate 0.3 --wall-time 20s -- python3 -c 'import time\nwhile time.process_time() < 0.5: pass'",
        "-- sh -c 'sleep 60 & exit 3'",
        "-- unshare -U true",
    ];
    let Some(answers) = answers(&runs) else { return };
    let status = |index: usize| answers[index]["status"].as_str().unwrap().to_owned();
    assert_eq!(status(0), "ok", "{}", answers[0]);
    assert_eq!(answers[0]["enforcement"]["cgroup"], "v2");
    assert_eq!(answers[0]["stdout"], "hello\n0::/\n");
    assert!(answers[0]["usage"]["memory_peak_bytes"].as_u64().unwrap() > 100_000, "{}", answers[0]);
    for index in [1, 2] {
        assert_eq!(status(index), "memory_exceeded", "{}", answers[index]);
        assert_eq!(answers[index]["evidence"]["killed_by"], "kernel_oom");
        assert!(answers[index]["usage"]["wall_time_ms"].as_f64().unwrap() < 15_000.0, "{}", answers[index]);
    }
    assert!(answers[3]["evidence"]["process_limit_hits"].as_u64().unwrap() > 0, "{}", answers[3]);
    assert_eq!(status(4), "cpu_time_exceeded", "{}", answers[4]);
    assert_eq!(status(5), "wall_time_exceeded", "{}", answers[5]);
    let (wall, cpu) = (&answers[6]["usage"]["wall_time_ms"], &answers[6]["usage"]["cpu_time_ms"]);
    assert!(wall.as_f64().unwrap() > 2.0 * cpu.as_f64().unwrap(), "{}", answers[6]);
    assert_eq!((status(7).as_str(), &answers[7]["exit_code"]), ("nonzero_exit", &serde_json::json!(3)));
    assert_eq!(answers[8]["evidence"]["denied_syscalls"][0]["name"], "unshare", "{}", answers[8]);
}

/// Minutes of an emulated machine: `make test-hosts` asks for it.
#[test]
fn a_debian_machine_with_systemd_runs_the_service_and_survives_a_power_cut() {
    if std::env::var_os("SANDBOXD_TEST_VM").is_none() {
        eprintln!("skipped: `make test-hosts` runs it");
        return;
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = std::process::Command::new(root.join("tests/vm/run")).current_dir(root).status().unwrap();
    assert!(status.success(), "{status}: the lines of FAIL above say what is wrong");
}
