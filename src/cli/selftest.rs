//! `sandboxd selftest`: the attacks, each with the layer that stopped it and the evidence.

use std::fmt::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::Context as _;

use super::SelftestArguments;
use super::run::weaknesses;
use crate::config::Config;
use crate::selftest::attack::{Attack, Control};
use crate::selftest::{self, Finding, Mark, Options, Report};

/// An attack was not stopped, or something was left over.
const EXIT_FAILED: u8 = 1;

pub fn main(config: &Config, arguments: SelftestArguments) -> anyhow::Result<ExitCode> {
    let attacks = selftest::select(&arguments.only);
    if attacks.is_empty() {
        anyhow::bail!("no attack's name contains any of {:?}: `sandboxd selftest --list` names them", arguments.only);
    }
    if arguments.list {
        super::print(&list(&attacks, arguments.json)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    #[cfg(debug_assertions)]
    let (left_out, without_namespaces) = (arguments.hooks.without_step, arguments.hooks.without_namespace);
    #[cfg(not(debug_assertions))]
    let (left_out, without_namespaces) = (Vec::new(), Vec::new());
    let options = Options { only: arguments.only, rootfs: arguments.rootfs, left_out, without_namespaces };
    // A row at a time, so that whoever waits sees what is tried.
    let width = attacks.iter().map(|attack| attack.name.len()).max().unwrap_or(0);
    let mut section = None;
    let report = selftest::run(config, &options, |finding| {
        if !arguments.json {
            let mut text = String::new();
            if section.replace(finding.attack.section) != Some(finding.attack.section) {
                let bold = Style::new().bold();
                text = format!("\n{bold}{}{bold:#}\n", finding.attack.section.title());
            }
            // A reader that is gone is told at the end.
            let _ = super::print(&(text + &row(finding, width)));
        }
    })?;
    if let Some(path) = &arguments.junit {
        std::fs::write(path, junit(&report)).with_context(|| format!("failed to write {}", path.display()))?;
    }
    let text = match arguments.json {
        true => format!("{}\n", serde_json::to_string_pretty(&json(&report))?),
        false => sum(&report),
    };
    super::print(&text)?;
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

fn list(attacks: &[&Attack], as_json: bool) -> anyhow::Result<String> {
    if as_json {
        let rows = attacks.iter().map(|attack| {
            serde_json::json!({
                "name": attack.name,
                "section": attack.section.word(),
                "rows": attack.rows,
                "title": attack.title,
                "layers": attack.layers.iter().map(|layer| layer.word()).collect::<Vec<_>>(),
                "control": control(attack),
            })
        });
        return Ok(format!("{}\n", serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?));
    }
    let mut text = String::new();
    for attack in attacks {
        let layers: Vec<_> = attack.layers.iter().map(|layer| layer.word()).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<26} {:<24} {}", attack.name, layers.join(", "), attack.title);
    }
    Ok(text)
}

/// Where an attack is shown to succeed.
fn control(attack: &Attack) -> String {
    match attack.control {
        Control::Without(layers) => format!("in a cell without {}", layers.join(", ")),
        Control::Bare(_) => "on the host".to_owned(),
        Control::Unshared(_) => "on the host, as root of new namespaces".to_owned(),
        Control::Allowed(arguments) => format!("in a cell, with arguments that are allowed: {}", arguments.join(" ")),
        Control::Roomy { flags, .. } => format!("in a cell with room: {}", flags.join(" ")),
        Control::Test(test) => format!("in the test {test}"),
    }
}

fn row(finding: &Finding, width: usize) -> String {
    let (style, mark) = match finding.mark {
        Mark::Pass => (AnsiColor::Green, "pass"),
        Mark::Fail(_) => (AnsiColor::Red, "FAIL"),
        Mark::NotApplicable(_) => (AnsiColor::Yellow, "n/a "),
    };
    let style = Style::new().bold().fg_color(Some(style.into()));
    let layer = finding.stopped_by.map_or("-", |layer| layer.word());
    let name = finding.attack.name;
    let evidence = match finding.mark {
        Mark::NotApplicable(why) => why,
        _ => &finding.evidence,
    };
    let mut text = format!("  {style}{mark}{style:#}  {name:<width$}  {layer:<12}  {evidence}\n");
    if let Mark::Fail(problems) = &finding.mark {
        let _ = writeln!(text, "        {}", finding.attack.title);
        for problem in problems {
            let _ = writeln!(text, "        {problem}");
        }
    }
    text
}

fn sum(report: &Report) -> String {
    let mut text = String::from("\n");
    for weakness in weaknesses(&report.host) {
        let _ = writeln!(text, "weaker: {weakness}");
    }
    for left in &report.left {
        let _ = writeln!(text, "left over: {left}");
    }
    let style =
        Style::new().bold().fg_color(Some(if report.is_ok() { AnsiColor::Green } else { AnsiColor::Red }.into()));
    let _ = writeln!(
        text,
        "{style}{} attacks stopped, {} not{style:#}, {} not applicable; {} attempts in image {} on Linux {} (cgroup {}, \
         landlock {}), {:.1} s",
        report.passed(),
        report.failed(),
        report.not_applicable(),
        report.attempts(),
        report.rootfs,
        report.host.kernel,
        report.host.cgroup.name(),
        report.host.landlock_abi,
        report.took.as_secs_f64()
    );
    text
}

fn json(report: &Report) -> serde_json::Value {
    let attacks = report.findings.iter().map(|finding| {
        let (result, problems) = match &finding.mark {
            Mark::Pass => ("pass", Vec::new()),
            Mark::Fail(problems) => ("fail", problems.iter().map(String::as_str).collect()),
            Mark::NotApplicable(why) => ("not_applicable", vec![*why]),
        };
        let attempts = finding.attempts.iter().map(|(name, end)| serde_json::json!({"attempt": name, "end": end}));
        serde_json::json!({
            "name": finding.attack.name,
            "section": finding.attack.section.word(),
            "rows": finding.attack.rows,
            "title": finding.attack.title,
            "result": result,
            "problems": problems,
            "layers": finding.attack.layers.iter().map(|layer| layer.word()).collect::<Vec<_>>(),
            "stopped_by": finding.stopped_by.map(|layer| layer.word()),
            "evidence": finding.evidence,
            "attempts": attempts.collect::<Vec<_>>(),
            "control": control(finding.attack),
            "wall_time_ms": finding.took.as_secs_f64() * 1e3,
        })
    });
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "host": {
            "kernel": report.host.kernel,
            "cgroup": report.host.cgroup.name(),
            "landlock_abi": report.host.landlock_abi,
            "seccomp": report.host.seccomp,
        },
        "rootfs": report.rootfs,
        "weaker": weaknesses(&report.host),
        "attacks": attacks.collect::<Vec<_>>(),
        "passed": report.passed(),
        "failed": report.failed(),
        "not_applicable": report.not_applicable(),
        "left_over": report.left,
        "wall_time_ms": report.took.as_secs_f64() * 1e3,
        "ok": report.is_ok(),
    })
}

