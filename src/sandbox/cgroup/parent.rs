//! Our own parent group `sandboxd.<pid>`: making it, telling a live owner from a dead one, sweeping what the dead left.
//!
//! The owner keeps a lock (flock) on its parent group's directory for as long as it lives; the kernel drops the lock
//! with the process. A sweep takes a group only if it gets that lock, so a process id that was reused, or that means
//! another process in another pid namespace, neither saves a dead owner's group nor endangers a live one's.

use super::dir::{Dir, kernel};
use super::error::{CgroupError, Verb};
use rustix::io::Errno;
use std::{path::PathBuf, time::Duration};

/// All groups of ours begin with this; nothing else is ever removed.
pub(super) const PREFIX: &str = "sandboxd.";

#[derive(Debug)]
pub(super) struct Parent {
    base: Dir,
    name: String,
    /// Open and locked for as long as we live.
    group: Dir,
}

/// What a start found of dead owners.
#[derive(Debug, Default)]
pub struct Swept {
    pub removed: Vec<PathBuf>,
    pub errors: Vec<CgroupError>,
}

impl Parent {
    /// Makes and locks `<base>/<name>`; `make` creates the directory.
    pub fn create(
        base: Dir,
        name: &str,
        make: impl Fn(&Dir, &str) -> Result<(), CgroupError>,
    ) -> Result<Parent, CgroupError> {
        let (mut attempts_left, mut made) = (5, false);
        loop {
            let ready = match make(&base, name) {
                // From the attempt before, if nobody has swept it.
                Err(error) if made && error.errno() == Some(Errno::EXIST) => Ok(()),
                ready => ready,
            };
            made |= ready.is_ok();
            let error = match ready.and_then(|()| claim(&base, name)) {
                Ok(group) => return Ok(Parent { base, name: name.to_owned(), group }),
                Err(error) => error,
            };
            // Another supervisor's sweep can take the group between its creation and its lock; it is gone in a moment.
            attempts_left -= 1;
            let swept_meanwhile = matches!(error.errno(), Some(Errno::EXIST | Errno::NOENT | Errno::WOULDBLOCK));
            if !swept_meanwhile || attempts_left == 0 {
                let left = made.then(|| base.remove(name).err()).flatten();
                return Err(
                    error.with_cleanup(left.into_iter().filter(|left| left.errno() != Some(Errno::NOENT)).collect())
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn group(&self) -> &Dir {
        &self.group
    }

    /// Removes the group with whatever is left in it; may be repeated after an error.
    pub fn remove(&self) -> Vec<CgroupError> {
        let mut errors = Vec::new();
        // All cells are gone as a rule; only otherwise is the group listed and killed first.
        match self.base.remove_if_empty(&self.name) {
            Ok(true) => {}
            Ok(false) => destroy(&self.base, &self.name, MAX_DEPTH, &mut errors),
            Err(error) if error.errno() == Some(rustix::io::Errno::NOENT) => {}
            Err(error) => errors.push(error),
        }
        errors
    }
}

fn claim(base: &Dir, name: &str) -> Result<Dir, CgroupError> {
    let group = base.open_group(name)?;
    group.try_lock()?;
    if base.still_holds(name, &group)? { Ok(group) } else { Err(base.error(Verb::Lock, name, Errno::NOENT)) }
}

/// Kills and removes what dead `sandboxd.<pid>` owners left directly under `base`.
pub(super) fn sweep(base: &Dir, swept: &mut Swept) {
    let names = match base.groups() {
        Ok(names) => names,
        Err(error) => return swept.errors.push(error),
    };
    for name in names.iter().filter(|name| is_parent_name(name)) {
        let locked = base.open_group(name).and_then(|group| group.try_lock().map(|()| group));
        match locked {
            Ok(_lock) => {
                let errors_before = swept.errors.len();
                destroy(base, name, MAX_DEPTH, &mut swept.errors);
                if swept.errors.len() == errors_before {
                    swept.removed.push(base.path().join(name));
                }
            }
            // Alive, or somebody else is sweeping it.
            Err(error) if matches!(error.errno(), Some(Errno::WOULDBLOCK | Errno::NOENT)) => {}
            Err(error) => swept.errors.push(error),
        }
    }
}

fn is_parent_name(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).unwrap_or("");
    !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())
}

/// Cells have no groups below them; the bound is for whatever a foreign hand put there.
const MAX_DEPTH: u32 = 8;

fn destroy(base: &Dir, name: &str, depth: u32, errors: &mut Vec<CgroupError>) {
    match base.open_group(name) {
        Ok(group) => {
            match group.groups() {
                Ok(children) if depth > 0 => {
                    children.iter().for_each(|child| destroy(&group, child, depth - 1, errors));
                }
                Ok(_) => errors.push(kernel(Verb::Remove, group.path().to_owned(), None, Errno::LOOP)),
                Err(error) => errors.push(error),
            }
            match group.has("cgroup.kill") {
                Ok(true) => errors.extend(group.write("", "cgroup.kill", "1").err()),
                Ok(false) => {}
                Err(error) => errors.push(error),
            }
        }
        // Gone already: an earlier attempt got this far.
        Err(error) if error.errno() == Some(Errno::NOENT) => return,
        Err(error) => errors.push(error),
    }
    for outcome in [base.kill_listed(name), base.remove(name)] {
        errors.extend(outcome.err());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_our_own_names_are_swept() {
        for (name, ours) in [
            ("sandboxd.1", true),
            ("sandboxd.4194304", true),
            ("sandboxd.", false),
            ("sandboxd.supervisor", false),
            ("sandboxd.service", false),
            ("sandboxd.12x", false),
            ("xsandboxd.12", false),
            ("user.slice", false),
        ] {
            assert_eq!(super::is_parent_name(name), ours, "{name}");
        }
    }
}
