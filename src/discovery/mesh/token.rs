//! A join token: where the mesh is kept, what it is called, and the secret that opens it.
//!
//! ```text
//! NUNCIO-1-  base64url of  secret (32 bytes) · CRC-32 of what follows · trust domain · newline · URL of the store
//! ```

use std::fmt;

use aws_lc_rs::hkdf;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::config::providers::Join;

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4_096;

const SECRET_BYTES: usize = 32;

/// A join token, read.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    /// Where the mesh is kept.
    pub store: String,
    /// What it is called: the first part of every identity in it.
    pub trust_domain: String,
}

/// Why a text is no token. It never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It looks like something else.
    #[error("a join token starts with {}, as `nuncio mesh init` prints it", Join::TOKEN_START)]
    NoToken,
    /// It is not whole.
    #[error("the join token is damaged: a part of it is missing or was changed")]
    Damaged,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

impl Token {
    /// A new token for a mesh at this place.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate(store: &str, trust_domain: &str) -> Result<Self, TokenError> {
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        aws_lc_rs::rand::fill(secret.as_mut_slice()).map_err(|_| TokenError::NoRandom)?;
        Ok(Self { secret, store: store.to_owned(), trust_domain: trust_domain.to_owned() })
    }

    /// Reads what [`text`](Self::text) wrote.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let encoded = text.strip_prefix(Join::TOKEN_START).filter(|_| text.len() <= TOKEN_BYTES_MAX).ok_or(TokenError::NoToken)?;
        let bytes = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Damaged)?);
        let (secret, rest) = bytes.split_first_chunk::<SECRET_BYTES>().ok_or(TokenError::Damaged)?;
        let (sum, place) = rest.split_first_chunk::<4>().ok_or(TokenError::Damaged)?;
        if u32::from_be_bytes(*sum) != checksum(secret, place) {
            return Err(TokenError::Damaged);
        }
        let place = std::str::from_utf8(place).map_err(|_| TokenError::Damaged)?;
        let (trust_domain, store) = place.split_once('\n').ok_or(TokenError::Damaged)?;
        Ok(Self { secret: Zeroizing::new(*secret), store: store.to_owned(), trust_domain: trust_domain.to_owned() })
    }

    /// The token as it is handed on.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let place = format!("{}\n{}", self.trust_domain, self.store);
        let sum = checksum(self.secret.as_slice(), place.as_bytes()).to_be_bytes();
        let bytes = Zeroizing::new([self.secret.as_slice(), &sum, place.as_bytes()].concat());
        Zeroizing::new(format!("{}{}", Join::TOKEN_START, BASE64_URL_SAFE_NO_PAD.encode(&*bytes)))
    }

    /// The key of what the store holds. The secret is random, so that deriving it needs not be slow.
    ///
    /// # Errors
    /// Never with these lengths.
    pub(super) fn key(&self) -> Result<Zeroizing<[u8; 32]>, aws_lc_rs::error::Unspecified> {
        let mut key = Zeroizing::new([0; 32]);
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"nuncio mesh 1").extract(self.secret.as_slice());
        secret.expand(&[b"state"], hkdf::HKDF_SHA256)?.fill(key.as_mut_slice())?;
        Ok(key)
    }
}

fn checksum(secret: &[u8], place: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(secret);
    hasher.update(place);
    hasher.finalize()
}

/// Never shows the secret, nor the URL, which may hold a password.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn is_read_back_and_what_is_damaged_is_told() {
        let token = Token::generate("etcd://a:geheim@10.0.0.5:2379", "example.org").unwrap();
        let text = token.text();
        assert_eq!(Token::parse(&format!(" {}\n", *text)), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("geheim"));
        assert_eq!(Token::parse("SWMTKN-1-x"), Err(TokenError::NoToken));
        for cut in Join::TOKEN_START.len()..text.len() {
            assert_eq!(Token::parse(&text[..cut]), Err(TokenError::Damaged));
        }
        assert_ne!(Token::generate("s", "d").unwrap().key().unwrap(), token.key().unwrap());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(NUNCIO-1-)?[A-Za-z0-9_-]{0,120}") {
            let _ = Token::parse(&text);
        }
    }
}
