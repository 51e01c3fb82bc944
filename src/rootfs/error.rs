//! What can go wrong with root filesystems, each with its remedy.

use std::io;
use std::path::{Path, PathBuf};

use super::scan::Violation;

pub type Result<T> = std::result::Result<T, RootfsError>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    #[error("{}{}: {message}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Recipe { file: PathBuf, line: Option<usize>, message: String, hint: Option<String> },
    #[error("there is no recipe for an image named {name:?}")]
    UnknownImage { name: String, nearest: Option<String> },
    #[error("the image host is this machine's own /usr: there is nothing to build, verify or remove")]
    HostImage,
    #[error("the image {name} is not built")]
    NotBuilt { name: String, hint: String },
    #[error("the image {name} is incomplete: {} is missing", missing.display())]
    HalfBuilt { name: String, missing: PathBuf },
    #[error("the image {name} is damaged: {}: {reason}", path.display())]
    Damaged { name: String, path: PathBuf, reason: String },
    #[error("building root filesystems needs root")]
    NotRoot,
    #[error("{tool}: not found")]
    ToolMissing { tool: String, package: String },
    #[error("{tool} failed ({status}){}", log_tail(tail))]
    ToolFailed { tool: String, status: String, tail: Vec<String> },
    #[error("{} has {} MB free, building {what} needs {} MB", path.display(), have >> 20, need >> 20)]
    NoSpace { path: PathBuf, what: String, need: u64, have: u64 },
    #[error("{} is in use by {holder}", path.display())]
    Locked { path: PathBuf, holder: String },
    #[error("interrupted")]
    Interrupted,
    #[error("the layer {layer} would contain {} forbidden files: {}", violations.len(), violation_list(violations))]
    Forbidden { layer: String, violations: Vec<Violation> },
    #[error("{what} is not the expected one: its digest is {got}, the recipe says {expected}")]
    Integrity { what: String, expected: String, got: String },
    #[error("failed to {operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

impl RootfsError {
    pub(super) fn io(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> RootfsError {
        let path = path.as_ref().to_owned();
        move |source| RootfsError::Io { operation, path, source }
    }

    /// What the reader can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Recipe { hint, .. } => hint.clone(),
            Self::UnknownImage { nearest, .. } => match nearest {
                Some(nearest) => Some(format!("did you mean {nearest}?")),
                None => Some("`sandboxd rootfs list` names them all".into()),
            },
            Self::NotBuilt { hint, .. } => Some(hint.clone()),
            Self::HalfBuilt { name, .. } | Self::Damaged { name, .. } => {
                Some(format!("run `sandboxd rootfs build --force {name}`"))
            }
            Self::NotRoot => Some("run it with sudo, or as root".into()),
            Self::ToolMissing { package, .. } => Some(format!("apt-get install {package}")),
            Self::ToolFailed { tail, .. } => tool_hint(tail),
            Self::NoSpace { .. } => {
                Some("free some space, or choose another directory for the root filesystems".into())
            }
            Self::Locked { .. } => Some("wait until it has finished".into()),
            Self::Io { source, path, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some(format!("the disk of {} is full: free some space", path.display()))
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it with sudo, or as root".into())
            }
            Self::Integrity { .. } => Some("the archive was changed after the recipe was written; don't use it".into()),
            Self::HostImage | Self::Interrupted | Self::Forbidden { .. } | Self::Io { .. } => None,
        }
    }
}

/// Tools say the same few things in many words; the remedy is what the reader needs.
fn tool_hint(tail: &[String]) -> Option<String> {
    let said = |words: &[&str]| tail.iter().any(|line| words.iter().any(|word| line.contains(word)));
    if said(&["No space left on device", "ENOSPC"]) {
        return Some("the disk is full: free some space".into());
    }
    if said(&["NO_PUBKEY", "not signed", "keyring"]) {
        return Some("the archive's key is not known here: apt-get install debian-archive-keyring".into());
    }
    if said(&["Check-Valid-Until", "expired"]) {
        return Some("the mirror is out of date: see Acquire::Check-Valid-Until in apt.conf(5)".into());
    }
    let offline = [
        "Could not resolve",
        "Temporary failure resolving",
        "Could not connect",
        "Unable to connect",
        "Connection timed out",
        "Network is unreachable",
        "Failed to fetch",
        "ENOTFOUND",
        "EAI_AGAIN",
        "ECONNREFUSED",
        "ETIMEDOUT",
    ];
    if said(&offline) {
        return Some("the package archive could not be reached: check the network, the proxy and the mirror".into());
    }
    None
}

fn log_tail(tail: &[String]) -> String {
    tail.iter().fold(String::new(), |mut text, line| {
        text.push_str("\n    ");
        text.push_str(line);
        text
    })
}

fn violation_list(violations: &[Violation]) -> String {
    const SHOWN_MAX: usize = 20;
    let mut words: Vec<String> = violations.iter().take(SHOWN_MAX).map(Violation::to_string).collect();
    if violations.len() > SHOWN_MAX {
        words.push(format!("and {} more", violations.len() - SHOWN_MAX));
    }
    words.join(", ")
}
