//! What a TLS client says before anything is encrypted: whom it asks for, and what it wants to speak.
//!
//! Read without being answered, so that the connection can be passed through as it is. Pure: bytes in, what they say out.
//! RFC 8446 sections 4.1.2 (ClientHello) and 5.1 (records), RFC 6066 section 3 (server name), RFC 7301 (ALPN).

use std::ops::Range;

/// The most bytes that a client may take to say it, in all records. With post-quantum key shares it has some 2,000.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// The most application protocols that are looked at.
const PROTOCOLS_MAX: usize = 32;

/// A record: its type, version and length.
const RECORD_HEADER_BYTES: usize = 5;
/// A handshake message: its type and length.
const MESSAGE_HEADER_BYTES: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;
/// Version, and random bytes.
const FIXED_BYTES: usize = 2 + 32;

/// What is known of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading {
    /// There may be a ClientHello once more bytes have come.
    Partial,
    /// There is one.
    Hello(ClientHello),
    /// They are the beginning of something else.
    Other,
    /// They begin as TLS does, and are none that can be understood.
    Broken(&'static str),
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The message, without the headers of its records.
    message: Vec<u8>,
    sni: Option<Range<usize>>,
    alpn: Vec<Range<usize>>,
}

impl ClientHello {
    /// The host that it asks for, as it was sent.
    pub fn sni(&self) -> Option<&[u8]> {
        self.message.get(self.sni.clone()?)
    }

    /// The application protocols that it offers.
    pub fn alpn(&self) -> Vec<&[u8]> {
        self.alpn.iter().filter_map(|range| self.message.get(range.clone())).collect()
    }
}

/// Reads what a client has sent so far.
pub fn read(bytes: &[u8]) -> Reading {
    match gather(bytes) {
        Ok(Some(message)) => parse(message).map_or_else(Reading::Broken, Reading::Hello),
        Ok(None) if bytes.len() >= HELLO_BYTES_MAX => Reading::Broken("it has more bytes than a ClientHello may have"),
        Ok(None) => Reading::Partial,
        Err(reading) => reading,
    }
}

/// The first handshake message, which may be spread over several records. None: it is not all there.
fn gather(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, Reading> {
    let mut message = Vec::new();
    loop {
        let is_first = message.is_empty();
        match bytes {
            [] => return Ok(None),
            [HANDSHAKE] | [HANDSHAKE, 3, ..] => {}
            _ if is_first => return Err(Reading::Other),
            _ => return Err(Reading::Broken("a record of another kind stands inside the ClientHello")),
        }
        let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER_BYTES) else { return Ok(None) };
        let length = header.get(3..).map_or(0, number);
        if length == 0 {
            return Err(Reading::Broken("a record is empty"));
        }
        let (fragment, after) = rest.split_at(length.min(rest.len()));
        message.extend_from_slice(fragment);
        match message.as_slice() {
            [CLIENT_HELLO, ..] | [] => {}
            _ => return Err(Reading::Broken("the first message is no ClientHello")),
        }
        if let Some((header, _)) = message.split_at_checked(MESSAGE_HEADER_BYTES) {
            let length = header.get(1..).map_or(0, number) + MESSAGE_HEADER_BYTES;
            if length > HELLO_BYTES_MAX {
                return Err(Reading::Broken("the ClientHello is longer than it may be"));
            }
            if message.len() >= length {
                message.truncate(length);
                return Ok(Some(message));
            }
        }
        if fragment.len() < length {
            return Ok(None);
        }
        bytes = after;
    }
}

fn parse(message: Vec<u8>) -> Result<ClientHello, &'static str> {
    const TOO_SHORT: &str = "a field of the ClientHello is longer than what it is in";
    let mut hello = ClientHello::default();
    let end = message.len();
    let all = Cursor { bytes: &message, at: MESSAGE_HEADER_BYTES, end };
    let mut fields = all;
    let mut read = || -> Option<()> {
        fields.skip(FIXED_BYTES)?;
        // Session id, cipher suites, compression methods.
        fields.vector(1)?;
        fields.vector(2)?;
        fields.vector(1)?;
        if fields.is_empty() {
            // Without extensions, as TLS 1.0 allows.
            return Some(());
        }
        let mut extensions = fields.vector(2)?;
        while !extensions.is_empty() {
            let kind = extensions.number(2)?;
            let extension = extensions.vector(2)?;
            match u16::try_from(kind) {
                Ok(SERVER_NAME) => hello.sni = server_name(extension)?,
                Ok(ALPN) => hello.alpn = protocols(extension)?,
                _ => {}
            }
        }
        Some(())
    };
    read().ok_or(TOO_SHORT)?;
    hello.message = message;
    Ok(hello)
}

fn server_name(mut extension: Cursor<'_>) -> Option<Option<Range<usize>>> {
    let mut names = extension.vector(2)?;
    while !names.is_empty() {
        let kind = names.number(1)?;
        let name = names.vector(2)?;
        if kind == usize::from(HOST_NAME) {
            return Some(Some(name.range()));
        }
    }
    Some(None)
}

