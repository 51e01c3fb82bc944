//! The memory that a cell's init and payload run on: all of it is made before the clone.
//!
//! # Processes of a cell
//! ```text
//! supervisor --clone3--> init (PID 1 of the cell)  --vfork--> payload --execve--> the untrusted program
//!     |  control socket    |  builds the cell                         |  locks itself
//!     |----- start --------+----------------------------------------->|  becomes the program
//!     |<---- reports ------|  reaps, answers denied system calls      |
//! ```
//! init is a copy of the supervisor's address space without its heap, payload shares init's until its exec. Both make
//! system calls and nothing else: no allocation, no lock, no panic. That is why everything here is plain data in an
//! [`Arena`], its room made beforehand, and why the payload can tell init of a failed step by writing it into
//! [`ChildImage::failure`].

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use nix::errno::Errno;

use super::report::Report;
use super::sequence::{Act, SEQUENCE};
use super::start::{START_BYTES_MAX, STRINGS_MAX};
use super::sys::{self, Arena, PointerArray, VFORK_STACK_BYTES};

/// Distinct denied system calls that init keeps count of.
pub const DENIED_MAX: usize = 32;

/// Bytes of a cell's arena: the buffers, and room for a plan's strings and its system call filter.
pub const ARENA_BYTES: usize =
    START_BYTES_MAX + VFORK_STACK_BYTES + 2 * (STRINGS_MAX + 1) * size_of::<usize>() + (128 << 10);

/// Descriptors that init keeps: the control socket, a landlock ruleset, and a file for each of four v1 hierarchies.
const KEPT_MAX: usize = 6;

/// A few descriptors.
#[derive(Default)]
pub struct Descriptors {
    numbers: [RawFd; KEPT_MAX],
    count: usize,
}

impl Descriptors {
    /// # Errors
    /// EMFILE when they are more than a cell ever has.
    pub fn push(&mut self, number: RawFd) -> Result<(), Errno> {
        *self.numbers.get_mut(self.count).ok_or(Errno::EMFILE)? = number;
        self.count += 1;
        Ok(())
    }

    pub fn sort(&mut self) {
        self.numbers.get_mut(..self.count).unwrap_or_default().sort_unstable();
    }

    pub fn as_slice(&self) -> &[RawFd] {
        self.numbers.get(..self.count).unwrap_or_default()
    }
}

/// Everything init and payload need to know, decided before the clone. What it refers to is in the arena.
pub struct ChildImage<'a> {
    /// Bit `n` is set when step `n` of the sequence is to be performed.
    pub enabled: u64,
    /// The socket to the supervisor.
    pub control: RawFd,
    /// Descriptors that init keeps, ascending; every other one is closed first thing.
    pub kept: Descriptors,
    /// The `tasks` files by which init joins its v1 cgroups.
    pub tasks: Descriptors,
    /// User and group ids inside the cell.
    pub init_id: u32,
    pub payload_id: u32,
    pub hostname: &'a CStr,
    /// Target and mount options of each overlay over the image's read-only parts.
    pub overlays: &'a [(&'a CStr, &'a CStr)],
    /// Target below the new root and mount options of each writable tmpfs.
    pub scratch: &'a [(&'a CStr, &'a CStr)],
    /// The ruleset, and the path and access of each of its rules.
    pub landlock: RawFd,
    pub landlock_rules: &'a [(&'a CStr, u64)],
    /// The instructions of the filter.
    pub seccomp: Option<&'a [libc::sock_filter]>,
    /// True when denied system calls are reported to init.
    pub seccomp_notify: bool,
    pub speculation_store_bypass: bool,
    pub speculation_indirect_branch: bool,
    /// True when init reports at its end how long each step took, for the trace.
    pub timed: bool,

    // Written by init and payload.
    /// The start message and how much of the buffer it fills.
    pub message: &'a mut [u8],
    pub message_bytes: usize,
    /// stdin, stdout, stderr and the bundle of files, as received with the start message.
    pub received: [RawFd; 4],
    pub arguments: PointerArray<'a>,
    pub environment: PointerArray<'a>,
    pub stack: Option<&'a mut [MaybeUninit<u8>]>,
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

impl<'a> ChildImage<'a> {
    /// An image with its buffers, in an arena of [`ARENA_BYTES`], and without any decision.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(arena: &'a Arena) -> Result<ChildImage<'a>, Errno> {
        Ok(ChildImage {
            enabled: 0,
            control: -1,
            kept: Descriptors::default(),
            tasks: Descriptors::default(),
            init_id: 0,
            payload_id: 0,
            hostname: c"",
            overlays: &[],
            scratch: &[],
            landlock: -1,
            landlock_rules: &[],
            seccomp: None,
            seccomp_notify: false,
            speculation_store_bypass: false,
            speculation_indirect_branch: false,
            timed: false,
            message: arena.zeroed(START_BYTES_MAX)?,
            message_bytes: 0,
            received: [-1; 4],
            arguments: PointerArray::with_capacity(arena, STRINGS_MAX)?,
            environment: PointerArray::with_capacity(arena, STRINGS_MAX)?,
            stack: Some(arena.room(VFORK_STACK_BYTES)?),
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
