//! The service's part of the configuration: every source laid over the one before, and what must hold of the whole.
//!
//! It is read by the service alone, so that a run at the terminal neither pays for it nor fails by it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::de::DeValue;

use super::file::{Table, join, table_of};
use super::setting::{Environment, Origin, Origins, Setting};
use super::value::Raw;
use super::{Config, ConfigError, forms, keys, policies, seeds, table};
use crate::words::profile::Profiles;
use crate::words::settings::{Listen, ServiceSettings};
use crate::words::suggest;

/// The table of the file that is the service's.
pub const TABLE: &str = "service";
const PREFIX: &str = "SANDBOXD_";
/// Variables of ours that are no settings. The last are those of our own tests.
const OTHER_VARIABLES: [&str; 4] = ["SANDBOXD_CONFIG", "SANDBOXD_LOG", "SANDBOXD_BIN", "SANDBOXD_TEST_IMAGES"];

/// The service's settings in force.
#[derive(Debug, Clone)]
pub struct Service {
    pub settings: ServiceSettings,
    /// Where each came from, those of every command included; keys and policies as `service.keys.NAME`.
    pub origins: Origins,
    /// What does not stop the service, and its operator should know.
    pub warnings: Vec<String>,
}

/// What flags say, by the names of settings; texts as they were typed.
#[derive(Debug, Clone, Default)]
pub struct ServiceFlags(pub BTreeMap<&'static str, String>);

/// The settings while they are put together.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    pub service: ServiceSettings,
    pub key: Option<String>,
    pub key_file: Option<PathBuf>,
}

impl Config {
    /// Reads the service's settings from every source: default < file < variables of the services we replace <
    /// `SANDBOXD_…` < flag.
    ///
    /// # Errors
    /// Something that is no setting or not of its kind, said where; or settings that together would be unsafe.
    pub fn service(&self, flags: &ServiceFlags) -> Result<Service, ConfigError> {
        self.service_from(flags, &Environment::of_process())
    }

    /// Likewise, with an environment of the caller's.
    ///
    /// # Errors
    /// As [`Config::service`].
    pub fn service_from(&self, flags: &ServiceFlags, environment: &Environment) -> Result<Service, ConfigError> {
        let mut draft = Draft::default();
        let mut origins = self.origins.clone();
        let mut warnings = Vec::new();
        let whole = self.file.as_ref().map(super::file::File::table).transpose()?;
        let part = match (&self.file, &whole) {
            (Some(file), Some(whole)) => match table_of(whole, TABLE) {
                Some((_, value)) if matches!(value.get_ref(), DeValue::Table(_)) => {
                    value.get_ref().as_table().map(|table| Table { file, table, name: TABLE })
                }
                Some((offset, _)) => {
                    return Err(file.error(offset, "`service` is not a table, as in [service]".to_owned(), None));
                }
                None => None,
            },
            _ => None,
        };
        if let Some(part) = &part {
            let settings: Vec<_> = table::service().collect();
            part.overlay(&settings, &["keys", "policies"], &mut draft, &mut origins)?;
        }
        for setting in table::service() {
            read_aliases(setting, &mut draft, environment, &mut origins, &mut warnings)?;
            let full = join(TABLE, setting.name);
            let ours = setting.variable();
            if let Some(text) = environment.get(&ours) {
                let origin = Origin::Environment(ours);
                setting.apply(&mut draft, &Raw::Plain(text.to_owned()), &origin, &full)?;
                origins.note(full.clone(), origin);
            }
            if let (Some(flag), Some(text)) = (setting.flag, flags.0.get(setting.name)) {
                let origin = Origin::Flag(flag);
                setting.apply(&mut draft, &Raw::Plain(text.clone()), &origin, &full)?;
                origins.note(full, origin);
            }
        }
        if let Some(part) = &part {
            draft.service.keys = keys::read(part, &mut origins, &mut warnings)?;
        }
        if let Some(key) = keys::read_default(&draft, self.file.as_ref(), &mut origins, &mut warnings)? {
            let origin = origins.of(&format!("service.keys.{}", keys::DEFAULT_NAME)).clone();
            keys::add_default(&mut draft.service.keys, key, &origin)?;
        }
        if let Some(part) = &part {
            draft.service.policies = policies::read(part, &draft.service.keys, &mut origins)?;
        }
        let mut settings = draft.service;
        check_exposure(&settings, &origins)?;
        check_times(&settings, &origins)?;
        check_proxies(&settings, &origins)?;
        if settings.code_bytes_max > settings.body_bytes_max {
            warnings.push("service.code_bytes_max is above service.body_bytes_max, which counts first".to_owned());
        }
        warnings.extend(loopback_by_port_alone(&settings, &origins));
        self.check_languages(&mut settings, &origins, &mut warnings);
        warnings.extend(unknown_variables(environment));
        Ok(Service { settings, origins, warnings })
    }

    /// Languages by their canonical names, and a warning for each that there is not.
    fn check_languages(&self, settings: &mut ServiceSettings, origins: &Origins, warnings: &mut Vec<String>) {
        if settings.keys.iter().all(|key| key.languages.is_empty()) && settings.policies.is_empty() {
            return;
        }
        let (profiles, _) = self.profiles();
        for key in &mut settings.keys {
            let origin = origins.of(&format!("service.keys.{}", key.name));
            let subject = origin.subject(&format!("key `{}`", key.name));
            for language in &mut key.languages {
                *language = canonical(language, &profiles, &subject, warnings);
            }
        }
        for policy in &mut settings.policies {
            let origin = origins.of(&format!("service.policies.{}", policy.name));
            let subject = origin.subject(&format!("policy `{}`", policy.name));
            let rules = std::mem::take(&mut policy.rules);
            for (language, mut rules) in rules {
                let name = canonical(&language, &profiles, &subject, warnings);
                policy.rules.entry(name).or_default().append(&mut rules);
            }
        }
    }
}

