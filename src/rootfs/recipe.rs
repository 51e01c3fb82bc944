//! Recipes: what an image consists of. One strict TOML file each, embedded, and overridden or added to by an
//! operator's directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::embedded::EMBEDDED;
use super::error::{Result, RootfsError};
use super::listing::hex;

/// Part of every recipe digest: to be raised whenever the builder makes something else of the same recipe.
const BUILDER_VERSION: u32 = 1;

/// All recipes that are known: the embedded ones and the operator's.
#[derive(Debug, Clone)]
pub struct Recipes {
    by_name: BTreeMap<String, Recipe>,
}

/// One image: its stack of layers, and the layer of the same name if it adds one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    #[serde(skip)]
    pub name: String,
    /// Where it was read from; for messages.
    #[serde(skip)]
    pub file: PathBuf,
    pub description: String,
    /// Bottom first; the last is this recipe's own layer, if it has one.
    pub layers: Vec<String>,
    /// Left out of the default set: built when named, or with all.
    #[serde(default)]
    pub optional: bool,
    pub layer: Option<LayerRecipe>,
}

/// What is put into a layer, in this order: packages, archives, files, links, then the commands run, and `remove` takes
/// away. Paths in `remove`, `link`, `file` and of archives are relative to the root.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRecipe {
    /// The Debian release. Said by the bottom layer, inherited by those above.
    pub suite: Option<String>,
    /// Debian packages; what they depend on comes along.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Of those, the ones (`*` allowed) whose newer version in the release's backports is taken.
    #[serde(default)]
    pub backports: Vec<String>,
    /// dpkg path-exclude patterns, in force for this layer and those above.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Exceptions to the patterns so far.
    #[serde(default)]
    pub include: Vec<String>,
    /// Entries of /etc that stay; all others are dropped, and a small synthetic /etc is written.
    #[serde(default)]
    pub keep_etc: Vec<String>,
    /// Removed at the end; the last component may contain `*`.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Needed below the store while building.
    pub build_space_mb: u64,
    #[serde(default)]
    pub npm: Vec<Archive>,
    #[serde(default)]
    pub pypi: Vec<Archive>,
    #[serde(default)]
    pub maven: Vec<Archive>,
    #[serde(default)]
    pub file: Vec<TextFile>,
    #[serde(default)]
    pub link: Vec<Link>,
    #[serde(default)]
    pub command: Vec<Command>,
}

/// Files out of a package of a registry: an archive of npm (fetched by `npm pack`), a wheel of PyPI (`pip download`), a
/// jar of Maven Central (`mvn dependency:copy`), which is not unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Maven's way: `group:artifact`.
    pub package: String,
    pub version: String,
    /// npm's way: `sha512-` and the digest in base64. The others: `sha256:` and the digest in hexadecimal.
    pub integrity: String,
    /// The machine its binaries are for, in Rust's words (`x86_64`).
    pub architecture: String,
    /// A wheel's Python release; by default the images' own.
    pub python: Option<String>,
    pub files: Vec<ArchivedFile>,
}

/// A file, or a whole directory (`.` is all of a wheel).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedFile {
    pub from: String,
    pub to: String,
    /// Of a file. What is in a directory becomes 0755 if it is executable in the archive, else 0644.
    pub mode: Option<u32>,
}

/// A small file whose content the recipe itself says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextFile {
    pub path: String,
    pub mode: u32,
    pub content: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub path: String,
    pub target: String,
    pub reason: String,
}

/// Run inside the finished tree, as root but without a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    pub run: Vec<String>,
    pub reason: String,
    /// Not run again for the layers above: what it leaves is large or never twice the same, and they have it from here.
    #[serde(default)]
    pub once: bool,
}

/// The names of the embedded recipes, without `host`.
pub fn names() -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|(name, _)| *name)
}

impl Recipes {
    pub fn embedded() -> Result<Recipes> {
        Recipes::load(None)
    }

