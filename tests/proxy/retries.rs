//! Endpoints that fail: what is tried again, what is not, and how long we wait.

use std::time::{Duration, Instant};

use crate::frames::*;
use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello";

/// An endpoint that closes each connection right after its response, without a word.
async fn closing() -> Endpoint {
    Endpoint::start(|mut conn| async move {
        if conn.request().await.is_some() {
            conn.respond(200, "ok").await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_closes_idle_connections_costs_no_request() {
    let endpoint = closing().await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..4 {
        let mut client = proxy.connect().await;
        clients.spawn(async move {
            for _ in 0..500 {
                client.send(if number % 2 == 0 { GET } else { POST }).await;
                assert_eq!(client.response().await.status(), 200);
            }
        });
    }
    clients.join_all().await;
    assert_eq!(endpoint.requests().len(), 2000);
    endpoint.assert_clean();
}

/// The endpoint takes a second request, and closes instead of answering: as a timeout that races with it would.
#[tokio::test(flavor = "multi_thread")]
async fn a_reused_connection_that_dies_is_replaced_for_what_may_be_repeated() {
    let endpoint = Endpoint::start(|mut conn| async move {
        conn.request().await;
        conn.respond(200, "ok").await;
        conn.request().await;
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        client.send(GET).await;
        assert_eq!(client.response().await.status(), 200);
    }
    // The connection of the last GET stays open for long enough to be trusted with a POST, and dies under it. The POST is seen once.
    assert!(client.is_silent_for(Duration::from_millis(600)).await);
    let before = endpoint.requests().len();
    client.send(POST).await;
    assert_eq!(client.response().await.status(), 502);
    assert_eq!(endpoint.requests().len() - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_elsewhere() {
    let endpoint = Endpoint::answering("alive").await;
    let proxy = Proxy::to(&[dead_address().await, endpoint.address, dead_address().await]).await;
    let mut client = proxy.connect().await;
    for request in [GET, POST, GET, POST, GET, POST] {
        client.send(request).await;
        assert_eq!(client.response().await.text(), "alive");
    }
    assert!(endpoint.requests().iter().all(|request| request.method() == "GET" || request.body == b"hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_dies_in_flight() {
    let dying = Endpoint::start(|mut conn| async move {
        conn.request().await;
    })
    .await;
    let endpoint = Endpoint::answering("alive").await;
    let proxy = Proxy::to(&[dying.address, endpoint.address]).await;
    let mut client = proxy.connect().await;
    for _ in 0..6 {
        client.send(GET).await;
        assert_eq!(client.response().await.text(), "alive");
    }
    // A POST may have done its work: it is seen once, and answered 502 by the one that dies.
    let (before, mut bad) = (dying.requests().len(), 0);
    for _ in 0..6 {
        client.send(POST).await;
        let status = client.response().await.status();
        assert!([200, 502].contains(&status), "{status}");
        bad += usize::from(status == 502);
    }
    assert_eq!((dying.requests().len() - before, bad), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_endpoint_is_left() {
    let mut proxy = Proxy::to(&[dead_address().await, dead_address().await]).await;
    let mut client = proxy.connect().await;
    for request in [GET, POST] {
        client.send(request).await;
        assert_eq!(client.response().await.status(), 502);
    }
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| upstream.endpoints.clear())).await;
    for request in [GET, POST, GET] {
        client.send(request).await;
        let response = client.response().await;
        assert_eq!((response.status(), response.field("retry-after")), (503, Some("5")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_bounded() {
    let dying = || Endpoint::start(|mut conn| async move { drop(conn.request().await) });
    let endpoints = [dying().await, dying().await, dying().await, dying().await, dying().await];
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let proxy = Proxy::start(&to(&addresses, "retries = 2")).await;
    assert_eq!(proxy.get("/").await.status(), 502);
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.requests().len()).sum::<usize>(), 3);
}

/// An endpoint that speaks HTTP/2 by hand. `answer` makes frames of the number of the connection and of the streams that have come on it.
async fn by_frames(answer: impl Fn(usize, &[u32]) -> Vec<u8> + Clone + Send + Sync + 'static) -> Endpoint {
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    Endpoint::start(move |mut conn| {
        let (answer, number) = (answer.clone(), connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        async move {
            conn.wire.read("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()).await;
            conn.wire.send([frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat()).await;
            let mut streams = Vec::new();
            while let Some(came) = next_frame(&mut conn.wire).await {
                if came.kind == HEADERS {
                    streams.push(came.stream);
                    conn.wire.send(answer(number, &streams)).await;
                }
            }
        }
    })
    .await
}

fn ok(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &[STATUS_200])
}

fn post(stream: u32) -> Vec<u8> {
    let head = [&[(":method", "POST")][..], &REQUEST[1..]].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&head))
}

/// Two POSTs on one connection are both answered with 200.
async fn both_are_served(endpoint: &Endpoint) {
    let proxy = Proxy::start(&to(&[endpoint.address], "protocol = \"h2c\"")).await;
    let mut client = connect(&proxy).await;
    client.send([post(1), post(3)].concat()).await;
    let mut served = Vec::new();
    while served.len() < 2 {
        let answer = next_event(&mut client).await.expect("an answer");
        if answer.kind == HEADERS {
            assert_eq!(answer.payload[0], STATUS_200, "{answer:?}");
            served.push(answer.stream);
        }
    }
    served.sort_unstable();
    assert_eq!(served, [1, 3]);
}

/// What comes after the last stream that a GOAWAY names was not acted on (RFC 9113 section 6.8): even a POST is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn an_http2_endpoint_that_says_goodbye_costs_no_request() {
    let endpoint = by_frames(|connection, streams| match (connection, streams) {
        (0, [_]) => Vec::new(),
        (0, [first, ..]) => [frame(GOAWAY, 0, 0, &[first.to_be_bytes(), [0; 4]].concat()), ok(*first)].concat(),
        (_, streams) => ok(streams[streams.len() - 1]),
    })
    .await;
    both_are_served(&endpoint).await;
    assert_eq!(endpoint.accepted(), 2);
}

/// Nor was a stream that was refused (RFC 9113 section 8.7).
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_is_tried_again() {
    const REFUSED_STREAM: [u8; 4] = 7_u32.to_be_bytes();
    let endpoint = by_frames(|_, streams| match streams {
        [stream] => frame(RST_STREAM, 0, *stream, &REFUSED_STREAM),
        streams => ok(streams[streams.len() - 1]),
    })
    .await;
    both_are_served(&endpoint).await;
    assert_eq!(endpoint.accepted(), 1);
}

/// HTTP/2 endpoints that end every connection at once must not be asked for ever.
#[tokio::test(flavor = "multi_thread")]
async fn retries_over_http2_are_bounded() {
    let dying = || {
        Endpoint::start(|mut conn| async move {
            // The preface, the settings, and the request: then the end.
            drop(conn.request().await);
        })
    };
    let endpoints = [dying().await, dying().await];
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let proxy = Proxy::start(&to(&addresses, "protocol = \"h2c\"")).await;
    assert_eq!(proxy.get("/").await.status(), 502);
    let accepted: usize = endpoints.iter().map(Endpoint::accepted).sum();
    assert!(accepted <= 6, "{accepted} connections for one request");
}

/// A listening socket whose queue is full: connections to it hang.
fn blackhole() -> (socket2::Socket, Vec<socket2::Socket>, std::net::SocketAddr) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let queued = (0..4)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    (listener, queued, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_hangs_is_tried_elsewhere() {
    let (_listener, _queued, hanging) = blackhole();
    let endpoint = Endpoint::answering("alive").await;
    let timeouts = "timeouts = { connect = \"200ms\" }";
    let proxy = Proxy::start(&to(&[hanging, endpoint.address], timeouts)).await;
    let mut client = proxy.connect().await;
    for _ in 0..4 {
        client.send(GET).await;
        assert_eq!(client.response().await.text(), "alive");
    }
    let proxy = Proxy::start(&to(&[hanging], timeouts)).await;
    assert_eq!(proxy.get("/").await.status(), 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_answer() {
    let endpoint = Endpoint::start(|mut conn| async move { while conn.request().await.is_some() {} }).await;
    let proxy = Proxy::start(&to(&[endpoint.address], "timeouts = { response_header = \"300ms\" }")).await;
    let mut client = proxy.connect().await;
    for request in [GET, POST] {
        let started = Instant::now();
        client.send(request).await;
        assert_eq!(client.response().await.status(), 504);
        assert!(started.elapsed() >= Duration::from_millis(300));
    }
    assert_eq!(endpoint.requests().len(), 2, "a request that was not answered may have been acted on");
    eventually("its connections are closed", || endpoint.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_stops_within_its_response() {
    let endpoint = Endpoint::start(|mut conn| async move {
        conn.request().await;
        conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
        conn.request().await;
    })
    .await;
    let proxy = Proxy::start(&to(&[endpoint.address], "timeouts = { idle = \"300ms\" }")).await;
    let mut client = proxy.connect().await;
    client.send(GET).await;
    assert_eq!(client.response_head().await.status(), 200);
    assert_eq!(&client.read(5).await[..], b"hello");
    client.ended().await;
    eventually("its connection is closed", || endpoint.open() == 0).await;
}

/// A response that ends before its end must not look whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_cut_is_cut_for_the_client() {
    for head in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let endpoint = Endpoint::start(move |mut conn| async move {
            conn.request().await;
            conn.wire.send(format!("HTTP/1.1 200 OK\r\n{head}")).await;
        })
        .await;
        let proxy = Proxy::to(&[endpoint.address]).await;
        let mut client = proxy.connect().await;
        client.send(GET).await;
        assert!(matches!(client.try_response().await, Err(Unread::Cut(_))), "{head}");
    }
}

/// What an endpoint answers that is no HTTP, or has two readings, is not handed on.
#[tokio::test(flavor = "multi_thread")]
async fn bad_responses_are_502() {
    for bytes in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let endpoint = Endpoint::replying(move |_| bytes.into()).await;
        let proxy = Proxy::to(&[endpoint.address]).await;
        assert_eq!(proxy.get("/").await.status(), 502, "{bytes}");
    }
}

/// Chunked wins over a length (RFC 9112 section 6.3), and the length is not handed on.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_has_one_length() {
    for fields in ["Content-Length: 3\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3"] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        let endpoint = Endpoint::replying(move |_| bytes.clone().into_bytes()).await;
        let proxy = Proxy::to(&[endpoint.address]).await;
        assert_eq!(proxy.get("/").await.text(), "hello", "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_bounds_a_request_as_a_whole() {
    let endpoint = Endpoint::start(|mut conn| async move {
        while let Some(request) = conn.request().await {
            match request.target() {
                "/silent" => continue,
                "/stream" => {
                    conn.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                    // Never idle, and never at an end.
                    while conn.wire.try_send("5\r\nhello\r\n").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                _ => conn.respond(200, "quick").await,
            }
        }
    })
    .await;
    let config = to(&[endpoint.address], "").replace("[upstreams.web]", "timeout = \"1s\"\n[upstreams.web]");
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    for path in ["/quick", "/silent", "/quick"] {
        let started = Instant::now();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let status = client.response().await.status();
        assert_eq!(status, if path == "/quick" { 200 } else { 504 });
        assert_eq!(started.elapsed() >= Duration::from_secs(1), status == 504);
    }
    let started = Instant::now();
    client.send("GET /stream HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(matches!(client.try_response().await, Err(Unread::Cut(_))));
    assert!(started.elapsed() >= Duration::from_secs(1));
    // A body that the client sends too slowly counts as well.
    let mut client = proxy.connect().await;
    client.send("POST /slow HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhe").await;
    assert_eq!(client.response().await.status(), 504);
    eventually("the endpoint is let go", || endpoint.open() == 0).await;
}

/// A client that does not read is given no more time than the route gives: far less than it may be idle.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_bounds_a_response_that_nobody_reads() {
    let endpoint = Endpoint::start(|mut conn| async move {
        conn.request().await.unwrap();
        conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await;
        while conn.wire.try_send([0; 1 << 16]).await.is_ok() {}
    })
    .await;
    let config = to(&[endpoint.address], "").replace("[upstreams.web]", "timeout = \"1s\"\n[upstreams.web]");
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    let started = Instant::now();
    client.send(GET).await;
    assert_eq!(client.response_head().await.status(), 200);
    eventually("the endpoint is let go", || endpoint.open() == 0).await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    let has = |line: &str| proxy.server.metrics().lines().any(|it| it == line);
    eventually("the connection is closed", || has("nuncio_connections_open{listener=\"web\"} 0")).await;
    assert!(has("nuncio_upstream_errors_total{upstream=\"web\",cause=\"route_timeout\"} 1"), "{}", proxy.server.metrics());
    client.rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_lets_its_endpoint_go() {
    let endpoint = Endpoint::start(|mut conn| async move { while conn.request().await.is_some() {} }).await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    client.send(GET).await;
    eventually("the request arrives", || endpoint.requests().len() == 1).await;
    drop(client);
    eventually("the connection is closed", || endpoint.open() == 0).await;
    let table = proxy.server.table();
    let state = &table.upstreams.values().next().unwrap().endpoints[0].state;
    eventually("nothing is counted as in flight", || state.in_flight() == 0).await;
}
