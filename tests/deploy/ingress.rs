//! docs/ingress.md: a real Swarm, the stacks of the page, and clients on another host that never stop asking.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::SocketAddr;
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

/// The host as its clients know it.
const HOST: &str = "10.99.0.1";
/// The client.
const CLIENT: &str = "10.99.0.2";

/// A host of its own for clients, with a cable to the engine's. Gone when dropped.
struct ClientHost(Child);

impl ClientHost {
    fn new(engine: &Dockerd) -> Self {
        // It lives until its standard input ends.
        let spawned = Command::new("unshare").args(["--net", "sh", "-c", "ip link set lo up; read line"]).stdin(Stdio::piped()).spawn();
        let host = Self(spawned.expect("unshare can be run, by root"));
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        while std::fs::read_link(format!("/proc/{}/ns/net", host.0.id())).unwrap() == own {
            std::thread::yield_now();
        }
        let commands = format!(
            "ip link add client type veth peer name eth0 netns {pid}
            ip addr add {HOST}/24 dev client; ip link set client up
            nsenter --net=/proc/{pid}/ns/net sh -c 'ip addr add {CLIENT}/24 dev eth0; ip link set eth0 up'",
            pid = host.0.id()
        );
        engine.shell(engine.directory(), &[], &commands);
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

/// Who answered, and the cookie that was set.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    task: String,
    cookie: Option<String>,
}

/// Asks once. Anything but an answer of a task that was told our address is an error.
async fn ask(connection: &mut Connection<tokio::net::TcpStream>, path: &str, cookie: Option<&str>) -> Result<Answer, String> {
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    // What a client says of its own address is not believed.
    let request = format!("GET {path} HTTP/1.1\r\nHost: app.example.com\r\nX-Forwarded-For: 192.0.2.1\r\n{cookie}\r\n");
    let answer = tokio::time::timeout(DEADLINE, connection.exchange(&request)).await.map_err(|_| "no answer".to_owned())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let (status, body) = (answer.status(), answer.body.trim());
    match body.split_once(" for ") {
        Some((task, CLIENT)) if status == 200 => Ok(Answer {
            task: task.to_owned(),
            cookie: answer.field("set-cookie").and_then(|cookie| cookie.split(';').next()).map(str::to_owned),
        }),
        _ => Err(format!("{}{body}", answer.head)),
    }
}

async fn ask_at(port: u16, path: &str, cookie: Option<&str>) -> Result<Answer, String> {
    let address = SocketAddr::new(HOST.parse().unwrap(), port);
    let mut connection = Connection::open(address).await.map_err(|error| error.to_string())?;
    ask(&mut connection, path, cookie).await
}

/// Clients that ask without a pause.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    /// What happens meanwhile.
    moment: Mutex<&'static str>,
    /// How many answers each task gave.
    counts: Mutex<BTreeMap<String, usize>>,
}

impl Load {
    /// Asks, in several ways, until it is over. What failed.
    async fn run(self: &Arc<Self>) -> Vec<String> {
        let kinds = ["fresh", "fresh slow", "kept", "kept", "sticky"];
        let clients: JoinSet<_> = kinds.into_iter().map(|kind| self.clone().ask_on(kind)).collect();
        clients.join_all().await.into_iter().filter_map(Result::err).collect()
    }

    async fn ask_on(self: Arc<Self>, kind: &'static str) -> Result<(), String> {
        let path = if kind == "fresh slow" { "/cgi-bin/who?1" } else { "/cgi-bin/who" };
        let mut kept = Connection::open(SocketAddr::new(HOST.parse().unwrap(), 80)).await.map_err(|error| error.to_string())?;
        let (mut cookie, mut turn) = (None::<String>, 0);
        while !self.is_over.load(Ordering::Relaxed) {
            turn += 1;
            let answer = match kind {
                "kept" => ask(&mut kept, path, None).await,
                "sticky" => ask_at([80, 8081][turn % 2], path, cookie.as_deref()).await,
                _ => ask_at(80, path, None).await,
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
    let client = Arc::new(ClientHost::new(&engine));
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

    let load = Arc::new(Load::default());
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
