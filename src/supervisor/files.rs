//! Files into a cell, and artefacts out of it.
//!
//! Into: one sealed memfd with all contents, read by init. Out: only once everything in the cell is dead, so that no
//! name can be swapped while it is looked at; every name is opened beneath the work directory without following a link
//! of any kind, must be a regular file, and is bounded in size. What a compiler left there was written by code that the
//! program's author may control.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags};

use crate::plan::FilesOut;
use crate::sandbox::cell::{CellError, StepFailure};
use crate::words::request::SourceFile;
use crate::words::verdict::{Exit, Outcome};

/// What is carried out of one cell: how many files, their bytes together, and the bytes of their names together, which
/// travel in one message.
const CARRIED_MAX: usize = 256;
const CARRIED_BYTES_MAX: u64 = 256 << 20;
const CARRIED_NAME_BYTES_MAX: usize = 64 << 10;
/// Results of a run, likewise: they end up in an answer.
const RESULTS_MAX: usize = 64;
const RESULT_BYTES_MAX: u64 = 16 << 20;
/// Directory entries looked at while searching, and how deep.
const ENTRIES_MAX: usize = 4096;
const DEPTH_MAX: usize = 8;
/// Sentences about files that were left behind.
const PROBLEMS_MAX: usize = 16;

/// The files of a start message: name, permission bits and size of each, contents one after the other.
#[derive(Debug)]
pub struct Bundle {
    pub table: Vec<(CString, u32, u64)>,
    /// A sealed memfd.
    pub content: OwnedFd,
}

/// What came out of a cell: files, if there were any, and why others did not.
#[derive(Debug, Default)]
pub struct Carried {
    pub files: Option<Bundle>,
    pub problems: Vec<String>,
}

/// A file that was opened in a dead cell's work directory.
struct Opened {
    name: CString,
    mode: u32,
    file: File,
    bytes: u64,
}

impl Bundle {
    /// The contents with a position of their own, so that several cells can read the same bundle at once.
    ///
    /// # Errors
    /// No descriptor, or no /proc.
    pub fn share(&self) -> io::Result<OwnedFd> {
        Ok(File::open(format!("/proc/self/fd/{}", self.content.as_raw_fd()))?.into())
    }

    /// Each file's name and bytes.
    ///
    /// # Errors
    /// The memfd has not the size that its table says. The table may be that of a supervisor gone wrong: memory for it is
    /// asked for only once the bytes are known to be there.
    pub fn read(&self) -> io::Result<Vec<SourceFile>> {
        let size = rustix::fs::fstat(&self.content)?.st_size;
        if u64::try_from(size).ok() != Some(self.bytes()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "they are not as long as their table says"));
        }
        let mut content = File::from(self.share()?);
        let mut files = Vec::with_capacity(self.table.len());
        for (name, _, bytes) in &self.table {
            let mut file = SourceFile { name: name.to_string_lossy().into_owned(), content: vec![0; *bytes as usize] };
            content.read_exact(&mut file.content)?;
            files.push(file);
        }
        Ok(files)
    }

    /// As its table says; the greatest number there is stands for more.
    pub fn bytes(&self) -> u64 {
        self.table.iter().fold(0, |sum, (_, _, bytes)| sum.saturating_add(*bytes))
    }
}

/// Packs a request's files and what its compile step left; the latter replaces a source of its name.
///
/// # Errors
/// No memory or no descriptor for the bundle.
pub fn bundle(sources: &[&SourceFile], carried: Option<&Bundle>) -> Result<Bundle, CellError> {
    pack(sources, carried).map_err(|error| CellError::new("bundle_files", StepFailure::from(error)))
}

