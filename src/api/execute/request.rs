//! A run as the native face is asked for it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use utoipa::ToSchema;

use crate::answer;
use crate::api::object;
use crate::service::refusal::Refusal;
use crate::service::{Caller, Feed, Submission, several_files, single_file};
use crate::words::limits::LimitsRequest;
use crate::words::request::{SourceFile, bounds, check_file_name};

/// A program to run: either `code` or `files`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteBody {
    /// Name or alias; without one the entry's extension decides.
    pub language: Option<String>,
    /// The program's text.
    pub code: Option<String>,
    /// Several files; `entry` is run, or the first.
    #[serde(default, deserialize_with = "object::list")]
    pub files: Option<Vec<FileBody>>,
    pub entry: Option<String>,
    /// What the program reads.
    #[serde(alias = "input")]
    pub stdin: Option<String>,
    /// `utf-8` (default) or `base64`.
    #[serde(default)]
    pub stdin_encoding: Encoding,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "object::one")]
    pub limits: LimitsBody,
    /// Longest wall time: up to 60 these are seconds, above it milliseconds. `limits.wall_time_ms` never guesses.
    #[schema(exclusive_minimum = 0.0)]
    pub timeout: Option<f64>,
    /// Answer with events as they come (SSE), as `Accept: text/event-stream` does.
    #[serde(default)]
    pub stream: bool,
    /// Answer at once with the id, and run on.
    #[serde(default, rename = "async")]
    pub detached: bool,
    /// Both streams also as one list of timestamped pieces in the order written.
    #[serde(default)]
    pub chunks: bool,
    /// Names or globs of files that are to come back.
    #[serde(default)]
    pub files_out: Vec<String>,
    /// Over WebSocket: input comes in messages, until `stdin_close`.
    #[serde(default)]
    pub interactive: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileBody {
    /// Relative to the work directory.
    pub name: String,
    pub content: String,
    #[serde(default)]
    pub encoding: Encoding,
}

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub enum Encoding {
    #[default]
    #[serde(rename = "utf-8", alias = "utf8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
    #[serde(rename = "hex")]
    Hex,
}

/// Limits asked for; each at most its ceiling in `/api/languages`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsBody {
    #[schema(exclusive_minimum = 0.0)]
    pub wall_time_ms: Option<f64>,
    #[schema(exclusive_minimum = 0.0)]
    pub cpu_time_ms: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub processes: Option<u32>,
    pub output_bytes: Option<u64>,
    /// Cores: 0.5 is half of one.
    pub cpu_rate: Option<f64>,
}

/// The submission that a body asks for.
///
/// # Errors
/// It contradicts itself, or a value is out of range.
pub fn submission(body: ExecuteBody, caller: Caller, request_id: String) -> Result<Submission, Refusal> {
    let encoded = |text: String, encoding: Encoding, field: &str| {
        encoding.decode(text).map_err(|why| Refusal::bad("bad_encoding", field, format!("{field}: {why}")))
    };
    let (mut request, files) = match (body.code, body.files) {
        (Some(_), Some(_)) => {
            return Err(Refusal::bad("code_and_files", "files", "both code and files are given; choose one"));
        }
        (None, None) => {
            return Err(Refusal::bad("code_required", "code", "code is missing")
                .hint("give the program's text as `code`, or `files`"));
        }
        (Some(code), None) => {
            let name = body.entry.unwrap_or_default();
            single_file(body.language, SourceFile { name, content: code.into_bytes() })
        }
        (None, Some(files)) => {
            if files.len() > bounds::FILES_MAX {
                let message = format!("{} files are more than the {} allowed", files.len(), bounds::FILES_MAX);
                return Err(Refusal::bad("too_many_files", "files", message));
            }
            let mut sources = Vec::with_capacity(files.len());
            for (index, file) in files.into_iter().enumerate() {
                check_file_name(&file.name)?;
                let content = encoded(file.content, file.encoding, &format!("files[{index}].content"))?;
                sources.push(SourceFile { name: file.name, content });
            }
            let first = sources.first().map(|file| file.name.clone());
            let entry = body.entry.or(first).ok_or_else(|| Refusal::bad("bad_files", "files", "files is empty"))?;
            several_files(body.language, &entry, sources)?
        }
    };
    request.arguments = body.args.into_iter().map(String::into_bytes).collect();
    request.environment = body.env.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
    request.limits = limits(&body.limits, body.timeout)?;
    request.files_out = body.files_out;
    let stdin = match (body.interactive, body.stdin) {
        (true, None) => Feed::Interactive,
        (true, Some(_)) => {
            return Err(Refusal::bad("bad_request", "stdin", "interactive runs get their stdin in messages"));
        }
        (false, stdin) => Feed::Bytes(encoded(stdin.unwrap_or_default(), body.stdin_encoding, "stdin")?.into()),
    };
    Ok(Submission { request, files, stdin, caller, dialect: "native", request_id, extract: None })
}

