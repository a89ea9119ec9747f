//! The provider of names: services and hosts of the domain name system become upstreams, whatever their name servers do.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "all of it is a test, its functions too; modules of support are shared")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use nuncio::config::providers::{DnsConfig, RouteTemplate, ServiceName};
use nuncio::config::snapshot::Removals;
use nuncio::config::{Listener, NameServer as Asked, Snapshot};
use nuncio::discovery::{DnsProvider, FeedState, ProgramProvider};
use nuncio::{Name, RoutingConfig, Server};

#[path = "support/dns.rs"]
#[allow(dead_code, reason = "tests of endpoints by name use the rest")]
mod dns;
#[path = "support/proxy.rs"]
#[allow(dead_code, reason = "tests of the proxy use the rest")]
mod proxy;
mod support;

use dns::{A, NameServer, Reply, SRV};
use proxy::{Endpoint, Wire, eventually, response, within};
use support::{Observed, endpoints};

const WEB: &str = "_http._tcp.web.test";

fn config(dns: &NameServer, upstreams: &[(&'static str, &str)]) -> DnsConfig {
    let upstreams = upstreams.iter().map(|(upstream, name)| (Name::literal(upstream), ServiceName::parse(name).unwrap()));
    let servers = vec![Asked::parse(&dns.address.to_string()).unwrap()];
    DnsConfig { upstreams: upstreams.collect(), servers, route: RouteTemplate::parse(r#"Host("{name}.example.com")"#).ok() }
}

fn provider(dns: &NameServer, upstreams: &[(&'static str, &str)]) -> DnsProvider {
    DnsProvider::new(Name::literal("dns"), config(dns, upstreams))
}

fn observe(dns: &NameServer, upstreams: &[(&'static str, &str)]) -> Observed {
    Observed::new(Box::new(provider(dns, upstreams)))
}

fn weights(snapshot: &Snapshot, upstream: &str) -> Vec<u16> {
    snapshot.upstreams[upstream].endpoints.values().map(|entry| entry.value.as_ref().unwrap().weight).collect()
}

fn problems(snapshot: &Snapshot) -> String {
    snapshot.all_problems().map(|problem| problem.render(false)).collect::<Vec<_>>().join("\n")
}

fn is_failing(state: &FeedState) -> bool {
    matches!(state, FeedState::Failing { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_and_hosts_are_upstreams_with_routes() {
    let dns = NameServer::start().await;
    dns.services(WEB, &[(1, 60, 8080, "a.test"), (1, 20, 8081, "b.test"), (2, 1, 8082, "c.test")], 1);
    for (name, address) in [("a.test", "10.0.0.1"), ("b.test", "10.0.0.2"), ("c.test", "10.0.0.3")] {
        dns.addresses(name, &[address], 1);
    }
    dns.addresses("tasks.db", &["10.0.1.1", "10.0.1.2"], 600);
    let observed = observe(&dns, &[("web", WEB), ("db", "tasks.db:5432")]);
    let first = observed.until("all of it", |now| now.upstreams.len() == 2).await;
    // The first snapshot is whole: it waits for the hosts of the service.
    assert_eq!((endpoints(&first, "web"), weights(&first, "web")), (vec!["10.0.0.1:8080".into(), "10.0.0.2:8081".into()], vec![60, 20]));
    assert_eq!((endpoints(&first, "db"), problems(&first)), (vec!["10.0.1.1:5432".into(), "10.0.1.2:5432".into()], String::new()));
    assert_eq!(first.routes["web"].value.as_ref().map(|route| route.rule.text()), Ok(r#"Host("web.example.com")"#));
    assert_eq!(first.removals, Removals::Inferred);
    let origin = first.upstreams["web"].origin().unwrap().to_string();
    assert_eq!(origin, format!("dns: lookup of {WEB}"));
    // Docker's TTL of 600 s counts as 5 s at most, and the other upstream is not touched.
    let changed_at = Instant::now();
    dns.addresses("tasks.db", &["10.0.1.2"], 600);
    let next = observed.within(Duration::from_secs(10), "one is gone", |now| endpoints(now, "db") == ["10.0.1.2:5432"]).await;
    assert!(changed_at.elapsed() < Duration::from_secs(8), "{:?}", changed_at.elapsed());
    assert!(Arc::ptr_eq(&first.upstreams["web"], &next.upstreams["web"]));
    assert!(Arc::ptr_eq(&first.routes["web"], &next.routes["web"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_priority_takes_over_and_hands_back() {
    let dns = NameServer::start().await;
    dns.services(WEB, &[(1, 1, 80, "a.test"), (2, 1, 80, "b.test")], 1);
    dns.addresses("a.test", &["10.0.0.1"], 1);
    dns.addresses("b.test", &["10.0.0.2"], 1);
    let observed = observe(&dns, &[("web", WEB)]);
    observed.until("the first priority", |now| endpoints(now, "web") == ["10.0.0.1:80"]).await;
    // A failure is no reason to leave it, an answer that there is no such host is.
    dns.say_both("a.test", &Reply::ServFail);
    let kept = observed.until("a problem", |now| problems(now).contains("cannot be looked up")).await;
    assert_eq!(endpoints(&kept, "web"), ["10.0.0.1:80"]);
    dns.say_both("a.test", &Reply::NxDomain);
    observed.until("the second priority", |now| endpoints(now, "web") == ["10.0.0.2:80"]).await;
    dns.addresses("a.test", &["10.0.0.3"], 1);
    let back = observed.until("the first again", |now| endpoints(now, "web") == ["10.0.0.3:80"] && problems(now).is_empty()).await;
    assert_eq!(back.upstreams.len(), 1);
}

/// Weights change, a host is new that nobody answers for: what is there stays until something better is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_host_is_waited_for_before_an_old_one_goes() {
    let dns = NameServer::start().await;
    dns.services(WEB, &[(1, 1, 80, "a.test")], 1);
    dns.addresses("a.test", &["10.0.0.1"], 1);
    let (recorder, mut recorded) = support::Recorder::new();
    let mut provider = provider(&dns, &[("web", WEB)]);
    let task = tokio::spawn(async move { nuncio::discovery::Provider::watch(&mut provider, &recorder).await });
    let next = within("the first snapshot", recorded.recv()).await.unwrap().0;
    assert_eq!(endpoints(&next, "web"), ["10.0.0.1:80"]);
    dns.delay(Duration::from_millis(300));
    dns.addresses("b.test", &["10.0.0.2"], 1);
    dns.services(WEB, &[(1, 0, 81, "b.test")], 1);
    let next = within("the next snapshot", recorded.recv()).await.unwrap().0;
    assert_eq!((endpoints(&next, "web"), weights(&next, "web")), (vec!["10.0.0.2:81".into()], vec![1]), "never without endpoints");
    dns.delay(Duration::ZERO);
    dns.say_both("mute.test", &Reply::Silence);
    dns.services(WEB, &[(1, 1, 81, "b.test"), (1, 1, 81, "mute.test")], 1);
    let next = within("the snapshot with a host that is not known", recorded.recv()).await.unwrap().0;
    assert_eq!(endpoints(&next, "web"), ["10.0.0.2:81"]);
    assert!(problems(&next).contains("`mute.test.`, where the service is, has not been looked up yet"), "{}", problems(&next));
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_answers_come_by_tcp() {
    let dns = NameServer::start().await;
    let names: Vec<String> = (1..=40).map(|number| format!("host-{number}.rack-{number}.site.example.test")).collect();
    let places: Vec<(u16, u16, u16, &str)> = names.iter().map(|name| (1, 1, 80, name.as_str())).collect();
    dns.services(WEB, &places, 30);
    for (at, name) in names.iter().enumerate() {
        dns.addresses(name, &[&format!("10.0.0.{}", at + 1)], 30);
    }
    let observed = observe(&dns, &[("web", WEB)]);
    let first = observed.until("the first snapshot", |now| now.upstreams.contains_key("web")).await;
    assert_eq!((endpoints(&first, "web").len(), problems(&first)), (40, String::new()));
    assert!(dns.asked().1 > 0, "asked again by TCP");
}

/// Error is not empty, and empty is not an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_say_is_never_empty() {
    let dns = NameServer::start().await;
    dns.say(WEB, SRV, Reply::ServFail);
    let observed = observe(&dns, &[("web", WEB)]);
    let status = observed.until_status("it fails", |status| is_failing(&status.state)).await;
    let FeedState::Failing { error } = &status.state else { unreachable!() };
    assert!(error.contains("dns: look up 1 names at 127.0.0.1:") && error.contains(WEB), "{error}");
    assert!(!status.has_snapshot && observed.feed().latest().is_none());
    dns.services(WEB, &[(1, 1, 80, "a.test")], 1);
    dns.addresses("a.test", &["10.0.0.1"], 1);
    observed.until("it is known", |now| endpoints(now, "web") == ["10.0.0.1:80"]).await;
    // Lost again: what is known stays, and it is told.
    for reply in [Reply::Refused, Reply::Silence] {
        dns.say(WEB, SRV, reply);
        observed.until_status("it fails", |status| is_failing(&status.state)).await;
        let kept = observed.until("a problem", |now| problems(now).contains("1 last known records are used")).await;
        assert_eq!(endpoints(&kept, "web"), ["10.0.0.1:80"]);
        let restarts = observed.feed().status().restarts;
        dns.services(WEB, &[(1, 1, 80, "a.test")], 1);
        observed.until_status("it is live", |status| status.state == FeedState::Live).await;
        assert!(observed.feed().status().restarts <= restarts + 1, "it is not called again and again");
    }
    // That there is no such service is an answer.
    let gone_at = Instant::now();
    dns.say(WEB, SRV, Reply::NxDomain);
    let grace = observed.until("a problem", |now| problems(now).contains("there is no service")).await;
    assert_eq!(endpoints(&grace, "web"), ["10.0.0.1:80"]);
    let empty = observed.until("no endpoint", |now| endpoints(now, "web").is_empty()).await;
    assert!(gone_at.elapsed() > Duration::from_secs(4), "{:?}", gone_at.elapsed());
    assert!(empty.upstreams.contains_key("web") && empty.routes.contains_key("web"));
    assert_eq!(observed.feed().status().state, FeedState::Live);
}

/// One name that fails keeps no other from being used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_name_blocks_no_other() {
    let dns = NameServer::start().await;
    dns.say_both("bad.test", &Reply::ServFail);
    dns.say_both("mute.test", &Reply::Silence);
    dns.addresses("good.test", &["10.0.0.1"], 1);
    let observed = observe(&dns, &[("bad", "bad.test:80"), ("good", "good.test:80"), ("mute", "mute.test:80")]);
    let first = observed.until("the good one", |now| endpoints(now, "good") == ["10.0.0.1:80"]).await;
    assert!(endpoints(&first, "bad").is_empty() && problems(&first).contains("`bad.test` cannot be looked up"), "{}", problems(&first));
    dns.addresses("bad.test", &["10.0.0.2"], 1);
    observed.until("the other one too", |now| endpoints(now, "bad") == ["10.0.0.2:80"]).await;
}

/// An answer that is short all at once is what a name server says that has lost its mind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_much_shorter_is_held() {
    let dns = NameServer::start().await;
    let all: Vec<String> = (1..=10).map(|last| format!("10.0.0.{last}")).collect();
    dns.addresses("web.test", &all.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    let observed = observe(&dns, &[("web", "web.test:80")]);
    observed.until("ten", |now| endpoints(now, "web").len() == 10).await;
    dns.addresses("web.test", &["10.0.0.1"], 1);
    observed.until_status("nine of them are held", |status| status.held.is_some()).await;
    assert_eq!(endpoints(&observed.feed().latest().unwrap(), "web").len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_follows_the_records() {
    let dns = NameServer::start().await;
    let serve = |body: &'static str| {
        Endpoint::start(move |mut conn| async move {
            while conn.request().await.is_some() {
                if conn.wire.try_send(response(200, body)).await.is_err() {
                    return;
                }
            }
        })
    };
    let (first, second) = (serve("first").await, serve("second").await);
    dns.addresses("host.test", &["127.0.0.1"], 1);
    dns.services(WEB, &[(1, 1, first.address.port(), "host.test")], 1);
    let (program, handle) = ProgramProvider::new(Name::literal("program"));
    let mut listeners = RoutingConfig::default();
    listeners.listeners.insert(Name::literal("web"), Listener::http("127.0.0.1:0".parse().unwrap()));
    handle.publish(listeners);
    let server = Server::builder().workers(1).provider(program).provider(provider(&dns, &[("web", WEB)])).start().unwrap();
    within("the first table", server.ready()).await;
    let mut client = Wire::connect(server.local_addr(&Name::literal("web")).unwrap()).await;
    let mut ask = async || {
        client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
        client.response().await.status()
    };
    assert_eq!((ask().await, first.accepted()), (200, 1));
    dns.services(WEB, &[(1, 1, second.address.port(), "host.test")], 1);
    let started = Instant::now();
    while second.accepted() == 0 {
        assert_eq!(ask().await, 200);
        assert!(started.elapsed() < support::DEADLINE, "the other one is used");
    }
    dns.say("host.test", A, Reply::ServFail);
    eventually("a problem", || server.status().problems().iter().any(|problem| problem.message.contains("cannot be looked up"))).await;
    assert_eq!(ask().await, 200);
}
