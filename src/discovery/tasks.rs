//! What a manager says of its Swarm → bearers of labels ([`super::labels`]): a service bears labels, its tasks answer for it.
//!
//! A task gets requests while it runs and is wanted to. Its address is its own, on a network that we share with it, or that of its node
//! with a port that is published there in host mode. Neither the virtual IP of a service nor the routing mesh is ever used: behind them it
//! is not known who answers, so there is no stickiness, no health, and no end without lost requests.
//!
//! Pure. All fields that a manager may leave out may be missing: this reads API 1.24 (2016) as well as the latest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::containers::or_default;
use super::labels::{Bearer, Instance};
use super::registrator_labels::variables;
use crate::config::providers::{AddressChoice, NodeChoice, SwarmConfig};

/// A service as `GET /services` lists it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// 25 letters and digits.
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(default)]
    created_at: String,
    #[serde(default, deserialize_with = "or_default")]
    spec: ServiceSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ServiceSpec {
    name: String,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    task_template: TaskTemplate,
    #[serde(deserialize_with = "or_default")]
    endpoint_spec: Ports,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct TaskTemplate {
    #[serde(deserialize_with = "or_default")]
    container_spec: ContainerSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ContainerSpec {
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ports {
    #[serde(deserialize_with = "or_default")]
    ports: Vec<Port>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Port {
    protocol: String,
    target_port: u16,
    published_port: u16,
    publish_mode: String,
}

/// A task as `GET /tasks` lists it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Task {
    /// 25 letters and digits.
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(default, rename = "ServiceID")]
    service_id: String,
    #[serde(default, rename = "NodeID")]
    node_id: String,
    /// Which of the replicas it is. Absent of global services.
    #[serde(default)]
    slot: u64,
    #[serde(default)]
    desired_state: String,
    #[serde(default, deserialize_with = "or_default")]
    status: TaskStatus,
    #[serde(default, deserialize_with = "or_default")]
    networks_attachments: Vec<Attachment>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct TaskStatus {
    state: String,
    #[serde(deserialize_with = "or_default")]
    container_status: ContainerStatus,
    #[serde(deserialize_with = "or_default")]
    port_status: Ports,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    #[serde(rename = "ContainerID")]
    container_id: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Attachment {
    #[serde(deserialize_with = "or_default")]
    network: Network,
    #[serde(deserialize_with = "or_default")]
    addresses: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Network {
    #[serde(rename = "ID")]
    id: String,
    #[serde(deserialize_with = "or_default")]
    spec: NetworkSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NetworkSpec {
    name: String,
    /// Of the network of the routing mesh.
    ingress: bool,
    #[serde(deserialize_with = "or_default")]
    driver_configuration: Driver,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Driver {
    name: String,
}

/// A node as `GET /nodes` lists it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// 25 letters and digits.
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(default, deserialize_with = "or_default")]
    spec: NodeSpec,
    #[serde(default, deserialize_with = "or_default")]
    description: NodeDescription,
    #[serde(default, deserialize_with = "or_default")]
    status: NodeStatus,
    #[serde(default, deserialize_with = "or_default")]
    manager_status: ManagerStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NodeSpec {
    availability: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NodeDescription {
    hostname: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NodeStatus {
    state: String,
    addr: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ManagerStatus {
    /// With a port.
    addr: String,
}

/// All that a manager says, as far as it concerns us.
#[derive(Debug, Clone, Default)]
pub struct Swarm {
    /// All services.
    pub services: Vec<Service>,
    /// All nodes, by their ids.
    pub nodes: BTreeMap<String, Node>,
    /// The container that we run in ourselves, by its id. None: none that we know of.
    pub own_container: Option<String>,
    /// The node whose engine is asked, by its id, if that is known to be the one that we run on.
    pub own_engine: Option<String>,
    /// At least the tasks that are wanted to run.
    tasks: Vec<Task>,
    /// The task that we are. It is not forgotten when it is told to end and not among the others any more: its networks stay ours.
    own_task: Option<Task>,
}

/// A service with those of its tasks that get requests, by their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Without its instances.
    bearer: Bearer,
    tasks: BTreeMap<String, Instance>,
}

/// Services by their ids, each with who answers for it.
pub type Servings = BTreeMap<String, Serving>;

/// Where we stand ourselves, as seen from the networks of a Swarm.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// In no container: only ports that are published on nodes can be reached.
    OnHost,
    /// In a container of which the manager does not know.
    InContainer,
    /// In a task with these networks, by their ids.
    InTask(BTreeSet<String>),
}

/// What ends a task that nobody told to end.
const ENDED_BY_ITSELF: [&str; 4] = ["complete", "failed", "rejected", "orphaned"];

impl Service {
    /// What it says of itself, service labels before those of its containers.
    fn bearer(&self) -> Bearer {
        let ServiceSpec { name, labels, task_template, .. } = &self.spec;
        let mut all = task_template.container_spec.labels.clone();
        all.extend(labels.iter().map(|(label, value)| (label.clone(), value.clone())));
        Bearer {
            title: format!("service {name}"),
            name: name.clone(),
            created: order(&self.created_at),
            labels: all,
            variables: variables(task_template.container_spec.env.iter().map(String::as_str)),
            instances: Vec::new(),
        }
    }

    fn tcp_ports(&self) -> impl Iterator<Item = &Port> {
        tcp(&self.spec.endpoint_spec)
    }
}

impl Node {
    /// Where its published ports are. Engines of 2017 say `0.0.0.0` of a manager.
    fn address(&self) -> Option<IpAddr> {
        let as_manager = self.manager_status.addr.parse().ok().map(|address: SocketAddr| address.ip());
        let own = self.status.addr.parse().ok();
        [own, as_manager].into_iter().flatten().find(|ip: &IpAddr| !ip.is_unspecified())
    }

    fn is_ready(&self) -> bool {
        self.status.state == "ready"
    }

    /// For people: `vm: ready, drain`.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{}: {}, {}", self.description.hostname, self.status.state, self.spec.availability)
    }
}

impl Task {
    fn is_serving(&self) -> bool {
        self.desired_state == "running" && self.status.state == "running"
    }

    /// Whether someone told it to end: a new version, a smaller scale, a node that is drained, a service that is removed. Not so if it
    /// ended by itself, or if its manager only lost contact with its node.
    #[must_use]
    pub fn is_told_to_end(&self, nodes: &BTreeMap<String, Node>) -> bool {
        matches!(self.desired_state.as_str(), "shutdown" | "remove")
            && !ENDED_BY_ITSELF.contains(&self.status.state.as_str())
            && nodes.get(&self.node_id).is_some_and(Node::is_ready)
    }

    /// Its name among the endpoints of its service.
    fn name(&self, node: Option<&Node>) -> String {
        match (self.slot, node.map(|node| node.description.hostname.as_str())) {
            (0, None | Some("")) => self.id.clone(),
            (0, Some(hostname)) => format!("{hostname}.{}", self.id),
            (slot, _) => format!("{slot}.{}", self.id),
        }
    }

    fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.networks_attachments.iter().filter(|attachment| !attachment.network.spec.ingress)
    }

    fn is_on_host(&self) -> bool {
        self.attachments().any(|attachment| attachment.network.spec.driver_configuration.name == "host")
    }

    /// Where ports are published on `node`. A port that is so on IPv4 and IPv6 is listed twice, IPv4 first, which is not said. A node that
    /// chooses the ports itself may have taken different ones, and that of IPv6 may be the one that another task has on IPv4.
    fn published(&self, node: IpAddr) -> BTreeMap<u16, SocketAddr> {
        let mut published = BTreeMap::new();
        for port in tcp(&self.status.port_status).filter(|port| port.published_port > 0 && port.publish_mode != "ingress") {
            let address = SocketAddr::new(node, port.published_port);
            if node.is_ipv6() || !published.contains_key(&port.target_port) {
                published.insert(port.target_port, address);
            }
        }
        published
    }

    /// Its own address, on the network that is chosen.
    fn inside(&self, network: &str) -> Result<IpAddr, String> {
        let chosen = self.attachments().find(|attachment| attachment.network.spec.name == network || attachment.network.id == network);
        let Some(chosen) = chosen else {
            let names: Vec<&str> = self.attachments().map(|attachment| attachment.network.spec.name.as_str()).collect();
            return Err(format!("its tasks are not in the network `{network}`; their networks: {}", names.join(", ")));
        };
        chosen.ip().ok_or_else(|| format!("it has no address in the network `{network}`"))
    }
}

impl Attachment {
    fn ip(&self) -> Option<IpAddr> {
        self.addresses.iter().find_map(|address| address.split('/').next()?.parse().ok())
    }
}

impl Swarm {
    /// Takes the tasks that are wanted to run as they are now.
    pub fn take_tasks(&mut self, tasks: Vec<Task>) {
        self.tasks = tasks;
        let is_own = |task: &&Task| self.own_container.as_deref() == Some(task.status.container_status.container_id.as_str());
        if let Some(own) = self.tasks.iter().find(is_own) {
            self.own_task = Some(own.clone());
        }
    }

    /// The node that is chosen, by its id.
    ///
    /// # Errors
    /// A sentence that says why it is not known.
    pub fn node(&self, choice: &NodeChoice) -> Result<&str, String> {
        match choice {
            NodeChoice::Local => {
                let own = self.own_task.as_ref().map(|task| task.node_id.as_str()).or(self.own_engine.as_deref());
                own.ok_or_else(|| {
                    "it is not known which node we run on: we are no task of this Swarm, nor is a manager's unix socket asked".into()
                })
            }
            NodeChoice::Named(name) => {
                let is_meant = |node: &&Node| node.id == *name || node.description.hostname == *name;
                let node = self.nodes.values().find(is_meant);
                node.map(|node| node.id.as_str()).ok_or_else(|| format!("there is no node `{name}`, by hostname or id"))
            }
        }
    }

    /// The services with those of their tasks that get requests.
    #[must_use]
    pub fn servings(&self, config: &SwarmConfig) -> Servings {
        let standing = self.standing();
        let preferred = config.prefer_node.as_ref().and_then(|choice| self.node(choice).ok());
        let mut of_service: BTreeMap<&str, Vec<&Task>> = BTreeMap::new();
        for task in self.tasks.iter().filter(|task| task.is_serving()) {
            of_service.entry(&task.service_id).or_default().push(task);
        }
        let serving = |service: &Service| {
            let bearer = service.bearer();
            let place = Placing { service, labels: &bearer.labels, config, standing: &standing, preferred };
            let tasks = of_service.get(service.id.as_str()).into_iter().flatten();
            let tasks = tasks.map(|task| (task.id.clone(), place.instance(task, self.nodes.get(&task.node_id)))).collect();
            (service.id.clone(), Serving { bearer, tasks })
        };
        self.services.iter().map(serving).collect()
    }

    fn standing(&self) -> Standing {
        match (&self.own_container, &self.own_task) {
            (None, _) => Standing::OnHost,
            (Some(_), None) => Standing::InContainer,
            (Some(_), Some(task)) => Standing::InTask(task.attachments().map(|attachment| attachment.network.id.clone()).collect()),
        }
    }
}

/// How the tasks of one service are reached.
struct Placing<'a> {
    service: &'a Service,
    labels: &'a BTreeMap<String, String>,
    config: &'a SwarmConfig,
    standing: &'a Standing,
    /// The node before all others, by its id. None: they are alike.
    preferred: Option<&'a str>,
}

impl Placing<'_> {
    fn instance(&self, task: &Task, node: Option<&Node>) -> Instance {
        let id = task.name(node);
        let is_backup = self.preferred.is_some_and(|preferred| preferred != task.node_id);
        match self.reach(task, node) {
            Ok((ports, any_port)) => Instance { id, ports, any_port, is_backup, trouble: None },
            Err(trouble) => Instance { id, ports: BTreeMap::new(), any_port: None, is_backup, trouble: Some(trouble) },
        }
    }

    /// Where the ports are that it says it listens on, and those that it does not say.
    fn reach(&self, task: &Task, node: Option<&Node>) -> Result<(BTreeMap<u16, SocketAddr>, Option<IpAddr>), String> {
        let of_node = || node.and_then(Node::address).ok_or("the address of its node is not known");
        if task.is_on_host() {
            let ip = of_node()?;
            return Ok((self.exposed(ip), Some(ip)));
        }
        if let Some(ip) = self.internal(task)? {
            return Ok((self.exposed(ip), Some(ip)));
        }
        Ok((task.published(of_node()?), None))
    }

    /// Its own address if that is to be used. None: ports that are published are.
    fn internal(&self, task: &Task) -> Result<Option<IpAddr>, String> {
        let SwarmConfig { address, network, .. } = self.config;
        if let Some(chosen) = self.labels.get("nuncio.network").map(|network| network.trim()).or(network.as_deref()) {
            return task.inside(chosen).map(Some);
        }
        if *address == Some(AddressChoice::Published) {
            return Ok(None);
        }
        if let Standing::InTask(networks) = self.standing
            && let Some(shared) = task.attachments().find(|attachment| networks.contains(&attachment.network.id))
        {
            return shared.ip().map(Some).ok_or_else(|| "it has no address in the network that it shares with us".into());
        }
        let is_published = tcp(&task.status.port_status).next().is_some();
        if address.is_none() && is_published {
            return Ok(None);
        }
        if *address == Some(AddressChoice::Internal) || *self.standing == Standing::InContainer {
            let mut networks = task.attachments();
            return match (networks.next(), networks.next()) {
                (Some(only), None) => only.ip().map(Some).ok_or_else(|| "it has no address in its network".into()),
                (None, _) => Err("it is in no network but that of the routing mesh".into()),
                _ => Err("it is in several networks: say which one with `nuncio.network`".into()),
            };
        }
        let is_meshed = self.service.tcp_ports().any(|port| port.publish_mode == "ingress");
        let mesh = if is_meshed { "; the routing mesh is not used" } else { "" };
        Err(format!(
            "it is in no network that is known to be ours, and publishes no port in host mode{mesh}: say `network`, or publish with mode=host"
        ))
    }

    fn exposed(&self, ip: IpAddr) -> BTreeMap<u16, SocketAddr> {
        self.service.tcp_ports().map(|port| (port.target_port, SocketAddr::new(ip, port.target_port))).collect()
    }
}

/// The bearers of `servings`.
#[must_use]
pub fn bearers(servings: &Servings) -> Vec<Bearer> {
    let bearer = |serving: &Serving| Bearer { instances: serving.tasks.values().cloned().collect(), ..serving.bearer.clone() };
    servings.values().map(bearer).collect()
}

/// The ids of tasks that `before` has and `after` has not, of services that both have.
#[must_use]
pub fn missing_tasks(before: &Servings, after: &Servings) -> BTreeSet<String> {
    let pairs = before.iter().filter_map(|(id, before)| Some((before, after.get(id)?)));
    pairs.flat_map(|(before, after)| before.tasks.keys().filter(|id| !after.tasks.contains_key(*id)).cloned()).collect()
}

/// `after`, with everything that `before` has and that is gone without anybody having said so: services that are not among `removed`, and
/// tasks that are not among `ended`. None: there is no such thing.
#[must_use]
pub fn with_missing(before: &Servings, after: &Servings, removed: &BTreeSet<String>, ended: &BTreeSet<String>) -> Option<Servings> {
    let mut kept = after.clone();
    let mut is_any = false;
    for (id, serving) in before {
        let Some(held) = kept.get_mut(id) else {
            if !removed.contains(id) {
                kept.insert(id.clone(), serving.clone());
                is_any = true;
            }
            continue;
        };
        for (task, instance) in &serving.tasks {
            if !held.tasks.contains_key(task) && !ended.contains(task) {
                held.tasks.insert(task.clone(), instance.clone());
                is_any = true;
            }
        }
    }
    is_any.then_some(kept)
}

fn tcp(ports: &Ports) -> impl Iterator<Item = &Port> {
    ports.ports.iter().filter(|port| matches!(port.protocol.as_str(), "tcp" | "") && port.target_port > 0)
}

/// The order of moments that are written as RFC 3339 in UTC, to the millisecond.
fn order(moment: &str) -> u64 {
    let (seconds, rest) = moment.split_once('.').unwrap_or((moment, ""));
    let digits = |text: &str, count: usize| text.chars().filter(char::is_ascii_digit).take(count).collect::<String>();
    let millis: String = rest.chars().take_while(char::is_ascii_digit).chain("000".chars()).take(3).collect();
    format!("{}{millis}", digits(seconds, 14)).parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a manager of API 1.41 listed them, shortened; with tasks that were told to end, have just been made, crashed, and are on a node
    /// that its manager lost.
    const SWARM: &str = include_str!("../../tests/fixtures/docker/swarm-1.41.json");

    #[derive(Deserialize)]
    struct Recorded {
        services: Vec<Service>,
        tasks: Vec<Task>,
        nodes: Vec<Node>,
    }

    fn swarm() -> Swarm {
        let Recorded { services, tasks, nodes } = serde_json::from_str(SWARM).unwrap();
        let nodes = nodes.into_iter().map(|node| (node.id.clone(), node)).collect();
        Swarm { services, nodes, tasks, ..Swarm::default() }
    }

    /// Of a service: id and addresses of each instance.
    fn of(swarm: &Swarm, service: &str, config: &SwarmConfig) -> Vec<String> {
        let bearers = bearers(&swarm.servings(config));
        let bearer = bearers.iter().find(|bearer| bearer.name == service).unwrap();
        let text = |instance: &Instance| {
            let ports: Vec<_> = instance.ports.iter().map(|(port, address)| format!("{port}={address}")).collect();
            let any = instance.any_port.map(|ip| format!("*={ip}"));
            let slot = instance.id.split('.').next().unwrap();
            let places: Vec<_> = ports.into_iter().chain(any).chain(instance.trouble.clone()).collect();
            format!("{slot} {}", places.join(" "))
        };
        bearer.instances.iter().map(text).collect()
    }

    const FIRST_OF_DNS: &str = "2b1ccf5803b40facfe2ddc4710ba923291497eb9aefeeb2fac034de4141374a2";

    fn be_in(swarm: &mut Swarm, container: &str) {
        swarm.own_container = Some(container.into());
        let tasks = std::mem::take(&mut swarm.tasks);
        swarm.take_tasks(tasks);
    }

    fn network(name: &str) -> SwarmConfig {
        SwarmConfig { network: Some(name.into()), ..SwarmConfig::default() }
    }

    #[test]
    fn tasks_are_reached_where_they_are_published() {
        // Not the one that is told to end, nor its successor, nor the one that crashed.
        assert_eq!(of(&swarm(), "hostm", &SwarmConfig::default()), ["1 80=127.0.0.1:32768", "2 80=127.0.0.1:32769"]);
    }

    #[test]
    fn ports_of_ipv4_and_ipv6_are_told_apart() {
        let mut swarm = swarm();
        let first = swarm.tasks.iter_mut().find(|task| task.slot == 1 && task.service_id.starts_with("3thj")).unwrap();
        // As recorded after a few updates: the second task has 32769 on IPv4.
        let [v4, v6] = first.status.port_status.ports.as_mut_slice() else { panic!("it is listed twice") };
        (v4.published_port, v6.published_port) = (32770, 32769);
        assert_eq!(of(&swarm, "hostm", &SwarmConfig::default()), ["1 80=127.0.0.1:32770", "2 80=127.0.0.1:32769"]);
        swarm.nodes.values_mut().for_each(|node| node.status.addr = "fd00::1".into());
        assert_eq!(of(&swarm, "hostm", &SwarmConfig::default()), ["1 80=[fd00::1]:32769", "2 80=[fd00::1]:32769"]);
    }

    #[test]
    fn tasks_are_reached_inside() {
        let swarm = swarm();
        assert_eq!(of(&swarm, "dns", &network("net1")), ["1 *=10.0.1.2", "2 *=10.0.1.3"]);
        assert_eq!(of(&swarm, "ing", &network("net2")), ["1 80=10.0.2.3:80 *=10.0.2.3"]);
        assert!(of(&swarm, "dns", &network("net2"))[0].contains("not in the network `net2`; their networks: net1"));
        assert!(of(&swarm, "ing", &network("ingress"))[0].contains("not in the network `ingress`"), "never the mesh");
        let internal = SwarmConfig { address: Some(AddressChoice::Internal), ..SwarmConfig::default() };
        assert_eq!(of(&swarm, "dns", &internal)[0], "1 *=10.0.1.2");
        assert!(of(&swarm, "ing", &internal)[0].contains("several networks"));
        assert!(of(&swarm, "hostm", &internal)[0].contains("no network but"));
    }

    #[test]
    fn a_network_that_we_share_is_found() {
        let mut swarm = swarm();
        assert!(of(&swarm, "ing", &SwarmConfig::default())[0].contains("the routing mesh is not used"));
        be_in(&mut swarm, "a standalone container");
        assert_eq!(of(&swarm, "dns", &SwarmConfig::default())[0], "1 *=10.0.1.2");
        // The first task of `dns`.
        be_in(&mut swarm, FIRST_OF_DNS);
        assert_eq!(of(&swarm, "ing", &SwarmConfig::default()), ["1 80=10.0.1.6:80 *=10.0.1.6"]);
        assert_eq!(of(&swarm, "hostm", &SwarmConfig::default())[0], "1 80=127.0.0.1:32768");
    }

    /// Told to end, it still has requests to pass on.
    #[test]
    fn our_networks_stay_ours_to_our_end() {
        let mut swarm = swarm();
        be_in(&mut swarm, FIRST_OF_DNS);
        let others = swarm.tasks.iter().filter(|task| task.status.container_status.container_id != FIRST_OF_DNS).cloned().collect();
        swarm.take_tasks(others);
        assert_eq!(of(&swarm, "ing", &SwarmConfig::default()), ["1 80=10.0.1.6:80 *=10.0.1.6"]);
    }

    #[test]
    fn tasks_of_other_nodes_are_backups() {
        let mut swarm = swarm();
        let moved = swarm.tasks.iter_mut().find(|task| task.service_id.starts_with("3thj") && task.slot == 2).unwrap();
        moved.node_id = "workerdown000000000000000".into();
        let check = |swarm: &Swarm, prefer_node: Option<&str>, expected: [bool; 2]| {
            let config = SwarmConfig { prefer_node: prefer_node.map(|node| node.to_owned().into()), ..SwarmConfig::default() };
            let bearers = bearers(&swarm.servings(&config));
            let bearer = bearers.iter().find(|bearer| bearer.name == "hostm").unwrap();
            let mut backups: Vec<_> = bearer.instances.iter().map(|instance| (&instance.id, instance.is_backup)).collect();
            backups.sort_unstable();
            assert_eq!(backups.into_iter().map(|(_, is_backup)| is_backup).collect::<Vec<_>>(), expected, "{prefer_node:?}");
        };
        check(&swarm, None, [false, false]);
        check(&swarm, Some("vm"), [false, true]);
        check(&swarm, Some("5jmmfr5o13iz3cef0k29l5stw"), [false, true]);
        check(&swarm, Some("down"), [true, false]);
        // Whom nobody knows is not preferred.
        check(&swarm, Some("nobody"), [false, false]);
        assert!(swarm.node(&NodeChoice::Named("nobody".into())).unwrap_err().contains("no node `nobody`"));
        check(&swarm, Some("local"), [false, false]);
        assert!(swarm.node(&NodeChoice::Local).unwrap_err().contains("which node we run on"));
        swarm.own_engine = Some("workerdown000000000000000".into());
        check(&swarm, Some("local"), [true, false]);
        // Where the task runs that we are: the manager that is asked may be elsewhere.
        be_in(&mut swarm, FIRST_OF_DNS);
        check(&swarm, Some("local"), [false, true]);
    }

    #[test]
    fn a_task_without_a_network_of_its_own_is_on_its_node() {
        assert_eq!(of(&swarm(), "hostnet", &SwarmConfig::default()), ["vm *=127.0.0.1"]);
    }

    #[test]
    fn service_labels_come_before_those_of_containers() {
        let mut swarm = swarm();
        let dns = swarm.services.iter_mut().find(|service| service.spec.name == "dns").unwrap();
        dns.spec.task_template.container_spec.labels.insert("nuncio.host".into(), "b.test".into());
        let labels = dns.bearer().labels;
        assert_eq!((labels["nuncio.host"].as_str(), labels["nuncio.port"].as_str()), ("a.test", "80"));
    }

    #[test]
    fn who_was_told_to_end_is_known_from_who_is_lost() {
        let swarm = swarm();
        let told: Vec<&str> =
            swarm.tasks.iter().filter(|task| task.is_told_to_end(&swarm.nodes)).map(|task| task.id.get(..6).unwrap()).collect();
        assert_eq!(told, ["victim"]);
    }

    #[test]
    fn what_is_gone_without_a_word_is_kept_apart() {
        let before = swarm().servings(&SwarmConfig::default());
        let mut less = swarm();
        let is_of = |task: &Task, slot: u64| task.service_id.starts_with("3thj") && task.slot == slot;
        let first = less.tasks.iter().find(|task| is_of(task, 1)).unwrap().id.clone();
        let second = less.tasks.iter().find(|task| is_of(task, 2)).unwrap().id.clone();
        less.tasks.retain(|task| !(is_of(task, 1) || is_of(task, 2)));
        less.services.retain(|service| service.spec.name != "dns");
        let after = less.servings(&SwarmConfig::default());
        assert_eq!(missing_tasks(&before, &after), BTreeSet::from([first.clone(), second.clone()]));

        let dns = swarm().services.iter().find(|service| service.spec.name == "dns").unwrap().id.clone();
        let removed = BTreeSet::from([dns.clone()]);
        let kept = with_missing(&before, &after, &removed, &BTreeSet::from([first.clone()])).unwrap();
        let hostm = kept.values().find(|serving| serving.bearer.name == "hostm").unwrap();
        assert_eq!((hostm.tasks.contains_key(&first), hostm.tasks.contains_key(&second), kept.contains_key(&dns)), (false, true, false));
        assert_eq!(with_missing(&before, &after, &removed, &BTreeSet::from([first, second])), None);
        assert_eq!(with_missing(&before, &before, &BTreeSet::new(), &BTreeSet::new()), None);
        assert!(with_missing(&before, &Servings::new(), &BTreeSet::new(), &BTreeSet::new()).is_some_and(|kept| kept == before));
    }

    #[test]
    fn moments_are_in_order() {
        assert_eq!(order("2026-11-21T15:12:44.667090935Z"), 20_261_121_151_244_667);
        assert_eq!(order("2026-11-21T15:12:44.6Z"), 20_261_121_151_244_600);
        assert_eq!(order("2026-11-21T15:12:44Z"), 20_261_121_151_244_000);
        assert_eq!(order(""), 0);
    }

    #[test]
    fn the_manager_s_own_address_stands_in() {
        let mut node = swarm().nodes.into_values().find(Node::is_ready).unwrap();
        node.status.addr = "0.0.0.0".into();
        node.manager_status.addr = "10.0.0.5:2377".into();
        assert_eq!(node.address(), Some(IpAddr::from([10, 0, 0, 5])));
        node.manager_status.addr.clear();
        assert_eq!(node.address(), None);
    }
}
