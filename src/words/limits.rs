//! What a run may use: values with units, parsed and checked at construction.

use std::time::Duration;

use serde::Deserialize;

/// The limits of one cell, all positive and at most the profile's greatest.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// From the payload's exec until it is killed.
    pub wall_time: Duration,
    /// User and system time of every process of the cell together.
    pub cpu_time: Duration,
    /// Memory of the whole cell: processes, page cache, tmpfs, kernel objects. No swap beside it.
    pub memory_bytes: u64,
    /// Processes and threads alive at once.
    pub processes: u32,
    /// Cap on stdout and stderr together.
    pub output_bytes: u64,
    /// Cap on stdout alone.
    pub stdout_bytes: u64,
    /// Cap on stderr alone.
    pub stderr_bytes: u64,
    /// CPU bandwidth in cores: 1.5 is 150 % of one core.
    pub cpu_rate: f64,
    /// Size of each writable tmpfs (the work directory and /tmp).
    pub scratch_bytes: u64,
    /// Files and directories in each writable tmpfs.
    pub scratch_inodes: u64,
    /// Greatest size of one file (`RLIMIT_FSIZE`).
    pub file_bytes: u64,
    /// Open descriptors per process (`RLIMIT_NOFILE`).
    pub open_files: u64,
    /// Stack of the main thread (`RLIMIT_STACK`, soft and hard).
    pub stack_bytes: u64,
}

/// Some limits, as a profile's table or a request names them; what is absent is decided elsewhere.
///
/// Times are numbers of milliseconds or strings with a unit (`"2s"`, `"500ms"`, `"1m"`); sizes are bytes or strings
/// with a unit (`"64M"`, `"1GiB"`; units are powers of 1024).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsRequest {
    #[serde(deserialize_with = "de::time")]
    pub wall_time: Option<Duration>,
    #[serde(deserialize_with = "de::time")]
    pub cpu_time: Option<Duration>,
    #[serde(deserialize_with = "de::size")]
    pub memory_bytes: Option<u64>,
    pub processes: Option<u32>,
    #[serde(deserialize_with = "de::size")]
    pub output_bytes: Option<u64>,
    #[serde(deserialize_with = "de::size")]
    pub stdout_bytes: Option<u64>,
    #[serde(deserialize_with = "de::size")]
    pub stderr_bytes: Option<u64>,
    pub cpu_rate: Option<f64>,
    #[serde(deserialize_with = "de::size")]
    pub scratch_bytes: Option<u64>,
    pub scratch_inodes: Option<u64>,
    #[serde(deserialize_with = "de::size")]
    pub file_bytes: Option<u64>,
    pub open_files: Option<u64>,
    #[serde(deserialize_with = "de::size")]
    pub stack_bytes: Option<u64>,
}

