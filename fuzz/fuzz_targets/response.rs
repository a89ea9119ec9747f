//! What an endpoint sends: the first byte chooses the method of the request, the next two where the bytes are cut, all others are the
//! endpoint's.

#![no_main]

use bytes::BytesMut;
use http::{Method, StatusCode, header};
use libfuzzer_sys::fuzz_target;
use nuncio::proxy::h1::chunked::Piece;
use nuncio::proxy::h1::response::{Body, FIELDS_MAX, HEAD_BYTES_MAX, Head, head};

fuzz_target!(|bytes: &[u8]| {
    let [method, first, second, bytes @ ..] = bytes else { return };
    let method = [Method::GET, Method::HEAD, Method::POST][usize::from(*method) % 3].clone();
    let mut cuts = [usize::from(*first) % (bytes.len() + 1), usize::from(*second) % (bytes.len() + 1)];
    cuts.sort_unstable();
    let whole = read(&[bytes], &method);
    let cut = read(&[&bytes[..cuts[0]], &bytes[cuts[0]..cuts[1]], &bytes[cuts[1]..]], &method);
    assert_eq!(whole, cut, "what is read depends on how it was cut");
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    if bytes.len() < 512 {
        assert_eq!(whole, read(&single, &method), "what is read depends on how it was cut");
    }
});

/// What was understood: heads, content, trailers; how it ended.
type Seen = (Vec<String>, Vec<u8>, End);

#[derive(Debug, PartialEq, Eq)]
enum End {
    Malformed,
    /// With the connection.
    Closed,
    /// So many bytes before.
    Complete(usize),
}

fn read(pieces: &[&[u8]], method: &Method) -> Seen {
    let (mut buf, mut body, mut seen, mut content) = (BytesMut::new(), None::<Body>, Vec::new(), Vec::new());
    let mut later = pieces.iter().map(|piece| piece.len()).sum::<usize>();
    for piece in pieces {
        buf.extend_from_slice(piece);
        later -= piece.len();
        while body.is_none() {
            match head(&mut buf, method) {
                Ok(None) => break,
                Err(_) => return (seen, content, End::Malformed),
                Ok(Some(head)) => {
                    check(&head);
                    seen.push(format!("{:?} {:?} {} {:?}", head.parts, head.body, head.is_kept, head.upgrade));
                    body = (!head.is_interim()).then_some(head.body);
                }
            }
        }
        let Some(body) = &mut body else { continue };
        loop {
            if body.is_end() {
                return (seen, content, End::Complete(buf.len() + later));
            }
            match body.decode(&mut buf) {
                Ok(None) => break,
                Err(_) => return (seen, content, End::Malformed),
                Ok(Some(Piece::Data(data))) => content.extend_from_slice(&data),
                Ok(Some(Piece::Trailers(trailers))) => seen.push(format!("{trailers:?}")),
                Ok(Some(Piece::End)) => {}
            }
        }
    }
    let end = match body {
        None => End::Malformed,
        Some(mut body) => body.close().map_or(End::Malformed, |()| End::Closed),
    };
    (seen, content, end)
}

/// What every head that is handed on must be.
fn check(head: &Head) {
    let headers = &head.parts.headers;
    assert!(headers.len() <= FIELDS_MAX);
    assert!(headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() <= HEAD_BYTES_MAX);
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE] {
        assert!(!headers.contains_key(&name), "{name} concerns the connection");
    }
    let lengths: Vec<_> = headers.get_all(header::CONTENT_LENGTH).iter().collect();
    assert!(lengths.len() <= 1);
    let length = lengths.first().map(|length| length.to_str().unwrap().parse::<u64>().unwrap());
    match head.body {
        Body::Length(left) => assert_eq!(length, Some(left)),
        Body::Chunked(_) | Body::Close => assert_eq!(length, None),
        Body::End => {}
    }
    assert!(head.upgrade.is_none() || head.parts.status == StatusCode::SWITCHING_PROTOCOLS);
    assert!(!(head.is_kept && matches!(head.body, Body::Close)));
}
