//! Connections to endpoints, kept by each worker for the next request.
//!
//! Local to its worker: no locks, no wake-ups across cores. A connection is known by its endpoint and by how it was made (the transport),
//! so a change of TLS settings never reuses one that was made before. One that endpoints take for a client's own, for its PROXY header or
//! the address it comes from, is known by that client, too: it serves its requests alone, and ends with its connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;

use super::body::RequestBody;
use super::client::Client;
use super::connect::connect;
use super::error::ConnectError;
use super::h1;
use super::stream::{Cutter, SharedStream};
use super::worker::LocalExecutor;
use crate::config::upstream::Keepalive;
use crate::routing::endpoint::EndpointState;
use crate::routing::upstream::{Payload, Upstream};

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

/// Bytes of one response that an endpoint may send before its client has taken them. A connection has room for all of its streams:
/// clients that do not read would otherwise hold up every other one whose response comes over the same connection.
const H2_STREAM_WINDOW: u32 = 256 << 10;
const H2_CONNECTION_WINDOW: u32 = H2_STREAMS_MAX as u32 * H2_STREAM_WINDOW;

/// An idle connection that is open after this time shows that its endpoint keeps them.
const PROOF: Duration = Duration::from_millis(200);

/// How long it is remembered whether an endpoint keeps connections, when there is none to it.
const MEMORY: Duration = Duration::from_secs(60);

/// The connections of one worker.
#[derive(Default)]
pub(crate) struct Pool {
    hosts: RefCell<HashMap<Key, Host, BuildHasherDefault<KeyHasher>>>,
    /// Every open connection, to cut when its endpoint's drain time is over.
    open: RefCell<Vec<(Key, Cutter)>>,
    /// How many clients had connections of their own.
    clients: Cell<u64>,
}

/// Endpoint and transport, by their ids, and the client whose connections they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    endpoint: u64,
    transport: u64,
    /// 0: anybody's.
    client: u64,
}

impl Key {
    pub(crate) fn new(endpoint: &EndpointState, upstream: &Upstream, client: &Client) -> Self {
        let client = if upstream.transport.is_of_one_client() { client.private().id } else { 0 };
        Self { endpoint: endpoint.id, transport: upstream.transport.id, client }
    }
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let client = self.client.wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        state.write_u64(self.endpoint.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ self.transport ^ client);
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
    /// When a connection was last put back.
    used: Option<Instant>,
}

struct Idle {
    connection: h1::Connection,
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
    pub(crate) fn take_h1(&self, key: Key, now: Instant) -> Option<h1::Connection> {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.get_mut(&key)?;
        while let Some(Idle { mut connection, since, .. }) = host.idle.pop() {
            let is_new = now.saturating_duration_since(since) < PROOF;
            if connection.is_open() {
                connection.is_proven = host.keeps || !is_new;
                connection.is_reused = true;
                return Some(connection);
            }
            host.keeps &= !is_new;
        }
        None
    }

    /// Keeps a connection whose response has been read.
    pub(crate) fn put_h1(&self, key: Key, connection: h1::Connection, keepalive: &Keepalive, now: Instant) {
        let mut hosts = self.hosts.borrow_mut();
        let host = hosts.entry(key).or_default();
        host.keeps |= connection.is_reused;
        host.used = Some(now);
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

    /// A number for a client that gets connections of its own.
    pub(crate) fn next_client(&self) -> u64 {
        self.clients.set(self.clients.get() + 1);
        self.clients.get()
    }

    /// Closes a client's own connections: nobody will use them again.
    pub(crate) fn forget(&self, keys: &[Key]) {
        // try_borrow: called from a drop, where a panic would end the process.
        if let Ok(mut hosts) = self.hosts.try_borrow_mut() {
            keys.iter().for_each(|key| drop(hosts.remove(key)));
        }
    }

    /// A fresh connection, for `client`.
    pub(crate) async fn connect_h1(
        &self,
        key: Key,
        endpoint: &EndpointState,
        upstream: &Upstream,
        client: &Client,
    ) -> Result<h1::Connection, ConnectError> {
        self.connect(key, endpoint, upstream, client).await.map(h1::Connection::new)
    }

    async fn connect(
        &self,
        key: Key,
        endpoint: &EndpointState,
        upstream: &Upstream,
        client: &Client,
    ) -> Result<SharedStream, ConnectError> {
        let introduction = client.introduction(key, &upstream.transport);
        let limit = upstream.settings.timeouts.connect;
        let stream = connect(endpoint, &upstream.transport, Payload::Requests, &introduction, limit).await?;
        upstream.metrics.connections.increment(1);
        let stream = SharedStream::new(stream);
        self.open.borrow_mut().push((key, stream.cutter()));
        Ok(stream)
    }

    /// A stream on a connection that is there, or on a fresh one. One connection is made at a time.
    pub(crate) async fn h2(
        self: &Rc<Self>,
        key: Key,
        endpoint: &EndpointState,
        upstream: &Upstream,
        client: &Client,
        now: impl Fn() -> Instant,
    ) -> Result<H2, ConnectError> {
        loop {
            if let Some(stream) = self.take_h2(key, now()) {
                return Ok(stream);
            }
            let Some(dial) = self.begin_h2_dial(key) else { return self.dial_h2(key, endpoint, upstream, client, now()).await };
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

    /// A connection gets no further streams.
    pub(crate) fn leave_h2(&self, key: Key, stream: &H2) {
        if let Some(host) = self.hosts.borrow_mut().get_mut(&key) {
            host.h2.retain(|connection| !Rc::ptr_eq(&connection.streams, &stream.streams));
        }
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

    async fn dial_h2(
        self: &Rc<Self>,
        key: Key,
        endpoint: &EndpointState,
        upstream: &Upstream,
        client: &Client,
        now: Instant,
    ) -> Result<H2, ConnectError> {
        let _dial = Dial { pool: self, key };
        let stream = self.connect(key, endpoint, upstream, client).await?;
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_header_list_size(64 << 10);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(ConnectError::Http)?;
        tokio::task::spawn_local(async move {
            // How it ended shows on its streams.
            let _ = connection.await;
        });
        let timeout = upstream.settings.keepalive.idle_timeout;
        let connection = H2Connection { sender, streams: Rc::default(), idle_since: now, timeout };
        let stream = connection.stream();
        self.hosts.borrow_mut().entry(key).or_default().h2.push(connection);
        Ok(stream)
    }

    /// Closes connections that were idle for too long, or that the endpoint has closed.
    pub(crate) fn sweep(&self, now: Instant) {
        self.open.borrow_mut().retain(|(_, connection)| !connection.is_closed());
        self.hosts.borrow_mut().retain(|_, host| {
            host.idle.retain(|idle| idle.connection.is_open() && now.duration_since(idle.since) < idle.timeout);
            host.h2.retain(|it| !it.sender.is_closed() && (it.streams.get() > 0 || now.duration_since(it.idle_since) < it.timeout));
            !host.is_over(now)
        });
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
        let open = self.open.borrow();
        open.iter().filter(|(key, _)| key.endpoint == endpoint).for_each(|(_, connection)| connection.cut());
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
    /// Whether there is nothing left to know of it.
    fn is_over(&self, now: Instant) -> bool {
        let is_empty = self.idle.is_empty() && self.h2.is_empty() && self.h2_dial.is_none();
        is_empty && self.used.is_none_or(|used| now.saturating_duration_since(used) >= MEMORY)
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
