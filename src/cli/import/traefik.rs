//! A configuration of Traefik, static and dynamic, in YAML or TOML.
//!
//! Entry points become listeners, routers routes, services upstreams, middlewares shared middlewares. All files together are one
//! configuration, in any order.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::Input;
use super::document::{Node, parse};
use super::draft::{Draft, Section, inline, listen_address, table};
use super::traefik_rule;

/// What all files say, by the path of keys: `http.routers` → its entries.
struct Files(Vec<Node>);

impl Files {
    fn entries(&self, path: &[&str]) -> Vec<(String, Node)> {
        let at = |root: &Node| -> Vec<(String, Node)> {
            let mut node = root.clone();
            for key in path {
                match get(&node, key) {
                    Some(next) => node = next.clone(),
                    None => return Vec::new(),
                }
            }
            node.entries().to_vec()
        };
        self.0.iter().flat_map(at).collect()
    }

    fn elements(&self, path: [&str; 2]) -> Vec<Node> {
        let at = |root: &Node| Some(get(get(root, path[0])?, path[1])?.elements().to_vec());
        self.0.iter().filter_map(at).flatten().collect()
    }
}

/// Keys of Traefik do not tell cases apart.
fn get<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    node.entries().iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, node)| node)
}

fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    get(node, key)?.text()
}

fn texts(node: &Node, key: &str) -> Vec<String> {
    get(node, key).map(Node::elements).unwrap_or_default().iter().filter_map(|node| node.text().map(str::to_owned)).collect()
}

/// Reads files of Traefik.
///
/// # Errors
/// A sentence when a file is neither YAML nor TOML.
pub(super) fn import(inputs: &[Input]) -> Result<Draft, String> {
    let files = Files(inputs.iter().map(parse).collect::<Result<_, _>>()?);
    let mut draft = Draft::default();
    report(&files, &mut draft);
    for certificate in files.elements(["tls", "certificates"]) {
        let pem = |key: &str| Value::from(text(&certificate, key).unwrap_or_default());
        let fields = table([("cert", pem("certFile")), ("key", pem("keyFile"))]);
        let file = text(&certificate, "certFile").unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let stem = file.split('.').find(|part| !part.is_empty()).unwrap_or("site").to_owned();
        draft.add(Section::Certificates, &stem, &certificate.at, "tls.certificates", fields);
    }
    let mut http = Http { middlewares: BTreeMap::new(), upstreams: BTreeMap::new(), entries: files.entries(&["entryPoints"]) };
    http.put_listeners(&files, &mut draft);
    for (name, service) in files.entries(&["http", "services"]) {
        http.put_service(&name, &service, &mut draft);
    }
    http.put_middlewares(&files.entries(&["http", "middlewares"]), &mut draft);
    for (name, router) in files.entries(&["http", "routers"]) {
        http.put_router(&name, &router, &mut draft);
    }
    put_tcp(&files, &mut draft);
    Ok(draft)
}

/// What has no counterpart, by its key at the top of a file.
fn report(files: &Files, draft: &mut Draft) {
    for (key, node) in files.0.iter().flat_map(Node::entries) {
        match key.to_ascii_lowercase().as_str() {
            "entrypoints" | "http" | "tcp" | "global" | "serverstransport" => {}
            "tls" => {
                for (key, node) in node.entries().iter().filter(|(key, _)| !key.eq_ignore_ascii_case("certificates")) {
                    draft.lose(
                        &node.at,
                        format!("tls.{key}"),
                        "`min_version` and `certificates` of `tls` of a listener, and `default` of a certificate, come closest",
                    );
                }
            }
            "log" | "accesslog" | "api" | "ping" | "metrics" | "tracing" => {
                draft.note(&node.at, key, "logs, metrics and the admin API are set in [server]");
            }
            "providers" => {
                for (kind, node) in node.entries().iter().filter(|(kind, _)| !kind.eq_ignore_ascii_case("file")) {
                    draft.lose(
                        &node.at,
                        format!("providers.{kind}"),
                        "labels and keys of Traefik are not read: see [providers] and docs/docker.md for ours",
                    );
                }
            }
            "certificatesresolvers" => draft.lose(
                &node.at,
                key,
                "certificates come from files or a store: let a client of ACME write them, they are read again when they change",
            ),
            _ => draft.lose(&node.at, key, "it has no counterpart"),
        }
    }
    for section in ["http", "tcp"] {
        for (key, node) in files.entries(&[section]) {
            if !["routers", "services", "middlewares"].contains(&key.to_ascii_lowercase().as_str()) {
                draft.lose(&node.at, format!("{section}.{key}"), "TLS to endpoints is `tls` of an upstream");
            }
        }
    }
}

