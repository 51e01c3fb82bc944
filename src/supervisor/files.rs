//! Files into a cell, and artefacts out of it.
//!
//! Into: one sealed memfd with all contents, read by init. Out: only once everything in the cell is dead, so that no
//! name can be swapped while it is looked at; every name is opened beneath the work directory without following a link
//! of any kind, must be a regular file, and is bounded in size. What a compiler left there was written by code that the
//! program's author may control.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags};

use crate::sandbox::cell::{CellError, StepFailure};
use crate::words::request::SourceFile;

/// Artefacts of one compile step: how many, and their bytes together.
const ARTIFACTS_MAX: usize = 256;
const ARTIFACT_BYTES_MAX: u64 = 256 << 20;
/// Directory entries looked at while searching for artefacts, and how deep.
const ENTRIES_MAX: usize = 4096;
const DEPTH_MAX: usize = 8;

/// The files of a start message: name, permission bits and size of each, contents one after the other.
pub struct Bundle {
    pub table: Vec<(CString, u32, u64)>,
    pub content: OwnedFd,
}

/// A file that crosses from the compile step to the run.
pub struct Artifact {
    name: CString,
    mode: u32,
    file: File,
    bytes: u64,
}

/// Packs a request's files and the artefacts of its compile step; an artefact replaces a source of its name.
///
/// # Errors
/// No memory or no descriptor for the bundle.
pub fn bundle(sources: &[&SourceFile], artifacts: &[Artifact]) -> Result<Bundle, CellError> {
    pack(sources, artifacts).map_err(|error| CellError::new("bundle_files", StepFailure::from(error)))
}

fn pack(sources: &[&SourceFile], artifacts: &[Artifact]) -> io::Result<Bundle> {
    let memfd = rustix::fs::memfd_create("files", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut content = File::from(memfd);
    let mut table = Vec::with_capacity(sources.len() + artifacts.len());
    for source in sources {
        let name = CString::new(source.name.as_str()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        if artifacts.iter().any(|artifact| artifact.name == name) {
            continue;
        }
        content.write_all(&source.content)?;
        table.push((name, 0o644, source.content.len() as u64));
    }
    for artifact in artifacts {
        let copied = io::copy(&mut (&artifact.file).take(artifact.bytes), &mut content)?;
        table.push((artifact.name.clone(), artifact.mode, copied));
    }
    content.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&content, seals)?;
    Ok(Bundle { table, content: content.into() })
}

/// Opens the files beneath `workdir` whose names match one of `globs`. The cell they are from must be dead.
///
/// # Errors
/// A sentence for the program's author: nothing matched, or too much did.
pub fn collect(workdir: Option<&OwnedFd>, globs: &[String]) -> Result<Vec<Artifact>, String> {
    let workdir = workdir.ok_or("the compile step's work directory is gone")?;
    let mut names = Vec::new();
    let mut left = ENTRIES_MAX;
    list(workdir.as_fd(), "", DEPTH_MAX, &mut left, &mut names)?;
    let mut artifacts = Vec::new();
    let mut bytes = 0;
    for name in names.into_iter().filter(|name| globs.iter().any(|glob| matches(glob, name))) {
        let artifact = open(workdir.as_fd(), &name)?;
        bytes += artifact.bytes;
        if bytes > ARTIFACT_BYTES_MAX {
            return Err(format!("the compile step left more than {ARTIFACT_BYTES_MAX} bytes of artifacts"));
        }
        artifacts.push(artifact);
        if artifacts.len() > ARTIFACTS_MAX {
            return Err(format!("the compile step left more than {ARTIFACTS_MAX} artifacts"));
        }
    }
    if artifacts.is_empty() {
        return Err(format!("the compile step succeeded but left no file called {}", globs.join(" or ")));
    }
    Ok(artifacts)
}

const HOW: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

fn open(workdir: BorrowedFd, name: &str) -> Result<Artifact, String> {
    let problem = |what: &str| format!("artifact {name:?} {what}");
    // O_NONBLOCK: a FIFO must not hold us up; O_NOCTTY: a terminal must not become ours.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(workdir, name, flags, Mode::empty(), HOW)
        .map_err(|errno| problem(&format!("cannot be opened: {errno}")))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| problem(&format!("cannot be read: {errno}")))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(problem("is not a regular file"));
    }
    let bytes = stat.st_size as u64;
    if bytes > ARTIFACT_BYTES_MAX {
        return Err(problem("is too large"));
    }
    let name = CString::new(name).map_err(|_| problem("has a NUL in its name"))?;
    // Permission bits only: a setuid bit would mean nothing (nosuid), and is not carried over anyway.
    Ok(Artifact { name, mode: stat.st_mode & 0o777, file: file.into(), bytes })
}

