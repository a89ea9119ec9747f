//! Layouts whose keys are not our objects one by one: the keys of a group make an upstream, or a route, together.
//!
//! Keys come in as pieces; [`Groups::settle`] makes the objects of the groups that changed. A piece that did not change, as instances
//! that refresh their registration every second write it, costs a comparison.

use std::collections::{BTreeMap, BTreeSet};

use super::dialect::Instance;
use super::objects::{self, Objects, is_equal};
use crate::config::problem::{Kind, ObjectId};
use crate::config::providers::RouteTemplate;
use crate::config::snapshot::UpstreamEntry;
use crate::config::upstream::{HostHeader, UpstreamTls};
use crate::config::{Endpoint, Entry, MiddlewareRef, Origin, Problem, Route, Upstream};
use crate::names::Name;

/// All groups of a store.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups {
    backends: BTreeMap<Name, Backend>,
    frontends: BTreeMap<Name, Frontend>,
    /// The backends whose endpoints shall see the client's `Host`, by the frontend that wants it. One whose value cannot be read
    /// keeps what it wanted, because its last good version stays in force.
    links: BTreeMap<Name, Name>,
    /// How many frontends want that of each backend. Invariant: never 0.
    linked: BTreeMap<Name, usize>,
    changed_backends: BTreeSet<Name>,
    changed_frontends: BTreeSet<Name>,
}

/// What makes an upstream.
#[derive(Debug, Clone, Default)]
pub(super) struct Backend {
    /// The name as it is in the keys, where a route is made of it.
    pub(super) service: Box<str>,
    settings: Option<Entry<Settings>>,
    /// None in the place of one that takes no traffic.
    instances: BTreeMap<Name, Entry<Option<Instance>>>,
}

/// The settings of an upstream, TLS apart: whether it is spoken the instances say.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Settings {
    pub(super) upstream: Upstream,
    pub(super) tls: UpstreamTls,
}

/// What makes a route.
#[derive(Debug, Clone, Default)]
struct Frontend {
    route: Option<Entry<Wanted>>,
    middlewares: BTreeMap<Name, Name>,
}

/// A route, without its shared middlewares.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) route: Route,
    /// Whether endpoints see the client's `Host`, not their own address.
    pub(super) passes_host: bool,
}

impl Groups {
    pub(super) fn put_instance(&mut self, service: &str, upstream: Name, id: Name, instance: Entry<Option<Instance>>) {
        let backend = self.backends.entry(upstream.clone()).or_default();
        if backend.service.is_empty() {
            backend.service = service.into();
        }
        if !backend.instances.get(&id).is_some_and(|held| is_equal(held, &instance)) {
            backend.instances.insert(id, instance);
            self.changed_backends.insert(upstream);
        }
    }

    pub(super) fn delete_instance(&mut self, upstream: &Name, id: &Name) {
        if self.backends.get_mut(upstream).is_some_and(|backend| backend.instances.remove(id).is_some()) {
            self.changed_backends.insert(upstream.clone());
        }
    }

    pub(super) fn put_settings(&mut self, upstream: Name, settings: Entry<Settings>) {
        let backend = self.backends.entry(upstream.clone()).or_default();
        if !backend.settings.as_ref().is_some_and(|held| is_equal(held, &settings)) {
            backend.settings = Some(settings);
            self.changed_backends.insert(upstream);
        }
    }

    pub(super) fn delete_settings(&mut self, upstream: &Name) {
        if self.backends.get_mut(upstream).is_some_and(|backend| backend.settings.take().is_some()) {
            self.changed_backends.insert(upstream.clone());
        }
    }

    pub(super) fn put_route(&mut self, name: Name, route: Entry<Wanted>) {
        let frontend = self.frontends.entry(name.clone()).or_default();
        if !frontend.route.as_ref().is_some_and(|held| is_equal(held, &route)) {
            frontend.route = Some(route);
            self.changed_frontends.insert(name);
        }
    }

    pub(super) fn delete_route(&mut self, name: &Name) {
        if self.frontends.get_mut(name).is_some_and(|frontend| frontend.route.take().is_some()) {
            self.changed_frontends.insert(name.clone());
        }
    }

