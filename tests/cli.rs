//! The real binary: what it prints, what it serves, and how it ends.

// A helper that unwraps says at once what it did not expect, as a test does.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::DEADLINE;
use support::clock::OwnClock;
use support::etcd::Etcd;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

// ---- the binary

fn nuncio(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nuncio"));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    for variable in ["RUST_LOG", "NUNCIO_ADMIN", "STATE_DIRECTORY"] {
        command.env_remove(variable);
    }
    command
}

/// Runs it to its end. Gives the exit code, standard output and standard error.
async fn finish(arguments: &[&str]) -> (i32, String, String) {
    let output = timeout(DEADLINE, nuncio(arguments).output()).await;
    let Output { status, stdout, stderr } = output.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// It at work. Killed by its id when dropped.
struct Running {
    child: Child,
    said: watch::Receiver<String>,
    _readers: JoinSet<()>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        Self::spawn(nuncio(arguments))
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, said) = watch::channel(String::new());
        let mut readers = JoinSet::new();
        readers.spawn(keep(child.stdout.take().unwrap(), sender.clone()));
        readers.spawn(keep(child.stderr.take().unwrap(), sender));
        Self { child, said, _readers: readers }
    }

    /// Runs with an admin API on a free port, once it is ready.
    async fn ready(arguments: &[&str]) -> Self {
        Self::ready_with(&[], arguments).await
    }

    /// The same with variables of the environment.
    async fn ready_with(variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let mut command = nuncio(&[&["run", "--admin", "127.0.0.1:0"], arguments].concat());
        command.envs(variables.iter().copied());
        let mut running = Self::spawn(command);
        running.until_says("ready").await;
        running
    }

    /// Waits until it has said `text`. Gives all that it has said.
    async fn until_says(&mut self, text: &str) -> String {
        let said = timeout(DEADLINE, self.said.wait_for(|said| said.contains(text))).await.map(|said| said.map(|said| said.clone()));
        match said {
            Ok(Ok(said)) => said,
            _ => panic!("it does not say {text:?}, but\n{}", *self.said.borrow()),
        }
    }

    fn said(&self) -> String {
        self.said.borrow().clone()
    }

    fn admin(&self) -> String {
        let said = self.said();
        let (_, rest) = said.split_once("admin API: http://").unwrap_or_else(|| panic!("no admin API in\n{said}"));
        rest.split_whitespace().next().unwrap().to_string()
    }

    /// The JSON at a path of the admin API.
    async fn admin_json(&self, path: &str) -> Value {
        let (_, body) = get(self.admin().parse().unwrap(), path).await.unwrap();
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error} in {body}"))
    }

    async fn generation(&self) -> u64 {
        self.admin_json("/api/v1/table").await["generation"].as_u64().unwrap()
    }

    /// What a command that asks this instance prints.
    async fn ask(&self, command: &str) -> String {
        let (code, stdout, stderr) = finish(&[command, "--admin", &self.admin()]).await;
        assert_eq!(code, 0, "{command}: {stdout}{stderr}");
        stdout
    }

    /// Where a listener accepts. None: it is not open.
    async fn bound(&self, listener: &str) -> Option<SocketAddr> {
        let table = self.admin_json("/api/v1/table").await;
        let listeners = table["listeners"].as_array().unwrap().clone();
        listeners.iter().find(|it| it["name"] == listener)?["bound"].as_str()?.parse().ok()
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())).expect("it runs");
        kill_process(id, signal).unwrap();
    }

    /// Waits for its end. Gives the exit code.
    async fn end(&mut self) -> Option<i32> {
        let ended = timeout(DEADLINE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end:\n{}", self.said())).unwrap().code()
    }
}

async fn keep(output: impl AsyncRead + Unpin, said: watch::Sender<String>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        said.send_modify(|said| *said += &(line + "\n"));
    }
}

// ---- what it talks to

/// An endpoint that answers with its name; to `/slow` not before it is released.
struct Endpoint {
    address: SocketAddr,
    arrived: watch::Receiver<usize>,
    release: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Endpoint {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrivals, arrived) = watch::channel(0);
        let (release, released) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(answer(stream, name, arrivals.clone(), released.clone()));
            }
        });
        Self { address, arrived, release, _tasks: tasks }
    }
}

async fn answer(mut stream: TcpStream, name: &str, arrivals: watch::Sender<usize>, mut released: watch::Receiver<bool>) {
    let head = read_head(&mut stream).await;
    arrivals.send_modify(|arrivals| *arrivals += 1);
    if head.starts_with("GET /slow ") {
        let _ = released.wait_for(|released| *released).await;
    }
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{name}", name.len());
    let _ = stream.write_all(response.as_bytes()).await;
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Status and body.
async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, body.to_string()))
}

