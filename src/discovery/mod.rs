//! Where configuration comes from: one provider per file, all under one supervisor.
//!
//! A [`Provider`] turns a source into complete [`Snapshot`]s and knows nothing of tables. It has no retry loop either: when its source
//! fails it returns the error, and the supervisor calls it again after a while. What it published last stays in force meanwhile.
//!
//! | file | concept |
//! |---|---|
//! | [`supervise`] | runs providers, retries them |
//! | [`feed`] | what each published last, and how it is doing |
//! | [`protect`] | what is in force of what a provider says: [`guard`] holds back an update that would take away much at once, [`hold_down`] endpoints that come and go, [`grace`] keeps routes that are gone with their endpoints |
//! | [`keep`] | the same on disk, for a start without the source; [`stored`]: as bytes |
//! | [`kv`] | a key/value tree → [`Snapshot`]: the layouts that all stores share, ours and those of others |
//! | [`keyring`] | the files with the keys that open sealed values |
//! | [`consul`] | keys of a Consul agent's store, and services of its catalog |
//! | [`dns`] | names of services and hosts: `dns_endpoints` reads what is known of them |
//! | [`docker`] | containers of a Docker engine: `engine` speaks to it, `follower` knows its containers, `containers` and `labels` read what they say |
//! | [`swarm`] | services of a Docker Swarm: [`tasks`] reads what a manager says of them |
//! | [`marathon`] | apps of a Marathon, and their tasks |
//! | [`mesh`] | our certificate among instances that know each other; [`encrypted`]: an upstream of another provider, by mutual TLS |
//! | [`registrator_labels`], [`haproxy_labels`], [`hive_labels`] | labels that others made up; `conventions` reads them beside ours |
//! | [`etcd`] | keys of an etcd v3 cluster; `etcd_session` speaks to a member, `etcd_leases`: which keys go together |
//! | [`etcd2`] | keys of an etcd v2 API; `etcd2_mirror`: what its events mean |
//! | `http_client` | HTTP towards stores and APIs, for the providers that need it |
//! | [`http_pull`] | a document that an HTTP server has |
//! | [`resolve`] | names of hosts and services, followed as they change; `lookup`: one question to a name server |
//! | [`program`] | the program that embeds us |
//! | [`zookeeper`] | znodes of a ZooKeeper ensemble: `zookeeper_session` and `zookeeper_wire` speak to a server, `zookeeper_mirror` knows what its events mean |
//! | [`mod@file`] | a configuration file, or a directory of them; `trace`: what its path leads to |

use std::future::Future;
use std::pin::Pin;

use crate::config::Snapshot;
use crate::names::Name;

pub mod consul;
pub mod containers;
mod conventions;
pub mod dns;
mod dns_endpoints;
pub mod docker;
pub mod encrypted;
mod engine;
pub mod etcd;
pub mod etcd2;
mod etcd2_mirror;
mod etcd_cell;
mod etcd_leases;
pub(crate) mod etcd_session;
pub mod feed;
pub mod file;
pub(crate) mod follower;
pub mod grace;
pub mod guard;
pub mod haproxy_labels;
pub mod hive_labels;
pub mod hold_down;
pub(crate) mod http_client;
pub mod http_pull;
pub mod keep;
pub mod keyring;
pub mod kv;
pub mod labels;
mod lookup;
pub mod marathon;
pub mod mesh;
pub mod program;
pub mod protect;
pub mod registrator_labels;
pub mod resolve;
pub mod stored;
pub mod supervise;
pub mod swarm;
pub mod tasks;
#[cfg(test)]
mod testing;
mod trace;
pub mod zookeeper;
mod zookeeper_mirror;
pub(crate) mod zookeeper_session;
pub(crate) mod zookeeper_wire;

pub use consul::ConsulProvider;
pub use dns::DnsProvider;
pub use docker::DockerProvider;
pub use encrypted::Encrypted;
pub use etcd::EtcdProvider;
pub use etcd2::Etcd2Provider;
pub use feed::{Feed, FeedState, FeedStatus};
pub use http_pull::HttpProvider;
pub use lookup::NameServers;
pub use marathon::MarathonProvider;
pub use mesh::MeshProvider;
pub use program::{ProgramHandle, ProgramProvider};
pub use resolve::Resolver;
pub use supervise::Supervisor;
pub use swarm::SwarmProvider;
pub use zookeeper::ZookeeperProvider;

/// A source of routing configuration.
pub trait Provider: Send + 'static {
    /// The provider's name, which the [`Origin`](crate::config::Origin)s of its objects carry.
    fn name(&self) -> &Name;

    /// What tells the source from others: its kind, addresses and prefix, without secrets. A provider that has one is kept on disk: what
    /// it published last serves at the next start until it is heard from. Default: none, for a source that is always there.
    fn source(&self) -> Option<String> {
        None
    }

    /// Reads the source, publishes it, and publishes again after every change, until the source fails or will never change again.
    ///
    /// Called again after an error; what was learned so far may be kept in `self`. Dropping the future must be harmless at every
    /// await: that is how a provider is stopped.
    ///
    /// # Errors
    /// [`ProviderError`] when the source cannot be reached, refuses us, or breaks its protocol. An object that cannot be read is no
    /// error: it is a problem inside the snapshot.
    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>>;
}

impl Provider for Box<dyn Provider> {
    fn name(&self) -> &Name {
        (**self).name()
    }

    fn source(&self) -> Option<String> {
        (**self).source()
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        (**self).watch(publisher)
    }
}

/// Where a provider puts what it learns.
pub trait Publisher: Send + Sync {
    /// Publishes all that the source holds. Of several snapshots in quick succession the last one counts.
    fn publish(&self, snapshot: Snapshot);

    /// Notes that the source was heard from, and that nothing changed.
    fn contact(&self);
}

/// Why a provider stopped watching.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct ProviderError {
    /// What we were doing, and to what: `etcd http://127.0.0.1:2379: watch /nuncio/ from revision 8`.
    pub doing: String,
    /// Why it failed.
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}
