//! What is watched, each by a blocking query of its own → what Consul tells of it. No state: who is told decides what to ask next.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::StatusCode;
use serde::Deserialize;
use tokio::time::Instant;

use super::agent::{Agent, Failure, Index, Query, encode_path, encode_segment, index_of, is_denied_by_default, is_filtered, parse};
use super::catalog::{Instance, Listing};

/// The least time between two queries of one kind, so that what changes all the time is not asked all the time.
pub const QUERY_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Watched {
    /// All keys below this prefix.
    Keys(String),
    /// The names and tags of all services.
    Catalog,
    /// The instances of the service of this name.
    Service(String),
    /// The one key of this name.
    Key(String),
}

/// What was told of it.
#[derive(Debug)]
pub(super) struct News {
    pub(super) watched: Watched,
    /// With which it was asked for, and when.
    pub(super) asked: u64,
    pub(super) asked_at: Instant,
    /// Of the answer.
    pub(super) index: Index,
    pub(super) told: Told,
}

#[derive(Debug)]
pub(super) enum Told {
    Keys(Vec<Key>),
    Catalog(Listing),
    Service(Vec<Instance>),
    /// Its instances cannot be told from none: the token may not read them. What to do about it.
    Denied(String),
    /// Some instances, but not all. Never none.
    Some(Vec<Instance>),
    /// None: there is no such key.
    Key(Option<Key>),
}

/// Queries that are under way, and whether each is the first of its kind.
pub(super) type Watches = FuturesUnordered<BoxFuture<'static, (bool, Result<News, Failure>)>>;

/// Asks once: at once if `index` is 0, else when it is above it, or after `wait`.
pub(super) async fn ask(agent: Arc<Agent>, watched: Watched, index: Index, wait: Duration, not_before: Instant) -> Result<News, Failure> {
    tokio::time::sleep_until(not_before).await;
    let asked_at = Instant::now();
    let (told, answered) = match &watched {
        Watched::Keys(prefix) => keys(&agent, prefix, index, wait).await?,
        Watched::Catalog => catalog(&agent, index, wait).await?,
        Watched::Service(name) => service(&agent, name, index, wait).await?,
        Watched::Key(name) => key(&agent, name, index, wait).await?,
    };
    Ok(News { watched, asked: index.value, asked_at, index: answered, told })
}

async fn keys(agent: &Agent, prefix: &str, index: Index, wait: Duration) -> Result<(Told, Index), Failure> {
    let path = format!("/v1/kv/{}", encode_path(prefix));
    let (answer, on) = agent.query(Query { path: &path, parameters: "recurse", index, wait }).await?;
    let keys: Vec<Key> = if answer.status == StatusCode::OK { parse(&answer)? } else { Vec::new() };
    if is_filtered(&answer.headers) {
        return Err(Failure::Filtered(prefix.to_owned()));
    }
    if keys.is_empty() && is_denied_by_default(&answer.headers) {
        // One key is refused to who may not read it, while a list of keys looks empty.
        agent.query(Query::now(&path)).await?;
    }
    Ok((Told::Keys(keys), index_of(&answer, on)?))
}

async fn catalog(agent: &Agent, index: Index, wait: Duration) -> Result<(Told, Index), Failure> {
    let (answer, on) = agent.query(Query { path: "/v1/catalog/services", parameters: "", index, wait }).await?;
    let listing = listing(parse(&answer)?);
    // Who may read anything sees something: Consul itself is a service.
    if listing.is_empty() && (is_filtered(&answer.headers) || is_denied_by_default(&answer.headers)) {
        return Err(Failure::Grant("service_prefix \"\" read and node_prefix \"\" read".into()));
    }
    Ok((Told::Catalog(listing), index_of(&answer, on)?))
}

/// Consul says `null` where it means no tags.
fn listing(raw: std::collections::BTreeMap<String, Option<Vec<String>>>) -> Listing {
    raw.into_iter().map(|(name, tags)| (name, tags.unwrap_or_default())).collect()
}

async fn service(agent: &Agent, name: &str, index: Index, wait: Duration) -> Result<(Told, Index), Failure> {
    let path = format!("/v1/health/service/{}", encode_segment(name));
    let (answer, on) = {
        let _turn = agent.turn().await;
        agent.query(Query { path: &path, parameters: "", index, wait }).await?
    };
    if answer.status != StatusCode::OK {
        return Err(Failure::refused(&answer));
    }
    let instances: Vec<Instance> = parse(&answer)?;
    let told = match (instances.is_empty(), is_filtered(&answer.headers)) {
        (false, false) => Told::Service(instances),
        (false, true) => Told::Some(instances),
        (true, true) => Told::Denied(format!("service \"{name}\" read and node_prefix \"\" read")),
        (true, false) if is_denied_by_default(&answer.headers) => match agent.check_may_read_service(name).await {
            Ok(()) => Told::Service(instances),
            Err(Failure::Grant(grant)) => Told::Denied(grant),
            Err(failure) => return Err(failure),
        },
        (true, false) => Told::Service(instances),
    };
    Ok((told, index_of(&answer, on)?))
}

async fn key(agent: &Agent, name: &str, index: Index, wait: Duration) -> Result<(Told, Index), Failure> {
    let path = format!("/v1/kv/{}", encode_path(name));
    let (answer, on) = agent.query(Query { path: &path, parameters: "", index, wait }).await?;
    let keys: Vec<Key> = if answer.status == StatusCode::OK { parse(&answer)? } else { Vec::new() };
    Ok((Told::Key(keys.into_iter().next()), index_of(&answer, on)?))
}

/// A key of the store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Key {
    pub(super) key: String,
    /// In base64. None: empty.
    value: Option<String>,
    #[serde(default)]
    pub(super) modify_index: u64,
}

impl Key {
    pub(super) fn decode(&self) -> Result<Vec<u8>, Failure> {
        let value = self.value.as_deref().unwrap_or_default();
        STANDARD.decode(value).map_err(|error| Failure::Json(format!("value of {}: {error}", self.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn services_may_have_no_tags() {
        let raw = serde_json::from_str(r#"{"consul":[],"web":["a"],"old":null}"#).unwrap();
        assert_eq!(
            listing(raw).into_iter().map(|(name, tags)| format!("{name} {}", tags.len())).collect::<Vec<_>>(),
            ["consul 0", "old 0", "web 1"]
        );
    }
}
