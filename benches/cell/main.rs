//! The benchmarks: `cargo bench`, or `cargo bench -- SECTION…` for some of them. They need root.
//!
//! Every number is set against a peer measured in the same minutes, in turn with it: the same command bare, under
//! bubblewrap, and under util-linux's unshare, which does nothing but make the namespaces. Ratios travel from machine
//! to machine; milliseconds do not. Each section runs in a process of its own, small as a supervisor is and with one
//! thread, because both matter to what a clone costs.

mod floor;
mod measure;
mod pool;
mod readings;

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use measure::{Contestant, Row, Times, in_turn};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use readings::{Left, kernel, kilobytes, resident};
use sandboxd::config::{Config, Flags};
use sandboxd::machine::Machine;
use sandboxd::plan::{CellPlan, HOST_IMAGE, Plan, Surroundings, WORKDIR, plan};
use sandboxd::runner::{self, InProcess, Input, Sink, Stdin};
use sandboxd::sandbox::cell::{Cell, CellError};
use sandboxd::sandbox::report::Report;
use sandboxd::sandbox::sequence::SEQUENCE;
use sandboxd::sandbox::start::Start;
use sandboxd::sandbox::sys::{self, Arena, PointerArray};
use sandboxd::supervisor::{Ahead, Supervisor, Watch};
use sandboxd::words;
use sandboxd::words::limits::LimitsRequest;
use sandboxd::words::profile::Profiles;
use sandboxd::words::request::{Program, Request};
use sandboxd::words::verdict::Exit;
use tokio::sync::Notify;

type Outcome = Result<Vec<Row>, Box<dyn std::error::Error>>;

struct Section {
    name: &'static str,
    what: &'static str,
    run: fn() -> Outcome,
}

const SECTIONS: [Section; 8] = [
    Section { name: "run", what: "`sandboxd run` as a whole process, against its peers", run: whole_processes },
    Section { name: "cell", what: "a cell inside one supervisor, against a bare fork and exec", run: cells },
    Section { name: "floor", what: "what all cores reach with namespaces alone", run: floor::section },
    Section { name: "pool", what: "a supervisor process, with and without cells prepared ahead", run: pool::section },
    Section { name: "steps", what: "where each microsecond of a cell goes", run: steps },
    Section { name: "memory", what: "memory of a supervisor and of a prepared cell", run: memory },
    Section { name: "many", what: "cells alive at once", run: many },
    Section { name: "soak", what: "what 10,000 runs leave behind", run: soak },
];

/// The command that everything is measured with: what it does itself is as little as can be.
const TRUE: &str = "/usr/bin/true";
/// Marks the lines by which a section hands its rows to the process that prints the table.
const ROW: &str = "row\t";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [word, name] = words.as_slice()
        && word == "section"
    {
        return one_section(name);
    }
    if let [word, what, begin] = words.as_slice()
        && word == floor::WORKER
    {
        return floor::worker(what, begin);
    }
    let unknown = words.iter().find(|word| !SECTIONS.iter().any(|section| section.name == *word));
    if let Some(word) = unknown {
        let names: Vec<_> = SECTIONS.iter().map(|section| section.name).collect();
        eprintln!("no section {word:?}; there are: {}", names.join(" "));
        return ExitCode::FAILURE;
    }
    all(&words)
}