/// Names of everything but directories below `directory`, bounded in number and depth; names that are not UTF-8 are
/// left out, because no glob of a profile can mean them.
fn list(
    directory: BorrowedFd,
    prefix: &str,
    depth: usize,
    left: &mut usize,
    names: &mut Vec<String>,
) -> Result<(), String> {
    let io_problem = |errno: rustix::io::Errno| format!("the compile step's work directory cannot be read: {errno}");
    let entries = rustix::fs::Dir::read_from(directory).map_err(io_problem)?;
    for entry in entries {
        let entry = entry.map_err(io_problem)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        *left = left.checked_sub(1).ok_or(format!("the compile step left more than {ENTRIES_MAX} files"))?;
        let path = format!("{prefix}{name}");
        if entry.file_type() != rustix::fs::FileType::Directory {
            names.push(path);
            continue;
        }
        if depth == 0 {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let child = rustix::fs::openat2(directory, name, flags, Mode::empty(), HOW).map_err(io_problem)?;
        list(child.as_fd(), &format!("{path}/"), depth - 1, left, names)?;
    }
    Ok(())
}

/// Shell-like matching: `*` stands for any run of characters but `/`, `**/` for any directories.
fn matches(glob: &str, name: &str) -> bool {
    if let Some(rest) = glob.strip_prefix("**/") {
        return matches(rest, name) || name.split_once('/').is_some_and(|(_, below)| matches(glob, below));
    }
    match glob.split_once('*') {
        None => glob == name,
        Some((head, tail)) => {
            let Some(rest) = name.strip_prefix(head) else { return false };
            let end = rest.find('/').unwrap_or(rest.len());
            (0..=end).filter(|index| rest.is_char_boundary(*index)).any(|index| matches(tail, &rest[index..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_within_components() {
        assert!(matches("main", "main") && !matches("main", "main.c"));
        assert!(matches("*.class", "A$B.class") && !matches("*.class", "p/A.class"));
        assert!(matches("**/*.class", "p/q/A.class") && matches("**/*.class", "A.class"));
        assert!(!matches("*.js", "a.jsx"));
    }

    fn temporary() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let descriptor = File::open(directory.path()).unwrap().into();
        (directory, descriptor)
    }

    #[test]
    fn links_fifos_and_sparse_giants_are_refused_and_files_are_not() {
        let main = ["main".to_owned()];
        let refused = |make: &dyn Fn(&std::path::Path)| {
            let (directory, descriptor) = temporary();
            make(&directory.path().join("main"));
            collect(Some(&descriptor), &main).map(|_| ()).unwrap_err()
        };
        assert!(refused(&|path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap()).contains("cannot be opened"));
        assert!(refused(&|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()).contains("regular"));
        assert!(refused(&|path| File::create(path).unwrap().set_len(1 << 40).unwrap()).contains("too large"));
        assert!(refused(&|_| {}).contains("left no file"));

        let (directory, descriptor) = temporary();
        std::fs::write(directory.path().join("main"), b"\x7fELF").unwrap();
        assert_eq!(collect(Some(&descriptor), &main).unwrap().len(), 1);
    }

    #[test]
    fn a_directory_that_is_a_link_is_not_entered() {
        let (directory, descriptor) = temporary();
        std::os::unix::fs::symlink("/etc", directory.path().join("out")).unwrap();
        let found = collect(Some(&descriptor), &["**/passwd".to_owned()]).map(|_| ());
        assert!(found.unwrap_err().contains("left no file"));
    }

    #[test]
    fn a_bundle_is_sealed_and_an_artifact_replaces_its_source() {
        let (directory, descriptor) = temporary();
        std::fs::write(directory.path().join("a.js"), b"compiled").unwrap();
        let artifacts = collect(Some(&descriptor), &["*.js".to_owned()]).unwrap();
        let source = |name: &str| SourceFile { name: name.to_owned(), content: b"source".to_vec() };
        let (one, two) = (source("a.js"), source("b.ts"));
        let bundle = bundle(&[&one, &two], &artifacts).unwrap();
        let mut file = File::from(bundle.content);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "sourcecompiled");
        assert_eq!(bundle.table[1].2, 8);
        assert!(file.write_all(b"x").is_err());
    }
}
