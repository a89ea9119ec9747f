//! A configuration of synapse, in JSON or YAML.
//!
//! A service becomes what synapse would have HAProxy do: its lines are read as HAProxy's. What a watcher finds comes from a provider of
//! ours; a file that is one service alone, as in `service_conf_dir`, is named after it.

use std::rc::Rc;

use nuncio::config::providers::clean_name;
use toml::{Table, Value};

use super::Input;
use super::document::{Node, parse};
use super::draft::{At, Draft, Section, table};
use super::{haproxy, problems};

/// Reads files of synapse.
///
/// # Errors
/// A sentence when a file is no JSON or YAML.
pub(super) fn import(inputs: &[Input]) -> Result<Draft, String> {
    let mut services: Vec<(String, Node)> = Vec::new();
    let mut general = None;
    let mut draft = Draft::default();
    for input in inputs {
        let node = parse(input)?;
        if let Some(all) = node.get("services") {
            services.extend(all.entries().iter().cloned());
            for (key, value) in node.entries().iter().filter(|(key, _)| !matches!(key.as_str(), "services" | "haproxy")) {
                draft.lose(
                    &value.at,
                    key,
                    match key.as_str() {
                        "service_conf_dir" => "the files of the directory are not followed: give their names on the command line as well",
                        _ => "it has no counterpart",
                    },
                );
            }
            general = node.get("haproxy").cloned();
        } else {
            services.push((stem(&input.name), node));
        }
    }
    let mut lines: Vec<(At, String)> = Vec::new();
    if let Some(general) = &general {
        lines.extend(defaults(general, &mut draft));
    }
    let mut found = Vec::new();
    let discoveries: Vec<&Node> = services.iter().filter_map(|(_, service)| service.get("discovery")).collect();
    for (name, service) in &services {
        let watched = servers(name, service, &discoveries, &mut draft);
        lines.extend(listen(name, service, &watched.servers, general.as_ref(), &mut draft));
        if let Some(provider) = watched.provider {
            found.push((name, &service.at, provider));
        }
    }
    haproxy::import_lines(lines.iter().map(|(at, line)| (at.clone(), line.as_str())), &mut draft);
    for (name, at, provider) in found {
        learn(name, at, provider, &mut draft);
    }
    Ok(draft)
}

fn stem(path: &Rc<str>) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.rsplit_once('.').map_or(file, |(stem, _)| stem).to_owned()
}

/// The `defaults` of HAProxy, and sections of its own.
fn defaults(general: &Node, draft: &mut Draft) -> Vec<(At, String)> {
    let mut lines = Vec::new();
    if let Some(defaults) = general.get("defaults") {
        lines.push((defaults.at.clone(), "defaults".to_owned()));
        lines.extend(indented(defaults));
    }
    for (header, section) in general.get("extra_sections").map(Node::entries).unwrap_or_default() {
        lines.push((section.at.clone(), header.clone()));
        lines.extend(indented(section));
    }
    if general.get("shared_frontend").is_some_and(|shared| !shared.elements().is_empty()) {
        draft.lose(&general.at, "shared_frontend", "write the listener and its routes by hand");
    }
    lines
}

fn indented(node: &Node) -> impl Iterator<Item = (At, String)> {
    node.elements().iter().filter_map(|element| Some((element.at.clone(), format!("  {}", element.text()?.trim()))))
}

