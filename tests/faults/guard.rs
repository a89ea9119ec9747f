//! A store that comes back empty after its data was lost: the guard, as it is by default, keeps what was in force.

use nuncio::config::providers::EtcdConfig;
use nuncio::discovery::EtcdProvider;
use nuncio::{Name, Server};

use crate::load::{self, Load};
use crate::support::DEADLINE;
use crate::support::etcd::Etcd;

/// As many requests are to be answered afterwards.
const ENOUGH: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_holds_what_a_lost_store_held() {
    let mut etcd = Etcd::start_in_memory().await;
    let endpoints = load::endpoints().await;
    let mut pairs: Vec<(String, String)> =
        (0..).zip(&endpoints).map(|(id, one)| (format!("upstreams/app/endpoints/{id}"), one.address.to_string())).collect();
    pairs.push(("routes/app".into(), r#"{"match":"Host(\"app.test\")","upstream":"app"}"#.into()));
    pairs.push(("listeners/web".into(), r#"{"address":"127.0.0.1:0"}"#.into()));
    let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| (format!("/nuncio/{key}"), value)).collect();
    etcd.writer().await.put_at_once(&pairs).await;
    let config = EtcdConfig { endpoints: vec![etcd.url()], ..EtcdConfig::default() };
    let server = Server::builder().workers(1).provider(EtcdProvider::new(Name::literal("etcd"), config)).start().expect("a server starts");
    tokio::time::timeout(DEADLINE, server.ready()).await.expect("it is ready");
    let mut load = Load::to(server.local_addr(&Name::literal("web")).expect("the listener is open"));
    let started = std::time::Instant::now();

    etcd.kill();
    etcd.wipe();
    etcd.run().await;
    let feed = server.status().feeds()[0].clone();
    let is_held = async {
        while feed.status().held.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, is_held).await.expect("it is held");
    let enough = load.answered() + ENOUGH;
    let goes_on = async {
        while load.answered() < enough {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, goes_on).await.expect("requests are answered");
    assert_eq!(server.table().upstreams["app"].endpoints.len(), endpoints.len());
    load.end().await;
    assert_eq!(load.failures(started), Vec::<String>::new());
    assert!(server.shutdown().await);
}
