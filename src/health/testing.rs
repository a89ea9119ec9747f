//! What the tests of this folder share: endpoints on loopback that answer as they are told to, tables, and waiting with a deadline.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, request};
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::config::upstream::{Health, Probe, UpstreamProtocol, UpstreamTls};
use crate::config::{Pem, RoutingConfig, Snapshot, Upstream};
use crate::metrics::{Meter, Registry};
use crate::names::Name;
use crate::routing::compile::Context;
use crate::routing::upstream::Transport;
use crate::routing::{RoutingTable, compile};

/// How long anything may take before a test gives up on it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Awaits `future`, but not forever.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Waits until `is_reached`.
pub(super) async fn until(is_reached: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(1));
    within(async {
        while !is_reached() {
            looks.tick().await;
        }
    })
    .await;
}

/// An HTTP check that is done often and does not time out.
pub(super) fn health(path: &str) -> Health {
    let probe = Probe::Http { path: path.into(), host: None, status: (200, 399) };
    Health { probe, port: None, interval: Duration::from_millis(10), timeout: DEADLINE, rise: 2, fall: 3 }
}

/// Publishes tables one after the other.
pub(super) struct Tables {
    registry: Arc<Registry>,
    context: Context,
    last: Arc<RoutingTable>,
}

impl Default for Tables {
    fn default() -> Self {
        let (registry, meter) = meter();
        let context = Context {
            meter,
            sticky_keys: Vec::new(),
            crypto: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            ticketer: rustls::crypto::aws_lc_rs::Ticketer::new().unwrap(),
            system_roots: LazyLock::new(|| Arc::new(rustls::RootCertStore::empty())),
        };
        Self { registry, context, last: Arc::default() }
    }
}

impl Tables {
    /// The table of `upstreams` that follows the one before.
    pub(super) fn publish(&mut self, upstreams: impl IntoIterator<Item = (Name, Upstream)>) -> Arc<RoutingTable> {
        let config = RoutingConfig { upstreams: upstreams.into_iter().collect(), ..RoutingConfig::default() };
        let snapshot = Snapshot::of_program(config, &Name::literal("test"), Instant::now());
        self.last = Arc::new(compile(&snapshot, &self.last, &self.context));
        assert!(self.last.problems.is_empty(), "{:?}", self.last.problems);
        self.last.clone()
    }

    /// Whether this is a line of the metrics.
    pub(super) fn rendered(&self, line: &str) -> bool {
        self.registry.render().lines().any(|it| it == line)
    }
}

/// A meter, and the registry it writes to.
pub(super) fn meter() -> (Arc<Registry>, Meter) {
    let registry = Arc::new(Registry::default());
    (registry.clone(), Meter::new(registry))
}

/// A transport as the compiler makes it.
pub(super) fn transport(protocol: UpstreamProtocol, tls: Option<UpstreamTls>) -> Arc<Transport> {
    let name = Name::literal("web");
    let table = Tables::default().publish([(name.clone(), Upstream { protocol, tls, ..Upstream::default() })]);
    table.upstreams[&name].transport.clone()
}

/// A certificate and its key.
#[derive(Clone)]
pub(super) struct Certificate(Arc<rcgen::CertifiedKey<rcgen::KeyPair>>);

/// TLS settings that trust a new certificate, and that certificate.
pub(super) fn certified() -> (UpstreamTls, Certificate) {
    let certified = rcgen::generate_simple_self_signed(vec!["endpoint.test".to_string()]).unwrap();
    let ca = Some(Pem::Text(certified.cert.pem()));
    (UpstreamTls { server_name: Some("endpoint.test".into()), ca, ..UpstreamTls::default() }, Certificate(Arc::new(certified)))
}

/// An endpoint on loopback. Ends when dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    status: AtomicU16,
    accepted: AtomicUsize,
    last_request: Mutex<Option<request::Parts>>,
}

#[derive(Clone)]
enum Behaviour {
    Http1(Option<TlsAcceptor>),
    Http2(Option<TlsAcceptor>),
    Mute,
    HangsUp,
}

impl Server {
    /// Answers HTTP/1.1, with 200 until told otherwise.
    pub(super) async fn http1() -> Self {
        Self::start(Behaviour::Http1(None)).await
    }

    /// Answers HTTP/2 in the clear.
    pub(super) async fn h2c() -> Self {
        Self::start(Behaviour::Http2(None)).await
    }

    /// Answers HTTP/1.1 over TLS, without ALPN.
    pub(super) async fn https1(certificate: Certificate) -> Self {
        Self::start(Behaviour::Http1(Some(acceptor(&certificate, &[])))).await
    }

    /// Answers HTTP/2 over TLS.
    pub(super) async fn https2(certificate: Certificate) -> Self {
        Self::start(Behaviour::Http2(Some(acceptor(&certificate, &[b"h2"])))).await
    }

    /// Accepts, and never says a word.
    pub(super) async fn mute() -> Self {
        Self::start(Behaviour::Mute).await
    }

    /// Accepts, and closes.
    pub(super) async fn hangs_up() -> Self {
        Self::start(Behaviour::HangsUp).await
    }

    async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { status: AtomicU16::new(200), ..Shared::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, behaviour, shared.clone()));
        Self { address, shared, tasks }
    }

    /// From now on, answers with `status`.
    pub(super) fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    /// How many connections were accepted.
    pub(super) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// The head of the last request.
    pub(super) fn last_request(&self) -> request::Parts {
        self.shared.last_request.lock().unwrap().clone().expect("a request came")
    }

    /// Closes its socket: connections are refused from now on.
    pub(super) async fn close(&mut self) {
        self.tasks.shutdown().await;
    }
}

fn acceptor(certificate: &Certificate, alpn: &[&[u8]]) -> TlsAcceptor {
    let chain = vec![certificate.0.cert.der().clone()];
    let key = PrivateKeyDer::try_from(certificate.0.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, behaviour: Behaviour, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(stream, behaviour.clone(), shared.clone()));
    }
}

/// A connection that fails is one that the probe broke off.
async fn serve(stream: TcpStream, behaviour: Behaviour, shared: Arc<Shared>) {
    let answer = service_fn(|request: Request<hyper::body::Incoming>| {
        *shared.last_request.lock().unwrap() = Some(request.into_parts().0);
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = http::StatusCode::from_u16(shared.status.load(Ordering::Relaxed)).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    match behaviour {
        Behaviour::Mute => std::future::pending().await,
        Behaviour::HangsUp => drop(stream),
        Behaviour::Http1(tls) => {
            let Some(stream) = encrypt(stream, tls).await else { return };
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        }
        Behaviour::Http2(tls) => {
            let Some(stream) = encrypt(stream, tls).await else { return };
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = connection.serve_connection(TokioIo::new(stream), answer).await;
        }
    }
}

async fn encrypt(stream: TcpStream, tls: Option<TlsAcceptor>) -> Option<Either<TcpStream, TlsStream<TcpStream>>> {
    match tls {
        None => Some(Either::Left(stream)),
        Some(acceptor) => acceptor.accept(stream).await.ok().map(Either::Right),
    }
}
