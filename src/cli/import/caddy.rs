//! A Caddyfile: its sites.
//!
//! A site becomes listeners, shared by address, and routes. As Caddy does, a site of a host name without a scheme is served with TLS, and
//! sent there from port 80.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::Input;
use super::caddy_text::{Line, parse};
use super::draft::{Draft, Section, all_of, anywhere, inline, listen_address, predicate, table};

/// Reads Caddyfiles, one after the other.
pub(super) fn import(inputs: &[Input]) -> Draft {
    let mut import = Caddy { draft: Draft::default(), listeners: BTreeMap::new() };
    for input in inputs {
        let (lines, failure) = parse(input);
        if let Some((at, why)) = failure {
            import.draft.lose(&at, "the rest of the file", why);
        }
        for line in lines {
            match line.name() {
                "{" => {
                    for option in &line.block {
                        import.draft.note(&option.at, option.text(), "options of the process are set in [server]");
                    }
                }
                name if name.starts_with('(') || name == "import" => {
                    import.draft.lose(&line.at, line.text(), "snippets and imports are not followed: put their text in their place")
                }
                _ => import.put_site(&line),
            }
        }
    }
    import.draft
}

struct Caddy {
    draft: Draft,
    /// Names of listeners by address.
    listeners: BTreeMap<String, String>,
}

/// Where a site is served.
struct Site<'a> {
    line: &'a Line,
    hosts: Vec<String>,
    listeners: Vec<String>,
    /// `@name` → a rule, or why there is none.
    matchers: BTreeMap<String, Result<String, String>>,
}

impl Caddy {
    fn put_site(&mut self, line: &Line) {
        let addresses = line.words.iter().flat_map(|word| word.split(',')).filter(|word| !word.is_empty());
        let mut site = Site { line, hosts: Vec::new(), listeners: Vec::new(), matchers: BTreeMap::new() };
        let certificate = self.put_certificate(line);
        let mut plain = Vec::new();
        for address in addresses {
            let (scheme, rest) = address.split_once("://").map_or((None, address), |(scheme, rest)| (Some(scheme), rest));
            let (host, port) = rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
            if host.contains('/') || address.contains("{$") {
                self.draft.lose(&line.at, address, "an address is a host and a port, without paths and variables");
                continue;
            }
            let is_tls =
                scheme != Some("http") && port != Some("80") && (!host.is_empty() || scheme == Some("https") || certificate.is_some());
            let port = port.unwrap_or(if is_tls { "443" } else { "80" });
            let Some(listener) = self.put_listener(line, port, is_tls, certificate.as_deref()) else { continue };
            if is_tls && certificate.is_none() {
                self.draft.lose(
                    &line.at,
                    address,
                    "certificates are not obtained: let a client of ACME write them, and name the files under [certificates]",
                );
            }
            if scheme.is_none() && is_tls && port == "443" {
                plain.push(host.to_owned());
            }
            if !host.is_empty() && !site.hosts.iter().any(|known| known == host) {
                site.hosts.push(host.to_owned());
            }
            if !site.listeners.contains(&listener) {
                site.listeners.push(listener);
            }
        }
        if site.listeners.is_empty() {
            return;
        }
        if !plain.is_empty()
            && let Some(listener) = self.put_listener(line, "80", false, None)
        {
            let rule = predicate("Host", plain.iter().map(String::as_str));
            let redirect = inline([("redirect", inline([("scheme", "https".into()), ("status", 308.into())]))]);
            let route =
                table([("match", rule.into()), ("listeners", vec![Value::from(listener)].into()), ("middlewares", vec![redirect].into())]);
            self.draft.add(
                Section::Routes,
                &format!("{}-redirect", label(&site)),
                &line.at,
                "the redirect to https that Caddy adds",
                route,
            );
        }
        for matcher in line.block.iter().filter(|line| line.name().starts_with('@')) {
            site.matchers.insert(matcher.name().to_owned(), named_matcher(matcher));
        }
        self.put_block(&site, &line.block, None, &[]);
    }

