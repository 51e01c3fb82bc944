//! Section D: namespaces, the kernel's surface, and what could be told or left from one run to the next.

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use sandboxd::selftest::golden::Sweep;

use crate::common::{has_image, text};
use crate::harness::{attempts, compiled, json, program_command, ready, run_bare, run_flags, run_program};

/// Rows 59 to 61: every number of a kind, held against the golden tables, with the filter and without it.
#[test]
fn every_system_call_number_answers_as_the_policy_says() {
    if !ready() {
        return;
    }
    let problems = |sweep: Sweep, kind: &str, last: &str, without: &[&str]| {
        let flags = ["--wall-time", "60s", "--cpu-time", "60s"];
        let answer = json(&mut program_command("sweep", without, &flags, &[kind, "0", last]));
        assert_eq!(answer["status"], "ok", "{kind}: {answer}");
        sweep.hold(answer["stdout"].as_str().unwrap_or_default()).problems
    };
    for (sweep, kind, last, least) in [
        (Sweep::Calls, "x86_64", "600", 45),
        (Sweep::Foreign, "i386", "600", 300),
        (Sweep::Foreign, "x32", "600", 601),
        (Sweep::Prctl, "prctl", "127", 5),
        (Sweep::Ioctl, "ioctl", "0", 20),
    ] {
        assert_eq!(problems(sweep, kind, last, &[]), [""; 0], "{kind}");
        // The control: without the filter the kernel gives other answers.
        let open = problems(sweep, kind, last, &["install_seccomp"]);
        assert!(open.len() >= least, "{kind}: only {} answers are the filter's own: {open:?}", open.len());
    }
    // Without the filter, asking for a family may load its module on the host: netlink stands for all in another test.
    assert_eq!(problems(Sweep::Families, "families", "63", &[]), [""; 0]);
}

/// Rows 63 to 65: services of the host, by TCP, UDP, abstract sockets and paths.
#[test]
fn the_hosts_services_are_out_of_reach() {
    if !ready() {
        return;
    }
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a service");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a service");
    let name = format!("sandboxd-attack-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _abstract = UnixListener::bind_addr(&address).expect("a service");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("socket");
    let _path = UnixListener::bind(&path).expect("a service");
    let tcp_port = tcp.local_addr().expect("an address").port().to_string();
    let udp_port = udp.local_addr().expect("an address").port().to_string();
    let arguments =
        ["tcp", &tcp_port, "udp", &udp_port, "abstract", &name, "path", path.to_str().expect("UTF-8"), "far"];
    let near = &arguments[..arguments.len() - 1];
    let tried = |without: &[&str], arguments: &[&str]| {
        attempts(run_program("connect", without, arguments)["stdout"].as_str().unwrap_or_default())
    };

    let complete = tried(&[], &arguments);
    assert_eq!(complete.len(), 8, "{complete:?}");
    let expected =
        [("tcp", "EACCES"), ("udp", "ENETUNREACH"), ("abstract socket", "ECONNREFUSED"), ("socket by path", "ENOENT")];
    for (attempt, end) in expected {
        assert_eq!(complete[attempt], end, "{complete:?}");
    }
    for attempt in ["metadata service", "name server", "private network", "loopback of version 6"] {
        assert_ne!(complete[attempt], "ok", "{complete:?}");
    }
    // The network namespace alone.
    let network = tried(&["restrict_by_landlock", "install_seccomp"], &arguments);
    assert!(network.values().all(|end| end != "ok"), "{network:?}");
    assert_eq!(network["tcp"], "ENETUNREACH", "{network:?}");
    // Landlock alone: it knows TCP and abstract sockets; UDP is held by the network namespace only.
    let landlock = tried(&["ns:net"], near);
    assert_eq!((landlock["tcp"].as_str(), landlock["abstract socket"].as_str()), ("EACCES", "EPERM"), "{landlock:?}");
    assert_eq!(landlock["udp"], "ok", "{landlock:?}");
    // The controls.
    let open = tried(&["ns:net", "restrict_by_landlock"], near);
    for attempt in ["tcp", "udp", "abstract socket"] {
        assert_eq!(open[attempt], "ok", "the control: {open:?}");
    }
    let bare = run_bare(Command::new(compiled("connect")).args(["path", path.to_str().expect("UTF-8")]));
    assert_eq!(text(&bare.stdout), "socket by path: ok\n", "the control");
}