fn protocols(mut extension: Cursor<'_>) -> Option<Vec<Range<usize>>> {
    let mut list = extension.vector(2)?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let protocol = list.vector(1)?;
        if protocols.len() < PROTOCOLS_MAX {
            protocols.push(protocol.range());
        }
    }
    Some(protocols)
}

/// A place in a message, and where the field ends that it is in. Every read gives None where there is too little.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl Cursor<'_> {
    fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    fn range(&self) -> Range<usize> {
        self.at..self.end
    }

    fn skip(&mut self, count: usize) -> Option<Range<usize>> {
        let start = self.at;
        let next = start.checked_add(count).filter(|next| *next <= self.end)?;
        self.at = next;
        Some(start..next)
    }

    /// A number of so many bytes.
    fn number(&mut self, count: usize) -> Option<usize> {
        let range = self.skip(count)?;
        self.bytes.get(range).map(number)
    }

    /// What follows a length of so many bytes.
    fn vector(&mut self, length_bytes: usize) -> Option<Self> {
        let length = self.number(length_bytes)?;
        let range = self.skip(length)?;
        Some(Self { bytes: self.bytes, at: range.start, end: range.end })
    }
}

/// Big-endian, of at most four bytes.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What rustls says as a client.
    fn hello(name: &str, alpn: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn understood(bytes: &[u8]) -> ClientHello {
        match read(bytes) {
            Reading::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// The same message in records of at most so many bytes.
    fn in_records(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut records = Vec::new();
        for fragment in bytes[RECORD_HEADER_BYTES..].chunks(size) {
            records.extend_from_slice(&[HANDSHAKE, 3, 1]);
            records.extend_from_slice(&u16::try_from(fragment.len()).unwrap().to_be_bytes());
            records.write_all(fragment).unwrap();
        }
        records
    }

    #[test]
    fn says_whom_it_asks_for_and_what_it_offers() {
        let bytes = hello("db.example.com", &["h2", "http/1.1"]);
        let hello = understood(&bytes);
        assert_eq!(hello.sni(), Some(&b"db.example.com"[..]));
        assert_eq!(hello.alpn(), [&b"h2"[..], b"http/1.1"]);
        let bytes = self::hello("10.0.0.1", &[]);
        assert_eq!((understood(&bytes).sni(), understood(&bytes).alpn().len()), (None, 0));
    }

    #[test]
    fn is_whole_however_it_was_cut() {
        let bytes = hello("db.example.com", &["h2"]);
        for end in 1..bytes.len() {
            assert_eq!(read(&bytes[..end]), Reading::Partial, "{end} bytes");
        }
        for size in [1, 3, 100] {
            let records = in_records(&bytes, size);
            assert_eq!(understood(&records).sni(), Some(&b"db.example.com"[..]));
            assert_eq!(read(&records[..records.len() - 1]), Reading::Partial);
        }
        let more = [bytes.as_slice(), b"\x14\x03\x03\x00\x01\x01"].concat();
        assert_eq!(understood(&more).sni(), Some(&b"db.example.com"[..]));
    }

    #[test]
    fn what_is_no_tls_is_told_at_its_first_bytes() {
        assert_eq!(read(b""), Reading::Partial);
        for other in [&b"G"[..], b"GET / HTTP/1.1", b"\x16\x05", b"\x15\x03\x01", b"\x80\x2e\x01"] {
            assert_eq!(read(other), Reading::Other, "{other:?}");
        }
    }

    #[test]
    fn what_is_broken_says_so() {
        let broken = |bytes: &[u8]| matches!(read(bytes), Reading::Broken(_));
        assert!(broken(b"\x16\x03\x01\x00\x00"), "an empty record");
        assert!(broken(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"), "a ServerHello");
        assert!(broken(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff"), "longer than any");
        assert!(broken(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"), "too short for its version");
        let bytes = hello("db.example.com", &["h2"]);
        let mut records = in_records(&bytes, 100);
        records[RECORD_HEADER_BYTES + 100] = 23;
        assert!(broken(&records), "another record in between");
        let endless: Vec<u8> = std::iter::repeat_n(b"\x16\x03\x01\x00\x01\x01", HELLO_BYTES_MAX).flatten().copied().collect();
        assert!(broken(&endless[..HELLO_BYTES_MAX]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..300, byte in any::<u8>()) {
            let _ = read(&[b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03", bytes.as_slice()].concat());
            let mut hello = hello("a.test", &["h2"]);
            if let Some(place) = hello.get_mut(at) {
                *place = byte;
            }
            if let Reading::Hello(hello) = read(&hello) {
                prop_assert!(hello.alpn().len() <= PROTOCOLS_MAX);
                let _ = hello.sni();
            }
        }
    }
}
