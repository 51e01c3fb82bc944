//! The service before what others wrote: three clients of Piston, unchanged, and a fuzzer that takes the OpenAPI document at
//! its word. Each is installed once, at the versions beside it in `tests/clients/`, below cargo's directory for tests.

mod common;
#[allow(dead_code)] // What these tests need of it is to start and to end.
#[path = "serve/harness.rs"]
mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{has_image, nothing_may_be_missing, run_with, text};
use harness::Server;

/// Longest time that a package registry, or a compiler, may take; and a client of three or four requests.
const INSTALL_TIME_MAX: Duration = Duration::from_secs(600);
const CLIENT_TIME_MAX: Duration = Duration::from_secs(120);
/// The fuzzer sends some thousand requests, of which the most run nothing.
const FUZZ_TIME_MAX: Duration = Duration::from_secs(300);

/// Few runs at once, and short ones: the fuzzer asks for whatever may be asked for.
const FUZZED: &str = r#"
[service]
concurrent_max = 2
wall_time_default = "2s"
[service.greatest]
wall_time = "2s"
cpu_time = "2s"
"#;

fn files_of(client: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(client)
}

/// A directory that `install` has filled from what `list` in the client's files names; kept until that changes. `None`, with
/// a word why, where the tools or the registry are missing.
fn installed(client: &str, list: &str, install: impl FnOnce(&Path) -> Command) -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(client);
    let wanted = std::fs::read(files_of(client).join(list)).expect("the list of packages is there");
    let made_for = directory.join("made-for");
    if std::fs::read(&made_for).is_ok_and(|made_for| made_for == wanted) {
        return Some(directory);
    }
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("cargo's directory can be written to");
    let mut command = install(&directory);
    let program = command.get_program().to_string_lossy().into_owned();
    if Command::new(&program).arg("--version").output().is_err() {
        return missing(&format!("{program} is missing (apt-get install npm python3-pip)"));
    }
    let output = run_with(&mut command, b"", INSTALL_TIME_MAX);
    if !output.status.success() {
        return missing(&format!("{command:?}: {}{}", text(&output.stdout), text(&output.stderr)));
    }
    std::fs::write(made_for, wanted).expect("cargo's directory can be written to");
    Some(directory)
}

fn missing<T>(why: &str) -> Option<T> {
    assert!(!nothing_may_be_missing(), "{why}");
    eprintln!("skipped: {why}");
    None
}

/// Python packages, as `requirements.txt` has them: all of them are named there.
fn python_packages(client: &str) -> Option<PathBuf> {
    installed(client, "requirements.txt", |directory| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"]);
        pip.arg(directory).arg("--requirement").arg(files_of(client).join("requirements.txt"));
        pip
    })
}

/// A service with Python and C; `None` where it cannot be.
fn server(config: &str) -> Option<Server> {
    match ["python", "gcc"].into_iter().find(|image| !has_image(image)) {
        Some(image) => missing(&format!("the image {image} is not built (make rootfs)")),
        None => Server::with_config(config),
    }
}

/// Runs a client, which says that all it saw was right.
#[track_caller]
fn passes(command: &mut Command, limit: Duration) -> String {
    let output = run_with(command, b"", limit);
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    said
}

#[test]
fn the_client_piston_client_of_npm_works() {
    let files = files_of("piston-client");
    let packages = installed("piston-client", "package-lock.json", |directory| {
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(files.join(file), directory.join(file)).expect("the file is copied");
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(directory);
        npm
    });
    let (Some(packages), Some(server)) = (packages, server("")) else { return };
    // Node looks for packages beside the file that wants them.
    let check = packages.join("check.js");
    std::fs::copy(files.join("check.js"), &check).expect("the file is copied");
    let said = passes(Command::new("node").arg(check).arg(server.url("")), CLIENT_TIME_MAX);
    assert_eq!(said, "ok: piston-client\n");
}

#[test]
fn the_client_pistonpy_of_pypi_works() {
    let (Some(packages), Some(server)) = (python_packages("pistonpy"), server("")) else { return };
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages).arg(files_of("pistonpy").join("check.py")).arg(server.url(""));
    assert_eq!(passes(&mut python, CLIENT_TIME_MAX), "ok: pistonpy\n");
}

#[test]
#[ignore = "it builds a hundred crates, which takes minutes: make test-clients"]
fn the_client_piston_rs_of_crates_io_works() {
    let files = files_of("piston_rs");
    let build = |directory: &Path| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(files.join("Cargo.toml"));
        cargo.arg("--target-dir").arg(directory);
        cargo
    };
    let Some(target) = installed("piston_rs", "Cargo.lock", build) else { return };
    // What was built for the same lock may be of an older program.
    let rebuilt = run_with(&mut build(&target), b"", INSTALL_TIME_MAX);
    assert!(rebuilt.status.success(), "{}", text(&rebuilt.stderr));
    let Some(server) = server("") else { return };
    let mut client = Command::new(target.join("debug/piston-rs-client"));
    assert_eq!(passes(client.arg(server.url("")), CLIENT_TIME_MAX), "ok: piston_rs\n");
}

#[test]
fn every_answer_is_one_that_the_openapi_document_tells_of() {
    let (Some(packages), Some(server)) = (python_packages("schemathesis"), server(FUZZED)) else { return };
    // It leaves what it found out beside it.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut fuzzer = Command::new("python3");
    fuzzer.current_dir(directory.path()).env("PYTHONPATH", &packages).arg(packages.join("bin/schemathesis"));
    fuzzer.args(["--no-color", "run"]).arg(server.url("/openapi.json"));
    fuzzer.args(["--max-examples", "30", "--seed", "1", "--workers", "1", "--request-timeout", "20"]);
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method";
    fuzzer.args(["--checks", checks, "--continue-on-failure"]);
    let said = passes(&mut fuzzer, FUZZ_TIME_MAX);
    println!("{said}");
    assert!(said.contains("API Operations:") && !said.contains("Tested: 0"), "{said}");
}
