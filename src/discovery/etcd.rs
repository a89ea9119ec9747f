//! The keys of an etcd v3 cluster (3.4 or later) as a source of configuration. The layout is that of [`kv`](super::kv).
//!
//! ```text
//! connect ──► list the prefix at revision R ──► publish ──► watch from R + 1 ──► publish after each response
//!                            ▲                                       │
//!                            └────── history is compacted ───────────┘
//! ```
//!
//! * **A transaction is one snapshot.** etcd puts all events of a revision into one response, because fragments are not asked for.
//! * **A deletion is real**, of a key, or of the whole prefix. A cluster that cannot be reached deletes nothing. What is missing from a list
//!   after the history was lost is only [inferred](Removals::Inferred) to be gone, and so is a key that was bound to a lease: it may have
//!   ended with those of many others that could not reach the cluster either.
//! * **Each connection starts with a list.** The watch is not resumed where the last one broke off: a cluster that was restored from a
//!   backup keeps its id, and may have overtaken our revision by then, with another history.
//! * **A silent server is noticed.** When nothing was heard for [`HEARTBEAT_INTERVAL`], a small read is sent over the same connection, and
//!   must be answered within [`HEARTBEAT_TIMEOUT`]: a frozen process or a half-open connection counts as failed after 4 s. gRPC's own
//!   keep-alive cannot do that: etcd closes connections that ping more often than every 5 s. Nor can progress requests on the watch:
//!   current etcd leaves them unanswered while nothing was written after the revision that the watch started from.
//! * **One member at a time.** Each attempt connects to the next of [`EtcdConfig::endpoints`], and lists and watches there. Requests carry
//!   `hasleader`, so that a member that lost its cluster refuses them instead of keeping quiet.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, Event, EventType, GetOptions, GetResponse, Identity, KeyValue, KvClient, ResponseHeader,
    TlsOptions, WatchClient, WatchOptions, WatchResponse, WatchStream,
};

use super::keyring::Keyring;
use super::kv::{Pair, Tree};
use super::{Provider, ProviderError, Publisher};
use crate::config::providers::{ClientTls, EtcdConfig};
use crate::config::snapshot::Removals;
use crate::config::{Pem, Snapshot};
use crate::names::Name;

/// For a connection to be made, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For one small answer: to a login, to the question for the revision, to the creation of a watch. Connecting is part of the first one.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// For one page of a list.
pub const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without a word the server is asked whether it is there.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// For the answer to that.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest message taken, in bytes. A page of a list that is larger is asked for again in smaller pages.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Keys asked for at once.
pub const PAGE_KEYS: i64 = 5_000;
/// The most keys below the prefix. With more of them nothing is taken over, because part of a configuration is not a configuration.
pub const KEYS_MAX: usize = 1_000_000;

/// Watches a prefix of an etcd cluster.
#[derive(Debug)]
pub struct EtcdProvider {
    name: Name,
    config: EtcdConfig,
    /// The number of the attempt, which says whose turn it is among the endpoints.
    turn: usize,
    tree: Tree,
    /// The keys that are gone with a lease: whoever wrote them may have been cut off, rather than have left.
    leased: HashSet<Box<[u8]>>,
    /// How far `tree` has got. None while it is not known to be what the store held at any one revision.
    cursor: Option<Cursor>,
}

/// A moment in the history of a store.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    revision: i64,
    heard_at: Instant,
}

/// What a watch brings.
enum Heard {
    Response(WatchResponse),
    /// The server is there; nothing changed.
    Heartbeat,
}

/// How to go on after a response.
enum Next {
    Watch,
    /// The revisions that we miss are compacted away.
    List,
}

