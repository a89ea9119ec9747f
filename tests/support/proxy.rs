//! A server in this process, with endpoints that do what a test says and clients that send exact bytes.
//!
//! Endpoints read requests with a parser of their own, which accepts only what RFC 9112 tells a sender to write. What it cannot read
//! is kept as a violation and fails the test: what the proxy forwards has one reading.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nuncio::discovery::{ProgramHandle, ProgramProvider};
use nuncio::server::ServerBuilder;
use nuncio::{Name, RoutingConfig, Server};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Longer than anything that works can take, on a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What `future` gives, which must not take long.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Waits until `is_so`.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let look = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(what, look).await;
}

// ---- the proxy

/// A server in this process, fed by the test.
pub struct Proxy {
    pub server: Server,
    handle: ProgramHandle,
    config: RoutingConfig,
}

impl Proxy {
    /// A server with this configuration, as TOML.
    pub async fn start(config: &str) -> Self {
        Self::start_with(config, |builder| builder).await
    }

    /// The same, with the settings of the process that `set_up` makes.
    pub async fn start_with(config: &str, set_up: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let config = parse(config);
        let (provider, handle) = ProgramProvider::new(Name::literal("program"));
        handle.publish(config.clone());
        let server = set_up(Server::builder().workers(1).drain_timeout(DEADLINE)).provider(provider).start().unwrap();
        within("the first table", server.ready()).await;
        let problems = server.status().problems();
        assert!(problems.is_empty(), "{}", problems.iter().map(|problem| problem.render(false)).collect::<String>());
        Self { server, handle, config }
    }

    /// How many connections `listener` has refused for this cause, by the metric.
    pub fn refused(&self, listener: &str, cause: &str) -> u64 {
        let series = format!("nuncio_connections_refused_total{{listener=\"{listener}\",cause=\"{cause}\"}} ");
        self.server.metrics().lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
    }

    /// A server that sends every request of its listener `web` to these endpoints.
    pub async fn to(endpoints: &[SocketAddr]) -> Self {
        Self::start(&to(endpoints, "")).await
    }

    /// Publishes the configuration as `change` leaves it, and waits until it is in force.
    pub async fn update(&mut self, change: impl FnOnce(&mut RoutingConfig)) {
        change(&mut self.config);
        self.publish().await;
    }

    /// Publishes this configuration, as TOML, in place of the one before.
    pub async fn replace(&mut self, config: &str) {
        self.config = parse(config);
        self.publish().await;
    }

    async fn publish(&self) {
        let generation = self.server.table().generation;
        self.handle.publish(self.config.clone());
        within("the next table", self.server.published(generation + 1)).await;
    }

    /// Where listener `web` accepts.
    pub fn address(&self) -> SocketAddr {
        self.address_of("web")
    }

    /// Where a listener accepts.
    pub fn address_of(&self, listener: &str) -> SocketAddr {
        self.server.local_addr(&Name::new(listener).unwrap()).expect("the listener is open")
    }

    /// A connection to listener `web`.
    pub async fn connect(&self) -> Wire {
        Wire::connect(self.address()).await
    }

    /// What the endpoint at the end of one `GET` answers.
    pub async fn get(&self, path: &str) -> Message {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await
    }

    /// The answer to one request on a connection of its own.
    pub async fn ask(&self, request: &str) -> Message {
        let mut client = self.connect().await;
        client.send(request).await;
        client.response().await
    }
}

fn parse(config: &str) -> RoutingConfig {
    toml::from_str(config).unwrap_or_else(|error| panic!("{error}\n{config}"))
}

/// A configuration in which every request of the listener `web` goes to these endpoints. `more` is put into `[upstreams.web]`, and may
/// go on with tables of its own.
pub fn to(endpoints: &[SocketAddr], more: &str) -> String {
    let mut list = String::new();
    for endpoint in endpoints {
        write!(list, "\"{endpoint}\", ").unwrap();
    }
    format!(
        "[listeners.web]\naddress = \"127.0.0.1:0\"\n\
         [routes.web]\nmatch = 'PathPrefix(\"/\")'\nupstream = \"web\"\n\
         [upstreams.web]\nendpoints = [{list}]\n{more}\n"
    )
}

/// An address on which nobody listens.
pub async fn dead_address() -> SocketAddr {
    /// The system may give a port again that it has just got back.
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address) {
            return address;
        }
    }
}

// ---- bytes

