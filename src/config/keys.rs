//! Keys in the configuration: given by hash, in plain or in a file, and what makes one good enough.

use std::path::{Path, PathBuf};

use base64::Engine as _;

use super::file::{File, Table, join, read_bounded};
use super::service::Draft;
use super::setting::{Origin, Origins};
use super::{ConfigError, forms, table};
use crate::words::settings::{Key, LimitCeilings};

/// The name of the key that stands in a variable, a flag's file or `service.key`.
pub const DEFAULT_NAME: &str = "default";
/// Shorter keys can be guessed by whoever may try often.
const BYTES_MIN: usize = 16;
const BYTES_MAX: usize = 1024;
/// All keys are looked at for each request, so that the time tells nothing.
const KEYS_MAX: usize = 1000;

pub const NAME_EXPECTED: &str = forms::NAME.expected;

/// Whether a key may be called `name`.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && (forms::NAME.check)(name).is_some()
}

/// One key as the file gives it.
#[derive(Debug, Clone)]
pub struct KeyEntry {
    pub key: Key,
    pub sha256: Option<String>,
    pub plain: Option<String>,
    pub key_file: Option<PathBuf>,
}

impl KeyEntry {
    pub fn of(key: Key) -> KeyEntry {
        KeyEntry { key, sha256: None, plain: None, key_file: None }
    }
}

/// A key that may do everything.
fn unbounded(name: &str, sha256: String) -> Key {
    Key {
        name: name.to_owned(),
        sha256,
        rate: None,
        concurrent_max: None,
        languages: Vec::new(),
        greatest: LimitCeilings::default(),
        admin: false,
    }
}

/// SHA-256 of a key.
pub use crate::words::settings::key_digest as digest;

/// Two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A new key of 256 random bits, with its hash.
///
/// # Errors
/// The kernel gives no random bytes.
pub fn generate() -> Result<(String, String), getrandom::Error> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits)?;
    // The prefix lets scanners of repositories and logs recognise what leaked.
    let key = format!("sbx_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bits));
    let hash = hex(&digest(&key));
    Ok((key, hash))
}

/// Every `[[service.keys]]`.
///
/// # Errors
/// The first entry that is not whole or not good enough, with its line.
pub fn read(service: &Table, origins: &mut Origins, warnings: &mut Vec<String>) -> Result<Vec<Key>, ConfigError> {
    let file = service.file;
    let mut keys = Vec::new();
    let mut plain = false;
    for (offset, table) in service.tables("keys")? {
        let mut entry = KeyEntry::of(unbounded("", String::new()));
        let mut own = Origins::default();
        let settings: Vec<_> = table::KEY.iter().collect();
        Table { file, table, name: "service.keys" }.overlay(&settings, &[], &mut entry, &mut own)?;
        if entry.key.name.is_empty() {
            return Err(file.error(offset, "a key without a name".to_owned(), Some("say name = \"…\"".to_owned())));
        }
        let name = entry.key.name.clone();
        let at = |setting: &str| own.of(&join("service.keys", setting)).subject(&format!("key `{name}`"));
        entry.key.sha256 = match (&entry.sha256, &entry.plain, &entry.key_file) {
            (Some(hash), None, None) => hash.clone(),
            (None, Some(key), None) => {
                plain = true;
                hash_checked(key, &at("key"))?
            }
            (None, None, Some(path)) => {
                let path = file.path.parent().unwrap_or(Path::new("")).join(path);
                hash_checked(&read_key_file(&path, &at("key_file"), warnings)?, &at("key_file"))?
            }
            _ => {
                let message = format!("key `{name}` needs one of sha256, key and key_file");
                let remedy = format!("`sandboxd config new-key {name}` prints a whole entry");
                return Err(file.error(offset, message, Some(remedy)));
            }
        };
        origins.note(format!("service.keys.{name}"), file.origin(offset));
        if let Some(twin) = keys.iter().find(|other: &&Key| same(other, &entry.key)) {
            return Err(file.error(offset, twins(twin, &entry.key), None));
        }
        keys.push(entry.key);
    }
    if keys.len() > KEYS_MAX {
        return Err(ConfigError::refused(format!("{} keys", keys.len()), format!("{KEYS_MAX} is the most")));
    }
    if plain {
        warnings.extend(readable_by_others(&file.path, "it holds a key in plain"));
    }
    Ok(keys)
}

