//! Sweeps over every number of a kind, held against tables with a reason beside each entry (`tests/golden`), so that a
//! change of what payloads may reach is visible in review, and a cell that differs is found on any host.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// System calls by their own numbers.
    Calls,
    /// System calls by another architecture's numbers.
    Foreign,
    Families,
    Prctl,
    Ioctl,
}

const CALLS: &str = include_str!("../../tests/golden/seccomp-table.txt");
const FAMILIES: &str = include_str!("../../tests/golden/socket-families.txt");
const PRCTL: &str = include_str!("../../tests/golden/prctl.txt");
const IOCTL: &str = include_str!("../../tests/golden/ioctl.txt");

/// Numbers that a sweep of calls asks for.
const CALLS_MAX: u32 = 600;

/// What a sweep came to.
pub struct Swept {
    /// Numbers answered as the table says.
    pub right: usize,
    pub problems: Vec<String>,
}

impl Sweep {
    /// Holds what the program printed, `NUMBER END` a line, against the table.
    pub fn hold(self, printed: &str) -> Swept {
        let mut ends = BTreeMap::new();
        let mut problems = Vec::new();
        for line in printed.lines() {
            match line.split_once(' ').and_then(|(number, end)| Some((parse(number)?, end))) {
                Some((number, end)) => {
                    // One number twice is told with both its ends.
                    if let Some(before) = ends.insert(number, end)
                        && before != end
                    {
                        problems.push(format!("{number:#x} ended in {before} and in {end}"));
                    }
                }
                None => problems.push(format!("not an answer: {line:?}")),
            }
        }
        let right = match self {
            Sweep::Calls => hold_calls(&ends, &mut problems),
            Sweep::Foreign => hold_foreign(&ends, &mut problems),
            Sweep::Families => hold_families(&ends, &mut problems),
            Sweep::Prctl => hold_prctl(&ends, &mut problems),
            Sweep::Ioctl => hold_ioctl(&ends, &mut problems),
        };
        Swept { right, problems }
    }
}

fn parse(number: &str) -> Option<u64> {
    match number.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => number.parse().ok(),
    }
}

/// The columns of a golden table's rows.
fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect())
}

/// Every call that the policy does not allow outright, with the errno of its refusal.
fn refused_calls() -> BTreeMap<u64, (&'static str, &'static str)> {
    let mut refused = BTreeMap::new();
    for row in rows(CALLS) {
        let (Some(name), Some(verdict)) = (row.first(), row.get(1)) else { continue };
        let Ok(number) = name.parse::<syscalls::Sysno>() else { continue };
        let errno = match verdict.split_whitespace().collect::<Vec<_>>()[..] {
            ["answer", errno] => errno,
            ["deny", ..] => "EPERM",
            _ => continue,
        };
        refused.insert(number.id() as u64, (*name, errno));
    }
    refused
}

fn hold_calls(ends: &BTreeMap<u64, &str>, problems: &mut Vec<String>) -> usize {
    let refused = refused_calls();
    let known: BTreeSet<u64> =
        rows(CALLS).filter_map(|row| Some(row.first()?.parse::<syscalls::Sysno>().ok()?.id() as u64)).collect();
    let mut right = 0;
    for number in 0..=u64::from(CALLS_MAX) {
        let got = ends.get(&number).copied().unwrap_or("no answer");
        let expected = match refused.get(&number) {
            // The kernel lets these two past every filter (Linux 6.14 and 6.18) and checks by itself that they come
            // from a probe's trampoline: a signal, or ENXIO.
            Some(("uretprobe" | "uprobe", _)) if got != "ok" => continue,
            Some((name, errno)) => (*name, *errno),
            // Numbers that no table knows: as an older kernel.
            None if !known.contains(&number) => ("unknown", "ENOSYS"),
            None => continue,
        };
        if got == expected.1 {
            right += 1;
        } else {
            problems.push(format!("{} ({number}): {got} instead of {}", expected.0, expected.1));
        }
    }
    right
}

fn hold_foreign(ends: &BTreeMap<u64, &str>, problems: &mut Vec<String>) -> usize {
    let wrong = (0..=u64::from(CALLS_MAX)).filter(|number| ends.get(number) != Some(&"SIGSYS"));
    let before = problems.len();
    problems.extend(wrong.map(|number| {
        format!("number {number}: {} instead of SIGSYS", ends.get(&number).copied().unwrap_or("no answer"))
    }));
    CALLS_MAX as usize + 1 - (problems.len() - before)
}

