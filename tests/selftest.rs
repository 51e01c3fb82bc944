//! `sandboxd selftest`: every attack is stopped on this host and under pure cgroup v2, and a host that lacks a layer is
//! told so. That each check can fail is shown in `tests/attacks`, by controls.

use std::process::Command;
use std::time::{Duration, Instant};

use sandboxd::selftest::attack::{Attack, Layer};
use sandboxd::selftest::table;

mod common;

use common::{is_root, run_under_v2, run_with, sandboxd, text};

/// The bound of the command, and room for a machine that compiles something else at the same time.
const PATIENCE: Duration = Duration::from_secs(240);

/// `sandboxd selftest --json` with more arguments: its report and its exit code.
fn selftest(arguments: &[&str]) -> (serde_json::Value, Option<i32>) {
    let output = run_with(sandboxd().args(["selftest", "--json"]).args(arguments), b"", PATIENCE);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)));
    (report, output.status.code())
}

/// Names of the attacks that ended as `result`.
fn names(report: &serde_json::Value, result: &str) -> Vec<String> {
    let attacks = report["attacks"].as_array().expect("attacks");
    let ended = attacks.iter().filter(|attack| attack["result"] == result);
    ended.map(|attack| attack["name"].as_str().expect("a name").to_owned()).collect()
}

/// The attacks that failed, whole.
fn failures(report: &serde_json::Value) -> String {
    let attacks = report["attacks"].as_array().expect("attacks");
    attacks.iter().filter(|attack| attack["result"] == "fail").map(|attack| format!("{attack:#}\n")).collect()
}

/// What an XML parser finds: tests, failures, skipped, and the names of the cases.
fn parse_junit(path: &std::path::Path) -> serde_json::Value {
    let script = "import json, sys, xml.etree.ElementTree as tree\n\
                  root = tree.parse(sys.argv[1]).getroot()\n\
                  cases = root.findall('testcase')\n\
                  print(json.dumps({'attributes': root.attrib, 'names': [case.get('name') for case in cases], \
                  'failures': [case.get('name') for case in cases if case.find('failure') is not None], \
                  'skipped': [case.get('name') for case in cases if case.find('skipped') is not None]}))";
    let output = Command::new("python3").args(["-c", script]).arg(path).output().expect("python3 is installed");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("not XML: {}", text(&output.stderr)))
}

#[test]
fn every_attack_is_stopped_on_this_machine() {
    if !is_root() {
        return;
    }
    // The image that every machine has; the base image is tried in `tests/attacks`.
    let started = Instant::now();
    let (report, code) = selftest(&["--rootfs", "host"]);
    assert_eq!(names(&report, "fail"), [""; 0], "{}", failures(&report));
    assert_eq!((&report["ok"], code), (&true.into(), Some(0)), "{}", report["left_over"]);
    assert_eq!(names(&report, "not_applicable"), ["set-user-id-files"]);
    assert!(report["passed"].as_u64().is_some_and(|passed| passed >= 80), "{}", report["passed"]);
    for attack in report["attacks"].as_array().expect("attacks") {
        let shown = ["name", "title", "evidence", "control"].iter().all(|field| attack[field].is_string());
        assert!(shown && attack["stopped_by"].is_string() == (attack["result"] == "pass"), "{attack}");
    }
    assert!(started.elapsed() < Duration::from_secs(120), "took {:?}", started.elapsed());
}

#[test]
fn every_attack_is_stopped_under_pure_v2() {
    // Two machines at once: one core each, and each call of the kernel many times as slow.
    let program = env!("CARGO_BIN_EXE_sandboxd");
    let (even, odd): (Vec<_>, Vec<_>) = table::all().enumerate().partition(|(index, _)| index % 2 == 0);
    let halves = [even, odd].map(|half| {
        let only: String = half.iter().map(|(_, attack)| format!(" --only {}", attack.name)).collect();
        std::thread::spawn(move || run_under_v2(&format!("{program} selftest --json{only} 2>&1")))
    });
    let mut not_applicable = Vec::new();
    let mut tried = 0;
    for half in halves {
        let Some(output) = half.join().expect("the machine ends") else { return };
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)));
        assert_eq!(names(&report, "fail"), [""; 0], "{}", failures(&report));
        assert_eq!(report["ok"], true, "{}", report["left_over"]);
        assert_eq!((&report["host"]["cgroup"], output.status.code()), (&"v2".into(), Some(0)));
        // What this kernel lacks is told, and other layers stand in for it.
        assert_eq!(report["host"]["landlock_abi"], 0);
        assert!(report["weaker"].to_string().contains("landlock"), "{}", report["weaker"]);
        let attacks = report["attacks"].as_array().expect("attacks");
        assert!(attacks.iter().all(|attack| attack["stopped_by"] != "landlock"), "{report:#}");
        tried += attacks.len();
        not_applicable.extend(names(&report, "not_applicable"));
    }
    assert_eq!(tried, table::all().count());
    not_applicable.sort_unstable();
    assert_eq!(not_applicable, ["abi-i386", "set-user-id-files", "sweep-i386"]);
}

