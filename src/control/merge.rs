//! The snapshots of all providers → one. Of an object that several of them have, the one of the provider that was declared first counts.
//! The others can be named as `NAME@PROVIDER`: an upstream, middleware or certificate that is, is taken over under that name.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::listener::ListenerTls;
use crate::config::problem::{Kind, ObjectId};
use crate::config::{MiddlewareRef, Origin, Problem, Snapshot};
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
    let mut is_any_shadowed = false;
    for (feed, snapshot) in snapshots {
        let mut problems = Vec::new();
        let mut shadowed = |kind, name: &Name, origin: Option<&Origin>| problems.push(shadowed(kind, name, feed.name(), origin));
        add(&mut merged.listeners, &snapshot.listeners, |name, entry| shadowed(Kind::Listener, name, Some(&entry.origin)));
        add(&mut merged.routes, &snapshot.routes, |name, entry| shadowed(Kind::Route, name, Some(&entry.origin)));
        add(&mut merged.tcp_routes, &snapshot.tcp_routes, |name, entry| shadowed(Kind::TcpRoute, name, Some(&entry.origin)));
        add(&mut merged.udp_routes, &snapshot.udp_routes, |name, entry| shadowed(Kind::UdpRoute, name, Some(&entry.origin)));
        add(&mut merged.upstreams, &snapshot.upstreams, |name, entry| shadowed(Kind::Upstream, name, entry.origin()));
        add(&mut merged.middlewares, &snapshot.middlewares, |name, entry| shadowed(Kind::Middleware, name, Some(&entry.origin)));
        add(&mut merged.certificates, &snapshot.certificates, |name, entry| shadowed(Kind::Certificate, name, Some(&entry.origin)));
        is_any_shadowed |= !problems.is_empty();
        merged.problems.extend(snapshot.problems.iter().cloned());
        merged.problems.extend(problems);
        merged.seen_at = merged.seen_at.max(snapshot.seen_at);
    }
    if is_any_shadowed {
        add_qualified(&mut merged, feeds, latest);
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

/// Takes over what is named as `NAME@PROVIDER` and would be found under its plain name only in another provider. Of what is found under its
/// plain name, linking sees by its origin whose it is.
fn add_qualified(merged: &mut Snapshot, feeds: &[Arc<Feed>], latest: &[Arc<Snapshot>]) {
    for name in qualified(merged) {
        let Some((plain, provider)) = name.as_str().rsplit_once('@') else { continue };
        let Some((_, snapshot)) = feeds.iter().zip(latest).find(|(feed, _)| feed.name().as_str() == provider) else { continue };
        add_shadowed(&mut merged.upstreams, &snapshot.upstreams, plain, &name);
        add_shadowed(&mut merged.middlewares, &snapshot.middlewares, plain, &name);
        add_shadowed(&mut merged.certificates, &snapshot.certificates, plain, &name);
    }
}

fn add_shadowed<T>(merged: &mut BTreeMap<Name, Arc<T>>, of_provider: &BTreeMap<Name, Arc<T>>, plain: &str, name: &Name) {
    let Some(wanted) = of_provider.get(plain) else { return };
    let is_shadowed = merged.get(plain).is_some_and(|counts| !Arc::ptr_eq(counts, wanted));
    if is_shadowed && !merged.contains_key(name) {
        merged.insert(name.clone(), wanted.clone());
    }
}

/// The names with an `@` that routes, listeners and upstreams refer to.
fn qualified(snapshot: &Snapshot) -> BTreeSet<Name> {
    let routes = snapshot.routes.values().filter_map(|entry| entry.value.as_ref().ok());
    let of_routes = routes.flat_map(|route| {
        let shared = route.middlewares.iter().filter_map(|middleware| match middleware {
            MiddlewareRef::Shared(name) => Some(name),
            _ => None,
        });
        shared.chain(&route.upstream)
    });
    let tcp_routes = snapshot.tcp_routes.values().filter_map(|entry| entry.value.as_ref().ok());
    let udp_routes = snapshot.udp_routes.values().filter_map(|entry| entry.value.as_ref().ok()).map(|route| &route.upstream);
    let listeners = snapshot.listeners.values().filter_map(|entry| entry.value.as_ref().ok());
    let certificates = listeners.filter_map(|listener| listener.tls.as_ref()).flat_map(|ListenerTls { certificates, .. }| certificates);
    let settings = snapshot.upstreams.values().filter_map(|entry| entry.settings.as_ref()?.value.as_ref().ok());
    let shown = settings.filter_map(|settings| settings.tls.as_ref()?.certificate.as_ref());
    let all = of_routes.chain(tcp_routes.map(|route| &route.upstream)).chain(udp_routes).chain(certificates).chain(shown);
    all.filter(|name| name.as_str().contains('@')).cloned().collect()
}

fn shadowed(kind: Kind, name: &Name, provider: &Name, origin: Option<&Origin>) -> Problem {
    let message = format!("a provider that is declared before `{provider}` has one of this name too");
    let effect = match kind {
        Kind::Upstream | Kind::Middleware | Kind::Certificate => format!("the one of `{provider}` is used only as `{name}@{provider}`"),
        _ => format!("the one of `{provider}` is not used"),
    };
    let problem = Problem::warning(message).about(ObjectId::new(kind, name)).effect(effect);
    match origin {
        Some(origin) => problem.at(origin.clone()),
        None => problem,
    }
}
