//! `nuncio register`: containers of a real engine in a real etcd, and everything that may happen to either.

use std::time::Duration;

use nuncio::config::providers::{EtcdConfig, LayoutKind, ZookeeperConfig};
use nuncio::config::{ProviderConfig, Snapshot};
use nuncio::discovery::{ConsulProvider, Etcd2Provider, EtcdProvider, FeedState, ZookeeperProvider};
use nuncio::names::Name;
use rustix::process::Signal;
use serde_json::Value;

use crate::Nuncio;
use crate::support::consul_agent::Agent;
use crate::support::dockerd::{Dockerd, IMAGE};
use crate::support::etcd::Etcd;
use crate::support::etcd2::{self, Etcd2Writer};
use crate::support::zookeeper::ZooKeeper;
use crate::support::{DEADLINE, Observed, endpoints};

/// Runs until it is killed, and at once if it is told to end.
const SLEEP: [&str; 3] = ["/bin/sh", "-c", "trap exit TERM; while :; do /bin/busybox sleep 0.1; done"];

fn observe(etcd: &Etcd) -> Observed {
    let config =
        EtcdConfig { endpoints: vec![etcd.url()], prefix: "/services".into(), layout: LayoutKind::Services, ..EtcdConfig::default() };
    Observed::new(Box::new(EtcdProvider::new(Name::literal("etcd"), config)))
}

fn run(engine: &Dockerd, name: &str, options: &[&str]) {
    engine.docker(&[&["run", "--detach", "--name", name], options, &[IMAGE], SLEEP.as_slice()].concat());
}

fn register(engine: &Dockerd, etcd: &Etcd, arguments: &[&str]) -> Nuncio {
    let docker = format!("docker://{}", engine.socket().display());
    let store = format!("etcd://{}", etcd.address());
    Nuncio::start(&[&["register", "--docker", &docker, "--to", &store, "--ttl", "2s"], arguments].concat())
}

