//! `/api/v1/routes`: where requests and connections go.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::table::age;
use crate::config::{MiddlewareRef, Origin, Route, TcpRoute, UdpRoute};
use crate::middleware::Middleware;
use crate::names::Name;
use crate::routing::RoutingTable;
use crate::routing::route::Target;
use crate::routing::table::Configured;

/// Where requests and connections go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoutesView {
    /// The generation of the table.
    pub generation: u64,
    /// The HTTP routes, by name.
    pub routes: Vec<RouteView>,
    /// The TCP routes, by name.
    pub tcp_routes: Vec<TcpRouteView>,
    /// The UDP routes, by name.
    #[serde(default)]
    pub udp_routes: Vec<UdpRouteView>,
}

/// An HTTP route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteView {
    /// Its name.
    pub name: Name,
    /// Which requests, in the match language.
    #[serde(rename = "match")]
    pub rule: String,
    /// Wins over routes of lower priority.
    pub priority: i32,
    /// The listeners it is served on. Empty: all that speak HTTP.
    pub listeners: Vec<Name>,
    /// Where its requests go. None: a middleware answers them all.
    pub upstream: Option<Name>,
    /// Its middlewares, in order.
    pub middlewares: Vec<MiddlewareView>,
    /// Why it answers 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Where it was read.
    pub origin: Origin,
    /// The generation of its last change.
    pub since_generation: u64,
    /// How long ago that was seen in its source.
    pub since_seconds: f64,
}

/// A middleware of a route. What it is set to is not told: it may be secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MiddlewareView {
    /// The name of a shared one. None: it is the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// What it is: `strip_prefix`. None: there is no shared one of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// A TCP route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TcpRouteView {
    /// Its name.
    pub name: Name,
    /// The listener whose connections it takes.
    pub listener: Name,
    /// Which of them. None: those that no other route takes.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Its priority.
    #[serde(default)]
    pub priority: i32,
    /// Where they go.
    pub upstream: Name,
    /// Whether TLS is left to the endpoint although the listener terminates it.
    #[serde(default)]
    pub passthrough: bool,
    /// Why they are closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Whether they wait before that.
    #[serde(default)]
    pub waits: bool,
    /// Where it was read.
    pub origin: Origin,
    /// The generation of its last change.
    pub since_generation: u64,
    /// How long ago that was seen in its source.
    pub since_seconds: f64,
}

/// A UDP route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UdpRouteView {
    /// Its name.
    pub name: Name,
    /// The listener whose datagrams it takes.
    pub listener: Name,
    /// Where they go.
    pub upstream: Name,
    /// How many replies a datagram has. None: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<u16>,
    /// Why they are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Where it was read.
    pub origin: Origin,
    /// The generation of its last change.
    pub since_generation: u64,
    /// How long ago that was seen in its source.
    pub since_seconds: f64,
}

impl RoutesView {
    pub(super) fn of(table: &RoutingTable) -> Self {
        let shared: BTreeMap<&Name, &Middleware> = table.configured_middlewares().map(|it| (it.name, it.value)).collect();
        let targets: BTreeMap<&Name, &Target> = table.routes.iter().map(|route| (&route.name, &route.target)).collect();
        Self {
            generation: table.generation,
            routes: table.configured_routes().map(|route| RouteView::of(&route, &shared, targets.get(route.name).copied())).collect(),
            tcp_routes: table.configured_tcp_routes().map(|route| TcpRouteView::of(&route, table)).collect(),
            udp_routes: table.configured_udp_routes().map(|route| UdpRouteView::of(&route, table)).collect(),
        }
    }
}

impl RouteView {
    fn of(route: &Configured<'_, Route>, shared: &BTreeMap<&Name, &Middleware>, target: Option<&Target>) -> Self {
        Self {
            name: route.name.clone(),
            rule: route.value.rule.text().to_string(),
            priority: route.value.priority,
            listeners: route.value.listeners.clone(),
            upstream: route.value.upstream.clone(),
            middlewares: route.value.middlewares.iter().map(|middleware| MiddlewareView::of(middleware, shared)).collect(),
            closed: target.and_then(closed),
            origin: route.origin.clone(),
            since_generation: route.since.generation,
            since_seconds: age(route.since.seen_at, Instant::now()),
        }
    }
}

impl TcpRouteView {
    fn of(route: &Configured<'_, TcpRoute>, table: &RoutingTable) -> Self {
        let served = table.tcp_routes.get(&route.value.listener).and_then(|routes| routes.named(route.name));
        Self {
            name: route.name.clone(),
            listener: route.value.listener.clone(),
            rule: route.value.rule.as_ref().map(ToString::to_string),
            priority: route.value.priority,
            upstream: route.value.upstream.clone(),
            passthrough: route.value.passthrough,
            closed: served.and_then(|served| closed(&served.target)),
            waits: route.value.wait.is_some(),
            origin: route.origin.clone(),
            since_generation: route.since.generation,
            since_seconds: age(route.since.seen_at, Instant::now()),
        }
    }
}

impl UdpRouteView {
    fn of(route: &Configured<'_, UdpRoute>, table: &RoutingTable) -> Self {
        let served = table.udp_routes.get(&route.value.listener);
        let closed = match served {
            Some(served) if served.name == *route.name => closed(&served.target),
            Some(other) => Some(format!("listener `{}` belongs to UDP route `{}`", route.value.listener, other.name)),
            None => None,
        };
        Self {
            name: route.name.clone(),
            listener: route.value.listener.clone(),
            upstream: route.value.upstream.clone(),
            responses: route.value.responses.map(std::num::NonZero::get),
            closed,
            origin: route.origin.clone(),
            since_generation: route.since.generation,
            since_seconds: age(route.since.seen_at, Instant::now()),
        }
    }
}

impl MiddlewareView {
    fn of(middleware: &MiddlewareRef, shared: &BTreeMap<&Name, &Middleware>) -> Self {
        match middleware {
            MiddlewareRef::Shared(name) => Self { name: Some(name.clone()), kind: shared.get(name).map(|it| kind(it)) },
            MiddlewareRef::Inline(middleware) => Self { name: None, kind: Some(kind(middleware)) },
        }
    }
}

/// The one key of a middleware's table. A step of the program that embeds us has none.
fn kind(middleware: &Middleware) -> String {
    let table = serde_json::to_value(middleware).ok();
    let key = table.as_ref().and_then(|table| table.as_object()?.keys().next().cloned());
    key.unwrap_or_else(|| "custom".into())
}

fn closed(target: &Target) -> Option<String> {
    match target {
        Target::Closed(reason) => Some(reason.to_string()),
        Target::Upstream(_) | Target::Answered => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_middleware_is_its_key() {
        for text in ["strip_prefix = '/a'", "redirect_https = true", "ip_allow = ['10.0.0.0/8']"] {
            let middleware: Middleware = toml::from_str(text).unwrap();
            assert!(text.starts_with(&format!("{} = ", kind(&middleware))), "{text}");
        }
    }
}
