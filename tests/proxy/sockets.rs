//! Where a listener listens and an endpoint is, beside one IP address and port; and how many connections a client may have.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nuncio::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::*;

/// Bytes that are more than all buffers on their way hold.
const BYTES: usize = 16 << 20;

async fn over_unix(address: &str) -> Wire {
    let path = address.strip_prefix("unix:").unwrap();
    let stream = UnixStream::connect(path).await;
    Wire::new(stream.unwrap_or_else(|error| panic!("{address}: {error}")))
}

/// From a unix socket to a unix socket, on which we listen ourselves, and from there to an endpoint.
#[tokio::test]
async fn requests_go_from_unix_socket_to_unix_socket() {
    let endpoint = Endpoint::answering("here").await;
    let directory = tempfile::tempdir().unwrap();
    let [front, back] = ["front", "back"].map(|name| format!("unix:{}/{name}", directory.path().display()));
    let config = |name: &str| {
        format!(
            r#"
            listeners.{name} = {{ address = "{front}", trusted_proxies = ["127.0.0.1/32"] }}
            listeners.back = {{ address = "{back}", trusted_proxies = ["127.0.0.1/32"] }}
            routes.front = {{ match = 'PathPrefix("/")', listeners = ["{name}"], upstream = "back" }}
            routes.back = {{ match = 'PathPrefix("/")', listeners = ["back"], upstream = "web" }}
            upstreams.back = {{ endpoints = ["{back}"], health = {{ http = "/" }}, sticky = {{ cookie = "s" }}, balance = {{ hash = "client_ip" }} }}
            upstreams.web = {{ endpoints = ["{}"] }}
            "#,
            endpoint.address
        )
    };
    let mut proxy = Proxy::start(&config("front")).await;
    let mut client = over_unix(&front).await;
    for forwarded in ["", "X-Forwarded-For: 192.0.2.1\r\n"] {
        client.send(format!("GET /x HTTP/1.1\r\nHost: a.test\r\n{forwarded}\r\n")).await;
        let answer = client.response().await;
        assert_eq!((answer.status(), answer.text()), (200, "here"));
    }
    let requests: Vec<_> = endpoint.requests().into_iter().filter(|request| request.target() == "/x").collect();
    let told = |name: &str| requests.iter().map(|request| request.field(name).unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(told("x-forwarded-for"), ["127.0.0.1, 127.0.0.1", "192.0.2.1, 127.0.0.1, 127.0.0.1"]);
    assert_eq!(told("x-forwarded-port"), ["80", "80"]);
    // By another name it is the same socket, and the connection goes on.
    proxy.replace(&config("renamed")).await;
    client.send("GET /y HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "here");
    let path = directory.path().join("front");
    assert!(path.exists());
    proxy.update(|config| drop(config.listeners.remove(&Name::literal("renamed")))).await;
    assert!(!path.exists());
    endpoint.assert_clean();
}

/// As much as makes us move bytes in the kernel, both ways, with ends that are half closed.
#[tokio::test]
async fn streams_go_over_unix_sockets() {
    let endpoint = Endpoint::start(|mut conn| async move {
        let said = conn.wire.rest().await;
        let _ = conn.wire.write(&said).await;
    });
    let (endpoint, directory) = (endpoint.await, tempfile::tempdir().unwrap());
    let [front, back] = ["front", "back"].map(|name| format!("unix:{}/{name}", directory.path().display()));
    let _proxy = Proxy::start(&format!(
        r#"
        listeners.front = {{ address = "{front}", protocol = "tcp" }}
        listeners.back = {{ address = "{back}", protocol = "tcp" }}
        tcp_routes.front = {{ listener = "front", upstream = "back" }}
        tcp_routes.back = {{ listener = "back", upstream = "echo" }}
        upstreams.back = {{ endpoints = ["{back}"] }}
        upstreams.echo = {{ endpoints = ["{}"] }}
        "#,
        endpoint.address
    ))
    .await;
    let stream = UnixStream::connect(front.strip_prefix("unix:").unwrap()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let bytes: Vec<u8> = (0..BYTES).map(|index| (index * 31 % 251) as u8).collect();
    let sent = bytes.clone();
    let sender = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::with_capacity(BYTES);
    within("all comes back", reader.read_to_end(&mut received)).await.unwrap();
    sender.await.unwrap();
    assert!(received == bytes, "{} bytes came back", received.len());
}

/// An abstract name leaves no file behind.
#[tokio::test]
async fn abstract_names_are_sockets_too() {
    let endpoint = Endpoint::answering("here").await;
    let name = format!("nuncio-test-{}", std::process::id());
    let proxy = Proxy::start(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        listeners.back = {{ address = "unix:@{name}" }}
        routes.front = {{ match = 'PathPrefix("/")', listeners = ["web"], upstream = "back" }}
        routes.back = {{ match = 'PathPrefix("/")', listeners = ["back"], upstream = "web" }}
        upstreams.back = {{ endpoints = ["unix:@{name}"] }}
        upstreams.web = {{ endpoints = ["{}"] }}
        "#,
        endpoint.address
    ))
    .await;
    assert_eq!(proxy.get("/").await.text(), "here");
}

#[tokio::test]
async fn one_listener_has_both_families() {
    let endpoint = Endpoint::answering("here").await;
    let proxy = Proxy::start(&to(&[endpoint.address], "").replace("127.0.0.1:0", ":0")).await;
    let port = proxy.address().port();
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
        let mut client = Wire::connect(address).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(client.response().await.text(), "here");
        // IPv4 stays IPv4.
        assert_eq!(endpoint.requests().last().unwrap().field("x-forwarded-for"), Some(address.ip().to_string().as_str()));
    }
}

#[tokio::test]
async fn one_listener_has_several_ports() {
    let endpoint = Endpoint::answering("here").await;
    let mut proxy = Proxy::to(&[endpoint.address]).await;
    // Free ports in a row are found by trying.
    let mut first = 20_000 + (std::process::id() % 10_000) as u16;
    loop {
        proxy.update(|config| drop(config.listeners.insert(Name::literal("many"), listener(first)))).await;
        let status = proxy.server.status().listeners();
        if status[&Name::literal("many")].error.is_none() {
            break;
        }
        first += 10;
    }
    for port in first..first + 3 {
        let mut client = Wire::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(client.response().await.text(), "here");
        assert_eq!(endpoint.requests().last().unwrap().field("x-forwarded-port"), Some(port.to_string().as_str()));
    }
}

fn listener(first: u16) -> nuncio::config::Listener {
    nuncio::config::Listener::http(format!("127.0.0.1:{first}-{}", first + 2).parse().unwrap())
}

#[tokio::test]
async fn a_client_has_as_many_connections_as_it_may() {
    let endpoint = Endpoint::answering("here").await;
    let config = |name: &str| {
        format!(
            r#"
            listeners.{name} = {{ address = "127.0.0.1:0", limits = {{ connections_per_client = 2 }} }}
            listeners.db = {{ address = "127.0.0.1:0", protocol = "tcp", limits = {{ connections_per_client = 2 }} }}
            routes.all = {{ match = 'PathPrefix("/")', upstream = "web" }}
            tcp_routes.db = {{ listener = "db", upstream = "web" }}
            upstreams.web = {{ endpoints = ["{}"] }}
            "#,
            endpoint.address
        )
    };
    let proxy = Proxy::start(&config("web")).await;
    for name in ["web", "db"] {
        let address = proxy.address_of(name);
        let works = async |source: [u8; 4]| {
            let mut client = Wire::connect_from(Ipv4Addr::from(source).into(), address).await;
            let _ = client.write("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
            match client.try_response().await {
                Ok(answer) if answer.text() == "here" => Some(client),
                _ => None,
            }
        };
        let (first, second) = (works([127, 0, 0, 1]).await.unwrap(), works([127, 0, 0, 1]).await.unwrap());
        assert!(works([127, 0, 0, 1]).await.is_none(), "{name}");
        assert!(works([127, 0, 0, 2]).await.is_some(), "{name}");
        assert_eq!(proxy.refused(name, "connections_per_client"), 1);
        drop(first);
        let again = async {
            while works([127, 0, 0, 1]).await.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("there is room again", again).await;
        drop(second);
    }
}