impl EtcdProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: EtcdConfig) -> Self {
        let tree = Tree::with_layout(&config.prefix, name.clone(), config.layout()).with_keys(Keyring::source(config.keyring.as_ref()));
        Self { name, config, turn: 0, tree, leased: HashSet::new(), cursor: None }
    }

    async fn run(&mut self, publisher: &dyn Publisher) -> Result<(), ProviderError> {
        let endpoint = self.next_endpoint();
        let prefix = self.tree.prefix().to_owned();
        let doing = |what: &str| {
            let doing = format!("etcd {endpoint}: {what}");
            move |failure: Failure| ProviderError { doing, cause: failure.into() }
        };
        let mut session = Session::connect(&endpoint, &self.config, prefix.clone()).await.map_err(doing("connect"))?;
        loop {
            self.list(&mut session, publisher).await.map_err(doing(&format!("list {prefix}")))?;
            self.follow(&mut session, publisher).await.map_err(doing(&format!("watch {prefix}")))?;
        }
    }

    fn next_endpoint(&mut self) -> String {
        let index = self.turn.checked_rem(self.config.endpoints.len()).unwrap_or_default();
        self.turn = self.turn.wrapping_add(1);
        self.config.endpoints.get(index).cloned().unwrap_or_default()
    }

    async fn list(&mut self, session: &mut Session, publisher: &dyn Publisher) -> Result<(), Failure> {
        let (cursor, pairs) = session.list().await?;
        // Taken away while the tree is in between, so that a panic in there leaves no cursor behind.
        self.cursor = None;
        self.tree.replace(pairs.iter().map(pair));
        self.leased.clear();
        pairs.iter().for_each(|kv| self.note_lease(kv));
        self.cursor = Some(cursor);
        self.publish(cursor, Removals::Inferred, publisher);
        Ok(())
    }

    /// Takes over changes as they come. Returns when everything must be listed again.
    async fn follow(&mut self, session: &mut Session, publisher: &dyn Publisher) -> Result<(), Failure> {
        let Some(cursor) = self.cursor else {
            return Ok(());
        };
        let mut stream = session.watch(cursor.revision + 1).await?;
        loop {
            let next = match session.next(&mut stream).await {
                Ok(heard) => self.apply(&heard, Instant::now(), publisher)?,
                // A response above our limit would be above it again if the watch were resumed.
                Err(failure) if failure.is_out_of_range() => Next::List,
                Err(failure) => return Err(failure),
            };
            if let Next::List = next {
                self.cursor = None;
                return Ok(());
            }
        }
    }

    fn apply(&mut self, heard: &Heard, now: Instant, publisher: &dyn Publisher) -> Result<Next, Failure> {
        let Some(mut cursor) = self.cursor.take() else {
            return Ok(Next::List);
        };
        cursor.heard_at = now;
        let (mut is_changed, mut removals) = (false, Removals::Explicit);
        if let Heard::Response(response) = heard {
            if response.canceled() && response.compact_revision() > 0 {
                return Ok(Next::List);
            }
            if response.canceled() {
                self.cursor = Some(cursor);
                return Err(Failure::Canceled(response.cancel_reason().to_owned()));
            }
            (is_changed, removals) = self.take_over(response.events(), &mut cursor);
        }
        is_changed |= self.tree.open_again();
        self.cursor = Some(cursor);
        if is_changed {
            self.publish(cursor, removals, publisher);
        } else {
            publisher.contact();
        }
        Ok(Next::Watch)
    }

    /// Whether that changes anything, and whether all that is gone was deleted. The cursor moves with the events only: the revision in the
    /// header may be ahead of events that are still to come.
    fn take_over(&mut self, events: &[Event], cursor: &mut Cursor) -> (bool, Removals) {
        let (mut is_changed, mut removals) = (false, Removals::Explicit);
        for event in events {
            let Some(kv) = event.kv() else { continue };
            is_changed |= match event.event_type() {
                EventType::Put => {
                    self.note_lease(kv);
                    self.tree.put(pair(kv))
                }
                EventType::Delete => {
                    // The event is the same, whether the lease ended or someone deleted the key.
                    if self.leased.remove(kv.key()) {
                        removals = Removals::Inferred;
                    }
                    self.tree.delete(kv.key())
                }
            };
            cursor.revision = cursor.revision.max(kv.mod_revision());
        }
        (is_changed, removals)
    }

    fn note_lease(&mut self, kv: &KeyValue) {
        if kv.lease() != 0 {
            self.leased.insert(kv.key().into());
        } else if !self.leased.is_empty() {
            self.leased.remove(kv.key());
        }
    }

    fn publish(&self, cursor: Cursor, removals: Removals, publisher: &dyn Publisher) {
        let snapshot = self.tree.snapshot(Some(cursor.revision.unsigned_abs()), cursor.heard_at);
        publisher.publish(Snapshot { removals, ..snapshot });
    }
}

