//! PROXY headers that come in: who the client is, from whom that is believed, and what becomes of connections without one or with a bad one.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;

use crate::proxy_headers::*;
use crate::support::*;

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// An endpoint that says what it was told of the client: address, scheme and port.
async fn telling() -> Endpoint {
    Endpoint::replying(|request| {
        let field = |name: &str| request.all(name).join(",");
        response(200, &["x-forwarded-for", "x-forwarded-proto", "x-forwarded-port"].map(field).join(" "))
    })
    .await
}

/// Listener `web` with these settings, in front of `endpoint`. `more` goes into the upstream, and on.
fn web(endpoint: &Endpoint, settings: &str, more: &str) -> String {
    to(&[endpoint.address], more).replace("[routes.web]", &format!("{settings}\n[routes.web]"))
}

const REQUIRED: &str = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.0/8\"]";
const OPTIONAL: &str = "proxy_protocol = \"optional\"\ntrusted_proxies = [\"127.0.0.1/32\"]";

/// The answer to `GET` behind these bytes.
async fn ask(proxy: &Proxy, header: &[u8]) -> String {
    let mut client = proxy.connect().await;
    client.send([header, GET.as_bytes()].concat()).await;
    client.response().await.text().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_whom_the_header_names() {
    let endpoint = telling().await;
    let proxy = Proxy::start(&web(&endpoint, REQUIRED, "")).await;
    let tls = |flags: u8| [flags, 0, 0, 0, 1];
    for (header, expected) in [
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 8080\r\n".to_vec(), "192.0.2.1 http 8080"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n".to_vec(), "2001:db8::1 http 443"),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n".to_vec(), "192.0.2.1 http 2"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1 http -"),
        (b"PROXY UNKNOWN whatever follows\r\n".to_vec(), "127.0.0.1 http -"),
        (v2_of("192.0.2.1:56324", "198.51.100.1:8080", &[]), "192.0.2.1 http 8080"),
        (v2_of("[2001:db8::1]:56324", "[2001:db8::2]:443", &[]), "2001:db8::1 http 443"),
        (v2_of("192.0.2.1:1", "198.51.100.1:443", &[(SSL, &tls(1)), (AUTHORITY, b"a.test"), (4, b"padding")]), "192.0.2.1 https 443"),
        (v2_of("192.0.2.1:1", "198.51.100.1:443", &[(SSL, &tls(0))]), "192.0.2.1 http 443"),
        (v2_of("192.0.2.1:1", "198.51.100.1:443", &[(0xEA, &[7; 4000])]), "192.0.2.1 http 443"),
        (v2(0, 0, b""), "127.0.0.1 http -"),
        (v2(0, 0x11, b"is not looked at"), "127.0.0.1 http -"),
        (v2(1, 0, b""), "127.0.0.1 http -"),
        (v2(1, 0x31, &[b'/'; 216]), "127.0.0.1 http -"),
    ] {
        let expected = expected.replace('-', &proxy.address().port().to_string());
        assert_eq!(ask(&proxy, &header).await, expected, "{}", header.escape_ascii());
        // Byte by byte, each on its own.
        if header.len() < 300 {
            let mut client = proxy.connect().await;
            for byte in &header {
                client.send([*byte]).await;
            }
            for _ in 0..2 {
                client.send(GET).await;
                assert_eq!(client.response().await.text(), expected, "{}", header.escape_ascii());
            }
        }
    }
    endpoint.assert_clean();
}

