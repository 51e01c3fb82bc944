//! One cgroup directory held by descriptor, and everything done to groups through it.
//!
//! A cell's files are reached as `<cell>/<file>` relative to the descriptor of our own parent group: no absolute path
//! is resolved twice, and a cell costs no descriptor for its directory. Every operation is a fault point
//! (`cgroup.<verb>.<hierarchy or file>`), and every error names the file.

use super::error::{CgroupError, Verb};
use crate::sandbox::fault;
use rustix::{
    fs::{Access, AtFlags, FlockOperation, Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, Signal},
};
use std::{
    fmt::Write as _,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    /// Names the hierarchy in fault points: "memory", "pids", "v2".
    label: &'static str,
}

/// Content of a small kernel file, on the stack.
pub(super) struct Text {
    bytes: [u8; 1024],
    len: usize,
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Dir {
    /// The only use of an absolute path: the base directory found by the probe.
    pub fn open(path: &Path, label: &'static str) -> Result<Dir, CgroupError> {
        let opened = fault::check("cgroup.open", label)
            .and_then(|()| rustix::fs::open(path, DIRECTORY | OFlags::RDONLY, Mode::empty()));
        let fd = opened.map_err(|errno| kernel(Verb::Open, path.to_owned(), None, errno))?;
        Ok(Dir { fd, path: path.to_owned(), label })
    }

    /// Opens a child group for reading: this descriptor can be locked, listed and used as a base.
    pub fn open_group(&self, name: &str) -> Result<Dir, CgroupError> {
        let fd = self.open_at(name, DIRECTORY | OFlags::RDONLY, self.label)?;
        Ok(Dir { fd, path: self.path.join(name), label: self.label })
    }

    /// A descriptor that is good for nothing but naming the group, as clone3 wants it.
    pub fn open_group_for_clone(&self, name: &str) -> Result<OwnedFd, CgroupError> {
        self.open_at(name, DIRECTORY | OFlags::PATH, self.label)
    }

    pub fn open_file(&self, group: &str, file: &str, flags: OFlags) -> Result<OwnedFd, CgroupError> {
        self.open_at(&join(group, file), flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, file)
    }

    fn open_at(&self, name: &str, flags: OFlags, object: &str) -> Result<OwnedFd, CgroupError> {
        fault::check("cgroup.open", object)
            .and_then(|()| rustix::fs::openat(&self.fd, name, flags, Mode::empty()))
            .map_err(|errno| self.error(Verb::Open, name, errno))
    }

    pub fn create(&self, group: &str) -> Result<(), CgroupError> {
        fault::check("cgroup.create", self.label)
            .and_then(|()| rustix::fs::mkdirat(&self.fd, group, Mode::from_raw_mode(0o755)))
            .map_err(|errno| self.error(Verb::Create, group, errno))
    }

    /// Removes an empty group. The last process may not have left yet when its death was already reported: retry for
    /// about 50 ms and no longer, since the caller's thread waits with us.
    pub fn remove(&self, group: &str) -> Result<(), CgroupError> {
        let mut pause = Duration::from_micros(100);
        loop {
            let removed = fault::check("cgroup.remove", self.label)
                .and_then(|()| rustix::fs::unlinkat(&self.fd, group, AtFlags::REMOVEDIR));
            match removed {
                Ok(()) => return Ok(()),
                Err(Errno::BUSY) if pause < Duration::from_millis(50) => std::thread::sleep(pause),
                Err(errno) => return Err(self.error(Verb::Remove, group, errno)),
            }
            pause *= 2;
        }
    }

    /// Removes a group that holds neither processes nor groups; false when it holds some.
    pub fn remove_if_empty(&self, group: &str) -> Result<bool, CgroupError> {
        let removed = fault::check("cgroup.remove", self.label)
            .and_then(|()| rustix::fs::unlinkat(&self.fd, group, AtFlags::REMOVEDIR));
        match removed {
            Ok(()) => Ok(true),
            Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => Err(self.error(Verb::Remove, group, errno)),
        }
    }

    pub fn write(&self, group: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        let path = join(group, file);
        let written = fault::check("cgroup.write", file).and_then(|()| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let fd = rustix::fs::openat(&self.fd, path.as_str(), flags, Mode::empty())?;
            rustix::io::write(&fd, value.as_bytes())
        });
        match written {
            Ok(length) if length == value.len() => Ok(()),
            Ok(_) => Err(self.write_error(&path, value, Errno::IO)),
            Err(errno) => Err(self.write_error(&path, value, errno)),
        }
    }

