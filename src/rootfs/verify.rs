//! Reads every byte of an image again and says what is no longer as it was built.

use std::fmt;
use std::path::PathBuf;

use super::error::{Result, RootfsError};
use super::listing::{Listing, file_sha256};
use super::manifest::{Format, LayerEntry};
use super::progress::{Progress, megabytes};
use super::scan::{Violation, attributes_in, forbidden_in};
use super::store::Store;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub image: String,
    pub layers: Vec<LayerReport>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerReport {
    pub name: String,
    pub digest: String,
    pub size_bytes: u64,
    pub problems: Vec<Problem>,
}

/// Paths are relative to the root of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The layer is not what its name says.
    Digest {
        expected: String,
        found: String,
    },
    /// The file that lists the layer's content is not the one that was written.
    Listing,
    Missing(PathBuf),
    Added(PathBuf),
    Changed(PathBuf),
    Forbidden(Violation),
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.layers.iter().all(|layer| layer.problems.is_empty())
    }
}

impl Store {
    pub fn verify(&self, name: &str, progress: &mut dyn Progress) -> Result<Report> {
        self.image(name)?; // Not built, half built and truncated are errors with their own remedies.
        let manifest = self.image_manifest(name)?;
        let mut layers = Vec::new();
        for entry in &manifest.layers {
            progress.step(&format!("{name}: verify layer {} ({})", entry.name, megabytes(entry.size_bytes)));
            let problems = self.verify_layer(name, entry, progress)?;
            let LayerEntry { name, digest, size_bytes, .. } = entry.clone();
            layers.push(LayerReport { name, digest, size_bytes, problems });
        }
        progress.finish();
        Ok(Report { image: name.to_owned(), layers })
    }

    fn verify_layer(&self, image: &str, entry: &LayerEntry, progress: &mut dyn Progress) -> Result<Vec<Problem>> {
        let path = self.layer_path(entry);
        let mut done = 0;
        let mut watch = |bytes: u64| -> Result<()> {
            done += bytes;
            progress.detail(&megabytes(done));
            Ok(())
        };
        let mut problems = Vec::new();
        let expected = self.layer_manifest(image, entry).and_then(|layer| Ok((layer, self.listing(image, entry)?)));
        let listing = match expected {
            Ok((layer, listing)) if layer.listing_digest == listing.digest() => Some(listing),
            Ok(_) | Err(RootfsError::Damaged { .. }) => {
                problems.push(Problem::Listing);
                None
            }
            Err(error) => return Err(error),
        };
        let found = match entry.format {
            Format::Erofs => {
                // What a sound file holds was looked through before it was packed, and is in the listing.
                problems.extend(listing.iter().flat_map(forbidden_in).map(Problem::Forbidden));
                file_sha256(&path, &mut watch)?
            }
            Format::Directory => {
                let found = Listing::read(&path, &mut watch)?;
                problems.extend(differences(listing.as_ref(), &found));
                problems.extend(forbidden_in(&found).into_iter().map(Problem::Forbidden));
                problems.extend(attributes_in(&path, &found)?.into_iter().map(Problem::Forbidden));
                found.digest()
            }
        };
        if found != entry.digest {
            problems.insert(0, Problem::Digest { expected: entry.digest.clone(), found });
        }
        Ok(problems)
    }
}

fn differences(expected: Option<&Listing>, found: &Listing) -> Vec<Problem> {
    let Some(expected) = expected else {
        return Vec::new(); // The digest alone has to tell.
    };
    let mut problems = Vec::new();
    for (path, node) in &expected.0 {
        match found.0.get(path) {
            None => problems.push(Problem::Missing(path.clone())),
            Some(other) if other != node => problems.push(Problem::Changed(path.clone())),
            Some(_) => {}
        }
    }
    let added = found.0.keys().filter(|path| !expected.0.contains_key(*path));
    problems.extend(added.cloned().map(Problem::Added));
    problems
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest { expected, found } => {
                write!(f, "its digest is {found}, it was built as {expected}")
            }
            Self::Listing => write!(f, "the list of its content is missing or changed"),
            Self::Missing(path) => write!(f, "/{} is missing", path.display()),
            Self::Added(path) => write!(f, "/{} was added", path.display()),
            Self::Changed(path) => write!(f, "/{} was changed", path.display()),
            Self::Forbidden(violation) => write!(f, "{violation} must not be there"),
        }
    }
}
