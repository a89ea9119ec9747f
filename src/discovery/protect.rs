//! What is in force of what a provider says.
//!
//! ```text
//!  says ──► guard: what is gone ──► hold_down: endpoints that come and go ──► grace: routes that are gone ──► in force
//!           all at once is held     are left out                              with their endpoints stay
//! ```
//!
//! Pure: whoever holds it says what time it is, and asks again when something is due.

use std::sync::Arc;
use std::time::Instant;

use super::grace::Grace;
use super::guard::{self, Gone};
use super::hold_down::HoldDown;
use crate::config::Snapshot;
use crate::config::protection::Protection;
use crate::config::snapshot::Removals;
use crate::names::Name;

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

/// Keeps of one provider what stands between what it says and what is in force.
#[derive(Debug)]
pub(super) struct Protector {
    provider: Name,
    protection: Protection,
    /// What the provider said last, with what is held.
    guarded: Option<Arc<Snapshot>>,
    held: Option<Held>,
    held_updates: u64,
    /// What was gone of late, without having been deleted and without being too much.
    recent: Option<Recent>,
    hold_down: HoldDown,
    grace: Grace,
}

/// Objects that stay in force although the source does not list them any more.
#[derive(Debug)]
struct Held {
    /// What stays.
    objects: Snapshot,
    /// What the provider says itself.
    own: Snapshot,
    status: HeldStatus,
}

/// What was gone within a few seconds.
#[derive(Debug)]
struct Recent {
    since: Instant,
    /// What the provider said before any of it was.
    start: Arc<Snapshot>,
    lost: Snapshot,
}

impl Protector {
    pub(super) fn new(provider: Name, protection: Protection) -> Self {
        let (hold_down, grace) = (HoldDown::default(), Grace::default());
        Self { provider, protection, guarded: None, held: None, held_updates: 0, recent: None, hold_down, grace }
    }

    /// This is in force before the provider has said anything: an earlier run kept it.
    pub(super) fn start_with(&mut self, kept: Arc<Snapshot>) {
        self.guarded = Some(kept);
    }

    /// Takes what the provider says now. Returns what is in force.
    pub(super) fn take(&mut self, own: Snapshot, now: Instant) -> Arc<Snapshot> {
        let before = self.guarded.take();
        let guarded = Arc::new(match &before {
            Some(before) if !self.protection.hold.is_zero() => self.guard(before, own, now),
            _ => own,
        });
        self.follow(before, guarded, now)
    }

    /// Lets go of what is held, because someone says so. Returns what is in force then, if that changes anything.
    pub(super) fn release(&mut self, now: Instant) -> Option<Arc<Snapshot>> {
        let own = self.held.take()?.own;
        tracing::warn!(provider = %self.provider, "confirmed: what was held is let go");
        self.let_go(own, now)
    }

    /// What changes as time passes. Returns what is in force then, if anything does.
    pub(super) fn pass_time(&mut self, now: Instant) -> Option<Arc<Snapshot>> {
        if let Some(held) = self.held.take_if(|held| held.status.until <= now) {
            tracing::warn!(provider = %self.provider, "its time is up: what was held is let go");
            return self.let_go(held.own, now);
        }
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        self.hold_down.pass_time(now);
        self.grace.pass_time(now);
        let guarded = self.guarded.clone()?;
        Some(self.in_force(&guarded, Some(now)))
    }

    /// When something changes if nothing else comes.
    pub(super) fn due(&self) -> Option<Instant> {
        let held = self.held.as_ref().map(|held| held.status.until);
        [held, self.hold_down.due(), self.grace.due()].into_iter().flatten().min()
    }

    /// What is held.
    pub(super) fn held(&self) -> Option<&HeldStatus> {
        self.held.as_ref().map(|held| &held.status)
    }

    /// How many updates were held.
    pub(super) fn held_updates(&self) -> u64 {
        self.held_updates
    }

