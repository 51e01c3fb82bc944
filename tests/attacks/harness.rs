//! Running the attacks: in the complete sandbox, by one layer alone, in their controls; reading what they print.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use sandboxd::selftest::PROGRAMS;
use sandboxd::selftest::attack::{Attack, Control, Printed, Program, Section};
use sandboxd::selftest::table;

use crate::common::{has_image, is_root, run_with, sandboxd, text};

/// What a program attempted, and how each attempt ended (`ok` or an errno).
pub type Attempts = BTreeMap<String, String>;

/// True when the attacks can be tried here; says so when they cannot.
pub fn ready() -> bool {
    is_root() && has_image("base") && has_image("python")
}

/// Tries every attack of a section in the complete sandbox, by each layer alone, and in its control; fails with all that
/// went wrong.
pub fn check(section: Section) {
    if !ready() {
        return;
    }
    let attacks: Vec<_> = table::all().filter(|attack| attack.section == section).collect();
    let mut problems = complete(&attacks);
    for without in sets(attacks.iter().flat_map(|attack| attack.alone.iter().map(|(_, others)| *others))) {
        problems.extend(alone(&attacks, without));
    }
    let left_out = |attack: &&Attack| if let Control::Without(layers) = attack.control { Some(layers) } else { None };
    for without in sets(attacks.iter().copied().filter_map(|attack| left_out(&attack))) {
        let opened: Vec<_> = attacks.iter().copied().filter(|attack| left_out(attack) == Some(without)).collect();
        problems.extend(without_layers(&opened, without));
    }
    problems.extend(attacks.iter().copied().flat_map(elsewhere));
    assert!(problems.is_empty(), "{} of the attacks did not go as expected:\n{}", problems.len(), problems.join("\n"));
}

type Layers = &'static [&'static str];

fn sets(layers: impl Iterator<Item = Layers>) -> Vec<Layers> {
    let mut sets: Vec<_> = layers.collect();
    sets.sort_unstable();
    sets.dedup();
    sets
}

/// What `sandboxd selftest` finds of these attacks without the named layers, by name.
fn selftest(attacks: &[&Attack], without: &[&str]) -> BTreeMap<String, serde_json::Value> {
    let mut command = sandboxd();
    command.args(["selftest", "--json", "--rootfs", "base"]).args(without_flags(without));
    for attack in attacks {
        command.args(["--only", attack.name]);
    }
    let output = run_with(&mut command, b"", Duration::from_secs(240));
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    assert_eq!(output.status.code(), Some(if report["ok"] == true { 0 } else { 1 }), "{report}");
    assert_eq!(report["left_over"], serde_json::json!([]), "without {without:?}");
    let found = report["attacks"].as_array().cloned().unwrap_or_default();
    found.into_iter().map(|attack| (attack["name"].as_str().unwrap_or_default().to_owned(), attack)).collect()
}

fn complete(attacks: &[&'static Attack]) -> Vec<String> {
    let found = selftest(attacks, &[]);
    assert_eq!(found.len(), attacks.len());
    let failed = found.values().filter(|attack| attack["result"] != "pass");
    failed.map(|attack| format!("{}: {}", attack["name"], attack["problems"])).collect()
}

/// Attempts that the complete sandbox refuses.
fn refused(attack: &Attack) -> Vec<&'static str> {
    let Printed::Attempts(lines) = attack.expected.printed else { return Vec::new() };
    lines
        .iter()
        .filter_map(|line| line.rsplit_once(": "))
        .filter(|(_, end)| *end != "ok")
        .map(|(name, _)| name)
        .collect()
}

fn ends_of(found: &serde_json::Value) -> Attempts {
    let attempts = found["attempts"].as_array().cloned().unwrap_or_default();
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    attempts.iter().map(|attempt| (word(&attempt["attempt"]), word(&attempt["end"]))).collect()
}

