//! Apps → pairs of the key/value layout, which makes objects of them.
//!
//! Each port of an app is an upstream: `prod_web` for the first port of `/prod/web`, `prod_web-1` for the second. What labels say counts
//! more: ours first, then those of marathon-lb, and then what the settings ask for.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};

use super::apps::{App, Apps};
use crate::config::Problem;
use crate::config::providers::{Conventions, MarathonConfig, clean_name};
use crate::config::snapshot::Place;
use crate::discovery::haproxy_labels;
use crate::discovery::kv::Pair;
use crate::discovery::labels::{Bearer, Instance, PROBLEMS_MAX, Said, is_meant};
use crate::names::Name;

/// The service port that is left to routes where there are some, as Frontrunner leaves it.
const HTTP_PORT: u16 = 80;

/// What apps say.
#[derive(Debug, Default)]
pub(super) struct Served {
    pairs: Vec<(String, String, Place)>,
    /// What is wrong beside the objects.
    pub(super) problems: Vec<Problem>,
}

impl Served {
    /// What these apps say, with what could not be read of them.
    pub(super) fn by(apps: &Apps, unread: &[(String, Problem)], config: &MarathonConfig, provider: &Name) -> Self {
        let mut hosts = Hosts::default();
        let bearers: Vec<Bearer> = apps.iter().filter_map(|(name, app)| bearer(name, app, &mut hosts)).collect();
        let mut said = Said::by(&bearers, &Conventions::default(), provider);
        let is_route = |key: &str| ["/routes/", "/tcp_routes/", "/udp_routes/"].iter().any(|folder| key.starts_with(folder));
        let mut telling =
            Telling { config, provider, held: BTreeSet::new(), routed: BTreeSet::new(), ports: BTreeMap::new(), said: Said::default() };
        for (pair, place) in said.pairs() {
            let key = String::from_utf8_lossy(pair.key).into_owned();
            if let (Some(Place::Label { bearer, .. }), true) = (place, is_route(&key)) {
                telling.routed.insert(bearer.to_string());
            }
            telling.held.insert(key);
        }
        let mut by_age: Vec<(&String, &App)> = apps.iter().filter(|(_, app)| !is_off(app)).collect();
        by_age.sort_by_key(|(_, app)| app.created);
        by_age.into_iter().for_each(|(name, app)| telling.app(name, app, &mut hosts));
        let mut problems = std::mem::take(&mut said.problems);
        for (bearer, problem) in unread {
            telling.said.report(provider, problem.clone(), place(bearer, "id"));
        }
        problems.append(&mut telling.said.problems);
        problems.truncate(PROBLEMS_MAX);
        let pairs = said.pairs().chain(telling.said.pairs()).filter_map(|(pair, place)| {
            let [key, value] = [pair.key, pair.value].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            let value = if key.contains("/endpoints/") { hosts.give_back(value) } else { value };
            Some((key, value, place?))
        });
        Self { pairs: pairs.collect(), problems }
    }

    /// Key, value and place of each object.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (Pair<'_>, Option<Place>)> {
        self.pairs
            .iter()
            .map(|(key, value, place)| (Pair { key: key.as_bytes(), value: value.as_bytes(), revision: 0 }, Some(place.clone())))
    }
}

/// Hosts that are known by name. Labels are read with IP addresses, so that each name lends itself one that no host has, of the discard
/// prefix (RFC 6666), and gets itself back afterwards.
#[derive(Debug, Default)]
struct Hosts {
    names: Vec<String>,
    indices: BTreeMap<String, u64>,
}

impl Hosts {
    fn ip(&mut self, host: &str) -> IpAddr {
        if let Ok(ip) = host.parse() {
            return ip;
        }
        let index = match self.indices.get(host) {
            Some(index) => *index,
            None => {
                let index = self.names.len() as u64;
                self.names.push(host.to_owned());
                self.indices.insert(host.to_owned(), index);
                index
            }
        };
        IpAddr::V6(Ipv6Addr::from_bits(DISCARD | u128::from(index)))
    }

