//! "Did you mean": the known word that an unknown one is likely a misspelling of.

/// The word of `known` that is nearest to `word`, if one is near enough: a third of its letters may differ. Case does not count.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| distance * 3 <= candidate.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The Levenshtein distance: how many characters to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(b.chars()) {
            let replaced = diagonal + usize::from(from != to);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("host", ""), 4);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("path", "paths"), 1);
    }

    #[test]
    fn suggests_only_what_is_near() {
        let known = ["Host", "PathPrefix", "ClientIp"];
        assert_eq!(nearest("host", known), Some("Host"));
        assert_eq!(nearest("PathPrefx", known), Some("PathPrefix"));
        assert_eq!(nearest("ClientIP", known), Some("ClientIp"));
        assert_eq!(nearest("Cookie", known), None);
        assert_eq!(nearest("", known), None);
    }
}
