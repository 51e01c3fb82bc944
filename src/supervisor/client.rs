//! The front's end of the supervisor protocol.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::files::{Bundle, Carried};
use super::protocol::{FromSupervisor, Job, MESSAGE_BYTES_MAX, StopWire, ToSupervisor, decode, encode, table_of};
use crate::sandbox::{message, sys};
use crate::words::verdict::Outcome;

/// How a job came out.
#[derive(Debug)]
pub enum Reply {
    Ended {
        outcome: Outcome,
        carried: Carried,
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
    lost: AtomicBool,
}

impl Client {
    /// A client on the socket to a supervisor, and the task that takes its answers, which ends when the supervisor does.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn connect(socket: OwnedFd) -> io::Result<(Arc<Client>, impl Future<Output = io::Result<()>>)> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = sys::watch(socket, Interest::READABLE | Interest::WRITABLE)?;
        let client = Arc::new(Client {
            socket,
            waiting: Mutex::default(),
            next_job: AtomicU64::new(1),
            lost: AtomicBool::new(false),
        });
        let reader = Arc::clone(&client);
        Ok((client, async move {
            let ended = reader.take_answers().await;
            reader.lost.store(true, Ordering::Release);
            // Whoever still waits learns that nobody will answer.
            reader.lock().clear();
            ended
        }))
    }

    /// Starts `job` (its number is chosen here) with the descriptors stdin, stdout, stderr and files, which are the
    /// supervisor's when this returns.
    ///
    /// # Errors
    /// The job is too large for a message, or the supervisor is gone.
    pub async fn start(self: &Arc<Self>, mut job: Job, descriptors: [BorrowedFd<'_>; 4]) -> Result<Running, Reply> {
        job.job = self.next_job.fetch_add(1, Ordering::Relaxed);
        let number = job.job;
        let Some(bytes) = encode(&ToSupervisor::Start(Box::new(job))) else {
            let message = format!("the run's description is over {MESSAGE_BYTES_MAX} bytes");
            return Err(Reply::Refused { field: "args".to_owned(), message, hint: None });
        };
        let (answer, answered) = oneshot::channel();
        self.lock().insert(number, answer);
        // Held from before the message leaves: whoever drops this future wants no cell to run on.
        let running = Running { client: Arc::clone(self), number, answered };
        if self.is_lost() || self.send(&bytes, &descriptors).await.is_err() {
            return Err(Reply::Lost);
        }
        Ok(running)
    }

    /// Whether the supervisor is gone.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Jobs that wait for their end.
    pub fn load(&self) -> usize {
        self.lock().len()
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
                FromSupervisor::Ended { job, outcome, files, problems } => {
                    let files = descriptor.map(|content| Bundle { table: table_of(&files), content });
                    (job, Reply::Ended { outcome: outcome.into(), carried: Carried { files, problems } })
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

/// A job that was started. Dropped before its end, as when a client goes away, it asks for the end of its cell.
pub struct Running {
    client: Arc<Client>,
    number: u64,
    answered: oneshot::Receiver<Reply>,
}

impl Running {
    /// Waits for the end of the job; `stop` ends it early, and `signals` go to its program.
    pub async fn wait(mut self, stop: impl Future<Output = StopWire>, signals: &mut mpsc::Receiver<i32>) -> Reply {
        tokio::pin!(stop);
        let mut stopped = false;
        loop {
            let message = tokio::select! {
                reply = &mut self.answered => return reply.unwrap_or(Reply::Lost),
                reason = &mut stop, if !stopped => {
                    stopped = true;
                    ToSupervisor::Stop { job: self.number, reason }
                }
                Some(signal) = signals.recv() => ToSupervisor::Signal { job: self.number, signal },
            };
            if let Some(bytes) = encode(&message)
                && self.client.send(&bytes, &[]).await.is_err()
            {
                return Reply::Lost;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not there any more once it was answered.
        if self.client.lock().remove(&self.number).is_none() {
            return;
        }
        if let Some(bytes) = encode(&ToSupervisor::Stop { job: self.number, reason: StopWire::Canceled }) {
            // Without waiting: a full socket means that the supervisor is busy with others, and this job's own wall
            // clock ends it.
            let _full = message::send(self.client.socket.as_fd(), &bytes, &[]);
        }
    }
}
