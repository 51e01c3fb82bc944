//! Attacks on the sandbox: what untrusted programs try, and what comes of it.
//!
//! Most attacks are rows of `sandboxd selftest` (`src/selftest/table`): a small program, the lines it prints in the
//! complete sandbox (each attempt refused, with its errno), and a control that shows the same program succeed, so that an
//! attempt that could never work, or a check that cannot fail, is found out. Where several layers stop an attempt, each is
//! also tried alone. What a table cannot say (two runs at once, a compile step, something on the host to look at
//! afterwards) is a test of its own in [`files`], [`processes`] and [`kernel`].
//!
//! The programs are those that the selftest carries; they run in the `base` image. These tests need root, and the images;
//! with `SANDBOXD_TEST_IMAGES=1` a missing image is a failure.

#[path = "../common/mod.rs"]
mod common;
mod files;
mod harness;
mod kernel;
mod processes;
mod table;
