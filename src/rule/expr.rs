//! A rule as it was written: predicates joined by `&&`, `||` and `!`.
//!
//! Evaluating it is the definition of what a rule means. The index answers the same question faster and is tested against this.

use std::sync::Arc;

use super::RequestView;
use super::predicate::Predicate;

/// Invariant: no deeper than the parser's bound, so that recursion over it is bounded.
#[derive(Debug, Clone)]
pub(crate) enum Expr {
    Predicate(Arc<Predicate>),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
}

impl Expr {
    /// All of these.
    pub(crate) fn and(terms: Vec<Self>) -> Self {
        Self::only(terms).unwrap_or_else(Self::And)
    }

    /// Any of these.
    pub(crate) fn or(terms: Vec<Self>) -> Self {
        Self::only(terms).unwrap_or_else(Self::Or)
    }

    fn only(mut terms: Vec<Self>) -> Result<Self, Vec<Self>> {
        match terms.pop() {
            Some(term) if terms.is_empty() => Ok(term),
            last => {
                terms.extend(last);
                Err(terms)
            }
        }
    }

    /// How many predicates it was written with.
    pub(crate) fn predicates(&self) -> usize {
        match self {
            Self::Predicate(_) => 1,
            Self::Not(term) => term.predicates(),
            Self::And(terms) | Self::Or(terms) => terms.iter().map(Self::predicates).sum(),
        }
    }

    /// Whether any of its predicates is one that `is`.
    pub(crate) fn any(&self, is: &impl Fn(&Predicate) -> bool) -> bool {
        match self {
            Self::Predicate(predicate) => is(predicate),
            Self::Not(term) => term.any(is),
            Self::And(terms) | Self::Or(terms) => terms.iter().any(|term| term.any(is)),
        }
    }

    pub(crate) fn matches(&self, request: &RequestView<'_>) -> bool {
        match self {
            Self::Predicate(predicate) => predicate.matches(request),
            Self::Not(term) => !term.matches(request),
            Self::And(terms) => terms.iter().all(|term| term.matches(request)),
            Self::Or(terms) => terms.iter().any(|term| term.matches(request)),
        }
    }
}

impl From<Predicate> for Expr {
    fn from(predicate: Predicate) -> Self {
        Self::Predicate(Arc::new(predicate))
    }
}
