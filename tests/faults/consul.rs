//! Keys of a Consul agent: the stub, or the real one that `CONSUL_BIN` names.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nuncio::Name;
use nuncio::config::providers::ConsulConfig;
use nuncio::discovery::{ConsulProvider, Provider};
use serde_json::Value;

use crate::rig::{Change, Contents, Fault, Rig};
use crate::support::consul::{Consul, State};
use crate::support::consul_agent::Agent;
use crate::support::relay::Target;

const PREFIX: &str = "nuncio/";

/// An agent.
pub enum ConsulRig {
    /// The stub, and what it held at its last backup.
    Stub(Consul, Option<State>),
    /// A real one, which keeps all in memory.
    Real(Agent),
}

impl ConsulRig {
    /// Its keys below the prefix, and their values.
    pub async fn pairs(&self) -> Vec<(String, String)> {
        let pairs: Vec<(String, String)> = match self {
            ConsulRig::Stub(consul, _) => consul.state().keys.into_iter().map(|(key, (value, _))| (key, value)).collect(),
            ConsulRig::Real(agent) => decode(&agent.get(&format!("/v1/kv/{PREFIX}?recurse")).await),
        };
        pairs.into_iter().map(|(key, value)| (key[PREFIX.len()..].to_owned(), value)).collect()
    }

    fn stub(&mut self) -> (&mut Consul, &mut Option<State>) {
        match self {
            ConsulRig::Stub(consul, backup) => (consul, backup),
            ConsulRig::Real(_) => unreachable!("not among its faults"),
        }
    }
}

impl Rig for ConsulRig {
    async fn start() -> Self {
        if std::env::var_os("CONSUL_BIN").is_some() {
            return ConsulRig::Real(Agent::start().await);
        }
        ConsulRig::Stub(Consul::start().await, None)
    }

    fn address(&self) -> Target {
        match self {
            ConsulRig::Stub(consul, _) => consul.stub().address.into(),
            ConsulRig::Real(agent) => agent.address.into(),
        }
    }

    fn faults(&self) -> &'static [Fault] {
        match self {
            ConsulRig::Stub(..) => &[Fault::Restart, Fault::Kill, Fault::Freeze, Fault::ForgetHistory, Fault::Restore],
            // One that is started again has nothing.
            ConsulRig::Real(_) => &[Fault::Freeze],
        }
    }

    fn provider(&self, address: SocketAddr) -> impl Provider + 'static {
        let config = ConsulConfig { endpoints: vec![format!("http://{address}")], ..ConsulConfig::default() };
        ConsulProvider::new(Name::literal("consul"), config)
    }

    async fn write(&mut self, change: &Change) {
        let (key, value) = change.key_and_value();
        let key = format!("{PREFIX}{key}");
        match (self, value) {
            (ConsulRig::Stub(consul, _), Some(value)) => consul.put(&[(key, value)]),
            (ConsulRig::Stub(consul, _), None) => consul.delete(&key),
            (ConsulRig::Real(agent), Some(value)) => agent.put_key(&key, &value).await,
            (ConsulRig::Real(agent), None) => agent.delete_key(&key).await,
        }
    }

    async fn begin(&mut self, fault: Fault) {
        if let (ConsulRig::Real(agent), Fault::Freeze) = (&*self, fault) {
            return agent.freeze();
        }
        let (consul, backup) = self.stub();
        match fault {
            Fault::Restart => {
                consul.stop();
                *backup = Some(consul.state());
            }
            Fault::Kill => consul.stop(),
            Fault::Freeze => consul.set(|state| state.is_frozen = true),
            // Its raft log starts anew, with what it holds.
            Fault::ForgetHistory => {
                consul.stop();
                consul.set(|state| {
                    // As `reset_indices` has it, so that the next change has another one.
                    state.index = 2;
                    state.keys.values_mut().for_each(|(_, index)| *index = 2);
                    state.services.reset_indices();
                });
                consul.run().await;
            }
            Fault::Restore => {
                consul.stop();
                if let Some(backup) = backup.clone() {
                    consul.set(|state| *state = backup);
                }
            }
            _ => unreachable!("not among its faults"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        if let (ConsulRig::Real(agent), Fault::Freeze) = (&*self, fault) {
            return agent.thaw();
        }
        let (consul, _) = self.stub();
        match fault {
            Fault::Restart | Fault::Kill | Fault::Restore => consul.run().await,
            Fault::Freeze => consul.set(|state| state.is_frozen = false),
            _ => {}
        }
    }

    async fn read(&mut self) -> Contents {
        Contents::of_keys(self.pairs().await)
    }
}

fn decode(json: &str) -> Vec<(String, String)> {
    let pairs: Vec<Value> = serde_json::from_str(json).unwrap();
    let pair = |pair: &Value| {
        let value = STANDARD.decode(pair["Value"].as_str().unwrap()).unwrap();
        (pair["Key"].as_str().unwrap().to_owned(), String::from_utf8(value).unwrap())
    };
    pairs.iter().map(pair).collect()
}
