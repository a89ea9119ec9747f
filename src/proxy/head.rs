//! The head of a request before anything else looks at it: is there exactly one way to read it?
//!
//! hyper holds the framing (RFC 9112 section 6), but forwards some heads on which two parsers could disagree. They are refused here,
//! before routing. What passes has one host, one framing and a normalised path, and it is these that are matched *and* forwarded.

use std::borrow::Cow;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};

use super::error::Failure;
use crate::config::listener::{EncodedSlashes, ListenerLimits};
use crate::rule::host::normalize_host;
use crate::rule::path;

const HOPS: usize = 8;

/// Fields that concern one connection, not the message (RFC 9110 section 7.6.1). `Transfer-Encoding` is written anew.
static HOP_BY_HOP: [HeaderName; HOPS] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The names in [`HOP_BY_HOP`] as text.
const HOP_NAMES: [&str; HOPS] =
    ["connection", "transfer-encoding", "upgrade", "te", "proxy-authenticate", "proxy-authorization", "keep-alive", "proxy-connection"];

/// Their lengths, as bits.
const HOP_LENGTHS: u32 = lengths(&HOP_NAMES);

/// Their lengths.
const HOP_BYTES: [usize; HOPS] = {
    let (mut bytes, mut at) = ([0; HOPS], 0);
    while at < HOPS {
        bytes[at] = HOP_NAMES[at].len();
        at += 1;
    }
    bytes
};

/// Checks the head and normalises its path.
///
/// # Errors
/// A failure of status 400, 414, 431 or 501, with a word for what is wrong.
pub(crate) fn check(head: &mut Parts, limits: &ListenerLimits, encoded_slashes: EncodedSlashes) -> Result<(), Failure> {
    if head.method == Method::CONNECT {
        return Err(Failure::client(StatusCode::NOT_IMPLEMENTED, "connect_unsupported"));
    }
    check_size(head, limits)?;
    check_framing(head)?;
    check_host(head)?;
    if encoded_slashes == EncodedSlashes::Refuse && has_encoded_slash(head.uri.path()) {
        return Err(bad("encoded_slash"));
    }
    normalize(head)
}

/// hyper bounds the bytes of a head, and the fields of HTTP/1.1 alone.
fn check_size(head: &Parts, limits: &ListenerLimits) -> Result<(), Failure> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > usize::from(limits.uri_bytes) {
        return Err(Failure::client(StatusCode::URI_TOO_LONG, "uri_too_long"));
    }
    if head.headers.len() > usize::from(limits.headers) {
        return Err(Failure::client(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers"));
    }
    Ok(())
}

fn has_encoded_slash(path: &str) -> bool {
    let path = path.as_bytes();
    memchr::memchr_iter(b'%', path).any(|at| matches!(path.get(at + 1..at + 3), Some(b"2F" | b"2f")))
}

fn bad(cause: &'static str) -> Failure {
    Failure::client(StatusCode::BAD_REQUEST, cause)
}

/// Whether a field of this name could be one of `names`: most names are told apart by their length alone, without a comparison.
fn may_be(name: &HeaderName, lengths: u32) -> bool {
    1_u32.checked_shl(u32::try_from(name.as_str().len()).unwrap_or(u32::MAX)).is_some_and(|bit| lengths & bit != 0)
}

/// The lengths of names, as bits.
const fn lengths(names: &[&str]) -> u32 {
    let (mut bits, mut at) = (0, 0);
    while at < names.len() {
        bits |= 1 << names[at].len();
        at += 1;
    }
    bits
}

/// Whether it is one of the fields that concern the connection alone.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    may_be(name, HOP_LENGTHS) && HOP_BY_HOP.contains(name)
}

const FRAMING: u32 = lengths(&["transfer-encoding", "content-length"]);

fn check_framing(head: &Parts) -> Result<(), Failure> {
    if !head.headers.keys().any(|name| may_be(name, FRAMING)) {
        return Ok(());
    }
    let mut encodings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        let is_chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked") && encodings.next().is_none();
        if !is_chunked || head.version != Version::HTTP_11 {
            return Err(bad("transfer_encoding"));
        }
        if head.headers.contains_key(header::CONTENT_LENGTH) {
            return Err(bad("two_framings"));
        }
    }
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit))
    {
        return Err(bad("content_length"));
    }
    Ok(())
}

fn check_host(head: &Parts) -> Result<(), Failure> {
    let mut fields = head.headers.get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(bad("several_hosts"));
    }
    if head.version < Version::HTTP_2 && head.uri.scheme().is_none() && head.uri.authority().is_some() {
        return Err(bad("authority_form"));
    }
    match (field, head.uri.authority()) {
        (None, None) if head.version == Version::HTTP_10 => Ok(()),
        (None, None) => Err(bad("no_host")),
        // A target with an authority and a field with another one: RFC 9112 section 3.2.2 lets the target win; we do not guess.
        (Some(field), Some(authority)) if !field.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => Err(bad("two_hosts")),
        _ => Ok(()),
    }
}

