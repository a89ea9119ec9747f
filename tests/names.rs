//! Endpoints given by name: what a name stands for changes under traffic, and name servers fail in every way they know.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "all of it is a test, its functions too; modules of support are shared")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nuncio::discovery::{NameServers, ProgramHandle, ProgramProvider};
use nuncio::{Name, RoutingConfig, Server};

#[path = "support/dns.rs"]
#[allow(dead_code, reason = "the provider's tests use the rest")]
mod dns;
#[path = "support/proxy.rs"]
#[allow(dead_code, reason = "tests of the proxy use the rest")]
mod proxy;

use dns::{A, AAAA, NameServer, Reply};
use proxy::{Endpoint, Wire, eventually, response, within};

/// A server that asks `dns`.
struct Proxy {
    server: Server,
    handle: ProgramHandle,
}

impl Proxy {
    async fn start(dns: &NameServer, config: &str) -> Self {
        let (provider, handle) = ProgramProvider::new(Name::literal("program"));
        handle.publish(toml::from_str(config).unwrap());
        let builder = Server::builder().workers(1).name_servers(NameServers::At(vec![dns.address]));
        let server = builder.provider(provider).start().unwrap();
        within("the first table", server.ready()).await;
        Self { server, handle }
    }

    /// The addresses of upstream `web`.
    fn addresses(&self) -> Vec<String> {
        let table = self.server.table();
        table.upstreams["web"].endpoints.iter().map(|endpoint| endpoint.address.ip().unwrap().ip().to_string()).collect()
    }

    async fn until_addresses(&self, expected: &[&str]) {
        eventually(&format!("addresses {expected:?}"), || self.addresses() == expected).await;
    }

    fn problems(&self) -> Vec<String> {
        self.server.status().problems().iter().map(|problem| problem.render(false)).collect()
    }

    async fn until_problem(&self, text: &str) {
        eventually(text, || self.problems().iter().any(|problem| problem.contains(text))).await;
    }

    fn id_of(&self, ip: &str) -> u64 {
        let table = self.server.table();
        table.upstreams["web"].endpoints.iter().find(|it| it.address.ip().unwrap().ip().to_string() == ip).unwrap().state.id
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr(&Name::literal("web")).expect("the listener is open")
    }

    async fn status(&self) -> u16 {
        let mut client = Wire::connect(self.address()).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        client.response().await.status()
    }
}

/// Everything goes to upstream `web`, which has these endpoints.
fn to(endpoints: &[String]) -> String {
    format!(
        "[listeners.web]\naddress = \"127.0.0.1:0\"\n[routes.web]\nmatch = 'PathPrefix(\"/\")'\nupstream = \"web\"\n\
         [upstreams.web]\nendpoints = {endpoints:?}\n"
    )
}

