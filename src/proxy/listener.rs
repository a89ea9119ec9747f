//! Listeners as workers hold them: a socket to accept on, and the settings of the newest table.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{Counter, Gauge};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::worker::Worker;
use crate::config::listener::ListenerProtocol;
use crate::names::Name;
use crate::routing::RoutingTable;
use crate::routing::listener::Listener;

/// Connections that wait to be accepted, per worker. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Opens one socket per worker on `address`. All of them or none.
///
/// # Errors
/// The system's, when the address is taken, not ours, or needs a right that we do not have.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // Two owners on one port share its connections without an error when both allow it. So it is joined only when nobody is there:
    // a socket that does not share cannot bind otherwise.
    let probe = socket(address, false)?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    (0..workers)
        .map(|_| {
            let socket = socket(address, true)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

fn socket(address: SocketAddr, is_shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A worker's socket of a listener.
#[derive(Debug)]
pub enum ListenSocket {
    /// Accepts connections.
    Tcp(std::net::TcpListener),
    /// Receives datagrams.
    Udp(std::net::UdpSocket),
}

impl ListenSocket {
    /// The address it is bound to.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}

/// What all workers share of one listener, for as long as it has its name.
#[derive(Debug)]
pub struct ListenerShared {
    /// Unique in this process. Stays when the name changes.
    pub id: u64,
    /// Its name.
    pub name: Name,
    /// The address that configuration gives it.
    pub address: SocketAddr,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// Connections open on it, over all workers.
    pub open: AtomicU32,
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections open, as a metric.
    pub open_gauge: Gauge,
    /// What it goes on as in tables that give its address to another name. Set before the first of them is published.
    pub renamed: OnceLock<Arc<ListenerShared>>,
}

impl ListenerShared {
    /// Whether `table` wants it as it is, name and all.
    #[must_use]
    pub fn is_in(&self, table: &RoutingTable) -> bool {
        table.listeners.get(&self.name).is_some_and(|listener| self.is_at(listener))
    }

    /// Whether it is what `listener` wants, by whatever name.
    #[must_use]
    pub fn is_at(&self, listener: &Listener) -> bool {
        listener.settings.address == self.address && listener.settings.protocol == self.protocol
    }
}

/// A listener as one worker holds it.
pub(crate) struct ListenerHandle {
    shared: RefCell<Arc<ListenerShared>>,
    settings: RefCell<(u64, Arc<Listener>)>,
    /// Connections open on it, of this worker.
    open: Cell<u32>,
    is_closed: Cell<bool>,
    close: Notify,
}

impl ListenerHandle {
    pub(crate) fn new(shared: Arc<ListenerShared>, settings: Arc<Listener>) -> Rc<Self> {
        let (shared, settings) = (RefCell::new(shared), RefCell::new((0, settings)));
        Rc::new(Self { shared, settings, open: Cell::new(0), is_closed: Cell::new(false), close: Notify::new() })
    }

    pub(crate) fn id(&self) -> u64 {
        self.shared.borrow().id
    }

    pub(super) fn shared(&self) -> Arc<ListenerShared> {
        self.shared.borrow().clone()
    }

    /// Its settings in `table`; those it had last when it is gone from there.
    pub(crate) fn settings(&self, table: &RoutingTable) -> Arc<Listener> {
        let mut settings = self.settings.borrow_mut();
        if settings.0 != table.generation {
            settings.0 = table.generation;
            self.follow(table);
            if let Some(newer) = table.listeners.get(&self.shared.borrow().name) {
                settings.1 = newer.clone();
            }
        }
        settings.1.clone()
    }

    /// Takes the name that `table` has for it, and its open connections with it.
    fn follow(&self, table: &RoutingTable) {
        let mut shared = self.shared.borrow_mut();
        let names = std::iter::successors(shared.renamed.get(), |renamed| renamed.renamed.get());
        // The last one: it may have had the name before, and another one in between that this worker never saw.
        let Some(renamed) = names.filter(|renamed| renamed.is_in(table)).last().cloned() else { return };
        let open = self.open.get();
        renamed.open.fetch_add(open, Ordering::Relaxed);
        renamed.open_gauge.increment(f64::from(open));
        shared.open.fetch_sub(open, Ordering::Relaxed);
        shared.open_gauge.decrement(f64::from(open));
        *shared = renamed;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Stops accepting.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        self.close.notify_one();
    }

    /// Waits until it is closed.
    pub(super) async fn closing(&self) {
        if !self.is_closed.get() {
            self.close.notified().await;
        }
    }

    /// Accepts until it is closed. Connections that the kernel has queued by then are accepted still.
    pub(crate) async fn accept(self: Rc<Self>, worker: Rc<Worker>, socket: std::net::TcpListener) {
        let listener = match TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(listener = %self.shared().name, "cannot register its socket: {error}"),
        };
        while !self.is_closed.get() {
            tokio::select! {
                biased;
                accepted = listener.accept() => self.accepted(&worker, accepted).await,
                () = self.close.notified() => {}
            }
        }
        self.accept_queued(&worker, listener).await;
    }

    /// Asks the system, not the runtime, which may not have heard of the last ones yet.
    async fn accept_queued(self: &Rc<Self>, worker: &Rc<Worker>, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok((stream, peer)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
            self.accepted(worker, stream.map(|stream| (stream, peer))).await;
        }
    }

    async fn accepted(self: &Rc<Self>, worker: &Rc<Worker>, accepted: io::Result<(tokio::net::TcpStream, SocketAddr)>) {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return self.accept_failed(&error).await,
        };
        let limit = worker.with_table(|table| self.settings(table)).settings.limits.connections;
        let Some(open) = OpenConnection::try_new(self, limit) else {
            tracing::debug!(listener = %self.shared().name, %peer, "closed: {limit} connections are open already");
            return;
        };
        let (handle, task_worker) = (self.clone(), worker.clone());
        let protocol = self.shared().protocol;
        worker.spawn(async move {
            let _open = open;
            match protocol {
                ListenerProtocol::Http => super::http::serve(task_worker, handle, stream, peer).await,
                ListenerProtocol::Tcp => Box::pin(super::tcp::serve(task_worker, handle, stream, peer)).await,
                ListenerProtocol::Udp => {}
            }
        });
    }

    /// Out of descriptors or memory: others may free some, so we wait a little rather than spin.
    async fn accept_failed(&self, error: &io::Error) {
        let is_of_the_connection = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
        if !is_of_the_connection {
            tracing::error!(listener = %self.shared().name, "accept: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One open connection, counted until it is dropped: under the name that its listener has by then.
pub(super) struct OpenConnection(Rc<ListenerHandle>);

impl OpenConnection {
    pub(super) fn try_new(handle: &Rc<ListenerHandle>, limit: u32) -> Option<Self> {
        let shared = handle.shared();
        let open = shared.open.fetch_add(1, Ordering::Relaxed);
        handle.open.set(handle.open.get() + 1);
        shared.open_gauge.increment(1.0);
        let counted = Self(handle.clone());
        shared.accepted.increment(1);
        (open < limit).then_some(counted)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        // try_borrow: a panic in a drop would end the process.
        if let Ok(shared) = self.0.shared.try_borrow() {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            shared.open_gauge.decrement(1.0);
        }
    }
}
