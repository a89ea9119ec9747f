//! Configuration and the table before → the next table and its problems.
//!
//! Pure and total: no I/O, no clock, and no input makes it fail. It works in two steps. *Settling* looks at each object alone: a bad
//! one becomes a problem, and its last good version stays. *Linking* joins the settled objects into a table. Both hand on what did not
//! change from the table before, so a small change costs little however large the table is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::ProducesTickets;

use super::certificates::{BySni, Certificate, read_chain};
use super::conflict::Conflict;
use super::endpoint::{Endpoint, EndpointState};
use super::index::{self, Index};
use super::listener::Listener;
use super::route::{Route, Target, TcpRoute};
use super::sticky::{StickyKey, StickyTable};
use super::table::{InlineStep, Object, Objects, RoutingTable, Settled, SettledUpstream};
use super::upstream::{Transport, TransportTls, Upstream};
use crate::balance::Balancer;
use crate::config::listener::{ListenerProtocol, TlsVersion};
use crate::config::problem::{Kind, ObjectId};
use crate::config::snapshot::{Section, UpstreamEntry};
use crate::config::suggest;
use crate::config::upstream::UpstreamProtocol;
use crate::config::{self, Entry, MiddlewareRef, Pem, Problem, Snapshot};
use crate::metrics::{Meter, RouteMetrics, UpstreamMetrics};
use crate::middleware::Step;
use crate::names::Name;

/// What compiling needs beside the configuration. Made once.
pub struct Context {
    /// Where handles of metrics come from.
    pub meter: Meter,
    /// Keys of sticky cookies; the first one signs, all are accepted.
    pub sticky_keys: Vec<StickyKey>,
    /// Cryptography of TLS.
    pub crypto: Arc<CryptoProvider>,
    /// Session tickets. One for all tables, so that sessions are resumed across swaps.
    pub ticketer: Arc<dyn ProducesTickets>,
    /// The system's roots, read when an upstream first needs them.
    pub system_roots: LazyLock<Arc<RootCertStore>>,
}

/// Compiles `snapshot` into the table that follows `previous`.
#[must_use]
pub fn compile(snapshot: &Snapshot, previous: &RoutingTable, context: &Context) -> RoutingTable {
    let generation = previous.generation + 1;
    let mut problems = snapshot.problems.clone();
    let settled = settle(snapshot, &previous.settled, generation, context, &mut problems);
    link(settled, previous, generation, context, problems)
}

// ---- settling: each object alone

fn settle(snapshot: &Snapshot, previous: &Settled, generation: u64, context: &Context, problems: &mut Vec<Problem>) -> Settled {
    Settled {
        listeners: settle_section(Kind::Listener, &snapshot.listeners, &previous.listeners, generation, problems, config::Listener::check),
        certificates: settle_section(Kind::Certificate, &snapshot.certificates, &previous.certificates, generation, problems, |it| {
            Certificate::new(it, &context.crypto)
        }),
        middlewares: settle_section(Kind::Middleware, &snapshot.middlewares, &previous.middlewares, generation, problems, |it| {
            it.build().map_err(|error| error.to_string())
        }),
        routes: settle_section(Kind::Route, &snapshot.routes, &previous.routes, generation, problems, build_own_steps),
        tcp_routes: settle_section(
            Kind::TcpRoute,
            &snapshot.tcp_routes,
            &previous.tcp_routes,
            generation,
            problems,
            config::TcpRoute::check,
        ),
        upstreams: settle_upstreams(&snapshot.upstreams, &previous.upstreams, generation, context, problems),
    }
}

