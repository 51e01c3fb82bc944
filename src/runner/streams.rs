//! The streams of a step: pipes out of the cell, stdin into it.
//!
//! Output is read as it comes, capped strictly (the byte that passes a cap is never kept), and what is over is counted.
//! Nothing is buffered beyond one chunk, unless the sink is asked to capture.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::pipe::PipeFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc};

use crate::sandbox::sys;
use crate::words::limits::Limits;
use crate::words::verdict::OutputFacts;

/// Bytes read from a pipe at once.
const CHUNK_BYTES: usize = 64 << 10;
/// A pipe that polls writable takes at least this much without blocking (POSIX: PIPE_BUF).
const SURE_WRITE_BYTES: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    Compile,
    Run,
}

/// What a program reads.
pub enum Stdin {
    Empty,
    /// Copied into the cell as it is read there; the payload never holds the descriptor itself.
    Copy(OwnedFd),
    Bytes(Bytes),
    /// As it comes, until the sender is dropped.
    Channel(mpsc::Receiver<Bytes>),
}

/// Where output goes.
pub enum Sink {
    /// Kept, for an answer in one piece.
    Capture(Captured),
    /// Written to this process's own stdout and stderr as it comes.
    Forward { stdout: Option<Output>, stderr: Option<Output> },
    /// Given to somebody who keeps the order of both streams.
    Record(Arc<dyn Recorder>),
}

/// Takes output as it comes.
pub trait Recorder: Send + Sync {
    fn begin(&self, kind: StepKind);

    /// Takes `bytes`, which are within the caps; returns how long to wait before the next are read.
    fn output(&self, kind: StepKind, stream: Stream, bytes: &[u8]) -> Duration;
}

/// Output that was kept.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// The output can go nowhere any more: its reader is gone, its disk is full, or nobody wants to wait for it.
#[derive(Debug)]
pub struct SinkClosed(pub io::Error);

/// A descriptor that output is forwarded to without ever blocking this thread, which also watches the clock.
pub struct Output {
    descriptor: BorrowedFd<'static>,
    /// `None` for a regular file, which epoll refuses and which is always ready.
    events: Option<AsyncFd<BorrowedFd<'static>>>,
}