    /// One read: the kernel hands out these files whole.
    pub fn read(&self, group: &str, file: &str) -> Result<Text, CgroupError> {
        let path = join(group, file);
        let mut bytes = [0; 1024];
        let read = fault::check("cgroup.read", file).and_then(|()| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let fd = rustix::fs::openat(&self.fd, path.as_str(), flags, Mode::empty())?;
            rustix::io::read(&fd, &mut bytes)
        });
        let len = read.map_err(|errno| self.error(Verb::Read, &path, errno))?;
        Ok(Text { bytes, len })
    }

    pub fn read_number(&self, group: &str, file: &str) -> Result<u64, CgroupError> {
        let text = self.read(group, file)?;
        text.number().ok_or_else(|| self.unexpected(group, file, &text))
    }

    /// A value of a flat keyed file, such as `oom_kill` of memory.events.
    pub fn read_keyed(&self, group: &str, file: &str, key: &str) -> Result<u64, CgroupError> {
        let text = self.read(group, file)?;
        text.keyed(key).ok_or_else(|| self.unexpected(group, file, &text))
    }

    /// # Errors
    /// Anything but a yes or a no: to take that for a no could leave a limit out.
    pub fn has(&self, file: &str) -> Result<bool, CgroupError> {
        match rustix::fs::accessat(&self.fd, file, Access::EXISTS, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error(Verb::Open, file, errno)),
        }
    }

    pub fn may_write(&self, file: &str) -> bool {
        rustix::fs::accessat(&self.fd, file, Access::WRITE_OK, AtFlags::empty()).is_ok()
    }

    /// Takes this group for as long as the descriptor lives; tells a live owner from a dead one without trusting
    /// process ids, which are reused and differ between pid namespaces.
    pub fn try_lock(&self) -> Result<(), CgroupError> {
        fault::check("cgroup.lock", self.label)
            .and_then(|()| rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive))
            .map_err(|errno| kernel(Verb::Lock, self.path.clone(), None, errno))
    }

    /// Whether `name` is still the directory `other` has open.
    pub fn still_holds(&self, name: &str, other: &Dir) -> Result<bool, CgroupError> {
        let opened = rustix::fs::fstat(&other.fd);
        match (rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW), opened) {
            (Ok(a), Ok(b)) => Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)),
            (Err(Errno::NOENT), _) => Ok(false),
            (Err(errno), _) | (_, Err(errno)) => Err(self.error(Verb::Open, name, errno)),
        }
    }

    /// Names of the child groups.
    pub fn groups(&self) -> Result<Vec<String>, CgroupError> {
        let listed = fault::check("cgroup.list", self.label).and_then(|()| {
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(&self.fd)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy();
                if entry.file_type() == rustix::fs::FileType::Directory && name != "." && name != ".." {
                    names.push(name.into_owned());
                }
            }
            Ok(names)
        });
        listed.map_err(|errno| kernel(Verb::List, self.path.clone(), None, errno))
    }

    /// Processes of a group (not of its children), however many.
    pub fn processes(&self, group: &str) -> Result<Vec<i32>, CgroupError> {
        let fd = self.open_file(group, "cgroup.procs", OFlags::RDONLY)?;
        let mut content = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let read = fault::check("cgroup.read", "cgroup.procs").and_then(|()| rustix::io::read(&fd, &mut chunk));
            match read.map_err(|errno| self.error(Verb::Read, &join(group, "cgroup.procs"), errno))? {
                0 => break,
                length => content.extend_from_slice(&chunk[..length]),
            }
        }
        Ok(String::from_utf8_lossy(&content).lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// SIGKILLs what is in a group until it is empty. A process id read from a file may already belong to somebody
    /// else, so a signal goes only through a pidfd whose process is still listed after the pidfd was opened.
    pub fn kill_listed(&self, group: &str) -> Result<(), CgroupError> {
        for _ in 0..KILL_ROUNDS {
            let listed = self.processes(group)?;
            if listed.is_empty() {
                return Ok(());
            }
            for batch in listed.chunks(64) {
                self.kill_batch(group, batch)?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(self.error(Verb::Kill, group, Errno::BUSY))
    }

    fn kill_batch(&self, group: &str, pids: &[i32]) -> Result<(), CgroupError> {
        let open = |pid: &i32| Some((*pid, rustix::process::pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty())));
        let opened: Vec<_> = pids.iter().filter_map(open).collect();
        let still = self.processes(group)?;
        for (_, pidfd) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
            let sent = match pidfd {
                Ok(pidfd) => fault::check("cgroup.kill", self.label)
                    .and_then(|()| rustix::process::pidfd_send_signal(pidfd, Signal::KILL)),
                Err(errno) => Err(*errno),
            };
            match sent {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(self.error(Verb::Kill, group, errno)),
            }
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn error(&self, verb: Verb, name: &str, errno: Errno) -> CgroupError {
        kernel(verb, self.path.join(name), None, errno)
    }

    fn write_error(&self, path: &str, value: &str, errno: Errno) -> CgroupError {
        kernel(Verb::Write, self.path.join(path), Some(value.to_owned()), errno)
    }

    fn unexpected(&self, group: &str, file: &str, text: &Text) -> CgroupError {
        CgroupError::Unexpected { path: self.path.join(join(group, file)), content: text.as_str().to_owned() }
    }
}

/// About two seconds: a killed process leaves within a tick unless it is stuck in the kernel.
const KILL_ROUNDS: u32 = 2_000;

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Text {
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }

    pub fn number(&self) -> Option<u64> {
        self.as_str().trim_end().parse().ok()
    }

    pub fn keyed(&self, key: &str) -> Option<u64> {
        let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok();
        self.as_str().lines().find_map(value)
    }

    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.as_str().split_whitespace()
    }
}

/// `group/file`, or the file of the directory itself where the group is "".
fn join(group: &str, file: &str) -> String {
    let mut path = String::with_capacity(group.len() + file.len() + 1);
    if !group.is_empty() {
        let _ = write!(path, "{group}/");
    }
    path.push_str(file);
    path
}

pub(super) fn kernel(verb: Verb, path: PathBuf, value: Option<String>, source: Errno) -> CgroupError {
    CgroupError::Kernel { verb, path, value, source }
}
