//! The API of a Marathon, as versions 0.7 to 1.5 answered: apps with their tasks as JSON, tasks as text, and the stream of events.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use super::DEADLINE;
use super::stub::{Asked, Say, Stub};

/// What an instance knows to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Age {
    /// JSON and events. `/v2/tasks` is JSON, whatever is asked for.
    #[default]
    Modern,
    /// Text; apps are listed without their tasks, and there are no events.
    Old,
    /// Text alone.
    Ancient,
}

/// What the cluster is at.
#[derive(Debug, Default)]
pub struct State {
    /// By their ids, each with its `tasks`.
    pub apps: BTreeMap<String, Value>,
    pub age: Age,
    /// The stream of events is refused.
    pub has_no_events: bool,
    /// Answered to everything but the stream of events.
    pub instead: Option<Say>,
    /// All that was asked.
    pub asked: Vec<Asked>,
}

/// An instance on loopback.
pub struct Marathon {
    stub: Stub,
    cluster: Cluster,
}

/// What an instance is a view of.
#[derive(Clone)]
struct Cluster {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Option<String>>,
    asked: watch::Sender<usize>,
    is_frozen: watch::Sender<bool>,
}

impl Marathon {
    /// A cluster without apps.
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let cluster =
            Cluster { state, events: broadcast::channel(64).0, asked: watch::Sender::new(0), is_frozen: watch::Sender::new(false) };
        Self { stub: cluster.serve(SocketAddr::from(([127, 0, 0, 1], 0))).await, cluster }
    }

    /// Goes down with all its connections. What the cluster is at is kept.
    pub fn stop(&mut self) {
        self.stub.stop();
    }

    /// Comes up again, at the same address.
    pub async fn run(&mut self) {
        self.stub = self.cluster.serve(self.stub.address).await;
    }

    /// Whether nothing is answered. What was asked meanwhile is answered afterwards.
    pub fn freeze(&self, is_frozen: bool) {
        self.cluster.is_frozen.send_replace(is_frozen);
    }

    /// All apps, by their ids.
    pub fn apps(&self) -> BTreeMap<String, Value> {
        self.cluster.lock().apps.clone()
    }

    pub fn stub(&self) -> &Stub {
        &self.stub
    }

    /// Changes something, without a word about it.
    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.cluster.lock());
    }

    /// Sends an event to all who listen.
    pub fn tell(&self, event: &str, mut data: Value) {
        data["eventType"] = event.into();
        // Nobody has to listen.
        let _ = self.cluster.events.send(Some(format!("event: {event}\r\ndata: {data}\r\n\r\n")));
    }

    /// Ends all streams of events.
    pub fn end_streams(&self) {
        let _ = self.cluster.events.send(None);
    }

    /// Puts an app in place, and says so.
    pub fn put(&self, app: Value) {
        self.put_all(vec![app]);
    }

    /// Puts apps in place at once, and says so.
    pub fn put_all(&self, apps: Vec<Value>) {
        self.set(|state| state.apps.extend(apps.into_iter().map(|app| (id_of(&app), app))));
        self.tell("api_post_event", json!({ "clientIp": "127.0.0.1", "uri": "/v2/apps" }));
    }

    /// Destroys an app, and says so.
    pub fn destroy(&self, id: &str) {
        self.set(|state| drop(state.apps.remove(id)));
        self.tell("app_terminated_event", json!({ "appId": id }));
    }

    /// How often something whose path starts like this was asked for.
    pub fn count(&self, path: &str) -> usize {
        self.cluster.lock().asked.iter().filter(|asked| asked.path.starts_with(path)).count()
    }

    /// All that was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.cluster.lock().asked.clone()
    }

    /// Waits until something whose path starts like this was asked for so often.
    pub async fn until_asked(&self, path: &str, count: usize) {
        let mut asked = self.cluster.asked.subscribe();
        let reached = asked.wait_for(|_| self.count(path) >= count);
        assert!(tokio::time::timeout(DEADLINE, reached).await.is_ok(), "{path} was not asked for {count} times");
    }

    /// Waits until somebody listens to events.
    pub async fn until_heard(&self) {
        self.until_asked("/v2/events", 1).await;
        // The head of the answer is sent by who listens already.
        let listens = async {
            while self.cluster.events.receiver_count() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, listens).await.expect("somebody listens");
    }
}

impl Cluster {
    async fn serve(&self, address: SocketAddr) -> Stub {
        let cluster = self.clone();
        let handler = move |asked: Asked| {
            let cluster = cluster.clone();
            let count = {
                let mut state = cluster.lock();
                state.asked.push(asked.clone());
                state.asked.len()
            };
            cluster.asked.send_replace(count);
            async move {
                // The sender is here.
                let _ = cluster.is_frozen.subscribe().wait_for(|is_frozen| !is_frozen).await;
                answer(&asked, &cluster.lock(), &cluster.events)
            }
        };
        Stub::start_at(address, handler).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }
}