/// Where the servers of a service come from.
#[derive(Default)]
struct Watched {
    /// As lines of HAProxy.
    servers: Vec<(At, String)>,
    /// A provider with its kind, and the name of the upstream that it makes.
    provider: Option<(&'static str, Table, String)>,
}

fn servers(name: &str, service: &Node, all: &[&Node], draft: &mut Draft) -> Watched {
    let mut watched = Watched::default();
    let Some(discovery) = service.get("discovery") else {
        draft.lose(&service.at, name, "it has no `discovery`");
        return watched;
    };
    let at = &discovery.at;
    let what = format!("{name}: {}", discovery.text_of("method").unwrap_or("?"));
    match discovery.text_of("method").unwrap_or_default() {
        "base" => {}
        "dns" => {
            watched.servers = lines_of(discovery.get("servers"));
            if discovery.get("nameserver").is_some() {
                draft.lose(at, &what, "names are asked of the servers in /etc/resolv.conf");
            }
        }
        "zookeeper" | "zookeeper_poll" => watched.provider = zookeeper(discovery, all),
        "etcd" => {
            draft.lose(
                at,
                &what,
                concat!(
                    "nerve writes etcd's keys as PATH/INSTANCE/NUMBER, which no layout reads: let instances register as PATH/INSTANCE, ",
                    "and add [providers.etcd2] with `layout = \"services\"`"
                ),
            );
        }
        "docker" => {
            let servers = discovery.get("servers").map(Node::elements).unwrap_or_default();
            let engine = servers.first().and_then(|server| Some((server.text_of("host")?, server.text_of("port").unwrap_or("4243"))));
            if let Some((host, port)) = engine {
                let fields = table([("endpoint", format!("tcp://{host}:{port}").into()), ("address", "published".into())]);
                watched.provider = Some(("docker", fields, name.to_owned()));
            }
            draft.lose(
                at,
                &what,
                "containers are found by their labels, not by `image_name`: see docs/docker.md, and give each engine a provider",
            );
        }
        _ => draft.lose(at, &what, "there is no provider for it; list the endpoints, or let them register in a store"),
    }
    for (key, why) in [
        ("label_filters", "all instances below the path are used"),
        ("backend_port_override", "endpoints are used with the port that they registered"),
        ("leader_election", "all instances are used"),
        ("generator_config_path", "settings in the data of the znode are not read"),
    ] {
        if let Some(setting) = discovery.get(key).or_else(|| service.get(key)).filter(|setting| setting.text() != Some("disabled")) {
            draft.lose(&setting.at, format!("{name}: {key}"), why);
        }
    }
    if service.text_of("use_previous_backends") == Some("false") {
        draft.note(
            &service.at,
            format!("{name}: use_previous_backends"),
            "an empty list that was not said to be one is held for 30 s before it counts",
        );
    }
    let defaults = lines_of(service.get("default_servers"));
    if watched.provider.is_some() && !defaults.is_empty() {
        draft.lose(
            &service.at,
            format!("{name}: default_servers"),
            "what a provider makes has its endpoints alone; what was found last serves while the store is away",
        );
    } else {
        watched.servers.extend(defaults);
    }
    watched
}

fn lines_of(servers: Option<&Node>) -> Vec<(At, String)> {
    let line = |server: &Node| {
        let (host, port) = (server.text_of("host")?, server.text_of("port").unwrap_or("80"));
        Some((server.at.clone(), format!("  server {} {host}:{port}", server.text_of("name").unwrap_or(host))))
    };
    servers.map(Node::elements).unwrap_or_default().iter().filter_map(line).collect()
}

/// One provider for all services of an ensemble: what their paths have in common is its prefix, the rest the name of the service.
fn zookeeper(discovery: &Node, all: &[&Node]) -> Option<(&'static str, Table, String)> {
    let hosts = discovery.texts_of("hosts");
    let path = discovery.text_of("path")?.trim_end_matches('/');
    let mut prefix = path.rsplit_once('/')?.0;
    for other in all.iter().filter(|other| other.texts_of("hosts") == hosts) {
        let other = other.text_of("path").unwrap_or_default().trim_end_matches('/');
        while !other.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')) && !prefix.is_empty() {
            prefix = prefix.rsplit_once('/')?.0;
        }
    }
    let service = clean_name(path.strip_prefix(prefix)?.trim_start_matches('/')).ok()?.to_string();
    let hosts: Vec<Value> = hosts.into_iter().map(Value::from).collect();
    let prefix = if prefix.is_empty() { "/" } else { prefix };
    let fields = table([("endpoints", hosts.into()), ("layout", "services".into()), ("prefix", prefix.into())]);
    Some(("zookeeper", fields, service))
}

