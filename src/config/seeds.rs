//! The variables of the five services we replace, in their own units. They are read for the service only: no stray
//! `PORT` changes a run at the terminal.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::service::Draft;
use super::setting::{Alias, Field as _};
use super::value::{Kind, Raw, Value, checked_rate};
use super::{forms, table};
use crate::words::settings::{Listen, Rate};

/// Both say a part of the first TCP address.
pub const LISTEN: &[Alias<Draft>] = &[
    Alias {
        variable: "HOST",
        part: "address",
        expected: "an IP address or localhost",
        example: "0.0.0.0",
        read: |draft, text| {
            let ip: IpAddr = match text {
                "localhost" => Ipv4Addr::LOCALHOST.into(),
                _ => text.parse().ok()?,
            };
            Some(listen_changed(draft, |address| address.set_ip(ip)))
        },
    },
    Alias {
        variable: "PORT",
        part: "port",
        expected: "a port",
        example: "8080",
        read: |draft, text| {
            let port: u16 = text.parse().ok()?;
            Some(listen_changed(draft, |address| address.set_port(port)))
        },
    },
];

pub const KEY: &[Alias<Draft>] = &[
    Alias {
        variable: "EXECUTOR_API_KEY",
        part: "key",
        expected: forms::KEY.expected,
        example: forms::KEY.example,
        read: |_, text| Kind::Text(forms::KEY).read(&Raw::Plain(text.to_owned())),
    },
    Alias {
        variable: "API_KEY",
        part: "key",
        expected: forms::KEY.expected,
        example: forms::KEY.example,
        read: |_, text| Kind::Text(forms::KEY).read(&Raw::Plain(text.to_owned())),
    },
];

pub const CORS_ORIGINS: &[Alias<Draft>] = &[Alias {
    variable: "FRONTEND_URL",
    part: "origins",
    expected: forms::ORIGIN.expected,
    example: "http://localhost:3000",
    read: |_, text| Kind::List(forms::ORIGIN).read(&Raw::Plain(text.to_owned())),
}];

pub const CONCURRENT_MAX: &[Alias<Draft>] = &[Alias {
    variable: "MAX_CONCURRENT_EXECUTIONS",
    part: "runs",
    expected: "a whole number from 1 to 10000",
    example: "10",
    read: |_, text| number(text).filter(|runs| (1..=10_000).contains(runs)).map(Value::Number),
}];

pub const CODE_BYTES_MAX: &[Alias<Draft>] = &[
    Alias { variable: "MAX_CODE_SIZE_BYTES", part: "size", expected: BYTES, example: "1048576", read: bytes },
    Alias { variable: "CODE_SIZE_LIMIT", part: "size", expected: BYTES, example: "51200", read: bytes },
];

pub const OUTPUT_BYTES: &[Alias<Draft>] =
    &[Alias { variable: "MAX_OUTPUT_SIZE_BYTES", part: "size", expected: BYTES, example: "10485760", read: bytes }];

pub const WALL_TIME: &[Alias<Draft>] = &[
    Alias {
        variable: "EXECUTION_TIMEOUT_MAX",
        part: "time",
        expected: "a number of seconds",
        example: "30",
        read: |_, text| time(text, 1000).map(Value::Time),
    },
    Alias {
        variable: "MAX_EXECUTION_TIME_MS",
        part: "time",
        expected: "a number of milliseconds",
        example: "10000",
        read: |_, text| time(text, 1).map(Value::Time),
    },
];

/// Each pair says one rate. A half that is not said is what is in force, else what the services' manuals give.
pub const RATE: &[Alias<Draft>] = &[
    Alias {
        variable: "RATE_LIMIT_POINTS",
        part: "requests",
        expected: REQUESTS,
        example: "10",
        read: |draft, text| rate(draft, Some(number(text)?), None),
    },
    Alias {
        variable: "RATE_LIMIT_MAX_REQUESTS",
        part: "requests",
        expected: REQUESTS,
        example: "100",
        read: |draft, text| rate(draft, Some(number(text)?), None),
    },
    Alias {
        variable: "RATE_LIMIT_DURATION",
        part: "time",
        expected: "a number of seconds from 1 to 86400",
        example: "60",
        read: |draft, text| rate(draft, None, Some(time(text, 1000)?)),
    },
    Alias {
        variable: "RATE_LIMIT_WINDOW_MS",
        part: "time",
        expected: "a number of milliseconds from 10 to 86400000",
        example: "900000",
        read: |draft, text| rate(draft, None, Some(time(text, 1)?)),
    },
];

const BYTES: &str = "a number of bytes from 1 to 1073741824";
const REQUESTS: &str = "a whole number from 1 to 1000000";

/// All of these variables, for those who look for what was meant.
pub fn variables() -> impl Iterator<Item = &'static str> {
    table::service().flat_map(|setting| setting.aliases.iter().map(|alias| alias.variable))
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn bytes(_: &Draft, text: &str) -> Option<Value> {
    number(text).filter(|bytes| (1..=1 << 30).contains(bytes)).map(Value::Size)
}

fn time(text: &str, milliseconds: u64) -> Option<Duration> {
    let time = Duration::from_millis(number(text)?.checked_mul(milliseconds)?);
    (!time.is_zero() && time <= Duration::from_secs(24 * 3600)).then_some(time)
}

fn rate(draft: &Draft, requests: Option<u64>, per: Option<Duration>) -> Option<Value> {
    let known = draft.service.rate.unwrap_or(Rate { requests: 10, per: Duration::from_secs(60) });
    let requests = requests.map_or(Some(known.requests), |requests| u32::try_from(requests).ok())?;
    checked_rate(requests, per.unwrap_or(known.per)).map(Value::Rate)
}

fn listen_changed(draft: &Draft, change: impl Fn(&mut SocketAddr)) -> Value {
    let mut listen = draft.service.listen.clone();
    let first = listen.iter_mut().find_map(|listen| match listen {
        Listen::Tcp(address) => Some(address),
        Listen::Unix(_) => None,
    });
    match first {
        Some(address) => change(address),
        None => {
            let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
            change(&mut address);
            listen.push(Listen::Tcp(address));
        }
    }
    listen.value()
}
