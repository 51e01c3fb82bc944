//! Version selectors as the package manager of Node knows them, in terms of the crate's own, where a bare `3.10` would
//! mean something else.

use semver::{Version, VersionReq};

/// A toolchain's version with its parts made three: `2.43` is `2.43.0`.
pub fn version(text: &str) -> Option<Version> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut parts = text[..end].split('.').map(|part| part.parse::<u64>().ok());
    let major = parts.next()??;
    let mut next = || parts.next().flatten().unwrap_or(0);
    Some(Version::new(major, next(), next()))
}

/// Whether `selector` selects `version`. What is no selector selects nothing.
pub fn matches(selector: &str, version: &Version) -> bool {
    selector.split("||").any(|range| match range.split_once(" - ") {
        Some((from, to)) => {
            comparator(&format!(">={}", from.trim()), version) && comparator(&format!("<={}", to.trim()), version)
        }
        None => glued(range).split_whitespace().all(|part| comparator(part, version)),
    })
}

/// Operators stand next to their versions, whatever space was between.
fn glued(range: &str) -> String {
    let mut text = String::new();
    for word in range.split_whitespace() {
        if !text.is_empty() && !text.ends_with(['<', '>', '=', '^', '~']) {
            text.push(' ');
        }
        text += word;
    }
    text
}

fn comparator(part: &str, version: &Version) -> bool {
    let number_at = part.find(|c: char| !"<>=^~".contains(c)).unwrap_or(part.len());
    let (operator, number) = part.split_at(number_at);
    let number = number.strip_prefix('v').unwrap_or(number);
    if matches!(number, "*" | "x" | "X") {
        return operator != "<" && operator != ">";
    }
    // Zeros in front, as some clients write them, are no semantic version.
    let operator = if operator.is_empty() { "=" } else { operator };
    let number = number.trim_end_matches(".*").trim_end_matches(".x").trim_end_matches(".X");
    VersionReq::parse(&format!("{operator}{number}")).is_ok_and(|wanted| wanted.matches(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_toolchains_become_semantic() {
        for (text, expected) in
            [("3.13.5", "3.13.5"), ("2.43", "2.43.0"), ("21", "21.0.0"), ("5.2.37(1)", "5.2.37"), ("9.2.1.3", "9.2.1")]
        {
            assert_eq!(version(text).map(|version| version.to_string()).as_deref(), Some(expected));
        }
        assert_eq!(version("none"), None);
    }

    #[test]
    fn selectors_mean_what_they_mean_to_piston() {
        let version = Version::new(3, 13, 5);
        let all = [
            "*",
            "x",
            "3",
            "3.x",
            "3.*",
            "3.13",
            "3.13.x",
            "3.13.5",
            "v3.13.5",
            "=3.13.5",
            "^3.10.0",
            "~3.13.1",
            ">=3.10",
            ">= 3.10 <4",
            ">3 || 2",
            "1.0.0 - 3.13.5",
            "2.7.1 || 3.13.5",
            "<=3.13.5",
            "3.13.x || *",
        ];
        for selector in all {
            let excluded = [">3 || 2"].contains(&selector);
            assert_eq!(matches(selector, &version), !excluded, "{selector}");
        }
        for selector in
            ["3.10", "3.13.4", "2", "^2.0.0", "~3.12.0", "<3.13.5", "4.x", "latest", "3.13.5.1", "3..", ">=4 <5"]
        {
            assert!(!matches(selector, &version), "{selector}");
        }
    }
}
