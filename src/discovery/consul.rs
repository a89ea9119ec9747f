//! The key/value store of Consul as a source of configuration. The layout is that of [`kv`](super::kv).
//!
//! ```text
//! connect ──► read all keys at index 0 ──► publish ──► read all keys, once their index is above I ──► publish ─┐
//!                                                           ▲                                                  │
//!                                                           └──────────────────────────────────────────────────┘
//! ```
//!
//! * **Every answer is complete**, so nothing can be missed. A blocking query only says when it is worth reading again.
//! * **An index that goes down** means that the store was rebuilt: the next query starts from 0. So does the first one of each connection,
//!   because a query with an index of a life before blocks although there is something new. A query waits for [`WAIT`] at most.
//! * **Denied is not empty.** Consul answers 404 both where there is no key and where we may read none. Where its ACLs deny by default,
//!   such an answer counts only once a key of the prefix was asked for by name, which is refused (403) to who may not read it. An answer
//!   that says that something was left out of it is refused as a whole.
//! * **A silent agent is noticed**: every [`HEARTBEAT_INTERVAL`] it is asked for its leader over a second connection. A cluster without a
//!   leader counts as failed.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::http_client::{Answer, Aside, BODY_TIMEOUT, Connection, Credentials, HEAD_TIMEOUT, HttpError, Turns, number};
use super::kv::{Pair, Tree};
use super::{Provider, ProviderError, Publisher};
use crate::config::providers::ConsulConfig;
use crate::names::Name;

/// How long a query waits for a change. Consul adds up to a sixteenth.
pub const WAIT: Duration = Duration::from_secs(30);
/// How much longer than that we wait for its answer.
pub const WAIT_SLACK: Duration = Duration::from_secs(5);
/// The least time between two queries, so that a store that changes all the time is not asked all the time.
pub const QUERY_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// How often the agent is asked whether it is there while nothing happens.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// For the answer to that.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that has not heard from its leader for longer is not believed.
pub const STALE_MAX: Duration = Duration::from_secs(10);

/// What a path or a parameter holds as it is, beside letters and digits.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Watches the keys below a prefix of a Consul store.
#[derive(Debug)]
pub struct ConsulProvider {
    name: Name,
    config: ConsulConfig,
    turns: Turns,
    tree: Tree,
    has_published: bool,
}

impl ConsulProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: ConsulConfig) -> Self {
        let tree = Tree::new(&config.prefix, name.clone());
        Self { name, turns: Turns::new(config.endpoints.clone()), config, tree, has_published: false }
    }

    async fn run(&mut self, publisher: &dyn Publisher) -> Result<(), Failure> {
        let server = self.turns.next();
        let mut session = Session::open(&server, &self.config, self.tree.prefix()).await?;
        let mut index = 0;
        loop {
            let earliest_next = tokio::time::Instant::now() + QUERY_INTERVAL_MIN;
            let (now, keys) = session.read(index, publisher).await?;
            self.take_over(&keys, now, publisher)?;
            index = next_index(index, now);
            tokio::time::sleep_until(earliest_next).await;
        }
    }

    fn take_over(&mut self, keys: &[Key], index: u64, publisher: &dyn Publisher) -> Result<(), Failure> {
        let values: Vec<Vec<u8>> = keys.iter().map(Key::decode).collect::<Result<_, _>>()?;
        let pairs = keys.iter().zip(&values);
        let is_changed = self.tree.replace(pairs.map(|(key, value)| Pair { key: key.key.as_bytes(), value, revision: key.modify_index }));
        if is_changed || !self.has_published {
            publisher.publish(self.tree.snapshot(Some(index), Instant::now()));
            self.has_published = true;
        } else {
            publisher.contact();
        }
        Ok(())
    }
}

/// The index to ask with, after `asked` was answered with `answered`.
fn next_index(asked: u64, answered: u64) -> u64 {
    if answered < asked { 0 } else { answered.max(1) }
}

