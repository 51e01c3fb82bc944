//! A configuration file: read once, walked by the tables of settings, and strict about what it does not know.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::setting::{Origin, Origins, Setting};
use super::value::Raw;
use crate::words::suggest;
use crate::words::toml_error::{self, TomlError};

/// A file larger than this is no configuration.
const BYTES_MAX: u64 = 4 << 20;

/// A configuration file as it was when it was read.
#[derive(Clone)]
pub struct File {
    pub path: PathBuf,
    text: String,
}

/// It may hold keys.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({:?})", self.path)
    }
}

impl File {
    /// Reads `path`.
    ///
    /// # Errors
    /// It cannot be read, is no text or larger than 4 MiB.
    pub fn read(path: &Path) -> Result<File, ConfigError> {
        let text = read_bounded(path, BYTES_MAX)?;
        Ok(File { path: path.to_owned(), text })
    }

    /// The whole file as a table.
    ///
    /// # Errors
    /// The first violation of TOML, with its line.
    pub fn table(&self) -> Result<DeTable<'_>, ConfigError> {
        match DeTable::parse(&self.text) {
            Ok(table) => Ok(table.into_inner()),
            Err(error) => Err(toml_error::from_toml(&self.name(), &self.text, &error).into()),
        }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Where the byte `offset` stands.
    pub fn origin(&self, offset: usize) -> Origin {
        Origin::File { path: self.name(), line: toml_error::line_of(&self.text, offset) }
    }

    /// An error at the byte `offset`.
    pub fn error(&self, offset: usize, message: String, hint: Option<String>) -> ConfigError {
        let line = toml_error::line_of(&self.text, offset);
        TomlError { file: self.name(), line, message, hint }.into()
    }
}

/// Reads a file of text of at most `bytes_max`.
///
/// # Errors
/// It cannot be read, is no UTF-8 or is larger.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<String, ConfigError> {
    use std::io::Read as _;
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(bytes_max + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > bytes_max {
        return Err(failed(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            format!("more than {bytes_max} bytes"),
        )));
    }
    Ok(text)
}

/// A table of a file, and what it is called there (`service`; empty for the whole file).
pub struct Table<'a> {
    pub file: &'a File,
    pub table: &'a DeTable<'a>,
    pub name: &'a str,
}

impl Table<'_> {
    /// Gives `target` what the table says, and notes where. Keys in `elsewhere` are the caller's to read.
    ///
    /// # Errors
    /// The first key that is no setting, or value that is not of its kind; with its line.
    pub fn overlay<T>(
        &self,
        settings: &[&Setting<T>],
        elsewhere: &[&str],
        target: &mut T,
        origins: &mut Origins,
    ) -> Result<(), ConfigError> {
        self.overlay_within("", self.table, settings, elsewhere, target, origins)
    }

    /// Likewise for the table that stands below `within` (`history.`).
    fn overlay_within<T>(
        &self,
        within: &str,
        table: &DeTable,
        settings: &[&Setting<T>],
        elsewhere: &[&str],
        target: &mut T,
        origins: &mut Origins,
    ) -> Result<(), ConfigError> {
        for (key, value) in table {
            let name = format!("{within}{}", key.get_ref());
            let offset = key.span().start;
            if let Some(setting) = settings.iter().find(|setting| setting.name == name) {
                let origin = self.file.origin(offset);
                let full = join(self.name, &name);
                setting.apply(target, &raw(value.get_ref()), &origin, &full)?;
                origins.note(full, origin);
                continue;
            }
            if within.is_empty() && elsewhere.contains(&name.as_str()) {
                continue;
            }
            let below = format!("{name}.");
            if settings.iter().any(|setting| setting.name.starts_with(&below)) {
                match value.get_ref() {
                    DeValue::Table(inner) => {
                        self.overlay_within(&below, inner, settings, elsewhere, target, origins)?;
                    }
                    _ => {
                        let message = format!("`{name}` is a table, as in [{}]", join(self.name, &name));
                        return Err(self.file.error(offset, message, None));
                    }
                }
                continue;
            }
            let known = settings
                .iter()
                .filter_map(|setting| setting.name.strip_prefix(within))
                .map(|rest| rest.split('.').next().unwrap_or(rest))
                .chain(elsewhere.iter().copied().filter(|_| within.is_empty()));
            return Err(self.unknown(key, &join(self.name, within.trim_end_matches('.')), known));
        }
        Ok(())
    }

    fn unknown<'k>(
        &self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        place: &str,
        known: impl Iterator<Item = &'k str>,
    ) -> ConfigError {
        let hint = suggest::nearest(key.get_ref(), known).map(|right| format!("did you mean `{right}`?"));
        let place = if place.is_empty() { String::new() } else { format!(" in [{place}]") };
        self.file.error(key.span().start, format!("unknown field `{}`{place}", key.get_ref()), hint)
    }

    /// The tables of the array `key`, each with the offset at which it starts.
    ///
    /// # Errors
    /// `key` is something else than an array of tables.
    pub fn tables(&self, key: &str) -> Result<Vec<(usize, &DeTable<'_>)>, ConfigError> {
        let Some((name, value)) = self.table.iter().find(|(name, _)| name.get_ref() == key) else {
            return Ok(Vec::new());
        };
        let not_tables = |offset| {
            let message = format!("`{key}` is not a list of tables, as in [[{}]]", join(self.name, key));
            self.file.error(offset, message, None)
        };
        let DeValue::Array(items) = value.get_ref() else { return Err(not_tables(name.span().start)) };
        items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::Table(table) => Ok((item.span().start, table)),
                _ => Err(not_tables(item.span().start)),
            })
            .collect()
    }
}

/// The table `key` of `table`, with its offset.
pub fn table_of<'t, 'a>(table: &'t DeTable<'a>, key: &str) -> Option<(usize, &'t Spanned<DeValue<'a>>)> {
    table.iter().find(|(name, _)| name.get_ref() == key).map(|(name, value)| (name.span().start, value))
}

/// `service.listen` of `service` and `listen`.
pub fn join(table: &str, name: &str) -> String {
    match (table.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (_, true) => table.to_owned(),
        _ => format!("{table}.{name}"),
    }
}

fn raw(value: &DeValue) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.clone().into_owned()),
        DeValue::Integer(integer) => match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Raw::Number(number),
            Err(_) => Raw::Other(integer.to_string()),
        },
        DeValue::Float(float) => Raw::Other(float.to_string()),
        DeValue::Boolean(on) => Raw::Switch(*on),
        DeValue::Datetime(time) => Raw::Other(time.to_string()),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            texts.map_or_else(|| Raw::Other("[…]".to_owned()), Raw::List)
        }
        DeValue::Table(_) => Raw::Other("{…}".to_owned()),
    }
}
