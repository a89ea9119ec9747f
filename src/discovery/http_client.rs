//! HTTP/1.1 towards stores and APIs: one connection to one server, over which requests are sent one after another.
//!
//! For the control plane: nothing is pooled, no redirect is followed, and nothing is retried, because the supervisor calls a provider
//! again. A connection has no task of its own: it makes progress while a request is awaited, and is closed when it is dropped.
//!
//! Every wait has a limit, and so has every body. Errors name the method and the URL, which never hold a secret: credentials are header
//! fields.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Pem;
use crate::config::providers::{ClientTls, port_of};

/// For a connection to be made, TLS included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For the head of an answer that the server has no reason to hold back.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For the body of an answer that the server has no reason to hold back.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest body taken, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much of an answer's body is quoted in an error, in bytes.
const QUOTE_BYTES_MAX: usize = 200;

/// Who we say we are, as header fields of every request.
#[derive(Clone, Default)]
pub(crate) struct Credentials(Option<(HeaderName, HeaderValue)>);

impl Credentials {
    /// A user and a password (RFC 7617).
    pub(crate) fn basic(user: &str, password: &str) -> Self {
        let encoded = STANDARD.encode(format!("{user}:{password}"));
        let value = HeaderValue::try_from(format!("Basic {encoded}")).ok();
        Self(value.map(|value| (AUTHORIZATION, secret(value))))
    }

    /// A header field of its own, such as a token. None of it is sent if `value` cannot be one.
    pub(crate) fn field(name: &'static str, value: &str) -> Self {
        let value = HeaderValue::try_from(value).ok();
        Self(value.map(|value| (HeaderName::from_static(name), secret(value))))
    }
}

fn secret(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// Never shows them: debug output ends in logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Credentials(…)" } else { "Credentials(none)" })
    }
}

/// Servers of which any will do, taken in turn.
#[derive(Debug)]
pub(super) struct Turns {
    servers: Vec<String>,
    turn: usize,
}

impl Turns {
    pub(super) fn new(servers: Vec<String>) -> Self {
        Self { servers, turn: 0 }
    }

    /// The server whose turn it is. Empty if there is none.
    pub(super) fn next(&mut self) -> String {
        let index = self.turn.checked_rem(self.servers.len()).unwrap_or_default();
        self.turn = self.turn.wrapping_add(1);
        self.servers.get(index).cloned().unwrap_or_default()
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The start of the body as text, for an error.
    pub(crate) fn quote(&self) -> String {
        let start = self.body.get(..QUOTE_BYTES_MAX).unwrap_or(&self.body);
        String::from_utf8_lossy(start).trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// A header field that holds a number.
pub(super) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// A connection to one server. After an error it is of no use any more.
pub(super) struct Connection {
    server: String,
    headers: HeaderMap,
    sender: SendRequest<Full<Bytes>>,
    /// None: it has ended, and what it brought last may still be read.
    driver: Option<Driver>,
}

type Driver = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects to `server`, a URL with nothing behind host and port. Files of `tls` are read again each time, so that renewed
    /// certificates are used; without `tls` an `https` server is verified against the system's roots.
    pub(super) async fn open(server: &str, tls: Option<&ClientTls>, credentials: &Credentials) -> Result<Self, HttpError> {
        let failed = |cause| HttpError { doing: format!("connect to {server}"), cause };
        let target = Target::parse(server).map_err(failed)?;
        let connected = timed(CONNECT_TIMEOUT, connect(&target, tls)).await.map_err(failed)?;
        let handshake = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake::<_, Full<Bytes>>(TokioIo::new(connected));
        let (sender, driver) = handshake.await.map_err(|error| failed(Cause::Http(error)))?;
        let mut headers = HeaderMap::new();
        headers.insert(HOST, target.host_header().map_err(failed)?);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("nuncio/", env!("CARGO_PKG_VERSION"))));
        if let Some((name, value)) = &credentials.0 {
            headers.insert(name.clone(), value.clone());
        }
        Ok(Self { server: server.trim_end_matches('/').to_owned(), headers, sender, driver: Some(Box::pin(driver)) })
    }

