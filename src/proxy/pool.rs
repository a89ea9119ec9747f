//! Connections to endpoints, kept by each worker for the next request.
//!
//! Local to its worker: no locks, no wake-ups across cores. A connection is known by its endpoint and by how it was made (the transport),
//! so a change of TLS settings never reuses one that was made before.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use slab::Slab;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use super::body::RequestBody;
use super::connect::connect;
use super::error::ConnectError;
use super::stream::{SharedTcp, UpstreamStream};
use super::worker::LocalExecutor;
use crate::config::upstream::Keepalive;
use crate::routing::endpoint::EndpointState;
use crate::routing::upstream::Upstream;

/// What an HTTP/1.1 connection leaves when it was upgraded: the stream, and what was read of it beyond the response.
pub(crate) type Upgraded = (UpstreamStream, Bytes);

/// A connection to speak HTTP/1.1 on, one request at a time.
pub(crate) struct H1 {
    pub(crate) sender: http1::SendRequest<RequestBody>,
    /// Resolves when the connection was upgraded.
    pub(crate) upgraded: oneshot::Receiver<Upgraded>,
    socket: Option<SharedTcp>,
    /// Whether it has served a request before: then the endpoint may have closed it meanwhile.
    pub(crate) is_reused: bool,
    /// Whether the endpoint is known to keep connections: some close each after its response, without a word.
    pub(crate) is_proven: bool,
}

impl H1 {
    /// Whether the endpoint has closed it already. A system call: for requests that must not be sent twice.
    pub(crate) fn is_stale(&self) -> bool {
        self.socket.as_ref().is_some_and(SharedTcp::is_stale)
    }
}

/// A stream on an HTTP/2 connection.
pub(crate) struct H2 {
    pub(crate) sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.streams.set(self.streams.get() - 1);
    }
}

/// Streams at once on one HTTP/2 connection to an endpoint, before another connection is made. RFC 9113 section 6.5.2 recommends
/// that peers allow no fewer than 100.
const H2_STREAMS_MAX: usize = 100;

/// An idle connection that is open after this time shows that its endpoint keeps them.
const PROOF: Duration = Duration::from_millis(200);

/// The connections of one worker.
#[derive(Default)]
pub(crate) struct Pool {
    hosts: RefCell<HashMap<Key, Host, BuildHasherDefault<KeyHasher>>>,
}

/// Endpoint and transport, by their ids.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    endpoint: u64,
    transport: u64,
}

impl Key {
    pub(crate) fn new(endpoint: &EndpointState, upstream: &Upstream) -> Self {
        Self { endpoint: endpoint.id, transport: upstream.transport.id }
    }
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.endpoint.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ self.transport);
    }
}

/// The ids are counters of our own: one multiplication spreads them well enough.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// The connections to one endpoint.
#[derive(Default)]
struct Host {
    /// The most recently used one last.
    idle: Vec<Idle>,
    /// Whether the last connection that was used again has brought a response.
    keeps: bool,
    h2: Vec<H2Connection>,
    /// Set while an HTTP/2 connection is being made, so that not every waiting request makes one.
    h2_dial: Option<Rc<Notify>>,
    /// Every open connection, to cut when its endpoint's drain time is over.
    open: Slab<AbortHandle>,
}

struct Idle {
    connection: H1,
    since: Instant,
    timeout: Duration,
}

struct H2Connection {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
    idle_since: Instant,
    timeout: Duration,
}

impl Pool {
    /// An idle connection that is still open, as far as we know.
    pub(crate) fn take_h1(&self, key: Key, now: Instant) -> Option<H1> {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.get_mut(&key)?;
        // A connection is put back when the last byte of its response has been read; hyper may need another turn to be ready.
        let mut at = host.idle.len();
        while at > 0 {
            at -= 1;
            let sender = &host.idle.get(at)?.connection.sender;
            if sender.is_ready() {
                let Idle { mut connection, since, .. } = host.idle.swap_remove(at);
                connection.is_proven = host.keeps || now.saturating_duration_since(since) >= PROOF;
                connection.is_reused = true;
                return Some(connection);
            }
            if sender.is_closed() && now.saturating_duration_since(host.idle.swap_remove(at).since) < PROOF {
                host.keeps = false;
            }
        }
        None
    }

    /// Keeps a connection whose response has been read.
    pub(crate) fn put_h1(&self, key: Key, connection: H1, keepalive: &Keepalive, now: Instant) {
        if connection.sender.is_closed() {
            return;
        }
        let mut hosts = self.hosts.borrow_mut();
        let Some(host) = hosts.get_mut(&key) else { return };
        host.keeps |= connection.is_reused;
        if host.idle.len() < usize::from(keepalive.idle_max) {
            host.idle.push(Idle { connection, since: now, timeout: keepalive.idle_timeout });
        }
    }

    /// A connection that was used again has brought no response.
    pub(crate) fn disprove(&self, key: Key) {
        if let Some(host) = self.hosts.borrow_mut().get_mut(&key) {
            host.keeps = false;
        }
    }

