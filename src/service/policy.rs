//! The pattern policy: source text that matches a rule is refused with the rule's message.
//!
//! A hint to authors, as the services before this one gave it, and never the boundary: any rule of text can be written
//! around, and the sandbox does not rely on it.

use std::collections::BTreeMap;

use regex::Regex;

use super::refusal::Refusal;
use crate::words::request::SourceFile;
use crate::words::settings::PatternPolicy;

/// All policies, compiled.
#[derive(Default)]
pub struct Policies(Vec<Policy>);

struct Policy {
    name: String,
    dialects: Vec<String>,
    keys: Vec<String>,
    rules: BTreeMap<String, Vec<Rule>>,
}

struct Rule {
    name: String,
    pattern: Regex,
    message: String,
}

/// A place in a source that a rule is about; line and column count from 1, the column in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub policy: String,
    pub rule: String,
    pub message: String,
    pub file: String,
    pub line: usize,
    pub column: usize,
}

impl Policies {
    /// # Errors
    /// A pattern that is no regular expression, by policy and rule.
    pub fn new(policies: &[PatternPolicy]) -> Result<Policies, String> {
        let compile = |policy: &PatternPolicy| {
            let mut rules = BTreeMap::new();
            for (language, own) in &policy.rules {
                let mut compiled = Vec::new();
                for rule in own {
                    let pattern = Regex::new(&rule.pattern).map_err(|error| {
                        format!(
                            "policy {}, rule {}: {:?} is no regular expression: {error}",
                            policy.name, rule.name, rule.pattern
                        )
                    })?;
                    compiled.push(Rule { name: rule.name.clone(), pattern, message: rule.message.clone() });
                }
                rules.insert(language.clone(), compiled);
            }
            Ok(Policy {
                name: policy.name.clone(),
                dialects: policy.dialects.clone(),
                keys: policy.keys.clone(),
                rules,
            })
        };
        policies.iter().map(compile).collect::<Result<_, String>>().map(Policies)
    }

    /// Every place in `files` that a policy for this dialect or key is about.
    pub fn findings(&self, dialect: &str, key: Option<&str>, language: &str, files: &[SourceFile]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for policy in self.0.iter().filter(|policy| policy.applies(dialect, key)) {
            for rule in policy.rules.get(language).into_iter().flatten() {
                for file in files {
                    let text = String::from_utf8_lossy(&file.content);
                    for (index, line) in text.lines().enumerate() {
                        let Some(found) = rule.pattern.find(line) else { continue };
                        findings.push(Finding {
                            policy: policy.name.clone(),
                            rule: rule.name.clone(),
                            message: rule.message.clone(),
                            file: file.name.clone(),
                            line: index + 1,
                            column: line[..found.start()].chars().count() + 1,
                        });
                    }
                }
            }
        }
        findings
    }

    /// # Errors
    /// The first finding.
    pub fn check(&self, dialect: &str, key: Option<&str>, language: &str, files: &[SourceFile]) -> Result<(), Refusal> {
        if self.0.is_empty() {
            return Ok(());
        }
        match self.findings(dialect, key, language, files).into_iter().next() {
            None => Ok(()),
            Some(finding) => {
                let Finding { file, line, column, rule, .. } = &finding;
                let message = format!("{} ({file}:{line}:{column}, rule {rule})", finding.message);
                Err(Refusal::bad("policy", "code", message).hint("the operator's pattern policy does not allow this"))
            }
        }
    }
}

impl Policy {
    fn applies(&self, dialect: &str, key: Option<&str>) -> bool {
        let everywhere = self.dialects.is_empty() && self.keys.is_empty();
        everywhere
            || self.dialects.iter().any(|own| own == dialect)
            || key.is_some_and(|key| self.keys.iter().any(|own| own == key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::settings::PatternRule;

    fn policies(dialects: &[&str], keys: &[&str]) -> Policies {
        let rule = PatternRule {
            name: "no-eval".to_owned(),
            pattern: r"\beval\s*\(".to_owned(),
            message: "eval() is not allowed".to_owned(),
        };
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let rules = BTreeMap::from([("javascript".to_owned(), vec![rule])]);
        Policies::new(&[PatternPolicy { name: "p".to_owned(), dialects: owned(dialects), keys: owned(keys), rules }])
            .unwrap()
    }

    fn file(text: &str) -> [SourceFile; 1] {
        [SourceFile { name: "a.js".to_owned(), content: text.into() }]
    }

    #[test]
    fn a_finding_names_its_place_and_rule() {
        let refusal = policies(&[], &[]).check("native", None, "javascript", &file("1;\n  é; eval('1')")).unwrap_err();
        assert_eq!(refusal.message, "eval() is not allowed (a.js:2:6, rule no-eval)");
    }

    #[test]
    fn a_policy_holds_for_the_dialects_and_keys_it_names() {
        let text = file("eval(1)");
        let found =
            |policies: &Policies, dialect, key, language| !policies.findings(dialect, key, language, &text).is_empty();
        let light = policies(&["light"], &["docs"]);
        assert!(found(&light, "light", None, "javascript") && found(&light, "native", Some("docs"), "javascript"));
        assert!(!found(&light, "native", None, "javascript") && !found(&light, "light", None, "python"));
        assert!(found(&policies(&[], &[]), "native", None, "javascript"));
    }
}
