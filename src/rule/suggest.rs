//! "Did you mean": the known word that an unknown one is likely a misspelling of.

/// The word of `known` that is nearest to `word`, if one is near enough: a third of its letters may differ. Case does not count.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| distance * 3 <= candidate.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use strsim::levenshtein as distance;

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
