//! Networks of addresses as they are written: `10.0.0.0/8`, or an address alone.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

/// Reads a network or an address. Bits behind the prefix mean nothing.
pub(crate) fn parse(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| address.into()))
}

/// Whether one of `networks` has this address. An IPv4 address that is written as an IPv6 one is an IPv4 address.
pub(crate) fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Reads a list of them.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let what = |text: &String| {
        let error = || format!("`{text}` is not a network or address, such as \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"");
        parse(text).ok_or_else(|| serde::de::Error::custom(error()))
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_or_an_address_alone() {
        let networks = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "172.16.3.4/12"].map(|text| parse(text).unwrap());
        for (address, expected) in [
            ("10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
            ("::ffff:10.0.0.1", true),
            ("172.31.0.1", true),
        ] {
            assert_eq!(contain(&networks, address.parse().unwrap()), expected, "{address}");
        }
        for text in ["", "10.0.0", "10.0.0.0/33", "localhost", "10.0.0.1:80"] {
            assert_eq!(parse(text), None, "{text}");
        }
        let error = deserialize(serde_json::json!(["10.0.0.0/33"])).unwrap_err();
        assert!(error.to_string().contains("`10.0.0.0/33` is not a network or address"), "{error}");
    }
}
