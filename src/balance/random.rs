//! Weighted random: no state, so nothing for instances to agree on and nothing for workers to contend for.

use super::alias::Alias;
use super::dice::Dice;
use super::{Candidates, Draw};
use crate::socket::SocketAddress;

/// Weighted random.
#[derive(Debug)]
pub struct Random(Alias);

impl Random {
    pub(super) fn new(endpoints: &[(SocketAddress, u16)]) -> Self {
        Self(Alias::new(endpoints))
    }

    pub(super) fn pick(&self, candidates: &impl Candidates, draw: Draw) -> Option<usize> {
        self.0.draw_eligible(candidates, &mut Dice::new(draw.random))
    }
}