fn are(service: &'static str, expected: &'static [&str]) -> impl Fn(&Snapshot) -> bool {
    move |snapshot| endpoints(snapshot, service) == expected
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_registered_as_long_as_they_serve() {
    let (engine, etcd) = (Dockerd::start().await, Etcd::start().await);
    let observed = observe(&etcd);
    let mut writer = etcd.writer().await;
    writer.put("/services/web/another", "10.9.9.9:1").await;
    let mut registrar = register(&engine, &etcd, &["--host-ip=10.0.0.1"]);

    run(&engine, "one", &["--label=SERVICE_NAME=web", "--publish=8001:80"]);
    observed.until("one", are("web", &["10.9.9.9:1", "10.0.0.1:8001"])).await;
    run(&engine, "two", &["--env=SERVICE_NAME=web", "--env=SERVICE_WEIGHT=3", "--publish=127.0.0.2:8002:80"]);
    run(&engine, "ports", &["--label=SERVICE_NAME=api", "--label=SERVICE_81_IGNORE=1", "--publish=8003:80", "--publish=8004:81"]);
    run(&engine, "silent", &["--publish=8005:80"]);
    let snapshot = observed.until("what it says", are("api-80", &["10.0.0.1:8003"])).await;
    let two = snapshot.upstreams["web"].endpoints["two"].value.as_ref().unwrap();
    assert_eq!((two.address.to_string(), two.weight), ("127.0.0.2:8002".to_owned(), 3));
    assert_eq!((snapshot.upstreams.len(), snapshot.problems.len()), (2, 0));

    let check = ["--health-cmd=/bin/busybox test -e /well", "--health-interval=1s", "--health-retries=1"];
    run(&engine, "sick", &[["--label=SERVICE_NAME=sick", "--publish=8006:80"].as_slice(), &check].concat());
    run(&engine, "later", &["--label=SERVICE_NAME=later", "--publish=8007:80"]);
    let snapshot = observed.until("one that came later", are("later", &["10.0.0.1:8007"])).await;
    assert!(!snapshot.upstreams.contains_key("sick"), "its check has not passed");
    engine.docker(&["exec", "sick", "/bin/busybox", "touch", "/well"]);
    observed.until("it is healthy", are("sick", &["10.0.0.1:8006"])).await;
    engine.docker(&["exec", "sick", "/bin/busybox", "rm", "/well"]);
    observed.until("it is not", are("sick", &[])).await;

    engine.docker(&["pause", "one"]);
    observed.until("a paused one is gone", are("web", &["10.9.9.9:1", "127.0.0.2:8002"])).await;
    engine.docker(&["unpause", "one"]);
    observed.until("it goes on", are("web", &["10.9.9.9:1", "10.0.0.1:8001", "127.0.0.2:8002"])).await;
    engine.docker(&["stop", "two", "ports"]);
    observed.until("who was stopped is gone", |it| endpoints(it, "web").len() == 2 && endpoints(it, "api-80").is_empty()).await;
    // By someone else, who is not asked whether it may stay.
    writer.put("/services/later/later", "10.9.9.9:2").await;
    assert_eq!(registrar.end(Signal::TERM).await, Some(0));
    observed.until("its own is deleted", are("web", &["10.9.9.9:1"])).await;
    observed.until("what another one wrote stays", are("later", &["10.9.9.9:2"])).await;
    observed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_store_and_engine_is_made_good() {
    let (mut engine, mut etcd) = (Dockerd::start().await, Etcd::start().await);
    let observed = observe(&etcd);
    run(&engine, "one", &["--label=SERVICE_NAME=web", "--publish=8001:80", "--restart=always"]);
    run(&engine, "two", &["--label=SERVICE_NAME=api", "--publish=8002:80"]);
    let mut registrar = register(&engine, &etcd, &["--host-ip=10.0.0.1", "--layout=registrator", "--hostname=vm"]);
    let is_all = |snapshot: &Snapshot| are("web", &["10.0.0.1:8001"])(snapshot) && are("api", &["10.0.0.1:8002"])(snapshot);
    let snapshot = observed.until("both", is_all).await;
    assert!(snapshot.upstreams["web"].endpoints.contains_key("vm:one:80"));

    let mut writer = etcd.writer().await;
    writer.delete("/services/web/vm:one:80").await;
    observed.until("it was deleted", are("web", &[])).await;
    observed.until("and is written again", is_all).await;

    etcd.kill();
    etcd.wipe();
    etcd.run().await;
    let mut writer = etcd.writer().await;
    let lease = loop {
        // The store tells nobody of leases.
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let [lease] = writer.0.leases().await.unwrap().leases() {
            break lease.id();
        }
    };
    observed.until_status("the reader is back", |status| status.state == FeedState::Live).await;
    observed.until("the store was empty, and is written to anew", is_all).await;
    writer.0.lease_revoke(lease).await.unwrap();
    observed.until("its lease ended", |snapshot| snapshot.upstreams.is_empty()).await;
    observed.until("it has another one", is_all).await;

    // Containers end with this engine, and what is known of them stays until it answers.
    engine.kill();
    registrar.until_says("the engine is asked again").await;
    assert!(is_all(&observed.feed().latest().unwrap()), "an engine that does not answer deregisters nobody");
    engine.run().await;
    observed
        .until("only one was started again", |snapshot| are("web", &["10.0.0.1:8001"])(snapshot) && endpoints(snapshot, "api").is_empty())
        .await;

    registrar.end(Signal::KILL).await;
    observed.until("what is left ends by itself", |snapshot| snapshot.upstreams.is_empty()).await;
    observed.stop().await;
}

async fn until_true(what: &str, condition: impl AsyncFn() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, holds).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The other stores, one beside the other: an entry is there, goes with its container, comes back after the store lost it, and ends with
/// its registrar, by deletion or by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_forgets_who_is_gone() {
    let engine = Dockerd::start().await;
    let (mut etcd, mut zookeeper, agent) = (etcd2::start().await, ZooKeeper::start().await, Agent::start().await);
    let name = Name::literal("store");
    let settings =
        EtcdConfig { endpoints: vec![etcd.url()], prefix: "/services".into(), layout: LayoutKind::Services, ..EtcdConfig::default() };
    let of_etcd = Observed::new(Box::new(Etcd2Provider::new(name.clone(), settings)));
    let settings = ZookeeperConfig {
        endpoints: vec![zookeeper.address().to_string()],
        prefix: "/services".into(),
        layout: LayoutKind::Services,
        ..ZookeeperConfig::default()
    };
    let of_zookeeper = Observed::new(Box::new(ZookeeperProvider::new(name.clone(), settings)));
    let settings = ProviderConfig::parse_url(&format!("consul://{}?services=web,other&kv=false", agent.address)).unwrap();
    let ProviderConfig::Consul(settings) = settings else { panic!("{settings:?}") };
    let of_consul = Observed::new(Box::new(ConsulProvider::new(name, settings)));

    let docker = format!("docker://{}", engine.socket().display());
    let register = |store: String| Nuncio::start(&["register", "--docker", &docker, "--to", &store, "--ttl=2s", "--host-ip=10.0.0.1"]);
    let stores =
        [format!("etcd2://{}", etcd.address()), format!("zookeeper://{}", zookeeper.address()), format!("consul://{}", agent.address)];
    let mut registrars = stores.map(register);
    run(&engine, "one", &["--label=SERVICE_NAME=web", "--label=SERVICE_TAGS=blue", "--publish=8001:80"]);
    run(&engine, "two", &["--label=SERVICE_NAME=other", "--publish=8002:80"]);
    let is_one = are("web", &["10.0.0.1:8001"]);
    for observed in [&of_etcd, &of_zookeeper, &of_consul] {
        observed.until("the container", |snapshot| is_one(snapshot) && endpoints(snapshot, "other").len() == 1).await;
    }
    let services = agent.get("/v1/health/service/web").await;
    assert!(services.contains(r#""blue""#) && services.contains(r#""passing""#), "{services}");
    engine.docker(&["stop", "two"]);
    for observed in [&of_etcd, &of_zookeeper, &of_consul] {
        observed.until("who was stopped is gone", |snapshot| is_one(snapshot) && endpoints(snapshot, "other").is_empty()).await;
    }

    // Below an entry there can be none, but for Consul, which has no keys. Others are registered all the same.
    run(&engine, "bad", &["--label=SERVICE_NAME=web/one", "--publish=8003:80"]);
    for registrar in registrars.iter().take(2) {
        registrar.until_says("/services/web/one/bad = ").await;
        assert!(registrar.said().contains("the store refuses it"), "{}", registrar.said());
    }
    run(&engine, "three", &["--label=SERVICE_NAME=other", "--publish=8004:80"]);
    for observed in [&of_etcd, &of_zookeeper, &of_consul] {
        observed.until("others", are("other", &["10.0.0.1:8004"])).await;
    }

    Etcd2Writer::new(etcd.address()).delete("/services/web/one").await;
    of_etcd.until("it was deleted", |snapshot| endpoints(snapshot, "web").is_empty()).await;
    zookeeper.writer().await.delete("/services/web/one").await;
    of_zookeeper.until("it was deleted", |snapshot| endpoints(snapshot, "web").is_empty()).await;
    let ids: Value = serde_json::from_str(&services).unwrap();
    agent.deregister(ids[0]["Service"]["ID"].as_str().unwrap()).await;
    of_consul.until("it was deregistered", |snapshot| endpoints(snapshot, "web").is_empty()).await;
    for observed in [&of_etcd, &of_zookeeper, &of_consul] {
        observed.until("it is written again", &is_one).await;
    }

    etcd.kill();
    etcd.wipe();
    etcd.run().await;
    zookeeper.kill();
    zookeeper.wipe();
    zookeeper.run().await;
    // Readers keep what they knew, so the stores are asked themselves.
    let reader = Etcd2Writer::new(etcd.address());
    until_true("etcd was empty, and is written to anew", async || reader.get("/v2/keys/services/web/one").await.status() == 200).await;
    let reader = zookeeper.writer().await;
    let client = reader.client();
    let is_there = async || client.check_stat("/services/web/one").await.is_ok_and(|stat| stat.is_some());
    until_true("ZooKeeper was empty, and is written to anew", is_there).await;

    // The first two end by themselves; Consul's would after a minute, and is deregistered.
    let [first, second, third] = &mut registrars;
    first.end(Signal::KILL).await;
    second.end(Signal::KILL).await;
    assert_eq!(third.end(Signal::TERM).await, Some(0));
    for observed in [of_etcd, of_zookeeper, of_consul] {
        observed.until("nobody is left", |snapshot| endpoints(snapshot, "web").is_empty()).await;
        observed.stop().await;
    }
}