    fn put_listener(&mut self, line: &Line, port: &str, is_tls: bool, certificate: Option<&str>) -> Option<String> {
        let bind = line.block.iter().find(|line| line.name() == "bind").map_or("", |bind| bind.word(1));
        let text = if bind.contains(':') { format!("[{bind}]:{port}") } else { format!("{bind}:{port}") };
        let Some(address) = listen_address(&text) else {
            self.draft.lose(&line.at, text, "it is no IP address with one port");
            return None;
        };
        let name = match self.listeners.get(&address) {
            Some(name) => name.clone(),
            None => {
                let wanted = match port {
                    "80" => "http".to_owned(),
                    "443" => "https".to_owned(),
                    port => format!("port-{port}"),
                };
                let name =
                    self.draft.add(Section::Listeners, &wanted, &line.at, &line.text(), table([("address", address.as_str().into())]));
                self.listeners.insert(address, name.clone());
                name
            }
        };
        if let Some(fields) = self.draft.table(Section::Listeners, &name).filter(|_| is_tls) {
            let tls = fields.entry("tls").or_insert_with(|| Value::Table(Table::new()));
            if let (Value::Table(tls), Some(certificate)) = (tls, certificate) {
                let all = tls.entry("certificates").or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(all) = all
                    && !all.iter().any(|name| name.as_str() == Some(certificate))
                {
                    all.push(certificate.into());
                }
            }
        }
        Some(name)
    }

    /// `tls CERT KEY`.
    fn put_certificate(&mut self, site: &Line) -> Option<String> {
        let tls = site.block.iter().find(|line| line.name() == "tls")?;
        if tls.words.len() != 3 || !tls.block.is_empty() {
            self.draft.lose(&tls.at, tls.text(), "only `tls CERT KEY` has a counterpart");
        }
        if tls.words.len() != 3 {
            return None;
        }
        let pem = table([("cert", tls.word(1).into()), ("key", tls.word(2).into())]);
        Some(self.draft.add(Section::Certificates, site.name().trim_matches([',', '*', '.']), &tls.at, &tls.text(), pem))
    }

    /// The routes of a block, for requests of `rule`, through `before`.
    fn put_block(&mut self, site: &Site<'_>, block: &[Line], rule: Option<&str>, before: &[Value]) {
        let mut middlewares = before.to_vec();
        for line in block {
            if let Err(why) = self.change(site, line, &mut middlewares) {
                self.draft.lose(&line.at, line.text(), why);
            }
        }
        for line in block {
            match line.name() {
                "handle" | "handle_path" | "route" => match site.matcher(line.word(1)) {
                    Ok(matched) => {
                        let mut inside = middlewares.clone();
                        let prefix = line.word(1).trim_end_matches('*').trim_end_matches('/');
                        if line.name() == "handle_path" && !prefix.is_empty() {
                            inside.push(inline([("strip_prefix", prefix.into())]));
                        }
                        self.put_block(site, &line.block, both(rule, matched.as_deref()).as_deref(), &inside);
                    }
                    Err(why) => self.draft.lose(&line.at, line.text(), why),
                },
                "redir" => self.put_redirect(site, line, rule, before),
                "reverse_proxy" => {
                    if let Err(why) = self.put_proxy(site, line, rule, &middlewares) {
                        self.draft.lose(&line.at, line.text(), why);
                    }
                }
                _ => {}
            }
        }
    }

    /// What a directive does to requests that others answer.
    fn change(&mut self, site: &Site<'_>, line: &Line, middlewares: &mut Vec<Value>) -> Result<(), String> {
        match line.name() {
            "handle" | "handle_path" | "route" | "redir" | "reverse_proxy" | "tls" | "bind" | "log" => Ok(()),
            name if name.starts_with('@') => Ok(()),
            "header" => {
                let words = &line.words;
                if words.get(1).is_some_and(|word| word.starts_with(['@', '/'])) {
                    return Err("fields of some requests alone: write a route for these".into());
                }
                let words = words.get(1..).unwrap_or_default();
                let words = if words.first().is_some_and(|word| word == "*") { words.get(1..).unwrap_or_default() } else { words };
                let mut changes = Table::new();
                let inner = line.block.iter().map(|line| line.words.as_slice());
                for words in std::iter::once(words).filter(|words| !words.is_empty()).chain(inner) {
                    header(words, &mut changes)?;
                }
                middlewares.push(inline([("headers", inline([("response", changes.into())]))]));
                Ok(())
            }
            "request_body" => match line.block.iter().find(|line| line.name() == "max_size") {
                Some(size) => {
                    middlewares.push(inline([("body_limit", size.word(1).into())]));
                    Ok(())
                }
                None => Err("only `max_size` has a counterpart".into()),
            },
            "uri" if matches!(line.word(1), "strip_prefix") => {
                middlewares.push(inline([("strip_prefix", line.word(2).into())]));
                Ok(())
            }
            "encode" => Err("responses are not compressed: let the endpoints do it".into()),
            "root" | "file_server" | "try_files" | "php_fastcgi" | "templates" | "browse" => {
                Err("files are not served: let an endpoint serve them".into())
            }
            "respond" | "abort" | "error" | "handle_errors" => Err("fixed answers have no counterpart: let an endpoint answer".into()),
            "basicauth" | "basic_auth" | "forward_auth" => Err("users are not asked for: let an endpoint do it".into()),
            "import" => Err("snippets and imports are not followed: put their text in their place".into()),
            "rewrite" | "uri" => Err("write a `rewrite_path` middleware".into()),
            _ => Err(format!("it has no counterpart (site {})", site.line.text())),
        }
    }

