//! From etcd to traffic, in one process: what befalls the store must not befall requests, and what it says must soon be so.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nuncio::config::problem::ObjectId;
use nuncio::config::providers::EtcdConfig;
use nuncio::discovery::EtcdProvider;
use nuncio::routing::RoutingTable;
use nuncio::{Name, Server};
use support::DEADLINE;
use support::etcd::{Etcd, TXN_OPERATIONS_MAX, Writer};
use support::http1::{AfterResponse, Connection, Endpoint};
use support::relay::Relay;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// For the table to be right again after its store is back.
const RIGHT_AGAIN_WITHIN: Duration = Duration::from_secs(1);

/// A server that watches a store.
struct World {
    server: Server,
    endpoints: Vec<Endpoint>,
}

impl World {
    /// A server of what `url` holds, which may not be there yet.
    async fn watching(url: String) -> Self {
        let config = EtcdConfig { endpoints: vec![url], ..EtcdConfig::default() };
        let provider = EtcdProvider::new(Name::literal("etcd"), config);
        let server = Server::builder().workers(1).provider(provider).start().expect("a server starts");
        let mut endpoints = Vec::new();
        for id in 0..3 {
            endpoints.push(Endpoint::start(id, AfterResponse::Keep).await);
        }
        Self { server, endpoints }
    }

