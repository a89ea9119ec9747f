//! The head of a request as bytes (RFC 9112 section 3).

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Uri};

/// How the head says where the content ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// In chunks, as the length is not known yet.
    Chunked,
}

/// Writes `head` behind what is in `out`. Its target is written in origin form. What frames the content is written by `framing` alone,
/// whatever stands in the head.
pub(super) fn write_head(out: &mut Vec<u8>, head: &Parts, framing: Framing) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target(&head.uri).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut has_length = false;
    for (name, value) in &head.headers {
        if name == header::CONTENT_LENGTH {
            has_length = true;
        } else if name != header::TRANSFER_ENCODING {
            write_field(out, name.as_str(), value);
        }
    }
    match framing {
        // Who sends content as a rule says that there is none (RFC 9110 section 8.6).
        Framing::Empty if has_length || matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {
            out.extend_from_slice(b"content-length: 0\r\n");
        }
        Framing::Empty => {}
        Framing::Length(bytes) => write_field(out, "content-length", &HeaderValue::from(bytes)),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &HeaderValue) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(request: http::request::Builder, framing: Framing) -> String {
        let mut out = Vec::new();
        write_head(&mut out, &request.body(()).unwrap().into_parts().0, framing);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_one_framing_and_no_other() {
        let request = || Request::post("/a?b").header("Host", "c").header("Content-Length", "7").header("Transfer-Encoding", "chunked");
        assert_eq!(head(request(), Framing::Length(7)), "POST /a?b HTTP/1.1\r\nhost: c\r\ncontent-length: 7\r\n\r\n");
        assert_eq!(head(request(), Framing::Chunked), "POST /a?b HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!(head(request(), Framing::Empty), "POST /a?b HTTP/1.1\r\nhost: c\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(head(Request::get("*").method("OPTIONS"), Framing::Empty), "OPTIONS * HTTP/1.1\r\n\r\n");
    }
}
