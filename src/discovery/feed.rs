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
use super::guard::{self, Gone, Guard};
use super::stored::Kept;
use crate::config::Snapshot;
use crate::config::snapshot::Removals;
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
    guard: Option<Guard>,
    held: Option<Held>,
}

/// Objects that are kept in force although the source does not list them any more.
#[derive(Debug)]
struct Held {
    /// What is kept.
    objects: Snapshot,
    /// What the provider says itself.
    own: Snapshot,
}

/// Why, and for how long, an update is held in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldStatus {
    /// Since when.
    pub since: Instant,
    /// Until when, if nothing else comes.
    pub until: Instant,
    /// What it would have taken away.
    pub gone: Vec<Gone>,
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
    pub(super) fn new(name: Name, guard: Option<Guard>, changed: Arc<Notify>) -> Self {
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
        let inner = Inner { latest: None, status, guard, held: None };
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
            let snapshot = inner.guarded(snapshot, now, &self.name);
            inner.status.from_disk = None;
            inner.latest = Some(Arc::new(snapshot));
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
        self.release_if("confirmed", |_| true)
    }

    /// When what is held is let go.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.lock().status.held.as_ref().map(|held| held.until)
    }

    /// Lets go of what is held, if its time is up.
    pub(super) fn release_due(&self, now: Instant) {
        self.release_if("its time is up", |held| held.until <= now);
    }

    fn release_if(&self, why: &str, is_so: impl FnOnce(&HeldStatus) -> bool) -> bool {
        {
            let mut inner = self.lock();
            if !inner.status.held.as_ref().is_some_and(is_so) {
                return false;
            }
            inner.status.held = None;
            let Some(held) = inner.held.take() else { return false };
            inner.latest = Some(Arc::new(Snapshot { seen_at: Instant::now(), ..held.own }));
        }
        tracing::warn!(provider = %self.name, "{why}: what was held is let go");
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
            inner.latest = Some(Arc::new(kept.snapshot));
        }
        self.changed.notify_one();
        true
    }

    /// What is to be kept on disk: what the provider itself published last.
    pub(super) fn to_keep(&self) -> Option<Arc<Snapshot>> {
        let inner = self.lock();
        inner.latest.clone().filter(|_| inner.status.from_disk.is_none())
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
    /// What is to be in force of what the provider says now.
    fn guarded(&mut self, own: Snapshot, now: Instant, name: &Name) -> Snapshot {
        let held = self.held.take();
        let since = self.status.held.take();
        let before = self.latest.as_ref().filter(|_| self.status.from_disk.is_none());
        let (Some(guard), Some(before)) = (self.guard, before) else { return own };
        if own.removals == Removals::Explicit {
            let (Some(held), Some(since)) = (held, since) else { return own };
            let objects = guard::lost(&held.objects, &own);
            let merged = guard::with_held(own.clone(), &objects);
            if guard::gone(&merged, &own).is_empty() {
                return own;
            }
            (self.held, self.status.held) = (Some(Held { objects, own }), Some(since));
            return merged;
        }
        // The same, or not much more, again.
        let earlier = held.zip(since).filter(|(held, _)| !guard.holds(&held.own, &own)).map(|(_, since)| since);
        let is_repeated = earlier.as_ref().is_some_and(|earlier| now.saturating_duration_since(earlier.since) >= guard.confirm_after);
        if is_repeated || !guard.holds(before, &own) {
            if earlier.is_some() {
                tracing::warn!(provider = %name, "the source repeats it, or has most of it again: nothing is held any more");
            }
            return own;
        }
        let gone = guard::gone(before, &own);
        let objects = guard::lost(before, &own);
        let merged = guard::with_held(own.clone(), &objects);
        let (since, until) = earlier.map_or((now, now + guard.hold), |earlier| (earlier.since, earlier.until));
        let what: Vec<String> = gone.iter().map(ToString::to_string).collect();
        tracing::error!(provider = %name, hold = ?guard.hold, "held: {} would be gone at once, and nobody said that they were deleted", what.join(", "));
        self.status.held_updates += 1;
        (self.held, self.status.held) = (Some(Held { objects, own }), Some(HeldStatus { since, until, gone }));
        merged
    }
}

impl FeedStatus {
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
    use crate::discovery::kv::{Pair, Tree};

    fn feed(confirm_after: Duration) -> Feed {
        let guard = Guard { confirm_after, ..Guard::default() };
        Feed::new(Name::literal("test"), Some(guard), Arc::default())
    }

