//! Consistent hash: the same key goes to the same endpoint while that is eligible, and when one goes only its own keys move.
//!
//! The ring is nginx's and memcached's ketama, by `pingora-ketama`: 160 points for each unit of weight, at places that depend on the
//! endpoint's address alone. So it is the same in every instance, whatever order endpoints are listed in.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use pingora_ketama::{Bucket, Continuum};

use super::alias::Alias;
use super::dice::{Dice, mix};
use super::{Candidates, Draw};

/// Consistent hash on a ring.
pub struct Hash {
    ring: Continuum,
    /// The index of the endpoint that owns each point of the ring.
    owners: Box<[u32]>,
    /// For requests that have no key, and when most of the ring is down.
    alias: Alias,
}

impl Hash {
    /// Points looked at before all endpoints are searched. With a tenth of them eligible one key in 10^11 gets that far.
    const POINTS_MAX: usize = 256;

    /// The greatest sum of weights on a ring, unless there are more endpoints: it bounds the ring to 655,360 points, 8 MB.
    const WEIGHTS_MAX: u64 = 4_096;

    /// The most endpoints on a ring: `pingora-ketama` numbers them with 16 bits. Those beyond, by address, serve only when the others
    /// cannot.
    const RING_ENDPOINTS_MAX: usize = 65_536;

    pub(super) fn new(endpoints: &[(SocketAddr, u16)]) -> Self {
        let alias = Alias::new(endpoints);
        let mut indices: HashMap<SocketAddr, u32> = HashMap::new();
        let mut distinct = Vec::with_capacity(alias.members().len());
        for index in alias.members().iter() {
            let Some((address, weight)) = endpoints.get(index) else { continue };
            // An address that is listed twice has its points once: those of its first entry.
            indices.entry(*address).or_insert_with(|| {
                distinct.push((*address, u64::from(*weight)));
                index as u32
            });
        }
        distinct.sort_unstable();
        distinct.truncate(Self::RING_ENDPOINTS_MAX);
        let ring = Continuum::new(&buckets(&distinct));
        Self { owners: owners(&ring, &indices), ring, alias }
    }

    pub(super) fn pick(&self, candidates: &impl Candidates, draw: Draw) -> Option<usize> {
        match draw.key {
            Some(key) => self.walk(key, candidates),
            None => self.alias.draw_eligible(candidates, &mut Dice::new(draw.random)),
        }
    }

    /// Goes along the ring from the key's place to the first point whose owner is eligible.
    fn walk(&self, key: u64, candidates: &impl Candidates) -> Option<usize> {
        let start = self.ring.node_idx(&key.to_le_bytes()).min(self.owners.len());
        let (before, after) = self.owners.split_at(start);
        let points = after.iter().chain(before).take(Self::POINTS_MAX);
        let owner = points.map(|owner| *owner as usize).find(|owner| candidates.is_eligible(*owner));
        // The dice are the key's, not the request's: also here the same key goes to the same endpoint.
        owner.or_else(|| self.alias.draw_eligible(candidates, &mut Dice::new(key)))
    }
}

/// Heavy weights are halved together until their sum is within the bound. Halving is coarse on purpose: a scale that followed the sum
/// would move keys between endpoints that stay, each time another one comes or goes.
fn buckets(endpoints: &[(SocketAddr, u64)]) -> Vec<Bucket> {
    let scaled = |weight: u64, halvings: u32| (weight >> halvings).max(1);
    let is_within = |halvings: &u32| {
        let sum: u64 = endpoints.iter().map(|(_, weight)| scaled(*weight, *halvings)).sum();
        sum <= Hash::WEIGHTS_MAX
    };
    // After 16 halvings every weight is 1.
    let halvings = (0..u16::BITS).find(is_within).unwrap_or(u16::BITS);
    endpoints.iter().map(|(address, weight)| Bucket::new(*address, scaled(*weight, halvings) as u32)).collect()
}

/// Goes around the ring once.
fn owners(ring: &Continuum, indices: &HashMap<SocketAddr, u32>) -> Box<[u32]> {
    let mut owners = Vec::new();
    let mut point = 0;
    while let Some(index) = ring.get_addr(&mut point).and_then(|address| indices.get(address)) {
        owners.push(*index);
        if point == 0 {
            break;
        }
    }
    owners.into()
}

/// The ring has no debug output of its own, and millions of points.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hash").field("points", &self.owners.len()).finish_non_exhaustive()
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
        let twice = [listed[2], listed[1], listed[0], listed[1]];
        let (one, other) = (Hash::new(&listed), Hash::new(&twice));
        for key in (0..1000_u64).map(|key| hash_bytes(&key.to_le_bytes())) {
            assert_eq!(listed[pick(&one, &Fleet::all(3), key)], twice[pick(&other, &Fleet::all(4), key)]);
        }
    }

    #[test]
    fn heavy_weights_are_bounded() {
        let policy = Hash::new(&endpoints(&[1000; 100]));
        assert!(policy.owners.len() <= Hash::WEIGHTS_MAX as usize * 160);
        assert_eq!(buckets(&[(endpoints(&[1])[0].0, 65_535)]), [Bucket::new(endpoints(&[1])[0].0, 4_095)]);
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
                prop_assert_eq!(listed[failed_over].0, rest[pick(&after, &Fleet::all(rest.len()), key)].0);
            }
        }
    }
}