/// Row 66: System V objects and POSIX queues end with the run, and are none of the host's.
#[test]
fn ipc_objects_do_not_outlive_their_run() {
    if !ready() {
        return;
    }
    let bare = |word: &str| attempts(&text(&run_bare(Command::new(compiled("ipc")).arg(word)).stdout));
    let kinds = ["shared memory", "a queue", "a semaphore"];
    let left = attempts(run_program("ipc", &[], &["leave"])["stdout"].as_str().unwrap_or_default());
    let found = attempts(run_program("ipc", &[], &["find"])["stdout"].as_str().unwrap_or_default());
    let host = bare("find");
    for kind in kinds {
        assert_eq!(left[&format!("leave {kind}")], "ok", "{left:?}");
        assert_eq!(found[&format!("find {kind}")], "ENOENT", "{found:?}");
        assert_eq!(host[&format!("find {kind}")], "ENOENT", "{host:?}");
    }
    // RLIMIT_MSGQUEUE, and landlock knows no rule for the queues' file system; the namespace would keep it apart as well.
    assert_eq!(left["leave a posix queue"], "EMFILE", "{left:?}");
    let left = attempts(
        run_program("ipc", &["set_rlimits", "restrict_by_landlock"], &["leave"])["stdout"].as_str().unwrap_or_default(),
    );
    assert_eq!(left["leave a posix queue"], "ok", "the control: {left:?}");
    assert_eq!(bare("find")["find a posix queue"], "ENOENT");

    // The control: in the host's ipc namespace they stay, and the next run finds them.
    let shared = ["ns:ipc", "set_rlimits"];
    run_program("ipc", &shared, &["leave"]);
    let found = attempts(run_program("ipc", &shared, &["find"])["stdout"].as_str().unwrap_or_default());
    let host = bare("clear");
    for kind in kinds {
        assert_eq!(found[&format!("find {kind}")], "ok", "the control: {found:?}");
        assert_eq!(host[&format!("find {kind}")], "ok", "the control: {host:?}");
    }
    assert!(bare("find").values().all(|end| end != "ok"), "the control has left something behind");
}

/// Row 62: the keyring of the session that started the sandbox.
#[test]
fn the_supervisors_keys_are_out_of_reach() {
    if !ready() {
        return;
    }
    let find = |without: &[&str]| {
        let inner = program_command("keys", without, &[], &["find"]);
        let mut command = Command::new(compiled("keys"));
        command.arg("session").arg(inner.get_program()).args(inner.get_args());
        let answer = json(&mut command);
        attempts(answer["stdout"].as_str().unwrap_or_default())
    };
    let attempt = "find in the session's keyring";
    assert_eq!(find(&[])[attempt], "ENOSYS");
    assert_eq!(find(&["new_session_keyring"])[attempt], "ENOSYS");
    assert_eq!(find(&["install_seccomp"])[attempt], "ENOKEY");
    assert_eq!(find(&["install_seccomp", "new_session_keyring"])[attempt], "ok", "the control");
    // From run to run: a key added by one cell is not the next one's, though the filter is away.
    let added = run_program("keys", &["install_seccomp"], &["add"]);
    assert!(added["stdout"].as_str().is_some_and(|out| !out.contains(": E")), "the control: {added}");
    let found = run_program("keys", &["install_seccomp"], &["find"]);
    assert!(found["stdout"].as_str().is_some_and(|out| !out.contains(": ok")), "{found}");
}

/// Row 69: the state of a payload, as the kernel tells it.
#[test]
fn a_payload_has_no_privileges() {
    if !ready() {
        return;
    }
    let fields = |without: &[&str]| -> BTreeMap<String, String> {
        let answer = run_program("identity", without, &["status"]);
        let lines = answer["stdout"].as_str().unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
        lines.iter().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect()
    };
    let payload = fields(&[]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(payload[set], "0000000000000000", "{payload:?}");
    }
    assert_eq!((payload["NoNewPrivs"].as_str(), payload["Seccomp"].as_str()), ("1", "2"), "{payload:?}");
    assert_eq!(
        (payload["Uid"].as_str(), payload["Gid"].as_str()),
        ("1000\t1000\t1000\t1000", "1000\t1000\t1000\t1000")
    );
    let open = fields(&["set_no_new_privileges", "restrict_by_landlock", "install_seccomp", "drop_bounding_set"]);
    assert_ne!(open["CapBnd"], "0000000000000000", "the control: {open:?}");
    assert_eq!((open["NoNewPrivs"].as_str(), open["Seccomp"].as_str()), ("0", "0"), "the control: {open:?}");
}