    /// A snapshot of upstream `u` with these endpoints.
    fn snapshot(ids: impl IntoIterator<Item = u8>, removals: Removals) -> Snapshot {
        let mut tree = Tree::new("/n", Name::literal("test"));
        tree.put(Pair { key: b"/n/upstreams/u", value: b"{}", revision: 1 });
        for id in ids {
            let key = format!("/n/upstreams/u/endpoints/{id}");
            tree.put(Pair { key: key.as_bytes(), value: format!("10.0.0.{id}:80").as_bytes(), revision: 1 });
        }
        Snapshot { removals, ..tree.snapshot(None, Instant::now()) }
    }

    fn list(ids: impl IntoIterator<Item = u8>) -> Snapshot {
        snapshot(ids, Removals::Inferred)
    }

    #[track_caller]
    fn check(feed: &Feed, expected: &[u8], is_held: bool) {
        let latest = feed.latest().unwrap();
        let ids: Vec<u8> = latest.upstreams["u"].endpoints.keys().map(|id| id.as_str().parse().unwrap()).collect();
        assert_eq!((ids.as_slice(), feed.status().held.is_some()), (expected, is_held));
    }

    #[test]
    fn a_list_that_lost_much_is_held_until_its_time_is_up() {
        let feed = feed(Duration::from_secs(10));
        feed.publish(list(1..=6));
        feed.publish(list([6, 7]));
        check(&feed, &[1, 2, 3, 4, 5, 6, 7], true);
        let until = feed.held_until().unwrap();
        feed.release_due(until.checked_sub(Duration::from_millis(1)).unwrap());
        check(&feed, &[1, 2, 3, 4, 5, 6, 7], true);
        // At once again is no confirmation, and moves nothing.
        feed.publish(list([6, 7]));
        assert_eq!(feed.held_until(), Some(until));
        feed.release_due(until);
        check(&feed, &[6, 7], false);
        assert_eq!(feed.status().held_updates, 2);
    }

    #[test]
    fn a_later_list_that_says_the_same_lets_it_go() {
        let feed = feed(Duration::ZERO);
        feed.publish(list(1..=6));
        feed.publish(list([6]));
        check(&feed, &[1, 2, 3, 4, 5, 6], true);
        feed.publish(list([6, 7]));
        check(&feed, &[6, 7], false);
    }

    #[test]
    fn a_list_that_is_whole_again_ends_it() {
        let feed = feed(Duration::from_secs(10));
        feed.publish(list(1..=6));
        feed.publish(list([]));
        check(&feed, &[1, 2, 3, 4, 5, 6], true);
        feed.publish(list(2..=6));
        check(&feed, &[2, 3, 4, 5, 6], false);
    }

    #[test]
    fn what_is_deleted_goes_at_once_also_while_others_are_held() {
        let feed = feed(Duration::from_secs(10));
        feed.publish(snapshot(1..=6, Removals::Explicit));
        feed.publish(snapshot([1], Removals::Explicit));
        check(&feed, &[1], false);
        feed.publish(list(1..=6));
        feed.publish(list([5, 6]));
        check(&feed, &[1, 2, 3, 4, 5, 6], true);
        feed.publish(snapshot([6, 7], Removals::Explicit));
        check(&feed, &[1, 2, 3, 4, 6, 7], true);
        // One that was held comes back, and is deleted: it is the source's own again.
        feed.publish(snapshot([1, 6, 7], Removals::Explicit));
        feed.publish(snapshot([6, 7], Removals::Explicit));
        check(&feed, &[2, 3, 4, 6, 7], true);
        assert!(feed.release());
        check(&feed, &[6, 7], false);
    }

    #[test]
    fn the_first_snapshot_replaces_what_is_served_from_disk() {
        let feed = feed(Duration::from_secs(10));
        assert!(feed.fall_back(Kept { snapshot: list(1..=6), saved_at: SystemTime::now() }));
        check(&feed, &[1, 2, 3, 4, 5, 6], false);
        assert!(feed.to_keep().is_none(), "it is on disk already");
        feed.publish(list([6]));
        check(&feed, &[6], false);
        assert!(!feed.fall_back(Kept { snapshot: list(1..=6), saved_at: SystemTime::now() }), "it was heard from");
        assert!(feed.to_keep().is_some() && feed.status().from_disk.is_none());
    }
}
