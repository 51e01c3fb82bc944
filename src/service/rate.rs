//! How often a caller may ask: by key, else by address.
//!
//! A rate of 30 in a minute lets 30 requests come at once, and then one every two seconds (the generic cell rate
//! algorithm): there is no window at whose edge twice as many fit.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{NotUntil, Quota, RateLimiter};

use crate::words::settings::{Key, Rate};

/// Addresses remembered at once: 4 MB at most.
const ADDRESSES_MAX: usize = 65_536;

/// The rates of all callers, and how far each has used its own.
pub struct Limiters<C: Clock = DefaultClock> {
    keys: HashMap<String, RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>>,
    addresses: Option<RateLimiter<IpAddr, Addresses, C, StateInformationMiddleware>>,
    clock: C,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Caller<'a> {
    Key(&'a Key),
    Address(IpAddr),
}

/// What is left to a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    /// Requests that may come at once.
    pub limit: u32,
    /// Of these, how many may come now.
    pub remaining: u32,
    /// Until all of them may.
    pub reset: Duration,
}

/// A request too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Until the next may come.
    pub after: Duration,
    pub state: RateState,
}

impl Limiters {
    pub fn new(keys: &[Key], addresses: Option<Rate>) -> Limiters {
        Limiters::with_clock(keys, addresses, DefaultClock::default(), ADDRESSES_MAX)
    }
}

impl<C: Clock + Clone> Limiters<C> {
    /// Remembers at most `addresses_max` addresses, at least 2.
    pub fn with_clock(keys: &[Key], addresses: Option<Rate>, clock: C, addresses_max: usize) -> Limiters<C> {
        let keys = keys.iter().filter_map(|key| {
            let quota = quota(key.rate?);
            Some((key.name.clone(), RateLimiter::new(quota, InMemoryState::default(), clock.clone())))
        });
        let addresses = addresses.map(|rate| {
            let seen = Addresses { seen: Mutex::default(), addresses_max: addresses_max.max(2) };
            RateLimiter::new(quota(rate), seen, clock.clone())
        });
        Limiters { keys: keys.collect(), addresses, clock }
    }

    /// Counts a request of `caller`; `None` when nothing bounds them.
    ///
    /// # Errors
    /// It is one too many, and is not counted.
    pub fn check(&self, caller: Caller) -> Result<Option<RateState>, Retry> {
        let answer = match caller {
            Caller::Key(key) => match self.keys.get(&key.name) {
                Some(limiter) => limiter.check(),
                None => return Ok(None),
            },
            Caller::Address(address) => match &self.addresses {
                Some(limiter) => limiter.check_key(&network(address)),
                None => return Ok(None),
            },
        };
        match answer {
            Ok(snapshot) => Ok(Some(state(snapshot.quota(), snapshot.remaining_burst_capacity()))),
            Err(until) => Err(self.retry(&until)),
        }
    }

    fn retry(&self, until: &NotUntil<C::Instant>) -> Retry {
        let after = until.wait_time_from(self.clock.now());
        let mut state = state(until.quota(), 0);
        // The next may come before a whole interval has passed; all of them that much sooner, too.
        state.reset = (state.reset + after).saturating_sub(until.quota().replenish_interval());
        Retry { after, state }
    }
}

impl RateState {
    /// Headers of every answer to a caller whose rate is bounded: names and values.
    pub fn headers(&self) -> [(&'static str, u64); 3] {
        [
            ("ratelimit-limit", u64::from(self.limit)),
            ("ratelimit-remaining", u64::from(self.remaining)),
            ("ratelimit-reset", seconds(self.reset)),
        ]
    }
}

impl Retry {
    /// The value of `Retry-After`, at least 1: to a client 0 means "at once".
    pub fn retry_after(&self) -> u64 {
        seconds(self.after).max(1)
    }
}

/// Whole seconds, rounded up, so that who waits as told is not refused again.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn state(quota: Quota, remaining: u32) -> RateState {
    let limit = quota.burst_size().get();
    RateState { limit, remaining, reset: quota.replenish_interval() * limit.saturating_sub(remaining) }
}

fn quota(rate: Rate) -> Quota {
    let requests = NonZeroU32::new(rate.requests).unwrap_or(NonZeroU32::MIN);
    // An interval of no time cannot be counted; the configuration's bounds keep it above 10 ns.
    let interval = (rate.per / requests.get()).max(Duration::from_nanos(1));
    Quota::with_period(interval).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(requests)
}

/// What one subscriber has: an IPv4 address, or the /64 in which an IPv6 host takes any address it likes.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// When each address will have all of its requests again, for a bounded number of addresses.
///
/// At the bound, the half that used least of its rate is forgotten: of all that could be, these gain the least by it.
struct Addresses {
    seen: Mutex<HashMap<IpAddr, Nanos>>,
    addresses_max: usize,
}

impl StateStore for Addresses {
    type Key = IpAddr;

