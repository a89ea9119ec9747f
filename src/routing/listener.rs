//! A listener with its TLS, ready to serve.

use std::sync::Arc;

use crate::config;
use crate::names::Name;

/// One listener of one table.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Name,
    /// Its settings.
    pub settings: config::Listener,
    /// TLS with the certificates of this table. None: it speaks in the clear.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}
