//! An upstream as it is wanted: endpoints, how one is chosen, how it is reached, and how we know that it is well.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Address, duration};
use crate::balance::{HashKey, Policy};
use crate::names::Name;
use crate::proxy_protocol;
use crate::rule::IdentityPattern;

/// A named group of interchangeable endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct Upstream {
    /// How an endpoint is chosen: `"round_robin"` (default), `"random"`, `"least_request"`, or `{ hash = … }`.
    pub balance: Policy,
    /// Keeps a client on its endpoint by a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Probes the endpoints, and leaves out those that fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Its endpoints. A provider may add more of them under keys of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// What is spoken to the endpoints: `"http1"` (default), `"h2c"`, or `"h2"` (over TLS).
    pub protocol: UpstreamProtocol,
    /// Speaks TLS to the endpoints when present. `{}` verifies against the system's roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// Begins each connection to an endpoint, and each datagram, with a PROXY header of this version, `"v1"` or `"v2"` (datagrams: v2 alone),
    /// that names the client; health checks say that they are ours. A connection then serves the requests of one client alone. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<proxy_protocol::Version>,
    /// Whether endpoints see the client's IP address as that of the connection (`IP_TRANSPARENT`). What they send back must be routed to us:
    /// see docs/transparent.md. A connection then serves the requests of one client alone. Default: they see ours.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub transparent: bool,
    /// The `Host` that endpoints see: `"pass"` (default), `"endpoint"`, or `{ rewrite = "name" }`.
    pub host: HostHeader,
    /// How long we wait for an endpoint.
    pub timeouts: UpstreamTimeouts,
    /// Connections kept open for the next request.
    pub keepalive: Keepalive,
    /// How many more endpoints are tried after one could not be reached. Default 2.
    pub retries: u8,
    /// How long requests in flight may go on after their endpoint was removed. Default 30 s.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            balance: Policy::default(),
            sticky: None,
            health: None,
            endpoints: Vec::new(),
            protocol: UpstreamProtocol::default(),
            tls: None,
            proxy_protocol: None,
            transparent: false,
            host: HostHeader::default(),
            timeouts: UpstreamTimeouts::default(),
            keepalive: Keepalive::default(),
            retries: 2,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Upstream {
    /// An upstream of `addresses`, each of weight 1, all else at its default.
    #[must_use]
    pub fn of(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { endpoints: addresses.into_iter().map(Endpoint::new).collect(), ..Self::default() }
    }

    /// Whether the fields go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub fn check(&self) -> Result<(), String> {
        match (self.protocol, &self.tls) {
            (UpstreamProtocol::H2, None) => return Err("`protocol = \"h2\"` needs `tls`; without TLS it is \"h2c\"".into()),
            (UpstreamProtocol::H2c, Some(_)) => return Err("`protocol = \"h2c\"` is without TLS; with `tls` it is \"h2\"".into()),
            _ => {}
        }
        if self.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify && tls.server_id.is_some()) {
            return Err("`tls.server_id` is not looked for with `tls.insecure_skip_verify`: leave one of them out".into());
        }
        check_policy(&self.balance)?;
        self.sticky.as_ref().map_or(Ok(()), Sticky::check)?;
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| matches!(endpoint.address, Address::Unix(_))) {
            let said =
                [("transparent", self.transparent), ("health.port", self.health.as_ref().is_some_and(|health| health.port.is_some()))];
            if let Some((key, _)) = said.iter().find(|(_, is_said)| *is_said) {
                return Err(format!(
                    "`{key}` does not go with the endpoint `{}`: unix sockets have no addresses and ports",
                    endpoint.address
                ));
            }
        }
        if let HostHeader::Rewrite(host) = &self.host
            && (host.is_empty() || HeaderValue::from_str(host).is_err())
        {
            return Err(format!("`host` cannot be rewritten to {host:?}"));
        }
        let UpstreamTimeouts { connect, response_header, idle } = self.timeouts;
        if [connect, response_header, idle].contains(&Duration::ZERO) {
            return Err("`timeouts` must be more than zero".into());
        }
        Ok(())
    }
}

fn check_policy(policy: &Policy) -> Result<(), String> {
    match policy {
        Policy::Hash(HashKey::Header(name)) if name.parse::<HeaderName>().is_err() => {
            Err(format!("`balance` hashes a header, but {name:?} is not the name of one"))
        }
        Policy::Hash(HashKey::Cookie(name)) if !is_token(name) => {
            Err(format!("`balance` hashes a cookie, but {name:?} is not the name of one"))
        }
        _ => Ok(()),
    }
}

