//! The configuration: each setting from each source, their order, the variables of the services we replace, what is
//! refused and in which words, keys, and `sandboxd config`.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use clap::{Args as _, FromArgMatches as _};
use common::{run_with, sandboxd, text};
use sandboxd::cli::serve_arguments::ServeArguments;
use sandboxd::config::service::Draft;
use sandboxd::config::setting::{Environment, Origin};
use sandboxd::config::value::{Kind, quote};
use sandboxd::config::{Config, ConfigError, Flags, Service, ServiceFlags, table};
use sandboxd::words::settings::{Rate, ServiceSettings};

const GOOD_KEY: &str = "sbx_a-key-that-is-long-enough";

/// Every setting with a value for the file, one for its variable and one for its flag, each as `sandboxd config` writes it.
const SAMPLES: &[(&str, &str, &str, &str)] = &[
    ("listen", "127.0.0.1:1", "127.0.0.2:2,[::1]:22", "unix:/run/sandboxd.sock,127.0.0.1:3"),
    ("connections_max", "11", "12", "13"),
    ("body_bytes_max", "31M", "32M", "33M"),
    ("head_time_max", "1s", "2s", "1500ms"),
    ("body_time_max", "1m", "2m", "1h"),
    ("key", "sbx_file-key-long-enough", "sbx_variable-key-long-enough", ""),
    ("key_file", "FILE/one", "FILE/two", "FILE/three"),
    ("open", "true", "false", "true"),
    ("rate", "1/1s", "2/1m", "none"),
    ("cors_origins", "http://a", "https://b:1,*", "https://c.example.org"),
    ("allowed_hosts", "a", "b.example,*", "c.example"),
    ("trusted_proxies", "10.0.0.1", "10.0.0.2,::1,fdaa::/16", "172.16.0.0/12"),
    ("client_address_header", "Fly-Client-IP", "X-Real-IP", "none"),
    ("concurrent_max", "1", "2", "0"),
    ("queue_max", "1", "2", "0"),
    ("queue_time_max", "1s", "2s", "0s"),
    ("supervisors", "1", "2", "3"),
    ("use_host_image", "true", "false", "true"),
    ("give_up", "landlock", "seccomp,cgroup", "cgroup"),
    ("code_bytes_max", "1K", "2K", "3B"),
    ("compile_cache_bytes", "1M", "2G", "0B"),
    ("piston_output_bytes", "1K", "2K", "3K"),
    ("wall_time_default", "1s", "2s", "none"),
    ("greatest.wall_time", "10s", "20s", "none"),
    ("greatest.cpu_time", "10s", "20s", "1m"),
    ("greatest.memory_bytes", "64M", "1G", "none"),
    ("greatest.processes", "1", "2", "none"),
    ("greatest.output_bytes", "1K", "2K", "none"),
    ("history.enabled", "false", "true", "false"),
    ("history.keep_source", "true", "false", "true"),
    ("history.output_bytes_max", "1K", "2K", "0B"),
    ("history.age_max", "1d", "12h", "1m"),
    ("history.count_max", "1", "2", "3"),
    ("history.bytes_max", "1M", "2M", "3M"),
    ("user", "nobody", "1000", "sandboxd-front"),
    ("state_dir", "/one", "/two", "/three"),
    ("log_format", "json", "text", "json"),
    ("drain_time_max", "1s", "2s", "0s"),
    ("otel_endpoint", "http://127.0.0.1:1", "http://[::1]:2", "none"),
];

/// A directory with a configuration file of this text, readable by its owner alone.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(config: &str) -> Place {
        let place = Place { directory: tempfile::tempdir().unwrap() };
        place.write("config.toml", config);
        place
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

/// The flags of a command line.
fn flags(arguments: &[String]) -> ServiceFlags {
    let command = ServeArguments::augment_args(clap::Command::new("serve"));
    let matches = command.try_get_matches_from(std::iter::once("serve".to_owned()).chain(arguments.iter().cloned()));
    let matches = matches.unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    ServeArguments::from_arg_matches(&matches).unwrap().flags().clone()
}

fn load(config: &Path, environment: &Environment, arguments: &[String]) -> Result<Service, ConfigError> {
    let config = Config::load_from(&Flags { config: Some(config.to_owned()), ..Flags::default() }, environment)?;
    config.service_from(&flags(arguments), environment)
}

fn file(config: &str) -> Result<Service, ConfigError> {
    load(&Place::new(config).path(), &Environment::default(), &[])
}

fn environment<const N: usize>(pairs: [(&str, &str); N]) -> Result<Service, ConfigError> {
    load(&Place::new("").path(), &Environment::from(pairs), &[])
}

fn refusal(result: Result<Service, ConfigError>) -> String {
    match result {
        Ok(_) => panic!("nothing is refused"),
        Err(error) => error.to_string(),
    }
}

/// `text` as a configuration file says it.
fn literal(kind: &Kind, text: &str) -> String {
    match kind {
        Kind::Switch | Kind::Count { .. } if text != "none" => text.to_owned(),
        Kind::List(_) => format!("[{}]", text.split(',').map(quote).collect::<Vec<_>>().join(", ")),
        _ => quote(text),
    }
}