impl Output {
    fn new(descriptor: BorrowedFd<'static>) -> Output {
        let events = sys::watch(descriptor, Interest::WRITABLE).ok();
        Output { descriptor, events }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // The descriptor is shared with other processes and must stay as they know it, so O_NONBLOCK is not an
            // option: writability is asked for, and no more is written than it promises to take.
            let part = match &self.events {
                Some(events) => {
                    let mut ready = events.writable().await?;
                    // Told once per change: what is still writable now is never announced again.
                    if !is_writable(self.descriptor) {
                        ready.clear_ready();
                        continue;
                    }
                    &bytes[..bytes.len().min(SURE_WRITE_BYTES)]
                }
                None => bytes,
            };
            match rustix::io::write(self.descriptor, part) {
                Ok(written) => bytes = &bytes[written..],
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

fn is_writable(descriptor: BorrowedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut events = [PollFd::new(descriptor, PollFlags::POLLOUT)];
    poll(&mut events, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

impl Sink {
    pub fn capture() -> Sink {
        Sink::Capture(Captured::default())
    }

    /// To this process's own stdout and stderr.
    pub fn forward() -> Sink {
        let stdout = Output::new(rustix::stdio::stdout());
        let stderr = Output::new(rustix::stdio::stderr());
        Sink::Forward { stdout: Some(stdout), stderr: Some(stderr) }
    }

    pub(super) fn begin(&self, kind: StepKind) {
        if let Sink::Record(recorder) = self {
            recorder.begin(kind);
        }
    }

    async fn take(&mut self, kind: StepKind, stream: Stream, bytes: &[u8]) -> Result<(), SinkClosed> {
        match self {
            Sink::Capture(captured) => {
                match stream {
                    Stream::Stdout => captured.stdout.extend_from_slice(bytes),
                    Stream::Stderr => captured.stderr.extend_from_slice(bytes),
                }
                Ok(())
            }
            Sink::Record(recorder) => {
                let pause = recorder.output(kind, stream, bytes);
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                Ok(())
            }
            Sink::Forward { stdout, stderr } => {
                // What a compiler prints is about the program, not of it.
                let output = if kind == StepKind::Run && stream == Stream::Stdout { stdout } else { stderr };
                let Some(open) = output else { return Ok(()) };
                open.write_all(bytes).await.map_err(|error| {
                    *output = None;
                    SinkClosed(error)
                })
            }
        }
    }

    fn finish(&mut self) -> Captured {
        match self {
            Sink::Capture(captured) => std::mem::take(captured),
            Sink::Forward { .. } | Sink::Record(_) => Captured::default(),
        }
    }
}

/// The cell's ends of its streams.
pub struct Far {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Our ends.
pub struct Near {
    pub stdin: Option<(Stdin, pipe::Sender)>,
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
}

/// Makes the pipes of one step.
///
/// # Errors
/// EMFILE or ENFILE.
pub fn open(stdin: Stdin) -> io::Result<(Far, Near)> {
    let (stdin_far, stdin_near) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (stdout_near, stdout_far) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr_near, stderr_far) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    for far in [&stdin_far, &stdout_far, &stderr_far] {
        // A program that opens /dev/stderr opens the pipe anew, as another user than the one who made it. Nobody but the
        // cell can find the pipe to open it.
        rustix::fs::fchmod(far, rustix::fs::Mode::from_raw_mode(0o666))?;
    }
    let stdin = match stdin {
        Stdin::Empty => None,
        source => Some((source, pipe::Sender::from_owned_fd(stdin_near)?)),
    };
    let far = Far { stdin: stdin_far, stdout: stdout_far, stderr: stderr_far };
    let stdout = pipe::Receiver::from_owned_fd(stdout_near)?;
    Ok((far, Near { stdin, stdout, stderr: pipe::Receiver::from_owned_fd(stderr_near)? }))
}

/// What [`collect`] saw.
pub struct Collected {
    pub facts: OutputFacts,
    pub captured: Captured,
    pub sink_closed: Option<SinkClosed>,
    /// Why a stream could not be read to its end: what it still had is lost.
    pub broken: Option<io::Error>,
}

/// Reads both streams to their ends. Calls `overflow` once a cap is passed or nobody reads any more; the rest is then
/// read and counted until the cell is dead. `canceled` ends the wait for a reader that neither reads nor goes away.
pub async fn collect(
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    limits: &Limits,
    kind: StepKind,
    sink: &mut Sink,
    overflow: &Notify,
    canceled: &Notify,
) -> Collected {
    let mut facts = OutputFacts::default();
    let (mut sink_closed, mut broken) = (None, None);
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
    while stdout.is_some() || stderr.is_some() {
        let stream = tokio::select! {
            () = ready(stdout.as_ref()), if stdout.is_some() => Stream::Stdout,
            () = ready(stderr.as_ref()), if stderr.is_some() => Stream::Stderr,
        };
        let source = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
        let Some(pipe) = source else { continue };
        let length = match pipe.try_read(&mut buffer) {
            Ok(0) => {
                *source = None;
                continue;
            }
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(error) => {
                *source = None;
                broken = Some(error);
                overflow.notify_one();
                continue;
            }
        };
        let kept = keep(&mut facts, stream, length as u64, limits);
        if (kept as usize) < length {
            overflow.notify_one();
        }
        if kept == 0 || sink_closed.is_some() {
            continue;
        }
        let taken = tokio::select! {
            taken = sink.take(kind, stream, &buffer[..kept as usize]) => taken,
            () = canceled.notified() => Err(SinkClosed(io::ErrorKind::Interrupted.into())),
        };
        if let Err(closed) = taken {
            sink_closed = Some(closed);
            overflow.notify_one();
        }
    }
    Collected { facts, captured: sink.finish(), sink_closed, broken }
}

async fn ready(pipe: Option<&pipe::Receiver>) {
    if let Some(pipe) = pipe {
        // An error shows on the read that follows.
        let _ = pipe.readable().await;
    }
}

/// Books `length` bytes of `stream`; returns how many of them are within the caps.
fn keep(facts: &mut OutputFacts, stream: Stream, length: u64, limits: &Limits) -> u64 {
    let total_left = limits.output_bytes.saturating_sub(facts.stdout_bytes + facts.stderr_bytes);
    let (kept, cut, cap) = match stream {
        Stream::Stdout => (&mut facts.stdout_bytes, &mut facts.stdout_truncated_bytes, limits.stdout_bytes),
        Stream::Stderr => (&mut facts.stderr_bytes, &mut facts.stderr_truncated_bytes, limits.stderr_bytes),
    };
    // Once something was cut, nothing that comes later is kept: the text would have a hole.
    let left = if *cut > 0 { 0 } else { cap.saturating_sub(*kept).min(total_left) };
    let now = length.min(left);
    *kept += now;
    *cut += length - now;
    now
}

/// Copies stdin into the cell until its end, or until the payload stops reading. Any size, one chunk at a time.
pub async fn pump(stdin: Option<(Stdin, pipe::Sender)>) {
    // Every error means that the cell reads no more, or that the source has no more.
    let _ = match stdin {
        None | Some((Stdin::Empty, _)) => Ok(()),
        Some((Stdin::Copy(source), sender)) => pump_descriptor(&source, &sender).await,
        Some((Stdin::Bytes(bytes), sender)) => write_all(&sender, &bytes).await,
        Some((Stdin::Channel(mut channel), sender)) => {
            async {
                while let Some(bytes) = channel.recv().await {
                    write_all(&sender, &bytes).await?;
                }
                Ok(())
            }
            .await
        }
    };
}

async fn pump_descriptor(source: &OwnedFd, sender: &pipe::Sender) -> io::Result<()> {
    // Files are always ready, and epoll refuses them.
    let events = sys::watch(source.as_fd(), Interest::READABLE).ok();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        if let Some(events) = &events {
            let mut ready = events.readable().await?;
            // Told once per change: what is left unread after one chunk is never announced again.
            if !is_readable(source.as_fd()) {
                ready.clear_ready();
                continue;
            }
        }
        let length = match rustix::io::read(source, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            Err(errno) => return Err(errno.into()),
        };
        write_all(sender, &buffer[..length]).await?;
        // Files never make the loop above wait; give the clock its turn.
        tokio::task::yield_now().await;
    }
}

async fn write_all(sender: &pipe::Sender, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        sender.writable().await?;
        match sender.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_readable(descriptor: BorrowedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut events = [PollFd::new(descriptor, PollFlags::POLLIN)];
    poll(&mut events, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_are_exact_per_stream_and_together() {
        let limits = Limits { stdout_bytes: 10, stderr_bytes: 10, output_bytes: 15, ..Limits::default() };
        let mut facts = OutputFacts::default();
        assert_eq!(keep(&mut facts, Stream::Stdout, 10, &limits), 10);
        assert_eq!(keep(&mut facts, Stream::Stderr, 5, &limits), 5);
        assert_eq!(facts.stdout_truncated_bytes + facts.stderr_truncated_bytes, 0);
        assert_eq!(keep(&mut facts, Stream::Stderr, 1, &limits), 0);
        assert_eq!(keep(&mut facts, Stream::Stdout, 7, &limits), 0);
        assert_eq!((facts.stdout_truncated_bytes, facts.stderr_truncated_bytes), (7, 1));
    }
}
