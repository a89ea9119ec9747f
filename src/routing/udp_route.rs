//! A UDP route with everything it refers to, ready to serve.

use std::net::IpAddr;
use std::sync::Arc;

use super::endpoint::{Endpoint, Health, Lease};
use super::route::Target;
use super::upstream::{PickRequest, Transport, Upstream, tiers};
use crate::balance::{HashKey, Policy, Tiers};
use crate::config;
use crate::config::udp_route::Affinity;
use crate::metrics::UdpRouteMetrics;
use crate::names::Name;
use crate::proxy_protocol::Version;
use crate::socket::SocketAddress;

/// One UDP route of one table. Its sessions ask the newest one with each datagram.
#[derive(Debug)]
pub struct UdpRoute {
    /// Its name.
    pub name: Name,
    /// As it is configured.
    pub settings: config::UdpRoute,
    /// Where its datagrams go.
    pub target: Target,
    /// What it counts. Carried over from table to table.
    pub metrics: Arc<UdpRouteMetrics>,
    /// What brings a client back to its endpoint. None: the upstream's balancer chooses.
    ring: Option<Tiers>,
}

impl UdpRoute {
    pub(super) fn new(name: Name, settings: config::UdpRoute, target: Target, metrics: Arc<UdpRouteMetrics>) -> Self {
        let ring = match (&target, settings.affinity) {
            (Target::Upstream(upstream), Affinity::ClientIp) => Some(ring(upstream)),
            _ => None,
        };
        Self { name, settings, target, metrics, ring }
    }

    /// The upstream, or why there is none.
    ///
    /// # Errors
    /// Why its datagrams are dropped.
    pub fn upstream(&self) -> Result<&Arc<Upstream>, &str> {
        match &self.target {
            Target::Upstream(upstream) => Ok(upstream),
            Target::Closed(reason) => Err(reason),
            Target::Answered => Err("it has no upstream"),
        }
    }

    /// Chooses the endpoint of a session, none of `tried`. None: no other endpoint is eligible.
    #[must_use]
    pub fn pick(&self, client: IpAddr, random: u64, tried: &[u64]) -> Option<Lease> {
        let upstream = self.upstream().ok()?;
        let request = PickRequest { tried, ..PickRequest::new(client, random) };
        match &self.ring {
            Some(ring) => upstream.pick_by(ring, &request),
            None => upstream.pick(&request).map(|picked| picked.lease),
        }
    }

    /// Whether a session on the endpoint with this id may stay there: it is one of the upstream's.
    #[must_use]
    pub fn holds(&self, endpoint: u64) -> bool {
        self.upstream().is_ok_and(|upstream| upstream.endpoints.iter().any(|held| held.state.id == endpoint))
    }

    /// Whether this endpoint may keep the sessions it has.
    #[must_use]
    pub fn keeps(lease: &Lease) -> bool {
        lease.endpoint().health() != Health::Down
    }
}

fn ring(upstream: &Upstream) -> Tiers {
    tiers(&Policy::Hash(HashKey::ClientIp), &upstream.endpoints)
}

/// Why an upstream cannot be sent datagrams as it is set.
pub(super) fn unfit_for_datagrams(target: &Target) -> Option<String> {
    let Target::Upstream(upstream) = target else { return None };
    let reason = match &*upstream.transport {
        Transport { tls: Some(_), .. } => "speaks TLS, which there is none of for datagrams",
        Transport { proxy_protocol: Some(Version::V1), .. } => "has `proxy_protocol = \"v1\"`, which has no form for datagrams: \"v2\" has",
        _ if !upstream.endpoints.is_empty() && upstream.endpoints.iter().all(is_unix) => {
            "has unix sockets as endpoints, which take no datagrams: give it IP addresses"
        }
        _ => return None,
    };
    Some(format!("upstream `{}` {reason}", upstream.name))
}

/// The first endpoint of a target that no datagram can be sent to.
pub(super) fn unix_endpoint(target: &Target) -> Option<&SocketAddress> {
    let Target::Upstream(upstream) = target else { return None };
    upstream.endpoints.iter().find(|endpoint| is_unix(endpoint)).map(|endpoint| &endpoint.address)
}

fn is_unix(endpoint: &Endpoint) -> bool {
    endpoint.address.ip().is_none()
}
