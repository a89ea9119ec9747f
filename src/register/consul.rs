//! Services of a Consul agent, each with a check that has to be passed again within the time to live.
//!
//! Not keys of its store: the catalog is where everybody looks for services. One whose check was not passed counts as unhealthy at once,
//! and the agent forgets it a while later.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::http::{Server, put};
use super::layout::Entry;
use super::store::Put;
use crate::config::providers::ConsulConfig;
use crate::discovery::ProviderError;
use crate::discovery::http_client::{Aside, Credentials};

/// What is escaped in the path of an ID.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b':');

const JSON: &str = "application/json";

/// After this time without a sign of life the agent forgets a service. It knows no shorter one.
const FORGOTTEN_AFTER: &str = "1m";

/// What Consul takes as the name of an attribute, in bytes.
const KEY_BYTES_MAX: usize = 128;
/// And as what it says.
const VALUE_BYTES_MAX: usize = 512;
/// And how many of them.
const ATTRIBUTES_MAX: usize = 64;

/// An agent.
pub(super) struct Agent {
    server: Server,
    ttl: Duration,
}

impl Agent {
    pub(super) fn new(server: &str, config: &ConsulConfig, ttl: Duration) -> Self {
        let credentials = config.token.as_deref().map_or_else(Credentials::default, |token| Credentials::field("x-consul-token", token));
        let aside = Aside::new(server, config.tls.as_ref(), credentials);
        Self { server: Server { name: format!("consul {server}"), aside }, ttl }
    }

    /// Registers an instance, or what is new of it.
    pub(super) async fn put(&mut self, entry: &Entry) -> Result<Put, ProviderError> {
        let body = definition(entry, self.ttl).to_string();
        let refusals = [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN];
        self.server.send(Method::PUT, "/v1/agent/service/register", JSON, body, &refusals).await.map(put)
    }

    /// Passes an instance's check. Whether the agent knows it: one that was started anew may have forgotten it.
    pub(super) async fn renew(&mut self, entry: &Entry) -> Result<bool, ProviderError> {
        // Old agents say so with an error of their own.
        let unknown = [StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR];
        let path = format!("/v1/agent/check/pass/service:{}", id(entry));
        let answer = self.server.send(Method::PUT, &path, JSON, String::new(), &unknown).await?;
        Ok(answer.status.is_success())
    }

    /// Deregisters an instance, if the agent knows it.
    pub(super) async fn delete(&mut self, entry: &Entry) -> Result<(), ProviderError> {
        let path = format!("/v1/agent/service/deregister/{}", id(entry));
        self.server.send(Method::PUT, &path, JSON, String::new(), &[StatusCode::NOT_FOUND]).await.map(drop)
    }
}

/// In a path.
fn id(entry: &Entry) -> String {
    utf8_percent_encode(&entry.id, IN_PATH).to_string()
}

fn definition(Entry { registration, id, .. }: &Entry, ttl: Duration) -> serde_json::Value {
    // One that the agent would refuse must not keep the service away.
    let is_taken = |(key, value): &(&String, &String)| {
        let is_key = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        is_key && (1..=KEY_BYTES_MAX).contains(&key.len()) && value.len() <= VALUE_BYTES_MAX && !key.starts_with("consul")
    };
    let attributes: BTreeMap<_, _> = registration.attributes.iter().filter(is_taken).take(ATTRIBUTES_MAX).collect();
    json!({
        "ID": id,
        "Name": registration.service,
        "Address": registration.address.ip().to_string(),
        "Port": registration.address.port(),
        "Tags": registration.tags,
        "Meta": attributes,
        "Check": {
            "TTL": format!("{}ms", ttl.as_millis()),
            "Status": "passing",
            "DeregisterCriticalServiceAfter": FORGOTTEN_AFTER,
        },
    })
}
