//! What a store is to who registers: it takes entries, and forgets them some time after the last sign of life.

use std::collections::BTreeMap;
use std::time::Duration;

use super::layout::Entry;
use crate::config::ProviderConfig;
use crate::config::providers::{EtcdConfig, LayoutKind};
use crate::discovery::ProviderError;
use crate::discovery::etcd_session::{Failure, Lease};

/// Where entries are written.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// An etcd cluster. Keys end with a lease.
    Etcd(EtcdConfig),
}

impl StoreConfig {
    /// The store that a provider of these settings would read.
    ///
    /// # Errors
    /// A sentence: it is none that can be written to.
    pub fn of(provider: ProviderConfig) -> Result<Self, String> {
        match provider {
            ProviderConfig::Etcd(config) => Ok(Self::Etcd(config)),
            other => Err(format!("{}:// is no store that can be written to: etcd:// is", other.kind())),
        }
    }

    /// What all keys start with.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Self::Etcd(config) => &config.prefix,
        }
    }

    /// Whose keys and values are expected there.
    #[must_use]
    pub fn layout(&self) -> LayoutKind {
        match self {
            Self::Etcd(config) => config.layout,
        }
    }

    /// Servers of which any will do.
    pub(super) fn servers(&self) -> &[String] {
        match self {
            Self::Etcd(config) => &config.endpoints,
        }
    }
}

/// A connection to a server of a store, and what entries end with. After an error it is of no use any more.
pub(super) enum Session {
    Etcd(String, Lease),
}

impl Session {
    /// Connects to `server`. What is written ends `ttl` after the last sign of life.
    pub(super) async fn open(config: &StoreConfig, server: &str, ttl: Duration) -> Result<Self, ProviderError> {
        match config {
            StoreConfig::Etcd(config) => {
                let lease = Lease::grant(server, config, ttl).await.map_err(etcd(server, "grant a lease"))?;
                Ok(Self::Etcd(server.to_owned(), lease))
            }
        }
    }

    /// Writes an entry, whoever wrote its key before.
    pub(super) async fn put(&mut self, key: &str, entry: &Entry) -> Result<(), ProviderError> {
        match self {
            Self::Etcd(server, lease) => lease.put(key, &entry.value).await.map_err(etcd(server, key)),
        }
    }

    /// Deletes an entry, if it is still ours.
    pub(super) async fn delete(&mut self, key: &str) -> Result<(), ProviderError> {
        match self {
            Self::Etcd(server, lease) => lease.delete(key).await.map_err(etcd(server, key)),
        }
    }

    /// Gives a sign of life for all that was written.
    pub(super) async fn keep_alive(&mut self) -> Result<(), ProviderError> {
        match self {
            Self::Etcd(server, lease) => lease.keep_alive().await.map_err(etcd(server, "keep the lease alive")),
        }
    }

    /// Writes again what is not there any more, although nobody here deleted it. How many entries that were.
    pub(super) async fn restore(&mut self, written: &BTreeMap<String, Entry>) -> Result<usize, ProviderError> {
        let mut restored = 0;
        match self {
            Self::Etcd(server, lease) => {
                for (key, entry) in written {
                    restored += usize::from(lease.restore(key, &entry.value).await.map_err(etcd(server, key))?);
                }
            }
        }
        Ok(restored)
    }

    /// What an earlier life's entries end with, for [`end_former`](Self::end_former) of the next one.
    pub(super) fn id(&self) -> i64 {
        match self {
            Self::Etcd(_, lease) => lease.id(),
        }
    }

    /// Ends what is left of an earlier life.
    pub(super) async fn end_former(&mut self, id: i64) -> Result<(), ProviderError> {
        match self {
            Self::Etcd(server, lease) => lease.revoke(id).await.map_err(etcd(server, "end the lease of before")),
        }
    }

    /// Deletes all that was written.
    pub(super) async fn close(mut self) -> Result<(), ProviderError> {
        match &mut self {
            Self::Etcd(server, lease) => lease.revoke(lease.id()).await.map_err(etcd(server, "end the lease")),
        }
    }
}

fn etcd(server: &str, what: &str) -> impl FnOnce(Failure) -> ProviderError {
    let doing = format!("etcd {server}: {what}");
    move |failure| ProviderError { doing, cause: failure.into() }
}
