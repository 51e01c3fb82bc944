//! The service behind every HTTP face: who may run what, who runs now, and what is kept of it.
//!
//! ```text
//! Submission --check--> Plan --admission--> Place --fleet--> cell --> Answer --> history, metrics
//!                          \--refusal       events (a list that only grows) --> whoever follows
//! ```
//! It runs in the front, without privileges: cells are made by supervisors at the other end of a socket.

pub mod admission;
pub mod compiled;
pub mod current;
pub mod execution;
pub mod fleet;
pub mod handover;
pub mod keys;
pub mod metrics;
pub mod past;
pub mod policy;
pub mod rate;
pub mod refusal;
pub mod registry;
mod run;
pub mod submission;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::admission::{Admission, Bounds};
use self::compiled::CompileCache;
pub use self::current::Current;
use self::execution::Execution;
use self::fleet::Fleet;
use self::metrics::Metrics;
pub use self::past::Wanted;
use self::rate::RateState;
use self::refusal::{Class, Refusal};
use self::registry::Registry;
pub use self::submission::{Extract, Extracted, Feed, Submission, several_files, single_file};
use crate::history::History;
use crate::words::settings::{Key, ServiceSettings};

pub struct Service {
    current: RwLock<Arc<Current>>,
    pub fleet: Arc<Fleet>,
    pub admission: Arc<Admission>,
    pub executions: Registry,
    pub history: Option<History>,
    pub metrics: Metrics,
    compiled: Mutex<Arc<CompileCache>>,
    pub started: Instant,
    draining: CancellationToken,
    /// Connections that have left HTTP behind; a drain waits for their goodbyes.
    pub sockets: TaskTracker,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    pub key: Option<Arc<Key>>,
    /// As text; `unix` for a local socket.
    pub address: String,
}

impl Caller {
    /// Whose turn it is and whose executions these are: the key's holder, else whoever has the address.
    pub fn name(&self) -> String {
        match &self.key {
            Some(key) => format!("key:{}", key.name),
            None => format!("address:{}", self.address),
        }
    }

    pub fn is_admin(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.admin)
    }
}

impl Service {
    pub fn new(current: Current, concurrent_max: usize, history: Option<History>) -> Arc<Service> {
        let bounds = bounds(&current.settings, concurrent_max);
        let compiled = Arc::new(CompileCache::new(current.settings.compile_cache_bytes));
        Arc::new(Service {
            current: RwLock::new(Arc::new(current)),
            fleet: Arc::default(),
            admission: Admission::new(bounds),
            executions: Registry::default(),
            history,
            metrics: Metrics::default(),
            compiled: Mutex::new(compiled),
            started: Instant::now(),
            draining: CancellationToken::new(),
            sockets: TaskTracker::new(),
        })
    }

    pub fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a new configuration over; runs that are going on keep the one they began with.
    pub fn reload(&self, current: Current, concurrent_max: usize) {
        self.admission.set_bounds(bounds(&current.settings, concurrent_max));
        // What was compiled may have been compiled by another version.
        let compiled = Arc::new(CompileCache::new(current.settings.compile_cache_bytes));
        *self.compiled.lock().unwrap_or_else(PoisonError::into_inner) = compiled;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }

    /// No run is accepted from now on.
    pub fn drain(&self) {
        self.draining.cancel();
        self.sockets.close();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Completes when the service begins to shut down.
    pub async fn drained(&self) {
        self.draining.cancelled().await;
    }

    /// Why the service is not ready, if it is not: a sentence each.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.is_draining() {
            reasons.push("the service is shutting down".to_owned());
        }
        if self.fleet.count() == 0 {
            reasons.push("no supervisor is there".to_owned());
        }
        let current = self.current();
        if !current.languages.values().any(|language| language.problem.is_none()) {
            reasons.push("no language can be run".to_owned());
        }
        reasons
    }

    /// The execution called `id`, if `caller` may see it.
    pub fn visible(&self, caller: &Caller, id: &str) -> Option<Arc<Execution>> {
        let execution = self.executions.get(id)?;
        (caller.is_admin() || execution.about.owner == caller.name()).then_some(execution)
    }

    pub fn compiled(&self) -> Arc<CompileCache> {
        Arc::clone(&self.compiled.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `caller` by the configuration in force, for whoever was let in by an earlier one and asks for more.
    ///
    /// # Errors
    /// The key is none any more, or there are keys now.
    pub fn renewed(&self, caller: &Caller) -> Result<Caller, Refusal> {
        let current = self.current();
        let key = match &caller.key {
            None if current.keys.is_empty() => None,
            None => return Err(Refusal::new(Class::Unauthorized, "key_missing", "a key is required")),
            Some(key) => {
                let message = format!("the key of {} is not known any more", key.name);
                let revoked = || Refusal::new(Class::Unauthorized, "key_revoked", message);
                Some(Arc::new(current.keys.renewed(key).ok_or_else(revoked)?.clone()))
            }
        };
        Ok(Caller { key, address: caller.address.clone() })
    }

    /// Counts a request of `caller`.
    ///
    /// # Errors
    /// It is one too many; whoever made it may come again later.
    pub fn check_rate(&self, caller: &Caller) -> Result<Option<RateState>, Refusal> {
        let subject = match &caller.key {
            Some(key) => rate::Caller::Key(key),
            None => rate::Caller::Address(caller.address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        };
        self.current().limiters.check(subject).map_err(|retry| {
            let name = caller.name();
            tracing::warn!(target: "security", caller = name, limit = retry.state.limit, "rate limited");
            self.metrics.refused.get_or_create(&metrics::CodeLabel { code: "rate_limited" }).inc();
            let message = format!("{name} has used up its {} requests", retry.state.limit);
            let refusal = Refusal::new(Class::TooManyRequests, "rate_limited", message);
            Refusal { rate: Some(Box::new(retry.state)), ..refusal }.retry_after(retry.after)
        })
    }

    /// Brings the gauges up to date.
    pub fn measure(&self) {
        let (running, queued) = self.admission.load();
        let (kept, kept_bytes) = self.executions.load();
        let metrics = &self.metrics;
        metrics.running.set(running as i64);
        metrics.queued.set(queued as i64);
        metrics.supervisors.set(self.fleet.count() as i64);
        metrics.kept_executions.set(kept as i64);
        metrics.kept_bytes.set(kept_bytes as i64);
        metrics.history_dropped.set(self.history.as_ref().map_or(0, |history| history.dropped() as i64));
    }

    /// Accepts a run, or says why not. It begins at once, or when its turn comes, and goes on whether anybody follows.
    ///
    /// # Errors
    /// The request is at fault, the caller may not, or there is no room.
    pub fn submit(self: &Arc<Self>, submission: Submission) -> Result<Arc<Execution>, Refusal> {
        let result = self.accept(submission);
        if let Err(refusal) = &result {
            self.metrics.refused.get_or_create(&metrics::CodeLabel { code: refusal.code }).inc();
        }
        result
    }
}

fn bounds(settings: &ServiceSettings, concurrent_max: usize) -> Bounds {
    let queue_max = settings.queue_max as usize;
    Bounds { concurrent_max, queue_max, queue_time_max: settings.queue_time_max }
}

pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
