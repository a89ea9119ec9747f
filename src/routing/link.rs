//! The second step of compiling: all objects together. References become `Arc`s into the table; what is missing becomes a problem.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;

use super::certificates::{BySni, Certificate};
use super::compile::Context;
use super::conflict::Conflict;
use super::identity::client_verifier;
use super::in_order::InOrder;
use super::index::{self, Index};
use super::listener::Listener;
use super::route::{Route, Target, TcpRoute};
use super::table::{ClientRoots, InlineStep, Object, Objects, OwnSteps, RoutingTable, Settled};
use super::tcp_routes::TcpRoutes;
use super::udp_route::{UdpRoute, unfit_for_datagrams, unix_endpoint};
use super::upstream::Upstream;
use crate::config::listener::{ListenerProtocol, ListenerTls, TlsVersion};
use crate::config::problem::{Kind, ObjectId};
use crate::config::{self, Entry, MiddlewareRef, Origin, Problem};
use crate::metrics::{RouteMetrics, TcpRouteMetrics, UdpRouteMetrics};
use crate::middleware::{Middleware, Step};
use crate::names::Name;
use crate::suggest;

/// How many missing names are compared with those that are there. More of them are not misspelt: something is missing as a whole.
const SUGGESTIONS_MAX: usize = 20;

type Upstreams = BTreeMap<Name, Arc<Upstream>>;

/// Joins `settled` objects into the table of this `generation`.
pub(super) fn link(settled: Settled, previous: &RoutingTable, generation: u64, context: &Context, problems: Vec<Problem>) -> RoutingTable {
    let upstreams: Upstreams = settled.upstreams.iter().map(|(name, upstream)| (name.clone(), upstream.built.clone())).collect();
    let changed = changed(&upstreams, &previous.upstreams);
    let mut linking = Linking { settled: &settled, upstreams: &upstreams, changed, previous, context, problems, suggestions: 0 };
    let routes = linking.routes();
    let (index, conflicts) = linking.index();
    let tcp_routes = linking.tcp_routes();
    let udp_routes = linking.udp_routes();
    let listeners = linking.listeners();
    let problems = linking.problems;
    RoutingTable { generation, routes, tcp_routes, udp_routes, upstreams, listeners, problems, index, conflicts, settled }
}

struct Linking<'a> {
    settled: &'a Settled,
    upstreams: &'a Upstreams,
    /// Upstreams of the table before that are others now, or gone.
    changed: HashSet<&'a Name>,
    previous: &'a RoutingTable,
    context: &'a Context,
    problems: Vec<Problem>,
    suggestions: usize,
}