/// The section of a service, as synapse writes it.
fn listen(name: &str, service: &Node, servers: &[(At, String)], general: Option<&Node>, draft: &mut Draft) -> Vec<(At, String)> {
    let Some(haproxy) = service.get("haproxy") else {
        draft.lose(&service.at, name, "it has no `haproxy`: nothing listens for it");
        return Vec::new();
    };
    if haproxy.is_true("disabled") {
        draft.lose(&haproxy.at, name, "it is `disabled`, and left out");
        return Vec::new();
    }
    let Some(port) = haproxy.text_of("port") else {
        draft.lose(&haproxy.at, name, "it has no `port`: nothing listens for it");
        return Vec::new();
    };
    let address = haproxy.text_of("bind_address").or_else(|| general?.text_of("bind_address")).unwrap_or("localhost");
    let at = &haproxy.at;
    let mut lines = vec![
        (at.clone(), format!("listen {name}")),
        (at.clone(), format!("  bind {address}:{port} {}", haproxy.text_of("bind_options").unwrap_or_default())),
    ];
    for key in ["frontend", "backend", "listen"] {
        lines.extend(haproxy.get(key).into_iter().flat_map(indented));
    }
    if let Some(options) = haproxy.get("server_options") {
        let words: Vec<&str> = options.elements().iter().filter_map(Node::text).flat_map(str::split_ascii_whitespace).collect();
        // Cookies are named after servers by us.
        let words: Vec<&str> = words.into_iter().map(|word| if word.contains("%{") { "x" } else { word }).collect();
        lines.push((options.at.clone(), format!("  default-server {}", words.join(" "))));
    }
    for (key, value) in haproxy.entries() {
        match key.as_str() {
            "port" | "bind_address" | "bind_options" | "frontend" | "backend" | "listen" | "server_options" | "disabled" => {}
            "backend_order" | "backend_name" | "cookie_value_method" => {}
            "shared_frontend" => draft.lose(&value.at, format!("{name}: shared_frontend"), "write routes of the shared listener by hand"),
            "use_nerve_weights" if value.text() == Some("true") => {}
            key => draft.lose(&value.at, format!("{name}: {key}"), "it has no counterpart"),
        }
    }
    lines.extend(servers.iter().cloned());
    lines
}

