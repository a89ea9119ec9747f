//! A mesh that an instance joins: its token, and who it is in there.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{Secret, secrets};

/// A mesh, from which an instance has a certificate of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshConfig {
    /// The token that `nuncio mesh init` prints, or the path of a file that holds it. The file is looked at again and again: a new token
    /// needs no restart.
    #[serde(skip_serializing)]
    pub join: Join,
    /// Who we are: `web` is `spiffe://TRUST-DOMAIN/web`. Default: the name of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

impl MeshConfig {
    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        self.identity.as_deref().map_or(Ok(()), check_identity)
    }
}

/// Whether this can follow a trust domain in a SPIFFE id: segments of letters, digits, `.`, `-` and `_`.
///
/// # Errors
/// A sentence that says what one looks like.
pub fn check_identity(text: &str) -> Result<(), String> {
    let is_segment = |segment: &str| {
        let is_in_segment = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        !matches!(segment, "" | "." | "..") && segment.bytes().all(is_in_segment)
    };
    if text.len() <= 1_024 && text.split('/').all(is_segment) {
        return Ok(());
    }
    Err(format!("`{text}` is not an identity in a mesh, such as \"web\" or \"db/replica-1\""))
}

/// A token, or the file that holds it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Join {
    /// The token itself.
    Token(Secret),
    /// A file.
    Path(PathBuf),
}

impl From<String> for Join {
    fn from(text: String) -> Self {
        if text.starts_with(Self::TOKEN_START) { Self::Token(text.into()) } else { Self::Path(text.into()) }
    }
}

impl Join {
    /// What every token starts with. The number is the version of what follows.
    pub const TOKEN_START: &str = "NUNCIO-1-";

    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Token(_) => None,
            Self::Path(path) => Some(path),
        }
    }
}

/// Never shows the token: debug output ends in logs.
impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Join(…)"),
            Self::Path(path) => write!(f, "Join({})", secrets::mask(&path.to_string_lossy())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_from_a_path_and_never_shown() {
        let check = |json: &str| serde_json::from_str::<MeshConfig>(json);
        let config = check(r#"{"join":"NUNCIO-1-geheim"}"#).unwrap();
        assert!(matches!(&config.join, Join::Token(token) if **token == *"NUNCIO-1-geheim"));
        assert!(!format!("{config:?}").contains("geheim") && !serde_json::to_string(&config).unwrap().contains("geheim"));
        assert_eq!(check(r#"{"join":"/run/secrets/token"}"#).unwrap().join.path(), Some(Path::new("/run/secrets/token")));
        for (identity, is_good) in [("web", true), ("db/replica-1", true), ("", false), ("a//b", false), ("a b", false), ("../x", false)] {
            assert_eq!(check_identity(identity).is_ok(), is_good, "{identity}");
        }
    }
}
