//! One shape for errors in our TOML files: file, line, what is wrong, the nearest valid key.

use serde::de::DeserializeOwned;

use super::suggest;

/// A TOML file that is not what it should be. `line` counts from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}{}", hint.as_deref().map(|h| format!("; {h}")).unwrap_or_default())]
pub struct TomlError {
    pub file: String,
    pub line: usize,
    pub message: String,
    pub hint: Option<String>,
}

impl TomlError {
    pub fn new(file: &str, line: usize, message: impl Into<String>) -> TomlError {
        TomlError { file: file.to_owned(), line, message: message.into(), hint: None }
    }
}

/// Parses `text` strictly into `T`, which is expected to deny unknown fields.
///
/// # Errors
/// The first violation, with its line. For an unknown key the nearest valid one is named: serde lists the valid keys
/// in its message ("unknown field `x`, expected one of `a`, `b`"), and that list is the only place they all stand.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, TomlError> {
    toml::from_str(text).map_err(|error| from_toml(file, text, &error))
}

/// What the parser says of `text`, as one of our errors.
pub fn from_toml(file: &str, text: &str, error: &toml::de::Error) -> TomlError {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    let message = error.message().lines().next().unwrap_or("not valid TOML").to_owned();
    let hint = unknown_key_hint(&message);
    TomlError { file: file.to_owned(), line, message, hint }
}

/// The line, from 1, in which the byte `offset` of `text` stands.
pub fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

fn unknown_key_hint(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field ").or_else(|| message.strip_prefix("unknown variant "))?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let wrong = quoted.next()?;
    suggest::nearest(wrong, quoted).map(|right| format!("did you mean `{right}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Sample {
        name: String,
        memory_bytes: Option<u64>,
    }

    #[test]
    fn unknown_keys_name_file_line_and_the_nearest_valid_key() {
        let error = parse::<Sample>("a.toml", "name = \"x\"\n\nmemory_byte = 3\n").unwrap_err();
        assert_eq!((error.line, error.hint.as_deref()), (3, Some("did you mean `memory_bytes`?")));
        assert!(error.to_string().starts_with("a.toml:3: unknown field `memory_byte`"), "{error}");
    }

    #[test]
    fn wrong_types_and_broken_syntax_have_a_line() {
        assert_eq!(parse::<Sample>("a.toml", "name = 1\n").unwrap_err().line, 1);
        assert_eq!(parse::<Sample>("a.toml", "name = \"x\"\nmemory_bytes = = 2\n").unwrap_err().line, 2);
    }
}
