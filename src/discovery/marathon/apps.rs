//! `/v2/apps?embed=apps.tasks` → apps, their ports, and the tasks that get requests.
//!
//! * **Who is well**: a task that runs, is not told to end, and whose health checks all say so. A task without any result is not known to
//!   be well, but a new leader has no results of tasks that run for weeks: one that got requests before goes on to get them.
//! * **Where it is**: with an address of its own (mode `container`), that and the port inside; else its host, and the port there with the
//!   same number in the list of ports.
//!
//! Pure, and lenient: all but a name may be missing or null, and an app or a task that cannot be read is a problem that leaves all others,
//! and what was known of itself, as they are.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::config::Problem;

/// Apps by their names.
pub(super) type Apps = BTreeMap<String, App>;

/// An app.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct App {
    /// For people: `app /prod/web`.
    pub(super) title: String,
    pub(super) labels: BTreeMap<String, String>,
    /// When its version was made, in some unit.
    pub(super) created: u64,
    pub(super) ports: Vec<Port>,
    /// Those that get requests, by their ids.
    pub(super) tasks: BTreeMap<String, Task>,
}

/// A port of an app.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Port {
    /// What its labels call it: the port inside of its containers, or else the service port.
    pub(super) number: Option<u16>,
    /// Where the app wants to be served.
    pub(super) service_port: Option<u16>,
    pub(super) is_udp: bool,
}

/// A task that gets requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Task {
    /// Where a port is reached that it did not say.
    pub(super) host: Option<String>,
    /// Of each port of the app, the host and the port at which the task is reached.
    pub(super) reached: Vec<Option<(String, u16)>>,
    /// Why it is reached nowhere.
    pub(super) trouble: Option<String>,
}

/// What an answer says.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) apps: Apps,
    /// Tasks that are listed, and get no requests.
    pub(super) ended: BTreeSet<String>,
    /// What cannot be read, and of what.
    pub(super) problems: Vec<(String, Problem)>,
}

/// Why an answer says nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("the answer is no list of apps: {0}")]
    NoApps(String),
    /// It is too old to know what was asked for.
    #[error("apps are listed without their tasks")]
    NoTasks,
}

/// The name of an app, as Marathon's own text has it: the path, joined by `_`, which no path has in it.
pub(super) fn name_of(id: &str) -> String {
    id.trim_matches('/').replace('/', "_")
}

/// Reads an answer. `before` is what was read last.
pub(super) fn read(body: &[u8], before: &Apps) -> Result<Reading, Unreadable> {
    #[derive(Deserialize)]
    struct Answer {
        apps: Vec<Value>,
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|error| Unreadable::NoApps(error.to_string()))?;
    let mut reading = Reading::default();
    for app in answer.apps {
        let Some(id) = text_at(&app, "id") else {
            reading.problems.push(("app".into(), Problem::error("an app has no id").effect("it is left out")));
            continue;
        };
        let (name, title) = (name_of(&id), format!("app {id}"));
        let held = before.get(&name);
        match serde_json::from_value::<AppJson>(app) {
            Ok(AppJson { tasks: None, .. }) => return Err(Unreadable::NoTasks),
            Ok(app) => {
                let app = Decoder { title, held, reading: &mut reading }.app(app);
                reading.apps.insert(name, app);
            }
            Err(error) => {
                let problem = Problem::error(format!("it cannot be read: {error}"));
                reading.problems.push((title, problem.effect("what was known of it stays in force")));
                reading.apps.extend(held.map(|app| (name, app.clone())));
            }
        }
    }
    Ok(reading)
}

