//! The configuration as text: what is in force with where it came from, and the example file with every default.
//!
//! Both are TOML that this program reads. Secrets are never printed: of a key its name and the start of its hash.

use std::fmt::Write as _;

use serde_json::json;

use super::keys::KeyEntry;
use super::policies::PolicyEntry;
use super::service::{Draft, Service, TABLE};
use super::setting::{Origin, Setting};
use super::table::{self, Group};
use super::{Config, file, value};
use crate::words::settings::{Key, PatternPolicy};

/// Columns of a line before its comment.
const COMMENT_COLUMN: usize = 44;

/// Longest line of the example file, without `# ` and the like.
const LINE_COLUMNS: usize = 110;

/// What is in force, one setting a line, each with where it came from.
pub fn effective(config: &Config, service: &Service) -> String {
    let mut text = "# The settings in force. After each, where it came from.\n".to_owned();
    for setting in table::MACHINE {
        line(&mut text, &assignment(setting, config, setting.name), service.origins.of(setting.name));
    }
    text += "\n[service]\n";
    let draft = Draft { service: service.settings.clone(), ..Draft::default() };
    let mut table = "";
    // What stands in the service's own table comes before the tables within it.
    for inner in ["", "greatest", "history"] {
        for setting in table::service().filter(|setting| split(setting.name).0 == inner && shown(setting)) {
            if inner != table {
                let _ = write!(text, "\n[service.{inner}]\n");
                table = inner;
            }
            let origin = service.origins.of(&file::join(TABLE, setting.name));
            line(&mut text, &assignment(setting, &draft, split(setting.name).1), origin);
        }
    }
    for key in &service.settings.keys {
        print_key(&mut text, key, service.origins.of(&format!("service.keys.{}", key.name)));
    }
    for policy in &service.settings.policies {
        print_policy(&mut text, policy, service.origins.of(&format!("service.policies.{}", policy.name)));
    }
    text
}

/// The same for machines.
pub fn effective_json(config: &Config, service: &Service) -> serde_json::Value {
    let mut settings = serde_json::Map::new();
    for setting in table::MACHINE {
        let origin = origin_json(service.origins.of(setting.name));
        settings.insert(setting.name.to_owned(), json!({"value": setting.value(config).json(), "from": origin}));
    }
    let draft = Draft { service: service.settings.clone(), ..Draft::default() };
    for setting in table::service().filter(|setting| shown(setting)) {
        let full = file::join(TABLE, setting.name);
        let origin = origin_json(service.origins.of(&full));
        settings.insert(full, json!({"value": setting.value(&draft).json(), "from": origin}));
    }
    let keys = service.settings.keys.iter().map(|key| {
        let entry = KeyEntry::of(key.clone());
        let mut fields = serde_json::Map::new();
        for setting in table::KEY.iter().filter(|setting| !setting.secret && setting.name != "key_file") {
            fields.insert(setting.name.to_owned(), setting.value(&entry).json());
        }
        fields.insert("sha256_start".to_owned(), hash_start(key).into());
        fields.insert("from".to_owned(), origin_json(service.origins.of(&format!("service.keys.{}", key.name))));
        serde_json::Value::Object(fields)
    });
    let policies = service.settings.policies.iter().map(|policy| {
        let origin = origin_json(service.origins.of(&format!("service.policies.{}", policy.name)));
        json!({
            "name": policy.name, "dialects": policy.dialects, "keys": policy.keys, "rules": policy.rules, "from": origin,
        })
    });
    json!({
        "settings": settings,
        "keys": keys.collect::<Vec<_>>(),
        "policies": policies.collect::<Vec<_>>(),
        "warnings": service.warnings,
    })
}

/// A file that names every setting with its default, all of them commented out.
pub fn example() -> String {
    let mut text = "\
# The settings of sandboxd, each with its default: /etc/sandboxd/config.toml. Printed by `sandboxd config --example`.
#
# A line that begins with # and no space is a setting; take the # away to change it. A setting counts in rising order: its
# default, this file, the variables of services that sandboxd replaces, its own variable, its flag. `sandboxd config` prints
# what is in force and where each value came from; `sandboxd config --check` says whether this file is right.

"
    .to_owned();
    let defaults = Config::defaults(None);
    for setting in table::MACHINE {
        print_example(&mut text, setting, &defaults, setting.name);
    }
    text += "\n# The HTTP service, `sandboxd serve`.\n[service]\n";
    let draft = Draft::default();
    for inner in ["", "greatest", "history"] {
        if !inner.is_empty() {
            let _ = write!(text, "\n[service.{inner}]\n");
        }
        for Group { heading, settings } in table::SERVICE {
            let settings: Vec<_> = settings.iter().filter(|setting| split(setting.name).0 == inner).collect();
            if inner.is_empty() && !settings.is_empty() {
                let _ = write!(text, "\n# {heading}.\n\n");
            }
            for setting in settings {
                print_example(&mut text, setting, &draft, split(setting.name).1);
            }
        }
    }
    text += EXAMPLE_OF_LISTS;
    for setting in table::KEY.iter().filter(|setting| !["name", "sha256"].contains(&setting.name)) {
        let _ = writeln!(text, "# {:<20} {}", setting.name, setting.about);
    }
    text += EXAMPLE_OF_POLICIES;
    text
}

