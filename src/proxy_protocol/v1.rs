//! Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443`, and the end of the line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tlv::Tlvs;
use super::{Header, Invalid, Source, V1_BYTES_MAX};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// `bytes` begin with the signature, as far as they reach.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Invalid> {
    let head = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
        return if head.len() == V1_BYTES_MAX { Err(Invalid::EndlessLine) } else { Ok(None) };
    };
    let line = head.get(SIGNATURE.len()..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Invalid::Line)?;
    let source = read(line).ok_or(Invalid::Line)?;
    Ok(Some((Header { source, tlvs: Tlvs::default() }, end + 1)))
}

fn read(line: &[u8]) -> Option<Source> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Whatever else stands there is to be ignored.
        return Some(Source::Unknown);
    }
    let [source, destination, source_port, destination_port] = [words.next()?, words.next()?, words.next()?, words.next()?];
    if words.next().is_some() {
        return None;
    }
    let ip = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let source = SocketAddr::new(ip(source)?, port(source_port)?);
    let destination = SocketAddr::new(ip(destination)?, port(destination_port)?);
    Some(Source::Client { source, destination })
}

/// A decimal number without zeros in front, which some read as octal.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// The addresses are of one family.
pub(super) fn write(source: Source) -> Vec<u8> {
    match source {
        Source::Local | Source::Unknown => b"PROXY UNKNOWN\r\n".to_vec(),
        Source::Client { source, destination } => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn check(line: &str) -> Result<Option<Source>, Invalid> {
        parse(line.as_bytes()).map(|header| header.map(|(header, used)| (assert_eq!(used, line.len()), header.source).1))
    }

    #[test]
    fn reads_lines() {
        let client = |source: &str, destination: &str| {
            Ok(Some(Source::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }))
        };
        assert_eq!(check("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"), client("192.0.2.1:56324", "198.51.100.1:443"));
        assert_eq!(check("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n"), client("[2001:db8::1]:0", "[::1]:65535"));
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(
            check(&format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n")),
            client(&format!("[{longest}]:65535"), &format!("[{longest}]:65535"))
        );
        assert_eq!(check("PROXY UNKNOWN\r\n"), Ok(Some(Source::Unknown)));
        let longest = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
        assert_eq!((longest.len(), check(&longest)), (V1_BYTES_MAX, Ok(Some(Source::Unknown))));
    }

    #[test]
    fn refuses_all_else() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 7\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            "PROXY TCP4 192.0.2.256 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 2001:db8::1 198.51.100.1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 0443 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY unknown\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4\r192.0.2.1 198.51.100.1 56324 443\r\n",
        ] {
            assert_eq!(check(line), Err(Invalid::Line), "{line:?}");
        }
        assert_eq!(check(&format!("PROXY UNKNOWN {}", "x".repeat(92))), Ok(None));
        assert_eq!(check(&format!("PROXY UNKNOWN {}", "x".repeat(93))), Err(Invalid::EndlessLine));
        assert_eq!(check(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(92))), Err(Invalid::EndlessLine));
    }
}
