//! light's face: `POST /typescript`, for the examples of a documentation site.
//!
//! Its answer has two fields, and its README shows `console.log('Hello')` as `"Hello"`: what was printed, joined by line
//! breaks. So the line break at the very end of each stream is left away, one and no more. A program that did not end by
//! itself has no other place to say so than `stderr`, whose last line tells.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body;
use super::caller::Identity;
use super::seeds::{self, SeedError, SeedRunRefusals};
use crate::answer::Answer;
use crate::service::{Caller, Feed, Service, Submission, single_file};
use crate::words::request::SourceFile;
use crate::words::verdict::Status;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TypescriptBody {
    /// A TypeScript program.
    pub code: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TypescriptAnswer {
    /// Without the line break at its end.
    pub stdout: String,
    /// Likewise; its last line says why the program was ended, if it was.
    pub stderr: String,
}

#[utoipa::path(
    post, path = "/typescript", tag = "light", request_body = TypescriptBody,
    responses(
        (status = 200, description = "What the program wrote", body = TypescriptAnswer),
        SeedRunRefusals,
    )
)]
pub async fn typescript(
    State(service): State<Arc<Service>>,
    identity: Identity,
    request: Request,
) -> Result<Response, SeedError> {
    let caller = identity.caller()?;
    let work = typescript_now(&service, caller.clone(), identity.request_id, request);
    seeds::counted(&service, &caller, work).await
}

async fn typescript_now(
    service: &Arc<Service>,
    caller: Caller,
    request_id: String,
    request: Request,
) -> Result<Response, SeedError> {
    let current = service.current();
    let body: TypescriptBody = body::json(request, &current.settings).await?;
    let language = "typescript";
    let file = SourceFile { name: String::new(), content: body.code.into_bytes() };
    let (mut request, files) = single_file(Some(language.to_owned()), file);
    request.limits.wall_time = seeds::wall_time(&current, &caller, language, None, seeds::WALL_TIME_DEFAULT);
    let stdin = Feed::Bytes(Default::default());
    let submission = Submission { request, files, stdin, caller, dialect: "light", request_id, extract: None };
    let (execution, answer) = seeds::run(service, submission).await?;
    Ok(seeds::with_id(&execution, Json(typescript_answer(&answer)).into_response()))
}

fn typescript_answer(answer: &Answer) -> TypescriptAnswer {
    let (output, status) = (&answer.run.output, answer.run.status);
    let stdout = seeds::plain(&output.stdout, output.stdout_encoding);
    let mut stderr = seeds::plain(&output.stderr, output.stderr_encoding);
    let ended_by_itself = status == Status::Ok.word() || status == Status::NonzeroExit.word();
    if !ended_by_itself || (stderr.is_empty() && status != Status::Ok.word()) {
        if !stderr.is_empty() && !stderr.ends_with('\n') {
            stderr.push('\n');
        }
        stderr += &answer.run.message;
    }
    TypescriptAnswer { stdout: without_end(stdout), stderr: without_end(stderr) }
}

fn without_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_at_the_end_is_left_away() {
        for (text, shown) in [("Hello\n", "Hello"), ("Hello", "Hello"), ("a\n\n", "a\n"), ("\n", ""), ("", "")] {
            assert_eq!(without_end(text.to_owned()), shown);
        }
    }
}
