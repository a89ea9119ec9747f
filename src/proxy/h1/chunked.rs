//! Bodies in chunks (RFC 9112 section 7.1).

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::response::Malformed;

/// The longest line that announces a chunk, in bytes, with its extensions.
const LINE_BYTES_MAX: usize = 1024;

/// The most bytes of extensions in one body. They mean nothing to us, and one per byte of content would only cost.
const EXTENSION_BYTES_MAX: usize = 16 << 10;

/// The largest trailer section, in bytes.
const TRAILER_BYTES_MAX: usize = 16 << 10;

/// The most fields in a trailer section.
const TRAILERS_MAX: usize = 64;

/// Reads a body in chunks.
#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    extension_bytes: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// So many bytes of a chunk are still to come.
    Data(u64),
    /// The line end behind a chunk.
    DataEnd,
    Trailers,
    End,
}

/// What was read of a body.
#[derive(Debug)]
pub enum Piece {
    /// Content.
    Data(Bytes),
    /// The fields behind the content.
    Trailers(HeaderMap),
    /// It is over.
    End,
}

impl Chunked {
    /// Takes the next piece out of `buf`. None: more bytes are needed.
    ///
    /// # Errors
    /// When this is no body in chunks: nothing that follows can be understood.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        loop {
            match self.state {
                State::Size => match self.size(buf)? {
                    None => return Ok(None),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Data(size),
                },
                State::Data(0) => self.state = State::DataEnd,
                State::Data(left) => {
                    let Some(data) = take(buf, left) else { return Ok(None) };
                    self.state = State::Data(left - data.len() as u64);
                    return Ok(Some(Piece::Data(data)));
                }
                State::DataEnd => match buf.get(..2) {
                    Some(b"\r\n") => {
                        buf.advance(2);
                        self.state = State::Size;
                    }
                    None if buf.is_empty() || **buf == *b"\r" => return Ok(None),
                    _ => return Err(Malformed("a chunk is longer than announced")),
                },
                State::Trailers => return self.trailers(buf),
                State::End => return Ok(Some(Piece::End)),
            }
        }
    }

    /// Whether all of it was read.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.state == State::End
    }

    fn size(&mut self, buf: &mut BytesMut) -> Result<Option<u64>, Malformed> {
        let Some(end) = memchr::memchr(b'\n', buf) else {
            return if buf.len() > LINE_BYTES_MAX { Err(Malformed("the line before a chunk is too long")) } else { Ok(None) };
        };
        let line = buf.split_to(end + 1);
        let line = line.strip_suffix(b"\r\n").filter(|line| line.len() <= LINE_BYTES_MAX && !line.contains(&b'\r'));
        let line = line.ok_or(Malformed("the line before a chunk is none"))?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, extension) = line.split_at(digits);
        if !matches!(extension.trim_ascii_start().first(), None | Some(b';')) {
            return Err(Malformed("a chunk without a size"));
        }
        self.extension_bytes += extension.len();
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return Err(Malformed("too many chunk extensions"));
        }
        size(digits).map(Some)
    }

    fn trailers(&mut self, buf: &mut BytesMut) -> Result<Option<Piece>, Malformed> {
        if buf.starts_with(b"\r\n") {
            buf.advance(2);
            self.state = State::End;
            return Ok(Some(Piece::End));
        }
        let mut fields = [httparse::EMPTY_HEADER; TRAILERS_MAX];
        let (bytes, fields) = match httparse::parse_headers(buf, &mut fields) {
            Ok(httparse::Status::Complete(parsed)) => parsed,
            Ok(httparse::Status::Partial) if buf.len() > TRAILER_BYTES_MAX => return Err(Malformed("trailers are too large")),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Malformed("trailers are no header fields")),
        };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let (name, value) = (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value));
            trailers.append(name.map_err(|_| Malformed("the name of a trailer"))?, value.map_err(|_| Malformed("a trailer"))?);
        }
        buf.advance(bytes);
        self.state = State::End;
        Ok(Some(Piece::Trailers(trailers)))
    }
}

/// Up to `left` bytes of what is there. None: nothing is.
pub(super) fn take(buf: &mut BytesMut, left: u64) -> Option<Bytes> {
    let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
    (bytes > 0).then(|| buf.split_to(bytes).freeze())
}

