//! Who a peer is, by its certificate: the names in it, and the verifiers that want a CA of ours behind it.
//!
//! Names are those of the subject alternative names: URIs, such as SPIFFE ids, and DNS names. What is said elsewhere in a certificate is no
//! name. A certificate with several URIs has no SPIFFE id (X.509-SVID section 2), so that none of them counts as one.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use crate::config::listener::ClientAuthMode;
use crate::rule::{IDENTITY_BYTES_MAX, IdentityPattern};

/// The most names of a certificate that are looked at. Those that follow do not count.
pub const NAMES_MAX: usize = 64;

const SPIFFE: &str = "spiffe://";

/// The names in a certificate, DNS names in lower case. Empty when it cannot be read.
#[must_use]
pub fn names_of(certificate: &CertificateDer<'_>) -> Vec<Box<str>> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let has_one_uri = certificate.valid_uri_names().nth(1).is_none();
    let uris = certificate.valid_uri_names().filter(|uri| has_one_uri || !uri.starts_with(SPIFFE));
    let uris = uris.filter(|uri| uri.len() <= IDENTITY_BYTES_MAX).map(Box::from);
    let dns = certificate.valid_dns_names().map(|name| name.to_ascii_lowercase().into());
    uris.chain(dns).take(NAMES_MAX).collect()
}

/// Takes clients whose certificate one of `roots` has signed.
///
/// # Errors
/// A sentence, when the roots cannot be used.
pub(super) fn client_verifier(
    roots: Arc<RootCertStore>,
    mode: ClientAuthMode,
    crypto: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots, crypto.clone());
    let builder = match mode {
        ClientAuthMode::Required => builder,
        ClientAuthMode::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| format!("`tls.client_auth`: {error}"))
}

/// Decides whether an endpoint's certificate is good, where it need not have the name that the endpoint is reached by.
///
/// Whoever is taken holds the key of the certificate: that is verified in any case.
#[derive(Debug)]
pub(super) struct EndpointVerifier {
    pub(super) taken: Taken,
    pub(super) crypto: Arc<CryptoProvider>,
}

/// Whose certificate is good.
#[derive(Debug)]
pub(super) enum Taken {
    /// Anybody's. For `tls.insecure_skip_verify`.
    Anybody,
    /// That of who has this name by the signature of one of `roots`. For `tls.server_id`.
    Identity { expected: IdentityPattern, roots: Arc<RootCertStore> },
}

/// Why a certificate is not that of the endpoint that was meant.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is of {found}, and `{expected}` is expected")]
struct OtherIdentity {
    found: String,
    expected: IdentityPattern,
}

impl ServerCertVerifier for EndpointVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Taken::Identity { expected, roots } = &self.taken else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.crypto.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        let names = names_of(end_entity);
        if names.iter().any(|name| expected.matches(name)) {
            return Ok(ServerCertVerified::assertion());
        }
        let found = if names.is_empty() { "nobody".into() } else { format!("`{}`", names.join("`, `")) };
        let other = OtherIdentity { found, expected: expected.clone() };
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.crypto.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.crypto.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::SanType;

    use super::*;

    fn names(sans: Vec<SanType>) -> Vec<String> {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = sans;
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        names_of(certificate.der()).into_iter().map(Into::into).collect()
    }

    #[test]
    fn uris_and_dns_names_are_names_and_two_spiffe_ids_are_none() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
        assert_eq!(names(vec![dns("Web.a.org"), uri("spiffe://a.org/web")]), ["spiffe://a.org/web", "web.a.org"]);
        assert_eq!(names(vec![uri("spiffe://a.org/web"), uri("spiffe://a.org/admin"), dns("a.org")]), ["a.org"]);
        assert_eq!(names(vec![uri("https://a.org/1"), uri("spiffe://a.org/web")]), ["https://a.org/1"]);
        assert!(names(Vec::new()).is_empty() && names_of(&CertificateDer::from(vec![0x30, 1, 2])).is_empty());
        assert_eq!(names((0..100).map(|n| dns(&format!("h{n}.a.org"))).collect()).len(), NAMES_MAX);
    }
}
