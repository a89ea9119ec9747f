//! Mutual TLS: who clients are, whom we show which certificate, and what becomes of both when a CA changes.

use std::net::SocketAddr;

use http_body_util::BodyExt;
use nuncio::config::Pem;
use nuncio::{Name, RoutingConfig};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn web(id: &str) -> String {
    format!("spiffe://mesh.test/{id}")
}

/// An HTTP listener `web` with this `client_auth`, of whose clients `web` and those below `db` have routes of their own.
fn by_identity(clients: &str, [to_web, to_db]: [&Endpoint; 2], site: &str) -> String {
    format!(
        "[listeners.web]\naddress = \"127.0.0.1:0\"\ntls = {{ client_auth = {clients} }}\n\
         [routes.web]\nmatch = 'ClientCert(\"spiffe://mesh.test/web\", \"web.mesh.test\")'\nupstream = \"web\"\n\
         [routes.db]\nmatch = 'ClientCert(\"spiffe://mesh.test/db/*\")'\nupstream = \"db\"\n\
         [upstreams.web]\nendpoints = [\"{}\"]\n[upstreams.db]\nendpoints = [\"{}\"]\n{site}",
        to_web.address, to_db.address
    )
}

/// The status and body of one request; None: there is no answer.
async fn ask(address: SocketAddr, client: rustls::ClientConfig) -> Option<(u16, String)> {
    let mut client = connect_tls(address, "a.test", client).await.ok()?;
    client.wire.try_send(GET).await.ok()?;
    let response = client.wire.try_response().await.ok()?;
    Some((response.status(), response.text().to_string()))
}

