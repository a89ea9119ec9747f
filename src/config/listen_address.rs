//! Where a listener listens: an IP address or all of them, with a port or several in a row, a unix socket, or a socket that whoever
//! started us has opened.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::names::Name;
use crate::socket::UnixPath;

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `10.0.0.1:80` or `[::1]:80`: one IP address.
    Ip(IpAddr, Ports),
    /// `:80`: all addresses of this machine, of IPv4 and IPv6.
    Any(Ports),
    /// `unix:/run/nuncio.sock` or `unix:@nuncio`. Its clients count as `127.0.0.1`.
    Unix(UnixPath),
    /// `systemd:web`: sockets that systemd has opened, by their `FileDescriptorName=` (systemd.socket(5)).
    Systemd(Name),
}

/// A port, or several in a row: `80` or `61001-61010`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// What a socket of systemd is written with.
const SYSTEMD: &str = "systemd:";

impl Ports {
    /// The most ports of one listener. Each is a socket of each worker.
    pub const MAX: u16 = 1_000;

    /// All of them, in their order.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl ListenAddress {
    /// The IP addresses and ports that are to be bound, those of IPv4 first. None: it is no address of IP.
    #[must_use]
    pub fn sockets(&self) -> Vec<SocketAddr> {
        let of = |ip: IpAddr, ports: Ports| ports.iter().map(move |port| SocketAddr::new(ip, port));
        match self {
            Self::Ip(ip, ports) => of(*ip, *ports).collect(),
            Self::Any(ports) => of(Ipv4Addr::UNSPECIFIED.into(), *ports).chain(of(Ipv6Addr::UNSPECIFIED.into(), *ports)).collect(),
            Self::Unix(_) | Self::Systemd(_) => Vec::new(),
        }
    }

    /// Whether the system chooses the port, another one each time.
    #[must_use]
    pub fn is_any_port(&self) -> bool {
        self.ports().is_some_and(|ports| ports.first == 0)
    }

    /// The same, with the port that the system chose.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        let ports = Ports::from(port);
        match self {
            Self::Ip(ip, _) => Self::Ip(*ip, ports),
            Self::Any(_) => Self::Any(ports),
            Self::Unix(_) | Self::Systemd(_) => self.clone(),
        }
    }

    fn ports(&self) -> Option<Ports> {
        match self {
            Self::Ip(_, ports) | Self::Any(ports) => Some(*ports),
            Self::Unix(_) | Self::Systemd(_) => None,
        }
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address.ip(), address.port().into())
    }
}

impl FromStr for Ports {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let port = |text: &str| text.parse::<u16>().map_err(drop);
        let Some((first, last)) = text.split_once('-') else { return port(text).map(Self::from) };
        let (first, last) = (port(first)?, port(last)?);
        if first == 0 || last < first { Err(()) } else { Ok(Self { first, last }) }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(UnixPath::PREFIX) {
            return text.parse().map(Self::Unix);
        }
        if let Some(name) = text.strip_prefix(SYSTEMD) {
            return name.parse().map(Self::Systemd).map_err(|error| format!("`{text}` does not name a socket of systemd: {error}"));
        }
        let parsed = text.rsplit_once(':').and_then(|(ip, ports)| Some((ip, ports.parse::<Ports>().ok()?)));
        let address = parsed.and_then(|(ip, ports)| match ip {
            "" => Some(Self::Any(ports)),
            // With its port, so that an IPv6 address is taken in brackets alone.
            _ => format!("{ip}:{}", ports.first).parse().ok().map(|address: SocketAddr| Self::Ip(address.ip(), ports)),
        });
        let address = address.ok_or_else(|| {
            format!(
                "`{text}` is not an address to listen on, such as \"0.0.0.0:8080\", \"[::1]:8080\", \":8080\", \":61001-61010\", \
                 \"unix:/run/nuncio.sock\" or \"systemd:web\""
            )
        })?;
        match address.ports() {
            Some(Ports { first, last }) if last - first >= Ports::MAX => {
                Err(format!("`{text}` has {} ports; a listener has {} at most", u32::from(last - first) + 1, Ports::MAX))
            }
            _ => Ok(address),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(ip), ports) => write!(f, "{ip}:{ports}"),
            Self::Ip(IpAddr::V6(ip), ports) => write!(f, "[{ip}]:{ports}"),
            Self::Any(ports) => write!(f, ":{ports}"),
            Self::Unix(path) => path.fmt(f),
            Self::Systemd(name) => write!(f, "{SYSTEMD}{name}"),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ListenAddress, String> {
        text.parse()
    }

    #[test]
    fn is_read_back_as_it_is_written() {
        for text in ["127.0.0.1:80", "[::1]:80", "[fe80::1]:1-3", ":80", ":0", ":61001-61010", "unix:/run/a.sock", "unix:@a", "systemd:web"]
        {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_each_socket() {
        let sockets = |text: &str| parse(text).unwrap().sockets().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(sockets("[::1]:80-81"), ["[::1]:80", "[::1]:81"]);
        assert_eq!(sockets(":80"), ["0.0.0.0:80", "[::]:80"]);
        assert_eq!(sockets("unix:@a"), [""; 0]);
        assert_eq!(parse(":0").unwrap().with_port(7).to_string(), ":7");
    }

    #[test]
    fn what_cannot_be_one_is_told() {
        for text in ["", "80", "web", "::1:80", "[::1]", ":http", ":80-", ":81-80", ":0-5", ":65536", "a.test:80", "10.0.0.256:80"] {
            assert!(parse(text).unwrap_err().contains("is not an address to listen on"), "{text}");
        }
        assert!(parse(":1-1001").unwrap_err().contains("has 1001 ports; a listener has 1000 at most"));
        assert!(parse(":1-1000").is_ok());
        assert!(parse("unix:nuncio.sock").unwrap_err().contains("is not a unix socket"));
        assert!(parse("systemd:").unwrap_err().contains("does not name a socket of systemd"));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_back(text in "[0-9.:\\-\\[\\]]{0,30}|.{0,40}") {
            if let Ok(address) = parse(&text) {
                prop_assert_eq!(parse(&address.to_string()), Ok(address));
            }
        }
    }
}
