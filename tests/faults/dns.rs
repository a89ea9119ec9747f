//! Names: an upstream is a service, whose `SRV` records are its endpoints, each on a host of its own.
//!
//! Questions go by UDP, past the relay, so that all faults are those of the name server. That a name is not there is no fault but an answer.
//! It counts after five seconds alone, so that there is a record of each service all the time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nuncio::Name;
use nuncio::config::NameServer as Asked;
use nuncio::config::providers::{DnsConfig, RouteTemplate, ServiceName};
use nuncio::discovery::{DnsProvider, Provider};
use serde_json::json;

use crate::harness::UPSTREAMS;
use crate::name_server::{NameServer, Trouble};
use crate::rig::{Change, Contents, Fault, Rig};
use crate::support::relay::Target;

/// What all records hold for, in seconds.
const TTL: u32 = 1;

/// Where the record points that each service has from the start. Nobody listens there.
const FIRST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

/// A name server, and the endpoints of its services by the names of their hosts.
pub struct DnsRig {
    server: NameServer,
    services: BTreeMap<String, BTreeMap<String, SocketAddr>>,
    /// How often faults of one kind were had: they come in several forms, in turn.
    turn: usize,
}

impl DnsRig {
    /// Says what is known of a service, hosts first.
    fn say(&self, upstream: &str) {
        let endpoints = &self.services[upstream];
        for (host, address) in endpoints {
            self.server.addresses(host, &[&address.ip().to_string()], TTL);
        }
        let places: Vec<(u16, u16, u16, &str)> = endpoints.iter().map(|(host, address)| (1, 1, address.port(), host.as_str())).collect();
        self.server.services(&service(upstream), &places, TTL);
    }

    fn befall(&mut self, troubles: &[Trouble]) {
        self.turn += 1;
        self.server.trouble(troubles[self.turn % troubles.len()]);
    }
}

fn service(upstream: &str) -> String {
    format!("_http._tcp.{upstream}.test")
}

fn names() -> impl Iterator<Item = String> {
    (0..UPSTREAMS).map(|number| format!("u{number}")).chain(["app".to_owned()])
}

impl Rig for DnsRig {
    const HAS_NETWORK: bool = false;
    const HAS_ROUTES: bool = false;

    async fn start() -> Self {
        let mut rig = Self { server: NameServer::start().await, services: BTreeMap::new(), turn: 0 };
        for name in names().filter(|name| name != "app") {
            rig.services.insert(name.clone(), BTreeMap::from([(format!("first.{name}.test"), FIRST)]));
            rig.say(&name);
        }
        rig
    }

    /// By TCP. Nobody connects.
    fn address(&self) -> Target {
        self.server.address.into()
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Kill, Fault::Freeze, Fault::Unable, Fault::CutShort, Fault::Garbled]
    }

    fn provider(&self, _: SocketAddr) -> impl Provider + 'static {
        let name = |name: String| (Name::new(name.clone()).unwrap(), ServiceName::parse(&format!("{}.", service(&name))).unwrap());
        let servers = vec![Asked::parse(&self.server.address.to_string()).unwrap()];
        let route = Some(RouteTemplate::parse(r#"Host("{name}.test")"#).unwrap());
        DnsProvider::new(Name::literal("dns"), DnsConfig { upstreams: names().map(name).collect(), servers, route })
    }

    async fn write(&mut self, change: &Change) {
        let host = |upstream: &str, id: &str| format!("{id}.{upstream}.test");
        match change {
            Change::Endpoint { upstream, id, address } => {
                self.services.entry(upstream.clone()).or_default().insert(host(upstream, id), *address);
                self.say(upstream);
            }
            Change::NoEndpoint { upstream, id } => {
                self.services.entry(upstream.clone()).or_default().remove(&host(upstream, id));
                self.say(upstream);
            }
            Change::Route { .. } | Change::NoRoute { .. } => unreachable!("it has no routes of its own"),
        }
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => self.server.stop(),
            Fault::Freeze => self.server.trouble(Trouble::Silence),
            Fault::Unable => self.befall(&[Trouble::ServFail, Trouble::Refused]),
            Fault::CutShort => self.server.trouble(Trouble::CutShort),
            Fault::Garbled => self.befall(&[Trouble::WrongNumber, Trouble::WrongName, Trouble::Garbage]),
            _ => unreachable!("not among its faults"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => self.server.run().await,
            _ => self.server.trouble(Trouble::None),
        }
    }

    async fn read(&mut self) -> Contents {
        let routes = names().map(|name| {
            let route = json!({ "match": format!("Host(\"{name}.test\")"), "upstream": name });
            (format!("routes/{name}"), route.to_string())
        });
        let endpoints = self.services.iter().flat_map(|(name, endpoints)| {
            endpoints.iter().map(move |(host, address)| (format!("upstreams/{name}/endpoints/{host}"), address.to_string()))
        });
        Contents::of_keys(routes.chain(endpoints))
    }
}