    fn put_redirect(&mut self, site: &Site<'_>, line: &Line, rule: Option<&str>, before: &[Value]) {
        let has_matcher = line.word(1).starts_with(['@'])
            || (line.word(1).starts_with('/') && line.words.len() > 2 && !line.word(2).chars().all(|c| c.is_ascii_digit()));
        let (matcher, rest) = if has_matcher || line.word(1) == "*" { (line.word(1), 2) } else { ("", 1) };
        let status = match line.word(rest + 1) {
            "permanent" => 301,
            "" | "temporary" => 302,
            code => code.parse::<i64>().unwrap_or_default(),
        };
        let variables = [
            ("{uri}", "${path}${query}"),
            ("{host}", "${host}"),
            ("{path}", "${path}"),
            ("{scheme}", "${scheme}"),
            ("{hostport}", "${authority}"),
        ];
        let mut to = line.word(rest).replace('$', "$$");
        for (theirs, ours) in variables {
            to = to.replace(theirs, ours);
        }
        let is_known = !to.replace("${", "").contains('{') && matches!(status, 301 | 302 | 307 | 308);
        let matched = match site.matcher(matcher) {
            Ok(matched) if is_known => matched,
            Ok(_) => return self.draft.lose(&line.at, line.text(), "its target or code has no counterpart: write a `redirect` middleware"),
            Err(why) => return self.draft.lose(&line.at, line.text(), why),
        };
        let to = if to.starts_with('/') { format!("${{scheme}}://${{authority}}{to}") } else { to };
        let redirect = inline([("redirect", inline([("to", to.into()), ("status", status.into())]))]);
        let middlewares = [before, &[redirect]].concat();
        self.put_route(site, line, both(rule, matched.as_deref()), middlewares, None);
    }

