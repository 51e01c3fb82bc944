//! The program says what the table says; the table says what tests/golden/seccomp-table.txt says.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use libc::sock_filter;
use proptest::prelude::*;
use seccompiler::{SeccompAction, SeccompFilter};

use super::compile::{ARCH_OFFSET, NUMBER_OFFSET, arch};
use super::*;

// --- An interpreter of the BPF that seccomp accepts -------------------------------------------------------------------

#[derive(Debug, Clone, Copy)]
struct Call {
    number: u32,
    arch: u32,
    args: [u64; 6],
}

impl Call {
    fn new(name: &str, args: &[u64]) -> Call {
        let mut call = Call::number(policy::number(name).unwrap_or_else(|| panic!("no system call {name}")));
        call.args[..args.len()].copy_from_slice(args);
        call
    }

    fn number(number: u32) -> Call {
        Call { number, arch: arch::AUDIT, args: [0; 6] }
    }

    /// A word of `struct seccomp_data`.
    fn word(&self, offset: u32) -> u32 {
        match offset {
            NUMBER_OFFSET => self.number,
            ARCH_OFFSET => self.arch,
            16..64 => (self.args[(offset as usize - 16) / 8] >> (offset % 8 * 8)) as u32,
            _ => panic!("load from {offset}"),
        }
    }
}

