//! The snapshots of all providers → one. Of an object that several of them have, the one of the provider that was declared first counts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::problem::{Kind, ObjectId};
use crate::config::{Origin, Problem, Snapshot};
use crate::discovery::Feed;
use crate::names::Name;

/// Merges the newest snapshots of `feeds`, in their order. That of an only provider is taken as it is.
pub(super) fn merge<'a>(feeds: &[Arc<Feed>], latest: &'a [Arc<Snapshot>]) -> Cow<'a, Snapshot> {
    let mut snapshots = feeds.iter().zip(latest);
    let Some((_, first)) = snapshots.next() else { return Cow::Owned(Snapshot::empty(std::time::Instant::now())) };
    if latest.len() == 1 {
        return Cow::Borrowed(first);
    }
    let mut merged = Snapshot::clone(first);
    for (feed, snapshot) in snapshots {
        let mut problems = Vec::new();
        let mut shadowed = |kind, name: &Name, origin: Option<&Origin>| problems.push(shadowed(kind, name, feed.name(), origin));
        add(&mut merged.listeners, &snapshot.listeners, |name, entry| shadowed(Kind::Listener, name, Some(&entry.origin)));
        add(&mut merged.routes, &snapshot.routes, |name, entry| shadowed(Kind::Route, name, Some(&entry.origin)));
        add(&mut merged.tcp_routes, &snapshot.tcp_routes, |name, entry| shadowed(Kind::TcpRoute, name, Some(&entry.origin)));
        add(&mut merged.upstreams, &snapshot.upstreams, |name, entry| shadowed(Kind::Upstream, name, entry.origin()));
        add(&mut merged.middlewares, &snapshot.middlewares, |name, entry| shadowed(Kind::Middleware, name, Some(&entry.origin)));
        add(&mut merged.certificates, &snapshot.certificates, |name, entry| shadowed(Kind::Certificate, name, Some(&entry.origin)));
        merged.problems.extend(snapshot.problems.iter().cloned());
        merged.problems.extend(problems);
        merged.seen_at = merged.seen_at.max(snapshot.seen_at);
    }
    Cow::Owned(merged)
}

fn add<T>(merged: &mut BTreeMap<Name, Arc<T>>, more: &BTreeMap<Name, Arc<T>>, mut shadowed: impl FnMut(&Name, &T)) {
    if merged.is_empty() {
        merged.clone_from(more);
        return;
    }
    for (name, entry) in more {
        if merged.contains_key(name) {
            shadowed(name, entry);
        } else {
            merged.insert(name.clone(), entry.clone());
        }
    }
}

fn shadowed(kind: Kind, name: &Name, provider: &Name, origin: Option<&Origin>) -> Problem {
    let message = format!("a provider declared before `{provider}` has a {kind} of this name too");
    let problem = Problem::warning(message).about(ObjectId::new(kind, name)).effect(format!("the one of `{provider}` is not used"));
    match origin {
        Some(origin) => problem.at(origin.clone()),
        None => problem,
    }
}