async fn curl(arguments: &[&str]) -> String {
    let output = timeout(DEADLINE, Command::new("curl").args(["-sS", "--max-time", "10"]).args(arguments).output()).await.unwrap().unwrap();
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `address` answers `expected`. Another process tells nobody when it has changed, so it is asked again and again.
async fn until_answers(address: SocketAddr, expected: &str) {
    until(&format!("{address} answers {expected:?}"), async || {
        get(address, "/").await.is_ok_and(|(status, body)| body == expected || status.to_string() == expected)
    })
    .await;
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, holds).await.unwrap_or_else(|_| panic!("never: {what}"));
}

// ---- files

struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path_text(&path)
    }
}

fn path_text(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}

fn config(endpoint: SocketAddr) -> String {
    format!(
        "[listeners.web]\naddress = \"127.0.0.1:0\"\n[routes.app]\nmatch = 'PathPrefix(\"/\")'\nupstream = \"app\"\n[upstreams.app]\nendpoints = [\"{endpoint}\"]\n"
    )
}

// ---- the tests

#[tokio::test]
async fn every_command_explains_itself() {
    let (code, help, _) = finish(&["--help"]).await;
    assert!(code == 0 && help.contains("nuncio demo"), "{help}");
    for command in ["run", "check", "demo", "routes", "upstreams", "listeners", "providers", "problems", "health", "register"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} in {help}");
        let (code, help, _) = finish(&[command, "--help"]).await;
        assert!(code == 0 && help.contains("Examples:") && help.contains(&format!("  nuncio {command}")), "{help}");
    }
}

#[tokio::test]
async fn a_command_line_without_sense_is_told_apart_from_a_failure() {
    for (arguments, expected) in [
        (&["run"][..], "there is nothing to run"),
        (&["run", "--listen", ":8080"], "nuncio run --listen :8080 --to 127.0.0.1:3000"),
        (&["run", "--to", "127.0.0.1:1"], "--listen"),
        (&["run", "--listen", "nowhere", "--to", "127.0.0.1:1"], "not an address to listen on"),
        (&["run", "--provider", "etdc://u:geheim@10.0.0.1"], "did you mean etcd://?"),
        (&["run", "x.toml", "--access-log-format", "json"], "needs --access-log"),
        (&["run", "x.toml", "--log-level", "loud"], "loud"),
        (&["run", "x.toml", "--workers", "0"], "from 1 to"),
        (&["register"], "--host-ip"),
        (&["register", "--internal", "--container", "web"], "--port"),
        (&["register", "--internal", "--ttl", "1s"], "from 2s"),
        (&["register", "--host-ip", "::"], "nobody reaches a container there"),
    ] {
        let (code, _, stderr) = finish(arguments).await;
        assert!(code == 2 && stderr.contains(expected) && !stderr.contains("geheim"), "{arguments:?}: {code} {stderr}");
    }
}

/// A disk that is full is told; a reader that has seen enough is not.
#[tokio::test]
async fn what_cannot_be_printed_is_a_failure() {
    let to = async |stdout: Stdio| {
        let child = nuncio(&["completions", "bash"]).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        child.wait_with_output().await.unwrap()
    };
    let output = to(std::fs::File::options().write(true).open("/dev/full").unwrap().into()).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("standard output: No space left on device"), "{stderr}");
    let (closed, pipe) = std::io::pipe().unwrap();
    drop(closed);
    let output = to(pipe.into()).await;
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[tokio::test]
async fn check_finds_everything_at_once() {
    let directory = Directory::new();
    let good = directory.write("good.toml", &config("127.0.0.1:1".parse().unwrap()));
    let (code, stdout, _) = finish(&["check", &good]).await;
    assert_eq!((code, stdout.as_str()), (0, &*format!("{good}: 1 listener, 1 route, 1 upstream, no problems\n")));
    let bad = "[routes.a]\nmatch = 'PthPrefix(\"/\")'\nupstream = \"x\"\n[routes.b]\nmatch = 'Path(\"/\")'\nupstream = \"nowhere\"\n\
               [certificates.c]\ncert = \"/does/not/exist.pem\"\nkey = \"/does/not/exist.key\"\n[server]\nsticky_key = \"/does/not/exist\"\n";
    let bad = directory.write("bad.toml", bad);
    let (code, stdout, _) = finish(&["check", &bad]).await;
    assert_eq!(code, 1);
    for expected in [
        "bad.toml:2:10",
        "did you mean `PathPrefix`?",
        "there is no upstream `nowhere`",
        "`cert`: /does/not/exist.pem: No such file",
        "`sticky_key`: /does/not/exist: No such file",
        "4 errors",
    ] {
        assert!(stdout.contains(expected), "{expected} in {stdout}");
    }
    assert!(!stdout.contains('\x1b'), "no colour where nobody looks: {stdout}");
    let (code, stdout, _) = finish(&["check", "--json", &bad]).await;
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["is_valid"], report["problems"].as_array().map(Vec::len)), (1, &Value::Bool(false), Some(4)), "{stdout}");
    let (code, stdout, _) = finish(&["check", &path_text(&directory.path("absent.toml"))]).await;
    assert!(code == 1 && stdout.contains("No such file"), "{stdout}");
}

