//! PROXY headers that go out: what endpoints are told, that no connection serves two clients, and health checks.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::BodyExt;
use nuncio::routing::endpoint::Health;

use crate::proxy_headers::*;
use crate::support::*;

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc";

const TCP: &str = "[listeners.web]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n[tcp_routes.web]\nlistener = \"web\"\nupstream = \"web\"\n\
                   [upstreams.web]\nendpoints = [\"ENDPOINT\"]\n";

fn tcp(endpoint: &Endpoint, more: &str) -> String {
    TCP.replace("ENDPOINT", &endpoint.address.to_string()) + more
}

/// A connection from an address that is nobody else's, and that address.
async fn client_of(proxy: &Proxy, ip: &str) -> (Wire, String) {
    let wire = Wire::connect_from(ip.parse().unwrap(), proxy.address()).await;
    (wire, ip.to_owned())
}

/// The header names this client, and our listener as what it connected to.
fn assert_names(told: &Told, version: &str, ip: &str, proxy: SocketAddr) {
    let start = if version == "v1" { "PROXY TCP4 " } else { "v2 TCP4 " };
    assert!(told.line.starts_with(&format!("{start}{ip} 127.0.0.1 ")), "{told:?}");
    assert_eq!(told.addresses().1, proxy, "{told:?}");
    assert_ne!(told.addresses().0.port(), 0, "{told:?}");
    let unique_id = told.tlvs.get(&UNIQUE_ID).map(Vec::len);
    assert_eq!(unique_id, (version == "v2").then_some(32), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_told_before_http() {
    let authority = Authority::new();
    let certificate = authority.certify(&["endpoint.test"]);
    let tls = format!("tls = {{ server_name = \"endpoint.test\", ca = '''{}''' }}", authority.pem);
    for version in ["v1", "v2"] {
        for (protocol, is_tls) in [("http1", false), ("http1", true), ("h2c", false), ("h2", true)] {
            let acceptor = is_tls.then(|| certificate.acceptor(&[if protocol == "h2" { "h2" } else { "http/1.1" }]));
            let recording = if protocol == "http1" { Recording::http1(acceptor).await } else { Recording::http2(acceptor).await };
            let settings = format!("proxy_protocol = \"{version}\"\nprotocol = \"{protocol}\"\n{}", if is_tls { &tls } else { "" });
            let proxy = Proxy::start(&to(&[recording.endpoint.address], &settings)).await;
            let (mut client, ip) = client_of(&proxy, "127.0.0.7").await;
            for _ in 0..3 {
                client.send(GET).await;
                assert_eq!(client.response().await.status(), 200, "{version} {protocol}");
            }
            let told = recording.told();
            assert_eq!(told.len(), 1, "its requests share a connection: {told:?}");
            assert_names(&told[0], version, &ip, proxy.address());
            assert_eq!(told[0].tlvs.len(), usize::from(version == "v2"), "{told:?}");
            recording.endpoint.assert_clean();
        }
    }
}

/// However clients take turns, an endpoint that was told of one gets no request of another over the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn no_connection_serves_two_clients() {
    for (protocol, version) in [("http1", "v1"), ("http1", "v2"), ("h2c", "v2")] {
        let recording = if protocol == "http1" { Recording::http1(None).await } else { Recording::http2(None).await };
        let settings = format!("proxy_protocol = \"{version}\"\nprotocol = \"{protocol}\"");
        let proxy = Proxy::start(&to(&[recording.endpoint.address], &settings)).await;
        let mut clients = Vec::new();
        for number in 1..=8 {
            clients.push(client_of(&proxy, &format!("127.0.1.{number}")).await);
        }
        let mut served = vec![Vec::new(); clients.len()];
        for _ in 0..4 {
            for (index, (client, _)) in clients.iter_mut().enumerate() {
                client.send(GET).await;
                served[index].push(client.response().await.text().parse::<usize>().unwrap());
            }
        }
        let told = recording.told();
        assert_eq!(told.len(), clients.len(), "{protocol}: each has one connection: {served:?}");
        for (index, (_, ip)) in clients.iter().enumerate() {
            assert!(served[index].iter().all(|number| *number == served[index][0]), "{served:?}");
            assert_names(&told[served[index][0]], version, ip, proxy.address());
        }
        assert_eq!(recording.endpoint.open(), clients.len());
        // What is nobody's any more is not kept.
        drop(clients);
        eventually("connections end with their clients", || recording.endpoint.open() == 0).await;
        // The same address again is another client.
        let (mut client, _) = client_of(&proxy, "127.0.1.1").await;
        client.send(GET).await;
        client.response().await;
        assert_eq!(recording.told().len(), told.len() + 1);
    }
}

/// Streams of one HTTP/2 client share; those of two do not.
#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_client_share_a_connection() {
    let recording = Recording::http2(None).await;
    let proxy = Proxy::start(&to(&[recording.endpoint.address], "proxy_protocol = \"v2\"\nprotocol = \"h2c\"")).await;
    let mut numbers = Vec::new();
    let mut clients = Vec::new();
    for ip in ["127.0.0.7", "127.0.0.8"] {
        let client = h2_client(client_of(&proxy, ip).await.0).await;
        let requests = (0..10).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let request = hyper::Request::get("http://a.test/").body(body("")).unwrap();
                let answer = within("a response", client.send_request(request)).await.unwrap();
                String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
            })
        });
        let requests: Vec<_> = requests.collect();
        for request in requests {
            numbers.push(request.await.unwrap());
        }
        clients.push(client);
    }
    assert_eq!(tally(numbers).into_values().collect::<Vec<_>>(), [10, 10]);
    let mut told: Vec<String> = recording.told().iter().map(|told| told.addresses().0.ip().to_string()).collect();
    told.sort();
    assert_eq!(told, ["127.0.0.7", "127.0.0.8"]);
    drop(clients);
    eventually("connections end with their clients", || recording.endpoint.open() == 0).await;
}