    /// The endpoint with the name of its host.
    fn give_back(&self, endpoint: String) -> String {
        let Ok(Value::Object(mut fields)) = serde_json::from_str(&endpoint) else { return endpoint };
        let address = fields.get("address").and_then(Value::as_str).and_then(|address| address.parse().ok());
        let Some(SocketAddr::V6(address)) = address else { return endpoint };
        let index = address.ip().to_bits().checked_sub(DISCARD).and_then(|index| usize::try_from(index).ok());
        let Some(name) = index.and_then(|index| self.names.get(index)) else { return endpoint };
        fields.insert("address".into(), format!("{name}:{}", address.port()).into());
        Value::Object(fields).to_string()
    }
}

/// 100::/64.
const DISCARD: u128 = 0x100 << 112;

fn is_off(app: &App) -> bool {
    app.labels.get("nuncio.enable").is_some_and(|enable| enable.trim() == "false")
}

/// An app as one that bears labels. None: they do not mean us.
fn bearer(name: &str, app: &App, hosts: &mut Hosts) -> Option<Bearer> {
    if !is_meant(&app.labels) {
        return None;
    }
    let name = clean_name(name).ok()?.to_string();
    let mut labels = app.labels.clone();
    // Of several ports the first one is meant, as everywhere in Marathon.
    if let Some(number) = app.ports.iter().filter(|port| !port.is_udp).find_map(|port| port.number) {
        labels.entry("nuncio.port".into()).or_insert_with(|| number.to_string());
    }
    let mut instances = Vec::new();
    for (id, task) in app.tasks.iter().filter(|(_, task)| task.trouble.is_none()) {
        let Ok(id) = clean_name(id) else { continue };
        let mut ports = BTreeMap::new();
        for (port, reached) in app.ports.iter().zip(&task.reached).filter(|(port, _)| !port.is_udp) {
            if let Some((host, at)) = reached {
                ports.entry(port.number.unwrap_or(*at)).or_insert(SocketAddr::new(hosts.ip(host), *at));
            }
        }
        let any_port = task.host.as_ref().map(|host| hosts.ip(host));
        instances.push(Instance { id: id.to_string(), ports, any_port, is_backup: false, trouble: None });
    }
    Some(Bearer { title: app.title.clone(), name, created: app.created, labels, variables: BTreeMap::new(), instances })
}

/// What is said beside our own labels.
struct Telling<'a> {
    config: &'a MarathonConfig,
    provider: &'a Name,
    /// What our own labels say, by keys.
    held: BTreeSet<String>,
    /// Who has routes by labels.
    routed: BTreeSet<String>,
    /// Who has a listener on a service port.
    ports: BTreeMap<u16, String>,
    said: Said,
}

