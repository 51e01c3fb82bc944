//! What is done to the tree of a layer between the unpacking of its packages and the packing of the layer.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::error::{Result, RootfsError};
use super::etc;
use super::host::matches_pattern;
use super::listing::{Kind, Listing};
use super::recipe::{Link, TextFile};

/// All times in a layer: a layer built tomorrow from the same packages has the same digest. After 1980, for zip.
pub const BUILD_EPOCH: i64 = 1_767_225_600;

/// Directories that stay at the top; a package's /boot, /home, /srv… go.
/// /node_modules is where Node finds packages for every program, whichever way it asks for them.
const TOP_LEVEL: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "opt", "node_modules"];

pub fn make_link(tree: &Path, link: &Link) -> Result<()> {
    let path = tree.join(&link.path);
    make_parent(&path)?;
    remove(&path)?;
    symlink(&link.target, &path).map_err(RootfsError::io("make the link", &path))
}

/// Copies a file, or all that is in a directory; only files and directories can be copied.
pub fn install(from: &Path, to: &Path, mode: Option<u32>) -> Result<()> {
    let metadata = from.symlink_metadata().map_err(RootfsError::io("find in the archive", from))?;
    if metadata.is_dir() {
        make_directory(to)?;
        set_mode(to, 0o755)?;
        return names_in(from)?.into_iter().try_for_each(|name| install(&from.join(&name), &to.join(&name), None));
    }
    if !metadata.is_file() {
        return Err(RootfsError::io("copy", from)(ErrorKind::InvalidInput.into()));
    }
    make_parent(to)?;
    remove(to)?;
    fs::copy(from, to).map_err(RootfsError::io("copy to", to))?;
    let executable = metadata.mode() & 0o100 != 0;
    set_mode(to, mode.unwrap_or(if executable { 0o755 } else { 0o644 }))
}

pub fn write_text_file(tree: &Path, file: &TextFile) -> Result<()> {
    let path = tree.join(&file.path);
    write_file(&path, file.content.as_bytes())?;
    set_mode(&path, file.mode)
}

/// Drops all of /etc but the kept entries and writes the synthetic files.
pub fn write_etc(tree: &Path, kept: &[&str]) -> Result<()> {
    let etc_directory = tree.join("etc");
    make_directory(&etc_directory)?;
    for name in names_in(&etc_directory)? {
        if !kept.contains(&name.to_string_lossy().as_ref()) {
            remove(&etc_directory.join(name))?;
        }
    }
    for (path, content) in etc::FILES {
        write_file(&tree.join(path), content)?;
    }
    let utc = tree.join(etc::UTC_PATH);
    if utc.symlink_metadata().is_err() {
        write_file(&utc, etc::UTC)?;
    }
    Ok(())
}

/// Leaves the top-level directories of an image, its mount points empty.
pub fn settle_top_level(tree: &Path) -> Result<()> {
    for name in names_in(tree)? {
        let kept = TOP_LEVEL.iter().chain(&["etc"]).any(|kept| name == *kept);
        let path = tree.join(&name);
        if !kept || name == "opt" && names_in(&path)?.is_empty() {
            remove(&path)?;
        }
    }
    set_mode(tree, 0o755)?;
    for name in etc::DIRECTORIES {
        let path = tree.join(name);
        make_directory(&path)?;
        set_mode(&path, 0o755)?;
    }
    for (name, target) in etc::USR_LINKS {
        let (path, real) = (tree.join(name), tree.join(target));
        if path.symlink_metadata().is_err() && (real.is_dir() || *name != "lib64") {
            make_directory(&real)?;
            symlink(target, &path).map_err(RootfsError::io("make the link", &path))?;
        }
    }
    for (name, target) in etc::LINKS {
        let link = Link { path: (*name).into(), target: (*target).into(), reason: String::new() };
        make_link(tree, &link)?;
    }
    Ok(())
}

/// Removes what a recipe's `remove` names; `*` in the last component only.
pub fn remove_matching(tree: &Path, pattern: &str) -> Result<()> {
    let path = tree.join(pattern);
    let (Some(directory), Some(name)) = (path.parent(), Path::new(pattern).file_name()) else {
        return Ok(());
    };
    if !directory.is_dir() {
        return Ok(());
    }
    let pattern = name.to_string_lossy();
    for name in names_in(directory)? {
        if matches_pattern(&pattern, &name.to_string_lossy()) {
            remove(&directory.join(name))?;
        }
    }
    Ok(())
}

/// Removes directories that are empty, and those that become so: what exclusions have left over.
pub fn remove_empty_directories(directory: &Path) -> Result<bool> {
    let mut is_empty = true;
    for name in names_in(directory)? {
        let path = directory.join(name);
        let is_directory = path.symlink_metadata().map_err(RootfsError::io("stat", &path))?.is_dir();
        is_empty &= is_directory && remove_empty_directories(&path)?;
    }
    if is_empty {
        fs::remove_dir(directory).map_err(RootfsError::io("remove", directory))?;
    }
    Ok(is_empty)
}

