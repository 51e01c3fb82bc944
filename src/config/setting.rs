//! One row of the table of settings, and how a value reaches its field: from which source, said by whom.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::ConfigError;
use super::value::{Kind, Raw, Value};
use crate::words::network::Network;
use crate::words::settings::{Listen, Rate};
use crate::words::suggest;

/// A setting of `T`: everything that is known of it, in one place.
pub struct Setting<T: 'static> {
    /// Its key within its table; a dot stands for a table within.
    pub name: &'static str,
    pub kind: Kind,
    /// One line, without a full stop.
    pub about: &'static str,
    pub get: fn(&T) -> Value,
    /// `None` when the field cannot hold the value.
    pub set: fn(&mut T, Value) -> Option<()>,
    /// Without the dashes. Secrets have none: whoever lists processes would read them.
    pub flag: Option<&'static str>,
    /// Help shows the flag even when it is brief.
    pub common: bool,
    /// `none` is a value.
    pub optional: bool,
    /// Never shown.
    pub secret: bool,
    /// Variables of the services we replace.
    pub aliases: &'static [Alias<T>],
}

/// How a row reads its field and writes it.
pub type Access<T> = (fn(&T) -> Value, fn(&mut T, Value) -> Option<()>);

/// A variable of another service, in that service's own units.
pub struct Alias<T: 'static> {
    pub variable: &'static str,
    /// Which part of the value it says: of two aliases for one part, the first counts.
    pub part: &'static str,
    /// As it continues "is not …".
    pub expected: &'static str,
    pub example: &'static str,
    /// The whole value, given what is in force so far and the variable's text.
    pub read: fn(&T, &str) -> Option<Value>,
}

impl<T> Setting<T> {
    pub const fn new(name: &'static str, kind: Kind, about: &'static str, (get, set): Access<T>) -> Setting<T> {
        Setting { name, kind, about, get, set, flag: None, common: false, optional: false, secret: false, aliases: &[] }
    }

    pub const fn flag(mut self, flag: &'static str) -> Setting<T> {
        self.flag = Some(flag);
        self
    }

    pub const fn common(mut self) -> Setting<T> {
        self.common = true;
        self
    }

    pub const fn optional(mut self) -> Setting<T> {
        self.optional = true;
        self
    }

    pub const fn secret(mut self) -> Setting<T> {
        self.secret = true;
        self
    }

    pub const fn aliases(mut self, aliases: &'static [Alias<T>]) -> Setting<T> {
        self.aliases = aliases;
        self
    }

