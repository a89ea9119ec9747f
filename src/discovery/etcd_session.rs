//! What is asked of an etcd member, over one connection to it: reads, watches, and keys that end with a lease.
//!
//! Knows nothing of providers and trees. `etcd` reads, [`register`](crate::register) writes.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::future::Future;
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, GetResponse, Identity, KvClient, LeaseClient,
    LeaseKeepAliveStream, LeaseKeeper, LeaseTimeToLiveOptions, PutOptions, ResponseHeader, TlsOptions, Txn, TxnOp, WatchClient,
    WatchOptions, WatchStream,
};
pub(super) use etcd_client::{Event, EventType, KeyValue, WatchResponse};

use crate::config::Pem;
use crate::config::providers::{ClientTls, EtcdConfig};

/// For a connection to be made, TLS included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For one small answer: to a login, to the question for the revision, to the creation of a watch. Connecting is part of the first one.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// For one page of a list.
pub(super) const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// After this long without a word the server is asked whether it is there.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// For the answer to that.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest message taken, in bytes. A page of a list that is larger is asked for again in smaller pages.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Keys asked for at once.
pub(super) const PAGE_KEYS: i64 = 5_000;
/// The most keys below the prefix. With more of them nothing is taken over, because part of a configuration is not a configuration.
pub(super) const KEYS_MAX: usize = 1_000_000;

/// A moment in the history of a store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) revision: i64,
    pub(super) heard_at: Instant,
}

/// What a watch brings.
pub(super) enum Heard {
    Response(WatchResponse),
    /// The server is there; nothing changed.
    Heartbeat,
}

/// A connection to one member. Its requests know nothing of providers and trees.
pub(crate) struct Session {
    kv: KvClient,
    watch: WatchClient,
    prefix: String,
}

