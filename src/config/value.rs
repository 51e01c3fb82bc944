//! What a setting can be: its kinds, how each is read from a file or from plain text, and how it is written again.
//!
//! What [`Value::toml`] writes is what [`Kind::read`] reads: the printed configuration is a configuration.

use std::time::Duration;

use crate::words::limits::{parse_size, parse_time};
use crate::words::settings::Rate;

const SECOND: Duration = Duration::from_secs(1);
const UNITS_OF_TIME: [(u64, &str); 4] = [(24 * 3600, "d"), (3600, "h"), (60, "m"), (1, "s")];
const UNITS_OF_SIZE: [(u32, &str); 4] = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];

/// The longest list that any setting takes, and its longest text.
const ITEMS_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 4096;

/// What values a setting takes. Bounds are inclusive; those of a time are milliseconds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Switch,
    Count {
        least: u64,
        most: u64,
    },
    Size {
        least: u64,
        most: u64,
    },
    Time {
        least: u64,
        most: u64,
    },
    Rate,
    /// Its words, and how help names them.
    Word(&'static [&'static str], &'static str),
    Text(Form),
    List(Form),
}

/// What a text, or each item of a list, looks like.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// As it continues "is not …".
    pub expected: &'static str,
    pub example: &'static str,
    /// As help names the value.
    pub placeholder: &'static str,
    /// The text as it is kept, or `None` when it is not of this form.
    pub check: fn(&str) -> Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A setting that may be absent, and is.
    None,
    Switch(bool),
    Number(u64),
    Size(u64),
    Time(Duration),
    Rate(Rate),
    Text(String),
    List(Vec<String>),
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// In a variable or a flag, where everything is text.
    Plain(String),
    /// In a file, where types are told apart.
    Text(String),
    Number(u64),
    Switch(bool),
    List(Vec<String>),
    Other(String),
}

impl Kind {
    /// The value that `raw` stands for, or `None` when it is not [expected](Kind::expected).
    pub fn read(&self, raw: &Raw) -> Option<Value> {
        match (self, raw) {
            (Kind::Switch, Raw::Switch(on)) => Some(Value::Switch(*on)),
            (Kind::Switch, Raw::Plain(text)) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some(Value::Switch(true)),
                "false" | "no" | "off" | "0" => Some(Value::Switch(false)),
                _ => None,
            },
            (Kind::Count { least, most }, _) => {
                let number = match raw {
                    Raw::Number(number) => *number,
                    Raw::Plain(text) => text.parse().ok()?,
                    _ => return None,
                };
                (*least..=*most).contains(&number).then_some(Value::Number(number))
            }
            (Kind::Size { least, most }, _) => {
                let bytes = match raw {
                    Raw::Number(number) => *number,
                    Raw::Plain(text) | Raw::Text(text) => parse_size(text).ok()?,
                    _ => return None,
                };
                (*least..=*most).contains(&bytes).then_some(Value::Size(bytes))
            }
            (Kind::Time { least, most }, Raw::Plain(text) | Raw::Text(text)) => {
                let time = read_time(text)?;
                let range = Duration::from_millis(*least)..=Duration::from_millis(*most);
                range.contains(&time).then_some(Value::Time(time))
            }
            (Kind::Rate, Raw::Plain(text) | Raw::Text(text)) => read_rate(text).map(Value::Rate),
            (Kind::Word(words, _), Raw::Plain(text) | Raw::Text(text)) => {
                words.contains(&text.as_str()).then(|| Value::Text(text.clone()))
            }
            (Kind::Text(form), Raw::Plain(text) | Raw::Text(text)) => form.read(text).map(Value::Text),
            (Kind::List(form), Raw::Plain(text) | Raw::Text(text)) => form.read_all(split_list(text)),
            (Kind::List(form), Raw::List(items)) => form.read_all(items.iter().map(String::as_str)),
            _ => None,
        }
    }

    /// What would be right, as it continues "is not …".
    pub fn expected(&self) -> String {
        let count = |number: u64| number.to_string();
        let size = |bytes: u64| write_size(bytes);
        let time = |milliseconds: u64| write_time(Duration::from_millis(milliseconds));
        match self {
            Kind::Switch => "true or false".to_owned(),
            Kind::Count { least, most } => format!("a whole number from {} to {}", count(*least), count(*most)),
            Kind::Size { least, most } => format!("a size from {} to {}", size(*least), size(*most)),
            Kind::Time { least, most } => format!("a time with its unit, from {} to {}", time(*least), time(*most)),
            Kind::Rate => "a number of requests and the time they may come in".to_owned(),
            Kind::Word(words, _) => format!("one of {}", words.join(", ")),
            Kind::Text(form) => form.expected.to_owned(),
            Kind::List(form) => format!("a list of at most {ITEMS_MAX}, each {}", form.expected),
        }
    }

    /// Something right, as a variable or flag would say it.
    pub fn example(&self) -> String {
        match self {
            Kind::Switch => "true".to_owned(),
            Kind::Count { least, most } => most.min(&(least + 8)).to_string(),
            Kind::Size { most, .. } => write_size((*most).min(64 << 20)),
            Kind::Time { least, most } => write_time(Duration::from_millis((*least).max(5000).min(*most))),
            Kind::Rate => "30/1m".to_owned(),
            Kind::Word(words, _) => words.first().copied().unwrap_or_default().to_owned(),
            Kind::Text(form) | Kind::List(form) => form.example.to_owned(),
        }
    }

    /// The item of a list that is not of its form, and what would be.
    pub fn wrong_item(&self, raw: &Raw) -> Option<(String, &'static str)> {
        let (Kind::List(form), Raw::Plain(text) | Raw::Text(text)) = (self, raw) else {
            let (Kind::List(form), Raw::List(items)) = (self, raw) else { return None };
            return items.iter().find(|item| form.read(item).is_none()).map(|item| (item.clone(), form.expected));
        };
        split_list(text).find(|item| form.read(item).is_none()).map(|item| (item.to_owned(), form.expected))
    }

    /// As help names the value of the flag.
    pub fn placeholder(&self) -> &'static str {
        match self {
            Kind::Switch => "true|false",
            Kind::Count { .. } => "N",
            Kind::Size { .. } => "SIZE",
            Kind::Time { .. } => "TIME",
            Kind::Rate => "N/TIME",
            Kind::Word(_, placeholder) => placeholder,
            Kind::Text(form) | Kind::List(form) => form.placeholder,
        }
    }
}

