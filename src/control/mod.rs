//! The control loop: snapshots → merge → compile → publish → listeners, health checks, endpoints that are gone.
//!
//! One task does all of it, in order, so that tables follow each other in order too. It runs on the control runtime; the data plane
//! never waits for it.
//!
//! | file | concept |
//! |---|---|
//! | [`check`] | what would become of a configuration |
//! | `context` | what compiling needs beside the configuration |
//! | `hosts` | the names among endpoints, followed as they change |
//! | `merge` | the snapshots of all providers → one |
//! | `overlap` | listeners that want the same address |
//! | `pem` | the files that certificates name, read and watched |
//! | `providers` | how providers are doing, in numbers |
//! | `sockets` | the addresses we accept on, as the table wants them |
//! | [`status`] | what there is to know of a running server |

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use metrics::{Gauge, Histogram};
use tokio::sync::watch;

use crate::config::problem::Severity;
use crate::config::{Problem, Snapshot};
use crate::discovery::{Resolver, Supervisor};
use crate::health::HealthChecks;
use crate::metrics as names;
use crate::metrics::Meter;
use crate::proxy::bind::PassedSockets;
use crate::proxy::worker::{Command, WorkerThread};
use crate::routing::compile::Context;
use crate::routing::{RoutingTable, compile};

pub mod check;
mod context;
mod hosts;
mod merge;
mod overlap;
mod pem;
mod providers;
mod sockets;
pub mod status;

pub(crate) use context::context;
use hosts::Hosts;
use pem::PemFiles;
use providers::ProviderMetrics;
use sockets::Sockets;
use status::Status;

/// How often files that certificates name are looked at.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a change of one name's addresses waits for others, so that a thousand names make a few tables and not a thousand.
const NAMES_SETTLE: Duration = Duration::from_millis(20);

/// The control loop with all that it owns.
pub(crate) struct Control {
    supervisor: Supervisor,
    context: Context,
    workers: Arc<[WorkerThread]>,
    table: Arc<ArcSwap<RoutingTable>>,
    status: Arc<Status>,
    sockets: Sockets,
    pem: PemFiles,
    hosts: Hosts,
    /// When to look again at what providers have published: names among it had no first answer yet.
    follow_at: Option<Instant>,
    /// When to publish what names stand for now, and since when that is known.
    names_due: Option<Instant>,
    /// What the table in force was compiled from.
    compiled: Vec<Arc<Snapshot>>,
    /// Tables that are out of force, kept until no worker looks at them any more: to take a large one apart takes longer than a request,
    /// and would fall to the worker that lets go of it last.
    retired: Vec<Arc<RoutingTable>>,
    health: HealthChecks,
    /// Endpoints that are gone, with the time at which what is left to them is cut.
    cuts: Vec<(Instant, Arc<[u64]>)>,
    metrics: ControlMetrics,
    /// In the order of the feeds.
    providers: Vec<ProviderMetrics>,
}

struct ControlMetrics {
    generation: Gauge,
    compile: Histogram,
    latency: Histogram,
    errors: Gauge,
    warnings: Gauge,
}

impl ControlMetrics {
    fn new(meter: &Meter) -> Self {
        Self {
            generation: meter.gauge(names::TABLE_GENERATION, &[]),
            compile: meter.histogram(names::TABLE_COMPILE_DURATION, &[]),
            latency: meter.histogram(names::CHANGE_LATENCY, &[]),
            errors: meter.gauge(names::PROBLEMS, &[("severity", "error")]),
            warnings: meter.gauge(names::PROBLEMS, &[("severity", "warning")]),
        }
    }
}

