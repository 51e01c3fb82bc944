//! Where the kernel has cgroups mounted and where we are in them: /proc/self/mountinfo and /proc/self/cgroup.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CgroupMount {
    pub version: Version,
    /// The part of the hierarchy that is visible at `mount_point`: "/" on a host, the container's group in a bind.
    pub root: String,
    pub mount_point: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Version {
    /// A v1 hierarchy with its controllers (and perhaps `name=…`).
    V1(Vec<String>),
    V2,
}

/// One line of /proc/PID/cgroup. No controllers: the v2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Membership {
    pub controllers: Vec<String>,
    pub path: String,
}

pub(super) fn parse_mountinfo(text: &str) -> Vec<CgroupMount> {
    text.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<CgroupMount> {
    let (place, filesystem) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, mount_point) = (unescape(place.next()?), unescape(place.next()?));
    let mut filesystem = filesystem.split(' ');
    let kind = filesystem.next()?;
    let super_options = filesystem.nth(1)?;
    let version = match kind {
        "cgroup2" => Version::V2,
        "cgroup" => Version::V1(super_options.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    Some(CgroupMount { version, root, mount_point: PathBuf::from(mount_point) })
}

pub(super) fn parse_memberships(text: &str) -> Vec<Membership> {
    let parse = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?.split(',').filter(|name| !name.is_empty());
        Some(Membership { controllers: controllers.map(str::to_owned).collect(), path: fields.next()?.to_owned() })
    };
    text.lines().filter_map(parse).collect()
}

/// The group of `controller` ("" for v2) in /proc/PID/cgroup.
pub(super) fn membership<'a>(memberships: &'a [Membership], controller: &str) -> Option<&'a str> {
    let belongs = |membership: &&Membership| match controller {
        "" => membership.controllers.is_empty(),
        name => membership.controllers.iter().any(|controller| controller == name),
    };
    memberships.iter().find(belongs).map(|membership| membership.path.as_str())
}

impl CgroupMount {
    pub fn has(&self, controller: &str) -> bool {
        matches!(&self.version, Version::V1(controllers) if controllers.iter().any(|name| name == controller))
    }

    /// The directory of a group, if it can be seen through this mount.
    pub fn directory(&self, group: &str) -> Option<PathBuf> {
        // "/../…" is a group outside our cgroup namespace, "… (deleted)" one that is gone.
        if group.split('/').any(|part| part == "..") || group.ends_with(" (deleted)") {
            return None;
        }
        let below = Path::new(group).strip_prefix(&self.root).ok()?;
        // Joining "" would add a slash.
        if below.as_os_str().is_empty() {
            return Some(self.mount_point.clone());
        }
        Some(self.mount_point.join(below))
    }
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if byte == b'\\' => {
                bytes.push(code);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEMD_V2: &str = "\
24 30 0:22 / /proc rw,nosuid shared:12 - proc proc rw
35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";
    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 master:1 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup systemd rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
    const CONTAINER_V1: &str =
        "900 880 0:32 /docker/4f1c /sys/fs/cgroup/memory ro,nosuid master:19 - cgroup cgroup rw,memory";
    const ODD_PLACE: &str = r"77 1 0:9 / /mnt/my\040groups rw - cgroup2 none rw";

    fn membership_table() -> [(&'static str, &'static str, Option<&'static str>); 8] {
        let v1 = "9:name=systemd:/\n4:memory:/jobs/84ac\n2:cpu,cpuacct:/\n1:net_cls:/a:b\n0::/";
        [
            ("0::/system.slice/sandboxd.service", "", Some("/system.slice/sandboxd.service")),
            ("0::/system.slice/sandboxd.service", "memory", None),
            (v1, "memory", Some("/jobs/84ac")),
            (v1, "cpuacct", Some("/")),
            (v1, "net_cls", Some("/a:b")),
            (v1, "", Some("/")),
            (v1, "pids", None),
            ("", "", None),
        ]
    }

    #[test]
    fn own_group_is_found_per_controller() {
        for (text, controller, expected) in membership_table() {
            assert_eq!(membership(&parse_memberships(text), controller), expected, "{controller:?} in {text:?}");
        }
    }

    #[test]
    fn mounts_are_found_wherever_they_are() {
        let v2 = parse_mountinfo(SYSTEMD_V2);
        assert_eq!(v2.len(), 1);
        assert_eq!(v2[0].version, Version::V2);
        assert_eq!(v2[0].directory("/a/b"), Some("/sys/fs/cgroup/a/b".into()));

        let hybrid = parse_mountinfo(HYBRID);
        assert_eq!(hybrid.len(), 4);
        assert!(hybrid[0].has("cpu") && hybrid[0].has("cpuacct") && !hybrid[0].has("memory"));
        assert!(hybrid[1].has("memory") && hybrid[2].has("name=systemd") && !hybrid[3].has("memory"));

        assert_eq!(parse_mountinfo(ODD_PLACE)[0].mount_point, Path::new("/mnt/my groups"));
        assert_eq!(parse_mountinfo("nonsense\n- - -\n1 2 0:1 / /x rw - cgroup"), []);
    }

    #[test]
    fn a_bind_of_the_containers_group_is_honoured() {
        let mount = &parse_mountinfo(CONTAINER_V1)[0];
        let directory = |group| mount.directory(group);
        assert_eq!(directory("/docker/4f1c"), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(directory("/docker/4f1c/x"), Some("/sys/fs/cgroup/memory/x".into()));
        assert_eq!(directory("/docker/4f1cc"), None);
        assert_eq!(directory("/"), None);
        assert_eq!(directory("/docker/4f1c/../x"), None);
        assert_eq!(directory("/docker/4f1c (deleted)"), None);
    }
}
