//! The memory of the process that makes cells: its heap, which they are cloned without, and the arenas that init and
//! payload work on instead. Made and given back by the supervisor alone, never between clone and exec.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags};

use super::{SysResult, check};

/// The heap of this process, which cells are cloned without: init gets nothing of what other runs have left there, and
/// the kernel copies no page of it, neither for init nor for us when we next write to it.
#[derive(Debug)]
pub struct Heap {
    /// Page-aligned. Below it are, in a static program, what the C library keeps of the main thread: errno and the like.
    first: usize,
}

impl Heap {
    const PAGE: usize = 4096;
    /// From errno to the end of what a thread has beside it: `struct pthread` is some 2.3 kB in glibc.
    const THREAD_BYTES: usize = 2 * Heap::PAGE;

    /// From now on large pieces come from it as well. `None` where the allocator has none of the kernel's making (brk(2)).
    ///
    /// # Errors
    /// /proc/self/maps cannot be read.
    pub fn find() -> SysResult<Option<Heap>> {
        let maps = std::fs::read_to_string("/proc/self/maps")
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        let mut heaps = maps.lines().filter(|line| line.ends_with("[heap]"));
        let range = heaps.next().and_then(|line| line.split_once(' ')?.0.split_once('-'));
        let address = |digits| usize::from_str_radix(digits, 16).ok();
        let Some((start, end)) = range.and_then(|(start, end)| Some((address(start)?, address(end)?))) else {
            return Ok(None);
        };
        // SAFETY: a setting of the allocator, which looks after itself. It knows this one.
        let _known = unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
        // SAFETY: the address alone is asked for.
        let thread = unsafe { libc::__errno_location() }.addr();
        let first =
            if (start..end).contains(&thread) { (thread + Heap::THREAD_BYTES) & !(Heap::PAGE - 1) } else { start };
        Ok(Some(Heap { first }))
    }

    /// Until what is returned is dropped, a child gets nothing of the heap.
    pub(super) fn leave_behind(&self) -> SysResult<impl Drop> {
        struct LeftBehind(usize, usize);
        impl Drop for LeftBehind {
            fn drop(&mut self) {
                // Where this fails the range stays behind in whatever else is forked, which here is nothing but init.
                let _stays = advise(self.0, self.1, libc::MADV_DOFORK);
            }
        }
        // SAFETY: an increment of 0 moves nothing; the end of the heap is returned.
        let end = unsafe { libc::sbrk(0) }.addr() & !(Heap::PAGE - 1);
        let bytes = end.saturating_sub(self.first);
        advise(self.first, bytes, libc::MADV_DONTFORK)?;
        Ok(LeftBehind(self.first, bytes))
    }
}

fn advise(first: usize, bytes: usize, advice: c_int) -> SysResult<()> {
    let first = std::ptr::with_exposed_provenance_mut::<c_void>(first);
    // SAFETY: both advices this is called with change what a child gets, and nothing here.
    check(unsafe { libc::madvise(first, bytes, advice) }.into()).map(drop)
}

/// Memory of its own, straight from the kernel and zeroed, given out piece by piece and given back as a whole: a page
/// costs something when it is first touched, and nothing before.
///
/// What a cell's processes work on is made here: it is no part of the heap ([`Heap`]), and giving it back touches none of
/// the pages that are shared with them.
pub struct Arena {
    start: NonNull<c_void>,
    bytes: NonZeroUsize,
    used: Cell<usize>,
}

impl Arena {
    /// # Errors
    /// mmap(2): ENOMEM; EINVAL for no bytes at all.
    pub fn new(bytes: usize) -> SysResult<Arena> {
        let bytes = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
        // SAFETY: without an address asked for, the kernel chooses one where nothing is mapped.
        let start = unsafe { nix::sys::mman::mmap_anonymous(None, bytes, protection, flags) }?;
        Ok(Arena { start, bytes, used: Cell::new(0) })
    }

    /// Room for `count` values.
    ///
    /// # Errors
    /// ENOMEM when there is no more of it.
    #[allow(clippy::mut_from_ref)] // No piece is given out twice.
    pub fn room<T>(&self, count: usize) -> SysResult<&mut [MaybeUninit<T>]> {
        let first = self.used.get().next_multiple_of(align_of::<T>());
        let end = count.checked_mul(size_of::<T>()).and_then(|bytes| first.checked_add(bytes));
        let end = end.filter(|end| *end <= self.bytes.get()).ok_or(Errno::ENOMEM)?;
        self.used.set(end);
        // SAFETY: first..end lies within the mapping, which is aligned to pages and lives as long as `self`, is aligned for
        // T, and belongs to no piece given out before: `used` only grows. MaybeUninit needs no value to be there.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().byte_add(first).cast(), count) })
    }

    /// `count` zeroed bytes.
    ///
    /// # Errors
    /// As [`Arena::room`].
    #[allow(clippy::mut_from_ref)] // As there.
    pub fn zeroed(&self, count: usize) -> SysResult<&mut [u8]> {
        let room = self.room::<u8>(count)?;
        // SAFETY: the kernel has zeroed the mapping, and nobody has written to this piece.
        Ok(unsafe { room.assume_init_mut() })
    }

    /// A copy of `values`.
    ///
    /// # Errors
    /// As [`Arena::room`].
    pub fn copy<T: Copy>(&self, values: &[T]) -> SysResult<&[T]> {
        Ok(self.room(values.len())?.write_copy_of_slice(values))
    }

    /// A copy of `text`, which ends at its first NUL if it has one.
    ///
    /// # Errors
    /// As [`Arena::room`].
    pub fn c_string(&self, text: &str) -> SysResult<&CStr> {
        let bytes = self.zeroed(text.len() + 1)?;
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::EINVAL)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: nobody can refer to the mapping any more. It fails for no mapping made by `new`.
        let _unmapped = unsafe { nix::sys::mman::munmap(self.start, self.bytes.get()) };
    }
}

/// Gives back to the kernel what the allocator holds and nobody uses.
pub fn trim_heap() {
    // SAFETY: any padding is allowed; the allocator takes its own locks. It tells whether there was anything to give.
    let _given = unsafe { libc::malloc_trim(0) };
}
