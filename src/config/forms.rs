//! What texts in settings look like: addresses, origins, names, paths.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::value::Form;
use crate::words::network::Network;
use crate::words::settings::Listen;

pub const LISTEN: Form = Form {
    expected: "an address with a port, or unix: with an absolute path",
    example: "127.0.0.1:8080",
    placeholder: "ADDRESS:PORT",
    check: |text| read_listen(text).as_ref().map(write_listen),
};

pub const NETWORK: Form = Form {
    expected: "an IP address, or a network whose address ends where its prefix does",
    example: "172.16.0.0/12",
    placeholder: "ADDRESS[/BITS]",
    check: |text| text.parse::<Network>().ok().map(|network| network.to_string()),
};

pub const HEADER: Form = Form {
    expected: "the name of a header of 1 to 64 letters, digits and `-`",
    example: "Fly-Client-IP",
    placeholder: "HEADER",
    check: |text| {
        let fits =
            (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        fits.then(|| text.to_owned())
    },
};

pub const ORIGIN: Form = Form {
    expected: "an origin (scheme, host and port without a path), or *",
    example: "https://docs.example.org",
    placeholder: "ORIGIN",
    check: read_origin,
};

pub const HOST: Form = Form {
    expected: "the name of a host without a port, or *",
    example: "sandbox.example.org",
    placeholder: "HOST",
    check: |text| {
        let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        (fits || text == "*").then(|| text.trim_end_matches('.').to_ascii_lowercase())
    },
};

pub const ENDPOINT: Form = Form {
    expected: "an http:// address with a port",
    example: "http://127.0.0.1:4317",
    placeholder: "URL",
    check: |text| {
        let (host, port) = text.strip_prefix("http://")?.trim_end_matches('/').rsplit_once(':')?;
        (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| text.trim_end_matches('/').to_owned())
    },
};

/// The front is what an attacker from the network meets first: it never runs as root.
pub const USER: Form = Form {
    expected: "the name or number of an account other than root",
    example: "sandboxd",
    placeholder: "USER",
    check: |text| {
        let name = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-$".contains(c)) && !text.starts_with('-');
        let root = text == "root" || text.parse::<u32>() == Ok(0);
        (name && !root).then(|| text.to_owned())
    },
};

pub const DIRECTORY: Form =
    Form { expected: "an absolute path", example: "/var/lib/sandboxd/state", placeholder: "DIR", check: absolute };

pub const FILE: Form =
    Form { expected: "the path of a file", example: "/etc/sandboxd/key", placeholder: "FILE", check: anything };

/// Paths of the settings that are older than the service; they may be relative.
pub const PATH: Form =
    Form { expected: "a path", example: "/var/lib/sandboxd/rootfs", placeholder: "DIR", check: anything };

pub const GROUP: Form = Form {
    expected: "the path of a group as /proc/PID/cgroup names it",
    example: "/system.slice/sandboxd.service",
    placeholder: "GROUP",
    check: anything,
};

/// Names stand in logs, metrics and messages, so nothing in them needs quoting.
pub const NAME: Form = Form {
    expected: "a name of 1 to 64 letters, digits and `._-`",
    example: "docs-site",
    placeholder: "NAME",
    check: |text| {
        let fits = text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        fits.then(|| text.to_owned())
    },
};

pub const LANGUAGE: Form =
    Form { expected: "the name of a language", example: "python", placeholder: "LANGUAGE", check: anything };

pub const DIALECT: Form = Form {
    expected: "one of native, light, codesandbox, workers, piston",
    example: "light",
    placeholder: "DIALECT",
    check: |text| DIALECTS.contains(&text).then(|| text.to_owned()),
};

const DIALECTS: [&str; 5] = ["native", "light", "codesandbox", "workers", "piston"];

pub const LAYER: Form = Form {
    expected: "one of landlock, seccomp, cgroup",
    example: "landlock",
    placeholder: "LAYER",
    check: |text| ["landlock", "seccomp", "cgroup"].contains(&text).then(|| text.to_owned()),
};

/// Any key that a header can carry; whether it is long enough is judged where keys are made.
pub const KEY: Form = Form {
    expected: "a key of visible ASCII characters without spaces",
    example: "the output of `sandboxd config new-key NAME`",
    placeholder: "KEY",
    check: |text| text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| text.to_owned()),
};

