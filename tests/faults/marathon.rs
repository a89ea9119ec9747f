//! A Marathon: a route is what labels of an app of its own say, and an endpoint is a task.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nuncio::Name;
use nuncio::config::providers::MarathonConfig;
use nuncio::discovery::{MarathonProvider, Provider};
use serde_json::{Value, json};

use crate::rig::{Change, Contents, Fault, Rig};
use crate::support::marathon::{Marathon, app, labelled, task};
use crate::support::relay::Target;

/// The service port of all apps.
const SERVICE_PORT: u16 = 10_000;

/// An instance, and the apps of its last backup.
pub struct MarathonRig {
    marathon: Marathon,
    backup: Option<BTreeMap<String, Value>>,
}

impl MarathonRig {
    /// Lets a task run or not, and says so.
    fn set_task(&self, upstream: &str, id: &str, address: Option<SocketAddr>) {
        let path = format!("/{upstream}");
        self.marathon.set(|state| {
            let app = state.apps.entry(path.clone()).or_insert_with(|| {
                let mut app = app(&path, &[SERVICE_PORT], &[]);
                app["healthChecks"] = json!([{ "protocol": "HTTP", "path": "/" }]);
                app
            });
            let tasks = app["tasks"].as_array_mut().unwrap();
            tasks.retain(|task| task["id"] != id);
            tasks.extend(address.map(|address| task(id, &address.ip().to_string(), &[address.port()])));
            tasks.iter_mut().for_each(check);
        });
        let status = if address.is_some() { "TASK_RUNNING" } else { "TASK_KILLED" };
        self.marathon.tell("status_update_event", json!({ "taskId": id, "taskStatus": status, "appId": path }));
    }

    /// Knows the results of health checks, or none.
    fn check_all(&self, is_known: bool) {
        self.marathon.set(|state| {
            for task in state.apps.values_mut().filter_map(|app| app["tasks"].as_array_mut()).flatten() {
                if is_known {
                    check(task);
                } else {
                    task["healthCheckResults"] = json!([]);
                }
            }
        });
    }
}

/// A health check finds that the task is well.
fn check(task: &mut Value) {
    task["healthCheckResults"] = json!([{ "alive": true, "taskId": task["id"], "consecutiveFailures": 0 }]);
}

fn of_app(path: &str, app: &Value) -> Vec<(String, String)> {
    let upstream = path.trim_start_matches('/');
    let tasks = app["tasks"].as_array().into_iter().flatten();
    let mut pairs: Vec<(String, String)> = tasks
        .map(|task| {
            let address = format!("{}:{}", task["host"].as_str().unwrap(), task["ports"][0]);
            (format!("upstreams/{upstream}/endpoints/{}", task["id"].as_str().unwrap()), address)
        })
        .collect();
    if let Some(name) = upstream.strip_prefix("route-") {
        let label = |field: &str| app["labels"][format!("nuncio.routes.{name}.{field}")].clone();
        let route = json!({ "match": label("match"), "upstream": label("upstream") });
        pairs.push((format!("routes/{name}"), route.to_string()));
    }
    pairs
}

impl Rig for MarathonRig {
    async fn start() -> Self {
        Self { marathon: Marathon::start().await, backup: None }
    }

    fn address(&self) -> Target {
        self.marathon.stub().address.into()
    }

    fn faults(&self) -> &'static [Fault] {
        &[Fault::Restart, Fault::Kill, Fault::Freeze, Fault::ForgetHistory, Fault::Restore, Fault::Election]
    }

    fn provider(&self, address: SocketAddr) -> impl Provider + 'static {
        let config = MarathonConfig { endpoints: vec![format!("http://{address}")], ..MarathonConfig::default() };
        MarathonProvider::new(Name::literal("marathon"), config)
    }

    async fn write(&mut self, change: &Change) {
        match change {
            Change::Route { name, host, upstream } => {
                let (rule, to) = (format!("nuncio.routes.{name}.match"), format!("nuncio.routes.{name}.upstream"));
                let labels = [(rule.as_str(), format!("Host(\"{host}\")")), (to.as_str(), upstream.clone())];
                let labels = labels.each_ref().map(|(label, value)| (*label, value.as_str()));
                self.marathon.put(labelled(&format!("/route-{name}"), &labels));
            }
            Change::NoRoute { name } => self.marathon.destroy(&format!("/route-{name}")),
            Change::Endpoint { upstream, id, address } => self.set_task(upstream, id, Some(*address)),
            Change::NoEndpoint { upstream, id } => self.set_task(upstream, id, None),
        }
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Restart => {
                self.marathon.stop();
                self.backup = Some(self.marathon.apps());
            }
            Fault::Kill => self.marathon.stop(),
            Fault::Freeze => self.marathon.freeze(true),
            // What is written meanwhile is told to nobody.
            Fault::ForgetHistory => self.marathon.end_streams(),
            Fault::Restore => {
                self.marathon.stop();
                if let Some(backup) = self.backup.clone() {
                    self.marathon.set(|state| state.apps = backup);
                }
            }
            Fault::Election => {
                self.marathon.end_streams();
                self.check_all(false);
            }
            _ => unreachable!("not among its faults"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Restart | Fault::Kill | Fault::Restore => self.marathon.run().await,
            Fault::Freeze => self.marathon.freeze(false),
            Fault::Election => {
                self.check_all(true);
                self.marathon.tell("health_status_changed_event", json!({ "alive": true }));
            }
            _ => {}
        }
    }

    async fn read(&mut self) -> Contents {
        Contents::of_keys(self.marathon.apps().iter().flat_map(|(path, app)| of_app(path, app)))
    }
}
