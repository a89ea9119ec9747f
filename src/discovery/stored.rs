//! A [`Snapshot`] ⇄ the bytes that are kept on disk. Pure; `keep` does the I/O.
//!
//! Objects are written as the JSON that stores hold, each with its origin, and read back one by one: one that this version cannot read is
//! a problem in its place, and all others stand. What was written is read back at once and compared, so that nothing is lost unseen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config::decode::decode_json;
use crate::config::problem::{Kind, ObjectId};
use crate::config::snapshot::{Section, UpstreamEntry};
use crate::config::{Entry, Origin, Problem, Snapshot};
use crate::names::Name;

/// What was kept of a provider.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What it had published.
    pub snapshot: Snapshot,
    /// When that was written.
    pub saved_at: SystemTime,
}

/// Why nothing can be made of kept bytes.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// They are not what [`encode`] writes.
    #[error("it is not a snapshot: {0}")]
    Malformed(#[from] serde_json::Error),
    /// They are of a provider with other settings, and may be of another source.
    #[error("it was kept of a provider with other settings")]
    OtherSource,
}

/// The document on disk. Version 1.
#[derive(Serialize, Deserialize)]
struct Document {
    /// [`Provider::source`](super::Provider::source) of the one that published it.
    source: String,
    saved_at_ms: u64,
    revision: Option<u64>,
    listeners: StoredSection,
    routes: StoredSection,
    tcp_routes: StoredSection,
    #[serde(default)]
    udp_routes: StoredSection,
    upstreams: BTreeMap<Name, StoredUpstream>,
    middlewares: StoredSection,
    certificates: StoredSection,
    problems: Vec<Problem>,
}

type StoredSection = BTreeMap<Name, StoredEntry>;

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    origin: Origin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

#[derive(Serialize, Deserialize)]
struct StoredUpstream {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settings: Option<StoredEntry>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    endpoints: StoredSection,
}

/// What [`encode`] makes.
#[derive(Debug)]
pub struct Encoded {
    /// To be kept.
    pub bytes: Vec<u8>,
    /// Objects that are not among them, because they would not have come back as they were.
    pub lost: Vec<ObjectId>,
}

/// Writes a snapshot of the provider with this `source`.
///
/// # Errors
/// When the document as a whole cannot be JSON: the path of an origin is not UTF-8.
pub fn encode(source: &str, snapshot: &Snapshot, saved_at: SystemTime) -> Result<Encoded, StoredError> {
    let mut lost = Vec::new();
    let since_epoch = saved_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let upstreams = snapshot.upstreams.iter().map(|(name, upstream)| (name.clone(), stored_upstream(name, upstream, &mut lost)));
    let document = Document {
        source: source.into(),
        saved_at_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        revision: snapshot.revision,
        upstreams: upstreams.collect(),
        listeners: stored_section(Kind::Listener, &snapshot.listeners, &mut lost),
        routes: stored_section(Kind::Route, &snapshot.routes, &mut lost),
        tcp_routes: stored_section(Kind::TcpRoute, &snapshot.tcp_routes, &mut lost),
        udp_routes: stored_section(Kind::UdpRoute, &snapshot.udp_routes, &mut lost),
        middlewares: stored_section(Kind::Middleware, &snapshot.middlewares, &mut lost),
        certificates: stored_section(Kind::Certificate, &snapshot.certificates, &mut lost),
        problems: snapshot.problems.clone(),
    };
    Ok(Encoded { bytes: serde_json::to_vec(&document)?, lost })
}