async fn serve_on(address: SocketAddr) -> Endpoint {
    Endpoint::start_on(address, None, |mut conn| async move {
        while conn.request().await.is_some() {
            if conn.wire.try_send(response(200, "here")).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Endpoints at 127.0.0.1, 127.0.0.2 and so on, all at one port.
async fn endpoints(count: u8) -> (Vec<Endpoint>, u16) {
    let first = serve_on("127.0.0.1:0".parse().unwrap()).await;
    let port = first.address.port();
    let mut all = vec![first];
    for last in 2..=count {
        all.push(serve_on(SocketAddr::from(([127, 0, 0, last], port))).await);
    }
    (all, port)
}

/// Asks again and again until it is stopped: how many requests went well, and what went wrong.
struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<u16>>,
}

impl Traffic {
    fn start(address: SocketAddr) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (is_stopped, count) = (stop.clone(), done.clone());
        let task = tokio::spawn(async move {
            let mut failed = Vec::new();
            let mut client = Wire::connect(address).await;
            while !is_stopped.load(Ordering::Relaxed) {
                client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
                let status = client.response().await.status();
                failed.extend((status != 200).then_some(status));
                count.fetch_add(1, Ordering::Relaxed);
            }
            failed
        });
        Self { stop, done, task }
    }

    async fn assert_clean(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(self.task.await.unwrap(), [0u16; 0], "requests failed");
        self.done.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_traffic_lose_no_request() {
    let dns = NameServer::start().await;
    let (endpoints, port) = endpoints(3).await;
    dns.addresses("app.test", &["127.0.0.1"], 0);
    let proxy = Proxy::start(&dns, &to(&[format!("app.test:{port}")])).await;
    assert_eq!(proxy.addresses(), ["127.0.0.1"], "the first table has what the name stands for");
    assert_eq!(proxy.problems(), [""; 0]);
    let first = proxy.id_of("127.0.0.1");
    let traffic = Traffic::start(proxy.address());
    // The TTL is that of Docker in none of these: a name with dots, and 0 and 1 count as one second.
    dns.addresses("app.test", &["127.0.0.1", "127.0.0.2"], 1);
    proxy.until_addresses(&["127.0.0.1", "127.0.0.2"]).await;
    assert_eq!(proxy.id_of("127.0.0.1"), first, "an address that stays keeps its state");
    let second = proxy.id_of("127.0.0.2");
    dns.addresses("app.test", &["127.0.0.2", "127.0.0.3"], 1);
    proxy.until_addresses(&["127.0.0.2", "127.0.0.3"]).await;
    assert_eq!(proxy.id_of("127.0.0.2"), second);
    // Failures of every kind take nothing away.
    for (reply, text) in [(Reply::ServFail, "cannot be looked up"), (Reply::Refused, "2 last known addresses are used")] {
        let asked = dns.asked().0;
        dns.say_both("app.test", &reply);
        proxy.until_problem(text).await;
        eventually("it is asked again", || dns.asked().0 >= asked + 4).await;
        assert_eq!(proxy.addresses(), ["127.0.0.2", "127.0.0.3"]);
    }
    dns.addresses("app.test", &["127.0.0.3"], 600);
    proxy.until_addresses(&["127.0.0.3"]).await;
    eventually("no problem is left", || proxy.problems().is_empty()).await;
    let requests = traffic.assert_clean().await;
    assert!(requests > 100, "{requests}");
    assert!(endpoints.iter().all(|endpoint| endpoint.accepted() > 0), "each of them was used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_gone_loses_its_endpoints_after_a_grace() {
    let dns = NameServer::start().await;
    let (_endpoints, port) = endpoints(1).await;
    dns.addresses("app.test", &["127.0.0.1"], 0);
    let proxy = Proxy::start(&dns, &to(&[format!("app.test:{port}")])).await;
    dns.say_both("app.test", &Reply::NxDomain);
    proxy.until_problem("there is no host `app.test`").await;
    let (gone_at, traffic) = (Instant::now(), Traffic::start(proxy.address()));
    assert_eq!(proxy.addresses(), ["127.0.0.1"]);
    // An empty answer says the same, and the grace goes on.
    dns.say_both("app.test", &Reply::Empty);
    let asked = dns.asked().0;
    eventually("it is asked again, both kinds each time", || dns.asked().0 >= asked + 6).await;
    assert_eq!(proxy.addresses(), ["127.0.0.1"]);
    traffic.assert_clean().await;
    proxy.until_addresses(&[]).await;
    assert!(gone_at.elapsed() > Duration::from_secs(4), "{:?}", gone_at.elapsed());
    assert_eq!(proxy.status().await, 503);
    dns.addresses("app.test", &["127.0.0.1"], 0);
    proxy.until_addresses(&["127.0.0.1"]).await;
    assert_eq!(proxy.status().await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_nobody_answers_for_holds_up_nothing_for_long() {
    let dns = NameServer::start().await;
    let (endpoints, port) = endpoints(1).await;
    dns.say_both("mute.test", &Reply::Silence);
    let started = Instant::now();
    let proxy = Proxy::start(&dns, &to(&[format!("mute.test:{port}"), endpoints[0].address.to_string(), "unknown.test:80".into()])).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!((proxy.addresses(), proxy.status().await), (vec!["127.0.0.1".into()], 200));
    let problems = proxy.problems().join("\n");
    assert!(problems.contains("no name server has answered") && problems.contains("there is no host `unknown.test`"), "{problems}");
    proxy.until_problem("`mute.test` cannot be looked up: ").await;
    // It is tried again.
    dns.addresses("mute.test", &["127.0.0.2"], 5);
    proxy.until_addresses(&["127.0.0.2", "127.0.0.1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_waits_for_the_first_answers_to_its_new_names() {
    let dns = NameServer::start().await;
    let (endpoints, port) = endpoints(2).await;
    dns.addresses("old.test", &["127.0.0.1"], 5);
    let proxy = Proxy::start(&dns, &to(&[format!("old.test:{port}")])).await;
    dns.delay(Duration::from_millis(300));
    dns.addresses("app.test", &["127.0.0.2"], 5);
    // The answer for one comes while the table waits for the other: names of the table in force are known all the while.
    dns.say_both("mute.test", &Reply::Silence);
    let traffic = Traffic::start(proxy.address());
    let config: RoutingConfig = toml::from_str(&to(&[format!("app.test:{port}"), format!("mute.test:{port}")])).unwrap();
    proxy.handle.publish(config);
    proxy.until_addresses(&["127.0.0.2"]).await;
    eventually("it is used", || endpoints[1].accepted() > 0).await;
    traffic.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_answers_come_by_tcp_and_both_kinds_of_addresses_count() {
    let dns = NameServer::start().await;
    let many: Vec<String> = (1..=60).map(|last| format!("10.9.0.{last}")).collect();
    let mut all: Vec<&str> = many.iter().map(String::as_str).collect();
    all.push("fd00::1");
    dns.addresses("many.test", &all, 30);
    let proxy = Proxy::start(&dns, &to(&["many.test:80".into()])).await;
    assert_eq!(proxy.addresses().len(), 61);
    assert!(proxy.addresses().contains(&"fd00::1".to_string()));
    assert!(dns.asked().1 > 0, "asked again by TCP");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_kind_that_fails_takes_nothing_from_the_other() {
    let dns = NameServer::start().await;
    dns.say("app.test", AAAA, Reply::ServFail);
    dns.say("app.test", A, Reply::Records(vec![vec![10, 9, 0, 1]], 1));
    let proxy = Proxy::start(&dns, &to(&["app.test:80".into()])).await;
    proxy.until_addresses(&["10.9.0.1"]).await;
    assert_eq!(proxy.problems(), [""; 0]);
    dns.say("app.test", A, Reply::Records(vec![vec![10, 9, 0, 2], vec![0, 0, 0, 0]], 1));
    proxy.until_addresses(&["10.9.0.2"]).await;
}

/// Of `/etc/hosts`: no server is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn localhost_is_known_without_a_server() {
    let dns = NameServer::start().await;
    let (_endpoints, port) = endpoints(1).await;
    let proxy = Proxy::start(&dns, &to(&[format!("localhost:{port}")])).await;
    assert!(proxy.addresses().contains(&"127.0.0.1".to_string()), "{:?}", proxy.addresses());
    assert_eq!((proxy.status().await, dns.asked()), (200, (0, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_names_are_looked_up_within_bounds() {
    const NAMES: usize = 5_000;
    let dns = NameServer::start().await;
    let mut config = to(&["10.9.0.1:80".into()]);
    for number in 0..NAMES {
        dns.addresses(&format!("n{number}.test"), &[&format!("10.8.{}.{}", number / 250, 1 + number % 250)], 600);
        config += &format!("[upstreams.u{number}]\nendpoints = [\"n{number}.test:80\"]\n");
    }
    let (threads, memory) = (status("Threads:"), status("VmRSS:"));
    let started = Instant::now();
    let proxy = Proxy::start(&dns, &config).await;
    let known = || {
        let table = proxy.server.table();
        table.upstreams.values().filter(|upstream| upstream.endpoints.len() == 1).count()
    };
    eventually("all names", || known() == NAMES + 1).await;
    let (took, grown) = (started.elapsed(), status("VmRSS:").saturating_sub(memory));
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert!(grown < 200 << 10, "{grown} KiB");
    assert!(status("Threads:") < threads + 20);
    // Each of both kinds once, and some again that ran out meanwhile or were lost.
    assert!(dns.asked().0 < 4 * NAMES, "{:?}", dns.asked());
}

/// A number of `/proc/self/status`.
fn status(field: &str) -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