struct Http {
    /// Traefik's names → ours. A chain has several; one that was not carried over is not here.
    middlewares: BTreeMap<String, Vec<String>>,
    upstreams: BTreeMap<String, String>,
    entries: Vec<(String, Node)>,
}

/// A name without its provider.
fn plain(name: &str) -> &str {
    name.split('@').next().unwrap_or_default()
}

/// `:80`, `0.0.0.0:80/tcp`.
fn entry_address(entry: &Node) -> Option<String> {
    let address = text(entry, "address")?;
    listen_address(address.strip_suffix("/tcp").unwrap_or(address))
}

impl Http {
    fn put_listeners(&self, files: &Files, draft: &mut Draft) {
        let of = |section: &str| -> Vec<(bool, Vec<String>)> {
            let routers = files.entries(&[section, "routers"]);
            routers.iter().map(|(_, router)| (get(router, "tls").is_some(), texts(router, "entryPoints"))).collect()
        };
        let (http, tcp) = (of("http"), of("tcp"));
        for (name, entry) in &self.entries {
            let Some(address) = entry_address(entry) else {
                draft.lose(&entry.at, format!("entryPoints.{name}"), "it is no TCP address with one port");
                continue;
            };
            let is_used_by = |routers: &[(bool, Vec<String>)]| routers.iter().any(|(_, entries)| entries.contains(name));
            let is_tcp = is_used_by(&tcp);
            if is_tcp && (is_used_by(&http) || http.iter().any(|(_, entries)| entries.is_empty())) {
                draft.note(&entry.at, format!("entryPoints.{name}"), "it is for TCP: a listener speaks either HTTP or TCP");
            }
            let mut fields = table([("address", address.as_str().into())]);
            let own = get(entry, "http");
            let has_tls = |(tls, entries): &(bool, Vec<String>)| {
                *tls && (entries.contains(name) || (entries.is_empty() && address.ends_with(":443")))
            };
            if is_tcp {
                fields.insert("protocol".into(), "tcp".into());
            } else if own.is_some_and(|own| get(own, "tls").is_some()) || http.iter().any(has_tls) {
                fields.insert("tls".into(), Table::new().into());
                if draft.names(Section::Certificates).is_empty() {
                    draft.lose(
                        &entry.at,
                        format!("entryPoints.{name}"),
                        "it speaks TLS, and there is no certificate: add one under [certificates]",
                    );
                }
            }
            if let Some(trusted) =
                get(entry, "forwardedHeaders").map(|forwarded| texts(forwarded, "trustedIPs")).filter(|trusted| !trusted.is_empty())
            {
                fields.insert("trusted_proxies".into(), trusted.into_iter().map(Value::from).collect::<Vec<_>>().into());
            }
            for (key, node) in entry.entries() {
                match key.to_ascii_lowercase().as_str() {
                    "address" | "http" | "forwardedheaders" | "asdefault" => {}
                    "proxyprotocol" => draft.lose(
                        &node.at,
                        format!("entryPoints.{name}.{key}"),
                        "say `proxy_protocol` and `trusted_proxies` of the listener",
                    ),
                    "transport" => draft.lose(
                        &node.at,
                        format!("entryPoints.{name}.{key}"),
                        "say `timeouts` of the listener, and `drain_timeout` in [server]",
                    ),
                    _ => draft.lose(&node.at, format!("entryPoints.{name}.{key}"), "it has no counterpart"),
                }
            }
            let listener = draft.add(Section::Listeners, name, &entry.at, &format!("entryPoints.{name}"), fields);
            let to = own.and_then(|own| get(own, "redirections")).and_then(|redirections| get(redirections, "entryPoint"));
            if let Some(to) = to.filter(|_| !is_tcp) {
                self.put_redirection(to, &listener, draft);
            }
            for (key, node) in own.map(Node::entries).unwrap_or_default() {
                if !["redirections", "tls"].contains(&key.as_str()) {
                    draft.lose(&node.at, format!("entryPoints.{name}.http.{key}"), "write it at each route");
                }
            }
        }
    }

