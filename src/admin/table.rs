//! `/api/v1/table`: what is in force, where it came from, and what is wrong with it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::listen_address::ListenAddress;
use crate::config::listener::ListenerProtocol;
use crate::config::problem::Kind;
use crate::config::{Origin, Problem};
use crate::control::status::{ListenerStatus, Status};
use crate::discovery::guard::Gone;
use crate::discovery::protect::HeldStatus;
use crate::discovery::{Feed, FeedState};
use crate::names::Name;
use crate::routing::RoutingTable;

/// What is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableView {
    /// Counts the published tables; 0 before the first.
    pub generation: u64,
    /// Where it came from, in the order in which they count.
    pub providers: Vec<ProviderView>,
    /// The addresses we accept on.
    pub listeners: Vec<ListenerView>,
    /// What is wrong.
    pub problems: Vec<ProblemView>,
}

/// How a provider is doing. Times are in seconds, and count up to now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProviderView {
    /// Its name.
    pub name: Name,
    /// What it is doing.
    pub state: ProviderState,
    /// For how long.
    pub since_seconds: f64,
    /// Why it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The source's revision of the latest snapshot, if it has revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// When the source was last heard from.
    pub last_contact_seconds: Option<f64>,
    /// When the latest change was seen.
    pub last_change_seconds: Option<f64>,
    /// By how long what is in force may be behind its source. Zero: nothing is known to be missing. None: it was never heard from.
    pub lag_seconds: Option<f64>,
    /// How many of its objects and keys cannot be read.
    #[serde(default)]
    pub rejected: usize,
    /// How often it was called again after a failure.
    pub restarts: u64,
    /// Whether there is a snapshot of what its source holds: its own, or one from disk.
    pub has_snapshot: bool,
    /// The snapshot is not its own yet: an earlier run kept it on disk, this long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_disk_seconds: Option<f64>,
    /// Objects that it does not list any more and that nobody deleted, kept in force for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldView>,
    /// How many of its updates were held in part.
    #[serde(default)]
    pub held_updates: u64,
}

/// What is held of an update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldView {
    /// For how long, so far.
    pub since_seconds: f64,
    /// For how long yet, if nothing else comes.
    pub left_seconds: f64,
    /// What it would have taken away.
    pub gone: Vec<GoneView>,
}

/// What is gone of one kind, or of one upstream's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneView {
    /// The kind.
    pub kind: Kind,
    /// Of endpoints, their upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Name>,
    /// The first of them, [`GoneView::NAMES_MAX`] at most.
    pub names: Vec<Name>,
    /// How many are gone.
    pub count: usize,
    /// How many there were.
    pub of: usize,
}

impl GoneView {
    /// How many are told by name.
    pub const NAMES_MAX: usize = 100;
}

/// What a provider is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderState {
    /// It was not heard from yet.
    Connecting,
    /// Its source answers.
    Live,
    /// Its source failed, and is tried again. What it published last stays in force.
    Failing,
    /// Its source will never change again. What it published last stays in force.
    Finished,
}

/// A listener, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerView {
    /// Its name.
    pub name: Name,
    /// The address that is wanted.
    pub address: ListenAddress,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// Whether it terminates TLS.
    pub tls: bool,
    /// The address that it has. None: it is not open.
    pub bound: Option<ListenAddress>,
    /// Why it is not open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where it was read. None: it is gone from the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// A problem, as data and as people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemView {
    /// The problem.
    #[serde(flatten)]
    pub problem: Problem,
    /// The same, drawn with the offending text. Secrets in it are masked.
    pub text: String,
}

impl TableView {
    pub(super) fn of(status: &Status) -> Self {
        let (table, now) = (status.table(), Instant::now());
        Self {
            generation: table.generation,
            providers: status.feeds().iter().map(|feed| ProviderView::of(feed, now)).collect(),
            listeners: ListenerView::all(status, &table),
            problems: status.problems().into_iter().map(ProblemView::of).collect(),
        }
    }
}