    /// A fresh connection.
    pub(crate) async fn connect_h1(self: &Rc<Self>, key: Key, endpoint: &EndpointState, upstream: &Upstream) -> Result<H1, ConnectError> {
        let stream = connect(endpoint.address, &upstream.transport, upstream.settings.timeouts.connect).await?;
        upstream.metrics.connections.increment(1);
        let socket = stream.shared();
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, mut connection) = handshake.map_err(ConnectError::Http)?;
        let (upgrade, upgraded) = oneshot::channel();
        self.drive(key, async move {
            if std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await.is_ok() {
                let parts = connection.into_parts();
                // Nobody waits for it unless the connection was upgraded: then it is closed here.
                let _ = upgrade.send((parts.io.into_inner(), parts.read_buf));
            }
        });
        Ok(H1 { sender, upgraded, socket, is_reused: false, is_proven: false })
    }

    /// A stream on a connection that is there, or on a fresh one. One connection is made at a time.
    pub(crate) async fn h2(
        self: &Rc<Self>,
        key: Key,
        endpoint: &EndpointState,
        upstream: &Upstream,
        now: impl Fn() -> Instant,
    ) -> Result<H2, ConnectError> {
        loop {
            if let Some(stream) = self.take_h2(key, now()) {
                return Ok(stream);
            }
            let Some(dial) = self.begin_h2_dial(key) else { return self.dial_h2(key, endpoint, upstream, now()).await };
            dial.notified().await;
        }
    }

    fn take_h2(&self, key: Key, now: Instant) -> Option<H2> {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.get_mut(&key)?;
        host.h2.retain(|connection| !connection.sender.is_closed());
        let free = host.h2.iter_mut().find(|connection| connection.streams.get() < H2_STREAMS_MAX)?;
        free.idle_since = now;
        Some(free.stream())
    }

    /// None: the caller is the one to connect. Otherwise what to wait for.
    fn begin_h2_dial(&self, key: Key) -> Option<Rc<Notify>> {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.entry(key).or_default();
        let dial = host.h2_dial.clone();
        if dial.is_none() {
            host.h2_dial = Some(Rc::default());
        }
        dial
    }

    async fn dial_h2(self: &Rc<Self>, key: Key, endpoint: &EndpointState, upstream: &Upstream, now: Instant) -> Result<H2, ConnectError> {
        let _dial = Dial { pool: self, key };
        let stream = connect(endpoint.address, &upstream.transport, upstream.settings.timeouts.connect).await?;
        upstream.metrics.connections.increment(1);
        let mut builder = http2::Builder::new(LocalExecutor);
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20).max_header_list_size(64 << 10);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(ConnectError::Http)?;
        self.drive(key, async move {
            // How it ended shows on its streams.
            let _ = connection.await;
        });
        let timeout = upstream.settings.keepalive.idle_timeout;
        let connection = H2Connection { sender, streams: Rc::default(), idle_since: now, timeout };
        let stream = connection.stream();
        self.hosts.borrow_mut().entry(key).or_default().h2.push(connection);
        Ok(stream)
    }

    /// Runs a connection until it ends or is cut.
    fn drive(self: &Rc<Self>, key: Key, connection: impl Future<Output = ()> + 'static) {
        let mut hosts = self.hosts.borrow_mut();
        let entry = hosts.entry(key).or_default().open.vacant_key();
        let open = Open { pool: self.clone(), key, entry };
        let task = tokio::task::spawn_local(async move {
            let _open = open;
            connection.await;
        });
        hosts.entry(key).or_default().open.insert(task.abort_handle());
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        for host in self.hosts.borrow_mut().values_mut() {
            host.idle.retain(|idle| !idle.connection.sender.is_closed() && now.duration_since(idle.since) < idle.timeout);
            host.h2.retain(|it| !it.sender.is_closed() && (it.streams.get() > 0 || now.duration_since(it.idle_since) < it.timeout));
        }
        self.hosts.borrow_mut().retain(|_, host| !host.is_empty());
    }

    /// Closes what is idle to an endpoint that is gone. What is in flight goes on.
    pub(crate) fn retire(&self, endpoint: u64) {
        let mut hosts = self.hosts.borrow_mut();
        for (_, host) in hosts.iter_mut().filter(|(key, _)| key.endpoint == endpoint) {
            host.idle.clear();
            host.h2.clear();
        }
    }

    /// Cuts every connection to an endpoint whose drain time is over.
    pub(crate) fn cut(&self, endpoint: u64) {
        let hosts = self.hosts.borrow();
        for (_, host) in hosts.iter().filter(|(key, _)| key.endpoint == endpoint) {
            host.open.iter().for_each(|(_, connection)| connection.abort());
        }
    }

    /// Closes all that is idle.
    pub(crate) fn close_idle(&self) {
        for host in self.hosts.borrow_mut().values_mut() {
            host.idle.clear();
            host.h2.clear();
        }
    }
}

impl Host {
    fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.h2.is_empty() && self.open.is_empty() && self.h2_dial.is_none()
    }
}

impl H2Connection {
    fn stream(&self) -> H2 {
        self.streams.set(self.streams.get() + 1);
        H2 { sender: self.sender.clone(), streams: self.streams.clone() }
    }
}

/// An HTTP/2 connection being made. However that ends, those who wait look again.
struct Dial<'a> {
    pool: &'a Pool,
    key: Key,
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        let dial = self.pool.hosts.borrow_mut().get_mut(&self.key).and_then(|host| host.h2_dial.take());
        if let Some(dial) = dial {
            dial.notify_waiters();
        }
    }
}

/// The entry of an open connection. Gone when the connection is.
struct Open {
    pool: Rc<Pool>,
    key: Key,
    entry: usize,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Ok(mut hosts) = self.pool.hosts.try_borrow_mut()
            && let Some(host) = hosts.get_mut(&self.key)
        {
            host.open.try_remove(self.entry);
        }
    }
}