    /// What the provider said last, with what is held. None: nothing yet.
    pub(super) fn guarded(&self) -> Option<&Arc<Snapshot>> {
        self.guarded.as_ref()
    }

    fn let_go(&mut self, own: Snapshot, now: Instant) -> Option<Arc<Snapshot>> {
        let before = self.guarded.take();
        Some(self.follow(before, Arc::new(Snapshot { seen_at: now, ..own }), now))
    }

    fn follow(&mut self, before: Option<Arc<Snapshot>>, guarded: Arc<Snapshot>, now: Instant) -> Arc<Snapshot> {
        let Protection { hold_down, grace, .. } = self.protection;
        if let Some(before) = before {
            if !hold_down.is_zero() {
                self.hold_down.observe(&before, &guarded, hold_down, now);
            }
            if !grace.is_zero() {
                self.grace.observe(&before, &guarded, grace, now);
            }
        }
        let in_force = self.in_force(&guarded, None);
        self.guarded = Some(guarded);
        in_force
    }

    /// Mostly the same. `changed_at`: when it is not the provider that changes it.
    fn in_force(&self, guarded: &Arc<Snapshot>, changed_at: Option<Instant>) -> Arc<Snapshot> {
        if self.hold_down.due().is_none() && self.grace.due().is_none() && changed_at.is_none() {
            return guarded.clone();
        }
        let mut snapshot = Snapshot::clone(guarded);
        snapshot.seen_at = changed_at.unwrap_or(snapshot.seen_at);
        self.hold_down.leave_out(&mut snapshot);
        self.grace.add_to(&mut snapshot);
        Arc::new(snapshot)
    }

    /// What the provider says now, with what is held of it.
    fn guard(&mut self, before: &Arc<Snapshot>, own: Snapshot, now: Instant) -> Snapshot {
        let earlier = self.held.take();
        if own.removals == Removals::Explicit {
            return self.keep_holding(earlier, own);
        }
        // The same, or not much more, again.
        let earlier = earlier.filter(|held| !guard::is_too_much(&self.protection, &held.own, &held.own, &own)).map(|held| held.status);
        let is_repeated = earlier.as_ref().is_some_and(|held| now.saturating_duration_since(held.since) >= self.protection.confirm_after);
        let is_recent = |recent: &Recent| now.saturating_duration_since(recent.since) < self.protection.confirm_after;
        let recent = self.recent.take().filter(is_recent);
        let (since, start, before) = match recent {
            Some(Recent { since, start, lost }) => (since, start, &guard::with_held(Snapshot::clone(before), &lost)),
            None => (now, before.clone(), &**before),
        };
        let gone = guard::gone(before, &own);
        if gone.is_empty() {
            return own;
        }
        let objects = guard::lost(before, &own);
        if is_repeated || !guard::is_too_much(&self.protection, &start, before, &own) {
            if earlier.is_some() {
                tracing::warn!(provider = %self.provider, "the source repeats it, or has most of it again: nothing is held any more");
            } else {
                self.recent = Some(Recent { since, start, lost: objects });
            }
            return own;
        }
        let merged = guard::with_held(own.clone(), &objects);
        let (since, until) = earlier.map_or((now, now + self.protection.hold), |held| (held.since, held.until));
        tracing::error!(
            provider = %self.provider, hold = ?self.protection.hold,
            "held: {} would be gone at once, and nobody said that they were deleted", guard::tell(&gone)
        );
        self.held_updates += 1;
        self.held = Some(Held { objects, own, status: HeldStatus { since, until, gone } });
        merged
    }

