//! Sticky sessions, end to end: whose cookie brings it where, and when it gets another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nuncio::routing::endpoint::Health;
use nuncio::routing::sticky::StickyKey;

use crate::policies::{addresses, three};
use crate::support::*;

fn cookie(answer: &Message) -> Option<String> {
    answer.field("set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned())
}

async fn get_with(proxy: &Proxy, cookie: &str) -> Message {
    proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a.test\r\nCookie: theme=dark; {cookie}\r\n\r\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_on_its_endpoint() {
    let endpoints = three().await;
    let sticky = to(&addresses(&endpoints), "sticky = { cookie = \"s\" }");
    let mut proxy = Proxy::start(&sticky).await;
    let first = proxy.get("/").await;
    let session = cookie(&first).unwrap();
    assert!(!session.contains("127.0.0.1"));
    for _ in 0..6 {
        let answer = get_with(&proxy, &session).await;
        assert_eq!((answer.text(), cookie(&answer)), (first.text(), None));
    }
    // Others are balanced, and a forged cookie is no cookie.
    let others: Vec<String> =
        futures_util::future::join_all((0..9).map(|_| async { get_with(&proxy, "s=forged").await.text().to_owned() })).await;
    assert_eq!(tally(others).len(), 3);
    // A swap of the table, and weight 0, leave it where it is.
    let at = first.text().parse::<usize>().unwrap() - 1;
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| upstream.endpoints[at].weight = 0)).await;
    for _ in 0..3 {
        assert_eq!(get_with(&proxy, &session).await.text(), first.text());
        assert_ne!(proxy.get("/").await.text(), first.text());
    }
    // Its endpoint is gone: it moves, once.
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| _ = upstream.endpoints.remove(at))).await;
    let moved = get_with(&proxy, &session).await;
    let session = cookie(&moved).unwrap();
    for _ in 0..3 {
        let answer = get_with(&proxy, &session).await;
        assert_eq!((answer.text(), cookie(&answer)), (moved.text(), None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_moves_when_its_endpoint_cannot_be_reached() {
    let [one, two, _] = three().await;
    let proxy = Proxy::start(&to(&[one.address, two.address], "sticky = { cookie = \"s\" }")).await;
    let first = proxy.get("/").await;
    let session = cookie(&first).unwrap();
    let (dead, other) = if first.text() == "1" { (one, "2") } else { (two, "1") };
    let address = dead.address;
    drop(dead);
    let gone = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
    within("it is gone", gone).await;
    let moved = get_with(&proxy, &session).await;
    assert_eq!(moved.text(), other);
    assert!(cookie(&moved).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_share_a_key_share_sessions() {
    let endpoints = three().await;
    let config = to(&addresses(&endpoints), "sticky = { cookie = \"s\" }");
    let key = StickyKey::generate().unwrap();
    let start = async |key: &StickyKey| Proxy::start_with(&config, |builder| builder.sticky_keys(vec![key.clone()])).await;
    let (one, two, stranger) = (start(&key).await, start(&key).await, start(&StickyKey::generate().unwrap()).await);
    let first = one.get("/").await;
    let session = cookie(&first).unwrap();
    for _ in 0..4 {
        let answer = get_with(&two, &session).await;
        assert_eq!((answer.text(), cookie(&answer)), (first.text(), None));
    }
    assert!(cookie(&get_with(&stranger, &session).await).is_some());
}

// ---- with health checks

/// Probes that fail from now on, for as long as a test wants.
const ALWAYS: usize = usize::MAX / 2;

/// An endpoint that answers with its name, and fails as many health checks as it is told. Only its health checks tell: it would serve.
struct Checked {
    endpoint: Endpoint,
    /// Probes that are still to fail.
    failures: Arc<AtomicUsize>,
}

impl Checked {
    async fn start(name: &'static str) -> Self {
        let failures: Arc<AtomicUsize> = Arc::default();
        let left = failures.clone();
        let endpoint = Endpoint::replying(move |request| {
            let is_failure =
                request.target() == "/healthz" && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            response(if is_failure { 503 } else { 200 }, name)
        })
        .await;
        Self { endpoint, failures }
    }

    fn fail(&self, probes: usize) {
        self.failures.store(probes, Ordering::SeqCst);
    }

    fn probes(&self) -> usize {
        self.endpoint.requests().iter().filter(|request| request.target() == "/healthz").count()
    }

    fn served(&self) -> usize {
        self.endpoint.requests().len() - self.probes()
    }
}

const HEALTH: &str =
    "sticky = { cookie = \"s\" }\nhealth = { http = \"/healthz\", interval = \"10ms\", timeout = \"10s\", rise = 2, fall = 3 }";

/// Three endpoints that are up, and a server in front of them.
async fn checked() -> ([Checked; 3], Proxy) {
    let endpoints = [Checked::start("1").await, Checked::start("2").await, Checked::start("3").await];
    let proxy = Proxy::start(&to(&endpoints.each_ref().map(|checked| checked.endpoint.address), HEALTH)).await;
    for checked in &endpoints {
        until_health(&proxy, checked, Health::Up).await;
    }
    (endpoints, proxy)
}

async fn until_health(proxy: &Proxy, checked: &Checked, health: Health) {
    let table = proxy.server.table();
    let mut endpoints = table.upstreams.values().flat_map(|upstream| &upstream.endpoints);
    let state = &endpoints.find(|endpoint| endpoint.address.ip() == Some(checked.endpoint.address)).unwrap().state;
    eventually("its health is known", || state.health() == health).await;
}

/// A session of its own: the name of its endpoint, and its cookie.
async fn session(proxy: &Proxy) -> (String, String) {
    let answer = proxy.get("/").await;
    (answer.text().to_owned(), cookie(&answer).unwrap())
}

fn index(name: &str) -> usize {
    name.parse::<usize>().unwrap() - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_leaves_an_endpoint_that_is_down_and_stays_where_it_went() {
    let (endpoints, proxy) = checked().await;
    let (name, first) = session(&proxy).await;
    let sick = &endpoints[index(&name)];
    sick.fail(ALWAYS);
    until_health(&proxy, sick, Health::Down).await;
    let served = sick.served();
    let moved = get_with(&proxy, &first).await;
    let second = cookie(&moved).expect("it has moved");
    assert!(moved.text() != name && second != first);
    for _ in 0..5 {
        let answer = get_with(&proxy, &second).await;
        assert_eq!((answer.text(), cookie(&answer)), (moved.text(), None));
        // Who has not taken the new cookie is moved each time, and never sent to the sick one.
        assert!(cookie(&get_with(&proxy, &first).await).is_some());
    }
    assert_eq!(sick.served(), served);
    // It comes back for new sessions, not for the one that has left.
    sick.fail(0);
    until_health(&proxy, sick, Health::Up).await;
    for _ in 0..5 {
        let answer = get_with(&proxy, &second).await;
        assert_eq!((answer.text(), cookie(&answer)), (moved.text(), None));
    }
    assert_eq!(sick.served(), served);
    let names: Vec<String> = futures_util::future::join_all((0..6).map(|_| async { session(&proxy).await.0 })).await;
    assert!(names.contains(&name), "{names:?}");
}

/// Fewer failures in a row than `fall` change nothing, however often they come.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_a_probe_that_fails() {
    let (endpoints, proxy) = checked().await;
    let (name, session) = session(&proxy).await;
    let shaky = &endpoints[index(&name)];
    for _ in 0..3 {
        let seen = shaky.probes();
        shaky.fail(2);
        // Two that fail, and one that passes after them.
        eventually("it is probed", || shaky.probes() >= seen + 4).await;
        let answer = get_with(&proxy, &session).await;
        assert_eq!((answer.text(), cookie(&answer)), (name.as_str(), None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_drains_keeps_its_sessions_and_gets_no_others() {
    let (endpoints, mut proxy) = checked().await;
    let (name, session) = session(&proxy).await;
    let at = index(&name);
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| upstream.endpoints[at].weight = 0)).await;
    for _ in 0..10 {
        let answer = get_with(&proxy, &session).await;
        assert_eq!((answer.text(), cookie(&answer)), (name.as_str(), None));
        let (others, _) = self::session(&proxy).await;
        assert_ne!(others, name);
    }
    // To drain is not to be kept alive: down is down.
    endpoints[at].fail(ALWAYS);
    until_health(&proxy, &endpoints[at], Health::Down).await;
    let served = endpoints[at].served();
    let moved = get_with(&proxy, &session).await;
    assert!(moved.text() != name && cookie(&moved).is_some());
    // Well again, and still draining: nobody is sent there who does not ask for it.
    endpoints[at].fail(0);
    until_health(&proxy, &endpoints[at], Health::Up).await;
    let moved_to = cookie(&moved).unwrap();
    for _ in 0..5 {
        assert_eq!(get_with(&proxy, &moved_to).await.text(), moved.text());
        assert_ne!(proxy.get("/").await.text(), name);
    }
    assert_eq!(endpoints[at].served(), served);
}

/// Of several sessions only those move whose endpoint is gone; and it is not theirs again when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_an_endpoint_that_is_gone_move_and_the_others_stay() {
    let (endpoints, mut proxy) = checked().await;
    let mut sessions = Vec::new();
    for _ in 0..9 {
        sessions.push(session(&proxy).await);
    }
    assert_eq!(tally(sessions.iter().map(|(name, _)| name.clone())).len(), 3);
    let gone = sessions[0].0.clone();
    let at = index(&gone);
    let mut wanted = None;
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| wanted = Some(upstream.endpoints.remove(at)))).await;
    for (name, session) in &mut sessions {
        let answer = get_with(&proxy, session).await;
        match cookie(&answer) {
            None => assert!(answer.text() == name && *name != gone),
            Some(moved) => {
                assert!(*name == gone && answer.text() != gone);
                (*name, *session) = (answer.text().to_owned(), moved);
            }
        }
    }
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| upstream.endpoints.extend(wanted.take()))).await;
    until_health(&proxy, &endpoints[at], Health::Up).await;
    for (name, session) in &sessions {
        let answer = get_with(&proxy, session).await;
        assert_eq!((answer.text(), cookie(&answer)), (name.as_str(), None));
    }
}
