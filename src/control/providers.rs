//! How providers are doing, in numbers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{Gauge, Histogram};

use crate::config::Snapshot;
use crate::discovery::{Feed, FeedState};
use crate::metrics as names;
use crate::metrics::Meter;

/// The handles of one provider.
pub(super) struct ProviderMetrics {
    feed: Arc<Feed>,
    live: Gauge,
    from_disk: Gauge,
    age: Gauge,
    change_age: Gauge,
    lag: Gauge,
    revision: Gauge,
    restarts: Gauge,
    rejected: Gauge,
    held: Gauge,
    held_updates: Gauge,
    latency: Histogram,
    /// The snapshot whose rejected objects were counted last.
    counted: Option<Arc<Snapshot>>,
}

impl ProviderMetrics {
    pub(super) fn new(meter: &Meter, feed: &Arc<Feed>) -> Self {
        let labels = [("provider", feed.name().as_str())];
        let gauge = |what| meter.gauge(what, &labels);
        Self {
            feed: feed.clone(),
            live: gauge(names::PROVIDER_LIVE),
            from_disk: gauge(names::PROVIDER_FROM_DISK),
            age: gauge(names::PROVIDER_AGE),
            change_age: gauge(names::PROVIDER_CHANGE_AGE),
            lag: gauge(names::PROVIDER_LAG),
            revision: gauge(names::PROVIDER_REVISION),
            restarts: gauge(names::PROVIDER_RESTARTS),
            rejected: gauge(names::PROVIDER_REJECTED),
            held: gauge(names::PROVIDER_HELD),
            held_updates: gauge(names::PROVIDER_HELD_UPDATES),
            latency: meter.histogram(names::PROVIDER_CHANGE_LATENCY, &labels),
            counted: None,
        }
    }

    /// Writes all that moves by itself.
    pub(super) fn refresh(&mut self, now: Instant) {
        self.count_rejected();
        let status = self.feed.status();
        let age = |at: Instant| now.saturating_duration_since(at);
        self.live.set(f64::from(u8::from(matches!(status.state, FeedState::Live))));
        self.from_disk.set(f64::from(u8::from(status.from_disk.is_some())));
        let kept = status.from_disk.map(|at| at.elapsed().unwrap_or_default());
        self.age.set(seconds(status.last_contact.map(age).or(kept)));
        self.change_age.set(seconds(status.last_change.map(age)));
        self.lag.set(seconds(status.lag(now).or(kept)));
        self.revision.set(status.revision.unwrap_or_default() as f64);
        self.restarts.set(status.restarts as f64);
        self.held.set(f64::from(u8::from(status.held.is_some())));
        self.held_updates.set(status.held_updates as f64);
    }

    /// Notes that this snapshot of the provider is live now.
    pub(super) fn is_live(&self, snapshot: &Snapshot) {
        self.latency.record(snapshot.seen_at.elapsed().as_secs_f64());
    }

    /// Looks at every object, so it is not done with each change.
    fn count_rejected(&mut self) {
        let Some(latest) = self.feed.latest() else { return };
        if self.counted.as_ref().is_none_or(|counted| !Arc::ptr_eq(counted, &latest)) {
            self.rejected.set(latest.all_problems().count() as f64);
            self.counted = Some(latest);
        }
    }
}

/// Not a number: never.
fn seconds(age: Option<Duration>) -> f64 {
    age.map_or(f64::NAN, |age| age.as_secs_f64())
}
