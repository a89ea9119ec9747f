//! The head of a response (RFC 9112 section 4), and where the response ends (section 6.3).
//!
//! What an endpoint says of its connection stays here: fields that concern the connection (RFC 9110 section 7.6.1) are understood and
//! not handed on.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts;
use http::{Method, Response, StatusCode, Version};
use httparse::Status;

use super::chunked::{Chunked, Piece, take};
use crate::proxy::head;

/// The largest head, in bytes.
pub const HEAD_BYTES_MAX: usize = 128 << 10;

/// Room for the fields of a common head. One with more is parsed again, with room for [`FIELDS_MAX`].
const FIELDS: usize = 32;

/// The most fields in a head.
pub const FIELDS_MAX: usize = 256;

/// Bytes that are no response, or one that could be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed response: {0}")]
pub struct Malformed(pub(super) &'static str);

/// The head of a response.
#[derive(Debug)]
pub struct Head {
    /// What is handed on.
    pub parts: Parts,
    /// How the content ends.
    pub body: Body,
    /// Whether the endpoint keeps the connection open.
    pub is_kept: bool,
    /// The protocol that it switches to, with status 101.
    pub upgrade: Option<HeaderValue>,
}

impl Head {
    /// Whether it is not the response yet, but one on the way to it (RFC 9110 section 15.2).
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.parts.status.is_informational() && self.parts.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// What ends the content of a response.
#[derive(Debug)]
pub enum Body {
    /// So many bytes are still to come.
    Length(u64),
    /// The last chunk.
    Chunked(Chunked),
    /// The end of the connection.
    Close,
    /// It is over.
    End,
}

impl Body {
    /// Takes the next piece out of `buf`. None: more bytes are needed.
    ///
    /// # Errors
    /// When these bytes are not what the head has announced.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        match self {
            Self::Length(left) => {
                let Some(data) = take(buf, *left) else { return Ok(None) };
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::End;
                }
                Ok(Some(Piece::Data(data)))
            }
            Self::Chunked(chunked) => {
                let piece = chunked.decode(buf)?;
                if chunked.is_end() {
                    *self = Self::End;
                }
                Ok(piece)
            }
            Self::Close => Ok(take(buf, u64::MAX).map(Piece::Data)),
            Self::End => Ok(Some(Piece::End)),
        }
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// When there should have been more.
    pub fn close(&mut self) -> Result<(), Malformed> {
        match self {
            Self::Close | Self::End => {
                *self = Self::End;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(Malformed("the connection ended before the response")),
        }
    }

    /// Whether all of it was read.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::End)
    }
}

/// Takes a head out of `buf`; the request was made with `method`. None: more bytes are needed.
///
/// # Errors
/// When these bytes are no head, or it is too large, or it frames its content in a way that two parsers could read differently.
pub fn head(buf: &mut BytesMut, method: &Method) -> Result<Option<Head>, Malformed> {
    let Some(end) = end_of_head(buf) else {
        return if buf.len() > HEAD_BYTES_MAX { Err(Malformed("its head is too large")) } else { Ok(None) };
    };
    let bytes = buf.split_to(end).freeze();
    let mut fields = [MaybeUninit::uninit(); FIELDS];
    match parse(&bytes, &mut fields, method) {
        Err(Unparsed::Fields) => {
            let mut fields = [MaybeUninit::uninit(); FIELDS_MAX];
            parse(&bytes, &mut fields, method)
        }
        parsed => parsed,
    }
    .map(Some)
    .map_err(|unparsed| match unparsed {
        Unparsed::Fields => Malformed("too many header fields"),
        Unparsed::Malformed(malformed) => malformed,
    })
}

/// Where the first empty line ends.
fn end_of_head(buf: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', buf).find_map(|at| match buf.get(at + 1..)? {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

enum Unparsed {
    /// More fields than there is room for.
    Fields,
    Malformed(Malformed),
}

impl From<Malformed> for Unparsed {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

fn parse<'b>(bytes: &'b Bytes, fields: &mut [MaybeUninit<httparse::Header<'b>>], method: &Method) -> Result<Head, Unparsed> {
    let mut parsed = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, fields) {
        Ok(Status::Complete(end)) if end == bytes.len() => {}
        Ok(_) => return Err(Malformed("its head is none").into()),
        Err(httparse::Error::TooManyHeaders) => return Err(Unparsed::Fields),
        Err(error) => return Err(Malformed(why(error)).into()),
    }
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    parts.status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed("its status is none"))?;
    keep_reason(&mut parts, parsed.reason);
    parts.headers = HeaderMap::with_capacity(parsed.headers.len());
    let mut connection = ConnectionFields::default();
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed("the name of a header field"))?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| Malformed("a header field"))?;
        if let Some((name, value)) = connection.take(name, value)? {
            parts.headers.append(name, value);
        }
    }
    connection.settle(parts, method).map_err(Into::into)
}

