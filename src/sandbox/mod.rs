//! The sandbox itself: namespaces, mounts, landlock, seccomp, cgroups, and the processes that build a cell from them.
//!
//! Knows plans and the words, nothing above: no HTTP, no tokio, no configuration, no environment.

pub mod cell;
pub mod cgroup;
mod child;
pub mod fault;
mod init;
mod landlock;
pub mod message;
pub mod network;
mod payload;
pub mod probe;
pub mod report;
pub mod seccomp;
pub mod sequence;
mod signal;
pub mod stage;
pub mod start;
pub mod sys;