fn shown(setting: &sandboxd::config::setting::Setting<Draft>, settings: &ServiceSettings) -> String {
    setting.value(&Draft { service: settings.clone(), ..Draft::default() }).toml()
}

#[test]
fn every_setting_comes_from_every_source_and_the_later_source_counts() {
    let named: BTreeSet<&str> = SAMPLES.iter().map(|(name, ..)| *name).collect();
    let known: BTreeSet<&str> = table::service().map(|setting| setting.name).collect();
    assert_eq!(named, known, "each setting has its samples here");
    for (name, in_file, in_variable, in_flag) in SAMPLES {
        let setting = table::service().find(|setting| setting.name == *name).unwrap();
        if ["key", "key_file"].contains(name) {
            continue; // They become a key: the next test.
        }
        // With a key, what would be refused for being open to others is not.
        let key = format!("[[service.keys]]\nname = \"k\"\nkey = \"{GOOD_KEY}\"\n");
        // It is refused alone.
        let beside = if *name == "client_address_header" { "trusted_proxies = \"10.0.0.1\"\n" } else { "" };
        let place = Place::new(&format!("[service]\n{name} = {}\n{beside}{key}", literal(&setting.kind, in_file)));
        let variable = setting.variable();
        let nothing = Environment::default();
        let said = Environment::from([(variable.as_str(), *in_variable)]);
        let flag = setting.flag.unwrap_or_else(|| panic!("{name} has no flag"));
        let switch = [format!("--{flag}={in_flag}")];
        let here = place.path();
        let full = format!("service.{name}");
        let from_file = Origin::File { path: here.display().to_string(), line: 2 };
        for (environment, arguments, expected, origin) in [
            (&nothing, &[][..], in_file, from_file),
            (&said, &[][..], in_variable, Origin::Environment(variable.clone())),
            (&said, &switch[..], in_flag, Origin::Flag(flag)),
            (&nothing, &switch[..], in_flag, Origin::Flag(flag)),
        ] {
            let service = load(&here, environment, arguments).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(shown(setting, &service.settings), literal(&setting.kind, expected), "{name}");
            assert_eq!(service.origins.of(&full), &origin, "{name}");
            assert_eq!(service.warnings, Vec::<String>::new(), "{name}");
        }
        let service = file(&key).unwrap();
        assert_eq!(service.origins.of(&full), &Origin::Default, "{name}");
        assert_ne!(
            shown(setting, &service.settings),
            literal(&setting.kind, in_file),
            "{name}: no default in the file"
        );
    }
}

#[test]
fn the_key_called_default_comes_from_every_source_and_the_later_source_counts() {
    let place = Place::new("[service]\nkey = \"sbx_key-of-the-config-file\"\nrate = \"7/1m\"\n");
    let one = place.write("one", "sbx_key-of-the-file-one\n").display().to_string();
    let two = place.write("two", "sbx_key-of-the-file-two\n").display().to_string();
    let hash = |key: &str| sandboxd::config::keys::hex(&sandboxd::config::keys::digest(key));
    let found = |environment: &Environment, arguments: &[String]| {
        let service = load(&place.path(), environment, arguments).unwrap();
        let [key] = service.settings.keys.as_slice() else { panic!("{:?}", service.settings.keys) };
        assert_eq!((key.name.as_str(), key.admin), ("default", true));
        assert_eq!(key.rate, Some(Rate { requests: 7, per: Duration::from_secs(60) }));
        (key.sha256.clone(), service.origins.of("service.keys.default").clone())
    };
    let path = place.path().display().to_string();
    let nothing = Environment::default();
    assert_eq!(found(&nothing, &[]), (hash("sbx_key-of-the-config-file"), Origin::File { path, line: 2 }));
    let alias = Environment::from([("EXECUTOR_API_KEY", "sbx_key-of-the-alias")]);
    assert_eq!(found(&alias, &[]), (hash("sbx_key-of-the-alias"), Origin::Alias(vec!["EXECUTOR_API_KEY"])));
    let both = [("API_KEY", "sbx_key-of-the-alias"), ("SANDBOXD_KEY", "sbx_key-of-the-variable")];
    let variable = Origin::Environment("SANDBOXD_KEY".to_owned());
    assert_eq!(found(&Environment::from(both), &[]), (hash("sbx_key-of-the-variable"), variable));
    let by_file = Environment::from([("API_KEY", "sbx_key-of-the-alias"), ("SANDBOXD_KEY_FILE", one.as_str())]);
    let variable = Origin::Environment("SANDBOXD_KEY_FILE".to_owned());
    assert_eq!(found(&by_file, &[]), (hash("sbx_key-of-the-file-one"), variable));
    let flag = [format!("--key-file={two}")];
    assert_eq!(found(&Environment::from(both), &flag), (hash("sbx_key-of-the-file-two"), Origin::Flag("key-file")));

    let both = [("SANDBOXD_KEY", GOOD_KEY), ("SANDBOXD_KEY_FILE", one.as_str())];
    let error = refusal(environment(both));
    assert_eq!(error, "SANDBOXD_KEY and SANDBOXD_KEY_FILE both give a key; give one of them");
    let relative = Place::new("[service]\nkey_file = \"key\"\n");
    relative.write("key", GOOD_KEY);
    assert_eq!(load(&relative.path(), &nothing, &[]).unwrap().settings.keys[0].sha256, hash(GOOD_KEY));
}

