//! `sandboxd check`, `rootfs`, `completions`, `man` and the help texts, as their users call them.

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::{is_root, leftovers, run_with, sandboxd, text};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn run(arguments: &[&str]) -> Output {
    run_with(sandboxd().args(arguments), b"", LIMIT)
}

/// The findings, after a look at what must hold for all of them.
fn findings(output: &Output) -> Value {
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)));
    let layers = found["layers"].as_array().expect("layers is a list");
    for layer in layers {
        let state = layer["state"].as_str().expect("every layer has a state");
        assert!(["enforced", "weaker", "missing"].contains(&state), "{layer}");
        assert!(!layer["detail"].as_str().expect("every layer has a detail").is_empty(), "{layer}");
        let remedy = layer["remedy"].as_str();
        assert_eq!(state == "enforced", remedy.is_none(), "a remedy exactly where something is to be mended: {layer}");
        assert!(remedy.is_none_or(|remedy| !remedy.is_empty()), "{layer}");
    }
    let fatal = layers.iter().any(|layer| layer["required"] == true && layer["state"] == "missing");
    assert_eq!(found["ok"], !fatal);
    assert_eq!(output.status.code(), Some(i32::from(fatal)), "{}", text(&output.stderr));
    found
}

fn state<'a>(found: &'a Value, name: &str) -> &'a str {
    let layers = found["layers"].as_array().expect("layers is a list");
    let layer = layers.iter().find(|layer| layer["name"] == name);
    layer.unwrap_or_else(|| panic!("no layer {name} in {found:#}"))["state"].as_str().expect("a state is a word")
}

fn remedy(found: &Value, name: &str) -> String {
    let layers = found["layers"].as_array().expect("layers is a list");
    let layer = layers.iter().find(|layer| layer["name"] == name).expect("the layer is there");
    layer["remedy"].as_str().unwrap_or_default().to_owned()
}

/// What holds wherever programs may be run at all, whoever runs them.
const ALWAYS_ENFORCED: [&str; 20] = [
    "kernel",
    "namespace user",
    "namespace pid",
    "namespace mount",
    "namespace net",
    "namespace ipc",
    "namespace uts",
    "namespace cgroup",
    "cell of image host",
    "namespaces",
    "network",
    "nested namespaces",
    "proc",
    "scratch",
    "root",
    "capabilities",
    "no_new_privs",
    "core size",
    "descriptors inside",
    "seccomp",
];

const LIMITS_OF_A_CELL: [&str; 4] = ["cgroup", "memory limit", "process limit", "cpu time"];

#[test]
fn check_is_true_on_this_machine_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let store = tempfile::tempdir().unwrap();
    // A supervisor's groups bear its process id.
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ >&2; exec \"$0\" check --json --rootfs-dir \"$1\"", env!("CARGO_BIN_EXE_sandboxd")]);
    let output = run_with(command.arg(store.path()), b"", LIMIT);
    let own = format!("/sandboxd.{}", text(&output.stderr).lines().next().unwrap());
    assert!(leftovers().iter().all(|left| !left.ends_with(&own)), "{own}");
    let found = findings(&output);
    assert_eq!(found["ok"], true, "{found:#}");
    for name in ALWAYS_ENFORCED.iter().chain(&LIMITS_OF_A_CELL).chain(&["id map"]) {
        assert_eq!(state(&found, name), "enforced", "{name}: {found:#}");
    }
    assert_eq!(found["host"]["privilege"], "root");
    // Nothing is built in an empty directory, and that is no reason to refuse to run.
    assert_eq!(
        (state(&found, "image python"), remedy(&found, "image python").as_str()),
        ("weaker", "run `sandboxd rootfs build python`")
    );
    let human = run(&["check", "--rootfs-dir", store.path().to_str().unwrap()]);
    let human_text = text(&human.stdout);
    assert_eq!(human.status.code(), Some(0), "{human_text}");
    assert!(human_text.lines().last().unwrap().ends_with("everything required is there"), "{human_text}");
    assert!(!human_text.contains('\u{1b}') && !human_text.contains('✓'), "colours and symbols are for terminals");
}

#[test]
fn check_is_true_under_pure_v2() {
    if !is_root() {
        return;
    }
    let machine = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/uml/run");
    let store = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut command = Command::new(machine);
    command.args(["--timeout", "120", env!("CARGO_BIN_EXE_sandboxd"), "check", "--json", "--rootfs-dir"]);
    let output = run_with(command.arg(store.path()), b"", Duration::from_secs(150));
    assert_ne!(output.status.code(), Some(125), "{}{}", text(&output.stdout), text(&output.stderr));
    let found = findings(&output);
    assert_eq!((&found["ok"], &found["host"]["cgroup"]), (&Value::from(true), &Value::from("v2")), "{found:#}");
    for name in ALWAYS_ENFORCED.iter().chain(&LIMITS_OF_A_CELL) {
        assert_eq!(state(&found, name), "enforced", "{name}: {found:#}");
    }
    assert_eq!(state(&found, "landlock"), "missing", "User Mode Linux has none");
}

