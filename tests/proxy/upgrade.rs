//! Connections that become something else: WebSocket, and what asks for it alike.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::support::*;

pub(super) const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n";

/// Answers every upgrade with 101 and these bytes, and then all that comes with itself.
async fn echo(first: &'static str) -> Endpoint {
    Endpoint::start(move |mut conn| async move {
        let Some(request) = conn.request().await else { return };
        assert_eq!((request.field("connection"), request.field("upgrade")), (Some("upgrade"), Some("echo")));
        conn.wire.send(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n{first}")).await;
        loop {
            let byte = conn.wire.next_byte().await;
            let Some(byte) = byte else { return };
            if conn.wire.try_send([byte]).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Sends every message of a WebSocket back.
pub(super) async fn websocket_echo() -> Endpoint {
    Endpoint::start(|conn| async move {
        let mut socket = tokio_tungstenite::accept_async(conn.wire.into_stream()).await.unwrap();
        while let Some(Ok(frame)) = socket.next().await {
            if (frame.is_text() || frame.is_binary()) && socket.send(frame).await.is_err() {
                return;
            }
        }
    })
    .await
}

pub(super) async fn open_websocket(proxy: &Proxy) -> WebSocketStream<Box<dyn Stream>> {
    let stream = proxy.connect().await.into_stream();
    let (socket, answer) = within("a handshake", tokio_tungstenite::client_async("ws://a.test/chat", stream)).await.unwrap();
    assert_eq!(answer.status(), 101);
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket() {
    let endpoint = websocket_echo().await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut socket = open_websocket(&proxy).await;
    for size in [1, 1000, 100_000, 1_000_000] {
        let frame = Frame::binary(vec![7; size]);
        socket.send(frame.clone()).await.unwrap();
        assert!(within("an echo", socket.next()).await.unwrap().unwrap() == frame);
    }
    socket.close(None).await.unwrap();
    while within("the end", socket.next()).await.is_some() {}
    drop(socket);
    eventually("the endpoint's side ends too", || endpoint.open() == 0).await;
    let upstream = proxy.server.table().upstreams.values().next().unwrap().clone();
    eventually("nothing is in flight", || upstream.endpoints[0].state.in_flight() == 0).await;
}

/// Bytes right behind the request, and right behind the response, belong to what comes after the upgrade.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_right_behind_an_upgrade() {
    let endpoint = echo("first").await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    client.send(format!("{UPGRADE}early")).await;
    let answer = client.response().await;
    assert_eq!((answer.status(), answer.field("upgrade")), (101, Some("echo")));
    assert_eq!(&client.read(10).await[..], b"firstearly");
    client.send("late").await;
    assert_eq!(&client.read(4).await[..], b"late");
    client.finish().await;
    client.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_declined_is_an_answer() {
    let endpoint = Endpoint::answering("no").await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        client.send(UPGRADE).await;
        assert_eq!(client.response().await.text(), "no");
    }
}

/// What follows an upgrade to HTTP/2 would be requests that pass by every route and middleware.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_http2_is_not_forwarded() {
    let endpoint = Endpoint::answering("plain").await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    for protocols in ["h2c", "H2C", "websocket, h2c"] {
        let settings = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
        let answer = proxy
            .ask(&format!(
                "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocols}\r\n{settings}\r\n"
            ))
            .await;
        assert_eq!(answer.text(), "plain");
    }
    for seen in endpoint.requests() {
        assert_eq!((seen.field("upgrade"), seen.field("connection"), seen.field("http2-settings")), (None, None, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_outlives_a_change_of_the_table_and_is_cut_when_its_endpoint_is_gone_for_long() {
    let endpoint = echo("").await;
    let mut proxy = Proxy::start(&to(&[endpoint.address], "drain_timeout = \"500ms\"")).await;
    let mut client = proxy.connect().await;
    client.send(UPGRADE).await;
    assert_eq!(client.response().await.status(), 101);
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| upstream.retries = 1)).await;
    client.send("one").await;
    assert_eq!(&client.read(3).await[..], b"one");
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| upstream.endpoints.clear())).await;
    client.send("two").await;
    assert_eq!(&client.read(3).await[..], b"two");
    client.ended().await;
    eventually("the endpoint's side ends too", || endpoint.open() == 0).await;
}
