//! The corpus of `sandboxd selftest`, with a control for every refusal.

use std::collections::BTreeSet;
use std::path::Path;

use sandboxd::selftest::attack::{Control, Section};
use sandboxd::selftest::table;

use super::harness::check;

#[test]
fn attacks_on_files_are_refused() {
    check(Section::Files);
}

#[test]
fn attacks_on_processes_are_refused() {
    check(Section::Processes);
}

#[test]
fn attacks_on_streams_are_refused() {
    check(Section::Streams);
}

#[test]
fn attacks_on_the_kernel_are_refused() {
    check(Section::Kernel);
}

#[test]
fn controls_that_are_tests_exist() {
    let mut names = BTreeSet::new();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for directory in [tests.clone(), tests.join("attacks")] {
        for entry in std::fs::read_dir(directory).expect("the tests are here").flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let functions = text.split("\nfn ").skip(1).filter_map(|piece| piece.split('(').next()).map(str::to_owned);
            names.extend(functions.collect::<Vec<_>>());
        }
    }
    for attack in table::all() {
        if let Control::Test(test) = attack.control {
            assert!(names.contains(test), "{}: no test is called {test}", attack.name);
        }
    }
}
