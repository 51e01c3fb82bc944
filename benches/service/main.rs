//! The service under load, over loopback: `cargo bench --bench service`. It needs root and built images.
//!
//! Each latency stands beside the bare fork and exec of the same program, measured in turn with it; each throughput
//! beside what as many threads could do with bare forks in the same minute.

// Shared with the other benchmark, which uses more of it.
#[allow(dead_code)]
#[path = "../cell/measure.rs"]
mod measure;
// The other peer: a program of an image, in a chroot.
#[allow(dead_code)]
#[path = "../languages/bare.rs"]
mod image;

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use measure::{Contestant, Row, in_turn};
use sandboxd::config::{Config, Flags};
use sandboxd::machine::Machine;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const C_HELLO: &str = "#include <stdio.h>\nint main(void) { puts(\"Hello\"); return 0; }\n";
const PYTHON_HELLO: &str = "print('hello')\n";

/// Runs in the section of many runs; the goal speaks of 100,000, which take a quarter of an hour here.
const SOAK_RUNS_DEFAULT: usize = 10_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, job] = words.as_slice()
        && word == image::WORD
    {
        return match image::serve(job) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match all() {
        Ok(rows) => {
            println!("\n| measure | sandboxd | peer | ratio | goal | |\n|---|---|---|---|---|---|");
            rows.iter().for_each(|row| println!("{}", row.show()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn all() -> Outcome<Vec<Row>> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |section: &str| wanted.is_empty() || wanted.iter().any(|word| word == section);
    let service = Service::start()?;
    let program = BareProgram::compile()?;
    let mut rows = Vec::new();
    if wants("latency") {
        rows.extend(latency(&service, &program)?);
    }
    if wants("throughput") {
        rows.push(throughput(&service, &program)?);
    }
    if wants("flood") {
        rows.push(flood(&service)?);
    }
    if wants("output") {
        rows.push(output(&service)?);
    }
    if wants("soak") {
        rows.push(soak(&service)?);
    }
    Ok(rows)
}

/// `sandboxd serve` on a port of its own.
struct Service {
    process: Child,
    address: String,
    state: tempfile::TempDir,
}

impl Service {
    fn start() -> Outcome<Service> {
        let sandboxd = std::env::var("SANDBOXD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sandboxd").to_owned());
        let state = tempfile::tempdir()?;
        std::fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let process = Command::new(sandboxd)
            .args(["--log", "error", "serve", "--listen", &address, "--state-dir"])
            .arg(state.path().join("state"))
            .stdout(Stdio::null())
            .spawn()?;
        let service = Service { process, address, state };
        let began = Instant::now();
        while service.connect().is_err() {
            if began.elapsed() > Duration::from_secs(20) {
                return Err("the service did not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(service)
    }

    fn connect(&self) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Connection { reader: BufReader::new(stream.try_clone()?), stream })
    }

    /// Resident memory of the front in bytes.
    fn front_memory(&self) -> Outcome<u64> {
        let id = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        for child in children.split_whitespace() {
            let line = std::fs::read(format!("/proc/{child}/cmdline"))?;
            if line.split(|byte| *byte == 0).any(|word| word == b"front") {
                let status = std::fs::read_to_string(format!("/proc/{child}/status"))?;
                let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
                return Ok(resident.unwrap_or("0").parse::<u64>()? * 1024);
            }
        }
        Err("there is no front".into())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let id = nix::unistd::Pid::from_raw(self.process.id() as i32);
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
        // Named so that it lives as long as the service does.
        let _ = &self.state;
    }
}

/// A kept-alive connection; the least of a client, so that it is not what is measured.
struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Posts a run; returns status and body.
    fn execute(&mut self, body: &serde_json::Value) -> Outcome<(u16, Vec<u8>)> {
        let body = body.to_string();
        let head = format!(
            "POST /api/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all((head + &body).as_bytes())?;
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no status line")?;
        let mut length = 0;
        loop {
            line.clear();
            self.reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        Ok((status, body))
    }

    fn run(&mut self, body: &serde_json::Value) {
        let (status, answer) = self.execute(body).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    }
}

/// The C hello, built by this machine's compiler.
struct BareProgram {
    directory: tempfile::TempDir,
}

impl BareProgram {
    fn compile() -> Outcome<BareProgram> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("hello.c"), C_HELLO)?;
        let (source, out) = (directory.path().join("hello.c"), directory.path().join("hello"));
        let status = Command::new("cc").args(["-O2", "-o"]).arg(out).arg(source).status()?;
        if !status.success() {
            return Err("cc failed".into());
        }
        Ok(BareProgram { directory })
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("hello")
    }
}

/// A fork, an exec, the output read, a wait.
fn bare(program: &std::path::Path) {
    let output = Command::new(program).stdin(Stdio::null()).output();
    assert_eq!(output.unwrap_or_else(|error| panic!("{error}")).stdout, b"Hello\n");
}

fn latency(service: &Service, program: &BareProgram) -> Outcome<Vec<Row>> {
    let mut connection = service.connect()?;
    let hello = serde_json::json!({"language": "c", "code": C_HELLO});
    let times = in_turn(
        300,
        &mut [Contestant::new("POST", || connection.run(&hello)), Contestant::new("bare", || bare(&program.path()))],
    );
    let c =
        Row::of_times("POST a C hello that is built, one connection", &times[0], ("fork+exec", &times[1]), Some(3.0));

    let bare_python = RefCell::new(bare_python()?);
    let well = |result: Outcome<()>| result.unwrap_or_else(|error| panic!("python3: {error}"));
    let hello = serde_json::json!({"language": "python", "code": PYTHON_HELLO});
    let times = in_turn(
        150,
        &mut [
            Contestant::new("POST", || connection.run(&hello)),
            Contestant {
                before: Box::new(|| well(bare_python.borrow_mut().prepare())),
                ..Contestant::new("bare", || well(bare_python.borrow_mut().run()))
            },
        ],
    );
    let peer = ("the image's python3 hello.py, in a chroot", &times[1]);
    let mut python = Row::of_times("POST a Python hello, one connection", &times[0], peer, None);
    let over_ms = (times[0].median().as_secs_f64() - times[1].median().as_secs_f64()) * 1e3;
    python.goal = Some((format!("bare + 3 ms (is {over_ms:+.1} ms)"), over_ms <= 3.0));
    Ok(vec![c, python])
}

/// `python3 hello.py` with the image's own Python: this machine's may be another, or start by way of a script.
fn bare_python() -> Outcome<image::Bare> {
    let machine = Machine::look(&Config::load(&Flags::default())?)?;
    image::Bare::start(&image::Job {
        layers: image::layers(&machine, "python")?,
        file: ("hello.py".to_owned(), PYTHON_HELLO.to_owned()),
        steps: vec![image::Words {
            candidates: vec!["/usr/bin/python3".to_owned()],
            arguments: vec!["python3".to_owned(), "hello.py".to_owned()],
            environment: image::ENVIRONMENT.map(str::to_owned).to_vec(),
        }],
    })
}

/// How often `act` can be done in a second by `threads` at once, each made by `make`.
fn rate<T: FnMut()>(threads: usize, time: Duration, make: impl Fn() -> T + Sync) -> f64 {
    let done = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut act = make();
                while began.elapsed() < time {
                    act();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

fn throughput(service: &Service, program: &BareProgram) -> Outcome<Row> {
    const THREADS: usize = 8;
    const SLICE: Duration = Duration::from_secs(2);
    let hello = serde_json::json!({"language": "c", "code": C_HELLO});
    let path = program.path();
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        ours.push(rate(THREADS, SLICE, || {
            let mut connection = service.connect().unwrap_or_else(|error| panic!("{error}"));
            let hello = &hello;
            move || connection.run(hello)
        }));
        peer.push(rate(THREADS, SLICE, || || bare(&path)));
    }
    let peer = ("fork+exec by 8 threads", peer);
    Ok(Row::of_rates("POST a C hello that is built, 8 connections", ours, peer, Some(0.6)))
}

fn flood(service: &Service) -> Outcome<Row> {
    const REQUESTS: usize = 1000;
    let before = service.front_memory()?;
    let hello = serde_json::json!({"language": "bash", "code": "echo Hello"});
    let (answered, refused, lost) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..REQUESTS {
            let work = || match service.connect().map_err(Into::into).and_then(|mut to| to.execute(&hello)) {
                Ok((200, _)) => answered.fetch_add(1, Ordering::Relaxed),
                Ok((429 | 503, _)) => refused.fetch_add(1, Ordering::Relaxed),
                _ => lost.fetch_add(1, Ordering::Relaxed),
            };
            let spawned = std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, work);
            spawned.unwrap_or_else(|error| panic!("{error}"));
        }
    });
    let (answered, refused, lost) = (answered.into_inner(), refused.into_inner(), lost.into_inner());
    let grown = service.front_memory()?.saturating_sub(before) as f64 / 1e6;
    let ours = format!("{answered} ran, {refused} refused, {lost} lost; front +{grown:.1} MB");
    Ok(Row::of_fact("1,000 requests at once", ours, "nothing lost", lost == 0 && answered + refused == REQUESTS))
}

fn output(service: &Service) -> Outcome<Row> {
    let mut connection = service.connect()?;
    let yes = serde_json::json!({"language": "bash", "code": "head -c 64M <(yes)"});
    connection.run(&serde_json::json!({"language": "bash", "code": "echo Hello"}));
    let before = service.front_memory()?;
    let (status, _) = connection.execute(&yes)?;
    let grown = service.front_memory()?.saturating_sub(before) as f64 / 1e6;
    let ours = format!("status {status}; front +{grown:.1} MB");
    Ok(Row::of_fact("64 MB of `yes` at a cap of 1 MiB", ours, "< 4 MB more", status == 200 && grown < 4.0))
}

fn soak(service: &Service) -> Outcome<Row> {
    let runs = std::env::var("SOAK_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(SOAK_RUNS_DEFAULT);
    let hello = serde_json::json!({"language": "bash", "code": "echo Hello"});
    let left = AtomicUsize::new(runs);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = service.connect().unwrap_or_else(|error| panic!("{error}"));
                let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                while take().is_ok() {
                    connection.run(&hello);
                }
            });
        }
    });
    let resident = service.front_memory()? as f64 / 1e6;
    let rate = runs as f64 / began.elapsed().as_secs_f64();
    let ours = format!("{resident:.1} MB, at {rate:.0} runs/s");
    Ok(Row::of_fact(&format!("front after {runs} runs"), ours, "< 40 MB", resident < 40.0))
}
