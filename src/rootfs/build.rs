//! Builds an image: each layer that is missing or out of date, bottom first, then the image's manifest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::error::{Result, RootfsError};
use super::fetch::WorkDirectory;
use super::listing::{Listing, file_sha256, hex};
use super::lock::Contention;
use super::manifest::{FORMAT_VERSION, Format, ImageManifest, LayerEntry, LayerManifest, sync_directory, write_json};
use super::progress::{Progress, megabytes};
use super::recipe::{LayerRecipe, Recipe, Recipes};
use super::scan::{attributes_in, forbidden_in};
use super::store::{Image, Store, below_digests};
use super::tools::{Signals, ToolCall, Tools, kernel_has_erofs, package_of};
use super::tree;

#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Build the image's topmost layer again though nothing has changed: for newer packages.
    pub force: bool,
    /// `None`: erofs if tools and kernel have it, else a directory.
    pub format: Option<Format>,
    /// Fail at once, instead of waiting, when another process is changing the store.
    pub fail_if_locked: bool,
    /// Package sources for mmdebstrap; none: those it has by default.
    pub mirrors: Vec<String>,
}

#[derive(Debug)]
pub struct Built {
    pub image: Image,
    /// The layers that were built; none if everything was there.
    pub layers: Vec<String>,
    pub elapsed: Duration,
}

/// Signals that would end the process (Ctrl-C) are held back meanwhile: tools are killed, `tmp` is cleared, and
/// `RootfsError::Interrupted` is returned. That needs a process whose other threads, if any, hold them back too: call
/// it from the main thread before others are started. (Else the signal ends the process, and the next build sweeps.)
pub fn build(
    store: &Store,
    recipes: &Recipes,
    name: &str,
    options: &BuildOptions,
    tools: &dyn Tools,
    progress: &mut dyn Progress,
) -> Result<Built> {
    let start = Instant::now();
    let recipe = recipes.get(name)?;
    if !options.force && store.find_stack(recipes, name, options.format)?.is_some() {
        return Ok(Built { image: store.image(name)?, layers: Vec::new(), elapsed: start.elapsed() });
    }
    if tools.needs_root() && !rustix::process::geteuid().is_root() {
        return Err(RootfsError::NotRoot);
    }
    let format = choose_format(options.format, tools, progress)?;
    let signals = Signals::hold()?;
    let mut builder = Builder { store, recipes, options, format, tools, signals, progress };
    let layers = builder.build(recipe)?;
    Ok(Built { image: store.image(name)?, layers, elapsed: start.elapsed() })
}

fn choose_format(asked: Option<Format>, tools: &dyn Tools, progress: &mut dyn Progress) -> Result<Format> {
    let missing = match tools.find("mkfs.erofs") {
        None => "mkfs.erofs is not installed (apt-get install erofs-utils)",
        Some(_) if !kernel_has_erofs() => "this kernel has no erofs",
        Some(_) => return Ok(asked.unwrap_or_default()),
    };
    match asked {
        Some(Format::Erofs) if tools.find("mkfs.erofs").is_none() => {
            Err(RootfsError::ToolMissing { tool: "mkfs.erofs".into(), package: package_of("mkfs.erofs").into() })
        }
        Some(format) => Ok(format), // Built here, perhaps, for another machine.
        None => {
            progress.note(&format!("layers become directories: {missing}"));
            Ok(Format::Directory)
        }
    }
}

pub(super) struct Builder<'a> {
    pub store: &'a Store,
    pub recipes: &'a Recipes,
    pub options: &'a BuildOptions,
    pub format: Format,
    pub tools: &'a dyn Tools,
    pub signals: Signals,
    pub progress: &'a mut dyn Progress,
}

