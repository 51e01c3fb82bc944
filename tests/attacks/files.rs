//! Section A: files, and what a compile step leaves behind.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{has_image, run_with, sandboxd, text};
use crate::harness::{attempts, compiled, program_command, ready, run_bare, run_flags, run_program};

/// Runs `script` as a compile step whose artefacts are `main` or `*/main`, and a run step that prints it.
fn compile_by(script: &str) -> serde_json::Value {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let profile = directory.path().join("hostile.toml");
    let text = r#"
name = "hostile"
extensions = ["hostile"]
rootfs = "base"
source = "main.hostile"
[version]
command = ["bash", "--version"]
[compile]
command = ["bash", "{source}"]
artifacts = ["main", "*/main", "*.out"]
[compile.limits]
wall_time = "3s"
[run]
command = ["bash", "-c", "cat main */main *.out 2>/dev/null; true"]
"#;
    std::fs::write(&profile, text).expect("the profile is written");
    let source = directory.path().join("attack.hostile");
    std::fs::write(&source, script).expect("the script is written");
    run_flags(&["--profile", profile.to_str().expect("UTF-8"), source.to_str().expect("UTF-8")])
}

/// Rows 1 to 4, 6: links, special files, giants and mazes as the result of a compile step.
#[test]
fn a_compile_step_can_leave_only_files_behind() {
    if !ready() {
        return;
    }
    let attacks = [
        ("link to a file", "ln -s /etc/passwd main", "cannot be opened"),
        ("link to a file of the host", "ln -s /etc/shadow main", "cannot be opened"),
        ("link to the environment", "ln -s /proc/self/environ main", "cannot be opened"),
        ("link to a device", "ln -s /dev/urandom main", "cannot be opened"),
        ("link to itself", "ln -s main main", "cannot be opened"),
        ("link to a directory above", "ln -s /etc d; ln -s /etc/passwd d2; ln -s passwd main", "cannot be opened"),
        ("fifo", "mkfifo main", "is not a regular file"),
        ("directory", "mkdir main", "left no file"),
        ("directory that is a link", "ln -s /etc d", "left no file"),
        (
            "sparse giant",
            "trap '' XFSZ; truncate -s 64M main; truncate -s 64M a.out; truncate -s 64M b.out; \
                          truncate -s 64M c.out; truncate -s 64M d.out; true",
            "more than",
        ),
        ("many", "for i in {1..300}; do : > $i.out; done", "more than"),
        ("nothing", "true", "left no file"),
    ];
    for (title, script, expected) in attacks {
        let started = Instant::now();
        let answer = compile_by(script);
        assert_eq!(answer["status"], "compile_error", "{title}: {answer}");
        let message = answer["compile"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(expected), "{title}: expected {expected:?} in {answer}");
        assert!(!answer.to_string().contains("root:"), "{title}: {answer}");
        assert!(started.elapsed() < Duration::from_secs(4), "{title} took {:?}", started.elapsed());
    }
    // The controls: the same steps with a file of the same name, and beside all that is odd.
    for (title, script) in [
        ("file", "echo fine > main"),
        ("file in a directory", "mkdir d; echo fine > d/main"),
        ("beside a maze", "echo fine > main; mkdir -p $(printf 'd/%.0s' {1..900})"),
        (
            "beside odd names",
            "echo fine > main; : > $'new\\nline'; : > $'\\xff\\xfe'; : > $(printf %0255d 7); : > '..x'",
        ),
        ("beside a link", "echo fine > main; ln -s /etc/passwd other"),
        ("setuid", "echo fine > main; chmod 6755 main"),
        ("beside a fifo that nobody reads", "echo fine > main; mkfifo other"),
    ] {
        let answer = compile_by(script);
        assert_eq!((&answer["status"], &answer["stdout"]), (&"ok".into(), &"fine\n".into()), "{title}: {answer}");
    }
    // A sparse file beyond RLIMIT_FSIZE is not even made.
    let answer = compile_by("truncate -s 1024T main");
    assert_eq!(answer["compile"]["signal"], serde_json::Value::Null, "{answer}");
    assert_eq!(answer["status"], "compile_error", "{answer}");
}

/// Row 2: a process that outlives the compiler and goes on swapping a directory for a link while results are read.
#[test]
fn nobody_swaps_names_while_results_are_collected() {
    if !ready() {
        return;
    }
    let racer = "mkdir d; echo fine > d/main; ln -s /etc l; (setsid bash -c \
                 'trap \"\" TERM HUP; while :; do mv -T --exchange d l || { mv d t; mv l d; mv t l; }; done' \
                 >/dev/null 2>&1 &); sleep 0.05; true";
    for _ in 0..8 {
        let answer = compile_by(racer);
        let (status, output) = (answer["status"].as_str().unwrap_or_default(), answer["stdout"].to_string());
        // Whatever name the directory had when everything was killed: the file, or nothing, and never /etc.
        assert!(!output.contains("root:"), "{answer}");
        assert!(status == "ok" || status == "compile_error", "{answer}");
    }
}

