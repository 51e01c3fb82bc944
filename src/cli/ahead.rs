//! What `sandboxd run` makes in a thread of its own, beside everything else of its start: a network namespace, which
//! depends on nothing of the run, and then the stage of its image. Each takes about as long as all the rest.

use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::machine::{Machine, MachineError};
use crate::sandbox::network;
use crate::sandbox::stage::Stage;
use crate::sandbox::sys;

pub(super) struct Ahead {
    thread: JoinHandle<Made>,
    image: mpsc::Sender<(Machine, String)>,
}

/// What cannot be made here is made, and its failure told, where it is needed.
pub(super) type Made = (Option<OwnedFd>, Option<Result<Stage, MachineError>>);

impl Ahead {
    /// Begins before the command line is parsed, if that is going to say that a program is to be run. `None` also where
    /// there is no room for a thread, and for an ordinary user, whose namespaces need one of users first.
    pub fn begin() -> Option<Ahead> {
        let runs = super::run_is_first() && std::env::args_os().all(|word| word != "--dry-run");
        if !runs || !nix::unistd::geteuid().is_root() {
            return None;
        }
        let (image, asked) = mpsc::channel::<(Machine, String)>();
        let make = move || {
            let network = network::make_aside().ok();
            let stage = asked.recv().ok().map(|(machine, name)| machine.stage_aside(&name));
            (network, stage)
        };
        let thread = std::thread::Builder::new().spawn(make).ok()?;
        // Nothing that it makes inherits where it runs.
        let _moved = sys::move_thread_elsewhere(&thread);
        Some(Ahead { thread, image })
    }

    /// Has the stage of image `name` built next.
    pub fn build_stage(&self, machine: &Machine, name: &str) {
        // The thread builds one; where it has ended there will be none, which is then built without it.
        let _ended = self.image.send((machine.clone(), name.to_owned()));
    }

    /// Waits for the thread: cells are cloned from a process of one thread.
    pub fn end(self) -> Made {
        drop(self.image);
        self.thread.join().unwrap_or_default()
    }
}
