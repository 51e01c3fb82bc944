//! What runs depend on beside the kernel: profiles, images, and room for them.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Group, Layer, chain};
use crate::config::Config;
use crate::machine::Machine;
use crate::rootfs::{Recipes, RootfsError, kernel_has_erofs};

pub(super) fn layers(config: &Config, machine: &Machine) -> Vec<Layer> {
    let mut layers = profiles(config);
    layers.push(space(machine.store().directory()));
    layers.extend(images(config, machine));
    layers
}

fn profiles(config: &Config) -> Vec<Layer> {
    let (profiles, problems) = config.profiles();
    let names: Vec<_> = profiles.iter().map(|profile| profile.name.as_str()).collect();
    let mut layers = vec![match names.is_empty() {
        false => Layer::enforced(Group::Images, "profiles", names.join(", ")),
        true => Layer::missing(Group::Images, "profiles", "none is usable", "mend those left out"),
    }];
    layers.extend(problems.iter().map(|problem| {
        let remedy = format!("mend line {} of {}, or remove the file", problem.line, problem.file);
        Layer::weaker(Group::Images, "profile left out", problem.to_string(), remedy)
    }));
    layers
}

/// Below this a build of a language's image may not fit.
const SPACE_WANTED: u64 = 2 << 30;

fn space(directory: &Path) -> Layer {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let name = "space for images";
    let free = match rustix::fs::statvfs(existing) {
        Ok(space) => space.f_bavail.saturating_mul(space.f_frsize),
        Err(errno) => {
            let detail = format!("{}: {errno}", existing.display());
            return Layer::weaker(Group::Images, name, detail, "name another directory by `rootfs_dir`");
        }
    };
    let detail = format!("{:.1} GB free at {}", free as f64 / 1e9, directory.display());
    match free >= SPACE_WANTED {
        true => Layer::enforced(Group::Images, name, detail),
        false => {
            Layer::weaker(Group::Images, name, detail, "free some space, or name another directory by `rootfs_dir`")
        }
    }
}

fn images(config: &Config, machine: &Machine) -> Vec<Layer> {
    let mut layers = Vec::new();
    let recipes = match Recipes::load(Some(&config.recipes_dir).filter(|path| path.is_dir()).map(|path| path.as_path()))
    {
        Ok(recipes) => Some(recipes),
        Err(error) => {
            let remedy = error.hint().unwrap_or_else(|| "mend or remove the recipe".to_owned());
            layers.push(Layer::weaker(Group::Images, "recipes", chain(&error), remedy));
            None
        }
    };
    if !kernel_has_erofs() {
        let detail = "this kernel has no erofs: layers are directories, which take more room and can be changed";
        layers.push(Layer::weaker(Group::Images, "erofs", detail, "load the module erofs, or use a kernel with it"));
    }
    let (profiles, _) = config.profiles();
    let built = machine.store().list().unwrap_or_default();
    let needed = profiles.iter().map(|profile| profile.rootfs.clone());
    let names: BTreeSet<String> = built.iter().map(|summary| summary.name.clone()).chain(needed).collect();
    for name in names.iter().filter(|name| *name != crate::machine::HOST_IMAGE) {
        let languages: Vec<_> = profiles.iter().filter(|profile| profile.rootfs == *name).collect();
        let languages: Vec<_> = languages.iter().map(|profile| profile.name.as_str()).collect();
        let for_whom = if languages.is_empty() { String::new() } else { format!(" for {}", languages.join(", ")) };
        let row = format!("image {name}");
        layers.push(match machine.store().image(name) {
            Err(RootfsError::NotBuilt { hint, .. }) => {
                let detail = format!("not built{for_whom}: runs take this machine's own programs instead");
                Layer::weaker(Group::Images, row, detail, hint)
            }
            // A run that needs it fails; it never falls back to something else in silence.
            Err(error) => {
                let remedy = error.hint().unwrap_or_else(|| format!("run `sandboxd rootfs build --force {name}`"));
                Layer::missing(Group::Images, row, chain(&error), remedy).required()
            }
            Ok(image) => {
                let bytes: u64 = image.layers.iter().map(|layer| layer.size_bytes).sum();
                let stack: Vec<_> = image.layers.iter().map(|layer| layer.name.as_str()).collect();
                let detail = format!("built{for_whom}: {} ({:.0} MB)", stack.join(" + "), bytes as f64 / 1e6);
                let current = recipes.as_ref().and_then(|recipes| machine.store().is_current(recipes, name).ok());
                match current {
                    Some(false) => Layer::weaker(
                        Group::Images,
                        row,
                        format!("{detail}, from an older recipe"),
                        format!("run `sandboxd rootfs build {name}`"),
                    ),
                    _ => Layer::enforced(Group::Images, row, detail),
                }
            }
        });
    }
    layers
}