/// Reads what [`encode`] wrote of the provider with this `source`. The snapshot is as if it were seen at `seen_at`.
///
/// # Errors
/// [`StoredError`]. An object that cannot be read is no error: it is a problem inside the snapshot.
pub fn decode(source: &str, bytes: &[u8], seen_at: Instant) -> Result<Kept, StoredError> {
    let document: Document = serde_json::from_slice(bytes)?;
    if document.source != source {
        return Err(StoredError::OtherSource);
    }
    let snapshot = Snapshot {
        listeners: section(Kind::Listener, document.listeners),
        routes: section(Kind::Route, document.routes),
        tcp_routes: section(Kind::TcpRoute, document.tcp_routes),
        udp_routes: section(Kind::UdpRoute, document.udp_routes),
        upstreams: document.upstreams.into_iter().map(|(name, stored)| (name.clone(), Arc::new(upstream(&name, stored)))).collect(),
        middlewares: section(Kind::Middleware, document.middlewares),
        certificates: section(Kind::Certificate, document.certificates),
        problems: document.problems,
        revision: document.revision,
        ..Snapshot::empty(seen_at)
    };
    Ok(Kept { snapshot, saved_at: SystemTime::UNIX_EPOCH + Duration::from_millis(document.saved_at_ms) })
}

/// `snapshot` with the version of `previous` in the place of every object that cannot be read, and the problem beside the objects.
///
/// That is what is in force, and what must still be after a restart.
#[must_use]
pub fn with_last_good(snapshot: &Snapshot, previous: &Snapshot) -> Snapshot {
    let mut good = snapshot.clone();
    let mut mended = Vec::new();
    mend_section(&mut good.listeners, &previous.listeners, &mut mended);
    mend_section(&mut good.routes, &previous.routes, &mut mended);
    mend_section(&mut good.tcp_routes, &previous.tcp_routes, &mut mended);
    mend_section(&mut good.udp_routes, &previous.udp_routes, &mut mended);
    mend_section(&mut good.middlewares, &previous.middlewares, &mut mended);
    mend_section(&mut good.certificates, &previous.certificates, &mut mended);
    for (name, upstream) in &mut good.upstreams {
        let Some(previous) = previous.upstreams.get(name).filter(|_| upstream.problems().next().is_some()) else { continue };
        let upstream = Arc::make_mut(upstream);
        if let (Some(settings), Some(previous)) = (&mut upstream.settings, &previous.settings) {
            mend(settings, previous, &mut mended);
        }
        for (id, endpoint) in &mut upstream.endpoints {
            previous.endpoints.get(id).into_iter().for_each(|previous| mend(endpoint, previous, &mut mended));
        }
    }
    good.problems.extend(mended);
    good
}

fn mend_section<T: Clone>(section: &mut Section<T>, previous: &Section<T>, mended: &mut Vec<Problem>) {
    for (name, entry) in section.iter_mut().filter(|(_, entry)| entry.value.is_err()) {
        if let Some(previous) = previous.get(name) {
            mend(Arc::make_mut(entry), previous, mended);
        }
    }
}

fn mend<T: Clone>(entry: &mut Entry<T>, previous: &Entry<T>, mended: &mut Vec<Problem>) {
    if let (Err(problem), Ok(_)) = (&entry.value, &previous.value) {
        mended.push(problem.clone());
        *entry = previous.clone();
    }
}

fn stored_section<T: Serialize + DeserializeOwned + PartialEq>(
    kind: Kind,
    section: &Section<T>,
    lost: &mut Vec<ObjectId>,
) -> StoredSection {
    let entries = section.iter().filter_map(|(name, entry)| Some((name.clone(), stored(&ObjectId::new(kind, name), entry, lost)?)));
    entries.collect()
}

fn stored_upstream(name: &Name, upstream: &UpstreamEntry, lost: &mut Vec<ObjectId>) -> StoredUpstream {
    let settings = upstream.settings.as_ref().and_then(|settings| stored(&ObjectId::new(Kind::Upstream, name), settings, lost));
    let endpoints = upstream.endpoints.iter().filter_map(|(id, entry)| Some((id.clone(), stored(&endpoint_id(name, id), entry, lost)?)));
    StoredUpstream { settings, endpoints: endpoints.collect() }
}

