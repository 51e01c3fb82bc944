//! workers' `POST /validate`: what is wrong with code, without running it.
//!
//! The language's own tool parses the program in a cell, admitted and limited as a run is; what the operator's pattern
//! policies say of it for `/execute` stands beside. JavaScript and TypeScript with a `return` at their top level are checked
//! as the body of a function, which is what `/execute` takes them for.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::caller::Identity;
use super::seeds::{self, SeedError, SeedRunRefusals};
use super::{body, function};
use crate::answer::Answer;
use crate::plan::WORKDIR;
use crate::service::policy::Finding;
use crate::service::{Caller, Current, Feed, Service, Submission, single_file};
use crate::words::profile::{Diagnostic, Profile};
use crate::words::request::{Purpose, SourceFile};
use crate::words::verdict::Status;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateBody {
    pub code: String,
    /// Name or alias of a language that has a check; JavaScript unless it is named.
    pub language: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ValidateAnswer {
    /// There is no error.
    pub valid: bool,
    /// Why the code would not run: its syntax, then the operator's policy.
    pub errors: Vec<Remark>,
    /// What its language's tool would mend.
    pub warnings: Vec<Remark>,
    /// What pattern policies say of it: every place, with the rule.
    pub findings: Vec<PolicyFinding>,
    pub language: String,
}

/// Something about a place in the code; line and column count from 1, and the column is `null` where the tool tells none.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Remark {
    pub line: u32,
    pub column: Option<u32>,
    pub message: String,
    /// `syntax`, `policy`, or `limit` where the check itself was ended.
    pub source: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyFinding {
    pub policy: String,
    pub rule: String,
    pub line: usize,
    pub column: usize,
    pub message: String,
}

#[utoipa::path(
    post, path = "/validate", tag = "workers", request_body = ValidateBody,
    responses(
        (status = 200, description = "What is wrong with the code, if anything", body = ValidateAnswer),
        SeedRunRefusals,
    )
)]
pub async fn validate(
    State(service): State<Arc<Service>>,
    identity: Identity,
    request: Request,
) -> Result<Response, SeedError> {
    let caller = identity.caller()?;
    let work = validate_now(&service, caller.clone(), identity.request_id, request);
    seeds::counted(&service, &caller, work).await
}

async fn validate_now(
    service: &Arc<Service>,
    caller: Caller,
    request_id: String,
    request: Request,
) -> Result<Json<ValidateAnswer>, SeedError> {
    let current = service.current();
    let body: ValidateBody = body::json(request, &current.settings).await?;
    let name = body.language.unwrap_or_else(|| "javascript".to_owned());
    // A language that is not known is for the service to refuse, with the nearest one.
    let profile = current.profiles.by_name(&name);
    let findings = profile.map(|profile| findings(&current, &caller, profile, &body.code)).unwrap_or_default();
    let is_function = profile.is_some_and(|profile| function::is_language(&profile.name))
        && function::has_top_level_return(&body.code);
    let program = if is_function { function::as_program(&body.code) } else { body.code };
    let (mut request, files) = single_file(Some(name), SourceFile { name: String::new(), content: program.into() });
    request.purpose = Purpose::Check;
    let stdin = Feed::Bytes(Default::default());
    let submission = Submission { request, files, stdin, caller, dialect: "validate", request_id, extract: None };
    let (_, answer) = seeds::run(service, submission).await?;
    let profile = answer.language.as_deref().and_then(|name| current.profiles.by_name(name));
    let diagnostics = profile.map(|profile| diagnostics(profile, &answer)).unwrap_or_default();
    Ok(Json(validate_answer(&answer, diagnostics, findings, is_function)))
}

/// What `/execute` would refuse: as a program, or as a function.
fn findings(current: &Current, caller: &Caller, profile: &Profile, code: &str) -> Vec<PolicyFinding> {
    let key = caller.key.as_ref().map(|key| key.name.as_str());
    let files = [SourceFile { name: profile.source.clone(), content: code.into() }];
    let dialect = if function::is_language(&profile.name) { "workers" } else { "codesandbox" };
    let finding = |found: Finding| PolicyFinding {
        policy: found.policy,
        rule: found.rule,
        line: found.line,
        column: found.column,
        message: found.message,
    };
    current.policies.findings(dialect, key, &profile.name, &files).into_iter().map(finding).collect()
}

fn diagnostics(profile: &Profile, answer: &Answer) -> Vec<Diagnostic> {
    let Some(check) = &profile.check else { return Vec::new() };
    let output = &answer.run.output;
    let text =
        seeds::plain(&output.stdout, output.stdout_encoding) + &seeds::plain(&output.stderr, output.stderr_encoding);
    check.read(&text, &format!("{WORKDIR}/{}", profile.source))
}

fn validate_answer(
    answer: &Answer,
    diagnostics: Vec<Diagnostic>,
    findings: Vec<PolicyFinding>,
    is_function: bool,
) -> ValidateAnswer {
    let remark = |found: Diagnostic| {
        // The first line is that of the function around the code.
        let line = if is_function { found.line.saturating_sub(1).max(1) } else { found.line };
        Remark { line, column: found.column, message: found.message, source: "syntax" }
    };
    let (warnings, errors): (Vec<_>, Vec<_>) = diagnostics.into_iter().partition(|found| found.is_warning);
    let mut errors: Vec<Remark> = errors.into_iter().map(remark).collect();
    let status = answer.run.status;
    if status != Status::Ok.word() && errors.is_empty() {
        // Its tool said no in words that the pattern does not know, or did not come to an end.
        let source = if status == Status::NonzeroExit.word() { "syntax" } else { "limit" };
        let said = answer.run.output.stderr.lines().rfind(|line| !line.trim().is_empty());
        let message = said.filter(|_| source == "syntax").unwrap_or(&answer.run.message).to_owned();
        errors.push(Remark { line: 1, column: None, message, source });
    }
    let policy = |found: &PolicyFinding| Remark {
        line: u32::try_from(found.line).unwrap_or(u32::MAX),
        column: u32::try_from(found.column).ok(),
        message: found.message.clone(),
        source: "policy",
    };
    errors.extend(findings.iter().map(policy));
    ValidateAnswer {
        valid: errors.is_empty(),
        errors,
        warnings: warnings.into_iter().map(remark).collect(),
        findings,
        language: answer.language.clone().unwrap_or_default(),
    }
}
