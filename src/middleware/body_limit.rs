//! Bounds the bytes of a request's body: 413 at once when its length is known, and when it grows beyond the bound while it streams.

use std::fmt;

use http::StatusCode;
use http::header::CONTENT_LENGTH;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::{BuildError, Exchange, Flow, RequestHead, Step, answer};

/// The most bytes of a request's body: a number, or text with a unit such as `"10MiB"` or `"500kB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BodyLimit(pub u64);

impl BodyLimit {
    pub(super) fn build(self) -> Result<impl Step + use<>, BuildError> {
        Ok(Limit { bytes_max: self.0 })
    }
}

#[derive(Debug)]
struct Limit {
    bytes_max: u64,
}

impl Step for Limit {
    fn request(&self, head: &mut RequestHead, exchange: &mut Exchange) -> Flow {
        if declared(head).is_some_and(|bytes| bytes > self.bytes_max) {
            let body = "The body of the request is larger than this server accepts.\n";
            return Flow::Respond(answer::text(StatusCode::PAYLOAD_TOO_LARGE, body));
        }
        exchange.limit_body(self.bytes_max);
        Flow::Continue
    }
}

/// What the request says of its length. One that cannot be read was refused before, as ambiguous framing; the stream is bounded anyway.
fn declared(head: &RequestHead) -> Option<u64> {
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Decimal units are powers of 1,000, binary ones of 1,024.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

fn parse(text: &str) -> Result<u64, String> {
    let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, unit) = unit.unwrap_or((text, 1));
    let bytes = number.trim_end().parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| format!("`{text}` is not a number of bytes, such as 1048576, \"10MiB\" or \"500kB\""))
}

impl<'de> Deserialize<'de> for BodyLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Bytes)
    }
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = BodyLimit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, such as 1048576, \"10MiB\" or \"500kB\"")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<BodyLimit, E> {
        Ok(BodyLimit(bytes))
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<BodyLimit, E> {
        u64::try_from(bytes).map(BodyLimit).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<BodyLimit, E> {
        parse(text).map(BodyLimit).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{exchange, request};

    #[test]
    fn reads_units() {
        let check = |json: &str| serde_json::from_str::<BodyLimit>(json).map(|limit| limit.0).map_err(|error| error.to_string());
        assert_eq!(check("0"), Ok(0));
        assert_eq!(check(r#""10MiB""#), Ok(10 << 20));
        assert_eq!(check(r#""500 kB""#), Ok(500_000));
        assert_eq!(check(r#""7B""#), Ok(7));
        assert_eq!(check(r#""1024""#), Ok(1024));
        for json in [r#""10 parsecs""#, r#""99999999999TB""#, r#""""#, r#""-1""#, "-1", "1.5", "[]"] {
            assert!(check(json).unwrap_err().contains("number of bytes"), "{json}");
        }
        assert_eq!(toml::from_str::<std::collections::BTreeMap<String, BodyLimit>>("a = 5").unwrap()["a"], BodyLimit(5));
    }

    #[test]
    fn refuses_at_once_or_bounds_the_stream() {
        let check = |headers: &[(&str, &str)]| {
            let step = BodyLimit(100).build().unwrap();
            let mut exchange = Exchange { body_bytes_max: Some(1000), ..exchange() };
            match step.request(&mut request("/", headers), &mut exchange) {
                Flow::Respond(answer) => Err(answer.status().as_u16()),
                _ => Ok(exchange.body_bytes_max),
            }
        };
        assert_eq!(check(&[("content-length", "101")]), Err(413));
        assert_eq!(check(&[("content-length", "100")]), Ok(Some(100)));
        assert_eq!(check(&[("transfer-encoding", "chunked")]), Ok(Some(100)));
    }
}