    fn put_proxy(&mut self, site: &Site<'_>, line: &Line, rule: Option<&str>, before: &[Value]) -> Result<(), String> {
        let has_matcher = line.word(1).starts_with(['@', '/']) || line.word(1) == "*";
        let matched = site.matcher(if has_matcher { line.word(1) } else { "" })?;
        let mut targets: Vec<&str> = line.words.iter().skip(if has_matcher { 2 } else { 1 }).map(String::as_str).collect();
        let mut fields = Table::new();
        let mut health = Table::new();
        let mut request = Table::new();
        let mut response = Table::new();
        for option in &line.block {
            match (option.name(), option.word(1)) {
                ("to", _) => targets.extend(option.words.iter().skip(1).map(String::as_str)),
                ("lb_policy", "round_robin") => drop(fields.insert("balance".into(), "round_robin".into())),
                ("lb_policy", "random") => drop(fields.insert("balance".into(), "random".into())),
                ("lb_policy", "least_conn") => drop(fields.insert("balance".into(), "least_request".into())),
                ("lb_policy", "ip_hash" | "client_ip_hash") => {
                    drop(fields.insert("balance".into(), inline([("hash", "client_ip".into())])))
                }
                ("lb_policy", "header") => {
                    drop(fields.insert("balance".into(), inline([("hash", inline([("header", option.word(2).into())]))])))
                }
                ("lb_policy", "cookie") => {
                    let name = if option.word(2).is_empty() { "lb" } else { option.word(2) };
                    fields.insert("sticky".into(), inline([("cookie", name.into())]));
                }
                ("health_uri", path) => drop(health.insert("http".into(), path.split('?').next().unwrap_or_default().into())),
                ("health_interval", time) => drop(health.insert("interval".into(), time.into())),
                ("health_timeout", time) => drop(health.insert("timeout".into(), time.into())),
                ("health_status", status) if status.parse::<u16>().is_ok() => drop(health.insert("status".into(), status.into())),
                ("health_passes", count) => drop(count.parse::<i64>().map(|count| health.insert("rise".into(), count.into()))),
                ("health_fails", count) => drop(count.parse::<i64>().map(|count| health.insert("fall".into(), count.into()))),
                ("header_up", "Host" | "host") => match option.word(2) {
                    "{upstream_hostport}" | "{http.reverse_proxy.upstream.hostport}" => {
                        drop(fields.insert("host".into(), "endpoint".into()))
                    }
                    "{host}" | "{http.request.host}" => {}
                    host if host.contains('{') => self.draft.lose(
                        &option.at,
                        option.text(),
                        "the Host that endpoints see is the client's, the endpoint's, or a fixed text",
                    ),
                    host => drop(fields.insert("host".into(), inline([("rewrite", host.into())]))),
                },
                ("header_up", "X-Real-IP" | "X-Forwarded-For" | "X-Forwarded-Proto" | "X-Forwarded-Host") => {
                    self.draft.note(&option.at, option.text(), "`X-Forwarded-*` are always set");
                }
                ("header_up" | "header_down", _) => {
                    let side = if option.name() == "header_up" { &mut request } else { &mut response };
                    if let Err(why) = header(option.words.get(1..).unwrap_or_default(), side) {
                        self.draft.lose(&option.at, option.text(), why);
                    }
                }
                ("transport", "http") => {
                    for setting in &option.block {
                        match setting.name() {
                            "tls" => drop(fields.entry("tls").or_insert_with(|| Table::new().into())),
                            "tls_insecure_skip_verify" => {
                                drop(fields.insert("tls".into(), inline([("insecure_skip_verify", true.into())])))
                            }
                            "tls_server_name" => drop(fields.insert("tls".into(), inline([("server_name", setting.word(1).into())]))),
                            _ => self.draft.lose(&setting.at, setting.text(), "it has no counterpart"),
                        }
                    }
                }
                ("flush_interval", _) => {}
                _ => self.draft.lose(&option.at, option.text(), "it has no counterpart"),
            }
        }
        if health.contains_key("http") {
            fields.insert("health".into(), health.into());
        }
        let endpoints = endpoints(&targets, &mut fields)?;
        if endpoints.len() > 1 && !fields.contains_key("balance") && !fields.contains_key("sticky") {
            fields.insert("balance".into(), "random".into());
        }
        fields.insert("endpoints".into(), endpoints.into());
        let mut middlewares = before.to_vec();
        let mut sides = Table::new();
        for (side, changes) in [("request", request), ("response", response)] {
            if !changes.is_empty() {
                sides.insert(side.into(), changes.into());
            }
        }
        if !sides.is_empty() {
            middlewares.push(inline([("headers", sides.into())]));
        }
        let upstream = self.draft.add(Section::Upstreams, &label(site), &line.at, &line.text(), fields);
        self.put_route(site, line, both(rule, matched.as_deref()), middlewares, Some(upstream));
        Ok(())
    }

    fn put_route(&mut self, site: &Site<'_>, line: &Line, rule: Option<String>, middlewares: Vec<Value>, upstream: Option<String>) {
        let hosts = (!site.hosts.is_empty()).then(|| predicate("Host", site.hosts.iter().map(String::as_str)));
        let rule = both(hosts.as_deref(), rule.as_deref()).unwrap_or_else(|| "PathPrefix(\"/\")".into());
        let Some(rule) = self.draft.rule(&line.at, &line.text(), &rule) else { return };
        let listeners: Vec<Value> = site.listeners.iter().map(|name| Value::from(name.as_str())).collect();
        let mut route = table([("match", rule), ("listeners", listeners.into())]);
        if !middlewares.is_empty() {
            route.insert("middlewares".into(), middlewares.into());
        }
        if let Some(upstream) = upstream {
            route.insert("upstream".into(), upstream.into());
        }
        self.draft.add(Section::Routes, &label(site), &line.at, &line.text(), route);
    }
}

