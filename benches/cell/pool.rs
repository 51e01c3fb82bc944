//! The supervisor as a process of its own, as a service has it: the time of one run after the other, and how many end in
//! a second when eight are always under way; each with cells prepared ahead and without.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::RecvFlags;
use sandboxd::sandbox::message;
use sandboxd::supervisor::protocol::{FromSupervisor, Job, ToSupervisor, decode, encode};

use crate::measure::{Row, Times};
use crate::{Outcome, TRUE, fork_and_execute, null};

/// Runs of one contestant before the next has its turn, and turns of each.
const BLOCK: usize = 40;
const TURNS: usize = 25;
/// Between two turns, so that nobody works ahead in the time of another.
const PAUSE: Duration = Duration::from_millis(30);
const AT_ONCE: usize = 8;

/// A supervisor process with this one in the place of its front.
struct Front {
    process: Child,
    socket: Option<OwnedFd>,
    descriptors: [OwnedFd; 4],
    image: String,
    job: u64,
}

impl Front {
    fn start(cells_per_shape: &str) -> Result<Front, Box<dyn std::error::Error>> {
        let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let process = Command::new(crate::program())
            .args(["supervisor", "--pool-cells-per-shape", cells_per_shape])
            .stdin(Stdio::from(far))
            .spawn()?;
        let files = rustix::fs::memfd_create("files", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::fcntl_add_seals(&files, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let descriptors = [null()?, null()?, null()?, files];
        Ok(Front { process, socket: Some(near), descriptors, image: crate::image()?, job: 0 })
    }

    fn socket(&self) -> io::Result<&OwnedFd> {
        self.socket.as_ref().ok_or_else(|| io::Error::other("hung up"))
    }

    fn send(&mut self) -> io::Result<()> {
        self.job += 1;
        let command = vec![TRUE.as_bytes().to_vec()];
        let job = Job { job: self.job, command, rootfs: Some(self.image.clone()), ..Job::default() };
        let bytes = encode(&ToSupervisor::Start(Box::new(job))).unwrap_or_default();
        let descriptors = self.descriptors.each_ref().map(AsFd::as_fd);
        Ok(message::send(self.socket()?.as_fd(), &bytes, &descriptors)?)
    }

    fn receive(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let (length, _) = message::receive(self.socket()?.as_fd(), &mut buffer, RecvFlags::empty())?;
        match buffer.get(..length).and_then(decode) {
            Some(FromSupervisor::Ended { outcome, .. }) if outcome.exit_code == Some(0) => Ok(()),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    /// One run after the other; the time of each.
    fn in_sequence(&mut self, times: &mut Vec<Duration>) -> io::Result<()> {
        for _ in 0..BLOCK {
            let began = Instant::now();
            self.send()?;
            self.receive()?;
            times.push(began.elapsed());
        }
        Ok(())
    }

    /// As many runs, several at any time; the time of one on the average.
    fn at_once(&mut self) -> io::Result<Duration> {
        let began = Instant::now();
        for _ in 0..AT_ONCE {
            self.send()?;
        }
        for _ in AT_ONCE..2 * BLOCK {
            self.receive()?;
            self.send()?;
        }
        for _ in 0..AT_ONCE {
            self.receive()?;
        }
        Ok(began.elapsed() / (2 * BLOCK) as u32)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.socket = None;
        let _ended = self.process.wait();
    }
}

/// What two processes that fork, execute and wait reach together: the time of one run on the average.
fn forks_on_two_cores() -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..BLOCK).for_each(|_| fork_and_execute(c"/usr/bin/true")));
        }
    });
    began.elapsed() / (2 * BLOCK) as u32
}

pub fn section() -> Outcome {
    let sizes = ["0", "2", "8"];
    let mut fronts = sizes.iter().map(|size| Front::start(size)).collect::<Result<Vec<_>, _>>()?;
    let mut bare = Vec::new();
    let mut bare_at_once = Vec::new();
    let mut sequence = vec![Vec::new(); fronts.len()];
    let mut at_once = vec![Vec::new(); fronts.len()];
    for front in &mut fronts {
        front.in_sequence(&mut Vec::new())?;
    }
    for _ in 0..TURNS {
        for _ in 0..BLOCK {
            let began = Instant::now();
            fork_and_execute(c"/usr/bin/true");
            bare.push(began.elapsed());
        }
        bare_at_once.push(forks_on_two_cores());
        for (index, front) in fronts.iter_mut().enumerate() {
            std::thread::sleep(PAUSE);
            front.in_sequence(&mut sequence[index])?;
            std::thread::sleep(PAUSE);
            at_once[index].push(front.at_once()?);
        }
        std::thread::sleep(PAUSE);
    }
    let (bare, bare_at_once) = (Times::new(bare), Times::new(bare_at_once));
    let mut rows = Vec::new();
    for (size, times) in sizes.iter().zip(sequence) {
        let name = format!("supervisor, one run after the other, {size} cells ahead");
        rows.push(Row::of_times(&name, &Times::new(times), ("bare fork+exec+wait", &bare), None));
    }
    for (size, times) in sizes.iter().zip(at_once) {
        let name = format!("supervisor, {AT_ONCE} runs at any time, {size} cells ahead");
        rows.push(Row::of_times(&name, &Times::new(times), ("fork+exec+wait on two cores", &bare_at_once), None));
    }
    Ok(rows)
}
