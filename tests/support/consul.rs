//! A Consul agent's key/value store as its HTTP API shows it, for tests of who reads it: blocking queries, ACLs, an index that is reset.
//!
//! The shapes of its answers were recorded from Consul 1.9.11.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

use super::stub::{Asked, Say, Stub};

/// What the store holds, and how it answers.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Values with the index of their last change.
    pub keys: BTreeMap<String, (String, u64)>,
    /// The index of the last change.
    pub index: u64,
    /// Denies by default: who has not this token reads nothing.
    pub token: Option<String>,
    /// The answer to everything, instead of the keys.
    pub instead: Option<Say>,
    /// No leader is known.
    pub has_no_leader: bool,
}

/// A stub of an agent. Gone when dropped.
pub struct Consul {
    stub: Stub,
    state: Arc<watch::Sender<State>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Consul {
    /// An agent with an empty store.
    pub async fn start() -> Self {
        let state = Arc::new(watch::Sender::new(State { index: 10, ..State::default() }));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (states, log) = (state.clone(), asked.clone());
        let stub = Stub::start(move |request| {
            log.lock().expect("nobody panics with it").push(request.clone());
            answer(states.subscribe(), request)
        });
        Self { stub: stub.await, state, asked }
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
        self.asked.lock().expect("nobody panics with it").clone()
    }
}

async fn answer(mut states: watch::Receiver<State>, asked: Asked) -> Say {
    if let Some(say) = states.borrow().instead.clone() {
        return say;
    }
    if asked.path == "/v1/status/leader" {
        let leader = if states.borrow().has_no_leader { "\"\"" } else { "\"127.0.0.1:8300\"" };
        return Say::Whole(200, String::new(), leader.into());
    }
    let index: u64 = asked.parameter("index").and_then(|index| index.parse().ok()).unwrap_or_default();
    let wait = asked.parameter("wait").and_then(|wait| wait.strip_suffix('s')?.parse().ok()).unwrap_or(300);
    // Only the end of the wait, or of the test, lets it answer without a change.
    let change = states.wait_for(|state| index == 0 || state.index > index || state.instead.is_some());
    let _ = tokio::time::timeout(Duration::from_secs(wait), change).await;
    let state = states.borrow().clone();
    state.instead.clone().unwrap_or_else(|| read(&state, &asked))
}

fn read(state: &State, asked: &Asked) -> Say {
    let policy = if state.token.is_some() { "deny" } else { "allow" };
    let fields = format!(
        "Content-Type: application/json\r\nX-Consul-Default-Acl-Policy: {policy}\r\nX-Consul-Index: {}\r\nX-Consul-Knownleader: {}\r\nX-Consul-Lastcontact: 0\r\n",
        state.index, !state.has_no_leader
    );
    let is_recursive = asked.parameter("recurse").is_some();
    let token = asked.field("x-consul-token");
    if state.token.is_some() && state.token.as_deref() != token {
        return match (token, is_recursive) {
            (Some(_), _) => Say::Whole(403, fields, "ACL not found".into()),
            (None, true) => Say::Whole(404, fields, String::new()),
            (None, false) => Say::Whole(403, fields, "Permission denied".into()),
        };
    }
    let prefix = asked.path.trim_start_matches("/v1/kv/").split('?').next().unwrap_or_default();
    let prefix = percent_decode_str(prefix).decode_utf8_lossy();
    let is_asked = |key: &str| if is_recursive { key.starts_with(&*prefix) } else { key == prefix };
    let keys = state.keys.iter().filter(|(key, _)| is_asked(key)).map(|(key, (value, index))| {
        serde_json::json!({"LockIndex": 0, "Key": key, "Flags": 0, "Value": STANDARD.encode(value), "CreateIndex": index, "ModifyIndex": index})
    });
    let keys: Vec<_> = keys.collect();
    if keys.is_empty() {
        Say::Whole(404, fields, String::new())
    } else {
        Say::Whole(200, fields, serde_json::Value::from(keys).to_string())
    }
}
