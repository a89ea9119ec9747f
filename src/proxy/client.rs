//! One connection from a client, as its requests see it: who it is, what phase it is in, and how long that may last.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, ReadBuf};

use super::alarm::Alarm;
use super::connect::Introduction;
use super::forwarded::{self, PeerHeaders};
use super::listener::ListenerHandle;
use super::origin::{self, Encryption, Origin, Telling};
use super::pool::Key;
use super::stream::Direction;
use super::tunnel::Upgrade;
use super::worker::Worker;
use crate::config::listener::{EncodedSlashes, ListenerLimits, ListenerTimeouts};
use crate::routing::listener::Listener;
use crate::routing::upstream::Transport;

/// How long a connection on which nothing has come yet may still bring a request when we drain.
const DRAIN_GRACE: Duration = Duration::from_millis(300);

/// How long an HTTP/2 client without streams may take to answer when we have said that the connection will end. One that sleeps would
/// hold up the end of the process.
const GOODBYE_GRACE: Duration = Duration::from_secs(2);

/// A connection from a client.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<ListenerHandle>,
    pub(crate) origin: Origin,
    /// Whether the client speaks TLS: to us or, as far as its PROXY header says, to who sent that.
    pub(crate) is_https: bool,
    /// Its TLS with us.
    tls: OnceCell<Box<Encryption>>,
    /// What it has of its own with endpoints that are told of it by a PROXY header.
    private: OnceCell<Box<Private>>,
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
    /// HTTP/1.1: the exchange in progress, or the last one.
    exchange: Cell<Exchange>,
    /// Whether something is written that the client does not take.
    is_blocked: Cell<bool>,
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

/// What a client has of its own with endpoints that are told of it by a PROXY header.
pub(crate) struct Private {
    /// Unique on its worker, and not 0.
    pub(crate) id: u64,
    /// What such endpoints know its connection by.
    unique_id: String,
    /// Where the connections to them are kept.
    keys: RefCell<Vec<Key>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(private) = self.private.get() {
            self.worker.pool.forget(&private.keys.borrow());
        }
    }
}

fn peer_headers(origin: &Origin, is_https: bool, listener: &Listener) -> PeerHeaders {
    let peer = forwarded::Client { ip: origin.peer.ip(), is_https };
    // A trusted proxy that does not know whom it relays does not vouch for what they say.
    let trusted = if origin.is_unknown() { &[] } else { listener.settings.trusted_proxies.as_slice() };
    let port = match origin.local.port() {
        // A unix socket has none.
        0 if is_https => 443,
        0 => 80,
        port => port,
    };
    PeerHeaders::new(peer, port, trusted, listener.settings.forwarded)
}

