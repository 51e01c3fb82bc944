//! What will be done: [`plan`] computes a [`Plan`] from request, profile, configuration and host, without I/O.
//!
//! All options are settled here, so that the code that acts has no `if`s about them. The plan says what; the order in
//! which it is done is stated in `sandbox::sequence`, which prints a plan as `--dry-run`.

mod command;

use std::ffi::CString;
use std::time::Duration;

use crate::words::host::{CgroupKind, Host, NAMESPACES, Privilege};
use crate::words::limits::{LimitError, Limits};
use crate::words::profile::{Profile, Profiles, SyscallAddition};
use crate::words::request::{FileEntry, Program, Purpose, Request, RequestError, bounds, check_file_name};

pub use command::{Command, CommandOwner, PATH_DEFAULT, WORKDIR};

/// One run, decided: what is compiled, what is run, in which image.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Canonical name of the language; `None` for a bare command.
    pub language: Option<String>,
    pub rootfs: String,
    pub compile: Option<CellPlan>,
    pub run: CellPlan,
}

/// What kind of image a cell is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// A stack of read-only layers.
    Layers,
    /// The machine's own programs under a synthetic root.
    Synthetic,
}

/// The image of this machine's own programs.
pub const HOST_IMAGE: &str = "host";

/// One cell, decided.
#[derive(Debug, Clone, PartialEq)]
pub struct CellPlan {
    pub rootfs: String,
    pub image: ImageKind,
    /// The cell mounts overlays of its own over the image.
    pub overlay: bool,
    pub command: Command,
    /// Names of the files written into the work directory, with their permission bits.
    pub files: Vec<(String, u32)>,
    pub files_out: FilesOut,
    pub limits: Limits,
    pub rlimits: Vec<Rlimit>,
    pub identity: Identity,
    pub hostname: &'static str,
    /// By the names of /proc/self/ns.
    pub namespaces: Vec<&'static str>,
    pub scratch: Vec<Scratch>,
    pub cgroup: CgroupKind,
    pub landlock: Option<Landlock>,
    pub seccomp: Option<Seccomp>,
    pub speculation_store_bypass: bool,
    pub speculation_indirect_branch: bool,
    pub privilege: Privilege,
    /// Steps left out by a test's control; always empty in a release build.
    pub left_out: Vec<String>,
}

impl CellPlan {
    /// Whether a test's control has step `name` of the sequence left out.
    pub fn leaves_out(&self, name: &str) -> bool {
        self.left_out.iter().any(|left_out| left_out == name)
    }
}

/// Which files come out of a dead cell's work directory, by names or globs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesOut {
    None,
    /// What a compile step must leave for the run.
    Artifacts(Vec<String>),
    /// What the caller of a run would like to have.
    Results(Vec<String>),
}

/// User ids inside the cell; the same numbers serve as group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub init: u32,
    pub payload: u32,
}

/// A resource limit of setrlimit(2), soft and hard alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    pub name: &'static str,
    pub resource: u32,
    pub value: u64,
}

/// A writable tmpfs of the cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scratch {
    /// Absolute path in the cell.
    pub target: &'static str,
    pub bytes: u64,
    pub inodes: u64,
    pub mode: u32,
}

/// What landlock confines a payload to, beneath what mounts and permissions allow already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landlock {
    pub abi: u32,
    pub rules: Vec<(&'static str, Access)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read files and directories, execute.
    ReadExecute,
    /// Write to what exists, use its ioctls; create nothing.
    Devices,
    /// Everything but making device nodes.
    ReadWrite,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Seccomp {
    /// Denials are reported to the cell's init, which answers them.
    pub notify: bool,
    pub additions: Vec<SyscallAddition>,
}

/// What a plan depends on beside the request.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    pub profiles: &'a Profiles,
    pub host: &'a Host,
    /// True for an image that is built, so that `run` can fall back to the host's own programs.
    pub rootfs: &'a str,
    /// Steps that a test's control leaves out.
    pub left_out: &'a [String],
}

/// The profile that a request asks for, by name or by its file's extension; `None` for a bare command without one.
///
/// # Errors
/// An unknown name or extension, with the nearest known one.
pub fn select_profile<'a>(request: &Request, profiles: &'a Profiles) -> Result<Option<&'a Profile>, RequestError> {
    let listed = || format!("languages: {}", profiles.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", "));
    if let Some(name) = &request.language {
        let unknown = || {
            let hint = profiles.nearest_name(name).map_or_else(listed, |near| format!("did you mean `{near}`?"));
            RequestError::new("language", format!("unknown language {name:?}")).hint(hint)
        };
        return profiles.by_name(name).map(Some).ok_or_else(unknown);
    }
    let Program::Source(file) = &request.program else { return Ok(None) };
    let base = file.name.rsplit('/').next().unwrap_or_default();
    let Some((_, extension)) = base.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()) else {
        let message = format!("{:?} has no extension that would tell its language", file.name);
        return Err(RequestError::new("language", message).hint(format!("name one; {}", listed())));
    };
    let unknown = || {
        let near = profiles.nearest_extension(extension);
        let hint = near.map_or_else(
            || format!("name the language; {}", listed()),
            |near| format!("did you mean `.{near}`? otherwise name the language"),
        );
        RequestError::new("language", format!("no language is known for the extension `.{extension}`")).hint(hint)
    };
    profiles.by_extension(extension).map(Some).ok_or_else(unknown)
}

