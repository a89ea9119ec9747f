//! A route as it is wanted: which requests, through which middlewares, to which upstream.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;
use crate::middleware::Middleware;
use crate::names::Name;
use crate::rule::Rule;

/// "Requests like this go there."
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// A middleware of a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MiddlewareRef {
    /// The name of a shared middleware.
    Shared(Name),
    /// A middleware of this route alone.
    Inline(Middleware),
}

/// "Connections to this listener go there."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpRoute {
    /// The TCP listener whose connections it takes.
    pub listener: Name,
    /// Where they go.
    pub upstream: Name,
    /// Closes a connection on which no byte moved either way for this long. Default 10 min.
    #[serde(default = "idle_timeout_default", with = "duration")]
    pub idle_timeout: Duration,
}

fn idle_timeout_default() -> Duration {
    Duration::from_secs(600)
}
