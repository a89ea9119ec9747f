//! Registers containers: follows those of a Docker engine, and keeps in a store where their ports are reached, for as long as they run.
//!
//! ```text
//!  engine ──► follower ──► registrations ──► entries ──► keeper ──► store
//!            (discovery)   what is told of    keys and    writes, keeps alive,
//!                          each container     values      deletes
//! ```
//!
//! What is written is what [`discovery`](crate::discovery) reads with `layout = "services"`, and so do others. It ends with its writer:
//! everything hangs on one lease or session, or on a time to live, which is kept up.
//!
//! * **An engine that cannot be reached deregisters nobody.** Its containers may well go on. What is known stays until it answers.
//! * **A store that cannot be reached is written to anew**, whatever it has kept: it may have lost everything, or the lease.
//! * **Nothing is deleted that was not written here**: a key that another one has overwritten since stays.
//!
//! | file | concept |
//! |---|---|
//! | [`registration`] | containers → what to register of them |
//! | [`layout`] | a registration → a key and its value, as docker-register and registrator write them |
//! | `keeper` | makes a store hold the entries, and nothing else of ours |
//! | [`store`] | what a store is to it: `consul`, `etcd2`, `zookeeper`, and etcd by `etcd_session` of [`discovery`](crate::discovery) |

mod consul;
mod etcd2;
mod http;
mod keeper;
pub mod layout;
pub mod registration;
pub mod store;
mod zookeeper;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::layout::Layout;
pub use self::registration::Selection;
pub use self::store::StoreConfig;
use crate::backoff::{Backoff, random};
use crate::config::providers::DockerConfig;
use crate::discovery::containers::Container;
use crate::discovery::follower::{Follower, Listener};

/// How long an entry outlives its writer, unless it is said.
pub const TTL_DEFAULT: Duration = Duration::from_secs(10);
/// How long an entry may outlive its writer. Stores do not know shorter times.
pub const TTL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(600);

/// The waits between two attempts to reach the engine.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What is registered, and where.
#[derive(Debug, Clone)]
pub struct Registrar {
    /// The engine, and which addresses of its containers are used.
    pub engine: DockerConfig,
    /// Which of its containers.
    pub selection: Selection,
    /// The form of keys and values.
    pub layout: Layout,
    /// Where they are written.
    pub store: StoreConfig,
    /// How long an entry outlives its writer, in [`TTL_RANGE`].
    pub ttl: Duration,
}

/// What keeps containers from being registered as they are now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// Why the engine is not followed.
    pub engine: Option<String>,
    /// Why the store does not hold what it should.
    pub store: Option<String>,
}

impl Missing {
    /// Before anything is known.
    #[must_use]
    pub fn everything() -> Self {
        Self { engine: Some("the engine has not answered yet".into()), store: Some("the store has not answered yet".into()) }
    }
}

/// Keys and values that a store shall hold. None: it is not known yet.
type Wanted = Option<BTreeMap<String, layout::Entry>>;

impl Registrar {
    /// Registers containers until it is told to `stop`, and then deletes what it has written.
    ///
    /// What goes wrong is logged, told in `missing`, and tried again.
    pub async fn run(self, stop: CancellationToken, missing: watch::Sender<Missing>) {
        let (sender, wanted) = watch::channel(None);
        let follower = Follower::new(self.engine.clone(), true);
        let teller = Teller { registrar: self.clone(), wanted: sender, troubles: BTreeSet::new(), missing: missing.clone() };
        let following = stop.run_until_cancelled(follow(follower, teller));
        tokio::join!(following, keeper::keep(&self.store, self.ttl, wanted, &missing, &stop));
    }
}

/// Follows the engine for ever.
async fn follow(mut follower: Follower, mut teller: Teller) {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut is_told = false;
    loop {
        let mut heard = Heard { teller: &mut teller, is_anything: false };
        let outcome = follower.run(&mut heard).await;
        if heard.is_anything {
            backoff.reset();
            is_told = false;
        }
        if let Err(error) = outcome {
            if !std::mem::replace(&mut is_told, true) {
                tracing::warn!("{error}; what is registered stays, and the engine is asked again");
            }
            teller.missing.send_modify(|missing| missing.engine = Some(error.to_string()));
        }
        tokio::time::sleep(backoff.next_delay(random())).await;
    }
}

/// Makes entries of what is told of containers.
struct Teller {
    registrar: Registrar,
    wanted: watch::Sender<Wanted>,
    /// What was wrong when it was told last.
    troubles: BTreeSet<String>,
    missing: watch::Sender<Missing>,
}

/// Notes whether the engine says anything.
struct Heard<'a> {
    teller: &'a mut Teller,
    is_anything: bool,
}

impl Listener for Heard<'_> {
    fn hear(&mut self, containers: &[Container], stopping: &BTreeSet<String>) {
        self.is_anything = true;
        self.teller.tell(containers, stopping);
    }
}

impl Teller {
    fn tell(&mut self, containers: &[Container], stopping: &BTreeSet<String>) {
        let Registrar { engine, selection, layout, .. } = &self.registrar;
        let (registrations, mut troubles) = registration::of(containers, stopping, engine, selection);
        let (entries, refused) = layout.entries(self.registrar.store.prefix(), &registrations);
        troubles.extend(refused);
        troubles.difference(&self.troubles).for_each(|trouble| tracing::warn!("not registered: {trouble}"));
        self.troubles = troubles;
        self.missing.send_if_modified(|missing| missing.engine.take().is_some());
        self.wanted.send_if_modified(|wanted| {
            let is_new = wanted.as_ref() != Some(&entries);
            *wanted = Some(entries);
            is_new
        });
    }
}
