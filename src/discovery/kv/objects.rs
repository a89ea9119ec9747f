//! The objects of all kinds that a store holds, each shared with the snapshots that were made of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::nuncio::Slot;
use super::written::Written;
use crate::config::problem::Kind;
use crate::config::snapshot::{Section, UpstreamEntry};
use crate::config::{Certificate, Endpoint, Entry, Listener, Problem, Route, TcpRoute, UdpRoute, Upstream};
use crate::middleware::Middleware;
use crate::names::Name;

/// The objects of all kinds.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects {
    pub(super) listeners: Section<Listener>,
    pub(super) routes: Section<Route>,
    pub(super) tcp_routes: Section<TcpRoute>,
    pub(super) udp_routes: Section<UdpRoute>,
    pub(super) middlewares: Section<Middleware>,
    pub(super) certificates: Section<Certificate>,
    pub(super) upstreams: BTreeMap<Name, Arc<UpstreamEntry>>,
}

impl Objects {
    pub(super) fn put(&mut self, slot: Slot, written: Written<'_>) -> bool {
        match slot {
            Slot::Listener(name) => put(&mut self.listeners, written.object(Kind::Listener, &name), name),
            Slot::Route(name) => put(&mut self.routes, written.object(Kind::Route, &name), name),
            Slot::TcpRoute(name) => put(&mut self.tcp_routes, written.object(Kind::TcpRoute, &name), name),
            Slot::UdpRoute(name) => put(&mut self.udp_routes, written.object(Kind::UdpRoute, &name), name),
            Slot::Middleware(name) => put(&mut self.middlewares, written.object(Kind::Middleware, &name), name),
            Slot::Certificate(name) => put(&mut self.certificates, written.object(Kind::Certificate, &name), name),
            Slot::Upstream(name) => self.put_settings(written.object(Kind::Upstream, &name), name),
            Slot::Endpoint { upstream, id } => self.put_endpoint(written.endpoint(&upstream, &id), upstream, id),
        }
    }

    pub(super) fn delete(&mut self, slot: &Slot) -> bool {
        match slot {
            Slot::Listener(name) => self.listeners.remove(name).is_some(),
            Slot::Route(name) => self.routes.remove(name).is_some(),
            Slot::TcpRoute(name) => self.tcp_routes.remove(name).is_some(),
            Slot::UdpRoute(name) => self.udp_routes.remove(name).is_some(),
            Slot::Middleware(name) => self.middlewares.remove(name).is_some(),
            Slot::Certificate(name) => self.certificates.remove(name).is_some(),
            Slot::Upstream(name) => self.delete_settings(name),
            Slot::Endpoint { upstream, id } => self.delete_endpoint(upstream, id),
        }
    }

    fn put_settings(&mut self, settings: Entry<Upstream>, name: Name) -> bool {
        let held = self.upstreams.entry(name).or_default();
        let is_changed = !held.settings.as_ref().is_some_and(|held| is_equal(held, &settings));
        if is_changed {
            Arc::make_mut(held).settings = Some(settings);
        }
        is_changed
    }

    fn put_endpoint(&mut self, endpoint: Entry<Endpoint>, upstream: Name, id: Name) -> bool {
        let held = self.upstreams.entry(upstream).or_default();
        let is_changed = !held.endpoints.get(&id).is_some_and(|held| is_equal(held, &endpoint));
        if is_changed {
            Arc::make_mut(held).endpoints.insert(id, endpoint);
        }
        is_changed
    }

    fn delete_settings(&mut self, name: &Name) -> bool {
        let Some(held) = self.upstreams.get_mut(name).filter(|held| held.settings.is_some()) else {
            return false;
        };
        Arc::make_mut(held).settings = None;
        self.drop_if_empty(name);
        true
    }

    fn delete_endpoint(&mut self, upstream: &Name, id: &Name) -> bool {
        let Some(held) = self.upstreams.get_mut(upstream).filter(|held| held.endpoints.contains_key(id)) else {
            return false;
        };
        Arc::make_mut(held).endpoints.remove(id);
        self.drop_if_empty(upstream);
        true
    }

