//! A run as a face asks for it, and everything about it that can be checked before there is a cell.

use bytes::Bytes;

use super::refusal::{Class, Refusal};
use super::{Caller, Current};
use crate::answer::Answer;
use crate::plan::{Plan, Surroundings, plan, select_profile};
use crate::words::limits::format_size;
use crate::words::request::{Program, Purpose, Request, RequestError, SourceFile};

/// A run as a face asks for it.
pub struct Submission {
    pub request: Request,
    /// The program's file and those beside it.
    pub files: Vec<SourceFile>,
    pub stdin: Feed,
    pub caller: Caller,
    pub dialect: &'static str,
    pub request_id: String,
    /// Function mode.
    pub extract: Option<Extract>,
}

/// A program of the service's own that is run in place of the author's and calls it.
pub struct Extract {
    /// It counts as no source of the author's: no policy, cap or digest is about it.
    pub runner: SourceFile,
    /// Takes what the runner left out of the answer.
    pub read: Box<dyn FnOnce(&mut Answer) -> Extracted + Send>,
}

/// What a program reads.
pub enum Feed {
    Bytes(Bytes),
    /// As it comes, through [`super::execution::Execution::stdin`].
    Interactive,
}

/// Function mode: what the code returned and logged, as JSON.
#[derive(Debug, Clone, Default)]
pub struct Extracted {
    pub result_json: Option<String>,
    pub logs_json: Option<String>,
}

impl Extracted {
    pub fn bytes(&self) -> usize {
        [&self.result_json, &self.logs_json].into_iter().flatten().map(String::len).sum()
    }
}

/// A request for a program in one file.
pub fn single_file(language: Option<String>, file: SourceFile) -> (Request, Vec<SourceFile>) {
    let request = Request { language, program: Program::Source(file.entry()), ..Request::default() };
    (request, vec![file])
}

/// A program of several files, of which `entry` is run.
///
/// # Errors
/// There is no such file.
pub fn several_files(
    language: Option<String>,
    entry: &str,
    files: Vec<SourceFile>,
) -> Result<(Request, Vec<SourceFile>), RequestError> {
    let index = files.iter().position(|file| file.name == entry);
    let index = index.ok_or_else(|| RequestError::new("entry", format!("no file is called {entry:?}")))?;
    // Another of the same name is among them, to be refused by the plan.
    let mut others: Vec<_> = files.iter().map(SourceFile::entry).collect();
    let program = others.remove(index);
    Ok((Request { language, program: Program::Source(program), files: others, ..Request::default() }, files))
}

/// Checks everything about a submission that can be known now, and decides what will be done.
///
/// # Errors
/// Whatever is wrong first, by its field.
pub(super) fn check(current: &Current, submission: &mut Submission) -> Result<Plan, Refusal> {
    let request = &mut submission.request;
    let bytes: u64 = submission.files.iter().map(|file| file.content.len() as u64).sum();
    let bytes_max = current.settings.code_bytes_max;
    if bytes > bytes_max {
        let message = format!("{bytes} bytes of source are more than the {} allowed", format_size(bytes_max));
        return Err(Refusal {
            field: Some("code".to_owned()),
            ..Refusal::new(Class::TooLarge, "code_too_large", message)
        });
    }
    let profile = select_profile(request, &current.profiles)?;
    let Some(profile) = profile else {
        return Err(
            Refusal::bad("language_required", "language", "language is missing").hint("name one of /api/languages")
        );
    };
    if let Some(key) = &submission.caller.key
        && !key.languages.is_empty()
        && !key.languages.iter().any(|language| profile.names().any(|name| name.eq_ignore_ascii_case(language)))
    {
        let message = format!("key {} may not run {}", key.name, profile.name);
        let refusal = Refusal::new(Class::Forbidden, "language_not_allowed", message);
        return Err(Refusal { field: Some("language".to_owned()), ..refusal });
    }
    let state = current.languages.get(&profile.name);
    let state = state.ok_or_else(|| Refusal::new(Class::Internal, "no_state", "the language has no state"))?;
    if let Some(problem) = &state.problem {
        let message = format!("{} cannot be run here: {problem}", profile.name);
        return Err(Refusal::new(Class::Unavailable, "language_unavailable", message));
    }
    name_program(request, &mut submission.files, &profile.source);
    // By its name alone from here on, whatever alias or extension led to it.
    request.language = Some(profile.name.clone());
    request.rootfs = None;
    request.limits = current.granted(profile, &submission.caller, &request.limits)?;
    let key = submission.caller.key.as_ref().map(|key| key.name.as_str());
    // Whoever has a syntax checked is told the findings beside it.
    if request.purpose == Purpose::Run {
        current.policies.check(submission.dialect, key, &profile.name, &submission.files)?;
    }
    let around =
        Surroundings { profiles: &current.profiles, host: &current.host, rootfs: &state.rootfs, left_out: &[] };
    if let Program::Command(_) = request.program {
        return Err(Refusal::bad("code_required", "code", "code or files are missing"));
    }
    Ok(plan(request, &around)?)
}

/// Code that came without a name gets the one its language's programs have.
fn name_program(request: &mut Request, files: &mut [SourceFile], name: &str) {
    if let Program::Source(entry) = &mut request.program
        && entry.name.is_empty()
    {
        entry.name = name.to_owned();
        files.iter_mut().filter(|file| file.name.is_empty()).for_each(|file| file.name = name.to_owned());
    }
}
