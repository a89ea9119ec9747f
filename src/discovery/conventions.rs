//! Labels of others → pairs of the key/value layout, beside those of ours: of registrator, marathon-lb and hive-builder.
//!
//! Each has a reader of its own, which knows nothing of containers. Here their ports are found among those of who bears the labels.
//! `nuncio.enable=false` is for them too.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use super::haproxy_labels::{self, App};
use super::labels::{Bearer, Instance, Telling};
use super::{hive_labels, registrator_labels};
use crate::config::Problem;
use crate::config::providers::{Convention, Conventions, RouteTemplate, clean_name};

/// Tells what the labels of one bearer say by these conventions.
pub(super) fn read(mut telling: Telling<'_>, conventions: &Conventions) {
    if telling.bearer.labels.get("nuncio.enable").is_some_and(|enable| enable.trim() == "false") {
        return;
    }
    if conventions.has(Convention::Registrator) {
        registrator(&mut telling, conventions.route.as_ref());
    }
    if conventions.has(Convention::Haproxy) {
        haproxy(&mut telling, conventions.haproxy_group.as_deref());
    }
    if conventions.has(Convention::Hive) {
        hive(&mut telling);
    }
}

/// Each port of an instance may belong to a service of its own. Services are gone with their last instance.
fn registrator(telling: &mut Telling<'_>, route: Option<&RouteTemplate>) {
    let bearer = telling.bearer;
    for instance in &bearer.instances {
        let ports: BTreeSet<u16> = instance.ports.keys().copied().collect();
        for service in registrator_labels::services(pairs(bearer), &ports, None) {
            let name = match clean_name(&service.name) {
                Ok(name) => name,
                Err(message) => {
                    telling.report(&service.label, Problem::error(message).effect("it gets no requests"));
                    continue;
                }
            };
            telling.say(format!("/upstreams/{name}"), &service.label, json!({}));
            telling.join(
                name.as_str(),
                &format!("{}:{}", instance.id, service.port),
                &service.label,
                instance.endpoint(Some(service.port)),
            );
            match route.map(|route| route.rule(&service.name)) {
                Some(Ok(rule)) => {
                    telling.say(format!("/routes/{name}"), &service.label, json!({ "match": rule.text(), "upstream": name.as_str() }));
                }
                Some(Err(message)) => telling.report(&service.label, Problem::error(message)),
                None => (),
            }
        }
    }
}

fn haproxy(telling: &mut Telling<'_>, group: Option<&str>) {
    let bearer = telling.bearer;
    let said = haproxy_labels::read(labels(bearer), App { name: &bearer.name, service_ports: &[], group });
    for (label, problem) in said.problems {
        telling.report(&label, problem);
    }
    for port in said.ports {
        let label = port.objects.last().map_or_else(String::new, |object| object.label.clone());
        for object in port.objects {
            telling.say(object.key, &object.label, object.value);
        }
        for instance in &bearer.instances {
            telling.join(&port.upstream, &instance.id, &label, port_of(instance, port.index).map(|address| instance.endpoint_at(address)));
        }
    }
}

/// Where the port with this number is reached, counted from 0 in order of the ports.
fn port_of(instance: &Instance, index: u16) -> Result<SocketAddr, String> {
    match instance.ports.keys().nth(index.into()) {
        Some(port) => instance.address(Some(*port)),
        None if instance.trouble.is_some() => instance.address(None),
        None => Err(format!("it has no port number {index}, counted from 0: it has {}", instance.ports.len())),
    }
}

fn hive(telling: &mut Telling<'_>) {
    let bearer = telling.bearer;
    let Some(published) = hive_labels::read(&bearer.labels, &bearer.name) else { return };
    for object in published.objects {
        telling.say(object.key, &object.label, object.value);
    }
    if let Some((label, message)) = published.problem {
        telling.report(label, Problem::error(message).effect("it is served without TLS"));
    }
    match published.port {
        Ok(port) => {
            for instance in &bearer.instances {
                telling.join(&bearer.name, &instance.id, hive_labels::FQDN, instance.endpoint(Some(port)));
            }
        }
        Err(message) => telling.report("port", Problem::error(message).effect("it gets no requests")),
    }
}

fn labels(bearer: &Bearer) -> impl Iterator<Item = (&str, &str)> {
    bearer.labels.iter().map(|(label, value)| (label.as_str(), value.as_str()))
}

