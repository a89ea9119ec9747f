//! Listeners as workers hold them: a socket to accept on, and the settings of the newest table.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Notify;

use super::bind::ListenSocket;
use super::clients::{Clients, Place};
use super::udp::UdpPort;
use super::warnings::Warning;
use super::worker::Worker;
use crate::config::listen_address::ListenAddress;
use crate::config::listener::ListenerProtocol;
use crate::metrics::ListenerMetrics;
use crate::names::Name;
use crate::routing::RoutingTable;
use crate::routing::listener::Listener;
use crate::socket;

/// What all workers share of one listener, for as long as it has its name.
#[derive(Debug)]
pub struct ListenerShared {
    /// Unique in this process. Stays when the name changes.
    pub id: u64,
    /// Its name.
    pub name: Name,
    /// The address that configuration gives it.
    pub address: ListenAddress,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// Connections open on it, over all workers.
    pub open: AtomicU32,
    /// Those of each client, if they are limited.
    pub clients: Arc<Clients>,
    /// What it counts.
    pub metrics: ListenerMetrics,
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
        renamed.metrics.open.increment(f64::from(open));
        shared.open.fetch_sub(open, Ordering::Relaxed);
        shared.metrics.open.decrement(f64::from(open));
        *shared = renamed;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Stops accepting.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        self.close.notify_waiters();
    }

    /// Waits until it is closed.
    pub(super) async fn closing(&self) {
        if !self.is_closed.get() {
            self.close.notified().await;
        }
    }

    /// Serves one of its sockets until it is closed.
    pub(crate) async fn serve(self: Rc<Self>, worker: Rc<Worker>, socket: ListenSocket) {
        let acceptor = match socket {
            ListenSocket::Udp(socket) => return UdpPort::serve(worker, self, socket).await,
            ListenSocket::Tcp(socket) => TcpListener::from_std(socket).map(Acceptor::Tcp),
            ListenSocket::Unix(socket) => UnixListener::from_std(socket).map(Acceptor::Unix),
        };
        match acceptor {
            Ok(acceptor) => self.accept(worker, acceptor).await,
            Err(error) => tracing::error!(listener = %self.shared().name, "cannot register its socket: {error}"),
        }
    }

    /// Accepts until it is closed. Connections that the kernel has queued by then are accepted still.
    async fn accept(self: Rc<Self>, worker: Rc<Worker>, acceptor: Acceptor) {
        while !self.is_closed.get() {
            tokio::select! {
                biased;
                accepted = acceptor.accept() => self.accepted(&worker, accepted).await,
                () = self.close.notified() => {}
            }
        }
        let Ok(queue) = acceptor.into_queue() else { return };
        while let Some(accepted) = queue.next() {
            self.accepted(&worker, accepted).await;
        }
    }

    async fn accepted(self: &Rc<Self>, worker: &Rc<Worker>, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return self.accept_failed(&error).await,
        };
        let limit = worker.with_table(|table| self.settings(table)).settings.limits.connections;
        let Some(open) = OpenConnection::try_new(self, limit) else {
            return self.refuse(worker, "connections", format_args!("closed a connection of {peer}: {limit} are open already"));
        };
        let (handle, task_worker) = (self.clone(), worker.clone());
        let protocol = self.shared().protocol;
        // Tasks of their own: one for both would have the size of the larger.
        match protocol {
            ListenerProtocol::Http => worker.spawn(async move {
                let _open = open;
                super::http::serve(task_worker, handle, stream, peer).await;
            }),
            ListenerProtocol::Tcp => worker.spawn(async move {
                let _open = open;
                super::tcp::serve(task_worker, handle, stream, peer).await;
            }),
            ListenerProtocol::Udp => {}
        }
    }

    /// Whether `client` may have a further connection. Err: it has as many as it may, and it was said.
    pub(super) fn admit(&self, worker: &Worker, listener: &Listener, client: IpAddr) -> Result<Option<Place>, ()> {
        let Some(limit) = listener.settings.limits.connections_per_client else { return Ok(None) };
        let place = self.shared().clients.admit(client, limit.get());
        if place.is_none() {
            self.refuse(worker, "connections_per_client", format_args!("closed a connection of {client}, which has {limit} already"));
        }
        place.map(Some).ok_or(())
    }

    /// Counts a connection that is closed before it is served, and says why.
    pub(super) fn refuse(&self, worker: &Worker, cause: &'static str, why: impl Display) {
        let shared = self.shared();
        shared.metrics.refused(cause);
        let text = format!("listener {}: {why}", shared.name);
        worker.warn(Warning { route: None, upstream: None, status: None, cause, text });
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

/// Who connects to a unix socket, and where: it has neither address nor port.
const THIS_MACHINE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The address of ours that a client has connected to.
pub(super) fn local_address(stream: &TcpStream) -> SocketAddr {
    // Only one of a unix socket cannot be told.
    stream.local_addr().unwrap_or(THIS_MACHINE)
}

/// A socket that accepts, and the runtime knows.
enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((stream, peer))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((socket::from_unix(stream.into_std()?)?, THIS_MACHINE))
            }
        }
    }

    fn into_queue(self) -> io::Result<Queue> {
        match self {
            Self::Tcp(listener) => listener.into_std().map(Queue::Tcp),
            Self::Unix(listener) => listener.into_std().map(Queue::Unix),
        }
    }
}

/// What a socket has queued. The system is asked, not the runtime, which may not have heard of the last ones yet.
enum Queue {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Queue {
    /// None: there is no further connection.
    fn next(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        Some(match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().ok()?;
                let stream =
                    stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).and_then(|()| TcpStream::from_std(stream));
                stream.map(|stream| (stream, peer))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().ok()?;
                socket::from_unix(stream).map(|stream| (stream, THIS_MACHINE))
            }
        })
    }
}

/// One open connection, counted until it is dropped: under the name that its listener has by then.
pub(super) struct OpenConnection(Rc<ListenerHandle>);

impl OpenConnection {
    pub(super) fn try_new(handle: &Rc<ListenerHandle>, limit: u32) -> Option<Self> {
        let shared = handle.shared();
        let open = shared.open.fetch_add(1, Ordering::Relaxed);
        handle.open.set(handle.open.get() + 1);
        shared.metrics.open.increment(1.0);
        let counted = Self(handle.clone());
        shared.metrics.accepted.increment(1);
        (open < limit).then_some(counted)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        // try_borrow: a panic in a drop would end the process.
        if let Ok(shared) = self.0.shared.try_borrow() {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            shared.metrics.open.decrement(1.0);
        }
    }
}
