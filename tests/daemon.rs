//! The service as processes: who has which privileges, what happens when one of them dies, reload, drain, and what the
//! history knows afterwards. With the real program, over loopback.

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// `sandboxd serve` with a configuration of its own.
struct Served {
    process: Child,
    base: String,
    program: PathBuf,
    directory: tempfile::TempDir,
}

impl Served {
    /// Serves with `config` as the service's part of the configuration file.
    fn start(config: &str) -> Served {
        Served::start_program(PathBuf::from(env!("CARGO_BIN_EXE_sandboxd")), config)
    }

    fn start_program(program: PathBuf, config: &str) -> Served {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let port = common::free_address().port();
        let text = format!(
            "profiles_dir = {:?}\n[service]\nlisten = [\"127.0.0.1:{port}\"]\nuse_host_image = true\nstate_dir = {:?}\n{config}",
            directory.path().join("profiles"),
            directory.path().join("state"),
        );
        std::fs::create_dir(directory.path().join("profiles")).unwrap();
        std::fs::write(directory.path().join("config.toml"), text).unwrap();
        let mut served = Served {
            process: Served::spawn(&program, directory.path()),
            base: format!("http://127.0.0.1:{port}"),
            program,
            directory,
        };
        served.wait_until_ready();
        served
    }

    fn spawn(program: &std::path::Path, directory: &std::path::Path) -> Child {
        let log = std::fs::File::options().append(true).create(true).open(directory.join("log")).unwrap();
        let mut command = std::process::Command::new(program);
        command.arg("--config").arg(directory.join("config.toml")).arg("serve");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn start_again(&mut self) {
        self.process = Served::spawn(&self.program, self.directory.path());
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let began = Instant::now();
        while !matches!(self.try_get("/api/health/ready"), Some((200, _))) {
            assert!(self.process.try_wait().unwrap().is_none(), "the service ended: {}", self.log());
            assert!(began.elapsed() < Duration::from_secs(60), "not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    fn try_get(&self, path: &str) -> Option<(u16, Value)> {
        answer(agent().get(format!("{}{path}", self.base)).call().ok()?)
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.try_get(path).unwrap_or_else(|| panic!("no answer from {path}: {}", self.log()))
    }

    fn execute(&self, body: &Value) -> (u16, Value) {
        self.try_execute(body).unwrap_or_else(|| panic!("no answer: {}", self.log()))
    }

    fn try_execute(&self, body: &Value) -> Option<(u16, Value)> {
        answer(agent().post(format!("{}/api/execute", self.base)).send_json(body).ok()?)
    }

    /// Starts a run and waits until its program runs; its id.
    fn start_run(&self, code: &str) -> String {
        let (status, accepted) = self.execute(&json!({"language": "bash", "code": code, "async": true}));
        assert_eq!(status, 202, "{accepted}");
        let id = accepted["id"].as_str().unwrap().to_owned();
        self.wait_for(&id, |answer| answer["status"] == "running");
        std::thread::sleep(Duration::from_millis(200));
        id
    }

    fn wait_for(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let (_, answer) = self.get(&format!("/api/execute/{id}"));
            if wanted(&answer) {
                return answer;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{answer}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// Our processes by their command's name.
    fn children(&self, name: &str) -> Vec<i32> {
        common::children_named(self.pid(), name)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Ends it and looks at what is left of it.
    fn end(mut self) {
        let supervisors = self.children("supervisor");
        let front = self.children("front");
        self.signal(Signal::SIGTERM);
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        for pid in supervisors.into_iter().chain(front) {
            assert!(!common::is_alive(pid), "{pid} is left: {}", self.log());
            assert_eq!(common::groups_of(pid as u32), Vec::<PathBuf>::new(), "{}", self.log());
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // After `end` there is none; after a failed test nothing of ours may stay.
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            let _ = self.process.wait();
        }
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    config.timeout_global(Some(Duration::from_secs(60))).build().into()
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Option<(u16, Value)> {
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().ok()?;
    Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

fn status_of(pid: i32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap_or_default();
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Waits until `done`, at most ten seconds.
#[track_caller]
fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const HELLO: &str = "echo hello";

fn hello() -> Value {
    json!({"language": "bash", "code": HELLO})
}

#[test]
fn the_front_has_no_privileges_and_the_supervisors_one_thread() {
    if !common::is_root() {
        return;
    }
    let served = Served::start("");
    assert_eq!(served.execute(&hello()).1["stdout"], "hello\n");
    let [front] = served.children("front")[..] else { panic!("one front: {:?}", served.children("front")) };
    assert_ne!(status_of(front, "Uid"), "0");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status_of(front, set), "0000000000000000", "{set}");
    }
    assert_eq!((status_of(front, "NoNewPrivs"), status_of(front, "Seccomp")), ("1".to_owned(), "2".to_owned()));
    assert_eq!(status_of(front, "Groups"), "");
    let supervisors = served.children("supervisor");
    assert!(!supervisors.is_empty());
    for supervisor in supervisors {
        assert_eq!(status_of(supervisor, "Threads"), "1");
        // It holds no socket of the network: its control socket, and nothing else that has a peer.
        let sockets = std::fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().flatten();
        let sockets = sockets.filter(|entry| {
            std::fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
        });
        assert!(sockets.count() <= 8, "a supervisor holds sockets of others");
    }
    served.end();
}

#[test]
fn a_supervisor_that_dies_takes_its_cells_along_and_another_takes_its_place() {
    if !common::is_root() {
        return;
    }
    let served = Served::start("supervisors = 1");
    let id = served.start_run("sleep 60");
    let [supervisor] = served.children("supervisor")[..] else { panic!("one supervisor") };
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    // Whoever waits for the run gets an answer.
    let answer = served.wait_for(&id, |answer| answer["status"] == "sandbox_error");
    assert!(answer["message"].as_str().unwrap().contains("supervisor"), "{answer}");
    assert!(served.log().contains("a supervisor ended"), "{}", served.log());
    soon("a new supervisor", || served.children("supervisor").iter().any(|pid| *pid != supervisor));
    let (status, answer) = served.execute(&hello());
    assert_eq!((status, &answer["stdout"]), (200, &json!("hello\n")), "{answer}");
    // The next supervisor has swept what the killed one left.
    soon("its groups are swept", || common::groups_of(supervisor as u32).is_empty());
    served.end();
}

#[test]
fn a_front_that_dies_ends_every_cell_and_the_service_comes_again() {
    if !common::is_root() {
        return;
    }
    let served = Served::start("supervisors = 1");
    assert_eq!(served.execute(&hello()).0, 200);
    let id = served.start_run("sleep 60");
    let supervisors = served.children("supervisor");
    let cells: Vec<i32> = supervisors.iter().flat_map(|pid| common::children_of(*pid)).collect();
    assert!(!cells.is_empty());
    let [front] = served.children("front")[..] else { panic!("one front") };
    kill(Pid::from_raw(front), Signal::SIGKILL).unwrap();
    soon("the cells and supervisors are gone", || cells.iter().chain(&supervisors).all(|pid| !common::is_alive(*pid)));
    soon("it serves again", || served.try_execute(&hello()).is_some_and(|(status, _)| status == 200));
    assert!(served.log().contains("the front ended"), "{}", served.log());
    // The history knows the run that nobody finished.
    let (status, answer) = served.get(&format!("/api/execute/{id}"));
    assert_eq!((status, &answer["status"]), (200, &json!("interrupted")), "{answer}");
    served.end();
}

#[test]
fn a_service_that_is_told_to_end_lets_runs_end_and_accepts_no_more() {
    if !common::is_root() {
        return;
    }
    let served = Served::start("");
    let running = std::thread::scope(|scope| {
        let slow = scope.spawn(|| served.execute(&json!({"language": "bash", "code": "sleep 1.5; echo done"})));
        std::thread::sleep(Duration::from_millis(600));
        served.signal(Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(300));
        // Either nobody listens any more, or it is refused.
        let late = served.try_execute(&hello());
        assert!(late.is_none_or(|(status, _)| status == 503));
        slow.join().unwrap()
    });
    assert_eq!((running.0, &running.1["stdout"]), (200, &json!("done\n")), "{}", running.1);
    let mut served = served;
    assert!(served.process.wait().unwrap().success());
}

#[test]
fn runs_beyond_the_drain_time_are_canceled_and_answered() {
    if !common::is_root() {
        return;
    }
    let mut served = Served::start("drain_time_max = \"300ms\"");
    let began = Instant::now();
    let answer = std::thread::scope(|scope| {
        let endless = scope.spawn(|| served.execute(&json!({"language": "bash", "code": "sleep 60"})));
        std::thread::sleep(Duration::from_millis(600));
        served.signal(Signal::SIGTERM);
        endless.join().unwrap()
    });
    assert_eq!((answer.0, &answer.1["status"]), (200, &json!("canceled")), "{}", answer.1);
    assert!(served.process.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_reload_takes_profiles_and_settings_over_and_a_wrong_one_changes_nothing() {
    if !common::is_root() {
        return;
    }
    let served = Served::start("");
    let profile = "name = \"shout\"\nrootfs = \"host\"\nsource = \"main.shout\"\nextensions = [\"shout\"]\n\
                   [version]\ncommand = [\"bash\", \"--version\"]\n[run]\ncommand = [\"tr\", \"a-z\", \"A-Z\"]\n";
    let write = |name: &str, text: &str| {
        std::fs::write(served.directory.path().join(format!("profiles/{name}.toml")), text).unwrap();
    };
    write("shout", profile);
    // What is not whole is left out, and told; the others are served.
    write("keyless", &profile.replace("shout", "keyless").replace("source =", "sauce ="));
    write("imageless", &profile.replace("shout", "imageless").replace("\"host\"", "\"pyhton\""));
    let shout = json!({"language": "shout", "code": "x", "stdin": "quiet"});
    assert_eq!(served.execute(&shout).1["error"]["code"], "unknown_language");
    // A run that goes on meanwhile is not disturbed.
    let id = served.start_run("sleep 2; echo still here");
    served.signal(Signal::SIGHUP);
    soon("the reload", || served.execute(&shout).1["stdout"] == "QUIET");
    assert_eq!(served.wait_for(&id, |answer| answer["status"] == "ok")["stdout"], "still here\n");
    let (_, listed) = served.get("/api/languages");
    let problems = listed["problems"].to_string();
    assert!(problems.contains("keyless.toml:3: unknown field `sauce`"), "{problems}");
    assert!(problems.contains("imageless.toml:2") && problems.contains("did you mean python?"), "{problems}");
    assert_eq!(served.get("/api/health/ready").1["problems"], listed["problems"]);
    let is = |name: &str| listed["languages"].as_array().unwrap().iter().any(|language| language["id"] == name);
    assert!(is("shout") && !is("keyless") && !is("imageless"), "{listed}");
    soon("the old supervisors have left", || served.log().contains("of an earlier configuration has left"));

    let text = std::fs::read_to_string(served.config()).unwrap();
    std::fs::write(served.config(), text.replace("use_host_image", "use_hots_image")).unwrap();
    served.signal(Signal::SIGHUP);
    soon("the refusal", || served.log().contains("not reloaded"));
    assert!(served.log().contains("did you mean `use_host_image`"), "{}", served.log());
    assert_eq!(served.execute(&shout).1["stdout"], "QUIET");
    served.end();
}

#[test]
fn what_had_ended_before_a_kill_is_readable_and_what_had_not_is_marked() {
    if !common::is_root() {
        return;
    }
    let mut served = Served::start("concurrent_max = 8");
    let ended: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut ids = Vec::new();
                    for _ in 0..25 {
                        let Some((200, answer)) = served.try_execute(&hello()) else { break };
                        ids.push(answer["id"].as_str().unwrap().to_owned());
                    }
                    ids
                })
            })
            .collect();
        let slow = served.start_run("sleep 60");
        // In the middle of it all, without a warning.
        std::thread::sleep(Duration::from_millis(700));
        let everybody = served.children("supervisor").into_iter().chain(served.children("front")).chain([served.pid()]);
        everybody.collect::<Vec<_>>().into_iter().for_each(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap());
        let mut ids: Vec<String> = runs.into_iter().flat_map(|run| run.join().unwrap()).collect();
        ids.push(slow);
        ids
    });
    served.process.wait().unwrap();
    served.start_again();
    let (slow, ended) = ended.split_last().unwrap();
    assert!(!ended.is_empty());
    for id in ended {
        let (status, answer) = served.get(&format!("/api/execute/{id}"));
        assert_eq!((status, &answer["status"], &answer["stdout"]), (200, &json!("ok"), &json!("hello\n")), "{answer}");
    }
    assert_eq!(served.get(&format!("/api/execute/{slow}")).1["status"], "interrupted");
    served.end();
}

#[test]
fn a_port_that_the_kernel_chose_is_told() {
    if !common::is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = common::sandboxd();
    command.args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]).arg(directory.path().join("state"));
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = std::io::BufReader::new(process.stderr.take().unwrap());
    let ready = std::io::BufRead::lines(log).map_while(Result::ok).find(|line| line.contains(" ready "));
    let url = ready.as_deref().and_then(|line| line.split('"').find(|word| word.starts_with("http://")));
    let url = url.unwrap_or_else(|| panic!("{ready:?}"));
    assert!(!url.ends_with(":0"), "{url}");
    let health = answer(agent().get(format!("{url}/health")).call().unwrap());
    assert_eq!(health.map(|health| health.0), Some(200));
    kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM).unwrap();
    assert!(process.wait().unwrap().success());
}

#[test]
fn the_service_does_not_start_without_a_layer_unless_it_is_given_up() {
    if !common::is_root() {
        return;
    }
    let start = |extra: &str| {
        let directory = tempfile::tempdir().unwrap();
        let port = common::free_address().port();
        let state = directory.path().join("state");
        let text =
            format!("cgroup = \"none\"\n[service]\nlisten = [\"127.0.0.1:{port}\"]\nstate_dir = {state:?}\n{extra}");
        std::fs::write(directory.path().join("config.toml"), text).unwrap();
        let mut command = common::sandboxd();
        command.arg("--config").arg(directory.path().join("config.toml")).arg("serve");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        (command.spawn().unwrap(), directory, port)
    };
    let (refused, _directory, _) = start("");
    let output = refused.wait_with_output().unwrap();
    let said = common::text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("cgroup is missing") && said.contains("give_up"), "{said}");

