//! The datagrams of a UDP listener: to an endpoint, and its replies back to the client.
//!
//! Each worker has a socket of its own on the listener's port, one task for it, and its own session table; the kernel keeps a client on one
//! of the sockets. A session is an entry in a table and a socket that is connected to its endpoint, not a task: the sockets of all sessions
//! are watched by one epoll instance, which in turn is watched by the runtime. Silent sessions are found by the worker's tick.
//!
//! The socket of a session that is over is closed, not kept for the next one, although that would save four calls to the system: a reply
//! that comes late would go to another client.
//!
//! A session keeps its endpoint across tables as long as that is one of the route's upstream and not down; its next datagram goes elsewhere
//! otherwise. An endpoint that refuses datagrams gets no new session of this worker for a while if there is another.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::alarm::TICK;
use super::datagram::{self, Batch, Datagrams, Sent};
use super::listener::{ListenerHandle, OpenConnection};
use super::session::{Session, is_exhausted, is_unreachable};
use super::sessions::{Client, SessionId, Sessions};
use super::warnings::Warning;
use super::worker::Worker;
use crate::metrics::UdpDrop;
use crate::proxy_protocol::tlv::Tlvs;
use crate::proxy_protocol::{Header, Source};
use crate::routing::udp_route::UdpRoute;

/// Sessions with replies that are looked at in a row.
const EVENTS_MAX: usize = 256;

/// Calls that receive replies of one session in a row: others want theirs too.
const RECEIVES_MAX: usize = 16;

/// How long an endpoint that refused a datagram gets no new session, if there is another.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// Endpoints that are left out at once for having refused. Beyond that they are tried.
const REFUSED_MAX: usize = 64;

/// Calls that receive what is queued when a listener is closed.
const QUEUED_MAX: usize = 1024;

/// When a listener is closed, its sessions end after so long a silence instead of the route's,
const CLOSING_IDLE: Duration = Duration::from_secs(2);

/// and all of them after this.
const CLOSING_MAX: Duration = Duration::from_secs(10);

/// The UDP listeners of one worker.
#[derive(Default)]
pub(crate) struct UdpPorts {
    ports: RefCell<Vec<Rc<UdpPort>>>,
    /// Shared by all; gone with the last.
    batch: RefCell<Weak<RefCell<Batch>>>,
}

impl UdpPorts {
    /// Ends the sessions that were silent for too long.
    pub(crate) fn tick(&self, worker: &Worker, now: Instant) {
        self.ports.borrow().iter().for_each(|port| port.tick(worker, now));
    }

    /// Ends the sessions at the endpoint of this id.
    pub(crate) fn cut(&self, endpoint: u64) {
        self.ports.borrow().iter().for_each(|port| port.flows.borrow_mut().cut(endpoint));
    }

    fn batch(&self) -> io::Result<Rc<RefCell<Batch>>> {
        if let Some(batch) = self.batch.borrow().upgrade() {
            return Ok(batch);
        }
        let batch = Rc::new(RefCell::new(Batch::new()?));
        *self.batch.borrow_mut() = Rc::downgrade(&batch);
        Ok(batch)
    }
}

/// A UDP listener as one worker has it.
pub(crate) struct UdpPort {
    handle: Rc<ListenerHandle>,
    socket: AsyncFd<UdpSocket>,
    bound: SocketAddr,
    /// Watches the sockets of all sessions.
    replies: AsyncFd<OwnedFd>,
    flows: RefCell<Flows>,
    batch: Rc<RefCell<Batch>>,
}

/// What changes with each datagram.
struct Flows {
    sessions: Sessions<Session>,
    route: Option<Arc<UdpRoute>>,
    /// Counts the routes that the listener had.
    route_version: u64,
    /// Of the table in which the route was looked up.
    generation: Option<u64>,
    sessions_max: u32,
    idle_timeout: Duration,
    /// Endpoints that refused a datagram, and until when they are left out.
    refused: Vec<(u64, Instant)>,
    events: Vec<epoll::Event>,
}

