//! Bad input and a machine that is short of something: a clear error, exit code 125, and nothing left over.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Running, has_image, is_root, run_command, sandboxd, source, text};

/// Runs `command`, which must be refused: with `words` on its error line, a hint if `hint` is one, and nothing left.
#[track_caller]
fn refused_command(command: &mut Command, words: &str, hint: Option<&str>) {
    let output = Running::start(command).finish();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{command:?}: {stderr}");
    let error = stderr.lines().find(|line| line.starts_with("error: "));
    assert!(error.is_some_and(|error| error.contains(words)), "{command:?} should say {words:?}: {stderr}");
    let hinted = |hint: &str| {
        stderr.lines().any(|line| (line.starts_with("hint: ") || line.starts_with("  tip: ")) && line.contains(hint))
    };
    assert!(hint.is_none_or(hinted), "{command:?} should hint {hint:?}: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
}

#[track_caller]
fn refused(flags: &[&str], words: &str, hint: impl Into<Option<&'static str>>) {
    refused_command(&mut run_command(flags), words, hint.into());
}

/// A directory that others may enter, too, with this program in it.
fn directory_for_all() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::Builder::new().prefix("sandboxd-test").tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("sandboxd");
    fs::copy(env!("CARGO_BIN_EXE_sandboxd"), &program).unwrap();
    (directory, program)
}

/// A command as an ordinary user without any rights, with its streams piped.
fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
    // What the program keeps between runs goes where this user may write: nowhere.
    command.env("HOME", "/nonexistent").env_remove("XDG_CACHE_HOME");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A command behind a shell script that changes its surroundings; the script's `$@` is the command.