#[tokio::test]
async fn what_another_provider_may_have_is_no_error() {
    let directory = Directory::new();
    let text = "[routes.a]\nmatch = 'Path(\"/\")'\nupstream = \"elsewhere\"\n[providers.etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n";
    let (code, stdout, _) = finish(&["check", &directory.write("a.toml", text)]).await;
    assert!(code == 0 && stdout.contains("1 warning") && stdout.contains("if another provider has it"), "{stdout}");
}

#[tokio::test]
async fn two_flags_make_a_proxy() {
    let endpoint = Endpoint::start("hello").await;
    let to = endpoint.address.to_string();
    let proxy = Running::ready(&["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--to", &to, "--access-log", "-"]).await;
    for listener in ["default", "default-2"] {
        let address = proxy.bound(listener).await.unwrap();
        assert_eq!(curl(&[&format!("http://{address}/")]).await, "hello");
    }
    let admin = proxy.admin();
    assert_eq!(curl(&[&format!("http://{admin}/livez")]).await, "ok\n");
    assert!(curl(&[&format!("http://{admin}/readyz")]).await.contains("\"ready\": true"));
    let metrics = curl(&[&format!("http://{admin}/metrics")]).await;
    assert!(metrics.contains("nuncio_requests_total{route=\"default\",upstream=\"default\",status=\"2xx\"} 2\n"), "{metrics}");
    assert!(proxy.ask("routes").await.contains("PathPrefix(\"/\")"));
    assert!(proxy.ask("upstreams").await.contains(&to));
    assert!(proxy.ask("listeners").await.contains("default-2"));
    assert!(proxy.ask("providers").await.contains("flags"));
    assert!(proxy.ask("problems").await.contains("no problems"));
    assert_eq!(proxy.ask("health").await, "ready\n");
    let (_, json, _) = finish(&["upstreams", "--json", "--admin", &format!("http://{admin}/")]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["upstreams"][0]["endpoints"][0]["address"], to);
    let mut proxy = proxy;
    proxy.until_says("\"route\":\"default\"").await;
}

