//! `sandboxd config`: what is in force and why, an example file, new keys.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::serve_arguments::ServeArguments;
use super::{say_hint, say_warning};
use crate::config::{CONFIG_FILE, Config, Service, keys, print};

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Takes the flags of `sandboxd serve`, and shows what would be in force with them.\n\n\
                  Exit code: 0, or 125 when the configuration is wrong; the error says where.\n\n\
                  Examples:\n  sandboxd config\n  sandboxd config --check --config ./config.toml\n  \
                  sandboxd config --example > /etc/sandboxd/config.toml\n  \
                  sandboxd config new-key docs-site >> /etc/sandboxd/config.toml"
)]
pub struct ConfigArguments {
    /// Print as JSON
    #[arg(long, conflicts_with_all = ["check", "example"])]
    json: bool,
    /// Only say whether the configuration is right
    #[arg(long, conflicts_with = "example")]
    check: bool,
    /// Print a file that names every setting with its default
    #[arg(long)]
    example: bool,
    #[command(flatten)]
    serve: ServeArguments,
    #[command(subcommand)]
    command: Option<ConfigCommand>,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Make a key: its entry for the configuration file on stdout, the key itself, once, on stderr
    NewKey {
        /// How logs and history call its holder
        #[arg(value_name = "NAME")]
        name: String,
    },
}

pub fn main(config: &Config, arguments: &ConfigArguments) -> anyhow::Result<ExitCode> {
    if let Some(ConfigCommand::NewKey { name }) = &arguments.command {
        return new_key(config, name);
    }
    // Before anything is read that could be wrong: it helps whoever has no right file yet.
    if arguments.example {
        super::print(&print::example())?;
        return Ok(ExitCode::SUCCESS);
    }
    let service = config.service(arguments.serve.flags())?;
    if arguments.json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&print::effective_json(config, &service))?))?;
        return Ok(ExitCode::SUCCESS);
    }
    for warning in &service.warnings {
        say_warning(warning);
    }
    match arguments.check {
        true => super::print(&summary(config, &service))?,
        false => super::print(&print::effective(config, &service))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(config: &Config, service: &Service) -> String {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let file = config.file().map_or("no file".to_owned(), |path| path.display().to_string());
    format!(
        "ok: {file}, {}, {}, {}\n",
        count(service.settings.keys.len(), "key"),
        match service.settings.policies.len() {
            1 => "1 policy".to_owned(),
            number => format!("{number} policies"),
        },
        count(service.warnings.len(), "warning"),
    )
}

fn new_key(config: &Config, name: &str) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(keys::is_name(name), "{name:?} is not {}", keys::NAME_EXPECTED);
    // What is wrong elsewhere in the file does not keep anyone from a key.
    if let Ok(service) = config.service(&Default::default())
        && service.settings.keys.iter().any(|key| key.name == name)
    {
        anyhow::bail!("there is a key called `{name}` already; take another name, or remove its entry first");
    }
    let (key, hash) = keys::generate().context("failed to get random bytes")?;
    super::say(format_args!("{key}"));
    say_hint("this is the key; it is shown only now. Clients send `Authorization: Bearer KEY` or `X-API-Key: KEY`");
    let file = config.file().map_or(CONFIG_FILE.to_owned(), |path| path.display().to_string());
    say_hint(&format!("the entry belongs at the end of {file}"));
    super::print(&format!("\n[[service.keys]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n"))?;
    Ok(ExitCode::SUCCESS)
}
