//! Back-pressure over HTTP/2: who does not take what was sent to it slows its sender and nobody else, and the proxy holds little of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioExecutor;

use crate::support::*;

const PIECE: usize = 16 << 10;
/// What a sender would send if it were let.
const ENDLESS: usize = 96 << 20;
/// What the others move meanwhile.
const LARGE: usize = 8 << 20;
/// Bytes of one stream that windows, buffers and the sockets in between may hold. To an endpoint that speaks HTTP/1.1 each stream has
/// a connection of its own, whose sockets on loopback hold most of it.
fn held_max(protocol: &str) -> usize {
    if protocol == "http1" { 12 << 20 } else { 4 << 20 }
}

/// Streams that are stuck.
const STUCK: usize = 6;

/// `length` bytes in pieces, counted when they are taken.
fn counted(length: usize, taken: &Arc<AtomicUsize>) -> Body {
    let taken = taken.clone();
    let pieces = (0..length / PIECE).map(move |_| {
        taken.fetch_add(PIECE, Ordering::SeqCst);
        Ok(Frame::data(Bytes::from_static(&[b'x'; PIECE])))
    });
    StreamBody::new(futures_util::stream::iter(pieces)).boxed()
}

/// An endpoint that sends what the path says, `/endless` or `/large`, counts what was taken of the former, and reads request bodies
/// except those to `/stuck`.
struct Source {
    endpoint: Endpoint,
    sent: Arc<AtomicUsize>,
}

impl Source {
    async fn start(protocol: &str) -> Self {
        let sent: Arc<AtomicUsize> = Arc::default();
        let count = sent.clone();
        let endpoint = if protocol == "http1" {
            Endpoint::start(move |conn| speak_http1(conn, count.clone())).await
        } else {
            Endpoint::start(move |conn| {
                let count = count.clone();
                // Its own windows do not make streams wait for each other.
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(1 << 18).initial_connection_window_size(1 << 27);
                serve_h2_with(builder, conn, move |request| answer(request, count.clone()))
            })
            .await
        };
        Self { endpoint, sent }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }
}

async fn answer(request: Request<Incoming>, sent: Arc<AtomicUsize>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let body = match path.as_str() {
        "/endless" => counted(ENDLESS, &sent),
        "/large" => counted(LARGE, &Arc::default()),
        "/stuck" => {
            let _unread = request;
            std::future::pending().await
        }
        _ => body(count(request.into_body()).await.to_string()),
    };
    Response::new(body)
}

async fn speak_http1(mut conn: Conn, sent: Arc<AtomicUsize>) {
    while let Some(request) = conn.request_head().await {
        let length = match request.target() {
            "/endless" => ENDLESS,
            "/large" => LARGE,
            "/stuck" => std::future::pending().await,
            _ => {
                let received = conn.wire.drain_body(&request).await;
                conn.respond(200, &received.to_string()).await;
                continue;
            }
        };
        conn.wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")).await;
        for _ in 0..length / PIECE {
            // Not `send`, which has a deadline: it may be stuck for as long as the test wants.
            if conn.wire.write([b'x'; PIECE]).await.is_err() {
                return;
            }
            if length == ENDLESS {
                sent.fetch_add(PIECE, Ordering::SeqCst);
            }
        }
    }
}

/// Reads a body to its end. Gives its length.
async fn count(mut body: Incoming) -> usize {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        length += frame.data_ref().map_or(0, Bytes::len);
    }
    length
}

/// A client on one connection, whose window is no limit, and that of each stream is small.
async fn client(proxy: &Proxy) -> SendRequest<Body> {
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1 << 16).initial_connection_window_size(1 << 30).max_send_buf_size(PIECE);
    h2_client_with(&builder, proxy.connect().await).await
}

fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://a.test{path}")).body(body("")).unwrap()
}

fn post(path: &str, body: Body) -> Request<Body> {
    Request::post(format!("http://a.test{path}")).body(body).unwrap()
}

