//! How a language is run: one strict TOML file each in `sandbox-profiles/`.

use std::collections::BTreeMap;

use regex::Regex;
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
    /// Present when the syntax of a program can be checked without running it.
    #[serde(default)]
    pub check: Option<CheckStep>,
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

/// The command that checks a program's syntax and exits with 0 if there is nothing wrong with it, and how to read what it
/// prints.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckStep {
    pub command: Vec<String>,
    /// A regular expression, in multi-line mode, that finds each diagnostic in the output; `{source}` stands for the path of
    /// the program's file. Named groups: `message` and `line`, and where the tool tells them `column` (from 1) or `indent`
    /// (the blanks before the column), and `severity` (words with `warn` are warnings, those with `note` are left out).
    pub diagnostics: String,
}

/// What a check says about a place in a program; line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub line: u32,
    pub column: Option<u32>,
    pub message: String,
    pub is_warning: bool,
}

/// Diagnostics of one check; a reader learns nothing from more.
const DIAGNOSTICS_MAX: usize = 100;
/// Bytes of one diagnostic's message; the rest is cut.
const DIAGNOSTIC_BYTES_MAX: usize = 1024;

impl CheckStep {
    fn pattern(&self, source: &str) -> Result<Regex, regex::Error> {
        Regex::new(&format!("(?m){}", self.diagnostics.replace("{source}", &regex::escape(source))))
    }

    /// The diagnostics in `output`, at most 100 of them; `source` is the path that the check was given.
    pub fn read(&self, output: &str, source: &str) -> Vec<Diagnostic> {
        // The pattern was compiled when the profile was parsed; only the path in it is another.
        let Ok(pattern) = self.pattern(source) else { return Vec::new() };
        let mut diagnostics = Vec::new();
        for found in pattern.captures_iter(output) {
            let text = |name: &str| found.name(name).map(|group| group.as_str());
            let severity = text("severity").unwrap_or("error").to_ascii_lowercase();
            if severity.contains("note") {
                continue;
            }
            let indent = text("indent").map(|indent| indent.chars().count() as u32 + 1);
            let message = text("message").unwrap_or_default().trim();
            diagnostics.push(Diagnostic {
                line: text("line").and_then(|line| line.parse().ok()).unwrap_or(1),
                column: text("column").and_then(|column| column.parse().ok()).or(indent),
                message: message[..message.floor_char_boundary(DIAGNOSTIC_BYTES_MAX)].to_owned(),
                is_warning: severity.contains("warn"),
            });
            if diagnostics.len() == DIAGNOSTICS_MAX {
                break;
            }
        }
        diagnostics
    }
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
        for command in profile.commands() {
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
        if let Some(check) = &profile.check {
            match check.pattern("/") {
                Err(error) => return at("diagnostics", format!("diagnostics is no regular expression: {error}")),
                Ok(pattern) => {
                    for group in ["line", "message"] {
                        if !pattern.capture_names().any(|name| name == Some(group)) {
                            return at("diagnostics", format!("diagnostics has no group (?P<{group}>…)"));
                        }
                    }
                }
            }
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

    /// The commands of all its steps.
    pub fn commands(&self) -> impl Iterator<Item = &[String]> {
        let compile = self.compile.as_ref().map(|compile| &compile.command);
        let check = self.check.as_ref().map(|check| &check.command);
        let always = [&self.run.command, &self.version.command];
        compile.into_iter().chain(always).chain(check).map(Vec::as_slice)
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
    fn diagnostics_are_read_by_the_profiles_pattern() {
        let check = r#"
[check]
command = ["check", "{source}"]
diagnostics = '^{source}:(?P<line>[0-9]+):(?P<column>[0-9]+): (?P<severity>\w+): (?P<message>.*)$'
"#;
        let profile = Profile::parse("p.toml", &format!("{SAMPLE}{check}")).unwrap();
        let output = "/work/a+b.c:3:7: error: no\n/work/a+b.c:4:1: warning: hm\n/work/a+b.c:5:1: note: see\nelse\n";
        let read = profile.check.as_ref().unwrap().read(output, "/work/a+b.c");
        let read: Vec<_> = read.iter().map(|d| (d.line, d.column, d.message.as_str(), d.is_warning)).collect();
        assert_eq!(read, [(3, Some(7), "no", false), (4, Some(1), "hm", true)]);
        for (part, wrong, told) in
            [("(?P<line>", "(", "has no group (?P<line>"), ("(?P<line>", "((", "no regular expression")]
        {
            let error = Profile::parse("p.toml", &format!("{SAMPLE}{}", check.replacen(part, wrong, 1))).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
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
