//! The command line and environment of a step.

use std::ffi::CString;

use super::c_string;
use crate::words::limits::Limits;
use crate::words::profile::Profile;
use crate::words::request::{FileEntry, Program, Request, RequestError, bounds};

/// Where a cell's files lie and its program starts.
pub const WORKDIR: &str = "/work";
/// Where bare command names are looked up.
pub const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// What is executed, settled down to the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Paths tried in turn.
    pub candidates: Vec<CString>,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    pub owner: CommandOwner,
}

/// Who named the program, and hence whose fault it is when it cannot be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOwner {
    /// The profile: an interpreter that is missing in the image is our failure.
    Profile,
    /// The author: a command that is not there, or a compiler's output that cannot be executed, is a verdict.
    Author,
}

/// The command of the run step.
pub(super) fn of_run(request: &Request, profile: Option<&Profile>, limits: &Limits) -> Result<Command, RequestError> {
    for bytes in &request.arguments {
        c_string(bytes, "args")?;
    }
    for (name, value) in &request.environment {
        if name.is_empty() || name.contains(&b'=') {
            let message = format!("{:?} is not a variable's name", String::from_utf8_lossy(name));
            return Err(RequestError::new("env", message).hint("write NAME=VALUE"));
        }
        c_string(name, "env")?;
        c_string(value, "env")?;
    }
    let command = match (&request.program, profile) {
        (Program::Source(source), Some(profile)) => {
            of_step(&profile.run.command, source, profile, limits, &request.arguments, &request.environment)
        }
        (Program::Source(_), None) => return Err(RequestError::new("language", "a source file needs a language")),
        (Program::Command(words), profile) => {
            let words: Vec<CString> = words.iter().map(|word| c_string(word, "command")).collect::<Result<_, _>>()?;
            let Some(first) = words.first().filter(|first| !first.is_empty()) else {
                return Err(RequestError::new("command", "the command is empty").hint("write: -- COMMAND [ARGS…]"));
            };
            let candidates = candidates(first.to_bytes());
            let arguments =
                words.into_iter().chain(request.arguments.iter().filter_map(|a| CString::new(a.as_slice()).ok()));
            Command {
                candidates,
                arguments: arguments.collect(),
                environment: environment(profile, &request.environment),
                owner: CommandOwner::Author,
            }
        }
    };
    let strings = || command.arguments.iter().chain(&command.environment);
    let bytes: usize = strings().map(|string| string.as_bytes_with_nul().len()).sum();
    if bytes > bounds::ARGUMENTS_BYTES_MAX || strings().count() > bounds::ARGUMENTS_MAX {
        let message = format!(
            "arguments and environment come to {bytes} bytes in {} strings; {} bytes in {} strings are allowed",
            strings().count(),
            bounds::ARGUMENTS_BYTES_MAX,
            bounds::ARGUMENTS_MAX
        );
        return Err(RequestError::new("args", message).hint("pass long input on stdin or in a file"));
    }
    Ok(command)
}

/// A profile's command with `{source}` and `{memory_bytes}` filled in, followed by `arguments`.
pub(super) fn of_step(
    words: &[String],
    source: &FileEntry,
    profile: &Profile,
    limits: &Limits,
    arguments: &[Vec<u8>],
    extra: &[(Vec<u8>, Vec<u8>)],
) -> Command {
    let path = format!("{WORKDIR}/{}", source.name);
    // Names and arguments were checked to hold no NUL, and a TOML string cannot; an empty string stands for nothing.
    let plain = |text: String| CString::new(text).unwrap_or_default();
    let first = words.first().cloned().unwrap_or_default();
    let memory_bytes = limits.memory_bytes.to_string();
    // The source last: its name is the request's and may itself hold a word in braces.
    let fill = |word: &String| plain(word.replace("{memory_bytes}", &memory_bytes).replace("{source}", &path));
    let own = words.iter().map(fill);
    let owner = if first.starts_with(WORKDIR) { CommandOwner::Author } else { CommandOwner::Profile };
    Command {
        candidates: candidates(first.as_bytes()),
        arguments: own.chain(arguments.iter().filter_map(|bytes| CString::new(bytes.as_slice()).ok())).collect(),
        environment: environment(Some(profile), extra),
        owner,
    }
}

/// Where to look for `program`: itself when it contains a slash, else every directory of the PATH.
fn candidates(program: &[u8]) -> Vec<CString> {
    let paths: Vec<Vec<u8>> = if program.contains(&b'/') {
        vec![program.to_vec()]
    } else {
        PATH_DEFAULT.split(':').map(|directory| [directory.as_bytes(), b"/", program].concat()).collect()
    };
    paths.into_iter().filter_map(|path| CString::new(path).ok()).collect()
}

/// Every cell's variables, the profile's, the request's; a later one replaces an earlier one of its name.
fn environment(profile: Option<&Profile>, extra: &[(Vec<u8>, Vec<u8>)]) -> Vec<CString> {
    let base =
        [("PATH", PATH_DEFAULT), ("HOME", WORKDIR), ("TMPDIR", "/tmp"), ("LANG", "C.UTF-8"), ("USER", "sandbox")];
    let mut variables: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let profile = profile.into_iter().flat_map(|profile| &profile.environment);
    let all = base
        .iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .chain(profile.map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes())))
        .chain(extra.iter().cloned());
    for (name, value) in all {
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => variables.push((name, value)),
        }
    }
    variables.into_iter().filter_map(|(name, value)| CString::new([name, b"=".to_vec(), value].concat()).ok()).collect()
}
