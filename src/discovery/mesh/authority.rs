//! Certificates: of CAs, and of who joined.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::CA_LIFE;

/// How far clocks of hosts may be apart: a certificate is good this long before it was made.
const SKEW: Duration = Duration::from_secs(300);

/// A CA with its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Authority {
    /// What it is called in its certificate.
    name: String,
    /// Its certificate, as PEM text.
    pub(super) cert: String,
    /// Its private key, as PEM text.
    key: String,
}

/// It signs for everyone.
impl Drop for Authority {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// A certificate that was issued.
#[derive(Clone)]
pub struct Issued {
    /// As PEM text.
    pub cert: String,
    /// Its private key, as PEM text.
    pub key: String,
    /// When it ends.
    pub not_after: SystemTime,
}

impl Authority {
    /// A new one. Its name ends with a digest of its key: of two CAs with one name it would be guessed which one has signed.
    pub(super) fn generate(name: &str, now: SystemTime) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let name = format!("{name} {:08x}", crc32fast::hash(key.public_key_raw()));
        let mut params = params_of_ca(&name);
        (params.not_before, params.not_after) = ((now - SKEW).into(), (now + CA_LIFE).into());
        let cert = params.self_signed(&key)?.pem();
        Ok(Self { name, cert, key: key.serialize_pem() })
    }

    /// Issues a certificate for this URI, for TLS servers and clients alike, with a key that is made here and now.
    pub(super) fn issue(&self, uri: &str, life: Duration, now: SystemTime) -> Result<Issued, rcgen::Error> {
        let issuer = Issuer::new(params_of_ca(&self.name), KeyPair::from_pem(&self.key)?);
        let key = KeyPair::generate()?;
        let not_after = now + life;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = ((now - SKEW).into(), not_after.into());
        let cert = params.signed_by(&key, &issuer)?.pem();
        Ok(Issued { cert, key: key.serialize_pem(), not_after })
    }
}

fn params_of_ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
