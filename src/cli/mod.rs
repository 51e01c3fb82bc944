//! The command line: definitions, from which help, completions and man pages are made, and one file a command.

mod ahead;
mod check;
mod config;
mod documents;
mod languages;
mod rootfs;
mod run;
mod selftest;
mod serve;
pub mod serve_arguments;
mod supervisor;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::errno::Errno;

use crate::config::{Config, Flags};
use crate::daemon::log::{self, Style};
use crate::runner;
use crate::sandbox::cgroup::Choice;
use crate::supervisor::PoolSize;
use crate::words::limits::{parse_count, parse_size, parse_time};

/// The sandbox itself failed; the payload's own exit codes are below 125 by convention.
const EXIT_SANDBOX_FAILED: u8 = 125;

/// Run untrusted programs, each in a brand-new sandbox.
#[derive(Parser)]
#[command(name = "sandboxd", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Settings {
    /// Read settings from this file instead of /etc/sandboxd/config.toml
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings")]
    config: Option<PathBuf>,
    /// Directory of the images [default: /var/lib/sandboxd/rootfs]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Settings")]
    rootfs_dir: Option<PathBuf>,
    /// Directory of additional language profiles [default: /etc/sandboxd/profiles]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Settings")]
    profiles_dir: Option<PathBuf>,
    /// How resources are limited; `none` must be asked for by name [default: auto]
    #[arg(long, global = true, value_enum, value_name = "LAYOUT", help_heading = "Settings")]
    cgroup: Option<CgroupFlag>,
    /// What to log on stderr, as `error`, `warn`, `info`, `debug`, `trace` or a filter such as `sandboxd=trace`
    /// [default: warn; info for `serve`]
    #[arg(long, global = true, value_name = "FILTER", env = "SANDBOXD_LOG", help_heading = "Settings")]
    log: Option<String>,
    /// Log lines are JSON objects
    #[arg(long, global = true, hide = true)]
    log_json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum CgroupFlag {
    Auto,
    V2,
    Hybrid,
    None,
}

#[derive(Subcommand)]
enum Command {
    /// Run a source file, or a command of an image, in a fresh sandbox
    Run(Box<RunArguments>),
    /// Say what this machine can enforce, and what it can't, with the remedy
    Check(CheckArguments),
    /// Try the field's attacks on this machine, and prove that each is stopped
    Selftest(SelftestArguments),
    /// List the languages, their images and versions
    Languages(LanguagesArguments),
    /// Build, list, verify and remove root filesystem images
    #[command(subcommand)]
    Rootfs(rootfs::RootfsCommand),
    /// Serve programs over HTTP
    #[command(after_help = serve_arguments::SERVE_EXAMPLES)]
    Serve(serve_arguments::ServeArguments),
    /// Print the settings in force and where each came from; make keys
    Config(Box<config::ConfigArguments>),
    /// Serve a front on stdin by the supervisor protocol
    #[command(hide = true)]
    Supervisor {
        /// Cells alive at once
        #[arg(long, default_value_t = 1000)]
        cells_max: usize,
        /// Languages whose image is not built run on this machine's own programs
        #[arg(long)]
        use_host_image: bool,
        /// Cells kept prepared for each shape of run that was asked for lately
        #[arg(long, default_value_t = PoolSize::default().cells_per_shape)]
        pool_cells_per_shape: usize,
        /// How long they are kept when nobody asks
        #[arg(long, value_parser = parse_time, default_value = "30s")]
        pool_idle_time: Duration,
        #[cfg(debug_assertions)]
        #[command(flatten)]
        hooks: Box<TestHooks>,
    },
    /// Speak HTTP as told by the parent on stdin
    #[command(hide = true)]
    Front {
        #[arg(long)]
        uid: u32,
        #[arg(long)]
        gid: u32,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  sandboxd completions bash > /usr/share/bash-completion/completions/sandboxd")]
    Completions {
        /// The shell that will read it
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory
    #[command(after_help = "Example:\n  sandboxd man /usr/local/share/man/man1")]
    Man {
        /// Where to; made if it is not there
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// Flags of `sandboxd run`.
#[derive(Args)]
#[command(
    override_usage = "sandboxd run [FLAGS] FILE [ARGS…]\n       sandboxd run [FLAGS] -- COMMAND [ARGS…]",
    after_help = "Exit code: the program's own; 128+n when signal n ended it; 124 at a time limit; 125 when the sandbox \
                  itself failed; 126 or 127 when COMMAND cannot be executed or is not there.\n\n\
                  Examples:\n  sandboxd run hello.py\n  echo 5 | sandboxd run --stdin - square.py\n  \
                  sandboxd run --memory 64M --wall-time 2s --json main.c\n  sandboxd run --rootfs python -- python3 -c 'print(1)'"
)]
pub struct RunArguments {
    /// The language, by name or alias [default: by the file's extension]
    #[arg(long, short, value_name = "NAME")]
    language: Option<String>,
    /// What the program reads: a file, or - for this command's own stdin [default: nothing]
    #[arg(long, value_name = "FILE|-")]
    stdin: Option<PathBuf>,
    /// An argument for the program, before those after FILE; repeatable
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    arguments: Vec<OsString>,
    /// A further file for the work directory, as PATH or NAME=PATH; repeatable
    #[arg(long = "file", value_name = "[NAME=]PATH")]
    files: Vec<OsString>,
    /// An environment variable for the program; repeatable
    #[arg(long = "env", short, value_name = "NAME=VALUE")]
    environment: Vec<OsString>,
    /// Longest time from start to end, as 2s or 500ms
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true, help_heading = "Limits")]
    wall_time: Option<Duration>,
    /// Most CPU time of all its processes together
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true, help_heading = "Limits")]
    cpu_time: Option<Duration>,
    /// Most memory of all its processes and files together, as 64M
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_hyphen_values = true, help_heading = "Limits")]
    memory: Option<u64>,
    /// Most processes and threads at once
    #[arg(long, value_name = "N", value_parser = parse_count, allow_hyphen_values = true, help_heading = "Limits")]
    processes: Option<u32>,
    /// Most output on both streams together
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_hyphen_values = true, help_heading = "Limits")]
    output: Option<u64>,
    /// CPU bandwidth in cores, as 0.5
    #[arg(long, value_name = "CORES", allow_hyphen_values = true, help_heading = "Limits")]
    cpu_rate: Option<f64>,
    /// The image to run in [default: the language's own if it is built, else `host`, this machine's programs]
    #[arg(long, value_name = "IMAGE")]
    rootfs: Option<String>,
    /// Run with this profile file instead of the language's own
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Print what would be done, step by step, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the verdict with all its evidence as one JSON object on stdout
    #[arg(long)]
    json: bool,
    #[cfg(debug_assertions)]
    #[command(flatten)]
    hooks: TestHooks,
    /// The source file and its arguments, or after -- a command and its arguments
    #[arg(value_name = "FILE [ARGS…] | -- COMMAND [ARGS…]", required = true, trailing_var_arg = true)]
    words: Vec<OsString>,
}