/// Variables and labels, of which the latter count more.
fn pairs(bearer: &Bearer) -> impl Iterator<Item = (&str, &str)> {
    bearer.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(labels(bearer))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::labels::Said;
    use super::*;
    use crate::names::Name;

    fn bearer(labels: &[(&str, &str)], variables: &[(&str, &str)], ports: &[u16]) -> Bearer {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect();
        let ports: BTreeMap<u16, SocketAddr> = ports.iter().map(|port| (*port, SocketAddr::from(([10, 0, 0, 1], *port)))).collect();
        let instance = Instance { id: "1".into(), ports, any_port: Some([10, 0, 0, 1].into()), is_backup: false, trouble: None };
        Bearer {
            title: "container web".into(),
            name: "web".into(),
            created: 1,
            labels: map(labels),
            variables: map(variables),
            instances: vec![instance],
        }
    }

    #[track_caller]
    fn check(bearer: Bearer, conventions: &Conventions, pairs: &[&str], problems: &[&str]) {
        let said = Said::by(&[bearer], conventions, &Name::literal("docker"));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let found: Vec<String> = said.pairs().map(|(pair, _)| format!("{} {}", text(pair.key), text(pair.value))).collect();
        assert_eq!(found, pairs);
        assert_eq!(said.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), problems);
    }

    fn only(kind: Convention) -> Conventions {
        Conventions { kinds: vec![kind], ..Conventions::default() }
    }

    #[test]
    fn only_what_is_asked_for_is_read() {
        let all = [("SERVICE_NAME", "a"), ("HAPROXY_GROUP", "x"), ("published_fqdn", "a.test")];
        check(bearer(&all, &[], &[80]), &Conventions::default(), &[], &[]);
    }

    #[test]
    fn services_of_registrator_are_upstreams() {
        let route = RouteTemplate::parse(r#"Host("{name}.example.com")"#).ok();
        let conventions = Conventions { route, ..only(Convention::Registrator) };
        check(
            bearer(&[("SERVICE_443_NAME", "secure")], &[("SERVICE_NAME", "web")], &[80, 443]),
            &conventions,
            &[
                r#"/routes/secure {"match":"Host(\"secure.example.com\")","upstream":"secure"}"#,
                r#"/routes/web-80 {"match":"Host(\"web-80.example.com\")","upstream":"web-80"}"#,
                "/upstreams/secure {}",
                r#"/upstreams/secure/endpoints/1:443 {"address":"10.0.0.1:443"}"#,
                "/upstreams/web-80 {}",
                r#"/upstreams/web-80/endpoints/1:80 {"address":"10.0.0.1:80"}"#,
            ],
            &[],
        );
    }

    #[test]
    fn ports_of_haproxy_are_counted() {
        let labels = [("HAPROXY_GROUP", "x"), ("HAPROXY_1_VHOST", "a.test"), ("HAPROXY_2_VHOST", "b.test")];
        check(
            bearer(&labels, &[], &[80, 8080]),
            &only(Convention::Haproxy),
            &[
                r#"/routes/web-1 {"match":"Host(\"a.test\")","upstream":"web-1"}"#,
                r#"/routes/web-2 {"match":"Host(\"b.test\")","upstream":"web-2"}"#,
                "/upstreams/web-1 {}",
                r#"/upstreams/web-1/endpoints/1 {"address":"10.0.0.1:8080"}"#,
                "/upstreams/web-2 {}",
            ],
            &["it has no port number 2, counted from 0: it has 2 (docker: container web, label HAPROXY_2_VHOST)"],
        );
    }

    #[test]
    fn ours_come_first() {
        let labels = [("published_fqdn", "a.test"), ("nuncio.host", "b.test"), ("nuncio.port", "8080")];
        check(
            bearer(&labels, &[], &[80, 8080]),
            &only(Convention::Hive),
            &[
                r#"/routes/web {"match":"Host(\"b.test\")","upstream":"web"}"#,
                "/upstreams/web {}",
                r#"/upstreams/web/endpoints/1 {"address":"10.0.0.1:8080"}"#,
            ],
            &[],
        );
        let disabled = [("published_fqdn", "a.test"), ("nuncio.enable", "false")];
        check(bearer(&disabled, &[], &[80]), &only(Convention::Hive), &[], &[]);
    }
}
