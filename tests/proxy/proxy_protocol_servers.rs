//! The PROXY protocol with others who speak it: HAProxy and curl in front of us, HAProxy and nginx behind.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::proxy_headers::*;
use crate::support::*;

const GET: &str = "GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// The address that clients of these tests come from; proxies come from 127.0.0.1.
const CLIENT: &str = "127.0.0.7";

/// Only other proxies may speak for others.
const REQUIRED: &str = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1/32\"]";

/// A server of another kind, which ends with the test.
struct Other {
    process: Child,
    directory: tempfile::TempDir,
}

impl Other {
    /// Starts `program`, one of those in Debian's `sbin` or `bin`, and waits until `ports` are open.
    async fn start(program: &str, directory: tempfile::TempDir, arguments: &[String], ports: &[SocketAddr]) -> Self {
        let found = ["/usr/sbin", "/usr/bin"].into_iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
        let found = found.unwrap_or_else(|| panic!("{program} is installed: see .ci/deps"));
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new(found);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        let mut other = Self { process: command.spawn().unwrap(), directory };
        for port in ports {
            within("it listens", async {
                while tokio::net::TcpStream::connect(port).await.is_err() {
                    assert!(other.process.try_wait().unwrap().is_none(), "{program} ended: {}", other.log());
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            })
            .await;
        }
        other
    }

    async fn haproxy(directory: tempfile::TempDir, config: &str, ports: &[SocketAddr]) -> Self {
        let path = directory.path().join("haproxy.cfg");
        let all = "global\n maxconn 100\ndefaults\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n";
        std::fs::write(&path, format!("{all}{config}")).unwrap();
        let arguments = ["-db".into(), "-f".into(), path.display().to_string()];
        Self::start("haproxy", directory, &arguments, ports).await
    }

    async fn nginx(directory: tempfile::TempDir, servers: &str, ports: &[SocketAddr]) -> Self {
        let root = directory.path().display().to_string();
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log; events {{}}\nhttp {{\n\
             log_format who '$remote_addr $proxy_protocol_addr $request';\naccess_log {root}/access.log who;\n\
             client_body_temp_path {root}/1; proxy_temp_path {root}/2; fastcgi_temp_path {root}/3; uwsgi_temp_path {root}/4; scgi_temp_path {root}/5;\n\
             set_real_ip_from 127.0.0.0/8; real_ip_header proxy_protocol;\n{servers}\n}}\n"
        );
        std::fs::write(directory.path().join("nginx.conf"), config).unwrap();
        let arguments = ["-p".into(), root.clone(), "-e".into(), format!("{root}/error.log"), "-c".into(), format!("{root}/nginx.conf")];
        Self::start("nginx", directory, &arguments, ports).await
    }

    /// What it says of itself and, in nginx's case, of requests.
    fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        ["log", "error.log", "access.log"].map(read).concat()
    }
}

async fn ask(address: SocketAddr) -> String {
    let mut client = Wire::connect_from(CLIENT.parse().unwrap(), address).await;
    client.send(GET).await;
    client.response().await.text().to_owned()
}