/// Runs the sections named (all of them when none is), each in a process of its own, then prints the table.
fn all(names: &[String]) -> ExitCode {
    let mut rows = Vec::new();
    let mut failed = false;
    for section in SECTIONS.iter().filter(|section| names.is_empty() || names.iter().any(|name| name == section.name)) {
        println!("\n## {}: {}", section.name, section.what);
        let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        let output = Command::new(program).args(["section", section.name]).stderr(Stdio::inherit()).output();
        let Ok(output) = output else {
            failed = true;
            continue;
        };
        failed |= !output.status.success();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            match line.strip_prefix(ROW) {
                Some(row) => rows.push(row.to_owned()),
                None => println!("{line}"),
            }
        }
    }
    println!("\n| what | ours | peer | ratio | goal | |\n|---|---|---|---|---|---|");
    rows.iter().for_each(|row| println!("{row}"));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn one_section(name: &str) -> ExitCode {
    let Some(section) = SECTIONS.iter().find(|section| section.name == name) else { return ExitCode::FAILURE };
    raise_descriptor_limit();
    match (section.run)() {
        Ok(rows) => {
            rows.iter().for_each(|row| println!("{ROW}{}", row.show()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = hard.max(65_536);
        let _as_far_as_allowed = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
            .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    }
}

/// A supervisor with one image staged and the plan of one command; as small as a process with them can be.
struct Bench {
    supervisor: Supervisor,
    plan: Plan,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(command: &[&str]) -> Result<Bench, Box<dyn std::error::Error>> {
        let config = Config::load(&Flags::default())?;
        let mut machine = Machine::look(&config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut supervisor = machine.supervisor()?;
        // As a service has it; where no image is built, the machine's own programs.
        let rootfs = machine.choose_rootfs(None, Some("base"))?;
        machine.stage(&mut supervisor, &rootfs)?;
        let profiles = Profiles::default();
        let around = Surroundings { profiles: &profiles, host: &machine.host, rootfs: &rootfs, left_out: &[] };
        let request = Request {
            program: Program::Command(command.iter().map(|word| word.as_bytes().to_vec()).collect()),
            limits: LimitsRequest { wall_time: Some(Duration::from_secs(60)), ..LimitsRequest::default() },
            ..Request::default()
        };
        Ok(Bench { supervisor, plan: plan(&request, &around)?, runtime })
    }

    fn start_message(&self) -> Start {
        let command = &self.plan.run.command;
        Start {
            workdir: CString::new(WORKDIR).unwrap_or_default(),
            candidates: command.candidates.clone(),
            arguments: command.arguments.clone(),
            environment: command.environment.clone(),
            rlimits: self.plan.run.rlimits.iter().map(|rlimit| (rlimit.resource, rlimit.value)).collect(),
            files: Vec::new(),
        }
    }

    /// Prepare, start, wait, destroy: a cell's life without the pipes and the bundle of a run.
    fn cell(&mut self, start: &Start, null: &OwnedFd) {
        let plan = self.plan.run.clone();
        self.cell_of(&plan, start, null);
    }

    fn cell_of(&mut self, plan: &CellPlan, start: &Start, null: &OwnedFd) {
        let cell = self.supervisor.prepare(plan).unwrap_or_else(|error| panic!("{error}"));
        self.finish(cell, plan, start, null);
    }

    fn finish(&mut self, cell: Cell, plan: &CellPlan, start: &Start, null: &OwnedFd) {
        let ended = life(cell, plan, start, null, std::future::pending());
        ended_well(self.runtime.block_on(ended));
    }

    /// The same as a supervisor does it that has another to make: whatever it can while the program runs, and the rest
    /// when the next one is asked for. All of it is in the time of one cell or another.
    fn cell_in_a_row(&mut self, start: &Start, null: &OwnedFd) {
        let Bench { supervisor, plan, runtime } = self;
        let cell = supervisor.prepare(&plan.run).unwrap_or_else(|error| panic!("{error}"));
        let ended = life(cell, &plan.run, start, null, async {
            while supervisor.work_ahead() == Ahead::More {
                tokio::task::yield_now().await;
            }
            std::future::pending().await
        });
        ended_well(runtime.block_on(ended));
    }

    /// A whole run with its pipes, files and verdict.
    fn run(&mut self) {
        let Bench { supervisor, plan, runtime } = self;
        let input = Input { files: Vec::new(), stdin: Stdin::Empty, compiled: None };
        let mut sink = Sink::capture();
        let result =
            runtime.block_on(runner::run(&mut InProcess(supervisor), plan, input, &mut sink, std::future::pending()));
        match result {
            Ok(result) if result.cleanup.is_empty() => {}
            Ok(result) => panic!("left over: {:?}", result.cleanup),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Start, wait, destroy; `beside` is done once the program has begun.
async fn life(
    mut cell: Cell,
    plan: &CellPlan,
    start: &Start,
    null: &OwnedFd,
    beside: impl Future<Output = ()>,
) -> Result<(words::verdict::Outcome, Vec<String>), CellError> {
    let begun = Notify::new();
    cell.start(start, &[null.as_fd(); 4])?;
    let mut watch = Watch::new(cell, plan).telling(&begun);
    let own = async {
        let outcome = watch.run(std::future::pending()).await?;
        Ok((outcome, watch.destroy().await))
    };
    tokio::select! {
        ended = own => ended,
        () = async { begun.notified().await; beside.await } => unreachable!("it never completes"),
    }
}

fn ended_well(ended: Result<(words::verdict::Outcome, Vec<String>), CellError>) {
    match ended {
        Ok((outcome, cleanup)) if cleanup.is_empty() && outcome.exit == Some(Exit::Code(0)) => {}
        Ok(ended) => panic!("the run did not end well: {ended:?}"),
        Err(error) => panic!("{error}"),
    }
}

fn null() -> std::io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

fn spawn(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// The bare thing: a fork of this small process, an exec, a wait, and nothing else.
fn fork_and_execute(program: &std::ffi::CStr) {
    type Arrays = (PointerArray<'static>, PointerArray<'static>);
    thread_local! {
        // Made once: it pays for its fork alone.
        static ARRAYS: std::cell::RefCell<Arrays> = std::cell::RefCell::new(arrays());
    }
    fn arrays() -> Arrays {
        let arena = Arena::new(4096).unwrap_or_else(|errno| panic!("{errno}"));
        let arena = Box::leak(Box::new(arena));
        let array = || PointerArray::with_capacity(arena, 1).unwrap_or_else(|errno| panic!("{errno}"));
        (array(), array())
    }
    let child = ARRAYS.with_borrow_mut(|(arguments, environment)| {
        let filled = arguments.fill([program].into_iter()).and_then(|()| environment.fill(std::iter::empty()));
        filled.unwrap_or_else(|errno| panic!("{errno}"));
        let execute = || {
            sys::execve(program, arguments, environment);
            127
        };
        sys::clone_init(0, None, None, execute).unwrap_or_else(|errno| panic!("{errno}"))
    });
    let ended = waitid(Id::PIDFd(child.pidfd.as_fd()), WaitPidFlag::WEXITED);
    assert!(matches!(ended, Ok(WaitStatus::Exited(_, 0))), "{ended:?}");
}

fn on_this_machine(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|directory| directory.join(program).exists())
}

/// Arguments that make bubblewrap do the same: the mounts of image `host`, all namespaces, no capabilities.
fn bubblewrap_arguments() -> Vec<String> {
    let mut words: Vec<String> =
        "--unshare-all --die-with-parent --new-session --cap-drop ALL --proc /proc --dev /dev \
                                  --tmpfs /tmp --tmpfs /work --chdir /work"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
    let layout = sandboxd::rootfs::host::layout().unwrap_or_default();
    for (source, target) in &layout.binds {
        words.extend(["--ro-bind".to_owned(), source.display().to_string(), target.display().to_string()]);
    }
    for (link, target) in &layout.links {
        words.extend(["--symlink".to_owned(), target.display().to_string(), link.display().to_string()]);
    }
    words.push(TRUE.to_owned());
    words
}

/// The program: cargo's own build, or another, such as one that is linked statically.
fn program() -> String {
    std::env::var("SANDBOXD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sandboxd").to_owned())
}

/// The image that cells are made from: as a service has it; where none is built, the machine's own programs.
fn image() -> Result<String, Box<dyn std::error::Error>> {
    Ok(Machine::look(&Config::load(&Flags::default())?)?.choose_rootfs(None, Some("base"))?)
}

const UNSHARE: &str =
    "--user --map-root-user --pid --fork --mount --mount-proc --net --ipc --uts --cgroup --kill-child";

fn whole_processes() -> Outcome {
    let sandboxd = program();
    let bubblewrap = bubblewrap_arguments();
    let bubblewrap: Vec<&str> = bubblewrap.iter().map(String::as_str).collect();
    let unshare: Vec<&str> = UNSHARE.split_whitespace().chain([TRUE]).collect();
    let mut contestants = vec![
        Contestant::new("sandboxd run", || spawn(&sandboxd, &["run", "--rootfs", HOST_IMAGE, "--", TRUE])),
        Contestant::new("bare", || spawn(TRUE, &[])),
    ];
    let mut peer = |name: &'static str, program: &'static str, arguments: Vec<&'static str>| {
        if on_this_machine(program) {
            contestants.push(Contestant::new(name, move || spawn(program, &arguments)));
        } else {
            println!("{name} is not on this machine");
        }
    };
    peer("nsjail", "nsjail", vec!["-q", "-Mo", "--chroot", "/", "--", TRUE]);
    peer(
        "firejail",
        "firejail",
        vec!["--quiet", "--noprofile", "--private", "--net=none", "--caps.drop=all", "--seccomp", TRUE],
    );
    if std::path::Path::new("/run/systemd/system").exists() {
        peer(
            "systemd-run",
            "systemd-run",
            vec!["--quiet", "--wait", "--collect", "-pPrivateNetwork=yes", "-pProtectSystem=strict", TRUE],
        );
    } else {
        println!("systemd-run has no systemd to ask on this machine");
    }
    if on_this_machine("unshare") {
        contestants.push(Contestant::new("unshare", || spawn("unshare", &unshare)));
    }
    if on_this_machine("bwrap") {
        contestants.push(Contestant::new("bwrap --unshare-all", || spawn("bwrap", &bubblewrap)));
    } else {
        println!("bwrap is not on this machine: install bubblewrap to see the goal judged");
    }
    let times = in_turn(300, &mut contestants);
    let Some(ours) = times.first() else { return Ok(Vec::new()) };
    let row = |(contestant, times): (&Contestant, &Times)| {
        let most = contestant.name.starts_with("bwrap").then_some(1.0);
        Row::of_times("`sandboxd run -- true`", ours, (contestant.name, times), most)
    };
    Ok(contestants.iter().zip(&times).skip(1).map(row).collect())
}

/// A cell without any layer but its namespaces and its root: what the kernel asks for them, and for two processes and an exec.
fn namespaces_alone(plan: &CellPlan) -> CellPlan {
    const WANTED: [&str; 22] = [
        "create_control_socket",
        "take_network",
        "clone_init",
        "write_id_maps",
        "release_init",
        "wait_for_id_maps",
        "unshare_cgroup_namespace",
        "become_init_user",
        "bind_root",
        "mount_overlays",
        "enter_root",
        "pivot_root",
        "detach_old_root",
        "block_child_signals",
        "start_payload",
        "reap",
        "become_payload_user",
        "mark_descriptors",
        "report_prepared",
        "receive_start",
        "install_streams",
        "execute",
    ];
    let left_out = SEQUENCE.iter().map(|step| step.name).filter(|name| !WANTED.contains(name));
    CellPlan { left_out: left_out.map(str::to_owned).collect(), ..plan.clone() }
}

fn cells() -> Outcome {
    let bench = std::cell::RefCell::new(Bench::new(&[TRUE])?);
    let (start, null) = (bench.borrow().start_message(), null()?);
    let floor = namespaces_alone(&bench.borrow().plan.run);
    let whole = bench.borrow().plan.run.clone();
    let waiting = std::cell::RefCell::new(Vec::new());
    let mut contestants = [
        Contestant::new("bare fork+exec+wait", || fork_and_execute(c"/usr/bin/true")),
        Contestant::new("posix_spawn by std", || spawn(TRUE, &[])),
        Contestant::new("floor: namespaces and root alone", || bench.borrow_mut().cell_of(&floor, &start, &null)),
        Contestant::new("cell, nothing made ahead", || bench.borrow_mut().cell(&start, &null)),
        Contestant {
            // As in a service, which makes it while it waits for something else.
            before: Box::new(|| while bench.borrow_mut().supervisor.prepare_part_ahead() {}),
            ..Contestant::new("cell, its network and cgroup made ahead", || bench.borrow_mut().cell(&start, &null))
        },
        Contestant {
            // As from a pool: all that is left is to start, wait and destroy.
            before: Box::new(|| {
                let cells = prepared(&mut bench.borrow_mut(), 1).unwrap_or_else(|error| panic!("{error}"));
                waiting.replace(cells);
            }),
            ..Contestant::new("cell, prepared ahead", || {
                let Some(cell) = waiting.borrow_mut().pop() else { return };
                bench.borrow_mut().finish(cell, &whole, &start, &null);
            })
        },
        Contestant::new("run with pipes, files, verdict", || bench.borrow_mut().run()),
    ];
    let times = in_turn(1000, &mut contestants);
    // By themselves, since the others would take what these make ahead.
    let mut in_a_row = [
        Contestant::new("bare fork+exec+wait", || fork_and_execute(c"/usr/bin/true")),
        Contestant::new("cells in a row, each made as far as can be while the last one runs", || {
            bench.borrow_mut().cell_in_a_row(&start, &null);
        }),
    ];
    let times_in_a_row = in_turn(1000, &mut in_a_row);
    let rows = |contestants: &[Contestant], times: &[Times]| {
        let Some((bare, ours)) = times.split_first() else { return Vec::new() };
        let row = |(contestant, times): (&Contestant, &Times)| {
            let most = contestant.name.starts_with("cell").then_some(2.5);
            Row::of_times(contestant.name, times, ("bare fork+exec+wait", bare), most)
        };
        contestants.iter().skip(1).zip(ours).map(row).collect::<Vec<_>>()
    };
    Ok(rows(&contestants, &times).into_iter().chain(rows(&in_a_row, &times_in_a_row)).collect())
}

fn steps() -> Outcome {
    let mut bench = Bench::new(&[TRUE])?;
    let (start, null) = (bench.start_message(), null()?);
    for _ in 0..50 {
        bench.cell(&start, &null);
    }
    let times = trace::collect(|| {
        for _ in 0..500 {
            bench.cell(&start, &null);
        }
    });
    println!("{:<10} {:<32} {:>9} {:>9} {:>9}", "who", "step", "median us", "least", "most");
    let mut sums: Vec<(&str, f64)> = Vec::new();
    for (actor, step, mut times) in times {
        times.sort_by(f64::total_cmp);
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let (least, most) = (times.first().copied().unwrap_or_default(), times.last().copied().unwrap_or_default());
        println!("{actor:<10} {step:<32} {median:>9.1} {least:>9.1} {most:>9.1}");
        // Steps that do nothing but wait for others.
        if !matches!(step.as_str(), "wait_for_id_maps" | "receive_start" | "start_payload" | "reap" | "end_cell") {
            match sums.iter_mut().find(|(name, _)| *name == actor) {
                Some((_, sum)) => *sum += median,
                None => sums.push((actor, median)),
            }
        }
    }
    for (actor, sum) in sums {
        println!("{actor:<10} {:<32} {sum:>9.1}", "(together, without waiting)");
    }
    Ok(Vec::new())
}

fn memory() -> Outcome {
    let mut bench = Bench::new(&[TRUE])?;
    for _ in 0..1000 {
        bench.run();
    }
    let supervisor = resident();
    let proportional = kilobytes("/proc/self/smaps_rollup", &["Pss"]);
    const CELLS: u64 = 200;
    let before = kernel();
    let cells = prepared(&mut bench, CELLS as usize)?;
    let kernel = kernel().saturating_sub(before) / CELLS;
    let own: u64 = cells
        .iter()
        .map(|cell| kilobytes(format!("/proc/{}/smaps_rollup", cell.pid()), &["Private_Clean", "Private_Dirty"]))
        .sum::<u64>()
        / CELLS;
    drop(cells);
    Ok(vec![
        Row::of_fact(
            "supervisor after 1,000 runs",
            format!("{supervisor} kB resident, {proportional} kB proportional"),
            "< 10 MB",
            supervisor < 10_000,
        ),
        Row::of_fact(
            "a prepared cell",
            format!("{kernel} kB of the kernel, {own} kB private to init"),
            "< 1 MB",
            kernel + own < 1_000,
        ),
    ])
}

/// Makes `count` cells and waits until each has reported that it is prepared.
fn prepared(bench: &mut Bench, count: usize) -> Result<Vec<Cell>, Box<dyn std::error::Error>> {
    let mut cells = Vec::with_capacity(count);
    for _ in 0..count {
        cells.push(bench.supervisor.prepare(&bench.plan.run)?);
    }
    for cell in &mut cells {
        wait_for(cell, |report| report == Report::Prepared)?;
    }
    Ok(cells)
}

fn wait_for(cell: &mut Cell, wanted: impl Fn(Report) -> bool) -> Result<(), Box<dyn std::error::Error>> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        while let Some((report, _)) = cell.next_report()? {
            if wanted(report) {
                return Ok(());
            }
            if let Report::Failed { .. } = report {
                return Err(format!("{report:?}").into());
            }
        }
        poll(&mut [PollFd::new(cell.control(), PollFlags::POLLIN)], PollTimeout::from(10_000u16))?;
    }
}

fn many() -> Outcome {
    const CELLS: usize = 500;
    let mut bench = Bench::new(&["/usr/bin/sleep", "60"])?;
    let (start, null) = (bench.start_message(), null()?);
    let before = Left::read();
    let began = Instant::now();
    let mut cells = prepared(&mut bench, CELLS)?;
    let prepared_in = began.elapsed();
    let began = Instant::now();
    for cell in &mut cells {
        cell.start(&start, &[null.as_fd(); 4])?;
    }
    for cell in &mut cells {
        wait_for(cell, |report| matches!(report, Report::Started { .. }))?;
    }
    let started_in = began.elapsed();
    let alive = Left::read().processes - before.processes;
    let began = Instant::now();
    cells.iter().for_each(Cell::kill);
    let problems: usize = cells.iter_mut().map(|cell| cell.finish().len()).sum();
    let gone_in = began.elapsed();
    drop(cells);
    let clean = Left::read() == before && problems == 0;
    let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1e3);
    Ok(vec![
        Row::of_fact("500 cells prepared at once", ms(prepared_in), "500", true),
        Row::of_fact(
            "500 cells running sleep at once",
            format!("{} more, {alive} processes", ms(started_in)),
            "1000 processes",
            alive == 2 * CELLS,
        ),
        Row::of_fact("500 cells killed and gone", ms(gone_in), "nothing left", clean),
    ])
}

fn soak() -> Outcome {
    const RUNS: usize = 10_000;
    let mut bench = Bench::new(&[TRUE])?;
    for _ in 0..100 {
        bench.run();
    }
    let (left, memory, own) = (Left::read(), kernel(), resident());
    let began = Instant::now();
    for _ in 100..RUNS {
        bench.run();
    }
    let each = began.elapsed() / (RUNS - 100) as u32;
    // Namespaces and groups are freed by the kernel's workers, a moment later.
    std::thread::sleep(Duration::from_secs(2));
    let (left_now, memory_now, own_now) = (Left::read(), kernel(), resident());
    println!("after 100 runs:    {left:?}, supervisor {own} kB, kernel {memory} kB");
    println!("after {RUNS} runs: {left_now:?}, supervisor {own_now} kB, kernel {memory_now} kB");
    // Caches fill and other processes come and go; a namespace or a group left behind has 4 kB at the least.
    let lost = memory_now.saturating_sub(memory) as f64 / (RUNS - 100) as f64;
    Ok(vec![
        Row::of_fact(
            "10,000 runs: processes, mounts, cgroups, descriptors",
            format!("{:.2} ms a run; {left_now:?}", each.as_secs_f64() * 1e3),
            "as after 100",
            left == left_now,
        ),
        Row::of_fact(
            "10,000 runs: the supervisor's memory",
            format!("{own} kB, then {own_now} kB"),
            "within 64 kB",
            own_now <= own + 64,
        ),
        Row::of_fact("10,000 runs: the kernel's memory", format!("{lost:.2} kB a run"), "< 4 kB a run", lost < 4.0),
    ])
}

/// The trace lines of the supervisor, as numbers.
mod trace {
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    /// Actor, step, and its times in microseconds, in the order in which the steps were seen first.
    pub type Steps = Vec<(&'static str, String, Vec<f64>)>;

    /// What `act` traces.
    pub fn collect(act: impl FnOnce()) -> Steps {
        let steps = Arc::new(Mutex::new(Steps::new()));
        tracing::subscriber::with_default(Collector(Arc::clone(&steps)), act);
        let mut steps = steps.lock().map(|steps| steps.clone()).unwrap_or_default();
        steps.sort_by_key(|(_, step, _)| {
            let sequence = &sandboxd::sandbox::sequence::SEQUENCE;
            sequence.iter().position(|known| known.name == step).unwrap_or(sequence.len())
        });
        steps
    }

    struct Collector(Arc<Mutex<Steps>>);

    #[derive(Default)]
    struct Line {
        actor: &'static str,
        step: Option<String>,
        microseconds: Option<f64>,
    }

    impl Visit for Line {
        fn record_f64(&mut self, field: &Field, value: f64) {
            if field.name() == "microseconds" {
                self.microseconds = Some(value);
            }
        }

        fn record_str(&mut self, field: &Field, value: &str) {
            match field.name() {
                "actor" => {
                    self.actor =
                        ["supervisor", "init", "payload", "kernel"].into_iter().find(|it| *it == value).unwrap_or("")
                }
                "step" => self.step = Some(value.to_owned()),
                _ => {}
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
    }

    impl Subscriber for Collector {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target().starts_with("sandboxd") && *metadata.level() == Level::TRACE
        }

        fn event(&self, event: &Event<'_>) {
            let mut line = Line::default();
            event.record(&mut line);
            let (Some(step), Some(time), Ok(mut steps)) = (line.step, line.microseconds, self.0.lock()) else { return };
            match steps.iter_mut().find(|(actor, known, _)| *actor == line.actor && *known == step) {
                Some((_, _, times)) => times.push(time),
                None => steps.push((line.actor, step, vec![time])),
            }
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }
}
