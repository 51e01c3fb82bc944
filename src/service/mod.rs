//! The service behind every HTTP face: who may run what, who runs now, and what is kept of it.
//!
//! ```text
//! Submission --check--> Plan --admission--> Place --fleet--> cell --> Answer --> history, metrics
//!                          \--refusal       events (a list that only grows) --> whoever follows
//! ```
//! It runs in the front, without privileges: cells are made by supervisors at the other end of a socket.

pub mod admission;
pub mod compiled;
pub mod execution;
pub mod fleet;
pub mod handover;
pub mod keys;
pub mod metrics;
pub mod policy;
pub mod rate;
pub mod refusal;
pub mod registry;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use tracing::field::Empty;

use self::admission::{Admission, Bounds, Place, Ticket};
use self::compiled::CompileCache;
use self::execution::{About, EventKind, Execution};
use self::fleet::Fleet;
use self::handover::{Handover, LanguageState};
use self::keys::Keys;
use self::metrics::{LanguageLabel, Metrics, RunLabels};
use self::policy::Policies;
use self::rate::{Limiters, RateState};
use self::refusal::{Class, Refusal};
use self::registry::Registry;
use crate::answer::{self, Answer};
use crate::history::{Finished, History, HistoryError, ListQuery, Page, Receipt, Record, Started};
use crate::plan::{Plan, Surroundings, plan, select_profile};
use crate::runner::{self, Input, Recorder, Remote, RemoteError, Sink, Stdin, StepKind};
use crate::words::causes::chain;
use crate::words::host::Host;
use crate::words::limits::{LimitsRequest, format_size, format_time};
use crate::words::profile::{Profile, Profiles};
use crate::words::request::{Program, Purpose, Request, RequestError, SourceFile};
use crate::words::settings::{Key, LimitCeilings, ServiceSettings};
use crate::words::verdict::Status;

/// Longest wait for a run to be written down before it is answered.
const HISTORY_TIME_MAX: Duration = Duration::from_millis(5);
/// When to ask again for what had no turn, or no supervisor.
const QUEUE_RETRY: Duration = Duration::from_secs(2);
const SUPERVISOR_RETRY: Duration = Duration::from_secs(1);
/// Signals on their way to one program.
const SIGNALS_MAX: usize = 8;
/// Pieces of input on their way to one program.
const STDIN_PIECES_MAX: usize = 16;

/// What the service knows by its configuration; replaced as a whole at a reload.
pub struct Current {
    pub settings: ServiceSettings,
    pub profiles: Profiles,
    pub host: Host,
    pub languages: BTreeMap<String, LanguageState>,
    pub problems: Vec<String>,
    pub policies: Policies,
    pub keys: Keys,
    limiters: Limiters,
}

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

/// A run as a face asks for it.
pub struct Submission {
    pub request: Request,
    /// The program's file and those beside it.
    pub files: Vec<SourceFile>,
    pub stdin: Feed,
    pub caller: Caller,
    pub dialect: &'static str,
    pub request_id: String,
    /// Function mode.
    pub extract: Option<Extract>,
}

/// A program of the service's own that is run in place of the author's and calls it.
pub struct Extract {
    /// It counts as no source of the author's: no policy, cap or digest is about it.
    pub runner: SourceFile,
    /// Takes what the runner left out of the answer.
    pub read: Box<dyn FnOnce(&mut Answer) -> Extracted + Send>,
}

/// What a program reads.
pub enum Feed {
    Bytes(Bytes),
    /// As it comes, through [`Execution::stdin`].
    Interactive,
}

/// Function mode: what the code returned and logged, as JSON.
#[derive(Debug, Clone, Default)]
pub struct Extracted {
    pub result_json: Option<String>,
    pub logs_json: Option<String>,
}

impl Extracted {
    pub fn bytes(&self) -> usize {
        [&self.result_json, &self.logs_json].into_iter().flatten().map(String::len).sum()
    }
}

