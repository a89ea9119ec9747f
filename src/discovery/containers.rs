//! What an engine says of its containers → bearers of labels ([`super::labels`]).
//!
//! Pure. All fields that an engine may leave out may be missing: this reads API 1.24 (2016) as well as the latest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::labels::{Bearer, Instance};
use super::registrator_labels::variables;
use crate::config::providers::{AddressChoice, DockerConfig};

/// A container as `GET /containers/json` lists it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    #[serde(default, deserialize_with = "or_default")]
    names: Vec<String>,
    /// As it was named when the container was made: `registry.example.com/team/web:1`.
    #[serde(default)]
    pub image: String,
    #[serde(default)]
    created: i64,
    #[serde(default, deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    state: String,
    /// For people: `Up 3 seconds (healthy)`. The only place where a list says how healthy a container is.
    #[serde(default)]
    status: String,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<Port>,
    #[serde(default, deserialize_with = "or_default")]
    host_config: HostConfig,
    #[serde(default, deserialize_with = "or_default")]
    network_settings: NetworkSettings,
    /// The variables of its environment that are read like labels. Not in the list: who needs them asks for each container.
    #[serde(skip)]
    pub variables: BTreeMap<String, String>,
}

/// A container as `GET /containers/ID/json` tells of it, as far as the list does not.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Inspected {
    #[serde(deserialize_with = "or_default")]
    config: InspectedConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct InspectedConfig {
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
}

impl Inspected {
    /// The variables of its environment that are read like labels.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        variables(self.config.env.iter().map(String::as_str))
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(default, rename = "IP")]
    ip: String,
    private_port: u16,
    #[serde(default)]
    public_port: u16,
    #[serde(default)]
    r#type: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostConfig {
    network_mode: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default, deserialize_with = "or_default")]
    networks: BTreeMap<String, Network>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Network {
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "GlobalIPv6Address")]
    ipv6_address: String,
}

/// An engine says `null` where it means an empty list.
pub(super) fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The bearers among `containers`. Those in `stopping` have been told to end.
#[must_use]
pub fn bearers(containers: &[Container], stopping: &BTreeSet<String>, config: &DockerConfig) -> Vec<Bearer> {
    let bearer = |container: &Container| {
        let is_eligible = container.is_eligible() && !stopping.contains(&container.id);
        Bearer {
            title: format!("container {}", container.name()),
            name: container.group(),
            created: container.created.unsigned_abs(),
            labels: container.labels.clone(),
            variables: container.variables.clone(),
            instances: is_eligible.then(|| container.instance(config)).into_iter().collect(),
        }
    };
    containers.iter().map(bearer).collect()
}

impl Container {
    /// Its name, or the start of its id. Classic Swarm puts the node in front, and links show up as further names.
    #[must_use]
    pub fn name(&self) -> &str {
        let own = self.names.iter().filter_map(|name| name.rsplit('/').next()).find(|name| !name.is_empty());
        own.unwrap_or_else(|| self.id.get(..12).unwrap_or(&self.id))
    }

    /// What it has in common with others that do the same: its service, or else its own name.
    fn group(&self) -> String {
        let label = |label: &str| self.labels.get(label).filter(|value| !value.is_empty());
        let compose = (label("com.docker.compose.project"), label("com.docker.compose.service"));
        match (compose, label("com.docker.swarm.service.name")) {
            ((Some(project), Some(service)), _) => format!("{project}-{service}"),
            (_, Some(service)) => service.clone(),
            _ => self.name().to_owned(),
        }
    }

    fn is_eligible(&self) -> bool {
        self.state == "running" && !["(unhealthy)", "(health: starting)"].iter().any(|health| self.status.contains(health))
    }

    fn instance(&self, config: &DockerConfig) -> Instance {
        let id = self.name().to_owned();
        if self.host_config.network_mode == "host" {
            return Instance { id, ports: BTreeMap::new(), any_port: Some(config.host_address()), is_backup: false, trouble: None };
        }
        match config.address {
            AddressChoice::Published => {
                Instance { id, ports: self.published(config.host_address()), any_port: None, is_backup: false, trouble: None }
            }
            AddressChoice::Internal => match self.internal(config.network.as_deref()) {
                Ok(ip) => Instance { id, ports: self.exposed(ip), any_port: Some(ip), is_backup: false, trouble: None },
                Err(trouble) => Instance { id, ports: BTreeMap::new(), any_port: None, is_backup: false, trouble: Some(trouble) },
            },
        }
    }

    /// Where ports are published. A port that is so on IPv4 and IPv6 is listed twice; the engine may have chosen different ones.
    fn published(&self, host: IpAddr) -> BTreeMap<u16, SocketAddr> {
        let mut published = BTreeMap::new();
        for port in self.tcp_ports().filter(|port| port.public_port > 0) {
            let ip = port.ip.parse().ok();
            let address = SocketAddr::new(ip.filter(|ip: &IpAddr| !ip.is_unspecified()).unwrap_or(host), port.public_port);
            // Of the other kind than the host's address: somebody else may have that port on this one.
            let is_foreign = ip.is_some_and(|ip: IpAddr| ip.is_unspecified() && ip.is_ipv4() != host.is_ipv4());
            let found = (is_foreign, address);
            let held = published.entry(port.private_port).or_insert(found);
            // The smallest, so that the order in the list does not matter; IPv4 is smaller than IPv6.
            *held = found.min(*held);
        }
        published.into_iter().map(|(port, (_, address))| (port, address)).collect()
    }

