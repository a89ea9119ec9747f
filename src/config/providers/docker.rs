//! The containers of a Docker engine.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::conventions::{Convention, Conventions};
use super::layout::RouteTemplate;
use super::tls::ClientTls;
use super::url::with_port;
use crate::config::duration;

/// A Docker engine and its containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DockerConfig {
    /// Where its API is: `"unix:///var/run/docker.sock"` (default), or `"tcp://10.0.0.5:2376"`.
    pub endpoint: EngineAddress,
    /// Speaks TLS to a `tcp://` endpoint when present. `{}` verifies against the system's roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// Which addresses of a container are used. Default `"internal"`.
    pub address: AddressChoice,
    /// The network whose addresses are used, of containers that are in several. Default: none; then such a container has to say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The address at which ports are reached that are published on all addresses of the host. Default: that of a `tcp://` endpoint if
    /// it is an IP address, else 127.0.0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_address: Option<IpAddr>,
    /// How often everything is looked at, whatever was announced. 100 ms to 10 min. Default 10 s.
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub poll: Option<Duration>,
    /// Labels of others that are read too: `"registrator"`, `"haproxy"` (of marathon-lb), `"hive"` (of hive-builder). Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conventions: Vec<Convention>,
    /// Of registrator's services: the rule of the route that each gets, with `{name}` in it. Default: none, they make upstreams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTemplate>,
    /// Of `"haproxy"`: only what is of this `HAPROXY_GROUP`. Default: of any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub haproxy_group: Option<String>,
}

/// Where the API of an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineAddress {
    /// A socket in the file system.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// Which addresses of a container are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressChoice {
    /// Its own, on a network that we share with it.
    #[default]
    Internal,
    /// That of the host, with the ports that are published there.
    Published,
}

/// The engine of this host.
impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            endpoint: EngineAddress::default(),
            tls: None,
            address: AddressChoice::Internal,
            network: None,
            host_address: None,
            poll: None,
            conventions: Vec::new(),
            route: None,
            haproxy_group: None,
        }
    }
}

impl DockerConfig {
    /// The socket of an engine that was installed as usual.
    pub const SOCKET_DEFAULT: &'static str = "/var/run/docker.sock";

    /// What `poll` may be.
    const POLL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);

    /// The address at which ports are reached that are published on all addresses of the host.
    #[must_use]
    pub fn host_address(&self) -> IpAddr {
        let of_endpoint = || match &self.endpoint {
            EngineAddress::Tcp(host) => host.rsplit_once(':')?.0.trim_matches(['[', ']']).parse().ok(),
            EngineAddress::Unix(_) => None,
        };
        self.host_address.or_else(of_endpoint).unwrap_or(IpAddr::from([127, 0, 0, 1]))
    }

    /// Which labels of others are read, and how.
    #[must_use]
    pub fn conventions(&self) -> Conventions {
        Conventions { kinds: self.conventions.clone(), route: self.route.clone(), haproxy_group: self.haproxy_group.clone() }
    }

    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.poll.is_some_and(|poll| !Self::POLL_RANGE.contains(&poll)) {
            return Err("`poll` is from 100ms to 10min".into());
        }
        self.conventions().check()?;
        check_tls(&self.endpoint, self.tls.as_ref())
    }

    /// Reads what follows `docker://`: nothing, the path of a socket, or `host:port`; with `tls` for `dockers://`.
    pub(super) fn parse_url(rest: &str, tls: Option<ClientTls>) -> Result<Self, String> {
        let config = Self { endpoint: EngineAddress::parse_url("dockers", rest, tls.is_some())?, tls, ..Self::default() };
        config.check().map(|()| config)
    }
}

/// Whether TLS goes with this endpoint.
pub(super) fn check_tls(endpoint: &EngineAddress, tls: Option<&ClientTls>) -> Result<(), String> {
    match (tls, endpoint) {
        (Some(_), EngineAddress::Unix(_)) => Err("`tls` needs a tcp:// `endpoint`: a unix socket has none".into()),
        (Some(tls), EngineAddress::Tcp(_)) => tls.check(),
        (None, _) => Ok(()),
    }
}

impl EngineAddress {
    /// The port of an engine that names none: 2375, or 2376 with TLS.
    const PORTS_DEFAULT: [u16; 2] = [2375, 2376];

    /// Reads what follows the scheme of a provider's URL: nothing, the path of a socket, or `host:port`. `secure` is the scheme with TLS.
    pub(super) fn parse_url(secure: &str, rest: &str, is_tls: bool) -> Result<Self, String> {
        let [plain_port, tls_port] = Self::PORTS_DEFAULT;
        let address = match rest {
            "" | "/" if is_tls => return Err(format!("TLS needs the host of an engine, such as {secure}://10.0.0.5:2376")),
            "" | "/" => return Ok(Self::default()),
            path if path.starts_with('/') => format!("unix://{path}"),
            host => format!("tcp://{}", with_port(host.trim_end_matches('/'), if is_tls { tls_port } else { plain_port })),
        };
        address.parse()
    }
}

/// That of an engine that was installed as usual.
impl Default for EngineAddress {
    fn default() -> Self {
        Self::Unix(DockerConfig::SOCKET_DEFAULT.into())
    }
}

impl FromStr for EngineAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!("`{text}` is not the address of a Docker engine, such as \"unix:///var/run/docker.sock\" or \"tcp://10.0.0.5:2376\"")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(error)?;
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "tcp" => {
                let authority: http::uri::Authority = rest.trim_end_matches('/').parse().map_err(|_| error())?;
                let is_plain = !authority.host().is_empty() && authority.port_u16().is_some() && !authority.as_str().contains('@');
                if is_plain { Ok(Self::Tcp(authority.to_string())) } else { Err(error()) }
            }
            _ => Err(error()),
        }
    }
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

impl Serialize for EngineAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EngineAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_socket_or_a_host() {
        let check = |rest: &str, tls: Option<ClientTls>, expected: &str| {
            assert_eq!(DockerConfig::parse_url(rest, tls).unwrap().endpoint.to_string(), expected, "{rest}");
        };
        check("", None, "unix:///var/run/docker.sock");
        check("/run/user/1000/docker.sock", None, "unix:///run/user/1000/docker.sock");
        check("10.0.0.5", None, "tcp://10.0.0.5:2375");
        check("[::1]:99", None, "tcp://[::1]:99");
        check("engine", Some(ClientTls::default()), "tcp://engine:2376");
    }

    #[test]
    fn what_is_no_engine_is_refused() {
        let tls = || Some(ClientTls::default());
        for (rest, tls, expected) in [
            ("", tls(), "TLS needs the host"),
            ("/a.sock", tls(), "a unix socket has none"),
            ("a b", None, "not the address of a Docker engine"),
            ("user@host", None, "not the address of a Docker engine"),
            ("host/path", None, "not the address of a Docker engine"),
        ] {
            let error = DockerConfig::parse_url(rest, tls).unwrap_err();
            assert!(error.contains(expected), "{rest}: {error}");
        }
    }

    #[test]
    fn the_host_is_that_of_the_engine_if_it_says_so() {
        let check = |rest: &str, expected: &str| {
            assert_eq!(DockerConfig::parse_url(rest, None).unwrap().host_address().to_string(), expected, "{rest}");
        };
        check("", "127.0.0.1");
        check("10.0.0.5", "10.0.0.5");
        check("[fd00::1]:2375", "fd00::1");
        check("engine", "127.0.0.1");
    }
}