fn text_at(object: &Value, key: &str) -> Option<String> {
    object.get(key)?.as_str().filter(|text| !text.trim_matches('/').is_empty()).map(ToOwned::to_owned)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AppJson {
    labels: Option<BTreeMap<String, String>>,
    version: Option<String>,
    /// The service ports.
    ports: Option<Vec<u16>>,
    port_definitions: Option<Vec<PortJson>>,
    container: Option<ContainerJson>,
    networks: Option<Vec<NetworkJson>>,
    ip_address: Option<OwnAddressJson>,
    health_checks: Option<Vec<IgnoredAny>>,
    tasks: Option<Vec<Value>>,
}

/// A port of any of the lists that have ports.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PortJson {
    /// Of `portDefinitions`: the service port.
    port: Option<u16>,
    /// Of `discovery`.
    number: Option<u16>,
    container_port: Option<u16>,
    service_port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerJson {
    docker: Option<DockerJson>,
    port_mappings: Option<Vec<PortJson>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DockerJson {
    network: Option<String>,
    port_mappings: Option<Vec<PortJson>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NetworkJson {
    mode: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OwnAddressJson {
    discovery: Option<DiscoveryJson>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DiscoveryJson {
    ports: Option<Vec<PortJson>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TaskJson {
    host: Option<String>,
    ports: Option<Vec<u16>>,
    ip_addresses: Option<Vec<IpJson>>,
    started_at: Option<String>,
    state: Option<String>,
    health_check_results: Option<Vec<HealthJson>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IpJson {
    ip_address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HealthJson {
    alive: Option<bool>,
}

/// What is known of a task's fitness for requests.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Well,
    /// It runs, and no health check has said anything of it yet.
    Unchecked,
    Unfit,
}

impl TaskJson {
    fn standing(&self, is_checked: bool) -> Standing {
        let is_running = match self.state.as_deref() {
            Some(state) => state == "TASK_RUNNING",
            // Versions that do not tell the state.
            None => self.started_at.is_some(),
        };
        let results = self.health_check_results.as_deref().unwrap_or_default();
        match (is_running, is_checked, results) {
            (false, _, _) => Standing::Unfit,
            (true, false, _) => Standing::Well,
            (true, true, []) => Standing::Unchecked,
            (true, true, results) if results.iter().all(|result| result.alive == Some(true)) => Standing::Well,
            (true, true, _) => Standing::Unfit,
        }
    }
}

/// Where the tasks of an app are reached.
struct Reach {
    ports: Vec<Port>,
    /// Of each port, that inside of a container.
    inside: Vec<Option<u16>>,
    /// Whether each task has an address of its own.
    has_own_address: bool,
}

impl AppJson {
    fn reach(&mut self) -> Reach {
        let container = self.container.take().unwrap_or_default();
        let docker = container.docker.unwrap_or_default();
        let mode = self.networks.iter().flatten().find_map(|network| network.mode.as_deref()).or(docker.network.as_deref());
        let has_own_address = match mode {
            Some(mode) => mode.eq_ignore_ascii_case("container") || mode.eq_ignore_ascii_case("user"),
            None => self.ip_address.is_some(),
        };
        let discovery = self.ip_address.take().and_then(|own| own.discovery?.ports);
        let lists = [container.port_mappings, docker.port_mappings, discovery, self.port_definitions.take()];
        let listed = lists.into_iter().flatten().find(|list| !list.is_empty()).unwrap_or_default();
        let service_ports = self.ports.take().unwrap_or_default();
        let not_0 = |port: &u16| *port > 0;
        let (mut ports, mut inside) = (Vec::new(), Vec::new());
        for index in 0..listed.len().max(service_ports.len()) {
            let port = listed.get(index);
            let of_container = port.and_then(|port| port.container_port.or(port.number)).filter(not_0);
            let declared = port.and_then(|port| port.service_port.or(port.port)).filter(not_0);
            let service_port = service_ports.get(index).copied().filter(not_0).or(declared);
            let is_udp = port.and_then(|port| port.protocol.as_deref()).is_some_and(|protocol| protocol == "udp");
            ports.push(Port { number: of_container.or(service_port), service_port, is_udp });
            inside.push(of_container);
        }
        Reach { ports, inside, has_own_address }
    }
}

impl Reach {
    /// Where a task is reached.
    fn of(&self, task: &TaskJson) -> Task {
        let own = task.ip_addresses.iter().flatten().find_map(|ip| ip.ip_address.as_deref());
        let host = if self.has_own_address { own } else { task.host.as_deref() };
        let Some(host) = host.map(str::trim).filter(|host| !host.is_empty() && !["0.0.0.0", "::"].contains(host)) else {
            let what = if self.has_own_address { "`ipAddresses`" } else { "`host`" };
            return Task { trouble: Some(format!("it has no address: {what} is not there")), ..Task::default() };
        };
        let host = host.trim_matches(['[', ']']);
        let on_host = task.ports.as_deref().unwrap_or_default();
        let port_of = |index: usize| if self.has_own_address { self.inside.get(index).copied()? } else { on_host.get(index).copied() };
        let reached: Vec<_> =
            (0..self.ports.len()).map(|index| port_of(index).filter(|port| *port > 0).map(|port| (host.to_owned(), port))).collect();
        let trouble = (reached.iter().all(Option::is_none) && !reached.is_empty()).then(|| "none of its ports is told".into());
        Task { host: Some(host.to_owned()), reached, trouble }
    }
}

/// One app while it is read.
struct Decoder<'a> {
    title: String,
    /// What was known of it before.
    held: Option<&'a App>,
    reading: &'a mut Reading,
}

impl Decoder<'_> {
    fn app(self, mut app: AppJson) -> App {
        let reach = app.reach();
        let is_checked = app.health_checks.as_ref().is_some_and(|checks| !checks.is_empty());
        let mut tasks = BTreeMap::new();
        for task in app.tasks.take().unwrap_or_default() {
            let id = text_at(&task, "id");
            let held = id.as_ref().and_then(|id| self.held?.tasks.get(id));
            match (id, serde_json::from_value::<TaskJson>(task)) {
                (None, _) => self.reading.problems.push((self.title.clone(), Problem::error("a task has no id").effect("it is left out"))),
                (Some(id), Err(error)) => {
                    let problem = Problem::error(format!("it cannot be read: {error}")).effect("what was known of it stays in force");
                    self.reading.problems.push((format!("{}, task {id}", self.title), problem));
                    tasks.extend(held.map(|held| (id, held.clone())));
                }
                (Some(id), Ok(task)) => match task.standing(is_checked) {
                    Standing::Well => drop(tasks.insert(id, reach.of(&task))),
                    Standing::Unchecked if held.is_some() => drop(tasks.insert(id, reach.of(&task))),
                    Standing::Unchecked | Standing::Unfit => drop(self.reading.ended.insert(id)),
                },
            }
        }
        let created = order(app.version.as_deref().unwrap_or_default());
        App { title: self.title, labels: app.labels.unwrap_or_default(), created, ports: reach.ports, tasks }
    }
}

/// The order of moments that are written as `2014-09-26T23:28:21.737Z`.
fn order(version: &str) -> u64 {
    let digits: String = version.chars().filter(char::is_ascii_digit).take(17).collect();
    digits.parse().unwrap_or_default()
}

/// What was known before and is not listed any more, beside all that is: unless it was told to be gone. None: there is no such thing.
pub(super) fn with_missing(before: &Apps, now: &Apps, removed: &BTreeSet<String>, ended: &BTreeSet<String>) -> Option<Apps> {
    let mut kept = now.clone();
    let mut is_any = false;
    for (name, app) in before {
        let Some(held) = kept.get_mut(name) else {
            if !removed.contains(name) {
                kept.insert(name.clone(), app.clone());
                is_any = true;
            }
            continue;
        };
        let missing = app.tasks.iter().filter(|(id, _)| !now.get(name).is_some_and(|app| app.tasks.contains_key(*id)));
        for (id, task) in missing.filter(|(id, _)| !ended.contains(*id)) {
            held.tasks.insert(id.clone(), task.clone());
            is_any = true;
        }
    }
    is_any.then_some(kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn apps(apps: Value) -> Reading {
        read(json!({ "apps": apps }).to_string().as_bytes(), &Apps::new()).unwrap()
    }

    fn check_reach(mut app: Value, task: Value, expected: &[Option<(&str, u16)>], numbers: &[Option<u16>]) {
        app["id"] = "/prod/web".into();
        app["tasks"] = json!([{ "id": "t", "state": "TASK_RUNNING" }]);
        for (key, value) in task.as_object().unwrap() {
            app["tasks"][0][key] = value.clone();
        }
        let reading = apps(json!([app]));
        let read = &reading.apps["prod_web"];
        let reached: Vec<_> = read.tasks["t"].reached.iter().map(|at| at.as_ref().map(|(host, port)| (host.as_str(), *port))).collect();
        assert_eq!(reached, expected, "{app}");
        assert_eq!(read.ports.iter().map(|port| port.number).collect::<Vec<_>>(), numbers, "{app}");
    }

    #[test]
    fn the_network_says_where_a_task_is() {
        let on_host =
            json!({ "host": "agent-1", "ports": [31001, 31002], "ipAddresses": [{ "ipAddress": "172.17.0.2", "protocol": "IPv4" }] });
        let both = [Some(("agent-1", 31001)), Some(("agent-1", 31002))];
        let mappings = json!([{ "containerPort": 8080, "servicePort": 10001 }, { "containerPort": 8081, "servicePort": 10002 }]);
        let numbers = [Some(8080), Some(8081)];
        let legacy = json!({ "container": { "docker": { "network": "BRIDGE", "portMappings": mappings } }, "ports": [10001, 10002] });
        check_reach(legacy, on_host.clone(), &both, &numbers);
        let bridge = json!({ "container": { "portMappings": mappings }, "networks": [{ "mode": "container/bridge" }] });
        check_reach(bridge, on_host.clone(), &both, &numbers);
        let host =
            json!({ "networks": [{ "mode": "host" }], "portDefinitions": [{ "port": 10001 }, { "port": 10002 }], "container": null });
        check_reach(host, on_host.clone(), &both, &[Some(10001), Some(10002)]);
        check_reach(json!({ "ports": [10001] }), on_host.clone(), &both[..1], &[Some(10001)]);
        let own = [Some(("172.17.0.2", 8080)), Some(("172.17.0.2", 8081))];
        let container = json!({ "container": { "portMappings": mappings }, "networks": [{ "mode": "container", "name": "dcos" }] });
        check_reach(container, on_host.clone(), &own, &numbers);
        let user =
            json!({ "container": { "docker": { "network": "USER", "portMappings": mappings } }, "ipAddress": { "networkName": "x" } });
        check_reach(user, on_host.clone(), &own, &numbers);
        let discovery = json!({ "ipAddress": { "discovery": { "ports": [{ "number": 8080, "name": "http", "protocol": "tcp" }] } } });
        check_reach(discovery, on_host, &own[..1], &numbers[..1]);
    }

    #[test]
    fn only_tasks_that_are_well_get_requests() {
        let task = |fields: Value| {
            let mut task = json!({ "id": "t", "host": "h", "ports": [1] });
            task.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            task
        };
        let check = |checks: Value, fields: Value, expected: bool| {
            let reading = apps(json!([{ "id": "/a", "ports": [80], "healthChecks": checks, "tasks": [task(fields.clone())] }]));
            assert_eq!(reading.apps["a"].tasks.contains_key("t"), expected, "{fields}");
            assert_ne!(reading.ended.contains("t"), expected, "{fields}");
        };
        check(json!([]), json!({ "state": "TASK_RUNNING" }), true);
        check(Value::Null, json!({ "startedAt": "2014-09-26T23:28:21.737Z" }), true);
        check(Value::Null, json!({ "startedAt": null, "stagedAt": "2014-09-26T23:28:21.737Z" }), false);
        check(json!([]), json!({ "state": "TASK_KILLING", "startedAt": "x" }), false);
        check(json!([]), json!({ "state": "TASK_UNREACHABLE", "startedAt": "x" }), false);
        let check = |results: Value, expected: bool| {
            check(json!([{}]), json!({ "state": "TASK_RUNNING", "healthCheckResults": results }), expected)
        };
        check(json!([{ "alive": true }, { "alive": true }]), true);
        check(json!([{ "alive": true }, { "alive": false }]), false);
        check(json!([]), false);
        check(Value::Null, false);
    }

    /// A leader that was just elected has no results of health checks.
    #[test]
    fn a_task_without_results_goes_on() {
        let list = |results: Value| {
            let task = json!({ "id": "t", "state": "TASK_RUNNING", "host": "h", "ports": [1], "healthCheckResults": results });
            json!({ "apps": [{ "id": "/a", "ports": [80], "healthChecks": [{}], "tasks": [task] }] }).to_string()
        };
        let before = read(list(json!([{ "alive": true }])).as_bytes(), &Apps::new()).unwrap().apps;
        assert_eq!(read(list(json!([])).as_bytes(), &before).unwrap().apps, before);
        assert!(read(list(json!([{ "alive": false }])).as_bytes(), &before).unwrap().apps["a"].tasks.is_empty());
    }

    #[test]
    fn what_cannot_be_read_leaves_the_rest_and_what_was_known() {
        let task = |id: &str, ports: Value| json!({ "id": id, "state": "TASK_RUNNING", "host": "h", "ports": ports });
        let list = |bad: Value, ports: Value| {
            let tasks = json!([task("t", ports), task("u", json!([2]))]);
            json!({ "apps": [{ "id": "/a", "ports": [80], "tasks": tasks }, { "id": "/b", "tasks": [], "labels": bad }] }).to_string()
        };
        let before = read(list(json!({ "x": "y" }), json!([1])).as_bytes(), &Apps::new()).unwrap().apps;
        let after = read(list(json!([1]), json!(["one"])).as_bytes(), &before).unwrap();
        assert_eq!(after.apps, before);
        let about: Vec<&str> = after.problems.iter().map(|(bearer, _)| bearer.as_str()).collect();
        assert_eq!(about, ["app /a, task t", "app /b"]);
        let first = read(list(json!([1]), json!([70_000])).as_bytes(), &Apps::new()).unwrap();
        assert_eq!((first.apps.len(), first.apps["a"].tasks.len(), first.problems.len()), (1, 1, 2));
    }

    #[test]
    fn what_is_no_list_is_not_empty() {
        let check = |text: &str| read(text.as_bytes(), &Apps::new()).map(|reading| reading.apps.len());
        assert_eq!(check(r#"{"apps":[]}"#), Ok(0));
        assert!(matches!(check("{}"), Err(Unreadable::NoApps(_))));
        assert!(matches!(check("<html>"), Err(Unreadable::NoApps(_))));
        assert_eq!(check(r#"{"apps":[{"id":"/a"}]}"#), Err(Unreadable::NoTasks));
    }

    #[test]
    fn what_is_missing_is_kept_unless_it_was_told() {
        let app = |ids: &[&str]| App { tasks: ids.iter().map(|id| ((*id).to_owned(), Task::default())).collect(), ..App::default() };
        let before = Apps::from([("a".into(), app(&["1", "2"])), ("b".into(), app(&[]))]);
        let now = Apps::from([("a".into(), app(&["2"]))]);
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(with_missing(&before, &now, &set(&["b"]), &set(&["1"])), None);
        assert_eq!(with_missing(&before, &now, &set(&[]), &set(&[])).as_ref(), Some(&before));
        assert_eq!(with_missing(&before, &now, &set(&["b"]), &set(&[])).map(|kept| kept.len()), Some(1));
        assert_eq!(with_missing(&now, &before, &set(&[]), &set(&[])), None);
    }

    proptest! {
        #[test]
        fn any_answer_can_be_read(text in "\\{\"apps\":\\[\\{\"(id|tasks|ports)\":(\"/a\"|\\[\\]|null|\\[7\\]|\\[\\{\"id\":\"x\"\\}\\])(,\"id\":\"/[a-z/]{0,9}\")?\\}\\]\\}|.{0,40}") {
            let _ = read(text.as_bytes(), &Apps::new());
        }
    }
}