/// Rows 57, 72, 64: what the machine tells of itself.
#[test]
fn the_machine_keeps_its_secrets() {
    if !ready() {
        return;
    }
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/selftest/programs/names.sh");
    let script = script.to_str().expect("UTF-8");
    let answer = run_flags(&["--rootfs", "base", script]);
    assert_eq!(answer["stdout"], "name: sandbox\n", "{answer}");
    // The control: the same script on the host finds its name and most of these files.
    let host = text(&run_bare(Command::new("bash").arg(script)).stdout);
    assert!(host.matches(": ok").count() > 10 && !host.contains("name: sandbox\n"), "{host}");
    let name = text(&run_bare(Command::new("uname").arg("-n")).stdout);
    let flags =
        ["--without-namespace", "uts", "--without-step", "set_hostname", "--rootfs", "base", "--", "uname", "-n"];
    assert_eq!(run_flags(&flags)["stdout"], name.as_str(), "the control");

    // All of /proc and /sys that there is.
    let list = "cd /proc; for f in *; do case $f in [0-9]*) ;; *) echo $f;; esac; done; \
                ls -d /sys /proc/1 2>&1 | grep -v 'No such'; ls -A /run /etc/ssh /var/run 2>/dev/null | grep -v :; true";
    let answer = run_flags(&["--rootfs", "base", "--", "bash", "-c", list]);
    let seen = answer["stdout"].as_str().unwrap_or_default();
    assert_eq!(seen.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>(), ["self", "thread-self"], "{answer}");
    let answer = run_flags(&[
        "--rootfs",
        "base",
        "--",
        "bash",
        "-c",
        "for f in /proc/self/* /proc/self/*/*; do \
        [ -f $f ] && (: >> $f) 2>/dev/null && echo $f; done; true",
    ]);
    assert_eq!(answer["stdout"], "", "{answer}");
    // No process of the host or of init, however it is asked for.
    let answer = run_flags(&[
        "--rootfs",
        "base",
        "--",
        "bash",
        "-c",
        "for i in {1..400}; do [ -e /proc/$i ] && [ $i != $$ ] && echo $i; done; true",
    ]);
    assert_eq!(answer["stdout"], "", "{answer}");
}

/// Row 71: the request's environment is the payload's, and nobody else's.
#[test]
fn a_requests_environment_does_not_reach_the_sandbox() {
    if !ready() || !has_image("gcc") {
        return;
    }
    let library = "__attribute__((constructor)) static void loaded(void) { write(2, \"loaded\\n\", 7); }\n";
    let (_directory, source) = crate::common::source("evil.c", &format!("#include <unistd.h>\n{library}"));
    let flag = format!("evil.c={}", source.display());
    // Compiled and preloaded in one cell: the preloaded file must exist before the payload does, hence the exec.
    let script = "gcc -shared -fPIC -o /tmp/evil.so evil.c && LD_PRELOAD=/tmp/evil.so exec true";
    let answer = run_flags(&["--rootfs", "gcc", "--file", &flag, "--", "bash", "-c", script]);
    assert_eq!(answer["stderr"], "loaded\n", "the control: {answer}");
    let flags = [
        "--env",
        "LD_PRELOAD=/work/evil.so",
        "--env",
        "LD_LIBRARY_PATH=/work",
        "--env",
        "PATH=/work",
        "--env",
        "GCONV_PATH=/work",
        "--env",
        "BASH_ENV=/work/evil",
        "--rootfs",
        "base",
        "--",
        "/usr/bin/env",
    ];
    let answer = run_flags(&flags);
    assert_eq!(answer["status"], "ok", "{answer}");
    // The payload alone complains of the library that is not there, once.
    assert_eq!(answer["stderr"].as_str().map(|text| text.matches("cannot be preloaded").count()), Some(1), "{answer}");
    // And nothing of the operator's environment comes along.
    let mut command = crate::common::sandboxd();
    let answer =
        json(command.env("SECRET_OF_THE_OPERATOR", "1").args(["run", "--json", "--rootfs", "base", "--", "env"]));
    let mut seen: Vec<_> =
        answer["stdout"].as_str().unwrap_or_default().lines().filter_map(|line| line.split('=').next()).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["HOME", "LANG", "PATH", "TMPDIR", "USER"], "{answer}");
}

/// Row 75: the kernel's rules hold whatever language asks.
#[test]
fn interpreters_have_no_rights_of_their_own() {
    if !ready() {
        return;
    }
    let script = "\
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, number, *arguments):
    ended = libc.syscall(number, *arguments)
    print(f'{name}:', 'ok' if ended != -1 else errno.errorcode[ctypes.get_errno()])
attempt('unshare', 272, 0x10000000)
attempt('ptrace', 101, 0, 0, 0, 0)
attempt('bpf', 321, 0, 0, 0)
attempt('add_key', 248, b'user', b'x', b'y', 1, -4)
try: socket.create_connection(('127.0.0.1', 22), 1); print('connect: ok')
except OSError as error: print('connect:', errno.errorcode[error.errno])
try: open('/etc/hosts', 'a'); print('write: ok')
except OSError as error: print('write:', errno.errorcode[error.errno])
";
    let (_directory, path) = crate::common::source("attack.py", script);
    let path = path.to_str().expect("UTF-8");
    let expected = "unshare: EPERM\nptrace: EPERM\nbpf: EPERM\nadd_key: ENOSYS\nconnect: EACCES\n";
    let answer = run_flags(&[path]);
    let output = answer["stdout"].as_str().unwrap_or_default();
    assert!(output.starts_with(expected) && !output.contains(": ok"), "{answer}");
    let answer = run_flags(&["--without-step", "install_seccomp", "--without-step", "forbid_user_namespaces", path]);
    let tried = attempts(answer["stdout"].as_str().unwrap_or_default());
    for attempt in ["unshare", "add_key"] {
        assert_eq!(tried[attempt], "ok", "the control: {answer}");
    }
}
