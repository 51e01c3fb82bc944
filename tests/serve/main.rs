//! `sandboxd serve`, the real one, over loopback: each test has a server of its own, which is told to end afterwards
//! and must leave no process and no cgroup.

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod dialects;
// Shared with other tests, which use what these do not.
#[allow(dead_code)]
mod harness;
mod keys;
mod native;
mod piston;
mod socket;
mod strangers;
