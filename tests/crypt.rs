//! Values sealed by crypt, in a real etcd: what crypt, gpg and `nuncio seal` write, each reads of the others; and what a provider makes
//! of it.

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nuncio::config::providers::{ConsulConfig, EtcdConfig, KeyringConfig};
use nuncio::config::{Problem, Snapshot};
use nuncio::discovery::{ConsulProvider, Etcd2Provider, EtcdProvider};
use nuncio::{Name, Server};
use rustls::pki_types::ServerName;
use support::consul::Consul;
use support::etcd::Etcd;
use support::etcd2::Etcd2Writer;
use support::gpg::{CURVE, Gpg, RSA, pipe};
use support::http1::{AfterResponse, Connection, Endpoint};
use support::{DEADLINE, Observed, endpoints};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const ONE: &str = "/nuncio/upstreams/api/endpoints/1";
/// In no message, log or problem.
const SECRET: &str = "geheim-4711";

fn crypt(arguments: &[&str]) -> Result<String, String> {
    pipe(Command::new("crypt-xordataexchange").args(arguments), b"").map(|output| String::from_utf8_lossy(&output).into_owned())
}

fn nuncio(arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    pipe(Command::new(env!("CARGO_BIN_EXE_nuncio")).args(arguments), input)
}

fn sealed_for(gpg: &Gpg, value: &str) -> String {
    let sealed = nuncio(&["seal", "--key", text(&gpg.public())], value.as_bytes()).expect("it seals");
    String::from_utf8(sealed).expect("base64").trim_end().to_owned()
}

