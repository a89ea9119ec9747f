//! An upstream with its endpoints, and the choice among them.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderValue};
use rustls::pki_types::ServerName;

use super::certificates::Certificate;
use super::endpoint::{Endpoint, Health, Lease};
use super::sticky::StickyTable;
use crate::balance::{Candidates, Draw, HashKey, Member, Policy, Tiers, hash_bytes};
use crate::config;
use crate::config::upstream::UpstreamProtocol;
use crate::metrics::UpstreamMetrics;
use crate::names::Name;

/// One upstream of one table.
#[derive(Debug)]
pub struct Upstream {
    /// Its name.
    pub name: Name,
    /// Its settings. Its endpoints are in [`Self::endpoints`], together with those registered one by one.
    pub settings: config::Upstream,
    /// Its endpoints; each address once.
    pub endpoints: Vec<Endpoint>,
    /// How its endpoints are reached. Carried over from table to table while TLS and protocols do not change.
    pub transport: Arc<Transport>,
    /// What it counts. Carried over from table to table.
    pub metrics: Arc<UpstreamMetrics>,
    pub(super) balancer: Tiers,
    pub(super) sticky: Option<StickyTable>,
}

/// How the endpoints of an upstream are reached.
#[derive(Debug)]
pub struct Transport {
    /// Unique in this process: connections made one way are not used for another.
    pub id: u64,
    /// What is spoken.
    pub protocol: UpstreamProtocol,
    /// The PROXY header that connections begin with, if any: before TLS.
    pub proxy_protocol: Option<crate::proxy_protocol::Version>,
    /// Whether connections come from the client's address.
    pub transparent: bool,
    /// TLS, if it is spoken.
    pub tls: Option<TransportTls>,
}

impl Transport {
    /// Whether a connection is that of one client, and serves nobody else.
    #[must_use]
    pub fn is_of_one_client(&self) -> bool {
        self.proxy_protocol.is_some() || self.transparent
    }

    /// Whether `payload` may follow a TLS handshake that ended with this `alpn`: HTTP/2 is spoken to nobody who has not said so.
    #[must_use]
    pub fn is_agreed(&self, payload: Payload, alpn: Option<&[u8]>) -> bool {
        payload != Payload::Requests || self.protocol != UpstreamProtocol::H2 || alpn == Some(b"h2")
    }
}

/// What goes over a connection to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// Requests, in the protocol of the upstream.
    Requests,
    /// A client's bytes, whatever they mean. Or none.
    Bytes,
}

/// TLS towards endpoints.
#[derive(Debug)]
pub struct TransportTls {
    /// Roots, versions and ALPN.
    pub(super) client: Arc<rustls::ClientConfig>,
    /// The same without ALPN: nobody knows what a client's bytes mean.
    pub(super) client_of_bytes: Arc<rustls::ClientConfig>,
    /// The name asked for and looked for in the certificate. None: the endpoint's IP address.
    pub server_name: Option<ServerName<'static>>,
    /// What is shown to endpoints that ask for a certificate.
    pub certificate: Option<Arc<Certificate>>,
}

impl TransportTls {
    /// What `payload` is encrypted with.
    #[must_use]
    pub fn client(&self, payload: Payload) -> &Arc<rustls::ClientConfig> {
        match payload {
            Payload::Requests => &self.client,
            Payload::Bytes => &self.client_of_bytes,
        }
    }
}

/// The endpoint of one attempt.
#[derive(Debug)]
pub struct Picked {
    /// The endpoint, counted as in flight until this is dropped.
    pub lease: Lease,
    /// The cookie that brings the client back, when it has none that does.
    pub set_cookie: Option<HeaderValue>,
}

/// What a choice may depend on.
#[derive(Debug, Clone, Copy)]
pub struct PickRequest<'a> {
    /// The header fields of the request; empty for TCP.
    pub headers: &'a HeaderMap,
    /// The client's address.
    pub client_ip: IpAddr,
    /// Whether the client came by TLS: then its cookie is `Secure`.
    pub is_https: bool,
    /// A fresh random number.
    pub random: u64,
    /// Endpoints that were tried for this request already.
    pub tried: &'a [u64],
}

