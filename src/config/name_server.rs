//! The address of a name server: an IP address, and a port if it is not 53.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A server that is asked what names stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameServer(SocketAddr);

/// The port of name servers.
const PORT_DEFAULT: u16 = 53;

impl NameServer {
    /// The most that are named at a time. Each one that does not answer costs the time that it is waited for.
    pub const COUNT_MAX: usize = 8;

    /// Reads `10.0.0.2`, `10.0.0.2:5353`, `fd00::2` or `[fd00::2]:5353`.
    ///
    /// # Errors
    /// A sentence that says what it looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let address = match bare.parse::<IpAddr>() {
            Ok(ip) => Some(SocketAddr::new(ip, PORT_DEFAULT)),
            Err(_) => text.parse::<SocketAddr>().ok(),
        };
        let usable = address.filter(|address| address.port() != 0 && !address.ip().is_unspecified());
        usable.map(Self).ok_or_else(|| format!("`{text}` is not the address of a name server, such as \"10.0.0.2:53\" or \"[fd00::2]:53\""))
    }

    /// Where it is asked, by UDP and TCP.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        self.0
    }

    /// Whether there are not too many.
    ///
    /// # Errors
    /// A sentence with the bound. `setting` is what lists them.
    pub(super) fn check(setting: &str, servers: &[Self]) -> Result<(), String> {
        match servers.len() {
            0..=Self::COUNT_MAX => Ok(()),
            more => Err(format!("`{setting}` names {more} name servers: at most {} are asked", Self::COUNT_MAX)),
        }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for NameServer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<NameServer> for String {
    fn from(server: NameServer) -> Self {
        server.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_an_address_with_or_without_a_port() {
        for (text, expected) in [
            ("10.0.0.2", "10.0.0.2:53"),
            ("10.0.0.2:5353", "10.0.0.2:5353"),
            ("fd00::2", "[fd00::2]:53"),
            ("[fd00::2]", "[fd00::2]:53"),
            ("[fd00::2]:99", "[fd00::2]:99"),
        ] {
            assert_eq!(NameServer::parse(text).unwrap().to_string(), expected);
        }
        for text in ["", "dns.internal", "10.0.0.2:0", "0.0.0.0", "10.0.0.2:domain", "::", "[10.0.0.2"] {
            assert!(NameServer::parse(text).unwrap_err().contains("not the address of a name server"), "{text}");
        }
        let one = NameServer::parse("10.0.0.2").unwrap();
        assert!(NameServer::check("servers", &[one; 8]).is_ok());
        assert!(NameServer::check("servers", &[one; 9]).unwrap_err().contains("at most 8"));
    }
}