/// What it has of the machine's memory, in bytes.
fn resident(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id().expect("it runs"))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// It is parked: neither what hyper keeps for it nor the buffer that it was read into is there.
#[tokio::test]
async fn an_idle_connection_keeps_next_to_nothing() {
    const CONNECTIONS: u64 = 1_000;
    const BYTES_MAX: u64 = 8 * 1024;
    let endpoint = Endpoint::start("hello").await;
    // What is freed goes back to the system at once. The allocator else waits for something to do, which a proxy that is idle never has.
    let variables = [("MIMALLOC_PURGE_DELAY", "0")];
    let proxy =
        Running::ready_with(&variables, &["--workers", "1", "--listen", "127.0.0.1:0", "--to", &endpoint.address.to_string()]).await;
    let address = proxy.bound("default").await.unwrap();
    until_answers(address, "hello").await;
    let before = resident(&proxy);
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        idle.push(stream);
    }
    // It stands still for longer than it takes until they are parked: then all of them are at the same moment.
    proxy.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.signal(Signal::CONT);
    until("connections are parked", async || resident(&proxy).saturating_sub(before) < CONNECTIONS * BYTES_MAX).await;
    // They live.
    for stream in idle.iter_mut().take(10) {
        stream.read_exact(&mut [0; "hello".len()]).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
        assert!(read_head(stream).await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn the_admin_api_answers_get_to_those_who_name_it_by_address() {
    let proxy = Running::ready(&["--listen", "127.0.0.1:0", "--to", "127.0.0.1:1"]).await;
    let url = |path: &str| format!("http://{}{path}", proxy.admin());
    let status = async |arguments: &[&str]| curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat()).await;
    assert_eq!(status(&[&url("/readyz")]).await, "200");
    assert_eq!(status(&["-I", &url("/metrics")]).await, "200");
    assert_eq!(status(&[&url("/nothing")]).await, "404");
    assert_eq!(status(&["-X", "DELETE", &url("/api/v1/routes")]).await, "405");
    assert_eq!(status(&["-H", "Host: evil.test", &url("/api/v1/routes")]).await, "403");
    assert_eq!(status(&["-H", "Host: localhost:8182", &url("/api/v1/routes")]).await, "200");
    assert_eq!(status(&["-0", "-H", "Host:", &url("/livez")]).await, "200");
}

/// Prometheus asks for the name that it was given.
#[tokio::test]
async fn the_admin_api_answers_to_the_names_that_are_listed() {
    let directory = Directory::new();
    let text = config("127.0.0.1:1".parse().unwrap());
    let file = directory.write("a.toml", &format!("{text}[server]\nadmin_hosts = ['nuncio.internal', '*.example.com']\n"));
    let (listed, flagged) = (Running::ready(&[&file]).await, Running::ready(&[&file, "--admin-host", "other.test"]).await);
    let ask = async |proxy: &Running, host: &str| {
        let host = format!("Host: {host}");
        curl(&["-w", "%{http_code}", "-H", &host, &format!("http://{}/metrics", proxy.admin())]).await
    };
    for host in ["nuncio.internal", "Nuncio.Internal:8182", "eu.example.com", "localhost"] {
        assert!(ask(&listed, host).await.ends_with("200"), "{host}");
    }
    for host in ["example.com", "evil.test", "other.test"] {
        let refusal = ask(&listed, host).await;
        assert!(refusal.ends_with("403") && refusal.contains("--admin-host NAME") && refusal.contains("`admin_hosts`"), "{refusal}");
    }
    assert!(ask(&flagged, "other.test").await.ends_with("200"));
    assert!(ask(&flagged, "nuncio.internal").await.ends_with("403"), "flags take the place of what the file says");
    for (text, help) in [("admin_host = []", "did you mean `admin_hosts`?"), ("admin_hosts = ['a.test:80']", "leave out scheme, port")] {
        let file = directory.write("bad.toml", &format!("[server]\n{text}\n"));
        let (code, stdout, _) = finish(&["check", &file]).await;
        assert!(code == 1 && stdout.contains("bad.toml:2:") && stdout.contains(help), "{stdout}");
    }
}

#[tokio::test]
async fn an_edit_is_live_within_100_ms() {
    let (one, two) = (Endpoint::start("one").await, Endpoint::start("two").await);
    let directory = Directory::new();
    let file = directory.write("nuncio.toml", &config(one.address));
    let proxy = Running::ready(&[&file]).await;
    let address = proxy.bound("web").await.unwrap();
    until_answers(address, "one").await;
    let mut latencies = Vec::new();
    for (name, endpoint) in [("two", &two), ("one", &one), ("two", &two), ("one", &one), ("two", &two)] {
        directory.write("nuncio.toml", &config(endpoint.address));
        let written = Instant::now();
        until_answers(address, name).await;
        latencies.push(written.elapsed());
    }
    println!("from the write to the first request that sees it: {latencies:?}");
    // The machine may be busy with other tests: the best one shows what the program takes.
    assert!(latencies.iter().min() < Some(&Duration::from_millis(100)), "{latencies:?}");
}

#[tokio::test]
async fn a_broken_edit_changes_nothing_and_says_where() {
    let endpoint = Endpoint::start("well").await;
    let directory = Directory::new();
    let good = config(endpoint.address);
    let file = directory.write("nuncio.toml", &good);
    let mut proxy = Running::ready(&[&file]).await;
    let address = proxy.bound("web").await.unwrap();
    directory.write("nuncio.toml", &good.replace("PathPrefix", "PathPreffix"));
    let said = proxy.until_says("did you mean `PathPrefix`?").await;
    assert!(said.contains("nuncio.toml:4:10"), "{said}");
    assert_eq!(get(address, "/").await.unwrap().1, "well");
    assert!(proxy.ask("problems").await.contains("keeps its version of generation 1"));
    directory.write("nuncio.toml", "[[[");
    proxy.until_says("nuncio.toml:1:").await;
    assert_eq!(get(address, "/").await.unwrap().1, "well");
    directory.write("nuncio.toml", &format!("{good}[server]\nworkers = 7\n"));
    proxy.until_says("the process goes on with the settings of its start").await;
    directory.write("nuncio.toml", &good);
    proxy.until_says("no problems are left").await;
}

#[tokio::test]
async fn a_file_that_is_wrong_at_the_start_is_refused() {
    let directory = Directory::new();
    let file = directory.write("nuncio.toml", "[listeners.web]\nadress = \":0\"\n");
    let (code, _, stderr) = finish(&["run", &file]).await;
    assert!(code == 1 && stderr.contains("nuncio.toml:2:1") && stderr.contains("did you mean `address`?"), "{code} {stderr}");
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight() {
    let mut endpoint = Endpoint::start("done").await;
    let to = endpoint.address.to_string();
    let mut proxy = Running::ready(&["--listen", "127.0.0.1:0", "--to", &to]).await;
    let address = proxy.bound("default").await.unwrap();
    proxy.signal(Signal::HUP);
    proxy.until_says("nothing to reload").await;
    let slow = tokio::spawn(async move { get(address, "/slow").await });
    timeout(DEADLINE, endpoint.arrived.wait_for(|arrived| *arrived == 1)).await.unwrap().unwrap();
    proxy.signal(Signal::TERM);
    proxy.until_says("finishing what is in flight").await;
    until("it is not ready any more", async || proxy.admin_json("/readyz").await["ready"] == false).await;
    until("it accepts no more", async || TcpStream::connect(address).await.is_err()).await;
    endpoint.release.send_replace(true);
    assert_eq!(timeout(DEADLINE, slow).await.unwrap().unwrap().unwrap(), (200, "done".into()));
    assert_eq!(proxy.end().await, Some(0), "{}", proxy.said());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut endpoint = Endpoint::start("never").await;
    let to = endpoint.address.to_string();
    let mut proxy = Running::ready(&["--listen", "127.0.0.1:0", "--to", &to]).await;
    let address = proxy.bound("default").await.unwrap();
    let slow = tokio::spawn(async move { get(address, "/slow").await });
    timeout(DEADLINE, endpoint.arrived.wait_for(|arrived| *arrived == 1)).await.unwrap().unwrap();
    proxy.signal(Signal::TERM);
    proxy.until_says("finishing what is in flight").await;
    proxy.signal(Signal::INT);
    assert_eq!(proxy.end().await, Some(1), "{}", proxy.said());
    slow.abort();
}

#[tokio::test]
async fn what_outlives_the_drain_timeout_is_cut_and_counted() {
    let mut endpoint = Endpoint::start("never").await;
    let to = endpoint.address.to_string();
    let mut proxy = Running::ready(&["--listen", "127.0.0.1:0", "--to", &to, "--drain-timeout", "100ms"]).await;
    let address = proxy.bound("default").await.unwrap();
    let slow = tokio::spawn(async move { get(address, "/slow").await });
    timeout(DEADLINE, endpoint.arrived.wait_for(|arrived| *arrived == 1)).await.unwrap().unwrap();
    proxy.signal(Signal::TERM);
    let said = proxy.until_says("cut upstream=default in_flight=1").await;
    assert!(said.contains("the drain timeout of 100ms is over"), "{said}");
    assert_eq!(proxy.end().await, Some(0));
    slow.abort();
}

/// An endpoint that is down fails every request. The log says so, and how often, in few lines.
#[tokio::test]
async fn failed_requests_do_not_flood_the_log() {
    const CLIENTS: usize = 4;
    const REQUESTS: usize = 1_000;
    let started = Instant::now();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut proxy = Running::ready(&["--listen", "127.0.0.1:0", "--to", &dead.to_string()]).await;
    let address = proxy.bound("default").await.unwrap();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            for _ in 0..REQUESTS {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
                assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 502 "));
                stream.read_exact(&mut [0; "502 Bad Gateway\n".len()]).await.unwrap();
            }
        });
    }
    timeout(DEADLINE, clients.join_all()).await.unwrap();
    proxy.signal(Signal::TERM);
    let said = proxy.until_says("ended: nothing was cut").await;
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("connect_refused")).collect();
    let more = |line: &str| -> usize {
        let Some((_, more)) = line.split_once("(and ") else { return 0 };
        more.split(' ').next().unwrap().replace(',', "").parse().unwrap()
    };
    assert_eq!(lines.iter().map(|line| 1 + more(line)).sum::<usize>(), CLIENTS * REQUESTS, "{said}");
    // One at once, one each second, and one at the end.
    assert!(lines.len() as u64 <= 2 + started.elapsed().as_secs(), "{said}");
    assert_eq!(proxy.end().await, Some(0));
}

