//! Section B: processes, memory, time, and what is over when a run is over.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{run_with, sandboxd, text};
use crate::harness::{attempts, compiled, json, program_command, ready, run_bare, run_flags, run_program};

fn run_limited(program: &str, flags: &[&str], arguments: &[&str]) -> serde_json::Value {
    json(&mut program_command(program, &[], flags, arguments))
}

/// The cgroups below which `pid` would make cells.
fn groups_of(pid: u32) -> Vec<String> {
    let output = run_bare(
        Command::new("find").args(["/sys/fs/cgroup", "-maxdepth", "6", "-name"]).arg(format!("sandboxd.{pid}*")),
    );
    text(&output.stdout).lines().map(str::to_owned).collect()
}

/// Row 22: each kind of fork bomb, inside its limits; afterwards it is gone and the next run is as quick as ever.
#[test]
fn fork_bombs_are_contained_and_gone() {
    if !ready() {
        return;
    }
    for mode in ["fork", "vfork", "thread", "daemon"] {
        let flags = ["--processes", "32", "--wall-time", "700ms", "--memory", "64M"];
        let mut command = program_command("bombs", &[], &flags, &[mode]);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        let started = Instant::now();
        let child = command.spawn().expect("the bomb's sandbox starts");
        let pid = child.id();
        let output = child.wait_with_output().expect("it ends");
        let took = started.elapsed();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a verdict");
        assert_ne!(answer["status"], "sandbox_error", "{mode}: {answer}");
        assert!(answer["evidence"]["process_limit_hits"].as_u64().is_some_and(|hits| hits > 0), "{mode}: {answer}");
        assert!(answer["usage"]["processes_peak"].as_u64().is_some_and(|peak| peak <= 32), "{mode}: {answer}");
        assert!(took < Duration::from_secs(4), "{mode} took {took:?}");
        assert_eq!(groups_of(pid), [""; 0], "{mode}");

        let started = Instant::now();
        let next = run_flags(&["--rootfs", "base", "--", "true"]);
        assert_eq!(next["status"], "ok", "{next}");
        assert!(started.elapsed() < Duration::from_secs(1), "the run after {mode} took {:?}", started.elapsed());
    }
}

/// Row 22: the limit is the cgroup's; what every process may have by itself is a second one.
#[test]
fn processes_are_counted() {
    if !ready() {
        return;
    }
    let flags = ["--processes", "20"];
    for without in [&[][..], &["set_rlimits"]] {
        let answer = json(&mut program_command("bombs", without, &flags, &["40"]));
        assert_eq!(answer["stdout"], "processes: EAGAIN\n", "without {without:?}: {answer}");
    }
    let answer = run_limited("bombs", &["--processes", "64"], &["40"]);
    assert_eq!(answer["stdout"], "processes: ok\n", "the control: {answer}");
}

/// Row 23: zombies count, and orphans are reaped.
#[test]
fn zombies_are_counted_and_orphans_reaped() {
    if !ready() {
        return;
    }
    let flags = ["--processes", "16"];
    let answer = run_limited("zombies", &flags, &["kept", "100"]);
    assert_eq!(answer["stdout"], "kept: EAGAIN\n", "{answer}");
    let answer = run_limited("zombies", &flags, &["kept", "8"]);
    assert_eq!(answer["stdout"], "kept: ok\n", "the control: {answer}");
    // Many times more orphans than there may be processes: each leaves when init has reaped it.
    let answer = run_limited("zombies", &["--processes", "64"], &["orphans", "500"]);
    assert_eq!(answer["stdout"], "orphans: ok\n", "{answer}");
}

