//! The `HAPROXY_` labels of marathon-lb → objects. A subset that covers most: hosts and paths, stickiness, balance, redirects, ports.
//!
//! | label | means here |
//! |---|---|
//! | `HAPROXY_GROUP` | comma list. Without it, all others are ignored, as they are there |
//! | `HAPROXY_{n}_VHOST` | comma list: a route for these hosts |
//! | `HAPROXY_{n}_PATH` | list by spaces: only below these paths, by whole segments: `/a` does not take `/ab`, as it does there |
//! | `HAPROXY_{n}_STICKY`, `_BALANCE` | of the upstream |
//! | `HAPROXY_{n}_REDIRECT_TO_HTTPS`, `_USE_HSTS`, `_BACKEND_WEIGHT` | of the route; the weight is its priority |
//! | `HAPROXY_{n}_PORT`, `_BIND_ADDR`, `_MODE` | a listener of its own, by HTTP or TCP |
//! | `HAPROXY_{n}_ENABLED` | `false`: nothing of this port |
//!
//! `n` counts the ports of an app from 0. What is not carried over is a warning that names the label; a port that asks for a password gets
//! no route, because nobody would be asked for it.
//!
//! Pure: knows neither containers nor Marathon, whose objects bear these labels.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::config::Problem;
use crate::suggest;

/// What all of them start with.
pub const PREFIX: &str = "HAPROXY_";

/// The highest `n`.
pub const INDEX_MAX: u16 = 255;

/// The cookie by which marathon-lb keeps a client on its task.
const COOKIE: &str = "mesosphere_server_id";

/// What marathon-lb sends: half a year.
const HSTS: &str = "max-age=15768000";

/// Who bears the labels.
#[derive(Debug, Clone, Copy, Default)]
pub struct App<'a> {
    /// What its objects are called after.
    pub name: &'a str,
    /// Of each of its ports, where it wants to be served, if it does: a listener of its own. Empty for all but apps of Marathon.
    pub service_ports: &'a [u16],
    /// Only apps of this group. None: of any.
    pub group: Option<&'a str>,
}

/// What an app says.
#[derive(Debug, Default)]
pub struct AppSays {
    /// Its ports that are to be served.
    pub ports: Vec<PortSays>,
    /// What is wrong, or not carried over, by label.
    pub problems: Vec<(String, Problem)>,
}

/// What an app says of one of its ports.
#[derive(Debug)]
pub struct PortSays {
    /// Which of its ports, from 0.
    pub index: u16,
    /// The upstream of which those who answer on the port are endpoints. It is among the objects.
    pub upstream: String,
    /// Its objects.
    pub objects: Vec<Object>,
}

/// An object of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Its key in the layout of stores, without a prefix: `/routes/web`.
    pub key: String,
    /// The label that says most of it.
    pub label: String,
    /// The object.
    pub value: Value,
}

/// The labels of a port, without what they start with.
type Fields<'a> = BTreeMap<&'a str, &'a str>;

/// All that is read of a port.
const FIELDS: [&str; 11] =
    ["AUTH", "BACKEND_WEIGHT", "BALANCE", "BIND_ADDR", "ENABLED", "MODE", "PATH", "PORT", "REDIRECT_TO_HTTPS", "STICKY", "USE_HSTS"];

