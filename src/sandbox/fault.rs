//! Fault points: places where a test can make one verb fail once.
//!
//! Code names the verb just before it performs it: `fault::check("cgroup.create", "memory")?`. A test arms a point by
//! its full name (`cgroup.create.memory`) or by any of its dotted prefixes (`cgroup`), optionally letting the first few
//! matches pass: arming `cgroup` with 0, 1, 2, … passes until nothing fires any more fails every verb once.
//!
//! `check` may run between clone and exec: no lock, no allocation, no panic, only loads of a static array (the child
//! has its own copy, so what fires there stays armed in the parent). Names are kept as hashes because a `&str` does
//! not fit an atomic. Without `debug_assertions` there is nothing here to arm, and `check` is an inlined `Ok`.

use rustix::io::Errno;

/// Fails with the armed errno if a test armed `verb.object` or one of its dotted prefixes.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn check(_verb: &str, _object: &str) -> Result<(), Errno> {
    Ok(())
}

#[cfg(debug_assertions)]
pub use armed::{arm, arm_after, check, disarm_all};

#[cfg(debug_assertions)]
mod armed {
    use super::Errno;
    use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};

    struct Slot {
        /// Hash of the armed name; 0 while the slot is free.
        point: AtomicU64,
        /// How many more matches pass before one fails.
        pass: AtomicU32,
        errno: AtomicI32,
    }

    static SLOTS: [Slot; 8] =
        [const { Slot { point: AtomicU64::new(0), pass: AtomicU32::new(0), errno: AtomicI32::new(0) } }; 8];

    /// The next match of `point` fails with `errno`, once.
    pub fn arm(point: &'static str, errno: Errno) {
        arm_after(point, 0, errno);
    }

    /// Like [`arm`], but lets `pass` matches through first.
    pub fn arm_after(point: &'static str, pass: u32, errno: Errno) {
        let slot = SLOTS
            .iter()
            .find(|slot| slot.point.load(SeqCst) == 0)
            .expect("no more than eight fault points can be armed at a time");
        slot.pass.store(pass, SeqCst);
        slot.errno.store(errno.raw_os_error(), SeqCst);
        slot.point.store(point.bytes().fold(SEED, step), SeqCst);
    }

    /// Disarms everything; returns how many points had not fired.
    pub fn disarm_all() -> usize {
        let unfired = |slot: &&Slot| slot.point.swap(0, SeqCst) != 0;
        SLOTS.iter().filter(unfired).count()
    }

    /// See the release version above.
    pub fn check(verb: &str, object: &str) -> Result<(), Errno> {
        if SLOTS.iter().all(|slot| slot.point.load(SeqCst) == 0) {
            return Ok(());
        }
        let mut hash = SEED;
        for byte in verb.bytes().chain([b'.']).chain(object.bytes()) {
            if byte == b'.' {
                fire(hash)?;
            }
            hash = step(hash, byte);
        }
        fire(hash)
    }

    fn fire(hash: u64) -> Result<(), Errno> {
        for slot in &SLOTS {
            if slot.point.load(SeqCst) != hash {
                continue;
            }
            let passed = slot.pass.fetch_update(SeqCst, SeqCst, |pass| pass.checked_sub(1));
            if passed.is_err() && slot.point.swap(0, SeqCst) == hash {
                return Err(Errno::from_raw_os_error(slot.errno.load(SeqCst)));
            }
        }
        Ok(())
    }

    /// FNV-1a: the whole hash is four lines, and must not allocate.
    const SEED: u64 = 0xcbf2_9ce4_8422_2325;
    fn step(hash: u64, byte: u8) -> u64 {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        // One test: the slots are shared by the whole process, and `fault_test` is a name nobody else checks.
        #[test]
        fn a_point_fires_once_by_name_or_by_prefix() {
            assert_eq!(check("fault_test.write", "a.b"), Ok(()));
            arm("fault_test.write.a.b", Errno::NOSPC);
            assert_eq!(check("fault_test.write", "other"), Ok(()));
            assert_eq!(check("fault_test.write", "a.b"), Err(Errno::NOSPC));
            assert_eq!(check("fault_test.write", "a.b"), Ok(()));

            arm_after("fault_test", 1, Errno::ACCESS);
            assert_eq!(check("fault_test.write", "first"), Ok(()));
            assert_eq!(check("fault_test.read", "second"), Err(Errno::ACCESS));
            assert_eq!(check("fault_test.read", "third"), Ok(()));
        }
    }
}