impl Current {
    /// # Errors
    /// A profile that was whole for the parent is not for us: a bug, told by its file.
    pub fn new(handover: Handover) -> Result<Current, String> {
        let mut profiles = Profiles::default();
        for (file, text) in &handover.profiles {
            let profile = Profile::parse(file, text).map_err(|error| error.to_string())?;
            profiles.add(profile, file).map_err(|error| error.to_string())?;
        }
        let policies = Policies::new(&handover.settings.policies)?;
        Ok(Current {
            keys: Keys::new(&handover.settings.keys).map_err(|error| error.to_string())?,
            limiters: Limiters::new(&handover.settings.keys, handover.settings.rate),
            settings: handover.settings,
            profiles,
            host: handover.host,
            languages: handover.languages.into_iter().map(|language| (language.name.clone(), language)).collect(),
            problems: handover.problems,
            policies,
        })
    }

    /// The limits that `caller` may ask for at most in `profile`, and those a run gets that asks for none.
    pub fn limits_of(&self, profile: &Profile, caller: &Caller) -> (LimitCeilings, LimitsRequest) {
        let greatest = profile.greatest_limits();
        let mut ceilings = LimitCeilings {
            wall_time: Some(greatest.wall_time),
            cpu_time: Some(greatest.cpu_time),
            memory_bytes: Some(greatest.memory_bytes),
            processes: Some(greatest.processes),
            output_bytes: Some(greatest.output_bytes),
        };
        let of_key = caller.key.as_ref().map(|key| &key.greatest);
        for lower in [Some(&self.settings.greatest), of_key].into_iter().flatten() {
            macro_rules! lower {
                ($($field:ident),*) => {
                    $( ceilings.$field = match (ceilings.$field, lower.$field) {
                        (Some(one), Some(two)) => Some(one.min(two)),
                        (one, two) => one.or(two),
                    }; )*
                }
            }
            lower!(wall_time, cpu_time, memory_bytes, processes, output_bytes);
        }
        let default = profile.default_limits();
        let wall_time = self.settings.wall_time_default.unwrap_or(default.wall_time);
        let least = |own: u64, ceiling: Option<u64>| Some(ceiling.map_or(own, |ceiling| own.min(ceiling)));
        let least_time =
            |own: Duration, ceiling: Option<Duration>| Some(ceiling.map_or(own, |ceiling| own.min(ceiling)));
        let defaults = LimitsRequest {
            wall_time: least_time(wall_time, ceilings.wall_time),
            cpu_time: least_time(default.cpu_time, ceilings.cpu_time),
            memory_bytes: least(default.memory_bytes, ceilings.memory_bytes),
            processes: Some(ceilings.processes.map_or(default.processes, |ceiling| default.processes.min(ceiling))),
            output_bytes: least(default.output_bytes, ceilings.output_bytes),
            ..LimitsRequest::default()
        };
        (ceilings, defaults)
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

    /// What the history knows of execution `id`, if `caller` may see it.
    ///
    /// # Errors
    /// The history cannot be read.
    pub async fn history_record(&self, caller: &Caller, id: &str) -> Result<Option<Record>, Refusal> {
        let Some(history) = self.history.clone() else { return Ok(None) };
        let asked = id.to_owned();
        let record = blocking(move || history.get(&asked)).await?;
        let name = caller.key.as_ref().map(|key| key.name.as_str());
        let is_theirs = |record: &Record| match name {
            Some(name) => record.caller.as_deref() == Some(name),
            None => record.caller.is_none() && record.address.as_deref() == Some(caller.address.as_str()),
        };
        Ok(record.filter(|record| caller.is_admin() || is_theirs(record)))
    }

    /// Runs that `caller` may see, newest first.
    ///
    /// # Errors
    /// There is no history, or it cannot be read.
    pub async fn history_page(&self, caller: &Caller, wanted: Wanted) -> Result<Page, Refusal> {
        let Some(history) = self.history.clone() else {
            let refusal = Refusal::new(Class::NotFound, "no_history", "this service keeps no history");
            return Err(refusal.hint("an operator turns it on with history.enabled = true"));
        };
        let own = (!caller.is_admin()).then(|| caller.key.as_ref().map(|key| key.name.clone())).flatten();
        blocking(move || {
            history.list(&ListQuery {
                limit: wanted.limit,
                offset: wanted.offset,
                caller: own.as_deref(),
                language: wanted.language.as_deref(),
                status: wanted.status.as_deref(),
                before_id: wanted.before.as_deref(),
            })
        })
        .await
    }

    pub fn compiled(&self) -> Arc<CompileCache> {
        Arc::clone(&self.compiled.lock().unwrap_or_else(PoisonError::into_inner))
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

    fn accept(self: &Arc<Self>, mut submission: Submission) -> Result<Arc<Execution>, Refusal> {
        if self.is_draining() {
            let refusal = Refusal::new(Class::Unavailable, "draining", "the service is shutting down");
            return Err(refusal.retry_after(Duration::from_secs(5)));
        }
        let current = self.current();
        let plan = check(&current, &mut submission)?;
        let language = plan.language.clone();
        let caller = submission.caller.name();
        let caller_max =
            submission.caller.key.as_ref().and_then(|key| key.concurrent_max).map_or(usize::MAX, |max| max as usize);
        let ticket = self.admission.enter(&caller, caller_max)?;

        let (signals_sender, signals) = mpsc::channel(SIGNALS_MAX);
        let (stdin_sender, stdin) = match std::mem::replace(&mut submission.stdin, Feed::Interactive) {
            Feed::Bytes(bytes) if bytes.is_empty() => (None, Stdin::Empty),
            Feed::Bytes(bytes) => (None, Stdin::Bytes(bytes)),
            Feed::Interactive => {
                let (sender, receiver) = mpsc::channel(STDIN_PIECES_MAX);
                (Some(sender), Stdin::Channel(receiver))
            }
        };
        let version =
            language.as_ref().and_then(|name| current.languages.get(name)).and_then(|state| state.version.clone());
        let about = About {
            id: uuid::Uuid::now_v7().to_string(),
            created: SystemTime::now(),
            key: submission.caller.key.as_ref().map(|key| key.name.clone()),
            owner: caller,
            dialect: submission.dialect,
            request_id: submission.request_id.clone(),
            language,
            version,
        };
        let execution = Arc::new(Execution::new(about, stdin_sender, signals_sender));
        self.executions.add(&execution);
        // Nothing ran where a syntax was checked.
        if submission.request.purpose == Purpose::Run {
            self.note_start(&current, &execution, &submission);
        }
        let run = Run { plan, submission, stdin, signals, queue_time_max: current.settings.queue_time_max };
        let (id, language) = (&execution.about.id, execution.about.language.as_deref());
        let span = tracing::info_span!(target: "runs", "run", id, language, status = Empty);
        tokio::spawn(Arc::clone(self).run(Arc::clone(&execution), ticket, run).instrument(span));
        Ok(execution)
    }

    async fn run(self: Arc<Self>, execution: Arc<Execution>, ticket: Ticket, mut run: Run) {
        let began = Instant::now();
        let place = self.turn(&execution, ticket, run.queue_time_max).await;
        let queue_time = began.elapsed();
        self.metrics.queue_time.observe(queue_time.as_secs_f64());
        let id = execution.about.id.clone();
        let result = match &place {
            Ok(Some(_)) => self.run_in_cells(&execution, &mut run).await,
            Ok(None) => {
                let message = "canceled before it began".to_owned();
                Ok(answer::without_run(id.clone(), Status::Canceled, &run.plan, message))
            }
            Err(refusal) => Err(refusal.clone()),
        };
        let (mut answer, refusal) = match result {
            Ok(answer) => {
                let has_failed = answer.run.status == Status::SandboxError.word();
                let refusal = has_failed.then(|| failed(&answer.run.message));
                (answer, refusal)
            }
            Err(refusal) => {
                let message = refusal.message.clone();
                (answer::without_run(id, Status::SandboxError, &run.plan, message), Some(refusal))
            }
        };
        self.count(&execution, &answer, began.elapsed() - queue_time);
        tracing::Span::current().record("status", answer.run.status);
        if let Some(extract) = run.submission.extract.take() {
            execution.set_extracted((extract.read)(&mut answer));
        }
        // The next may begin before this one is written down.
        drop(place);
        execution.flush();
        // Nothing ran where a syntax was checked.
        let is_run = run.submission.request.purpose == Purpose::Run;
        if let Some(receipt) = is_run.then(|| self.note_end(&execution, &answer, queue_time)).flatten() {
            // Whoever has an answer finds it in the history, unless the disk is too slow for that.
            let _ = tokio::time::timeout(HISTORY_TIME_MAX, receipt).await;
        }
        execution.finish(answer, refusal);
        self.executions.ended(&execution);
    }

    /// Waits for the turn of `execution`; `None` when it is canceled before.
    ///
    /// # Errors
    /// It does not come in time.
    async fn turn(
        &self,
        execution: &Execution,
        ticket: Ticket,
        queue_time_max: Duration,
    ) -> Result<Option<Place>, Refusal> {
        let (position, place) = match ticket {
            Ticket::Now(place) => return Ok(Some(place)),
            Ticket::Later { position, place } => (position, place),
        };
        execution.record(EventKind::Queued { position });
        tokio::select! {
            biased;
            () = execution.canceled().cancelled() => Ok(None),
            place = tokio::time::timeout(queue_time_max, place) => match place {
                Ok(Ok(place)) => Ok(Some(place)),
                _ => {
                    let waited = format_time(queue_time_max);
                    let message = format!("no turn came within {waited}: the service has too much to do");
                    let refusal = Refusal::new(Class::Unavailable, "queue_timeout", message);
                    Err(refusal.retry_after(QUEUE_RETRY))
                }
            },
        }
    }

    /// # Errors
    /// There is no verdict, and the fault is ours.
    async fn run_in_cells(&self, execution: &Arc<Execution>, run: &mut Run) -> Result<Answer, Refusal> {
        let id = execution.about.id.clone();
        let Some(client) = self.fleet.pick().await else {
            let message = "no supervisor is there; the service starts one again";
            return Err(Refusal::new(Class::Unavailable, "no_supervisor", message).retry_after(SUPERVISOR_RETRY));
        };
        let cache = self.compiled();
        let key = cache.key(&run.plan, execution.about.version.as_deref(), &run.submission.files);
        let compiled = key.as_ref().and_then(|key| cache.get(key));
        let was_compiled = compiled.is_some();
        if was_compiled {
            self.metrics.compile_cache_hits.inc();
        }
        let stdin = std::mem::replace(&mut run.stdin, Stdin::Empty);
        let runner = run.submission.extract.as_ref().map(|extract| &extract.runner);
        let input = Input { files: runner.into_iter().chain(&run.submission.files).collect(), stdin, compiled };
        let mut cells = Remote { client: &client, request: &run.submission.request, signals: &mut run.signals };
        let mut sink = Sink::Record(Arc::clone(execution) as Arc<dyn Recorder>);
        let canceled = execution.canceled().clone();
        let result = runner::run(&mut cells, &run.plan, input, &mut sink, canceled.cancelled_owned()).await;
        match result {
            Ok(mut result) => {
                if let (Some(key), Some(compiled), false) = (key, result.compiled.take(), was_compiled) {
                    cache.put(key, kept(execution, compiled));
                }
                let mut answer = answer::answer(id, execution.about.version.clone(), &run.plan, result);
                answer.compile_cached = was_compiled;
                Ok(answer)
            }
            Err(error) => {
                let message = match &error {
                    RemoteError::Here(error) => chain(error),
                    error => error.to_string(),
                };
                tracing::error!(id, error = message, "a run failed");
                Err(failed(&message))
            }
        }
    }

    fn count(&self, execution: &Execution, answer: &Answer, took: Duration) {
        let language = answer.language.clone().unwrap_or_default();
        let labels =
            RunLabels { language: language.clone(), status: answer.run.status, dialect: execution.about.dialect };
        self.metrics.runs.get_or_create(&labels).inc();
        // A compile step that was taken over took none of this time.
        let compile = answer.compile.as_ref().filter(|_| !answer.compile_cached);
        let wall_ms = answer.run.usage.wall_time_ms + compile.map_or(0.0, |step| step.usage.wall_time_ms);
        if answer.run.status == Status::SandboxError.word() {
            return;
        }
        self.metrics.run_time.get_or_create(&LanguageLabel { language }).observe(answer.run.usage.wall_time_ms / 1e3);
        self.metrics.cell_time.observe((took.as_secs_f64() - wall_ms / 1e3).max(0.0));
        let denied: Vec<_> = answer.run.evidence.denied_syscalls.iter().map(|denied| denied.name.as_str()).collect();
        if !denied.is_empty() {
            let (id, caller) = (&execution.about.id, &execution.about.owner);
            tracing::warn!(target: "security", id, caller, syscalls = denied.join(" "), "denied system calls");
        }
    }

    fn note_start(&self, current: &Current, execution: &Execution, submission: &Submission) {
        let Some(history) = &self.history else { return };
        let mut digest = Sha256::new();
        submission.files.iter().for_each(|file| digest.update(&file.content));
        let about = &execution.about;
        let program = submission.files.last().filter(|_| current.settings.history.keep_source);
        history.started(Started {
            id: about.id.clone(),
            created_ms: unix_ms(about.created),
            caller: about.key.clone(),
            address: Some(submission.caller.address.clone()),
            request_id: about.request_id.clone(),
            dialect: about.dialect.to_owned(),
            language: about.language.clone().unwrap_or_default(),
            version: about.version.clone(),
            source_sha256: digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            source_bytes: submission.files.iter().map(|file| file.content.len() as u64).sum(),
            source: program.map(|file| String::from_utf8_lossy(&file.content).into_owned()),
            files: submission.files.len() as u32,
        });
    }

    fn note_end(&self, execution: &Execution, answer: &Answer, queue_time: Duration) -> Option<Receipt> {
        let history = self.history.as_ref()?;
        // What the run step wrote is kept beside the answer, as the bytes it is.
        let output = execution.output_of(StepKind::Run);
        let mut answer = execution.with_compile_output(answer.clone());
        let extracted = execution.extracted().unwrap_or_default();
        answer.files_out.iter_mut().for_each(|file| file.content.clear());
        Some(history.finished(Finished {
            id: execution.about.id.clone(),
            finished_ms: unix_ms(SystemTime::now()),
            status: answer.run.status.to_owned(),
            exit_code: answer.run.exit_code,
            signal: answer.run.signal.clone(),
            message: answer.run.message.clone(),
            wall_time_ms: answer.run.usage.wall_time_ms,
            cpu_time_ms: answer.run.usage.cpu_time_ms,
            memory_peak_bytes: answer.run.usage.memory_peak_bytes,
            queue_time_ms: queue_time.as_secs_f64() * 1e3,
            stdout_truncated_bytes: answer.run.output.stdout_truncated_bytes,
            stderr_truncated_bytes: answer.run.output.stderr_truncated_bytes,
            stdout: output.stdout,
            stderr: output.stderr,
            denied_syscalls: answer.run.evidence.denied_syscalls.iter().map(|denied| denied.name.clone()).collect(),
            answer_json: serde_json::to_string(&answer).ok(),
            result_json: extracted.result_json,
            logs_json: extracted.logs_json,
        }))
    }
}

/// Part of the history.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub limit: u32,
    pub offset: u64,
    /// Runs older than this one.
    pub before: Option<String>,
    pub language: Option<String>,
    pub status: Option<String>,
}

/// Reads the history aside, since SQLite waits for the disk.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, Refusal> {
    let failed = |error: &dyn std::error::Error| {
        tracing::error!(error = chain(error), "the history could not be read");
        Refusal::new(Class::Internal, "history", "the history could not be read")
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result.map_err(|error| failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}

/// Everything a run needs after it was accepted.
struct Run {
    plan: Plan,
    submission: Submission,
    stdin: Stdin,
    signals: mpsc::Receiver<i32>,
    queue_time_max: Duration,
}

/// A compiled program with what its compiler printed, which only the events of `execution` know.
fn kept(execution: &Execution, compiled: Arc<runner::Compiled>) -> Arc<runner::Compiled> {
    match Arc::try_unwrap(compiled) {
        Ok(mut compiled) => {
            compiled.result.output = execution.output_of(StepKind::Compile);
            Arc::new(compiled)
        }
        Err(shared) => shared,
    }
}

/// The sandbox has failed; the caller is told why.
fn failed(message: &str) -> Refusal {
    Refusal::new(Class::Internal, "sandbox_error", message)
}

fn bounds(settings: &ServiceSettings, concurrent_max: usize) -> Bounds {
    let queue_max = settings.queue_max as usize;
    Bounds { concurrent_max, queue_max, queue_time_max: settings.queue_time_max }
}

/// Checks everything about a submission that can be known now, and decides what will be done.
fn check(current: &Current, submission: &mut Submission) -> Result<Plan, Refusal> {
    let request = &mut submission.request;
    let bytes: u64 = submission.files.iter().map(|file| file.content.len() as u64).sum();
    let bytes_max = current.settings.code_bytes_max;
    if bytes > bytes_max {
        let message = format!("{bytes} bytes of source are more than the {} allowed", format_size(bytes_max));
        return Err(Refusal {
            field: Some("code".to_owned()),
            ..Refusal::new(Class::TooLarge, "code_too_large", message)
        });
    }
    let profile = select_profile(request, &current.profiles)?;
    let Some(profile) = profile else {
        return Err(
            Refusal::bad("language_required", "language", "language is missing").hint("name one of /api/languages")
        );
    };
    if let Some(key) = &submission.caller.key
        && !key.languages.is_empty()
        && !key.languages.iter().any(|language| profile.names().any(|name| name.eq_ignore_ascii_case(language)))
    {
        let message = format!("key {} may not run {}", key.name, profile.name);
        let refusal = Refusal::new(Class::Forbidden, "language_not_allowed", message);
        return Err(Refusal { field: Some("language".to_owned()), ..refusal });
    }
    let state = current.languages.get(&profile.name);
    let state = state.ok_or_else(|| Refusal::new(Class::Internal, "no_state", "the language has no state"))?;
    if let Some(problem) = &state.problem {
        let message = format!("{} cannot be run here: {problem}", profile.name);
        return Err(Refusal::new(Class::Unavailable, "language_unavailable", message));
    }
    name_program(request, &mut submission.files, &profile.source);
    // By its name alone from here on, whatever alias or extension led to it.
    request.language = Some(profile.name.clone());
    request.rootfs = None;
    request.limits = granted(current, profile, &submission.caller, &request.limits)?;
    let key = submission.caller.key.as_ref().map(|key| key.name.as_str());
    // Whoever has a syntax checked is told the findings beside it.
    if request.purpose == Purpose::Run {
        current.policies.check(submission.dialect, key, &profile.name, &submission.files)?;
    }
    let around =
        Surroundings { profiles: &current.profiles, host: &current.host, rootfs: &state.rootfs, left_out: &[] };
    if let Program::Command(_) = request.program {
        return Err(Refusal::bad("code_required", "code", "code or files are missing"));
    }
    Ok(plan(request, &around)?)
}

/// Code that came without a name gets the one its language's programs have.
fn name_program(request: &mut Request, files: &mut [SourceFile], name: &str) {
    if let Program::Source(entry) = &mut request.program
        && entry.name.is_empty()
    {
        entry.name = name.to_owned();
        files.iter_mut().filter(|file| file.name.is_empty()).for_each(|file| file.name = name.to_owned());
    }
}

/// The limits of a run: those asked for, within the ceilings, and defaults for the rest.
fn granted(
    current: &Current,
    profile: &Profile,
    caller: &Caller,
    asked: &LimitsRequest,
) -> Result<LimitsRequest, Refusal> {
    let (ceilings, defaults) = current.limits_of(profile, caller);
    let above = |name: &str, asked: String, ceiling: String| {
        let message = format!("limit {name} = {asked} is above the ceiling of {ceiling} for {}", profile.name);
        Err(Refusal::bad("limit_out_of_range", format!("limits.{name}"), message)
            .hint(format!("ask for {ceiling} or less")))
    };
    for (name, asked, ceiling) in
        [("wall_time_ms", asked.wall_time, ceilings.wall_time), ("cpu_time_ms", asked.cpu_time, ceilings.cpu_time)]
    {
        if let (Some(asked), Some(ceiling)) = (asked, ceiling)
            && asked > ceiling
        {
            return above(name, asked.as_millis().to_string(), ceiling.as_millis().to_string());
        }
    }
    for (name, asked, ceiling) in [
        ("memory_bytes", asked.memory_bytes, ceilings.memory_bytes),
        ("processes", asked.processes.map(u64::from), ceilings.processes.map(u64::from)),
        ("output_bytes", asked.output_bytes, ceilings.output_bytes),
        ("stdout_bytes", asked.stdout_bytes, ceilings.output_bytes),
        ("stderr_bytes", asked.stderr_bytes, ceilings.output_bytes),
    ] {
        if let (Some(asked), Some(ceiling)) = (asked, ceiling)
            && asked > ceiling
        {
            return above(name, asked.to_string(), ceiling.to_string());
        }
    }
    Ok(LimitsRequest {
        wall_time: asked.wall_time.or(defaults.wall_time),
        // A run that is given more wall time than CPU time by default may use it.
        cpu_time: asked.cpu_time.or_else(|| {
            let wanted = defaults.cpu_time.max(asked.wall_time);
            wanted.map(|wanted| ceilings.cpu_time.map_or(wanted, |ceiling| wanted.min(ceiling)))
        }),
        memory_bytes: asked.memory_bytes.or(defaults.memory_bytes),
        processes: asked.processes.or(defaults.processes),
        output_bytes: asked.output_bytes.or(defaults.output_bytes),
        stdout_bytes: asked.stdout_bytes,
        stderr_bytes: asked.stderr_bytes,
        cpu_rate: asked.cpu_rate,
        ..LimitsRequest::default()
    })
}

pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A request for a program in one file.
pub fn single_file(language: Option<String>, file: SourceFile) -> (Request, Vec<SourceFile>) {
    let request = Request { language, program: Program::Source(file.entry()), ..Request::default() };
    (request, vec![file])
}

/// A program of several files, of which `entry` is run.
///
/// # Errors
/// There is no such file.
pub fn several_files(
    language: Option<String>,
    entry: &str,
    files: Vec<SourceFile>,
) -> Result<(Request, Vec<SourceFile>), RequestError> {
    let index = files.iter().position(|file| file.name == entry);
    let index = index.ok_or_else(|| RequestError::new("entry", format!("no file is called {entry:?}")))?;
    // Another of the same name is among them, to be refused by the plan.
    let mut others: Vec<_> = files.iter().map(SourceFile::entry).collect();
    let program = others.remove(index);
    Ok((Request { language, program: Program::Source(program), files: others, ..Request::default() }, files))
}