    /// All of an entry point goes to another one.
    fn put_redirection(&self, to: &Node, listener: &str, draft: &mut Draft) {
        let target = text(to, "to").unwrap_or_default();
        let port = self.entries.iter().find(|(name, _)| name == target).and_then(|(_, entry)| entry_address(entry));
        let port = port.as_deref().unwrap_or(target).rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let mut redirect = table([("scheme", text(to, "scheme").unwrap_or("https").into())]);
        redirect.insert("status".into(), if text(to, "permanent") == Some("false") { 302 } else { 301 }.into());
        if let Some(port) = port.filter(|port| *port != 443) {
            redirect.insert("port".into(), i64::from(port).into());
        }
        let route = table([
            ("match", "PathPrefix(\"/\")".into()),
            // Before all routers of the entry point.
            ("priority", i64::from(i32::MAX).into()),
            ("listeners", vec![Value::from(listener)].into()),
            ("middlewares", vec![inline([("redirect", redirect.into())])].into()),
        ]);
        draft.add(Section::Routes, &format!("{listener}-redirect"), &to.at, "redirections.entryPoint", route);
    }

    fn put_service(&mut self, name: &str, service: &Node, draft: &mut Draft) {
        let what = format!("http.services.{name}");
        let Some(balancer) = get(service, "loadBalancer") else {
            return draft.lose(
                &service.at,
                what,
                "only `loadBalancer` has a counterpart: write the endpoints with weights into one upstream",
            );
        };
        let mut endpoints = Vec::new();
        let mut schemes = BTreeSet::new();
        for server in get(balancer, "servers").map(Node::elements).unwrap_or_default() {
            let url = text(server, "url").unwrap_or_default();
            let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
            let authority = rest.split('/').next().unwrap_or_default();
            let port = if scheme == "https" { 443 } else { 80 };
            let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let address = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
            if let Err(why) = nuncio::config::Endpoint::parse_address(&address) {
                draft.lose(&server.at, format!("{what}: {url}"), why);
                continue;
            }
            schemes.insert(scheme.to_owned());
            endpoints.push(match text(server, "weight").and_then(|weight| weight.parse::<i64>().ok()) {
                None | Some(1) => address.into(),
                Some(weight) => inline([("address", address.into()), ("weight", weight.clamp(0, 1_000).into())]),
            });
        }
        let mut fields = table([("endpoints", endpoints.into())]);
        match schemes.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] | ["http"] => {}
            ["https"] => drop(fields.insert("tls".into(), Table::new().into())),
            ["h2c"] => drop(fields.insert("protocol".into(), "h2c".into())),
            _ => draft.lose(&service.at, what.clone(), "its servers speak different schemes: an upstream speaks one"),
        }
        if text(balancer, "passHostHeader") == Some("false") {
            fields.insert("host".into(), "endpoint".into());
        }
        if let Some(cookie) = get(balancer, "sticky").and_then(|sticky| get(sticky, "cookie")) {
            let mut sticky = table([("cookie", text(cookie, "name").unwrap_or("_nuncio").into())]);
            if let Some(site) = text(cookie, "sameSite") {
                sticky.insert("same_site".into(), site.to_ascii_lowercase().into());
            }
            if let Some(age) = text(cookie, "maxAge").filter(|age| age.parse::<u32>().is_ok_and(|age| age > 0)) {
                sticky.insert("max_age".into(), format!("{age}s").into());
            }
            fields.insert("sticky".into(), sticky.into());
        }
        if let Some(check) = get(balancer, "healthCheck") {
            let mut health = table([("http", text(check, "path").unwrap_or("/").into())]);
            for (theirs, ours) in [("interval", "interval"), ("timeout", "timeout"), ("hostname", "host")] {
                if let Some(value) = text(check, theirs) {
                    let is_number = value.chars().all(|c| c.is_ascii_digit());
                    health.insert(ours.into(), if is_number { format!("{value}s") } else { value.to_owned() }.into());
                }
            }
            for (key, node) in check.entries() {
                if !["path", "interval", "timeout", "hostname"].contains(&key.to_ascii_lowercase().as_str()) {
                    draft.lose(
                        &node.at,
                        format!("{what}.healthCheck.{key}"),
                        "a check asks for a path of the endpoint and looks at the status",
                    );
                }
            }
            fields.insert("health".into(), health.into());
        }
        for (key, node) in balancer.entries() {
            if !["servers", "sticky", "healthcheck", "passhostheader"].contains(&key.to_ascii_lowercase().as_str()) {
                draft.lose(&node.at, format!("{what}.{key}"), "it has no counterpart; TLS to endpoints is `tls` of the upstream");
            }
        }
        let ours = draft.add(Section::Upstreams, name, &service.at, &what, fields);
        self.upstreams.insert(name.to_owned(), ours);
    }

    fn put_middlewares(&mut self, all: &[(String, Node)], draft: &mut Draft) {
        for (name, node) in all {
            let Some((kind, settings)) = node.entries().first() else { continue };
            if kind.eq_ignore_ascii_case("chain") {
                continue;
            }
            match middleware(kind, settings) {
                Ok(fields) => {
                    let ours = draft.add(Section::Middlewares, name, &node.at, &format!("http.middlewares.{name}"), fields);
                    self.middlewares.insert(name.clone(), vec![ours]);
                }
                Err(why) => draft.lose(&node.at, format!("http.middlewares.{name}"), why),
            }
        }
        for (name, node) in all {
            if let Some(chain) = get(node, "chain") {
                let links: Option<Vec<Vec<String>>> =
                    texts(chain, "middlewares").iter().map(|link| self.middlewares.get(plain(link)).cloned()).collect();
                match links {
                    Some(links) => drop(self.middlewares.insert(name.clone(), links.concat())),
                    None => draft.lose(&node.at, format!("http.middlewares.{name}"), "one of the chain was not carried over"),
                }
            }
        }
    }

    fn put_router(&self, name: &str, router: &Node, draft: &mut Draft) {
        let what = format!("http.routers.{name}");
        let rule = match traefik_rule::translate(text(router, "rule").unwrap_or_default()) {
            Ok(translated) => {
                if translated.has_prefix {
                    draft.note(&router.at, what.clone(), "`PathPrefix` is by whole segments: `/api` and `/api/…`, not `/apix`");
                }
                translated.rule
            }
            Err(why) => return draft.lose(&router.at, what, why),
        };
        let service = text(router, "service").unwrap_or_default();
        let Some(upstream) = self.upstreams.get(plain(service)) else {
            return draft.lose(&router.at, what, format!("its service `{service}` was not carried over"));
        };
        let mut middlewares: Vec<Value> = Vec::new();
        for wanted in texts(router, "middlewares") {
            match self.middlewares.get(plain(&wanted)) {
                Some(ours) => middlewares.extend(ours.iter().map(|name| Value::from(name.as_str()))),
                // Without it the route might let through what it should not.
                None => {
                    return draft.lose(
                        &router.at,
                        what,
                        format!("its middleware `{wanted}` was not carried over: write the route by hand"),
                    );
                }
            }
        }
        let Some(rule) = draft.rule(&router.at, &what, &rule) else { return };
        let mut route = table([("match", rule), ("upstream", upstream.as_str().into())]);
        let mut listeners = texts(router, "entryPoints");
        if listeners.is_empty() && get(router, "tls").is_some() {
            listeners = self
                .entries
                .iter()
                .filter(|(_, entry)| entry_address(entry).is_some_and(|address| address.ends_with(":443")))
                .map(|(name, _)| name.clone())
                .collect();
        }
        if !listeners.is_empty() {
            route.insert("listeners".into(), listeners.into_iter().map(Value::from).collect::<Vec<_>>().into());
        }
        if let Some(priority) = text(router, "priority").and_then(|priority| priority.parse::<i64>().ok()).filter(|priority| *priority != 0)
        {
            route.insert("priority".into(), priority.clamp(i32::MIN.into(), i32::MAX.into()).into());
        }
        if !middlewares.is_empty() {
            route.insert("middlewares".into(), middlewares.into());
        }
        if let Some(tls) = get(router, "tls") {
            for (key, node) in tls.entries() {
                draft.lose(&node.at, format!("{what}.tls.{key}"), "certificates and versions are those of the listener");
            }
        }
        draft.add(Section::Routes, name, &router.at, &what, route);
    }
}

