//! What is known of one provider: what it published last, and how it is doing.
//!
//! ```text
//!               publish, contact                error, panic
//!  Connecting ───────────────────► Live ◄──────────────────────► Failing
//!                                    │      publish, contact
//!                                    └──► Finished: the source will never change again
//! ```
//!
//! A provider that was not heard from yet may be served from disk: [`FeedStatus::from_disk`].

use std::mem::discriminant;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use super::Publisher;
use super::protect::{HeldStatus, Protector};
use super::stored::Kept;
use crate::config::Snapshot;
use crate::config::protection::Protection;
use crate::names::Name;

/// What is known of one provider.
#[derive(Debug)]
pub struct Feed {
    name: Name,
    inner: Mutex<Inner>,
    changed: Arc<Notify>,
    /// Wakes the one who keeps the snapshots on disk.
    keeper: Notify,
}

#[derive(Debug)]
struct Inner {
    latest: Option<Arc<Snapshot>>,
    status: FeedStatus,
    protector: Protector,
}

/// How a provider is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedStatus {
    /// What it is doing now.
    pub state: FeedState,
    /// Since when.
    pub since: Instant,
    /// The source's revision of the latest snapshot, if the source has revisions.
    pub revision: Option<u64>,
    /// When the source was last heard from, whether or not anything had changed.
    pub last_contact: Option<Instant>,
    /// When the change that led to the latest snapshot was seen.
    pub last_change: Option<Instant>,
    /// How often the provider was called again after a failure.
    pub restarts: u64,
    /// Whether there is a snapshot. A source that is there and empty has one.
    pub has_snapshot: bool,
    /// The latest snapshot was kept on disk by an earlier run, which wrote it at this time: the provider itself has not published yet.
    pub from_disk: Option<SystemTime>,
    /// Why what it publishes is not kept on disk, or what was kept cannot be used.
    pub disk_error: Option<String>,
    /// The latest update is held in part.
    pub held: Option<HeldStatus>,
    /// How many updates were.
    pub held_updates: u64,
}

/// What a provider is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedState {
    /// It was not heard from yet.
    Connecting,
    /// Its source answers.
    Live,
    /// Its source failed, and is tried again. What it published last stays in force.
    Failing {
        /// Why: what we were doing, to what, and what went wrong.
        error: String,
    },
    /// Its source will never change again. What it published last stays in force.
    Finished,
}

impl std::fmt::Display for FeedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Live => f.write_str("live"),
            Self::Failing { error } => write!(f, "failing: {error}"),
            Self::Finished => f.write_str("finished"),
        }
    }
}

impl Feed {
    pub(super) fn new(name: Name, protection: Protection, changed: Arc<Notify>) -> Self {
        let status = FeedStatus {
            state: FeedState::Connecting,
            since: Instant::now(),
            revision: None,
            last_contact: None,
            last_change: None,
            restarts: 0,
            has_snapshot: false,
            from_disk: None,
            disk_error: None,
            held: None,
            held_updates: 0,
        };
        let inner = Inner { latest: None, status, protector: Protector::new(name.clone(), protection) };
        Self { name, inner: Mutex::new(inner), changed, keeper: Notify::new() }
    }

    /// The provider's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What the provider published last. None: nothing yet, which is not the same as an empty snapshot.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.lock().latest.clone()
    }

    /// How the provider is doing.
    #[must_use]
    pub fn status(&self) -> FeedStatus {
        self.lock().status.clone()
    }

    /// A panic while the lock is held cannot leave `Inner` half changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, snapshot: Snapshot) {
        let now = Instant::now();
        let entered = {
            let mut inner = self.lock();
            inner.status.revision = snapshot.revision;
            inner.status.last_contact = Some(now);
            inner.status.last_change = Some(snapshot.seen_at);
            inner.status.has_snapshot = true;
            inner.status.from_disk = None;
            let in_force = inner.protector.take(snapshot, now);
            inner.put_in_force(in_force);
            inner.status.enter(FeedState::Live, now)
        };
        self.changed.notify_one();
        self.keeper.notify_one();
        self.log_live(entered);
    }

    fn contact(&self) {
        let now = Instant::now();
        let entered = {
            let mut inner = self.lock();
            inner.status.last_contact = Some(now);
            inner.status.enter(FeedState::Live, now)
        };
        if entered {
            self.changed.notify_one();
        }
        self.log_live(entered);
    }

    pub(super) fn fail(&self, error: String, retry: Duration) {
        let entered = self.lock().status.enter(FeedState::Failing { error: error.clone() }, Instant::now());
        if entered {
            tracing::warn!(provider = %self.name, %error, ?retry, "provider failed; what it published last stays in force");
            self.changed.notify_one();
            self.keeper.notify_one();
        } else {
            tracing::debug!(provider = %self.name, %error, ?retry, "provider failed again");
        }
    }

    pub(super) fn restart(&self) {
        self.lock().status.restarts += 1;
    }

    pub(super) fn finish(&self) {
        self.lock().status.enter(FeedState::Finished, Instant::now());
        self.changed.notify_one();
    }

    /// Lets go of what is held. Whether anything was.
    pub fn release(&self) -> bool {
        self.change(|protector| protector.release(Instant::now()))
    }

    /// When what is in force changes, if nothing else comes.
    pub(super) fn due(&self) -> Option<Instant> {
        self.lock().protector.due()
    }

    /// Does what is due.
    pub(super) fn pass_time(&self, now: Instant) {
        self.change(|protector| protector.pass_time(now));
    }

    /// Whether anything changed.
    fn change(&self, change: impl FnOnce(&mut Protector) -> Option<Arc<Snapshot>>) -> bool {
        {
            let mut inner = self.lock();
            let Some(in_force) = change(&mut inner.protector) else { return false };
            inner.put_in_force(in_force);
        }
        self.changed.notify_one();
        self.keeper.notify_one();
        true
    }

    /// Takes what an earlier run kept on disk, unless the provider has published by now. Whether it was taken.
    pub(super) fn fall_back(&self, kept: Kept) -> bool {
        {
            let mut inner = self.lock();
            if inner.latest.is_some() {
                return false;
            }
            inner.status.revision = kept.snapshot.revision;
            inner.status.has_snapshot = true;
            inner.status.from_disk = Some(kept.saved_at);
            let kept = Arc::new(kept.snapshot);
            inner.protector.start_with(kept.clone());
            inner.latest = Some(kept);
        }
        self.changed.notify_one();
        true
    }

    /// What is to be kept on disk: what the provider itself published last, with what is held.
    pub(super) fn to_keep(&self) -> Option<Arc<Snapshot>> {
        let inner = self.lock();
        inner.protector.guarded().filter(|_| inner.status.from_disk.is_none()).cloned()
    }

    /// Waits until there is something new to keep, or the provider fails.
    pub(super) async fn keeper_is_called(&self) {
        self.keeper.notified().await;
    }

    /// Notes why nothing is kept on disk, or that it is again.
    pub(super) fn not_kept(&self, error: Option<String>) {
        if let Some(error) = &error {
            tracing::warn!(provider = %self.name, "{error}");
        }
        self.lock().status.disk_error = error;
    }

    fn log_live(&self, entered: bool) {
        if entered {
            tracing::info!(provider = %self.name, "provider is live");
        }
    }
}

