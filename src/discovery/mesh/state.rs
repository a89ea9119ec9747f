//! What the store holds of a mesh: its CAs, when each signs and until when it is trusted; sealed by the token. Pure: `now` is an argument.
//!
//! ```text
//!                    rotation             half of the overlap         the overlap is over
//! old CA   signs, trusted │ signs, trusted       │ trusted                   │ gone: what it signed is revoked
//! new CA                  │ trusted              │ signs, trusted            │ signs, trusted
//! ```
//!
//! Who has heard of a rotation trusts the new CA before anybody shows a certificate of it, and still trusts the old one while some do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::CA_LIFE;
use super::authority::{Authority, Issued};
use super::token::Token;

/// The largest value that is read from a store, in bytes.
const SEALED_BYTES_MAX: usize = 256 * 1024;

/// The most CAs at once: rotations whose overlaps overlap.
pub const AUTHORITIES_MAX: usize = 8;

/// The state of a mesh.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Counts rotations.
    pub(super) version: u64,
    pub(super) trust_domain: String,
    /// How long certificates live.
    life_ms: u64,
    /// Oldest first. Invariant: not empty.
    authorities: Vec<Scheduled>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scheduled {
    authority: Authority,
    signs_from_ms: u64,
    /// None: for good.
    trusted_until_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    nuncio_mesh: u32,
    sealed: String,
}

/// Why a mesh cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The value of the key is something else.
    #[error("the key holds something else than a mesh")]
    NoMesh,
    /// Another secret sealed it.
    #[error("the join token does not open the mesh: it is of another one, or the token was changed; ask for the new one")]
    OtherToken,
    /// There are too many CAs.
    #[error("there are {AUTHORITIES_MAX} CAs already: wait until the overlap of an earlier rotation is over")]
    TooMany,
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// No CA signs.
    #[error("no CA of the mesh is trusted at this time: is the clock right?")]
    NoSigner,
    /// Cryptography failed.
    #[error("cannot seal the mesh")]
    Seal,
}

impl State {
    /// A new mesh.
    pub(super) fn new(trust_domain: &str, life: Duration, now: SystemTime) -> Result<Self, StateError> {
        let mut state = Self { version: 0, trust_domain: trust_domain.to_owned(), life_ms: millis(life), authorities: Vec::new() };
        state.add_authority(now, now)?;
        Ok(state)
    }

    /// The mesh with a new CA: it signs from half of `overlap` on, and at its end those before are gone.
    pub(super) fn rotated(&self, overlap: Duration, now: SystemTime) -> Result<Self, StateError> {
        let mut next = self.clone();
        next.version += 1;
        let until = since_epoch(now + overlap);
        next.authorities
            .iter_mut()
            .for_each(|it| it.trusted_until_ms = Some(it.trusted_until_ms.map_or(until, |before| before.min(until))));
        next.authorities.retain(|it| it.is_trusted(since_epoch(now)));
        next.add_authority(now + overlap / 2, now)?;
        Ok(next)
    }

    fn add_authority(&mut self, signs_from: SystemTime, now: SystemTime) -> Result<(), StateError> {
        if self.authorities.len() == AUTHORITIES_MAX {
            return Err(StateError::TooMany);
        }
        let authority = Authority::generate(&format!("{} CA {}", self.trust_domain, self.version + 1), now)?;
        self.authorities.push(Scheduled { authority, signs_from_ms: since_epoch(signs_from), trusted_until_ms: None });
        Ok(())
    }

    /// How long certificates live.
    pub(super) fn life(&self) -> Duration {
        Duration::from_millis(self.life_ms)
    }

    /// The CAs that are trusted, as PEM text.
    pub(super) fn trusted(&self, now: SystemTime) -> String {
        self.authorities.iter().filter(|it| it.is_trusted(since_epoch(now))).map(|it| it.authority.cert.as_str()).collect()
    }

    /// The CA that signs, as its certificate.
    pub(super) fn signer(&self, now: SystemTime) -> Option<&str> {
        self.signing(now).map(|authority| authority.cert.as_str())
    }

    fn signing(&self, now: SystemTime) -> Option<&Authority> {
        let now = since_epoch(now);
        let trusted = || self.authorities.iter().filter(|it| it.is_trusted(now));
        let signing = trusted().filter(|it| it.signs_from_ms <= now).max_by_key(|it| it.signs_from_ms);
        // By a clock that is behind that of who made the mesh none signs yet: then it is the first.
        signing.or_else(|| trusted().min_by_key(|it| it.signs_from_ms)).map(|it| &it.authority)
    }

    /// A certificate for this name in the mesh.
    pub(super) fn issue(&self, identity: &str, now: SystemTime) -> Result<Issued, StateError> {
        let uri = format!("spiffe://{}/{identity}", self.trust_domain);
        Ok(self.signing(now).ok_or(StateError::NoSigner)?.issue(&uri, self.life(), now)?)
    }

    /// The value for the store.
    pub(super) fn seal(&self, token: &Token) -> Result<Vec<u8>, StateError> {
        let mut plain = Zeroizing::new(serde_json::to_vec(self).map_err(|_| StateError::Seal)?);
        let nonce = sealer(token)?.seal_in_place_append_tag(Aad::from(AAD), &mut *plain).map_err(|_| StateError::Seal)?;
        let sealed = BASE64_STANDARD.encode([nonce.as_ref().as_slice(), &plain].concat());
        serde_json::to_vec(&Envelope { nuncio_mesh: 1, sealed }).map_err(|_| StateError::Seal)
    }

