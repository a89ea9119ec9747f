//! A real ZooKeeper: one server on a free port of loopback, its data in a directory of its own, killed when dropped. And one who writes.

use std::fmt::Write;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use super::DEADLINE;
use super::clock::OwnClock;

/// What a server is made of.
const JARS: [&str; 19] = [
    "zookeeper",
    "zookeeper-jute",
    "slf4j-api",
    "slf4j-simple",
    "netty-buffer",
    "netty-codec",
    "netty-common",
    "netty-handler",
    "netty-resolver",
    "netty-transport",
    "netty-transport-native-epoll",
    "netty-transport-native-unix-common",
    "metrics-core",
    "snappy-java",
    "commons-io",
    "commons-cli",
    "jackson-databind",
    "jackson-core",
    "jackson-annotations",
];

/// For an answer to a four-letter word.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(20);

/// Where Debian's packages put them.
const JARS_DIRECTORY: &str = "/usr/share/java";

/// A ZooKeeper of one server.
pub struct ZooKeeper {
    directory: TempDir,
    port: u16,
    settings: String,
    properties: Vec<String>,
    clock: Option<OwnClock>,
    process: Option<Child>,
}

impl ZooKeeper {
    /// Starts a server, and waits until it answers.
    pub async fn start() -> Self {
        let mut server = Self::stopped();
        server.run().await;
        server
    }

    /// A server that has its port and its directory, but does not run yet.
    pub fn stopped() -> Self {
        let directory = tempfile::Builder::new().prefix("nuncio-zookeeper-").tempdir().expect("a temporary directory");
        // Short, so that sessions can be short as well: a session is of two ticks at least.
        let settings = "tickTime=500\nadmin.enableServer=false\n4lw.commands.whitelist=srvr,dump\nsnapshot.trust.empty=true\n".to_owned();
        Self { directory, port: free_port(), settings, properties: Vec::new(), clock: None, process: None }
    }

    /// Adds a line to its configuration.
    pub fn setting(mut self, line: &str) -> Self {
        writeln!(self.settings, "{line}").expect("a string can be written to");
        self
    }

