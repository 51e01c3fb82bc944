//! The same commands without any sandbox: a process of its own mounts the image's layers for itself alone, enters them
//! with chroot(2), and runs what it is told, as root, as often as it is asked.
//!
//! A process of its own, because it can't leave the image again, and because nobody else is to see its mounts, which
//! go when it ends.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sandboxd::machine::Machine;
use sandboxd::plan::WORKDIR;
use sandboxd::sandbox::stage::{ImageSource, LayerSource};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What the process runs: a program's file and the commands that follow each other.
#[derive(Serialize, Deserialize)]
pub struct Job {
    /// Bottom first: a layer's erofs file, or its directory.
    pub layers: Vec<PathBuf>,
    /// Name in the work directory, content.
    pub file: (String, String),
    pub steps: Vec<Words>,
}

/// One command: the paths where its program may be, its arguments (the program's name first), its environment.
#[derive(Serialize, Deserialize)]
pub struct Words {
    pub candidates: Vec<String>,
    pub arguments: Vec<String>,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
}

/// The environment of an ordinary person's commands.
pub const ENVIRONMENT: [&str; 3] = ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/work", "LANG=C.UTF-8"];

/// An image's layers, bottom first.
pub fn layers(machine: &Machine, rootfs: &str) -> Result<Vec<PathBuf>> {
    let ImageSource::Layers(layers) = machine.image_source(rootfs)? else {
        return Err("an image without layers".into());
    };
    let path = |layer| match layer {
        LayerSource::Erofs(path) | LayerSource::Directory(path) => path,
    };
    Ok(layers.into_iter().map(path).collect())
}

/// The process, waiting to be asked.
pub struct Bare {
    process: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Bare {
    pub fn start(job: &Job) -> Result<Bare> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([WORD, &serde_json::to_string(job)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (ask, answers) = (process.stdin.take(), process.stdout.take().ok_or("no stdout")?);
        let mut bare = Bare { process, ask, answers: BufReader::new(answers) };
        bare.answer()?;
        Ok(bare)
    }

    /// Empties the directories that programs write to and puts the program's file there.
    pub fn prepare(&mut self) -> Result<()> {
        self.ask("prepare")
    }

    /// Runs the commands; the last must print hello.
    pub fn run(&mut self) -> Result<()> {
        self.ask("run")
    }

    fn ask(&mut self, word: &str) -> Result<()> {
        writeln!(self.ask.as_mut().ok_or("hung up")?, "{word}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line == "done\n" { Ok(()) } else { Err(format!("the bare commands: {line}").into()) }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.ask = None;
        let _ended = self.process.wait();
    }
}

/// The argument by which this program becomes that process; the job follows it.
pub const WORD: &str = "bare";

/// Longer than anything that is measured here takes.
const STEP_MAX: Duration = Duration::from_secs(120);

/// The process itself.
pub fn serve(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    // Before chroot: what the image is mounted upon lies outside it.
    let directory = tempfile::tempdir()?;
    enter(&job.layers, directory.path())?;
    // Mounts of this process alone hide what lies below, so that the directory cannot be removed from here.
    let _outside = directory.keep();
    println!("done");
    for line in io::stdin().lines() {
        let result = if line? == "prepare" { prepare(&job) } else { run(&job) };
        match result {
            Ok(()) => println!("done"),
            Err(error) => println!("{}", error.to_string().replace('\n', " ")),
        }
    }
    Ok(())
}

fn enter(layers: &[PathBuf], directory: &Path) -> Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), NONE)?;
    let mut lowers = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let mut target = layer.clone();
        if layer.is_file() {
            target = directory.join(index.to_string());
            fs::create_dir(&target)?;
            // mount(8) finds a loop device, which goes with the mount.
            let status =
                Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(layer).arg(&target).status()?;
            if !status.success() {
                return Err(format!("{} cannot be mounted", layer.display()).into());
            }
        }
        lowers.push(target.display().to_string());
    }
    lowers.reverse();
    // A single layer is no overlay: an empty directory below makes it one, as in a cell.
    let empty = directory.join("empty");
    fs::create_dir(&empty)?;
    lowers.push(empty.display().to_string());
    let root = directory.join("root");
    fs::create_dir(&root)?;
    let options = format!("lowerdir={}", lowers.join(":"));
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str()))?;
    for (source, target) in [("/proc", "proc"), ("/dev", "dev")] {
        mount(Some(source), &root.join(target), NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    }
    for target in ["tmp", "work"] {
        mount(Some("tmpfs"), &root.join(target), Some("tmpfs"), MsFlags::empty(), NONE)?;
    }
    nix::unistd::chroot(&root)?;
    std::env::set_current_dir(WORKDIR)?;
    Ok(())
}

fn prepare(job: &Job) -> Result<()> {
    for directory in [WORKDIR, "/tmp"] {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
    }
    Ok(fs::write(&job.file.0, &job.file.1)?)
}

fn run(job: &Job) -> Result<()> {
    let mut said = Vec::new();
    for step in &job.steps {
        let program = step.candidates.iter().find(|path| Path::new(path).exists());
        let program = program.ok_or_else(|| format!("{:?} is not in the image", step.candidates))?;
        let began = Instant::now();
        let output = Command::new(program)
            .args(step.arguments.iter().skip(1))
            .env_clear()
            .envs(step.environment.iter().filter_map(|variable| variable.split_once('=')))
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() || began.elapsed() > STEP_MAX {
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            return Err(format!("{program} {}: {out} {err}", output.status).into());
        }
        said = output.stdout;
    }
    if said == b"hello\n" { Ok(()) } else { Err(format!("it said {:?}", String::from_utf8_lossy(&said)).into()) }
}
