//! The check of one endpoint: probe it, judge the result, note a change, wait, and again.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connect::Target;
use super::deadline::Deadline;
use super::failure::{Failure, Fault};
use super::http::Question;
use super::jitter::jittered;
use super::threshold::Threshold;
use super::{http, tcp};
use crate::backoff::random;
use crate::config::upstream::{Health as Settings, Probe};
use crate::metrics::UpstreamMetrics;
use crate::names::Name;
use crate::routing::EndpointState;
use crate::routing::endpoint::Health;
use crate::routing::upstream::Transport;

/// What all checks share.
#[derive(Debug)]
pub(super) struct Shared {
    runtime: Handle,
    /// Owns the tasks of all checks.
    pub(super) tasks: TaskTracker,
    /// One permit per probe in flight. Never closed.
    permits: Semaphore,
}

impl Shared {
    /// For checks that run on `runtime`, with no more than `probes_max` probes in flight.
    pub(super) fn new(runtime: Handle, probes_max: usize) -> Self {
        Self { runtime, tasks: TaskTracker::new(), permits: Semaphore::new(probes_max) }
    }
}

/// What a check needs to know. It holds no upstream: a check may outlive many versions of one.
pub(super) struct Check {
    /// The upstream's name, for logs.
    pub(super) upstream: Name,
    /// What is probed, and told the outcome.
    pub(super) endpoint: Arc<EndpointState>,
    /// What is asked, how often, and what follows.
    pub(super) settings: Arc<Settings>,
    /// How the endpoint is reached.
    pub(super) transport: Arc<Transport>,
    /// Where transitions are counted.
    pub(super) metrics: Arc<UpstreamMetrics>,
    /// What it shares with the other checks.
    pub(super) shared: Arc<Shared>,
}

/// A check that runs until this is dropped. From then on it does not change its endpoint, even while its task is still ending.
pub(super) struct Running {
    gate: Arc<Gate>,
    _stop: DropGuard,
}

impl Running {
    /// Tells one running check from another.
    #[cfg(test)]
    pub(super) fn identity(&self) -> usize {
        Arc::as_ptr(&self.gate).addr()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gate.close();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running")
    }
}

/// Stands between a check and its endpoint. Cancelling a task does not stop it at once when it runs on another thread, so whoever
/// closes the gate knows that nothing passes afterwards.
struct Gate {
    is_open: Mutex<bool>,
}

impl Gate {
    fn new() -> Self {
        Self { is_open: Mutex::new(true) }
    }

    /// Runs `change` unless the gate is closed. Returns whether it ran.
    fn pass(&self, change: impl FnOnce()) -> bool {
        let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_open {
            change();
        }
        *is_open
    }

    fn close(&self) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// What a probe found, or why it failed.
type Outcome = Result<String, Failure>;

impl Check {
    /// Starts the check; its first probe comes at once.
    pub(super) fn start(self) -> Running {
        let (gate, stop) = (Arc::new(Gate::new()), CancellationToken::new());
        let shared = self.shared.clone();
        shared.tasks.spawn_on(stop.clone().run_until_cancelled_owned(self.run(gate.clone())), &shared.runtime);
        Running { gate, _stop: stop.drop_guard() }
    }

    async fn run(self, gate: Arc<Gate>) {
        let mut threshold = Threshold::new(self.endpoint.health(), self.settings.rise, self.settings.fall);
        loop {
            let (started, outcome) = self.next_outcome().await;
            self.apply(outcome, &mut threshold, &gate);
            let interval = jittered(self.settings.interval, random());
            tokio::time::sleep(interval.saturating_sub(started.elapsed())).await;
        }
    }

    /// Probes when it is our turn. The time spent waiting for that is not counted against the endpoint.
    async fn next_outcome(&self) -> (Instant, Outcome) {
        let _permit = self.shared.permits.acquire().await.expect("it is never closed");
        let deadline = Deadline::after(self.settings.timeout);
        // In a box, so that a check that waits for its next probe, as most do, does not hold the space of one.
        (deadline.started(), caught(self.probe(deadline).boxed()).await)
    }

