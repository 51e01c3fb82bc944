//! Where our groups go on cgroup2, in this order:
//! 1. the group named by the configuration;
//! 2. our own group, if we are alone in it (systemd's `Delegate=yes`, a container): we step aside into
//!    `sandboxd.supervisor`, since a group with processes of its own cannot hand controllers to its children;
//! 3. the nearest group above us that has memory, pids and cpu enabled for its children;
//! 4. the root of what we can see, enabling them there;
//! 5. the nearest group above us that has at least memory and pids enabled for its children.
//!
//! Memory and pids alone come last because runs have a cpu rate unless told otherwise, and systemd enables no cpu in
//! most of its slices: what is started from a shell or by a unit without `Delegate=` would find nothing else.

use super::dir::Dir;
use super::error::CgroupError;
use super::v2::{LABEL, SUPERVISOR};
use super::{Hierarchy, Kind, Missing, Probe, View, mounts};
use std::path::Path;

const REQUIRED: [&str; 2] = ["memory", "pids"];
const WANTED: [&str; 3] = ["memory", "pids", "cpu"];
const REMEDY: &str = "give the service a subtree of its own (systemd: Delegate=yes; by hand: `systemd-run --scope -p \
                      Delegate=yes …`; in a container: be its only process), or run as root with cgroup2 writable";

pub(super) fn probe(view: &View, unified: bool, parent: Option<&str>) -> Result<Probe, CgroupError> {
    let unavailable = |what: String| CgroupError::Unavailable { what, remedy: REMEDY.into() };
    let own = view.own_group("").ok_or_else(|| unavailable("this kernel has no cgroup2".into()))?;
    let mounts = view.mounts.iter().rev().filter(|mount| mount.version == mounts::Version::V2);
    let seen = mounts.filter_map(|mount| Some((mount, mount.directory(parent.unwrap_or(own))?)));
    let Some((mount, directory)) = seen.into_iter().find(|(_, directory)| directory.is_dir()) else {
        return Err(unavailable(format!("the group {} is not to be seen in any cgroup2 mount", parent.unwrap_or(own))));
    };

    let place = match parent {
        Some(group) => Dir::open(&directory, LABEL).and_then(|dir| Place::here(dir, group, group == own))?,
        None => {
            let mut found = None;
            let mut lesser = None;
            for (directory, group) in upwards(&directory, own, &mount.mount_point) {
                let dir = Dir::open(directory, LABEL)?;
                let alone = group == own && !group.ends_with(SUPERVISOR);
                let top = directory == mount.mount_point;
                let mut place = Place::here(dir, group, alone)?;
                // At the root, what is available can be had.
                place.ready &= !top || place.enabled == place.available;
                let may_enable = place.possible && !place.ready && (place.step_aside || top);
                if (may_enable && place.available == WANTED) || (place.ready && place.enabled == WANTED) {
                    found = Some(place);
                    break;
                }
                if place.ready || may_enable {
                    lesser.get_or_insert(place);
                }
            }
            let found = found.or(lesser);
            found.ok_or_else(|| {
                unavailable(format!("no group at or above {} can hand us memory and pids", directory.display()))
            })?
        }
    };
    if !place.possible {
        return Err(unavailable(format!("{} cannot hand us memory and pids", place.dir.path().display())));
    }
    Ok(place.into_probe(unified))
}

/// Our own group and those above it, up to the mount.
fn upwards<'a>(directory: &'a Path, group: &'a str, top: &'a Path) -> impl Iterator<Item = (&'a Path, &'a str)> {
    let directories = directory.ancestors().take_while(move |directory| directory.starts_with(top));
    let groups = Path::new(group).ancestors().map(|group| group.to_str().unwrap_or("/"));
    directories.zip(groups)
}

/// A group considered as the base of ours.
struct Place<'a> {
    dir: Dir,
    group: &'a str,
    available: Vec<&'static str>,
    enabled: Vec<&'static str>,
    /// memory and pids are enabled for children, and we may make some.
    ready: bool,
    /// They are, or we can enable them.
    possible: bool,
    step_aside: bool,
}

