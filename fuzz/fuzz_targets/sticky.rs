//! Sticky cookies. Each line is a `Cookie` field of one request.

#![no_main]

use std::sync::LazyLock;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use nuncio::config::upstream::Sticky;
use nuncio::names::Name;
use nuncio::routing::sticky::{Found, StickyKey, StickyTable, cookie_value, token};
use nuncio::socket::SocketAddress;

const COOKIE_NAME: &str = "session";

struct Fixture {
    tokens: Vec<String>,
    table: StickyTable,
    /// The same upstream, under a key that nobody knows.
    stranger: StickyTable,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let addresses: Vec<SocketAddress> = ["10.0.0.1:80", "unix:/run/app.sock"].map(|address| address.parse().unwrap()).into();
    let upstream = Name::literal("api");
    let config: Sticky = serde_json::from_value(serde_json::json!({ "cookie": COOKIE_NAME })).unwrap();
    let keys = [StickyKey::from_bytes([1; StickyKey::BYTES]), StickyKey::from_bytes([2; StickyKey::BYTES])];
    let table = |keys: &[StickyKey]| StickyTable::new(&config, &upstream, &addresses, keys).unwrap();
    let tokens = keys.iter().flat_map(|key| addresses.iter().map(|address| token(key, &upstream, address).as_str().to_string()));
    Fixture { tokens: tokens.collect(), table: table(&keys), stranger: table(&[StickyKey::generate().unwrap()]) }
});

fuzz_target!(|bytes: &[u8]| {
    let fixture = &*FIXTURE;
    let mut headers = HeaderMap::new();
    for value in bytes.split(|byte| *byte == b'\n').take(8).filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(COOKIE, value);
    }
    let found = fixture.table.find(&headers);
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    if let Some(Found { index, is_old }) = found {
        assert!(holds(COOKIE_NAME) && holds(&fixture.tokens[index + 2 * usize::from(is_old)]), "only a token names an endpoint");
        assert!(cookie_value(&headers, COOKIE_NAME).is_some());
    }
    assert_eq!(fixture.stranger.find(&headers), None, "without the key nobody makes a token");

    // Whatever stands before it, a browser's own cookie is found, unless another of our tokens came first.
    let pairs = bytes.iter().filter(|byte| matches!(byte, b';' | b'\n')).count();
    if pairs < 200 {
        let (token, own) = (&fixture.tokens[1], Found { index: 1, is_old: false });
        headers.append(COOKIE, format!("a=b; {COOKIE_NAME}={token}; c").parse().unwrap());
        assert_eq!(fixture.table.find(&headers), found.or(Some(own)));
    }
});