    /// The embedded recipes, overridden and added to by `*.toml` of a directory.
    pub fn load(operator_directory: Option<&Path>) -> Result<Recipes> {
        let mut by_name = BTreeMap::new();
        for (name, text) in EMBEDDED {
            let file = PathBuf::from(format!("rootfs/{name}.toml"));
            by_name.insert((*name).to_owned(), Recipe::parse(name, text, &file)?);
        }
        for file in operator_directory.map(toml_files).transpose()?.unwrap_or_default() {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if name == "host" {
                continue; // Read by `host::HostRecipe::load`.
            }
            let text = fs::read_to_string(&file).map_err(RootfsError::io("read", &file))?;
            by_name.insert(name.clone(), Recipe::parse(&name, &text, &file)?);
        }
        let recipes = Recipes { by_name };
        for recipe in recipes.by_name.values() {
            recipes.check_stack(recipe)?;
        }
        Ok(recipes)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    pub fn get(&self, name: &str) -> Result<&Recipe> {
        if name == "host" {
            return Err(RootfsError::HostImage);
        }
        self.by_name
            .get(name)
            .ok_or_else(|| RootfsError::UnknownImage { name: name.to_owned(), nearest: nearest(name, self.names()) })
    }

    /// The layer recipes of a stack, bottom first, the named layer last.
    pub(super) fn stack(&self, layer: &str) -> Result<Vec<(&str, &LayerRecipe)>> {
        let recipe = self.get(layer)?;
        recipe
            .layers
            .iter()
            .map(|name| {
                let below = self.get(name)?;
                let layer = below.layer.as_ref().ok_or_else(|| recipe.error(format!("{name} has no [layer]")))?;
                Ok((below.name.as_str(), layer))
            })
            .collect()
    }

    /// The Debian release of a stack: that of its lowest layer that says one.
    pub(super) fn suite(&self, layer: &str) -> Result<String> {
        let stack = self.stack(layer)?;
        let suite = stack.iter().find_map(|(_, layer)| layer.suite.clone());
        suite.ok_or_else(|| RootfsError::Recipe {
            file: self.by_name[layer].file.clone(),
            line: None,
            message: "no layer of the stack says its `suite`".into(),
            hint: Some("add `suite = \"trixie\"` to the [layer] of the bottom one".into()),
        })
    }

    /// Changes whenever a build of this layer would be different for a reason that lies in the recipes.
    pub(super) fn layer_digest(&self, layer: &str) -> Result<String> {
        let stack = self.stack(layer)?;
        let text = serde_json::to_vec(&(BUILDER_VERSION, &stack)).expect("recipes are plain data");
        Ok(hex(&Sha256::digest(text)))
    }

    fn check_stack(&self, recipe: &Recipe) -> Result<()> {
        let mut seen: Vec<&String> = Vec::new();
        for name in &recipe.layers {
            let layer = self.by_name.get(name).filter(|below| below.layer.is_some());
            let Some(layer) = layer else {
                let mut error = recipe.error(format!("`layers` names {name:?}, and no recipe makes such a layer"));
                if let (RootfsError::Recipe { hint, .. }, Some(nearest)) = (&mut error, nearest(name, self.names())) {
                    *hint = Some(format!("did you mean {nearest}?"));
                }
                return Err(error);
            };
            if seen.contains(&name) {
                return Err(recipe.error(format!("`layers` names {name:?} twice")));
            }
            seen.push(name);
            if let Some(missing) = layer.layers.iter().find(|below| !seen.contains(below)) {
                return Err(
                    recipe.error(format!("the layer {name} stands on {missing}, which is not below it in `layers`"))
                );
            }
        }
        self.suite(&recipe.layers[recipe.layers.len() - 1])?;
        Ok(())
    }
}

impl Recipe {
    pub fn parse(name: &str, text: &str, file: &Path) -> Result<Recipe> {
        let mut recipe: Recipe = parse_strictly(text, file)?;
        recipe.name = name.to_owned();
        recipe.file = file.to_owned();
        recipe.check().map_err(|(key, message)| {
            let line = text.lines().position(|line| line.trim_start().starts_with(key)).map_or(1, |index| index + 1);
            RootfsError::Recipe { file: file.to_owned(), line: Some(line), message, hint: None }
        })?;
        Ok(recipe)
    }

