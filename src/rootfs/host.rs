//! The image `host`: not built, but bound together from the machine's own directories at the start of a run.
//!
//! `layout` is on the path of every run with this image: one parse of a small recipe, a few stats, one reading of
//! a directory that patterns point into.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{Result, RootfsError};
use super::etc;
use super::recipe::parse_strictly;

const EMBEDDED: &str = include_str!("../../rootfs/host.toml");

/// What the root of the image consists of; targets are absolute paths inside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostLayout {
    /// Source on the machine, target; directories and files, to be bound read-only, nosuid and nodev.
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// Symbolic links: where, and what they say.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Files to be written, all root's and of mode 0644.
    pub files: Vec<(PathBuf, &'static [u8])>,
    /// To be made first, parents before children: mount points of `binds`, parents of the rest, and the cell's own.
    /// One below a bind's target (a recipe that binds /a and /a/b) is there already once /a is bound.
    pub directories: Vec<PathBuf>,
    /// Binds whose target is a plain file: an empty file is made for each as its mount point.
    pub file_targets: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRecipe {
    pub description: String,
    pub bind: Vec<Bind>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Absolute; the last component may contain `*`.
    pub path: String,
    /// Why a payload may read it.
    pub reason: String,
}

/// The layout by the embedded recipe.
pub fn layout() -> Result<HostLayout> {
    HostRecipe::load(None)?.layout(Path::new("/"))
}

impl HostRecipe {
    /// The operator's `host.toml` if there is one, else the embedded one.
    pub fn load(operator_directory: Option<&Path>) -> Result<HostRecipe> {
        let embedded = || HostRecipe::parse(EMBEDDED, Path::new("rootfs/host.toml"));
        let Some(file) = operator_directory.map(|directory| directory.join("host.toml")) else { return embedded() };
        // One that cannot be read may show payloads less of the machine than the embedded one does.
        match fs::read_to_string(&file) {
            Ok(text) => HostRecipe::parse(&text, &file),
            Err(error) if error.kind() == ErrorKind::NotFound => embedded(),
            Err(error) => Err(RootfsError::io("read", &file)(error)),
        }
    }

    pub fn parse(text: &str, file: &Path) -> Result<HostRecipe> {
        let recipe: HostRecipe = parse_strictly(text, file)?;
        for bind in &recipe.bind {
            let path = Path::new(&bind.path);
            let directory = path.parent().unwrap_or(path).to_string_lossy();
            if !path.is_absolute()
                || path.components().any(|part| part.as_os_str() == "..")
                || bind.path.ends_with('/')
                || bind.path.contains("//")
                || directory.contains('*')
            {
                let message = format!(
                    "{:?} must be an absolute path without `..` or empty parts, and `*` only in its last part",
                    bind.path
                );
                let line = text.lines().position(|line| line.contains(&bind.path)).map_or(1, |index| index + 1);
                return Err(RootfsError::Recipe { file: file.to_owned(), line: Some(line), message, hint: None });
            }
        }
        Ok(recipe)
    }

    /// Settled against the machine whose root is `machine` (`/` outside tests).
    ///
    /// # Errors
    /// Whether something is on this machine could not be asked. To take that for a no would run programs without it.
    pub fn layout(&self, machine: &Path) -> Result<HostLayout> {
        let mut layout = HostLayout::default();
        // Strings, as comparing paths part by part is half the cost of all this.
        let mut directories: BTreeSet<String> = etc::DIRECTORIES.iter().map(|name| format!("/{name}")).collect();
        let mut names = DirectoryNames { machine, seen: BTreeMap::new() };
        for bind in &self.bind {
            for target in names.expand(&bind.path)? {
                layout.bind(machine, &target, &mut directories)?;
            }
        }
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            let path = machine.join(name);
            match fs::read_link(&path) {
                Ok(target) => layout.links.push((absolute(name), target)),
                // A machine that keeps them apart from /usr, or has none.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
                    layout.bind(machine, &format!("/{name}"), &mut directories)?;
                }
                Err(error) => return Err(RootfsError::io("read the link", &path)(error)),
            }
        }
        layout.files.extend(etc::FILES.iter().map(|(path, content)| (absolute(path), *content)));
        layout.links.extend(etc::LINKS.iter().map(|(path, target)| (absolute(path), PathBuf::from(target))));
        layout.directories = directories.into_iter().map(PathBuf::from).collect();
        Ok(layout)
    }
}

impl HostLayout {
    fn bind(&mut self, machine: &Path, target: &str, directories: &mut BTreeSet<String>) -> Result<()> {
        let source = machine.join(target.trim_start_matches('/'));
        let Some(metadata) = there(fs::metadata(&source)).map_err(RootfsError::io("stat", &source))? else {
            return Ok(());
        };
        for (slash, _) in target.match_indices('/').filter(|(slash, _)| *slash > 0) {
            if !directories.contains(&target[..slash]) {
                directories.insert(target[..slash].to_owned());
            }
        }
        if metadata.is_dir() {
            directories.insert(target.to_owned());
        } else {
            self.file_targets.push(PathBuf::from(target));
        }
        self.binds.push((source, PathBuf::from(target)));
        Ok(())
    }
}