/// Whoever reads the log may be stuck: then lines are lost, not requests.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_no_traffic() {
    let endpoint = Endpoint::start("well").await;
    let to = endpoint.address.to_string();
    let mut child =
        nuncio(&["run", "-v", "--admin", "off", "--listen", "127.0.0.1:0", "--to", &to]).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(timeout(DEADLINE, log.read_line(&mut line)).await.unwrap().unwrap() > 0, "it ended");
    }
    let address: SocketAddr = line.split_once(" address=").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    // Each of them is worth a line of 80 bytes or more; a pipe holds 64 KiB.
    for _ in 0..1_500 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"\0\r\n\r\n").await.unwrap();
        assert!(timeout(DEADLINE, read_head(&mut stream)).await.unwrap().starts_with("HTTP/1.1 400 "));
    }
    assert_eq!(timeout(DEADLINE, get(address, "/")).await.unwrap().unwrap(), (200, "well".into()));
    kill_process(Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(timeout(DEADLINE, child.wait()).await.unwrap().unwrap().code(), Some(0), "it ends although nobody reads");
    drop(log);
}

/// What became of a WebSocket's connection goes on until the drain timeout, and its cut is no failure of the process.
#[tokio::test]
async fn an_upgraded_connection_is_cut_at_the_drain_timeout() {
    let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = endpoint.local_addr().unwrap().to_string();
    let drain = Duration::from_millis(700);
    let mut proxy = Running::ready(&["--listen", "127.0.0.1:0", "--to", &to, "--drain-timeout", "700ms"]).await;
    let address = proxy.bound("default").await.unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    let (mut far, _) = timeout(DEADLINE, endpoint.accept()).await.unwrap().unwrap();
    read_head(&mut far).await;
    far.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 101 "));
    let started = Instant::now();
    proxy.signal(Signal::TERM);
    proxy.until_says("finishing what is in flight").await;
    until("it accepts no more", async || TcpStream::connect(address).await.is_err()).await;
    // Both ways, to the end.
    let mut last = Instant::now();
    while client.write_all(b"?").await.is_ok()
        && far.read_u8().await.is_ok()
        && far.write_all(b"!").await.is_ok()
        && client.read_u8().await.is_ok()
    {
        last = Instant::now();
    }
    assert!(last - started >= drain / 2, "cut after {:?}", last - started);
    assert_eq!(proxy.end().await, Some(0), "{}", proxy.said());
    assert!(started.elapsed() >= drain);
    proxy.until_says("cut upstream=default in_flight=1").await;
}