    /// `SANDBOXD_HISTORY_AGE_MAX` for `history.age_max`.
    pub fn variable(&self) -> String {
        format!("SANDBOXD_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// What `target` has.
    pub fn value(&self, target: &T) -> Value {
        match ((self.get)(target), &self.kind) {
            (Value::Number(bytes), Kind::Size { .. }) => Value::Size(bytes),
            (value, _) => value,
        }
    }

    /// Gives `target` what `raw` says.
    ///
    /// # Errors
    /// A value that is not of the setting's kind, with what would be.
    pub fn apply(&self, target: &mut T, raw: &Raw, origin: &Origin, name: &str) -> Result<(), ConfigError> {
        let none = self.optional && matches!(raw, Raw::Plain(text) | Raw::Text(text) if text == "none");
        let value = if none { Some(Value::None) } else { self.kind.read(raw) };
        if value.and_then(|value| (self.set)(target, value)).is_some() {
            return Ok(());
        }
        let hint = match (&self.kind, raw) {
            (Kind::Word(words, _), Raw::Plain(text) | Raw::Text(text)) => {
                suggest::nearest(text, words.iter().copied()).map(|word| format!("; did you mean `{word}`?"))
            }
            _ => None,
        };
        // An example of a word is the list itself.
        let example = match self.kind {
            Kind::Word(..) | Kind::Switch => String::new(),
            _ => format!("; for example {:?}", self.kind.example()),
        };
        let (value, expected) = match self.kind.wrong_item(raw) {
            Some((item, expected)) => (format!("{item:?}"), expected.to_owned()),
            None => (raw.to_string(), self.kind.expected()),
        };
        Err(ConfigError::Value {
            subject: origin.subject(name),
            value: if self.secret { "…".to_owned() } else { value },
            expected: expected + &hint.unwrap_or(example),
        })
    }
}

/// Where a value came from, in rising order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    /// Line from 1.
    File {
        path: String,
        line: usize,
    },
    /// Variables of the services we replace; several when each says a part.
    Alias(Vec<&'static str>),
    Environment(String),
    Flag(&'static str),
}

/// Where each setting came from, by its full name (`service.listen`); what is not in here is a default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(pub BTreeMap<String, Origin>);

impl Origins {
    pub fn of(&self, name: &str) -> &Origin {
        self.0.get(name).unwrap_or(&Origin::Default)
    }

    pub fn note(&mut self, name: String, origin: Origin) {
        self.0.insert(name, origin);
    }
}

impl Origin {
    /// The setting `name` as whoever set it calls it.
    pub fn subject(&self, name: &str) -> String {
        match self {
            Origin::Default => name.to_owned(),
            Origin::File { path, line } => format!("{path}:{line}: {name}"),
            Origin::Alias(_) | Origin::Environment(_) | Origin::Flag(_) => self.to_string(),
        }
    }

    /// Which of two settings that exclude each other counts.
    pub fn rank(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::File { .. } => 1,
            Origin::Alias(_) => 2,
            Origin::Environment(_) => 3,
            Origin::Flag(_) => 4,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::Alias(variables) => f.write_str(&variables.join(" and ")),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raw::Plain(text) | Raw::Text(text) => write!(f, "{text:?}"),
            Raw::Number(number) => write!(f, "{number}"),
            Raw::Switch(on) => write!(f, "{on}"),
            Raw::List(items) => write!(f, "{items:?}"),
            Raw::Other(text) => f.write_str(text),
        }
    }
}

/// The environment as it was when it was asked for.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// That of this process. What is not UTF-8 is kept with replacement characters, which no setting accepts.
    pub fn of_process() -> Environment {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Environment(std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect())
    }

    /// A variable's value; an empty one counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Environment {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Environment {
        Environment(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Environment {
        pairs.into_iter().collect()
    }
}

/// A field's type, as values go in and out.
pub trait Field: Sized {
    fn value(&self) -> Value;
    /// `None` when this type cannot hold it.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! field {
    ($type:ty, $value:ident => $out:expr, $pattern:pat => $in:expr) => {
        impl Field for $type {
            fn value(&self) -> Value {
                let $value = self;
                $out
            }
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    $pattern => $in,
                    _ => None,
                }
            }
        }
    };
}

field!(bool, on => Value::Switch(*on), Value::Switch(on) => Some(on));
field!(u32, number => Value::Number(u64::from(*number)), Value::Number(number) => u32::try_from(number).ok());
field!(String, text => Value::Text(text.clone()), Value::Text(text) => Some(text));
field!(PathBuf, path => Value::Text(path.display().to_string()), Value::Text(text) => Some(PathBuf::from(text)));
field!(Duration, time => Value::Time(*time), Value::Time(time) => Some(time));
field!(Rate, rate => Value::Rate(*rate), Value::Rate(rate) => Some(rate));
field!(Vec<String>, items => Value::List(items.clone()), Value::List(items) => Some(items));
field!(
    Vec<Network>,
    networks => Value::List(networks.iter().map(Network::to_string).collect()),
    Value::List(items) => items.iter().map(|item| item.parse().ok()).collect()
);
field!(
    Vec<Listen>,
    sockets => Value::List(sockets.iter().map(super::forms::write_listen).collect()),
    Value::List(items) => items.iter().map(|item| super::forms::read_listen(item)).collect()
);

/// Bytes and plain numbers have one type; [`Setting::value`] tells them apart by the row's kind.
impl Field for u64 {
    fn value(&self) -> Value {
        Value::Number(*self)
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Number(number) | Value::Size(number) => Some(number),
            _ => None,
        }
    }
}

impl<F: Field> Field for Option<F> {
    fn value(&self) -> Value {
        self.as_ref().map_or(Value::None, Field::value)
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            value => F::from_value(value).map(Some),
        }
    }
}

/// The two functions by which a row of the table reaches the field it names.
macro_rules! access {
    ($($field:ident).+) => {
        (
            |target| $crate::config::setting::Field::value(&target.$($field).+),
            |target, value| {
                target.$($field).+ = $crate::config::setting::Field::from_value(value)?;
                Some(())
            },
        )
    };
}
pub(super) use access;
