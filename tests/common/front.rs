//! A supervisor process with a test in the place of its front.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use rustix::fs::{MemfdFlags, SealFlags};
use sandboxd::sandbox::message;
use sandboxd::supervisor::protocol::{FromSupervisor, Job, OutcomeWire, StopWire, ToSupervisor, decode, encode};

/// A supervisor process and the front's end of its socket.
pub struct Front {
    pub process: Child,
    pub socket: Option<OwnedFd>,
}

impl Front {
    pub fn start() -> Front {
        Front::start_with(&[])
    }

    pub fn start_with(flags: &[&str]) -> Front {
        let (near, far) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("a socket pair");
        let timeout = nix::sys::time::TimeVal::new(30, 0);
        setsockopt(&near, sockopt::ReceiveTimeout, &timeout).expect("a receive timeout");
        let process = super::sandboxd()
            .args(["supervisor", "--cells-max", "60"])
            .args(flags)
            .stdin(Stdio::from(far))
            .spawn()
            .expect("the supervisor starts");
        Front { process, socket: Some(near) }
    }

    pub fn socket(&self) -> &OwnedFd {
        self.socket.as_ref().expect("the front has not hung up")
    }

    pub fn send(&self, bytes: &[u8], descriptors: &[&OwnedFd]) {
        let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        message::send(self.socket().as_fd(), bytes, &borrowed).expect("the message is sent");
    }

    pub fn receive(&self) -> (FromSupervisor, Option<OwnedFd>) {
        let mut buffer = vec![0; 256 << 10];
        let flags = rustix::net::RecvFlags::empty();
        let (length, [descriptor, ..]) =
            message::receive(self.socket().as_fd(), &mut buffer, flags).expect("an answer within 30 s");
        (decode(&buffer[..length]).expect("an answer of the protocol"), descriptor)
    }

    /// Starts a job and returns the near end of its stdout.
    pub fn start_job(&self, job: Job, content: &OwnedFd) -> File {
        let (stdout_near, stdout_far) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let null: OwnedFd = File::options().read(true).write(true).open("/dev/null").unwrap().into();
        let (empty, _) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let bytes = encode(&ToSupervisor::Start(Box::new(job))).unwrap();
        self.send(&bytes, &[&empty, &stdout_far, &null, content]);
        stdout_near.into()
    }

    pub fn ended(&self) -> (u64, OutcomeWire) {
        match self.receive() {
            (FromSupervisor::Ended { job, outcome, .. }, _) => (job, outcome),
            other => panic!("not ended: {other:?}"),
        }
    }

    pub fn refused(&self) -> (u64, String, String) {
        match self.receive() {
            (FromSupervisor::Refused { job, field, message, .. }, _) => (job, field, message),
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Asks for the end of a job.
    pub fn stop(&self, job: u64) {
        self.send(&encode(&ToSupervisor::Stop { job, reason: StopWire::Canceled }).unwrap(), &[]);
    }

    pub fn hang_up(&mut self) {
        self.socket = None;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.process.try_wait().expect("the supervisor can be waited for").is_none() {
            assert!(Instant::now() < deadline, "the supervisor did not end with its front");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn groups(&self) -> Vec<String> {
        let name = format!("sandboxd.{}", self.process.id());
        super::leftovers().into_iter().filter(|found| found.ends_with(&name)).collect()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.socket = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn bundle(content: &[u8], sealed: bool) -> OwnedFd {
    let memfd = rustix::fs::memfd_create("files", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(memfd);
    file.write_all(content).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    if sealed {
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    }
    file.into()
}

pub fn shell(job: u64, script: &str) -> Job {
    let command = ["/bin/sh", "-c", script].map(|word| word.as_bytes().to_vec()).to_vec();
    Job { job, command, rootfs: Some("host".to_owned()), ..Job::default() }
}
