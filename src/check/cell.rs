//! Cells run for `check` alone: what a payload finds around itself, and what its limits do to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reading::{QUESTIONS, Reading, isolation};
use super::{CELLS_WANTED, Group, Layer, State, cgroup_remedy, is_content_without_cgroup};
use crate::config::Config;
use crate::machine::{Machine, MachineError};
use crate::plan::HOST_IMAGE;
use crate::plan::{CellPlan, Surroundings, plan};
use crate::runner::{self, StepResult};
use crate::sandbox::cell::CellError;
use crate::sandbox::cgroup::Kind;
use crate::supervisor::Supervisor;
use crate::words::host::Privilege;
use crate::words::limits::LimitsRequest;
use crate::words::profile::Profiles;
use crate::words::request::{Program, Request};
use crate::words::verdict::Status;

/// Why there is no reading: the row of the sequence (or what came before it), and the remedy.
pub(super) struct Obstacle {
    pub(super) step: String,
    pub(super) message: String,
    pub(super) remedy: String,
}

impl From<CellError> for Obstacle {
    fn from(error: CellError) -> Obstacle {
        let remedy = error.errno().and_then(runner::remedy).unwrap_or("run with --log sandboxd=trace to see each step");
        Obstacle { step: error.step.to_owned(), message: error.to_string(), remedy: remedy.to_owned() }
    }
}

impl From<MachineError> for Obstacle {
    fn from(error: MachineError) -> Obstacle {
        let step = if matches!(error, MachineError::Stage { .. }) { "stage" } else { "supervisor" };
        let remedy = error.hint().unwrap_or_else(|| "run with --log sandboxd=trace to see each step".to_owned());
        Obstacle { step: step.to_owned(), message: super::chain(&error), remedy }
    }
}

pub(super) fn layers(config: &Config, machine: &mut Machine) -> anyhow::Result<Vec<Layer>> {
    let runtime = runner::event_loop()?;
    let mut layers = Vec::new();
    let mut supervisor = match machine.supervisor() {
        Ok(supervisor) => supervisor,
        Err(error) => {
            let obstacle = Obstacle::from(error);
            layers.push(Layer::missing(Group::Cell, "supervisor", &obstacle.message, &obstacle.remedy).required());
            layers.extend(isolation(&machine.host, &Err(obstacle)));
            return Ok(layers);
        }
    };
    layers.push(leftovers(&supervisor));
    let mut trial = Trial { machine, supervisor: &mut supervisor, runtime: &runtime };
    let first = trial.run(HOST_IMAGE, QUESTIONS, &LimitsRequest::default());
    let reading = first.map(|result| (Reading::parse(&String::from_utf8_lossy(&result.output.stdout)), result));
    layers.push(cell_row("host", &trial.run(HOST_IMAGE, "exec /usr/bin/true", &LimitsRequest::default())));
    layers.extend(trial.images());
    layers.extend(trial.resources(config, &reading));
    layers.extend(trial.descriptors());
    layers.extend(isolation(&machine.host, &reading.map(|(reading, result)| (reading, denials(&result)))));
    for error in supervisor.close() {
        let remedy = error.hint().unwrap_or_else(|| "it is swept at the next start".to_owned());
        layers.push(Layer::weaker(Group::Cell, "cleanup", super::chain(&error), remedy));
    }
    Ok(layers)
}

fn denials(result: &StepResult) -> Vec<String> {
    result.verdict.outcome.denied_syscalls.iter().map(|denied| denied.name.clone()).collect()
}

struct Trial<'a> {
    machine: &'a Machine,
    supervisor: &'a mut Supervisor,
    runtime: &'a tokio::runtime::Runtime,
}