/// Row 5: hard links from every place that can be seen into each place that can be written to.
#[test]
fn system_files_cannot_be_linked_to() {
    if !ready() {
        return;
    }
    for (title, without) in [("complete", &[][..]), ("mounts alone", &["install_seccomp", "restrict_by_landlock"][..])]
    {
        let answer = run_program("hardlinks", without, &["/usr/bin", "/etc", "/tmp", "/work", "/work"]);
        let tried = attempts(answer["stdout"].as_str().unwrap_or_default());
        assert_eq!(tried.len(), 4, "{answer}");
        for system in ["link a file of /usr/bin", "link a file of /etc", "link a file of /tmp"] {
            assert_eq!(tried[system], "EXDEV", "{title}: {answer}");
        }
        // The control: within one's own directory it works.
        assert_eq!(tried["link a file of /work"], "ok", "{title}: {answer}");
    }
}

/// Rows 7 and 8: as many files and bytes as fit, and no more; the host's file systems do not notice.
#[test]
fn scratch_places_fill_up_and_nothing_else_does() {
    if !ready() {
        return;
    }
    let host_inodes = || {
        let status = nix::sys::statvfs::statvfs("/").expect("the root can be asked");
        (status.files_free(), status.blocks_free())
    };
    let before = host_inodes();
    for directory in ["/tmp", "/work"] {
        for (mode, most, expected) in [
            ("files", "100000", "ENOSPC"),
            ("bytes", "1000000000", "ENOSPC"),
            ("fallocate", "1000000000", "EFBIG"),
            // The controls.
            ("files", "1000", "ok"),
            ("bytes", "1000000", "ok"),
            ("fallocate", "1000000", "ok"),
        ] {
            let answer = run_program("flood", &[], &[mode, directory, most]);
            assert_eq!(answer["stdout"], format!("{mode}: {expected}\n"), "{directory}: {answer}");
        }
        // Without the cap on one file's size it is the tmpfs's own size that stops it.
        let answer = run_program("flood", &["set_rlimits"], &["fallocate", directory, "1000000000"]);
        assert_eq!(answer["stdout"], "fallocate: ENOSPC\n", "{directory}: {answer}");
    }
    let after = host_inodes();
    // Other tests write to the disk meanwhile; a flood would have taken far more.
    assert!(before.0.abs_diff(after.0) < 50_000, "inodes {before:?} {after:?}");
}

/// Rows 9 and 37: what one run writes, the next does not see.
#[test]
fn runs_leave_nothing_for_the_next() {
    if !ready() {
        return;
    }
    let list = "ls -A /tmp /work /dev/shm/; grep -c . /proc/mounts";
    let before = run_flags(&["--rootfs", "base", "--", "bash", "-c", list]);
    let write = format!("for d in /tmp /work /dev/shm; do echo secret > $d/mine; done; {list}");
    let wrote = run_flags(&["--rootfs", "base", "--", "bash", "-c", &write]);
    let after = run_flags(&["--rootfs", "base", "--", "bash", "-c", list]);
    assert!(wrote["stdout"].as_str().is_some_and(|listing| listing.matches("mine").count() == 3), "{wrote}");
    assert_eq!(before["stdout"], after["stdout"]);
    assert!(!after["stdout"].to_string().contains("mine"), "{after}");

    let heavy = run_program("memory", &[], &["heap", "100"]);
    let light = run_flags(&["--rootfs", "base", "--", "true"]);
    let peak = |answer: &serde_json::Value| answer["usage"]["memory_peak_bytes"].as_u64().unwrap_or(0);
    assert!(peak(&heavy) > 100 << 20 && peak(&light) < 16 << 20, "{heavy} {light}");
}

/// Row 10: names of files in a request.
#[test]
fn file_names_stay_inside_the_work_directory() {
    if !ready() {
        return;
    }
    let (_directory, file) = crate::common::source("data", "data");
    let file = file.to_str().expect("UTF-8");
    let long = "x".repeat(256);
    for name in ["../../x", "/etc/x", "a/../../b", "..", ".", "a//b", "a/./b", "new\nline", "", long.as_str()] {
        let output = run_with(
            sandboxd().args(["run", "--rootfs", "base", "--file", &format!("{name}={file}"), "--", "true"]),
            b"",
            Duration::from_secs(20),
        );
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{name:?}: {message}");
        assert!(message.contains("file name"), "{name:?}: {message}");
    }
    for name in ["x", "a/b/c", "...", "..x", "ünï", "-rf"] {
        let answer = run_flags(&["--rootfs", "base", &format!("--file={name}={file}"), "--", "cat", "--", name]);
        assert_eq!(answer["stdout"], "data", "{name:?}: {answer}");
    }
}

