//! Sticky cookies: a client comes back to the endpoint that it had.
//!
//! The cookie holds a token: HMAC-SHA256 (RFC 2104) of the upstream's name and the endpoint's address, cut to 128 bits. It says nothing
//! about the address, cannot be made without the key, and is the same in every instance that has the key, after every swap and restart.
//! Tokens are computed when a table is compiled; a request costs a scan of its `Cookie` fields and one look into a map.
//!
//! A token stands for an endpoint, not for a client: whoever copies one comes to the same endpoint, and gains nothing else.

use std::collections::HashMap;
use std::fmt;
use std::fmt::Write;
use std::net::IpAddr;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use memchr::memchr;

use crate::config::upstream::{SameSite, Sticky};
use crate::names::Name;
use crate::socket::SocketAddress;

/// The secret that tokens are made with. Instances that share it agree on tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct StickyKey([u8; StickyKey::BYTES]);

impl StickyKey {
    /// Length of a key.
    pub const BYTES: usize = 32;

    /// A new key, from the operating system's random numbers.
    ///
    /// # Errors
    /// [`StickyError::Random`] when the system has none.
    pub fn generate() -> Result<Self, StickyError> {
        let mut bytes = [0; Self::BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StickyError::Random)?;
        Ok(Self(bytes))
    }

    /// The key of these bytes, which should be random.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The key as text that [`FromStr`](std::str::FromStr) reads, to be kept in a file. It is a secret.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }
}

/// Reads 64 hexadecimal digits, or base64 of 32 bytes (either alphabet, with or without padding).
impl std::str::FromStr for StickyKey {
    type Err = StickyError;

    fn from_str(text: &str) -> Result<Self, StickyError> {
        let text = text.trim();
        let bytes = if text.len() == 2 * Self::BYTES { from_hex(text) } else { from_base64(text) };
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(StickyError::Key)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    text.as_bytes().chunks(2).map(|pair| u8::try_from(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?).ok()).collect()
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Never shows the key: debug output ends in logs.
impl fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StickyKey(secret)")
    }
}

/// Why sticky cookies cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StickyError {
    /// A text is not a key. It is not repeated here, because it may nearly be one.
    #[error("a sticky key is {} random bytes, as {} hexadecimal digits or as base64", StickyKey::BYTES, 2 * StickyKey::BYTES)]
    Key,
    /// There are no random numbers to make a key of.
    #[error("make a sticky key: the system has no random numbers")]
    Random,
    /// There is no key at all.
    #[error("sticky cookies need a key")]
    NoKey,
    /// The cookie's settings are not valid.
    #[error("{0}")]
    Cookie(String),
}

/// The value of a sticky cookie: 128 bits as 22 characters of base64url (RFC 4648 section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; Token::BYTES]);

impl Token {
    /// Length of a token, in bytes of text.
    pub const BYTES: usize = 22;

    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // All of the alphabet is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.as_str())
    }
}

/// The token of the endpoint at `address` in `upstream`.
#[must_use]
pub fn token(key: &StickyKey, upstream: &Name, address: &SocketAddress) -> Token {
    Signer::new(key, upstream).token(address)
}

/// Makes the tokens of one upstream with one key.
struct Signer {
    /// What precedes the address: purpose and version, and the upstream's name with an end that no name holds.
    context: hmac::Context,
}

impl Signer {
    fn new(key: &StickyKey, upstream: &Name) -> Self {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key.0));
        context.update(b"nuncio sticky 1\0");
        context.update(upstream.as_str().as_bytes());
        context.update(b"\0");
        Self { context }
    }

    fn token(&self, address: &SocketAddress) -> Token {
        let mut context = self.context.clone();
        match address {
            SocketAddress::Ip(address) => {
                match address.ip() {
                    IpAddr::V4(ip) => context.update(&ip.octets()),
                    IpAddr::V6(ip) => context.update(&ip.octets()),
                }
                context.update(&address.port().to_be_bytes());
            }
            SocketAddress::Unix(path) => context.update(path.as_str().as_bytes()),
        }
        let tag = context.sign();
        let (half, _) = tag.as_ref().split_at(16);
        let mut text = [b'A'; Token::BYTES];
        let written = URL_SAFE_NO_PAD.encode_slice(half, &mut text);
        debug_assert_eq!(written, Ok(Token::BYTES));
        Token(text)
    }
}

