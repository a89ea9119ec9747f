//! Files as a source of configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A file, or a directory of which every `*.toml` is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileProviderConfig {
    /// The file or directory.
    pub path: PathBuf,
}

impl FileProviderConfig {
    /// Reads what follows `file://`.
    pub(super) fn parse_url(rest: &str) -> Result<Self, String> {
        if rest.is_empty() {
            return Err("a file URL needs a path, such as file:///etc/nuncio".into());
        }
        Ok(Self { path: rest.into() })
    }
}
