//! A Consul agent as its HTTP API shows it, for tests of who reads it: blocking queries, ACLs, an index that is reset.
//!
//! The shapes of its answers are those of Consul 1.9.11. What is written to it is written as to a real agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::sync::watch;

use super::DEADLINE;
use super::consul_services::Services;
use super::stub::{Asked, Say, Stub};

/// What the agent holds, and how it answers.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Values with the index of their last change.
    pub keys: BTreeMap<String, (String, u64)>,
    /// Services of the catalog.
    pub services: Services,
    /// The index of the last change.
    pub index: u64,
    /// Denies by default: who has not this token reads nothing.
    pub token: Option<String>,
    /// Services that the token may not read.
    pub hidden: BTreeSet<String>,
    /// The token may not read nodes.
    pub hides_nodes: bool,
    /// Says when something was left out, as Consul does since 1.11.
    pub says_filtered: bool,
    /// The answer to everything, instead of the keys.
    pub instead: Option<Say>,
    /// Fields of all answers to `stale` queries.
    pub when_stale: String,
    /// No leader is known.
    pub has_no_leader: bool,
    /// Nothing is answered while it is so, and all of it afterwards.
    pub is_frozen: bool,
}

/// A stub of an agent. Gone when dropped.
pub struct Consul {
    stub: Stub,
    state: Arc<watch::Sender<State>>,
    asked: Arc<watch::Sender<Vec<Asked>>>,
}

impl Consul {
    /// An agent with an empty store.
    pub async fn start() -> Self {
        let state = Arc::new(watch::Sender::new(State { index: 10, ..State::default() }));
        let asked = Arc::new(watch::Sender::new(Vec::new()));
        let stub = serve(SocketAddr::from(([127, 0, 0, 1], 0)), state.clone(), asked.clone()).await;
        Self { stub, state, asked }
    }

    /// Goes down with all its connections. What it holds is kept.
    pub fn stop(&mut self) {
        self.stub.stop();
    }

    /// Comes up again, at the same address.
    pub async fn run(&mut self) {
        self.stub = serve(self.stub.address, self.state.clone(), self.asked.clone()).await;
    }

    /// What it holds.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Its API.
    pub fn stub(&self) -> &Stub {
        &self.stub
    }

