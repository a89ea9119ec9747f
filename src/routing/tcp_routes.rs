//! The TCP routes of one listener: which of them takes a connection.

use std::sync::Arc;

use super::conflict::Conflict;
use super::index::{self, Index};
use super::route::TcpRoute;
use crate::config;
use crate::names::Name;
use crate::rule::{ConnectionRule, ConnectionView};

/// The TCP routes of one listener.
#[derive(Debug)]
pub struct TcpRoutes {
    listener: Name,
    /// By slot: in the order of their names.
    routes: Vec<Arc<TcpRoute>>,
    matching: Arc<Matching>,
}

/// What their rules say. Carried over from table to table while that does not change.
#[derive(Debug)]
struct Matching {
    keys: Vec<Key>,
    index: Index,
    conflicts: Vec<Conflict>,
    reads_hello: bool,
    reads_client_cert: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    name: Name,
    rule: ConnectionRule,
    priority: i32,
}

impl TcpRoutes {
    /// Routes of `listener`, in the order of their names, with their settings.
    pub(super) fn new(listener: Name, routes: Vec<(&config::TcpRoute, Arc<TcpRoute>)>, before: Option<&Arc<Self>>) -> Arc<Self> {
        let key = |(config, route): &(&config::TcpRoute, Arc<TcpRoute>)| Key {
            name: route.name.clone(),
            rule: config.rule().clone(),
            priority: config.priority,
        };
        let keys: Vec<Key> = routes.iter().map(key).collect();
        let routes: Vec<Arc<TcpRoute>> = routes.into_iter().map(|(_, route)| route).collect();
        let Some(alike) = before.filter(|before| before.matching.keys == keys) else {
            return Arc::new(Self { listener, routes, matching: Arc::new(Matching::of(keys)) });
        };
        if alike.routes.iter().zip(&routes).all(|(before, now)| Arc::ptr_eq(before, now)) {
            return alike.clone();
        }
        Arc::new(Self { listener, routes, matching: alike.matching.clone() })
    }

    /// The route that takes `connection`.
    #[must_use]
    pub fn find(&self, connection: &ConnectionView<'_>) -> Option<&Arc<TcpRoute>> {
        let slot = self.matching.index.find(&connection.as_request(), &self.listener)?;
        self.routes.get(usize::try_from(slot).ok()?)
    }

    /// The route of this name.
    #[must_use]
    pub fn named(&self, name: &Name) -> Option<&Arc<TcpRoute>> {
        let at = self.routes.binary_search_by(|route| route.name.cmp(name)).ok()?;
        self.routes.get(at)
    }

    /// Whether any of them looks at the TLS handshake.
    #[must_use]
    pub fn reads_hello(&self) -> bool {
        self.matching.reads_hello
    }

    /// Whether any of them looks at the client's certificate, which is known once its TLS is ended.
    #[must_use]
    pub fn reads_client_cert(&self) -> bool {
        self.matching.reads_client_cert
    }

    /// Those that ask for the same connections.
    pub(super) fn conflicts(&self) -> &[Conflict] {
        &self.matching.conflicts
    }
}

impl Key {
    fn entry((slot, key): (u32, &Self)) -> index::Entry<'_> {
        index::Entry { slot, name: &key.name, rule: key.rule.as_rule(), priority: key.priority, listeners: &[] }
    }
}

impl Matching {
    fn of(keys: Vec<Key>) -> Self {
        let (index, conflicts) = Index::build((0..).zip(&keys).map(Key::entry));
        let reads_hello = keys.iter().any(|key| key.rule.reads_hello());
        let reads_client_cert = keys.iter().any(|key| key.rule.reads_client_cert());
        Self { keys, index, conflicts, reads_hello, reads_client_cert }
    }
}
