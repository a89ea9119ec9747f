//! The TCP probe: a connection is accepted, and its TLS handshake succeeds if the upstream speaks TLS.

use super::connect::{Target, connect};
use super::failure::Failure;
use crate::routing::upstream::Payload;

/// Probes `target`; says what was found.
pub(super) async fn probe(target: &Target<'_>) -> Result<String, Failure> {
    connect(target, Payload::Bytes).await?;
    Ok("connected".into())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::num::NonZeroU16;
    use std::time::Duration;

    use super::super::testing::{Server, certified, transport};
    use super::*;
    use crate::config::upstream::{UpstreamProtocol, UpstreamTls};
    use crate::health::deadline::Deadline;
    use crate::routing::EndpointState;

    async fn check(server: &Server, tls: Option<UpstreamTls>, limit: Duration) -> Result<String, String> {
        let transport = transport(UpstreamProtocol::Http1, tls);
        let endpoint = EndpointState::new(server.address, true);
        let target = Target { endpoint: &endpoint, transport: &transport, port: None, deadline: Deadline::after(limit) };
        probe(&target).await.map_err(|failure| failure.reason)
    }

    /// What speaks UDP is asked on a TCP port beside it.
    #[tokio::test]
    async fn another_port_may_be_asked() {
        let server = Server::mute().await;
        let transport = transport(UpstreamProtocol::Http1, None);
        let endpoint = EndpointState::new(SocketAddr::new(server.address.ip(), 1), true);
        let target = |port| Target { endpoint: &endpoint, transport: &transport, port, deadline: Deadline::after(Duration::from_secs(10)) };
        assert_eq!(probe(&target(NonZeroU16::new(server.address.port()))).await, Ok("connected".into()));
        assert!(probe(&target(None)).await.is_err());
    }

    #[tokio::test]
    async fn wants_a_connection_and_nothing_more() {
        let mut server = Server::mute().await;
        assert_eq!(check(&server, None, Duration::from_secs(10)).await, Ok("connected".into()));
        server.close().await;
        assert_eq!(check(&server, None, Duration::from_secs(10)).await, Err("connect: refused".into()));
    }

    #[tokio::test]
    async fn wants_the_tls_handshake_too() {
        let (tls, certificate) = certified();
        let server = Server::https1(certificate).await;
        assert_eq!(check(&server, Some(tls.clone()), Duration::from_secs(10)).await, Ok("connected".into()));
        // What is spoken in there is not ours to say.
        let (other, certificate) = certified();
        let server = Server::https2(certificate).await;
        assert_eq!(check(&server, Some(other), Duration::from_secs(10)).await, Ok("connected".into()));
        let mute = Server::mute().await;
        let limit = Duration::from_millis(50);
        assert_eq!(check(&mute, Some(tls), limit).await, Err("TLS handshake: timed out after 50ms".into()));
    }
}