fn with_ca(mut certificate: String, ca: &Authority) -> String {
    certificate += &format!("ca = '''{}'''\n", ca.pem);
    certificate
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_routed_by_the_clients_certificate() {
    let (to_web, to_db) = (Endpoint::answering("web").await, Endpoint::answering("db").await);
    let (ours, theirs) = (Authority::new(), Authority::new());
    let site = with_ca(ours.certify(&["a.test"]).toml("a"), &ours);
    let proxy = Proxy::start(&by_identity("{}", [&to_web, &to_db], &site)).await;
    let as_one = |names: &[&str]| ask(proxy.address(), ours.client_as(&ours.certify(names), &[]));
    let answered = |text: &str| Some((200, text.to_string()));
    assert_eq!(as_one(&[&web("web")]).await, answered("web"));
    assert_eq!(as_one(&[&web("db/1/2")]).await, answered("db"));
    assert_eq!(as_one(&["web.mesh.test"]).await, answered("web"));
    assert_eq!(as_one(&[&web("db")]).await.unwrap().0, 404);
    assert_eq!(as_one(&[&web("web"), &web("db/1")]).await.unwrap().0, 404, "two ids are none");
    assert_eq!(ask(proxy.address(), ours.client(&[])).await, None, "without a certificate");
    assert_eq!(ask(proxy.address(), ours.client_as(&theirs.certify(&[&web("web")]), &[])).await, None, "of another CA");

    // By HTTP/2, and with each request of a connection that is kept.
    let shown = ours.certify(&[&web("db/1")]);
    let client = connect_tls(proxy.address(), "a.test", ours.client_as(&shown, &["h2"])).await.unwrap();
    let mut client = h2_client(client.wire).await;
    for _ in 0..2 {
        let request = http::Request::get("https://a.test/").body(body("")).unwrap();
        let response = within("a response", client.send_request(request)).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "db");
    }
    let mut client = connect_tls(proxy.address(), "a.test", ours.client_as(&shown, &[])).await.unwrap();
    for _ in 0..2 {
        client.wire.send(GET).await;
        assert_eq!(client.wire.response().await.text(), "db");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_may_be_optional_and_a_bad_one_is_refused_all_the_same() {
    let (to_web, rest) = (Endpoint::answering("web").await, Endpoint::answering("rest").await);
    let (ours, theirs) = (Authority::new(), Authority::new());
    let optional = format!("{{ mode = \"optional\", ca = '''{}''' }}", ours.pem);
    let config = by_identity(&optional, [&to_web, &rest], &ours.certify(&["a.test"]).toml("a"));
    let proxy = Proxy::start(&config.replace("match = 'ClientCert(\"spiffe://mesh.test/db/*\")'", "match = 'PathPrefix(\"/\")'")).await;
    let text = async |client| ask(proxy.address(), client).await.map(|(_, text)| text);
    assert_eq!(text(ours.client(&[])).await.as_deref(), Some("rest"));
    assert_eq!(text(ours.client_as(&ours.certify(&[&web("web")]), &[])).await.as_deref(), Some("web"));
    assert_eq!(text(ours.client_as(&theirs.certify(&[&web("web")]), &[])).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ca_counts_for_new_connections_also_of_clients_that_would_resume() {
    let (to_web, to_db) = (Endpoint::answering("web").await, Endpoint::answering("db").await);
    let (old, new) = (Authority::new(), Authority::new());
    let site = old.certify(&["a.test"]);
    let mut proxy = Proxy::start(&by_identity("{}", [&to_web, &to_db], &with_ca(site.toml("a"), &old))).await;
    // It keeps what it may resume with.
    let client = old.client_as(&old.certify(&[&web("web")]), &[]);
    let mut open = connect_tls(proxy.address(), "a.test", client.clone()).await.unwrap();
    open.wire.send(GET).await;
    assert_eq!(open.wire.response().await.text(), "web");
    let certificate = |config: &mut RoutingConfig, ca: String| {
        config.certificates.get_mut(&Name::literal("a")).unwrap().ca = Some(Pem::new(ca));
    };
    // Both count for a while.
    proxy.update(|config| certificate(config, old.pem.clone() + &new.pem)).await;
    assert!(ask(proxy.address(), client.clone()).await.is_some());
    proxy.update(|config| certificate(config, new.pem.clone())).await;
    assert_eq!(ask(proxy.address(), client).await, None, "its CA is gone");
    assert!(ask(proxy.address(), old.client_as(&new.certify(&[&web("web")]), &[])).await.is_some());
    open.wire.send(GET).await;
    assert_eq!(open.wire.response().await.text(), "web", "what is open stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_routes_look_at_the_certificate_once_tls_is_ended() {
    let authority = Authority::new();
    let passed = authority.certify(&["passed.test"]);
    let says = async |name: &'static str, tls| {
        let serve = move |mut conn: Conn| async move {
            conn.wire.send(name).await;
            conn.wire.rest().await;
        };
        Endpoint::start_on("127.0.0.1:0".parse().unwrap(), tls, serve).await
    };
    let (one, other, through) = (says("1", None).await, says("2", None).await, says("3", Some(passed.acceptor(&[]))).await);
    let mut config = "[listeners.tcp]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\ntls = { client_auth = {} }\n".to_string();
    for (name, rule, endpoint) in [
        ("one", "match = 'ClientCert(\"spiffe://mesh.test/one\")'", &one),
        ("other", "match = 'ClientCert(\"spiffe://mesh.test/o/*\") && Sni(\"a.test\")'", &other),
        ("through", "match = 'Sni(\"passed.test\")'\npassthrough = true", &through),
    ] {
        config += &format!("[tcp_routes.{name}]\nlistener = \"tcp\"\nupstream = \"{name}\"\n{rule}\n");
        config += &format!("[upstreams.{name}]\nendpoints = [\"{}\"]\n", endpoint.address);
    }
    let proxy = Proxy::start(&(config + &with_ca(authority.certify(&["a.test"]).toml("a"), &authority))).await;
    let hears = async |id: &str, sni: &str| {
        let shown = authority.certify(&[&web(id)]);
        let mut client = connect_tls(proxy.address_of("tcp"), sni, authority.client_as(&shown, &[])).await.unwrap();
        client.wire.try_read(1).await
    };
    assert_eq!(hears("one", "a.test").await.unwrap(), "1");
    assert_eq!(hears("o/1", "a.test").await.unwrap(), "2");
    assert_eq!(hears("nobody", "a.test").await, None);
    assert_eq!(hears("nobody", "passed.test").await.unwrap(), "3");
}

/// Two of us, with mutual TLS in between: what ambassadors do.
struct Pair {
    near: Proxy,
    far: Proxy,
    _endpoint: Endpoint,
}

impl Pair {
    /// `near` shows a certificate of `authority`, and wants `far` to be `server_id`.
    async fn start(authority: &Authority, server_id: &str) -> Self {
        let endpoint = Endpoint::answering("far").await;
        let far = format!(
            "[listeners.in]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\ntls = {{ client_auth = {{}} }}\n\
             [tcp_routes.in]\nlistener = \"in\"\nupstream = \"in\"\nmatch = 'ClientCert(\"spiffe://mesh.test/near\")'\n\
             [upstreams.in]\nendpoints = [\"{}\"]\n{}",
            endpoint.address,
            with_ca(authority.certify(&[&web("far")]).toml("mesh"), authority)
        );
        let far = Proxy::start(&far).await;
        let tls =
            format!("tls = {{ certificate = \"mesh\", server_id = \"{server_id}\" }}\nhealth = {{ tcp = true, interval = \"20ms\" }}");
        let near = to(&[far.address_of("in")], &tls) + &with_ca(authority.certify(&[&web("near")]).toml("mesh"), authority);
        Self { near: Proxy::start(&near).await, far, _endpoint: endpoint }
    }

    async fn status(&self) -> u16 {
        self.near.get("/").await.status()
    }
}

fn renew(config: &mut RoutingConfig, of: &Certificate, ca: &str) {
    let certificate = config.certificates.get_mut(&Name::literal("mesh")).unwrap();
    (certificate.cert, certificate.key) = (Pem::new(of.cert.clone()), Pem::new(of.key.clone()));
    certificate.ca = Some(Pem::new(ca.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_see_our_certificate_and_we_see_who_they_are() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut pair = Pair::start(&old, "spiffe://mesh.test/*").await;
    assert_eq!(pair.status().await, 200);
    // Trust first, then certificates, then the old CA is gone: no request fails.
    let both = old.pem.clone() + &new.pem;
    let (near, far) = (new.certify(&[&web("near")]), new.certify(&[&web("far")]));
    for (by, ca) in [(&old, &both), (&new, &both), (&new, &new.pem)] {
        let (near, far) = match std::ptr::eq(by, &new) {
            true => (&near, &far),
            false => (&old.certify(&[&web("near")]), &old.certify(&[&web("far")])),
        };
        pair.far.update(|config| renew(config, far, ca)).await;
        assert_eq!(pair.status().await, 200);
        pair.near.update(|config| renew(config, near, ca)).await;
        assert_eq!(pair.status().await, 200);
    }
    // One that stays with the old CA, or is somebody else, is refused.
    pair.near.update(|config| renew(config, &old.certify(&[&web("near")]), &both)).await;
    assert_eq!(pair.status().await, 502);
    pair.near.update(|config| renew(config, &new.certify(&[&web("other")]), &both)).await;
    assert_eq!(pair.status().await, 502);
    pair.near.update(|config| renew(config, &near, &both)).await;
    assert_eq!(pair.status().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_somebody_else_gets_no_request() {
    let authority = Authority::new();
    let pair = Pair::start(&authority, "spiffe://mesh.test/other").await;
    let is_down = || pair.near.server.table().upstreams["web"].endpoints[0].state.health() == nuncio::routing::endpoint::Health::Down;
    eventually("the health check sees it too", is_down).await;
    assert_eq!(pair.status().await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_said_and_closed() {
    let endpoint = Endpoint::answering("ok").await;
    let authority = Authority::new();
    let good = to(&[endpoint.address], "") + &authority.certify(&["a.test"]).toml("a");
    let mut proxy = Proxy::start(&good).await;
    let messages = |proxy: &Proxy| proxy.server.status().problems().iter().map(|it| it.message.clone()).collect::<Vec<_>>();
    proxy.replace(&good.replace("PathPrefix(\"/\")", "ClientCert(\"spiffe://mesh.test/x\")")).await;
    assert_eq!(messages(&proxy), ["its rule asks for `ClientCert`, and no listener of it asks clients for a certificate"]);
    proxy.replace(&good.replace("[routes.web]", "tls = { client_auth = {} }\n[routes.web]")).await;
    assert!(messages(&proxy)[0].contains("has no `ca`"), "{:?}", messages(&proxy));
    assert!(connect_tls(proxy.address(), "a.test", authority.client(&[])).await.is_err(), "nobody could be verified, so nobody gets in");
    proxy
        .replace(&(good.clone() + "[routes.x]\nmatch = 'Path(\"/x\")'\nupstream = \"x\"\n[upstreams.x]\ntls = { certificate = \"b\" }\n"))
        .await;
    assert!(messages(&proxy).contains(&"there is no certificate `b`".to_string()), "{:?}", messages(&proxy));
    assert_eq!((proxy.get("/x").await.status(), proxy.get("/").await.status()), (503, 200));
}

/// With TLS 1.3 an endpoint refuses a certificate when the handshake is over for us: it is told from other ends of a connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_refuses_our_certificate_is_counted() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let pair = Pair::start(&ours, "spiffe://mesh.test/*").await;
    let mesh = with_ca(theirs.certify(&[&web("near")]).toml("mesh"), &ours);
    let near = format!(
        "[listeners.tcp]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n[tcp_routes.tcp]\nlistener = \"tcp\"\nupstream = \"far\"\n\
         [upstreams.far]\nendpoints = [\"{}\"]\ntls = {{ certificate = \"mesh\", server_id = \"spiffe://mesh.test/far\" }}\n{mesh}",
        pair.far.address_of("in")
    );
    let near = Proxy::start(&near).await;
    let mut client = Wire::connect(near.address_of("tcp")).await;
    client.send(GET).await;
    client.ended().await;
    let counted = "nuncio_upstream_errors_total{upstream=\"far\",cause=\"certificate_refused\"} 1";
    eventually("the refusal is counted", || near.server.metrics().contains(counted)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cas_in_files_are_exchanged_without_a_restart() {
    let (to_web, to_db) = (Endpoint::answering("web").await, Endpoint::answering("db").await);
    let (old, new) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let (of_clients, of_mesh) = (directory.path().join("clients.pem"), directory.path().join("mesh.pem"));
    std::fs::write(&of_clients, &old.pem).unwrap();
    std::fs::write(&of_mesh, &old.pem).unwrap();
    let site = old.certify(&["a.test"]);
    let named = format!("{}ca = '{}'\n", site.toml("a"), of_mesh.display());
    let own = Proxy::start(&by_identity(&format!("{{ ca = '{}' }}", of_clients.display()), [&to_web, &to_db], &site.toml("a"))).await;
    let shared = Proxy::start(&by_identity("{}", [&to_web, &to_db], &named)).await;
    let (before, after) = (old.client_as(&old.certify(&[&web("web")]), &[]), old.client_as(&new.certify(&[&web("web")]), &[]));
    for (proxy, file) in [(&own, &of_clients), (&shared, &of_mesh)] {
        assert!(ask(proxy.address(), before.clone()).await.is_some() && ask(proxy.address(), after.clone()).await.is_none());
        std::fs::write(file, &new.pem).unwrap();
        let started = std::time::Instant::now();
        while ask(proxy.address(), after.clone()).await.is_none() {
            assert!(started.elapsed() < DEADLINE);
        }
        assert!(ask(proxy.address(), before.clone()).await.is_none());
    }
}
