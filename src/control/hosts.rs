//! The names among endpoints: followed here, and what they stand for put into the snapshot, so that compiling needs no network.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
    /// Of each provider, what the table in force, or the one that is compiled next, was made from. A name in it has been waited for: one
    /// that never gets an answer holds up one table, not every one.
    in_force: Vec<NamesIn>,
    waiting_since: Option<Instant>,
}

/// The upstreams of a snapshot that have names among their endpoints, with these names.
struct NamesIn {
    snapshot: Arc<Snapshot>,
    upstreams: BTreeMap<Name, Arc<[Arc<str>]>>,
}

/// An upstream with addresses put in. Kept, so that one for which nothing changed stays the same `Arc`.
struct Resolved {
    named: Arc<UpstreamEntry>,
    known: Vec<Known>,
    whole: Arc<UpstreamEntry>,
}

impl Hosts {
    pub(super) fn new(resolver: Resolver) -> Self {
        Self { resolver, upstreams: HashMap::new(), in_force: Vec::new(), waiting_since: None }
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
    pub(super) fn follow(&mut self, snapshots: &[Arc<Snapshot>], now: Instant) -> Option<Instant> {
        let before = self.in_force.iter().map(Some).chain(std::iter::repeat(None));
        let latest: Vec<NamesIn> = snapshots.iter().zip(before).map(|(snapshot, before)| NamesIn::read(snapshot, before)).collect();
        let (wanted, in_force) = (all_names(&latest), all_names(&self.in_force));
        let is_pending = |name: &Arc<str>| self.resolver.known(&Question::Host(name.clone())).state == State::Pending;
        let is_awaited = wanted.iter().any(|name| !in_force.contains(name) && is_pending(name));
        let until = *self.waiting_since.get_or_insert(now) + FIRST_ANSWERS_MAX;
        if is_awaited && now < until {
            self.resolver.follow(wanted.into_iter().chain(in_force).map(Question::Host).collect());
            return Some(until);
        }
        self.resolver.follow(wanted.into_iter().map(Question::Host).collect());
        self.waiting_since = None;
        self.in_force = latest;
        None
    }

    /// Puts addresses behind the names of the snapshot that those in force make.
    pub(super) fn resolve(&mut self, snapshot: &mut Cow<'_, Snapshot>) {
        let named: BTreeSet<&Name> = self.in_force.iter().flat_map(|names| names.upstreams.keys()).collect();
        self.upstreams.retain(|name, _| named.contains(name));
        if named.is_empty() {
            return;
        }
        let snapshot = snapshot.to_mut();
        let mut problems = Vec::new();
        for name in named {
            let Some(entry) = snapshot.upstreams.get_mut(name) else { continue };
            let known: Vec<Known> = names(entry).map(|host| self.resolver.known(&Question::Host(host.clone()))).collect();
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
        snapshot.problems.extend(problems);
    }
}

impl NamesIn {
    /// Reads only what changed since `before`: an upstream that did not is the same `Arc`, and a comparison of pointers.
    fn read(snapshot: &Arc<Snapshot>, before: Option<&Self>) -> Self {
        let mut unchanged = before.iter().flat_map(|before| &before.snapshot.upstreams).peekable();
        let mut upstreams = BTreeMap::new();
        for (name, entry) in &snapshot.upstreams {
            let is_same = |known: &(&Name, &Arc<UpstreamEntry>)| Arc::ptr_eq(known.1, entry);
            while unchanged.next_if(|known| !is_same(known) && known.0 < name).is_some() {}
            let hosts = match unchanged.next_if(is_same) {
                Some((known, _)) => before.and_then(|before| before.upstreams.get(known)).cloned(),
                None => Some(names(entry).cloned().collect()).filter(|hosts: &Arc<[_]>| !hosts.is_empty()),
            };
            upstreams.extend(hosts.map(|hosts| (name.clone(), hosts)));
        }
        Self { snapshot: snapshot.clone(), upstreams }
    }
}

fn all_names(snapshots: &[NamesIn]) -> HashSet<Arc<str>> {
    snapshots.iter().flat_map(|names| names.upstreams.values()).flat_map(|hosts| hosts.iter().cloned()).collect()
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
        Address::Ip(_) | Address::Unix(_) => None,
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