    /// Writes a listener, and a route to an upstream with endpoint 0.
    async fn fill(&self, store: &mut Writer) {
        let pairs = [
            ("/nuncio/listeners/web", r#"{"address":"127.0.0.1:0"}"#.to_string()),
            ("/nuncio/routes/app", r#"{"match":"Host(\"a.test\")","upstream":"app"}"#.into()),
            ("/nuncio/upstreams/app/endpoints/0", self.endpoints[0].address.to_string()),
        ];
        store.put_at_once(&pairs.map(|(key, value)| (key.to_string(), value))).await;
    }

    async fn until(&self, what: &str, is_so: impl Fn(&RoutingTable) -> bool) {
        self.within(DEADLINE, what, is_so).await;
    }

    /// Waits for a table that is as expected. It is in force a moment before its listeners are open: that is waited for too.
    async fn within(&self, limit: Duration, what: &str, is_so: impl Fn(&RoutingTable) -> bool) {
        let mut generations = self.server.status().generations();
        let seen = generations.wait_for(|opened| {
            let table = self.server.table();
            *opened >= table.generation && is_so(&table)
        });
        if tokio::time::timeout(limit, seen).await.is_err() {
            panic!("{what}: not within {limit:?}: {:?}, {:?}", self.server.status().readiness(), self.server.table().upstreams);
        }
    }

    /// Waits until exactly these endpoints are in force.
    async fn until_endpoints(&self, limit: Duration, ids: &[usize]) {
        let expected: Vec<SocketAddr> = ids.iter().map(|id| self.endpoints[*id].address).collect();
        self.within(limit, &format!("endpoints {ids:?}"), |table| addresses(table) == expected).await;
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr(&Name::literal("web")).expect("the listener is open")
    }

    async fn ask(&self) -> (u16, String) {
        let mut connection = Connection::open(self.address()).await.expect("it accepts");
        let answer = connection.exchange(GET).await.expect("an answer");
        (answer.status(), answer.body)
    }
}

fn addresses(table: &RoutingTable) -> Vec<SocketAddr> {
    table.upstreams.get("app").map(|app| app.endpoints.iter().filter_map(|endpoint| endpoint.address.ip()).collect()).unwrap_or_default()
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Requests one after the other, on connections that are kept and on fresh ones, until told to stop. Each must be answered with 200.
struct Traffic {
    clients: JoinSet<Result<(), String>>,
    is_over: Arc<AtomicBool>,
    answered: watch::Sender<usize>,
}

impl Traffic {
    fn to(address: SocketAddr) -> Self {
        let mut traffic = Self { clients: JoinSet::new(), is_over: Arc::default(), answered: watch::Sender::new(0) };
        for is_kept in [true, true, false] {
            let (is_over, answered) = (traffic.is_over.clone(), traffic.answered.clone());
            traffic.clients.spawn(async move {
                let mut connection = Connection::open(address).await.map_err(|error| error.to_string())?;
                while !is_over.load(Ordering::Relaxed) {
                    let answer = connection.exchange(GET).await.map_err(|error| error.to_string())?;
                    if answer.status() != 200 {
                        return Err(answer.head);
                    }
                    answered.send_modify(|answered| *answered += 1);
                    if !is_kept {
                        connection = Connection::open(address).await.map_err(|error| error.to_string())?;
                    }
                }
                Ok(())
            });
        }
        traffic
    }

    /// Waits until it went on for a while.
    async fn goes_on(&self) {
        let mut answered = self.answered.subscribe();
        let enough = *answered.borrow() + 500;
        let went_on = answered.wait_for(|answered| *answered >= enough);
        tokio::time::timeout(DEADLINE, went_on).await.expect("traffic goes on").expect("we hold the sender");
    }

    async fn ends_without_a_failure(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for end in self.clients.join_all().await {
            assert_eq!(end, Ok(()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_dies_takes_nothing_with_it() {
    let mut etcd = Etcd::start().await;
    let world = World::watching(etcd.url()).await;
    world.fill(&mut etcd.writer().await).await;
    world.until_endpoints(DEADLINE, &[0]).await;
    let generation = world.server.table().generation;
    let traffic = Traffic::to(world.address());
    traffic.goes_on().await;
    etcd.kill();
    traffic.goes_on().await;
    assert_eq!(world.server.table().generation, generation, "a store that is gone is no change");
    etcd.run().await;
    etcd.writer().await.put("/nuncio/upstreams/app/endpoints/1", &world.endpoints[1].address.to_string()).await;
    world.until_endpoints(RIGHT_AGAIN_WITHIN, &[0, 1]).await;
    traffic.goes_on().await;
    traffic.ends_without_a_failure().await;
    assert!(world.server.shutdown().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compacted_meanwhile_is_made_up_for() {
    let etcd = Etcd::start().await;
    let mut store = etcd.writer().await;
    let relay = Relay::to(etcd.address()).await;
    let world = World::watching(format!("http://{}", relay.address())).await;
    world.fill(&mut store).await;
    world.until_endpoints(DEADLINE, &[0]).await;
    let traffic = Traffic::to(world.address());
    relay.cut();
    store.put("/nuncio/upstreams/app/endpoints/1", &world.endpoints[1].address.to_string()).await;
    store.put("/nuncio/upstreams/app/endpoints/2", &world.endpoints[2].address.to_string()).await;
    store.delete("/nuncio/upstreams/app/endpoints/0").await;
    store.compact().await;
    traffic.goes_on().await;
    assert_eq!(addresses(&world.server.table()), [world.endpoints[0].address], "the last good table");
    relay.mend();
    world.until_endpoints(RIGHT_AGAIN_WITHIN, &[1, 2]).await;
    traffic.goes_on().await;
    traffic.ends_without_a_failure().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_not_there_yet_is_waited_for() {
    let mut etcd = Etcd::stopped();
    let world = World::watching(etcd.url()).await;
    let feed = world.server.status().feeds()[0].clone();
    let is_failing = async {
        while feed.status().restarts == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, is_failing).await.expect("it is tried");
    let readiness = world.server.status().readiness();
    assert!(!readiness.ready && readiness.missing[0].starts_with("provider etcd: no snapshot yet: "), "{readiness:?}");
    assert_eq!(world.server.table().generation, 0, "nothing is known, which is not that there is nothing");
    etcd.run().await;
    tokio::time::timeout(RIGHT_AGAIN_WITHIN, world.server.ready()).await.expect("an empty store is a table");
    world.fill(&mut etcd.writer().await).await;
    world.until_endpoints(DEADLINE, &[0]).await;
    assert_eq!(world.ask().await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_value_stays_alone() {
    let etcd = Etcd::start().await;
    let mut store = etcd.writer().await;
    let world = World::watching(etcd.url()).await;
    world.fill(&mut store).await;
    world.until_endpoints(DEADLINE, &[0]).await;
    let generation = world.server.table().generation;
    let traffic = Traffic::to(world.address());
    let revision = store.put("/nuncio/routes/app", r#"{"match":"Hots(\"a.test\")","upstream":"app"}"#).await;
    world.until("the problem", |table| !table.problems.is_empty()).await;
    let problem = world.server.table().problems[0].clone();
    assert_eq!(problem.object, Some(ObjectId { kind: nuncio::config::problem::Kind::Route, name: "app".into() }));
    let origin = format!("etcd: key /nuncio/routes/app, revision {revision}");
    assert_eq!(problem.origin.map(|origin| origin.to_string()), Some(origin));
    let effect = format!("route `app` keeps its version of generation {generation}; all other objects are unaffected");
    assert_eq!(problem.effect, Some(effect));
    store.put("/nuncio/upstreams/app/endpoints/0", "nowhere").await;
    store.put("/nuncio/upstreams/app/endpoints/1", &world.endpoints[1].address.to_string()).await;
    world.until_endpoints(DEADLINE, &[0, 1]).await;
    traffic.goes_on().await;
    store.put("/nuncio/upstreams/app/endpoints/0", &world.endpoints[2].address.to_string()).await;
    store.put("/nuncio/routes/app", r#"{"match":"Host(\"a.test\")","upstream":"app","priority":1}"#).await;
    world.until("no problem", |table| table.problems.is_empty()).await;
    traffic.goes_on().await;
    traffic.ends_without_a_failure().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_is_gone() {
    let etcd = Etcd::start().await;
    let mut store = etcd.writer().await;
    let world = World::watching(etcd.url()).await;
    world.fill(&mut store).await;
    world.until_endpoints(DEADLINE, &[0]).await;
    assert_eq!(world.ask().await.0, 200);
    store.delete_prefix("/nuncio/upstreams/").await;
    world.until("no upstream", |table| table.upstreams.is_empty()).await;
    assert_eq!(world.ask().await.0, 503, "its route keeps its place");
    store.delete_prefix("/nuncio/routes/").await;
    world.until("no route", |table| table.routes.is_empty()).await;
    assert_eq!(world.ask().await.0, 404);
    let address = world.address();
    store.delete_prefix("/nuncio/").await;
    world.until("nothing", |table| table.listeners.is_empty()).await;
    let is_closed = async { while Connection::open(address).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, is_closed).await.expect("its listener is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_one_generation() {
    let etcd = Etcd::start().await;
    let mut store = etcd.writer().await;
    let world = World::watching(etcd.url()).await;
    world.fill(&mut store).await;
    world.until_endpoints(DEADLINE, &[0]).await;
    let before = world.server.table().generation;
    for round in 1..=5 {
        let pair = |at| (format!("/nuncio/upstreams/other-{at}/endpoints/1"), format!("10.0.0.{round}:80"));
        store.put_at_once(&(0..TXN_OPERATIONS_MAX).map(pair).collect::<Vec<_>>()).await;
        world.until("a round", |table| table.generation == before + round).await;
        let table = world.server.table();
        let others = table.upstreams.values().filter(|it| it.name.as_str() != "app");
        let address = format!("10.0.0.{round}:80");
        let is_whole =
            others.map(|it| it.endpoints.iter().map(|it| it.address.to_string()).collect::<Vec<_>>()).all(|all| all == [address.as_str()]);
        assert!(is_whole && table.upstreams.len() == TXN_OPERATIONS_MAX + 1, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_whose_lease_ends_is_gone() {
    let etcd = Etcd::start().await;
    let mut store = etcd.writer().await;
    let world = World::watching(etcd.url()).await;
    world.fill(&mut store).await;
    store.put_with_lease("/nuncio/upstreams/app/endpoints/1", &world.endpoints[1].address.to_string(), 1).await;
    world.until_endpoints(DEADLINE, &[0, 1]).await;
    let traffic = Traffic::to(world.address());
    world.until_endpoints(DEADLINE, &[0]).await;
    traffic.goes_on().await;
    traffic.ends_without_a_failure().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go() {
    let etcd = Etcd::start().await;
    let mut store = etcd.writer().await;
    let world = World::watching(etcd.url()).await;
    world.fill(&mut store).await;
    world.until_endpoints(DEADLINE, &[0]).await;
    let traffic = Traffic::to(world.address());
    store.put("/nuncio/listeners/second", r#"{"address":"127.0.0.1:0"}"#).await;
    world.until("a second listener", |table| table.listeners.len() == 2).await;
    let second = world.server.local_addr(&Name::literal("second")).expect("it is open");
    let mut connection = Connection::open(second).await.expect("it accepts");
    assert_eq!(connection.exchange(GET).await.expect("an answer").status(), 200);
    store.delete("/nuncio/listeners/second").await;
    world.until("one listener", |table| table.listeners.len() == 1).await;
    let is_closed = async { while Connection::open(second).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, is_closed).await.expect("it is closed");
    traffic.goes_on().await;
    traffic.ends_without_a_failure().await;
}

// ---- latency

/// The whole of a change, from its acknowledgement by the store to the first answer that follows it.
const MEDIAN_MAX: Duration = Duration::from_millis(2);
const P99_MAX: Duration = Duration::from_millis(10);
const SAMPLES: usize = 300;
/// A machine that is busy with something else gets another chance; one that is too slow all this time is too slow.
const PATIENCE: Duration = Duration::from_secs(60);

const UPSTREAMS: usize = 1_000;
const ENDPOINTS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_soon_followed() {
    check_latency("1 upstream", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_among_ten_thousand_endpoints_is_soon_followed() {
    check_latency("10,000 endpoints in 1,001 upstreams, 100 other changes a second", UPSTREAMS).await;
}

async fn check_latency(what: &str, upstreams: usize) {
    let etcd = Etcd::start_in_memory().await;
    let mut store = etcd.writer().await;
    let world = World::watching(etcd.url()).await;
    world.fill(&mut store).await;
    store.put_all(&others(upstreams)).await;
    world.until("all of it", |table| table.upstreams.len() == upstreams + 1 && table.routes.len() == upstreams + 1).await;
    let mut last = (Duration::MAX, Duration::MAX);
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let others = tokio::spawn(change_others(etcd.writer().await, upstreams));
        let before = Stages::so_far(&world.server);
        let (sent, acknowledged) = measure(&world, &mut store).await;
        let stages = Stages::so_far(&world.server).since(&before);
        others.abort();
        last = (quantile(&acknowledged, 0.5), quantile(&acknowledged, 0.99));
        report(what, &stages, &sent, &acknowledged);
        if last.0 < MEDIAN_MAX && last.1 < P99_MAX {
            return;
        }
    }
    panic!("{what}: median {:?} (at most {MEDIAN_MAX:?}), p99 {:?} (at most {P99_MAX:?})", last.0, last.1);
}

fn others(upstreams: usize) -> Vec<(String, String)> {
    let route = |at| (format!("/nuncio/routes/other-{at}"), format!(r#"{{"match":"Host(\"other-{at}.test\")","upstream":"other-{at}"}}"#));
    let endpoints = |at| (0..ENDPOINTS).map(move |id| other(at, id, 80));
    (0..upstreams).map(route).chain((0..upstreams).flat_map(endpoints)).collect()
}

fn other(at: usize, id: usize, port: u16) -> (String, String) {
    (format!("/nuncio/upstreams/other-{at}/endpoints/{id}"), format!("10.{}.{}.{id}:{port}", at / 256, at % 256))
}

/// A hundred changes a second, until it is aborted.
async fn change_others(mut store: Writer, upstreams: usize) {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    for round in (0..).take_while(|_| upstreams > 0) {
        pace.tick().await;
        let (key, value) = other(round * 7 % upstreams, round % ENDPOINTS, 1000 + (round % 50_000) as u16);
        store.put(&key, &value).await;
    }
}

/// The time to the first answer by the new endpoint, since its key was sent, and since that was acknowledged.
async fn measure(world: &World, store: &mut Writer) -> (Histogram<u64>, Histogram<u64>) {
    let (mut sent, mut acknowledged) = (histogram(), histogram());
    let (seen, mut changes) = mpsc::unbounded_channel();
    let is_over = Arc::new(AtomicBool::new(false));
    let client = std::thread::spawn({
        let (address, is_over) = (world.address(), is_over.clone());
        move || ask_in_a_loop(address, &is_over, &seen)
    });
    let (mut current, _) = changes.recv().await.expect("a first answer");
    for _ in 0..SAMPLES {
        let next = if current == "0" { 1 } else { 0 };
        let value = world.endpoints[next].address.to_string();
        let began = Instant::now();
        store.put("/nuncio/upstreams/app/endpoints/0", &value).await;
        let done = Instant::now();
        let seen = tokio::time::timeout(DEADLINE, changes.recv()).await.expect("the change is followed").expect("requests go on");
        current = seen.0;
        sent.saturating_record(micros(seen.1.saturating_duration_since(began)));
        acknowledged.saturating_record(micros(seen.1.saturating_duration_since(done)));
    }
    is_over.store(true, Ordering::Relaxed);
    client.join().expect("no request failed");
    (sent, acknowledged)
}

/// Requests without a pause on one connection; says whenever another endpoint answers than before.
fn ask_in_a_loop(address: SocketAddr, is_over: &AtomicBool, seen: &mpsc::UnboundedSender<(String, Instant)>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut connection = Connection::open(address).await.expect("it accepts");
        let mut current = String::new();
        while !is_over.load(Ordering::Relaxed) {
            let answer = connection.exchange(GET).await.expect("an answer");
            assert_eq!(answer.status(), 200);
            let id = answer.body.split(' ').next().unwrap_or_default();
            if id != current {
                current = id.to_string();
                let _ = seen.send((current.clone(), Instant::now()));
            }
        }
    });
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("bounds that fit")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn quantile(histogram: &Histogram<u64>, quantile: f64) -> Duration {
    Duration::from_micros(histogram.value_at_quantile(quantile))
}

/// What the server counted, in seconds.
#[derive(Debug, Default)]
struct Stages {
    changes: f64,
    compile: f64,
    /// From the event to the table in force, listeners, retired endpoints and problems seen to.
    seen_to_done: f64,
}

impl Stages {
    fn so_far(server: &Server) -> Self {
        let metrics = server.metrics();
        let value = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default();
        Self {
            changes: value("nuncio_change_latency_seconds_count"),
            compile: value("nuncio_table_compile_duration_seconds_sum"),
            seen_to_done: value("nuncio_change_latency_seconds_sum"),
        }
    }

    fn since(&self, before: &Self) -> Self {
        let (changes, compile) = (self.changes - before.changes, self.compile - before.compile);
        Self { changes, compile, seen_to_done: self.seen_to_done - before.seen_to_done }
    }
}

#[expect(clippy::print_stdout, reason = "figures")]
fn report(what: &str, stages: &Stages, sent: &Histogram<u64>, acknowledged: &Histogram<u64>) {
    let mean = |seconds: f64| Duration::try_from_secs_f64(seconds / stages.changes).unwrap_or_default();
    let figures = |of| (quantile(of, 0.5), quantile(of, 0.99), quantile(of, 1.0));
    println!(
        "{what}: median, p99, max since the key was sent: {:?}; since it was acknowledged: {:?}",
        figures(sent),
        figures(acknowledged)
    );
    let (compile, all) = (mean(stages.compile), mean(stages.seen_to_done));
    println!("  on average of {} changes: compile {compile:?}; event seen → table in force and all seen to {all:?}", stages.changes);
}
