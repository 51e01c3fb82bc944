//! A run from its acceptance to its end: its turn, its cells, and what is counted of it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::admission::{Place, Ticket};
use super::execution::{About, EventKind, Execution};
use super::metrics::{LanguageLabel, RunLabels};
use super::refusal::{Class, Refusal};
use super::submission::check;
use super::{Feed, Service, Submission};
use crate::answer::{self, Answer};
use crate::plan::Plan;
use crate::runner::{self, Input, Recorder, Remote, RemoteError, Sink, Stdin, StepKind};
use crate::words::causes::chain;
use crate::words::limits::format_time;
use crate::words::request::Purpose;
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

/// Everything a run needs after it was accepted.
struct Run {
    plan: Plan,
    submission: Submission,
    stdin: Stdin,
    signals: mpsc::Receiver<i32>,
    queue_time_max: Duration,
}

impl Service {
    /// # Errors
    /// As [`Service::submit`].
    pub(super) fn accept(self: &Arc<Self>, mut submission: Submission) -> Result<Arc<Execution>, Refusal> {
        if self.is_draining() {
            let refusal = Refusal::new(Class::Unavailable, "draining", "the service is shutting down");
            return Err(refusal.retry_after(Duration::from_secs(5)));
        }
        let current = self.current();
        // Sockets stay open over a reload, and bodies take their time.
        submission.caller = self.renewed(&submission.caller)?;
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
            Ok(answer) => (answer, None),
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
                let whole = match &error {
                    RemoteError::Here(error) => chain(error),
                    error => error.to_string(),
                };
                tracing::error!(id, error = whole, "a run failed");
                Err(failed(&error))
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

/// The sandbox has failed. The caller is told at which step; why, with paths and numbers of this machine, is in the log.
fn failed(error: &RemoteError) -> Refusal {
    let message = match error {
        RemoteError::Here(error) => format!("the sandbox failed at {}", error.step),
        RemoteError::Failed { step, .. } => format!("the sandbox failed at {step}"),
        RemoteError::Refused { field, .. } => format!("the supervisor refused the run's {field}"),
        RemoteError::Lost => error.to_string(),
    };
    let refusal = Refusal::new(Class::Internal, "sandbox_error", message);
    refusal.hint("the operator's log says why, by the execution's id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_its_step_and_nothing_of_the_machine() {
        let message = "join_cgroup: failed to make /sys/fs/cgroup/sandboxd/1".to_owned();
        for (error, told) in [
            (
                RemoteError::Failed { step: "join_cgroup".to_owned(), message: message.clone() },
                "the sandbox failed at join_cgroup",
            ),
            (
                RemoteError::Refused { field: "rootfs".to_owned(), message, hint: None },
                "the supervisor refused the run's rootfs",
            ),
            (RemoteError::Lost, "the supervisor ended while the program ran; every cell ended with it"),
        ] {
            let refusal = failed(&error);
            assert_eq!((refusal.class, refusal.message.as_str()), (Class::Internal, told));
        }
    }
}
