//! A name by which the admin API may be asked for: `nuncio.internal`, or `*.example.com`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rule::{HostPattern, normalize_host};

/// A name, or all names below one. Like `Host` of a rule, except for what its errors say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminHost {
    text: String,
    pattern: HostPattern,
}

impl AdminHost {
    /// Reads a name, or `*.` and the end of one.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Err("`*` would let every web page read the admin API: list the names that are yours, such as \"*.example.com\"".into());
        }
        if text.contains(['/', ':']) {
            return Err(format!("`{text}` is not a name: leave out scheme, port and path. IP addresses are answered without being listed"));
        }
        let pattern = HostPattern::parse(text).map_err(|error| format!("`{text}` is not a name: {}", error.message))?;
        Ok(Self { text: text.to_string(), pattern })
    }

    /// Whether it takes `host`, which may have a port.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        normalize_host(host).is_ok_and(|host| self.pattern.matches(&host))
    }
}

impl fmt::Display for AdminHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for AdminHost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for AdminHost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_names_that_are_listed() {
        let (name, below) = (AdminHost::parse("Nuncio.internal").unwrap(), AdminHost::parse("*.example.com").unwrap());
        assert!(name.matches("nuncio.internal") && name.matches("NUNCIO.internal.:8182"));
        assert!(!name.matches("x.nuncio.internal") && !name.matches("") && !name.matches("a b"));
        assert!(below.matches("a.example.com:80") && below.matches("b.a.example.com"));
        assert!(!below.matches("example.com") && !below.matches("a.example.com.evil.test"));
    }

    #[test]
    fn refuses_what_is_no_name() {
        for (text, says) in [
            ("*", "every web page"),
            ("", "empty"),
            ("http://nuncio.internal/", "leave out scheme"),
            ("nuncio.internal:8182", "leave out scheme, port"),
            ("a.*.com", "first labels"),
            ("bücher.de", "ASCII"),
        ] {
            let error = AdminHost::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
