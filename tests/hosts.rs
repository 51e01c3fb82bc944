//! Other kinds of hosts than the one the tests run on: pure cgroup v2 and a Fly machine, under User Mode Linux; Debian with
//! systemd, in QEMU.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sandboxd::config::setting::Environment;
use sandboxd::config::{Config, Flags, ServiceFlags};
use sandboxd::words::settings::Listen;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

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
    let status = Command::new(root().join("tests/vm/run")).current_dir(root()).status().unwrap();
    assert!(status.success(), "{status}: the lines of FAIL above say what is wrong");
}

/// What the simulated Fly machine found out: lines of a scenario, a word, and what was seen.
struct Findings(String);

impl Findings {
    #[track_caller]
    fn all(&self, scenario: &str, word: &str) -> Vec<&str> {
        let start = format!("{scenario} {word}");
        let found: Vec<_> = self.0.lines().filter_map(|line| line.strip_prefix(&start)).map(str::trim).collect();
        assert!(!found.is_empty(), "nothing was found out about {start}: {}", self.0);
        found
    }

    #[track_caller]
    fn assert(&self, scenario: &str, word: &str, expected: &[&str]) {
        assert_eq!(self.all(scenario, word), expected, "{scenario} {word}: {}", self.0);
    }
}

/// The image's tree as the Dockerfile's last stage makes it, booted as Fly's init does, with its cgroup mounts.
#[test]
fn a_fly_machine_serves_with_its_cgroups_as_they_are_and_rebound() {
    if !common::is_root() || !common::has_uml() {
        return;
    }
    // User Mode Linux has a /tmp of its own.
    std::fs::create_dir_all(root().join("target/fly")).unwrap();
    let directory = tempfile::tempdir_in(root().join("target/fly")).unwrap();
    let tree = directory.path().join("tree");
    let mut image = Command::new(root().join("tests/fly/image"));
    image.arg(env!("CARGO_BIN_EXE_sandboxd")).arg(&tree).current_dir(root());
    let output = common::run_with(&mut image, b"", Duration::from_secs(300));
    assert!(output.status.success(), "{}", common::text(&output.stderr));
    let Some(output) = common::run_under_v2(&format!("exec tests/fly/machine {}", tree.display())) else { return };
    let found = Findings(common::text(&output.stdout));

    for (scenario, layout) in [("as-is", "hybrid"), ("rebind", "v2")] {
        found.assert(scenario, "ready", &["200"]);
        found.assert(scenario, "alive", &["200"]);
        let runs = found.all(scenario, "run");
        assert_eq!(runs.len(), 2, "with a key given by its hash, and with one in plain");
        for run in runs {
            let answer = run.strip_prefix("200 ").unwrap_or_else(|| panic!("{run}"));
            let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
            assert_eq!(answer["status"], "ok", "{answer}");
            assert!(answer["stdout"].as_str().unwrap().starts_with("hello\n"), "{answer}");
            assert_eq!(answer["enforcement"]["cgroup"], layout, "{answer}");
            assert_eq!(answer["enforcement"]["rootfs"], "base", "{answer}");
        }
        // Its own address of whoever is not the proxy, and of the proxy what it says.
        found.assert(scenario, "refused", &["401"]);
        found.assert(scenario, "told", &["address=127.0.0.1", "address=203.0.113.9"]);
        found.assert(scenario, "secrets", &[""]);
        found.assert(scenario, "files", &["600 0 /run/sandboxd/config.toml 600 0 /run/sandboxd/key"]);
        found.assert(scenario, "descriptors", &["65536 65536"]);
        // Ended by SIGTERM, in peace.
        found.assert(scenario, "ended", &["0"]);
        found.assert(scenario, "left", &[""]);
    }
    found.assert("as-is", "mounts", &["unchanged"]);

    found.assert("in-use", "ended", &["125", "125"]);
    let told = found.all("in-use", "log");
    for group in ["/sys/fs/cgroup/memory/somebody", "/sys/fs/cgroup/pids/.hidden"] {
        assert!(told.iter().any(|line| line.contains(group) && line.contains("; hint: ")), "{told:?}");
    }
    found.assert("in-use", "mounts", &["unchanged", "unchanged"]);
    found.assert("held", "ended", &["125"]);
    found.assert("held", "mounts", &["unchanged"]);
    found.assert("slip", "ended", &["125"]);

    found.assert("again", "ended", &["0"]);
    found.assert("again", "mounts", &["unchanged"]);
    found.assert("again", "places", &["/sys/fs/cgroup/unified"]);
}