impl Inner {
    fn put_in_force(&mut self, snapshot: Arc<Snapshot>) {
        self.latest = Some(snapshot);
        self.status.held = self.protector.held().cloned();
        self.status.held_updates = self.protector.held_updates();
    }
}

impl FeedStatus {
    /// By how long what is in force may be behind its source at `now`: nobody could ask it since, or it has taken away since what is held.
    /// Zero: nothing is known to be missing. None: the source was never heard from.
    #[must_use]
    pub fn lag(&self, now: Instant) -> Option<Duration> {
        let unheard = match self.state {
            FeedState::Live | FeedState::Finished => Duration::ZERO,
            FeedState::Connecting | FeedState::Failing { .. } => now.saturating_duration_since(self.last_contact?),
        };
        let held = self.held.as_ref().map(|held| now.saturating_duration_since(held.since));
        Some(unheard.max(held.unwrap_or_default()))
    }

    /// Whether `state` is another one than before. Failing for another reason is not: with several servers the reasons alternate.
    fn enter(&mut self, state: FeedState, now: Instant) -> bool {
        let entered = discriminant(&self.state) != discriminant(&state);
        self.state = state;
        if entered {
            self.since = now;
        }
        entered
    }
}

/// The feed as its provider sees it. Nobody else can publish.
pub(super) struct Inlet(pub(super) Arc<Feed>);

impl Publisher for Inlet {
    fn publish(&self, snapshot: Snapshot) {
        self.0.publish(snapshot);
    }

    fn contact(&self) {
        self.0.contact();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_snapshot_replaces_what_is_served_from_disk() {
        let feed = Feed::new(Name::literal("test"), Protection::default(), Arc::default());
        let now = Instant::now();
        assert!(feed.fall_back(Kept { snapshot: Snapshot { revision: Some(3), ..Snapshot::empty(now) }, saved_at: SystemTime::now() }));
        assert_eq!((feed.status().revision, feed.status().from_disk.is_some()), (Some(3), true));
        assert!(feed.to_keep().is_none(), "it is on disk already");
        feed.publish(Snapshot { revision: Some(4), ..Snapshot::empty(now) });
        assert_eq!(feed.latest().unwrap().revision, Some(4));
        assert!(!feed.fall_back(Kept { snapshot: Snapshot::empty(now), saved_at: SystemTime::now() }), "it was heard from");
        assert!(feed.to_keep().is_some() && feed.status().from_disk.is_none());
    }

    #[test]
    fn what_cannot_be_asked_lags_behind_since_it_was_heard_from() {
        let feed = Feed::new(Name::literal("test"), Protection::default(), Arc::default());
        let lag = |at| feed.status().lag(at);
        assert_eq!(lag(Instant::now()), None, "never heard from");
        feed.publish(Snapshot::empty(Instant::now()));
        let later = feed.status().last_contact.unwrap() + Duration::from_secs(5);
        assert_eq!(lag(later), Some(Duration::ZERO), "whoever is asked and has nothing new is not behind");
        feed.fail("refused".into(), Duration::ZERO);
        assert_eq!(lag(later), Some(Duration::from_secs(5)));
        feed.contact();
        assert_eq!(lag(later), Some(Duration::ZERO));
    }
}
