//! This machine as a place to run programs: what it can enforce, its images, its toolchains' versions.
//!
//! Binds configuration to the layers below, for every face alike.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::plan::{CellPlan, HOST_IMAGE, Surroundings, plan_version};
use crate::rootfs::host::HostRecipe;
use crate::rootfs::{Format, Image, Recipes, RootfsError, Store, kernel_has_erofs};
use crate::runner;
use crate::sandbox::cgroup::{self, CgroupError, Choice};
use crate::sandbox::probe::{self, ProbeError};
use crate::sandbox::stage::{ImageSource, LayerSource, Stage, StageError, Synthetic};
use crate::supervisor::{Supervisor, SupervisorError};
use crate::words::host::{Host, Privilege};
use crate::words::profile::Profile;
use crate::words::verdict::Status;

/// What was found on this machine.
#[derive(Clone)]
pub struct Machine {
    pub host: Host,
    pub cgroup: cgroup::Probe,
    store: Store,
    /// Filled where the supervisor is about to see files of root as nobody's, and could no longer tell who owns a layer.
    images: BTreeMap<String, Image>,
    recipes_dir: PathBuf,
    versions_file: PathBuf,
}

/// The machine cannot run programs, or not as asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("image {image}: {error}: {}", crate::words::verdict::errno_text(error.source as i32))]
    Stage { image: String, error: StageError },
}

impl MachineError {
    /// What the reader can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            MachineError::Cgroup(error) | MachineError::Supervisor(SupervisorError::Cgroup(error)) => error.hint(),
            MachineError::Probe(error) => runner::remedy(error.source).map(str::to_owned),
            MachineError::Rootfs(error) => error.hint(),
            MachineError::Supervisor(SupervisorError::Setup { errno, .. }) => {
                let userns = "this kernel allows ordinary users no namespaces (sysctl user.max_user_namespaces, \
                              kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns): run as root";
                if nix::unistd::geteuid().is_root() {
                    runner::remedy(*errno).map(str::to_owned)
                } else {
                    Some(userns.to_owned())
                }
            }
            MachineError::Stage { error, .. } if error.source == nix::errno::Errno::ENODEV => Some(
                "this kernel cannot mount erofs: build the image with `sandboxd rootfs build --force --format directory NAME`"
                    .to_owned(),
            ),
            MachineError::Stage { image, error } => runner::remedy(error.source).map(str::to_owned).or_else(|| {
                let built = image != HOST_IMAGE;
                built.then(|| format!("`sandboxd rootfs verify {image}` tells whether it is damaged"))
            }),
        }
    }
}

impl Machine {
    /// Looks at the machine under `config`; changes nothing.
    ///
    /// # Errors
    /// No usable cgroup layout although one was asked for. An ordinary user with nothing delegated gets `none`, since
    /// nothing better exists; everybody else must ask for `none` by name.
    pub fn look(config: &Config) -> Result<Machine, MachineError> {
        let mut machine = Machine::without_cgroup(config)?;
        machine.look_at_cgroups(config)?;
        Ok(machine)
    }

    /// The machine as it is without cgroups: for whoever tells of everything else all the same, or has something else to
    /// begin first.
    ///
    /// # Errors
    /// The directory of images has no absolute path, or the kernel does not say what it has.
    pub fn without_cgroup(config: &Config) -> Result<Machine, MachineError> {
        let cgroup = cgroup::probe(Choice::None, None)?;
        Ok(Machine {
            host: probe::host(cgroup.kind)?,
            cgroup,
            store: Store::open(&config.rootfs_dir)?,
            images: BTreeMap::new(),
            recipes_dir: config.recipes_dir.clone(),
            versions_file: config.cache_dir.join("versions.json"),
        })
    }

