//! Where a stream socket is: an IP address and port, or a unix socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a stream socket is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketAddress {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A socket of this machine.
    Unix(UnixPath),
}

/// The path of a unix socket, or, after `@`, a name of Linux's abstract namespace (unix(7)). Written `unix:/run/app.sock` or `unix:@app`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixPath(Arc<str>);

impl SocketAddress {
    /// The IP address and port, unless it is a unix socket.
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The same with another port. A unix socket has none, and stays as it is.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        match self {
            Self::Ip(address) => Self::Ip(SocketAddr::new(address.ip(), port)),
            Self::Unix(_) => self.clone(),
        }
    }
}

impl UnixPath {
    /// What a unix socket is written with.
    pub const PREFIX: &'static str = "unix:";
    /// The most bytes of a path: the kernel has room for 108 with a zero at the end.
    const BYTES_MAX: usize = 107;

    /// The path. None: it is an abstract name.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        self.abstract_name().is_none().then(|| std::path::Path::new(&*self.0))
    }

    /// The abstract name. None: it is a path.
    #[must_use]
    pub fn abstract_name(&self) -> Option<&str> {
        self.0.strip_prefix('@')
    }

    /// The path, or the abstract name with its `@`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its address, as the system calls take it.
    ///
    /// # Errors
    /// None for a path that was parsed.
    pub fn to_system(&self) -> std::io::Result<socket2::SockAddr> {
        match self.abstract_name() {
            Some(name) => socket2::SockAddr::unix(format!("\0{name}")),
            None => socket2::SockAddr::unix(&*self.0),
        }
    }
}

impl FromStr for UnixPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix(Self::PREFIX).filter(|path| path.starts_with(['/', '@']) && path.len() > 1);
        let path = path.ok_or_else(|| format!("`{text}` is not a unix socket, such as \"unix:/run/app.sock\" or \"unix:@app\""))?;
        if path.len() > Self::BYTES_MAX {
            return Err(format!("`{text}` is too long: the path of a unix socket has {} bytes at most", Self::BYTES_MAX));
        }
        if path.contains('\0') {
            return Err(format!("{text:?} has a zero byte, which no path of a unix socket may have"));
        }
        Ok(Self(path.into()))
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl From<(IpAddr, u16)> for SocketAddress {
    fn from(address: (IpAddr, u16)) -> Self {
        Self::Ip(address.into())
    }
}

impl fmt::Display for UnixPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, self.0)
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

impl FromStr for SocketAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(address) => Ok(Self::Ip(address)),
            Err(_) => text.parse().map(Self::Unix),
        }
    }
}

impl Serialize for SocketAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SocketAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_is_a_path_or_an_abstract_name() {
        let parse = |text: &str| text.parse::<UnixPath>();
        for text in ["unix:/run/app.sock", "unix:@app", "unix:@a:b/c"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
            assert!(parse(text).unwrap().to_system().is_ok());
        }
        assert_eq!(parse("unix:@app").unwrap().abstract_name(), Some("app"));
        assert_eq!(parse("unix:/a").unwrap().path(), Some(std::path::Path::new("/a")));
        for text in ["unix:", "unix:/", "unix:@", "unix:app.sock", "/run/app.sock", "127.0.0.1:1"] {
            assert!(parse(text).unwrap_err().contains("is not a unix socket"), "{text}");
        }
        let longest = format!("unix:/{}", "a".repeat(106));
        assert!(parse(&longest).unwrap().to_system().is_ok());
        assert!(parse(&format!("{longest}a")).unwrap_err().contains("107 bytes at most"));
        assert!(parse("unix:/a\0b").unwrap_err().contains("zero byte"));
    }
}
