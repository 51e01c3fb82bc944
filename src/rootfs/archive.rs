//! Gets archives of npm, PyPI and Maven Central by those registries' own clients, checks each against the digest its recipe names,
//! and puts files of it into the tree. Nothing of an archive is ever run.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use sha2::{Digest, Sha512};

use super::build::Builder;
use super::error::{Result, RootfsError};
use super::fetch::WorkDirectory;
use super::listing::file_sha256;
use super::manifest::Package;
use super::recipe::{Archive, LayerRecipe};
use super::tools::ToolCall;
use super::tree;

/// What a registry has its own way of.
#[derive(Clone, Copy)]
enum Registry {
    Npm,
    Pypi,
    Maven,
}

/// The platforms a wheel may be built for: those whose C library is at most as new as the images'.
const WHEEL_PLATFORMS: [&str; 8] = [
    "manylinux_2_34",
    "manylinux_2_31",
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_24",
    "manylinux_2_17",
    "manylinux2014",
    "manylinux_2_12",
];

impl Builder<'_> {
    /// All archives of a stack, bottom layer first.
    pub(super) fn fetch_archives(
        &mut self,
        layer: &str,
        parts: &[(&str, &LayerRecipe)],
        work: &WorkDirectory,
    ) -> Result<Vec<Package>> {
        let mut packages = Vec::new();
        for (_, recipe) in parts {
            let npm = recipe.npm.iter().map(|archive| (Registry::Npm, archive));
            let pypi = recipe.pypi.iter().map(|archive| (Registry::Pypi, archive));
            let maven = recipe.maven.iter().map(|archive| (Registry::Maven, archive));
            for (registry, archive) in npm.chain(pypi).chain(maven) {
                let source = registry.name();
                let what = format!("{}@{}", archive.package, archive.version);
                self.progress.step(&format!("{layer}: fetch {what} from {source}"));
                let directory = work.path().join(format!("archive{}", packages.len()));
                tree::make_directory(&directory)?;
                check_architecture(archive)?;
                self.run(&registry.fetch(archive, &directory, work))?;
                let file = only_file_in(&directory)?;
                let got = registry.digest(&file)?;
                if got != archive.integrity {
                    return Err(RootfsError::Integrity { what, expected: archive.integrity.clone(), got });
                }
                if let Some(unpack) = registry.unpack(archive, &file, &directory, work) {
                    self.run(&unpack)?;
                    tree::remove(&file)?;
                }
                for file in &archive.files {
                    tree::install(&directory.join(&file.from), &work.tree().join(&file.to), file.mode)?;
                }
                tree::remove(&directory)?;
                packages.push(Package {
                    source: source.to_owned(),
                    name: archive.package.clone(),
                    version: archive.version.clone(),
                    digest: archive.integrity.clone(),
                });
            }
        }
        Ok(packages)
    }
}

impl Registry {
    fn name(self) -> &'static str {
        match self {
            Registry::Npm => "npm",
            Registry::Pypi => "pypi",
            Registry::Maven => "maven",
        }
    }

    fn fetch(self, archive: &Archive, directory: &Path, work: &WorkDirectory) -> ToolCall {
        let (program, args, env): (_, Vec<OsString>, _) = match self {
            Registry::Npm => {
                let args = vec![
                    "pack".into(),
                    "--silent".into(),
                    "--ignore-scripts".into(),
                    format!("--cache={}", work.path().join("npm-cache").display()).into(),
                    format!("--pack-destination={}", directory.display()).into(),
                    format!("{}@{}", archive.package, archive.version).into(),
                ];
                ("npm", args, vec![("npm_config_update_notifier", "false".into())])
            }
            Registry::Pypi => {
                let mut args: Vec<OsString> =
                    ["download", "--quiet", "--no-deps", "--no-cache-dir"].map(Into::into).into();
                // Wheels only: a source archive would be run to learn its name.
                args.extend(["--only-binary=:all:", "--implementation=cp"].map(Into::into));
                args.push(format!("--python-version={}", archive.python.as_deref().unwrap_or("3.13")).into());
                let platform = |name: &str| format!("--platform={name}_{}", archive.architecture).into();
                args.extend(WHEEL_PLATFORMS.map(platform));
                args.push(format!("--dest={}", directory.display()).into());
                args.push(format!("{}=={}", archive.package, archive.version).into());
                ("pip3", args, vec![("PIP_DISABLE_PIP_VERSION_CHECK", "1".into())])
            }
            Registry::Maven => {
                let args = vec![
                    "--batch-mode".into(),
                    "--quiet".into(),
                    format!("-Dmaven.repo.local={}", work.path().join("maven").display()).into(),
                    "dependency:copy".into(),
                    format!("-Dartifact={}:{}", archive.package, archive.version).into(),
                    format!("-DoutputDirectory={}", directory.display()).into(),
                ];
                ("mvn", args, Vec::new())
            }
        };
        call(program, args, env, directory, work)
    }

    fn digest(self, file: &Path) -> Result<String> {
        match self {
            Registry::Npm => {
                let bytes = fs::read(file).map_err(RootfsError::io("read", file))?;
                Ok(format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode(Sha512::digest(bytes))))
            }
            Registry::Pypi | Registry::Maven => Ok(format!("sha256:{}", file_sha256(file, &mut |_| Ok(()))?)),
        }
    }

    /// `None`: the archive itself is what is wanted, a jar.
    fn unpack(self, archive: &Archive, file: &Path, directory: &Path, work: &WorkDirectory) -> Option<ToolCall> {
        let (program, args): (_, Vec<OsString>) = match self {
            Registry::Npm => {
                let mut args = vec!["-xzf".into(), file.into(), "--no-same-owner".into(), "--".into()];
                args.extend(archive.files.iter().map(|file| (&file.from).into()));
                ("tar", args)
            }
            Registry::Pypi => {
                ("python3", vec!["-m".into(), "zipfile".into(), "-e".into(), file.into(), directory.into()])
            }
            Registry::Maven => return None,
        };
        Some(call(program, args, Vec::new(), directory, work))
    }
}

fn call(
    program: &str,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    directory: &Path,
    work: &WorkDirectory,
) -> ToolCall {
    ToolCall {
        program: program.to_owned(),
        args,
        env,
        directory: directory.to_owned(),
        inside: None,
        log: work.log(program),
    }
}

fn check_architecture(archive: &Archive) -> Result<()> {
    if archive.architecture == std::env::consts::ARCH {
        return Ok(());
    }
    let (ours, theirs) = (std::env::consts::ARCH, &archive.architecture);
    let source = std::io::Error::other(format!("it is for {theirs}, this machine is {ours}"));
    Err(RootfsError::Io { operation: "use the package", path: (&archive.package).into(), source })
}

fn only_file_in(directory: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).map_err(RootfsError::io("read the directory", directory))?;
    let file = entries.flatten().map(|entry| entry.path()).find(|path| path.is_file());
    file.ok_or_else(|| {
        RootfsError::io("find the archive that was fetched into", directory)(std::io::ErrorKind::NotFound.into())
    })
}
