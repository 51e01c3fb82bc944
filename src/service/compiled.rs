//! Programs that were compiled before: the same sources need no second compile step.
//!
//! The key is everything the compile step depends on, by digest, so that nobody can put something else in its place. A
//! caller can tell from the time whether a program was compiled before; whoever minds turns this off
//! (`compile_cache_bytes = 0`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::plan::Plan;
use crate::runner::Compiled;
use crate::words::request::SourceFile;

pub type Key = [u8; 32];

pub struct CompileCache {
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bytes: u64,
    clock: u64,
    programs: HashMap<Key, (u64, Arc<Compiled>)>,
}

impl CompileCache {
    pub fn new(bytes_max: u64) -> CompileCache {
        CompileCache { bytes_max, state: Mutex::default() }
    }

    /// What identifies the compile step of `plan` on `files`; `None` when there is none, or nothing is kept.
    pub fn key(&self, plan: &Plan, version: Option<&str>, files: &[SourceFile]) -> Option<Key> {
        let step = plan.compile.as_ref().filter(|_| self.bytes_max > 0)?;
        let mut digest = Sha256::new();
        let mut add = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        add(plan.rootfs.as_bytes());
        add(version.unwrap_or_default().as_bytes());
        for list in [&step.command.arguments, &step.command.environment] {
            add(&(list.len() as u64).to_le_bytes());
            list.iter().for_each(|word| add(word.as_bytes()));
        }
        for file in files {
            add(file.name.as_bytes());
            add(&file.content);
        }
        Some(digest.finalize().into())
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Compiled>> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        let (used, compiled) = state.programs.get_mut(key)?;
        *used = now;
        Some(Arc::clone(compiled))
    }

    /// Keeps a program, and lets go of those unused longest where there is no room.
    pub fn put(&self, key: Key, compiled: Arc<Compiled>) {
        let bytes = weight(&compiled);
        if bytes > self.bytes_max {
            return;
        }
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        if let Some((_, old)) = state.programs.insert(key, (now, compiled)) {
            state.bytes -= weight(&old);
        }
        state.bytes += bytes;
        while state.bytes > self.bytes_max {
            let oldest = state.programs.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            let Some((_, gone)) = oldest.and_then(|key| state.programs.remove(&key)) else { break };
            state.bytes -= weight(&gone);
        }
    }

    /// Bytes kept, and programs.
    pub fn load(&self) -> (u64, usize) {
        let state = self.lock();
        (state.bytes, state.programs.len())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files, output, and a page for what holds them.
fn weight(compiled: &Compiled) -> u64 {
    let output = &compiled.result.output;
    compiled.files.bytes() + (output.stdout.len() + output.stderr.len()) as u64 + 4096
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::{Captured, StepResult};
    use crate::supervisor::files::bundle;
    use crate::words::limits::Limits;
    use crate::words::verdict::{Outcome, judge};

    fn program(bytes: usize) -> Arc<Compiled> {
        let file = SourceFile { name: "main".to_owned(), content: vec![0; bytes] };
        let result = StepResult { verdict: judge(Outcome::default(), &Limits::default()), output: Captured::default() };
        Arc::new(Compiled { result, files: bundle(&[&file], None).unwrap() })
    }

    #[test]
    fn the_program_unused_longest_goes_when_there_is_no_room() {
        let cache = CompileCache::new(3 * 5000);
        for key in 0..3 {
            cache.put([key; 32], program(900));
        }
        assert!(cache.get(&[0; 32]).is_some());
        cache.put([3; 32], program(900));
        assert!(cache.get(&[1; 32]).is_none() && cache.get(&[0; 32]).is_some() && cache.get(&[3; 32]).is_some());
        cache.put([4; 32], program(1 << 20));
        assert!(cache.get(&[4; 32]).is_none(), "larger than all room");
        assert!(cache.load().0 <= 15000);
    }
}