fn normalize(head: &mut Parts) -> Result<(), Failure> {
    let path = head.uri.path();
    if path == "*" && head.method == Method::OPTIONS {
        return Ok(());
    }
    let Cow::Owned(path) = path::normalize(path).map_err(|_| bad("path"))? else { return Ok(()) };
    set_path(&mut head.uri, &path).ok_or_else(|| bad("path"))
}

/// Puts another path into a URI and keeps all else.
pub(crate) fn set_path(uri: &mut Uri, path: &str) -> Option<()> {
    let target = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(target.ok()?);
    *uri = Uri::from_parts(parts).ok()?;
    Some(())
}

/// The host that a checked head asks for, normalised; empty for an HTTP/1.0 request without one.
///
/// # Errors
/// A failure of status 400 when it is no host.
pub(crate) fn host(head: &Parts) -> Result<Cow<'_, str>, Failure> {
    let authority = match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => match head.headers.get(header::HOST) {
            Some(field) => field.to_str().map_err(|_| bad("host"))?,
            None => return Ok(Cow::Borrowed("")),
        },
    };
    normalize_host(authority).map_err(|_| bad("host"))
}

/// The protocol that a request asks to switch to, if it does so in the one way that RFC 9110 section 7.8 knows. Never `h2c`: what
/// follows would be requests that we have not seen, past every rule. RFC 9113 has dropped it, and RFC 7540 lets us ignore it.
fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(header::UPGRADE).filter(|_| version == Version::HTTP_11)?;
    if protocol.as_bytes().split(|byte| *byte == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(b"h2c")) {
        return None;
    }
    names_option(headers, "upgrade").then(|| protocol.clone())
}

fn names_option(headers: &HeaderMap, option: &str) -> bool {
    let fields = headers.get_all(header::CONNECTION).iter().filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split(',')).any(|name| name.trim().eq_ignore_ascii_case(option))
}

/// What a client asked of the connection rather than of the endpoint.
#[derive(Default)]
pub(crate) struct ConnectionOptions {
    /// The protocol to switch to.
    pub(crate) upgrade: Option<HeaderValue>,
    /// `TE: trailers`.
    pub(crate) wants_trailers: bool,
}

/// Takes what concerns the connection out of a request.
pub(crate) fn take_options(head: &mut Parts) -> ConnectionOptions {
    let upgrade = upgrade(head.version, &head.headers);
    ConnectionOptions { upgrade, wants_trailers: remove_hop_by_hop(&mut head.headers) }
}

/// Takes out what concerns the connection it came on, and what `Connection` names (RFC 9110 section 7.6.1).
///
/// True when `TE: trailers` was among it.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) -> bool {
    let mut found = [false; HOPS];
    for name in headers.keys().filter(|name| may_be(name, HOP_LENGTHS)) {
        let bytes = name.as_str().len();
        for ((found, hop), hop_bytes) in found.iter_mut().zip(&HOP_BY_HOP).zip(HOP_BYTES) {
            *found |= bytes == hop_bytes && name == hop;
        }
    }
    if found == [false; HOPS] {
        return false;
    }
    let wants_trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    if names_more_than_options(headers) {
        remove_named(headers);
    }
    for (_, hop) in found.iter().zip(&HOP_BY_HOP).filter(|(found, _)| **found) {
        headers.remove(hop);
    }
    wants_trailers
}

/// Takes out of trailers what belongs into a head: fields that frame, route or authenticate a message, or say who sent it
/// (RFC 9110 section 6.5.1). Whoever merges trailers into the head would believe them.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    const NOT_LATER: [HeaderName; 6] =
        [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE, header::FORWARDED];
    let is_bad = |name: &HeaderName| HOP_BY_HOP.contains(name) || NOT_LATER.contains(name) || name.as_str().starts_with("x-forwarded-");
    let bad: Vec<HeaderName> = trailers.keys().filter(|name| is_bad(name)).cloned().collect();
    for name in bad {
        trailers.remove(name);
    }
}

fn names_more_than_options(headers: &HeaderMap) -> bool {
    let is_plain = |field: &HeaderValue| {
        let field = field.as_bytes();
        field.eq_ignore_ascii_case(b"keep-alive") || field.eq_ignore_ascii_case(b"close") || field.eq_ignore_ascii_case(b"upgrade")
    };
    !headers.get_all(header::CONNECTION).iter().all(is_plain)
}

/// Takes out what `Connection` names.
pub(crate) fn remove_named(headers: &mut HeaderMap) {
    let fields = headers.get_all(header::CONNECTION).iter().filter_map(|field| field.to_str().ok());
    let names: Vec<HeaderName> = fields.flat_map(|field| field.split(',')).filter_map(|name| name.trim().parse().ok()).collect();
    for name in names {
        // Naming these would cut off what the message needs to be understood, or who sent it.
        let is_needed =
            [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE].contains(&name) || name.as_str().starts_with("x-forwarded-");
        if !is_needed {
            headers.remove(name);
        }
    }
}

/// Joins what HTTP/2 clients may cut into several fields: HTTP/1.1 has one `Cookie` (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(header::COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return;
    }
    let joined: Vec<&[u8]> = crumbs.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&joined.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}
