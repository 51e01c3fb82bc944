//! sandboxd runs untrusted programs, each in a brand-new sandbox.
pub mod api;
pub mod check;
pub mod cli;
pub mod config;
pub mod machine;
pub mod plan;
pub mod rootfs;
pub mod runner;
pub mod sandbox;
pub mod supervisor;
pub mod words;