/// None: what is written would not be read back as it is.
fn stored<T: Serialize + DeserializeOwned + PartialEq>(
    object: &ObjectId,
    entry: &Entry<T>,
    lost: &mut Vec<ObjectId>,
) -> Option<StoredEntry> {
    let origin = entry.origin.clone();
    let value = match &entry.value {
        Err(problem) => return Some(StoredEntry { origin, value: None, problem: Some(problem.clone()) }),
        Ok(value) => value,
    };
    let raw = serde_json::value::to_raw_value(value).ok();
    let is_same = |raw: &RawValue| decode_json::<T>(raw.get(), object.clone(), origin.clone()).is_ok_and(|read| read == *value);
    let Some(raw) = raw.filter(|raw| is_same(raw)) else {
        lost.push(object.clone());
        return None;
    };
    Some(StoredEntry { origin, value: Some(raw), problem: None })
}

fn section<T: DeserializeOwned>(kind: Kind, stored: StoredSection) -> Section<T> {
    stored.into_iter().map(|(name, stored)| (name.clone(), Arc::new(entry(ObjectId::new(kind, &name), stored)))).collect()
}

fn upstream(name: &Name, stored: StoredUpstream) -> UpstreamEntry {
    let settings = stored.settings.map(|settings| entry(ObjectId::new(Kind::Upstream, name), settings));
    let endpoints = stored.endpoints.into_iter().map(|(id, stored)| (id.clone(), entry(endpoint_id(name, &id), stored)));
    UpstreamEntry { settings, endpoints: endpoints.collect() }
}

fn entry<T: DeserializeOwned>(object: ObjectId, stored: StoredEntry) -> Entry<T> {
    let StoredEntry { origin, value, problem } = stored;
    let value = match (value, problem) {
        (Some(raw), _) => decode_json(raw.get(), object, origin.clone()),
        (None, Some(problem)) => Err(problem),
        (None, None) => Err(Problem::error("nothing was kept of it").about(object).at(origin.clone())),
    };
    Entry { origin, value }
}

