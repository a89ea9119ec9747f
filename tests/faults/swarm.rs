//! Docker Swarm, with one manager: an object is a label of a service of its own, which has no tasks.

use std::net::SocketAddr;

use nuncio::Name;
use nuncio::config::providers::SwarmConfig;
use nuncio::discovery::{Provider, SwarmProvider};

use crate::docker::{contents, label_and_bearer};
use crate::rig::{Change, Contents, Fault, Rig};
use crate::support::DEADLINE;
use crate::support::dockerd::{Dockerd, IMAGE};
use crate::support::relay::Target;

/// An engine that is the only manager of a Swarm.
pub struct SwarmRig(Dockerd);

impl Rig for SwarmRig {
    async fn start() -> Self {
        let engine = Dockerd::start().await;
        engine.init_swarm();
        Self(engine)
    }

    fn address(&self) -> Target {
        Target::Unix(self.0.socket())
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Restart, Fault::Kill, Fault::Freeze]
    }

    fn provider(&self, address: SocketAddr) -> impl Provider + 'static {
        let endpoint = format!("tcp://{address}").parse().expect("an address");
        SwarmProvider::new(Name::literal("swarm"), SwarmConfig { endpoints: vec![endpoint], ..SwarmConfig::default() })
    }

    async fn write(&mut self, change: &Change) {
        let (key, value) = change.key_and_value();
        let (label, name) = label_and_bearer(&key);
        let Some(value) = value else {
            // It may not be there.
            self.0.does(&["service", "rm", &name]);
            return;
        };
        let label = format!("{label}={value}");
        if !self.0.does(&["service", "update", "--detach", "--label-add", &label, &name]) {
            self.0.docker(&["service", "create", "--detach", "--replicas=0", "--name", &name, "--label", &label, IMAGE, "/bin/sh"]);
        }
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Restart => self.0.end(),
            Fault::Kill => self.0.kill(),
            Fault::Freeze => self.0.freeze(),
            _ => unreachable!("not among its faults"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        if fault == Fault::Freeze {
            return self.0.thaw();
        }
        self.0.run().await;
        let leads = async {
            while !self.0.does(&["service", "ls"]) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, leads).await.expect("it leads its Swarm again");
    }

    async fn read(&mut self) -> Contents {
        let services = self.0.docker(&["service", "ls", "--quiet"]);
        let ids: Vec<&str> = services.lines().collect();
        contents(&self.0.docker(&[["service", "inspect", "--format={{json .Spec.Labels}}"].as_slice(), &ids].concat()))
    }
}
