//! `Header("Name", "value")` and `HeaderRegexp("Name", "...")`: which header fields.

use std::cmp::Ordering;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::pattern::Pattern;
use super::predicate::Invalid;

/// A header field that a rule asks for. The name's case does not count, the value's does.
///
/// A field that is sent on several lines is taken if one line is: lines are not joined, and lists in them not split.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HeaderMatch {
    pub(crate) name: HeaderName,
    pub(crate) value: ValueMatch,
}

/// What is asked of the value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ValueMatch {
    /// Nothing: the field is there.
    Present,
    /// It is this one, byte by byte.
    Exact(HeaderValue),
    /// It matches from start to end.
    Regexp(Pattern),
}

impl HeaderMatch {
    pub(crate) fn matches(&self, headers: &HeaderMap) -> bool {
        match &self.value {
            ValueMatch::Present => headers.contains_key(&self.name),
            ValueMatch::Exact(exact) => headers.get_all(&self.name).iter().any(|value| value == exact),
            ValueMatch::Regexp(pattern) => headers.get_all(&self.name).iter().any(|value| pattern.is_match(value.as_bytes())),
        }
    }

    fn key(&self) -> (&str, &ValueMatch) {
        (self.name.as_str(), &self.value)
    }
}

impl PartialOrd for HeaderMatch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeaderMatch {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The first argument.
pub(crate) fn parse_name(text: &str) -> Result<HeaderName, Invalid> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| Invalid::new("not the name of a header field"))?;
    if name == http::header::HOST {
        // HTTP/2 has no such field, and its spelling is not normalised.
        return Err(Invalid::new("the host is not matched as a header field").help("use `Host` or `HostRegexp`"));
    }
    Ok(name)
}

/// The second argument of `Header`.
pub(crate) fn parse_value(text: &str) -> Result<HeaderValue, Invalid> {
    if text.trim_matches([' ', '\t']) != text {
        return Err(Invalid::new("a field's value never starts or ends with white space")); // RFC 9110 section 5.5
    }
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| Invalid::new("a field's value has no control characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, value: ValueMatch) -> HeaderMatch {
        HeaderMatch { name: parse_name(name).expect("valid"), value }
    }

    #[test]
    fn looks_at_each_line() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2, 3"));
        let exact = |value| field("X-A", ValueMatch::Exact(parse_value(value).expect("valid")));
        assert!(exact("1").matches(&headers));
        assert!(exact("2, 3").matches(&headers));
        assert!(!exact("3").matches(&headers));
        assert!(field("X-A", ValueMatch::Present).matches(&headers));
        assert!(!field("X-B", ValueMatch::Present).matches(&headers));
        assert!(field("X-A", ValueMatch::Regexp(Pattern::parse(r"\d").expect("valid"))).matches(&headers));
        assert!(!field("X-A", ValueMatch::Regexp(Pattern::parse("3").expect("valid"))).matches(&headers));
    }

    #[test]
    fn refuses_what_no_request_has() {
        assert!(parse_name("").is_err());
        assert!(parse_name("X A").is_err());
        assert!(parse_name("Host").is_err());
        assert!(parse_value("a\nb").is_err());
        assert!(parse_value(" a").is_err());
    }
}
