//! Piston v2, under `/api/v2` and `/api/v2/piston`: its words, its limits, its errors.
//!
//! What is this service's own: a program's file without an extension gets its language's, as Piston's compilers do it;
//! memory and time are bounded by this service's ceilings even where Piston knows no bound.

mod selector;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{OriginalUri, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::caller::Identity;
use super::error::{run_refusals, status_code, with_headers};
use super::execute::{CancelOnDrop, Encoding, failed};
use super::{body, piston_socket};
use crate::answer::{self, Answer, StepAnswer};
use crate::runner::{StepKind, Stream};
use crate::service::execution::{EventKind, Execution};
use crate::service::refusal::{Class, Refusal};
use crate::service::{Caller, Current, Feed, Service, Submission, several_files};
use crate::words::limits::LimitsRequest;
use crate::words::profile::Profile;
use crate::words::request::{SourceFile, bounds};
use crate::words::verdict::Status;

/// Longest wall and CPU time of the run step and of the compile step; also what a request gets that asks for none.
const RUN_TIME_MAX: Duration = Duration::from_secs(3);
const COMPILE_TIME_MAX: Duration = Duration::from_secs(10);

/// The routes, relative to `/api/v2`.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/runtimes", get(runtimes))
        .route("/execute", axum::routing::post(execute))
        .route("/packages", get(packages).post(install).delete(uninstall))
        .route("/connect", get(piston_socket::connect))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
}

/// A refusal in Piston's shape.
pub struct PistonError(pub Refusal);

impl From<Refusal> for PistonError {
    fn from(refusal: Refusal) -> PistonError {
        PistonError(refusal)
    }
}

impl IntoResponse for PistonError {
    fn into_response(self) -> Response {
        let body = Json(PistonMessage { message: self.0.message.clone() });
        with_headers(&self.0, (status_code(self.0.class), body).into_response())
    }
}

/// Why a request was not served.
#[derive(Debug, Serialize, ToSchema)]
pub struct PistonMessage {
    pub message: String,
}

run_refusals!(PistonRefusals, PistonMessage);

/// A language that can be run.
#[derive(Debug, Serialize, ToSchema)]
pub struct Runtime {
    pub language: String,
    /// A semantic version.
    pub version: String,
    pub aliases: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Package {
    pub language: String,
    pub language_version: String,
    pub installed: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PistonAnswer {
    pub language: String,
    pub version: String,
    pub run: Stage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compile: Option<Stage>,
}

/// How one step ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Stage {
    pub stdout: String,
    pub stderr: String,
    /// Both streams in the order written.
    pub output: String,
    pub code: Option<i32>,
    pub signal: Option<String>,
    pub message: Option<String>,
    /// `RE` exit code, `SG` signal, `TO` time, `OL` stdout too long, `EL` stderr too long, `XX` our fault.
    pub status: Option<&'static str>,
    /// Milliseconds.
    pub cpu_time: u64,
    pub wall_time: u64,
    /// Greatest use, in bytes.
    pub memory: u64,
}

#[utoipa::path(get, path = "/api/v2/runtimes", tag = "piston", responses((status = 200, body = Vec<Runtime>)))]
pub async fn runtimes(State(service): State<Arc<Service>>) -> Json<Vec<Runtime>> {
    let current = service.current();
    let runtime = |profile: &Profile| {
        let version = available(&current, profile)?;
        Some(Runtime { language: profile.name.clone(), version: version.to_string(), aliases: profile.aliases.clone() })
    };
    Json(current.profiles.iter().filter_map(runtime).collect())
}

#[utoipa::path(get, path = "/api/v2/packages", tag = "piston", responses((status = 200, body = Vec<Package>)))]
pub async fn packages(State(service): State<Arc<Service>>) -> Json<Vec<Package>> {
    let current = service.current();
    // The version of a language whose image is not built is known to nobody.
    let package = |profile: &Profile| {
        let state = current.languages.get(&profile.name)?;
        let version = selector::version(state.version.as_deref()?)?;
        Some(Package {
            language: profile.name.clone(),
            language_version: version.to_string(),
            installed: state.problem.is_none(),
        })
    };
    Json(current.profiles.iter().filter_map(package).collect())
}

/// Piston installs a language so; here its operator does.
#[utoipa::path(post, path = "/api/v2/packages", tag = "piston",
               responses((status = 403, description = "Always", body = PistonMessage)))]
pub async fn install() -> PistonError {
    no_packages()
}

/// The same of taking one away.
#[utoipa::path(delete, path = "/api/v2/packages", tag = "piston",
               responses((status = 403, description = "Always", body = PistonMessage)))]
pub async fn uninstall() -> PistonError {
    no_packages()
}

fn no_packages() -> PistonError {
    let message = "languages are installed by the operator: sandboxd rootfs build";
    PistonError(Refusal::new(Class::Forbidden, "not_by_http", message))
}

pub async fn no_such_path(OriginalUri(uri): OriginalUri) -> PistonError {
    let path: String = uri.path().chars().take(200).collect();
    PistonError(Refusal::new(Class::NotFound, "unknown_path", format!("there is no {path}")))
}

