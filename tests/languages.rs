//! The conformance corpus: for every language whose image is built, the programs of `tests/languages/LANGUAGE/` through
//! the real program. Each language has the same four things there:
//!
//! - `hello`, which prints hello;
//! - `cases`, whose first argument says what to do: see [`CASES`];
//! - `broken`, which no compiler or interpreter takes;
//! - `files/`, a program of several files that starts at `main`.
//!
//! and where its image has packages beside the language itself, `packages`, which uses them.
//!
//! With SANDBOXD_LANGUAGES_TABLE=FILE the table between the markers of FILE is written anew (`make languages`).

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sandboxd::config::{Config, Flags};
use sandboxd::machine::Machine;
use sandboxd::plan::{Surroundings, WORKDIR, plan};
use sandboxd::rootfs::Recipes;
use sandboxd::runner::{self, InProcess, Input, RunResult, Sink, Stdin};
use sandboxd::supervisor::Supervisor;
use sandboxd::words::embedded::EMBEDDED_PROFILES;
use sandboxd::words::limits::LimitsRequest;
use sandboxd::words::profile::{Profile, Profiles};
use sandboxd::words::request::{Program, Purpose, Request, SourceFile};
use serde_json::Value;

use common::{is_root, nothing_may_be_missing, run_with, sandboxd, text};

/// What is expected of a run of `cases`: statuses of which one must hold, stdout, and words that stderr has.
struct Case {
    name: &'static str,
    flags: &'static [&'static str],
    arguments: &'static [&'static str],
    stdin: &'static str,
    statuses: &'static [&'static str],
    stdout: Option<&'static str>,
    stderr: &'static str,
}

const PLAIN: Case =
    Case { name: "", flags: &[], arguments: &[], stdin: "", statuses: &["ok"], stdout: None, stderr: "" };

const CASES: &[Case] = &[
    Case { name: "echo", stdin: "first\nsecond line\n", stdout: Some("first\nsecond line\n"), ..PLAIN },
    Case {
        name: "args",
        arguments: &["one", "two words", "ž*?$HOME"],
        stdout: Some("[one]\n[two words]\n[ž*?$HOME]\n"),
        ..PLAIN
    },
    Case { name: "exit", statuses: &["nonzero_exit"], ..PLAIN },
    Case { name: "stderr", stdout: Some("to stdout\n"), stderr: "to stderr", ..PLAIN },
    Case { name: "unicode", stdout: Some("žluťoučký 你好 🦀\n"), ..PLAIN },
    Case { name: "output", ..PLAIN },
    Case { name: "uncaught", statuses: &["nonzero_exit", "signaled"], stderr: "corpus failure", ..PLAIN },
    // Either the cell's limit, or the runtime's own heap, which its profile keeps below it.
    Case { name: "memory", statuses: &["memory_exceeded", "nonzero_exit", "signaled"], ..PLAIN },
    Case { name: "loop", flags: &["--cpu-time", "1s"], statuses: &["cpu_time_exceeded"], ..PLAIN },
    Case { name: "threads", stdout: Some("2002000\n"), ..PLAIN },
    Case { name: "missing", stdout: Some("missing\n"), ..PLAIN },
    Case { name: "workdir", stdout: Some("written\n"), ..PLAIN },
];
/// `hello`, `broken` and `files`, beside the cases.
const PROGRAMS: usize = 3;

struct Language {
    profile: Profile,
    directory: PathBuf,
    optional: bool,
}

/// What was found out about one language.
struct Row {
    language: String,
    version: String,
    image: String,
    compile_ms: Option<f64>,
    run_ms: f64,
    memory_bytes: u64,
    failures: Vec<String>,
}

fn languages() -> Vec<Language> {
    let recipes = Recipes::embedded().unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/languages");
    let language = |(file, text): &(&str, &str)| {
        let profile = Profile::parse(file, text).unwrap();
        let optional = recipes.get(&profile.rootfs).unwrap().optional;
        Language { directory: corpus.join(&profile.name), profile, optional }
    };
    EMBEDDED_PROFILES.iter().map(language).collect()
}

fn is_built(image: &str) -> bool {
    let store = std::env::var_os("SANDBOXD_ROOTFS_DIR").map_or("/var/lib/sandboxd/rootfs".into(), PathBuf::from);
    store.join("images").join(format!("{image}.json")).exists()
}

#[test]
fn every_language_has_a_corpus() {
    for language in languages() {
        for program in ["hello", "cases", "broken", "files/main"] {
            language.program(program);
        }
    }
}

