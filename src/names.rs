//! Names of objects: routes, upstreams, endpoints, listeners, middlewares, certificates, providers.
//!
//! A name is checked once, where it enters, and is cheap to clone after that. What a name refers to is
//! settled when a table is compiled; nothing looks a name up while it serves a request.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of one object. Unique among the objects of its kind.
///
/// Invariant: 1 to [`Name::BYTES_MAX`] bytes, no `/`, no white space, no control character and no quote, so that it fits into a
/// key of a store, a metric label, a log line and a URL path segment without escapes that surprise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name, in bytes: that of a DNS name, because names are often made from those.
    pub const BYTES_MAX: usize = 253;

    /// Checks `text` and makes it a name.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::BYTES_MAX {
            return Err(NameError::TooLong { bytes: text.len() });
        }
        match text.chars().find(|c| !is_allowed(*c)) {
            Some(character) => Err(NameError::Character { character }),
            None => Ok(Self(text.into())),
        }
    }

    /// A name that is part of the program's text.
    ///
    /// # Panics
    /// If `text` is not a valid name, which a test of the caller shows at once.
    #[must_use]
    pub fn literal(text: &'static str) -> Self {
        Self::new(text).expect("a literal name is valid")
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_allowed(c: char) -> bool {
    !(c.is_control() || c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '\\'))
}

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The text is longer than [`Name::BYTES_MAX`].
    #[error("a name has at most {} bytes, this one has {bytes}", Name::BYTES_MAX)]
    TooLong {
        /// Length of the text, in bytes.
        bytes: usize,
    },
    /// The text holds a character that a name may not hold.
    #[error("a name must not contain {character:?}")]
    Character {
        /// The first such character.
        character: char,
    },
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_stores_and_containers_use() {
        for text in ["web", "apache-A", "web@file", "a.example.com", "7f:3000", "héllo"] {
            assert_eq!(Name::new(text).map(|name| name.to_string()), Ok(text.to_string()));
        }
    }

    #[test]
    fn refuses_what_would_need_an_escape() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new("a/b"), Err(NameError::Character { character: '/' }));
        assert_eq!(Name::new("a b"), Err(NameError::Character { character: ' ' }));
        assert_eq!(Name::new("a\0"), Err(NameError::Character { character: '\0' }));
        assert_eq!(Name::new("x".repeat(254)), Err(NameError::TooLong { bytes: 254 }));
    }
}
