//! What the store remembers of a layer and of an image, as JSON files beside them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Result, RootfsError};

/// Raised when a reader of the former format would misunderstand; the build then starts anew.
pub const FORMAT_VERSION: u32 = 1;

/// `images/NAME.json`. Small: it is read on the path of every `sandboxd run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageManifest {
    pub format_version: u32,
    pub name: String,
    /// Seconds since 1970.
    pub built_at: u64,
    /// Bottom first.
    pub layers: Vec<LayerEntry>,
    /// Versions of the toolchains in it (`python` -> `3.13.5`), as found out by who runs them.
    pub versions: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerEntry {
    pub name: String,
    pub format: Format,
    /// SHA-256 of the erofs file, or of the listing of the directory.
    pub digest: String,
    /// Of the file; of all files in the directory.
    pub size_bytes: u64,
}

/// `layers/NAME-DIGEST12.json`: what the layer was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerManifest {
    pub format_version: u32,
    pub entry: LayerEntry,
    /// SHA-256 of `NAME-DIGEST12.list`.
    pub listing_digest: String,
    pub recipe_digest: String,
    /// Digests of the layers it was built upon and is only whole with, bottom first.
    pub below: Vec<String>,
    pub suite: String,
    /// Seconds since 1970.
    pub built_at: u64,
    /// What was resolved for the whole tree, the layers below included.
    pub packages: Vec<Package>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// `debian`, `npm`, `pypi` or `maven`.
    pub source: String,
    pub name: String,
    pub version: String,
    /// Of the archive: `sha256:…` or npm's own `sha512-…`.
    pub digest: String,
}

/// How a layer lies in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One compressed read-only file, mounted.
    #[default]
    Erofs,
    /// A plain tree, for kernels without erofs or without loop devices.
    Directory,
}

impl LayerEntry {
    /// `NAME-DIGEST12`, the stem of the layer's files.
    pub fn stem(&self) -> String {
        format!("{}-{}", self.name, self.digest.get(..12).unwrap_or(&self.digest))
    }

    pub fn file_name(&self) -> String {
        match self.format {
            Format::Erofs => format!("{}.erofs", self.stem()),
            Format::Directory => self.stem(),
        }
    }
}

/// The debs as `sha256sum *.deb` lists them: `DIGEST  NAME_VERSION_ARCHITECTURE.deb`.
pub fn debian_packages(text: &str) -> Vec<Package> {
    let package = |line: &str| {
        let (digest, file) = line.split_once(' ')?;
        let mut parts = file.trim_start_matches([' ', '*']).split('_');
        let name = parts.next()?.to_owned();
        let version = parts.next()?.replace("%3a", ":");
        Some(Package { source: "debian".into(), name, version, digest: format!("sha256:{digest}") })
    };
    text.lines().filter_map(package).collect()
}

/// Written under `scratch`, flushed, and renamed: the file is there whole or not at all.
pub fn write_json<T: Serialize>(value: &T, path: &Path, scratch: &Path) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).expect("manifests are plain data");
    text.push(b'\n');
    let mut file = File::create(scratch).map_err(RootfsError::io("create", scratch))?;
    file.write_all(&text).map_err(RootfsError::io("write", scratch))?;
    file.sync_all().map_err(RootfsError::io("flush", scratch))?;
    fs::rename(scratch, path).map_err(RootfsError::io("rename to", path))?;
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

pub fn sync_directory(directory: &Path) -> Result<()> {
    let flush = File::open(directory).and_then(|directory| directory.sync_all());
    flush.map_err(RootfsError::io("flush", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_as_it_was_and_unknown_keys_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("python.json");
        let entry = LayerEntry { name: "base".into(), format: Format::Erofs, digest: "ab".repeat(32), size_bytes: 7 };
        let manifest = ImageManifest {
            format_version: FORMAT_VERSION,
            name: "python".into(),
            built_at: 1,
            layers: vec![entry],
            versions: BTreeMap::from([("python".into(), "3.13.5".into())]),
        };
        write_json(&manifest, &path, &directory.path().join("scratch")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<ImageManifest>(&text).unwrap(), manifest);
        assert!(!directory.path().join("scratch").exists());
        let wrong = text.replacen("built_at", "build_at", 1);
        assert!(serde_json::from_str::<ImageManifest>(&wrong).is_err());
    }

    #[test]
    fn file_names_bear_the_digest() {
        let mut entry = LayerEntry {
            name: "gcc".into(),
            format: Format::Erofs,
            digest: "0123456789abcdef".repeat(4),
            size_bytes: 1,
        };
        assert_eq!(entry.file_name(), "gcc-0123456789ab.erofs");
        entry.format = Format::Directory;
        assert_eq!(entry.file_name(), "gcc-0123456789ab");
    }

    #[test]
    fn packages_are_read_from_the_names_of_the_debs() {
        let text = "aa  diffutils_1%3a3.10-4_amd64.deb\nbb  libc6_2.41-12+deb13u4_amd64.deb\n\n";
        let packages = debian_packages(text);
        assert_eq!((packages[0].name.as_str(), packages[0].version.as_str()), ("diffutils", "1:3.10-4"));
        assert_eq!(packages[1].digest, "sha256:bb");
        assert_eq!(packages.len(), 2);
    }
}
