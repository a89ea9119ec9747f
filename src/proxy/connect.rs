//! Connections to endpoints: TCP, then a PROXY header and TLS if the upstream wants them, within one time limit.

use std::net::IpAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::error::ConnectError;
use super::stream::UpstreamStream;
use crate::routing::endpoint::EndpointState;
use crate::routing::upstream::{Payload, Transport};
use crate::socket;

/// What an endpoint is shown of whose connection it gets.
#[derive(Debug, Default)]
pub(crate) struct Introduction {
    /// Sent first: the PROXY header, if there is to be one.
    pub(crate) greeting: Option<Vec<u8>>,
    /// The address that the connection comes from, if it is not to be ours.
    pub(crate) source: Option<IpAddr>,
}

/// Connects to `endpoint`.
pub(crate) async fn connect(
    endpoint: &EndpointState,
    transport: &Transport,
    payload: Payload,
    introduction: &Introduction,
    limit: Duration,
) -> Result<UpstreamStream, ConnectError> {
    match tokio::time::timeout(limit, establish(endpoint, transport, payload, introduction)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut(limit)),
    }
}

async fn establish(
    endpoint: &EndpointState,
    transport: &Transport,
    payload: Payload,
    introduction: &Introduction,
) -> Result<UpstreamStream, ConnectError> {
    let mut stream = socket::connect(&endpoint.address, introduction.source).await.map_err(ConnectError::Tcp)?;
    if let Some(greeting) = &introduction.greeting {
        stream.write_all(greeting).await.map_err(ConnectError::Tcp)?;
    }
    let Some(tls) = &transport.tls else { return Ok(UpstreamStream::Plain(stream)) };
    let name = tls.server_name.clone().unwrap_or_else(|| endpoint.server_name());
    let connector = TlsConnector::from(tls.client(payload).clone());
    let stream = connector.connect(name, stream).await.map_err(ConnectError::Tls)?;
    if !transport.is_agreed(payload, stream.get_ref().1.alpn_protocol()) {
        return Err(ConnectError::Alpn);
    }
    Ok(UpstreamStream::Tls(Box::new(stream)))
}