/// Whether `text` is a token (RFC 9110 section 5.6.2), which the name of a cookie must be.
fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_allowed)
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let upstream = Self::deserialize(deserializer)?;
        upstream.check().map_err(serde::de::Error::custom)?;
        Ok(upstream)
    }
}

impl Serialize for Upstream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// One address of an upstream. In configuration a table, or just the address as a string.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Endpoint {
    /// Where it listens: an IP address or a name, with a port. Each address of a name is an endpoint of this weight.
    pub address: Address,
    /// Its share relative to the others. 0 drains it: no new clients, while sticky sessions stay. Default 1, at most 1,000.
    pub weight: u16,
    /// Whether it gets requests only while no other endpoint can: none that is not a backup is up. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
}

impl Endpoint {
    /// The greatest weight: it bounds the schedule of round robin and the ring of consistent hashing.
    pub const WEIGHT_MAX: u16 = 1_000;

    /// An endpoint of weight 1, not a backup.
    #[must_use]
    pub fn new(address: impl Into<Address>) -> Self {
        Self { address: address.into(), weight: 1, backup: false }
    }

    /// Reads an address that can be connected to, or a name.
    ///
    /// # Errors
    /// A sentence that names the text and what is wrong with it.
    pub fn parse_address(text: &str) -> Result<Address, String> {
        Address::parse(text)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            address: Address,
            #[serde(default = "one", deserialize_with = "deserialize_weight")]
            weight: u16,
            #[serde(default)]
            backup: bool,
        }
        fn one() -> u16 {
            1
        }

        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Endpoint;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "an address such as \"10.0.0.1:8080\" or \"app.internal:8080\", or a table { address = \"10.0.0.1:8080\", weight = 1 }",
                )
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Endpoint, E> {
                Endpoint::parse_address(text).map(Endpoint::new).map_err(E::custom)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let Table { address, weight, backup } = Table::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Endpoint { address, weight, backup })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn deserialize_weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let weight = i64::deserialize(deserializer)?;
    let fits = u16::try_from(weight).ok().filter(|weight| *weight <= Endpoint::WEIGHT_MAX);
    fits.ok_or_else(|| serde::de::Error::custom(format!("weight {weight} is out of range: it is from 0 to {}", Endpoint::WEIGHT_MAX)))
}

/// What is spoken to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1, also over TLS.
    #[default]
    Http1,
    /// HTTP/2 over TLS, agreed by ALPN.
    H2,
    /// HTTP/2 in the clear, by prior knowledge (RFC 9113 section 3.3).
    H2c,
}

/// TLS towards the endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTls {
    /// The name sent by SNI and looked for in the endpoint's certificate. Default: the endpoint's name, or its IP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Trusted roots, as a path or PEM text. Default: the `ca` of `certificate`, or the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<super::Pem>,
    /// The certificate that we show when an endpoint asks for one: one of the table, by its name. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Name>,
    /// Who an endpoint must be, in the place of its name: a name in its certificate, such as `"spiffe://example.org/web"`, or
    /// `"spiffe://example.org/*"`. Default: the endpoint's name, or its IP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_id: Option<IdentityPattern>,
    /// Accepts any certificate. For tests; a problem is reported as long as it is set. Default false.
    pub insecure_skip_verify: bool,
}

/// The `Host` header that endpoints see.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostHeader {
    /// The client's own.
    #[default]
    Pass,
    /// The endpoint's name or address, and port.
    Endpoint,
    /// This text.
    Rewrite(String),
}

/// How long we wait for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTimeouts {
    /// For a connection, TLS included. Default 2 s.
    #[serde(with = "duration")]
    pub connect: Duration,
    /// From the end of the request to the head of the response. Default 60 s.
    #[serde(with = "duration")]
    pub response_header: Duration,
    /// Between two pieces of a response body. Default 5 min.
    #[serde(with = "duration")]
    pub idle: Duration,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), response_header: Duration::from_secs(60), idle: Duration::from_secs(300) }
    }
}

/// Connections kept open for the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keepalive {
    /// Idle connections kept per endpoint and worker. 0 closes each after its request. Default 256.
    pub idle_max: u16,
    /// Closes a connection that was idle for this long. Default 60 s.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle_max: 256, idle_timeout: Duration::from_secs(60) }
    }
}

