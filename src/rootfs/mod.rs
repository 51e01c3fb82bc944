//! Root filesystems: how they are described, built, kept, checked and found.
//!
//! A **layer** is one read-only erofs file (or a directory tree, where erofs is not to be had) named after its
//! digest. An **image** is a stack of layers, bottom first; a run sees them through a read-only overlay, a single
//! layer is mounted alone. A recipe (`rootfs/NAME.toml`) describes one image and, if it adds to the stack, the
//! layer on top of it that bears the same name.
//!
//! ```text
//! STORE/lock                         held (flock) by the one process that changes the store
//!       tmp/PID-NAME/                a build at work; never looked at by anyone else, swept by the next build
//!       layers/NAME-DIGEST12.erofs   the layer; or a directory NAME-DIGEST12/
//!       layers/NAME-DIGEST12.list    every path in it with mode, owner and content digest
//!       layers/NAME-DIGEST12.json    what it was made of
//!       images/NAME.json             the stack; the file that makes an image exist, written last
//! ```
//!
//! A layer above `base` is built as a **whole tree** - the packages of every layer of its stack in one resolution -
//! from which everything identical to the layers below is then taken away. So nothing depends on what an overlay's
//! upper directory would have recorded (opaque marks that hide later layers, whiteouts), and a library that was
//! updated between two builds comes along in the newer layer instead of mixing with the older one.
//!
//! Invariants: nothing here mounts anything or knows what a sandbox is; no maintainer script of a package is ever
//! run; a file of the store is written under `tmp/`, flushed, and renamed into place, so a build that was killed
//! at any instant has changed nothing.

mod archive;
mod build;
#[cfg(test)]
mod build_tests;
mod embedded;
mod error;
mod etc;
mod fetch;
pub mod host;
mod listing;
mod lock;
mod manifest;
pub mod progress;
pub mod recipe;
mod scan;
mod store;
mod tools;
mod tree;
mod verify;

pub use build::{BuildOptions, Built, build};
pub use error::RootfsError;
pub use listing::{Kind, Listing, Node};
pub use manifest::{Format, LayerManifest, Package};
pub use progress::Progress;
pub use recipe::{Recipe, Recipes};
pub use scan::{Forbidden, Violation};
pub use store::{DEFAULT_STORE, Image, Layer, Removed, State, Store, Summary};
pub use tools::{SystemTools, ToolCall, Tools, kernel_has_erofs};
pub use verify::{LayerReport, Problem, Report};
