//! The indices that may be picked at all: those of weight above zero.

use super::Candidates;
use super::dice::Dice;
use crate::socket::SocketAddress;

/// The indices of weight above zero, in their order.
#[derive(Debug)]
pub(super) struct Members(Box<[u32]>);

impl Members {
    pub(super) fn of(endpoints: &[(SocketAddress, u16)]) -> Self {
        Self((0..).zip(endpoints).filter(|(_, (_, weight))| *weight > 0).map(|(index, _)| index).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().map(|index| *index as usize)
    }

    pub(super) fn index(&self, slot: usize) -> Option<usize> {
        self.0.get(slot).map(|index| *index as usize)
    }

    /// Looks at each member once, and returns the first eligible one.
    ///
    /// It starts anywhere and goes on by a random stride, not to the neighbour: when a whole range of endpoints is down (they are often
    /// listed rack by rack), neighbours would send all of its traffic to the one endpoint that follows the range.
    pub(super) fn find_any(&self, candidates: &impl Candidates, dice: &mut Dice) -> Option<usize> {
        let count = self.len();
        if count == 0 {
            return None;
        }
        let stride = STRIDES[dice.below(STRIDES.len())] % count;
        let mut slot = dice.below(count);
        for _ in 0..count {
            if let Some(index) = self.index(slot)
                && candidates.is_eligible(index)
            {
                return Some(index);
            }
            slot += stride;
            if slot >= count {
                slot -= count;
            }
        }
        None
    }
}

/// Primes, greater than any count of endpoints, so that they divide none and visit each member once. (Modulo 1 they are 0, and one
/// member needs no stride.)
const STRIDES: [usize; 4] = [4_294_967_291, 2_654_435_761, 3_266_489_917, 2_246_822_519];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::contract::{Fleet, endpoints};

    #[test]
    fn finds_the_only_eligible_one() {
        for count in [1, 2, 3, 10, 97, 1000] {
            let members = Members::of(&endpoints(&vec![1; count]));
            for only in 0..count {
                let fleet = Fleet::only(count, [only]);
                assert_eq!(members.find_any(&fleet, &mut Dice::new(only as u64)), Some(only));
            }
            assert_eq!(members.find_any(&Fleet::only(count, []), &mut Dice::new(7)), None);
        }
    }

    #[test]
    fn spreads_behind_a_range_that_is_down() {
        let members = Members::of(&endpoints(&[1; 100]));
        let fleet = Fleet::only(100, 90..100);
        let mut picks = [0; 100];
        for seed in 0..10_000 {
            picks[members.find_any(&fleet, &mut Dice::new(seed)).unwrap()] += 1;
        }
        assert!(picks[90..].iter().all(|count| (400..2500).contains(count)), "{:?}", &picks[90..]);
    }
}
