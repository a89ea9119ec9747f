//! The addresses we accept on, as the newest table wants them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::status::{ListenerStatus, Status};
use crate::config::listener::ListenerProtocol;
use crate::metrics as names;
use crate::metrics::Meter;
use crate::names::Name;
use crate::proxy::listener::{ListenerShared, bind};
use crate::proxy::worker::{Command, WorkerThread};
use crate::routing::RoutingTable;
use crate::routing::listener::Listener;

/// The open listeners.
pub(super) struct Sockets {
    meter: Meter,
    workers: Arc<[WorkerThread]>,
    status: Arc<Status>,
    open: BTreeMap<Name, Open>,
    retry: Option<Retry>,
}

/// The next attempt to bind what could not be bound.
#[derive(Clone, Copy)]
struct Retry {
    delay: Duration,
    at: Instant,
}

const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Shorter delays are not worth a line in the log.
const RETRY_QUIET: Duration = Duration::from_millis(80);

struct Open {
    wanted: SocketAddr,
    protocol: ListenerProtocol,
}

impl Sockets {
    pub(super) fn new(meter: Meter, workers: Arc<[WorkerThread]>, status: Arc<Status>) -> Self {
        Self { meter, workers, status, open: BTreeMap::new(), retry: None }
    }

    /// Closes what the table does not want, then opens what it wants. An address that cannot be bound is tried again at the next call.
    pub(super) fn reconcile(&mut self, table: &RoutingTable) {
        let is_wanted = |name: &Name, open: &Open| {
            let wanted = table.listeners.get(name).map(|listener| &listener.settings);
            wanted.is_some_and(|wanted| wanted.address == open.wanted && wanted.protocol == open.protocol)
        };
        let unwanted: Vec<Name> = self.open.iter().filter(|(name, open)| !is_wanted(name, open)).map(|(name, _)| name.clone()).collect();
        for name in unwanted {
            self.open.remove(&name);
            self.status.listener_closed(&name);
            self.workers.iter().for_each(|worker| worker.tell(Command::Close(name.clone())));
            tracing::info!(listener = %name, "closed");
        }
        self.status.forget_listeners_except(&table.listeners);
        for (name, listener) in &table.listeners {
            if !self.open.contains_key(name) {
                self.open(name, listener);
            }
        }
        let is_missing = table.listeners.len() > self.open.len();
        let before = self.retry.map(|retry| retry.delay);
        let delay = before.map_or(RETRY_MIN, |before| (before * 2).min(RETRY_MAX));
        self.retry = is_missing.then(|| Retry { delay, at: Instant::now() + delay });
        if is_missing && delay >= RETRY_QUIET && before.is_some_and(|before| before < RETRY_QUIET) {
            self.complain();
        }
    }

    /// Says which addresses still cannot be bound.
    fn complain(&self) {
        for (name, listener) in self.status.listeners() {
            if let Some(error) = listener.error {
                tracing::error!(listener = %name, address = %listener.address, "cannot listen: {error}; it is tried again every second");
            }
        }
    }

    /// When an address that could not be bound is to be tried again. At first soon: often it is ours, and just being closed.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry.map(|retry| retry.at)
    }

    fn open(&mut self, name: &Name, listener: &Arc<Listener>) {
        let (wanted, protocol) = (listener.settings.address, listener.settings.protocol);
        let sockets = bind(wanted, self.workers.len());
        let bound = sockets.as_ref().ok().and_then(|sockets| sockets.first()).and_then(|socket| socket.local_addr().ok());
        let error = sockets.as_ref().err().map(ToString::to_string);
        self.status.listener_tried(name, ListenerStatus { address: wanted, protocol, bound, error });
        let (Ok(sockets), Some(bound)) = (sockets, bound) else { return };
        tracing::info!(listener = %name, address = %bound, ?protocol, tls = listener.tls.is_some(), "listening");
        let label = [("listener", name.as_str())];
        let shared = Arc::new(ListenerShared {
            name: name.clone(),
            protocol,
            open: 0.into(),
            accepted: self.meter.counter(names::CONNECTIONS, &label),
            open_gauge: self.meter.gauge(names::CONNECTIONS_OPEN, &label),
        });
        for (worker, socket) in self.workers.iter().zip(sockets) {
            worker.tell(Command::Listen { shared: shared.clone(), settings: listener.clone(), socket });
        }
        self.open.insert(name.clone(), Open { wanted, protocol });
    }
}
