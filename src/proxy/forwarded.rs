//! Who the client is, and how endpoints are told: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! Pure functions of a connection and a request's header fields. What a peer says of others is believed only if the peer is a trusted
//! proxy; from anybody else all such fields are dropped, because an endpoint cannot tell ours from a forgery.
//!
//! Of a trusted proxy's two ways to name the client the one that the listener is set to counts, and the other only in its absence:
//! with [`Forwarded::Rfc7239`] `Forwarded` comes first, otherwise `X-Forwarded-For`. A proxy that writes one and passes the other through
//! as it came would otherwise let the client choose its own address.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::config::listener::Forwarded;
use crate::network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// The most proxies between a client and us that are looked at.
const HOPS_MAX: usize = 64;

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address. An IPv4 address is never written as an IPv6 one.
    pub ip: IpAddr,
    /// Whether it came by TLS, as far as we or trusted proxies know.
    pub is_https: bool,
}

/// What every request of a connection tells about its peer, made once per connection so that a request formats nothing.
#[derive(Debug, Clone)]
pub struct PeerHeaders {
    peer: Client,
    is_trusted: bool,
    mode: Forwarded,
    /// The peer's address as text.
    ip: HeaderValue,
    /// The port that the peer connected to, as text.
    port: HeaderValue,
}

/// The longest IP address as text, `2001:db80:1111:2222:3333:4444:5555:6666`: one of IPv4 is never written as one of IPv6 here.
const IP_BYTES_MAX: usize = 39;

/// The longest port as text.
const PORT_BYTES_MAX: usize = 5;

/// Whether `address` is in one of the networks.
#[must_use]
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    network::contain(trusted, address)
}

impl PeerHeaders {
    /// A connection from `peer` (its address, and whether it speaks TLS) to our `local_port`, on a listener with these settings.
    #[must_use]
    pub fn new(peer: Client, local_port: u16, trusted: &[IpNet], mode: Forwarded) -> Self {
        let peer = Client { ip: peer.ip.to_canonical(), ..peer };
        // One piece of memory for both.
        let mut text = String::with_capacity(IP_BYTES_MAX + PORT_BYTES_MAX);
        // Writing to memory does not fail.
        let _ = write!(text, "{}", peer.ip);
        let ip_bytes = text.len();
        let _ = write!(text, "{local_port}");
        let text = Bytes::from(text);
        let (ip, port) = (value(text.slice(..ip_bytes)), value(text.slice(ip_bytes..)));
        Self { peer, is_trusted: is_trusted(peer.ip, trusted), mode, ip, port }
    }

    /// Whether the peer is a trusted proxy.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Who sent the request with these header fields. Called before [`apply`](Self::apply), which changes them.
    ///
    /// An untrusted peer is the client. A trusted one names it: the proxies that a request came through are walked from the nearest to
    /// the farthest, and the first that is not in `trusted` is the client. The walk ends early, at the last address that could be read,
    /// where something else stands (`unknown`, an obfuscated identifier, an attempt at forgery).
    #[must_use]
    pub fn client(&self, headers: &HeaderMap, trusted: &[IpNet]) -> Client {
        if !self.is_trusted {
            return self.peer;
        }
        let (by_x_forwarded, by_forwarded) = (|| self.by_x_forwarded(headers, trusted), || self.by_forwarded(headers, trusted));
        let client = match self.mode {
            Forwarded::Rfc7239 => by_forwarded().or_else(by_x_forwarded),
            Forwarded::XForwarded | Forwarded::Both | Forwarded::Off => by_x_forwarded().or_else(by_forwarded),
        };
        client.unwrap_or(self.peer)
    }

    fn by_x_forwarded(&self, headers: &HeaderMap, trusted: &[IpNet]) -> Option<Client> {
        let proto = headers.get_all(X_FORWARDED_PROTO).iter().next_back();
        if proto.is_none() && !headers.contains_key(X_FORWARDED_FOR) {
            return None;
        }
        let fields = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let elements = fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        let hops = elements.filter(|element| !element.is_empty()).map(|element| Some(Hop { ip: parse_ip(element)?, is_https: None }));
        let hop = self.farthest(hops, trusted);
        // Each proxy keeps or replaces the scheme; of a list the last is from the nearest one.
        let proto = proto.and_then(|value| value.as_bytes().rsplit(|byte| *byte == b',').next());
        Some(Client { ip: hop.ip, is_https: proto.map_or(self.peer.is_https, is_https) })
    }

