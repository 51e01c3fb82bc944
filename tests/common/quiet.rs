//! The service in process and without supervisors: it refuses, and makes no cell.
#![allow(dead_code)] // Each test file is a crate of its own and uses a part of this.

use std::sync::Arc;

use sandboxd::service::handover::{Handover, LanguageState};
use sandboxd::service::{Current, Service};
use sandboxd::words::host::{CgroupKind, Host, NAMESPACES, Privilege};
use sandboxd::words::settings::{Key, LimitCeilings, ServiceSettings};
use sha2::{Digest as _, Sha256};

/// What its operator has to mend.
pub const PROBLEM: &str = "/etc/sandboxd/profiles/a.toml:3: unknown field `nmae`";

/// A key that is its own name.
pub fn key(name: &str, languages: &[&str]) -> Key {
    Key {
        name: name.to_owned(),
        sha256: Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect(),
        rate: None,
        concurrent_max: None,
        languages: languages.iter().map(|language| (*language).to_owned()).collect(),
        greatest: LimitCeilings::default(),
        admin: false,
    }
}

/// A service with these settings and no supervisor; its Python is not there.
pub fn service(settings: ServiceSettings, concurrent_max: usize) -> Arc<Service> {
    Service::new(current(settings), concurrent_max, None)
}

/// The configuration of such a service.
pub fn current(settings: ServiceSettings) -> Current {
    let profile = |name: &str| {
        let file = format!("{}/sandbox-profiles/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        (file.clone(), std::fs::read_to_string(file).unwrap())
    };
    let state = |name: &str, problem: Option<&str>| LanguageState {
        name: name.to_owned(),
        rootfs: "node".to_owned(),
        version: problem.is_none().then(|| "22.1.0".to_owned()),
        problem: problem.map(str::to_owned),
    };
    let host = Host {
        kernel: "6.1".to_owned(),
        privilege: Privilege::Root,
        cgroup: CgroupKind::V2,
        overlay: true,
        landlock_abi: 1,
        seccomp: true,
        seccomp_notify: true,
        namespaces: NAMESPACES.to_vec(),
        speculation_store_bypass: false,
        speculation_indirect_branch: false,
        open_files_hard: 1024,
        cores: 2,
    };
    let handover = Handover {
        settings,
        profiles: ["javascript", "typescript", "python"].map(profile).into(),
        host,
        languages: vec![
            state("javascript", None),
            state("typescript", None),
            state("python", Some("the image python is not built")),
        ],
        problems: vec![PROBLEM.to_owned()],
        concurrent_max: 0,
    };
    Current::new(handover).unwrap()
}
