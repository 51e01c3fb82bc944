//! How a language is run: one strict TOML file each in `sandbox-profiles/`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::limits::{Limits, LimitsRequest};
use super::suggest;
use super::toml_error::{self, TomlError};

/// A language: its names, image, commands, environment and limits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The canonical name, as verdicts show it.
    pub name: String,
    #[serde(default)]
    pub aliases: Vec<String>,
    /// File name extensions without the dot.
    #[serde(default)]
    pub extensions: Vec<String>,
    /// The image its cells are made from.
    pub rootfs: String,
    /// Name of the program's file when the request gives code without a name.
    pub source: String,
    pub version: VersionCommand,
    /// Present when the program is compiled first, in a cell of its own.
    #[serde(default)]
    pub compile: Option<CompileStep>,
    pub run: Step,
    /// Environment of both steps, beside what every cell has.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Default limits of a run, on top of the service's.
    #[serde(default)]
    pub limits: LimitsRequest,
    /// Ceilings for what a request may ask, on top of the service's.
    #[serde(default)]
    pub greatest: LimitsRequest,
    /// System calls allowed beside the base policy, each with its reason.
    #[serde(default)]
    pub syscalls: Vec<SyscallAddition>,
}

/// One command; `{source}` stands for the absolute path of the program's file, `{memory_bytes}` for the step's limit,
/// of which runtimes with a heap of their own must know: they look at the machine's. A run's arguments follow it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub command: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompileStep {
    pub command: Vec<String>,
    /// Names or globs (`*` within a component) of the files that cross over into the run's work directory.
    pub artifacts: Vec<String>,
    #[serde(default)]
    pub limits: LimitsRequest,
}

/// The command that prints the toolchain's version; its first number with dots is the version.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionCommand {
    pub command: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyscallAddition {
    pub syscall: String,
    pub why: String,
}

impl Profile {
    /// Parses and checks one profile; `file` is its name in errors.
    ///
    /// # Errors
    /// File, line and what is wrong: unknown key (with the nearest valid one), empty command, a command that is not
    /// absolute or a bare name, a default above its own ceiling.
    pub fn parse(file: &str, text: &str) -> Result<Profile, TomlError> {
        let profile: Profile = toml_error::parse(file, text)?;
        let at = |key: &str, message: String| {
            let line = text.lines().position(|line| line.trim_start().starts_with(key)).map_or(1, |index| index + 1);
            Err(TomlError::new(file, line, message))
        };
        if profile.name.is_empty() || !profile.name.chars().all(|c| c.is_ascii_alphanumeric() || "+-#_.".contains(c)) {
            return at("name", format!("name {:?} is not made of letters, digits and `+-#_.`", profile.name));
        }
        let commands = [
            Some(&profile.run.command),
            profile.compile.as_ref().map(|compile| &compile.command),
            Some(&profile.version.command),
        ];
        for command in commands.into_iter().flatten() {
            match command.first() {
                None => return at("command", "command is empty; it needs at least the program to run".to_owned()),
                Some(first) if first.is_empty() || (first.contains('/') && !first.starts_with('/')) => {
                    return at(
                        "command",
                        format!("command {first:?} is neither absolute nor a bare name to look up in PATH"),
                    );
                }
                Some(_) => {}
            }
        }
        if let Some(artifacts) = profile.compile.as_ref().map(|compile| &compile.artifacts)
            && artifacts.is_empty()
        {
            return at("artifacts", "artifacts is empty: nothing of the compile step would reach the run".to_owned());
        }
        if let Err(error) = super::request::check_file_name(&profile.source) {
            return at("source", error.message);
        }
        if let Err(error) = profile.default_limits().check(&profile.greatest_limits(), &profile.name) {
            return at("[limits]", error.to_string());
        }
        if let Err(error) = profile.compile_limits().check(&profile.greatest_limits(), &profile.name) {
            return at("[compile.limits]", error.to_string());
        }
        Ok(profile)
    }

    /// Limits of a run that asks for none.
    pub fn default_limits(&self) -> Limits {
        Limits::default().overlay(&self.limits)
    }

    /// What a request may ask at most.
    pub fn greatest_limits(&self) -> Limits {
        Limits::greatest().overlay(&self.greatest)
    }

