//! A running service, and clients for it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::common::{PATIENCE, TAG, children_of, free_address, groups_of, is_alive, is_root, sandboxd, tagged, text};

/// A service with a state directory of its own; dropping it tells it to end, and asserts that nothing is left.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    tag: String,
    directory: tempfile::TempDir,
    config: Option<tempfile::NamedTempFile>,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
}

impl Reply {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Server {
    /// A service on a free port of loopback; `None` where tests cannot be root.
    pub fn start() -> Option<Server> {
        Server::with(&[])
    }

    /// The same with a configuration file.
    pub fn with_config(config: &str) -> Option<Server> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(config.as_bytes()).expect("the file is written");
        let path = file.path().to_str().expect("a path that is text").to_owned();
        let mut server = Server::with(&["--config", &path])?;
        server.config = Some(file);
        Some(server)
    }

    /// Takes another configuration over without an end of what goes on.
    pub fn reload(&mut self, config: &str) {
        let file = self.config.as_ref().expect("it was started with a configuration");
        std::fs::write(file.path(), config).expect("the file is written");
        let reloads = |server: &Server| server.log().matches(" reloaded").count();
        let before = reloads(self);
        self.signal(nix::sys::signal::Signal::SIGHUP);
        self.wait_until("the reload", PATIENCE, |server| reloads(server) > before);
    }

    /// The same with more flags.
    pub fn with(flags: &[&str]) -> Option<Server> {
        let directory = state_directory();
        let state = directory.path().join("state");
        Server::start_in(&state, flags, &BTreeMap::new(), directory)
    }

    /// The same with its state in `state`, which outlives it, and settings in the environment.
    pub fn with_state(state: &Path, variables: &BTreeMap<String, String>) -> Option<Server> {
        Server::start_in(&state.join("state"), &[], variables, state_directory())
    }

    fn start_in(
        state: &Path,
        flags: &[&str],
        variables: &BTreeMap<String, String>,
        directory: tempfile::TempDir,
    ) -> Option<Server> {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        if !is_root() {
            return None;
        }
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let tag = format!("serve-{}-{number}", std::process::id());
        let log = std::fs::File::create(directory.path().join("log")).expect("the log is made");
        let address = free_address();
        let child = sandboxd()
            .args(["serve", "--listen", &address.to_string(), "--state-dir"])
            .arg(state)
            .args(flags)
            .envs(variables)
            .env(TAG, &tag)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut server = Server { child, address, tag, directory, config: None };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() || server.get("/api/health/ready").status != 200 {
            let ended = server.child.try_wait().expect("the program can be waited for");
            assert!(ended.is_none() && Instant::now() < deadline, "it does not start: {}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.get_with(path, &[])
    }

    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = agent().get(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        reply(request.call())
    }

    /// A call of any method; `body` is sent if it is not empty.
    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = match body {
            "" => agent().run(request.body(()).expect("a request")),
            body => agent().run(request.body(body.to_owned()).expect("a request")),
        };
        reply(sent)
    }

    pub fn delete(&self, path: &str) -> Reply {
        reply(agent().delete(self.url(path)).call())
    }

    pub fn post_json(&self, path: &str, body: &Value) -> Reply {
        self.post(path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut request = agent().post(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        reply(request.send(body))
    }

    /// Runs a program, which must be accepted; its verdict.
    #[track_caller]
    pub fn execute(&self, body: &Value) -> Value {
        let reply = self.post_json("/api/execute", body);
        assert_eq!(reply.status, 200, "{reply:?}\n{}", self.log());
        reply.json()
    }

    /// Starts a run that goes on by itself; its id.
    #[track_caller]
    pub fn start_run(&self, body: &Value) -> String {
        let mut body = body.clone();
        body["async"] = true.into();
        let reply = self.post_json("/api/execute", &body);
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until execution `id` has written something.
    #[track_caller]
    pub fn wait_for_output(&self, id: &str) {
        let mut stream = self.connect();
        let head =
            format!("GET /api/execute/{id}/events HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the request is sent");
        let mut seen = String::new();
        let mut buffer = [0; 4096];
        while !seen.contains("\"type\":\"output\"") {
            let length = stream.read(&mut buffer).expect("events come");
            assert!(length > 0, "it ended without output: {seen}");
            seen += &text(&buffer[..length]);
        }
    }

    /// A bare connection that gives up after a while.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the service listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time limit");
        stream
    }

    /// Sends bytes as they are; everything that comes back until the connection is closed.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The service may close before it has read everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        text(&answer)
    }

    pub fn socket(&self, path: &str) -> Socket {
        self.socket_with(path, &[]).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn socket_with(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Socket, Error> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (stream, _) = runtime.block_on(connect_async(request))?;
        Ok(Socket { runtime, stream })
    }

    /// Programs that run in cells now: children of inits, which unlike them keep the environment of the service.
    pub fn programs(&self) -> usize {
        let ours = tagged(&self.tag);
        let children = ours.iter().flat_map(|pid| children_of(*pid));
        children.filter(|child| !ours.contains(child) && is_alive(*child)).count()
    }

    /// Waits until `done` holds; at most `limit`.
    #[track_caller]
    pub fn wait_until(&self, what: &str, limit: Duration, mut done: impl FnMut(&Server) -> bool) {
        let deadline = Instant::now() + limit;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: not within {limit:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, signal).expect("the service lives");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let processes = tagged(&self.tag);
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Ok(status) => break status,
                Err(error) => panic!("{error}"),
            }
        };
        if status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("{log}");
            return;
        }
        assert!(status.is_some_and(|status| status.success()), "it ended with {status:?}: {log}");
        assert!(!log.contains("panic"), "{log}");
        let mut left: Vec<String> =
            tagged(&self.tag).into_iter().filter(|pid| is_alive(*pid)).map(|pid| format!("process {pid}")).collect();
        let groups = processes.into_iter().flat_map(|pid| groups_of(pid as u32));
        left.extend(groups.map(|group| group.display().to_string()));
        assert_eq!(left, [] as [String; 0], "{log}");
    }
}

