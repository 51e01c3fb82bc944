//! The isolation sequence, stated once: every step, who performs it, in which order and why there.
//!
//! The supervisor's preparation, init's loop, the payload's loop, `--dry-run`, failure reports, `check`, the order
//! tests and the tests that fail each step once all read [`SEQUENCE`]. No step looks at options: a plan has a step
//! performed or leaves it out ([`Step::applies`]), and a step that fails ends the cell.

use std::fmt::Write as _;

use nix::errno::Errno;

use super::cell::{self, Preparation, StepFailure};
use super::child::ChildImage;
use super::{init, payload};
use crate::plan::{Access, CellPlan, FilesOut, ImageKind};
use crate::words::host::CgroupKind;
use crate::words::limits::{format_size, format_time};

/// One row of the sequence.
pub struct Step {
    pub name: &'static str,
    pub act: Act,
    /// Why the step exists and stands at this place.
    pub why: &'static str,
    /// Whether a plan has the step performed.
    planned: fn(&CellPlan) -> bool,
    /// What the step does under a plan, a line each, for `--dry-run`.
    details: fn(&CellPlan) -> Vec<String>,
}

/// Who performs a step, and how.
#[derive(Clone, Copy)]
pub enum Act {
    Supervisor(fn(&mut Preparation) -> Result<(), StepFailure>),
    Init(fn(&mut ChildImage) -> Result<(), Errno>),
    Payload(fn(&mut ChildImage) -> Result<(), Errno>),
}

impl Act {
    pub fn actor(self) -> &'static str {
        match self {
            Act::Supervisor(_) => "supervisor",
            Act::Init(_) => "init",
            Act::Payload(_) => "payload",
        }
    }
}

impl Step {
    /// Whether `plan` has this step performed.
    pub fn applies(&self, plan: &CellPlan) -> bool {
        (self.planned)(plan) && !plan.leaves_out(self.name)
    }

    /// The failure a test has armed for this step; always `Ok` in a release build.
    pub fn fault(&self) -> Result<(), Errno> {
        super::fault::check("step", self.name).map_err(|errno| Errno::from_raw(errno.raw_os_error()))
    }
}

const fn supervisor(
    name: &'static str,
    act: fn(&mut Preparation) -> Result<(), StepFailure>,
    why: &'static str,
) -> Step {
    Step { name, act: Act::Supervisor(act), why, planned: always, details: nothing }
}

const fn init(name: &'static str, act: fn(&mut ChildImage) -> Result<(), Errno>, why: &'static str) -> Step {
    Step { name, act: Act::Init(act), why, planned: always, details: nothing }
}

const fn payload(name: &'static str, act: fn(&mut ChildImage) -> Result<(), Errno>, why: &'static str) -> Step {
    Step { name, act: Act::Payload(act), why, planned: always, details: nothing }
}

impl Step {
    const fn when(mut self, planned: fn(&CellPlan) -> bool) -> Step {
        self.planned = planned;
        self
    }

    const fn shows(mut self, details: fn(&CellPlan) -> Vec<String>) -> Step {
        self.details = details;
        self
    }
}

fn always(_: &CellPlan) -> bool {
    true
}

fn nothing(_: &CellPlan) -> Vec<String> {
    Vec::new()
}

