//! docs/ingress.md: a real Swarm, the stacks of the page, and clients on another host that never stop asking.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::task::JoinSet;

use crate::support::DEADLINE;
use crate::support::dockerd::Dockerd;
use crate::support::http1::Connection;
use crate::support::page::Page;
use crate::{build_image, checkout, until};

/// Where clients find the host that they have the first cable to, and the one of the second.
const HOSTS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 99, 1, 1))];

/// A host of its own for clients, with a cable to each engine's. Gone when dropped.
struct ClientHost(Child);

impl ClientHost {
    fn new(engines: &[&Dockerd]) -> Self {
        // It lives until its standard input ends.
        let spawned = Command::new("unshare").args(["--net", "sh", "-c", "ip link set lo up; read line"]).stdin(Stdio::piped()).spawn();
        let host = Self(spawned.expect("unshare can be run, by root"));
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        while std::fs::read_link(format!("/proc/{}/ns/net", host.0.id())).unwrap() == own {
            std::thread::yield_now();
        }
        for (number, engine) in engines.iter().enumerate() {
            cable(engine, host.0.id(), &format!("10.99.{number}"));
        }
        host
    }

    /// Runs what `run` makes on this host.
    fn run<F: Future>(&self, run: impl FnOnce() -> F + Send) -> F::Output
    where
        F::Output: Send,
    {
        let network = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        let enter = move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("root can enter a network");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run())
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for ClientHost {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Lays a cable from an engine's host, which is `.1` of a network there, to that of another process, which is `.2`.
fn cable(engine: &Dockerd, other: u32, network: &str) {
    let name = format!("net-{network}");
    let commands = format!(
        "ip link add {name} type veth peer name {name} netns {other}
        ip addr add {network}.1/24 dev {name}; ip link set {name} up
        nsenter --net=/proc/{other}/ns/net sh -c 'ip addr add {network}.2/24 dev {name}; ip link set {name} up'"
    );
    engine.shell(engine.directory(), &[], &commands);
}

/// Who answered, and the cookie that was set.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    task: String,
    cookie: Option<String>,
}

/// Asks once. Anything but an answer of a task that was told our address is an error.
async fn ask(connection: &mut Connection<tokio::net::TcpStream>, path: &str, cookie: Option<&str>) -> Result<Answer, String> {
    let own = connection.stream().local_addr().map_err(|error| error.to_string())?.ip().to_string();
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    // What a client says of its own address is not believed.
    let request = format!("GET {path} HTTP/1.1\r\nHost: app.example.com\r\nX-Forwarded-For: 192.0.2.1\r\n{cookie}\r\n");
    let answer = tokio::time::timeout(DEADLINE, connection.exchange(&request)).await.map_err(|_| "no answer".to_owned())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let (status, body) = (answer.status(), answer.body.trim());
    match body.split_once(" for ") {
        Some((task, client)) if status == 200 && client == own => Ok(Answer {
            task: task.to_owned(),
            cookie: answer.field("set-cookie").and_then(|cookie| cookie.split(';').next()).map(str::to_owned),
        }),
        _ => Err(format!("{}{body}", answer.head)),
    }
}

async fn ask_at(port: u16, path: &str, cookie: Option<&str>) -> Result<Answer, String> {
    ask_host(SocketAddr::new(HOSTS[0], port), path, cookie).await
}

async fn ask_host(host: SocketAddr, path: &str, cookie: Option<&str>) -> Result<Answer, String> {
    let mut connection = Connection::open(host).await.map_err(|error| error.to_string())?;
    ask(&mut connection, path, cookie).await
}

/// Clients that ask without a pause.
struct Load {
    /// Two instances: sticky clients come to both, others to the first.
    hosts: [SocketAddr; 2],
    is_over: AtomicBool,
    /// What happens meanwhile.
    moment: Mutex<&'static str>,
    /// How many answers each task gave.
    counts: Mutex<BTreeMap<String, usize>>,
}

impl Load {
    fn on(hosts: [SocketAddr; 2]) -> Arc<Self> {
        Arc::new(Self { hosts, is_over: AtomicBool::new(false), moment: Mutex::new("at first"), counts: Mutex::default() })
    }

    /// Asks, in several ways, until it is over. What failed.
    async fn run(self: &Arc<Self>) -> Vec<String> {
        let kinds = ["fresh", "fresh slow", "kept", "kept", "sticky"];
        let clients: JoinSet<_> = kinds.into_iter().map(|kind| self.clone().ask_on(kind)).collect();
        clients.join_all().await.into_iter().filter_map(Result::err).collect()
    }

