//! The system call filter.
//!
//! A [`Policy`] is data: `sandbox-profiles/seccomp.toml` gives every system call a verdict and a reason. It is compiled to
//! **one** classic BPF [`Program`]:
//!
//! ```text
//! other architecture?  -> kill the process
//! number               -> balanced binary tree over ranges of numbers
//!                           -> return allow | errno | notify
//!                           -> argument rules of this call, as compiled by seccompiler -> return allow | errno
//! ```
//!
//! Why a tree: installing a filter makes the kernel walk it once for each of its ~470 numbers, to learn which are allowed
//! whatever their arguments. A linear chain of our length costs 700 us for that, once per run; the tree a tenth of it.
//!
//! Why one program: the argument rules of a call stand where the tree ends for its number. Stacked filters would be
//! walked, compiled and charged each on its own, and seccompiler gives a filter one errno only.
//!
//! Denials are `EPERM` and reported to a listener ([`Denial::Notify`]): the kernel holds the caller, the cell's init
//! records the number and answers `EPERM`. It decides nothing, so there is nothing to race with. What honest programs are
//! expected to try is answered with its errno in silence, and so are denied arguments.
//!
//! Invariants: nothing here makes a system call or holds `unsafe`; a compiled program needs no memory to be installed; no
//! rule looks behind a pointer.

mod compile;
mod constants;
mod policy;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, LazyLock};

use nix::errno::Errno;
use syscalls::Sysno;

use crate::words::profile::SyscallAddition;

pub use compile::Program;
pub use policy::PolicyError;

/// The policy file, and the name under which its errors are told.
const EMBEDDED: &str = include_str!("../../../sandbox-profiles/seccomp.toml");
const EMBEDDED_FILE: &str = "sandbox-profiles/seccomp.toml";

/// One past the highest number of the kernel table this was built with.
const NUMBERS: u32 = Sysno::last().id() as u32 + 1;

/// What may be called: a verdict and a reason for every number of the kernel's table.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Indexed by number, [`NUMBERS`] of them.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    verdict: SyscallVerdict,
    why: Arc<str>,
    /// No addition may lift the denial.
    permanent: bool,
}

/// What becomes of a call.
#[derive(Debug, Clone)]
pub enum SyscallVerdict {
    /// It is made.
    Allow,
    /// It is made unless its arguments match; then it fails in silence.
    AllowUnless(Arc<ArgumentRules>),
    /// It fails in silence: an expected probe.
    Answer(Errno),
    /// It fails with `EPERM` and is reported.
    Notify,
}

/// Which arguments of an allowed call are denied: any of `deny` whose conditions all hold.
#[derive(Debug)]
pub struct ArgumentRules {
    errno: Errno,
    deny: Vec<Vec<Condition>>,
    /// The rules alone, as seccompiler compiles them.
    program: Vec<libc::sock_filter>,
}

#[derive(Debug, Clone)]
struct Condition {
    arg: u8,
    /// Only the low 32 bits count.
    dword: bool,
    op: Op,
}

#[derive(Debug, Clone)]
enum Op {
    Eq(Value),
    Ne(Value),
    Lt(Value),
    Le(Value),
    Gt(Value),
    Ge(Value),
    MaskedEq { mask: Value, value: Value },
    NoneOf(Vec<Value>),
}

/// A number, with the name the policy gave it.
#[derive(Debug, Clone, Copy)]
struct Value {
    bits: u64,
    name: Option<&'static str>,
}

/// How a denied call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// By the process that holds the filter's listener. Without a listener such calls fail with `ENOSYS`.
    Notify,
    /// By the kernel, with `EPERM`: for a host or a run without a listener.
    Errno,
}

/// A line of the policy's table.
#[derive(Debug, Clone)]
pub struct Row {
    pub number: u32,
    pub name: &'static str,
    pub verdict: SyscallVerdict,
    pub why: String,
}