    fn measure_and_replace<T, F, E>(&self, address: &IpAddr, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // Nothing is done under the lock that could leave the map half-changed.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, until) = measure(seen.get(address).copied())?;
        if seen.len() >= self.addresses_max && !seen.contains_key(address) {
            let mut times: Vec<Nanos> = seen.values().copied().collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            let mut above = middle;
            // Of those that are equal to the median some stay, so that at most half do.
            seen.retain(|_, until| {
                let stays = *until > median && above > 0;
                above -= usize::from(stays);
                stays
            });
        }
        seen.insert(*address, until);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use std::net::Ipv4Addr;

    const RATE: Rate = Rate { requests: 3, per: Duration::from_secs(30) };

    fn limiters(addresses_max: usize) -> (Limiters<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiters::with_clock(&[], Some(RATE), clock.clone(), addresses_max), clock)
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_in_an_interval() {
        let (limiters, clock) = limiters(100);
        let ask = || limiters.check(Caller::Address(address(1)));
        for remaining in [2, 1, 0] {
            let state = ask().unwrap().unwrap();
            let reset = Duration::from_secs(10) * (3 - remaining);
            assert_eq!(state, RateState { limit: 3, remaining, reset });
        }
        let retry = ask().unwrap_err();
        assert_eq!((retry.after, retry.state.reset), (Duration::from_secs(10), Duration::from_secs(30)));
        clock.advance(Duration::from_millis(9500));
        let retry = ask().unwrap_err();
        assert_eq!((retry.after, retry.retry_after()), (Duration::from_millis(500), 1));
        assert_eq!(
            retry.state.headers(),
            [("ratelimit-limit", 3), ("ratelimit-remaining", 0), ("ratelimit-reset", 21)]
        );
        clock.advance(retry.after);
        assert_eq!(ask().unwrap().unwrap().remaining, 0);
        assert!(ask().is_err());
        assert!(limiters.check(Caller::Address(address(2))).is_ok(), "another address has its own");
    }

    #[test]
    fn keys_have_their_own_rates_and_may_have_none() {
        let key = |name: &str, rate| Key {
            name: name.to_owned(),
            sha256: String::new(),
            rate,
            concurrent_max: None,
            languages: Vec::new(),
            greatest: Default::default(),
            admin: false,
        };
        let keys = [key("slow", Some(Rate { requests: 1, per: Duration::from_secs(60) })), key("free", None)];
        let limiters = Limiters::with_clock(&keys, None, FakeRelativeClock::default(), 100);
        assert!(limiters.check(Caller::Key(&keys[0])).unwrap().is_some());
        assert_eq!(limiters.check(Caller::Key(&keys[0])).unwrap_err().retry_after(), 60);
        for _ in 0..1000 {
            assert_eq!(limiters.check(Caller::Key(&keys[1])), Ok(None));
            assert_eq!(limiters.check(Caller::Address(address(1))), Ok(None));
        }
    }

    #[test]
    fn a_subscribers_ipv6_addresses_are_one_and_mapped_ipv4_is_ipv4() {
        let parsed = |text: &str| network(text.parse().unwrap());
        assert_eq!(parsed("2001:db8:1:2:3:4:5:6"), parsed("2001:db8:1:2:ffff::1"));
        assert_ne!(parsed("2001:db8:1:2::1"), parsed("2001:db8:1:3::1"));
        assert_eq!(parsed("::ffff:192.0.2.1"), parsed("192.0.2.1"));
        assert_ne!(parsed("192.0.2.1"), parsed("192.0.2.2"));
    }

    #[test]
    fn the_number_of_addresses_is_bounded_and_the_heaviest_are_remembered() {
        let (limiters, clock) = limiters(16);
        let heavy = Caller::Address(address(1));
        while limiters.check(heavy).is_ok() {}
        for number in 2..10_000 {
            assert!(limiters.check(Caller::Address(address(number))).is_ok(), "a newcomer is not punished for others");
        }
        assert!(limiters.check(heavy).is_err(), "thousands of others do not wash a heavy caller clean");
        clock.advance(Duration::from_secs(60));
        assert!(limiters.check(heavy).is_ok());
    }

    #[test]
    fn the_store_never_holds_more_than_its_bound() {
        let store = Addresses { seen: Mutex::default(), addresses_max: 8 };
        for number in 0..1000u64 {
            let until = Nanos::from(number % 5);
            let _ = store.measure_and_replace(&address(number as u32), |_| Ok::<_, ()>(((), until)));
            assert!(store.seen.lock().unwrap().len() <= 8);
        }
    }

    #[test]
    fn rates_at_the_bounds_can_be_counted() {
        for (requests, per) in [(1_000_000, Duration::from_millis(10)), (1, Duration::from_secs(86_400))] {
            let limiters = Limiters::new(&[], Some(Rate { requests, per }));
            let state = limiters.check(Caller::Address(address(1))).unwrap().unwrap();
            assert_eq!((state.limit, state.remaining), (requests, requests - 1));
        }
    }
}
