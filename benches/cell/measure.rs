//! Pairs measured in turn, and the rows of the final table.

use std::time::{Duration, Instant};

/// Times of one contestant, sorted.
pub struct Times(Vec<Duration>);

impl Times {
    pub fn new(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        Times(times)
    }

    pub fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// Median, and in brackets the shortest and the longest.
    pub fn show(&self) -> String {
        let at = |index: usize| self.0.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        format!("{:.2} ms ({:.2}-{:.2})", self.median().as_secs_f64() * 1e3, at(0), at(self.0.len().saturating_sub(1)))
    }
}

/// Something to be timed.
pub struct Contestant<'a> {
    #[allow(dead_code, reason = "not every benchmark that shares this file prints it")]
    pub name: &'a str,
    /// What is not to be timed.
    pub before: Box<dyn FnMut() + 'a>,
    pub act: Box<dyn FnMut() + 'a>,
}

impl<'a> Contestant<'a> {
    pub fn new(name: &'a str, act: impl FnMut() + 'a) -> Contestant<'a> {
        Contestant { name, before: Box::new(|| {}), act: Box::new(act) }
    }
}

/// Lets every contestant act once in each round (A B C A B C …), so that whatever else the machine does meets them
/// alike. The first rounds warm caches and count for nobody.
#[allow(dead_code, reason = "not every benchmark that shares this file has the time")]
pub fn in_turn(rounds: usize, contestants: &mut [Contestant]) -> Vec<Times> {
    rounds_after((rounds / 10).max(3), rounds, contestants)
}

/// As [`in_turn`], with the rounds that count for nobody named.
pub fn rounds_after(warm_up: usize, rounds: usize, contestants: &mut [Contestant]) -> Vec<Times> {
    let mut times = vec![Vec::with_capacity(rounds); contestants.len()];
    for round in 0..rounds + warm_up {
        for (contestant, times) in contestants.iter_mut().zip(&mut times) {
            (contestant.before)();
            let began = Instant::now();
            (contestant.act)();
            if round >= warm_up {
                times.push(began.elapsed());
            }
        }
    }
    times.into_iter().map(Times::new).collect()
}

/// One line of the final table.
pub struct Row {
    pub name: String,
    pub ours: String,
    pub peer: String,
    pub ratio: Option<f64>,
    /// The most that the ratio, or what is named in `goal`, may be; with whether it is.
    pub goal: Option<(String, bool)>,
}

impl Row {
    /// Compares two times; `most` is the greatest ratio that meets the goal.
    pub fn of_times(name: &str, ours: &Times, peer: (&str, &Times), most: Option<f64>) -> Row {
        let ratio = ours.median().as_secs_f64() / peer.1.median().as_secs_f64();
        Row {
            name: name.to_owned(),
            ours: ours.show(),
            peer: format!("{}: {}", peer.0, peer.1.show()),
            ratio: Some(ratio),
            goal: most.map(|most| (format!("<= {most}"), ratio <= most)),
        }
    }

    /// Compares the medians of two rates, in a second; `least` is the smallest ratio that meets the goal.
    pub fn of_rates(name: &str, ours: Vec<f64>, peer: (&str, Vec<f64>), least: Option<f64>) -> Row {
        let median = |mut rates: Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let (ours, others) = (median(ours), median(peer.1));
        let ratio = ours / others;
        Row {
            name: name.to_owned(),
            ours: format!("{ours:.0}/s"),
            peer: format!("{}: {others:.0}/s", peer.0),
            ratio: Some(ratio),
            goal: least.map(|least| (format!(">= {least}"), ratio >= least)),
        }
    }

    /// A fact with a goal that is no ratio.
    pub fn of_fact(name: &str, ours: String, goal: &str, met: bool) -> Row {
        Row { name: name.to_owned(), ours, peer: String::new(), ratio: None, goal: Some((goal.to_owned(), met)) }
    }

    /// As a line of Markdown.
    pub fn show(&self) -> String {
        let ratio = self.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let (goal, verdict) = match &self.goal {
            Some((goal, met)) => (goal.as_str(), if *met { "met" } else { "missed" }),
            None => ("", ""),
        };
        format!("| {} | {} | {} | {ratio} | {goal} | {verdict} |", self.name, self.ours, self.peer)
    }
}