/// Removes from the tree what the listing had and the layer doesn't need.
pub fn reduce(tree: &Path, full: &Listing, layer: &Listing) -> Result<()> {
    for (path, node) in full.0.iter().rev() {
        if layer.0.contains_key(path) {
            continue;
        }
        let path = tree.join(path);
        let removed = match node.kind {
            Kind::Directory => fs::remove_dir(&path),
            _ => fs::remove_file(&path),
        };
        removed.map_err(RootfsError::io("remove", &path))?;
    }
    Ok(())
}

/// Everything is root's: packages give some directories to groups that no image has.
pub fn give_to_root(tree: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(()); // In a test with fake tools; the files are the tester's.
    }
    for_each(tree, &mut |path, metadata| {
        if metadata.uid() == 0 && metadata.gid() == 0 {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(0), Some(0)).map_err(RootfsError::io("change the owner of", path))
    })
}

/// Sets every time, children before their directory. Returns the bytes of all files.
pub fn settle_times(tree: &Path) -> Result<u64> {
    let when = Timespec { tv_sec: BUILD_EPOCH, tv_nsec: 0 };
    let times = Timestamps { last_access: when, last_modification: when };
    let mut bytes = 0;
    for_each(tree, &mut |path, metadata| {
        if metadata.is_file() {
            bytes += metadata.len();
        }
        let set = utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(|errno| RootfsError::io("set the times of", path)(errno.into()))
    })?;
    Ok(bytes)
}

/// Removes a file, link or whole directory, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(RootfsError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a directory and those above it.
pub fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(RootfsError::io("make the directory", path))
}

type Visit<'a> = dyn FnMut(&Path, &fs::Metadata) -> Result<()> + 'a;

fn for_each(path: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let metadata = path.symlink_metadata().map_err(RootfsError::io("stat", path))?;
    if metadata.is_dir() {
        for name in names_in(path)? {
            for_each(&path.join(name), visit)?;
        }
    }
    visit(path, &metadata)
}

fn names_in(directory: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<std::io::Result<Vec<_>>>()
    });
    entries.map_err(RootfsError::io("read the directory", directory))
}

fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), make_directory)
}

fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    make_parent(path)?;
    // Never through a package's link to somewhere else.
    remove(path)?;
    fs::write(path, content).map_err(RootfsError::io("write", path))?;
    set_mode(path, 0o644)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(RootfsError::io("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_tree_becomes_an_images() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path();
        for path in [
            "boot",
            "home/me",
            "opt",
            "tmp/left",
            "var/lib/dpkg",
            "dev/pts",
            "usr/bin",
            "usr/share/doc/x",
            "etc/cron.d",
            "etc/ld.so.conf.d",
        ] {
            fs::create_dir_all(tree.join(path)).unwrap();
        }
        fs::write(tree.join("etc/shadow"), "secret").unwrap();
        fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/etc/shadow", tree.join("etc/hosts")).unwrap();
        for name in ["tool", "tool-1", "other"] {
            fs::write(tree.join("usr/bin").join(name), name).unwrap();
        }

        write_etc(tree, &["ld.so.conf.d"]).unwrap();
        settle_top_level(tree).unwrap();
        remove_matching(tree, "usr/bin/tool*").unwrap();
        remove_matching(tree, "usr/absent/x").unwrap();
        remove_empty_directories(&tree.join("usr/share/doc")).unwrap();

        let listing = Listing::read(tree, &mut |_| Ok(())).unwrap();
        let paths: Vec<&str> = listing.0.keys().map(|path| path.to_str().unwrap()).collect();
        let expected = [
            "bin",
            "dev",
            "etc",
            "etc/group",
            "etc/hostname",
            "etc/hosts",
            "etc/ld.so.conf.d",
            "etc/localtime",
            "etc/nsswitch.conf",
            "etc/passwd",
            "lib",
            "proc",
            "run",
            "sbin",
            "tmp",
            "usr",
            "usr/bin",
            "usr/bin/other",
            "usr/lib",
            "usr/sbin",
            "usr/share",
            "usr/share/zoneinfo",
            "usr/share/zoneinfo/UTC",
            "var",
            "var/tmp",
            "work",
        ];
        assert_eq!(paths, expected);
        assert!(super::super::scan::forbidden_in(&listing).is_empty());
        assert!(fs::read_to_string(tree.join("etc/hosts")).unwrap().contains("localhost"));
    }

    #[test]
    fn the_reduced_tree_is_the_layer() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path();
        let read = || Listing::read(tree, &mut |_| Ok(())).unwrap();
        fs::create_dir_all(tree.join("usr/share/a")).unwrap();
        fs::write(tree.join("usr/share/a/same"), "1").unwrap();
        let below = read();
        fs::create_dir_all(tree.join("usr/lib")).unwrap();
        fs::write(tree.join("usr/lib/new"), "2").unwrap();
        let full = read();
        let layer = full.minus(&below);
        reduce(tree, &full, &layer).unwrap();
        assert_eq!(read(), layer);
        assert_eq!(settle_times(tree).unwrap(), 1);
        assert_eq!(tree.join("usr/lib").metadata().unwrap().mtime(), BUILD_EPOCH);
    }
}