    let (mut process, _directory, port) = start("give_up = [\"cgroup\"]\nuse_host_image = true");
    let ready = || agent().get(format!("http://127.0.0.1:{port}/api/health/ready")).call().ok().and_then(answer);
    soon("ready", || ready().is_some_and(|(status, _)| status == 200));
    assert!(ready().unwrap().1["problems"].to_string().contains("given up by configuration: cgroup"));
    let run = agent().post(format!("http://127.0.0.1:{port}/api/execute")).send_json(hello()).unwrap();
    assert_eq!(answer(run).unwrap().1["enforcement"]["cgroup"], "none");
    kill(Pid::from_raw(process.id() as i32), Signal::SIGTERM).unwrap();
    assert!(process.wait().unwrap().success());
}

#[test]
fn keys_bound_who_may_run_what_and_how_often() {
    if !common::is_root() {
        return;
    }
    let served = Served::start(
        "[[service.keys]]\nname = \"docs\"\nkey = \"docs-0123456789abcdef\"\nrate = \"3/1m\"\nlanguages = [\"bash\"]\n\
         limits = { wall_time = \"2s\" }\n\
         [[service.keys]]\nname = \"root\"\nkey = \"root-0123456789abcdef\"\nadmin = true\n",
    );
    let with = |key: Option<&str>, body: Value| {
        let mut request = agent().post(format!("{}/api/execute", served.base));
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = request.send_json(body).unwrap();
        let headers = response.headers().clone();
        let (status, answer) = answer(response).unwrap();
        (status, answer, headers)
    };
    assert_eq!(with(None, hello()).1["error"]["code"], "key_missing");
    let (status, answer, headers) = with(Some("docs-0123456789abcdeX"), hello());
    assert_eq!((status, &answer["error"]["code"]), (401, &json!("key_wrong")));
    assert_eq!(headers["www-authenticate"], "Bearer");
    assert!(served.log().contains("authentication failed"), "{}", served.log());

    let docs = Some("docs-0123456789abcdef");
    let (status, answer, headers) = with(docs, hello());
    assert_eq!((status, &answer["stdout"]), (200, &json!("hello\n")), "{answer}");
    assert_eq!(
        (&headers["ratelimit-limit"], &headers["ratelimit-remaining"]),
        (&"3".parse().unwrap(), &"2".parse().unwrap())
    );
    let (status, answer, _) = with(docs, json!({"language": "python", "code": "1"}));
    assert_eq!((status, &answer["error"]["code"]), (403, &json!("language_not_allowed")), "{answer}");
    let above = json!({"language": "bash", "code": "1", "limits": {"wall_time_ms": 3000}});
    let (status, answer, _) = with(docs, above);
    assert_eq!((status, &answer["error"]["field"]), (400, &json!("limits.wall_time_ms")), "{answer}");
    let (status, answer, headers) = with(docs, hello());
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("rate_limited")), "{answer}");
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert!(served.log().contains("rate limited"), "{}", served.log());

    // One key sees nothing of another's, an administrator's sees everything.
    let (_, answer, _) = with(Some("root-0123456789abcdef"), hello());
    let path = format!("{}/api/execute/{}", served.base, answer["id"].as_str().unwrap());
    let see = |key: &str| agent().get(&path).header("x-api-key", key).call().unwrap().status().as_u16();
    assert_eq!((see("docs-0123456789abcdef"), see("root-0123456789abcdef")), (404, 200));
    let metrics = |key: &str| {
        let mut response = agent().get(format!("{}/metrics", served.base)).header("x-api-key", key).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    };
    assert_eq!(metrics("docs-0123456789abcdef").0, 403);
    let (status, text) = metrics("root-0123456789abcdef");
    assert_eq!(status, 200, "{text} {}", served.log());
    for wanted in
        ["sandboxd_runs_total{language=\"bash\",status=\"ok\",dialect=\"native\"} 2", "sandboxd_queue_seconds_bucket"]
    {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
    served.end();
}