impl Provider for ConsulProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        let datacenter = self.config.datacenter.as_deref().unwrap_or_default();
        Some(format!("consul {} {} {datacenter}", self.config.endpoints.join(","), self.config.prefix))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(async move {
            let doing = format!("consul: watch {}", self.tree.prefix());
            self.run(publisher).await.map_err(|failure| ProviderError { doing, cause: failure.into() })
        })
    }
}

/// A key of the store.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Key {
    key: String,
    /// In base64. None: empty.
    value: Option<String>,
    #[serde(default)]
    modify_index: u64,
}

impl Key {
    fn decode(&self) -> Result<Vec<u8>, Failure> {
        let value = self.value.as_deref().unwrap_or_default();
        STANDARD.decode(value).map_err(|error| Failure::Json(format!("value of {}: {error}", self.key)))
    }
}

/// Connections to one agent. Its requests know nothing of providers and trees.
struct Session {
    /// The path of the prefix.
    path: String,
    /// What every query has: `&dc=…&stale`.
    options: String,
    /// Waits for changes.
    main: Connection,
    /// Asks whether the agent is there while `main` waits.
    pulse: Aside,
}

impl Session {
    async fn open(server: &str, config: &ConsulConfig, prefix: &str) -> Result<Self, Failure> {
        let credentials = config.token.as_deref().map_or_else(Credentials::default, |token| Credentials::field("x-consul-token", token));
        let main = Connection::open(server, config.tls.as_ref(), &credentials).await?;
        let pulse = Aside::new(server, config.tls.as_ref(), credentials);
        let datacenter = config.datacenter.as_ref().map(|name| format!("&dc={}", utf8_percent_encode(name, PATH)));
        let options = format!("{}{}", datacenter.unwrap_or_default(), if config.stale { "&stale" } else { "" });
        Ok(Self { path: format!("/v1/kv/{}", utf8_percent_encode(prefix, PATH)), options, main, pulse })
    }

    /// All keys and their index: as soon as that is above `index`, or after [`WAIT`].
    async fn read(&mut self, index: u64, publisher: &dyn Publisher) -> Result<(u64, Vec<Key>), Failure> {
        let blocking = if index > 0 { format!("&index={index}&wait={}s", WAIT.as_secs()) } else { String::new() };
        let path = format!("{}?recurse{}{blocking}", self.path, self.options);
        let limit = if index > 0 { WAIT + WAIT / 16 + WAIT_SLACK } else { HEAD_TIMEOUT };
        let main = &mut self.main;
        let read = async {
            let response = main.send(Method::GET, &path, limit).await?;
            main.read(response, &path, BODY_TIMEOUT).await
        };
        let answer = tokio::select! {
            biased;
            answer = read => answer?,
            failure = pulse(&mut self.pulse, publisher) => return Err(failure),
        };
        let keys = match answer.status {
            StatusCode::OK => parse(&answer)?,
            StatusCode::NOT_FOUND => Vec::new(),
            _ => return Err(Failure::refused(&answer)),
        };
        check_fresh(&answer.headers)?;
        if keys.is_empty() && says(&answer.headers, "x-consul-default-acl-policy", "deny") {
            self.check_may_read().await?;
        }
        let index = number(&answer.headers, "x-consul-index").ok_or(Failure::NoIndex)?;
        Ok((index, keys))
    }

    /// Whether we may read what is below the prefix.
    async fn check_may_read(&mut self) -> Result<(), Failure> {
        let answer = self.main.get(&format!("{}?{}", self.path, self.options.trim_start_matches('&'))).await?;
        match answer.status {
            StatusCode::OK | StatusCode::NOT_FOUND => Ok(()),
            _ => Err(Failure::refused(&answer)),
        }
    }
}

