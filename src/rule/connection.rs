//! Rules about connections: which ones a TCP route takes.
//!
//! ```text
//! Sni("db.example.com", "*.db.example.com") && !ClientIp("10.0.0.0/8") || Alpn("acme-tls/1")
//! ```
//!
//! | predicate | takes connections |
//! |---|---|
//! | `Sni("a.com", "*.b.com", ...)` | whose TLS handshake asks for one of these hosts; `*.` stands for one or more labels |
//! | `Alpn("h2", ...)` | whose TLS handshake offers one of these application protocols |
//! | `ClientIp("10.0.0.0/8", ...)` | of clients in one of these networks |
//! | `ClientCert("spiffe://a.com/web", ...)` | of clients whose verified certificate has one of these names; a last `/*` stands for all below |
//!
//! To the rest of this module a connection is a request for its host, of which nothing else is known: grammar, precedence and index are the
//! same.

use std::fmt;
use std::net::IpAddr;
use std::sync::LazyLock;

use http::{HeaderMap, Method};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::parse::Subject;
use super::{RequestView, Rule, RuleError};

/// What a rule may look at of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionView<'a> {
    /// The host that the TLS handshake asks for (RFC 6066 section 3): lower case, without a final dot. Empty: it says none, or there is no TLS.
    pub sni: &'a str,
    /// The application protocols that it offers.
    pub alpn: &'a [&'a [u8]],
    /// The client's address.
    pub client_ip: IpAddr,
    /// The names in the client's certificate, once we have ended its TLS.
    pub identities: &'a [Box<str>],
}

impl<'a> ConnectionView<'a> {
    /// The request that it is to rules and to the index.
    #[must_use]
    pub fn as_request(&self) -> RequestView<'a> {
        static NO_HEADERS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        let Self { sni, alpn, client_ip, identities } = *self;
        RequestView { host: sni, path: "/", query: None, method: &Method::CONNECT, headers: &NO_HEADERS, client_ip, alpn, identities }
    }
}

/// A parsed rule about connections. Two are equal when their text is. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionRule(Rule);

impl ConnectionRule {
    /// Parses `text`.
    ///
    /// # Errors
    /// [`RuleError`] names the first offending place.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        Rule::parse_about(text, Subject::Connection).map(Self)
    }

    /// The rule of all connections, which no text says.
    #[must_use]
    pub fn any() -> &'static Self {
        static ANY: LazyLock<ConnectionRule> =
            LazyLock::new(|| ConnectionRule(Rule::parse("PathPrefix(`/`)").expect("every path is below /")));
        &ANY
    }

    /// The rule as the index takes it.
    #[must_use]
    pub fn as_rule(&self) -> &Rule {
        &self.0
    }

    /// Whether it takes `connection`.
    #[must_use]
    pub fn matches(&self, connection: &ConnectionView<'_>) -> bool {
        self.0.matches(&connection.as_request())
    }

    /// Whether it looks at the client's certificate.
    #[must_use]
    pub fn reads_client_cert(&self) -> bool {
        self.0.reads_client_cert()
    }

    /// Whether it looks at the TLS handshake.
    #[must_use]
    pub fn reads_hello(&self) -> bool {
        self.0.reads_hello()
    }
}

impl fmt::Debug for ConnectionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ConnectionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ConnectionRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ConnectionRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(rule: &str, sni: &str, alpn: &[&[u8]], client: &str) -> bool {
        let client_ip = client.parse().expect("an address");
        ConnectionRule::parse(rule).expect(rule).matches(&ConnectionView {
            sni,
            alpn,
            client_ip,
            identities: &["spiffe://a.com/web".into()],
        })
    }

    #[test]
    fn host_protocol_and_client_are_all_there_is() {
        assert!(takes("Sni(`A.com`, `*.b.com`)", "a.com", &[], "::1"));
        assert!(takes("Sni(`a.com`, `*.b.com`)", "x.y.b.com", &[], "::1"));
        assert!(!takes("Sni(`a.com`)", "", &[], "::1") && takes("!Sni(`a.com`)", "", &[], "::1"));
        assert!(takes("Alpn(`h2`) && ClientIp(`10.0.0.0/8`)", "", &[b"h2"], "10.1.1.1"));
        assert!(!takes("Alpn(`h2`) && ClientIp(`10.0.0.0/8`)", "", &[b"h2"], "11.1.1.1"));
        assert!(takes("ClientCert(`spiffe://a.com/web`)", "", &[], "::1") && !takes("ClientCert(`spiffe://a.com/db`)", "", &[], "::1"));
        let any = ConnectionView { sni: "", alpn: &[], client_ip: IpAddr::from([1, 1, 1, 1]), identities: &[] };
        assert!(ConnectionRule::any().matches(&any));
    }

    #[test]
    fn who_does_not_look_at_the_handshake_does_not_wait_for_it() {
        let reads = |rule: &str| ConnectionRule::parse(rule).expect(rule).reads_hello();
        assert!(reads("ClientIp(`::1`) && !(ClientIp(`::2`) || Sni(`a`))") && reads("Alpn(`h2`)"));
        assert!(!reads("!ClientIp(`::1`)") && !ConnectionRule::any().reads_hello());
    }

    #[test]
    fn requests_and_connections_are_told_apart() {
        let error = ConnectionRule::parse("Path(`/a`)").unwrap_err();
        assert_eq!(error.message, "`Path` asks about a request, and this rule is about connections");
        assert_eq!(error.help.as_deref(), Some("there are ClientIp, Sni, Alpn, ClientCert"));
        let error = ConnectionRule::parse("Host(`a`)").unwrap_err();
        assert_eq!(error.help.as_deref(), Some("of a connection the host in its TLS handshake is known: `Sni`"));
        let error = Rule::parse("Sni(`a`)").unwrap_err();
        assert_eq!(error.message, "`Sni` asks about a connection, and this rule is about requests");
        assert_eq!(ConnectionRule::parse("Snii(`a`)").unwrap_err().help.as_deref(), Some("did you mean `Sni`?"));
    }
}
