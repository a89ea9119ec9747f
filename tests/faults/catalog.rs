//! The catalog of Consul: the agents of [`consul`](super::consul), where an endpoint is an instance. A route is a key, or what tags of an
//! instance say that is not well, so that it is no endpoint.

use std::net::SocketAddr;

use nuncio::Name;
use nuncio::config::providers::{CatalogConfig, ConsulConfig};
use nuncio::discovery::{ConsulProvider, Provider};
use serde_json::{Value, json};

use crate::consul::ConsulRig;
use crate::rig::{Change, Contents, Fault, Rig};
use crate::support::relay::Target;

/// An agent.
pub struct CatalogRig(ConsulRig);

/// The name of a service that bears a route starts so.
const BEARER: &str = "route-";

/// Whether a route is a key. That of the load is.
fn is_key(route: &str) -> bool {
    route.ends_with(['p', '0', '2', '4', '6'])
}

impl CatalogRig {
    async fn register(&self, mut definition: Value, is_well: bool) {
        match &self.0 {
            ConsulRig::Stub(consul, _) => {
                definition["Check"] = json!({ "Status": if is_well { "passing" } else { "critical" } });
                consul.set(|state| {
                    state.index += 1;
                    state.services.register(definition, state.index);
                });
            }
            ConsulRig::Real(agent) => {
                let id = definition["ID"].as_str().unwrap().to_owned();
                agent.register_as(definition).await;
                agent.check(&id, if is_well { "pass" } else { "fail" }).await;
            }
        }
    }

    async fn deregister(&self, id: &str) {
        match &self.0 {
            ConsulRig::Stub(consul, _) => consul.set(|state| {
                state.index += 1;
                state.services.deregister(id, state.index);
            }),
            ConsulRig::Real(agent) => {
                // By ID.
                let registered: Value = serde_json::from_str(&agent.get("/v1/agent/services").await).unwrap();
                if registered.get(id).is_some() {
                    agent.deregister(id).await;
                }
            }
        }
    }

    /// Of all services but Consul itself.
    async fn names(&self) -> Vec<String> {
        let names = match &self.0 {
            ConsulRig::Stub(consul, _) => consul.state().services.names(),
            ConsulRig::Real(agent) => serde_json::from_str(&agent.get("/v1/catalog/services").await).unwrap(),
        };
        names.into_iter().map(|(name, _)| name).filter(|name| name != "consul").collect()
    }

    async fn instances(&self, name: &str) -> Vec<Value> {
        match &self.0 {
            ConsulRig::Stub(consul, _) => consul.state().services.health(name),
            ConsulRig::Real(agent) => serde_json::from_str(&agent.get(&format!("/v1/health/service/{name}")).await).unwrap(),
        }
    }
}

fn of_instance(entry: &Value) -> (String, String) {
    let service = &entry["Service"];
    let [name, id] = ["Service", "ID"].map(|field| service[field].as_str().unwrap());
    match name.strip_prefix(BEARER) {
        Some(route) => {
            let tags = || service["Tags"].as_array().unwrap().iter().filter_map(|tag| tag.as_str());
            let tag = |field: &str| tags().find_map(|tag| tag.strip_prefix(&format!("nuncio.routes.{route}.{field}="))).unwrap();
            (format!("routes/{route}"), json!({ "match": tag("match"), "upstream": tag("upstream") }).to_string())
        }
        None => {
            let address = format!("{}:{}", service["Address"].as_str().unwrap(), service["Port"]);
            (format!("upstreams/{name}/endpoints/{id}"), address)
        }
    }
}

impl Rig for CatalogRig {
    async fn start() -> Self {
        Self(ConsulRig::start().await)
    }

    fn address(&self) -> Target {
        self.0.address()
    }

    fn faults(&self) -> &'static [Fault] {
        self.0.faults()
    }

    fn provider(&self, address: SocketAddr) -> impl Provider + 'static {
        let (endpoints, catalog) = (vec![format!("http://{address}")], Some(CatalogConfig::default()));
        ConsulProvider::new(Name::literal("consul"), ConsulConfig { endpoints, catalog, ..ConsulConfig::default() })
    }

    async fn write(&mut self, change: &Change) {
        match change {
            Change::Route { name, .. } | Change::NoRoute { name } if is_key(name) => self.0.write(change).await,
            Change::Route { name, host, upstream } => {
                let bearer = format!("{BEARER}{name}");
                let start = format!("nuncio.routes.{name}");
                let tags = [format!("{start}.match=Host(\"{host}\")"), format!("{start}.upstream={upstream}")];
                self.register(json!({ "Name": bearer, "ID": bearer, "Address": "127.0.0.1", "Port": 9, "Tags": tags }), false).await;
            }
            Change::NoRoute { name } => self.deregister(&format!("{BEARER}{name}")).await,
            Change::Endpoint { upstream, id, address } => {
                let (host, port) = (address.ip().to_string(), address.port());
                let id = format!("{upstream}-{id}");
                let tags = ["nuncio.enable=true"];
                self.register(json!({ "Name": upstream, "ID": id, "Address": host, "Port": port, "Tags": tags }), true).await;
            }
            Change::NoEndpoint { upstream, id } => self.deregister(&format!("{upstream}-{id}")).await,
        }
    }

    async fn begin(&mut self, fault: Fault) {
        self.0.begin(fault).await;
    }

    async fn end(&mut self, fault: Fault) {
        self.0.end(fault).await;
    }

    async fn read(&mut self) -> Contents {
        let mut instances = Vec::new();
        for name in self.names().await {
            instances.extend(self.instances(&name).await);
        }
        Contents::of_keys(instances.iter().map(of_instance).chain(self.0.pairs().await))
    }
}
