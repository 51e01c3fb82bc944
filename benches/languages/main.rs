//! What the sandbox costs each language: `cargo bench --bench languages`, or with the names of some. It needs root.
//!
//! For every language whose image is built, the corpus's hello, compiled and run, in two cells of a supervisor inside this
//! process, prepared before as a service has them, against the same commands bare: as root, in a chroot of the same image,
//! without any other layer. The languages of [`naive::NAIVE`] are set against what an ordinary person types, too. All take
//! turns.
//!
//! In this process, as in a service: what `sandboxd run` takes to look at the machine (8 ms) is measured by the benchmark
//! `cell`, what HTTP takes by `service`.

mod bare;
// Shared with the other benchmarks, which use more of it.
#[allow(dead_code)]
#[path = "../cell/measure.rs"]
mod measure;
mod naive;

use std::cell::RefCell;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use bare::{Bare, ENVIRONMENT, Job, Words, layers};
use measure::{Contestant, Row, rounds_after};
use naive::{NAIVE, Naive};
use sandboxd::config::{Config, Flags};
use sandboxd::machine::Machine;
use sandboxd::plan::{CellPlan, PATH_DEFAULT, Plan, Surroundings, plan};
use sandboxd::runner::{self, InProcess, Input, Sink, Stdin};
use sandboxd::supervisor::{Ahead, Supervisor};
use sandboxd::words::embedded::EMBEDDED_PROFILES;
use sandboxd::words::limits::LimitsRequest;
use sandboxd::words::profile::{Profile, Profiles};
use sandboxd::words::request::{Program, Request, SourceFile};
use sandboxd::words::verdict::Status;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The most that a cell may add to what takes long enough for anyone to notice.
const MOST: f64 = 1.15;
const NOTICED: Duration = Duration::from_millis(50);
/// The most of the naive commands' time that the prepared ones may take.
const MOST_OF_NAIVE: f64 = 0.6;
/// Rounds of one language, and what they may take together, its fewest rounds excepted.
const ROUNDS_LEAST: usize = 5;
const ROUNDS_MOST: usize = 40;
const LANGUAGE_TIME: Duration = Duration::from_secs(6);
/// Marks the lines by which the process of one language hands its rows to the one that prints the table.
const ROW: &str = "row\t";
/// The argument by which this program measures one language; its name follows it.
const WORD: &str = "language";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let result = match words.as_slice() {
        [word, job] if word == bare::WORD => bare::serve(job),
        [word, name] if word == WORD => one(name),
        names => all(names),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("languages: {error}");
            ExitCode::FAILURE
        }
    }
}

fn profiles() -> Result<Profiles> {
    let mut profiles = Profiles::default();
    for (file, text) in EMBEDDED_PROFILES {
        profiles.add(Profile::parse(file, text)?, file)?;
    }
    Ok(profiles)
}

/// Measures the languages named (all when none is), each in a process of its own, small as a supervisor is, then prints
/// the table.
fn all(names: &[String]) -> Result<()> {
    let profiles = profiles()?;
    let known: Vec<&str> = profiles.iter().map(|profile| profile.name.as_str()).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("no language {name:?}; there are: {}", known.join(" ")).into());
    }
    let began = Instant::now();
    println!("\n| hello, compile and run | in cells | peer | ratio | goal | |\n|---|---|---|---|---|---|");
    let (mut failed, mut judged, mut met) = (Vec::new(), 0, 0);
    for name in known.iter().filter(|name| names.is_empty() || names.iter().any(|asked| asked == *name)) {
        let output = Command::new(std::env::current_exe()?).args([WORD, name]).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            failed.push(*name);
        }
        for row in String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.strip_prefix(ROW)) {
            println!("{row}");
            judged += usize::from(!row.ends_with("|  |  |"));
            met += usize::from(row.ends_with("| met |"));
        }
    }
    let all = format!("{met} of {judged} met, in {:.0} s", began.elapsed().as_secs_f64());
    println!("{}", Row::of_fact("all languages", all, "each", met == judged).show());
    if failed.is_empty() { Ok(()) } else { Err(format!("not measured: {}", failed.join(" ")).into()) }
}

