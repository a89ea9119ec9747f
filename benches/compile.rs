//! The next table of 10,000 endpoints in 1,000 upstreams, each with a route: when nothing, one endpoint, or everything has changed.
//! `publish` is the store into the cell that workers read, with the table before dropped.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use nuncio::discovery::kv::{Pair, Tree};
use nuncio::metrics::{Meter, Registry};
use nuncio::names::Name;
use nuncio::routing::compile::Context;
use nuncio::routing::sticky::StickyKey;
use nuncio::routing::{RoutingTable, compile};

const UPSTREAMS: usize = 1_000;
const ENDPOINTS: usize = 10;

fn context() -> Context {
    Context {
        meter: Meter::new(Arc::new(Registry::default())),
        sticky_keys: vec![StickyKey::generate().expect("random numbers")],
        crypto: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        ticketer: rustls::crypto::aws_lc_rs::Ticketer::new().expect("a ticketer"),
        system_roots: LazyLock::new(|| Arc::new(rustls::RootCertStore::empty())),
    }
}

/// What a store holds; `port` tells one version of it from another.
fn tree(port: u16) -> Tree {
    let mut tree = Tree::new("/nuncio", Name::literal("etcd"));
    for upstream in 0..UPSTREAMS {
        let route = format!(r#"{{"match":"Host(\"app-{upstream}.example.com\")","upstream":"app-{upstream}","priority":{port}}}"#);
        put(&mut tree, &format!("/nuncio/routes/app-{upstream}"), &route);
        for endpoint in 0..ENDPOINTS {
            register(&mut tree, upstream, endpoint, port);
        }
    }
    tree
}

fn register(tree: &mut Tree, upstream: usize, endpoint: usize, port: u16) {
    let address = SocketAddr::from(([10, (upstream / 256) as u8, (upstream % 256) as u8, endpoint as u8], port));
    put(tree, &format!("/nuncio/upstreams/app-{upstream}/endpoints/{endpoint}"), &address.to_string());
}

fn put(tree: &mut Tree, key: &str, value: &str) {
    tree.put(Pair { key: key.as_bytes(), value: value.as_bytes(), revision: 1 });
}

fn benches(c: &mut Criterion) {
    let context = context();
    let mut before = tree(8080);
    let everything = tree(8081).snapshot(None, Instant::now());
    let snapshot = before.snapshot(None, Instant::now());
    let table = compile(&snapshot, &RoutingTable::default(), &context);
    let mut port = 9000;
    c.bench_function("tree/put and snapshot", |b| {
        b.iter(|| {
            port = 9000 + (port + 1) % 1000;
            register(&mut before, 500, 5, port);
            black_box(before.snapshot(None, Instant::now()))
        });
    });
    let one = before.snapshot(None, Instant::now());
    for (name, next) in [("nothing", &snapshot), ("one endpoint", &one), ("everything", &everything)] {
        c.bench_function(&format!("compile/{name} changed"), |b| b.iter_with_large_drop(|| compile(next, &table, &context)));
    }
    let cell = ArcSwap::from_pointee(RoutingTable::default());
    c.bench_function("publish", |b| {
        b.iter_batched(|| Arc::new(compile(&one, &table, &context)), |table| cell.store(table), BatchSize::PerIteration);
    });
}

criterion_group!(compiling, benches);
criterion_main!(compiling);
