//! Which of several rules that take a request gets it.
//!
//! Each alternative of a rule stands on its own. The first difference decides:
//!
//! 1. the higher `priority` of the route;
//! 2. the host: one host before a wildcard, a wildcard of more labels before one of fewer, those before a regular expression,
//!    that before any host;
//! 3. the path: one path before a prefix, a longer prefix before a shorter one, those before a regular expression, that before
//!    any path (`PathPrefix("/")` says nothing, and is any path);
//! 4. more further predicates before fewer (what a host or path says beyond its most specific pattern, and negations, count here);
//! 5. the name of the route, in alphabetical order.
//!
//! So it does not depend on the order in which routes were added.

use std::cmp::Reverse;

use super::host_pattern::HostSpecificity;
use super::normal::Alternative;
use super::path_pattern::PathSpecificity;
use crate::names::Name;

/// The place of one alternative of one route. Less is tried first. Only alternatives of one route can be equal, and then it does
/// not matter which is tried first.
///
/// The fields stand in the order of what decides; the derived order and equality look at all of them, so they agree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Precedence<'a> {
    priority: Reverse<i32>,
    host: Reverse<HostSpecificity>,
    path: Reverse<PathSpecificity>,
    further: Reverse<usize>,
    route: &'a Name,
}

impl<'a> Precedence<'a> {
    /// The place of `alternative` of the route of this name and priority.
    pub(crate) fn new(alternative: &Alternative, priority: i32, route: &'a Name) -> Self {
        Self {
            priority: Reverse(priority),
            host: Reverse(alternative.host_specificity()),
            path: Reverse(alternative.path_specificity()),
            further: Reverse(alternative.further.len()),
            route,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rule::{Rule, samples};

    fn place<'a>(rule: &Rule, priority: i32, name: &'a Name) -> Precedence<'a> {
        let [alternative] = rule.alternatives() else { panic!("one alternative: {rule}") };
        Precedence::new(alternative, priority, name)
    }

    fn check_before(first: &str, then: &str) {
        let name = Name::literal("same");
        let rule = |text: &str| Rule::parse(text).expect("valid");
        assert!(place(&rule(first), 0, &name) < place(&rule(then), 0, &name), "{first} is before {then}");
    }

    #[test]
    fn the_more_specific_goes_first() {
        check_before("Host(`a.com`)", "Host(`*.com`) && Path(`/a`) && Method(`GET`)");
        check_before("Host(`*.a.com`)", "Host(`*.com`) && Path(`/a`)");
        check_before("Host(`*.com`)", "HostRegexp(`a\\.com`)");
        check_before("HostRegexp(`.*`)", "Path(`/a`)");
        check_before("Path(`/a`)", "PathPrefix(`/a/b/c`)");
        check_before("PathPrefix(`/a/b`)", "PathPrefix(`/a`) && Method(`GET`)");
        check_before("PathPrefix(`/a`)", "PathRegexp(`/a/b`)");
        check_before("PathRegexp(`.*`)", "PathPrefix(`/`)");
        check_before("Host(`a.com`) && Method(`GET`)", "Host(`a.com`)");
    }

    #[test]
    fn priority_outweighs_all_and_the_name_breaks_ties() {
        let rule = |text: &str| Rule::parse(text).expect("valid");
        let (a, b) = (Name::literal("a"), Name::literal("b"));
        assert!(place(&rule("PathPrefix(`/`)"), 1, &b) < place(&rule("Host(`a.com`) && Path(`/`)"), 0, &a));
        assert!(place(&rule("Path(`/x`)"), 0, &a) < place(&rule("Path(`/y`)"), 0, &b));
    }

    proptest! {
        #[test]
        fn is_a_total_order(routes in prop::collection::vec((samples::rule(), -1..=1, "[a-c]"), 3)) {
            let names: Vec<_> = routes.iter().map(|(_, _, name)| Name::new(name).expect("a letter")).collect();
            let places: Vec<_> = routes.iter().zip(&names)
                .flat_map(|((rule, priority, _), name)| rule.alternatives().iter().map(|a| Precedence::new(a, *priority, name)))
                .collect();
            for a in &places {
                for b in &places {
                    prop_assert_eq!(a.cmp(b), b.cmp(a).reverse());
                    prop_assert_eq!(a.cmp(b).is_eq(), a == b);
                    prop_assert!(a != b || a.route == b.route);
                    prop_assert!(places.iter().all(|c| !(a <= b && b <= c) || a <= c));
                }
            }
        }
    }
}