    /// What is wrong, and how the line begins that says it.
    fn check(&self) -> std::result::Result<(), (&'static str, String)> {
        if !is_valid_name(&self.name) {
            let message = format!("{:?} can't be an image's name: small letters, digits, - and + only", self.name);
            return Err(("description", message));
        }
        let Some(last) = self.layers.last() else {
            return Err(("layers", "`layers` is empty".into()));
        };
        match (&self.layer, *last == self.name) {
            (Some(_), false) => {
                Err(("layers", format!("`layers` must end with {:?}, the recipe's own [layer]", self.name)))
            }
            (None, true) => Err(("layers", format!("`layers` names {:?}, but there is no [layer]", self.name))),
            (None, false) => Ok(()),
            (Some(layer), true) => layer.check(),
        }
    }

    fn error(&self, message: String) -> RootfsError {
        RootfsError::Recipe { file: self.file.clone(), line: None, message, hint: None }
    }
}

impl LayerRecipe {
    /// Likewise.
    fn check(&self) -> std::result::Result<(), (&'static str, String)> {
        let removed = self.remove.iter().map(|path| ("remove", path));
        let linked = self.link.iter().map(|link| ("path", &link.path));
        let archived = || self.npm.iter().chain(&self.pypi).chain(&self.maven).flat_map(|archive| &archive.files);
        let unpacked = archived().flat_map(|file| [("files", &file.to), ("files", &file.from)]);
        let unpacked = unpacked.filter(|(_, path)| *path != ".");
        let written = self.file.iter().map(|file| ("path", &file.path));
        let kept = self.keep_etc.iter().map(|path| ("keep_etc", path));
        for (key, path) in removed.chain(linked).chain(unpacked).chain(written).chain(kept) {
            if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) || path.is_empty() {
                return Err((key, format!("{path:?} must be a path relative to the root, without `..`")));
            }
        }
        for (key, patterns) in [("exclude", &self.exclude), ("include", &self.include)] {
            if let Some(pattern) = patterns.iter().find(|pattern| !pattern.starts_with('/')) {
                return Err((key, format!("the pattern {pattern:?} must start with a slash")));
            }
        }
        if let Some(package) = self.packages.iter().find(|package| !is_package_name(package)) {
            return Err(("packages", format!("{package:?} is not the name of a Debian package")));
        }
        if let Some(pattern) = self.backports.iter().find(|pattern| !is_package_name(&pattern.replace('*', "x"))) {
            return Err(("backports", format!("{pattern:?} is not the name of a Debian package")));
        }
        if self.command.iter().any(|command| command.run.is_empty()) {
            return Err(("run", "a `command` has nothing to `run`".into()));
        }
        Ok(())
    }
}

/// Also keeps names from meaning anything as a path.
pub(super) fn is_valid_name(name: &str) -> bool {
    const NAME_LENGTH_MAX: usize = 64;
    name.len() <= NAME_LENGTH_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '+')
}

fn is_package_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:_".contains(c)) && !name.starts_with('-')
}

/// TOML in which an unknown key is an error that says its line and the key that was probably meant.
pub(super) fn parse_strictly<T: for<'de> Deserialize<'de>>(text: &str, file: &Path) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        // "unknown field `pakages`, expected one of `packages`, `exclude`, …"
        let message = error.message().to_owned();
        let mut quoted = message.split('`').skip(1).step_by(2);
        let hint = match message.starts_with("unknown field") {
            true => quoted.next().and_then(|key| nearest(key, quoted).map(|known| format!("did you mean `{known}`?"))),
            false => None,
        };
        RootfsError::Recipe { file: file.to_owned(), line: Some(line), message, hint }
    })
}

fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    const SIMILAR_ENOUGH: f64 = 0.75;
    let scored = known.map(|known| (strsim::jaro_winkler(word, known), known));
    let best = scored.filter(|(score, _)| *score >= SIMILAR_ENOUGH).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, known)| known.to_owned())
}

