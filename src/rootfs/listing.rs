//! The list of everything in a tree: what two layers are compared by, what a directory layer's digest is taken of,
//! and what `verify` reports differences against.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::{Result, RootfsError};

/// Paths relative to the root, sorted; the root itself is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing(pub BTreeMap<PathBuf, Node>);

/// One entry. Times and extended attributes are not part of it: a layer carries neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    /// Permission and set-id bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File {
        sha256: String,
    },
    Link {
        target: PathBuf,
    },
    /// A device, fifo or socket, by its letter in `ls -l`. No layer has one; listed to be refused.
    Special(char),
}

impl Listing {
    /// Reads the whole tree. `watch` is called with the bytes of each file and may end the reading.
    pub fn read(tree: &Path, watch: &mut dyn FnMut(u64) -> Result<()>) -> Result<Listing> {
        let mut listing = Listing::default();
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            let full = tree.join(&directory);
            for entry in fs::read_dir(&full).map_err(RootfsError::io("read the directory", &full))? {
                let entry = entry.map_err(RootfsError::io("read the directory", &full))?;
                let path = directory.join(entry.file_name());
                let node = Node::read(&tree.join(&path))?;
                watch(entry.metadata().map(|metadata| metadata.len()).unwrap_or(0))?;
                if node.kind == Kind::Directory {
                    directories.push(path.clone());
                }
                listing.0.insert(path, node);
            }
        }
        Ok(listing)
    }

    /// The canonical text: one line an entry, `TYPE MODE UID GID CONTENT PATH`, sorted by path.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (path, node) in &self.0 {
            let (letter, content) = match &node.kind {
                Kind::Directory => ('d', "-".to_owned()),
                Kind::File { sha256 } => ('f', sha256.clone()),
                Kind::Link { target } => ('l', escape(target)),
                Kind::Special(letter) => (*letter, "-".to_owned()),
            };
            text.push_str(&format!("{letter} {:o} {} {} {content} {}\n", node.mode, node.uid, node.gid, escape(path)));
        }
        text
    }

    pub fn from_text(text: &str) -> Option<Listing> {
        let mut listing = Listing::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let letter = words.next()?;
            let mode = u32::from_str_radix(words.next()?, 8).ok()?;
            let uid = words.next()?.parse().ok()?;
            let gid = words.next()?.parse().ok()?;
            let content = words.next()?;
            let path = unescape(words.next()?)?;
            let kind = match letter {
                "d" => Kind::Directory,
                "f" => Kind::File { sha256: content.to_owned() },
                "l" => Kind::Link { target: unescape(content)? },
                _ => return None,
            };
            if words.next().is_some() || listing.0.insert(path, Node { kind, mode, uid, gid }).is_some() {
                return None;
            }
        }
        Some(listing)
    }

    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.to_text()))
    }

    /// As seen through an overlay with `upper` on top.
    pub fn overlaid_by(mut self, upper: Listing) -> Listing {
        for (path, node) in upper.0 {
            let replaces_directory =
                node.kind != Kind::Directory && self.0.get(&path).is_some_and(|below| below.kind == Kind::Directory);
            if replaces_directory {
                self.0.retain(|below, _| !below.starts_with(&path));
            }
            self.0.insert(path, node);
        }
        self
    }

    /// What a layer must hold so that this listing is seen when it lies upon `below`: everything that differs, and
    /// the directories that lead there.
    pub fn minus(&self, below: &Listing) -> Listing {
        let mut kept: BTreeSet<&Path> = BTreeSet::new();
        for (path, node) in &self.0 {
            if below.0.get(path) != Some(node) {
                kept.extend(path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()));
            }
        }
        Listing(kept.into_iter().map(|path| (path.to_owned(), self.0[path].clone())).collect())
    }
}

impl Node {
    fn read(path: &Path) -> Result<Node> {
        let metadata = path.symlink_metadata().map_err(RootfsError::io("stat", path))?;
        let file_type = metadata.file_type();
        let kind = if file_type.is_dir() {
            Kind::Directory
        } else if file_type.is_file() {
            Kind::File { sha256: file_sha256(path, &mut |_| Ok(()))? }
        } else if file_type.is_symlink() {
            Kind::Link { target: fs::read_link(path).map_err(RootfsError::io("read the link", path))? }
        } else {
            Kind::Special(match () {
                () if file_type.is_block_device() => 'b',
                () if file_type.is_char_device() => 'c',
                () if file_type.is_fifo() => 'p',
                () => 's',
            })
        };
        Ok(Node { kind, mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() })
    }
}