/// The run that `request` asks for on this host.
///
/// # Errors
/// What the caller can mend: names, limits, sizes. Nothing here depends on the state of the machine.
pub fn plan(request: &Request, around: &Surroundings) -> Result<Plan, RequestError> {
    let profile = select_profile(request, around.profiles)?;
    check_files(request)?;
    let limits = limits(request, profile)?;
    let mut files: Vec<(String, u32)> = request.files.iter().map(|file| (file.name.clone(), 0o644)).collect();
    if let Program::Source(file) = &request.program {
        files.push((file.name.clone(), 0o644));
    }
    if request.purpose == Purpose::Check {
        return plan_check(request, profile, &files, around);
    }
    let command = command::of_run(request, profile, &limits)?;
    let compile = match (profile, &request.program) {
        (Some(profile), Program::Source(source)) => match &profile.compile {
            Some(step) => {
                let limits = profile.compile_limits().overlay(&request.compile_limits);
                let limits = limits.check(&profile.greatest_limits(), &profile.name).map_err(refused_limit)?;
                let command = command::of_step(&step.command, source, profile, &limits, &[], &request.environment);
                let mut cell = cell(around, limits, command, Some(profile), &files);
                cell.files_out = FilesOut::Artifacts(step.artifacts.clone());
                Some(cell)
            }
            None => None,
        },
        _ => None,
    };
    let mut run = cell(around, limits, command, profile, &files);
    if !request.files_out.is_empty() {
        check_globs(&request.files_out)?;
        run.files_out = FilesOut::Results(request.files_out.clone());
    }
    Ok(Plan { language: profile.map(|profile| profile.name.clone()), rootfs: around.rootfs.to_owned(), compile, run })
}

/// The check of a program's syntax: one cell with the limits of the compile step, since a compiler reads the program.
fn plan_check(
    request: &Request,
    profile: Option<&Profile>,
    files: &[(String, u32)],
    around: &Surroundings,
) -> Result<Plan, RequestError> {
    let (Some(profile), Program::Source(source)) = (profile, &request.program) else {
        return Err(RequestError::new("language", "a command has no syntax to check"));
    };
    let check = profile.check.as_ref().ok_or_else(|| {
        let all = around.profiles.iter().filter(|profile| profile.check.is_some());
        let names: Vec<&str> = all.map(|profile| profile.name.as_str()).collect();
        RequestError::new("language", format!("{} has no check of its syntax", profile.name))
            .hint(format!("languages that have one: {}", names.join(", ")))
    })?;
    let limits = profile.compile_limits();
    let command = command::of_step(&check.command, source, profile, &limits, &[], &[]);
    let run = cell(around, limits, command, Some(profile), files);
    Ok(Plan { language: Some(profile.name.clone()), rootfs: around.rootfs.to_owned(), compile: None, run })
}

/// The cell that asks a toolchain for its version, with the service's default limits.
pub fn plan_version(profile: &Profile, around: &Surroundings) -> CellPlan {
    let source = FileEntry { name: profile.source.clone(), bytes: 0 };
    let limits = profile.compile_limits();
    let command = command::of_step(&profile.version.command, &source, profile, &limits, &[], &[]);
    cell(around, limits, command, Some(profile), &[])
}

fn cell(
    around: &Surroundings,
    limits: Limits,
    command: Command,
    profile: Option<&Profile>,
    files: &[(String, u32)],
) -> CellPlan {
    let host = around.host;
    let rootless = host.privilege == Privilege::Rootless;
    // One id is all that an ordinary user can map: init and payload share it.
    let identity =
        if rootless { Identity { init: 1000, payload: 1000 } } else { Identity { init: 999, payload: 1000 } };
    // What is written counts as the cell's memory; a tmpfs larger than that only moves the verdict.
    let scratch_bytes = limits.scratch_bytes.min(limits.memory_bytes);
    let scratch = |target, mode| Scratch { target, bytes: scratch_bytes, inodes: limits.scratch_inodes, mode };
    CellPlan {
        rootfs: around.rootfs.to_owned(),
        image: if around.rootfs == HOST_IMAGE { ImageKind::Synthetic } else { ImageKind::Layers },
        overlay: host.overlay,
        command,
        files: files.to_vec(),
        files_out: FilesOut::None,
        rlimits: rlimits(&limits, host),
        identity,
        hostname: "sandbox",
        namespaces: NAMESPACES.to_vec(),
        scratch: vec![scratch("/tmp", 0o1777), scratch(WORKDIR, 0o755)],
        cgroup: host.cgroup,
        landlock: (host.landlock_abi > 0).then(|| Landlock {
            abi: host.landlock_abi,
            rules: vec![
                ("/", Access::ReadExecute),
                ("/dev", Access::Devices),
                ("/tmp", Access::ReadWrite),
                (WORKDIR, Access::ReadWrite),
            ],
        }),
        seccomp: host.seccomp.then(|| Seccomp {
            notify: host.seccomp_notify,
            additions: profile.map(|profile| profile.syscalls.clone()).unwrap_or_default(),
        }),
        speculation_store_bypass: host.speculation_store_bypass,
        speculation_indirect_branch: host.speculation_indirect_branch,
        privilege: host.privilege,
        left_out: around.left_out.to_vec(),
        limits,
    }
}

