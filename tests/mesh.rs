//! Mutual TLS between instances that joined a mesh: the page that tells of it, line by line, with a real etcd, real processes, openssl and
//! curl; certificates and CAs that change under load; and who is refused.

// A helper that unwraps says at once what it did not expect, as a test does.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nuncio::discovery::mesh;
use support::DEADLINE;
use support::etcd::Etcd;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A command in `directory`, of which `nuncio` is the one that is tested.
fn shell(line: &str, directory: &Path) -> Command {
    let ours = Path::new(env!("CARGO_BIN_EXE_nuncio")).parent().unwrap();
    let path = format!("{}:{}", ours.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    // exec: so that its id is that of the process.
    command.args(["-c", line]).current_dir(directory).env("PATH", path).env("ETCDCTL_API", "3").stdin(Stdio::null()).kill_on_drop(true);
    ["RUST_LOG", "NUNCIO_JOIN", "NUNCIO_JOIN_AS", "NUNCIO_PROVIDER", "STATE_DIRECTORY"]
        .iter()
        .for_each(|name| _ = command.env_remove(name));
    command
}

/// Runs a command to its end, which must be a good one. Gives what it printed.
async fn finish(line: &str, directory: &Path) -> String {
    let output = timeout(DEADLINE, shell(line, directory).output()).await;
    let Output { status, stdout, stderr } = output.unwrap_or_else(|_| panic!("{line} does not end")).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(stdout), text(stderr));
    assert!(status.success(), "{line}: {stdout}{stderr}");
    stdout
}

/// An instance at work. Killed by its id when dropped.
struct Running {
    child: Child,
    said: watch::Receiver<String>,
    _readers: JoinSet<()>,
}

impl Running {
    async fn ready(line: &str, directory: &Path) -> Self {
        let mut command = shell(&format!("exec {line} --admin off --workers 1"), directory);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, said) = watch::channel(String::new());
        let mut readers = JoinSet::new();
        readers.spawn(keep(child.stdout.take().unwrap(), sender.clone()));
        readers.spawn(keep(child.stderr.take().unwrap(), sender));
        let mut running = Self { child, said, _readers: readers };
        running.until_says("ready").await;
        running
    }

    async fn until_says(&mut self, text: &str) {
        let said = timeout(DEADLINE, self.said.wait_for(|said| said.contains(text))).await.map(|said| said.is_ok());
        assert!(matches!(said, Ok(true)), "it does not say {text:?}, but\n{}", *self.said.borrow());
    }

    async fn end(mut self) {
        self.child.kill().await.unwrap();
    }
}

async fn keep(output: impl AsyncRead + Unpin, said: watch::Sender<String>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        said.send_modify(|said| *said += &format!("{line}\n"));
    }
}

/// What ends when it is answered.
const ONE_REQUEST: &str = r"printf 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'";

/// A plain program: answers requests with one word.
struct Service {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Service {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut request = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut request).await {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nplain\n";
                        let is_last = request[..count].windows(5).any(|word| word == b"close");
                        if stream.write_all(answer).await.is_err() || is_last {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, _task: task }
    }
}

/// A new connection, one request, one answer.
async fn ask(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let mut open = Open(&mut stream);
    open.ask().await
}

/// A connection that is kept.
struct Open<'a>(&'a mut TcpStream);

impl Open<'_> {
    async fn ask(&mut self) -> std::io::Result<bool> {
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        let mut answer = [0; 44];
        self.0.read_exact(&mut answer).await?;
        Ok(answer.ends_with(b"plain\n"))
    }
}

/// Whether a connection is answered within the deadline.
async fn answers(address: SocketAddr) -> bool {
    timeout(DEADLINE, ask(address)).await.unwrap_or_else(|_| panic!("{address} neither answers nor closes")).unwrap_or(false)
}

