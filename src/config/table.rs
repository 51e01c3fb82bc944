//! Every setting there is, each stated once: files, environment, flags, help, the example file and what `sandboxd config`
//! prints are read off these tables.

use super::forms;
use super::keys::KeyEntry;
use super::policies::PolicyEntry;
use super::service::Draft;
use super::setting::{Setting, access};
use super::value::{Kind, Value};
use super::{Config, seeds};
use crate::words::settings::PatternRule;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;

/// A wall time, CPU time and so on that a ceiling may name.
const LIMIT_TIME: Kind = Kind::Time { least: 1, most: 24 * HOUR };

/// The settings of every command. Their flags are those of [`super::Flags`].
pub const MACHINE: &[Setting<Config>] = &[
    Setting::<Config>::new(
        "rootfs_dir",
        Kind::Text(forms::PATH),
        "Where images are built and looked for",
        access!(rootfs_dir),
    ),
    Setting::<Config>::new(
        "profiles_dir",
        Kind::Text(forms::PATH),
        "Additional language profiles; one of the same name replaces the embedded one",
        access!(profiles_dir),
    ),
    Setting::<Config>::new(
        "recipes_dir",
        Kind::Text(forms::PATH),
        "Additional image recipes, likewise",
        access!(recipes_dir),
    ),
    Setting::<Config>::new(
        "cache_dir",
        Kind::Text(forms::PATH),
        "What was asked of the machine's toolchains is kept here",
        access!(cache_dir),
    ),
    Setting::<Config>::new(
        "cgroup",
        Kind::Word(&["auto", "v2", "hybrid", "none"], "LAYOUT"),
        "How resources are limited; none must be asked for by name",
        access!(cgroup),
    ),
    Setting::<Config>::new(
        "cgroup_parent",
        Kind::Text(forms::GROUP),
        "The group under which ours go; none for our own",
        access!(cgroup_parent),
    )
    .optional(),
];

/// A group of the service's settings, as a heading of help and of the example file.
pub struct Group {
    pub heading: &'static str,
    pub settings: &'static [Setting<Draft>],
}

/// The settings of `[service]`.
pub const SERVICE: &[Group] = &[
    Group { heading: "Listening", settings: LISTENING },
    Group { heading: "Callers", settings: CALLERS },
    Group { heading: "Admission", settings: ADMISSION },
    Group { heading: "Runs", settings: RUNS },
    Group { heading: "History", settings: HISTORY },
    Group { heading: "Operation", settings: OPERATION },
];

/// All of [`SERVICE`] in one sequence.
pub fn service() -> impl Iterator<Item = &'static Setting<Draft>> {
    SERVICE.iter().flat_map(|group| group.settings)
}

const LISTENING: &[Setting<Draft>] = &[
    Setting::<Draft>::new(
        "listen",
        Kind::List(forms::LISTEN),
        "Where it listens; only loopback addresses while there is no key",
        access!(service.listen),
    )
    .flag("listen")
    .common()
    .aliases(seeds::LISTEN),
    Setting::<Draft>::new(
        "connections_max",
        Kind::Count { least: 1, most: 100_000 },
        "Open connections",
        access!(service.connections_max),
    )
    .flag("connections-max"),
    Setting::<Draft>::new(
        "body_bytes_max",
        Kind::Size { least: KIB, most: GIB },
        "Greatest body of a request",
        access!(service.body_bytes_max),
    )
    .flag("body-bytes-max"),
    Setting::<Draft>::new(
        "head_time_max",
        Kind::Time { least: 10, most: HOUR },
        "Longest wait for the head of a request",
        access!(service.head_time_max),
    )
    .flag("head-time-max"),
    Setting::<Draft>::new(
        "body_time_max",
        Kind::Time { least: 10, most: HOUR },
        "Longest wait for the body of a request",
        access!(service.body_time_max),
    )
    .flag("body-time-max"),
];

