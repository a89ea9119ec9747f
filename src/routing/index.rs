//! From a request to its route, however many routes there are.
//!
//! ```text
//! host of the request ──► exact hosts (hash map) ─────────────┐
//!                    ├──► wildcards (hash map, by labels) ────┤     path of the request ──► exact paths (hash map)
//!                    ├──► host regexps (one by one) ──────────┼──► PathIndex ──────────├──► prefixes (hash map, by segments)
//!                    └──► any host ───────────────────────────┘                        └──► regexps, any path (one by one)
//! ```
//!
//! Every alternative of every route has a rank: its place in the precedence of all, settled when the index is built. A lookup
//! keeps the best rank that it finds and skips what cannot be better, so it needs no order among the parts above. It allocates
//! nothing (but a regular expression's cache, once per thread).
//!
//! One by one are asked: different host regexps; of one host, path regexps and routes without a path; of one path, routes that
//! differ only in further predicates.
//!
//! The index owns, or shares by `Arc` with the rules, all that it needs, and holds slots instead of routes: it can be shared by
//! tables whose routes match alike.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::candidate::{Candidate, Search};
use super::conflict::{Conflict, Conflicts};
use super::path_index::PathIndex;
use crate::names::Name;
use crate::rule::{Alternative, HostPattern, Pattern, Precedence, RequestView, Rule};

/// A route, as far as the index is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// What [`Index::find`] answers for it.
    pub slot: u32,
    /// Its name. Unique among the entries.
    pub name: &'a Name,
    /// Which requests it takes.
    pub rule: &'a Rule,
    /// Wins over entries of lower priority, whatever their rules.
    pub priority: i32,
    /// The only listeners that it is served on. Empty: all.
    pub listeners: &'a [Name],
}

/// Which route takes a request. Immutable.
pub struct Index {
    exact: HashMap<Arc<str>, PathIndex, RandomState>,
    /// By what stands after `*.`.
    wildcards: HashMap<Arc<str>, PathIndex, RandomState>,
    /// The best rank in `wildcards`.
    wildcards_rank_first: u32,
    /// The longest key of `wildcards`: longer ends of a client's host are never hashed.
    wildcard_bytes_max: usize,
    /// Different expressions, in the order of their best ranks.
    regexps: Box<[(Pattern, PathIndex)]>,
    any: PathIndex,
}

/// The index of no route at all.
impl Default for Index {
    fn default() -> Self {
        Self::build([]).0
    }
}

impl Index {
    /// Builds the index of `entries`, whose order does not matter, and reports which of them ask for the same requests.
    pub fn build<'a>(entries: impl IntoIterator<Item = Entry<'a>>) -> (Self, Vec<Conflict>) {
        let mut ranked: Vec<_> = entries.into_iter().flat_map(alternatives).collect();
        ranked.sort_unstable_by(|a, b| a.precedence.cmp(&b.precedence));
        let mut conflicts = Conflicts::default();
        let mut builder = Builder::default();
        for (rank, Ranked { alternative, entry, listeners, .. }) in ranked.into_iter().enumerate() {
            conflicts.show(alternative, entry);
            builder.add(
                alternative,
                Candidate {
                    rank: u32::try_from(rank).expect("fewer than 2^32 alternatives fit into memory"),
                    slot: entry.slot,
                    path: alternative.path.clone(),
                    further: alternative.further.clone(),
                    listeners,
                },
            );
        }
        (builder.build(), conflicts.into_found())
    }

    /// The slot of the route that takes `request` on `listener`.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>, listener: &Name) -> Option<u32> {
        let mut search = Search::new(request, listener);
        if let Some(paths) = self.exact.get(request.host) {
            paths.search(&mut search);
        }
        if search.is_beaten_by(self.wildcards_rank_first) {
            for paths in suffixes(request.host, self.wildcard_bytes_max).filter_map(|suffix| self.wildcards.get(suffix)) {
                paths.search(&mut search);
            }
        }
        for (pattern, paths) in &self.regexps {
            if !search.is_beaten_by(paths.rank_first()) {
                break;
            }
            if pattern.is_match(request.host.as_bytes()) {
                paths.search(&mut search);
            }
        }
        self.any.search(&mut search);
        search.slot()
    }
}

