//! Flags of the service: one for each setting of the table that has one, with the table's words.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::config::value::Kind;
use crate::config::{ServiceFlags, table};

/// Examples below the help of `sandboxd serve`.
pub const SERVE_EXAMPLES: &str = "\
Every setting is also a line of the configuration file and a variable (`--queue-max` is SANDBOXD_QUEUE_MAX):
  sandboxd config --example > /etc/sandboxd/config.toml

Examples:
  sandboxd serve                                       # this machine only, on 127.0.0.1:8080, without a key
  sandboxd config new-key docs-site >> /etc/sandboxd/config.toml
  sandboxd serve --listen 0.0.0.0:8080                 # other machines too, now that there is a key
  sandboxd serve --listen unix:/run/sandboxd.sock      # behind a proxy on this machine
  sandboxd serve --max-concurrent 8 --greatest-wall-time 5s --rate 30/1m";

/// What the flags of the service say.
#[derive(Debug, Clone, Default)]
pub struct ServeArguments {
    flags: ServiceFlags,
}

impl ServeArguments {
    pub fn flags(&self) -> &ServiceFlags {
        &self.flags
    }
}

impl Args for ServeArguments {
    fn augment_args(command: Command) -> Command {
        let mut command = command;
        for group in table::SERVICE {
            for setting in group.settings {
                let Some(flag) = setting.flag else { continue };
                let argument = Arg::new(setting.name)
                    .long(flag)
                    .help(setting.about)
                    .help_heading(group.heading)
                    .value_name(setting.kind.placeholder())
                    .hide_short_help(!setting.common);
                command = command.arg(match setting.kind {
                    // The flag alone says true; what follows it without `=` is not its value.
                    Kind::Switch => argument
                        .num_args(0..=1)
                        .require_equals(true)
                        .default_missing_value("true")
                        .action(ArgAction::Set),
                    Kind::List(_) => argument.action(ArgAction::Append),
                    _ => argument.allow_hyphen_values(true).action(ArgAction::Set),
                });
            }
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        ServeArguments::augment_args(command)
    }
}

impl FromArgMatches for ServeArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<ServeArguments, Error> {
        let mut arguments = ServeArguments::default();
        arguments.update_from_arg_matches(matches)?;
        Ok(arguments)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for setting in table::service().filter(|setting| setting.flag.is_some()) {
            // A list may be given in one flag, with commas, or in several.
            if let Some(texts) = matches.get_many::<String>(setting.name) {
                let texts: Vec<&str> = texts.map(String::as_str).collect();
                self.flags.0.insert(setting.name, texts.join(","));
            }
        }
        Ok(())
    }
}