    fn by_forwarded(&self, headers: &HeaderMap, trusted: &[IpNet]) -> Option<Client> {
        let fields = headers.get_all(FORWARDED).iter().rev();
        let mut elements =
            fields.flat_map(|field| RightSplit::new(field.as_bytes(), b',')).filter(|element| !element.is_empty()).peekable();
        elements.peek()?;
        let hop = self.farthest(elements.map(parse_element), trusted);
        Some(Client { ip: hop.ip, is_https: hop.is_https.unwrap_or(self.peer.is_https) })
    }

    /// Walks away from us, through trusted proxies, to the first hop that is none.
    fn farthest(&self, hops: impl Iterator<Item = Option<Hop>>, trusted: &[IpNet]) -> Hop {
        let mut farthest = Hop { ip: self.peer.ip, is_https: None };
        for hop in hops.take(HOPS_MAX) {
            let Some(hop) = hop else { break };
            let is_proxy = is_trusted(hop.ip, trusted);
            farthest = hop;
            if !is_proxy {
                break;
            }
        }
        farthest
    }

    /// Tells the endpoint who sent the request: `client` is what [`client`](Self::client) said, `host` what the client asked for.
    ///
    /// From an untrusted peer, and with [`Forwarded::Off`], every incoming `X-Forwarded-*`, `Forwarded` and `X-Real-IP` is dropped. A
    /// trusted one's are continued: our peer is appended to the list of hops, and host, port and scheme stay as they came. A field that
    /// we do not continue, because the listener is set to the other kind, is dropped: the endpoint would take its end for the client.
    pub fn apply(&self, headers: &mut HeaderMap, client: Client, host: Option<&HeaderValue>) {
        if !self.is_trusted || self.mode == Forwarded::Off {
            drop_all(headers);
        }
        let (is_x, is_rfc) = match self.mode {
            Forwarded::Off => return,
            Forwarded::XForwarded => (true, false),
            Forwarded::Rfc7239 => (false, true),
            Forwarded::Both => (true, true),
        };
        if self.is_trusted {
            self.continue_fields(headers, client, host, (is_x, is_rfc));
            return;
        }
        if is_x {
            self.start_x_forwarded(headers, host);
        }
        if is_rfc {
            headers.insert(FORWARDED, self.forwarded(headers, client, host));
        }
    }

    /// There are no such fields, and the peer is the client.
    fn start_x_forwarded(&self, headers: &mut HeaderMap, host: Option<&HeaderValue>) {
        headers.reserve(4);
        headers.insert(X_FORWARDED_FOR, self.ip.clone());
        headers.insert(X_FORWARDED_PROTO, proto(self.peer));
        headers.insert(X_FORWARDED_PORT, self.port.clone());
        if let Some(host) = host {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
    }

    /// What is there is a trusted proxy's.
    fn continue_fields(&self, headers: &mut HeaderMap, client: Client, host: Option<&HeaderValue>, (is_x, is_rfc): (bool, bool)) {
        let forwarded = is_rfc.then(|| self.forwarded(headers, client, host));
        if is_x {
            self.continue_x_forwarded(headers, client, host);
        } else {
            for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_FORWARDED_PORT] {
                headers.remove(name);
            }
        }
        match forwarded {
            Some(forwarded) => headers.insert(FORWARDED, forwarded),
            None => headers.remove(FORWARDED),
        };
    }

