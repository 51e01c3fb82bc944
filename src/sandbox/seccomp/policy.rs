//! From TOML to a policy.

use std::sync::Arc;

use nix::errno::Errno;
use serde::Deserialize;
use syscalls::Sysno;

use super::{ArgumentRules, Condition, Entry, NUMBERS, Op, Policy, SyscallVerdict, Value, compile, constants};

/// What is wrong with a policy or an addition, and where.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {message}{}", .nearest.as_ref().map(|word| format!("; did you mean `{word}`?")).unwrap_or_default())]
pub struct PolicyError {
    /// `file:line` or the addition.
    pub place: String,
    pub message: String,
    /// The valid word nearest to one that is not.
    pub nearest: Option<String>,
}

impl PolicyError {
    pub(super) fn in_addition(name: &str, message: String) -> Self {
        PolicyError { place: format!("addition `{name}`"), message, nearest: None }
    }

    pub(super) fn unknown_addition(name: &str) -> Self {
        let nearest = nearest(name, syscall_names());
        PolicyError { nearest, ..Self::in_addition(name, "no such system call".into()) }
    }
}

/// The file. Everything is borrowed from the text, so that the address of a word tells its line, and lists of words are
/// one string each: three hundred TOML values less, and conditions that read like conditions, halve the time it takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File<'a> {
    #[serde(borrow, default)]
    allow: Vec<Allow<'a>>,
    #[serde(borrow, default)]
    argument: Vec<Argument<'a>>,
    #[serde(borrow, default)]
    answer: Vec<Answer<'a>>,
    #[serde(borrow, default)]
    deny: Vec<Deny<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow<'a> {
    why: &'a str,
    syscalls: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer<'a> {
    why: &'a str,
    errno: &'a str,
    #[serde(default)]
    permanent: bool,
    syscalls: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deny<'a> {
    why: &'a str,
    #[serde(default)]
    permanent: bool,
    syscalls: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Argument<'a> {
    why: &'a str,
    syscall: &'a str,
    errno: &'a str,
    #[serde(borrow)]
    deny: Vec<&'a str>,
}

pub(super) fn parse(text: &str, file: &str) -> Result<Policy, PolicyError> {
    let reader = Reader { text, file };
    let parsed = toml::Deserializer::parse(text).and_then(File::deserialize);
    let parsed = parsed.map_err(|error| reader.toml_error(&error))?;

    let mut entries: Vec<Option<Entry>> = vec![None; NUMBERS as usize];
    for group in &parsed.allow {
        reader.group(&mut entries, group.why, group.syscalls, SyscallVerdict::Allow, false)?;
    }
    for group in &parsed.answer {
        let verdict = SyscallVerdict::Answer(reader.errno(group.errno)?);
        reader.group(&mut entries, group.why, group.syscalls, verdict, group.permanent)?;
    }
    for group in &parsed.deny {
        reader.group(&mut entries, group.why, group.syscalls, SyscallVerdict::Notify, group.permanent)?;
    }
    let mut instructions = 0;
    for argument in &parsed.argument {
        let rules = reader.argument(argument)?;
        instructions += rules.program.len();
        if instructions > compile::ARGUMENT_INSTRUCTIONS_MAX {
            let message = "too many argument rules for one filter";
            return Err(reader.error(argument.syscall, message.into()));
        }
        let verdict = SyscallVerdict::AllowUnless(Arc::new(rules));
        reader.group(&mut entries, argument.why, argument.syscall, verdict, false)?;
    }
    Ok(Policy { entries: with_defaults(entries) })
}

/// What the file says nothing about: denied if the kernel's table knows it, otherwise unknown here as well.
fn with_defaults(entries: Vec<Option<Entry>>) -> Vec<Entry> {
    let entry = |verdict, why: &str| Entry { verdict, why: why.into(), permanent: false };
    let unnamed = entry(SyscallVerdict::Notify, "not named by the policy");
    let unknown = entry(SyscallVerdict::Answer(Errno::ENOSYS), "not in the kernel's table");
    let known = |number| Sysno::new(number).is_some();
    let default = |number| {
        if known(number) { unnamed.clone() } else { unknown.clone() }
    };
    entries.into_iter().enumerate().map(|(number, entry)| entry.unwrap_or_else(|| default(number))).collect()
}

/// The text under its name, for errors that say where.
struct Reader<'a> {
    text: &'a str,
    file: &'a str,
}

impl<'a> Reader<'a> {
    /// An error at a word, which is a part of the text.
    fn error(&self, word: &str, message: String) -> PolicyError {
        self.error_at(word.as_ptr().addr().saturating_sub(self.text.as_ptr().addr()), message)
    }

    fn error_at(&self, offset: usize, message: String) -> PolicyError {
        let before = self.text.as_bytes().iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        PolicyError { place: format!("{}:{line}", self.file), message, nearest: None }
    }

    fn unknown(&self, what: &str, word: &str, valid: impl Iterator<Item = &'static str>) -> PolicyError {
        PolicyError { nearest: nearest(word, valid), ..self.error(word, format!("no such {what}: `{word}`")) }
    }

    /// serde's message names the word it could not use and those it could, all in backticks.
    fn toml_error(&self, error: &toml::de::Error) -> PolicyError {
        let message = error.message().trim_end();
        let error = self.error_at(error.span().map_or(0, |span| span.start), message.replace('\n', ", "));
        let mut quoted = message.split('`').skip(1).step_by(2);
        let nearest = match quoted.next() {
            Some(word) if message.starts_with("unknown ") => nearest(word, quoted),
            _ => None,
        };
        PolicyError { nearest, ..error }
    }

