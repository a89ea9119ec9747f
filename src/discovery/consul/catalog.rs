//! What Consul says of services → instances, each with where it listens and whether it is well.
//!
//! Pure. All fields that an agent may leave out may be missing: this reads Consul 0.7.5 (2017) as well as the latest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use crate::config::Endpoint;
use crate::config::providers::clean_name;

/// The names of all services with the tags of their instances, as `GET /v1/catalog/services` lists them.
pub(super) type Listing = BTreeMap<String, Vec<String>>;

/// An instance of a service, as `GET /v1/health/service/NAME` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Instance {
    node: Node,
    pub(super) service: Service,
    #[serde(default, deserialize_with = "or_default")]
    checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    node: String,
    #[serde(default)]
    address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Service {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) tags: Vec<String>,
    /// Empty: that of the node.
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    /// Since 1.0.7.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) meta: BTreeMap<String, String>,
    /// Since 1.2.3.
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(default)]
    modify_index: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Weights {
    passing: i64,
    warning: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// Its output is not looked at: it changes without meaning.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(default, rename = "CheckID")]
    id: String,
    #[serde(default)]
    status: String,
}

/// Consul says `null` where it means an empty list.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// How an instance is: the worst of its checks and those of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Passing,
    Warning,
    /// Or in maintenance, or what we do not know.
    Critical,
}

/// Where an instance is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reached {
    /// At an address, if it has a port.
    Ip(IpAddr, Option<SocketAddr>),
    /// At the addresses of a name, and a port: `db.internal:5432`.
    Name(String),
}

/// What checks of maintenance are called: so, or that and the instance.
const MAINTENANCE: [&str; 2] = ["_service_maintenance", "_node_maintenance"];

impl Instance {
    /// Which registration is younger.
    pub(super) fn modified(&self) -> u64 {
        self.service.modify_index
    }

    fn health(&self) -> Health {
        let of = |check: &Check| match check.status.as_str() {
            _ if MAINTENANCE.iter().any(|id| check.id.starts_with(id)) => Health::Critical,
            "passing" => Health::Passing,
            "warning" => Health::Warning,
            _ => Health::Critical,
        };
        self.checks.iter().map(of).max().unwrap_or(Health::Passing)
    }

    /// Whether it gets requests. One that registrator found on UDP does not: it has a tag and an ID of that form.
    pub(super) fn is_eligible(&self) -> bool {
        let is_udp = self.service.id.ends_with(":udp") && self.service.tags.iter().any(|tag| tag == "udp");
        self.health() != Health::Critical && !is_udp
    }

    fn weight(&self) -> u64 {
        let weights = self.service.weights.clone().unwrap_or_default();
        let weight = if self.health() == Health::Passing { weights.passing } else { weights.warning };
        u64::try_from(weight).unwrap_or_default()
    }

    /// Where it is reached.
    ///
    /// # Errors
    /// A sentence that says why nowhere.
    pub(super) fn reached(&self) -> Result<Reached, String> {
        let Service { address, port, .. } = &self.service;
        let host = if address.is_empty() { &self.node.address } else { address };
        let port = u16::try_from(*port).map_err(|_| format!("it has the port {port}, which is none"))?;
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => Err(format!("it has the address {ip}, which cannot be connected to")),
            Ok(ip) => Ok(Reached::Ip(ip, (port > 0).then(|| SocketAddr::new(ip, port)))),
            Err(_) if host.is_empty() => Err("it has no address, nor has its node".into()),
            Err(_) if port == 0 => Err(format!("it is at `{host}`, without a port")),
            Err(_) => Ok(Reached::Name(format!("{host}:{port}"))),
        }
    }
}

/// The names of `instances` among the endpoints of an upstream: their IDs, and where several nodes have the same, those and the node.
/// Err: a sentence that says why there is none.
pub(super) fn ids(instances: &[Instance]) -> Vec<Result<String, String>> {
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<&str> =
        instances.iter().map(|instance| instance.service.id.as_str()).filter(|service| !seen.insert(*service)).collect();
    let id = |instance: &Instance| {
        let Instance { node, service, .. } = instance;
        let id = if twice.contains(service.id.as_str()) { format!("{}@{}", service.id, node.node) } else { service.id.clone() };
        clean_name(&id).map(|name| name.to_string()).map_err(|error| format!("it has an ID that makes no name: {error}"))
    };
    instances.iter().map(id).collect()
}

