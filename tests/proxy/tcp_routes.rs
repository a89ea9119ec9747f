//! TCP routes that look at whom a client asks for, before anything is encrypted, and at who it is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::pki_types::ServerName;

use crate::support::*;

/// Listener `tcp`, and routes of it: their names, which are those of their upstreams, what is in them, and where they go.
fn tcp(listener: &str, routes: &[(&str, &str, SocketAddr)]) -> String {
    let mut config = format!("[listeners.tcp]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n{listener}\n");
    for (name, route, endpoint) in routes {
        config += &format!(
            "[tcp_routes.{name}]\nlistener = \"tcp\"\nupstream = \"{name}\"\n{route}\n[upstreams.{name}]\nendpoints = [\"{endpoint}\"]\n"
        );
    }
    config
}

/// Says its name, then what it was told, and ends with the client.
async fn endpoint(name: &'static str, tls: Option<tokio_rustls::TlsAcceptor>) -> Endpoint {
    Endpoint::start_on("127.0.0.1:0".parse().unwrap(), tls, move |mut conn| async move {
        conn.wire.send(name).await;
        while let Some(byte) = conn.wire.next_byte().await {
            if conn.wire.try_send([byte]).await.is_err() {
                return;
            }
        }
    })
    .await
}

async fn says(client: &mut Wire, name: &str) {
    assert_eq!(&client.read(name.len()).await[..], name.as_bytes());
    client.send("hello").await;
    assert_eq!(&client.read(5).await[..], b"hello");
}

