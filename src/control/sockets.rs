//! The addresses we accept on, as the newest table wants them.
//!
//! A listener is known by its address. When a table gives the address to another name, the sockets stay, and with them every connection
//! that is open or waits to be accepted; a socket that is closed and opened again would refuse what comes in between.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::status::{ListenerStatus, Status};
use crate::config;
use crate::config::listen_address::ListenAddress;
use crate::config::listener::ListenerProtocol;
use crate::metrics::ListenerMetrics;
use crate::metrics::Meter;
use crate::names::Name;
use crate::proxy::bind::{Bound, PassedSockets, SocketFile, Wanted, bind};
use crate::proxy::listener::ListenerShared;
use crate::proxy::worker::{Command, WorkerThread};
use crate::routing::RoutingTable;
use crate::routing::listener::Listener;

/// The open listeners.
pub(super) struct Sockets {
    meter: Meter,
    workers: Arc<[WorkerThread]>,
    status: Arc<Status>,
    passed: PassedSockets,
    open: BTreeMap<Name, Open>,
    /// The id of the next listener.
    next_id: u64,
    /// Whether workers are to be told of new names.
    has_renamed: bool,
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
    shared: Arc<ListenerShared>,
    bound: ListenAddress,
    /// Removed with this.
    _file: Option<SocketFile>,
}

impl Sockets {
    pub(super) fn new(meter: Meter, workers: Arc<[WorkerThread]>, status: Arc<Status>, passed: PassedSockets) -> Self {
        Self { meter, workers, status, passed, open: BTreeMap::new(), next_id: 0, has_renamed: false, retry: None }
    }

    /// Lets go of the listeners that the table does not want by their name: renames those whose address it gives to another name, and
    /// closes the others. Called before the table is published, so that whoever sees it finds its listener by the new name.
    pub(super) fn release(&mut self, table: &RoutingTable) {
        let (kept, released) = std::mem::take(&mut self.open).into_iter().partition(|(_, open)| open.shared.is_in(table));
        self.open = kept;
        let released: BTreeMap<Name, Open> = released;
        released.iter().for_each(|(name, _)| self.status.listener_closed(name));
        for (name, open) in released {
            match self.heir(&open, table) {
                Some(heir) => self.rename(&name, open, &heir),
                None => {
                    self.tell(|| Command::Close(open.shared.id));
                    tracing::info!(listener = %name, "closed");
                }
            }
        }
    }

    /// The name that `table` has for an address. Never for port 0, which is another address each time.
    fn heir(&self, open: &Open, table: &RoutingTable) -> Option<Name> {
        let is_free = |name: &Name| !open.shared.address.is_any_port() && !self.open.contains_key(name);
        table.listeners.iter().find(|(name, listener)| is_free(name) && open.shared.is_at(listener)).map(|(name, _)| name.clone())
    }

    fn rename(&mut self, old: &Name, open: Open, new: &Name) {
        let Open { shared: before, bound, _file: file } = open;
        let shared =
            ListenerShared { clients: before.clients.clone(), ..self.shared(before.id, new, before.address.clone(), before.protocol) };
        let shared = Arc::new(shared);
        // Each is renamed once: what has taken its place is renamed after that.
        let _ = before.renamed.set(shared.clone());
        self.note(&shared, Some(bound.clone()), None);
        tracing::info!(listener = %new, address = %bound, was = %old, "renamed");
        self.open.insert(new.clone(), Open { shared, bound, _file: file });
        self.has_renamed = true;
    }

    /// Opens what the table wants and is not open. An address that cannot be bound is tried again at the next call.
    pub(super) fn open(&mut self, table: &RoutingTable) {
        if std::mem::take(&mut self.has_renamed) {
            self.tell(|| Command::Rename);
        }
        self.status.forget_listeners_except(&table.listeners);
        for (name, listener) in &table.listeners {
            if !self.open.contains_key(name) {
                self.open_one(name, listener);
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

    fn open_one(&mut self, name: &Name, listener: &Arc<Listener>) {
        let config::Listener { address, protocol, freebind, .. } = &listener.settings;
        self.next_id += 1;
        let shared = Arc::new(self.shared(self.next_id, name, address.clone(), *protocol));
        let wanted = Wanted { address, protocol: *protocol, freebind: *freebind };
        let Bound { workers, address: bound, file } = match bind(wanted, &self.passed, self.workers.len()) {
            Ok(bound) => bound,
            Err(error) => return self.note(&shared, None, Some(error.to_string())),
        };
        self.note(&shared, Some(bound.clone()), None);
        tracing::info!(listener = %name, address = %bound, ?protocol, tls = listener.tls.is_some(), "listening");
        for (worker, sockets) in self.workers.iter().zip(workers) {
            worker.tell(Command::Listen { shared: shared.clone(), settings: listener.clone(), sockets });
        }
        self.open.insert(name.clone(), Open { shared, bound, _file: file });
    }

    fn shared(&self, id: u64, name: &Name, address: ListenAddress, protocol: ListenerProtocol) -> ListenerShared {
        ListenerShared {
            id,
            name: name.clone(),
            address,
            protocol,
            open: AtomicU32::new(0),
            clients: Arc::default(),
            metrics: ListenerMetrics::new(&self.meter, name),
            renamed: OnceLock::new(),
        }
    }

    fn note(&self, shared: &ListenerShared, bound: Option<ListenAddress>, error: Option<String>) {
        let status = ListenerStatus { address: shared.address.clone(), protocol: shared.protocol, bound, error };
        self.status.listener_tried(&shared.name, status);
    }

    fn tell(&self, command: impl Fn() -> Command) {
        self.workers.iter().for_each(|worker| worker.tell(command()));
    }
}