fn hold_families(ends: &BTreeMap<u64, &str>, problems: &mut Vec<String>) -> usize {
    let refused = "EAFNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT";
    let table: BTreeMap<u64, (&str, &str)> =
        rows(FAMILIES).filter_map(|row| Some((row.first()?.parse().ok()?, (*row.get(1)?, *row.get(2)?)))).collect();
    let mut right = 0;
    for number in table.keys().chain(ends.keys()).copied().collect::<BTreeSet<u64>>() {
        let (name, expected) = table.get(&number).copied().unwrap_or(("unknown", refused));
        let got = ends.get(&number).copied().unwrap_or("no answer");
        let same = got.split(' ').count() == expected.split(' ').count()
            && got.split(' ').zip(expected.split(' ')).all(|(got, expected)| is_one_of(got, expected));
        if same {
            right += 1;
        } else {
            problems.push(format!("{name} ({number}): {got} instead of {expected}"));
        }
    }
    right
}

fn hold_prctl(ends: &BTreeMap<u64, &str>, problems: &mut Vec<String>) -> usize {
    let allowed: BTreeMap<u64, &str> = rows(PRCTL)
        .filter(|row| row.get(2) == Some(&"allow"))
        .filter_map(|row| Some((row.first()?.parse().ok()?, *row.get(1)?)))
        .collect();
    let mut right = 0;
    for (number, end) in ends {
        match (allowed.get(number), *end) {
            (Some(_), _) | (None, "EINVAL") => right += 1,
            (None, end) => problems.push(format!("option {number}: {end} instead of EINVAL")),
        }
    }
    // Where every option ended in EINVAL nothing was asked at all.
    if !ends.iter().any(|(number, end)| allowed.contains_key(number) && *end == "ok") {
        problems.push("no option that is allowed works".to_owned());
    }
    right
}

fn hold_ioctl(ends: &BTreeMap<u64, &str>, problems: &mut Vec<String>) -> usize {
    let allowed: BTreeMap<u64, &str> =
        rows(IOCTL).filter_map(|row| Some((parse(row.first()?)?, *row.get(1)?))).collect();
    for (number, end) in ends.iter().filter(|(number, _)| !allowed.contains_key(number)) {
        // A control without the filter finds them all: the first few tell as much.
        if problems.len() < 20 {
            problems.push(format!("ioctl {number:#010x}: {end}, past the filter"));
        }
    }
    for (number, name) in allowed.iter().filter(|(number, _)| ends.get(number) != Some(&"EBADF")) {
        problems.push(format!("{name} ({number:#010x}) is allowed by the table and not by the filter"));
    }
    ends.keys().filter(|number| allowed.contains_key(number)).count()
}

/// Whether `got` is among `expected`, which may name several (`EACCES|ENETUNREACH`).
pub fn is_one_of(got: &str, expected: &str) -> bool {
    expected.split('|').any(|one| one == got)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        assert!(refused_calls().len() > 100);
        assert!(rows(FAMILIES).count() == 46 && rows(FAMILIES).all(|row| row.len() == 4));
        assert!(rows(PRCTL).count() > 70 && rows(PRCTL).all(|row| row.len() == 4));
        assert!(rows(IOCTL).count() > 35 && rows(IOCTL).all(|row| row.len() == 3));
    }

    #[test]
    fn a_wrong_answer_is_found() {
        let foreign = |end: &str| (0..=600).map(|number| format!("{number} {end}\n")).collect::<String>();
        assert_eq!(Sweep::Foreign.hold(&foreign("SIGSYS")).problems, [""; 0]);
        assert_eq!(Sweep::Foreign.hold(&foreign("ok")).problems.len(), 601);
        assert_eq!(Sweep::Foreign.hold("").problems.len(), 601);
        assert!(Sweep::Calls.hold(&foreign("ok")).problems.len() > 200);
        assert!(!Sweep::Prctl.hold("22 ok\n").problems.is_empty());
        assert!(!Sweep::Families.hold("16 ok ok ok ok\n").problems.is_empty());
        assert!(Sweep::Ioctl.hold("0x00005412 EBADF\n").problems.iter().any(|problem| problem.contains("0x00005412")));
    }
}