/// What `gzip | gpg -e | base64` makes.
fn sealed_by_gpg(gpg: &Gpg, options: &[&str], value: &str) -> String {
    let zipped = pipe(Command::new("gzip").arg("-c"), value.as_bytes()).expect("gzip");
    STANDARD.encode(gpg.encrypt(options, &zipped))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn config(url: String, keyring: Option<KeyringConfig>) -> EtcdConfig {
    EtcdConfig { endpoints: vec![url], keyring, ..EtcdConfig::default() }
}

fn observe(etcd: &Etcd, keyring: Option<KeyringConfig>) -> Observed {
    Observed::new(Box::new(Etcd2Provider::new(Name::literal("etcd2"), config(etcd.url(), keyring))))
}

async fn started() -> (Etcd, Etcd2Writer) {
    let etcd = support::etcd2::start().await;
    let writer = Etcd2Writer::new(etcd.address());
    (etcd, writer)
}

/// The problem in the place of endpoint 1.
fn problem(snapshot: &Snapshot) -> Option<&Problem> {
    snapshot.upstreams.get("api")?.endpoints.get("1")?.problem()
}

async fn until_problem(observed: &Observed, message: &str) -> Problem {
    let has = |snapshot: &Snapshot| problem(snapshot).is_some_and(|problem| problem.message.contains(message));
    problem(&*observed.until(message, has).await).expect("it was there").clone()
}

#[tokio::test]
async fn crypt_and_nuncio_read_each_other_through_etcd() {
    let (etcd, writer) = started().await;
    let gpg = Gpg::with_key(RSA, None);
    let (public, secret) = (gpg.public(), gpg.secret(""));
    let observed = observe(&etcd, Some(KeyringConfig::new(&secret)));

    let value = gpg.file("value", b"10.0.0.1:80");
    crypt(&["set", "-endpoint", &etcd.url(), "-keyring", text(&public), ONE, text(&value)]).expect("crypt writes");
    observed.until("what crypt wrote", |snapshot| endpoints(snapshot, "api") == ["10.0.0.1:80"]).await;

    writer.put(ONE, &sealed_for(&gpg, "10.0.0.2:80")).await;
    observed.until("what nuncio wrote", |snapshot| endpoints(snapshot, "api") == ["10.0.0.2:80"]).await;
    let read = crypt(&["get", "-endpoint", &etcd.url(), "-secret-keyring", text(&secret), ONE]).expect("crypt reads");
    assert_eq!(read.trim_end(), "10.0.0.2:80");
    observed.stop().await;
}

#[tokio::test]
async fn gpg_and_nuncio_read_each_other() {
    for kind in [RSA, CURVE] {
        let gpg = Gpg::with_key(kind, None);
        let secret = gpg.secret("");
        for options in [&[][..], &["--compress-algo", "none"], &["--compress-algo", "zlib"], &["--throw-keyids"]] {
            let sealed = sealed_by_gpg(&gpg, options, SECRET);
            let opened =
                nuncio(&["open", "--keyring", text(&secret)], sealed.as_bytes()).unwrap_or_else(|error| panic!("{options:?}: {error}"));
            assert_eq!(opened, SECRET.as_bytes(), "{options:?}");
        }
        let armored = gpg.encrypt(&["--armor"], SECRET.as_bytes());
        assert_eq!(nuncio(&["open", "--keyring", text(&secret), "-"], &armored), Ok(SECRET.into()));

        let message = STANDARD.decode(sealed_for(&gpg, SECRET)).expect("base64");
        let opened = pipe(Command::new("gzip").arg("-dc"), &gpg.decrypt(&message)).expect("gzip");
        assert_eq!(opened, SECRET.as_bytes());
    }
}

#[tokio::test]
async fn keys_with_a_passphrase() {
    let gpg = Gpg::with_key(CURVE, Some(SECRET));
    let secret = gpg.secret(SECRET);
    let sealed = sealed_for(&gpg, "10.0.0.1:80");
    let without = nuncio(&["open", "--keyring", text(&secret)], sealed.as_bytes()).unwrap_err();
    assert!(without.contains("none is given") && without.contains("secret.asc"), "{without}");
    let passphrase = gpg.file("passphrase", format!("{SECRET}\n").as_bytes());
    let with = ["open", "--keyring", text(&secret), "--passphrase-file", text(&passphrase)];
    assert_eq!(nuncio(&with, sealed.as_bytes()), Ok(b"10.0.0.1:80".to_vec()));
    let wrong = gpg.file("wrong", b"falsch");
    let refused = nuncio(&["open", "--keyring", text(&secret), "--passphrase-file", text(&wrong)], sealed.as_bytes()).unwrap_err();
    assert!(refused.contains("the passphrase is not") && !refused.contains("falsch"), "{refused}");

    let (etcd, writer) = started().await;
    writer.put(ONE, &sealed).await;
    let observed = observe(&etcd, Some(KeyringConfig { path: secret, passphrase_file: Some(passphrase) }));
    observed.until("the endpoint", |snapshot| endpoints(snapshot, "api") == ["10.0.0.1:80"]).await;
    observed.stop().await;
}

#[tokio::test]
async fn what_cannot_be_opened_is_a_problem_that_says_nothing_of_what_it_is() {
    let (etcd, writer) = started().await;
    let (ours, other) = (Gpg::with_key(CURVE, None), Gpg::with_key(CURVE, None));
    let ring = ours.file("ring", b"");
    std::fs::copy(ours.secret(""), &ring).expect("a copy");
    let observed = observe(&etcd, Some(KeyringConfig::new(&ring)));

    writer.put(ONE, &sealed_for(&other, "10.0.0.1:80")).await;
    let found = until_problem(&observed, "sealed for other keys").await;
    let origin = found.origin.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(origin.starts_with(&format!("etcd2: key {ONE}, revision")), "{origin}");
    assert!(found.help.is_some_and(|help| help.contains("nuncio seal")));

    let mut changed = sealed_for(&ours, "10.0.0.1:80").into_bytes();
    let at = changed.len() - 8;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    writer.put(ONE, &String::from_utf8(changed).expect("base64")).await;
    until_problem(&observed, "damaged").await;

    // What is wrong with what was sealed is not told with its words.
    writer.put(ONE, &sealed_for(&ours, &format!(r#"{{"address":"10.0.0.1:80","{SECRET}":"{SECRET}"}}"#))).await;
    let found = until_problem(&observed, "does not make sense: see line 1, column").await;
    assert!(!format!("{found:?} {}", found.render(false)).contains(SECRET), "{found:?}");

    // Another ring in the place of the first opens the next value.
    std::fs::copy(other.secret(""), &ring).expect("a copy");
    writer.put(ONE, &sealed_for(&other, "10.0.0.2:80")).await;
    observed.until("the other ring", |snapshot| endpoints(snapshot, "api") == ["10.0.0.2:80"]).await;
    std::fs::remove_file(&ring).expect("it is there");
    writer.put(ONE, &sealed_for(&other, "10.0.0.3:80")).await;
    until_problem(&observed, "No such file").await;
    observed.stop().await;

    let blind = observe(&etcd, None);
    let found = until_problem(&blind, "its provider has no keys").await;
    assert!(found.help.is_some_and(|help| help.contains("`keyring`")));
    blind.stop().await;
}

#[tokio::test]
async fn another_ring_opens_what_is_there() {
    let etcd = Etcd::start().await;
    let mut store = etcd.writer().await;
    let gpg = Gpg::with_key(CURVE, None);
    store.put(ONE, &sealed_for(&gpg, "10.0.0.1:80")).await;
    let ring = gpg.file("ring", b"");
    let config = config(etcd.url(), Some(KeyringConfig::new(&ring)));
    let observed = Observed::new(Box::new(EtcdProvider::new(Name::literal("etcd"), config)));
    until_problem(&observed, "there are no keys to open it").await;
    std::fs::copy(gpg.secret(""), &ring).expect("a copy");
    observed.until("the endpoint, without any change in the store", |snapshot| endpoints(snapshot, "api") == ["10.0.0.1:80"]).await;
    observed.stop().await;
}

#[tokio::test]
async fn consul_too() {
    let consul = Consul::start().await;
    let gpg = Gpg::with_key(CURVE, None);
    consul.put(&[(ONE.trim_start_matches('/').into(), sealed_for(&gpg, "10.0.0.1:80"))]);
    let keyring = Some(KeyringConfig::new(gpg.secret("")));
    let config = ConsulConfig { endpoints: vec![consul.stub().url()], keyring, ..ConsulConfig::default() };
    let observed = Observed::new(Box::new(ConsulProvider::new(Name::literal("consul"), config)));
    observed.until("the endpoint", |snapshot| endpoints(snapshot, "api") == ["10.0.0.1:80"]).await;
    observed.stop().await;
}

/// An endpoint and a certificate with its key, none of which the store shows, are served; what is broken later changes nothing.
#[tokio::test]
async fn an_endpoint_and_a_key_sealed_in_etcd_are_served() {
    let etcd = Etcd::start().await;
    let mut store = etcd.writer().await;
    let gpg = Gpg::with_key(RSA, None);
    let endpoint = Endpoint::start(7, AfterResponse::Keep).await;
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
    let key = made.signing_key.serialize_pem();
    let certificate = serde_json::json!({ "cert": made.cert.pem(), "key": key }).to_string();
    let pairs = [
        ("listeners/web", r#"{"address":"127.0.0.1:0","tls":{"certificates":["site"]}}"#.to_owned()),
        ("routes/app", r#"{"match":"Host(\"a.test\")","upstream":"app"}"#.to_owned()),
        ("certificates/site", sealed_for(&gpg, &certificate)),
        ("upstreams/app/endpoints/1", sealed_for(&gpg, &endpoint.address.to_string())),
    ];
    store.put_at_once(&pairs.map(|(key, value)| (format!("/nuncio/{key}"), value))).await;

    let config = config(etcd.url(), Some(KeyringConfig::new(gpg.secret(""))));
    let server = Server::builder().workers(1).provider(EtcdProvider::new(Name::literal("etcd"), config)).start().expect("a server starts");
    tokio::time::timeout(DEADLINE, server.ready()).await.expect("it is ready");
    assert_eq!(server.status().problems(), []);
    let address = server.local_addr(&Name::literal("web")).expect("the listener is open");
    let get = async || {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(address).await.expect("it accepts");
        let name = ServerName::try_from("a.test").expect("a name");
        let stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.expect("a handshake");
        let mut connection = Connection::over(stream);
        connection.exchange("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.expect("an answer").body
    };
    assert_eq!(get().await, "7 a.test -");

    let generation = server.table().generation;
    store.put("/nuncio/certificates/site", &sealed_for(&Gpg::with_key(CURVE, None), &certificate)).await;
    tokio::time::timeout(DEADLINE, server.published(generation + 1)).await.expect("the next table");
    let problems = server.status().problems();
    assert!(problems.iter().any(|problem| problem.message.contains("other keys")), "{problems:?}");
    assert!(!format!("{problems:?}").contains(key.lines().nth(1).expect("a body")));
    assert_eq!(get().await, "7 a.test -", "the last good certificate stays");
    server.shutdown().await;
}