/// Reads the file once, calling `watch` with the bytes of each piece.
pub(super) fn file_sha256(path: &Path, watch: &mut dyn FnMut(u64) -> Result<()>) -> Result<String> {
    const PIECE_BYTES: usize = 1 << 20;
    let mut file = File::open(path).map_err(RootfsError::io("open", path))?;
    let length = file.metadata().map_or(PIECE_BYTES, |metadata| metadata.len() as usize);
    let mut piece = vec![0; length.clamp(4096, PIECE_BYTES)];
    let mut hasher = Sha256::new();
    loop {
        let read = file.read(&mut piece).map_err(RootfsError::io("read", path))?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&piece[..read]);
        watch(read as u64)?;
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Printable ASCII stays, everything else (and the backslash) becomes `\xHH`: a name can't forge a line.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'!'..=b'~' if byte != b'\\' => text.push(byte as char),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

fn unescape(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'\\' {
            let digits = tail.strip_prefix(b"x")?.get(..2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn listing(entries: &[(&str, &str)]) -> Listing {
        let node = |content: &str| match content.split_at(1) {
            ("/", _) => Node { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0 },
            ("@", target) => Node { kind: Kind::Link { target: target.into() }, mode: 0o777, uid: 0, gid: 0 },
            _ => Node { kind: Kind::File { sha256: content.into() }, mode: 0o644, uid: 0, gid: 0 },
        };
        Listing(entries.iter().map(|(path, content)| (path.into(), node(content))).collect())
    }

    #[test]
    fn subtraction_keeps_what_differs_and_the_way_to_it() {
        let below = listing(&[
            ("etc", "/"),
            ("etc/hosts", "1"),
            ("usr", "/"),
            ("usr/a", "1"),
            ("usr/l", "@a"),
            ("usr/d", "/"),
            ("usr/d/x", "1"),
            ("old", "1"),
        ]);
        let above = listing(&[
            ("etc", "/"),
            ("etc/hosts", "1"),
            ("usr", "/"),
            ("usr/a", "2"),
            ("usr/l", "@b"),
            ("usr/d", "/"),
            ("usr/d/x", "1"),
            ("usr/n", "/"),
            ("usr/e", "/"),
            ("usr/e/f", "3"),
        ]);
        let layer = above.minus(&below);
        let paths: Vec<&str> = layer.0.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["usr", "usr/a", "usr/e", "usr/e/f", "usr/l", "usr/n"]);
        // Seen through the overlay, all of `above` is there.
        let seen = below.clone().overlaid_by(layer);
        assert!(above.0.iter().all(|(path, node)| seen.0.get(path) == Some(node)));
        assert!(above.minus(&above).0.is_empty());

        let mut other_mode = above.clone();
        other_mode.0.get_mut(Path::new("usr/d")).unwrap().mode = 0o700;
        assert!(other_mode.minus(&above).0.keys().eq([Path::new("usr"), Path::new("usr/d")]));
    }

    #[test]
    fn a_link_over_a_directory_hides_what_was_in_it() {
        let below = listing(&[("lib", "/"), ("lib/x", "1")]);
        let seen = below.overlaid_by(listing(&[("lib", "@usr/lib")]));
        assert_eq!(seen.0.len(), 1);
    }

    #[test]
    fn the_text_comes_back_as_it_was_whatever_the_names() {
        let mut original = listing(&[("a b", "1"), ("new\nline", "/"), ("back\\slash", "@t \u{e9}")]);
        let odd = PathBuf::from(OsString::from_vec(vec![0xff, b'x', 7]));
        original.0.insert(odd, Node { kind: Kind::Directory, mode: 0o1755, uid: 1, gid: 2 });
        assert_eq!(Listing::from_text(&original.to_text()).unwrap(), original);
        for garbage in ["x 1 2\n", "d 9 0 0 - a\n", "d 755 0 0 - a\\xg\n", "d 755 0 0 - a b\n", "b 644 0 0 - dev\n"] {
            assert!(Listing::from_text(garbage).is_none(), "{garbage}");
        }
    }

    #[test]
    fn the_digest_is_that_of_content_not_of_time_or_order() {
        let make = |names: &[&str]| {
            let tree = tempfile::tempdir().unwrap();
            for name in names {
                fs::write(tree.path().join(name), name.as_bytes()).unwrap();
                fs::set_permissions(tree.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
            }
            symlink("a", tree.path().join("l")).unwrap();
            tree
        };
        let digest = |tree: &Path| Listing::read(tree, &mut |_| Ok(())).unwrap().digest();
        let (one, two) = (make(&["a", "b"]), make(&["b", "a"]));
        assert_eq!(digest(one.path()), digest(two.path()));
        let before = digest(one.path());
        fs::set_permissions(one.path().join("a"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_ne!(digest(one.path()), before);
    }
}