impl Linking<'_> {
    /// The routes in the order of their names: a route's slot is its place in it.
    fn routes(&mut self) -> Vec<Arc<Route>> {
        let mut before = InOrder::new(self.previous.routes.iter().map(|route| (&route.name, route)));
        let routes = &self.settled.routes;
        routes.iter().filter_map(|(name, object)| self.route(name, object, before.find(name))).collect()
    }

    fn route(&mut self, name: &Name, object: &Object<config::Route, OwnSteps>, before: Option<&Arc<Route>>) -> Option<Arc<Route>> {
        let config = object.entry.value.as_ref().ok()?;
        if let Some(same) = before.filter(|before| self.is_untouched(config, before)) {
            return Some(same.clone());
        }
        let steps = self.steps(&object.built);
        let target = match &steps {
            Err(reason) => Target::Closed(reason.as_str().into()),
            Ok(steps) => self.target(config.upstream.as_ref(), steps),
        };
        if let Target::Closed(reason) = &target {
            let problem = Problem::error(&**reason).about(ObjectId::new(Kind::Route, name)).at(object.entry.origin.clone());
            let problem =
                problem.effect(format!("route `{name}` keeps its place and answers 503; all other objects are unaffected")).dangling();
            let help = self.meant_by_route(config);
            self.problems.push(Problem { help, ..problem });
        }
        self.check_listener_names(&config.listeners, ListenerProtocol::Http, Kind::Route, name, &object.entry);
        if config.rule.reads_client_cert() {
            self.check_client_auth(&config.listeners, ListenerProtocol::Http, Kind::Route, name, &object.entry);
        }
        let steps = steps.unwrap_or_default();
        if let Some(same) = before.filter(|before| is_same_route(before, config, &steps, &target)) {
            return Some(same.clone());
        }
        let metrics = before.filter(|before| before.target.upstream_name() == target.upstream_name()).map(|before| before.metrics.clone());
        let metrics = metrics.unwrap_or_else(|| Arc::new(RouteMetrics::new(&self.context.meter, name, config.upstream.as_ref())));
        let (name, reads_client_cert) = (name.clone(), config.rule.reads_client_cert());
        Some(Arc::new(Route { name, steps, target, timeout: config.timeout, reads_client_cert, metrics }))
    }

    /// Whether nothing that a route is linked with has changed, as that is with most routes at most changes. Routes with something to
    /// report are left to be looked at in full.
    fn is_untouched(&self, config: &config::Route, before: &Route) -> bool {
        let (now, then) = (self.settled, &self.previous.settled);
        let is_linked_alike = Arc::ptr_eq(&now.routes, &then.routes) && Arc::ptr_eq(&now.middlewares, &then.middlewares);
        let is_same_target = matches!(&before.target, Target::Upstream(upstream) if !self.changed.contains(&upstream.name));
        is_linked_alike && is_same_target && config.listeners.is_empty() && !before.reads_client_cert
    }

    fn steps(&self, own: &OwnSteps) -> Result<Vec<Arc<dyn Step>>, String> {
        let step = |step: &InlineStep| match step {
            InlineStep::Own(step) => Ok(step.clone()),
            InlineStep::Shared(name) => match self.middleware(name) {
                Some(shared) => Ok((*shared.built).clone()),
                None => Err(missing(Kind::Middleware, name)),
            },
        };
        own.as_ref().map_err(String::clone)?.iter().map(step).collect()
    }

    fn middleware(&self, name: &Name) -> Option<&Object<Middleware, Arc<dyn Step>>> {
        find(&self.settled.middlewares, name, |middleware| Some(&middleware.entry.origin))
    }

    fn target(&self, upstream: Option<&Name>, steps: &[Arc<dyn Step>]) -> Target {
        match upstream {
            Some(name) => match find(&self.settled.upstreams, name, |upstream| upstream.entry.origin()) {
                Some(upstream) => Target::Upstream(upstream.built.clone()),
                None => Target::Closed(missing(Kind::Upstream, name).into()),
            },
            None if steps.iter().any(|step| step.always_responds()) => Target::Answered,
            None => Target::Closed("it names no upstream, and none of its middlewares answers every request".into()),
        }
    }

    fn check_listener_names<T>(&mut self, names: &[Name], protocol: ListenerProtocol, kind: Kind, of: &Name, entry: &Entry<T>) {
        for name in names {
            let (message, help) = match self.settled.listeners.get(name).and_then(|listener| listener.entry.value.as_ref().ok()) {
                Some(listener) if listener.protocol == protocol => continue,
                Some(_) => (format!("listener `{name}` speaks another protocol"), None),
                None => (missing(Kind::Listener, name), self.meant(name, self.settled.listeners.keys())),
            };
            let problem = Problem::error(message).about(ObjectId::new(kind, of)).at(entry.origin.clone());
            let problem = problem.effect(format!("{kind} `{of}` gets no traffic from it")).dangling();
            self.problems.push(Problem { help, ..problem });
        }
    }

    /// Whether any listener of a route with `ClientCert` asks for one. `names` is empty for all of them.
    fn check_client_auth<T>(&mut self, names: &[Name], protocol: ListenerProtocol, kind: Kind, of: &Name, entry: &Entry<T>) {
        let of_route = self.settled.listeners.iter().filter(|(name, _)| names.is_empty() || names.contains(name));
        let mut of_route = of_route.filter_map(|(_, listener)| listener.entry.value.as_ref().ok()).filter(|it| it.protocol == protocol);
        if of_route.any(|listener| listener.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some())) {
            return;
        }
        let problem = Problem::warning("its rule asks for `ClientCert`, and no listener of it asks clients for a certificate");
        let problem = problem.about(ObjectId::new(kind, of)).at(entry.origin.clone()).effect("no client ever has one").dangling();
        self.problems.push(problem.help("give the listener `tls.client_auth`"));
    }

    /// The index, shared with the table before when no rule, priority or listener list changed.
    fn index(&mut self) -> (Arc<Index>, Arc<[Conflict]>) {
        let previous = self.previous;
        let (now, before) = (&self.settled.routes, &previous.settled.routes);
        let is_same = previous.generation > 0 && (Arc::ptr_eq(now, before) || matches_alike(now, before));
        let (index, conflicts) =
            if is_same { (previous.index.clone(), previous.conflicts.clone()) } else { build_index(&self.settled.routes) };
        self.problems.extend(conflicts.iter().map(|conflict| conflict_problem(Kind::Route, conflict, &self.settled.routes)));
        (index, conflicts)
    }

    fn tcp_routes(&mut self) -> BTreeMap<Name, Arc<TcpRoutes>> {
        let settled = self.settled;
        let mut of_listeners: BTreeMap<&Name, Vec<_>> = BTreeMap::new();
        for (name, object) in &*settled.tcp_routes {
            let Ok(config) = &object.entry.value else { continue };
            let before = self.previous.tcp_routes.get(&config.listener).and_then(|routes| routes.named(name));
            let route = self.tcp_route(name, config, &object.entry, before);
            of_listeners.entry(&config.listener).or_default().push((config, route));
        }
        let of_listeners = of_listeners.into_iter().map(|(listener, routes)| {
            let routes = TcpRoutes::new(listener.clone(), routes, self.previous.tcp_routes.get(listener));
            self.problems.extend(routes.conflicts().iter().map(|conflict| conflict_problem(Kind::TcpRoute, conflict, &settled.tcp_routes)));
            (listener.clone(), routes)
        });
        of_listeners.collect()
    }

    fn tcp_route(
        &mut self,
        name: &Name,
        config: &config::TcpRoute,
        entry: &Entry<config::TcpRoute>,
        before: Option<&Arc<TcpRoute>>,
    ) -> Arc<TcpRoute> {
        self.check_listener_names(std::slice::from_ref(&config.listener), ListenerProtocol::Tcp, Kind::TcpRoute, name, entry);
        if config.rule().reads_client_cert() {
            self.check_client_auth(std::slice::from_ref(&config.listener), ListenerProtocol::Tcp, Kind::TcpRoute, name, entry);
        }
        let target = self.target(Some(&config.upstream), &[]);
        if let Target::Closed(reason) = &target {
            let problem = Problem::error(&**reason).about(ObjectId::new(Kind::TcpRoute, name)).at(entry.origin.clone());
            let fate = match config.wait {
                Some(wait) => format!("wait {} for it, and are closed then", humantime::format_duration(wait)),
                None => "are closed".into(),
            };
            let problem = problem.effect(format!("connections that TCP route `{name}` takes {fate}")).dangling();
            let help = self.meant(&config.upstream, self.upstreams.keys());
            self.problems.push(Problem { help, ..problem });
        }
        let is_same = |before: &&Arc<TcpRoute>| {
            let settings = (before.passthrough, before.wait, before.idle_timeout, before.max_lifetime);
            before.target.is_same(&target) && settings == (config.passthrough, config.wait, config.idle_timeout, config.max_lifetime)
        };
        if let Some(same) = before.filter(is_same) {
            return same.clone();
        }
        let metrics = before.filter(|before| before.target.upstream_name() == target.upstream_name()).map(|before| before.metrics.clone());
        let metrics = metrics.unwrap_or_else(|| Arc::new(TcpRouteMetrics::new(&self.context.meter, name, &config.upstream)));
        let config::TcpRoute { passthrough, wait, idle_timeout, max_lifetime, .. } = *config;
        Arc::new(TcpRoute { name: name.clone(), target, passthrough, wait, idle_timeout, max_lifetime, metrics })
    }

    fn udp_routes(&mut self) -> BTreeMap<Name, Arc<UdpRoute>> {
        let mut routes: BTreeMap<Name, Arc<UdpRoute>> = BTreeMap::new();
        for (name, object) in &*self.settled.udp_routes {
            let Ok(config) = &object.entry.value else { continue };
            let about = |problem: Problem| problem.about(ObjectId::new(Kind::UdpRoute, name)).at(object.entry.origin.clone());
            if let Some(taken) = routes.get(&config.listener) {
                let problem = Problem::error(format!("listener `{}` already belongs to UDP route `{}`", config.listener, taken.name));
                self.problems.push(about(problem).effect(format!("UDP route `{name}` gets no traffic")));
                continue;
            }
            let listener = std::slice::from_ref(&config.listener);
            self.check_listener_names(listener, ListenerProtocol::Udp, Kind::UdpRoute, name, &object.entry);
            let mut target = self.target(Some(&config.upstream), &[]);
            let effect = format!("datagrams to listener `{}` are dropped", config.listener);
            if let Target::Closed(reason) = &target {
                let problem = about(Problem::error(&**reason)).effect(effect).dangling();
                let help = self.meant(&config.upstream, self.upstreams.keys());
                self.problems.push(Problem { help, ..problem });
            } else if let Some(reason) = unfit_for_datagrams(&target) {
                self.problems.push(about(Problem::error(&*reason)).effect(effect));
                target = Target::Closed(reason.into());
            } else if let Some(unfit) = unix_endpoint(&target) {
                let problem = Problem::error(format!(
                    "endpoint `{unfit}` of upstream `{}` is a unix socket, which takes no datagrams",
                    config.upstream
                ));
                self.problems.push(about(problem).effect("datagrams for it are dropped; other endpoints are unaffected"));
            }
            let before = self.previous.udp_routes.get(&config.listener).filter(|before| before.name == *name);
            routes.insert(config.listener.clone(), self.udp_route(name, config, target, before));
        }
        routes
    }

    fn udp_route(&self, name: &Name, config: &config::UdpRoute, target: Target, before: Option<&Arc<UdpRoute>>) -> Arc<UdpRoute> {
        if let Some(same) = before.filter(|before| before.settings == *config && before.target.is_same(&target)) {
            return same.clone();
        }
        let metrics = before.filter(|before| before.settings.upstream == config.upstream).map(|before| before.metrics.clone());
        let metrics = metrics.unwrap_or_else(|| Arc::new(UdpRouteMetrics::new(&self.context.meter, name, &config.upstream)));
        Arc::new(UdpRoute::new(name.clone(), config.clone(), target, metrics))
    }

    fn listeners(&mut self) -> BTreeMap<Name, Arc<Listener>> {
        let mut listeners = BTreeMap::new();
        for (name, object) in &*self.settled.listeners {
            let Ok(config) = &object.entry.value else { continue };
            let certificates = config.tls.as_ref().map(|tls| self.certificates(name, tls, &object.entry)).unwrap_or_default();
            let clients = config.tls.as_ref().and_then(|tls| self.clients(name, tls, object, &certificates));
            let before = self.previous.listeners.get(name).filter(|before| before.settings == *config);
            let same = before.filter(|before| is_each_same(&before.certificates, &certificates));
            let listener = same.cloned().unwrap_or_else(|| {
                let tls = config
                    .tls
                    .as_ref()
                    .map(|tls| Arc::new(server_config(tls, clients.clone(), &certificates, config.protocol, self.context)));
                Arc::new(Listener { name: name.clone(), settings: config.clone(), tls, certificates })
            });
            listeners.insert(name.clone(), listener);
        }
        listeners
    }

    /// What clients must show. None: nothing.
    fn clients(
        &mut self,
        name: &Name,
        tls: &ListenerTls,
        object: &Object<config::Listener, ClientRoots>,
        certificates: &[Arc<Certificate>],
    ) -> Option<Clients> {
        let auth = tls.client_auth.as_ref()?;
        let roots = object.built.as_ref().as_ref().or_else(|| certificates.first()?.roots.as_ref());
        let verifier = match roots {
            Some(roots) => client_verifier(roots.clone(), auth.mode, &self.context.crypto),
            None => Err("`tls.client_auth` has no `ca`, and neither has the listener's first certificate".into()),
        };
        let verifier = verifier.map_err(|message| {
            let problem = Problem::error(message).about(ObjectId::new(Kind::Listener, name)).at(object.entry.origin.clone());
            self.problems.push(problem.effect("TLS handshakes fail").dangling());
        });
        Some(verifier)
    }

    /// The certificates that a listener chooses from, the default one first.
    fn certificates(&mut self, name: &Name, tls: &ListenerTls, entry: &Entry<config::Listener>) -> Vec<Arc<Certificate>> {
        let about = |problem: Problem| problem.about(ObjectId::new(Kind::Listener, name)).at(entry.origin.clone());
        let settled = self.settled;
        if tls.certificates.is_empty() {
            if settled.certificates.is_empty() {
                let problem = about(Problem::error("it has TLS, and there is no certificate")).effect("TLS handshakes fail").dangling();
                self.problems.push(problem.help("add `[certificates.NAME]` with `cert` and `key`"));
            }
            return default_first(&settled.certificates);
        }
        let mut chosen = Vec::new();
        for certificate in &tls.certificates {
            match find(&settled.certificates, certificate, |certificate| Some(&certificate.entry.origin)) {
                Some(found) => chosen.push(found.built.clone()),
                None => {
                    let problem = about(Problem::error(missing(Kind::Certificate, certificate)));
                    let problem = problem.effect("TLS handshakes for its names get another certificate, or fail").dangling();
                    let help = self.meant(certificate, settled.certificates.keys());
                    self.problems.push(Problem { help, ..problem });
                }
            }
        }
        chosen
    }

    /// Which middleware or upstream a route that names a missing one may have meant.
    fn meant_by_route(&mut self, route: &config::Route) -> Option<String> {
        let middlewares = &self.settled.middlewares;
        let is_missing =
            |middleware: &'_ &MiddlewareRef| matches!(middleware, MiddlewareRef::Shared(name) if self.middleware(name).is_none());
        match (route.middlewares.iter().find(is_missing), &route.upstream) {
            (Some(MiddlewareRef::Shared(name)), _) => self.meant(name, middlewares.keys()),
            (_, Some(name)) if !self.upstreams.contains_key(name) => self.meant(name, self.upstreams.keys()),
            _ => None,
        }
    }

    /// The one of the names that `wanted` may be a misspelling of. Help, and no part of what the table says: that must not change with
    /// the names of objects that it has nothing to do with.
    fn meant<'n>(&mut self, wanted: &Name, known: impl Iterator<Item = &'n Name>) -> Option<String> {
        self.suggestions += 1;
        if self.suggestions > SUGGESTIONS_MAX {
            return None;
        }
        suggest::nearest(wanted.as_str(), known.map(Name::as_str)).map(|meant| format!("did you mean `{meant}`?"))
    }
}

