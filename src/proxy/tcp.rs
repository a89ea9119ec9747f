//! One client connection of a TCP listener: the ClientHello if routes ask for it, a route, TLS, an endpoint, and then bytes both ways.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use rustls::ServerConfig;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::alarm::TICK;
use super::arrival;
use super::client_hello::{self, ClientHello, HELLO_BYTES_MAX, Reading};
use super::clients::Place;
use super::connect::{Introduction, connect};
use super::handshake;
use super::listener::{ListenerHandle, local_address};
use super::origin::{Encryption, Origin, Telling, unique_id};
use super::relay::{Relay, Side};
use super::stream::{Prefixed, UpstreamStream};
use super::tunnel::{self, Limits};
use super::warnings::Warning;
use super::worker::Worker;
use crate::config::listener::ProxyProtocol;
use crate::routing::endpoint::Lease;
use crate::routing::listener::Listener;
use crate::routing::route::{Target, TcpRoute};
use crate::routing::upstream::{Payload, PickRequest, Upstream};
use crate::rule::{ConnectionView, normalize_host};

/// The address of ours, before it is asked for.
const NOT_ASKED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, handle: Rc<ListenerHandle>, stream: TcpStream, peer: SocketAddr) {
    // Boxed: connections are many, and idle for most of their life. What it took to establish one is gone by then.
    let Some(established) = Box::pin(establish(&worker, &handle, stream, peer)).await else { return };
    let Established { connection, near, far, ahead, _place } = established;
    match near {
        Near::Plain(stream) => connection.forward(stream, far, ahead).await,
        Near::Tls(stream) => Box::pin(connection.forward(*stream, far, ahead)).await,
    }
}

/// A connection that has its endpoint.
struct Established<'a> {
    connection: Connection<'a>,
    near: Near,
    far: (Lease, UpstreamStream),
    /// What the client has said already.
    ahead: Bytes,
    _place: Option<Place>,
}

/// The client's side.
enum Near {
    Plain(TcpStream),
    Tls(Encrypted),
}

/// The client's side once its TLS is ended.
type Encrypted = Box<TlsStream<Prefixed<TcpStream>>>;

/// Finds out what the client wants, and connects it to an endpoint. None: it was closed, and it was said why.
async fn establish<'a>(
    worker: &'a Rc<Worker>,
    handle: &'a Rc<ListenerHandle>,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> Option<Established<'a>> {
    let (listener, reads_hello) = worker.with_table(|table| {
        let listener = handle.settings(table);
        let reads_hello = table.tcp_routes.get(&listener.name).is_some_and(|routes| routes.reads_hello());
        (listener, reads_hello)
    });
    let origin = origin(worker, handle, &listener, &mut stream, peer).await?;
    let peer = origin.peer;
    let place = handle.admit(worker, &listener, peer.ip()).ok()?;
    let mut ahead = BytesMut::new();
    let hello = match reads_hello {
        true => read_hello(&mut stream, &mut ahead, listener.settings.timeouts.client_header).await,
        false => Ok(ClientHello::default()),
    };
    match hello {
        Ok(hello) => Arrived { worker, handle, hello, peer }.connect(stream, ahead.freeze(), origin, place).await,
        Err(reason) => {
            handle.refuse(worker, "client_hello", format_args!("closed a connection of {peer}: {reason}"));
            None
        }
    }
}

/// A client that has said what its routes ask for.
struct Arrived<'a> {
    worker: &'a Rc<Worker>,
    handle: &'a ListenerHandle,
    hello: ClientHello,
    peer: SocketAddr,
}

/// Where a client goes, by the newest table.
struct Found {
    listener: Arc<Listener>,
    route: Option<Arc<TcpRoute>>,
    /// Whether another certificate of the client might lead elsewhere.
    reads_client_cert: bool,
}

impl<'a> Arrived<'a> {
    fn find(&self, identities: &[Box<str>]) -> Found {
        let sni = self.hello.sni().and_then(|name| std::str::from_utf8(name).ok()).and_then(|name| normalize_host(name).ok());
        let view =
            ConnectionView { sni: sni.as_deref().unwrap_or_default(), alpn: &self.hello.alpn(), client_ip: self.peer.ip(), identities };
        self.worker.with_table(|table| {
            let listener = self.handle.settings(table);
            let routes = table.tcp_routes.get(&listener.name);
            let route = routes.and_then(|routes| routes.find(&view)).cloned();
            Found { listener, route, reads_client_cert: routes.is_some_and(|routes| routes.reads_client_cert()) }
        })
    }