const CALLERS: &[Setting<Draft>] = &[
    Setting::<Draft>::new(
        "key",
        Kind::Text(forms::KEY),
        "One key, called `default`, that may do everything; better a [[service.keys]] with a hash",
        access!(key),
    )
    .optional()
    .secret()
    .aliases(seeds::KEY),
    Setting::<Draft>::new(
        "key_file",
        Kind::Text(forms::FILE),
        "A file that holds the key called `default`",
        access!(key_file),
    )
    .flag("key-file")
    .common()
    .optional(),
    Setting::<Draft>::new(
        "open",
        Kind::Switch,
        "Serve other machines although there is no key: anyone who can connect runs programs",
        access!(service.open),
    )
    .flag("open")
    .common(),
    Setting::<Draft>::new(
        "rate",
        Kind::Rate,
        "Requests of an address without a key, and of the key `default`; none for no bound",
        access!(service.rate),
    )
    .flag("rate")
    .common()
    .optional()
    .aliases(seeds::RATE),
    Setting::<Draft>::new(
        "cors_origins",
        Kind::List(forms::ORIGIN),
        "Origins that browsers may call from; * stands for all",
        access!(service.cors_origins),
    )
    .flag("cors-origins")
    .common()
    .aliases(seeds::CORS_ORIGINS),
    Setting::<Draft>::new(
        "allowed_hosts",
        Kind::List(forms::HOST),
        "Names a service without keys answers to, beside addresses and localhost; * stands for all",
        access!(service.allowed_hosts),
    )
    .flag("allowed-hosts"),
    Setting::<Draft>::new(
        "trusted_proxies",
        Kind::List(forms::NETWORK),
        "Proxies, or their networks, whose X-Forwarded-For is believed",
        access!(service.trusted_proxies),
    )
    .flag("trusted-proxies"),
    Setting::<Draft>::new(
        "client_address_header",
        Kind::Text(forms::HEADER),
        "The header that these proxies set to the client's address instead; none for X-Forwarded-For",
        access!(service.client_address_header),
    )
    .flag("client-address-header")
    .optional(),
];

const ADMISSION: &[Setting<Draft>] = &[
    Setting::<Draft>::new(
        "concurrent_max",
        Kind::Count { least: 0, most: 10_000 },
        "Runs at once; 0 for what memory and cores allow",
        access!(service.concurrent_max),
    )
    .flag("max-concurrent")
    .common()
    .aliases(seeds::CONCURRENT_MAX),
    Setting::<Draft>::new(
        "queue_max",
        Kind::Count { least: 0, most: 100_000 },
        "Runs that wait for their turn, of all callers together",
        access!(service.queue_max),
    )
    .flag("queue-max"),
    Setting::<Draft>::new(
        "queue_time_max",
        Kind::Time { least: 0, most: HOUR },
        "Longest wait for a turn",
        access!(service.queue_time_max),
    )
    .flag("queue-time-max"),
    Setting::<Draft>::new(
        "supervisors",
        Kind::Count { least: 0, most: 64 },
        "Processes that make cells; 0 for one per core, at most 4",
        access!(service.supervisors),
    )
    .flag("supervisors"),
];