/// The report in the format that continuous integration servers read.
fn junit(report: &Report) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        text,
        "<testsuite name=\"sandboxd selftest\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{:.3}\">",
        report.findings.len(),
        report.failed(),
        report.left.len(),
        report.not_applicable(),
        report.took.as_secs_f64()
    );
    for finding in &report.findings {
        let _ = write!(
            text,
            "  <testcase classname=\"sandboxd.selftest.{}\" name=\"{}\" time=\"{:.3}\">",
            finding.attack.section.word(),
            finding.attack.name,
            finding.took.as_secs_f64()
        );
        let _ = match &finding.mark {
            Mark::Pass => write!(text, "<system-out>{}</system-out>", escaped(&finding.evidence)),
            Mark::Fail(problems) => {
                write!(text, "<failure message=\"{}\"/>", escaped(&problems.join("; ")))
            }
            Mark::NotApplicable(why) => write!(text, "<skipped message=\"{}\"/>", escaped(why)),
        };
        text.push_str("</testcase>\n");
    }
    for left in &report.left {
        let _ = writeln!(
            text,
            "  <testcase classname=\"sandboxd.selftest\" name=\"left over\"><error message=\"{}\"/></testcase>",
            escaped(left)
        );
    }
    text.push_str("</testsuite>\n");
    text
}

/// Text for XML; characters that XML cannot hold at all are shown as Rust would write them.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.extend(c.escape_default()),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_escaped() {
        assert_eq!(escaped("a<b>&\"c\"\n\u{1b}[2J\u{0}"), "a&lt;b&gt;&amp;&quot;c&quot; \\u{1b}[2J\\u{0}");
    }
}