    /// What is deleted is gone at once, also of what is held; the rest of that stays.
    fn keep_holding(&mut self, held: Option<Held>, own: Snapshot) -> Snapshot {
        let Some(Held { objects, status, .. }) = held else { return own };
        let objects = guard::lost(&objects, &own);
        let merged = guard::with_held(own.clone(), &objects);
        if guard::gone(&merged, &own).is_empty() {
            return own;
        }
        self.held = Some(Held { objects, own, status });
        merged
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::providers::{Layout, LayoutKind, RouteTemplate};
    use crate::discovery::kv::{Pair, Tree};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A provider, what it says, and the time.
    struct World {
        protector: Protector,
        now: Instant,
        in_force: Arc<Snapshot>,
    }

    impl World {
        fn new() -> Self {
            let protector = Protector::new(Name::literal("test"), Protection::default());
            let now = Instant::now();
            Self { protector, now, in_force: Arc::new(Snapshot::empty(now)) }
        }

        /// The provider says that service `u` has these instances, and that those that are missing were deleted, or does not say so.
        fn says(&mut self, removals: Removals, ids: impl IntoIterator<Item = u8>) {
            let route = RouteTemplate::parse(r#"Host("{name}.example.com")"#).ok();
            let mut tree = Tree::with_layout("/s", Name::literal("test"), Layout { kind: LayoutKind::Services, route });
            for id in ids {
                let key = format!("/s/u/{id}");
                tree.put(Pair { key: key.as_bytes(), value: format!("10.0.0.{id}:80").as_bytes(), revision: 1 });
            }
            let said = Snapshot { removals, ..tree.snapshot(None, self.now) };
            self.in_force = self.protector.take(said, self.now);
        }

        fn lists(&mut self, ids: impl IntoIterator<Item = u8>) {
            self.says(Removals::Inferred, ids);
        }

        fn deletes_all_but(&mut self, ids: impl IntoIterator<Item = u8>) {
            self.says(Removals::Explicit, ids);
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            while let Some(in_force) = self.protector.pass_time(self.now) {
                self.in_force = in_force;
            }
        }

        #[track_caller]
        fn check(&self, expected: &[u8], is_held: bool) {
            let upstream = self.in_force.upstreams.get("u");
            let ids: Vec<u8> = upstream.iter().flat_map(|it| it.endpoints.keys()).map(|id| id.as_str().parse().unwrap()).collect();
            assert_eq!((ids.as_slice(), self.protector.held().is_some()), (expected, is_held));
        }
    }

    #[test]
    fn a_list_that_lost_much_is_held_until_its_time_is_up() {
        let mut world = World::new();
        world.lists(1..=6);
        world.lists([6, 7]);
        world.check(&[1, 2, 3, 4, 5, 6, 7], true);
        world.pass(seconds(5));
        // Soon again is no confirmation, and moves nothing.
        world.lists([6, 7]);
        world.pass(Duration::from_millis(24_999));
        world.check(&[1, 2, 3, 4, 5, 6, 7], true);
        world.pass(Duration::from_millis(1));
        world.check(&[6, 7], false);
        assert_eq!(world.protector.held_updates(), 2);
    }

    #[test]
    fn a_later_list_that_says_the_same_lets_it_go() {
        let mut world = World::new();
        world.lists(1..=6);
        world.lists([6]);
        world.check(&[1, 2, 3, 4, 5, 6], true);
        world.pass(seconds(10));
        world.lists([6, 7]);
        world.check(&[6, 7], false);
    }

    #[test]
    fn a_list_that_is_whole_again_ends_it() {
        let mut world = World::new();
        world.lists(1..=6);
        world.lists([]);
        world.check(&[1, 2, 3, 4, 5, 6], true);
        world.lists(2..=6);
        world.check(&[2, 3, 4, 5, 6], false);
    }

    #[test]
    fn what_is_deleted_goes_at_once_also_while_others_are_held() {
        let mut world = World::new();
        world.lists(1..=6);
        world.deletes_all_but([1]);
        world.check(&[1], false);
        world.lists(1..=6);
        world.lists([5, 6]);
        world.check(&[1, 2, 3, 4, 5, 6], true);
        world.deletes_all_but([6, 7]);
        world.check(&[1, 2, 3, 4, 6, 7], true);
        // One that was held comes back, and is deleted: it is the source's own again.
        world.deletes_all_but([1, 6, 7]);
        world.deletes_all_but([6, 7]);
        world.check(&[2, 3, 4, 6, 7], true);
        world.in_force = world.protector.release(world.now).unwrap();
        world.check(&[6, 7], false);
    }

    #[test]
    fn what_is_gone_bit_by_bit_within_seconds_is_gone_at_once() {
        let mut world = World::new();
        world.lists(1..=6);
        for first in 2..=4 {
            world.pass(seconds(1));
            world.lists(first..=6);
            world.check(&(first..=6).collect::<Vec<_>>(), false);
        }
        world.pass(seconds(1));
        world.lists(5..=6);
        world.check(&[1, 2, 3, 4, 5, 6], true);
        // Slowly, each is believed.
        let mut world = World::new();
        world.lists(1..=6);
        for first in 2..=6 {
            world.pass(seconds(11));
            world.lists(first..=6);
            world.check(&(first..=6).collect::<Vec<_>>(), false);
        }
    }

    #[test]
    fn instances_that_come_back_under_other_ids_are_not_gone() {
        let mut world = World::new();
        world.lists(1..=2);
        for id in 1..=7 {
            world.pass(Duration::from_millis(200));
            world.lists([id + 1]);
            world.check(&[id + 1], false);
            world.lists([id + 1, id + 2]);
            world.check(&[id + 1, id + 2], false);
        }
    }

    #[test]
    fn an_endpoint_that_comes_and_goes_must_stay_before_it_gets_traffic() {
        let mut world = World::new();
        world.deletes_all_but([1, 2]);
        for _ in 0..3 {
            world.check(&[1, 2], false);
            world.pass(seconds(1));
            world.deletes_all_but([1]);
            world.pass(seconds(1));
            world.deletes_all_but([1, 2]);
        }
        world.check(&[1], false);
        assert!(world.in_force.problems[0].to_string().contains("was gone 3 times within 60 s"), "{:?}", world.in_force.problems);
        world.deletes_all_but([1, 2, 3]);
        world.check(&[1, 3], false);
        // The only one is better than none.
        world.deletes_all_but([2]);
        world.check(&[2], false);
        world.deletes_all_but([2, 4]);
        world.check(&[4], false);
        world.pass(seconds(10));
        world.check(&[2, 4], false);
        assert!(world.in_force.problems.is_empty() && world.protector.due().is_none());
    }

    #[test]
    fn a_route_that_is_gone_with_its_endpoints_stays_for_a_while() {
        let mut world = World::new();
        world.deletes_all_but([1, 2]);
        world.deletes_all_but([]);
        assert!(world.in_force.routes.contains_key("u") && world.in_force.upstreams["u"].endpoints.is_empty());
        world.pass(seconds(59));
        world.deletes_all_but([]);
        assert!(world.in_force.routes.contains_key("u"));
        world.deletes_all_but([3]);
        world.check(&[3], false);
        world.pass(seconds(2));
        world.check(&[3], false);
        world.deletes_all_but([]);
        world.pass(seconds(60));
        assert!(world.in_force.routes.is_empty() && world.in_force.upstreams.is_empty());
    }

    #[test]
    fn a_source_that_is_empty_after_a_start_from_disk_is_held() {
        let mut world = World::new();
        world.lists(1..=6);
        let kept = world.in_force;
        let mut world = World::new();
        world.protector.start_with(kept);
        world.lists([]);
        world.check(&[1, 2, 3, 4, 5, 6], true);
    }

    #[test]
    fn what_is_said_first_is_in_force() {
        let mut world = World::new();
        world.lists([]);
        world.lists(1..=6);
        world.check(&[1, 2, 3, 4, 5, 6], false);
        assert!(world.protector.due().is_none());
    }
}