/// The object of this name. `NAME@PROVIDER` is the one that this provider has.
pub(super) fn find<'a, T>(all: &'a BTreeMap<Name, T>, name: &Name, origin: impl Fn(&T) -> Option<&Origin>) -> Option<&'a T> {
    all.get(name).or_else(|| {
        let (plain, provider) = name.as_str().rsplit_once('@')?;
        all.get(plain).filter(|object| origin(object).is_some_and(|origin| origin.provider.as_str() == provider))
    })
}

pub(super) fn missing(kind: Kind, name: &Name) -> String {
    format!("there is no {kind} `{name}`")
}

impl Target {
    fn upstream_name(&self) -> Option<&Name> {
        match self {
            Self::Upstream(upstream) => Some(&upstream.name),
            Self::Answered | Self::Closed(_) => None,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Upstream(a), Self::Upstream(b)) => Arc::ptr_eq(a, b),
            (Self::Answered, Self::Answered) => true,
            (Self::Closed(a), Self::Closed(b)) => a == b,
            _ => false,
        }
    }
}

fn changed<'a>(now: &Upstreams, before: &'a Upstreams) -> HashSet<&'a Name> {
    let mut now = InOrder::new(now);
    let is_other = |(name, before): &(&Name, &Arc<Upstream>)| now.find(name).is_none_or(|now| !Arc::ptr_eq(now, before));
    before.iter().filter(is_other).map(|(name, _)| name).collect()
}