/// Waits until nothing more is taken, while others go on. Gives how much was taken.
async fn settled(client: &mut SendRequest<Body>, taken: impl Fn() -> usize) -> usize {
    let settle = async {
        let mut still = 0;
        let mut before = taken();
        while still < 100 {
            assert_eq!(client.send_request(get("/")).await.unwrap().status(), 200);
            let now = taken();
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
        before
    };
    within("the others go on", settle).await
}

async fn through(protocol: &str) -> (Source, Proxy) {
    let source = Source::start(protocol).await;
    let proxy = Proxy::start(&to(&[source.endpoint.address], &format!("protocol = \"{protocol}\""))).await;
    (source, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_not_read_slow_their_endpoint_and_no_other_stream() {
    for protocol in ["http1", "h2c"] {
        let (source, proxy) = through(protocol).await;
        let mut client = client(&proxy).await;
        let mut unread = Vec::new();
        for _ in 0..STUCK {
            unread.push(within("a head", client.send_request(get("/endless"))).await.unwrap());
        }
        for _ in 0..3 {
            let answer = within("a head", client.send_request(get("/large"))).await.unwrap();
            assert_eq!(within("the others go on", count(answer.into_body())).await, LARGE, "{protocol}");
        }
        let sent = settled(&mut client, || source.sent()).await;
        assert!(sent < STUCK * held_max(protocol), "{protocol}: {sent} bytes of {STUCK} streams that nobody reads");
        // Who reads again gets all of it.
        let last = unread.pop().unwrap().into_body();
        assert_eq!(within("the rest", count(last)).await, ENDLESS, "{protocol}");
    }
}

/// Streams of several clients share a connection to an endpoint that speaks HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_slow_no_other_client() {
    let (source, proxy) = through("h2c").await;
    let mut unread = Vec::new();
    for _ in 0..STUCK {
        let mut client = proxy.connect().await;
        client.send("GET /endless HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(client.response_head().await.status(), 200);
        unread.push(client);
    }
    let mut client = client(&proxy).await;
    let sent = settled(&mut client, || source.sent()).await;
    assert!(sent < STUCK * held_max("http1"), "{sent} bytes of {STUCK} responses that nobody reads");
    let answer = within("a head", client.send_request(get("/large"))).await.unwrap();
    assert_eq!(within("the others go on", count(answer.into_body())).await, LARGE);
    assert_eq!(source.endpoint.accepted(), 1, "all of it on one connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_read_slows_its_stream_and_no_other() {
    for protocol in ["http1", "h2c"] {
        let (_source, proxy) = through(protocol).await;
        let mut client = client(&proxy).await;
        let taken: Arc<AtomicUsize> = Arc::default();
        let stuck = tokio::spawn(client.send_request(post("/stuck", counted(ENDLESS, &taken))));
        for _ in 0..3 {
            let upload = client.send_request(post("/", counted(LARGE, &Arc::default())));
            let answer = within("the others go on", upload).await.unwrap();
            let received = within("a body", answer.into_body().collect()).await.unwrap().to_bytes();
            assert_eq!(received, LARGE.to_string(), "{protocol}");
        }
        let taken = settled(&mut client, || taken.load(Ordering::SeqCst)).await;
        assert!(taken > 0 && taken < held_max(protocol), "{protocol}: {taken} bytes for an endpoint that reads none");
        assert!(!stuck.is_finished());
    }
}

/// What a stream has taken of its connection's window is given back when the stream is.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_given_up_leave_room_for_others() {
    for protocol in ["http1", "h2c"] {
        let (_source, proxy) = through(protocol).await;
        let mut client = client(&proxy).await;
        let taken: Arc<AtomicUsize> = Arc::default();
        let stuck: Vec<_> = (0..STUCK).map(|_| tokio::spawn(client.send_request(post("/stuck", counted(ENDLESS, &taken))))).collect();
        settled(&mut client, || taken.load(Ordering::SeqCst)).await;
        stuck.iter().for_each(tokio::task::JoinHandle::abort);
        let upload = client.send_request(post("/", counted(LARGE, &Arc::default())));
        assert_eq!(within("another one", upload).await.unwrap().status(), 200, "{protocol}");
    }
}