/// A stream of bytes.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One side of a connection, which sends and reads exact bytes.
pub struct Wire {
    stream: Box<dyn Stream>,
    buf: BytesMut,
}

/// A request or response as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// Names as they were written.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Whether the body ended with the connection.
    pub is_closed: bool,
    /// The number of the connection it was read from.
    pub connection: usize,
}

impl Message {
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// The only field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} more than once: {self:?}");
        all.first().copied()
    }

    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no response: {self:?}"))
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Why a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// The connection ended before its first byte.
    Ended,
    /// It ended within it.
    Cut(String),
    /// It is not what a sender may write.
    Violation(String),
}

impl Wire {
    pub fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buf: BytesMut::new() }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("connect", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }

    /// A connection from this address of ours.
    pub async fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        let stream = within("connect", socket.connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("send", self.stream.write_all(bytes.as_ref())).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The same, to a peer that may have closed.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("send", self.stream.write_all(bytes.as_ref())).await?;
        self.stream.flush().await
    }

    /// The same, for as long as the peer wants it to take.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Reads the body of a request whose head was read, without keeping it. Gives its length.
    pub async fn drain_body(&mut self, head: &Message) -> usize {
        let mut received = 0;
        if let Some(length) = head.field("content-length") {
            let length: usize = length.parse().unwrap();
            while received < length && (!self.buf.is_empty() || self.fill().await > 0) {
                received += self.buf.split_to(self.buf.len().min(length - received)).len();
            }
        } else if head.field("transfer-encoding") == Some("chunked") {
            while let Ok(chunk) = self.read_chunk().await {
                if chunk.is_empty() {
                    let _ = self.trailers().await;
                    break;
                }
                received += chunk.len();
            }
        }
        received
    }

    /// Ends our side; the other one may go on.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The stream, when all that was read has been used.
    pub fn into_stream(self) -> Box<dyn Stream> {
        assert!(self.buf.is_empty(), "bytes were read ahead: {:?}", self.buf);
        self.stream
    }

    /// Reads whatever comes next. 0: the end, or a reset.
    async fn fill(&mut self) -> usize {
        self.stream.read_buf(&mut self.buf).await.unwrap_or(0)
    }

    /// Exactly `count` bytes.
    pub async fn read(&mut self, count: usize) -> Bytes {
        let read = async {
            while self.buf.len() < count {
                assert!(self.fill().await > 0, "ended after {:?}, {count} bytes were expected", self.buf);
            }
        };
        within("read", read).await;
        self.buf.split_to(count).freeze()
    }

    /// The same, of a connection that may end before.
    pub async fn try_read(&mut self, count: usize) -> Option<Bytes> {
        self.fill_to(count).await.ok()?;
        Some(self.buf.split_to(count).freeze())
    }

    /// The next byte. None: the end.
    pub async fn next_byte(&mut self) -> Option<u8> {
        while self.buf.is_empty() {
            if self.fill().await == 0 {
                return None;
            }
        }
        Some(self.buf.get_u8())
    }

    /// All up to the end.
    pub async fn rest(&mut self) -> Vec<u8> {
        within("the end of the connection", async { while self.fill().await > 0 {} }).await;
        self.buf.split().to_vec()
    }

    /// The connection ends, and nothing comes before.
    pub async fn ended(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "before the end came {:?}", String::from_utf8_lossy(&rest));
    }

    /// Whether anything, or the end, can be read without waiting much.
    pub async fn is_silent_for(&mut self, time: Duration) -> bool {
        self.buf.is_empty() && tokio::time::timeout(time, self.fill()).await.is_err()
    }

    pub async fn response(&mut self) -> Message {
        match self.try_response().await {
            Ok(response) => response,
            Err(unread) => panic!("no response: {unread:?}"),
        }
    }

    pub async fn try_response(&mut self) -> Result<Message, Unread> {
        within("a response", self.read_message(false, false)).await
    }

    /// The head of a response without its body, such as the answer to `HEAD`.
    pub async fn response_head(&mut self) -> Message {
        within("the head of a response", self.read_head()).await.unwrap()
    }

    /// The next chunk of a chunked body. Empty: the last one.
    pub async fn chunk(&mut self) -> Vec<u8> {
        within("a chunk", self.read_chunk()).await.unwrap()
    }

    async fn read_message(&mut self, is_request: bool, is_head: bool) -> Result<Message, Unread> {
        let mut message = self.read_head().await?;
        if is_head || (!is_request && matches!(message.status(), 101 | 204 | 304)) {
            return Ok(message);
        }
        let (lengths, encodings) = (message.all("content-length"), message.all("transfer-encoding"));
        match (lengths.as_slice(), encodings.as_slice()) {
            ([], []) if is_request => {}
            ([], []) => {
                while self.fill().await > 0 {}
                (message.body, message.is_closed) = (self.buf.split().to_vec(), true);
            }
            ([length], []) => message.body = self.read_sized(length).await?,
            ([], ["chunked"]) => self.read_chunks(&mut message).await?,
            both => return Err(Unread::Violation(format!("framing {both:?}"))),
        }
        Ok(message)
    }

    async fn read_head(&mut self) -> Result<Message, Unread> {
        let end = loop {
            if let Some(end) = self.buf.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if self.fill().await == 0 {
                let rest = String::from_utf8_lossy(&self.buf).into_owned();
                return Err(if rest.is_empty() { Unread::Ended } else { Unread::Cut(rest) });
            }
        };
        let head = self.buf.split_to(end);
        parse_head(&head).map_err(|what| Unread::Violation(format!("{what}: {:?}", String::from_utf8_lossy(&head))))
    }

    async fn read_sized(&mut self, length: &str) -> Result<Vec<u8>, Unread> {
        let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: usize = length.parse().ok().filter(|_| is_number).ok_or_else(|| Unread::Violation(format!("length {length:?}")))?;
        self.fill_to(length).await?;
        Ok(self.buf.split_to(length).to_vec())
    }

    async fn fill_to(&mut self, length: usize) -> Result<(), Unread> {
        while self.buf.len() < length {
            if self.fill().await == 0 {
                return Err(Unread::Cut(format!("{} of {length} bytes", self.buf.len())));
            }
        }
        Ok(())
    }

    async fn read_line(&mut self) -> Result<String, Unread> {
        loop {
            if let Some(end) = self.buf.windows(2).position(|window| window == b"\r\n") {
                let line = self.buf.split_to(end + 2);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.fill().await == 0 {
                return Err(Unread::Cut("within a line".into()));
            }
        }
    }

    async fn read_chunk(&mut self) -> Result<Vec<u8>, Unread> {
        let size = self.read_line().await?;
        let is_number = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let violation = || Unread::Violation(format!("chunk size {size:?}"));
        let size = usize::from_str_radix(&size, 16).ok().filter(|_| is_number).ok_or_else(violation)?;
        if size == 0 {
            return Ok(Vec::new());
        }
        self.fill_to(size + 2).await?;
        let chunk = self.buf.split_to(size).to_vec();
        match &self.buf.split_to(2)[..] {
            b"\r\n" => Ok(chunk),
            end => Err(Unread::Violation(format!("chunk ends with {end:?}"))),
        }
    }

    async fn read_chunks(&mut self, message: &mut Message) -> Result<(), Unread> {
        loop {
            let chunk = self.read_chunk().await?;
            if chunk.is_empty() {
                break;
            }
            message.body.extend(chunk);
        }
        message.trailers = self.trailers().await?;
        Ok(())
    }

    /// What follows the last chunk.
    pub async fn trailers(&mut self) -> Result<Vec<(String, String)>, Unread> {
        let mut trailers = Vec::new();
        loop {
            let line = self.read_line().await?;
            if line.is_empty() {
                return Ok(trailers);
            }
            trailers.push(parse_field(&line).map_err(Unread::Violation)?);
        }
    }
}

