//! What differs between two sections of snapshots.

use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::sync::Arc;

use crate::names::Name;

/// An object that is not the same in both: what it was, and what it is.
#[derive(Debug)]
pub struct Change<'a, T> {
    /// Its name.
    pub name: &'a Name,
    /// What it was. None: it is new.
    pub before: Option<&'a Arc<T>>,
    /// What it is. None: it is gone.
    pub after: Option<&'a Arc<T>>,
}

/// What differs, in the order of names. An object that did not change is the same `Arc`, and costs a comparison of pointers.
pub fn changes<'a, T>(before: &'a BTreeMap<Name, Arc<T>>, after: &'a BTreeMap<Name, Arc<T>>) -> impl Iterator<Item = Change<'a, T>> {
    Changes { before: before.iter().peekable(), after: after.iter().peekable() }
}

struct Changes<'a, T> {
    before: Peekable<btree_map::Iter<'a, Name, Arc<T>>>,
    after: Peekable<btree_map::Iter<'a, Name, Arc<T>>>,
}

impl<'a, T> Iterator for Changes<'a, T> {
    type Item = Change<'a, T>;

    fn next(&mut self) -> Option<Change<'a, T>> {
        loop {
            let (was, is) = (self.before.peek().copied(), self.after.peek().copied());
            let order = match (was, is) {
                (None, None) => return None,
                (Some((before, was)), Some((after, is))) => match before.cmp(after) {
                    std::cmp::Ordering::Equal if Arc::ptr_eq(was, is) => {
                        self.before.next();
                        self.after.next();
                        continue;
                    }
                    order => order,
                },
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
            };
            let before = if order.is_le() { self.before.next() } else { None };
            let after = if order.is_ge() { self.after.next() } else { None };
            let (name, _) = before.or(after)?;
            return Some(Change { name, before: before.map(|(_, was)| was), after: after.map(|(_, is)| is) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_found_is_what_differs(before in prop::collection::btree_map(0..20u8, 0..3u8, 0..20), after in prop::collection::btree_map(0..20u8, 0..3u8, 0..20)) {
            let known: Vec<Arc<u8>> = (0..3).map(Arc::new).collect();
            let section = |numbers: &BTreeMap<u8, u8>| -> BTreeMap<Name, Arc<u8>> {
                numbers.iter().map(|(name, value)| (Name::new(format!("{name:02}")).unwrap(), known[usize::from(*value)].clone())).collect()
            };
            let (was, is) = (section(&before), section(&after));
            let found: Vec<_> = changes(&was, &is).map(|change| (change.name.clone(), change.before.map(|it| **it), change.after.map(|it| **it))).collect();
            let expected: Vec<_> = (0..20u8)
                .filter(|name| before.get(name) != after.get(name))
                .map(|name| (Name::new(format!("{name:02}")).unwrap(), before.get(&name).copied(), after.get(&name).copied()))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
