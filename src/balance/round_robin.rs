//! Smooth weighted round robin: the turns are worked out when the table is compiled, a pick takes the next one.

use std::sync::atomic::{AtomicU32, Ordering};

use super::dice::Dice;
use super::members::Members;
use super::{Candidates, DRAWS_MAX, Draw, schedule};
use crate::socket::SocketAddress;

/// Smooth weighted round robin.
#[derive(Debug)]
pub struct RoundRobin {
    schedule: Box<[u32]>,
    members: Members,
    /// The next turn, modulo the length of the schedule. 0: nobody has had one yet.
    turn: AtomicU32,
}

impl RoundRobin {
    pub(super) fn new(endpoints: &[(SocketAddress, u16)]) -> Self {
        let weights: Vec<u16> = endpoints.iter().map(|(_, weight)| *weight).collect();
        Self { schedule: schedule::build(&weights), members: Members::of(endpoints), turn: AtomicU32::new(0) }
    }

    pub(super) fn pick(&self, candidates: &impl Candidates, draw: Draw) -> Option<usize> {
        let turn = self.next_turn(draw.random) as usize % self.schedule.len().max(1);
        let index = *self.schedule.get(turn)? as usize;
        if candidates.is_eligible(index) { Some(index) } else { self.pick_another(candidates, draw.random) }
    }

    /// The first turn is drawn, so that many instances that start together, or one whose table changes often, do not all begin with
    /// the first endpoint. A turn that is counted meanwhile, or drawn anew when the count wraps around, does no harm.
    fn next_turn(&self, random: u64) -> u32 {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if turn != 0 {
            return turn;
        }
        let turn = random as u32;
        self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        turn
    }

    /// Gives the turn of an endpoint that is down to one drawn by weight. The next in the schedule would be easier, but then the
    /// endpoint that follows a failed one in the order would carry its whole load.
    #[cold]
    fn pick_another(&self, candidates: &impl Candidates, random: u64) -> Option<usize> {
        let mut dice = Dice::new(random);
        for _ in 0..DRAWS_MAX {
            let index = *self.schedule.get(dice.below(self.schedule.len()))? as usize;
            if candidates.is_eligible(index) {
                return Some(index);
            }
        }
        self.members.find_any(candidates, &mut dice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::contract::{Fleet, endpoints};

    #[test]
    fn takes_turns_from_a_drawn_start() {
        let check = |start: u64| {
            let policy = RoundRobin::new(&endpoints(&[5, 1, 1]));
            let fleet = Fleet::all(3);
            let picks = (0..7).filter_map(|_| policy.pick(&fleet, Draw { random: start, key: None }));
            picks.map(|index| ["a", "b", "c"][index]).collect::<String>()
        };
        assert_eq!(check(7), "aabacaa");
        assert_eq!(check(9), "bacaaaa");
    }

    #[test]
    fn spreads_the_turns_of_a_failed_endpoint() {
        let policy = RoundRobin::new(&endpoints(&[1; 10]));
        let fleet = Fleet::only(10, 1..10);
        let mut picks = [0; 10];
        for random in 0..9000 {
            picks[policy.pick(&fleet, Draw { random, key: None }).unwrap()] += 1;
        }
        assert!(picks[1..].iter().all(|count| (930..1070).contains(count)), "{picks:?}");
    }
}
