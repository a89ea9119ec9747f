//! How the endpoints of an upstream are reached: made of its settings, and carried over while those do not change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use rustls::client::{Resumption, WantsClientCert};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use super::certificates::{Certificate, read_roots};
use super::compile::Context;
use super::identity::{EndpointVerifier, Taken};
use super::upstream::{Transport, TransportTls, Upstream};
use crate::config;
use crate::config::upstream::{UpstreamProtocol, UpstreamTls};

static NEXT_TRANSPORT: AtomicU64 = AtomicU64::new(1);

pub(super) fn build_transport(
    settings: &config::Upstream,
    certificate: Option<&Arc<Certificate>>,
    previous: Option<&Upstream>,
    context: &Context,
) -> Result<Arc<Transport>, String> {
    let is_same = |previous: &&Upstream| {
        let before = &previous.settings;
        let of = |it: &config::Upstream| (it.protocol, it.proxy_protocol, it.transparent);
        before.tls == settings.tls && of(before) == of(settings) && previous.transport.shows(certificate)
    };
    if let Some(same) = previous.filter(is_same) {
        return Ok(same.transport.clone());
    }
    let tls = settings.tls.as_ref().map(|tls| build_transport_tls(tls, certificate, settings.protocol, context)).transpose()?;
    let id = NEXT_TRANSPORT.fetch_add(1, Ordering::Relaxed);
    let config::Upstream { protocol, proxy_protocol, transparent, .. } = *settings;
    Ok(Arc::new(Transport { id, protocol, proxy_protocol, transparent, tls }))
}

impl Transport {
    /// Whether this certificate is shown to endpoints, or none.
    pub(super) fn shows(&self, certificate: Option<&Arc<Certificate>>) -> bool {
        match (self.tls.as_ref().and_then(|tls| tls.certificate.as_ref()), certificate) {
            (Some(shown), Some(certificate)) => Arc::ptr_eq(shown, certificate),
            (shown, certificate) => shown.is_none() && certificate.is_none(),
        }
    }
}

fn build_transport_tls(
    tls: &UpstreamTls,
    certificate: Option<&Arc<Certificate>>,
    protocol: UpstreamProtocol,
    context: &Context,
) -> Result<TransportTls, String> {
    let builder = ClientConfig::builder_with_provider(context.crypto.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("`tls`: {error}"))?;
    let builder = verified(builder, tls, certificate, context)?;
    let mut client = match certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let mut client = builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key().clone())));
            // Who both are is verified with each connection: what is resumed would outlast a CA that is gone.
            client.resumption = Resumption::disabled();
            client
        }
    };
    let client_of_bytes = Arc::new(client.clone());
    client.alpn_protocols = match protocol {
        UpstreamProtocol::H2 => vec![b"h2".to_vec()],
        UpstreamProtocol::Http1 | UpstreamProtocol::H2c => vec![b"http/1.1".to_vec()],
    };
    let server_name = tls.server_name.as_ref().map(|name| {
        ServerName::try_from(name.clone()).map_err(|_| format!("`tls.server_name`: {name:?} is neither a DNS name nor an IP address"))
    });
    let (client, certificate) = (Arc::new(client), certificate.cloned());
    Ok(TransportTls { client, client_of_bytes, server_name: server_name.transpose()?, certificate })
}

type Unverified = ConfigBuilder<ClientConfig, WantsVerifier>;
type Verified = ConfigBuilder<ClientConfig, WantsClientCert>;

/// Sets who decides whether an endpoint's certificate is good.
fn verified(builder: Unverified, tls: &UpstreamTls, certificate: Option<&Arc<Certificate>>, context: &Context) -> Result<Verified, String> {
    let crypto = context.crypto.clone();
    if tls.insecure_skip_verify {
        return Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(EndpointVerifier { taken: Taken::Anybody, crypto })));
    }
    let roots = roots(tls, certificate, context)?;
    Ok(match &tls.server_id {
        None => builder.with_root_certificates(roots),
        Some(expected) => {
            let verifier = EndpointVerifier { taken: Taken::Identity { expected: expected.clone(), roots }, crypto };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    })
}

fn roots(tls: &UpstreamTls, certificate: Option<&Arc<Certificate>>, context: &Context) -> Result<Arc<RootCertStore>, String> {
    match (&tls.ca, certificate.and_then(|certificate| certificate.roots.as_ref())) {
        (Some(pem), _) => read_roots(pem, "tls.ca"),
        (None, Some(roots)) => Ok(roots.clone()),
        (None, None) => Ok(LazyLock::force(&context.system_roots).clone()),
    }
}