fn behind(script: &str, flags: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_sandboxd")]).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

// The command line and its files.

#[test]
fn languages_flags_and_images_that_are_unknown_come_with_the_nearest() {
    let (directory, path) = source("main.pyy", "print(1)\n");
    let file = path.to_str().unwrap();
    refused(&[file], "no language is known for the extension `.pyy`", "did you mean `.py`?");
    refused(&["--language", "pythn", file], "unknown language \"pythn\"", "did you mean `python`?");
    refused(&["--language", "cobol", file], "unknown language \"cobol\"", "languages: assembly, awk, bash");
    fs::write(directory.path().join("noextension"), "x").unwrap();
    refused(&[directory.path().join("noextension").to_str().unwrap()], "has no extension", "languages: ");
    refused(&["--memry", "64M", file], "unexpected argument '--memry'", "'--memory'");
    refused(&["--language", "python", "--rootfs", "pyhton", file], "\"pyhton\"", "did you mean python?");
    refused(&["--language", "python", "--rootfs", "../../etc", file], "\"../../etc\"", None);
    refused(&["--cgroup", "v3", file], "invalid value 'v3'", None);
    refused(&[], "required arguments were not provided", None);
    refused(&["--"], "required arguments were not provided", None);
    refused(&["--", ""], "the command is empty", "COMMAND");
    refused(&["--env", "X", "--", "true"], "--env \"X\" has no `=`", "NAME=VALUE");
    refused(&["--env", "=x", "--", "true"], "is not a variable's name", "NAME=VALUE");
}

#[test]
fn files_that_cannot_be_run_are_named() {
    let (directory, path) = source("empty.py", "");
    let below = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    refused(&[path.to_str().unwrap()], "\"empty.py\" is empty", None);
    refused(&[&below("missing.py")], "missing.py: No such file", None);
    fs::create_dir(below("dir.py")).unwrap();
    refused(&[&below("dir.py")], "dir.py: it is a directory", "name the source file");
    nix::unistd::mkfifo(Path::new(&below("fifo.py")), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&[&below("fifo.py")], "it is not a regular file", None);
    fs::File::create(below("huge.py")).unwrap().set_len(1 << 40).unwrap();
    refused(&[&below("huge.py")], "more than the 67108864 allowed", None);
    refused(&["--stdin", &below("missing"), "--", "true"], "--stdin", None);
    refused(&["--stdin", &below(""), "--", "true"], "is a directory", None);
    refused(&["--file", &below("missing"), "--", "true"], "No such file", None);
    fs::write(below("new\nline.py"), "x").unwrap();
    refused(&[&below("new\nline.py")], r#"file name "new\nline.py" contains a control character"#, None);
}

#[test]
fn file_names_that_leave_the_work_directory_are_refused() {
    let (_directory, path) = source("main.py", "print(1)\n");
    let file = path.to_str().unwrap();
    for (name, words) in [
        ("../x", "`.` or `..` component"),
        ("a/../../x", "`.` or `..` component"),
        ("/etc/x", "is absolute"),
        ("a\nb", r#""a\nb" contains a control character"#),
        ("", "is empty"),
        ("a//b", "empty component"),
        ("1/2/3/4/5/6/7/8/9", "more than 8 deep"),
        ("main.py", "cannot both exist"),
        ("main.py/x", "cannot both exist"),
    ] {
        refused(&["--file", &format!("{name}={file}"), file], words, None);
    }
    let long = "x".repeat(256);
    refused(&["--file", &format!("{long}={file}"), file], "over 255 bytes", None);
}

#[test]
fn sources_are_bytes() {
    if !is_root() {
        return;
    }
    let (directory, path) = source("main.sh", "");
    fs::write(&path, b"# \xff\xfe \xc3\x28\nprintf 'caf\xe9' | od -An -tx1\ncat data | od -An -tx1\n").unwrap();
    let data = directory.path().join("data");
    fs::write(&data, b"\0\x01\0").unwrap();
    let file = format!("data={}", data.display());
    let (answer, _) = common::answer(&["--rootfs", "host", "--file", &file, path.to_str().unwrap()]);
    assert_eq!((&answer["status"], &answer["stdout"]), (&"ok".into(), &" 63 61 66 e9\n 00 01 00\n".into()), "{answer}");
    // What an interpreter makes of a NUL is its own affair: a verdict.
    fs::write(directory.path().join("main.py"), b"print(1)\0\n").unwrap();
    let (answer, exit) = common::answer(&["--rootfs", "host", directory.path().join("main.py").to_str().unwrap()]);
    assert!(matches!((answer["status"].as_str(), exit), (Some("nonzero_exit"), 1) | (Some("ok"), 0)), "{answer}");
}

#[test]
fn limits_out_of_range_name_the_limit_and_the_remedy() {
    let run = |flag: &str, value: &str, words: &str, hint: Option<&'static str>| {
        refused(&[flag, value, "--", "true"], words, hint)
    };
    for (flag, name) in [
        ("--wall-time", "wall_time"),
        ("--cpu-time", "cpu_time"),
        ("--memory", "memory_bytes"),
        ("--processes", "processes"),
        ("--output", "output_bytes"),
        ("--cpu-rate", "cpu_rate"),
    ] {
        run(flag, "0", &format!("limit {name} must be greater than zero"), Some("positive value"));
    }
    for flag in ["--wall-time", "--cpu-time", "--memory", "--processes", "--output"] {
        run(flag, "-1", "`-1` is negative", None);
        for value in ["NaN", "inf", "-inf", "", "lots", "1e308", "99999999999999999999999999999999"] {
            run(flag, value, if value.starts_with('9') { "" } else { flag }, None);
        }
    }
    for value in ["NaN", "inf"] {
        run("--cpu-rate", value, "limit cpu_rate is not a number", Some("0.5"));
    }
    run("--cpu-rate", "-1", "limit cpu_rate must be greater than zero", Some("positive value"));
    run("--cpu-rate", "0.001", "below 0.01", Some("0.01 or more"));
    run("--memory", "1K", "limit memory_bytes = 1K is below 4M", Some("ask for 4M or more"));
    run("--processes", "1.5", "is not a whole number", None);
    for (flag, value, ceiling) in [
        ("--wall-time", "2h", "60s"),
        ("--cpu-time", "61s", "60s"),
        ("--memory", "1T", "2G"),
        ("--processes", "100000", "512"),
        ("--output", "1G", "64M"),
        ("--cpu-rate", "1e30", "16"),
    ] {
        run(flag, value, &format!("is above the ceiling of {ceiling}"), Some("raises the ceiling of"));
    }
}

#[test]
fn profiles_and_settings_with_mistakes_name_file_line_and_the_nearest_key() {
    let profile = "name = \"x\"\nextensions = [\"x\"]\nrootfs = \"base\"\nsource = \"main.x\"\n\
                   [version]\ncommand = [\"true\"]\n[run]\ncommand = [\"true\"]\n[limits]\nmemory_byte = \"1M\"\n";
    let (directory, path) = source("mine.toml", profile);
    let (_program_directory, program) = source("main.x", "x");
    let (file, program) = (path.to_str().unwrap(), program.to_str().unwrap());
    refused(&["--profile", file, program], "mine.toml:10: unknown field `memory_byte`", None);
    refused(&["--profile", file, program], "did you mean `memory_bytes`?", None);
    for (right, wrong, words) in [
        ("memory_byte = \"1M\"", "memory_bytes = \"-1\"", "negative"),
        ("memory_byte = \"1M\"", "memory_bytes = \"100G\"", "above the ceiling"),
        ("[run]\ncommand = [\"true\"]", "[run]\ncommand = []", "command is empty"),
        ("[run]\ncommand = [\"true\"]", "[run]\ncommand = [\"bin/true\"]", "neither absolute nor a bare name"),
        ("name = \"x\"", "name = \"x y\"", "name \"x y\""),
        ("source = \"main.x\"", "source = \"../main.x\"", "component"),
        ("name = \"x\"", "name = ", "mine.toml:1"),
        ("extensions = [\"x\"]", "extensions = [\"py\"]", "belongs to language `python`"),
    ] {
        fs::write(&path, profile.replace(right, wrong).replace("memory_byte = \"1M\"", "")).unwrap();
        refused(&["--profile", file, program], words, None);
    }
    refused(&["--profile", directory.path().join("none").to_str().unwrap(), program], "none: No such file", None);

    let config = directory.path().join("config.toml");
    let config = config.to_str().unwrap();
    fs::write(config, "cgroup = \"auto\"\nrootfs_dri = \"/x\"\n").unwrap();
    refused(&["--config", config, program], "config.toml:2: unknown field `rootfs_dri`", None);
    fs::write(config, "cgroup = \"v3\"\n").unwrap();
    refused(&["--config", config, program], "cgroup = \"v3\" is not one of auto, v2, hybrid, none", None);
    refused(&["--config", "/no/such/config", program], "\"/no/such/config\": No such file", None);
    refused_command(run_command(&["--", "true"]).env("SANDBOXD_CGROUP", "all"), "SANDBOXD_CGROUP = \"all\"", None);
}

// Images.

#[test]
fn images_that_are_missing_half_built_or_tampered_with_are_refused() {
    if !is_root() || !has_image("base") {
        return;
    }
    let store = Path::new("/var/lib/sandboxd/rootfs");
    let copy = tempfile::tempdir().unwrap();
    let directory = copy.path().to_str().unwrap();
    let run = |words: &str, hint: Option<&'static str>| {
        refused(&["--rootfs-dir", directory, "--rootfs", "base", "--", "true"], words, hint);
    };
    run("the image base is not built", Some("sandboxd rootfs build base"));
    fs::create_dir(copy.path().join("images")).unwrap();
    fs::create_dir(copy.path().join("layers")).unwrap();
    let manifest = copy.path().join("images/base.json");
    fs::copy(store.join("images/base.json"), &manifest).unwrap();
    run("the image base is incomplete", Some("rootfs build --force base"));

    let whole = fs::read_dir(store.join("layers")).unwrap().flatten().find(|entry| {
        let name = entry.file_name().into_string().unwrap();
        name.starts_with("base-") && !name.ends_with(".json") && !name.ends_with(".list")
    });
    let whole = whole.unwrap().path();
    if whole.is_dir() {
        println!("skipped: the layers of this store are directories");
        return;
    }
    let layer = copy.path().join("layers").join(whole.file_name().unwrap());
    let content = fs::read(&whole).unwrap();
    let write = |content: &[u8], mode| {
        fs::write(&layer, content).unwrap();
        fs::set_permissions(&layer, fs::Permissions::from_mode(mode)).unwrap();
    };
    write(&content, 0o644);
    let mut control = run_command(&["--rootfs-dir", directory, "--rootfs", "base", "--", "true"]);
    assert_eq!(Running::start(&mut control).finish().status.code(), Some(0), "the copy is a whole image");
    write(&content[..content.len() - 1], 0o644);
    run("it has", Some("rootfs build --force base"));
    write(&content, 0o666);
    run("others than its owner can write to it", Some("rootfs build --force base"));
    write(&content, 0o644);
    std::os::unix::fs::chown(&layer, Some(65534), None).unwrap();
    run("it belongs to another user", Some("rootfs build --force base"));
    std::os::unix::fs::chown(&layer, Some(0), None).unwrap();
    let mut scratched = content.clone();
    scratched[..4096].fill(0);
    write(&scratched, 0o644);
    run("image base: failed to mount", Some("rootfs verify base"));
    fs::remove_file(&layer).unwrap();
    std::os::unix::fs::symlink(&whole, &layer).unwrap();
    run("of another kind than a layer", Some("rootfs build --force base"));
    fs::write(&manifest, "{").unwrap();
    run("the image base is damaged", Some("rootfs build --force base"));
}

#[test]
fn an_interpreter_that_the_image_lacks_is_named() {
    if !is_root() || !has_image("base") {
        return;
    }
    let (_directory, path) = source("main.py", "print(1)\n");
    refused(&["--rootfs", "base", path.to_str().unwrap()], "python3 is not in image base", "--rootfs");
    // A compiler that is missing is no fault of the program either.
    let (_directory, path) = source("main.c", "int main(void) {}\n");
    refused(&["--rootfs", "base", path.to_str().unwrap()], "gcc is not in image base", "--rootfs");
}

// A machine that is short of something.

#[test]
fn too_few_descriptors_fail_some_step_and_leave_nothing() {
    if !is_root() {
        return;
    }
    let mut refusals = 0;
    for limit in 4..=64 {
        let flags = [
            &format!("--nofile={limit}:{limit}"),
            env!("CARGO_BIN_EXE_sandboxd"),
            "run",
            "--rootfs",
            "host",
            "--",
            "echo",
            "x",
        ];
        let mut command = Command::new("prlimit");
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = Running::start(&mut command).finish();
        let stderr = text(&output.stderr);
        match output.status.code() {
            Some(0) => assert_eq!(text(&output.stdout), "x\n", "{limit}: {stderr}"),
            // Below what the loader needs to open the program itself.
            Some(127) if stderr.contains("error while loading shared libraries") => {}
            Some(125) => {
                assert!(stderr.starts_with("error: ") && stderr.contains("oo many open files"), "{limit}: {stderr}");
                assert!(stderr.contains("\nhint: ") && !stderr.contains("panicked"), "{limit}: {stderr}");
                refusals += 1;
            }
            other => panic!("{limit}: {other:?} {stderr}"),
        }
    }
    assert!(refusals > 10 && refusals < 60, "{refusals}");
}

#[test]
fn too_few_processes_fail_the_step_that_needs_one() {
    let pids = Path::new("/sys/fs/cgroup/pids");
    if !is_root() || !pids.join("cgroup.procs").exists() {
        eprintln!("skipped: needs the pids controller on a v1 hierarchy");
        return;
    }
    let group = pids.join(format!("test-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    let script = format!("echo 0 > {}/tasks; exec \"$@\"", group.display());
    for (processes, step) in [("1", "clone_init: EAGAIN"), ("2", "start_payload: EAGAIN")] {
        fs::write(group.join("pids.max"), processes).unwrap();
        refused_command(&mut behind(&script, &["run", "--rootfs", "host", "--", "true"]), step, Some("pids.max"));
    }
    fs::write(group.join("pids.max"), "3").unwrap();
    let control = Running::start(&mut behind(&script, &["run", "--rootfs", "host", "--", "true"])).finish();
    assert_eq!(control.status.code(), Some(0), "{}", text(&control.stderr));
    fs::remove_dir(&group).unwrap();
}

#[test]
fn a_full_disk_stops_a_build_and_no_run() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let script = format!(
        "exec 9>&1; exec unshare -m sh -c 'mount -t tmpfs -o size=64k tmpfs {path} && head -c 1M /dev/zero > {path}/x 2>/dev/null; exec \"$@\"' sh \"$@\""
    );
    refused_command(&mut behind(&script, &["rootfs", "build", "base", "--rootfs-dir", path]), path, Some("free"));
    // What is remembered of toolchains is a convenience.
    let mut command = behind(&script, &["run", "--json", "--rootfs", "host", "--language", "bash", "main.sh"]);
    let (sources, _) = source("main.sh", "echo hi\n");
    let output = Running::start(command.env("SANDBOXD_CACHE_DIR", path).current_dir(sources.path())).finish();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn without_cgroups_nothing_runs_unless_that_is_asked_for() {
    if !is_root() {
        return;
    }
    let script = "exec unshare -m sh -c 'mount --make-rprivate / && umount -R /sys/fs/cgroup; exec \"$@\"' sh \"$@\"";
    let flags = ["run", "--rootfs", "host", "--json", "--", "sh", "-c", "head -c 20M /dev/zero | tail -c 1"];
    refused_command(&mut behind(script, &flags), "cgroups cannot be enforced here", Some("Delegate=yes"));
    let none = [&["--cgroup", "none"], &flags[..]].concat();
    let output = Running::start(&mut behind(script, &none)).finish();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["status"], &answer["enforcement"]["cgroup"]), (&"ok".into(), &"none".into()), "{answer}");
    assert!(text(&output.stderr).contains("warning: no cgroup"), "{}", text(&output.stderr));
}