#[test]
fn a_runtime_with_a_heap_of_its_own_is_told_the_limit_of_its_step() {
    let _alone = alone();
    let language = languages().into_iter().find(|language| language.profile.name == "java").unwrap();
    let output = run_with(
        sandboxd().args(["run", "--rootfs", "host", "--dry-run", "--memory", "300M"]).arg(language.program("hello")),
        b"",
        Duration::from_secs(60),
    );
    let said = text(&output.stdout);
    let (compile, run) = said.split_once("\nrun in image host:\n").unwrap();
    assert!(compile.contains("-XX:MaxRAM=536870912") && run.contains("-XX:MaxRAM=314572800"), "{said}");
}

/// Those that can be tried here.
fn built() -> Vec<Language> {
    let mut built = Vec::new();
    for language in languages() {
        match is_built(&language.profile.rootfs) {
            true => built.push(language),
            false if language.optional || !nothing_may_be_missing() => {
                eprintln!("skipped: the image {} is not built", language.profile.rootfs);
            }
            false => panic!("the image {} of the default set is not built", language.profile.rootfs),
        }
    }
    built
}

/// Held by each test that starts processes: a supervisor within this process is made for having it to itself.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cells in this process, for what the command line has no words for.
struct Cells {
    supervisor: Supervisor,
    machine: Machine,
    profiles: Profiles,
    runtime: tokio::runtime::Runtime,
}

