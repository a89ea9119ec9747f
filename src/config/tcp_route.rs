//! A TCP route as it is wanted: which connections of a listener, and to which upstream.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::duration;
use crate::names::Name;
use crate::rule::ConnectionRule;

/// "Connections like this go there."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct TcpRoute {
    /// The TCP listener whose connections it takes.
    pub listener: Name,
    /// Which of them: `Sni("db.example.com") && ClientIp("10.0.0.0/8")`. Default: those that no other route of the listener takes.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<ConnectionRule>,
    /// Wins over routes of lower priority, whatever their rules. Default 0.
    #[serde(default)]
    pub priority: i32,
    /// Where they go.
    pub upstream: Name,
    /// Leaves TLS to the endpoint, on a listener that terminates it for other routes. Default false.
    #[serde(default)]
    pub passthrough: bool,
    /// How long a connection waits for an endpoint while there is none. Default: not at all, it is closed.
    #[serde(default, with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub wait: Option<Duration>,
    /// Closes a connection on which no byte moved either way for this long. Default 10 min.
    #[serde(default = "idle_timeout_default", with = "duration")]
    pub idle_timeout: Duration,
    /// Closes a connection that is this old, whatever moves on it. Default: none is.
    #[serde(default, with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub max_lifetime: Option<Duration>,
}

impl TcpRoute {
    /// A route of all connections from `listener` to `upstream`, all else at its default.
    #[must_use]
    pub fn to(listener: Name, upstream: Name) -> Self {
        let idle_timeout = idle_timeout_default();
        Self { listener, rule: None, priority: 0, upstream, passthrough: false, wait: None, idle_timeout, max_lifetime: None }
    }

    /// The rule, which may be that of all connections.
    #[must_use]
    pub fn rule(&self) -> &ConnectionRule {
        self.rule.as_ref().unwrap_or(ConnectionRule::any())
    }

    /// Whether the fields go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub fn check(&self) -> Result<(), String> {
        if self.idle_timeout.is_zero() {
            return Err("`idle_timeout` must be more than zero".into());
        }
        if self.passthrough && self.rule().reads_client_cert() {
            return Err(
                "`passthrough` leaves TLS to the endpoint: a certificate is not seen here, and `ClientCert` would never match".into()
            );
        }
        if self.max_lifetime.is_some_and(|lifetime| lifetime.is_zero()) {
            return Err("`max_lifetime` must be more than zero; without the key there is none".into());
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for TcpRoute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let route = Self::deserialize(deserializer)?;
        route.check().map_err(serde::de::Error::custom)?;
        Ok(route)
    }
}

impl Serialize for TcpRoute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

fn idle_timeout_default() -> Duration {
    Duration::from_secs(600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_about_connections_and_may_be_left_out() {
        let check = |json: &str| serde_json::from_str::<TcpRoute>(json).map_err(|error| error.to_string());
        let route = check(r#"{"listener":"l","upstream":"u"}"#).unwrap();
        assert!(!route.rule().reads_hello() && route.max_lifetime.is_none());
        let route = check(r#"{"listener":"l","upstream":"u","match":"Sni(`a.com`)","max_lifetime":"1h","passthrough":true}"#).unwrap();
        assert!(route.rule().reads_hello());
        assert_eq!(check(&serde_json::to_string(&route).unwrap()), Ok(route));
        assert!(check(r#"{"listener":"l","upstream":"u","match":"Path(`/a`)"}"#).unwrap_err().contains("asks about a request"));
        assert!(check(r#"{"listener":"l","upstream":"u","max_lifetime":"0s"}"#).unwrap_err().contains("more than zero"));
        let certified = r#"{"listener":"l","upstream":"u","match":"ClientCert(`spiffe://a.org/x`)","passthrough":true}"#;
        assert!(check(certified).unwrap_err().contains("never match"));
        assert!(check(r#"{"listener":"l","upstream":"u","idle_timeout":"0s"}"#).unwrap_err().contains("more than zero"));
    }
}