    fn exposed(&self, ip: IpAddr) -> BTreeMap<u16, SocketAddr> {
        self.tcp_ports().map(|port| (port.private_port, SocketAddr::new(ip, port.private_port))).collect()
    }

    fn tcp_ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().filter(|port| matches!(port.r#type.as_str(), "tcp" | ""))
    }

    /// Its address on the network that was chosen, by itself or by `network`, or on its only one.
    fn internal(&self, network: Option<&str>) -> Result<IpAddr, String> {
        let networks = &self.network_settings.networks;
        let names = || networks.keys().cloned().collect::<Vec<_>>().join(", ");
        let chosen = self.labels.get("nuncio.network").map(|network| network.trim()).or(network);
        let found = match chosen {
            Some(chosen) => {
                networks.get(chosen).ok_or_else(|| format!("it is not in the network `{chosen}`; its networks: {}", names()))?
            }
            None => match networks.values().collect::<Vec<_>>().as_slice() {
                [network] => network,
                [] => return Err("it is in no network".into()),
                _ => return Err(format!("it is in several networks: say which one with `nuncio.network`: {}", names())),
            },
        };
        let ip = [&found.ip_address, &found.ipv6_address].into_iter().find_map(|ip| ip.parse().ok());
        ip.ok_or_else(|| "it has no address in its network".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As an engine of API 1.41 listed them, shortened.
    const LIST: &str = include_str!("../../tests/fixtures/docker/containers-1.41.json");
    /// The same in the form of API 1.24.
    const OLD_LIST: &str = include_str!("../../tests/fixtures/docker/containers-1.24.json");

    fn read(list: &str, config: &DockerConfig) -> Vec<Bearer> {
        bearers(&serde_json::from_str::<Vec<Container>>(list).unwrap(), &BTreeSet::new(), config)
    }

    fn addresses(bearer: &Bearer) -> Vec<String> {
        let of = |instance: &Instance| instance.ports.iter().map(|(port, address)| format!("{port}={address}")).collect::<Vec<_>>();
        bearer.instances.iter().flat_map(of).collect()
    }

    #[test]
    fn containers_are_reached_inside() {
        let bearers = read(LIST, &DockerConfig { network: Some("front".into()), ..DockerConfig::default() });
        let found: Vec<_> = bearers.iter().map(|bearer| (bearer.title.as_str(), bearer.name.as_str(), addresses(bearer))).collect();
        let none: Vec<String> = Vec::new();
        assert_eq!(
            found,
            [
                ("container shop-web-1", "shop-web", vec!["80=172.20.0.3:80".into(), "443=172.20.0.3:443".into()]),
                ("container sick", "sick", none.clone()),
                ("container paused", "paused", none.clone()),
                ("container onhost", "onhost", none.clone()),
            ]
        );
        assert_eq!(bearers[3].instances[0].any_port, Some(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn one_of_several_networks_has_to_be_chosen() {
        let trouble = read(LIST, &DockerConfig::default())[0].instances[0].trouble.clone().unwrap();
        assert!(trouble.contains("several networks") && trouble.contains("back, front"), "{trouble}");
        let unknown = DockerConfig { network: Some("none".into()), ..DockerConfig::default() };
        let trouble = read(LIST, &unknown)[0].instances[0].trouble.clone().unwrap();
        assert!(trouble.contains("not in the network `none`"), "{trouble}");
    }

    #[test]
    fn containers_are_reached_where_they_are_published() {
        let host_address = Some(IpAddr::from([10, 0, 0, 9]));
        let config = DockerConfig { address: AddressChoice::Published, host_address, ..DockerConfig::default() };
        assert_eq!(addresses(&read(LIST, &config)[0]), ["80=10.0.0.9:8080", "443=127.0.0.1:8443"]);
        assert_eq!(addresses(&read(OLD_LIST, &config)[0]), ["80=10.0.0.9:32768"]);
    }

    #[test]
    fn ports_of_ipv4_and_ipv6_are_told_apart() {
        let ports = r#"[{"IP":"::","PrivatePort":80,"PublicPort":32768,"Type":"tcp"},{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":32769,"Type":"tcp"}]"#;
        let container: Container = serde_json::from_str(&format!(r#"{{"Id":"a","Ports":{ports}}}"#)).unwrap();
        let check = |host: &str, expected: &str| {
            assert_eq!(container.published(host.parse().unwrap())[&80].to_string(), expected);
        };
        check("10.0.0.9", "10.0.0.9:32769");
        check("fd00::1", "[fd00::1]:32768");
    }

    #[test]
    fn an_old_engine_is_understood() {
        let bearers = read(OLD_LIST, &DockerConfig::default());
        assert_eq!((bearers[0].title.as_str(), addresses(&bearers[0])), ("container web", vec!["80=172.17.0.2:80".to_owned()]));
    }

    #[test]
    fn who_was_told_to_end_gets_nothing_more() {
        let list: Vec<Container> = serde_json::from_str(OLD_LIST).unwrap();
        let stopping = BTreeSet::from([list[0].id.clone()]);
        assert!(bearers(&list, &stopping, &DockerConfig::default())[0].instances.is_empty());
    }
}
