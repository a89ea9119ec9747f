//! The head of a request as its endpoint gets it.

use http::request::Parts;
use http::{HeaderValue, Uri, Version, header};

use super::client::Client;
use super::head;
use crate::config::upstream::{HostHeader, UpstreamProtocol};
use crate::routing::upstream::Upstream;

/// Makes of the client's head the one that endpoints get.
pub(crate) fn prepare(head: &mut Parts, client: &Client, upstream: &Upstream, upgrade: Option<&HeaderValue>, wants_trailers: bool) {
    head.headers.remove(header::EXPECT);
    head.extensions = http::Extensions::new();
    // gRPC needs it, and it is true: trailers are forwarded. HTTP/1.1 names it in `Connection` (RFC 9110 section 10.1.4), HTTP/2 does not
    // (RFC 9113 section 8.2.2).
    if wants_trailers {
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if upstream.transport.protocol == UpstreamProtocol::Http1 {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    if let Some(protocol) = upgrade {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, protocol.clone());
    }
    // HTTP/1.0 knows no host: it asks for the address it came to (RFC 9112 section 3.3).
    if head.version == Version::HTTP_10 && !head.headers.contains_key(header::HOST) && head.uri.authority().is_none() {
        set_host(head, &client.origin.local.to_string());
    }
    head::join_cookies(&mut head.headers);
    match upstream.transport.protocol {
        UpstreamProtocol::Http1 => to_origin_form(head),
        UpstreamProtocol::H2 | UpstreamProtocol::H2c => {
            to_absolute_form(head, upstream.transport.tls.is_some());
        }
    }
    if let HostHeader::Rewrite(host) = &upstream.settings.host {
        set_host(head, host);
    }
}

/// HTTP/1.1: the path in the target, the authority in `Host` (RFC 9112 section 3.2.1).
fn to_origin_form(head: &mut Parts) {
    head.version = Version::HTTP_11;
    if head.uri.authority().is_none() {
        return;
    }
    let parts = std::mem::take(&mut head.uri).into_parts();
    if let Some(host) = parts.authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        head.headers.insert(header::HOST, host);
    }
    if let Some(path) = parts.path_and_query {
        head.uri = Uri::from(path);
    }
}

/// HTTP/2: scheme, authority and path in pseudo-header fields (RFC 9113 section 8.3.1).
fn to_absolute_form(head: &mut Parts, is_tls: bool) {
    head.version = Version::HTTP_2;
    let host = head.headers.remove(header::HOST);
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    if parts.authority.is_none() {
        parts.authority = host.and_then(|host| http::uri::Authority::try_from(host.as_bytes()).ok());
    }
    if parts.authority.is_none() {
        parts.authority = Some(http::uri::Authority::from_static("localhost"));
    }
    parts.scheme = Some(if is_tls { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    head.uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Makes it ask for `host`.
pub(crate) fn set_host(head: &mut Parts, host: &str) {
    if head.version == Version::HTTP_2 {
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        parts.authority = host.parse().ok().or(parts.authority);
        head.uri = Uri::from_parts(parts).unwrap_or_default();
    } else if let Ok(host) = HeaderValue::from_str(host) {
        head.headers.insert(header::HOST, host);
    }
}
