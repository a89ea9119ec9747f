//! TLS on both sides: which certificate, which protocol, and whom we believe.

use http_body_util::BodyExt;
use nuncio::Name;

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn listener(endpoint: &Endpoint, tls: &str) -> String {
    to(&[endpoint.address], "").replace("[routes.web]", &format!("tls = {tls}\n[routes.web]"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_chosen_by_name() {
    let endpoint = Endpoint::answering("ok").await;
    let authority = Authority::new();
    let (exact, wild, other) = (authority.certify(&["a.test"]), authority.certify(&["*.wild.test"]), authority.certify(&["other.test"]));
    let config = listener(&endpoint, "{ certificates = [\"other\", \"exact\", \"wild\"] }");
    let proxy = Proxy::start(&(config + &exact.toml("exact") + &wild.toml("wild") + &other.toml("other"))).await;
    for (name, wanted) in [("a.test", &exact), ("A.test", &exact), ("x.wild.test", &wild), ("other.test", &other)] {
        let mut client = connect_tls(proxy.address(), name, authority.client(&[])).await.unwrap();
        assert!(wanted.is(&client.shown), "{name}");
        client.wire.send(GET).await;
        assert_eq!(client.wire.response().await.text(), "ok");
    }
    // The first one is shown to who asks for a name that nobody has: verification fails at the client.
    for name in ["nobody.test", "x.y.wild.test", "127.0.0.1"] {
        assert!(connect_tls(proxy.address(), name, authority.client(&[])).await.is_err(), "{name}");
    }
    assert_eq!(endpoint.requests().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_under_traffic() {
    let endpoint = Endpoint::answering("ok").await;
    let authority = Authority::new();
    let (old, new) = (authority.certify(&["a.test"]), authority.certify(&["a.test"]));
    let mut proxy = Proxy::start(&(listener(&endpoint, "{}") + &old.toml("a"))).await;
    let mut before = connect_tls(proxy.address(), "a.test", authority.client(&[])).await.unwrap();
    assert!(old.is(&before.shown));
    let address = proxy.address();
    proxy
        .update(|config| {
            let certificate = config.certificates.get_mut(&Name::literal("a")).unwrap();
            certificate.cert = nuncio::config::Pem::new(new.cert.clone());
            certificate.key = nuncio::config::Pem::new(new.key.clone());
        })
        .await;
    assert_eq!(proxy.address(), address);
    let after = connect_tls(proxy.address(), "a.test", authority.client(&[])).await.unwrap();
    assert!(new.is(&after.shown));
    for client in [&mut before.wire, &mut { after }.wire] {
        client.send(GET).await;
        assert_eq!(client.response().await.text(), "ok");
    }
}

/// Certbot and its like write the files one after the other: between the two they do not belong together, and handshakes go on with the
/// pair before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_written_one_after_the_other_are_taken_over_as_a_pair() {
    let endpoint = Endpoint::answering("ok").await;
    let authority = Authority::new();
    let pairs: Vec<Certificate> = (0..3).map(|_| authority.certify(&["a.test"])).collect();
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("site.pem"), directory.path().join("site.key"));
    std::fs::write(&cert, &pairs[0].cert).unwrap();
    std::fs::write(&key, &pairs[0].key).unwrap();
    let named = format!("[certificates.a]\ncert = '{}'\nkey = '{}'\n", cert.display(), key.display());
    let proxy = Proxy::start(&(listener(&endpoint, "{}") + &named)).await;
    let problems = || proxy.server.status().problems().iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("\n");
    let shown = async || connect_tls(proxy.address(), "a.test", authority.client(&[])).await.unwrap().shown;
    let serves = async |pair: &Certificate, until: &mut dyn FnMut() -> bool| {
        let started = std::time::Instant::now();
        while !until() {
            assert!(pair.is(&shown().await), "the pair before serves until the next one is whole");
            assert!(started.elapsed() < DEADLINE, "{}", problems());
        }
    };
    for (old, new) in pairs.iter().zip(pairs.iter().skip(1)) {
        // The certificate in several writes, then the key in place of a file that was renamed away.
        let (start, end) = new.cert.split_at(new.cert.len() / 2);
        std::fs::write(&cert, start).unwrap();
        serves(old, &mut || !problems().is_empty()).await;
        std::fs::write(&cert, format!("{start}{end}")).unwrap();
        serves(old, &mut || problems().contains("`key` does not belong to `cert`")).await;
        std::fs::remove_file(&key).unwrap();
        serves(old, &mut || problems().contains("`key`: ")).await;
        std::fs::write(directory.path().join("new.key"), &new.key).unwrap();
        std::fs::rename(directory.path().join("new.key"), &key).unwrap();
        eventually("the next pair is in force", || problems().is_empty()).await;
        assert!(new.is(&shown().await));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn protocols_and_versions() {
    let endpoint = Endpoint::replying(|request| response(200, request.field("x-forwarded-proto").unwrap())).await;
    let authority = Authority::new();
    let certificate = authority.certify(&["a.test"]);
    let proxy = Proxy::start(&(listener(&endpoint, "{}") + &certificate.toml("a"))).await;
    for (offered, wanted) in [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)] {
        let mut client = connect_tls(proxy.address(), "a.test", authority.client(offered)).await.unwrap();
        assert_eq!(client.alpn.as_deref(), wanted);
        assert_eq!(client.version, rustls::ProtocolVersion::TLSv1_3);
        if wanted == Some("h2") {
            let mut h2 = h2_client(client.wire).await;
            let request = hyper::Request::get("https://a.test/").body(body("")).unwrap();
            let answer = within("a response", h2.send_request(request)).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "https");
        } else {
            client.wire.send(GET).await;
            assert_eq!(client.wire.response().await.text(), "https");
        }
    }
    let tls12 = || authority.client_of_versions(&[], &[&rustls::version::TLS12]);
    assert_eq!(connect_tls(proxy.address(), "a.test", tls12()).await.unwrap().version, rustls::ProtocolVersion::TLSv1_2);
    let proxy = Proxy::start(&(listener(&endpoint, "{ min_version = \"1.3\" }") + &certificate.toml("a"))).await;
    assert!(connect_tls(proxy.address(), "a.test", tls12()).await.is_err());
    assert!(connect_tls(proxy.address(), "a.test", authority.client(&[])).await.is_ok());
}

async fn tls_endpoint(certificate: &Certificate, alpn: &[&str]) -> Endpoint {
    let is_h2 = alpn.contains(&"h2");
    Endpoint::start_on("127.0.0.1:0".parse().unwrap(), Some(certificate.acceptor(alpn)), move |mut conn| async move {
        if is_h2 {
            return serve_h2(conn, |request| async move { http::Response::new(body(request.uri().to_string())) }).await;
        }
        while let Some(request) = conn.request().await {
            conn.respond(200, request.target()).await;
        }
    })
    .await
}

/// TLS towards an endpoint, as a part of `[upstreams.web]`.
fn towards(authority: &Authority, name: &str, protocol: &str) -> String {
    format!("protocol = \"{protocol}\"\ntls = {{ server_name = \"{name}\", ca = '''{}''' }}", authority.pem)
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_verified() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let certificate = authority.certify(&["endpoint.test"]);
    for (protocol, alpn) in [("http1", &["http/1.1"][..]), ("http1", &[]), ("h2", &["h2"])] {
        let endpoint = tls_endpoint(&certificate, alpn).await;
        let status = async |settings: String| Proxy::start(&to(&[endpoint.address], &settings)).await.get("/x").await.status();
        assert_eq!(status(towards(&authority, "endpoint.test", protocol)).await, 200, "{protocol} {alpn:?}");
        assert_eq!(status(towards(&authority, "other.test", protocol)).await, 502, "{protocol}: another name");
        assert_eq!(status(towards(&stranger, "endpoint.test", protocol)).await, 502, "{protocol}: another authority");
    }
    // HTTP/2 must be agreed on.
    let endpoint = tls_endpoint(&certificate, &["http/1.1"]).await;
    let proxy = Proxy::start(&to(&[endpoint.address], &towards(&authority, "endpoint.test", "h2"))).await;
    assert_eq!(proxy.get("/").await.status(), 502);
}

/// Without a name the certificate must be for the endpoint's address.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_verified_by_address() {
    let authority = Authority::new();
    for (name, status) in [("127.0.0.1", 200), ("127.0.0.2", 502), ("localhost", 502)] {
        let endpoint = tls_endpoint(&authority.certify(&[name]), &[]).await;
        let proxy = Proxy::start(&to(&[endpoint.address], &format!("tls = {{ ca = '''{}''' }}", authority.pem))).await;
        assert_eq!(proxy.get("/").await.status(), status, "a certificate for {name}");
    }
}

/// As over plain TCP: a connection that the endpoint closes after its response costs no request.
#[tokio::test(flavor = "multi_thread")]
async fn idle_tls_connections_that_are_closed_cost_no_request() {
    let authority = Authority::new();
    let acceptor = authority.certify(&["endpoint.test"]).acceptor(&[]);
    let endpoint = Endpoint::start_on("127.0.0.1:0".parse().unwrap(), Some(acceptor), |mut conn| async move {
        if conn.request().await.is_some() {
            conn.respond(200, "ok").await;
            let _ = conn.wire.finish().await;
        }
    })
    .await;
    let proxy = Proxy::start(&to(&[endpoint.address], &towards(&authority, "endpoint.test", "http1"))).await;
    let mut client = proxy.connect().await;
    for number in 0..200 {
        let request = if number % 2 == 0 { GET } else { "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello" };
        client.send(request).await;
        assert_eq!(client.response().await.status(), 200, "request {number}");
    }
    assert_eq!(endpoint.requests().len(), 200);
}
