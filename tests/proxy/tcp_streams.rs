//! Long streams over TCP listeners: every byte arrives, in order, however fast or slow either side is.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::support::*;

fn config(endpoint: std::net::SocketAddr, route: &str) -> String {
    format!(
        "[listeners.tcp]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n[tcp_routes.tcp]\nlistener = \"tcp\"\nupstream = \"tcp\"\n{route}\n\
         [upstreams.tcp]\nendpoints = [\"{endpoint}\"]\n"
    )
}

/// The bytes of a stream from its start: any piece of it is told from any other.
fn piece(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect()
}

/// Writes so many bytes in pieces of the sizes that come round, and ends.
async fn write(mut stream: impl tokio::io::AsyncWrite + Unpin, length: usize, sizes: &[usize]) {
    let mut at = 0;
    for size in sizes.iter().cycle() {
        if at == length {
            break;
        }
        let size = (*size).min(length - at);
        stream.write_all(&piece(at, size)).await.unwrap();
        at += size;
    }
    stream.shutdown().await.unwrap();
}

/// Reads to the end in pieces of at most `size`, and checks every byte.
async fn read(mut stream: impl tokio::io::AsyncRead + Unpin, length: usize, size: usize) {
    let (mut at, mut buffer) = (0, vec![0; size]);
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        assert!(buffer[..count] == piece(at, count), "other bytes at {at}");
        at += count;
    }
    assert_eq!(at, length);
}

/// Both directions at once: pieces that are small, pieces that go by splice, and readers that are slower than writers.
#[tokio::test(flavor = "multi_thread")]
async fn every_byte_arrives_in_order() {
    const LENGTH: usize = 24_000_000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(&config(listener.local_addr().unwrap(), "")).await;
    let client = TcpStream::connect(proxy.address_of("tcp")).await.unwrap();
    let (endpoint, _) = within("the endpoint's side", listener.accept()).await.unwrap();
    let ((client_reads, client_writes), (endpoint_reads, endpoint_writes)) = (client.into_split(), endpoint.into_split());
    let all = async {
        tokio::join!(
            tokio::spawn(write(client_writes, LENGTH, &[1, 700, 3_000_000, 65_536, 9])),
            tokio::spawn(read(endpoint_reads, LENGTH, 10_000)),
            tokio::spawn(write(endpoint_writes, LENGTH, &[1_000_000])),
            tokio::spawn(read(client_reads, LENGTH, 300_000)),
        )
    };
    let (a, b, c, d) = tokio::time::timeout(Duration::from_secs(60), all).await.expect("it ends");
    for end in [a, b, c, d] {
        end.unwrap();
    }
    let metrics = proxy.server.metrics();
    for direction in ["to_endpoint", "to_client"] {
        let line = format!("nuncio_tcp_bytes_total{{route=\"tcp\",upstream=\"tcp\",direction=\"{direction}\"}} {LENGTH}");
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
}

/// What a reader has not taken is kept in the kernel, not in the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_stops_the_writer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(&config(listener.local_addr().unwrap(), "")).await;
    let mut client = TcpStream::connect(proxy.address_of("tcp")).await.unwrap();
    let (mut endpoint, _) = within("the endpoint's side", listener.accept()).await.unwrap();
    let chunk = vec![7; 1 << 20];
    let mut written = 0;
    while let Ok(count) = tokio::time::timeout(Duration::from_secs(1), client.write(&chunk)).await {
        written += count.unwrap();
        assert!(written < 64 << 20, "somebody takes it all");
    }
    client.shutdown().await.unwrap();
    let mut read = 0;
    while let count @ 1.. = within("what was written", endpoint.read(&mut vec![0; 1 << 20])).await.unwrap() {
        read += count;
    }
    assert_eq!(read, written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_when_it_is_as_old_as_it_may_be() {
    let endpoint = Endpoint::start(|mut conn| async move { while conn.wire.next_byte().await.is_some() {} }).await;
    let proxy = Proxy::start(&config(endpoint.address, "max_lifetime = \"700ms\"")).await;
    let started = Instant::now();
    let mut client = Wire::connect(proxy.address_of("tcp")).await;
    // However busy it is.
    while client.try_send("x").await.is_ok() && !client.is_silent_for(Duration::from_millis(50)).await {}
    while started.elapsed() < Duration::from_millis(700) {
        let _ = client.try_send("x").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.ended().await;
    eventually("the endpoint's side ends too", || endpoint.open() == 0).await;
}