impl Form {
    fn read(&self, text: &str) -> Option<String> {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX { None } else { (self.check)(text) }
    }

    fn read_all<'a>(&self, items: impl Iterator<Item = &'a str>) -> Option<Value> {
        let items = items.map(|item| self.read(item)).collect::<Option<Vec<_>>>()?;
        (items.len() <= ITEMS_MAX).then_some(Value::List(items))
    }
}

impl Value {
    /// As a configuration file says it.
    pub fn toml(&self) -> String {
        match self {
            Value::None => quote("none"),
            Value::Switch(on) => on.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Size(bytes) => quote(&write_size(*bytes)),
            Value::Time(time) => quote(&write_time(*time)),
            Value::Rate(rate) => quote(&write_rate(*rate)),
            Value::Text(text) => quote(text),
            Value::List(items) => format!("[{}]", items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", ")),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        match self {
            Value::None => serde_json::Value::Null,
            Value::Switch(on) => (*on).into(),
            Value::Number(number) => (*number).into(),
            Value::Size(bytes) => write_size(*bytes).into(),
            Value::Time(time) => write_time(*time).into(),
            Value::Rate(rate) => write_rate(*rate).into(),
            Value::Text(text) => text.clone().into(),
            Value::List(items) => items.clone().into(),
        }
    }
}

/// A list in one text: with commas, around which spaces do not count.
fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// A basic TOML string; what the syntax cannot hold as it is becomes an escape.
pub fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A time with a unit. A bare number would be milliseconds to one reader and seconds to another.
pub fn read_time(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Some(days) = text.strip_suffix('d') {
        return days.trim().parse::<u32>().ok().map(|days| SECOND * 86_400 * days.min(36_500));
    }
    if text.ends_with(|c: char| c.is_ascii_digit()) { None } else { parse_time(text).ok() }
}

