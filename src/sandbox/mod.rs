//! The sandbox itself.
pub mod cgroup;
pub mod seccomp;
