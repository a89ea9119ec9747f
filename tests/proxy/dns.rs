//! DNS through UDP and TCP on one port, with a server behind it whose views depend on who asks: unbound, asked by dig.

use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::*;

/// A server with one view for 127.0.0.2, one for 127.0.0.3, and one for ourselves. Gone when dropped.
struct Unbound {
    /// For who asks directly, by UDP and TCP.
    port: u16,
    /// For datagrams that begin with a PROXY header.
    proxied: u16,
    _child: Child,
    _dir: TempDir,
}

impl Unbound {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, proxied) = (free_port().await, free_port().await);
        let file = dir.path().join("unbound.conf");
        std::fs::write(&file, config(dir.path(), port, proxied)).unwrap();
        // Where Debian has it, for users who do not look there.
        let path = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap());
        let mut command = Command::new("unbound");
        command.arg("-d").arg("-c").arg(&file).env("PATH", path).stdin(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().expect("unbound is installed: `.ci/deps test`");
        let answers = async { while dig(port, "127.0.0.1", &["own.example.test", "A", "+tries=1", "+time=1"]).await != "10.0.0.9" {} };
        within("unbound answers", answers).await;
        Self { port, proxied, _child: child, _dir: dir }
    }
}

fn config(dir: &Path, port: u16, proxied: u16) -> String {
    let view = |name: &str, data: &str| {
        format!(
            "view:\n  name: \"{name}\"\n  view-first: yes\n  local-zone: \"www.example.test.\" redirect\n  local-data: \"www.example.test. 60 A {data}\"\n"
        )
    };
    let dir = dir.display();
    // Longer than any datagram that dig says it takes.
    let long: String = (0..100).map(|number| format!("  local-data: 'long.example.test. 60 TXT \"{number:0>60}\"'\n")).collect();
    format!(
        "server:\n  chroot: \"\"\n  username: \"\"\n  directory: \"{dir}\"\n  pidfile: \"{dir}/pid\"\n  use-syslog: no\n  module-config: \"iterator\"\n\
         \x20 do-not-query-localhost: yes\n  num-threads: 1\n\
         \x20 interface: 127.0.0.1@{port}\n  interface: 127.0.0.1@{proxied}\n  proxy-protocol-port: {proxied}\n\
         \x20 access-control: 127.0.0.0/8 allow\n\
         \x20 access-control-view: 127.0.0.2/32 inside\n  access-control-view: 127.0.0.3/32 outside\n\
         \x20 local-zone: \"example.test.\" static\n  local-data: \"own.example.test. 60 A 10.0.0.9\"\n\
         \x20 local-data: \"www.example.test. 60 A 10.0.0.8\"\n{long}\
         remote-control:\n  control-enable: no\n{}{}",
        view("inside", "10.0.0.1"),
        view("outside", "203.0.113.1")
    )
}

/// The answers to one question of a client with this address, sorted.
async fn dig(port: u16, from: &str, question: &[&str]) -> String {
    let mut command = Command::new("dig");
    command.args(["+short", "-b", from, "@127.0.0.1", "-p", &port.to_string()]).args(question).kill_on_drop(true);
    let output = within("dig", command.output()).await.expect("dig is installed: `.ci/deps test`");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// A port that is free for UDP and TCP.
async fn free_port() -> u16 {
    loop {
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        if tokio::net::UdpSocket::bind(address).await.is_ok() {
            return address.port();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn views_by_source_go_on_working_behind_the_proxy() {
    let (server, port) = (Unbound::start().await, free_port().await);
    let Unbound { port: direct, proxied, .. } = server;
    let proxy = Proxy::start(&format!(
        "[listeners.dns-udp]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"udp\"\n\
         [listeners.dns-tcp]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"tcp\"\n\
         [udp_routes.dns]\nlistener = \"dns-udp\"\nupstream = \"dns\"\nresponses = 1\n\
         [tcp_routes.dns]\nlistener = \"dns-tcp\"\nupstream = \"dns\"\n\
         [upstreams.dns]\nendpoints = [\"127.0.0.1:{proxied}\"]\nproxy_protocol = \"v2\"\nhealth = {{ tcp = true }}\n"
    ))
    .await;
    // Each client gets what its view says, as without the proxy.
    for (from, expected) in [("127.0.0.2", "10.0.0.1"), ("127.0.0.3", "203.0.113.1"), ("127.0.0.4", "10.0.0.8")] {
        for by in ["+notcp", "+tcp"] {
            assert_eq!(dig(direct, from, &[by, "www.example.test", "A"]).await, expected);
            assert_eq!(dig(port, from, &[by, "www.example.test", "A"]).await, expected, "{by}");
        }
    }
    // An answer that is too long for a datagram is asked for again by TCP, on the same port.
    let long = dig(port, "127.0.0.2", &["long.example.test", "TXT"]).await;
    assert_eq!((long.lines().count(), long), (100, dig(direct, "127.0.0.2", &["+tcp", "long.example.test", "TXT"]).await));
    eventually("no session is left", || proxy.server.metrics().contains("nuncio_connections_open{listener=\"dns-udp\"} 0\n")).await;
}