    /// Asks for `path` (with its query) and reads the whole answer, whatever its status.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, HttpError> {
        let response = self.send(Method::GET, path, HEAD_TIMEOUT).await?;
        self.read(response, path, BODY_TIMEOUT).await
    }

    /// The head of the answer, which must come within `limit`.
    pub(super) async fn send(&mut self, method: Method, path: &str, limit: Duration) -> Result<Response<Incoming>, HttpError> {
        self.send_with(method, path, &HeaderMap::new(), limit).await
    }

    /// The same with more header fields.
    pub(super) async fn send_with(
        &mut self,
        method: Method,
        path: &str,
        fields: &HeaderMap,
        limit: Duration,
    ) -> Result<Response<Incoming>, HttpError> {
        self.send_all(method, path, fields, Bytes::new(), limit).await
    }

    async fn send_all(
        &mut self,
        method: Method,
        path: &str,
        fields: &HeaderMap,
        body: Bytes,
        limit: Duration,
    ) -> Result<Response<Incoming>, HttpError> {
        let doing = format!("{method} {}{path}", self.server);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().extend(fields.clone());
        *request.uri_mut() = path.parse().map_err(|error| HttpError { doing: doing.clone(), cause: Cause::Path(error) })?;
        let (sender, driver) = (&mut self.sender, &mut self.driver);
        let sent = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let sent = async { drive(driver, sent).await.map_err(Cause::Http) };
        timed(limit, sent).await.map_err(|cause| HttpError { doing, cause })
    }

    /// The whole of an answer whose head has come: its body must be there within `limit`.
    pub(super) async fn read(&mut self, response: Response<Incoming>, path: &str, limit: Duration) -> Result<Answer, HttpError> {
        let (head, body) = response.into_parts();
        let read = drive(&mut self.driver, collect(body));
        let body = timed(limit, read).await.map_err(|cause| HttpError { doing: format!("read {}{path}", self.server), cause })?;
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// The next piece of a body that has no end. None: it ended. Dropping the future loses nothing.
    pub(super) async fn next_piece(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = drive(&mut self.driver, body.frame()).await.transpose();
            let frame = frame.map_err(|error| HttpError { doing: format!("read from {}", self.server), cause: Cause::Http(error) })?;
            match frame.map(http_body::Frame::into_data) {
                None => return Ok(None),
                Some(Ok(data)) => return Ok(Some(data)),
                Some(Err(_)) => (),
            }
        }
    }
}

/// What is asked, and how.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    /// With the query.
    pub(crate) path: &'a str,
    pub(crate) fields: &'a HeaderMap,
    pub(crate) body: Bytes,
    /// For the head, and for the body.
    pub(crate) limits: [Duration; 2],
}

/// Small questions to a server, beside a connection that waits for its answer.
#[derive(Debug)]
pub(crate) struct Aside {
    server: String,
    tls: Option<ClientTls>,
    credentials: Credentials,
    /// Not there while a question is asked: one that is given up takes its connection along.
    connection: Option<Connection>,
}

impl Aside {
    /// It connects when it is first asked.
    pub(crate) fn new(server: &str, tls: Option<&ClientTls>, credentials: Credentials) -> Self {
        Self { server: server.to_owned(), tls: tls.cloned(), credentials, connection: None }
    }

    /// The whole answer, with `limit` for its head and for its body. On a new connection, if the last one was closed meanwhile.
    pub(super) async fn ask(&mut self, method: Method, path: &str, limit: Duration) -> Result<Answer, HttpError> {
        self.ask_with(&Question { method, path, fields: &HeaderMap::new(), body: Bytes::new(), limits: [limit, limit] }).await
    }

    /// The same for a question with more to it.
    pub(crate) async fn ask_with(&mut self, question: &Question<'_>) -> Result<Answer, HttpError> {
        let answer = match self.connection.take() {
            Some(connection) => self.ask_on(connection, question).await,
            None => return self.ask_anew(question).await,
        };
        match answer {
            Err(error) if !error.is_timeout() => self.ask_anew(question).await,
            answer => answer,
        }
    }

    async fn ask_anew(&mut self, question: &Question<'_>) -> Result<Answer, HttpError> {
        let connection = Connection::open(&self.server, self.tls.as_ref(), &self.credentials).await?;
        self.ask_on(connection, question).await
    }

    async fn ask_on(&mut self, mut connection: Connection, question: &Question<'_>) -> Result<Answer, HttpError> {
        let [head_limit, body_limit] = question.limits;
        let response =
            connection.send_all(question.method.clone(), question.path, question.fields, question.body.clone(), head_limit).await?;
        let answer = connection.read(response, question.path, body_limit).await?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

/// Waits for `work` while the connection makes progress.
async fn drive<T>(driver: &mut Option<Driver>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if let Some(connection) = driver {
        tokio::select! {
            biased;
            value = &mut work => return value,
            // Its error comes out of `work` as well.
            _ = connection => *driver = None,
        }
    }
    work.await
}

async fn collect(mut body: Incoming) -> Result<Bytes, Cause> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Cause::Http)?.into_data() {
            if bytes.len() + data.len() > BODY_BYTES_MAX {
                return Err(Cause::TooLarge);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

async fn timed<T>(limit: Duration, work: impl Future<Output = Result<T, Cause>>) -> Result<T, Cause> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Cause::TimedOut(limit)))
}

