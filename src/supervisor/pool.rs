//! Cells prepared ahead: while programs run, or nothing does, the supervisor makes the cells that are likely to be
//! asked for next, so that a run pays for little more than its start.
//!
//! Cells lie on shelves, one for each shape that was asked for lately. A shape is everything of a plan that preparing
//! bakes into a cell; what a run has beside it - program, files, limits - is given to the cell when it is taken. A cell
//! leaves its shelf for one run and is destroyed with it, never put back; one whose init has died meanwhile is thrown
//! away and a living one, or a new one, takes its place.
//!
//! The work is done in pieces of well under a millisecond ([`Supervisor::work_ahead`]), between which the event loop
//! looks after the cells that run. A shelf that nobody asks of is cleared; the pool's cells go with the supervisor as
//! all cells do.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Supervisor;
use crate::plan::{CellPlan, Command, CommandOwner, FilesOut, Scratch};
use crate::sandbox::cell::Cell;
use crate::words::limits::Limits;

/// How much is prepared ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    /// Cells of each shape: one for the next run and one for the run that comes while another is made. 0 keeps none.
    pub cells_per_shape: usize,
    /// Cells of all shapes together; the shape that was asked for longest ago makes room. A cell holds a process and
    /// about 0.6 MB.
    pub cells: usize,
    /// How long a shape is kept that nobody asks for.
    pub idle_time: Duration,
}

impl Default for PoolSize {
    fn default() -> PoolSize {
        PoolSize { cells_per_shape: 2, cells: 32, idle_time: Duration::from_secs(30) }
    }
}

/// What is left to do ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// A piece of work has been done, and there may be more.
    More,
    /// Nothing before this time, or the next cell that is asked for.
    Nothing(Option<Instant>),
}

/// The cells that wait, the shape asked for last first.
pub(super) struct Pool {
    size: PoolSize,
    shelves: Vec<Shelf>,
    /// To be destroyed when there is time.
    surplus: Vec<Cell>,
    /// Set when a cell could not be made, until the next one is asked for: its run then tells why.
    stalled: bool,
}

struct Shelf {
    shape: CellPlan,
    /// With the sizes of the run that asked last, so that the next cell needs no change if the next run is like it.
    next: CellPlan,
    cells: VecDeque<Cell>,
    asked_at: Instant,
}

impl Pool {
    pub fn new(size: PoolSize) -> Pool {
        Pool { size, shelves: Vec::new(), surplus: Vec::new(), stalled: false }
    }

    /// A living cell of `plan`'s shape, if there is one; notes that it was asked for.
    pub fn take(&mut self, plan: &CellPlan) -> Option<Cell> {
        if self.size.cells_per_shape == 0 {
            return None;
        }
        self.stalled = false;
        let shape = shape_of(plan);
        let next = CellPlan { limits: plan.limits.clone(), scratch: plan.scratch.clone(), ..shape.clone() };
        let mut shelf = match self.shelves.iter().position(|shelf| shelf.shape == shape) {
            Some(index) => Shelf { next, asked_at: Instant::now(), ..self.shelves.remove(index) },
            None => Shelf { shape, next, cells: VecDeque::new(), asked_at: Instant::now() },
        };
        // The dead ones on the way are reaped as they are dropped.
        let taken = std::iter::from_fn(|| shelf.cells.pop_front()).find(Cell::is_alive);
        self.shelves.insert(0, shelf);
        let shelves_max = (self.size.cells / self.size.cells_per_shape).max(1).min(self.shelves.len());
        let displaced = self.shelves.drain(shelves_max..);
        self.surplus.extend(displaced.flat_map(|shelf| shelf.cells));
        taken
    }

    /// The shelf for which a cell should be made now.
    fn lacking(&mut self) -> Option<&mut Shelf> {
        let per_shape = self.size.cells_per_shape.min(self.size.cells);
        let lacks = |shelf: &&mut Shelf| shelf.cells.len() < per_shape;
        self.shelves.iter_mut().find(lacks).filter(|_| !self.stalled)
    }

    /// Clears the shelves that have been idle; the time at which the next one will have been.
    fn clear_idle(&mut self, now: Instant) -> Option<Instant> {
        let idle_time = self.size.idle_time;
        while let Some(shelf) = self.shelves.pop_if(|shelf| shelf.asked_at + idle_time <= now) {
            self.surplus.extend(shelf.cells);
        }
        self.shelves.last().map(|shelf| shelf.asked_at + idle_time)
    }

    /// Destroys every cell made from image `rootfs`.
    pub fn forget(&mut self, rootfs: &str) {
        self.shelves.retain(|shelf| shelf.shape.rootfs != rootfs);
    }

    /// Destroys every cell.
    pub fn clear(&mut self) {
        self.shelves.clear();
        self.surplus.clear();
    }
}

impl Supervisor {
    /// Keeps cells prepared ahead as `size` says, instead of as by default.
    pub fn keep(&mut self, size: PoolSize) {
        self.pool.clear();
        self.pool = Pool::new(size);
    }

    /// Does one piece of the work that can be done ahead; to be called again and again while there is more, whenever
    /// nothing else is to be done.
    pub fn work_ahead(&mut self) -> Ahead {
        if let Some(surplus) = self.pool.surplus.pop() {
            drop(surplus);
            return Ahead::More;
        }
        // The parts of a cell first: each is a piece of work of its own.
        if self.prepare_part_ahead() {
            return Ahead::More;
        }
        let Some(plan) = self.pool.lacking().map(|shelf| shelf.next.clone()) else {
            let next = self.pool.clear_idle(Instant::now());
            return if self.pool.surplus.is_empty() { Ahead::Nothing(next) } else { Ahead::More };
        };
        match (self.make(&plan), self.pool.lacking()) {
            (Ok(cell), Some(shelf)) => shelf.cells.push_back(cell),
            // The next run tries again, and fails of it if it must.
            (Err(error), _) => {
                tracing::debug!(%error, "no cell was prepared ahead");
                self.pool.stalled = true;
            }
            (Ok(_), None) => {}
        }
        Ahead::More
    }
}