impl Trial<'_> {
    fn plan(&self, rootfs: &str, script: &str, limits: &LimitsRequest) -> CellPlan {
        let words = ["/bin/sh", "-c", script].map(|word| word.as_bytes().to_vec());
        let request =
            Request { program: Program::Command(words.to_vec()), limits: limits.clone(), ..Request::default() };
        let profiles = Profiles::default();
        let around = Surroundings { profiles: &profiles, host: &self.machine.host, rootfs, left_out: &[] };
        plan(&request, &around).expect("check's own requests are sound").run
    }

    fn run(&mut self, rootfs: &str, script: &str, limits: &LimitsRequest) -> Result<StepResult, Obstacle> {
        self.machine.stage(self.supervisor, rootfs)?;
        let plan = self.plan(rootfs, script, limits);
        Ok(self.runtime.block_on(runner::ask(self.supervisor, &plan))?)
    }

    /// A cell in each image that is built.
    fn images(&mut self) -> Vec<Layer> {
        let mut layers = Vec::new();
        let summaries = self.machine.store().list().unwrap_or_default();
        let images = summaries.into_iter().filter_map(|summary| self.machine.image(&summary.name).ok());
        for image in images.collect::<Vec<_>>() {
            if self.machine.is_mountable(&image) {
                let result = self.run(&image.name, "exec /usr/bin/true", &LimitsRequest::default());
                layers.push(Layer { group: Group::Images, ..cell_row(&image.name, &result) });
                continue;
            }
            let (who, remedy) = match self.machine.host.privilege {
                Privilege::Rootless => ("an ordinary user", "run as root, or build it"),
                Privilege::Root => ("this kernel", "load the module erofs, or build it"),
            };
            let detail = format!("{who} cannot mount its erofs layers: runs take this machine's own programs instead");
            let remedy = format!("{remedy} with `sandboxd rootfs build --force --format directory {}`", image.name);
            layers.push(Layer::weaker(Group::Images, format!("cell of image {}", image.name), detail, remedy));
        }
        if !layers.is_empty() && layers.iter().all(|layer| layer.state == State::Enforced) {
            layers.push(Layer::enforced(Group::Images, "image mounts", mounting(self.machine.store().directory())));
        }
        layers
    }

    /// How many cells this process's limit of descriptors allows; what one holds is counted on a prepared one.
    fn descriptors(&mut self) -> Option<Layer> {
        /// The near ends of a run's pipes and what the event loop watches, beside what the cell itself holds.
        const STREAMS: usize = 10;
        let open = || std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count());
        let before = open();
        let plan = self.plan(HOST_IMAGE, "exec /usr/bin/true", &LimitsRequest::default());
        let cell = self.supervisor.prepare(&plan).ok()?;
        let each = (open().saturating_sub(before) + STREAMS).max(1) as u64;
        drop(cell);
        let hard = self.machine.host.open_files_hard;
        let cells = hard.saturating_sub(before as u64) / each;
        let detail = format!("hard limit {hard}: room for {cells} cells of {each} each");
        Some(match cells >= CELLS_WANTED {
            true => Layer::enforced(Group::Capacity, "descriptors", detail),
            false => {
                let remedy =
                    format!("raise it to {} (`ulimit -Hn`, LimitNOFILE= in systemd)", CELLS_WANTED * each + 100);
                Layer::weaker(Group::Capacity, "descriptors", detail, remedy)
            }
        })
    }

    /// What limits a cell as a whole, each tried on a cell that goes past it.
    fn resources(&mut self, config: &Config, reading: &Result<(Reading, StepResult), Obstacle>) -> Vec<Layer> {
        let probe = &self.machine.cgroup;
        if probe.kind == Kind::None {
            // Otherwise the row that says why there is none stands already.
            let content = is_content_without_cgroup(config, self.machine);
            let detail = "none: memory, CPU time and processes are polled, and limited for each process";
            let chosen = if config.cgroup == crate::sandbox::cgroup::Choice::None {
                "let `cgroup` be auto: its value `none` was chosen by name"
            } else {
                "run as root, or have a subtree delegated to this user (`systemd-run --user --scope -p Delegate=yes`)"
            };
            return content.then(|| Layer::weaker(Group::Resources, "cgroup", detail, chosen)).into_iter().collect();
        }
        let places = probe
            .hierarchies
            .iter()
            .map(|hierarchy| format!("{} under {}", hierarchy.controllers.join(","), hierarchy.directory.display()))
            .collect::<Vec<_>>()
            .join("; ");
        let detail = format!("{}: {places}", probe.kind.as_str());
        let mut layers = vec![Layer::enforced(Group::Resources, "cgroup", detail).required()];
        let lacking = |word: &str| probe.missing.iter().find(|missing| missing.what.contains(word)).cloned();
        let own: Vec<PathBuf> = probe
            .hierarchies
            .iter()
            .map(|hierarchy| hierarchy.directory.join(format!("sandboxd.{}", std::process::id())))
            .collect();
        let group_has = |file: &str| own.iter().any(|directory| directory.join(file).exists());
        let (has_peak, has_kill) = (group_has("pids.peak"), group_has("cgroup.kill"));
        let cpu_time = match reading {
            Ok((_, result)) if !result.verdict.outcome.cpu_time.is_zero() => {
                let used = result.verdict.outcome.cpu_time.as_secs_f64() * 1e3;
                let detail = format!("counted for the whole cell, dead processes included ({used:.1} ms just now)");
                Layer::enforced(Group::Resources, "cpu time", detail)
            }
            Ok(_) => Layer::missing(Group::Resources, "cpu time", "the cell's clock stood still", cgroup_remedy()),
            Err(obstacle) => Layer::missing(Group::Resources, "cpu time", &obstacle.message, &obstacle.remedy),
        };
        layers.push(cpu_time.required());
        layers.extend([self.memory(), self.process_limit()]);
        layers.push(match lacking("swap") {
            Some(missing) => Layer::weaker(Group::Resources, "swap", missing.what, missing.remedy),
            None => Layer::enforced(Group::Resources, "swap", "a cell's memory is not swapped out"),
        });
        layers.push(match lacking("cpu rates") {
            Some(missing) => Layer::weaker(Group::Resources, "cpu rate", missing.what, missing.remedy),
            None => Layer::enforced(Group::Resources, "cpu rate", "a quota for the whole cell"),
        });
        layers.push(match has_peak {
            true => Layer::enforced(Group::Resources, "process peak", "counted by the kernel (pids.peak)"),
            false => {
                let detail = "this kernel does not count it: verdicts say 1";
                Layer::weaker(Group::Resources, "process peak", detail, "use Linux 6.1 or later")
            }
        });
        let kill = match has_kill {
            true => "by cgroup.kill, and by the death of the cell's init",
            false => "by the death of the cell's init, which ends its pid namespace",
        };
        layers.push(Layer::enforced(Group::Resources, "kill", kill));
        layers
    }

    /// A shell whose variable doubles until it is stopped.
    fn memory(&mut self) -> Layer {
        const LIMIT: u64 = 24 << 20;
        let limits = LimitsRequest {
            memory_bytes: Some(LIMIT),
            wall_time: Some(Duration::from_secs(10)),
            ..LimitsRequest::default()
        };
        let row = "memory limit";
        match self.run(HOST_IMAGE, "x=aaaaaaaa; while :; do x=$x$x; done", &limits) {
            Err(obstacle) => Layer::missing(Group::Resources, row, obstacle.message, obstacle.remedy),
            Ok(result) if result.verdict.status == Status::MemoryExceeded => {
                let how = match self.machine.cgroup.kind {
                    Kind::V2 => "memory.oom.group",
                    _ => "the out-of-memory event and a kill",
                };
                let detail = format!("a cell that went past its 24M was ended as a whole by {how}");
                Layer::enforced(Group::Resources, row, detail)
            }
            Ok(result) => {
                let outcome = &result.verdict.outcome;
                let detail = format!(
                    "a cell limited to 24M got {:.0} MB and ended as {}",
                    outcome.memory_peak_bytes as f64 / 1e6,
                    result.verdict.status.word()
                );
                Layer::missing(Group::Resources, row, detail, "look at the memory controller of this kernel")
            }
        }
        .required()
    }

    /// A shell that starts more processes than it may have.
    fn process_limit(&mut self) -> Layer {
        let limits =
            LimitsRequest { processes: Some(4), wall_time: Some(Duration::from_secs(2)), ..LimitsRequest::default() };
        let row = "process limit";
        let script = "for i in 1 2 3 4 5 6; do sleep 1 & done";
        match self.run(HOST_IMAGE, script, &limits) {
            Err(obstacle) => Layer::missing(Group::Resources, row, obstacle.message, obstacle.remedy),
            Ok(result) if result.verdict.outcome.process_limit_hits > 0 => {
                Layer::enforced(Group::Resources, row, "a cell that may have 4 processes was refused a fifth")
            }
            Ok(_) => {
                let detail = "a cell that may have 4 processes started more";
                Layer::missing(Group::Resources, row, detail, "look at the pids controller of this kernel")
            }
        }
        .required()
    }
}