impl Policy {
    /// The policy of `sandbox-profiles/seccomp.toml`, as it was when this was built. A test holds that it parses.
    pub fn embedded() -> &'static Policy {
        static POLICY: LazyLock<Policy> = LazyLock::new(|| match Policy::parse(EMBEDDED, EMBEDDED_FILE) {
            Ok(policy) => policy,
            Err(error) => panic!("{error}"),
        });
        &POLICY
    }

    /// Reads a policy. `file` is what errors call the text.
    pub fn parse(text: &str, file: &str) -> Result<Policy, PolicyError> {
        policy::parse(text, file)
    }

    /// The same policy with denied calls allowed. Adding what is allowed anyway changes nothing; what the policy marks as
    /// permanent and calls with argument rules can't be added.
    pub fn with(&self, additions: &[SyscallAddition]) -> Result<Policy, PolicyError> {
        let mut policy = self.clone();
        for addition in additions {
            policy.add(addition)?;
        }
        Ok(policy)
    }

    fn add(&mut self, addition: &SyscallAddition) -> Result<(), PolicyError> {
        let name = &addition.syscall;
        let refuse = |message: String| Err(PolicyError::in_addition(name, message));
        let Some(number) = policy::number(name) else {
            return Err(PolicyError::unknown_addition(name));
        };
        if addition.why.trim().is_empty() {
            return refuse("has no reason: `why` is empty".into());
        }
        let entry = &mut self.entries[number as usize];
        match entry.verdict {
            SyscallVerdict::Allow => {}
            SyscallVerdict::AllowUnless(_) => {
                return refuse("is allowed already, and its argument rules can't be lifted".into());
            }
            _ if entry.permanent => return refuse(format!("can't be added: {}", entry.why)),
            SyscallVerdict::Answer(_) | SyscallVerdict::Notify => {
                *entry = Entry { verdict: SyscallVerdict::Allow, why: addition.why.as_str().into(), permanent: false };
            }
        }
        Ok(())
    }

    /// The program that enforces this policy.
    pub fn compile(&self, denial: Denial) -> Program {
        compile::compile(self, denial)
    }

    /// The verdict on a number; what no kernel table knows is answered `ENOSYS`.
    pub fn verdict(&self, number: u32) -> SyscallVerdict {
        let entry = self.entries.get(number as usize);
        entry.map_or(SyscallVerdict::Answer(Errno::ENOSYS), |entry| entry.verdict.clone())
    }

    /// Every call the kernel table knows, in the order of numbers.
    pub fn table(&self) -> Vec<Row> {
        let row = |(number, entry): (usize, &Entry)| {
            let name = Sysno::new(number)?.name();
            Some(Row { number: number as u32, name, verdict: entry.verdict.clone(), why: entry.why.to_string() })
        };
        self.entries.iter().enumerate().filter_map(row).collect()
    }
}

/// The name of a system call, or `syscall_N`.
pub fn syscall_name(number: u32) -> Cow<'static, str> {
    match Sysno::new(number as usize) {
        Some(sysno) => sysno.name().into(),
        None => format!("syscall_{number}").into(),
    }
}

impl fmt::Display for SyscallVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::AllowUnless(rules) => write!(f, "allow unless {rules}"),
            Self::Answer(errno) => write!(f, "answer {errno:?}"),
            Self::Notify => f.write_str("deny"),
        }
    }
}

impl fmt::Display for ArgumentRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, conditions) in self.deny.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { " or " })?;
            for (i, condition) in conditions.iter().enumerate() {
                f.write_str(if i == 0 { "" } else { " and " })?;
                condition.fmt(f)?;
            }
        }
        write!(f, ": {:?}", self.errno)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arg = format!("arg{}:{}", self.arg, if self.dword { 32 } else { 64 });
        match &self.op {
            Op::Eq(value) => write!(f, "{arg} = {value}"),
            Op::Ne(value) => write!(f, "{arg} != {value}"),
            Op::Lt(value) => write!(f, "{arg} < {value}"),
            Op::Le(value) => write!(f, "{arg} <= {value}"),
            Op::Gt(value) => write!(f, "{arg} > {value}"),
            Op::Ge(value) => write!(f, "{arg} >= {value}"),
            Op::MaskedEq { mask, value } => write!(f, "{arg} & {mask} = {value}"),
            Op::NoneOf(values) => {
                let values: Vec<_> = values.iter().map(Value::to_string).collect();
                write!(f, "{arg} none of {}", values.join(" "))
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => f.write_str(name),
            None if self.bits < 10 => write!(f, "{}", self.bits),
            None => write!(f, "{:#x}", self.bits),
        }
    }
}

/// The policy in words, for `--dry-run`: a line for each verdict, and the profile's additions with their reasons.
pub fn describe(additions: &[SyscallAddition], notify: bool) -> Vec<String> {
    let policy = match Policy::embedded().with(additions) {
        Ok(policy) => policy,
        Err(error) => return vec![error.to_string()],
    };
    let mut groups: Vec<(String, Vec<&'static str>)> = Vec::new();
    let mut lines: Vec<String> =
        additions.iter().map(|addition| format!("added {}: {}", addition.syscall, addition.why)).collect();
    for row in policy.table() {
        let heading = match row.verdict {
            SyscallVerdict::Allow => "allow".to_owned(),
            SyscallVerdict::AllowUnless(_) => {
                lines.push(format!("{} {}", row.name, row.verdict));
                continue;
            }
            SyscallVerdict::Answer(errno) => format!("{errno:?}"),
            SyscallVerdict::Notify if notify => "EPERM and reported".to_owned(),
            SyscallVerdict::Notify => "EPERM".to_owned(),
        };
        match groups.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, names)) => names.push(row.name),
            None => groups.push((heading, vec![row.name])),
        }
    }
    lines.extend(groups.into_iter().map(|(heading, names)| format!("{heading}: {}", names.join(" "))));
    lines.push("any other number: ENOSYS; a foreign ABI: killed".to_owned());
    lines
}