    /// Completes [`Machine::without_cgroup`].
    ///
    /// # Errors
    /// As those of [`Machine::look`] about cgroups.
    pub fn look_at_cgroups(&mut self, config: &Config) -> Result<(), MachineError> {
        let rootless = self.host.privilege == Privilege::Rootless;
        self.cgroup = match cgroup::probe(config.cgroup, config.cgroup_parent.as_deref()) {
            Err(_) if rootless && config.cgroup == Choice::Auto => cgroup::probe(Choice::None, None)?,
            result => result?,
        };
        self.host.cgroup = probe::cgroup_kind(self.cgroup.kind);
        Ok(())
    }

    /// A supervisor on this machine.
    ///
    /// # Errors
    /// See [`Supervisor::open`].
    pub fn supervisor(&mut self) -> Result<Supervisor, MachineError> {
        if self.host.privilege == Privilege::Rootless {
            let images = self.store.list()?.into_iter().filter_map(|summary| self.store.image(&summary.name).ok());
            self.images = images.map(|image| (image.name.clone(), image)).collect();
        }
        Ok(Supervisor::open(&self.host, &self.cgroup)?)
    }

    /// The image to run in: the one asked for, else the profile's own if it is built, else this machine's programs.
    ///
    /// # Errors
    /// The image asked for is missing or damaged, or the profile's own is damaged.
    pub fn choose_rootfs(&self, asked: Option<&str>, own: Option<&str>) -> Result<String, MachineError> {
        match (asked, own) {
            (Some(HOST_IMAGE), _) | (None, None | Some(HOST_IMAGE)) => Ok(HOST_IMAGE.to_owned()),
            (Some(name), _) => match self.image(name) {
                Err(not_built @ RootfsError::NotBuilt { .. }) => {
                    // What has no recipe cannot be built: a slip of the finger, most likely.
                    Recipes::load(Some(self.recipes_dir.as_path()).filter(|directory| directory.is_dir()))?
                        .get(name)?;
                    Err(not_built.into())
                }
                image => Ok(image?.name),
            },
            (None, Some(own)) => match self.image(own) {
                // What cannot be mounted here is as good as not built.
                Ok(image) if self.is_mountable(&image) => Ok(image.name),
                Ok(_) | Err(RootfsError::NotBuilt { .. }) => Ok(HOST_IMAGE.to_owned()),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// An image that is built and whole.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn image(&self, name: &str) -> Result<Image, RootfsError> {
        self.images.get(name).map_or_else(|| self.store.image(name), |image| Ok(image.clone()))
    }

    /// Whether this user on this kernel can mount the layers of an image.
    pub fn is_mountable(&self, image: &Image) -> bool {
        image.layers.iter().all(|layer| layer.format == Format::Directory)
            || (self.host.privilege == Privilege::Root && kernel_has_erofs())
    }

    /// Stages image `name` for `supervisor`.
    ///
    /// # Errors
    /// The image vanished meanwhile, or cannot be mounted.
    pub fn stage(&self, supervisor: &mut Supervisor, name: &str) -> Result<(), MachineError> {
        // Once is enough, and asking what an image is made of is not free: a service comes here with every run.
        if supervisor.is_staged(name) {
            return Ok(());
        }
        let source = self.image_source(name)?;
        supervisor.stage(name, &source).map_err(|error| MachineError::Stage { image: name.to_owned(), error })
    }

    /// The stage of image `name`, for a supervisor to be provided with, made by a thread that is about to end.
    ///
    /// # Errors
    /// As those of [`Machine::stage`].
    pub fn stage_aside(&self, name: &str) -> Result<Stage, MachineError> {
        let stage = Stage::build_aside(&self.image_source(name)?, self.host.privilege, self.host.overlay);
        stage.map_err(|error| MachineError::Stage { image: name.to_owned(), error })
    }

    /// What image `name` is made of.
    ///
    /// # Errors
    /// It vanished, or is damaged.
    pub fn image_source(&self, name: &str) -> Result<ImageSource, MachineError> {
        if name == HOST_IMAGE {
            let layout = HostRecipe::load(Some(&self.recipes_dir))?.layout(Path::new("/"))?;
            return Ok(ImageSource::Synthetic(Synthetic {
                directories: layout.directories,
                links: layout.links,
                files: layout.files.into_iter().map(|(path, content)| (path, content.to_vec())).collect(),
                binds: layout.binds,
            }));
        }
        let image = self.image(name)?;
        let layers = image.layers.into_iter().map(|layer| match layer.format {
            Format::Erofs => LayerSource::Erofs(layer.path),
            Format::Directory => LayerSource::Directory(layer.path),
        });
        Ok(ImageSource::Layers(layers.collect()))
    }

    /// The version of a language's toolchain in the image of `around`: as recorded with the image, else by asking the
    /// toolchain itself, once per change of its program.
    pub async fn version(
        &self,
        supervisor: &mut Supervisor,
        profile: &Profile,
        around: &Surroundings<'_>,
    ) -> Option<String> {
        if around.rootfs != HOST_IMAGE
            && let Ok(image) = self.image(around.rootfs)
            && let Some(version) = image.versions.get(&profile.name)
        {
            return Some(version.clone());
        }
        let plan = plan_version(profile, around);
        let key = self.version_key(&plan, around.rootfs)?;
        let mut known: BTreeMap<String, String> = std::fs::read(&self.versions_file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        if let Some(version) = known.get(&key) {
            return Some(version.clone());
        }
        let version = ask_version(supervisor, &plan).await?;
        known.insert(key, version.clone());
        // A cache that cannot be written costs a question the next time.
        if let Err(error) = self.write_versions(&known) {
            tracing::debug!(%error, file = %self.versions_file.display(), "the versions were not kept");
        }
        Some(version)
    }

    /// What identifies a toolchain: its program's file, for this machine's own; the image's layers otherwise.
    fn version_key(&self, plan: &CellPlan, rootfs: &str) -> Option<String> {
        if rootfs != HOST_IMAGE {
            let image = self.image(rootfs).ok()?;
            let digests: Vec<_> = image.layers.iter().map(|layer| layer.digest.as_str()).collect();
            return Some(format!("{} {}", digests.join("+"), plan.command.arguments.first()?.to_string_lossy()));
        }
        let found = plan.command.candidates.iter().find_map(|candidate| {
            let path = PathBuf::from(candidate.to_str().ok()?);
            let metadata = std::fs::metadata(&path).ok()?;
            Some((path, metadata))
        });
        let (path, metadata) = found?;
        Some(format!("{} {} {} {}", path.display(), metadata.ino(), metadata.size(), metadata.mtime()))
    }

    fn write_versions(&self, known: &BTreeMap<String, String>) -> std::io::Result<()> {
        let directory = self.versions_file.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer_pretty(&mut file, known)?;
        file.persist(&self.versions_file)?;
        Ok(())
    }

    pub fn store(&self) -> &Store {
        &self.store
    }
}

/// Runs a version command and finds the version in what it prints.
pub async fn ask_version(supervisor: &mut Supervisor, plan: &CellPlan) -> Option<String> {
    let result = runner::ask(supervisor, plan).await.ok()?;
    if result.verdict.status != Status::Ok {
        return None;
    }
    let text = [result.output.stdout, result.output.stderr].concat();
    find_version(&String::from_utf8_lossy(&text))
}

/// The first number with dots in a text: `3.13.5` in `Python 3.13.5`, `14.2.0` in `gcc (Debian 14.2.0-19) 14.2.0`.
fn find_version(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|word| word.trim_matches('.'))
        .find(|word| word.contains('.'))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_toolchains_print() {
        assert_eq!(find_version("Python 3.13.5\n").as_deref(), Some("3.13.5"));
        assert_eq!(find_version("v24.21.0").as_deref(), Some("24.21.0"));
        assert_eq!(find_version("gcc (Debian 14.2.0-19) 14.2.0").as_deref(), Some("14.2.0"));
        assert_eq!(find_version("GNU bash, version 5.2.37(1)-release").as_deref(), Some("5.2.37"));
        assert_eq!(find_version("no version here."), None);
    }
}