fn id_of(app: &Value) -> String {
    app["id"].as_str().expect("an app has an id").to_owned()
}

fn answer(asked: &Asked, state: &State, events: &broadcast::Sender<Option<String>>) -> Say {
    let json = |value: Value| Say::Whole(200, "Content-Type: application/json; qs=2\r\n".into(), value.to_string());
    let none = Say::Whole(404, "Content-Type: text/html\r\n".into(), "<html>HTTP ERROR: 404</html>".into());
    let wants = |kind: &str| asked.field("accept") == Some(kind);
    match (asked.path.as_str(), state.age) {
        (path, Age::Modern) if path.starts_with("/v2/events") && !state.has_no_events => {
            assert!(wants("text/event-stream"), "{asked:?}");
            Say::Stream(200, "Content-Type: text/event-stream;charset=UTF-8\r\n".into(), events.clone())
        }
        (_, _) if state.instead.is_some() => state.instead.clone().unwrap_or(none),
        ("/v2/apps?embed=apps.tasks", Age::Modern) => json(json!({ "apps": state.apps.values().collect::<Vec<_>>() })),
        ("/v2/apps?embed=apps.tasks", Age::Old) => {
            let mut apps: Vec<Value> = state.apps.values().cloned().collect();
            apps.iter_mut().filter_map(Value::as_object_mut).for_each(|app| drop(app.remove("tasks")));
            json(json!({ "apps": apps }))
        }
        ("/v2/tasks", Age::Old | Age::Ancient) => {
            assert!(wants("text/plain"), "{asked:?}");
            Say::Whole(200, "Content-Type: text/plain\r\n".into(), state.apps.values().map(lines).collect())
        }
        ("/v2/tasks", Age::Modern) => {
            let tasks: Vec<&Value> = state.apps.values().filter_map(|app| app["tasks"].as_array()).flatten().collect();
            json(json!({ "tasks": tasks }))
        }
        _ => none,
    }
}

/// As `EndpointsHelper.scala` of 0.8 wrote them.
fn lines(app: &Value) -> String {
    let name = id_of(app).trim_matches('/').replace('/', "_");
    let tasks: Vec<&Value> = app["tasks"].as_array().into_iter().flatten().filter(|task| task["state"] == "TASK_RUNNING").collect();
    let host = |task: &Value| task["host"].as_str().expect("a task has a host").to_owned();
    let service_ports = app["ports"].as_array().cloned().unwrap_or_default();
    if service_ports.is_empty() {
        let hosts: String = tasks.iter().map(|task| format!("{} ", host(task))).collect();
        return format!("{name}\t \t{hosts}\n");
    }
    let line = |(index, port): (usize, &Value)| {
        let at = tasks.iter().map(|task| format!("{}:{}\t", host(task), task["ports"][index]));
        format!("{name}\t{port}\t{}\n", at.collect::<String>())
    };
    service_ports.iter().enumerate().map(line).collect()
}

/// An app in bridge mode, as 1.4 lists it: with these service ports, whose ports inside are 8080 and so on, and these tasks.
pub fn app(id: &str, service_ports: &[u16], tasks: &[Value]) -> Value {
    let mapping = |(index, port): (usize, &u16)| json!({ "containerPort": 8080 + index, "hostPort": 0, "servicePort": port, "protocol": "tcp", "labels": {} });
    let mappings: Vec<Value> = service_ports.iter().enumerate().map(mapping).collect();
    json!({
        "id": id, "cmd": null, "instances": tasks.len(), "labels": {}, "ports": service_ports, "healthChecks": [],
        "container": { "type": "DOCKER", "docker": { "image": "web", "network": "BRIDGE", "portMappings": mappings, "parameters": [] } },
        "portDefinitions": [], "ipAddress": null, "version": "2017-02-18T19:12:00.102Z", "tasksRunning": tasks.len(), "tasks": tasks,
    })
}

/// A task that runs.
pub fn task(id: &str, host: &str, ports: &[u16]) -> Value {
    json!({
        "id": id, "slaveId": "a-S0", "host": host, "state": "TASK_RUNNING", "startedAt": "2017-02-18T19:12:01.102Z",
        "stagedAt": "2017-02-18T19:12:00.102Z", "ports": ports, "version": "2017-02-18T19:12:00.102Z",
        "ipAddresses": [{ "ipAddress": "172.17.0.2", "protocol": "IPv4" }], "servicePorts": [],
    })
}

/// An app that is nothing but its labels.
pub fn labelled(id: &str, labels: &[(&str, &str)]) -> Value {
    let mut app = app(id, &[], &[]);
    for (label, value) in labels {
        app["labels"][*label] = (*value).into();
    }
    app
}
