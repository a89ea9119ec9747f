//! The first step of compiling: each object alone. A bad one becomes a problem, and its last good version stays.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::certificates::{Certificate, read_roots};
use super::compile::Context;
use super::endpoint::{Endpoint, EndpointState};
use super::in_order::InOrder;
use super::link::{find, missing};
use super::sticky::StickyTable;
use super::table::{ClientRoots, InlineStep, Object, Objects, OwnSteps, Settled, SettledUpstream, Since};
use super::transport::build_transport;
use super::upstream::Upstream;
use crate::config::problem::{Kind, ObjectId};
use crate::config::snapshot::{Section, UpstreamEntry};
use crate::config::{self, Entry, MiddlewareRef, Problem, Snapshot};
use crate::metrics::UpstreamMetrics;
use crate::names::Name;
use crate::socket::SocketAddress;

/// Settles all objects of `snapshot`. What is wrong with them comes after what is wrong beside them.
pub(super) fn settle(snapshot: &Snapshot, previous: &Settled, generation: u64, context: &Context) -> (Settled, Vec<Problem>) {
    let since = Since { generation, seen_at: snapshot.seen_at };
    let mut settling = Settling { since, context, problems: snapshot.problems.clone() };
    let listeners = settling.section(Kind::Listener, &snapshot.listeners, &previous.listeners, |it, _| client_roots(it));
    let certificates =
        settling.section(Kind::Certificate, &snapshot.certificates, &previous.certificates, |it, _| Certificate::new(it, &context.crypto));
    let settled = Settled {
        listeners,
        middlewares: settling
            .section(Kind::Middleware, &snapshot.middlewares, &previous.middlewares, |it, _| it.build().map_err(|error| error.to_string())),
        routes: settling.section(Kind::Route, &snapshot.routes, &previous.routes, own_steps),
        tcp_routes: settling.section(Kind::TcpRoute, &snapshot.tcp_routes, &previous.tcp_routes, |it, _| it.check()),
        udp_routes: settling.section(Kind::UdpRoute, &snapshot.udp_routes, &previous.udp_routes, |it, _| it.check()),
        upstreams: settling.upstreams(&snapshot.upstreams, &previous.upstreams, &certificates),
        certificates,
    };
    (settled, settling.problems)
}

type Certificates = Objects<config::Certificate, Certificate>;

struct Settling<'a> {
    /// Of what changes now.
    since: Since,
    context: &'a Context,
    problems: Vec<Problem>,
}

