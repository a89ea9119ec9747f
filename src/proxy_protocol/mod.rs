//! The PROXY protocol: a header before the first byte of a connection, in which a proxy says for whom it made it.
//!
//! Versions 1 and 2, as HAProxy's `doc/proxy-protocol.txt` has them. Pure: bytes to a [`Header`] and back, no I/O. Whether whoever sent
//! one is to be believed is not decided here. The data plane reads and writes headers, health checks write them.
//!
//! | file | concept |
//! |---|---|
//! | `v1` | the line of text |
//! | `v2` | the binary header |
//! | [`tlv`] | what version 2 says beside addresses |
//! | `crc32c` | its checksum |
//!
//! Parsing takes a header or refuses it: a sender that we believe is not guessed at. What is well-formed but says nothing that we could use
//! (sockets of UNIX, datagrams, families left open) is a header all the same, whose client is [unknown](Source::Unknown).

mod crc32c;
pub mod tlv;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use self::tlv::Tlvs;

/// The longest header of version 1, in bytes, its line end included.
pub const V1_BYTES_MAX: usize = 107;

/// The most that a header of version 2 may hold behind its 16 fixed bytes. The format allows 65,535; addresses and what senders are known to
/// add, certificates' names among it, take some hundreds.
pub const V2_BODY_BYTES_MAX: usize = 4096;

/// The longest header that is read, in bytes.
pub const HEADER_BYTES_MAX: usize = v2::FIXED_BYTES + V2_BODY_BYTES_MAX;

/// Which version is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A line of text with the addresses.
    V1,
    /// Binary: addresses, and TLVs.
    V2,
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose connection it is.
    pub source: Source,
    /// What else is said of it. Empty with version 1.
    pub tlvs: Tlvs,
}

/// For whom a connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// For the sender itself, such as a health check: the connection's own addresses count.
    Local,
    /// For somebody of whom there is no address to be had.
    Unknown,
    /// For a client.
    Client {
        /// The client's address.
        source: SocketAddr,
        /// The address that it connected to.
        destination: SocketAddr,
    },
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Something else was sent.
    #[error("there is none: it would begin with `PROXY` or with the signature of version 2")]
    Absent,
    /// Version 1 without an end.
    #[error("version 1: its line has no end within {V1_BYTES_MAX} bytes")]
    EndlessLine,
    /// Version 1 that cannot be read.
    #[error("version 1: its line is not `PROXY TCP4|TCP6|UNKNOWN`, two addresses and two ports")]
    Line,
    /// A version that does not exist.
    #[error("version {0}: there are 1 and 2")]
    Version(u8),
    /// A command that does not exist.
    #[error("version 2: command {0}: there are 0 (LOCAL) and 1 (PROXY)")]
    Command(u8),
    /// An address family or a transport that does not exist.
    #[error("version 2: address family and transport {0:#04x} are none that there are")]
    Family(u8),
    /// More than we read.
    #[error("version 2: it says that {0} bytes follow, more than {V2_BODY_BYTES_MAX}")]
    TooLong(u16),
    /// Fewer bytes than its addresses need.
    #[error("version 2: it says that {0} bytes follow, too few for its addresses")]
    TooShort(u16),
    /// TLVs that do not fill the header exactly, or one that cannot be what its type says.
    #[error("version 2: a TLV does not fit, or is not what its type says")]
    Tlv,
    /// The checksum is that of another header.
    #[error("version 2: its checksum is wrong")]
    Checksum,
}

/// Reads the header that `bytes` begin with. Gives how many bytes it takes, too. None: it is not whole yet; more than [`HEADER_BYTES_MAX`]
/// bytes are never needed.
///
/// # Errors
/// Why there is none, as soon as that can be told.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Invalid> {
    if is_begun(bytes, v1::SIGNATURE) {
        return v1::parse(bytes);
    }
    if is_begun(bytes, v2::SIGNATURE) { v2::parse(bytes) } else { Err(Invalid::Absent) }
}

/// Whether `bytes` go on as `signature`, as far as both reach.
fn is_begun(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(a, b)| a == b)
}

impl Header {
    /// What a proxy sends on a connection of its own.
    #[must_use]
    pub fn local() -> Self {
        Self { source: Source::Local, tlvs: Tlvs::default() }
    }

    /// The header as bytes. Version 1 has no room for TLVs, and for [`Source::Local`] says the same as for [`Source::Unknown`].
    #[must_use]
    pub fn write(&self, version: Version) -> Vec<u8> {
        match version {
            Version::V1 => v1::write(self.source.of_one_family()),
            Version::V2 => v2::write(self.source.of_one_family(), v2::TRANSPORT_STREAM, &self.tlvs),
        }
    }