    /// Changes how it answers. Blocking queries look again.
    pub fn set(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    /// Writes keys in one transaction.
    pub fn put(&self, pairs: &[(String, String)]) {
        self.set(|state| {
            state.index += 1;
            state.keys.extend(pairs.iter().map(|(key, value)| (key.clone(), (value.clone(), state.index))));
        });
    }

    /// Deletes a key.
    pub fn delete(&self, key: &str) {
        self.set(|state| {
            state.index += 1;
            state.keys.remove(key);
        });
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.borrow().clone()
    }

    /// Waits until it was asked so many times more for a path that starts so.
    pub async fn until_asked(&self, path: &str, times: usize) {
        let count = |asked: &Vec<Asked>| asked.iter().filter(|asked| asked.path.starts_with(path)).count();
        let goal = count(&self.asked.borrow()) + times;
        let mut asked = self.asked.subscribe();
        let reached = asked.wait_for(|asked| count(asked) >= goal);
        drop(tokio::time::timeout(DEADLINE, reached).await.expect("it is asked in time"));
    }
}

async fn serve(address: SocketAddr, state: Arc<watch::Sender<State>>, asked: Arc<watch::Sender<Vec<Asked>>>) -> Stub {
    let serve = move |request: Asked| {
        asked.send_modify(|asked| asked.push(request.clone()));
        answer(state.clone(), request)
    };
    Stub::start_at(address, serve).await
}

/// The path without its query, decoded.
pub fn path(asked: &Asked) -> String {
    let path = asked.path.split('?').next().unwrap_or_default();
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

async fn answer(state: Arc<watch::Sender<State>>, asked: Asked) -> Say {
    let mut states = state.subscribe();
    let _ = states.wait_for(|state| !state.is_frozen).await;
    if let Some(say) = states.borrow().instead.clone() {
        return say;
    }
    if asked.method != "GET" {
        let mut status = 404;
        state.send_modify(|state| status = write(state, &asked));
        return Say::Whole(status, String::new(), "true".into());
    }
    if asked.path == "/v1/status/leader" {
        let leader = if states.borrow().has_no_leader { "\"\"" } else { "\"127.0.0.1:8300\"" };
        return Say::Whole(200, String::new(), leader.into());
    }
    let index: u64 = asked.parameter("index").and_then(|index| index.parse().ok()).unwrap_or_default();
    let wait = asked.parameter("wait").map(wait_of).unwrap_or(Duration::from_secs(300));
    // Only the end of the wait, or of the test, lets it answer without a change.
    let change = states.wait_for(|state| index == 0 || index_of(state, &asked) > index || state.instead.is_some());
    let _ = tokio::time::timeout(wait, change).await;
    let _ = states.wait_for(|state| !state.is_frozen).await;
    let state = states.borrow().clone();
    state.instead.clone().unwrap_or_else(|| read(&state, &asked))
}

/// `30s`, `250ms`.
fn wait_of(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number = number.parse().expect("a wait is a number with a unit");
    match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => panic!("a wait has a unit: {text}"),
    }
}

fn write(state: &mut State, asked: &Asked) -> u16 {
    state.index += 1;
    let index = state.index;
    let path = path(asked);
    match (asked.method.as_str(), path.strip_prefix("/v1/kv/")) {
        ("PUT", Some(key)) => drop(state.keys.insert(key.to_owned(), (asked.body.clone(), index))),
        ("DELETE", Some(key)) => drop(state.keys.remove(key)),
        ("PUT", None) => return state.services.write(&path, asked, index),
        _ => return 405,
    }
    200
}

fn index_of(state: &State, asked: &Asked) -> u64 {
    let path = path(asked);
    match path.strip_prefix("/v1/health/service/") {
        Some(name) => state.services.index_of(name),
        None if path == "/v1/catalog/services" => state.services.index(),
        None => state.index,
    }
}

fn read(state: &State, asked: &Asked) -> Say {
    let policy = if state.token.is_some() { "deny" } else { "allow" };
    let fields = format!(
        "Content-Type: application/json\r\nX-Consul-Default-Acl-Policy: {policy}\r\nX-Consul-Index: {}\r\n",
        index_of(state, asked)
    );
    let fields = match asked.parameter("stale") {
        Some(_) if !state.when_stale.is_empty() => format!("{fields}{}", state.when_stale),
        _ => format!("{fields}X-Consul-Knownleader: {}\r\nX-Consul-Lastcontact: 0\r\n", !state.has_no_leader),
    };
    let token = asked.field("x-consul-token");
    let is_anonymous = state.token.is_some() && token.is_none();
    if state.token.is_some() && token.is_some() && state.token.as_deref() != token {
        return Say::Whole(403, fields, "ACL not found".into());
    }
    let path = path(asked);
    match path.strip_prefix("/v1/kv/") {
        Some(prefix) => keys(state, prefix, asked.parameter("recurse").is_some(), is_anonymous, fields),
        None => services(state, &path, is_anonymous, fields),
    }
}

fn keys(state: &State, prefix: &str, is_recursive: bool, is_anonymous: bool, fields: String) -> Say {
    match (is_anonymous, is_recursive) {
        (true, true) => return Say::Whole(404, fields, String::new()),
        (true, false) => return Say::Whole(403, fields, "Permission denied".into()),
        (false, _) => {}
    }
    let is_asked = |key: &str| if is_recursive { key.starts_with(prefix) } else { key == prefix };
    let keys = state.keys.iter().filter(|(key, _)| is_asked(key)).map(|(key, (value, index))| {
        json!({"LockIndex": 0, "Key": key, "Flags": 0, "Value": STANDARD.encode(value), "CreateIndex": index, "ModifyIndex": index})
    });
    let keys: Vec<_> = keys.collect();
    if keys.is_empty() {
        Say::Whole(404, fields, String::new())
    } else {
        Say::Whole(200, fields, serde_json::Value::from(keys).to_string())
    }
}

fn services(state: &State, path: &str, is_anonymous: bool, fields: String) -> Say {
    let may_read = |name: &str| !is_anonymous && !state.hidden.contains(name);
    let (whole, seen) = if path == "/v1/catalog/services" {
        let list = state.services.names();
        let seen: serde_json::Map<_, _> = list.clone().into_iter().filter(|(name, _)| may_read(name)).collect();
        (list.len() == seen.len(), seen.into())
    } else if path == "/v1/catalog/nodes" {
        let is_seen = !is_anonymous && !state.hides_nodes;
        (is_seen, if is_seen { json!([{"Node": "vm", "Address": "127.0.0.1"}]) } else { json!([]) })
    } else if let Some(name) = path.strip_prefix("/v1/agent/health/service/name/") {
        return if may_read(name) {
            Say::Whole(404, fields, format!("ServiceName {name} Not Found"))
        } else {
            Say::Whole(403, fields, "Permission denied".into())
        };
    } else if let Some(name) = path.strip_prefix("/v1/health/service/") {
        let list = state.services.health(name);
        let is_seen = list.is_empty() || (may_read(name) && !state.hides_nodes);
        (is_seen, if is_seen { list.into() } else { json!([]) })
    } else {
        return Say::Whole(404, fields, String::new());
    };
    // Who has no token is not told.
    let filtered = if state.says_filtered && !whole && !is_anonymous { "X-Consul-Results-Filtered-By-Acls: true\r\n" } else { "" };
    Say::Whole(200, format!("{fields}{filtered}"), serde_json::Value::to_string(&seen))
}