impl UdpPort {
    /// Forwards until the listener is closed, and then what is left.
    pub(crate) async fn serve(worker: Rc<Worker>, handle: Rc<ListenerHandle>, socket: UdpSocket) {
        let port = match Self::new(&worker.udp, handle.clone(), socket) {
            Ok(port) => Rc::new(port),
            Err(error) => return tracing::error!(listener = %handle.shared().name, "cannot register its socket: {error}"),
        };
        worker.udp.ports.borrow_mut().push(port.clone());
        while !handle.is_closed() {
            tokio::select! {
                biased;
                () = handle.closing() => {}
                () = port.round(&worker) => {}
            }
        }
        port.forward_queued(&worker);
        port.finish(&worker).await;
        worker.udp.ports.borrow_mut().retain(|other| !Rc::ptr_eq(other, &port));
    }

    fn new(ports: &UdpPorts, handle: Rc<ListenerHandle>, socket: UdpSocket) -> io::Result<Self> {
        let bound = socket.local_addr()?;
        let socket = register(socket)?;
        let replies = register(epoll::create(epoll::CreateFlags::CLOEXEC)?)?;
        let flows = Flows {
            sessions: Sessions::default(),
            route: None,
            route_version: 0,
            generation: None,
            sessions_max: 0,
            idle_timeout: CLOSING_IDLE,
            refused: Vec::new(),
            events: Vec::with_capacity(EVENTS_MAX),
        };
        Ok(Self { handle, socket, bound, replies, flows: RefCell::new(flows), batch: ports.batch()? })
    }

    /// Waits for datagrams of either side, and forwards some.
    async fn round(&self, worker: &Worker) {
        let (replies, requests) = poll_fn(|cx| match (self.replies.poll_read_ready(cx), self.socket.poll_read_ready(cx)) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            ready => Poll::Ready(ready),
        })
        .await;
        if let Poll::Ready(Ok(ready)) = replies {
            clear(ready, self.forward_replies(worker));
        }
        if let Poll::Ready(Ok(ready)) = requests {
            clear(ready, self.forward_requests(worker));
        }
    }

    /// Forwards what clients have sent. Whether that was all.
    fn forward_requests(&self, worker: &Worker) -> bool {
        let (flows, batch) = (&mut *self.flows.borrow_mut(), &mut *self.batch.borrow_mut());
        flows.follow(worker, &self.handle);
        let count = match batch.receive(self.socket.get_ref()) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) => {
                tracing::error!(listener = %self.handle.shared().name, "receive: {error}");
                return true;
            }
        };
        let (route, now) = (flows.route.clone(), worker.alarms.now());
        let Some(route) = route else {
            worker.warn(self.no_route());
            return count < Batch::MAX;
        };
        let request = Forwarding { port: self, route: &route, batch, worker, now };
        let mut forwarded = Sent::default();
        for datagrams in batch.received(count) {
            match request.forward(flows, &datagrams) {
                Ok(sent) => {
                    forwarded.datagrams += sent.datagrams;
                    forwarded.bytes += sent.bytes;
                }
                Err(reason) => route.metrics.dropped(reason, datagrams.count()),
            }
        }
        route.metrics.requests.count(forwarded.datagrams, forwarded.bytes);
        count < Batch::MAX
    }

    fn no_route(&self) -> Warning {
        let name = self.handle.shared().name.clone();
        let text = format!("dropped datagrams: no UDP route has listener `{name}`");
        Warning { route: None, upstream: None, status: None, cause: "no_route", text }
    }

    /// Forwards what endpoints have sent. Whether that was all.
    fn forward_replies(&self, worker: &Worker) -> bool {
        let (flows, batch) = (&mut *self.flows.borrow_mut(), &mut *self.batch.borrow_mut());
        flows.events.clear();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if let Err(errno) = epoll::wait(self.replies.get_ref(), rustix::buffer::spare_capacity(&mut flows.events), Some(&now)) {
            tracing::error!(listener = %self.handle.shared().name, "cannot ask for replies: {errno}");
            return true;
        }
        let Some(route) = flows.route.clone() else { return true };
        let events = std::mem::take(&mut flows.events);
        let mut replying = Replying { port: self, route: &route, worker, now: worker.alarms.now(), sent: Sent::default(), dropped: 0 };
        for event in &events {
            let data = event.data;
            replying.forward(flows, batch, SessionId::from_bits(data.u64()));
        }
        route.metrics.replies.count(replying.sent.datagrams, replying.sent.bytes);
        if replying.dropped > 0 {
            route.metrics.dropped(UdpDrop::Client, replying.dropped);
        }
        let is_all = events.len() < EVENTS_MAX;
        flows.events = events;
        is_all
    }

    /// Forwards what clients sent before the listener was closed. Asks the system, not the runtime, which may not have heard of it yet.
    fn forward_queued(&self, worker: &Worker) {
        for _ in 0..QUEUED_MAX {
            if self.forward_requests(worker) {
                return;
            }
        }
    }

    /// Forwards the replies that are still to come.
    async fn finish(&self, worker: &Worker) {
        let until = Instant::now() + CLOSING_MAX;
        {
            let mut flows = self.flows.borrow_mut();
            flows.idle_timeout = flows.idle_timeout.min(CLOSING_IDLE);
        }
        while !self.flows.borrow().sessions.is_empty() && Instant::now() < until {
            tokio::select! {
                ready = self.replies.readable() => if let Ok(ready) = ready {
                    clear(ready, self.forward_replies(worker));
                },
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    fn tick(&self, worker: &Worker, now: Instant) {
        let mut flows = self.flows.borrow_mut();
        flows.follow(worker, &self.handle);
        flows.refused.retain(|(_, until)| *until > now);
        while let Some((id, used_at)) = flows.sessions.oldest()
            && now.saturating_duration_since(used_at) >= flows.idle_timeout
        {
            flows.sessions.remove(id);
        }
    }

    fn watch(&self, session: &Session, id: SessionId) -> Result<(), Errno> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(self.replies.get_ref(), session.socket(), epoll::EventData::new_u64(id.to_bits()), flags)
    }

    /// Has a session looked at again that has more replies.
    fn watch_again(&self, session: &Session, id: SessionId) -> Result<(), Errno> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::modify(self.replies.get_ref(), session.socket(), epoll::EventData::new_u64(id.to_bits()), flags)
    }
}

