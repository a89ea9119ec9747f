//! What every provider promises, checked on each of them over a real source.
//!
//! A source implements [`Store`] once; if it can be lost and come back, also [`Losable`]. Values are JSON with the fields of the
//! configuration, paths are those of the key/value layout without a prefix: `upstreams/api/endpoints/1`.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nuncio::config::providers::{
    CatalogConfig, ConsulConfig, DockerConfig, EtcdConfig, HttpConfig, LayoutKind, MarathonConfig, RouteTemplate, ServicePattern,
    SwarmConfig, ZookeeperConfig,
};
use nuncio::discovery::kv::{Pair, Tree};
use nuncio::discovery::{
    ConsulProvider, DockerProvider, Etcd2Provider, EtcdProvider, FeedState, HttpProvider, MarathonProvider, ProgramHandle, ProgramProvider,
    Provider, SwarmProvider, ZookeeperProvider,
};
use nuncio::names::Name;
use support::consul::Consul;
use support::engine_stub::EngineStub;
use support::etcd::{Etcd, TXN_OPERATIONS_MAX, Writer};
use support::etcd2::Etcd2Writer;
use support::marathon::{Marathon, labelled};
use support::relay::Relay;
use support::stub::{Say, Stub};
use support::zookeeper::{ZooKeeper, ZooKeeperWriter};
use support::{DEADLINE, Observed, Recorder, endpoints, is_empty};

/// A source that a provider reads, as the one who writes it sees it.
trait Store: Sized {
    /// A source that is there and holds nothing.
    async fn start() -> Self;
    /// A provider of it. Called once.
    fn provider(&mut self) -> Box<dyn Provider>;
    /// Writes an object.
    async fn put(&mut self, path: &str, value: &str) {
        self.put_at_once(&[(path.to_owned(), value.to_owned())]).await;
    }
    /// Writes objects, at most [`TXN_OPERATIONS_MAX`], in one step that nobody can see a part of.
    async fn put_at_once(&mut self, pairs: &[(String, String)]);
    /// Deletes an object.
    async fn delete(&mut self, path: &str);
}

/// A source that can be lost and come back.
trait Losable: Store {
    /// What the provider reaches it through. While that is cut, it can still be written.
    fn relay(&self) -> &Relay;
}

macro_rules! contract {
    ($store:ident: $($promise:ident)*) => {
        mod $store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise::<super::stores::$store>().await;
            })*
        }
    };
}

contract!(etcd: first_snapshot update delete empty_is_not_absent malformed_value unchanged_objects_are_shared at_once_is_one_snapshot
    thousand_keys unreachable_at_start loss_keeps_the_last_snapshot what_was_missed_is_made_up_for);
contract!(consul: first_snapshot update delete empty_is_not_absent malformed_value unchanged_objects_are_shared at_once_is_one_snapshot
    thousand_keys unreachable_at_start loss_keeps_the_last_snapshot what_was_missed_is_made_up_for);
contract!(consul_catalog: first_snapshot update delete empty_is_not_absent malformed_value unchanged_objects_are_shared at_once_is_one_snapshot
    thousand_keys unreachable_at_start loss_keeps_the_last_snapshot what_was_missed_is_made_up_for);
contract!(etcd2: first_snapshot update delete empty_is_not_absent malformed_value unchanged_objects_are_shared
    thousand_keys unreachable_at_start loss_keeps_the_last_snapshot what_was_missed_is_made_up_for);
contract!(docker: first_snapshot update delete empty_is_not_absent malformed_value unchanged_objects_are_shared at_once_is_one_snapshot
    thousand_keys unreachable_at_start loss_keeps_the_last_snapshot what_was_missed_is_made_up_for);
// Of a document, endpoints are part of their upstream: the promises that write them one by one are kept by its own tests.
contract!(http: empty_is_not_absent malformed_value unchanged_objects_are_shared unreachable_at_start loss_keeps_the_last_snapshot
    what_was_missed_is_made_up_for);