#[test]
fn check_fails_without_cgroups_unless_none_is_asked_for_by_name() {
    if !is_root() {
        return;
    }
    let without = |flags: &str| {
        let script = format!("umount -R /sys/fs/cgroup && exec \"$0\" check --json {flags}");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_sandboxd")]);
        run_with(&mut command, b"", LIMIT)
    };
    let output = without("");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let found = findings(&output);
    assert_eq!(state(&found, "cgroup"), "missing");
    assert!(remedy(&found, "cgroup").contains("mount"), "{}", remedy(&found, "cgroup"));
    // The rest is told all the same.
    assert_eq!(state(&found, "seccomp"), "enforced");
    let found = findings(&without("--cgroup none"));
    assert_eq!((&found["ok"], state(&found, "cgroup")), (&Value::from(true), "weaker"));
}

/// The program at a place where an ordinary user may read it.
fn for_everybody() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("sandboxd");
    std::fs::copy(env!("CARGO_BIN_EXE_sandboxd"), &path).unwrap();
    (directory, path)
}

const NOBODY: u32 = 65534;

fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.uid(NOBODY).gid(NOBODY).env("HOME", "/nonexistent").current_dir("/");
    command
}

#[test]
fn check_tells_an_ordinary_user_what_is_weaker() {
    if !is_root() {
        return;
    }
    let (_directory, program) = for_everybody();
    let output = run_with(as_nobody(&program).args(["check", "--json"]), b"", LIMIT);
    let found = findings(&output);
    assert_eq!(
        (&found["ok"], &found["host"]["privilege"]),
        (&Value::from(true), &Value::from("rootless")),
        "{found:#}"
    );
    for name in ALWAYS_ENFORCED {
        assert_eq!(state(&found, name), "enforced", "{name}: {found:#}");
    }
    for name in ["privilege", "id map", "cgroup"] {
        assert_eq!(state(&found, name), "weaker", "{name}: {found:#}");
    }
    let output = run_with(as_nobody(&program).args(["run", "--", "/bin/echo", "rootless"]), b"", LIMIT);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("rootless\n", Some(0)));
}

#[test]
fn check_names_the_profiles_that_are_left_out() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(format!("{name}.toml")), text).unwrap();
    let profile = |name: &str, rootfs: &str, command: &str| {
        format!(
            "name = {name:?}\nrootfs = {rootfs:?}\nsource = \"main.x\"\n\
             [version]\ncommand = [\"bash\"]\n[run]\ncommand = [{command:?}, \"{{source}}\"]\n"
        )
    };
    write("brainfuck", "name = \"brainfuck\"\nextentions = [\"bf\"]\n");
    write("imageless", &profile("imageless", "pyhton", "bash"));
    write("commandless", &profile("commandless", "base", "bsah"));
    write("whole", &profile("whole", "base", "/bin/bash"));
    let own = ["--profiles-dir", directory.path().to_str().unwrap()];
    let found = findings(&run(&[&["check", "--json"], &own[..]].concat()));
    let layers = found["layers"].as_array().unwrap();
    let rows: Vec<&str> = layers
        .iter()
        .filter(|layer| layer["name"] == "profile left out")
        .filter_map(|layer| layer["detail"].as_str())
        .collect();
    let told = |words: &[&str]| rows.iter().any(|row| words.iter().all(|word| row.contains(word)));
    assert!(told(&["brainfuck.toml:2", "did you mean `extensions`?"]), "{rows:?}");
    assert!(told(&["imageless.toml:2", "pyhton", "did you mean python?"]), "{rows:?}");
    // What an image holds is known of one that is built.
    if Path::new(sandboxd::rootfs::DEFAULT_STORE).join("images/base.json").exists() {
        assert!(told(&["commandless.toml:7", "command \"bsah\" is not in image base"]), "{rows:?}");
        assert_eq!(rows.len(), 3, "{rows:?}");
    }
    let listed = text(&run(&[&["languages"], &own[..]].concat()).stdout);
    assert!(listed.contains("\nwhole ") && !listed.contains("imageless"), "{listed}");
}

