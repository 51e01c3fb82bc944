//! Tries one function with very many inputs: those of the kept corpus as they are, and then changed ones for a while.
//!
//! What a changed input came to is told by the function in a few words. One that came to something new is changed further,
//! which leads from the corpus to what no file of it has, in place of a measure of coverage: that takes another compiler,
//! or a build of everything for itself.
//!
//! An input is at fault when a thread panics, when it takes longer than [`INPUT_TIME_MAX`] or when all of them together
//! take more memory than [`MEMORY_BYTES_MAX`]. It is written to a file before it is tried, so that it is there whatever it
//! does to this process.
//!
//! - `FUZZ_SECONDS`: time for each target; two seconds.
//! - `FUZZ_SEED`: a number from which all changes follow; 1.
//! - `FUZZ_INPUT`: a file to be tried in place of everything else.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use crate::mutate::{Dice, Words, mutate};

/// Longest time for one input. The machine may be busy, and the build is one for debugging.
const INPUT_TIME_MAX: Duration = Duration::from_secs(15);
/// Greatest memory of this process.
const MEMORY_BYTES_MAX: u64 = 3 << 30;
/// Inputs that are changed further, beside the corpus.
const POOL_MAX: usize = 4000;
/// Attempts to make an input at fault smaller.
const SMALLER_MAX: usize = 3000;

/// What inputs of a target look like.
pub struct Target {
    /// Also the directory of its corpus.
    pub name: &'static str,
    /// The lists of words of its language.
    pub words: &'static [&'static str],
    pub bytes_max: usize,
    /// Inputs that are made rather than kept: files of the repository, messages of the protocol as it is now.
    pub made: Vec<Vec<u8>>,
}

thread_local! {
    static IS_FUZZING: Cell<bool> = const { Cell::new(false) };
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Panics of threads that a target has started.
static OTHER_PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static RUNNING: Mutex<Vec<Arc<Running>>> = Mutex::new(Vec::new());
static SET_UP: Once = Once::new();

/// The input that is tried now.
struct Running {
    name: &'static str,
    path: PathBuf,
    /// Milliseconds since the first target began; 0 while there is none.
    since_ms: AtomicU64,
}

/// Tries `check` with inputs. It tells in a few words what an input came to, and panics when that is wrong.
pub fn fuzz(target: &Target, mut check: impl FnMut(&[u8]) -> String) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&directory).expect("the directory for inputs");
    let path = directory.join(format!("{}.running", target.name));
    let running = Arc::new(Running { name: target.name, path: path.clone(), since_ms: AtomicU64::new(0) });
    let began = Instant::now();
    SET_UP.call_once(|| set_up(began));
    RUNNING.lock().expect("the list of targets").push(Arc::clone(&running));
    IS_FUZZING.set(true);
    // The last run died of it.
    let deadly = fs::read(&path).ok().filter(|bytes| !bytes.is_empty());
    let mut attempt =
        Attempt { check: &mut check, running: &running, file: File::create(&path).expect("a file for inputs") };

    let seed = number_of("FUZZ_SEED").unwrap_or(1);
    if let Some(input) = std::env::var_os("FUZZ_INPUT") {
        let input = fs::read(input).expect("FUZZ_INPUT can be read");
        println!("{}: {}", target.name, attempt.with(&input).unwrap_or_else(|why| panic!("{why}")));
        return end(&running);
    }
    let mut pool = corpus(target.name);
    assert!(!pool.is_empty() || !target.made.is_empty(), "{} has nothing to begin with", target.name);
    pool.extend(target.made.iter().cloned());
    pool.extend(deadly);
    let mut kinds = HashSet::new();
    for input in &pool {
        kinds.insert(attempt.with(input).unwrap_or_else(|why| attempt.fail(target, input, &why, "the corpus")));
    }
    let (kept, time) = (pool.len(), Duration::from_secs(number_of("FUZZ_SECONDS").unwrap_or(2)));
    let words = Words::read(target.words);
    let (mut count, looping) = (0u64, Instant::now());
    while looping.elapsed() < time {
        count += 1;
        let mut dice = Dice::new(seed.wrapping_mul(0x1_0000_0001).wrapping_add(count));
        // What was found last leads on more often than what has been there all the time.
        let newest = pool.len().saturating_sub(50);
        let from = if dice.below(3) == 0 { newest + dice.below(pool.len() - newest) } else { dice.below(pool.len()) };
        let other = dice.below(pool.len());
        let input = mutate(&mut dice, &pool[from], &pool[other], &words, target.bytes_max);
        let whence = format!("seed {seed}, change {count}");
        let kind = attempt.with(&input).unwrap_or_else(|why| attempt.fail(target, &input, &why, &whence));
        if kinds.insert(kind) && pool.len() < kept + POOL_MAX {
            pool.push(input);
        }
    }
    let rate = count as f64 / looping.elapsed().as_secs_f64();
    println!("{}: {count} inputs, {rate:.0}/s, {} kinds of results, {kept} kept", target.name, kinds.len());
    if std::env::var_os("FUZZ_KINDS").is_some() {
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort();
        println!("{}", kinds.join("\n"));
    }
    end(&running);
}

