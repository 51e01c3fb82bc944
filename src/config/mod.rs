//! The only reader of configuration files and environment: everything below receives values.
//!
//! A setting comes from, in rising order: its default, the file (`/etc/sandboxd/config.toml`, or the one that `--config`
//! or `SANDBOXD_CONFIG` names), the environment, a flag. Each is stated once, in [`table`]; [`setting`] carries a value
//! from its source to its field.

use std::path::{Path, PathBuf};

use crate::plan::{HOST_IMAGE, PATH_DEFAULT, WORKDIR};
use crate::rootfs::{Recipes, RootfsError, Store};
use crate::sandbox::cgroup::Choice;
use crate::words::embedded::EMBEDDED_PROFILES;
use crate::words::profile::{Profile, Profiles};
use crate::words::toml_error::TomlError;

pub mod keys;
pub mod print;
pub mod service;
pub mod setting;
pub mod table;
pub mod value;

mod file;
mod forms;
mod policies;
mod seeds;

pub use service::{Service, ServiceFlags};

use file::{File, Table};
use setting::{Environment, Field, Origin, Origins};
use value::{Raw, Value};

/// The file that is read when none is named.
pub const CONFIG_FILE: &str = "/etc/sandboxd/config.toml";

/// The settings of every command. Those of the service are read from the same sources by [`Config::service`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Where images are built and looked for.
    pub rootfs_dir: PathBuf,
    /// An operator's profiles, added to the embedded ones; one of the same name replaces the embedded.
    pub profiles_dir: PathBuf,
    /// An operator's image recipes, likewise.
    pub recipes_dir: PathBuf,
    pub cgroup: Choice,
    /// The group under which ours go, as /proc/PID/cgroup names groups; by default our own.
    pub cgroup_parent: Option<String>,
    /// Where what was asked of the machine's toolchains is kept.
    pub cache_dir: PathBuf,
    file: Option<File>,
    origins: Origins,
}

/// Settings as flags name them; what is absent comes from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub rootfs_dir: Option<PathBuf>,
    pub profiles_dir: Option<PathBuf>,
    pub cgroup: Option<Choice>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("failed to read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// `subject` is the setting that names the file, as in [`ConfigError::Value`].
    #[error("{subject}: failed to read {path:?}")]
    ReadFor {
        subject: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Toml(#[from] TomlError),
    /// `subject` is the setting as whoever set it calls it: a variable, a flag, or file, line and key.
    #[error("{subject} = {value} is not {expected}")]
    Value { subject: String, value: String, expected: String },
    #[error("{problem}; {remedy}")]
    Refused { problem: String, remedy: String },
}

impl ConfigError {
    fn refused(problem: String, remedy: String) -> ConfigError {
        ConfigError::Refused { problem, remedy }
    }
}

impl Config {
    /// Reads every source of the settings that every command has.
    ///
    /// # Errors
    /// A file that was named and cannot be read, or says something that is no setting; with file and line. Of the
    /// service's part only the syntax is looked at.
    pub fn load(flags: &Flags) -> Result<Config, ConfigError> {
        Config::load_from(flags, &Environment::of_process())
    }

    /// Likewise, with an environment of the caller's.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_from(flags: &Flags, environment: &Environment) -> Result<Config, ConfigError> {
        let mut config = Config::defaults(user_cache(environment));
        let named = flags.config.clone().or_else(|| environment.get("SANDBOXD_CONFIG").map(PathBuf::from));
        let file = match named {
            Some(path) => Some(File::read(&path)?),
            // One that cannot be looked at may be there, and what it says must not be lost.
            None => match File::read(Path::new(CONFIG_FILE)) {
                Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
                file => Some(file?),
            },
        };
        let mut origins = Origins::default();
        if let Some(file) = &file {
            let settings: Vec<_> = table::MACHINE.iter().collect();
            let table = &file.table()?;
            Table { file, table, name: "" }.overlay(&settings, &[service::TABLE], &mut config, &mut origins)?;
        }
        for setting in table::MACHINE {
            let variable = setting.variable();
            if let Some(text) = environment.get(&variable) {
                let origin = Origin::Environment(variable);
                setting.apply(&mut config, &Raw::Plain(text.to_owned()), &origin, setting.name)?;
                origins.note(setting.name.to_owned(), origin);
            }
        }
        let mut take = |flag: &'static str, name: &str| origins.note(name.to_owned(), Origin::Flag(flag));
        if let Some(directory) = &flags.rootfs_dir {
            config.rootfs_dir.clone_from(directory);
            take("rootfs-dir", "rootfs_dir");
        }
        if let Some(directory) = &flags.profiles_dir {
            config.profiles_dir.clone_from(directory);
            take("profiles-dir", "profiles_dir");
        }
        if let Some(choice) = flags.cgroup {
            config.cgroup = choice;
            take("cgroup", "cgroup");
        }
        config.file = file;
        config.origins = origins;
        Ok(config)
    }

    /// What holds where nothing is said. An ordinary user's cache is below their own directory.
    fn defaults(user_cache: Option<PathBuf>) -> Config {
        Config {
            rootfs_dir: PathBuf::from(crate::rootfs::DEFAULT_STORE),
            profiles_dir: PathBuf::from("/etc/sandboxd/profiles"),
            recipes_dir: PathBuf::from("/etc/sandboxd/rootfs"),
            cgroup: Choice::Auto,
            cgroup_parent: None,
            cache_dir: user_cache.unwrap_or_else(|| PathBuf::from("/var/cache/sandboxd")),
            file: None,
            origins: Origins::default(),
        }
    }

    /// The file that was read, if any.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// Every profile that is whole, and what is wrong with the others.
    pub fn profiles(&self) -> (Profiles, Vec<TomlError>) {
        let (profiles, problems, _) = self.profiles_and_texts();
        (profiles, problems)
    }

    /// As [`Config::profiles`], and the file name and text of each profile that is whole.
    pub fn profiles_and_texts(&self) -> (Profiles, Vec<TomlError>, Vec<(String, String)>) {
        let mut profiles = Profiles::default();
        let mut problems = Vec::new();
        let mut texts = Vec::new();
        let mut add = |profile: Result<Profile, TomlError>, file: &str, text: &str| {
            let added = profile.and_then(|profile| profiles.add(profile, file));
            added.map(|()| texts.push((file.to_owned(), text.to_owned()))).err()
        };
        for (file, text) in EMBEDDED_PROFILES {
            problems.extend(add(Profile::parse(file, text), file, text));
        }
        let listed = std::fs::read_dir(&self.profiles_dir);
        let listed = listed.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>());
        let mut own: Vec<PathBuf> = listed.unwrap_or_else(|error| {
            if error.kind() != std::io::ErrorKind::NotFound {
                problems.push(TomlError::new(&self.profiles_dir.display().to_string(), 1, error.to_string()));
            }
            Vec::new()
        });
        own.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        own.sort();
        for path in own {
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let file = path.display().to_string();
                    problems.extend(add(self.own_profile(&file, &text), &file, &text));
                }
                Err(error) => problems.push(TomlError::new(&path.display().to_string(), 1, error.to_string())),
            }
        }
        (profiles, problems, texts)
    }

    /// An operator's profile, of which more may be wrong than in those that came with the program: the image it names
    /// must be built or have a recipe, and one that is built must hold its programs.
    ///
    /// # Errors
    /// File, line and what is wrong.
    pub fn own_profile(&self, file: &str, text: &str) -> Result<Profile, TomlError> {
        let profile = Profile::parse(file, text)?;
        let line = |words: &str| text.lines().position(|line| line.contains(words)).map_or(1, |index| index + 1);
        if profile.rootfs == HOST_IMAGE {
            return Ok(profile);
        }
        let image = Store::open(&self.rootfs_dir).and_then(|store| Ok((store.image(&profile.rootfs)?, store)));
        match image {
            Ok((image, store)) => {
                for program in profile.commands().filter_map(|command| command.first()) {
                    if program.starts_with(WORKDIR) {
                        continue;
                    }
                    let paths: Vec<String> = match program.contains('/') {
                        true => vec![program.clone()],
                        false => PATH_DEFAULT.split(':').map(|directory| format!("{directory}/{program}")).collect(),
                    };
                    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
                    // A list that cannot be read is told by whoever needs the image.
                    if let Ok(false) = store.has_any(&image, &paths) {
                        let message = format!("command {program:?} is not in image {}", image.name);
                        return Err(TomlError::new(file, line(&format!("\"{program}\"")), message));
                    }
                }
            }
            Err(RootfsError::NotBuilt { .. } | RootfsError::UnknownImage { .. }) => {
                let recipes = Recipes::load(Some(self.recipes_dir.as_path()).filter(|directory| directory.is_dir()));
                // Recipes that cannot be read are told by whoever builds.
                if let Some(unknown) = recipes.ok().and_then(|recipes| recipes.get(&profile.rootfs).err()) {
                    let mut error = TomlError::new(file, line("rootfs"), unknown.to_string());
                    error.hint = unknown.hint();
                    return Err(error);
                }
            }
            // A damaged image is told by whoever needs it.
            Err(_) => {}
        }
        Ok(profile)
    }
}