/// Keeps what did not change, builds what did, and falls back to the last good version of what cannot be built.
fn settle_section<T: PartialEq, B>(
    kind: Kind,
    section: &Section<T>,
    previous: &Objects<T, B>,
    generation: u64,
    problems: &mut Vec<Problem>,
    mut build: impl FnMut(&T) -> Result<B, String>,
) -> Objects<T, B> {
    let mut settled = Objects::new();
    for (name, entry) in section {
        let last_good = previous.get(name);
        let problem = match &entry.value {
            Err(problem) => problem.clone(),
            Ok(value) => {
                if let Some(same) = last_good.filter(|good| Arc::ptr_eq(&good.entry, entry) || good.entry.value.as_ref() == Ok(value)) {
                    settled.insert(name.clone(), Object { entry: entry.clone(), ..same.clone() });
                    continue;
                }
                match build(value) {
                    Ok(built) => {
                        settled.insert(name.clone(), Object { entry: entry.clone(), built: Arc::new(built), since: generation });
                        continue;
                    }
                    Err(message) => Problem::error(message).at(entry.origin.clone()),
                }
            }
        };
        let effect = match last_good {
            Some(good) => format!("{kind} `{name}` keeps its version of generation {}; all other objects are unaffected", good.since),
            None => format!("{kind} `{name}` is not served; all other objects are unaffected"),
        };
        problems.push(problem.about(ObjectId::new(kind, name)).effect(effect));
        if let Some(good) = last_good {
            settled.insert(name.clone(), good.clone());
        }
    }
    settled
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

fn settle_upstreams(
    section: &BTreeMap<Name, Arc<UpstreamEntry>>,
    previous: &BTreeMap<Name, SettledUpstream>,
    generation: u64,
    context: &Context,
    problems: &mut Vec<Problem>,
) -> BTreeMap<Name, SettledUpstream> {
    let mut settled = BTreeMap::new();
    for (name, read) in section {
        let last_good = previous.get(name);
        if let Some(same) = last_good.filter(|good| Arc::ptr_eq(&good.read, read)) {
            problems.extend(same.problems.iter().cloned());
            settled.insert(name.clone(), same.clone());
            continue;
        }
        let mut own = Vec::new();
        let upstream = settle_upstream(name, read, last_good, generation, context, &mut own);
        problems.extend(own.iter().cloned());
        if let Some(upstream) = upstream {
            settled.insert(name.clone(), SettledUpstream { problems: own.into(), ..upstream });
        }
    }
    settled
}

fn settle_upstream(
    name: &Name,
    read: &Arc<UpstreamEntry>,
    last_good: Option<&SettledUpstream>,
    generation: u64,
    context: &Context,
    problems: &mut Vec<Problem>,
) -> Option<SettledUpstream> {
    let entry = without_bad_parts(name, read, last_good.map(|good| &*good.entry), problems)?;
    let unchanged = last_good.filter(|good| is_same_upstream(&good.entry, &entry));
    if let Some(same) = unchanged {
        return Some(SettledUpstream { read: read.clone(), entry: Arc::new(entry), ..same.clone() });
    }
    match build_upstream(name, &entry, last_good.map(|good| &*good.built), context, problems) {
        Ok(built) => Some(SettledUpstream {
            read: read.clone(),
            entry: Arc::new(entry),
            built: Arc::new(built),
            since: generation,
            problems: Arc::new([]),
        }),
        Err(message) => {
            let mut problem = Problem::error(message).about(ObjectId::new(Kind::Upstream, name));
            problem.origin = entry.settings.map(|settings| settings.origin);
            problems.push(problem.effect(kept(Kind::Upstream, name.as_str(), last_good.map(|good| good.since))));
            last_good.map(|good| SettledUpstream { read: read.clone(), ..good.clone() })
        }
    }
}

fn kept(kind: Kind, name: &str, since: Option<u64>) -> String {
    match since {
        Some(since) => format!("{kind} `{name}` keeps its version of generation {since}; all other objects are unaffected"),
        None => format!("{kind} `{name}` is not there: its routes answer 503; all other objects are unaffected"),
    }
}

/// The entry with each bad part replaced by its last good version, or left out when there is none. None when nothing is left of it.
fn without_bad_parts(
    name: &Name,
    read: &UpstreamEntry,
    last_good: Option<&UpstreamEntry>,
    problems: &mut Vec<Problem>,
) -> Option<UpstreamEntry> {
    let settings = match &read.settings {
        Some(Entry { value: Err(problem), .. }) => {
            let before = last_good.map(|before| before.settings.clone());
            let effect = match &before {
                Some(_) => format!("upstream `{name}` keeps the settings it had; its endpoints are unaffected"),
                None => format!("upstream `{name}` is not there: its routes answer 503"),
            };
            problems.push(problem.clone().about(ObjectId::new(Kind::Upstream, name)).effect(effect));
            before?
        }
        fine => fine.clone(),
    };
    let mut good = UpstreamEntry { settings, endpoints: BTreeMap::new() };
    for (id, endpoint) in &read.endpoints {
        match &endpoint.value {
            Ok(_) => {
                good.endpoints.insert(id.clone(), endpoint.clone());
            }
            Err(problem) => {
                let before = last_good.and_then(|before| before.endpoints.get(id));
                let effect = if before.is_some() { "the endpoint stays as it was" } else { "the endpoint is left out" };
                let object = ObjectId { kind: Kind::Endpoint, name: format!("{name}/{id}") };
                problems.push(problem.clone().about(object).effect(effect));
                good.endpoints.extend(before.map(|before| (id.clone(), before.clone())));
            }
        }
    }
    Some(good)
}

/// Whether two entries mean the same, wherever they were read.
fn is_same_upstream(a: &UpstreamEntry, b: &UpstreamEntry) -> bool {
    let settings = |entry: &UpstreamEntry| entry.settings.as_ref().and_then(|settings| settings.value.as_ref().ok()).cloned();
    let endpoints = |entry: &UpstreamEntry| -> Vec<(Name, config::Endpoint)> {
        entry.endpoints.iter().filter_map(|(id, endpoint)| Some((id.clone(), *endpoint.value.as_ref().ok()?))).collect()
    };
    settings(a) == settings(b) && endpoints(a) == endpoints(b)
}

fn build_upstream(
    name: &Name,
    entry: &UpstreamEntry,
    previous: Option<&Upstream>,
    context: &Context,
    problems: &mut Vec<Problem>,
) -> Result<Upstream, String> {
    let settings = match &entry.settings {
        Some(Entry { value: Ok(settings), .. }) => settings.clone(),
        _ => config::Upstream::default(),
    };
    settings.check()?;
    let transport = build_transport(&settings, previous, context)?;
    if settings.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
        let problem = Problem::warning("`tls.insecure_skip_verify` is set: anyone on the way can pose as its endpoints");
        problems.push(
            problem.about(ObjectId::new(Kind::Upstream, name)).help("set `tls.ca` to the roots that signed the endpoints' certificates"),
        );
    }
    let endpoints = build_endpoints(&settings, entry, previous);
    let weights: Vec<(SocketAddr, u16)> = endpoints.iter().map(|endpoint| (endpoint.address, endpoint.weight)).collect();
    let addresses: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let sticky = settings
        .sticky
        .as_ref()
        .map(|sticky| StickyTable::new(sticky, name, &addresses, &context.sticky_keys))
        .transpose()
        .map_err(|error| error.to_string())?;
    let balancer = Balancer::new(&settings.balance, &weights);
    let metrics = previous.map_or_else(|| Arc::new(UpstreamMetrics::new(&context.meter, name)), |previous| previous.metrics.clone());
    Ok(Upstream { name: name.clone(), settings, endpoints, transport, metrics, balancer, sticky })
}