/// Keeps a client on its endpoint by a cookie. Its value is opaque and authenticated; it never holds an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// Name of the cookie (RFC 6265).
    pub cookie: String,
    /// `Max-Age` of the cookie. Default: none, the cookie ends with the browser's session.
    #[serde(default, with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// `Path` of the cookie. Default `/`.
    #[serde(default = "root_path")]
    pub path: String,
    /// `SameSite` of the cookie. Default `lax`.
    #[serde(default)]
    pub same_site: SameSite,
}

fn root_path() -> String {
    "/".into()
}

/// The `SameSite` attribute of a cookie (RFC 6265bis section 5.6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    /// Sent with top-level navigation from other sites.
    #[default]
    Lax,
    /// Never sent from other sites.
    Strict,
    /// Always sent; browsers then ask for `Secure`, which is added.
    None,
}

/// How endpoints are probed. In configuration `{ http = "/healthz" }` or `{ tcp = true }`, with the same timing for both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "HealthTable", into = "HealthTable")]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// The port that is asked. Default: the endpoint's own. For endpoints that speak UDP, or have a port for such questions.
    pub port: Option<NonZeroU16>,
    /// Time between two probes, give or take a tenth. Default 2 s.
    pub interval: Duration,
    /// How long one probe may take. Default 1 s.
    pub timeout: Duration,
    /// Successes in a row that bring a failed endpoint back. Default 2.
    pub rise: u16,
    /// Failures in a row that take an endpoint out. Default 3.
    pub fall: u16,
}

/// What a health check asks of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// That a connection is accepted.
    Tcp,
    /// That a `GET` is answered with an expected status.
    Http {
        /// Path and query of the request.
        path: String,
        /// The `Host` sent. None: the endpoint's name or address.
        host: Option<String>,
        /// Lowest and highest status that counts as success.
        status: (u16, u16),
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthTable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tcp: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<NonZeroU16>,
    #[serde(default = "interval_default", with = "duration")]
    interval: Duration,
    #[serde(default = "timeout_default", with = "duration")]
    timeout: Duration,
    #[serde(default = "rise_default")]
    rise: u16,
    #[serde(default = "fall_default")]
    fall: u16,
}

fn interval_default() -> Duration {
    Duration::from_secs(2)
}

fn timeout_default() -> Duration {
    Duration::from_secs(1)
}

fn rise_default() -> u16 {
    2
}

fn fall_default() -> u16 {
    3
}

impl TryFrom<HealthTable> for Health {
    type Error = String;

    fn try_from(table: HealthTable) -> Result<Self, String> {
        let probe = match (table.http, table.tcp) {
            (Some(_), false) if table.host.as_deref().is_some_and(|host| host.parse::<Authority>().is_err()) => {
                return Err(format!("`host = {:?}` is not a host, with or without a port", table.host.unwrap_or_default()));
            }
            (Some(path), false) if path.starts_with('/') && path.parse::<PathAndQuery>().is_ok() => {
                Probe::Http { path, host: table.host, status: parse_status(table.status.as_deref().unwrap_or("200-399"))? }
            }
            (Some(path), false) => {
                return Err(format!("`http = {path:?}` must be a path that starts with `/`, without spaces and the like"));
            }
            (None, true) if table.host.is_some() || table.status.is_some() => {
                return Err("`host` and `status` apply to `http` checks only".into());
            }
            (None, true) => Probe::Tcp,
            _ => return Err("a health check needs one of `http = \"/path\"` and `tcp = true`".into()),
        };
        if table.interval < Duration::from_millis(10) || table.timeout.is_zero() || table.rise == 0 || table.fall == 0 {
            return Err("`interval` must be 10ms or more, and `timeout`, `rise` and `fall` more than zero".into());
        }
        let HealthTable { port, interval, timeout, rise, fall, .. } = table;
        Ok(Self { probe, port, interval, timeout, rise, fall })
    }
}

impl From<Health> for HealthTable {
    fn from(health: Health) -> Self {
        let (http, host, status) = match health.probe {
            Probe::Tcp => (None, None, None),
            Probe::Http { path, host, status: (low, high) } => (Some(path), host, Some(format!("{low}-{high}"))),
        };
        Self {
            tcp: http.is_none(),
            http,
            host,
            status,
            port: health.port,
            interval: health.interval,
            timeout: health.timeout,
            rise: health.rise,
            fall: health.fall,
        }
    }
}