/// Rows 12, 56, 57: everything that can be seen, tried for writing.
#[test]
fn only_the_scratch_places_and_devices_are_writable() {
    if !ready() {
        return;
    }
    let expected = "\
/dev/full: ok
/dev/null: ok
/dev/random: ok
/dev/urandom: ok
/dev/zero: ok
/tmp/: ok
/tmp/walk: ok
/work/: ok
/work/walk: ok
";
    for (title, without) in [("complete", &[][..]), ("mounts", &["install_seccomp", "restrict_by_landlock"][..])] {
        let answer = run_program("walk", without, &["/"]);
        let mut writable: Vec<_> =
            answer["stdout"].as_str().unwrap_or_default().lines().filter(|line| line.starts_with('/')).collect();
        writable.sort_unstable();
        // The program itself is being executed.
        writable.retain(|line| !line.ends_with("/walk: ok"));
        let expected: Vec<_> = expected.lines().filter(|line| !line.ends_with("/walk: ok")).collect();
        assert_eq!(writable, expected, "{title}: {answer}");
        assert!(answer["stdout"].as_str().is_some_and(|out| out.contains("anything refused: yes")), "{answer}");
    }
    // The control: the same walk where everything is writable.
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir_all(directory.path().join("a/b")).expect("directories");
    std::fs::write(directory.path().join("a/file"), b"").expect("a file");
    let output = run_bare(Command::new(compiled("walk")).arg(directory.path()));
    assert_eq!(text(&output.stdout).matches(": ok").count(), 4, "{}", text(&output.stdout));
}

/// Rows 13, 50, 51, 78: descriptors, leaked on purpose.
#[test]
fn no_descriptor_of_the_host_reaches_the_payload() {
    if !ready() {
        return;
    }
    let run = |without: &[&str], leak: bool| {
        let inner = program_command("descriptors", without, &[], &[]);
        let mut command = Command::new("bash");
        // Descriptor 42 is the host's root directory.
        let script = if leak { "exec 42</; exec \"$@\"" } else { "exec \"$@\"" };
        command.args(["-c", script, "bash"]).arg(inner.get_program()).args(inner.get_args());
        crate::harness::json(&mut command)
    };
    let denied = "descriptor 42: EBADF\nwork directory by 42: ENOENT\nopen beneath 42: EBADF\nescape by 42: EBADF\n";
    let (init, payload) = ("close_descriptors", "mark_descriptors");
    for without in [&[][..], &[init], &[payload], &["install_seccomp", "restrict_by_landlock"]] {
        let answer = run(without, true);
        assert_eq!(answer["stdout"], denied, "without {without:?}: {answer}");
    }
    // Landlock alone lets the descriptor be held, but nothing be opened by it.
    let answer = run(&[init, payload], true);
    let tried = attempts(answer["stdout"].as_str().unwrap_or_default());
    assert_eq!((tried["descriptor 42"].as_str(), tried["open beneath 42"].as_str()), ("ok", "EACCES"), "{answer}");
    let answer = run(&[init, payload, "restrict_by_landlock"], true);
    let tried = attempts(answer["stdout"].as_str().unwrap_or_default());
    for attempt in ["descriptor 42", "work directory by 42", "open beneath 42"] {
        assert_eq!(tried[attempt], "ok", "the control: {answer}");
    }
}

/// Row 16: no image holds a file that would give its caller another user's rights, nor a socket or a device.
#[test]
fn images_hold_no_set_user_id_file() {
    if !ready() || !has_image("gcc") {
        return;
    }
    let find =
        "find / -xdev \\( -perm /6000 -o -type s -o -type b -o -type c -o -type p \\) -not -path '/dev/*' 2>/dev/null";
    let script = format!(
        "{find}; mkfifo /tmp/p; cp /bin/true /tmp/s; chmod 6755 /tmp/s; {}",
        find.replace("find /", "find /tmp")
    );
    for image in ["base", "gcc", "python"] {
        let answer = run_flags(&["--rootfs", image, "--", "bash", "-c", &script]);
        // The control: what the script itself has made is found.
        let mut found: Vec<_> = answer["stdout"].as_str().unwrap_or_default().lines().collect();
        found.sort_unstable();
        assert_eq!(found, ["/tmp/p", "/tmp/s"], "{image}: {answer}");
    }
}

