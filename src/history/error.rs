//! What can go wrong with the history, each with its remedy.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    #[error("failed to {operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the history in {} is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error("{} is of version {found}, and this sandboxd knows versions up to {known}", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("failed to {operation} the history")]
    Database { operation: &'static str, source: rusqlite::Error },
    #[error("the history cannot be read at present")]
    Unavailable,
}

impl HistoryError {
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HistoryError {
        let path = path.to_owned();
        move |source| HistoryError::Io { operation, path, source }
    }

    pub(super) fn database(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> HistoryError {
        move |source| HistoryError::Database { operation, source }
    }

    /// What the reader can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { .. } => Some("the service's account must own the state directory and be able to write there"),
            Self::InUse { .. } => Some("give every service a state directory of its own"),
            Self::Newer { .. } => {
                Some("start the sandboxd that wrote it, or move the file away to begin a new history")
            }
            Self::Database { .. } => None,
            Self::Unavailable => Some("the log says why; it works again by itself when the cause is gone"),
        }
    }

    /// True for what may pass by itself, as a full disk.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Database { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(
                    ErrorCode::DiskFull
                        | ErrorCode::SystemIoFailure
                        | ErrorCode::DatabaseBusy
                        | ErrorCode::DatabaseLocked
                )
            ),
            Self::InUse { .. } | Self::Newer { .. } | Self::Unavailable => false,
        }
    }
}

/// True when the file is no database, or a broken one.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// True when the tables are not those its version has: somebody else's database, or half of ours.
pub(super) fn is_foreign(error: &rusqlite::Error) -> bool {
    let is_no_code_for_it = error.sqlite_error_code() == Some(ErrorCode::Unknown);
    is_no_code_for_it || matches!(error, rusqlite::Error::SqlInputError { .. })
}