/// The endpoints of the settings, then those registered one by one; each address once. States are carried over by address.
fn build_endpoints(settings: &config::Upstream, entry: &UpstreamEntry, previous: Option<&Upstream>) -> Vec<Endpoint> {
    let states: HashMap<SocketAddr, &Arc<EndpointState>> =
        previous.into_iter().flat_map(|previous| &previous.endpoints).map(|endpoint| (endpoint.address, &endpoint.state)).collect();
    let is_checked = settings.health.is_some();
    let listed = settings.endpoints.iter().map(|endpoint| (None, *endpoint));
    let registered = entry.endpoints.iter().filter_map(|(id, endpoint)| Some((Some(id.clone()), *endpoint.value.as_ref().ok()?)));
    let mut seen = HashSet::new();
    listed
        .chain(registered)
        .filter(|(_, endpoint)| seen.insert(endpoint.address))
        .map(|(id, endpoint)| {
            let state = states.get(&endpoint.address).map(|state| (*state).clone());
            let state = state.unwrap_or_else(|| Arc::new(EndpointState::new(endpoint.address, is_checked)));
            Endpoint { address: endpoint.address, weight: endpoint.weight, id, state }
        })
        .collect()
}

static NEXT_TRANSPORT: AtomicU64 = AtomicU64::new(1);