/// Reads the labels of an app. Those that do not start with [`PREFIX`] are none of ours.
#[must_use]
pub fn read<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>, app: App<'_>) -> AppSays {
    let mut said = AppSays::default();
    let mut groups = None;
    let mut ports: BTreeMap<u16, Fields<'_>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (label, value) in labels {
        let Some(rest) = label.strip_prefix(PREFIX) else { continue };
        match rest.split_once('_').map(|(index, field)| (index.parse::<u16>(), field)) {
            _ if rest == "GROUP" => groups = Some(value),
            Some((Ok(index), field)) if index <= INDEX_MAX => drop(ports.entry(index).or_default().insert(field, value)),
            _ => unknown.push(label),
        }
    }
    let Some(groups) = groups else {
        if let Some((index, field)) = ports.iter().find_map(|(index, fields)| Some((index, fields.keys().next()?))) {
            let problem = Problem::warning("there is no `HAPROXY_GROUP`").effect("all `HAPROXY_` labels are ignored, as marathon-lb does");
            said.problems.push((format!("{PREFIX}{index}_{field}"), problem));
        }
        return said;
    };
    if app.group.is_some_and(|group| !list(groups).any(|theirs| theirs == group)) {
        return said;
    }
    let lost = |label: &str| (label.to_owned(), Problem::warning("it is not carried over").effect("the label is ignored"));
    said.problems.extend(unknown.into_iter().map(lost));
    let known = u16::try_from(app.service_ports.len()).unwrap_or(INDEX_MAX).min(INDEX_MAX);
    for index in 0..known.max(u16::from(ports.is_empty())) {
        ports.entry(index).or_default();
    }
    for (index, fields) in ports {
        said.ports.extend(Port { app, index, fields, problems: &mut said.problems }.read());
    }
    said
}

/// A port while its labels are read.
struct Port<'a> {
    app: App<'a>,
    index: u16,
    fields: Fields<'a>,
    problems: &'a mut Vec<(String, Problem)>,
}

