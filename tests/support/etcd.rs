//! A real etcd: one member on free ports of loopback, its data in a directory of its own, killed when dropped.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::DEADLINE;

/// As many operations as etcd takes in one transaction by default.
pub const TXN_OPERATIONS_MAX: usize = 128;

/// An etcd of one member.
pub struct Etcd {
    directory: TempDir,
    client_port: u16,
    peer_port: u16,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Etcd {
    /// Starts an etcd, and waits until it answers.
    pub async fn start() -> Self {
        let mut etcd = Self::stopped();
        etcd.run().await;
        etcd
    }

    /// The same with its data in memory, where there is such a place: so that the disk's time is not measured along.
    pub async fn start_in_memory() -> Self {
        let mut etcd = Self::stopped_in_memory();
        etcd.run().await;
        etcd
    }

    /// The same, not started yet.
    pub fn stopped_in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::stopped_in(memory) } else { Self::stopped() }
    }

    /// An etcd that has its ports and its directory, but does not run yet.
    pub fn stopped() -> Self {
        Self::stopped_in(&std::env::temp_dir())
    }

    fn stopped_in(parent: &Path) -> Self {
        let (client_port, peer_port) = free_ports();
        let directory = tempfile::Builder::new().prefix("nuncio-etcd-").tempdir_in(parent).expect("a temporary directory");
        Self { directory, client_port, peer_port, arguments: Vec::new(), process: None }
    }

    /// Adds an argument to its command line.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts its process, on the same ports and data as before, and waits until it answers.
    pub async fn run(&mut self) {
        self.spawn();
        let answers = async { while !self.does_answer().await {} };
        if tokio::time::timeout(DEADLINE, answers).await.is_err() {
            panic!("etcd does not answer on {}:\n{}", self.address(), self.log());
        }
    }

    /// Starts its process without waiting for it.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = File::options().append(true).create(true).open(self.log_path()).expect("a log file in our directory");
        let client_url = format!("http://{}", self.address());
        let peer_url = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new("etcd");
        command
            .arg(format!("--data-dir={}", self.directory.path().join("data").display()))
            .args(["--name=one", "--logger=zap", "--log-level=warn"])
            // A single member need not wait a second to elect itself.
            .args(["--heartbeat-interval=20", "--election-timeout=200"])
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!("--initial-cluster=one={peer_url}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log);
        if !self.arguments.iter().any(|argument| argument.starts_with("--listen-client-urls")) {
            command.arg(format!("--listen-client-urls={client_url}")).arg(format!("--advertise-client-urls={client_url}"));
        }
        let spawned = command.args(&self.arguments).spawn();
        self.process = Some(spawned.unwrap_or_else(|error| {
            panic!("cannot start etcd: {error}. `make test` installs it (on Debian: apt-get install etcd-server)");
        }));
    }

    /// Kills its process as `kill -9` does. Its data stays.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("our own child can be killed");
            process.wait().expect("our own child can be waited for");
        }
    }

    /// Ends its process as the system would. Its data stays.
    pub fn end(&mut self) {
        self.signal(Signal::TERM);
        let mut process = self.process.take().expect("it runs");
        process.wait().expect("our own child can be waited for");
    }

    /// Deletes its data. For an etcd that does not run.
    pub fn wipe(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        std::fs::remove_dir_all(self.directory.path().join("data")).expect("our own directory can be deleted");
    }

    /// Copies its data away, or back. For an etcd that does not run.
    pub fn keep_data(&self) {
        self.copy_data("data", "kept");
    }

    /// Puts back the data that [`keep_data`](Self::keep_data) copied: a store restored from a backup.
    pub fn restore_data(&mut self) {
        self.wipe();
        self.copy_data("kept", "data");
    }

    fn copy_data(&self, from: &str, to: &str) {
        assert!(self.process.is_none(), "it still runs");
        let path = |name| self.directory.path().join(name);
        // Of the last time.
        let _ = std::fs::remove_dir_all(path(to));
        let status = Command::new("cp").arg("-r").args([path(from), path(to)]).status().expect("cp runs");
        assert!(status.success(), "the data is copied");
    }

    /// Stops its process as `kill -STOP` does: connections stay, and nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.client_port))
    }

    /// The same as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A directory that lives as long as this etcd.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_else(|error| error.to_string())
    }

    /// A writer of its keys.
    pub async fn writer(&self) -> Writer {
        Writer(Client::connect([self.url()], None).await.expect("a client of an etcd that answers"))
    }

    fn log_path(&self) -> std::path::PathBuf {
        self.directory.path().join("log")
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).expect("our own child can be signalled");
    }

    async fn does_answer(&mut self) -> bool {
        if let Some(status) = self.process.as_mut().and_then(|process| process.try_wait().expect("our own child has a status")) {
            panic!("etcd ended with {status}:\n{}", self.log());
        }
        let read = async {
            let options = ConnectOptions::new().with_connect_timeout(Duration::from_millis(200));
            let mut client = Client::connect([self.url()], Some(options)).await?;
            client.get("probe", Some(GetOptions::new().with_count_only())).await
        };
        let answer = tokio::time::timeout(Duration::from_millis(500), read).await;
        if !matches!(answer, Ok(Ok(_))) {
            // A poll of another process, which tells nobody when it is ready.
            tokio::time::sleep(Duration::from_millis(10)).await;
            return false;
        }
        true
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes keys, independently of the provider that reads them.
#[derive(Clone)]
pub struct Writer(pub Client);

impl Writer {
    /// Writes a key. The store's revision after that.
    pub async fn put(&mut self, key: &str, value: &str) -> u64 {
        let response = self.0.put(key, value, None).await.expect("etcd takes a key");
        response.header().expect("a response has a header").revision().unsigned_abs()
    }

    /// Writes a key that is gone `seconds` after the last sign of life of its writer.
    pub async fn put_with_lease(&mut self, key: &str, value: &str, seconds: i64) {
        let lease = self.0.lease_grant(seconds, None).await.expect("etcd grants a lease").id();
        self.0.put(key, value, Some(PutOptions::new().with_lease(lease))).await.expect("etcd takes a key");
    }

    /// Writes all keys in one transaction: one revision.
    pub async fn put_at_once(&mut self, pairs: &[(String, String)]) {
        let puts: Vec<_> = pairs.iter().map(|(key, value)| TxnOp::put(key.as_str(), value.as_str(), None)).collect();
        self.0.txn(Txn::new().and_then(puts)).await.expect("etcd takes a transaction");
    }

    /// Writes all keys, in as few transactions as etcd allows.
    pub async fn put_all(&mut self, pairs: &[(String, String)]) {
        for chunk in pairs.chunks(TXN_OPERATIONS_MAX) {
            self.put_at_once(chunk).await;
        }
    }

    /// Deletes a key.
    pub async fn delete(&mut self, key: &str) {
        self.0.delete(key, None).await.expect("etcd deletes a key");
    }

    /// Deletes all keys that start with `prefix`.
    pub async fn delete_prefix(&mut self, prefix: &str) {
        self.0.delete(prefix, Some(DeleteOptions::new().with_prefix())).await.expect("etcd deletes keys");
    }

    /// Makes etcd forget all but the latest revision.
    pub async fn compact(&mut self) {
        let read = self.0.get("probe", None).await.expect("etcd answers");
        let revision = read.header().expect("a response has a header").revision();
        self.0.compact(revision, None).await.expect("etcd compacts");
    }
}

/// Two ports that nobody listens on. Both are held until both are known, so that they differ.
fn free_ports() -> (u16, u16) {
    let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    let port = |listener: &TcpListener| listener.local_addr().expect("a bound socket has an address").port();
    let (one, two) = (bind(), bind());
    (port(&one), port(&two))
}
