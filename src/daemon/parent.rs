//! The parent: binds, starts the front and its supervisors, and starts again what ends before its time.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Gid, Uid};
use rustix::fs::{MemfdFlags, SealFlags};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use super::control::{Control, FromFront, ToFront};
use super::handover;
use crate::config::Config;
use crate::runner;
use crate::sandbox::cgroup;
use crate::sandbox::sys;
use crate::service::handover::Handover;
use crate::words::settings::{Listen, ServiceSettings};

/// Pauses before a process that ended is started again: doubled each time, short again after a while of peace.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
const PEACE: Duration = Duration::from_secs(60);
/// Longest wait for the front's first word.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Beyond the drain time, before the front is killed.
const DRAIN_GRACE: Duration = Duration::from_secs(15);
/// Longest wait for a supervisor whose front is gone; it has cells to kill and groups to remove.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(10);
/// Supervisors at most when their number is not configured.
const SUPERVISORS_MAX: u32 = 4;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// The front's user where the configured account does not exist: no account has it, by Debian's ranges.
const NOBODYS_ID: u32 = 65_533;

/// Variables of the environment that the other processes have no use for.
const PRIVATE_VARIABLES: [&str; 9] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "SANDBOXD_KEY",
    "API_KEY",
    "EXECUTOR_API_KEY",
];

/// What the parent needs to know beside the configuration.
pub struct Options {
    /// Reads the configuration anew.
    pub load: Box<dyn Fn() -> anyhow::Result<(Config, ServiceSettings)>>,
    /// Flags that the other processes must be given, too.
    pub flags: Vec<OsString>,
}

/// Serves until it is told to end.
///
/// # Errors
/// It cannot start: configuration, a layer that is required, an address in use.
pub fn main(options: &Options) -> anyhow::Result<()> {
    let (config, settings) = (options.load)()?;
    // Before anything is asked of the machine, which may take a cell of its own.
    let mut aside = cgroup::step_aside(config.cgroup, config.cgroup_parent.as_deref())?;
    let result = serve(options, &config, &settings);
    for error in aside.back() {
        tracing::error!(%error, "left over");
    }
    result
}

fn serve(options: &Options, config: &Config, settings: &ServiceSettings) -> anyhow::Result<()> {
    let runtime = runner::event_loop()?;
    let handover = runtime.block_on(checked_handover(config, settings))?;
    let (uid, gid) = account(&settings.user);
    make_state_dir(&settings.state_dir, uid, gid)?;
    raise_descriptors()?;
    let listeners = match handed_over()? {
        none if none.is_empty() => settings.listen.iter().map(bind).collect::<anyhow::Result<Vec<_>>>()?,
        sockets => sockets,
    };
    let mut parent = Parent { options, handover, listeners, uid, gid, generation: 0 };
    runtime.block_on(parent.run())
}

async fn checked_handover(config: &Config, settings: &ServiceSettings) -> anyhow::Result<Handover> {
    let handover = handover::build(config, settings).await.map_err(|error| {
        let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
        anyhow::anyhow!("{}{hint}", crate::words::causes::chain(&error))
    })?;
    let missing = handover::missing_layers(&handover.host, settings);
    if !missing.is_empty() {
        bail!("this machine cannot enforce everything that is required: {}", missing.join("; "));
    }
    for problem in &handover.problems {
        tracing::warn!(problem, "configuration");
    }
    for language in handover.languages.iter().filter(|language| language.problem.is_some()) {
        tracing::warn!(language = language.name, problem = language.problem, "a language cannot be run");
    }
    Ok(handover)
}

struct Parent<'a> {
    options: &'a Options,
    handover: Handover,
    /// Each with where it listens.
    listeners: Vec<(OwnedFd, Listen)>,
    uid: Uid,
    gid: Gid,
    generation: u64,
}

/// The front and its supervisors.
struct Team {
    front: Child,
    control: Control,
    supervisors: JoinSet<(u64, String)>,
}

/// What the parent is told by signals.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Why a team is no more.
enum End {
    /// We were told to.
    Told,
    /// The front ended by itself.
    Front(String),
}

