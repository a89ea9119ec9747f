//! One alternative of one route, ready to be asked; and the search for the best of them.

use std::sync::Arc;

use crate::names::Name;
use crate::rule::{Literal, PathPattern, RequestView};

/// One alternative of one route, without the host: it stands where only requests for its host look. 64 bytes: a cache line.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Its place in the precedence of all alternatives of all routes. Invariant: unique; less is better.
    pub(super) rank: u32,
    /// Its route.
    pub(super) slot: u32,
    /// None: any path.
    pub(super) path: Option<PathPattern>,
    /// What else must hold.
    pub(super) further: Arc<[Literal]>,
    /// The only listeners that it is for. None: all.
    pub(super) listeners: Option<Arc<[Name]>>,
}

impl Candidate {
    fn is_served_on(&self, listener: &Name) -> bool {
        self.listeners.as_ref().is_none_or(|only| only.contains(listener))
    }

    fn takes_path(&self, path: &str) -> bool {
        self.path.as_ref().is_none_or(|pattern| pattern.matches(path))
    }

    fn takes_further(&self, search: &Search<'_>) -> bool {
        self.is_served_on(search.listener) && self.further.iter().all(|literal| literal.matches(search.request))
    }
}

/// A request that looks for its route, and the best candidate so far.
///
/// Candidates may be offered in any order: whoever has none better than [`Search::is_beaten_by`] says may skip them.
pub(super) struct Search<'a> {
    pub(super) request: &'a RequestView<'a>,
    listener: &'a Name,
    best: Option<&'a Candidate>,
}

impl<'a> Search<'a> {
    pub(super) fn new(request: &'a RequestView<'a>, listener: &'a Name) -> Self {
        Self { request, listener, best: None }
    }

    /// Whether a candidate of this rank would be better than what was found.
    pub(super) fn is_beaten_by(&self, rank: u32) -> bool {
        self.best.is_none_or(|best| rank < best.rank)
    }

    /// Considers candidates, best first.
    pub(super) fn offer(&mut self, candidates: &'a [Candidate]) {
        self.offer_if(candidates, |candidate, search| candidate.takes_path(search.request.path) && candidate.takes_further(search));
    }

    /// Considers candidates, best first, all of which are known to take the request's path.
    pub(super) fn offer_on_path(&mut self, candidates: &'a [Candidate]) {
        self.offer_if(candidates, Candidate::takes_further);
    }

    fn offer_if(&mut self, candidates: &'a [Candidate], takes: impl Fn(&Candidate, &Self) -> bool) {
        let better = candidates.iter().take_while(|candidate| self.is_beaten_by(candidate.rank));
        if let Some(found) = better.into_iter().find(|candidate| takes(candidate, self)) {
            self.best = Some(found);
        }
    }

    /// The route of the best candidate.
    pub(super) fn slot(&self) -> Option<u32> {
        self.best.map(|candidate| candidate.slot)
    }
}
