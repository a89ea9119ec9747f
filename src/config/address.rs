//! Where an endpoint listens: an IP address and port, the name of a host and a port, or a unix socket.
//!
//! What a name stands for changes without the configuration. The control plane looks it up and puts the addresses in, so that compiling
//! needs no network.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::socket::{SocketAddress, UnixPath};

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// All addresses that a name stands for, each of them an endpoint.
    Name(HostPort),
    /// A unix socket, such as `unix:/run/app.sock` or `unix:@app`.
    Unix(UnixPath),
}

/// The name of a host, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The name, in lower case. With a dot at its end it is complete; otherwise the search domains of `resolv.conf` apply.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// What the name stands for. Empty as it is read: put in by the control plane, and no part of what is written.
    pub ips: Arc<[IpAddr]>,
}

/// The longest name of a host, in characters without a dot at the end (RFC 1035 section 2.3.4).
const HOST_CHARS_MAX: usize = 253;
/// The longest part of a name between two dots.
const LABEL_CHARS_MAX: usize = 63;

impl Address {
    /// Reads an address that can be connected to.
    ///
    /// # Errors
    /// A sentence that names the text and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        // A host may be called `unix`, too.
        if text.strip_prefix(UnixPath::PREFIX).is_some_and(|path| path.starts_with(['/', '@'])) {
            return text.parse().map(Self::Unix);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 || address.ip().to_canonical().is_unspecified() {
                return Err(format!("`{text}` cannot be connected to: an endpoint needs a definite address and port"));
            }
            return Ok(Self::Ip(address));
        }
        let (host, port) = text.rsplit_once(':').filter(|(host, _)| is_host(host)).ok_or_else(|| not_an_address(text))?;
        match port.parse() {
            Ok(port @ 1..) => Ok(Self::Name(HostPort { host: host.to_ascii_lowercase().into(), port, ips: Arc::new([]) })),
            _ => Err(not_an_address(text)),
        }
    }

    /// The IP address and port, if it is given by them.
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Name(_) | Self::Unix(_) => None,
        }
    }

    /// The name and port, if it is given by them.
    #[must_use]
    pub fn name(&self) -> Option<&HostPort> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) | Self::Unix(_) => None,
        }
    }

    /// All that can be connected to: one address, or as many as the name stands for.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddress> {
        let named = self.name().into_iter().flat_map(|name| name.ips.iter().map(|ip| SocketAddress::from((*ip, name.port))));
        self.definite().into_iter().chain(named)
    }

    /// The one socket that it is. None: it is given by name, and what that stands for changes.
    #[must_use]
    pub fn definite(&self) -> Option<SocketAddress> {
        match self {
            Self::Ip(address) => Some(SocketAddress::Ip(*address)),
            Self::Unix(path) => Some(SocketAddress::Unix(path.clone())),
            Self::Name(_) => None,
        }
    }
}

/// Whether `text` can be the name of a host. Underscores are no letters of host names, but service names of Docker have them.
#[must_use]
pub fn is_host(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| {
        let is_edge_fine = !label.starts_with('-') && !label.ends_with('-');
        (1..=LABEL_CHARS_MAX).contains(&label.len()) && is_edge_fine && label.bytes().all(is_allowed)
    };
    // What ends in a number is a mistyped IP address (RFC 3696 section 2), which no server should be asked for.
    let ends_in_number = |text: &str| text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= HOST_CHARS_MAX && text.split('.').all(is_label) && !ends_in_number(text)
}

fn not_an_address(text: &str) -> String {
    format!(
        "`{text}` is not an IP address or name with a port, such as \"10.0.0.1:8080\", \"[fd00::1]:8080\" or \"app.internal:8080\", nor a unix \
         socket, such as \"unix:/run/app.sock\""
    )
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// As it is written.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn is_an_ip_address_or_a_name_with_a_port() {
        let written = |text: &str| Address::parse(text).map(|address| address.to_string());
        for text in
            ["10.0.0.1:80", "[fd00::1]:80", "localhost:3000", "app.internal:8080", "tasks.my_web:80", "a.b.:1", "unix:@app", "unix:1"]
        {
            assert_eq!(written(text).as_deref(), Ok(text));
        }
        assert_eq!(written("App.Internal:80").as_deref(), Ok("app.internal:80"));
        assert!(Address::parse("10.0.0.1:80").unwrap().ip().is_some());
        assert_eq!(&*Address::parse("app:80").unwrap().name().unwrap().host, "app");
    }

    #[test]
    fn what_cannot_be_one_is_told() {
        let long = format!("{}:80", "a.".repeat(127) + "abc");
        for text in ["", ":80", "app", "app:", "app:0", "app:65536", "app:http", "a b:80", "-a:80", "a..b:80", ".a:80", "fd00::1:80", &long]
        {
            assert!(Address::parse(text).unwrap_err().contains("is not an IP address or name with a port"), "{text}");
        }
        for text in ["10.0.0.256:80", "10.0.1:80", "10:80", "http://a:80", "a/b:80", "ä:80", "*:80"] {
            assert!(Address::parse(text).unwrap_err().contains("is not an IP address or name with a port"), "{text}");
        }
        assert!(Address::parse("0.0.0.0:80").unwrap_err().contains("cannot be connected to"));
        assert!(Address::parse("10.0.0.1:0").unwrap_err().contains("cannot be connected to"));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_back_as_it_is_written(text in "[a-zA-Z0-9.:_\\-\\[\\]]{0,40}|.{0,40}") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }
    }
}