    /// Reads a value of the store.
    pub(super) fn open(value: &[u8], token: &Token) -> Result<Self, StateError> {
        if value.len() > SEALED_BYTES_MAX {
            return Err(StateError::NoMesh);
        }
        let envelope: Envelope = serde_json::from_slice(value).map_err(|_| StateError::NoMesh)?;
        if envelope.nuncio_mesh != 1 {
            return Err(StateError::NoMesh);
        }
        let mut sealed = Zeroizing::new(BASE64_STANDARD.decode(envelope.sealed).map_err(|_| StateError::NoMesh)?);
        let nonce = Nonce::from(sealed.first_chunk::<NONCE_LEN>().ok_or(StateError::NoMesh)?);
        let body = sealed.get_mut(NONCE_LEN..).ok_or(StateError::NoMesh)?;
        let plain = sealer(token)?.open_in_place(nonce, Aad::from(AAD), body).map_err(|_| StateError::OtherToken)?;
        let state: Self = serde_json::from_slice(plain).map_err(|_| StateError::NoMesh)?;
        let has_authorities = (1..=AUTHORITIES_MAX).contains(&state.authorities.len());
        if state.trust_domain != token.trust_domain || !has_authorities || state.life() > CA_LIFE {
            return Err(StateError::NoMesh);
        }
        Ok(state)
    }
}

const AAD: &[u8] = b"nuncio mesh 1";

fn sealer(token: &Token) -> Result<RandomizedNonceKey, StateError> {
    let key = token.key().map_err(|_| StateError::Seal)?;
    RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| StateError::Seal)
}

impl Scheduled {
    fn is_trusted(&self, now_ms: u64) -> bool {
        self.trusted_until_ms.is_none_or(|until| now_ms < until)
    }
}

fn since_epoch(at: SystemTime) -> u64 {
    millis(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn mesh() -> (State, Token) {
        let state = State::new("example.org", Duration::from_secs(3600), at(0)).unwrap();
        (state, Token::generate("etcd://e", "example.org").unwrap())
    }

    #[test]
    fn a_new_ca_is_trusted_before_it_signs_and_the_old_one_after_it_signed() {
        let (before, _) = mesh();
        let after = before.rotated(Duration::from_secs(100), at(1_000)).unwrap();
        let (old, both) = (before.trusted(at(0)), after.trusted(at(1_000)));
        assert!(both.starts_with(&old) && both.len() > old.len());
        assert_eq!(after.signer(at(1_049)), Some(&*old));
        let new = after.signer(at(1_050)).unwrap().to_string();
        assert_ne!(new, old);
        assert_eq!(after.trusted(at(1_099)), both);
        assert_eq!((after.trusted(at(1_100)), after.signer(at(1_100))), (new.clone(), Some(&*new)));
        assert_eq!(before.signer(UNIX_EPOCH), Some(&*old), "a clock may be behind");
        let now = before.rotated(Duration::ZERO, at(5)).unwrap();
        assert_eq!(now.signer(at(5)), Some(&*now.trusted(at(5))));
        let mut many = before;
        let rotated = (0..AUTHORITIES_MAX).try_for_each(|_| {
            many = many.rotated(Duration::from_secs(100), at(0))?;
            Ok::<_, StateError>(())
        });
        assert!(matches!(rotated, Err(StateError::TooMany)));
        assert!(many.rotated(Duration::from_secs(100), at(101)).is_ok());
    }

    #[test]
    fn only_its_token_opens_it_and_no_key_is_readable() {
        let (state, token) = mesh();
        let sealed = state.seal(&token).unwrap();
        assert!(State::open(&sealed, &token).unwrap() == state);
        let other = Token::generate("etcd://e", "example.org").unwrap();
        assert!(matches!(State::open(&sealed, &other), Err(StateError::OtherToken)));
        assert!(!String::from_utf8_lossy(&sealed).contains("PRIVATE KEY"));
        for text in ["", "{}", r#"{"nuncio_mesh":2,"sealed":""}"#, r#"{"nuncio_mesh":1,"sealed":"AAAA"}"#] {
            assert!(matches!(State::open(text.as_bytes(), &token), Err(StateError::NoMesh)), "{text}");
        }
        let eternal = State { life_ms: u64::MAX, ..state.clone() }.seal(&token).unwrap();
        assert!(matches!(State::open(&eternal, &token), Err(StateError::NoMesh)));
        let mut damaged = sealed.clone();
        let middle = damaged.len() / 2;
        damaged[middle] = if damaged[middle] == b'A' { b'B' } else { b'A' };
        assert!(matches!(State::open(&damaged, &token), Err(StateError::OtherToken)));
    }

    #[test]
    fn what_is_issued_is_of_its_ca_and_names_its_owner() {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let (state, _) = mesh();
        let issued = state.issue("db/1", at(10)).unwrap();
        assert_eq!(issued.not_after, at(3_610));
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (leaf, ca) = (read(&issued.cert), read(&state.trusted(at(10))));
        let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
        assert_eq!(leaf.valid_uri_names().collect::<Vec<_>>(), ["spiffe://example.org/db/1"]);
        let anchor = webpki::anchor_from_trusted_cert(&ca).unwrap();
        let verify = |seconds: u64| {
            let now = rustls::pki_types::UnixTime::since_unix_epoch(at(seconds).duration_since(UNIX_EPOCH).unwrap());
            let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
            let usage = webpki::KeyUsage::client_auth();
            leaf.verify_for_usage(algorithms, std::slice::from_ref(&anchor), &[], now, usage, None, None).map(|_| ())
        };
        assert!(verify(10).is_ok() && verify(3_611).is_err());
    }
}
