//! TCP listeners: bytes both ways.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::*;

/// Listener `tcp`, and what goes into its route.
fn tcp(endpoints: &[SocketAddr], route: &str, listener: &str) -> String {
    let list: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "[listeners.tcp]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n{listener}\n\
         [tcp_routes.tcp]\nlistener = \"tcp\"\nupstream = \"tcp\"\n{route}\n\
         [upstreams.tcp]\nendpoints = [{}]\ntimeouts = {{ connect = \"1s\" }}\n",
        list.join(", ")
    )
}

/// Says its name, then says all again, and ends when the client has.
async fn echo(name: &'static str) -> Endpoint {
    Endpoint::start(move |mut conn| async move {
        conn.wire.send(name).await;
        while let Some(byte) = conn.wire.next_byte().await {
            if conn.wire.try_send([byte]).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_balanced_and_tried_elsewhere() {
    let (one, two) = (echo("1").await, echo("2").await);
    let proxy = Proxy::start(&tcp(&[one.address, dead_address().await, two.address], "", "")).await;
    let mut names = Vec::new();
    for _ in 0..12 {
        let mut client = Wire::connect(proxy.address_of("tcp")).await;
        names.push(String::from_utf8(client.read(1).await.to_vec()).unwrap());
        client.send("hello").await;
        assert_eq!(&client.read(5).await[..], b"hello");
    }
    let tally = tally(names);
    assert!(tally.len() == 2 && tally.values().all(|count| *count >= 4), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_the_connection_ends() {
    let proxy = Proxy::start(&tcp(&[dead_address().await], "", "")).await;
    Wire::connect(proxy.address_of("tcp")).await.ended().await;
}

/// Each side may end and still read what the other one has to say.
#[tokio::test(flavor = "multi_thread")]
async fn half_close_both_ways() {
    let endpoint = Endpoint::start(|mut conn| async move {
        let sent = conn.wire.rest().await;
        conn.wire.send(format!("{} bytes", sent.len())).await;
    })
    .await;
    let proxy = Proxy::start(&tcp(&[endpoint.address], "", "")).await;
    let mut client = Wire::connect(proxy.address_of("tcp")).await;
    client.send(vec![7; 3_000_000]).await;
    client.finish().await;
    assert_eq!(client.rest().await, b"3000000 bytes");

    let (report, mut reported) = tokio::sync::mpsc::channel(1);
    let endpoint = Endpoint::start(move |mut conn| {
        let report = report.clone();
        async move {
            conn.wire.send("bye").await;
            conn.wire.finish().await;
            report.send(conn.wire.rest().await).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(&tcp(&[endpoint.address], "", "")).await;
    let mut client = Wire::connect(proxy.address_of("tcp")).await;
    assert_eq!(client.rest().await, b"bye");
    client.send("and you").await;
    client.finish().await;
    assert_eq!(within("what came after", reported.recv()).await.unwrap(), b"and you");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_connection() {
    let endpoint = echo("").await;
    let proxy = Proxy::start(&tcp(&[endpoint.address], "idle_timeout = \"1500ms\"", "")).await;
    let mut client = Wire::connect(proxy.address_of("tcp")).await;
    let started = Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        client.send("x").await;
        client.read(1).await;
    }
    client.ended().await;
    assert!(started.elapsed() >= Duration::from_millis(3500));
    eventually("the endpoint's side ends too", || endpoint.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_terminated() {
    let authority = Authority::new();
    let certificate = authority.certify(&["db.test"]);
    let endpoint = echo("1").await;
    let proxy = Proxy::start(&(tcp(&[endpoint.address], "", "tls = {}") + &certificate.toml("db"))).await;
    let mut client = connect_tls(proxy.address_of("tcp"), "db.test", authority.client(&[])).await.unwrap().wire;
    client.send("hello").await;
    assert_eq!(&client.read(6).await[..], b"1hello");
    client.finish().await;
    client.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_endpoint_keeps_its_connections_for_the_drain_time() {
    let endpoint = echo("1").await;
    let config = tcp(&[endpoint.address], "", "") + "drain_timeout = \"500ms\"\n";
    let mut proxy = Proxy::start(&config).await;
    let mut client = Wire::connect(proxy.address_of("tcp")).await;
    client.read(1).await;
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| upstream.endpoints.clear())).await;
    client.send("still").await;
    assert_eq!(&client.read(5).await[..], b"still");
    client.ended().await;
    eventually("the endpoint's side ends too", || endpoint.open() == 0).await;
}