impl Control {
    pub(crate) fn new(
        supervisor: Supervisor,
        resolver: Resolver,
        context: Context,
        workers: Arc<[WorkerThread]>,
        table: Arc<ArcSwap<RoutingTable>>,
        status: Arc<Status>,
        passed: PassedSockets,
    ) -> Self {
        let metrics = ControlMetrics::new(&context.meter);
        let sockets = Sockets::new(context.meter.clone(), workers.clone(), status.clone(), passed);
        let (pem, health) = (PemFiles::default(), HealthChecks::new(tokio::runtime::Handle::current()));
        let (compiled, retired, cuts) = (Vec::new(), Vec::new(), Vec::new());
        let (hosts, follow_at, names_due) = (Hosts::new(resolver), None, None);
        let providers = supervisor.feeds().iter().map(|feed| ProviderMetrics::new(&context.meter, feed)).collect();
        Self {
            supervisor,
            context,
            workers,
            table,
            status,
            sockets,
            pem,
            hosts,
            follow_at,
            names_due,
            compiled,
            retired,
            health,
            cuts,
            metrics,
            providers,
        }
    }

    /// Runs until `stop` says so, then ends providers and health checks.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
        upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next_cut = self.cuts.iter().map(|(at, _)| *at).min();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = self.supervisor.changed() => self.follow(),
                () = sleep_until(self.follow_at), if self.follow_at.is_some() => self.follow(),
                () = self.hosts.changed() => self.names_changed(Instant::now()),
                () = sleep_until(self.names_due), if self.names_due.is_some() => self.follow_names(),
                () = sleep_until(next_cut), if next_cut.is_some() => self.cut(Instant::now()),
                () = sleep_until(self.sockets.retry_at()), if self.sockets.retry_at().is_some() => {
                    self.sockets.open(&self.table.load_full());
                }
                _ = upkeep.tick() => {
                    if self.pem.has_changed() {
                        self.update(self.compiled.clone(), None);
                    }
                    self.drop_retired();
                    self.measure_providers();
                }
            }
        }
        self.supervisor.stop().await;
        self.hosts.stop().await;
        self.health.stop().await;
    }

    /// Takes over what providers have published. Nothing is published before every one of them has given its first snapshot: a table
    /// without the routes of one of them would send requests to the wrong place. A provider that failed, or is back, is no change.
    fn follow(&mut self) {
        let latest: Option<Vec<Arc<Snapshot>>> = self.supervisor.feeds().iter().map(|feed| feed.latest()).collect();
        let Some(latest) = latest else { return };
        let is_known = |(latest, compiled): (&Arc<Snapshot>, &Arc<Snapshot>)| Arc::ptr_eq(latest, compiled);
        if latest.len() == self.compiled.len() && latest.iter().zip(&self.compiled).all(is_known) {
            if self.follow_at.take().is_some() {
                self.hosts.follow(&latest, Instant::now());
            }
            return;
        }
        self.follow_at = self.hosts.follow(&latest, Instant::now());
        if self.follow_at.is_none() {
            self.update(latest, None);
        }
    }

    /// A name stands for something else. A table that waits for its first answers may be ready; one that is in force is changed soon.
    fn names_changed(&mut self, now: Instant) {
        if self.follow_at.is_some() {
            self.follow();
        }
        if !self.compiled.is_empty() {
            self.names_due.get_or_insert(now + NAMES_SETTLE);
        }
    }

    fn follow_names(&mut self) {
        let seen_at = self.names_due.take().map(|due| due - NAMES_SETTLE);
        self.update(self.compiled.clone(), seen_at);
    }

    /// Publishes the table that these snapshots make. What led to it was seen at `seen_at`, or with the newest of them.
    fn update(&mut self, snapshots: Vec<Arc<Snapshot>>, seen_at: Option<Instant>) {
        let newest = snapshots.iter().map(|snapshot| snapshot.seen_at).max();
        let Some(seen_at) = seen_at.or(newest) else { return };
        let started = Instant::now();
        let mut snapshot = merge::merge(self.supervisor.feeds(), &snapshots);
        self.pem.resolve(&mut snapshot);
        self.hosts.resolve(&mut snapshot);
        let merged = Instant::now();
        let previous = self.table.load_full();
        let table = Arc::new(compile(&snapshot, &previous, &self.context));
        let compiled = Instant::now();
        self.publish(&previous, table);
        self.metrics.compile.record((compiled - merged).as_secs_f64());
        self.metrics.latency.record(seen_at.elapsed().as_secs_f64());
        for (index, snapshot) in snapshots.iter().enumerate() {
            let is_new = !self.compiled.get(index).is_some_and(|known| Arc::ptr_eq(known, snapshot));
            self.providers.get(index).filter(|_| is_new).into_iter().for_each(|provider| provider.is_live(snapshot));
        }
        tracing::debug!(merge = ?merged - started, compile = ?compiled - merged, publish = ?compiled.elapsed(), "stages of a change");
        self.compiled = snapshots;
        self.retired.push(previous);
        self.drop_retired();
    }

    fn measure_providers(&mut self) {
        let now = Instant::now();
        self.providers.iter_mut().for_each(|provider| provider.refresh(now));
    }

    fn drop_retired(&mut self) {
        self.retired.retain(|table| Arc::strong_count(table) > 1);
    }

    fn publish(&mut self, previous: &RoutingTable, table: Arc<RoutingTable>) {
        self.sockets.release(&table);
        self.table.store(table.clone());
        self.sockets.open(&table);
        self.retire(previous, &table, Instant::now());
        self.health.reconcile(&table);
        self.report(previous, &table);
        self.status.published(table.generation);
    }

    /// Endpoints that no upstream holds any more get no new request; what they have in flight may go on for the drain time.
    fn retire(&mut self, previous: &RoutingTable, table: &RoutingTable, now: Instant) {
        for (name, before) in &previous.upstreams {
            let after = table.upstreams.get(name);
            if after.is_some_and(|after| Arc::ptr_eq(before, after)) {
                continue;
            }
            let held: HashSet<u64> = after.iter().flat_map(|after| &after.endpoints).map(|endpoint| endpoint.state.id).collect();
            let gone = before.endpoints.iter().filter(|endpoint| !held.contains(&endpoint.state.id));
            let gone: Arc<[u64]> = gone.inspect(|endpoint| endpoint.state.retire()).map(|endpoint| endpoint.state.id).collect();
            if gone.is_empty() {
                continue;
            }
            self.tell(|| Command::Retire(gone.clone()));
            self.cuts.push((now + before.settings.drain_timeout, gone));
        }
    }

    fn cut(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.cuts).into_iter().partition(|(at, _)| *at <= now);
        self.cuts = later;
        let due: Vec<(Instant, Arc<[u64]>)> = due;
        for (_, endpoints) in due {
            self.tell(|| Command::Cut(endpoints.clone()));
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        self.workers.iter().for_each(|worker| worker.tell(command()));
    }

    /// Logs what is new among the problems, and counts them.
    fn report(&self, previous: &RoutingTable, table: &RoutingTable) {
        let count = |severity| table.problems.iter().filter(|problem| problem.severity == severity).count() as f64;
        self.metrics.generation.set(table.generation as f64);
        self.metrics.errors.set(count(Severity::Error));
        self.metrics.warnings.set(count(Severity::Warning));
        tracing::debug!(generation = table.generation, routes = table.routes.len(), upstreams = table.upstreams.len(), "table published");
        let known: HashSet<&Problem> = previous.problems.iter().collect();
        for problem in table.problems.iter().filter(|problem| !known.contains(problem)) {
            let text = problem.render(false);
            // The log says how bad it is in its own way.
            match problem.severity {
                Severity::Error => tracing::error!("{}", text.trim_start_matches("error: ")),
                Severity::Warning => tracing::warn!("{}", text.trim_start_matches("warning: ")),
            }
        }
        if table.problems.is_empty() && !previous.problems.is_empty() {
            tracing::info!(generation = table.generation, "no problems are left");
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