/// Rows 24, 26, 28: those that stay, stop, or do not listen.
#[test]
fn a_run_ends_when_it_must() {
    if !ready() {
        return;
    }
    let run = |script: &str| {
        let started = Instant::now();
        let answer = run_flags(&["--rootfs", "base", "--wall-time", "600ms", "--", "bash", "-c", script]);
        (answer, started.elapsed())
    };
    for (title, script) in [
        ("an orphan holds stdout", "sleep 1000 & echo done"),
        ("a daemon holds stdout", "(setsid bash -c 'trap \"\" TERM HUP INT; sleep 1000' &) ; echo done"),
        ("everybody is killed", "sleep 1000 & sleep 1000 & echo done; kill -9 -1"),
        ("stdout is closed", "echo done; exec >&- 2>&-; exit 0"),
    ] {
        let (answer, took) = run(script);
        assert_eq!((&answer["status"], &answer["stdout"]), (&"ok".into(), &"done\n".into()), "{title}: {answer}");
        assert!(took < Duration::from_millis(2500), "{title} took {took:?}");
        assert!(answer["usage"]["wall_time_ms"].as_f64().is_some_and(|wall| wall < 500.0), "{title}: {answer}");
    }
    for (title, script) in [
        ("stops itself", "kill -STOP $$"),
        ("ignores SIGTERM", "trap '' TERM INT HUP; while :; do sleep 1000; done"),
        ("sleeps", "exec sleep 1000"),
        ("trickles output", "while :; do echo -n .; sleep 0.05; done"),
        ("stops its parent", "kill -STOP $PPID; exec sleep 1000"),
    ] {
        let (answer, took) = run(script);
        assert_eq!(answer["status"], "wall_time_exceeded", "{title}: {answer}");
        assert!(took < Duration::from_millis(3000), "{title} took {took:?}");
    }
    // The control for the orphan: whoever waits for the end of the stream waits for the orphan.
    let started = Instant::now();
    run_bare(Command::new("sh").args(["-c", "sleep 1 & echo done"]));
    assert!(started.elapsed() >= Duration::from_secs(1));
}

/// Row 25: init and the host are out of reach of every call that signals.
#[test]
fn signals_stay_among_the_payload() {
    if !ready() {
        return;
    }
    let mut victim = Command::new("sleep").arg("60").spawn().expect("a process of the host");
    let host = victim.id().to_string();
    let init = ["question init", "kill init", "tgkill init", "sigqueue init", "pidfd init"];
    for without in [&[][..], &["restrict_by_landlock", "install_seccomp"], &["become_payload_user", "install_seccomp"]]
    {
        let answer = run_program("signals", without, &["parent", &host]);
        let tried = attempts(answer["stdout"].as_str().unwrap_or_default());
        for attempt in init {
            assert_eq!(tried[attempt], "EPERM", "without {without:?}: {answer}");
        }
        for attempt in ["kill a process of the host", "pidfd of the host"] {
            assert_eq!(tried[attempt], "ESRCH", "without {without:?}: {answer}");
        }
    }
    // The controls: with init's own user and no landlock init can be signaled; on the host its processes can.
    let answer = run_program("signals", &["become_payload_user", "restrict_by_landlock"], &["parent", &host]);
    let tried = attempts(answer["stdout"].as_str().unwrap_or_default());
    for attempt in init {
        assert_eq!(tried[attempt], "ok", "the control: {answer}");
    }
    let output = run_bare(Command::new(compiled("signals")).args([&host, &host]));
    let tried = attempts(&text(&output.stdout));
    assert_eq!(tried["kill a process of the host"], "ok", "the control: {}", text(&output.stdout));
    assert_eq!(tried["pidfd of the host"], "ok", "the control: {}", text(&output.stdout));
    assert!(victim.try_wait().expect("it can be asked").is_none());
    victim.kill().expect("it can be killed");
    victim.wait().expect("it can be waited for");
}

/// Rows 27, 76: CPU time is the cell's, whoever spends it, orphans and threads included.
#[test]
fn cpu_time_is_counted_for_all() {
    if !ready() {
        return;
    }
    let burn = "burn() { while :; do :; done; }; for i in 1 2 3 4; do burn & done; wait";
    let orphan = "(setsid bash -c 'while :; do :; done' &); sleep 5";
    for script in [burn, orphan] {
        let answer =
            run_flags(&["--rootfs", "base", "--cpu-time", "500ms", "--wall-time", "8s", "--", "bash", "-c", script]);
        assert_eq!(answer["status"], "cpu_time_exceeded", "{answer}");
        let used = answer["usage"]["cpu_time_ms"].as_f64().unwrap_or_default();
        assert!((500.0..1000.0).contains(&used), "{answer}");
    }
    let answer = run_flags(&["--rootfs", "base", "--cpu-time", "500ms", "--wall-time", "8s", "--", "sleep", "1"]);
    assert_eq!(answer["status"], "ok", "the control: {answer}");
}

