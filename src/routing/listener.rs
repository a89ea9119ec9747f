//! A listener with its TLS, ready to serve.

use std::sync::Arc;

use super::certificates::Certificate;
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
    /// What `tls` was made with, the default one first.
    pub(super) certificates: Vec<Arc<Certificate>>,
}