/// One program of one language, ready to run in cells.
struct Cells<'a> {
    supervisor: &'a RefCell<Supervisor>,
    runtime: &'a tokio::runtime::Runtime,
    plan: Plan,
    file: SourceFile,
}

impl Cells<'_> {
    /// What a service's supervisor does between two runs: the cells for the next ones.
    fn prepare_ahead(&self) {
        while self.supervisor.borrow_mut().work_ahead() == Ahead::More {}
    }

    /// A run with its compile step, pipes, files and verdicts. The program must print hello.
    fn run(&self) {
        let input = Input { files: vec![&self.file], stdin: Stdin::Empty, compiled: None };
        let (mut sink, mut supervisor) = (Sink::capture(), self.supervisor.borrow_mut());
        let mut cells = InProcess(&mut supervisor);
        let run = runner::run(&mut cells, &self.plan, input, &mut sink, std::future::pending());
        let result = self.runtime.block_on(run).unwrap_or_else(|error| panic!("{error}"));
        let hello = result.run.as_ref().is_some_and(|run| run.output.stdout == b"hello\n");
        assert!(result.status() == Status::Ok && hello, "{:?} {:?}", result.compile, result.run);
    }
}

fn one(name: &str) -> Result<()> {
    let profiles = profiles()?;
    let profile = profiles.by_name(name).ok_or("no such language")?;
    let mut machine = Machine::look(&Config::load(&Flags::default())?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut supervisor = machine.supervisor()?;
    let rootfs = machine.choose_rootfs(None, Some(&profile.rootfs))?;
    if rootfs != profile.rootfs {
        eprintln!("{name}: skipped: the image {} is not built", profile.rootfs);
        return Ok(());
    }
    machine.stage(&mut supervisor, &rootfs)?;
    let supervisor = RefCell::new(supervisor);
    let around = Surroundings { profiles: &profiles, host: &machine.host, rootfs: &rootfs, left_out: &[] };
    let path = hello(profile)?;
    // Its own name, as Java wants it.
    let name_of_file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let cells = |program: &str| -> Result<Cells> {
        let file = SourceFile { name: name_of_file.clone(), content: program.as_bytes().to_vec() };
        let plan = plan(&request(profile, &file), &around)?;
        Ok(Cells { supervisor: &supervisor, runtime: &runtime, plan, file })
    };
    let hello = std::fs::read_to_string(path)?;
    let plain = cells(&hello)?;
    let bare = RefCell::new(Bare::start(&same_commands(&plain, layers(&machine, &rootfs)?))?);
    let naive = NAIVE.iter().find(|naive| naive.language == name);
    let program = naive.and_then(|naive| naive.program).unwrap_or(&hello);
    let prepared = cells(program)?;
    let naive_bare = match naive.map(|naive| start_naive(&machine, naive, &rootfs, program)).transpose() {
        Ok(bare) => bare.map(RefCell::new),
        Err(error) => {
            eprintln!("{name}: without the naive commands: {error}");
            None
        }
    };

    let mut contestants = vec![in_cells("cells", &plain), contestant("bare", &bare)];
    if let Some(naive_bare) = &naive_bare {
        contestants.push(contestant("naive", naive_bare));
        if naive.is_some_and(|naive| naive.program.is_some()) {
            contestants.push(in_cells("cells, the naive commands' program", &prepared));
        }
    }
    // The first round reads the images from the disk, and tells how many there is time for.
    let began = Instant::now();
    rounds_after(0, 1, &mut contestants);
    let many = LANGUAGE_TIME.div_duration_f64(began.elapsed()) as usize;
    let times = rounds_after(0, many.clamp(ROUNDS_LEAST, ROUNDS_MOST), &mut contestants);
    let [ours, bare, rest @ ..] = times.as_slice() else { return Ok(()) };
    let most = (bare.median() > NOTICED).then_some(MOST);
    println!("{ROW}{}", Row::of_times(name, ours, ("same commands, bare", bare), most).show());
    if let (Some(naive), [times, rest @ ..]) = (naive, rest) {
        let ours = rest.first().unwrap_or(ours);
        println!("{ROW}{}", Row::of_times(naive.name, ours, (naive.typed, times), Some(MOST_OF_NAIVE)).show());
    }
    Ok(())
}

/// Takes its turn in cells that were prepared before.
fn in_cells<'a>(name: &'static str, cells: &'a Cells<'a>) -> Contestant<'a> {
    Contestant { before: Box::new(|| cells.prepare_ahead()), ..Contestant::new(name, || cells.run()) }
}