    /// Puts the shared `middleware` on the route of `frontend`, under its `id` there.
    pub(super) fn put_middleware(&mut self, frontend: Name, id: Name, middleware: Name) {
        let middlewares = &mut self.frontends.entry(frontend.clone()).or_default().middlewares;
        if middlewares.get(&id) != Some(&middleware) {
            middlewares.insert(id, middleware);
            self.changed_frontends.insert(frontend);
        }
    }

    pub(super) fn delete_middleware(&mut self, frontend: &Name, id: &Name) {
        if self.frontends.get_mut(frontend).is_some_and(|held| held.middlewares.remove(id).is_some()) {
            self.changed_frontends.insert(frontend.clone());
        }
    }

    /// Of frontends that cannot be read, what `old` knew of their last good version.
    pub(super) fn keep_links(&mut self, old: &Self) {
        let is_unreadable = |name: &Name| {
            let route = self.frontends.get(name).and_then(|frontend| frontend.route.as_ref());
            route.is_some_and(|route| route.value.is_err())
        };
        let kept: Vec<_> = old.links.iter().filter(|(name, _)| is_unreadable(name)).collect();
        for (name, backend) in kept {
            self.links.insert(name.clone(), backend.clone());
            *self.linked.entry(backend.clone()).or_default() += 1;
            self.changed_backends.insert(backend.clone());
        }
    }

    /// Makes the objects of all that changed since. Whether that changed any.
    pub(super) fn settle(&mut self, of: &Making<'_>, objects: &mut Objects) -> bool {
        let mut is_changed = false;
        for name in std::mem::take(&mut self.changed_frontends) {
            is_changed |= self.settle_frontend(&name, objects);
        }
        for name in std::mem::take(&mut self.changed_backends) {
            is_changed |= self.settle_backend(&name, of, objects);
        }
        is_changed
    }

    fn settle_frontend(&mut self, name: &Name, objects: &mut Objects) -> bool {
        let Some(frontend) = self.frontends.get(name) else { return false };
        let Some(wanted) = &frontend.route else {
            if frontend.middlewares.is_empty() {
                self.frontends.remove(name);
            }
            self.link(name, None);
            return objects.routes.remove(name).is_some();
        };
        let value = wanted.value.as_ref().map(|wanted| wanted.with(&frontend.middlewares)).map_err(Clone::clone);
        let link = match &wanted.value {
            Ok(wanted) => Some(wanted.route.upstream.clone().filter(|_| wanted.passes_host)),
            Err(_) => None,
        };
        let entry = Entry { origin: wanted.origin.clone(), value };
        if let Some(link) = link {
            self.link(name, link);
        }
        objects::put(&mut objects.routes, entry, name.clone())
    }

    /// Notes for which backend `frontend` wants the client's `Host`.
    fn link(&mut self, frontend: &Name, backend: Option<Name>) {
        let old = match &backend {
            Some(backend) => self.links.insert(frontend.clone(), backend.clone()),
            None => self.links.remove(frontend),
        };
        if old == backend {
            return;
        }
        if let Some(old) = old {
            match self.linked.get_mut(&old) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.linked.remove(&old)),
            }
            self.changed_backends.insert(old);
        }
        if let Some(backend) = backend {
            *self.linked.entry(backend.clone()).or_default() += 1;
            self.changed_backends.insert(backend);
        }
    }

    fn settle_backend(&mut self, name: &Name, of: &Making<'_>, objects: &mut Objects) -> bool {
        let backend = self.backends.get(name).filter(|backend| !backend.is_empty());
        let mut is_changed = objects.set_upstream(name, backend.map(|backend| backend.upstream(name, &of.host)));
        if let Some(template) = of.route {
            is_changed |= match backend {
                Some(backend) => objects::put(&mut objects.routes, backend.route(name, template), name.clone()),
                None => objects.routes.remove(name).is_some(),
            };
        }
        if of.host != HostHeader::Pass
            && let Some(passing) = passing(name)
        {
            let backend = backend.filter(|_| self.linked.contains_key(name));
            is_changed |= objects.set_upstream(&passing, backend.map(|backend| backend.upstream(&passing, &HostHeader::Pass)));
        }
        if backend.is_none() {
            self.backends.remove(name);
        }
        is_changed
    }
}

