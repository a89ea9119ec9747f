//! The session table of a UDP listener: client address → session, in the order in which they were used last.
//!
//! Pure: time is an argument. Finding, adding, using and ending a session cost the same however many there are; so does finding the one
//! that was silent for the longest, which is the next to time out, and the one that gives way when the table is full.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use foldhash::fast::RandomState;
use slab::Slab;

/// Who a session belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// Where the client sends from, and wants replies.
    pub(crate) address: SocketAddr,
    /// The address of ours that it sends to, which replies must come from. None: the listener has one address alone.
    pub(crate) local: Option<IpAddr>,
}

/// Names one session, and never another one: what has ended is not found by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionId {
    slot: u32,
    generation: u32,
}

impl SessionId {
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// The sessions of one listener and worker.
#[derive(Debug)]
pub(crate) struct Sessions<T> {
    by_client: HashMap<Client, SessionId, RandomState>,
    /// Invariant: those that `by_client` has, linked from the oldest use to the newest.
    slots: Slab<Slot<T>>,
    oldest: Option<u32>,
    newest: Option<u32>,
    next_generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    client: Client,
    generation: u32,
    used_at: Instant,
    older: Option<u32>,
    newer: Option<u32>,
    session: T,
}

impl<T> Default for Sessions<T> {
    fn default() -> Self {
        Self { by_client: HashMap::default(), slots: Slab::new(), oldest: None, newest: None, next_generation: 0 }
    }
}

impl<T> Sessions<T> {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(crate) fn find(&self, client: &Client) -> Option<SessionId> {
        self.by_client.get(client).copied()
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<(&Client, &mut T)> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
        Some((&slot.client, &mut slot.session))
    }

    /// Adds the session of a client that has none, as the one that was used last.
    pub(crate) fn insert(&mut self, client: Client, session: T, now: Instant) -> SessionId {
        self.next_generation = self.next_generation.wrapping_add(1);
        let generation = self.next_generation;
        let slot = self.slots.insert(Slot { client, generation, used_at: now, older: None, newer: None, session });
        // There are fewer sessions than ports.
        let id = SessionId { slot: slot as u32, generation };
        self.by_client.insert(client, id);
        self.append(id.slot);
        id
    }

    /// Notes that a session is used. `now` never goes back.
    pub(crate) fn touch(&mut self, id: SessionId, now: Instant) {
        match self.slots.get_mut(id.slot as usize) {
            // Within a moment of the clock the order does not matter.
            Some(slot) if slot.generation == id.generation && slot.used_at != now => slot.used_at = now,
            _ => return,
        }
        self.unlink(id.slot);
        self.append(id.slot);
    }

    pub(crate) fn remove(&mut self, id: SessionId) -> Option<T> {
        self.get_mut(id)?;
        self.unlink(id.slot);
        let slot = self.slots.try_remove(id.slot as usize)?;
        self.by_client.remove(&slot.client);
        Some(slot.session)
    }

    /// The session that was not used for the longest, and when it was.
    pub(crate) fn oldest(&self) -> Option<(SessionId, Instant)> {
        let slot = self.oldest?;
        self.slots.get(slot as usize).map(|held| (SessionId { slot, generation: held.generation }, held.used_at))
    }

    /// The ids of the sessions of which `is_meant` says so. Looks at all.
    pub(crate) fn ids(&self, is_meant: impl Fn(&T) -> bool) -> Vec<SessionId> {
        let meant = self.slots.iter().filter(|(_, slot)| is_meant(&slot.session));
        meant.map(|(index, slot)| SessionId { slot: index as u32, generation: slot.generation }).collect()
    }

    fn unlink(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let (older, newer) = (slot.older.take(), slot.newer.take());
        match older.and_then(|older| self.slots.get_mut(older as usize)) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|newer| self.slots.get_mut(newer as usize)) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
    }

    fn append(&mut self, index: u32) {
        let newest = self.newest.replace(index);
        match newest.and_then(|newest| self.slots.get_mut(newest as usize)) {
            Some(slot) => slot.newer = Some(index),
            None => self.oldest = Some(index),
        }
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.older = newest;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn client(number: u16) -> Client {
        Client { address: SocketAddr::new(IpAddr::from([127, 0, 0, 1]), number), local: None }
    }

    #[test]
    fn a_session_that_ended_is_not_found_by_its_id() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let first = sessions.insert(client(1), 'a', now);
        assert_eq!(SessionId::from_bits(first.to_bits()), first);
        assert_eq!(sessions.remove(first), Some('a'));
        let second = sessions.insert(client(2), 'b', now);
        assert!(sessions.get_mut(first).is_none() && sessions.remove(first).is_none());
        assert_eq!(sessions.get_mut(second), Some((&client(2), &mut 'b')));
        assert_eq!((sessions.find(&client(1)), sessions.find(&client(2))), (None, Some(second)));
    }

    #[test]
    fn where_a_client_sends_to_tells_its_sessions_apart() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let to = |last| Client { local: Some(IpAddr::from([127, 0, 0, last])), ..client(1) };
        let ids = [1, 2].map(|last| sessions.insert(to(last), last, now));
        assert_eq!([1, 2].map(|last| sessions.find(&to(last))), ids.map(Some));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever happens: the table is what a list is that is searched from end to end.
        #[test]
        fn is_a_list_in_the_order_of_use(steps in prop::collection::vec((0..3_u8, 0..8_u16), 0..200)) {
            let (mut sessions, start) = (Sessions::default(), Instant::now());
            let mut list: Vec<(u16, Instant)> = Vec::new();
            for (at, (what, number)) in (0_u32..).zip(steps) {
                // Some steps share a moment, as they do between two ticks.
                let now = start + Duration::from_secs(u64::from(at / 3));
                let known = sessions.find(&client(number));
                prop_assert_eq!(known.is_some(), list.iter().any(|(held, _)| *held == number));
                match (what, known) {
                    (0, None) => {
                        sessions.insert(client(number), number, now);
                        list.push((number, now));
                    }
                    (1, Some(id)) => {
                        sessions.touch(id, now);
                        let place = list.iter().position(|(held, _)| *held == number).unwrap();
                        if list[place].1 != now {
                            list.remove(place);
                            list.push((number, now));
                        }
                    }
                    (2, Some(id)) => {
                        prop_assert_eq!(sessions.remove(id), Some(number));
                        list.retain(|(held, _)| *held != number);
                    }
                    _ => {}
                }
                prop_assert_eq!(sessions.len(), list.len());
                let oldest = sessions.oldest();
                let oldest = oldest.map(|(id, used_at)| (*sessions.get_mut(id).unwrap().1, used_at));
                prop_assert_eq!(oldest, list.first().copied());
            }
            let mut order = Vec::new();
            while let Some((id, _)) = sessions.oldest() {
                order.extend(sessions.remove(id));
            }
            prop_assert_eq!(order, list.into_iter().map(|(number, _)| number).collect::<Vec<_>>());
        }
    }
}
