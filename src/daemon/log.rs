//! The log, and traces beside it where a collector is configured.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Who reads the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A person at a terminal, during one command.
    Command,
    /// A person, later.
    Service,
    /// A program.
    Json,
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Where the layer of traces goes, once it is known whether there is one.
static TRACES: OnceLock<reload::Handle<Option<BoxedLayer>, Registry>> = OnceLock::new();

/// The spans that are exported.
const TRACED: &str = "requests=info,runs=info";
/// Longest wait for the collector to take what is left at the end.
const EXPORT_TIME_MAX: Duration = Duration::from_secs(5);

/// Begins to log what `filter` lets through on stderr. To be called once.
pub fn start(filter: &str, style: Style) {
    let terminal = std::io::stderr().is_terminal();
    let parsed = || EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    if style == Style::Command {
        let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(terminal).without_time();
        // A plain level needs no filter language, whose start costs every run.
        match filter.parse::<tracing::Level>() {
            Ok(level) => log.with_max_level(level).init(),
            Err(_) => log.with_env_filter(parsed()).init(),
        }
        return;
    }
    let (traces, handle) = reload::Layer::new(None::<BoxedLayer>);
    // Set once: this is called once.
    let _ = TRACES.set(handle);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    // The filter stands here and not around what is put in later: its number is given out at registration.
    let registry = tracing_subscriber::registry().with(traces.with_filter(EnvFilter::new(TRACED)));
    match style {
        Style::Json => registry.with(lines.json().with_filter(parsed())).init(),
        _ => registry.with(lines.with_filter(parsed())).init(),
    }
}

/// The endpoint with its host as an address. Names are not looked up: linked statically, the C library would load modules
/// of another one for that, and crash in them.
fn by_address(endpoint: &str) -> anyhow::Result<String> {
    let uri: axum::http::Uri = endpoint.parse().with_context(|| format!("otel_endpoint = {endpoint:?} is no URL"))?;
    let host = uri.host().unwrap_or_default();
    if host == "localhost" {
        return Ok(endpoint.replacen("localhost", "127.0.0.1", 1));
    }
    let is_address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    anyhow::ensure!(is_address, "otel_endpoint = {endpoint:?}: write the collector's host as an IP address");
    Ok(endpoint.to_owned())
}

/// Exports the spans of requests and runs until it is dropped.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Exports to the OTLP collector at `endpoint` (gRPC, `http://HOST:4317`). Needs a tokio runtime.
    ///
    /// # Errors
    /// The endpoint is no address; whether somebody listens there shows later, in the log.
    pub fn start(endpoint: &str) -> anyhow::Result<Traces> {
        let endpoint = &by_address(endpoint)?;
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
        let exporter = exporter.with_context(|| format!("otel_endpoint = {endpoint:?} is no use"))?;
        let resource = Resource::builder().with_service_name("sandboxd").build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("sandboxd"));
        let handle = TRACES.get().context("the log was not started")?;
        handle.reload(Some(layer.boxed())).context("failed to add the layer of traces")?;
        Ok(Traces(provider))
    }

    /// Sends what is left.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(EXPORT_TIME_MAX) {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_named_by_address() {
        for (endpoint, address) in [
            ("http://localhost:4317", Some("http://127.0.0.1:4317")),
            ("http://10.0.0.7:4317", Some("http://10.0.0.7:4317")),
            ("http://[::1]:4317", Some("http://[::1]:4317")),
            ("http://collector:4317", None),
        ] {
            assert_eq!(by_address(endpoint).ok().as_deref(), address, "{endpoint}");
        }
    }
}