/// Row 16: and if there were one, it would gain nothing; on the host it does.
#[test]
fn a_set_user_id_helper_gains_nothing() {
    if !ready() {
        return;
    }
    let helper = compiled("identity");
    let run = |without: &[&str], prepare: &str| {
        let mut flags: Vec<String> = crate::harness::without_flags(without);
        flags.extend([
            "--rootfs".to_owned(),
            "base".to_owned(),
            "--file".to_owned(),
            format!("h={}", helper.display()),
        ]);
        let script = format!("cp h /tmp/h; {prepare}; /tmp/h identity helper");
        flags.extend(["--", "bash", "-c", &script].map(str::to_owned));
        run_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(run(&[], "chmod 6755 /tmp/h")["stdout"], "a set-user-id helper gains: EPERM\n");

    let directory = tempfile::tempdir().expect("a temporary directory");
    std::process::Command::new("chmod").args(["755"]).arg(directory.path()).status().expect("chmod");
    let output = run_bare(
        Command::new("bash")
            .args([
                "-c",
                "cp \"$1\" \"$2/h\" && chmod 6755 \"$2/h\" && \
        setpriv --reuid 65534 --regid 65534 --clear-groups \"$2/h\" identity helper",
                "bash",
            ])
            .arg(&helper)
            .arg(directory.path()),
    );
    assert_eq!(text(&output.stdout), "a set-user-id helper gains: ok\n", "the control: {}", text(&output.stderr));
}

/// Row 17: the image's bytes, in the page cache and on the disk, before and after a run that did its worst.
#[test]
fn a_hostile_run_does_not_change_the_image() {
    if !ready() {
        return;
    }
    let manifest = std::fs::read_to_string("/var/lib/sandboxd/rootfs/images/base.json").expect("the image's manifest");
    let layers = std::fs::read_dir("/var/lib/sandboxd/rootfs/layers").expect("layers");
    let layer = layers
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            path.extension().is_some_and(|extension| extension == "erofs")
                && stem.starts_with("base-")
                && manifest.contains(stem.trim_start_matches("base-"))
        })
        .expect("the layer of the base image");
    let digest = |flags: &str| {
        let script = format!("dd if=\"$0\" bs=1M {flags} status=none | sha256sum");
        text(&run_bare(Command::new("bash").args(["-c", &script]).arg(&layer)).stdout)
    };
    let before = (digest(""), digest("iflag=direct"));
    let hostile = "for f in /bin/sh /usr/bin/env /etc/passwd /lib64/*; do echo x >> $f; : > $f; rm -f $f; mv $f /tmp/; \
        chmod 777 $f; dd if=/dev/zero of=$f conv=notrunc count=1; truncate -s 0 $f; touch $f; done; exit 0";
    let answer = run_flags(&["--rootfs", "base", "--", "bash", "-c", hostile]);
    assert!(answer["status"] == "ok" && answer["stderr"].to_string().contains("Read-only"), "{answer}");
    assert_eq!((digest(""), digest("iflag=direct")), before);
    assert_eq!(before.0, before.1, "the page cache differs from the disk");
}

/// Row 18: a lock on a file of the image is no signal to a neighbour.
#[test]
fn file_locks_do_not_reach_from_cell_to_cell() {
    if !ready() {
        return;
    }
    for file in ["/bin/bash", "/etc/passwd", "/usr/bin", "/", "/tmp", "/work"] {
        let answer = beside_a_lock(file);
        assert_eq!(answer["stdout"], "see a neighbour's flock: ESRCH\n", "{file}: {answer}");
    }
    // The control: within one cell the same two programs do see each other.
    let program = compiled("locks");
    let script = "cp locks /tmp; chmod 755 /tmp/locks; mkfifo f; sleep 5 > f & /tmp/locks hold /bin/bash < f > held & \
                  until grep -q hold held; do sleep 0.01; done; /tmp/locks try /bin/bash; kill %1";
    let flag = format!("locks={}", program.display());
    let answer = run_flags(&["--rootfs", "base", "--file", &flag, "--", "bash", "-c", script]);
    assert_eq!(answer["stdout"], "see a neighbour's flock: ok\n", "the control: {answer}");
}