    /// Sets a property of its virtual machine.
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.push(format!("-D{name}={value}"));
        self
    }

    /// Gives it a wall clock that can be [moved](Self::move_clock).
    pub fn with_own_clock(mut self) -> Self {
        self.clock = Some(OwnClock::new(self.directory()));
        self
    }

    /// Makes its wall clock so many seconds ahead of ours, or behind. Its monotonic clock stays.
    pub fn move_clock(&self, seconds: i64) {
        self.clock.as_ref().expect("it has its own clock").move_to(seconds);
    }

    /// Its own directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts its process, on the same port and data as before, and waits until it answers.
    pub async fn run(&mut self) {
        self.spawn();
        let answers = async { while !self.ask("srvr").await.starts_with("Zookeeper version") {} };
        if tokio::time::timeout(DEADLINE, answers).await.is_err() {
            panic!("ZooKeeper does not answer on {}:\n{}", self.address(), self.log());
        }
    }

    fn spawn(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = File::options().append(true).create(true).open(self.directory().join("log")).expect("a log file in our directory");
        let data = self.directory().join("data");
        let settings = format!("{}dataDir={}\nclientPortAddress=127.0.0.1\nclientPort={}\n", self.settings, data.display(), self.port);
        let file = self.directory().join("zoo.cfg");
        std::fs::write(&file, settings).expect("our own directory");
        let jars = JARS.map(|jar| format!("{JARS_DIRECTORY}/{jar}.jar")).join(":");
        let mut command = Command::new("java");
        command.envs(self.clock.iter().flat_map(OwnClock::environment));
        let spawned = command
            // Starts sooner, and is content with little.
            .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx128m", "-Dzookeeper.forceSync=no"])
            .args(&self.properties)
            .args(["-cp", &jars, "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn();
        self.process = Some(spawned.unwrap_or_else(|error| {
            panic!("cannot start ZooKeeper: {error}. `make test` installs it (on Debian: apt-get install default-jre-headless libzookeeper-java)");
        }));
    }

    /// How many sessions there are.
    pub async fn sessions(&self) -> usize {
        let dump = self.ask("dump").await;
        let sessions = dump.split("ephemeral nodes dump").next().unwrap_or_default();
        sessions.lines().filter(|line| line.trim_start().starts_with("0x")).count()
    }

    /// What it answers to one of its four-letter words. Empty if it does not. Asked too early, it may never answer.
    async fn ask(&self, word: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(self.address()).await?;
            stream.write_all(word.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        // Not again at once: it would be kept busy with nothing else.
        let (answer, ()) = tokio::join!(tokio::time::timeout(PATIENCE, asked), tokio::time::sleep(PAUSE));
        answer.map(Result::unwrap_or_default).unwrap_or_default()
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

    /// Copies its data away. For a server that does not run.
    pub fn keep_data(&self) {
        self.copy_data("data", "kept");
    }

    /// Puts back the data that [`keep_data`](Self::keep_data) copied: a store restored from a backup.
    pub fn restore_data(&mut self) {
        self.copy_data("kept", "data");
    }

    fn copy_data(&self, from: &str, to: &str) {
        assert!(self.process.is_none(), "it still runs");
        let path = |name| self.directory().join(name);
        // Of the last time.
        let _ = std::fs::remove_dir_all(path(to));
        let status = Command::new("cp").arg("-r").args([path(from), path(to)]).status().expect("cp runs");
        assert!(status.success(), "the data is copied");
    }

    /// Deletes its data. For a server that does not run.
    pub fn wipe(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        std::fs::remove_dir_all(self.directory().join("data")).expect("our own directory can be deleted");
    }

    /// Stops its process without ending it: connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        let id = i32::try_from(process.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        kill_process(id, signal).expect("our own child can be signalled");
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.directory().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    /// One who writes, over a client that is none of ours.
    pub async fn writer(&self) -> ZooKeeperWriter {
        ZooKeeperWriter::connect(self.address()).await
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Writes znodes, in a session of its own: what it makes ephemeral goes when it is dropped.
#[derive(Clone)]
pub struct ZooKeeperWriter(Client);

impl ZooKeeperWriter {
    async fn connect(address: SocketAddr) -> Self {
        let connected = Client::connector().with_session_timeout(Duration::from_secs(10)).connect(&address.to_string()).await;
        Self(connected.expect("the server gives a session"))
    }

    /// The client, for what is not done often.
    pub fn client(&self) -> &Client {
        &self.0
    }

    /// Writes a znode, which is made if need be, with folders.
    pub async fn put(&self, path: &str, value: &str) {
        if self.0.set_data(path, value.as_bytes(), None).await.is_err() {
            self.make(path, value, CreateMode::Persistent).await;
        }
    }

    /// Makes a znode. The path that it got.
    pub async fn make(&self, path: &str, value: &str, mode: CreateMode) -> String {
        self.make_folders(path).await;
        let made = self.0.create(path, value.as_bytes(), &mode.with_acls(Acls::anyone_all())).await;
        let (_, sequence) = made.unwrap_or_else(|error| panic!("create {path}: {error}"));
        let is_sequential = matches!(mode, CreateMode::EphemeralSequential | CreateMode::PersistentSequential);
        if is_sequential { format!("{path}{sequence}") } else { path.to_owned() }
    }

    async fn make_folders(&self, path: &str) {
        if let Some((folder, _)) = path.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) {
            let done = self.0.mkdir(folder, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await;
            done.unwrap_or_else(|error| panic!("make {folder}: {error}"));
        }
    }

    /// Makes znodes in one step.
    pub async fn put_at_once(&self, pairs: &[(String, String)]) {
        let mut writer = self.0.new_multi_writer();
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        for (path, value) in pairs {
            self.make_folders(path).await;
            let done = match self.0.check_stat(path).await.expect("a stat") {
                Some(_) => writer.add_set_data(path, value.as_bytes(), None),
                None => writer.add_create(path, value.as_bytes(), &options),
            };
            done.unwrap_or_else(|error| panic!("add {path}: {error}"));
        }
        writer.commit().await.unwrap_or_else(|error| panic!("commit: {error}"));
    }

    /// Deletes a znode.
    pub async fn delete(&self, path: &str) {
        self.0.delete(path, None).await.unwrap_or_else(|error| panic!("delete {path}: {error}"));
    }

    /// Deletes a znode with all that is below it.
    pub async fn delete_all(&self, path: &str) {
        for child in self.0.list_children(path).await.unwrap_or_else(|error| panic!("list {path}: {error}")) {
            Box::pin(self.delete_all(&format!("{path}/{child}"))).await;
        }
        self.delete(path).await;
    }

    /// Lets nobody read a znode but who this writer [is](Self::be).
    pub async fn restrict(&self, path: &str) {
        let acls = [Acl::new(Permission::ALL, AuthId::authed())];
        self.0.set_acl(path, &acls, None).await.unwrap_or_else(|error| panic!("set the ACL of {path}: {error}"));
    }

    /// Lets everyone do everything with a znode.
    pub async fn open(&self, path: &str) {
        let acls = [Acl::new(Permission::ALL, AuthId::anyone())];
        self.0.set_acl(path, &acls, None).await.unwrap_or_else(|error| panic!("set the ACL of {path}: {error}"));
    }

    /// Says who it is, by the scheme `digest`.
    pub async fn be(&self, user: &str, password: &str) {
        self.0.auth("digest", format!("{user}:{password}").as_bytes()).await.expect("anyone is believed");
    }
}
