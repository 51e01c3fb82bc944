//! What this machine can enforce, layer by layer: found out by trying, and told without printing.
//!
//! The best witness is a payload. [`look`] runs real cells with every layer on and has a shell read back from inside
//! what the kernel says of it ([`cell`]), so that "enforced" is measured. What no payload can see is looked up
//! ([`kernel`]), and so is what runs depend on beside the kernel ([`images`]). Whatever cannot be had, the look goes
//! on: a machine with three faults is told all three.

mod cell;
mod images;
mod kernel;
mod reading;

use crate::config::Config;
use crate::machine::Machine;
use crate::sandbox::cgroup::{self, Choice};
use crate::words::causes::chain;
use crate::words::host::{Host, Privilege};

/// Cells alive at once that the service is designed for; what a machine offers is held against it.
const CELLS_WANTED: u64 = 1000;

/// Everything found.
#[derive(Debug)]
pub struct Findings {
    pub host: Host,
    pub layers: Vec<Layer>,
}

/// One row: what protects (or serves) the machine, and how well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub group: Group,
    pub name: String,
    pub state: State,
    /// Without it no program may be run here, as the machine is configured.
    pub required: bool,
    pub detail: String,
    /// Set whenever the layer is not enforced.
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Enforced,
    /// In force, but less than it could be.
    Weaker,
    Missing,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            State::Enforced => "enforced",
            State::Weaker => "weaker",
            State::Missing => "missing",
        }
    }
}

/// Rows that belong together, in the order they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Machine,
    Cell,
    Resources,
    Capacity,
    Images,
}

impl Group {
    pub fn title(self) -> &'static str {
        match self {
            Group::Machine => "machine",
            Group::Cell => "cell (measured from inside)",
            Group::Resources => "resources",
            Group::Capacity => "capacity",
            Group::Images => "images",
        }
    }
}

impl Layer {
    fn enforced(group: Group, name: impl Into<String>, detail: impl Into<String>) -> Layer {
        Layer { group, name: name.into(), state: State::Enforced, required: false, detail: detail.into(), remedy: None }
    }

    fn weaker(group: Group, name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Layer {
        Layer { state: State::Weaker, remedy: Some(remedy.into()), ..Layer::enforced(group, name, detail) }
    }

    fn missing(group: Group, name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Layer {
        Layer { state: State::Missing, ..Layer::weaker(group, name, detail, remedy) }
    }

    fn required(self) -> Layer {
        Layer { required: true, ..self }
    }

    /// What stands in the way of running anything.
    pub fn is_fatal(&self) -> bool {
        self.required && self.state == State::Missing
    }
}

impl Findings {
    /// Whether everything required is in force.
    pub fn is_ok(&self) -> bool {
        !self.layers.iter().any(Layer::is_fatal)
    }

    pub fn count(&self, state: State) -> usize {
        self.layers.iter().filter(|layer| layer.state == state).count()
    }
}

/// Looks at the machine under `config`, and runs a few cells of a moment each. Must be called while this process has
/// one thread: it clones.
///
/// # Errors
/// Only what keeps `check` itself from working.
pub fn look(config: &Config) -> anyhow::Result<Findings> {
    let mut layers = kernel::layers();
    let (mut machine, no_cgroup) = match Machine::look(config) {
        Ok(machine) => (machine, None),
        // Everything else is told all the same.
        Err(crate::machine::MachineError::Cgroup(error)) => (Machine::without_cgroup(config)?, Some(error)),
        Err(error) => return Err(error.into()),
    };
    layers.extend(no_cgroup.map(|error| {
        let remedy = error.hint().unwrap_or_else(|| cgroup_remedy().to_owned());
        Layer::missing(Group::Resources, "cgroup", chain(&error), remedy).required()
    }));
    layers.extend(images::layers(config, &machine));
    layers.extend(cell::layers(config, &mut machine)?);
    layers.sort_by_key(|layer| layer.group);
    Ok(Findings { host: machine.host, layers })
}

fn cgroup_remedy() -> &'static str {
    "mount the cgroup hierarchies under /sys/fs/cgroup and run as root, or choose `cgroup = \"none\"` by name"
}

/// Whether nobody demands that a cell's resources be limited as a whole: configuration says so by name, or this is an
/// ordinary user to whom nothing is delegated.
fn is_content_without_cgroup(config: &Config, machine: &Machine) -> bool {
    machine.cgroup.kind == cgroup::Kind::None
        && (config.cgroup == Choice::None || machine.host.privilege == Privilege::Rootless)
}
