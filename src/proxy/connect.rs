//! Connections to endpoints: TCP, then TLS if the upstream wants it, within one time limit.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::error::ConnectError;
use super::stream::UpstreamStream;
use crate::config::upstream::UpstreamProtocol;
use crate::routing::upstream::{Transport, TransportTls};

/// Connects to `address`.
pub(crate) async fn connect(address: SocketAddr, transport: &Transport, limit: Duration) -> Result<UpstreamStream, ConnectError> {
    match tokio::time::timeout(limit, establish(address, transport)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut(limit)),
    }
}

async fn establish(address: SocketAddr, transport: &Transport) -> Result<UpstreamStream, ConnectError> {
    let stream = TcpStream::connect(address).await.map_err(ConnectError::Tcp)?;
    stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
    let Some(tls) = &transport.tls else { return Ok(UpstreamStream::Plain(stream)) };
    let name = server_name(tls, address);
    let stream = TlsConnector::from(tls.client.clone()).connect(name, stream).await.map_err(ConnectError::Tls)?;
    if transport.protocol == UpstreamProtocol::H2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(ConnectError::Alpn);
    }
    Ok(UpstreamStream::Tls(Box::new(stream)))
}

fn server_name(tls: &TransportTls, address: SocketAddr) -> ServerName<'static> {
    tls.server_name.clone().unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))
}