fn run(program: &[sock_filter], call: Call) -> u32 {
    let mut accumulator = 0u32;
    let mut at = 0;
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let mut branch = |holds| at += usize::from(if holds { jt } else { jf });
        match u32::from(code) {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn errno_of(action: u32) -> Option<Errno> {
    let errno = (action & libc::SECCOMP_RET_ACTION_FULL) == libc::SECCOMP_RET_ERRNO;
    errno.then(|| Errno::from_raw((action & libc::SECCOMP_RET_DATA) as i32))
}

/// What a call is answered by the embedded policy: `None` is allowed.
fn answer(name: &str, args: &[u64]) -> Option<Errno> {
    let program = Policy::embedded().compile(Denial::Errno);
    let action = run(program.instructions(), Call::new(name, args));
    assert!(action == libc::SECCOMP_RET_ALLOW || errno_of(action).is_some(), "{name}: {action:#x}");
    errno_of(action)
}

// --- The policy's own meaning, without BPF ----------------------------------------------------------------------------

fn holds(condition: &Condition, args: &[u64; 6]) -> bool {
    let arg = args[usize::from(condition.arg)];
    let arg = if condition.dword { arg & 0xffff_ffff } else { arg };
    match &condition.op {
        Op::Eq(value) => arg == value.bits,
        Op::Ne(value) => arg != value.bits,
        Op::Lt(value) => arg < value.bits,
        Op::Le(value) => arg <= value.bits,
        Op::Gt(value) => arg > value.bits,
        Op::Ge(value) => arg >= value.bits,
        Op::MaskedEq { mask, value } => arg & mask.bits == value.bits,
        Op::NoneOf(values) => values.iter().all(|value| arg != value.bits),
    }
}

fn expected(policy: &Policy, denial: Denial, call: Call) -> u32 {
    let errno = |errno: Errno| libc::SECCOMP_RET_ERRNO | errno as u32;
    if call.arch != arch::AUDIT || (arch::X32..u32::MAX).contains(&call.number) {
        return libc::SECCOMP_RET_KILL_PROCESS;
    }
    match policy.verdict(call.number) {
        SyscallVerdict::Allow => libc::SECCOMP_RET_ALLOW,
        SyscallVerdict::AllowUnless(rules) => {
            let denied = rules.deny.iter().any(|rule| rule.iter().all(|condition| holds(condition, &call.args)));
            if denied { errno(rules.errno) } else { libc::SECCOMP_RET_ALLOW }
        }
        SyscallVerdict::Answer(other) => errno(other),
        SyscallVerdict::Notify if denial == Denial::Notify => libc::SECCOMP_RET_USER_NOTIF,
        SyscallVerdict::Notify => errno(Errno::EPERM),
    }
}

fn policy_of(verdicts: Vec<SyscallVerdict>) -> Policy {
    let entry = |verdict| Entry { verdict, why: "test".into(), permanent: false };
    Policy { entries: verdicts.into_iter().map(entry).collect() }
}

fn all_numbers() -> impl Iterator<Item = u32> {
    let x32 = [arch::X32 - 1, arch::X32, arch::X32 + 1, arch::X32 + 521, 0x7fff_ffff];
    let negative = [0x8000_0000, 0xc000_0000, u32::MAX - 1, u32::MAX];
    (0..=600).chain(x32).chain(negative)
}

/// As many different argument rules as the embedded policy has, on any number.
fn verdict() -> impl Strategy<Value = SyscallVerdict> {
    let blocks: Vec<_> = Policy::embedded()
        .entries
        .iter()
        .filter_map(|entry| match &entry.verdict {
            SyscallVerdict::AllowUnless(rules) => Some(rules.clone()),
            _ => None,
        })
        .collect();
    prop_oneof![
        6 => Just(SyscallVerdict::Allow),
        3 => Just(SyscallVerdict::Notify),
        2 => prop::sample::select(vec![Errno::ENOSYS, Errno::EPERM, Errno::EINVAL]).prop_map(SyscallVerdict::Answer),
        1 => prop::sample::select(blocks).prop_map(SyscallVerdict::AllowUnless),
    ]
}

/// A random policy whose argument rules are for their numbers.
fn random_policy() -> impl Strategy<Value = Policy> {
    prop::collection::vec(verdict(), NUMBERS as usize).prop_map(|mut verdicts| {
        for (number, verdict) in verdicts.iter_mut().enumerate() {
            if let SyscallVerdict::AllowUnless(rules) = verdict {
                let (errno, deny) = (rules.errno, rules.deny.clone());
                let program = compile::argument_program(number as u32, errno, &deny).unwrap();
                let rules = ArgumentRules { errno, deny, program };
                *verdict = SyscallVerdict::AllowUnless(Arc::new(rules));
            }
        }
        policy_of(verdicts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_program_says_what_the_table_says(
        policy in random_policy(),
        others in prop::collection::vec(any::<u32>(), 64),
        foreign in any::<u32>(),
        args in any::<[u64; 6]>(),
    ) {
        for denial in [Denial::Notify, Denial::Errno] {
            let program = policy.compile(denial);
            prop_assert!(program.instructions().len() < 4096);
            for number in all_numbers().chain(others.iter().copied()) {
                let call = Call { args, ..Call::number(number) };
                prop_assert_eq!(run(program.instructions(), call), expected(&policy, denial, call), "{}", number);
                let call = Call { arch: foreign, ..call };
                prop_assert_eq!(run(program.instructions(), call), expected(&policy, denial, call), "{}", number);
            }
        }
    }

    #[test]
    fn an_allow_list_is_what_seccompiler_makes_of_it(allowed in prop::collection::vec(any::<bool>(), NUMBERS as usize)) {
        let verdict = |allow: &bool| if *allow { SyscallVerdict::Allow } else { SyscallVerdict::Notify };
        let ours = policy_of(allowed.iter().map(verdict).collect()).compile(Denial::Errno);
        let rules: BTreeMap<i64, _> =
            (0..).zip(&allowed).filter(|(_, allow)| **allow).map(|(number, _)| (number, vec![])).collect();
        let deny = SeccompAction::Errno(libc::EPERM as u32);
        let theirs = SeccompFilter::new(rules, deny, SeccompAction::Allow, arch::TARGET).unwrap();
        let theirs: Vec<sock_filter> = seccompiler::BpfProgram::try_from(theirs).unwrap().into_iter()
            .map(|i| sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
        for number in 0..NUMBERS {
            let call = Call::number(number);
            prop_assert_eq!(run(ours.instructions(), call), run(&theirs, call), "{}", number);
        }
    }

    /// Random arguments rarely meet a rule: each is one of the policy's values, perhaps with bits changed above or below.
    #[test]
    fn argument_rules_mean_what_the_policy_says(
        indices in any::<[prop::sample::Index; 6]>(),
        flips in prop::array::uniform6(prop::option::of(0u32..64)),
    ) {
        let values = interesting_values();
        let mut args = [0; 6];
        for i in 0..6 {
            args[i] = values[indices[i].index(values.len())] ^ flips[i].map_or(0, |bit| 1 << bit);
        }
        let policy = Policy::embedded();
        let program = policy.compile(Denial::Notify);
        for number in 0..NUMBERS {
            let call = Call { args, ..Call::number(number) };
            prop_assert_eq!(run(program.instructions(), call), expected(policy, Denial::Notify, call), "{:?}", call);
        }
    }
}

fn interesting_values() -> Vec<u64> {
    let named = constants::constant_names().map(|name| constants::constant(name).unwrap().bits);
    named.chain(0..20).chain([132, 262, 1039, 1040, 0xffff_ffff, u64::MAX]).collect()
}

#[test]
fn every_operator_compares_as_it_is_named() {
    let wide = 0x1_0000_0005;
    type Compare = fn(u64, u64) -> bool;
    let ops: [(&str, Compare); 6] = [
        ("=", |a, b| a == b),
        ("!=", |a, b| a != b),
        ("<", |a, b| a < b),
        ("<=", |a, b| a <= b),
        (">", |a, b| a > b),
        (">=", |a, b| a >= b),
    ];
    for (op, compare) in ops {
        for (dword, value) in [(true, 5), (false, 5), (false, wide)] {
            let rule = format!("arg5:{} {op} {value:#x}", if dword { 32 } else { 64 });
            let text =
                format!("[[argument]]\nsyscall = \"read\"\nerrno = \"EINVAL\"\nwhy = \"x\"\ndeny = [\"{rule}\"]");
            let program = Policy::parse(&text, "test").unwrap().compile(Denial::Errno);
            for arg in [0, 4, 5, 6, wide - 1, wide, wide + 1, 0x2_0000_0000, u64::MAX] {
                let call = Call::new("read", &[0, 0, 0, 0, 0, arg]);
                let denied = compare(if dword { arg & 0xffff_ffff } else { arg }, value);
                assert_eq!(errno_of(run(program.instructions(), call)).is_some(), denied, "{rule} {arg:#x}");
            }
        }
    }
}

// --- The embedded policy ----------------------------------------------------------------------------------------------

#[test]
fn terminal_injection_is_denied_whatever_the_high_bits() {
    for high in [0, 1 << 32, 0xdead_beef << 32, u64::MAX << 32] {
        for command in [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD, libc::TIOCCONS] {
            assert_eq!(answer("ioctl", &[0, command | high]), Some(Errno::ENOTTY), "{command:#x} {high:#x}");
        }
        assert_eq!(answer("ioctl", &[0, libc::TCGETS | high]), None);
    }
}

#[test]
fn clone_makes_threads_and_processes_but_no_namespaces() {
    let thread = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
    let vfork = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    for flags in [libc::SIGCHLD, thread, vfork] {
        assert_eq!(answer("clone", &[flags as u64]), None, "{flags:#x}");
        // Every bit that unshare(2) knows as a namespace.
        for namespace in
            [0x80, 0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
        {
            assert_eq!(answer("clone", &[flags as u64 | namespace]), Some(Errno::EPERM), "{flags:#x} {namespace:#x}");
        }
    }
    assert_eq!(answer("clone3", &[]), Some(Errno::ENOSYS));
    assert_eq!(answer("unshare", &[0]), Some(Errno::EPERM));
}

#[test]
fn sockets_are_unix_tcp_and_udp() {
    let unix = libc::AF_UNIX as u64;
    let (inet, inet6) = (libc::AF_INET as u64, libc::AF_INET6 as u64);
    for flags in [0, libc::SOCK_CLOEXEC as u64, (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64] {
        for kind in [1, 2, 5] {
            assert_eq!(answer("socket", &[unix, kind | flags, 0]), None);
        }
        for family in [inet, inet6] {
            assert_eq!(answer("socket", &[family, 1 | flags, 0]), None);
            assert_eq!(answer("socket", &[family, 1 | flags, 6]), None);
            assert_eq!(answer("socket", &[family, 2 | flags, 17]), None);
            for kind in (3..16).map(|kind| kind | flags) {
                assert_eq!(answer("socket", &[family, kind, 0]), Some(Errno::EAFNOSUPPORT), "type {kind}");
            }
            for protocol in [1, 58, 115, 132, 136, 256, 262] {
                assert_eq!(answer("socket", &[family, 1 | flags, protocol]), Some(Errno::EAFNOSUPPORT));
            }
        }
    }
    for family in (0..64).filter(|family| ![unix, inet, inet6].contains(family)) {
        assert_eq!(answer("socket", &[family, 1, 0]), Some(Errno::EAFNOSUPPORT), "family {family}");
        assert_eq!(answer("socket", &[family | 1 << 32, 2, 0]), Some(Errno::EAFNOSUPPORT), "family {family}");
    }
    for family in 0..64 {
        assert_eq!(answer("socketpair", &[family, 1, 0]).is_none(), family == unix);
    }
}

#[test]
fn core_limits_are_read_only() {
    let core = libc::RLIMIT_CORE as u64;
    assert_eq!(answer("setrlimit", &[core, 0x1000]), Some(Errno::EPERM));
    assert_eq!(answer("prlimit64", &[0, core, 0, 0x1000]), None);
    for pointer in [1, 0x1000, 0x7fff_0000_0000, 1 << 32] {
        assert_eq!(answer("prlimit64", &[0, core, pointer, 0]), Some(Errno::EPERM), "{pointer:#x}");
        assert_eq!(answer("prlimit64", &[0, core | 1 << 32, pointer, 0]), Some(Errno::EPERM), "{pointer:#x}");
        assert_eq!(answer("prlimit64", &[0, libc::RLIMIT_STACK as u64, pointer, 0]), None);
    }
}

#[test]
fn subsets_hold() {
    assert_eq!(answer("personality", &[0xffff_ffff]), None);
    assert_eq!(answer("personality", &[0]), None);
    assert_eq!(answer("personality", &[0x0040_0000]), Some(Errno::EPERM));
    assert_eq!(answer("prctl", &[libc::PR_SET_NAME as u64]), None);
    for option in [libc::PR_SET_SECCOMP, libc::PR_SET_MM, libc::PR_SET_SPECULATION_CTRL, libc::PR_CAP_AMBIENT] {
        assert_eq!(answer("prctl", &[option as u64]), Some(Errno::EINVAL));
        assert_eq!(answer("prctl", &[option as u64 | 1 << 40]), Some(Errno::EINVAL));
    }
    assert_eq!(answer("mknodat", &[0, 0, u64::from(libc::S_IFIFO) | 0o644]), None);
    assert_eq!(answer("mknodat", &[0, 0, u64::from(libc::S_IFCHR) | 0o644]), Some(Errno::EPERM));
    assert_eq!(answer("mknod", &[0, u64::from(libc::S_IFBLK) | 0o644]), Some(Errno::EPERM));
    assert_eq!(answer("fcntl", &[0, libc::F_SETLK as u64]), None);
    assert_eq!(answer("fcntl", &[0, libc::F_SETLEASE as u64]), Some(Errno::EINVAL));
}

#[test]
fn every_known_call_is_named() {
    let unnamed: Vec<_> =
        Policy::embedded().table().into_iter().filter(|row| row.why.starts_with("not named")).collect();
    let names: Vec<_> = unnamed.iter().map(|row| row.name).collect();
    assert!(names.is_empty(), "{EMBEDDED_FILE} decides nothing about: {}", names.join(" "));
}

#[test]
fn the_table_is_the_golden_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/seccomp-table.txt");
    let line = |row: Row| format!("{}\t{}\t{}\n", row.name, row.verdict, row.why);
    let table: String = Policy::embedded().table().into_iter().map(line).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = table.lines().zip(golden.lines().chain(std::iter::repeat(""))).find(|(ours, theirs)| ours != theirs);
    assert!(
        table == golden,
        "the policy's table is no longer tests/golden/seccomp-table.txt, first at\n  now:    {}\n  golden: {}\n\
         If that is meant: UPDATE_GOLDEN=1 cargo test seccomp, and read the diff.",
        differs.map_or("(end)", |(ours, _)| ours),
        differs.map_or("(more lines)", |(_, theirs)| theirs),
    );
}

#[test]
fn names_of_numbers() {
    assert_eq!(syscall_name(165), "mount");
    assert_eq!(syscall_name(400), "syscall_400");
}

// --- Additions and errors ---------------------------------------------------------------------------------------------

fn addition(syscall: &str) -> Vec<SyscallAddition> {
    vec![SyscallAddition { syscall: syscall.into(), why: "a test".into() }]
}

#[test]
fn additions_lift_denials() {
    let policy = Policy::embedded().with(&addition("ptrace")).unwrap();
    let ptrace = Call::new("ptrace", &[]);
    assert_eq!(run(policy.compile(Denial::Notify).instructions(), ptrace), libc::SECCOMP_RET_ALLOW);
    assert_eq!(run(Policy::embedded().compile(Denial::Notify).instructions(), ptrace), libc::SECCOMP_RET_USER_NOTIF);
    assert_eq!(policy.table()[101].why, "a test");
    assert!(Policy::embedded().with(&addition("inotify_init1")).is_ok());
    assert!(Policy::embedded().with(&addition("read")).is_ok());
}

#[test]
fn additions_that_are_refused() {
    let refused = |additions: Vec<SyscallAddition>| Policy::embedded().with(&additions).unwrap_err().to_string();
    assert_eq!(refused(addition("ptrce")), "addition `ptrce`: no such system call; did you mean `ptrace`?");
    assert!(refused(addition("clone3")).contains("glibc falls back"));
    assert!(refused(addition("mount")).contains("can't be added"));
    assert!(refused(addition("socket")).contains("argument rules"));
    let no_reason = SyscallAddition { syscall: "ptrace".into(), why: " ".into() };
    assert!(refused(vec![no_reason]).contains("no reason"));
}

#[test]
fn errors_say_where_and_what_was_meant() {
    let rule = |rule: &str| {
        let head = "[[argument]]\nwhy = \"x\"\nsyscall = \"ioctl\"\nerrno = \"EINVAL\"\n";
        format!("{head}deny = [\n\"{rule}\"]")
    };
    let group = |group: &str| format!("[[allow]]\nwhy = \"x\"\n{group}");
    #[rustfmt::skip]
    let cases = [
        (group("sycalls = \"\""), 3, "unknown field `sycalls`", "did you mean `syscalls`?"),
        ("[[alow]]\n".into(), 1, "unknown field `alow`", "did you mean `allow`?"),
        (group("syscalls = \"\"\"\nread\n\nwriet close\"\"\""), 6, "no such system call: `wriet`", "`write`?"),
        (group("syscalls = \"frobnicate_it\""), 3, "no such system call", ""),
        (group("syscalls = \"read read\""), 3, "`read` has a verdict already", ""),
        (group("syscalls = ["), 3, "unclosed array", ""),
        (group("syscalls = [\"read\"]"), 3, "expected a borrowed string", ""),
        ("[[allow]]\nwhy = \" \"\nsyscalls = \"read\"".into(), 2, "`why` is empty", ""),
        ("[[allow]]\nsyscalls = \"read\"".into(), 1, "missing field `why`", ""),
        (rule("arg0:32 = 0").replace("EINVAL", "EINVALL"), 4, "no such errno", "did you mean `EINVAL`?"),
        (rule("arg0:32 = 0").replace("\"arg0:32 = 0\"", ""), 3, "`deny` is empty", ""),
        (rule(""), 6, "a rule without conditions", ""),
        (rule("arg0:32 = 0 and"), 6, "on both sides of `and`", ""),
        (rule("arg0:32 equals 0"), 6, "after `arg0:32` comes", ""),
        (rule("arg0:32 none of"), 6, "after `arg0:32` comes", ""),
        (rule("arg0 = 0"), 6, "with its width", ""),
        (rule("arg6:32 = 0"), 6, "arg0 to arg5", ""),
        (rule("arg0:32 = -1"), 6, "no such constant", ""),
        (rule("arg0:32 = 1x"), 6, "not a number", ""),
        (rule("arg0:32 = TIOCSPGP"), 6, "no such constant", "did you mean `TIOCSPGRP`?"),
        (rule("arg0:32 = 0x100000000"), 6, "does not fit the 32 bits", ""),
        (rule("arg0:32 & 2 = 3"), 6, "never holds", ""),
    ];
    for (text, line, message, hint) in cases {
        let error = Policy::parse(&text, "test.toml").expect_err(&text).to_string();
        assert!(error.starts_with(&format!("test.toml:{line}: ")), "{error}\n{text}");
        assert!(error.contains(message) && error.contains(hint), "{error}\n{text}");
    }
}

// --- The kernel takes it ----------------------------------------------------------------------------------------------

/// Filters are a thread's own and end with it.
fn in_a_filtered_thread<T: Send + 'static>(program: Program, then: impl FnOnce(Duration) -> T + Send + 'static) -> T {
    let program: Vec<_> = program
        .instructions()
        .iter()
        .map(|i| seccompiler::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
        .collect();
    let thread = std::thread::spawn(move || {
        let start = Instant::now();
        seccompiler::apply_filter(&program).expect("the kernel refused the filter");
        then(start.elapsed())
    });
    thread.join().unwrap()
}

#[test]
fn the_kernel_enforces_it() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use rustix::fs::inotify;

    in_a_filtered_thread(Policy::embedded().compile(Denial::Errno), |_| {
        assert!(nix::unistd::getppid().as_raw() >= 0);
        let mounted = mount(None::<&str>, "/nowhere", Some("tmpfs"), MsFlags::empty(), None::<&str>);
        assert_eq!(mounted, Err(Errno::EPERM));
        assert_eq!(unshare(CloneFlags::empty()), Err(Errno::EPERM));
        assert_eq!(inotify::init(inotify::CreateFlags::CLOEXEC).err(), Some(rustix::io::Errno::NOSYS));
        let open = |family, kind| socket(family, kind, SockFlag::SOCK_CLOEXEC, None);
        assert!(open(AddressFamily::Unix, SockType::Stream).is_ok());
        assert_eq!(open(AddressFamily::Netlink, SockType::Datagram).err(), Some(Errno::EAFNOSUPPORT));
        assert_eq!(open(AddressFamily::Inet, SockType::Raw).err(), Some(Errno::EAFNOSUPPORT));
        // A thread of this thread has the filter as well, and glibc made it by clone after ENOSYS from clone3.
        assert_eq!(std::thread::spawn(|| unshare(CloneFlags::empty())).join().unwrap(), Err(Errno::EPERM));
    });
    assert_eq!(unshare(CloneFlags::empty()), Ok(()), "the filter outlived its thread");
}

/// A control of the times promised; generous, because test machines are busy and this may be a debug build.
/// `cargo test --release seccomp -- --nocapture measured` prints them.
#[test]
fn measured() {
    let median = |sample: &mut dyn FnMut() -> Duration| {
        let mut times: Vec<_> = (0..101).map(|_| sample()).collect();
        times.sort();
        times[50]
    };
    let parse = median(&mut || {
        let start = Instant::now();
        let policy = Policy::parse(EMBEDDED, EMBEDDED_FILE);
        (start.elapsed(), policy.is_ok()).0
    });
    let compile = median(&mut || {
        let start = Instant::now();
        let program = Policy::embedded().compile(Denial::Notify);
        (start.elapsed(), program.instructions().len()).0
    });
    let install = median(&mut || in_a_filtered_thread(Policy::embedded().compile(Denial::Errno), |time| time));
    let program = Policy::embedded().compile(Denial::Notify);
    let all = program.instructions().len();
    println!("{all} instructions; parse {parse:?}, compile {compile:?}, install {install:?}");
    assert!(all < 800 && parse + compile < Duration::from_millis(50) && install < Duration::from_millis(50));
}
