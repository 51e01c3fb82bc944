//! Gets the Debian packages of a layer's tree, by mmdebstrap.

use std::fs;
use std::path::{Path, PathBuf};

use super::build::Builder;
use super::error::{Result, RootfsError};
use super::manifest::{Package, debian_packages};
use super::recipe::LayerRecipe;
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
        let suite = self.recipes.suite(layer)?;
        let backports: Vec<&str> = parts.iter().flat_map(|(_, recipe)| &recipe.backports).map(String::as_str).collect();
        if !backports.is_empty() {
            args.push(format!("--setup-hook={}", backports_hook(&suite, &backports)));
        }
        let list_debs = format!("cd \"$1/var/cache/apt/archives\" && sha256sum *.deb > {}", shell_quoted(&debs));
        args.push(format!("--extract-hook={list_debs}"));
        args.push(suite);
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
}

/// Beside each line of the release one of its backports, preferred for the named packages only. The archive's address
/// is nowhere in this program: it is whatever mmdebstrap has put down for the release.
fn backports_hook(suite: &str, patterns: &[&str]) -> String {
    let names = patterns.join(" ");
    format!(
        "sed -n 's/ {suite} main/ {suite}-backports main/p' \"$1/etc/apt/sources.list\" \
         > \"$1/etc/apt/sources.list.d/backports.list\" && \
         printf 'Package: %s\\nPin: release n=%s\\nPin-Priority: 990\\n' {} {suite}-backports \
         > \"$1/etc/apt/preferences.d/backports\"",
        shell_quoted(Path::new(&names))
    )
}

fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}