/// A number in hexadecimal: at most 16 digits, so it fits.
fn size(digits: &[u8]) -> Result<u64, Malformed> {
    if digits.is_empty() || digits.len() > 16 {
        return Err(Malformed("a chunk without a size that makes sense"));
    }
    Ok(digits.iter().filter_map(|digit| char::from(*digit).to_digit(16)).fold(0, |size, digit| size << 4 | u64::from(digit)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Content, names of trailers, and what is left behind the body.
    type Decoded = (Vec<u8>, Vec<String>, Vec<u8>);

    /// None: it is not over.
    fn decode<'a>(cuts: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Decoded>, Malformed> {
        let (mut chunked, mut buf, mut content, mut names) = (Chunked::default(), BytesMut::new(), Vec::new(), Vec::new());
        for cut in cuts {
            buf.extend_from_slice(cut);
            while !chunked.is_end() {
                match chunked.decode(&mut buf)? {
                    None => break,
                    Some(Piece::Data(data)) => content.extend_from_slice(&data),
                    Some(Piece::Trailers(trailers)) => names = trailers.keys().map(ToString::to_string).collect(),
                    Some(Piece::End) => {}
                }
            }
        }
        Ok(chunked.is_end().then(|| (content, names, buf.to_vec())))
    }

    fn whole(text: &str) -> Result<Option<Decoded>, Malformed> {
        decode([text.as_bytes()])
    }

    #[test]
    fn reads_what_is_well_formed() {
        for (text, content, trailers, left) in [
            ("0\r\n\r\n", "", vec![], ""),
            ("5\r\nhello\r\n0\r\n\r\nHTTP/1.1", "hello", vec![], "HTTP/1.1"),
            ("000005\r\nhello\r\n00\r\n\r\n", "hello", vec![], ""),
            ("A;a=b;c=\"d\"\r\n0123456789\r\n1 ; x\r\n!\r\n0;last\r\n\r\n", "0123456789!", vec![], ""),
            ("1\r\n\r\r\n0\r\nGrpc-Status: 0\r\nx: y\r\n\r\n", "\r", vec!["grpc-status", "x"], ""),
        ] {
            let trailers = trailers.into_iter().map(String::from).collect();
            assert_eq!(whole(text), Ok(Some((content.into(), trailers, left.into()))), "{text:?}");
        }
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(LINE_BYTES_MAX));
        let extended = format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(17);
        let endless = format!("0\r\n{}", "a: b\r\n".repeat(TRAILER_BYTES_MAX));
        for text in [
            "\r\n",
            " 5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            "-1\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\n0\n\n",
            "5\rhello\r\n",
            "5 5\r\nhello\r\n",
            "5;\r;\r\nhello\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "4\r\nhello\r\n0\r\n\r\n",
            "5,5\r\nhello\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
            "10000000000000000\r\n",
            "0\r\nno field\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            "0\r\na b: x\r\n\r\n",
            &long,
            &extended,
            &endless,
        ] {
            assert!(whole(text).is_err(), "{text:?}");
        }
        // The largest size fits, and is not believed to be there.
        assert_eq!(whole("FFFFFFFFFFFFFFFF\r\nhello"), Ok(None));
        assert_eq!(whole("5\r\nhello\r\n0\r\n"), Ok(None));
    }

    proptest! {
        #[test]
        fn means_the_same_however_it_is_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            trailer in any::<bool>(),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut bytes: Vec<u8> = chunks.iter().flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()).collect();
            bytes.extend_from_slice(if trailer { b"0\r\na: b\r\n\r\nrest" } else { b"0\r\n\r\nrest" });
            if let Some((at, byte)) = damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
            at.sort_unstable();
            let pieces = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            let (cut, whole) = (decode(pieces), decode([&bytes[..]]));
            if damage.is_none() {
                prop_assert_eq!(&whole.as_ref().unwrap().as_ref().unwrap().0, &chunks.concat());
            }
            prop_assert_eq!(cut.is_err(), whole.is_err());
            if let (Ok(cut), Ok(whole)) = (cut, whole) {
                prop_assert_eq!(cut, whole);
            }
        }
    }
}