const RUNS: &[Setting<Draft>] = &[
    Setting::<Draft>::new(
        "use_host_image",
        Kind::Switch,
        "Run languages whose image is not built on this machine's own programs",
        access!(service.use_host_image),
    )
    .flag("use-host-image")
    .common(),
    Setting::<Draft>::new(
        "give_up",
        Kind::List(forms::LAYER),
        "Layers of isolation that may be missing: landlock, seccomp, cgroup",
        access!(service.give_up),
    )
    .flag("give-up"),
    Setting::<Draft>::new(
        "code_bytes_max",
        Kind::Size { least: 1, most: GIB },
        "Source text of one request, all files together",
        access!(service.code_bytes_max),
    )
    .flag("code-bytes-max")
    .aliases(seeds::CODE_BYTES_MAX),
    Setting::<Draft>::new(
        "compile_cache_bytes",
        Kind::Size { least: 0, most: TIB },
        "Compiled programs kept for the next request with the same source; 0 keeps none",
        access!(service.compile_cache_bytes),
    )
    .flag("compile-cache-bytes"),
    Setting::<Draft>::new(
        "piston_output_bytes",
        Kind::Size { least: 1, most: GIB },
        "Greatest output of one stream in the Piston dialect",
        access!(service.piston_output_bytes),
    )
    .flag("piston-output-bytes"),
    Setting::<Draft>::new(
        "wall_time_default",
        LIMIT_TIME,
        "Wall time of runs that ask for none; none for their profile's",
        access!(service.wall_time_default),
    )
    .flag("wall-time-default")
    .optional(),
    Setting::<Draft>::new(
        "greatest.wall_time",
        LIMIT_TIME,
        "Greatest wall time a run may ask for; none for its profile's ceiling",
        access!(service.greatest.wall_time),
    )
    .flag("greatest-wall-time")
    .common()
    .optional()
    .aliases(seeds::WALL_TIME),
    Setting::<Draft>::new(
        "greatest.cpu_time",
        LIMIT_TIME,
        "Greatest CPU time, likewise",
        access!(service.greatest.cpu_time),
    )
    .flag("greatest-cpu-time")
    .optional(),
    Setting::<Draft>::new(
        "greatest.memory_bytes",
        Kind::Size { least: 4 * MIB, most: TIB },
        "Greatest memory, likewise",
        access!(service.greatest.memory_bytes),
    )
    .flag("greatest-memory-bytes")
    .common()
    .optional(),
    Setting::<Draft>::new(
        "greatest.processes",
        Kind::Count { least: 1, most: 100_000 },
        "Most processes, likewise",
        access!(service.greatest.processes),
    )
    .flag("greatest-processes")
    .optional(),
    Setting::<Draft>::new(
        "greatest.output_bytes",
        Kind::Size { least: 1, most: GIB },
        "Greatest output, likewise",
        access!(service.greatest.output_bytes),
    )
    .flag("greatest-output-bytes")
    .optional()
    .aliases(seeds::OUTPUT_BYTES),
];

const HISTORY: &[Setting<Draft>] = &[
    Setting::<Draft>::new("history.enabled", Kind::Switch, "Keep a history of runs", access!(service.history.enabled))
        .flag("history-enabled"),
    Setting::<Draft>::new(
        "history.keep_source",
        Kind::Switch,
        "Keep the source text itself, not only its digest",
        access!(service.history.keep_source),
    )
    .flag("history-keep-source"),
    Setting::<Draft>::new(
        "history.output_bytes_max",
        Kind::Size { least: 0, most: GIB },
        "Bytes of each stream kept with a run",
        access!(service.history.output_bytes_max),
    )
    .flag("history-output-bytes-max"),
    Setting::<Draft>::new(
        "history.age_max",
        Kind::Time { least: SECOND, most: 36_500 * 24 * HOUR },
        "Longest time a run is kept",
        access!(service.history.age_max),
    )
    .flag("history-age-max"),
    Setting::<Draft>::new(
        "history.count_max",
        Kind::Count { least: 1, most: 1_000_000_000 },
        "Most runs kept",
        access!(service.history.count_max),
    )
    .flag("history-count-max"),
    Setting::<Draft>::new(
        "history.bytes_max",
        Kind::Size { least: MIB, most: TIB },
        "Greatest size of the database",
        access!(service.history.bytes_max),
    )
    .flag("history-bytes-max"),
];

const OPERATION: &[Setting<Draft>] = &[
    Setting::<Draft>::new(
        "user",
        Kind::Text(forms::USER),
        "The account the front runs as, by name or number",
        access!(service.user),
    )
    .flag("user")
    .common(),
    Setting::<Draft>::new(
        "state_dir",
        Kind::Text(forms::DIRECTORY),
        "The history lives here",
        access!(service.state_dir),
    )
    .flag("state-dir")
    .common(),
    Setting::<Draft>::new(
        "log_format",
        Kind::Word(&["text", "json"], "text|json"),
        "Logs for people or for machines: text or json",
        (
            |draft| Value::Text(if draft.service.log_json { "json" } else { "text" }.to_owned()),
            |draft, value| {
                draft.service.log_json = value == Value::Text("json".to_owned());
                Some(())
            },
        ),
    )
    .flag("log-format")
    .common(),
    Setting::<Draft>::new(
        "drain_time_max",
        Kind::Time { least: 0, most: HOUR },
        "How long running runs may go on after SIGTERM",
        access!(service.drain_time_max),
    )
    .flag("drain-time-max"),
    Setting::<Draft>::new(
        "otel_endpoint",
        Kind::Text(forms::ENDPOINT),
        "Where traces go, by OTLP over gRPC; none for nowhere",
        access!(service.otel_endpoint),
    )
    .flag("otel-endpoint")
    .optional(),
];