impl Port<'_> {
    /// What its labels say. None: it is not to be served.
    fn read(mut self) -> Option<PortSays> {
        if self.fields.contains_key("ENABLED") && !self.flag("ENABLED") {
            return None;
        }
        self.report_what_is_lost();
        let name = if self.index == 0 { self.app.name.to_owned() } else { format!("{}-{}", self.app.name, self.index) };
        let mut objects = vec![self.upstream(&name)];
        if self.fields.contains_key("AUTH") {
            self.complain("AUTH", Problem::error("nobody would be asked for the password").effect("the port gets no route"));
        } else {
            objects.extend(self.ways(&name));
        }
        Some(PortSays { index: self.index, upstream: name, objects })
    }

    fn upstream(&mut self, name: &str) -> Object {
        let mut settings = Map::new();
        if self.flag("STICKY") {
            settings.insert("sticky".into(), json!({ "cookie": COOKIE }));
        }
        if let Some(balance) = self.fields.get("BALANCE").map(|balance| balance.trim()) {
            match balance_of(balance) {
                Some(balance) => drop(settings.insert("balance".into(), balance)),
                None => {
                    self.complain("BALANCE", Problem::warning(format!("`{balance}` is not carried over")).effect("requests go in turn"))
                }
            }
        }
        self.object(format!("/upstreams/{name}"), "GROUP", settings.into())
    }

    /// The routes to the upstream, with the listeners that are theirs alone.
    fn ways(&mut self, name: &str) -> Vec<Object> {
        let is_tcp = match self.fields.get("MODE").map_or("http", |mode| mode.trim()) {
            "tcp" => true,
            "http" => false,
            mode => {
                let problem = Problem::warning(format!("`{mode}` is neither `http` nor `tcp`")).effect("it is taken for `http`");
                self.complain("MODE", problem);
                false
            }
        };
        let mut ways = self.own_listener(name, is_tcp);
        let hosts: Vec<&str> = self.fields.get("VHOST").into_iter().flat_map(|hosts| list(hosts)).collect();
        if is_tcp {
            if ways.is_empty() {
                self.complain("MODE", Problem::warning("TCP needs a port of its own: `HAPROXY_{n}_PORT`").effect("the port gets no route"));
            }
            for field in ["VHOST", "PATH", "REDIRECT_TO_HTTPS", "USE_HSTS"] {
                self.complain_if_there(field, "it means nothing of TCP");
            }
        } else if hosts.is_empty() {
            for field in ["PATH", "REDIRECT_TO_HTTPS", "USE_HSTS"] {
                self.complain_if_there(field, "it needs `HAPROXY_{n}_VHOST`");
            }
        } else {
            let rule = self.rule(&hosts);
            let value = self.route(&rule, name);
            ways.push(self.object(format!("/routes/{name}"), "VHOST", value));
        }
        ways
    }

    fn own_listener(&mut self, name: &str, is_tcp: bool) -> Vec<Object> {
        let of_app = self.app.service_ports.get(usize::from(self.index)).copied().filter(|port| *port > 0);
        let port = match self.fields.get("PORT").map(|port| port.trim().parse::<u16>().ok().filter(|port| *port > 0)) {
            Some(None) => {
                self.complain("PORT", Problem::error("a port is a number from 1 to 65535").effect("there is no listener for it"));
                return Vec::new();
            }
            Some(port) => port,
            None => of_app,
        };
        let Some(port) = port else { return Vec::new() };
        let ip = self.fields.get("BIND_ADDR").map(|ip| ip.trim()).filter(|ip| *ip != "*").unwrap_or_default();
        let protocol = if is_tcp { "tcp" } else { "http" };
        let listener = json!({ "address": format!("{ip}:{port}"), "protocol": protocol });
        let way = if is_tcp {
            let value = json!({ "listener": name, "upstream": name });
            self.object(format!("/tcp_routes/{name}"), "PORT", value)
        } else {
            let value = json!({ "match": "PathPrefix(\"/\")", "listeners": [name], "upstream": name });
            self.object(format!("/routes/{name}-port"), "PORT", value)
        };
        vec![self.object(format!("/listeners/{name}"), "PORT", listener), way]
    }

    fn rule(&mut self, hosts: &[&str]) -> String {
        let words: Vec<&str> = self.fields.get("PATH").into_iter().flat_map(|paths| paths.split_whitespace()).collect();
        let (flags, paths): (Vec<&str>, Vec<&str>) = words.into_iter().partition(|word| word.starts_with('-'));
        if let Some(flag) = flags.first() {
            self.complain("PATH", Problem::warning(format!("`{flag}` is not carried over")).effect("paths are compared as they are"));
        }
        let hosts = format!("Host({})", quoted(hosts));
        if paths.is_empty() { hosts } else { format!("{hosts} && PathPrefix({})", quoted(&paths)) }
    }

    fn route(&mut self, rule: &str, upstream: &str) -> Value {
        let mut route = json!({ "match": rule, "upstream": upstream });
        let mut middlewares = Vec::new();
        if self.flag("REDIRECT_TO_HTTPS") {
            middlewares.push(json!({ "redirect_https": { "status": 302 } }));
        }
        if self.flag("USE_HSTS") {
            middlewares.push(json!({ "headers": { "response": { "set": { "strict-transport-security": HSTS } } } }));
        }
        let priority = self.fields.get("BACKEND_WEIGHT").map(|weight| weight.trim().parse::<i32>());
        if let Some(Err(_)) = priority {
            self.complain("BACKEND_WEIGHT", Problem::warning("it is not a number").effect("the label is ignored"));
        }
        if let Value::Object(route) = &mut route {
            if !middlewares.is_empty() {
                route.insert("middlewares".into(), middlewares.into());
            }
            route.extend(priority.and_then(Result::ok).map(|priority| ("priority".to_owned(), priority.into())));
        }
        route
    }

    /// What marathon-lb takes for `true`.
    fn flag(&mut self, field: &str) -> bool {
        let Some(value) = self.fields.get(field) else { return false };
        let value = value.trim().to_ascii_lowercase();
        if ["true", "t", "yes", "y"].contains(&value.as_str()) {
            return true;
        }
        if !["false", "f", "no", "n", ""].contains(&value.as_str()) {
            let problem = Problem::warning(format!("`{value}` is neither `true` nor `false`")).effect("it is taken for `false`");
            self.complain(field, problem);
        }
        false
    }

    fn report_what_is_lost(&mut self) {
        let known = |field: &str| field == "VHOST" || FIELDS.contains(&field);
        let lost: Vec<&str> = self.fields.keys().copied().filter(|field| !known(field)).collect();
        for field in lost {
            let near = suggest::nearest(field, FIELDS.into_iter().chain(["VHOST"]));
            let mut problem = Problem::warning("it is not carried over").effect("the label is ignored");
            problem.help = near.map(|near| format!("did you mean `{}`?", self.label(near)));
            self.complain(field, problem);
        }
    }

    fn complain_if_there(&mut self, field: &str, message: &str) {
        if self.fields.contains_key(field) {
            self.complain(field, Problem::warning(message).effect("the label is ignored"));
        }
    }

    fn complain(&mut self, field: &str, problem: Problem) {
        self.problems.push((self.label(field), problem));
    }

    fn object(&self, key: String, field: &str, value: Value) -> Object {
        let label = if self.fields.contains_key(field) { self.label(field) } else { format!("{PREFIX}GROUP") };
        Object { key, label, value }
    }

    fn label(&self, field: &str) -> String {
        format!("{PREFIX}{}_{field}", self.index)
    }
}