/// The tokens of an upstream's endpoints, ready to be found and set.
pub struct StickyTable {
    cookie: Box<[u8]>,
    tokens: HashMap<Token, Found>,
    /// For each endpoint `Set-Cookie` without and with `Secure`.
    set_cookies: Box<[(HeaderValue, HeaderValue)]>,
}

/// The endpoint that a request's cookie names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its index. Whether it may be used is the caller's to judge: one of weight 0 may, one that is down may not.
    pub index: usize,
    /// Whether the cookie should be set again, because its token is of a key that is on its way out.
    pub is_old: bool,
}

impl StickyTable {
    /// The most cookies of a request that are looked at.
    const COOKIES_MAX: usize = 256;

    /// Computes the tokens of `addresses`, the endpoints of `upstream` in their order. New cookies are made with the first key, those of
    /// all keys are accepted: to rotate keys, put the new one in front, and remove the old one when its cookies have expired.
    ///
    /// # Errors
    /// [`StickyError::NoKey`], and [`StickyError::Cookie`] for settings that [`Sticky::check`] refuses.
    pub fn new(config: &Sticky, upstream: &Name, addresses: &[SocketAddress], keys: &[StickyKey]) -> Result<Self, StickyError> {
        config.check().map_err(StickyError::Cookie)?;
        let (newest, older) = keys.split_first().ok_or(StickyError::NoKey)?;
        let newest = Signer::new(newest, upstream);
        let attributes = attributes(config);
        let mut tokens = HashMap::with_capacity(addresses.len() * keys.len());
        let mut set_cookies = Vec::with_capacity(addresses.len());
        for (index, address) in addresses.iter().enumerate() {
            let token = newest.token(address);
            set_cookies.push(set_cookie(config, &token, &attributes)?);
            // Of an address that is listed twice the first is found.
            tokens.entry(token).or_insert(Found { index, is_old: false });
        }
        for signer in older.iter().map(|key| Signer::new(key, upstream)) {
            for (index, address) in addresses.iter().enumerate() {
                tokens.entry(signer.token(address)).or_insert(Found { index, is_old: true });
            }
        }
        Ok(Self { cookie: config.cookie.as_bytes().into(), tokens, set_cookies: set_cookies.into() })
    }

    /// The endpoint that the request's cookie names, if there is one and it is ours. Of several cookies of that name (browsers send one
    /// for each path that fits) the first that names an endpoint counts. What cannot be read is passed over.
    #[must_use]
    pub fn find(&self, headers: &HeaderMap) -> Option<Found> {
        let cookies = headers.get_all(COOKIE).iter().flat_map(|field| Cookies(Some(field.as_bytes())));
        cookies.take(Self::COOKIES_MAX).find_map(|cookie| self.tokens.get(&self.read(cookie)?).copied())
    }

    /// `Set-Cookie` for the endpoint of this index; `is_https` when the client came by TLS. None if there is no such endpoint.
    #[must_use]
    pub fn set_cookie(&self, index: usize, is_https: bool) -> Option<HeaderValue> {
        let (plain, secure) = self.set_cookies.get(index)?;
        Some(if is_https { secure } else { plain }.clone())
    }

    /// The token of a `name=value` pair, if the name is ours. A value may be quoted (RFC 6265 section 4.1.1).
    fn read(&self, cookie: &[u8]) -> Option<Token> {
        value_of(cookie, &self.cookie)?.try_into().ok().map(Token)
    }
}

/// It would be long, and tokens are what sessions hang on.
impl fmt::Debug for StickyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cookie = String::from_utf8_lossy(&self.cookie);
        f.debug_struct("StickyTable").field("cookie", &cookie).field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

/// The value of the first cookie of this name.
#[must_use]
pub fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let cookies = headers.get_all(COOKIE).iter().flat_map(|field| Cookies(Some(field.as_bytes())));
    cookies.take(StickyTable::COOKIES_MAX).find_map(|cookie| value_of(cookie, name.as_bytes()))
}