/// The settings of one `[[service.keys]]`.
pub const KEY: &[Setting<KeyEntry>] = &[
    Setting::<KeyEntry>::new(
        "name",
        Kind::Text(forms::NAME),
        "How logs and history call its holder",
        access!(key.name),
    ),
    Setting::<KeyEntry>::new(
        "sha256",
        Kind::Text(forms::SHA256),
        "SHA-256 of the key, in hexadecimal",
        access!(sha256),
    )
    .optional()
    .secret(),
    Setting::<KeyEntry>::new("key", Kind::Text(forms::KEY), "Or the key itself", access!(plain)).optional().secret(),
    Setting::<KeyEntry>::new(
        "key_file",
        Kind::Text(forms::FILE),
        "Or a file that holds it, relative to this one's directory",
        access!(key_file),
    )
    .optional(),
    Setting::<KeyEntry>::new("rate", Kind::Rate, "Requests; none for no bound", access!(key.rate)).optional(),
    Setting::<KeyEntry>::new(
        "concurrent_max",
        Kind::Count { least: 1, most: 10_000 },
        "Runs at once; none for the service's",
        access!(key.concurrent_max),
    )
    .optional(),
    Setting::<KeyEntry>::new(
        "languages",
        Kind::List(forms::LANGUAGE),
        "Only these languages; [] for all",
        access!(key.languages),
    ),
    Setting::<KeyEntry>::new("limits.wall_time", LIMIT_TIME, "Greatest wall time", access!(key.greatest.wall_time))
        .optional(),
    Setting::<KeyEntry>::new("limits.cpu_time", LIMIT_TIME, "Greatest CPU time", access!(key.greatest.cpu_time))
        .optional(),
    Setting::<KeyEntry>::new(
        "limits.memory_bytes",
        Kind::Size { least: 4 * MIB, most: TIB },
        "Greatest memory",
        access!(key.greatest.memory_bytes),
    )
    .optional(),
    Setting::<KeyEntry>::new(
        "limits.processes",
        Kind::Count { least: 1, most: 100_000 },
        "Most processes",
        access!(key.greatest.processes),
    )
    .optional(),
    Setting::<KeyEntry>::new(
        "limits.output_bytes",
        Kind::Size { least: 1, most: GIB },
        "Greatest output",
        access!(key.greatest.output_bytes),
    )
    .optional(),
    Setting::<KeyEntry>::new(
        "admin",
        Kind::Switch,
        "May read /api/system, /metrics and the history of others",
        access!(key.admin),
    ),
];

/// The settings of one `[[service.policies]]`, beside its rules.
pub const POLICY: &[Setting<PolicyEntry>] = &[
    Setting::<PolicyEntry>::new("name", Kind::Text(forms::NAME), "How findings call it", access!(policy.name)),
    Setting::<PolicyEntry>::new(
        "dialects",
        Kind::List(forms::DIALECT),
        "Applies to these dialects: native, light, codesandbox, workers, piston",
        access!(policy.dialects),
    ),
    Setting::<PolicyEntry>::new(
        "keys",
        Kind::List(forms::NAME),
        "And to these keys; both empty for everyone",
        access!(policy.keys),
    ),
];

/// The settings of one rule of a policy.
pub const RULE: &[Setting<PatternRule>] = &[
    Setting::<PatternRule>::new("name", Kind::Text(forms::NAME), "How findings call it", access!(name)),
    Setting::<PatternRule>::new(
        "pattern",
        Kind::Text(forms::PATTERN),
        "A regular expression, matched line by line",
        access!(pattern),
    ),
    Setting::<PatternRule>::new("message", Kind::Text(forms::MESSAGE), "What the author reads", access!(message)),
];
