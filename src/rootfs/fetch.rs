//! Gets the packages of a layer's tree: Debian's by mmdebstrap, others by `npm pack`.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use sha2::{Digest, Sha512};

use super::build::Builder;
use super::error::{Result, RootfsError};
use super::manifest::{Package, debian_packages};
use super::recipe::{LayerRecipe, NpmArchive};
use super::tools::ToolCall;
use super::tree;

/// Where one layer is built; gone when the build has ended, however it has ended. (Killed: the next build sweeps.)
pub struct WorkDirectory {
    path: PathBuf,
}

impl WorkDirectory {
    pub fn create(path: PathBuf) -> Result<WorkDirectory> {
        tree::remove(&path)?;
        tree::make_directory(&path)?;
        Ok(WorkDirectory { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    pub fn erofs(&self) -> PathBuf {
        self.path.join("erofs")
    }

    pub fn log(&self, tool: &str) -> PathBuf {
        self.path.join(format!("{tool}.log"))
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        // What remains is swept by the next build.
        let _ = tree::remove(&self.path);
    }
}

impl Builder<'_> {
    /// Unpacks the packages of the whole stack into the tree, without running any of their scripts.
    pub(super) fn fetch_debian_packages(
        &mut self,
        layer: &str,
        parts: &[(&str, &LayerRecipe)],
        work: &WorkDirectory,
    ) -> Result<Vec<Package>> {
        let names: Vec<&str> = parts.iter().flat_map(|(_, recipe)| &recipe.packages).map(String::as_str).collect();
        self.progress.step(&format!("{layer}: fetch and unpack Debian packages"));
        let debs = work.path().join("debs");
        let mut args = vec!["--mode=root".into(), "--variant=extract".into(), "--format=directory".into()];
        args.push(format!("--include={}", names.join(",")));
        for (_, recipe) in parts {
            args.extend(recipe.exclude.iter().map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
            args.extend(recipe.include.iter().map(|pattern| format!("--dpkgopt=path-include={pattern}")));
        }
        let list_debs = format!("cd \"$1/var/cache/apt/archives\" && sha256sum *.deb > {}", shell_quoted(&debs));
        args.push(format!("--extract-hook={list_debs}"));
        args.push(self.recipes.suite(layer)?);
        let mut args: Vec<std::ffi::OsString> = args.into_iter().map(Into::into).collect();
        args.push(work.tree().into());
        args.extend(self.options.mirrors.iter().map(Into::into));
        let call = ToolCall {
            program: "mmdebstrap".into(),
            args,
            env: vec![("SOURCE_DATE_EPOCH", tree::BUILD_EPOCH.to_string().into())],
            directory: work.path().to_owned(),
            inside: None,
            log: work.log("mmdebstrap"),
        };
        self.run(&call)?;
        let text = fs::read_to_string(&debs).map_err(RootfsError::io("read", &debs))?;
        Ok(debian_packages(&text))
    }

    pub(super) fn fetch_npm_archives(
        &mut self,
        layer: &str,
        parts: &[(&str, &LayerRecipe)],
        work: &WorkDirectory,
    ) -> Result<Vec<Package>> {
        let mut packages = Vec::new();
        for archive in parts.iter().flat_map(|(_, recipe)| &recipe.npm) {
            self.progress.step(&format!("{layer}: fetch {}@{} from npm", archive.package, archive.version));
            let directory = work.path().join(format!("npm{}", packages.len()));
            tree::make_directory(&directory)?;
            self.fetch_npm_archive(archive, &directory, work)?;
            let file = only_archive_in(&directory)?;
            check_integrity(archive, &file)?;
            self.unpack_npm_archive(archive, &file, &directory, work)?;
            packages.push(Package {
                source: "npm".into(),
                name: archive.package.clone(),
                version: archive.version.clone(),
                digest: archive.integrity.clone(),
            });
        }
        Ok(packages)
    }

    fn fetch_npm_archive(&mut self, archive: &NpmArchive, directory: &Path, work: &WorkDirectory) -> Result<()> {
        if archive.architecture != std::env::consts::ARCH {
            let (ours, theirs) = (std::env::consts::ARCH, &archive.architecture);
            let source = std::io::Error::other(format!("it is for {theirs}, this machine is {ours}"));
            return Err(RootfsError::Io { operation: "use the npm package", path: (&archive.package).into(), source });
        }
        let call = ToolCall {
            program: "npm".into(),
            args: vec![
                "pack".into(),
                "--silent".into(),
                "--ignore-scripts".into(),
                format!("--cache={}", work.path().join("npm-cache").display()).into(),
                format!("--pack-destination={}", directory.display()).into(),
                format!("{}@{}", archive.package, archive.version).into(),
            ],
            env: vec![("npm_config_update_notifier", "false".into())],
            directory: directory.to_owned(),
            inside: None,
            log: work.log("npm"),
        };
        self.run(&call)
    }

    fn unpack_npm_archive(
        &mut self,
        archive: &NpmArchive,
        file: &Path,
        directory: &Path,
        work: &WorkDirectory,
    ) -> Result<()> {
        let mut args = vec!["-xzf".into(), file.into(), "--no-same-owner".into(), "--".into()];
        args.extend(archive.files.iter().map(|file| (&file.from).into()));
        let call = ToolCall {
            program: "tar".into(),
            args,
            env: Vec::new(),
            directory: directory.to_owned(),
            inside: None,
            log: work.log("tar"),
        };
        self.run(&call)?;
        for file in &archive.files {
            tree::install_file(&directory.join(&file.from), &work.tree().join(&file.to), file.mode)?;
        }
        Ok(())
    }
}

fn only_archive_in(directory: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).map_err(RootfsError::io("read the directory", directory))?;
    let mut files =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "tgz"));
    files.next().ok_or_else(|| {
        RootfsError::io("find the archive npm has fetched in", directory)(std::io::ErrorKind::NotFound.into())
    })
}

fn check_integrity(archive: &NpmArchive, file: &Path) -> Result<()> {
    let bytes = fs::read(file).map_err(RootfsError::io("read", file))?;
    let got = format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode(Sha512::digest(bytes)));
    if got == archive.integrity {
        return Ok(());
    }
    let what = format!("{}@{}", archive.package, archive.version);
    Err(RootfsError::Integrity { what, expected: archive.integrity.clone(), got })
}

fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}