/// How a layout makes objects.
pub(super) struct Making<'a> {
    /// The route that each upstream gets.
    pub(super) route: Option<&'a RouteTemplate>,
    /// The `Host` that endpoints see.
    pub(super) host: HostHeader,
}

/// The upstream whose endpoints are those of `backend`, and see the client's `Host`. No name of another store cleans to it.
fn passing(backend: &Name) -> Option<Name> {
    Name::new(format!("{backend}%pass_host")).ok()
}

impl Wanted {
    fn with(&self, middlewares: &BTreeMap<Name, Name>) -> Route {
        let mut route = self.route.clone();
        route.middlewares.extend(middlewares.values().cloned().map(MiddlewareRef::Shared));
        if self.passes_host {
            route.upstream = route.upstream.and_then(|upstream| passing(&upstream).or(Some(upstream)));
        }
        route
    }
}

impl Backend {
    fn is_empty(&self) -> bool {
        self.settings.is_none() && self.instances.is_empty()
    }

    fn origin(&self) -> Option<&Origin> {
        let settings = self.settings.as_ref().map(|settings| &settings.origin);
        settings.or_else(|| self.instances.values().next().map(|instance| &instance.origin))
    }

    /// Whether most instances speak TLS. One that was written by mistake must not take the others away.
    fn speaks_tls(&self) -> bool {
        let instances = self.instances.values().filter_map(|entry| entry.value.as_ref().ok()?.as_ref());
        let (encrypted, plain): (Vec<_>, Vec<_>) = instances.partition(|instance| instance.speaks_tls());
        encrypted.len() > plain.len()
    }

    fn upstream(&self, name: &Name, host: &HostHeader) -> UpstreamEntry {
        let speaks_tls = self.speaks_tls();
        let endpoints = self.instances.iter().filter_map(|(id, entry)| Some((id.clone(), endpoint(name, id, entry, speaks_tls)?)));
        let endpoints: BTreeMap<_, _> = endpoints.collect();
        let base = || Upstream { host: host.clone(), tls: speaks_tls.then(UpstreamTls::default), ..Upstream::default() };
        let settings = match &self.settings {
            Some(Entry { origin, value: Ok(settings) }) => {
                let tls = speaks_tls.then(|| settings.tls.clone());
                Some(Entry { origin: origin.clone(), value: Ok(Upstream { host: host.clone(), tls, ..settings.upstream.clone() }) })
            }
            Some(Entry { origin, value: Err(problem) }) => Some(Entry { origin: origin.clone(), value: Err(problem.clone()) }),
            // Also when nothing takes traffic: so that the upstream is there, and empty.
            None if endpoints.is_empty() || base() != Upstream::default() => {
                self.origin().map(|origin| Entry { origin: origin.clone(), value: Ok(base()) })
            }
            None => None,
        };
        UpstreamEntry { settings, endpoints }
    }

    fn route(&self, name: &Name, template: &RouteTemplate) -> Entry<Route> {
        let origin = self.origin().cloned().unwrap_or_else(|| Origin::program(name.clone()));
        let value = template.rule(&self.service).map(|rule| Route::to(rule, name.clone()));
        let value = value.map_err(|message| Problem::error(message).about(ObjectId::new(Kind::Route, name)).at(origin.clone()));
        Entry { origin, value }
    }
}

/// The endpoint of an instance. None: it takes no traffic.
fn endpoint(upstream: &Name, id: &Name, entry: &Entry<Option<Instance>>, speaks_tls: bool) -> Option<Entry<Endpoint>> {
    let origin = entry.origin.clone();
    let value = match &entry.value {
        Ok(None) => return None,
        Ok(Some(instance)) if speaks_tls != instance.speaks_tls() => {
            let message = match speaks_tls {
                true => "it does not say `https://`, and most instances of its upstream do",
                false => "it says `https://`, and most instances of its upstream do not",
            };
            let object = ObjectId { kind: Kind::Endpoint, name: format!("{upstream}/{id}") };
            Err(Problem::error(message).help("an upstream speaks TLS to all of its endpoints or to none").about(object).at(origin.clone()))
        }
        Ok(Some(instance)) => Ok(instance.endpoint.clone()),
        Err(problem) => Err(problem.clone()),
    };
    Some(Entry { origin, value })
}
