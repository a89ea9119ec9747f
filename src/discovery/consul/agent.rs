//! An agent's HTTP API: blocking queries, and how far an answer is to be believed.
//!
//! Each query that waits needs a connection of its own. Those of services share [`CONNECTIONS_MAX`] of them, because an agent takes 200 of
//! one client at most: with more services than that they take turns, and wait less each.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Semaphore;

use crate::config::providers::{ClientTls, ConsulConfig};
use crate::discovery::Publisher;
use crate::discovery::http_client::{Answer, Aside, BODY_TIMEOUT, Connection, Credentials, HEAD_TIMEOUT, HttpError, number};

/// How long a query waits for a change. Consul adds up to a sixteenth.
pub const WAIT: Duration = Duration::from_secs(30);
/// How much longer than that we wait for its answer.
pub const WAIT_SLACK: Duration = Duration::from_secs(5);
/// How many queries for services wait at the same time, each over a connection of its own.
pub const CONNECTIONS_MAX: usize = 64;
/// How long it takes until each service had its turn, where there are more than that.
pub const TURN: Duration = Duration::from_secs(5);
/// How often the agent is asked whether it is there while nothing happens.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// For the answer to that.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a path or a parameter holds as it is, beside letters and digits.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The same of one segment of a path.
const SEGMENT: &AsciiSet = &PATH.add(b'/');

/// `path` as a part of a URL, with its slashes.
pub(super) fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// `name` as one segment of a URL's path.
pub(super) fn encode_segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

/// How long each of so many queries for services may wait.
pub(super) fn wait_of(services: usize) -> Duration {
    let turns = u32::try_from(services.div_ceil(CONNECTIONS_MAX)).unwrap_or(u32::MAX);
    if turns <= 1 { WAIT } else { TURN / turns }
}

/// The index to ask with, after `asked` was answered with `answered`. One that went down is of a store that was rebuilt.
pub(super) fn next_index(asked: u64, answered: u64) -> u64 {
    if answered < asked { 0 } else { answered.max(1) }
}

/// An agent, from its first connection to its first failure. Only the queries for services are bounded.
#[derive(Debug)]
pub(super) struct Agent {
    server: String,
    tls: Option<ClientTls>,
    credentials: Credentials,
    /// `&dc=…`, if it is said.
    datacenter: String,
    /// The oldest answer of another server than the leader. None: the leader is asked.
    stale_max: Option<Duration>,
    /// Connections that nobody uses, and when they were made.
    idle: Mutex<Vec<(Instant, Connection)>>,
    turns: Semaphore,
    may_read_nodes: AtomicBool,
}

/// An index, as one life of the agent counts it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Index {
    pub(super) value: u64,
    /// When the connection was made that told it. At the other end of one that was made later may be another life of the agent, which
    /// counts anew.
    pub(super) told_on: Instant,
}

impl Index {
    /// Of who knows none.
    pub(super) fn zero() -> Self {
        Self { value: 0, told_on: Instant::now() }
    }

    /// What to ask with on a connection that was made at this time.
    fn on(self, made_at: Instant) -> u64 {
        if made_at > self.told_on { 0 } else { self.value }
    }
}

/// A query, apart from what all queries have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    /// Encoded, without a query part.
    pub(super) path: &'a str,
    /// `recurse`, or empty.
    pub(super) parameters: &'a str,
    /// 0: the answer comes at once. Else as soon as the index is above this one, or after `wait`.
    pub(super) index: Index,
    pub(super) wait: Duration,
}

impl<'a> Query<'a> {
    /// A query that is answered at once.
    pub(super) fn now(path: &'a str) -> Self {
        Self { path, parameters: "", index: Index::zero(), wait: WAIT }
    }
}

impl Agent {
    pub(super) fn new(server: String, config: &ConsulConfig) -> Self {
        let credentials = config.token.as_deref().map_or_else(Credentials::default, |token| Credentials::field("x-consul-token", token));
        let datacenter = config.datacenter.as_ref().map(|name| format!("&dc={}", encode_segment(name))).unwrap_or_default();
        Self {
            server,
            tls: config.tls.clone(),
            credentials,
            datacenter,
            stale_max: config.stale.then_some(config.max_stale),
            idle: Mutex::default(),
            turns: Semaphore::new(CONNECTIONS_MAX),
            may_read_nodes: AtomicBool::new(false),
        }
    }

    /// Waits for its turn among the queries for services.
    pub(super) async fn turn(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.turns.acquire().await.expect("it is never closed")
    }