    fn continue_x_forwarded(&self, headers: &mut HeaderMap, client: Client, host: Option<&HeaderValue>) {
        let hops = self.append(headers, &X_FORWARDED_FOR, client, self.ip.as_bytes(), |ip| ip.to_owned());
        headers.insert(X_FORWARDED_FOR, hops.unwrap_or_else(|| self.ip.clone()));
        let is_told = headers.contains_key(X_FORWARDED_PROTO);
        if !is_told {
            headers.insert(X_FORWARDED_PROTO, proto(client));
        }
        if let Some(host) = host
            && !headers.contains_key(X_FORWARDED_HOST)
        {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
        // Our port beside another's scheme would make wrong addresses.
        if !is_told && !headers.contains_key(X_FORWARDED_PORT) {
            headers.insert(X_FORWARDED_PORT, self.port.clone());
        }
    }

    /// The value of `Forwarded`.
    fn forwarded(&self, headers: &HeaderMap, client: Client, host: Option<&HeaderValue>) -> HeaderValue {
        let mut ours = element(self.peer, self.ip.as_bytes(), host.map_or(0, |host| host.len() + ";host=\"\"".len()));
        if let Some(host) = host {
            ours.extend_from_slice(b";host=");
            push_value(&mut ours, host.as_bytes());
        }
        let list = self.append(headers, &FORWARDED, client, &ours, |ip| element(client, ip, 0));
        list.unwrap_or_else(|| value(ours.into()))
    }

    /// The list of hops in field `name` with ours at its end. None if ours is the only one.
    ///
    /// When the list is missing although the client is known, because it was named in the other kind of field, or when the list has a quote
    /// that is not closed, it starts with the client.
    fn append(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
        client: Client,
        hop: &[u8],
        of_client: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Option<HeaderValue> {
        let before = headers.get_all(name);
        let is_whole = *name != FORWARDED || before.iter().all(closes_quotes);
        if is_whole && before.iter().any(has_element) {
            let bytes = before.iter().map(|value| value.len() + 2).sum();
            return join(before.iter().map(HeaderValue::as_bytes), bytes, hop);
        }
        if client.ip == self.peer.ip {
            return None;
        }
        let client = of_client(client.ip.to_string().as_bytes());
        join([client.as_slice()].into_iter(), client.len() + 2, hop)
    }
}

/// Whether a list is more than commas and space. What is not names no client, and must not stand in the way of who does.
fn has_element(list: &HeaderValue) -> bool {
    list.as_bytes().iter().any(|byte| !matches!(byte, b',' | b' ' | b'\t'))
}

/// Whether all quotes of a list of `Forwarded` are closed. If not, what we append would be inside of them to who reads from the left, and
/// lines that are joined would mean something else than they did apart.
fn closes_quotes(list: &HeaderValue) -> bool {
    let mut bytes = list.as_bytes().iter();
    let mut is_quoted = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            // An escape; outside of quotes there are none (RFC 9110 section 5.6.4).
            b'\\' if !is_quoted || bytes.next().is_none() => return false,
            _ => (),
        }
    }
    !is_quoted
}

fn proto(client: Client) -> HeaderValue {
    HeaderValue::from_static(if client.is_https { "https" } else { "http" })
}

fn join<'a>(before: impl Iterator<Item = &'a [u8]>, bytes: usize, last: &[u8]) -> Option<HeaderValue> {
    let mut list = Vec::with_capacity(bytes + last.len());
    for element in before.filter(|element| !element.is_empty()) {
        list.extend_from_slice(element);
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(last);
    HeaderValue::from_maybe_shared(Bytes::from(list)).ok()
}

/// Drops every field that says something of the client. Usually there are none, and nothing is allocated.
fn drop_all(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_about_client(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether a field name is one of those that endpoints believe. Many of them see names as CGI does, where `-` and `_` are the same.
fn is_about_client(name: &str) -> bool {
    let name = name.as_bytes();
    let starts_with = |prefix: &[u8]| {
        let fold = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
        name.get(..prefix.len()).is_some_and(|start| start.iter().map(fold).eq(prefix.iter().copied()))
    };
    match name.first() {
        Some(b'x') => starts_with(b"x-forwarded") || (starts_with(b"x-real-ip") && name.len() == b"x-real-ip".len()),
        Some(b'f') => name == b"forwarded",
        _ => false,
    }
}

/// A proxy, or the client, on the way of a request.
#[derive(Debug, PartialEq, Eq)]
struct Hop {
    ip: IpAddr,
    is_https: Option<bool>,
}

/// Reads an element of `Forwarded`: `for=192.0.2.43;proto=https`. Other parameters are passed over; one without `for` is no hop.
fn parse_element(element: &[u8]) -> Option<Hop> {
    let (mut ip, mut proto) = (None, None);
    for pair in RightSplit::new(element, b';') {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair.get(..equals)?.trim_ascii(), unquote(pair.get(equals + 1..)?.trim_ascii()));
        if name.eq_ignore_ascii_case(b"for") {
            // A parameter occurs once (RFC 7239 section 4).
            ip = if ip.is_none() { Some(parse_ip(value)?) } else { return None };
        } else if name.eq_ignore_ascii_case(b"proto") {
            proto = Some(is_https(value));
        }
    }
    Some(Hop { ip: ip?, is_https: proto })
}

fn unquote(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// WebSockets over TLS count too: some proxies name their scheme.
fn is_https(proto: &[u8]) -> bool {
    let proto = proto.trim_ascii();
    proto.eq_ignore_ascii_case(b"https") || proto.eq_ignore_ascii_case(b"wss")
}

/// Reads an address, with a port or without: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_ip(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    ip.ok().map(|ip| ip.to_canonical())
}

/// Splits at separators outside of quotes, from the right.
///
/// From the right, because the right end is what the nearest, trusted proxy wrote: a quote that an attacker left open further left
/// would swallow it if we read from the left.
struct RightSplit<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> RightSplit<'a> {
    fn new(text: &'a [u8], separator: u8) -> Self {
        Self { rest: Some(text), separator }
    }
}

impl<'a> Iterator for RightSplit<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.rest.take()?;
        let mut is_quoted = false;
        for (at, byte) in text.iter().enumerate().rev() {
            let (left, right) = text.split_at(at);
            if *byte == b'"' && !ends_with_escape(left) {
                is_quoted = !is_quoted;
            } else if *byte == self.separator && !is_quoted {
                self.rest = Some(left);
                return right.get(1..).map(<[u8]>::trim_ascii);
            }
        }
        Some(text.trim_ascii())
    }
}

