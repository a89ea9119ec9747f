//! The Docker provider on a real engine: what its containers go through, and what it goes through itself.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nuncio::config::providers::{ClientTls, Convention, DockerConfig, EngineAddress, RouteTemplate};
use nuncio::config::{Pem, Snapshot};
use nuncio::discovery::{DockerProvider, FeedState};
use nuncio::names::Name;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::dockerd::{Dockerd, IMAGE};
use support::{Observed, endpoints, is_empty};

/// Runs until it is killed: the first process of a container ignores TERM unless it asks for it.
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "1000"];

fn observe(engine: &Dockerd) -> Observed {
    let config = DockerConfig { endpoint: EngineAddress::Unix(engine.socket()), ..DockerConfig::default() };
    Observed::new(Box::new(DockerProvider::new(Name::literal("docker"), config)))
}

/// Starts a container that exposes port 80 and has `options`. Its address.
fn run(engine: &Dockerd, name: &str, options: &[&str]) -> String {
    let mut arguments = vec!["run", "--detach", "--expose=80", "--name", name];
    arguments.extend(options);
    arguments.push(IMAGE);
    arguments.extend(SLEEP);
    engine.docker(&arguments);
    format!("{}:80", engine.docker(&["inspect", "--format={{.NetworkSettings.IPAddress}}", name]))
}

