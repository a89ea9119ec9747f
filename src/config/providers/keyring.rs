//! The keys that open sealed values.

use std::fmt;
use std::path::PathBuf;

use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

/// The files with the keys that open values which crypt, or `nuncio seal`, sealed. In configuration the path alone, or a table.
///
/// Files are read when the first sealed value is met, and again when they changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyringConfig {
    /// A file of OpenPGP secret keys, armored or binary.
    pub path: PathBuf,
    /// A file whose first line is the passphrase of the keys. Default: they have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
}

impl KeyringConfig {
    /// Keys without a passphrase.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), passphrase_file: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    path: PathBuf,
    #[serde(default)]
    passphrase_file: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for KeyringConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathOrTable)
    }
}

struct PathOrTable;

impl<'de> Visitor<'de> for PathOrTable {
    type Value = KeyringConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the path of a file of secret keys, or a table { path, passphrase_file }")
    }

    fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Self::Value, E> {
        Ok(KeyringConfig::new(path))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let Table { path, passphrase_file } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(KeyringConfig { path, passphrase_file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_or_a_table() {
        let read = |json: &str| serde_json::from_str::<KeyringConfig>(json);
        assert_eq!(read(r#""/etc/ring.asc""#).unwrap(), KeyringConfig::new("/etc/ring.asc"));
        let table = read(r#"{"path":"/r","passphrase_file":"/p"}"#).unwrap();
        assert_eq!(table.passphrase_file, Some("/p".into()));
        assert!(read(r#"{"path":"/r","passphrase":"x"}"#).unwrap_err().to_string().contains("unknown field"));
        assert!(read("3").unwrap_err().to_string().contains("a file of secret keys"));
    }
}
