//! The front: everything that touches the network, in a process that can do nothing but ask for runs.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::control::{Control, FromFront, ToFront};
use super::listen::{self, Bounds, Listener};
use super::log::Traces;
use super::privileges;
use crate::api;
use crate::history::History;
use crate::sandbox::sys;
use crate::service::handover::Handover;
use crate::service::{Current, Service};

/// After the runs have ended, how long their answers may take to be read.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(5);
/// What the parent is told of a configuration that is no use; the rest is cut, since a message is bounded.
const REFUSAL_BYTES_MAX: usize = 4 << 10;

/// As every failure of the service's own.
const EXIT_NO_ROOM: i32 = 125;

/// How often memory that nobody uses is given back: after a burst of requests the allocator keeps what they needed, a
/// part for each thread.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// Serves as told by the parent at the other end of `control`, as user `uid` of group `gid`.
///
/// # Errors
/// Privileges could not be given up, or the parent said something that is no use.
pub fn main(control: OwnedFd, uid: Uid, gid: Gid) -> anyhow::Result<()> {
    privileges::give_up(uid, gid)?;
    let runtime = event_loop()?;
    let result = runtime.block_on(serve(control));
    // What still waits for a disk or a name is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// The event loop. Where there is no room for its threads tokio panics, and then waits for those it has begun: this
/// process ends instead, and its parent says what became of it.
fn event_loop() -> std::io::Result<tokio::runtime::Runtime> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(error = panic.payload_as_str(), "no room for the event loop");
        std::process::exit(EXIT_NO_ROOM);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    std::panic::set_hook(hook);
    runtime
}

async fn serve(control: OwnedFd) -> anyhow::Result<()> {
    let control = Control::new(control)?;
    let mut handover = None;
    let mut listeners = Vec::new();
    let mut supervisors = Vec::new();
    loop {
        match control.receive().await? {
            None => bail!("the parent is gone"),
            Some((ToFront::Configure, Some(memfd))) => handover = Some(read(memfd)?),
            Some((ToFront::Listen { unix }, Some(socket))) => listeners.push(Listener::new(socket, unix)?),
            Some((ToFront::Supervisor { generation }, Some(socket))) => supervisors.push((socket, generation)),
            Some((ToFront::Serve, _)) => break,
            Some((message, _)) => bail!("the parent sent {message:?} out of turn"),
        }
    }
    let handover = handover.context("the parent sent no configuration")?;
    let settings = handover.settings.clone();
    // Without its collector the service serves all the same.
    let traces = settings.otel_endpoint.as_deref().and_then(|endpoint| {
        Traces::start(endpoint).map_err(|error| tracing::error!(error = format!("{error:#}"), "no traces")).ok()
    });
    let concurrent_max = handover.concurrent_max;
    let history = settings.history.enabled.then(|| open_history(&settings)).flatten();
    let current = Current::new(handover).map_err(anyhow::Error::msg)?;
    let service = Service::new(current, concurrent_max, history);
    for (socket, generation) in supervisors {
        service.fleet.join(socket, generation)?;
    }
    let connections = Arc::new(Semaphore::new(settings.connections_max as usize));
    let bounds = Arc::new(Bounds { connections, head_time_max: settings.head_time_max });
    let stop = CancellationToken::new();
    let app = api::app(Arc::clone(&service));
    let serving: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(listen::serve(listener, app.clone(), Arc::clone(&bounds), stop.clone())))
        .collect();
    tokio::spawn(trim());
    control.send(&FromFront::Ready, None).await?;
    loop {
        match control.receive().await? {
            None => {
                // Every supervisor hangs up with us.
                tracing::error!("the parent is gone");
                return Ok(());
            }
            Some((ToFront::Configure, Some(memfd))) => {
                let reloaded = read(memfd).and_then(|handover| {
                    let concurrent_max = handover.concurrent_max;
                    service.reload(Current::new(handover).map_err(anyhow::Error::msg)?, concurrent_max);
                    Ok(())
                });
                let answer = match reloaded {
                    Ok(()) => FromFront::Reloaded,
                    Err(error) => {
                        let mut message = format!("{error:#}");
                        message.truncate(message.floor_char_boundary(REFUSAL_BYTES_MAX));
                        FromFront::Refused { message }
                    }
                };
                control.send(&answer, None).await?;
            }
            Some((ToFront::Supervisor { generation }, Some(socket))) => service.fleet.join(socket, generation)?,
            Some((ToFront::Ping, _)) => control.send(&FromFront::Pong, None).await?,
            Some((ToFront::Drain, _)) => break,
            Some((message, _)) => tracing::warn!(?message, "the parent said something out of turn"),
        }
    }
    drain(&service, stop, serving).await;
    if let Some(traces) = traces {
        let _ = tokio::task::spawn_blocking(|| traces.end()).await;
    }
    Ok(())
}

async fn trim() {
    loop {
        tokio::time::sleep(TRIM_EVERY).await;
        sys::trim_heap();
    }
}

/// Lets what runs end, within the time the settings give; cancels the rest.
async fn drain(service: &Arc<Service>, stop: CancellationToken, serving: Vec<tokio::task::JoinHandle<()>>) {
    service.drain();
    stop.cancel();
    let time_max = service.current().settings.drain_time_max;
    let all_ended = async || {
        while !service.executions.going_on().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(time_max, all_ended()).await.is_err() {
        let late = service.executions.going_on();
        tracing::warn!(runs = late.len(), "still running at the end of the drain time; canceled");
        late.iter().for_each(|execution| execution.cancel());
        let _ = tokio::time::timeout(GOODBYE_TIME_MAX, all_ended()).await;
    }
    let goodbye = async {
        for task in serving {
            let _ = task.await;
        }
        service.sockets.wait().await;
    };
    if tokio::time::timeout(GOODBYE_TIME_MAX, goodbye).await.is_err() {
        tracing::debug!("connections were still open");
    }
    if let Some(history) = service.history.clone() {
        let _ = tokio::task::spawn_blocking(move || history.close()).await;
    }
    tracing::info!("drained");
}

fn open_history(settings: &crate::words::settings::ServiceSettings) -> Option<History> {
    match History::open(&settings.state_dir, &settings.history) {
        Ok(history) => Some(history),
        Err(error) => {
            // A service without its history still runs programs; whoever needs it sees this, and `problems`.
            tracing::error!(error = crate::words::causes::chain(&error), hint = error.hint(), "no history is kept");
            None
        }
    }
}

fn read(memfd: OwnedFd) -> anyhow::Result<Handover> {
    let mut text = String::new();
    let mut file = File::from(memfd);
    std::io::Seek::rewind(&mut file)?;
    file.read_to_string(&mut text).context("failed to read the configuration")?;
    serde_json::from_str(&text).context("the configuration is of another version of this program")
}
