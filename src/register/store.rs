//! What a store is to who registers: it takes entries, and forgets them some time after the last sign of life.

use std::collections::BTreeMap;
use std::time::Duration;

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

/// A connection to a server of a store, and what entries end with. After an error it is of no use any more.
pub(super) enum Session {
    Consul(Agent),
    Etcd(String, Box<Lease>),
    Etcd2(Keys),
    Zookeeper(Znodes),
}

impl Session {
    /// Connects to `server`, now or with the first request. What is written ends `ttl` after the last sign of life.
    pub(super) async fn open(config: &StoreConfig, server: &str, ttl: Duration) -> Result<Self, ProviderError> {
        match config {
            StoreConfig::Consul(config) => Ok(Self::Consul(Agent::new(server, config, ttl))),
            StoreConfig::Etcd(config) => {
                let lease = Lease::grant(server, config, ttl).await.map_err(etcd(server, "grant a lease"))?;
                Ok(Self::Etcd(server.to_owned(), Box::new(lease)))
            }
            StoreConfig::Etcd2(config) => Ok(Self::Etcd2(Keys::new(server, config, ttl))),
            StoreConfig::Zookeeper(config) => Znodes::open(server, config, ttl).await.map(Self::Zookeeper),
        }
    }

    /// Writes an entry, whoever wrote its key before.
    pub(super) async fn put(&mut self, key: &str, entry: &Entry) -> Result<Put, ProviderError> {
        match self {
            Self::Consul(agent) => agent.put(entry).await,
            Self::Etcd(server, lease) => match lease.put(key, &entry.value).await {
                Err(failure) if failure.is_refusal() => Ok(Put::Refused(failure.to_string())),
                outcome => outcome.map(|()| Put::Done).map_err(etcd(server, key)),
            },
            Self::Etcd2(keys) => keys.put(key, &entry.value).await,
            Self::Zookeeper(znodes) => znodes.put(key, &entry.value).await,
        }
    }

    /// Deletes an entry, if it is still ours.
    pub(super) async fn delete(&mut self, key: &str, entry: &Entry) -> Result<(), ProviderError> {
        match self {
            Self::Consul(agent) => agent.delete(entry).await,
            Self::Etcd(server, lease) => lease.delete(key).await.map_err(etcd(server, key)),
            Self::Etcd2(keys) => keys.delete(key, &entry.value).await,
            Self::Zookeeper(znodes) => znodes.delete(key, entry).await,
        }
    }

    /// Gives a sign of life for all that was written. With `is_thorough`, and where it costs nothing, what someone else deleted is written
    /// again. How many entries that were.
    pub(super) async fn keep_alive(&mut self, written: &BTreeMap<String, Entry>, is_thorough: bool) -> Result<usize, ProviderError> {
        match self {
            Self::Etcd(server, lease) => lease.keep_alive().await.map_err(etcd(server, "keep the lease alive"))?,
            Self::Zookeeper(znodes) => znodes.keep_alive().await?,
            Self::Consul(_) | Self::Etcd2(_) => (),
        }
        let mut restored = 0;
        for (key, entry) in written {
            let is_gone = match self {
                Self::Consul(agent) => !agent.renew(entry).await?,
                Self::Etcd(server, lease) => is_thorough && !lease.is_there(key).await.map_err(etcd(server, key))?,
                Self::Etcd2(keys) => keys.renew(key, &entry.value).await? == Held::Gone,
                Self::Zookeeper(znodes) => is_thorough && znodes.holds(key).await?.is_none(),
            };
            if is_gone && let Put::Done = self.put(key, entry).await? {
                restored += 1;
            }
        }
        Ok(restored)
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
                for (key, entry) in written {
                    self.delete(key, entry).await?;
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
