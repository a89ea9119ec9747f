//! `Method("GET", "HEAD")`: which methods.

use std::cmp::Ordering;

use http::Method;

use super::predicate::Invalid;

/// Methods that a rule takes. Case counts (RFC 9110 section 9.1); `GET` does not stand for `HEAD`.
///
/// Invariant: sorted by text, without repetition, so that two sets of the same methods are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MethodSet(Box<[Method]>);

impl MethodSet {
    pub(crate) fn new(mut methods: Vec<Method>) -> Self {
        methods.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        methods.dedup();
        Self(methods.into())
    }

    pub(crate) fn matches(&self, method: &Method) -> bool {
        self.0.contains(method)
    }
}

impl PartialOrd for MethodSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MethodSet {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.iter().map(Method::as_str).cmp(other.0.iter().map(Method::as_str))
    }
}

/// One argument of `Method`.
pub(crate) fn parse(text: &str) -> Result<Method, Invalid> {
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| Invalid::new("not a method: a method is a token, such as `GET`"))?;
    let upper = text.to_ascii_uppercase();
    if upper != text && KNOWN.contains(&upper.as_str()) {
        return Err(Invalid::new("case counts in methods").help(format!("did you mean `{upper}`?")));
    }
    Ok(method)
}

/// Methods that nobody means to write in lower case: RFC 9110 section 9.3 and RFC 5789.
const KNOWN: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_listed_ones() {
        let set = MethodSet::new(vec![Method::PUT, Method::GET, Method::PUT]);
        assert!(set.matches(&Method::GET));
        assert!(!set.matches(&Method::HEAD));
        assert_eq!(set, MethodSet::new(vec![Method::GET, Method::PUT]));
    }

    #[test]
    fn parses_tokens() {
        assert_eq!(parse("GET"), Ok(Method::GET));
        assert!(parse("PROPFIND").is_ok());
        assert_eq!(parse("get").expect_err("case").help.as_deref(), Some("did you mean `GET`?"));
        assert!(parse("").is_err());
        assert!(parse("G T").is_err());
    }
}
