//! Takes a prefix off the path, and tells the endpoint in `X-Forwarded-Prefix`, so that it can write links that work outside.
//!
//! Prefixes end at segments: `/v1` is taken off `/v1/users` and `/v1` (which becomes `/`), never off `/v10`. Of several that fit the
//! longest counts. A path without any of them stays as it is.

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::{BuildError, Exchange, Flow, RequestHead, Step, path};

/// What an endpoint is told was taken off. Appended to what a trusted proxy, or an earlier middleware, took off before.
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The prefixes to take off: one string, or a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a prefix such as \"/v1\", or a list of them")]
pub enum StripPrefix {
    /// One prefix.
    One(String),
    /// Several; of those that fit the longest counts.
    Several(Vec<String>),
}

impl StripPrefix {
    pub(super) fn build(&self) -> Result<impl Step + use<>, BuildError> {
        let texts = match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Several(texts) => texts,
        };
        if texts.is_empty() {
            return Err(BuildError("strip_prefix: the list is empty".into()));
        }
        let mut prefixes = texts.iter().map(|text| Prefix::parse(text)).collect::<Result<Vec<_>, _>>()?;
        prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.text.len()));
        Ok(Strip { prefixes })
    }
}

#[derive(Debug)]
struct Strip {
    /// Invariant: the longest first.
    prefixes: Vec<Prefix>,
}

#[derive(Debug)]
struct Prefix {
    text: String,
    header: HeaderValue,
}

impl Prefix {
    fn parse(text: &str) -> Result<Self, BuildError> {
        let error = |message| BuildError(format!("strip_prefix: {message}"));
        let text = path::parse_prefix(text).map_err(error)?;
        let header = HeaderValue::from_str(text).map_err(|_| error(format!("{text:?} cannot be sent in a header field")))?;
        Ok(Self { text: text.into(), header })
    }

    /// What is left of a path that starts with the prefix.
    fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        match path.strip_prefix(&self.text)? {
            "" => Some("/"),
            rest if rest.starts_with('/') => Some(rest),
            _ => None,
        }
    }

    fn tell(&self, head: &mut RequestHead) {
        let value = match head.headers.get(X_FORWARDED_PREFIX) {
            // Both are header values already, so that the two together are one.
            Some(before) => HeaderValue::from_bytes(&[before.as_bytes(), self.text.as_bytes()].concat()).ok(),
            None => None,
        };
        head.headers.insert(X_FORWARDED_PREFIX, value.unwrap_or_else(|| self.header.clone()));
    }
}

impl Step for Strip {
    fn request(&self, head: &mut RequestHead, _: &mut Exchange) -> Flow {
        let path = head.uri.path();
        let Some((prefix, rest)) = self.prefixes.iter().find_map(|prefix| Some((prefix, prefix.strip(path)?))) else {
            return Flow::Continue;
        };
        let rest = rest.to_owned();
        prefix.tell(head);
        path::replace(head, &rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{request, run};

    fn check(json: &str, uri: &str) -> (String, Option<String>) {
        let step = serde_json::from_str::<StripPrefix>(json).unwrap().build().unwrap();
        let mut head = request(uri, &[]);
        assert!(run(&step, &mut head).is_none());
        let told = head.headers.get(X_FORWARDED_PREFIX).map(|value| value.to_str().unwrap().to_owned());
        (head.uri.to_string(), told)
    }

    #[test]
    fn ends_at_segments() {
        let told = |uri: &str, prefix: &str| (uri.to_owned(), Some(prefix.to_owned()));
        assert_eq!(check(r#""/v1""#, "/v1/users?q=/v1"), told("/users?q=/v1", "/v1"));
        assert_eq!(check(r#""/v1""#, "/v1"), told("/", "/v1"));
        assert_eq!(check(r#""/v1/""#, "/v1/"), told("/", "/v1"));
        assert_eq!(check(r#""/v1""#, "/v10"), ("/v10".into(), None));
        assert_eq!(check(r#""/v1""#, "/V1/a"), ("/V1/a".into(), None));
        assert_eq!(check(r#""/v1""#, "/v1//evil.com/a"), told("//evil.com/a", "/v1"));
        assert_eq!(check(r#"["/a", "/a/b"]"#, "/a/b/c"), told("/c", "/a/b"));
        assert_eq!(check(r#""/v1""#, "https://h/v1/a"), told("https://h/a", "/v1"));
    }

    #[test]
    fn tells_all_that_was_taken_off() {
        let step = StripPrefix::One("/b".into()).build().unwrap();
        let mut head = request("/b/c", &[("x-forwarded-prefix", "/a")]);
        assert!(run(&step, &mut head).is_none());
        assert_eq!(head.headers[X_FORWARDED_PREFIX], "/a/b");
    }

    #[test]
    fn refuses_what_cannot_be_a_prefix() {
        let check = |json: &str| serde_json::from_str::<StripPrefix>(json).unwrap().build().unwrap_err().0;
        assert!(check(r#""v1""#).contains("\"v1\" is not a path"));
        assert!(check(r#""/""#).contains("would change nothing"));
        assert!(check("[]").contains("empty"));
        assert!(serde_json::from_str::<StripPrefix>("{}").unwrap_err().to_string().contains("or a list"));
    }
}