/// How requests are spread, as HAProxy calls it.
fn balance_of(theirs: &str) -> Option<Value> {
    match theirs {
        "roundrobin" | "static-rr" => Some("round_robin".into()),
        "leastconn" => Some("least_request".into()),
        "random" => Some("random".into()),
        "source" => Some(json!({ "hash": "client_ip" })),
        _ => {
            let header = theirs.strip_prefix("hdr(")?.strip_suffix(')')?;
            Some(json!({ "hash": { "header": header } }))
        }
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// As arguments of a predicate.
fn quoted(texts: &[&str]) -> String {
    texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::discovery::kv::{Pair, Tree};
    use crate::names::Name;

    fn lines(said: &AppSays) -> Vec<String> {
        said.ports.iter().flat_map(|port| &port.objects).map(|object| format!("{} {}", object.key, object.value)).collect()
    }

    #[track_caller]
    fn check(labels: &[(&str, &str)], objects: &[&str], problems: &[&str]) {
        let said = read(labels.iter().copied(), App { name: "web", ..App::default() });
        assert_eq!(lines(&said), objects);
        let found: Vec<String> = said.problems.iter().map(|(label, problem)| format!("{label}: {}", problem.message)).collect();
        assert_eq!(found, problems);
        assert_eq!(problems_of_objects(&said), Vec::<String>::new());
    }

    /// What our own layout finds wrong with the objects.
    fn problems_of_objects(said: &AppSays) -> Vec<String> {
        let mut tree = Tree::new("", Name::literal("test"));
        for object in said.ports.iter().flat_map(|port| &port.objects) {
            let value = object.value.to_string();
            tree.put(Pair { key: object.key.as_bytes(), value: value.as_bytes(), revision: 1 });
        }
        tree.snapshot(None, std::time::Instant::now()).all_problems().map(ToString::to_string).collect()
    }

    #[test]
    fn a_host_makes_a_route() {
        check(
            &[("HAPROXY_GROUP", "external"), ("HAPROXY_0_VHOST", "a.test, b.test"), ("HAPROXY_0_PATH", "/v1 /v2"), ("other", "x")],
            &[
                "/upstreams/web {}",
                r#"/routes/web {"match":"Host(\"a.test\", \"b.test\") && PathPrefix(\"/v1\", \"/v2\")","upstream":"web"}"#,
            ],
            &[],
        );
    }

    #[test]
    fn settings_are_carried_over() {
        check(
            &[
                ("HAPROXY_GROUP", "external"),
                ("HAPROXY_1_VHOST", "a.test"),
                ("HAPROXY_1_STICKY", "true"),
                ("HAPROXY_1_BALANCE", "leastconn"),
                ("HAPROXY_1_REDIRECT_TO_HTTPS", "True"),
                ("HAPROXY_1_USE_HSTS", "yes"),
                ("HAPROXY_1_BACKEND_WEIGHT", "5"),
            ],
            &[
                r#"/upstreams/web-1 {"balance":"least_request","sticky":{"cookie":"mesosphere_server_id"}}"#,
                r#"/routes/web-1 {"match":"Host(\"a.test\")","middlewares":[{"redirect_https":{"status":302}},{"headers":{"response":{"set":{"strict-transport-security":"max-age=15768000"}}}}],"priority":5,"upstream":"web-1"}"#,
            ],
            &[],
        );
        assert_eq!(balance_of("hdr(X-User)"), Some(json!({ "hash": { "header": "X-User" } })));
    }

    #[test]
    fn a_port_of_its_own_is_a_listener() {
        check(
            &[("HAPROXY_GROUP", "x"), ("HAPROXY_0_PORT", "5432"), ("HAPROXY_0_MODE", "tcp"), ("HAPROXY_0_BIND_ADDR", "10.0.0.1")],
            &[
                "/upstreams/web {}",
                r#"/listeners/web {"address":"10.0.0.1:5432","protocol":"tcp"}"#,
                r#"/tcp_routes/web {"listener":"web","upstream":"web"}"#,
            ],
            &[],
        );
        let said = read([("HAPROXY_GROUP", "x")], App { name: "web", service_ports: &[10_000, 0], group: None });
        assert_eq!(
            lines(&said),
            [
                "/upstreams/web {}",
                r#"/listeners/web {"address":":10000","protocol":"http"}"#,
                r#"/routes/web-port {"listeners":["web"],"match":"PathPrefix(\"/\")","upstream":"web"}"#,
                "/upstreams/web-1 {}",
            ]
        );
    }

    #[test]
    fn what_is_not_carried_over_is_told() {
        check(
            &[
                ("HAPROXY_GROUP", "x"),
                ("HAPROXY_0_VHOST", "a.test"),
                ("HAPROXY_0_PATH", "-i /a"),
                ("HAPROXY_0_BALANCE", "uri"),
                ("HAPROXY_0_STICKY", "maybe"),
                ("HAPROXY_0_BACKEND_HEAD", "x"),
                ("HAPROXY_DEPLOYMENT_GROUP", "blue"),
                ("HAPROXY_999_VHOST", "b.test"),
            ],
            &["/upstreams/web {}", r#"/routes/web {"match":"Host(\"a.test\") && PathPrefix(\"/a\")","upstream":"web"}"#],
            &[
                "HAPROXY_DEPLOYMENT_GROUP: it is not carried over",
                "HAPROXY_999_VHOST: it is not carried over",
                "HAPROXY_0_BACKEND_HEAD: it is not carried over",
                "HAPROXY_0_STICKY: `maybe` is neither `true` nor `false`",
                "HAPROXY_0_BALANCE: `uri` is not carried over",
                "HAPROXY_0_PATH: `-i` is not carried over",
            ],
        );
        let labels = [("HAPROXY_GROUP", "x"), ("HAPROXY_0_VHOST", "a.test"), ("HAPROXY_0_AUTH", "realm:user:password")];
        check(&labels, &["/upstreams/web {}"], &["HAPROXY_0_AUTH: nobody would be asked for the password"]);
        let labels = [("HAPROXY_GROUP", "x"), ("HAPROXY_0_MODE", "tcp"), ("HAPROXY_0_VHOST", "a.test")];
        let problems = ["HAPROXY_0_MODE: TCP needs a port of its own: `HAPROXY_{n}_PORT`", "HAPROXY_0_VHOST: it means nothing of TCP"];
        check(&labels, &["/upstreams/web {}"], &problems);
        check(&[("HAPROXY_GROUP", "x"), ("HAPROXY_0_ENABLED", "false"), ("HAPROXY_0_VHOST", "a.test")], &[], &[]);
    }

    #[test]
    fn only_apps_of_a_group_are_served() {
        check(&[("HAPROXY_0_VHOST", "a.test")], &[], &["HAPROXY_0_VHOST: there is no `HAPROXY_GROUP`"]);
        check(&[("other", "x")], &[], &[]);
        let of = |group| {
            let labels = [("HAPROXY_GROUP", "external, internal"), ("HAPROXY_0_VHOST", "a.test"), ("HAPROXY_9_X", "x")];
            let said = read(labels, App { name: "web", group: Some(group), ..App::default() });
            (said.ports.len(), said.problems.len())
        };
        assert_eq!((of("internal"), of("other")), ((2, 1), (0, 0)));
    }

    proptest! {
        #[test]
        fn any_labels_can_be_read(labels in prop::collection::btree_map("HAPROXY_(GROUP|[0-9]{1,6}_[A-Z_]{1,8}|[0-9]_(VHOST|PATH|PORT|MODE|BALANCE|BIND_ADDR))", "\\PC{0,12}|tcp|true|[0-9]{1,6}", 0..12)) {
            let said = read(labels.iter().map(|(label, value)| (label.as_str(), value.as_str())), App { name: "web", ..App::default() });
            problems_of_objects(&said);
        }
    }
}