fn leftovers(supervisor: &Supervisor) -> Layer {
    let swept = supervisor.swept();
    let removed = swept.removed.len();
    match swept.errors.first() {
        Some(error) => {
            let detail = format!("groups of dead supervisors could not be removed: {}", super::chain(error));
            let remedy = error.hint().unwrap_or_else(|| "remove the groups by hand".to_owned());
            Layer::weaker(Group::Capacity, "leftovers", detail, remedy)
        }
        None if removed > 0 => {
            Layer::enforced(Group::Capacity, "leftovers", format!("{removed} groups of dead supervisors were removed"))
        }
        None => Layer::enforced(Group::Capacity, "leftovers", "none of dead supervisors"),
    }
}

/// The proof of the whole: a program has run with every layer on.
fn cell_row(image: &str, result: &Result<StepResult, Obstacle>) -> Layer {
    let row = format!("cell of image {image}");
    match result {
        Err(obstacle) => Layer::missing(Group::Cell, row, &obstacle.message, &obstacle.remedy),
        Ok(result) if result.verdict.status == Status::Ok => {
            let milliseconds = result.verdict.outcome.wall_time.as_secs_f64() * 1e3;
            Layer::enforced(Group::Cell, row, format!("ran /usr/bin/true with every layer on ({milliseconds:.1} ms)"))
        }
        Ok(result) => {
            let detail = format!("/usr/bin/true ended as {}: {}", result.verdict.status.word(), result.verdict.message);
            let remedy = match image {
                HOST_IMAGE => "see whether this machine's /usr/bin/true works by itself".to_owned(),
                image => format!("run `sandboxd rootfs verify {image}`"),
            };
            Layer::missing(Group::Cell, row, detail, remedy)
        }
    }
    .required()
}

/// How the layers that are mounted now came to be.
fn mounting(store: &Path) -> String {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backing = |device: std::fs::DirEntry| std::fs::read_to_string(device.path().join("loop/backing_file")).ok();
    let by_loop = devices.filter_map(backing).any(|file| Path::new(file.trim()).starts_with(store));
    match by_loop {
        true => "erofs by loop devices, stacked by overlay".to_owned(),
        false => "straight from their files (or directories), stacked by overlay".to_owned(),
    }
}
