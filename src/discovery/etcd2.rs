//! The keys of an etcd v2 API as a source of configuration: etcd 2, and etcd 3 up to 3.5 with `--enable-v2`. Its keys are others than
//! those of the v3 API of the same process. The layout is that of [`kv`](super::kv).
//!
//! ```text
//! connect ──► list the directory at index I ──► publish ──► watch from I + 1 ──► publish ──► watch from the event's index + 1
//!                     ▲                                          │                                      │
//!                     └─ history cleared; every RELIST_INTERVAL ─┴──────────────────────────────────────┘
//! ```
//!
//! * **A list is the truth.** It is a quorum read, and all that is not in it is gone. A failure of any kind ends in a new list, and so does
//!   every [`RELIST_INTERVAL`], so that a member that lost its cluster and keeps quiet does not keep us from the truth for longer.
//! * **A directory that does not exist is empty**, and is watched from the index that the answer carries all the same.
//! * **The end of a directory** is one event, which may name a directory that ours is in: all that was below it is gone.
//! * **History is short**: the last 1,000 events of the whole store. What is older is refused with the code 401, and listed again.
//! * **An index in the future would be waited for without an end**, after a store was restored from a backup. So the index and the
//!   cluster's id are looked at in the head of every answer.
//! * **A silent server is noticed**: every [`HEARTBEAT_INTERVAL`] it is asked for a head over a second connection.
//! * **One member at a time.** Each attempt connects to the next of [`EtcdConfig::endpoints`].

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::etcd2_mirror::{Event, Mirror, NotADirectory, Refusal};
use super::http_client::{Answer, Aside, Connection, Credentials, HEAD_TIMEOUT, HttpError, Turns, number};
use super::keyring::Keyring;
use super::kv::Tree;
use super::{Provider, ProviderError, Publisher};
use crate::config::Snapshot;
use crate::config::providers::EtcdConfig;
use crate::config::snapshot::Removals;
use crate::names::Name;

/// After this long everything is listed again, whether or not there was a sign of change.
pub const RELIST_INTERVAL: Duration = Duration::from_secs(60);
/// How often the server is asked whether it is there while nothing happens.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// For the answer to that.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often in a row a watch may bring nothing at all before the member is left alone for a while.
pub const FRUITLESS_MAX: u32 = 3;

