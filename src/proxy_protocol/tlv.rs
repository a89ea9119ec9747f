//! What version 2 says beside addresses: a list of type, length and value.

use super::crc32c::crc32c;
use super::v2::{FIXED_BYTES, INET6_BYTES};
use super::{Invalid, V2_BODY_BYTES_MAX};

/// The protocol that was agreed on by ALPN.
pub const ALPN: u8 = 0x01;
/// The name that the client asked for by SNI.
pub const AUTHORITY: u8 = 0x02;
/// The checksum of the header.
pub const CRC32C: u8 = 0x03;
/// Padding.
pub const NOOP: u8 = 0x04;
/// What a proxy calls the connection.
pub const UNIQUE_ID: u8 = 0x05;
/// The client's TLS: flags, whether its certificate was verified, and TLVs of its own.
pub const SSL: u8 = 0x20;
/// The version of TLS, inside of [`SSL`].
pub const SSL_VERSION: u8 = 0x21;
/// The network namespace, which means something on the sender's host alone.
pub const NETNS: u8 = 0x30;

/// In the flags of [`SSL`]: the client spoke TLS.
const CLIENT_SSL: u8 = 1;

/// Flags, and the result of verification.
const SSL_BYTES_MIN: usize = 5;

const UNIQUE_ID_BYTES_MAX: usize = 128;

/// The most that [`Tlvs::push`] fills, so that what we write is also what we would read.
const BYTES_MAX: usize = V2_BODY_BYTES_MAX - INET6_BYTES;

/// A list of TLVs, in the order in which they were sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// Invariant: whole TLVs and nothing else, `V2_BODY_BYTES_MAX` bytes at most.
    bytes: Vec<u8>,
}

impl Tlvs {
    /// `bytes` are to be whole TLVs.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = split(rest).ok_or(Invalid::Tlv)?.1;
        }
        Ok(Self { bytes: bytes.to_vec() })
    }

    /// Whether each is what its type says, and the checksum is that of `header`, which these are the end of.
    pub(super) fn check(&self, header: &[u8]) -> Result<(), Invalid> {
        let mut at = header.len() - self.bytes.len();
        let mut sum = None;
        for (kind, value) in self.iter() {
            at += 3 + value.len();
            match kind {
                CRC32C if sum.is_none() => sum = Some((at, *value.first_chunk().filter(|_| value.len() == 4).ok_or(Invalid::Tlv)?)),
                CRC32C => return Err(Invalid::Tlv),
                SSL if value.len() < SSL_BYTES_MIN => return Err(Invalid::Tlv),
                UNIQUE_ID if value.len() > UNIQUE_ID_BYTES_MAX => return Err(Invalid::Tlv),
                _ => {}
            }
        }
        let Some((end, sum)) = sum else { return Ok(()) };
        let (before, after) = (header.get(..end - 4).unwrap_or_default(), header.get(end..).unwrap_or_default());
        if crc32c(&[before, &[0; 4], after]) == u32::from_be_bytes(sum) { Ok(()) } else { Err(Invalid::Checksum) }
    }

    /// Types and values.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (tlv, after) = split(rest)?;
            rest = after;
            Some(tlv)
        })
    }

    /// The value of the first one of this type.
    #[must_use]
    pub fn get(&self, kind: u8) -> Option<&[u8]> {
        self.iter().find(|(of, _)| *of == kind).map(|(_, value)| value)
    }

    /// Whether the client spoke TLS. None: it is not said.
    #[must_use]
    pub fn is_tls(&self) -> Option<bool> {
        self.get(SSL).and_then(<[u8]>::first).map(|flags| flags & CLIENT_SSL != 0)
    }

    /// Appends one. False: there is no room for it.
    pub fn push(&mut self, kind: u8, value: &[u8]) -> bool {
        let has_room = self.bytes.len() + 3 + value.len() <= BYTES_MAX;
        if let Ok(length) = u16::try_from(value.len())
            && has_room
        {
            self.bytes.push(kind);
            self.bytes.extend_from_slice(&length.to_be_bytes());
            self.bytes.extend_from_slice(value);
        }
        has_room
    }

    /// Appends that the client spoke TLS of this version, such as `TLSv1.3`, and showed no certificate.
    pub fn push_ssl(&mut self, version: &str) -> bool {
        let mut about = Self::default();
        // Other than zero: no certificate was verified.
        let verify = 1_u32.to_be_bytes();
        about.push(SSL_VERSION, version.as_bytes()) && self.push(SSL, &[&[CLIENT_SSL], &verify[..], about.as_bytes()].concat())
    }

    /// As they are sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

const _: () = assert!(FIXED_BYTES + INET6_BYTES + BYTES_MAX <= super::HEADER_BYTES_MAX);

/// A type and its value.
type Tlv<'a> = (u8, &'a [u8]);

/// The first TLV, and what follows it.
fn split(bytes: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let ([kind, high, low], rest) = bytes.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
    Some(((*kind, value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_there_until_there_is_no_room() {
        let mut tlvs = Tlvs::default();
        assert!(tlvs.push(AUTHORITY, b"a.test") && tlvs.push(NOOP, b"") && tlvs.push_ssl("TLSv1.3"));
        assert_eq!(tlvs.iter().map(|(kind, _)| kind).collect::<Vec<_>>(), [AUTHORITY, NOOP, SSL]);
        assert_eq!((tlvs.get(AUTHORITY), tlvs.get(UNIQUE_ID), tlvs.is_tls()), (Some(&b"a.test"[..]), None, Some(true)));
        assert_eq!(tlvs.get(SSL).unwrap(), b"\x01\0\0\0\x01\x21\x00\x07TLSv1.3");
        assert_eq!(Tlvs::parse(tlvs.as_bytes()), Ok(tlvs.clone()));
        let before = tlvs.clone();
        assert!(!tlvs.push(0xE0, &[0; BYTES_MAX]) && tlvs == before);
    }

    #[test]
    fn tls_is_told_from_none() {
        let check = |value: &[u8]| {
            let mut tlvs = Tlvs::default();
            tlvs.push(SSL, value);
            tlvs.is_tls()
        };
        assert_eq!([check(&[0; 5]), check(&[1, 0, 0, 0, 0]), check(&[7, 0, 0, 0, 0])], [Some(false), Some(true), Some(true)]);
        assert_eq!(Tlvs::default().is_tls(), None);
    }
}
