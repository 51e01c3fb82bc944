//! Running the attacks: compiling a program once, running it in the sandbox or bare, reading what it printed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::common::{is_root, run_with, sandboxd, text};

/// One program that attempts things, and what is expected of each attempt.
pub struct Attack {
    /// The attack's numbers in the list of attacks.
    pub rows: &'static str,
    pub title: &'static str,
    /// A file of `programs`, without `.c`.
    pub program: &'static str,
    pub arguments: &'static [&'static str],
    /// What the program prints in the complete sandbox, line by line.
    pub denied: &'static [&'static str],
    /// Layers that hold by themselves: their names, and the other layers, which are left out to show it.
    pub alone: &'static [(&'static str, &'static [&'static str])],
    /// Where the attempts succeed.
    pub control: Control,
    /// Attempts that need not succeed in the control, each with the reason.
    pub closed: &'static [(&'static str, &'static str)],
}

/// Where the same program succeeds.
pub enum Control {
    /// In the sandbox without these steps, or namespaces (`ns:NAME`).
    Without(&'static [&'static str]),
    /// On the host, as root, in an empty directory, where that is harmless.
    Bare(&'static [&'static str]),
    /// On the host as root of fresh namespaces.
    Unshared(&'static [&'static str]),
    /// In the complete sandbox, with arguments for which the attempt is allowed.
    Allowed(&'static [&'static str]),
}

/// What a program attempted, and how each attempt ended (`ok` or an errno).
pub type Attempts = BTreeMap<String, String>;

/// True when the attacks can be tried here; says so when they cannot.
pub fn ready() -> bool {
    if !is_root() {
        return false;
    }
    let images = Path::new("/var/lib/sandboxd/rootfs/images");
    let missing: Vec<_> =
        ["base", "gcc", "python"].into_iter().filter(|image| !images.join(format!("{image}.json")).exists()).collect();
    if missing.is_empty() {
        return true;
    }
    let wanted = std::env::var_os("SANDBOXD_TEST_IMAGES").is_some_and(|value| value == "1");
    assert!(!wanted, "the images {missing:?} are not built");
    eprintln!("skipped: the images {missing:?} are not built (sandboxd rootfs build)");
    false
}

/// Tries every attack in the complete sandbox, by each layer alone, and in its control; fails with all that went wrong.
pub fn check(attacks: &[Attack]) {
    if !ready() {
        return;
    }
    let problems: Vec<String> = attacks.iter().flat_map(problems_of).collect();
    assert!(problems.is_empty(), "{} of the attacks did not go as expected:\n{}", problems.len(), problems.join("\n"));
}

fn problems_of(attack: &Attack) -> Vec<String> {
    let mut problems = Vec::new();
    let mut problem = |what: String| problems.push(format!("[{}] {}: {what}", attack.rows, attack.title));
    let answer = run_program(attack.program, &[], attack.arguments);
    let expected: String = attack.denied.iter().map(|line| format!("{line}\n")).collect();
    if answer["stdout"] != expected.as_str() {
        problem(format!("expected\n{expected}got\n{}({answer})", answer["stdout"].as_str().unwrap_or_default()));
    }
    let denied: Attempts = attempts(&expected).into_iter().filter(|(_, end)| end != "ok").collect();
    for (layer, others) in attack.alone {
        let answer = run_program(attack.program, others, attack.arguments);
        let tried = attempts(answer["stdout"].as_str().unwrap_or_default());
        for attempt in denied.keys() {
            match tried.get(attempt).map(String::as_str) {
                None => problem(format!("by {layer} alone, {attempt:?} was not tried ({answer})")),
                Some("ok") => problem(format!("by {layer} alone, {attempt:?} is not stopped")),
                Some(_) => {}
            }
        }
    }
    let opened = control(attack);
    for attempt in denied.keys() {
        let end = opened.get(attempt).map(String::as_str);
        let closed = attack.closed.iter().any(|(name, _)| name == attempt);
        if end != Some("ok") && !closed {
            problem(format!("the control does not show that {attempt:?} can succeed: {opened:?}"));
        }
    }
    problems
}

