//! What the ZooKeeper provider promises beyond the contract of all providers, on a real server that is killed, frozen, wiped and cut off,
//! and that others write to; and on a stub where the answer cannot be had from a real one at will.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use nuncio::config::providers::{ClientTls, LayoutKind, RouteTemplate, ZookeeperConfig};
use nuncio::config::snapshot::Removals;
use nuncio::config::{Listener, Pem, Snapshot};
use nuncio::discovery::{FeedState, FeedStatus, ProgramProvider, ZookeeperProvider};
use nuncio::{Name, RoutingConfig, Server};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::http1::{AfterResponse, Connection, Endpoint};
use support::relay::Relay;
use support::zookeeper::{ZooKeeper, ZooKeeperWriter};
use support::{DEADLINE, Observed, endpoints, is_empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use zookeeper_client::{Client, CreateMode};

/// How soon after a change, or after the server answers again, the table must be right.
const SOON: Duration = Duration::from_secs(1);
/// The shortest session.
const SESSION: Duration = Duration::from_secs(2);
const ONE: &str = "/nuncio/upstreams/api/endpoints/1";

fn config(address: impl std::fmt::Display) -> ZookeeperConfig {
    ZookeeperConfig { endpoints: vec![address.to_string()], session_timeout: SESSION, ..ZookeeperConfig::default() }
}

fn observe(address: impl std::fmt::Display) -> Observed {
    observe_with(config(address))
}

fn observe_with(config: ZookeeperConfig) -> Observed {
    Observed::new(Box::new(ZookeeperProvider::new(Name::literal("zookeeper"), config)))
}

fn is_failing(status: &FeedStatus) -> bool {
    matches!(status.state, FeedState::Failing { .. })
}

fn is_live(status: &FeedStatus) -> bool {
    status.state == FeedState::Live
}

fn has_one(snapshot: &Snapshot) -> bool {
    endpoints(snapshot, "api") == ["10.0.0.1:80"]
}

fn endpoint(id: usize) -> String {
    format!("/nuncio/upstreams/api/endpoints/{id}")
}

async fn started() -> (ZooKeeper, ZooKeeperWriter) {
    let server = ZooKeeper::start().await;
    let writer = server.writer().await;
    (server, writer)
}

async fn error_of(observed: &Observed) -> String {
    match observed.until_status("it fails", is_failing).await.state {
        FeedState::Failing { error } => error,
        _ => unreachable!("it fails"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_and_wiped() {
    let (mut server, writer) = started().await;
    writer.put(ONE, "10.0.0.1:80").await;
    let observed = observe(server.address());
    let before = observed.until("the endpoint", has_one).await;
    server.kill();
    error_of(&observed).await;
    assert!(has_one(&observed.feed().latest().expect("the last snapshot stays")));
    server.run().await;
    observed.until_status("it is live", is_live).await;
    let again = observed.feed().latest().expect("a snapshot");
    assert!(Arc::ptr_eq(&before.upstreams["api"], &again.upstreams["api"]), "the data was kept, and so is the object");
    server.writer().await.put(ONE, "10.0.0.2:80").await;
    observed.within(SOON, "the change", |now| endpoints(now, "api") == ["10.0.0.2:80"]).await;

    // Another store under the same address, whose changes have lower numbers.
    server.kill();
    server.wipe();
    server.run().await;
    let wiped = observed.until("nothing is left", is_empty).await;
    assert_eq!(wiped.removals, Removals::Inferred);
    assert!(wiped.revision < again.revision, "{:?} {:?}", wiped.revision, again.revision);
    server.writer().await.put(ONE, "10.0.0.1:80").await;
    observed.within(SOON, "what came after", has_one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_noticed_and_loses_nothing() {
    let (server, writer) = started().await;
    writer.put(ONE, "10.0.0.1:80").await;
    let observed = observe(server.address());
    observed.until("the endpoint", has_one).await;
    server.freeze();
    let frozen = Instant::now();
    let error = error_of(&observed).await;
    assert!(error.contains("no sign of life") && frozen.elapsed() < SESSION + SOON, "{error} after {:?}", frozen.elapsed());
    assert!(has_one(&observed.feed().latest().expect("the last snapshot stays")));
    server.thaw();
    observed.until_status("it is live", is_live).await;
    assert!(has_one(&observed.feed().latest().expect("the last snapshot stays")));
}

/// It accepts a connection before it can make sessions, forgets who asked for one, and is well a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_gives_no_session_is_soon_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
    let _observed = observe(listener.local_addr().expect("a bound socket has an address"));
    let (_first, _) = listener.accept().await.expect("it is asked");
    let second = tokio::time::timeout(Duration::from_millis(1_500), listener.accept()).await;
    let _second = second.expect("soon").expect("it is asked again");
    let third = tokio::time::timeout(Duration::from_millis(1_500), listener.accept()).await;
    assert!(third.is_err(), "a server that is slow is given more time");
}

/// We are cut off for longer than the session lasts, without being told, and much happens meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_session_is_followed_by_another_and_one_list() {
    let (server, writer) = started().await;
    let relay = Relay::to(server.address()).await;
    for id in 1..=4 {
        writer.put(&endpoint(id), &format!("10.0.0.{id}:80")).await;
    }
    let observed = observe(relay.address());
    observed.until("all", |now| endpoints(now, "api").len() == 4).await;
    relay.stall();
    let error = error_of(&observed).await;
    assert!(error.contains("no sign of life"), "{error}");
    writer.delete(&endpoint(1)).await;
    writer.put(&endpoint(2), "10.0.1.2:80").await;
    writer.put(&endpoint(5), "10.0.0.5:80").await;
    let is_expired = async { while server.sessions().await != 1 {} };
    tokio::time::timeout(DEADLINE, is_expired).await.expect("only the writer's session is left");
    relay.mend();
    let expected = ["10.0.1.2:80", "10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80"];
    let now = observed.until("what happened meanwhile", |now| endpoints(now, "api") == expected).await;
    assert_eq!(now.removals, Removals::Inferred, "nobody said that it was deleted");
    writer.delete(&endpoint(5)).await;
    let now = observed.within(SOON, "the new session has a watch", |now| endpoints(now, "api").len() == 3).await;
    assert_eq!(now.removals, Removals::Explicit);
}

/// Watches of ZooKeeper usually end with their first event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_in_quick_succession_are_all_seen() {
    let (server, writer) = started().await;
    let observed = observe(server.address());
    observed.until("an empty store", is_empty).await;
    writer.put(ONE, "10.0.0.1:80").await;
    for round in 1..=20 {
        writer.put(ONE, &format!("10.0.1.{round}:80")).await;
        writer.put(ONE, &format!("10.0.2.{round}:80")).await;
        observed.within(SOON, "the second", |now| endpoints(now, "api") == [format!("10.0.2.{round}:80")]).await;
    }
    let revision = observed.feed().status().revision;
    assert!(revision.is_some_and(|revision| revision > 40), "{revision:?}");
}

/// Znodes that are gone by the time they are read, and others that are made meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn churn() {
    let (server, writer) = started().await;
    writer.put("/nuncio/upstreams/api/endpoints/stays", "10.0.0.1:80").await;
    let observed = observe(server.address());
    observed.until("the first", has_one).await;
    let churn = |task: usize| {
        let writer = writer.clone();
        async move {
            for round in 0..150 {
                let path = endpoint(1000 * task + round % 7);
                writer.make(&path, "10.0.0.9:80", CreateMode::Persistent).await;
                writer.delete(&path).await;
            }
        }
    };
    tokio::join!(churn(1), churn(2), churn(3), churn(4));
    writer.put("/nuncio/upstreams/last", "{}").await;
    observed.until("the last and nothing of the churn", |now| now.upstreams.contains_key("last") && has_one(now)).await;
    let status = observed.feed().status();
    assert_eq!((status.state, status.restarts), (FeedState::Live, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_comes_and_goes() {
    let (server, writer) = started().await;
    let observed = observe_with(ZookeeperConfig { prefix: "/site/edge".into(), ..config(server.address()) });
    observed.until("a prefix that does not exist is empty", is_empty).await;
    writer.put("/site/edge2/upstreams/other", "{}").await;
    for _ in 0..2 {
        writer.put("/site/edge/upstreams/api/endpoints/1", "10.0.0.1:80").await;
        let now = observed.within(SOON, "the endpoint", has_one).await;
        assert!(now.problems.is_empty() && now.upstreams.len() == 1, "folders are no objects, nor is what others have");
        writer.delete_all("/site/edge").await;
        let now = observed.within(SOON, "nothing", is_empty).await;
        assert_eq!(now.removals, Removals::Explicit);
    }
    // An upstream that is a folder too.
    writer.put("/site/edge/upstreams/api", r#"{"retries":3}"#).await;
    writer.put("/site/edge/upstreams/api/endpoints/1", "10.0.0.1:80").await;
    let retries = |now: &Snapshot| Some(now.upstreams.get("api")?.settings.as_ref()?.value.as_ref().ok()?.retries);
    observed.within(SOON, "both", |now| has_one(now) && retries(now) == Some(3)).await;
    assert_eq!(observed.feed().status().restarts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_read_is_not_absent() {
    let (server, writer) = started().await;
    writer.be("nuncio", "hunter2").await;
    writer.put(ONE, "10.0.0.1:80").await;
    writer.put(&endpoint(2), "10.0.0.2:80").await;
    writer.restrict(&endpoint(2)).await;
    let observed = observe(server.address());
    let now = observed.until("the one that may be read", has_one).await;
    let problems: Vec<_> = now.all_problems().map(ToString::to_string).collect();
    assert!(problems.len() == 1 && problems[0].contains("endpoint `api/2`: the znode may not be read"), "{problems:?}");
    writer.open(&endpoint(2)).await;
    observed.until("the other one, once it may be read", |now| endpoints(now, "api").len() == 2).await;

    writer.restrict("/nuncio").await;
    let as_user = |username: Option<&str>, password: Option<&str>| {
        let (username, password) = (username.map(Into::into), password.map(Into::into));
        observe_with(ZookeeperConfig { username, password, ..config(server.address()) })
    };
    as_user(Some("nuncio"), Some("hunter2")).until("what the user may read", |now| endpoints(now, "api").len() == 2).await;
    for refused in [as_user(Some("nuncio"), Some("geheim")), as_user(None, None)] {
        let error = error_of(&refused).await;
        assert!(error.contains("watch /nuncio") && error.contains("ACL") && !error.contains("geheim"), "{error}");
        assert!(refused.feed().latest().is_none(), "what may not be read is not empty");
    }
}

/// The end of a znode is announced alike whether somebody deleted it or its owner's session ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_owners_that_die_at_once_are_held_and_deletions_are_not() {
    let (server, writer) = started().await;
    for id in 1..=2 {
        writer.put(&endpoint(id), &format!("10.0.0.{id}:80")).await;
    }
    // Sessions that end because nobody speaks for them any more.
    let relay = Relay::to(server.address()).await;
    let mut owners = Vec::new();
    for id in 3..=8 {
        let owner = Client::connector().with_session_timeout(Duration::from_secs(2)).connect(&relay.address().to_string()).await;
        let owner = owner.expect("a session");
        let mode = CreateMode::Ephemeral.with_acls(zookeeper_client::Acls::anyone_all());
        owner.create(&endpoint(id), format!("10.0.0.{id}:80").as_bytes(), &mode).await.expect("a znode");
        owners.push(owner);
    }
    let observed = observe(server.address());
    observed.until("all", |now| endpoints(now, "api").len() == 8).await;

    // One that goes alone, goes.
    owners.pop();
    observed.within(SOON, "one less", |now| endpoints(now, "api").len() == 7).await;
    relay.stall();
    let status = observed.until_status("the end of the others is held", |status| status.held.is_some()).await;
    let held = endpoints(&observed.feed().latest().expect("a snapshot"), "api").len();
    assert!(held >= 7, "also those that went before it could be known: {held} {status:?}");

    for id in 1..=2 {
        writer.delete(&endpoint(id)).await;
    }
    let now = observed.within(SOON, "what was deleted goes", |now| endpoints(now, "api").len() == held - 2).await;
    assert!(!endpoints(&now, "api").contains(&"10.0.0.1:80".to_owned()));
    assert!(observed.feed().release());
    observed.within(SOON, "confirmed", is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_registrars_write_is_served() {
    let (server, writer) = started().await;
    let route = RouteTemplate::parse(r#"Host("{name}.example.com")"#).ok();
    let layout = LayoutKind::Services;
    let observed = observe_with(ZookeeperConfig { prefix: layout.prefix_default(), layout, route, ..config(server.address()) });
    observed.until("an empty store", is_empty).await;

    // registrator.
    let json = r#"{"Name":"apache","IP":"10.0.0.1","PublicPort":32768,"PrivatePort":80,"ContainerID":"6ef","Tags":["a"],"Attrs":{}}"#;
    writer.make("/services/apache/10.0.0.1:32768", json, CreateMode::Ephemeral).await;
    // nerve, which makes them in order; and synapse's settings for all in the folder.
    writer.put("/services/web", r#"{"haproxy":{"server_options":"check"}}"#).await;
    let nerve = r#"{"host":"10.0.0.2","port":3000,"name":"i-1","weight":5}"#;
    let first = writer.make("/services/web/i-1_", nerve, CreateMode::EphemeralSequential).await;
    // nerve with `use_path_encoding`.
    let text = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, nerve.replace("i-1", "i-2").replace("0.2", "0.3"));
    let second = writer.make(&format!("/services/web/base64_{}_{text}_", text.len()), "", CreateMode::EphemeralSequential).await;
    // A ServerSet.
    let member = |status: &str| {
        format!(r#"{{"serviceEndpoint":{{"host":"10.0.0.4","port":31000}},"additionalEndpoints":{{}},"status":"{status}","shard":0}}"#)
    };
    let alive = writer.make("/services/aurora/prod/hello/member_", &member("ALIVE"), CreateMode::EphemeralSequential).await;
    writer.make("/services/aurora/prod/hello/member_", &member("STOPPING"), CreateMode::EphemeralSequential).await;

    let is_all = |now: &Snapshot| {
        endpoints(now, "apache") == ["10.0.0.1:32768"]
            && endpoints(now, "web") == ["10.0.0.2:3000", "10.0.0.3:3000"]
            && endpoints(now, "aurora%2Fprod%2Fhello") == ["10.0.0.4:31000"]
    };
    let now = observed.until("all three", is_all).await;
    let problems: Vec<_> = now.all_problems().map(ToString::to_string).collect();
    assert!(problems.len() == 1 && problems[0].contains("aurora%2Fprod%2Fhello") && problems[0].contains("no route"), "{problems:?}");
    assert_eq!(now.routes["web"].value.as_ref().map(|route| route.rule.text()), Ok(r#"Host("web.example.com")"#));
    let weights: Vec<_> =
        now.upstreams["web"].endpoints.values().filter_map(|entry| entry.value.as_ref().ok()).map(|it| it.weight).collect();
    assert_eq!(weights, [5, 5]);

    // Who starts anew reads the same out of lists.
    observe_with(ZookeeperConfig { prefix: layout.prefix_default(), layout, ..config(server.address()) }).until("the same", is_all).await;

    for (gone, left) in [(&first, 1), (&second, 0)] {
        writer.delete(gone).await;
        observed.within(SOON, "one less", |now| endpoints(now, "web").len() == left).await;
    }
    // The folder has no children any more, and its settings are no instance either.
    let now = observed.feed().latest().expect("a snapshot");
    assert!(!now.upstreams.contains_key("web") || endpoints(&now, "web").is_empty());
    writer.client().set_data(&alive, member("STOPPED").as_bytes(), None).await.expect("written");
    observed.within(SOON, "it stops", |now| now.upstreams["aurora%2Fprod%2Fhello"].endpoints.is_empty()).await;
    assert_eq!(observed.feed().status().restarts, 0);
}

/// Instances that register anew again and again, as nerve's do when their session blips, while requests are sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_to_registrations_that_come_and_go() {
    let (zookeeper, writer) = started().await;
    let (program, handle) = ProgramProvider::new(Name::literal("program"));
    let listener = (Name::literal("web"), Listener::http("127.0.0.1:0".parse().unwrap()));
    handle.publish(RoutingConfig { listeners: [listener].into(), ..RoutingConfig::default() });
    let (layout, route) = (LayoutKind::Services, RouteTemplate::parse(r#"Host("{name}.test")"#).ok());
    let config = ZookeeperConfig { prefix: layout.prefix_default(), layout, route, ..config(zookeeper.address()) };
    let provider = ZookeeperProvider::new(Name::literal("zookeeper"), config);
    let instances = [Endpoint::start(0, AfterResponse::Keep).await, Endpoint::start(1, AfterResponse::Keep).await];
    let register = async |instance: usize| {
        let address = instances[instance].address;
        let value = format!(r#"{{"host":"{}","port":{},"name":"i-{instance}"}}"#, address.ip(), address.port());
        writer.make(&format!("/services/web/i-{instance}_"), &value, CreateMode::EphemeralSequential).await
    };
    let mut registered = [register(0).await, register(1).await];
    let server = Server::builder().workers(1).provider(program).provider(provider).start().expect("a server starts");
    let mut generations = server.status().generations();
    let is_served = generations.wait_for(|opened| {
        let table = server.table();
        *opened >= table.generation && table.listeners.contains_key("web") && table.upstreams.contains_key("web")
    });
    tokio::time::timeout(DEADLINE, is_served).await.expect("in time").expect("the server lives");

    let address = server.local_addr(&Name::literal("web")).expect("the listener is open");
    let is_over = tokio_util::sync::CancellationToken::new();
    let ask = async {
        let mut connection = Connection::open(address).await.expect("it listens");
        let mut answered = [0, 0];
        while !is_over.is_cancelled() {
            let answer = connection.exchange("GET / HTTP/1.1\r\nHost: web.test\r\n\r\n").await.expect("an answer");
            assert_eq!(answer.status(), 200, "after {answered:?}: {}", answer.head);
            answered[usize::from(answer.body.starts_with('1'))] += 1;
        }
        answered
    };
    let mut changes = server.status().generations();
    let blip = async {
        for round in 0..4 {
            let instance = round % 2;
            writer.delete(&registered[instance]).await;
            registered[instance] = register(instance).await;
            // The old one is let go, and not before the new one is there.
            let id = registered[instance].rsplit('/').next().expect("a path has a name").to_owned();
            let is_replaced = changes.wait_for(|_| {
                let table = server.table();
                let endpoints = &table.upstreams["web"].endpoints;
                endpoints.len() == 2 && endpoints.iter().any(|endpoint| endpoint.id.as_ref().is_some_and(|name| name.as_str() == id))
            });
            is_replaced.await.expect("the server lives");
        }
        is_over.cancel();
    };
    let (answered, ()) = tokio::time::timeout(DEADLINE, async { tokio::join!(ask, blip) }).await.expect("in time");
    assert!(answered.iter().all(|count| *count > 0), "{answered:?}");
    assert!(server.shutdown().await, "nothing is cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_vulcand_would_write_is_served() {
    let (server, writer) = started().await;
    let layout = LayoutKind::Vulcand;
    let observed = observe_with(ZookeeperConfig { prefix: layout.prefix_default(), layout, ..config(server.address()) });
    observed.until("an empty store", is_empty).await;
    writer.put("/vulcand/backends/b1/backend", r#"{"Type":"http"}"#).await;
    writer.put("/vulcand/backends/b1/servers/s1", r#"{"URL":"http://10.0.0.1:5000"}"#).await;
    writer.put("/vulcand/frontends/f1/frontend", r#"{"Type":"http","BackendId":"b1","Route":"PathRegexp(\"/.*\")"}"#).await;
    let now = observed.until("the frontend", |now| now.routes.contains_key("f1") && endpoints(now, "b1") == ["10.0.0.1:5000"]).await;
    assert_eq!(now.all_problems().count(), 0);
    writer.delete("/vulcand/backends/b1/servers/s1").await;
    let now = observed.within(SOON, "it is gone", |now| endpoints(now, "b1").is_empty()).await;
    assert_eq!(now.removals, Removals::Explicit);
}

/// More than a value may have, where the server takes more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_znode_that_is_too_large_is_a_problem_and_others_serve() {
    let mut server = ZooKeeper::stopped().property("jute.maxbuffer", "8000000");
    server.run().await;
    let writer = server.writer().await;
    writer.put(ONE, "10.0.0.1:80").await;
    writer.put(&endpoint(2), &"x".repeat(4_000_000)).await;
    let observed = observe(server.address());
    let now = observed.until("the one that is not", has_one).await;
    let problems: Vec<_> = now.all_problems().map(ToString::to_string).collect();
    assert!(problems.len() == 1 && problems[0].contains("endpoint `api/2`: the znode is too large"), "{problems:?}");
    writer.put(&endpoint(2), "10.0.0.2:80").await;
    observed.within(SOON, "it was mended", |now| endpoints(now, "api").len() == 2).await;
    assert_eq!(observed.feed().status().restarts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_takes_over() {
    let dead = ZooKeeper::stopped();
    let (server, writer) = started().await;
    writer.put(ONE, "10.0.0.1:80").await;
    let endpoints = vec![dead.address().to_string(), server.address().to_string()];
    let observed = observe_with(ZookeeperConfig { endpoints, ..config("") });
    observed.within(SOON, "the answer of the second", has_one).await;
}

/// What a server that is none, or is not well, does with a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_answer_is_not_empty() {
    let session = |timeout: i32, id: i64| {
        let body = [0_i32.to_be_bytes().as_slice(), &timeout.to_be_bytes(), &id.to_be_bytes(), &16_i32.to_be_bytes(), &[0; 17]].concat();
        [i32::try_from(body.len()).expect("short").to_be_bytes().as_slice(), &body].concat()
    };
    let answer =
        |xid: i32, error: i32| [16_i32.to_be_bytes().as_slice(), &xid.to_be_bytes(), &7_i64.to_be_bytes(), &error.to_be_bytes()].concat();
    for (says, stays, expected) in [
        (Vec::new(), false, "the server gives no session"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), true, "breaks the protocol"),
        (session(0, 0), true, "it gives no session"),
        (session(2000, 7), true, "no sign of life"),
        (session(2000, 7), false, "the server closed the connection"),
        ([session(2000, 7), answer(99, 0)].concat(), true, "answers what nobody asked"),
        ([session(2000, 7), answer(-4, -115)].concat(), true, "refuses the user"),
        ([session(2000, 7), vec![0xff; 40]].concat(), true, "a length is negative"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let serve = async {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut connect = [0; 49];
                let _ = stream.read_exact(&mut connect).await;
                let _ = stream.write_all(&says).await;
                held.extend(Some(stream).filter(|_| stays));
            }
        };
        let observed = observe(address);
        tokio::select! {
            () = serve => unreachable!("it accepts"),
            error = error_of(&observed) => assert!(error.contains(expected), "{expected}: {error}"),
        }
        assert!(observed.feed().latest().is_none(), "{expected}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speaks_tls_both_ways() {
    let ca = {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
    };
    let issue = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.signed_by(&key, &ca).expect("a certificate").pem(), key.serialize_pem())
    };
    let mut server = ZooKeeper::stopped();
    let write = |name: &str, text: &str| {
        let path = server.directory().join(name);
        std::fs::write(&path, text).expect("our own directory");
        path
    };
    let (cert, key) = issue("zookeeper.test");
    let (identity, roots) = (write("server.pem", &format!("{key}{cert}")), write("ca.pem", &ca.pem()));
    let (cert, key) = issue("nuncio.test");
    let tls = ClientTls {
        ca: Some(Pem::Path(roots.clone())),
        cert: Some(Pem::Text(cert)),
        key: Some(Pem::Text(key)),
        server_name: Some("zookeeper.test".into()),
    };
    let secure = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("a free port on loopback");
    for line in [
        format!("secureClientPort={}", secure.port()),
        "secureClientPortAddress=127.0.0.1".into(),
        "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory".into(),
        format!("ssl.keyStore.location={}", identity.display()),
        "ssl.keyStore.type=PEM".into(),
        format!("ssl.trustStore.location={}", roots.display()),
        "ssl.trustStore.type=PEM".into(),
        // It would look the client's address up.
        "ssl.hostnameVerification=false".into(),
    ] {
        server = server.setting(&line);
    }
    server.run().await;
    server.writer().await.put(ONE, "10.0.0.1:80").await;
    let observe = |tls| observe_with(ZookeeperConfig { tls, ..config(secure) });
    observe(Some(tls.clone())).until("the endpoint", has_one).await;
    for tls in [None, Some(ClientTls { cert: None, key: None, ..tls.clone() }), Some(ClientTls { server_name: None, ..tls.clone() })] {
        let refused = observe(tls);
        error_of(&refused).await;
        assert!(refused.feed().latest().is_none());
    }
    // Nothing of that is a fault of the server's.
    tokio::time::timeout(DEADLINE, observe(Some(tls)).until("the endpoint", has_one)).await.expect("in time");
}
