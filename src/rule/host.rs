//! The one spelling of the host that a request asks for.
//!
//! Called once per request by the data plane, with `Host` or `:authority`, and for the hosts that rules are written with.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use memchr::memchr;

use super::bytes::of_every_byte;

/// The longest host, in bytes: that of a DNS name with its final dot (RFC 1035 section 2.3.4).
pub const HOST_BYTES_MAX: usize = 254;

/// Why an authority is refused. All of them are the client's fault: 400, RFC 9112 section 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is no host.
    #[error("the host is empty")]
    Empty,
    /// It is longer than [`HOST_BYTES_MAX`].
    #[error("the host is longer than {HOST_BYTES_MAX} bytes")]
    TooLong,
    /// Two dots in a row, or one at the start.
    #[error("the host has an empty label")]
    EmptyLabel,
    /// A character that a name cannot hold. Escapes are refused too: DNS names need none, and they would be a second spelling.
    #[error("the host holds a character that no host name has")]
    Character,
    /// `user@host`: RFC 9110 section 4.2.4 deprecates it, and it is used to deceive.
    #[error("the host has user information before it")]
    UserInfo,
    /// The port is not a number up to 65535.
    #[error("the port is not a number up to 65535")]
    Port,
    /// The text between `[` and `]` is not an IPv6 address.
    #[error("the text in brackets is not an IPv6 address")]
    IpLiteral,
}

/// Brings the host of `authority` (`host`, `host:port`, `[v6]`, `[v6]:port`) into its one spelling: lower case, without port and
/// without final dot; an IPv6 address keeps its brackets and is written as RFC 5952 says. The result borrows from `authority`
/// unless it had to change; nothing is allocated for a name in lower case.
///
/// # Errors
/// [`HostError`], if it is not `host [":" port]` of RFC 3986 section 3.2.
pub fn normalize_host(authority: &str) -> Result<Cow<'_, str>, HostError> {
    if authority.starts_with('[') {
        return normalize_ip_literal(authority);
    }
    let (host, port) = split_port(authority);
    if !is_port(port) {
        return Err(if port.contains('@') { HostError::UserInfo } else { HostError::Port });
    }
    if host.len() > HOST_BYTES_MAX {
        return Err(HostError::TooLong);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if has_upper_case(host)? { Ok(Cow::Owned(host.to_ascii_lowercase())) } else { Ok(Cow::Borrowed(host)) }
}

fn normalize_ip_literal(authority: &str) -> Result<Cow<'_, str>, HostError> {
    let end = authority.find(']').ok_or(HostError::IpLiteral)?;
    let (literal, port) = authority.split_at(end + 1);
    if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
        return Err(HostError::Port);
    }
    let address = literal.strip_prefix('[').and_then(|text| text.strip_suffix(']')).ok_or(HostError::IpLiteral)?;
    let address: Ipv6Addr = address.parse().map_err(|_| HostError::IpLiteral)?;
    let normal = format!("[{address}]");
    if normal == literal { Ok(Cow::Borrowed(literal)) } else { Ok(Cow::Owned(normal)) }
}

fn split_port(authority: &str) -> (&str, &str) {
    let colon = memchr(b':', authority.as_bytes());
    colon.and_then(|at| Some((authority.get(..at)?, authority.get(at + 1..)?))).unwrap_or((authority, ""))
}

/// `port` of RFC 3986 section 3.2.3, which may be empty.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Checks a name without its final dot; says whether it holds upper-case letters.
fn has_upper_case(name: &str) -> Result<bool, HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    let mut previous = b'.';
    let mut has_upper = false;
    for byte in name.bytes() {
        match CLASS[usize::from(byte)] {
            Class::Lower => {}
            Class::Upper => has_upper = true,
            Class::Dot if previous == b'.' => return Err(HostError::EmptyLabel),
            Class::Dot => {}
            Class::Refuse(error) => return Err(error),
        }
        previous = byte;
    }
    if previous == b'.' { Err(HostError::EmptyLabel) } else { Ok(has_upper) }
}

/// What a byte of a name is.
#[derive(Clone, Copy)]
enum Class {
    /// `unreserved` or `sub-delims` of RFC 3986 section 3.2.2, as it is in the one spelling.
    Lower,
    Upper,
    Dot,
    Refuse(HostError),
}

const fn class(byte: u8) -> Class {
    match byte {
        b'.' => Class::Dot,
        b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => Class::Lower,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => Class::Lower,
        b'A'..=b'Z' => Class::Upper,
        b'@' => Class::Refuse(HostError::UserInfo),
        _ => Class::Refuse(HostError::Character),
    }
}

/// [`class`] of every byte.
static CLASS: [Class; 256] = of_every_byte!(class);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(authority: &str, expected: Result<&str, HostError>) {
        assert_eq!(normalize_host(authority).as_deref(), expected.as_ref().map(|host| *host), "{authority:?}");
    }

    #[test]
    fn gives_every_host_one_spelling() {
        check("a.com", Ok("a.com"));
        check("A.Com.:8080", Ok("a.com"));
        check("a.com:", Ok("a.com"));
        check("my_host-1", Ok("my_host-1"));
        check("127.0.0.1:80", Ok("127.0.0.1"));
        check("[::1]:80", Ok("[::1]"));
        check("[0:0:0:0:0:0:0:1]", Ok("[::1]"));
        check("[FE80::A]", Ok("[fe80::a]"));
    }

    #[test]
    fn borrows_when_only_the_ends_go() {
        for authority in ["a.com", "a.com:80", "a.com.", "[::1]:80"] {
            assert!(matches!(normalize_host(authority), Ok(Cow::Borrowed(_))), "{authority:?}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_host() {
        check("", Err(HostError::Empty));
        check(":80", Err(HostError::Empty));
        check(".", Err(HostError::Empty));
        check("..", Err(HostError::EmptyLabel));
        check(".a.com", Err(HostError::EmptyLabel));
        check("a..com", Err(HostError::EmptyLabel));
        check("a.com..", Err(HostError::EmptyLabel));
        check("a b", Err(HostError::Character));
        check("a/b", Err(HostError::Character));
        check("a%2ecom", Err(HostError::Character));
        check("bücher.de", Err(HostError::Character));
        check("user@a.com", Err(HostError::UserInfo));
        check("user:secret@a.com", Err(HostError::UserInfo));
        check("a.com:http", Err(HostError::Port));
        check("a.com:+80", Err(HostError::Port));
        check("a.com:65536", Err(HostError::Port));
        check("a.com:80:80", Err(HostError::Port));
        check("::1", Err(HostError::Port));
        check("[::1", Err(HostError::IpLiteral));
        check("[::1]80", Err(HostError::Port));
        check("[fe80::1%25eth0]", Err(HostError::IpLiteral));
        check("[v1.a]", Err(HostError::IpLiteral));
        check(&"a".repeat(255), Err(HostError::TooLong));
    }

    proptest! {
        #[test]
        fn is_idempotent(authority in "[aA.:0\\[\\]-]{0,12}|\\PC{0,20}") {
            if let Ok(host) = normalize_host(&authority) {
                prop_assert_eq!(normalize_host(&host), Ok(host.clone()));
            }
        }
    }
}