/// The part of a plan that preparing a cell bakes into it, without sizes, and nothing of the run.
///
/// Every field is named, so that a new one cannot be forgotten: it belongs to the shape, or is given to a prepared cell
/// by [`Cell::adapt`] or [`Cell::start`], or matters to its watch alone.
fn shape_of(plan: &CellPlan) -> CellPlan {
    let CellPlan {
        rootfs,
        image,
        overlay,
        command: _,
        files: _,
        files_out,
        limits,
        rlimits: _,
        identity,
        hostname,
        namespaces,
        scratch,
        cgroup,
        landlock,
        seccomp,
        speculation_store_bypass,
        speculation_indirect_branch,
        privilege,
        left_out,
    } = plan;
    let without_size = |scratch: &Scratch| Scratch { target: scratch.target, bytes: 0, inodes: 0, mode: scratch.mode };
    CellPlan {
        rootfs: rootfs.clone(),
        image: *image,
        overlay: *overlay,
        command: Command {
            candidates: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            owner: CommandOwner::Author,
        },
        files: Vec::new(),
        // Whether there are any decides about a step; which they are does not.
        files_out: if *files_out == FilesOut::None { FilesOut::None } else { FilesOut::Results(Vec::new()) },
        limits: baked_limits(limits),
        rlimits: Vec::new(),
        identity: *identity,
        hostname,
        namespaces: namespaces.clone(),
        scratch: scratch.iter().map(without_size).collect(),
        cgroup: *cgroup,
        landlock: landlock.clone(),
        seccomp: seccomp.clone(),
        speculation_store_bypass: *speculation_store_bypass,
        speculation_indirect_branch: *speculation_indirect_branch,
        privilege: *privilege,
        left_out: left_out.clone(),
    }
}

/// The limits that a prepared cell cannot be given any more, others at their default: there is none.
fn baked_limits(limits: &Limits) -> Limits {
    let Limits {
        // The watch's.
        wall_time: _,
        cpu_time: _,
        output_bytes: _,
        stdout_bytes: _,
        stderr_bytes: _,
        // The cgroup's, set anew when the cell is taken.
        memory_bytes: _,
        processes: _,
        cpu_rate: _,
        // The scratch places', resized when the cell is taken.
        scratch_bytes: _,
        scratch_inodes: _,
        // The resource limits', set by the payload.
        file_bytes: _,
        open_files: _,
        stack_bytes: _,
    } = limits;
    Limits::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Surroundings, plan};
    use crate::sandbox::{cgroup, probe};
    use crate::words::limits::LimitsRequest;
    use crate::words::profile::Profiles;
    use crate::words::request::{Program, Request};

    fn run(limits: LimitsRequest, rootfs: &str, words: &[&str]) -> CellPlan {
        let program = Program::Command(words.iter().map(|word| word.as_bytes().to_vec()).collect());
        let (profiles, host) = (Profiles::default(), probe::host(cgroup::Kind::None).unwrap());
        let around = Surroundings { profiles: &profiles, host: &host, rootfs, left_out: &[] };
        plan(&Request { program, limits, ..Request::default() }, &around).unwrap().run
    }

    fn shape(limits: LimitsRequest, rootfs: &str, words: &[&str]) -> CellPlan {
        shape_of(&run(limits, rootfs, words))
    }

    #[test]
    fn runs_that_differ_in_program_and_limits_share_a_shape_and_those_in_another_image_do_not() {
        let plain = shape(LimitsRequest::default(), "base", &["true"]);
        let small = LimitsRequest {
            memory_bytes: Some(32 << 20),
            processes: Some(3),
            wall_time: Some(Duration::from_secs(1)),
            ..LimitsRequest::default()
        };
        assert_eq!(shape(small, "base", &["secret", "word"]), plain);
        assert_ne!(shape(LimitsRequest::default(), "host", &["true"]), plain);
    }

    #[test]
    fn a_shape_holds_nothing_of_a_run() {
        let shape = shape(LimitsRequest::default(), "base", &["secret", "word"]);
        assert!(!format!("{shape:?}").contains("secret"), "{shape:?}");
    }

    #[test]
    fn the_shape_asked_for_longest_ago_makes_room_and_an_idle_one_goes() {
        let size = PoolSize { cells_per_shape: 2, cells: 5, idle_time: Duration::from_secs(30) };
        let mut pool = Pool::new(size);
        for rootfs in ["a", "b", "a", "c"] {
            assert!(pool.take(&run(LimitsRequest::default(), rootfs, &["true"])).is_none());
        }
        let shelves = |pool: &Pool| pool.shelves.iter().map(|shelf| shelf.shape.rootfs.clone()).collect::<Vec<_>>();
        assert_eq!(shelves(&pool), ["c", "a"]);
        assert_eq!(pool.lacking().map(|shelf| shelf.shape.rootfs.clone()).as_deref(), Some("c"));
        pool.forget("c");
        let (asked_at, now) = (pool.shelves[0].asked_at, Instant::now());
        assert_eq!(pool.clear_idle(now), Some(asked_at + size.idle_time));
        assert_eq!(pool.clear_idle(now + size.idle_time), None);
        assert_eq!(shelves(&pool), Vec::<String>::new());
    }
}
