//! The names among endpoints: followed here, and what they stand for put into the snapshot, so that compiling needs no network.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::problem::{Kind, ObjectId, PROBLEMS_MAX};
use crate::config::snapshot::{Origin, UpstreamEntry};
use crate::config::{Address, Endpoint, Problem, Snapshot};
use crate::discovery::Resolver;
use crate::discovery::resolve::{Known, Question, Record, State};
use crate::names::Name;

/// How long a table waits for the first answers to names that are new in it. Without the wait an upstream would lose its endpoints for as
/// long as a name server takes to answer; with a longer one, a name that nobody answers for would hold up all other changes.
const FIRST_ANSWERS_MAX: Duration = Duration::from_secs(2);

/// The names among endpoints.
pub(super) struct Hosts {
    resolver: Resolver,
    upstreams: HashMap<Name, Resolved>,
    /// Names that have been waited for. One that never gets an answer holds up one table, not every one.
    waited_for: HashSet<Arc<str>>,
    waiting_since: Option<Instant>,
}

/// An upstream with addresses put in. Kept, so that one for which nothing changed stays the same `Arc`.
struct Resolved {
    named: Arc<UpstreamEntry>,
    known: Vec<Known>,
    whole: Arc<UpstreamEntry>,
}

impl Hosts {
    pub(super) fn new(resolver: Resolver) -> Self {
        Self { resolver, upstreams: HashMap::new(), waited_for: HashSet::new(), waiting_since: None }
    }

    /// Waits until something else is known of a name.
    pub(super) async fn changed(&self) {
        self.resolver.changed().await;
    }

    pub(super) async fn stop(self) {
        self.resolver.stop().await;
    }

    /// Follows the names of these snapshots. Some time: their table must wait until then, or until [`Self::changed`]; meanwhile the names
    /// of those in force are followed too.
    pub(super) fn follow(&mut self, snapshots: &[Arc<Snapshot>], in_force: &[Arc<Snapshot>], now: Instant) -> Option<Instant> {
        let wanted = all_names(snapshots);
        self.waited_for.retain(|name| wanted.contains(name));
        let is_pending = |name: &Arc<str>| self.resolver.known(&Question::Host(name.clone())).state == State::Pending;
        let is_awaited = wanted.iter().any(|name| !self.waited_for.contains(name) && is_pending(name));
        let until = *self.waiting_since.get_or_insert(now) + FIRST_ANSWERS_MAX;
        if is_awaited && now < until {
            self.resolver.follow(wanted.into_iter().chain(all_names(in_force)).map(Question::Host).collect());
            return Some(until);
        }
        self.resolver.follow(wanted.iter().cloned().map(Question::Host).collect());
        self.waiting_since = None;
        self.waited_for = wanted;
        None
    }

    /// Puts addresses behind the names.
    pub(super) fn resolve(&mut self, snapshot: &mut Cow<'_, Snapshot>) {
        if !snapshot.upstreams.values().any(|entry| names(entry).next().is_some()) {
            self.upstreams.clear();
            return;
        }
        let snapshot = snapshot.to_mut();
        let mut problems = Vec::new();
        for (name, entry) in &mut snapshot.upstreams {
            let known: Vec<Known> = names(entry).map(|host| self.resolver.known(&Question::Host(host.clone()))).collect();
            if known.is_empty() {
                continue;
            }
            let reported = named_endpoints(entry).zip(&known).filter_map(|(endpoint, known)| problem(name, &endpoint, known));
            problems.extend(reported.take(PROBLEMS_MAX - problems.len().min(PROBLEMS_MAX)));
            let is_same = |before: &&Resolved| {
                Arc::ptr_eq(&before.named, entry) && before.known.iter().zip(&known).all(|(before, known)| before.records == known.records)
            };
            if let Some(same) = self.upstreams.get(name).filter(is_same) {
                *entry = same.whole.clone();
                continue;
            }
            let whole = Arc::new(put_in(entry, &known));
            let resolved = Resolved { named: entry.clone(), known, whole: whole.clone() };
            self.upstreams.insert(name.clone(), resolved);
            *entry = whole;
        }
        self.upstreams.retain(|name, _| snapshot.upstreams.contains_key(name));
        snapshot.problems.extend(problems);
    }
}

/// An endpoint that is given by name.
struct Named<'a> {
    host: &'a Arc<str>,
    /// The key that it is registered under.
    id: Option<&'a Name>,
    origin: &'a Origin,
}

/// The endpoints that are given by name, always in the same order.
fn named_endpoints(entry: &UpstreamEntry) -> impl Iterator<Item = Named<'_>> {
    let of_settings = entry.settings.iter().filter_map(|settings| Some((&settings.origin, settings.value.as_ref().ok()?)));
    let listed = of_settings.flat_map(|(origin, upstream)| upstream.endpoints.iter().map(move |endpoint| (None, origin, endpoint)));
    let registered = entry.endpoints.iter().filter_map(|(id, it)| Some((Some(id), &it.origin, it.value.as_ref().ok()?)));
    let all = listed.chain(registered);
    all.filter_map(|(id, origin, endpoint)| Some(Named { host: &endpoint.address.name()?.host, id, origin }))
}

fn all_names(snapshots: &[Arc<Snapshot>]) -> HashSet<Arc<str>> {
    let entries = snapshots.iter().flat_map(|snapshot| snapshot.upstreams.values());
    entries.flat_map(|entry| names(entry)).cloned().collect()
}

fn names(entry: &UpstreamEntry) -> impl Iterator<Item = &Arc<str>> {
    named_endpoints(entry).map(|endpoint| endpoint.host)
}

/// The same entry, with what is known of each of its names, in their order.
fn put_in(entry: &UpstreamEntry, known: &[Known]) -> UpstreamEntry {
    let mut whole = entry.clone();
    let of_settings = whole.settings.iter_mut().filter_map(|settings| settings.value.as_mut().ok());
    let listed = of_settings.flat_map(|upstream| &mut upstream.endpoints);
    let registered = whole.endpoints.values_mut().filter_map(|it| it.value.as_mut().ok());
    let named = listed.chain(registered).filter_map(|Endpoint { address, .. }| match address {
        Address::Name(name) => Some(name),
        Address::Ip(_) => None,
    });
    for (name, known) in named.zip(known) {
        name.ips = known.records.iter().filter_map(ip).collect();
    }
    whole
}

fn ip(record: &Record) -> Option<IpAddr> {
    match record {
        Record::Ip(ip) => Some(*ip),
        Record::Service { .. } => None,
    }
}

/// What there is to tell of a name. Nothing of one that is as it should be.
fn problem(upstream: &Name, endpoint: &Named<'_>, known: &Known) -> Option<Problem> {
    let host = endpoint.host;
    let (count, message) = match &known.state {
        State::Found => return None,
        State::Pending => (0, format!("`{host}` has not been looked up yet: no name server has answered")),
        State::Nothing => (known.records.len(), format!("there is no host `{host}`")),
        State::Failed(why) => (known.records.len(), format!("`{host}` cannot be looked up: {why}")),
    };
    let problem = match count {
        0 => Problem::error(message).effect(format!("upstream `{upstream}` gets no endpoint from it; it is looked up again")),
        _ => Problem::warning(message).effect(format!("its {count} last known addresses are used; it is looked up again")),
    };
    let object = match endpoint.id {
        Some(id) => ObjectId { kind: Kind::Endpoint, name: format!("{upstream}/{id}") },
        None => ObjectId::new(Kind::Upstream, upstream),
    };
    Some(problem.about(object).at(endpoint.origin.clone()))
}