    async fn ask_on(self: Arc<Self>, kind: &'static str) -> Result<(), String> {
        let path = if kind == "fresh slow" { "/cgi-bin/who?1" } else { "/cgi-bin/who" };
        let mut kept = Connection::open(self.hosts[0]).await.map_err(|error| error.to_string())?;
        let (mut cookie, mut turn) = (None::<String>, 0);
        while !self.is_over.load(Ordering::Relaxed) {
            turn += 1;
            let answer = match kind {
                "kept" => ask(&mut kept, path, None).await,
                "sticky" => ask_host(self.hosts[turn % 2], path, cookie.as_deref()).await,
                _ => ask_host(self.hosts[0], path, None).await,
            };
            let answer = answer.map_err(|error| format!("{kind}, request {turn}, {}: {error}", self.moment.lock().unwrap()))?;
            cookie = answer.cookie.or(cookie);
            *self.counts.lock().unwrap().entry(answer.task).or_default() += 1;
        }
        Ok(())
    }

    /// Waits until `is_it` of the tasks that run, and each of them has answered. Those tasks.
    async fn wait(&self, what: &'static str, engine: &Dockerd, is_it: impl Fn(&BTreeSet<String>) -> bool) -> BTreeSet<String> {
        *self.moment.lock().unwrap() = what;
        let holds = async {
            loop {
                let now = running(engine);
                if is_it(&now) && now.iter().all(|task| self.counts.lock().unwrap().contains_key(task)) {
                    return now;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let held = tokio::time::timeout(DEADLINE * 2, holds).await;
        held.unwrap_or_else(|_| panic!("never {what}: {:?} of {:?}", self.counts.lock().unwrap(), running(engine)))
    }
}

/// Ends a load when dropped: also if something is not as expected meanwhile.
struct EndOfLoad<'a>(&'a Load);

impl Drop for EndOfLoad<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// The containers of the app's tasks that run, by their host names.
fn running(engine: &Dockerd) -> BTreeSet<String> {
    let ids = engine.docker(&["ps", "--quiet", "--filter=label=com.docker.swarm.service.name=shop_app", "--filter=health=healthy"]);
    ids.lines().map(str::to_owned).collect()
}

/// Makes a second instance with the key and the configuration of the first, as on another host.
fn start_another(engine: &Dockerd) {
    let socket = "--mount=type=bind,source=/var/run/docker.sock,target=/var/run/docker.sock,readonly";
    let config = "--config=source=ingress_nuncio,target=/etc/nuncio/nuncio.toml";
    let mut arguments = vec!["service", "create", "--detach", "--name=another", "--mode=global", "--user=0:0", "--network=front"];
    arguments.extend(["--publish=mode=host,published=8081,target=80", "--secret=sticky_key", config, socket, "nuncio"]);
    engine.docker(&arguments);
}

/// Which task a client with a cookie comes to by each of the instances: always the one that set it.
async fn sticks() -> Result<(), String> {
    let mut tasks = BTreeSet::new();
    for _ in 0..20 {
        let first = ask_at(80, "/cgi-bin/who", None).await?;
        for port in [8081, 80, 8081] {
            let again = ask_at(port, "/cgi-bin/who", first.cookie.as_deref()).await?;
            if again != (Answer { task: first.task.clone(), cookie: None }) {
                return Err(format!("{first:?}, and then by port {port} {again:?}"));
            }
        }
        tasks.insert(first.task);
    }
    if tasks.len() == 3 { Ok(()) } else { Err(format!("clients without a cookie came to {tasks:?}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_whatever_tasks_go_through() {
    let engine = Dockerd::start().await;
    engine.init_swarm();
    build_image(&engine, "make image");
    engine.import_programs("busybox", &[], &[]);
    let client = Arc::new(ClientHost::new(&[&engine]));
    let (page, directory) = (Page::open("ingress.md"), checkout());
    let shell = |commands: &str| engine.shell(directory.path(), &[], commands);
    page.run("Deploy", &engine, directory.path());
    let [app, upstreams] = page.commands("An app").try_into().unwrap();
    shell(&app);
    start_another(&engine);
    until("all tasks are up", || running(&engine).len() == 3).await;
    for port in [80, 8081] {
        until("an instance serves", || client.run(|| ask_at(port, "/cgi-bin/who", None)).is_ok()).await;
    }
    until("its endpoints are up", || shell(&upstreams).matches(" up ").count() == 3).await;
    let nuncio = upstreams.replace("/nuncio upstreams", "/nuncio problems");
    let problems = shell(&nuncio);
    assert!(problems.starts_with("no problems"), "it knows the node that it runs on: {problems}");
    client.run(sticks).unwrap();

    let load = Load::on([80, 8081].map(|port| SocketAddr::new(HOSTS[0], port)));
    let clients = tokio::task::spawn_blocking({
        let (client, load) = (client.clone(), load.clone());
        move || client.run(|| async move { load.run().await })
    });
    let end = EndOfLoad(&load);
    let mut tasks = load.wait("at first", &engine, |tasks| tasks.len() == 3).await;
    for command in page.commands("Scale and update").iter().flat_map(|commands| commands.lines()) {
        shell(command);
    }
    let is_new = |before: &BTreeSet<String>, now: &BTreeSet<String>| now.len() == 3 && now.is_disjoint(before);
    tasks = load.wait("updated", &engine, |now| is_new(&tasks, now)).await;
    engine.docker(&["service", "update", "--detach=false", "--endpoint-mode=vip", "shop_app"]);
    tasks = load.wait("with a virtual IP", &engine, |now| is_new(&tasks, now)).await;
    for victim in tasks {
        engine.docker(&["kill", &victim]);
        load.wait("killed", &engine, |now| now.len() == 3 && !now.contains(&victim)).await;
    }
    drop(end);
    let failures = clients.await.unwrap();
    let log = || shell("docker service logs ingress_nuncio 2>&1 | tail -30");
    assert!(failures.is_empty(), "{}\n{}", failures.join("\n"), log());
    let counts = load.counts.lock().unwrap();
    assert!(counts.values().sum::<usize>() > 500, "{counts:?}");
}

/// Who answers a client of a host that has no cookie.
async fn answering(host: IpAddr) -> Result<BTreeSet<String>, String> {
    let mut tasks = BTreeSet::new();
    for _ in 0..20 {
        tasks.insert(ask_host(SocketAddr::new(host, 80), "/cgi-bin/who", None).await?.task);
    }
    Ok(tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_host_asks_its_own_tasks_first() {
    let engines = [Dockerd::start().await, Dockerd::start().await];
    let [first, second] = &engines;
    cable(first, second.process_id(), "10.98.0");
    first.docker(&["swarm", "init", "--advertise-addr=10.98.0.1", "--listen-addr=10.98.0.1"]);
    let token = first.docker(&["swarm", "join-token", "--quiet", "manager"]);
    let token = format!("--token={token}");
    second.docker(&["swarm", "join", "--advertise-addr=10.98.0.2", "--listen-addr=10.98.0.2", &token, "10.98.0.1:2377"]);
    for engine in &engines {
        build_image(engine, "make image");
        engine.import_programs("busybox", &[], &[]);
    }
    let client = Arc::new(ClientHost::new(&[first, second]));
    let (page, directory) = (Page::open("ingress.md"), checkout());
    page.run("Deploy", first, directory.path());
    first.shell(directory.path(), &[], &page.commands("An app")[0]);
    first.docker(&["service", "scale", "--detach=false", "shop_app=4"]);
    until("each host has tasks", || engines.iter().all(|engine| running(engine).len() == 2)).await;
    for (engine, host) in engines.iter().zip(HOSTS) {
        until("each host asks its own", || client.run(|| answering(host)).is_ok_and(|tasks| tasks == running(engine))).await;
    }

    let path = "/cgi-bin/who";
    let there = client.run(|| ask_host(SocketAddr::new(HOSTS[1], 80), path, None)).unwrap();
    let here = client.run(|| ask_host(SocketAddr::new(HOSTS[0], 80), path, there.cookie.as_deref())).unwrap();
    assert_eq!(here, Answer { task: there.task, cookie: None }, "a client stays on its task, also on another host");

    let load = Load::on(HOSTS.map(|host| SocketAddr::new(host, 80)));
    let clients = tokio::task::spawn_blocking({
        let (client, load) = (client.clone(), load.clone());
        move || client.run(|| async move { load.run().await })
    });
    let end = EndOfLoad(&load);
    let node = second.docker(&["info", "--format={{.Swarm.NodeID}}"]);
    first.docker(&["service", "update", "--detach=false", &format!("--constraint-add=node.id=={node}"), "shop_app"]);
    load.wait("moved to the second host", second, |tasks| tasks.len() == 4 && running(first).is_empty()).await;
    drop(end);
    let failures = clients.await.unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(client.run(|| answering(HOSTS[0])).unwrap(), running(second), "a host without tasks asks those of others");
}
