//! Sends clients that came without TLS to the same address with it. Requests that came by TLS go on.

use std::fmt;

use http::{HeaderValue, StatusCode};
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Serialize};

use super::redirect::parse_status;
use super::{BuildError, Exchange, Flow, RequestHead, Step, answer, host};

/// Where TLS is served. In configuration `true`, or a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RedirectHttps {
    /// The port of the `https` address. Default 443, which is left out.
    pub port: u16,
    /// 301, 302, 307 or 308 (default: for good, with the same method).
    pub status: u16,
}

impl Default for RedirectHttps {
    fn default() -> Self {
        Self { port: 443, status: 308 }
    }
}

impl RedirectHttps {
    pub(super) fn build(&self) -> Result<impl Step + use<>, BuildError> {
        let status = parse_status(self.status).map_err(|message| BuildError(format!("redirect_https: {message}")))?;
        if self.port == 0 {
            return Err(BuildError("redirect_https: `port = 0` is no port that a client can reach".into()));
        }
        Ok(ToHttps { port: if self.port == 443 { String::new() } else { format!(":{}", self.port) }, status })
    }
}

#[derive(Debug)]
struct ToHttps {
    /// With its colon; empty for 443.
    port: String,
    status: StatusCode,
}

impl Step for ToHttps {
    fn request(&self, head: &mut RequestHead, exchange: &mut Exchange) -> Flow {
        if exchange.is_https {
            return Flow::Continue;
        }
        match self.location(head) {
            Some(location) => Flow::Respond(answer::redirect(self.status, location)),
            None => Flow::Respond(answer::text(StatusCode::BAD_REQUEST, "The request has no valid host.\n")),
        }
    }
}

impl ToHttps {
    fn location(&self, head: &RequestHead) -> Option<HeaderValue> {
        let authority = host::of(head)?;
        // `OPTIONS *` has no path that an address could hold.
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let target = if target.starts_with('/') { target } else { "/" };
        HeaderValue::try_from(["https://", authority.host(), &self.port, target].concat()).ok()
    }
}

impl<'de> Deserialize<'de> for RedirectHttps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TrueOrTable)
    }
}

struct TrueOrTable;

impl<'de> Visitor<'de> for TrueOrTable {
    type Value = RedirectHttps;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`true`, or a table such as { port = 8443, status = 308 }")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<RedirectHttps, E> {
        if value { Ok(RedirectHttps::default()) } else { Err(E::custom("`redirect_https = false` does nothing: leave it out")) }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RedirectHttps, A::Error> {
        #[derive(Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Table {
            port: u16,
            status: u16,
        }
        impl Default for Table {
            fn default() -> Self {
                let RedirectHttps { port, status } = RedirectHttps::default();
                Self { port, status }
            }
        }
        let Table { port, status } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(RedirectHttps { port, status })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{exchange, request};

    fn check(json: &str, is_https: bool, uri: &str, host: &str) -> Option<String> {
        let step = serde_json::from_str::<RedirectHttps>(json).unwrap().build().unwrap();
        assert!(!step.always_responds());
        let mut exchange = Exchange { is_https, ..exchange() };
        match step.request(&mut request(uri, &[("host", host)]), &mut exchange) {
            Flow::Respond(answer) => {
                let location = answer.headers().get("location").map_or("", |value| value.to_str().unwrap());
                Some(format!("{} {location}", answer.status().as_u16()))
            }
            _ => None,
        }
    }

    #[test]
    fn keeps_host_path_and_query() {
        assert_eq!(check("true", false, "/a?b=c", "a.com:8080").as_deref(), Some("308 https://a.com/a?b=c"));
        assert_eq!(check(r#"{"port":8443,"status":301}"#, false, "/", "a.com").as_deref(), Some("301 https://a.com:8443/"));
        assert_eq!(check("true", false, "/", "[::1]:80").as_deref(), Some("308 https://[::1]/"));
        assert_eq!(check("true", false, "*", "a.com").as_deref(), Some("308 https://a.com/"));
        assert_eq!(check("true", true, "/", "a.com"), None);
        assert_eq!(check("true", false, "/", "a@b.com").as_deref(), Some("400 "));
    }

    #[test]
    fn is_true_or_a_table() {
        let error = |json: &str| serde_json::from_str::<RedirectHttps>(json).unwrap_err().to_string();
        assert!(error("false").contains("leave it out"));
        assert!(error("443").contains("or a table"));
        assert!(error(r#"{"prt":1}"#).contains("unknown field"));
        assert!(RedirectHttps { port: 0, status: 308 }.build().is_err());
        assert!(RedirectHttps { port: 443, status: 200 }.build().is_err());
    }
}