impl Telling<'_> {
    fn app(&mut self, name: &str, app: &App, hosts: &mut Hosts) {
        let clean = match clean_name(name) {
            Ok(clean) => clean.to_string(),
            Err(message) => return self.report(app, "id", Problem::error(message).effect("it gets no requests")),
        };
        for (id, task) in &app.tasks {
            if let Some(trouble) = &task.trouble {
                let at = place(&format!("{}, task {id}", app.title), "ports");
                self.said.report(self.provider, Problem::error(trouble.clone()).effect("it gets no requests"), at);
            }
        }
        if self.config.haproxy_labels {
            self.haproxy(&clean, app, hosts);
        }
        let upstream_of = |index: usize| if index == 0 { clean.clone() } else { format!("{clean}-{index}") };
        let served: Vec<usize> = app.ports.iter().enumerate().filter(|(_, port)| !port.is_udp).map(|(index, _)| index).collect();
        for index in &served {
            self.say(app, "ports", format!("/upstreams/{}", upstream_of(*index)), json!({}));
            self.join(app, *index, &upstream_of(*index), "ports", hosts);
            if self.config.service_port_listeners {
                self.listen(app, *index, &upstream_of(*index));
            }
        }
        if let Some(first) = served.first() {
            self.route(name, app, &upstream_of(*first));
        }
    }

    /// What marathon-lb would make of the app.
    fn haproxy(&mut self, name: &str, app: &App, hosts: &mut Hosts) {
        let service_ports: Vec<u16> = app.ports.iter().map(|port| port.service_port.unwrap_or_default()).collect();
        let labels = app.labels.iter().map(|(label, value)| (label.as_str(), value.as_str()));
        let group = self.config.haproxy_group.as_deref();
        let said = haproxy_labels::read(labels, haproxy_labels::App { name, service_ports: &service_ports, group });
        for (label, problem) in said.problems {
            self.report(app, &label, problem);
        }
        for port in said.ports {
            let index = usize::from(port.index);
            let label = port.objects.last().map_or_else(String::new, |object| object.label.clone());
            if app.ports.get(index).is_none_or(|port| port.is_udp) {
                let message = format!("it has no TCP port number {index}, counted from 0: it has {}", app.ports.len());
                self.report(app, &label, Problem::error(message).effect("the port gets no requests"));
                continue;
            }
            for object in port.objects {
                if object.key.starts_with("/routes/") || object.key.starts_with("/tcp_routes/") {
                    self.routed.insert(app.title.clone());
                }
                if let (Some(service_port), true) =
                    (app.ports.get(index).and_then(|port| port.service_port), object.key.starts_with("/listeners/"))
                {
                    self.ports.entry(service_port).or_insert_with(|| app.title.clone());
                }
                self.say(app, &object.label, object.key, object.value);
            }
            self.join(app, index, &port.upstream, &label, hosts);
        }
    }

    /// Makes all tasks endpoints of the upstream of a port.
    fn join(&mut self, app: &App, index: usize, upstream: &str, label: &str, hosts: &mut Hosts) {
        for (id, task) in &app.tasks {
            let (Some(Some((host, port))), Ok(id)) = (task.reached.get(index), clean_name(id)) else { continue };
            let address = SocketAddr::new(hosts.ip(host), *port).to_string();
            self.say(app, label, format!("/upstreams/{upstream}/endpoints/{id}"), json!({ "address": address }));
        }
    }

    /// A listener on the service port, unless another app has it.
    fn listen(&mut self, app: &App, index: usize, upstream: &str) {
        let Some(port) = app.ports.get(index).and_then(|port| port.service_port) else { return };
        if self.config.route.is_some() && port == HTTP_PORT {
            return;
        }
        match self.ports.get(&port) {
            Some(owner) if *owner != app.title => {
                let message = format!("the service port {port} is that of {owner} too, which is older");
                self.report(app, "servicePort", Problem::error(message).effect("there is no listener for it"));
            }
            // By its labels.
            Some(_) => (),
            None => {
                self.ports.insert(port, app.title.clone());
                let listener = json!({ "address": format!(":{port}"), "protocol": "tcp" });
                self.say(app, "servicePort", format!("/listeners/{upstream}"), listener);
                self.say(app, "servicePort", format!("/tcp_routes/{upstream}"), json!({ "listener": upstream, "upstream": upstream }));
            }
        }
    }

    /// The route that an app has whose labels say none.
    fn route(&mut self, name: &str, app: &App, upstream: &str) {
        let Some(template) = self.config.route.as_ref().filter(|_| !self.routed.contains(&app.title)) else { return };
        match template.rule(name) {
            Ok(rule) => self.say(app, "id", format!("/routes/{upstream}"), json!({ "match": rule.text(), "upstream": upstream })),
            Err(message) => self.report(app, "id", Problem::error(message)),
        }
    }

    /// Takes over an object, unless labels say it already.
    fn say(&mut self, app: &App, label: &str, key: String, value: Value) {
        if self.held.insert(key.clone()) {
            self.said.say(self.provider, app.created, key, value, place(&app.title, label));
        }
    }

    fn report(&mut self, app: &App, label: &str, problem: Problem) {
        self.said.report(self.provider, problem, place(&app.title, label));
    }
}