fn pack(sources: &[&SourceFile], carried: Option<&Bundle>) -> io::Result<Bundle> {
    let mut content = create()?;
    let mut table = Vec::with_capacity(sources.len());
    for source in sources {
        let name = CString::new(source.name.as_str()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        if carried.is_some_and(|carried| carried.table.iter().any(|(other, _, _)| *other == name)) {
            continue;
        }
        content.write_all(&source.content)?;
        table.push((name, 0o644, source.content.len() as u64));
    }
    if let Some(carried) = carried {
        io::copy(&mut File::from(carried.share()?).take(carried.bytes()), &mut content)?;
        table.extend(carried.table.iter().cloned());
    }
    seal(content, table)
}

fn create() -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("files", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?))
}

fn seal(mut content: File, table: Vec<(CString, u32, u64)>) -> io::Result<Bundle> {
    content.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&content, seals)?;
    Ok(Bundle { table, content: content.into() })
}

/// What comes out of a cell that ended with `outcome`; its work directory is asked for only if something is wanted.
pub fn carry(files_out: &FilesOut, outcome: &Outcome, workdir: impl FnOnce() -> Option<OwnedFd>) -> Carried {
    match files_out {
        FilesOut::None => Carried::default(),
        FilesOut::Results(globs) => collect_results(workdir().as_ref(), globs),
        FilesOut::Artifacts(_) if outcome.exit != Some(Exit::Code(0)) => Carried::default(),
        FilesOut::Artifacts(globs) => match collect(workdir().as_ref(), globs) {
            Ok(bundle) => Carried { files: Some(bundle), problems: Vec::new() },
            Err(problem) => Carried { files: None, problems: vec![problem] },
        },
    }
}

/// Takes the files beneath `workdir` whose names match one of `globs`: what a compile step must leave. The cell they are
/// from must be dead.
///
/// # Errors
/// A sentence for the program's author: nothing matched, or too much did.
fn collect(workdir: Option<&OwnedFd>, globs: &[String]) -> Result<Bundle, String> {
    let workdir = workdir.ok_or("the compile step's work directory is gone")?;
    let mut opened = Vec::new();
    let (mut bytes, mut name_bytes) = (0, 0);
    for name in matching(workdir, globs)? {
        let file = open(workdir.as_fd(), &name)?;
        bytes += file.bytes;
        name_bytes += name.len();
        if bytes > CARRIED_BYTES_MAX {
            return Err(format!("the compile step left more than {CARRIED_BYTES_MAX} bytes of artifacts"));
        }
        opened.push(file);
        if opened.len() > CARRIED_MAX || name_bytes > CARRIED_NAME_BYTES_MAX {
            return Err(format!("the compile step left more than {CARRIED_MAX} artifacts, or with too long names"));
        }
    }
    if opened.is_empty() {
        return Err(format!("the compile step succeeded but left no file called {}", globs.join(" or ")));
    }
    copy_out(&opened).map_err(|error| format!("the compile step's artifacts could not be read: {error}"))
}

/// Takes what a run wrote, as far as it is asked for, sound, and not too much; tells of the rest. The cell must be dead.
fn collect_results(workdir: Option<&OwnedFd>, globs: &[String]) -> Carried {
    let mut problems = Vec::new();
    let mut opened = Vec::new();
    let (mut bytes, mut name_bytes) = (0, 0);
    let names = match workdir {
        Some(workdir) => matching(workdir, globs),
        None => Err("the work directory is gone".to_owned()),
    };
    let names = names.unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
    for glob in globs {
        if problems.is_empty() && !names.iter().any(|name| matches(glob, name)) {
            problems.push(format!("no file matches {glob:?}"));
        }
    }
    for (name, workdir) in names.iter().zip(std::iter::repeat(workdir)) {
        let Some(workdir) = workdir else { break };
        match open(workdir.as_fd(), name) {
            Err(problem) => problems.push(problem),
            Ok(file) if bytes + file.bytes > RESULT_BYTES_MAX => {
                problems.push(format!("{name:?} is left out: results are over {RESULT_BYTES_MAX} bytes together"));
            }
            Ok(_) if opened.len() == RESULTS_MAX || name_bytes + name.len() > CARRIED_NAME_BYTES_MAX => {
                problems.push(format!("{name:?} and further ones are left out: more than {RESULTS_MAX} results"));
                break;
            }
            Ok(file) => {
                bytes += file.bytes;
                name_bytes += name.len();
                opened.push(file);
            }
        }
    }
    problems.truncate(PROBLEMS_MAX);
    let files = if opened.is_empty() { None } else { Some(copy_out(&opened)) };
    match files.transpose() {
        Ok(files) => Carried { files, problems },
        Err(error) => Carried { files: None, problems: vec![format!("the results could not be read: {error}")] },
    }
}