/// Controls of the tests: they take a layer away, or make a step fail. A release build does not have them.
#[cfg(debug_assertions)]
#[derive(Args)]
struct TestHooks {
    /// Leave out a step of the sequence
    #[arg(long, value_name = "STEP", hide = true)]
    without_step: Vec<String>,
    /// Share a namespace with the supervisor
    #[arg(long, value_name = "NAMESPACE", hide = true)]
    without_namespace: Vec<String>,
    /// Make a fault point fail once, after PASS matches of it have gone well
    #[arg(long, value_name = "POINT[+PASS][=ERRNO]", hide = true)]
    fail: Vec<String>,
}

#[derive(Args)]
#[command(
    after_help = "Runs a few programs of a moment each in real sandboxes and reads back from inside what is enforced.\n\n\
                        Exit code: 0 when everything required is there, 1 when something is missing, 125 when the check \
                        itself failed."
)]
pub struct CheckArguments {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(
    after_help = "Each attack runs in a real sandbox, along the path of any run and under this machine's configuration; \
                  it takes well under two minutes.\n\n\
                  Exit code: 0 when every attack was stopped, 1 when one was not or something was left over, 125 when \
                  no sandbox can be made at all.\n\n\
                  Examples:\n  sandboxd selftest\n  sandboxd selftest --only mount --only sweep\n  \
                  sandboxd selftest --junit selftest.xml --json > selftest.json"
)]
pub struct SelftestArguments {
    /// Try only the attack of this name, or those whose names contain it; repeatable
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// List the attacks and what must stop them, and try nothing
    #[arg(long)]
    list: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Write the findings as a JUnit report as well
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// The image to try them in [default: base if it is built, else `host`, this machine's programs]
    #[arg(long, value_name = "IMAGE")]
    rootfs: Option<String>,
    #[cfg(debug_assertions)]
    #[command(flatten)]
    hooks: SelftestHooks,
}

/// Controls of the tests, as those of `run`. A release build does not have them.
#[cfg(debug_assertions)]
#[derive(Args)]
struct SelftestHooks {
    /// Leave out a step of the sequence
    #[arg(long, value_name = "STEP", hide = true)]
    without_step: Vec<String>,
    /// Share a namespace with the supervisor; never the pid namespace, in which attacks mean their own init
    #[arg(long, value_name = "NAME", hide = true, value_parser = ["mount", "net", "ipc", "uts", "cgroup"])]
    without_namespace: Vec<String>,
}

