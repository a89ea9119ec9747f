//! What can go wrong with a request: whose fault it is, whether another attempt may help, what the client sees and what we log.

use std::fmt;
use std::io;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::socket::SocketAddress;

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The client's: what it sent, or did not send.
    Client,
    /// The endpoint's, or of the way to it.
    Upstream,
    /// Of the configuration: no route, no upstream, no endpoint.
    Config,
}

impl Fault {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Config => "config",
        }
    }
}

/// When a client may ask again that was refused for want of endpoints, in seconds (RFC 9110, section 10.2.3): they are likely to be
/// starting.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Why a request could not be answered by an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    pub(crate) status: StatusCode,
    /// A short word for metrics and the access log.
    pub(crate) cause: &'static str,
    /// For the log: what we were doing, to what, and why it failed. The client never sees it.
    pub(crate) detail: String,
}

impl Failure {
    /// The request itself is wrong.
    pub(crate) fn client(status: StatusCode, cause: &'static str) -> Self {
        Self { fault: Fault::Client, status, cause, detail: String::new() }
    }

    /// Nothing is wrong with the request, but we are not set up to answer it.
    pub(crate) fn config(status: StatusCode, cause: &'static str, detail: impl Into<String>) -> Self {
        Self { fault: Fault::Config, status, cause, detail: detail.into() }
    }

    /// The endpoint at `address` failed us.
    pub(crate) fn upstream(status: StatusCode, cause: &'static str, address: &SocketAddress, why: impl fmt::Display) -> Self {
        Self { fault: Fault::Upstream, status, cause, detail: format!("endpoint {address}: {why}") }
    }

    /// The request as a whole took longer than its route allows.
    pub(crate) fn route_timeout(limit: std::time::Duration) -> Self {
        let detail = format!("the route gives a request {limit:?}");
        Self { fault: Fault::Upstream, status: StatusCode::GATEWAY_TIMEOUT, cause: "route_timeout", detail }
    }

    /// What the client sees: the status and its reason, as plain text; and when to ask again, if it is for want of endpoints.
    pub(crate) fn response(&self) -> Response<Bytes> {
        let mut response = plain(self.status);
        if (self.fault, self.status) == (Fault::Config, StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.detail)
    }
}

/// A short plain answer of ours.
pub(crate) fn plain(status: StatusCode) -> Response<Bytes> {
    let reason = status.canonical_reason().unwrap_or("error");
    let mut response = Response::new(Bytes::from(format!("{} {reason}\n", status.as_u16())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Why no connection to an endpoint was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connect: {0}")]
    Tcp(#[source] io::Error),
    #[error("TLS handshake: {}", crate::tls_error::told(.0))]
    Tls(#[source] io::Error),
    #[error("HTTP handshake: {0}")]
    Http(#[source] hyper::Error),
    #[error("connect: timed out after {0:?}")]
    TimedOut(std::time::Duration),
    #[error("TLS: it did not agree to HTTP/2 by ALPN")]
    Alpn,
}

impl ConnectError {
    /// A short word for metrics and the access log.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Tcp(error) if error.kind() == io::ErrorKind::ConnectionRefused => "connect_refused",
            Self::Tcp(_) => "connect_failed",
            Self::Tls(_) | Self::Alpn => "tls_failed",
            Self::Http(_) => "http_failed",
            Self::TimedOut(_) => "connect_timeout",
        }
    }
}