impl Session {
    pub(crate) async fn connect(endpoint: &str, config: &EtcdConfig, prefix: String) -> Result<Self, Failure> {
        let client = client(endpoint, config).await?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX),
            watch: client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX),
            prefix,
        })
    }

    /// All keys below the prefix as of one revision, and that. A linearizable read: a member that lags behind its cluster does not count.
    pub(super) async fn list(&mut self) -> Result<(Cursor, Vec<KeyValue>), Failure> {
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

    /// The value of a key, and the revision that wrote it. None: there is none.
    pub(super) async fn get(&mut self, key: &str) -> Result<Option<(Vec<u8>, i64)>, Failure> {
        let answer = timed(CALL_TIMEOUT, self.kv.get(key, None)).await?;
        Ok(answer.kvs().first().map(|kv| (kv.value().to_vec(), kv.mod_revision())))
    }

    /// Writes a key, if `revision` is still the last that did; 0: if there is no value. False: somebody else was faster.
    pub(super) async fn replace(&mut self, key: &str, value: Vec<u8>, revision: i64) -> Result<bool, Failure> {
        let unchanged = Compare::mod_revision(key, CompareOp::Equal, revision);
        let write = Txn::new().when([unchanged]).and_then([TxnOp::put(key, value, None)]);
        Ok(timed(CALL_TIMEOUT, self.kv.txn(write)).await?.succeeded())
    }

    pub(super) async fn watch(&mut self, revision: i64) -> Result<WatchStream, Failure> {
        let options = WatchOptions::new().with_prefix().with_start_revision(revision).with_progress_notify();
        timed(CALL_TIMEOUT, self.watch.watch(self.prefix.as_str(), Some(options))).await
    }

    /// The next response, or the proof that the server is there and has none.
    pub(super) async fn next(&mut self, stream: &mut WatchStream) -> Result<Heard, Failure> {
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

/// Keys that end with a lease, over a session of their own.
pub(crate) struct Lease {
    kv: KvClient,
    leases: LeaseClient,
    id: i64,
    keeper: LeaseKeeper,
    signs: LeaseKeepAliveStream,
}

impl Lease {
    /// Connects to a member, and makes a lease that ends `ttl` after its last sign of life.
    pub(crate) async fn grant(endpoint: &str, config: &EtcdConfig, ttl: Duration) -> Result<Self, Failure> {
        let client = client(endpoint, config).await?;
        let (kv, mut leases) = (client.kv_client(), client.lease_client());
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let id = timed(CALL_TIMEOUT, leases.grant(seconds, None)).await?.id();
        let (keeper, signs) = timed(CALL_TIMEOUT, leases.keep_alive(id)).await?;
        Ok(Self { kv, leases, id, keeper, signs })
    }

    /// Its number.
    pub(crate) fn id(&self) -> i64 {
        self.id
    }

    /// Writes a key, which was perhaps another one's, and which ends with this lease from now on.
    pub(crate) fn put(&self, key: &str, value: &str) -> impl Future<Output = Result<(), Failure>> + use<> {
        let options = PutOptions::new().with_lease(self.id);
        let (mut kv, key, value) = (self.kv.clone(), key.to_owned(), value.to_owned());
        async move { timed(CALL_TIMEOUT, kv.put(key, value, Some(options))).await.map(drop) }
    }

    /// The keys that end with this lease.
    pub(crate) async fn keys(&mut self) -> Result<HashSet<Vec<u8>>, Failure> {
        let options = LeaseTimeToLiveOptions::new().with_keys();
        let answer = timed(CALL_TIMEOUT, self.leases.time_to_live(self.id, Some(options))).await?;
        Ok(answer.keys().iter().cloned().collect())
    }

    /// Whether a key is there, whoever wrote it.
    pub(crate) fn is_there(&self, key: &str) -> impl Future<Output = Result<bool, Failure>> + use<> {
        let (mut kv, key) = (self.kv.clone(), key.to_owned());
        async move { Ok(timed(CALL_TIMEOUT, kv.get(key, Some(GetOptions::new().with_count_only()))).await?.count() > 0) }
    }

    /// Deletes a key if it still ends with this lease.
    pub(crate) fn delete(&self, key: &str) -> impl Future<Output = Result<(), Failure>> + use<> {
        let transaction = Txn::new().when([Compare::lease(key, CompareOp::Equal, self.id)]).and_then([TxnOp::delete(key, None)]);
        let mut kv = self.kv.clone();
        async move { timed(CALL_TIMEOUT, kv.txn(transaction)).await.map(drop) }
    }

    /// Gives a sign of life.
    pub(crate) async fn keep_alive(&mut self) -> Result<(), Failure> {
        timed(CALL_TIMEOUT, self.keeper.keep_alive()).await?;
        let sign = timed(CALL_TIMEOUT, self.signs.message()).await?.ok_or(Failure::Ended)?;
        if sign.ttl() > 0 { Ok(()) } else { Err(Failure::LeaseEnded) }
    }

    /// Ends a lease, and the keys that end with it: this one, or one of an earlier life. One that has ended already is fine.
    pub(crate) async fn revoke(&mut self, id: i64) -> Result<(), Failure> {
        match timed(CALL_TIMEOUT, self.leases.revoke(id)).await {
            Err(Failure::Client(Error::GRpcStatus(status))) if status.code() as i32 == NOT_FOUND => Ok(()),
            outcome => outcome.map(drop),
        }
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

async fn client(endpoint: &str, config: &EtcdConfig) -> Result<Client, Failure> {
    let mut options = ConnectOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_require_leader(true).with_auto_token_refresh(true);
    if let Some(username) = &config.username {
        options = options.with_user(username, config.password.as_deref().unwrap_or_default());
    }
    if let Some(tls) = tls_options(endpoint, config.tls.as_ref()).await? {
        options = options.with_tls(tls);
    }
    timed(CALL_TIMEOUT, Client::connect([endpoint], Some(options))).await
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
pub(crate) enum Failure {
    #[error("{}", describe(.0))]
    Client(#[from] Error),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the member canceled it: {0}")]
    Canceled(String),
    #[error("the member ended it")]
    Ended,
    #[error("the lease has ended")]
    LeaseEnded,
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
/// gRPC's codes for what is wrong with a request.
const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
/// gRPC's code for what is not there.
const NOT_FOUND: i32 = 5;

impl Failure {
    pub(super) fn is_out_of_range(&self) -> bool {
        matches!(self, Self::Client(Error::GRpcStatus(status)) if status.code() as i32 == OUT_OF_RANGE)
    }

    /// Whether the member would take another key: this one is not allowed, or none that can be.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Client(Error::GRpcStatus(status)) if matches!(status.code() as i32, INVALID_ARGUMENT | PERMISSION_DENIED))
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
    fn the_range_ends_right_after_the_prefix() {
        let end = range_end("/nuncio/");
        assert!(b"/nuncio/\xff\xff".as_slice() < end.as_slice());
        assert!(end.as_slice() < b"/nuncio2/".as_slice());
    }
}
