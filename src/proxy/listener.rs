//! Listeners as workers hold them: a socket to accept on, and the settings of the newest table.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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

/// What all workers share of one listener.
#[derive(Debug)]
pub struct ListenerShared {
    /// Its name.
    pub name: Name,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// Connections open on it, over all workers.
    pub open: AtomicU32,
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections open, as a metric.
    pub open_gauge: Gauge,
}

/// A listener as one worker holds it.
pub(crate) struct ListenerHandle {
    pub(crate) shared: Arc<ListenerShared>,
    settings: RefCell<(u64, Arc<Listener>)>,
    is_closed: Cell<bool>,
    close: Notify,
}

impl ListenerHandle {
    pub(crate) fn new(shared: Arc<ListenerShared>, settings: Arc<Listener>) -> Rc<Self> {
        Rc::new(Self { shared, settings: RefCell::new((0, settings)), is_closed: Cell::new(false), close: Notify::new() })
    }

    /// Its settings in `table`; those it had last when it is gone from there.
    pub(crate) fn settings(&self, table: &RoutingTable) -> Arc<Listener> {
        let mut settings = self.settings.borrow_mut();
        if settings.0 != table.generation {
            settings.0 = table.generation;
            if let Some(newer) = table.listeners.get(&self.shared.name) {
                settings.1 = newer.clone();
            }
        }
        settings.1.clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Stops accepting.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        self.close.notify_one();
    }

    /// Accepts until it is closed. Connections that the kernel has queued by then are accepted still.
    pub(crate) async fn accept(self: Rc<Self>, worker: Rc<Worker>, socket: std::net::TcpListener) {
        let listener = match TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(listener = %self.shared.name, "cannot register its socket: {error}"),
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
        let Some(open) = OpenConnection::try_new(&self.shared, limit) else {
            tracing::debug!(listener = %self.shared.name, %peer, "closed: {limit} connections are open already");
            return;
        };
        let (handle, task_worker) = (self.clone(), worker.clone());
        worker.spawn(async move {
            let _open = open;
            match handle.shared.protocol {
                ListenerProtocol::Http => super::http::serve(task_worker, handle, stream, peer).await,
                ListenerProtocol::Tcp => Box::pin(super::tcp::serve(task_worker, handle, stream, peer)).await,
            }
        });
    }

    /// Out of descriptors or memory: others may free some, so we wait a little rather than spin.
    async fn accept_failed(&self, error: &io::Error) {
        let is_of_the_connection = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
        if !is_of_the_connection {
            tracing::error!(listener = %self.shared.name, "accept: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One open connection, counted until it is dropped.
struct OpenConnection(Arc<ListenerShared>);

impl OpenConnection {
    fn try_new(shared: &Arc<ListenerShared>, limit: u32) -> Option<Self> {
        let open = shared.open.fetch_add(1, Ordering::Relaxed);
        shared.open_gauge.increment(1.0);
        let counted = Self(shared.clone());
        shared.accepted.increment(1);
        (open < limit).then_some(counted)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.open_gauge.decrement(1.0);
    }
}
