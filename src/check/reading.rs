//! What a payload finds around itself, read back from inside, and what each finding says of the layer behind it.

use std::collections::BTreeMap;
use std::path::Path;

use super::cell::Obstacle;
use super::{Group, Layer};
use crate::sandbox::sequence::SEQUENCE;
use crate::words::host::{Host, NAMESPACES, Privilege};

pub(super) type Read = Result<(Reading, Vec<String>), Obstacle>;

/// What the payload reads; each answer follows a line `@NAME`. It also tries what must fail.
pub(super) const QUESTIONS: &str = r"exec 2>&1
echo @status; cat /proc/self/status
echo @mounts; cat /proc/self/mountinfo
echo @groups; cat /proc/self/cgroup
echo @ids; cat /proc/self/uid_map
echo @limits; cat /proc/self/limits
echo @links; cat /proc/self/net/dev
echo @descriptors; for f in /proc/self/fd/*; do echo $f; done
echo @namespaces; for n in user pid mnt net ipc uts cgroup; do echo $n $(readlink /proc/self/ns/$n); done
echo @write; (: >/sandboxd-check)
echo @unshare; unshare --user /bin/true
echo @tcp; [ ! -x /bin/bash ] || /bin/bash -c ': <>/dev/tcp/127.0.0.1/9'
echo @end
";

/// The answers, by question.
pub(super) struct Reading(BTreeMap<String, String>);

impl Reading {
    pub(super) fn parse(text: &str) -> Reading {
        let sections = text.split("\n@").map(|section| section.trim_start_matches('@'));
        let pairs = sections.map(|section| section.split_once('\n').unwrap_or((section, "")));
        Reading(pairs.map(|(name, answer)| (name.to_owned(), answer.to_owned())).collect())
    }

    pub(super) fn section(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A field of /proc/PID/status.
    pub(super) fn status(&self, field: &str) -> &str {
        let find = |line: &'_ str| line.strip_prefix(field).and_then(|rest| rest.strip_prefix(':')).is_some();
        let line = self.section("status").lines().find(|line| find(line)).unwrap_or("");
        line.split_once(':').map_or("", |(_, value)| value.trim())
    }

    /// The options, file system and source of what is mounted at `target`: those of the mount, then the file system's.
    pub(super) fn mount(&self, target: &str) -> Option<(String, String)> {
        let line = self.section("mounts").lines().rev().find(|line| line.split(' ').nth(4) == Some(target))?;
        let (mount, file_system) = line.split_once(" - ")?;
        let mut parts = file_system.split(' ');
        let kind = parts.next()?;
        Some((format!("{},{}", mount.split(' ').nth(5)?, parts.nth(1)?), kind.to_owned()))
    }
}

/// A row of what a payload found.
struct Measure {
    name: &'static str,
    /// The step that puts it in force, to tell how far a cell came that could not be made.
    step: &'static str,
    required: bool,
    read: fn(&Host, &Reading, &[String]) -> Found,
}

enum Found {
    Enforced(String),
    Weaker(String, &'static str),
    Missing(String, &'static str),
}

const fn measure(name: &'static str, step: &'static str, read: fn(&Host, &Reading, &[String]) -> Found) -> Measure {
    Measure { name, step, required: true, read }
}

const fn optional(name: &'static str, step: &'static str, read: fn(&Host, &Reading, &[String]) -> Found) -> Measure {
    Measure { name, step, required: false, read }
}

/// In the order of the sequence.
const MEASURES: [Measure; 17] = [
    measure("stage", "stage", stage),
    measure("namespaces", "clone_init", namespaces),
    measure("network", "clone_init", network),
    measure("id map", "write_id_maps", id_map),
    measure("control groups inside", "unshare_cgroup_namespace", groups_inside),
    measure("session keyring", "new_session_keyring", session_keyring),
    measure("nested namespaces", "forbid_user_namespaces", nested_namespaces),
    measure("proc", "mount_proc", proc),
    measure("scratch", "mount_scratch", scratch),
    measure("root", "pivot_root", root),
    optional("speculation", "force_speculation_mitigations", speculation),
    measure("capabilities", "drop_capabilities", capabilities),
    measure("no_new_privs", "set_no_new_privileges", no_new_privileges),
    measure("core size", "limit_core_dumps", core_size),
    measure("descriptors inside", "mark_descriptors", descriptors_inside),
    optional("landlock", "restrict_by_landlock", landlock),
    measure("seccomp", "install_seccomp", seccomp),
];

pub(super) fn isolation(host: &Host, reading: &Read) -> Vec<Layer> {
    let row = |measure: &Measure| {
        let layer = match reading {
            Ok((reading, denied)) => match (measure.read)(host, reading, denied) {
                Found::Enforced(detail) => Layer::enforced(Group::Cell, measure.name, detail),
                Found::Weaker(detail, remedy) => Layer::weaker(Group::Cell, measure.name, detail, remedy),
                Found::Missing(detail, remedy) => Layer::missing(Group::Cell, measure.name, detail, remedy),
            },
            Err(obstacle) if obstacle.step == measure.step => {
                Layer::missing(Group::Cell, measure.name, &obstacle.message, &obstacle.remedy)
            }
            Err(obstacle) => {
                let came = position(&obstacle.step) > position(measure.step);
                let detail = match came {
                    true => format!("its step was taken, but no cell came to be ({})", obstacle.message),
                    false => format!("not tried: no cell came to be ({})", obstacle.message),
                };
                Layer::missing(Group::Cell, measure.name, detail, &obstacle.remedy)
            }
        };
        Layer { required: measure.required, ..layer }
    };
    MEASURES.iter().map(row).collect()
}

/// Where a step stands; what comes before every cell has place 0.
fn position(step: &str) -> usize {
    SEQUENCE.iter().position(|known| known.name == step).map_or(0, |index| index + 1)
}

/// For what can only be our own mistake, the kernel having agreed to every step.
const REPORT: &str = "report it as a bug of sandboxd, with the output of `sandboxd check --json`";

fn stage(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let count = reading.section("mounts").lines().count();
    Found::Enforced(format!("the new mount API works; a cell sees {count} mounts, all of them its own image's"))
}

fn namespaces(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let shared: Vec<&str> = NAMESPACES
        .into_iter()
        .filter(|name| {
            let short = if *name == "mount" { "mnt" } else { name };
            let inside =
                reading.section("namespaces").lines().find_map(|line| line.strip_prefix(short)?.strip_prefix(' '));
            let outside = std::fs::read_link(format!("/proc/self/ns/{short}")).ok();
            inside.is_none_or(|inside| inside.is_empty() || outside.is_none_or(|outside| outside == Path::new(inside)))
        })
        .collect();
    match shared.is_empty() {
        true => Found::Enforced(format!("{}: each another than ours", NAMESPACES.join(" "))),
        false => Found::Missing(format!("shared with the supervisor: {}", shared.join(" ")), REPORT),
    }
}

fn network(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let names = reading.section("links").lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    let strange: Vec<_> = names.filter(|name| *name != "lo").collect();
    match strange.is_empty() {
        true => Found::Enforced("no interface but the loopback, which is down".to_owned()),
        false => Found::Missing(format!("the cell sees {}", strange.join(", ")), REPORT),
    }
}

fn id_map(host: &Host, reading: &Reading, _: &[String]) -> Found {
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.first().zip(words.get(1)).map(|(inside, outside)| format!("{inside} is {outside} outside"))
    };
    let map: Vec<_> = reading.section("ids").lines().filter_map(line).collect();
    let (groups, uids) = (reading.status("Groups"), reading.status("Uid"));
    if !groups.is_empty() || uids.split_whitespace().any(|uid| uid != "1000") {
        return Found::Missing(format!("the program runs as {uids:?} with groups {groups:?}"), REPORT);
    }
    match host.privilege {
        Privilege::Root => Found::Enforced(format!("ids of this cell alone ({}), no groups", map.join(", "))),
        Privilege::Rootless => {
            Found::Weaker(format!("init and program share your own id ({})", map.join(", ")), "run as root")
        }
    }
}

fn session_keyring(_: &Host, _: &Reading, _: &[String]) -> Found {
    Found::Enforced("a new one, joined before anything of the cell ran".to_owned())
}

fn nested_namespaces(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let said = reading.section("unshare");
    match said.contains("not permitted") || said.contains("No space left") {
        true => Found::Enforced("tried from inside and refused".to_owned()),
        false if said.contains("not found") => {
            Found::Enforced("max_user_namespaces is 0 in the cell (no unshare(1) here to try it)".to_owned())
        }
        false => Found::Missing(format!("a program could make a user namespace {said}"), REPORT),
    }
}

fn proc(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let (options, _) = reading.mount("/proc").unwrap_or_default();
    let lacking: Vec<_> = ["ro", "subset=pid", "hidepid=invisible"]
        .into_iter()
        .filter(|wanted| !options.split(',').any(|option| option == *wanted))
        .collect();
    match lacking.is_empty() {
        true => Found::Enforced("read-only, its own processes only (subset=pid, hidepid=invisible)".to_owned()),
        false => Found::Missing(format!("mounted without {}", lacking.join(", ")), "use Linux 5.8 or later"),
    }
}

fn scratch(_: &Host, reading: &Reading, _: &[String]) -> Found {
    for target in ["/tmp", crate::plan::WORKDIR] {
        let (options, kind) = reading.mount(target).unwrap_or_default();
        if kind != "tmpfs"
            || !options.contains("size=")
            || !options.contains("nr_inodes=")
            || !options.contains("nodev")
        {
            return Found::Missing(format!("{target} is {kind} with {options}"), REPORT);
        }
    }
    Found::Enforced(format!("/tmp and {} are tmpfs, limited in size and number of files", crate::plan::WORKDIR))
}

fn root(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let (options, kind) = reading.mount("/").unwrap_or_default();
    let locked = ["ro", "nosuid", "nodev"].iter().all(|wanted| options.split(',').any(|option| option == *wanted));
    match locked && !reading.section("write").trim().is_empty() {
        true => Found::Enforced(format!("the image's own ({kind}), read-only, nosuid, nodev; a write was refused")),
        false => Found::Missing(format!("{kind} with {options}"), REPORT),
    }
}

fn speculation(host: &Host, reading: &Reading, _: &[String]) -> Found {
    let found = [
        ("store bypass", reading.status("Speculation_Store_Bypass"), host.speculation_store_bypass),
        ("indirect branches", reading.status("SpeculationIndirectBranch"), host.speculation_indirect_branch),
    ];
    let is_safe = |state: &str| {
        ["force", "not vulnerable", "not affected", "globally", "always disabled"]
            .iter()
            .any(|safe| state.contains(safe))
    };
    let told = found.map(|(what, state, _)| format!("{what}: {}", if state.is_empty() { "unknown" } else { state }));
    let told = told.join("; ");
    let open: Vec<_> = found.iter().filter(|(_, state, _)| !is_safe(state)).collect();
    match (open.is_empty(), open.iter().any(|(_, _, controllable)| *controllable)) {
        (true, _) => Found::Enforced(told),
        (false, true) => Found::Missing(told, REPORT),
        (false, false) => Found::Weaker(
            format!("{told}; this kernel offers no control of it on this CPU"),
            "boot with spec_store_bypass_disable=prctl spectre_v2_user=prctl and new microcode, or give tenants who \
             must not learn of each other machines of their own",
        ),
    }
}

fn capabilities(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let held: Vec<_> = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .into_iter()
        .filter(|set| reading.status(set).is_empty() || reading.status(set).contains(|digit| digit != '0'))
        .collect();
    match held.is_empty() {
        true => Found::Enforced("none in any of the five sets, securebits locked".to_owned()),
        false => Found::Missing(format!("not empty: {}", held.join(" ")), REPORT),
    }
}

fn no_new_privileges(_: &Host, reading: &Reading, _: &[String]) -> Found {
    match reading.status("NoNewPrivs") {
        "1" => Found::Enforced("set".to_owned()),
        other => Found::Missing(format!("the kernel says {other:?}"), REPORT),
    }
}

fn core_size(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let line = reading.section("limits").lines().find(|line| line.starts_with("Max core file size")).unwrap_or("");
    let values: Vec<_> = line.split_whitespace().skip(4).take(2).collect();
    match values == ["1", "1"] {
        true => Found::Enforced("limited to 1 byte: no core file, and no handler on the host is run".to_owned()),
        false => Found::Missing(format!("limited to {}", values.join("/")), REPORT),
    }
}

fn descriptors_inside(_: &Host, reading: &Reading, _: &[String]) -> Found {
    // The fourth is the shell's own, of the directory it lists.
    let numbers =
        reading.section("descriptors").lines().filter_map(|line| line.rsplit('/').next()?.parse::<u32>().ok());
    let strange: Vec<_> = numbers.filter(|number| *number > 3).map(|number| number.to_string()).collect();
    match strange.is_empty() {
        true => Found::Enforced("only 0, 1 and 2".to_owned()),
        false => Found::Missing(format!("open beside 0, 1 and 2: {}", strange.join(", ")), REPORT),
    }
}

fn landlock(host: &Host, reading: &Reading, _: &[String]) -> Found {
    const NEWER: &str = "use Linux 6.12 or later (landlock ABI 6)";
    let abi = host.landlock_abi;
    let tcp = reading.section("tcp");
    match abi {
        0 => Found::Missing(
            "this kernel has none: files are confined by mounts and permissions alone".to_owned(),
            "use a kernel with CONFIG_SECURITY_LANDLOCK, and `landlock` in its lsm= list; 6.12 or later serves best",
        ),
        1..=3 => Found::Weaker(format!("ABI {abi}: files; neither TCP nor signals and abstract sockets"), NEWER),
        4..=5 => Found::Weaker(format!("ABI {abi}: files and TCP; not signals and abstract sockets"), NEWER),
        // Without it the refusal would be the network's: connection refused, or network unreachable.
        _ if !tcp.is_empty() && !tcp.contains("Permission denied") => {
            Found::Missing(format!("ABI {abi}, but a connection got as far as {tcp:?}"), REPORT)
        }
        _ if tcp.is_empty() => Found::Enforced(format!("ABI {abi}: files, TCP, signals, abstract sockets")),
        _ => Found::Enforced(format!(
            "ABI {abi}: files, TCP (a connection was refused by it), signals, abstract sockets"
        )),
    }
}

fn seccomp(host: &Host, reading: &Reading, denied: &[String]) -> Found {
    if reading.status("Seccomp") != "2" {
        let detail = format!("the kernel says mode {:?}", reading.status("Seccomp"));
        return Found::Missing(detail, "use a kernel with CONFIG_SECCOMP_FILTER");
    }
    match (host.seccomp_notify, denied.is_empty()) {
        (true, false) => Found::Enforced(format!("a filter; tried, refused and reported: {}", denied.join(", "))),
        _ => Found::Enforced("a filter".to_owned()),
    }
}

fn groups_inside(_: &Host, reading: &Reading, _: &[String]) -> Found {
    let seen: Vec<_> = reading
        .section("groups")
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter(|group| *group != "/")
        .collect();
    match seen.is_empty() {
        true => Found::Enforced("the cell's own is the root it sees".to_owned()),
        false => Found::Missing(format!("the cell sees {}", seen.join(" ")), REPORT),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::sandbox::cgroup::Kind;

    #[test]
    fn what_a_payload_says_is_read_by_question() {
        let text = "@status\nNoNewPrivs:\t1\nGroups:\t \n@mounts\n\
                    51 45 0:45 / / ro,nosuid,nodev - erofs /dev/loop0 ro\n@write\nsh: Read-only file system\n@end\n";
        let reading = Reading::parse(text);
        assert_eq!(reading.status("NoNewPrivs"), "1");
        assert_eq!(reading.status("Groups"), "");
        assert_eq!(reading.mount("/"), Some(("ro,nosuid,nodev,ro".to_owned(), "erofs".to_owned())));
        assert!(reading.section("write").contains("Read-only"));
        assert_eq!(reading.section("unknown"), "");
    }

    #[test]
    fn every_measure_names_a_row_of_the_sequence_in_its_order() {
        assert!(MEASURES[1..].iter().all(|measure| position(measure.step) > 0));
        assert!(MEASURES.is_sorted_by_key(|measure| position(measure.step)));
    }

    #[test]
    fn a_step_that_failed_is_told_by_its_row_and_those_after_it_were_not_tried() {
        let host = crate::sandbox::probe::host(Kind::None).unwrap();
        let obstacle =
            Obstacle { step: "mount_proc".into(), message: "mount_proc: EPERM".into(), remedy: "run as root".into() };
        let layers = isolation(&host, &Err(obstacle));
        let detail = |name: &str| layers.iter().find(|layer| layer.name == name).map(|layer| layer.detail.clone());
        assert!(layers.iter().all(|layer| layer.state == State::Missing && layer.remedy.is_some()));
        assert_eq!(detail("proc").as_deref(), Some("mount_proc: EPERM"));
        assert!(detail("id map").is_some_and(|detail| detail.starts_with("its step was taken")));
        assert!(detail("seccomp").is_some_and(|detail| detail.starts_with("not tried")));
    }
}
