//! The programs a build calls. Each runs in a pid and mount namespace of its own and dies with this process: a
//! build that is killed leaves no mmdebstrap behind that goes on writing, and no mount.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::error::{Result, RootfsError};

/// Who runs the tools; a test puts in scripts of its own.
pub trait Tools {
    fn find(&self, program: &str) -> Option<PathBuf>;
    /// Runs to the end. `watch` is called several times a second with the tool's newest line; if it returns an
    /// error, the tool and all it has started are killed.
    fn run(&self, call: &ToolCall, watch: &mut dyn FnMut(Option<&str>) -> Result<()>) -> Result<()>;
    /// Whether the tools do what only root may.
    fn needs_root(&self) -> bool;
}

#[derive(Debug, Clone)]
pub struct ToolCall {
    pub program: String,
    pub args: Vec<OsString>,
    pub env: Vec<(&'static str, OsString)>,
    pub directory: PathBuf,
    /// The program is one inside this tree, with an empty environment and no network.
    pub inside: Option<PathBuf>,
    /// Where it writes what it says.
    pub log: PathBuf,
}

/// The tool's Debian package, for the hint.
pub fn package_of(program: &str) -> &str {
    match program {
        "mkfs.erofs" => "erofs-utils",
        "setpriv" | "unshare" => "util-linux",
        "pip3" => "python3-pip",
        "mvn" => "maven",
        other => other,
    }
}

/// The machine's own tools.
pub struct SystemTools {
    pub(super) search: Vec<PathBuf>,
    pub(super) contained: bool,
    pub(super) needs_root: bool,
}

const DIRECTORIES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

impl SystemTools {
    /// Tools without namespaces of their own, for a place that may make none and is thrown away: the build of a container.
    /// What a killed build leaves running there ends with the place, and programs of the image find no /proc.
    pub fn uncontained() -> SystemTools {
        SystemTools { contained: false, ..SystemTools::default() }
    }
}

impl Default for SystemTools {
    fn default() -> SystemTools {
        SystemTools { search: DIRECTORIES.map(PathBuf::from).to_vec(), contained: true, needs_root: true }
    }
}

impl Tools for SystemTools {
    fn find(&self, program: &str) -> Option<PathBuf> {
        self.search.iter().map(|directory| directory.join(program)).find(|path| path.is_file())
    }

    fn run(&self, call: &ToolCall, watch: &mut dyn FnMut(Option<&str>) -> Result<()>) -> Result<()> {
        let log = File::create(&call.log).map_err(RootfsError::io("create", &call.log))?;
        let errors = log.try_clone().map_err(RootfsError::io("share", &call.log))?;
        let mut command = self.command(call)?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir(&call.directory);
        // Ctrl-C at the terminal is for this process; it kills the tool itself.
        command.process_group(0);
        let child = command.spawn().map_err(RootfsError::io("run", command.get_program()))?;
        let mut running = Running { child, ended: false };
        let status = running.wait(&mut Tail::open(&call.log)?, watch)?;
        match status.success() {
            true => Ok(()),
            false => Err(RootfsError::ToolFailed {
                tool: call.program.clone(),
                status: status.to_string(),
                tail: last_lines(&call.log),
            }),
        }
    }

    fn needs_root(&self) -> bool {
        self.needs_root
    }
}

impl SystemTools {
    fn command(&self, call: &ToolCall) -> Result<Command> {
        let mut words: Vec<OsString> = Vec::new();
        if self.contained {
            // setpriv: unshare dies with this process. unshare: everything below dies with unshare.
            words.extend([self.path_of("setpriv")?.into(), "--pdeathsig".into(), "KILL".into(), "--".into()]);
            words.extend([self.path_of("unshare")?.into(), "--mount".into(), "--pid".into(), "--fork".into()]);
            words.extend(["--kill-child=KILL".into(), "--mount-proc".into()]);
            if let Some(tree) = &call.inside {
                // The proc that --mount-proc asks for is then the tree's: a JVM does not start without.
                words.extend(["--net".into(), "--ipc".into(), "--root".into(), tree.into(), "--wd=/".into()]);
            }
            words.push("--".into());
        }
        match &call.inside {
            Some(tree) if !self.contained => words.extend([self.path_of("chroot")?.into(), tree.into()]),
            _ => {}
        }
        match &call.inside {
            Some(_) => words.push((&call.program).into()),
            None => words.push(self.path_of(&call.program)?.into()),
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(&call.args);
        match &call.inside {
            Some(_) => command.env_clear().env("PATH", "/usr/sbin:/usr/bin").env("LC_ALL", "C.UTF-8"),
            None => {
                command.env("PATH", std::env::join_paths(&self.search).unwrap_or_default()).env("LC_ALL", "C.UTF-8")
            }
        };
        command.envs(call.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    fn path_of(&self, program: &str) -> Result<PathBuf> {
        self.find(program).ok_or_else(|| RootfsError::ToolMissing {
            tool: program.to_owned(),
            package: package_of(program).to_owned(),
        })
    }
}

/// A child that does not outlive its owner.
struct Running {
    child: Child,
    ended: bool,
}

impl Running {
    fn wait(&mut self, tail: &mut Tail, watch: &mut dyn FnMut(Option<&str>) -> Result<()>) -> Result<ExitStatus> {
        const LOOK_EVERY: Duration = Duration::from_millis(20);
        loop {
            if let Some(status) = self.child.try_wait().map_err(RootfsError::io("wait for", "a tool"))? {
                self.ended = true;
                return Ok(status);
            }
            watch(tail.newest_line().as_deref())?;
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // Either may have ended by itself in the meantime; waiting is what makes sure.
            let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Follows a log as it grows.
struct Tail {
    file: File,
}

impl Tail {
    fn open(path: &Path) -> Result<Tail> {
        Ok(Tail { file: File::open(path).map_err(RootfsError::io("open", path))? })
    }

    fn newest_line(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        // Only for show: a log that can't be read shows nothing.
        self.file.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        text.split(['\n', '\r']).rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }
}

fn last_lines(log: &Path) -> Vec<String> {
    const TAIL_BYTES: u64 = 8192;
    const LINES_MAX: usize = 15;
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        file.read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        return vec![format!("(its output can't be read: {error})")];
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].iter().map(|line| (*line).to_owned()).collect()
}

/// SIGINT, SIGTERM and SIGHUP, held back while a build is at work and asked for between its steps.
pub struct Signals {
    descriptor: SignalFd,
    former: SigSet,
}

impl Signals {
    pub fn hold() -> Result<Signals> {
        let failed = |errno: nix::Error| RootfsError::io("hold back", "signals")(errno.into());
        let held = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        let former = SigSet::thread_get_mask().map_err(failed)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let descriptor = SignalFd::with_flags(&held, flags).map_err(failed)?;
        held.thread_block().map_err(failed)?;
        Ok(Signals { descriptor, former })
    }

    pub fn check(&self) -> Result<()> {
        match self.descriptor.read_signal() {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(RootfsError::Interrupted),
            Err(errno) => Err(RootfsError::io("read", "signals")(errno.into())),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // It was this thread's mask a moment ago; there is nothing to be done about a refusal.
        let _ = self.former.thread_set_mask();
    }
}

/// Whether this kernel can mount erofs, now or by loading a module.
pub fn kernel_has_erofs() -> bool {
    let registered = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if registered.split_whitespace().any(|name| name == "erofs") {
        return true;
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = fs::read_to_string(format!("/lib/modules/{release}/modules.dep")).unwrap_or_default();
    modules.contains("/erofs.ko")
}