#[test]
fn the_settings_of_every_command_come_from_the_file_and_the_environment() {
    for (name, in_file, in_variable) in [
        ("rootfs_dir", "/one", "/two"),
        ("profiles_dir", "/one", "/two"),
        ("recipes_dir", "/one", "/two"),
        ("cache_dir", "/one", "/two"),
        ("cgroup", "none", "hybrid"),
        ("cgroup_parent", "/one", "/two"),
    ] {
        let setting = table::MACHINE.iter().find(|setting| setting.name == name).unwrap();
        let place = Place::new(&format!("{name} = \"{in_file}\"\n"));
        let flags = Flags { config: Some(place.path()), ..Flags::default() };
        let config = Config::load_from(&flags, &Environment::default()).unwrap();
        assert_eq!(setting.value(&config).toml(), quote(in_file));
        let said = Environment::from([(setting.variable().as_str(), in_variable)]);
        let config = Config::load_from(&flags, &said).unwrap();
        assert_eq!(setting.value(&config).toml(), quote(in_variable));
        let service = config.service_from(&ServiceFlags::default(), &said).unwrap();
        assert_eq!(service.origins.of(name), &Origin::Environment(setting.variable()));
    }
    assert_eq!(table::MACHINE.len(), 6, "each is tried here");
}

#[test]
fn lists_may_be_given_in_several_flags_and_a_switch_alone_is_true() {
    let arguments = ["--cors-origins", "http://a", "--cors-origins=http://b, http://c", "--open"].map(str::to_owned);
    let service = load(&Place::new("").path(), &Environment::default(), &arguments).unwrap();
    assert_eq!(service.settings.cors_origins, ["http://a", "http://b", "http://c"]);
    assert!(service.settings.open);
}

#[test]
fn a_value_that_is_wrong_is_refused_with_its_source_itself_what_is_expected_and_an_example() {
    for setting in table::service() {
        let (text, in_file, example) = match setting.kind {
            Kind::Switch => ("maybe", "\"true\"", "is not true or false"),
            Kind::Count { .. } => ("-1", "-1", "is not a whole number from "),
            Kind::Size { .. } => ("many", "true", "is not a size from "),
            Kind::Time { .. } => ("30", "30", "is not a time with its unit, from "),
            Kind::Rate => ("30", "30", "; for example \"30/1m\""),
            Kind::Word(..) => ("jsno", "\"jsno\"", "is not one of text, json; did you mean `json`?"),
            Kind::Text(_) | Kind::List(_) if setting.name == "key" => {
                ("a b", "\"a b\"", "is not a key of visible ASCII")
            }
            Kind::Text(_) | Kind::List(_) if setting.name == "key_file" => ("\0", "3", "is not the path of a file"),
            Kind::Text(_) | Kind::List(_) => ("no good", "[\"no good\"]", "; for example "),
        };
        let name = setting.name;
        let place = Place::new(&format!("\n[service]\n{name} = {in_file}\n"));
        let error = refusal(load(&place.path(), &Environment::default(), &[]));
        let start = format!("{}:3: service.{name} = ", place.path().display());
        assert!(error.starts_with(&start) && error.contains(example), "{error}");
        let variable = setting.variable();
        let error = refusal(environment([(variable.as_str(), text)]));
        assert!(error.starts_with(&format!("{variable} = ")) && error.contains(example), "{error}");
        let written = if setting.secret { "…".to_owned() } else { format!("{text:?}") };
        assert!(error.contains(&written), "{error}");
        if let Some(flag) = setting.flag {
            let error = refusal(load(&Place::new("").path(), &Environment::default(), &[format!("--{flag}={text}")]));
            assert!(error.starts_with(&format!("--{flag} = ")) && error.contains(example), "{error}");
        }
    }
}