fn place(bearer: &str, label: &str) -> Place {
    Place::Label { bearer: bearer.into(), label: label.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::apps::{self, Port, Task};
    use super::*;
    use crate::config::providers::RouteTemplate;
    use crate::discovery::kv::Tree;

    fn web(labels: &[(&str, &str)], hosts: &[&str]) -> Apps {
        let port = |number, service_port| Port { number: Some(number), service_port: Some(service_port), is_udp: false };
        let task = |host: &&str| Task {
            host: Some((*host).to_owned()),
            reached: vec![Some(((*host).to_owned(), 31001)), Some(((*host).to_owned(), 31002))],
            trouble: None,
        };
        let app = App {
            title: "app /prod/web".into(),
            labels: labels.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect(),
            created: 1,
            ports: vec![port(8080, 10001), port(8081, 10002)],
            tasks: hosts.iter().enumerate().map(|(index, host)| (format!("t{index}"), task(host))).collect(),
        };
        Apps::from([(apps::name_of("/prod/web"), app)])
    }

    fn lines(apps: &Apps, config: &MarathonConfig) -> (Vec<String>, Vec<String>) {
        let served = Served::by(apps, &[], config, &Name::literal("marathon"));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut lines: Vec<String> = served.pairs().map(|(pair, _)| format!("{} {}", text(pair.key), text(pair.value))).collect();
        lines.sort();
        (lines, served.problems.iter().map(ToString::to_string).collect())
    }

    #[track_caller]
    fn check(apps: &Apps, config: &MarathonConfig, expected: &[&str], problems: &[&str]) {
        let (lines, complaints) = lines(apps, config);
        assert_eq!(lines, expected, "{complaints:?}");
        assert_eq!(complaints.len(), problems.len(), "{complaints:?}");
        for (complaint, expected) in complaints.iter().zip(problems) {
            assert!(complaint.contains(expected), "{complaint}");
        }
    }

    fn template(text: &str) -> Option<RouteTemplate> {
        RouteTemplate::parse(text).ok()
    }

    #[test]
    fn each_port_is_an_upstream() {
        check(
            &web(&[], &["10.0.0.1", "agent-2.test"]),
            &MarathonConfig::default(),
            &[
                "/upstreams/prod_web {}",
                "/upstreams/prod_web-1 {}",
                r#"/upstreams/prod_web-1/endpoints/t0 {"address":"10.0.0.1:31002"}"#,
                r#"/upstreams/prod_web-1/endpoints/t1 {"address":"agent-2.test:31002"}"#,
                r#"/upstreams/prod_web/endpoints/t0 {"address":"10.0.0.1:31001"}"#,
                r#"/upstreams/prod_web/endpoints/t1 {"address":"agent-2.test:31001"}"#,
            ],
            &[],
        );
    }

    #[test]
    fn service_ports_are_listeners() {
        let config = MarathonConfig { service_port_listeners: true, ..MarathonConfig::default() };
        let expected = [
            r#"/listeners/prod_web {"address":":10001","protocol":"tcp"}"#,
            r#"/listeners/prod_web-1 {"address":":10002","protocol":"tcp"}"#,
            r#"/tcp_routes/prod_web {"listener":"prod_web","upstream":"prod_web"}"#,
            r#"/tcp_routes/prod_web-1 {"listener":"prod_web-1","upstream":"prod_web-1"}"#,
            "/upstreams/prod_web {}",
            "/upstreams/prod_web-1 {}",
        ];
        check(&web(&[], &[]), &config, &expected, &[]);
        // The younger of two does not get it, in whatever order they are named.
        let mut both = web(&[], &[]);
        let young = App { title: "app /a".into(), created: 2, ports: vec![both["prod_web"].ports[1].clone()], ..App::default() };
        both.insert("a".into(), young);
        let expected: Vec<&str> = expected[..4].iter().copied().chain(["/upstreams/a {}"]).chain(expected[4..].iter().copied()).collect();
        check(&both, &config, &expected, &["10002 is that of app /prod/web"]);
    }

    #[test]
    fn port_80_is_left_to_routes() {
        let route = template(r#"Host("{name}")"#);
        let config = MarathonConfig { service_port_listeners: true, route, ..MarathonConfig::default() };
        let mut apps = web(&[], &[]);
        if let Some(app) = apps.get_mut("prod_web") {
            app.ports.truncate(1);
            app.ports[0].service_port = Some(80);
        }
        check(&apps, &config, &[r#"/routes/prod_web {"match":"Host(\"prod_web\")","upstream":"prod_web"}"#, "/upstreams/prod_web {}"], &[]);
    }

    #[test]
    fn our_labels_count_first() {
        let labels = [("nuncio.host", "a.test"), ("nuncio.weight", "3"), ("HAPROXY_GROUP", "x"), ("HAPROXY_0_VHOST", "b.test")];
        let config = MarathonConfig { haproxy_labels: true, route: template(r#"Host("{name}.test")"#), ..MarathonConfig::default() };
        let mut apps = web(&labels, &["agent-2.test"]);
        let expected = [
            r#"/routes/prod_web {"match":"Host(\"a.test\")","upstream":"prod_web"}"#,
            "/upstreams/prod_web {}",
            r#"/upstreams/prod_web/endpoints/t0 {"address":"agent-2.test:31001","weight":3}"#,
        ];
        if let Some(app) = apps.get_mut("prod_web") {
            app.ports.truncate(1);
            app.ports[0].service_port = None;
        }
        check(&apps, &config, &expected, &[]);
        if let Some(app) = apps.get_mut("prod_web") {
            app.labels.insert("nuncio.enable".into(), "false".into());
        }
        check(&apps, &config, &[], &[]);
    }

    #[test]
    fn haproxy_labels_are_those_of_the_ports_by_number() {
        let labels =
            [("HAPROXY_GROUP", "external"), ("HAPROXY_1_VHOST", "b.test"), ("HAPROXY_0_MODE", "tcp"), ("HAPROXY_5_VHOST", "c.test")];
        let group = Some("external".to_owned());
        let config = MarathonConfig { haproxy_labels: true, haproxy_group: group, ..MarathonConfig::default() };
        let expected = [
            r#"/listeners/prod_web {"address":":10001","protocol":"tcp"}"#,
            r#"/listeners/prod_web-1 {"address":":10002","protocol":"http"}"#,
            r#"/routes/prod_web-1 {"match":"Host(\"b.test\")","upstream":"prod_web-1"}"#,
            r#"/routes/prod_web-1-port {"listeners":["prod_web-1"],"match":"PathPrefix(\"/\")","upstream":"prod_web-1"}"#,
            r#"/tcp_routes/prod_web {"listener":"prod_web","upstream":"prod_web"}"#,
            "/upstreams/prod_web {}",
            "/upstreams/prod_web-1 {}",
            r#"/upstreams/prod_web-1/endpoints/t0 {"address":"10.0.0.1:31002"}"#,
            r#"/upstreams/prod_web/endpoints/t0 {"address":"10.0.0.1:31001"}"#,
        ];
        check(&web(&labels, &["10.0.0.1"]), &config, &expected, &["no TCP port number 5"]);
        let both = MarathonConfig { service_port_listeners: true, ..config.clone() };
        check(&web(&labels, &["10.0.0.1"]), &both, &expected, &["no TCP port number 5"]);
        let other = MarathonConfig { haproxy_group: Some("internal".into()), ..config };
        assert_eq!(lines(&web(&labels, &[]), &other).0, ["/upstreams/prod_web {}", "/upstreams/prod_web-1 {}"]);
    }

    #[test]
    fn a_port_is_chosen_by_its_number() {
        let labels = [("nuncio.upstreams.admin.port", "8081"), ("nuncio.host", "a.test"), ("nuncio.upstream", "web")];
        let (lines, problems) = lines(&web(&labels, &["10.0.0.1"]), &MarathonConfig::default());
        assert!(problems.is_empty(), "{problems:?}");
        for expected in
            [r#"/upstreams/admin/endpoints/t0 {"address":"10.0.0.1:31002"}"#, r#"/upstreams/web/endpoints/t0 {"address":"10.0.0.1:31001"}"#]
        {
            assert!(lines.iter().any(|line| line == expected), "{expected}: {lines:?}");
        }
    }

    proptest! {
        #[test]
        fn any_app_can_be_served(
            id in ".{0,20}",
            task in ".{1,12}",
            host in ".{0,12}",
            labels in prop::collection::btree_map("(nuncio\\.|HAPROXY_[0-2]_)(host|port|enable|upstream|VHOST|PORT|MODE).{0,3}|HAPROXY_GROUP", ".{0,8}", 0..6),
        ) {
            let mut apps = web(&[], &[host.as_str()]);
            let mut app = apps.remove("prod_web").unwrap();
            app.labels = labels;
            if let Some(held) = app.tasks.remove("t0") {
                app.tasks.insert(task, held);
            }
            apps.insert(apps::name_of(&id), app);
            let config = MarathonConfig {
                haproxy_labels: true,
                service_port_listeners: true,
                route: template("Host(`{name}`)"),
                ..MarathonConfig::default()
            };
            let served = Served::by(&apps, &[], &config, &Name::literal("marathon"));
            Tree::new("", Name::literal("marathon")).replace_at(served.pairs());
        }
    }
}
