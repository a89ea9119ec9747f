//! Consistent hash: the same key goes to the same endpoint while that is eligible, and when one goes only its own keys move.
//!
//! An endpoint's points on the ring depend on its address and weight alone. So the ring is the same in every instance, whatever order
//! endpoints are listed in.

use std::collections::BTreeMap;
use std::fmt;

use super::alias::Alias;
use super::dice::{Dice, mix};
use super::ring::Ring;
use super::{Candidates, Draw};
use crate::socket::SocketAddress;

/// Consistent hash on a ring.
pub struct Hash {
    ring: Ring,
    /// For requests that have no key, and when most of the ring is down.
    alias: Alias,
}

impl Hash {
    /// Points looked at before all endpoints are searched. With a tenth of them eligible one key in 10^11 gets that far.
    const POINTS_MAX: usize = 256;

    pub(super) fn new(endpoints: &[(SocketAddress, u16)]) -> Self {
        let alias = Alias::new(endpoints);
        // Sorted by address. One that is listed twice has its points once: those of its first entry.
        let mut owners: BTreeMap<&SocketAddress, (u16, usize)> = BTreeMap::new();
        for index in alias.members().iter() {
            if let Some((address, weight)) = endpoints.get(index) {
                owners.entry(address).or_insert((*weight, index));
            }
        }
        let owners: Vec<_> = owners.into_iter().map(|(address, (weight, index))| (address, weight, index as u32)).collect();
        Self { ring: Ring::new(&owners), alias }
    }

    pub(super) fn pick(&self, candidates: &impl Candidates, draw: Draw) -> Option<usize> {
        match draw.key {
            Some(key) => self.walk(key, candidates),
            None => self.alias.draw_eligible(candidates, &mut Dice::new(draw.random)),
        }
    }

    /// Goes along the ring from the key's place to the first point whose owner is eligible.
    fn walk(&self, key: u64, candidates: &impl Candidates) -> Option<usize> {
        let place = (mix(key) >> 32) as u32;
        let owner = self.ring.owners_from(place).take(Self::POINTS_MAX).find(|owner| candidates.is_eligible(*owner));
        // The dice are the key's, not the request's: also here the same key goes to the same endpoint.
        owner.or_else(|| self.alias.draw_eligible(candidates, &mut Dice::new(key)))
    }
}

/// A ring has very many points.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hash").field("points", &self.ring.len()).finish_non_exhaustive()
    }
}

/// The hash of a key, the same in every process, on every machine, and in every version: 64-bit FNV-1a
/// (draft-eastlake-fnv, offset basis `cbf29ce484222325`, prime `100000001b3`) and the finaliser of SplitMix64 after it, because the
/// high bits of FNV-1a alone hardly change with the last byte.
///
/// Clients can find keys that meet: it says where a request goes, and protects nothing.
#[must_use]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::contract::{Fleet, endpoints};

    fn pick(policy: &Hash, fleet: &Fleet, key: u64) -> usize {
        policy.pick(fleet, Draw { random: 0, key: Some(key) }).unwrap()
    }

    /// Clients would move if these changed.
    #[test]
    fn hash_is_stable() {
        assert_eq!(hash_bytes(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(hash_bytes(b"a"), mix(0xaf63_dc4c_8601_ec8c));
        assert_eq!(hash_bytes(b"foobar"), mix(0x8594_4171_f739_67e8));
    }

    #[test]
    fn order_and_duplicates_do_not_matter() {
        let listed = endpoints(&[1, 2, 3]);
        let twice = [2, 1, 0, 1].map(|index: usize| listed[index].clone());
        let (one, other) = (Hash::new(&listed), Hash::new(&twice));
        for key in (0..1000_u64).map(|key| hash_bytes(&key.to_le_bytes())) {
            assert_eq!(listed[pick(&one, &Fleet::all(3), key)], twice[pick(&other, &Fleet::all(4), key)]);
        }
    }

    /// The same key goes to the same endpoint also when nearly all of the ring is down.
    #[test]
    fn stays_consistent_when_nearly_all_are_down() {
        let policy = Hash::new(&endpoints(&[1; 1000]));
        let fleet = Fleet::only(1000, [3, 500, 900]);
        for key in (0..200_u64).map(|key| hash_bytes(&key.to_le_bytes())) {
            let picks = [1, 2].map(|random| policy.pick(&fleet, Draw { random, key: Some(key) }));
            assert_eq!(picks[0], picks[1]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whether an endpoint fails or is removed: only its own keys move, and to the same places.
        #[test]
        fn only_keys_of_the_lost_endpoint_move(weights in prop::collection::vec(1..5_u16, 2..12), lost: prop::sample::Index) {
            let listed = endpoints(&weights);
            let lost = lost.index(listed.len());
            let mut rest = listed.clone();
            rest.remove(lost);
            let (before, after) = (Hash::new(&listed), Hash::new(&rest));
            let down = Fleet::only(listed.len(), (0..listed.len()).filter(|index| *index != lost));
            for key in (0..500_u64).map(|key| hash_bytes(&key.to_le_bytes())) {
                let home = pick(&before, &Fleet::all(listed.len()), key);
                let failed_over = pick(&before, &down, key);
                prop_assert!(home == lost || failed_over == home);
                prop_assert_eq!(&listed[failed_over].0, &rest[pick(&after, &Fleet::all(rest.len()), key)].0);
            }
        }
    }
}