fn is_same_route(before: &Route, config: &config::Route, steps: &[Arc<dyn Step>], target: &Target) -> bool {
    let is_alike = before.timeout == config.timeout && before.reads_client_cert == config.rule.reads_client_cert();
    is_alike && before.target.is_same(target) && is_each_same(&before.steps, steps)
}

fn is_each_same<T: ?Sized>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Whether the same index finds the routes of both: they have the same slots, and take the same requests.
fn matches_alike(now: &Objects<config::Route, OwnSteps>, before: &Objects<config::Route, OwnSteps>) -> bool {
    let takes_alike = |now: &Object<config::Route, _>, before: &Object<config::Route, _>| match (&now.entry.value, &before.entry.value) {
        (Ok(now), Ok(before)) => now.rule == before.rule && now.priority == before.priority && now.listeners == before.listeners,
        _ => false,
    };
    let is_alike = |((name, now), (name_before, before)): ((&Name, &Object<_, _>), (&Name, &Object<_, _>))| {
        name == name_before && (now.since == before.since || takes_alike(now, before))
    };
    now.len() == before.len() && now.iter().zip(before).all(is_alike)
}

fn build_index(routes: &Objects<config::Route, OwnSteps>) -> (Arc<Index>, Arc<[Conflict]>) {
    let routes = routes.iter().filter_map(|(name, object)| Some((name, object.entry.value.as_ref().ok()?)));
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

fn conflict_problem<T, B>(kind: Kind, conflict: &Conflict, objects: &Objects<T, B>) -> Problem {
    let (winner, loser) = (&conflict.winner, &conflict.loser);
    let takes = if kind == Kind::Route { "requests" } else { "connections" };
    let mut problem = Problem::warning(format!("it takes the same {takes} as {kind} `{winner}`, which comes first by name"))
        .about(ObjectId::new(kind, loser))
        .help("give one of them a `priority`")
        .effect(format!("{kind} `{loser}` gets no such {takes}"));
    problem.origin = objects.get(loser).map(|object| object.entry.origin.clone());
    problem
}

/// All certificates, first the one that is served when no name matches.
fn default_first(all: &Objects<config::Certificate, Certificate>) -> Vec<Arc<Certificate>> {
    let is_default = |object: &Object<config::Certificate, _>| object.entry.value.as_ref().is_ok_and(|value| value.default);
    // One without a name, such as that of a mesh, is nobody's choice.
    let has_name = |object: &Object<config::Certificate, Certificate>| !object.built.names.is_empty();
    let default = all.values().position(is_default).or_else(|| all.values().position(has_name)).unwrap_or_default();
    let mut all: Vec<_> = all.values().map(|object| object.built.clone()).collect();
    if let Some(up_to_default) = all.get_mut(..=default) {
        up_to_default.rotate_right(1);
    }
    all
}

/// What decides about the certificates of clients, or nothing that could: then no handshake succeeds.
type Clients = Result<Arc<dyn ClientCertVerifier>, ()>;

fn server_config(
    tls: &ListenerTls,
    clients: Option<Clients>,
    certificates: &[Arc<Certificate>],
    protocol: ListenerProtocol,
    context: &Context,
) -> rustls::ServerConfig {
    let offered = if matches!(clients, Some(Err(()))) { &[] } else { certificates };
    let by_sni = BySni::new(offered.iter().map(|it| &**it), offered.first().map(|it| &**it));
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let builder = rustls::ServerConfig::builder_with_provider(context.crypto.clone())
        .with_protocol_versions(versions)
        .expect("the provider's cipher suites fit TLS 1.2 and 1.3");
    let mut config = match clients {
        Some(Ok(verifier)) => {
            let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(by_sni));
            // Who a client is is verified with each connection: a session that is resumed would outlast a CA that is gone.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
        Some(Err(())) | None => {
            let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(by_sni));
            config.ticketer = context.ticketer.clone();
            config
        }
    };
    config.alpn_protocols = match protocol {
        ListenerProtocol::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        ListenerProtocol::Tcp | ListenerProtocol::Udp => tls.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect(),
    };
    config
}
