//! A connection's stream, and what the HTTP library leaves out: it waits for a first byte for ever, and hangs up on a
//! slow head without a word.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

/// Bytes after which the HTTP library knows the version, and its own timer for heads runs.
const PREFACE_BYTES: u64 = 24;
/// Longest time for saying why.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(1);

/// Either kind of stream.
pub trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

type Inner = Pin<Box<TimeoutStream<Pin<Box<dyn Stream>>>>>;

/// A stream that is shared with whoever has the last word.
#[derive(Clone)]
pub struct Connection(Arc<Mutex<State>>);

struct State {
    stream: Inner,
    read_bytes: u64,
    /// Something was read since something was written: a request has begun.
    is_asked: bool,
    was_answered: bool,
}

impl Connection {
    pub fn new(stream: Pin<Box<dyn Stream>>, write_time_max: Duration) -> Connection {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(write_time_max));
        let stream = Box::pin(stream);
        Connection(Arc::new(Mutex::new(State { stream, read_bytes: 0, is_asked: false, was_answered: false })))
    }

    /// Completes when there was no beginning of a request within `time_max`.
    pub async fn silent(&self, time_max: Duration) {
        tokio::time::sleep(time_max).await;
        let is_silent = {
            let state = self.lock();
            state.read_bytes < PREFACE_BYTES && !state.was_answered
        };
        if !is_silent {
            std::future::pending::<()>().await;
        }
    }

    /// Tells a client whose request broke off that it was too slow; who had not begun one is told nothing.
    pub async fn too_slow(mut self, time_max: Duration) {
        if !self.lock().is_asked {
            return;
        }
        let seconds = time_max.as_secs();
        let body = format!(
            r#"{{"error":{{"code":"head_too_slow","message":"the request's head did not arrive within {seconds} s","hint":null,"field":null}}}}"#
        );
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let goodbye = async {
            self.write_all(answer.as_bytes()).await?;
            self.shutdown().await
        };
        // Whoever does not even read this is gone.
        let _ = timeout(GOODBYE_TIME_MAX, goodbye).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        let before = buffer.filled().len();
        let result = state.stream.as_mut().poll_read(context, buffer);
        let length = buffer.filled().len() - before;
        if length > 0 {
            state.read_bytes += length as u64;
            state.is_asked = true;
        }
        result
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        (state.is_asked, state.was_answered) = (false, true);
        state.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        (state.is_asked, state.was_answered) = (false, true);
        state.stream.as_mut().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().stream.as_mut().poll_shutdown(context)
    }
}
