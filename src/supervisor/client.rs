//! The front's end of the supervisor protocol.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::protocol::{FileWire, FromSupervisor, Job, MESSAGE_BYTES_MAX, StopWire, ToSupervisor, decode, encode};
use crate::sandbox::{message, sys};
use crate::words::verdict::Outcome;

/// How a job came out.
#[derive(Debug)]
pub enum Reply {
    Ended {
        outcome: Outcome,
        artifacts: Vec<FileWire>,
        content: Option<OwnedFd>,
    },
    /// The request is at fault.
    Refused {
        field: String,
        message: String,
        hint: Option<String>,
    },
    /// The sandbox is at fault.
    Failed {
        step: String,
        message: String,
    },
    /// The supervisor is gone, and every cell with it.
    Lost,
}

/// A connection to a supervisor, shared by all requests of the front.
pub struct Client {
    socket: AsyncFd<OwnedFd>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    next_job: AtomicU64,
}

impl Client {
    /// A client on the socket to a supervisor, and the task that takes its answers, which ends when the supervisor does.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn connect(socket: OwnedFd) -> io::Result<(Arc<Client>, impl Future<Output = io::Result<()>>)> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = sys::watch(socket, Interest::READABLE | Interest::WRITABLE)?;
        let client = Arc::new(Client { socket, waiting: Mutex::default(), next_job: AtomicU64::new(1) });
        let reader = Arc::clone(&client);
        Ok((client, async move {
            let ended = reader.take_answers().await;
            // Whoever still waits learns that nobody will answer.
            reader.lock().clear();
            ended
        }))
    }

    /// Runs `job` (its number is chosen here) with the descriptors stdin, stdout, stderr and files; `stop` ends it early.
    pub async fn run(
        &self,
        mut job: Job,
        descriptors: [BorrowedFd<'_>; 4],
        stop: impl Future<Output = StopWire>,
    ) -> Reply {
        job.job = self.next_job.fetch_add(1, Ordering::Relaxed);
        let number = job.job;
        let Some(bytes) = encode(&ToSupervisor::Start(Box::new(job))) else {
            let message = format!("the run's description is over {MESSAGE_BYTES_MAX} bytes");
            return Reply::Refused { field: "args".to_owned(), message, hint: None };
        };
        let (answer, mut answered) = oneshot::channel();
        self.lock().insert(number, answer);
        // Dropped with the future itself, as when a client goes away: the cell must not run on.
        let guard = StopOnDrop { client: self, number };
        if self.send(&bytes, &descriptors).await.is_err() {
            return Reply::Lost;
        }
        tokio::pin!(stop);
        let reply = tokio::select! {
            reply = &mut answered => reply,
            reason = &mut stop => {
                let stop = encode(&ToSupervisor::Stop { job: number, reason });
                if let Some(bytes) = stop && self.send(&bytes, &[]).await.is_err() {
                    return Reply::Lost;
                }
                answered.await
            }
        };
        std::mem::forget(guard);
        reply.unwrap_or(Reply::Lost)
    }

    async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.socket.writable().await?;
            match message::send(self.socket.as_fd(), bytes, descriptors) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                result => return result.map_err(io::Error::from),
            }
        }
    }

    async fn take_answers(&self) -> io::Result<()> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX + 1];
        loop {
            let mut ready = self.socket.readable().await?;
            let (length, [descriptor, ..]) =
                match message::receive(self.socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
                    Err(Errno::EAGAIN) => {
                        ready.clear_ready();
                        continue;
                    }
                    Err(errno) => return Err(errno.into()),
                    Ok((0, _)) => return Ok(()),
                    Ok(received) => received,
                };
            let answer = buffer.get(..length).and_then(decode::<FromSupervisor>);
            let answer = answer.ok_or_else(|| io::Error::other("the supervisor's answer is none of this protocol"))?;
            let (job, reply) = match answer {
                FromSupervisor::Ended { job, outcome, artifacts } => {
                    (job, Reply::Ended { outcome: outcome.into(), artifacts, content: descriptor })
                }
                FromSupervisor::Refused { job, field, message, hint } => (job, Reply::Refused { field, message, hint }),
                FromSupervisor::Failed { job, step, message } => (job, Reply::Failed { step, message }),
            };
            let waiting = self.lock().remove(&job);
            if let Some(waiting) = waiting {
                // Whoever asked may have gone meanwhile.
                let _gone = waiting.send(reply);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Reply>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for the end of a job whose asker is gone.
struct StopOnDrop<'a> {
    client: &'a Client,
    number: u64,
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.client.lock().remove(&self.number);
        if let Some(bytes) = encode(&ToSupervisor::Stop { job: self.number, reason: StopWire::Canceled }) {
            // Without waiting: a full socket means that the supervisor is busy with others, and this job's own wall
            // clock ends it.
            let _full = message::send(self.client.socket.as_fd(), &bytes, &[]);
        }
    }
}
