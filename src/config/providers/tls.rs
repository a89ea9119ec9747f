//! TLS towards the systems that we learn from.

use serde::{Deserialize, Serialize};

use crate::config::Pem;

/// TLS towards a store or an API. Files are read again for each connection, so that a renewed certificate is used without a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// Trusted roots, as a path or PEM text. Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Pem>,
    /// The certificate that we show, as a path or PEM text. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<Pem>,
    /// The private key of `cert`, as a path or PEM text.
    #[serde(skip_serializing)]
    pub key: Option<Pem>,
    /// The name looked for in the server's certificate. Default: the host of the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

impl ClientTls {
    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.cert, &self.key) {
            (Some(_), None) | (None, Some(_)) => Err("`tls` needs `cert` and `key` together".into()),
            _ => Ok(()),
        }
    }
}
