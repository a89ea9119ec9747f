//! One connection from a client, as its requests see it: who it is, what phase it is in, and how long that may last.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::alarm::Alarm;
use super::forwarded::{self, PeerHeaders};
use super::listener::ListenerHandle;
use super::stream::Direction;
use super::tunnel::Upgrade;
use super::worker::Worker;
use crate::config::listener::{EncodedSlashes, ListenerLimits, ListenerTimeouts};
use crate::routing::listener::Listener;

/// How long a connection on which nothing has come yet may still bring a request when we drain.
const DRAIN_GRACE: Duration = Duration::from_millis(300);

/// How long an HTTP/2 client without streams may take to answer when we have said that the connection will end. One that sleeps would
/// hold up the end of the process.
const GOODBYE_GRACE: Duration = Duration::from_secs(2);

/// A connection from a client.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<ListenerHandle>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) is_tls: bool,
    pub(crate) timeouts: ListenerTimeouts,
    pub(crate) limits: ListenerLimits,
    pub(crate) encoded_slashes: EncodedSlashes,
    /// The limit of the phase it is in.
    pub(crate) alarm: Rc<Alarm>,
    /// What takes the connection over when the response in progress is `101 Switching Protocols`.
    pub(crate) upgrade: RefCell<Option<Upgrade>>,
    /// What requests tell of the peer, with the settings they were made for.
    peer_headers: RefCell<(Arc<Listener>, PeerHeaders)>,
    /// The end of the time that a route gives to the request in progress. HTTP/2: the task of its stream takes it from here.
    pub(crate) deadline: RefCell<Option<Rc<Alarm>>>,
    phase: Cell<Phase>,
    streams: Cell<u32>,
}

/// One stream of an HTTP/2 connection, from the head of its request to the end of its response.
pub(crate) struct Stream(Rc<Client>);

impl Stream {
    pub(crate) fn open(client: &Rc<Client>) -> Self {
        client.streams.set(client.streams.get() + 1);
        client.progress(Direction::Read);
        Self(client.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.progress(Direction::Read);
    }
}

fn peer_headers(peer: SocketAddr, local: SocketAddr, is_tls: bool, listener: &Listener) -> PeerHeaders {
    let peer = forwarded::Client { ip: peer.ip(), is_https: is_tls };
    PeerHeaders::new(peer, local.port(), &listener.settings.trusted_proxies, listener.settings.forwarded)
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// For the first byte of a request.
    Idle,
    /// For the rest of a head.
    Head,
    /// For the end of an exchange, which keeps its own limits.
    Exchange,
    /// HTTP/2: many exchanges at once; any byte either way counts as progress.
    Multiplexed,
}

impl Client {
    pub(crate) fn new(
        worker: Rc<Worker>,
        listener: Rc<ListenerHandle>,
        peer: SocketAddr,
        local: SocketAddr,
        is_tls: bool,
        settings: &Arc<Listener>,
    ) -> Rc<Self> {
        let alarm = Rc::new(worker.alarms.alarm());
        let (timeouts, limits, encoded_slashes) = (settings.settings.timeouts, settings.settings.limits, settings.settings.encoded_slashes);
        alarm.set(timeouts.client_header);
        let peer_headers = RefCell::new((settings.clone(), peer_headers(peer, local, is_tls, settings)));
        let (upgrade, phase, streams) = (RefCell::default(), Cell::new(Phase::Head), Cell::new(0));
        Rc::new(Self {
            worker,
            listener,
            peer,
            local,
            is_tls,
            timeouts,
            limits,
            encoded_slashes,
            alarm,
            upgrade,
            peer_headers,
            deadline: RefCell::default(),
            phase,
            streams,
        })
    }

    /// Who the client is, by the peer and by what a trusted one says.
    pub(crate) fn identify(&self, settings: &Arc<Listener>, headers: &HeaderMap) -> forwarded::Client {
        let mut made = self.peer_headers.borrow_mut();
        if !Arc::ptr_eq(&made.0, settings) {
            *made = (settings.clone(), peer_headers(self.peer, self.local, self.is_tls, settings));
        }
        made.1.client(headers, &settings.settings.trusted_proxies)
    }

    /// Puts into `headers` what endpoints are told of the client. Called after [`identify`](Self::identify).
    pub(crate) fn tell(&self, headers: &mut HeaderMap, client: forwarded::Client, host: Option<&HeaderValue>) {
        self.peer_headers.borrow().1.apply(headers, client, host);
    }

    /// Whether the connection is to end as soon as nothing is in flight on it.
    pub(crate) fn is_draining(&self) -> bool {
        self.worker.is_draining() || self.listener.is_closed()
    }

    /// HTTP/1.1: a head was read, its exchange begins.
    pub(crate) fn begin_exchange(&self) {
        self.phase.set(Phase::Exchange);
    }

    /// HTTP/1.1: the exchange is over, the next request may come.
    pub(crate) fn end_exchange(&self) {
        if self.phase.get() == Phase::Exchange {
            self.phase.set(Phase::Idle);
            self.alarm.set(self.timeouts.client_idle);
            self.deadline.take();
        }
    }

    /// HTTP/1.1: whether a limit is over, so that the connection is to end.
    pub(crate) fn is_over(&self, cx: &Context<'_>) -> bool {
        self.alarm.poll(cx) || self.deadline.borrow().as_ref().is_some_and(|deadline| deadline.poll(cx))
    }

    /// HTTP/2 begins.
    pub(crate) fn multiplex(&self) {
        self.phase.set(Phase::Multiplexed);
        self.alarm.set(self.timeouts.client_idle);
    }

    /// Runs `step` of the connection's beginning. None: it took longer than the limit in force. When we drain, it is given a moment:
    /// a client may just have sent its request.
    pub(crate) async fn within_limit<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        let mut step = std::pin::pin!(step);
        let mut is_draining = false;
        poll_fn(|cx| {
            if let Poll::Ready(done) = step.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if !is_draining && self.is_draining() {
                is_draining = true;
                self.alarm.set(DRAIN_GRACE);
            }
            if self.alarm.poll(cx) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    /// Bytes were read from the client, or written to it.
    pub(crate) fn progress(&self, direction: Direction) {
        match self.phase.get() {
            Phase::Idle if direction == Direction::Read => {
                self.phase.set(Phase::Head);
                self.alarm.set(self.timeouts.client_header);
            }
            // With exchanges in flight each keeps its own limits; this one is for a client that stopped reading.
            Phase::Multiplexed if self.streams.get() > 0 => self.alarm.set(self.timeouts.client_idle * 8),
            Phase::Multiplexed if self.is_draining() => self.alarm.set(GOODBYE_GRACE.min(self.timeouts.client_idle)),
            Phase::Multiplexed => self.alarm.set(self.timeouts.client_idle),
            Phase::Idle | Phase::Head | Phase::Exchange => {}
        }
    }
}
