//! The candidates of one host, by path.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;

use foldhash::fast::RandomState;
use memchr::memrchr;

use super::candidate::{Candidate, Search};
use crate::rule::PathPattern;

/// Up to this many candidates are faster to look at one by one than to hash paths for.
const FEW_MAX: usize = 8;

/// The candidates of one host. Invariant: wherever several stand together, the best is first.
#[derive(Debug)]
pub(super) enum PathIndex {
    Few(Box<[Candidate]>),
    Many(Box<PathMaps>),
}

impl PathIndex {
    /// The index of `candidates`, which come best first.
    pub(super) fn new(candidates: Vec<Candidate>) -> Self {
        if candidates.len() <= FEW_MAX { Self::Few(candidates.into()) } else { Self::Many(Box::new(PathMaps::new(candidates))) }
    }

    /// The rank of the best candidate; the worst rank, if there is none.
    pub(super) fn rank_first(&self) -> u32 {
        match self {
            Self::Few(candidates) => rank_first(candidates),
            Self::Many(maps) => maps.rank_first,
        }
    }

    pub(super) fn search<'a>(&'a self, search: &mut Search<'a>) {
        match self {
            Self::Few(candidates) => search.offer(candidates),
            Self::Many(maps) => maps.search(search),
        }
    }
}

/// Many candidates: by their path if they have one, so that their number does not matter.
#[derive(Debug)]
pub(super) struct PathMaps {
    rank_first: u32,
    exact: HashMap<Arc<str>, Box<[Candidate]>, RandomState>,
    prefixes: HashMap<Arc<str>, Box<[Candidate]>, RandomState>,
    /// The longest of `prefixes`: what a client sends after that is never hashed, however many segments it has.
    prefix_bytes_max: usize,
    /// Of any path, or of a regular expression: these are asked one by one.
    others: Box<[Candidate]>,
}

impl PathMaps {
    fn new(candidates: Vec<Candidate>) -> Self {
        let rank_first = rank_first(&candidates);
        let mut exact = HashMap::<_, Vec<_>, RandomState>::default();
        let mut prefixes = HashMap::<_, Vec<_>, RandomState>::default();
        let mut others = Vec::new();
        for candidate in candidates {
            match &candidate.path {
                Some(PathPattern::Exact(path)) => exact.entry(path.clone()).or_default().push(candidate),
                Some(PathPattern::Prefix(path)) => prefixes.entry(path.clone()).or_default().push(candidate),
                Some(PathPattern::Regexp(_)) | None => others.push(candidate),
            }
        }
        let prefix_bytes_max = prefixes.keys().map(|prefix: &Arc<str>| prefix.len()).max().unwrap_or_default();
        Self { rank_first, exact: boxed(exact), prefixes: boxed(prefixes), prefix_bytes_max, others: others.into() }
    }

    fn search<'a>(&'a self, search: &mut Search<'a>) {
        if !search.is_beaten_by(self.rank_first) {
            return;
        }
        let path = search.request.path;
        if let Some(candidates) = self.exact.get(path) {
            search.offer_on_path(candidates);
        }
        if !self.prefixes.is_empty() {
            for candidates in prefixes(path, self.prefix_bytes_max).filter_map(|prefix| self.prefixes.get(prefix)) {
                search.offer_on_path(candidates);
            }
        }
        search.offer(&self.others);
    }
}

fn rank_first(candidates: &[Candidate]) -> u32 {
    candidates.first().map_or(u32::MAX, |candidate| candidate.rank)
}

type Lists<C> = HashMap<Arc<str>, C, RandomState>;

fn boxed(lists: Lists<Vec<Candidate>>) -> Lists<Box<[Candidate]>> {
    lists.into_iter().map(|(path, candidates)| (path, candidates.into())).collect()
}

/// The paths at and above `path`, by whole segments, longest first, without a slash at the end, none longer than `bytes_max`.
fn prefixes(path: &str, bytes_max: usize) -> impl Iterator<Item = &str> {
    let longest = match path.as_bytes().get(..=bytes_max) {
        None => Some(path),
        Some(bytes) => memrchr(b'/', bytes).and_then(|end| path.get(..end)),
    };
    iter::successors(longest, |prefix| memrchr(b'/', prefix.as_bytes()).and_then(|end| prefix.get(..end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, bytes_max: usize, expected: &[&str]) {
        assert_eq!(prefixes(path, bytes_max).collect::<Vec<_>>(), expected, "{path} up to {bytes_max}");
    }

    #[test]
    fn walks_whole_segments_up_to_a_length() {
        check("/a/bc", 9, &["/a/bc", "/a", ""]);
        check("/a/bc", 5, &["/a/bc", "/a", ""]);
        check("/a/bc", 4, &["/a", ""]);
        check("/a/bc", 2, &["/a", ""]);
        check("/a/bc", 1, &[""]);
        check("/a/", 2, &["/a", ""]);
        check("", 3, &[""]);
        check("é/a", 1, &[]);
    }
}