fn canonical(language: &str, profiles: &Profiles, subject: &str, warnings: &mut Vec<String>) -> String {
    if let Some(profile) = profiles.by_name(language) {
        return profile.name.clone();
    }
    let hint = profiles.nearest_name(language).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    warnings.push(format!("{subject}: there is no language `{language}`{hint}"));
    language.to_owned()
}

/// Variables of the services we replace: of two that say the same part, the first of the table counts.
fn read_aliases(
    setting: &Setting<Draft>,
    draft: &mut Draft,
    environment: &Environment,
    origins: &mut Origins,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let mut said: Vec<(&str, &str, &'static str)> = Vec::new();
    for alias in setting.aliases {
        let Some(text) = environment.get(alias.variable) else { continue };
        if let Some((_, first_text, first)) = said.iter().find(|(part, _, _)| *part == alias.part) {
            if *first_text != text {
                warnings.push(format!("{} is left aside: {first} is set too", alias.variable));
            }
            continue;
        }
        let value = (alias.read)(draft, text);
        if value.and_then(|value| (setting.set)(draft, value)).is_none() {
            return Err(ConfigError::Value {
                subject: alias.variable.to_owned(),
                value: if setting.secret { "…".to_owned() } else { format!("{text:?}") },
                expected: format!("{}; for example {:?}", alias.expected, alias.example),
            });
        }
        said.push((alias.part, text, alias.variable));
    }
    if !said.is_empty() {
        let variables = said.iter().map(|(_, _, variable)| *variable).collect();
        origins.note(join(TABLE, setting.name), Origin::Alias(variables));
    }
    Ok(())
}

/// Without a key only this machine is served, unless the operator says otherwise in so many words.
fn check_exposure(settings: &ServiceSettings, origins: &Origins) -> Result<(), ConfigError> {
    if !settings.keys.is_empty() || settings.open {
        return Ok(());
    }
    let exposed = settings.listen.iter().find_map(|listen| match listen {
        Listen::Tcp(address) if !address.ip().to_canonical().is_loopback() => Some(address),
        _ => None,
    });
    let Some(address) = exposed else { return Ok(()) };
    let subject = origins.of("service.listen").subject("service.listen");
    let problem = format!("{subject}: {address} can be reached from other machines, and there is no key");
    let loopback = forms::LISTEN.example;
    let remedy = format!(
        "make a key with `sandboxd config new-key NAME` (or set SANDBOXD_KEY), listen on {loopback} only, or say --open to \
         let everyone who can connect run programs"
    );
    Err(ConfigError::refused(problem, remedy))
}

/// The services we replace took `PORT` for all addresses. Here that is for `HOST` to say.
fn loopback_by_port_alone(settings: &ServiceSettings, origins: &Origins) -> Option<String> {
    let by_port = *origins.of("service.listen") == Origin::Alias(vec!["PORT"]);
    let loopback =
        |listen: &Listen| matches!(listen, Listen::Tcp(address) if address.ip().to_canonical().is_loopback());
    (by_port && !settings.keys.is_empty() && settings.listen.iter().all(loopback))
        .then(|| "only this machine is served; with HOST=0.0.0.0 beside PORT, others are too".to_owned())
}

fn check_times(settings: &ServiceSettings, origins: &Origins) -> Result<(), ConfigError> {
    match (settings.wall_time_default, settings.greatest.wall_time) {
        (Some(default), Some(greatest)) if default > greatest => {
            let default = origins.of("service.wall_time_default").subject("service.wall_time_default");
            let greatest = origins.of("service.greatest.wall_time").subject("service.greatest.wall_time");
            let remedy = "no run could have its default; lower it, or raise the ceiling".to_owned();
            Err(ConfigError::refused(format!("{default} is above {greatest}"), remedy))
        }
        _ => Ok(()),
    }
}

/// A header is believed of nobody unless somebody is named.
fn check_proxies(settings: &ServiceSettings, origins: &Origins) -> Result<(), ConfigError> {
    if settings.client_address_header.is_none() || !settings.trusted_proxies.is_empty() {
        return Ok(());
    }
    let header = origins.of("service.client_address_header").subject("service.client_address_header");
    let remedy = "name the proxies that set it in trusted_proxies; of anybody else it is never believed".to_owned();
    Err(ConfigError::refused(format!("{header} is set, and no proxy is trusted"), remedy))
}

/// A warning for each `SANDBOXD_…` that nothing reads: it is a slip of the finger, or a setting of another version.
fn unknown_variables(environment: &Environment) -> Vec<String> {
    let mut known: Vec<String> = table::service().map(Setting::variable).collect();
    known.extend(table::MACHINE.iter().map(Setting::variable));
    known.extend(OTHER_VARIABLES.map(str::to_owned));
    let unknown = environment.names().filter(|name| name.starts_with(PREFIX) && !known.iter().any(|k| k == name));
    let warning = |name: &str| {
        let rest = name.trim_start_matches(PREFIX);
        let right = match seeds::variables().find(|variable| *variable == rest) {
            Some(variable) => Some(variable.to_owned()),
            // The common prefix would make everything look near.
            None => suggest::nearest(rest, known.iter().map(|name| name.trim_start_matches(PREFIX)))
                .map(|nearest| format!("{PREFIX}{nearest}")),
        };
        let hint = right.map(|right| format!("; did you mean {right}?")).unwrap_or_default();
        format!("{name} is no setting{hint}")
    };
    unknown.map(warning).collect()
}
