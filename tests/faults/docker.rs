//! Docker 20.10: an object is a label of a container of its own.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use nuncio::Name;
use nuncio::config::providers::DockerConfig;
use nuncio::discovery::{DockerProvider, Provider};

use crate::rig::{Between, Change, Contents, Fault, Rig};
use crate::support::DEADLINE;
use crate::support::dockerd::{Dockerd, IMAGE};
use crate::support::relay::Target;

/// An engine, and the names of its containers.
pub struct DockerRig {
    engine: Dockerd,
    containers: BTreeSet<String>,
}

/// The key of a store as a label, and the name of what bears it.
pub fn label_and_bearer(key: &str) -> (String, String) {
    (format!("nuncio.{}", key.replace('/', ".")), key.replace('/', "-"))
}

/// What labels say, of one bearer per line, as JSON.
pub fn contents(lines: &str) -> Contents {
    let labels = lines.lines().flat_map(|line| serde_json::from_str::<BTreeMap<String, String>>(line).unwrap());
    Contents::of_keys(labels.filter_map(|(label, value)| Some((label.strip_prefix("nuncio.")?.replace('.', "/"), value))))
}

impl Rig for DockerRig {
    async fn start() -> Self {
        Self { engine: Dockerd::start().await, containers: BTreeSet::new() }
    }

    fn address(&self) -> Target {
        Target::Unix(self.engine.socket())
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Restart, Fault::Kill, Fault::Freeze]
    }

    fn provider(&self, address: SocketAddr) -> impl Provider + 'static {
        let endpoint = format!("tcp://{address}").parse().expect("an address");
        DockerProvider::new(Name::literal("docker"), DockerConfig { endpoint, ..DockerConfig::default() })
    }

    /// The containers end with their engine, and are started again one by one: what the engine says in between is so.
    fn between(fault: Fault) -> Between {
        if fault == Fault::Freeze { Between::AsItIs } else { Between::Nothing }
    }

    async fn write(&mut self, change: &Change) {
        let (key, value) = change.key_and_value();
        let (label, name) = label_and_bearer(&key);
        if let Some(value) = &value {
            // Never without one of the two: a change of labels is another container.
            let (next, label) = (format!("{name}-next"), format!("{label}={value}"));
            let name = if self.containers.contains(&name) { &next } else { &name };
            let options = ["run", "--detach", "--network=host", "--restart=always", "--name", name, "--label", &label];
            self.engine.docker(&[options.as_slice(), &[IMAGE, "/bin/busybox", "sleep", "10000"]].concat());
        }
        if self.containers.remove(&name) {
            self.engine.docker(&["rm", "--force", &name]);
            if value.is_some() {
                self.engine.docker(&["rename", &format!("{name}-next"), &name]);
            }
        }
        if value.is_some() {
            self.containers.insert(name);
        }
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Restart => self.engine.end(),
            Fault::Kill => self.engine.kill(),
            Fault::Freeze => self.engine.freeze(),
            _ => unreachable!("not among its faults"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        if fault == Fault::Freeze {
            return self.engine.thaw();
        }
        self.engine.run().await;
        let are_back = async {
            while self.engine.docker(&["ps", "--quiet"]).lines().count() < self.containers.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, are_back).await.expect("its containers are started again");
    }

    async fn read(&mut self) -> Contents {
        let running = self.engine.docker(&["ps", "--quiet"]);
        let ids: Vec<&str> = running.lines().collect();
        contents(&self.engine.docker(&[["inspect", "--format={{json .Config.Labels}}"].as_slice(), &ids].concat()))
    }
}