fn parse_head(head: &[u8]) -> Result<Message, String> {
    let text = String::from_utf8(head.to_vec()).map_err(|_| "not UTF-8")?;
    let mut lines = text.strip_suffix("\r\n\r\n").ok_or("no end")?.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    if text.replace("\r\n", "").contains(|c: char| c.is_control() && c != '\t') {
        return Err("a control character".into());
    }
    let fields = lines.map(parse_field).collect::<Result<_, _>>()?;
    Ok(Message { start, fields, ..Message::default() })
}

fn parse_field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
    if name.is_empty() || !name.chars().all(is_tchar) {
        return Err(format!("the name {name:?}"));
    }
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

/// RFC 9110 section 5.6.2.
fn is_tchar(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// What only requests must keep.
fn check_request(request: &Message) -> Result<(), String> {
    let parts: Vec<&str> = request.start.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts.as_slice() else { return Err(format!("request line {:?}", request.start)) };
    if method.is_empty() || !method.chars().all(is_tchar) {
        return Err(format!("method {method:?}"));
    }
    if !(target.starts_with('/') || *target == "*") || !target.chars().all(|c| c.is_ascii_graphic()) {
        return Err(format!("target {target:?}"));
    }
    match request.all("host").as_slice() {
        [host] if !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c)) => Ok(()),
        hosts => Err(format!("hosts {hosts:?}")),
    }
}

