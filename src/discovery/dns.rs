//! Names of the domain name system as a source: each one is an upstream, and what it stands for are its endpoints.
//!
//! ```text
//! follow names ──► read what is known ──► publish ──► wait until something else is known ──┐
//!      ▲                                                                                   │
//!      └───────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`resolve`](super::resolve) asks, and knows how long an answer holds and what a failure means. A name that nobody could say anything of
//! keeps what it had, and is a problem; only when that is so of every name has the source failed. Nobody says of an endpoint that it was
//! deleted: it is missing in an answer, which is [inferred](Removals::Inferred).

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dns_endpoints::{self, Reading};
use super::lookup::NameServers;
use super::resolve::{Known, Question, Resolver, State};
use super::{Provider, ProviderError, Publisher};
use crate::config::problem::{Kind, ObjectId, bounded};
use crate::config::providers::{DnsConfig, RouteTemplate, ServiceName};
use crate::config::snapshot::{Entry, Origin, Place, Removals, Section, UpstreamEntry};
use crate::config::{NameServer, Problem, Route, Snapshot, Upstream};
use crate::names::Name;

/// How long an upstream stays as it is while a name that is new to it has not been answered for. Without the wait it would lose endpoints
/// for as long as a name server takes to answer.
const FIRST_ANSWERS_MAX: Duration = Duration::from_secs(2);
/// How often it is noted that the source is there, while nothing changes.
const CONTACT_INTERVAL: Duration = Duration::from_secs(10);
/// The most names that are followed for all upstreams.
pub const QUESTIONS_MAX: usize = 16_384;

/// Follows names.
#[derive(Debug)]
pub struct DnsProvider {
    name: Name,
    config: DnsConfig,
    /// Started with the first watch, on the runtime of that.
    resolver: Option<Resolver>,
    names: Names,
    /// Whether nobody could say anything of any name, and that was reported.
    is_failing: bool,
}

/// All names, and what came of them.
#[derive(Debug)]
struct Names {
    followed: BTreeMap<Name, Followed>,
    routes: Section<Route>,
    /// Whether there are more names than are followed.
    is_full: bool,
    /// What was published last.
    published: Option<Said>,
}

/// The name of one upstream.
#[derive(Debug)]
struct Followed {
    name: ServiceName,
    origin: Origin,
    /// Since when something of it has not been answered for.
    pending_since: Option<Instant>,
    /// None: nothing is known yet.
    entry: Option<Arc<UpstreamEntry>>,
    problems: Vec<Problem>,
}

type Said = (BTreeMap<Name, Arc<UpstreamEntry>>, Vec<Problem>);

impl DnsProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: DnsConfig) -> Self {
        let names = Names::new(&name, &config);
        Self { name, config, resolver: None, names, is_failing: false }
    }

    fn asked(&self) -> String {
        match self.config.servers.as_slice() {
            [] => "the system's name servers".into(),
            servers => servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }

    async fn run(&mut self, publisher: &dyn Publisher) -> Result<(), ProviderError> {
        let servers = &self.config.servers;
        let resolver = self.resolver.get_or_insert_with(|| Resolver::start(servers_of(servers)));
        loop {
            let now = Instant::now();
            let until = self.names.look(resolver, now);
            match self.names.state(resolver) {
                Whole::Unknown => {}
                Whole::Heard => {
                    self.is_failing = false;
                    self.names.publish(publisher, now);
                }
                Whole::Failed(_) if self.is_failing => {}
                Whole::Failed(why) => {
                    self.is_failing = true;
                    if self.names.published.is_some() {
                        self.names.publish(publisher, now);
                    }
                    let doing = format!("dns: look up {} names at {}", self.names.followed.len(), self.asked());
                    return Err(ProviderError { doing, cause: why.into() });
                }
            }
            let next = until.unwrap_or(now + CONTACT_INTERVAL);
            tokio::select! {
                () = resolver.changed() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }
}

impl Provider for DnsProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        let names = self.config.upstreams.iter().map(|(upstream, name)| format!("{upstream}={name}"));
        let names = names.collect::<Vec<_>>().join(",");
        Some(format!("dns {} {names} {:?}", self.asked(), self.config.route))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(self.run(publisher))
    }
}

/// Who is asked.
fn servers_of(servers: &[NameServer]) -> NameServers {
    match servers {
        [] => NameServers::System,
        servers => NameServers::At(servers.iter().map(|server| server.address()).collect()),
    }
}

/// What is known of all names together.
#[derive(Debug, PartialEq, Eq)]
enum Whole {
    /// Nothing yet.
    Unknown,
    /// A server said something of one of them.
    Heard,
    /// Of none of them anybody could say anything: why of the first.
    Failed(String),
}

