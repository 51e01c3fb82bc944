//! `sandboxd languages`: what can be run, in which image, at which version.

use std::process::ExitCode;

use super::{LanguagesArguments, say_warning};
use crate::config::Config;
use crate::machine::Machine;
use crate::plan::{HOST_IMAGE, Surroundings};
use crate::runner;

/// One language as it would be run now.
#[derive(serde::Serialize)]
struct Row {
    language: String,
    aliases: Vec<String>,
    extensions: Vec<String>,
    compiled: bool,
    /// The image a run would take now; its own may not be built.
    rootfs: String,
    /// `None` when the image lacks the toolchain.
    version: Option<String>,
}

pub fn main(config: &Config, arguments: &LanguagesArguments) -> anyhow::Result<ExitCode> {
    let (profiles, problems) = config.profiles();
    for problem in &problems {
        say_warning(&format!("profile left out: {problem}"));
    }
    let mut machine = Machine::look(config)?;
    let mut supervisor = machine.supervisor()?;
    let runtime = runner::event_loop()?;
    let mut rows = Vec::new();
    for profile in profiles.iter() {
        let rootfs = machine.choose_rootfs(None, Some(&profile.rootfs)).unwrap_or_else(|_| HOST_IMAGE.to_owned());
        machine.stage(&mut supervisor, &rootfs)?;
        let around = Surroundings { profiles: &profiles, host: &machine.host, rootfs: &rootfs, left_out: &[] };
        let version = runtime.block_on(machine.version(&mut supervisor, profile, &around));
        rows.push(Row {
            language: profile.name.clone(),
            aliases: profile.aliases.clone(),
            extensions: profile.extensions.clone(),
            compiled: profile.compile.is_some(),
            rootfs,
            version,
        });
    }
    for error in supervisor.close() {
        say_warning(&format!("left over: {error}"));
    }
    if arguments.json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("{:<12} {:<10} {:<12} {:<9} aliases\n", "language", "version", "image", "files");
    for row in &rows {
        let version = row.version.as_deref().unwrap_or("missing");
        // A language whose files end as another's has none of its own.
        let extension = row.extensions.first().map_or("-".to_owned(), |extension| format!(".{extension}"));
        text += &format!(
            "{:<12} {version:<10} {:<12} {:<9} {}\n",
            row.language,
            row.rootfs,
            extension,
            row.aliases.join(" ")
        );
    }
    if rows.iter().any(|row| row.version.is_none()) {
        text += "\nmissing: neither its image is built nor is the toolchain on this machine; `sandboxd rootfs build`\n";
    }
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