/// A file with certificate and key.
fn pem(directory: &tempfile::TempDir, certificate: &Certificate) -> String {
    let path = directory.path().join("pem");
    std::fs::write(&path, format!("{}{}", certificate.cert, certificate.key)).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_in_front_of_http() {
    let endpoint = Endpoint::replying(|request| {
        let field = |name: &str| request.all(name).join(",");
        response(200, &["x-forwarded-for", "x-forwarded-proto", "x-forwarded-port"].map(field).join(" "))
    })
    .await;
    let config = to(&[endpoint.address], "").replace("[routes.web]", &format!("{REQUIRED}\n[routes.web]"));
    let proxy = Proxy::start(&config).await;
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let pem = pem(&directory, &authority.certify(&["a.test"]));
    let all = "send-proxy-v2-ssl proxy-v2-options authority,crc32c,unique-id";
    let kinds =
        [("http", "send-proxy"), ("http", "send-proxy-v2"), ("http", all), ("tcp", "send-proxy"), ("tcp", "send-proxy-v2"), ("tcp", all)];
    let (mut text, mut fronts) = (String::new(), Vec::new());
    for (number, (mode, option)) in kinds.iter().enumerate() {
        let (plain, tls) = (dead_address().await, dead_address().await);
        text += &format!(
            "listen l{number}\n mode {mode}\n unique-id-format %{{+X}}o-%ci-%cp\n bind {plain}\n bind {tls} ssl crt {pem}\n server s {} {option} check inter 100\n",
            proxy.address()
        );
        fronts.push((plain, tls));
    }
    let ports: Vec<SocketAddr> = fronts.iter().flat_map(|(plain, tls)| [*plain, *tls]).collect();
    let other = Other::haproxy(directory, &text, &ports).await;
    for ((plain, tls), (mode, option)) in fronts.iter().zip(kinds) {
        assert_eq!(ask(*plain).await, format!("{CLIENT} http {}", plain.port()), "{mode} {option}: {}", other.log());
        let mut client = connect_tls(*tls, "a.test", authority.client(&[])).await.unwrap();
        client.wire.send(GET).await;
        let scheme = if option == all { "https" } else { "http" };
        assert_eq!(client.wire.response().await.text(), format!("127.0.0.1 {scheme} {}", tls.port()), "{mode} {option}");
    }
    endpoint.assert_clean();
}

/// The TLVs that HAProxy sends, through us to an endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn haproxy_in_front_of_tcp() {
    let recording = Recording::echo().await;
    let config = format!(
        "[listeners.web]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n{REQUIRED}\n[tcp_routes.web]\nlistener = \"web\"\nupstream = \"web\"\n\
         [upstreams.web]\nproxy_protocol = \"v2\"\nendpoints = [\"{}\"]\n",
        recording.endpoint.address
    );
    let proxy = Proxy::start(&config).await;
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let pem = pem(&directory, &authority.certify(&["a.test"]));
    let (v1, v2) = (dead_address().await, dead_address().await);
    let text = format!(
        "listen one\n mode tcp\n bind {v1}\n server s {0} send-proxy\n\
         listen two\n mode tcp\n unique-id-format id-%ci\n bind {v2} ssl crt {pem} alpn h2,http/1.1\n\
         server s {0} send-proxy-v2 proxy-v2-options ssl,ssl-cipher,authority,crc32c,unique-id\n",
        proxy.address()
    );
    let other = Other::haproxy(directory, &text, &[v1, v2]).await;
    // Connections that the wait for its ports made are told of, too.
    let of_client = |ip: &str| recording.told().into_iter().find(|told| told.addresses().0.ip().to_string() == ip && told.tlvs.len() < 2);
    let mut client = Wire::connect_from(CLIENT.parse().unwrap(), v1).await;
    client.send("hello").await;
    assert_eq!(&client.read(5).await[..], b"hello", "{}", other.log());
    let told = of_client(CLIENT).unwrap();
    assert_eq!((told.addresses().1, told.tlvs.len(), told.tlvs[&UNIQUE_ID].len()), (v1, 1, 32), "{told:?}");
    let mut client = connect_tls(v2, "a.test", authority.client(&["h2"])).await.unwrap().wire;
    client.send("hello").await;
    assert_eq!(&client.read(5).await[..], b"hello", "{}", other.log());
    let told = recording.told().into_iter().find(|told| told.tlvs.contains_key(&SSL)).unwrap();
    assert_eq!(told.addresses().1, v2);
    assert_eq!(
        (&told.tlvs[&AUTHORITY][..], &told.tlvs[&UNIQUE_ID][..], &told.tlvs[&ALPN][..]),
        (&b"a.test"[..], &b"id-127.0.0.1"[..], &b"h2"[..])
    );
    let about = String::from_utf8_lossy(&told.tlvs[&SSL]).into_owned();
    assert!(told.tlvs[&SSL][0] == 1 && about.contains("TLSv1.3") && about.contains("TLS_AES"), "{about:?}");
    assert_eq!(told.tlvs.len(), 4, "its checksum was of another header: {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_behind() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let pem = pem(&directory, &authority.certify(&["endpoint.test"]));
    let tls = format!("tls = {{ server_name = \"endpoint.test\", ca = '''{}''' }}\n", authority.pem);
    let (plain, secure, h2c) = (dead_address().await, dead_address().await, dead_address().await);
    // Whom it takes for the client, where that has connected to, and what it was told beside.
    let say = "http-request return status 200 content-type text/plain lf-string \"%[src] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id,length]\"";
    let text = format!(
        "frontend plain\n mode http\n bind {plain} accept-proxy\n {say}\n\
         frontend secure\n mode http\n bind {secure} accept-proxy ssl crt {pem} alpn h2,http/1.1\n {say}\n\
         frontend h2c\n mode http\n bind {h2c} accept-proxy proto h2\n {say}\n"
    );
    let other = Other::haproxy(directory, &text, &[plain, secure, h2c]).await;
    let certificate = authority.certify(&["a.test"]);
    for version in ["v1", "v2"] {
        for (endpoint, settings) in [
            (plain, String::new()),
            (secure, tls.clone()),
            (secure, format!("protocol = \"h2\"\n{tls}")),
            (h2c, "protocol = \"h2c\"\n".into()),
        ] {
            let health = "health = { http = \"/up\", interval = \"50ms\", timeout = \"5s\" }\n";
            let settings = format!("proxy_protocol = \"{version}\"\n{health}{settings}");
            let config = to(&[endpoint], &settings);
            let proxy = Proxy::start(&config).await;
            let port = proxy.address().port();
            let id = if version == "v2" { 32 } else { 0 };
            let answer = ask(proxy.address()).await;
            let is_expected = answer.starts_with(&format!("{CLIENT} {port}  ")) && (version == "v1" || answer.ends_with(&format!(" {id}")));
            assert!(is_expected, "{version} {settings}: {answer:?} {}", other.log());
            let state = proxy.server.table().upstreams["web"].endpoints[0].state.clone();
            eventually("it is up", || state.health() == nuncio::routing::endpoint::Health::Up).await;
            // And with TLS of the client's own.
            let config = config.replace("[routes.web]", "tls = {}\n[routes.web]");
            let proxy = Proxy::start(&(config + &certificate.toml("a"))).await;
            let mut client = connect_tls(proxy.address(), "a.test", authority.client(&[])).await.unwrap();
            client.wire.send(GET).await;
            let answer = client.wire.response().await.text().to_owned();
            let name = if version == "v2" { "a.test" } else { "" };
            assert!(answer.starts_with(&format!("127.0.0.1 {} {name} ", proxy.address().port())), "{version} {settings}: {answer:?}");
        }
        // The same endpoint behind a TCP listener.
        let config = format!(
            "[listeners.web]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n[tcp_routes.web]\nlistener = \"web\"\nupstream = \"web\"\n\
             [upstreams.web]\nproxy_protocol = \"{version}\"\nendpoints = [\"{plain}\"]\n"
        );
        let proxy = Proxy::start(&config).await;
        assert!(ask(proxy.address()).await.starts_with(&format!("{CLIENT} {} ", proxy.address().port())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_behind() {
    let (plain, secure) = (dead_address().await, dead_address().await);
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let pem = pem(&directory, &authority.certify(&["endpoint.test"]));
    let say = "location / { return 200 \"$remote_addr $proxy_protocol_addr $proxy_protocol_server_port\"; }";
    let servers = format!(
        "server {{ listen {plain} proxy_protocol; {say} }}\n\
         server {{ listen {secure} ssl http2 proxy_protocol; ssl_certificate {pem}; ssl_certificate_key {pem}; {say} }}"
    );
    let other = Other::nginx(directory, &servers, &[plain, secure]).await;
    let tls = format!("tls = {{ server_name = \"endpoint.test\", ca = '''{}''' }}\n", authority.pem);
    for version in ["v1", "v2"] {
        for (endpoint, settings) in [(plain, String::new()), (secure, tls.clone()), (secure, format!("protocol = \"h2\"\n{tls}"))] {
            let health = "health = { http = \"/up\", interval = \"50ms\", timeout = \"5s\" }\n";
            let proxy = Proxy::start(&to(&[endpoint], &format!("proxy_protocol = \"{version}\"\n{health}{settings}"))).await;
            let expected = format!("{CLIENT} {CLIENT} {}", proxy.address().port());
            assert_eq!(ask(proxy.address()).await, expected, "{version} {settings}: {}", other.log());
            let state = proxy.server.table().upstreams["web"].endpoints[0].state.clone();
            eventually("it is up", || state.health() == nuncio::routing::endpoint::Health::Up).await;
        }
    }
    // Of our checks it takes us for the client, and of requests their client.
    let lines = || other.log().lines().filter(|line| line.contains("GET /")).map(ToOwned::to_owned).collect::<Vec<_>>();
    eventually("requests are logged", || lines().iter().filter(|line| line.contains("GET /x ")).count() == 6).await;
    for line in lines() {
        let is_check = line.contains("GET /up");
        assert!(line.starts_with(if is_check { "127.0.0.1 " } else { CLIENT }), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_in_front() {
    let endpoint = Endpoint::replying(|request| response(200, request.field("x-forwarded-for").unwrap_or("-"))).await;
    let authority = Authority::new();
    let trust = REQUIRED.replace("127.0.0.1/32", "127.0.0.0/8");
    for (scheme, tls) in [("http", ""), ("https", "tls = {}\n")] {
        let config = to(&[endpoint.address], "").replace("[routes.web]", &format!("{trust}\n{tls}[routes.web]"));
        let proxy = Proxy::start(&(config + &authority.certify(&["a.test"]).toml("a"))).await;
        let port = proxy.address().port();
        let curl = async |more: &[&str]| {
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--max-time", "20", "--interface", CLIENT, "--insecure"]).args(more);
            command.arg("--resolve").arg(format!("a.test:{port}:127.0.0.1")).arg(format!("{scheme}://a.test:{port}/"));
            let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("curl is installed: see .ci/deps");
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        assert_eq!(curl(&["--haproxy-protocol"]).await, (true, CLIENT.to_owned()), "{scheme}");
        assert!(!curl(&[]).await.0, "{scheme} without a header");
    }
}