/// Tries a lock of `file` while another cell holds it.
fn beside_a_lock(file: &str) -> serde_json::Value {
    use std::io::Read as _;
    let flags = ["--stdin", "-"];
    let mut holding = program_command("locks", &[], &flags, &["hold", file]);
    // The holder's output has to come at once: without --json.
    let arguments: Vec<_> =
        holding.get_args().filter(|argument| *argument != "--json").map(ToOwned::to_owned).collect();
    holding = sandboxd();
    let pipe = std::process::Stdio::piped;
    let mut holder =
        holding.args(arguments).stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().expect("the holder starts");
    let mut line = [0; 9];
    holder.stdout.as_mut().expect("a pipe").read_exact(&mut line).expect("the holder speaks");
    assert_eq!(&line, b"hold: ok\n");
    let answer = run_program("locks", &[], &["try", file]);
    // The end of its stdin is the holder's end.
    drop(holder.stdin.take());
    holder.wait().expect("the holder ends");
    answer
}

/// Row 19: no core is written, though one is where the limit is taken away and core_pattern names a file.
#[test]
fn no_core_is_dumped() {
    if !ready() {
        return;
    }
    let answer = run_program("dumps", &[], &[]);
    assert!(answer["stdout"].as_str().is_some_and(|out| out.ends_with("leave a core: ENOENT\n")), "{answer}");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if pattern.trim().starts_with("core") {
        let answer = run_program("dumps", &["install_seccomp", "limit_core_dumps"], &[]);
        assert!(
            answer["stdout"].as_str().is_some_and(|out| out.ends_with("leave a core: ok\n")),
            "the control: {answer}"
        );
    }
}

/// Row 20: a program that was written a moment ago can be executed, many times at once.
#[test]
fn freshly_written_programs_execute() {
    if !ready() {
        return;
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let answer = compile_by("cp /bin/true main; cp /bin/true a.out; chmod 755 main");
                    assert_eq!(answer["status"], "ok", "{answer}");
                }
            });
        }
    });
    let script = "for i in {1..300}; do cp /bin/true p$i && ./p$i || exit 1; done";
    let answer = run_flags(&["--rootfs", "base", "--", "bash", "-c", script]);
    assert_eq!(answer["status"], "ok", "{answer}");
}

/// Row 21: a compiler told to read what is not the program's.
#[test]
fn compilers_read_nothing_of_the_host() {
    if !ready() || !has_image("gcc") {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let secret = directory.path().join("secret.h");
    std::fs::write(&secret, "#error the-secret-of-the-host\n").expect("a file of the host");
    let compile = |source: &str| {
        let (_directory, path) = crate::common::source("main.c", source);
        run_flags(&[path.to_str().expect("UTF-8")])
    };
    let include = format!("#include \"{}\"\nint main(void) {{}}\n", secret.display());
    let answer = compile(&include);
    assert_eq!(answer["status"], "compile_error", "{answer}");
    assert!(!answer.to_string().contains("the-secret-of-the-host"), "{answer}");
    // The control: the same line for a file that the run was given.
    let (_given, path) = crate::common::source("main.c", "#include \"/work/secret.h\"\n");
    let given = format!("secret.h={}", secret.display());
    let answer = run_flags(&["--file", &given, path.to_str().expect("UTF-8")]);
    assert!(answer.to_string().contains("the-secret-of-the-host"), "the control: {answer}");

    let answer = compile("#include \"/etc/passwd\"\nint main(void) {}\n");
    let shown = answer["compile"]["stderr"].as_str().unwrap_or_default();
    assert!(answer["status"] == "compile_error" && shown.contains("root:x:0:0:root:/work"), "{answer}");
    let host = std::fs::read_to_string("/etc/passwd").expect("the host's users");
    for line in host.lines().filter(|line| !line.starts_with("root:") && !line.starts_with("nobody:")) {
        assert!(!shown.contains(line), "{line} in {answer}");
    }
    let shadow = compile("__asm__(\".incbin \\\"/etc/shadow\\\"\"); int main(void) {}\n");
    assert!(
        shadow["status"] == "compile_error" && shadow["compile"]["stderr"].to_string().contains("not found"),
        "{shadow}"
    );

    for endless in [
        "#include \"/dev/zero\"\nint main(void) {}\n",
        "__asm__(\".incbin \\\"/dev/zero\\\"\"); int main(void) {}\n",
        "#include \"main.c\"\n",
        "#include \"/dev/stdin\"\nint main(void) {}\n\n#error end\n",
    ] {
        let started = Instant::now();
        let answer = compile(endless);
        assert_eq!(answer["status"], "compile_error", "{endless}: {answer}");
        assert!(started.elapsed() < Duration::from_secs(15), "{endless} took {:?}", started.elapsed());
        assert!(
            answer["compile"]["usage"]["memory_peak_bytes"].as_u64().is_none_or(|peak| peak <= 520 << 20),
            "{answer}"
        );
    }
}
