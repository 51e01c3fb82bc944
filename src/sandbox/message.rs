//! One message with descriptors over a SOCK_SEQPACKET socket. Neither function allocates: init uses them too.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// Receives one message and up to four descriptors, all close-on-exec; a length of 0 is the end of the stream.
///
/// # Errors
/// recvmsg(2); EBADMSG for more descriptors, which are closed.
pub fn receive(
    socket: BorrowedFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> Result<(usize, [Option<OwnedFd>; 4]), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = loop {
        match rustix::net::recvmsg(socket, &mut parts, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result.map_err(errno)?,
        }
    };
    let mut descriptors = [const { None }; 4];
    let mut slots = descriptors.iter_mut();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            for descriptor in rights {
                *slots.next().ok_or(Errno::EBADMSG)? = Some(descriptor);
            }
        }
    }
    if received.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
        Err(Errno::EBADMSG)
    } else {
        Ok((received.bytes, descriptors))
    }
}

/// Sends one message with up to four descriptors.
///
/// # Errors
/// sendmsg(2); EPIPE, without a signal, when the other end is gone.
pub fn send(socket: BorrowedFd, message: &[u8], descriptors: &[BorrowedFd]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::EMSGSIZE);
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map_err(errno).map(drop),
        }
    }
}

pub(super) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
