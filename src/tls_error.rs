//! What is said of a TLS handshake that failed: rustls shows what others found out as debug output.

use std::io;

use rustls::CertificateError;

/// Why a handshake failed, as people read it.
pub(crate) fn told(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|error| error.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) = tls else { return error.to_string() };
    let why = match other.0.downcast_ref() {
        Some(webpki::Error::CaUsedAsEndEntity) => {
            "it is that of a CA (`CA:TRUE`), which is for signing alone: show one that the CA has signed, or one that is made with `CA:FALSE`".into()
        }
        _ => other.to_string(),
    };
    format!("invalid peer certificate: {why}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{OtherError, RootCertStore};

    use super::*;

    fn of(error: rustls::Error) -> String {
        told(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_ca_that_is_shown_as_a_server_is_told_what_to_do() {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".into()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto).build().unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let error = verifier.verify_server_cert(ca.der(), &[], &name, &[], UnixTime::now()).unwrap_err();
        assert!(error.to_string().contains("CaUsedAsEndEntity"));
        assert!(of(error).contains("`CA:TRUE`"));
    }

    #[test]
    fn what_others_say_is_not_shown_as_debug_output() {
        let other = OtherError(Arc::new(io::Error::other("the certificate is of `a`")));
        let error = rustls::Error::InvalidCertificate(CertificateError::Other(other));
        assert_eq!(of(error), "invalid peer certificate: the certificate is of `a`");
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert_eq!(of(expired.clone()), expired.to_string());
        assert_eq!(told(&io::Error::other("broken")), "broken");
    }
}
