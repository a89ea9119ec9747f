//! `Query("key", "value")`: which parameters in the query.

use percent_encoding::percent_decode;

/// A parameter that a rule asks for. The query is read as forms write it (WHATWG URL section 5.1): pairs between `&`, `+` is a
/// space, escapes are decoded; a malformed escape stands for itself. A parameter without `=` has the empty value. Case counts.
/// One of several parameters of the same key is enough.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueryMatch {
    /// The key, decoded.
    pub(crate) key: Box<str>,
    /// The value, decoded. None: any.
    pub(crate) value: Option<Box<str>>,
}

impl QueryMatch {
    pub(crate) fn matches(&self, query: Option<&str>) -> bool {
        query.is_some_and(|query| query.split('&').filter(|pair| !pair.is_empty()).any(|pair| self.matches_pair(pair)))
    }

    fn matches_pair(&self, pair: &str) -> bool {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        decodes_to(key, &self.key) && self.value.as_ref().is_none_or(|expected| decodes_to(value, expected))
    }
}

/// Whether `text` says `expected`, once decoded. Allocates nothing.
fn decodes_to(text: &str, expected: &str) -> bool {
    let spaces = std::iter::once(None).chain(std::iter::repeat(Some(b' ')));
    let decoded = text.split('+').zip(spaces).flat_map(|(part, space)| space.into_iter().chain(percent_decode(part.as_bytes())));
    decoded.eq(expected.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, value: Option<&str>, query: &str, expected: bool) {
        let parameter = QueryMatch { key: key.into(), value: value.map(Into::into) };
        assert_eq!(parameter.matches(Some(query)), expected, "{parameter:?} in {query:?}");
    }

    #[test]
    fn finds_a_pair_anywhere() {
        check("k", Some("v"), "k=v", true);
        check("k", Some("v"), "a=b&k=x&&k=v", true);
        check("k", Some("v"), "K=v", false);
        check("k", Some("v"), "k=vv&kk=v&x=k=v", false);
        check("k", Some("a=b"), "k=a=b", true);
    }

    #[test]
    fn tells_present_from_empty() {
        check("k", None, "a&k&b", true);
        check("k", None, "k=1", true);
        check("k", None, "kk=1", false);
        check("k", Some(""), "k", true);
        check("k", Some(""), "k=", true);
        check("k", Some(""), "k=1", false);
        assert!(!QueryMatch { key: "k".into(), value: None }.matches(None));
    }

    #[test]
    fn decodes_as_forms_do() {
        check("a b", Some("c+d&é"), "a+b=c%2Bd%26%c3%A9", true);
        check("k", Some("+"), "k=+", false);
        check("k", Some(" a "), "k=+a+", true);
        check("k", Some("%zz"), "k=%zz", true);
    }
}