/// Asks again and again whether the agent is there and knows a leader. Ends when it is not, or does not.
async fn pulse(server: &mut Aside, publisher: &dyn Publisher) -> Failure {
    const PATH: &str = "/v1/status/leader";
    loop {
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        let beat = async {
            let answer = server.ask(Method::GET, PATH, HEARTBEAT_TIMEOUT).await?;
            match answer.status {
                StatusCode::OK if answer.body.trim_ascii() == b"\"\"" => Err(Failure::NoLeader),
                StatusCode::OK => Ok(()),
                _ => Err(Failure::refused(&answer)),
            }
        };
        match beat.await {
            Ok(()) => publisher.contact(),
            Err(failure) => return failure,
        }
    }
}

fn parse(answer: &Answer) -> Result<Vec<Key>, Failure> {
    serde_json::from_slice(&answer.body).map_err(|error| Failure::Json(format!("{error}: {}", answer.quote())))
}

/// Whether the answer is whole, and from a server that is in touch with its leader.
fn check_fresh(headers: &HeaderMap) -> Result<(), Failure> {
    if says(headers, "x-consul-results-filtered-by-acls", "true") {
        return Err(Failure::Filtered);
    }
    if says(headers, "x-consul-knownleader", "false") {
        return Err(Failure::NoLeader);
    }
    let last_contact = Duration::from_millis(number(headers, "x-consul-lastcontact").unwrap_or_default());
    if last_contact > STALE_MAX { Err(Failure::Stale(last_contact)) } else { Ok(()) }
}

fn says(headers: &HeaderMap, name: &str, value: &str) -> bool {
    headers.get(name).is_some_and(|found| found.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
}

/// What goes wrong between us and an agent.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("denied: {0}")]
    Denied(String),
    #[error("denied: the token may not read all keys below the prefix")]
    Filtered,
    #[error("status {0}: {1}")]
    Status(StatusCode, String),
    #[error("the answer is no answer of Consul: {0}")]
    Json(String),
    #[error("the answer has no X-Consul-Index")]
    NoIndex,
    #[error("the cluster has no leader")]
    NoLeader,
    #[error("the server has not heard from its leader for {0:?}")]
    Stale(Duration),
}

impl Failure {
    fn refused(answer: &Answer) -> Self {
        match answer.status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Self::Denied(answer.quote()),
            status => Self::Status(status, answer.quote()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_goes_on_unless_it_went_down() {
        for (asked, answered, expected) in [(0, 7, 7), (7, 7, 7), (7, 9, 9), (9, 7, 0), (0, 0, 1), (1, 0, 0)] {
            assert_eq!(next_index(asked, answered), expected, "{asked} {answered}");
        }
    }

    #[test]
    fn an_answer_that_is_not_whole_or_not_fresh_is_none() {
        let check = |name: &'static str, value: &str| {
            let headers: HeaderMap = [(http::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect();
            check_fresh(&headers).map_err(|failure| failure.to_string())
        };
        assert_eq!(check("x-consul-knownleader", "true"), Ok(()));
        assert_eq!(check("x-consul-lastcontact", "9000"), Ok(()));
        assert!(check("x-consul-lastcontact", "11000").unwrap_err().contains("11s"));
        assert!(check("x-consul-knownleader", "false").unwrap_err().contains("no leader"));
        assert!(check("x-consul-results-filtered-by-acls", "true").unwrap_err().contains("denied"));
    }

    #[test]
    fn values_are_base64_or_nothing() {
        let keys: Vec<Key> = serde_json::from_str(
            r#"[{"LockIndex":0,"Key":"nuncio/","Flags":0,"Value":null,"CreateIndex":2,"ModifyIndex":2},{"Key":"a","Value":"e30="},{"Key":"b","Value":"?"}]"#,
        )
        .unwrap();
        assert_eq!(keys[0].decode().unwrap(), b"");
        assert_eq!(keys[1].decode().unwrap(), b"{}");
        assert!(keys[2].decode().unwrap_err().to_string().contains("value of b"));
    }
}