fn why(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "the name of a header field",
        httparse::Error::HeaderValue => "the value of a header field",
        httparse::Error::NewLine => "a line does not end",
        httparse::Error::Status => "its status is none",
        httparse::Error::Version => "it is not HTTP/1",
        httparse::Error::Token | httparse::Error::TooManyHeaders => "its head is none",
    }
}

/// A reason that is not the usual one is handed on.
fn keep_reason(parts: &mut Parts, reason: Option<&str>) {
    let reason = reason.unwrap_or_default();
    if parts.status.canonical_reason() != Some(reason)
        && let Ok(reason) = hyper::ext::ReasonPhrase::try_from(reason.as_bytes())
    {
        parts.extensions.insert(reason);
    }
}

/// The fields of a head that concern the connection, and those that frame the content.
#[derive(Default)]
struct ConnectionFields {
    length: Option<u64>,
    is_chunked: bool,
    is_close: bool,
    is_keep_alive: bool,
    names_others: bool,
    upgrade: Option<HeaderValue>,
}

impl ConnectionFields {
    /// Gives back what is to be handed on.
    fn take(&mut self, name: HeaderName, value: HeaderValue) -> Result<Option<(HeaderName, HeaderValue)>, Malformed> {
        if name == header::CONTENT_LENGTH {
            return Ok(self.content_length(&value)?.then_some((name, value)));
        }
        if !head::is_hop_by_hop(&name) {
            return Ok(Some((name, value)));
        }
        if name == header::TRANSFER_ENCODING {
            // We have asked for no other one (RFC 9110 section 10.1.4), and could not name it to the client.
            if self.is_chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("a transfer coding that nobody asked for"));
            }
            self.is_chunked = true;
        } else if name == header::CONNECTION {
            self.options(value.as_bytes());
            // Only until what it names is gone.
            return Ok(self.names_others.then_some((name, value)));
        } else if name == header::UPGRADE {
            self.upgrade = Some(value);
        }
        Ok(None)
    }

    /// Whether it is the first one. Several that agree are one (RFC 9110 section 8.6).
    fn content_length(&mut self, value: &HeaderValue) -> Result<bool, Malformed> {
        let digits = value.as_bytes();
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let length = value.to_str().ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
        let length = length.ok_or(Malformed("a content length that is no number"))?;
        match self.length.replace(length) {
            None => Ok(true),
            Some(before) if before == length => Ok(false),
            Some(_) => Err(Malformed("two content lengths")),
        }
    }

    fn options(&mut self, list: &[u8]) {
        for option in list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.is_close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.is_keep_alive = true;
            } else if !option.eq_ignore_ascii_case(b"upgrade") {
                self.names_others = true;
            }
        }
    }

    fn settle(self, mut parts: Parts, method: &Method) -> Result<Head, Malformed> {
        let is_switch = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let is_empty = *method == Method::HEAD
            || parts.status.is_informational()
            || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let has_two = self.is_chunked && self.length.is_some();
        if self.is_chunked && parts.version == Version::HTTP_10 {
            return Err(Malformed("chunks in HTTP/1.0"));
        }
        if has_two {
            // Chunked wins over a length, which is not handed on (RFC 9112 section 6.3).
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        let body = match self.length {
            _ if is_empty => Body::End,
            _ if self.is_chunked => Body::Chunked(Chunked::default()),
            Some(0) => Body::End,
            Some(length) => Body::Length(length),
            None => Body::Close,
        };
        let is_lasting = if parts.version == Version::HTTP_11 { !self.is_close } else { self.is_keep_alive && !self.is_close };
        let is_kept = is_lasting && !has_two && !matches!(body, Body::Close);
        if self.names_others {
            head::remove_named(&mut parts.headers);
            parts.headers.remove(header::CONNECTION);
        }
        // The version is of this connection alone (RFC 9110 section 2.5).
        parts.version = Version::HTTP_11;
        Ok(Head { parts, body, is_kept, upgrade: self.upgrade.filter(|_| is_switch) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str, method: &Method) -> Result<Option<Head>, Malformed> {
        head(&mut BytesMut::from(text), method)
    }

    fn get(text: &str) -> Head {
        parse(text, &Method::GET).unwrap().unwrap()
    }

    #[test]
    fn understands_what_concerns_the_connection_and_hands_the_rest_on() {
        let head = get(concat!(
            "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n",
            "Set-Cookie: a\r\nset-cookie: b\r\nContent-Length: 5\r\nContent-Length: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\r\nhello"
        ));
        let fields: Vec<_> = head.parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(fields, ["server: x", "set-cookie: a", "set-cookie: b", "content-length: 5"]);
        assert!(head.is_kept && head.upgrade.is_none() && matches!(head.body, Body::Length(5)));
    }

    #[test]
    fn knows_where_a_response_ends() {
        for (method, text, body, is_kept) in [
            (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "Length(3)", true),
            (Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "End", true),
            (Method::GET, "HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", "Chunked", true),
            (Method::GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", "Chunked", false),
            (Method::GET, "HTTP/1.1 200 OK\r\n\r\n", "Close", false),
            (Method::GET, "HTTP/1.1 200 OK\nContent-Length: 3\n\n", "Length(3)", true),
            (Method::GET, "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 3\r\n\r\n", "Length(3)", false),
            (Method::GET, "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", "Length(3)", false),
            (Method::GET, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n", "Length(3)", true),
            (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "End", true),
            (Method::HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "End", true),
            (Method::GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "End", true),
            (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", "End", true),
            (Method::GET, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "End", true),
        ] {
            let head = parse(text, &method).unwrap().unwrap();
            assert!(format!("{:?}", head.body).starts_with(body), "{text:?}: {:?}", head.body);
            assert_eq!(head.is_kept, is_kept, "{text:?}");
            assert!(!head.parts.headers.contains_key("transfer-encoding"));
        }
    }

    #[test]
    fn refuses_what_two_parsers_could_read_differently() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX + 1));
        for text in [
            "\r\n\r\n",
            "garbage\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 99 x\r\n\r\n",
            "HTTP/1.1 2000 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
            &many,
        ] {
            assert!(parse(text, &Method::GET).is_err(), "{text:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(HEAD_BYTES_MAX));
        assert!(parse(&endless, &Method::GET).is_err());
    }

    #[test]
    fn many_fields_take_a_second_look() {
        let head = get(&format!("HTTP/1.1 200 Fine by me\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX)));
        assert_eq!(head.parts.headers.len(), FIELDS_MAX);
        assert_eq!(head.parts.extensions.get::<hyper::ext::ReasonPhrase>().unwrap().as_bytes(), b"Fine by me");
    }

    proptest! {
        /// Everything that is read of a response, cut anywhere, is what is read of it in one piece.
        #[test]
        fn means_the_same_however_it_is_cut(
            template in 0..6_usize,
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut bytes = [
                "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world", "HTTP/1.1 200 OK\r\nServer: x\r\n\r\nhello world",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.0 200 OK\nContent-Length: 3\n\nabc",
            ][template].as_bytes().to_vec();
            if let Some((at, byte)) = damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
            at.sort_unstable();
            let cut: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&cut), read(&[&bytes]));
        }
    }

    /// What a client makes of these bytes: heads, content, and how it ends.
    fn read(cuts: &[&[u8]]) -> (Vec<String>, Vec<u8>, bool) {
        let (mut buf, mut body, mut seen, mut content) = (BytesMut::new(), None::<Body>, Vec::new(), Vec::new());
        for cut in cuts {
            buf.extend_from_slice(cut);
            while body.is_none() {
                match head(&mut buf, &Method::GET) {
                    Ok(None) => break,
                    Err(malformed) => return (seen, content, malformed == Malformed("")),
                    Ok(Some(head)) => {
                        seen.push(format!("{:?} {:?} {}", head.parts.status, head.parts.headers, head.is_kept));
                        body = Some(head.body).filter(|_| !head.parts.status.is_informational());
                    }
                }
            }
            let Some(body) = &mut body else { continue };
            while !body.is_end() {
                match body.decode(&mut buf) {
                    Ok(None) => break,
                    Err(_) => return (seen, content, false),
                    Ok(Some(Piece::Data(data))) => content.extend_from_slice(&data),
                    Ok(Some(_)) => {}
                }
            }
        }
        let is_whole = body.is_some_and(|mut body| body.close().is_ok());
        (seen, content, is_whole)
    }
}
