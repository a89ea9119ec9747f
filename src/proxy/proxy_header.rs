//! What a datagram may begin with to tell its endpoint who the client is: the binary PROXY header of HAProxy's specification, version 2
//! (section 2.2).

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;

/// AF_INET and SOCK_DGRAM, AF_INET6 and SOCK_DGRAM.
const FAMILIES: [u8; 2] = [0x12, 0x22];

/// The header of a datagram that came `from` a client `to` an address of ours.
pub(super) fn v2(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let [v4, v6] = FAMILIES;
    let (family, addresses) = match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (v4, [from.octets(), to.octets()].concat()),
        (from, to) => (v6, [mapped(from), mapped(to)].concat()),
    };
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let length = (addresses.len() + ports.len()) as u16;
    [SIGNATURE, [VERSION_AND_COMMAND, family].as_slice(), &length.to_be_bytes(), &addresses, &ports].concat()
}

fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_as_the_specification_says() {
        let check = |from: &str, to: &str, rest: &[u8]| assert_eq!(v2(from.parse().unwrap(), to.parse().unwrap()), [SIGNATURE, rest].concat());
        check("192.0.2.1:258", "10.0.0.1:53", &[0x21, 0x12, 0, 12, 192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 0, 53]);
        let mut six = vec![0x21, 0x22, 0, 36];
        six.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        six.extend([0; 15]);
        six.extend([1, 1, 2, 0, 53]);
        check("[2001:db8::1]:258", "[::1]:53", &six);
    }
}
