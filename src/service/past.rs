//! What is written down of runs, and read back.

use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::execution::Execution;
use super::refusal::{Class, Refusal};
use super::{Caller, Current, Service, Submission, unix_ms};
use crate::answer::Answer;
use crate::history::{Finished, HistoryError, ListQuery, Page, Receipt, Record, Started};
use crate::runner::StepKind;
use crate::words::causes::chain;

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

impl Service {
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

    pub(super) fn note_start(&self, current: &Current, execution: &Execution, submission: &Submission) {
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

    pub(super) fn note_end(&self, execution: &Execution, answer: &Answer, queue_time: Duration) -> Option<Receipt> {
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