    /// Connects it by a route to an endpoint, with its TLS ended if that is for us to do.
    async fn connect(self, stream: TcpStream, ahead: Bytes, mut origin: Origin, place: Option<Place>) -> Option<Established<'a>> {
        let found = self.find(&[]);
        let tls = found.listener.tls.clone().filter(|_| !found.route.as_ref().is_some_and(|route| route.passthrough));
        // Nobody else asks for it: it costs a call to the system.
        let is_late = tls.is_some() && found.reads_client_cert;
        if !origin.is_told() && (is_late || found.route.as_ref().is_some_and(|route| route.tells_origin())) {
            origin.local = local_address(&stream);
        }
        match tls {
            None => self.connect_as_it_is(found, stream, ahead, origin, place).await,
            Some(tls) => self.connect_decrypted(found, tls, Prefixed::new(ahead, stream), origin, place).await,
        }
    }

    async fn connect_as_it_is(
        self,
        found: Found,
        stream: TcpStream,
        ahead: Bytes,
        origin: Origin,
        place: Option<Place>,
    ) -> Option<Established<'a>> {
        let Some(route) = found.route else { return self.no_route(&found.listener) };
        let mut connection = Connection::begin(self.worker, route, origin);
        let far = connection.connect(None, || self.find(&[]).route).await?;
        Some(Established { connection, near: Near::Plain(stream), far, ahead, _place: place })
    }

    async fn connect_decrypted(
        self,
        found: Found,
        tls: Arc<ServerConfig>,
        stream: Prefixed<TcpStream>,
        origin: Origin,
        place: Option<Place>,
    ) -> Option<Established<'a>> {
        // Where certificates matter, who the client is is known once its TLS is ended, and the route only then.
        let early = match found.route {
            _ if found.reads_client_cert => Err(origin),
            Some(route) => Ok(Connection::begin(self.worker, route, origin)),
            None => return self.no_route(&found.listener),
        };
        let stream = self.decrypt(&found.listener, tls, stream).await?;
        let encryption = Encryption::of(stream.get_ref().1);
        let find = || self.find(encryption.identities()).route.filter(|route| !route.passthrough);
        let mut connection = match early {
            Ok(connection) => connection,
            Err(origin) => match find() {
                Some(route) => Connection::begin(self.worker, route, origin),
                None => return self.no_route(&found.listener),
            },
        };
        let far = connection.connect(Some(&encryption), find).await?;
        Some(Established { connection, near: Near::Tls(stream), far, ahead: Bytes::new(), _place: place })
    }

    /// Ends the client's TLS. None: it was closed, and it was said why.
    async fn decrypt(&self, listener: &Listener, tls: Arc<ServerConfig>, stream: Prefixed<TcpStream>) -> Option<Encrypted> {
        let accept = TlsAcceptor::from(tls).accept(stream).into_fallible();
        let ended = tokio::time::timeout(listener.settings.timeouts.client_header, accept).await.ok();
        handshake::finish(self.worker, self.handle, listener, self.peer, ended).await
    }

    fn no_route<T>(&self, listener: &Listener) -> Option<T> {
        self.handle.shared().metrics.refused("no_route");
        tracing::debug!(listener = %listener.name, peer = %self.peer, "closed: no TCP route takes it");
        None
    }
}

/// Whose connection it is. None: it was closed, and it was said why.
async fn origin(worker: &Worker, handle: &ListenerHandle, listener: &Listener, stream: &mut TcpStream, peer: SocketAddr) -> Option<Origin> {
    if listener.settings.proxy_protocol == ProxyProtocol::Off {
        // Who needs it asks for it: it costs a call to the system.
        return Some(Origin::direct(peer, NOT_ASKED));
    }
    let direct = Origin::direct(peer, local_address(stream));
    Box::pin(arrival::read(worker, handle, listener, stream, direct)).await
}

