//! The end of the server: what is in flight is finished, what comes too late is turned away, and the deadline is kept.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use nuncio::Name;
use nuncio::config::Listener;
use tokio_tungstenite::tungstenite::Message as WebSocketMessage;

use crate::changes::{eventually_refused, held_back};
use crate::frames::{self, ACK, DATA, END_HEADERS, Frame, GOAWAY, HEADERS, PING, REQUEST, RST_STREAM, STATUS_200, next_event, request};
use crate::support::*;
use crate::upgrade::{open_websocket, websocket_echo};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_finishes_what_is_in_flight() {
    let (endpoint, gate) = held_back().await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let address = proxy.address();
    let (mut idle, mut busy, mut fresh) = (proxy.connect().await, proxy.connect().await, proxy.connect().await);
    idle.send(GET).await;
    gate.add_permits(2);
    assert_eq!(idle.response().await.text(), "firstafter");
    busy.send(GET).await;
    let mut h2 = h2_client(proxy.connect().await).await;
    let streaming = h2.send_request(hyper::Request::get("http://a.test/").body(body("")).unwrap());
    let streaming = tokio::spawn(streaming);
    eventually("they arrive", || endpoint.requests().len() == 3).await;
    let shutdown = tokio::spawn(proxy.server.shutdown());
    idle.ended().await;
    fresh.ended().await;
    eventually_refused(address).await;
    gate.add_permits(4);
    let answer = busy.response().await;
    assert_eq!((answer.text(), answer.field("connection")), ("firstafter", Some("close")));
    busy.ended().await;
    let answer = within("the stream", streaming).await.unwrap().unwrap();
    let text = within("its body", http_body_util::BodyExt::collect(answer.into_body())).await.unwrap().to_bytes();
    assert_eq!(text, "firstafter");
    assert!(within("the end", shutdown).await.unwrap(), "nothing was cut");
    eventually("HTTP/2 said goodbye", || h2.is_closed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_by_its_deadline() {
    let (endpoint, gate) = held_back().await;
    let proxy = Proxy::start_with(&to(&[endpoint.address], ""), |builder| builder.drain_timeout(Duration::from_millis(400))).await;
    let mut client = proxy.connect().await;
    client.send(GET).await;
    eventually("it arrives", || endpoint.requests().len() == 1).await;
    let started = Instant::now();
    assert!(!within("the end", proxy.server.shutdown()).await, "something was cut");
    assert!(started.elapsed() >= Duration::from_millis(400));
    client.ended().await;
    gate.add_permits(10);
    eventually("the endpoint is let go", || endpoint.open() == 0).await;
}

// ---- HTTP/2, frame by frame

/// The last stream of a GOAWAY that turns nothing away yet (RFC 9113 section 6.8).
const ALL_STREAMS: u32 = (1 << 31) - 1;
const NO_ERROR: u32 = 0;
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

/// The first word of an end: that there will be one, and a PING whose answer tells that the client has heard it.
async fn first_goodbye(client: &mut Wire) -> Frame {
    assert_eq!(next_event(client).await.unwrap().goaway(), (ALL_STREAMS, NO_ERROR));
    let ping = next_event(client).await.unwrap();
    assert_eq!((ping.kind, ping.flags & ACK), (PING, 0), "{ping:?}");
    ping
}

async fn acknowledge(client: &mut Wire, ping: &Frame) {
    client.send(frames::frame(PING, ACK, 0, &ping.payload)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_takes_what_the_client_sent_before_it_heard_and_nothing_after() {
    let (endpoint, gate) = held_back().await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = frames::connect(&proxy).await;
    // One stream is open, and its body not sent.
    let upload = frames::block(&[&[(":method", "POST")][..], &REQUEST[1..], &[("content-length", "5")]].concat());
    client.send(frames::frame(HEADERS, END_HEADERS, 1, &upload)).await;
    eventually("it arrives", || endpoint.accepted() == 1).await;
    let shutdown = tokio::spawn(proxy.server.shutdown());
    let ping = first_goodbye(&mut client).await;
    // A client that has not heard of it opens another one: that is served.
    client.send(request(3)).await;
    eventually("it arrives", || endpoint.requests().len() == 1).await;
    acknowledge(&mut client, &ping).await;
    assert_eq!(next_event(&mut client).await.unwrap().goaway(), (3, NO_ERROR));
    // From here on a stream is not served, and the client knows that it may ask again elsewhere. The open ones go on.
    client.send([request(5), frames::frame(DATA, frames::END_STREAM, 1, b"hello"), frames::frame(PING, 0, 0, b"heard it")].concat()).await;
    eventually("the upload is whole", || endpoint.requests().len() == 2).await;
    gate.add_permits(4);
    let (mut bodies, mut ended, mut ponged) = ([Vec::new(), Vec::new()], Vec::new(), false);
    while let Some(frame) = next_event(&mut client).await {
        match (frame.kind, frame.stream) {
            (HEADERS, 1 | 3) => assert_eq!(frame.payload[0], STATUS_200),
            (DATA, 1 | 3) => bodies[frame.stream as usize / 2].extend_from_slice(&frame.payload),
            (RST_STREAM, 5) => assert_eq!(frame.payload[..], REFUSED_STREAM),
            (GOAWAY, 0) => assert_eq!(frame.goaway(), (3, NO_ERROR)),
            (PING, 0) => ponged = frame.payload == b"heard it"[..],
            _ => panic!("{frame:?}"),
        }
        if frame.is_last() {
            ended.push(frame.stream);
        }
    }
    ended.sort_unstable();
    assert_eq!((bodies, ended, ponged), ([b"firstafter".to_vec(), b"firstafter".to_vec()], vec![1, 3], true));
    assert!(within("the end", shutdown).await.unwrap(), "nothing was cut");
    assert_eq!(endpoint.requests().len(), 2);
    endpoint.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_without_streams_ends_with_the_goodbye() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let (mut fresh, mut idle) = (frames::connect(&proxy).await, frames::connect(&proxy).await);
    idle.send(request(1)).await;
    while !next_event(&mut idle).await.unwrap().is_last() {}
    // It is known that it speaks HTTP/2 once it has said so itself.
    assert!(frames::next_frame(&mut fresh).await.is_some());
    let shutdown = tokio::spawn(proxy.server.shutdown());
    for (client, last) in [(&mut fresh, 0), (&mut idle, 1)] {
        let ping = first_goodbye(client).await;
        acknowledge(client, &ping).await;
        assert_eq!(next_event(client).await.unwrap().goaway(), (last, NO_ERROR));
        client.ended().await;
    }
    assert!(within("the end", shutdown).await.unwrap(), "nothing was cut");
}

/// A client that sleeps holds nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn http2_does_not_wait_for_a_client_that_does_not_answer() {
    let (endpoint, gate) = held_back().await;
    let proxy = Proxy::start_with(&to(&[endpoint.address], ""), |builder| builder.drain_timeout(DEADLINE * 10)).await;
    let (mut idle, mut busy) = (frames::connect(&proxy).await, frames::connect(&proxy).await);
    assert!(frames::next_frame(&mut idle).await.is_some());
    busy.send(request(1)).await;
    eventually("it arrives", || endpoint.requests().len() == 1).await;
    let shutdown = tokio::spawn(proxy.server.shutdown());
    first_goodbye(&mut idle).await;
    idle.ended().await;
    // A stream in flight is another matter.
    first_goodbye(&mut busy).await;
    gate.add_permits(2);
    let mut body = Vec::new();
    while let Some(frame) = next_event(&mut busy).await {
        if frame.kind == DATA {
            body.extend_from_slice(&frame.payload);
        }
    }
    assert_eq!(body, b"firstafter");
    assert!(within("the end", shutdown).await.unwrap(), "nothing was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_streams_that_do_not_end_are_cut_at_the_deadline() {
    let (endpoint, gate) = held_back().await;
    let drain = Duration::from_millis(500);
    let proxy = Proxy::start_with(&to(&[endpoint.address], ""), |builder| builder.drain_timeout(drain)).await;
    let mut client = frames::connect(&proxy).await;
    client.send(request(1)).await;
    gate.add_permits(1);
    assert_eq!(next_event(&mut client).await.unwrap().payload[0], STATUS_200);
    let started = Instant::now();
    let shutdown = tokio::spawn(proxy.server.shutdown());
    let mut answered = false;
    while let Some(frame) = next_event(&mut client).await {
        assert!(!frame.is_last(), "{frame:?}");
        if frame.kind == PING {
            acknowledge(&mut client, &frame).await;
            answered = true;
        }
    }
    assert!(answered && started.elapsed() >= drain);
    assert!(!within("the end", shutdown).await.unwrap(), "something was cut");
    gate.add_permits(10);
    eventually("the endpoint is let go", || endpoint.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_closed_says_goodbye_to_http2() {
    let (endpoint, gate) = held_back().await;
    let mut proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = frames::connect(&proxy).await;
    client.send(request(1)).await;
    eventually("it arrives", || endpoint.requests().len() == 1).await;
    proxy
        .update(|config| {
            config.listeners.clear();
            config.listeners.insert(Name::literal("more"), Listener::http("127.0.0.1:0".parse().unwrap()));
        })
        .await;
    let ping = first_goodbye(&mut client).await;
    acknowledge(&mut client, &ping).await;
    assert_eq!(next_event(&mut client).await.unwrap().goaway(), (1, NO_ERROR));
    gate.add_permits(2);
    while !next_event(&mut client).await.unwrap().is_last() {}
    client.ended().await;
    gate.add_permits(2);
    let mut client = Wire::connect(proxy.address_of("more")).await;
    client.send(GET).await;
    assert_eq!(client.response().await.text(), "firstafter");
}

// ---- WebSocket

/// Whether a message comes back.
async fn echoes(
    socket: &mut (impl SinkExt<WebSocketMessage> + StreamExt<Item = Result<WebSocketMessage, tokio_tungstenite::tungstenite::Error>> + Unpin),
) -> bool {
    let message = WebSocketMessage::text("are you there?");
    socket.send(message.clone()).await.is_ok() && matches!(within("an echo", socket.next()).await, Some(Ok(echo)) if echo == message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_on_until_the_deadline_and_is_cut_then() {
    let endpoint = websocket_echo().await;
    let drain = Duration::from_millis(500);
    let proxy = Proxy::start_with(&to(&[endpoint.address], ""), |builder| builder.drain_timeout(drain)).await;
    let address = proxy.address();
    let mut socket = open_websocket(&proxy).await;
    let started = Instant::now();
    let shutdown = tokio::spawn(proxy.server.shutdown());
    eventually_refused(address).await;
    let mut last_echo = Instant::now();
    while echoes(&mut socket).await {
        last_echo = Instant::now();
    }
    assert!(last_echo.duration_since(started) >= drain / 2, "cut after {:?}", last_echo - started);
    assert!(started.elapsed() >= drain);
    assert!(!within("the end", shutdown).await.unwrap(), "it was cut");
    assert!(started.elapsed() < drain + DEADLINE / 2);
    eventually("the endpoint is let go", || endpoint.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_ends_in_time_is_not_cut() {
    let endpoint = websocket_echo().await;
    let proxy = Proxy::start_with(&to(&[endpoint.address], ""), |builder| builder.drain_timeout(DEADLINE * 10)).await;
    let address = proxy.address();
    let mut socket = open_websocket(&proxy).await;
    let shutdown = tokio::spawn(proxy.server.shutdown());
    eventually_refused(address).await;
    assert!(echoes(&mut socket).await && !shutdown.is_finished());
    socket.close(None).await.unwrap();
    while within("the end", socket.next()).await.is_some() {}
    drop(socket);
    assert!(within("the end", shutdown).await.unwrap(), "nothing was cut");
}