fn limits(asked: &LimitsBody, timeout: Option<f64>) -> Result<LimitsRequest, Refusal> {
    let time = |name: &str, milliseconds: Option<f64>| milliseconds.map(|value| duration_ms(name, value)).transpose();
    let wall_time = match (asked.wall_time_ms, timeout) {
        (Some(value), _) => Some(duration_ms("limits.wall_time_ms", value)?),
        (None, Some(value)) if value <= 60.0 => Some(duration_ms("timeout", value * 1e3)?),
        (None, Some(value)) => Some(duration_ms("timeout", value)?),
        (None, None) => None,
    };
    Ok(LimitsRequest {
        wall_time,
        cpu_time: time("limits.cpu_time_ms", asked.cpu_time_ms)?,
        memory_bytes: asked.memory_bytes,
        processes: asked.processes,
        output_bytes: asked.output_bytes,
        cpu_rate: asked.cpu_rate,
        ..LimitsRequest::default()
    })
}

/// # Errors
/// Zero, negative, or no number.
pub fn duration_ms(field: &str, milliseconds: f64) -> Result<Duration, Refusal> {
    let refuse = |why: &str| {
        let refusal = Refusal::bad("limit_out_of_range", field, format!("{field} = {milliseconds} {why}"));
        Err(refusal.hint("give a positive number, or leave it out for the default"))
    };
    if milliseconds.is_nan() || milliseconds <= 0.0 {
        return refuse("is not greater than zero");
    }
    match Duration::try_from_secs_f64(milliseconds / 1e3) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => refuse("is no time"),
    }
}

impl Encoding {
    /// # Errors
    /// The text is not of this encoding.
    pub fn decode(self, text: String) -> Result<Vec<u8>, &'static str> {
        match self {
            Encoding::Utf8 => Ok(text.into_bytes()),
            Encoding::Base64 => answer::from_base64(&text).ok_or("the text is no base64"),
            Encoding::Hex => from_hex(&text).ok_or("the text is no hexadecimal"),
        }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::body;
    use bytes::Bytes;

    fn asked(json: &str) -> Result<Submission, Refusal> {
        let caller = Caller { key: None, address: "127.0.0.1".to_owned() };
        submission(body::parse(json.as_bytes())?, caller, "r".to_owned())
    }

    #[test]
    fn timeouts_up_to_60_are_seconds_and_above_milliseconds() {
        for (timeout, milliseconds) in [("10", 10_000), ("60", 60_000), ("61", 61), ("10000", 10_000), ("0.5", 500)] {
            let submission = asked(&format!(r#"{{"code":"x","timeout":{timeout}}}"#)).unwrap();
            assert_eq!(submission.request.limits.wall_time, Some(Duration::from_millis(milliseconds)), "{timeout}");
        }
        let both = asked(r#"{"code":"x","timeout":10,"limits":{"wall_time_ms":50}}"#).unwrap();
        assert_eq!(both.request.limits.wall_time, Some(Duration::from_millis(50)));
    }

    #[test]
    fn contradictions_and_values_out_of_range_are_refused_by_field() {
        for (json, code, field) in [
            (r#"{"code":"x","files":[]}"#, "code_and_files", "files"),
            (r#"{"language":"c"}"#, "code_required", "code"),
            (r#"{"files":[]}"#, "bad_files", "files"),
            (r#"{"files":[{"name":"a.py","content":"!","encoding":"base64"}]}"#, "bad_encoding", "files[0].content"),
            (r#"{"files":[{"name":"a.py","content":"abc","encoding":"hex"}]}"#, "bad_encoding", "files[0].content"),
            (r#"{"files":[{"name":"a.py","content":""}],"entry":"b.py"}"#, "bad_request", "entry"),
            (r#"{"files":[["a.py","x"]]}"#, "bad_request", "files[0]"),
            (r#"{"code":"x","limits":[50]}"#, "bad_request", "limits"),
            (r#"{"code":"x","limits":{"wall_time_ms":0}}"#, "limit_out_of_range", "limits.wall_time_ms"),
            (r#"{"code":"x","limits":{"cpu_time_ms":-1}}"#, "limit_out_of_range", "limits.cpu_time_ms"),
            (r#"{"code":"x","timeout":1e300}"#, "limit_out_of_range", "timeout"),
            (r#"{"code":"x","stdin":"a","stdin_encoding":"base64"}"#, "bad_encoding", "stdin"),
            (r#"{"code":"x","interactive":true,"stdin":"a"}"#, "bad_request", "stdin"),
        ] {
            let refusal = asked(json).err().unwrap_or_else(|| panic!("{json} was accepted"));
            assert_eq!((refusal.code, refusal.field.as_deref()), (code, Some(field)), "{json}");
        }
    }

    #[test]
    fn several_files_run_their_entry_and_contents_are_decoded() {
        let json = r#"{"files":[{"name":"lib.py","content":"eA==","encoding":"base64"},
                      {"name":"main.py","content":"6869","encoding":"hex"}],"entry":"main.py","input":"in"}"#;
        let submission = asked(json).unwrap();
        let contents: Vec<_> = submission.files.iter().map(|file| file.content.as_slice()).collect();
        assert_eq!(contents, [b"x".as_slice(), b"hi"]);
        assert_eq!(submission.request.files.len(), 1);
        assert!(matches!(submission.stdin, Feed::Bytes(bytes) if bytes == Bytes::from_static(b"in")));
    }
}
