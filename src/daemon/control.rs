//! What the parent and the front say to each other: small messages over a SOCK_SEQPACKET pair, descriptors beside them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::RecvFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sandbox::{message, sys};

/// Longest message; what may be longer travels in a memfd.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// From the parent. What is handed over comes as a descriptor beside the message.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToFront {
    /// A memfd with a `Handover` as JSON: at the start, and at every reload.
    Configure,
    /// A socket that listens.
    Listen { unix: bool },
    /// The socket of a supervisor.
    Supervisor { generation: u64 },
    /// Everything was handed over: begin to serve.
    Serve,
    /// Are you there?
    Ping,
    /// Accept nothing more, let what runs end, and leave.
    Drain,
}

/// From the front.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromFront {
    /// It serves.
    Ready,
    /// It is there: its event loop turns.
    Pong,
    /// A new configuration is in force.
    Reloaded,
    /// It cannot take a configuration over; the one before stays.
    Refused { message: String },
}

/// One end of the socket.
pub struct Control(AsyncFd<OwnedFd>);

impl Control {
    /// # Errors
    /// The socket cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Control> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Control(sys::watch(socket, Interest::READABLE | Interest::WRITABLE)?))
    }

    /// # Errors
    /// The other end is gone; EMSGSIZE for a message that it would not take.
    pub async fn send<T: Serialize>(&self, message: &T, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        let descriptors: Vec<_> = descriptor.into_iter().map(AsFd::as_fd).collect();
        loop {
            let mut ready = self.0.writable().await?;
            match message::send(self.0.as_fd(), &bytes, &descriptors) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                result => return result.map_err(io::Error::from),
            }
        }
    }

    /// The next message; `None` when the other end is gone.
    ///
    /// # Errors
    /// What came is no message.
    pub async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX + 1];
        loop {
            let mut ready = self.0.readable().await?;
            match message::receive(self.0.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::ECONNRESET) | Ok((0, _)) => return Ok(None),
                Err(errno) => return Err(errno.into()),
                // The kernel cuts what is longer, so that it would be half a message.
                Ok((length, _)) if length > MESSAGE_BYTES_MAX => return Err(Errno::EMSGSIZE.into()),
                Ok((length, [descriptor, ..])) => match postcard::take_from_bytes(&buffer[..length]) {
                    Ok((message, [])) => return Ok(Some((message, descriptor))),
                    Ok(_) => return Err(io::Error::other("bytes follow the message")),
                    Err(error) => return Err(io::Error::other(error)),
                },
            }
        }
    }
}
