//! The walk of one request through a server in this process.

use nuncio::config::{Listener, Route, Upstream};
use nuncio::discovery::ProgramProvider;
use nuncio::{Name, RoutingConfig, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_finds_its_endpoint() {
    let endpoint = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = endpoint.accept().await.unwrap();
        let mut buf = [0; 4096];
        let n = stream.read(&mut buf).await.unwrap();
        println!("{}", String::from_utf8_lossy(&buf[..n]));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
        let _ = stream.read(&mut buf).await;
    });
    let web = Name::literal("web");
    let mut config = RoutingConfig::default();
    config.listeners.insert(web.clone(), Listener::http("127.0.0.1:0".parse().unwrap()));
    config.upstreams.insert(web.clone(), Upstream::of([address]));
    config.routes.insert(web.clone(), Route::to("Host(\"a.test\")".parse().unwrap(), web.clone()));
    let (provider, handle) = ProgramProvider::new(Name::literal("program"));
    handle.publish(config);
    let server = Server::builder().workers(1).provider(provider).start().unwrap();
    server.ready().await;
    let address = server.local_addr(&web).unwrap();
    let out = tokio::process::Command::new("curl")
        .args(["-s", "-i", "-H", "Host: a.test", &format!("http://{address}/x")])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.ends_with("hello"), "{text} {:?} {}", server.status().problems(), server.metrics());
    assert!(server.shutdown().await);
}
