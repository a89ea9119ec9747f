//! `ClientIp("10.0.0.0/8", "::1")`: which clients.

use std::net::IpAddr;

use ipnet::IpNet;

use super::predicate::Invalid;
use crate::network;

/// Networks of clients that a rule takes.
///
/// Invariant: host bits zero, sorted, without repetition, so that two sets of the same networks are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Networks(Box<[IpNet]>);

impl Networks {
    pub(crate) fn new(mut networks: Vec<IpNet>) -> Self {
        networks.sort_unstable();
        networks.dedup();
        Self(networks.into())
    }

    /// Whether `client` is in one of them. An IPv4 client on an IPv6 socket (`::ffff:10.0.0.1`) is that IPv4 client.
    pub(crate) fn matches(&self, client: IpAddr) -> bool {
        network::contain(&self.0, client)
    }
}

/// One argument: a network, or an address alone.
pub(crate) fn parse(text: &str) -> Result<IpNet, Invalid> {
    let network = network::parse(text)
        .ok_or_else(|| Invalid::new("not an address or a network").help("write `10.0.0.0/8`, `192.0.2.1` or `2001:db8::/32`"))?;
    if network.trunc() != network {
        let help = format!("did you mean `{}` or `{}`?", network.trunc(), network.addr());
        return Err(Invalid::new("the network has bits set after its prefix").help(help));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_clients_of_its_networks() {
        let networks = Networks::new(vec![parse("10.0.0.0/8").expect("valid"), parse("::1").expect("valid")]);
        for (client, expected) in [("10.1.2.3", true), ("11.0.0.1", false), ("::1", true), ("::2", false), ("::ffff:10.0.0.1", true)] {
            assert_eq!(networks.matches(client.parse().expect("an address")), expected, "{client}");
        }
    }

    #[test]
    fn refuses_what_is_likely_a_slip() {
        assert_eq!(parse("10.0.0.1/8").expect_err("host bits").help.as_deref(), Some("did you mean `10.0.0.0/8` or `10.0.0.1`?"));
        assert!(parse("10.0.0.0/33").is_err());
        assert!(parse("10.0.0").is_err());
        assert!(parse("").is_err());
    }
}