impl Parent<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        // Before there is anybody who would be left behind: one that comes during a start is heeded after it.
        let mut signals = Signals::new()?;
        let mut pause = PAUSE_MIN;
        let mut team = self.start_team().await?;
        loop {
            let began = Instant::now();
            match self.watch(team, &mut signals).await {
                End::Told => return Ok(()),
                End::Front(status) => {
                    tracing::error!(status, "the front ended; every cell ended with it, and it is started again");
                }
            }
            pause = if began.elapsed() > PEACE { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            // One that has started once will start again: what is in its way, as a machine short of memory, passes.
            team = loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = signals.terminate.recv() => return Ok(()),
                    _ = signals.interrupt.recv() => return Ok(()),
                }
                match self.start_team().await {
                    Ok(team) => break team,
                    Err(error) => tracing::error!(error = format!("{error:#}"), "the front is not there; tried again"),
                }
                pause = (pause * 2).min(PAUSE_MAX);
            };
        }
    }

    async fn start_team(&mut self) -> anyhow::Result<Team> {
        let (near, far) = pair()?;
        let control = Control::new(near)?;
        let mut command = self.command("front", far)?;
        command.args(["--uid", &self.uid.to_string(), "--gid", &self.gid.to_string()]);
        let front = command.spawn().context("failed to start the front")?;
        // With it goes our copy of the front's end of the socket, which would hide that the front is gone.
        drop(command);
        let mut team = Team { front, control, supervisors: JoinSet::new() };
        if let Err(error) = self.make_ready(&mut team).await {
            // Supervisors remove their groups when they are hung up on.
            let _ = team.front.kill().await;
            leave(&mut team.supervisors).await;
            return Err(error);
        }
        let addresses: Vec<_> = self.listeners.iter().map(|(_, address)| address.to_string()).collect();
        tracing::info!(listen = addresses.join(" "), runs_max = self.handover.concurrent_max, "ready");
        // Without a service manager there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Ok(team)
    }

    /// Gives a new front everything it needs, and waits until it serves.
    async fn make_ready(&self, team: &mut Team) -> anyhow::Result<()> {
        let Team { front, control, supervisors } = team;
        control.send(&ToFront::Configure, Some(&document(&self.handover)?)).await?;
        for (socket, address) in &self.listeners {
            let unix = matches!(address, Listen::Unix(_));
            control.send(&ToFront::Listen { unix }, Some(socket)).await?;
        }
        for _ in 0..self.supervisors_wanted() {
            self.start_supervisor(control, supervisors).await?;
        }
        control.send(&ToFront::Serve, None).await?;
        if let Ok(Ok(Some((FromFront::Ready, _)))) = tokio::time::timeout(START_TIME_MAX, control.receive()).await {
            return Ok(());
        }
        let _ = front.kill().await;
        let status = front.wait().await.map(|status| status.to_string()).unwrap_or_default();
        bail!("the front did not start ({status}); its log says why")
    }

    fn supervisors_wanted(&self) -> u32 {
        match self.handover.settings.supervisors {
            0 => self.handover.host.cores.clamp(1, SUPERVISORS_MAX),
            wanted => wanted,
        }
    }

    async fn start_supervisor(&self, control: &Control, team: &mut JoinSet<(u64, String)>) -> anyhow::Result<()> {
        let (near, far) = pair()?;
        let mut command = self.command("supervisor", far)?;
        // Runs that the front lets in while others of an earlier configuration are still ending.
        command.args(["--cells-max", &(2 * self.handover.concurrent_max).to_string()]);
        if self.handover.settings.use_host_image {
            command.arg("--use-host-image");
        }
        let mut child = command.spawn().context("failed to start a supervisor")?;
        let generation = self.generation;
        control.send(&ToFront::Supervisor { generation }, Some(&near)).await?;
        team.spawn(async move {
            let status = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            (generation, status)
        });
        Ok(())
    }

    /// One that cannot be started counts as one that has ended at once: [`Parent::watch`] tries again after a pause.
    async fn start_supervisor_or_later(&self, team: &mut Team) {
        if let Err(error) = self.start_supervisor(&team.control, &mut team.supervisors).await {
            let ended = (self.generation, format!("it could not be started: {error:#}"));
            team.supervisors.spawn(async { ended });
        }
    }

    fn command(&self, name: &str, stdin: OwnedFd) -> anyhow::Result<Command> {
        let mut command = Command::new("/proc/self/exe");
        // What `ps` shows.
        command.arg0("sandboxd").args(&self.options.flags);
        if self.handover.settings.log_json {
            command.arg("--log-json");
        }
        command.arg(name);
        // What the service manager said is for us, and keys are for nobody else.
        for name in PRIVATE_VARIABLES {
            command.env_remove(name);
        }
        command.stdin(Stdio::from(stdin)).stdout(Stdio::null()).kill_on_drop(true);
        // Signals of the terminal are for us to hand on.
        command.process_group(0);
        Ok(command)
    }

    /// Watches over a team until it is no more.
    async fn watch(&mut self, mut team: Team, signals: &mut Signals) -> End {
        let mut pause = PAUSE_MIN;
        let mut last_start = Instant::now();
        // Half of what the service manager waits for; without one that watches, never.
        let watchdog = sd_notify::watchdog_enabled().map(|time| time / 2);
        let mut beat =
            tokio::time::interval(watchdog.unwrap_or(Duration::from_secs(3600)).max(Duration::from_millis(10)));
        loop {
            tokio::select! {
                // The answer is what counts: a front that hangs gets the service restarted.
                _ = beat.tick(), if watchdog.is_some() => {
                    let _ = team.control.send(&ToFront::Ping, None).await;
                }
                status = team.front.wait() => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    leave(&mut team.supervisors).await;
                    return End::Front(status);
                }
                Some(Ok((generation, status))) = team.supervisors.join_next() => {
                    if generation < self.generation {
                        tracing::info!(status, "a supervisor of an earlier configuration has left");
                        continue;
                    }
                    tracing::error!(status, "a supervisor ended, and every cell of it; it is started again");
                    pause = if last_start.elapsed() > PEACE { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                    tokio::time::sleep(pause).await;
                    last_start = Instant::now();
                    self.start_supervisor_or_later(&mut team).await;
                }
                message = team.control.receive::<FromFront>() => match message {
                    Ok(Some((FromFront::Reloaded, _))) => tracing::info!("reloaded"),
                    Ok(Some((FromFront::Refused { message }, _))) => tracing::error!(message, "the front did not reload"),
                    Ok(Some((FromFront::Pong, _))) => {
                        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                    }
                    Ok(Some((FromFront::Ready, _))) => {}
                    // Its end shows above.
                    Ok(None) | Err(_) => tokio::time::sleep(PAUSE_MIN).await,
                },
                _ = signals.hangup.recv() => self.reload(&mut team).await,
                _ = signals.terminate.recv() => return self.end(team, signals).await,
                _ = signals.interrupt.recv() => return self.end(team, signals).await,
            }
        }
    }

    /// Reads the configuration anew; what is wrong with it leaves the one before in force.
    async fn reload(&mut self, team: &mut Team) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
        let loaded = async {
            let (config, settings) = (self.options.load)()?;
            checked_handover(&config, &settings).await
        };
        match loaded.await {
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "not reloaded; the configuration before stays in force");
            }
            Ok(handover) => {
                if handover.settings.listen != self.handover.settings.listen {
                    tracing::warn!("`listen` changes at a restart only");
                }
                self.handover = handover;
                self.generation += 1;
                if let Err(error) = self.renew(team).await {
                    tracing::error!(error = format!("{error:#}"), "not reloaded");
                }
            }
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    async fn renew(&mut self, team: &mut Team) -> anyhow::Result<()> {
        // Supervisors first: a language that is new must not be asked of one that does not know it.
        for _ in 0..self.supervisors_wanted() {
            self.start_supervisor_or_later(team).await;
        }
        team.control.send(&ToFront::Configure, Some(&document(&self.handover)?)).await?;
        Ok(())
    }

    /// Lets runs end, then everything; a second signal ends at once.
    async fn end(&self, mut team: Team, signals: &mut Signals) -> End {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!("draining: no run is accepted, and running ones may end");
        let mut time_max = self.handover.settings.drain_time_max + DRAIN_GRACE;
        if let Err(error) = team.control.send(&ToFront::Drain, None).await {
            tracing::error!(%error, "the front could not be told to drain");
            time_max = Duration::ZERO;
        }
        tokio::select! {
            _ = team.front.wait() => {}
            () = tokio::time::sleep(time_max) => tracing::error!("the front did not drain in time; killed"),
            _ = signals.terminate.recv() => tracing::warn!("told twice: ended at once"),
            _ = signals.interrupt.recv() => tracing::warn!("told twice: ended at once"),
        }
        let _ = team.front.kill().await;
        leave(&mut team.supervisors).await;
        for address in &self.handover.settings.listen {
            if let Listen::Unix(path) = address {
                // Gone already is as good.
                let _ = std::fs::remove_file(path);
            }
        }
        End::Told
    }
}

