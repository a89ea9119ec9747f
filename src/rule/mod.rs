//! The match language: which requests a route takes.
//!
//! ```text
//! Host("a.com") && PathPrefix("/v1") && !Header("X-Debug", "1") || Method("PUT")
//! ```
//!
//! No socket, no clock: a rule is a pure function of a [`RequestView`].

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, Method};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub mod host;
pub mod path;

pub use host::{HostError, normalize_host};
pub use path::PathError;

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
}

/// A parsed rule. Two rules are equal when their text is.
#[derive(Debug, Clone)]
pub struct Rule {
    text: Arc<str>,
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
        Ok(Self { text: text.into() })
    }

    /// The rule as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `request` is one that the rule takes.
    #[must_use]
    pub fn matches(&self, _request: &RequestView<'_>) -> bool {
        true
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Rule {}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
