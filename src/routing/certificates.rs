//! Certificate chains, and the choice among them by SNI: exact name, wildcard, default.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::{self, Pem};

/// A certificate chain with its key, ready to sign, and the names it is good for.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// The DNS names of the certificate, lower case; a wildcard is `*.` and the rest.
    pub names: Vec<String>,
    /// The CAs that its holder trusts.
    pub roots: Option<Arc<RootCertStore>>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads chain and key.
    ///
    /// # Errors
    /// A sentence that says which of the two cannot be used and why; also when they do not belong together.
    pub fn new(certificate: &config::Certificate, crypto: &CryptoProvider) -> Result<Self, String> {
        let chain = read_chain(text(&certificate.cert, "cert")?)?;
        let key_pem = text(&certificate.key, "key")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| format!("`key` holds no private key: {error}"))?;
        let names = names(&chain)?;
        let key = CertifiedKey::from_der(chain, key, crypto).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "`key` does not belong to `cert`".to_string(),
            error => format!("`key` cannot be used: {error}"),
        })?;
        let roots = certificate.ca.as_ref().map(|ca| read_roots(ca, "ca")).transpose()?;
        Ok(Self { key: Arc::new(key), names, roots })
    }

    /// The chain with its key.
    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

fn text<'a>(pem: &'a Pem, field: &str) -> Result<&'a str, String> {
    match pem {
        Pem::Text(text) => Ok(text),
        Pem::Path(path) => Err(format!("`{field}`: the file {} has not been read", path.display())),
    }
}

/// The certificates of a PEM text, in order.
///
/// # Errors
/// A sentence, when there is none or one is broken.
pub fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|error| format!("`cert` is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err("`cert` holds no certificate".into());
    }
    Ok(chain)
}

/// The CAs of a PEM text. Not empty.
///
/// # Errors
/// A sentence about `field`, when there is none or one is broken.
pub(super) fn read_roots(pem: &Pem, field: &str) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for root in read_chain(text(pem, field)?).map_err(|error| error.replace("`cert`", &format!("`{field}`")))? {
        roots.add(root).map_err(|error| format!("`{field}`: {error}"))?;
    }
    Ok(Arc::new(roots))
}

fn names(chain: &[CertificateDer<'static>]) -> Result<Vec<String>, String> {
    let own = chain.first().ok_or("`cert` holds no certificate")?;
    let own = webpki::EndEntityCert::try_from(own).map_err(|error| format!("`cert` is not an X.509 certificate: {error:?}"))?;
    Ok(own.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

/// The certificates of one listener, by name.
#[derive(Debug)]
pub struct BySni {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl BySni {
    /// Of several certificates for one name the first counts. `default` is served when no name matches.
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a Certificate>, default: Option<&Certificate>) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for certificate in certificates {
            for name in &certificate.names {
                match name.strip_prefix("*.") {
                    Some(rest) => wildcard.entry(rest.to_string()).or_insert_with(|| certificate.key.clone()),
                    None => exact.entry(name.clone()).or_insert_with(|| certificate.key.clone()),
                };
            }
        }
        Self { exact, wildcard, default: default.map(|certificate| certificate.key.clone()) }
    }

    fn choose(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let by_name = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wildcard = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(wildcard)
        });
        by_name.or(self.default.as_ref())
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name()).cloned()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A self-signed certificate for `names`.
    pub(crate) fn self_signed(names: &[&str]) -> config::Certificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        config::Certificate { cert: Pem::Text(made.cert.pem()), key: Pem::Text(made.signing_key.serialize_pem()), ca: None, default: false }
    }

    fn read(certificate: &config::Certificate) -> Result<Certificate, String> {
        Certificate::new(certificate, &rustls::crypto::aws_lc_rs::default_provider())
    }

    #[test]
    fn chooses_exact_then_wildcard_then_default() {
        let [exact, wildcard, default] =
            [&["a.x.test"][..], &["*.x.test"], &["other.example"]].map(|names| read(&self_signed(names)).unwrap());
        let all = BySni::new([&exact, &wildcard, &default], Some(&default));
        let check = |name: Option<&str>, expected: &Certificate| assert!(Arc::ptr_eq(all.choose(name).unwrap(), &expected.key), "{name:?}");
        check(Some("a.x.test"), &exact);
        check(Some("A.X.TEST"), &exact);
        check(Some("b.x.test"), &wildcard);
        check(Some("c.b.x.test"), &default);
        check(None, &default);
        assert!(BySni::new([&exact], None).choose(Some("b.x.test")).is_none());
    }

    #[test]
    fn says_what_is_wrong_with_a_pair() {
        let (one, other) = (self_signed(&["a.test"]), self_signed(&["a.test"]));
        let mixed = config::Certificate { key: other.key, ..one.clone() };
        assert_eq!(read(&mixed).unwrap_err(), "`key` does not belong to `cert`");
        let empty = config::Certificate { cert: Pem::Text("nothing".into()), ..one.clone() };
        assert_eq!(read(&empty).unwrap_err(), "`cert` holds no certificate");
        let no_ca = config::Certificate { ca: Some(Pem::Text("nothing".into())), ..one.clone() };
        assert_eq!(read(&no_ca).unwrap_err(), "`ca` holds no certificate");
        let no_key = config::Certificate { key: one.cert.clone(), ..one };
        assert!(read(&no_key).unwrap_err().starts_with("`key` holds no private key"));
    }
}