impl Names {
    fn new(provider: &Name, config: &DnsConfig) -> Self {
        let followed = config.upstreams.iter().map(|(upstream, name)| {
            let origin = Origin { provider: provider.clone(), place: Place::Lookup { lookup: name.to_string().into() } };
            let followed = Followed { name: name.clone(), origin, pending_since: None, entry: None, problems: Vec::new() };
            (upstream.clone(), followed)
        });
        let followed: BTreeMap<Name, Followed> = followed.collect();
        let routes = config.route.iter().flat_map(|template| {
            followed.iter().map(|(upstream, it)| (upstream.clone(), Arc::new(route(template, upstream, it.origin.clone()))))
        });
        Self { routes: routes.collect(), followed, is_full: false, published: None }
    }

    /// Follows what has to be asked, and takes over what is known. When it changes without any further answer: now and then.
    fn look(&mut self, resolver: &Resolver, now: Instant) -> Option<Instant> {
        let known = |question: &Question| resolver.known(question);
        let mut wanted = HashSet::new();
        // Upstreams first: of too many names, those are left out that only make one of them larger.
        wanted.extend(self.followed.values().map(|followed| dns_endpoints::question(&followed.name)));
        for followed in self.followed.values() {
            let more = dns_endpoints::questions(&followed.name, known);
            let room = QUESTIONS_MAX.saturating_sub(wanted.len());
            wanted.extend(more.into_iter().take(room));
        }
        self.is_full = wanted.len() >= QUESTIONS_MAX;
        resolver.follow(wanted);
        let until = self.followed.iter_mut().filter_map(|(upstream, followed)| followed.look(upstream, &known, now));
        until.min()
    }

    fn state(&self, resolver: &Resolver) -> Whole {
        let mut failure = None;
        let mut is_pending = false;
        for followed in self.followed.values() {
            match resolver.known(&dns_endpoints::question(&followed.name)).state {
                State::Found | State::Nothing => return Whole::Heard,
                State::Pending => is_pending = true,
                State::Failed(why) => failure = failure.or(Some(why)),
            }
        }
        match failure {
            Some(why) if !is_pending => Whole::Failed(why),
            _ => Whole::Unknown,
        }
    }

    /// Publishes what is known, if that is new and of each upstream something is.
    fn publish(&mut self, publisher: &dyn Publisher, seen_at: Instant) {
        let entries = self.followed.iter().map(|(upstream, followed)| Some((upstream.clone(), followed.entry.clone()?)));
        let Some(upstreams) = entries.collect::<Option<BTreeMap<_, _>>>() else { return };
        let of_all =
            self.is_full.then(|| Problem::error(format!("services are on too many hosts: {QUESTIONS_MAX} names are followed at most")));
        let of_names = self.followed.values().flat_map(|followed| followed.problems.iter().cloned());
        let problems = bounded(of_all.into_iter().chain(of_names));
        let is_same = |published: &Said| {
            let is_same_entry = |(a, b): (&Arc<UpstreamEntry>, &Arc<UpstreamEntry>)| Arc::ptr_eq(a, b);
            published.0.values().zip(upstreams.values()).all(is_same_entry) && published.1 == problems
        };
        if self.published.as_ref().is_some_and(is_same) {
            return publisher.contact();
        }
        let routes = self.routes.clone();
        let said = Snapshot { upstreams: upstreams.clone(), routes, problems: problems.clone(), ..Snapshot::empty(seen_at) };
        publisher.publish(Snapshot { removals: Removals::Inferred, ..said });
        self.published = Some((upstreams, problems));
    }
}

impl Followed {
    /// Takes over what is known. If it stays as it is for now, until when.
    fn look(&mut self, upstream: &Name, known: &impl Fn(&Question) -> Known, now: Instant) -> Option<Instant> {
        let reading = dns_endpoints::read(&self.name, known);
        if !reading.is_pending {
            self.pending_since = None;
        } else {
            let until = *self.pending_since.get_or_insert(now) + FIRST_ANSWERS_MAX;
            if now < until {
                return Some(until);
            }
        }
        self.take(upstream, reading);
        None
    }

    fn take(&mut self, upstream: &Name, reading: Reading) {
        let about = |problem: Problem| problem.about(ObjectId::new(Kind::Upstream, upstream)).at(self.origin.clone());
        self.problems = reading.problems.into_iter().map(about).collect();
        let endpoints = reading.endpoints.into_iter().filter_map(|(address, endpoint)| {
            let entry = Entry { origin: self.origin.clone(), value: Ok(endpoint) };
            Some((Name::new(address.to_string()).ok()?, entry))
        });
        let settings = Some(Entry { origin: self.origin.clone(), value: Ok(Upstream::default()) });
        let entry = UpstreamEntry { settings, endpoints: endpoints.collect() };
        // What did not change stays the same.
        if self.entry.as_deref() != Some(&entry) {
            self.entry = Some(Arc::new(entry));
        }
    }
}

fn route(template: &RouteTemplate, upstream: &Name, origin: Origin) -> Entry<Route> {
    let problem = |error| Problem::error(error).about(ObjectId::new(Kind::Route, upstream)).at(origin.clone());
    let value = template.rule(upstream.as_str()).map(|rule| Route::to(rule, upstream.clone())).map_err(problem);
    Entry { origin, value }
}
