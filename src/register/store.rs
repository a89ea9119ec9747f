//! What a store is to who registers: it takes entries, and forgets them some time after the last sign of life.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;

use super::consul::Agent;
use super::etcd2::{Held, Keys};
use super::layout::Entry;
use super::zookeeper::Znodes;
use crate::config::ProviderConfig;
use crate::config::providers::{ConsulConfig, EtcdConfig, LayoutKind, ZookeeperConfig};
use crate::discovery::ProviderError;
use crate::discovery::etcd_session::{Failure, Lease};

/// Where entries are written.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// The catalog of a Consul agent. Services have checks that have to be passed.
    Consul(ConsulConfig),
    /// An etcd cluster. Keys end with a lease.
    Etcd(EtcdConfig),
    /// The v2 API of an etcd. Keys have a time to live.
    Etcd2(EtcdConfig),
    /// A ZooKeeper ensemble. Znodes end with a session.
    Zookeeper(ZookeeperConfig),
}

impl StoreConfig {
    /// The store that a provider of these settings would read.
    ///
    /// # Errors
    /// A sentence: it is none that can be written to, or not in this layout.
    pub fn of(provider: ProviderConfig) -> Result<Self, String> {
        let (store, layout) = match provider {
            // Services have no keys, and thus no layout.
            ProviderConfig::Consul(config) => (Self::Consul(config), LayoutKind::Services),
            ProviderConfig::Etcd(config) => (Self::Etcd(config.clone()), config.layout),
            ProviderConfig::Etcd2(config) => (Self::Etcd2(config.clone()), config.layout),
            ProviderConfig::Zookeeper(config) => (Self::Zookeeper(config.clone()), config.layout),
            other => {
                return Err(format!(
                    "nothing is registered with {}://: consul://, etcd://, etcd2:// and zookeeper:// are stores",
                    other.kind()
                ));
            }
        };
        match layout {
            LayoutKind::Services => Ok(store),
            other => Err(format!("entries are written in the layout `services`, not `{}`", other.as_str())),
        }
    }

    /// What all keys start with.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Self::Consul(_) => "",
            Self::Etcd(config) | Self::Etcd2(config) => &config.prefix,
            Self::Zookeeper(config) => &config.prefix,
        }
    }

    /// Servers of which any will do.
    pub(super) fn servers(&self) -> &[String] {
        match self {
            Self::Consul(config) => &config.endpoints,
            Self::Etcd(config) | Self::Etcd2(config) => &config.endpoints,
            Self::Zookeeper(config) => &config.endpoints,
        }
    }
}

/// What a store says to an entry.
pub(super) enum Put {
    /// It is written.
    Done,
    /// This one is not taken, for this reason. Others may be.
    Refused(String),
}

/// The most entries of a batch, which are asked for at once.
pub(super) const AT_ONCE: usize = 32;

/// A connection to a server of a store, and what entries end with. After an error it is of no use any more.
pub(super) enum Session {
    /// A connection for each entry of a batch, made when it is needed.
    Consul(Vec<Agent>),
    Etcd(String, Box<Lease>),
    /// As with Consul.
    Etcd2(Vec<Keys>),
    Zookeeper(Znodes),
}

/// Entries by their keys: at most [`AT_ONCE`].
type Batch = [(String, Entry)];

impl Session {
    /// Connects to `server`, now or with the first request. What is written ends `ttl` after the last sign of life.
    pub(super) async fn open(config: &StoreConfig, server: &str, ttl: Duration) -> Result<Self, ProviderError> {
        match config {
            StoreConfig::Consul(config) => Ok(Self::Consul((0..AT_ONCE).map(|_| Agent::new(server, config, ttl)).collect())),
            StoreConfig::Etcd(config) => {
                let lease = Lease::grant(server, config, ttl).await.map_err(etcd(server, "grant a lease"))?;
                Ok(Self::Etcd(server.to_owned(), Box::new(lease)))
            }
            StoreConfig::Etcd2(config) => Ok(Self::Etcd2((0..AT_ONCE).map(|_| Keys::new(server, config, ttl)).collect())),
            StoreConfig::Zookeeper(config) => Znodes::open(server, config, ttl).await.map(Self::Zookeeper),
        }
    }

    /// Writes entries, whoever wrote their keys before. What the store says to each, in their order.
    pub(super) async fn put(&mut self, batch: &Batch) -> Result<Vec<Put>, ProviderError> {
        match self {
            Self::Consul(agents) => try_join_all(agents.iter_mut().zip(batch).map(|(agent, (_, entry))| agent.put(entry))).await,
            Self::Etcd(server, lease) => {
                let server = server.as_str();
                let put = batch.iter().map(|(key, entry)| {
                    let written = lease.put(key, &entry.value);
                    async move {
                        match written.await {
                            Err(failure) if failure.is_refusal() => Ok(Put::Refused(failure.to_string())),
                            outcome => outcome.map(|()| Put::Done).map_err(etcd(server, key)),
                        }
                    }
                });
                try_join_all(put).await
            }
            Self::Etcd2(all) => try_join_all(all.iter_mut().zip(batch).map(|(keys, (key, entry))| keys.put(key, &entry.value))).await,
            Self::Zookeeper(znodes) => znodes.put(batch).await,
        }
    }