/// Lets the routes of a service lead to what a provider makes.
fn learn(service: &str, at: &At, (kind, mut fields, upstream): (&str, Table, String), draft: &mut Draft) {
    fields.insert("type".into(), kind.into());
    // A kind that this version does not have would make the whole result invalid.
    let mut alone = Draft::default();
    alone.add(Section::Providers, kind, at, service, fields.clone());
    if !problems(&alone.render("a provider")).is_empty() {
        let fields = Value::Table(fields);
        return draft.lose(at, format!("{service}: {kind}"), format!("this version has no provider for it that would be {fields}"));
    }
    let made = draft.remove(Section::Upstreams, service);
    if made.is_some_and(|made| ["health", "sticky", "balance", "timeouts"].iter().any(|key| made.contains_key(*key))) {
        draft.lose(
            at,
            format!("{service}: checks, balance and times"),
            "upstreams that a provider makes of registrations have our defaults",
        );
    }
    for section in [Section::Routes, Section::TcpRoutes] {
        draft.replace(section, "upstream", service, &upstream);
    }
    let known = draft.names(Section::Providers);
    if !known.iter().any(|name| draft.table(Section::Providers, name).is_some_and(|table| *table == fields)) {
        draft.add(Section::Providers, kind, at, &format!("discovery of {service}"), fields);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::testing::{import_text, import_texts, table};

    #[test]
    fn services_with_servers_and_by_dns() {
        let (text, findings) = import_text(
            Kind::Synapse,
            r#"{
  "services": {
    "web": {
      "default_servers": [{"name": "a", "host": "10.0.0.1", "port": 8080}, {"name": "b", "host": "10.0.0.2", "port": 8080}],
      "discovery": {"method": "base"},
      "haproxy": {
        "port": 3213,
        "server_options": "check inter 2s rise 3 fall 2 cookie %{name}",
        "listen": ["mode http", "option httpchk /health", "balance leastconn"]
      }
    },
    "db": {
      "discovery": {"method": "dns", "servers": [{"name": "db", "host": "db.internal", "port": 5432}]},
      "haproxy": {"port": "5432", "bind_address": "127.0.0.2", "listen": ["mode tcp"]}
    }
  },
  "haproxy": {"reload_command": "service haproxy reload", "global": ["daemon"], "defaults": ["timeout connect 500ms", "option forwardfor"]}
}"#,
        );
        assert!(findings.is_empty(), "{findings:#?}");
        assert_eq!(table(&text, "listeners.web"), ["address = \"127.0.0.1:3213\""]);
        let upstream = table(&text, "upstreams.web");
        assert_eq!(upstream[0], "balance = \"least_request\"");
        assert_eq!(upstream[1], "endpoints = [\"10.0.0.1:8080\", \"10.0.0.2:8080\"]");
        assert_eq!(upstream[2], "health = { fall = 2, http = \"/health\", interval = \"2s\", rise = 3 }");
        assert_eq!(table(&text, "listeners.db")[0], "address = \"127.0.0.2:5432\"");
        assert_eq!(table(&text, "upstreams.db")[0], "endpoints = [\"db.internal:5432\"]");
        assert!(text.contains("# test:6: "), "{text}");
    }

    #[test]
    fn services_in_zookeeper_come_from_a_provider() {
        let service = |name: &str, port: u16| {
            format!(
                "  {name}:\n    discovery:\n      method: zookeeper\n      path: /production/services/{name}/services\n      hosts: [10.0.0.1:2181, 10.0.0.2:2181]\n    \
                 haproxy:\n      port: {port}\n      server_options: check\n      listen: [mode http, option forwardfor]\n"
            )
        };
        let (text, findings) =
            import_texts(Kind::Synapse, &[("synapse.yaml", &format!("services:\n{}{}", service("web", 3000), service("api", 3001)))]);
        if text.contains("[providers.zookeeper]") {
            assert!(text.matches("[providers.").count() == 1 && text.contains("prefix = \"/production/services\""), "{text}");
            assert!(table(&text, "routes.web").contains(&"upstream = \"web%2Fservices\""), "the folders above the instances: {text}");
            assert!(table(&text, "routes.api").contains(&"upstream = \"api%2Fservices\""), "{text}");
            assert!(!text.contains("[upstreams."), "{text}");
        } else {
            let says = |finding: &String| finding.contains("no provider") && finding.contains("prefix = \"/production/services\"");
            assert!(findings.iter().any(says), "{findings:#?}");
            assert!(table(&text, "routes.web").contains(&"upstream = \"web\""), "{text}");
        }
    }

    #[test]
    fn what_is_lost_is_said_line_by_line() {
        let (_, findings) = import_texts(
            Kind::Synapse,
            &[
                (
                    "synapse.yaml",
                    "service_conf_dir: /etc/synapse.d\nfile_output: {output_directory: /tmp}\nservices:\n  a:\n    discovery: {method: ec2tag}\n    \
                     haproxy: {port: 1, shared_frontend: [x]}\n  b:\n    discovery: {method: base}\n    leader_election: true\n",
                ),
                ("/etc/synapse.d/c.json", "{\"discovery\": {\"method\": \"marathon\"},\n \"haproxy\": {\"disabled\": true}}"),
            ],
        );
        let lines: Vec<&str> =
            findings.iter().filter(|finding| finding.contains("not carried")).filter_map(|finding| finding.split(": ").next()).collect();
        let expected = [
            "/etc/synapse.d/c.json:1",
            "/etc/synapse.d/c.json:2",
            "synapse.yaml:1",
            "synapse.yaml:2",
            "synapse.yaml:5",
            "synapse.yaml:6",
            "synapse.yaml:7",
            "synapse.yaml:9",
        ];
        assert_eq!(lines, expected, "{findings:#?}");
    }
}