impl Settling<'_> {
    fn section<T: PartialEq, B>(
        &mut self,
        kind: Kind,
        section: &Section<T>,
        previous: &Arc<Objects<T, B>>,
        build: impl Fn(&T, Option<&B>) -> Result<B, String>,
    ) -> Arc<Objects<T, B>> {
        if is_untouched(section, previous) {
            return previous.clone();
        }
        let mut before = InOrder::new(&**previous);
        let settle = |(name, entry)| Some((Name::clone(name), self.object(kind, name, entry, before.find(name), &build)?));
        Arc::new(section.iter().filter_map(settle).collect())
    }

    /// Keeps what did not change, builds what did, and falls back to the last good version of what cannot be built.
    fn object<T: PartialEq, B>(
        &mut self,
        kind: Kind,
        name: &Name,
        entry: &Arc<Entry<T>>,
        last_good: Option<&Object<T, B>>,
        build: impl Fn(&T, Option<&B>) -> Result<B, String>,
    ) -> Option<Object<T, B>> {
        if let Some(same) = last_good.filter(|good| is_same(&good.entry, entry)) {
            return Some(Object { entry: entry.clone(), ..same.clone() });
        }
        let built = match &entry.value {
            Ok(value) => build(value, last_good.map(|good| &*good.built)).map_err(Problem::error),
            Err(problem) => Err(problem.clone()),
        };
        match built {
            Ok(built) => Some(Object { entry: entry.clone(), built: Arc::new(built), since: self.since }),
            Err(mut problem) => {
                problem.origin.get_or_insert_with(|| entry.origin.clone());
                let effect = effect(kind, name, last_good.map(|good| good.since.generation));
                self.problems.push(problem.about(ObjectId::new(kind, name)).effect(effect));
                last_good.cloned()
            }
        }
    }

    fn upstreams(
        &mut self,
        section: &BTreeMap<Name, Arc<UpstreamEntry>>,
        previous: &BTreeMap<Name, Arc<SettledUpstream>>,
        certificates: &Certificates,
    ) -> BTreeMap<Name, Arc<SettledUpstream>> {
        let mut before = InOrder::new(previous);
        let settle = |(name, read): (&Name, &Arc<UpstreamEntry>)| {
            let last_good = before.find(name);
            if let Some(same) = last_good.filter(|good| Arc::ptr_eq(&good.read, read) && shows_the_same(good, certificates)) {
                self.problems.extend(same.problems.iter().cloned());
                return Some((name.clone(), same.clone()));
            }
            let mut problems = Vec::new();
            let settled = self.upstream(name, read, last_good.map(|good| &**good), certificates, &mut problems);
            self.problems.extend(problems.iter().cloned());
            Some((name.clone(), Arc::new(SettledUpstream { problems: problems.into(), ..settled? })))
        };
        section.iter().filter_map(settle).collect()
    }

    /// An upstream whose settings cannot be used keeps those it had; its endpoints follow what was read all the same.
    fn upstream(
        &self,
        name: &Name,
        read: &Arc<UpstreamEntry>,
        last_good: Option<&SettledUpstream>,
        certificates: &Certificates,
        problems: &mut Vec<Problem>,
    ) -> Option<SettledUpstream> {
        let entry = without_bad_parts(name, read, last_good, problems)?;
        let settled = self.keep_or_build(name, read, entry.clone(), last_good, certificates).or_else(|problem| {
            let mut problem = problem.about(ObjectId::new(Kind::Upstream, name));
            problem.origin = entry.settings.as_ref().map(|settings| settings.origin.clone());
            problems.push(problem.effect(settings_effect(name, last_good)));
            let last_good = last_good.ok_or(())?;
            let settings = last_good.entry.settings.clone();
            let entry = Arc::new(UpstreamEntry { settings, endpoints: entry.endpoints.clone() });
            Ok::<_, ()>(self.keep_or_build(name, read, entry, Some(last_good), certificates).unwrap_or_else(|_| last_good.clone()))
        });
        let settled = settled.ok()?;
        problems.extend(warnings(name, &settled));
        Some(settled)
    }

    fn keep_or_build(
        &self,
        name: &Name,
        read: &Arc<UpstreamEntry>,
        entry: Arc<UpstreamEntry>,
        last_good: Option<&SettledUpstream>,
        certificates: &Certificates,
    ) -> Result<SettledUpstream, Problem> {
        let read = read.clone();
        if let Some(same) = last_good.filter(|good| is_same_upstream(&good.entry, &entry) && shows_the_same(good, certificates)) {
            return Ok(SettledUpstream { read, entry, ..same.clone() });
        }
        let built = Arc::new(build_upstream(name, &entry, last_good.map(|good| &*good.built), certificates, self.context)?);
        Ok(SettledUpstream { read, entry, built, since: self.since, problems: Arc::new([]) })
    }
}

/// Whether all entries are those that were settled before. Then all of them are good.
fn is_untouched<T, B>(section: &Section<T>, previous: &Objects<T, B>) -> bool {
    let mut pairs = section.iter().zip(previous);
    section.len() == previous.len() && pairs.all(|((name, entry), (before, object))| Arc::ptr_eq(entry, &object.entry) && name == before)
}

fn is_same<T: PartialEq>(good: &Arc<Entry<T>>, entry: &Arc<Entry<T>>) -> bool {
    Arc::ptr_eq(good, entry) || entry.value.as_ref().is_ok_and(|value| good.value.as_ref() == Ok(value))
}

/// The CAs that a listener itself names for its clients.
fn client_roots(listener: &config::Listener) -> Result<ClientRoots, String> {
    listener.check()?;
    let auth = listener.tls.as_ref().and_then(|tls| tls.client_auth.as_ref());
    auth.and_then(|auth| auth.ca.as_ref()).map(|ca| read_roots(ca, "tls.client_auth.ca")).transpose()
}

/// The certificate that these settings name. None: they name none.
fn shown<'a>(settings: &config::Upstream, certificates: &'a Certificates) -> Result<Option<&'a Arc<Certificate>>, Problem> {
    let Some(name) = settings.tls.as_ref().and_then(|tls| tls.certificate.as_ref()) else { return Ok(None) };
    let found = find(certificates, name, |certificate| Some(&certificate.entry.origin));
    found.map(|found| Some(&found.built)).ok_or_else(|| Problem::error(missing(Kind::Certificate, name)).dangling())
}

/// Whether the certificate that it names is the one that it was built with.
fn shows_the_same(good: &SettledUpstream, certificates: &Certificates) -> bool {
    shown(&good.built.settings, certificates).is_ok_and(|shown| good.built.transport.shows(shown))
}