fn endpoint_id(upstream: &Name, id: &Name) -> ObjectId {
    ObjectId { kind: Kind::Endpoint, name: format!("{upstream}/{id}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::kv::{Pair, Tree};

    const SOURCE: &str = "etcd at 10.0.0.5";

    fn snapshot(pairs: &[(&str, &str)]) -> Snapshot {
        let mut tree = Tree::new("/nuncio", Name::literal("etcd"));
        for (revision, (key, value)) in (1..).zip(pairs) {
            tree.put(Pair { key: format!("/nuncio/{key}").as_bytes(), value: value.as_bytes(), revision });
        }
        tree.snapshot(Some(77), Instant::now())
    }

    fn read_back(snapshot: &Snapshot) -> Snapshot {
        let encoded = encode(SOURCE, snapshot, SystemTime::now()).unwrap();
        assert_eq!(encoded.lost, []);
        decode(SOURCE, &encoded.bytes, Instant::now()).unwrap().snapshot
    }

    /// Every kind, and every field that is not as it is by default.
    const EVERYTHING: &[(&str, &str)] = &[
        ("listeners/web", r#"{"address":"0.0.0.0:8080","trusted_proxies":["10.0.0.0/8"],"proxy_protocol":"optional"}"#),
        ("listeners/secure", r#"{"address":"[::]:8443","tls":{"certificates":["site"]}}"#),
        ("listeners/db", r#"{"address":"127.0.0.1:5432","protocol":"tcp"}"#),
        (
            "routes/app",
            r#"{"match":"Host(\"a.test\") && !Header(\"X\", \"1\") || PathPrefix(\"/b\")","upstream":"api","listeners":["web"],"middlewares":[{"strip_prefix":"/v1"},"office"],"priority":-7,"timeout":"5s"}"#,
        ),
        ("tcp_routes/db", r#"{"listener":"db","upstream":"db"}"#),
        ("udp_routes/dns", r#"{"listener":"dns","upstream":"db","idle_timeout":"5s","responses":1,"affinity":"none"}"#),
        ("middlewares/office", r#"{"ip_allow":["10.0.0.0/8"]}"#),
        (
            "certificates/site",
            r#"{"cert":"-----BEGIN CERTIFICATE-----\nMII\n","key":"-----BEGIN PRIVATE KEY-----\nsecret\n","default":true}"#,
        ),
        ("certificates/file", r#"{"cert":"/etc/site.pem","key":"/etc/site.key"}"#),
        (
            "upstreams/api",
            r#"{"balance":{"hash":{"header":"X-Key"}},"sticky":{"cookie":"s"},"health":{"http":"/healthz","interval":"2s","rise":2,"fall":3},"endpoints":["10.0.0.1:80",{"address":"10.0.0.2:80","weight":3}],"protocol":"h2","tls":{},"proxy_protocol":"v2","host":{"rewrite":"x.test"},"retries":5,"drain_timeout":"1m"}"#,
        ),
        ("upstreams/api/endpoints/1", "10.0.0.3:80"),
        ("upstreams/db/endpoints/1", r#"{"address":"[::1]:5432","weight":2}"#),
        ("upstreams/bad", r#"{"retries":"many"}"#),
        ("routes/bad", "{"),
        ("rutes/stray", "{}"),
    ];

    fn without_snippets(mut problem: Problem) -> Problem {
        problem.snippet = None;
        problem
    }

    #[test]
    fn everything_is_read_back_as_it_was() {
        let before = snapshot(EVERYTHING);
        let after = read_back(&before);
        let good = before.all_problems().count();
        assert_eq!(good, 3, "the rest is right: {:?}", before.all_problems().collect::<Vec<_>>());
        assert_eq!(after.listeners, before.listeners);
        assert_eq!(
            (&after.tcp_routes, &after.udp_routes, &after.middlewares, &after.certificates),
            (&before.tcp_routes, &before.udp_routes, &before.middlewares, &before.certificates)
        );
        assert_eq!(after.routes["app"], before.routes["app"]);
        assert_eq!((&after.upstreams["api"], &after.upstreams["db"]), (&before.upstreams["api"], &before.upstreams["db"]));
        assert_eq!(after.revision, Some(77));
        let problems = |snapshot: &Snapshot| snapshot.all_problems().cloned().map(without_snippets).collect::<Vec<_>>();
        assert_eq!(problems(&after), problems(&before));
    }

    #[test]
    fn the_last_good_version_of_an_object_is_kept() {
        let good = snapshot(&[("routes/app", r#"{"match":"Host(\"a\")","upstream":"a"}"#), ("upstreams/a/endpoints/1", "10.0.0.1:80")]);
        let bad = snapshot(&[("routes/app", "{"), ("routes/new", "{"), ("upstreams/a/endpoints/1", "x"), ("upstreams/a", "{}")]);
        let kept = with_last_good(&bad, &good);
        assert_eq!(kept.routes["app"], good.routes["app"]);
        assert_eq!(kept.upstreams["a"].endpoints, good.upstreams["a"].endpoints);
        assert!(kept.upstreams["a"].settings.is_some(), "what can be read is new");
        assert!(kept.routes["new"].value.is_err(), "it never was good");
        assert_eq!(kept.all_problems().count(), 3, "and all are still told");
        assert_eq!(read_back(&kept).routes["app"], good.routes["app"]);
    }

    #[test]
    fn one_object_that_cannot_be_read_leaves_the_others() {
        let encoded = encode(SOURCE, &snapshot(EVERYTHING), SystemTime::now()).unwrap();
        let text = String::from_utf8(encoded.bytes).unwrap().replace("strip_prefix", "of_next_year");
        let read = decode(SOURCE, text.as_bytes(), Instant::now()).unwrap().snapshot;
        let problem = read.routes["app"].value.as_ref().unwrap_err();
        assert!(problem.to_string().contains("of_next_year"), "{problem}");
        assert!(read.upstreams["api"].settings.as_ref().unwrap().value.is_ok());
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let encoded = encode(SOURCE, &snapshot(EVERYTHING), SystemTime::now()).unwrap();
        assert!(matches!(decode("etcd elsewhere", &encoded.bytes, Instant::now()), Err(StoredError::OtherSource)));
        for bytes in [b"".as_slice(), b"{}", b"null", &encoded.bytes[..encoded.bytes.len() / 2]] {
            assert!(matches!(decode(SOURCE, bytes, Instant::now()), Err(StoredError::Malformed(_))));
        }
    }
}
