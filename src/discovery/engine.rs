//! The HTTP API of a Docker engine, as far as reading needs it. There is no way to ask for anything but GET.
//!
//! Not a client library: what one brings is a model of every object of one version of the API, whereas we read a handful of fields of
//! engines from 1.12 on, in answers of a bounded size. Knows nothing of containers; `docker` and `swarm` are who asks.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::config::Pem;
use crate::config::providers::{ClientTls, EngineAddress};

/// The newest version of the API that we know to be readable; engines that are newer still speak it.
const VERSION_MAX: Version = Version { major: 1, minor: 51 };

/// The version of engines that do not say theirs. The first one with Swarm.
const VERSION_DEFAULT: Version = Version { major: 1, minor: 24 };

/// For a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// For an answer, its body included. Engines that start many containers at once take their time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest answer, in bytes: some 20,000 containers.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The largest event, in bytes. The labels of its object are in it.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// How much of an error that is no JSON is told, in characters.
const TOLD_CHARS_MAX: usize = 200;

/// An engine that has said which version it speaks.
#[derive(Debug)]
pub(super) struct Engine {
    address: EngineAddress,
    tls: Option<ClientTls>,
    version: Version,
}

/// A version of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u16,
    minor: u16,
}

/// An answer whose body is still to be read. The connection ends with it.
struct Answer {
    parts: http::response::Parts,
    body: Incoming,
    connection: JoinSet<()>,
}

/// What the engine says as it happens, one JSON object after the other.
pub(super) struct Events {
    body: Incoming,
    held: BytesMut,
    _connection: JoinSet<()>,
}

/// What happened to an object of the engine.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Event {
    /// What kind of object it is.
    pub(super) r#type: String,
    pub(super) action: String,
    pub(super) actor: Actor,
}

/// The object that something happened to.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Actor {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(rename = "Attributes")]
    pub(super) attributes: Attributes,
}

/// More of what happened.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Attributes {
    /// The number of the signal that a container got.
    pub(super) signal: Option<String>,
}

trait Socket: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Socket for T {}

impl Engine {
    /// Asks the engine for its version.
    pub(super) async fn connect(address: &EngineAddress, tls: Option<&ClientTls>) -> Result<Self, Failure> {
        let mut engine = Self { address: address.clone(), tls: tls.cloned(), version: VERSION_DEFAULT };
        let answer = within(ANSWER_TIMEOUT, engine.ask("/_ping")).await?;
        let theirs = answer.parts.headers.get("api-version").and_then(|version| Version::parse(version.to_str().ok()?));
        engine.version = theirs.unwrap_or(VERSION_DEFAULT).min(VERSION_MAX);
        Ok(engine)
    }

    /// Reads an object. Also when the engine sent it, by its own clock, in seconds since 1970.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<(T, Option<u64>), Failure> {
        let (bytes, sent_at) = within(ANSWER_TIMEOUT, async {
            let answer = self.ask(&self.versioned(path)).await?;
            let sent_at = answer.sent_at();
            Ok((answer.read().await?, sent_at))
        })
        .await?;
        let value = serde_json::from_slice(&bytes).map_err(|error| Failure::Unreadable(error.to_string()))?;
        Ok((value, sent_at))
    }

    /// Reads a list of what these filters let through.
    pub(super) async fn get_filtered<T: DeserializeOwned>(&self, path: &str, filters: &Value) -> Result<(T, Option<u64>), Failure> {
        self.get(&format!("{path}?filters={}", escape(filters))).await
    }

    /// Follows the events of these types since a moment, in seconds since 1970 by the engine's clock.
    pub(super) async fn events(&self, types: &[&str], since: Option<u64>) -> Result<Events, Failure> {
        let filters = escape(&serde_json::json!({ "type": types }));
        let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
        let answer = within(ANSWER_TIMEOUT, self.ask(&self.versioned(&format!("/events?filters={filters}{since}")))).await?;
        Ok(Events { body: answer.body, held: BytesMut::new(), _connection: answer.connection })
    }

    fn versioned(&self, path: &str) -> String {
        let Version { major, minor } = self.version;
        format!("/v{major}.{minor}{path}")
    }

    async fn ask(&self, path: &str) -> Result<Answer, Failure> {
        let socket = within(CONNECT_TIMEOUT, self.open()).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async {
            // What goes wrong is told to whoever waits for the answer.
            let _ = connection.await;
        });
        let host = match &self.address {
            EngineAddress::Unix(_) => "docker",
            EngineAddress::Tcp(host) => host,
        };
        let request = Request::get(path).header(header::HOST, host).body(Empty::<Bytes>::new());
        let response = sender.send_request(request.map_err(|error| Failure::Unreadable(error.to_string()))?).await?;
        let (parts, body) = response.into_parts();
        let answer = Answer { parts, body, connection: driver };
        if answer.parts.status.is_success() { Ok(answer) } else { Err(answer.refusal().await) }
    }

    async fn open(&self) -> Result<Pin<Box<dyn Socket>>, Failure> {
        let host = match &self.address {
            EngineAddress::Unix(path) => return Ok(Box::pin(UnixStream::connect(path).await?)),
            EngineAddress::Tcp(host) => host,
        };
        let stream = TcpStream::connect(host.as_str()).await?;
        let Some(tls) = &self.tls else {
            return Ok(Box::pin(stream));
        };
        let (connector, name) = connector(tls, host).await?;
        Ok(Box::pin(connector.connect(name, stream).await?))
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl Answer {
    fn sent_at(&self) -> Option<u64> {
        let date = self.parts.headers.get(header::DATE)?.to_str().ok()?;
        let sent_at = httpdate::parse_http_date(date).ok()?;
        Some(sent_at.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs())
    }

    async fn read(mut self) -> Result<BytesMut, Failure> {
        let mut bytes = BytesMut::new();
        while let Some(frame) = self.body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if bytes.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(Failure::TooLarge(ANSWER_BYTES_MAX));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }

    /// Why the engine would not.
    async fn refusal(self) -> Failure {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
        }
        let status = self.parts.status;
        let body = self.read().await.unwrap_or_default();
        let message = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => refusal.message,
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        Failure::Refused { status, message: message.trim().chars().take(TOLD_CHARS_MAX).collect() }
    }
}

