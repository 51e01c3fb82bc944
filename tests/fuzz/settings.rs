//! Files that operators write, and the environment and flags beside them: any text is a value, or an error that says which
//! file and line is wrong, or which variable or flag.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sandboxd::config::setting::Environment;
use sandboxd::config::{Config, Flags, ServiceFlags, print, table};
use sandboxd::rootfs::Recipe;
use sandboxd::rootfs::host::HostRecipe;
use sandboxd::sandbox::seccomp::{Denial, Policy};
use sandboxd::service::policy::Policies;
use sandboxd::words::limits::{format_size, format_time, parse_count, parse_size, parse_time};
use sandboxd::words::network::Network;
use sandboxd::words::profile::Profile;
use sandboxd::words::request::{FileEntry, Program, Request, SourceFile};

use crate::driver::{Target, fuzz};
use crate::world::{self, kind_of};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a directory that end in `.toml`, largest last, so that what is found early is small.
fn files_of(directory: &str) -> Vec<Vec<u8>> {
    let paths = fs::read_dir(root().join(directory)).expect("a directory").map(|entry| entry.expect("an entry").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let mut texts: Vec<_> = paths.map(|path| fs::read(path).expect("a file")).collect();
    texts.sort_by_key(Vec::len);
    texts
}

/// An error about `file` begins with it and a line that there is.
fn check_place(error: &str, file: &str, text: &str) {
    let rest =
        error.strip_prefix(file).and_then(|rest| rest.strip_prefix(':')).unwrap_or_else(|| panic!("no file: {error}"));
    let (line, message) = rest.split_once(": ").unwrap_or_else(|| panic!("no line: {error}"));
    let line: usize = line.parse().unwrap_or_else(|_| panic!("no line: {error}"));
    assert!((1..=text.matches('\n').count() + 1).contains(&line), "no such line: {error}");
    assert!(!message.trim().is_empty(), "no message: {error}");
}

#[test]
fn profiles() {
    let target = Target {
        name: "profiles",
        words: &["toml", "profiles"],
        bytes_max: 8 << 10,
        made: files_of("sandbox-profiles"),
    };
    let (all, host) = (world::profiles(), world::host());
    fuzz(&target, |input| {
        let text = String::from_utf8_lossy(input);
        let profile = match Profile::parse("p.toml", &text) {
            Ok(profile) => profile,
            Err(error) => {
                check_place(&error.to_string(), "p.toml", &text);
                return kind_of(&error.message);
            }
        };
        let table: toml::Table = text.parse().expect("a profile is TOML");
        let again = Profile::parse("p.toml", &table.to_string()).expect("a profile written again is one");
        assert_eq!(format!("{again:?}"), format!("{profile:?}"), "written again it is another");
        let source = FileEntry { name: profile.source.clone(), bytes: 1 };
        let name = profile.name.clone();
        let request = Request { language: Some(name.clone()), program: Program::Source(source), ..Request::default() };
        if let Some(check) = &profile.check {
            check.read("main.x:3:1: error: no\n  ^\nwarning: a\n", "/work/main.x");
        }
        let additions = Policy::embedded().with(&profile.syscalls);
        if let (Ok(policy), false) = (&additions, profile.syscalls.is_empty()) {
            policy.compile(Denial::Errno);
        }
        let mut profiles = all.clone();
        if let Err(error) = profiles.add(profile, "p.toml") {
            check_place(&error.to_string(), "p.toml", &text);
            return kind_of(&error.message);
        }
        match world::planned(&request, &profiles, &host) {
            // A command with a NUL, say.
            Err(error) => {
                world::check_refusal(&error);
                format!("no plan: {}", kind_of(&error.message))
            }
            Ok(plan) => format!("a plan {} {}", plan.compile.is_some(), additions.is_ok()),
        }
    });
}

#[test]
fn recipes() {
    let target = Target { name: "recipes", words: &["toml", "recipes"], bytes_max: 8 << 10, made: files_of("rootfs") };
    fuzz(&target, |input| {
        let text = String::from_utf8_lossy(input);
        match Recipe::parse("python", &text, Path::new("r.toml")) {
            Ok(recipe) => {
                let table: toml::Table = text.parse().expect("a recipe is TOML");
                let again = Recipe::parse("python", &table.to_string(), Path::new("r.toml"));
                assert_eq!(again.expect("a recipe written again is one"), recipe);
                format!("a recipe {} {}", recipe.layers.len().min(4), recipe.layer.is_some())
            }
            Err(error) => {
                check_place(&error.to_string(), "r.toml", &text);
                // The one image that is described in another way.
                if let Err(error) = HostRecipe::parse(&text, Path::new("h.toml")) {
                    check_place(&error.to_string(), "h.toml", &text);
                }
                kind_of(&error.to_string())
            }
        }
    });
}

#[test]
fn system_call_policies() {
    let target = Target {
        name: "system_call_policies",
        words: &["toml", "system_call_policies"],
        bytes_max: 48 << 10,
        made: vec![fs::read(root().join("sandbox-profiles/seccomp.toml")).expect("the policy")],
    };
    fuzz(&target, |input| {
        let text = String::from_utf8_lossy(input);
        match Policy::parse(&text, "s.toml") {
            Ok(policy) => {
                assert!(!policy.compile(Denial::Notify).instructions().is_empty());
                format!("a policy {}", policy.table().len())
            }
            Err(error) => {
                assert!(!error.message.is_empty() && error.place.starts_with("s.toml"), "{error}");
                kind_of(&error.message)
            }
        }
    });
}

type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// The file, lines of `NAME=VALUE` after `--- environment`, and of `NAME=VALUE` after `--- flags`.
fn parts(text: &str) -> (&str, Pairs<'_>, Pairs<'_>) {
    let (text, flags) = text.split_once("\n--- flags\n").unwrap_or((text, ""));
    let (file, environment) = text.split_once("\n--- environment\n").unwrap_or((text, ""));
    fn of(text: &str) -> Pairs<'_> {
        text.split('\n').filter_map(|line| line.split_once('=')).collect()
    }
    (file, of(environment), of(flags))
}

