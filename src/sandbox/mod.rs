//! The sandbox itself.
pub mod cgroup;
pub mod fault;
pub mod seccomp;