impl Site<'_> {
    /// The rule of a matcher. None: all requests.
    fn matcher(&self, text: &str) -> Result<Option<String>, String> {
        match text {
            "" | "*" => Ok(None),
            name if name.starts_with('@') => match self.matchers.get(name) {
                Some(rule) => rule.clone().map(Some),
                None => Err(format!("there is no matcher `{name}`")),
            },
            path => Ok(Some(path_rule(path))),
        }
    }
}

/// What names of the site's objects start with.
fn label(site: &Site<'_>) -> String {
    site.hosts.first().or(site.listeners.first()).map_or("site", |name| name.trim_start_matches(['*', '.'])).to_owned()
}

fn both(one: Option<&str>, two: Option<&str>) -> Option<String> {
    Some(all_of([one, two].into_iter().flatten())).filter(|rule| !rule.is_empty())
}

/// `/x` is that path alone, `/x/*` what is below, `/x*` what starts so.
fn path_rule(path: &str) -> String {
    match path.strip_suffix('*') {
        None if !path.contains('*') => predicate("Path", [path]),
        Some(prefix) if prefix.ends_with('/') && !prefix.contains('*') => predicate("PathPrefix", [prefix]),
        _ => {
            let literal: Vec<String> = path.split('*').map(|part| part.replace('.', "[.]").replace('+', "[+]")).collect();
            predicate("PathRegexp", [literal.join(".*").as_str()])
        }
    }
}

/// `@name { … }` or `@name path /x`.
fn named_matcher(matcher: &Line) -> Result<String, String> {
    let own = matcher.words.get(1..).unwrap_or_default();
    let lines = std::iter::once(own).filter(|words| !words.is_empty()).chain(matcher.block.iter().map(|line| line.words.as_slice()));
    let mut rules = Vec::new();
    for words in lines {
        let (is_not, words) = match words.first().map(String::as_str) {
            Some("not") => (true, words.get(1..).unwrap_or_default()),
            _ => (false, words),
        };
        let values: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        let rule = match (words.first().map(String::as_str).unwrap_or_default(), values.as_slice()) {
            ("path", paths) => paths.iter().map(|path| path_rule(path)).collect::<Vec<_>>().join(" || "),
            ("host", hosts) => predicate("Host", hosts.iter().copied()),
            ("method", methods) => predicate("Method", methods.iter().copied()),
            ("path_regexp", [.., regex]) => predicate("PathRegexp", [anywhere(regex).as_str()]),
            ("header", [name]) => predicate("Header", [*name]),
            ("header", [name, value]) if !value.contains('*') => predicate("Header", [*name, *value]),
            ("query", [pair]) if !pair.ends_with("=*") && pair.contains('=') => {
                let (key, value) = pair.split_once('=').unwrap_or_default();
                predicate("Query", [key, value])
            }
            ("remote_ip" | "client_ip", networks) if !networks.contains(&"private_ranges") => {
                predicate("ClientIp", networks.iter().copied())
            }
            (kind, _) => return Err(format!("the matcher `{kind}` has no counterpart as it is")),
        };
        rules.push(if is_not { format!("!({rule})") } else { rule });
    }
    if rules.is_empty() { Err("the matcher is empty".into()) } else { Ok(all_of(rules.iter().map(String::as_str))) }
}

/// `+Field value`, `-Field`, `Field value`.
fn header(words: &[String], changes: &mut Table) -> Result<(), String> {
    let (name, value) = (words.first().map(String::as_str).unwrap_or_default(), words.get(1).map(String::as_str).unwrap_or_default());
    if words.len() > 2 || value.contains('{') || name.starts_with(['?', '>']) || name.contains('*') {
        return Err("fields are set, added or removed, with fixed texts".into());
    }
    match name.split_at_checked(1).unwrap_or_default() {
        ("-", name) => {
            if let Value::Array(names) = changes.entry("remove").or_insert_with(|| Value::Array(Vec::new())) {
                names.push(name.into());
            }
        }
        (start, rest) => {
            let (key, name) = if start == "+" { ("add", rest) } else { ("set", name) };
            if let Value::Table(fields) = changes.entry(key).or_insert_with(|| Value::Table(Table::new())) {
                fields.insert(name.into(), value.into());
            }
        }
    }
    Ok(())
}