impl ProviderView {
    fn of(feed: &Feed, now: Instant) -> Self {
        let status = feed.status();
        let lag = status.lag(now);
        let (state, error) = match status.state {
            FeedState::Connecting => (ProviderState::Connecting, None),
            FeedState::Live => (ProviderState::Live, None),
            FeedState::Failing { error } => (ProviderState::Failing, Some(error)),
            FeedState::Finished => (ProviderState::Finished, None),
        };
        Self {
            name: feed.name().clone(),
            state,
            since_seconds: age(status.since, now),
            error,
            revision: status.revision,
            last_contact_seconds: status.last_contact.map(|at| age(at, now)),
            last_change_seconds: status.last_change.map(|at| age(at, now)),
            lag_seconds: lag.map(millis),
            rejected: feed.latest().map_or(0, |latest| latest.all_problems().count()),
            restarts: status.restarts,
            has_snapshot: status.has_snapshot,
            held: status.held.as_ref().map(|held| HeldView::of(held, now)),
            held_updates: status.held_updates,
            from_disk_seconds: status.from_disk.map(|at| millis(at.elapsed().unwrap_or_default())),
        }
    }
}

impl HeldView {
    fn of(held: &HeldStatus, now: Instant) -> Self {
        let gone = |gone: &Gone| GoneView {
            kind: gone.kind,
            upstream: gone.upstream.clone(),
            names: gone.names.iter().take(GoneView::NAMES_MAX).cloned().collect(),
            count: gone.names.len(),
            of: gone.of,
        };
        let left = held.until.saturating_duration_since(now);
        Self { since_seconds: age(held.since, now), left_seconds: millis(left), gone: held.gone.iter().map(gone).collect() }
    }
}

impl ListenerView {
    fn all(status: &Status, table: &RoutingTable) -> Vec<Self> {
        let origins: BTreeMap<&Name, &Origin> = table.configured_listeners().map(|listener| (listener.name, listener.origin)).collect();
        status.listeners().iter().map(|(name, status)| Self::of(name, status, table, origins.get(name).copied())).collect()
    }

    fn of(name: &Name, status: &ListenerStatus, table: &RoutingTable, origin: Option<&Origin>) -> Self {
        Self {
            name: name.clone(),
            address: status.address.clone(),
            protocol: status.protocol,
            tls: table.listeners.get(name).is_some_and(|listener| listener.tls.is_some()),
            bound: status.bound.clone(),
            error: status.error.clone(),
            origin: origin.cloned(),
        }
    }
}

impl ProblemView {
    fn of(problem: Problem) -> Self {
        Self { text: problem.render(false), problem }
    }
}

/// Seconds since `at`, to the millisecond.
pub(super) fn age(at: Instant, now: Instant) -> f64 {
    millis(now.saturating_duration_since(at))
}

/// In seconds, to the millisecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::problem::ObjectId;
    use crate::config::snapshot::{Origin, Place};

    #[test]
    fn a_problem_reads_back_wherever_it_was_read() {
        let file = Place::File { file: Arc::new("/a.toml".into()), line: 3, column: 7 };
        let key = Place::Key { key: "/nuncio/routes/a".into(), revision: 9 };
        let label = Place::Label { bearer: "container web-1".into(), label: "nuncio.routes.a".into() };
        let lookup = Place::Lookup { lookup: "tasks.db:5432".into() };
        for place in [file, key, label, lookup, Place::Program {}] {
            let origin = Origin { provider: Name::literal("file"), place };
            let object = ObjectId::new(Kind::TcpRoute, &Name::literal("a"));
            let view = ProblemView::of(Problem::warning("bad").about(object).at(origin).help("mend it").effect("none"));
            let json = serde_json::to_string(&view).unwrap();
            assert_eq!(serde_json::from_str::<ProblemView>(&json).unwrap(), view, "{json}");
        }
    }
}