    /// The answer to `query`, which is 200 or 404, and is as fresh as the settings ask for; and when the connection was made that it came by.
    pub(super) async fn query(&self, query: Query<'_>) -> Result<(Answer, Instant), Failure> {
        let idle = self.idle();
        let is_used = idle.is_some();
        let (mut made_at, mut connection) = match idle {
            Some(idle) => idle,
            None => self.connect_now().await?,
        };
        let consistency = if self.stale_max.is_some() { "&stale" } else { "" };
        let answer = match self.ask(&mut connection, query, query.index.on(made_at), consistency).await {
            // Closed while nobody used it.
            Err(error) if is_used && !error.is_timeout() => {
                (made_at, connection) = self.connect_now().await?;
                self.ask(&mut connection, query, 0, consistency).await?
            }
            answer => answer?,
        };
        let answer = match (check_fresh(&answer.headers, self.stale_max), self.stale_max) {
            (Ok(()), _) => answer,
            (Err(failure), None) => return Err(failure),
            (Err(_), Some(_)) => {
                let answer = self.ask(&mut connection, query, 0, "&consistent").await?;
                check_fresh(&answer.headers, self.stale_max)?;
                answer
            }
        };
        self.give_back(made_at, connection);
        match answer.status {
            StatusCode::OK | StatusCode::NOT_FOUND => Ok((answer, made_at)),
            _ => Err(Failure::refused(&answer)),
        }
    }