fn ends_with_escape(text: &[u8]) -> bool {
    text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// `for=192.0.2.1;proto=http`, with room for `more` bytes behind it. IPv6 addresses are quoted and in brackets (RFC 7239 section 6).
fn element(client: Client, ip: &[u8], more: usize) -> Vec<u8> {
    let (open, close): (&[u8], &[u8]) = if client.ip.is_ipv6() { (b"\"[", b"]\"") } else { (b"", b"") };
    let proto: &[u8] = if client.is_https { b"https" } else { b"http" };
    let parts = [b"for=", open, ip, close, b";proto=", proto];
    let mut element = Vec::with_capacity(parts.iter().map(|part| part.len()).sum::<usize>() + more);
    parts.iter().for_each(|part| element.extend_from_slice(part));
    element
}

/// Writes a parameter's value: a token as it is, anything else quoted (RFC 9110 section 5.6.4).
fn push_value(element: &mut Vec<u8>, value: &[u8]) {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if !value.is_empty() && value.iter().all(is_token) {
        element.extend_from_slice(value);
        return;
    }
    element.push(b'"');
    for byte in value {
        if matches!(byte, b'"' | b'\\') {
            element.push(b'\\');
        }
        element.push(*byte);
    }
    element.push(b'"');
}

/// What is written here can be the value of a header field.
fn value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Forwarded; 4] = [Forwarded::XForwarded, Forwarded::Rfc7239, Forwarded::Both, Forwarded::Off];

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    }

    fn peer(ip: &str, mode: Forwarded) -> PeerHeaders {
        PeerHeaders::new(Client { ip: ip.parse().unwrap(), is_https: false }, 8080, &trusted(), mode)
    }

    fn map(lines: &[&str]) -> HeaderMap {
        let lines = lines.iter().map(|line| line.split_once(": ").unwrap());
        lines.map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())).collect()
    }

    fn client(ip: &str, mode: Forwarded, lines: &[&str]) -> String {
        let client = peer(ip, mode).client(&map(lines), &trusted());
        format!("{} {}", client.ip, if client.is_https { "https" } else { "http" })
    }

    /// The fields that the endpoint gets, sorted.
    fn applied(ip: &str, mode: Forwarded, lines: &[&str]) -> Vec<String> {
        let (peer, mut headers) = (peer(ip, mode), map(lines));
        let client = peer.client(&headers, &trusted());
        peer.apply(&mut headers, client, Some(&HeaderValue::from_static("a.com:80")));
        let mut lines: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn untrusted_peers_are_the_client() {
        for mode in ALL {
            let lines = ["x-forwarded-for: 1.1.1.1", "x-forwarded-proto: https", "forwarded: for=1.1.1.1;proto=https"];
            assert_eq!(client("192.0.2.1", mode, &lines), "192.0.2.1 http");
            assert_eq!(client("::ffff:192.0.2.1", mode, &lines), "192.0.2.1 http");
        }
    }

    #[test]
    fn trusted_peers_name_the_client() {
        let check = |lines: &[&str], expected: &str| assert_eq!(client("10.0.0.1", Forwarded::XForwarded, lines), expected, "{lines:?}");
        check(&[], "10.0.0.1 http");
        check(&["x-forwarded-for: 1.1.1.1", "x-forwarded-proto: https"], "1.1.1.1 https");
        check(&["x-forwarded-for: 6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1 http");
        check(&["x-forwarded-for: 6.6.6.6, 1.1.1.1", "x-forwarded-for: 10.0.0.2,,10.0.0.3 "], "1.1.1.1 http");
        check(&["x-forwarded-for: 10.0.0.3, 10.0.0.2"], "10.0.0.3 http");
        check(&["x-forwarded-for: 6.6.6.6, garbage, 10.0.0.2"], "10.0.0.2 http");
        check(&["x-forwarded-for: unknown"], "10.0.0.1 http");
        check(&["x-forwarded-for: 1.1.1.1:4711"], "1.1.1.1 http");
        check(&["x-forwarded-for: [2001:db8::1]:4711"], "2001:db8::1 http");
        check(&["x-forwarded-for: 2001:db8::1, ::ffff:10.0.0.9"], "2001:db8::1 http");
        check(&["x-forwarded-proto: https"], "10.0.0.1 https");
        check(&["x-forwarded-proto: http, HTTPS"], "10.0.0.1 https");
        check(&["x-forwarded-proto: gopher"], "10.0.0.1 http");
    }

    #[test]
    fn walks_a_bounded_way() {
        let hops = vec!["10.0.0.2"; HOPS_MAX].join(", ");
        assert_eq!(client("10.0.0.1", Forwarded::XForwarded, &[&format!("x-forwarded-for: 1.1.1.1, {hops}")]), "10.0.0.2 http");
    }

    #[test]
    fn reads_rfc_7239() {
        let check = |line: &str, expected: &str| assert_eq!(client("10.0.0.1", Forwarded::Rfc7239, &[line]), expected, "{line}");
        check("forwarded: for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60 http");
        check("forwarded: For=\"[2001:db8:cafe::17]:4711\"; Proto=HTTPS", "2001:db8:cafe::17 https");
        check("forwarded: for=6.6.6.6, for=1.1.1.1;proto=https, for=10.0.0.2;proto=http", "1.1.1.1 https");
        check("forwarded: for=1.1.1.1;host=\"a,b;c\", for=10.0.0.2", "1.1.1.1 http");
        check("forwarded: for=1.1.1.1;host=\"a\\\",b\"", "1.1.1.1 http");
        check("forwarded: for=_hidden, for=10.0.0.2", "10.0.0.2 http");
        check("forwarded: for=unknown;proto=https", "10.0.0.1 http");
        check("forwarded: for=1.1.1.1;for=6.6.6.6", "10.0.0.1 http");
        check("forwarded: proto=https", "10.0.0.1 http");
    }

    /// The attacker's part is on the left, and may not reach into what the trusted proxy appended.
    #[test]
    fn open_quotes_swallow_nothing() {
        let check = |line: &str| assert_eq!(client("10.0.0.1", Forwarded::Rfc7239, &[line]), "1.1.1.1 http", "{line}");
        check("forwarded: for=\"6.6.6.6, for=1.1.1.1");
        check("forwarded: for=6.6.6.6;host=\"\\, for=1.1.1.1;proto=http");
        check("forwarded: \", for=1.1.1.1;host=\"a.com:80\"");
    }

    /// Nor may it reach into what we append: endpoints read from the left.
    #[test]
    fn open_quotes_are_not_passed_on() {
        let check = |lines: &[&str]| {
            let expected = "forwarded: for=1.1.1.1;proto=http, for=10.0.0.1;proto=http;host=\"a.com:80\"";
            assert_eq!(applied("10.0.0.1", Forwarded::Rfc7239, lines), [expected], "{lines:?}");
        };
        check(&["forwarded: for=\"6.6.6.6, for=1.1.1.1"]);
        check(&["forwarded: for=6.6.6.6;host=\"\\, for=1.1.1.1"]);
        check(&["forwarded: for=6.6.6.6;host=\\, for=1.1.1.1"]);
        check(&["forwarded: for=6.6.6.6;host=\"", "forwarded: for=1.1.1.1"]);
        let told = ["forwarded: for=6.6.6.6;host=\"a\\\", \\\\\", for=1.1.1.1"];
        let expected = format!("{}, for=10.0.0.1;proto=http;host=\"a.com:80\"", told[0]);
        assert_eq!(applied("10.0.0.1", Forwarded::Rfc7239, &told), [expected]);
    }

    #[test]
    fn one_kind_counts_and_the_other_fills_in() {
        let both = ["x-forwarded-for: 1.1.1.1", "forwarded: for=2.2.2.2"];
        assert_eq!(client("10.0.0.1", Forwarded::XForwarded, &both), "1.1.1.1 http");
        assert_eq!(client("10.0.0.1", Forwarded::Both, &both), "1.1.1.1 http");
        assert_eq!(client("10.0.0.1", Forwarded::Rfc7239, &both), "2.2.2.2 http");
        assert_eq!(client("10.0.0.1", Forwarded::XForwarded, &both[1..]), "2.2.2.2 http");
        assert_eq!(client("10.0.0.1", Forwarded::Rfc7239, &both[..1]), "1.1.1.1 http");
    }

    #[test]
    fn forged_fields_are_replaced() {
        let forged = [
            "x-forwarded-for: 1.1.1.1",
            "x-forwarded-for: 2.2.2.2",
            "x-forwarded-proto: https",
            "x-forwarded-host: evil.com",
            "x-forwarded-prefix: /admin",
            "x-forwarded-anything: x",
            "x_forwarded_for: 1.1.1.1",
            "x-forwarded_host: evil.com",
            "x-real-ip: 1.1.1.1",
            "x_real_ip: 1.1.1.1",
            "forwarded: for=1.1.1.1",
            "x-real-ipod: kept",
            "accept: */*",
        ];
        let kept = ["accept: */*", "x-real-ipod: kept"].map(String::from);
        let x = ["x-forwarded-for: 192.0.2.1", "x-forwarded-host: a.com:80", "x-forwarded-port: 8080", "x-forwarded-proto: http"];
        let rfc = "forwarded: for=192.0.2.1;proto=http;host=\"a.com:80\"";
        let check = |mode, expected: &[&str]| {
            let mut expected: Vec<String> = expected.iter().map(ToString::to_string).chain(kept.clone()).collect();
            expected.sort();
            assert_eq!(applied("192.0.2.1", mode, &forged), expected);
        };
        check(Forwarded::XForwarded, &x);
        check(Forwarded::Rfc7239, &[rfc]);
        check(Forwarded::Both, &[x[0], x[1], x[2], x[3], rfc]);
        check(Forwarded::Off, &[]);
    }

    #[test]
    fn trusted_fields_are_continued() {
        let told = ["x-forwarded-for: 6.6.6.6", "x-forwarded-for: 1.1.1.1", "x-forwarded-proto: https", "x-forwarded-prefix: /a"];
        let expected = ["x-forwarded-for: 6.6.6.6, 1.1.1.1, 10.0.0.1", "x-forwarded-host: a.com:80", "x-forwarded-prefix: /a", told[2]];
        assert_eq!(applied("10.0.0.1", Forwarded::XForwarded, &told), expected);

        let told = ["x-forwarded-for: 1.1.1.1", "x-forwarded-host: b.com", "x-forwarded-port: 443", "x-forwarded-proto: https"];
        let mut expected = told.map(String::from);
        expected[0].push_str(", 10.0.0.1");
        assert_eq!(applied("10.0.0.1", Forwarded::XForwarded, &told), expected);

        let expected = "forwarded: for=1.1.1.1;by=_x, for=\"[fd00::1]\";proto=http;host=\"a.com:80\"";
        assert_eq!(applied("fd00::1", Forwarded::Rfc7239, &["forwarded: for=1.1.1.1;by=_x"]), [expected]);
        assert_eq!(applied("10.0.0.1", Forwarded::Off, &told), Vec::<String>::new());
    }

    /// The client that one kind of field named is not lost when the endpoint is told by the other kind.
    #[test]
    fn one_kind_is_turned_into_the_other() {
        let told = ["forwarded: for=\"[2001:db8::1]\";proto=https"];
        let lines = applied("10.0.0.1", Forwarded::XForwarded, &told);
        assert_eq!(lines[0], "x-forwarded-for: 2001:db8::1, 10.0.0.1");
        assert!(lines.contains(&"x-forwarded-proto: https".into()));
        let lines = applied("10.0.0.1", Forwarded::Rfc7239, &["x-forwarded-for: 2001:db8::1", "x-forwarded-proto: https"]);
        assert_eq!(lines, ["forwarded: for=\"[2001:db8::1]\";proto=https, for=10.0.0.1;proto=http;host=\"a.com:80\""]);
    }

    /// A field without an element in it does not name the client, so the other kind does, and the client is not lost.
    #[test]
    fn empty_fields_hide_nobody() {
        for empty in ["forwarded: ", "forwarded: , ,"] {
            let told = ["x-forwarded-for: 1.1.1.1", empty];
            assert_eq!(client("10.0.0.1", Forwarded::Rfc7239, &told), "1.1.1.1 http");
            let expected = "forwarded: for=1.1.1.1;proto=http, for=10.0.0.1;proto=http;host=\"a.com:80\"";
            assert_eq!(applied("10.0.0.1", Forwarded::Rfc7239, &told), [expected]);
        }
    }

    #[test]
    fn hosts_are_quoted() {
        let check = |host: &str, expected: &str| {
            let mut element = Vec::new();
            push_value(&mut element, host.as_bytes());
            assert_eq!(String::from_utf8(element).unwrap(), expected);
        };
        check("a.com", "a.com");
        check("a.com:80", "\"a.com:80\"");
        check("", "\"\"");
        check("a\";for=1.1.1.1;\\", "\"a\\\";for=1.1.1.1;\\\\\"");
    }

    #[test]
    fn the_longest_address_is_told_whole() {
        let longest = "2001:db80:1111:2222:3333:4444:5555:6666";
        assert_eq!(longest.len(), IP_BYTES_MAX);
        let client = Client { ip: longest.parse().unwrap(), is_https: true };
        let peer = PeerHeaders::new(client, u16::MAX, &[], Forwarded::Both);
        assert_eq!((peer.ip.to_str().unwrap(), peer.port.to_str().unwrap()), (longest, "65535"));
        assert_eq!(peer.forwarded(&HeaderMap::new(), client, None), format!("for=\"[{longest}]\";proto=https"));
    }

    proptest! {
        #[test]
        fn any_fields_can_be_read(
            fields in prop::collection::vec((0..4_usize, "[ -~]{0,30}|(for=|\"|\\\\|,|;|1\\.1\\.1\\.1|10\\.0\\.0\\.2|\\[|\\]){0,12}"), 0..6),
            is_from_proxy: bool,
        ) {
            let names = [X_FORWARDED_FOR, FORWARDED, X_FORWARDED_PROTO, X_FORWARDED_HOST];
            let headers: HeaderMap = fields.iter().map(|(name, value)| (names[*name].clone(), value.parse().unwrap())).collect();
            for mode in ALL {
                let peer = peer(if is_from_proxy { "10.0.0.1" } else { "192.0.2.1" }, mode);
                let client = peer.client(&headers, &trusted());
                prop_assert!(is_from_proxy || client == peer.peer);
                let mut headers = headers.clone();
                peer.apply(&mut headers, client, None);
                prop_assert!(headers.get_all(X_FORWARDED_FOR).iter().count() <= 1);
            }
        }

        /// Whatever a client writes, our trusted proxy in front appends its address, and that is who it is.
        #[test]
        fn nobody_forges_an_address(forged in "[ -~]{0,60}") {
            for (mode, name, own) in [(Forwarded::XForwarded, X_FORWARDED_FOR, "1.1.1.1"), (Forwarded::Rfc7239, FORWARDED, "for=1.1.1.1;host=\"h:1\"")] {
                let headers = HeaderMap::from_iter([(name, format!("{forged}, {own}").parse().unwrap())]);
                prop_assert_eq!(peer("10.0.0.1", mode).client(&headers, &trusted()).ip.to_string(), "1.1.1.1");
            }
        }
    }
}
