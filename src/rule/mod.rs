//! The match language: which requests a route takes.
//!
//! ```text
//! Host("a.com") && PathPrefix("/v1") && !Header("X-Debug", "1") || Method("PUT")
//! ```
//!
//! `!` binds tighter than `&&`, that tighter than `||`; parentheses group. Strings stand in double quotes (`\"` and `\\` are the
//! escapes), or in backquotes, where every character is itself.
//!
//! | predicate | takes requests |
//! |---|---|
//! | `Host("a.com", "*.b.com", ...)` | for one of these hosts; `*.` stands for one or more labels |
//! | `HostRegexp("...")` | whose whole host matches, without regard to case |
//! | `Path("/a", ...)` | for one of these paths; a slash at the end counts |
//! | `PathPrefix("/v1", ...)` | for one of these paths or below, by whole segments: not `/v10`. `/v1/` is the same prefix; `/` is everything |
//! | `PathRegexp("...")` | whose whole path matches |
//! | `Method("GET", ...)` | with one of these methods; `GET` does not stand for `HEAD` |
//! | `Header("Name")`, `Header("Name", "value")` | with a line of this header field, of exactly this value |
//! | `HeaderRegexp("Name", "...")` | with a line of this header field whose whole value matches |
//! | `Query("key")`, `Query("key", "value")` | with this parameter in the query, decoded |
//! | `ClientIp("10.0.0.0/8", ...)` | of clients in one of these networks |
//! | `ClientCert("spiffe://a.com/web", ...)` | of clients whose verified certificate has one of these names; a last `/*` stands for all below |
//!
//! Hosts and paths are compared in one spelling ([`normalize_host`], [`path::normalize`]), rules and requests alike. Regular
//! expressions (syntax of the regex crate) match the **whole** value, as if between `^` and `$`.
//!
//! Which of several rules that take a request gets it: the first difference decides, among
//! higher `priority`; one host, wildcard of more labels, of fewer, regular expression, any host;
//! one path, longer prefix, shorter one, regular expression, any path; more further predicates; name of the route. Alternatives
//! (`||`, several arguments) are compared each on its own.
//!
//! Rules about connections ([`ConnectionRule`]) have predicates of their own, and all else in common.
//!
//! No socket, no clock: a rule is a pure function of a [`RequestView`].
//!
//! ```text
//! text ─► parse ─► Expr (what a rule means) ─► normal: alternatives of host, path, further predicates ─► precedence, routing::index
//! ```

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, Method};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod alpn;
mod bytes;
mod client_ip;
mod connection;
mod expr;
mod header;
pub mod host;
mod host_pattern;
mod identity;
mod method;
mod normal;
mod parse;
pub mod path;
mod path_pattern;
mod pattern;
mod precedence;
mod predicate;
mod query;
#[cfg(test)]
pub(crate) mod samples;

pub use connection::{ConnectionRule, ConnectionView};
use expr::Expr;
pub use host::{HostError, normalize_host};
pub(crate) use host_pattern::HostPattern;
pub use identity::{IDENTITY_BYTES_MAX, IdentityPattern};
pub(crate) use normal::{Alternative, Literal};
pub use path::PathError;
pub(crate) use path_pattern::PathPattern;
pub(crate) use pattern::Pattern;
pub(crate) use precedence::Precedence;

/// What a rule may look at of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The host asked for: lower case, without port and without a final dot.
    pub host: &'a str,
    /// The path, normalised. It is this one that is forwarded.
    pub path: &'a str,
    /// The query, as it was sent, without `?`.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The client's address: the peer, or what a trusted proxy said it is.
    pub client_ip: IpAddr,
    /// The application protocols that a TLS handshake offers. For [rules about connections](ConnectionRule) alone.
    pub alpn: &'a [&'a [u8]],
    /// The names in the client's certificate that we have verified. Empty: it has shown none.
    pub identities: &'a [Box<str>],
}

/// A parsed rule. Two rules are equal when their text is. Cheap to clone.
#[derive(Clone)]
pub struct Rule(Arc<Parsed>);

struct Parsed {
    text: Box<str>,
    expr: Expr,
    /// Invariant: the same as `expr`; not empty.
    alternatives: Box<[Alternative]>,
    /// Whether it looks at the client's certificate.
    reads_client_cert: bool,
}

/// Why a text is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuleError {
    /// What is wrong.
    pub message: String,
    /// The offending bytes of the text.
    pub span: Range<usize>,
    /// How to mend it: `did you mean ...`.
    pub help: Option<String>,
}

impl Rule {
    /// Parses `text`.
    ///
    /// # Errors
    /// [`RuleError`] names the first offending place.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        Self::parse_about(text, parse::Subject::Request)
    }

    fn parse_about(text: &str, subject: parse::Subject) -> Result<Self, RuleError> {
        let expr = parse::parse(text, subject)?;
        let about_all = |message: String, help: &str| RuleError { message, span: 0..text.len(), help: Some(help.to_string()) };
        let alternatives = normal::alternatives(&expr).map_err(|normal::TooLarge { literals_max }| {
            let message = format!("`&&` over `||` makes the rule too large: more than {literals_max} predicates, multiplied out");
            about_all(message, "split it into several routes to the same upstream")
        })?;
        if alternatives.is_empty() {
            return Err(about_all("the rule takes no request at all".to_string(), "every path is below `/`"));
        }
        let reads_client_cert = expr.any(&|predicate| matches!(predicate, predicate::Predicate::ClientCert(_)));
        Ok(Self(Arc::new(Parsed { text: text.into(), expr, alternatives, reads_client_cert })))
    }

    /// The rule as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Whether `request` is one that the rule takes.
    #[must_use]
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.0.expr.matches(request)
    }

    /// Whether it looks at the client's certificate.
    #[must_use]
    pub fn reads_client_cert(&self) -> bool {
        self.0.reads_client_cert
    }

    /// Whether it looks at what a TLS handshake says.
    fn reads_hello(&self) -> bool {
        self.0.expr.any(&|predicate| matches!(predicate, predicate::Predicate::Host(_) | predicate::Predicate::Alpn(_)))
    }

    /// The rule as alternatives: at least one.
    pub(crate) fn alternatives(&self) -> &[Alternative] {
        &self.0.alternatives
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rule").field(&self.text()).finish()
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Rule {}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::str::FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_rules_that_blow_up_or_never_match() {
        let error = Rule::parse(&["(Path(`/a`) || Path(`/b`))"; 8].join(" && ")).expect_err("too large");
        assert_eq!(error.message, "`&&` over `||` makes the rule too large: more than 1024 predicates, multiplied out");
        let error = Rule::parse("!PathPrefix(`/`)").expect_err("never");
        assert_eq!(error.span, 0..16);
    }

    #[test]
    fn is_its_text_in_json() {
        let json = r#""Host(`a.com`)""#;
        let rule: Rule = serde_json::from_str(json).expect("valid");
        assert_eq!(rule.text(), "Host(`a.com`)");
        assert_eq!(serde_json::to_string(&rule).expect("text"), json);
        assert!(serde_json::from_str::<Rule>(r#""Hots(`a.com`)""#).is_err());
    }

    proptest! {
        #[test]
        fn the_normal_form_means_the_same(rule in samples::rule(), request in samples::request()) {
            let by_alternatives = rule.alternatives().iter().any(|alternative| alternative.matches(&request.view()));
            prop_assert_eq!(rule.matches(&request.view()), by_alternatives);
        }
    }
}
