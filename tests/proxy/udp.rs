//! UDP listeners: datagrams to an endpoint, and its replies back to who asked.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nuncio::Name;
use nuncio::config::Endpoint as Weighted;
use nuncio::routing::Upstream;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::*;

/// Longer than a datagram takes that arrives. One that does not is sent again, as clients do.
const RESEND: Duration = Duration::from_millis(500);

/// Listener `udp` on this address, and what goes into its route, its limits and its upstream.
fn udp(address: &str, endpoints: &[SocketAddr], route: &str, more: &str) -> String {
    let list: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "[listeners.udp]\naddress = \"{address}\"\nprotocol = \"udp\"\n\
         [udp_routes.udp]\nlistener = \"udp\"\nupstream = \"udp\"\n{route}\n\
         [upstreams.udp]\nendpoints = [{}]\n{more}\n",
        list.join(", ")
    )
}

/// Answers `name:what was sent`, or as often as `TIMES*TEXT` says, each from the address that was asked.
struct Echo {
    address: SocketAddr,
    /// Who has asked, in the order of their first datagrams.
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    /// One permit per answer.
    gate: Arc<Semaphore>,
    _task: JoinSet<()>,
}

impl Echo {
    async fn start(name: &'static str, address: &str) -> Self {
        let socket = UdpSocket::bind(address).await.unwrap();
        let (address, peers) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<SocketAddr>>>::default());
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let (mut task, seen, permits) = (JoinSet::new(), peers.clone(), gate.clone());
        task.spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                // A peer that is gone by now is told of as an error of the next call.
                let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
                if !seen.lock().unwrap().contains(&peer) {
                    seen.lock().unwrap().push(peer);
                }
                permits.acquire().await.unwrap().forget();
                let text = &buffer[..length];
                let times = text.split(|byte| *byte == b'*').next().and_then(|times| std::str::from_utf8(times).ok()?.parse().ok());
                let answer = [name.as_bytes(), b":", text].concat();
                for _ in 0..times.unwrap_or(1) {
                    let _ = socket.send_to(&answer, peer).await;
                }
            }
        });
        Self { address, peers, gate, _task: task }
    }

    fn peers(&self) -> usize {
        self.peers.lock().unwrap().len()
    }

    /// From now on as many answers as permits that are added.
    fn hold(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }
}