/// Reads ahead until it is clear what the client says. One that says nothing waits for the endpoint to speak first: it is let through.
async fn read_hello(stream: &mut TcpStream, ahead: &mut BytesMut, limit: Duration) -> Result<ClientHello, String> {
    let read = async {
        loop {
            match client_hello::read(ahead) {
                Reading::Hello(hello) => return Ok(hello),
                Reading::Other => return Ok(ClientHello::default()),
                Reading::Broken(reason) => return Err(format!("its TLS handshake cannot be read: {reason}")),
                Reading::Partial => {}
            }
            ahead.reserve(1024);
            let room = HELLO_BYTES_MAX.saturating_sub(ahead.len());
            match (&mut *stream).take(room as u64).read_buf(ahead).await {
                Ok(0) if ahead.is_empty() => return Ok(ClientHello::default()),
                Ok(0) => return Err("it ended inside its ClientHello".into()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    match tokio::time::timeout(limit, read).await {
        Ok(read) => read,
        Err(_) if ahead.is_empty() => Ok(ClientHello::default()),
        Err(_) => Err(format!("its ClientHello was not whole after {limit:?}")),
    }
}

/// A connection that has its route. In its metrics a clean end counts as 200, a broken one as 502.
struct Connection<'a> {
    worker: &'a Rc<Worker>,
    route: Arc<TcpRoute>,
    origin: Origin,
    started: Instant,
    status: StatusCode,
}

impl<'a> Connection<'a> {
    fn begin(worker: &'a Rc<Worker>, route: Arc<TcpRoute>, origin: Origin) -> Self {
        route.metrics.connections.begin();
        Self { worker, route, origin, started: Instant::now(), status: StatusCode::BAD_GATEWAY }
    }

    /// Connects to an endpoint. While there is none it waits, if its route says so, and looks at the newest table again and again.
    async fn connect(&mut self, tls: Option<&Encryption>, find: impl Fn() -> Option<Arc<TcpRoute>>) -> Option<(Lease, UpstreamStream)> {
        loop {
            let failed = match &self.route.target {
                Target::Upstream(upstream) => match connect_to_any(self.worker, upstream, &self.origin, tls).await {
                    Ok(connected) => return Some(connected),
                    Err(0) => (Some(upstream.clone()), format!("none of its {} endpoints is eligible", upstream.endpoints.len())),
                    Err(tried) => (Some(upstream.clone()), format!("none of {tried} endpoints tried could be reached")),
                },
                Target::Closed(reason) => (None, reason.to_string()),
                Target::Answered => return None,
            };
            let is_over = self.route.wait.is_none_or(|wait| self.started.elapsed() >= wait);
            if is_over || self.worker.is_draining() {
                self.give_up(failed);
                return None;
            }
            tokio::time::sleep(TICK).await;
            if let Some(newer) = find().filter(|newer| !Arc::ptr_eq(newer, &self.route)) {
                self.route.metrics.connections.end(None, Duration::ZERO);
                newer.metrics.connections.begin();
                self.route = newer;
            }
        }
    }

    /// The endpoint did not take us for who we say we are.
    fn refused(&self, lease: &Lease, error: &std::io::Error) {
        let Target::Upstream(upstream) = &self.route.target else { return };
        upstream.metrics.error("certificate_refused");
        let text = format!("endpoint {}: it refused our certificate: {error}", lease.address());
        self.worker.warn(Warning { route: None, upstream: Some(upstream.name.clone()), status: None, cause: "certificate_refused", text });
    }

    fn give_up(&self, (upstream, reason): (Option<Arc<Upstream>>, String)) {
        let text = format!("closed a connection of {}: {reason}", self.origin.peer);
        let warning = match upstream {
            Some(upstream) => {
                upstream.metrics.error("no_endpoint");
                Warning { route: None, upstream: Some(upstream.name.clone()), status: None, cause: "no_endpoint", text }
            }
            None => Warning { route: Some(self.route.name.clone()), upstream: None, status: None, cause: "route_closed", text },
        };
        self.worker.warn(warning);
    }

    /// Moves bytes both ways until the connection ends. Those that were read `ahead` go first.
    async fn forward(mut self, near: impl Side, (lease, far): (Lease, UpstreamStream), ahead: Bytes) {
        let TcpRoute { idle_timeout: idle, max_lifetime, metrics, .. } = &*self.route;
        let counters = [metrics.sent.clone(), metrics.received.clone()];
        let mut relay = Relay::new(near, far, &ahead, counters, self.worker.loans.clone());
        drop(ahead);
        let alarm = self.worker.alarms.alarm();
        let lifetime = max_lifetime.map(|limit| {
            let alarm = self.worker.alarms.alarm();
            alarm.set(limit);
            alarm
        });
        let end = tunnel::run(&self.worker.tunnels, &lease, Limits { alarm: &alarm, idle: *idle, lifetime }, &mut relay).await;
        let (route, peer, (sent, received)) = (&self.route.name, self.origin.peer, relay.moved());
        match end {
            Ok(()) => {
                tracing::debug!(%route, %peer, sent, received, "ended");
                self.status = StatusCode::OK;
            }
            Err(error) if handshake::is_refusal(&error) => self.refused(&lease, &error),
            Err(error) => tracing::debug!(%route, %peer, sent, received, "ended: {error}"),
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.route.metrics.connections.end(Some(self.status), self.started.elapsed());
    }
}

/// Connects to an endpoint, or to another one if it cannot be reached. Err: how many were tried.
async fn connect_to_any(
    worker: &Worker,
    upstream: &Arc<Upstream>,
    origin: &Origin,
    tls: Option<&Encryption>,
) -> Result<(Lease, UpstreamStream), usize> {
    let greeting = upstream.transport.proxy_protocol.map(|version| {
        let unique_id = unique_id(|| worker.random());
        origin.greeting(version, &Telling { tls, unique_id: &unique_id, is_stream: true })
    });
    let introduction = Introduction { greeting, source: upstream.transport.transparent.then(|| origin.peer.ip()) };
    let mut tried = Vec::new();
    while tried.len() <= usize::from(upstream.settings.retries) {
        let request = PickRequest { tried: &tried, ..PickRequest::new(origin.peer.ip(), worker.random()) };
        let Some(picked) = upstream.pick(&request) else { break };
        let limit = upstream.settings.timeouts.connect;
        match connect(picked.lease.endpoint(), &upstream.transport, Payload::Bytes, &introduction, limit).await {
            Ok(stream) => {
                upstream.metrics.connections.increment(1);
                return Ok((picked.lease, stream));
            }
            Err(error) => {
                upstream.metrics.retry(error.cause());
                let text = format!("endpoint {}: {error}", picked.lease.address());
                worker.warn(Warning { route: None, upstream: Some(upstream.name.clone()), status: None, cause: error.cause(), text });
                tried.push(picked.lease.endpoint().id);
            }
        }
    }
    Err(tried.len())
}