/// A limit that cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("limit {name} must be greater than zero (0 does not mean unlimited)")]
    Zero { name: &'static str },
    #[error("limit {name} is not a number")]
    NotANumber { name: &'static str },
    #[error("limit {name} = {asked} is above the ceiling of {ceiling} for {profile}")]
    AboveCeiling { name: &'static str, asked: String, ceiling: String, profile: String },
    #[error("limit {name} = {asked} is below {least}, the least that starts a program at all")]
    TooSmall { name: &'static str, asked: String, least: String },
}

impl LimitError {
    /// What the caller can do about it.
    pub fn hint(&self) -> String {
        match self {
            LimitError::Zero { name } => format!("leave {name} out for its default, or name a positive value"),
            LimitError::NotANumber { name } => format!("write {name} as a number such as 0.5"),
            LimitError::AboveCeiling { name, ceiling, .. } => {
                format!("ask for {ceiling} or less; a profile's [greatest] table raises the ceiling of {name}")
            }
            LimitError::TooSmall { least, .. } => format!("ask for {least} or more"),
        }
    }
}

/// The service's own defaults, where a profile says nothing. A profile's `greatest` table starts from
/// [`Limits::greatest`] in the same way.
impl Default for Limits {
    fn default() -> Limits {
        Limits {
            wall_time: Duration::from_secs(10),
            cpu_time: Duration::from_secs(10),
            memory_bytes: 256 << 20,
            processes: 64,
            output_bytes: 1 << 20,
            stdout_bytes: 1 << 20,
            stderr_bytes: 1 << 20,
            cpu_rate: 1.0,
            scratch_bytes: 64 << 20,
            scratch_inodes: 4096,
            file_bytes: 64 << 20,
            open_files: 256,
            stack_bytes: 64 << 20,
        }
    }
}

impl Limits {
    /// The ceilings of a profile that names none.
    pub fn greatest() -> Limits {
        Limits {
            wall_time: Duration::from_secs(60),
            cpu_time: Duration::from_secs(60),
            memory_bytes: 2 << 30,
            processes: 512,
            output_bytes: 64 << 20,
            stdout_bytes: 64 << 20,
            stderr_bytes: 64 << 20,
            cpu_rate: 16.0,
            scratch_bytes: 1 << 30,
            scratch_inodes: 1 << 18,
            file_bytes: 1 << 30,
            open_files: 4096,
            stack_bytes: 1 << 30,
        }
    }

    /// These limits with those that `request` names put in their place. Nothing is checked.
    ///
    /// A total `output_bytes` without caps of their own for the streams is each stream's cap too.
    pub fn overlay(mut self, request: &LimitsRequest) -> Limits {
        macro_rules! take { ($($field:ident),*) => { $( if let Some(value) = request.$field { self.$field = value; } )* } }
        if let Some(output_bytes) = request.output_bytes {
            self.stdout_bytes = output_bytes;
            self.stderr_bytes = output_bytes;
        }
        take!(wall_time, cpu_time, memory_bytes, processes, output_bytes, stdout_bytes, stderr_bytes, cpu_rate);
        take!(scratch_bytes, scratch_inodes, file_bytes, open_files, stack_bytes);
        self
    }

    /// Checks every limit against zero, the least useful value and `greatest`, the ceilings of `profile`.
    ///
    /// # Errors
    /// The first limit that is out of range, by name.
    pub fn check(self, greatest: &Limits, profile: &str) -> Result<Limits, LimitError> {
        let times = [("wall_time", self.wall_time, greatest.wall_time), ("cpu_time", self.cpu_time, greatest.cpu_time)];
        for (name, asked, ceiling) in times {
            if asked.is_zero() {
                return Err(LimitError::Zero { name });
            }
            if asked > ceiling {
                return Err(above(name, format_time(asked), format_time(ceiling), profile));
            }
        }
        // A cell whose runtime cannot even be mapped dies before the first instruction of the program: 4 MiB is what
        // init, page tables and `true` need with a margin (measured: 1.6 MiB peak).
        let sizes = [
            ("memory_bytes", self.memory_bytes, 4 << 20, greatest.memory_bytes),
            ("output_bytes", self.output_bytes, 1, greatest.output_bytes),
            ("stdout_bytes", self.stdout_bytes, 1, greatest.stdout_bytes),
            ("stderr_bytes", self.stderr_bytes, 1, greatest.stderr_bytes),
            ("scratch_bytes", self.scratch_bytes, 4096, greatest.scratch_bytes),
            ("file_bytes", self.file_bytes, 1, greatest.file_bytes),
            ("stack_bytes", self.stack_bytes, 256 << 10, greatest.stack_bytes),
        ];
        for (name, asked, least, ceiling) in sizes {
            check_number(name, asked, least, ceiling, profile, format_size)?;
        }
        let counts = [
            ("processes", u64::from(self.processes), 1, u64::from(greatest.processes)),
            ("scratch_inodes", self.scratch_inodes, 16, greatest.scratch_inodes),
            ("open_files", self.open_files, 8, greatest.open_files),
        ];
        for (name, asked, least, ceiling) in counts {
            check_number(name, asked, least, ceiling, profile, |count| count.to_string())?;
        }
        if !self.cpu_rate.is_finite() {
            return Err(LimitError::NotANumber { name: "cpu_rate" });
        }
        if self.cpu_rate <= 0.0 {
            return Err(LimitError::Zero { name: "cpu_rate" });
        }
        // The kernel's least quota is 1 ms in a period of 100 ms.
        if self.cpu_rate < 0.01 {
            return Err(LimitError::TooSmall {
                name: "cpu_rate",
                asked: self.cpu_rate.to_string(),
                least: "0.01".to_owned(),
            });
        }
        if self.cpu_rate > greatest.cpu_rate {
            return Err(above("cpu_rate", self.cpu_rate.to_string(), greatest.cpu_rate.to_string(), profile));
        }
        Ok(self)
    }
}

fn above(name: &'static str, asked: String, ceiling: String, profile: &str) -> LimitError {
    LimitError::AboveCeiling { name, asked, ceiling, profile: profile.to_owned() }
}

fn check_number(
    name: &'static str,
    asked: u64,
    least: u64,
    ceiling: u64,
    profile: &str,
    show: impl Fn(u64) -> String,
) -> Result<(), LimitError> {
    match asked {
        0 => Err(LimitError::Zero { name }),
        asked if asked < least => Err(LimitError::TooSmall { name, asked: show(asked), least: show(least) }),
        asked if asked > ceiling => Err(above(name, show(asked), show(ceiling), profile)),
        _ => Ok(()),
    }
}

/// Parses a time: `2s`, `500ms`, `1.5s`, `1m`; a bare number is milliseconds.
///
/// # Errors
/// A sentence that says what was wrong: sign, unit, not a number, too large for any clock.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text)?;
    let milliseconds = match unit.to_ascii_lowercase().as_str() {
        "" | "ms" => number,
        "us" => number / 1e3,
        "s" => number * 1e3,
        "m" | "min" => number * 6e4,
        "h" => number * 3.6e6,
        _ => return Err(format!("`{text}`: unknown unit `{unit}`; use ms, s, m or h, as in `500ms` or `2s`")),
    };
    Duration::try_from_secs_f64(milliseconds / 1e3).map_err(|_| format!("`{text}` is longer than any clock can count"))
}

/// Parses a count: a whole number.
///
/// # Errors
/// A sentence that says what was wrong.
pub fn parse_count(text: &str) -> Result<u32, String> {
    match split_unit(text)? {
        (number, "") if number.fract() != 0.0 => Err(format!("`{text}` is not a whole number")),
        (number, "") if number > f64::from(u32::MAX) => Err(format!("`{text}` is more than any machine can run")),
        (number, "") => Ok(number as u32),
        (_, unit) => Err(format!("`{text}`: a count has no unit `{unit}`")),
    }
}

/// Parses a size: `64M`, `1GiB`, `512K`, `100B`; a bare number is bytes; units are powers of 1024.
///
/// # Errors
/// A sentence that says what was wrong.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text)?;
    let unit_bytes: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(format!("`{text}`: unknown unit `{unit}`; use B, K, M or G, as in `64M`")),
    };
    let bytes = number * unit_bytes as f64;
    if bytes >= u64::MAX as f64 {
        return Err(format!("`{text}` is larger than any memory"));
    }
    Ok(bytes as u64)
}

