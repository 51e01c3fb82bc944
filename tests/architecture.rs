//! What the structure of the code promises: the direction of its layers, where `unsafe` is, that every promise in the
//! README names a test that exists, and what licences and duplicates its dependencies bring.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    rust_files(&root().join("src"), &mut found);
    assert!(found.len() > 30, "the sources are where this test looks");
    found
}

/// The layer a source file belongs to: its folder below src, or its own name.
fn layer_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The code of a file without comments and without its unit tests, which may look upwards.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// What each layer may use, beside itself.
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        ("words", vec![]),
        ("plan", vec!["words"]),
        ("rootfs", vec!["words"]),
        ("sandbox", vec!["plan", "words"]),
        ("supervisor", vec!["sandbox", "plan", "words"]),
        ("runner", vec!["supervisor", "sandbox", "plan", "words"]),
        ("history", vec!["words"]),
        ("config", vec!["sandbox", "rootfs", "plan", "words"]),
        ("machine", vec!["config", "runner", "supervisor", "sandbox", "rootfs", "plan", "words"]),
        ("check", vec!["machine", "config", "runner", "supervisor", "sandbox", "rootfs", "plan", "words"]),
        ("selftest", vec!["machine", "config", "runner", "supervisor", "sandbox", "rootfs", "plan", "words"]),
        ("answer", vec!["runner", "supervisor", "plan", "words"]),
        ("service", vec!["answer", "history", "runner", "supervisor", "plan", "sandbox", "words"]),
        ("api", vec!["service", "answer", "history", "runner", "supervisor", "plan", "sandbox", "words"]),
        (
            "daemon",
            vec![
                "api",
                "service",
                "history",
                "machine",
                "config",
                "runner",
                "supervisor",
                "sandbox",
                "rootfs",
                "plan",
                "words",
            ],
        ),
        (
            "cli",
            vec![
                "daemon",
                "check",
                "selftest",
                "api",
                "service",
                "answer",
                "history",
                "machine",
                "config",
                "runner",
                "supervisor",
                "sandbox",
                "rootfs",
                "plan",
                "words",
            ],
        ),
        ("lib", vec![]),
        ("main", vec!["cli"]),
    ])
}

#[test]
fn lower_layers_know_nothing_of_higher_ones() {
    let allowed = allowed();
    let layers: BTreeSet<&str> = allowed.keys().copied().collect();
    for path in sources() {
        let layer = layer_of(&path);
        let may = allowed.get(layer.as_str()).unwrap_or_else(|| panic!("{} is in no known layer", path.display()));
        for used in code(&path).split("crate::").skip(1) {
            let name: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if layers.contains(name.as_str()) && name != layer {
                assert!(may.contains(&name.as_str()), "{}: {layer} uses {name}", path.display());
            }
        }
    }
}

#[test]
fn unsafe_code_is_in_one_module_and_each_use_says_why_it_is_sound() {
    let mut blocks_found = 0;
    for path in sources() {
        let text = code(&path);
        let uses = text.lines().filter(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
        if !path.parent().is_some_and(|directory| directory.ends_with("sandbox/sys")) {
            assert_eq!(uses.collect::<Vec<_>>(), Vec::<&str>::new(), "{}", path.display());
            continue;
        }
        let full = fs::read_to_string(&path).unwrap();
        let blocks = full.matches("unsafe {").count();
        let reasons = full.matches("SAFETY:").count();
        assert!(reasons >= blocks, "{}: {blocks} unsafe blocks, {reasons} reasons", path.display());
        blocks_found += blocks;
    }
    assert!(blocks_found > 20, "{blocks_found}");
}

#[test]
fn nothing_below_the_configuration_reads_the_environment() {
    for path in sources() {
        let layer = layer_of(&path);
        // The builder hands its tools the user's own proxy and mirror settings.
        if ["words", "plan", "sandbox", "supervisor", "runner", "history"].contains(&layer.as_str())
            && !path.ends_with("tests.rs")
        {
            assert!(!code(&path).contains("env::var"), "{} reads the environment", path.display());
        }
    }
}

#[test]
fn the_sandbox_knows_no_event_loop_but_in_one_function() {
    for path in sources().into_iter().filter(|path| layer_of(path) == "sandbox") {
        if !path.parent().is_some_and(|directory| directory.ends_with("sandbox/sys")) {
            assert!(!code(&path).contains("tokio"), "{} uses tokio", path.display());
        }
    }
}

/// Names of all test functions of the project.
fn test_names() -> BTreeSet<String> {
    let mut files = sources();
    rust_files(&root().join("tests"), &mut files);
    let mut names = BTreeSet::new();
    for path in files {
        for piece in fs::read_to_string(path).unwrap().split("fn ").skip(1) {
            names.insert(piece.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

#[test]
fn every_promise_of_the_readme_names_a_test_that_exists() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let table = readme.split("\n## Promises").nth(1).expect("the README has a section Promises");
    let table = table.split("\n## ").next().unwrap();
    let names = test_names();
    let mut promises = 0;
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Promise")) {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let quoted: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!quoted.is_empty() || tests.contains("pending"), "no test holds: {row}");
        for test in quoted {
            assert!(names.contains(test), "no test is called {test}: {row}");
        }
        promises += 1;
    }
    assert!(promises >= 15, "only {promises} promises were found");
}

#[test]
fn dependencies_have_known_licences() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let known =
        ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "Unicode-3.0", "Unlicense", "0BSD"];
    for package in metadata["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none");
        // One alternative of an OR that is known in all its AND parts is enough.
        let accepted = licence.replace('/', " OR ").split(" OR ").any(|choice| {
            choice.trim_matches(['(', ')', ' ']).split(" AND ").all(|part| {
                let part = part.trim_matches(['(', ')', ' ']);
                known.contains(&part) || part == "Apache-2.0 WITH LLVM-exception"
            })
        });
        assert!(accepted, "{} {}: licence {licence}", package["name"], package["version"]);
    }
}

/// Packages that are built in two versions, and why that is borne.
const DUPLICATES: [(&str, &str); 11] = [
    ("bitflags", "cgroups-rs 0.3.4 uses 1.x; its later releases link a D-Bus client into this process"),
    ("nix", "cgroups-rs 0.3.4 uses 0.25"),
    ("thiserror", "cgroups-rs 0.3.4 uses 1.x"),
    ("thiserror-impl", "cgroups-rs 0.3.4 uses 1.x"),
    ("syn", "macros of crates in the middle of moving to 3.x; never linked"),
    ("getrandom", "opentelemetry_sdk's rand 0.9 uses 0.3"),
    ("hashbrown", "governor 0.10 uses 0.16"),
    ("block-buffer", "the WebSocket handshake's SHA-1 is of the generation before sha2 0.11"),
    ("cpufeatures", "as block-buffer"),
    ("crypto-common", "as block-buffer"),
    ("digest", "as block-buffer"),
];

#[test]
fn no_dependency_is_built_twice_without_a_reason() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--duplicates",
            "--depth",
            "0",
            "--edges",
            "normal",
            "--target",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // One version under two sets of features (a build script's and ours) is one version.
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            versions.entry(name.to_owned()).or_default().insert(version.to_owned());
        }
    }
    let found: BTreeSet<String> =
        versions.into_iter().filter(|(_, versions)| versions.len() > 1).map(|(name, _)| name).collect();
    let known: BTreeSet<String> = DUPLICATES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, known, "packages in several versions: see `cargo tree --duplicates`");
}
