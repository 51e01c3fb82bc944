//! Every status word and every field of the evidence, each with a real program; and that nothing outlives a run.
//!
//! Needs root for most: elsewhere a test says why it did nothing. Programs are this machine's own (`--rootfs host`)
//! except where a language's image is what is tested. Upper bounds of time are generous, since other programs compile at
//! the same time; nothing waits by sleeping.

mod common;

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{PATIENCE, Running, answer, has_image, is_alive, is_root, run_command, source, text};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// `sandboxd run --json --rootfs host FLAGS… -- sh -c SCRIPT`.
#[track_caller]
fn shell(flags: &[&str], script: &str) -> (Value, i32) {
    answer(&[&["--rootfs", "host"], flags, &["--", "sh", "-c", script]].concat())
}

#[track_caller]
fn python(flags: &[&str], code: &str) -> (Value, i32) {
    let (_directory, path) = source("main.py", code);
    answer(&[&["--rootfs", "host"], flags, &[path.to_str().unwrap()]].concat())
}

/// Status word, who killed, and the name of the limit.
fn verdict(answer: &Value) -> (&str, Option<&str>, Option<&str>) {
    let evidence = &answer["evidence"];
    (answer["status"].as_str().unwrap(), evidence["killed_by"].as_str(), evidence["limit"]["name"].as_str())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

// How a program ends by itself.

#[test]
fn exit_codes_are_the_programs_own() {
    if !is_root() {
        return;
    }
    for (code, status) in
        [(0, "ok"), (3, "nonzero_exit"), (124, "nonzero_exit"), (125, "nonzero_exit"), (137, "nonzero_exit")]
    {
        let (answer, exit) = shell(&[], &format!("exit {code}"));
        assert_eq!((verdict(&answer), exit), ((status, None, None), code), "{answer}");
        assert_eq!((&answer["exit_code"], &answer["signal"]), (&json!(code), &Value::Null), "{answer}");
    }
}

#[test]
fn a_program_that_kills_itself_is_signaled_and_not_out_of_memory() {
    if !is_root() {
        return;
    }
    for (signal, number, killed_by) in
        [("KILL", 9, "payload"), ("TERM", 15, "payload"), ("SEGV", 11, "kernel"), ("XCPU", 24, "payload")]
    {
        let (answer, exit) = shell(&[], &format!("kill -{signal} $$"));
        assert_eq!((verdict(&answer), exit), (("signaled", Some(killed_by), None), 128 + number), "{answer}");
        assert_eq!((&answer["signal"], &answer["exit_code"]), (&json!(format!("SIG{signal}")), &Value::Null));
        assert_eq!(answer["evidence"]["oom_kills"], 0);
    }
}

#[test]
fn a_command_that_is_missing_or_no_program_is_a_verdict() {
    if !is_root() {
        return;
    }
    for (command, code, errno) in [
        ("no-such-command", 127, "ENOENT"),
        ("/no/such/path", 127, "ENOENT"),
        ("/etc/passwd", 126, "EACCES"),
        ("/usr", 126, "EACCES"),
    ] {
        let (answer, exit) = answer(&["--rootfs", "host", "--", command]);
        assert_eq!((verdict(&answer).0, exit), ("nonzero_exit", code), "{command}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(errno), "{answer}");
    }
}

// Time.

#[test]
fn a_busy_loop_runs_out_of_cpu_time_and_a_sleeper_of_wall_time() {
    if !is_root() {
        return;
    }
    let (busy, exit) = shell(&["--cpu-time", "300ms", "--wall-time", "50s"], "while :; do :; done");
    assert_eq!((verdict(&busy), exit), (("cpu_time_exceeded", Some("supervisor"), Some("cpu_time_ms")), 124), "{busy}");
    let limit = &busy["evidence"]["limit"];
    assert_eq!(number(&limit["value"]), 300.0);
    assert!((300.0..3000.0).contains(&number(&limit["measured"])), "{busy}");

    let (idle, exit) = shell(&["--cpu-time", "5s", "--wall-time", "400ms"], "sleep 50");
    assert_eq!(
        (verdict(&idle), exit),
        (("wall_time_exceeded", Some("supervisor"), Some("wall_time_ms")), 124),
        "{idle}"
    );
    assert!((400.0..5000.0).contains(&number(&idle["usage"]["wall_time_ms"])), "{idle}");
    assert!(number(&idle["usage"]["cpu_time_ms"]) < 200.0, "{idle}");
    assert_eq!((&idle["exit_code"], &idle["signal"]), (&Value::Null, &json!("SIGKILL")));
}

#[test]
fn cpu_time_is_that_of_all_processes_together() {
    if !is_root() {
        return;
    }
    // Eight children of half a second each would pass a limit that is looked at one by one.
    let script = "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait";
    let (answer, exit) = shell(&["--cpu-time", "1s", "--wall-time", "50s", "--cpu-rate", "2"], script);
    assert_eq!((verdict(&answer).0, exit), ("cpu_time_exceeded", 124), "{answer}");
    assert!((1000.0..3000.0).contains(&number(&answer["usage"]["cpu_time_ms"])), "{answer}");
    assert!(number(&answer["usage"]["processes_peak"]) >= 9.0, "{answer}");
}

#[test]
fn a_cpu_rate_stretches_a_busy_loop() {
    if !is_root() {
        return;
    }
    let (answer, _) = shell(&["--cpu-rate", "0.2", "--cpu-time", "300ms", "--wall-time", "50s"], "while :; do :; done");
    assert_eq!(verdict(&answer).0, "cpu_time_exceeded", "{answer}");
    let usage = &answer["usage"];
    assert!(number(&usage["wall_time_ms"]) >= 3.0 * number(&usage["cpu_time_ms"]), "{answer}");
}

#[test]
fn one_that_stops_itself_is_ended_by_the_wall_clock() {
    if !is_root() {
        return;
    }
    let (answer, exit) = shell(&["--wall-time", "300ms"], "kill -STOP $$");
    assert_eq!((verdict(&answer).0, exit), ("wall_time_exceeded", 124), "{answer}");
}

// Memory, processes, files.

#[test]
fn memory_counts_by_one_process_by_many_and_by_files() {
    if !is_root() {
        return;
    }
    let many = "import os,time\nfor i in range(8):\n  if os.fork()==0:\n    x=bytearray(16<<20); time.sleep(60)\ntime.sleep(60)\n";
    let programs = [
        ("one", "x=bytearray(300<<20)\n"),
        ("many", many),
        ("files", "f=open('/tmp/x','wb')\nfor i in range(300): f.write(bytes(1<<20))\n"),
    ];
    for (name, code) in programs {
        let (answer, exit) = python(&["--memory", "60M", "--wall-time", "50s"], code);
        let expected = (("memory_exceeded", Some("kernel_oom"), Some("memory_bytes")), 137);
        assert_eq!((verdict(&answer), exit), expected, "{name}: {answer}");
        assert!(number(&answer["evidence"]["oom_kills"]) >= 1.0, "{name}: {answer}");
        let peak = number(&answer["usage"]["memory_peak_bytes"]);
        assert!(((50 << 20) as f64..=(60 << 20) as f64).contains(&peak), "{name}: {answer}");
    }
    let (within, _) = python(&["--memory", "200M"], "x=bytearray(100<<20); print(len(x))\n");
    assert_eq!(within["status"], "ok", "{within}");
    assert!(number(&within["usage"]["memory_peak_bytes"]) >= (100 << 20) as f64, "{within}");
}

#[test]
fn a_child_lost_to_the_memory_limit_ends_the_whole_cell() {
    if !is_root() {
        return;
    }
    let child = "python3 -c 'x=bytearray(300<<20)'";
    // The main process sleeps on; ends with the code that imitates a SIGKILL; pretends that nothing was.
    for after in ["sleep 50", "exit $?", "exit 0"] {
        let (answer, _) = shell(&["--memory", "40M", "--wall-time", "50s"], &format!("{child}; {after}"));
        assert_eq!(
            verdict(&answer),
            ("memory_exceeded", Some("kernel_oom"), Some("memory_bytes")),
            "{after}: {answer}"
        );
    }
}

#[test]
fn forks_beyond_the_limit_fail_and_are_evidence() {
    if !is_root() {
        return;
    }
    let code = "import os,time,errno\ntry:\n  while True:\n    if os.fork()==0: time.sleep(60)\nexcept OSError as e:\n  print(e.errno==errno.EAGAIN)\n";
    let (answer, exit) = python(&["--processes", "12"], code);
    assert_eq!((verdict(&answer), exit), (("ok", None, Some("processes")), 0), "{answer}");
    assert_eq!(answer["stdout"], "True\n");
    assert!(number(&answer["evidence"]["process_limit_hits"]) >= 1.0, "{answer}");
    assert_eq!(
        (number(&answer["usage"]["processes_peak"]), number(&answer["evidence"]["limit"]["value"])),
        (12.0, 12.0)
    );

    let (three, _) = shell(&[], "sleep 0.2 & sleep 0.2 & wait");
    assert_eq!(three["usage"]["processes_peak"], 3, "{three}");
    assert_eq!(three["evidence"]["process_limit_hits"], 0);
}

#[test]
fn a_file_over_its_limit_names_the_limit() {
    if !is_root() {
        return;
    }
    let profile = "name = \"tiny\"\nextensions = [\"tiny\"]\nrootfs = \"base\"\nsource = \"main.tiny\"\n\
                   [version]\ncommand = [\"sh\", \"--version\"]\n[run]\ncommand = [\"sh\", \"{source}\"]\n\
                   [limits]\nfile_bytes = \"64K\"\n";
    let (_directory, profile) = source("tiny.toml", profile);
    let (_directory, program) = source("main.tiny", "exec head -c 100000 /dev/zero > /tmp/x\n");
    let (answer, exit) =
        answer(&["--rootfs", "host", "--profile", profile.to_str().unwrap(), program.to_str().unwrap()]);
    assert_eq!((verdict(&answer), exit), (("signaled", Some("kernel"), Some("file_bytes")), 128 + 25), "{answer}");
    assert_eq!((&answer["signal"], &answer["evidence"]["limit"]["value"]), (&json!("SIGXFSZ"), &json!(65536.0)));
}

// Output.

#[test]
fn output_is_capped_to_the_byte_on_each_stream_and_together() {
    if !is_root() {
        return;
    }
    let ten = "printf 0123456789";
    for (script, limit, cut) in [
        (ten.to_owned(), None, (0, 0)),
        (format!("{ten} >&2"), None, (0, 0)),
        ("printf 01234; printf 56789 >&2".to_owned(), None, (0, 0)),
        (format!("{ten}; printf x; sleep 50"), Some("stdout_bytes"), (1, 0)),
        (format!("{{ {ten}; printf x; }} >&2; sleep 50"), Some("stderr_bytes"), (0, 1)),
        ("printf 01234; printf 56789 >&2; printf xy >&2; sleep 50".to_owned(), Some("output_bytes"), (0, 2)),
        // Over the cap and ended: the bytes decide, whoever was faster.
        (format!("{ten}; printf xyz"), Some("stdout_bytes"), (3, 0)),
    ] {
        let (answer, exit) = shell(&["--output", "10", "--wall-time", "50s"], &script);
        let status = if limit.is_some() { ("output_exceeded", Some("supervisor"), limit) } else { ("ok", None, None) };
        assert_eq!(verdict(&answer), status, "{script}: {answer}");
        assert_eq!(exit == 0, limit.is_none(), "{script}: {exit}");
        let kept = answer["stdout"].as_str().unwrap().len() + answer["stderr"].as_str().unwrap().len();
        assert_eq!(kept, 10, "{script}: {answer}");
        let cut_of = |stream: &str| answer[format!("{stream}_truncated_bytes")].as_u64().unwrap();
        let found = (cut_of("stdout"), cut_of("stderr"));
        // Two pipes have no order between them: which of the streams loses to a cap on both is nobody's promise.
        let both = limit == Some("output_bytes");
        assert!(found == cut || both && found.0 + found.1 == cut.0 + cut.1, "{script}: {found:?} {answer}");
    }
}

#[test]
fn output_without_end_is_cut_and_counted() {
    if !is_root() {
        return;
    }
    let (answer, exit) = answer(&["--rootfs", "host", "--output", "1M", "--wall-time", "50s", "--", "yes"]);
    assert_eq!((verdict(&answer).0, exit), ("output_exceeded", 137), "{}", answer["evidence"]);
    assert_eq!(answer["stdout"].as_str().unwrap().len(), 1 << 20);
    let cut = number(&answer["stdout_truncated_bytes"]);
    assert!(cut > 0.0 && number(&answer["evidence"]["limit"]["measured"]) == cut + (1 << 20) as f64);
}

#[test]
fn bytes_that_are_no_text_come_as_base64_and_a_cut_character_does_not_make_them_so() {
    if !is_root() {
        return;
    }
    let (binary, _) = shell(&[], r"printf '\377\376'; printf 'text' >&2");
    assert_eq!((&binary["stdout"], &binary["stdout_encoding"]), (&json!("//4="), &json!("base64")));
    assert_eq!((&binary["stderr"], &binary["stderr_encoding"]), (&json!("text"), &json!("utf-8")));
    let (cut, _) = shell(&["--output", "4"], r"printf 'abc\303\251'");
    assert_eq!((&cut["stdout"], &cut["stdout_encoding"]), (&json!("abc"), &json!("utf-8")), "{cut}");
    assert_eq!(cut["stdout_truncated_bytes"], 1);
    let (nul, _) = shell(&[], r"printf 'a\0b\033'");
    assert_eq!((&nul["stdout"], &nul["stdout_encoding"]), (&json!("a\0b\u{1b}"), &json!("utf-8")));
}

#[test]
fn a_program_may_close_its_streams() {
    if !is_root() {
        return;
    }
    for script in ["exec >&-; exit 4", "exec >&- 2>&-; sleep 0.1; exit 4", "exec <&- >&- 2>&-; exit 4"] {
        let (answer, exit) = shell(&[], script);
        assert_eq!((verdict(&answer).0, exit), ("nonzero_exit", 4), "{script}: {answer}");
    }
}

#[test]
fn output_streams_through_as_it_comes() {
    if !is_root() {
        return;
    }
    use std::io::Read as _;
    let mut command =
        run_command(&["--rootfs", "host", "--stdin", "-", "--", "sh", "-c", "echo first; read line; echo $line"]);
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 6];
    // Before anything was written to its stdin, which is what lets it go on.
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"second\n").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("second\n", Some(0)));
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    if !is_root() {
        return;
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = run_command(&["--rootfs", "host", "--wall-time", "50s", "--", "yes"]);
    let mut running = Running::start(command.stdout(Stdio::from(writer)));
    running.wait_for_payload();
    drop((reader, command));
    let output = running.finish();
    assert!(
        text(&output.stderr).contains("canceled: its output could not be written: Broken pipe"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(137));
}

#[test]
fn a_reader_that_does_not_read_keeps_nobody_from_leaving() {
    if !is_root() {
        return;
    }
    let (reader, writer) = std::io::pipe().unwrap();
    // More than the pipe holds, so that the rest waits here when the program has long ended.
    let mut command = run_command(&["--rootfs", "host", "--", "head", "-c", "120000", "/dev/zero"]);
    let mut running = Running::start(command.stdout(Stdio::from(writer)));
    running.wait_until("the cell is gone", |running| {
        let full = reader_holds(&reader) >= 60_000;
        full && running.processes().len() == 1
    });
    running.signal(Signal::SIGINT);
    let output = running.finish();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    drop(reader);
}

fn reader_holds(reader: &std::io::PipeReader) -> u64 {
    rustix::io::ioctl_fionread(reader).unwrap()
}

#[test]
fn answers_that_cannot_be_written_are_errors_without_a_backtrace() {
    if !is_root() {
        return;
    }
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    for flags in [["--json", "--rootfs=host"], ["--dry-run", "--rootfs=host"]] {
        let mut command = run_command(&flags);
        let output = Running::start(command.args(["--", "true"]).stdout(full())).finish();
        assert_eq!(output.status.code(), Some(125));
        let stderr = text(&output.stderr);
        assert!(
            stderr.starts_with("error: failed to write to stdout: No space left") && !stderr.contains("panicked"),
            "{stderr}"
        );
    }
    let mut command = run_command(&["--rootfs", "host", "--", "echo", "x"]);
    let output = Running::start(command.stdout(full())).finish();
    assert!(text(&output.stderr).contains("could not be written: No space left"), "{}", text(&output.stderr));
    // Nobody can be told of what is wrong with stderr; the exit code stays true.
    let mut command = run_command(&["--rootfs", "host", "--", "sh", "-c", "exit 3"]);
    assert_eq!(Running::start(command.stderr(full())).finish().status.code(), Some(3));
}

// Input.

#[test]
fn stdin_of_any_size_is_read_or_not_read() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("input");
    // Not a multiple of any buffer, and no two chunks alike.
    let bytes: Vec<u8> = (0..5_000_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let file = path.to_str().unwrap();

    // From a file, from a pipe, forwarded to a pipe.
    let echoed =
        Running::start(&mut run_command(&["--rootfs", "host", "--output", "8M", "--stdin", file, "--", "cat"]));
    assert!(echoed.finish().stdout == bytes);
    let mut from_pipe = run_command(&["--rootfs", "host", "--output", "8M", "--stdin", "-", "--", "cat"]);
    let output = common::run_with(&mut from_pipe, &bytes, PATIENCE);
    assert!(output.stdout == bytes, "{} of {} bytes: {}", output.stdout.len(), bytes.len(), text(&output.stderr));

    // 64 MB that nobody reads; some that is read in part; and a program that sleeps without reading.
    let unread = vec![b'x'; 64 << 20];
    let mut command = run_command(&["--rootfs", "host", "--stdin", "-", "--", "true"]);
    assert_eq!(common::run_with(&mut command, &unread, PATIENCE).status.code(), Some(0));
    let mut command = run_command(&["--rootfs", "host", "--stdin", "-", "--", "head", "-c", "3"]);
    assert_eq!(common::run_with(&mut command, &unread, PATIENCE).stdout, b"xxx");
    let mut command = run_command(&["--rootfs", "host", "--stdin", "-", "--wall-time", "300ms", "--", "sleep", "50"]);
    assert_eq!(common::run_with(&mut command, &unread, PATIENCE).status.code(), Some(124));
    // Without the flag there is nothing to read, and no waiting for it.
    let (nothing, _) = shell(&[], "cat; echo end");
    assert_eq!(nothing["stdout"], "end\n");
}

#[test]
fn arguments_environment_and_files_arrive_as_given() {
    if !is_root() {
        return;
    }
    let (directory, path) = source("main.py", "");
    std::fs::write(&path, "import sys,os\nprint(sys.argv[1:], os.environ['A'], os.environ['B'], open('sub/dir/data.bin','rb').read(), os.getcwd(), input())\n").unwrap();
    let data = directory.path().join("data");
    std::fs::write(&data, b"\0\xff").unwrap();
    let file = format!("sub/dir/data.bin={}", data.display());
    let stdin = directory.path().join("stdin");
    std::fs::write(&stdin, "line\n").unwrap();
    let (answer, _) = answer(&[
        "--rootfs",
        "host",
        "--arg",
        "-first",
        "--arg",
        "",
        "--env",
        "A=1=2",
        "--env",
        "B=",
        "--file",
        &file,
        "--stdin",
        stdin.to_str().unwrap(),
        path.to_str().unwrap(),
        "two words",
        "--json",
        "--",
        "-x",
    ]);
    assert_eq!(
        answer["stdout"], "['-first', '', 'two words', '--json', '--', '-x'] 1=2  b'\\x00\\xff' /work line\n",
        "{answer}"
    );
}

// System calls.

#[test]
fn a_denied_system_call_is_counted_and_the_program_goes_on() {
    if !is_root() {
        return;
    }
    let (answer, exit) = shell(&[], "unshare -U true; unshare -n true; unshare -m true; exit 0");
    assert_eq!((verdict(&answer).0, exit), ("ok", 0), "{answer}");
    assert_eq!(answer["evidence"]["denied_syscalls"], json!([{"name": "unshare", "count": 3}]), "{answer}");
    assert!(answer["stderr"].as_str().unwrap().contains("Operation not permitted"), "{answer}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_system_call_of_a_foreign_abi_kills() {
    if !is_root() || !has_image("gcc") {
        return;
    }
    let code =
        "int main(void) { int pid = 20; __asm__ volatile(\"int $0x80\" : \"+a\"(pid) : : \"memory\"); return 0; }\n";
    let (_directory, path) = source("main.c", code);
    let (answer, exit) = answer(&[path.to_str().unwrap()]);
    assert_eq!((verdict(&answer), exit), (("syscall_denied", Some("seccomp"), None), 128 + 31), "{answer}");
    assert_eq!(answer["signal"], "SIGSYS");
    // The control: without the filter the same program ends well.
    let (control, _) = common::answer(&["--without-step", "install_seccomp", path.to_str().unwrap()]);
    assert_eq!(control["status"], "ok", "{control}");
}

// Compilers.

#[test]
fn a_program_that_does_not_compile_shows_the_compilers_words() {
    if !is_root() || !has_image("gcc") {
        return;
    }
    let (_directory, path) = source("main.c", "int main(void) { return missing; }\n");
    let (answer, exit) = answer(&[path.to_str().unwrap()]);
    assert_eq!((verdict(&answer).0, exit), ("compile_error", 1), "{answer}");
    let compile = &answer["compile"];
    assert_eq!((&compile["status"], &compile["exit_code"]), (&json!("nonzero_exit"), &json!(1)), "{answer}");
    assert!(compile["stderr"].as_str().unwrap().contains("missing"), "{answer}");
    assert_eq!((&answer["exit_code"], &answer["stdout"]), (&Value::Null, &json!("")));
}

#[test]
fn a_compiler_that_leaves_nothing_or_hangs_is_a_compile_error() {
    if !is_root() {
        return;
    }
    for (command, status, words) in [
        (r#"["true"]"#, "nonzero_exit", "left no file called out"),
        (r#"["ln", "-s", "/etc/passwd", "out"]"#, "nonzero_exit", "cannot be opened"),
        (r#"["mkfifo", "out"]"#, "nonzero_exit", "is not a regular file"),
        (r#"["sleep", "50"]"#, "wall_time_exceeded", "still running"),
    ] {
        let profile = format!(
            "name = \"odd\"\nextensions = [\"odd\"]\nrootfs = \"base\"\nsource = \"main.odd\"\n[version]\ncommand = [\"true\"]\n\
             [compile]\ncommand = {command}\nartifacts = [\"out\"]\n[compile.limits]\nwall_time = \"300ms\"\n\
             [run]\ncommand = [\"true\"]\n"
        );
        let (_directory, profile) = source("odd.toml", &profile);
        let (_directory, program) = source("main.odd", "x");
        let (answer, exit) =
            answer(&["--rootfs", "host", "--profile", profile.to_str().unwrap(), program.to_str().unwrap()]);
        assert_eq!(
            (&answer["status"], &answer["compile"]["status"]),
            (&json!("compile_error"), &json!(status)),
            "{answer}"
        );
        assert!(answer["compile"]["message"].as_str().unwrap().contains(words), "{command}: {answer}");
        assert_eq!(exit, if status == "nonzero_exit" { 1 } else { 124 }, "{command}");
    }
}

// What is left when the run is over.

#[test]
fn orphans_that_hold_the_streams_delay_nothing_and_die() {
    if !is_root() {
        return;
    }
    let orphan = "import os,signal,time\n\
                  for s in range(1,32):\n  try: signal.signal(s, signal.SIG_IGN)\n  except OSError: pass\n\
                  if os.fork()==0:\n  os.setsid()\n  if os.fork()==0:\n    time.sleep(60)\n  os._exit(0)\n\
                  print('answer')\n";
    let (_directory, path) = source("main.py", orphan);
    let started = Instant::now();
    let output = Running::start(&mut run_command(&["--rootfs", "host", path.to_str().unwrap()])).finish();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "answer\n"));
}

#[test]
fn zombies_do_not_fill_the_limit_of_processes() {
    if !is_root() {
        return;
    }
    // The main process never waits for its own children: those stay, and count. Orphans are init's, and are reaped.
    let code = "import os\n\
                for i in range(100):\n\
                \x20 if os.fork()==0:\n\
                \x20   os.fork(); os._exit(0)\n\
                \x20 os.wait()\n\
                print('done')\n";
    let (answer, _) = python(&["--processes", "16"], code);
    assert_eq!((&answer["status"], &answer["stdout"]), (&json!("ok"), &json!("done\n")), "{answer}");
    let own = "import os\nn=0\ntry:\n  while n<100:\n    if os.fork()==0: os._exit(0)\n    n+=1\nexcept BlockingIOError: print(n)\n";
    let (answer, _) = python(&["--processes", "16"], own);
    assert_eq!(answer["stdout"], "15\n", "{answer}");
}

#[test]
fn signals_to_the_program_end_the_cell_and_set_the_exit_code() {
    if !is_root() {
        return;
    }
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let ignoring = "trap '' INT TERM HUP; while :; do sleep 1; done";
        let mut running = Running::start(&mut run_command(&[
            "--json",
            "--rootfs",
            "host",
            "--wall-time",
            "50s",
            "--",
            "sh",
            "-c",
            ignoring,
        ]));
        running.wait_for_payload();
        let payloads = running.payloads();
        running.signal(signal);
        let output = running.finish();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(!payloads.iter().any(|pid| is_alive(*pid)));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(verdict(&answer), ("canceled", Some("supervisor"), None), "{answer}");
    }
}

#[test]
fn an_interrupt_while_the_cell_is_made_leaves_nothing_either() {
    if !is_root() {
        return;
    }
    for _ in 0..10 {
        let mut running = Running::start(&mut run_command(&["--rootfs", "host", "--", "sleep", "50"]));
        // The groups are the first thing that a supervisor makes.
        running.wait_until("a group exists", |running| !common::groups_of(running.pid()).is_empty());
        running.signal(Signal::SIGINT);
        let output = running.finish();
        assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    }
}

#[test]
fn a_program_killed_outright_takes_its_cell_along_and_the_next_run_sweeps_its_groups() {
    if !is_root() {
        return;
    }
    let mut command = run_command(&["--rootfs", "host", "--wall-time", "50s", "--", "sh", "-c", "sleep 50 & sleep 51"]);
    // Nobody waits for the ends of the streams of a process that is shot.
    let mut running = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    running.wait_for_payload();
    let payloads = running.payloads();
    let pid = running.pid();
    running.signal(Signal::SIGKILL);
    let killed = Instant::now();
    let (_, _) = running.end();
    while payloads.iter().any(|pid| is_alive(*pid)) {
        assert!(killed.elapsed() < PATIENCE, "the cell outlives its supervisor");
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("dead after {:?}", killed.elapsed());
    assert_eq!(shell(&[], "true").1, 0);
    assert_eq!(common::groups_of(pid), [] as [std::path::PathBuf; 0]);
}

// The object and the plan.

/// Field names and types of a JSON value, one path a line.
fn shape(path: &str, value: &Value, lines: &mut Vec<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(fields) => {
            for (name, value) in fields {
                shape(&format!("{path}{name}."), value, lines);
            }
            return;
        }
    };
    lines.push(format!("{}: {kind}", path.trim_end_matches('.')));
}

/// The contract of `sandboxd run --json`, for a program that ended well.
const STEP_SHAPE: &str = "evidence.denied_syscalls: array\nevidence.killed_by: null\nevidence.limit: null\n\
    evidence.oom_kills: integer\nevidence.process_limit_hits: integer\nexit_code: integer\nlimits.cpu_time_ms: float\n\
    limits.memory_bytes: integer\nlimits.output_bytes: integer\nlimits.processes: integer\nlimits.wall_time_ms: float\n\
    message: string\nsignal: null\nstatus: string\nstderr: string\nstderr_encoding: string\n\
    stderr_truncated_bytes: integer\nstdout: string\nstdout_encoding: string\nstdout_truncated_bytes: integer\n\
    usage.cpu_time_ms: float\nusage.memory_peak_bytes: integer\nusage.processes_peak: integer\nusage.wall_time_ms: float";
const RUN_SHAPE: &str = "enforcement.cgroup: string\nenforcement.landlock_abi: integer\nenforcement.namespaces: array\n\
    enforcement.privileged: bool\nenforcement.rootfs: string\nenforcement.seccomp: bool\nid: string\nlanguage: string\n\
    version: string";

#[test]
fn the_object_has_the_same_fields_for_every_language() {
    if !is_root() {
        return;
    }
    let hello = [
        ("python", "python", "main.py", "print('hi')"),
        ("javascript", "node", "main.js", "console.log('hi')"),
        (
            "typescript",
            "node",
            "main.ts",
            "const hi: string = 'hi'; enum E { A }; console.log(hi, E.A === 0 ? '' : 'no')",
        ),
        ("bash", "base", "main.sh", "echo hi"),
        ("c", "gcc", "main.c", "#include <stdio.h>\nint main(void) { puts(\"hi\"); }"),
        ("cpp", "cpp", "main.cpp", "#include <iostream>\nint main() { std::cout << \"hi\\n\"; }"),
    ];
    for (language, image, name, code) in hello {
        if !has_image(image) {
            continue;
        }
        let (_directory, path) = source(name, code);
        let (answer, exit) = answer(&[path.to_str().unwrap()]);
        assert_eq!((&answer["status"], exit), (&json!("ok"), 0), "{answer}");
        assert_eq!(answer["stdout"].as_str().unwrap().trim(), "hi", "{answer}");
        assert_eq!((&answer["language"], &answer["enforcement"]["rootfs"]), (&json!(language), &json!(image)));
        assert!(answer["version"].as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()), "{answer}");
        assert_eq!(answer["enforcement"]["namespaces"], json!(["user", "pid", "mount", "net", "ipc", "uts", "cgroup"]));
        assert_eq!(
            (&answer["enforcement"]["privileged"], &answer["enforcement"]["seccomp"]),
            (&json!(true), &json!(true))
        );

        let compiled = matches!(language, "c" | "cpp");
        let with_prefix =
            |prefix: &str, lines: &str| lines.lines().map(|line| format!("{prefix}{line}")).collect::<Vec<_>>();
        let mut expected = [with_prefix("", STEP_SHAPE), with_prefix("", RUN_SHAPE)].concat();
        expected.extend(if compiled { with_prefix("compile.", STEP_SHAPE) } else { vec!["compile: null".to_owned()] });
        expected.sort();
        let mut found = Vec::new();
        shape("", &answer, &mut found);
        found.sort();
        assert_eq!(found, expected, "{answer}");
    }
}

#[test]
fn a_failure_of_the_sandbox_is_the_whole_object_too() {
    if !is_root() {
        return;
    }
    let (_directory, path) = source("main.sh", "echo hi");
    let (answer, exit) = answer(&["--rootfs", "host", "--fail", "step.mount_proc=12", path.to_str().unwrap()]);
    assert_eq!((verdict(&answer).0, exit), ("sandbox_error", 125), "{answer}");
    assert_eq!(answer["message"], "mount_proc: ENOMEM: Out of memory");
    assert_eq!(
        (&answer["enforcement"]["rootfs"], &answer["exit_code"], &answer["compile"]),
        (&json!("host"), &Value::Null, &Value::Null)
    );
}

#[test]
fn a_dry_run_tells_every_step_in_order_and_does_nothing() {
    let (_directory, path) = source("main.c", "int main(void) {}");
    let running =
        Running::start(&mut run_command(&["--rootfs", "host", "--dry-run", path.to_str().unwrap(), "argument"]));
    let output = running.finish();
    let stdout = text(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    let (compile, run) = stdout.split_once("\nrun in image host:\n").unwrap();
    let compile = compile.strip_prefix("compile in image host:\n").unwrap();
    for part in [compile, run] {
        // A step's line begins with who performs it; what it does stands indented below.
        let steps =
            part.lines().filter(|line| !line.starts_with(' ')).map(|line| line.split_whitespace().nth(1).unwrap());
        let sequence = sandboxd::sandbox::sequence::SEQUENCE.iter().map(|step| step.name);
        assert!(steps.eq(sequence), "{part}");
    }
    for words in [
        "tmpfs /tmp rw,nosuid,nodev,size=",
        "tmpfs /work",
        "overlay / ro,nosuid,nodev over image host",
        "proc /proc ro",
        "tmpfs /dev ro",
        "new namespaces: user pid mount net ipc uts cgroup",
        "setgroups deny",
        "uid 1000 and gid 1000 ->",
        "rlimit core 1",
        "rlimit nofile",
        "memory 256M without swap",
        "processes 64",
        "wall_time 10s",
        "landlock /: read, execute",
        "landlock /work: read, write",
        "hostname sandbox",
        "file /work/main.c mode 644",
        "\"argument\"",
        "PATH=",
        "ptrace",
    ] {
        assert!(run.contains(words), "{words}:\n{run}");
    }
    assert!(compile.contains("gcc") && !run.contains("\"-O2\""));
}
