//! What the front is told of this machine: put together by the parent, which may read everything.

use crate::config::Config;
use crate::machine::{Machine, MachineError};
use crate::plan::{HOST_IMAGE, Surroundings};
use crate::rootfs::RootfsError;
use crate::service::handover::{Handover, LanguageState};
use crate::words::causes::chain;
use crate::words::host::{CgroupKind, Host};
use crate::words::profile::{Profile, Profiles};
use crate::words::settings::ServiceSettings;

/// Runs per core where nothing else bounds them: programs wait for their input and for the disk, too.
const RUNS_PER_CORE: usize = 8;
/// Part of the machine's memory that runs may have together, in percent.
const MEMORY_PERCENT: u64 = 75;

/// Layers this machine lacks and `settings` do not give up; each with its remedy.
pub fn missing_layers(host: &Host, settings: &ServiceSettings) -> Vec<String> {
    let layers = [
        ("landlock", host.landlock_abi == 0, "a kernel with landlock (5.13, lsm=landlock)"),
        ("seccomp", !host.seccomp, "a kernel with CONFIG_SECCOMP_FILTER"),
        ("cgroup", host.cgroup == CgroupKind::None, "cgroups with memory, pids and cpu"),
    ];
    let missing =
        layers.into_iter().filter(|(name, missing, _)| *missing && !settings.give_up.iter().any(|own| own == name));
    missing
        .map(|(name, _, remedy)| format!("{name} is missing: it takes {remedy}, or give_up = [\"{name}\"]"))
        .collect()
}

/// Puts everything together.
///
/// # Errors
/// No cell can be made, where one is needed to ask a toolchain for its version.
pub async fn build(config: &Config, settings: &ServiceSettings) -> Result<Handover, MachineError> {
    let mut machine = Machine::look(config)?;
    let (profiles, problems, texts) = config.profiles_and_texts();
    let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let mut languages = Vec::new();
    for profile in profiles.iter() {
        languages.push(language(&mut machine, settings, &profiles, profile).await?);
    }
    for layer in &settings.give_up {
        problems.push(format!("given up by configuration: {layer}"));
    }
    let concurrent_max = match settings.concurrent_max {
        0 => concurrent_default(&machine.host),
        asked => asked as usize,
    };
    Ok(Handover {
        settings: settings.clone(),
        profiles: texts,
        host: machine.host.clone(),
        languages,
        problems,
        concurrent_max,
    })
}

async fn language(
    machine: &mut Machine,
    settings: &ServiceSettings,
    profiles: &Profiles,
    profile: &Profile,
) -> Result<LanguageState, MachineError> {
    let state = |rootfs: &str, version, problem| LanguageState {
        name: profile.name.clone(),
        rootfs: rootfs.to_owned(),
        version,
        problem,
    };
    let rootfs = match machine.image(&profile.rootfs) {
        // Its author chose it by name.
        _ if profile.rootfs == HOST_IMAGE => HOST_IMAGE.to_owned(),
        Ok(image) if machine.is_mountable(&image) => {
            if let Some(version) = image.versions.get(&profile.name) {
                return Ok(state(&image.name, Some(version.clone()), None));
            }
            image.name
        }
        _ if settings.use_host_image => HOST_IMAGE.to_owned(),
        Ok(image) => return Ok(state(&image.name, None, Some(format!("image {} cannot be mounted here", image.name)))),
        Err(RootfsError::NotBuilt { .. }) => {
            let problem = format!("image {0} is not built: `sandboxd rootfs build {0}`", profile.rootfs);
            return Ok(state(&profile.rootfs, None, Some(problem)));
        }
        Err(error) => {
            // Clients are told the problem, and no paths of this machine.
            tracing::error!(image = profile.rootfs, error = chain(&error), "an image cannot be used");
            let problem = format!("image {0} cannot be used: `sandboxd rootfs verify {0}` says why", profile.rootfs);
            return Ok(state(&profile.rootfs, None, Some(problem)));
        }
    };
    let version = ask_version(machine, profiles, profile, &rootfs).await?;
    let problem = version.is_none().then(|| format!("its program is not in image {rootfs}"));
    Ok(state(&rootfs, version, problem))
}

/// Asks the toolchain itself, in a cell.
async fn ask_version(
    machine: &mut Machine,
    profiles: &Profiles,
    profile: &Profile,
    rootfs: &str,
) -> Result<Option<String>, MachineError> {
    let mut supervisor = machine.supervisor()?;
    machine.stage(&mut supervisor, rootfs)?;
    let around = Surroundings { profiles, host: &machine.host, rootfs, left_out: &[] };
    let version = machine.version(&mut supervisor, profile, &around).await;
    for error in supervisor.close() {
        tracing::error!(%error, "left over");
    }
    Ok(version)
}

/// What memory and cores allow.
fn concurrent_default(host: &Host) -> usize {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let memory_bytes = kilobytes.unwrap_or(0) * 1024 / 100 * MEMORY_PERCENT;
    let by_memory = (memory_bytes / crate::words::limits::Limits::default().memory_bytes) as usize;
    by_memory.min(RUNS_PER_CORE * host.cores as usize).max(1)
}
