//! A UDP route as it is wanted: the datagrams of a listener go to an upstream, and the replies come back.

use std::num::NonZeroU16;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::duration;
use crate::names::Name;

/// "Datagrams to this listener go there."
///
/// What one client address sends is a session: it has one endpoint, and the endpoint's replies go to that client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct UdpRoute {
    /// The UDP listener whose datagrams it takes.
    pub listener: Name,
    /// Where they go.
    pub upstream: Name,
    /// Ends a session in which no datagram moved either way for this long. Default 60 s.
    #[serde(default = "idle_timeout_default", with = "duration")]
    pub idle_timeout: Duration,
    /// How many replies a datagram has: the session ends with the last one that it waits for. 1 for DNS. Default: any number, so that
    /// sessions end by `idle_timeout` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<NonZeroU16>,
    /// What keeps a client on its endpoint from one session to the next.
    #[serde(default)]
    pub affinity: Affinity,
}

/// What keeps a client on its endpoint from one session to the next. Within a session it keeps it in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// A consistent hash of the client's address chooses the endpoint, whatever the upstream's `balance`: the same one as long as it is
    /// there and well.
    #[default]
    ClientIp,
    /// Nothing: the upstream's `balance` chooses for each session.
    None,
}

impl UdpRoute {
    /// A route from `listener` to `upstream`, all else at its default.
    #[must_use]
    pub fn to(listener: Name, upstream: Name) -> Self {
        Self { listener, upstream, idle_timeout: idle_timeout_default(), responses: None, affinity: Affinity::default() }
    }

    /// Whether the fields go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub fn check(&self) -> Result<(), String> {
        if self.idle_timeout.is_zero() {
            return Err("`idle_timeout` must be more than zero".into());
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for UdpRoute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let route = Self::deserialize(deserializer)?;
        route.check().map_err(serde::de::Error::custom)?;
        Ok(route)
    }
}

impl Serialize for UdpRoute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

fn idle_timeout_default() -> Duration {
    Duration::from_secs(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_makes_no_sense() {
        let check = |json: &str| serde_json::from_str::<UdpRoute>(json).map_err(|error| error.to_string());
        let route = check(r#"{"listener":"dns","upstream":"dns","responses":1}"#).unwrap();
        assert_eq!((route.responses.unwrap().get(), route.idle_timeout.as_secs(), route.affinity), (1, 60, Affinity::ClientIp));
        assert_eq!(check(&serde_json::to_string(&route).unwrap()), Ok(route));
        assert!(check(r#"{"listener":"dns","upstream":"dns","idle_timeout":"0s"}"#).unwrap_err().contains("more than zero"));
        assert!(check(r#"{"listener":"dns","upstream":"dns","responses":0}"#).is_err());
        assert!(check(r#"{"listener":"dns","upstream":"dns","affinity":"cookie"}"#).is_err());
        assert!(check(r#"{"listener":"dns"}"#).is_err());
    }
}