// ---- endpoints

/// What an endpoint has seen.
#[derive(Debug, Default)]
pub struct Seen {
    requests: Mutex<Vec<Message>>,
    violations: Mutex<Vec<String>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// A server that does what the test says. Dropping it cuts all its connections.
pub struct Endpoint {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    task: AbortHandle,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoint {
    /// Serves every connection with `serve`.
    pub async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::start_on("127.0.0.1:0".parse().unwrap(), None, serve).await
    }

    /// Serves every connection on `address`, by TLS if there is an acceptor.
    pub async fn start_on<F, Fut>(address: SocketAddr, tls: Option<TlsAcceptor>, serve: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Seen> = Arc::default();
        let serve = {
            let seen = seen.clone();
            async move {
                let mut connections = JoinSet::new();
                loop {
                    let Ok((stream, _)) = listener.accept().await else { return };
                    let number = seen.accepted.fetch_add(1, Ordering::SeqCst);
                    let open = Open::new(&seen);
                    let Some(tls) = tls.clone() else {
                        let conn = Conn { wire: Wire::new(stream), number, open };
                        connections.spawn(serve(conn));
                        continue;
                    };
                    if let Ok(stream) = tls.accept(stream).await {
                        let conn = Conn { wire: Wire::new(stream), number, open };
                        connections.spawn(serve(conn));
                    }
                }
            }
        };
        let task = tokio::spawn(serve).abort_handle();
        Self { address, seen, task }
    }

    /// Answers every request with 200 and this body.
    pub async fn answering(body: &'static str) -> Self {
        Self::replying(move |_| response(200, body)).await
    }

