//! The supervisor as a process of its own: serves one front over a socket until the front hangs up.
//!
//! Everything the front says is checked here against root-owned profiles: names, ceilings, the shape of files, the seals
//! of memfds. What it may do at worst is run programs in cells. When it goes, every cell goes with it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::SealFlags;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;

use super::protocol::{FromSupervisor, Job, MESSAGE_BYTES_MAX, OutcomeWire, ToSupervisor, decode, encode, wire_of};
use super::{Ahead, PAYLOAD_SIGNALS, Supervisor, Watch, files, start_of};
use crate::plan::{CellPlan, HOST_IMAGE, Surroundings, plan, select_profile};
use crate::sandbox::cell::{self, CellError};
use crate::sandbox::{message, sys};
use crate::words::host::Host;
use crate::words::profile::Profiles;
use crate::words::request::RequestError;
use crate::words::verdict::Stop;

/// Answers waiting for the front to read them. When it does not, the supervisor stops reading it.
const ANSWERS_MAX: usize = 64;

/// Signals that wait for one program to start.
const SIGNALS_MAX: usize = 8;

/// Where images come from; the machine knows.
pub trait Images {
    /// The image for a run that asks for `asked` in a profile whose own image is `own`, made available to `supervisor`.
    ///
    /// # Errors
    /// What is wrong with the image, for the caller.
    fn stage(
        &self,
        supervisor: &mut Supervisor,
        asked: Option<&str>,
        own: Option<&str>,
    ) -> Result<String, RequestError>;
}

/// What a supervisor serves with.
pub struct Service<I> {
    pub supervisor: Supervisor,
    pub profiles: Profiles,
    pub host: Host,
    pub images: I,
    /// Cells alive at once; one more is refused.
    pub cells_max: usize,
}

impl<I> Service<I> {
    /// Whether an image needs no second look: it was whole when it was staged, and is mounted since. Whether this
    /// machine's own programs may be used depends on who asks.
    fn is_settled(&self, rootfs: &str) -> bool {
        rootfs != HOST_IMAGE && self.supervisor.is_staged(rootfs)
    }
}

/// A message with the descriptors beside it.
type Answer = (FromSupervisor, Option<OwnedFd>);

/// What a running job is pulled by.
struct Strings {
    stop: oneshot::Sender<Stop>,
    signals: mpsc::Sender<i32>,
}

struct Shared<I> {
    service: RefCell<Service<I>>,
    socket: AsyncFd<OwnedFd>,
    running: RefCell<HashMap<u64, Strings>>,
    /// Cells whose end has been answered and which the kernel still takes apart.
    dying: Cell<usize>,
    /// Answers for which the socket had no room.
    answers: mpsc::Sender<Answer>,
    /// Told of each run that has started, which is when there is work to be done ahead.
    started: Notify,
}

impl<I> Shared<I> {
    /// Sends an answer at once if the socket has room, as it has unless the front is slow, and queues it otherwise. The
    /// answers of different jobs have no order.
    async fn answer(&self, answer: FromSupervisor, descriptor: Option<OwnedFd>) {
        let sent = encode(&answer).map(|bytes| {
            let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
            message::send(self.socket.as_fd(), &bytes, &descriptors)
        });
        if !matches!(sent, Some(Ok(()))) {
            let _gone = self.answers.send((answer, descriptor)).await;
        }
    }
}

/// Serves the front at the other end of `socket` until it hangs up; every cell is dead then.
///
/// # Errors
/// The socket itself failed.
pub async fn serve<I: Images + 'static>(socket: OwnedFd, service: Service<I>) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    let socket = sys::watch(socket, Interest::READABLE | Interest::WRITABLE)?;
    let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
    let shared = Rc::new(Shared {
        service: RefCell::new(service),
        socket,
        running: RefCell::default(),
        dying: Cell::new(0),
        answers,
        started: Notify::new(),
    });
    let tasks = LocalSet::new();
    tasks.spawn_local(work_ahead(Rc::clone(&shared)));
    let result = tasks
        .run_until(async {
            tokio::select! {
                result = read_front(&shared) => result,
                result = write_front(&shared, outgoing) => result,
            }
        })
        .await;
    // Dropping the tasks drops their cells, which kills and removes them; the supervisor goes last.
    drop(tasks);
    drop(shared);
    result
}

