//! Pattern policies in the configuration.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::file::{Table, table_of};
use super::setting::Origins;
use super::{ConfigError, table};
use crate::words::settings::{Key, PatternPolicy, PatternRule};
use crate::words::suggest;

/// Every source text is matched against every rule that applies to it.
const POLICIES_MAX: usize = 64;
const RULES_MAX: usize = 256;

/// One policy as the file gives it, beside its rules.
#[derive(Debug, Clone)]
pub struct PolicyEntry {
    pub policy: PatternPolicy,
}

/// Every `[[service.policies]]`.
///
/// # Errors
/// The first entry that is not whole, with its line: no name, one that another has, no rules, a rule that lacks
/// something, a key that does not exist.
pub fn read(service: &Table, keys: &[Key], origins: &mut Origins) -> Result<Vec<PatternPolicy>, ConfigError> {
    let file = service.file;
    let mut policies: Vec<PatternPolicy> = Vec::new();
    for (offset, table) in service.tables("policies")? {
        let empty =
            PatternPolicy { name: String::new(), dialects: Vec::new(), keys: Vec::new(), rules: BTreeMap::new() };
        let mut entry = PolicyEntry { policy: empty };
        let settings: Vec<_> = table::POLICY.iter().collect();
        let this = Table { file, table, name: "service.policies" };
        this.overlay(&settings, &["rules"], &mut entry, &mut Origins::default())?;
        let mut policy = entry.policy;
        let wrong = |message: String, hint: Option<String>| Err(file.error(offset, message, hint));
        if policy.name.is_empty() {
            return wrong("a policy without a name".to_owned(), Some("say name = \"…\"".to_owned()));
        }
        if policies.iter().any(|other| other.name == policy.name) {
            return wrong(format!("two policies are called `{}`", policy.name), None);
        }
        if let Some(unknown) = policy.keys.iter().find(|name| keys.iter().all(|key| key.name != **name)) {
            let nearest = suggest::nearest(unknown, keys.iter().map(|key| key.name.as_str()));
            let hint = nearest.map(|right| format!("did you mean `{right}`?"));
            return wrong(format!("policy `{}` names the key `{unknown}`, which there is not", policy.name), hint);
        }
        policy.rules = read_rules(&this)?;
        let count: usize = policy.rules.values().map(Vec::len).sum();
        if count == 0 || count > RULES_MAX {
            let hint = "write [[service.policies.rules.LANGUAGE]] with name, pattern and message".to_owned();
            return wrong(format!("policy `{}` has {count} rules, not 1 to {RULES_MAX}", policy.name), Some(hint));
        }
        origins.note(format!("service.policies.{}", policy.name), file.origin(offset));
        policies.push(policy);
        if policies.len() > POLICIES_MAX {
            return wrong(format!("more than {POLICIES_MAX} policies"), None);
        }
    }
    Ok(policies)
}

/// The rules of a policy by language.
fn read_rules(policy: &Table) -> Result<BTreeMap<String, Vec<PatternRule>>, ConfigError> {
    let file = policy.file;
    let mut rules = BTreeMap::new();
    let Some((offset, value)) = table_of(policy.table, "rules") else { return Ok(rules) };
    let DeValue::Table(languages) = value.get_ref() else {
        let message = "`rules` is not a table of languages, as in [[service.policies.rules.python]]";
        return Err(file.error(offset, message.to_owned(), None));
    };
    let name = "service.policies.rules";
    for language in languages.keys() {
        let mut of_language = Vec::new();
        for (offset, table) in (Table { file, table: languages, name }).tables(language.get_ref())? {
            let mut rule = PatternRule { name: String::new(), pattern: String::new(), message: String::new() };
            let settings: Vec<_> = table::RULE.iter().collect();
            Table { file, table, name }.overlay(&settings, &[], &mut rule, &mut Origins::default())?;
            for (field, text) in [("name", &rule.name), ("pattern", &rule.pattern), ("message", &rule.message)] {
                if text.is_empty() {
                    return Err(file.error(offset, format!("a rule without a {field}"), None));
                }
            }
            of_language.push(rule);
        }
        rules.insert(language.get_ref().clone().into_owned(), of_language);
    }
    Ok(rules)
}