/// A request that cannot be sent twice takes the client's own connection, once that has shown that it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn content_goes_over_the_same_connection() {
    let recording = Recording::http1(None).await;
    let proxy = Proxy::start(&to(&[recording.endpoint.address], "proxy_protocol = \"v1\"")).await;
    let mut client = proxy.connect().await;
    for request in [GET, GET, POST, POST, GET, POST] {
        client.send(request).await;
        assert_eq!(client.response().await.text(), "0");
    }
    assert_eq!(recording.told().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_told_before_a_tcp_stream() {
    for version in ["v1", "v2"] {
        let recording = Recording::echo().await;
        let proxy = Proxy::start(&tcp(&recording.endpoint, &format!("proxy_protocol = \"{version}\"\n"))).await;
        let (mut client, ip) = client_of(&proxy, "127.0.0.7").await;
        client.send("hello").await;
        assert_eq!(&client.read(5).await[..], b"hello");
        assert_names(&recording.told()[0], version, &ip, proxy.address());
        // Who says nothing is told of as well: the endpoint may be the one to speak first.
        let (_silent, ip) = client_of(&proxy, "127.0.0.8").await;
        eventually("the second header", || recording.told().len() == 2).await;
        assert_names(&recording.told()[1], version, &ip, proxy.address());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_clients_are_told_of() {
    for (version, start) in [("v1", "PROXY TCP6 ::1 ::1 "), ("v2", "v2 TCP6 ::1 ::1 ")] {
        let recording = Recording::http1(None).await;
        let config = to(&[recording.endpoint.address], &format!("proxy_protocol = \"{version}\"")).replace("127.0.0.1:0", "[::1]:0");
        let proxy = Proxy::start(&config).await;
        assert_eq!(proxy.get("/").await.status(), 200);
        let told = recording.told()[0].clone();
        assert!(told.line.starts_with(start) && told.addresses().1 == proxy.address(), "{told:?}");
    }
}

/// A WebSocket is the client's own connection, too.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_began_with_a_header() {
    let recording = Recording::start(None, |mut conn| async move {
        if conn.request().await.is_some() {
            conn.wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
            let sent = conn.wire.read(5).await;
            conn.wire.send(sent).await;
        }
    })
    .await;
    let proxy = Proxy::start(&to(&[recording.endpoint.address], "proxy_protocol = \"v2\"")).await;
    let (mut client, ip) = client_of(&proxy, "127.0.0.7").await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 101);
    client.send("hello").await;
    assert_eq!(&client.read(5).await[..], b"hello");
    client.ended().await;
    assert_names(&recording.told()[0], "v2", &ip, proxy.address());
}

/// What we know of the client's TLS.
#[tokio::test(flavor = "multi_thread")]
async fn tls_of_the_client_is_told() {
    let authority = Authority::new();
    let certificate = authority.certify(&["a.test"]);
    let http = Recording::http1(None).await;
    let stream = Recording::echo().await;
    let http_config = to(&[http.endpoint.address], "proxy_protocol = \"v2\"").replace("[routes.web]", "tls = {}\n[routes.web]");
    let tcp_config = tcp(&stream.endpoint, "proxy_protocol = \"v2\"\n").replace("[tcp_routes", "tls = {}\n[tcp_routes");
    for (config, recording, alpn) in [(http_config, &http, "http/1.1"), (tcp_config, &stream, "")] {
        let proxy = Proxy::start(&(config + &certificate.toml("a"))).await;
        let alpn: &[&str] = if alpn.is_empty() { &[] } else { &[alpn] };
        for (versions, name) in [(&rustls::version::TLS13, "TLSv1.3"), (&rustls::version::TLS12, "TLSv1.2")] {
            let before = recording.told().len();
            let config = authority.client_of_versions(alpn, &[versions]);
            let mut client = connect_tls(proxy.address(), "a.test", config).await.unwrap();
            client.wire.send(GET).await;
            client.wire.read(4).await;
            let told = recording.told()[before].clone();
            assert_eq!(told.tlvs[&AUTHORITY], b"a.test");
            assert_eq!(told.tlvs[&SSL], [b"\x01\0\0\0\x01\x21\0\x07", name.as_bytes()].concat());
            assert_eq!(told.tlvs.len(), 3, "{told:?}");
        }
    }
}

/// A chain: what came in goes out.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_in_is_passed_on() {
    let trust = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let came: &[(u8, &[u8])] =
        &[(ALPN, b"h2"), (AUTHORITY, b"b.test"), (4, b"padding"), (UNIQUE_ID, b"theirs"), (SSL, &[1, 0, 0, 0, 0]), (0xEA, b"\x01vpce-1")];
    let header = v2_of("192.0.2.1:56324", "198.51.100.1:443", came);
    let (http, stream) = (Recording::http1(None).await, Recording::echo().await);
    let http_config = to(&[http.endpoint.address], "proxy_protocol = \"v2\"").replace("[routes.web]", &format!("{trust}[routes.web]"));
    let tcp_config = tcp(&stream.endpoint, "proxy_protocol = \"v2\"\n").replace("[tcp_routes", &format!("{trust}[tcp_routes"));
    for (config, recording, is_stream) in [(http_config, &http, false), (tcp_config, &stream, true)] {
        let proxy = Proxy::start(&config).await;
        let mut client = proxy.connect().await;
        client.send([&header[..], GET.as_bytes()].concat()).await;
        client.read(4).await;
        let told = recording.told()[0].clone();
        assert_eq!(told.line, "v2 TCP4 192.0.2.1 198.51.100.1 56324 443");
        let expected: Tlvs =
            came.iter().filter(|(kind, _)| *kind != 4 && (is_stream || *kind != ALPN)).map(|(k, v)| (*k, v.to_vec())).collect();
        assert_eq!(told.tlvs, expected);
        // Somebody unknown stays unknown, and the proxy's own connection is its own.
        for (header, line) in [(v2(1, 0x31, &[0; 216]), "v2 UNKNOWN"), (v2(0, 0, b""), "v2 TCP4 127.0.0.1 127.0.0.1 ")] {
            let before = recording.told().len();
            let mut client = proxy.connect().await;
            client.send([&header[..], GET.as_bytes()].concat()).await;
            client.read(4).await;
            assert!(recording.told()[before].line.starts_with(line), "{:?}", recording.told()[before]);
        }
    }
    // A client of another family than the address it came to.
    let v1 = Recording::echo().await;
    let config = tcp(&v1.endpoint, "proxy_protocol = \"v1\"\n").replace("[tcp_routes", &format!("{trust}[tcp_routes"));
    let proxy = Proxy::start(&config).await;
    for (header, line) in [
        ("PROXY TCP6 2001:db8::1 ::ffff:198.51.100.1 1 2\r\n", "PROXY TCP6 2001:db8::1 ::ffff:198.51.100.1 1 2"),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 1 2\r\n", "PROXY TCP4 192.0.2.1 198.51.100.1 1 2"),
        ("PROXY UNKNOWN\r\n", "PROXY UNKNOWN"),
    ] {
        let before = v1.told().len();
        let mut client = proxy.connect().await;
        client.send(format!("{header}x")).await;
        client.read(1).await;
        assert_eq!(v1.told()[before].line, line);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_say_that_they_are_ours() {
    for (version, line) in [("v1", "PROXY UNKNOWN"), ("v2", "v2 LOCAL")] {
        for (probe, protocol) in [("http = \"/up\"", "http1"), ("http = \"/up\"", "h2c"), ("tcp = true", "http1")] {
            let recording = if protocol == "http1" { Recording::http1(None).await } else { Recording::http2(None).await };
            let settings = format!(
                "proxy_protocol = \"{version}\"\nprotocol = \"{protocol}\"\nhealth = {{ {probe}, interval = \"20ms\", timeout = \"5s\" }}"
            );
            let proxy = Proxy::start(&to(&[recording.endpoint.address], &settings)).await;
            let state = proxy.server.table().upstreams["web"].endpoints[0].state.clone();
            eventually("it is up", || state.health() == Health::Up).await;
            eventually("two headers", || recording.told().len() >= 2).await;
            for told in recording.told() {
                assert_eq!((told.line.as_str(), told.tlvs.len()), (line, 0));
            }
            recording.endpoint.assert_clean();
        }
    }
}

/// Connections that were made without a header serve nobody once the upstream wants one, and the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_setting_makes_new_connections() {
    let plain = Endpoint::answering("plain").await;
    let recording = Recording::http1(None).await;
    let mut proxy = Proxy::start(&to(&[plain.address], "")).await;
    let mut client = proxy.connect().await;
    let ask = async |client: &mut Wire| {
        client.send(GET).await;
        client.response().await.text().to_owned()
    };
    assert_eq!(ask(&mut client).await, "plain");
    proxy.replace(&to(&[recording.endpoint.address], "proxy_protocol = \"v2\"")).await;
    assert_eq!(ask(&mut client).await, "0");
    assert_eq!(ask(&mut client).await, "0");
    proxy.replace(&to(&[recording.endpoint.address], "proxy_protocol = \"v1\"")).await;
    assert_eq!(ask(&mut client).await, "1");
    assert!(recording.told()[0].line.starts_with("v2 TCP4 127.0.0.1 ") && recording.told()[1].line.starts_with("PROXY TCP4 127.0.0.1 "));
    proxy.replace(&to(&[plain.address], "")).await;
    assert_eq!(ask(&mut client).await, "plain");
}

/// One that does not take the header is tried elsewhere, as one that does not take a connection is.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_reached_is_tried_elsewhere() {
    let recording = Recording::http1(None).await;
    let dead = dead_address().await;
    let proxy = Proxy::start(&to(&[dead, recording.endpoint.address], "proxy_protocol = \"v2\"")).await;
    for _ in 0..4 {
        assert_eq!(proxy.get("/").await.status(), 200);
    }
    assert_eq!(recording.told().len(), 4);
    let mut ids: Vec<_> = recording.told().into_iter().map(|told| told.tlvs[&UNIQUE_ID].clone()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each connection of a client has a name of its own");
    eventually("nothing is kept", || recording.endpoint.open() == 0).await;
}

/// A client's own connection that the endpoint has closed meanwhile costs no request.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_endpoint_closes_is_made_again() {
    let recording = Recording::start(None, |mut conn| async move {
        if conn.request().await.is_some() {
            conn.respond(200, "once").await;
        }
    })
    .await;
    let proxy = Proxy::start(&to(&[recording.endpoint.address], "proxy_protocol = \"v2\"")).await;
    let mut client = proxy.connect().await;
    for number in 1..=4 {
        client.send(GET).await;
        assert_eq!(client.response().await.text(), "once");
        assert_eq!(recording.told().len(), number);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ids: std::collections::BTreeSet<_> = recording.told().into_iter().map(|told| told.tlvs[&UNIQUE_ID].clone()).collect();
    assert_eq!(ids.len(), 1, "it is one connection of one client");
}
