//! Changes while traffic flows: endpoints that go, listeners that come and go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nuncio::Name;
use nuncio::config::{Endpoint as Wanted, Listener, RoutingConfig};
use tokio::sync::Semaphore;

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// An endpoint that answers only when it is let, with a body in two halves.
pub(super) async fn held_back() -> (Endpoint, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let passing = gate.clone();
    let endpoint = Endpoint::start(move |mut conn| {
        let gate = passing.clone();
        async move {
            while conn.request().await.is_some() {
                gate.acquire().await.unwrap().forget();
                if conn.wire.try_send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").await.is_err() {
                    return;
                }
                gate.acquire().await.unwrap().forget();
                if conn.wire.try_send("after").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (endpoint, gate)
}

fn endpoints(config: &mut RoutingConfig, addresses: &[std::net::SocketAddr]) {
    for upstream in config.upstreams.values_mut() {
        upstream.endpoints = addresses.iter().copied().map(Wanted::new).collect();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_removed_finishes_what_it_has() {
    let (old, gate) = held_back().await;
    let new = Endpoint::answering("new").await;
    let mut proxy = Proxy::to(&[old.address]).await;
    // One connection becomes idle, two requests are in flight: one before its response, one within.
    let (mut within_response, mut before_response) = (proxy.connect().await, proxy.connect().await);
    within_response.send(GET).await;
    eventually("it arrives", || old.requests().len() == 1).await;
    gate.add_permits(1);
    assert_eq!(within_response.response_head().await.status(), 200);
    before_response.send(GET).await;
    eventually("it arrives", || old.requests().len() == 2).await;
    proxy.update(|config| endpoints(config, &[new.address])).await;
    assert_eq!(proxy.get("/").await.text(), "new");
    gate.add_permits(10);
    assert_eq!(&within_response.read(10).await[..], b"firstafter");
    assert_eq!(before_response.response().await.text(), "firstafter");
    eventually("its connections are closed, not kept", || old.open() == 0).await;
    for client in [&mut within_response, &mut before_response] {
        client.send(GET).await;
        assert_eq!(client.response().await.text(), "new");
    }
    assert_eq!(old.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_to_a_removed_endpoint_are_closed() {
    for protocol in ["http1", "h2c"] {
        let is_h2 = protocol == "h2c";
        let old = if is_h2 {
            Endpoint::start(|conn| serve_h2(conn, |_| async { http::Response::new(body("old")) })).await
        } else {
            Endpoint::answering("old").await
        };
        let mut proxy = Proxy::start(&to(&[old.address], &format!("protocol = \"{protocol}\"\ndrain_timeout = \"1h\""))).await;
        assert_eq!(proxy.get("/").await.text(), "old");
        assert_eq!(old.open(), 1);
        let started = Instant::now();
        proxy.update(|config| endpoints(config, &[])).await;
        eventually("it is closed", || old.open() == 0).await;
        assert!(started.elapsed() < Duration::from_secs(5));
        assert_eq!(proxy.get("/").await.status(), 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_drain_time_is_cut() {
    let (old, gate) = held_back().await;
    let mut proxy = Proxy::start(&to(&[old.address], "drain_timeout = \"400ms\"")).await;
    let (mut within_response, mut before_response) = (proxy.connect().await, proxy.connect().await);
    within_response.send(GET).await;
    eventually("it arrives", || old.requests().len() == 1).await;
    gate.add_permits(1);
    assert_eq!(within_response.response_head().await.status(), 200);
    before_response.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n").await;
    eventually("it arrives", || old.requests().len() == 2).await;
    let started = Instant::now();
    proxy.update(|config| endpoints(config, &[])).await;
    assert_eq!(within_response.rest().await, b"first");
    assert!([502, 503].contains(&before_response.response().await.status()));
    assert!(started.elapsed() >= Duration::from_millis(400));
    gate.add_permits(10);
    eventually("its connections are closed", || old.open() == 0).await;
}

/// Endpoints come and go every few milliseconds, and no request is lost to it.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_to_swaps() {
    let all = [Endpoint::answering("ok").await, Endpoint::answering("ok").await, Endpoint::answering("ok").await];
    let addresses: Vec<_> = all.iter().map(|endpoint| endpoint.address).collect();
    let mut proxy = Proxy::start_with(&to(&addresses, ""), |builder| builder.workers(2)).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..8 {
        let mut client = proxy.connect().await;
        clients.spawn(async move {
            for _ in 0..300 {
                client.send(if number % 2 == 0 { GET } else { "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi" }).await;
                assert_eq!(client.response().await.status(), 200);
            }
        });
    }
    let mut turn = 0;
    while !clients.is_empty() {
        turn += 1;
        let left: Vec<_> = addresses.iter().enumerate().filter(|(index, _)| *index != turn % 3).map(|(_, address)| *address).collect();
        proxy.update(|config| endpoints(config, &left)).await;
        while let Some(done) = clients.try_join_next() {
            done.unwrap();
        }
    }
    assert_eq!(all.iter().map(|endpoint| endpoint.requests().len()).sum::<usize>(), 2400);
    all.iter().for_each(Endpoint::assert_clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_and_go() {
    let (endpoint, gate) = held_back().await;
    let mut proxy = Proxy::to(&[endpoint.address]).await;
    let more = Name::literal("more");
    proxy.update(|config| drop(config.listeners.insert(Name::literal("more"), Listener::http("127.0.0.1:0".parse().unwrap())))).await;
    let address = proxy.address_of("more");
    let (mut idle, mut busy, mut fresh) = (Wire::connect(address).await, Wire::connect(address).await, Wire::connect(address).await);
    idle.send(GET).await;
    gate.add_permits(2);
    assert_eq!(idle.response().await.text(), "firstafter");
    busy.send(GET).await;
    eventually("it arrives", || endpoint.requests().len() == 2).await;
    proxy.update(|config| drop(config.listeners.remove(&more))).await;
    assert_eq!(proxy.server.local_addr(&more), None);
    idle.ended().await;
    fresh.ended().await;
    gate.add_permits(2);
    let answer = busy.response().await;
    assert_eq!((answer.text(), answer.field("connection")), ("firstafter", Some("close")));
    busy.ended().await;
    eventually_refused(address).await;
    gate.add_permits(2);
    assert_eq!(proxy.get("/").await.text(), "firstafter");
}

pub(super) async fn eventually_refused(address: std::net::SocketAddr) {
    let refused = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
    within("nobody listens", refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_bound_once_it_is_free() {
    let endpoint = Endpoint::answering("ok").await;
    let mut proxy = Proxy::to(&[endpoint.address]).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    proxy.update(|config| drop(config.listeners.insert(Name::literal("more"), Listener::http(address.into())))).await;
    let problems = proxy.server.status().problems();
    assert!(problems.len() == 1 && problems[0].render(false).contains(&address.to_string()), "{problems:?}");
    assert!(!proxy.server.status().readiness().ready);
    assert_eq!(proxy.get("/").await.status(), 200);
    drop(taken);
    eventually("it is bound", || proxy.server.local_addr(&Name::literal("more")).is_some()).await;
    assert!(proxy.server.status().problems().is_empty());
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    assert_eq!(client.response().await.status(), 200);
}

/// What a listener may change without being closed, it changes for the connections that come next.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_changes_its_settings_in_place() {
    let endpoint = Endpoint::answering("ok").await;
    let mut proxy = Proxy::to(&[endpoint.address]).await;
    let address = proxy.address();
    let mut old = proxy.connect().await;
    old.send(GET).await;
    assert_eq!(old.response().await.status(), 200);
    proxy
        .update(|config| config.listeners.values_mut().for_each(|listener| listener.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]))
        .await;
    assert_eq!(proxy.address(), address);
    // Whom we trust counts at once, also on a connection that is open.
    old.send("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n").await;
    assert_eq!(old.response().await.status(), 200);
    assert_eq!(endpoint.requests().pop().unwrap().field("x-forwarded-for"), Some("1.2.3.4, 127.0.0.1"));
}
