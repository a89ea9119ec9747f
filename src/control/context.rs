//! What compiling needs beside the configuration, made of what the system has.

use std::io;
use std::sync::{Arc, LazyLock};

use rustls::RootCertStore;

use crate::metrics::Meter;
use crate::routing::compile::Context;
use crate::routing::sticky::StickyKey;

/// A context with the cryptography that we ship and the roots that the system trusts.
///
/// # Errors
/// When the system has no random numbers for the key of session tickets.
pub(crate) fn context(meter: &Meter, sticky_keys: Vec<StickyKey>) -> io::Result<Context> {
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(io::Error::other)?;
    Ok(Context { meter: meter.clone(), sticky_keys, crypto, ticketer, system_roots: LazyLock::new(system_roots) })
}

/// What the system trusts. A root that cannot be read is left out; with none, verification fails and says so.
fn system_roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!("system roots: {error}");
    }
    roots.add_parsable_certificates(loaded.certs);
    Arc::new(roots)
}
