//! `sandboxd serve`: the HTTP service.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::unistd::{Gid, Uid};

use super::serve_arguments::ServeArguments;
use super::{EXIT_SANDBOX_FAILED, say_error, say_warning};
use crate::config::{Config, Flags};
use crate::daemon::{front as front_process, parent};

pub fn main(flags: Flags, log_flags: Vec<OsString>, arguments: ServeArguments) -> anyhow::Result<ExitCode> {
    let child_flags = child_flags(&flags, log_flags);
    let load = move || {
        let config = Config::load(&flags)?;
        let service = config.service(arguments.flags())?;
        service.warnings.iter().for_each(|warning| say_warning(warning));
        Ok((config, service.settings))
    };
    parent::main(&parent::Options { load: Box::new(load), flags: child_flags })?;
    Ok(ExitCode::SUCCESS)
}

/// What the other processes need to be told again.
fn child_flags(flags: &Flags, log_flags: Vec<OsString>) -> Vec<OsString> {
    let mut words = log_flags;
    for (name, value) in
        [("--config", &flags.config), ("--rootfs-dir", &flags.rootfs_dir), ("--profiles-dir", &flags.profiles_dir)]
    {
        if let Some(value) = value {
            words.extend([name.into(), value.into()]);
        }
    }
    if let Some(choice) = flags.cgroup {
        words.extend(["--cgroup".into(), choice.word().into()]);
    }
    words
}

/// The process `sandboxd front`.
pub fn front(uid: u32, gid: u32) -> ExitCode {
    let control: std::io::Result<OwnedFd> = std::io::stdin().as_fd().try_clone_to_owned();
    let served = control
        .map_err(anyhow::Error::from)
        .and_then(|control| front_process::main(control, Uid::from_raw(uid), Gid::from_raw(gid)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&error);
            ExitCode::from(EXIT_SANDBOX_FAILED)
        }
    }
}
