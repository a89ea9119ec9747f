//! Whose connection it is: the peer's, or that of the client whom the peer's PROXY header names; and how endpoints are told by such a header.

use std::net::SocketAddr;

use crate::proxy_protocol::tlv::{self, Tlvs};
use crate::proxy_protocol::{Header, Source, Version};
use crate::routing::identity::names_of;

/// Where a connection comes from.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The client's address. An IPv4 address is never written as an IPv6 one where it comes from a header.
    pub(crate) peer: SocketAddr,
    /// The address that the client connected to: ours or, from a header, that of the proxy before us.
    pub(crate) local: SocketAddr,
    /// What the header says. None: there was none, or it was of the proxy's own connection.
    told: Option<Box<Told>>,
}

#[derive(Debug)]
struct Told {
    /// Whether the client is somebody of whom there is no address.
    is_unknown: bool,
    tlvs: Tlvs,
}

/// The TLS of a client with us.
#[derive(Debug)]
pub(crate) struct Encryption {
    version: &'static str,
    server_name: Option<Box<str>>,
    /// The names in its certificate.
    identities: Box<[Box<str>]>,
}

/// What is told to an endpoint beside addresses.
pub(crate) struct Telling<'a> {
    /// None: the client's connection to us is in the clear.
    pub(crate) tls: Option<&'a Encryption>,
    pub(crate) unique_id: &'a str,
    /// Whether the endpoint gets the client's bytes as they are.
    pub(crate) is_stream: bool,
}

impl Encryption {
    pub(crate) fn of(tls: &rustls::ServerConnection) -> Self {
        let version = match tls.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let identities = tls.peer_certificates().and_then(<[_]>::first).map(names_of).unwrap_or_default().into();
        Self { version, server_name: tls.server_name().map(Into::into), identities }
    }

    /// The names in the certificate that the client has shown. It was verified in the handshake.
    pub(crate) fn identities(&self) -> &[Box<str>] {
        &self.identities
    }
}

impl Origin {
    /// A connection that is the peer's own.
    pub(crate) fn direct(peer: SocketAddr, local: SocketAddr) -> Self {
        Self { peer, local, told: None }
    }

    /// The same connection, of which its peer, who is to be believed, says this.
    pub(crate) fn told(self, header: Header) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (peer, local, is_unknown) = match header.source {
            Source::Local => return self,
            Source::Unknown => (self.peer, self.local, true),
            Source::Client { source, destination } => (canonical(source), canonical(destination), false),
        };
        Self { peer, local, told: Some(Box::new(Told { is_unknown, tlvs: header.tlvs })) }
    }

    /// Whether a header said whose it is.
    pub(crate) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// Whether it is of somebody whom the proxy before us could not name. `peer` is then that proxy.
    pub(crate) fn is_unknown(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.is_unknown)
    }

    /// Whether the client speaks TLS with the proxy before us. None: that is not said, or there is none.
    pub(crate) fn is_https(&self) -> Option<bool> {
        self.told.as_ref().and_then(|told| told.tlvs.is_tls())
    }

    /// The header that a connection to an endpoint begins with.
    ///
    /// TLVs that came are passed on, but for those that are about the header that they came in; what they do not say, and we know, is added.
    pub(crate) fn greeting(&self, version: Version, telling: &Telling<'_>) -> Vec<u8> {
        let source = match self.is_unknown() {
            true => Source::Unknown,
            false => Source::Client { source: self.peer, destination: self.local },
        };
        let tlvs = if version == Version::V2 { self.tlvs(telling) } else { Tlvs::default() };
        Header { source, tlvs }.write(version)
    }

    /// What there is no room for is left out.
    fn tlvs(&self, telling: &Telling<'_>) -> Tlvs {
        let mut tlvs = Tlvs::default();
        let came = self.told.iter().flat_map(|told| told.tlvs.iter());
        let is_passed_on = |kind: u8| match kind {
            tlv::CRC32C | tlv::NOOP | tlv::NETNS => false,
            // What we speak to an HTTP endpoint is between us and it.
            tlv::ALPN => telling.is_stream,
            _ => true,
        };
        came.filter(|(kind, _)| is_passed_on(*kind)).for_each(|(kind, value)| _ = tlvs.push(kind, value));
        if tlvs.get(tlv::UNIQUE_ID).is_none() {
            tlvs.push(tlv::UNIQUE_ID, telling.unique_id.as_bytes());
        }
        if let Some(Encryption { version, server_name, .. }) = telling.tls {
            if tlvs.get(tlv::SSL).is_none() {
                tlvs.push_ssl(version);
            }
            if let (Some(name), None) = (server_name, tlvs.get(tlv::AUTHORITY)) {
                tlvs.push(tlv::AUTHORITY, name.as_bytes());
            }
        }
        tlvs
    }
}

