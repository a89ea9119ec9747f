//! 100,000 instances in 5,000 services: how long they take to load, in how much memory, and how long one change among them takes.

mod support;

use std::time::{Duration, Instant};

use nuncio::config::providers::{EtcdConfig, LayoutKind, RouteTemplate};
use nuncio::config::{Listener, RoutingConfig};
use nuncio::discovery::{EtcdProvider, ProgramProvider};
use nuncio::{Name, Server};
use support::DEADLINE;
use support::etcd::{Etcd, Writer};
use support::http1::{AfterResponse, Connection, Endpoint};

const SERVICES: usize = 5_000;
const INSTANCES: usize = 20;

/// From the start to the first answer.
const LOAD_MAX: Duration = Duration::from_secs(5);
/// The largest that the whole process ever was, with this test in it.
const MEMORY_MAX: u64 = 1 << 30;
/// From the acknowledgement of a change by the store to the first answer that follows it.
const CHANGE_MAX: Duration = Duration::from_millis(20);
const CHANGES: usize = 50;
/// A machine that is busy with something else gets another chance; one that is too slow every time is too slow.
const ROUNDS: usize = 3;

fn instances() -> Vec<(String, String)> {
    let instance = |at: usize| {
        let (service, id) = (at / INSTANCES, at % INSTANCES);
        let address = format!("10.{}.{}.{id}:8080", service / 256, service % 256);
        (format!("/services/s{service}/host-{id}:container-{at}:8080"), address)
    };
    (0..SERVICES * INSTANCES).map(instance).collect()
}

/// A server that makes a route of every service of the store.
fn start(etcd: &Etcd) -> Server {
    let route = RouteTemplate::parse(r#"Host("{name}.test")"#).ok();
    let config = EtcdConfig {
        endpoints: vec![etcd.url()],
        prefix: "/services".into(),
        layout: LayoutKind::Services,
        route,
        ..EtcdConfig::default()
    };
    let (flags, listeners) = ProgramProvider::new(Name::literal("flags"));
    let mut config_of_flags = RoutingConfig::default();
    config_of_flags.listeners.insert(Name::literal("web"), Listener::http("127.0.0.1:0".parse().expect("an address")));
    listeners.publish(config_of_flags);
    let etcd = EtcdProvider::new(Name::literal("etcd"), config);
    Server::builder().workers(1).provider(flags).provider(etcd).start().expect("a server starts")
}

async fn connect(server: &Server) -> Connection<tokio::net::TcpStream> {
    let address = server.local_addr(&Name::literal("web")).expect("the listener is open");
    Connection::open(address).await.expect("it accepts")
}

async fn ask(connection: &mut Connection<tokio::net::TcpStream>) -> String {
    let answer = connection.exchange("GET / HTTP/1.1\r\nHost: live.test\r\n\r\n").await.expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer.body.split(' ').next().unwrap_or_default().to_string()
}

/// The median time from the acknowledgement of a change to its first answer, and the longest.
async fn measure_changes(server: &Server, store: &mut Writer, endpoints: &[Endpoint]) -> (Duration, Duration) {
    let mut connection = connect(server).await;
    let mut current = ask(&mut connection).await;
    let mut times = Vec::new();
    for _ in 0..CHANGES {
        let (id, endpoint) = if current == "0" { ("1", &endpoints[1]) } else { ("0", &endpoints[0]) };
        store.put("/services/live/1", &endpoint.address.to_string()).await;
        let acknowledged = Instant::now();
        let followed = async { while ask(&mut connection).await != id {} };
        tokio::time::timeout(DEADLINE, followed).await.expect("the change is followed");
        times.push(acknowledged.elapsed());
        current = id.into();
    }
    times.sort_unstable();
    (times[CHANGES / 2], times[CHANGES - 1])
}

/// The largest that this process ever was, in bytes.
fn memory_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says how large it was");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kilobytes") * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "figures")]
async fn a_hundred_thousand_instances_load_soon_and_change_soon() {
    let etcd = Etcd::start_in_memory().await;
    let mut store = etcd.writer().await;
    store.put_all(&instances()).await;
    let endpoints = [Endpoint::start(0, AfterResponse::Keep).await, Endpoint::start(1, AfterResponse::Keep).await];
    store.put("/services/live/1", &endpoints[0].address.to_string()).await;
    let (mut load, mut change) = (Duration::MAX, (Duration::MAX, Duration::MAX));
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let server = start(&etcd);
        tokio::time::timeout(DEADLINE, server.ready()).await.expect("it is ready");
        ask(&mut connect(&server).await).await;
        load = load.min(began.elapsed());
        assert_eq!((server.table().upstreams.len(), server.table().routes.len()), (SERVICES + 1, SERVICES + 1));
        change = change.min(measure_changes(&server, &mut store, &endpoints).await);
        println!("loaded within {load:?}; changes followed within {change:?} (median, longest); {} MiB", memory_peak() >> 20);
        if load < LOAD_MAX && change.0 < CHANGE_MAX {
            break;
        }
        assert!(server.shutdown().await, "it ends");
    }
    assert!(load < LOAD_MAX, "loaded within {load:?}");
    assert!(change.0 < CHANGE_MAX, "changes followed within {change:?}");
    assert!(memory_peak() < MEMORY_MAX, "{} MiB", memory_peak() >> 20);
}
