//! Did you mean …?

/// The one of `known` that `found` is most likely a misspelling of. None if it resembles none of them.
#[must_use]
pub fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    if found.len() > FOUND_BYTES_MAX {
        return None;
    }
    let found = found.to_lowercase().replace('-', "_");
    let distance = |name: &str| strsim::damerau_levenshtein(&found, name);
    let (best, edits) = known.iter().map(|name| (*name, distance(name))).min_by_key(|(_, edits)| *edits)?;
    (edits <= (best.len().max(found.len()) / 3).max(1)).then_some(best)
}

/// Longer texts are no misspellings of our names, and would cost time to compare.
const FOUND_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_misspellings_only() {
        let known = ["upstream", "listeners", "match", "tls"];
        for (found, expected) in [
            ("uptream", Some("upstream")),
            ("Upstream", Some("upstream")),
            ("listener", Some("listeners")),
            ("mtach", Some("match")),
            ("tsl", Some("tls")),
            ("path", None),
            ("zzz", None),
        ] {
            assert_eq!(nearest(found, &known), expected, "{found}");
        }
    }
}
