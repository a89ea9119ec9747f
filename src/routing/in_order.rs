//! Two sorted sequences side by side.

use std::cmp::Ordering;
use std::iter::Peekable;

use crate::names::Name;

/// Finds by names that are asked for in ascending order: one walk over all in place of a search for each.
pub(super) struct InOrder<'a, T, I: Iterator<Item = (&'a Name, T)>>(Peekable<I>);

impl<'a, T, I: Iterator<Item = (&'a Name, T)>> InOrder<'a, T, I> {
    /// Invariant: `items` come in the order of their names.
    pub(super) fn new(items: impl IntoIterator<IntoIter = I>) -> Self {
        Self(items.into_iter().peekable())
    }

    /// The one of this name.
    pub(super) fn find(&mut self, name: &Name) -> Option<T> {
        loop {
            match self.0.peek()?.0.cmp(name) {
                Ordering::Less => drop(self.0.next()),
                Ordering::Equal => return self.0.next().map(|(_, item)| item),
                Ordering::Greater => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn finds_what_a_search_finds() {
        let map: BTreeMap<Name, u32> = (0..100).step_by(3).map(|i| (Name::new(format!("{i:03}")).unwrap(), i)).collect();
        let mut walk = InOrder::new(&map);
        for i in (0..120).filter(|i| i % 2 == 0) {
            let name = Name::new(format!("{i:03}")).unwrap();
            assert_eq!(walk.find(&name), map.get(&name));
        }
    }
}