/// Whether what the client says of others is believed depends on the client that the header names, as it would if it had come itself.
#[tokio::test(flavor = "multi_thread")]
async fn forwarded_fields_are_believed_from_a_trusted_client_alone() {
    let endpoint = telling().await;
    let proxy = Proxy::start(&web(&endpoint, REQUIRED, "")).await;
    let port = proxy.address().port();
    let claim = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n";
    for (header, expected) in [
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 80\r\n".to_vec(), "192.0.2.1 http 80".to_owned()),
        (b"PROXY TCP4 127.0.0.9 198.51.100.1 56324 80\r\n".to_vec(), "203.0.113.9, 127.0.0.9 http 80".to_owned()),
        // The proxy's own request; and that of somebody whom it does not know, and does not vouch for.
        (v2(0, 0, b""), format!("203.0.113.9, 127.0.0.1 http {port}")),
        (b"PROXY UNKNOWN\r\n".to_vec(), format!("127.0.0.1 http {port}")),
        (v2(1, 0, b""), format!("127.0.0.1 http {port}")),
    ] {
        let mut client = proxy.connect().await;
        client.send([&header[..], claim.as_bytes()].concat()).await;
        assert_eq!(client.response().await.text(), expected, "{}", header.escape_ascii());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_middlewares_and_the_access_log_see_the_client() {
    let endpoint = telling().await;
    let more = "[routes.lan]\nmatch = 'ClientIp(\"192.0.2.0/24\")'\nmiddlewares = [{ ip_deny = [\"192.0.2.7\"] }]\nupstream = \"lan\"\n\
                [upstreams.lan]\nendpoints = [\"ENDPOINT\"]\n";
    let lan = Endpoint::answering("lan").await;
    let more = more.replace("ENDPOINT", &lan.address.to_string());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let sink = nuncio::access::Sink::File(path.clone());
    let config = web(&endpoint, REQUIRED, &more);
    let proxy = Proxy::start_with(&config, |builder| builder.access_log(sink, nuncio::access::Format::Common)).await;
    assert_eq!(ask(&proxy, &v2_of("192.0.2.1:1", "198.51.100.1:80", &[])).await, "lan");
    assert_eq!(ask(&proxy, &v2_of("192.0.3.1:1", "198.51.100.1:80", &[])).await, "192.0.3.1 http 80");
    let mut denied = proxy.connect().await;
    denied.send([b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 80\r\n", GET.as_bytes()].concat()).await;
    assert_eq!(denied.response().await.status(), 403);
    drop(proxy);
    let log = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("all is written", || log().lines().count() == 3).await;
    for ip in ["192.0.2.1 ", "192.0.3.1 ", "192.0.2.7 "] {
        assert!(log().lines().any(|line| line.starts_with(ip)), "{ip}: {}", log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_hashed_by_their_own_address() {
    let (one, two) = (Endpoint::answering("1").await, Endpoint::answering("2").await);
    let config = to(&[one.address, two.address], "balance = { hash = \"client_ip\" }");
    let proxy = Proxy::start(&config.replace("[routes.web]", &format!("{REQUIRED}\n[routes.web]"))).await;
    let mut seen = Vec::new();
    for number in 0..32 {
        let header = v2_of(&format!("192.0.2.{number}:1"), "198.51.100.1:80", &[]);
        let first = ask(&proxy, &header).await;
        assert_eq!(ask(&proxy, &header).await, first);
        seen.push(first);
    }
    assert_eq!(tally(seen).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_comes_behind_the_header() {
    let endpoint = telling().await;
    let authority = Authority::new();
    let certificate = authority.certify(&["a.test"]);
    let proxy = Proxy::start(&(web(&endpoint, &format!("{REQUIRED}\ntls = {{}}"), "") + &certificate.toml("a"))).await;
    let header = v2_of("192.0.2.1:1", "198.51.100.1:443", &[]);
    let in_the_clear = v2_of("192.0.2.1:1", "198.51.100.1:443", &[(SSL, &[0; 5])]);
    for (header, alpn, expected) in [
        (&header, "http/1.1", "192.0.2.1 https 443"),
        (&header, "h2", "192.0.2.1 https 443"),
        // The client's own connection was in the clear, to a proxy that speaks TLS to us.
        (&in_the_clear, "http/1.1", "192.0.2.1 http 443"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, header).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(authority.client(&[alpn])));
        let stream = within("TLS", connector.connect("a.test".try_into().unwrap(), stream)).await.unwrap();
        let mut wire = Wire::new(stream);
        if alpn == "h2" {
            let mut client = h2_client(wire).await;
            let request = hyper::Request::get("https://a.test/").body(body("")).unwrap();
            let answer = within("a response", client.send_request(request)).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), expected);
        } else {
            wire.send(GET).await;
            assert_eq!(wire.response().await.text(), expected);
        }
    }
}

fn tcp(endpoint: &Endpoint, settings: &str) -> String {
    format!(
        "[listeners.web]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n{settings}\n\
         [tcp_routes.web]\nlistener = \"web\"\nupstream = \"web\"\n[upstreams.web]\nendpoints = [\"{}\"]\n",
        endpoint.address
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_stream_begins_behind_the_header() {
    // It speaks first.
    let endpoint = Endpoint::start(|mut conn| async move {
        conn.wire.send("hello").await;
        while let Some(byte) = conn.wire.next_byte().await {
            conn.wire.send([byte]).await;
        }
    })
    .await;
    let proxy = Proxy::start(&tcp(&endpoint, REQUIRED)).await;
    for header in [&b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 80\r\n"[..], &v2_of("192.0.2.1:1", "198.51.100.1:80", &[])] {
        let mut client = proxy.connect().await;
        client.send(header).await;
        assert_eq!(&client.read(5).await[..], b"hello");
        let mut client = proxy.connect().await;
        client.send([header, b"and more"].concat()).await;
        assert_eq!(&client.read(13).await[..], b"helloand more");
        client.finish().await;
        client.ended().await;
    }
}

/// Whatever is wrong is said, once a second for each kind, and ends that connection alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_header_ends_the_connection_and_is_said() {
    logged();
    let endpoint = telling().await;
    let settings = format!("{REQUIRED}\ntimeouts = {{ client_header = \"300ms\" }}");
    for config in [web(&endpoint, &settings, ""), tcp(&endpoint, &settings)] {
        for (bytes, is_finished, said) in [
            (GET.as_bytes().to_vec(), false, "there is none: it would begin with `PROXY`"),
            (b"\x16\x03\x01\x02\x00".to_vec(), false, "there is none"),
            (b"PROXY TCP4 192.0.2.1\r\n".to_vec(), false, "version 1: its line is not"),
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 80\n".to_vec(), false, "version 1: its line is not"),
            (format!("PROXY UNKNOWN {}", "x".repeat(93)).into_bytes(), false, "version 1: its line has no end within 107 bytes"),
            (v2(1, 0x11, &[0; 5000]), false, "it says that 5000 bytes follow, more than 4096"),
            (v2(1, 0x11, &[0; 11]), false, "it says that 11 bytes follow, too few"),
            (v2(2, 0x11, &[0; 12]), false, "command 2"),
            (v2(1, 0x44, &[0; 12]), false, "address family and transport 0x44"),
            (v2(1, 0x11, &[0; 14]), false, "a TLV does not fit"),
            (v2_of("192.0.2.1:1", "192.0.2.1:1", &[(3, b"sum?")]), false, "its checksum is wrong"),
            (b"PROXY TCP4 192.0.2.1 198".to_vec(), true, "it ended after 24 bytes"),
            (v2(1, 0x11, &[0; 12])[..20].to_vec(), true, "it ended after 20 bytes"),
            (b"PROXY TCP4 192.0.2.1 198".to_vec(), false, "not whole, within 300ms"),
            (Vec::new(), false, "not whole, within 300ms"),
        ] {
            // A server for each: of one kind a line a second is said.
            let proxy = Proxy::start(&config).await;
            let started = Instant::now();
            let mut client = proxy.connect().await;
            client.try_send(&bytes).await.unwrap();
            if is_finished {
                client.finish().await;
            }
            client.ended().await;
            let is_slow = said.contains("300ms");
            assert_eq!(started.elapsed() >= Duration::from_millis(300), is_slow, "{said}: after {:?}", started.elapsed());
            let is_said =
                || logged().lines().any(|line| line.contains("listener web: closed a connection of 127.0.0.1:") && line.contains(said));
            eventually(said, is_said).await;
            // It did no harm.
            let mut client = proxy.connect().await;
            client.send([b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 80\r\n", GET.as_bytes()].concat()).await;
            assert!(!client.response().await.text().is_empty());
        }
    }
    endpoint.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_trusted_is_not_heard() {
    logged();
    let endpoint = telling().await;
    let proxy = Proxy::start(&web(&endpoint, &REQUIRED.replace("127.0.0.0/8", "127.0.0.1/32"), "")).await;
    let mut client = Wire::connect_from("127.0.0.2".parse().unwrap(), proxy.address()).await;
    client.try_send([b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 80\r\n", GET.as_bytes()].concat()).await.unwrap();
    client.ended().await;
    eventually("it is said", || logged().contains("closed a connection of 127.0.0.2:")).await;
    assert!(logged().contains("it is not one of the `trusted_proxies`"));
    assert_eq!(proxy.refused("web", "proxy_header_untrusted"), 1);
    assert_eq!(endpoint.requests().len(), 0);
    assert_eq!(ask(&proxy, b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 80\r\n").await, "192.0.2.1 http 80");
}

/// A check that the port is open is nothing to warn of.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_byte_is_passed_over() {
    logged();
    let endpoint = telling().await;
    let proxy = Proxy::start(&web(&endpoint, REQUIRED, "")).await;
    let mut client = proxy.connect().await;
    client.finish().await;
    client.ended().await;
    assert_eq!(ask(&proxy, &v2(0, 0, b"")).await, format!("127.0.0.1 http {}", proxy.address().port()));
    assert!(!logged().contains("closed a connection"), "{}", logged());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_header_is_taken_where_it_is() {
    let endpoint = telling().await;
    let proxy = Proxy::start(&web(&endpoint, OPTIONAL, "")).await;
    let port = proxy.address().port();
    assert_eq!(ask(&proxy, b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 80\r\n").await, "192.0.2.1 http 80");
    assert_eq!(ask(&proxy, &v2_of("192.0.2.1:1", "198.51.100.1:80", &[])).await, "192.0.2.1 http 80");
    assert_eq!(ask(&proxy, b"").await, format!("127.0.0.1 http {port}"));
    // What begins as a header, but is none.
    let mut client = proxy.connect().await;
    for byte in "PROPFIND /x HTTP/1.1\r\nHost: a.test\r\n\r\n".bytes() {
        client.send([byte]).await;
    }
    assert_eq!(client.response().await.text(), format!("127.0.0.1 http {port}"));
    // A bad header is not taken for a request.
    let mut client = proxy.connect().await;
    client.send(b"PROXY TCP4 nonsense\r\n").await;
    client.ended().await;
    // Of who is not trusted it is no header.
    let mut client = Wire::connect_from("127.0.0.2".parse().unwrap(), proxy.address()).await;
    client.send(GET).await;
    assert_eq!(client.response().await.text(), format!("127.0.0.2 http {port}"));
    client.send([b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 80\r\n", GET.as_bytes()].concat()).await;
    assert_eq!(client.response().await.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_header_of_a_tcp_stream() {
    let endpoint = Endpoint::start(|mut conn| async move {
        while let Some(byte) = conn.wire.next_byte().await {
            conn.wire.send([byte]).await;
        }
    })
    .await;
    let proxy = Proxy::start(&tcp(&endpoint, OPTIONAL)).await;
    for (sent, echoed) in [("PROXY UNKNOWN\r\nPROXY TCP", "PROXY TCP"), ("PRONTO", "PRONTO"), ("\r\n\r\nQUIT", "\r\n\r\nQUIT"), ("", "")] {
        let mut client = proxy.connect().await;
        for byte in sent.bytes() {
            client.send([byte]).await;
        }
        client.finish().await;
        assert_eq!(client.rest().await, echoed.as_bytes(), "{sent:?}");
    }
    // Who ended without a byte was passed on as well.
    assert_eq!(endpoint.accepted(), 4);
}

/// Who has said nothing yet does not hold up the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_does_not_come_does_not_hold_up_a_drain() {
    logged();
    let endpoint = telling().await;
    for config in [web(&endpoint, REQUIRED, ""), tcp(&endpoint, REQUIRED)] {
        let proxy = Proxy::start(&config).await;
        let (mut silent, mut slow) = (proxy.connect().await, proxy.connect().await);
        slow.send("PROXY TCP4 ").await;
        // It is served: those before it have been accepted.
        assert!(!ask(&proxy, &v2(0, 0, b"")).await.is_empty());
        let started = Instant::now();
        assert!(proxy.server.shutdown().await);
        assert!(started.elapsed() < Duration::from_secs(5), "after {:?}, of the 10 s that a header may take", started.elapsed());
        silent.ended().await;
        slow.ended().await;
    }
    assert!(!logged().contains("closed a connection"), "{}", logged());
}

/// The setting is live: connections follow it from the next one on.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_turned_on_and_off_under_traffic() {
    let endpoint = telling().await;
    let mut proxy = Proxy::start(&web(&endpoint, "trusted_proxies = [\"127.0.0.0/8\"]", "")).await;
    let (address, port) = (proxy.address(), proxy.address().port());
    let mut before = proxy.connect().await;
    before.send(GET).await;
    assert_eq!(before.response().await.text(), format!("127.0.0.1 http {port}"));
    proxy.replace(&web(&endpoint, REQUIRED, "")).await;
    assert_eq!(proxy.address(), address);
    assert_eq!(ask(&proxy, b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 80\r\n").await, "192.0.2.1 http 80");
    before.send(GET).await;
    assert_eq!(before.response().await.text(), format!("127.0.0.1 http {port}"));
    proxy.replace(&web(&endpoint, "", "")).await;
    assert_eq!(ask(&proxy, b"").await, format!("127.0.0.1 http {port}"));
}