impl Place<'_> {
    fn here(dir: Dir, group: &str, may_step_aside: bool) -> Result<Place<'_>, CgroupError> {
        let among = |file| {
            let text = dir.read("", file)?;
            let listed: Vec<_> = text.words().collect();
            Ok::<_, CgroupError>(WANTED.into_iter().filter(|wanted| listed.contains(wanted)).collect::<Vec<_>>())
        };
        let (available, enabled) = (among("cgroup.controllers")?, among("cgroup.subtree_control")?);
        let complete = |controllers: &[&str]| REQUIRED.iter().all(|required| controllers.contains(required));
        let writable = dir.may_write("cgroup.subtree_control") && dir.may_write(".");
        // Only the true root may hold processes and hand out controllers; it is the one without cgroup.events.
        let is_root = !dir.has("cgroup.events")?;
        let processes = if is_root { vec![] } else { dir.processes("")? };
        let own_pid = std::process::id() as i32;
        let step_aside = may_step_aside && processes == [own_pid];
        let ready = complete(&enabled) && writable && processes.is_empty();
        let possible = ready || (complete(&available) && writable && (processes.is_empty() || step_aside));
        Ok(Place { dir, group, available, enabled, ready, possible, step_aside })
    }

    fn into_probe(self, unified: bool) -> Probe {
        let controllers = if self.ready { &self.enabled } else { &self.available };
        let mut missing = Vec::new();
        if !controllers.contains(&"cpu") {
            let what = format!("cpu rates: the cpu controller is not enabled in {}", self.dir.path().display());
            missing
                .push(Missing { what, remedy: "enable +cpu in the cgroup.subtree_control of the groups above".into() });
        }
        let hierarchy = Hierarchy {
            controllers: controllers.clone(),
            directory: self.dir.path().to_owned(),
            group: self.group.to_owned(),
            enable: if self.ready { vec![] } else { self.available },
            step_aside: self.step_aside && !self.ready,
        };
        Probe { kind: Kind::V2, unified, hierarchies: vec![hierarchy], missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A hierarchy of plain files: path, controllers, enabled for children, processes; "own" in the last is us. The first
    /// is the true root unless its processes begin with "contained".
    fn placed(groups: &[(&str, &str, &str, &str)], own: &str, parent: Option<&str>) -> Result<Probe, CgroupError> {
        let top = tempfile::tempdir().unwrap();
        for (index, (group, controllers, enabled, processes)) in groups.iter().enumerate() {
            let directory = top.path().join(group.trim_start_matches('/'));
            fs::create_dir_all(&directory).unwrap();
            let processes = processes.replace("own", &std::process::id().to_string()).replace(' ', "\n");
            fs::write(directory.join("cgroup.controllers"), controllers).unwrap();
            fs::write(directory.join("cgroup.subtree_control"), enabled).unwrap();
            fs::write(directory.join("cgroup.procs"), &processes).unwrap();
            if index > 0 || processes.starts_with("contained") {
                fs::write(directory.join("cgroup.events"), "populated 1").unwrap();
            }
        }
        let mount =
            mounts::CgroupMount { version: mounts::Version::V2, root: "/".into(), mount_point: top.path().to_owned() };
        let view = View { mounts: vec![mount], memberships: mounts::parse_memberships(&format!("0::{own}")) };
        probe(&view, true, parent)
    }

    const ALL: &str = "cpuset cpu io memory pids";

    #[test]
    fn our_groups_go_to_the_first_place_that_can_hold_them() {
        let root = ("/", ALL, "cpu memory pids", "1 2");
        let slice = ("/system.slice", ALL, "memory pids", "");
        let alone = ("/system.slice/sandboxd.service", ALL, "", "own");
        let shared = ("/system.slice/sandboxd.service", ALL, "", "own 7");
        let bare = ("/system.slice/sandboxd.service", "", "", "own");
        let prepared = ("/system.slice/sandboxd.service", ALL, "cpu memory pids", "");
        let beside = ("/system.slice/sandboxd.service/sandboxd.supervisor", ALL, "", "own");
        let service = "/system.slice/sandboxd.service";
        let within = "/system.slice/sandboxd.service/sandboxd.supervisor";

        type Row<'a> = (&'a [(&'a str, &'a str, &'a str, &'a str)], &'a str, Option<&'a str>, &'a str, bool, usize);
        let table: [Row; 10] = [
            // Delegated and alone: step aside, enable all three.
            (&[root, slice, alone], service, None, service, true, 3),
            // Not alone, or nothing to hand out: a slice above has what is needed, or the root, or they have the most of it.
            (&[root, ("/system.slice", ALL, "cpu memory pids", ""), shared], service, None, "/system.slice", false, 0),
            (&[root, slice, shared], service, None, "/", false, 0),
            (&[("/", ALL, "memory pids", "1"), slice, bare], service, None, "/", false, 3),
            (&[("/", "memory pids", "memory pids", "1"), slice, bare], service, None, "/system.slice", false, 0),
            // A second supervisor of the same service.
            (&[root, slice, prepared, beside], within, None, service, false, 0),
            // The configuration's word comes first.
            (&[root, slice, alone], service, Some("/system.slice"), "/system.slice", false, 0),
            // The only process of a container.
            (&[("/", ALL, "", "contained own")], "/", None, "/", true, 3),
            // A machine without systemd: the root, enabling there.
            (&[("/", ALL, "", "1 own")], "/", None, "/", false, 3),
            (&[("/", ALL, "", ""), ("/shell", "", "", "own 7")], "/shell", None, "/", false, 3),
        ];
        for (groups, own, parent, expected, step_aside, enabled) in table {
            let probe = placed(groups, own, parent).unwrap();
            let place = &probe.hierarchies[0];
            let found = (place.group.as_str(), place.step_aside, place.enable.len());
            assert_eq!(found, (expected, step_aside, enabled), "{own} in {groups:?}");
            assert_eq!(probe.missing.is_empty(), place.controllers.contains(&"cpu"));
        }
    }

    #[test]
    fn no_place_is_an_error_with_a_remedy() {
        let groups_and_own = [
            // A container's root with other processes; an empty cgroup2 beside v1; a group outside the namespace.
            (("/", ALL, "", "contained 1 own"), "/"),
            (("/", "hugetlb", "", "1 own"), "/"),
            (("/", ALL, "memory pids", "1"), "/../outside"),
        ];
        for (group, own) in groups_and_own {
            let error = placed(&[group], own, None).unwrap_err();
            assert!(error.hint().is_some_and(|hint| hint.contains("Delegate=yes")), "{error}");
        }
    }
}
