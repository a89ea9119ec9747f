//! HTTP/1.1 connections to endpoints: what goes on when an endpoint does not wait for the end of a request, or says too much.

use std::time::Duration;

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const MEBIBYTE: usize = 1 << 20;

fn upload(bytes: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {bytes}\r\n\r\n")
}

/// It answers when it has seen the head, and reads the body only then: all of it must come, and the next request on the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_a_request_does_not_cut_it() {
    let (told, mut received) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = Endpoint::start(move |mut conn| {
        let told = told.clone();
        async move {
            while conn.request_head().await.is_some() {
                conn.respond(200, "early").await;
                told.send(conn.wire.read(8 * MEBIBYTE).await).unwrap();
            }
        }
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    let body: Vec<u8> = (0..8 * MEBIBYTE).map(|at| (at % 251) as u8).collect();
    for _ in 0..2 {
        client.send(upload(body.len())).await;
        // The response comes while next to nothing of the body was sent.
        client.send(&body[..1]).await;
        assert_eq!(client.response().await.text(), "early");
        client.send(&body[1..]).await;
        let whole = within("the whole body", received.recv()).await.unwrap();
        assert!(whole == body, "another body than was sent");
    }
}

/// What would be a request if nobody remembered that it is a body.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// The rest of a request that was answered early comes when a connection that waits for its next request would long be parked: it is
/// still the body of the first.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_of_a_request_is_none_of_its_own() {
    let (told, mut received) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = Endpoint::start(move |mut conn| {
        let told = told.clone();
        async move {
            while conn.request_head().await.is_some() {
                conn.respond(200, "early").await;
                told.send(conn.wire.read(SMUGGLED.len()).await).unwrap();
            }
        }
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        client.send(upload(SMUGGLED.len())).await;
        assert_eq!(client.response().await.text(), "early");
        assert!(client.is_silent_for(Duration::from_millis(1_500)).await);
        client.send(SMUGGLED).await;
        let body = within("the body", received.recv()).await.unwrap();
        assert_eq!(body, SMUGGLED.as_bytes());
    }
    assert!(client.is_silent_for(Duration::from_millis(100)).await, "one response for each request");
}

/// The same of an endpoint that is gone when the rest comes.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_of_a_request_that_was_refused_is_none_of_its_own() {
    let endpoint = Endpoint::start(|mut conn| async move {
        if conn.request_head().await.is_some() {
            conn.wire.send("HTTP/1.1 401 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
        }
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    client.send(upload(SMUGGLED.len())).await;
    assert_eq!(client.response().await.status(), 401);
    assert!(client.is_silent_for(Duration::from_millis(1_500)).await || client.try_response().await.is_err());
    let _ = client.try_send(SMUGGLED).await;
    let answer = tokio::time::timeout(Duration::from_millis(500), client.try_response()).await;
    assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
    assert_eq!(endpoint.accepted(), 1);
}

/// It refuses and closes with most of the body unread: the client sees the refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_before_the_end_of_a_request_reaches_the_client() {
    let endpoint = Endpoint::start(|mut conn| async move {
        if conn.request_head().await.is_some() {
            conn.wire.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
            conn.wire.finish().await;
            conn.wire.rest().await;
        }
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    for _ in 0..10 {
        let mut client = proxy.connect().await;
        client.send(upload(64 * MEBIBYTE)).await;
        client.send(vec![b'x'; 4096]).await;
        let answer = client.response().await;
        assert_eq!((answer.status(), answer.text()), (413, "no"));
    }
}

/// What stands behind a response is not the response to somebody else's request.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_behind_a_response_answer_nobody() {
    for delay in [None, Some(Duration::from_millis(20))] {
        let endpoint = Endpoint::start(move |mut conn| async move {
            while conn.request().await.is_some() {
                let (ours, foreign) = (response(200, "ours"), response(200, "foreign"));
                match delay {
                    None => conn.wire.send([ours, foreign].concat()).await,
                    Some(delay) => {
                        conn.wire.send(ours).await;
                        // While the connection is idle.
                        tokio::time::sleep(delay).await;
                        if conn.wire.try_send(foreign).await.is_err() {
                            return;
                        }
                    }
                }
            }
        })
        .await;
        let proxy = Proxy::to(&[endpoint.address]).await;
        let mut client = proxy.connect().await;
        for _ in 0..5 {
            client.send(GET).await;
            assert_eq!(client.response().await.text(), "ours");
            // Closed, as soon as it is known that more came.
            eventually("the connection is closed", || endpoint.open() == 0).await;
        }
    }
}

/// Bodies of all framings and sizes, one after the other on the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_arrive_as_they_were_sent() {
    const SIZES: [usize; 9] = [0, 1, 100, 3_900, 4_096, 5_000, 65_536, 200_000, 3_000_001];
    let endpoint = Endpoint::start(|mut conn| async move {
        while let Some(request) = conn.request().await {
            let body: Vec<u8> = request.body.iter().rev().copied().collect();
            let head = match request.target() {
                "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
                _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()),
            };
            let mut bytes = head.into_bytes();
            if request.target() == "/chunked" {
                for chunk in body.chunks(9_973) {
                    bytes.extend_from_slice(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            } else {
                bytes.extend_from_slice(&body);
            }
            conn.wire.send(bytes).await;
        }
    })
    .await;
    let proxy = Proxy::to(&[endpoint.address]).await;
    let mut client = proxy.connect().await;
    for (number, size) in SIZES.into_iter().enumerate() {
        for path in ["/length", "/chunked"] {
            let body: Vec<u8> = (0..size).map(|at| (at * 7 + number) as u8).collect();
            let head = format!("PUT {path} HTTP/1.1\r\nHost: a.test\r\n");
            let bytes = if number % 2 == 0 {
                [format!("{head}Content-Length: {size}\r\n\r\n").as_bytes(), &body].concat()
            } else {
                let chunks = body.chunks(4_099).flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                [format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes(), chunks.collect(), b"0\r\n\r\n".to_vec()].concat()
            };
            client.send(bytes).await;
            let answer = client.response().await;
            assert!(answer.body.iter().rev().eq(&body), "{path} of {size} bytes came back as {} bytes", answer.body.len());
        }
    }
    assert_eq!(endpoint.accepted(), 1, "one connection serves all of them");
    endpoint.assert_clean();
}