fn split_unit(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    if text.starts_with('-') {
        return Err(format!("`{text}` is negative"));
    }
    let number: f64 = digits.parse().map_err(|_| format!("`{text}` is not a number with an optional unit"))?;
    if !number.is_finite() {
        return Err(format!("`{text}` is too large"));
    }
    Ok((number, unit.trim()))
}

/// `1.5s`, `500ms`, `12.3ms`: the way [`parse_time`] reads it, rounded to what a person looks at.
pub fn format_time(time: Duration) -> String {
    let (value, unit) =
        if time.as_millis() >= 1000 { (time.as_secs_f64(), "s") } else { (time.as_secs_f64() * 1e3, "ms") };
    let text = format!("{value:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `64M`, `1.5G`, `100B`: the way [`parse_size`] reads it.
pub fn format_size(bytes: u64) -> String {
    for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")] {
        if bytes >= 1 << shift {
            let value = bytes as f64 / (1u64 << shift) as f64;
            return if value.fract() == 0.0 { format!("{value}{unit}") } else { format!("{value:.1}{unit}") };
        }
    }
    format!("{bytes}B")
}

mod de {
    use super::*;
    use serde::{Deserializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumberOrText {
        Number(u64),
        Text(String),
    }

    pub fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        match NumberOrText::deserialize(deserializer)
            .map_err(|_| D::Error::custom("expected a time such as \"2s\" or 500 (milliseconds)"))?
        {
            NumberOrText::Number(milliseconds) => Ok(Some(Duration::from_millis(milliseconds))),
            NumberOrText::Text(text) => parse_time(&text).map(Some).map_err(D::Error::custom),
        }
    }

    pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        match NumberOrText::deserialize(deserializer)
            .map_err(|_| D::Error::custom("expected a size such as \"64M\" or 65536 (bytes)"))?
        {
            NumberOrText::Number(bytes) => Ok(Some(bytes)),
            NumberOrText::Text(text) => parse_size(&text).map(Some).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_and_sizes_are_read_with_their_units() {
        assert_eq!(parse_time("500"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("1 GiB"), Ok(1 << 30));
        for bad in ["-1", "NaN", "inf", "1e308", "", "s", "5 parsecs", "-0"] {
            assert!(parse_time(bad).is_err(), "{bad}");
            assert!(parse_size(bad).is_err(), "{bad}");
            assert!(parse_count(bad).is_err(), "{bad}");
        }
        assert!(parse_size("99999999999999999999").is_err());
        assert!(parse_time("99999999999999999999999h").is_err());
    }

    #[test]
    fn times_are_shown_short() {
        let shown = |microseconds| format_time(Duration::from_micros(microseconds));
        assert_eq!(
            [shown(305_792), shown(10_000_000), shown(1_009_456), shown(500_000)],
            ["305.79ms", "10s", "1.01s", "500ms"]
        );
    }

    #[test]
    fn zero_and_values_above_the_ceiling_are_refused_by_name() {
        let greatest = Limits::greatest();
        let asked = |request: LimitsRequest| Limits::default().overlay(&request).check(&greatest, "python");
        let zero = asked(LimitsRequest { wall_time: Some(Duration::ZERO), ..Default::default() });
        assert_eq!(zero, Err(LimitError::Zero { name: "wall_time" }));
        let huge = asked(LimitsRequest { memory_bytes: Some(u64::MAX), ..Default::default() }).unwrap_err();
        assert!(huge.to_string().contains("memory_bytes") && huge.to_string().contains("2G"), "{huge}");
        assert!(asked(LimitsRequest { cpu_rate: Some(f64::NAN), ..Default::default() }).is_err());
        assert!(asked(LimitsRequest { cpu_rate: Some(-1.0), ..Default::default() }).is_err());
        assert!(asked(LimitsRequest::default()).is_ok());
    }

    #[test]
    fn a_total_output_cap_bounds_each_stream_too() {
        let limits = Limits::default().overlay(&LimitsRequest { output_bytes: Some(10), ..Default::default() });
        assert_eq!((limits.stdout_bytes, limits.stderr_bytes), (10, 10));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC*") {
            let _ = (parse_time(&text), parse_size(&text));
        }

        #[test]
        fn what_is_formatted_is_read_back(bytes in 0u64..1024, shift in 0u32..3) {
            let size = bytes << (10 * shift);
            prop_assert_eq!(parse_size(&format_size(size)), Ok(size));
        }
    }
}
