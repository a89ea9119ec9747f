//! How long we wait for clients.

use std::time::{Duration, Instant};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const LIMIT: Duration = Duration::from_millis(400);
/// Longer than a connection is kept ready for its next request.
const REST: Duration = Duration::from_millis(1_400);

/// A server that gives a head and a pause `LIMIT` each.
async fn impatient(endpoint: &Endpoint, header: &str, idle: &str) -> Proxy {
    let timeouts = format!("timeouts = {{ client_header = \"{header}\", client_idle = \"{idle}\" }}\n[routes.web]");
    Proxy::start(&to(&[endpoint.address], "").replace("[routes.web]", &timeouts)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_end() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = impatient(&endpoint, "400ms", "60s").await;
    for first in ["", "G", "GET / HTTP/1.1\r\nHost: a.test\r\nX-A: ", &format!("{GET}GET / HT")] {
        let mut client = proxy.connect().await;
        let started = Instant::now();
        client.send(first).await;
        // One byte now and then is no progress.
        let dripping = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if client.try_send("a").await.is_err() {
                    return;
                }
            }
        };
        within("the connection is closed", dripping).await;
        assert!(started.elapsed() >= LIMIT, "{first:?}");
    }
    assert_eq!(endpoint.requests().len(), 1);
    // Half of HTTP/2's beginning.
    let mut client = proxy.connect().await;
    client.send("PRI * HTTP/2.0\r\n").await;
    client.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_next_request() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = impatient(&endpoint, "60s", "1s").await;
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        client.send(GET).await;
        assert_eq!(client.response().await.status(), 200);
    }
    let started = Instant::now();
    client.ended().await;
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_coming() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = impatient(&endpoint, "60s", "400ms").await;
    for sent in ["", "hel"] {
        let mut client = proxy.connect().await;
        let started = Instant::now();
        client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n{sent}")).await;
        assert_eq!(client.response().await.status(), 408, "after {sent:?}");
        assert!(started.elapsed() >= LIMIT);
        client.ended().await;
    }
    eventually("the endpoint is let go", || endpoint.open() == 0).await;
    assert_eq!(endpoint.requests(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_not_read() {
    let endpoint = Endpoint::start(|mut conn| async move {
        conn.request().await;
        let piece = vec![b'x'; 64 << 10];
        let _ = conn.wire.try_send("HTTP/1.1 200 OK\r\n\r\n").await;
        while conn.wire.try_send(&piece).await.is_ok() {}
    })
    .await;
    let proxy = impatient(&endpoint, "60s", "400ms").await;
    let mut client = proxy.connect().await;
    client.send(GET).await;
    eventually("the request arrives", || endpoint.requests().len() == 1).await;
    eventually("the endpoint is let go", || endpoint.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_that_does_not_end() {
    let endpoint = Endpoint::answering("ok").await;
    let certificate = Authority::new().certify(&["a.test"]);
    let tls = "tls = {}\ntimeouts = { client_header = \"400ms\" }\n[routes.web]";
    let proxy = Proxy::start(&(to(&[endpoint.address], "").replace("[routes.web]", tls) + &certificate.toml("a"))).await;
    for sent in [&b""[..], b"\x16\x03\x01"] {
        let mut client = proxy.connect().await;
        client.send(sent).await;
        client.ended().await;
    }
    // Nor is anything else answered in the clear.
    let mut client = proxy.connect().await;
    client.send(GET).await;
    assert!(!client.rest().await.starts_with(b"HTTP"));
    assert_eq!(proxy.refused("web", "tls_handshake"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_without_streams() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = impatient(&endpoint, "60s", "400ms").await;
    let mut client = h2_client(proxy.connect().await).await;
    let request = hyper::Request::get("http://a.test/").body(body("")).unwrap();
    assert_eq!(within("a response", client.send_request(request)).await.unwrap().status(), 200);
    eventually("the connection is closed", || client.is_closed()).await;
}

/// The limits of a head are for HTTP/1.1: a stream that takes its time does not end a connection that has served others.
#[tokio::test(flavor = "multi_thread")]
async fn http2_streams_may_take_longer_than_a_head() {
    let endpoint = Endpoint::start(|mut conn| async move {
        while let Some(request) = conn.request().await {
            if request.target() == "/slow" {
                tokio::time::sleep(Duration::from_millis(1500)).await;
            }
            conn.respond(200, "ok").await;
        }
    })
    .await;
    let proxy = impatient(&endpoint, "400ms", "60s").await;
    let mut client = h2_client(proxy.connect().await).await;
    for path in ["/", "/slow", "/", "/slow"] {
        let request = hyper::Request::get(format!("http://a.test{path}")).body(body("")).unwrap();
        assert_eq!(within("a response", client.send_request(request)).await.unwrap().status(), 200);
    }
}

/// A stream that is open, and quiet, keeps its connection: events may be far apart.
#[tokio::test(flavor = "multi_thread")]
async fn http2_streams_keep_their_connection() {
    let endpoint = Endpoint::start(|mut conn| async move {
        conn.request().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        conn.wire.send("after").await;
        conn.request().await;
    })
    .await;
    let proxy = impatient(&endpoint, "60s", "300ms").await;
    let mut client = h2_client(proxy.connect().await).await;
    let request = hyper::Request::get("http://a.test/").body(body("")).unwrap();
    let answer = within("a response", client.send_request(request)).await.unwrap();
    let text = within("its body", http_body_util::BodyExt::collect(answer.into_body())).await.unwrap().to_bytes();
    assert_eq!(text, "firstafter");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = Proxy::start(&to(&[endpoint.address], "").replace("[routes.web]", "limits = { connections = 2 }\n[routes.web]")).await;
    let (mut first, mut second) = (proxy.connect().await, proxy.connect().await);
    for client in [&mut first, &mut second] {
        client.send(GET).await;
        assert_eq!(client.response().await.status(), 200);
    }
    proxy.connect().await.ended().await;
    assert_eq!(proxy.refused("web", "connections"), 1);
    drop(first);
    // The place is free as soon as the proxy has seen the end.
    let retry = async {
        loop {
            let mut third = proxy.connect().await;
            if third.try_send(GET).await.is_ok() && third.try_response().await.is_ok() {
                return;
            }
        }
    };
    within("a free place", retry).await;
    second.send(GET).await;
    assert_eq!(second.response().await.status(), 200);
}

/// A request far apart from the last one finds its connection as it was left, whole or byte by byte, with TLS and without.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_rested_serves_on() {
    let endpoint = Endpoint::replying(|request| response(200, request.target())).await;
    let authority = Authority::new();
    let certificate = authority.certify(&["a.test"]);
    let plain = Proxy::to(&[endpoint.address]).await;
    let tls = Proxy::start(&(to(&[endpoint.address], "").replace("[routes.web]", "tls = {}\n[routes.web]") + &certificate.toml("a"))).await;
    let secure = connect_tls(tls.address(), "a.test", authority.client(&["http/1.1"])).await.unwrap();
    for mut client in [plain.connect().await, secure.wire] {
        for round in 0..2 {
            client.send(format!("GET /{round} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
            assert_eq!(client.response().await.text(), format!("/{round}"));
            assert!(client.is_silent_for(REST).await);
        }
        for byte in "GET /slowly HTTP/1.1\r\nHost: a.test\r\n\r\n".bytes() {
            client.send([byte]).await;
        }
        assert_eq!(client.response().await.text(), "/slowly");
        assert!(client.is_silent_for(REST).await);
        client.send("GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!((client.response().await.text(), client.response().await.text()), ("/1", "/2"));
    }
}

/// What came of the next request along with the last one is not forgotten, however late the rest comes.
#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_a_request_survives_a_rest() {
    let endpoint = Endpoint::replying(|request| response(200, request.target())).await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    client.send("GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\nGET /2 HT").await;
    assert_eq!(client.response().await.text(), "/1");
    assert!(client.is_silent_for(REST).await);
    client.send("TP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "/2");
}

/// It keeps the limit of idle connections, and ends at once when its listener goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_rests_still_ends() {
    let endpoint = Endpoint::answering("ok").await;
    let patient = Proxy::to(&[endpoint.address]).await;
    let short = impatient(&endpoint, "60s", "2500ms").await;
    let mut idle = short.connect().await;
    let mut client = patient.connect().await;
    for client in [&mut idle, &mut client] {
        client.send(GET).await;
        assert_eq!(client.response().await.status(), 200);
    }
    let started = Instant::now();
    assert!(client.is_silent_for(REST).await);
    let ended = tokio::spawn(async move { client.ended().await });
    let mut patient = patient;
    patient.update(|config| config.listeners.clear()).await;
    within("the listener's connection ends", ended).await.unwrap();
    idle.ended().await;
    assert!(started.elapsed() >= Duration::from_millis(2_000), "ended after {:?}", started.elapsed());
}

/// A response that the client has not read is not forgotten, however long it takes. Of one of these sizes the last part is with the
/// proxy when the endpoint has sent all.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_read_late_is_whole() {
    const STEP: usize = 256 << 10;
    let endpoint = Endpoint::replying(|request| response(200, &"x".repeat(request.target()[1..].parse().unwrap()))).await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut clients = Vec::new();
    for bytes in (1..=32).map(|number| number * STEP) {
        let mut client = proxy.connect().await;
        client.send(format!("GET /{bytes} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        clients.push((client, bytes));
    }
    eventually("the requests arrive", || endpoint.requests().len() == clients.len()).await;
    tokio::time::sleep(REST).await;
    for (mut client, bytes) in clients {
        assert_eq!(client.response().await.body.len(), bytes);
    }
}