#[expect(deprecated, reason = "sound for these: each owns one descriptor, which stays the same until it is dropped")]
fn register<T: AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

fn clear<T: AsRawFd>(mut ready: AsyncFdReadyGuard<'_, T>, is_all: bool) {
    if is_all {
        ready.clear_ready();
    } else {
        ready.retain_ready();
    }
}

impl Flows {
    /// Takes over what the newest table says. A listener that is closed keeps what it had.
    fn follow(&mut self, worker: &Worker, handle: &ListenerHandle) {
        if handle.is_closed() {
            return;
        }
        worker.with_table(|table| {
            if self.generation.replace(table.generation) == Some(table.generation) {
                return;
            }
            let listener = handle.settings(table);
            self.sessions_max = listener.settings.limits.sessions;
            let route = table.udp_routes.get(&listener.name);
            let is_same = match (&self.route, route) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (None, None) => true,
                _ => false,
            };
            if !is_same {
                self.route = route.cloned();
                self.route_version += 1;
            }
            self.idle_timeout = route.map_or(CLOSING_IDLE, |route| route.settings.idle_timeout);
        });
    }

    /// The session of a client, if it may stay where it is.
    fn find(&mut self, client: &Client, route: &UdpRoute) -> Option<SessionId> {
        let id = self.sessions.find(client)?;
        let (_, session) = self.sessions.get_mut(id)?;
        let is_held = session.route_version == self.route_version || route.holds(session.lease().endpoint().id);
        if is_held && UdpRoute::keeps(session.lease()) {
            session.route_version = self.route_version;
            return Some(id);
        }
        self.sessions.remove(id);
        None
    }

    fn cut(&mut self, endpoint: u64) {
        for id in self.sessions.ids(|session| session.lease().endpoint().id == endpoint) {
            self.sessions.remove(id);
        }
    }

    fn end_oldest(&mut self) -> bool {
        self.sessions.oldest().and_then(|(id, _)| self.sessions.remove(id)).is_some()
    }

    /// Leaves an endpoint out for a while.
    fn refuse(&mut self, endpoint: u64, now: Instant) {
        self.refused.retain(|(refused, _)| *refused != endpoint);
        if self.refused.len() < REFUSED_MAX {
            self.refused.push((endpoint, now + REFUSED_PAUSE));
        }
    }
}

