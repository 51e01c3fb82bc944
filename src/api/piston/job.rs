//! A job as Piston's clients ask for it, over HTTP and over the WebSocket.

use std::time::Duration;

use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{available, selector};
use crate::api::execute::Encoding;
use crate::service::refusal::Refusal;
use crate::service::{Caller, Current, Feed, Submission, several_files};
use crate::words::limits::LimitsRequest;
use crate::words::profile::Profile;
use crate::words::request::{SourceFile, bounds};

/// Longest wall and CPU time of the run step and of the compile step; also what a request gets that asks for none.
const RUN_TIME_MAX: Duration = Duration::from_secs(3);
const COMPILE_TIME_MAX: Duration = Duration::from_secs(10);

/// The fields of a request, as the reference page shows them; what they mean is checked one by one, since Piston's
/// clients know its errors.
#[derive(Debug, ToSchema)]
#[allow(dead_code)]
pub struct PistonBody {
    pub language: String,
    /// A selector of semantic versions: `3.13.5`, `3.x`, `*`.
    pub version: String,
    /// The first that is utf8 is run.
    pub files: Vec<PistonFile>,
    pub stdin: Option<String>,
    pub args: Option<Vec<String>>,
    /// Milliseconds of wall time, at most 3000.
    pub run_timeout: Option<f64>,
    /// At most 10000.
    pub compile_timeout: Option<f64>,
    /// Milliseconds of CPU time.
    pub run_cpu_time: Option<f64>,
    pub compile_cpu_time: Option<f64>,
    /// Bytes; -1 asks for no limit but the service's.
    pub run_memory_limit: Option<f64>,
    pub compile_memory_limit: Option<f64>,
}

#[derive(Debug, ToSchema)]
#[allow(dead_code)]
pub struct PistonFile {
    pub name: Option<String>,
    pub content: String,
    /// `utf8`, `base64` or `hex`.
    pub encoding: Option<String>,
}

/// A request that was understood.
pub struct Job {
    pub submission: Submission,
    pub language: String,
    pub version: String,
}

fn bad(field: impl Into<String>, message: impl Into<String>) -> Refusal {
    Refusal::bad("bad_request", field, message)
}

/// What `fields` ask for. Fields that Piston does not know are passed over, as it does.
///
/// # Errors
/// In Piston's words.
pub fn job(
    current: &Current,
    mut fields: Map<String, Value>,
    caller: Caller,
    request_id: String,
    interactive: bool,
) -> Result<Job, Refusal> {
    let mut text = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        _ => Err(bad(name, format!("{name} is required as a string"))),
    };
    let (language, version) = (text("language")?, text("version")?);
    let Some(Value::Array(files)) = fields.remove("files") else {
        return Err(bad("files", "files is required as an array"));
    };
    if files.len() > bounds::FILES_MAX {
        let message = format!("files cannot be more than {}", bounds::FILES_MAX);
        return Err(Refusal::bad("too_many_files", "files", message));
    }
    let files =
        files.into_iter().enumerate().map(|(index, file)| file_of(index, file)).collect::<Result<Vec<_>, _>>()?;
    let unknown = || bad("language", format!("{language}-{version} runtime is unknown"));
    let profile = current.profiles.by_name(&language).ok_or_else(unknown)?;
    let own = available(current, profile).filter(|own| selector::matches(&version, own)).ok_or_else(unknown)?;
    let Some(entry) = files.iter().position(|file| file.is_text) else {
        return Err(bad("files", "files must include at least one utf8 encoded file"));
    };
    let named = |(index, file): (usize, File)| SourceFile {
        name: match file.name {
            Some(name) if index == entry => with_extension(name, profile),
            Some(name) => name,
            None if index == entry => profile.source.clone(),
            None => format!("file{index}.code"),
        },
        content: file.content,
    };
    let sources: Vec<SourceFile> = files.into_iter().enumerate().map(named).collect();
    let entry = sources.get(entry).map(|file| file.name.clone()).unwrap_or_default();
    let (mut request, files) = several_files(Some(profile.name.clone()), &entry, sources)?;
    request.arguments = arguments(fields.remove("args"))?;
    (request.limits, request.compile_limits) = limits(current, profile, &caller, &fields)?;
    let stdin = match fields.remove("stdin") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text,
        Some(_) => return Err(bad("stdin", "if specified, stdin must be a string")),
    };
    let stdin = if interactive { Feed::Interactive } else { Feed::Bytes(stdin.into()) };
    let language = profile.name.clone();
    let submission = Submission { request, files, stdin, caller, dialect: "piston", request_id, extract: None };
    Ok(Job { submission, language, version: own.to_string() })
}

struct File {
    name: Option<String>,
    content: Vec<u8>,
    is_text: bool,
}

fn file_of(index: usize, file: Value) -> Result<File, Refusal> {
    let field = format!("files[{index}].content");
    let text = |name: &str| file.get(name).and_then(Value::as_str);
    let Some(content) = text("content") else {
        return Err(bad(&field, format!("{field} is required as a string")));
    };
    let encoding = match text("encoding") {
        Some("base64") => Encoding::Base64,
        Some("hex") => Encoding::Hex,
        _ => Encoding::Utf8,
    };
    let name = text("name").filter(|name| !name.is_empty()).map(str::to_owned);
    let content = encoding.decode(content.to_owned()).map_err(|why| bad(&field, format!("{field}: {why}")))?;
    Ok(File { name, content, is_text: encoding == Encoding::Utf8 })
}