/// What becomes of an object that cannot be used, and had a good version since this generation, or never.
fn effect(kind: Kind, name: &Name, since: Option<u64>) -> String {
    let own = match (since, kind) {
        (Some(since), _) => format!("{kind} `{name}` keeps its version of generation {since}"),
        (None, Kind::Listener) => format!("nothing is accepted on listener `{name}`"),
        (None, Kind::Route) => format!("route `{name}` is not there: its requests go to the routes that are left"),
        (None, Kind::TcpRoute) => format!("TCP route `{name}` is not there: its connections are closed"),
        (None, Kind::UdpRoute) => format!("UDP route `{name}` is not there: its datagrams are dropped"),
        (None, Kind::Middleware) => format!("middleware `{name}` is not there: routes that name it answer 503"),
        (None, Kind::Certificate) => format!("certificate `{name}` is not offered"),
        (None, Kind::Upstream | Kind::Endpoint) => format!("{kind} `{name}` is not there: its routes answer 503"),
    };
    format!("{own}; all other objects are unaffected")
}

fn settings_effect(name: &Name, last_good: Option<&SettledUpstream>) -> String {
    match last_good {
        Some(good) => {
            format!(
                "upstream `{name}` keeps the settings it has had since generation {}; its endpoints are unaffected",
                good.since.generation
            )
        }
        None => effect(Kind::Upstream, name, None),
    }
}

/// The steps that a route alone has. One that never had good ones is there all the same, and closed: without it, its requests would fall
/// through to a route that lacks its middlewares.
fn own_steps(route: &config::Route, before: Option<&OwnSteps>) -> Result<OwnSteps, String> {
    match build_own_steps(route) {
        Err(message) if before.is_none_or(OwnSteps::is_err) => Ok(Err(message)),
        steps => steps.map(Ok),
    }
}

fn build_own_steps(route: &config::Route) -> Result<Vec<InlineStep>, String> {
    route.check()?;
    let step = |(place, middleware): (usize, &MiddlewareRef)| match middleware {
        MiddlewareRef::Shared(name) => Ok(InlineStep::Shared(name.clone())),
        MiddlewareRef::Inline(middleware) => {
            middleware.build().map(InlineStep::Own).map_err(|error| format!("middleware {}: {error}", place + 1))
        }
    };
    route.middlewares.iter().enumerate().map(step).collect()
}

/// The entry with each bad part replaced by its last good version, or left out when there is none. None when nothing is left of it.
fn without_bad_parts(
    name: &Name,
    read: &Arc<UpstreamEntry>,
    last_good: Option<&SettledUpstream>,
    problems: &mut Vec<Problem>,
) -> Option<Arc<UpstreamEntry>> {
    let before = last_good.map(|good| &*good.entry);
    let bad_endpoints = read.endpoints.iter().filter_map(|(id, endpoint)| Some((id, endpoint.problem()?)));
    let mut endpoints = None;
    for (id, problem) in bad_endpoints {
        let last_good = before.and_then(|before| before.endpoints.get(id));
        let object = ObjectId { kind: Kind::Endpoint, name: format!("{name}/{id}") };
        let fate = if last_good.is_some() { "keeps the address and weight it had" } else { "is left out" };
        let effect = format!("{object} {fate}; all other objects are unaffected");
        problems.push(problem.clone().about(object).effect(effect));
        let endpoints = endpoints.get_or_insert_with(|| read.endpoints.clone());
        match last_good {
            Some(last_good) => endpoints.insert(id.clone(), last_good.clone()),
            None => endpoints.remove(id),
        };
    }
    let bad_settings = read.settings.as_ref().and_then(Entry::problem);
    let settings = match bad_settings {
        Some(problem) => {
            let problem = problem.clone().about(ObjectId::new(Kind::Upstream, name));
            problems.push(problem.effect(settings_effect(name, last_good)));
            before?.settings.clone()
        }
        None if endpoints.is_none() => return Some(read.clone()),
        None => read.settings.clone(),
    };
    Some(Arc::new(UpstreamEntry { settings, endpoints: endpoints.unwrap_or_else(|| read.endpoints.clone()) }))
}

/// Whether two entries mean the same, wherever they were read.
fn is_same_upstream(a: &UpstreamEntry, b: &UpstreamEntry) -> bool {
    let mut endpoints = a.endpoints.iter().zip(&b.endpoints);
    settings(a) == settings(b)
        && a.endpoints.len() == b.endpoints.len()
        && endpoints.all(|((a_id, a), (b_id, b))| a_id == b_id && a.value.as_ref().ok() == b.value.as_ref().ok())
}

