//! No request is lost to a swap (invariants I1, I4, I5 and I11): a thousand and more tables follow each other under traffic of every kind.
//!
//! Generation N of the configuration says N in three objects: the request header that one middleware sets, the response header that another
//! one sets, and the `Host` that the upstream rewrites. What a request is made of must say one number; it must not be older than any number
//! that anybody saw before the request began; and the endpoint that answered must be one of that generation's.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nuncio::balance::Policy;
use nuncio::config::listener::ListenerTls;
use nuncio::config::upstream::HostHeader;
use nuncio::config::{Certificate, Endpoint as Weighted, Listener, MiddlewareRef, Pem, Route, TcpRoute, Upstream};
use nuncio::discovery::ProgramProvider;
use nuncio::middleware::Middleware;
use nuncio::{Name, RoutingConfig, Server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use support::http1::{AfterResponse, Connection, Endpoint, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite;

const SWAPS: usize = 1_200;
/// For all of it. It takes some ten seconds on a machine that has nothing else to do.
const TIME_MAX: Duration = Duration::from_secs(90);
const ENDPOINTS: usize = 6;
const CERTIFICATES: usize = 4;

/// Whose traffic is counted one by one.
const KINDS: [&str; 10] = ["kept", "post", "fresh", "h2", "tls_kept", "tls_fresh", "websocket", "tcp_kept", "tcp_fresh", "tls_h2"];

#[tokio::test]
async fn no_request_is_lost_to_a_swap() {
    let seed = std::env::var("NUNCIO_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(random_seed);
    #[expect(clippy::print_stdout, reason = "shown when the test fails")]
    {
        println!("NUNCIO_SEED={seed}");
    }
    let run = LocalSet::new();
    let run = run.run_until(swap_under_traffic(seed));
    tokio::time::timeout(TIME_MAX, run).await.expect("done in time");
}

async fn swap_under_traffic(seed: u64) {
    let world = World::start().await;
    let mut dice = Dice(seed);
    let ledger = Arc::new(Ledger::default());
    let (provider, handle) = ProgramProvider::new(Name::literal("program"));
    handle.publish(world.next_config(&ledger, &mut dice));
    let server = Server::builder().workers(2).provider(provider).start().expect("a server starts");
    server.ready().await;
    ledger.published();
    let before = server.table();

    let mut clients = JoinSet::new();
    spawn_clients(&mut clients, &world, &ledger, &|name| server.local_addr(&Name::literal(name)).expect("a listener of the first table"));
    ledger.everybody_went_on().await;
    for swap in 1..=SWAPS {
        handle.publish(world.next_config(&ledger, &mut dice));
        server.published(swap as u64 + 1).await;
        ledger.published();
        if dice.below(2) == 0 {
            ledger.everybody_went_on().await;
        }
        if ledger.has_failed() {
            break;
        }
    }
    ledger.is_over.store(true, Ordering::Relaxed);
    clients.join_all().await;

    let failures = ledger.failures.lock().expect("nobody panicked").clone();
    assert!(failures.is_empty(), "{} failures, among them:\n{}", failures.len(), failures[..failures.len().min(10)].join("\n"));
    let table = server.table();
    assert_eq!(table.generation, SWAPS as u64 + 1, "one table per configuration");
    for upstream in ["ws", "db"] {
        assert!(Arc::ptr_eq(&before.upstreams[upstream], &table.upstreams[upstream]), "upstream {upstream} did not change");
    }
    let in_flight = |upstream: &Arc<nuncio::routing::Upstream>| upstream.endpoints.iter().map(|it| it.state.in_flight()).sum::<u32>();
    drop((before, table));
    let table = server.table();
    assert!(server.shutdown().await, "everything was finished");
    assert_eq!(table.upstreams.values().map(in_flight).sum::<u32>(), 0, "every lease has ended");
    #[expect(clippy::print_stdout, reason = "figures")]
    {
        println!("{SWAPS} swaps, requests: {:?}", KINDS.iter().zip(*ledger.progress.borrow()).collect::<Vec<_>>());
    }
}

/// What is there beside the server.
struct World {
    /// Every second one closes its connections right after the response, without having said so.
    endpoints: Vec<Endpoint>,
    sockets: [SocketAddr; 2],
    pipes: [SocketAddr; ENDPOINTS],
    certificates: Vec<Certificate>,
    trust: Arc<rustls::ClientConfig>,
    chains: Vec<CertificateDer<'static>>,
}

impl World {
    async fn start() -> Self {
        let mut endpoints = Vec::new();
        for id in 0..ENDPOINTS {
            let after = if id % 2 == 1 { AfterResponse::Close } else { AfterResponse::Keep };
            endpoints.push(Endpoint::start(id, after).await);
        }
        let certificates: Vec<Certificate> = (0..CERTIFICATES).map(|_| self_signed("a.test")).collect();
        let chains: Vec<_> = certificates.iter().map(chain).collect();
        Self {
            endpoints,
            sockets: [websocket_endpoint(0).await, websocket_endpoint(1).await],
            pipes: [pipe(0).await, pipe(1).await, pipe(2).await, pipe(3).await, pipe(4).await, pipe(5).await],
            certificates,
            trust: Arc::new(trust(&chains)),
            chains,
        }
    }

    /// The configuration of the next generation, which the ledger then knows.
    fn next_config(&self, ledger: &Ledger, dice: &mut Dice) -> RoutingConfig {
        let main = dice.members(|_| true);
        // What must not be sent twice goes to endpoints that keep their connections.
        let calm = dice.members(|id| id % 2 == 0);
        let pipes = dice.members(|_| true);
        let certificate = dice.below(CERTIFICATES);
        let ids = |members: &BTreeMap<usize, u16>| members.iter().filter(|(_, weight)| **weight > 0).map(|(id, _)| *id).collect();
        let generation = Generation { main: ids(&main), calm: ids(&calm), pipes: ids(&pipes), certificate };
        let number = ledger.add(generation);

        let mut config = RoutingConfig::default();
        let any = || "127.0.0.1:0".parse().expect("an address");
        let tls = ListenerTls { certificates: vec![Name::literal("site")], ..ListenerTls::default() };
        config.listeners.insert(Name::literal("web"), Listener::http(any()));
        config.listeners.insert(Name::literal("secure"), Listener { tls: Some(tls), ..Listener::http(any()) });
        config.listeners.insert(Name::literal("db"), Listener::tcp(any()));
        config.listeners.insert(Name::literal("pipe"), Listener::tcp(any()));
        config.certificates.insert(Name::literal("site"), self.certificates[certificate].clone());
        config.middlewares.insert(Name::literal("ask"), header("request", number));
        config.middlewares.insert(Name::literal("tell"), header("response", number));
        let rewrite = HostHeader::Rewrite(format!("generation-{number}"));
        let of = |addresses: Vec<(SocketAddr, u16)>| Upstream {
            endpoints: addresses.into_iter().map(|(address, weight)| Weighted { weight, ..Weighted::new(address) }).collect(),
            host: rewrite.clone(),
            ..Upstream::default()
        };
        let http = |members: &BTreeMap<usize, u16>| members.iter().map(|(id, weight)| (self.endpoints[*id].address, *weight)).collect();
        let balance = [Policy::RoundRobin, Policy::Random, Policy::LeastRequest][dice.below(3)].clone();
        config.upstreams.insert(Name::literal("main"), Upstream { balance, ..of(http(&main)) });
        config.upstreams.insert(Name::literal("calm"), of(http(&calm)));
        config.upstreams.insert(Name::literal("pipe"), of(pipes.iter().map(|(id, weight)| (self.pipes[*id], *weight)).collect()));
        config.upstreams.insert(Name::literal("ws"), Upstream::of(self.sockets));
        config.upstreams.insert(Name::literal("db"), Upstream::of([self.pipes[0], self.pipes[1]]));
        for name in ["db", "pipe"].map(Name::literal) {
            config.tcp_routes.insert(name.clone(), TcpRoute::to(name.clone(), name));
        }
        self.add_routes(&mut config, dice);
        config
    }

    fn add_routes(&self, config: &mut RoutingConfig, dice: &mut Dice) {
        let marks = || ["ask", "tell"].map(|name| MiddlewareRef::Shared(Name::literal(name))).to_vec();
        let route = |rule: &str, upstream: &'static str| Route::to(rule.parse().expect("a rule"), Name::literal(upstream));
        let rule = ["Host(`a.test`)", "Host(`a.test`) && PathPrefix(`/`)", "Host(`*.test`)", "HostRegexp(`[a].test`)"][dice.below(4)];
        let priority = dice.below(3) as i32;
        config.routes.insert(Name::literal("main"), Route { middlewares: marks(), priority, ..route(rule, "main") });
        let post = Route { middlewares: marks(), priority: 5, ..route("Host(`a.test`) && Method(`POST`)", "calm") };
        config.routes.insert(Name::literal("post"), post);
        config.routes.insert(Name::literal("ws"), Route { priority: 9, ..route("Host(`ws.test`)", "ws") });
        // Others come and go; some of them are wrong.
        for other in 0..dice.below(8) {
            let upstream = ["main", "calm", "missing"][dice.below(3)];
            let name = Name::new(format!("other-{other}")).expect("a name");
            config.routes.insert(name, route(&format!("Host(`other-{other}.example`) && PathPrefix(`/{}`)", dice.below(3)), upstream));
        }
    }
}

fn header(side: &str, generation: usize) -> Middleware {
    let json = format!(r#"{{"headers":{{"{side}":{{"set":{{"X-Generation":"{generation}"}}}}}}}}"#);
    serde_json::from_str(&json).expect("a middleware")
}

fn self_signed(name: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed([name.to_string()]).expect("a certificate");
    Certificate { cert: Pem::Text(made.cert.pem()), key: Pem::Text(made.signing_key.serialize_pem()), ca: None, default: false }
}

fn chain(certificate: &Certificate) -> CertificateDer<'static> {
    let Pem::Text(pem) = &certificate.cert else { panic!("it is text") };
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// Without resumption, so that every handshake shows a certificate.
fn trust(chains: &[CertificateDer<'static>]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(chains.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// Says its id, then sends back what it gets.
async fn websocket_endpoint(id: usize) -> SocketAddr {
    use futures_util::{SinkExt, StreamExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
    let address = listener.local_addr().expect("a bound socket has an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut session = tokio_tungstenite::accept_async(stream).await?;
                session.send(tungstenite::Message::text(id.to_string())).await?;
                while let Some(message) = session.next().await {
                    session.send(message?).await?;
                }
                Ok::<_, tungstenite::Error>(())
            });
        }
    });
    address
}

/// Says its id in one byte, then sends back what it gets.
async fn pipe(id: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
    let address = listener.local_addr().expect("a bound socket has an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(&[id]).await?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

/// What a generation promises.
struct Generation {
    main: BTreeSet<usize>,
    calm: BTreeSet<usize>,
    pipes: BTreeSet<usize>,
    certificate: usize,
}

/// What was published, and what was seen of it.
struct Ledger {
    generations: Mutex<Vec<Generation>>,
    /// The newest generation that is known to be in force: published, or seen by anybody.
    newest: AtomicUsize,
    /// Requests answered, by kind.
    progress: watch::Sender<[usize; KINDS.len()]>,
    failures: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            generations: Mutex::default(),
            newest: AtomicUsize::new(0),
            progress: watch::Sender::new([0; KINDS.len()]),
            failures: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }
}

impl Ledger {
    fn add(&self, generation: Generation) -> usize {
        let mut generations = self.generations.lock().expect("nobody panicked");
        generations.push(generation);
        generations.len() - 1
    }

    /// The generation that was added last is in force.
    fn published(&self) {
        self.newest.fetch_max(self.generations.lock().expect("nobody panicked").len() - 1, Ordering::SeqCst);
    }

    fn newest(&self) -> usize {
        self.newest.load(Ordering::SeqCst)
    }

    /// Waits until every kind of client has done something more.
    async fn everybody_went_on(&self) {
        let mut progress = self.progress.subscribe();
        let before = *progress.borrow();
        let went_on = |now: &[usize; KINDS.len()]| now.iter().zip(before).all(|(now, before)| *now > before);
        let _ = progress.wait_for(|now| went_on(now) || self.has_failed()).await;
    }

    fn has_failed(&self) -> bool {
        !self.failures.lock().expect("nobody panicked").is_empty()
    }

    /// Runs a client until everything is over, or it fails. `step` is one request, or one round of a session.
    async fn client(self: Arc<Self>, kind: usize, mut step: impl AsyncFnMut() -> Result<(), String>) {
        while !self.is_over.load(Ordering::Relaxed) {
            let before = self.newest();
            if let Err(error) = step().await {
                let failure = format!("{} (newest generation at its start: {before}): {error}", KINDS[kind]);
                self.failures.lock().expect("nobody panicked").push(failure);
                self.progress.send_modify(|_| {});
                return;
            }
            self.progress.send_modify(|progress| progress[kind] += 1);
        }
    }

    /// Checks an answer to a request that began when `newest` was the newest generation.
    fn check(&self, newest: usize, told: Option<&str>, body: &str, members: fn(&Generation) -> &BTreeSet<usize>) -> Result<(), String> {
        let mut words = body.split(' ');
        let mut number = |prefix: &str| words.next().and_then(|word| word.strip_prefix(prefix)?.parse::<usize>().ok());
        let (endpoint, upstream, asked) = (number(""), number("generation-"), number(""));
        let told = told.and_then(|told| told.parse().ok());
        let (Some(endpoint), Some(generation)) = (endpoint, told) else { return Err(format!("odd answer: {told:?} {body:?}")) };
        if (upstream, asked) != (told, told) {
            return Err(format!("parts of several generations: upstream {upstream:?}, request {asked:?}, response {told:?}"));
        }
        if generation < newest {
            return Err(format!("generation {generation} after {newest} was seen"));
        }
        let generations = self.generations.lock().expect("nobody panicked");
        if !generations.get(generation).is_some_and(|it| members(it).contains(&endpoint)) {
            return Err(format!("endpoint {endpoint} is none of generation {generation}"));
        }
        drop(generations);
        self.newest.fetch_max(generation, Ordering::SeqCst);
        Ok(())
    }

    fn check_message(&self, newest: usize, message: &Message, members: fn(&Generation) -> &BTreeSet<usize>) -> Result<(), String> {
        if message.status() != 200 {
            return Err(format!("{}{}", message.head, message.body));
        }
        self.check(newest, message.field("x-generation"), &message.body, members)
    }

    /// Whether any generation since `newest` promises it.
    fn is_current(&self, newest: usize, is_promised: impl Fn(&Generation) -> bool) -> bool {
        self.generations.lock().expect("nobody panicked").iter().skip(newest).any(is_promised)
    }
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n";
const POST: &str = "POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello";

fn spawn_clients(clients: &mut JoinSet<()>, world: &World, ledger: &Arc<Ledger>, address: &dyn Fn(&'static str) -> SocketAddr) {
    let (web, secure, db, pipe) = (address("web"), address("secure"), address("db"), address("pipe"));
    for _ in 0..3 {
        clients.spawn_local(kept(ledger.clone(), 0, web, GET, |generation| &generation.main));
        clients.spawn_local(h2(ledger.clone(), web));
    }
    clients.spawn_local(kept(ledger.clone(), 1, web, POST, |generation| &generation.calm));
    clients.spawn_local(fresh(ledger.clone(), web));
    let connector = TlsConnector::from(world.trust.clone());
    clients.spawn_local(tls_kept(ledger.clone(), connector.clone(), secure));
    clients.spawn_local(tls_fresh(ledger.clone(), connector, secure, world.chains.clone()));
    let mut with_h2 = rustls::ClientConfig::clone(&world.trust);
    with_h2.alpn_protocols = vec![b"h2".to_vec()];
    clients.spawn_local(tls_h2(ledger.clone(), TlsConnector::from(Arc::new(with_h2)), secure));
    for _ in 0..2 {
        clients.spawn_local(websocket(ledger.clone(), web));
        clients.spawn_local(tcp_kept(ledger.clone(), db));
    }
    clients.spawn_local(tcp_fresh(ledger.clone(), pipe));
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// One connection for all requests: it is never closed.
async fn kept(ledger: Arc<Ledger>, kind: usize, address: SocketAddr, request: &str, members: fn(&Generation) -> &BTreeSet<usize>) {
    let mut connection = Connection::open(address).await.expect("it accepts");
    let step = async || {
        let newest = ledger.newest();
        let answer = connection.exchange(request).await.map_err(text)?;
        ledger.check_message(newest, &answer, members)
    };
    ledger.clone().client(kind, step).await;
}

async fn fresh(ledger: Arc<Ledger>, address: SocketAddr) {
    let step = async || {
        let newest = ledger.newest();
        let mut connection = Connection::open(address).await.map_err(text)?;
        let answer = connection.exchange(GET).await.map_err(text)?;
        ledger.check_message(newest, &answer, |generation| &generation.main)
    };
    ledger.clone().client(2, step).await;
}

/// Four streams at once on one connection.
async fn h2(ledger: Arc<Ledger>, address: SocketAddr) {
    let stream = TcpStream::connect(address).await.expect("it accepts");
    streams(ledger, 3, stream).await;
}

async fn tls_h2(ledger: Arc<Ledger>, connector: TlsConnector, address: SocketAddr) {
    let stream = TcpStream::connect(address).await.expect("it accepts");
    streams(ledger, 9, connector.connect(server_name(), stream).await.expect("a handshake")).await;
}

async fn streams(ledger: Arc<Ledger>, kind: usize, stream: impl hyper_stream::Stream) {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let one = async || {
        let newest = ledger.newest();
        let request = Request::get("http://a.test/x").body(Empty::<Bytes>::new()).map_err(text)?;
        let answer = sender.clone().send_request(request).await.map_err(text)?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(text)?.to_bytes();
        let body = String::from_utf8_lossy(&body);
        if head.status != 200 {
            return Err(format!("{}: {body}", head.status));
        }
        let told = head.headers.get("x-generation").and_then(|value| value.to_str().ok());
        ledger.check(newest, told, &body, |generation| &generation.main)
    };
    ledger.clone().client(kind, async || futures_util::try_join!(one(), one(), one(), one()).map(drop)).await;
    driver.abort();
}

/// What HTTP/2 is spoken over.
mod hyper_stream {
    use tokio::io::{AsyncRead, AsyncWrite};

    pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
    impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("a.test").expect("a name")
}

async fn tls_kept(ledger: Arc<Ledger>, connector: TlsConnector, address: SocketAddr) {
    let stream = TcpStream::connect(address).await.expect("it accepts");
    let mut connection = Connection::over(connector.connect(server_name(), stream).await.expect("a handshake"));
    let step = async || {
        let newest = ledger.newest();
        let answer = connection.exchange(GET).await.map_err(text)?;
        ledger.check_message(newest, &answer, |generation| &generation.main)
    };
    ledger.clone().client(4, step).await;
}

/// Every handshake shows the certificate of a generation that was in force meanwhile.
async fn tls_fresh(ledger: Arc<Ledger>, connector: TlsConnector, address: SocketAddr, chains: Vec<CertificateDer<'static>>) {
    let step = async || {
        let newest = ledger.newest();
        let stream = TcpStream::connect(address).await.map_err(text)?;
        let stream = connector.connect(server_name(), stream).await.map_err(text)?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
        let shown = chains.iter().position(|known| Some(known) == shown.as_ref());
        if !ledger.is_current(newest, |generation| Some(generation.certificate) == shown) {
            return Err(format!("certificate {shown:?} is of no generation since {newest}"));
        }
        let answer = Connection::over(stream).exchange(GET).await.map_err(text)?;
        ledger.check_message(newest, &answer, |generation| &generation.main)
    };
    ledger.clone().client(5, step).await;
}

/// One session, from the first table to the last.
async fn websocket(ledger: Arc<Ledger>, address: SocketAddr) {
    use futures_util::{SinkExt, StreamExt};
    let stream = TcpStream::connect(address).await.expect("it accepts");
    let (mut session, _) = tokio_tungstenite::client_async("ws://ws.test/", stream).await.expect("an upgrade");
    session.next().await.expect("a first message").expect("its id");
    let mut round = 0_u64;
    let step = async || {
        round += 1;
        let sent = tungstenite::Message::text(round.to_string());
        session.send(sent.clone()).await.map_err(text)?;
        match session.next().await {
            Some(Ok(echo)) if echo == sent => Ok(()),
            other => Err(format!("not what was sent: {other:?}")),
        }
    };
    ledger.clone().client(6, step).await;
}

/// One session, from the first table to the last.
async fn tcp_kept(ledger: Arc<Ledger>, address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.expect("it accepts");
    stream.read_u8().await.expect("its id");
    ledger.clone().client(7, async || echo(&mut stream).await.map_err(text)).await;
}

/// A session a time, each to an endpoint of a generation that was in force meanwhile.
async fn tcp_fresh(ledger: Arc<Ledger>, address: SocketAddr) {
    let step = async || {
        let newest = ledger.newest();
        let mut stream = TcpStream::connect(address).await.map_err(text)?;
        let id = usize::from(stream.read_u8().await.map_err(text)?);
        if !ledger.is_current(newest, |generation| generation.pipes.contains(&id)) {
            return Err(format!("endpoint {id} is of no generation since {newest}"));
        }
        echo(&mut stream).await.map_err(text)
    };
    ledger.clone().client(8, step).await;
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut back = [0; 4];
    stream.write_all(b"echo").await?;
    stream.read_exact(&mut back).await?;
    if &back == b"echo" { Ok(()) } else { Err(io::Error::other("not what was sent")) }
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Some of the endpoints, with weights from 0 to 3; at least one has more than 0.
    fn members(&mut self, is_allowed: impl Fn(usize) -> bool) -> BTreeMap<usize, u16> {
        loop {
            let members: BTreeMap<usize, u16> =
                (0..ENDPOINTS).filter(|id| is_allowed(*id) && self.below(3) > 0).map(|id| (id, 0)).collect();
            let members: BTreeMap<usize, u16> = members.into_keys().map(|id| (id, self.below(4) as u16)).collect();
            if members.values().any(|weight| *weight > 0) {
                return members;
            }
        }
    }
}