/// Takes its turn in a process outside every cell; what it finds in its work directory is put there before.
fn contestant<'a>(name: &'a str, bare: &'a RefCell<Bare>) -> Contestant<'a> {
    let well = move |result: Result<()>| result.unwrap_or_else(|error| panic!("{name}: {error}"));
    Contestant {
        before: Box::new(move || well(bare.borrow_mut().prepare())),
        ..Contestant::new(name, move || well(bare.borrow_mut().run()))
    }
}

/// The corpus's program.
fn hello(profile: &Profile) -> Result<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/languages").join(&profile.name);
    let own = profile.source.rsplit('.').next().map(str::to_owned);
    let mut candidates = profile.extensions.iter().chain(&own).map(|end| directory.join(format!("hello.{end}")));
    Ok(candidates.find(|path| path.is_file()).ok_or_else(|| format!("no hello in {}", directory.display()))?)
}

fn request(profile: &Profile, file: &SourceFile) -> Request {
    // What a request may ask for at most: no run is to end because the machine is busy.
    let limits = LimitsRequest {
        wall_time: Some(Duration::from_secs(60)),
        cpu_time: Some(Duration::from_secs(60)),
        ..LimitsRequest::default()
    };
    Request {
        language: Some(profile.name.clone()),
        program: Program::Source(file.entry()),
        compile_limits: limits.clone(),
        limits,
        ..Request::default()
    }
}

/// What the cells of a program execute, word by word.
fn same_commands(cells: &Cells, layers: Vec<PathBuf>) -> Job {
    let text = |string: &CString| string.to_string_lossy().into_owned();
    let step = |plan: &CellPlan| Words {
        candidates: plan.command.candidates.iter().map(text).collect(),
        arguments: plan.command.arguments.iter().map(text).collect(),
        environment: plan.command.environment.iter().map(text).collect(),
    };
    let steps = cells.plan.compile.iter().chain([&cells.plan.run]).map(step).collect();
    let content = String::from_utf8_lossy(&cells.file.content).into_owned();
    Job { layers, file: (cells.file.name.clone(), content), steps }
}

fn start_naive(machine: &Machine, naive: &Naive, rootfs: &str, program: &str) -> Result<Bare> {
    let candidates = |program: &str| match program.contains('/') {
        true => vec![program.to_owned()],
        false => PATH_DEFAULT.split(':').map(|directory| format!("{directory}/{program}")).collect(),
    };
    let step = |words: &&[&str]| Words {
        candidates: candidates(words.first().copied().unwrap_or_default()),
        arguments: words.iter().map(|&word| word.to_owned()).collect(),
        environment: ENVIRONMENT.iter().chain(naive.environment).map(|&variable| variable.to_owned()).collect(),
    };
    Bare::start(&Job {
        layers: layers(machine, naive.rootfs.unwrap_or(rootfs))?,
        file: (naive.source.to_owned(), program.to_owned()),
        steps: naive.steps.iter().map(step).collect(),
    })
}