fn limits(request: &Request, profile: Option<&Profile>) -> Result<Limits, RequestError> {
    let (default, greatest, name) = match profile {
        Some(profile) => (profile.default_limits(), profile.greatest_limits(), profile.name.as_str()),
        None => (Limits::default(), Limits::greatest(), "commands"),
    };
    default.overlay(&request.limits).check(&greatest, name).map_err(refused_limit)
}

fn refused_limit(error: LimitError) -> RequestError {
    RequestError::new("limits", error.to_string()).hint(error.hint())
}

fn rlimits(limits: &Limits, host: &Host) -> Vec<Rlimit> {
    let rlimit = |name, resource: libc::__rlimit_resource_t, value| Rlimit { name, resource, value };
    let cpu_seconds = (limits.cpu_time + Duration::from_millis(999)).as_secs() + 1;
    vec![
        // A backstop behind the supervisor's own clock: per process, in whole seconds, SIGXCPU then SIGKILL.
        rlimit("cpu", libc::RLIMIT_CPU, cpu_seconds),
        rlimit("fsize", libc::RLIMIT_FSIZE, limits.file_bytes),
        rlimit("nofile", libc::RLIMIT_NOFILE, limits.open_files.min(host.open_files_hard)),
        rlimit("stack", libc::RLIMIT_STACK, limits.stack_bytes),
        // A backstop behind the cgroup's: counted per user within the cell's own user namespace.
        rlimit("nproc", libc::RLIMIT_NPROC, u64::from(limits.processes) + 1),
        rlimit("memlock", libc::RLIMIT_MEMLOCK, 64 << 10),
        rlimit("msgqueue", libc::RLIMIT_MSGQUEUE, 0),
        rlimit("nice", libc::RLIMIT_NICE, 0),
        rlimit("rtprio", libc::RLIMIT_RTPRIO, 0),
        rlimit("sigpending", libc::RLIMIT_SIGPENDING, 256),
    ]
}

fn check_files(request: &Request) -> Result<(), RequestError> {
    let program = match &request.program {
        Program::Source(file) => Some(file),
        Program::Command(_) => None,
    };
    let all: Vec<_> = request.files.iter().chain(program).collect();
    if all.len() > bounds::FILES_MAX {
        let message = format!("{} files are more than the {} that a run may have", all.len(), bounds::FILES_MAX);
        return Err(RequestError::new("files", message));
    }
    let bytes = all.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
    if bytes > bounds::FILES_BYTES_MAX {
        let message = format!("{bytes} bytes of files are more than the {} allowed", bounds::FILES_BYTES_MAX);
        return Err(RequestError::new("files", message));
    }
    for (index, file) in all.iter().enumerate() {
        check_file_name(&file.name)?;
        for other in &all[..index] {
            let (shorter, longer) =
                if other.name.len() <= file.name.len() { (&other.name, &file.name) } else { (&file.name, &other.name) };
            let clash =
                longer.strip_prefix(shorter.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            if clash {
                let message = format!("file names {shorter:?} and {longer:?} cannot both exist");
                return Err(RequestError::new("files", message));
            }
        }
    }
    if let Some(empty) = program.filter(|program| program.bytes == 0) {
        return Err(RequestError::new("code", format!("{:?} is empty: there is nothing to run", empty.name)));
    }
    Ok(())
}

/// Names or globs of results stay inside the work directory, like the names of files.
fn check_globs(globs: &[String]) -> Result<(), RequestError> {
    if globs.len() > bounds::FILES_OUT_MAX {
        let message = format!("files_out has {} entries, more than the {} allowed", globs.len(), bounds::FILES_OUT_MAX);
        return Err(RequestError::new("files_out", message));
    }
    globs.iter().try_for_each(|glob| {
        check_file_name(glob).map_err(|error| {
            RequestError { field: "files_out", ..error }
                .hint("name files such as \"plot.png\" or \"*.csv\", relative to the work directory")
        })
    })
}

/// A C string from bytes a request gave; `what` names them in the error.
fn c_string(bytes: &[u8], what: &'static str) -> Result<CString, RequestError> {
    CString::new(bytes).map_err(|_| {
        RequestError::new(what, format!("{} contains a NUL byte", String::from_utf8_lossy(bytes).escape_debug()))
    })
}
