//! What is counted and timed, for Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RunLabels {
    pub language: String,
    pub status: &'static str,
    pub dialect: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LanguageLabel {
    pub language: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    pub code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub route: String,
    pub status: u16,
}

/// Labels are names of languages, routes and codes that this program knows, so that their number is bounded.
pub struct Metrics {
    registry: Registry,
    pub requests: Family<RequestLabels, Counter>,
    pub runs: Family<RunLabels, Counter>,
    pub refused: Family<CodeLabel, Counter>,
    pub queue_time: Histogram,
    /// What a run costs beside its program: making the cell, starting it, taking it down.
    pub cell_time: Histogram,
    pub run_time: Family<LanguageLabel, Histogram>,
    pub output_bytes: Counter,
    pub compile_cache_hits: Counter,
    pub running: Gauge,
    pub queued: Gauge,
    pub supervisors: Gauge,
    pub kept_executions: Gauge,
    pub kept_bytes: Gauge,
    pub history_dropped: Gauge,
    pub resident_memory: Gauge,
    pub open_descriptors: Gauge,
}

fn times() -> Histogram {
    // 0.5 ms to 65 s.
    Histogram::new(exponential_buckets(0.0005, 2.0, 18))
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("sandboxd"),
            requests: Family::default(),
            runs: Family::default(),
            refused: Family::default(),
            queue_time: times(),
            cell_time: times(),
            run_time: Family::new_with_constructor(times),
            output_bytes: Counter::default(),
            compile_cache_hits: Counter::default(),
            running: Gauge::default(),
            queued: Gauge::default(),
            supervisors: Gauge::default(),
            kept_executions: Gauge::default(),
            kept_bytes: Gauge::default(),
            history_dropped: Gauge::default(),
            resident_memory: Gauge::default(),
            open_descriptors: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("http_requests", "Requests answered, by route and status", metrics.requests.clone());
        registry.register("runs", "Runs ended, by language, status and dialect", metrics.runs.clone());
        registry.register("refused", "Requests refused, by code", metrics.refused.clone());
        let seconds = Unit::Seconds;
        registry.register_with_unit("queue", "Wait for a turn", seconds.clone(), metrics.queue_time.clone());
        let cell_help = "Cost of a run beside its program: making, starting and removing its cells";
        registry.register_with_unit("cell", cell_help, seconds.clone(), metrics.cell_time.clone());
        registry.register_with_unit("run", "Wall time of programs, by language", seconds, metrics.run_time.clone());
        registry.register("output_bytes", "Output kept", metrics.output_bytes.clone());
        let hits_help = "Runs whose compile step was taken over from an earlier run";
        registry.register("compile_cache_hits", hits_help, metrics.compile_cache_hits.clone());
        registry.register("running", "Runs going on", metrics.running.clone());
        registry.register("queued", "Runs waiting for their turn", metrics.queued.clone());
        registry.register("supervisors", "Supervisors that are there", metrics.supervisors.clone());
        registry.register("kept_executions", "Executions in memory", metrics.kept_executions.clone());
        registry.register_with_unit("kept", "Memory of kept executions", Unit::Bytes, metrics.kept_bytes.clone());
        registry.register("history_dropped", "Records the history could not take", metrics.history_dropped.clone());
        let memory_help = "Memory of the front process";
        registry.register_with_unit("resident_memory", memory_help, Unit::Bytes, metrics.resident_memory.clone());
        registry.register("open_descriptors", "Descriptors of the front process", metrics.open_descriptors.clone());
        metrics
    }
}

impl Metrics {
    /// The text of all of it, after a look at this process itself.
    pub fn text(&self) -> String {
        self.resident_memory.set(resident_memory_bytes());
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count());
        self.open_descriptors.set(open as i64);
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// Resident memory of this process, in bytes; 0 where /proc is not to be had.
pub fn resident_memory_bytes() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: i64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as i64
}