fn build_transport(settings: &config::Upstream, previous: Option<&Upstream>, context: &Context) -> Result<Arc<Transport>, String> {
    let is_same = |previous: &&Upstream| previous.settings.tls == settings.tls && previous.settings.protocol == settings.protocol;
    if let Some(same) = previous.filter(is_same) {
        return Ok(same.transport.clone());
    }
    let tls = settings.tls.as_ref().map(|tls| build_transport_tls(tls, settings.protocol, context)).transpose()?;
    Ok(Arc::new(Transport { id: NEXT_TRANSPORT.fetch_add(1, Ordering::Relaxed), protocol: settings.protocol, tls }))
}

fn build_transport_tls(tls: &config::upstream::UpstreamTls, protocol: UpstreamProtocol, context: &Context) -> Result<TransportTls, String> {
    let builder = rustls::ClientConfig::builder_with_provider(context.crypto.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("`tls`: {error}"))?;
    let roots = match &tls.ca {
        None => LazyLock::force(&context.system_roots).clone(),
        Some(Pem::Text(pem)) => Arc::new(read_roots(pem)?),
        Some(Pem::Path(path)) => return Err(format!("`tls.ca`: the file {} has not been read", path.display())),
    };
    let mut client = if tls.insecure_skip_verify {
        let verifier = Arc::new(super::upstream::AcceptAny(context.crypto.clone()));
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    } else {
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    client.alpn_protocols = match protocol {
        UpstreamProtocol::H2 => vec![b"h2".to_vec()],
        UpstreamProtocol::Http1 | UpstreamProtocol::H2c => vec![b"http/1.1".to_vec()],
    };
    let server_name = tls.server_name.as_ref().map(|name| {
        ServerName::try_from(name.clone()).map_err(|_| format!("`tls.server_name`: {name:?} is neither a DNS name nor an IP address"))
    });
    Ok(TransportTls { client: Arc::new(client), server_name: server_name.transpose()? })
}

fn read_roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for root in read_chain(pem).map_err(|error| error.replace("`cert`", "`tls.ca`"))? {
        roots.add(root).map_err(|error| format!("`tls.ca`: {error}"))?;
    }
    Ok(roots)
}

// ---- linking: all objects together

fn link(settled: Settled, previous: &RoutingTable, generation: u64, context: &Context, mut problems: Vec<Problem>) -> RoutingTable {
    let upstreams: BTreeMap<Name, Arc<Upstream>> =
        settled.upstreams.iter().map(|(name, upstream)| (name.clone(), upstream.built.clone())).collect();
    let routes = link_routes(&settled, &upstreams, previous, context, &mut problems);
    let (index, conflicts) = link_index(&settled, previous, &mut problems);
    let tcp_routes = link_tcp_routes(&settled, &upstreams, previous, context, &mut problems);
    let listeners = link_listeners(&settled, previous, context, &mut problems);
    RoutingTable { generation, routes, tcp_routes, upstreams, listeners, problems, index, conflicts, settled }
}

