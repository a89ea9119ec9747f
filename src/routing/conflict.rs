//! Routes that ask for the same requests.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::fmt;

use foldhash::fast::RandomState;

use super::index::Entry;
use crate::names::Name;
use crate::rule::Alternative;

/// Two routes of one priority ask, as a whole or in one of their alternatives, for exactly the same requests on a listener. Only
/// their names decide which of them gets those, which is likely not what their authors think.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conflict {
    /// The route that gets the requests: the first by name.
    pub winner: Name,
    /// The route that does not.
    pub loser: Name,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { winner, loser } = self;
        write!(f, "routes `{winner}` and `{loser}` match the same requests with the same priority; `{winner}` gets them, by its name")
    }
}

/// Finds conflicts among alternatives that are shown in the order of their precedence.
#[derive(Default)]
pub(super) struct Conflicts<'a> {
    seen: HashMap<(i32, &'a Alternative), Vec<Entry<'a>>, RandomState>,
    pairs: HashSet<(&'a Name, &'a Name), RandomState>,
    found: Vec<Conflict>,
}

impl<'a> Conflicts<'a> {
    pub(super) fn show(&mut self, alternative: &'a Alternative, entry: Entry<'a>) {
        let equals = match self.seen.entry((entry.priority, alternative)) {
            Slot::Vacant(slot) => {
                slot.insert(vec![entry]);
                return;
            }
            Slot::Occupied(slot) => slot.into_mut(),
        };
        let winner = equals.iter().find(|earlier| earlier.name != entry.name && earlier.shares_listener(&entry));
        if let Some(winner) = winner
            && self.pairs.insert((winner.name, entry.name))
        {
            self.found.push(Conflict { winner: winner.name.clone(), loser: entry.name.clone() });
        }
        equals.push(entry);
    }

    pub(super) fn into_found(self) -> Vec<Conflict> {
        self.found
    }
}

impl Entry<'_> {
    fn shares_listener(&self, other: &Self) -> bool {
        let is_everywhere = self.listeners.is_empty() || other.listeners.is_empty();
        is_everywhere || self.listeners.iter().any(|listener| other.listeners.contains(listener))
    }
}
