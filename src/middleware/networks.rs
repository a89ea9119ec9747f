//! A list of networks and addresses, and whether an address is in one of them.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::BuildError;
use crate::network;

/// Networks as they are configured: `["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Networks(#[serde(deserialize_with = "network::deserialize")] pub Vec<IpNet>);

impl Networks {
    /// Makes the set, for a middleware called `name`.
    pub(super) fn build(&self, name: &str) -> Result<NetworkSet, BuildError> {
        if self.0.is_empty() {
            return Err(BuildError(format!("{name}: the list is empty")));
        }
        Ok(NetworkSet::new(&self.0))
    }
}

/// A set of addresses, made for being asked: a search in sorted ranges, so that long lists cost little.
pub(super) struct NetworkSet {
    /// First and last address of each range. Invariant: sorted, apart from each other.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl NetworkSet {
    fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push((network.network().to_bits(), network.broadcast().to_bits())),
                IpNet::V6(network) => v6.push((network.network().to_bits(), network.broadcast().to_bits())),
            }
        }
        Self { v4: merge(v4), v6: merge(v6) }
    }

    /// Whether the address is in the set. An IPv4 address that is written as an IPv6 one is an IPv4 address.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => is_in(&self.v4, address.to_bits()),
            IpAddr::V6(address) => is_in(&self.v6, address.to_bits()),
        }
    }
}

fn merge<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let overlaps = next.0 <= range.1;
        if overlaps {
            range.1 = range.1.max(next.1);
        }
        overlaps
    });
    ranges.into()
}

fn is_in<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after.checked_sub(1).and_then(|index| ranges.get(index)).is_some_and(|(_, last)| address <= *last)
}

/// Lists may be long.
impl fmt::Debug for NetworkSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkSet({} ranges)", self.v4.len() + self.v6.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_networks_and_addresses() {
        let check = |json: &str| serde_json::from_str::<Networks>(json).map_err(|error| error.to_string());
        assert_eq!(check(r#"["10.0.0.0/8","::1"]"#).unwrap().0, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse::<IpNet>().unwrap()]);
        assert!(check(r#"["localhost"]"#).is_err());
    }

    #[test]
    fn knows_mapped_addresses() {
        let set = NetworkSet::new(&["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        let check = |address: &str| set.contains(address.parse().unwrap());
        assert!(check("10.255.255.255") && check("::ffff:10.0.0.1") && check("2001:db8::1"));
        assert!(!check("11.0.0.0") && !check("9.255.255.255") && !check("2001:db9::") && !check("::1"));
    }

    proptest! {
        #[test]
        fn is_that_of_the_naive_loop(networks in prop::collection::vec((0..1024_u32, 22..=32_u8), 0..20), address in 0..1024_u32) {
            let networks: Vec<IpNet> =
                networks.iter().map(|(bits, length)| IpNet::new(IpAddr::V4((*bits).into()), *length).unwrap()).collect();
            let address = IpAddr::V4(address.into());
            prop_assert_eq!(NetworkSet::new(&networks).contains(address), networks.iter().any(|network| network.contains(&address)));
        }
    }
}
