//! Middlewares and balancers, end to end.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use nuncio::Name;
use nuncio::config::{Endpoint as Wanted, MiddlewareRef};
use nuncio::middleware::{Custom, Exchange, Flow, Middleware, RequestHead, Step, Verdict};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn with(endpoint: &Endpoint, middlewares: &str) -> String {
    to(&[endpoint.address], "").replace("[upstreams.web]", &format!("middlewares = {middlewares}\n[upstreams.web]"))
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_run_in_order_and_back() {
    let endpoint = Endpoint::replying(|request| response(200, request.target())).await;
    let shared = "[middlewares.shared]\nadd_prefix = \"/b\"\n";
    let steps = "[{ strip_prefix = \"/a\" }, \"shared\", { add_prefix = \"/c\" }, \
        { headers = { request = { set = { X-One = \"1\" } }, response = { set = { X-Order = \"outer\" } } } }, \
        { headers = { response = { set = { X-Order = \"inner\", X-Two = \"2\" } } } }]";
    let proxy = Proxy::start(&(with(&endpoint, steps) + shared)).await;
    let answer = proxy.get("/a/x?y").await;
    assert_eq!((answer.text(), answer.field("x-order"), answer.field("x-two")), ("/c/b/x?y", Some("outer"), Some("2")));
    assert_eq!(endpoint.request().field("x-one"), Some("1"));
}

/// A route that lacks something answers 503 in its place: its requests do not fall through to another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_route_keeps_its_place() {
    let endpoint = Endpoint::answering("open").await;
    let mut proxy = Proxy::to(&[endpoint.address]).await;
    let closed = "[routes.admin]\nmatch = 'PathPrefix(\"/admin\")'\nmiddlewares = [\"office_only\"]\nupstream = \"web\"\n";
    proxy.replace(&(to(&[endpoint.address], "") + closed)).await;
    assert_eq!(proxy.get("/admin/x").await.status(), 503);
    assert_eq!(proxy.get("/x").await.text(), "open");
    assert_eq!(endpoint.requests().len(), 1);
    assert_eq!(proxy.server.status().problems().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_is_404() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = Proxy::start(&to(&[endpoint.address], "").replace("PathPrefix(\"/\")", "Host(\"a.test\")")).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 404);
    client.send(GET).await;
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_need_no_endpoint() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = Proxy::start(&with(&endpoint, "[{ redirect_https = true }]")).await;
    let answer = proxy.get("/x?y").await;
    assert_eq!((answer.status() / 100, answer.field("location")), (3, Some("https://a.test/x?y")));
    assert_eq!(endpoint.requests(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_those_that_trusted_proxies_tell() {
    let endpoint = Endpoint::answering("ok").await;
    let ask = async |trusted: &str, told: &str| {
        let config = with(&endpoint, "[{ ip_allow = [\"10.0.0.0/8\"] }]")
            .replace("[routes.web]", &format!("trusted_proxies = {trusted}\n[routes.web]"));
        Proxy::start(&config).await.ask(&format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: {told}\r\n\r\n")).await.status()
    };
    assert_eq!(ask("[\"127.0.0.0/8\"]", "10.1.2.3").await, 200);
    assert_eq!(ask("[\"127.0.0.0/8\"]", "10.1.2.3, 192.0.2.1").await, 403);
    assert_eq!(ask("[]", "10.1.2.3").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_are_bounded() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = Proxy::start(&with(&endpoint, "[{ rate_limit = { rate = 1, per = \"1h\", burst = 3 } }]")).await;
    let mut client = proxy.connect().await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        client.send(GET).await;
        statuses.push(client.response().await.status());
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded() {
    let endpoint = Endpoint::answering("ok").await;
    let proxy = Proxy::start(&with(&endpoint, "[{ body_limit = 10 }]")).await;
    let ask =
        async |framing: &str, body: &str| proxy.ask(&format!("POST / HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n{body}")).await.status();
    assert_eq!(ask("Content-Length: 10", "0123456789").await, 200);
    assert_eq!(ask("Content-Length: 11", "0123456789a").await, 413);
    assert_eq!(ask("Content-Length: 1000000", "").await, 413, "it is known from the head");
    assert_eq!(ask("Transfer-Encoding: chunked", "a\r\n0123456789\r\n0\r\n\r\n").await, 200);
    assert_eq!(ask("Transfer-Encoding: chunked", "a\r\n0123456789\r\n1\r\na\r\n0\r\n\r\n").await, 413);
    assert_eq!(endpoint.requests().len(), 2);
}

/// Asks elsewhere, and waits for the answer.
#[derive(Debug)]
struct Ask(tokio::sync::mpsc::Sender<tokio::sync::oneshot::Sender<bool>>);

impl Step for Ask {
    fn request(&self, _: &mut RequestHead, _: &mut Exchange) -> Flow {
        let asked = self.0.clone();
        Flow::Wait(Box::pin(async move {
            let (answer, answered) = tokio::sync::oneshot::channel();
            let _ = asked.send(answer).await;
            if answered.await.unwrap() {
                return Verdict::Continue(HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-user"),
                    http::HeaderValue::from_static("alice"),
                )]));
            }
            Verdict::Respond(Box::new(http::Response::builder().status(401).body(Bytes::new()).unwrap()))
        }))
    }
}

/// A step may take longer than a client may take for its head.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_may_wait() {
    let endpoint = Endpoint::answering("ok").await;
    let timeouts = "timeouts = { client_header = \"200ms\", client_idle = \"200ms\" }\n[routes.web]";
    let mut proxy = Proxy::start(&to(&[endpoint.address], "").replace("[routes.web]", timeouts)).await;
    let (ask, mut asked) = tokio::sync::mpsc::channel(1);
    let step = MiddlewareRef::Inline(Middleware::Custom(Custom(Arc::new(Ask(ask)))));
    proxy.update(|config| config.routes.values_mut().for_each(|route| route.middlewares = vec![step.clone()])).await;
    for (verdict, status) in [(true, 200), (false, 401)] {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        let answer = within("a question", asked.recv()).await.unwrap();
        assert!(client.is_silent_for(std::time::Duration::from_millis(700)).await);
        answer.send(verdict).unwrap();
        assert_eq!(client.response().await.status(), status);
    }
    assert_eq!(endpoint.request().field("x-user"), Some("alice"));
}

// ---- balancers

pub(super) async fn three() -> [Endpoint; 3] {
    [Endpoint::answering("1").await, Endpoint::answering("2").await, Endpoint::answering("3").await]
}

pub(super) fn addresses(endpoints: &[Endpoint]) -> Vec<std::net::SocketAddr> {
    endpoints.iter().map(|endpoint| endpoint.address).collect()
}

async fn share(proxy: &Proxy, count: usize) -> std::collections::BTreeMap<String, usize> {
    let mut client = proxy.connect().await;
    let mut names = Vec::new();
    for _ in 0..count {
        client.send(GET).await;
        names.push(client.response().await.text().to_owned());
    }
    tally(names)
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_shares() {
    let endpoints = three().await;
    let mut proxy = Proxy::to(&addresses(&endpoints)).await;
    proxy
        .update(|config| {
            let weighted = endpoints.iter().zip([1, 3, 0]).map(|(endpoint, weight)| Wanted { weight, ..Wanted::new(endpoint.address) });
            config.upstreams.get_mut(&Name::literal("web")).unwrap().endpoints = weighted.collect();
        })
        .await;
    assert_eq!(share(&proxy, 80).await, [("1".to_owned(), 20), ("2".to_owned(), 60)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn least_request_prefers_the_idle() {
    let busy = Endpoint::start(|mut conn| async move { while conn.request().await.is_some() {} }).await;
    let idle = Endpoint::answering("idle").await;
    let proxy = Proxy::start(&to(&[busy.address, idle.address], "balance = \"least_request\"")).await;
    // What goes to the busy one stays there. Two are drawn for each request: now and then both are the same.
    let mut waiting = Vec::new();
    for sent in 1..=100 {
        let mut client = proxy.connect().await;
        let answered = idle.requests().len();
        client.send(GET).await;
        eventually("it arrives", || busy.requests().len() + idle.requests().len() == sent).await;
        if idle.requests().len() > answered {
            assert_eq!(client.response().await.text(), "idle");
        }
        waiting.push(client);
    }
    assert!((1..10).contains(&busy.requests().len()), "{} of 100", busy.requests().len());
}

/// A backup is asked only while no other can be: none is up, or none could be reached for this request.
#[tokio::test(flavor = "multi_thread")]
async fn backups_wait_until_no_other_can() {
    let (first, backup) = (Endpoint::answering("first").await, Endpoint::answering("backup").await);
    let text = |address: &std::net::SocketAddr| format!("\"{address}\"");
    let as_backup = format!("{{ address = \"{}\", backup = true }}", backup.address);
    let config = to(&[backup.address, first.address], "").replace(&text(&backup.address), &as_backup);
    let proxy = Proxy::start(&config).await;
    for _ in 0..10 {
        assert_eq!(proxy.get("/").await.text(), "first");
    }
    let table = proxy.server.table();
    let state = &table.upstreams["web"].endpoints.iter().find(|endpoint| !endpoint.is_backup).expect("one is no backup").state;
    let now = std::time::SystemTime::now();
    state.set_health(nuncio::routing::endpoint::Health::Down, now, "as if it had failed its checks");
    assert_eq!(proxy.get("/").await.text(), "backup");
    state.set_health(nuncio::routing::endpoint::Health::Up, now, "and passed them again");
    assert_eq!(proxy.get("/").await.text(), "first");
    drop(first);
    assert_eq!(proxy.get("/").await.text(), "backup", "the other cannot be reached");
}
