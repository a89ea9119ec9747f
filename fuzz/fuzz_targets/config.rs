//! A configuration file: text → objects and problems → a table.

#![no_main]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use metrics::NoopRecorder;
use nuncio::config::decode::{FileConfig, TomlFile, decode_json, decode_toml};
use nuncio::config::problem::{Kind, ObjectId, PROBLEMS_MAX};
use nuncio::config::{Entry, Origin, Problem};
use nuncio::metrics::Meter;
use nuncio::names::Name;
use nuncio::routing::RoutingTable;
use nuncio::routing::compile::{Context, compile};
use nuncio::routing::sticky::StickyKey;
use rustls::crypto::aws_lc_rs;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|text: &str| {
    match decode(text) {
        Err(problems) => {
            assert!(!problems.is_empty(), "what is refused is refused for a reason");
            problems.iter().for_each(|problem| readable(problem, text));
        }
        Ok(config) => {
            let problems = config.all_problems();
            assert!(problems.len() <= PROBLEMS_MAX + 1);
            problems.iter().for_each(|problem| readable(problem, text));
            as_json(&config);
            compiles(&config);
        }
    }
});

fn decode(text: &str) -> Result<FileConfig, Vec<Problem>> {
    let provider = Name::literal("file");
    decode_toml(&TomlFile { text, path: Arc::new(PathBuf::from("nuncio.toml")), provider: &provider }, Instant::now())
}

fn readable(problem: &Problem, text: &str) {
    assert!(!problem.message.is_empty());
    if let Some(snippet) = &problem.snippet {
        assert!(snippet.span.end <= text.len(), "{:?} is in the text", snippet.span);
        assert!(snippet.source.get(snippet.span.clone()).is_some(), "{:?} is in the snippet", snippet.span);
    }
    assert!(!problem.render(false).is_empty());
    assert!(!problem.render(true).is_empty());
    assert!(serde_json::to_string(problem).is_ok());
}

/// What a file says can be written into a store, and means the same there.
fn as_json(config: &FileConfig) {
    let snapshot = &config.snapshot;
    section(Kind::Listener, &snapshot.listeners);
    section(Kind::Route, &snapshot.routes);
    section(Kind::TcpRoute, &snapshot.tcp_routes);
    section(Kind::UdpRoute, &snapshot.udp_routes);
    section(Kind::Middleware, &snapshot.middlewares);
    section(Kind::Certificate, &snapshot.certificates);
    for (name, upstream) in &snapshot.upstreams {
        upstream.settings.iter().for_each(|entry| round_trip(Kind::Upstream, name, entry));
    }
}

fn section<T: Serialize + DeserializeOwned + PartialEq + Debug>(kind: Kind, section: &BTreeMap<Name, Arc<Entry<T>>>) {
    section.iter().for_each(|(name, entry)| round_trip(kind, name, entry));
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(kind: Kind, name: &Name, entry: &Entry<T>) {
    let Ok(value) = &entry.value else { return };
    let json = serde_json::to_string(value).expect("an object is JSON");
    match decode_json::<T>(&json, ObjectId::new(kind, name), Origin::program(Name::literal("kv"))) {
        Ok(read) => assert_eq!(&read, value, "{json}"),
        Err(problem) => panic!("{json}\n{}", problem.render(false)),
    }
}

static CONTEXT: LazyLock<Context> = LazyLock::new(|| Context {
    meter: Meter::new(Arc::new(NoopRecorder)),
    sticky_keys: vec![StickyKey::from_bytes([1; StickyKey::BYTES])],
    crypto: Arc::new(aws_lc_rs::default_provider()),
    ticketer: aws_lc_rs::Ticketer::new().expect("random numbers"),
    system_roots: LazyLock::new(|| Arc::new(rustls::RootCertStore::empty())),
});

/// Compiling is total, and compiling the same again changes nothing but the generation.
fn compiles(config: &FileConfig) {
    let first = compile(&config.snapshot, &RoutingTable::default(), &CONTEXT);
    first.problems.iter().for_each(|problem| assert!(!problem.render(false).is_empty()));
    let second = compile(&config.snapshot, &first, &CONTEXT);
    assert_eq!((first.generation, second.generation), (1, 2));
    let names = |table: &RoutingTable| table.routes.iter().map(|route| format!("{:?}", route.name)).collect::<Vec<_>>();
    assert_eq!(names(&first), names(&second));
    assert!(first.upstreams.iter().all(|(name, upstream)| Arc::ptr_eq(upstream, &second.upstreams[name])), "an equal upstream is kept");
    let messages = |table: &RoutingTable| table.problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>();
    assert_eq!(messages(&first), messages(&second));
}
