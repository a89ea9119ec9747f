//! Version 2: a signature, command, family and length, then addresses and TLVs.

use std::net::{IpAddr, SocketAddr};

use super::tlv::Tlvs;
use super::{Header, Invalid, Source, V2_BODY_BYTES_MAX};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length.
pub(super) const FIXED_BYTES: usize = 16;

const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

const FAMILY_UNSPEC: u8 = 0;
const FAMILY_INET: u8 = 1;
const FAMILY_INET6: u8 = 2;
const FAMILY_UNIX: u8 = 3;
pub(super) const TRANSPORT_STREAM: u8 = 1;
pub(super) const TRANSPORT_DGRAM: u8 = 2;

/// Two addresses of 16 bytes, two ports.
pub(super) const INET6_BYTES: usize = 36;

/// Two paths of sockets, 108 bytes each.
const UNIX_BYTES: usize = 216;

/// `bytes` begin with the signature, as far as they reach.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Invalid> {
    let Some(command) = command(bytes)? else { return Ok(None) };
    let Some(family) = family(bytes)? else { return Ok(None) };
    let Some(length) = length(bytes)? else { return Ok(None) };
    let used = FIXED_BYTES + usize::from(length);
    let Some(whole) = bytes.get(..used) else { return Ok(None) };
    let body = whole.get(FIXED_BYTES..).unwrap_or_default();
    if command == LOCAL {
        return Ok(Some((Header::local(), used)));
    }
    let (source, rest) = addresses(family, body).ok_or(Invalid::TooShort(length))?;
    let tlvs = match Tlvs::parse(rest) {
        // Senders put no address there. What else it may be is not said, and to be ignored.
        Err(_) if family.0 == FAMILY_UNSPEC => Tlvs::default(),
        tlvs => tlvs?,
    };
    tlvs.check(whole)?;
    Ok(Some((Header { source, tlvs }, used)))
}

fn command(bytes: &[u8]) -> Result<Option<u8>, Invalid> {
    match bytes.get(SIGNATURE.len()).map(|byte| (byte >> 4, byte & 0xF)) {
        None => Ok(None),
        Some((VERSION, command @ (LOCAL | PROXY))) => Ok(Some(command)),
        Some((VERSION, command)) => Err(Invalid::Command(command)),
        Some((version, _)) => Err(Invalid::Version(version)),
    }
}

fn family(bytes: &[u8]) -> Result<Option<(u8, u8)>, Invalid> {
    let Some(byte) = bytes.get(SIGNATURE.len() + 1) else { return Ok(None) };
    let (family, transport) = (byte >> 4, byte & 0xF);
    if family > FAMILY_UNIX || transport > TRANSPORT_DGRAM { Err(Invalid::Family(*byte)) } else { Ok(Some((family, transport))) }
}