/// A middleware of Traefik as one of ours.
fn middleware(kind: &str, settings: &Node) -> Result<Table, String> {
    let list = |key: &str| Value::from(texts(settings, key).into_iter().map(Value::from).collect::<Vec<_>>());
    let needs = |key: &str| text(settings, key).ok_or(format!("it has no `{key}`"));
    let only = |known: &[&str]| match settings.entries().iter().find(|(key, _)| !known.iter().any(|known| known.eq_ignore_ascii_case(key)))
    {
        Some((key, _)) => Err(format!("`{key}` has no counterpart")),
        None => Ok(()),
    };
    Ok(match kind.to_ascii_lowercase().as_str() {
        "stripprefix" => {
            only(&["prefixes", "forceSlash"])?;
            table([("strip_prefix", list("prefixes"))])
        }
        "addprefix" => table([("add_prefix", needs("prefix")?.into())]),
        "ipallowlist" | "ipwhitelist" => {
            only(&["sourceRange"])?;
            table([("ip_allow", list("sourceRange"))])
        }
        "redirectscheme" if text(settings, "scheme") == Some("https") => {
            let mut redirect = table([("status", if text(settings, "permanent") == Some("true") { 301 } else { 302 }.into())]);
            if let Some(port) = text(settings, "port").and_then(|port| port.parse::<u16>().ok()) {
                redirect.insert("port".into(), i64::from(port).into());
            }
            table([("redirect_https", redirect.into())])
        }
        "replacepathregex" => {
            let regex = super::draft::anywhere(needs("regex")?);
            table([("rewrite_path", inline([("regex", regex.into()), ("replacement", needs("replacement")?.into())]))])
        }
        "ratelimit" => {
            only(&["average", "period", "burst"])?;
            let number = |key: &str, default: i64| {
                text(settings, key).map_or(Ok(default), |value| value.parse::<i64>().map_err(|_| format!("`{key}` is not a number")))
            };
            let period = text(settings, "period").unwrap_or("1s");
            let is_number = period.chars().all(|c| c.is_ascii_digit());
            let period = if is_number { format!("{period}s") } else { period.to_owned() };
            let limit = [
                ("rate", number("average", 0)?.into()),
                ("per", period.into()),
                ("burst", number("burst", 1)?.max(1).into()),
                ("key", "client_ip".into()),
            ];
            table([("rate_limit", inline(limit))])
        }
        "buffering" => {
            only(&["maxRequestBodyBytes"])?;
            table([("body_limit", format!("{}B", needs("maxRequestBodyBytes")?).into())])
        }
        "headers" => {
            only(&["customRequestHeaders", "customResponseHeaders"])?;
            let mut sides = Table::new();
            for (theirs, ours) in [("customRequestHeaders", "request"), ("customResponseHeaders", "response")] {
                // An empty value takes the field away.
                let fields = get(settings, theirs).map(Node::entries).unwrap_or_default();
                let (removed, set): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, node)| node.text().unwrap_or_default().is_empty());
                let set: Table = set.into_iter().map(|(name, node)| (name.clone(), node.text().unwrap_or_default().into())).collect();
                let removed: Vec<Value> = removed.into_iter().map(|(name, _)| name.as_str().into()).collect();
                let mut changes = Table::new();
                if !set.is_empty() {
                    changes.insert("set".into(), set.into());
                }
                if !removed.is_empty() {
                    changes.insert("remove".into(), removed.into());
                }
                if !changes.is_empty() {
                    sides.insert(ours.into(), changes.into());
                }
            }
            table([("headers", sides.into())])
        }
        _ => return Err(format!("`{kind}` has no counterpart")),
    })
}

