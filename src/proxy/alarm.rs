//! Time limits of connections and exchanges, kept coarsely by one tick per worker.
//!
//! A timer of the runtime costs a lock and a list insertion each time it is set, and a request needs several. Here setting a limit is a
//! store into a slab entry; a tick every [`TICK`] looks at all entries and wakes the tasks whose limit has passed. A limit is never early,
//! and late by two ticks at most.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// How often limits are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// The limits of one worker.
pub(crate) struct Alarms {
    now: Cell<Instant>,
    entries: RefCell<Slab<Entry>>,
}

#[derive(Default)]
struct Entry {
    deadline: Option<Instant>,
    has_fired: bool,
    waker: Option<Waker>,
}

impl Alarms {
    pub(crate) fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self { now: Cell::new(now), entries: RefCell::default() })
    }

    /// A new alarm, not set.
    pub(crate) fn alarm(self: &Rc<Self>) -> Alarm {
        let key = self.entries.borrow_mut().insert(Entry::default());
        Alarm { alarms: self.clone(), key }
    }

    /// Fires the alarms whose deadline has passed.
    pub(crate) fn tick(&self, now: Instant) {
        self.now.set(now);
        let mut woken = Vec::new();
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.deadline.is_some_and(|deadline| deadline <= now) {
                entry.deadline = None;
                entry.has_fired = true;
                woken.extend(entry.waker.take());
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }

    /// Wakes every task that holds an alarm, so that it looks whether to drain.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<Waker> = self.entries.borrow().iter().filter_map(|(_, entry)| entry.waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The time of the last tick.
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }
}

/// One limit, of one task. Gone when dropped.
pub(crate) struct Alarm {
    alarms: Rc<Alarms>,
    key: usize,
}

impl Alarm {
    /// Fires after `limit`, instead of when it was to fire before.
    pub(crate) fn set(&self, limit: Duration) {
        self.update(|entry, now| {
            entry.deadline = now.checked_add(limit.saturating_add(TICK));
            entry.has_fired = false;
        });
    }

    /// Does not fire until it is set again.
    pub(crate) fn clear(&self) {
        self.update(|entry, _| {
            entry.deadline = None;
            entry.has_fired = false;
        });
    }

    /// Whether it has fired. If not, the task is woken when it does.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> bool {
        self.update(|entry, _| {
            match &mut entry.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            entry.has_fired
        })
    }

    /// Whether it has fired.
    pub(crate) fn has_fired(&self) -> bool {
        self.update(|entry, _| entry.has_fired)
    }

    fn update<T: Default>(&self, change: impl FnOnce(&mut Entry, Instant) -> T) -> T {
        let now = self.alarms.now.get();
        self.alarms.entries.borrow_mut().get_mut(self.key).map_or_else(T::default, |entry| change(entry, now))
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // try_remove: a panic in a drop would end the process.
        if let Ok(mut entries) = self.alarms.entries.try_borrow_mut() {
            entries.try_remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_once_after_its_limit() {
        let start = Instant::now();
        let alarms = Alarms::new(start);
        let alarm = alarms.alarm();
        let cx = Context::from_waker(Waker::noop());
        alarm.set(Duration::from_secs(1));
        alarms.tick(start + Duration::from_secs(1));
        assert!(!alarm.poll(&cx));
        alarms.tick(start + Duration::from_secs(1) + TICK);
        assert!(alarm.poll(&cx));
        alarm.set(Duration::from_secs(1));
        assert!(!alarm.poll(&cx));
        alarm.clear();
        alarms.tick(start + Duration::from_secs(100));
        assert!(!alarm.poll(&cx));
        drop(alarm);
        assert!(alarms.entries.borrow().is_empty());
    }
}