/// The order of isolation.
#[rustfmt::skip]
pub static SEQUENCE: [Step; 53] = [
    supervisor("create_control_socket", cell::create_control_socket,
        "init reports over it; a socketpair has no name that anything in the cell could reach"),
    supervisor("create_cgroup", cell::create_cgroup,
        "before any process of the cell exists, so that none ever runs unlimited or uncounted").shows(show_cgroup),
    supervisor("create_landlock_ruleset", cell::create_landlock_ruleset,
        "an empty ruleset denies everything it handles; init adds the paths it makes").when(has_landlock),
    supervisor("take_network", cell::take_network,
        "a network namespace that no cell has seen, empty, and owned by nobody in the cell")
        .when(|plan| plan.namespaces.contains(&"net")),
    supervisor("clone_init", cell::clone_init,
        "all other namespaces at once, from within the image's stage, on v2 straight into the cgroup")
        .shows(show_namespaces),
    supervisor("check_cgroup_membership", cell::check_cgroup_membership,
        "a kernel that ignored the cgroup would give no limits and no error").when(is_v2),
    supervisor("write_id_maps", cell::write_id_maps,
        "only the parent namespace may map ids; setgroups is denied first").shows(show_identity),
    supervisor("release_init", cell::release_init,
        "init has waited: until now it has only shut locks of its own, which need neither ids nor limits"),

    init("set_oom_score", init::set_oom_score,
        "the cell dies first when the machine runs out; the file is ours only before the change of user"),
    init("close_descriptors", init::close_descriptors,
        "before anything else runs, so that no descriptor of the supervisor or of another cell is ever in reach"),
    init("lock_securebits", init::lock_securebits,
        "no later change of user or exec can bring a capability back; done while the id maps are being written"),
    init("drop_bounding_set", init::drop_bounding_set,
        "no file or exec can ever grant a capability again"),
    init("reset_signals", init::reset_signals,
        "what the supervisor ignores is inherited over clone and exec; the program starts with defaults"),
    init("block_child_signals", init::block_child_signals,
        "init learns of ended children by a descriptor, beside the listener for denied system calls"),
    init("wait_for_id_maps", init::wait_for_id_maps,
        "what follows needs ids that exist in the namespace"),
    init("join_cgroups", init::join_cgroups,
        "on v1 init joins by itself: written by a single-threaded process, it does not wait for RCU").when(is_hybrid),
    init("unshare_cgroup_namespace", init::unshare_cgroup_namespace,
        "after joining, so that the cell's own group is the root it sees"),
    init("become_init_user", init::become_init_user,
        "an ordinary user of its own, not the payload's: the payload may not signal or trace init"),
    init("die_with_supervisor", init::die_with_supervisor,
        "after the change of user, which would clear it: a supervisor that dies takes its cells along"),
    init("new_init_session", init::new_session,
        "no controlling terminal, so no TIOCSTI into the operator's shell"),
    init("new_session_keyring", init::new_session_keyring,
        "keys of the supervisor's session stay out of reach"),
    init("set_hostname", init::set_hostname,
        "the host's name is nobody's business").shows(|plan| vec![format!("hostname {}", plan.hostname)]),
    init("forbid_user_namespaces", init::forbid_user_namespaces,
        "a nested user namespace would open kernel code that needs capabilities; needs the stage's proc"),
    init("bind_root", init::bind_root,
        "pivot_root wants a mount that is not locked; the copy keeps every read-only lock").when(has_bound_root),
    init("mount_overlays", init::mount_overlays,
        "inodes of the cell's own over the shared layers: no file lock of one cell is seen by another")
        .when(has_overlay).shows(show_root),
    init("enter_root", init::enter_root,
        "what is mounted from here on is named relative to the new root"),
    init("bind_devices", init::bind_devices,
        "the stage's few harmless devices, read-only, and no others"),
    init("mount_proc", init::mount_proc,
        "its own processes only, read-only; must precede pivot_root, while the stage's proc is still in view")
        .shows(|_| vec!["proc /proc ro,nosuid,nodev,noexec,subset=pid,hidepid=invisible".to_owned()]),
    init("mount_scratch", init::mount_scratch,
        "the only writable places, limited in size and number of files").shows(show_scratch),
    init("hand_over_workdir", init::hand_over_workdir,
        "artefacts are collected by this descriptor when everything in the cell is dead, not by a path")
        .when(|plan| plan.files_out != FilesOut::None),
    init("pivot_root", init::pivot_root,
        "the image becomes the root; unlike chroot there is no way back out"),
    init("detach_old_root", init::detach_old_root,
        "nothing of the stage stays reachable"),
    init("add_landlock_rules", init::add_landlock_rules,
        "rules bind to inodes, and the scratch mounts exist only now").when(has_landlock).shows(show_landlock),
    init("force_speculation_mitigations", init::force_speculation_mitigations,
        "inherited and locked, so that no process of the cell trains predictors for its neighbours")
        .when(|plan| plan.speculation_store_bypass || plan.speculation_indirect_branch).shows(show_speculation),
    init("start_payload", init::start_payload,
        "as vfork: init sleeps until the program runs or a payload step failed"),
    init("drop_init_privileges", init::drop_init_privileges,
        "from here on init only reaps and answers; it needs neither capabilities nor streams"),
    init("reap", init::reap,
        "orphans too; when the payload's first process ends init ends, and the kernel kills the rest"),

    payload("new_payload_session", payload::new_session,
        "a session and process group apart from init's"),
    payload("unblock_signals", payload::unblock_signals,
        "init has blocked the one it reads from a descriptor, and what is blocked stays so over exec"),
    payload("become_payload_user", payload::become_payload_user,
        "an ordinary user that owns the scratch mounts and nothing else"),
    payload("drop_capabilities", payload::drop_capabilities,
        "all three sets; the bounding set went before"),
    payload("set_no_new_privileges", payload::set_no_new_privileges,
        "setuid and file capabilities gain nothing; landlock and seccomp demand it"),
    payload("limit_core_dumps", payload::limit_core_dumps,
        "no crash writes a file or runs a handler on the host; before the filter, which lets nobody change it")
        .shows(|_| vec!["rlimit core 1".to_owned()]),
    payload("mark_descriptors", payload::mark_descriptors,
        "all but 0, 1 and 2 close at the exec, whatever init has left open"),
    payload("restrict_by_landlock", payload::restrict_by_landlock,
        "from here on it reaches what its program may reach").when(has_landlock),
    payload("install_seccomp", payload::install_seccomp,
        "last of the locks, since it forbids what the others need; tried at once by a call that it must refuse")
        .when(|plan| plan.seccomp.is_some()).shows(show_seccomp),
    payload("report_prepared", payload::report_prepared,
        "the cell is ready, every lock is shut, and it holds nothing of any run yet"),
    payload("receive_start", payload::receive_start,
        "a cell is given exactly one program"),
    payload("write_files", payload::write_files,
        "behind all locks and as the payload's user: they are its own from the start").shows(show_files),
    payload("install_streams", payload::install_streams,
        "0, 1 and 2 are the run's own pipes"),
    payload("set_rlimits", payload::set_rlimits,
        "limits per process beneath those of the cgroup; after the files, which are no writing of the program's")
        .shows(show_rlimits),
    payload("enter_workdir", payload::enter_workdir,
        "where the program's files are"),
    payload("execute", payload::execute,
        "the untrusted program").shows(show_command),
];