async fn read_front<I: Images + 'static>(shared: &Rc<Shared<I>>) -> io::Result<()> {
    let socket = &shared.socket;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX + 1];
    loop {
        let mut ready = socket.readable().await?;
        let (length, descriptors) = match message::receive(socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT) {
            Err(nix::errno::Errno::EAGAIN) => {
                ready.clear_ready();
                continue;
            }
            // More descriptors than any message has; the kernel or their drop has closed them.
            Err(nix::errno::Errno::EBADMSG) => {
                refuse(shared, 0, "descriptors", "too many descriptors").await;
                continue;
            }
            Err(errno) => return Err(errno.into()),
            Ok((0, _)) => return Ok(()),
            Ok(received) => received,
        };
        let message = buffer.get(..length).filter(|bytes| bytes.len() <= MESSAGE_BYTES_MAX).and_then(decode);
        match message {
            Some(ToSupervisor::Start(job)) => {
                if let Err((job, error)) = begin(shared, *job, descriptors) {
                    let RequestError { field, message, hint } = error;
                    let refused = FromSupervisor::Refused { job, field: field.to_owned(), message, hint };
                    shared.answer(refused, None).await;
                }
            }
            Some(ToSupervisor::Stop { job, reason }) => {
                if let Some(strings) = shared.running.borrow_mut().remove(&job) {
                    let _ended = strings.stop.send(reason.into());
                }
            }
            Some(ToSupervisor::Signal { job, signal }) if PAYLOAD_SIGNALS.contains(&signal) => {
                if let Some(strings) = shared.running.borrow().get(&job)
                    && strings.signals.try_send(signal).is_err()
                {
                    tracing::warn!(job, signal, "a signal was dropped: {SIGNALS_MAX} wait for the program's start");
                }
            }
            Some(ToSupervisor::Signal { signal, .. }) => {
                refuse(shared, 0, "signal", &format!("signal {signal} is none that a program may be sent")).await;
            }
            None => refuse(shared, 0, "message", "the message is none of this protocol").await,
        }
    }
}

/// Prepares cells while there is time for it: everything else that is ready has its turn after each piece of work.
async fn work_ahead<I>(shared: Rc<Shared<I>>) {
    loop {
        let ahead = shared.service.borrow_mut().supervisor.work_ahead();
        match ahead {
            Ahead::More => tokio::task::yield_now().await,
            Ahead::Nothing(None) => shared.started.notified().await,
            Ahead::Nothing(Some(until)) => {
                let _early = tokio::time::timeout_at(until.into(), shared.started.notified()).await;
            }
        }
    }
}

async fn refuse<I>(shared: &Rc<Shared<I>>, job: u64, field: &str, text: &str) {
    tracing::warn!(target: "security", job, field, text, "refused a message of the front");
    let refused = FromSupervisor::Refused { job, field: field.to_owned(), message: text.to_owned(), hint: None };
    shared.answer(refused, None).await;
}

async fn write_front<I>(shared: &Shared<I>, mut outgoing: mpsc::Receiver<Answer>) -> io::Result<()> {
    let socket = &shared.socket;
    while let Some((answer, descriptor)) = outgoing.recv().await {
        // Answers are bounded in their parts; one that is too long all the same is a bug worth a loud end.
        let bytes = encode(&answer).ok_or_else(|| io::Error::other("an answer is too long"))?;
        let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        loop {
            let mut ready = socket.writable().await?;
            match message::send(socket.as_fd(), &bytes, &descriptors) {
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
                Ok(()) => break,
            }
        }
    }
    Ok(())
}