/// Supervisors whose front is gone end by themselves; those that do not are killed as their handles are dropped.
async fn leave(supervisors: &mut JoinSet<(u64, String)>) {
    let all = async { while supervisors.join_next().await.is_some() {} };
    if tokio::time::timeout(LEAVE_TIME_MAX, all).await.is_err() {
        tracing::error!("a supervisor did not leave; killed");
        supervisors.shutdown().await;
    }
}

fn pair() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .context("failed to make a socket pair")
}

/// The handover in a sealed memfd: only what was written here can be read there.
fn document(handover: &Handover) -> anyhow::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create("handover", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(&serde_json::to_vec(handover)?)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

/// The ids of the front's account: by name or number, or nobody's where there is no such account.
fn account(user: &str) -> (Uid, Gid) {
    if !nix::unistd::geteuid().is_root() {
        tracing::warn!("not root: the front runs as the same user as everything else");
        return (nix::unistd::geteuid(), nix::unistd::getegid());
    }
    if let Some(ids) = local_account(user) {
        return ids;
    }
    let id = user.parse().unwrap_or(NOBODYS_ID);
    if id == NOBODYS_ID {
        tracing::info!(user, id, "there is no such account: the front runs under an id that nobody has");
    }
    (Uid::from_raw(id), Gid::from_raw(id))
}

/// The ids of a local account.
///
/// Read from /etc/passwd and not asked of the C library: linked statically, it loads the machine's own modules for names
/// (nsswitch.conf), which are of another C library, and crashes in them.
fn local_account(user: &str) -> Option<(Uid, Gid)> {
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let account = fields.into_iter().find(|fields| fields.first() == Some(&user) && fields.len() >= 4)?;
    Some((Uid::from_raw(account[2].parse().ok()?), Gid::from_raw(account[3].parse().ok()?)))
}

/// The directory of the history, the front's own.
fn make_state_dir(path: &Path, uid: Uid, gid: Gid) -> anyhow::Result<()> {
    let failed = || format!("failed to make the state directory {}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(failed)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error).with_context(failed),
        _ => {}
    }
    let metadata = std::fs::symlink_metadata(path).with_context(failed)?;
    if !metadata.is_dir() {
        bail!("the state directory {} is not a directory", path.display());
    }
    if nix::unistd::geteuid().is_root() {
        // Files of an earlier account become this one's.
        for entry in std::fs::read_dir(path).with_context(failed)?.flatten() {
            std::os::unix::fs::lchown(entry.path(), Some(uid.as_raw()), Some(gid.as_raw())).with_context(failed)?;
        }
        std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw())).with_context(failed)?;
    }
    Ok(())
}