fn is_v2(plan: &CellPlan) -> bool {
    plan.cgroup == CgroupKind::V2
}
fn is_hybrid(plan: &CellPlan) -> bool {
    plan.cgroup == CgroupKind::Hybrid
}
fn has_bound_root(plan: &CellPlan) -> bool {
    plan.image == ImageKind::Synthetic || !plan.overlay
}
fn has_overlay(plan: &CellPlan) -> bool {
    plan.overlay
}
fn has_landlock(plan: &CellPlan) -> bool {
    plan.landlock.is_some()
}

fn show_cgroup(plan: &CellPlan) -> Vec<String> {
    let limits = &plan.limits;
    let memory = format_size(limits.memory_bytes);
    let enforced = match plan.cgroup {
        CgroupKind::None => vec![
            "cgroup none: what is used is polled".to_owned(),
            format!("memory {memory} (watched by the supervisor)"),
        ],
        _ => vec![
            format!("cgroup {}", plan.cgroup.name()),
            format!("memory {memory} without swap, out of memory kills the whole cell"),
            format!("processes {} (and init)", limits.processes),
            format!("cpu_rate {} cores", limits.cpu_rate),
        ],
    };
    let watched = [
        format!("cpu_time {} (watched by the supervisor)", format_time(limits.cpu_time)),
        format!("wall_time {} (watched by the supervisor)", format_time(limits.wall_time)),
    ];
    enforced.into_iter().chain(watched).collect()
}

fn show_namespaces(plan: &CellPlan) -> Vec<String> {
    vec![format!("new namespaces: {}", plan.namespaces.join(" "))]
}

fn show_identity(plan: &CellPlan) -> Vec<String> {
    let identity = plan.identity;
    let mut lines = vec!["setgroups deny".to_owned()];
    if identity.init == identity.payload {
        lines.push(format!("uid {} and gid {0} -> the calling user (init and payload)", identity.payload));
    } else {
        lines.push(format!("uid {} and gid {0} -> an id of this cell alone (init)", identity.init));
        lines.push(format!("uid {} and gid {0} -> an id of this cell alone (payload)", identity.payload));
    }
    lines
}

fn show_root(plan: &CellPlan) -> Vec<String> {
    vec![
        format!("overlay / ro,nosuid,nodev over image {}", plan.rootfs),
        "tmpfs /dev ro,nosuid,noexec: null zero full random urandom fd stdin stdout stderr shm".to_owned(),
    ]
}

fn show_scratch(plan: &CellPlan) -> Vec<String> {
    let line = |scratch: &crate::plan::Scratch| {
        let (size, inodes, mode) = (format_size(scratch.bytes), scratch.inodes, scratch.mode);
        format!("tmpfs {} rw,nosuid,nodev,size={size},nr_inodes={inodes},mode={mode:o}", scratch.target)
    };
    plan.scratch.iter().map(line).collect()
}