impl PickRequest<'static> {
    /// A choice for a client of which nothing but its address is known.
    #[must_use]
    pub fn new(client_ip: IpAddr, random: u64) -> Self {
        static NO_HEADERS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        Self { headers: &NO_HEADERS, client_ip, is_https: false, random, tried: &[] }
    }
}

impl Upstream {
    /// Chooses an endpoint. None: no endpoint is eligible.
    #[must_use]
    pub fn pick(&self, request: &PickRequest<'_>) -> Option<Picked> {
        let Some(sticky) = &self.sticky else {
            let index = self.balance(request)?;
            return self.lease(index, None);
        };
        let found = sticky.find(request.headers).filter(|found| self.keeps_sessions(found.index, request.tried));
        let (index, is_new) = match found {
            Some(found) => (found.index, found.is_old),
            None => (self.balance(request)?, true),
        };
        self.lease(index, if is_new { sticky.set_cookie(index, request.is_https) } else { None })
    }

    /// Chooses an endpoint by another balancer over the same endpoints, in place of the upstream's own; the key is the client's address.
    pub(super) fn pick_by(&self, balancer: &Tiers, request: &PickRequest<'_>) -> Option<Lease> {
        let draw = Draw { random: request.random, key: Some(hash_ip(request.client_ip)) };
        self.lease(self.balance_by(balancer, draw, request.tried)?, None).map(|picked| picked.lease)
    }

    /// Whether a client that was on this endpoint stays on it: it may drain, but must not be down.
    fn keeps_sessions(&self, index: usize, tried: &[u64]) -> bool {
        self.endpoints.get(index).is_some_and(|endpoint| endpoint.state.health() != Health::Down && !tried.contains(&endpoint.state.id))
    }

    fn balance(&self, request: &PickRequest<'_>) -> Option<usize> {
        self.balance_by(&self.balancer, Draw { random: request.random, key: self.hash_key(request) }, request.tried)
    }

    fn balance_by(&self, balancer: &Tiers, draw: Draw, tried: &[u64]) -> Option<usize> {
        let known = Eligible { endpoints: &self.endpoints, tried, is_unknown_eligible: false };
        let unknown = Eligible { is_unknown_eligible: true, ..known };
        balancer.pick(&known, draw).or_else(|| balancer.pick(&unknown, draw))
    }

    fn hash_key(&self, request: &PickRequest<'_>) -> Option<u64> {
        let Policy::Hash(key) = &self.settings.balance else { return None };
        match key {
            HashKey::ClientIp => Some(hash_ip(request.client_ip)),
            HashKey::Header(name) => request.headers.get(name.as_str()).map(|value| hash_bytes(value.as_bytes())),
            HashKey::Cookie(name) => super::sticky::cookie_value(request.headers, name).map(hash_bytes),
        }
    }

    fn lease(&self, index: usize, set_cookie: Option<HeaderValue>) -> Option<Picked> {
        let endpoint = self.endpoints.get(index)?;
        Some(Picked { lease: endpoint.state.lease(), set_cookie })
    }
}

/// Makes `policy` ready for these endpoints.
pub(super) fn tiers(policy: &Policy, endpoints: &[Endpoint]) -> Tiers {
    let member = |endpoint: &Endpoint| Member { address: endpoint.address.clone(), weight: endpoint.weight, is_backup: endpoint.is_backup };
    Tiers::new(policy, &endpoints.iter().map(member).collect::<Vec<_>>())
}

fn hash_ip(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => hash_bytes(&ip.octets()),
        IpAddr::V6(ip) => hash_bytes(&ip.octets()),
    }
}

/// The endpoints as a balancer sees them.
#[derive(Clone, Copy)]
struct Eligible<'a> {
    endpoints: &'a [Endpoint],
    tried: &'a [u64],
    is_unknown_eligible: bool,
}

impl Candidates for Eligible<'_> {
    fn is_eligible(&self, index: usize) -> bool {
        let Some(endpoint) = self.endpoints.get(index) else { return false };
        let is_well = match endpoint.state.health() {
            Health::Unchecked | Health::Up => true,
            Health::Unknown => self.is_unknown_eligible,
            Health::Down => false,
        };
        is_well && endpoint.weight > 0 && !self.tried.contains(&endpoint.state.id)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.endpoints.get(index).map_or(0, |endpoint| endpoint.state.in_flight())
    }
}
