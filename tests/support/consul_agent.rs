//! A Consul agent to be written through its API: the real one that `CONSUL_BIN` names, or else the stub, which takes the same requests.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::DEADLINE;
use super::consul::Consul;

/// An agent. Gone when dropped.
pub struct Agent {
    /// Where its API is.
    pub address: SocketAddr,
    _keep: Keep,
}

enum Keep {
    Stub(#[allow(dead_code, reason = "held so that it lives")] Consul),
    Real(#[allow(dead_code, reason = "held so that they live")] Child, #[allow(dead_code, reason = "its data")] TempDir),
}

impl Agent {
    /// An agent without keys and services of ours, which denies nothing.
    pub async fn start() -> Self {
        match std::env::var_os("CONSUL_BIN") {
            None => {
                let stub = Consul::start().await;
                Self { address: stub.stub().address, _keep: Keep::Stub(stub) }
            }
            Some(binary) => {
                let data = TempDir::new().expect("a temporary directory");
                let [http, server, lan, wan] = free_ports();
                let child = Command::new(binary)
                    .args(["agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=err"])
                    .args([format!("-http-port={http}"), format!("-server-port={server}"), "-dns-port=-1".into(), "-grpc-port=-1".into()])
                    .args([format!("-serf-lan-port={lan}"), format!("-serf-wan-port={wan}")])
                    .current_dir(&data)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .kill_on_drop(true)
                    .spawn()
                    .expect("CONSUL_BIN starts");
                let agent = Self { address: ([127, 0, 0, 1], http).into(), _keep: Keep::Real(child, data) };
                agent.until_it_leads().await;
                agent
            }
        }
    }

    /// Its API as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Registers an instance whose check passes.
    pub async fn register(&self, name: &str, id: &str, address: &str, port: u16, tags: &[&str]) {
        self.register_as(json!({ "Name": name, "ID": id, "Address": address, "Port": port, "Tags": tags })).await;
    }

    /// The same of a whole definition, without its check.
    pub async fn register_as(&self, mut definition: Value) {
        definition["Check"] = json!({ "TTL": "1h", "Status": "passing" });
        self.put("/v1/agent/service/register", &definition.to_string()).await;
    }

    /// Takes an instance away.
    pub async fn deregister(&self, id: &str) {
        self.put(&format!("/v1/agent/service/deregister/{id}"), "").await;
    }

    /// Sets the check of an instance: `pass`, `warn` or `fail`.
    pub async fn check(&self, id: &str, status: &str) {
        self.put(&format!("/v1/agent/check/{status}/service:{id}"), "").await;
    }

    /// Takes an instance out, or puts it back.
    pub async fn maintain(&self, id: &str, is_on: bool) {
        self.put(&format!("/v1/agent/service/maintenance/{id}?enable={is_on}"), "").await;
    }

    /// Writes a key.
    pub async fn put_key(&self, key: &str, value: &str) {
        self.put(&format!("/v1/kv/{key}"), value).await;
    }

    /// Deletes a key.
    pub async fn delete_key(&self, key: &str) {
        let (status, answer) = self.request("DELETE", &format!("/v1/kv/{key}"), "").await.expect("the agent answers");
        assert_eq!(status, 200, "{key}: {answer}");
    }

    /// What it answers to a request that must succeed.
    pub async fn get(&self, path: &str) -> String {
        let (status, answer) = self.request("GET", path, "").await.expect("the agent answers");
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Stops the process of a real one without ending it.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let Keep::Real(child, _) = &self._keep else { panic!("a stub has no process") };
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).expect("it runs");
        kill_process(id, signal).expect("our own child can be signalled");
    }

    async fn put(&self, path: &str, body: &str) {
        let (status, answer) = self.request("PUT", path, body).await.expect("the agent answers");
        assert_eq!(status, 200, "{path}: {answer}");
    }

    async fn until_it_leads(&self) {
        let led = async {
            loop {
                match self.request("GET", "/v1/catalog/services", "").await {
                    Ok((200, services)) if services.contains("consul") => return,
                    // The agent itself is what is waited for: nothing says when it is there.
                    _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                }
            }
        };
        tokio::time::timeout(DEADLINE, led).await.expect("the agent leads");
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = BufReader::new(TcpStream::connect(self.address).await?);
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", self.address, body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners = [(); COUNT].map(|()| StdListener::bind("127.0.0.1:0").expect("a free port on loopback"));
    listeners.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}
