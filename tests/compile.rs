//! What compiling promises: invariants I3, I4, I6 and I7, over random configurations; and its behaviours one by one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use nuncio::config::listener::ListenerTls;
use nuncio::config::problem::{Kind, Severity};
use nuncio::config::snapshot::{Entry, Place, Section, UpstreamEntry};
use nuncio::config::upstream::UpstreamTls;
use nuncio::config::{
    Address, Certificate, Endpoint, Listener, MiddlewareRef, Origin, Pem, Problem, Route, Snapshot, TcpRoute, UdpRoute, Upstream,
};
use nuncio::metrics::Meter;
use nuncio::middleware::Middleware;
use nuncio::names::Name;
use nuncio::proxy_protocol::Version;
use nuncio::routing::compile::Context;
use nuncio::routing::route::Target;
use nuncio::routing::sticky::StickyKey;
use nuncio::routing::{RoutingTable, compile};
use nuncio::rule::{ConnectionRule, ConnectionView, RequestView};
use proptest::prelude::*;

static CONTEXT: LazyLock<Context> = LazyLock::new(|| Context {
    meter: Meter::new(Arc::new(metrics::NoopRecorder)),
    sticky_keys: vec![StickyKey::generate().expect("random numbers")],
    crypto: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
    ticketer: rustls::crypto::aws_lc_rs::Ticketer::new().expect("a ticketer"),
    system_roots: LazyLock::new(|| Arc::new(rustls::RootCertStore::empty())),
});

fn next(snapshot: &Snapshot, previous: &RoutingTable) -> RoutingTable {
    compile(snapshot, previous, &CONTEXT)
}

fn first(snapshot: &Snapshot) -> RoutingTable {
    next(snapshot, &RoutingTable::default())
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn origin(key: &str) -> Origin {
    Origin { provider: Name::literal("etcd"), place: Place::Key { key: key.into(), revision: 7 } }
}

fn good<T>(section: &mut Section<T>, key: &str, value: T) {
    section.insert(name(key), Arc::new(Entry { origin: origin(key), value: Ok(value) }));
}

fn bad<T>(section: &mut Section<T>, key: &str) {
    section.insert(name(key), Arc::new(Entry { origin: origin(key), value: Err(Problem::error("unreadable").at(origin(key))) }));
}

fn upstream(snapshot: &mut Snapshot, key: &str, value: Upstream) {
    let settings = Some(Entry { origin: origin(key), value: Ok(value) });
    snapshot.upstreams.insert(name(key), Arc::new(UpstreamEntry { settings, endpoints: BTreeMap::new() }));
}

fn register(snapshot: &mut Snapshot, upstream: &str, id: &str, value: Result<Endpoint, Problem>) {
    let entry = snapshot.upstreams.entry(name(upstream)).or_default();
    Arc::make_mut(entry).endpoints.insert(name(id), Entry { origin: origin(id), value });
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 80))
}

fn route(rule: &str, upstream: &str) -> Route {
    Route::to(rule.parse().expect("a rule"), name(upstream))
}

fn through(middleware: &str, route: Route) -> Route {
    Route { middlewares: vec![MiddlewareRef::Shared(name(middleware))], ..route }
}

fn middleware(json: &str) -> Middleware {
    serde_json::from_str(json).expect("a middleware")
}

