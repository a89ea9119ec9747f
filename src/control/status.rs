//! What there is to know of a running server: for its owner, for the admin API and for readiness.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::Problem;
use crate::config::listen_address::ListenAddress;
use crate::config::listener::ListenerProtocol;
use crate::config::problem::{Kind, ObjectId};
use crate::discovery::guard::tell;
use crate::discovery::protect::HeldStatus;
use crate::discovery::{Feed, FeedStatus};
use crate::names::Name;
use crate::routing::RoutingTable;

/// What is known of a running server. Always current.
pub struct Status {
    table: Arc<ArcSwap<RoutingTable>>,
    feeds: Vec<Arc<Feed>>,
    listeners: Mutex<BTreeMap<Name, ListenerStatus>>,
    generation: watch::Sender<u64>,
    is_draining: AtomicBool,
}

/// What became of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerStatus {
    /// The address that is wanted.
    pub address: ListenAddress,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// The address that it has: another one when port 0 was wanted. None: it could not be bound.
    pub bound: Option<ListenAddress>,
    /// Why it could not be bound.
    pub error: Option<String>,
}

/// Whether traffic may be sent to us, and if not, what is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether nothing is missing.
    pub ready: bool,
    /// What is: `provider etcd: no snapshot yet: connect: refused`.
    pub missing: Vec<String>,
    /// What is not as it should be, and keeps no traffic away: `provider etcd: served from disk, kept 90 s ago: failing: …`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Status {
    pub(crate) fn new(table: Arc<ArcSwap<RoutingTable>>, feeds: Vec<Arc<Feed>>) -> Self {
        let (generation, _) = watch::channel(0);
        Self { table, feeds, listeners: Mutex::default(), generation, is_draining: AtomicBool::new(false) }
    }

    /// The table in force.
    #[must_use]
    pub fn table(&self) -> Arc<RoutingTable> {
        self.table.load_full()
    }

    /// The providers' feeds, in the order of their declaration.
    #[must_use]
    pub fn feeds(&self) -> &[Arc<Feed>] {
        &self.feeds
    }

    /// The listeners that the table wants.
    #[must_use]
    pub fn listeners(&self) -> BTreeMap<Name, ListenerStatus> {
        self.lock().clone()
    }

    /// Follows the generation of the table in force. It is told when the listeners of that table are open.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The problems of the table in force, of its listeners, and of providers as a whole.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.table.load().problems.clone();
        problems.extend(self.lock().iter().filter_map(|(name, listener)| listener.problem(name)));
        problems.extend(self.feeds.iter().flat_map(|feed| provider_problems(feed.name(), &feed.status())));
        problems
    }

    /// Ready is who has a complete snapshot of every provider, has bound every address, and is not about to end. A snapshot that was kept
    /// on disk counts, with a warning: with every store down, who serves what was last known is better than nobody.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let mut missing = Vec::new();
        if self.is_draining.load(Ordering::Relaxed) {
            missing.push("shutting down".into());
        }
        for feed in self.feeds.iter().filter(|feed| feed.latest().is_none()) {
            missing.push(format!("provider {}: no snapshot yet: {}", feed.name(), feed.status().state));
        }
        if missing.is_empty() && *self.generation.borrow() == 0 {
            missing.push("the first table is being compiled".into());
        }
        for (name, listener) in self.lock().iter() {
            missing.extend(listener.error.as_ref().map(|error| format!("listener {name}: {}: {error}", listener.address)));
        }
        let warnings = self.feeds.iter().flat_map(|feed| provider_warnings(feed.name(), &feed.status())).collect();
        Readiness { ready: missing.is_empty(), missing, warnings }
    }

    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn published(&self, generation: u64) {
        self.generation.send_replace(generation);
    }

    /// Notes an attempt to open a listener.
    pub(super) fn listener_tried(&self, name: &Name, status: ListenerStatus) {
        self.lock().insert(name.clone(), status);
    }

    pub(super) fn listener_closed(&self, name: &Name) {
        self.lock().remove(name);
    }

    pub(super) fn forget_listeners_except<T>(&self, wanted: &BTreeMap<Name, T>) {
        self.lock().retain(|name, _| wanted.contains_key(name));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, ListenerStatus>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What whoever asks for readiness is told of a provider that has a snapshot.
fn provider_warnings(name: &Name, status: &FeedStatus) -> Vec<String> {
    let from_disk = status.from_disk.map(|at| format!("provider {name}: served from disk, {}: {}", kept_ago(at), status.state));
    from_disk.into_iter().collect()
}

fn provider_problems(name: &Name, status: &FeedStatus) -> Vec<Problem> {
    let from_disk = status.from_disk.map(|at| {
        let message = format!("provider {name} is served from disk, {}: {}", kept_ago(at), status.state);
        Problem::warning(message).effect("what an earlier run kept is in force until the provider is heard from")
    });
    let disk_error = status.disk_error.as_ref().map(|error| {
        let problem = Problem::warning(format!("provider {name}: {error}"));
        problem.effect("a start without its source would serve less than is known now")
    });
    from_disk.into_iter().chain(disk_error).chain(status.held.as_ref().map(|held| held_problem(name, held))).collect()
}

fn held_problem(name: &Name, held: &HeldStatus) -> Problem {
    let left = held.until.saturating_duration_since(Instant::now()).as_secs();
    let message = format!("provider {name}: held: {} would be gone at once, and nobody said that they were deleted", tell(&held.gone));
    Problem::error(message).effect(format!(
        "they stay in force for {left} s more, or until the source repeats it, or `nuncio release {name}`; all else is taken over"
    ))
}

fn kept_ago(at: SystemTime) -> String {
    format!("kept {} s ago", at.elapsed().unwrap_or_default().as_secs())
}

impl ListenerStatus {
    fn problem(&self, name: &Name) -> Option<Problem> {
        let error = self.error.as_ref()?;
        let problem = Problem::error(format!("cannot listen on {}: {error}", self.address)).about(ObjectId::new(Kind::Listener, name));
        Some(problem.effect("nothing is accepted there; it is tried again every second"))
    }
}