pub const SHA256: Form = Form {
    expected: "a SHA-256 in 64 hexadecimal digits",
    example: EXAMPLE_OF_HASH,
    placeholder: "HASH",
    check: |text| {
        let fits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let hash = text.to_ascii_lowercase();
        (fits && hash != HASH_OF_NOTHING).then_some(hash)
    },
};

/// No key is known to have it.
pub const EXAMPLE_OF_HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What a script computes whose variable was empty: everyone would have that key.
const HASH_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A program that takes longer to compile than this is no hint to anybody's authors.
const REGEX_BYTES_MAX: usize = 1 << 20;

pub const PATTERN: Form = Form {
    expected: "a regular expression of at most 1 KiB, whose program takes at most 1 MiB",
    example: r"\bchild_process\b",
    placeholder: "REGEX",
    check: |text| {
        let fits = text.len() <= 1024 && regex::RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build().is_ok();
        fits.then(|| text.to_owned())
    },
};

pub const MESSAGE: Form = Form {
    expected: "one line for the author",
    example: "child processes cannot be started here",
    placeholder: "TEXT",
    check: |text| (!text.contains(['\n', '\r'])).then(|| text.to_owned()),
};

/// `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` or `unix:/run/sandboxd.sock`.
pub fn read_listen(text: &str) -> Option<Listen> {
    if let Some(path) = text.strip_prefix("unix:") {
        return absolute(path).map(|path| Listen::Unix(PathBuf::from(path)));
    }
    // The one name whose meaning no resolver decides.
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse::<SocketAddr>().ok().map(Listen::Tcp)
}

pub fn write_listen(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn read_origin(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    // Browsers send no slash at the end; people write one.
    let origin = text.strip_suffix('/').unwrap_or(text);
    let (scheme, host) = origin.split_once("://")?;
    let fits = ["http", "https"].contains(&scheme)
        && !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    fits.then(|| origin.to_ascii_lowercase())
}

fn absolute(text: &str) -> Option<String> {
    anything(text).filter(|text| text.starts_with('/'))
}

/// A replacement character stands where a variable was not UTF-8: the path that was meant is not this one.
fn anything(text: &str) -> Option<String> {
    (!text.contains(['\0', '\u{fffd}'])).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_takes_its_own_example_and_refuses_what_is_like_it() {
        for (form, wrong) in [
            (LISTEN, vec!["8080", "example.org:80", "127.0.0.1", "127.0.0.1:70000", "unix:relative"]),
            (NETWORK, vec!["127.0.0.1:80", "10.0.0.1/8", "10.0.0.0/33", "example.org"]),
            (HEADER, vec!["a b", "a:", "ä"]),
            (ORIGIN, vec!["docs.example.org", "ftp://a", "https://a/path", "https://", "https://a b"]),
            (HOST, vec!["http://a", "a:80", "a/b", "*.a"]),
            (ENDPOINT, vec!["https://127.0.0.1:4317", "http://127.0.0.1", "127.0.0.1:4317"]),
            (USER, vec!["root", "0", "00", "a b", "-u"]),
            (DIRECTORY, vec!["relative", ""]),
            (NAME, vec!["a b", "ä", "a/b"]),
            (DIALECT, vec!["Light", "fly"]),
            (LAYER, vec!["namespaces"]),
            (SHA256, vec!["abc", HASH_OF_NOTHING, "g3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]),
            (PATTERN, vec!["(", "(a{1000}){1000}"]),
            (MESSAGE, vec!["two\nlines"]),
        ] {
            assert!((form.check)(form.example).is_some(), "{}", form.example);
            for text in wrong {
                let taken = !text.is_empty() && (form.check)(text).is_some();
                assert!(!taken, "{text:?} is taken as {}", form.expected);
            }
        }
        assert_eq!(read_origin("https://Docs.example.org/").as_deref(), Some("https://docs.example.org"));
        assert_eq!(read_listen("localhost:80"), read_listen("127.0.0.1:80"));
    }
}
