//! Files no image may contain. The sandbox makes each of them useless in another way too (nosuid, nodev,
//! no_new_privs); an image without them needs none of those to hold.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{Result, RootfsError};
use super::listing::{Kind, Listing};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Relative to the root of the image.
    pub path: PathBuf,
    pub forbidden: Forbidden,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    SetUserId,
    SetGroupId,
    /// File or directory. Whoever can write to it leaves something for the next tenant, should it ever be writable.
    WorldWritable,
    Device,
    Fifo,
    Socket,
    /// An extended attribute that gives capabilities or steers overlayfs.
    Attribute,
}

/// Everything forbidden that a listing tells.
pub fn forbidden_in(listing: &Listing) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (path, node) in &listing.0 {
        let mut found = |forbidden| violations.push(Violation { path: path.clone(), forbidden });
        match node.kind {
            Kind::Link { .. } => continue, // A link's mode means nothing.
            Kind::Special('p') => found(Forbidden::Fifo),
            Kind::Special('s') => found(Forbidden::Socket),
            Kind::Special(_) => found(Forbidden::Device),
            Kind::File { .. } | Kind::Directory => {}
        }
        if node.mode & 0o4000 != 0 {
            found(Forbidden::SetUserId);
        }
        if node.mode & 0o2000 != 0 {
            found(Forbidden::SetGroupId);
        }
        if node.mode & 0o002 != 0 {
            found(Forbidden::WorldWritable);
        }
    }
    violations
}

/// Extended attributes that mean power; these need the files themselves.
pub fn attributes_in(tree: &Path, listing: &Listing) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for (path, node) in &listing.0 {
        if matches!(node.kind, Kind::Link { .. } | Kind::Special(_)) {
            continue;
        }
        let full = tree.join(path);
        let names = match attribute_names(&full) {
            // A file system without attributes has none that matter.
            Err(rustix::io::Errno::OPNOTSUPP) => continue,
            names => names.map_err(|errno| RootfsError::io("read the attributes of", &full)(errno.into()))?,
        };
        let is_power = |name: &[u8]| {
            name == b"security.capability"
                || name.starts_with(b"trusted.overlay.")
                || name.starts_with(b"user.overlay.")
        };
        if names.split(|&byte| byte == 0).any(is_power) {
            violations.push(Violation { path: path.clone(), forbidden: Forbidden::Attribute });
        }
    }
    Ok(violations)
}

fn attribute_names(path: &Path) -> rustix::io::Result<Vec<u8>> {
    let length = rustix::fs::llistxattr_query(path)?;
    if length == 0 {
        return Ok(Vec::new());
    }
    let mut names = vec![0; length];
    let read = rustix::fs::llistxattr(path, names.as_mut_slice())?;
    names.truncate(read);
    Ok(names)
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{} ({})", self.path.display(), self.forbidden)
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SetUserId => "set-user-id",
            Self::SetGroupId => "set-group-id",
            Self::WorldWritable => "world-writable",
            Self::Device => "device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Attribute => "file capability",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    fn scan(tree: &Path) -> Vec<(String, Forbidden)> {
        let listing = Listing::read(tree, &mut |_| Ok(())).unwrap();
        let mut violations = forbidden_in(&listing);
        violations.extend(attributes_in(tree, &listing).unwrap());
        violations.into_iter().map(|violation| (violation.path.display().to_string(), violation.forbidden)).collect()
    }

    #[test]
    fn each_kind_is_found_and_an_ordinary_tree_has_none() {
        let tree = tempfile::tempdir().unwrap();
        let at = |name: &str| tree.path().join(name);
        let mode = |name: &str, mode| fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        for name in ["plain", "setuid", "setgid", "writable"] {
            fs::write(at(name), name).unwrap();
            mode(name, 0o755);
        }
        fs::create_dir(at("directory")).unwrap();
        mode("directory", 0o755);
        symlink("plain", at("link")).unwrap();
        assert_eq!(scan(tree.path()), []);

        mode("setuid", 0o4755);
        mode("setgid", 0o2755);
        mode("writable", 0o666);
        mode("directory", 0o1777);
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let mut expected = vec![
            ("directory", Forbidden::WorldWritable),
            ("fifo", Forbidden::Fifo),
            ("setgid", Forbidden::SetGroupId),
            ("setuid", Forbidden::SetUserId),
            ("socket", Forbidden::Socket),
            ("writable", Forbidden::WorldWritable),
        ];
        // Only root may make these two; as anyone else the rest of the table is still checked.
        if nix::unistd::geteuid().is_root() {
            use nix::sys::stat::{Mode, SFlag, makedev, mknod};
            mknod(&at("device"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).unwrap();
            expected.insert(0, ("device", Forbidden::Device));
            expected.swap(0, 1);
            let cap_net_raw = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let flags = rustix::fs::XattrFlags::empty();
            if rustix::fs::setxattr(at("plain"), "security.capability", &cap_net_raw, flags).is_ok() {
                expected.push(("plain", Forbidden::Attribute));
            }
        }
        let mut found = scan(tree.path());
        let mut expected: Vec<_> = expected.into_iter().map(|(path, why)| (path.to_owned(), why)).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(found, expected);
    }
}