#[test]
fn a_step_that_fails_is_named_by_the_rows_that_hang_on_it() {
    // From outside, as an operator's sysctl would: a release build has no fault points.
    if !is_root() {
        return;
    }
    let script = "echo 0 >/proc/sys/user/max_net_namespaces && exec \"$0\" check --json --cgroup none";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script]);
    let found = findings(&run_with(command.arg(env!("CARGO_BIN_EXE_sandboxd")), b"", LIMIT));
    assert_eq!(found["ok"], false);
    assert_eq!(state(&found, "namespace net"), "missing");
    assert!(remedy(&found, "namespace net").contains("user.max_net_namespaces"), "{found:#}");
    assert_eq!(state(&found, "namespace pid"), "enforced");
    assert_eq!(state(&found, "seccomp"), "missing", "no cell, no proof");
}

/// A copy of what is built on this machine of base and python, to be damaged at will.
fn copied_store() -> Option<tempfile::TempDir> {
    let built = Path::new(sandboxd::rootfs::DEFAULT_STORE);
    if !built.join("images/base.json").exists() || !built.join("images/python.json").exists() {
        eprintln!("skipped: base and python are not built (sandboxd rootfs build)");
        return None;
    }
    let store = tempfile::tempdir().unwrap();
    for part in ["images", "layers"] {
        std::fs::create_dir(store.path().join(part)).unwrap();
        for entry in std::fs::read_dir(built.join(part)).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if (name.starts_with("base") || name.starts_with("python")) && entry.path().is_file() {
                std::fs::copy(entry.path(), store.path().join(part).join(&name)).unwrap();
            }
        }
    }
    Some(store)
}

fn layer_file(store: &Path, layer: &str) -> PathBuf {
    let files = std::fs::read_dir(store.join("layers")).unwrap().flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(&format!("{layer}-")) && name.ends_with(".erofs")
    };
    files.into_iter().find(is_it).expect("the layer is an erofs file")
}

#[test]
fn images_are_listed_verified_and_removed() {
    use std::io::{Seek as _, SeekFrom, Write as _};
    if !is_root() {
        return;
    }
    let Some(store) = copied_store() else { return };
    let directory = store.path().to_str().unwrap();
    let rootfs = |arguments: &[&str]| run(&[&["rootfs"], arguments, &["--rootfs-dir", directory]].concat());
    let states = || {
        let listed: Value = serde_json::from_slice(&rootfs(&["list", "--json"]).stdout).unwrap();
        let pairs = listed.as_array().unwrap().iter();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        pairs.map(|row| (word(&row["name"]), word(&row["state"]))).collect::<std::collections::BTreeMap<_, _>>()
    };

    let found = states();
    for (name, state) in [("host", "built"), ("base", "built"), ("python", "built"), ("node", "missing")] {
        assert_eq!(found[name], state, "{name}");
    }
    let human = rootfs(&["list"]);
    let human = text(&human.stdout);
    assert!(human.lines().any(|line| line.starts_with("python") && line.contains("base + python")), "{human}");

    let sound = rootfs(&["verify"]);
    assert_eq!(sound.status.code(), Some(0), "{}", text(&sound.stderr));
    assert_eq!(text(&sound.stdout).matches(": OK").count(), 3, "{}", text(&sound.stdout));

    // One flipped byte in the middle of a layer.
    let path = layer_file(store.path(), "python");
    let middle = path.metadata().unwrap().len() / 2;
    let byte = std::fs::read(&path).unwrap()[middle as usize];
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut file = std::fs::File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[!byte]).unwrap();
    drop(file);
    let damaged = rootfs(&["verify", "base", "python"]);
    assert_eq!(damaged.status.code(), Some(1));
    let said = text(&damaged.stdout);
    assert!(
        said.contains("base: layer base") && said.contains("layer python") && said.contains("its digest is"),
        "{said}"
    );
    assert!(text(&damaged.stderr).contains("rootfs build --force python"), "{}", text(&damaged.stderr));

    // A layer that is gone: everything on it is damaged, and check says so.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(states()["python"], "damaged");
    let found = findings(&run(&["check", "--json", "--rootfs-dir", directory]));
    assert_eq!((&found["ok"], state(&found, "image python")), (&Value::from(false), "missing"));
    let missing = rootfs(&["verify", "python"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("is incomplete"), "{}", text(&missing.stderr));

    // Even so it can be removed, and the layer that another image stands on stays.
    let removed = rootfs(&["remove", "python"]);
    assert_eq!(removed.status.code(), Some(0), "{}", text(&removed.stderr));
    assert!(text(&removed.stdout).starts_with("python: removed"), "{}", text(&removed.stdout));
    assert_eq!((states()["python"].as_str(), states()["base"].as_str()), ("missing", "built"));
    let removed = rootfs(&["remove", "base"]);
    assert!(text(&removed.stdout).contains("freed"), "{}", text(&removed.stdout));
    assert_eq!(std::fs::read_dir(store.path().join("layers")).unwrap().count(), 0);
    let again = rootfs(&["remove", "base"]);
    assert_eq!(again.status.code(), Some(125));
    assert!(text(&again.stderr).contains("is not built"), "{}", text(&again.stderr));
}