/// A middleware that reads well and cannot be built.
fn unbuildable() -> Middleware {
    middleware(r#"{"headers":{}}"#)
}

/// The name of the route that takes a request, and where that sends it.
fn asked(table: &RoutingTable, host: &str, path: &str) -> Option<(String, String)> {
    let (headers, client_ip) = (HeaderMap::new(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let request = RequestView { host, path, query: None, method: &Method::GET, headers: &headers, client_ip, alpn: &[], identities: &[] };
    let route = table.route(&request, &Name::literal("web"))?;
    let target = match &route.target {
        Target::Upstream(upstream) => {
            let endpoints: Vec<_> = upstream.endpoints.iter().map(|endpoint| (&endpoint.address, endpoint.weight)).collect();
            format!("{} {endpoints:?} {:?}", upstream.name, upstream.settings.balance)
        }
        Target::Answered => "answered".into(),
        Target::Closed(reason) => format!("closed: {reason}"),
    };
    Some((route.name.to_string(), format!("{target}, {} steps: {:?}", route.steps.len(), route.steps)))
}

fn problem(table: &RoutingTable, kind: Kind, of: &str) -> Problem {
    let is_it = |problem: &&Problem| problem.object.as_ref().is_some_and(|object| object.kind == kind && object.name == of);
    let found = table.problems.iter().find(is_it);
    found.unwrap_or_else(|| panic!("no problem of {kind} {of} among {:?}", table.problems)).clone()
}

// ---- random configurations

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const RULES: [&str; 6] =
    ["Host(`a.test`)", "Host(`a.test`) && PathPrefix(`/v1`)", "PathPrefix(`/`)", "Path(`/v1/x`)", "Host(`*.test`)", "Host(`b.test`)"];
const HOSTS: [&str; 3] = ["a.test", "b.test", "elsewhere"];
const PATHS: [&str; 4] = ["/", "/v1", "/v1/x", "/other"];
const MIDDLEWARES: [&str; 3] = [r#"{"strip_prefix":"/v1"}"#, r#"{"add_prefix":"/x"}"#, r#"{"body_limit":1000}"#];

/// One change of one object.
#[derive(Debug, Clone)]
enum Change {
    Route { at: usize, rule: usize, middleware: Option<usize>, upstream: usize, priority: i32 },
    Upstream { at: usize, retries: u8, endpoints: Vec<(u8, u16)> },
    Register { at: usize, id: usize, endpoint: Option<(u8, u16)> },
    Middleware { at: usize, kind: usize },
    Remove { kind: usize, at: usize },
}

fn change() -> impl Strategy<Value = Change> {
    let at = || 0..NAMES.len();
    let endpoint = || (0..8_u8, 0..3_u16);
    prop_oneof![
        3 => (at(), 0..RULES.len(), proptest::option::of(at()), at(), -1..=1)
            .prop_map(|(at, rule, middleware, upstream, priority)| Change::Route { at, rule, middleware, upstream, priority }),
        3 => (at(), 0..3_u8, prop::collection::vec(endpoint(), 0..4))
            .prop_map(|(at, retries, endpoints)| Change::Upstream { at, retries, endpoints }),
        3 => (at(), at(), proptest::option::of(endpoint())).prop_map(|(at, id, endpoint)| Change::Register { at, id, endpoint }),
        2 => (at(), 0..MIDDLEWARES.len()).prop_map(|(at, kind)| Change::Middleware { at, kind }),
        1 => (0..3_usize, at()).prop_map(|(kind, at)| Change::Remove { kind, at }),
    ]
}

impl Change {
    fn apply(&self, snapshot: &mut Snapshot) {
        let endpoint = |(number, weight): (u8, u16)| Endpoint { weight, ..Endpoint::new(address(number)) };
        match self {
            Self::Route { at, rule, middleware, upstream, priority } => {
                let middlewares = middleware.iter().map(|at| MiddlewareRef::Shared(name(NAMES[*at]))).collect();
                let route = Route { middlewares, priority: *priority, ..route(RULES[*rule], NAMES[*upstream]) };
                good(&mut snapshot.routes, NAMES[*at], route);
            }
            Self::Upstream { at, retries, endpoints } => {
                let endpoints = endpoints.iter().copied().map(endpoint).collect();
                let value = Upstream { retries: *retries, endpoints, ..Upstream::default() };
                let held = Arc::make_mut(snapshot.upstreams.entry(name(NAMES[*at])).or_default());
                held.settings = Some(Entry { origin: origin("upstream"), value: Ok(value) });
            }
            Self::Register { at, id, endpoint: Some(it) } => register(snapshot, NAMES[*at], NAMES[*id], Ok(endpoint(*it))),
            Self::Register { at, id, endpoint: None } => {
                if let Some(held) = snapshot.upstreams.get_mut(NAMES[*at]) {
                    Arc::make_mut(held).endpoints.remove(NAMES[*id]);
                }
            }
            Self::Middleware { at, kind } => good(&mut snapshot.middlewares, NAMES[*at], middleware(MIDDLEWARES[*kind])),
            Self::Remove { kind: 0, at } => drop(snapshot.routes.remove(NAMES[*at])),
            Self::Remove { kind: 1, at } => drop(snapshot.upstreams.remove(NAMES[*at])),
            Self::Remove { at, .. } => drop(snapshot.middlewares.remove(NAMES[*at])),
        }
    }
}

fn changes(count: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(change(), count)
}

fn snapshot_of(changes: &[Change]) -> Snapshot {
    let mut snapshot = Snapshot::empty(Instant::now());
    changes.iter().for_each(|change| change.apply(&mut snapshot));
    snapshot
}

fn routing(table: &RoutingTable) -> Vec<Option<(String, String)>> {
    HOSTS.iter().flat_map(|host| PATHS.iter().map(|path| asked(table, host, path))).collect()
}

/// Every part that did not change is the same `Arc` as before.
fn check_identity(before_config: &Snapshot, before: &RoutingTable, config: &Snapshot, after: &RoutingTable) -> Result<(), TestCaseError> {
    let is_equal = |name: &Name| before_config.upstreams.get(name) == config.upstreams.get(name);
    for (name, upstream) in &after.upstreams {
        let Some(old) = before.upstreams.get(name) else { continue };
        prop_assert!(!is_equal(name) || Arc::ptr_eq(old, upstream), "upstream {name} did not change");
        prop_assert!(Arc::ptr_eq(&old.metrics, &upstream.metrics) && Arc::ptr_eq(&old.transport, &upstream.transport));
        for endpoint in &upstream.endpoints {
            let same = old.endpoints.iter().find(|old| old.address == endpoint.address);
            prop_assert!(same.is_none_or(|old| Arc::ptr_eq(&old.state, &endpoint.state)), "{name} still has {}", endpoint.address);
        }
    }
    for route in &after.routes {
        let Some(old) = before.routes.iter().find(|old| old.name == route.name) else { continue };
        let is_same_config =
            before_config.routes.get(&route.name).map(|entry| &entry.value) == config.routes.get(&route.name).map(|entry| &entry.value);
        let (Some(Ok(value)), true) = (config.routes.get(&route.name).map(|entry| &entry.value), is_same_config) else { continue };
        let shared = value.middlewares.iter().filter_map(|it| if let MiddlewareRef::Shared(name) = it { Some(name) } else { None });
        let is_untouched = shared
            .clone()
            .all(|name| before_config.middlewares.get(name).map(|it| &it.value) == config.middlewares.get(name).map(|it| &it.value))
            && value.upstream.as_ref().is_none_or(is_equal);
        prop_assert!(!is_untouched || Arc::ptr_eq(old, route), "route {} did not change", route.name);
        prop_assert!(!value.upstream.as_ref().is_some_and(is_equal) || Arc::ptr_eq(&old.metrics, &route.metrics) || !is_untouched);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// I3: the table is a function of the configuration, whatever came before it.
    #[test]
    fn the_past_does_not_matter(now in changes(0..30), one in changes(0..30), other in changes(0..30)) {
        let now = snapshot_of(&now);
        let fresh = routing(&first(&now));
        for past in [one, other] {
            let after = next(&now, &first(&snapshot_of(&past)));
            prop_assert_eq!(&routing(&after), &fresh);
        }
    }

    /// I4: what did not change is handed on, change after change: 128 times 80 of them.
    #[test]
    fn what_did_not_change_is_the_same(changes in changes(80)) {
        let mut config = Snapshot::empty(Instant::now());
        let mut table = first(&config);
        for change in changes {
            let before = config.clone();
            change.apply(&mut config);
            let after = next(&config, &table);
            check_identity(&before, &table, &config, &after)?;
            prop_assert_eq!(after.generation, table.generation + 1);
            table = after;
        }
    }

    /// I7: an object that turns bad keeps its last good version, and nothing else takes notice; mended, it is as if nothing had been.
    #[test]
    fn a_bad_object_changes_nothing(all in changes(1..40), kind in 0..4_usize, at in 0..NAMES.len(), id in 0..NAMES.len()) {
        let config = snapshot_of(&all);
        let before = first(&config);
        let mut broken = config.clone();
        let is_there = match kind {
            0 => config.routes.contains_key(NAMES[at]).then(|| bad(&mut broken.routes, NAMES[at])).is_some(),
            1 => config.middlewares.contains_key(NAMES[at]).then(|| bad(&mut broken.middlewares, NAMES[at])).is_some(),
            2 => broken.upstreams.get_mut(NAMES[at]).is_some_and(|held| {
                let settings = Entry { origin: origin("upstream"), value: Err(Problem::error("unreadable")) };
                let held = Arc::make_mut(held);
                let had_settings = held.settings.is_some();
                held.settings = Some(settings);
                had_settings
            }),
            _ => {
                let is_there = config.upstreams.get(NAMES[at]).is_some_and(|held| held.endpoints.contains_key(NAMES[id]));
                is_there.then(|| register(&mut broken, NAMES[at], NAMES[id], Err(Problem::error("unreadable")))).is_some()
            }
        };
        prop_assume!(is_there);
        let during = next(&broken, &before);
        prop_assert_eq!(routing(&during), routing(&before));
        prop_assert_eq!(during.problems.len(), before.problems.len() + 1);
        let problem = during.problems.iter().find(|problem| problem.message == "unreadable").expect("it is reported");
        prop_assert!(problem.object.is_some() && problem.effect.as_ref().is_some_and(|effect| effect.contains("unaffected")));
        let again = next(&broken, &during);
        prop_assert_eq!(&again.problems, &during.problems);
        let mended = next(&config, &again);
        prop_assert_eq!(routing(&mended), routing(&before));
        prop_assert_eq!(&mended.problems, &before.problems);
    }

    /// I6: a route whose upstream is missing takes its requests all the same.
    #[test]
    fn a_route_without_its_upstream_keeps_its_place(all in changes(1..40)) {
        let config = snapshot_of(&all);
        let table = first(&config);
        let without = next(&Snapshot { upstreams: BTreeMap::new(), ..config }, &table);
        for (before, after) in routing(&table).into_iter().zip(routing(&without)) {
            prop_assert_eq!(before.map(|(route, _)| route), after.as_ref().map(|(route, _)| route.clone()));
            prop_assert!(after.is_none_or(|(_, target)| target.starts_with("closed: ")));
        }
    }
}

// ---- one by one

#[test]
fn a_problem_says_where_and_with_what_effect() {
    let mut config = Snapshot::empty(Instant::now());
    upstream(&mut config, "app", Upstream::of([address(1)]));
    good(&mut config.routes, "app", route("Host(`a.test`)", "app"));
    let table = first(&config);
    bad(&mut config.routes, "app");
    bad(&mut config.routes, "new");
    let table = next(&config, &table);
    let kept = problem(&table, Kind::Route, "app");
    assert_eq!(kept.effect.as_deref(), Some("route `app` keeps its version of generation 1; all other objects are unaffected"));
    assert_eq!(kept.origin, Some(origin("app")));
    let new = "route `new` is not there: its requests go to the routes that are left; all other objects are unaffected";
    assert_eq!(problem(&table, Kind::Route, "new").effect.as_deref(), Some(new));
    good(&mut config.routes, "app", route("Host(`b.test`)", "app"));
    let table = next(&config, &table);
    assert!(asked(&table, "a.test", "/").is_none() && asked(&table, "b.test", "/").is_some());
}

#[test]
fn a_route_that_could_never_be_built_is_closed_in_its_place() {
    let mut config = Snapshot::empty(Instant::now());
    upstream(&mut config, "app", Upstream::of([address(1)]));
    good(&mut config.routes, "all", route("PathPrefix(`/`)", "app"));
    let inline = |middleware| Route { middlewares: vec![MiddlewareRef::Inline(middleware)], ..route("PathPrefix(`/admin`)", "app") };
    good(&mut config.routes, "admin", inline(unbuildable()));
    let table = first(&config);
    let (name, target) = asked(&table, "a.test", "/admin/x").expect("a route");
    assert!(name == "admin" && target.starts_with("closed: middleware 1: headers"), "{name} {target}");
    let effect = problem(&table, Kind::Route, "admin").effect;
    assert_eq!(effect.as_deref(), Some("route `admin` keeps its place and answers 503; all other objects are unaffected"));
    assert_eq!(next(&config, &table).problems, table.problems, "it is said as long as it is so");

    good(&mut config.routes, "admin", inline(middleware(r#"{"ip_allow":["10.0.0.0/8"]}"#)));
    let table = next(&config, &table);
    assert!(table.problems.is_empty());
    good(&mut config.routes, "admin", inline(unbuildable()));
    let table = next(&config, &table);
    assert!(asked(&table, "a.test", "/admin").expect("a route").1.starts_with("app"), "once good, it keeps its last good version");
    assert!(problem(&table, Kind::Route, "admin").effect.expect("an effect").contains("keeps its version of generation 2"));
}

#[test]
fn a_missing_name_closes_the_route_and_suggests_another() {
    let mut config = Snapshot::empty(Instant::now());
    upstream(&mut config, "billing", Upstream::of([address(1)]));
    good(&mut config.routes, "app", route("Host(`a.test`)", "biling"));
    let table = first(&config);
    let missing = problem(&table, Kind::Route, "app");
    assert_eq!(missing.message, "there is no upstream `biling`");
    assert_eq!(missing.help.as_deref(), Some("did you mean `billing`?"));
    upstream(&mut config, "biling2", Upstream::of([address(2)]));
    let after = next(&config, &table);
    assert!(Arc::ptr_eq(&table.routes[0], &after.routes[0]), "another name nearby does not touch the route");
    good(&mut config.routes, "app", through("gone", route("Host(`a.test`)", "billing")));
    assert_eq!(asked(&next(&config, &after), "a.test", "/").expect("a route").1, "closed: there is no middleware `gone`, 0 steps: []");
}

#[test]
fn a_shared_middleware_rebuilds_its_users_only() {
    let mut config = Snapshot::empty(Instant::now());
    upstream(&mut config, "app", Upstream::of([address(1)]));
    good(&mut config.middlewares, "shared", middleware(MIDDLEWARES[0]));
    good(&mut config.middlewares, "other", middleware(MIDDLEWARES[1]));
    good(&mut config.routes, "user", through("shared", route("Host(`a.test`)", "app")));
    good(&mut config.routes, "stranger", through("other", route("Host(`b.test`)", "app")));
    let before = first(&config);
    good(&mut config.middlewares, "shared", middleware(MIDDLEWARES[2]));
    let after = next(&config, &before);
    let of = |table: &RoutingTable, name: &str| table.routes.iter().find(|route| route.name.as_str() == name).expect("a route").clone();
    assert!(Arc::ptr_eq(&of(&before, "stranger"), &of(&after, "stranger")));
    assert!(!Arc::ptr_eq(&of(&before, "user"), &of(&after, "user")));
    assert!(Arc::ptr_eq(&of(&before, "user").metrics, &of(&after, "user").metrics));
}

#[test]
fn an_address_counts_once() {
    let mut config = Snapshot::empty(Instant::now());
    upstream(&mut config, "app", Upstream::of([address(1)]));
    register(&mut config, "app", "one", Ok(Endpoint { weight: 9, ..Endpoint::new(address(1)) }));
    register(&mut config, "app", "two", Ok(Endpoint::new(address(2))));
    let table = first(&config);
    let endpoints: Vec<_> = table.upstreams["app"].endpoints.iter().map(|it| (it.address.ip().unwrap(), it.weight)).collect();
    assert_eq!(endpoints, [(address(1), 1), (address(2), 1)]);
    let twice = problem(&table, Kind::Upstream, "app");
    assert_eq!((twice.severity, twice.message.as_str()), (Severity::Warning, "several of its endpoints have the address 10.0.0.1:80"));
}

#[test]
fn a_warning_stays_as_long_as_its_cause() {
    let mut config = Snapshot::empty(Instant::now());
    let tls = UpstreamTls { insecure_skip_verify: true, ..UpstreamTls::default() };
    upstream(&mut config, "app", Upstream { tls: Some(tls.clone()), ..Upstream::of([address(1)]) });
    let table = first(&config);
    upstream(&mut config, "app", Upstream { tls: Some(tls), ..Upstream::of([address(1)]) });
    let after = next(&config, &table);
    assert!(Arc::ptr_eq(&table.upstreams["app"], &after.upstreams["app"]));
    assert_eq!((table.problems.len(), &after.problems), (1, &table.problems));
}

#[test]
fn settings_that_cannot_be_used_do_not_hold_back_endpoints() {
    let mut config = Snapshot::empty(Instant::now());
    upstream(&mut config, "app", Upstream { retries: 1, ..Upstream::default() });
    register(&mut config, "app", "one", Ok(Endpoint::new(address(1))));
    let table = first(&config);
    let state = table.upstreams["app"].endpoints[0].state.clone();
    let tls = UpstreamTls { ca: Some(Pem::Text("no PEM".into())), ..UpstreamTls::default() };
    upstream(&mut config, "app", Upstream { retries: 5, tls: Some(tls), ..Upstream::default() });
    register(&mut config, "app", "one", Ok(Endpoint::new(address(1))));
    register(&mut config, "app", "two", Ok(Endpoint::new(address(2))));
    let table = next(&config, &table);
    let app = &table.upstreams["app"];
    assert_eq!((app.settings.retries, app.endpoints.len()), (1, 2));
    assert!(Arc::ptr_eq(&app.endpoints[0].state, &state));
    let effect = problem(&table, Kind::Upstream, "app").effect.expect("an effect");
    assert_eq!(effect, "upstream `app` keeps the settings it has had since generation 1; its endpoints are unaffected");
}

#[test]
fn the_most_specific_tcp_route_takes_a_connection() {
    let mut config = Snapshot::empty(Instant::now());
    upstream(&mut config, "db", Upstream::of([address(1)]));
    good(&mut config.listeners, "db", Listener::tcp(address(9).into()));
    let route = TcpRoute::to(name("db"), name("db"));
    let with_rule = |rule: &str| TcpRoute { rule: Some(ConnectionRule::parse(rule).expect(rule)), ..route.clone() };
    good(&mut config.tcp_routes, "fallback", route.clone());
    good(&mut config.tcp_routes, "one", with_rule("Sni(`a.test`)"));
    good(&mut config.tcp_routes, "all", with_rule("Sni(`*.test`)"));
    good(&mut config.tcp_routes, "inside", with_rule("Sni(`*.test`) && ClientIp(`10.0.0.0/8`)"));
    good(&mut config.tcp_routes, "other", TcpRoute { listener: name("dbb"), ..route.clone() });
    let table = first(&config);
    let takes = |table: &RoutingTable, sni: &str, client: [u8; 4]| {
        let connection = ConnectionView { sni, alpn: &[], client_ip: client.into(), identities: &[] };
        table.tcp_routes["db"].find(&connection).expect("the fallback").name.to_string()
    };
    assert_eq!(takes(&table, "a.test", [10, 0, 0, 1]), "one");
    assert_eq!(takes(&table, "b.test", [10, 0, 0, 1]), "inside");
    assert_eq!(takes(&table, "b.test", [11, 0, 0, 1]), "all");
    assert_eq!(takes(&table, "", [10, 0, 0, 1]), "fallback");
    let missing = problem(&table, Kind::TcpRoute, "other");
    assert_eq!((missing.message.as_str(), missing.help.as_deref()), ("there is no listener `dbb`", Some("did you mean `db`?")));

    upstream(&mut config, "other", Upstream::of([address(2)]));
    let after = next(&config, &table);
    assert!(Arc::ptr_eq(&table.tcp_routes["db"], &after.tcp_routes["db"]), "nothing of it has changed");
    good(&mut config.tcp_routes, "same", with_rule("Sni(`A.test`)"));
    let after = next(&config, &after);
    let taken = problem(&after, Kind::TcpRoute, "same");
    assert_eq!(taken.message, "it takes the same connections as TCP route `one`, which comes first by name");
    good(&mut config.tcp_routes, "same", TcpRoute { priority: 1, ..with_rule("Sni(`A.test`)") });
    assert_eq!(takes(&next(&config, &after), "a.test", [10, 0, 0, 1]), "same");
}

#[test]
fn datagrams_are_not_sent_where_they_would_not_be_what_is_wanted() {
    let mut config = Snapshot::empty(Instant::now());
    good(&mut config.listeners, "dns", Listener::udp(address(9).into()));
    good(&mut config.udp_routes, "dns", UdpRoute::to(name("dns"), name("dns")));
    let encrypted = Upstream { tls: Some(UpstreamTls::default()), ..Upstream::of([address(1)]) };
    let version = |version| Upstream { proxy_protocol: Some(version), ..Upstream::of([address(1)]) };
    upstream(&mut config, "dns", version(Version::V2));
    let fit = first(&config);
    assert!(fit.udp_routes["dns"].upstream().is_ok() && fit.problems.is_empty());
    let unix = || Endpoint::new(Address::parse("unix:/run/app.sock").unwrap());
    let local = Upstream { endpoints: vec![unix()], ..Upstream::default() };
    for (unfit, expected) in [
        (encrypted, "upstream `dns` speaks TLS"),
        (version(Version::V1), "upstream `dns` has `proxy_protocol = \"v1\"`"),
        (local, "upstream `dns` has unix sockets as endpoints"),
    ] {
        upstream(&mut config, "dns", unfit);
        let table = next(&config, &fit);
        assert!(table.udp_routes["dns"].upstream().unwrap_err().contains(expected));
        let problem = problem(&table, Kind::UdpRoute, "dns");
        assert!(problem.message.contains(expected) && problem.effect.as_ref().unwrap().contains("are dropped"), "{problem:?}");
    }
    // One among others takes nothing away from them.
    upstream(&mut config, "dns", Upstream { endpoints: vec![Endpoint::new(address(1)), unix()], ..Upstream::default() });
    let table = next(&config, &fit);
    assert!(table.udp_routes["dns"].upstream().is_ok());
    assert!(problem(&table, Kind::UdpRoute, "dns").message.starts_with("endpoint `unix:/run/app.sock` of upstream `dns`"));
}

#[test]
fn connections_that_wait_are_not_said_to_be_closed() {
    let mut config = Snapshot::empty(Instant::now());
    good(&mut config.listeners, "db", Listener::tcp(address(9).into()));
    good(&mut config.tcp_routes, "db", TcpRoute::to(name("db"), name("db")));
    let effect = |config: &Snapshot| problem(&first(config), Kind::TcpRoute, "db").effect.clone().unwrap();
    assert_eq!(effect(&config), "connections that TCP route `db` takes are closed");
    let waiting = TcpRoute { wait: Some(Duration::from_secs(10)), ..TcpRoute::to(name("db"), name("db")) };
    good(&mut config.tcp_routes, "db", waiting);
    assert_eq!(effect(&config), "connections that TCP route `db` takes wait 10s for it, and are closed then");
}

#[test]
fn one_udp_route_has_a_listener() {
    let mut config = Snapshot::empty(Instant::now());
    upstream(&mut config, "dns", Upstream::of([address(1)]));
    good(&mut config.listeners, "dns", Listener::udp(address(9).into()));
    good(&mut config.listeners, "web", Listener::http(address(9).into()));
    for (route, listener, to) in [("a", "dns", "dns"), ("b", "dns", "dns"), ("c", "web", "dn")] {
        good(&mut config.udp_routes, route, UdpRoute::to(name(listener), name(to)));
    }
    let table = first(&config);
    assert_eq!(table.udp_routes["dns"].name.as_str(), "a");
    assert_eq!(problem(&table, Kind::UdpRoute, "b").message, "listener `dns` already belongs to UDP route `a`");
    let of_c: Vec<&Problem> = table.problems.iter().filter(|problem| problem.object.as_ref().is_some_and(|it| it.name == "c")).collect();
    let [protocol, missing] = of_c.as_slice() else { panic!("{of_c:?}") };
    assert_eq!(protocol.message, "listener `web` speaks another protocol");
    assert_eq!((missing.message.as_str(), missing.help.as_deref()), ("there is no upstream `dn`", Some("did you mean `dns`?")));
    assert!(table.udp_routes["web"].upstream().is_err());
    // What is of no concern to it leaves it as it is; what cannot be read keeps its last good version.
    upstream(&mut config, "other", Upstream::of([address(2)]));
    let after = next(&config, &table);
    assert!(Arc::ptr_eq(&table.udp_routes["dns"], &after.udp_routes["dns"]));
    good(&mut config.udp_routes, "a", UdpRoute { idle_timeout: std::time::Duration::ZERO, ..UdpRoute::to(name("dns"), name("other")) });
    let last = next(&config, &after);
    assert!(Arc::ptr_eq(&table.udp_routes["dns"], &last.udp_routes["dns"]));
    assert_eq!(
        problem(&last, Kind::UdpRoute, "a").effect.as_deref(),
        Some("UDP route `a` keeps its version of generation 1; all other objects are unaffected")
    );
}

#[test]
fn routes_that_match_alike_are_reported() {
    let mut config = Snapshot::empty(Instant::now());
    upstream(&mut config, "app", Upstream::of([address(1)]));
    good(&mut config.routes, "a", route("Host(`a.test`)", "app"));
    good(&mut config.routes, "b", route("Host(`A.test`)", "app"));
    let table = first(&config);
    assert_eq!(asked(&table, "a.test", "/").expect("a route").0, "a");
    let conflict = problem(&table, Kind::Route, "b");
    assert_eq!((conflict.severity, conflict.origin), (Severity::Warning, Some(origin("b"))));
    good(&mut config.routes, "b", Route { priority: 1, ..route("Host(`a.test`)", "app") });
    let table = next(&config, &table);
    assert!(table.problems.is_empty());
    assert_eq!(asked(&table, "a.test", "/").expect("a route").0, "b");
}

fn self_signed(name: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed([name.to_string()]).expect("a certificate");
    Certificate { cert: Pem::Text(made.cert.pem()), key: Pem::Text(made.signing_key.serialize_pem()), ca: None, default: false }
}

#[test]
fn certificates_change_their_listeners_only() {
    let mut config = Snapshot::empty(Instant::now());
    let tls = |names: &[&str]| Some(ListenerTls { certificates: names.iter().map(|it| name(it)).collect(), ..ListenerTls::default() });
    good(&mut config.listeners, "all", Listener { tls: tls(&[]), ..Listener::http(address(1).into()) });
    good(&mut config.listeners, "one", Listener { tls: tls(&["a"]), ..Listener::http(address(2).into()) });
    let bare = first(&config);
    assert_eq!(problem(&bare, Kind::Listener, "all").message, "it has TLS, and there is no certificate");
    assert_eq!(problem(&bare, Kind::Listener, "one").message, "there is no certificate `a`");
    good(&mut config.certificates, "a", self_signed("a.test"));
    good(&mut config.certificates, "b", self_signed("b.test"));
    let before = next(&config, &bare);
    assert!(before.problems.is_empty());
    good(&mut config.certificates, "b", self_signed("b.test"));
    let after = next(&config, &before);
    assert!(Arc::ptr_eq(&before.listeners["one"], &after.listeners["one"]));
    assert!(!Arc::ptr_eq(&before.listeners["all"], &after.listeners["all"]));
    good(&mut config.certificates, "b", Certificate { key: self_signed("b.test").key, ..self_signed("b.test") });
    let broken = next(&config, &after);
    assert_eq!(problem(&broken, Kind::Certificate, "b").message, "`key` does not belong to `cert`");
    assert!(Arc::ptr_eq(&after.listeners["all"], &broken.listeners["all"]));
}