    /// Gives all calls of a group their verdict.
    fn group(
        &self,
        entries: &mut [Option<Entry>],
        why: &str,
        syscalls: &str,
        verdict: SyscallVerdict,
        permanent: bool,
    ) -> Result<(), PolicyError> {
        if why.trim().is_empty() {
            return Err(self.error(why, "a reason is wanted: `why` is empty".into()));
        }
        let entry = Entry { verdict, why: why.into(), permanent };
        for name in words(syscalls) {
            let slot = &mut entries[self.number(name)? as usize];
            if slot.is_some() {
                return Err(self.error(name, format!("`{name}` has a verdict already")));
            }
            *slot = Some(entry.clone());
        }
        Ok(())
    }

    fn number(&self, name: &str) -> Result<u32, PolicyError> {
        number(name).ok_or_else(|| self.unknown("system call", name, syscall_names()))
    }

    fn errno(&self, name: &str) -> Result<Errno, PolicyError> {
        constants::errno(name).ok_or_else(|| self.unknown("errno", name, constants::errno_names()))
    }

    fn argument(&self, argument: &Argument<'a>) -> Result<ArgumentRules, PolicyError> {
        let number = self.number(argument.syscall)?;
        let errno = self.errno(argument.errno)?;
        if argument.deny.is_empty() {
            let message = "`deny` is empty: name the call in [[allow]] instead";
            return Err(self.error(argument.syscall, message.into()));
        }
        let deny = argument.deny.iter().map(|rule| self.rule(rule)).collect::<Result<Vec<_>, _>>()?;
        let program = compile::argument_program(number, errno, &deny);
        let program = program.map_err(|error| self.error(argument.syscall, error.to_string()))?;
        Ok(ArgumentRules { errno, deny, program })
    }

    /// `CONDITION and CONDITION ...`
    fn rule(&self, rule: &'a str) -> Result<Vec<Condition>, PolicyError> {
        let words: Vec<&str> = words(rule).collect();
        if words.is_empty() {
            return Err(self.error(rule, "a rule without conditions".into()));
        }
        words.split(|word| *word == "and").map(|words| self.condition(rule, words)).collect()
    }

    /// `argN:WIDTH OPERATOR VALUE`
    fn condition(&self, rule: &str, words: &[&str]) -> Result<Condition, PolicyError> {
        let [argument, operator @ ..] = words else {
            return Err(self.error(rule, "a condition is wanted on both sides of `and`".into()));
        };
        let (arg, dword) = self.argument_word(argument)?;
        let value = |word| self.value(word, dword);
        let op = match operator {
            ["=", word] => Op::Eq(value(word)?),
            ["!=", word] => Op::Ne(value(word)?),
            ["<", word] => Op::Lt(value(word)?),
            ["<=", word] => Op::Le(value(word)?),
            [">", word] => Op::Gt(value(word)?),
            [">=", word] => Op::Ge(value(word)?),
            ["&", mask, "=", word] => {
                let (mask, value) = (value(mask)?, value(word)?);
                if value.bits & !mask.bits != 0 {
                    return Err(self.error(word, format!("never holds: {value} has bits that {mask} has not")));
                }
                Op::MaskedEq { mask, value }
            }
            ["none", "of", words @ ..] if !words.is_empty() => {
                Op::NoneOf(words.iter().map(|word| value(word)).collect::<Result<_, _>>()?)
            }
            _ => {
                let message = format!(
                    "after `{argument}` comes = != < <= > >= with a value, `& MASK = VALUE` or `none of VALUES`"
                );
                return Err(self.error(argument, message));
            }
        };
        Ok(Condition { arg, dword, op })
    }

    fn argument_word(&self, word: &str) -> Result<(u8, bool), PolicyError> {
        let parts = word.strip_prefix("arg").and_then(|rest| rest.split_once(':'));
        let parts = parts.and_then(|(arg, width)| Some((arg.parse().ok().filter(|arg| *arg < 6)?, width)));
        match parts {
            Some((arg, "32")) => Ok((arg, true)),
            Some((arg, "64")) => Ok((arg, false)),
            _ => {
                Err(self
                    .error(word, format!("an argument is arg0 to arg5 with its width, as in `arg1:32`, not `{word}`")))
            }
        }
    }

    fn value(&self, word: &str, dword: bool) -> Result<Value, PolicyError> {
        let value = if word.starts_with(|first: char| first.is_ascii_digit()) {
            let bits = match word.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => word.parse(),
            };
            let bits = bits.map_err(|error| self.error(word, format!("not a number: `{word}`, {error}")))?;
            Value { bits, name: None }
        } else {
            constants::constant(word).ok_or_else(|| self.unknown("constant", word, constants::constant_names()))?
        };
        if dword && u32::try_from(value.bits).is_err() {
            return Err(self.error(word, format!("{value} does not fit the 32 bits that are compared")));
        }
        Ok(value)
    }
}

/// What stands between white space, without comments.
fn words(list: &str) -> impl Iterator<Item = &str> {
    list.lines().flat_map(|line| line.split('#').next()).flat_map(str::split_ascii_whitespace)
}

pub(super) fn number(name: &str) -> Option<u32> {
    name.parse::<Sysno>().ok().map(|sysno| sysno.id() as u32)
}

fn syscall_names() -> impl Iterator<Item = &'static str> {
    (0..NUMBERS as usize).filter_map(Sysno::new).map(|sysno| sysno.name())
}

/// The word that was meant, if one is near enough to be believed.
fn nearest<'a>(word: &str, valid: impl Iterator<Item = &'a str>) -> Option<String> {
    let distance = |other: &&str| strsim::damerau_levenshtein(word, other);
    let nearest = valid.min_by_key(distance)?;
    (distance(&nearest) <= 1 + word.len() / 3).then(|| nearest.to_owned())
}
