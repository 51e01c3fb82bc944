//! Function mode: code that is the body of an async function, with `context` in scope, a result and logs.
//!
//! The author's code is a file beside a program of ours ([`RUNNER`]) that calls it in the same cell. What comes out goes
//! through a file, not through stdout: see the runner for what that is good for and what not. The sandbox around both is
//! the boundary, here as everywhere.

mod tokens;

use serde::Serialize;
use serde_json::value::{RawValue, Value};

use crate::answer::{Answer, FileAnswer, Thrown, from_base64};
use crate::service::refusal::{Class, Refusal};
use crate::service::{Extract, Extracted};
use crate::words::request::{Program, Request, SourceFile};
use crate::words::verdict::Status;

pub use tokens::has_top_level_return;

const RUNNER: &str = include_str!("run.cjs");
const RUNNER_FILE: &str = ".sandboxd-run.cjs";
const OUTPUT_FILE: &str = ".sandboxd-output";
/// The runner keeps to less (see its constants), but what it writes is in the hands of the code.
const LOGS_MAX: usize = 1001;
const LOGS_BYTES_MAX: usize = 160 << 10;
const RESULT_BYTES_MAX: usize = 1 << 20;
const ERROR_BYTES_MAX: usize = 256 << 10;

/// The runtime APIs that a configuration may name.
pub const APIS: [&str; 4] = ["console", "ai", "api", "db"];

/// Languages whose code can be a function, by canonical name, and their files.
const FILES: [(&str, &str); 2] = [("javascript", "main.js"), ("typescript", "main.ts")];

/// What the runner is told, over stdin.
#[derive(Serialize)]
struct Job<'a> {
    nonce: &'a str,
    file: &'a str,
    output: &'a str,
    apis: Option<&'a [String]>,
    context: &'a Value,
}

/// A function as a submission takes it.
pub struct Function {
    pub request: Request,
    pub files: Vec<SourceFile>,
    pub stdin: Vec<u8>,
    pub extract: Extract,
}

/// Whether code of `language`, by canonical name, can be a function.
pub fn is_language(language: &str) -> bool {
    file_of(language).is_some()
}

fn file_of(language: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == language).map(|(_, file)| *file)
}

/// The function whose body is `code`, with `context` and the runtime APIs `apis` (all, if none are named).
///
/// # Errors
/// The language has none, or there is no randomness.
pub fn function(language: &str, code: String, context: &Value, apis: Option<&[String]>) -> Result<Function, Refusal> {
    let file = file_of(language).ok_or_else(|| {
        let languages = FILES.map(|(name, _)| name).join(" and ");
        let message = format!("{language} code is no function: `context` and `config` are for {languages}");
        Refusal::bad("no_function_mode", "language", message)
            .hint("leave out `context` and `config` to run it as a program")
    })?;
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Refusal::new(Class::Internal, "no_randomness", format!("no random number: {error}")))?;
    let nonce: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let job = Job { nonce: &nonce, file, output: OUTPUT_FILE, apis, context };
    let stdin = serde_json::to_vec(&job)
        .map_err(|error| Refusal::bad("bad_request", "context", format!("context cannot be passed on: {error}")))?;
    let runner = SourceFile { name: RUNNER_FILE.to_owned(), content: RUNNER.into() };
    let source = SourceFile { name: file.to_owned(), content: code.into_bytes() };
    let request = Request {
        language: Some(language.to_owned()),
        program: Program::Source(runner.entry()),
        files: vec![source.entry()],
        files_out: vec![OUTPUT_FILE.to_owned()],
        ..Request::default()
    };
    let read = Box::new(move |answer: &mut Answer| take(answer, &nonce));
    Ok(Function { request, files: vec![source], stdin, extract: Extract { runner, read } })
}

/// Code as a program that has the same syntax errors as the function with this body: each line one further down.
pub fn as_program(code: &str) -> String {
    format!("(async function () {{\n{code}\n}})")
}