/// Compilers look at the extension, and Piston's clients need not give one.
fn with_extension(name: String, profile: &Profile) -> String {
    let base = name.rsplit('/').next().unwrap_or_default();
    match profile.extensions.first() {
        Some(extension) if !base.contains('.') => format!("{name}.{extension}"),
        _ => name,
    }
}

fn arguments(value: Option<Value>) -> Result<Vec<Vec<u8>>, Refusal> {
    let argument = |(index, value)| match value {
        Value::String(text) => Ok(text.into_bytes()),
        Value::Number(number) => Ok(number.to_string().into_bytes()),
        _ => Err(bad(format!("args[{index}]"), format!("args[{index}] must be a string"))),
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => values.into_iter().enumerate().map(argument).collect(),
        Some(_) => Err(bad("args", "if specified, args must be an array")),
    }
}

/// The limits of the run step and of the compile step.
fn limits(
    current: &Current,
    profile: &Profile,
    caller: &Caller,
    fields: &Map<String, Value>,
) -> Result<(LimitsRequest, LimitsRequest), Refusal> {
    let (ceilings, defaults) = current.limits_of(profile, caller);
    let compile = profile.compile_limits();
    let milliseconds = |time: Duration| time.as_millis() as u64;
    let time = |name: &str, greatest: Duration| {
        let asked = number(fields, name, milliseconds(greatest))?;
        Ok::<_, Refusal>(Some(asked.map_or(greatest, |asked| Duration::from_secs_f64(asked / 1e3))))
    };
    let bytes = |name: &str, greatest: u64, default: Option<u64>| {
        Ok::<_, Refusal>(number(fields, name, greatest)?.map(|asked| asked as u64).or(default))
    };
    let least = |own: Duration, ceiling: Option<Duration>| ceiling.map_or(own, |ceiling| own.min(ceiling));
    let (run_wall, run_cpu) = (least(RUN_TIME_MAX, ceilings.wall_time), least(RUN_TIME_MAX, ceilings.cpu_time));
    let greatest = profile.greatest_limits();
    let compile_wall = COMPILE_TIME_MAX.min(greatest.wall_time);
    let compile_cpu = COMPILE_TIME_MAX.min(greatest.cpu_time);
    let memory = ceilings.memory_bytes.unwrap_or(greatest.memory_bytes);
    let output = ceilings.output_bytes.unwrap_or(greatest.output_bytes);
    let each = current.settings.piston_output_bytes.min(output);
    let outputs = LimitsRequest {
        output_bytes: Some(each.saturating_mul(2).min(output)),
        stdout_bytes: Some(each),
        stderr_bytes: Some(each),
        ..LimitsRequest::default()
    };
    let run = LimitsRequest {
        wall_time: time("run_timeout", run_wall)?,
        cpu_time: time("run_cpu_time", run_cpu)?,
        memory_bytes: bytes("run_memory_limit", memory, defaults.memory_bytes)?,
        ..outputs.clone()
    };
    let compile = LimitsRequest {
        wall_time: time("compile_timeout", compile_wall)?,
        cpu_time: time("compile_cpu_time", compile_cpu)?,
        memory_bytes: bytes("compile_memory_limit", memory.max(compile.memory_bytes), None)?,
        ..outputs
    };
    Ok((run, compile))
}

/// A limit that is asked for; 0 and -1 ask for none.
fn number(fields: &Map<String, Value>, name: &str, greatest: u64) -> Result<Option<f64>, Refusal> {
    let asked = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64().unwrap_or_default(),
        Some(_) => return Err(bad(name, format!("if specified, {name} must be a number"))),
    };
    let refuse = |message| Err(Refusal::bad("limit_out_of_range", name, message));
    match asked {
        0.0 | -1.0 => Ok(None),
        asked if asked < 0.0 => refuse(format!("{name} must be non-negative")),
        asked if asked > greatest as f64 => refuse(format!("{name} cannot exceed the configured limit of {greatest}")),
        asked => Ok(Some(asked)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn limits_are_numbers_within_the_configured_ones_and_minus_one_asks_for_none() {
        let asked = |json: &str| number(&fields(json), "run_timeout", 3000).map_err(|refusal| refusal.message);
        for json in ["{}", r#"{"run_timeout":null}"#, r#"{"run_timeout":0}"#, r#"{"run_timeout":-1}"#] {
            assert_eq!(asked(json), Ok(None), "{json}");
        }
        assert_eq!(asked(r#"{"run_timeout":3000}"#), Ok(Some(3000.0)));
        for (json, message) in [
            (r#"{"run_timeout":3001}"#, "run_timeout cannot exceed the configured limit of 3000"),
            (r#"{"run_timeout":-2}"#, "run_timeout must be non-negative"),
            (r#"{"run_timeout":"1"}"#, "if specified, run_timeout must be a number"),
        ] {
            assert_eq!(asked(json), Err(message.to_owned()), "{json}");
        }
    }

    #[test]
    fn files_are_decoded_and_what_is_no_file_is_named() {
        let file = |json: &str| file_of(0, serde_json::from_str(json).unwrap());
        assert_eq!(file(r#"{"content":"aGk=","encoding":"base64"}"#).unwrap().content, b"hi");
        assert!(file(r#"{"content":"hi","encoding":"latin1"}"#).unwrap().is_text, "others stand for utf8");
        for json in ["1", "null", "{}", r#"{"content":1}"#] {
            let message = file(json).err().unwrap().message;
            assert_eq!(message, "files[0].content is required as a string", "{json}");
        }
    }
}