/// Reads `"200"` or `"200-399"`.
fn parse_status(text: &str) -> Result<(u16, u16), String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (low.trim().parse(), high.trim().parse()) {
        (Ok(low), Ok(high)) if (100..=high).contains(&low) && high <= 599 => Ok((low, high)),
        _ => Err(format!("`status = {text:?}` is not a status such as \"200\" or a range such as \"200-399\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_an_address_or_a_table() {
        let check = |json: &str| serde_json::from_str::<Endpoint>(json).map_err(|error| error.to_string());
        let address = Address::Ip("10.0.0.1:80".parse().unwrap());
        assert_eq!(check(r#""10.0.0.1:80""#), Ok(Endpoint::new(address.clone())));
        assert_eq!(check(r#"{"address":"10.0.0.1:80","weight":0}"#), Ok(Endpoint { weight: 0, ..Endpoint::new(address.clone()) }));
        let backup = Endpoint { backup: true, ..Endpoint::new(address) };
        assert_eq!(check(r#"{"address":"10.0.0.1:80","backup":true}"#).as_ref(), Ok(&backup));
        assert_eq!(check(&serde_json::to_string(&backup).unwrap()), Ok(backup));
        assert_eq!(check(r#""app.internal:80""#), Ok(Endpoint::new(Address::parse("app.internal:80").unwrap())));
        assert!(check(r#""10.0.0.1""#).unwrap_err().contains("not an IP address or name with a port"));
        assert!(check(r#""0.0.0.0:80""#).unwrap_err().contains("cannot be connected to"));
        for weight in ["1001", "-1", "70000"] {
            let error = check(&format!(r#"{{"address":"10.0.0.1:80","weight":{weight}}}"#)).unwrap_err();
            assert!(error.contains(&format!("weight {weight} is out of range: it is from 0 to 1000")), "{error}");
        }
        assert!(check(r#"{"address":"10.0.0.1:80","wieght":1}"#).unwrap_err().contains("unknown field"));
    }

    #[test]
    fn refuses_what_does_not_go_together() {
        let check = |json: &str| serde_json::from_str::<Upstream>(json).map_err(|error| error.to_string());
        for (json, expected) in [
            (r#"{"protocol":"h2"}"#, "needs `tls`"),
            (r#"{"protocol":"h2c","tls":{}}"#, "without TLS"),
            (r#"{"tls":{"insecure_skip_verify":true,"server_id":"spiffe://a.org/x"}}"#, "leave one of them out"),
            (r#"{"tls":{"server_id":"spiffe://A.org/x"}}"#, "lower case"),
            (r#"{"balance":{"hash":{"header":"a b"}}}"#, "is not the name of one"),
            (r#"{"balance":{"hash":{"cookie":""}}}"#, "is not the name of one"),
            (r#"{"sticky":{"cookie":"a;b"}}"#, "must not contain ';'"),
            (r#"{"sticky":{"cookie":"a","path":"x"}}"#, "must start with `/`"),
            (r#"{"host":{"rewrite":"a\nb"}}"#, "cannot be rewritten"),
            (r#"{"timeouts":{"connect":"0s"}}"#, "more than zero"),
            (r#"{"proxy_protocol":"v3"}"#, "expected `v1` or `v2`"),
        ] {
            assert!(check(json).unwrap_err().contains(expected), "{json}");
        }
        let upstream = check(r#"{"protocol":"h2","tls":{},"balance":{"hash":"client_ip"},"sticky":{"cookie":"a"}}"#).unwrap();
        assert_eq!(check(&serde_json::to_string(&upstream).unwrap()), Ok(upstream));
    }

    #[test]
    fn health_is_http_or_tcp() {
        let check = |json: &str| serde_json::from_str::<Health>(json).map_err(|error| error.to_string());
        assert_eq!(check(r#"{"tcp":true}"#).unwrap().probe, Probe::Tcp);
        let other_port = check(r#"{"tcp":true,"port":53}"#).unwrap();
        assert_eq!(check(&serde_json::to_string(&other_port).unwrap()), Ok(other_port));
        assert!(check(r#"{"tcp":true,"port":0}"#).is_err());
        let probe = check(r#"{"http":"/up","status":"204"}"#).unwrap().probe;
        assert_eq!(probe, Probe::Http { path: "/up".into(), host: None, status: (204, 204) });
        assert!(check(r#"{"http":"up"}"#).is_err());
        assert!(check(r#"{"http":"/a b"}"#).unwrap_err().contains("must be a path"));
        assert!(check(r#"{"http":"/up","host":"a b"}"#).unwrap_err().contains("is not a host"));
        assert!(check(r#"{"http":"/up","host":"shop.test:8080"}"#).is_ok());
        assert!(check(r#"{"tcp":true,"status":"200"}"#).is_err());
        assert!(check(r#"{}"#).is_err());
    }
}
