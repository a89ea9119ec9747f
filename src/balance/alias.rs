//! A weighted draw in constant time: the alias method (Walker 1977, built as in Vose 1991, in integers).

use super::Candidates;
use super::dice::{Dice, scale};
use super::members::Members;
use crate::socket::SocketAddress;

/// Draws members by their weights.
#[derive(Debug)]
pub(super) struct Alias {
    members: Members,
    /// One column for each member.
    columns: Box<[Column]>,
}

/// A column of equal total probability, shared by its own member and one other.
#[derive(Debug, Clone, Copy)]
struct Column {
    /// The share of the column's own member, in 2^-32.
    own: u32,
    /// The slot of the other one.
    other: u32,
}

impl Alias {
    pub(super) fn new(endpoints: &[(SocketAddress, u16)]) -> Self {
        let members = Members::of(endpoints);
        let weights: Vec<u64> = members.iter().filter_map(|index| endpoints.get(index)).map(|(_, weight)| u64::from(*weight)).collect();
        Self { columns: columns(&weights), members }
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    /// One member, whether eligible or not. None if there are no members.
    pub(super) fn draw(&self, dice: &mut Dice) -> Option<usize> {
        let random = dice.roll();
        let slot = scale(random, self.columns.len());
        let column = self.columns.get(slot)?;
        self.members.index(if random as u32 <= column.own { slot } else { column.other as usize })
    }

    /// One eligible member: drawn by weight, or, when nearly none is eligible, any.
    pub(super) fn draw_eligible(&self, candidates: &impl Candidates, dice: &mut Dice) -> Option<usize> {
        for _ in 0..super::DRAWS_MAX {
            let index = self.draw(dice)?;
            if candidates.is_eligible(index) {
                return Some(index);
            }
        }
        self.members.find_any(candidates, dice)
    }
}

/// Fills each column that is not full with the surplus of one that is more than full.
fn columns(weights: &[u64]) -> Box<[Column]> {
    let full: u64 = weights.iter().sum();
    let count = weights.len() as u64;
    let mut columns = vec![Column { own: u32::MAX, other: 0 }; weights.len()];
    // Weights scaled so that their mean is `full`. At most 2^16 · 2^32: no overflow.
    let mut left: Vec<u64> = weights.iter().map(|weight| weight * count).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|slot| left[*slot] < full);
    while let (Some(poor), Some(rich)) = (small.pop(), large.pop()) {
        columns[poor] = Column { own: ((u128::from(left[poor]) << 32) / u128::from(full)) as u32, other: rich as u32 };
        left[rich] -= full - left[poor];
        if left[rich] < full { small.push(rich) } else { large.push(rich) }
    }
    columns.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::contract::endpoints;

    /// The columns hold exactly the weights, give or take rounding.
    #[test]
    fn columns_hold_the_weights() {
        for weights in [vec![1], vec![5, 1, 1], vec![1000, 1], vec![3; 7], vec![1, 2, 3, 4, 65_535]] {
            let mut shares = vec![0.0; weights.len()];
            for (slot, column) in columns(&weights).iter().enumerate() {
                let own = (f64::from(column.own) + 1.0) / 4_294_967_296.0;
                shares[slot] += own;
                shares[column.other as usize] += 1.0 - own;
            }
            let unit = weights.len() as f64 / weights.iter().sum::<u64>() as f64;
            for (share, weight) in shares.iter().zip(&weights) {
                assert!((share - *weight as f64 * unit).abs() < 1e-6, "{weights:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn nothing_to_draw() {
        assert_eq!(Alias::new(&endpoints(&[])).draw(&mut Dice::new(1)), None);
        assert_eq!(Alias::new(&endpoints(&[0, 0])).draw(&mut Dice::new(1)), None);
    }
}
