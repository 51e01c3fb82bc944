//! sandboxd runs untrusted programs, each in a brand-new sandbox.
//!
//! # The path of a run
//! ```text
//! words --plan (pure)--> Plan --supervisor--> cell --> Outcome --judge (pure)--> Verdict
//! ```
//! A face ([`cli`] and those of [`api`]) turns its own words into a [`words::request::Request`]. [`plan`] settles every
//! option against profile, limits and host, without I/O. The [`runner`] holds the streams and has the [`supervisor`]
//! make cells. A cell is built by the steps of [`sandbox::sequence`], in that order, by three processes:
//! ```text
//! supervisor --clone3--> init (PID 1 of the cell) --vfork--> payload --execve--> the untrusted program
//! ```
//! What happened comes back as facts ([`words::verdict::Outcome`]), and one pure function says what they mean.
//!
//! # Layers
//! Lower layers know nothing of higher ones; `tests/architecture.rs` holds this.
//! ```text
//! words                 plain data, no I/O
//! plan                  Request x Profile x Host -> Plan, pure
//! sandbox    rootfs     cells;  images (neither knows the other)
//! supervisor            makes, watches and destroys cells, on one thread
//! runner                one run with its streams, compile step first
//! history               what was run and what came of it, kept in a database
//! config                the only reader of configuration files and environment
//! machine               this machine under a configuration: limits, images, versions
//! check                 what the machine can enforce, measured in cells
//! selftest              the field's attacks, tried on this machine
//! answer                the verdict as the one JSON object of the contract
//! service               admission, executions, keys and rates: what every HTTP face is made of
//! api                   the faces' own words, one file a dialect
//! daemon                the service's processes: parent, front, supervisors
//! cli                   the command line
//! ```
//!
//! # Invariants
//! - `unsafe` is in `sandbox/sys` and nowhere else.
//! - The order of isolation is stated once, in [`sandbox::sequence::SEQUENCE`]; options do not appear there.
//! - Fail closed: a step is left out by the plan or fails the run. No errno of a step is ignored.
//! - Between clone and exec: system calls only. No allocation, lock, log or panic (`sandbox/{init,payload,child}.rs`).
//! - Nothing under `sandbox` knows HTTP, configuration or the environment, and of tokio only `sys::watch`.
//! - Nothing below [`config`] reads the environment or a configuration file.
//! - A cell is used for one run. Nothing of it outlives the run, and nothing of another run is ever in it: not in its
//!   init's memory either, which is cloned without the supervisor's heap.
//! - A payload's misbehaviour is a verdict, never an `Err`. `Err` is the caller's mistake or our failure.
//! - What a host cannot enforce is settled in the plan and reported in every verdict.
//! - The process that makes cells has one thread.

pub mod answer;
pub mod api;
pub mod check;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod history;
pub mod machine;
pub mod plan;
pub mod rootfs;
pub mod runner;
pub mod sandbox;
pub mod selftest;
pub mod service;
pub mod supervisor;
pub mod words;