/// Addresses on which nobody listens, all of them different.
fn free<const N: usize>() -> [SocketAddr; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

/// The lines of the page's shell blocks.
fn lines_of_the_page() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/mutual-tls.md")).unwrap();
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_does_what_it_says() {
    let etcd = Etcd::start().await;
    let service = Service::start().await;
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let [inbound, shop_only, ambassador, shop, guest] = free();
    let (etcd_at, service_at) = (etcd.address().to_string(), service.address.to_string());
    let mut instances = Vec::new();
    for line in lines_of_the_page() {
        let line =
            line.replace("10.0.0.5:2379", &etcd_at).replace("10.0.0.6:8443", &inbound.to_string()).replace("127.0.0.1:80", &service_at);
        let line = line.replace("10.0.0.6:8444", &shop_only.to_string()).replace("forward 8443", &format!("forward {inbound}"));
        let line = line.replace("forward 8444", &format!("forward {shop_only}")).replace("forward 10000", &format!("forward {shop}"));
        let line = line.replace("forward 10001", &format!("forward {guest}")).replace("apache-A 80", &format!("apache-A {ambassador}"));
        let line = line.replace("etcdctl ", &format!("etcdctl --endpoints {etcd_at} "));
        match line.split(' ').take(2).collect::<Vec<_>>()[..] {
            ["nuncio", "forward" | "ambassador"] => instances.push(Running::ready(&line, at).await),
            ["openssl", _] => {
                let said = finish(&format!("{ONE_REQUEST} | {line} -ign_eof 2>&1"), at).await;
                assert!(said.contains("Verification: OK") && said.contains("plain"), "{said}");
            }
            _ => _ = finish(&line, at).await,
        }
    }
    // A second mesh in its place is refused, and the token of the first is left alone.
    let again = async |out| finish(&format!("nuncio mesh init --store etcd://{etcd_at} --out {out} 2>&1 || true"), at).await;
    assert!(again("another.token").await.contains("there is a mesh at /nuncio-mesh"));
    assert!(again("mesh.token").await.contains("mesh.token is there already"));
    assert!(!at.join("another.token").exists());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(at.join("mesh.token")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let token = mesh::read_token(&nuncio::config::providers::Join::from(at.join("mesh.token").to_str().unwrap().to_owned())).unwrap();
    assert_eq!(token.trust_domain, "nuncio");
    let curl = finish(&format!("curl -sS --max-time 15 http://{ambassador}/"), at).await;
    assert_eq!(curl, "plain\n", "a plain program talks to a plain program");
    assert!(answers(shop).await);
    assert!(!answers(guest).await, "its identity is not taken");
    assert!(!answers(inbound).await, "and nobody without TLS");
    // Nothing in the store can be read by who has no token.
    let kept = finish(&format!("etcdctl --endpoints {etcd_at} get --prefix '' --print-value-only"), at).await;
    assert!(kept.contains("nuncio_mesh") && !kept.contains("PRIVATE KEY") && !kept.contains("CERTIFICATE"), "{kept}");

    // Who has no certificate is refused, and it is said.
    let said = finish(&format!("openssl s_client -connect {inbound} -CAfile ca.pem < /dev/null 2>&1 || true"), at).await;
    assert!(said.contains("Verification: OK"), "{said}");
    instances[0].until_says("peer sent no certificates: it has not joined").await;
    for instance in instances {
        instance.end().await;
    }
}

/// What opens a mesh is safe before the mesh depends on it, and else it is said.
#[tokio::test]
async fn no_token_is_lost() {
    let etcd = Etcd::start().await;
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let init = format!("nuncio mesh init --store etcd://{}/", etcd.address());
    finish(&format!("{init}a --out mesh.token"), at).await;
    std::fs::create_dir(at.join("folder")).unwrap();
    for out in ["/proc/nowhere/mesh.token", "folder", "/dev/full"] {
        let said = finish(&format!("nuncio mesh rotate --join mesh.token --new-token --out {out} 2>&1 && exit 1; [ $? = 1 ]"), at).await;
        assert!(said.contains(&format!("{out}: ")), "{said}");
        finish("nuncio mesh issue x --join mesh.token", at).await;
    }
    let lines = [format!("{init}b"), "nuncio mesh rotate --join mesh.token --new-token".to_owned()];
    for line in lines {
        let said = finish(&format!("{line} 2>&1 >/dev/full && exit 1; [ $? = 1 ]"), at).await;
        assert!(said.contains("The token cannot be written"), "{said}");
        std::fs::write(at.join("said.token"), said.lines().last().unwrap()).unwrap();
        finish("nuncio mesh issue x --join said.token", at).await;
    }
    let left: Vec<_> = std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".partial")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_routes_by_identity() {
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/mutual-tls.toml")).unwrap();
    let etcd = Etcd::start().await;
    let service = Service::start().await;
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    finish(&format!("nuncio mesh init --store etcd://{} --out mesh.token", etcd.address()), at).await;
    let [inbound, outbound, db] = free();
    let mut config = example.clone();
    for (written, here) in [
        ("/run/secrets/mesh.token", at.join("mesh.token").to_str().unwrap()),
        ("0.0.0.0:8443", &inbound.to_string()),
        ("127.0.0.1:8080", &service.address.to_string()),
        ("127.0.0.1:5432", &outbound.to_string()),
        ("10.0.0.7:6432", &db.to_string()),
    ] {
        assert!(config.contains(written), "{written}");
        config = config.replace(written, here);
    }
    std::fs::write(at.join("nuncio.toml"), config).unwrap();
    let said = finish("nuncio check nuncio.toml", at).await;
    assert!(!said.contains("error"), "{said}");
    let line = format!("nuncio forward {db} {} --join mesh.token --join-as db/1 --inbound --peer web", service.address);
    let (other, ours) = (Running::ready(&line, at).await, Running::ready("nuncio run nuncio.toml", at).await);
    assert!(answers(outbound).await, "to the database by mutual TLS");
    let status = async |name: &str, method: &str| {
        finish(&format!("nuncio mesh issue {name} --join mesh.token"), at).await;
        let file = name.replace('/', "-");
        // -k: it is looked for by its identity, which curl knows nothing of.
        let shown = format!("--cert {file}.pem --key {file}.key -k -X {method}");
        finish(&format!("curl -sS --max-time 15 -o /dev/null -w '%{{http_code}}' {shown} https://{inbound}/"), at).await
    };
    assert_eq!((status("shop", "POST").await, status("teams/red", "GET").await), ("200".into(), "200".into()));
    assert_eq!((status("teams/red", "POST").await, status("shopper", "GET").await), ("404".into(), "404".into()));
    for instance in [other, ours] {
        instance.end().await;
    }
}

/// A mesh in this store, whose certificates may live shorter than the command line allows: its token is in `mesh.token` of the directory.
async fn mesh_of(etcd: &Etcd, directory: &Path, life: Duration) -> mesh::Token {
    let token = mesh::create(&format!("etcd://{}", etcd.address()), "test", life).await.unwrap();
    std::fs::write(directory.join("mesh.token"), token.text().as_bytes()).unwrap();
    token
}

const OVERLAP: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_changes_under_load_and_what_the_one_before_signed_is_revoked() {
    let etcd = Etcd::start().await;
    let service = Service::start().await;
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let token = mesh_of(&etcd, at, Duration::from_secs(3600)).await;
    let [inbound, outbound, late] = free();
    let mut far =
        Running::ready(&format!("nuncio forward {inbound} {} --join mesh.token --join-as far --inbound", service.address), at).await;
    let near = Running::ready(&format!("nuncio forward {outbound} {inbound} --join mesh.token --join-as near --peer far"), at).await;
    assert!(answers(outbound).await);
    // Stolen, as it were.
    let stolen = mesh::issue(&token, "stolen").await.unwrap();
    write_issued(at, "stolen", &stolen);
    assert!(knocks(inbound, "stolen", at).await, "it opens the door");

    let mut open = TcpStream::connect(outbound).await.unwrap();
    let mut open = Open(&mut open);
    let until = Instant::now() + OVERLAP + Duration::from_secs(5);
    let mut asked = 0;
    let rotated = mesh::rotate(&token, OVERLAP, true);
    let rotate = async {
        let new = rotated.await.unwrap();
        // The others hear of it while the overlap lasts, by the file alone.
        std::fs::write(at.join("next.token"), new.text().as_bytes()).unwrap();
        std::fs::rename(at.join("next.token"), at.join("mesh.token")).unwrap();
        new
    };
    let load = async {
        while Instant::now() < until {
            assert!(timeout(DEADLINE, ask(outbound)).await.unwrap().unwrap(), "request {asked} on a connection of its own");
            assert!(open.ask().await.unwrap(), "request {asked} on the one that is open");
            asked += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (new, ()) = tokio::join!(rotate, load);
    assert!(asked > 100, "{asked}");
    let renewals = |instance: &Running| instance.said.borrow().matches("has a new certificate").count();
    assert!(renewals(&far) >= 2 && renewals(&near) >= 2, "{} {}", renewals(&far), renewals(&near));

    assert!(!knocks(inbound, "stolen", at).await, "its CA is gone");
    far.until_says("another CA signed it, or one that was rotated out").await;
    assert!(mesh::rotate(&token, OVERLAP, false).await.unwrap_err().to_string().contains("does not open the mesh"));
    // One of another mesh: neither side takes the other, and both say so.
    let other = mesh::create(&format!("etcd://{}/other", etcd.address()), "test", Duration::from_secs(3600)).await.unwrap();
    std::fs::write(at.join("other.token"), other.text().as_bytes()).unwrap();
    let mut stranger = Running::ready(&format!("nuncio forward {late} {inbound} --join other.token"), at).await;
    assert!(!answers(late).await);
    stranger.until_says("invalid peer certificate: UnknownIssuer").await;
    far.until_says("refused").await;
    assert!(mesh::create(&new.store, "test", OVERLAP).await.unwrap_err().to_string().contains("there is a mesh at"));
    for instance in [far, near, stranger] {
        instance.end().await;
    }
}

fn write_issued(directory: &Path, name: &str, (issued, ca): &(mesh::Issued, String)) {
    let write = |end: &str, text: &str| std::fs::write(directory.join(format!("{name}.{end}")), text).unwrap();
    write("pem", &issued.cert);
    write("key", &issued.key);
    write("ca", ca);
}

/// Whether the service answers to who shows this certificate, whatever it thinks of the other side's.
async fn knocks(address: SocketAddr, name: &str, directory: &Path) -> bool {
    let knock = format!("openssl s_client -connect {address} -cert {name}.pem -key {name}.key -ign_eof 2>&1 || true");
    let line = format!("{ONE_REQUEST} | {knock}");
    finish(&line, directory).await.contains("plain")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_stops_neither_traffic_nor_renewals_nor_a_restart_with_a_data_dir() {
    let mut etcd = Etcd::start().await;
    let service = Service::start().await;
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    mesh_of(&etcd, at, Duration::from_secs(20)).await;
    let [inbound, outbound] = free();
    let far = format!("nuncio forward {inbound} {} --join mesh.token --join-as far --inbound --data-dir far", service.address);
    let kept = Running::ready(&far, at).await;
    let near = Running::ready(&format!("nuncio forward {outbound} {inbound} --join mesh.token --join-as near"), at).await;
    assert!(answers(outbound).await);
    etcd.end();
    kept.end().await;
    let kept = Running::ready(&far, at).await;
    assert!(answers(outbound).await, "it goes on with the certificate that it had");
    for file in std::fs::read_dir(at.join("far/snapshots")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"PRIVATE"), "what is kept is sealed");
    }
    // Renewed while the store is down.
    let started = Instant::now();
    while near.said.borrow().matches("has a new certificate").count() < 2 {
        assert!(started.elapsed() < DEADLINE, "a renewal needs no store");
        assert!(answers(outbound).await, "and no connection fails");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(answers(outbound).await);
    kept.end().await;
    near.end().await;
}
