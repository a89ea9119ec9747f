//! The services of a Docker Swarm.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::conventions::{Convention, Conventions};
use super::docker::{AddressChoice, EngineAddress, check_tls};
use super::layout::RouteTemplate;
use super::tls::ClientTls;
use crate::config::duration;

/// A Docker Swarm and the tasks of its services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwarmConfig {
    /// Where the APIs of managers are, of which one is asked, and the next if it fails: `["unix:///var/run/docker.sock"]` (default), or
    /// `["tcp://10.0.0.5:2376", "tcp://10.0.0.6:2376"]`.
    pub endpoints: Vec<EngineAddress>,
    /// Speaks TLS to `tcp://` endpoints when present. `{}` verifies against the system's roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// Which addresses of a task are used. Default: its own, on the network that `network` names or that we are a task of ourselves; or
    /// else those of its node, for ports that are published there in host mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressChoice>,
    /// The network whose addresses are used. Default: one that we are in ourselves, as a task, or the only one of a task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The node whose tasks are used; those of other nodes are backups, used while it has none that is up. `"local"`: the one that we run on.
    /// Or its hostname or id. Default: none, all nodes alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer_node: Option<NodeChoice>,
    /// How often tasks are looked at, of which nothing is announced. 100 ms to 10 s. Default 500 ms.
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub poll: Option<Duration>,
    /// Labels of others that are read too: `"registrator"`, `"haproxy"` (of marathon-lb), `"hive"` (of hive-builder). Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conventions: Vec<Convention>,
    /// Of registrator's services: the rule of the route that each gets, with `{name}` in it. Default: none, they make upstreams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTemplate>,
    /// Of `"haproxy"`: only what is of this `HAPROXY_GROUP`. Default: of any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub haproxy_group: Option<String>,
}

/// A node of a Swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum NodeChoice {
    /// The one that we run on: that of the task that we are, or else of the engine behind a unix socket.
    Local,
    /// The one of this hostname or id.
    Named(String),
}

impl From<String> for NodeChoice {
    fn from(text: String) -> Self {
        if text == "local" { Self::Local } else { Self::Named(text) }
    }
}

impl From<NodeChoice> for String {
    fn from(choice: NodeChoice) -> Self {
        match choice {
            NodeChoice::Local => "local".into(),
            NodeChoice::Named(name) => name,
        }
    }
}

/// The Swarm that the engine of this host manages.
impl Default for SwarmConfig {
    fn default() -> Self {
        Self {
            endpoints: vec![EngineAddress::default()],
            tls: None,
            address: None,
            network: None,
            prefer_node: None,
            poll: None,
            conventions: Vec::new(),
            route: None,
            haproxy_group: None,
        }
    }
}

impl SwarmConfig {
    /// What `poll` may be. A manager tells a task to end some 3 s before it is signalled: what is looked at less often loses requests.
    const POLL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(10);

    /// Which labels of others are read, and how.
    #[must_use]
    pub fn conventions(&self) -> Conventions {
        Conventions { kinds: self.conventions.clone(), route: self.route.clone(), haproxy_group: self.haproxy_group.clone() }
    }

    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.poll.is_some_and(|poll| !Self::POLL_RANGE.contains(&poll)) {
            return Err("`poll` is from 100ms to 10s".into());
        }
        if self.network.is_some() && self.address == Some(AddressChoice::Published) {
            return Err("`network` chooses among a task's own addresses: it does not go with `address = \"published\"`".into());
        }
        if matches!(&self.prefer_node, Some(NodeChoice::Named(name)) if name.is_empty()) {
            return Err("`prefer_node` is \"local\", or the hostname or id of a node".into());
        }
        self.conventions().check()?;
        if self.endpoints.is_empty() {
            return Err("`endpoints` needs at least one manager".into());
        }
        self.endpoints.iter().try_for_each(|endpoint| check_tls(endpoint, self.tls.as_ref()))
    }

    /// Reads what follows `swarm://`: nothing, the path of a socket, or `host:port,host2:port`; with `tls` for `swarms://`.
    pub(super) fn parse_url(rest: &str, tls: Option<ClientTls>) -> Result<Self, String> {
        let hosts: Vec<&str> = if rest.starts_with('/') { vec![rest] } else { rest.split(',').collect() };
        if hosts.len() > 1 && hosts.iter().any(|host| host.is_empty()) {
            return Err(format!("`{rest}` has a comma without a manager on both sides"));
        }
        let endpoints = hosts.into_iter().map(|host| EngineAddress::parse_url("swarms", host, tls.is_some()));
        let config = Self { endpoints: endpoints.collect::<Result<_, _>>()?, tls, ..Self::default() };
        config.check().map(|()| config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_manager() {
        let check = |rest: &str, tls: Option<ClientTls>, expected: &str| {
            let endpoints = SwarmConfig::parse_url(rest, tls).unwrap().endpoints;
            assert_eq!(endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), expected, "{rest}");
        };
        check("", None, "unix:///var/run/docker.sock");
        check("/run/docker.sock", None, "unix:///run/docker.sock");
        check("10.0.0.5", None, "tcp://10.0.0.5:2375");
        check("manager", Some(ClientTls::default()), "tcp://manager:2376");
        check("10.0.0.5,[::1]:99", None, "tcp://10.0.0.5:2375 tcp://[::1]:99");
        assert!(SwarmConfig::parse_url("a,,b", None).unwrap_err().contains("a comma"));
        assert!(SwarmConfig::parse_url("", Some(ClientTls::default())).unwrap_err().contains("swarms://10.0.0.5:2376"));
    }

    #[test]
    fn settings_have_to_go_together() {
        let check = |config: SwarmConfig, expected: &str| assert!(config.check().unwrap_err().contains(expected));
        check(SwarmConfig { poll: Some(Duration::from_secs(60)), ..SwarmConfig::default() }, "100ms to 10s");
        check(
            SwarmConfig { address: Some(AddressChoice::Published), network: Some("front".into()), ..SwarmConfig::default() },
            "does not go with",
        );
        check(SwarmConfig { prefer_node: Some(NodeChoice::Named(String::new())), ..SwarmConfig::default() }, "hostname or id");
        check(SwarmConfig { endpoints: Vec::new(), ..SwarmConfig::default() }, "at least one manager");
        check(SwarmConfig { tls: Some(ClientTls::default()), ..SwarmConfig::default() }, "a unix socket has none");
    }
}
