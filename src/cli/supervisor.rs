//! `sandboxd supervisor`: the privileged process of the service, which speaks the supervisor protocol on its stdin.
//!
//! Started by the service itself; a person has no use for it.

use std::process::ExitCode;

use crate::config::Config;
use crate::machine::{Machine, MachineError};
use crate::plan::HOST_IMAGE;
use crate::runner;
use crate::supervisor::server::{Images, Service, serve};
use crate::supervisor::{PoolSize, Supervisor};
use crate::words::request::RequestError;

/// The images of this machine; the second is whether its own programs may stand in for an image that is not built.
struct MachineImages(Machine, bool);

impl Images for MachineImages {
    fn stage(
        &self,
        supervisor: &mut Supervisor,
        asked: Option<&str>,
        own: Option<&str>,
    ) -> Result<String, RequestError> {
        let refuse = |error: MachineError| {
            let hint = error.hint();
            let refused = RequestError::new("rootfs", error.to_string());
            match hint {
                Some(hint) => refused.hint(hint),
                None => refused,
            }
        };
        let name = self.0.choose_rootfs(asked, own).map_err(refuse)?;
        if name == HOST_IMAGE && own.is_some_and(|own| own != HOST_IMAGE) && !self.1 {
            let refused = RequestError::new("rootfs", "the language's image is not built");
            return Err(refused.hint("sandboxd rootfs build, or use_host_image = true"));
        }
        self.0.stage(supervisor, &name).map_err(refuse)?;
        Ok(name)
    }
}

pub fn main(config: &Config, cells_max: usize, use_host_image: bool, pool: PoolSize) -> anyhow::Result<ExitCode> {
    let (profiles, problems) = config.profiles();
    for problem in &problems {
        tracing::error!(%problem, "profile left out");
    }
    // Each cell takes some fifteen descriptors; what is allowed at most is asked for.
    if let Ok((_, hard)) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let socket = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?;
    let mut machine = Machine::look(config)?;
    let mut supervisor = machine.supervisor()?;
    supervisor.keep(pool);
    let host = machine.host.clone();
    let runtime = runner::event_loop()?;
    let service = Service { supervisor, profiles, host, images: MachineImages(machine, use_host_image), cells_max };
    runtime.block_on(serve(socket, service))?;
    Ok(ExitCode::SUCCESS)
}
