//! The service's processes: the parent, which starts and restarts the others, and the front, which speaks HTTP.
//!
//! ```text
//! parent       root; binds, reads configuration, starts and restarts
//!  +- front         the unprivileged user, no capabilities, no_new_privs, its own system call filter
//!  +- supervisor    root, single-threaded; makes cells (`sandboxd supervisor`)
//!  +- supervisor
//! ```
//! The parent hands the front its listeners, its configuration and one end of a socket to each supervisor; it never reads
//! a byte from the network. When a supervisor dies its cells die with it, and a new one takes its place. When the front
//! dies every supervisor is hung up on, which ends it and its cells, and all start anew.

mod connection;
#[doc(hidden)]
pub mod control;
pub mod front;
pub mod handover;
mod listen;
pub mod log;
pub mod parent;
pub mod privileges;
