//! A key/value tree under arbitrary changes. Each line is one: `+KEY=VALUE` puts, `-KEY` deletes, `!` replaces the whole by what the
//! store holds then. Keys without a leading `/` are below the prefix. A first line `=services` or `=vulcand` chooses the layout.

#![no_main]

use std::collections::BTreeMap;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use nuncio::config::providers::{Layout, LayoutKind, RouteTemplate};
use nuncio::config::{Problem, Snapshot};
use nuncio::discovery::kv::{Pair, STRAYS_MAX, Tree};
use nuncio::names::Name;

const PREFIX: &str = "/nuncio";

type Store = BTreeMap<Vec<u8>, Vec<u8>>;

fuzz_target!(|bytes: &[u8]| {
    let mut store = Store::new();
    let layout = layout(bytes);
    let mut tree = Tree::with_layout(PREFIX, Name::literal("kv"), layout.clone());
    let now = Instant::now();
    let mut before = tree.snapshot(None, now);
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let is_changed = match line.split_first() {
            Some((b'+', pair)) => {
                let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
                let (key, value) = (whole_key(&pair[..at]), pair.get(at + 1..).unwrap_or_default().to_vec());
                let is_changed = tree.put(Pair { key: &key, value: &value, revision: 1 });
                store.insert(key, value);
                is_changed
            }
            Some((b'-', key)) => {
                let key = whole_key(key);
                store.remove(&key);
                tree.delete(&key)
            }
            Some((b'!', _)) => tree.replace(pairs(&store)),
            _ => continue,
        };
        let after = tree.snapshot(None, now);
        // What is said of further strays is forgotten only when the whole is read again.
        if store.len() < STRAYS_MAX {
            // A change of a revision or an origin alone is none.
            assert!(!is_changed || layout.kind != LayoutKind::Nuncio || !is_same(&before, &after), "{line:?} changed something");
            assert!(is_changed || is_same(&before, &after), "{line:?} changed nothing");
        }
        before = after;
    }
    for problem in before.all_problems() {
        readable(problem);
    }
    if store.len() >= STRAYS_MAX {
        return;
    }
    let mut whole = Tree::with_layout(PREFIX, Name::literal("kv"), layout.clone());
    whole.replace(pairs(&store));
    // In the other layouts one of several keys is the origin of what they make together, and a frontend that cannot be read keeps what
    // its last good version asked of its backend: neither is in the store.
    if layout.kind == LayoutKind::Nuncio {
        assert!(is_same(&before, &whole.snapshot(None, now)), "change by change or as a whole, the tree is the same");
    }
    assert!(!tree.replace(pairs(&store)), "the whole changes nothing");
    let after = tree.snapshot(None, now);
    assert!(before.routes.iter().all(|(name, route)| std::sync::Arc::ptr_eq(route, &after.routes[name])), "what is equal stays shared");
    assert!(before.upstreams.iter().all(|(name, upstream)| std::sync::Arc::ptr_eq(upstream, &after.upstreams[name])));
    tree.replace([]);
    assert!(is_same(&tree.snapshot(None, now), &Snapshot::empty(now)), "nothing of an empty store remains");
});

fn layout(bytes: &[u8]) -> Layout {
    if bytes.starts_with(b"=services\n") {
        return Layout { kind: LayoutKind::Services, route: RouteTemplate::parse("Host(`{name}.a`)").ok() };
    }
    let kind = if bytes.starts_with(b"=vulcand\n") { LayoutKind::Vulcand } else { LayoutKind::Nuncio };
    Layout { kind, route: None }
}

fn whole_key(key: &[u8]) -> Vec<u8> {
    if key.starts_with(b"/") { key.to_vec() } else { [PREFIX.as_bytes(), b"/", key].concat() }
}

fn pairs(store: &Store) -> impl Iterator<Item = Pair<'_>> {
    store.iter().map(|(key, value)| Pair { key, value, revision: 1 })
}

fn is_same(a: &Snapshot, b: &Snapshot) -> bool {
    a.listeners == b.listeners
        && a.routes == b.routes
        && a.tcp_routes == b.tcp_routes
        && a.udp_routes == b.udp_routes
        && a.upstreams == b.upstreams
        && a.middlewares == b.middlewares
        && a.certificates == b.certificates
        && a.problems == b.problems
}

fn readable(problem: &Problem) {
    assert!(!problem.message.is_empty());
    if let Some(snippet) = &problem.snippet {
        assert!(snippet.source.get(snippet.span.clone()).is_some(), "{:?} is in the snippet", snippet.span);
    }
    let rendered = problem.render(false);
    assert!(rendered.contains("error") || rendered.contains("warning"));
    assert!(serde_json::to_string(problem).is_ok());
}
