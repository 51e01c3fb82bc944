//! One process at a time changes a store. The lock is the kernel's (flock): it ends with its holder, however that ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::error::{Result, RootfsError};

pub struct StoreLock {
    _file: File,
}

/// What to do when someone else holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Contention {
    #[default]
    Wait,
    Fail,
}

impl StoreLock {
    /// `waiting` is called with the holder's description while it waits, and may end the waiting.
    pub fn take(
        path: &Path,
        what: &str,
        contention: Contention,
        waiting: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<StoreLock> {
        const RETRY: Duration = Duration::from_millis(100);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = options.map_err(RootfsError::io("open the lock", path))?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let holder = holder(&mut file);
                    if contention == Contention::Fail {
                        return Err(RootfsError::Locked { path: path.to_owned(), holder });
                    }
                    waiting(&holder)?;
                    std::thread::sleep(RETRY);
                }
                Err(errno) => return Err(RootfsError::io("lock", path)(errno.into())),
            }
        }
        // Only for the message above; the lock holds without it.
        let note = format!("process {} ({what})\n", std::process::id());
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(note.as_bytes()));
        written.map_err(RootfsError::io("write", path))?;
        Ok(StoreLock { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    const NOTE_BYTES_MAX: u64 = 256;
    let mut note = String::new();
    let read = file.rewind().and_then(|()| file.take(NOTE_BYTES_MAX).read_to_string(&mut note));
    match read {
        Ok(_) if !note.trim().is_empty() => note.trim().to_owned(),
        _ => "another process".to_owned(),
    }
}