/// What datagrams of clients are forwarded with.
struct Forwarding<'a> {
    port: &'a UdpPort,
    route: &'a UdpRoute,
    batch: &'a Batch,
    worker: &'a Worker,
    now: Instant,
}

impl Forwarding<'_> {
    /// Sends on what one client sent: to the endpoint that it has, and if that refuses it to another one.
    fn forward(&self, flows: &mut Flows, datagrams: &Datagrams<'_>) -> Result<Sent, UdpDrop> {
        let upstream = self.route.upstream().map_err(|reason| self.dropped(UdpDrop::NoUpstream, reason))?;
        let client = Client { address: datagrams.from, local: datagrams.reply_from() };
        for _ in 0..=upstream.settings.retries {
            let id = match flows.find(&client, self.route) {
                Some(id) => id,
                None => match self.begin(flows, client)? {
                    Some(id) => id,
                    None => continue,
                },
            };
            let Some((_, session)) = flows.sessions.get_mut(id) else { break };
            // Of version 2: others have no form for datagrams, and no route has an upstream with one.
            let sent = if upstream.transport.proxy_protocol.is_none() {
                self.batch.send(session.socket(), session.endpoint(), datagrams)
            } else {
                let to = client.local.map_or(self.port.bound, |ip| SocketAddr::new(ip, self.port.bound.port()));
                let header = Header { source: Source::Client { source: client.address, destination: to }, tlvs: Tlvs::default() };
                datagram::send_headed(session.socket(), &header.write_datagram(), datagrams)
            };
            match sent.error {
                Some(errno) if is_unreachable(errno) => {
                    upstream.metrics.retry("udp_refused");
                    self.refused(flows, id, errno);
                }
                error => {
                    session.asked(sent.datagrams, &self.route.settings);
                    flows.sessions.touch(id, self.now);
                    if error.is_some() {
                        self.route.metrics.dropped(UdpDrop::Endpoint, datagrams.count() - sent.datagrams);
                    }
                    return Ok(sent);
                }
            }
        }
        upstream.metrics.error("no_endpoint");
        Err(self.dropped(UdpDrop::Endpoint, "no endpoint that was tried takes them"))
    }

    /// Begins the session of a client. None: the endpoint cannot be reached, and another one may.
    fn begin(&self, flows: &mut Flows, client: Client) -> Result<Option<SessionId>, UdpDrop> {
        let no_session = || self.dropped(UdpDrop::NoSession, "there can be no further session");
        // Other workers may begin some at the same time, and one that has none takes none away from others: there may be a few more than the
        // limit, never more than workers.
        if self.port.handle.shared().open.load(Ordering::Relaxed) >= flows.sessions_max {
            flows.end_oldest();
        }
        let (ip, random) = (client.address.ip(), self.worker.random());
        let left_out: Vec<u64> = flows.refused.iter().map(|(endpoint, _)| *endpoint).collect();
        let lease = self.route.pick(ip, random, &left_out).or_else(|| self.route.pick(ip, random, &[]));
        let mut lease = lease.ok_or_else(|| self.dropped(UdpDrop::NoEndpoint, "no endpoint is eligible"))?;
        let source = self.route.upstream().is_ok_and(|upstream| upstream.transport.transparent).then_some(ip);
        for is_last in [false, true] {
            let open = OpenConnection::try_new(&self.port.handle, u32::MAX).ok_or_else(no_session)?;
            let (errno, returned) = match Session::new(lease, source, flows.route_version, open) {
                Ok(session) => return self.insert(flows, client, session).map(Some).map_err(|_| no_session()),
                Err(failed) => failed,
            };
            if !is_exhausted(errno) {
                flows.refuse(returned.endpoint().id, self.now);
                self.warn("udp_refused", format!("endpoint {}: {errno}", returned.address()));
                return Ok(None);
            }
            // What the oldest one lets go of is what is wanted.
            if is_last || !flows.end_oldest() {
                break;
            }
            lease = returned;
        }
        Err(no_session())
    }

    fn insert(&self, flows: &mut Flows, client: Client, session: Session) -> Result<SessionId, Errno> {
        let id = flows.sessions.insert(client, session, self.now);
        let watched = flows.sessions.get_mut(id).map_or(Ok(()), |(_, session)| self.port.watch(session, id));
        match watched {
            Ok(()) => self.route.upstream().iter().for_each(|upstream| upstream.metrics.connections.increment(1)),
            Err(_) => drop(flows.sessions.remove(id)),
        }
        watched.map(|()| id)
    }

    /// Ends a session whose endpoint is not there.
    fn refused(&self, flows: &mut Flows, id: SessionId, errno: Errno) {
        let Some(session) = flows.sessions.remove(id) else { return };
        flows.refuse(session.lease().endpoint().id, self.now);
        self.warn("udp_refused", format!("endpoint {}: {errno}", session.endpoint()));
    }

    fn dropped(&self, drop: UdpDrop, why: &str) -> UdpDrop {
        self.warn(drop.label(), format!("dropped a datagram: {why}"));
        drop
    }

    fn warn(&self, cause: &'static str, text: String) {
        warn(self.worker, self.route, cause, text);
    }
}