fn user_cache(environment: &Environment) -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return None;
    }
    let cache = environment.get("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| environment.get("HOME").map(|home| Path::new(home).join(".cache")));
    cache.map(|cache| cache.join("sandboxd"))
}

/// By the words of the table's row.
impl Field for Choice {
    fn value(&self) -> Value {
        let word = match self {
            Choice::Auto => "auto",
            Choice::V2 => "v2",
            Choice::Hybrid => "hybrid",
            Choice::None => "none",
        };
        Value::Text(word.to_owned())
    }

    fn from_value(value: Value) -> Option<Choice> {
        match value {
            Value::Text(word) => match word.as_str() {
                "auto" => Some(Choice::Auto),
                "v2" => Some(Choice::V2),
                "hybrid" => Some(Choice::Hybrid),
                "none" => Some(Choice::None),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_that_cannot_be_listed_are_told_of_and_the_others_are_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let flags = Flags { profiles_dir: Some(file.path().to_owned()), ..Flags::default() };
        let (profiles, problems) = Config::load(&flags).unwrap().profiles();
        assert_eq!(profiles.iter().count(), EMBEDDED_PROFILES.len());
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(matches!(&told[..], [one] if one.contains(&*file.path().to_string_lossy())), "{told:?}");
    }

    #[test]
    fn every_embedded_profile_is_whole() {
        let config = Config::load(&Flags { profiles_dir: Some("/nonexistent".into()), ..Flags::default() }).unwrap();
        let (profiles, problems) = config.profiles();
        assert_eq!(problems, []);
        assert_eq!(profiles.iter().count(), EMBEDDED_PROFILES.len());
    }

    #[test]
    fn a_wrong_setting_names_file_line_and_the_nearest_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, "cgroup = \"auto\"\nrootfs_dri = \"/x\"\n").unwrap();
        let error = Config::load(&Flags { config: Some(path), ..Flags::default() }).unwrap_err().to_string();
        assert!(error.contains("config.toml:2: ") && error.contains("did you mean `rootfs_dir`?"), "{error}");
    }
}
