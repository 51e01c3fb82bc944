//! Where a step's cell is made and watched.

use std::future::Future;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::streams::{Far, StepKind};
use crate::plan::CellPlan;
use crate::sandbox::cell::{CellError, StepFailure};
use crate::supervisor::client::{Client, Reply};
use crate::supervisor::files::{self, Bundle, Carried};
use crate::supervisor::protocol::{Job, StopWire};
use crate::supervisor::{Supervisor, Watch, start_of};
use crate::words::request::Request;
use crate::words::verdict::{Outcome, Stop};

/// One step to be run in a cell of its own.
pub struct Launch<'a> {
    pub kind: StepKind,
    pub plan: &'a CellPlan,
    pub files: &'a Bundle,
    /// The cell's ends of the streams; once the cell has them nobody else may hold them, so that its death is their end.
    pub far: Far,
}

/// The end of a step's cell.
pub struct StepEnd {
    /// Without what its output came to.
    pub outcome: Outcome,
    pub carried: Carried,
    /// What could not be cleaned up.
    pub cleanup: Vec<String>,
}

/// Makes cells and watches them to their ends.
pub trait Cells {
    type Error: From<CellError>;

    /// Runs one step; `stop` ends it early.
    ///
    /// # Errors
    /// The sandbox failed.
    fn step(
        &mut self,
        launch: Launch<'_>,
        stop: impl Future<Output = Stop> + Send,
    ) -> impl Future<Output = Result<StepEnd, Self::Error>>;
}

/// Cells made by this very process.
pub struct InProcess<'a>(pub &'a mut Supervisor);

impl Cells for InProcess<'_> {
    type Error = CellError;

    async fn step(
        &mut self,
        launch: Launch<'_>,
        stop: impl Future<Output = Stop> + Send,
    ) -> Result<StepEnd, CellError> {
        let Launch { plan, files, far, .. } = launch;
        let mut cell = self.0.prepare(plan)?;
        let start = start_of(plan, &files.table);
        let content = files.share().map_err(|error| CellError::new("bundle_files", StepFailure::from(error)))?;
        cell.start(&start, &[far.stdin.as_fd(), far.stdout.as_fd(), far.stderr.as_fd(), content.as_fd()])?;
        drop((far, content));
        let mut watch = Watch::new(cell, plan);
        let outcome = watch.run(stop).await?;
        let carried = files::carry(&plan.files_out, &outcome, || watch.take_workdir());
        Ok(StepEnd { outcome, carried, cleanup: watch.destroy().await })
    }
}

/// Cells made by a supervisor at the other end of a socket.
pub struct Remote<'a> {
    pub client: &'a Arc<Client>,
    pub request: &'a Request,
    /// Signals for the program, by number.
    pub signals: &'a mut mpsc::Receiver<i32>,
}

/// Why a supervisor gave no outcome.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(transparent)]
    Here(#[from] CellError),
    /// It knows less than we do: a profile or an image has changed meanwhile.
    #[error("the supervisor refused {field}: {message}")]
    Refused { field: String, message: String, hint: Option<String> },
    #[error("{message}")]
    Failed { step: String, message: String },
    #[error("the supervisor ended while the program ran; every cell ended with it")]
    Lost,
}

impl Cells for Remote<'_> {
    type Error = RemoteError;

    async fn step(
        &mut self,
        launch: Launch<'_>,
        stop: impl Future<Output = Stop> + Send,
    ) -> Result<StepEnd, RemoteError> {
        let Launch { kind, files, far, .. } = launch;
        let job = Job::of(self.request, kind == StepKind::Compile, &files.table);
        let content = files.share().map_err(|error| CellError::new("bundle_files", StepFailure::from(error)))?;
        let descriptors = [far.stdin.as_fd(), far.stdout.as_fd(), far.stderr.as_fd(), content.as_fd()];
        let started = self.client.start(job, descriptors).await;
        drop((far, content));
        let stop = async {
            match stop.await {
                Stop::Output => StopWire::Output,
                _ => StopWire::Canceled,
            }
        };
        let reply = match started {
            Ok(running) => running.wait(stop, self.signals).await,
            Err(reply) => reply,
        };
        match reply {
            Reply::Ended { outcome, carried } => Ok(StepEnd { outcome, carried, cleanup: Vec::new() }),
            Reply::Refused { field, message, hint } => Err(RemoteError::Refused { field, message, hint }),
            Reply::Failed { step, message } => Err(RemoteError::Failed { step, message }),
            Reply::Lost => Err(RemoteError::Lost),
        }
    }
}
