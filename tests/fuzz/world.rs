//! A machine and a service on it, as far as there is no kernel in them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::net::RecvFlags;
use sandboxd::history::History;
use sandboxd::plan::{Plan, Surroundings, plan};
use sandboxd::sandbox::message;
use sandboxd::service;
use sandboxd::service::handover::{Handover, LanguageState};
use sandboxd::supervisor::files::bundle;
use sandboxd::supervisor::protocol::{
    FileWire, FromSupervisor, MESSAGE_BYTES_MAX, OutcomeWire, ToSupervisor, decode, encode,
};
use sandboxd::words::embedded::EMBEDDED_PROFILES;
use sandboxd::words::host::{CgroupKind, Host, NAMESPACES, Privilege};
use sandboxd::words::profile::{Profile, Profiles};
use sandboxd::words::request::{Request, RequestError, SourceFile};
use sandboxd::words::settings::{HistorySettings, PatternPolicy, PatternRule, ServiceSettings};

pub fn profiles() -> Profiles {
    let mut profiles = Profiles::default();
    for (file, text) in EMBEDDED_PROFILES {
        profiles.add(Profile::parse(file, text).expect("an embedded profile"), file).expect("one of its name");
    }
    profiles
}

pub fn host() -> Host {
    Host {
        kernel: "6.1.0".to_owned(),
        privilege: Privilege::Root,
        cgroup: CgroupKind::V2,
        overlay: true,
        landlock_abi: 6,
        seccomp: true,
        seccomp_notify: true,
        namespaces: NAMESPACES.to_vec(),
        speculation_store_bypass: true,
        speculation_indirect_branch: true,
        open_files_hard: 1 << 20,
        cores: 2,
    }
}

pub fn planned(request: &Request, profiles: &Profiles, host: &Host) -> Result<Plan, RequestError> {
    plan(request, &Surroundings { profiles, host, rootfs: "image", left_out: &[] })
}

/// What is wrong with a request says which part of it and what.
pub fn check_refusal(error: &RequestError) {
    assert!(!error.field.is_empty() && !error.message.is_empty(), "{error:?}");
}

/// The words with which a message begins: what kind of message it is, without what it quotes.
pub fn kind_of(message: &str) -> String {
    let words = message.chars().take_while(|letter| !"\"`'".contains(*letter));
    let words = words.filter(|letter| letter.is_ascii_alphabetic() || " _.:".contains(*letter));
    words.take(40).collect()
}

/// What happens to the next runs.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// `refused`, `failed`, `junk`, `gone`, `killed`, `files`; anything else is a program that ends well.
    pub does: String,
    pub prints: Vec<u8>,
}

impl Cell {
    /// The machine is not at fault.
    pub fn ends_well(&self) -> bool {
        !["refused", "failed", "junk", "gone"].contains(&self.does.as_str())
    }
}

/// A service with a supervisor that makes no cells, and says what it is told to.
pub struct Service {
    pub service: Arc<service::Service>,
    cell: Arc<Mutex<Cell>>,
    _state: tempfile::TempDir,
}

impl Service {
    /// In a runtime of one thread.
    pub fn start() -> Service {
        let state = tempfile::tempdir().expect("a directory");
        let language = |profile: &Profile| LanguageState {
            name: profile.name.clone(),
            rootfs: "image".to_owned(),
            version: Some("3.13.5".to_owned()),
            problem: (profile.name == "swift").then(|| "its image is not built".to_owned()),
        };
        let rule = PatternRule {
            name: "no-eval".to_owned(),
            pattern: "forbidden(?P<at>!)".to_owned(),
            message: "no".to_owned(),
        };
        let policy = PatternPolicy {
            name: "none".to_owned(),
            dialects: Vec::new(),
            keys: Vec::new(),
            rules: [("python".to_owned(), vec![rule])].into(),
        };
        let settings = ServiceSettings {
            state_dir: state.path().to_owned(),
            policies: vec![policy],
            body_bytes_max: 6 << 10,
            code_bytes_max: 4 << 10,
            queue_max: 4,
            body_time_max: Duration::from_secs(2),
            history: HistorySettings { count_max: 200, ..HistorySettings::default() },
            ..ServiceSettings::default()
        };
        let history = History::open(&settings.state_dir, &settings.history).expect("a history");
        let handover = Handover {
            settings,
            profiles: EMBEDDED_PROFILES.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect(),
            host: host(),
            languages: profiles().iter().map(language).collect(),
            problems: Vec::new(),
            concurrent_max: 4,
        };
        let current = service::Current::new(handover).expect("settings");
        let service = service::Service::new(current, 4, Some(history));
        let service = Service { service, cell: Arc::default(), _state: state };
        service.prepare(Cell::default());
        service
    }