/// In the greatest unit that says it exactly.
pub fn write_time(time: Duration) -> String {
    if time.is_zero() {
        return "0s".to_owned();
    }
    if time.subsec_nanos() != 0 {
        let microseconds = time.as_micros();
        return match microseconds % 1000 {
            0 => format!("{}ms", microseconds / 1000),
            _ => format!("{microseconds}us"),
        };
    }
    let seconds = time.as_secs();
    let (unit_seconds, unit) =
        UNITS_OF_TIME.into_iter().find(|(unit_seconds, _)| seconds.is_multiple_of(*unit_seconds)).unwrap_or((1, "s"));
    format!("{}{unit}", seconds / unit_seconds)
}

/// In the greatest unit that says it exactly.
pub fn write_size(bytes: u64) -> String {
    let unit = UNITS_OF_SIZE.into_iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    match unit {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

fn read_rate(text: &str) -> Option<Rate> {
    let (requests, per) = text.split_once('/')?;
    let requests: u32 = requests.trim().parse().ok()?;
    let per = per.trim();
    let per =
        if per.starts_with(|c: char| c.is_ascii_digit()) { read_time(per)? } else { read_time(&format!("1{per}"))? };
    checked_rate(requests, per)
}

/// A rate within what the limiter can count: 1 to 1,000,000 requests in 10 ms to 1 day.
pub fn checked_rate(requests: u32, per: Duration) -> Option<Rate> {
    let fits = (1..=1_000_000).contains(&requests) && (SECOND / 100..=SECOND * 86_400).contains(&per);
    fits.then_some(Rate { requests, per })
}

pub fn write_rate(rate: Rate) -> String {
    format!("{}/{}", rate.requests, write_time(rate.per))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_need_a_unit_and_are_written_exactly() {
        assert_eq!(read_time("30"), None);
        assert_eq!(read_time("-1s"), None);
        for (text, milliseconds) in [("30s", 30_000), ("1.5s", 1500), ("500ms", 500), ("2d", 172_800_000), ("0s", 0)] {
            assert_eq!(read_time(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        let written = |milliseconds| write_time(Duration::from_millis(milliseconds));
        assert_eq!([written(90_000), written(3_600_000), written(1500), written(0)], ["90s", "1h", "1500ms", "0s"]);
    }

    #[test]
    fn rates_are_requests_per_time() {
        let rate = |requests, seconds| Some(Rate { requests, per: SECOND * seconds });
        assert_eq!(read_rate("30/1m"), rate(30, 60));
        assert_eq!(read_rate("30/m"), rate(30, 60));
        assert_eq!(read_rate(" 5 / 10s "), rate(5, 10));
        for bad in ["30", "30/", "/1m", "0/1m", "30/0s", "30/60", "-1/1m", "1.5/1s", "9999999/1s", "1/2d"] {
            assert_eq!(read_rate(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_file_tells_types_apart_and_text_does_not() {
        let count = Kind::Count { least: 1, most: 10 };
        assert_eq!(count.read(&Raw::Plain("3".into())), Some(Value::Number(3)));
        assert_eq!(count.read(&Raw::Number(3)), Some(Value::Number(3)));
        assert_eq!(count.read(&Raw::Text("3".into())), None);
        assert_eq!(count.read(&Raw::Number(11)), None);
        assert_eq!(Kind::Switch.read(&Raw::Text("true".into())), None);
        assert_eq!(Kind::Switch.read(&Raw::Plain("Yes".into())), Some(Value::Switch(true)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number in any::<u32>(), shift in 0u32..20, per in 10u64..86_400_000) {
            let bytes = u64::from(number) << shift;
            prop_assert_eq!(parse_size(&write_size(bytes)), Ok(bytes));
            let time = Duration::from_millis(u64::from(number));
            prop_assert_eq!(read_time(&write_time(time)), Some(time));
            let rate = Rate { requests: 1 + number % 1_000_000, per: Duration::from_millis(per) };
            prop_assert_eq!(read_rate(&write_rate(rate)), Some(rate));
        }

        #[test]
        fn no_text_makes_the_readers_panic(text in "\\PC*") {
            let _ = (read_time(&text), read_rate(&text));
        }
    }
}