async fn no_such_method(method: Method, OriginalUri(uri): OriginalUri) -> PistonError {
    let message = format!("{} does not take {method}", uri.path());
    PistonError(Refusal::new(Class::MethodNotAllowed, "wrong_method", message))
}

#[utoipa::path(
    post, operation_id = "piston_execute", path = "/api/v2/execute", tag = "piston", request_body = PistonBody,
    responses(
        (status = 200, description = "How both steps ended", body = PistonAnswer),
        PistonRefusals,
    )
)]
pub async fn execute(
    State(service): State<Arc<Service>>,
    identity: Identity,
    request: Request,
) -> Result<Json<PistonAnswer>, PistonError> {
    let caller = identity.caller()?;
    service.check_rate(&caller)?;
    check_content_type(request.headers())?;
    let current = service.current();
    let bytes = body::read(request, &current.settings).await?;
    let fields = body::parse(&bytes)?;
    let Job { submission, language, version } = job(&current, fields, caller, identity.request_id, false)?;
    let execution = service.submit(submission)?;
    let guard = CancelOnDrop(Arc::clone(&execution));
    let answer = execution.finished().await;
    drop(guard);
    if answer.run.status == Status::SandboxError.word() {
        return Err(failed(&answer).into());
    }
    let (run, compile) = stages(&execution, &answer);
    Ok(Json(PistonAnswer { language, version, run, compile }))
}

/// Piston's clients leave the content type to their HTTP library, which names none, or text, for the JSON they hand it. So
/// these are taken too; but not from a browser, which sends them for a page of any origin without asking first, and always
/// says so with an `Origin`.
fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_json = body::check_content_type(headers).is_ok();
    let is_nothing_else =
        headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if is_json || (is_nothing_else && !headers.contains_key(header::ORIGIN)) {
        return Ok(());
    }
    Err(Refusal::new(Class::UnsupportedMediaType, "not_json", "requests must be of type application/json"))
}

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

/// The version of a language that can be run now.
fn available(current: &Current, profile: &Profile) -> Option<semver::Version> {
    let state = current.languages.get(&profile.name).filter(|state| state.problem.is_none())?;
    selector::version(state.version.as_deref()?)
}

/// How both steps ended; a run that never was, because its program did not compile, is told as the compile step.
pub fn stages(execution: &Execution, answer: &Answer) -> (Stage, Option<Stage>) {
    let compile = answer.compile.as_ref().map(|step| stage(execution, StepKind::Compile, step));
    match &compile {
        Some(failed) if answer.run.status == Status::CompileError.word() => (failed.clone(), compile),
        _ => (stage(execution, StepKind::Run, &answer.run), compile),
    }
}

fn stage(execution: &Execution, kind: StepKind, step: &StepAnswer) -> Stage {
    let mut streams = [Vec::new(), Vec::new(), Vec::new()];
    for event in execution.events() {
        if let EventKind::Output { step, stream, data } = event.kind
            && step == kind
        {
            streams[usize::from(stream == Stream::Stderr)].extend_from_slice(&data);
            streams[2].extend_from_slice(&data);
        }
    }
    if streams[2].is_empty() {
        // A compile step of an earlier run has no events; the order of its streams is not known any more.
        let bytes = |text: &str, encoding: &str| match encoding {
            "base64" => answer::from_base64(text).unwrap_or_default(),
            _ => text.as_bytes().to_vec(),
        };
        let stdout = bytes(&step.output.stdout, step.output.stdout_encoding);
        let stderr = bytes(&step.output.stderr, step.output.stderr_encoding);
        streams = [stdout.clone(), stderr.clone(), [stdout, stderr].concat()];
    }
    let [stdout, stderr, output] = streams.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let status = status(step);
    // Whoever was stopped from outside has no exit code of their own.
    let was_stopped = matches!(status, Some("TO" | "OL" | "EL"));
    Stage {
        stdout,
        stderr,
        output,
        code: step.exit_code.filter(|_| !was_stopped),
        signal: if was_stopped { Some("SIGKILL".to_owned()) } else { step.signal.clone() },
        message: status.map(|_| step.message.clone()),
        status,
        cpu_time: step.usage.cpu_time_ms.round() as u64,
        wall_time: step.usage.wall_time_ms.round() as u64,
        memory: step.usage.memory_peak_bytes,
    }
}

fn status(step: &StepAnswer) -> Option<&'static str> {
    let is = |status: Status| step.status == status.word();
    Some(match step {
        _ if is(Status::Ok) => return None,
        _ if is(Status::NonzeroExit) => "RE",
        _ if is(Status::Signaled) || is(Status::MemoryExceeded) || is(Status::SyscallDenied) => "SG",
        _ if is(Status::WallTimeExceeded) || is(Status::CpuTimeExceeded) => "TO",
        _ if is(Status::OutputExceeded) => match &step.evidence.limit {
            Some(limit) if limit.name == "stderr_bytes" => "EL",
            _ => "OL",
        },
        _ => "XX",
    })
}

/// As an event of the WebSocket tells it.
pub fn exit_json(stage: &'static str, code: Option<i32>, signal: Option<&str>) -> Value {
    json!({"type": "exit", "stage": stage, "code": code, "signal": signal})
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