#[test]
fn a_host_without_cgroups_is_told_what_is_weaker_and_fails() {
    if !is_root() {
        return;
    }
    let (report, code) = selftest(&["--cgroup", "none", "--rootfs", "host"]);
    assert_eq!((&report["ok"], code), (&false.into(), Some(1)));
    assert!(report["weaker"].to_string().contains("no cgroup"), "{}", report["weaker"]);
    // Those that nothing else would stop, and no other.
    let needs_cgroup = |attack: &&Attack| attack.layers == [Layer::Cgroup];
    let expected: Vec<_> = table::all().filter(needs_cgroup).map(|attack| attack.name).collect();
    assert!(expected.len() >= 15, "{expected:?}");
    assert_eq!(names(&report, "fail"), expected, "{report:#}");
    // A bomb is not set off where nothing would hold it.
    let attacks = report["attacks"].as_array().expect("attacks");
    for failed in attacks.iter().filter(|attack| attack["result"] == "fail") {
        assert_eq!((&failed["evidence"], &failed["stopped_by"]), (&"not tried".into(), &serde_json::Value::Null));
    }
}

#[test]
fn attacks_are_selected_by_name_and_listed_without_being_tried() {
    let list = |arguments: &[&str]| {
        let output = run_with(sandboxd().args(["selftest", "--list"]).args(arguments), b"", PATIENCE);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert_eq!(list(&[]).lines().count(), table::all().count());
    let mounts = list(&["--only", "mount"]);
    assert!(mounts.lines().count() > 3 && mounts.lines().all(|line| line.starts_with("mount")), "{mounts}");
    // A whole name means that attack alone.
    assert!(
        list(&["--only", "closed-stream"]).lines().count() == 2
            && list(&["--only", "closed-streams"]).lines().count() == 1
    );
    assert_eq!(list(&["--only", "chroot", "--only", "inotify"]).lines().count(), 2);
    let rows: serde_json::Value = serde_json::from_str(&list(&["--json"])).expect("JSON");
    assert!(rows.as_array().is_some_and(|rows| rows.iter().all(|row| row["control"].is_string())), "{rows}");
    let output = run_with(sandboxd().args(["selftest", "--only", "no-such-attack"]), b"", PATIENCE);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("--list"), "{}", text(&output.stderr));
    if !is_root() {
        return;
    }
    let (report, code) = selftest(&["--only", "chroot"]);
    assert_eq!((names(&report, "pass"), code), (vec!["chroot".to_owned()], Some(0)), "{report:#}");
}

#[test]
fn the_table_and_the_junit_report_tell_the_same() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("selftest.xml");
    let flags = ["--only", "chroot", "--only", "set-user-id-files", "--only", "fork-bomb", "--junit"];
    let mut command = sandboxd();
    command.args(["--cgroup", "none", "selftest", "--rootfs", "host"]).args(flags).arg(&path);
    let output = run_with(&mut command, b"", PATIENCE);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for row in [
        "  pass  chroot",
        "  n/a   set-user-id-files",
        "  FAIL  fork-bomb",
        "weaker: no cgroup",
        "1 attacks stopped, 1 not",
    ] {
        assert!(table.contains(row), "{row}: {table}");
    }
    let junit = parse_junit(&path);
    assert_eq!(junit["attributes"]["tests"], "3");
    assert_eq!(junit["attributes"]["failures"], "1");
    assert_eq!(junit["failures"], serde_json::json!(["fork-bomb"]), "{junit}");
    assert_eq!(junit["skipped"], serde_json::json!(["set-user-id-files"]), "{junit}");

    // Where it cannot be written, that is an error and no silence.
    let missing = directory.path().join("missing/selftest.xml");
    let mut command = sandboxd();
    let output = run_with(command.args(["selftest", "--only", "chroot", "--junit"]).arg(&missing), b"", PATIENCE);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("missing/selftest.xml"), "{}", text(&output.stderr));
}

/// A selftest with a layer left out says which attack was not stopped, and by what it shows.
#[test]
fn an_attack_that_is_not_stopped_is_told() {
    if !is_root() {
        return;
    }
    let flags = ["--without-step", "install_seccomp", "--only", "io-uring", "--only", "sweep-x32", "--only", "chroot"];
    let (report, code) = selftest(&flags);
    assert_eq!(code, Some(1));
    // In the order of the table. Without the filter the missing capability answers chroot with the same errno, but
    // nothing is io_uring's but the filter.
    assert_eq!(
        (names(&report, "pass"), names(&report, "fail")),
        (vec!["chroot".to_owned()], vec!["io-uring".to_owned(), "sweep-x32".to_owned()]),
        "{report:#}"
    );
    let attacks = report["attacks"].as_array().expect("attacks");
    assert!(attacks[1]["problems"].to_string().contains("io_uring: ok instead of ENOSYS"), "{}", attacks[1]);
}

#[test]
fn the_threat_model_describes_every_layer() {
    let text = include_str!("../SECURITY.md");
    for layer in Layer::ALL {
        assert!(text.contains(&format!("\n| **{}** |", layer.word())), "{}", layer.word());
        assert!(table::all().any(|attack| attack.layers.contains(&layer)), "{}: no attack needs it", layer.word());
    }
    assert!(text.contains(&format!("runs {} attacks", table::all().count())));
    assert!(include_str!("../README.md").contains(&format!("# {} attacks", table::all().count())));
}
