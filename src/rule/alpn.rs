//! `Alpn("h2", ...)`: which application protocols a client offers in its TLS handshake (RFC 7301).

use super::predicate::Invalid;

/// The longest name of a protocol, in bytes (RFC 7301 section 3.1).
const NAME_BYTES_MAX: usize = 255;

/// Protocols of which a client offers at least one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Protocols(Box<[Box<str>]>);

impl Protocols {
    /// These, in any order.
    pub(crate) fn new(mut names: Vec<Box<str>>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self(names.into())
    }

    pub(crate) fn matches(&self, offered: &[&[u8]]) -> bool {
        offered.iter().any(|offered| self.0.iter().any(|name| name.as_bytes() == *offered))
    }
}

/// The name of a protocol: bytes that are compared as they are.
pub(crate) fn parse(text: &str) -> Result<Box<str>, Invalid> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(Invalid::new(format!("the name of a protocol has 1 to {NAME_BYTES_MAX} bytes")).help("such as `h2` or `http/1.1`"));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_them_is_enough() {
        let protocols = Protocols::new(vec!["h2".into(), "acme-tls/1".into(), "h2".into()]);
        assert!(protocols.matches(&[b"http/1.1", b"h2"]));
        assert!(!protocols.matches(&[b"http/1.1", b"H2"]) && !protocols.matches(&[]));
        assert!(parse("").is_err() && parse(&"x".repeat(256)).is_err());
    }
}