impl Cells {
    fn of(languages: &[Language]) -> Cells {
        let mut machine = Machine::look(&Config::load(&Flags::default()).unwrap()).unwrap();
        let mut supervisor = machine.supervisor().unwrap();
        let mut profiles = Profiles::default();
        for language in languages {
            profiles.add(language.profile.clone(), "").unwrap();
            machine.stage(&mut supervisor, &language.profile.rootfs).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Cells { supervisor, machine, profiles, runtime }
    }

    /// Runs a program of the corpus; its file's name, and how it ended.
    fn run(&mut self, language: &Language, program: &str, asked: Request) -> (String, RunResult) {
        let path = language.program(program);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let file = SourceFile { name, content: std::fs::read(&path).unwrap() };
        let request = Request {
            language: Some(language.profile.name.clone()),
            program: Program::Source(file.entry()),
            limits: patient(),
            compile_limits: patient(),
            ..asked
        };
        let (host, rootfs) = (&self.machine.host, &language.profile.rootfs);
        let around = Surroundings { profiles: &self.profiles, host, rootfs, left_out: &[] };
        let plan = plan(&request, &around).unwrap();
        let input = Input { files: vec![&file], stdin: Stdin::Empty, compiled: None };
        let (mut cells, mut sink) = (InProcess(&mut self.supervisor), Sink::capture());
        let run = runner::run(&mut cells, &plan, input, &mut sink, std::future::pending());
        let result = self.runtime.block_on(run).unwrap();
        (file.name, result)
    }
}

/// Times as long as a profile admits by default: what else this machine does is not what is tested.
fn patient() -> LimitsRequest {
    let most = Some(Duration::from_secs(60));
    LimitsRequest { wall_time: most, cpu_time: most, ..LimitsRequest::default() }
}

#[test]
fn every_check_finds_what_is_broken_and_nothing_else() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let built: Vec<Language> = built().into_iter().filter(|language| language.profile.check.is_some()).collect();
    let mut cells = Cells::of(&built);
    let mut failures = Vec::new();
    for language in &built {
        let check = language.profile.check.as_ref().unwrap();
        for (program, is_broken) in [("hello", false), ("broken", true)] {
            let (name, result) =
                cells.run(language, program, Request { purpose: Purpose::Check, ..Request::default() });
            let step = result.run.unwrap();
            let said = text(&[step.output.stdout, step.output.stderr].concat());
            let found = check.read(&said, &format!("{WORKDIR}/{name}"));
            let errors = found.iter().filter(|diagnostic| !diagnostic.is_warning);
            let lines = std::fs::read_to_string(language.program(program)).unwrap().lines().count() as u32;
            // Where a program ends too early, the place may be one line further.
            let told = errors.clone().any(|error| (1..=lines + 1).contains(&error.line) && !error.message.is_empty());
            if told != is_broken || (step.verdict.exit_code == Some(0)) == is_broken || errors.count() > 3 {
                failures.push(format!("{} {program}: {found:?} of {said}", language.profile.name));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn packages_beside_the_language_are_there_and_plots_come_back() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let has_packages = |language: &Language| {
        let mut ends = language.profile.extensions.iter();
        ends.any(|end| language.directory.join(format!("packages.{end}")).exists())
    };
    let built: Vec<Language> = built().into_iter().filter(has_packages).collect();
    let mut cells = Cells::of(&built);
    for language in &built {
        let name = &language.profile.name;
        let draws = std::fs::read_to_string(language.program("packages")).unwrap().contains("plot.png");
        let files_out = if draws { vec!["*.png".to_owned()] } else { Vec::new() };
        let (_, result) = cells.run(language, "packages", Request { files_out, ..Request::default() });
        let run = result.run.unwrap_or_else(|| panic!("{name}: {:?}", result.compile));
        let (stdout, stderr) = (text(&run.output.stdout), text(&run.output.stderr));
        assert_eq!((stdout.as_str(), stderr.as_str()), ("packages\n", ""), "{name}: {:?}", run.verdict);
        assert!(result.results.problems.is_empty(), "{name}: {:?}", result.results.problems);
        let files = result.results.files.map(|files| files.read().unwrap()).unwrap_or_default();
        assert_eq!(files.len(), usize::from(draws), "{name}");
        for file in &files {
            assert!(file.name == "plot.png" && file.content.starts_with(b"\x89PNG\r\n"), "{name}: {}", file.name);
        }
    }
}

/// A single file is compiled without the go command, which must make no difference that a program can see.
#[test]
fn a_go_program_is_what_the_go_command_makes_of_it() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let Some(go) = built().into_iter().find(|language| language.profile.name == "go") else { return };
    let mut cells = Cells::of(std::slice::from_ref(&go));
    let mut output = |program: &str| {
        let (_, result) = cells.run(&go, program, Request::default());
        let step = result.run.or(result.compile).unwrap();
        (text(&step.output.stdout), text(&step.output.stderr))
    };
    assert_eq!(output("short").0, "false <nil>\n", "the short way was taken");
    assert_eq!(output("own_build").0, "true true\n");
    let (stdout, stderr) = output("internal");
    assert_eq!(stdout, "");
    assert!(stderr.contains("use of internal package internal/abi not allowed"), "{stderr}");
}

#[test]
fn every_language_passes_the_corpus() {
    if !is_root() {
        return;
    }
    let _alone = alone();
    let built = built();
    let queue = Mutex::new(built.iter());
    let rows = Mutex::new(Vec::new());
    let workers = if table_file().is_some() { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some(language) = queue.lock().unwrap().next() else { return };
                    let row = language.row();
                    rows.lock().unwrap().push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by(|a, b| a.language.cmp(&b.language));
    if let Some(file) = table_file() {
        write_table(&file, &rows);
    }
    let failures: Vec<&String> = rows.iter().flat_map(|row| &row.failures).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

impl Language {
    /// The program's file: its extension is any of the language's.
    fn program(&self, name: &str) -> PathBuf {
        // Files of a language whose extension is another's end as a program without a name does.
        let own = self.profile.source.rsplit('.').next().map(str::to_owned);
        let ends = || self.profile.extensions.iter().chain(&own);
        let candidates = ends().map(|end| self.directory.join(format!("{name}.{end}")));
        // Java's compiler wants the file called after its public class.
        let upper = ends().map(|end| self.directory.join(format!("files/Main.{end}")));
        let upper = upper.filter(|_| name == "files/main");
        candidates
            .chain(upper)
            .find(|path| path.is_file())
            .unwrap_or_else(|| panic!("{}: no {name} with one of the language's extensions", self.directory.display()))
    }

    fn run(&self, program: &str, flags: &[&str], arguments: &[&str], stdin: &str) -> Value {
        let mut command: Command = sandboxd();
        // Times as long as a profile admits by default: what else this machine does is not what is tested.
        command.args(["run", "--json", "--language", &self.profile.name, "--wall-time", "60s"]);
        if !flags.contains(&"--cpu-time") {
            command.args(["--cpu-time", "60s"]);
        }
        command.args(flags);
        if !stdin.is_empty() {
            command.args(["--stdin", "-"]);
        }
        let output =
            run_with(command.arg(self.program(program)).args(arguments), stdin.as_bytes(), Duration::from_secs(150));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", text(&output.stdout), text(&output.stderr)))
    }

    fn row(&self) -> Row {
        let mut failures = Vec::new();
        let mut expect = |what: &str, holds: bool, answer: &Value| {
            if !holds {
                failures.push(format!("{} {what}: {answer:.2000}", self.profile.name));
            }
        };
        // The first run reads the image from the disk; the median of three others is the language's.
        let mut hellos: Vec<Value> = (0..4).map(|_| self.run("hello", &[], &[], "")).skip(1).collect();
        let total = |answer: &Value| milliseconds(answer) + compile(answer).map_or(0.0, milliseconds);
        hellos.sort_by(|a, b| total(a).total_cmp(&total(b)));
        let hello = hellos.swap_remove(1);
        expect("hello", hello["status"] == "ok" && hello["stdout"] == "hello\n" && hello["stderr"] == "", &hello);

        for case in CASES {
            let arguments = [&[case.name], case.arguments].concat();
            let answer = self.run("cases", case.flags, &arguments, case.stdin);
            let status = case.statuses.iter().any(|status| answer["status"] == *status);
            let stdout = case.stdout.is_none_or(|stdout| answer["stdout"] == stdout);
            let stderr = answer["stderr"].as_str().is_some_and(|stderr| stderr.contains(case.stderr));
            let special = match case.name {
                "exit" => answer["exit_code"] == 3,
                "output" => answer["stdout"].as_str().is_some_and(|stdout| stdout.len() == 1_000_000),
                "memory" => ran_out_of_memory(&answer),
                _ => true,
            };
            expect(case.name, status && stdout && stderr && special, &answer);
        }

        let broken = self.run("broken", &[], &[], "");
        let step = compile(&broken).unwrap_or(&broken);
        let status = if self.profile.compile.is_some() { "compile_error" } else { "nonzero_exit" };
        let says = |stream: &str| step[stream].as_str().is_some_and(|text| text.contains("broken"));
        let message = says("stderr") || says("stdout");
        expect("broken", broken["status"] == status && message && broken["stdout"] != "unreached\n", &broken);

        let files = self.run("files/main", &self.further_files(), &[], "");
        expect("files", files["status"] == "ok" && files["stdout"] == "from helper\n", &files);

        Row {
            language: self.profile.name.clone(),
            version: hello["version"].as_str().unwrap_or("?").to_owned(),
            image: self.profile.rootfs.clone(),
            compile_ms: compile(&hello).map(milliseconds),
            run_ms: milliseconds(&hello),
            memory_bytes: [Some(&hello), compile(&hello)]
                .into_iter()
                .flatten()
                .filter_map(|step| step["usage"]["memory_peak_bytes"].as_u64())
                .max()
                .unwrap_or(0),
            failures,
        }
    }

    /// `--file NAME=PATH` for what lies beside the program of several files, directories below included.
    fn further_files(&self) -> Vec<&'static str> {
        let (main, root) = (self.program("files/main"), self.directory.join("files"));
        let mut directories = vec![root.clone()];
        let mut flags = Vec::new();
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path != main {
                    let name = path.strip_prefix(&root).unwrap().display().to_string();
                    flags.extend(["--file", &*Box::leak(format!("{name}={}", path.display()).into_boxed_str())]);
                }
            }
        }
        flags
    }
}

/// The cell's limit ended it, or the runtime's own did, and said so.
fn ran_out_of_memory(answer: &Value) -> bool {
    let stderr = answer["stderr"].as_str().unwrap_or_default().to_lowercase();
    answer["status"] == "memory_exceeded" || ["memory", "alloc"].iter().any(|word| stderr.contains(word))
}

fn compile(answer: &Value) -> Option<&Value> {
    Some(&answer["compile"]).filter(|step| step.is_object())
}

fn milliseconds(step: &Value) -> f64 {
    step["usage"]["wall_time_ms"].as_f64().unwrap_or(0.0)
}

fn table_file() -> Option<PathBuf> {
    std::env::var_os("SANDBOXD_LANGUAGES_TABLE").map(PathBuf::from)
}

const BEGIN: &str = "<!-- the table: made by `make languages` -->\n";
const END: &str = "<!-- end of the table -->\n";

fn write_table(file: &Path, rows: &[Row]) {
    let mut table = "| Language | Version | Image | Hello: compile + run | Memory | Corpus |\n".to_owned();
    table += "|---|---|---|---:|---:|---|\n";
    for row in rows {
        let time = match row.compile_ms {
            Some(compile) => format!("{compile:.0} + {:.0} ms", row.run_ms),
            None => format!("{:.0} ms", row.run_ms),
        };
        let all = CASES.len() + PROGRAMS;
        let mut passed = format!("{} of {all}", all - row.failures.len());
        for failure in &row.failures {
            passed += &format!("; not {}", failure.split([' ', ':']).nth(1).unwrap_or("?"));
        }
        let memory = row.memory_bytes as f64 / 1e6;
        let Row { language, version, image, .. } = row;
        table += &format!("| {language} | {version} | `{image}` | {time} | {memory:.0} MB | {passed} |\n");
    }
    let text = std::fs::read_to_string(file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the file has a marker for the table's begin");
    let (_, after) = rest.split_once(END).expect("the file has a marker for the table's end");
    std::fs::write(file, format!("{before}{BEGIN}\n{table}\n{END}{after}")).unwrap();
}