impl Events {
    /// The next event. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            if let Some(event) = self.take_line()? {
                return serde_json::from_slice(&event).map_err(|error| Failure::Unreadable(format!("an event: {error}")));
            }
            let frame = self.body.frame().await.ok_or(Failure::Ended)??;
            if let Ok(data) = frame.into_data() {
                self.held.extend_from_slice(&data);
            }
        }
    }

    fn take_line(&mut self) -> Result<Option<BytesMut>, Failure> {
        while let Some(end) = memchr::memchr(b'\n', &self.held) {
            let line = self.held.split_to(end + 1);
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
        if self.held.len() > EVENT_BYTES_MAX {
            return Err(Failure::TooLarge(EVENT_BYTES_MAX));
        }
        Ok(None)
    }
}

/// TLS to the engine. Files are read for each connection, so that renewed ones are used.
async fn connector(tls: &ClientTls, host: &str) -> Result<(TlsConnector, ServerName<'static>), Failure> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(ca) => {
            for root in CertificateDer::pem_slice_iter(&read_pem(ca).await?) {
                roots.add(root.map_err(Failure::tls)?).map_err(Failure::tls)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Failure::tls)?
        .with_root_certificates(roots);
    let client = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(&read_pem(cert).await?).collect::<Result<_, _>>().map_err(Failure::tls)?;
            // The error could quote a part of the key.
            let key = PrivateKeyDer::from_pem_slice(&read_pem(key).await?).map_err(|_| Failure::Tls("`key` has no private key".into()))?;
            builder.with_client_auth_cert(chain, key).map_err(Failure::tls)?
        }
        _ => builder.with_no_client_auth(),
    };
    let name = tls.server_name.as_deref().unwrap_or_else(|| host.rsplit_once(':').map_or(host, |(name, _)| name));
    let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).map_err(Failure::tls)?;
    Ok((TlsConnector::from(Arc::new(client)), name))
}

async fn read_pem(pem: &Pem) -> Result<Vec<u8>, Failure> {
    match pem {
        Pem::Text(text) => Ok(text.clone().into_bytes()),
        Pem::Path(path) => tokio::fs::read(path).await.map_err(|error| Failure::read(path, &error)),
    }
}

/// As it goes into a query.
fn escape(filters: &Value) -> String {
    percent_encoding::utf8_percent_encode(&filters.to_string(), percent_encoding::NON_ALPHANUMERIC).to_string()
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(Failure::TimedOut(limit)))
}

/// What goes wrong between us and an engine.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{}", describe(.0))]
    Http(#[from] hyper::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("read {path}: {message}")]
    Read { path: String, message: String },
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the engine refuses it ({status}): {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    #[error("the engine ended the stream of events")]
    Ended,
}

impl Failure {
    fn tls(error: impl std::fmt::Display) -> Self {
        Self::Tls(error.to_string())
    }

    fn read(path: &Path, error: &std::io::Error) -> Self {
        Self::Read { path: path.display().to_string(), message: error.to_string() }
    }
}

/// The error with its cause, which hyper does not tell by itself.
fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_negotiated_both_ways() {
        let check = |theirs: &str, expected: Option<(u16, u16)>| {
            let version = Version::parse(theirs).map(|version| version.min(VERSION_MAX));
            assert_eq!(version.map(|version| (version.major, version.minor)), expected, "{theirs}");
        };
        check("1.24", Some((1, 24)));
        check("1.41", Some((1, 41)));
        check("1.9", Some((1, 9)));
        check("1.99", Some((1, 51)));
        check("2.0", Some((1, 51)));
        check("new", None);
        check("", None);
    }
}
