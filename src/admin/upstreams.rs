//! `/api/v1/upstreams`: endpoints and how they are.

use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::table::age;
use crate::balance::Policy;
use crate::config::Origin;
use crate::config::upstream::UpstreamProtocol;
use crate::names::Name;
use crate::routing::RoutingTable;
use crate::routing::endpoint::{Endpoint, HealthChange};
use crate::routing::upstream::Upstream;
use crate::socket::SocketAddress;

pub use crate::routing::endpoint::Health;

/// All upstreams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamsView {
    /// The generation of the table.
    pub generation: u64,
    /// The upstreams, by name.
    pub upstreams: Vec<UpstreamView>,
}

/// An upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamView {
    /// Its name.
    pub name: Name,
    /// How an endpoint is chosen.
    pub balance: Policy,
    /// The name of the cookie that keeps a client on its endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky_cookie: Option<String>,
    /// What is spoken to the endpoints.
    pub protocol: UpstreamProtocol,
    /// Whether it is spoken over TLS.
    pub tls: bool,
    /// Where it was read. None: only endpoints of their own were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The generation of its last change.
    pub since_generation: u64,
    /// How long ago that was seen in its source.
    pub since_seconds: f64,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Where it listens.
    pub address: SocketAddress,
    /// The key it was registered under, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Name>,
    /// Its share relative to the others; 0 while it drains.
    pub weight: u16,
    /// Whether it waits until no other can.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
    /// Whether it is well.
    pub health: Health,
    /// The last change of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<ChangeView>,
    /// Requests and connections in flight to it.
    pub in_flight: u32,
    /// Where it was read, if under a key of its own: else where the upstream was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// The last change of an endpoint's health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeView {
    /// When, as in `2026-01-31T12:00:00Z`.
    pub at: String,
    /// How many seconds ago.
    pub seconds: f64,
    /// Why.
    pub reason: String,
}

impl UpstreamsView {
    pub(super) fn of(table: &RoutingTable) -> Self {
        let now = SystemTime::now();
        let view = |upstream: &Upstream| UpstreamView::of(upstream, table, now);
        Self { generation: table.generation, upstreams: table.upstreams.values().map(|upstream| view(upstream)).collect() }
    }
}

impl UpstreamView {
    fn of(upstream: &Upstream, table: &RoutingTable, now: SystemTime) -> Self {
        let read = table.upstream_read(&upstream.name);
        let endpoint = |endpoint: &Endpoint| {
            let own = endpoint.id.as_ref().zip(read).and_then(|(id, (read, _))| read.endpoints.get(id));
            EndpointView::of(endpoint, own.map(|own| &own.origin), now)
        };
        Self {
            name: upstream.name.clone(),
            balance: upstream.settings.balance.clone(),
            sticky_cookie: upstream.settings.sticky.as_ref().map(|sticky| sticky.cookie.clone()),
            protocol: upstream.transport.protocol,
            tls: upstream.transport.tls.is_some(),
            origin: read.and_then(|(read, _)| Some(read.settings.as_ref()?.origin.clone())),
            since_generation: read.map_or(0, |(_, since)| since.generation),
            since_seconds: read.map_or(0.0, |(_, since)| age(since.seen_at, Instant::now())),
            endpoints: upstream.endpoints.iter().map(endpoint).collect(),
        }
    }
}

impl EndpointView {
    fn of(endpoint: &Endpoint, origin: Option<&Origin>, now: SystemTime) -> Self {
        Self {
            address: endpoint.address.clone(),
            id: endpoint.id.clone(),
            weight: endpoint.weight,
            backup: endpoint.is_backup,
            health: endpoint.state.health(),
            changed: endpoint.state.last_change().map(|change| ChangeView::of(change, now)),
            in_flight: endpoint.state.in_flight(),
            origin: origin.cloned(),
        }
    }
}

impl ChangeView {
    fn of(change: HealthChange, now: SystemTime) -> Self {
        // A clock that was set back makes it "just now".
        let age = now.duration_since(change.at).unwrap_or_default();
        Self {
            at: humantime::format_rfc3339_seconds(change.at).to_string(),
            seconds: (age.as_secs_f64() * 1e3).round() / 1e3,
            reason: change.reason,
        }
    }
}
