//! When ephemeral znodes that are gone are let go. Pure: who asks says what time it is.
//!
//! The end of one is announced in the same way whether its owner deleted it, as a registrar does with an instance that is not healthy, or
//! its owner's session expired. The first must be quick. Of the second there may be many, after a failure that concerns the owners'
//! network and not what they registered; and they come little by little, because a server looks for expired sessions once in a tick, and
//! owners were last heard at different times. A guard that sees them one by one never sees many.
//!
//! So a few go at once. Once they are more than [`FEW`] and more than a quarter of their folder within [`RECENT`], the others wait until it
//! is [quiet](QUIET), and then go together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::zookeeper_mirror::parent;

/// How long one waits for others in any case.
pub const SETTLE: Duration = Duration::from_millis(250);
/// How many of a folder go without more ado, whatever share of it they are.
pub const FEW: usize = 2;
/// For how long those that went are remembered.
pub const RECENT: Duration = Duration::from_secs(20);
/// How long nothing of the folder may have departed before many go: longer than a tick, which is of 2 s by default.
pub const QUIET: Duration = Duration::from_millis(2_500);
/// The longest that one waits.
pub const WAIT_MAX: Duration = Duration::from_secs(15);

/// Those that wait, and those that went.
#[derive(Debug, Default)]
pub(super) struct Departures {
    folders: BTreeMap<String, Folder>,
}

#[derive(Debug, Default)]
struct Folder {
    waiting: BTreeMap<String, Instant>,
    went: Vec<Instant>,
    /// How many znodes were left in it when the last one departed.
    left: usize,
}

impl Departures {
    /// Takes over what has departed by now and is not let go. What is not among it any more came back, or was let go otherwise. `left`
    /// says how many znodes are left in a folder.
    pub(super) fn note(&mut self, departed: &BTreeSet<String>, now: Instant, left: impl Fn(&str) -> usize) {
        for folder in self.folders.values_mut() {
            folder.waiting.retain(|path, _| departed.contains(path));
            folder.went.retain(|at| now.saturating_duration_since(*at) < RECENT);
        }
        self.folders.retain(|_, folder| !folder.waiting.is_empty() || !folder.went.is_empty());
        for path in departed {
            let folder = self.folders.entry(parent(path).to_owned()).or_default();
            if !folder.waiting.contains_key(path) {
                folder.waiting.insert(path.clone(), now);
                folder.left = left(parent(path));
            }
        }
    }

    /// Those whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        for folder in self.folders.values_mut() {
            if folder.due().is_some_and(|at| at <= now) {
                folder.went.extend(folder.waiting.values().map(|_| now));
                due.extend(std::mem::take(&mut folder.waiting).into_keys());
            }
        }
        due
    }

    /// When the next are due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.folders.values().filter_map(Folder::due).min()
    }
}

impl Folder {
    fn due(&self) -> Option<Instant> {
        let (first, last) = (self.waiting.values().min()?, self.waiting.values().max()?);
        let count = self.waiting.len() + self.went.len();
        let is_ordinary = count <= FEW || count * 4 <= self.left + count;
        Some(if is_ordinary { *first + SETTLE } else { (*last + QUIET).min(*first + WAIT_MAX) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What departs after this many milliseconds, of a folder of `of` → how many went after how many.
    fn went(of: usize, departures: &[u64]) -> Vec<(usize, u64)> {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut departures_of, mut departed, mut went) = (Departures::default(), BTreeSet::new(), Vec::new());
        let mut left = of;
        for ms in (0..70_000).step_by(10) {
            for (index, _) in departures.iter().enumerate().filter(|(_, departure)| **departure == ms) {
                departed.insert(format!("/s/web/{index}"));
                left -= 1;
            }
            departures_of.note(&departed, at(ms), |_| left);
            let due = departures_of.take_due(at(ms));
            assert!(departures_of.next().is_none_or(|next| next > at(ms)));
            departed.retain(|path| !due.contains(path));
            if !due.is_empty() {
                went.push((due.len(), ms));
            }
        }
        assert!(departures_of.folders.is_empty() && departed.is_empty());
        went
    }

    #[test]
    fn a_few_go_at_once() {
        assert_eq!(went(2, &[0]), [(1, 250)]);
        assert_eq!(went(2, &[0, 200]), [(2, 250)]);
        assert_eq!(went(10, &[0, 1_000]), [(1, 250), (1, 1_250)]);
        // Of many, more are few.
        assert_eq!(went(100, &[0, 0, 0, 500, 900]), [(3, 250), (1, 750), (1, 1_150)]);
        // One now and then is no failure.
        assert_eq!(went(4, &[0, 21_000, 42_000]), [(1, 250), (1, 21_250), (1, 42_250)]);
    }

    #[test]
    fn many_go_together_however_slowly_they_come() {
        assert_eq!(went(6, &[0, 0, 0, 0, 0, 0]), [(6, 2_500)]);
        assert_eq!(went(8, &[0, 0, 2_000, 2_000, 4_000, 6_000]), [(2, 250), (4, 8_500)]);
        // Not for ever.
        let slowly: Vec<u64> = (0..20).map(|index| index * 1_000).collect();
        let went = went(20, &slowly);
        assert_eq!((went[4], went[5], went.len()), ((1, 4_250), (15, 5_000 + 15_000), 6));
    }

    #[test]
    fn what_comes_back_does_not_go() {
        let start = Instant::now();
        let mut departures = Departures::default();
        departures.note(&["/s/web/1".to_owned()].into(), start, |_| 1);
        departures.note(&BTreeSet::new(), start + SETTLE, |_| 2);
        assert!(departures.take_due(start + QUIET).is_empty() && departures.next().is_none());
    }
}