/// The value of a `name=value` pair of this name, without quotes.
fn value_of<'a>(cookie: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = cookie.strip_prefix(name)?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// The pairs of a `Cookie` field, without the space around them.
struct Cookies<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Cookies<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let (cookie, rest) = match memchr(b';', rest).and_then(|end| rest.split_at_checked(end)) {
            Some((cookie, rest)) => (cookie, rest.get(1..)),
            None => (rest, None),
        };
        self.0 = rest;
        Some(cookie.trim_ascii())
    }
}

/// What follows the value, with `Secure` last.
fn attributes(config: &Sticky) -> String {
    let mut text = format!("; Path={}; HttpOnly", config.path);
    if let Some(max_age) = config.max_age {
        // Writing to a string does not fail.
        let _ = write!(text, "; Max-Age={}", max_age.as_secs());
    }
    text.push_str(match config.same_site {
        SameSite::Lax => "; SameSite=Lax",
        SameSite::Strict => "; SameSite=Strict",
        SameSite::None => "; SameSite=None",
    });
    text.push_str(SECURE);
    text
}

const SECURE: &str = "; Secure";

/// The field without and with `Secure`: one text, of which the former is a part.
fn set_cookie(config: &Sticky, token: &Token, attributes: &str) -> Result<(HeaderValue, HeaderValue), StickyError> {
    let text = Bytes::from([&config.cookie, "=", token.as_str(), attributes].concat());
    let plain = if config.needs_secure() { text.clone() } else { text.slice(..text.len().saturating_sub(SECURE.len())) };
    let value = |text| HeaderValue::from_maybe_shared(text).map_err(|_| StickyError::Cookie("the cookie cannot be sent".into()));
    Ok((value(plain)?, value(text)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn config() -> Sticky {
        Sticky { cookie: "s".into(), max_age: None, path: "/".into(), same_site: SameSite::Lax }
    }

    fn addresses() -> Vec<SocketAddress> {
        ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80", "10.0.0.1:80"].map(|text| SocketAddress::Ip(text.parse().unwrap())).into()
    }

    fn keys(seeds: &[u8]) -> Vec<StickyKey> {
        seeds.iter().map(|seed| StickyKey::from_bytes([*seed; 32])).collect()
    }

    fn table(seeds: &[u8]) -> StickyTable {
        StickyTable::new(&config(), &Name::literal("api"), &addresses(), &keys(seeds)).unwrap()
    }

    fn find(table: &StickyTable, fields: &[&str]) -> Option<usize> {
        let fields = fields.iter().map(|field| (COOKIE, HeaderValue::from_bytes(field.as_bytes()).unwrap()));
        table.find(&HeaderMap::from_iter(fields)).map(|found| found.index)
    }

    fn text(index: usize) -> String {
        token(&keys(&[1])[0], &Name::literal("api"), &addresses()[index]).as_str().into()
    }

    /// Clients would lose their endpoint if this changed. Computed by Python's `hmac`.
    #[test]
    fn token_is_stable() {
        assert_eq!(text(0), "ESP7mG0SHuFq0xFmgN3c1Q");
    }

    #[test]
    fn tokens_differ_by_key_upstream_and_address() {
        let (key, name, address) = (&keys(&[1])[0], Name::literal("api"), &addresses()[0]);
        let first = token(key, &name, address);
        assert_eq!(first, token(key, &name, address));
        assert_ne!(first, token(&keys(&[2])[0], &name, address));
        assert_ne!(first, token(key, &Name::literal("web"), address));
        assert_ne!(first, token(key, &name, &addresses()[1]));
    }

    #[test]
    fn finds_the_cookie_among_others() {
        let (table, token) = (table(&[1]), text(1));
        let check = |fields: &[&str], expected| assert_eq!(find(&table, fields), expected, "{fields:?}");
        check(&[&format!("s={token}")], Some(1));
        check(&[&format!("a=b; s={token}; c=d")], Some(1));
        check(&[&format!("a=b;s = \"{token}\"")], Some(1));
        check(&["a=b", &format!("s={token}")], Some(1));
        check(&[&format!("s=other; s={token}; s={}", text(2))], Some(1));
        check(&[&format!("s={}", text(3))], Some(0));
        check(&[&format!("ss={token}")], None);
        check(&[&format!("S={token}")], None);
        check(&[&format!("s={token}x")], None);
        check(&[&format!("a=s={token}")], None);
        check(&[&format!("{}s={token}", "a=b; ".repeat(300))], None);
        check(&["s", "s=", ";;;", "", "=", "s=\"", "\u{fc}=\u{fc}"], None);
        check(&[], None);
    }

    #[test]
    fn sets_cookies_that_it_finds() {
        let table = table(&[1]);
        let plain = table.set_cookie(2, false).unwrap();
        assert_eq!(plain, format!("s={}; Path=/; HttpOnly; SameSite=Lax", text(2)));
        assert_eq!(table.set_cookie(2, true).unwrap(), format!("s={}; Path=/; HttpOnly; SameSite=Lax; Secure", text(2)));
        assert_eq!(find(&table, &[plain.to_str().unwrap()]), Some(2));
        assert_eq!(table.set_cookie(4, true), None);
    }

    #[test]
    fn writes_all_attributes() {
        let config = Sticky { max_age: Some(Duration::from_secs(90)), path: "/a".into(), same_site: SameSite::None, ..config() };
        let table = StickyTable::new(&config, &Name::literal("api"), &addresses(), &keys(&[1])).unwrap();
        let expected = format!("s={}; Path=/a; HttpOnly; Max-Age=90; SameSite=None; Secure", text(0));
        assert_eq!(table.set_cookie(0, false).unwrap(), expected);
    }

    #[test]
    fn rotates_keys() {
        let (old, new) = (table(&[1]), table(&[2, 1]));
        let found = |table: &StickyTable, cookie: HeaderValue| table.find(&HeaderMap::from_iter([(COOKIE, cookie)]));
        assert_eq!(found(&new, old.set_cookie(1, false).unwrap()), Some(Found { index: 1, is_old: true }));
        assert_eq!(found(&new, new.set_cookie(1, false).unwrap()), Some(Found { index: 1, is_old: false }));
        assert_eq!(found(&table(&[2]), old.set_cookie(1, false).unwrap()), None);
    }

    #[test]
    fn keys_are_read_and_never_shown() {
        let key = StickyKey::generate().unwrap();
        assert_ne!(key, StickyKey::generate().unwrap());
        assert_eq!(key.to_base64().parse(), Ok(key.clone()));
        let url_safe = key.to_base64().replace('+', "-").replace('/', "_");
        assert_eq!(url_safe.trim_end_matches('=').parse(), Ok(key.clone()));
        let hex: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(format!(" {hex}\n").parse(), Ok(key.clone()));
        assert_eq!(format!("{key:?}"), "StickyKey(secret)");
        for text in ["", "abc", &hex[1..], &hex.replace('a', "g")[..63], "é".repeat(32).as_str()] {
            assert_eq!(text.parse::<StickyKey>(), Err(StickyError::Key), "{text}");
        }
    }

    #[test]
    fn refuses_what_cannot_work() {
        let name = Name::literal("api");
        assert_eq!(StickyTable::new(&config(), &name, &[], &[]).err(), Some(StickyError::NoKey));
        let config = Sticky { cookie: "a b".into(), ..config() };
        assert!(matches!(StickyTable::new(&config, &name, &[], &keys(&[1])), Err(StickyError::Cookie(_))));
    }

    proptest! {
        #[test]
        fn any_field_can_be_read(fields in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..4)) {
            let fields = fields.iter().filter_map(|field| Some((COOKIE, HeaderValue::from_bytes(field).ok()?)));
            prop_assert_eq!(table(&[1]).find(&HeaderMap::from_iter(fields)), None);
        }

        /// Neither a guess nor a token with one character changed.
        #[test]
        fn forged_tokens_never_match(guess in "[A-Za-z0-9_-]{22}", place in 0..22_usize, character in "[A-Za-z0-9_-]") {
            let (table, token) = (table(&[1]), text(0));
            prop_assert_eq!(find(&table, &[&format!("s={guess}")]), None);
            let mut forged = token.clone();
            forged.replace_range(place..=place, &character);
            let found = find(&table, &[&format!("s={forged}")]);
            prop_assert!(forged == token || found.is_none());
        }
    }
}