    /// The next runs end as `cell` says. Where the supervisor is gone, another takes its place.
    pub fn prepare(&self, cell: Cell) {
        *self.cell.lock().expect("the cell") = cell;
        if self.service.fleet.count() == 0 {
            let (near, far) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .expect("a socket pair");
            self.service.fleet.join(near, 1).expect("a supervisor");
            let cell = Arc::clone(&self.cell);
            let supervisor = std::thread::Builder::new().name("fuzzed supervisor".to_owned());
            supervisor.spawn(move || supervise(&far, &cell)).expect("a thread");
        }
    }

    /// Waits until nothing runs any more; detached runs are ended.
    pub async fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let going_on = self.service.executions.going_on();
            if going_on.is_empty() {
                return;
            }
            going_on.iter().for_each(|execution| execution.cancel());
            // A run may wait for a supervisor, which the parent would have started by now.
            self.prepare(Cell::default());
            assert!(Instant::now() < deadline, "a run does not end");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
}

/// Answers every job; ends with the front.
fn supervise(socket: &OwnedFd, cell: &Mutex<Cell>) {
    let (profiles, host) = (profiles(), host());
    let mut buffer = vec![0; MESSAGE_BYTES_MAX + 1];
    while let Ok((length @ 1.., [_stdin, stdout, _stderr, content])) =
        message::receive(socket.as_fd(), &mut buffer, RecvFlags::empty())
    {
        let job = match decode::<ToSupervisor>(&buffer[..length]).expect("the front says what can be understood") {
            ToSupervisor::Start(job) => job,
            ToSupervisor::Stop { .. } | ToSupervisor::Signal { .. } => continue,
        };
        // What the service has accepted, the supervisor does not refuse.
        let plan =
            planned(&job.request(), &profiles, &host).unwrap_or_else(|error| panic!("refused: {error:?} of {job:?}"));
        assert!(!job.compile || plan.compile.is_some(), "{job:?}");
        let wanted: u64 = job.files.iter().map(|file| file.bytes).sum();
        let content = content.expect("a bundle");
        assert_eq!(rustix::fs::fstat(&content).expect("a memfd").st_size as u64, wanted, "{job:?}");
        let cell = cell.lock().expect("the cell").clone();
        if let Some(stdout) = stdout {
            // Less than a pipe takes without a reader.
            let _ = rustix::io::write(&stdout, &cell.prints[..cell.prints.len().min(32 << 10)]);
        }
        let number = job.job;
        let outcome = OutcomeWire { exit_code: Some(0), wall_time_ns: 1_000_000, ..OutcomeWire::default() };
        let ended = |outcome| FromSupervisor::Ended { job: number, outcome, files: Vec::new(), problems: Vec::new() };
        let answer = match cell.does.as_str() {
            "gone" => return,
            "junk" => {
                let _ = message::send(socket.as_fd(), &cell.prints, &[]);
                return;
            }
            "refused" => {
                FromSupervisor::Refused { job: number, field: "job".to_owned(), message: "no".to_owned(), hint: None }
            }
            "failed" => {
                FromSupervisor::Failed { job: number, step: "clone_init".to_owned(), message: "ENOMEM".to_owned() }
            }
            "killed" => ended(OutcomeWire { exit_code: None, exit_signal: Some(9), stop: Some(0), ..outcome }),
            "files" => {
                let table = vec![FileWire { name: "out".to_owned(), mode: 0o644, bytes: cell.prints.len() as u64 }];
                FromSupervisor::Ended { job: number, outcome, files: table, problems: vec!["no more".to_owned()] }
            }
            _ => ended(outcome),
        };
        let file = SourceFile { name: "out".to_owned(), content: cell.prints.clone() };
        let files = bundle(&[&file], None).expect("a bundle");
        let descriptors = if cell.does == "files" { vec![files.content.as_fd()] } else { Vec::new() };
        let _ = message::send(socket.as_fd(), &encode(&answer).expect("a short answer"), &descriptors);
    }
}