fn rule(snapshot: &Snapshot, route: &str) -> Option<String> {
    snapshot.routes.get(route)?.value.as_ref().ok().map(|route| route.rule.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_come_change_and_go() {
    let engine = Dockerd::start().await;
    let observed = observe(&engine);
    observed.until("an engine without containers is empty, and live", is_empty).await;

    let one = run(&engine, "one", &["--label=nuncio.upstream=web", "--label=nuncio.host=a.test"]);
    let snapshot = observed.until("a container", |snapshot| endpoints(snapshot, "web") == [one.clone()]).await;
    assert_eq!(rule(&snapshot, "one").as_deref(), Some(r#"Host("a.test")"#));
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);

    let two = run(&engine, "two", &["--label=nuncio.upstream=web"]);
    observed.until("it is scaled", |snapshot| endpoints(snapshot, "web") == [one.clone(), two.clone()]).await;

    engine.docker(&["pause", "two"]);
    observed.until("a paused one gets nothing", |snapshot| endpoints(snapshot, "web") == [one.clone()]).await;
    engine.docker(&["unpause", "two"]);
    observed.until("it goes on", |snapshot| endpoints(snapshot, "web").len() == 2).await;

    // Labels change with a new container only. Another name keeps its place in the upstream.
    engine.docker(&["rm", "--force", "one"]);
    observed.until("it is gone with its route", |snapshot| endpoints(snapshot, "web") == [two.clone()] && snapshot.routes.is_empty()).await;
    run(&engine, "one", &["--label=nuncio.upstream=web", "--label=nuncio.host=b.test", "--label=nuncio.hots=x"]);
    let snapshot = observed.until("its new labels", |snapshot| rule(snapshot, "one").as_deref() == Some(r#"Host("b.test")"#)).await;
    let problems: Vec<_> = snapshot.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["there is no `nuncio.hots`; did you mean `nuncio.host`? (docker: container one, label nuncio.hots)"]);
    observed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_is_told_to_end_gets_no_new_requests() {
    let engine = Dockerd::start().await;
    let observed = observe(&engine);
    run(&engine, "web", &["--label=nuncio.host=a.test"]);
    observed.until("the container", |snapshot| endpoints(snapshot, "web").len() == 1).await;

    engine.docker(&["kill", "--signal=HUP", "web"]);
    run(&engine, "other", &["--label=nuncio.host=b.test"]);
    let snapshot = observed.until("another one", |snapshot| endpoints(snapshot, "other").len() == 1).await;
    assert_eq!(endpoints(&snapshot, "web").len(), 1, "a signal to read its files again is no end");

    // It ignores TERM, so the engine waits and kills it in the end.
    let started = Instant::now();
    let mut stop = engine.docker_spawn(&["stop", "--time=5", "web"]);
    let snapshot = observed.until("no new requests", |snapshot| endpoints(snapshot, "web").is_empty()).await;
    assert!(started.elapsed() < Duration::from_secs(4), "at once: {:?}", started.elapsed());
    assert!(snapshot.routes.contains_key("web"), "its route stays, and fails closed");
    assert!(stop.wait().expect("our own child can be waited for").success());
    observed.until("it is gone", |snapshot| !snapshot.routes.contains_key("web")).await;

    engine.docker(&["start", "web"]);
    observed.until("it is back", |snapshot| endpoints(snapshot, "web").len() == 1).await;
    observed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_of_the_engine_count() {
    let engine = Dockerd::start().await;
    let observed = observe(&engine);
    let check = "--health-cmd=/bin/busybox test -e /well";
    run(&engine, "web", &["--label=nuncio.host=a.test", check, "--health-interval=1s", "--health-retries=1"]);
    let snapshot = observed.until("the container", |snapshot| snapshot.routes.contains_key("web")).await;
    assert!(endpoints(&snapshot, "web").is_empty(), "its check has not passed");
    engine.docker(&["exec", "web", "/bin/busybox", "touch", "/well"]);
    observed.until("it is healthy", |snapshot| endpoints(snapshot, "web").len() == 1).await;
    engine.docker(&["exec", "web", "/bin/busybox", "rm", "/well"]);
    observed.until("it is unhealthy", |snapshot| endpoints(snapshot, "web").is_empty()).await;
    observed.stop().await;
}

/// As `dockerd --tlsverify` wants it, with files that are replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speaks_tls_both_ways() {
    let authority = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
    };
    let (ours, foreign) = (authority(), authority());
    let issue = |by: &CertifiedIssuer<'static, KeyPair>, name: &str| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.signed_by(&key, by).expect("a certificate").pem(), key.serialize_pem())
    };
    let write = |path: PathBuf, text: &str| {
        std::fs::write(&path, text).expect("our own directory");
        path
    };
    let (server_cert, server_key) = issue(&ours, "127.0.0.1");
    let engine = Dockerd::start_with(|directory| {
        let argument = |name: &str, file: &str, text: &str| format!("--{name}={}", write(directory.join(file), text).display());
        vec![
            "--host=tcp://127.0.0.1:2376".into(),
            "--tlsverify".into(),
            argument("tlscacert", "ca.pem", &ours.pem()),
            argument("tlscert", "server-cert.pem", &server_cert),
            argument("tlskey", "server-key.pem", &server_key),
        ]
    })
    .await;
    run(&engine, "web", &["--label=nuncio.host=a.test"]);
    let file = |name: &str| engine.directory().join(name);
    let put = |(cert, key): (String, String)| {
        write(file("cert.pem"), &cert);
        write(file("key.pem"), &key);
    };
    put(issue(&foreign, "nuncio.test"));
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| Some(Pem::Path(file(name))));
    let tls = ClientTls { ca, cert, key, server_name: None };
    let observe = |tls: Option<ClientTls>| {
        let endpoint = "tcp://127.0.0.1:2376".parse().expect("an address");
        let config = DockerConfig { endpoint, tls, poll: Some(Duration::from_millis(200)), ..DockerConfig::default() };
        Observed::new(Box::new(DockerProvider::new(Name::literal("docker"), config)))
    };
    engine.inside(|| async {
        let other = |change: &dyn Fn(&mut ClientTls)| {
            let mut tls = tls.clone();
            change(&mut tls);
            observe(Some(tls))
        };
        let nobody = other(&|tls| (tls.cert, tls.key) = (None, None));
        let untrusting = other(&|tls| tls.ca = Some(Pem::Text(foreign.pem())));
        let misled = other(&|tls| tls.server_name = Some("other.test".into()));
        for (observed, who) in [(nobody, "nobody"), (untrusting, "untrusting"), (misled, "misled"), (observe(None), "plain")] {
            observed.until_status(who, |status| matches!(status.state, FeedState::Failing { .. })).await;
            assert!(observed.feed().latest().is_none(), "{who}");
            observed.stop().await;
        }
        let observed = observe(Some(tls.clone()));
        observed.until_status("a foreign certificate", |status| matches!(status.state, FeedState::Failing { .. })).await;
        put(issue(&ours, "nuncio.test"));
        observed.until("the renewed one is taken", |snapshot| endpoints(snapshot, "web").len() == 1).await;
        put(issue(&foreign, "nuncio.test"));
        observed.until_status("and the next one", |status| matches!(status.state, FeedState::Failing { .. })).await;
        assert!(observed.feed().latest().is_some(), "what was known last is still there");
        observed.stop().await;
    });
}

/// In labels, and, where registrator reads it, in the environment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_of_others_are_read_if_asked_for() {
    let engine = Dockerd::start().await;
    let web = run(&engine, "web", &["--env=SERVICE_NAME=shop", "--label=SERVICE_TAGS=a", "--label=HAPROXY_0_AUTH=x"]);
    let lb = ["--expose=443", "--label=HAPROXY_GROUP=external", "--label=HAPROXY_1_VHOST=a.test", "--label=HAPROXY_1_STICKY=true"];
    run(&engine, "lb", &lb);
    let hive = run(&engine, "hive", &["--label=published_fqdn=b.test"]);
    let none = observe(&engine);
    none.until("ours alone: nothing", is_empty).await;
    none.stop().await;

    let conventions = vec![Convention::Registrator, Convention::Haproxy, Convention::Hive];
    let route = RouteTemplate::parse(r#"Host("{name}.example.com")"#).ok();
    let endpoint = EngineAddress::Unix(engine.socket());
    let config = DockerConfig { endpoint, conventions, route, ..DockerConfig::default() };
    let observed = Observed::new(Box::new(DockerProvider::new(Name::literal("docker"), config)));
    let snapshot = observed.until("all of them", |snapshot| snapshot.routes.len() == 3).await;
    assert_eq!(rule(&snapshot, "shop").as_deref(), Some(r#"Host("shop.example.com")"#));
    assert_eq!(rule(&snapshot, "lb-1").as_deref(), Some(r#"Host("a.test")"#));
    assert_eq!(rule(&snapshot, "hive").as_deref(), Some(r#"Host("b.test")"#));
    assert_eq!((endpoints(&snapshot, "shop"), endpoints(&snapshot, "hive")), (vec![web], vec![hive]));
    assert!(endpoints(&snapshot, "lb-1").iter().all(|address| address.ends_with(":443")), "{:?}", endpoints(&snapshot, "lb-1"));
    let problems: Vec<_> = snapshot.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["there is no `HAPROXY_GROUP` (docker: container web, label HAPROXY_0_AUTH)"]);

    run(&engine, "more", &["--env=SERVICE_NAME=shop"]);
    observed.until("one more", |snapshot| endpoints(snapshot, "shop").len() == 2).await;
    engine.docker(&["rm", "--force", "web", "more"]);
    observed.until("the service is gone with its last container", |snapshot| !snapshot.routes.contains_key("shop")).await;
    observed.stop().await;
}

/// Invariant I7: error is not empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_restarts_is_found_again() {
    let mut engine = Dockerd::start().await;
    let observed = observe(&engine);
    run(&engine, "stays", &["--label=nuncio.host=a.test", "--restart=always"]);
    run(&engine, "ends", &["--label=nuncio.host=b.test"]);
    observed.until("both", |snapshot| snapshot.routes.len() == 2).await;

    engine.end();
    let status = observed.until_status("it fails", |status| matches!(status.state, FeedState::Failing { .. })).await;
    assert!(status.has_snapshot && observed.feed().latest().is_some(), "what was known last is still there");
    engine.run().await;
    let is_right = |snapshot: &Snapshot| endpoints(snapshot, "stays").len() == 1 && !snapshot.routes.contains_key("ends");
    observed.until("the one that was started again", is_right).await;
    observed.stop().await;
}
