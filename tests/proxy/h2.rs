//! HTTP/2 frame by frame: what RFC 9113 forbids, and what costs us without bringing anything.

use std::time::Duration;

use bytes::Bytes;

use crate::frames::*;
use crate::support::*;

/// What an answer on one stream is.
#[derive(Debug, PartialEq)]
enum Answer {
    Headers(Bytes),
    Reset,
    GoAway(u32),
    Closed,
}

/// The next frame that says something about requests.
async fn answer(client: &mut Wire) -> Answer {
    loop {
        let Some(frame) = next_frame(client).await else { return Answer::Closed };
        match frame.kind {
            HEADERS => return Answer::Headers(frame.payload),
            RST_STREAM => return Answer::Reset,
            GOAWAY => return Answer::GoAway(frame.goaway().1),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_reach_no_endpoint() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let with = |more: &[(&'static str, &'static str)]| [&REQUEST[..], more].concat();
    let without = |name: &str| REQUEST.into_iter().filter(|(field, _)| *field != name).collect::<Vec<_>>();
    let instead = |name: &'static str, value: &'static str| [&[(name, value)][..], &without(name)].concat();
    for (what, fields) in [
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "5")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te", with(&[("te", "gzip")])),
        ("upper case", with(&[("X-A", "b")])),
        ("space in a name", with(&[("x a", "b")])),
        ("colon in a name", with(&[("x:a", "b")])),
        ("CR and LF in a value", with(&[("x-a", "b\r\nx-b: c")])),
        ("NUL in a value", with(&[("x-a", "b\0c")])),
        ("another host", with(&[("host", "b.test")])),
        ("two hosts", with(&[("host", "a.test"), ("host", "a.test")])),
        ("a pseudo-header after the fields", [&[("x-a", "b")][..], &REQUEST].concat()),
        ("two paths", with(&[(":path", "/b")])),
        ("an unknown pseudo-header", with(&[(":x", "b")])),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("no authority", without(":authority")),
        ("an empty path", instead(":path", "")),
        ("a relative path", instead(":path", "a")),
        ("a path with a space", instead(":path", "/a b")),
        ("a path with CR and LF", instead(":path", "/ HTTP/1.1\r\nHost: b.test\r\n\r\n")),
        ("an authority with a user", instead(":authority", "user@a.test")),
        ("an authority with a path", instead(":authority", "a.test/b")),
        ("a method with a space", instead(":method", "GET /")),
        ("CONNECT", vec![(":method", "CONNECT"), (":authority", "a.test:443")]),
        ("a length without a body", with(&[("content-length", "5")])),
        ("a length with a sign", with(&[("content-length", "+0")])),
        ("an encoded slash", instead(":path", "/a%2fb")),
    ] {
        let mut client = connect(&proxy).await;
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields))).await;
        let answer = answer(&mut client).await;
        let is_refused = match &answer {
            Answer::Headers(block) => block[0] != STATUS_200,
            Answer::Reset | Answer::GoAway(1..) | Answer::Closed => true,
            Answer::GoAway(0) => false,
        };
        assert!(is_refused, "{what}: {answer:?}");
        assert_eq!(endpoint.requests().len(), 0, "{what}");
    }
    let mut client = connect(&proxy).await;
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&with(&[("host", "A.test"), ("te", "trailers")])))).await;
    assert!(matches!(answer(&mut client).await, Answer::Headers(block) if block[0] == STATUS_200));
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 3, &block(&instead(":path", "/%zz")))).await;
    assert!(matches!(answer(&mut client).await, Answer::Headers(block) if block[0] == STATUS_400));
    endpoint.assert_clean();
}