fn put_tcp(files: &Files, draft: &mut Draft) {
    let mut upstreams = BTreeMap::new();
    for (name, service) in files.entries(&["tcp", "services"]) {
        let servers = get(&service, "loadBalancer").and_then(|balancer| get(balancer, "servers")).map(Node::elements).unwrap_or_default();
        let endpoints: Vec<Value> = servers.iter().filter_map(|server| text(server, "address").map(Value::from)).collect();
        if endpoints.is_empty() {
            draft.lose(&service.at, format!("tcp.services.{name}"), "only `loadBalancer` with servers has a counterpart");
            continue;
        }
        let ours =
            draft.add(Section::Upstreams, &name, &service.at, &format!("tcp.services.{name}"), table([("endpoints", endpoints.into())]));
        upstreams.insert(name, ours);
    }
    for (name, router) in files.entries(&["tcp", "routers"]) {
        let what = format!("tcp.routers.{name}");
        let rule: String = text(&router, "rule").unwrap_or_default().chars().filter(|c| !c.is_whitespace()).collect();
        if !matches!(rule.as_str(), "HostSNI(`*`)" | "HostSNI(\"*\")") || get(&router, "tls").is_some() {
            draft.lose(&router.at, what, "only connections without a look at TLS have a counterpart: HostSNI(`*`)");
            continue;
        }
        let Some(upstream) = upstreams.get(plain(text(&router, "service").unwrap_or_default())) else {
            draft.lose(&router.at, what, "its service was not carried over");
            continue;
        };
        for listener in texts(&router, "entryPoints") {
            if draft.has(Section::Listeners, &listener) && !draft.has(Section::TcpRoutes, &listener) {
                let route = table([("listener", listener.as_str().into()), ("upstream", upstream.as_str().into())]);
                draft.add(Section::TcpRoutes, &listener, &router.at, &what, route);
            } else {
                draft.lose(&router.at, &what, format!("the entry point `{listener}` is not there, or has a route already"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::testing::{certificate, import_texts, table};

    const STATIC: &str = "entryPoints:\n  web:\n    address: \":80\"\n    http:\n      redirections:\n        entryPoint: {to: websecure, scheme: https}\n  \
                          websecure:\n    address: \":443\"\n    forwardedHeaders: {trustedIPs: [10.0.0.0/8]}\n  pg:\n    address: 127.0.0.1:5432/tcp\nproviders:\n  file: {filename: dynamic.yaml}\n";

    #[test]
    fn routers_services_and_middlewares() {
        let file = certificate();
        let dynamic = format!(
            "http:\n  routers:\n    api:\n      rule: Host(`a.test`) && Path(`/v1`)\n      service: api@file\n      entryPoints: [websecure]\n      middlewares: [strip, both]\n      \
             priority: 7\n      tls: {{}}\n  middlewares:\n    strip:\n      stripPrefix: {{prefixes: [/v1]}}\n    calm:\n      rateLimit: {{average: 100, burst: 50}}\n    \
             fields:\n      headers:\n        customRequestHeaders: {{X-A: b, X-B: ''}}\n    both:\n      chain: {{middlewares: [calm, fields]}}\n  services:\n    api:\n      loadBalancer:\n        \
             servers:\n          - url: http://10.0.0.1:8080\n          - url: http://app.internal/\n            weight: 3\n        sticky: {{cookie: {{name: s, sameSite: strict}}}}\n        \
             healthCheck: {{path: /healthz, interval: 10s}}\ntcp:\n  routers:\n    pg: {{rule: 'HostSNI(`*`)', service: pg, entryPoints: [pg]}}\n  services:\n    pg:\n      loadBalancer:\n        servers: [{{address: 10.0.0.9:5432}}]\n\
             tls:\n  certificates:\n    - certFile: {0}\n      keyFile: {0}\n",
            file.path().display()
        );
        let (text, findings) = import_texts(Kind::Traefik, &[("traefik.yaml", STATIC), ("dynamic.yaml", &dynamic)]);
        assert!(findings.is_empty(), "{findings:#?}");
        assert_eq!(table(&text, "listeners.websecure"), ["address = \"0.0.0.0:443\"", "tls = {}", "trusted_proxies = [\"10.0.0.0/8\"]"]);
        let route = table(&text, "routes.api").concat();
        assert!(route.contains("match = 'Host(\"a.test\") && Path(\"/v1\")'") && route.contains("priority = 7"), "{route}");
        assert!(route.contains("\"strip\",    \"calm\",    \"fields\","), "{route}");
        assert!(table(&text, "routes.web-redirect").concat().contains("redirect = { scheme = \"https\", status = 301 }"), "{text}");
        let upstream = table(&text, "upstreams.api").concat();
        assert!(
            upstream.contains("{ address = \"app.internal:80\", weight = 3 }") && upstream.contains("same_site = \"strict\""),
            "{upstream}"
        );
        assert_eq!(table(&text, "tcp_routes.pg"), ["listener = \"pg\"", "upstream = \"pg\""]);
    }

    #[test]
    fn toml_is_read_too() {
        let toml = "[entryPoints.web]\naddress = \":80\"\n[http.routers.a]\nrule = \"PathPrefix(`/a`)\"\nservice = \"a\"\n\
                    [[http.services.a.loadBalancer.servers]]\nurl = \"https://10.0.0.1\"\n";
        let (text, findings) = import_texts(Kind::Traefik, &[("traefik.toml", toml)]);
        assert!(findings.len() == 1 && findings[0].starts_with("traefik.toml:3: note:"), "{findings:#?}");
        assert_eq!(table(&text, "upstreams.a"), ["endpoints = [\"10.0.0.1:443\"]", "tls = {}"]);
    }

    #[test]
    fn what_is_lost_is_said_line_by_line() {
        let dynamic = "http:\n  routers:\n    a: {rule: 'Host(`a.test`)', service: w}\n    b: {rule: 'Host(`b.test`)', service: s, middlewares: [auth]}\n    \
                       c: {rule: 'Foo(`x`)', service: s}\n  middlewares:\n    auth: {basicAuth: {users: [x]}}\n  services:\n    w: {weighted: {services: []}}\n    \
                       s: {loadBalancer: {servers: [{url: 'http://10.0.0.1'}]}}\ncertificatesResolvers: {le: {}}\nproviders: {docker: {}}\nudp: {}\n";
        let (text, findings) = import_texts(Kind::Traefik, &[("d.yaml", dynamic)]);
        let lines: Vec<&str> = findings.iter().filter_map(|finding| finding.split(": ").next()).collect();
        assert_eq!(lines, [3, 4, 5, 7, 9, 11, 12, 13].map(|line| format!("d.yaml:{line}")), "{findings:#?}");
        assert!(!text.contains("[routes."), "a route without its middleware is not made");
    }
}
