//! A certificate as it is wanted: a chain and its key, chosen by SNI.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A certificate chain with its private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The chain, the server's own certificate first: a path, or PEM text.
    pub cert: Pem,
    /// The private key (PKCS #8, PKCS #1 or SEC 1): a path, or PEM text.
    pub key: Pem,
    /// Whom its holder trusts, where a listener or an upstream is set to mutual TLS with it: the CAs of its peers, as a path or PEM text.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Pem>,
    /// Served when no certificate matches the name asked for, or no name is sent. Default false; of several the first by name.
    #[serde(default)]
    pub default: bool,
}

/// PEM text, or the path of a file that holds it. In configuration one string: text that holds `-----BEGIN` is PEM.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The text itself.
    Text(String),
    /// A file that the control plane reads, and reads again when it changes.
    Path(PathBuf),
}

impl Pem {
    /// Reads the one string of the configuration.
    #[must_use]
    pub fn new(text: String) -> Self {
        if text.contains("-----BEGIN") { Self::Text(text) } else { Self::Path(text.into()) }
    }

    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Text(_) => None,
            Self::Path(path) => Some(path),
        }
    }
}

/// Never shows PEM text: it may be a private key, and debug output ends in logs.
impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Pem({} bytes)", text.len()),
            Self::Path(path) => write!(f, "Pem({})", path.display()),
        }
    }
}

impl Serialize for Pem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Path(path) => serializer.serialize_str(&path.to_string_lossy()),
        }
    }
}

impl<'de> Deserialize<'de> for Pem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