async fn echoes(names: &[&'static str]) -> (Vec<Echo>, Vec<SocketAddr>) {
    let mut echoes = Vec::new();
    for name in names {
        echoes.push(Echo::start(name, "127.0.0.1:0").await);
    }
    let addresses = echoes.iter().map(|echo| echo.address).collect();
    (echoes, addresses)
}

/// A client that hears nobody but `server`.
async fn client(from: &str, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(from).await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

async fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let length = within("a reply", client.recv(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    buffer
}

/// The reply to `text`, which is sent once.
async fn ask_once(client: &UdpSocket, text: &str) -> String {
    client.send(text.as_bytes()).await.unwrap();
    String::from_utf8(receive(client).await).unwrap()
}

/// The reply to `text`, which is sent until there is one.
async fn ask(client: &UdpSocket, text: &str) -> String {
    let insist = async {
        loop {
            client.send(text.as_bytes()).await.unwrap();
            if let Ok(reply) = tokio::time::timeout(RESEND, receive(client)).await {
                return String::from_utf8(reply).unwrap();
            }
        }
    };
    within("a reply", insist).await
}

/// The name of the endpoint in a reply.
fn name_in(reply: &str) -> &str {
    reply.split(':').next().unwrap()
}

/// Sums the series of a metric whose labels hold all of these.
fn metric(proxy: &Proxy, name: &str, labels: &[&str]) -> f64 {
    let metrics = proxy.server.metrics();
    let of_name = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label)));
    of_name.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn sessions(proxy: &Proxy) -> f64 {
    metric(proxy, "nuncio_connections_open", &["udp"])
}

fn upstream(proxy: &Proxy) -> Arc<Upstream> {
    proxy.server.table().upstreams[&Name::literal("udp")].clone()
}

fn in_flight(proxy: &Proxy, address: SocketAddr) -> u32 {
    upstream(proxy)
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.address.ip() == Some(address))
        .map(|endpoint| endpoint.state.in_flight())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_go_to_who_asked() {
    let (_echoes, addresses) = echoes(&["1"]).await;
    let proxy = Proxy::start_with(&udp("127.0.0.1:0", &addresses, "", ""), |server| server.workers(2)).await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(client("127.0.0.1:0", proxy.address_of("udp")).await);
    }
    for round in 0..5 {
        for (number, client) in clients.iter().enumerate() {
            client.send(format!("{round}/{number}").as_bytes()).await.unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(receive(client).await, format!("1:{round}/{number}").into_bytes());
        }
    }
    assert_eq!(sessions(&proxy), 30.0);
    assert_eq!(in_flight(&proxy, addresses[0]), 30);
    assert_eq!(metric(&proxy, "nuncio_udp_datagrams_total", &["to_endpoint"]), 150.0);
    eventually("all replies are counted", || metric(&proxy, "nuncio_udp_datagrams_total", &["to_client"]) == 150.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_reply_that_is_expected_ends_the_session() {
    let (echoes, addresses) = echoes(&["1"]).await;
    let proxy = Proxy::start(&udp("127.0.0.1:0", &addresses, "responses = 2\nidle_timeout = \"1h\"", "")).await;
    let client = client("127.0.0.1:0", proxy.address_of("udp")).await;
    for round in 1..4 {
        assert_eq!(ask_once(&client, "2*x").await, "1:2*x");
        receive(&client).await;
        eventually("the session is over", || sessions(&proxy) == 0.0 && in_flight(&proxy, addresses[0]) == 0).await;
        assert_eq!(metric(&proxy, "nuncio_connections_total", &["udp"]), f64::from(round));
        assert_eq!(metric(&proxy, "nuncio_upstream_connections_total", &["udp"]), f64::from(round));
    }
    // Two questions, one of which is answered in full: it waits for the rest.
    client.send(b"2*a").await.unwrap();
    client.send(b"1*b").await.unwrap();
    for _ in 0..3 {
        receive(&client).await;
    }
    assert_eq!(sessions(&proxy), 1.0);
    assert_eq!(ask_once(&client, "3*c").await, "1:3*c");
    eventually("the session is over", || sessions(&proxy) == 0.0).await;
    drop(echoes);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_session() {
    let (echoes, addresses) = echoes(&["1"]).await;
    let proxy = Proxy::start(&udp("127.0.0.1:0", &addresses, "idle_timeout = \"400ms\"", "")).await;
    let client = client("127.0.0.1:0", proxy.address_of("udp")).await;
    ask_once(&client, "a").await;
    assert_eq!(sessions(&proxy), 1.0);
    eventually("the session is over", || sessions(&proxy) == 0.0 && in_flight(&proxy, addresses[0]) == 0).await;
    ask_once(&client, "b").await;
    assert_eq!(echoes[0].peers(), 2, "each session has a socket of its own");
}

/// Within a session for any reason, and from one to the next by the hash of its address, whatever becomes of others.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_keeps_its_endpoint_over_tables() {
    let (_echoes, addresses) = echoes(&["1", "2", "3", "4"]).await;
    for route in ["", "responses = 1"] {
        let mut proxy = Proxy::start(&udp("127.0.0.1:0", &addresses, route, "")).await;
        let mut homes = Vec::new();
        for number in 1..=20 {
            let client = client(&format!("127.0.0.{number}:0"), proxy.address_of("udp")).await;
            let home = name_in(&ask_once(&client, "x").await).to_owned();
            homes.push((client, home));
        }
        assert!(homes.iter().map(|(_, home)| home).collect::<BTreeSet<_>>().len() > 2, "they are spread: {homes:?}");
        // The last one is gone, a new one is there, another changes its settings.
        let gone = addresses[3];
        proxy
            .update(|config| {
                let upstream = config.upstreams.values_mut().next().unwrap();
                upstream.retries = 3;
                upstream.endpoints.retain(|endpoint| endpoint.address.ip() != Some(gone));
            })
            .await;
        for (client, home) in homes {
            let reply = ask_once(&client, "x").await;
            assert!(if home == "4" { name_in(&reply) != "4" } else { name_in(&reply) == home }, "from {home} to {reply}");
        }
        assert_eq!(in_flight(&proxy, gone), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_datagram_is_lost_to_a_change_of_the_table() {
    let (_echoes, addresses) = echoes(&["1", "2"]).await;
    let mut proxy = Proxy::start_with(&udp("127.0.0.1:0", &addresses[..1], "", ""), |server| server.workers(2)).await;
    let client = client("127.0.0.1:0", proxy.address_of("udp")).await;
    // The session begins while there is one endpoint: a later one might begin at the other.
    assert_eq!(ask_once(&client, "x").await, "1:x");
    for round in 0..40 {
        let change = proxy.update(|config| {
            let upstream = config.upstreams.values_mut().next().unwrap();
            upstream.retries = round % 3;
            upstream.endpoints.truncate(1);
            upstream.endpoints.extend((round % 2 == 0).then(|| Weighted::new(addresses[1])));
        });
        let asking = async {
            for _ in 0..25 {
                assert_eq!(ask_once(&client, "x").await, "1:x");
            }
        };
        tokio::join!(change, asking);
    }
    assert_eq!(metric(&proxy, "nuncio_connections_total", &["udp"]), 1.0, "it is one session all along");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_removed_loses_its_sessions_at_their_next_datagram() {
    let (echoes, addresses) = echoes(&["1", "2"]).await;
    let mut proxy = Proxy::start(&udp("127.0.0.1:0", &addresses[..1], "", "drain_timeout = \"1h\"")).await;
    let (busy, silent) = (client("127.0.0.1:0", proxy.address_of("udp")).await, client("127.0.0.1:0", proxy.address_of("udp")).await);
    assert_eq!((ask_once(&busy, "a").await, ask_once(&silent, "a").await), ("1:a".into(), "1:a".into()));
    let before = upstream(&proxy);
    proxy.update(|config| config.upstreams.values_mut().for_each(|it| it.endpoints = vec![Weighted::new(addresses[1])])).await;
    assert_eq!(ask_once(&busy, "b").await, "2:b");
    assert_eq!(before.endpoints[0].state.in_flight(), 1, "the silent one stays until it speaks");
    // What its endpoint has to say still arrives.
    let peer = echoes[0].peers.lock().unwrap()[1];
    let late = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    late.send_to(b"from a stranger", peer).await.unwrap();
    assert_eq!(ask_once(&silent, "c").await, "2:c", "and nothing of a stranger");
    assert_eq!(before.endpoints[0].state.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_time_ends_silent_sessions_of_a_removed_endpoint() {
    let (_echoes, addresses) = echoes(&["1"]).await;
    let mut proxy = Proxy::start(&udp("127.0.0.1:0", &addresses, "idle_timeout = \"1h\"", "drain_timeout = \"50ms\"")).await;
    let client = client("127.0.0.1:0", proxy.address_of("udp")).await;
    ask_once(&client, "a").await;
    let before = upstream(&proxy);
    proxy.update(|config| config.upstreams.values_mut().for_each(|it| it.endpoints.clear())).await;
    eventually("the session is over", || before.endpoints[0].state.in_flight() == 0 && sessions(&proxy) == 0.0).await;
    client.send(b"b").await.unwrap();
    eventually("it is dropped, and counted", || metric(&proxy, "nuncio_udp_dropped_total", &["no_endpoint"]) == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_that_was_silent_for_the_longest_gives_way() {
    let (_echoes, addresses) = echoes(&["1"]).await;
    let config = udp("127.0.0.1:0", &addresses, "idle_timeout = \"1h\"", "[listeners.udp.limits]\nsessions = 3");
    let proxy = Proxy::start(&config).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(client("127.0.0.1:0", proxy.address_of("udp")).await);
        ask_once(clients.last().unwrap(), "a").await;
        assert!(sessions(&proxy) <= 3.0);
    }
    assert_eq!((sessions(&proxy), in_flight(&proxy, addresses[0])), (3.0, 3));
    // Who lost its session gets another one with its next datagram.
    assert_eq!(ask_once(&clients[0], "b").await, "1:b");
}

/// The kernel chooses the worker of a client: each has room for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_table_of_sessions_turns_no_worker_away() {
    let (_echoes, addresses) = echoes(&["1"]).await;
    let config = udp("127.0.0.1:0", &addresses, "idle_timeout = \"1h\"", "[listeners.udp.limits]\nsessions = 1");
    let proxy = Proxy::start_with(&config, |server| server.workers(4)).await;
    for _ in 0..40 {
        let client = client("127.0.0.1:0", proxy.address_of("udp")).await;
        assert_eq!(ask_once(&client, "a").await, "1:a");
        assert!(sessions(&proxy) <= 4.0);
    }
}

/// An address where nobody listens answers by ICMP. The first datagram is lost, the next goes elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_is_left() {
    let (_echoes, mut addresses) = echoes(&["1"]).await;
    addresses.insert(0, dead_udp().await);
    let proxy = Proxy::start(&udp("127.0.0.1:0", &addresses, "", "")).await;
    for number in 1..=10 {
        let client = client(&format!("127.0.0.{number}:0"), proxy.address_of("udp")).await;
        assert_eq!(ask(&client, "a").await, "1:a");
    }
    let refused = metric(&proxy, "nuncio_upstream_errors_total", &["udp_refused"]);
    assert!((1.0..=3.0).contains(&refused), "it is left out for a while: refused {refused} times");
    assert_eq!(metric(&proxy, "nuncio_udp_dropped_total", &["endpoint"]), refused);
    assert_eq!(in_flight(&proxy, addresses[0]), 0);
}

/// An only endpoint is asked again, as it may be back.
#[tokio::test(flavor = "multi_thread")]
async fn an_only_endpoint_that_refused_is_asked_again() {
    let address = dead_udp().await;
    let proxy = Proxy::start(&udp("127.0.0.1:0", &[address], "", "")).await;
    let client = client("127.0.0.1:0", proxy.address_of("udp")).await;
    client.send(b"a").await.unwrap();
    eventually("it refuses", || metric(&proxy, "nuncio_udp_dropped_total", &["endpoint"]) == 1.0).await;
    let _echo = Echo::start("1", &address.to_string()).await;
    assert_eq!(ask_once(&client, "b").await, "1:b");
}

/// Endpoints that speak UDP are probed at a TCP port beside it.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_down_is_left() {
    let companion = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = companion.local_addr().unwrap().port();
    let other = TcpListener::bind(format!("127.0.0.9:{port}")).await.unwrap();
    let (one, two) = (Echo::start("1", "127.0.0.1:0").await, Echo::start("2", "127.0.0.9:0").await);
    let health = format!("health = {{ tcp = true, port = {port}, interval = \"20ms\", fall = 1, rise = 1 }}");
    let proxy = Proxy::start(&udp("127.0.0.1:0", &[one.address, two.address], "affinity = \"none\"", &health)).await;
    let client = client("127.0.0.1:0", proxy.address_of("udp")).await;
    let home = name_in(&ask(&client, "a").await).to_owned();
    let (gone, left) = if home == "1" { (companion, other) } else { (other, companion) };
    drop(gone);
    let moved = async { while name_in(&ask(&client, "b").await) == home {} };
    within("it goes to the other one", moved).await;
    assert_eq!(sessions(&proxy), 1.0);
    drop(left);
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_to_ipv4_and_back() {
    let (four, six) = (Echo::start("4", "127.0.0.1:0").await, Echo::start("6", "[::1]:0").await);
    for (listener, from, endpoint) in [("[::1]:0", "[::1]:0", &four), ("127.0.0.1:0", "127.0.0.1:0", &six), ("[::1]:0", "[::1]:0", &six)] {
        let proxy = Proxy::start(&udp(listener, &[endpoint.address], "", "")).await;
        let client = client(from, proxy.address_of("udp")).await;
        assert!(ask_once(&client, "a").await.ends_with(":a"));
    }
}

/// A reply that came from another address than was asked would not be taken.
#[tokio::test(flavor = "multi_thread")]
async fn replies_leave_from_the_address_that_was_asked() {
    let (echoes, addresses) = echoes(&["1"]).await;
    let proxy = Proxy::start(&udp("0.0.0.0:0", &addresses, "idle_timeout = \"1h\"", "")).await;
    let port = proxy.address_of("udp").port();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for local in ["127.0.0.2", "127.0.0.3"] {
        let server = SocketAddr::new(local.parse().unwrap(), port);
        client.send_to(b"a", server).await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(within("a reply", client.recv_from(&mut buffer)).await.unwrap(), (3, server));
    }
    assert_eq!((sessions(&proxy), echoes[0].peers()), (2.0, 2), "one client that asks two addresses has two sessions");
    let proxy = Proxy::start(&udp("[::]:0", &addresses, "", "")).await;
    let server = SocketAddr::new("::1".parse().unwrap(), proxy.address_of("udp").port());
    assert_eq!(ask_once(&self::client("[::1]:0", server).await, "a").await, "1:a");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_datagrams_and_streams_of_replies_pass_whole() {
    let (_echoes, addresses) = echoes(&["1"]).await;
    for listener in ["127.0.0.1:0", "0.0.0.0:0"] {
        let proxy = Proxy::start(&udp(listener, &addresses, "", "")).await;
        let server = SocketAddr::new("127.0.0.1".parse().unwrap(), proxy.address_of("udp").port());
        let client = client("127.0.0.1:0", server).await;
        let long = "x".repeat(60_000);
        assert_eq!(ask_once(&client, &long).await, format!("1:{long}"));
        assert_eq!(ask_once(&client, "").await, "1:");
        for length in [1, 1_400] {
            // As many as fit into any socket's buffer.
            let text = format!("60*{}", "y".repeat(length));
            assert_eq!(ask_once(&client, &text).await, format!("1:{text}"));
            for _ in 1..60 {
                assert_eq!(receive(&client).await, format!("1:{text}").into_bytes());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_upstream_datagrams_are_dropped_and_counted() {
    let (_echoes, addresses) = echoes(&["1"]).await;
    let mut proxy = Proxy::start(&udp("127.0.0.1:0", &addresses, "", "")).await;
    let client = client("127.0.0.1:0", proxy.address_of("udp")).await;
    ask_once(&client, "a").await;
    let mut upstreams = Default::default();
    proxy.update(|config| upstreams = std::mem::take(&mut config.upstreams)).await;
    let problems = proxy.server.status().problems();
    assert!(problems.iter().any(|problem| problem.render(false).contains("are dropped")), "{problems:?}");
    client.send(b"b").await.unwrap();
    eventually("it is dropped, and counted", || metric(&proxy, "nuncio_udp_dropped_total", &["no_upstream"]) == 1.0).await;
    proxy.update(|config| config.upstreams = upstreams).await;
    assert_eq!(ask_once(&client, "c").await, "1:c");
}

/// What was asked before a listener is removed is answered after it.
#[tokio::test(flavor = "multi_thread")]
async fn replies_outlive_their_listener() {
    let (echoes, addresses) = echoes(&["1"]).await;
    let mut proxy = Proxy::start(&udp("127.0.0.1:0", &addresses, "responses = 1", "")).await;
    let address = proxy.address_of("udp");
    let client = client("127.0.0.1:0", address).await;
    echoes[0].hold();
    client.send(b"a").await.unwrap();
    eventually("the endpoint is asked", || echoes[0].peers() == 1).await;
    proxy
        .update(|config| {
            config.listeners.clear();
            config.udp_routes.clear();
        })
        .await;
    echoes[0].gate.add_permits(1);
    assert_eq!(receive(&client).await, b"1:a");
    eventually("then its port is free", || std::net::UdpSocket::bind(address).is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_replies() {
    let (echoes, addresses) = echoes(&["1"]).await;
    let proxy = Proxy::start(&udp("127.0.0.1:0", &addresses, "responses = 1", "")).await;
    let client = client("127.0.0.1:0", proxy.address_of("udp")).await;
    echoes[0].hold();
    client.send(b"a").await.unwrap();
    eventually("the endpoint is asked", || echoes[0].peers() == 1).await;
    let (is_clean, reply) = tokio::join!(proxy.server.shutdown(), async {
        echoes[0].gate.add_permits(1);
        receive(&client).await
    });
    assert!(is_clean);
    assert_eq!(reply, b"1:a");
}

/// An address where nobody listens.
async fn dead_udp() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
