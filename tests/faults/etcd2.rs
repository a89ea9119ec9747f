//! The v2 API of etcd 3.4.

use std::net::SocketAddr;

use nuncio::Name;
use nuncio::config::providers::EtcdConfig;
use nuncio::discovery::{Etcd2Provider, Provider};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::rig::{Change, Contents, Fault, Rig};
use crate::support::etcd::Etcd;
use crate::support::etcd2::Etcd2Writer;
use crate::support::relay::Target;

const PREFIX: &str = "/nuncio/";

/// As many events of the whole store are remembered.
const HISTORY: usize = 1_000;
/// It is cleared by so many writers.
const WRITERS: usize = 4;

/// An etcd of one member.
pub struct Etcd2Rig {
    etcd: Etcd,
    writer: Etcd2Writer,
    has_backup: bool,
}

impl Etcd2Rig {
    async fn pairs(&self) -> Vec<(String, String)> {
        let answer = self.writer.get("/v2/keys/nuncio?recursive=true&quorum=true").await;
        assert_eq!(answer.status(), 200, "{}", answer.body);
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        let mut pairs = Vec::new();
        collect(&answer["node"], &mut pairs);
        pairs
    }
}

fn collect(node: &Value, pairs: &mut Vec<(String, String)>) {
    node["nodes"].as_array().into_iter().flatten().for_each(|child| collect(child, pairs));
    if let (Some(key), Some(value)) = (node["key"].as_str(), node["value"].as_str()) {
        pairs.push((key.to_owned(), value.to_owned()));
    }
}

impl Rig for Etcd2Rig {
    async fn start() -> Self {
        let mut etcd = Etcd::stopped_in_memory().argument("--enable-v2");
        etcd.run().await;
        let writer = Etcd2Writer::new(etcd.address());
        Self { etcd, writer, has_backup: false }
    }

    fn address(&self) -> Target {
        self.etcd.address().into()
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Restart, Fault::Kill, Fault::Freeze, Fault::ForgetHistory, Fault::Restore, Fault::Rebuild]
    }

    fn provider(&self, address: SocketAddr) -> impl Provider + 'static {
        let config = EtcdConfig { endpoints: vec![format!("http://{address}")], ..EtcdConfig::default() };
        Etcd2Provider::new(Name::literal("etcd2"), config)
    }

    async fn write(&mut self, change: &Change) {
        let (key, value) = change.key_and_value();
        let key = format!("{PREFIX}{key}");
        match value {
            Some(value) => self.writer.put(&key, &value).await,
            None => self.writer.remove(&key).await,
        }
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Restart => {
                self.etcd.end();
                self.etcd.keep_data();
                self.has_backup = true;
            }
            Fault::Kill => self.etcd.kill(),
            Fault::Freeze => self.etcd.freeze(),
            Fault::ForgetHistory => {
                let mut writers = JoinSet::new();
                for id in 0..WRITERS {
                    let writer = self.writer.clone();
                    writers.spawn(async move {
                        for _ in 0..=HISTORY / WRITERS {
                            writer.put(&format!("/elsewhere/{id}"), "x").await;
                        }
                    });
                }
                writers.join_all().await;
            }
            Fault::Restore => {
                self.etcd.kill();
                if self.has_backup {
                    self.etcd.restore_data();
                }
            }
            Fault::Rebuild => {
                let pairs = self.pairs().await;
                self.etcd.kill();
                self.etcd.wipe();
                self.etcd.run().await;
                for (key, value) in pairs {
                    self.writer.put(&key, &value).await;
                }
            }
            _ => unreachable!("not among its faults"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Freeze => self.etcd.thaw(),
            Fault::Restart | Fault::Kill | Fault::Restore => self.etcd.run().await,
            _ => {}
        }
    }

    async fn read(&mut self) -> Contents {
        Contents::of_keys(self.pairs().await.into_iter().map(|(key, value)| (key[PREFIX.len()..].to_owned(), value)))
    }
}
