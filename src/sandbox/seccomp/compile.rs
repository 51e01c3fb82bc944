//! From a policy to BPF.
//!
//! Classic BPF only jumps forward, and its conditional jumps reach 255 instructions. So the program is made from its end:
//! when a jump is written, where it goes is already there, and what is too far away is brought near, a return by a second
//! one, anything else by an unconditional jump, which reaches everywhere.

use libc::sock_filter;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

use super::{Condition, Denial, NUMBERS, Op, Policy, SyscallVerdict};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the system call filter knows x86_64 only: give `arch` the constants of this architecture");

/// All that is particular to the architecture.
pub(super) mod arch {
    /// `AUDIT_ARCH_X86_64`: EM_X86_64, 64 bits, little-endian.
    pub const AUDIT: u32 = 62 | 0x8000_0000 | 0x4000_0000;
    pub const TARGET: seccompiler::TargetArch = seccompiler::TargetArch::x86_64;
    /// From here on numbers are those of the x32 ABI, except -1.
    pub const X32: u32 = 0x4000_0000;
}

/// Offsets in `struct seccomp_data`.
pub(super) const NUMBER_OFFSET: u32 = 0;
pub(super) const ARCH_OFFSET: u32 = 4;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GREATER_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The kernel takes 4096 instructions, and refuses a longer program. The tree has less than 1500 in the worst case (every
/// number unlike its neighbours); argument rules, as seccompiler writes them, may have the rest.
pub(super) const ARGUMENT_INSTRUCTIONS_MAX: usize = 2500;

/// A compiled filter, to be installed by a single seccomp(2) call:
///
/// ```text
/// prctl(PR_SET_NO_NEW_PRIVS, 1)
/// seccomp(SECCOMP_SET_MODE_FILTER, flags, &sock_fprog { len, filter })
/// ```
///
/// With `SECCOMP_FILTER_FLAG_NEW_LISTENER` if it was compiled with [`Denial::Notify`]; what the call returns then is the
/// listener. Installing needs no memory but the instructions.
#[derive(Debug, Clone)]
pub struct Program(Box<[sock_filter]>);

impl Program {
    /// The instructions, fewer than 4096, for `sock_fprog`.
    pub fn instructions(&self) -> &[sock_filter] {
        &self.0
    }
}

pub(super) fn compile(policy: &Policy, denial: Denial) -> Program {
    let mut assembler = Assembler::default();
    let ranges = ranges(policy, denial, &mut assembler);
    let root = assembler.tree(&ranges);
    let root = assembler.within_reach(root);
    assembler.jump(root);
    assembler.push(LOAD, NUMBER_OFFSET, 0, 0);
    assembler.push(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0);
    assembler.push(JUMP_EQUAL, arch::AUDIT, 1, 0);
    assembler.push(LOAD, ARCH_OFFSET, 0, 0);
    Program(assembler.finish())
}

/// The number line, cut where the answer changes: where each range begins and what is done with its numbers.
fn ranges(policy: &Policy, denial: Denial, assembler: &mut Assembler) -> Vec<(u32, Target)> {
    let enosys = errno(nix::errno::Errno::ENOSYS);
    let denied = match denial {
        Denial::Notify => Target::Return(libc::SECCOMP_RET_USER_NOTIF),
        Denial::Errno => errno(nix::errno::Errno::EPERM),
    };
    let mut ranges: Vec<(u32, Target)> = Vec::with_capacity(policy.entries.len());
    let mut begin = |number: u32, target: Target| {
        if ranges.last().is_none_or(|(_, last)| *last != target) {
            ranges.push((number, target));
        }
    };
    for (number, entry) in policy.entries.iter().enumerate() {
        let target = match &entry.verdict {
            SyscallVerdict::Allow => Target::Return(libc::SECCOMP_RET_ALLOW),
            SyscallVerdict::AllowUnless(rules) => assembler.specialise(number as u32, &rules.program),
            SyscallVerdict::Answer(number) => errno(*number),
            SyscallVerdict::Notify => denied,
        };
        begin(number as u32, target);
    }
    begin(NUMBERS, enosys);
    begin(arch::X32, Target::Return(libc::SECCOMP_RET_KILL_PROCESS));
    // What a tracer writes to skip a call, and what the kernel itself answers ENOSYS.
    begin(u32::MAX, enosys);
    ranges
}

fn errno(errno: nix::errno::Errno) -> Target {
    Target::Return(libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// Where a path through the tree goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Return(u32),
    /// At an instruction, counted from the program's end.
    At(usize),
}

/// What is known of the accumulator somewhere in an argument program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accumulator {
    Unknown,
    Is(u32),
    /// The word of `struct seccomp_data` at this offset.
    Holds(u32),
}

/// A program in the making, last instruction first.
#[derive(Default)]
struct Assembler {
    reversed: Vec<sock_filter>,
    /// Each action's return instruction that was written last, hence the nearest.
    returns: Vec<(u32, usize)>,
}

impl Assembler {
    /// How far a conditional jump may be asked to go: two less than it can, for the two instructions that bringing both
    /// of its targets near may put in between.
    const REACH: usize = u8::MAX as usize - 2;

    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> usize {
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// How many instructions the next one would jump over to get there.
    fn distance(&self, at: usize) -> usize {
        self.reversed.len() - 1 - at
    }

    fn short_distance(&self, at: usize) -> u8 {
        u8::try_from(self.distance(at)).expect("targets are brought within reach first")
    }

    fn jump(&mut self, at: usize) -> usize {
        match self.distance(at) {
            0 => at,
            distance => self.push(JUMP, distance as u32, 0, 0),
        }
    }

    /// Copies what a program does with one number of our architecture.
    ///
    /// seccompiler's programs ask for both again, load an argument anew for every comparison and hop from rule to rule:
    /// following each path through the program with what is known about the accumulator leaves less than half. That
    /// matters because the kernel's own compiler takes 160 ns for an instruction, once per run.
    fn specialise(&mut self, number: u32, program: &[sock_filter]) -> Target {
        self.follow(number, program, 0, Accumulator::Unknown, &mut Vec::new())
    }

    fn follow(
        &mut self,
        number: u32,
        program: &[sock_filter],
        at: usize,
        accumulator: Accumulator,
        written: &mut Vec<(usize, Accumulator, Target)>,
    ) -> Target {
        let before = written.iter().find(|(other, known, _)| (*other, *known) == (at, accumulator));
        if let Some((_, _, target)) = before {
            return *target;
        }
        let mut follow =
            |assembler: &mut Self, at, accumulator| assembler.follow(number, program, at, accumulator, written);
        let sock_filter { code, jt, jf, k } = program[at];
        let next = at + 1;
        let (if_true, if_false) = (next + usize::from(jt), next + usize::from(jf));
        let target = match (code, accumulator) {
            (RETURN, _) => Target::Return(k),
            (JUMP, _) => follow(self, next + k as usize, accumulator),
            (LOAD, _) if k == NUMBER_OFFSET => follow(self, next, Accumulator::Is(number)),
            (LOAD, _) if k == ARCH_OFFSET => follow(self, next, Accumulator::Is(arch::AUDIT)),
            (LOAD, Accumulator::Holds(offset)) if offset == k => follow(self, next, accumulator),
            (LOAD, _) => {
                let then = follow(self, next, Accumulator::Holds(k));
                self.before(then, code, k)
            }
            (JUMP_EQUAL, Accumulator::Is(value)) => {
                follow(self, if value == k { if_true } else { if_false }, accumulator)
            }
            (JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_EQUAL, _) => {
                let if_true = follow(self, if_true, accumulator);
                let if_false = follow(self, if_false, accumulator);
                self.branch(code, k, if_true, if_false)
            }
            (AND, _) => {
                let then = follow(self, next, Accumulator::Unknown);
                self.before(then, code, k)
            }
            _ => unreachable!("seccompiler has no other instructions"),
        };
        written.push((at, accumulator, target));
        target
    }

    /// An instruction that does not jump.
    fn before(&mut self, then: Target, code: u16, k: u32) -> Target {
        let then = self.within_reach(then);
        self.jump(then);
        Target::At(self.push(code, k, 0, 0))
    }

    fn branch(&mut self, code: u16, k: u32, if_true: Target, if_false: Target) -> Target {
        if if_true == if_false {
            return if_true;
        }
        let if_true = self.within_reach(if_true);
        let if_false = self.within_reach(if_false);
        let (jt, jf) = (self.short_distance(if_true), self.short_distance(if_false));
        Target::At(self.push(code, k, jt, jf))
    }

    fn within_reach(&mut self, target: Target) -> usize {
        match target {
            Target::At(at) if self.distance(at) <= Self::REACH => at,
            Target::At(at) => self.jump(at),
            Target::Return(action) => {
                let written = self.returns.iter().position(|(other, _)| *other == action);
                match written {
                    Some(i) if self.distance(self.returns[i].1) <= Self::REACH => self.returns[i].1,
                    _ => {
                        let at = self.push(RETURN, action, 0, 0);
                        match written {
                            Some(i) => self.returns[i].1 = at,
                            None => self.returns.push((action, at)),
                        }
                        at
                    }
                }
            }
        }
    }

    /// Finds the range that holds the number in the accumulator.
    fn tree(&mut self, ranges: &[(u32, Target)]) -> Target {
        if let [(_, target)] = ranges {
            return *target;
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let first_of_high = high[0].0;
        let high = self.tree(high);
        let low = self.tree(low);
        self.branch(JUMP_GREATER_EQUAL, first_of_high, high, low)
    }

    fn finish(mut self) -> Box<[sock_filter]> {
        self.reversed.reverse();
        self.reversed.into()
    }
}

/// The argument rules of one call as a program of its own: `errno` if a rule matches, else allowed.
pub(super) fn argument_program(
    number: u32,
    errno: nix::errno::Errno,
    deny: &[Vec<Condition>],
) -> Result<Vec<sock_filter>, seccompiler::BackendError> {
    let rules = deny.iter().map(|conditions| {
        let conditions: Result<Vec<Vec<_>>, _> = conditions.iter().map(conditions_of).collect();
        SeccompRule::new(conditions?.concat())
    });
    let filter = SeccompFilter::new(
        [(i64::from(number), rules.collect::<Result<_, _>>()?)].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        arch::TARGET,
    )?;
    let program = seccompiler::BpfProgram::try_from(filter)?;
    Ok(program.into_iter().map(|i| sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect())
}

fn conditions_of(condition: &Condition) -> Result<Vec<SeccompCondition>, seccompiler::BackendError> {
    let length = if condition.dword { SeccompCmpArgLen::Dword } else { SeccompCmpArgLen::Qword };
    let compare = |op, bits| SeccompCondition::new(condition.arg, length.clone(), op, bits);
    Ok(match &condition.op {
        Op::Eq(value) => vec![compare(SeccompCmpOp::Eq, value.bits)?],
        Op::Ne(value) => vec![compare(SeccompCmpOp::Ne, value.bits)?],
        Op::Lt(value) => vec![compare(SeccompCmpOp::Lt, value.bits)?],
        Op::Le(value) => vec![compare(SeccompCmpOp::Le, value.bits)?],
        Op::Gt(value) => vec![compare(SeccompCmpOp::Gt, value.bits)?],
        Op::Ge(value) => vec![compare(SeccompCmpOp::Ge, value.bits)?],
        Op::MaskedEq { mask, value } => {
            vec![compare(SeccompCmpOp::MaskedEq(mask.bits), value.bits)?]
        }
        Op::NoneOf(values) => {
            values.iter().map(|value| compare(SeccompCmpOp::Ne, value.bits)).collect::<Result<_, _>>()?
        }
    })
}
