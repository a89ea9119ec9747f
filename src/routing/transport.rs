//! How the endpoints of an upstream are reached: made of its settings, and carried over while those do not change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use super::certificates::read_chain;
use super::compile::Context;
use super::upstream::{AcceptAny, Transport, TransportTls, Upstream};
use crate::config::upstream::{UpstreamProtocol, UpstreamTls};
use crate::config::{self, Pem};

static NEXT_TRANSPORT: AtomicU64 = AtomicU64::new(1);

pub(super) fn build_transport(
    settings: &config::Upstream,
    previous: Option<&Upstream>,
    context: &Context,
) -> Result<Arc<Transport>, String> {
    let is_same = |previous: &&Upstream| {
        let before = &previous.settings;
        let of = |it: &config::Upstream| (it.protocol, it.proxy_protocol, it.transparent);
        before.tls == settings.tls && of(before) == of(settings)
    };
    if let Some(same) = previous.filter(is_same) {
        return Ok(same.transport.clone());
    }
    let tls = settings.tls.as_ref().map(|tls| build_transport_tls(tls, settings.protocol, context)).transpose()?;
    let id = NEXT_TRANSPORT.fetch_add(1, Ordering::Relaxed);
    let config::Upstream { protocol, proxy_protocol, transparent, .. } = *settings;
    Ok(Arc::new(Transport { id, protocol, proxy_protocol, transparent, tls }))
}

fn build_transport_tls(tls: &UpstreamTls, protocol: UpstreamProtocol, context: &Context) -> Result<TransportTls, String> {
    let builder = rustls::ClientConfig::builder_with_provider(context.crypto.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("`tls`: {error}"))?;
    let roots = match &tls.ca {
        None => LazyLock::force(&context.system_roots).clone(),
        Some(Pem::Text(pem)) => Arc::new(read_roots(pem)?),
        Some(Pem::Path(path)) => return Err(format!("`tls.ca`: the file {} has not been read", path.display())),
    };
    let mut client = if tls.insecure_skip_verify {
        let verifier = Arc::new(AcceptAny(context.crypto.clone()));
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    } else {
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    let client_of_streams = Arc::new(client.clone());
    client.alpn_protocols = match protocol {
        UpstreamProtocol::H2 => vec![b"h2".to_vec()],
        UpstreamProtocol::Http1 | UpstreamProtocol::H2c => vec![b"http/1.1".to_vec()],
    };
    let server_name = tls.server_name.as_ref().map(|name| {
        ServerName::try_from(name.clone()).map_err(|_| format!("`tls.server_name`: {name:?} is neither a DNS name nor an IP address"))
    });
    Ok(TransportTls { client: Arc::new(client), client_of_streams, server_name: server_name.transpose()? })
}

fn read_roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for root in read_chain(pem).map_err(|error| error.replace("`cert`", "`tls.ca`"))? {
        roots.add(root).map_err(|error| format!("`tls.ca`: {error}"))?;
    }
    Ok(roots)
}
