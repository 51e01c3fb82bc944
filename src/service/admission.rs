//! Who runs now, who waits, who is sent away.
//!
//! So many runs at once, a bounded queue behind them, and between callers that wait a turn each, so that one with many
//! requests does not push out one with few. A place is a value: dropping it, at whatever end of a run, lets the next in.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::refusal::{Class, Refusal};

/// The bounds of admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Runs at once.
    pub concurrent_max: usize,
    /// Runs that wait, of all callers together.
    pub queue_max: usize,
    /// Longest wait.
    pub queue_time_max: Duration,
}

pub struct Admission {
    state: Mutex<State>,
}

struct State {
    bounds: Bounds,
    running: usize,
    running_by_caller: HashMap<String, usize>,
    waiting: usize,
    /// Callers with somebody waiting, in the order of their turns; each caller once.
    turns: VecDeque<String>,
    queues: HashMap<String, VecDeque<Waiting>>,
}

struct Waiting {
    place: oneshot::Sender<Place>,
    caller_max: usize,
}

/// The right to run; given back by dropping it.
pub struct Place {
    admission: Arc<Admission>,
    caller: String,
}

/// A place, or a wait for one.
pub enum Ticket {
    Now(Place),
    /// So many are before this one at most.
    Later {
        position: usize,
        place: oneshot::Receiver<Place>,
    },
}

impl Admission {
    pub fn new(bounds: Bounds) -> Arc<Admission> {
        let state = State {
            bounds,
            running: 0,
            running_by_caller: HashMap::new(),
            waiting: 0,
            turns: VecDeque::new(),
            queues: HashMap::new(),
        };
        Arc::new(Admission { state: Mutex::new(state) })
    }

    /// Takes new bounds over; runs that are beyond them go on.
    pub fn set_bounds(self: &Arc<Self>, bounds: Bounds) {
        let mut state = self.lock();
        state.bounds = bounds;
        self.let_in(&mut state);
    }

    pub fn bounds(&self) -> Bounds {
        self.lock().bounds
    }

