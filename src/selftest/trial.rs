//! One attack: planned and run as any program, and held against its row.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::attack::{ATTACK, Attack, Evidence, Layer, Needs, Printed, Program, Stdin};
use super::bait::Bait;
use super::golden::is_one_of;
use super::{Finding, Mark, Options, PROGRAMS};
use crate::machine::Machine;
use crate::plan::{HOST_IMAGE, Plan, Surroundings, plan};
use crate::runner::{self, InProcess, Input, Sink, StepResult};
use crate::supervisor::Supervisor;
use crate::words::host::CgroupKind;
use crate::words::limits::Limits;
use crate::words::profile::Profiles;
use crate::words::request::{self, Request, SourceFile};
use crate::words::verdict::{Status, signal_name};

/// The attacks' file in the work directory.
const FILE: &str = "attack";
/// A request's files are not executable, and where a control leaves out the change to the payload's user they are
/// another's, whose mode cannot be changed: a copy is made.
const ENTER: &str = "cp attack /tmp/attack && chmod 755 /tmp/attack && exec /tmp/attack \"$@\"";
/// How long after its wall time a cell may still be there: the kill, the reaping, a busy machine.
const GRACE: Duration = Duration::from_secs(5);
/// What ends by itself has nothing to wait for.
const SOON: Duration = Duration::from_secs(3);
/// Bytes of what a program printed that a problem shows.
const SHOWN_MAX: usize = 300;

/// What every attack is tried with.
pub struct Trial<'a> {
    pub machine: &'a Machine,
    pub rootfs: &'a str,
    pub options: &'a Options,
    pub bait: &'a Bait,
    pub runtime: &'a tokio::runtime::Runtime,
}

