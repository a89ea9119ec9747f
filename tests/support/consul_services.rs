//! Services of the stub of a Consul agent: what is registered, and how the catalog shows it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::stub::Asked;

/// What is registered with the agent.
#[derive(Debug, Clone, Default)]
pub struct Services {
    /// By ID.
    registered: BTreeMap<String, Registered>,
    /// Of the last change of any service of a name.
    indices: BTreeMap<String, u64>,
    /// Of the last change of names and tags.
    index: u64,
}

#[derive(Debug, Clone)]
struct Registered {
    /// As it was sent.
    definition: Value,
    status: String,
    is_in_maintenance: bool,
    index: u64,
}

impl Registered {
    fn name(&self) -> &str {
        self.definition["Name"].as_str().expect("a service has a name")
    }
}

impl Services {
    /// Of the list of names.
    pub fn index(&self) -> u64 {
        self.index.max(1)
    }

    /// Of the list of instances of this name.
    pub fn index_of(&self, name: &str) -> u64 {
        self.indices.get(name).copied().unwrap_or(self.index()).max(1)
    }

    /// Makes all indices start again, as a store that was rebuilt does.
    pub fn reset_indices(&mut self) {
        self.index = 2;
        self.indices.values_mut().for_each(|index| *index = 2);
    }

    /// All names with the tags of all instances.
    pub fn names(&self) -> Map<String, Value> {
        let mut names = Map::from_iter([("consul".to_owned(), json!([]))]);
        for registered in self.registered.values() {
            let tags = names.entry(registered.name()).or_insert(json!([])).as_array_mut().expect("tags are a list");
            tags.extend(registered.definition["Tags"].as_array().into_iter().flatten().cloned());
        }
        names
    }

    /// The instances of this name with their checks.
    pub fn health(&self, name: &str) -> Vec<Value> {
        self.registered.iter().filter(|(_, registered)| registered.name() == name).map(|(id, registered)| entry(id, registered)).collect()
    }

    /// Registers an instance.
    pub fn register(&mut self, definition: Value, index: u64) {
        let id = definition["ID"].as_str().or(definition["Name"].as_str()).expect("a service has a name").to_owned();
        let status = definition["Check"]["Status"].as_str().unwrap_or("passing").to_owned();
        let registered = Registered { definition, status, is_in_maintenance: false, index };
        self.write_of(registered.name(), index);
        self.registered.insert(id, registered);
    }

    /// Takes an instance away.
    pub fn deregister(&mut self, id: &str, index: u64) {
        if let Some(registered) = self.registered.remove(id) {
            self.write_of(registered.name(), index);
        }
    }

    /// Takes all instances of this name away.
    pub fn remove(&mut self, name: &str, index: u64) {
        self.write_of(name, index);
        self.registered.retain(|_, registered| registered.name() != name);
    }

    /// Notes a change of a service of this name.
    pub fn write_of(&mut self, name: &str, index: u64) {
        self.index = index;
        self.indices.insert(name.to_owned(), index);
    }

    /// Does what a request for `path` of the agent's API asks for. The status of the answer.
    pub fn write(&mut self, path: &str, asked: &Asked, index: u64) -> u16 {
        let Some(path) = path.strip_prefix("/v1/agent/") else { return 404 };
        if path == "service/register" {
            self.register(serde_json::from_str(&asked.body).expect("a definition is JSON"), index);
            return 200;
        }
        let (what, id) = path.rsplit_once('/').expect("a path has an ID at its end");
        let id = id.trim_start_matches("service:");
        let Some(registered) = self.registered.get_mut(id) else { return 404 };
        self.indices.insert(registered.name().to_owned(), index);
        match what {
            "service/deregister" => {
                self.index = index;
                self.registered.remove(id);
            }
            "service/maintenance" => registered.is_in_maintenance = asked.parameter("enable") == Some("true"),
            "check/pass" => registered.status = "passing".into(),
            "check/warn" => registered.status = "warning".into(),
            "check/fail" => registered.status = "critical".into(),
            _ => return 404,
        }
        200
    }
}

fn entry(id: &str, registered: &Registered) -> Value {
    let Registered { definition, status, is_in_maintenance, index } = registered;
    let field = |name: &str, default: Value| definition.get(name).filter(|value| !value.is_null()).cloned().unwrap_or(default);
    let mut checks = vec![
        json!({"Node": "vm", "CheckID": "serfHealth", "Status": "passing", "ServiceID": ""}),
        json!({"Node": "vm", "CheckID": format!("service:{id}"), "Status": status, "ServiceID": id}),
    ];
    if *is_in_maintenance {
        checks.push(json!({"Node": "vm", "CheckID": format!("_service_maintenance:{id}"), "Status": "critical", "ServiceID": id}));
    }
    json!({
        "Node": {"ID": "", "Node": "vm", "Address": "127.0.0.1", "Datacenter": "dc1", "CreateIndex": 6, "ModifyIndex": 7},
        "Service": {
            "ID": id, "Service": registered.name(), "Tags": field("Tags", json!([])), "Address": field("Address", json!("")),
            "Meta": field("Meta", Value::Null), "Port": field("Port", json!(0)),
            "Weights": field("Weights", json!({"Passing": 1, "Warning": 1})), "CreateIndex": index, "ModifyIndex": index,
        },
        "Checks": checks,
    })
}