fn length(bytes: &[u8]) -> Result<Option<u16>, Invalid> {
    let Some(length) = bytes.get(SIGNATURE.len() + 2..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
    let length = u16::from_be_bytes(*length);
    if usize::from(length) > V2_BODY_BYTES_MAX { Err(Invalid::TooLong(length)) } else { Ok(Some(length)) }
}

/// Whose connection it is, and what follows the addresses.
fn addresses((family, transport): (u8, u8), body: &[u8]) -> Option<(Source, &[u8])> {
    let (client, rest) = match family {
        FAMILY_INET => inet::<4>(body)?,
        FAMILY_INET6 => inet::<16>(body)?,
        FAMILY_UNIX => (Source::Unknown, body.get(UNIX_BYTES..)?),
        _ => (Source::Unknown, body),
    };
    // Datagrams do not come by a connection, and what is left open may be anything.
    Some((if transport == TRANSPORT_STREAM { client } else { Source::Unknown }, rest))
}

fn inet<const BYTES: usize>(body: &[u8]) -> Option<(Source, &[u8])>
where
    IpAddr: From<[u8; BYTES]>,
{
    let (source, body) = body.split_first_chunk::<BYTES>()?;
    let (destination, body) = body.split_first_chunk::<BYTES>()?;
    let (source_port, body) = body.split_first_chunk::<2>()?;
    let (destination_port, rest) = body.split_first_chunk::<2>()?;
    let address = |ip: [u8; BYTES], port: [u8; 2]| SocketAddr::new(IpAddr::from(ip), u16::from_be_bytes(port));
    Some((Source::Client { source: address(*source, *source_port), destination: address(*destination, *destination_port) }, rest))
}

/// The addresses are of one family.
pub(super) fn write(source: Source, transport: u8, tlvs: &Tlvs) -> Vec<u8> {
    let (command, family) = match source {
        Source::Local => (LOCAL, FAMILY_UNSPEC << 4),
        Source::Unknown => (PROXY, FAMILY_UNSPEC << 4),
        Source::Client { source, .. } if source.is_ipv4() => (PROXY, FAMILY_INET << 4 | transport),
        Source::Client { .. } => (PROXY, FAMILY_INET6 << 4 | transport),
    };
    let mut body = Vec::with_capacity(INET6_BYTES + tlvs.as_bytes().len());
    if let Source::Client { source, destination } = source {
        push_ip(&mut body, source.ip());
        push_ip(&mut body, destination.ip());
        body.extend_from_slice(&source.port().to_be_bytes());
        body.extend_from_slice(&destination.port().to_be_bytes());
    }
    if command == PROXY {
        body.extend_from_slice(tlvs.as_bytes());
    }
    let length = u16::try_from(body.len()).expect("TLVs are bounded");
    [SIGNATURE, &[VERSION << 4 | command, family], &length.to_be_bytes(), &body].concat()
}

fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{parse, tlv};
    use super::*;

    fn bytes(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [SIGNATURE, &[command, family], &u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
    }

    /// 192.0.2.1:56324 to 198.51.100.1:443.
    const INET: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 1, 0xDC, 0x04, 0x01, 0xBB];

    fn check(command: u8, family: u8, body: &[u8]) -> Result<Header, Invalid> {
        let bytes = bytes(command, family, body);
        parse(&bytes).map(|header| {
            let (header, used) = header.expect("it is whole");
            assert_eq!(used, bytes.len());
            header
        })
    }

    #[test]
    fn reads_addresses() {
        let client =
            |source: &str, destination: &str| Source::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() };
        assert_eq!(check(0x21, 0x11, INET).unwrap().source, client("192.0.2.1:56324", "198.51.100.1:443"));
        let mut inet6 = [0; 36];
        (inet6[0], inet6[15], inet6[31], inet6[33], inet6[35]) = (0x20, 1, 2, 80, 90);
        assert_eq!(check(0x21, 0x21, &inet6).unwrap().source, client("[2000::1]:80", "[::2]:90"));
    }

    #[test]
    fn what_names_no_client_is_a_header_all_the_same() {
        for (family, body) in
            [(0x31, &[b'x'; 216][..]), (0x32, &[0; 216]), (0x12, INET), (0x10, INET), (0x00, b""), (0x01, b"?"), (0x00, INET)]
        {
            assert_eq!(check(0x21, family, body), Ok(Header { source: Source::Unknown, tlvs: Tlvs::default() }), "{family:#04x}");
        }
        let mut tlvs = Tlvs::default();
        assert!(tlvs.push(tlv::AUTHORITY, b"a.test"));
        let behind = |length: usize| [&vec![0; length], tlvs.as_bytes()].concat();
        for (family, body) in [(0x31, behind(216)), (0x00, behind(0))] {
            assert_eq!(check(0x21, family, &body).unwrap().tlvs, tlvs, "{family:#04x}");
        }
        for (family, body) in [(0x00, &b""[..]), (0x11, INET), (0x11, b"anything"), (0x22, b"")] {
            assert_eq!(check(0x20, family, body), Ok(Header::local()), "{family:#04x}");
        }
    }

    #[test]
    fn refuses_what_does_not_exist_or_does_not_fit() {
        assert_eq!(check(0x11, 0x11, INET), Err(Invalid::Version(1)));
        assert_eq!(check(0x31, 0x11, INET), Err(Invalid::Version(3)));
        assert_eq!(check(0x22, 0x11, INET), Err(Invalid::Command(2)));
        assert_eq!(check(0x21, 0x41, INET), Err(Invalid::Family(0x41)));
        assert_eq!(check(0x20, 0x13, b""), Err(Invalid::Family(0x13)));
        for (family, length) in [(0x11, 11_u16), (0x21, 35), (0x31, 215), (0x11, 0)] {
            assert_eq!(check(0x21, family, &vec![0; length.into()]), Err(Invalid::TooShort(length)), "{family:#04x}");
        }
        for tail in [&b"\x02"[..], b"\x02\x00", b"\x02\x00\x01", b"\x02\x00\x00\x02", b"\x20\x00\x04\x01\0\0\0", b"\x03\x00\x03\0\0\0"] {
            assert_eq!(check(0x21, 0x11, &[INET, tail].concat()), Err(Invalid::Tlv), "{tail:?}");
        }
        let long = [INET, &[tlv::UNIQUE_ID, 0, 129], &[0; 129]].concat();
        assert_eq!(check(0x21, 0x11, &long), Err(Invalid::Tlv));
    }

    #[test]
    fn says_so_before_all_of_it_is_there() {
        assert_eq!(parse(&[SIGNATURE, b"\x11"].concat()), Err(Invalid::Version(1)));
        assert_eq!(parse(&[SIGNATURE, b"\x21\x51"].concat()), Err(Invalid::Family(0x51)));
        assert_eq!(parse(&[SIGNATURE, b"\x21\x11\x10\x01"].concat()), Err(Invalid::TooLong(4097)));
        assert_eq!(parse(&[SIGNATURE, b"\x20\x00\xFF\xFF"].concat()), Err(Invalid::TooLong(65_535)));
        assert_eq!(parse(&[SIGNATURE, b"\x21\x11\x10\x00"].concat()), Ok(None));
    }

    #[test]
    fn a_checksum_is_checked() {
        let mut body = [INET, &[tlv::CRC32C, 0, 4, 0, 0, 0, 0]].concat();
        let crc = bytes(0x21, 0x11, &body).iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
        });
        body.splice(15.., (!crc).to_be_bytes());
        assert_eq!(check(0x21, 0x11, &body).unwrap().tlvs.get(tlv::CRC32C), Some(&(!crc).to_be_bytes()[..]));
        body[3] ^= 1;
        assert_eq!(check(0x21, 0x11, &body), Err(Invalid::Checksum));
        let twice = [&body[..], &body[12..]].concat();
        assert_eq!(check(0x21, 0x11, &twice), Err(Invalid::Tlv));
    }

    #[test]
    fn datagrams_say_that_they_are_some() {
        let of = |from: &str, to: &str| {
            let source = Source::Client { source: from.parse().unwrap(), destination: to.parse().unwrap() };
            Header { source, tlvs: Tlvs::default() }.write_datagram()
        };
        let four = [192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 0, 53];
        assert_eq!(of("192.0.2.1:258", "10.0.0.1:53"), bytes(0x21, 0x12, &four));
        let mut six = vec![0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        six.extend([0; 15]);
        six.extend([1, 1, 2, 0, 53]);
        assert_eq!(of("[2001:db8::1]:258", "[::1]:53"), bytes(0x21, 0x22, &six));
    }
}
