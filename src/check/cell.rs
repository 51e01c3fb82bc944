//! Cells run for `check` alone: what a payload finds around itself, and what its limits do to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CELLS_WANTED, Group, Layer, State, cgroup_remedy, is_content_without_cgroup};
use crate::config::Config;
use crate::machine::{HOST_IMAGE, Machine, MachineError};
use crate::plan::{CellPlan, Surroundings, plan};
use crate::runner::{self, StepResult};
use crate::sandbox::cell::CellError;
use crate::sandbox::cgroup::Kind;
use crate::sandbox::sequence::SEQUENCE;
use crate::supervisor::Supervisor;
use crate::words::host::{Host, NAMESPACES, Privilege};
use crate::words::limits::LimitsRequest;
use crate::words::profile::Profiles;
use crate::words::request::{Program, Request};
use crate::words::verdict::Status;

/// What the payload reads; each answer follows a line `@NAME`. It also tries what must fail.
const QUESTIONS: &str = r"exec 2>&1
echo @status; cat /proc/self/status
echo @mounts; cat /proc/self/mountinfo
echo @groups; cat /proc/self/cgroup
echo @ids; cat /proc/self/uid_map
echo @limits; cat /proc/self/limits
echo @links; cat /proc/self/net/dev
echo @descriptors; for f in /proc/self/fd/*; do echo $f; done
echo @namespaces; for n in user pid mnt net ipc uts cgroup; do echo $n $(readlink /proc/self/ns/$n); done
echo @write; (: >/sandboxd-check)
echo @unshare; unshare --user /bin/true
echo @tcp; [ ! -x /bin/bash ] || /bin/bash -c ': <>/dev/tcp/127.0.0.1/9'
echo @end
";

/// The answers, by question.
struct Reading(BTreeMap<String, String>);

impl Reading {
    fn parse(text: &str) -> Reading {
        let sections = text.split("\n@").map(|section| section.trim_start_matches('@'));
        let pairs = sections.map(|section| section.split_once('\n').unwrap_or((section, "")));
        Reading(pairs.map(|(name, answer)| (name.to_owned(), answer.to_owned())).collect())
    }

    fn section(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A field of /proc/PID/status.
    fn status(&self, field: &str) -> &str {
        let find = |line: &'_ str| line.strip_prefix(field).and_then(|rest| rest.strip_prefix(':')).is_some();
        let line = self.section("status").lines().find(|line| find(line)).unwrap_or("");
        line.split_once(':').map_or("", |(_, value)| value.trim())
    }

    /// The options, file system and source of what is mounted at `target`: those of the mount, then the file system's.
    fn mount(&self, target: &str) -> Option<(String, String)> {
        let line = self.section("mounts").lines().rev().find(|line| line.split(' ').nth(4) == Some(target))?;
        let (mount, file_system) = line.split_once(" - ")?;
        let mut parts = file_system.split(' ');
        let kind = parts.next()?;
        Some((format!("{},{}", mount.split(' ').nth(5)?, parts.nth(1)?), kind.to_owned()))
    }
}

/// Why there is no reading: the row of the sequence (or what came before it), and the remedy.
struct Obstacle {
    step: String,
    message: String,
    remedy: String,
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
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
        let request = Request {
            language: None,
            program: Program::Command(words.to_vec()),
            arguments: Vec::new(),
            environment: Vec::new(),
            files: Vec::new(),
            limits: limits.clone(),
            rootfs: None,
        };
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

type Read = Result<(Reading, Vec<String>), Obstacle>;

/// A row of what a payload found.
struct Measure {
    name: &'static str,
    /// The step that puts it in force, to tell how far a cell came that could not be made.
    step: &'static str,
    required: bool,
    read: fn(&Host, &Reading, &[String]) -> Found,
}

enum Found {
    Enforced(String),
    Weaker(String, &'static str),
    Missing(String, &'static str),
}

const fn measure(name: &'static str, step: &'static str, read: fn(&Host, &Reading, &[String]) -> Found) -> Measure {
    Measure { name, step, required: true, read }
}

const fn optional(name: &'static str, step: &'static str, read: fn(&Host, &Reading, &[String]) -> Found) -> Measure {
    Measure { name, step, required: false, read }
}

/// In the order of the sequence.
const MEASURES: [Measure; 17] = [
    measure("stage", "stage", stage),
    measure("namespaces", "clone_init", namespaces),
    measure("network", "clone_init", network),
    measure("id map", "write_id_maps", id_map),
    measure("control groups inside", "unshare_cgroup_namespace", groups_inside),
    measure("session keyring", "new_session_keyring", session_keyring),
    measure("nested namespaces", "forbid_user_namespaces", nested_namespaces),
    measure("proc", "mount_proc", proc),
    measure("scratch", "mount_scratch", scratch),
    measure("root", "pivot_root", root),
    optional("speculation", "force_speculation_mitigations", speculation),
    measure("core size", "set_rlimits", core_size),
    measure("capabilities", "drop_capabilities", capabilities),
    measure("no_new_privs", "set_no_new_privileges", no_new_privileges),
    measure("descriptors inside", "mark_descriptors", descriptors_inside),
    optional("landlock", "restrict_by_landlock", landlock),
    measure("seccomp", "install_seccomp", seccomp),
];

fn isolation(host: &Host, reading: &Read) -> Vec<Layer> {
    let row = |measure: &Measure| {
        let layer = match reading {
            Ok((reading, denied)) => match (measure.read)(host, reading, denied) {
                Found::Enforced(detail) => Layer::enforced(Group::Cell, measure.name, detail),
                Found::Weaker(detail, remedy) => Layer::weaker(Group::Cell, measure.name, detail, remedy),
                Found::Missing(detail, remedy) => Layer::missing(Group::Cell, measure.name, detail, remedy),
            },
            Err(obstacle) if obstacle.step == measure.step => {
                Layer::missing(Group::Cell, measure.name, &obstacle.message, &obstacle.remedy)
            }
            Err(obstacle) => {
                let came = position(&obstacle.step) > position(measure.step);
                let detail = match came {
                    true => format!("its step was taken, but no cell came to be ({})", obstacle.message),
                    false => format!("not tried: no cell came to be ({})", obstacle.message),
                };
                Layer::missing(Group::Cell, measure.name, detail, &obstacle.remedy)
            }
        };
        Layer { required: measure.required, ..layer }
    };
    MEASURES.iter().map(row).collect()
}

/// Where a step stands; what comes before every cell has place 0.
fn position(step: &str) -> usize {
    SEQUENCE.iter().position(|known| known.name == step).map_or(0, |index| index + 1)
}

/// For what can only be our own mistake, the kernel having agreed to every step.
const REPORT: &str = "report it as a bug of sandboxd, with the output of `sandboxd check --json`";

fn stage(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let count = reading.section("mounts").lines().count();
    Found::Enforced(format!("the new mount API works; a cell sees {count} mounts, all of them its own image's"))
}

fn namespaces(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let shared: Vec<&str> = NAMESPACES
        .into_iter()
        .filter(|name| {
            let short = if *name == "mount" { "mnt" } else { name };
            let inside =
                reading.section("namespaces").lines().find_map(|line| line.strip_prefix(short)?.strip_prefix(' '));
            let outside = std::fs::read_link(format!("/proc/self/ns/{short}")).ok();
            inside.is_none_or(|inside| inside.is_empty() || outside.is_none_or(|outside| outside == Path::new(inside)))
        })
        .collect();
    match shared.is_empty() {
        true => Found::Enforced(format!("{}: each another than ours", NAMESPACES.join(" "))),
        false => Found::Missing(format!("shared with the supervisor: {}", shared.join(" ")), REPORT),
    }
}

fn network(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let names = reading.section("links").lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    let strange: Vec<_> = names.filter(|name| *name != "lo").collect();
    match strange.is_empty() {
        true => Found::Enforced("no interface but the loopback, which is down".to_owned()),
        false => Found::Missing(format!("the cell sees {}", strange.join(", ")), REPORT),
    }
}

fn id_map(host: &Host, reading: &Reading, _: &[String]) -> Found {
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.first().zip(words.get(1)).map(|(inside, outside)| format!("{inside} is {outside} outside"))
    };
    let map: Vec<_> = reading.section("ids").lines().filter_map(line).collect();
    let (groups, uids) = (reading.status("Groups"), reading.status("Uid"));
    if !groups.is_empty() || uids.split_whitespace().any(|uid| uid != "1000") {
        return Found::Missing(format!("the program runs as {uids:?} with groups {groups:?}"), REPORT);
    }
    match host.privilege {
        Privilege::Root => Found::Enforced(format!("ids of this cell alone ({}), no groups", map.join(", "))),
        Privilege::Rootless => {
            Found::Weaker(format!("init and program share your own id ({})", map.join(", ")), "run as root")
        }
    }
}

fn session_keyring(_: &Host, _: &Reading, _: &[String]) -> Found {
    Found::Enforced("a new one, joined before anything of the cell ran".to_owned())
}

fn nested_namespaces(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let said = reading.section("unshare");
    match said.contains("not permitted") || said.contains("No space left") {
        true => Found::Enforced("tried from inside and refused".to_owned()),
        false if said.contains("not found") => {
            Found::Enforced("max_user_namespaces is 0 in the cell (no unshare(1) here to try it)".to_owned())
        }
        false => Found::Missing(format!("a program could make a user namespace {said}"), REPORT),
    }
}

fn proc(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let (options, _) = reading.mount("/proc").unwrap_or_default();
    let lacking: Vec<_> = ["ro", "subset=pid", "hidepid=invisible"]
        .into_iter()
        .filter(|wanted| !options.split(',').any(|option| option == *wanted))
        .collect();
    match lacking.is_empty() {
        true => Found::Enforced("read-only, its own processes only (subset=pid, hidepid=invisible)".to_owned()),
        false => Found::Missing(format!("mounted without {}", lacking.join(", ")), "use Linux 5.8 or later"),
    }
}

fn scratch(_: &Host, reading: &Reading, _: &[String]) -> Found {
    for target in ["/tmp", crate::plan::WORKDIR] {
        let (options, kind) = reading.mount(target).unwrap_or_default();
        if kind != "tmpfs"
            || !options.contains("size=")
            || !options.contains("nr_inodes=")
            || !options.contains("nodev")
        {
            return Found::Missing(format!("{target} is {kind} with {options}"), REPORT);
        }
    }
    Found::Enforced(format!("/tmp and {} are tmpfs, limited in size and number of files", crate::plan::WORKDIR))
}

fn root(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let (options, kind) = reading.mount("/").unwrap_or_default();
    let locked = ["ro", "nosuid", "nodev"].iter().all(|wanted| options.split(',').any(|option| option == *wanted));
    match locked && !reading.section("write").trim().is_empty() {
        true => Found::Enforced(format!("the image's own ({kind}), read-only, nosuid, nodev; a write was refused")),
        false => Found::Missing(format!("{kind} with {options}"), REPORT),
    }
}

fn speculation(host: &Host, reading: &Reading, _: &[String]) -> Found {
    let found = [
        ("store bypass", reading.status("Speculation_Store_Bypass"), host.speculation_store_bypass),
        ("indirect branches", reading.status("SpeculationIndirectBranch"), host.speculation_indirect_branch),
    ];
    let is_safe = |state: &str| {
        ["force", "not vulnerable", "not affected", "globally", "always disabled"]
            .iter()
            .any(|safe| state.contains(safe))
    };
    let told = found.map(|(what, state, _)| format!("{what}: {}", if state.is_empty() { "unknown" } else { state }));
    let told = told.join("; ");
    let open: Vec<_> = found.iter().filter(|(_, state, _)| !is_safe(state)).collect();
    match (open.is_empty(), open.iter().any(|(_, _, controllable)| *controllable)) {
        (true, _) => Found::Enforced(told),
        (false, true) => Found::Missing(told, REPORT),
        (false, false) => Found::Weaker(
            format!("{told}; this kernel offers no control of it on this CPU"),
            "boot with spec_store_bypass_disable=prctl spectre_v2_user=prctl and new microcode, or give tenants who \
             must not learn of each other machines of their own",
        ),
    }
}

fn capabilities(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let held: Vec<_> = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .into_iter()
        .filter(|set| reading.status(set).is_empty() || reading.status(set).contains(|digit| digit != '0'))
        .collect();
    match held.is_empty() {
        true => Found::Enforced("none in any of the five sets, securebits locked".to_owned()),
        false => Found::Missing(format!("not empty: {}", held.join(" ")), REPORT),
    }
}

fn no_new_privileges(_: &Host, reading: &Reading, _: &[String]) -> Found {
    match reading.status("NoNewPrivs") {
        "1" => Found::Enforced("set".to_owned()),
        other => Found::Missing(format!("the kernel says {other:?}"), REPORT),
    }
}

fn core_size(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let line = reading.section("limits").lines().find(|line| line.starts_with("Max core file size")).unwrap_or("");
    let values: Vec<_> = line.split_whitespace().skip(4).take(2).collect();
    match values == ["1", "1"] {
        true => Found::Enforced("limited to 1 byte: no core file, and no handler on the host is run".to_owned()),
        false => Found::Missing(format!("limited to {}", values.join("/")), REPORT),
    }
}

fn descriptors_inside(_: &Host, reading: &Reading, _: &[String]) -> Found {
    // The fourth is the shell's own, of the directory it lists.
    let numbers =
        reading.section("descriptors").lines().filter_map(|line| line.rsplit('/').next()?.parse::<u32>().ok());
    let strange: Vec<_> = numbers.filter(|number| *number > 3).map(|number| number.to_string()).collect();
    match strange.is_empty() {
        true => Found::Enforced("only 0, 1 and 2".to_owned()),
        false => Found::Missing(format!("open beside 0, 1 and 2: {}", strange.join(", ")), REPORT),
    }
}

fn landlock(host: &Host, reading: &Reading, _: &[String]) -> Found {
    const NEWER: &str = "use Linux 6.12 or later (landlock ABI 6)";
    let abi = host.landlock_abi;
    let tcp = reading.section("tcp");
    match abi {
        0 => Found::Missing(
            "this kernel has none: files are confined by mounts and permissions alone".to_owned(),
            "use a kernel with CONFIG_SECURITY_LANDLOCK, and `landlock` in its lsm= list; 6.12 or later serves best",
        ),
        1..=3 => Found::Weaker(format!("ABI {abi}: files; neither TCP nor signals and abstract sockets"), NEWER),
        4..=5 => Found::Weaker(format!("ABI {abi}: files and TCP; not signals and abstract sockets"), NEWER),
        // Without it the refusal would be the network's: connection refused, or network unreachable.
        _ if !tcp.is_empty() && !tcp.contains("Permission denied") => {
            Found::Missing(format!("ABI {abi}, but a connection got as far as {tcp:?}"), REPORT)
        }
        _ if tcp.is_empty() => Found::Enforced(format!("ABI {abi}: files, TCP, signals, abstract sockets")),
        _ => Found::Enforced(format!(
            "ABI {abi}: files, TCP (a connection was refused by it), signals, abstract sockets"
        )),
    }
}

fn seccomp(host: &Host, reading: &Reading, denied: &[String]) -> Found {
    if reading.status("Seccomp") != "2" {
        let detail = format!("the kernel says mode {:?}", reading.status("Seccomp"));
        return Found::Missing(detail, "use a kernel with CONFIG_SECCOMP_FILTER");
    }
    match (host.seccomp_notify, denied.is_empty()) {
        (true, false) => Found::Enforced(format!("a filter; tried, refused and reported: {}", denied.join(", "))),
        _ => Found::Enforced("a filter".to_owned()),
    }
}

fn groups_inside(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let seen: Vec<_> = reading
        .section("groups")
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter(|group| *group != "/")
        .collect();
    match seen.is_empty() {
        true => Found::Enforced("the cell's own is the root it sees".to_owned()),
        false => Found::Missing(format!("the cell sees {}", seen.join(" ")), REPORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_payload_says_is_read_by_question() {
        let text = "@status\nNoNewPrivs:\t1\nGroups:\t \n@mounts\n\
                    51 45 0:45 / / ro,nosuid,nodev - erofs /dev/loop0 ro\n@write\nsh: Read-only file system\n@end\n";
        let reading = Reading::parse(text);
        assert_eq!(reading.status("NoNewPrivs"), "1");
        assert_eq!(reading.status("Groups"), "");
        assert_eq!(reading.mount("/"), Some(("ro,nosuid,nodev,ro".to_owned(), "erofs".to_owned())));
        assert!(reading.section("write").contains("Read-only"));
        assert_eq!(reading.section("unknown"), "");
    }

    #[test]
    fn every_measure_names_a_row_of_the_sequence_in_its_order() {
        assert!(MEASURES[1..].iter().all(|measure| position(measure.step) > 0));
        assert!(MEASURES.is_sorted_by_key(|measure| position(measure.step)));
    }

    #[test]
    fn a_step_that_failed_is_told_by_its_row_and_those_after_it_were_not_tried() {
        let host = crate::sandbox::probe::host(Kind::None);
        let obstacle =
            Obstacle { step: "mount_proc".into(), message: "mount_proc: EPERM".into(), remedy: "run as root".into() };
        let layers = isolation(&host, &Err(obstacle));
        let detail = |name: &str| layers.iter().find(|layer| layer.name == name).map(|layer| layer.detail.clone());
        assert!(layers.iter().all(|layer| layer.state == State::Missing && layer.remedy.is_some()));
        assert_eq!(detail("proc").as_deref(), Some("mount_proc: EPERM"));
        assert!(detail("id map").is_some_and(|detail| detail.starts_with("its step was taken")));
        assert!(detail("seccomp").is_some_and(|detail| detail.starts_with("not tried")));
    }
}