/// What a path cannot hold as it is.
const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`').add(b'{').add(b'}');

/// Watches a directory of an etcd v2 store.
#[derive(Debug)]
pub struct Etcd2Provider {
    name: Name,
    config: EtcdConfig,
    turns: Turns,
    mirror: Mirror,
    has_published: bool,
}

/// A moment in the history of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    cluster: Option<String>,
    index: u64,
}

/// What a watch brings.
enum Heard {
    Event(Event),
    /// The end of a poll without an event.
    Nothing,
    /// What we ask for is no longer in the history.
    Cleared,
    /// It is time for the truth.
    Due,
}

impl Etcd2Provider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: EtcdConfig) -> Self {
        let tree = Tree::with_layout(&config.prefix, name.clone(), config.layout()).with_keys(Keyring::source(config.keyring.as_ref()));
        let mirror = Mirror::new(tree);
        Self { name, turns: Turns::new(config.endpoints.clone()), config, mirror, has_published: false }
    }

    async fn run(&mut self, publisher: &dyn Publisher) -> Result<(), Failure> {
        let server = self.turns.next();
        let directory = self.mirror.directory().to_owned();
        let mut fruitless = 0;
        loop {
            let mut session = Session::open(&server, &self.config, &directory).await?;
            let mut place = self.list(&mut session, publisher).await?;
            let listed_at = tokio::time::Instant::now();
            loop {
                let left = RELIST_INTERVAL.saturating_sub(listed_at.elapsed());
                match session.next(&place, left, publisher).await? {
                    Heard::Event(event) => {
                        fruitless = 0;
                        place.index = event.index();
                        self.take_over(&event, publisher)?;
                    }
                    Heard::Due => {
                        fruitless = 0;
                        break;
                    }
                    _ if fruitless == FRUITLESS_MAX => return Err(Failure::Fruitless),
                    Heard::Cleared => {
                        fruitless += 1;
                        break;
                    }
                    Heard::Nothing => {
                        fruitless += 1;
                        session.reopen(&self.config).await?;
                    }
                }
            }
        }
    }

    async fn list(&mut self, session: &mut Session, publisher: &dyn Publisher) -> Result<Place, Failure> {
        let (place, list) = session.list().await?;
        let is_changed = self.mirror.replace(list.as_ref())?;
        self.publish_if(is_changed, place.index, Removals::Inferred, publisher);
        Ok(place)
    }

    fn take_over(&mut self, event: &Event, publisher: &dyn Publisher) -> Result<(), Failure> {
        let is_changed = self.mirror.apply(event)?;
        let removals = if event.is_expiry() { Removals::Inferred } else { Removals::Explicit };
        self.publish_if(is_changed, event.index(), removals, publisher);
        Ok(())
    }

    fn publish_if(&mut self, is_changed: bool, index: u64, removals: Removals, publisher: &dyn Publisher) {
        if is_changed || !self.has_published {
            let snapshot = self.mirror.tree().snapshot(Some(index), Instant::now());
            publisher.publish(Snapshot { removals, ..snapshot });
            self.has_published = true;
        } else {
            publisher.contact();
        }
    }
}

impl Provider for Etcd2Provider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        Some(format!("etcd2 {} {} {}", self.config.endpoints.join(","), self.config.prefix, self.config.layout()))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(async move {
            let doing = format!("etcd v2: watch {}", self.mirror.directory());
            self.run(publisher).await.map_err(|failure| ProviderError { doing, cause: failure.into() })
        })
    }
}

/// Connections to one member. Its requests know nothing of providers and trees.
struct Session {
    server: String,
    /// The path of the directory.
    path: String,
    /// Lists and watches.
    main: Connection,
    /// Asks whether the server is there while `main` waits.
    pulse: Aside,
}

impl Session {
    async fn open(server: &str, config: &EtcdConfig, directory: &str) -> Result<Self, Failure> {
        let main = connect(server, config).await?;
        let pulse = Aside::new(server, config.tls.as_ref(), credentials(config));
        let path = format!("/v2/keys{}", utf8_percent_encode(directory, PATH));
        Ok(Self { server: server.to_owned(), path, main, pulse })
    }

    async fn reopen(&mut self, config: &EtcdConfig) -> Result<(), Failure> {
        self.main = connect(&self.server, config).await?;
        Ok(())
    }

    /// All that is in the directory, and when. None: it does not exist.
    async fn list(&mut self) -> Result<(Place, Option<Event>), Failure> {
        let path = format!("{}?recursive=true&sorted=true&quorum=true", self.path);
        let answer = self.main.get(&path).await?;
        let list = match refusal(&answer)? {
            None => Some(parse(&answer)?),
            Some(refusal) if refusal.error_code == Refusal::NOT_FOUND => None,
            Some(refusal) => return Err(Failure::Refused(refusal)),
        };
        Ok((Place::of(&answer.headers)?, list))
    }

    /// The next event after `place`, if it comes within `limit`.
    async fn next(&mut self, place: &Place, limit: Duration, publisher: &dyn Publisher) -> Result<Heard, Failure> {
        let wanted = place.index + 1;
        let path = format!("{}?wait=true&recursive=true&waitIndex={wanted}", self.path);
        let response = self.main.send(Method::GET, &path, HEAD_TIMEOUT).await?;
        if response.status() == StatusCode::OK {
            place.check(response.headers())?;
        }
        let read = self.main.read(response, &path, limit);
        let answer = tokio::select! {
            biased;
            answer = read => answer,
            failure = pulse(&mut self.pulse, &self.path, place, publisher) => return Err(failure),
        };
        let answer = match answer {
            Err(error) if error.is_timeout() => return Ok(Heard::Due),
            answer => answer?,
        };
        match refusal(&answer)? {
            Some(refusal) if refusal.error_code == Refusal::HISTORY_CLEARED => Ok(Heard::Cleared),
            Some(refusal) => Err(Failure::Refused(refusal)),
            None if answer.body.trim_ascii().is_empty() => Ok(Heard::Nothing),
            None => match parse(&answer)? {
                event if event.index() >= wanted => Ok(Heard::Event(event)),
                event => Err(Failure::OutOfOrder { wanted, got: event.index() }),
            },
        }
    }
}

async fn connect(server: &str, config: &EtcdConfig) -> Result<Connection, HttpError> {
    Connection::open(server, config.tls.as_ref(), &credentials(config)).await
}

fn credentials(config: &EtcdConfig) -> Credentials {
    match &config.username {
        Some(user) => Credentials::basic(user, config.password.as_deref().unwrap_or_default()),
        None => Credentials::default(),
    }
}

/// Asks again and again whether the server is there and still the same. Ends when it is not.
async fn pulse(server: &mut Aside, path: &str, place: &Place, publisher: &dyn Publisher) -> Failure {
    loop {
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        let beat = async {
            let answer = server.ask(Method::HEAD, path, HEARTBEAT_TIMEOUT).await?;
            if !matches!(answer.status, StatusCode::OK | StatusCode::NOT_FOUND) {
                return Err(Failure::Status(answer.status, answer.quote()));
            }
            place.check(&answer.headers)
        };
        match beat.await {
            Ok(()) => publisher.contact(),
            Err(failure) => return failure,
        }
    }
}

/// What an answer that is no success says. None: it is one.
fn refusal(answer: &Answer) -> Result<Option<Refusal>, Failure> {
    if answer.status.is_success() {
        return Ok(None);
    }
    let read = serde_json::from_slice(&answer.body);
    read.map(Some).map_err(|_| Failure::Status(answer.status, answer.quote()))
}

fn parse(answer: &Answer) -> Result<Event, Failure> {
    serde_json::from_slice(&answer.body).map_err(|error| Failure::Json { error: error.to_string(), quote: answer.quote() })
}

impl Place {
    fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        let index = number(headers, "x-etcd-index").ok_or(Failure::NoIndex)?;
        let cluster = headers.get("x-etcd-cluster-id").and_then(|id| id.to_str().ok()).map(Into::into);
        Ok(Self { cluster, index })
    }

    /// Whether the store that answers is the one that this is a moment of, and has got that far.
    fn check(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let now = Self::of(headers)?;
        if now.cluster != self.cluster {
            return Err(Failure::OtherCluster);
        }
        if now.index < self.index {
            return Err(Failure::Behind { at: now.index, seen: self.index });
        }
        Ok(())
    }
}

/// What goes wrong between us and a member.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    NotADirectory(#[from] NotADirectory),
    #[error("{0}")]
    Refused(Refusal),
    #[error("status {0}: {1}")]
    Status(StatusCode, String),
    #[error("the answer is no answer of etcd: {error}: {quote}")]
    Json { error: String, quote: String },
    #[error("the answer has no X-Etcd-Index")]
    NoIndex,
    #[error("the store is another one than before")]
    OtherCluster,
    #[error("the member is at index {at}, and has been at {seen}: the store was restored, or the member lags behind")]
    Behind { at: u64, seen: u64 },
    #[error("an event of index {got} where {wanted} or later was asked for")]
    OutOfOrder { wanted: u64, got: u64 },
    #[error("watches end without an event, again and again")]
    Fruitless,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn headers(cluster: &str, index: &str) -> HeaderMap {
        let fields = [("x-etcd-cluster-id", cluster), ("x-etcd-index", index)];
        fields.into_iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_store_that_is_younger_or_another_one_is_not_waited_for() {
        let place = Place::of(&headers("a", "7")).unwrap();
        assert!(place.check(&headers("a", "7")).is_ok() && place.check(&headers("a", "8")).is_ok());
        assert!(matches!(place.check(&headers("a", "6")), Err(Failure::Behind { at: 6, seen: 7 })));
        assert!(matches!(place.check(&headers("b", "9")), Err(Failure::OtherCluster)));
        assert!(matches!(Place::of(&headers("a", "x")), Err(Failure::NoIndex)));
    }

    #[test]
    fn a_status_without_etcds_own_code_says_what_was_answered() {
        let answer = |body: &'static str| Answer {
            status: StatusCode::BAD_GATEWAY,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        let plain = refusal(&answer("no backend\n")).unwrap_err();
        assert_eq!(plain.to_string(), "status 502 Bad Gateway: no backend");
        let election = refusal(&answer(r#"{"errorCode":301,"message":"During Leader Election","cause":"","index":0}"#));
        assert_eq!(election.unwrap().unwrap().to_string(), "etcd error 301: During Leader Election");
    }

    #[test]
    fn the_password_is_never_shown() {
        let config = EtcdConfig { username: Some("nuncio".into()), password: Some("hunter2".into()), ..EtcdConfig::default() };
        assert!(!format!("{:?}", Etcd2Provider::new(Name::literal("etcd2"), config)).contains("hunter2"));
    }
}
