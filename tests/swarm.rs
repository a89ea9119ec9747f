//! The Swarm provider on a real engine that is the only manager of a Swarm: what services and tasks go through, and what requests notice.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use nuncio::config::providers::{AddressChoice, Convention, EngineAddress, SwarmConfig};
use nuncio::config::snapshot::Removals;
use nuncio::config::{Pem, Snapshot};
use nuncio::discovery::{FeedState, Provider, SwarmProvider};
use nuncio::{Name, Server};
use support::dockerd::{Dockerd, IMAGE};
use support::http1::Connection;
use support::stub::{Say, Stub};
use support::{DEADLINE, Observed, Recorder, endpoints, is_empty};
use tokio::task::JoinSet;

/// Runs until it is killed.
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "1000"];

/// Answers HTTP with the start of its container's id, at once or after a while, until TERM ends it at once.
const SERVE: &str = r#"/bin/busybox mkdir -p /www/cgi-bin
/bin/busybox hostname > /www/id
printf '#!/bin/sh\n/bin/busybox sleep 0.3\nprintf "Content-Type: text/plain\\r\\nContent-Length: 13\\r\\n\\r\\n"\n/bin/busybox hostname\n' > /www/cgi-bin/slow
/bin/busybox chmod +x /www/cgi-bin/slow
/bin/busybox httpd -f -p 80 -h /www &
trap "kill -9 $!; exit 0" TERM
wait"#;

async fn start() -> Dockerd {
    let engine = Dockerd::start().await;
    engine.init_swarm();
    engine
}

fn config(engine: &Dockerd) -> SwarmConfig {
    SwarmConfig { endpoints: vec![EngineAddress::Unix(engine.socket())], ..SwarmConfig::default() }
}

fn provider(config: SwarmConfig) -> Box<SwarmProvider> {
    Box::new(SwarmProvider::new(Name::literal("swarm"), config))
}

/// Makes a service with `options` that sleeps.
fn create(engine: &Dockerd, name: &str, options: &[&str]) {
    let mut arguments = vec!["service", "create", "--detach", "--name", name, "--stop-grace-period=1s"];
    arguments.extend(options);
    arguments.push(IMAGE);
    arguments.extend(SLEEP);
    engine.docker(&arguments);
}