impl Trial<'_> {
    /// Runs the attacks' file with nothing to do, so that a machine on which nothing runs is told once and not a
    /// hundred times.
    ///
    /// # Errors
    /// No cell can be made, or the file cannot be executed in it.
    pub fn greet(&self, supervisor: &mut Supervisor) -> anyhow::Result<()> {
        let words = builtin_words("greet", &[], None, self.bait);
        let (step, _) = self.run(supervisor, &ATTACK, &words)?;
        // 2 is what it answers to a program it does not know.
        if step.verdict.exit_code != Some(2) || !step.output.stderr.starts_with(b"attack:") {
            bail!("the attacks cannot be run in image {}: {}", self.rootfs, step.verdict.message);
        }
        Ok(())
    }

    pub fn attempt(&self, supervisor: &mut Supervisor, attack: &'static Attack) -> Finding {
        let started = Instant::now();
        let host = &self.machine.host;
        let stopped_by = attack.layers.iter().copied().find(|layer| layer.is_in_force(host));
        let finding = |mark, evidence: String, attempts| Finding {
            attack,
            stopped_by: stopped_by.filter(|_| !matches!(mark, Mark::NotApplicable(_))),
            mark,
            evidence,
            attempts,
            took: started.elapsed(),
        };
        if let Some(why) = self.inapplicable(attack.needs) {
            return finding(Mark::NotApplicable(why), String::new(), Vec::new());
        }
        if stopped_by.is_none() {
            let layers: Vec<_> = attack.layers.iter().map(|layer| layer.word()).collect();
            let problem = format!("this host has no layer that stops it ({}): not tried", layers.join(", "));
            return finding(Mark::Fail(vec![problem]), "not tried".to_owned(), Vec::new());
        }
        if let Program::Builtin(program, _) = attack.program
            && !attack.before.is_empty()
        {
            let words = builtin_words(program, attack.before, None, self.bait);
            match self.run(supervisor, attack, &words) {
                Ok((step, _)) if granted(&step) => {}
                Ok((step, _)) => {
                    let problem = format!("its first run did not do its part: {}", shown(&step));
                    return finding(Mark::Fail(vec![problem]), String::new(), Vec::new());
                }
                Err(error) => return finding(Mark::Fail(vec![format!("{error:#}")]), String::new(), Vec::new()),
            }
        }
        let words = match attack.program {
            Program::Builtin(program, arguments) => {
                builtin_words(program, arguments, Some(&attack.expected.printed), self.bait)
            }
            Program::Shell(script) => ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        };
        let (step, limits, cleanup) = match self.run_whole(supervisor, attack, &words) {
            Ok(done) => done,
            Err(error) => return finding(Mark::Fail(vec![format!("{error:#}")]), String::new(), Vec::new()),
        };
        let mut problems = self.problems(attack, &step, &limits);
        problems.extend(cleanup.into_iter().map(|left| format!("left over: {left}")));
        problems.extend(self.bait.taken().into_iter().map(|bait| format!("{bait} of the host was reached")));
        let mark = if problems.is_empty() { Mark::Pass } else { Mark::Fail(problems) };
        let tried = tried(attack, &step);
        finding(mark, evidence(attack, &step, &tried), tried)
    }

    fn inapplicable(&self, needs: Needs) -> Option<&'static str> {
        match needs {
            Needs::BuiltImage if self.rootfs == HOST_IMAGE => {
                Some("the machine's own programs, of which some may be set-user-id, are not an image of ours")
            }
            Needs::ForeignAbi if is_user_mode_linux() => {
                Some("User Mode Linux does not tell system calls of another architecture apart")
            }
            _ => None,
        }
    }

    fn run(
        &self,
        supervisor: &mut Supervisor,
        attack: &Attack,
        words: &[String],
    ) -> anyhow::Result<(StepResult, Limits)> {
        self.run_whole(supervisor, attack, words).map(|(step, limits, _)| (step, limits))
    }

    /// Runs `words` as any command is run; what came of it, under which limits, and what could not be cleaned up.
    fn run_whole(
        &self,
        supervisor: &mut Supervisor,
        attack: &Attack,
        words: &[String],
    ) -> anyhow::Result<(StepResult, Limits, Vec<String>)> {
        let program = SourceFile { name: FILE.to_owned(), content: PROGRAMS.to_vec() };
        let plan = self.plan(attack, words, &program)?;
        let limits = plan.run.limits.clone();
        let stdin = match attack.stdin {
            Stdin::Empty => runner::Stdin::Empty,
            Stdin::Endless => {
                let zeroes = File::open("/dev/zero").context("failed to open /dev/zero")?;
                runner::Stdin::Copy(OwnedFd::from(zeroes))
            }
        };
        let input = Input { files: vec![&program], stdin, compiled: None };
        let mut sink = Sink::capture();
        let mut cells = InProcess(supervisor);
        let run = runner::run(&mut cells, &plan, input, &mut sink, std::future::pending());
        let result = self.runtime.block_on(run).context("the sandbox failed")?;
        let step = result.run.context("the run has no result")?;
        Ok((step, limits, result.cleanup))
    }

    fn plan(&self, attack: &Attack, words: &[String], program: &SourceFile) -> anyhow::Result<Plan> {
        let request = Request {
            program: request::Program::Command(words.iter().map(|word| word.as_bytes().to_vec()).collect()),
            files: vec![program.entry()],
            limits: attack.limits.clone(),
            ..Request::default()
        };
        let profiles = Profiles::default();
        let around = Surroundings {
            profiles: &profiles,
            host: &self.machine.host,
            rootfs: self.rootfs,
            left_out: &self.options.left_out,
        };
        let mut plan = plan(&request, &around)?;
        let shared = &self.options.without_namespaces;
        plan.run.namespaces.retain(|name| !shared.iter().any(|without| without == name));
        Ok(plan)
    }

    /// Everything about a run that is not as its row says.
    fn problems(&self, attack: &Attack, step: &StepResult, limits: &Limits) -> Vec<String> {
        let mut problems = Vec::new();
        let (verdict, outcome) = (&step.verdict, &step.verdict.outcome);
        if !attack.expected.ends.contains(&(verdict.status, verdict.killed_by)) {
            problems.push(format!("ended as {}: {} {}", verdict.status.word(), verdict.message, shown(step)));
        }
        if outcome.wall_time > limits.wall_time + GRACE {
            problems.push(format!("took {:?}, with {:?} allowed", outcome.wall_time, limits.wall_time));
        }
        if self.machine.host.cgroup != CgroupKind::None {
            if outcome.memory_peak_bytes > limits.memory_bytes {
                problems.push(format!("got {} bytes of memory", outcome.memory_peak_bytes));
            }
            if outcome.processes_peak > limits.processes {
                problems.push(format!("got {} processes", outcome.processes_peak));
            }
        }
        let kept = outcome.output.stdout_bytes + outcome.output.stderr_bytes;
        if kept > limits.output_bytes {
            problems.push(format!("got {kept} bytes of output kept"));
        }
        problems.extend(printed_problems(attack, step));
        problems.extend(attack.expected.evidence.iter().filter_map(|evidence| self.lacking(*evidence, step)));
        problems
    }

    /// The problem if the verdict lacks `evidence`.
    fn lacking(&self, evidence: Evidence, step: &StepResult) -> Option<String> {
        let (verdict, outcome) = (&step.verdict, &step.verdict.outcome);
        let limit = verdict.limit.as_ref().map(|limit| limit.name);
        match evidence {
            Evidence::Limit(name) => {
                (limit != Some(name)).then(|| format!("the verdict names the limit {limit:?} and not {name}"))
            }
            Evidence::ProcessLimitHits => (outcome.process_limit_hits == 0)
                .then(|| format!("no fork was refused at the limit of processes {}", shown(step))),
            Evidence::OomKills => {
                (outcome.oom_kills == 0).then(|| "the kernel counted no out-of-memory kill".to_owned())
            }
            Evidence::Denied(name) => {
                let reports = self.machine.host.seccomp_notify;
                let told = outcome.denied_syscalls.iter().any(|denied| denied.name == name);
                (reports && !told).then(|| format!("{name} was not reported as denied"))
            }
            Evidence::Signal(number) => (verdict.signal != Some(number))
                .then(|| format!("ended by {:?} and not by {}", verdict.signal.map(signal_name), signal_name(number))),
            Evidence::ExitCode(code) => (verdict.exit_code != Some(code))
                .then(|| format!("ended with exit code {:?} and not {code}", verdict.exit_code)),
            Evidence::Soon => (outcome.wall_time > SOON).then(|| format!("ended only after {:?}", outcome.wall_time)),
        }
    }
}