fn pair(kv: &KeyValue) -> Pair<'_> {
    Pair { key: kv.key(), value: kv.value(), revision: kv.mod_revision().unsigned_abs() }
}

impl Provider for EtcdProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        Some(format!("etcd {} {} {}", self.config.endpoints.join(","), self.tree.prefix(), self.config.layout()))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(self.run(publisher))
    }
}

/// A connection to one member. Its requests know nothing of providers and trees.
struct Session {
    kv: KvClient,
    watch: WatchClient,
    prefix: String,
}

impl Session {
    async fn connect(endpoint: &str, config: &EtcdConfig, prefix: String) -> Result<Self, Failure> {
        let mut options =
            ConnectOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_require_leader(true).with_auto_token_refresh(true);
        if let Some(username) = &config.username {
            options = options.with_user(username, config.password.as_deref().unwrap_or_default());
        }
        if let Some(tls) = tls_options(endpoint, config.tls.as_ref()).await? {
            options = options.with_tls(tls);
        }
        let client = timed(CALL_TIMEOUT, Client::connect([endpoint], Some(options))).await?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX),
            watch: client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX),
            prefix,
        })
    }

    /// All keys below the prefix as of one revision, and that. A linearizable read: a member that lags behind its cluster does not count.
    async fn list(&mut self) -> Result<(Cursor, Vec<KeyValue>), Failure> {
        let mut first = self.page(self.prefix.clone().into_bytes(), 0).await?;
        let cursor = Cursor::of(first.header())?;
        let mut pairs = first.take_kvs();
        let mut has_more = first.more();
        while has_more {
            if pairs.len() > KEYS_MAX {
                return Err(Failure::TooManyKeys);
            }
            let Some(last) = pairs.last() else { break };
            let after_last = [last.key(), b"\0"].concat();
            let mut next = self.page(after_last, cursor.revision).await?;
            has_more = next.more();
            pairs.append(&mut next.take_kvs());
        }
        Ok((cursor, pairs))
    }

    /// Keys from `start` on, as of `revision`, or as of now if that is 0.
    async fn page(&mut self, start: Vec<u8>, revision: i64) -> Result<GetResponse, Failure> {
        let mut limit = PAGE_KEYS;
        loop {
            let options = GetOptions::new().with_range(range_end(&self.prefix)).with_limit(limit).with_revision(revision);
            match timed(PAGE_TIMEOUT, self.kv.get(start.as_slice(), Some(options))).await {
                Err(failure) if failure.is_too_large() && limit > 1 => limit /= 2,
                result => return result,
            }
        }
    }

    async fn watch(&mut self, revision: i64) -> Result<WatchStream, Failure> {
        let options = WatchOptions::new().with_prefix().with_start_revision(revision).with_progress_notify();
        timed(CALL_TIMEOUT, self.watch.watch(self.prefix.as_str(), Some(options))).await
    }

    /// The next response, or the proof that the server is there and has none.
    async fn next(&mut self, stream: &mut WatchStream) -> Result<Heard, Failure> {
        tokio::select! {
            biased;
            response = stream.message() => response?.map(Heard::Response).ok_or(Failure::Ended),
            beat = self.heartbeat() => beat.map(|()| Heard::Heartbeat),
        }
    }

    /// A serializable read: the member answers it alone, without asking its cluster.
    async fn heartbeat(&mut self) -> Result<(), Failure> {
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        let options = GetOptions::new().with_serializable().with_keys_only().with_limit(1);
        timed(HEARTBEAT_TIMEOUT, self.kv.get(self.prefix.as_str(), Some(options))).await?;
        Ok(())
    }
}

impl Cursor {
    fn of(header: Option<&ResponseHeader>) -> Result<Self, Failure> {
        let header = header.ok_or(Failure::NoHeader)?;
        Ok(Self { revision: header.revision(), heard_at: Instant::now() })
    }
}

/// The first key after all those with the prefix, which ends with `/`.
fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