/// Attacks that one layer must stop by itself, without the others in `without`.
fn alone(attacks: &[&'static Attack], without: Layers) -> Vec<String> {
    let layer = |attack: &Attack| attack.alone.iter().find(|(_, others)| *others == without).map(|(layer, _)| *layer);
    let held: Vec<_> = attacks.iter().copied().filter(|attack| layer(attack).is_some()).collect();
    let found = selftest(&held, without);
    let mut problems = Vec::new();
    for attack in held {
        let ends = ends_of(&found[attack.name]);
        for attempt in refused(attack) {
            match ends.get(attempt).map(String::as_str) {
                None => problems.push(format!(
                    "{}: by {} alone, {attempt:?} was not tried ({})",
                    attack.name,
                    layer(attack).unwrap_or_default(),
                    found[attack.name]
                )),
                Some("ok") => problems.push(format!(
                    "{}: by {} alone, {attempt:?} is not stopped",
                    attack.name,
                    layer(attack).unwrap_or_default()
                )),
                Some(_) => {}
            }
        }
    }
    problems
}

/// The controls in the sandbox: without these layers the selftest itself must find the attack to succeed.
fn without_layers(attacks: &[&'static Attack], without: Layers) -> Vec<String> {
    let found = selftest(attacks, without);
    let mut problems = Vec::new();
    for attack in attacks {
        let finding = &found[attack.name];
        let all_closed =
            refused(attack).iter().all(|attempt| is_closed(attack, attempt)) && !refused(attack).is_empty();
        if finding["result"] != "fail" && !all_closed {
            problems.push(format!("{}: passes without {without:?}: the check cannot fail: {finding}", attack.name));
        }
        problems.extend(not_opened(attack, &ends_of(finding)));
    }
    problems
}

fn is_closed(attack: &Attack, attempt: &str) -> bool {
    attack.closed.iter().any(|(name, _)| *name == attempt)
}

fn not_opened(attack: &Attack, opened: &Attempts) -> Vec<String> {
    let missing = refused(attack)
        .into_iter()
        .filter(|attempt| opened.get(*attempt).map(String::as_str) != Some("ok") && !is_closed(attack, attempt));
    let name = attack.name;
    missing
        .map(|attempt| format!("{name}: the control does not show that {attempt:?} can succeed: {opened:?}"))
        .collect()
}

/// The controls that are not a matter of layers left out.
fn elsewhere(attack: &'static Attack) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = file.path().to_str().expect("UTF-8");
    let words = |arguments: &[&str]| -> Vec<String> {
        let Program::Builtin(program, _) = attack.program else { panic!("{}: not a program of ours", attack.name) };
        let filled = arguments.iter().map(|argument| argument.replace("{file}", path));
        std::iter::once(program.to_owned()).chain(filled).collect()
    };
    let opened = match attack.control {
        // Shown by `without_layers`, and by a test of its own.
        Control::Without(_) | Control::Test(_) => return Vec::new(),
        Control::Roomy { flags, program } => {
            let answer = match program {
                Program::Builtin(program, arguments) => {
                    json(&mut program_command("attack", &[], flags, &[&[program], arguments].concat()))
                }
                Program::Shell(script) => {
                    run_flags(&[flags, &["--rootfs", "base", "--", "/bin/sh", "-c", script]].concat())
                }
            };
            let ok = answer["status"] == "ok" && !answer["stdout"].as_str().is_some_and(|out| out.contains(": E"));
            return if ok { Vec::new() } else { vec![format!("{}: the control fails: {answer}", attack.name)] };
        }
        Control::Allowed(arguments) => {
            let words = words(arguments);
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let answer = json(&mut program_command("attack", &[], &[], &words));
            if refused(attack).is_empty() && answer["status"] != "ok" {
                return vec![format!("{}: the control fails: {answer}", attack.name)];
            }
            attempts(answer["stdout"].as_str().unwrap_or_default())
        }
        Control::Bare(arguments) => {
            attempts(&text(&run_bare(Command::new(compiled("attack")).args(words(arguments))).stdout))
        }
        Control::Unshared(arguments) => {
            let mut command = Command::new("unshare");
            command.args(["-UrmpfniuC", "--mount-proc", "--"]).arg(compiled("attack")).args(words(arguments));
            attempts(&text(&run_bare(&mut command).stdout))
        }
    };
    not_opened(attack, &opened)
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

/// The path of a program of ours, or of all of them as `attack`: the file that the selftest carries, under that name.
pub fn compiled(program: &str) -> PathBuf {
    static WRITTEN: OnceLock<PathBuf> = OnceLock::new();
    let attack = WRITTEN.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attacks");
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("attack");
        // The shell writes it: a descriptor of ours, open for writing, could be inherited by what another test spawns in
        // this moment, and the program could then not be executed (ETXTBSY).
        let script = "cat > \"$0.$$\" && chmod 755 \"$0.$$\" && mv \"$0.$$\" \"$0\"";
        let written = run_with(Command::new("sh").args(["-c", script]).arg(&path), PROGRAMS, Duration::from_secs(60));
        assert!(written.status.success(), "{}", text(&written.stderr));
        path
    });
    let path = attack.with_file_name(program);
    if program != "attack" && !path.exists() {
        // Another test may have been quicker.
        let _ = std::os::unix::fs::symlink("attack", &path);
    }
    path
}
