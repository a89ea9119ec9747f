//! A rule as alternatives, each of which says: this host, this path, and all of these.
//!
//! The disjunctive normal form: `!` is pushed down to the predicates, `&&` is multiplied out over `||`. It is what the index
//! stores and what precedence compares. It means the same as the [`Expr`] it was made from.

use std::sync::Arc;

use super::RequestView;
use super::expr::Expr;
use super::host_pattern::{HostPattern, HostSpecificity};
use super::path_pattern::{PathPattern, PathSpecificity};
use super::predicate::Predicate;

/// The most alternatives of one rule. Multiplying out is exponential: `(a || b) && (c || d) && ...`.
pub(crate) const ALTERNATIVES_MAX: usize = 64;

/// One alternative of a rule. Two that ask the same are equal, however they were written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Alternative {
    /// The most specific of the hosts that it asks for. None: any host.
    pub(crate) host: Option<HostPattern>,
    /// The most specific of the paths that it asks for. None: any path.
    pub(crate) path: Option<PathPattern>,
    /// All else that it asks for.
    /// Invariant: sorted, without repetition.
    pub(crate) further: Arc<[Literal]>,
}

/// A predicate, or that it does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Literal {
    predicate: Arc<Predicate>,
    is_negated: bool,
}

/// The rule has more than [`ALTERNATIVES_MAX`] alternatives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// The alternatives of a rule. None: there is no request that it takes.
pub(crate) fn alternatives(rule: &Expr) -> Result<Box<[Alternative]>, TooMany> {
    let mut alternatives: Vec<_> = expand(rule, false)?.into_iter().filter_map(Alternative::new).collect();
    alternatives.sort_unstable();
    alternatives.dedup();
    Ok(alternatives.into())
}

/// The disjunction of conjunctions that `expr`, or its negation, is. De Morgan: a negated `||` is an `&&`.
fn expand(expr: &Expr, is_negated: bool) -> Result<Vec<Vec<Literal>>, TooMany> {
    match (expr, is_negated) {
        (Expr::Predicate(predicate), _) => Ok(vec![vec![Literal { predicate: predicate.clone(), is_negated }]]),
        (Expr::Not(term), _) => expand(term, !is_negated),
        (Expr::Or(terms), false) | (Expr::And(terms), true) => sum(terms, is_negated),
        (Expr::And(terms), false) | (Expr::Or(terms), true) => product(terms, is_negated),
    }
}

fn sum(terms: &[Expr], is_negated: bool) -> Result<Vec<Vec<Literal>>, TooMany> {
    let mut all = Vec::new();
    for term in terms {
        all.extend(expand(term, is_negated)?);
        if all.len() > ALTERNATIVES_MAX {
            return Err(TooMany);
        }
    }
    Ok(all)
}

fn product(terms: &[Expr], is_negated: bool) -> Result<Vec<Vec<Literal>>, TooMany> {
    let mut all = vec![Vec::new()];
    for term in terms {
        let factors = expand(term, is_negated)?;
        if all.len() * factors.len() > ALTERNATIVES_MAX {
            return Err(TooMany);
        }
        all = match factors.as_slice() {
            [factor] => all.into_iter().map(|literals| [literals, factor.clone()].concat()).collect(),
            _ => all.iter().flat_map(|literals| factors.iter().map(|factor| [literals.as_slice(), factor].concat())).collect(),
        };
    }
    Ok(all)
}

impl Alternative {
    /// None: it can never be, because it asks for what is not below `/`.
    fn new(mut literals: Vec<Literal>) -> Option<Self> {
        if literals.iter().any(|literal| literal.is_negated && literal.predicate.is_everything()) {
            return None;
        }
        literals.retain(|literal| !literal.predicate.is_everything());
        literals.sort_unstable();
        literals.dedup();
        let host = take_most_specific(&mut literals, |predicate| match predicate {
            Predicate::Host(pattern) => Some((pattern.specificity(), pattern)),
            _ => None,
        });
        let path = take_most_specific(&mut literals, |predicate| match predicate {
            Predicate::Path(pattern) => Some((pattern.specificity(), pattern)),
            _ => None,
        });
        Some(Self { host, path, further: if literals.is_empty() { Arc::default() } else { literals.into() } })
    }

