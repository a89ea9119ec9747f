//! A table that survives its sources: what a store said last serves when the store is down at the next start.

mod support;

use std::path::Path;
use std::time::Duration;

use nuncio::config::Protection;
use nuncio::config::providers::EtcdConfig;
use nuncio::discovery::EtcdProvider;
use nuncio::{Name, Server};
use support::DEADLINE;
use support::etcd::{Etcd, Writer};
use support::http1::{AfterResponse, Connection, Endpoint};
use tempfile::TempDir;

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A server that watches a store, and keeps what it learns.
fn start(etcd: &Etcd, data_dir: &Path) -> Server {
    let config = EtcdConfig { endpoints: vec![etcd.url()], ..EtcdConfig::default() };
    let provider = EtcdProvider::new(Name::literal("etcd"), config);
    let admin = "127.0.0.1:0".parse().expect("an address");
    // What is gone is to be seen at once.
    let protection = Protection { grace: Duration::ZERO, ..Protection::default() };
    let builder = Server::builder().workers(1).admin(admin).data_dir(data_dir).protection(protection);
    builder.provider(provider).start().expect("a server starts")
}

/// Writes a listener, and a route to an upstream with one endpoint.
async fn fill(store: &mut Writer, endpoint: &Endpoint) {
    let pairs = [
        ("/nuncio/listeners/web", r#"{"address":"127.0.0.1:0"}"#.to_string()),
        ("/nuncio/routes/app", r#"{"match":"Host(\"a.test\")","upstream":"app"}"#.into()),
        ("/nuncio/upstreams/app/endpoints/0", endpoint.address.to_string()),
    ];
    store.put_at_once(&pairs.map(|(key, value)| (key.to_string(), value))).await;
}

/// Waits until a condition holds that a new table, or a provider's new state, can bring.
async fn until(server: &Server, what: &str, is_so: impl Fn(&Server) -> bool) {
    let reached = async {
        while !is_so(server) {
            // What is waited for has no event of its own.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(DEADLINE, reached).await.is_err() {
        panic!("{what}: {:?}, {:?}", server.status().readiness(), server.status().problems());
    }
}

async fn status_of(server: &Server) -> u16 {
    let address = server.local_addr(&Name::literal("web")).expect("the listener is open");
    let mut connection = Connection::open(address).await.expect("it accepts");
    connection.exchange(GET).await.expect("an answer").status()
}

async fn ask_admin(server: &Server, path: &str) -> (u16, serde_json::Value) {
    send_admin(server, "GET", path, "").await
}

async fn send_admin(server: &Server, method: &str, path: &str, fields: &str) -> (u16, serde_json::Value) {
    let address = server.admin_addr().expect("it has an admin API");
    let mut connection = Connection::open(address).await.expect("it accepts");
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{fields}\r\n");
    let answer = connection.exchange(&request).await.expect("an answer");
    (answer.status(), serde_json::from_str(&answer.body).expect("JSON"))
}

/// A store that was read once, and is down; what was kept of it; and the endpoint that it names.
async fn a_store_that_was() -> (Etcd, TempDir, Endpoint) {
    let mut etcd = Etcd::start().await;
    let data_dir = tempfile::tempdir().expect("a temporary directory");
    let endpoint = Endpoint::start(0, AfterResponse::Keep).await;
    let server = start(&etcd, data_dir.path());
    fill(&mut etcd.writer().await, &endpoint).await;
    until(&server, "the first table", |server| server.local_addr(&Name::literal("web")).is_some()).await;
    assert_eq!(status_of(&server).await, 200);
    assert!(server.shutdown().await);
    etcd.kill();
    (etcd, data_dir, endpoint)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_the_store_serves_what_was_known() {
    let (mut etcd, data_dir, endpoint) = a_store_that_was().await;
    let server = start(&etcd, data_dir.path());
    tokio::time::timeout(DEADLINE, server.ready()).await.expect("it is ready");
    assert_eq!(status_of(&server).await, 200);

    let (code, readiness) = ask_admin(&server, "/readyz").await;
    let warning = readiness["warnings"][0].as_str().expect("a warning");
    assert!(code == 200 && readiness["ready"] == true && warning.starts_with("provider etcd: served from disk, kept "), "{readiness}");
    let (_, table) = ask_admin(&server, "/api/v1/table").await;
    assert!(table["providers"][0]["from_disk_seconds"].as_f64().is_some_and(|age| age < 60.0), "{table}");
    let problems = table["problems"].to_string();
    assert!(problems.contains("provider etcd is served from disk"), "{problems}");
    until(&server, "the metric", |server| server.metrics().contains("nuncio_provider_from_disk{provider=\"etcd\"} 1\n")).await;

    // The store is back, and says something else.
    etcd.run().await;
    let mut store = etcd.writer().await;
    store.delete("/nuncio/routes/app").await;
    until(&server, "what the store says now", |server| server.table().routes.is_empty()).await;
    assert_eq!(status_of(&server).await, 404);
    fill(&mut store, &endpoint).await;
    until(&server, "its route again", |server| !server.table().routes.is_empty()).await;
    let (_, readiness) = ask_admin(&server, "/readyz").await;
    assert!(readiness.get("warnings").is_none(), "{readiness}");
    until(&server, "the metric", |server| server.metrics().contains("nuncio_provider_from_disk{provider=\"etcd\"} 0\n")).await;
    assert_eq!(server.status().problems(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_up_is_served_at_once_and_never_from_disk() {
    let (mut etcd, data_dir, endpoint) = a_store_that_was().await;
    etcd.run().await;
    etcd.writer().await.put("/nuncio/upstreams/app/endpoints/0", "127.0.0.1:1").await;
    let server = start(&etcd, data_dir.path());
    tokio::time::timeout(DEADLINE, server.ready()).await.expect("it is ready");
    assert_eq!(server.table().generation, 1);
    let address = server.table().upstreams["app"].endpoints[0].address.to_string();
    assert_eq!(address, "127.0.0.1:1", "not {}, which is what was kept", endpoint.address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_a_problem_and_nothing_else() {
    let (mut etcd, data_dir, endpoint) = a_store_that_was().await;
    let path = data_dir.path().join("snapshots/etcd.sealed");
    let mut bytes = std::fs::read(&path).expect("it was kept");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&path, bytes).expect("our own file");
    let server = start(&etcd, data_dir.path());
    until(&server, "the problem", |server| !server.status().problems().is_empty()).await;
    let problem = server.status().problems()[0].to_string();
    assert!(problem.contains("etcd.sealed is not used: it is damaged"), "{problem}");
    assert!(!server.status().readiness().ready, "nothing is known");
    etcd.run().await;
    tokio::time::timeout(DEADLINE, server.ready()).await.expect("the store is back");
    assert_eq!(status_of(&server).await, 200);
    until(&server, "it is kept again", |server| server.status().problems().is_empty()).await;
    assert!(server.shutdown().await);
    etcd.kill();
    let server = start(&etcd, data_dir.path());
    tokio::time::timeout(DEADLINE, server.ready()).await.expect("from disk");
    assert_eq!(status_of(&server).await, 200);
    drop(endpoint);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_became_unreadable_serves_as_it_was_after_a_restart_too() {
    let (mut etcd, data_dir, _endpoint) = a_store_that_was().await;
    etcd.run().await;
    let server = start(&etcd, data_dir.path());
    tokio::time::timeout(DEADLINE, server.ready()).await.expect("the store is there");
    etcd.writer().await.put("/nuncio/routes/app", "{").await;
    until(&server, "the problem", |server| !server.table().problems.is_empty()).await;
    assert_eq!(status_of(&server).await, 200);
    assert!(server.shutdown().await);
    etcd.kill();
    let server = start(&etcd, data_dir.path());
    tokio::time::timeout(DEADLINE, server.ready()).await.expect("from disk");
    assert_eq!(status_of(&server).await, 200);
    assert!(server.table().problems.iter().any(|problem| problem.to_string().contains("/nuncio/routes/app")), "it is told all the same");
    etcd.run().await;
    until(&server, "the store is heard", |server| server.status().feeds()[0].status().from_disk.is_none()).await;
    assert_eq!(status_of(&server).await, 200, "the route keeps its place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_store_empties_what_is_kept() {
    let (mut etcd, data_dir, _endpoint) = a_store_that_was().await;
    etcd.run().await;
    let server = start(&etcd, data_dir.path());
    etcd.writer().await.delete_prefix("/nuncio/").await;
    until(&server, "nothing", |server| server.table().generation > 0 && server.table().routes.is_empty()).await;
    assert!(server.shutdown().await);
    etcd.kill();
    let server = start(&etcd, data_dir.path());
    tokio::time::timeout(DEADLINE, server.ready()).await.expect("an empty table is a table");
    assert!(server.table().routes.is_empty(), "what was deleted stays deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_end_together_are_held_until_someone_confirms_it() {
    let (mut etcd, data_dir, endpoint) = a_store_that_was().await;
    etcd.run().await;
    let server = start(&etcd, data_dir.path());
    let mut store = etcd.writer().await;
    store.delete("/nuncio/upstreams/app/endpoints/0").await;
    store.put("/nuncio/upstreams/app", "{}").await;
    for id in 1..=5 {
        store.put_with_lease(&format!("/nuncio/upstreams/app/endpoints/{id}"), &endpoint.address.to_string(), 2).await;
    }
    let count = |server: &Server| server.table().upstreams.get("app").map_or(0, |upstream| upstream.endpoints.len());
    until(&server, "all instances", |server| {
        count(server) == 1 && server.status().feeds()[0].latest().is_some_and(|latest| latest.upstreams["app"].endpoints.len() == 5)
    })
    .await;
    until(&server, "the guard", |server| server.status().feeds()[0].status().held.is_some()).await;
    assert_eq!((status_of(&server).await, count(&server)), (200, 1));
    let (_, table) = ask_admin(&server, "/api/v1/table").await;
    assert_eq!(table["providers"][0]["held"]["gone"][0]["kind"], "endpoint", "{table}");
    assert!(table["problems"].to_string().contains("`nuncio release etcd`"), "{table}");

    let path = "/api/v1/providers/etcd/release";
    assert_eq!(ask_admin(&server, path).await.0, 405);
    assert_eq!(send_admin(&server, "POST", path, "Origin: http://localhost\r\n").await.0, 403);
    assert_eq!(send_admin(&server, "POST", "/api/v1/providers/other/release", "").await.0, 404);
    assert_eq!((status_of(&server).await, server.status().feeds()[0].status().held.is_some()), (200, true));
    // The leases may have ended in several steps, the last of which is still to come.
    let (code, answer) = send_admin(&server, "POST", path, "").await;
    assert_eq!((code, &answer["released"]), (200, &true.into()), "{answer}");
    until(&server, "what was held is gone", |server| server.status().feeds()[0].status().held.is_none() && count(server) == 0).await;
    assert_eq!(status_of(&server).await, 503);
    assert_eq!(send_admin(&server, "POST", path, "").await.1["released"], false);
}
