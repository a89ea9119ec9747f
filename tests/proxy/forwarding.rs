//! Requests and responses on their way through: streamed, with what concerns one connection taken out.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Request;
use tokio::sync::mpsc;

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Bytes that two sockets and the proxy between them may hold, generously. What is refused here is a proxy that buffers without bound.
const HELD_MAX: usize = 24 << 20;
const ENDLESS: usize = 64 << 20;

/// Writes until the other side takes no more. Gives the bytes it took.
async fn write_until_stuck(wire: &mut Wire) -> usize {
    let piece = vec![b'x'; 64 << 10];
    let mut taken = 0;
    while taken < ENDLESS && tokio::time::timeout(Duration::from_millis(1500), wire.try_send(&piece)).await.is_ok_and(|sent| sent.is_ok()) {
        taken += piece.len();
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_reads_slowly_slows_its_client() {
    let endpoint = Endpoint::start(|mut conn| async move {
        conn.request_head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {ENDLESS}\r\n\r\n")).await;
    let taken = write_until_stuck(&mut client).await;
    assert!(taken < HELD_MAX, "{taken} bytes were taken for an endpoint that reads none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_slows_its_endpoint() {
    // With a pipelined request behind it as well.
    for request in [GET.to_owned(), GET.repeat(2), format!("{GET}\r\n")] {
        let (report, mut reported) = mpsc::channel(1);
        let endpoint = Endpoint::start(move |mut conn| {
            let report = report.clone();
            async move {
                conn.request().await;
                conn.wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {ENDLESS}\r\n\r\n")).await;
                let _ = report.send(write_until_stuck(&mut conn.wire).await).await;
            }
        })
        .await;
        let proxy = Proxy::to(&[endpoint.address]).await;
        let mut client = proxy.connect().await;
        client.send(request).await;
        let taken = within("the endpoint is stuck", reported.recv()).await.unwrap();
        assert!(taken < HELD_MAX, "{taken} bytes were taken for a client that reads none");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_arrive_whole() {
    let endpoint = Endpoint::replying(|request| response(200, std::str::from_utf8(&request.body).unwrap())).await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let body: String = (0..400_000).map(|number| format!("{number:06}")).collect();
    let mut client = proxy.connect().await;
    for chunked in [false, true] {
        let framing = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", body.len()) };
        client.send(format!("PUT / HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n")).await;
        if chunked {
            for piece in body.as_bytes().chunks(100_000) {
                client.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
            }
            client.send("0\r\n\r\n").await;
        } else {
            client.send(&body).await;
        }
        assert!(client.response().await.text() == body);
    }
    endpoint.assert_clean();
}

/// Each event is there before the next one is made, also with a request pipelined behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_streamed_as_it_comes() {
    for request in [GET.to_owned(), GET.repeat(2), format!("{GET}\r\nGET / HT")] {
        let (next, events) = mpsc::channel::<String>(1);
        let events = std::sync::Arc::new(tokio::sync::Mutex::new(events));
        let endpoint = Endpoint::start(move |mut conn| {
            let events = events.clone();
            async move {
                conn.request().await;
                conn.wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                while let Some(event) = events.lock().await.recv().await {
                    conn.wire.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
                }
            }
        })
        .await;
        let proxy = Proxy::to(&[endpoint.address]).await;
        let mut client = proxy.connect().await;
        client.send(&request).await;
        assert_eq!(client.response_head().await.status(), 200);
        for number in 0..5 {
            next.send(format!("data: {number}\n\n")).await.unwrap();
            assert_eq!(client.chunk().await, format!("data: {number}\n\n").into_bytes());
        }
    }
}

/// A request is streamed as it comes, and may be answered before it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn both_ways_at_once() {
    let endpoint = Endpoint::start(|mut conn| async move {
        conn.request_head().await;
        conn.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        loop {
            let chunk = conn.wire.chunk().await;
            if chunk.is_empty() {
                break;
            }
            conn.wire.send([format!("{:x}\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n"].concat()).await;
        }
        conn.wire.send("0\r\n\r\n").await;
        conn.request().await;
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.response_head().await.status(), 200);
    for text in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
        assert_eq!(client.chunk().await, text.as_bytes());
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.chunk().await, b"");
}

/// Once the response has begun, one piece either way is progress, and the limit for the head is no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_outlives_the_limits_of_its_beginning() {
    let endpoint = Endpoint::start(|mut conn| async move {
        conn.request_head().await;
        conn.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        while !conn.wire.chunk().await.is_empty() {}
        tokio::time::sleep(Duration::from_secs(1)).await;
        conn.wire.send("4\r\ndone\r\n0\r\n\r\n").await;
        conn.request().await;
    })
    .await;
    let config = to(&[endpoint.address], "timeouts = { response_header = \"300ms\" }")
        .replace("[routes.web]", "timeouts = { client_idle = \"300ms\" }\n[routes.web]");
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.response_head().await.status(), 200);
    client.send("3\r\none\r\n").await;
    assert!(client.is_silent_for(Duration::from_secs(1)).await);
    client.send("0\r\n\r\n").await;
    assert_eq!(client.chunk().await, b"done");
    assert_eq!(client.chunk().await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways() {
    let endpoint = Endpoint::replying(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n".to_vec()
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n3\r\nabc\r\n0\r\nX-Check: 9\r\n\r\n")
        .await;
    let answer = client.response().await;
    assert_eq!((answer.text(), answer.trailers.as_slice()), ("hello", &[("x-sum".into(), "7".into())][..]));
    let seen = endpoint.request();
    assert_eq!(seen.body, b"abc");
    assert_eq!(seen.trailers, [("x-check".to_owned(), "9".to_owned())]);
    assert_eq!((seen.field("te"), seen.field("connection")), (Some("trailers"), Some("te")));
    endpoint.assert_clean();
}

/// What decides about a message cannot come after it.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_hold_no_fields_of_a_head() {
    let endpoint = Endpoint::answering("").await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let answer = proxy
        .ask("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, Host, Transfer-Encoding, X-Forwarded-For, Connection\r\n\r\n3\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: b.test\r\nTransfer-Encoding: chunked\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(endpoint.request().trailers, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_100_continue() {
    let endpoint = Endpoint::answering("thanks").await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.response_head().await.status(), 100);
    client.send("hello").await;
    assert_eq!(client.response().await.text(), "thanks");
    assert_eq!(endpoint.request().field("expect"), None);
    assert_eq!(endpoint.request().body, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_clients() {
    let endpoint = Endpoint::replying(|request| match request.target() {
        "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
        _ => response(200, "hello"),
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    // Without a word the connection ends with the response. HTTP/1.0 knows no chunks.
    for path in ["/", "/chunked"] {
        let mut client = proxy.connect().await;
        client.send(format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        let answer = client.response().await;
        assert_eq!((answer.status(), answer.text(), answer.field("transfer-encoding")), (200, "hello", None));
        client.ended().await;
    }
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = client.response().await;
        assert_eq!((answer.text(), answer.field("connection")), ("hello", Some("keep-alive")));
    }
    endpoint.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_without_a_body() {
    let endpoint = Endpoint::replying(|request| match (request.method(), request.target()) {
        ("HEAD", _) => b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n".to_vec(),
        (_, "/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n".to_vec(),
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    for (request, status, length) in
        [("HEAD /", 200, Some("12345")), ("GET /204", 204, None), ("GET /304", 304, None), ("HEAD /", 200, Some("12345"))]
    {
        client.send(format!("{request} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let answer = client.response_head().await;
        assert_eq!((answer.status(), answer.field("content-length")), (status, length), "{request}");
    }
    assert_eq!(endpoint.accepted(), 1, "the connection is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let endpoint = Endpoint::replying(|request| response(200, request.target())).await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    let requests: String = (0..100).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n")).collect();
    client.send(requests).await;
    for number in 0..100 {
        assert_eq!(client.response().await.text(), format!("/{number}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_responses_are_not_the_response() {
    let endpoint =
        Endpoint::replying(|_| [&b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"[..], &response(200, "hello")].concat()).await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    assert_eq!(proxy.get("/").await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_one_connection_is_not_forwarded() {
    let endpoint = Endpoint::replying(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Hop, keep-alive\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nProxy-Authenticate: Basic\r\nUpgrade: x\r\nX-Kept: 1\r\n\r\n".to_vec()
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let answer = proxy
        .ask("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: X-Hop, Host, Content-Length, X-Forwarded-For\r\nConnection: x-other\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: gzip\r\nUpgrade: x\r\nX-Hop: 1\r\nX-Other: 1\r\nX-Kept: 1\r\n\r\n")
        .await;
    let seen = endpoint.request();
    for name in ["connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade", "x-hop", "x-other"] {
        assert_eq!(seen.all(name), Vec::<&str>::new(), "{name}");
    }
    assert_eq!((seen.field("host"), seen.field("x-kept"), seen.field("x-forwarded-for")), (Some("a.test"), Some("1"), Some("127.0.0.1")));
    for name in ["connection", "keep-alive", "proxy-authenticate", "upgrade", "x-hop"] {
        assert_eq!(answer.all(name), Vec::<&str>::new(), "{name}");
    }
    assert_eq!(answer.field("x-kept"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_that_endpoints_see() {
    let endpoint = Endpoint::answering("").await;
    let address = endpoint.address.to_string();
    for (setting, host) in [("\"pass\"", "A.test:81"), ("\"endpoint\"", address.as_str()), ("{ rewrite = \"b.test\" }", "b.test")] {
        let proxy = Proxy::start(&to(&[endpoint.address], &format!("host = {setting}"))).await;
        proxy.ask("GET / HTTP/1.1\r\nHost: A.test:81\r\n\r\n").await;
        let seen = endpoint.requests().pop().unwrap();
        assert_eq!((seen.field("host"), seen.field("x-forwarded-host")), (Some(host), Some("A.test:81")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_endpoints_are_told_of_the_client() {
    let endpoint = Endpoint::answering("").await;
    let forged = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b.test\r\nX-Forwarded-Port: 1\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n";
    let ask = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{forged}\r\n");
    let listener = |more: &str| to(&[endpoint.address], "").replace("[routes.web]", &format!("{more}\n[routes.web]"));
    let seen = async |more: &str| {
        let proxy = Proxy::start(&listener(more)).await;
        proxy.ask(&ask).await;
        (endpoint.requests().pop().unwrap(), proxy.address().port().to_string())
    };
    let (untrusted, port) = seen("").await;
    assert_eq!(untrusted.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(untrusted.field("x-forwarded-proto"), Some("http"));
    assert_eq!(untrusted.field("x-forwarded-host"), Some("a.test"));
    assert_eq!(untrusted.field("x-forwarded-port"), Some(port.as_str()));
    assert_eq!(untrusted.field("forwarded"), None);
    let (trusted, _) = seen("trusted_proxies = [\"127.0.0.0/8\"]").await;
    assert_eq!(trusted.field("x-forwarded-for"), Some("1.2.3.4, 127.0.0.1"));
    assert_eq!(trusted.field("x-forwarded-proto"), Some("https"));
    let (rfc, _) = seen("forwarded = \"rfc7239\"").await;
    assert_eq!(rfc.field("x-forwarded-for"), None);
    assert!(rfc.field("forwarded").unwrap().contains("for=127.0.0.1"), "{rfc:?}");
    let (off, _) = seen("forwarded = \"off\"").await;
    assert_eq!((off.field("x-forwarded-for"), off.field("forwarded")), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_clients_and_http1_endpoints() {
    let endpoint = Endpoint::replying(|request| response(200, &format!("{} {}", request.target(), request.body.len()))).await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = h2_client(proxy.connect().await).await;
    let request =
        Request::post("http://a.test:81/x?y").header("cookie", "a=1").header("cookie", "b=2").header("te", "trailers").body(body("hello"));
    let answer = within("a response", client.send_request(request.unwrap())).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "/x?y 5");
    let seen = endpoint.request();
    assert_eq!((seen.field("host"), seen.field("cookie")), (Some("a.test:81"), Some("a=1; b=2")));
    endpoint.assert_clean();
    // Many at once, on one connection.
    let mut answers = tokio::task::JoinSet::new();
    for number in 0..150 {
        let request = Request::get(format!("http://a.test/{number}")).body(body("")).unwrap();
        let answer = client.send_request(request);
        answers.spawn(async move {
            let answer = within("a response", answer).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), format!("/{number} 0"));
        });
    }
    answers.join_all().await;
    endpoint.assert_clean();
}

/// As gRPC does it: HTTP/2 all the way, messages both ways, the status in the trailers.
#[tokio::test(flavor = "multi_thread")]
async fn http2_all_the_way() {
    let endpoint = Endpoint::start(|conn| {
        serve_h2(conn, |request| async move {
            assert_eq!((request.version(), request.uri().authority().unwrap().as_str()), (http::Version::HTTP_2, "a.test"));
            assert_eq!(request.headers()["te"], "trailers");
            let sent = request.into_body().collect().await.unwrap();
            assert_eq!(sent.trailers().unwrap()["x-check"], "9");
            let trailers =
                http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))]);
            let answer = http_body_util::Full::new(sent.to_bytes()).map_err(|never| match never {});
            http::Response::new(answer.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed())
        })
    })
    .await;
    let proxy = Proxy::start(&to(&[endpoint.address], "protocol = \"h2c\"")).await;
    let mut client = h2_client(proxy.connect().await).await;
    for _ in 0..3 {
        let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("x-check"), http::HeaderValue::from_static("9"))]);
        let sent = http_body_util::Full::new(bytes::Bytes::from_static(b"hello")).map_err(|never| match never {});
        let sent = sent.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed();
        let request = Request::post("http://a.test/service/method").header("te", "trailers").body(sent).unwrap();
        let answer = within("a response", client.send_request(request)).await.unwrap();
        let answer = within("its body", answer.into_body().collect()).await.unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(answer.to_bytes(), "hello");
    }
    assert_eq!(endpoint.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_clients_and_http2_endpoints() {
    let endpoint = Endpoint::start(|conn| {
        serve_h2(conn, |request| async move {
            let head = format!("{} {} {:?}", request.method(), request.uri(), request.headers().get("host"));
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            http::Response::new(body(format!("{head} {}", sent.len())))
        })
    })
    .await;
    let proxy = Proxy::start(&to(&[endpoint.address], "protocol = \"h2c\"")).await;
    let mut client = proxy.connect().await;
    client.send("POST /x?y HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(client.response().await.text(), "POST http://a.test/x?y None 5");
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 200);
    // An upgrade is not forwarded to HTTP/2, which has none: the request is an ordinary one.
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 200);
}

/// Of many requests in flight on one connection, each gets its own answer.
#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_http2_connections() {
    let endpoint =
        Endpoint::start(|conn| serve_h2(conn, |request| async move { http::Response::new(body(request.uri().path().to_owned())) })).await;
    let proxy = Proxy::start(&to(&[endpoint.address], "protocol = \"h2c\"")).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..50 {
        let mut client = proxy.connect().await;
        clients.spawn(async move {
            for turn in 0..20 {
                client.send(format!("GET /{number}/{turn} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
                assert_eq!(client.response().await.text(), format!("/{number}/{turn}"));
            }
        });
    }
    clients.join_all().await;
    assert!(endpoint.accepted() <= 2, "{} connections", endpoint.accepted());
}
