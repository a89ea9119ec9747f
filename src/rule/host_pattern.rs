//! `Host("a.com", "*.b.com")` and `HostRegexp("...")`: which hosts.

use std::sync::Arc;

use super::host::{HostError, normalize_host};
use super::pattern::Pattern;
use super::predicate::Invalid;

/// Hosts that a rule takes. Compared with the host in the one spelling of [`normalize_host`], so without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HostPattern {
    /// This host.
    Exact(Arc<str>),
    /// Hosts of one **or more** labels before this suffix: `*.a.com` takes `x.a.com` and `x.y.a.com`, not `a.com`. (A wildcard
    /// certificate covers one label only, RFC 9525 section 6.3; routing one level at a time would need a rule per level.)
    /// Invariant: without `*.`, in the one spelling of hosts.
    Wildcard(Arc<str>),
    /// Hosts that match from start to end.
    Regexp(Pattern),
}

impl HostPattern {
    /// The argument of `Host`: a host, or `*.` and the end of one.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        if text == "*" {
            return Err(Invalid::new("`*` is not a host").help("a rule without `Host` takes every host"));
        }
        match text.strip_prefix("*.") {
            Some(suffix) => parse_host(suffix).map(Self::Wildcard),
            None => parse_host(text).map(Self::Exact),
        }
    }

    /// The argument of `HostRegexp`.
    pub(crate) fn parse_regexp(source: &str) -> Result<Self, Invalid> {
        Pattern::parse_ignoring_case(source).map(Self::Regexp)
    }

    /// Whether it takes `host`, which is in its one spelling.
    pub(crate) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host == &**exact,
            Self::Wildcard(suffix) => {
                host.strip_suffix(&**suffix).and_then(|rest| rest.strip_suffix('.')).is_some_and(|labels| !labels.is_empty())
            }
            Self::Regexp(pattern) => pattern.is_match(host.as_bytes()),
        }
    }

    pub(crate) fn specificity(&self) -> HostSpecificity {
        match self {
            Self::Exact(_) => HostSpecificity::Exact,
            Self::Wildcard(suffix) => HostSpecificity::Wildcard { labels: suffix.split('.').count() },
            Self::Regexp(_) => HostSpecificity::Regexp,
        }
    }
}

/// How much a rule says about the host. More is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HostSpecificity {
    /// Nothing.
    Any,
    /// A regular expression.
    Regexp,
    /// A wildcard before this many labels.
    Wildcard {
        /// Labels after the `*`.
        labels: usize,
    },
    /// One host.
    Exact,
}

fn parse_host(text: &str) -> Result<Arc<str>, Invalid> {
    if text.contains('*') {
        return Err(Invalid::new("`*` stands only for the first labels of a host: `*.a.com`").help("`HostRegexp` takes any shape of host"));
    }
    if has_port(text) {
        return Err(Invalid::new("a host in a rule has no port").help("`listeners = [...]` of the route says which ports it is served on"));
    }
    match normalize_host(text) {
        Ok(host) => Ok(host.as_ref().into()),
        Err(HostError::Character) if !text.is_ascii() => {
            Err(Invalid::new("a host is written in ASCII").help("internationalised names are sent in Punycode: `xn--...`"))
        }
        Err(error) => Err(Invalid::new(error.to_string())),
    }
}

fn has_port(text: &str) -> bool {
    match text.rsplit_once(']') {
        Some((_, port)) => port.starts_with(':'),
        None => text.contains(':'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, takes: &[&str], leaves: &[&str]) {
        let parsed = HostPattern::parse(pattern).expect("valid");
        for host in takes {
            assert!(parsed.matches(host), "{pattern} takes {host}");
        }
        for host in leaves {
            assert!(!parsed.matches(host), "{pattern} leaves {host}");
        }
    }

    #[test]
    fn exact_is_one_host() {
        check("A.com.", &["a.com"], &["b.a.com", "a.co", "", "xa.com"]);
        check("[0::1]", &["[::1]"], &["::1"]);
        check("localhost", &["localhost"], &["localhost.localdomain"]);
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_labels() {
        check("*.a.com", &["x.a.com", "x.y.a.com"], &["a.com", ".a.com", "xa.com", "a.com.b"]);
    }

    #[test]
    fn a_regexp_takes_whole_hosts_without_regard_to_case() {
        let pattern = HostPattern::parse_regexp(r"APP-\d+\.a\.com").expect("valid");
        assert!(pattern.matches("app-1.a.com"));
        assert!(!pattern.matches("app-1.a.com.evil.org"));
        assert!(!pattern.matches("x.app-1.a.com"));
    }

    #[test]
    fn more_said_is_more_specific() {
        let specificity = |text| HostPattern::parse(text).expect("valid").specificity();
        assert!(specificity("a.com") > specificity("*.b.a.com"));
        assert!(specificity("*.b.a.com") > specificity("*.a.com"));
        assert!(specificity("*.a.com") > HostPattern::parse_regexp("a").expect("valid").specificity());
    }

    #[test]
    fn refuses_what_no_request_has() {
        for (text, says) in [
            ("", "empty"),
            ("*", "not a host"),
            ("a.*.com", "first labels"),
            ("*a.com", "first labels"),
            ("a.com:80", "no port"),
            ("[::1]:80", "no port"),
            ("bücher.de", "ASCII"),
            ("a b", "character"),
            ("*.", "empty"),
        ] {
            let error = HostPattern::parse(text).expect_err(text);
            assert!(error.message.contains(says), "{text:?}: {}", error.message);
        }
    }
}
