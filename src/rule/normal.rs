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

/// How many times as large a rule may become when it is multiplied out, in predicates. What makes it larger is `&&` over `||`, which is
/// exponential: `(a || b) && (c || d) && ...`. A list of names in one `Host` makes as many alternatives as it has names, and is no larger
/// than it was written; so it is the growth that is bounded, not the number of alternatives.
const GROWTH_MAX: usize = 64;

/// The most predicates of a rule that is multiplied out, however large it was written.
const LITERALS_MAX: usize = 32 * 1024;

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

/// Multiplied out, the rule has more predicates than it may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge {
    pub(crate) literals_max: usize,
}

/// The alternatives of a rule. None: there is no request that it takes.
pub(crate) fn alternatives(rule: &Expr) -> Result<Box<[Alternative]>, TooLarge> {
    let bound = TooLarge { literals_max: rule.predicates().saturating_mul(GROWTH_MAX).min(LITERALS_MAX) };
    let sum = bound.expand(rule, false)?;
    let mut alternatives: Vec<_> = sum.terms.into_iter().filter_map(Alternative::new).collect();
    alternatives.sort_unstable();
    alternatives.dedup();
    Ok(alternatives.into())
}

/// A disjunction of conjunctions.
#[derive(Default)]
struct Sum {
    terms: Vec<Vec<Literal>>,
    /// How many literals the terms have together.
    literals: usize,
}

impl TooLarge {
    /// The disjunction of conjunctions that `expr`, or its negation, is. De Morgan: a negated `||` is an `&&`.
    fn expand(&self, expr: &Expr, is_negated: bool) -> Result<Sum, Self> {
        match (expr, is_negated) {
            (Expr::Predicate(predicate), _) => {
                Ok(Sum { terms: vec![vec![Literal { predicate: predicate.clone(), is_negated }]], literals: 1 })
            }
            (Expr::Not(term), _) => self.expand(term, !is_negated),
            (Expr::Or(terms), false) | (Expr::And(terms), true) => self.sum(terms, is_negated),
            (Expr::And(terms), false) | (Expr::Or(terms), true) => self.product(terms, is_negated),
        }
    }

    fn sum(&self, terms: &[Expr], is_negated: bool) -> Result<Sum, Self> {
        let mut all = Sum::default();
        for term in terms {
            let more = self.expand(term, is_negated)?;
            all.literals = self.bounded(all.literals + more.literals)?;
            all.terms.extend(more.terms);
        }
        Ok(all)
    }

    fn product(&self, terms: &[Expr], is_negated: bool) -> Result<Sum, Self> {
        let mut all = Sum { terms: vec![Vec::new()], literals: 0 };
        for term in terms {
            let factors = self.expand(term, is_negated)?;
            // Each of both stands beside each of the other.
            all.literals = self.bounded(all.literals * factors.terms.len() + factors.literals * all.terms.len())?;
            if let [factor] = factors.terms.as_slice() {
                all.terms.iter_mut().for_each(|term| term.extend_from_slice(factor));
            } else {
                let beside =
                    |term: &Vec<Literal>| factors.terms.iter().map(|factor| [term.as_slice(), factor].concat()).collect::<Vec<_>>();
                all.terms = all.terms.iter().flat_map(beside).collect();
            }
        }
        Ok(all)
    }

    fn bounded(&self, literals: usize) -> Result<usize, Self> {
        if literals > self.literals_max { Err(Self { literals_max: self.literals_max }) } else { Ok(literals) }
    }
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
    use crate::rule::RuleError;
    use crate::rule::parse::{self, Subject};

    fn parse(rule: &str) -> Result<Expr, RuleError> {
        parse::parse(rule, Subject::Request)
    }

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
        assert_eq!(alternatives(&rule(6)).map(|all| all.len()), Ok(3));
        assert_eq!(alternatives(&rule(8)), Err(TooLarge { literals_max: 16 * GROWTH_MAX }));
        assert_eq!(alternatives(&rule(500)), Err(TooLarge { literals_max: LITERALS_MAX }));
    }

    #[test]
    fn a_list_is_as_large_as_it_is_written() {
        let list = |predicate: &str, count: usize| {
            let names: Vec<_> = (0..count).map(|number| format!("`/h{number}`")).collect();
            format!("{predicate}({})", names.join(","))
        };
        let (hosts, paths) = (list("Host", 1000).replace('/', ""), list("Path", 8));
        assert_eq!(normal(&hosts).len(), 1000);
        assert_eq!(normal(&format!("{hosts} && {paths} || Path(`/x`)")).len(), 8001);
        assert_eq!(normal(&format!("!{hosts}")).len(), 1);
        assert_eq!(normal(&format!("{hosts} && Method(`GET`) && !Path(`/a`, `/b`)")).len(), 1000);
        // Each of a thousand hosts beside each of a thousand others.
        assert!(alternatives(&parse(&format!("{hosts} && !{hosts}")).expect("valid")).is_err());
    }
}
