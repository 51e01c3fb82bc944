//! Resource limits by cgroup.
