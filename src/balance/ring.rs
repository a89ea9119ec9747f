//! The ring of consistent hashing: ketama, with the points of nginx and memcached, and a look-up in constant time.
//!
//! `pingora-ketama` has the same points, and the tests hold this ring to it. It finds them by binary search, which at a thousand
//! endpoints is a dozen cache misses; here the high bits of a hash lead to its place, which is about two.

use std::io::Write;

use crate::socket::SocketAddress;
use crc32fast::Hasher;

/// Points of an endpoint for each unit of weight.
const POINTS_PER_WEIGHT: u64 = 160;

/// The greatest sum of weights on a ring, unless there are more endpoints: it bounds the ring to 655,360 points, 8 MB.
const WEIGHTS_MAX: u64 = 4_096;

/// Points of endpoints on a circle of 2^32 places.
pub(super) struct Ring {
    /// Invariant: sorted by place, no two at the same.
    points: Box<[Point]>,
    /// For each value of the high bits of a hash the first point that is not before it, and then the count of points.
    starts: Box<[u32]>,
    /// How many bits the others are.
    shift: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    place: u32,
    owner: u32,
}

impl Ring {
    /// A ring of `owners`: address, weight and index of each. Points depend on address and weight alone, not on the order; where two
    /// fall on the same place, the endpoint that is listed first has it.
    pub(super) fn new(owners: &[(&SocketAddress, u16, u32)]) -> Self {
        let halvings = halvings(owners.iter().map(|(_, weight, _)| *weight));
        let mut points = Vec::new();
        for (address, weight, owner) in owners {
            let count = halved(*weight, halvings) * POINTS_PER_WEIGHT;
            points.extend(places(address).take(count as usize).map(|place| Point { place, owner: *owner }));
        }
        points.sort_by_key(|point| point.place);
        points.dedup_by_key(|point| point.place);
        // About one point for each value of the high bits; one bit at least, so that the shift is less than the width.
        let bits = (points.len().max(2).ilog2()).min(24);
        let shift = u32::BITS - bits;
        Self { starts: starts(&points, bits, shift), shift, points: points.into() }
    }

    /// The owners of the points from `place` on, all around.
    pub(super) fn owners_from(&self, place: u32) -> impl Iterator<Item = usize> + '_ {
        let (before, after) = self.points.split_at(self.position(place).min(self.points.len()));
        after.iter().chain(before).map(|point| point.owner as usize)
    }

    /// How many points are before `place`.
    fn position(&self, place: u32) -> usize {
        let high = (place >> self.shift) as usize;
        let start = |high: usize| self.starts.get(high).map_or(self.points.len(), |start| *start as usize);
        let (first, end) = (start(high), start(high + 1));
        let near = self.points.get(first..end).unwrap_or_default();
        first + near.iter().take_while(|point| point.place < place).count()
    }

    pub(super) fn len(&self) -> usize {
        self.points.len()
    }
}

fn starts(points: &[Point], bits: u32, shift: u32) -> Box<[u32]> {
    let mut start = 0;
    let next = |high: u64| {
        let after = points.get(start..).unwrap_or_default();
        start += after.iter().take_while(|point| u64::from(point.place) < high << shift).count();
        start as u32
    };
    (0..=1 << bits).map(next).collect()
}

/// The places of an endpoint: each is the CRC-32 of `address NUL port` and the place before.
fn places(address: &SocketAddress) -> impl Iterator<Item = u32> {
    let mut text = Vec::with_capacity(46);
    // Writing to memory does not fail.
    let _ = match address {
        SocketAddress::Ip(address) => write!(text, "{}\0{}", address.ip(), address.port()),
        SocketAddress::Unix(path) => write!(text, "{path}\0"),
    };
    let mut hasher = Hasher::new();
    hasher.update(&text);
    let next = move |place: &u32| {
        let mut hasher = hasher.clone();
        hasher.update(&place.to_le_bytes());
        Some(hasher.finalize())
    };
    std::iter::successors(Some(0), next).skip(1)
}

/// How often all weights are halved so that their sum is within the bound. Halving is coarse on purpose: a scale that followed the sum
/// would move keys between endpoints that stay, each time another one comes or goes.
fn halvings(weights: impl Iterator<Item = u16> + Clone) -> u32 {
    let is_within = |halvings: &u32| weights.clone().map(|weight| halved(weight, *halvings)).sum::<u64>() <= WEIGHTS_MAX;
    // After as many halvings as a weight has bits, each is 1.
    (0..u16::BITS).find(is_within).unwrap_or(u16::BITS)
}

fn halved(weight: u16, halvings: u32) -> u64 {
    (u64::from(weight) >> halvings).max(1)
}

#[cfg(test)]
mod tests {
    use pingora_ketama::{Bucket, Continuum};
    use proptest::prelude::*;

    use super::*;
    use crate::balance::contract::endpoints;

    fn ring(weights: &[u16]) -> Ring {
        let endpoints = endpoints(weights);
        let owners: Vec<_> = (0..).zip(&endpoints).map(|(owner, (address, weight))| (address, *weight, owner)).collect();
        Ring::new(&owners)
    }

    #[test]
    fn is_bounded() {
        assert!(ring(&[1000; 100]).len() as u64 <= WEIGHTS_MAX * POINTS_PER_WEIGHT);
        assert_eq!(halvings([65_535].into_iter()), 4);
        assert_eq!(halvings([1; 10_000].into_iter()), 16);
        assert_eq!(halvings([4; 1024].into_iter()), 0);
    }

    #[test]
    fn nothing_on_it() {
        assert_eq!(ring(&[]).owners_from(7).next(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn is_that_of_pingora(weights in prop::collection::vec(1..6_u16, 1..20), keys in prop::collection::vec(any::<u64>(), 100)) {
            let endpoints = endpoints(&weights);
            let buckets: Vec<_> = endpoints.iter().map(|(address, weight)| Bucket::new(address.ip().unwrap(), u32::from(*weight))).collect();
            let (ring, theirs) = (ring(&weights), Continuum::new(&buckets));
            for key in keys.iter().map(|key| key.to_le_bytes()) {
                let ours: Vec<_> = ring.owners_from(crc32fast::hash(&key)).take(50).map(|owner| endpoints[owner].0.ip().unwrap()).collect();
                prop_assert_eq!(ours, theirs.node_iter(&key).take(50.min(ring.len())).copied().collect::<Vec<_>>());
            }
        }
    }
}
