//! The cells of a rate limiter, one per key, in bounded memory.
//!
//! `governor` brings the arithmetic, and a map that grows with every key that clients invent. This one forgets keys that have been
//! silent long enough to have their whole burst again, which changes nothing for them; and when so many are busy at once that the bound
//! is reached, keys that come new share the cell of their shard until there is room.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::StateStore;

/// The most keys of one limiter: about 2 MB.
const KEYS_MAX: usize = 100_000;

/// Each has its own lock, so that workers seldom wait for each other.
const SHARDS: usize = 16;

/// While a full shard has no silent keys, it looks for some this often: a look costs about as much as a thousand requests.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The cells of all keys.
#[derive(Debug)]
pub(super) struct RateCells {
    shards: [Mutex<Shard>; SHARDS],
    /// Time that one request adds to a cell.
    interval: Nanos,
}

#[derive(Debug, Default)]
struct Shard {
    /// For each key the moment at which it has its whole burst again, since the limiter was made.
    cells: HashMap<u64, Nanos>,
    /// The cell that new keys share while there is no room for their own.
    shared: Option<Nanos>,
    /// No silent keys are looked for before.
    next_look: u64,
}

impl RateCells {
    /// Cells of a limiter that lets one request through in each `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        Self { shards: Default::default(), interval: interval.into() }
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[(key % SHARDS as u64) as usize];
        // A cell is written whole, so that a panic elsewhere cannot leave it half done.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        (0..SHARDS as u64).map(|key| self.shard(key).cells.len()).sum()
    }
}

impl StateStore for RateCells {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(*key);
        if let Some(cell) = shard.cells.get_mut(key) {
            let (outcome, next) = measure(Some(*cell))?;
            *cell = next;
            return Ok(outcome);
        }
        // A key that was never seen is let through, and its next moment tells what time it is.
        let (outcome, next) = measure(None)?;
        shard.make_room(next.saturating_sub(self.interval).as_u64());
        if shard.cells.len() < KEYS_MAX / SHARDS {
            shard.cells.insert(*key, next);
            return Ok(outcome);
        }
        let (outcome, next) = measure(shard.shared)?;
        shard.shared = Some(next);
        Ok(outcome)
    }
}

impl Shard {
    /// Forgets silent keys when the shard is full.
    fn make_room(&mut self, now: u64) {
        if self.cells.len() < KEYS_MAX / SHARDS || now < self.next_look {
            return;
        }
        self.cells.retain(|_, moment| moment.as_u64() > now);
        self.next_look = now.saturating_add(LOOK_INTERVAL.as_nanos() as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::clock::FakeRelativeClock;
    use governor::middleware::NoOpMiddleware;
    use governor::{Quota, RateLimiter};

    use super::*;

    /// A million keys, each sending one request: those beyond the bound share a limit, and after a pause they have their own again.
    #[test]
    fn memory_is_bounded() {
        let clock = FakeRelativeClock::default();
        let quota = Quota::with_period(Duration::from_secs(1)).unwrap().allow_burst(NonZeroU32::new(2).unwrap());
        let limiter = RateLimiter::<_, _, _, NoOpMiddleware<_>>::new(quota, RateCells::new(quota.replenish_interval()), clock.clone());
        let through = (0..1_000_000_u64).filter(|key| limiter.check_key(key).is_ok()).count();
        assert_eq!(through, KEYS_MAX + 2 * SHARDS, "one request of each key that has a cell, and the burst of each shared cell");

        clock.advance(Duration::from_secs(10));
        let through = (2_000_000..2_000_100_u64).filter(|key| limiter.check_key(key).is_ok()).count();
        assert_eq!(through, 100);
        assert!(limiter.into_state_store().len() <= KEYS_MAX);
    }
}