    /// The header of a datagram as bytes, in version 2. Version 1 knows no datagrams.
    #[must_use]
    pub fn write_datagram(&self) -> Vec<u8> {
        v2::write(self.source.of_one_family(), v2::TRANSPORT_DGRAM, &self.tlvs)
    }
}

impl Source {
    fn of_one_family(self) -> Self {
        match self {
            Self::Client { source, destination } => {
                let (source, destination) = of_one_family(source, destination);
                Self::Client { source, destination }
            }
            other => other,
        }
    }
}

/// Both as IPv4 if both are; otherwise both as IPv6, into which IPv4 is mapped (RFC 4291 section 2.5.5.2): a header has one family.
fn of_one_family(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let (a, b) = (canonical(a), canonical(b));
    if a.is_ipv4() == b.is_ipv4() { (a, b) } else { (mapped(a), mapped(b)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(source: &str, destination: &str) -> Source {
        Source::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn what_is_no_header_is_told_from_one_that_is_not_whole() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"PRO"), Ok(None));
        assert_eq!(parse(b"\r\n\r\n"), Ok(None));
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n", b"POST /", b"\r\n\r\nGET", b"\x16\x03\x01", b"proxy TCP4"] {
            assert_eq!(parse(other), Err(Invalid::Absent), "{other:?}");
        }
    }

    #[test]
    fn mixed_families_are_mapped() {
        let header = |source| Header { source, tlvs: Tlvs::default() };
        let mixed = header(client("192.0.2.1:1", "[2001:db8::1]:2"));
        assert_eq!(mixed.write(Version::V1), b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n");
        let mapped = header(client("[::ffff:192.0.2.1]:1", "198.51.100.1:2"));
        assert_eq!(mapped.write(Version::V1), b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n");
        assert_eq!(mapped.write(Version::V2)[13], 0x11);
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
        (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    fn source() -> impl Strategy<Value = Source> {
        let client = (address(), address()).prop_map(|(source, destination)| Source::Client { source, destination });
        prop_oneof![1 => Just(Source::Local), 1 => Just(Source::Unknown), 4 => client]
    }

    fn tlvs() -> impl Strategy<Value = Tlvs> {
        // Of a type that has no rules.
        let tlv = (0xE0..=0xEF_u8, proptest::collection::vec(any::<u8>(), 0..200));
        proptest::collection::vec(tlv, 0..5).prop_map(|list| {
            let mut tlvs = Tlvs::default();
            list.iter().for_each(|(kind, value)| assert!(tlvs.push(*kind, value)));
            tlvs
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_nothing_less(
            source in source(), tlvs in tlvs(), more in proptest::collection::vec(any::<u8>(), 0..20), is_v1 in any::<bool>()
        ) {
            let version = if is_v1 { Version::V1 } else { Version::V2 };
            let written = Header { source, tlvs: tlvs.clone() }.write(version);
            let bytes_max = if is_v1 { V1_BYTES_MAX } else { HEADER_BYTES_MAX };
            prop_assert!(written.len() <= bytes_max);
            let source = match source {
                Source::Client { source, destination } => {
                    let (source, destination) = of_one_family(source, destination);
                    Source::Client { source, destination }
                }
                Source::Local if is_v1 => Source::Unknown,
                other => other,
            };
            // A sender's own connection has nothing that would be kept.
            let tlvs = if is_v1 || source == Source::Local { Tlvs::default() } else { tlvs };
            let whole = [&written[..], &more[..]].concat();
            prop_assert_eq!(parse(&whole), Ok(Some((Header { source, tlvs }, written.len()))));
            for cut in 0..written.len() {
                prop_assert_eq!(parse(&written[..cut]), Ok(None));
            }
        }

        #[test]
        fn no_bytes_panic_and_no_answer_needs_more_than_the_limit(
            start in prop_oneof![Just(&b"PROXY "[..]), Just(v2::SIGNATURE), Just(&b""[..])],
            rest in proptest::collection::vec(any::<u8>(), 0..400)
        ) {
            let mut bytes = [start, &rest[..]].concat();
            if let Ok(Some((_, used))) = parse(&bytes) {
                prop_assert!(used <= bytes.len());
            }
            bytes.resize(HEADER_BYTES_MAX, 0);
            prop_assert!(parse(&bytes) != Ok(None));
        }
    }
}
