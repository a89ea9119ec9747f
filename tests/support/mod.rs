//! What integration tests share: real stores, and eyes on what providers publish.
//!
//! Nothing here sleeps to wait for something: conditions are awaited, with a deadline.

// Each test binary uses a part of it, as a module of its own.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use nuncio::config::{Protection, Snapshot};
use nuncio::discovery::{Feed, FeedStatus, Provider, Publisher, Supervisor};
use tokio::sync::mpsc;

pub mod clock;
pub mod consul;
pub mod consul_agent;
pub mod consul_services;
pub mod dockerd;
pub mod engine_stub;
pub mod etcd;
pub mod etcd2;
pub mod gpg;
pub mod http1;
pub mod http_document;
pub mod marathon;
pub mod page;
pub mod relay;
pub mod stub;
pub mod zookeeper;

/// Longer than anything that works can take, on a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A provider under a supervisor, and what it publishes.
pub struct Observed {
    supervisor: Supervisor,
}

impl Observed {
    /// Starts `provider`.
    pub fn new(provider: Box<dyn Provider>) -> Self {
        // What comes and goes is observed as the provider says it; what is gone as a whole may be held.
        let protection = Protection { hold_down: Duration::ZERO, grace: Duration::ZERO, ..Protection::default() };
        Self { supervisor: Supervisor::start_keeping(vec![provider], protection, None) }
    }

    /// What is known of the provider.
    pub fn feed(&self) -> &Feed {
        self.supervisor.feeds().first().expect("one provider was started")
    }

    /// Waits for a snapshot that `is_expected`.
    pub async fn until(&self, what: &str, is_expected: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        self.within(DEADLINE, what, is_expected).await
    }

    /// The same, with `limit` as the deadline.
    pub async fn within(&self, limit: Duration, what: &str, is_expected: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        self.wait(limit, what, || self.feed().latest().filter(|snapshot| is_expected(snapshot))).await
    }

    /// Waits for a status that `is_expected`.
    pub async fn until_status(&self, what: &str, is_expected: impl Fn(&FeedStatus) -> bool) -> FeedStatus {
        self.wait(DEADLINE, what, || Some(self.feed().status()).filter(&is_expected)).await
    }

    /// Stops the provider, and waits until it has.
    pub async fn stop(self) {
        tokio::time::timeout(DEADLINE, self.supervisor.stop()).await.expect("the supervisor stops");
    }

    async fn wait<T>(&self, limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let seen = async {
            loop {
                if let Some(value) = look() {
                    return value;
                }
                self.supervisor.changed().await;
            }
        };
        match tokio::time::timeout(limit, seen).await {
            Ok(value) => value,
            Err(_) => panic!(
                "{what}: not within {limit:?}\nstatus: {:?}\nlatest: {:?}",
                self.feed().status(),
                self.feed().latest().map(|snapshot| summary(&snapshot)),
            ),
        }
    }
}

/// A publisher that keeps every snapshot, each with the moment of its publication.
pub struct Recorder(mpsc::UnboundedSender<(Snapshot, Instant)>);

impl Recorder {
    /// A recorder, and what it records.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<(Snapshot, Instant)>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }
}

impl Publisher for Recorder {
    fn publish(&self, snapshot: Snapshot) {
        // Nobody listens any more when the test is over.
        let _ = self.0.send((snapshot, Instant::now()));
    }

    fn contact(&self) {}
}

/// The names of what a snapshot holds, for the message of a failed test.
pub fn summary(snapshot: &Snapshot) -> String {
    let keys = |names: Vec<&nuncio::names::Name>| format!("{} {:?}", names.len(), names.iter().take(8).collect::<Vec<_>>());
    format!(
        "revision {:?}, routes {}, upstreams {}, problems {}",
        snapshot.revision,
        keys(snapshot.routes.keys().collect()),
        keys(snapshot.upstreams.keys().collect()),
        snapshot.problems.len(),
    )
}

/// The endpoints of an upstream that have keys of their own and can be used.
pub fn endpoints(snapshot: &Snapshot, upstream: &str) -> Vec<String> {
    let entries = snapshot.upstreams.get(upstream).into_iter().flat_map(|entry| entry.endpoints.values());
    entries.filter_map(|entry| entry.value.as_ref().ok()).map(|endpoint| endpoint.address.to_string()).collect()
}

/// Whether nothing at all is configured.
pub fn is_empty(snapshot: &Snapshot) -> bool {
    snapshot.listeners.is_empty() && snapshot.routes.is_empty() && snapshot.upstreams.is_empty() && snapshot.problems.is_empty()
}