fn is_user_mode_linux() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("User Mode Linux"))
}

/// The command line of a built-in program.
fn builtin_words(program: &str, arguments: &[&str], printed: Option<&Printed>, bait: &Bait) -> Vec<String> {
    let mut words = ["/bin/sh", "-c", ENTER, FILE].map(str::to_owned).to_vec();
    if let Some(Printed::Attempts(lines)) = printed {
        let names: Vec<_> = lines.iter().filter_map(|line| line.rsplit_once(": ")).map(|(name, _)| name).collect();
        words.push(format!("--only=|{}|", names.join("|")));
    }
    words.push(program.to_owned());
    words.extend(arguments.iter().map(|argument| bait.fill(argument)));
    words
}

/// Whether a first run did all that it was to do.
fn granted(step: &StepResult) -> bool {
    let tried = attempts_of(&String::from_utf8_lossy(&step.output.stdout));
    // What may not be left at all, by a limit of its own, is another row's matter.
    step.verdict.status == Status::Ok && tried.iter().any(|(_, end)| end == "ok")
}

/// The lines `attempt: END` of what a program printed.
fn attempts_of(printed: &str) -> Vec<(String, String)> {
    let split = |line: &str| line.rsplit_once(": ").map(|(name, end)| (name.to_owned(), end.to_owned()));
    printed.lines().filter_map(split).collect()
}

fn tried(attack: &Attack, step: &StepResult) -> Vec<(String, String)> {
    match attack.expected.printed {
        Printed::Attempts(_) | Printed::AllAttempts(_) | Printed::NothingGranted => {
            attempts_of(&String::from_utf8_lossy(&step.output.stdout))
        }
        _ => Vec::new(),
    }
}