#[test]
fn without_cgroups_limits_are_still_watched() {
    if !is_root() {
        return;
    }
    for (flags, script, status) in [
        (["--wall-time", "300ms"], "sleep 50", "wall_time_exceeded"),
        (["--cpu-time", "300ms"], "while :; do :; done", "cpu_time_exceeded"),
        (["--memory", "40M"], "exec python3 -c 'import time; x=bytearray(200<<20); time.sleep(50)'", "memory_exceeded"),
    ] {
        let (answer, _) = common::answer(
            &[&["--cgroup", "none", "--rootfs", "host"], &flags[..], &["--", "sh", "-c", script]].concat(),
        );
        assert_eq!(answer["status"], status, "{answer}");
    }
}

#[test]
fn an_ordinary_user_runs_programs_and_is_told_what_is_weaker() {
    if !is_root() {
        return;
    }
    let (directory, program) = directory_for_all();
    let path = directory.path().join("main.sh");
    fs::write(&path, "id -u; cat /proc/self/uid_map; echo x > /tmp/file && cat /tmp/file\n").unwrap();
    let mut command = as_nobody(&program);
    let output = Running::start(command.args(["run", "--json"]).arg(&path)).finish();
    let stderr = text(&output.stderr);
    if stderr.contains("make a user namespace as an ordinary user") {
        assert_eq!(output.status.code(), Some(125), "{stderr}");
        assert!(stderr.contains("hint: this kernel allows ordinary users no namespaces"), "{stderr}");
        println!("skipped: ordinary users may make no user namespaces here");
        return;
    }
    let answer: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    assert_eq!(answer["status"], "ok", "{answer}");
    assert!(answer["stdout"].as_str().unwrap().starts_with("1000\n"), "{answer}");
    assert!(answer["stdout"].as_str().unwrap().ends_with("\nx\n"), "{answer}");
    let enforcement = &answer["enforcement"];
    assert_eq!((&enforcement["privileged"], &enforcement["cgroup"]), (&false.into(), &"none".into()), "{answer}");
    assert_eq!((&enforcement["seccomp"], &enforcement["rootfs"]), (&true.into(), &"host".into()), "{answer}");
    assert!(stderr.contains("warning: not root") && stderr.contains("warning: no cgroup"), "{stderr}");

    // The same errors as for root, and those of an ordinary user.
    fs::write(directory.path().join("secret.sh"), "echo secret\n").unwrap();
    fs::set_permissions(directory.path().join("secret.sh"), fs::Permissions::from_mode(0o600)).unwrap();
    refused_command(
        as_nobody(&program).arg("run").arg(directory.path().join("secret.sh")),
        "secret.sh: Permission denied",
        None,
    );
    refused_command(as_nobody(&program).args(["run", "--cgroup", "hybrid"]).arg(&path), "", Some("root"));
    let mut busy = as_nobody(&program);
    let output =
        Running::start(busy.args(["run", "--cpu-time", "300ms", "--", "sh", "-c", "while :; do :; done"])).finish();
    assert_eq!(output.status.code(), Some(124), "{}", text(&output.stderr));
    // Where namespaces are forbidden: a limit of this user's own, set below a namespace of the test's.
    let script = "exec unshare -U -r sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"' sh \"$@\"";
    let mut forbidden = Command::new("setpriv");
    forbidden.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", script, "sh"]);
    forbidden.arg(&program).args(["run", "--cgroup", "none", "--rootfs", "host", "--"]).arg("true");
    forbidden.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    refused_command(&mut forbidden, "", Some("user"));
}

/// The hidden flags of these tests are compiled for them alone.
#[test]
fn a_release_build_has_no_hooks() {
    let hooks = include_str!("../src/cli/mod.rs");
    for (command, name) in [("run", "TestHooks"), ("selftest", "SelftestHooks")] {
        let definition = hooks.find(&format!("struct {name}")).unwrap();
        assert!(hooks[..definition].trim_end().ends_with("#[cfg(debug_assertions)]\n#[derive(Args)]"));
        let field = hooks.find(&format!("hooks: {name}")).unwrap();
        assert!(hooks[..field].trim_end().ends_with("#[cfg(debug_assertions)]\n    #[command(flatten)]"));
        let help = sandboxd().args([command, "--help"]).output().unwrap();
        assert!(!text(&help.stdout).contains("--fail") && !text(&help.stdout).contains("--without-"));
    }
}
