//! A route as it is wanted: which requests, through which middlewares, to which upstream.

use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::duration;
use crate::middleware::Middleware;
use crate::names::Name;
use crate::rule::Rule;

/// "Requests like this go there."
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Route {
    /// Which requests, in the match language: `Host("a.com") && PathPrefix("/v1")`.
    #[serde(rename = "match")]
    pub rule: Rule,
    /// The HTTP listeners it is served on. Empty (default): all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Name>,
    /// Wins over routes of lower priority, whatever their rules. Default 0.
    #[serde(default)]
    pub priority: i32,
    /// Steps on requests and responses, in this order: inline, or the name of a shared one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<MiddlewareRef>,
    /// Where the requests go. Only a route whose middlewares always answer (a redirect) has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Name>,
    /// For a request as a whole, first byte to last. Default: none, so that long downloads and event streams live.
    #[serde(default, with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

impl Route {
    /// A route from `rule` to `upstream`, all else at its default.
    #[must_use]
    pub fn to(rule: Rule, upstream: Name) -> Self {
        Self { rule, listeners: Vec::new(), priority: 0, middlewares: Vec::new(), upstream: Some(upstream), timeout: None }
    }
}

impl Route {
    /// Whether the fields go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub fn check(&self) -> Result<(), String> {
        if self.upstream.is_none() && self.middlewares.is_empty() {
            return Err("a route needs an `upstream`, or a middleware that answers every request".into());
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err("`timeout` must be more than zero; without the key there is none".into());
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Route {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let route = Self::deserialize(deserializer)?;
        route.check().map_err(serde::de::Error::custom)?;
        Ok(route)
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// A middleware of a route. In configuration the name of a shared one as a string, or a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MiddlewareRef {
    /// The name of a shared middleware.
    Shared(Name),
    /// A middleware of this route alone.
    Inline(Middleware),
}

/// Not derived: `untagged` would try one after the other and could not say what is wrong with either.
impl<'de> Deserialize<'de> for MiddlewareRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = MiddlewareRef;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a shared middleware, or a middleware as a table of one key")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MiddlewareRef, E> {
                Name::new(text).map(MiddlewareRef::Shared).map_err(E::custom)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<MiddlewareRef, A::Error> {
                Middleware::deserialize(MapAccessDeserializer::new(map)).map(MiddlewareRef::Inline)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_goes_somewhere() {
        let check = |json: &str| serde_json::from_str::<Route>(json).map_err(|error| error.to_string());
        assert!(check(r#"{"match":"Path(\"/\")"}"#).unwrap_err().contains("needs an `upstream`"));
        let route = check(r#"{"match":"Path(\"/\")","middlewares":["https"]}"#).unwrap();
        assert_eq!(route.middlewares, [MiddlewareRef::Shared(Name::literal("https"))]);
        assert_eq!(check(&serde_json::to_string(&route).unwrap()), Ok(route));
        let error = check(r#"{"match":"Path(\"/\")","upstream":"a","timeout":"0s"}"#).unwrap_err();
        assert!(error.contains("more than zero"));
    }

    #[test]
    fn a_middleware_that_is_unknown_is_named() {
        let check = |json: &str| serde_json::from_str::<MiddlewareRef>(json).unwrap_err().to_string();
        assert!(check(r#"{"no_such_step":1}"#).contains("no_such_step"));
        assert!(check("[]").contains("the name of a shared middleware"));
        assert!(check(r#""a b""#).contains("must not contain"));
    }
}