impl Builder<'_> {
    /// Returns the names of the layers that had to be built.
    fn build(&mut self, recipe: &Recipe) -> Result<Vec<String>> {
        let contention = if self.options.fail_if_locked { Contention::Fail } else { Contention::Wait };
        let what = format!("rootfs build {}", recipe.name);
        let (signals, progress) = (&self.signals, &mut *self.progress);
        let mut announced = false;
        let _lock = self.store.lock(&what, contention, &mut |holder| {
            if !std::mem::replace(&mut announced, true) {
                progress.note(&format!("waiting for {holder}"));
            }
            signals.check()
        })?;
        self.store.sweep()?;
        let mut stack: Vec<LayerManifest> = Vec::new();
        let mut built = Vec::new();
        for layer in &recipe.layers {
            let again = self.options.force && Some(layer) == recipe.layers.last();
            let found = self.store.find_layer(self.recipes, layer, &stack, self.options.format)?;
            stack.push(match found {
                Some(manifest) if !again => manifest,
                _ => {
                    built.push(layer.clone());
                    self.build_layer(layer, &stack)?
                }
            });
        }
        self.write_image(recipe, &stack)?;
        // Mounted layers live on without a name; a directory may be in use by a running service.
        let replaced = |entry: &LayerEntry| built.contains(&entry.name) && entry.format == Format::Erofs;
        self.store.remove_unused_layers(&mut { replaced })?;
        Ok(built)
    }

    fn build_layer(&mut self, layer: &str, stack: &[LayerManifest]) -> Result<LayerManifest> {
        let recipes = self.recipes;
        let parts = recipes.stack(layer)?;
        self.check_space(layer, &parts)?;
        let work = WorkDirectory::create(self.store.tmp().join(format!("{}-{layer}", std::process::id())))?;
        let mut packages = self.fetch_debian_packages(layer, &parts, &work)?;
        packages.extend(self.fetch_archives(layer, &parts, &work)?);
        self.write_files(&parts, &work)?;
        self.make_links(&parts, &work)?;
        self.run_commands(layer, &parts, &work)?;
        self.settle_tree(layer, &parts, &work)?;
        let listing = self.refuse_forbidden(layer, &work)?;
        let below = self.listing_below(layer, stack)?;
        let listing = self.subtract(layer, listing, &below, &work)?;
        let entry = self.pack(layer, &listing, &work)?;
        let manifest = LayerManifest {
            format_version: FORMAT_VERSION,
            entry,
            listing_digest: listing.digest(),
            recipe_digest: recipes.layer_digest(layer)?,
            below: below_digests(recipes, layer, stack)?,
            suite: recipes.suite(layer)?,
            built_at: now(),
            packages,
        };
        self.publish(&manifest, &listing, &work)?;
        Ok(manifest)
    }

    fn check_space(&self, layer: &str, parts: &[(&str, &LayerRecipe)]) -> Result<()> {
        let path = self.store.directory();
        let space =
            rustix::fs::statvfs(path).map_err(|errno| RootfsError::io("ask the free space of", path)(errno.into()))?;
        let have = space.f_bavail.saturating_mul(space.f_frsize);
        let need = parts.last().map_or(0, |(_, recipe)| recipe.build_space_mb) << 20;
        match have < need {
            true => Err(RootfsError::NoSpace { path: path.to_owned(), what: format!("the layer {layer}"), need, have }),
            false => Ok(()),
        }
    }

    fn write_files(&mut self, parts: &[(&str, &LayerRecipe)], work: &WorkDirectory) -> Result<()> {
        let files = parts.iter().flat_map(|(_, recipe)| &recipe.file);
        files.into_iter().try_for_each(|file| tree::write_text_file(&work.tree(), file))
    }

    fn make_links(&mut self, parts: &[(&str, &LayerRecipe)], work: &WorkDirectory) -> Result<()> {
        let links = parts.iter().flat_map(|(_, recipe)| &recipe.link);
        links.into_iter().try_for_each(|link| tree::make_link(&work.tree(), link))
    }

    fn run_commands(&mut self, layer: &str, parts: &[(&str, &LayerRecipe)], work: &WorkDirectory) -> Result<()> {
        // A tool that writes down another file's time shall write down the one that file will have.
        tree::settle_times(&work.tree())?;
        let own = |name: &str| name == layer;
        let commands =
            parts.iter().flat_map(|(name, recipe)| recipe.command.iter().map(move |command| (*name, command)));
        for (_, command) in commands.filter(|(name, command)| own(name) || !command.once) {
            let program = command.run.first().map(String::as_str).unwrap_or_default();
            self.run_inside(layer, program, &command.run[1..], work)?;
        }
        Ok(())
    }

    /// Makes the image's tree out of the packages'.
    fn settle_tree(&mut self, layer: &str, parts: &[(&str, &LayerRecipe)], work: &WorkDirectory) -> Result<()> {
        let tree = work.tree();
        let kept: Vec<&str> = parts.iter().flat_map(|(_, recipe)| &recipe.keep_etc).map(String::as_str).collect();
        tree::write_etc(&tree, &kept)?;
        if tree.join("usr/sbin/ldconfig").exists() {
            self.run_inside(layer, "/usr/sbin/ldconfig", &[], work)?;
            tree::remove(&tree.join("usr/sbin/ldconfig"))?;
        }
        for pattern in parts.iter().flat_map(|(_, recipe)| &recipe.remove) {
            tree::remove_matching(&tree, pattern)?;
        }
        for directory in ["usr/share", "usr/lib"].map(|name| tree.join(name)) {
            if directory.is_dir() {
                tree::remove_empty_directories(&directory)?;
            }
        }
        tree::settle_top_level(&tree)?;
        tree::give_to_root(&tree)
    }

    fn refuse_forbidden(&mut self, layer: &str, work: &WorkDirectory) -> Result<Listing> {
        self.progress.step(&format!("{layer}: look through the files"));
        let listing = Listing::read(&work.tree(), &mut |_| self.signals.check())?;
        let mut violations = forbidden_in(&listing);
        violations.extend(attributes_in(&work.tree(), &listing)?);
        match violations.is_empty() {
            true => Ok(listing),
            false => Err(RootfsError::Forbidden { layer: layer.to_owned(), violations }),
        }
    }

    /// What is seen of the layers that this one stands on.
    fn listing_below(&self, layer: &str, stack: &[LayerManifest]) -> Result<Listing> {
        let own = &self.recipes.get(layer)?.layers;
        let below = stack.iter().filter(|below| own.contains(&below.entry.name));
        below
            .into_iter()
            .try_fold(Listing::default(), |seen, below| Ok(seen.overlaid_by(self.store.listing(layer, &below.entry)?)))
    }

    fn subtract(&mut self, layer: &str, full: Listing, below: &Listing, work: &WorkDirectory) -> Result<Listing> {
        let listing = full.minus(below);
        tree::reduce(&work.tree(), &full, &listing)?;
        if !below.0.is_empty() {
            let (kept, all) = (listing.0.len(), full.0.len());
            self.progress.note(&format!("  {layer}: {kept} of {all} paths are not in the layers below"));
        }
        Ok(listing)
    }

    fn pack(&mut self, layer: &str, listing: &Listing, work: &WorkDirectory) -> Result<LayerEntry> {
        let tree = work.tree();
        let tree_bytes = tree::settle_times(&tree)?;
        self.progress.step(&format!("{layer}: pack {}", megabytes(tree_bytes)));
        let (digest, size_bytes) = match self.format {
            Format::Directory => (listing.digest(), tree_bytes),
            Format::Erofs => {
                self.make_erofs(layer, work)?;
                let file = work.erofs();
                let digest = file_sha256(&file, &mut |_| self.signals.check())?;
                (digest, file.metadata().map_err(RootfsError::io("stat", &file))?.len())
            }
        };
        self.progress.note(&format!(
            "  {layer}: {} in files, {} as a layer",
            megabytes(tree_bytes),
            megabytes(size_bytes)
        ));
        Ok(LayerEntry { name: layer.to_owned(), format: self.format, digest, size_bytes })
    }

    fn make_erofs(&mut self, layer: &str, work: &WorkDirectory) -> Result<()> {
        let call = ToolCall {
            program: "mkfs.erofs".into(),
            args: vec![
                "--quiet".into(),
                "-zlz4hc".into(),
                "-x-1".into(), // No extended attributes at all.
                "--all-root".into(),
                format!("-T{}", tree::BUILD_EPOCH).into(),
                format!("-U{}", layer_uuid(layer)).into(),
                work.erofs().into(),
                work.tree().into(),
            ],
            env: Vec::new(),
            directory: work.path().to_owned(),
            inside: None,
            log: work.log("erofs"),
        };
        self.run(&call)?;
        make_read_only(&work.erofs())
    }

    /// Everything is flushed before it gets its name, and the manifest gets its name last.
    fn publish(&mut self, manifest: &LayerManifest, listing: &Listing, work: &WorkDirectory) -> Result<()> {
        let entry = &manifest.entry;
        let layers = self.store.layers();
        let (from, to) = match entry.format {
            Format::Erofs => (work.erofs(), self.store.layer_path(entry)),
            Format::Directory => (work.tree(), self.store.layer_path(entry)),
        };
        let list = work.path().join("list");
        fs::write(&list, listing.to_text()).map_err(RootfsError::io("write", &list))?;
        let flush = File::open(work.path()).and_then(|directory| Ok(rustix::fs::syncfs(directory)?));
        flush.map_err(RootfsError::io("flush", work.path()))?;
        self.signals.check()?;
        if entry.format == Format::Directory && to.exists() {
            // The same digest, built again: perhaps because the old one was damaged.
            fs::rename(&to, work.path().join("former")).map_err(RootfsError::io("move away", &to))?;
        }
        fs::rename(&from, &to).map_err(RootfsError::io("rename to", &to))?;
        let list_path = layers.join(format!("{}.list", entry.stem()));
        fs::rename(&list, &list_path).map_err(RootfsError::io("rename to", &list_path))?;
        sync_directory(&layers)?;
        write_json(manifest, &layers.join(format!("{}.json", entry.stem())), &work.path().join("manifest"))
    }

    fn write_image(&mut self, recipe: &Recipe, stack: &[LayerManifest]) -> Result<()> {
        let layers: Vec<LayerEntry> = stack.iter().map(|layer| layer.entry.clone()).collect();
        // Versions that were found out about the same layers still hold.
        let former = self.store.image_manifest(&recipe.name).ok().filter(|former| former.layers == layers);
        let versions = former.map_or_else(BTreeMap::new, |former| former.versions);
        let manifest = ImageManifest {
            format_version: FORMAT_VERSION,
            name: recipe.name.clone(),
            built_at: now(),
            layers,
            versions,
        };
        self.store.write_image(&manifest)?;
        self.progress.finish();
        Ok(())
    }

    fn run_inside(&mut self, layer: &str, program: &str, args: &[String], work: &WorkDirectory) -> Result<()> {
        let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.progress.step(&format!("{layer}: run {name}"));
        let call = ToolCall {
            program: program.to_owned(),
            args: args.iter().map(Into::into).collect(),
            env: Vec::new(),
            directory: work.path().to_owned(),
            inside: Some(work.tree()),
            log: work.log(&name),
        };
        self.run(&call)
    }

    pub(super) fn run(&mut self, call: &ToolCall) -> Result<()> {
        let (signals, progress) = (&self.signals, &mut *self.progress);
        self.tools.run(call, &mut |line| {
            if let Some(line) = line {
                progress.detail(line);
            }
            signals.check()
        })
    }
}

/// The same at every build of the layer, and another one for each: overlayfs tells its lower file systems apart by it.
fn layer_uuid(layer: &str) -> String {
    use sha2::{Digest, Sha256};
    let digits = hex(&Sha256::digest(format!("sandboxd layer {layer}")));
    format!("{}-{}-4{}-8{}-{}", &digits[..8], &digits[8..12], &digits[13..16], &digits[17..20], &digits[20..32])
}

fn make_read_only(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).map_err(RootfsError::io("set the mode of", path))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