fn toml_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(RootfsError::io("read the directory", directory))? {
        let path = entry.map_err(RootfsError::io("read the directory", directory))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Recipe> {
        Recipe::parse("x", text, Path::new("rootfs/x.toml"))
    }

    #[test]
    fn the_embedded_recipes_are_sound() {
        let recipes = Recipes::embedded().unwrap();
        assert_eq!(recipes.names().count(), EMBEDDED.len());
        assert_eq!(recipes.get("python").unwrap().layers, ["base", "python"]);
        assert_eq!(recipes.suite("gcc").unwrap(), "trixie");
    }

    #[test]
    fn wrong_recipes_are_refused_with_file_line_and_remedy() {
        let cases = [
            ("description = 'd'\nlayers = ['base']\nlayer = 3\n", "rootfs/x.toml:3: invalid type", ""),
            (
                "description = 'd'\nlayers = ['base']\nlayres = []\n",
                "rootfs/x.toml:3: unknown field `layres`",
                "did you mean `layers`?",
            ),
            (
                "description = 'd'\nlayers = ['x']\n[layer]\nbuild_space_mb = 1\npakages = ['a']\n",
                "rootfs/x.toml:5: unknown field",
                "did you mean `packages`?",
            ),
            ("description = 'd'\nlayers = ['base']\n[layer]\nbuild_space_mb = 1\n", "must end with \"x\"", ""),
            ("description = 'd'\nlayers = ['base', 'x']\n", "no [layer]", ""),
            ("description = 'd'\nlayers = []\n", "`layers` is empty", ""),
            (
                "description = 'd'\nlayers = ['x']\n[layer]\nbuild_space_mb = 1\nremove = ['../etc']\n",
                "without `..`",
                "",
            ),
            (
                "description = 'd'\nlayers = ['x']\n[layer]\nbuild_space_mb = 1\nremove = ['/etc']\n",
                "relative to the root",
                "",
            ),
            (
                "description = 'd'\nlayers = ['x']\n[layer]\nbuild_space_mb = 1\npackages = ['-oDir=/']\n",
                "not the name of a Debian package",
                "",
            ),
            ("layers = ['x']\n", "missing field `description`", ""),
        ];
        for (text, message, hint) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(message), "{text}\n{error}");
            assert_eq!(error.hint().unwrap_or_default(), hint, "{text}");
        }
    }

    #[test]
    fn an_operators_directory_overrides_and_adds() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("typescript.toml"), "description = 'd'\nlayers = ['base', 'node']\n").unwrap();
        fs::write(
            directory.path().join("node.toml"),
            "description = 'd'\nlayers = ['base', 'node']\n[layer]\nbuild_space_mb = 1\n",
        )
        .unwrap();
        let recipes = Recipes::load(Some(directory.path())).unwrap();
        assert!(recipes.get("node").unwrap().layer.as_ref().unwrap().npm.is_empty());
        assert_eq!(recipes.get("typescript").unwrap().layers, ["base", "node"]);

        fs::write(directory.path().join("rust.toml"), "description = 'd'\nlayers = ['base', 'gc']\n").unwrap();
        let error = Recipes::load(Some(directory.path())).unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean gcc?");
        fs::write(directory.path().join("rust.toml"), "description = 'd'\nlayers = ['gcc']\n").unwrap();
        let error = Recipes::load(Some(directory.path())).unwrap_err();
        assert!(error.to_string().contains("the layer gcc stands on base"), "{error}");
    }

    #[test]
    fn unknown_images_are_answered_with_the_nearest_name() {
        let recipes = Recipes::embedded().unwrap();
        assert_eq!(recipes.get("pyton").unwrap_err().hint().unwrap(), "did you mean python?");
        assert!(matches!(recipes.get("host"), Err(RootfsError::HostImage)));
    }

    #[test]
    fn a_layers_digest_depends_on_what_is_below() {
        let directory = tempfile::tempdir().unwrap();
        let before = Recipes::embedded().unwrap();
        let base = include_str!("../../rootfs/base.toml").replace("\"bc\", ", "");
        fs::write(directory.path().join("base.toml"), base).unwrap();
        let after = Recipes::load(Some(directory.path())).unwrap();
        for layer in ["base", "python"] {
            let digest = |recipes: &Recipes| recipes.layer_digest(layer).unwrap();
            assert_ne!(digest(&before), digest(&after));
            assert_eq!(digest(&before), digest(&before.clone()));
        }
    }
}
