//! `sandboxd selftest`: the field's attacks, tried on this host, with this configuration, through the path of any run.
//!
//! The corpus is data ([`table`]): what each attack tries, which layers must stop it, how it must end. Its programs are
//! in `programs/`, compiled by `build.rs` into one static file that the binary carries, so that the base image (or the
//! machine's own programs) is all an operator needs. What a sandbox refuses must be possible elsewhere, or the refusal
//! proves nothing: each row names its control, and `tests/attacks` and `tests/selftest.rs` try them all.
//!
//! Attacks run one after the other in cells of their own. None is let loose where no layer of the host would hold it:
//! such a row fails without being tried.

pub mod attack;
mod bait;
pub mod golden;
mod left;
pub mod table;
mod trial;

use std::time::{Duration, Instant};

use attack::Attack;

use crate::config::Config;
use crate::machine::Machine;
use crate::plan::HOST_IMAGE;
use crate::runner;
use crate::words::causes::chain;
use crate::words::host::Host;

/// All attack programs in one static file: `attack [--only=|ATTEMPT|…|] PROGRAM [ARGUMENTS…]`.
pub static PROGRAMS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/attack"));

/// The image that is taken when none is named and it is built and mountable.
const BASE_IMAGE: &str = "base";

/// What to try, and how.
#[derive(Debug, Default)]
pub struct Options {
    /// Names, or parts of names; none means all.
    pub only: Vec<String>,
    pub rootfs: Option<String>,
    /// Steps of the sequence that a test's control leaves out; empty in a release build.
    pub left_out: Vec<String>,
    /// Namespaces that a test's control shares with the supervisor; empty in a release build.
    pub without_namespaces: Vec<String>,
}

/// What came of one attack.
#[derive(Debug, Clone)]
pub struct Finding {
    pub attack: &'static Attack,
    pub mark: Mark,
    /// The first layer of its row that this host has; `None` where it has none of them, or nothing was to be stopped.
    pub stopped_by: Option<attack::Layer>,
    /// What the verdict and the program's own answers show, in a few words.
    pub evidence: String,
    /// Each attempt with its end.
    pub attempts: Vec<(String, String)>,
    pub took: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    Pass,
    /// With all that is wrong.
    Fail(Vec<String>),
    /// With the reason why this is no attack here.
    NotApplicable(&'static str),
}

/// Everything that was found.
#[derive(Debug)]
pub struct Report {
    pub host: Host,
    pub rootfs: String,
    pub findings: Vec<Finding>,
    /// What the whole left on the host, after everything was closed.
    pub left: Vec<String>,
    pub took: Duration,
}

impl Report {
    pub fn passed(&self) -> usize {
        self.findings.iter().filter(|finding| finding.mark == Mark::Pass).count()
    }

    pub fn failed(&self) -> usize {
        self.findings.iter().filter(|finding| matches!(finding.mark, Mark::Fail(_))).count()
    }

    pub fn not_applicable(&self) -> usize {
        self.findings.len() - self.passed() - self.failed()
    }

    pub fn attempts(&self) -> usize {
        self.findings.iter().map(|finding| finding.attempts.len()).sum()
    }

    /// Whether every attack was stopped and nothing is left over.
    pub fn is_ok(&self) -> bool {
        self.failed() == 0 && self.left.is_empty()
    }
}

/// The attacks that `only` names, in the order of the table. A whole name means that attack alone.
pub fn select(only: &[String]) -> Vec<&'static Attack> {
    let is_name = |part: &str| table::all().any(|attack| attack.name == part);
    let names: Vec<(&str, bool)> = only.iter().map(|part| (part.as_str(), is_name(part))).collect();
    let matches = |attack: &&Attack| {
        names.iter().any(|(part, whole)| if *whole { attack.name == *part } else { attack.name.contains(part) })
    };
    table::all().filter(|attack| only.is_empty() || matches(attack)).collect()
}

/// Tries the selected attacks; `tell` hears of each as it is done. Must be called while this process has one thread: it
/// clones.
///
/// # Errors
/// What keeps any program from being run here: no usable cgroup layout, no image, no descriptors. That an attack's own
/// cell fails is a finding.
pub fn run(config: &Config, options: &Options, mut tell: impl FnMut(&Finding)) -> anyhow::Result<Report> {
    let started = Instant::now();
    let runtime = runner::event_loop()?;
    let before = left::Snapshot::take();
    let mut machine = Machine::look(config)?;
    let rootfs = choose_image(&machine, options.rootfs.as_deref())?;
    let bait = bait::Bait::lay()?;
    let mut supervisor = machine.supervisor()?;
    machine.stage(&mut supervisor, &rootfs)?;
    let mut findings = Vec::new();
    let trial = trial::Trial { machine: &machine, rootfs: &rootfs, options, bait: &bait, runtime: &runtime };
    let greeted = trial.greet(&mut supervisor);
    if greeted.is_ok() {
        for attack in select(&options.only) {
            let finding = trial.attempt(&mut supervisor, attack);
            tell(&finding);
            findings.push(finding);
        }
    }
    let mut left: Vec<String> = supervisor.close().iter().map(|error| chain(error)).collect();
    drop(bait);
    greeted?;
    left.extend(before.left());
    Ok(Report { host: machine.host, rootfs, findings, left, took: started.elapsed() })
}

/// The image asked for, else the base image where it can be had, else this machine's own programs.
fn choose_image(machine: &Machine, asked: Option<&str>) -> anyhow::Result<String> {
    match machine.choose_rootfs(asked, Some(BASE_IMAGE)) {
        Ok(name) => Ok(name),
        Err(_) if asked.is_none() => Ok(HOST_IMAGE.to_owned()),
        Err(error) => Err(error.into()),
    }
}