/// A new name for a connection: 32 hex digits.
pub(crate) fn unique_id(mut random: impl FnMut() -> u64) -> String {
    format!("{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy_protocol::parse;

    fn direct() -> Origin {
        Origin::direct("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap())
    }

    fn header(tlvs: &[(u8, &[u8])]) -> Header {
        let mut list = Tlvs::default();
        tlvs.iter().for_each(|(kind, value)| assert!(list.push(*kind, value)));
        let source = Source::Client { source: "[::ffff:192.0.2.1]:1".parse().unwrap(), destination: "198.51.100.1:443".parse().unwrap() };
        Header { source, tlvs: list }
    }

    fn greeting(origin: &Origin, tls: Option<&Encryption>, is_stream: bool) -> Header {
        parse(&origin.greeting(Version::V2, &Telling { tls, unique_id: "ours", is_stream })).unwrap().unwrap().0
    }

    #[test]
    fn a_header_says_whose_connection_it_is() {
        let told = direct().told(header(&[]));
        assert_eq!((told.peer.to_string(), told.local.to_string()), ("192.0.2.1:1".into(), "198.51.100.1:443".into()));
        assert_eq!((told.is_unknown(), told.is_https()), (false, None));
        let local = direct().told(Header::local());
        assert_eq!((local.peer, local.is_unknown()), (direct().peer, false));
        let unknown = direct().told(Header { source: Source::Unknown, tlvs: Tlvs::default() });
        assert_eq!((unknown.peer, unknown.is_unknown()), (direct().peer, true));
        assert_eq!(unknown.greeting(Version::V1, &Telling { tls: None, unique_id: "", is_stream: true }), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn what_came_is_passed_on_and_what_we_know_is_added() {
        let tls = Encryption { version: "TLSv1.3", server_name: Some("a.test".into()), identities: [].into() };
        let ours = greeting(&direct(), Some(&tls), true).tlvs;
        assert_eq!(ours.iter().map(|(kind, _)| kind).collect::<Vec<_>>(), [tlv::UNIQUE_ID, tlv::SSL, tlv::AUTHORITY]);
        let came: [(u8, &[u8]); 8] = [
            (tlv::ALPN, b"h2"),
            (tlv::AUTHORITY, b"b.test"),
            (tlv::CRC32C, &[0; 4]),
            (tlv::NOOP, b"..."),
            (tlv::UNIQUE_ID, b"theirs"),
            (tlv::SSL, &[0; 5]),
            (tlv::NETNS, b"blue"),
            (0xEA, b"own"),
        ];
        let origin = direct().told(header(&came));
        assert_eq!(origin.is_https(), Some(false));
        let kept = |is_stream: bool| greeting(&origin, Some(&tls), is_stream).tlvs.iter().map(|(kind, _)| kind).collect::<Vec<_>>();
        assert_eq!(kept(true), [tlv::ALPN, tlv::AUTHORITY, tlv::UNIQUE_ID, tlv::SSL, 0xEA]);
        assert_eq!(kept(false), [tlv::AUTHORITY, tlv::UNIQUE_ID, tlv::SSL, 0xEA]);
        assert_eq!(greeting(&origin, Some(&tls), true).tlvs.get(tlv::UNIQUE_ID), Some(&b"theirs"[..]));
    }
}