#[test]
fn unknown_images_are_refused_with_the_nearest() {
    let store = tempfile::tempdir().unwrap();
    for verb in ["build", "verify", "remove"] {
        let output = run(&["rootfs", verb, "pyhton", "--rootfs-dir", store.path().to_str().unwrap()]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{verb}: {said}");
        assert!(said.contains("hint: did you mean python?"), "{verb}: {said}");
        let output = run(&["rootfs", verb, "host", "--rootfs-dir", store.path().to_str().unwrap()]);
        assert!(text(&output.stderr).contains("nothing to build, verify or remove"), "{verb}");
    }
    assert_eq!(std::fs::read_dir(store.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_second_build_has_nothing_to_do() {
    if !is_root() {
        return;
    }
    let Some(store) = copied_store() else { return };
    let arguments = ["rootfs", "build", "base", "python", "--rootfs-dir", store.path().to_str().unwrap()];
    let output = run(&arguments);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(said.contains("base: up to date") && said.contains("python: up to date"), "{said}");
    // Its versions are asked of the toolchain once, and then known.
    let listed: Value =
        serde_json::from_slice(&run(&["rootfs", "list", "--json", "--rootfs-dir", arguments[5]]).stdout).unwrap();
    let python = listed.as_array().unwrap().iter().find(|row| row["name"] == "python").unwrap();
    assert!(python["versions"]["python"].as_str().unwrap().starts_with("3."), "{python}");
    assert!(!text(&run(&arguments).stdout).contains("python 3."), "not asked again");
}

const SUBCOMMANDS: [&str; 6] = ["run", "check", "languages", "rootfs", "completions", "man"];

#[test]
fn completions_and_man_pages_name_every_subcommand() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        let script = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0));
        for name in SUBCOMMANDS.iter().chain(&["verify", "wall-time", "rootfs-dir"]) {
            assert!(script.contains(name), "{name} in {shell}");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    assert_eq!(run(&["man", pages.to_str().unwrap()]).status.code(), Some(0));
    let page = |name: &str| {
        std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    for name in SUBCOMMANDS {
        assert!(page("sandboxd").contains(&format!("sandboxd\\-{name}(1)")), "{name}");
        assert!(page(&format!("sandboxd-{name}")).contains(".SH NAME"), "{name}");
    }
    for name in ["build", "list", "verify", "remove"] {
        assert!(page(&format!("sandboxd-rootfs-{name}")).len() > 200);
    }
    let hidden = ["without-step", "without\\-step", "\\-\\-fail"];
    assert!(hidden.iter().all(|flag| !page("sandboxd-run").contains(flag)), "controls of tests are not for readers");
}

#[test]
fn help_names_every_flag_of_the_contract() {
    let help = text(&run(&["run", "--help"]).stdout);
    let flags = [
        "--language",
        "--stdin <FILE|->",
        "--arg",
        "--file",
        "--env",
        "--wall-time",
        "--cpu-time",
        "--memory",
        "--processes",
        "--output",
        "--rootfs",
        "--profile",
        "--dry-run",
        "--json",
        "sandboxd run [FLAGS] FILE [ARGS…]",
        "sandboxd run [FLAGS] -- COMMAND [ARGS…]",
        "Exit code:",
    ];
    for flag in flags {
        assert!(help.contains(flag), "{flag} in {help}");
    }
    assert!(!help.contains("--without-step") && !help.contains("--fail"), "{help}");
    let help = text(&run(&["--help"]).stdout);
    for name in SUBCOMMANDS.iter().chain(&["--config", "--rootfs-dir", "--profiles-dir", "--cgroup", "--log"]) {
        assert!(help.contains(name), "{name} in {help}");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let script = "\"$0\" completions bash | head -n 1; \"$0\" rootfs list | head -n 1";
    let output = run_with(Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_sandboxd")]), b"", LIMIT);
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn ctrl_c_ends_a_build_and_leaves_nothing_half_made() {
    if std::env::var_os("SANDBOXD_TEST_ROOTFS").is_none() {
        eprintln!("SANDBOXD_TEST_ROOTFS is not set: nothing tested");
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let mut command = sandboxd();
    command.args(["rootfs", "build", "base", "--rootfs-dir"]).arg(store.path());
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let work = store.path().join("tmp");
    let begun = || std::fs::read_dir(&work).is_ok_and(|mut entries| entries.next().is_some());
    while !begun() {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("interrupted"), "{}", text(&output.stderr));
    for part in ["tmp", "layers", "images"] {
        assert_eq!(std::fs::read_dir(store.path().join(part)).unwrap().count(), 0, "{part}");
    }
}