    /// An upstream is gone with the last of its keys.
    fn drop_if_empty(&mut self, upstream: &Name) {
        if self.upstreams.get(upstream).is_some_and(|held| held.settings.is_none() && held.endpoints.is_empty()) {
            self.upstreams.remove(upstream);
        }
    }

    /// Puts a whole upstream in its place, or takes it away. Whether that changes anything.
    pub(super) fn set_upstream(&mut self, name: &Name, upstream: Option<UpstreamEntry>) -> bool {
        let Some(upstream) = upstream else {
            return self.upstreams.remove(name).is_some();
        };
        let is_changed = !self.upstreams.get(name).is_some_and(|held| is_equal_upstream(held, &upstream));
        if is_changed {
            self.upstreams.insert(name.clone(), Arc::new(upstream));
        }
        is_changed
    }

    /// Takes over the `Arc`s of `old` for all objects that are equal. Whether any is not.
    pub(super) fn keep_equal(&mut self, old: &Self) -> bool {
        keep_equal(&mut self.listeners, &old.listeners, is_equal)
            | keep_equal(&mut self.routes, &old.routes, is_equal)
            | keep_equal(&mut self.tcp_routes, &old.tcp_routes, is_equal)
            | keep_equal(&mut self.udp_routes, &old.udp_routes, is_equal)
            | keep_equal(&mut self.middlewares, &old.middlewares, is_equal)
            | keep_equal(&mut self.certificates, &old.certificates, is_equal)
            | keep_equal(&mut self.upstreams, &old.upstreams, is_equal_upstream)
    }
}

/// Puts an object in its place. Whether that changes anything.
pub(super) fn put<T: PartialEq>(section: &mut Section<T>, entry: Entry<T>, name: Name) -> bool {
    let is_changed = !section.get(&name).is_some_and(|held| is_equal(held, &entry));
    if is_changed {
        section.insert(name, Arc::new(entry));
    }
    is_changed
}

fn keep_equal<T>(fresh: &mut BTreeMap<Name, Arc<T>>, old: &BTreeMap<Name, Arc<T>>, is_equal: impl Fn(&T, &T) -> bool) -> bool {
    let mut is_changed = fresh.len() != old.len();
    for (name, entry) in fresh {
        match old.get(name) {
            Some(held) if is_equal(held, entry) => *entry = held.clone(),
            _ => is_changed = true,
        }
    }
    is_changed
}

/// Whether both mean the same to a table. Two good values do when they are equal, whatever the revisions they were written at.
pub(super) fn is_equal<T: PartialEq>(held: &Entry<T>, other: &Entry<T>) -> bool {
    match (&held.value, &other.value) {
        (Ok(held), Ok(other)) => held == other,
        (Err(held), Err(other)) => is_equal_problem(held, other),
        _ => false,
    }
}

/// Whether both say the same, whatever the revisions that they say it of: a registrar may write what cannot be read every second.
pub(super) fn is_equal_problem(held: &Problem, other: &Problem) -> bool {
    let said = |problem: &'_ Problem| {
        let Problem { severity, object, origin: _, message, snippet, help, effect, is_dangling } = problem;
        (*severity, object.clone(), message.clone(), snippet.clone(), help.clone(), effect.clone(), *is_dangling)
    };
    said(held) == said(other)
}

pub(super) fn is_equal_upstream(held: &UpstreamEntry, other: &UpstreamEntry) -> bool {
    let is_settings_equal = match (&held.settings, &other.settings) {
        (Some(held), Some(other)) => is_equal(held, other),
        (None, None) => true,
        _ => false,
    };
    let mut endpoints = held.endpoints.iter().zip(&other.endpoints);
    is_settings_equal
        && held.endpoints.len() == other.endpoints.len()
        && endpoints.all(|((held_id, held), (id, other))| held_id == id && is_equal(held, other))
}