fn show_landlock(plan: &CellPlan) -> Vec<String> {
    let Some(landlock) = &plan.landlock else { return Vec::new() };
    let head = format!("landlock ABI {}: no TCP, no signals and no abstract sockets beyond the cell", landlock.abi);
    let rules = landlock.rules.iter().map(|(path, access)| {
        let words = match access {
            Access::ReadExecute => "read, execute",
            Access::Devices => "write, ioctl",
            Access::ReadWrite => "read, write, execute, create, remove",
        };
        format!("landlock {path}: {words}")
    });
    std::iter::once(head).chain(rules).collect()
}

fn show_speculation(plan: &CellPlan) -> Vec<String> {
    let mut lines = Vec::new();
    if plan.speculation_store_bypass {
        lines.push("speculative store bypass: force-disabled".to_owned());
    }
    if plan.speculation_indirect_branch {
        lines.push("indirect branch speculation: force-disabled".to_owned());
    }
    lines
}

fn show_files(plan: &CellPlan) -> Vec<String> {
    plan.files.iter().map(|(name, mode)| format!("file {}/{name} mode {mode:o}", crate::plan::WORKDIR)).collect()
}

fn show_rlimits(plan: &CellPlan) -> Vec<String> {
    plan.rlimits.iter().map(|rlimit| format!("rlimit {} {}", rlimit.name, rlimit.value)).collect()
}

fn show_seccomp(plan: &CellPlan) -> Vec<String> {
    let Some(seccomp) = &plan.seccomp else { return Vec::new() };
    super::seccomp::describe(&seccomp.additions, seccomp.notify)
}

fn show_command(plan: &CellPlan) -> Vec<String> {
    let quoted = |strings: &[std::ffi::CString]| {
        strings.iter().map(|string| format!("{:?}", string.to_string_lossy())).collect::<Vec<_>>().join(" ")
    };
    vec![
        format!("execute the first of {}", quoted(&plan.command.candidates)),
        format!("arguments {}", quoted(&plan.command.arguments)),
        format!("environment {}", quoted(&plan.command.environment)),
    ]
}

/// A plan as text: each step it has performed, in the order of the sequence, with what it does.
pub fn dry_run(plan: &CellPlan) -> String {
    let mut text = String::new();
    for step in &SEQUENCE {
        // Writing to a String cannot fail.
        if step.applies(plan) {
            let _ = writeln!(text, "{:<10} {:<28} {}", step.act.actor(), step.name, step.why);
            for line in (step.details)(plan) {
                let _ = writeln!(text, "{:<10} {:<28}   {line}", "", "");
            }
        } else {
            let _ = writeln!(text, "{:<10} {:<28} left out", step.act.actor(), step.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(name: &str) -> usize {
        SEQUENCE.iter().position(|step| step.name == name).unwrap_or_else(|| panic!("no step {name}"))
    }

    #[test]
    fn names_are_unique_and_fit_the_bit_set() {
        let mut names: Vec<_> = SEQUENCE.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SEQUENCE.len());
        assert!(SEQUENCE.len() <= 64);
    }

    #[test]
    fn the_order_that_security_depends_on_holds() {
        let before = [
            ("create_cgroup", "clone_init"),
            ("take_network", "clone_init"),
            ("write_id_maps", "release_init"),
            ("close_descriptors", "start_payload"),
            ("join_cgroups", "unshare_cgroup_namespace"),
            ("set_oom_score", "become_init_user"),
            ("become_init_user", "die_with_supervisor"),
            ("forbid_user_namespaces", "detach_old_root"),
            ("bind_root", "mount_overlays"),
            ("mount_overlays", "bind_devices"),
            ("bind_devices", "pivot_root"),
            ("mount_proc", "pivot_root"),
            ("pivot_root", "detach_old_root"),
            ("mount_scratch", "add_landlock_rules"),
            ("lock_securebits", "drop_capabilities"),
            ("drop_bounding_set", "drop_capabilities"),
            ("become_payload_user", "drop_capabilities"),
            ("set_no_new_privileges", "restrict_by_landlock"),
            ("restrict_by_landlock", "install_seccomp"),
            ("install_seccomp", "receive_start"),
            ("limit_core_dumps", "install_seccomp"),
            ("write_files", "set_rlimits"),
            ("receive_start", "execute"),
        ];
        for (first, second) in before {
            assert!(position(first) < position(second), "{first} must precede {second}");
        }
        assert_eq!(position("execute"), SEQUENCE.len() - 1);
    }
}
