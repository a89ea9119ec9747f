//! Who the client is, and what endpoints are told. The first line chooses a peer and a mode by its first two bytes, the second is the
//! host asked for, all others are header fields.

#![no_main]

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use nuncio::config::listener::Forwarded;
use nuncio::proxy::forwarded::{Client, PeerHeaders, is_trusted};

const MODES: [Forwarded; 4] = [Forwarded::XForwarded, Forwarded::Rfc7239, Forwarded::Both, Forwarded::Off];
const PEERS: [&str; 6] = ["192.0.2.1", "10.0.0.1", "2001:db8::9", "fd00::1", "::ffff:192.0.2.1", "::ffff:10.0.0.1"];
/// We, as the endpoint or the next proxy sees us.
const US: &str = "10.9.9.9";
const LOCAL_PORT: u16 = 8443;
/// The walk from proxy to proxy is bounded: what is told in longer lists is not compared.
const ELEMENTS_MAX: usize = 50;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let choice = lines.next().unwrap_or_default();
    let choose = |at: usize| usize::from(choice.get(at).copied().unwrap_or_default());
    let (ip, mode) = (PEERS[choose(0) % PEERS.len()], MODES[choose(1) % MODES.len()]);
    let host = lines.next().and_then(|host| HeaderValue::from_bytes(host).ok()).filter(|host| !host.is_empty());
    let headers = header_map(lines);
    let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());

    let peer = Client { ip: ip.parse().unwrap(), is_https: choose(1) & 4 != 0 };
    let from_peer = PeerHeaders::new(peer, LOCAL_PORT, &trusted, mode);
    assert_eq!(from_peer.is_trusted(), is_trusted(peer.ip, &trusted));
    let peer = Client { ip: peer.ip.to_canonical(), ..peer };
    let client = from_peer.client(&headers, &trusted);
    assert_eq!(client.ip, client.ip.to_canonical());
    let mut told = headers.clone();
    from_peer.apply(&mut told, client, host.as_ref());

    unrelated_fields_stay(&headers, &told);
    if !from_peer.is_trusted() {
        assert_eq!(client, peer, "an untrusted peer is the client");
        nothing_is_forged(&told, peer, mode, host.as_ref());
    }
    if mode == Forwarded::Off {
        assert!(!told.keys().any(is_about_client), "endpoints are told nothing");
    } else if bytes.iter().filter(|byte| **byte == b',').nth(ELEMENTS_MAX).is_none() {
        let next = PeerHeaders::new(Client { ip: US.parse().unwrap(), is_https: false }, 80, &trusted, mode);
        assert_eq!(next.client(&told, &trusted).ip, client.ip, "who believes us sees the same client in {told:?}");
    }
});

fn header_map<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// As CGI and its heirs see it: `-` and `_` are the same.
fn is_about_client(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    name.starts_with("x-forwarded") || name == "forwarded" || name == "x-real-ip"
}

fn unrelated_fields_stay(headers: &HeaderMap, told: &HeaderMap) {
    let unrelated = |headers: &HeaderMap| -> Vec<(HeaderName, HeaderValue)> {
        let fields = headers.iter().filter(|(name, _)| !is_about_client(name));
        let mut fields: Vec<_> = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
        fields.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        fields
    };
    assert_eq!(unrelated(headers), unrelated(told));
}

/// Of all fields that an endpoint may believe, each says what we know, and nothing else.
fn nothing_is_forged(told: &HeaderMap, peer: Client, mode: Forwarded, host: Option<&HeaderValue>) {
    let scheme = if peer.is_https { "https" } else { "http" };
    for (name, value) in told.iter().filter(|(name, _)| is_about_client(name)) {
        assert_eq!(told.get_all(name).iter().count(), 1, "{name} is there once");
        let value = value.as_bytes();
        let is_ours = match name.as_str() {
            "x-forwarded-for" => mode != Forwarded::Rfc7239 && value == peer.ip.to_string().as_bytes(),
            "x-forwarded-proto" => mode != Forwarded::Rfc7239 && value == scheme.as_bytes(),
            "x-forwarded-port" => mode != Forwarded::Rfc7239 && value == LOCAL_PORT.to_string().as_bytes(),
            "x-forwarded-host" => mode != Forwarded::Rfc7239 && host.is_some_and(|host| value == host.as_bytes()),
            "forwarded" => mode != Forwarded::XForwarded && value == element(peer.ip, scheme, host),
            _ => false,
        };
        assert!(is_ours, "{name} is forged in {told:?}");
    }
}

/// Our element of `Forwarded` (RFC 7239 section 4).
fn element(ip: IpAddr, scheme: &str, host: Option<&HeaderValue>) -> Vec<u8> {
    let node = if ip.is_ipv6() { format!("\"[{ip}]\"") } else { ip.to_string() };
    let mut element = format!("for={node};proto={scheme}").into_bytes();
    let Some(host) = host else { return element };
    element.extend_from_slice(b";host=");
    let is_token = host.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte));
    let quote: &[u8] = if is_token { b"" } else { b"\"" };
    element.extend_from_slice(quote);
    for byte in host.as_bytes() {
        if matches!(byte, b'"' | b'\\') {
            element.push(b'\\');
        }
        element.push(*byte);
    }
    element.extend_from_slice(quote);
    element
}
