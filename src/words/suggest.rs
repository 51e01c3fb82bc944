//! "Did you mean …": the nearest valid word for a wrong one.

/// The candidate nearest to `word`, when it is near enough to be a likely slip of the finger.
///
/// Distance is Damerau-Levenshtein; a third of the word's length , rounded up, may differ.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let tolerance = word.chars().count().div_ceil(3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let languages = ["python", "javascript", "typescript", "bash", "c", "cpp"];
        assert_eq!(nearest("pyhton", languages), Some("python"));
        assert_eq!(nearest("JavaScrip", languages), Some("javascript"));
        assert_eq!(nearest("cobol", languages), None);
    }
}
