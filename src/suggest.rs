//! Did you mean …? For keys, predicates, folders of a store and names of objects: whatever is written by hand.

/// The one of `known` that `found` is most likely a misspelling of: a third of its letters may be wrong. Case, and `-` for `_`, do not
/// count. None if it resembles none of them.
pub(crate) fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if found.len() > FOUND_BYTES_MAX {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let found = plain(found);
    let distances = known.into_iter().map(|name| (name, strsim::damerau_levenshtein(&found, &plain(name))));
    let (best, edits) = distances.min_by_key(|(_, edits)| *edits)?;
    (edits <= (best.len().max(found.len()) / 3).max(1)).then_some(best)
}

/// Longer texts are no misspellings of our names, and would cost time to compare.
const FOUND_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_misspellings_only() {
        let known = ["upstream", "listeners", "match", "tls", "tcp_routes", "Host", "PathPrefix", "ClientIp"];
        for (found, expected) in [
            ("uptream", Some("upstream")),
            ("Upstream", Some("upstream")),
            ("listener", Some("listeners")),
            ("mtach", Some("match")),
            ("tsl", Some("tls")),
            ("tcp-route", Some("tcp_routes")),
            ("host", Some("Host")),
            ("PathPrefx", Some("PathPrefix")),
            ("ClientIP", Some("ClientIp")),
            ("Cookie", None),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, known), expected, "{found}");
        }
        assert_eq!(nearest(&"tls".repeat(100), known), None);
    }
}