/// How much there is, not all of it: it may be hundreds of thousands.
impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("exact_hosts", &self.exact.len())
            .field("wildcards", &self.wildcards.len())
            .field("host_regexps", &self.regexps.len())
            .finish_non_exhaustive()
    }
}

/// One alternative of an entry, on its way to its rank.
struct Ranked<'a> {
    precedence: Precedence<'a>,
    alternative: &'a Alternative,
    entry: Entry<'a>,
    listeners: Option<Arc<[Name]>>,
}

fn alternatives(entry: Entry<'_>) -> impl Iterator<Item = Ranked<'_>> {
    let listeners: Option<Arc<[Name]>> = (!entry.listeners.is_empty()).then(|| entry.listeners.into());
    entry.rule.alternatives().iter().map(move |alternative| Ranked {
        precedence: Precedence::new(alternative, entry.priority, entry.name),
        alternative,
        entry,
        listeners: listeners.clone(),
    })
}

/// Candidates by host, each list in the order of the ranks.
#[derive(Default)]
struct Builder {
    exact: HashMap<Arc<str>, Vec<Candidate>, RandomState>,
    wildcards: HashMap<Arc<str>, Vec<Candidate>, RandomState>,
    regexps: Vec<(Pattern, Vec<Candidate>)>,
    regexp_positions: HashMap<Pattern, usize, RandomState>,
    any: Vec<Candidate>,
}

impl Builder {
    fn add(&mut self, alternative: &Alternative, candidate: Candidate) {
        let list = match &alternative.host {
            Some(HostPattern::Exact(host)) => self.exact.entry(host.clone()).or_default(),
            Some(HostPattern::Wildcard(suffix)) => self.wildcards.entry(suffix.clone()).or_default(),
            Some(HostPattern::Regexp(pattern)) => self.of_regexp(pattern),
            None => &mut self.any,
        };
        list.push(candidate);
    }

    fn of_regexp(&mut self, pattern: &Pattern) -> &mut Vec<Candidate> {
        let position = *self.regexp_positions.entry(pattern.clone()).or_insert(self.regexps.len());
        if position == self.regexps.len() {
            self.regexps.push((pattern.clone(), Vec::new()));
        }
        &mut self.regexps[position].1
    }

    fn build(self) -> Index {
        let wildcards = by_host(self.wildcards);
        Index {
            exact: by_host(self.exact),
            wildcards_rank_first: wildcards.values().map(PathIndex::rank_first).min().unwrap_or(u32::MAX),
            wildcard_bytes_max: wildcards.keys().map(|suffix| suffix.len()).max().unwrap_or_default(),
            wildcards,
            regexps: self.regexps.into_iter().map(|(pattern, candidates)| (pattern, PathIndex::new(candidates))).collect(),
            any: PathIndex::new(self.any),
        }
    }
}

fn by_host(lists: HashMap<Arc<str>, Vec<Candidate>, RandomState>) -> HashMap<Arc<str>, PathIndex, RandomState> {
    lists.into_iter().map(|(host, candidates)| (host, PathIndex::new(candidates))).collect()
}

/// What stands after the dots of `host`, longest first, none longer than `bytes_max`: `a.b.c` → `b.c`, `c`. A dot at the start is
/// skipped: there is no label before it.
fn suffixes(host: &str, bytes_max: usize) -> impl Iterator<Item = &str> {
    let first_dot = host.len().saturating_sub(bytes_max + 1).max(1);
    host.bytes().enumerate().skip(first_dot).filter_map(move |(at, byte)| if byte == b'.' { host.get(at + 1..) } else { None })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use http::{HeaderMap, Method};
    use proptest::prelude::*;

    use super::*;
    use crate::rule::samples;

    /// A route of a test. Its slot is its position.
    #[derive(Debug, Clone)]
    struct Sample {
        name: Name,
        rule: Rule,
        priority: i32,
        listeners: Vec<Name>,
    }

    impl Sample {
        fn new(name: &'static str, rule: &str) -> Self {
            Self { name: Name::literal(name), rule: Rule::parse(rule).expect("valid"), priority: 0, listeners: Vec::new() }
        }

        fn entry(&self, slot: usize) -> Entry<'_> {
            let Self { name, rule, priority, listeners } = self;
            Entry { slot: u32::try_from(slot).expect("few"), name, rule, priority: *priority, listeners }
        }

        fn serves(&self, listener: &Name) -> bool {
            self.listeners.is_empty() || self.listeners.contains(listener)
        }
    }

    fn build(samples: &[Sample]) -> (Index, Vec<Conflict>) {
        Index::build(samples.iter().enumerate().map(|(slot, sample)| sample.entry(slot)))
    }

    fn check(routes: &[(&'static str, &str)], host: &str, path: &str, expected: Option<&str>) {
        let samples: Vec<_> = routes.iter().map(|(name, rule)| Sample::new(name, rule)).collect();
        let (headers, client_ip) = (HeaderMap::new(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let request =
            RequestView { host, path, query: None, method: &Method::GET, headers: &headers, client_ip, alpn: &[], identities: &[] };
        let found = build(&samples).0.find(&request, &Name::literal("web"));
        let name = found.and_then(|slot| samples.get(slot as usize)).map(|sample| sample.name.as_str());
        assert_eq!(name, expected, "{host}{path}");
    }

    #[test]
    fn finds_the_most_specific() {
        let routes = [
            ("site", "Host(`a.com`)"),
            ("api", "Host(`a.com`) && PathPrefix(`/api`)"),
            ("v2", "Host(`a.com`) && PathPrefix(`/api/v2`)"),
            ("health", "Host(`a.com`) && Path(`/api/v2/health`)"),
            ("sub", "Host(`*.a.com`)"),
            ("subsub", "Host(`*.b.a.com`)"),
            ("apps", r"HostRegexp(`app\d\.org`)"),
            ("rest", "PathPrefix(`/`) && !Host(`x.org`)"),
        ];
        check(&routes, "a.com", "/", Some("site"));
        check(&routes, "a.com", "/api", Some("api"));
        check(&routes, "a.com", "/apix", Some("site"));
        check(&routes, "a.com", "/api/v2/x", Some("v2"));
        check(&routes, "a.com", "/api/v2/health", Some("health"));
        check(&routes, "b.a.com", "/api", Some("sub"));
        check(&routes, "c.b.a.com", "/", Some("subsub"));
        check(&routes, "d.c.b.a.com", "/", Some("subsub"));
        check(&routes, "app1.org", "/", Some("apps"));
        check(&routes, "app11.org", "/", Some("rest"));
        check(&routes, "x.org", "/", None);
    }

    /// One route for all the hosts of a large site.
    #[test]
    fn a_thousand_hosts_may_share_a_rule() {
        let name = |number: usize| format!("tenant-{number}.customers.example.com");
        let hosts = (0..1000).map(|number| format!("`{}`", name(number))).collect::<Vec<_>>().join(", ");
        let rule = Rule::parse(&format!("Host({hosts}) && PathPrefix(`/a`, `/b`)")).expect("valid");
        let samples = [Sample { rule, ..Sample::new("tenants", "Path(`/`)") }, Sample::new("rest", "PathPrefix(`/`)")];
        let (index, conflicts) = build(&samples);
        assert_eq!((conflicts.len(), index.exact.len()), (0, 1000));
        let (headers, client_ip) = (HeaderMap::new(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        for number in 0..1001 {
            for path in ["/a", "/b/x", "/c"] {
                let request = RequestView {
                    host: &name(number),
                    path,
                    query: None,
                    method: &Method::GET,
                    headers: &headers,
                    client_ip,
                    alpn: &[],
                    identities: &[],
                };
                let expected = if number < 1000 && path != "/c" { 0 } else { 1 };
                assert_eq!(index.find(&request, &Name::literal("web")), Some(expected), "{}{path}", name(number));
            }
        }
    }

    #[test]
    fn reports_routes_that_match_alike() {
        let mut samples = vec![
            Sample::new("b", "Host(`a.com`) && (Path(`/`) || Path(`/x`))"),
            Sample::new("a", "Path(`/`) && Host(`A.com`) || Path(`/x`) && Host(`a.com`)"),
            Sample::new("c", "Host(`a.com`) && PathPrefix(`/`)"),
        ];
        let conflict = Conflict { winner: Name::literal("a"), loser: Name::literal("b") };
        assert_eq!(build(&samples).1, std::slice::from_ref(&conflict));
        assert!(conflict.to_string().contains("`a` gets them"));
        if let [b, a, ..] = samples.as_mut_slice() {
            b.listeners = vec![Name::literal("web")];
            a.listeners = vec![Name::literal("secure")];
        }
        assert_eq!(build(&samples).1, []);
    }

    #[test]
    fn walks_the_labels_of_a_host() {
        assert_eq!(suffixes("a.b.c", 9).collect::<Vec<_>>(), ["b.c", "c"]);
        assert_eq!(suffixes("a.b.c", 2).collect::<Vec<_>>(), ["c"]);
        assert_eq!(suffixes(".a", 9).count(), 0);
        assert_eq!(suffixes("", 9).count(), 0);
    }

    #[test]
    fn a_candidate_fits_a_cache_line() {
        assert!(size_of::<Candidate>() <= 64);
    }

    #[test]
    fn can_be_shared_by_threads() {
        fn check<T: Send + Sync>() {}
        check::<Index>();
    }

    /// The same, said stupidly: all alternatives in the order of precedence, one by one.
    fn find_naively(samples: &[Sample], request: &RequestView<'_>, listener: &Name) -> Option<u32> {
        let mut all: Vec<_> = samples.iter().enumerate().flat_map(|(slot, sample)| alternatives(sample.entry(slot))).collect();
        all.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        let takes = |ranked: &&Ranked<'_>| {
            let listeners = ranked.entry.listeners;
            (listeners.is_empty() || listeners.contains(listener)) && ranked.alternative.matches(request)
        };
        all.iter().find(takes).map(|ranked| ranked.entry.slot)
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let listeners = prop_oneof![
            3 => Just(&[][..]),
            1 => Just(&["web"][..]),
            1 => Just(&["secure"][..]),
            1 => Just(&["web", "secure"][..]),
        ];
        let priority = prop_oneof![4 => Just(0), 1 => -1..=1];
        prop::collection::vec((samples::rule(), priority, listeners), 0..40).prop_map(|routes| {
            let name = |position| Name::new(format!("r{position}")).expect("valid");
            let sample = |(position, (rule, priority, listeners)): (usize, (Rule, i32, &[&'static str]))| {
                let listeners = listeners.iter().map(|listener| Name::literal(listener)).collect();
                Sample { name: name(position), rule, priority, listeners }
            };
            routes.into_iter().enumerate().map(sample).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_index_is_the_naive_loop(samples in samples(), requests in prop::collection::vec(samples::request(), 16)) {
            let (index, _) = build(&samples);
            for request in &requests {
                for listener in ["web", "secure", "other"].map(Name::literal) {
                    let found = index.find(&request.view(), &listener);
                    prop_assert_eq!(found, find_naively(&samples, &request.view(), &listener));
                    let takes = |sample: &Sample| sample.serves(&listener) && sample.rule.matches(&request.view());
                    prop_assert_eq!(found.is_some(), samples.iter().any(takes));
                    prop_assert!(found.and_then(|slot| samples.get(slot as usize)).is_none_or(takes));
                }
            }
        }

        #[test]
        fn the_order_of_entries_does_not_matter(samples in samples(), request in samples::request()) {
            let entries = || samples.iter().enumerate().map(|(slot, sample)| sample.entry(slot));
            let (forwards, conflicts) = Index::build(entries());
            let (backwards, conflicts_backwards) = Index::build(entries().rev());
            let web = Name::literal("web");
            prop_assert_eq!(forwards.find(&request.view(), &web), backwards.find(&request.view(), &web));
            let sorted = |mut conflicts: Vec<Conflict>| { conflicts.sort(); conflicts };
            prop_assert_eq!(sorted(conflicts), sorted(conflicts_backwards));
        }
    }
}
