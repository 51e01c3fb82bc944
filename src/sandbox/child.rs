//! The memory that a cell's init and payload run on: all of it is made before the clone.
//!
//! # Processes of a cell
//! ```text
//! supervisor --clone3--> init (PID 1 of the cell)  --vfork--> payload --execve--> the untrusted program
//!     |  control socket    |  builds the cell                         |  locks itself
//!     |----- start --------+----------------------------------------->|  becomes the program
//!     |<---- reports ------|  reaps, answers denied system calls      |
//! ```
//! init is a copy of the supervisor's address space, payload shares init's until its exec. Both make system calls and
//! nothing else: no allocation, no lock, no panic. That is why everything here is plain data with its capacity made
//! beforehand, and why the payload can tell init of a failed step by writing it into [`ChildImage::failure`].

use std::ffi::CString;
use std::os::fd::RawFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::report::Report;
use super::seccomp::Program;
use super::sequence::{Act, SEQUENCE};
use super::start::{START_BYTES_MAX, STRINGS_MAX};
use super::sys::{self, PointerArray, VforkStack, ZeroedPages};

/// Distinct denied system calls that init keeps count of.
pub const DENIED_MAX: usize = 32;

/// Everything init and payload need to know, decided before the clone.
pub struct ChildImage {
    /// Bit `n` is set when step `n` of the sequence is to be performed.
    pub enabled: u64,
    /// The socket to the supervisor.
    pub control: RawFd,
    /// Descriptors that init keeps, ascending; every other one is closed first thing.
    pub kept: Vec<RawFd>,
    /// The `tasks` files by which init joins its v1 cgroups.
    pub tasks: Vec<RawFd>,
    /// User and group ids inside the cell.
    pub init_id: u32,
    pub payload_id: u32,
    pub hostname: CString,
    /// Target and mount options of each overlay over the image's read-only parts.
    pub overlays: Vec<(CString, CString)>,
    /// Target below the new root and mount options of each writable tmpfs.
    pub scratch: Vec<(CString, CString)>,
    /// The ruleset, and the path and access of each of its rules.
    pub landlock: RawFd,
    pub landlock_rules: Vec<(CString, u64)>,
    pub seccomp: Option<Arc<Program>>,
    /// True when denied system calls are reported to init.
    pub seccomp_notify: bool,
    pub speculation_store_bypass: bool,
    pub speculation_indirect_branch: bool,
    /// True when init reports at its end how long each step took, for the trace.
    pub timed: bool,

    // Written by init and payload.
    /// The start message and how much of the buffer it fills.
    pub message: ZeroedPages,
    pub message_bytes: usize,
    /// stdin, stdout, stderr and the bundle of files, as received with the start message.
    pub received: [RawFd; 4],
    pub arguments: PointerArray,
    pub environment: PointerArray,
    pub stack: Option<VforkStack>,
    /// The step and errno that stopped the payload before its exec.
    pub failure: Option<(u8, Errno)>,
    pub payload: i32,
    /// When the program was executed, by the monotonic clock.
    pub executed_ns: u64,
    /// The child-signal descriptor, and the seccomp listener when there is one.
    pub signals: RawFd,
    pub listener: Option<RawFd>,
    pub denied: [(i32, u32); DENIED_MAX],
    /// Nanoseconds of each step, once it is done. The last one of the payload never returns: init fills it in.
    pub times: [u64; SEQUENCE.len()],
}

impl ChildImage {
    /// An image with its buffers and without any decision.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new() -> Result<ChildImage, Errno> {
        Ok(ChildImage {
            enabled: 0,
            control: -1,
            kept: Vec::new(),
            tasks: Vec::new(),
            init_id: 0,
            payload_id: 0,
            hostname: CString::default(),
            overlays: Vec::new(),
            scratch: Vec::new(),
            landlock: -1,
            landlock_rules: Vec::new(),
            seccomp: None,
            seccomp_notify: false,
            speculation_store_bypass: false,
            speculation_indirect_branch: false,
            timed: false,
            message: ZeroedPages::new(START_BYTES_MAX)?,
            message_bytes: 0,
            received: [-1; 4],
            arguments: PointerArray::with_capacity(STRINGS_MAX),
            environment: PointerArray::with_capacity(STRINGS_MAX),
            stack: Some(VforkStack::new()),
            failure: None,
            payload: 0,
            executed_ns: 0,
            signals: -1,
            listener: None,
            denied: [(0, 0); DENIED_MAX],
            times: [0; SEQUENCE.len()],
        })
    }

    /// True when the plan has step `index` of the sequence performed.
    pub fn is_enabled(&self, index: usize) -> bool {
        self.enabled & (1 << index) != 0
    }

    /// Sends `report` to the supervisor.
    pub fn report(&self, report: Report) -> Result<(), Errno> {
        let bytes = report.encode();
        loop {
            match nix::unistd::write(sys::borrow_fd(self.control), &bytes) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(_) => return Ok(()),
            }
        }
    }
}

/// Performs one step, and notes the time it took if that is wanted.
fn perform(image: &mut ChildImage, index: usize, act: fn(&mut ChildImage) -> Result<(), Errno>) -> Result<(), Errno> {
    if !image.timed {
        return act(image);
    }
    let began_ns = sys::monotonic_ns();
    let result = act(image);
    if let Some(time) = image.times.get_mut(index) {
        *time = sys::monotonic_ns() - began_ns;
    }
    result
}

/// Tells the supervisor the time of each step performed. Sent last, so that telling does not lengthen what is told.
fn report_times(image: &ChildImage) {
    for (index, nanoseconds) in image.times.iter().enumerate().filter(|(_, time)| **time > 0) {
        // A supervisor that is gone needs no times.
        let _gone = image.report(Report::Timed { step: index as u8, nanoseconds: *nanoseconds });
    }
}

/// Runs init's steps of the sequence in their order; the result is init's exit code.
///
/// A step that fails is reported by number and errno and ends the cell: nothing is ever skipped because it failed.
pub fn run_init(image: &mut ChildImage) -> i32 {
    for (index, step) in SEQUENCE.iter().enumerate() {
        let Act::Init(act) = step.act else { continue };
        if !image.is_enabled(index) {
            continue;
        }
        if let Err(errno) = step.fault().and_then(|()| perform(image, index, act)) {
            // The supervisor that cannot be told is gone, and this cell with it.
            let failure = image.failure.unwrap_or((index as u8, errno));
            let _gone = image.report(Report::Failed { step: failure.0, errno: failure.1 as i32 });
            report_times(image);
            return 1;
        }
    }
    report_times(image);
    0
}

/// Runs the payload's steps; returns only when one fails, with the failure left in the image.
pub fn run_payload(image: &mut ChildImage) -> i32 {
    for (index, step) in SEQUENCE.iter().enumerate() {
        let Act::Payload(act) = step.act else { continue };
        if !image.is_enabled(index) {
            continue;
        }
        if let Err(errno) = step.fault().and_then(|()| perform(image, index, act)) {
            image.failure = Some((index as u8, errno));
            return 127;
        }
    }
    127
}
