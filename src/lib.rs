//! sandboxd runs untrusted programs, each in a brand-new sandbox.
pub mod rootfs;
pub mod sandbox;
pub mod words;
