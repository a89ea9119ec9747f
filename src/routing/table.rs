//! The routing table: the compiled, immutable whole that the data plane reads.
//!
//! There is exactly one cell that holds a table, it is published whole, and a request reads it once (invariants I1 and I5). Every
//! reference in a table is an `Arc` into that table (I2). What did not change is shared with the table before (I4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::certificates::Certificate;
use super::conflict::Conflict;
use super::index::Index;
use super::listener::Listener;
use super::route::Route;
use super::tcp_routes::TcpRoutes;
use super::udp_route::UdpRoute;
use super::upstream::Upstream;
use crate::config::{self, Origin, Problem};
use crate::middleware::{Middleware, Step};
use crate::names::Name;
use crate::rule::RequestView;

/// The whole of what the data plane knows.
#[derive(Debug, Default)]
pub struct RoutingTable {
    /// Counts the published tables; 0 is the empty table before the first.
    pub generation: u64,
    /// The routes by slot; a slot is what the index answers with.
    pub routes: Vec<Arc<Route>>,
    /// The TCP routes, by listener.
    pub tcp_routes: BTreeMap<Name, Arc<TcpRoutes>>,
    /// The UDP routes, by listener.
    pub udp_routes: BTreeMap<Name, Arc<UdpRoute>>,
    /// The upstreams.
    pub upstreams: BTreeMap<Name, Arc<Upstream>>,
    /// The listeners.
    pub listeners: BTreeMap<Name, Arc<Listener>>,
    /// What is wrong with the configuration, in the order of its objects.
    pub problems: Vec<Problem>,
    pub(super) index: Arc<Index>,
    /// What was found when the index was built.
    pub(super) conflicts: Arc<[Conflict]>,
    pub(super) settled: Settled,
}

impl RoutingTable {
    /// The route that takes `request` on `listener`.
    #[must_use]
    pub fn route(&self, request: &RequestView<'_>, listener: &Name) -> Option<&Arc<Route>> {
        let slot = self.index.find(request, listener)?;
        self.routes.get(usize::try_from(slot).ok()?)
    }

    /// The routes as they are configured, in the order of their names, with the generation of their last change.
    pub fn configured_routes(&self) -> impl Iterator<Item = Configured<'_, config::Route>> {
        configured(&self.settled.routes)
    }

    /// The TCP routes as they are configured.
    pub fn configured_tcp_routes(&self) -> impl Iterator<Item = Configured<'_, config::TcpRoute>> {
        configured(&self.settled.tcp_routes)
    }

    /// The UDP routes as they are configured.
    pub fn configured_udp_routes(&self) -> impl Iterator<Item = Configured<'_, config::UdpRoute>> {
        configured(&self.settled.udp_routes)
    }

    /// The shared middlewares as they are configured.
    pub fn configured_middlewares(&self) -> impl Iterator<Item = Configured<'_, Middleware>> {
        configured(&self.settled.middlewares)
    }

    /// The listeners as they are configured.
    pub fn configured_listeners(&self) -> impl Iterator<Item = Configured<'_, config::Listener>> {
        configured(&self.settled.listeners)
    }

    /// An upstream as it was read, and since when it is so.
    #[must_use]
    pub fn upstream_read(&self, name: &Name) -> Option<(&config::snapshot::UpstreamEntry, Since)> {
        let object = self.settled.upstreams.get(name)?;
        Some((&object.entry, object.since))
    }
}

/// The last change of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// The generation that it came with.
    pub generation: u64,
    /// When it was seen in its source.
    pub seen_at: Instant,
}

/// An object as it is configured.
#[derive(Debug)]
pub struct Configured<'a, T> {
    /// Its name.
    pub name: &'a Name,
    /// Where it was read.
    pub origin: &'a Origin,
    /// Its last change.
    pub since: Since,
    /// The object.
    pub value: &'a T,
}

fn configured<T, B>(objects: &Objects<T, B>) -> impl Iterator<Item = Configured<'_, T>> {
    objects.iter().filter_map(|(name, object)| {
        let value = object.entry.value.as_ref().ok()?;
        Some(Configured { name, origin: &object.entry.origin, since: object.since, value })
    })
}

/// The last good version of every object: what the next table falls back to, and shares.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) listeners: Arc<Objects<config::Listener, ClientRoots>>,
    pub(super) routes: Arc<Objects<config::Route, OwnSteps>>,
    pub(super) tcp_routes: Arc<Objects<config::TcpRoute, ()>>,
    pub(super) udp_routes: Arc<Objects<config::UdpRoute, ()>>,
    pub(super) upstreams: BTreeMap<Name, Arc<SettledUpstream>>,
    pub(super) middlewares: Arc<Objects<Middleware, Arc<dyn Step>>>,
    pub(super) certificates: Arc<Objects<config::Certificate, Certificate>>,
}

/// The objects of one kind. Shared with the table before when none of them changed.
pub(super) type Objects<T, B> = BTreeMap<Name, Object<T, B>>;

/// One object, and what was built of it alone.
#[derive(Debug)]
pub(super) struct Object<T, B> {
    /// Invariant: holds a value, not a problem.
    pub(super) entry: Arc<config::Entry<T>>,
    pub(super) built: Arc<B>,
    /// Its last change.
    pub(super) since: Since,
}

impl<T, B> Clone for Object<T, B> {
    fn clone(&self) -> Self {
        Self { entry: self.entry.clone(), built: self.built.clone(), since: self.since }
    }
}

/// The middlewares of a route, or why it has never had ones that can be built: then it is closed.
pub(super) type OwnSteps = Result<Vec<InlineStep>, String>;

/// The CAs that a listener itself says its clients are signed by.
pub(super) type ClientRoots = Option<Arc<rustls::RootCertStore>>;

/// The middleware at one place of a route's list.
#[derive(Debug, Clone)]
pub(super) enum InlineStep {
    /// A shared one of this name.
    Shared(Name),
    /// The route's own.
    Own(Arc<dyn Step>),
}

/// One upstream, with the last good version of each of its endpoints.
#[derive(Debug, Clone)]
pub(super) struct SettledUpstream {
    /// As it was read last, bad parts included.
    pub(super) read: Arc<config::snapshot::UpstreamEntry>,
    /// Without the bad parts. Invariant: holds values, not problems.
    pub(super) entry: Arc<config::snapshot::UpstreamEntry>,
    pub(super) built: Arc<Upstream>,
    pub(super) since: Since,
    /// What is wrong with it, as read last.
    pub(super) problems: Arc<[Problem]>,
}
