//! Connections: our own accept loop, because the stock one has no timer for slow heads, no bound on connections and no
//! end for a reader that never reads.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::api::caller::Peer;

/// Greatest size of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// A reader that takes nothing for so long is gone.
const WRITE_TIME_MAX: Duration = Duration::from_secs(30);
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// After an error of accept, as when descriptors have run out, before the next attempt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that listens.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// # Errors
    /// The socket is no such listener.
    pub fn new(socket: OwnedFd, unix: bool) -> std::io::Result<Listener> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(match unix {
            true => Listener::Unix(UnixListener::from_std(socket.into())?),
            false => Listener::Tcp(TcpListener::from_std(socket.into())?),
        })
    }
}

/// The bounds of all listeners together.
pub struct Bounds {
    pub connections: Arc<Semaphore>,
    pub head_time_max: Duration,
}

/// Serves `app` on `listener` until `stop`; then waits for what goes on.
pub async fn serve(listener: Listener, app: Router, bounds: Arc<Bounds>, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let mut builder = Builder::new(TokioExecutor::new());
    let http1 = &mut builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(bounds.head_time_max).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(30));
    let builder = Arc::new(builder);
    loop {
        // Beyond the bound, connections wait in the kernel's queue.
        let place = tokio::select! {
            place = Arc::clone(&bounds.connections).acquire_owned() => place,
            () = stop.cancelled() => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIME_MAX));
        let app = app.clone().map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer);
            request.map(axum::body::Body::new)
        });
        let builder = Arc::clone(&builder);
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let connection =
                builder.serve_connection_with_upgrades(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(app));
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(error, "a connection ended");
            }
            drop(place);
        });
    }
    graceful.shutdown().await;
}

/// Either kind of stream.
trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

async fn accept(listener: &Listener) -> std::io::Result<(Pin<Box<dyn Stream>>, Peer)> {
    Ok(match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            // Answers are written whole; waiting for more would only delay them.
            stream.set_nodelay(true)?;
            (Box::pin(stream), Peer(Some(address.ip())))
        }
        Listener::Unix(listener) => (Box::pin(listener.accept().await?.0), Peer(None)),
    })
}
