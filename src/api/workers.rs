//! workers' face of `POST /execute`: function mode, its configuration and its logs.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::Value;
use utoipa::ToSchema;

use super::codesandbox::RunBody;
use super::execute::duration_ms;
use super::function::{self, Function};
use super::seeds;
use crate::service::refusal::Refusal;
use crate::service::{Caller, Current, Feed, Submission};
use crate::words::suggest;

/// Domains in one configuration, and the longest name there is.
const DOMAINS_MAX: usize = 100;
const DOMAIN_BYTES_MAX: usize = 253;
/// Lines of a program that are told as logs.
const LOGS_MAX: usize = 1000;
const LOGS_BYTES_MAX: usize = 128 << 10;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Longest wall time in milliseconds; 30 seconds unless it is given.
    pub timeout: Option<f64>,
    /// Of `console`, `ai`, `api` and `db`, those that the code may use. Without `console` its calls are not kept. The other
    /// three are not available in this service: a call throws.
    #[serde(rename = "allowedAPIs")]
    pub allowed_apis: Option<Vec<String>>,
    /// Where `api` may go.
    #[serde(rename = "allowedDomains")]
    pub allowed_domains: Option<Vec<String>>,
}

/// A console call.
#[derive(Debug, Serialize, ToSchema)]
pub struct Log {
    /// `log`, `info`, `debug`, `warn` or `error`.
    pub level: &'static str,
    pub message: String,
}

impl RunConfig {
    fn check(&self) -> Result<(), Refusal> {
        for (index, name) in self.allowed_apis.iter().flatten().enumerate() {
            if !function::APIS.contains(&name.as_str()) {
                let field = format!("config.allowedAPIs[{index}]");
                let hint = match suggest::nearest(name, function::APIS) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are {}", function::APIS.join(", ")),
                };
                return Err(Refusal::bad("unknown_api", field, format!("no runtime API is called {name:?}")).hint(hint));
            }
        }
        let domains = self.allowed_domains.as_deref().unwrap_or_default();
        if domains.len() > DOMAINS_MAX {
            let message = format!("{} domains are more than the {DOMAINS_MAX} allowed", domains.len());
            return Err(Refusal::bad("too_many_domains", "config.allowedDomains", message));
        }
        if let Some(index) = domains.iter().position(|name| name.is_empty() || name.len() > DOMAIN_BYTES_MAX) {
            let field = format!("config.allowedDomains[{index}]");
            return Err(Refusal::bad("bad_domain", field, "a domain has 1 to 253 characters"));
        }
        Ok(())
    }
}

/// The run of a function; `seconds` is a timeout from outside the configuration.
///
/// # Errors
/// The configuration or the language is at fault.
pub fn submission(
    current: &Current,
    body: RunBody,
    seconds: Option<Duration>,
    caller: Caller,
    request_id: String,
) -> Result<Submission, Refusal> {
    let config = body.config.unwrap_or_default();
    config.check()?;
    let asked = config.timeout.map(|ms| duration_ms("config.timeout", ms)).transpose()?.or(seconds);
    let name = body.language.unwrap_or_else(|| "javascript".to_owned());
    let profile = current.profiles.by_name(&name).ok_or_else(|| {
        let refusal = Refusal::bad("unknown_language", "language", format!("unknown language {name:?}"));
        match current.profiles.nearest_name(&name) {
            Some(near) => refusal.hint(format!("did you mean `{near}`?")),
            None => refusal.hint("see /languages"),
        }
    })?;
    let language = profile.name.clone();
    let context = body.context.unwrap_or_else(|| Value::Object(Default::default()));
    let apis = config.allowed_apis.as_deref();
    let Function { mut request, files, stdin, extract } = function::function(&language, body.code, &context, apis)?;
    request.limits.wall_time = seeds::wall_time(current, &caller, &language, asked, seeds::WALL_TIME_DEFAULT);
    let stdin = Feed::Bytes(stdin.into());
    Ok(Submission { request, files, stdin, caller, dialect: "workers", request_id, extract: Some(extract) })
}

/// The lines of a program as logs, in JSON, bounded; only programs that have a console have any.
pub fn logs_of_program(language: Option<&str>, stdout: &str, stderr: &str) -> String {
    if !language.is_some_and(function::is_language) {
        return "[]".to_owned();
    }
    let mut bytes = 0;
    let logs: Vec<Log> = stdout
        .lines()
        .map(|line| ("log", line))
        .chain(stderr.lines().map(|line| ("error", line)))
        .take(LOGS_MAX)
        .take_while(|(_, line)| {
            bytes += line.len();
            bytes <= LOGS_BYTES_MAX
        })
        .map(|(level, line)| Log { level, message: line.to_owned() })
        .collect();
    serde_json::to_string(&logs).unwrap_or_else(|_| "[]".to_owned())
}