#[test]
fn runs_beyond_the_queue_are_refused_at_once_and_those_in_it_get_their_turn() {
    if !common::is_root() {
        return;
    }
    let served = Served::start("concurrent_max = 1\nqueue_max = 1\nqueue_time_max = \"20s\"");
    let slow = served.start_run("sleep 1.5");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| served.execute(&hello()));
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        let response = agent().post(format!("{}/api/execute", served.base)).send_json(hello()).unwrap();
        assert!(began.elapsed() < Duration::from_millis(900), "it hung for {:?}", began.elapsed());
        let after = response.headers()["retry-after"].clone();
        let (status, refused) = answer(response).unwrap();
        assert_eq!((status, &refused["error"]["code"]), (503, &json!("queue_full")), "{refused}");
        assert!(after.to_str().unwrap().parse::<u64>().unwrap() >= 1);
        assert_eq!(waiting.join().unwrap().1["stdout"], "hello\n");
    });
    served.wait_for(&slow, |answer| answer["status"] == "ok");
    served.end();
}

/// What is installed is linked statically, which the C library takes badly in places: names of accounts and hosts.
#[test]
fn the_release_build_serves() {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/release/sandboxd");
    if !common::is_root() || !program.exists() {
        assert!(!common::nothing_may_be_missing(), "the release build is missing");
        eprintln!("skipped: there is no release build");
        return;
    }
    let served = Served::start_program(program, "otel_endpoint = \"http://localhost:9\"");
    let (status, answer) = served.execute(&hello());
    assert_eq!((status, &answer["stdout"]), (200, &json!("hello\n")), "{answer}");
    served.end();
}

