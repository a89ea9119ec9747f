//! Sets, adds and removes header fields of requests and responses.
//!
//! First fields are removed, then set, then added. Fields that say how a message is framed, or that belong to one connection (RFC 9110
//! section 7.6.1), are the proxy's own and refused here: to change one is to open a way for request smuggling.

use std::collections::BTreeMap;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::{BuildError, Exchange, Flow, RequestHead, ResponseHead, Step};

/// Changes to the header fields of requests and responses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Headers {
    /// Changes to requests.
    #[serde(skip_serializing_if = "HeaderChanges::is_empty")]
    pub request: HeaderChanges,
    /// Changes to responses.
    #[serde(skip_serializing_if = "HeaderChanges::is_empty")]
    pub response: HeaderChanges,
}

/// Changes to the header fields of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderChanges {
    /// Fields that get this value, and only this one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Fields that get this value beside those they have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, String>,
    /// Fields that go, with all their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

impl HeaderChanges {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    fn build(&self) -> Result<Changes, String> {
        let field = |(name, value): (&String, &String)| Ok::<_, String>((parse_name(name)?, parse_value(name, value)?));
        Ok(Changes {
            remove: self.remove.iter().map(|name| parse_name(name)).collect::<Result<_, _>>()?,
            set: self.set.iter().map(field).collect::<Result<_, _>>()?,
            add: self.add.iter().map(field).collect::<Result<_, _>>()?,
        })
    }
}

impl Headers {
    pub(super) fn build(&self) -> Result<impl Step + use<>, BuildError> {
        let build = |changes: &HeaderChanges, side| changes.build().map_err(|error| BuildError(format!("headers.{side}: {error}")));
        if self.request.is_empty() && self.response.is_empty() {
            return Err(BuildError("headers: nothing to change: needs `request` or `response` with `set`, `add` or `remove`".into()));
        }
        Ok(Change { request: build(&self.request, "request")?, response: build(&self.response, "response")? })
    }
}

fn parse_name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::try_from(text).map_err(|_| format!("{text:?} is not a valid header field name"))?;
    match name.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "upgrade" => {
            Err(format!("`{text}` belongs to one connection (RFC 9110 section 7.6.1) and cannot be changed"))
        }
        "content-length" | "transfer-encoding" => Err(format!("`{text}` frames the message and cannot be changed")),
        "host" => Err("`Host` cannot be changed here: use `host = { rewrite = \"name\" }` of the upstream".into()),
        _ => Ok(name),
    }
}

fn parse_value(name: &str, text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| format!("the value {text:?} of `{name}` holds a control character"))
}

#[derive(Debug)]
struct Change {
    request: Changes,
    response: Changes,
}

#[derive(Debug)]
struct Changes {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

impl Changes {
    fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

impl Step for Change {
    fn request(&self, head: &mut RequestHead, _: &mut Exchange) -> Flow {
        self.request.apply(&mut head.headers);
        Flow::Continue
    }

    fn response(&self, head: &mut ResponseHead, _: &Exchange) {
        self.response.apply(&mut head.headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{exchange, request, run};

    fn build(json: &str) -> Result<impl Step, BuildError> {
        serde_json::from_str::<Headers>(json).unwrap().build()
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn removes_then_sets_then_adds() {
        let json = r#"{"request":{"remove":["X-A"],"set":{"X-B":"new"},"add":{"X-C":"2"}}}"#;
        let mut head = request("/", &[("x-a", "1"), ("x-a", "2"), ("x-b", "old"), ("x-c", "1")]);
        assert!(run(&build(json).unwrap(), &mut head).is_none());
        let mut lines = lines(&head.headers);
        lines.sort();
        assert_eq!(lines, ["x-b: new", "x-c: 1", "x-c: 2"]);
    }

    #[test]
    fn changes_responses() {
        let step = build(r#"{"response":{"set":{"Strict-Transport-Security":"max-age=31536000"},"remove":["Server"]}}"#).unwrap();
        let (mut head, ()) = http::Response::builder().header("server", "x").body(()).unwrap().into_parts();
        step.response(&mut head, &exchange());
        assert_eq!(lines(&head.headers), ["strict-transport-security: max-age=31536000"]);
    }

    #[test]
    fn refuses_framing_and_hop_by_hop_fields() {
        let check = |json: &str, part: &str| {
            let error = build(json).err().unwrap().0;
            assert!(error.contains(part), "{error}");
        };
        for name in ["Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Upgrade"] {
            check(&format!(r#"{{"request":{{"set":{{"{name}":"x"}}}}}}"#), "belongs to one connection");
        }
        for name in ["content-length", "Transfer-Encoding"] {
            check(&format!(r#"{{"response":{{"remove":["{name}"]}}}}"#), "headers.response: `");
        }
        check(r#"{"request":{"add":{"Host":"x"}}}"#, "of the upstream");
        check(r#"{"request":{"set":{"a b":"x"}}}"#, "\"a b\" is not a valid header field name");
        check(r#"{"request":{"set":{"a":"x\r\ny: z"}}}"#, "control character");
        check("{}", "nothing to change");
        assert!(serde_json::from_str::<Headers>(r#"{"request":{"sett":{}}}"#).is_err());
    }
}
