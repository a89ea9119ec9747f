//! Active health checks: one task per endpoint that asks it again and again whether it is well, and notes the answer in its
//! [`EndpointState`], where the data plane reads it.
//!
//! The control loop calls [`HealthChecks::reconcile`] after it has published a table. Checks run on the runtime of the control plane,
//! never on a worker: they cannot delay traffic.
//!
//! | file | concept |
//! |---|---|
//! | `check` | the check of one endpoint: probe, judge, note, wait |
//! | `threshold` | results of probes → up or down; pure |
//! | `http`, `tcp` | one kind of probe each |
//! | `connect` | the connection of a probe |
//! | `deadline` | the time limit of a probe |
//! | `failure` | why a probe failed, and whose fault it is |
//! | `jitter` | keeps checks from running in step |

mod check;
mod connect;
mod deadline;
mod failure;
mod http;
mod jitter;
mod tcp;
#[cfg(test)]
mod testing;
mod threshold;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::fast::RandomState;
use tokio::runtime::Handle;

use self::check::{Check, Running, Shared};
use crate::config;
use crate::names::Name;
use crate::routing::endpoint::{EndpointState, Health};
use crate::routing::{RoutingTable, Upstream};

/// Probes in flight at any time, over all upstreams. Others wait for their turn in the order they came.
///
/// It bounds the sockets that checks hold, and spreads the first probes when thousands of endpoints appear at once.
pub const PROBES_MAX: usize = 512;

/// The health checks of all endpoints of a table. Dropping it stops them.
#[derive(Debug)]
pub struct HealthChecks {
    shared: Arc<Shared>,
    /// Every upstream of the table reconciled last, checked or not.
    upstreams: HashMap<Name, Watched, RandomState>,
}