/// Where to connect.
struct Target {
    is_tls: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    authority: String,
}

impl Target {
    fn parse(server: &str) -> Result<Self, Cause> {
        let uri: Uri = server.parse().map_err(Cause::Path)?;
        let is_tls = uri.scheme_str() == Some("https");
        let authority = uri.authority().ok_or(Cause::NoHost)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port_of(authority, if is_tls { 443 } else { 80 }).ok_or(Cause::NoPort)?;
        Ok(Self { is_tls, host, port, authority: authority.as_str().to_owned() })
    }

    fn host_header(&self) -> Result<HeaderValue, Cause> {
        HeaderValue::try_from(&self.authority).map_err(|_| Cause::NoHost)
    }
}

/// A connection, with TLS or without.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection to `authority`, host and port, for what is not HTTP. As in [`Connection::open`] with `tls`.
pub(super) async fn dial(authority: &str, tls: Option<&ClientTls>) -> Result<Box<dyn Io>, HttpError> {
    let failed = |cause| HttpError { doing: format!("connect to {authority}"), cause };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let target = Target::parse(&format!("{scheme}://{authority}")).map_err(failed)?;
    timed(CONNECT_TIMEOUT, connect(&target, tls)).await.map_err(failed)
}

async fn connect(target: &Target, tls: Option<&ClientTls>) -> Result<Box<dyn Io>, Cause> {
    let tcp = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(Cause::Connect)?;
    tcp.set_nodelay(true).map_err(Cause::Connect)?;
    if !target.is_tls {
        return Ok(Box::new(tcp));
    }
    let tls = tls.cloned().unwrap_or_default();
    let name = ServerName::try_from(tls.server_name.clone().unwrap_or_else(|| target.host.clone()));
    let name = name.map_err(|_| Cause::Tls("the host is neither a DNS name nor an IP address".into()))?;
    let config = client_config(&tls).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(Cause::Handshake)?;
    Ok(Box::new(stream))
}

async fn client_config(tls: &ClientTls) -> Result<ClientConfig, Cause> {
    let roots = match &tls.ca {
        Some(ca) => roots(certificates(&read_pem(ca).await?, "ca")?)?,
        // It reads files, some hundred KiB.
        None => tokio::task::spawn_blocking(system_roots).await.map_err(|error| Cause::Tls(error.to_string()))?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Cause::Tls(error.to_string()))?
        .with_root_certificates(roots);
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(&read_pem(cert).await?, "cert")?;
            let key = PrivateKeyDer::from_pem_slice(&read_pem(key).await?).map_err(|error| Cause::Tls(format!("`key`: {error}")))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| Cause::Tls(format!("`cert` and `key`: {error}")))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(Cause::Tls("`cert` and `key` go together".into())),
    }
}

fn certificates(pem: &[u8], setting: &str) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|error| Cause::Tls(format!("`{setting}`: {error}")))?;
    if read.is_empty() {
        return Err(Cause::Tls(format!("`{setting}`: there is no certificate in it")));
    }
    Ok(read)
}

fn roots(certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, Cause> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| Cause::Tls(format!("`ca`: {error}")))?;
    }
    Ok(roots)
}

/// What the system trusts. A root that cannot be read is left out; with none, verification fails and says so.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

async fn read_pem(pem: &Pem) -> Result<Vec<u8>, Cause> {
    match pem {
        Pem::Text(text) => Ok(text.clone().into_bytes()),
        Pem::Path(path) => tokio::fs::read(path).await.map_err(|error| Cause::Tls(format!("read {}: {error}", path.display()))),
    }
}

/// A request that failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub(crate) struct HttpError {
    /// What we were doing, with the URL.
    doing: String,
    /// Why it failed.
    cause: Cause,
}

impl HttpError {
    /// Without the query of the URL, where that may hold a secret.
    pub(super) fn without_query(self) -> Self {
        let doing = self.doing.split_once('?').map(|(before, _)| format!("{before}?…"));
        Self { doing: doing.unwrap_or(self.doing), cause: self.cause }
    }