#[tokio::test]
async fn not_ready_says_what_is_missing() {
    let mut proxy = Running::start(&["run", "--admin", "127.0.0.1:0", "--provider", "etcd://127.0.0.1:1", "--listen", "127.0.0.1:0"]);
    proxy.until_says("provider failed").await;
    proxy.until_says("admin API: ").await;
    let (code, _, stderr) = finish(&["health", "--admin", &proxy.admin()]).await;
    assert!(code == 1 && stderr.contains("provider etcd: no snapshot yet: failing: etcd http://127.0.0.1:1"), "{code} {stderr}");
    assert!(proxy.ask("providers").await.contains("failing"));
    let admin = proxy.admin();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.end().await, Some(0));
    for command in ["health", "routes", "upstreams", "listeners", "providers", "problems"] {
        let (code, stdout, stderr) = finish(&[command, "--admin", &admin]).await;
        assert!(code == 1 && stdout.is_empty() && stderr.contains(&format!("no instance answers on {admin}")), "{code} {stdout}{stderr}");
        assert!(stderr.contains("nuncio run --admin"), "{stderr}");
    }
}

#[tokio::test]
async fn the_demo_loses_no_request_when_an_endpoint_stops() {
    let mut demo = Running::start(&["demo", "--port", "0"]);
    let screen = demo.until_says("Ctrl-C ends the demo.").await;
    let after = |text: &str| screen.split_once(text).and_then(|(_, rest)| rest.split([' ', '\n', '/', ';']).next()).unwrap().to_string();
    let proxy: SocketAddr = after("The proxy is on http://").trim_end_matches(',').parse().unwrap();
    let (_, stop) = screen.split_once("and no request fails").unwrap();
    let switchboard: SocketAddr = stop.split_once("http://").unwrap().1.split('/').next().unwrap().parse().unwrap();
    let names = async || {
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..12 {
            let (status, body) = get(proxy, "/").await.unwrap();
            assert_eq!(status, 200, "{body}");
            names.insert(body.split('-').next().unwrap().to_string());
        }
        names.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["blue", "green", "red"]);
    assert_eq!(get(switchboard, "/stop/red").await.unwrap().1, "red is stopped\n");
    assert_eq!(names().await, ["blue", "green"]);
    assert_eq!(get(switchboard, "/start/red").await.unwrap().1, "red runs\n");
    until("red is back", async || names().await.len() == 3).await;
    let sticky = format!("http://{proxy}/sticky");
    let directory = Directory::new();
    let jar = path_text(&directory.path("jar"));
    let first = curl(&["-c", &jar, "-b", &jar, &sticky]).await;
    for _ in 0..6 {
        assert_eq!(curl(&["-c", &jar, "-b", &jar, &sticky]).await, first);
    }
    demo.signal(Signal::INT);
    assert_eq!(demo.end().await, Some(0), "{}", demo.said());
}