/// Checks a job and starts its cell; its end is answered by a task of its own.
fn begin<I: Images + 'static>(
    shared: &Rc<Shared<I>>,
    job: Job,
    descriptors: [Option<OwnedFd>; 4],
) -> Result<(), (u64, RequestError)> {
    let number = job.job;
    let (stop, stopped) = oneshot::channel();
    let (signals, signaled) = mpsc::channel(SIGNALS_MAX);
    {
        let mut running = shared.running.borrow_mut();
        if number == 0 || running.contains_key(&number) {
            return Err((number, RequestError::new("job", "the job number is 0 or in use")));
        }
        let cells_max = shared.service.borrow().cells_max;
        if running.len() + shared.dying.get() >= cells_max {
            return Err((number, RequestError::new("job", format!("{cells_max} cells are running already"))));
        }
        running.insert(number, Strings { stop, signals });
    }
    let prepared = prepare(&mut shared.service.borrow_mut(), &job, descriptors);
    let shared = Rc::clone(shared);
    match prepared {
        Err(Problem::Request(error)) => {
            shared.running.borrow_mut().remove(&number);
            Err((number, error))
        }
        Err(Problem::Cell(error)) => {
            tokio::task::spawn_local(async move { answer_failure(&shared, number, &error).await });
            Ok(())
        }
        Ok((cell, plan)) => {
            tokio::task::spawn_local(async move {
                let mut watch = Watch::new(cell, &plan).with_signals(signaled).telling(&shared.started);
                let stop = async {
                    match stopped.await {
                        Ok(reason) => reason,
                        Err(_) => std::future::pending().await,
                    }
                };
                match watch.run(stop).await {
                    Err(error) => answer_failure(&shared, number, &error).await,
                    Ok(ended) => {
                        let carried = files::carry(&plan.files_out, &ended, || watch.take_workdir());
                        shared.running.borrow_mut().remove(&number);
                        shared.dying.update(|count| count + 1);
                        let files = carried.files.as_ref().map(|bundle| wire_of(&bundle.table)).unwrap_or_default();
                        let outcome = OutcomeWire::from(&ended);
                        let ended = FromSupervisor::Ended { job: number, outcome, files, problems: carried.problems };
                        shared.answer(ended, carried.files.map(|bundle| bundle.content)).await;
                        for problem in watch.destroy().await {
                            tracing::error!(job = number, problem, "left over");
                        }
                        shared.dying.update(|count| count - 1);
                    }
                }
            });
            Ok(())
        }
    }
}

async fn answer_failure<I>(shared: &Rc<Shared<I>>, job: u64, error: &CellError) {
    shared.running.borrow_mut().remove(&job);
    tracing::error!(job, %error, "a cell failed");
    let failed = FromSupervisor::Failed { job, step: error.step.to_owned(), message: error.to_string() };
    shared.answer(failed, None).await;
}

enum Problem {
    Request(RequestError),
    Cell(CellError),
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Problem {
        Problem::Request(error)
    }
}

impl From<CellError> for Problem {
    fn from(error: CellError) -> Problem {
        Problem::Cell(error)
    }
}

fn prepare<I: Images>(
    service: &mut Service<I>,
    job: &Job,
    descriptors: [Option<OwnedFd>; 4],
) -> Result<(cell::Cell, CellPlan), Problem> {
    let [Some(stdin), Some(stdout), Some(stderr), Some(content)] = descriptors else {
        return Err(RequestError::new("descriptors", "a job comes with four descriptors").into());
    };
    let mut bytes = 0u64;
    for file in &job.files {
        bytes = bytes.saturating_add(file.bytes);
        if file.mode & !0o777 != 0 {
            return Err(RequestError::new("files", format!("file {:?} has mode {:o}", file.name, file.mode)).into());
        }
    }
    check_bundle(&content, bytes)?;
    let request = job.request();
    let profile = select_profile(&request, &service.profiles)?;
    let own = profile.map(|profile| profile.rootfs.as_str());
    let rootfs = match request.rootfs.as_deref().or(own).filter(|name| service.is_settled(name)) {
        Some(name) => name.to_owned(),
        None => service.images.stage(&mut service.supervisor, request.rootfs.as_deref(), own)?,
    };
    let around = Surroundings { profiles: &service.profiles, host: &service.host, rootfs: &rootfs, left_out: &[] };
    let planned = plan(&request, &around)?;
    let plan = match (job.compile, planned.compile) {
        (false, _) => planned.run,
        (true, Some(compile)) => compile,
        (true, None) => return Err(RequestError::new("compile", "this language has no compile step").into()),
    };
    let mut cell = service.supervisor.prepare(&plan)?;
    let mut table = Vec::with_capacity(job.files.len());
    for file in &job.files {
        let name = std::ffi::CString::new(file.name.as_str());
        table.push((name.map_err(|_| RequestError::new("files", "a file name has a NUL"))?, file.mode, file.bytes));
    }
    cell.start(&start_of(&plan, &table), &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), content.as_fd()])?;
    Ok((cell, plan))
}

/// A bundle must be a memfd that nobody can change any more, of exactly the size its table says.
fn check_bundle(content: &OwnedFd, bytes: u64) -> Result<(), RequestError> {
    let refuse = |text: &str| Err(RequestError::new("files", text));
    let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    match rustix::fs::fcntl_get_seals(content) {
        Ok(seals) if seals.contains(sealed) => {}
        _ => return refuse("the files' contents are not in a sealed memfd"),
    }
    match rustix::fs::fstat(content) {
        Ok(stat) if stat.st_size as u64 == bytes => Ok(()),
        _ => refuse("the files' contents have another size than their table says"),
    }
}