#[test]
fn configurations() {
    let example = print::example();
    // What can be said is behind a `#` without a blank; each for itself, and all together.
    let said = example.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    let said: Vec<&str> = said.take_while(|line| !line.starts_with("[[service.policies")).collect();
    let is_setting = |line: &&&str| line.starts_with(|letter: char| letter == '[' || letter.is_ascii_lowercase());
    let settings: Vec<&str> = said.iter().filter(is_setting).copied().collect();
    let mut table = "";
    let mut lines = Vec::new();
    for line in &settings {
        match line.starts_with('[') {
            true => table = line,
            false => lines.push(format!("{table}\n{line}\n")),
        }
    }
    let whole = ["systemd/config.toml", "examples/fly/config.toml"].map(example_of);
    let made = lines.into_iter().chain(whole).chain([settings.join("\n")]).map(String::into_bytes).collect();
    configure("configurations", made);
}

/// Patterns take long to compile, so that they have a time of their own, and every third rule an input.
#[test]
fn policies() {
    let example = example_of("examples/policies.toml");
    let (mut head, mut made) = (String::new(), Vec::new());
    for line in example.lines() {
        match line.trim() {
            "[[service.policies]]" => head = format!("{line}\n"),
            "]" => {}
            rule if rule.starts_with("{ name") => made.push(format!("{head}a = [\n{line}\n]\n").into_bytes()),
            list if list.ends_with("= [") => {}
            _ => head += &format!("{line}\n"),
        }
    }
    assert!(made.len() > 10, "the rules are where they are looked for");
    configure("policies", made.into_iter().step_by(3).collect());
}

/// An example without its comments.
fn example_of(path: &str) -> String {
    bare(&fs::read_to_string(root().join(path)).expect("an example"))
}