/// The weights of `instances`. Those of Consul go up to 65535: ratios are kept.
pub(super) fn weights(instances: &[Instance]) -> Vec<u64> {
    let weights: Vec<u64> = instances.iter().map(Instance::weight).collect();
    let max = u64::from(Endpoint::WEIGHT_MAX);
    match weights.iter().max() {
        Some(largest) if *largest > max => {
            let scaled = |weight: u64| u64::try_from(u128::from(weight) * u128::from(max) / u128::from(*largest)).unwrap_or(max);
            weights.iter().map(|weight| if *weight == 0 { 0 } else { scaled(*weight).max(1) }).collect()
        }
        _ => weights,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form of Consul 1.9.11.
    const LIST: &str = include_str!("../../../tests/fixtures/consul/health-1.9.11.json");
    /// The same in the form of 0.7.5.
    const OLD_LIST: &str = include_str!("../../../tests/fixtures/consul/health-0.7.5.json");

    fn read(list: &str) -> Vec<Instance> {
        serde_json::from_str(list).unwrap()
    }

    fn instance(checks: &[(&str, &str)]) -> Instance {
        let check = |(id, status): &(&str, &str)| Check { id: (*id).into(), status: (*status).into() };
        Instance { checks: checks.iter().map(check).collect(), ..read(OLD_LIST).remove(0) }
    }

    #[test]
    fn the_latest_shapes_are_read() {
        let list = read(LIST);
        let ids: Vec<_> = ids(&list).into_iter().map(Result::unwrap).collect();
        assert_eq!(ids, ["web-1", "web-2", "web-3", "web-4"]);
        assert_eq!(weights(&list), [10, 2, 1, 1]);
        assert_eq!(list.iter().map(Instance::is_eligible).collect::<Vec<_>>(), [true, true, false, false]);
        let at = |text: &str| Ok(Reached::Ip(text.parse::<SocketAddr>().unwrap().ip(), Some(text.parse().unwrap())));
        assert_eq!(list[0].reached(), at("10.0.0.1:8080"));
        assert_eq!(list[1].reached(), at("127.0.0.1:8081"), "the address of the node");
        assert_eq!(list[2].reached(), at("[fd00::3]:8080"));
        assert_eq!(list[3].reached(), Ok(Reached::Name("web.internal:8080".into())));
        assert_eq!(list[0].service.meta["nuncio-weight"], "7");
    }

    #[test]
    fn the_oldest_shapes_are_read() {
        let list = read(OLD_LIST);
        assert_eq!((weights(&list), list[0].is_eligible(), list[0].modified()), (vec![1, 1], true, 9));
        assert_eq!(list[0].reached(), Ok(Reached::Ip([127, 0, 0, 1].into(), Some(([127, 0, 0, 1], 8080).into()))));
        let ids: Vec<_> = ids(&list).into_iter().map(Result::unwrap).collect();
        assert_eq!(ids, ["web@vm", "web@vm2"], "an ID is the instance's on one node only");
    }

    #[test]
    fn the_worst_check_counts() {
        for (checks, expected) in [
            (vec![], Health::Passing),
            (vec![("serfHealth", "passing"), ("service:web", "warning")], Health::Warning),
            (vec![("serfHealth", "critical"), ("service:web", "passing")], Health::Critical),
            (vec![("service:web", "unknown")], Health::Critical),
            (vec![("_service_maintenance:web-1", "critical")], Health::Critical),
            (vec![("_node_maintenance", "critical"), ("service:web", "passing")], Health::Critical),
        ] {
            assert_eq!(instance(&checks).health(), expected, "{checks:?}");
        }
        let mut udp = instance(&[]);
        udp.service.id = "host:dns:53:udp".into();
        assert!(udp.is_eligible());
        udp.service.tags.push("udp".into());
        assert!(!udp.is_eligible());
    }

    #[test]
    fn what_cannot_be_reached_says_why() {
        let check = |address: &str, port: i64, expected: &str| {
            let mut instance = instance(&[]);
            (instance.service.address, instance.service.port) = (address.into(), port);
            let error = instance.reached().unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check("0.0.0.0", 80, "0.0.0.0, which cannot be connected to");
        check("::", 80, "cannot be connected to");
        check("10.0.0.1", 70_000, "70000, which is none");
        check("10.0.0.1", -1, "-1, which is none");
        check("db.internal", 0, "without a port");
    }

    #[test]
    fn large_weights_keep_their_ratios() {
        let weighted = |passing| {
            let mut instance = instance(&[]);
            instance.service.weights = Some(Weights { passing, warning: 1 });
            instance
        };
        assert_eq!(weights(&[weighted(1), weighted(1_000)]), [1, 1_000]);
        assert_eq!(weights(&[weighted(65_535), weighted(32_768), weighted(1), weighted(0), weighted(-1)]), [1_000, 500, 1, 0, 0]);
        assert_eq!(weights(&[weighted(i64::MAX), weighted(1)]), [1_000, 1]);
    }

    proptest::proptest! {
        #[test]
        fn any_instance_has_an_id_and_a_weight(ids_ in proptest::collection::vec(".{0,300}", 0..5), passing in proptest::prelude::any::<i64>()) {
            let list: Vec<Instance> = ids_.iter().map(|id| {
                let mut instance = instance(&[]);
                instance.service.id = id.clone();
                instance.service.weights = Some(Weights { passing, warning: passing });
                instance
            }).collect();
            proptest::prop_assert_eq!(ids(&list).len(), list.len());
            proptest::prop_assert!(weights(&list).iter().all(|weight| *weight <= u64::from(Endpoint::WEIGHT_MAX)));
        }
    }
}