/// What was asked of a path; `None` where there is nothing that this user may see.
fn there<T>(asked: io::Result<T>) -> io::Result<Option<T>> {
    use ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match asked {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Reads each directory that patterns point into once.
struct DirectoryNames<'a> {
    machine: &'a Path,
    seen: BTreeMap<String, Vec<String>>,
}

impl DirectoryNames<'_> {
    fn expand(&mut self, pattern: &str) -> Result<Vec<String>> {
        let (directory, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
        if !name.contains('*') {
            return Ok(vec![pattern.to_owned()]);
        }
        let names = match self.seen.entry(directory.to_owned()) {
            Entry::Occupied(seen) => seen.into_mut(),
            Entry::Vacant(new) => {
                let real = self.machine.join(directory.trim_start_matches('/'));
                let read = || fs::read_dir(&real)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
                let found = there(read()).map_err(RootfsError::io("read", &real))?.unwrap_or_default();
                let mut names: Vec<String> = found.into_iter().filter_map(|name| name.into_string().ok()).collect();
                names.sort_unstable();
                new.insert(names)
            }
        };
        let matching = names.iter().filter(|candidate| matches_pattern(name, candidate));
        Ok(matching.map(|name| format!("{directory}/{name}")).collect())
    }
}

/// `*` stands for any characters, everything else for itself.
pub(super) fn matches_pattern(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(middle) = last.replace(part) {
            match rest.find(middle) {
                Some(at) => rest = &rest[at + middle.len()..],
                None => return false,
            }
        }
    }
    match last {
        Some(last) => rest.ends_with(last),
        None => rest.is_empty(),
    }
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn patterns() {
        let cases = [
            ("java-*", "java-21-openjdk", true),
            ("java-*", "java", false),
            ("a*b*c", "aXbYc", true),
            ("a*b", "ab", true),
            ("a*ba", "aba", true),
            ("a*ba", "ab", false),
            ("plain", "plain", true),
            ("plain", "plainer", false),
            ("*", "", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }

    fn machine(merged: bool) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in [
            "usr/bin",
            "usr/lib",
            "usr/lib64",
            "etc/alternatives",
            "etc/java-21-openjdk",
            "etc/python3.13",
            "etc/secret",
        ] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("etc/ld.so.cache"), "x").unwrap();
        for name in ["bin", "lib"] {
            match merged {
                true => symlink(format!("usr/{name}"), root.path().join(name)).unwrap(),
                false => fs::create_dir(root.path().join(name)).unwrap(),
            }
        }
        root
    }

    fn targets(layout: &HostLayout) -> Vec<&str> {
        layout.binds.iter().map(|(_, target)| target.to_str().unwrap()).collect()
    }

    #[test]
    fn a_merged_machine_is_bound_by_its_usr_and_links() {
        let root = machine(true);
        let layout = HostRecipe::load(None).unwrap().layout(root.path()).unwrap();
        assert_eq!(
            targets(&layout),
            ["/usr", "/etc/alternatives", "/etc/ld.so.cache", "/etc/java-21-openjdk", "/etc/python3.13"]
        );
        assert!(layout.links.contains(&("/bin".into(), "usr/bin".into())));
        assert_eq!(layout.file_targets, [PathBuf::from("/etc/ld.so.cache")]);
        for directory in ["/usr", "/etc", "/etc/alternatives", "/proc", "/dev", "/tmp", "/work", "/var"] {
            assert!(layout.directories.contains(&directory.into()), "{directory}");
        }
        assert!(!layout.directories.iter().any(|path| path.starts_with("/usr/") && path != Path::new("/usr")));
        assert!(
            layout
                .files
                .iter()
                .any(|(path, content)| path == Path::new("/etc/passwd") && content.starts_with(b"root:x:0:0"))
        );
    }

    #[test]
    fn an_unmerged_machine_has_its_directories_bound() {
        let root = machine(false);
        let layout = HostRecipe::load(None).unwrap().layout(root.path()).unwrap();
        assert!(targets(&layout).contains(&"/bin"));
        assert!(layout.directories.contains(&"/bin".into()));
        assert!(!layout.links.iter().any(|(path, _)| path == Path::new("/bin")));
    }

    #[test]
    fn wrong_host_recipes_are_refused() {
        for path in ["usr", "/etc/../root", "/et*/x"] {
            let text = format!("description = 'd'\n[[bind]]\npath = {path:?}\nreason = 'r'\n");
            assert!(HostRecipe::parse(&text, Path::new("host.toml")).is_err(), "{path}");
        }
        let error =
            HostRecipe::parse("description = 'd'\n[[bind]]\npaht = '/usr'\n", Path::new("host.toml")).unwrap_err();
        assert!(error.to_string().starts_with("host.toml:3: unknown field"), "{error}");
    }

    #[test]
    fn the_layout_is_cheap() {
        layout().unwrap();
        let start = std::time::Instant::now();
        for _ in 0..100 {
            layout().unwrap();
        }
        let each = start.elapsed() / 100;
        println!("host layout: {each:?}");
        // 100 us is the aim of a release build; this catches a mistake of another order.
        assert!(each < std::time::Duration::from_millis(5), "{each:?}");
    }
}
