//! `ClientCert("spiffe://example.org/web", "spiffe://example.org/db/*")`: who a peer is, by the names in the certificate that it has shown.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::host_pattern::HostPattern;
use super::predicate::Invalid;

/// The longest name, in bytes: that of a SPIFFE id.
pub const IDENTITY_BYTES_MAX: usize = 2_048;

/// Names that a certificate is looked for: a URI, all URIs below one, or DNS names.
///
/// A URI is compared as it is, but for a last segment `*`, which stands for one or more segments: `spiffe://example.org/db/*` takes
/// `spiffe://example.org/db/a/b`, and not `spiffe://example.org/db`. Anything without `://` is a DNS name, as in `Host`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityPattern {
    text: Box<str>,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Uri,
    /// `text` without its last `*`.
    Below(Box<str>),
    Dns(HostPattern),
}

impl IdentityPattern {
    /// Reads a URI or a DNS name.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        parse(text).map_err(|Invalid { message, help }| match help {
            Some(help) => format!("{message}: {help}"),
            None => message,
        })
    }

    /// Whether `name` of a certificate is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match &self.kind {
            Kind::Uri => *self.text == *name,
            Kind::Below(parent) => name.strip_prefix(&**parent).is_some_and(|rest| !rest.is_empty()),
            Kind::Dns(pattern) => !name.contains("://") && pattern.matches(name),
        }
    }
}

/// One argument.
pub(crate) fn parse(text: &str) -> Result<IdentityPattern, Invalid> {
    let kind = match text.split_once("://") {
        None => Kind::Dns(HostPattern::parse(text)?),
        Some((scheme, rest)) => parse_uri(text, scheme, rest)?,
    };
    Ok(IdentityPattern { text: text.into(), kind })
}

fn parse_uri(text: &str, scheme: &str, rest: &str) -> Result<Kind, Invalid> {
    if text.len() > IDENTITY_BYTES_MAX {
        return Err(Invalid::new(format!("the name in a certificate has at most {IDENTITY_BYTES_MAX} bytes")));
    }
    let is_in_scheme = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.');
    if scheme.is_empty() || !scheme.bytes().all(is_in_scheme) || rest.is_empty() || text.contains(char::is_whitespace) {
        return Err(Invalid::new("not the URI of a certificate").help("write `spiffe://example.org/web` or `spiffe://example.org/*`"));
    }
    let domain = rest.split('/').next().unwrap_or_default();
    if scheme == "spiffe" && (domain.is_empty() || domain.bytes().any(|byte| byte.is_ascii_uppercase())) {
        return Err(Invalid::new("a SPIFFE id starts with a trust domain in lower case").help("write `spiffe://example.org/web`"));
    }
    let parent = text.strip_suffix('*');
    if parent.unwrap_or(text).contains('*') || parent.is_some_and(|parent| !parent.ends_with('/') || parent.ends_with("//")) {
        let help = "write `spiffe://example.org/db/*`";
        return Err(Invalid::new("`*` stands only for the last segments of a URI, after a `/`").help(help));
    }
    Ok(parent.map_or(Kind::Uri, |parent| Kind::Below(parent.into())))
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for IdentityPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for IdentityPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Identities of which a peer has at least one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identities(Box<[IdentityPattern]>);

impl Identities {
    /// These, in any order.
    pub(crate) fn new(mut patterns: Vec<IdentityPattern>) -> Self {
        patterns.sort_unstable();
        patterns.dedup();
        Self(patterns.into())
    }

    pub(crate) fn matches(&self, names: &[Box<str>]) -> bool {
        names.iter().any(|name| self.0.iter().any(|pattern| pattern.matches(name)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_uri_is_compared_as_it_is_and_a_star_stands_for_what_is_below() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(IdentityPattern::new(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        };
        check("spiffe://a.org/web", "spiffe://a.org/web", true);
        check("spiffe://a.org/web", "spiffe://a.org/web/1", false);
        check("spiffe://a.org/web", "spiffe://a.org/Web", false);
        check("spiffe://a.org/*", "spiffe://a.org/web/1", true);
        check("spiffe://a.org/*", "spiffe://a.org/", false);
        check("spiffe://a.org/*", "spiffe://a.org", false);
        check("spiffe://a.org/*", "spiffe://a.org.evil/web", false);
        check("spiffe://a.org/db/*", "spiffe://a.org/dbx/1", false);
        check("https://a.org/x", "https://a.org/x", true);
        check("web.a.org", "web.a.org", true);
        check("*.a.org", "web.a.org", true);
        check("*.a.org", "spiffe://web.a.org", false);
        check("*.a.org", "a.org", false);
    }

    #[test]
    fn refuses_what_no_certificate_says() {
        for text in
            ["", "spiffe://", "spiffe://A.org/x", "spiffe:///x", "://x", "spiffe://a.org/w*", "spiffe://a.org/*/x", "spiffe://a.org//*"]
        {
            assert!(IdentityPattern::new(text).is_err(), "{text}");
        }
        assert!(IdentityPattern::new(&format!("spiffe://a.org/{}", "x".repeat(IDENTITY_BYTES_MAX))).is_err());
        assert!(IdentityPattern::new("spiffe://a.org/a b").unwrap_err().contains("write `spiffe://"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_a_name_matches_itself(text in "(spiffe://)?[a-z*/. :]{0,12}", name in "\\PC{0,12}") {
            if let Ok(pattern) = IdentityPattern::new(&text) {
                let _ = pattern.matches(&name);
                prop_assert!(text.contains('*') || text.ends_with('.') || pattern.matches(&text));
            }
        }
    }
}
