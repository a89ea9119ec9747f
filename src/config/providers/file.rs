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