#[derive(Args)]
pub struct LanguagesArguments {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// `sandboxd run` without the other commands, whose definitions take longer to make than all of its own parsing.
#[derive(Parser)]
#[command(name = "sandboxd", version, max_term_width = 100)]
struct RunAlone {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Subcommand)]
enum RunCommand {
    Run(Box<RunArguments>),
}

/// Whether the first word is `run`; behind settings it may come later.
fn run_is_first() -> bool {
    std::env::args_os().nth(1).is_some_and(|word| word == "run")
}

fn parse() -> Result<Cli, clap::Error> {
    if run_is_first()
        && let Ok(RunAlone { settings, command: RunCommand::Run(arguments) }) = RunAlone::try_parse()
    {
        return Ok(Cli { settings, command: Command::Run(arguments) });
    }
    // Whatever else is to be said, as the whole says it.
    Cli::try_parse()
}

/// Runs the program of this process's arguments.
pub fn main() -> ExitCode {
    let ahead = ahead::Ahead::begin();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where stdout or stderr is gone nobody can be told.
            let _ = error.print();
            // Not the usual 2: that could be the exit code of a program that ran.
            return if error.use_stderr() { ExitCode::from(EXIT_SANDBOX_FAILED) } else { ExitCode::SUCCESS };
        }
    };
    let is_service = matches!(cli.command, Command::Serve(_) | Command::Front { .. } | Command::Supervisor { .. });
    let filter = cli.settings.log.clone().unwrap_or_else(|| if is_service { "info" } else { "warn" }.to_owned());
    let style = match (is_service, cli.settings.log_json) {
        (false, _) => Style::Command,
        (true, false) => Style::Service,
        (true, true) => Style::Json,
    };
    log::start(&filter, style);
    if let Command::Front { uid, gid } = cli.command {
        // Before anything is read.
        return serve::front(uid, gid);
    }
    let log_flags = [OsString::from("--log"), filter.into()];
    let flags = Flags {
        config: cli.settings.config,
        rootfs_dir: cli.settings.rootfs_dir,
        profiles_dir: cli.settings.profiles_dir,
        cgroup: cli.settings.cgroup.map(|choice| match choice {
            CgroupFlag::Auto => Choice::Auto,
            CgroupFlag::V2 => Choice::V2,
            CgroupFlag::Hybrid => Choice::Hybrid,
            CgroupFlag::None => Choice::None,
        }),
    };
    let result = Config::load(&flags).map_err(anyhow::Error::from).and_then(|config| match cli.command {
        Command::Run(arguments) => Ok(run::main(&config, *arguments, ahead)),
        Command::Check(arguments) => check::main(&config, &arguments),
        Command::Selftest(arguments) => selftest::main(&config, arguments),
        Command::Languages(arguments) => languages::main(&config, &arguments),
        Command::Rootfs(command) => rootfs::main(&config, command),
        Command::Serve(arguments) => serve::main(flags.clone(), log_flags.into(), arguments),
        Command::Front { .. } => Ok(ExitCode::SUCCESS),
        Command::Supervisor {
            cells_max,
            use_host_image,
            pool_cells_per_shape,
            pool_idle_time,
            #[cfg(debug_assertions)]
            hooks,
        } => {
            #[cfg(debug_assertions)]
            run::arm_faults(&hooks.fail).map_err(anyhow::Error::msg)?;
            let pool =
                PoolSize { cells_per_shape: pool_cells_per_shape, idle_time: pool_idle_time, ..PoolSize::default() };
            supervisor::main(&config, cells_max, use_host_image, pool)
        }
        Command::Config(arguments) => config::main(&config, &arguments),
        Command::Completions { shell } => documents::completions(shell),
        Command::Man { directory } => documents::man_pages(&directory),
    });
    result.unwrap_or_else(|error| {
        say_error(&error);
        let errnos = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
        if let Some(remedy) = errnos.map(Errno::from_raw).find_map(runner::remedy) {
            say_hint(remedy);
        }
        ExitCode::from(EXIT_SANDBOX_FAILED)
    })
}

/// An error with its causes, and the remedy where there is one.
fn say_error(error: &anyhow::Error) {
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
    say(format_args!("{style}error{style:#}: {error:#}"));
}

/// Writes to stdout, with colours only on a terminal. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    use anyhow::Context as _;
    use std::io::Write as _;
    let mut stdout = anstream::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("failed to write to stdout"),
    }
}

fn say_hint(hint: &str) {
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Cyan.into()));
    say(format_args!("{style}hint{style:#}: {hint}"));
}

fn say_warning(warning: &str) {
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Yellow.into()));
    say(format_args!("{style}warning{style:#}: {warning}"));
}

/// A line on stderr. Whoever closed it or let its disk fill up does not want to read it: the exit code still tells.
fn say(line: std::fmt::Arguments) {
    use std::io::Write as _;
    let _ = writeln!(anstream::stderr(), "{line}");
}