/// Each connection, run and cell takes some; what is allowed at most is asked for.
fn raise_descriptors() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("failed to raise the limit of open files")
}

/// Listening sockets that a service manager has opened for us (sd_listen_fds(3)), and where.
fn handed_over() -> anyhow::Result<Vec<(OwnedFd, Listen)>> {
    // An error says that there are none for us.
    let Ok(numbers) = sd_notify::listen_fds() else { return Ok(Vec::new()) };
    let sockets = numbers.map(|number| {
        let socket =
            sys::borrow_fd(number).try_clone_to_owned().context("a socket of the service manager is no use")?;
        let address = rustix::net::getsockname(&socket).context("what the service manager handed over is no socket")?;
        let address = match std::net::SocketAddr::try_from(address.clone()) {
            Ok(address) => Listen::Tcp(address),
            Err(_) => {
                let local = rustix::net::SocketAddrUnix::try_from(address)
                    .context("the service manager handed over a socket that is neither of TCP nor local")?;
                let path = local.path().map(|path| OsString::from_vec(path.to_bytes().to_vec()));
                Listen::Unix(path.unwrap_or_default().into())
            }
        };
        Ok((socket, address))
    });
    sockets.collect()
}

/// A listening socket, and where it listens.
fn bind(address: &Listen) -> anyhow::Result<(OwnedFd, Listen)> {
    match address {
        Listen::Tcp(address) => {
            let failed = || format!("failed to listen on {address}");
            let listener = std::net::TcpListener::bind(address).with_context(failed)?;
            nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(BACKLOG)?)?;
            // The kernel chose a port where none was named.
            let address = listener.local_addr().with_context(failed)?;
            Ok((listener.into(), Listen::Tcp(address)))
        }
        Listen::Unix(path) => {
            let failed = || format!("failed to listen on {}", path.display());
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                bail!("{}: somebody listens there already", failed());
            }
            // What nobody listens on is left over from an earlier life.
            match std::fs::symlink_metadata(path) {
                Ok(metadata) if std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => {
                    std::fs::remove_file(path).with_context(failed)?;
                }
                Ok(_) => bail!("{}: it exists and is no socket", failed()),
                Err(_) => {}
            }
            let listener = std::os::unix::net::UnixListener::bind(path).with_context(failed)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).with_context(failed)?;
            Ok((listener.into(), address.clone()))
        }
    }
}