/// A directory for the front's own, which is another user and must reach it.
pub fn state_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(directory.path(), open).expect("the directory is ours");
    directory
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true);
    config.timeout_global(Some(PATIENCE)).build().into()
}

fn reply(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
    let mut response = result.expect("the service answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.body_mut().with_config().limit(256 << 20).read_to_vec().expect("the body comes");
    Reply { status, headers, text: text(&body) }
}

/// A WebSocket, for one thread.
pub struct Socket {
    runtime: tokio::runtime::Runtime,
    stream: WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
}

impl Socket {
    pub fn send(&mut self, message: &Value) {
        self.send_message(Message::text(message.to_string())).expect("the message is sent");
    }

    pub fn send_message(&mut self, message: Message) -> Result<(), Error> {
        self.runtime.block_on(self.stream.send(message))
    }

    /// Sends what there is without waiting for each message to be read.
    pub fn send_many(&mut self, messages: impl Iterator<Item = Value>) -> Result<(), Error> {
        self.runtime.block_on(async {
            for message in messages {
                self.stream.feed(Message::text(message.to_string())).await?;
            }
            self.stream.flush().await
        })
    }

    /// Sends for so long, whether anybody reads or not.
    pub fn send_for(&mut self, time: Duration, messages: impl Iterator<Item = Value>) {
        let sent = async {
            for message in messages {
                if self.stream.send(Message::text(message.to_string())).await.is_err() {
                    return;
                }
            }
        };
        self.runtime.block_on(async { tokio::time::timeout(time, sent).await.ok() });
    }

    /// The next message that is text; `None` after the last.
    #[track_caller]
    pub fn next(&mut self) -> Option<Value> {
        match self.message() {
            Ok(Message::Text(text)) => Some(serde_json::from_str(&text).expect("messages are JSON")),
            _ => None,
        }
    }

    /// The next message that is text, or the code with which the service closes.
    #[track_caller]
    pub fn read(&mut self) -> Result<Value, Option<u16>> {
        match self.message() {
            Ok(Message::Text(text)) => Ok(serde_json::from_str(&text).expect("messages are JSON")),
            Ok(Message::Close(frame)) => {
                // The answer to it leaves with the next read.
                let _ = self.message();
                Err(frame.map(|frame| frame.code.into()))
            }
            other => panic!("neither text nor close: {other:?}"),
        }
    }

    /// Sends text that may be anything.
    pub fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).expect("the message is sent");
    }

    /// The code with which the service closes, after whatever it says before.
    #[track_caller]
    pub fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.message() {
                Ok(Message::Close(frame)) => {
                    // The answer to it leaves with the next read.
                    let _ = self.message();
                    return frame.map(|frame| frame.code.into());
                }
                Ok(_) => {}
                Err(error) => panic!("it ended without a close: {error}"),
            }
        }
    }

    #[track_caller]
    fn message(&mut self) -> Result<Message, Error> {
        loop {
            let message = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, self.stream.next()).await });
            match message.expect("something comes in time") {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(message) => return message,
                None => return Err(Error::ConnectionClosed),
            }
        }
    }

    /// The next message of this type; those before it are passed over, but no error.
    #[track_caller]
    pub fn until(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().unwrap_or_else(|| panic!("it ended before {kind}"));
            if message["type"] == kind {
                return message;
            }
            assert_ne!(message["type"], "error", "before {kind}: {message}");
        }
    }

    /// Everything that `execution` writes to `stream` from here to its end, and its `finished` message.
    #[track_caller]
    pub fn run_out(&mut self) -> (String, Value) {
        let mut output = String::new();
        loop {
            let message = self.next().expect("it does not end before");
            match message["type"].as_str() {
                Some("output") => output += message["data"].as_str().expect("text"),
                Some("finished") => return (output, message),
                Some("error") => panic!("{message}"),
                _ => {}
            }
        }
    }

    /// Starts a run; its id.
    #[track_caller]
    pub fn execute(&mut self, mut body: Value) -> String {
        body["type"] = json!("execute");
        self.send(&body);
        self.until("accepted")["executionId"].as_str().expect("an id").to_owned()
    }
}