    /// Whether the answer, or the rest of it, just did not come in time.
    pub(super) fn is_timeout(&self) -> bool {
        matches!(self.cause, Cause::TimedOut(_))
    }
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("there is no host in it")]
    NoHost,
    #[error("what follows its host is no port")]
    NoPort,
    #[error("{0}")]
    Path(http::uri::InvalidUri),
    #[error("{0}")]
    Connect(io::Error),
    #[error("TLS: {}", crate::tls_error::told(.0))]
    Handshake(io::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("{}", chain(.0))]
    Http(hyper::Error),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the body has more than {BODY_BYTES_MAX} bytes")]
    TooLarge,
}

/// An error with its causes.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that gives one answer after each request head, and hands back the requests.
    async fn serve(answers: Vec<&'static [u8]>, client: impl AsyncFnOnce(String)) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut requests = String::new();
            for answer in answers {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                requests.push_str(&String::from_utf8(head).unwrap());
                stream.write_all(answer).await.unwrap();
            }
            requests
        };
        tokio::join!(serve, client(server)).0
    }

    #[tokio::test]
    async fn requests_follow_each_other_on_one_connection_with_credentials() {
        let ok = b"HTTP/1.1 200 OK\r\nX-Index: 7\r\nContent-Length: 2\r\n\r\nhi";
        let gone = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nno such\nkey";
        let requests = serve(vec![ok, gone], async |server| {
            let mut connection = Connection::open(&server, None, &Credentials::basic("a", "b")).await.unwrap();
            let answer = connection.get("/x?y=1").await.unwrap();
            assert_eq!((answer.status.as_u16(), number(&answer.headers, "x-index"), number(&answer.headers, "none")), (200, Some(7), None));
            assert_eq!(answer.body, "hi");
            let answer = connection.get("/z").await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.quote().as_str()), (404, "no such key"));
        });
        let requests = requests.await;
        assert!(requests.contains("GET /x?y=1 HTTP/1.1") && requests.contains("GET /z "), "{requests}");
        assert_eq!(requests.matches("authorization: Basic YTpi\r\n").count(), 2, "{requests}");
    }

    #[tokio::test]
    async fn a_body_that_is_cut_is_an_error_that_names_the_url_and_the_cause() {
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhi";
        serve(vec![cut], async |server| {
            let mut connection = Connection::open(&server, None, &Credentials::default()).await.unwrap();
            let error = connection.get("/x").await.unwrap_err();
            assert!(error.to_string().starts_with(&format!("read {server}/x: ")), "{error}");
            assert!(!error.is_timeout());
        })
        .await;
    }

    #[tokio::test]
    async fn waits_have_limits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").await.unwrap();
            stream
        };
        let ask = async {
            let mut connection = Connection::open(&server, None, &Credentials::default()).await.unwrap();
            let head = connection.send(Method::GET, "/x", HEAD_TIMEOUT).await.unwrap();
            connection.read(head, "/x", Duration::from_millis(20)).await.unwrap_err()
        };
        let (_held, error) = tokio::join!(serve, ask);
        assert!(error.is_timeout() && error.to_string().ends_with("/x: no answer within 20ms"), "{error}");
    }

    /// A question that is given up, and a server that closes what it does not need: the next question is answered all the same.
    #[tokio::test]
    async fn questions_aside_survive_their_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let mut aside = Aside::new(&server, None, Credentials::default());
        let gave_up = tokio::time::timeout(Duration::from_millis(20), aside.ask(Method::GET, "/x", HEAD_TIMEOUT)).await;
        assert!(gave_up.is_err());
        let _given_up = listener.accept().await.unwrap();
        let serve = async {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_u8().await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            }
        };
        let ask = async {
            for _ in 0..2 {
                assert_eq!(aside.ask(Method::GET, "/x", HEAD_TIMEOUT).await.unwrap().status, 200);
            }
        };
        tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn nobody_there_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = Connection::open(&server, None, &Credentials::default()).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("connect to {server}: Connection refused")), "{error}");
    }

    #[test]
    fn servers_take_turns_and_secrets_are_not_shown() {
        let mut turns = Turns::new(vec!["a".into(), "b".into()]);
        assert_eq!([turns.next(), turns.next(), turns.next()], ["a", "b", "a"]);
        assert_eq!(Turns::new(Vec::new()).next(), "");
        assert!(!format!("{:?}", Credentials::basic("root", "geheim")).contains(&STANDARD.encode("root:geheim")));
    }
}