    /// Whether it takes `request`: what the index is tested against.
    #[cfg(test)]
    pub(crate) fn matches(&self, request: &RequestView<'_>) -> bool {
        self.host.as_ref().is_none_or(|host| host.matches(request.host))
            && self.path.as_ref().is_none_or(|path| path.matches(request.path))
            && self.further.iter().all(|literal| literal.matches(request))
    }

    pub(crate) fn host_specificity(&self) -> HostSpecificity {
        self.host.as_ref().map_or(HostSpecificity::Any, HostPattern::specificity)
    }

    pub(crate) fn path_specificity(&self) -> PathSpecificity {
        self.path.as_ref().map_or(PathSpecificity::Any, PathPattern::specificity)
    }
}

/// Takes out the most specific pattern that `select` finds among what must hold; of equal ones the greatest.
fn take_most_specific<P: Ord + Clone, S: Ord>(literals: &mut Vec<Literal>, select: fn(&Predicate) -> Option<(S, &P)>) -> Option<P> {
    let asked = literals.iter().enumerate().filter(|(_, literal)| !literal.is_negated);
    let (_, position) = asked.filter_map(|(position, literal)| Some((select(&literal.predicate)?, position))).max()?;
    let literal = literals.remove(position);
    select(&literal.predicate).map(|(_, pattern)| pattern.clone())
}

impl Literal {
    pub(crate) fn matches(&self, request: &RequestView<'_>) -> bool {
        self.predicate.matches(request) != self.is_negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::parse::parse;

    fn normal(rule: &str) -> Box<[Alternative]> {
        alternatives(&parse(rule).expect("valid")).expect("few alternatives")
    }

    fn check_same(one: &str, other: &str) {
        assert_eq!(normal(one), normal(other), "{one} and {other}");
    }

    #[test]
    fn multiplies_out() {
        check_same("Host(`a`, `b`) && Path(`/c`)", "Host(`a`) && Path(`/c`) || Host(`b`) && Path(`/c`)");
        check_same("!(Host(`a`) || !Path(`/c`))", "Path(`/c`) && !Host(`a`)");
        check_same("!Host(`a`, `b`)", "!Host(`b`) && !Host(`a`)");
        check_same("!!Host(`a`)", "Host(`a`)");
    }

    #[test]
    fn forgets_how_it_was_written() {
        check_same("Method(`GET`, `PUT`) && Header(`X-A`)", "Header(`x-a`) && Method(`PUT`, `GET`) && Header(`x-a`)");
        check_same("Host(`A.com`) || Host(`a.com.`)", "Host(`a.com`)");
        check_same("Host(`a`) && PathPrefix(`/`)", "Host(`a`)");
        check_same("PathPrefix(`/v1/`)", "PathPrefix(`/v1`)");
    }

    #[test]
    fn sorts_by_what_says_most() {
        let rule = normal("PathPrefix(`/a`) && PathPrefix(`/a/b`) && Host(`*.com`) && Host(`a.com`)");
        let [alternative] = &*rule else { panic!("one alternative") };
        assert_eq!(alternative.host, Some(HostPattern::Exact("a.com".into())));
        assert_eq!(alternative.path, Some(PathPattern::Prefix("/a/b".into())));
        assert_eq!(alternative.further.len(), 2);
    }

    #[test]
    fn drops_what_can_never_be() {
        assert!(normal("!PathPrefix(`/`)").is_empty());
        check_same("Host(`a`) || Host(`b`) && !PathPrefix(`/`)", "Host(`a`)");
    }

    #[test]
    fn is_bounded() {
        let clause = "(Path(`/a`) || Path(`/b`))";
        let rule = |clauses: usize| parse(&vec![clause; clauses].join(" && ")).expect("valid");
        assert!(alternatives(&rule(6)).is_ok());
        assert_eq!(alternatives(&rule(7)), Err(TooMany));
        assert_eq!(alternatives(&rule(500)), Err(TooMany));
    }
}