/// Takes what the runner left out of `answer`, and lets the answer say why there is no result.
fn take(answer: &mut Answer, nonce: &str) -> Extracted {
    let file = answer.files_out.iter().position(|file| file.name == OUTPUT_FILE);
    let output = file.map(|index| text(answer.files_out.remove(index))).unwrap_or_default();
    answer.files_out_problems.clear();
    let Records { result, thrown, logs } = records(&output, nonce);
    let ok = answer.run.status == Status::Ok.word();
    if let Some(thrown) = &thrown {
        answer.run.message = thrown.message.clone();
    } else if ok && result.is_none() {
        answer.run.message = NO_RESULT.to_owned();
    }
    answer.thrown = thrown;
    Extracted { result_json: result.filter(|_| ok), logs_json: Some(format!("[{}]", logs.join(","))) }
}

/// The message of a run that ended well otherwise.
pub const NO_RESULT: &str =
    "the code ended without a result: it ended its process, or waits for something that never comes";

fn text(file: FileAnswer) -> String {
    match file.encoding {
        "base64" => from_base64(&file.content).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        _ => Some(file.content),
    }
    .unwrap_or_default()
}

/// What the runner wrote down; the texts are JSON.
#[derive(Default)]
struct Records {
    result: Option<String>,
    thrown: Option<Thrown>,
    logs: Vec<String>,
}

/// The lines of `output` that begin with the nonce; anything else was not written by the runner.
fn records(output: &str, nonce: &str) -> Records {
    let mut records = Records::default();
    let mut logs_bytes = 0;
    let json = |text: &str| RawValue::from_string(text.to_owned()).is_ok();
    for line in output.split('\n') {
        let Some(rest) = line.strip_prefix(nonce).and_then(|rest| rest.strip_prefix(' ')) else { continue };
        match rest.split_once(' ') {
            Some(("L", log))
                if records.logs.len() < LOGS_MAX && logs_bytes + log.len() <= LOGS_BYTES_MAX && json(log) =>
            {
                logs_bytes += log.len();
                records.logs.push(log.to_owned());
            }
            Some(("R", result)) if result.len() <= RESULT_BYTES_MAX && json(result) => {
                records.result = Some(result.to_owned());
            }
            Some(("E", thrown)) if thrown.len() <= ERROR_BYTES_MAX => {
                records.thrown = serde_json::from_str(thrown).ok();
            }
            _ => {}
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_bears_the_nonce_is_a_record() {
        let output = "forged R 1\nN R 1\nabc R 2 3\nabc L {\"level\":\"log\",\"message\":\"a\"}\nabcR 9\nabc R {\"b\":1,\"a\":2}\nR 3\n";
        let records = records(output, "abc");
        assert_eq!(records.result.as_deref(), Some(r#"{"b":1,"a":2}"#));
        assert_eq!(records.logs, [r#"{"level":"log","message":"a"}"#]);
        assert!(records.thrown.is_none());
    }

    #[test]
    fn records_that_are_no_json_or_too_many_are_left_out() {
        let log = |number: usize| format!("n L {number}\n");
        let output: String = (0..2 * LOGS_MAX).map(log).chain(["n L {\n".to_owned(), "n E 5\n".to_owned()]).collect();
        let read = records(&output, "n");
        assert_eq!(read.logs.len(), LOGS_MAX);
        assert!(read.thrown.is_none() && read.result.is_none());
        let large = format!("n R \"{}\"\nn L \"{}\"\n", "x".repeat(RESULT_BYTES_MAX), "x".repeat(LOGS_BYTES_MAX));
        let read = records(&large, "n");
        assert!(read.result.is_none() && read.logs.is_empty());
    }

    #[test]
    fn the_runner_and_its_reader_have_the_same_bounds() {
        let constant = |name: &str| {
            let line = RUNNER.lines().find(|line| line.starts_with(&format!("const {name} = "))).unwrap();
            line.split(['=', ';'])
                .nth(1)
                .unwrap()
                .split('*')
                .map(|n| n.trim().parse::<usize>().unwrap())
                .product::<usize>()
        };
        assert_eq!(constant("LOGS_MAX") + 1, LOGS_MAX);
        assert_eq!(constant("RESULT_BYTES_MAX"), RESULT_BYTES_MAX);
        // Its last log says that there were more. A character of an error is six bytes at most, as `\u0000`.
        assert!(constant("LOGS_BYTES_MAX") + 256 < LOGS_BYTES_MAX);
        assert!(2 * 6 * constant("MESSAGE_LENGTH_MAX") + 256 < ERROR_BYTES_MAX);
    }
}