    /// Limits of the compile step: the profile's, never the request's, so that a small run can still be compiled.
    pub fn compile_limits(&self) -> Limits {
        let own = self.compile.as_ref().map(|compile| compile.limits.clone()).unwrap_or_default();
        self.default_limits().overlay(&own)
    }

    /// Every name this language answers to.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

/// All profiles that are whole, looked up by name, alias or extension.
#[derive(Debug, Clone, Default)]
pub struct Profiles {
    profiles: Vec<Profile>,
}

impl Profiles {
    /// Adds a profile; one of the same name is replaced (an operator's file replaces the embedded one).
    ///
    /// # Errors
    /// A name, alias or extension that another language has already.
    pub fn add(&mut self, profile: Profile, file: &str) -> Result<(), TomlError> {
        self.profiles.retain(|other| other.name != profile.name);
        for other in &self.profiles {
            if let Some(name) = profile.names().find(|name| other.names().any(|taken| taken.eq_ignore_ascii_case(name)))
            {
                return Err(TomlError::new(
                    file,
                    1,
                    format!("name `{name}` belongs to language `{}` already", other.name),
                ));
            }
            if let Some(extension) = profile.extensions.iter().find(|extension| other.extensions.contains(extension)) {
                return Err(TomlError::new(
                    file,
                    1,
                    format!("extension `{extension}` belongs to language `{}` already", other.name),
                ));
            }
        }
        self.profiles.push(profile);
        self.profiles.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.iter()
    }

    /// The language called `name`, case-insensitively, by canonical name or alias.
    pub fn by_name(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.names().any(|known| known.eq_ignore_ascii_case(name)))
    }

    /// The language whose files end in `extension` (without the dot).
    pub fn by_extension(&self, extension: &str) -> Option<&Profile> {
        self.profiles
            .iter()
            .find(|profile| profile.extensions.iter().any(|known| known.eq_ignore_ascii_case(extension)))
    }

    /// The known name nearest to a wrong one.
    pub fn nearest_name(&self, name: &str) -> Option<&str> {
        suggest::nearest(name, self.profiles.iter().flat_map(Profile::names))
    }

    /// The known extension nearest to a wrong one.
    pub fn nearest_extension(&self, extension: &str) -> Option<&str> {
        suggest::nearest(
            extension,
            self.profiles.iter().flat_map(|profile| profile.extensions.iter().map(String::as_str)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
name = "python"
aliases = ["py"]
extensions = ["py"]
rootfs = "python"
source = "main.py"
[version]
command = ["python3", "--version"]
[run]
command = ["python3", "{source}"]
"#;

    #[test]
    fn unknown_keys_and_empty_commands_are_refused_with_their_line() {
        let error = Profile::parse("p.toml", &SAMPLE.replace("aliases", "alias")).unwrap_err();
        assert_eq!((error.line, error.hint.as_deref()), (3, Some("did you mean `aliases`?")));
        let error = Profile::parse("p.toml", &SAMPLE.replace(r#"["python3", "{source}"]"#, "[]")).unwrap_err();
        assert!(error.to_string().contains("command is empty"), "{error}");
        let error = Profile::parse("p.toml", &SAMPLE.replace(r#""python3", "{"#, r#""bin/python3", "{"#)).unwrap_err();
        assert!(error.to_string().contains("neither absolute"), "{error}");
        let error = Profile::parse("p.toml", &format!("{SAMPLE}[limits]\nmemory_bytes = \"3G\"\n")).unwrap_err();
        assert!(error.to_string().contains("ceiling of 2G"), "{error}");
    }

    #[test]
    fn languages_are_found_by_name_alias_and_extension_and_near_misses_are_named() {
        let mut profiles = Profiles::default();
        profiles.add(Profile::parse("p.toml", SAMPLE).unwrap(), "p.toml").unwrap();
        assert!(profiles.by_name("PY").is_some() && profiles.by_extension("py").is_some());
        assert_eq!(profiles.nearest_name("pithon"), Some("python"));
        let twin = SAMPLE.replace(r#"name = "python""#, r#"name = "snake""#);
        assert!(profiles.add(Profile::parse("q.toml", &twin).unwrap(), "q.toml").is_err());
    }
}