/// Copies, so that nothing that still happens to the files can reach what is read.
fn copy_out(opened: &[Opened]) -> io::Result<Bundle> {
    let mut content = create()?;
    let mut table = Vec::with_capacity(opened.len());
    for file in opened {
        let copied = io::copy(&mut (&file.file).take(file.bytes), &mut content)?;
        table.push((file.name.clone(), file.mode, copied));
    }
    seal(content, table)
}

fn matching(workdir: &OwnedFd, globs: &[String]) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let mut left = ENTRIES_MAX;
    list(workdir.as_fd(), "", DEPTH_MAX, &mut left, &mut names)?;
    names.retain(|name| globs.iter().any(|glob| matches(glob, name)));
    names.sort();
    Ok(names)
}

const HOW: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

fn open(workdir: BorrowedFd, name: &str) -> Result<Opened, String> {
    let problem = |what: &str| format!("file {name:?} {what}");
    // O_NONBLOCK: a FIFO must not hold us up; O_NOCTTY: a terminal must not become ours.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(workdir, name, flags, Mode::empty(), HOW)
        .map_err(|errno| problem(&format!("cannot be opened: {errno}")))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| problem(&format!("cannot be read: {errno}")))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(problem("is not a regular file"));
    }
    let bytes = stat.st_size as u64;
    if bytes > CARRIED_BYTES_MAX {
        return Err(problem("is too large"));
    }
    let name = CString::new(name).map_err(|_| problem("has a NUL in its name"))?;
    // Permission bits only: a setuid bit would mean nothing (nosuid), and is not carried over anyway.
    Ok(Opened { name, mode: stat.st_mode & 0o777, file: file.into(), bytes })
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
    let io_problem = |errno: rustix::io::Errno| format!("the work directory cannot be read: {errno}");
    let entries = rustix::fs::Dir::read_from(directory).map_err(io_problem)?;
    for entry in entries {
        let entry = entry.map_err(io_problem)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        *left = left.checked_sub(1).ok_or(format!("the work directory holds more than {ENTRIES_MAX} files"))?;
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
        assert_eq!(collect(Some(&descriptor), &main).unwrap().table.len(), 1);
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
        let bundle = bundle(&[&one, &two], Some(&artifacts)).unwrap();
        let mut file = File::from(bundle.share().unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "sourcecompiled");
        assert_eq!(bundle.table[1].2, 8);
        assert!(file.write_all(b"x").is_err() && File::from(bundle.content).write_all(b"x").is_err());
    }

    #[test]
    fn results_are_taken_as_far_as_they_are_sound_and_the_rest_is_told_of() {
        let (directory, descriptor) = temporary();
        std::fs::write(directory.path().join("plot.png"), b"png").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link.png")).unwrap();
        File::create(directory.path().join("giant.png")).unwrap().set_len(RESULT_BYTES_MAX + 1).unwrap();
        let carried = collect_results(Some(&descriptor), &["*.png".to_owned(), "none.csv".to_owned()]);
        let files = carried.files.unwrap().read().unwrap();
        assert_eq!(files, [SourceFile { name: "plot.png".to_owned(), content: b"png".to_vec() }]);
        let problems = carried.problems.join("; ");
        assert!(problems.contains("link.png") && problems.contains("giant.png"), "{problems}");
        assert!(problems.contains("no file matches \"none.csv\""), "{problems}");
    }
}