    /// Whether the token may read a service of this name, of which the answer has no instance. To be asked where the ACLs deny by default:
    /// then what may not be read looks as what is not there.
    pub(super) async fn check_may_read_service(&self, service: &str) -> Result<(), Failure> {
        let mut connection = self.connect().await?;
        // It refuses who may not read the service, also where there is none; else it says how the service is on this agent.
        let path = format!("/v1/agent/health/service/name/{}?format=text", encode_segment(service));
        let answer = connection.get(&path).await?;
        match answer.status.as_u16() {
            200 | 404 | 429 | 503 => {}
            403 => return Err(Failure::Grant(format!("service \"{service}\" read"))),
            _ => return Err(Failure::refused(&answer)),
        }
        if self.may_read_nodes.load(Ordering::Relaxed) {
            return Ok(());
        }
        let path = format!("/v1/catalog/nodes?{}", self.datacenter.trim_start_matches('&'));
        let answer = connection.get(&path).await?;
        if answer.status != StatusCode::OK {
            return Err(Failure::refused(&answer));
        }
        let nodes: Vec<serde::de::IgnoredAny> = parse(&answer)?;
        if nodes.is_empty() {
            return Err(Failure::Grant("node_prefix \"\" read".into()));
        }
        self.may_read_nodes.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Asks again and again whether the agent is there and knows a leader. Ends when it is not, or does not.
    pub(super) async fn pulse(&self, publisher: &dyn Publisher) -> Failure {
        const LEADER: &str = "/v1/status/leader";
        let mut aside = Aside::new(&self.server, self.tls.as_ref(), self.credentials.clone());
        loop {
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            let beat = async {
                let answer = aside.ask(Method::GET, LEADER, HEARTBEAT_TIMEOUT).await?;
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

    async fn connect(&self) -> Result<Connection, HttpError> {
        Connection::open(&self.server, self.tls.as_ref(), &self.credentials).await
    }

    async fn connect_now(&self) -> Result<(Instant, Connection), HttpError> {
        let connection = self.connect().await?;
        Ok((Instant::now(), connection))
    }

    async fn ask(&self, connection: &mut Connection, query: Query<'_>, index: u64, consistency: &str) -> Result<Answer, HttpError> {
        let Query { path, parameters, wait, .. } = query;
        let blocking = if index > 0 { format!("&index={index}&wait={}", in_go(wait)) } else { String::new() };
        let parameters = format!("{parameters}{}{consistency}{blocking}", self.datacenter);
        let path = format!("{path}?{}", parameters.trim_start_matches('&'));
        let limit = if index > 0 { wait + wait / 16 + WAIT_SLACK } else { HEAD_TIMEOUT };
        let response = connection.send(Method::GET, &path, limit).await?;
        connection.read(response, &path, BODY_TIMEOUT).await
    }

    fn idle(&self) -> Option<(Instant, Connection)> {
        self.idle.lock().expect("nobody panics with it").pop()
    }

    fn give_back(&self, made_at: Instant, connection: Connection) {
        self.idle.lock().expect("nobody panics with it").push((made_at, connection));
    }
}

/// As Go reads it.
fn in_go(wait: Duration) -> String {
    if wait.subsec_nanos() == 0 { format!("{}s", wait.as_secs()) } else { format!("{}ms", wait.as_millis().max(1)) }
}

/// The body of an answer, as JSON.
pub(super) fn parse<T: serde::de::DeserializeOwned>(answer: &Answer) -> Result<T, Failure> {
    serde_json::from_slice(&answer.body).map_err(|error| Failure::Json(format!("{error}: {}", answer.quote())))
}

/// The index of an answer that came by a connection made at this time.
pub(super) fn index_of(answer: &Answer, told_on: Instant) -> Result<Index, Failure> {
    let value = number(&answer.headers, "x-consul-index").ok_or(Failure::NoIndex)?;
    Ok(Index { value, told_on })
}

/// Whether what the token may not read was left out of an answer. Since Consul 1.11, and only for who has a token.
pub(super) fn is_filtered(headers: &HeaderMap) -> bool {
    says(headers, "x-consul-results-filtered-by-acls", "true")
}

/// Whether who was granted nothing may read nothing. Since Consul 1.9.
pub(super) fn is_denied_by_default(headers: &HeaderMap) -> bool {
    says(headers, "x-consul-default-acl-policy", "deny")
}

/// Whether the answer is from a server that is in touch with its leader.
fn check_fresh(headers: &HeaderMap, stale_max: Option<Duration>) -> Result<(), Failure> {
    if says(headers, "x-consul-knownleader", "false") {
        return Err(Failure::NoLeader);
    }
    let last_contact = Duration::from_millis(number(headers, "x-consul-lastcontact").unwrap_or_default());
    // The leader never says so.
    if last_contact > stale_max.unwrap_or(STALE_MAX) { Err(Failure::Stale(last_contact)) } else { Ok(()) }
}

/// Without `stale` nobody but the leader should answer: a server that has not heard from it for longer is not believed.
const STALE_MAX: Duration = Duration::from_secs(10);

fn says(headers: &HeaderMap, name: &str, value: &str) -> bool {
    headers.get(name).is_some_and(|found| found.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
}

/// What goes wrong between us and an agent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("denied: {0}")]
    Denied(String),
    #[error("denied: the token may not read all keys below the prefix: grant it key_prefix \"{0}\" read")]
    Filtered(String),
    #[error("denied, or not there: grant the token {0}")]
    Grant(String),
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
    pub(super) fn refused(answer: &Answer) -> Self {
        match answer.status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Self::Denied(answer.quote()),
            status => Self::Status(status, answer.quote()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_index_goes_on_unless_it_went_down() {
        for (asked, answered, expected) in [(0, 7, 7), (7, 7, 7), (7, 9, 9), (9, 7, 0), (0, 0, 1), (1, 0, 0)] {
            assert_eq!(next_index(asked, answered), expected, "{asked} {answered}");
        }
    }

    /// Connections are shared: a query may meet another life of the agent on one that is new, or that another query has made since.
    #[tokio::test]
    async fn a_connection_that_is_younger_than_an_index_is_asked_from_the_start() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let agent = Agent::new(format!("http://{}", listener.local_addr().unwrap()), &ConsulConfig::default());
        let serve = async {
            let mut lines = BufReader::new(listener.accept().await.unwrap().0).lines();
            let mut asked = Vec::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.is_empty() {
                    let answer = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 50\r\nContent-Length: 2\r\n\r\n[]";
                    lines.get_mut().write_all(answer).await.unwrap();
                }
                asked.extend(line.starts_with("GET").then_some(line));
            }
            asked
        };
        // Its connections end with the agent.
        let ask = async move {
            let before = Instant::now();
            for told_on in [before, before + HEAD_TIMEOUT, before] {
                agent.query(Query { index: Index { value: 50, told_on }, ..Query::now("/v1/health/service/web") }).await.unwrap();
            }
        };
        let both = async { tokio::join!(serve, ask).0 };
        let asked = tokio::time::timeout(HEAD_TIMEOUT, both).await.expect("in time");
        let with_index: Vec<bool> = asked.iter().map(|asked| asked.contains("index=50")).collect();
        assert_eq!(with_index, [false, true, false], "{asked:?}");
    }

    #[test]
    fn an_answer_that_is_not_fresh_is_none() {
        let check = |name: &'static str, value: &str, stale_max| {
            let headers: HeaderMap = [(http::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect();
            check_fresh(&headers, stale_max).map_err(|failure| failure.to_string())
        };
        assert_eq!(check("x-consul-knownleader", "true", None), Ok(()));
        assert_eq!(check("x-consul-lastcontact", "9000", None), Ok(()));
        assert!(check("x-consul-lastcontact", "9000", Some(Duration::from_secs(5))).unwrap_err().contains("9s"));
        assert!(check("x-consul-lastcontact", "11000", None).unwrap_err().contains("11s"));
        assert!(check("x-consul-knownleader", "false", None).unwrap_err().contains("no leader"));
    }

    #[test]
    fn many_services_wait_less_each() {
        assert_eq!(wait_of(1), WAIT);
        assert_eq!(wait_of(CONNECTIONS_MAX), WAIT);
        assert_eq!(wait_of(CONNECTIONS_MAX + 1), TURN / 2);
        assert_eq!(wait_of(10 * CONNECTIONS_MAX), TURN / 10);
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!((encode_path("a/ü b").as_str(), encode_segment("a/b?").as_str()), ("a/%C3%BC%20b", "a%2Fb%3F"));
    }
}