fn bare(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

fn configure(name: &'static str, made: Vec<Vec<u8>>) {
    let target = Target { name, words: &["toml", "configurations"], bytes_max: 24 << 10, made };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.toml");
    fuzz(&target, |input| {
        let text = String::from_utf8_lossy(input);
        let (file, environment, flags) = parts(&text);
        fs::write(&path, file).expect("the file is written");
        let environment: Vec<_> = environment.into_iter().filter(|(name, _)| *name != "SANDBOXD_CONFIG").collect();
        match configured(&path, &environment, &flags) {
            Err(error) => {
                check_error(&error, &path, file, &environment, &flags);
                kind_of(error.trim_start_matches(&*path.to_string_lossy()))
            }
            Ok((config, service)) => {
                let policies = Policies::new(&service.settings.policies).expect("policies that were accepted");
                let sample = SourceFile { name: "main.py".to_owned(), content: b"import os\neval('1')\n".to_vec() };
                policies.findings("native", None, "python", &[sample]);
                check_printed(&config, &service, &path);
                let set = service.origins.0.len();
                format!("settings {} {} {}", set.min(20), service.settings.keys.len(), service.settings.policies.len())
            }
        }
    });
}

type Configured = (Config, sandboxd::config::Service);

fn configured(path: &Path, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Configured, String> {
    let environment: Environment = environment.iter().copied().collect();
    let names: BTreeMap<&str, &'static str> =
        table::service().filter_map(|setting| setting.flag.map(|flag| (flag, setting.name))).collect();
    let known = flags.iter().filter_map(|(flag, value)| Some((*names.get(flag)?, (*value).to_owned())));
    let flags = ServiceFlags(known.collect());
    let machine = Flags { config: Some(PathBuf::from(path)), ..Flags::default() };
    // The whole chain of causes, as the program shows it.
    let told = |error: &dyn std::error::Error| sandboxd::words::causes::chain(error);
    let config = Config::load_from(&machine, &environment).map_err(|error| told(&error))?;
    let service = config.service_from(&flags, &environment).map_err(|error| told(&error))?;
    Ok((config, service))
}

/// An error names the file and a line of it, or the variable or flag.
fn check_error(error: &str, path: &Path, file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) {
    let name = path.to_string_lossy();
    if let Some(from) = error.find(&*name) {
        let rest = &error[from + name.len()..];
        let line =
            rest.trim_start_matches(':').split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
        let lines = 1..=file.matches('\n').count() + 1;
        assert!(line.parse().is_ok_and(|line: usize| lines.contains(&line)), "no line: {error}");
    } else {
        let from_elsewhere = environment.iter().chain(flags).any(|(name, _)| !name.is_empty() && error.contains(name));
        assert!(from_elsewhere, "neither file nor variable nor flag: {error}");
    }
}

/// What is printed as in force is read as what is in force. Keys are printed without what they are.
fn check_printed(config: &Config, service: &sandboxd::config::Service, path: &Path) {
    if !service.settings.keys.is_empty() {
        return;
    }
    let printed = print::effective(config, service);
    fs::write(path, &printed).expect("the file is written");
    let (_, again) =
        configured(path, &[], &[]).unwrap_or_else(|error| panic!("{error}\nof what was printed:\n{printed}"));
    assert_eq!(format!("{:?}", again.settings), format!("{:?}", service.settings), "{printed}");
}

#[test]
fn numbers_and_addresses() {
    let made = [
        "2s",
        "500ms",
        "1.5s",
        "1h",
        "64M",
        "1.5G",
        "4KiB",
        "100",
        "10.0.0.0/8",
        "fdaa::/16",
        "::ffff:10.0.0.1",
        "3.x",
        "^1.2.3",
        ">=1 <2",
    ];
    let made = made.iter().map(|text| text.as_bytes().to_vec()).collect();
    let target = Target { name: "numbers_and_addresses", words: &["numbers_and_addresses"], bytes_max: 80, made };
    fuzz(&target, |input| {
        let text = String::from_utf8_lossy(input);
        let mut kinds = Vec::new();
        let told = |why: String| {
            assert!(!why.is_empty());
            kind_of(&why)
        };
        match parse_time(&text) {
            // As far as it is written, it is read; what no clock or memory has may be rounded beyond all bounds.
            Ok(time) if time.as_secs() < 1 << 60 => {
                let again = parse_time(&format_time(time)).expect("a time as we write it");
                assert!(time.abs_diff(again).as_secs_f64() <= 0.01 * time.as_secs_f64() + 0.001, "{time:?} {again:?}");
                kinds.push("a time".to_owned());
            }
            Ok(_) => kinds.push("longer than that".to_owned()),
            Err(why) => kinds.push(told(why)),
        }
        match parse_size(&text) {
            Ok(bytes) if bytes < 1 << 60 => {
                let again = parse_size(&format_size(bytes)).expect("a size as we write it");
                assert!(bytes.abs_diff(again) as f64 <= 0.06 * bytes as f64 + 1.0, "{bytes} {again}");
                kinds.push("a size".to_owned());
            }
            Ok(_) => kinds.push("larger than that".to_owned()),
            Err(why) => kinds.push(told(why)),
        }
        kinds.push(parse_count(&text).map_or_else(told, |_| "a count".to_owned()));
        if let Ok(network) = text.parse::<Network>() {
            assert_eq!(network.to_string().parse::<Network>().expect("a network as we write it"), network);
            kinds.push("a network".to_owned());
        }
        kinds.join(" ")
    });
}