/// The routes in the order of their names: a route's slot is its place in it.
fn link_routes(
    settled: &Settled,
    upstreams: &BTreeMap<Name, Arc<Upstream>>,
    previous: &RoutingTable,
    context: &Context,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Route>> {
    // Both are sorted by name, so one walk finds each route's predecessor.
    let mut before = previous.routes.iter().peekable();
    let mut routes = Vec::with_capacity(settled.routes.len());
    for (name, object) in &settled.routes {
        while before.next_if(|route| route.name < *name).is_some() {}
        let predecessor = before.next_if(|route| route.name == *name);
        let route = link_route(name, object, settled, upstreams, predecessor, context, problems);
        routes.extend(route);
    }
    routes
}

fn link_route(
    name: &Name,
    object: &Object<config::Route, Vec<InlineStep>>,
    settled: &Settled,
    upstreams: &BTreeMap<Name, Arc<Upstream>>,
    predecessor: Option<&Arc<Route>>,
    context: &Context,
    problems: &mut Vec<Problem>,
) -> Option<Arc<Route>> {
    let config = object.entry.value.as_ref().ok()?;
    let steps = link_steps(&object.built, settled);
    let target = match &steps {
        Err(missing) => Target::Closed(missing.as_str().into()),
        Ok(steps) => link_target(config.upstream.as_ref(), steps, upstreams),
    };
    if let Target::Closed(reason) = &target {
        let problem = Problem::error(&**reason).about(ObjectId::new(Kind::Route, name)).at(object.entry.origin.clone());
        problems.push(problem.effect(format!("route `{name}` keeps its place and answers 503")));
    }
    check_listener_names(&config.listeners, ListenerProtocol::Http, settled, || (Kind::Route, name, &object.entry), problems);
    let steps = steps.unwrap_or_default();
    if let Some(same) = predecessor.filter(|before| is_same_route(before, config, &steps, &target)) {
        return Some(same.clone());
    }
    let metrics = predecessor.filter(|before| upstream_name(&before.target) == upstream_name(&target)).map(|before| before.metrics.clone());
    let metrics = metrics.unwrap_or_else(|| Arc::new(RouteMetrics::new(&context.meter, name, config.upstream.as_ref())));
    Some(Arc::new(Route { name: name.clone(), steps, target, timeout: config.timeout, metrics }))
}

fn link_steps(steps: &[InlineStep], settled: &Settled) -> Result<Vec<Arc<dyn Step>>, String> {
    let step = |step: &InlineStep| match step {
        InlineStep::Own(step) => Ok(step.clone()),
        InlineStep::Shared(name) => match settled.middlewares.get(name) {
            Some(shared) => Ok((*shared.built).clone()),
            None => Err(format!("there is no middleware `{name}`{}", did_you_mean(name, settled.middlewares.keys()))),
        },
    };
    steps.iter().map(step).collect()
}

fn link_target(upstream: Option<&Name>, steps: &[Arc<dyn Step>], upstreams: &BTreeMap<Name, Arc<Upstream>>) -> Target {
    match upstream {
        Some(name) => match upstreams.get(name) {
            Some(upstream) => Target::Upstream(upstream.clone()),
            None => Target::Closed(format!("there is no upstream `{name}`{}", did_you_mean(name, upstreams.keys())).into()),
        },
        None if steps.iter().any(|step| step.always_responds()) => Target::Answered,
        None => Target::Closed("it names no upstream, and none of its middlewares answers every request".into()),
    }
}

fn upstream_name(target: &Target) -> Option<&Name> {
    match target {
        Target::Upstream(upstream) => Some(&upstream.name),
        Target::Answered | Target::Closed(_) => None,
    }
}

fn is_same_route(before: &Route, config: &config::Route, steps: &[Arc<dyn Step>], target: &Target) -> bool {
    let is_same_target = match (&before.target, target) {
        (Target::Upstream(a), Target::Upstream(b)) => Arc::ptr_eq(a, b),
        (Target::Answered, Target::Answered) => true,
        (Target::Closed(a), Target::Closed(b)) => a == b,
        _ => false,
    };
    is_same_target
        && before.timeout == config.timeout
        && before.steps.len() == steps.len()
        && before.steps.iter().zip(steps).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn check_listener_names<'a, T: 'a>(
    names: &[Name],
    protocol: ListenerProtocol,
    settled: &Settled,
    object: impl Fn() -> (Kind, &'a Name, &'a Arc<Entry<T>>),
    problems: &mut Vec<Problem>,
) {
    for name in names {
        let message = match settled.listeners.get(name).and_then(|listener| listener.entry.value.as_ref().ok()) {
            Some(listener) if listener.protocol == protocol => continue,
            Some(_) => format!("listener `{name}` speaks another protocol"),
            None => format!("there is no listener `{name}`{}", did_you_mean(name, settled.listeners.keys())),
        };
        let (kind, of, entry) = object();
        let problem = Problem::error(message).about(ObjectId::new(kind, of)).at(entry.origin.clone());
        problems.push(problem.effect(format!("{kind} `{of}` gets no traffic from it")));
    }
}

/// The index, shared with the table before when no rule, priority or listener list changed.
fn link_index(settled: &Settled, previous: &RoutingTable, problems: &mut Vec<Problem>) -> (Arc<Index>, Arc<[Conflict]>) {
    let shape =
        |settled: &Settled| -> Vec<(Name, u64)> { settled.routes.iter().map(|(name, object)| (name.clone(), object.since)).collect() };
    let is_same = settled.routes.len() == previous.settled.routes.len() && shape(settled) == shape(&previous.settled);
    let (index, conflicts) =
        if is_same && previous.generation > 0 { (previous.index.clone(), previous.conflicts.clone()) } else { build_index(settled) };
    problems.extend(conflicts.iter().map(|conflict| conflict_problem(conflict, settled)));
    (index, conflicts)
}

fn build_index(settled: &Settled) -> (Arc<Index>, Arc<[Conflict]>) {
    let routes = settled.routes.iter().filter_map(|(name, object)| Some((name, object.entry.value.as_ref().ok()?)));
    let entries = (0..).zip(routes).map(|(slot, (name, route))| index::Entry {
        slot,
        name,
        rule: &route.rule,
        priority: route.priority,
        listeners: &route.listeners,
    });
    let (index, conflicts) = Index::build(entries);
    (Arc::new(index), conflicts.into())
}

fn conflict_problem(conflict: &Conflict, settled: &Settled) -> Problem {
    let (winner, loser) = (&conflict.winner, &conflict.loser);
    let mut problem = Problem::warning(format!("it takes the same requests as route `{winner}`, which comes first by name"))
        .about(ObjectId::new(Kind::Route, loser))
        .help("give one of them a `priority`")
        .effect(format!("route `{loser}` gets no such requests"));
    problem.origin = settled.routes.get(loser).map(|object| object.entry.origin.clone());
    problem
}

fn link_tcp_routes(
    settled: &Settled,
    upstreams: &BTreeMap<Name, Arc<Upstream>>,
    previous: &RoutingTable,
    context: &Context,
    problems: &mut Vec<Problem>,
) -> BTreeMap<Name, Arc<TcpRoute>> {
    let mut routes = BTreeMap::new();
    for (name, object) in &settled.tcp_routes {
        let Ok(config) = &object.entry.value else { continue };
        let about = |problem: Problem| problem.about(ObjectId::new(Kind::TcpRoute, name)).at(object.entry.origin.clone());
        check_listener_names(
            std::slice::from_ref(&config.listener),
            ListenerProtocol::Tcp,
            settled,
            || (Kind::TcpRoute, name, &object.entry),
            problems,
        );
        let target = link_target(Some(&config.upstream), &[], upstreams);
        if let Target::Closed(reason) = &target {
            problems.push(about(Problem::error(&**reason)).effect(format!("connections to listener `{}` are closed", config.listener)));
        }
        if let Some(taken) = routes.get(&config.listener).map(|route: &Arc<TcpRoute>| route.name.clone()) {
            let message = format!("listener `{}` already belongs to TCP route `{taken}`", config.listener);
            problems.push(about(Problem::error(message)).effect(format!("TCP route `{name}` gets no traffic")));
            continue;
        }
        let before = previous.tcp_routes.get(&config.listener).filter(|before| before.name == *name);
        let metrics = before.filter(|before| upstream_name(&before.target) == upstream_name(&target)).map(|before| before.metrics.clone());
        let metrics = metrics.unwrap_or_else(|| Arc::new(RouteMetrics::new(&context.meter, name, Some(&config.upstream))));
        let route = TcpRoute { name: name.clone(), target, idle_timeout: config.idle_timeout, metrics };
        routes.insert(config.listener.clone(), Arc::new(route));
    }
    routes
}

fn link_listeners(
    settled: &Settled,
    previous: &RoutingTable,
    context: &Context,
    problems: &mut Vec<Problem>,
) -> BTreeMap<Name, Arc<Listener>> {
    let certificates_changed = has_changed(&settled.certificates, &previous.settled.certificates);
    let mut listeners = BTreeMap::new();
    for (name, object) in &settled.listeners {
        let Ok(config) = &object.entry.value else { continue };
        let before = previous.listeners.get(name).filter(|before| before.settings == *config);
        let mut own = Vec::new();
        let tls = match &config.tls {
            None => None,
            Some(tls) => {
                let same = before.filter(|_| !certificates_changed).and_then(|before| before.tls.clone());
                let chosen = choose_certificates(name, tls, settled, &mut own);
                Some(same.unwrap_or_else(|| Arc::new(server_config(tls, chosen, config.protocol, context))))
            }
        };
        problems.extend(own.into_iter().map(|problem| problem.at(object.entry.origin.clone())));
        let is_same_tls = |before: &&Arc<Listener>| before.tls.as_ref().map(Arc::as_ptr) == tls.as_ref().map(Arc::as_ptr);
        let listener = before.filter(is_same_tls).cloned();
        let make = || Arc::new(Listener { name: name.clone(), settings: config.clone(), tls: tls.clone() });
        listeners.insert(name.clone(), listener.unwrap_or_else(make));
    }
    listeners
}

fn has_changed<T, B>(now: &Objects<T, B>, before: &Objects<T, B>) -> bool {
    now.len() != before.len() || now.iter().zip(before).any(|((a, now), (b, before))| a != b || now.since != before.since)
}

fn choose_certificates(name: &Name, tls: &config::listener::ListenerTls, settled: &Settled, problems: &mut Vec<Problem>) -> BySni {
    let all = || settled.certificates.values();
    if tls.certificates.is_empty() {
        if settled.certificates.is_empty() {
            let problem = Problem::error("it has TLS, and there is no certificate").about(ObjectId::new(Kind::Listener, name));
            problems.push(problem.effect("TLS handshakes fail").help("add `[certificates.NAME]` with `cert` and `key`"));
        }
        let is_default = |it: &&Object<config::Certificate, Certificate>| it.entry.value.as_ref().is_ok_and(|value| value.default);
        let default = all().find(is_default).or_else(|| all().next());
        return BySni::new(all().map(|it| &*it.built), default.map(|it| &*it.built));
    }
    let mut chosen = Vec::new();
    for certificate in &tls.certificates {
        match settled.certificates.get(certificate) {
            Some(found) => chosen.push(&*found.built),
            None => {
                let message = format!("there is no certificate `{certificate}`{}", did_you_mean(certificate, settled.certificates.keys()));
                let problem = Problem::error(message).about(ObjectId::new(Kind::Listener, name));
                problems.push(problem.effect("TLS handshakes for its names get another certificate, or fail"));
            }
        }
    }
    BySni::new(chosen.iter().copied(), chosen.first().copied())
}

fn server_config(
    tls: &config::listener::ListenerTls,
    certificates: BySni,
    protocol: ListenerProtocol,
    context: &Context,
) -> rustls::ServerConfig {
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let mut config = rustls::ServerConfig::builder_with_provider(context.crypto.clone())
        .with_protocol_versions(versions)
        .expect("the provider's cipher suites fit TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.ticketer = context.ticketer.clone();
    if protocol == ListenerProtocol::Http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    config
}

/// The name among `known` that `wanted` may have meant, as a half sentence.
fn did_you_mean<'a>(wanted: &Name, known: impl Iterator<Item = &'a Name>) -> String {
    let known: Vec<&str> = known.map(Name::as_str).collect();
    let close = suggest::nearest(wanted.as_str(), &known);
    close.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}
