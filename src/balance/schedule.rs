//! The order in which smooth weighted round robin serves weights: that of nginx, `a a b a c a a` for 5, 1, 1.
//!
//! nginx adds to each entry its weight, serves the greatest, and subtracts the total from that one; every step looks at all entries.
//! Entries of equal weight, though, take turns. So it is enough to look at the next of each distinct weight, of which there are few:
//! at most √(2 · length). The order is the same, ties included, and a thousand equal endpoints cost one comparison a step.

use std::collections::{BTreeMap, VecDeque};

/// The most turns of a schedule, unless there are more entries than that. Heavier weights are scaled down, never to zero.
const TURNS_MAX: u64 = 65_536;

/// One round: each slot as often as its weight says, spread evenly. Slots of weight zero get no turn.
pub(super) fn build(weights: &[u16]) -> Box<[u32]> {
    let weights = reduce(weights);
    let total: i64 = weights.iter().sum();
    let mut classes = classes(&weights);
    let turns = (0..total).map_while(|_| next(&mut classes, total));
    turns.collect()
}

/// The entries of one weight.
struct Class {
    weight: i64,
    /// Slots and their current values, in the order of their turns.
    turns: VecDeque<(u32, i64)>,
    /// What was added to all of them since the start.
    added: i64,
}

fn classes(weights: &[i64]) -> Vec<Class> {
    let mut slots: BTreeMap<i64, VecDeque<(u32, i64)>> = BTreeMap::new();
    for (slot, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
        slots.entry(*weight).or_default().push_back((slot as u32, 0));
    }
    slots.into_iter().map(|(weight, turns)| Class { weight, turns, added: 0 }).collect()
}

/// One step: the slot of the greatest value, the first of several.
fn next(classes: &mut [Class], total: i64) -> Option<u32> {
    for class in classes.iter_mut() {
        class.added += class.weight;
    }
    let front = |class: &Class| class.turns.front().map(|(slot, value)| (value + class.added, std::cmp::Reverse(*slot)));
    let class = classes.iter_mut().max_by_key(|class| front(class))?;
    let (slot, value) = class.turns.pop_front()?;
    class.turns.push_back((slot, value - total));
    Some(slot)
}

/// Divides the weights by their greatest common divisor, and scales them down when their sum is still above [`TURNS_MAX`].
fn reduce(weights: &[u16]) -> Vec<i64> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
    let total: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
    let scale = |weight: u64| if total <= TURNS_MAX || weight == 0 { weight } else { (weight * TURNS_MAX / total).max(1) };
    weights.iter().map(|weight| scale(u64::from(weight / divisor)) as i64).collect()
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// nginx's own loop (`ngx_http_upstream_get_peer`).
    fn naive(weights: &[i64]) -> Vec<u32> {
        let total: i64 = weights.iter().sum();
        let mut current = vec![0; weights.len()];
        let step = |_| {
            for (current, weight) in current.iter_mut().zip(weights) {
                *current += weight;
            }
            let best = (0..weights.len()).filter(|slot| weights[*slot] > 0).max_by_key(|slot| (current[*slot], std::cmp::Reverse(*slot)));
            let best = best.unwrap();
            current[best] -= total;
            best as u32
        };
        (0..total).map(step).collect()
    }

    #[test]
    fn interleaves_like_nginx() {
        let check = |weights: &[u16], expected: &[u32]| assert_eq!(*build(weights), *expected);
        check(&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]);
        check(&[50, 10, 10], &[0, 0, 1, 0, 2, 0, 0]);
        check(&[7, 7, 7], &[0, 1, 2]);
        check(&[0, 2, 0, 1], &[1, 3, 1]);
        check(&[0, 0], &[]);
        check(&[], &[]);
    }

    #[test]
    fn is_bounded() {
        let weights: Vec<u16> = (0..10_000).map(|slot| slot % 1000 + 1).collect();
        let schedule = build(&weights);
        assert!(schedule.len() <= TURNS_MAX as usize + weights.len());
        let mut turns = vec![0; weights.len()];
        schedule.iter().for_each(|slot| turns[*slot as usize] += 1);
        assert!(turns.iter().all(|turns| *turns > 0));
    }

    proptest! {
        #[test]
        fn is_that_of_the_naive_loop(weights in prop::collection::vec(0..20_u16, 0..20)) {
            prop_assert_eq!(build(&weights).to_vec(), naive(&reduce(&weights)));
        }
    }
}
