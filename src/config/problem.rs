//! What is wrong with an object of the configuration: where, what, how to mend it, and with what effect meanwhile.
//!
//! A problem is data. It is drawn by [`Problem::render`] for people, and serialised for machines.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use super::snapshot::Origin;
use crate::names::Name;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The object it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectId>,
    /// Where the object was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// The offending text.
    #[serde(skip)]
    pub snippet: Option<Snippet>,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// What it means for traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is not, or no longer, in force as it is written.
    Error,
    /// The object is in force, but likely not as its author thinks.
    Warning,
}

/// A kind of object with the name of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectId {
    /// The kind.
    pub kind: Kind,
    /// The name; of an endpoint `upstream/id`.
    pub name: String,
}

impl ObjectId {
    /// The object of this kind and name.
    #[must_use]
    pub fn new(kind: Kind, name: &Name) -> Self {
        Self { kind, name: name.to_string() }
    }
}

/// The kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`Listener`](super::Listener).
    Listener,
    /// [`Route`](super::Route).
    Route,
    /// [`TcpRoute`](super::TcpRoute).
    TcpRoute,
    /// [`Upstream`](super::Upstream).
    Upstream,
    /// [`Endpoint`](super::Endpoint).
    Endpoint,
    /// [`Middleware`](crate::middleware::Middleware).
    Middleware,
    /// [`Certificate`](super::Certificate).
    Certificate,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "listener",
            Self::Route => "route",
            Self::TcpRoute => "TCP route",
            Self::Upstream => "upstream",
            Self::Endpoint => "endpoint",
            Self::Middleware => "middleware",
            Self::Certificate => "certificate",
        })
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind, self.name)
    }
}

/// The offending text inside its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// The whole file, or the whole value of a key.
    pub source: Arc<str>,
    /// The offending bytes of it.
    pub span: Range<usize>,
    /// What is said right under them.
    pub label: String,
}

impl Problem {
    /// An error with nothing but its message.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, object: None, origin: None, message: message.into(), snippet: None, help: None, effect: None }
    }

    /// A warning with nothing but its message.
    #[must_use]
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    /// The same, about this object.
    #[must_use]
    pub fn about(self, object: ObjectId) -> Self {
        Self { object: Some(object), ..self }
    }

    /// The same, read at this place.
    #[must_use]
    pub fn at(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// The same, with the way to mend it.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The same, with what it means for traffic.
    #[must_use]
    pub fn effect(self, effect: impl Into<String>) -> Self {
        Self { effect: Some(effect.into()), ..self }
    }
}

/// One line: object, message, place. For logs; [`Problem::render`] draws the whole.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        Ok(())
    }
}