fn rule(snapshot: &Snapshot, route: &str) -> Option<String> {
    snapshot.routes.get(route)?.value.as_ref().ok().map(|route| route.rule.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_come_scale_change_and_go() {
    let engine = start().await;
    let observed = Observed::new(provider(config(&engine)));
    observed.until("a Swarm without services is empty, and live", is_empty).await;

    let in_host_mode = "--publish=mode=host,target=80";
    create(&engine, "web", &["--label=nuncio.host=a.test", "--container-label=nuncio.weight=3", "--replicas=2", in_host_mode]);
    let snapshot = observed.until("two tasks", |snapshot| endpoints(snapshot, "web").len() == 2).await;
    assert_eq!(rule(&snapshot, "web").as_deref(), Some(r#"Host("a.test")"#));
    assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
    let weights = snapshot.upstreams["web"].endpoints.values().map(|entry| entry.value.as_ref().map(|endpoint| endpoint.weight));
    assert_eq!(weights.collect::<Vec<_>>(), [Ok(3), Ok(3)], "labels of containers count too");
    assert!(endpoints(&snapshot, "web").iter().all(|address| address.starts_with("127.0.0.1:")), "{:?}", endpoints(&snapshot, "web"));

    engine.docker(&["service", "scale", "--detach", "web=3"]);
    observed.until("three tasks", |snapshot| endpoints(snapshot, "web").len() == 3).await;
    engine.docker(&["service", "scale", "--detach", "web=1"]);
    observed.until("one task", |snapshot| endpoints(snapshot, "web").len() == 1).await;

    // A label is changed without touching any task.
    engine.docker(&["service", "update", "--detach", "--label-add=nuncio.host=b.test", "web"]);
    observed.until("its new label", |snapshot| rule(snapshot, "web").as_deref() == Some(r#"Host("b.test")"#)).await;

    create(&engine, "everywhere", &["--mode=global", "--label=nuncio.host=c.test", "--network=host", "--label=nuncio.port=8080"]);
    observed.until("a global one", |snapshot| endpoints(snapshot, "everywhere") == ["127.0.0.1:8080"]).await;
    create(&engine, "meshed", &["--label=nuncio.host=d.test", "--publish=8081:80"]);
    let snapshot = observed.until("one that only the mesh reaches", |snapshot| !snapshot.problems.is_empty()).await;
    let problem = snapshot.problems[0].to_string();
    assert!(problem.contains("the routing mesh is not used") && problem.contains("service meshed"), "{problem}");

    engine.docker(&["service", "rm", "web"]);
    observed.until("it is gone", |snapshot| !snapshot.routes.contains_key("web")).await;
    observed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_reached_on_the_network_that_is_chosen() {
    let engine = start().await;
    for network in ["front", "back"] {
        engine.docker(&["network", "create", "--driver=overlay", network]);
    }
    let both = ["--network=front", "--network=back"];
    let port = ["--label=nuncio.host=a.test", "--label=nuncio.port=80"];
    create(&engine, "turns", &[port.as_slice(), &both, &["--endpoint-mode=dnsrr", "--replicas=2"]].concat());
    create(&engine, "virtual", &[port.as_slice(), &both, &["--publish=8081:80"]].concat());
    create(&engine, "own", &[port.as_slice(), &both, &["--label=nuncio.network=back"]].concat());
    let observed = Observed::new(provider(SwarmConfig { network: Some("front".into()), ..config(&engine) }));
    let count = |snapshot: &Snapshot, upstream: &str| endpoints(snapshot, upstream).len();
    let is_whole = |now: &Snapshot| (count(now, "turns"), count(now, "virtual"), count(now, "own")) == (2, 1, 1);
    let snapshot = observed.until("all tasks", is_whole).await;

    let subnet = |network: &str| {
        let subnet = engine.docker(&["network", "inspect", "--format={{(index .IPAM.Config 0).Subnet}}", network]);
        subnet.trim_end_matches("0/24").to_owned()
    };
    for (upstream, network) in [("turns", "front"), ("virtual", "front"), ("own", "back")] {
        let prefix = subnet(network);
        let found = endpoints(&snapshot, upstream);
        assert!(found.iter().all(|address| address.starts_with(&prefix)), "{upstream}: {found:?} in {prefix}");
        let virtual_ips = engine.docker(&["service", "inspect", "--format={{json .Endpoint.VirtualIPs}}", upstream]);
        let is_virtual = |address: &String| virtual_ips.contains(&format!("\"{}/", address.trim_end_matches(":80")));
        assert!(!found.iter().any(is_virtual), "{found:?} are tasks, not {virtual_ips}");
    }
    observed.stop().await;

    let published = Observed::new(provider(SwarmConfig { address: Some(AddressChoice::Published), ..config(&engine) }));
    published.until("none is published", |snapshot| snapshot.problems.len() == 3).await;
    published.stop().await;
}

/// A manager says of each task that is to end that it is; of one that crashed it says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_told_to_end_goes_and_who_crashed_is_missing() {
    let engine = start().await;
    let in_host_mode = "--publish=mode=host,target=80";
    create(&engine, "web", &["--label=nuncio.host=a.test", "--replicas=3", in_host_mode, "--restart-delay=30s"]);
    let mut provider = provider(config(&engine));
    let (recorder, mut recorded) = Recorder::new();
    let check = async {
        let mut next = async |count: usize| loop {
            let (snapshot, at) = recorded.recv().await.expect("the provider lives");
            if endpoints(&snapshot, "web").len() == count {
                return (snapshot.removals, at);
            }
        };
        next(3).await;
        engine.docker(&["service", "scale", "--detach", "web=2"]);
        assert_eq!(next(2).await.0, Removals::Explicit, "it was told to end");

        let tasks = engine.docker(&["service", "ps", "--quiet", "--no-trunc", "--filter=desired-state=running", "web"]);
        let task = tasks.lines().next().expect("a task");
        let pid = engine.docker(&["inspect", "--type=task", "--format={{.Status.ContainerStatus.PID}}", task]);
        let pid = rustix::process::Pid::from_raw(pid.parse().expect("a number")).expect("a process");
        let killed_at = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("root can kill it");
        let (removals, at) = next(1).await;
        assert_eq!(removals, Removals::Inferred, "nobody told it to end");
        let took = at - killed_at;
        assert!(took < Duration::from_secs(2), "{took:?}");

        let node = engine.docker(&["node", "ls", "--quiet"]);
        engine.docker(&["node", "update", "--availability=drain", &node]);
        assert_eq!(next(0).await.0, Removals::Explicit, "its node was drained");
    };
    tokio::select! {
        result = provider.watch(&recorder) => panic!("the provider stopped: {result:?}"),
        result = tokio::time::timeout(DEADLINE * 2, check) => result.expect("in time"),
    }
}

/// As hive-builder's certbot does: the renewed certificate is written into the labels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_in_labels_are_replaced() {
    let engine = start().await;
    let pair = |common_name: &str| {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed([common_name.to_owned()]).expect("a certificate");
        (cert.pem(), signing_key.serialize_pem())
    };
    let labels = |(cert, key): &(String, String)| [format!("cert={cert}"), format!("key={key}")];
    let first = pair("a.test");
    let [cert, key] = labels(&first).map(|label| format!("--label={label}"));
    let environment = ["--env=SERVICE_NAME=shop", "--label=port=8080", "--publish=mode=host,target=8080"];
    create(&engine, "web", &[environment.as_slice(), &["--label=published_fqdn=a.test", &cert, &key]].concat());
    let conventions = vec![Convention::Hive, Convention::Registrator];
    let observed = Observed::new(provider(SwarmConfig { conventions, ..config(&engine) }));
    let is_there = |snapshot: &Snapshot| endpoints(snapshot, "web").len() == 1 && endpoints(snapshot, "shop").len() == 1;
    let snapshot = observed.until("the service", is_there).await;
    assert_eq!(rule(&snapshot, "web").as_deref(), Some(r#"Host("a.test")"#));
    assert!(snapshot.all_problems().next().is_none(), "{:?}", snapshot.all_problems().collect::<Vec<_>>());
    let shown = |snapshot: &Snapshot| snapshot.certificates["web"].value.as_ref().ok().map(|certificate| certificate.cert.clone());
    assert_eq!(shown(&snapshot), Some(Pem::Text(first.0)));

    let second = pair("a.test");
    let [cert, key] = labels(&second).map(|label| format!("--label-add={label}"));
    engine.docker(&["service", "update", "--detach", &cert, &key, "web"]);
    let renewed = Some(Pem::Text(second.0));
    observed.until("the renewed one", |snapshot| shown(snapshot) == renewed).await;
    observed.stop().await;
}

/// Requests, one after the other, until told to stop.
struct Traffic {
    clients: JoinSet<Result<usize, String>>,
    is_over: Arc<AtomicBool>,
    /// When the last request began that a container answered, by its short id.
    last: Arc<Mutex<BTreeMap<String, SystemTime>>>,
}

impl Traffic {
    fn to(address: SocketAddr) -> Self {
        let mut traffic = Self { clients: JoinSet::new(), is_over: Arc::default(), last: Arc::default() };
        for path in ["/id", "/id", "/cgi-bin/slow"] {
            let (is_over, last) = (traffic.is_over.clone(), traffic.last.clone());
            traffic.clients.spawn(async move {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let began = SystemTime::now();
                    let mut connection = Connection::open(address).await.map_err(|error| error.to_string())?;
                    let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n");
                    let answer = connection.exchange(&request).await.map_err(|error| format!("{path}, after {count}: {error}"))?;
                    let id = answer.body.trim();
                    if answer.status() != 200 || id.len() != 12 {
                        return Err(format!("{path}, after {count}: {}{}", answer.head, answer.body));
                    }
                    count += 1;
                    let mut last = last.lock().expect("nobody panics with it");
                    let last = last.entry(id.to_owned()).or_insert(began);
                    *last = began.max(*last);
                }
                Ok(count)
            });
        }
        traffic
    }

    /// How many there were, none of which failed, and when each container was asked last.
    async fn end(self) -> (usize, BTreeMap<String, SystemTime>) {
        self.is_over.store(true, Ordering::Relaxed);
        let counts = self.clients.join_all().await.into_iter().collect::<Result<Vec<usize>, String>>();
        let last = self.last.lock().expect("nobody panics with it").clone();
        (counts.expect("no request fails").into_iter().sum(), last)
    }
}

/// Without retries, and of a program that ends with all that it has in hand when it is signalled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_loses_no_request() {
    let engine = start().await;
    let kills = tempfile::NamedTempFile::new().expect("a temporary file");
    let output = File::create(kills.path()).expect("our own file can be written");
    let format = "--format={{.TimeNano}} {{.Actor.ID}} {{.Actor.Attributes.signal}}";
    let mut events = engine.docker_into(output, &["events", "--filter=type=container", "--filter=event=kill", format]);
    let mut arguments = vec!["service", "create", "--detach", "--name=web", "--replicas=3", "--publish=mode=host,target=80"];
    arguments.extend(["--update-parallelism=1", "--stop-grace-period=5s", "--health-interval=300ms", "--health-timeout=5s"]);
    arguments.extend(["--health-cmd=/bin/busybox wget -q -O /dev/null http://127.0.0.1/id"]);
    arguments.extend(["--label=nuncio.host=a.test", "--label=nuncio.upstreams.web.retries=0"]);
    arguments.extend(["--label=nuncio.listeners.web.address=127.0.0.1:8000", IMAGE, "/bin/sh", "-c", SERVE]);
    engine.docker(&arguments);
    let before = engine.inside(|| async {
        let server = Server::builder().workers(1).provider(*provider(config(&engine))).start().expect("a server starts");
        let count = || server.table().upstreams.get("web").map_or(0, |web| web.endpoints.len());
        let mut generations = server.status().generations();
        let both = generations.wait_for(|opened| *opened >= server.table().generation && count() == 3);
        tokio::time::timeout(DEADLINE * 2, both).await.expect("three tasks in time").expect("the server lives");
        let traffic = Traffic::to("127.0.0.1:8000".parse().expect("an address"));
        // Waits until all tasks are new.
        let mut update = engine.docker_spawn(&["service", "update", "--force", "web"]);
        let wait = tokio::task::spawn_blocking(move || update.wait());
        let updated = tokio::time::timeout(DEADLINE * 3, wait).await.expect("an update in time");
        assert!(updated.expect("it does not panic").expect("our own child can be waited for").success());
        let (requests, last) = traffic.end().await;
        server.shutdown().await;
        assert!(requests > 100, "there was traffic: {requests} requests");
        last
    });
    events.kill().expect("our own child can be ended");
    events.wait().expect("our own child can be waited for");

    let log = std::fs::read_to_string(kills.path()).expect("our own file can be read");
    let mut ended = 0;
    for line in log.lines().filter(|line| line.ends_with(" 15")) {
        let mut words = line.split(' ');
        let at: u64 = words.next().and_then(|nanos| nanos.parse().ok()).expect("a moment");
        let signalled = SystemTime::UNIX_EPOCH + Duration::from_nanos(at);
        let id = words.next().and_then(|id| id.get(..12)).expect("an id");
        let Some(asked) = before.get(id) else { continue };
        assert!(*asked < signalled, "{id} was asked {:?} after its TERM", asked.duration_since(signalled));
        ended += 1;
    }
    assert_eq!((ended, before.len()), (3, 6), "all three were replaced while they were asked:\n{log}");
}

/// Invariant I7: error is not empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_manager_is_not_an_empty_swarm() {
    let check = async |observed: Observed, expected: &str| {
        let status = observed.until_status("it fails", |status| matches!(status.state, FeedState::Failing { .. })).await;
        let FeedState::Failing { error } = &status.state else { unreachable!("it was waited for") };
        assert!(error.contains(expected), "{error}");
        assert!(!status.has_snapshot, "nothing was said");
        observed.stop().await;
    };
    let json = "content-type: application/json\r\n";
    let worker = Stub::start(move |asked| async move {
        let say = |status, text: &str| Say::Whole(status, json.into(), text.into());
        match asked.path.split('?').next().unwrap_or_default() {
            "/_ping" => Say::Whole(200, "api-version: 1.41\r\n".into(), "OK".into()),
            "/v1.41/events" => Say::Hang(200, "transfer-encoding: chunked\r\n".into()),
            "/v1.41/info" => say(200, r#"{"Swarm":{"LocalNodeState":"active","RemoteManagers":[{"NodeID":"a","Addr":"10.0.0.5:2377"}]}}"#),
            // As an engine of 20.10 says it.
            _ => say(
                503,
                r#"{"message":"This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager."}"#,
            ),
        }
    })
    .await;
    let worker: EngineAddress = format!("tcp://{}", worker.address).parse().expect("an address");
    let observed = Observed::new(provider(SwarmConfig { endpoints: vec![worker.clone()], ..SwarmConfig::default() }));
    check(observed, "is a worker, and only managers know the services: ask one of them (they speak to each other at 10.0.0.5:2377)").await;

    let engine = Dockerd::start().await;
    check(Observed::new(provider(config(&engine))), "in no Swarm").await;

    engine.init_swarm();
    let endpoints = vec![worker, EngineAddress::Unix(engine.socket())];
    let observed = Observed::new(provider(SwarmConfig { endpoints, ..SwarmConfig::default() }));
    observed.until("the next one is a manager", is_empty).await;
    observed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_restarts_is_found_again() {
    let mut engine = start().await;
    let in_host_mode = "--publish=mode=host,target=80";
    create(&engine, "web", &["--label=nuncio.host=a.test", in_host_mode]);
    let observed = Observed::new(provider(config(&engine)));
    observed.until("the task", |snapshot| endpoints(snapshot, "web").len() == 1).await;
    engine.end();
    let status = observed.until_status("it fails", |status| matches!(status.state, FeedState::Failing { .. })).await;
    assert!(status.has_snapshot && observed.feed().latest().is_some(), "what was known last is still there");
    engine.run().await;
    observed.until_status("it is live again", |status| status.state == FeedState::Live).await;
    create(&engine, "more", &["--label=nuncio.host=b.test", in_host_mode]);
    observed.until("what came since", |snapshot| endpoints(snapshot, "more").len() == 1).await;
    observed.stop().await;
}
