//! From a request to its route: lookup among few and many routes, building the index, evaluating one rule, and bringing hosts
//! and paths into their one spelling.
//!
//! Lookups go through all hosts in an order that a processor cannot foresee, so with many routes they pay for cache misses, as
//! in service. `one_host` puts all routes under prefixes of one host.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use nuncio::names::Name;
use nuncio::routing::index::{Entry, Index};
use nuncio::rule::{RequestView, Rule, normalize_host, path};

const SIZES: [usize; 3] = [10, 1_000, 100_000];
const REQUESTS: usize = 4096;

struct Route {
    name: Name,
    rule: Rule,
}

/// Per host: all of it, two nested prefixes, and one path.
fn many_hosts(routes: usize) -> Vec<Route> {
    let route = |i: usize| {
        let path = ["", " && PathPrefix(`/api`)", " && PathPrefix(`/api/v2`)", " && Path(`/health`)"][i % 4];
        route(i, &format!("Host(`app-{}.example.com`){path}", i / 4))
    };
    (0..routes).map(route).collect()
}

fn one_host(routes: usize) -> Vec<Route> {
    (0..routes).map(|i| route(i, &format!("Host(`example.com`) && PathPrefix(`/team-{}/service-{i}`)", i % 50))).collect()
}

fn route(i: usize, rule: &str) -> Route {
    Route { name: Name::new(format!("route-{i}")).expect("valid"), rule: Rule::parse(rule).expect("valid") }
}

fn index(routes: &[Route]) -> Index {
    let entries = (0..).zip(routes).map(|(slot, Route { name, rule })| Entry { slot, name, rule, priority: 0, listeners: &[] });
    Index::build(entries).0
}

/// Positions below `routes`, in an order that looks random.
fn positions(routes: usize) -> impl Iterator<Item = usize> {
    (0..REQUESTS as u64).map(move |i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % routes)
}

fn find(c: &mut Criterion, name: &str, index: &Index, requests: &[(String, String)]) {
    let (headers, listener) = (HeaderMap::new(), Name::literal("web"));
    let mut requests = requests.iter().cycle();
    c.bench_function(name, |b| {
        b.iter(|| {
            let (host, path) = requests.next().expect("cycles");
            let client_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let request =
                RequestView { host, path, query: None, method: &Method::GET, headers: &headers, client_ip, alpn: &[], identities: &[] };
            black_box(index.find(&request, &listener)).expect("there is a route")
        });
    });
}

fn lookup(c: &mut Criterion) {
    for size in SIZES {
        let paths = ["/", "/api/users/42", "/api/v2/users/42", "/health"];
        // The hosts whose four routes are all there.
        let requests: Vec<_> = positions(size / 4 * 4).map(|i| (format!("app-{}.example.com", i / 4), paths[i % 4].to_string())).collect();
        find(c, &format!("find/many_hosts/{size}"), &index(&many_hosts(size)), &requests);
        let requests: Vec<_> = positions(size).map(|i| ("example.com".into(), format!("/team-{}/service-{i}/users/42", i % 50))).collect();
        find(c, &format!("find/one_host/{size}"), &index(&one_host(size)), &requests);
    }
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.sample_size(10);
    let routes = many_hosts(100_000);
    group.bench_function("index/100000", |b| b.iter_batched(|| (), |()| index(&routes), BatchSize::PerIteration));
    group.bench_function("parse/100000", |b| b.iter_batched(|| (), |()| many_hosts(100_000), BatchSize::PerIteration));
}

fn evaluate(c: &mut Criterion) {
    let rule = Rule::parse("Host(`a.com`) && PathPrefix(`/v1`) && !Header(`X-Debug`, `1`) || Method(`PUT`)").expect("valid");
    let headers = HeaderMap::new();
    let client_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let request = RequestView {
        host: "a.com",
        path: "/v1/users/42",
        query: None,
        method: &Method::GET,
        headers: &headers,
        client_ip,
        alpn: &[],
        identities: &[],
    };
    c.bench_function("matches", |b| b.iter(|| rule.matches(black_box(&request))));
}

fn normalize(c: &mut Criterion) {
    c.bench_function("normalize/path", |b| b.iter(|| path::normalize(black_box("/api/v2/users/42/avatar.png")).is_ok()));
    c.bench_function("normalize/path_rewritten", |b| b.iter(|| path::normalize(black_box("/api//v2/%7Eusers/../42")).is_ok()));
    c.bench_function("normalize/host", |b| b.iter(|| normalize_host(black_box("app-1234.example.com:8080")).is_ok()));
}

criterion_group!(benches, lookup, build, evaluate, normalize);
criterion_main!(benches);
