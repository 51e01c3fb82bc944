//! What is asked: a program, its input and the limits it wants.

use super::limits::LimitsRequest;

/// One run as its author asks for it; nothing in it names a host path, a user or a mount. The contents of files travel
/// apart from it ([`SourceFile`]), so that whoever plans a run need not hold them.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Name or alias of a language; `None` lets the entry file's extension decide.
    pub language: Option<String>,
    pub program: Program,
    pub arguments: Vec<Vec<u8>>,
    /// Additional environment, in the order given; later entries win.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Files put into the work directory beside the program.
    pub files: Vec<FileEntry>,
    pub limits: LimitsRequest,
    /// The image to run in, in place of the profile's own.
    pub rootfs: Option<String>,
    /// Names or globs of files of the work directory that are to come back after the run.
    pub files_out: Vec<String>,
}

/// What to run.
#[derive(Debug, Clone)]
pub enum Program {
    /// A source file, run as its language's profile says.
    Source(FileEntry),
    /// A command of the image with its arguments (`sandboxd run -- COMMAND ARGS…`).
    Command(Vec<Vec<u8>>),
}

impl Default for Program {
    fn default() -> Program {
        Program::Command(Vec::new())
    }
}

/// A file of a request without its content: a name relative to the work directory, and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
}

/// A file of a request: a name relative to the work directory, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    pub name: String,
    pub content: Vec<u8>,
}

impl SourceFile {
    pub fn entry(&self) -> FileEntry {
        FileEntry { name: self.name.clone(), bytes: self.content.len() as u64 }
    }
}

/// A request that cannot be planned, in the caller's words. `field` is the part of the request that is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    pub field: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

impl RequestError {
    pub fn new(field: &'static str, message: impl Into<String>) -> RequestError {
        RequestError { field, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> RequestError {
        self.hint = Some(hint.into());
        self
    }
}

/// Bounds on the shape of a request, whatever its limits say.
pub mod bounds {
    /// Files in one request.
    pub const FILES_MAX: usize = 256;
    /// Bytes of all files together.
    pub const FILES_BYTES_MAX: u64 = 64 << 20;
    /// Names or globs of results.
    pub const FILES_OUT_MAX: usize = 32;
    /// Directories above a file's name.
    pub const NAME_DEPTH_MAX: usize = 8;
    /// Bytes of one component of a name, as everywhere in Linux.
    pub const NAME_COMPONENT_MAX: usize = 255;
    /// Bytes of arguments and environment together, with their terminators: what one message to a cell holds.
    pub const ARGUMENTS_BYTES_MAX: usize = 96 << 10;
    /// Arguments and environment entries together.
    pub const ARGUMENTS_MAX: usize = 4096;
}

/// Checks that `name` stays inside the work directory and is one that every tool can handle.
///
/// # Errors
/// Names that are empty, absolute, contain `.` or `..` as a component, NUL or control characters, or are too long or
/// too deep; the message shows the name escaped.
pub fn check_file_name(name: &str) -> Result<(), RequestError> {
    let refuse = |why: &str| Err(RequestError::new("files", format!("file name {name:?} {why}")));
    if name.is_empty() {
        return refuse("is empty");
    }
    if name.starts_with('/') {
        return refuse("is absolute: names are relative to the work directory");
    }
    if name.chars().any(char::is_control) {
        return refuse("contains a control character");
    }
    let mut depth = 0;
    for component in name.split('/') {
        depth += 1;
        match component {
            "" => return refuse("has an empty component"),
            "." | ".." => return refuse("has a `.` or `..` component: names stay inside the work directory"),
            long if long.len() > bounds::NAME_COMPONENT_MAX => return refuse("has a component of over 255 bytes"),
            _ => {}
        }
    }
    if depth > bounds::NAME_DEPTH_MAX {
        return refuse("is nested more than 8 deep");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_work_directory_or_confuse_tools_are_refused() {
        let long = "x".repeat(256);
        let bad = ["", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a\nb", "a\0b", "a/", &long, "a/b/c/d/e/f/g/h/i"];
        for name in bad {
            assert!(check_file_name(name).is_err(), "{name:?}");
        }
        for name in ["main.py", "src/a.c", "ünï.py", "with space", "-rf", "...", "a/b/c/d/e/f/g/h"] {
            assert!(check_file_name(name).is_ok(), "{name:?}");
        }
    }
}
