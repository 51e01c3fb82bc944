//! A running service, and a client for it.
#![allow(dead_code)] // Each test file is a crate of its own and uses a part of this.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::common::{PATIENCE, free_address, has_image, is_root, sandboxd, text};

/// A service; dropping it tells it to end, and waits.
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: std::path::PathBuf,
}

/// Status and body of an answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: String,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A directory for the state of services, which the front, another user, can reach.
pub fn state() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(directory.path(), open).expect("the directory is ours");
    directory
}

impl Server {
    /// A service on a free port of loopback; `None` where tests are not root, or one of `images` is not built.
    pub fn start(state: &Path, images: &[&str]) -> Option<Server> {
        Server::start_with(state, images, &BTreeMap::new())
    }

    /// The same with settings in the environment.
    pub fn start_with(state: &Path, images: &[&str], variables: &BTreeMap<String, String>) -> Option<Server> {
        if !is_root() || !images.iter().all(|image| has_image(image)) {
            return None;
        }
        let log = state.join("log");
        let file = std::fs::File::options().create(true).append(true).open(&log).expect("the log is made");
        let address = free_address();
        let child = sandboxd()
            .args(["serve", "--listen", &address.to_string(), "--state-dir"])
            .arg(state.join("state"))
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the program starts");
        let mut server = Server { child, address, log };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() || server.get("/api/health/ready").status != 200 {
            let ended = server.child.try_wait().expect("the program can be waited for");
            assert!(ended.is_none() && Instant::now() < deadline, "it does not start: {}", server.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Some(server)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], &body.to_string())
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let sent = match body {
            "" => agent.run(request.body(()).expect("a request")),
            body => agent.run(request.body(body.to_owned()).expect("a request")),
        };
        let mut response = sent.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log()));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.body_mut().with_config().limit(64 << 20).read_to_vec().expect("the body comes");
        Reply { status, headers, body: text(&body) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("the program can be waited for").is_none() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        } else {
            assert!(!self.log().contains("panic"), "{}", self.log());
        }
    }
}