async fn etcdctl(etcd: &Etcd, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", etcd.address())).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn everything_from_etcd() {
    let etcd = Etcd::start().await;
    let (one, two) = (Endpoint::start("one").await, Endpoint::start("two").await);
    let mut proxy = Running::ready(&["--provider", &format!("etcd://{}/nuncio", etcd.address())]).await;
    proxy.until_says("there is no listener").await;

    etcdctl(&etcd, &["put", "/nuncio/listeners/web", r#"{"address":"127.0.0.1:0"}"#], "").await;
    until("the listener is open", async || proxy.bound("web").await.is_some()).await;
    let address = proxy.bound("web").await.unwrap();
    assert_eq!(get(address, "/").await.unwrap().0, 404);

    etcdctl(&etcd, &["put", "/nuncio/routes/app", r#"{"match":"PathPrefix(\"/\")","upstream":"app"}"#], "").await;
    until_answers(address, "503").await;
    assert!(proxy.ask("routes").await.contains("answers 503: there is no upstream `app`"));
    etcdctl(&etcd, &["put", "/nuncio/upstreams/app/endpoints/one", &one.address.to_string()], "").await;
    until_answers(address, "one").await;

    // One transaction is one generation, however many keys it has.
    let before = proxy.generation().await;
    let puts =
        format!("\nput /nuncio/upstreams/app/endpoints/two {}\nput /nuncio/upstreams/other/endpoints/two {}\n", two.address, two.address);
    etcdctl(&etcd, &["txn"], &format!("{puts}del /nuncio/upstreams/app/endpoints/one\n\n\n")).await;
    until_answers(address, "two").await;
    assert_eq!(proxy.generation().await, before + 1);

    // An endpoint lives as long as its lease.
    let lease = etcdctl(&etcd, &["lease", "grant", "1"], "").await;
    let lease = lease.split_whitespace().nth(1).unwrap().to_string();
    etcdctl(&etcd, &["put", "/nuncio/upstreams/app/endpoints/leased", &one.address.to_string(), &format!("--lease={lease}")], "").await;
    until("the leased endpoint is there", async || proxy.ask("upstreams").await.contains("leased")).await;
    until("and gone with its lease", async || !proxy.ask("upstreams").await.contains("leased")).await;

    // What cannot be read says which key it is, and changes nothing.
    etcdctl(&etcd, &["put", "/nuncio/routes/app", r#"{"match":"PathPrefix(\"/\"","upstream":"app"}"#], "").await;
    until("the problem is told", async || proxy.ask("problems").await.contains("/nuncio/routes/app")).await;
    assert_eq!(get(address, "/").await.unwrap().1, "two");
}

#[tokio::test]
async fn a_port_is_forwarded_to_addresses() {
    let (one, two) = (Endpoint::start("one").await, Endpoint::start("two").await);
    let (first, second) = (one.address.to_string(), two.address.to_string());
    let mut proxy = Running::start(&["forward", "127.0.0.1:0", &first, &second, "--admin", "127.0.0.1:0"]);
    proxy.until_says("ready").await;
    let address = proxy.bound("forward").await.unwrap();
    for name in ["one", "two"] {
        until_answers(address, name).await;
    }
    assert_eq!(finish(&["forward", "80000", "127.0.0.1:1"]).await.0, 2);
    assert_eq!(finish(&["forward", "8080"]).await.0, 2);
}

/// DNS is asked by both, on one port.
#[tokio::test]
async fn datagrams_are_forwarded_beside_connections() {
    let (endpoint, server) = loop {
        let endpoint = Endpoint::start("by TCP").await;
        if let Ok(server) = UdpSocket::bind(endpoint.address).await {
            break (endpoint, server);
        }
    };
    let to = endpoint.address.to_string();
    // The port is the same for both, so that none can be had by asking for port 0. Nobody else uses this address.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = SocketAddr::from(([127, high, low, 53], 5353));
    let mut proxy = Running::start(&["forward", &address.to_string(), &to, "--udp", "--admin", "127.0.0.1:0"]);
    proxy.until_says("ready").await;
    until_answers(address, "by TCP").await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    client.send(b"question").await.unwrap();
    let mut datagram = [0; 64];
    let (length, asker) = timeout(DEADLINE, server.recv_from(&mut datagram)).await.unwrap().unwrap();
    assert_eq!(&datagram[..length], b"question");
    server.send_to(b"answer", asker).await.unwrap();
    let length = timeout(DEADLINE, client.recv(&mut datagram)).await.unwrap().unwrap();
    assert_eq!(&datagram[..length], b"answer");

    let (code, _, stderr) = finish(&["forward", "53", &to, "--udp", "--join", "mesh.token"]).await;
    assert!(code == 2 && stderr.contains("'--udp' cannot be used with '--join"), "{stderr}");
}

/// The instance moves to another address, by way of none: who comes meanwhile waits, and nobody sees an error.
#[tokio::test]
async fn an_ambassador_follows_its_service() {
    let etcd = Etcd::start().await;
    let (one, two) = (Endpoint::start("one").await, Endpoint::start("two").await);
    let provider = format!("etcd://{}", etcd.address());
    let mut proxy = Running::start(&["ambassador", "apache-A", "127.0.0.1:0", "--provider", &provider, "--admin", "127.0.0.1:0"]);
    proxy.until_says("ready").await;
    let address = proxy.bound("ambassador").await.unwrap();
    // It is there before its service.
    let first = tokio::spawn(get(address, "/"));
    etcdctl(&etcd, &["put", "/services/apache-A/host-1:apache:80", &one.address.to_string()], "").await;
    etcdctl(&etcd, &["put", "/services/apache-B/host-1:apache:80", &two.address.to_string()], "").await;
    assert_eq!(first.await.unwrap().unwrap().1, "one");
    until_answers(address, "one").await;

    let (stop, is_stopped) = watch::channel(false);
    let consumer = tokio::spawn(async move {
        let mut answers = Vec::new();
        while !*is_stopped.borrow() {
            answers.push(get(address, "/").await.unwrap().1);
        }
        answers
    });
    etcdctl(&etcd, &["del", "/services/apache-A/host-1:apache:80"], "").await;
    until("it is known that there is none", async || !proxy.ask("upstreams").await.contains(&one.address.to_string())).await;
    etcdctl(&etcd, &["put", "/services/apache-A/host-2:apache:80", &two.address.to_string()], "").await;
    until_answers(address, "two").await;
    stop.send(true).unwrap();
    let answers = consumer.await.unwrap();
    assert!(answers.iter().all(|answer| answer == "one" || answer == "two"), "{answers:?}");
    assert!(answers.contains(&"one".into()) && answers.contains(&"two".into()));
}

/// Time-outs, leases and what is kept count by a clock that does not jump. A day is longer than any of them.
#[tokio::test]
async fn jumps_of_its_wall_clock_change_nothing() {
    const DAY: i64 = 24 * 60 * 60;
    let (directory, etcd) = (TempDir::new().unwrap(), Etcd::start().await);
    let clock = OwnClock::new(directory.path());
    let (one, two) = (Endpoint::start("one").await, Endpoint::start("two").await);
    let listener = r#"{"address":"127.0.0.1:0"}"#;
    let upstream = r#"{"health":{"http":"/","interval":"100ms"}}"#;
    let route = r#"{"match":"PathPrefix(\"/\")","upstream":"app"}"#;
    for (key, value) in [("listeners/web", listener), ("upstreams/app", upstream), ("routes/app", route)] {
        etcdctl(&etcd, &["put", &format!("/nuncio/{key}"), value], "").await;
    }
    let provider = format!("etcd://{}/nuncio", etcd.address());
    let data = path_text(&directory.path().join("data"));
    let log = directory.path().join("access.log");
    let arguments = ["run", "--admin", "127.0.0.1:0", "--data-dir", &data, "--access-log", &path_text(&log), "--provider", &provider];
    let mut command = nuncio(&arguments);
    command.envs(clock.environment());
    let mut proxy = Running::spawn(command);
    proxy.until_says("ready").await;
    let address = proxy.bound("web").await.unwrap();
    for (days, endpoint) in [(0, &one), (1, &two), (-1, &one), (0, &two)] {
        clock.move_to(days * DAY);
        etcdctl(&etcd, &["put", "/nuncio/upstreams/app/endpoints/a", &endpoint.address.to_string()], "").await;
        until_answers(address, if endpoint.address == one.address { "one" } else { "two" }).await;
        let provider = &proxy.admin_json("/api/v1/table").await["providers"][0];
        assert_eq!((&provider["state"], &provider["lag_seconds"], &provider["restarts"]), (&"live".into(), &0.0.into(), &0.into()));
        let generation = proxy.generation().await;
        until("the log has it", async || last_logged(&log).is_some_and(|(_, met)| met == generation)).await;
        let (at, _) = last_logged(&log).unwrap();
        let since_epoch = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
        let ahead = since_epoch(at) - since_epoch(SystemTime::now());
        assert!((ahead - days * DAY).abs() < 60, "it jumped by {days} days, and is {ahead} s ahead");
    }
    let said = proxy.said();
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
}

/// The access log says when a request came, by this clock, and which table it met.
fn last_logged(log: &Path) -> Option<(SystemTime, u64)> {
    let log = std::fs::read_to_string(log).unwrap();
    let entry: Value = serde_json::from_str(log.lines().last()?).unwrap();
    Some((humantime::parse_rfc3339(entry["time"].as_str().unwrap()).unwrap(), entry["generation"].as_u64().unwrap()))
}

#[tokio::test]
async fn an_import_passes_the_check_and_says_what_it_lacks() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (source, result) = (path("haproxy.cfg"), path("nuncio.toml"));
    let config =
        "frontend f\n  mode http\n  bind 127.0.0.1:8080\n  option forwardfor\n  default_backend b\nbackend b\n  server s 127.0.0.1:3000\n";
    std::fs::write(&source, config).unwrap();
    let (code, said, complaints) = finish(&["import", "haproxy", &source, "--output", &result]).await;
    assert_eq!((code, said.as_str(), complaints.as_str()), (0, "", ""));
    assert_eq!(finish(&["check", &result]).await.0, 0);

    std::fs::write(&source, format!("{config}  server t 127.0.0.1:3001 disabled\n")).unwrap();
    let (code, said, complaints) = finish(&["import", "haproxy", &source]).await;
    assert_eq!(code, 3, "{complaints}");
    assert_eq!(said, std::fs::read_to_string(&result).unwrap());
    assert!(complaints.starts_with(&format!("{source}:8: not carried over: server t: ")), "{complaints}");

    std::fs::write(path("nuncio.yaml"), "# nothing").unwrap();
    assert_eq!(finish(&["import", "traefik", &path("nuncio.yaml")]).await.0, 1);
    let (code, _, complaints) = finish(&["import", "haproxy", &path("absent")]).await;
    assert!(code == 1 && complaints.contains("absent"), "{complaints}");
}

// ---- what packages are made of

#[tokio::test]
async fn manual_pages_and_completions_know_every_command() {
    let (code, usage, _) = finish(&["--help"]).await;
    assert_eq!(code, 0);
    let commands = usage.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> =
        commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|name| !name.is_empty()).collect();
    assert!(commands.contains(&"run") && commands.contains(&"man"), "{commands:?}");
    let directory = tempfile::tempdir().unwrap();
    let (code, _, stderr) = finish(&["man", directory.path().to_str().unwrap()]).await;
    assert_eq!(code, 0, "{stderr}");
    let (_, page, _) = finish(&["man"]).await;
    for command in commands.iter().filter(|command| **command != "help") {
        assert!(page.contains(&format!("nuncio\\-{command}(1)")), "{command} in {page}");
        let own = std::fs::read_to_string(directory.path().join(format!("nuncio-{command}.1"))).unwrap();
        assert!(own.contains(".SH SYNOPSIS"), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = finish(&["completions", shell]).await;
        assert!(code == 0 && commands.iter().all(|command| script.contains(command)), "{shell}");
    }
}
