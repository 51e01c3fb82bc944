//! Every system call of a run, of the service and of its start fails once, by every error that says that there is no
//! room: nothing runs weaker than planned, nothing is left over, and the service recovers by itself.
//!
//! FAULT_STRIDE says how many faults of each sweep are passed over for one that is tried; `make faults` tries them all.

#[path = "../common/mod.rs"]
mod common;
// Shared with the tests of the service, which use more of it.
#[allow(dead_code)]
#[path = "../serve/harness.rs"]
mod harness;

mod calls;
mod facts;
mod run;
mod service;
mod start;
mod sweep;
mod tracer;
