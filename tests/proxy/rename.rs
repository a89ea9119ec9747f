//! Listeners that get another name: their sockets stay, and every connection that is open or waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::TcpListener;

use crate::support::*;
use crate::upgrade::UPGRADE;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const LAST_GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// A free port of an address of loopback that no other test uses: port 0 would be another one each time, and is no address to keep.
async fn free(last_octet: u8) -> SocketAddr {
    TcpListener::bind((std::net::Ipv4Addr::new(127, 0, 0, last_octet), 0)).await.unwrap().local_addr().unwrap()
}

/// Listeners by name and address, each with a route of its own to the endpoint of the same position.
fn named(listeners: &[(&str, SocketAddr)], endpoints: &[SocketAddr], more: &str) -> String {
    let object = |((name, address), endpoint): (&(&str, SocketAddr), &SocketAddr)| {
        format!(
            "[listeners.{name}]\naddress = \"{address}\"\n{more}\n[routes.{name}]\nlisteners = [\"{name}\"]\nmatch = 'PathPrefix(\"/\")'\n\
             upstream = \"{name}\"\n[upstreams.{name}]\nendpoints = [\"{endpoint}\"]\n"
        )
    };
    listeners.iter().zip(endpoints).map(object).collect()
}

/// The values of a metric of listeners, by name.
fn metric(proxy: &Proxy, name: &str) -> Vec<String> {
    let prefix = format!("{name}{{listener=\"");
    proxy.server.metrics().lines().filter_map(|line| line.strip_prefix(&prefix)).map(|rest| rest.replace("\"}", "")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_metrics_go_on_under_the_new_name() {
    let endpoint = Endpoint::start(|mut conn| async move {
        while let Some(request) = conn.request().await {
            if request.field("upgrade").is_some() {
                conn.wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").await;
                while let Some(byte) = conn.wire.next_byte().await {
                    conn.wire.send([byte]).await;
                }
                return;
            }
            conn.respond(200, "ok").await;
        }
    })
    .await;
    let address = free(71).await;
    let mut proxy = Proxy::start_with(&named(&[("old", address)], &[endpoint.address], ""), |builder| builder.workers(2)).await;
    let (mut used, mut fresh, mut tunnel) = (Wire::connect(address).await, Wire::connect(address).await, Wire::connect(address).await);
    used.send(GET).await;
    assert_eq!(used.response().await.status(), 200);
    tunnel.send(UPGRADE).await;
    assert_eq!(tunnel.response().await.status(), 101);
    eventually("all are counted", || metric(&proxy, "nuncio_connections_open") == ["old 3"]).await;
    proxy.replace(&named(&[("new", address)], &[endpoint.address], "")).await;
    assert_eq!(proxy.address_of("new"), address);
    assert_eq!(proxy.server.local_addr(&nuncio::Name::literal("old")), None);
    // Also of a worker that has nothing to do.
    eventually("the name is new", || metric(&proxy, "nuncio_connections_open") == ["new 3"]).await;
    assert_eq!(metric(&proxy, "nuncio_connections_total"), ["new 0"]);
    for client in [&mut used, &mut fresh] {
        client.send(GET).await;
        let answer = client.response().await;
        assert_eq!((answer.status(), answer.field("connection")), (200, None), "it stays open");
    }
    tunnel.send("still there").await;
    assert_eq!(&tunnel.read(11).await[..], b"still there");
    drop((used, fresh, tunnel));
    eventually("all are gone", || metric(&proxy, "nuncio_connections_open") == ["new 0"]).await;
    let mut client = Wire::connect(address).await;
    client.send(LAST_GET).await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(metric(&proxy, "nuncio_connections_total"), ["new 1"]);
}

/// Two hundred new names, and the whole time clients that come, ask once and go: none is refused, cut, or sent to a route of another name.
#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_lost_to_renames() {
    let endpoint = Endpoint::answering("ok").await;
    let address = free(72).await;
    let config = |turn: usize| named(&[(["red", "green", "blue"][turn % 3], address)], &[endpoint.address], "");
    let mut proxy = Proxy::start_with(&config(0), |builder| builder.workers(2)).await;
    let (is_over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (is_over, served) = (is_over.clone(), served.clone());
        clients.spawn(async move {
            let mut kept = Wire::connect(address).await;
            while !is_over.load(Ordering::SeqCst) {
                let mut client = Wire::connect(address).await;
                client.send(LAST_GET).await;
                assert_eq!(client.response().await.status(), 200);
                client.ended().await;
                kept.send(GET).await;
                assert_eq!(kept.response().await.status(), 200);
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for turn in 1..=200 {
        let before = served.load(Ordering::SeqCst);
        proxy.replace(&config(turn)).await;
        eventually("clients come", || served.load(Ordering::SeqCst) > before || clients.len() < 4).await;
    }
    is_over.store(true, Ordering::SeqCst);
    while let Some(client) = within("a client", clients.join_next()).await {
        client.unwrap();
    }
    assert_eq!(endpoint.requests().len(), 2 * served.load(Ordering::SeqCst));
    eventually("nothing is open", || metric(&proxy, "nuncio_connections_open") == ["blue 0"]).await;
}

/// Names may be exchanged: what counts is the address.
#[tokio::test(flavor = "multi_thread")]
async fn listeners_exchange_their_names() {
    let (one, two) = (Endpoint::answering("one").await, Endpoint::answering("two").await);
    let (first, second) = (free(73).await, free(73).await);
    let endpoints = [one.address, two.address];
    let mut proxy = Proxy::start(&named(&[("one", first), ("two", second)], &endpoints, "")).await;
    let mut clients = [Wire::connect(first).await, Wire::connect(second).await];
    let ask = async |clients: &mut [Wire; 2]| {
        let mut names = Vec::new();
        for client in clients {
            client.send(GET).await;
            names.push(client.response().await.text().to_owned());
        }
        names
    };
    assert_eq!(ask(&mut clients).await, ["one", "two"]);
    proxy.replace(&named(&[("one", second), ("two", first)], &endpoints, "")).await;
    assert_eq!((proxy.address_of("one"), proxy.address_of("two")), (second, first));
    assert_eq!(ask(&mut clients).await, ["two", "one"]);
    // One takes the name of the other, which is gone.
    proxy.replace(&named(&[("one", first)], &endpoints, "")).await;
    assert_eq!(proxy.address_of("one"), first);
    clients[0].send(GET).await;
    assert_eq!(clients[0].response().await.text(), "one");
    clients[1].ended().await;
    assert!(proxy.server.status().problems().is_empty());
    eventually("metrics follow", || metric(&proxy, "nuncio_connections_open") == ["one 1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_counts_what_was_open_before() {
    let endpoint = Endpoint::answering("ok").await;
    let address = free(74).await;
    let config = |name: &str| named(&[(name, address)], &[endpoint.address], "limits = { connections = 2 }");
    let mut proxy = Proxy::start(&config("old")).await;
    let (mut first, mut second) = (Wire::connect(address).await, Wire::connect(address).await);
    for client in [&mut first, &mut second] {
        client.send(GET).await;
        assert_eq!(client.response().await.status(), 200);
    }
    proxy.replace(&config("new")).await;
    Wire::connect(address).await.ended().await;
    drop(first);
    eventually("there is room", || metric(&proxy, "nuncio_connections_open") == ["new 1"]).await;
    let mut third = Wire::connect(address).await;
    third.send(GET).await;
    assert_eq!(third.response().await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_listeners_are_renamed_too() {
    let echo = Endpoint::start(|mut conn| async move {
        while let Some(byte) = conn.wire.next_byte().await {
            conn.wire.send([byte]).await;
        }
    })
    .await;
    let address = free(75).await;
    let config = |name: &str| {
        format!(
            "[listeners.{name}]\naddress = \"{address}\"\nprotocol = \"tcp\"\n[tcp_routes.{name}]\nlistener = \"{name}\"\nupstream = \"echo\"\n\
             [upstreams.echo]\nendpoints = [\"{}\"]\n",
            echo.address
        )
    };
    let mut proxy = Proxy::start(&config("old")).await;
    let mut old = Wire::connect(address).await;
    old.send("one").await;
    assert_eq!(&old.read(3).await[..], b"one");
    proxy.replace(&config("new")).await;
    for mut client in [old, Wire::connect(address).await] {
        client.send("two").await;
        assert_eq!(&client.read(3).await[..], b"two");
    }
    assert_eq!(metric(&proxy, "nuncio_connections_total"), ["new 1"]);
}