fn warn(worker: &Worker, route: &UdpRoute, cause: &'static str, text: String) {
    let upstream = Some(route.settings.upstream.clone());
    worker.warn(Warning { route: Some(route.name.clone()), upstream, status: None, cause, text });
}

/// What replies are forwarded with.
struct Replying<'a> {
    port: &'a UdpPort,
    route: &'a UdpRoute,
    worker: &'a Worker,
    now: Instant,
    sent: Sent,
    dropped: usize,
}

impl Replying<'_> {
    /// Sends on what the endpoint of one session sent, until there is no more or the session is over.
    fn forward(&mut self, flows: &mut Flows, batch: &mut Batch, id: SessionId) {
        for _ in 0..RECEIVES_MAX {
            let Some((client, session)) = flows.sessions.get_mut(id) else { return };
            let is_stream = session.is_stream();
            let count = match receive(batch, session) {
                Ok(count) => count,
                Err(Errno::WOULDBLOCK) => return,
                Err(errno) if is_unreachable(errno) => return self.refused(flows, id, errno),
                // It was of a datagram that we sent, and is over.
                Err(_) => continue,
            };
            let mut replies = 0;
            for datagrams in batch.received(count) {
                let sent = batch.send_to(self.port.socket.get_ref(), client.address, client.local, &datagrams);
                replies += datagrams.count();
                self.dropped += datagrams.count() - sent.datagrams;
                self.sent.datagrams += sent.datagrams;
                self.sent.bytes += sent.bytes;
            }
            if session.answered(replies, &self.route.settings) {
                flows.sessions.remove(id);
                return;
            }
            flows.sessions.touch(id, self.now);
            if is_stream && count < Batch::MAX {
                return;
            }
        }
        let watched = flows.sessions.get_mut(id).map_or(Ok(()), |(_, session)| self.port.watch_again(session, id));
        if watched.is_err() {
            flows.sessions.remove(id);
        }
    }

    /// The endpoint refused what it was sent. That is lost; what the client sends next goes elsewhere.
    fn refused(&self, flows: &mut Flows, id: SessionId, errno: Errno) {
        let Some(session) = flows.sessions.remove(id) else { return };
        flows.refuse(session.lease().endpoint().id, self.now);
        if let Ok(upstream) = self.route.upstream() {
            upstream.metrics.error("udp_refused");
        }
        self.route.metrics.dropped(UdpDrop::Endpoint, 1);
        warn(self.worker, self.route, "udp_refused", format!("endpoint {}: {errno}", session.endpoint()));
    }
}

fn receive(batch: &mut Batch, session: &Session) -> Result<usize, Errno> {
    if session.is_stream() {
        return batch.receive(session.socket()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    batch.receive_one(session.socket(), session.endpoint())
}