fn printed_problems(attack: &Attack, step: &StepResult) -> Vec<String> {
    let printed = String::from_utf8_lossy(&step.output.stdout);
    match attack.expected.printed {
        Printed::Anything => Vec::new(),
        Printed::Text(text) if printed == text => Vec::new(),
        Printed::Text(text) => vec![format!("expected {text:?} {}", shown(step))],
        Printed::NothingGranted => {
            let granted = attempts_of(&printed).into_iter().filter(|(_, end)| end == "ok");
            granted.map(|(attempt, _)| format!("{attempt}: ok")).collect()
        }
        Printed::Sweep(sweep) => sweep.hold(&printed).problems,
        Printed::Attempts(lines) | Printed::AllAttempts(lines) => {
            let mut tried = attempts_of(&printed);
            let mut problems = Vec::new();
            for (attempt, expected) in lines.iter().filter_map(|line| line.rsplit_once(": ")) {
                match tried.iter().position(|(name, _)| name == attempt) {
                    None => problems.push(format!("{attempt}: not tried {}", shown(step))),
                    Some(index) => {
                        let (_, end) = tried.swap_remove(index);
                        if !is_one_of(&end, expected) {
                            problems.push(format!("{attempt}: {end} instead of {expected}"));
                        }
                    }
                }
            }
            problems.extend(tried.into_iter().map(|(attempt, end)| format!("{attempt}: {end}, unexpected")));
            problems
        }
    }
}

/// The beginning of what a program printed, for a problem's text.
fn shown(step: &StepResult) -> String {
    let text = [step.output.stdout.as_slice(), step.output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let cut: String = text.chars().take(SHOWN_MAX).collect();
    if cut.is_empty() { "(it printed nothing)".to_owned() } else { format!("(it printed {cut:?})") }
}

/// The beginning of a text on one line.
fn first_words(text: &[u8]) -> String {
    const SHOWN: usize = 60;
    let line = String::from_utf8_lossy(text).split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN { line } else { line.chars().take(SHOWN).chain(['…']).collect() }
}

/// What shows that the attack was stopped.
fn evidence(attack: &Attack, step: &StepResult, tried: &[(String, String)]) -> String {
    let (verdict, outcome) = (&step.verdict, &step.verdict.outcome);
    let mut parts = Vec::new();
    if verdict.status != Status::Ok {
        let by = verdict.killed_by.map(|by| format!(" by {}", by.word())).unwrap_or_default();
        parts.push(format!("{}{by}", verdict.status.word()));
    }
    if let Printed::Sweep(sweep) = attack.expected.printed {
        let swept = sweep.hold(&String::from_utf8_lossy(&step.output.stdout));
        parts.push(format!("{} as in the table", swept.right));
    }
    let mut ends: Vec<(&str, usize)> = Vec::new();
    for (_, end) in tried {
        match ends.iter_mut().find(|(known, _)| known == end) {
            Some((_, count)) => *count += 1,
            None => ends.push((end, 1)),
        }
    }
    parts.extend(
        ends.iter().map(|(end, count)| if *count == 1 { (*end).to_owned() } else { format!("{end} x{count}") }),
    );
    if let Some(limit) = &verdict.limit {
        parts.push(format!("limit {}", limit.name));
    }
    if outcome.oom_kills > 0 {
        parts.push(format!("oom_kills {}", outcome.oom_kills));
    }
    if outcome.process_limit_hits > 0 {
        parts.push(format!("{} forks refused", outcome.process_limit_hits));
    }
    if !outcome.denied_syscalls.is_empty() {
        let names: Vec<_> = outcome.denied_syscalls.iter().map(|denied| denied.name.as_str()).collect();
        parts.push(format!("denied: {}", names.join(" ")));
    }
    if parts.is_empty() {
        parts.push(match attack.layers.first() {
            Some(Layer::Init | Layer::Watch) => format!("ended after {} ms", outcome.wall_time.as_millis()),
            _ if step.output.stdout.is_empty() => "printed nothing".to_owned(),
            _ => format!("printed {}", first_words(&step.output.stdout)),
        });
    }
    parts.join(", ")
}