fn end(running: &Running) {
    RUNNING.lock().expect("the list of targets").retain(|other| other.name != running.name);
    // Another process that tries the same target has the same file.
    let _gone = fs::remove_file(&running.path);
}

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no whole number")))
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file of the corpus")).collect()
}

struct Attempt<'a, F> {
    check: &'a mut F,
    running: &'a Running,
    file: File,
}

impl<F: FnMut(&[u8]) -> String> Attempt<'_, F> {
    /// What `input` came to.
    ///
    /// # Errors
    /// Why it is at fault.
    fn with(&mut self, input: &[u8]) -> Result<String, String> {
        self.file.set_len(0).and_then(|()| self.file.write_all_at(input, 0)).expect("the input is written down");
        self.running.since_ms.store(now_ms(), Ordering::Relaxed);
        let result = catch_unwind(AssertUnwindSafe(|| (self.check)(input)));
        self.running.since_ms.store(0, Ordering::Relaxed);
        // Also those that somebody has caught.
        let mut panics = PANICS.take();
        panics.append(&mut OTHER_PANICS.lock().expect("the list of panics"));
        match result {
            Ok(kind) if panics.is_empty() => Ok(kind),
            _ => Err(panics.join("\n")),
        }
    }

    /// Makes `input` smaller, keeps it and fails.
    fn fail(&mut self, target: &Target, input: &[u8], why: &str, whence: &str) -> ! {
        let (mut least, mut why, mut tries) = (input.to_vec(), why.to_owned(), 0);
        let mut piece = least.len() / 2;
        while piece > 0 {
            let mut at = 0;
            while at < least.len() && tries < SMALLER_MAX {
                let mut smaller = least.clone();
                smaller.drain(at..(at + piece).min(least.len()));
                tries += 1;
                match self.with(&smaller) {
                    Err(again) => (least, why) = (smaller, again),
                    Ok(_) => at += piece,
                }
            }
            piece /= 2;
        }
        let mut hasher = DefaultHasher::new();
        least.hash(&mut hasher);
        let path = self.running.path.with_file_name(format!("{}-{:016x}", target.name, hasher.finish()));
        fs::write(&path, &least).expect("the input is kept");
        end(self.running);
        let (name, path) = (target.name, path.display());
        IS_FUZZING.set(false);
        panic!(
            "{name}: {why}\nof {:?}\nfrom {whence}; again: FUZZ_INPUT={path} cargo test --test fuzz {name}\n\
             once it is mended: cp {path} tests/fuzz/corpus/{name}/",
            String::from_utf8_lossy(&least[..least.len().min(600)])
        );
    }
}

/// The clock of [`Running`].
static BEGAN: Mutex<Option<Instant>> = Mutex::new(None);

fn now_ms() -> u64 {
    let began = *BEGAN.lock().expect("the clock");
    began.map_or(1, |began| began.elapsed().as_millis() as u64 + 1)
}

fn set_up(began: Instant) {
    *BEGAN.lock().expect("the clock") = Some(began);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if IS_FUZZING.get() {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
        } else if std::thread::current().name().is_some_and(|name| name.starts_with("fuzzed")) {
            OTHER_PANICS.lock().expect("the list of panics").push(info.to_string());
        } else {
            before(info);
        }
    }));
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = now_ms();
            for running in RUNNING.lock().expect("the list of targets").iter() {
                let since = running.since_ms.load(Ordering::Relaxed);
                if since > 0 && now.saturating_sub(since) > INPUT_TIME_MAX.as_millis() as u64 {
                    die(&format!("{}: an input takes over {INPUT_TIME_MAX:?}", running.name));
                }
            }
            if resident_bytes() > MEMORY_BYTES_MAX {
                die(&format!("over {MEMORY_BYTES_MAX} bytes of memory are in use"));
            }
        }
    });
}

/// The inputs stay where they are written down, and are the first of the next run.
fn die(why: &str) -> ! {
    use std::io::Write as _;
    // Past the capture of tests' output.
    let _ = writeln!(std::io::stderr(), "{why}; see *.running in {}/fuzz", env!("CARGO_TARGET_TMPDIR"));
    std::process::abort();
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Of two braces and whatever stands between and around them, the braces are left.
#[test]
#[should_panic(expected = "of \"{{\"\nfrom seed")]
fn a_fault_is_found_and_made_small() {
    let made = vec![b"a {b}".to_vec()];
    let target = Target { name: "a_fault_is_found_and_made_small", words: &["text"], bytes_max: 64, made };
    fuzz(&target, |input| {
        let count = input.iter().filter(|byte| **byte == b'{').count();
        assert!(count < 2, "{count} braces");
        String::new()
    });
}