fn settings(entry: &UpstreamEntry) -> Option<&config::Upstream> {
    entry.settings.as_ref()?.value.as_ref().ok()
}

/// What is in force, but likely not as its author thinks.
fn warnings(name: &Name, settled: &SettledUpstream) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let mut warn = |message: String, effect: &str, help: &str| {
        let mut problem = Problem::warning(message).about(ObjectId::new(Kind::Upstream, name)).effect(effect).help(help);
        problem.origin = settled.entry.origin().cloned();
        warnings.push(problem);
    };
    let built = &settled.built;
    if built.settings.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
        let (effect, help) = ("any certificate is accepted", "set `tls.ca` to the roots that signed the endpoints' certificates");
        warn("`tls.insecure_skip_verify` is set: anyone on the way can pose as its endpoints".into(), effect, help);
    }
    if let Some(address) = first_twice(&settled.entry) {
        let message = format!("several of its endpoints have the address {address}");
        warn(message, "of endpoints with one address the first counts", "give a greater `weight` to an endpoint that is to get more");
    }
    warnings
}

/// The endpoints of the settings, then those registered one by one.
fn endpoints(entry: &UpstreamEntry) -> impl Iterator<Item = (Option<&Name>, &config::Endpoint)> {
    let listed = settings(entry).into_iter().flat_map(|settings| &settings.endpoints).map(|endpoint| (None, endpoint));
    let registered = entry.endpoints.iter().filter_map(|(id, endpoint)| Some((Some(id), endpoint.value.as_ref().ok()?)));
    listed.chain(registered)
}

/// The first address that is written twice. Names that stand for one address are no mistake: what they stand for changes.
fn first_twice(entry: &UpstreamEntry) -> Option<SocketAddress> {
    let mut seen = HashSet::new();
    endpoints(entry).filter_map(|(_, endpoint)| endpoint.address.definite()).find(|address| !seen.insert(address.clone()))
}

fn build_upstream(
    name: &Name,
    entry: &UpstreamEntry,
    previous: Option<&Upstream>,
    certificates: &Certificates,
    context: &Context,
) -> Result<Upstream, Problem> {
    let settings = settings(entry).cloned().unwrap_or_default();
    settings.check().map_err(Problem::error)?;
    let certificate = shown(&settings, certificates)?;
    let transport = build_transport(&settings, certificate, previous, context).map_err(Problem::error)?;
    let endpoints = build_endpoints(entry, settings.health.is_some(), previous);
    let addresses: Vec<SocketAddress> = endpoints.iter().map(|endpoint| endpoint.address.clone()).collect();
    let sticky = settings.sticky.as_ref().map(|sticky| StickyTable::new(sticky, name, &addresses, &context.sticky_keys));
    let sticky = sticky.transpose().map_err(|error| Problem::error(error.to_string()))?;
    let balancer = super::upstream::tiers(&settings.balance, &endpoints);
    let metrics = previous.map_or_else(|| Arc::new(UpstreamMetrics::new(&context.meter, name)), |previous| previous.metrics.clone());
    Ok(Upstream { name: name.clone(), settings, endpoints, transport, metrics, balancer, sticky })
}

/// Each address once. States are carried over by address, and by the name that the address was given by: with TLS, another name asks for
/// another certificate.
fn build_endpoints(entry: &UpstreamEntry, is_checked: bool, previous: Option<&Upstream>) -> Vec<Endpoint> {
    let before = previous.into_iter().flat_map(|previous| &previous.endpoints).map(|endpoint| &endpoint.state);
    let states: HashMap<_, _> = before.map(|state| ((&state.address, state.host.as_deref()), state)).collect();
    let mut seen = HashSet::new();
    let each = |(id, endpoint): (Option<&Name>, &config::Endpoint)| {
        let host = endpoint.address.name().map(|name| name.host.clone());
        let new = endpoint.address.sockets().filter(|address| seen.insert(address.clone())).map(|address| {
            let known = states.get(&(&address, host.as_deref())).map(|state| Arc::clone(state));
            let state = known.unwrap_or_else(|| Arc::new(EndpointState::new(address.clone(), is_checked).named(host.clone())));
            Endpoint { address, weight: endpoint.weight, is_backup: endpoint.backup, id: id.cloned(), state }
        });
        new.collect::<Vec<_>>()
    };
    endpoints(entry).flat_map(each).collect()
}