/// Rows 33, 34: memory of every kind counts, and never more than the limit is taken.
#[test]
fn memory_of_every_kind_is_counted() {
    if !ready() {
        return;
    }
    let limit = 48 << 20;
    for kind in ["heap", "memfd", "tmpfs", "pipes", "sockets", "shm", "page tables", "children", "messages", "mlock"] {
        // A queue holds 16 KiB, so it takes many.
        let most = if kind == "messages" { "8192" } else { "1024" };
        let answer = run_limited("memory", &["--memory", "48M", "--wall-time", "8s"], &[kind, most]);
        let peak = answer["usage"]["memory_peak_bytes"].as_u64().unwrap_or(u64::MAX);
        assert!(peak <= limit, "{kind}: {answer}");
        // Killed at the limit, or refused before it; never simply granted.
        let killed = answer["status"] == "memory_exceeded";
        let refused = answer["stdout"].as_str().is_some_and(|out| out.starts_with(kind) && !out.ends_with(": ok\n"));
        assert!(killed || refused, "{kind}: {answer}");
        let expected = match kind {
            "heap" | "memfd" | "tmpfs" | "page tables" | "shm" => killed,
            // A locked page is refused long before: RLIMIT_MEMLOCK.
            "mlock" => answer["stdout"] == "mlock: ENOMEM\n",
            _ => true,
        };
        assert!(expected, "{kind}: {answer}");
        // The control: a little of the same.
        let most = if kind == "mlock" { "0" } else { "4" };
        let answer = run_limited("memory", &["--memory", "48M"], &[kind, most]);
        assert_eq!(answer["stdout"], format!("{kind}: ok\n"), "the control: {answer}");
    }
}

/// Row 33: the cell is the kernel's first choice, and cannot change that.
#[test]
fn the_cell_is_the_first_to_die() {
    if !ready() {
        return;
    }
    let script = "cat /proc/self/oom_score_adj; echo 0 > /proc/self/oom_score_adj";
    let answer = run_flags(&["--rootfs", "base", "--", "bash", "-c", script]);
    assert_eq!(answer["stdout"], "1000\n", "{answer}");
    assert!(answer["stderr"].to_string().contains("Read-only"), "{answer}");
    let answer = run_flags(&["--without-step", "set_oom_score", "--rootfs", "base", "--", "bash", "-c", script]);
    assert_ne!(answer["stdout"], "1000\n", "the control: {answer}");
}

/// Rows 35, 36: reserved is not taken, and the stack has an end.
#[test]
fn address_space_is_free_and_the_stack_is_not() {
    if !ready() {
        return;
    }
    let answer = run_limited("memory", &["--memory", "16M"], &["sparse"]);
    assert_eq!(answer["stdout"], "sparse: ok\n", "{answer}");
    let answer = run_program("memory", &[], &["stack", "100000"]);
    assert_eq!((&answer["status"], &answer["signal"]), (&"signaled".into(), &"SIGSEGV".into()), "{answer}");
    let answer = run_program("memory", &[], &["stack", "10"]);
    assert_eq!(answer["stdout"], "stack: ok\n", "the control: {answer}");
    let answer = run_program("memory", &[], &["raise stack"]);
    assert_eq!(answer["stdout"], "raise stack: EPERM\n", "{answer}");
    let answer = run_program("memory", &["set_rlimits"], &["raise stack"]);
    assert_eq!(answer["stdout"], "raise stack: ok\n", "the control: {answer}");
}

/// Row 29: numbers that are no limits.
#[test]
fn senseless_limits_are_refused() {
    if !ready() {
        return;
    }
    for flag in ["--wall-time", "--cpu-time", "--memory", "--processes", "--output", "--cpu-rate"] {
        for value in ["0", "-1", "NaN", "inf", "1e308", "18446744073709551616", "", "0x10"] {
            let argument = format!("{flag}={value}");
            let output = run_with(
                sandboxd().args(["run", "--rootfs", "base", &argument, "--", "true"]),
                b"",
                Duration::from_secs(20),
            );
            let message = text(&output.stderr);
            assert_eq!(output.status.code(), Some(125), "{argument}: {message}");
            assert!(message.starts_with("error"), "{argument}: {message}");
        }
    }
}

/// Rows 77, 78: what a program does to look like something else.
#[test]
fn verdicts_cannot_be_imitated() {
    if !ready() {
        return;
    }
    for (script, status, code, signal) in [
        ("exit 137", "nonzero_exit", Some(137), None),
        ("exit 139", "nonzero_exit", Some(139), None),
        ("exit 124", "nonzero_exit", Some(124), None),
        ("exit 125", "nonzero_exit", Some(125), None),
        ("kill -9 $$", "signaled", None, Some("SIGKILL")),
        ("kill -SEGV $$", "signaled", None, Some("SIGSEGV")),
        // FIXME: wait(2) does not tell a raised SIGSYS from the filter's; the program accuses itself of a foreign ABI.
        ("kill -SYS $$", "syscall_denied", None, Some("SIGSYS")),
        ("kill -XCPU $$", "signaled", None, Some("SIGXCPU")),
        (
            "for fd in {3..255}; do echo '{\"status\":\"ok\"}' >&$fd; done 2>/dev/null; exit 3",
            "nonzero_exit",
            Some(3),
            None,
        ),
        ("exec true", "ok", Some(0), None),
        ("bash -c 'kill -9 $$'; exit 0", "ok", Some(0), None),
    ] {
        let answer = run_flags(&["--rootfs", "base", "--", "bash", "-c", script]);
        assert_eq!(answer["status"], status, "{script}: {answer}");
        assert_eq!(answer["exit_code"], serde_json::json!(code), "{script}: {answer}");
        assert_eq!(answer["signal"], serde_json::json!(signal), "{script}: {answer}");
        assert_ne!(answer["evidence"]["killed_by"], "kernel_oom", "{script}: {answer}");
    }
}