const EXAMPLE_OF_LISTS: &str = "
# Who may use the service; with no key, only this machine may. `sandboxd config new-key NAME` prints an entry. A client sends
# its key as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

#[[service.keys]]
#name = \"docs-site\"
#sha256 = \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"
#rate = \"30/1m\"
#languages = [\"python\", \"javascript\"]
#limits = { wall_time = \"5s\", memory_bytes = \"128M\" }

# A key may also say:
";

const EXAMPLE_OF_POLICIES: &str = r#"
# Source texts that match a rule are refused. This is a hint to their authors and never a boundary: what protects this
# machine is the sandbox, which no program talks its way out of by another spelling. `dialects` and `keys` say whom a policy
# applies to; without them, everyone.

#[[service.policies]]
#name = "no-processes"
#dialects = ["light", "codesandbox", "workers"]
#[[service.policies.rules.javascript]]
#name = "child_process"
#pattern = '\bchild_process\b'
#message = "child processes cannot be started here"
"#;

/// The name's table within the service's, and the key there.
fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or(("", name))
}

/// The key called `default` is printed among the keys.
fn shown(setting: &Setting<Draft>) -> bool {
    !["key", "key_file"].contains(&setting.name)
}

fn assignment<T>(setting: &Setting<T>, target: &T, key: &str) -> String {
    format!("{key} = {}", setting.value(target).toml())
}

fn line(text: &mut String, assignment: &str, origin: &Origin) {
    let _ = writeln!(text, "{assignment:<COMMENT_COLUMN$}  # {origin}");
}

fn print_key(text: &mut String, key: &Key, origin: &Origin) {
    text.push('\n');
    line(text, "[[service.keys]]", origin);
    let entry = KeyEntry::of(key.clone());
    for setting in table::KEY.iter().filter(|setting| setting.name != "key_file") {
        match setting.name {
            "sha256" => {
                let _ = writeln!(text, "# sha256 begins with {}", hash_start(key));
            }
            _ if setting.secret => {}
            name => {
                let _ = writeln!(text, "{}", assignment(setting, &entry, name));
            }
        }
    }
}

fn print_policy(text: &mut String, policy: &PatternPolicy, origin: &Origin) {
    text.push('\n');
    line(text, "[[service.policies]]", origin);
    let entry = PolicyEntry { policy: policy.clone() };
    for setting in table::POLICY {
        let _ = writeln!(text, "{}", assignment(setting, &entry, setting.name));
    }
    for (language, rules) in &policy.rules {
        for rule in rules {
            let _ = writeln!(text, "[[service.policies.rules.{}]]", value::quote(language));
            for setting in table::RULE {
                let _ = writeln!(text, "{}", assignment(setting, rule, setting.name));
            }
        }
    }
}

/// Enough to tell keys apart, and of no use to anyone else.
fn hash_start(key: &Key) -> String {
    key.sha256.chars().take(8).collect()
}

fn print_example<T>(text: &mut String, setting: &Setting<T>, defaults: &T, key: &str) {
    let mut names = vec![setting.variable()];
    names.extend(setting.aliases.iter().map(|alias| alias.variable.to_owned()));
    names.extend(setting.flag.map(|flag| format!("--{flag}")));
    let names = format!("[{}]", names.join(", "));
    let between = if setting.about.len() + names.len() > LINE_COLUMNS { "\n# " } else { " " };
    let _ = writeln!(text, "# {}.{between}{names}", setting.about);
    let _ = writeln!(text, "#{}", assignment(setting, defaults, key));
}

fn origin_json(origin: &Origin) -> serde_json::Value {
    match origin {
        Origin::Default => json!({"source": "default"}),
        Origin::File { path, line } => json!({"source": "file", "file": path, "line": line}),
        Origin::Alias(variables) => json!({"source": "environment", "variables": variables}),
        Origin::Environment(variable) => json!({"source": "environment", "variables": [variable]}),
        Origin::Flag(flag) => json!({"source": "flag", "flag": format!("--{flag}")}),
    }
}