async fn timed<T>(limit: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::TimedOut(limit)),
    }
}

async fn tls_options(endpoint: &str, tls: Option<&ClientTls>) -> Result<Option<TlsOptions>, Failure> {
    let default = ClientTls::default();
    let tls = match tls {
        Some(tls) => tls,
        None if endpoint.starts_with("https://") => &default,
        None => return Ok(None),
    };
    let mut options = match &tls.ca {
        Some(ca) => TlsOptions::new().ca_certificate(Certificate::from_pem(read_pem(ca).await?)),
        None => TlsOptions::new().with_native_roots(),
    };
    options = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => options.identity(Identity::from_pem(read_pem(cert).await?, read_pem(key).await?)),
        (None, None) => options,
        _ => return Err(Failure::HalfIdentity),
    };
    Ok(Some(match &tls.server_name {
        Some(name) => options.domain_name(name),
        None => options,
    }))
}

async fn read_pem(pem: &Pem) -> Result<Vec<u8>, Failure> {
    match pem {
        Pem::Text(text) => Ok(text.clone().into_bytes()),
        Pem::Path(path) => {
            tokio::fs::read(path).await.map_err(|error| Failure::Read { path: path.display().to_string(), message: error.to_string() })
        }
    }
}

/// What goes wrong between us and a member.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}", describe(.0))]
    Client(#[from] Error),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the member canceled it: {0}")]
    Canceled(String),
    #[error("the member ended it")]
    Ended,
    #[error("the answer has no header")]
    NoHeader,
    #[error("more than {KEYS_MAX} keys")]
    TooManyKeys,
    #[error("`cert` and `key` go together")]
    HalfIdentity,
    #[error("read {path}: {message}")]
    Read { path: String, message: String },
}

/// gRPC's code for both a message above our limit and a revision that was compacted.
const OUT_OF_RANGE: i32 = 11;

impl Failure {
    fn is_out_of_range(&self) -> bool {
        matches!(self, Self::Client(Error::GRpcStatus(status)) if status.code() as i32 == OUT_OF_RANGE)
    }

    /// Whether a smaller page may do better.
    fn is_too_large(&self) -> bool {
        self.is_out_of_range() && !self.to_string().contains("compacted")
    }
}

/// The client's error without the names of its types, down to the cause: `tcp connect error: Connection refused (os error 111)`.
fn describe(error: &Error) -> String {
    let (first, mut source) = match error {
        Error::GRpcStatus(status) => (status.message().to_owned(), status.source()),
        other => (other.to_string(), other.source()),
    };
    let mut texts = vec![first];
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    // Layers repeat what is below them, or say nothing.
    let mut told: Vec<&str> = Vec::new();
    for text in texts.iter().map(String::as_str).filter(|text| !text.is_empty() && *text != "transport error") {
        if !told.iter().any(|earlier| earlier.contains(text)) {
            told.push(text);
        }
    }
    if told.is_empty() { texts.join(": ") } else { told.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown() {
        let config = EtcdConfig { username: Some("nuncio".into()), password: Some("hunter2".into()), ..EtcdConfig::default() };
        let provider = EtcdProvider::new(Name::literal("etcd"), config);
        assert!(!format!("{provider:?}").contains("hunter2"));
    }

    #[test]
    fn endpoints_take_turns() {
        let endpoints = vec!["a".into(), "b".into()];
        let mut provider = EtcdProvider::new(Name::literal("etcd"), EtcdConfig { endpoints, ..EtcdConfig::default() });
        let turns: Vec<_> = (0..3).map(|_| provider.next_endpoint()).collect();
        assert_eq!(turns, ["a", "b", "a"]);
        let mut none = EtcdProvider::new(Name::literal("etcd"), EtcdConfig { endpoints: Vec::new(), ..EtcdConfig::default() });
        assert_eq!(none.next_endpoint(), "");
    }

    #[test]
    fn the_range_ends_right_after_the_prefix() {
        let end = range_end("/nuncio/");
        assert!(b"/nuncio/\xff\xff".as_slice() < end.as_slice());
        assert!(end.as_slice() < b"/nuncio2/".as_slice());
    }
}