    /// Answers every request with the bytes that `reply` makes of it.
    pub async fn replying(reply: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let reply = Arc::new(reply);
        Self::start(move |mut conn| {
            let reply = reply.clone();
            async move {
                while let Some(request) = conn.request().await {
                    if conn.wire.try_send(reply(&request)).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// The requests that were read whole, in order.
    pub fn requests(&self) -> Vec<Message> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The only request.
    pub fn request(&self) -> Message {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().unwrap()
    }

    pub fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// Nothing came that a sender must not write.
    pub fn assert_clean(&self) {
        let violations = self.seen.violations.lock().unwrap();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

/// A connection that an endpoint accepted.
pub struct Conn {
    pub wire: Wire,
    /// Counted from 0.
    pub number: usize,
    open: Open,
}

struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.open.fetch_add(1, Ordering::SeqCst);
        Self(seen.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Conn {
    /// The next request, whole. None: the connection ended, or what came is no request.
    pub async fn request(&mut self) -> Option<Message> {
        let read = self.wire.read_message(true, false).await;
        let request = self.note(read)?;
        self.open.0.requests.lock().unwrap().push(request.clone());
        Some(request)
    }

    /// The head of the next request; its body is still to be read.
    pub async fn request_head(&mut self) -> Option<Message> {
        let read = self.wire.read_message(true, true).await;
        self.note(read)
    }

    fn note(&self, read: Result<Message, Unread>) -> Option<Message> {
        let violation = match read {
            Ok(request) => match check_request(&request) {
                Ok(()) => return Some(Message { connection: self.number, ..request }),
                Err(violation) => violation,
            },
            Err(Unread::Ended | Unread::Cut(_)) => return None,
            Err(Unread::Violation(violation)) => violation,
        };
        self.open.0.violations.lock().unwrap().push(violation);
        None
    }

    /// Answers with a body of known length.
    pub async fn respond(&mut self, status: u16, body: &str) {
        let _ = self.wire.try_send(response(status, body)).await;
    }
}

/// A response with a body of known length.
pub fn response(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

// ---- HTTP/2

pub type Body = BoxBody<Bytes, hyper::Error>;

pub fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// Serves a connection by HTTP/2.
pub async fn serve_h2<F, Fut>(conn: Conn, answer: F)
where
    F: Fn(http::Request<Incoming>) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = http::Response<Body>> + Send,
{
    serve_h2_with(hyper::server::conn::http2::Builder::new(TokioExecutor::new()), conn, answer).await;
}

/// The same, with the windows and limits of this builder.
pub async fn serve_h2_with<F, Fut>(builder: hyper::server::conn::http2::Builder<TokioExecutor>, conn: Conn, answer: F)
where
    F: Fn(http::Request<Incoming>) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future<Output = http::Response<Body>> + Send,
{
    let Conn { wire, open: _open, .. } = conn;
    let service = hyper::service::service_fn(move |request| {
        let answer = answer.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(request).await) }
    });
    let _ = builder.serve_connection(TokioIo::new(wire.into_stream()), service).await;
}

/// A client that speaks HTTP/2 on this connection.
pub async fn h2_client(wire: Wire) -> hyper::client::conn::http2::SendRequest<Body> {
    h2_client_with(&hyper::client::conn::http2::Builder::new(TokioExecutor::new()), wire).await
}

/// The same, with the windows and limits of this builder.
pub async fn h2_client_with(
    builder: &hyper::client::conn::http2::Builder<TokioExecutor>,
    wire: Wire,
) -> hyper::client::conn::http2::SendRequest<Body> {
    let io = TokioIo::new(wire.into_stream());
    let (sender, connection) = within("HTTP/2", builder.handshake(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

// ---- TLS

/// An authority that makes certificates.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub pem: String,
    der: CertificateDer<'static>,
}

/// A certificate with its key.
pub struct Certificate {
    pub cert: String,
    pub key: String,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        let (pem, der) = (own.pem(), own.der().clone());
        Self { issuer: rcgen::Issuer::new(params, key), pem, der }
    }

    /// A certificate for these names, addresses and URIs.
    pub fn certify(&self, names: &[&str]) -> Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let (uris, names): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
        let names: Vec<String> = names.into_iter().map(ToString::to_string).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.subject_alt_names.extend(uris.into_iter().map(|uri| rcgen::SanType::URI(uri.try_into().unwrap())));
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Certificate { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone(), key_der: key.serialize_der() }
    }

    /// A TLS client that trusts this authority.
    pub fn client(&self, alpn: &[&str]) -> rustls::ClientConfig {
        self.client_of_versions(alpn, rustls::ALL_VERSIONS)
    }

    /// The same, which shows this certificate to who asks.
    pub fn client_as(&self, shown: &Certificate, alpn: &[&str]) -> rustls::ClientConfig {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(shown.key_der.clone()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(crypto()).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_client_auth_cert(vec![shown.der.clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    pub fn client_of_versions(&self, alpn: &[&str], versions: &[&'static rustls::SupportedProtocolVersion]) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(crypto()).with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }
}

impl Certificate {
    /// A TLS server with this certificate.
    pub fn acceptor(&self, alpn: &[&str]) -> TlsAcceptor {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der.clone()));
        let builder = rustls::ServerConfig::builder_with_provider(crypto()).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(vec![self.der.clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Whether a peer showed this one.
    pub fn is(&self, shown: &[u8]) -> bool {
        self.der.as_ref() == shown
    }

    /// As an object of the configuration.
    pub fn toml(&self, name: &str) -> String {
        format!("[certificates.{name}]\ncert = '''{}'''\nkey = '''{}'''\n", self.cert, self.key)
    }
}

fn crypto() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A TLS connection, and the certificate and protocol that the server chose.
pub struct TlsWire {
    pub wire: Wire,
    pub shown: Vec<u8>,
    pub alpn: Option<String>,
    pub version: rustls::ProtocolVersion,
}

pub async fn connect_tls(address: SocketAddr, name: &str, config: rustls::ClientConfig) -> std::io::Result<TlsWire> {
    let stream = within("connect", TcpStream::connect(address)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = within("TLS handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await?;
    let tls = stream.get_ref().1;
    let shown = tls.peer_certificates().unwrap()[0].as_ref().to_vec();
    let alpn = tls.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned());
    let version = tls.protocol_version().unwrap();
    Ok(TlsWire { wire: Wire::new(stream), shown, alpn, version })
}

/// How many times each text occurs.
pub fn tally(texts: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for text in texts {
        *tally.entry(text).or_default() += 1;
    }
    tally
}