/// The endpoints of a `reverse_proxy`, and what is spoken to them.
fn endpoints(targets: &[&str], fields: &mut Table) -> Result<Vec<Value>, String> {
    let mut endpoints: Vec<Value> = Vec::new();
    for target in targets {
        let (scheme, rest) = target.split_once("://").unwrap_or(("http", target));
        let rest = rest.trim_end_matches('/');
        let port = if scheme == "https" { 443 } else { 80 };
        let rest = if rest.starts_with(':') { format!("localhost{rest}") } else { rest.to_owned() };
        let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { rest } else { format!("{rest}:{port}") };
        nuncio::config::Endpoint::parse_address(&address)?;
        match scheme {
            "http" => {}
            "https" => drop(fields.entry("tls").or_insert_with(|| Table::new().into())),
            "h2c" => drop(fields.insert("protocol".into(), "h2c".into())),
            other => return Err(format!("nothing speaks `{other}` to endpoints")),
        }
        endpoints.push(address.into());
    }
    if endpoints.is_empty() { Err("it has no address to go to".into()) } else { Ok(endpoints) }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::testing::{certificate, import_text, table};

    #[test]
    fn a_site_with_tls_is_carried_over() {
        let file = certificate();
        let pem = file.path().display();
        let (text, findings) = import_text(
            Kind::Caddy,
            &format!(
                "{{\n  email a@b.test\n}}\na.test, www.a.test {{\n  tls {pem} {pem}\n  header X-Frame-Options DENY\n  @api {{\n    path /v1/* /v2/*\n    not method DELETE\n  }}\n  \
                 handle @api {{\n    reverse_proxy 10.0.0.1:80 10.0.0.2:80 {{\n      lb_policy least_conn\n      health_uri /healthz\n      health_interval 10s\n      header_up X-Env prod\n    }}\n  }}\n  \
                 handle_path /app/* {{\n    reverse_proxy https://app.internal\n  }}\n  redir /old /new permanent\n  reverse_proxy localhost:3000\n}}\n\
                 :8080 {{\n  reverse_proxy :9000 :9001\n}}\n"
            ),
        );
        assert!(findings.len() == 1 && findings[0].contains("note"), "{findings:#?}");
        assert_eq!(table(&text, "listeners.https")[1], "tls = { certificates = [\"a.test\"] }");
        assert!(text.contains("redirect = { scheme = \"https\", status = 308 }"), "{text}");
        let api = r#"match = 'Host("a.test", "www.a.test") && (PathPrefix("/v1/") || PathPrefix("/v2/")) && !(Method("DELETE"))'"#;
        assert!(text.contains(api), "{text}");
        assert!(text.contains("{ strip_prefix = \"/app\" }") && text.contains("tls = {}"), "{text}");
        assert!(text.contains("status = 301, to = \"${scheme}://${authority}/new\""), "{text}");
        assert!(table(&text, "upstreams.port-8080").contains(&"balance = \"random\""), "{text}");
        assert!(text.contains("health = { http = \"/healthz\", interval = \"10s\" }"), "{text}");
    }

    #[test]
    fn what_is_lost_is_said_line_by_line() {
        let (_, findings) = import_text(
            Kind::Caddy,
            "(snip) {\n  encode gzip\n}\nhttp://a.test {\n  import snip\n  encode gzip\n  root * /srv\n  file_server\n  basicauth {\n    a b\n  }\n  \
             reverse_proxy @none 10.0.0.1:80\n  reverse_proxy /x* unix//run/x\n  redir https://{labels.1}\n  respond /health 200\n}\n",
        );
        let lines: Vec<&str> = findings.iter().filter_map(|finding| finding.split(": ").next()).collect();
        assert_eq!(lines, [1, 5, 6, 7, 8, 9, 12, 13, 14, 15].map(|line| format!("test:{line}")), "{findings:#?}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "((a.test|:80|handle|handle_path|redir|reverse_proxy|header|@x|tls)( [-a-z0-9:./{}*@]{0,8}){0,3}( \\{)?\n|\\}\n){0,16}") {
            let inputs = [super::Input { name: "x".into(), text }];
            let _ = super::import(&inputs).render("x");
        }
    }
}
