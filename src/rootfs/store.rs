//! The store: which images and layers are there, and whether they are whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{Result, RootfsError};
use super::listing::Listing;
use super::lock::{Contention, StoreLock};
use super::manifest::{FORMAT_VERSION, Format, ImageManifest, LayerEntry, LayerManifest, write_json};
use super::recipe::{Recipes, is_valid_name};
use super::tree;

pub const DEFAULT_STORE: &str = "/var/lib/sandboxd/rootfs";

#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// An image that is there and whole as far as sizes tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub name: String,
    /// Bottom first.
    pub layers: Vec<Layer>,
    /// Toolchain versions, as set by `Store::set_versions`.
    pub versions: BTreeMap<String, String>,
    /// Seconds since 1970.
    pub built_at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub name: String,
    pub path: PathBuf,
    pub format: Format,
    pub digest: String,
    pub size_bytes: u64,
}

/// A line of `rootfs list`.
#[derive(Debug)]
pub struct Summary {
    pub name: String,
    pub state: State,
}

#[derive(Debug)]
pub enum State {
    Built(Image),
    /// Half built or damaged, and how.
    Broken(RootfsError),
}

/// What `remove` has taken away.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub layers: Vec<String>,
    pub freed_bytes: u64,
}

impl Store {
    /// Touches nothing: the directory need not exist yet.
    pub fn open(directory: &Path) -> Result<Store> {
        let directory = std::path::absolute(directory).map_err(RootfsError::io("find", directory))?;
        Ok(Store { directory })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads one small file and stats the layers: this is on the path of every run.
    pub fn image(&self, name: &str) -> Result<Image> {
        if name == "host" {
            return Err(RootfsError::HostImage);
        }
        if !is_valid_name(name) {
            return Err(RootfsError::UnknownImage { name: name.to_owned(), nearest: None });
        }
        let manifest = self.image_manifest(name)?;
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for entry in manifest.layers {
            let path = self.layer_path(&entry);
            self.check_layer(name, &entry, &path)?;
            let LayerEntry { name, format, digest, size_bytes } = entry;
            layers.push(Layer { name, path, format, digest, size_bytes });
        }
        Ok(Image { name: manifest.name, layers, versions: manifest.versions, built_at: manifest.built_at })
    }

    /// All images, whole or not, sorted by name.
    pub fn list(&self) -> Result<Vec<Summary>> {
        let names = self.image_names()?.into_iter();
        Ok(names
            .map(|name| {
                let state = self.image(&name).map_or_else(State::Broken, State::Built);
                Summary { name, state }
            })
            .collect())
    }

    /// Removes an image, whole or not, and the layers that no other image stands on.
    pub fn remove(&self, name: &str) -> Result<Removed> {
        if name == "host" {
            return Err(RootfsError::HostImage);
        }
        let _lock = self.lock(&format!("rootfs remove {name}"), Contention::Wait, &mut |_| Ok(()))?;
        let path = self.image_path(name);
        if !is_valid_name(name) || !path.exists() {
            return Err(RootfsError::NotBuilt {
                name: name.to_owned(),
                hint: "`sandboxd rootfs list` names those that are".into(),
            });
        }
        // The image goes first: a removal that is interrupted leaves layers too many, not an image without.
        tree::remove(&path)?;
        self.remove_unused_layers(&mut |_| true)
    }

    /// Records the versions of an image's toolchains.
    pub fn set_versions(&self, name: &str, versions: BTreeMap<String, String>) -> Result<()> {
        let _lock = self.lock(&format!("rootfs versions of {name}"), Contention::Wait, &mut |_| Ok(()))?;
        let manifest = ImageManifest { versions, ..self.image_manifest(name)? };
        self.write_image(&manifest)
    }

    /// Whether one of `paths`, which are absolute, is in an image, as its layers' lists say. What links lead to is not looked
    /// at, but that /bin is /usr/bin.
    ///
    /// # Errors
    /// A list cannot be read.
    pub fn has_any(&self, image: &Image, paths: &[&str]) -> Result<bool> {
        let ending = |path: &&str| {
            let path = path.trim_start_matches('/');
            let merged = ["bin/", "sbin/", "lib/", "lib64/"].iter().any(|old| path.starts_with(old));
            format!(" {}{path}", if merged { "usr/" } else { "" })
        };
        let endings: Vec<String> = paths.iter().map(ending).collect();
        for layer in &image.layers {
            let stem = layer.path.file_name().unwrap_or_default().to_string_lossy();
            let list = self.layers().join(format!("{}.list", stem.trim_end_matches(".erofs")));
            let text = fs::read_to_string(&list).map_err(RootfsError::io("read", &list))?;
            if text.lines().any(|line| endings.iter().any(|ending| line.ends_with(ending.as_str()))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What each layer of an image was made of, bottom first.
    pub fn layer_manifests(&self, name: &str) -> Result<Vec<LayerManifest>> {
        let image = self.image_manifest(name)?;
        image.layers.iter().map(|entry| self.layer_manifest(name, entry)).collect()
    }

    /// Whether `build` would have nothing to do.
    pub fn is_current(&self, recipes: &Recipes, name: &str) -> Result<bool> {
        self.find_stack(recipes, name, None).map(|stack| stack.is_some())
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.directory.join("layers")
    }

    fn image_path(&self, name: &str) -> PathBuf {
        self.directory.join("images").join(format!("{name}.json"))
    }

    pub(super) fn layer_path(&self, entry: &LayerEntry) -> PathBuf {
        self.layers().join(entry.file_name())
    }

    pub(super) fn lock(
        &self,
        what: &str,
        contention: Contention,
        waiting: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<StoreLock> {
        for directory in [self.directory.clone(), self.tmp(), self.layers(), self.directory.join("images")] {
            tree::make_directory(&directory)?;
        }
        StoreLock::take(&self.directory.join("lock"), what, contention, waiting)
    }

    pub(super) fn write_image(&self, manifest: &ImageManifest) -> Result<()> {
        let scratch = self.tmp().join(format!("{}-{}.json", std::process::id(), manifest.name));
        write_json(manifest, &self.image_path(&manifest.name), &scratch)
    }

    pub(super) fn image_manifest(&self, name: &str) -> Result<ImageManifest> {
        let path = self.image_path(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let hint = format!("run `sandboxd rootfs build {name}`");
                return Err(RootfsError::NotBuilt { name: name.to_owned(), hint });
            }
            Err(error) => return Err(RootfsError::io("read", &path)(error)),
        };
        let damaged = |reason: String| RootfsError::Damaged { name: name.to_owned(), path: path.clone(), reason };
        let manifest: ImageManifest = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if manifest.format_version != FORMAT_VERSION || manifest.name != name || manifest.layers.is_empty() {
            return Err(damaged("it was written by another version of sandboxd, or is another image's".into()));
        }
        if manifest.layers.iter().any(|entry| !is_valid_name(&entry.name) || entry.digest.len() != 64) {
            return Err(damaged("it names a layer that can't be".into()));
        }
        Ok(manifest)
    }

    pub(super) fn layer_manifest(&self, image: &str, entry: &LayerEntry) -> Result<LayerManifest> {
        let path = self.layers().join(format!("{}.json", entry.stem()));
        let damaged = |reason: String| RootfsError::Damaged { name: image.to_owned(), path: path.clone(), reason };
        let text = fs::read(&path).map_err(|error| damaged(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))
    }

    pub(super) fn listing(&self, image: &str, entry: &LayerEntry) -> Result<Listing> {
        let path = self.layers().join(format!("{}.list", entry.stem()));
        let damaged = |reason: String| RootfsError::Damaged { name: image.to_owned(), path: path.clone(), reason };
        let text = fs::read_to_string(&path).map_err(|error| damaged(error.to_string()))?;
        Listing::from_text(&text).ok_or_else(|| damaged("it is not a listing".into()))
    }

    /// The file is there, has its size, and nobody but its owner could have written to it.
    fn check_layer(&self, image: &str, entry: &LayerEntry, path: &Path) -> Result<()> {
        let damaged = |reason: String| RootfsError::Damaged { name: image.to_owned(), path: path.to_owned(), reason };
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(RootfsError::HalfBuilt { name: image.to_owned(), missing: path.to_owned() });
            }
            Err(error) => return Err(RootfsError::io("stat", path)(error)),
        };
        let right_kind = match entry.format {
            Format::Erofs => metadata.is_file(),
            Format::Directory => metadata.is_dir(),
        };
        if !right_kind {
            return Err(damaged("it is of another kind than a layer".into()));
        }
        if entry.format == Format::Erofs && metadata.len() != entry.size_bytes {
            return Err(damaged(format!("it has {} bytes and should have {}", metadata.len(), entry.size_bytes)));
        }
        if metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(damaged("it belongs to another user".into()));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(damaged("others than its owner can write to it".into()));
        }
        Ok(())
    }

    /// The layers of an image as it is in the store, if they are whole and what the recipes ask for.
    pub(super) fn find_stack(
        &self,
        recipes: &Recipes,
        name: &str,
        format: Option<Format>,
    ) -> Result<Option<Vec<LayerManifest>>> {
        let Ok(image) = self.image_manifest(name) else {
            return Ok(None);
        };
        let mut stack: Vec<LayerManifest> = Vec::new();
        for layer in &recipes.get(name)?.layers {
            let Some(manifest) = self.find_layer(recipes, layer, &stack, format)? else {
                return Ok(None);
            };
            stack.push(manifest);
        }
        let same = stack.iter().map(|layer| &layer.entry).eq(&image.layers);
        Ok(same.then_some(stack))
    }

    /// The newest whole layer of that name made by today's recipe upon these layers.
    pub(super) fn find_layer(
        &self,
        recipes: &Recipes,
        layer: &str,
        stack: &[LayerManifest],
        format: Option<Format>,
    ) -> Result<Option<LayerManifest>> {
        let recipe_digest = recipes.layer_digest(layer)?;
        let below = below_digests(recipes, layer, stack)?;
        let candidates = self.all_layers()?.into_iter().filter(|candidate| {
            candidate.entry.name == layer
                && candidate.recipe_digest == recipe_digest
                && candidate.below == below
                && format.is_none_or(|format| candidate.entry.format == format)
                && self.check_layer(layer, &candidate.entry, &self.layer_path(&candidate.entry)).is_ok()
        });
        Ok(candidates.max_by_key(|candidate| candidate.built_at))
    }

    /// Layers with a readable manifest; others don't count and are swept.
    fn all_layers(&self) -> Result<Vec<LayerManifest>> {
        let files = file_names(&self.layers())?.into_iter().filter(|name| name.ends_with(".json"));
        Ok(files
            .filter_map(|name| serde_json::from_slice(&fs::read(self.layers().join(name)).ok()?).ok())
            .filter(|layer: &LayerManifest| layer.format_version == FORMAT_VERSION)
            .collect())
    }

    fn image_names(&self) -> Result<Vec<String>> {
        let names = file_names(&self.directory.join("images"))?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json")).map(str::to_owned).collect())
    }

    /// Clears away what dead builds left. To be called with the lock held: then no build is alive.
    pub(super) fn sweep(&self) -> Result<()> {
        for name in file_names(&self.tmp())? {
            tree::remove(&self.tmp().join(name))?;
        }
        let finished: BTreeSet<String> = self.all_layers()?.iter().map(|layer| layer.entry.stem()).collect();
        let Some(used) = self.used_stems() else {
            return Ok(());
        };
        for name in file_names(&self.layers())? {
            let stem = stem_of(&name);
            if !finished.contains(stem) && !used.contains(stem) {
                tree::remove(&self.layers().join(name))?;
            }
        }
        Ok(())
    }

    /// Removes layers that no image stands on and that `which` chooses, by name.
    pub(super) fn remove_unused_layers(&self, which: &mut dyn FnMut(&LayerEntry) -> bool) -> Result<Removed> {
        let mut removed = Removed::default();
        let Some(used) = self.used_stems() else {
            return Ok(removed);
        };
        for layer in self.all_layers()? {
            let stem = layer.entry.stem();
            if used.contains(&stem) || !which(&layer.entry) {
                continue;
            }
            // The manifest first: without it the rest is swept, should this be interrupted.
            for name in [format!("{stem}.json"), format!("{stem}.list"), layer.entry.file_name()] {
                tree::remove(&self.layers().join(name))?;
            }
            removed.layers.push(stem);
            removed.freed_bytes += layer.entry.size_bytes;
        }
        Ok(removed)
    }

    /// `None` if an image can't be read: then nobody knows which layers it needs, and none is removed.
    fn used_stems(&self) -> Option<BTreeSet<String>> {
        let mut used = BTreeSet::new();
        for name in self.image_names().ok()? {
            used.extend(self.image_manifest(&name).ok()?.layers.iter().map(LayerEntry::stem));
        }
        Some(used)
    }
}

/// The digests of the layers that `layer` stands on by its own recipe, out of those of a stack.
pub(super) fn below_digests(recipes: &Recipes, layer: &str, stack: &[LayerManifest]) -> Result<Vec<String>> {
    let own = &recipes.get(layer)?.layers;
    let below = stack.iter().filter(|below| own.contains(&below.entry.name));
    Ok(below.map(|below| below.entry.digest.clone()).collect())
}

/// `NAME-DIGEST12` of `NAME-DIGEST12{,.erofs,.list,.json}`.
fn stem_of(file_name: &str) -> &str {
    file_name.rsplit_once('.').map_or(file_name, |(stem, _)| stem)
}

/// Sorted; none if the directory doesn't exist.
fn file_names(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(RootfsError::io("read the directory", directory))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RootfsError::io("read the directory", directory))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