contract!(marathon: first_snapshot update delete empty_is_not_absent malformed_value unchanged_objects_are_shared at_once_is_one_snapshot
    thousand_keys unreachable_at_start loss_keeps_the_last_snapshot what_was_missed_is_made_up_for);
contract!(zookeeper: first_snapshot update delete empty_is_not_absent malformed_value unchanged_objects_are_shared at_once_is_one_snapshot
    thousand_keys unreachable_at_start loss_keeps_the_last_snapshot what_was_missed_is_made_up_for);
contract!(swarm: first_snapshot update delete empty_is_not_absent malformed_value unchanged_objects_are_shared at_once_is_one_snapshot
    thousand_keys unreachable_at_start loss_keeps_the_last_snapshot what_was_missed_is_made_up_for);
contract!(program: first_snapshot update delete empty_is_not_absent malformed_value unchanged_objects_are_shared at_once_is_one_snapshot
    thousand_keys);

/// In other layouts the values are others, so the promises that write our own JSON are kept by tests of these.
mod etcd_in_other_layouts {
    use super::*;

    struct Layouted {
        _etcd: Etcd,
        relay: Relay,
        writer: Writer,
        observed: Observed,
    }

    async fn start(layout: LayoutKind, route: Option<&str>) -> Layouted {
        let etcd = Etcd::start().await;
        let relay = Relay::to(etcd.address()).await;
        let writer = etcd.writer().await;
        let route = route.map(|route| RouteTemplate::parse(route).expect("a template"));
        let endpoints = vec![format!("http://{}", relay.address())];
        let config = EtcdConfig { endpoints, prefix: layout.prefix_default(), layout, route, ..EtcdConfig::default() };
        let observed = Observed::new(Box::new(EtcdProvider::new(Name::literal("etcd"), config)));
        Layouted { _etcd: etcd, relay, writer, observed }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn services() {
        let Layouted { _etcd, relay, mut writer, observed } = start(LayoutKind::Services, Some(r#"Host("{name}.example.com")"#)).await;
        observed.until("nothing", is_empty).await;
        writer.put("/services/apache/vm:web_1:80", "10.99.0.1:32768").await;
        writer.put("/services/apache/CONTAINER", r#"{ "port": 49155, "host": "10.0.0.1" }"#).await;
        let both = observed.until("both", |now| endpoints(now, "apache") == ["10.0.0.1:49155", "10.99.0.1:32768"]).await;
        assert_eq!(both.routes["apache"].value.as_ref().map(|route| route.rule.text()), Ok(r#"Host("apache.example.com")"#));
        // The same key at another address: what made nsproxy keep the old one.
        writer.put("/services/apache/CONTAINER", r#"{ "port": 49156, "host": "10.0.0.2" }"#).await;
        observed.until("the new address", |now| endpoints(now, "apache") == ["10.0.0.2:49156", "10.99.0.1:32768"]).await;
        writer.put("/services/apache/CONTAINER", r#"{ "port": 8088, "[": , "host": "0.0.0.0" }"#).await;
        let bad = observed.until("a problem", |now| now.all_problems().count() == 1).await;
        assert_eq!(endpoints(&bad, "apache"), ["10.99.0.1:32768"], "the other serves on");
        relay.cut();
        observed.until_status("it fails", is_failing).await;
        assert!(observed.feed().latest().is_some_and(|now| now.routes.contains_key("apache")), "error is not empty");
        writer.delete("/services/apache/CONTAINER").await;
        writer.delete("/services/apache/vm:web_1:80").await;
        relay.mend();
        observed.within(Duration::from_secs(1), "the service is gone", is_empty).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn vulcand() {
        let Layouted { _etcd, relay, mut writer, observed } = start(LayoutKind::Vulcand, None).await;
        observed.until("nothing", is_empty).await;
        writer.put("/vulcand/backends/b1/backend", "{\"Type\":\"http\"}\n").await;
        writer.put("/vulcand/backends/b1/servers/s1", "{\"URL\":\"http://10.0.0.1:5000\"}\n").await;
        writer.put("/vulcand/frontends/f1/frontend", r#"{"Type":"http","BackendId":"b1","Route":"PathRegexp(\"/.*\")"}"#).await;
        let now = observed.until("the frontend", |now| now.routes.contains_key("f1")).await;
        assert_eq!(endpoints(&now, "b1"), ["10.0.0.1:5000"]);
        assert_eq!(now.all_problems().count(), 0);
        writer.put("/vulcand/frontends/f1/frontend", r#"{"Type":"http","BackendId":"b1","Route":"PathRegexp(\"\\.\")"}"#).await;
        let bad = observed.until("a problem", |now| now.all_problems().count() == 1).await;
        assert!(Arc::ptr_eq(&now.upstreams["b1"], &bad.upstreams["b1"]), "the backend did not change");
        relay.cut();
        observed.until_status("it fails", is_failing).await;
        writer.delete("/vulcand/backends/b1/servers/s1").await;
        relay.mend();
        observed.within(Duration::from_secs(1), "the server is gone", |now| endpoints(now, "b1").is_empty()).await;
    }
}

/// The stores by the names of their providers.
#[allow(non_camel_case_types)]
mod stores {
    pub(super) type docker = super::DockerStore;
    pub(super) type etcd = super::EtcdStore;
    pub(super) type consul = super::ConsulStore;
    pub(super) type consul_catalog = super::ConsulCatalogStore;
    pub(super) type etcd2 = super::Etcd2Store;
    pub(super) type http = super::HttpStore;
    pub(super) type marathon = super::MarathonStore;
    pub(super) type program = super::ProgramStore;
    pub(super) type zookeeper = super::ZookeeperStore;
    pub(super) type swarm = super::SwarmStore;
}

async fn first_snapshot<S: Store>() {
    let mut store = S::start().await;
    store.put("upstreams/api/endpoints/1", r#""10.0.0.1:80""#).await;
    store.put("routes/app", r#"{"match":"Host(\"a\")","upstream":"api"}"#).await;
    let observed = Observed::new(store.provider());
    let snapshot = observed.until("what was there before us", |snapshot| snapshot.routes.contains_key("app")).await;
    assert_eq!(endpoints(&snapshot, "api"), ["10.0.0.1:80"]);
    assert_eq!(observed.feed().status().state, FeedState::Live);
    observed.stop().await;
}

async fn update<S: Store>() {
    let mut store = S::start().await;
    let observed = Observed::new(store.provider());
    store.put("upstreams/api/endpoints/1", r#""10.0.0.1:80""#).await;
    observed.until("the first version", |snapshot| endpoints(snapshot, "api") == ["10.0.0.1:80"]).await;
    store.put("upstreams/api/endpoints/1", r#""10.0.0.2:80""#).await;
    observed.until("the second version", |snapshot| endpoints(snapshot, "api") == ["10.0.0.2:80"]).await;
}

async fn delete<S: Store>() {
    let mut store = S::start().await;
    store.put("upstreams/api/endpoints/1", r#""10.0.0.1:80""#).await;
    store.put("upstreams/api/endpoints/2", r#""10.0.0.2:80""#).await;
    let observed = Observed::new(store.provider());
    observed.until("both", |snapshot| endpoints(snapshot, "api").len() == 2).await;
    store.delete("upstreams/api/endpoints/1").await;
    observed.until("the other one", |snapshot| endpoints(snapshot, "api") == ["10.0.0.2:80"]).await;
}

async fn empty_is_not_absent<S: Store>() {
    let mut store = S::start().await;
    let observed = Observed::new(store.provider());
    let status = observed.until_status("an empty source is live", |status| status.state == FeedState::Live).await;
    assert!(status.has_snapshot, "an empty source has an empty snapshot");
    observed.until("nothing", is_empty).await;
    store.put("upstreams/api", "{}").await;
    observed.until("something", |snapshot| !is_empty(snapshot)).await;
    store.delete("upstreams/api").await;
    observed.until("nothing again", is_empty).await;
}

async fn malformed_value<S: Store>() {
    let mut store = S::start().await;
    let observed = Observed::new(store.provider());
    store.put("upstreams/bad", r#"{"retries":"many"}"#).await;
    store.put("upstreams/good", r#"{"retries":1}"#).await;
    let snapshot = observed.until("both", |snapshot| snapshot.upstreams.len() == 2).await;
    let value = |name: &str| snapshot.upstreams[name].settings.as_ref().expect("settings were written").value.as_ref();
    let problem = value("bad").expect_err("it cannot be read");
    assert_eq!(problem.object.as_ref().map(ToString::to_string).as_deref(), Some("upstream `bad`"));
    assert!(problem.origin.is_some(), "it says where");
    assert_eq!(value("good").map(|upstream| upstream.retries), Ok(1));
    store.put("upstreams/bad", r#"{"retries":3}"#).await;
    let is_mended = |entry: &nuncio::config::snapshot::UpstreamEntry| entry.settings.as_ref().is_some_and(|entry| entry.value.is_ok());
    observed.until("the mended value", |snapshot| is_mended(&snapshot.upstreams["bad"])).await;
}

async fn unchanged_objects_are_shared<S: Store>() {
    let mut store = S::start().await;
    store.put("upstreams/a", r#"{"retries":1}"#).await;
    store.put("upstreams/b", r#"{"retries":1}"#).await;
    let observed = Observed::new(store.provider());
    let before = observed.until("both", |snapshot| snapshot.upstreams.len() == 2).await;
    store.put("upstreams/c", r#"{"retries":1}"#).await;
    let after = observed.until("one more", |snapshot| snapshot.upstreams.len() == 3).await;
    for name in ["a", "b"] {
        assert!(Arc::ptr_eq(&before.upstreams[name], &after.upstreams[name]), "{name}");
    }
}

async fn at_once_is_one_snapshot<S: Store>() {
    let mut store = S::start().await;
    let mut provider = store.provider();
    let (recorder, mut recorded) = Recorder::new();
    let count = TXN_OPERATIONS_MAX;
    let check = async {
        for round in 1..=5 {
            let pairs: Vec<_> = (0..count).map(|index| endpoint("api", index, round)).collect();
            store.put_at_once(&pairs).await;
            loop {
                let (snapshot, _) = recorded.recv().await.expect("the provider lives");
                let addresses = endpoints(&snapshot, "api");
                let mut rounds: Vec<_> = addresses.iter().filter_map(|address| address.split(':').next_back()).collect();
                rounds.dedup();
                assert!(rounds.len() <= 1 && (addresses.is_empty() || addresses.len() == count), "a part of a step: {rounds:?}");
                if rounds == [(1000 + round).to_string()] {
                    break;
                }
            }
        }
    };
    tokio::select! {
        result = provider.watch(&recorder) => panic!("the provider stopped: {result:?}"),
        result = tokio::time::timeout(DEADLINE, check) => result.expect("in time"),
    }
}

async fn thousand_keys<S: Store>() {
    let mut store = S::start().await;
    let observed = Observed::new(store.provider());
    let pairs: Vec<_> = (0..1_000).map(|index| endpoint(&format!("u{}", index % 100), index, 0)).collect();
    for chunk in pairs.chunks(TXN_OPERATIONS_MAX) {
        store.put_at_once(chunk).await;
    }
    let count = |snapshot: &nuncio::config::Snapshot| snapshot.upstreams.values().map(|entry| entry.endpoints.len()).sum::<usize>();
    let snapshot = observed.until("a thousand endpoints", |snapshot| count(snapshot) == 1_000).await;
    assert_eq!(snapshot.upstreams.len(), 100);
    assert!(snapshot.problems.is_empty());
}

/// Invariant I7: error is not empty.
async fn unreachable_at_start<S: Losable>() {
    let mut store = S::start().await;
    store.put("upstreams/api", "{}").await;
    store.relay().cut();
    let observed = Observed::new(store.provider());
    let status = observed.until_status("it fails", is_failing).await;
    assert!(!status.has_snapshot, "what cannot be reached is not empty");
    assert!(observed.feed().latest().is_none());
    store.relay().mend();
    observed.within(Duration::from_secs(1), "it appears", |snapshot| snapshot.upstreams.contains_key("api")).await;
}

/// Invariant I7: error is not empty.
async fn loss_keeps_the_last_snapshot<S: Losable>() {
    let mut store = S::start().await;
    store.put("upstreams/api", "{}").await;
    let observed = Observed::new(store.provider());
    let before = observed.until("the upstream", |snapshot| snapshot.upstreams.contains_key("api")).await;
    store.relay().cut();
    let status = observed.until_status("it fails", is_failing).await;
    assert!(status.has_snapshot);
    let after = observed.feed().latest().expect("the last snapshot stays");
    assert!(Arc::ptr_eq(&before.upstreams["api"], &after.upstreams["api"]));
    store.relay().mend();
    observed.until_status("it is live again", |status| status.state == FeedState::Live).await;
    let again = observed.feed().latest().expect("the last snapshot stays");
    assert!(Arc::ptr_eq(&before.upstreams["api"], &again.upstreams["api"]), "what did not change is shared over a loss");
}

async fn what_was_missed_is_made_up_for<S: Losable>() {
    let mut store = S::start().await;
    store.put("upstreams/stays", "{}").await;
    store.put("upstreams/goes", "{}").await;
    let observed = Observed::new(store.provider());
    observed.until("both", |snapshot| snapshot.upstreams.len() == 2).await;
    store.relay().cut();
    observed.until_status("it fails", is_failing).await;
    store.delete("upstreams/goes").await;
    store.put("upstreams/comes", "{}").await;
    store.relay().mend();
    let is_right = |snapshot: &nuncio::config::Snapshot| snapshot.upstreams.keys().map(Name::as_str).eq(["comes", "stays"]);
    observed.within(Duration::from_secs(1), "the table is right", is_right).await;
}

fn is_failing(status: &nuncio::discovery::FeedStatus) -> bool {
    matches!(status.state, FeedState::Failing { .. })
}

/// An endpoint that tells its round by its port.
fn endpoint(upstream: &str, index: usize, round: usize) -> (String, String) {
    let address = format!("\"10.0.{}.{}:{}\"", index / 250, index % 250 + 1, 1000 + round);
    (format!("upstreams/{upstream}/endpoints/{index:04}"), address)
}

/// Keys of an etcd, which the provider reaches through a relay that can be cut.
struct EtcdStore {
    _etcd: Etcd,
    relay: Relay,
    writer: Writer,
}

impl EtcdStore {
    fn key(path: &str) -> String {
        format!("/nuncio/{path}")
    }
}

impl Store for EtcdStore {
    async fn start() -> Self {
        let etcd = Etcd::start().await;
        let relay = Relay::to(etcd.address()).await;
        let writer = etcd.writer().await;
        Self { _etcd: etcd, relay, writer }
    }

    fn provider(&mut self) -> Box<dyn Provider> {
        let endpoints = vec![format!("http://{}", self.relay.address())];
        Box::new(EtcdProvider::new(Name::literal("etcd"), EtcdConfig { endpoints, ..EtcdConfig::default() }))
    }

    async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        let pairs: Vec<_> = pairs.iter().map(|(path, value)| (Self::key(path), value.clone())).collect();
        self.writer.put_at_once(&pairs).await;
    }

    async fn delete(&mut self, path: &str) {
        self.writer.delete(&Self::key(path)).await;
    }
}

impl Losable for EtcdStore {
    fn relay(&self) -> &Relay {
        &self.relay
    }
}

/// Keys of a Consul agent, reached through a relay that can be cut.
struct ConsulStore {
    consul: Consul,
    relay: Relay,
}

impl ConsulStore {
    fn key(path: &str) -> String {
        format!("nuncio/{path}")
    }
}

impl Store for ConsulStore {
    async fn start() -> Self {
        let consul = Consul::start().await;
        let relay = Relay::to(consul.stub().address).await;
        Self { consul, relay }
    }

    fn provider(&mut self) -> Box<dyn Provider> {
        let endpoints = vec![format!("http://{}", self.relay.address())];
        Box::new(ConsulProvider::new(Name::literal("consul"), ConsulConfig { endpoints, ..ConsulConfig::default() }))
    }

    async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        let pairs: Vec<_> = pairs.iter().map(|(path, value)| (Self::key(path), value.clone())).collect();
        self.consul.put(&pairs);
    }

    async fn delete(&mut self, path: &str) {
        self.consul.delete(&Self::key(path));
    }
}

impl Losable for ConsulStore {
    fn relay(&self) -> &Relay {
        &self.relay
    }
}

/// Services of a Consul agent, reached through a relay that can be cut. An endpoint is an instance of the service of its upstream; other
/// objects are tags of an instance that is not well.
struct ConsulCatalogStore {
    consul: Consul,
    relay: Relay,
}

impl ConsulCatalogStore {
    fn definition(path: &str, value: &str) -> serde_json::Value {
        let value: serde_json::Value = serde_json::from_str(value).expect("values are JSON");
        match path.split('/').collect::<Vec<_>>().as_slice() {
            ["upstreams", upstream, "endpoints", _] => {
                let (address, port) = value.as_str().and_then(|address| address.split_once(':')).expect("an address");
                serde_json::json!({ "Name": upstream, "ID": path, "Address": address, "Port": port.parse::<u16>().expect("a port") })
            }
            [section, name] => {
                let service = value["upstream"].as_str().unwrap_or(name);
                let tag = format!("nuncio.{section}.{name}={value}");
                serde_json::json!({ "Name": service, "ID": path, "Tags": [tag], "Check": { "Status": "critical" } })
            }
            _ => panic!("{path} is no object"),
        }
    }
}

impl Store for ConsulCatalogStore {
    async fn start() -> Self {
        let consul = Consul::start().await;
        let relay = Relay::to(consul.stub().address).await;
        Self { consul, relay }
    }

    fn provider(&mut self) -> Box<dyn Provider> {
        let endpoints = vec![format!("http://{}", self.relay.address())];
        let services = vec![ServicePattern::parse("*").expect("a pattern")];
        let catalog = Some(CatalogConfig { services, ..CatalogConfig::default() });
        let config = ConsulConfig { endpoints, kv: false, catalog, ..ConsulConfig::default() };
        Box::new(ConsulProvider::new(Name::literal("consul"), config))
    }

    async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        self.consul.set(|state| {
            state.index += 1;
            pairs.iter().for_each(|(path, value)| state.services.register(Self::definition(path, value), state.index));
        });
    }

    async fn delete(&mut self, path: &str) {
        self.consul.set(|state| {
            state.index += 1;
            state.services.deregister(path, state.index);
        });
    }
}

impl Losable for ConsulCatalogStore {
    fn relay(&self) -> &Relay {
        &self.relay
    }
}

/// Keys of an etcd's v2 API, which knows no transactions, reached through a relay that can be cut.
struct Etcd2Store {
    _etcd: Etcd,
    relay: Relay,
    writer: Etcd2Writer,
}

impl Store for Etcd2Store {
    async fn start() -> Self {
        let etcd = support::etcd2::start().await;
        let relay = Relay::to(etcd.address()).await;
        let writer = Etcd2Writer::new(etcd.address());
        Self { _etcd: etcd, relay, writer }
    }

    fn provider(&mut self) -> Box<dyn Provider> {
        let endpoints = vec![format!("http://{}", self.relay.address())];
        Box::new(Etcd2Provider::new(Name::literal("etcd2"), EtcdConfig { endpoints, ..EtcdConfig::default() }))
    }

    async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        for (path, value) in pairs {
            self.writer.put(&EtcdStore::key(path), value).await;
        }
    }

    async fn delete(&mut self, path: &str) {
        self.writer.delete(&EtcdStore::key(path)).await;
    }
}

impl Losable for Etcd2Store {
    fn relay(&self) -> &Relay {
        &self.relay
    }
}

/// Znodes of a ZooKeeper, reached through a relay that can be cut.
struct ZookeeperStore {
    _server: ZooKeeper,
    relay: Relay,
    writer: ZooKeeperWriter,
}

impl Store for ZookeeperStore {
    async fn start() -> Self {
        let server = ZooKeeper::start().await;
        let relay = Relay::to(server.address()).await;
        let writer = server.writer().await;
        Self { _server: server, relay, writer }
    }

    fn provider(&mut self) -> Box<dyn Provider> {
        let endpoints = vec![self.relay.address().to_string()];
        Box::new(ZookeeperProvider::new(Name::literal("zookeeper"), ZookeeperConfig { endpoints, ..ZookeeperConfig::default() }))
    }

    async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        let pairs: Vec<_> = pairs.iter().map(|(path, value)| (EtcdStore::key(path), value.clone())).collect();
        self.writer.put_at_once(&pairs).await;
    }

    async fn delete(&mut self, path: &str) {
        self.writer.delete(&EtcdStore::key(path)).await;
    }
}

impl Losable for ZookeeperStore {
    fn relay(&self) -> &Relay {
        &self.relay
    }
}

/// Labels of containers, one container for each object, which the provider reads through a relay that can be cut.
struct DockerStore {
    engine: EngineStub,
    relay: Relay,
}

impl DockerStore {
    fn label(path: &str, value: &str) -> (String, String) {
        (format!("nuncio.{}", path.replace('/', ".")), value.to_owned())
    }
}

impl Store for DockerStore {
    async fn start() -> Self {
        let engine = EngineStub::start().await;
        let relay = Relay::to(engine.address()).await;
        Self { engine, relay }
    }

    fn provider(&mut self) -> Box<dyn Provider> {
        let endpoint = format!("tcp://{}", self.relay.address()).parse().expect("an address of an engine");
        Box::new(DockerProvider::new(Name::literal("docker"), DockerConfig { endpoint, ..DockerConfig::default() }))
    }

    async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        let containers: Vec<_> = pairs.iter().map(|(path, value)| (path.clone(), Self::label(path, value))).collect();
        self.engine.run(&containers);
    }

    async fn delete(&mut self, path: &str) {
        self.engine.remove(path);
    }
}

impl Losable for DockerStore {
    fn relay(&self) -> &Relay {
        &self.relay
    }
}

/// Labels of services of a Swarm, otherwise the same.
struct SwarmStore(DockerStore);

impl Store for SwarmStore {
    async fn start() -> Self {
        Self(DockerStore::start().await)
    }

    fn provider(&mut self) -> Box<dyn Provider> {
        let endpoint = format!("tcp://{}", self.0.relay.address()).parse().expect("an address of an engine");
        Box::new(SwarmProvider::new(Name::literal("swarm"), SwarmConfig { endpoints: vec![endpoint], ..SwarmConfig::default() }))
    }

    async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        self.0.put_at_once(pairs).await;
    }

    async fn delete(&mut self, path: &str) {
        self.0.delete(path).await;
    }
}

impl Losable for SwarmStore {
    fn relay(&self) -> &Relay {
        &self.0.relay
    }
}

/// Labels of apps of a Marathon, one app for each object, which the provider reads through a relay that can be cut.
struct MarathonStore {
    marathon: Marathon,
    relay: Relay,
}

impl MarathonStore {
    fn app(path: &str, value: &str) -> serde_json::Value {
        labelled(&format!("/{path}"), &[(&format!("nuncio.{}", path.replace('/', ".")), value)])
    }
}

impl Store for MarathonStore {
    async fn start() -> Self {
        let marathon = Marathon::start().await;
        let relay = Relay::to(marathon.stub().address).await;
        Self { marathon, relay }
    }

    fn provider(&mut self) -> Box<dyn Provider> {
        let endpoints = vec![format!("http://{}", self.relay.address())];
        Box::new(MarathonProvider::new(Name::literal("marathon"), MarathonConfig { endpoints, ..MarathonConfig::default() }))
    }

    async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        self.marathon.put_all(pairs.iter().map(|(path, value)| Self::app(path, value)).collect());
    }

    async fn delete(&mut self, path: &str) {
        self.marathon.destroy(&format!("/{path}"));
    }
}

impl Losable for MarathonStore {
    fn relay(&self) -> &Relay {
        &self.relay
    }
}

/// A document with one object per line, reached through a relay that can be cut.
struct HttpStore {
    document: Arc<Mutex<BTreeMap<String, BTreeMap<String, String>>>>,
    _stub: Stub,
    relay: Relay,
}

impl HttpStore {
    fn change(&self, path: &str, value: Option<&str>) {
        let (section, name) = path.split_once('/').expect("a section and a name");
        let mut document = self.document.lock().expect("nobody panics with it");
        let section = document.entry(section.to_owned()).or_default();
        match value {
            Some(value) => drop(section.insert(name.to_owned(), value.to_owned())),
            None => drop(section.remove(name)),
        }
    }
}

impl Store for HttpStore {
    async fn start() -> Self {
        let document: Arc<Mutex<BTreeMap<String, BTreeMap<String, String>>>> = Arc::default();
        let held = document.clone();
        let stub = Stub::start(move |_| {
            let section = |(section, objects): (&String, &BTreeMap<String, String>)| {
                let objects: Vec<String> = objects.iter().map(|(name, value)| format!("\n\"{name}\":{value}")).collect();
                format!("\"{section}\":{{{}}}", objects.join(","))
            };
            let sections: Vec<String> = held.lock().expect("nobody panics with it").iter().map(section).collect();
            let text = format!("{{{}}}", sections.join(","));
            async move { Say::Whole(200, "Content-Type: application/json\r\n".into(), text) }
        })
        .await;
        let relay = Relay::to(stub.address).await;
        Self { document, _stub: stub, relay }
    }

    fn provider(&mut self) -> Box<dyn Provider> {
        let url = format!("http://{}/edge", self.relay.address());
        let config = HttpConfig { poll: Duration::from_millis(100), ..HttpConfig::of_url(&url) };
        Box::new(HttpProvider::new(Name::literal("http"), config))
    }

    async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        pairs.iter().for_each(|(path, value)| self.change(path, Some(value)));
    }

    async fn delete(&mut self, path: &str) {
        self.change(path, None);
    }
}

impl Losable for HttpStore {
    fn relay(&self) -> &Relay {
        &self.relay
    }
}

/// A program that publishes after every step.
struct ProgramStore {
    provider: Option<ProgramProvider>,
    handle: ProgramHandle,
    tree: Tree,
    values: BTreeMap<String, String>,
}

impl ProgramStore {
    fn publish(&mut self) {
        let pairs = self.values.iter().map(|(key, value)| Pair { key: key.as_bytes(), value: value.as_bytes(), revision: 0 });
        self.tree.replace(pairs);
        self.handle.publish_snapshot(self.tree.snapshot(None, Instant::now()));
    }
}

impl Store for ProgramStore {
    async fn start() -> Self {
        let name = Name::literal("program");
        let (provider, handle) = ProgramProvider::new(name.clone());
        handle.publish(nuncio::config::RoutingConfig::default());
        Self { provider: Some(provider), handle, tree: Tree::new("", name), values: BTreeMap::new() }
    }

    fn provider(&mut self) -> Box<dyn Provider> {
        Box::new(self.provider.take().expect("a provider is asked for once"))
    }

    async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        self.values.extend(pairs.iter().map(|(path, value)| (format!("/{path}"), value.clone())));
        self.publish();
    }

    async fn delete(&mut self, path: &str) {
        self.values.remove(&format!("/{path}"));
        self.publish();
    }
}
