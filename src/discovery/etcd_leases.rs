//! Which keys of an etcd end with which lease, to tell one that was deleted from one that its lease took along: the events are the same.
//!
//! A lease that ends takes all its keys along, in one revision. So a key that goes while another one of its lease stays was deleted by
//! someone. Of the last one it is not known. Pure.

use std::collections::HashMap;

/// The keys that end with leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// The lease of each key.
    of: HashMap<Box<[u8]>, i64>,
    /// How many keys each lease has.
    counts: HashMap<i64, usize>,
}

impl Leases {
    /// A key was written with this lease; 0: without one.
    pub(super) fn put(&mut self, key: &[u8], lease: i64) {
        self.delete(key);
        if lease != 0 {
            self.of.insert(key.into(), lease);
            *self.counts.entry(lease).or_default() += 1;
        }
    }

    /// A key is gone. The lease that it had.
    pub(super) fn delete(&mut self, key: &[u8]) -> Option<i64> {
        let lease = self.of.remove(key)?;
        if let Some(count) = self.counts.get_mut(&lease) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&lease);
            }
        }
        Some(lease)
    }

    /// Whether keys of this lease are there, so that it has not ended.
    pub(super) fn lives(&self, lease: i64) -> bool {
        self.counts.contains_key(&lease)
    }

    /// Nothing is known any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lives_as_long_as_it_has_keys() {
        let mut leases = Leases::default();
        for (key, lease) in [("a", 1), ("b", 1), ("b", 1), ("c", 2), ("d", 0)] {
            leases.put(key.as_bytes(), lease);
        }
        assert_eq!((leases.delete(b"a"), leases.lives(1)), (Some(1), true));
        // To another lease, and to none.
        leases.put(b"b", 2);
        assert!(!leases.lives(1) && leases.lives(2));
        leases.put(b"c", 0);
        assert_eq!((leases.delete(b"c"), leases.delete(b"d"), leases.delete(b"b")), (None, None, Some(2)));
        assert!(!leases.lives(2) && leases.of.is_empty() && leases.counts.is_empty());
    }
}
