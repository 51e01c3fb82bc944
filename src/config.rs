//! The only reader of configuration files and environment: everything below receives values.
//!
//! A setting comes from, in rising order: its default, the file (`/etc/sandboxd/config.toml`, or the one that `--config`
//! or `SANDBOXD_CONFIG` names), the environment, a flag.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::sandbox::cgroup::Choice;
use crate::words::embedded::EMBEDDED_PROFILES;
use crate::words::profile::{Profile, Profiles};
use crate::words::toml_error::{self, TomlError};

const CONFIG_FILE: &str = "/etc/sandboxd/config.toml";

/// The settings in force.
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
}

/// Settings as flags name them; what is absent comes from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub rootfs_dir: Option<PathBuf>,
    pub profiles_dir: Option<PathBuf>,
    pub cgroup: Option<Choice>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    rootfs_dir: Option<PathBuf>,
    profiles_dir: Option<PathBuf>,
    recipes_dir: Option<PathBuf>,
    cgroup: Option<String>,
    cgroup_parent: Option<String>,
    cache_dir: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("failed to read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Toml(#[from] TomlError),
    #[error("{name} = {value:?} is not one of auto, v2, hybrid, none")]
    Cgroup { name: String, value: String },
}

impl Config {
    /// Reads every source.
    ///
    /// # Errors
    /// A file that was named and cannot be read, or says something that is no setting; with file and line.
    pub fn load(flags: &Flags) -> Result<Config, ConfigError> {
        let environment = |name: &str| std::env::var_os(format!("SANDBOXD_{name}")).filter(|value| !value.is_empty());
        let named = flags.config.clone().or_else(|| environment("CONFIG").map(PathBuf::from));
        let file = match &named {
            Some(path) => read_file(path)?,
            None if Path::new(CONFIG_FILE).exists() => read_file(Path::new(CONFIG_FILE))?,
            None => ConfigFile::default(),
        };
        let path = |flag: Option<&PathBuf>, name: &str, file: Option<PathBuf>, default: &str| {
            flag.cloned()
                .or_else(|| environment(name).map(PathBuf::from))
                .or(file)
                .unwrap_or_else(|| PathBuf::from(default))
        };
        let cgroup = match (flags.cgroup, environment("CGROUP"), &file.cgroup) {
            (Some(choice), _, _) => choice,
            (None, Some(value), _) => choice("SANDBOXD_CGROUP", &value.to_string_lossy())?,
            (None, None, Some(value)) => choice("cgroup", value)?,
            (None, None, None) => Choice::Auto,
        };
        let user_cache = environment_path("XDG_CACHE_HOME").or_else(|| Some(environment_path("HOME")?.join(".cache")));
        let cache_default = match user_cache {
            Some(directory) if !nix::unistd::geteuid().is_root() => directory.join("sandboxd"),
            _ => PathBuf::from("/var/cache/sandboxd"),
        };
        Ok(Config {
            rootfs_dir: path(flags.rootfs_dir.as_ref(), "ROOTFS_DIR", file.rootfs_dir, crate::rootfs::DEFAULT_STORE),
            profiles_dir: path(
                flags.profiles_dir.as_ref(),
                "PROFILES_DIR",
                file.profiles_dir,
                "/etc/sandboxd/profiles",
            ),
            recipes_dir: path(None, "RECIPES_DIR", file.recipes_dir, "/etc/sandboxd/rootfs"),
            cgroup,
            cgroup_parent: file.cgroup_parent,
            cache_dir: path(None, "CACHE_DIR", file.cache_dir, &cache_default.to_string_lossy()),
        })
    }

    /// Every profile that is whole, and what is wrong with the others.
    pub fn profiles(&self) -> (Profiles, Vec<TomlError>) {
        let mut profiles = Profiles::default();
        let mut problems = Vec::new();
        let mut add =
            |file: &str, text: &str| Profile::parse(file, text).and_then(|profile| profiles.add(profile, file)).err();
        for (file, text) in EMBEDDED_PROFILES {
            problems.extend(add(file, text));
        }
        let mut own: Vec<PathBuf> = match std::fs::read_dir(&self.profiles_dir) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(_) => Vec::new(),
        };
        own.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        own.sort();
        for path in own {
            match std::fs::read_to_string(&path) {
                Ok(text) => problems.extend(add(&path.display().to_string(), &text)),
                Err(error) => problems.push(TomlError::new(&path.display().to_string(), 1, error.to_string())),
            }
        }
        (profiles, problems)
    }
}

fn environment_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn read_file(path: &Path) -> Result<ConfigFile, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    Ok(toml_error::parse(&path.display().to_string(), &text)?)
}

fn choice(name: &str, value: &str) -> Result<Choice, ConfigError> {
    parse_choice(value).ok_or_else(|| ConfigError::Cgroup { name: name.to_owned(), value: value.to_owned() })
}

/// A cgroup setting by its word.
pub fn parse_choice(value: &str) -> Option<Choice> {
    Some(match value {
        "auto" => Choice::Auto,
        "v2" => Choice::V2,
        "hybrid" => Choice::Hybrid,
        "none" => Choice::None,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
