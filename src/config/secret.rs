//! A secret: a password or a token of a configuration.

use std::fmt;
use std::ops::Deref;

use serde::Deserialize;
use zeroize::Zeroizing;

/// A text that is not shown: debug output ends in logs. It leaves no trace in freed memory. It cannot be serialized either, so that a field
/// which holds one has to be skipped.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