impl HealthChecks {
    /// No checks yet; those to come run on `runtime`.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self { shared: Arc::new(Shared::new(runtime, PROBES_MAX)), upstreams: HashMap::default() }
    }

    /// Makes the checks those that `table` asks for: starts and stops what changed since the last call, and leaves all others alone.
    ///
    /// Costs one lookup and one comparison of pointers per upstream that did not change. Never waits.
    ///
    /// This is also where endpoints that the compiler carried over learn that checks began ([`Health::Unknown`]) or ended
    /// ([`Health::Unchecked`]). A check that was stopped here no longer changes its endpoint once this returns.
    pub fn reconcile(&mut self, table: &RoutingTable) {
        for (name, upstream) in &table.upstreams {
            match self.upstreams.get_mut(name) {
                Some(watched) => watched.update(upstream, &self.shared),
                None => {
                    self.upstreams.insert(name.clone(), Watched::new(upstream, &self.shared));
                }
            }
        }
        // All of the table's are among ours by now, so with equal numbers none is gone.
        if self.upstreams.len() > table.upstreams.len() {
            self.upstreams.retain(|name, _| table.upstreams.contains_key(name));
        }
    }

    /// Stops all checks and waits for their tasks to end.
    pub async fn stop(self) {
        drop(self.upstreams);
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

/// One upstream and the checks of its endpoints.
#[derive(Debug)]
struct Watched {
    /// As it was when it was reconciled last.
    upstream: Arc<Upstream>,
    /// By [`EndpointState::id`]. Empty for an upstream without `health`.
    checks: HashMap<u64, Running, RandomState>,
}

impl Watched {
    fn new(upstream: &Arc<Upstream>, shared: &Arc<Shared>) -> Self {
        let mut watched = Self { upstream: upstream.clone(), checks: HashMap::default() };
        watched.reconcile(shared);
        watched
    }

    fn update(&mut self, upstream: &Arc<Upstream>, shared: &Arc<Shared>) {
        if Arc::ptr_eq(&self.upstream, upstream) {
            return;
        }
        if !is_checked_alike(&self.upstream, upstream) {
            self.checks.clear();
        }
        self.upstream = upstream.clone();
        self.reconcile(shared);
    }

    /// Keeps the checks of endpoints that are still there, starts those of new ones, and drops, which is to stop, all others.
    fn reconcile(&mut self, shared: &Arc<Shared>) {
        let mut before = std::mem::take(&mut self.checks);
        let Some(settings) = &self.upstream.settings.health else {
            drop(before);
            return self.upstream.endpoints.iter().for_each(|endpoint| leave_unchecked(&endpoint.state));
        };
        // Made when the first check needs it: most updates of an upstream are of one endpoint, or of none.
        let mut shared_settings = None;
        for endpoint in &self.upstream.endpoints {
            let running = before.remove(&endpoint.state.id).unwrap_or_else(|| {
                let settings = shared_settings.get_or_insert_with(|| Arc::new(settings.clone()));
                start(&self.upstream, &endpoint.state, settings, shared)
            });
            self.checks.insert(endpoint.state.id, running);
        }
    }
}

/// Whether a check of the one upstream serves the other as well.
fn is_checked_alike(a: &Upstream, b: &Upstream) -> bool {
    a.settings.health == b.settings.health && Arc::ptr_eq(&a.transport, &b.transport)
}

fn start(upstream: &Upstream, endpoint: &Arc<EndpointState>, settings: &Arc<config::upstream::Health>, shared: &Arc<Shared>) -> Running {
    // One whose checks were only changed keeps what is known of it.
    if endpoint.health() == Health::Unchecked {
        endpoint.set_health(Health::Unknown, SystemTime::now(), "checks began");
    }
    let check = Check {
        upstream: upstream.name.clone(),
        endpoint: endpoint.clone(),
        settings: settings.clone(),
        transport: upstream.transport.clone(),
        metrics: upstream.metrics.clone(),
        shared: shared.clone(),
    };
    check.start()
}

fn leave_unchecked(endpoint: &EndpointState) {
    if endpoint.health() != Health::Unchecked {
        endpoint.set_health(Health::Unchecked, SystemTime::now(), "checks ended");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::testing::{Server, Tables, health, until, within};
    use super::*;
    use crate::config::upstream::{Health as Settings, UpstreamProtocol};

    const WEB: fn() -> Name = || Name::literal("web");
    const HOUR: Duration = Duration::from_secs(3_600);

    fn upstream(addresses: &[SocketAddr], health: Option<Settings>) -> config::Upstream {
        config::Upstream { health, ..config::Upstream::of(addresses.iter().copied()) }
    }

    /// The state of the endpoint of `web` at `address`.
    fn state(table: &RoutingTable, address: SocketAddr) -> Arc<EndpointState> {
        table.upstreams[&WEB()].endpoints.iter().find(|endpoint| endpoint.address.ip() == Some(address)).unwrap().state.clone()
    }

    /// What identifies the running check of an endpoint: a check that was started again has another.
    fn identity(checks: &HealthChecks, endpoint: &EndpointState) -> Option<usize> {
        Some(checks.upstreams.get(&WEB())?.checks.get(&endpoint.id)?.identity())
    }

    async fn until_health(endpoint: &EndpointState, health: Health) -> String {
        until(|| endpoint.health() == health).await;
        endpoint.last_change().unwrap().reason
    }

    #[tokio::test]
    async fn a_new_endpoint_is_probed_at_once_and_its_first_result_decides() {
        let (well, sick) = (Server::http1().await, Server::http1().await);
        sick.answer(503);
        let mut tables = Tables::default();
        let addresses = [well.address, sick.address];
        let table = tables.publish([(WEB(), upstream(&addresses, Some(Settings { interval: HOUR, ..health("/up") })))]);
        let states = addresses.map(|address| state(&table, address));
        assert_eq!([Health::Unknown; 2], [states[0].health(), states[1].health()]);
        let mut checks = HealthChecks::new(Handle::current());
        checks.reconcile(&table);
        assert_eq!(until_health(&states[0], Health::Up).await, "GET /up: status 200");
        assert_eq!(until_health(&states[1], Health::Down).await, "GET /up: status 503, expected 200-399");
    }

    #[tokio::test]
    async fn goes_down_and_up_again_and_says_why() {
        let server = Server::http1().await;
        let mut tables = Tables::default();
        let table = tables.publish([(WEB(), upstream(&[server.address], Some(health("/healthz"))))]);
        let state = state(&table, server.address);
        let mut checks = HealthChecks::new(Handle::current());
        checks.reconcile(&table);
        until_health(&state, Health::Up).await;
        server.answer(500);
        assert_eq!(until_health(&state, Health::Down).await, "GET /healthz: status 500, expected 200-399");
        server.answer(204);
        assert_eq!(until_health(&state, Health::Up).await, "GET /healthz: status 204");
        // Counted right after the health is set, by another task.
        until(|| tables.rendered("nuncio_health_transitions_total{upstream=\"web\",to=\"up\"} 2")).await;
        assert!(tables.rendered("nuncio_health_transitions_total{upstream=\"web\",to=\"down\"} 1"));
    }

    #[tokio::test]
    async fn checks_follow_the_endpoints_and_spare_those_that_stay() {
        let (stays, goes, comes) = (Server::http1().await, Server::http1().await, Server::http1().await);
        let settings = Some(Settings { interval: HOUR, ..health("/") });
        let mut tables = Tables::default();
        let mut checks = HealthChecks::new(Handle::current());
        let first = tables.publish([(WEB(), upstream(&[stays.address, goes.address], settings.clone()))]);
        let (staying, going) = (state(&first, stays.address), state(&first, goes.address));
        checks.reconcile(&first);
        let before = identity(&checks, &staying);
        assert!(before.is_some() && identity(&checks, &going).is_some());

        let second = tables.publish([(WEB(), upstream(&[stays.address, comes.address], settings))]);
        checks.reconcile(&second);
        assert_eq!(identity(&checks, &staying), before);
        assert_eq!(identity(&checks, &going), None);
        assert!(identity(&checks, &state(&second, comes.address)).is_some());
        until(|| checks.shared.tasks.len() == 2).await;

        checks.reconcile(&tables.publish([]));
        assert!(checks.upstreams.is_empty());
        until(|| checks.shared.tasks.is_empty()).await;
    }

    #[tokio::test]
    async fn what_has_nothing_to_do_with_checks_leaves_them_alone() {
        let server = Server::http1().await;
        let mut tables = Tables::default();
        let mut checks = HealthChecks::new(Handle::current());
        let wanted = upstream(&[server.address], Some(Settings { interval: HOUR, ..health("/") }));
        let table = tables.publish([(WEB(), wanted.clone())]);
        let endpoint = state(&table, server.address);
        checks.reconcile(&table);
        until_health(&endpoint, Health::Up).await;
        let before = identity(&checks, &endpoint);

        checks.reconcile(&tables.publish([(WEB(), config::Upstream { retries: 7, ..wanted.clone() })]));
        assert_eq!(identity(&checks, &endpoint), before);

        let other_path = config::Upstream { health: Some(Settings { interval: HOUR, ..health("/other") }), ..wanted.clone() };
        checks.reconcile(&tables.publish([(WEB(), other_path.clone())]));
        let restarted = identity(&checks, &endpoint);
        assert_ne!(restarted, before);
        assert_eq!(endpoint.health(), Health::Up, "other checks do not make us forget what is known");

        checks.reconcile(&tables.publish([(WEB(), config::Upstream { protocol: UpstreamProtocol::H2c, ..other_path })]));
        assert_ne!(identity(&checks, &endpoint), restarted);
    }

    #[tokio::test]
    async fn endpoints_learn_that_checks_began_and_ended() {
        let server = Server::http1().await;
        server.answer(500);
        let (unchecked, checked) = (upstream(&[server.address], None), upstream(&[server.address], Some(health("/"))));
        let mut tables = Tables::default();
        let mut checks = HealthChecks::new(Handle::current());
        let table = tables.publish([(WEB(), unchecked.clone())]);
        let state = state(&table, server.address);
        checks.reconcile(&table);
        assert_eq!((state.health(), state.last_change()), (Health::Unchecked, None));

        checks.reconcile(&tables.publish([(WEB(), checked)]));
        assert_eq!(state.health(), Health::Unknown);
        until_health(&state, Health::Down).await;

        checks.reconcile(&tables.publish([(WEB(), unchecked)]));
        assert_eq!(state.health(), Health::Unchecked);
        until(|| checks.shared.tasks.is_empty()).await;
        assert_eq!(state.health(), Health::Unchecked);
        assert_eq!(state.last_change().unwrap().reason, "checks ended");
    }

    #[tokio::test]
    async fn stop_ends_all_tasks_and_so_does_drop() {
        let mute = Server::mute().await;
        for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::H2c] {
            let start = || {
                let settings = Settings { timeout: HOUR, ..health("/") };
                let wanted = config::Upstream { protocol, ..upstream(&[mute.address], Some(settings)) };
                let mut checks = HealthChecks::new(Handle::current());
                checks.reconcile(&Tables::default().publish([(WEB(), wanted)]));
                checks
            };
            let (stopped, accepted) = (start(), mute.accepted());
            let tasks = stopped.shared.tasks.clone();
            until(|| mute.accepted() > accepted).await;
            within(stopped.stop()).await;
            assert!(tasks.is_empty());

            let dropped = start();
            let tasks = dropped.shared.tasks.clone();
            drop(dropped);
            until(|| tasks.is_empty()).await;
        }
    }
}