/// Runs `step` of a connection's beginning. None: `alarm` fired. When we drain, it is given a moment.
pub(crate) async fn begin<T>(alarm: &Alarm, is_draining: impl Fn() -> bool, step: impl Future<Output = T>) -> Option<T> {
    let mut step = std::pin::pin!(step);
    let mut was_draining = false;
    poll_fn(|cx| {
        if let Poll::Ready(done) = step.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if !was_draining && is_draining() {
            was_draining = true;
            alarm.set(DRAIN_GRACE);
        }
        if alarm.poll(cx) { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

/// How long after an exchange a connection is ready for the next one at once. Then it is parked: it keeps its socket and next to nothing else.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// The most bytes that wake a parked connection at once.
const WAKE_BYTES: usize = 2048;

/// What an HTTP/1.1 connection may still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Go on.
    Within,
    /// Nothing is in flight, and has not been for a while: park.
    Park,
    /// A limit is over: end.
    Over,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// For the first byte of a request, which is likely to come soon.
    Settling,
    /// For the first byte of a request.
    Idle,
    /// For the rest of a head.
    Head,
    /// For the end of an exchange, which keeps its own limits: also for the rest of a body whose request was answered early.
    Exchange,
    /// HTTP/2: many exchanges at once; any byte either way counts as progress.
    Multiplexed,
}

/// An exchange of HTTP/1.1. It is over when its response is and nobody waits for more of its request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exchange {
    /// Tells it from others of the connection.
    number: u64,
    is_answered: bool,
    body: BodyState,
}

/// How far the body of a request is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyState {
    /// There is none, or all of it was read.
    Over,
    /// Somebody waits for more of it.
    Awaited,
    /// Not to its end, and nobody waits for more of it.
    Unread,
}

impl Client {
    pub(crate) fn new(worker: Rc<Worker>, listener: Rc<ListenerHandle>, origin: Origin, settings: &Arc<Listener>) -> Rc<Self> {
        let alarm = Rc::new(worker.alarms.alarm());
        let (timeouts, limits, encoded_slashes) = (settings.settings.timeouts, settings.settings.limits, settings.settings.encoded_slashes);
        alarm.set(timeouts.client_header);
        let is_https = origin.is_https().unwrap_or(settings.tls.is_some());
        let peer_headers = RefCell::new((settings.clone(), peer_headers(&origin, is_https, settings)));
        let (upgrade, phase, streams) = (RefCell::default(), Cell::new(Phase::Head), Cell::new(0));
        let exchange = Cell::new(Exchange { number: 0, is_answered: false, body: BodyState::Over });
        Rc::new(Self {
            worker,
            listener,
            origin,
            is_https,
            tls: OnceCell::new(),
            private: OnceCell::new(),
            timeouts,
            limits,
            encoded_slashes,
            alarm,
            upgrade,
            peer_headers,
            deadline: RefCell::default(),
            phase,
            exchange,
            is_blocked: Cell::new(false),
            streams,
        })
    }

    /// Who the client is, by the peer and by what a trusted one says.
    pub(crate) fn identify(&self, settings: &Arc<Listener>, headers: &HeaderMap) -> forwarded::Client {
        let mut made = self.peer_headers.borrow_mut();
        if !Arc::ptr_eq(&made.0, settings) {
            *made = (settings.clone(), peer_headers(&self.origin, self.is_https, settings));
        }
        made.1.client(headers, &settings.settings.trusted_proxies)
    }

    /// Puts into `headers` what endpoints are told of the client. Called after [`identify`](Self::identify).
    pub(crate) fn tell(&self, headers: &mut HeaderMap, client: forwarded::Client, host: Option<&HeaderValue>) {
        self.peer_headers.borrow().1.apply(headers, client, host);
    }

    /// Its handshake with us is over.
    pub(crate) fn encrypted(&self, tls: &rustls::ServerConnection) {
        let _ = self.tls.set(Box::new(Encryption::of(tls)));
    }

    /// The names in the certificate that it has shown.
    pub(crate) fn identities(&self) -> &[Box<str>] {
        self.tls.get().map_or(&[], |tls| tls.identities())
    }

    /// What it has of its own with endpoints. Made when it is first asked for.
    pub(crate) fn private(&self) -> &Private {
        self.private.get_or_init(|| {
            let (id, unique_id) = (self.worker.pool.next_client(), origin::unique_id(|| self.worker.random()));
            Box::new(Private { id, unique_id, keys: RefCell::default() })
        })
    }

    /// What a connection that is to be kept under `key` shows of this client.
    pub(crate) fn introduction(&self, key: Key, transport: &Transport) -> Introduction {
        if !transport.is_of_one_client() {
            return Introduction::default();
        }
        let private = self.private();
        let mut keys = private.keys.borrow_mut();
        if !keys.contains(&key) {
            keys.push(key);
        }
        let told = Telling { tls: self.tls.get().map(|tls| &**tls), unique_id: &private.unique_id, is_stream: false };
        let greeting = transport.proxy_protocol.map(|version| self.origin.greeting(version, &told));
        Introduction { greeting, source: transport.transparent.then(|| self.origin.peer.ip()) }
    }

    /// Whether the connection is to end as soon as nothing is in flight on it.
    pub(crate) fn is_draining(&self) -> bool {
        self.worker.is_draining() || self.listener.is_closed()
    }

    /// HTTP/1.1: a head was read, its exchange begins.
    pub(crate) fn begin_exchange(&self, has_body: bool) {
        self.phase.set(Phase::Exchange);
        let body = if has_body { BodyState::Unread } else { BodyState::Over };
        self.exchange.set(Exchange { number: self.exchange.get().number + 1, is_answered: false, body });
    }

    /// HTTP/1.1: the body of the request will be read. Gives the number of its exchange.
    pub(crate) fn await_body(&self) -> u64 {
        self.exchange.set(Exchange { body: BodyState::Awaited, ..self.exchange.get() });
        self.exchange.get().number
    }

    /// HTTP/1.1: the body of exchange `number` was read to its end, or will be read no further.
    pub(crate) fn end_body(&self, number: u64, is_read: bool) {
        let exchange = self.exchange.get();
        // The next one may have begun: the last piece of a body can wait for its endpoint.
        if exchange.number == number {
            self.end_part(Exchange { body: if is_read { BodyState::Over } else { BodyState::Unread }, ..exchange });
        }
    }

    /// HTTP/1.1: the response is over.
    pub(crate) fn end_response(&self) {
        self.end_part(Exchange { is_answered: true, ..self.exchange.get() });
    }

    /// When the exchange is over, the next request may come.
    fn end_part(&self, exchange: Exchange) {
        self.exchange.set(exchange);
        if self.phase.get() == Phase::Exchange && exchange.is_answered && exchange.body != BodyState::Awaited {
            self.phase.set(Phase::Settling);
            self.alarm.set(PARK_AFTER.min(self.timeouts.client_idle));
            self.deadline.take();
        }
    }

    /// HTTP/1.1: whether the client may still be sending the body of a request that was answered.
    pub(crate) fn has_unread_body(&self) -> bool {
        self.exchange.get().body != BodyState::Over
    }

    /// HTTP/1.1: how far the connection is with its limits.
    pub(crate) fn limit(&self, cx: &Context<'_>) -> Limit {
        let is_over = self.alarm.poll(cx) || self.deadline.borrow().as_ref().is_some_and(|deadline| deadline.poll(cx));
        match self.phase.get() {
            _ if !is_over => Limit::Within,
            Phase::Settling if self.timeouts.client_idle > PARK_AFTER => {
                self.phase.set(Phase::Idle);
                self.alarm.set(self.timeouts.client_idle.saturating_sub(PARK_AFTER));
                let _ = self.alarm.poll(cx);
                // What the client has not read yet is with hyper.
                if self.is_blocked.get() { Limit::Within } else { Limit::Park }
            }
            _ => Limit::Over,
        }
    }

    /// HTTP/1.1: waits, parked, for the next bytes. None: the connection is to end.
    pub(crate) async fn woken<S: AsyncRead + Unpin>(&self, stream: &mut S) -> Option<Bytes> {
        poll_fn(|cx| {
            // On the stack, not in the future: that is what parking is for.
            let mut bytes = [MaybeUninit::uninit(); WAKE_BYTES];
            let mut bytes = ReadBuf::uninit(&mut bytes);
            let read = Pin::new(&mut *stream).poll_read(cx, &mut bytes);
            match read {
                Poll::Ready(Ok(())) if !bytes.filled().is_empty() => {
                    self.progress(Direction::Read);
                    Poll::Ready(Some(Bytes::copy_from_slice(bytes.filled())))
                }
                Poll::Pending if !self.is_draining() && !self.alarm.poll(cx) => Poll::Pending,
                Poll::Ready(_) | Poll::Pending => Poll::Ready(None),
            }
        })
        .await
    }

    /// HTTP/2 begins.
    pub(crate) fn multiplex(&self) {
        self.phase.set(Phase::Multiplexed);
        self.alarm.set(self.timeouts.client_idle);
    }

    /// Runs `step` of the connection's beginning. None: it took longer than the limit in force. When we drain, it is given a moment:
    /// a client may just have sent its request.
    pub(crate) async fn within_limit<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        begin(&self.alarm, || self.is_draining(), step).await
    }

    /// Bytes were read from the client, or written to it.
    pub(crate) fn progress(&self, direction: Direction) {
        match direction {
            Direction::Blocked => return self.is_blocked.set(true),
            Direction::Written => self.is_blocked.set(false),
            Direction::Read => {}
        }
        match self.phase.get() {
            Phase::Settling | Phase::Idle if direction == Direction::Read => {
                self.phase.set(Phase::Head);
                self.alarm.set(self.timeouts.client_header);
            }
            // With exchanges in flight each keeps its own limits; this one is for a client that stopped reading.
            Phase::Multiplexed if self.streams.get() > 0 => self.alarm.set(self.timeouts.client_idle * 8),
            Phase::Multiplexed if self.is_draining() => self.alarm.set(GOODBYE_GRACE.min(self.timeouts.client_idle)),
            Phase::Multiplexed => self.alarm.set(self.timeouts.client_idle),
            Phase::Settling | Phase::Idle | Phase::Head | Phase::Exchange => {}
        }
    }
}