#[test]
fn what_the_files_for_fly_say_is_true_of_the_program() {
    let fly: toml::Table = read("examples/fly/fly.toml").parse().unwrap();
    let path = root().join("examples/fly/config.toml");
    let environment = Environment::from([("SANDBOXD_KEY", "sbx_a-key-that-is-long-enough")]);
    let config = Config::load_from(&Flags { config: Some(path), ..Flags::default() }, &environment).unwrap();
    let service = config.service_from(&ServiceFlags::default(), &environment).unwrap();
    assert_eq!(service.warnings, [] as [String; 0]);
    let settings = service.settings;
    let number = |value: &toml::Value| value.as_integer().unwrap();

    let http = &fly["http_service"];
    let [Listen::Tcp(address)] = settings.listen.as_slice() else { panic!("{:?}", settings.listen) };
    assert_eq!(number(&http["internal_port"]), i64::from(address.port()));
    assert_eq!(number(&fly["checks"]["alive"]["port"]), i64::from(address.port()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let document = runtime.block_on(sandboxd::api::openapi::document()).0;
    let paths = serde_json::to_value(document).unwrap()["paths"].clone();
    for path in [&http["checks"][0]["path"], &fly["checks"]["alive"]["path"]] {
        assert!(paths[path.as_str().unwrap()]["get"].is_object(), "there is no {path}");
    }
    let (running, waiting) = (i64::from(settings.concurrent_max), i64::from(settings.queue_max));
    assert!(running > 0);
    assert_eq!(number(&http["concurrency"]["soft_limit"]), running);
    assert_eq!(number(&http["concurrency"]["hard_limit"]), running + waiting);

    // What the parent takes at most after the drain time, by its own constants.
    let parent = read("src/daemon/parent.rs");
    let seconds = |name: &str| -> u64 {
        let after = parent.split(&format!("const {name}: Duration = Duration::from_secs(")).nth(1).expect(name);
        after.split(')').next().unwrap().parse().unwrap()
    };
    let ending = settings.drain_time_max.as_secs() + seconds("DRAIN_GRACE") + seconds("LEAVE_TIME_MAX");
    assert!(number(&fly["kill_timeout"]) >= ending as i64, "ending may take {ending} s");
    assert_eq!(fly["kill_signal"].as_str(), Some("SIGTERM"));

    // The volume must not hide the images.
    let volume = Path::new(fly["mounts"][0]["destination"].as_str().unwrap());
    assert!(settings.state_dir.starts_with(volume) && !config.rootfs_dir.starts_with(volume));
    let entrypoint = read("examples/fly/entrypoint");
    assert_eq!(fly["env"]["SANDBOXD_FLY_CGROUP"].as_str(), Some("as-is"));
    assert!(entrypoint.contains("${SANDBOXD_FLY_CGROUP:-as-is}"));
}

#[test]
fn the_dockerfile_names_what_exists() {
    let dockerfile = read("examples/fly/Dockerfile");
    let mut targets = Vec::new();
    let mut stages = Vec::new();
    for line in dockerfile.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["FROM", image, rest @ ..] => {
                if let Some(tag) = image.strip_prefix("rust:") {
                    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
                    let version = manifest["package"]["rust-version"].as_str().unwrap();
                    assert_eq!(tag.split('-').next(), Some(version), "the toolchain is that of Cargo.toml");
                }
                stages.extend(rest.get(1).map(|name| format!("--from={name}")));
            }
            ["COPY", from, _, target] => {
                assert!(stages.iter().any(|stage| stage == from), "{line}: there is no such stage");
                targets.push(*target);
            }
            ["COPY", source, target] => {
                assert!(root().join(source).exists(), "{line}: there is no such file");
                targets.push(target);
            }
            _ => {}
        }
    }
    for path in ["/usr/lib/sandboxd/fly-entrypoint", "/usr/lib/sandboxd/rootfs", "/etc/sandboxd/config.toml"] {
        assert!(targets.contains(&path), "nothing is copied to {path}");
    }
    assert!(dockerfile.contains("ENTRYPOINT [\"/usr/lib/sandboxd/fly-entrypoint\"]"));
    let images = dockerfile.split("ARG IMAGES=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    for image in images.split(' ') {
        assert!(root().join(format!("rootfs/{image}.toml")).exists(), "there is no recipe for {image}");
    }
    let ignored = read(".dockerignore");
    assert!(ignored.lines().any(|line| line == "target"), "the context would be gigabytes");
}