    /// Deletes entries, if they are still ours.
    pub(super) async fn delete(&mut self, batch: &Batch) -> Result<(), ProviderError> {
        match self {
            Self::Consul(agents) => {
                try_join_all(agents.iter_mut().zip(batch).map(|(agent, (_, entry))| agent.delete(entry))).await.map(drop)
            }
            Self::Etcd(server, lease) => {
                let server = server.as_str();
                let delete = batch.iter().map(|(key, _)| {
                    let deleted = lease.delete(key);
                    async move { deleted.await.map_err(etcd(server, key)) }
                });
                try_join_all(delete).await.map(drop)
            }
            Self::Etcd2(all) => {
                try_join_all(all.iter_mut().zip(batch).map(|(keys, (key, entry))| keys.delete(key, &entry.value))).await.map(drop)
            }
            Self::Zookeeper(znodes) => znodes.delete(batch).await,
        }
    }

    /// Gives a sign of life for all that was written, unless each entry needs [one of its own](Self::does_renew_each).
    pub(super) async fn keep_alive(&mut self) -> Result<(), ProviderError> {
        match self {
            Self::Etcd(server, lease) => lease.keep_alive().await.map_err(etcd(server, "keep the lease alive")),
            Self::Zookeeper(znodes) => znodes.keep_alive().await,
            Self::Consul(_) | Self::Etcd2(_) => Ok(()),
        }
    }

    /// Whether each entry ends by itself unless [`gone`](Self::gone) has asked for it.
    pub(super) fn does_renew_each(&self) -> bool {
        matches!(self, Self::Consul(_) | Self::Etcd2(_))
    }

    /// The keys of `written` that are not there any more, whoever wrote them. Told to `stop`, it does not look at all.
    pub(super) async fn gone(&mut self, written: &BTreeMap<String, Entry>, stop: &CancellationToken) -> Result<Vec<String>, ProviderError> {
        let mut suspects: Vec<(String, Entry)> = written.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect();
        if let Self::Etcd(server, lease) = self {
            // What ends with our lease is there. The rest may be another one's by now.
            let ours = lease.keys().await.map_err(etcd(server, "read the keys of the lease"))?;
            suspects.retain(|(key, _)| !ours.contains(key.as_bytes()));
        }
        let mut gone = Vec::new();
        for batch in suspects.chunks(AT_ONCE) {
            if stop.is_cancelled() {
                break;
            }
            let are_there = self.are_there(batch).await?;
            gone.extend(batch.iter().zip(are_there).filter(|(_, is_there)| !is_there).map(|((key, _), _)| key.clone()));
        }
        Ok(gone)
    }

    async fn are_there(&mut self, batch: &Batch) -> Result<Vec<bool>, ProviderError> {
        match self {
            Self::Consul(agents) => try_join_all(agents.iter_mut().zip(batch).map(|(agent, (_, entry))| agent.renew(entry))).await,
            Self::Etcd(server, lease) => {
                let server = server.as_str();
                let ask = batch.iter().map(|(key, _)| {
                    let is_there = lease.is_there(key);
                    async move { is_there.await.map_err(etcd(server, key)) }
                });
                try_join_all(ask).await
            }
            Self::Etcd2(all) => {
                let held = try_join_all(all.iter_mut().zip(batch).map(|(keys, (key, entry))| keys.renew(key, &entry.value))).await?;
                Ok(held.into_iter().map(|held| held != Held::Gone).collect())
            }
            Self::Zookeeper(znodes) => Ok(znodes.values(batch).await?.iter().map(Option::is_some).collect()),
        }
    }

    /// What an earlier life's entries end with, for [`end_former`](Self::end_former) of the next one. None: each ends by itself.
    pub(super) fn id(&self) -> Option<i64> {
        match self {
            Self::Etcd(_, lease) => Some(lease.id()),
            Self::Consul(_) | Self::Etcd2(_) | Self::Zookeeper(_) => None,
        }
    }

    /// Ends what is left of an earlier life.
    pub(super) async fn end_former(&mut self, id: i64) -> Result<(), ProviderError> {
        match self {
            Self::Etcd(server, lease) => lease.revoke(id).await.map_err(etcd(server, "end the lease of before")),
            Self::Consul(_) | Self::Etcd2(_) | Self::Zookeeper(_) => Ok(()),
        }
    }

    /// Deletes all that was written and is still ours.
    pub(super) async fn close(mut self, written: &BTreeMap<String, Entry>) -> Result<(), ProviderError> {
        match self {
            Self::Etcd(server, mut lease) => lease.revoke(lease.id()).await.map_err(etcd(&server, "end the lease")),
            Self::Zookeeper(znodes) => {
                znodes.close().await;
                Ok(())
            }
            Self::Consul(_) | Self::Etcd2(_) => {
                let all: Vec<(String, Entry)> = written.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect();
                for batch in all.chunks(AT_ONCE) {
                    self.delete(batch).await?;
                }
                Ok(())
            }
        }
    }
}

fn etcd(server: &str, what: &str) -> impl FnOnce(Failure) -> ProviderError {
    let doing = format!("etcd {server}: {what}");
    move |failure| ProviderError { doing, cause: failure.into() }
}
