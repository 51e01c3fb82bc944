//! Executions by id: those going on, and the latest that have ended.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::execution::Execution;

/// Ended executions kept in memory; older ones are in the history.
const KEPT_MAX: usize = 1024;
const KEPT_BYTES_MAX: usize = 16 << 20;

#[derive(Default)]
pub struct Registry {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    all: HashMap<String, Arc<Execution>>,
    /// Ended, oldest first, with what they weigh.
    ended: VecDeque<(String, usize)>,
    bytes: usize,
}

impl Registry {
    pub(super) fn add(&self, execution: &Arc<Execution>) {
        self.lock().all.insert(execution.about.id.clone(), Arc::clone(execution));
    }

    /// `execution` has ended; lets go of older ones where there is no room.
    pub(super) fn ended(&self, execution: &Execution) {
        let bytes = execution.bytes();
        let mut state = self.lock();
        state.ended.push_back((execution.about.id.clone(), bytes));
        state.bytes += bytes;
        while state.ended.len() > KEPT_MAX || state.bytes > KEPT_BYTES_MAX {
            let Some((id, bytes)) = state.ended.pop_front() else { break };
            state.bytes -= bytes;
            state.all.remove(&id);
        }
    }

    pub fn get(&self, id: &str) -> Option<Arc<Execution>> {
        self.lock().all.get(id).cloned()
    }

    /// Executions in no order.
    pub fn all(&self) -> Vec<Arc<Execution>> {
        self.lock().all.values().cloned().collect()
    }

    /// Executions that have not ended.
    pub fn going_on(&self) -> Vec<Arc<Execution>> {
        let state = self.lock();
        state.all.values().filter(|execution| !execution.is_finished()).cloned().collect()
    }

    /// How many are kept, and the bytes of those that have ended.
    pub fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.all.len(), state.bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