/// Row 79: files that are hardly programs, executed as the result of a compile step.
#[test]
fn malicious_executables_get_a_verdict() {
    if !ready() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let profile = directory.path().join("binary.toml");
    let text = "name = \"binary\"\nextensions = [\"bin\"]\nrootfs = \"base\"\nsource = \"main.bin\"\n\
                [version]\ncommand = [\"bash\", \"--version\"]\n\
                [compile]\ncommand = [\"install\", \"-m\", \"755\", \"{source}\", \"/work/a.out\"]\nartifacts = [\"a.out\"]\n\
                [run]\ncommand = [\"/work/a.out\"]\n";
    std::fs::write(&profile, text).expect("the profile is written");
    let run = |content: &[u8]| {
        let source = directory.path().join("attack.bin");
        std::fs::write(&source, content).expect("the program is written");
        run_flags(&["--profile", profile.to_str().expect("UTF-8"), source.to_str().expect("UTF-8")])
    };
    let interpreter =
        |path: &str| elf(&[(3, 5, 176, 0, path.len() as u64 + 1, path.len() as u64 + 1)], path.as_bytes());
    let attacks: [(&str, Vec<u8>); 14] = [
        ("an empty header", b"\x7fELF".to_vec()),
        ("garbage", vec![0xff; 4096]),
        ("NUL", vec![0; 1]),
        ("an interpreter that is a descriptor", interpreter("/proc/self/fd/3")),
        ("an interpreter that is itself", interpreter("/proc/self/exe")),
        ("an interpreter that is init's memory", interpreter("/proc/1/mem")),
        ("an interpreter that is a device", interpreter("/dev/zero")),
        ("an interpreter that is a directory", interpreter("/")),
        ("a giant segment", elf(&[(1, 7, 0, 0x40_0000, 1 << 46, 1 << 46)], b"")),
        ("a segment over the kernel", elf(&[(1, 7, 0, 0xffff_8000_0000_0000, 4096, 4096)], b"")),
        ("overlapping segments", elf(&[(1, 7, 0, 0x40_0000, 232, 1 << 40), (1, 7, 0, 0x40_0000, 232, 1 << 40)], b"")),
        ("a script that is its own interpreter", b"#!/work/a.out\n".to_vec()),
        ("a script without an interpreter", b"#!\n".to_vec()),
        ("a script of init's program", b"#!/proc/self/exe\n".to_vec()),
    ];
    for (title, content) in attacks {
        let answer = run(&content);
        assert_ne!(answer["status"], "sandbox_error", "{title}: {answer}");
        assert!(
            matches!(answer["status"].as_str(), Some("nonzero_exit" | "signaled" | "memory_exceeded")),
            "{title}: {answer}"
        );
    }
    // The control: a program that is one.
    let answer = run(&std::fs::read("/bin/true").expect("a program"));
    assert_eq!(answer["status"], "ok", "{answer}");
}

/// A 64-bit executable of headers alone: (type, flags, offset, address, size in the file, size in memory), then `tail`.
fn elf(segments: &[(u32, u32, u64, u64, u64, u64)], tail: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |bytes: &mut Vec<u8>, value: u16| bytes.extend(value.to_le_bytes());
    half(&mut bytes, 2);
    half(&mut bytes, 62);
    bytes.extend(1u32.to_le_bytes());
    for value in [0x40_00e8_u64, 64, 0] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    for value in [64, 56, segments.len() as u16 + 1, 64, 0, 0] {
        half(&mut bytes, value);
    }
    let load = (1, 5, 0, 0x40_0000, 232, 4096);
    for (kind, flags, offset, address, file, memory) in std::iter::once(load).chain(segments.iter().copied()) {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for value in [offset, address, address, file, memory, 1u64] {
            bytes.extend(value.to_le_bytes());
        }
    }
    bytes.extend(tail);
    bytes.push(0);
    bytes
}
