//! The connection of a probe: TCP, a PROXY header and TLS if the upstream speaks them. Fresh each time, so that it finds out what a new client would.

use std::borrow::Cow;
use std::num::NonZeroU16;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::deadline::Deadline;
use super::failure::Failure;
use crate::proxy_protocol::Header;
use crate::routing::endpoint::EndpointState;
use crate::routing::upstream::{Payload, Transport, TransportTls};
use crate::socket::{self, SocketAddress};

/// Where a probe goes, how, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) endpoint: &'a EndpointState,
    pub(super) transport: &'a Transport,
    /// Where it is asked in place of its own port.
    pub(super) port: Option<NonZeroU16>,
    pub(super) deadline: Deadline,
}

impl Target<'_> {
    fn address(&self) -> Cow<'_, SocketAddress> {
        match self.port {
            Some(port) => Cow::Owned(self.endpoint.address.with_port(port.get())),
            None => Cow::Borrowed(&self.endpoint.address),
        }
    }
}

/// A connection, plain or encrypted.
pub(super) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Connects to `target`, to send `payload`.
pub(super) async fn connect(target: &Target<'_>, payload: Payload) -> Result<Stream, Failure> {
    let mut stream = target.deadline.hold("connect", socket::connect(&target.address(), None)).await?;
    if let Some(version) = target.transport.proxy_protocol {
        // It is ours, of no client.
        target.deadline.hold("PROXY header", stream.write_all(&Header::local().write(version))).await?;
    }
    match &target.transport.tls {
        None => Ok(Either::Left(stream)),
        Some(tls) => target.deadline.hold("TLS handshake", encrypt(stream, tls, target, payload)).await,
    }
}

async fn encrypt(stream: TcpStream, tls: &TransportTls, target: &Target<'_>, payload: Payload) -> Result<Stream, Failure> {
    let name = tls.server_name.clone().unwrap_or_else(|| target.endpoint.server_name());
    let stream = TlsConnector::from(tls.client(payload).clone()).connect(name, stream).await?;
    if !target.transport.is_agreed(payload, stream.get_ref().1.alpn_protocol()) {
        return Err(Failure::endpoint("it did not agree to speak HTTP/2"));
    }
    Ok(Either::Right(Box::new(stream)))
}