    async fn probe(&self, deadline: Deadline) -> Outcome {
        let target = Target { endpoint: &self.endpoint, transport: &self.transport, port: self.settings.port, deadline };
        match &self.settings.probe {
            Probe::Tcp => tcp::probe(&target).await,
            Probe::Http { path, host, status: (low, high) } => {
                let question = Question { path, host: host.as_deref(), status: *low..=*high };
                http::probe(&question, &target, &self.shared.tasks).await
            }
        }
    }

    fn apply(&self, outcome: Outcome, threshold: &mut Threshold, gate: &Gate) {
        let (is_success, reason) = match outcome {
            Ok(found) => (true, found),
            Err(Failure { reason, fault: Fault::Endpoint }) => (false, reason),
            Err(Failure { reason, fault: Fault::Us }) => {
                tracing::debug!(upstream = %self.upstream, endpoint = %self.endpoint.address, reason, "endpoint could not be probed");
                return;
            }
        };
        let Some(health) = threshold.observe(is_success) else { return };
        if gate.pass(|| self.endpoint.set_health(health, SystemTime::now(), reason.as_str())) {
            self.report(health, &reason);
        }
    }

    fn report(&self, health: Health, reason: &str) {
        let (upstream, endpoint) = (&self.upstream, &self.endpoint.address);
        if health == Health::Up {
            self.metrics.transition("up");
            tracing::info!(%upstream, %endpoint, reason, "endpoint is up");
        } else {
            self.metrics.transition("down");
            tracing::warn!(%upstream, %endpoint, reason, "endpoint is down");
        }
    }
}

/// A panic in a probe is a fault of ours: it says nothing of the endpoint, and must not end its check for good.
async fn caught(probe: impl Future<Output = Outcome>) -> Outcome {
    AssertUnwindSafe(probe).catch_unwind().await.unwrap_or_else(|_| Err(Failure::ours("the probe panicked")))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{health, meter, transport};
    use super::*;
    use crate::config::upstream::UpstreamProtocol;

    fn check() -> Check {
        let upstream = Name::literal("web");
        Check {
            endpoint: Arc::new(EndpointState::new(std::net::SocketAddr::from(([127, 0, 0, 1], 1)), true)),
            settings: Arc::new(health("/")),
            transport: transport(UpstreamProtocol::Http1, None),
            metrics: Arc::new(UpstreamMetrics::new(&meter().1, &upstream)),
            shared: Arc::new(Shared::new(Handle::current(), 1)),
            upstream,
        }
    }

    #[tokio::test]
    async fn a_fault_of_ours_is_not_held_against_the_endpoint() {
        let (check, gate) = (check(), Gate::new());
        let mut threshold = Threshold::new(Health::Unknown, 1, 1);
        check.apply(caught(async { panic!("in a probe") }).await, &mut threshold, &gate);
        assert_eq!(check.endpoint.health(), Health::Unknown);
        check.apply(Err(Failure::endpoint("connect: refused")), &mut threshold, &gate);
        assert_eq!(check.endpoint.health(), Health::Down);
    }

    #[tokio::test]
    async fn nothing_passes_a_closed_gate() {
        let (check, gate) = (check(), Gate::new());
        gate.close();
        check.apply(Ok("connected".into()), &mut Threshold::new(Health::Unknown, 1, 1), &gate);
        assert_eq!((check.endpoint.health(), check.endpoint.last_change()), (Health::Unknown, None));
    }

    #[tokio::test]
    async fn a_probe_waits_for_its_turn() {
        let check = check();
        let held = check.shared.permits.acquire().await.unwrap();
        let mut outcome = std::pin::pin!(check.next_outcome());
        assert!(outcome.as_mut().now_or_never().is_none());
        drop(held);
        let (_, outcome) = outcome.await;
        assert_eq!(outcome, Err(Failure::endpoint("connect: refused")));
    }
}