/// A body that is not as long as it says ends in an error on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_as_long_as_it_says() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    for sent in ["hell", "hello!"] {
        let mut client = connect(&proxy).await;
        let head = [&[(":method", "POST")][..], &REQUEST[1..], &[("content-length", "5")]].concat();
        client.send([frame(HEADERS, END_HEADERS, 1, &block(&head)), frame(DATA, END_STREAM, 1, sent.as_bytes())].concat()).await;
        let answer = answer(&mut client).await;
        assert!(!matches!(&answer, Answer::Headers(block) if block[0] == STATUS_200), "{answer:?}");
    }
    eventually("nothing is left", || endpoint.open() == 0).await;
    assert_eq!(endpoint.requests(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let long = "a".repeat(16_000);
    let path = format!("/{}", "a".repeat(16_384));
    let many: Vec<_> = REQUEST.into_iter().chain([("x-a", "b"); 101]).collect();
    let large: Vec<_> = REQUEST.into_iter().chain([("x-a", long.as_str()); 5]).collect();
    let long_path = [&[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", path.as_str())][..]].concat();
    for fields in [many, large, long_path] {
        let mut client = connect(&proxy).await;
        let block = block(&fields);
        let mut pieces = block.chunks(16_000).peekable();
        let mut kind = HEADERS;
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            let flags = if kind == HEADERS { END_STREAM | end } else { end };
            client.send(frame(kind, flags, 1, piece)).await;
            kind = CONTINUATION;
        }
        let answer = answer(&mut client).await;
        assert!(!matches!(&answer, Answer::Headers(block) if block[0] == STATUS_200), "{answer:?}");
    }
    assert_eq!(endpoint.requests(), []);
}

/// The bytes of one turn of a flood.
type Piece = fn(u32) -> Vec<u8>;

/// Sends `piece` until the connection is closed. Gives how often.
async fn flood(client: &mut Wire, mut piece: impl FnMut(u32) -> Vec<u8>) -> u32 {
    for turn in 0..200_000 {
        if client.try_send(piece(turn)).await.is_err() {
            return turn;
        }
    }
    panic!("the connection is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_the_connection() {
    let endpoint = Endpoint::start(|mut conn| async move { while conn.request().await.is_some() {} }).await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let floods: [(&str, Piece); 8] = [
        ("PING", |_| frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", |_| frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", |turn| frame(PRIORITY, 0, turn * 2 + 3, &[0, 0, 0, 0, 1])),
        ("empty DATA", |_| frame(DATA, 0, 1, &[])),
        ("unknown frames", |_| frame(0x42, 0, 0, &[])),
        ("rapid reset", |turn| [request(turn * 2 + 3), frame(RST_STREAM, 0, turn * 2 + 3, &[0, 0, 0, 8])].concat()),
        ("WINDOW_UPDATE of nothing", |turn| [request(turn * 2 + 3), frame(WINDOW_UPDATE, 0, turn * 2 + 3, &[0; 4])].concat()),
        ("too many streams", |turn| request(turn * 2 + 3)),
    ];
    for (what, piece) in floods {
        let mut client = connect(&proxy).await;
        let open = frame(HEADERS, END_HEADERS, 1, &block(&[&[(":method", "POST")][..], &REQUEST[1..]].concat()));
        client.send(open).await;
        let sent = flood(&mut client, piece).await;
        assert!(sent < 100_000, "{what}: {sent} pieces");
        drop(client);
        eventually("the endpoint is let go", || endpoint.open() == 0).await;
    }
    // A header block without an end.
    let mut client = connect(&proxy).await;
    client.send(frame(HEADERS, END_STREAM, 1, &block(&REQUEST))).await;
    flood(&mut client, |_| frame(CONTINUATION, 0, 1, &[])).await;
}

/// The budget is for what brings nothing: a client that works is never near it.
#[tokio::test(flavor = "multi_thread")]
async fn honest_clients_keep_their_connection() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = Proxy::start(&to(&[endpoint.address], "").replace("[routes.web]", "limits = { h2_anomalies = 50 }\n[routes.web]")).await;
    let mut client = connect(&proxy).await;
    for turn in 0..200 {
        // What browsers send beside their requests.
        let stream = turn * 2 + 1;
        client
            .send(
                [
                    request(stream),
                    frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 1]),
                    frame(PING, 0, 0, &[0; 8]),
                    frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
                ]
                .concat(),
            )
            .await;
        assert!(matches!(answer(&mut client).await, Answer::Headers(block) if block[0] & 0x80 != 0), "request {turn}");
    }
    // Without requests the same ends it.
    let mut left = 0;
    while client.try_send(frame(PING, 0, 0, &[0; 8])).await.is_ok() {
        left += 1;
        assert!(left < 10_000);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A client that does not open its window is given no more time than the route gives; the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_bounds_a_stream_that_nobody_reads() {
    let endpoint = Endpoint::start(|mut conn| async move {
        conn.request().await.unwrap();
        if conn.number > 0 {
            return conn.respond(200, "quick").await;
        }
        conn.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await;
        while conn.wire.try_send([0; 1 << 16]).await.is_ok() {}
    })
    .await;
    let config = to(&[endpoint.address], "").replace("[upstreams.web]", "timeout = \"1s\"\n[upstreams.web]");
    let proxy = Proxy::start(&config).await;
    let mut client = connect(&proxy).await;
    let started = std::time::Instant::now();
    client.send(request(1)).await;
    assert!(matches!(answer(&mut client).await, Answer::Headers(block) if block[0] == STATUS_200));
    assert_eq!(answer(&mut client).await, Answer::Reset);
    assert!(started.elapsed() >= Duration::from_secs(1));
    eventually("the endpoint is let go", || endpoint.open() == 0).await;
    let line = "nuncio_upstream_errors_total{upstream=\"web\",cause=\"route_timeout\"} 1\n";
    assert!(proxy.server.metrics().contains(line), "{}", proxy.server.metrics());
    client.send(request(3)).await;
    assert!(matches!(answer(&mut client).await, Answer::Headers(block) if block[0] == STATUS_200));
}
