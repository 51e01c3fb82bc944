//! What a build or a verification tells while it works: to a terminal, as plain lines, or to nobody.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub trait Progress {
    /// A step starts; the one before it has ended.
    fn step(&mut self, name: &str);
    /// What the step is at: a tool's last line, a share of bytes.
    fn detail(&mut self, line: &str);
    /// Something that stays to be read.
    fn note(&mut self, line: &str);
    /// The last step has ended.
    fn finish(&mut self);
}

/// What suits standard error: a moving line on a terminal, else one line a step.
pub fn for_stderr() -> Box<dyn Progress> {
    match std::io::stderr().is_terminal() {
        true => Box::new(Terminal::new()),
        false => Box::new(Plain::new(std::io::stderr())),
    }
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn step(&mut self, _: &str) {}
    fn detail(&mut self, _: &str) {}
    fn note(&mut self, _: &str) {}
    fn finish(&mut self) {}
}

/// A spinner with the step, its time and its detail; a finished step stays as a line with its time.
pub struct Terminal {
    bar: ProgressBar,
    step: Option<(String, Instant)>,
}

impl Terminal {
    pub fn new() -> Terminal {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed:>4} {wide_msg:.dim}");
        bar.set_style(style.expect("the template is well formed"));
        Terminal { bar, step: None }
    }

    fn end_step(&mut self) {
        if let Some((name, start)) = self.step.take() {
            self.bar.println(format!("  {name} {}", seconds(start.elapsed())));
        }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Terminal::new()
    }
}

impl Progress for Terminal {
    fn step(&mut self, name: &str) {
        self.end_step();
        self.step = Some((name.to_owned(), Instant::now()));
        self.bar.reset_elapsed();
        self.bar.set_prefix(name.to_owned());
        self.bar.set_message("");
        self.bar.enable_steady_tick(Duration::from_millis(120));
    }

    fn detail(&mut self, line: &str) {
        self.bar.set_message(printable(line));
    }

    fn note(&mut self, line: &str) {
        self.bar.println(line);
    }

    fn finish(&mut self) {
        self.end_step();
        self.bar.finish_and_clear();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// One line when a step ends; for logs.
pub struct Plain<W: Write> {
    output: W,
    step: Option<(String, Instant)>,
}

impl<W: Write> Plain<W> {
    pub fn new(output: W) -> Plain<W> {
        Plain { output, step: None }
    }

    /// A log that can't be written is no reason to stop a build.
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.output, "{line}");
    }
}

impl<W: Write> Progress for Plain<W> {
    fn step(&mut self, name: &str) {
        self.finish();
        self.step = Some((name.to_owned(), Instant::now()));
    }

    fn detail(&mut self, _: &str) {}

    fn note(&mut self, line: &str) {
        self.line(line);
    }

    fn finish(&mut self) {
        if let Some((name, start)) = self.step.take() {
            self.line(&format!("  {name} {}", seconds(start.elapsed())));
        }
    }
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

/// A tool's line comes from archives and mirrors: no escape sequence of theirs reaches the terminal.
fn printable(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).collect()
}

/// `31.4 MB`: what a reader compares sizes by.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_progress_is_a_line_a_step_and_notes_as_they_are() {
        let mut output = Vec::new();
        let mut plain = Plain::new(&mut output);
        plain.step("fetch packages");
        plain.detail("Get:1");
        plain.note("base: 20.0 MB");
        plain.step("pack");
        plain.finish();
        plain.finish();
        let text = String::from_utf8(output).unwrap();
        assert_eq!(text, "base: 20.0 MB\n  fetch packages 0.0 s\n  pack 0.0 s\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\n"), "a[2Jb");
    }
}
