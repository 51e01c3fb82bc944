//! Fails each step of the sequence and each cgroup operation once: the run must say which one, exit with 125, and leave
//! nothing behind.
//!
//! The fault points exist in debug builds alone, and so do these tests.
#![cfg(debug_assertions)]

mod common;

use nix::errno::Errno;

use common::{Running, is_root, run_command, source, text};
use sandboxd::sandbox::sequence::SEQUENCE;

/// What a broken disk, a machine without room, a signal and a forbidden call look like.
const ERRNOS: [Errno; 7] =
    [Errno::EIO, Errno::ENOMEM, Errno::EMFILE, Errno::EAGAIN, Errno::ENOSPC, Errno::EINTR, Errno::EACCES];

/// Those of them that are tried of the `index`-th thing: all by `make faults`, else a few, others of the next.
fn errnos_of(index: usize) -> impl Iterator<Item = Errno> {
    let tried = if std::env::var_os("FAULT_STRIDE").is_some() { ERRNOS.len() } else { 3 };
    ERRNOS.into_iter().cycle().skip(index * tried % ERRNOS.len()).take(tried)
}

/// Steps that a plan on this machine leaves out, as its dry run tells.
fn left_out(flags: &[&str]) -> Vec<String> {
    let output = common::run(&[&["--rootfs", "host", "--dry-run"], flags].concat());
    let stdout = text(&output.stdout);
    let out = stdout.lines().filter(|line| !line.starts_with(' ') && line.ends_with(" left out"));
    out.filter_map(|line| Some(line.split_whitespace().nth(1)?.to_owned())).collect()
}

#[test]
fn any_step_may_fail_and_is_named_and_nothing_is_left() {
    if !is_root() {
        return;
    }
    // A compile step, because only that has its work directory handed over; it is where the fault strikes.
    let profile = "name = \"copy\"\nextensions = [\"copy\"]\nrootfs = \"base\"\nsource = \"main.copy\"\n\
                   [version]\ncommand = [\"true\"]\n[compile]\ncommand = [\"cp\", \"{source}\", \"out\"]\nartifacts = [\"out\"]\n\
                   [run]\ncommand = [\"cat\", \"out\"]\n";
    let (_directory, profile) = source("copy.toml", profile);
    let (_directory, program) = source("main.copy", "hello\n");
    let flags = ["--profile", profile.to_str().unwrap(), program.to_str().unwrap()];
    let control = Running::start(run_command(&["--rootfs", "host"]).args(flags)).finish();
    assert_eq!(
        (control.status.code(), text(&control.stdout).as_str()),
        (Some(0), "hello\n"),
        "{}",
        text(&control.stderr)
    );

    let left_out = left_out(&flags);
    for (index, step) in SEQUENCE.iter().enumerate() {
        if left_out.contains(&step.name.to_owned()) {
            println!("{}: left out on this machine", step.name);
            continue;
        }
        for errno in errnos_of(index) {
            let fail = format!("step.{}={}", step.name, errno as i32);
            let output = Running::start(run_command(&["--rootfs", "host", "--fail", &fail]).args(flags)).finish();
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(125), "{fail}: {stderr}");
            assert!(
                stderr.lines().any(|line| line.starts_with(&format!("error: {}: ", step.name))),
                "{fail}: {stderr}"
            );
            assert!(!stderr.contains("panicked") && !stderr.contains("left over"), "{fail}: {stderr}");
            assert_eq!(text(&output.stdout), "", "{fail}: nothing of the program is seen");
        }
    }
}

#[test]
fn any_cgroup_operation_may_fail_and_nothing_is_left() {
    if !is_root() {
        return;
    }
    let (mut refused, mut told) = (0, 0);
    let mut tried = 0;
    for (pass, errno) in (0..OPERATIONS_MAX).flat_map(|pass| errnos_of(pass).map(move |errno| (pass, errno))) {
        tried += 1;
        let fail = format!("cgroup+{pass}={}", errno as i32);
        let mut command = run_command(&["--rootfs", "host", "--fail", &fail, "--", "echo", "hello"]);
        let output = Running::start(&mut command).finish();
        let stderr = text(&output.stderr);
        assert!(!stderr.contains("panicked"), "{fail}: {stderr}");
        match output.status.code() {
            Some(125) => {
                let error = stderr.lines().find(|line| line.starts_with("error: "));
                let error = error.unwrap_or_else(|| panic!("{fail}: {stderr}"));
                assert!(
                    error.contains("/sys/fs/cgroup/") || error.contains("/proc/"),
                    "{fail}: the file is named: {stderr}"
                );
                refused += 1;
            }
            Some(0) => {
                assert_eq!(text(&output.stdout), "hello\n", "{fail}");
                told += u32::from(stderr.starts_with("warning: left over: "));
            }
            other => panic!("{fail}: {other:?} {stderr}"),
        }
    }
    println!("{refused} refused the run, {told} were told of after it");
    // On v2 a cell costs fewer operations than on v1; none of either may stay without effect.
    assert!(refused * OPERATIONS_MAX >= 15 * tried, "{refused} of {tried}");
}

/// More operations than one run makes, the sweep of what others left included; a fault beyond the last never strikes.
const OPERATIONS_MAX: usize = 90;