/// The key called `default`, if one is given: by whichever of `key` and `key_file` stands in the higher source.
///
/// # Errors
/// Both are given in the same source, or the key is not good enough.
pub fn read_default(
    draft: &Draft,
    file: Option<&File>,
    origins: &mut Origins,
    warnings: &mut Vec<String>,
) -> Result<Option<Key>, ConfigError> {
    let by_key = origins.of("service.key").clone();
    let by_file = origins.of("service.key_file").clone();
    let given = match (&draft.key, &draft.key_file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) if by_key.rank() == by_file.rank() => {
            let problem = format!(
                "{} and {} both give a key",
                by_key.subject("service.key"),
                by_file.subject("service.key_file")
            );
            return Err(ConfigError::refused(problem, "give one of them".to_owned()));
        }
        (Some(key), None) => Ok(key),
        (None, Some(path)) => Err(path),
        (Some(key), Some(path)) => {
            if by_key.rank() > by_file.rank() {
                Ok(key)
            } else {
                Err(path)
            }
        }
    };
    let (hash, origin) = match given {
        // Their manuals begin with `dev-key-12345`: who follows them gets a warning and not a dead service.
        Ok(key) if matches!(by_key, Origin::Alias(_)) && key.len() < BYTES_MIN => {
            warnings.push(format!(
                "{by_key} holds a key of {} bytes, which can be guessed; `sandboxd config new-key {DEFAULT_NAME}` makes a \
                 good one",
                key.len()
            ));
            (hex(&digest(key)), by_key)
        }
        Ok(key) => {
            if let (Origin::File { .. }, Some(file)) = (&by_key, file) {
                warnings.extend(readable_by_others(&file.path, "it holds a key in plain"));
            }
            (hash_checked(key, &by_key.subject("service.key"))?, by_key)
        }
        Err(path) => {
            // A path in the file is meant from the file's place; one of a flag or variable from where we are.
            let base = match (&by_file, file) {
                (Origin::File { .. }, Some(file)) => file.path.parent().unwrap_or(Path::new("")),
                _ => Path::new(""),
            };
            let subject = by_file.subject("service.key_file");
            let key = read_key_file(&base.join(path), &subject, warnings)?;
            (hash_checked(&key, &subject)?, by_file)
        }
    };
    origins.note(format!("service.keys.{DEFAULT_NAME}"), origin);
    Ok(Some(Key { rate: draft.service.rate, admin: true, ..unbounded(DEFAULT_NAME, hash) }))
}

/// Adds the key called `default` to those of the file.
///
/// # Errors
/// The file has one of that name, or the same key under another.
pub fn add_default(keys: &mut Vec<Key>, key: Key, origin: &Origin) -> Result<(), ConfigError> {
    if let Some(twin) = keys.iter().find(|other| same(other, &key)) {
        let problem = format!("{}: {}", origin.subject("service.key"), twins(twin, &key));
        return Err(ConfigError::refused(problem, "leave one of them out".to_owned()));
    }
    keys.push(key);
    Ok(())
}

fn same(one: &Key, other: &Key) -> bool {
    one.name == other.name || one.sha256 == other.sha256
}

fn twins(one: &Key, other: &Key) -> String {
    match one.name == other.name {
        true => format!("two keys are called `{}`", one.name),
        false => format!("`{}` and `{}` are the same key", one.name, other.name),
    }
}

/// The hash of a key that is long enough. The key itself is in no message.
fn hash_checked(key: &str, subject: &str) -> Result<String, ConfigError> {
    if key.len() < BYTES_MIN || key.len() > BYTES_MAX {
        let problem = format!("{subject}: a key of {} bytes, not {BYTES_MIN} to {BYTES_MAX}", key.len());
        return Err(ConfigError::refused(problem, "`sandboxd config new-key NAME` makes a good one".to_owned()));
    }
    Ok(hex(&digest(key)))
}

/// The key in the file that the setting `subject` names.
fn read_key_file(path: &Path, subject: &str, warnings: &mut Vec<String>) -> Result<String, ConfigError> {
    let text = read_bounded(path, 2 * BYTES_MAX as u64).map_err(|error| match error {
        ConfigError::Read { path, source } => ConfigError::ReadFor { subject: subject.to_owned(), path, source },
        other => other,
    })?;
    let key = text.trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = format!("{subject}: {}: not one key of visible ASCII characters", path.display());
        return Err(ConfigError::refused(problem, "write the key alone into the file".to_owned()));
    }
    warnings.extend(readable_by_others(path, "it holds a key"));
    Ok(key.to_owned())
}

fn readable_by_others(path: &Path, why: &str) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0)
        .then(|| format!("everyone on this machine may read {0}, and {why}; chmod 640 {0}", path.display()))
}
