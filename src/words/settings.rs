//! The settings of the HTTP service: plain values, read by `config` and handed to the front as they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::network::Network;

/// Everything the service can be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSettings {
    /// Where it listens.
    pub listen: Vec<Listen>,
    /// The account the front runs as, by name or number.
    pub user: String,
    /// History lives here; owned by `user`.
    pub state_dir: PathBuf,
    /// Processes that make cells; 0 stands for one per core, at most 4.
    pub supervisors: u32,
    /// Runs at once; 0 stands for what memory and cores allow.
    pub concurrent_max: u32,
    /// Runs that wait for their turn, of all callers together.
    pub queue_max: u32,
    /// Longest wait for a turn.
    pub queue_time_max: Duration,
    pub connections_max: u32,
    pub body_bytes_max: u64,
    /// Source text of one request, all files together.
    pub code_bytes_max: u64,
    /// Longest wait for a request's head, and for its body.
    pub head_time_max: Duration,
    pub body_time_max: Duration,
    /// How long running runs may go on after SIGTERM.
    pub drain_time_max: Duration,
    /// Origins that browsers may call from; `*` stands for all.
    pub cors_origins: Vec<String>,
    /// Names that a service without keys answers to, beside addresses and `localhost`; `*` stands for all.
    pub allowed_hosts: Vec<String>,
    /// Proxies whose `X-Forwarded-For`, or header of [`ServiceSettings::client_address_header`], is believed.
    pub trusted_proxies: Vec<Network>,
    /// The one header in which trusted proxies name the client's address; `None` for `X-Forwarded-For`.
    pub client_address_header: Option<String>,
    /// Languages whose image is not built run on this machine's own programs.
    pub use_host_image: bool,
    /// Layers that may be missing: `landlock`, `seccomp`, `cgroup`.
    pub give_up: Vec<String>,
    /// Requests of an address without a key.
    pub rate: Option<Rate>,
    /// Without keys only loopback addresses are served, unless this says otherwise.
    pub open: bool,
    pub keys: Vec<Key>,
    pub history: HistorySettings,
    /// Greatest output of one Piston stream, its documented 1024 bytes made larger.
    pub piston_output_bytes: u64,
    pub policies: Vec<PatternPolicy>,
    pub log_json: bool,
    /// OTLP over gRPC, as `http://127.0.0.1:4317`.
    pub otel_endpoint: Option<String>,
    /// Compiled programs kept for the next request with the same source, in bytes; 0 keeps none.
    pub compile_cache_bytes: u64,
    /// Runs may ask at most for these limits, beside their profile's ceilings; by the names of `limits`.
    pub greatest: LimitCeilings,
    /// A run that asks for no wall time gets this one instead of its profile's.
    pub wall_time_default: Option<Duration>,
}

/// A socket to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "http://{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Requests within a time, all of which may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub requests: u32,
    pub per: Duration,
}

/// Who may use the service, and how much of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    pub name: String,
    /// SHA-256 of the key itself, 32 bytes in hexadecimal.
    pub sha256: String,
    pub rate: Option<Rate>,
    /// Runs at once; `None` for no bound but the service's.
    pub concurrent_max: Option<u32>,
    /// Languages by canonical name; empty for all.
    pub languages: Vec<String>,
    pub greatest: LimitCeilings,
    /// May read `/api/system`, `/metrics` and the history of others.
    pub admin: bool,
}

/// SHA-256 of a key, as [`Key::sha256`] has it in hexadecimal.
pub fn key_digest(key: &str) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(key.as_bytes()).into()
}

/// Ceilings beneath a profile's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitCeilings {
    pub wall_time: Option<Duration>,
    pub cpu_time: Option<Duration>,
    pub memory_bytes: Option<u64>,
    pub processes: Option<u32>,
    pub output_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistorySettings {
    pub enabled: bool,
    /// Source text is kept, not only its digest.
    pub keep_source: bool,
    /// Bytes of each stream kept with a run.
    pub output_bytes_max: u64,
    pub age_max: Duration,
    pub count_max: u64,
    /// Size of the database.
    pub bytes_max: u64,
}

/// A hint to authors, never a boundary: source text that matches a rule is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PatternPolicy {
    pub name: String,
    /// Dialects (`native`, `light`, `codesandbox`, `workers`, `piston`) and keys it applies to; both empty for all.
    pub dialects: Vec<String>,
    pub keys: Vec<String>,
    /// Rules by canonical language name.
    pub rules: BTreeMap<String, Vec<PatternRule>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PatternRule {
    pub name: String,
    /// A regular expression, matched line by line.
    pub pattern: String,
    pub message: String,
}

impl Default for ServiceSettings {
    fn default() -> ServiceSettings {
        ServiceSettings {
            listen: vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            user: "sandboxd".to_owned(),
            state_dir: PathBuf::from("/var/lib/sandboxd/state"),
            supervisors: 0,
            concurrent_max: 0,
            queue_max: 256,
            queue_time_max: Duration::from_secs(10),
            connections_max: 2048,
            body_bytes_max: 16 << 20,
            code_bytes_max: 1 << 20,
            head_time_max: Duration::from_secs(5),
            body_time_max: Duration::from_secs(30),
            drain_time_max: Duration::from_secs(30),
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            client_address_header: None,
            use_host_image: false,
            give_up: Vec::new(),
            rate: None,
            open: false,
            keys: Vec::new(),
            history: HistorySettings::default(),
            piston_output_bytes: 64 << 10,
            policies: Vec::new(),
            log_json: false,
            otel_endpoint: None,
            compile_cache_bytes: 64 << 20,
            greatest: LimitCeilings::default(),
            wall_time_default: None,
        }
    }
}

impl Default for HistorySettings {
    fn default() -> HistorySettings {
        HistorySettings {
            enabled: true,
            keep_source: false,
            output_bytes_max: 64 << 10,
            age_max: Duration::from_secs(30 * 24 * 3600),
            count_max: 100_000,
            bytes_max: 1 << 30,
        }
    }
}