#[test]
fn the_other_services_variables_are_understood_in_their_own_units() {
    for (pairs, name, expected) in [
        (&[("PORT", "3040")][..], "listen", r#"["127.0.0.1:3040"]"#),
        (&[("HOST", "localhost")][..], "listen", r#"["127.0.0.1:8080"]"#),
        (&[("HOST", "::1"), ("PORT", "1")][..], "listen", r#"["[::1]:1"]"#),
        (&[("FRONTEND_URL", "http://localhost:3000/")][..], "cors_origins", r#"["http://localhost:3000"]"#),
        (&[("MAX_CONCURRENT_EXECUTIONS", "10")][..], "concurrent_max", "10"),
        (&[("EXECUTION_TIMEOUT_MAX", "30")][..], "greatest.wall_time", "\"30s\""),
        (&[("MAX_EXECUTION_TIME_MS", "10000")][..], "greatest.wall_time", "\"10s\""),
        (&[("CODE_SIZE_LIMIT", "51200")][..], "code_bytes_max", "\"50K\""),
        (&[("MAX_CODE_SIZE_BYTES", "1048576")][..], "code_bytes_max", "\"1M\""),
        (&[("MAX_OUTPUT_SIZE_BYTES", "10485760")][..], "greatest.output_bytes", "\"10M\""),
        (&[("RATE_LIMIT_POINTS", "20"), ("RATE_LIMIT_DURATION", "30")][..], "rate", "\"20/30s\""),
        (&[("RATE_LIMIT_MAX_REQUESTS", "100"), ("RATE_LIMIT_WINDOW_MS", "900000")][..], "rate", "\"100/15m\""),
        (&[("RATE_LIMIT_POINTS", "20")][..], "rate", "\"20/1m\""),
        (&[("RATE_LIMIT_DURATION", "30")][..], "rate", "\"10/30s\""),
    ] {
        let setting = table::service().find(|setting| setting.name == name).unwrap();
        let only = |pairs: &[(&str, &str)]| match pairs {
            [one] => environment([*one]),
            [one, two] => environment([*one, *two]),
            _ => panic!("{pairs:?}"),
        };
        let service = only(pairs).unwrap_or_else(|error| panic!("{pairs:?}: {error}"));
        assert_eq!(shown(setting, &service.settings), expected, "{pairs:?}");
        let variables: BTreeSet<&str> = pairs.iter().map(|(variable, _)| *variable).collect();
        let Origin::Alias(said) = service.origins.of(&format!("service.{name}")) else { panic!("{pairs:?}") };
        assert_eq!(said.iter().copied().collect::<BTreeSet<_>>(), variables);
        // Ours counts before theirs, and theirs before the file.
        let ours = environment([pairs[0], (setting.variable().as_str(), expected_as_text(name))]).unwrap();
        assert_eq!(ours.origins.of(&format!("service.{name}")), &Origin::Environment(setting.variable()));
        let error = refusal(environment([(pairs[0].0, "no good")]));
        assert!(error.starts_with(&format!("{} = \"no good\" is not ", pairs[0].0)), "{error}");
        assert!(error.contains("; for example "), "{error}");
    }
    let over_file = Place::new("[service]\nlisten = [\"unix:/x\", \"[::1]:5\"]\nrate = \"3/10s\"\n");
    let said = Environment::from([("PORT", "9"), ("RATE_LIMIT_MAX_REQUESTS", "4")]);
    let service = load(&over_file.path(), &said, &[]).unwrap();
    let listen = table::service().next().unwrap();
    assert_eq!(shown(listen, &service.settings), r#"["unix:/x", "[::1]:9"]"#, "the first TCP address is what it says");
    assert_eq!(service.settings.rate, Some(Rate { requests: 4, per: Duration::from_secs(10) }));
}

fn expected_as_text(name: &str) -> &'static str {
    SAMPLES.iter().find(|(sample, ..)| *sample == name).unwrap().2
}

#[test]
fn of_two_of_their_variables_for_one_thing_the_first_counts_and_the_other_is_named() {
    let service = environment([("EXECUTION_TIMEOUT_MAX", "30"), ("MAX_EXECUTION_TIME_MS", "5000")]).unwrap();
    assert_eq!(service.settings.greatest.wall_time, Some(Duration::from_secs(30)));
    assert_eq!(service.warnings, ["MAX_EXECUTION_TIME_MS is left aside: EXECUTION_TIMEOUT_MAX is set too"]);
    let same = environment([("EXECUTOR_API_KEY", GOOD_KEY), ("API_KEY", GOOD_KEY)]).unwrap();
    assert_eq!((same.warnings.len(), same.settings.keys.len()), (0, 1));
    let alone = environment([("API_KEY", GOOD_KEY), ("PORT", "3040")]).unwrap();
    assert_eq!(alone.warnings, ["only this machine is served; with HOST=0.0.0.0 beside PORT, others are too"]);
}

#[test]
fn an_unknown_key_of_the_file_is_refused_with_its_line_and_the_nearest() {
    for (config, line, words) in [
        ("[service]\nlisen = []\n", 2, "unknown field `lisen` in [service]; did you mean `listen`?"),
        ("[servce]\n", 1, "unknown field `servce`; did you mean `service`?"),
        ("[service.histori]\nage_max = \"1d\"\n", 1, "unknown field `histori` in [service]; did you mean `history`?"),
        ("[service.history]\n\nage = \"1d\"\n", 3, "unknown field `age` in [service.history]"),
        ("[service]\nhistory = 3\n", 2, "`history` is a table, as in [service.history]"),
        ("service = 3\n", 1, "`service` is not a table, as in [service]"),
        ("[service.keys]\nname = \"x\"\n", 1, "`keys` is not a list of tables, as in [[service.keys]]"),
        ("[service]\nkeys = [\"x\"]\n", 2, "`keys` is not a list of tables, as in [[service.keys]]"),
        ("[[service.keys]]\nnmae = \"x\"\n", 2, "unknown field `nmae` in [service.keys]; did you mean `name`?"),
        (
            "[[service.keys]]\nname = \"x\"\nlimits = { wal_time = \"1s\" }\n",
            3,
            "in [service.keys.limits]; did you mean `w",
        ),
        ("[[service.policies]]\nname = \"x\"\nrule = 3\n", 3, "did you mean `rules`?"),
        ("[service]\nlisten = []\nlisten = []\n", 3, "duplicate key"),
        ("[service\n", 1, "unclosed table"),
    ] {
        let place = Place::new(config);
        let error = refusal(load(&place.path(), &Environment::default(), &[]));
        let start = format!("{}:{line}: ", place.path().display());
        assert!(error.starts_with(&start) && error.contains(words), "{config:?}: {error}");
    }
}

#[test]
fn keys_are_given_by_hash_in_plain_or_in_a_file_with_bounds_of_their_own() {
    let (_, hash) = sandboxd::config::keys::generate().unwrap();
    let place = Place::new(&format!(
        "[service]\nlisten = \"0.0.0.0:80\"\n\
         [[service.keys]]\nname = \"a\"\nsha256 = \"{}\"\nrate = \"5/1s\"\nconcurrent_max = 2\n\
         languages = [\"py\", \"C++\", \"pithon\"]\nadmin = true\n\
         limits = {{ wall_time = \"5s\", cpu_time = \"4s\", memory_bytes = \"32M\", processes = 8, output_bytes = 4096 }}\n\
         [[service.keys]]\nname = \"b\"\nkey = \"{GOOD_KEY}\"\n\
         [[service.keys]]\nname = \"c\"\nkey_file = \"c.key\"\n",
        hash.to_uppercase(),
    ));
    place.write("c.key", "sbx_another-long-enough-key\n");
    let service = load(&place.path(), &Environment::default(), &[]).unwrap();
    let [a, b, c] = service.settings.keys.as_slice() else { panic!("{:?}", service.settings.keys) };
    assert_eq!((&a.sha256, a.concurrent_max, a.admin), (&hash, Some(2), true));
    assert_eq!(a.rate, Some(Rate { requests: 5, per: Duration::from_secs(1) }));
    assert_eq!(a.languages, ["python", "cpp", "pithon"], "aliases become names");
    let limits = &a.greatest;
    assert_eq!((limits.wall_time, limits.cpu_time), (Some(Duration::from_secs(5)), Some(Duration::from_secs(4))));
    assert_eq!((limits.memory_bytes, limits.processes, limits.output_bytes), (Some(32 << 20), Some(8), Some(4096)));
    let path = place.path().display().to_string();
    assert_eq!(service.warnings, [format!("{path}:3: key `a`: there is no language `pithon`; did you mean `python`?")]);
    let origin = |name: &str| service.origins.of(&format!("service.keys.{name}")).to_string();
    assert_eq!([origin("a"), origin("b")], [format!("{path}:3"), format!("{path}:11")]);

    let keys = sandboxd::service::keys::Keys::new(&service.settings.keys).unwrap();
    assert_eq!(keys.find(GOOD_KEY), Some(b));
    assert_eq!(keys.find("sbx_another-long-enough-key"), Some(c));
}

#[test]
fn keys_that_are_weak_unclear_or_twice_are_refused_and_never_repeated() {
    let entry = |name: &str, key: &str| format!("[[service.keys]]\nname = \"{name}\"\n{key}\n");
    let short = format!("key = \"{}\"", "sesame-open");
    let good = format!("key = \"{GOOD_KEY}\"");
    let nothing = "sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"";
    for (config, line, words) in [
        (
            entry("a", &short),
            3,
            "key `a`: a key of 11 bytes, not 16 to 1024; `sandboxd config new-key NAME` makes a good one",
        ),
        (entry("a", ""), 1, "key `a` needs one of sha256, key and key_file; `sandboxd config new-key a` prints"),
        (entry("a", &format!("{good}\n{nothing}")), 4, "is not a SHA-256"),
        (entry("a", &format!("{good}\nkey_file = \"x\"")), 1, "key `a` needs one of sha256, key and key_file"),
        (entry("a", nothing), 3, "is not a SHA-256 in 64 hexadecimal digits"),
        (entry("a b", &good), 2, "\"a b\" is not a name of 1 to 64 letters"),
        (format!("[[service.keys]]\n{good}\n"), 1, "a key without a name; say name"),
        (entry("a", &good) + &entry("a", "key = \"sbx_another-long-enough-key\""), 4, "two keys are called `a`"),
        (entry("a", &good) + &entry("b", &good), 4, "`a` and `b` are the same key"),
        (entry("a", &format!("{good}\nconcurrent_max = 0")), 4, "concurrent_max = 0 is not a whole number from 1"),
    ] {
        let place = Place::new(&config);
        let error = refusal(load(&place.path(), &Environment::default(), &[]));
        let start = format!("{}:{line}: ", place.path().display());
        assert!(error.starts_with(&start) && error.contains(words), "{config}: {error}");
        assert!(!error.contains(GOOD_KEY) && !error.contains("sesame"), "{error}");
    }
    let error = refusal(environment([("SANDBOXD_KEY", "sesame-open")]));
    assert!(error.starts_with("SANDBOXD_KEY: a key of 11 bytes") && !error.contains("sesame"), "{error}");
    let place = Place::new(&entry("default", "key = \"sbx_another-long-enough-key\""));
    let error = refusal(load(&place.path(), &Environment::from([("API_KEY", GOOD_KEY)]), &[]));
    assert_eq!(error, "API_KEY: two keys are called `default`; leave one of them out");
    let place = Place::new("");
    let empty = place.write("empty", "\n").display().to_string();
    let error = refusal(environment([("SANDBOXD_KEY_FILE", empty.as_str())]));
    assert!(error.contains("empty: not one key"), "{error}");
    let error = refusal(environment([("SANDBOXD_KEY_FILE", "/no/such/key")]));
    assert_eq!(error, "SANDBOXD_KEY_FILE: failed to read \"/no/such/key\"");
    // Their manuals begin with this one.
    let service = environment([("EXECUTOR_API_KEY", "dev-key-12345"), ("HOST", "0.0.0.0")]).unwrap();
    assert!(service.warnings[0].starts_with("EXECUTOR_API_KEY holds a key of 13 bytes, which can be guessed"));
    assert!(!service.warnings[0].contains("dev-key"), "{:?}", service.warnings);
    assert_eq!(service.settings.keys.len(), 1);
}

#[test]
fn files_with_keys_that_others_may_read_are_warned_of() {
    let warned = |config: &str, mode: u32, name: &str| {
        let place = Place::new(config);
        place.write("key", GOOD_KEY);
        let path = place.directory.path().join(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let warnings = load(&place.path(), &Environment::default(), &[]).unwrap().warnings;
        warnings.iter().any(|warning| warning.contains(&format!("chmod 640 {}", path.display())))
    };
    let plain = format!("[[service.keys]]\nname = \"a\"\nkey = \"{GOOD_KEY}\"\n");
    let default = format!("[service]\nkey = \"{GOOD_KEY}\"\n");
    let hash = format!("[[service.keys]]\nname = \"a\"\nsha256 = \"{}\"\n", "0123456789abcdef".repeat(4));
    let elsewhere = "[[service.keys]]\nname = \"a\"\nkey_file = \"key\"\n";
    assert!(warned(&plain, 0o644, "config.toml") && !warned(&plain, 0o640, "config.toml"));
    assert!(warned(&default, 0o644, "config.toml"));
    assert!(!warned(&hash, 0o644, "config.toml"), "a hash is no secret");
    assert!(warned(elsewhere, 0o644, "key") && !warned(elsewhere, 0o600, "key"));
}

#[test]
fn without_a_key_other_machines_are_served_only_when_told_so() {
    for (config, refused) in [
        ("listen = \"0.0.0.0:80\"", true),
        ("listen = \"[::]:80\"", true),
        ("listen = [\"127.0.0.1:80\", \"192.0.2.1:80\"]", true),
        ("listen = \"[::ffff:192.0.2.1]:80\"", true),
        (
            "listen = [\"127.0.0.1:80\", \"127.3.2.1:80\", \"[::1]:80\", \"unix:/run/x\", \"[::ffff:127.0.0.1]:1\"]",
            false,
        ),
        ("listen = \"0.0.0.0:80\"\nopen = true", false),
        ("listen = \"0.0.0.0:80\"\nkey = \"sbx_a-key-that-is-long-enough\"", false),
    ] {
        let result = file(&format!("[service]\n{config}\n"));
        assert_eq!(result.is_err(), refused, "{config}");
        if refused {
            let error = refusal(result);
            assert!(error.contains(":2: service.listen: ") && error.contains("sandboxd config new-key"), "{error}");
        }
    }
    let error = refusal(environment([("HOST", "0.0.0.0")]));
    assert!(error.starts_with("HOST: 0.0.0.0:8080 can be reached from other machines, and there is no key"), "{error}");
    let error = refusal(file("[service]\nwall_time_default = \"9s\"\ngreatest.wall_time = \"5s\"\n"));
    assert!(error.contains(":2: service.wall_time_default is above ") && error.contains("no run could"), "{error}");
}

#[test]
fn a_header_needs_a_proxy_that_is_trusted() {
    let error = refusal(file("[service]\nclient_address_header = \"Fly-Client-IP\"\n"));
    assert!(error.contains(":2: service.client_address_header is set, and no proxy is trusted"), "{error}");
    let with = "[service]\nclient_address_header = \"Fly-Client-IP\"\ntrusted_proxies = [\"172.16.0.0/12\"]\n";
    let settings = file(with).unwrap().settings;
    assert_eq!(settings.client_address_header.as_deref(), Some("Fly-Client-IP"));
    assert_eq!(settings.trusted_proxies, ["172.16.0.0/12".parse().unwrap()]);
    let error = refusal(file("[service]\ntrusted_proxies = [\"172.16.0.1/12\"]\n"));
    assert!(error.contains("172.16.0.1/12") && error.contains("is not an IP address, or a network"), "{error}");
}

#[test]
fn policies_are_whole_and_name_what_exists() {
    let rule = "[[service.policies.rules.js]]\nname = \"eval\"\npattern = '\\beval\\('\nmessage = \"no eval\"\n";
    let key = format!("[[service.keys]]\nname = \"docs\"\nkey = \"{GOOD_KEY}\"\n");
    let policy = "[[service.policies]]\nname = \"p\"\ndialects = [\"light\"]\nkeys = [\"docs\"]\n";
    let service =
        file(&format!("{key}{policy}{rule}{rule}[[service.policies.rules.pyhton]]\n{}", &rule[30..])).unwrap();
    let [read] = service.settings.policies.as_slice() else { panic!("{:?}", service.settings.policies) };
    assert_eq!((read.dialects.as_slice(), read.keys.as_slice()), (&["light".to_owned()][..], &["docs".to_owned()][..]));
    assert_eq!((read.rules["javascript"].len(), read.rules["pyhton"].len()), (2, 1));
    assert!(service.warnings[0].ends_with("policy `p`: there is no language `pyhton`; did you mean `python`?"));

    let wrong = |config: &str, words: &str| {
        let error = refusal(file(config));
        assert!(error.contains(words), "{config}: {error}");
    };
    wrong(&format!("{policy}{rule}"), "policy `p` names the key `docs`, which there is not");
    wrong(&format!("{key}{}{rule}", policy.replace("docs", "dosc")), "did you mean `docs`?");
    wrong(&format!("{key}{}{rule}", policy.replace("light", "Light")), "is not one of native, light");
    wrong(&format!("{key}{policy}"), "policy `p` has 0 rules, not 1 to 256; write [[service.policies.rules.LANGUAGE]]");
    wrong(&format!("{key}{policy}{}", rule.replace("'\\beval\\('", "'('")), "\"(\" is not a regular expression");
    wrong(&format!("{key}{policy}{}", rule.replace("message = \"no eval\"", "")), "a rule without a message");
    wrong(&format!("{key}{policy}{rule}{policy}{rule}"), "two policies are called `p`");
    wrong(&format!("{key}{policy}rules = 3\n"), "`rules` is not a table of languages");
}

#[test]
fn variables_of_ours_that_mean_nothing_are_warned_of() {
    let service = environment([("SANDBOXD_LISTN", "x"), ("SANDBOXD_PORT", "1"), ("SANDBOXD_COLOUR", "red")]).unwrap();
    let expected = [
        "SANDBOXD_COLOUR is no setting",
        "SANDBOXD_LISTN is no setting; did you mean SANDBOXD_LISTEN?",
        "SANDBOXD_PORT is no setting; did you mean PORT?",
    ];
    assert_eq!(service.warnings, expected);
    let fine = environment([("SANDBOXD_LOG", "debug"), ("SANDBOXD_LISTEN", ""), ("PORTS", "x")]).unwrap();
    assert_eq!(fine.warnings, Vec::<String>::new(), "what is empty is not set");
}

#[test]
fn the_example_file_is_the_tables_and_all_of_it_is_right() {
    let example = sandboxd::config::print::example();
    let file_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/config.toml");
    let in_repository = std::fs::read_to_string(file_path).unwrap();
    assert!(in_repository == example, "make it anew: sandboxd config --example > systemd/config.toml");
    for line in example.lines() {
        assert!(line.chars().count() <= 125, "{line}");
    }
    let untouched = file(&example).unwrap();
    assert_eq!((untouched.settings, untouched.warnings), (ServiceSettings::default(), Vec::new()));
    // Every setting that is commented out, taken at its word, is the default.
    let setting =
        |line: &str| line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let all: String =
        example.lines().map(|line| if setting(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n");
    let service = file(&all).unwrap();
    assert_eq!((service.settings.keys.len(), service.settings.policies.len()), (1, 1));
    assert_eq!(service.warnings, Vec::<String>::new());
    let without = ServiceSettings { keys: Vec::new(), policies: Vec::new(), ..service.settings };
    assert_eq!(without, ServiceSettings::default());
    for setting in table::service() {
        let origin = service.origins.of(&format!("service.{}", setting.name));
        assert!(matches!(origin, Origin::File { .. }), "{} is not in the example", setting.name);
    }
}

#[test]
fn what_the_table_says_fits_one_line_of_help() {
    let abouts =
        table::service().map(|setting| setting.about).chain(table::MACHINE.iter().map(|setting| setting.about));
    for about in abouts {
        assert!(about.len() <= 100 && !about.ends_with('.') && !about.contains('\n'), "{about}");
    }
}

/// `sandboxd ARGUMENTS` in an environment of these variables alone.
fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = sandboxd();
    command.env_clear().envs(variables.iter().copied()).args(arguments);
    run_with(&mut command, b"", Duration::from_secs(60))
}

#[test]
fn what_is_in_force_is_printed_with_where_it_came_from_and_is_a_configuration() {
    let place = Place::new(&format!(
        "rootfs_dir = \"/images\"\n[service]\nqueue_max = 5\n[[service.keys]]\nname = \"docs\"\nkey = \"{GOOD_KEY}\"\n"
    ));
    let path = place.path().display().to_string();
    let variables = [("SANDBOXD_CONFIG", path.as_str()), ("PORT", "9000"), ("SANDBOXD_SUPERVISORS", "2")];
    let output = command(&["config", "--cgroup", "none", "--rate", "30/1m"], &variables);
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    for (line, origin) in [
        ("rootfs_dir = \"/images\"", format!("{path}:1")),
        ("profiles_dir = \"/etc/sandboxd/profiles\"", "default".to_owned()),
        ("cgroup = \"none\"", "--cgroup".to_owned()),
        ("listen = [\"127.0.0.1:9000\"]", "PORT".to_owned()),
        ("queue_max = 5", format!("{path}:3")),
        ("supervisors = 2", "SANDBOXD_SUPERVISORS".to_owned()),
        ("rate = \"30/1m\"", "--rate".to_owned()),
        ("age_max = \"30d\"", "default".to_owned()),
        ("[[service.keys]]", format!("{path}:4")),
    ] {
        let whole = printed.lines().find(|printed| printed.starts_with(line)).unwrap_or_else(|| panic!("{printed}"));
        assert_eq!(whole[line.len()..].trim_start(), format!("# {origin}"), "{whole}");
    }
    let hash = sandboxd::config::keys::hex(&sandboxd::config::keys::digest(GOOD_KEY));
    assert!(printed.contains(&format!("# sha256 begins with {}\n", &hash[..8])), "{printed}");
    let json = command(&["config", "--json"], &variables);
    for secret in [GOOD_KEY, &hash[..9]] {
        assert!(![&printed, &said, &text(&json.stdout)].iter().any(|text| text.contains(secret)), "{secret}");
    }
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["settings"]["service.queue_max"]["value"], 5);
    let origin = serde_json::json!({"source": "file", "file": path, "line": 3});
    assert_eq!(json["settings"]["service.queue_max"]["from"], origin);
    assert_eq!(json["settings"]["service.listen"]["from"]["variables"], serde_json::json!(["PORT"]));
    assert_eq!((&json["keys"][0]["name"], &json["keys"][0]["sha256_start"]), (&"docs".into(), &hash[..8].into()));
    assert_eq!(json["warnings"].as_array().unwrap().len(), 1, "{json}");

    // Printed, read and printed again, without the key whose hash is nobody's.
    let plain = printed.split("\n[[service.keys]]").next().unwrap();
    let again = Place::new(plain);
    let again = command(&["config", "--config", again.path().to_str().unwrap()], &[]);
    let values =
        |text: &str| text.lines().map(|line| line.split("  #").next().unwrap().trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&text(&again.stdout)), values(plain.trim_end()), "{}", text(&again.stderr));
}

#[test]
fn a_wrong_configuration_ends_config_and_check_with_125_and_no_other_command() {
    let place = Place::new("[service]\nlisen = []\n");
    let path = place.path().display().to_string();
    for arguments in [&["config"][..], &["config", "--check"], &["config", "--json"]] {
        let output = command(arguments, &[("SANDBOXD_CONFIG", &path)]);
        assert_eq!(output.status.code(), Some(125));
        assert_eq!(
            text(&output.stderr),
            format!("error: {path}:2: unknown field `lisen` in [service]; did you mean `listen`?\n")
        );
        assert_eq!(output.stdout, b"");
    }
    let mut not_text = sandboxd();
    let bytes: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"/\xff");
    not_text.arg("languages").env_clear().env("SANDBOXD_ROOTFS_DIR", bytes);
    let output = run_with(&mut not_text, b"", Duration::from_secs(60));
    assert!(
        text(&output.stderr).contains("SANDBOXD_ROOTFS_DIR = \"/\u{fffd}\" is not a path"),
        "{}",
        text(&output.stderr)
    );
    let variables = [("SANDBOXD_CONFIG", path.as_str()), ("PORT", "no port"), ("SANDBOXD_RATE", "no rate")];
    let output = command(&["completions", "bash"], &variables);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    let right = Place::new("");
    let right = right.path().display().to_string();
    let output = command(&["config", "--check", "--queue-max", "5"], &[("SANDBOXD_CONFIG", &right)]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    assert_eq!(text(&output.stdout), format!("ok: {right}, 0 keys, 0 policies, 0 warnings\n"));
    assert_eq!(command(&["config", "--queue-mx", "5"], &[]).status.code(), Some(125));
    let example = command(&["config", "--example"], &[("SANDBOXD_CONFIG", &path)]);
    assert_eq!(text(&example.stdout), sandboxd::config::print::example());
}

#[test]
fn a_new_key_is_shown_once_and_only_its_hash_goes_into_the_file() {
    let place = Place::new("[service]\nlisten = \"0.0.0.0:80\"\n");
    let path = place.path().display().to_string();
    let made = |name: &str| command(&["config", "new-key", name], &[("SANDBOXD_CONFIG", &path)]);
    let mut keys = BTreeSet::new();
    for name in ["docs", "play"] {
        let output = made(name);
        let key = text(&output.stderr).lines().next().unwrap().to_owned();
        assert!(output.status.success() && key.starts_with("sbx_") && key.len() == 47, "{key}");
        assert!(!text(&output.stdout).contains(&key));
        let so_far = std::fs::read_to_string(place.path()).unwrap();
        std::fs::write(place.path(), so_far + &text(&output.stdout)).unwrap();
        let service = load(&place.path(), &Environment::default(), &[]).unwrap();
        let known = sandboxd::service::keys::Keys::new(&service.settings.keys).unwrap();
        assert_eq!(known.find(&key).map(|key| key.name.as_str()), Some(name));
        assert_eq!(service.warnings, Vec::<String>::new());
        keys.insert(key);
    }
    assert_eq!(keys.len(), 2, "no two keys are the same");
    let again = made("docs");
    assert_eq!(again.status.code(), Some(125));
    assert!(text(&again.stderr).contains("there is a key called `docs` already"), "{}", text(&again.stderr));
    let bad = made("a b");
    assert_eq!(bad.status.code(), Some(125));
    assert!(text(&bad.stderr).contains("\"a b\" is not a name of 1 to 64 letters"), "{}", text(&bad.stderr));
}