    /// Runs going on, and runs waiting.
    pub fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.running, state.waiting)
    }

    /// A place for `caller`, who may have `caller_max` at once, or a place in the queue.
    ///
    /// # Errors
    /// The queue is full.
    pub fn enter(self: &Arc<Self>, caller: &str, caller_max: usize) -> Result<Ticket, Refusal> {
        let mut state = self.lock();
        let own = state.running_by_caller.get(caller).copied().unwrap_or(0);
        let nobody_of_theirs_waits = !state.queues.contains_key(caller);
        // Whoever waits although there is room has reached a maximum of their own.
        if state.running < state.bounds.concurrent_max && own < caller_max && nobody_of_theirs_waits {
            return Ok(Ticket::Now(state.place(self, caller)));
        }
        if state.waiting >= state.bounds.queue_max {
            let message = format!("{} runs are going on and {} wait already", state.running, state.waiting);
            let refusal = Refusal::new(Class::Unavailable, "queue_full", message);
            return Err(refusal.hint("try again later").retry_after(Duration::from_secs(1)));
        }
        let (sender, place) = oneshot::channel();
        state.waiting += 1;
        let position = state.waiting;
        if nobody_of_theirs_waits {
            state.turns.push_back(caller.to_owned());
        }
        state.queues.entry(caller.to_owned()).or_default().push_back(Waiting { place: sender, caller_max });
        Ok(Ticket::Later { position, place })
    }

    /// Gives free places to those who wait, a turn for each caller.
    fn let_in(self: &Arc<Self>, state: &mut State) {
        let mut passed_over = 0;
        while state.running < state.bounds.concurrent_max && passed_over < state.turns.len() {
            let Some(caller) = state.turns.pop_front() else { return };
            let own = state.running_by_caller.get(&caller).copied().unwrap_or(0);
            let Some(queue) = state.queues.get_mut(&caller) else { continue };
            // Those who went away meanwhile hold nobody up.
            let before = queue.len();
            while queue.front().is_some_and(|waiting| waiting.place.is_closed()) {
                queue.pop_front();
            }
            state.waiting -= before - queue.len();
            if queue.front().is_some_and(|waiting| own >= waiting.caller_max) {
                state.turns.push_back(caller);
                passed_over += 1;
                continue;
            }
            let next = queue.pop_front();
            if queue.is_empty() {
                state.queues.remove(&caller);
            } else {
                state.turns.push_back(caller.clone());
            }
            if let Some(waiting) = next {
                state.waiting -= 1;
                passed_over = 0;
                let place = state.place(self, &caller);
                if let Err(place) = waiting.place.send(place) {
                    // Gone since we looked. Its drop would ask for the lock that is held here.
                    place.forget(state);
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn place(&mut self, admission: &Arc<Admission>, caller: &str) -> Place {
        self.running += 1;
        *self.running_by_caller.entry(caller.to_owned()).or_default() += 1;
        Place { admission: Arc::clone(admission), caller: caller.to_owned() }
    }

    fn give_back(&mut self, caller: &str) {
        self.running -= 1;
        if let Some(own) = self.running_by_caller.get_mut(caller) {
            *own -= 1;
            if *own == 0 {
                self.running_by_caller.remove(caller);
            }
        }
    }
}

impl Place {
    fn forget(mut self, state: &mut State) {
        state.give_back(&self.caller);
        // An empty name marks a place that was given back.
        self.caller.clear();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.caller.is_empty() {
            return;
        }
        let admission = Arc::clone(&self.admission);
        let mut state = admission.lock();
        state.give_back(&self.caller);
        admission.let_in(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(concurrent_max: usize, queue_max: usize) -> Arc<Admission> {
        Admission::new(Bounds { concurrent_max, queue_max, queue_time_max: Duration::from_secs(1) })
    }

    fn later(ticket: Ticket) -> oneshot::Receiver<Place> {
        match ticket {
            Ticket::Later { place, .. } => place,
            Ticket::Now(_) => panic!("there was room"),
        }
    }

    #[test]
    fn callers_that_wait_take_turns() {
        let admission = admission(1, 10);
        let Ticket::Now(first) = admission.enter("a", 9).unwrap() else { panic!("no room") };
        let mut waiting: Vec<_> =
            ["a", "a", "a", "b"].map(|caller| (caller, later(admission.enter(caller, 9).unwrap()))).into();
        let mut order = String::new();
        let mut place = Some(first);
        while !waiting.is_empty() {
            drop(place.take());
            let index = waiting.iter_mut().position(|(_, ticket)| {
                place = ticket.try_recv().ok();
                place.is_some()
            });
            order += waiting.remove(index.unwrap()).0;
        }
        assert_eq!(order, "abaa");
        drop(place);
        assert_eq!(admission.load(), (0, 0));
    }

    #[test]
    fn one_callers_maximum_holds_up_nobody_else() {
        let admission = admission(2, 10);
        let first = admission.enter("a", 1).unwrap();
        let mut second = later(admission.enter("a", 1).unwrap());
        assert!(matches!(admission.enter("b", 1).unwrap(), Ticket::Now(_)), "b has a place");
        assert!(second.try_recv().is_err());
        drop(first);
        assert!(second.try_recv().is_ok());
    }

    #[test]
    fn a_full_queue_sends_away_at_once_and_who_gave_up_leaves_room() {
        let admission = admission(1, 2);
        let running = admission.enter("a", 9).unwrap();
        let (gave_up, mut patient) = (later(admission.enter("a", 9).unwrap()), later(admission.enter("a", 9).unwrap()));
        let refusal = admission.enter("b", 9).err().unwrap();
        assert_eq!((refusal.class, refusal.code), (Class::Unavailable, "queue_full"));
        assert!(refusal.retry_after.is_some());
        drop(gave_up);
        drop(running);
        assert!(patient.try_recv().is_ok());
        assert_eq!(admission.load().1, 0);
    }

    #[test]
    fn fewer_places_than_runs_let_nobody_in_until_enough_have_ended() {
        let admission = admission(2, 10);
        let (one, two) = (admission.enter("a", 9).unwrap(), admission.enter("a", 9).unwrap());
        let mut waiting = later(admission.enter("a", 9).unwrap());
        admission.set_bounds(Bounds { concurrent_max: 1, ..admission.bounds() });
        drop(one);
        assert!(waiting.try_recv().is_err());
        drop(two);
        assert!(waiting.try_recv().is_ok());
    }
}