fn control(attack: &Attack) -> Attempts {
    let printed = match attack.control {
        Control::Without(layers) => run_program(attack.program, layers, attack.arguments)["stdout"].to_string(),
        Control::Allowed(arguments) => run_program(attack.program, &[], arguments)["stdout"].to_string(),
        Control::Bare(arguments) => text(&run_bare(Command::new(compiled(attack.program)).args(arguments)).stdout),
        Control::Unshared(arguments) => {
            let mut command = Command::new("unshare");
            command.args(["-UrmpfniuC", "--mount-proc", "--"]).arg(compiled(attack.program)).args(arguments);
            text(&run_bare(&mut command).stdout)
        }
    };
    // A JSON string keeps its line ends escaped.
    attempts(&serde_json::from_str::<String>(&printed).unwrap_or(printed))
}

/// The lines `attempt: end` of a program's output.
pub fn attempts(printed: &str) -> Attempts {
    printed
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(name, end)| (name.to_owned(), end.to_owned()))
        .collect()
}

/// Runs one of our programs in the `base` image, without the named layers; its verdict.
pub fn run_program(program: &str, without: &[&str], arguments: &[&str]) -> serde_json::Value {
    json(&mut program_command(program, without, &[], arguments))
}

/// The command line that runs one of our programs, with more flags.
pub fn program_command(program: &str, without: &[&str], flags: &[&str], arguments: &[&str]) -> Command {
    let mut command = sandboxd();
    command.args(["run", "--json", "--rootfs", "base"]).args(without_flags(without)).args(flags);
    command.arg("--file").arg(format!("{program}={}", compiled(program).display()));
    // Request files are not executable, and init's user, under which some controls run, may not change that.
    command
        .args(["--", "bash", "-c", "cp \"$0\" /tmp && chmod 755 \"/tmp/$0\" && exec \"/tmp/$0\" \"$@\"", program])
        .args(arguments);
    command
}

/// `--without-step` and `--without-namespace` for names of steps and `ns:` names.
pub fn without_flags(layers: &[&str]) -> Vec<String> {
    let flag = |layer: &&str| match layer.strip_prefix("ns:") {
        Some(namespace) => ["--without-namespace".to_owned(), namespace.to_owned()],
        None => ["--without-step".to_owned(), (*layer).to_owned()],
    };
    layers.iter().flat_map(flag).collect()
}

/// `sandboxd run --json` with flags and a command or file; its verdict.
pub fn run_flags(flags: &[&str]) -> serde_json::Value {
    json(sandboxd().args(["run", "--json"]).args(flags))
}

/// Runs `command` and reads the verdict it prints; an error of the program stands in for one.
pub fn json(command: &mut Command) -> serde_json::Value {
    let output = run_with(command, b"", Duration::from_secs(60));
    serde_json::from_slice(&output.stdout).unwrap_or_else(
        |_| serde_json::json!({ "status": "error", "stdout": "", "stderr": text(&output.stderr), "code": output.status.code() }),
    )
}

/// Runs `command` on the host in an empty directory.
pub fn run_bare(command: &mut Command) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    run_with(command.current_dir(directory.path()), b"", Duration::from_secs(60))
}

/// The path of a program of ours, compiled in the sandbox on first use.
pub fn compiled(program: &str) -> PathBuf {
    type Cache = BTreeMap<String, Arc<OnceLock<PathBuf>>>;
    static CACHE: Mutex<Cache> = Mutex::new(BTreeMap::new());
    let slot = CACHE.lock().expect("no test died in here").entry(program.to_owned()).or_default().clone();
    slot.get_or_init(|| compile(program)).clone()
}

fn compile(program: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/programs");
    let mut command = sandboxd();
    command.args(["run", "--rootfs", "gcc", "--output", "16M", "--wall-time", "60s", "--memory", "512M"]);
    for source in [format!("{program}.c"), "attack.h".to_owned()] {
        command.arg("--file").arg(sources.join(source));
    }
    let script =
        format!("gcc -std=gnu17 -O1 -Wall -Wextra -Werror -static -o /tmp/program {program}.c && cat /tmp/program");
    let output = run_with(command.args(["--", "sh", "-c", &script]), b"", Duration::from_secs(90));
    assert!(output.status.success(), "{program}.c does not compile: {}", text(&output.stderr));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("attack-{program}"));
    // The shell writes it: a descriptor of ours, open for writing, could be inherited by what another test spawns in
    // this moment, and the program could then not be executed (ETXTBSY).
    let script = "cat > \"$0.$$\" && chmod 755 \"$0.$$\" && mv \"$0.$$\" \"$0\"";
    let written = run_with(Command::new("sh").args(["-c", script]).arg(&path), &output.stdout, Duration::from_secs(60));
    assert!(written.status.success(), "{}", text(&written.stderr));
    path
}
