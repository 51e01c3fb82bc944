//! `sandboxd check`: what this machine can enforce, and what it can't, with the remedy.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};

use super::CheckArguments;
use crate::check::{self, Findings, Layer, State};
use crate::config::Config;
use crate::words::host::Privilege;

/// Something required is missing.
const EXIT_MISSING: u8 = 1;

pub fn main(config: &Config, arguments: &CheckArguments) -> anyhow::Result<ExitCode> {
    let findings = check::look(config)?;
    let text = match arguments.json {
        true => format!("{}\n", serde_json::to_string_pretty(&json(&findings))?),
        false => text(&findings),
    };
    super::print(&text)?;
    Ok(if findings.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_MISSING) })
}

fn json(findings: &Findings) -> serde_json::Value {
    let host = &findings.host;
    let layers = findings.layers.iter().map(|layer| {
        serde_json::json!({
            "name": layer.name,
            "group": format!("{:?}", layer.group).to_lowercase(),
            "state": layer.state.word(),
            "required": layer.required,
            "detail": layer.detail,
            "remedy": layer.remedy,
        })
    });
    serde_json::json!({
        "host": {
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": host.kernel,
            "architecture": std::env::consts::ARCH,
            "cores": host.cores,
            "privilege": privilege(host.privilege),
            "cgroup": host.cgroup.name(),
            "landlock_abi": host.landlock_abi,
            "open_files_hard": host.open_files_hard,
        },
        "layers": layers.collect::<Vec<_>>(),
        "ok": findings.is_ok(),
    })
}

fn privilege(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::Root => "root",
        Privilege::Rootless => "rootless",
    }
}

fn text(findings: &Findings) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_findings(&mut text, findings);
    text
}

fn write_findings(text: &mut String, findings: &Findings) -> std::fmt::Result {
    let bold = Style::new().bold();
    let host = &findings.host;
    let who = privilege(host.privilege);
    let (version, machine) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    writeln!(text, "sandboxd {version} on Linux {} {machine}, {} cores, {who}", host.kernel, host.cores)?;
    let width = findings.layers.iter().map(|layer| layer.name.len()).max().unwrap_or(0);
    let mut group = None;
    for layer in &findings.layers {
        if group.replace(layer.group) != Some(layer.group) {
            writeln!(text, "\n{bold}{}{bold:#}", layer.group.title())?;
        }
        write_layer(text, layer, width)?;
    }
    let [enforced, weaker, missing] =
        [State::Enforced, State::Weaker, State::Missing].map(|state| findings.count(state));
    let fatal: Vec<_> = findings.layers.iter().filter(|layer| layer.is_fatal()).map(|layer| &*layer.name).collect();
    let (style, sum) = match fatal.is_empty() {
        true => (color(State::Enforced), "everything required is there".to_owned()),
        false => (color(State::Missing), format!("required and missing: {}", fatal.join(", "))),
    };
    writeln!(text, "\n{enforced} enforced, {weaker} weaker, {missing} missing; {style}{sum}{style:#}")
}

fn write_layer(text: &mut String, layer: &Layer, width: usize) -> std::fmt::Result {
    let style = color(layer.state);
    let state = match (std::io::stdout().is_terminal(), layer.state) {
        (false, state) => state.word().to_owned(),
        (true, State::Enforced) => "✓ enforced".to_owned(),
        (true, State::Weaker) => "! weaker".to_owned(),
        (true, State::Missing) => "✗ missing".to_owned(),
    };
    let state_width = if std::io::stdout().is_terminal() { 10 } else { 8 };
    let needed = if layer.is_fatal() { " (required)" } else { "" };
    writeln!(text, "  {style}{state:<state_width$}{style:#}  {:<width$}  {}{needed}", layer.name, layer.detail)?;
    if let Some(remedy) = &layer.remedy {
        writeln!(text, "  {:state_width$}  {:width$}  remedy: {remedy}", "", "")?;
    }
    Ok(())
}

fn color(state: State) -> Style {
    let color = match state {
        State::Enforced => AnsiColor::Green,
        State::Weaker => AnsiColor::Yellow,
        State::Missing => AnsiColor::Red,
    };
    Style::new().fg_color(Some(color.into()))
}
