//! The less busy of two: "The Power of Two Choices in Randomized Load Balancing" (Mitzenmacher 2001).
//!
//! Two different endpoints are drawn by weight, and the one with fewer requests in flight per unit of weight wins. Looking for the
//! least busy of all would cost more and do worse: every worker and every instance would run to the same endpoint at once.

use super::alias::Alias;
use super::dice::Dice;
use super::{Candidates, Draw};
use crate::socket::SocketAddress;

/// The less busy of two, drawn by weight.
#[derive(Debug)]
pub struct LeastRequest {
    alias: Alias,
    /// Weight of each endpoint, by its index.
    weights: Box<[u16]>,
}

impl LeastRequest {
    /// How many draws look for a second endpoint that differs from the first. When one endpoint holds nearly all of the weight the
    /// search may fail; then the first is taken, as it would be nearly always.
    const SECOND_DRAWS_MAX: usize = 8;

    pub(super) fn new(endpoints: &[(SocketAddress, u16)]) -> Self {
        Self { alias: Alias::new(endpoints), weights: endpoints.iter().map(|(_, weight)| *weight).collect() }
    }

    pub(super) fn pick(&self, candidates: &impl Candidates, draw: Draw) -> Option<usize> {
        let mut dice = Dice::new(draw.random);
        let first = self.alias.draw_eligible(candidates, &mut dice)?;
        match self.second(first, candidates, &mut dice) {
            Some(second) if self.is_less_busy(second, first, candidates) => Some(second),
            _ => Some(first),
        }
    }

    fn second(&self, first: usize, candidates: &impl Candidates, dice: &mut Dice) -> Option<usize> {
        if self.alias.members().len() < 2 {
            return None;
        }
        let mut draws = (0..Self::SECOND_DRAWS_MAX).filter_map(|_| self.alias.draw(dice));
        draws.find(|index| *index != first && candidates.is_eligible(*index))
    }

    /// Compares requests in flight per unit of weight, without a division. A tie is for the first draw: the draws follow the weights,
    /// so that idle endpoints get their shares. (Counting the request to come, as in `(in_flight + 1) / weight`, would weigh twice: of
    /// two idle endpoints the heavier would always win.)
    fn is_less_busy(&self, second: usize, first: usize, candidates: &impl Candidates) -> bool {
        let weight = |index| self.weights.get(index).map_or(1, |weight| u64::from(*weight));
        let busy = |index| u64::from(candidates.in_flight(index));
        busy(second) * weight(first) < busy(first) * weight(second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::contract::{Fleet, endpoints};

    #[test]
    fn prefers_the_less_busy_by_weight() {
        let check = |weights: &[u16], in_flight: &[u32]| {
            let policy = LeastRequest::new(&endpoints(weights));
            let fleet = Fleet::busy(in_flight);
            let picks = |random| policy.pick(&fleet, Draw { random, key: None });
            (0..1000).filter(|random| picks(*random) == Some(0)).count()
        };
        assert!(check(&[1, 1], &[0, 1]) > 980, "but for picks whose second draws all hit the first endpoint again");
        assert!(check(&[1, 1], &[1, 0]) < 20);
        assert!((450..550).contains(&check(&[1, 1], &[3, 3])));
        assert!((700..800).contains(&check(&[3, 1], &[0, 0])), "idle endpoints get their shares");
        assert!(check(&[3, 1], &[2, 1]) > 990, "2 of 3 is less busy than 1 of 1");
    }

    /// With the load of its own picks it keeps the fullest endpoint much emptier than a random choice would.
    #[test]
    fn evens_out_load() {
        let count = 100;
        let policy = LeastRequest::new(&endpoints(&vec![1; count]));
        let mut fleet = Fleet::busy(&vec![0; count]);
        for request in 0..100 * count as u64 {
            let index = policy.pick(&fleet, Draw { random: request, key: None }).unwrap();
            fleet.in_flight[index] += 1;
        }
        let most = fleet.in_flight.iter().max().unwrap();
        assert!(*most <= 104, "100 on average, {most} at most; random would give about 125");
    }
}
