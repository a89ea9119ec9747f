//! A store with its server: what can be written to it, what can be done to it, and what it says it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use nuncio::discovery::Provider;
use nuncio::routing::RoutingTable;

use crate::support::relay::Target;

/// A store, its server, and the test's own access to it.
pub trait Rig: Sized {
    /// Whether it is reached over a network, and the relay.
    const HAS_NETWORK: bool = true;

    /// Whether it holds routes. One that does not has one for each upstream, for the host `UPSTREAM.test`.
    const HAS_ROUTES: bool = true;

    /// Starts a server without any content.
    async fn start() -> Self;

    /// Where it listens: the same over all faults.
    fn address(&self) -> Target;

    /// What can be done to it, beside what the relay can do.
    fn faults(&self) -> &'static [Fault];

    /// The provider that reads it at `address`.
    fn provider(&self, address: SocketAddr) -> impl Provider + 'static;

    /// Whether the store itself could say this, in place of what it holds. Then there is nothing wrong with it that anybody could notice.
    fn could_say(_answer: &[u8]) -> bool {
        false
    }

    /// What lies between the provider and the store meanwhile. A store that is set up anew is empty at first, which nobody shall see.
    fn between(fault: Fault) -> Between {
        if fault == Fault::Rebuild { Between::Nothing } else { Between::AsItIs }
    }

    /// Makes a change. The server runs. To remove what is not there is none.
    async fn write(&mut self, change: &Change);

    /// Begins a fault. The server runs.
    async fn begin(&mut self, fault: Fault);

    /// Ends it: the server runs again, and answers.
    async fn end(&mut self, fault: Fault);

    /// What the store holds, as it says itself.
    async fn read(&mut self) -> Contents;
}

/// A fault of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is ended as the system would, and started again.
    Restart,
    /// `kill -9`, and it is started again.
    Kill,
    /// `kill -STOP`, until it goes on.
    Freeze,
    /// Its history is gone: compacted, its index of events cleared, the session of its reader expired.
    ForgetHistory,
    /// It is restored from a backup, of which it says nothing.
    Restore,
    /// It is set up anew, with the same content but another history, while it cannot be reached.
    Rebuild,
    /// Its wall clock jumps ahead, and stays there.
    ClockAhead,
    /// Its wall clock jumps back, and stays there.
    ClockBack,
    /// Of a file, only a part is there for a while.
    HalfWritten,
    /// The directory is gone for a while.
    Away,
    /// A new directory takes the place of the old one.
    Replaced,
    /// Another leader takes over, which knows no results of health checks for a while.
    Election,
    /// It answers that it cannot say.
    Unable,
    /// Its answers are cut off.
    CutShort,
    /// Its answers are no answers to what was asked.
    Garbled,
}

impl Fault {
    /// Whether the store can be written while it lasts.
    pub fn can_write(self) -> bool {
        match self {
            Fault::ForgetHistory | Fault::ClockAhead | Fault::ClockBack | Fault::Replaced => true,
            Fault::Election | Fault::Unable | Fault::CutShort | Fault::Garbled => true,
            Fault::Restart | Fault::Kill | Fault::Freeze | Fault::Restore | Fault::Rebuild | Fault::HalfWritten | Fault::Away => false,
        }
    }
}

/// The connection between a provider and its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// Whatever was done to it before.
    AsItIs,
    /// It is cut.
    Nothing,
    /// It is stalled.
    Silence,
}

/// A change of what a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A route of all requests for a host.
    Route {
        /// Its name.
        name: String,
        /// The host.
        host: String,
        /// Where they go.
        upstream: String,
    },
    /// It is removed.
    NoRoute {
        /// Its name.
        name: String,
    },
    /// An endpoint.
    Endpoint {
        /// The upstream.
        upstream: String,
        /// Its name in there.
        id: String,
        /// Where it listens.
        address: SocketAddr,
    },
    /// It is removed.
    NoEndpoint {
        /// The upstream.
        upstream: String,
        /// Its name in there.
        id: String,
    },
}

impl Change {
    /// Of a store with keys: below its prefix, and the value. None: it is deleted.
    pub fn key_and_value(&self) -> (String, Option<String>) {
        match self {
            Change::Route { name, host, upstream } => {
                let value = serde_json::json!({ "match": format!("Host(\"{host}\")"), "upstream": upstream });
                (format!("routes/{name}"), Some(value.to_string()))
            }
            Change::NoRoute { name } => (format!("routes/{name}"), None),
            Change::Endpoint { upstream, id, address } => (format!("upstreams/{upstream}/endpoints/{id}"), Some(address.to_string())),
            Change::NoEndpoint { upstream, id } => (format!("upstreams/{upstream}/endpoints/{id}"), None),
        }
    }
}

/// What a store holds, or what is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// By name: the rule and the upstream.
    routes: BTreeMap<String, String>,
    /// The addresses of upstreams that have any.
    endpoints: BTreeMap<String, BTreeSet<String>>,
}

impl Contents {
    /// Of a store with keys, which are those below its prefix.
    pub fn of_keys(keys: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut contents = Self::default();
        keys.into_iter().for_each(|(key, value)| contents.add(&key, &value));
        contents
    }

    /// What a table has in force.
    pub fn of_table(table: &RoutingTable) -> Self {
        let routes = table.configured_routes().map(|route| {
            let upstream = route.value.upstream.as_ref().map(ToString::to_string).unwrap_or_default();
            (route.name.to_string(), format!("{} to {upstream}", route.value.rule))
        });
        let endpoints = table.upstreams.iter().filter(|(_, upstream)| !upstream.endpoints.is_empty());
        let endpoints =
            endpoints.map(|(name, upstream)| (name.to_string(), upstream.endpoints.iter().map(|one| one.address.to_string()).collect()));
        Self { routes: routes.collect(), endpoints: endpoints.collect() }
    }

    fn add(&mut self, key: &str, value: &str) {
        match key.split('/').collect::<Vec<_>>().as_slice() {
            ["routes", name] => {
                let route: serde_json::Value = serde_json::from_str(value).unwrap();
                let rule = format!("{} to {}", route["match"].as_str().unwrap(), route["upstream"].as_str().unwrap());
                self.routes.insert((*name).to_owned(), rule);
            }
            ["upstreams", upstream, "endpoints", _] => {
                self.endpoints.entry((*upstream).to_owned()).or_default().insert(value.to_owned());
            }
            _ => panic!("{key} was written by nobody"),
        }
    }

    /// What differs, a line each.
    pub fn difference(store: &Self, table: &Self) -> String {
        let mut lines = Vec::new();
        for name in store.routes.keys().chain(table.routes.keys()).collect::<BTreeSet<_>>() {
            let (wanted, found) = (store.routes.get(name), table.routes.get(name));
            if wanted != found {
                lines.push(format!("route {name}: store {wanted:?}, table {found:?}"));
            }
        }
        for name in store.endpoints.keys().chain(table.endpoints.keys()).collect::<BTreeSet<_>>() {
            let (wanted, found) = (store.endpoints.get(name), table.endpoints.get(name));
            if wanted != found {
                lines.push(format!("upstream {name}: store {wanted:?}, table {found:?}"));
            }
        }
        lines.join("\n")
    }
}