/// What a TLS client says first.
fn hello(authority: &Authority, name: &str, alpn: &[&str]) -> Bytes {
    let config = authority.client(alpn).into();
    let mut client = rustls::ClientConnection::new(config, ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_passed_through_to_whom_it_is_meant_for() {
    let authority = Authority::new();
    let (one, other) = (authority.certify(&["a.test"]), authority.certify(&["x.b.test"]));
    let (a, b) = (endpoint("a", Some(one.acceptor(&[]))).await, endpoint("b", Some(other.acceptor(&["h2"]))).await);
    let plain = endpoint("plain", None).await;
    let routes = [
        ("a", "match = 'Sni(\"a.test\")'", a.address),
        ("b", "match = 'Sni(\"*.b.test\") && Alpn(\"h2\")'", b.address),
        ("plain", "", plain.address),
    ];
    let proxy = Proxy::start(&tcp("timeouts = { client_header = \"500ms\" }", &routes)).await;
    let address = proxy.address_of("tcp");

    let mut client = connect_tls(address, "a.test", authority.client(&[])).await.unwrap();
    assert!(one.is(&client.shown));
    says(&mut client.wire, "a").await;
    let mut client = connect_tls(address, "x.b.test", authority.client(&["http/1.1", "h2"])).await.unwrap();
    assert!(other.is(&client.shown) && client.alpn.as_deref() == Some("h2"));
    says(&mut client.wire, "b").await;
    // Without h2, or for somebody else: those that no other route takes.
    for (name, alpn) in [("x.b.test", "http/1.1"), ("c.test", "h2")] {
        let mut client = Wire::connect(address).await;
        client.send(hello(&authority, name, &[alpn])).await;
        assert_eq!(&client.read(5).await[..], b"plain");
    }
    // What is no TLS is known at its first byte, and who says nothing waits for the endpoint to speak.
    let mut client = Wire::connect(address).await;
    client.send("EHLO").await;
    assert_eq!(&client.read(9).await[..], b"plainEHLO");
    says(&mut Wire::connect(address).await, "plain").await;
}

/// However it is cut, the endpoint gets every byte of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_hello_in_pieces_is_one() {
    let authority = Authority::new();
    let (a, plain) = (endpoint("a", None).await, endpoint("plain", None).await);
    let proxy = Proxy::start(&tcp("", &[("a", "match = 'Sni(\"a.test\")'", a.address), ("plain", "", plain.address)])).await;
    let hello = hello(&authority, "a.test", &[]);
    let mut client = Wire::connect(proxy.address_of("tcp")).await;
    for byte in &hello {
        client.send([*byte]).await;
    }
    client.send("more").await;
    assert_eq!(client.read(1 + hello.len() + 4).await, [&b"a"[..], &hello, b"more"].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_closed_and_nobody_else_notices() {
    let authority = Authority::new();
    let a = endpoint("a", None).await;
    let config = tcp("timeouts = { client_header = \"1s\" }", &[("a", "match = 'Sni(\"a.test\")'", a.address)]);
    let proxy = Proxy::start(&config).await;
    let address = proxy.address_of("tcp");
    let mut bystander = Wire::connect(address).await;
    bystander.send(hello(&authority, "a.test", &[])).await;
    assert_eq!(&bystander.read(1).await[..], b"a");

    let whole = hello(&authority, "a.test", &[]);
    let mut cut = Wire::connect(address).await;
    cut.send(&whole[..50]).await;
    cut.finish().await;
    cut.ended().await;
    let started = Instant::now();
    let mut slow = Wire::connect(address).await;
    slow.send(&whole[..50]).await;
    slow.ended().await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    for garbage in [&b"\x16\x03\x01\x00\x00"[..], b"\x16\x03\x01\x40\x00\x01\xff\xff\xff", b"\x16\x03\x03\x00\x04\x02\x00\x00\x00"] {
        let mut client = Wire::connect(address).await;
        client.send(garbage).await;
        client.ended().await;
    }
    // An endless one, of which every record is fine.
    let mut endless = Wire::connect(address).await;
    let mut record = vec![0x16, 3, 1, 0x40, 0];
    record.extend([1, 0, 0x3f, 0xff]);
    record.resize(5 + 0x4000, 0);
    let _ = endless.try_send(&record).await;
    endless.ended().await;
    // For nobody: there is no route for the rest.
    let mut other = Wire::connect(address).await;
    other.send(hello(&authority, "b.test", &[])).await;
    other.ended().await;
    assert_eq!(a.accepted(), 1);
    assert_eq!((proxy.refused("tcp", "client_hello"), proxy.refused("tcp", "no_route")), (6, 1));
    bystander.send("still").await;
    let end = bystander.read(whole.len() + 5).await;
    assert!(end.ends_with(b"still"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_listener_terminates_tls_and_passes_it_through() {
    let authority = Authority::new();
    let (ours, theirs) = (authority.certify(&["ours.test"]), authority.certify(&["theirs.test"]));
    let (plain, tls) = (endpoint("plain", None).await, endpoint("tls", Some(theirs.acceptor(&[]))).await);
    let routes = [("plain", "", plain.address), ("tls", "match = 'Sni(\"theirs.test\")'\npassthrough = true", tls.address)];
    let config = tcp("tls = { alpn = [\"smtp\"] }", &routes) + &ours.toml("ours");
    let proxy = Proxy::start(&config).await;
    let address = proxy.address_of("tcp");
    let mut client = connect_tls(address, "ours.test", authority.client(&["smtp"])).await.unwrap();
    assert!(ours.is(&client.shown) && client.alpn.as_deref() == Some("smtp"));
    says(&mut client.wire, "plain").await;
    let mut client = connect_tls(address, "theirs.test", authority.client(&[])).await.unwrap();
    assert!(theirs.is(&client.shown));
    says(&mut client.wire, "tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_apart_by_their_addresses() {
    let (inside, outside) = (endpoint("inside", None).await, endpoint("outside", None).await);
    let routes = [("inside", "match = 'ClientIp(\"127.0.0.2\")'", inside.address), ("outside", "", outside.address)];
    let mut proxy = Proxy::start(&tcp("", &routes)).await;
    let address = proxy.address_of("tcp");
    let mut client = Wire::connect_from("127.0.0.2".parse().unwrap(), address).await;
    says(&mut client, "inside").await;
    says(&mut Wire::connect(address).await, "outside").await;
    // A connection keeps its route.
    proxy.update(|config| config.tcp_routes.retain(|name, _| name.as_str() == "outside")).await;
    client.send("hello").await;
    assert_eq!(&client.read(5).await[..], b"hello");
    says(&mut Wire::connect_from("127.0.0.2".parse().unwrap(), address).await, "outside").await;
}

/// As an ambassador does, whose service may be on its way to another host.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_waits_for_an_endpoint() {
    let endpoint = endpoint("late", None).await;
    let config = tcp("", &[("late", "wait = \"20s\"", dead_address().await)]);
    let mut proxy = Proxy::start(&config).await;
    let mut client = Wire::connect(proxy.address_of("tcp")).await;
    client.send("hello").await;
    assert!(client.is_silent_for(Duration::from_millis(300)).await);
    let mut upstreams = Default::default();
    proxy.update(|config| upstreams = std::mem::take(&mut config.upstreams)).await;
    assert!(client.is_silent_for(Duration::from_millis(300)).await, "without its upstream it waits as well");
    let to = nuncio::config::Upstream::of([endpoint.address]);
    proxy.update(|config| drop(config.upstreams.insert("late".parse().unwrap(), to))).await;
    assert_eq!(&client.read(9).await[..], b"latehello");
    let metrics = proxy.server.metrics();
    assert!(metrics.contains("nuncio_requests_in_flight{route=\"late\",upstream=\"late\"} 1"), "{metrics}");
}

/// What is spoken inside is not ours to say: the endpoint agrees to no HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn tls_to_the_endpoint_offers_no_protocol() {
    let authority = Authority::new();
    let certificate = authority.certify(&["db.test"]);
    let endpoint = endpoint("db", Some(certificate.acceptor(&["postgresql"]))).await;
    let config =
        tcp("", &[("db", "", endpoint.address)]) + &format!("tls = {{ server_name = \"db.test\", ca = '''{}''' }}\n", authority.pem);
    let proxy = Proxy::start(&config).await;
    says(&mut Wire::connect(proxy.address_of("tcp")).await, "db").await;
}