#[test]
fn traces_go_to_the_collector_and_a_collector_that_is_not_there_harms_nothing() {
    if !common::is_root() {
        return;
    }
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = collector.local_addr().unwrap().port();
    let served = Served::start(&format!("otel_endpoint = \"http://127.0.0.1:{port}\""));
    assert_eq!(served.execute(&hello()).0, 200);
    // Batches go out every few seconds. gRPC begins as every HTTP/2 connection does.
    collector.set_nonblocking(true).unwrap();
    let mut connection = None;
    soon("the collector is called", || {
        connection = collector.accept().ok().map(|(stream, _)| stream);
        connection.is_some()
    });
    let mut preface = [0; 14];
    let mut stream = connection.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    std::io::Read::read_exact(&mut stream, &mut preface).unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0");
    drop((stream, collector));
    assert_eq!(served.execute(&hello()).0, 200);
    served.end();
}

#[test]
fn log_lines_are_json_on_demand_and_carry_the_request_id() {
    if !common::is_root() {
        return;
    }
    let served = Served::start("log_format = \"json\"");
    let response = agent()
        .post(format!("{}/api/execute", served.base))
        .header("x-request-id", "my-own-id-1")
        .send_json(hello())
        .unwrap();
    assert_eq!(response.headers()["x-request-id"], "my-own-id-1");
    soon("the line of the request", || served.log().contains("my-own-id-1"));
    let log = served.log();
    let line = log.lines().find(|line| line.contains("my-own-id-1")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!((&line["target"], &line["level"]), (&json!("requests"), &json!("INFO")), "{line}");
    served.end();
}
