//! A configuration of nginx: `upstream`, `server` and `location` of `http`, `server` of `stream`.
//!
//! A `server` becomes listeners, shared by address, and one route for each `location` that passes requests on or redirects. Of the order in
//! which nginx looks at locations, ours has all but regular expressions, which get a higher `priority`.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use super::Input;
use super::draft::{At, Draft, Section, anywhere, duration, inline, listen_address, predicate, table};
use super::nginx_parts::{Scope, access, body_limit, closed, endpoints, guard, headers, parse_time, redirect, settings, tls, with_port};
use super::nginx_stream::put_stream;
use super::nginx_text::{Directive, parse};

/// What has no meaning here, or is so by default.
const SILENT: &[&str] = &[
    "access_log",
    "aio",
    "charset",
    "client_body_buffer_size",
    "client_header_buffer_size",
    "default_type",
    "error_log",
    "etag",
    "keepalive_requests",
    "large_client_header_buffers",
    "log_format",
    "log_not_found",
    "merge_slashes",
    "proxy_buffer_size",
    "proxy_buffering",
    "proxy_buffers",
    "proxy_busy_buffers_size",
    "proxy_http_version",
    "proxy_request_buffering",
    "proxy_max_temp_file_size",
    "proxy_temp_path",
    "proxy_ignore_client_abort",
    "proxy_socket_keepalive",
    "resolver",
    "resolver_timeout",
    "reset_timedout_connection",
    "send_timeout",
    "sendfile",
    "server_names_hash_bucket_size",
    "server_names_hash_max_size",
    "server_tokens",
    "ssl_buffer_size",
    "ssl_ciphers",
    "ssl_dhparam",
    "ssl_ecdh_curve",
    "ssl_prefer_server_ciphers",
    "ssl_session_cache",
    "ssl_session_tickets",
    "ssl_session_timeout",
    "tcp_nodelay",
    "tcp_nopush",
    "types",
    "types_hash_bucket_size",
    "types_hash_max_size",
    "underscores_in_headers",
    "variables_hash_max_size",
    "zone",
];

/// Read by who looks at the directive's neighbours.
const READ: &[&str] = &[
    "listen",
    "server_name",
    "location",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_protocols",
    "proxy_pass",
    "return",
    "client_max_body_size",
    "proxy_set_header",
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "proxy_ssl_verify",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_name",
    "proxy_ssl_server_name",
    "add_header",
    "allow",
    "deny",
    "keepalive_timeout",
    "client_header_timeout",
    "client_body_timeout",
    "upstream",
    "server",
    "proxy_protocol",
    "proxy_timeout",
    "proxy_redirect",
    "ssl",
    "http2",
    "internal",
];

/// Reads files of nginx, one after the other.
pub(super) fn import(inputs: &[Input]) -> Draft {
    let mut draft = Draft::default();
    draft.files = inputs.iter().map(|input| input.name.clone()).collect();
    let mut all = Vec::new();
    for input in inputs {
        let (directives, failure) = parse(input);
        if let Some((at, why)) = failure {
            draft.lose(&at, "the rest of the file", why);
        }
        all.extend(directives);
    }
    // A file of sites has no `http` around its servers.
    let is_site = |directive: &Directive| matches!(directive.name.as_str(), "server" | "upstream");
    let (sites, main): (Vec<_>, Vec<_>) = all.into_iter().partition(is_site);
    let mut http = Vec::new();
    for directive in main {
        match directive.name.as_str() {
            "http" => http.extend(directive.block),
            "stream" => put_stream(&directive, &mut draft),
            "include" => include(&directive, &mut draft),
            "events" | "user" | "worker_processes" | "worker_rlimit_nofile" | "pid" | "daemon" | "error_log" | "load_module" | "env" => {}
            _ => draft.lose(&directive.at, directive.text(), "it has no counterpart"),
        }
    }
    http.extend(sites);
    Http::new(&http).put(&http, &mut draft);
    draft
}

fn include(directive: &Directive, draft: &mut Draft) {
    let pattern = directive.argument(0);
    let is_given = |folder: &str| draft.files.iter().any(|file| file.rsplit_once('/').is_some_and(|(of, _)| of == folder));
    if !pattern.ends_with("mime.types") && !pattern.rsplit_once('/').is_some_and(|(folder, _)| is_given(folder)) {
        draft.lose(
            &directive.at,
            directive.text(),
            "files are not followed: give their names on the command line as well, servers after `http`",
        );
    }
}

/// What is said of directives that nobody else reads.
pub(super) fn report(block: &[Directive], draft: &mut Draft) {
    for directive in block {
        let name = directive.name.as_str();
        if SILENT.contains(&name) || READ.contains(&name) {
            continue;
        }
        let why = match name {
            "include" => {
                include(directive, draft);
                continue;
            }
            "root" | "alias" | "index" | "try_files" | "autoindex" | "error_page" | "expires" => {
                "files are not served: let an endpoint serve them"
            }
            "rewrite" => "write a `rewrite_path` or `redirect` middleware by hand",
            "if" | "map" | "geo" | "set" | "split_clients" => "conditions and variables are written as rules of routes",
            "fastcgi_pass" | "uwsgi_pass" | "scgi_pass" | "grpc_pass" | "memcached_pass" | "fastcgi_param" => {
                "endpoints speak HTTP; for gRPC set `protocol = \"h2c\"` of the upstream"
            }
            "limit_req" | "limit_req_zone" | "limit_conn" | "limit_conn_zone" | "limit_rate" => "write a `rate_limit` middleware",
            "gzip" | "brotli" | "gzip_types" | "gzip_vary" | "gzip_proxied" | "gzip_min_length" | "gzip_comp_level" => {
                "responses are not compressed: let the endpoints do it"
            }
            "auth_basic" | "auth_basic_user_file" | "auth_request" => "users are not asked for: let an endpoint do it, or `ip_allow`",
            "set_real_ip_from" | "real_ip_header" | "real_ip_recursive" => "say `trusted_proxies` of the listener",
            "proxy_cache" | "proxy_cache_path" | "proxy_cache_valid" | "proxy_cache_key" => "responses are not cached",
            "proxy_next_upstream" | "proxy_next_upstream_tries" => "what is tried again is said by `retries` of the upstream",
            _ => "it has no counterpart",
        };
        draft.lose(&directive.at, directive.text(), why);
    }
}

struct Http<'a> {
    upstreams: BTreeMap<&'a str, &'a Directive>,
    /// Upstreams of ours, by what is passed to, the Host that is sent, and whether TLS is spoken.
    made: BTreeMap<(String, String, bool), String>,
    /// Listeners by address.
    listeners: BTreeMap<String, String>,
    /// Addresses whose default server is known.
    defaults: BTreeSet<String>,
    has_regex: bool,
}

impl<'a> Http<'a> {
    fn new(http: &'a [Directive]) -> Self {
        let upstreams = http.iter().filter(|directive| directive.name == "upstream");
        let servers = http.iter().filter(|directive| directive.name == "server");
        let is_regex = |location: &Directive| matches!(location.argument(0), "~" | "~*") || location.argument(0).starts_with('~');
        Self {
            upstreams: upstreams.map(|upstream| (upstream.argument(0), upstream)).collect(),
            made: BTreeMap::new(),
            listeners: BTreeMap::new(),
            defaults: BTreeSet::new(),
            has_regex: servers.flat_map(|server| server.all("location")).any(is_regex),
        }
    }

    fn put(mut self, http: &'a [Directive], draft: &mut Draft) {
        report(http, draft);
        let servers: Vec<&Directive> = http.iter().filter(|directive| directive.name == "server").collect();
        // The default server of an address is the one that says so, else the first.
        for server in &servers {
            for listen in
                server.all("listen").filter(|listen| listen.arguments.iter().any(|word| word == "default_server" || word == "default"))
            {
                self.defaults.insert(format!("{} {}", listen.argument(0), server.at));
            }
        }
        for server in &servers {
            self.put_server(http, server, &servers, draft);
        }
    }

    fn is_default(&self, listen: &str, server: &Directive, servers: &[&Directive]) -> bool {
        let of_address = |other: &&&Directive| other.all("listen").any(|other| other.argument(0) == listen);
        let marked = servers.iter().filter(of_address).find(|other| self.defaults.contains(&format!("{listen} {}", other.at)));
        marked.or_else(|| servers.iter().find(of_address)).is_some_and(|default| default.at == server.at)
    }

    fn put_server(&mut self, http: &'a [Directive], server: &'a Directive, servers: &[&Directive], draft: &mut Draft) {
        report(&server.block, draft);
        let names: Vec<&str> = server.all("server_name").flat_map(|names| &names.arguments).map(String::as_str).collect();
        let (listeners, is_default) = self.put_listeners(http, server, servers, draft);
        if listeners.is_empty() {
            return;
        }
        let host = if is_default { None } else { self.host(server, &names, draft) };
        if host.is_none() && !is_default {
            return;
        }
        let server_scope = [http, server.block.as_slice()];
        let label = names.iter().find(|name| !name.is_empty() && **name != "_").copied().unwrap_or("default");
        let label = label.trim_start_matches(['*', '.', '~', '^']);
        // Of regular expressions the first counts, and before prefixes.
        let regexes = server.all("location").filter(|location| location.argument(0).starts_with('~')).count();
        let mut seen_regexes = 0;
        let base = if !self.has_regex || is_default { 0 } else { 10_000 };
        for location in server.all("location") {
            report(&location.block, draft);
            if location.block.iter().any(|nested| nested.name == "location") {
                draft.lose(&location.at, location.text(), "a location in a location is not read: write it beside");
            }
            let (path, priority) = match (location.argument(0), location.argument(1)) {
                ("=", path) => (predicate("Path", [path]), if self.has_regex { 5_000 } else { 0 }),
                ("^~", path) => (predicate("PathPrefix", [path]), if self.has_regex { 5_000 } else { 0 }),
                ("~", regex) => (predicate("PathRegexp", [anywhere(regex).as_str()]), 1_000),
                ("~*", regex) => (predicate("PathRegexp", [format!("(?i){}", anywhere(regex)).as_str()]), 1_000),
                (path, "") if path.starts_with('/') => {
                    if path.len() > 1 && !path.ends_with('/') {
                        draft.note(&location.at, location.text(), format!("by whole segments: {path} and {path}/…, not {path}…"));
                    }
                    (predicate("PathPrefix", [path]), 0)
                }
                _ => {
                    draft.lose(&location.at, location.text(), "named locations have no counterpart");
                    continue;
                }
            };
            let is_regex = priority == 1_000;
            seen_regexes += usize::from(is_regex);
            let order = if is_regex { i64::try_from(regexes - seen_regexes).unwrap_or_default() } else { 0 };
            let prefix = Some(location.arguments.last().map(String::as_str).unwrap_or_default()).filter(|_| !is_regex);
            let scope = [server_scope[0], server_scope[1], location.block.as_slice()];
            let place = Target {
                at: &location.at,
                what: location.text(),
                path: &path,
                host: host.as_deref(),
                prefix,
                label,
                listeners: &listeners,
            };
            self.put_route(&place, Scope(&scope), &location.block, base + priority + order, draft);
        }
        let whole = Target {
            at: &server.at,
            what: format!("server {label}"),
            path: "PathPrefix(\"/\")",
            host: host.as_deref(),
            prefix: Some("/"),
            label,
            listeners: &listeners,
        };
        if server.last("return").is_some() {
            self.put_route(&whole, Scope(&server_scope), &server.block, base, draft);
        }
    }

    /// The rule of the server's names. None: it has none.
    fn host(&self, server: &Directive, names: &[&str], draft: &mut Draft) -> Option<String> {
        let mut plain: Vec<String> = Vec::new();
        let mut rules = Vec::new();
        for name in names.iter().filter(|name| !name.is_empty() && **name != "_") {
            if let Some(regex) = name.strip_prefix('~') {
                rules.push(predicate("HostRegexp", [anywhere(regex).as_str()]));
            } else if let Some(domain) = name.strip_prefix('.') {
                plain.extend([domain.to_owned(), format!("*.{domain}")]);
            } else if let Some(start) = name.strip_suffix(".*") {
                rules.push(predicate("HostRegexp", [format!("{}[.].*", start.replace('.', "[.]")).as_str()]));
            } else {
                plain.push((*name).to_owned());
            }
        }
        if !plain.is_empty() {
            rules.insert(0, predicate("Host", plain.iter().map(String::as_str)));
        }
        if rules.is_empty() {
            draft.lose(&server.at, "server", "it has no name and is not the default of its address: no request comes to it");
            return None;
        }
        Some(if rules.len() > 1 { format!("({})", rules.join(" || ")) } else { rules.concat() })
    }

    /// The listeners of a server, and whether it is the default of all of them.
    fn put_listeners(&mut self, http: &[Directive], server: &Directive, servers: &[&Directive], draft: &mut Draft) -> (Vec<String>, bool) {
        let mut names: Vec<String> = Vec::new();
        let mut is_default = true;
        let implied = Directive { at: server.at.clone(), name: "listen".into(), arguments: vec!["80".into()], block: Vec::new() };
        let listens: Vec<&Directive> = match server.all("listen").collect::<Vec<_>>() {
            listens if listens.is_empty() => vec![&implied],
            listens => listens,
        };
        let scope = [http, server.block.as_slice()];
        let certificate = self.put_certificate(server, Scope(&scope), draft);
        for listen in listens {
            let text = listen.argument(0);
            let address =
                if text.parse::<std::net::IpAddr>().is_ok() { listen_address(&format!("{text}:80")) } else { listen_address(text) };
            let Some(address) = address else {
                draft.lose(&listen.at, listen.text(), "it is no IP address with a port");
                continue;
            };
            is_default &= self.is_default(text, server, servers);
            let name = match self.listeners.get(&address) {
                Some(name) => name.clone(),
                None => {
                    let fields = table([("address", address.as_str().into())]);
                    let port = address.rsplit(':').next().unwrap_or_default();
                    let wanted = match port {
                        "80" => "http".to_owned(),
                        "443" => "https".to_owned(),
                        port => format!("port-{port}"),
                    };
                    let name = draft.add(Section::Listeners, &wanted, &listen.at, &listen.text(), fields);
                    self.listeners.insert(address, name.clone());
                    name
                }
            };
            for word in listen.arguments.iter().skip(1) {
                match word.as_str() {
                    "ssl" | "http2" | "default_server" | "default" | "deferred" | "reuseport" => {}
                    word if word.starts_with("backlog=") || word.starts_with("ipv6only=") => {}
                    "proxy_protocol" => {
                        let why = "whom to believe is to be said: `proxy_protocol = \"required\"` and `trusted_proxies` of the listener";
                        draft.lose(&listen.at, listen.text(), why);
                    }
                    "quic" => draft.lose(&listen.at, listen.text(), "HTTP/3 is not spoken"),
                    word => draft.lose(&listen.at, listen.text(), format!("`{word}` has no counterpart")),
                }
            }
            let is_tls = listen.arguments.iter().any(|word| word == "ssl") || server.last("ssl").is_some_and(|ssl| ssl.argument(0) == "on");
            if let Some(fields) = draft.table(Section::Listeners, &name) {
                settings(fields, Scope(&scope));
                if is_tls {
                    tls(fields, certificate.as_deref(), server, Scope(&scope));
                }
            }
            names.push(name);
        }
        (names, is_default)
    }

    fn put_certificate(&self, server: &Directive, scope: Scope<'_>, draft: &mut Draft) -> Option<String> {
        let cert = scope.last("ssl_certificate")?;
        let key = scope.last("ssl_certificate_key")?;
        let fields = table([("cert", cert.argument(0).into()), ("key", key.argument(0).into())]);
        let made = draft
            .names(Section::Certificates)
            .into_iter()
            .find(|name| draft.table(Section::Certificates, name).is_some_and(|table| *table == fields));
        let name = server.last("server_name").map(|names| names.argument(0)).filter(|name| *name != "_").unwrap_or("site");
        Some(
            made.unwrap_or_else(|| {
                draft.add(Section::Certificates, name.trim_start_matches(['*', '.', '~']), &cert.at, &cert.text(), fields)
            }),
        )
    }

    fn put_route(&mut self, target: &Target<'_>, scope: Scope<'_>, block: &[Directive], priority: i64, draft: &mut Draft) {
        let own = |name: &str| block.iter().rev().find(|directive| directive.name == name);
        let mut middlewares: Vec<Value> = match own("internal") {
            Some(internal) => {
                let why = "nothing leads to it from within: the route is there, and closed to everybody";
                draft.lose(&internal.at, target.what.clone(), why);
                vec![closed()]
            }
            None => guard(access(scope), draft).into_iter().collect(),
        };
        let mut fields = Table::new();
        if let Some(answer) = own("return") {
            match redirect(answer, target.label) {
                Ok(redirect) => middlewares.push(inline([("redirect", redirect)])),
                Err(why) => return draft.lose(&answer.at, answer.text(), why),
            }
        } else if let Some(pass) = own("proxy_pass") {
            middlewares.extend(body_limit(scope, draft));
            match self.pass(pass, scope, target, draft) {
                Ok((upstream, changes)) => {
                    middlewares.extend(changes);
                    fields.insert("upstream".into(), upstream.into());
                }
                Err(why) => return draft.lose(&pass.at, pass.text(), why),
            }
            middlewares.extend(headers(scope, draft));
        } else {
            return draft.lose(
                target.at,
                target.what.clone(),
                "it neither passes requests on nor redirects them: without a route they are answered 404, or by a wider one",
            );
        }
        let rule = [target.host, Some(target.path).filter(|path| target.host.is_none() || *path != "PathPrefix(\"/\")")];
        let rule: Vec<&str> = rule.into_iter().flatten().collect();
        let Some(rule) = draft.rule(target.at, &target.what, &rule.join(" && ")) else { return };
        let mut route = table([("match", rule)]);
        if priority > 0 {
            route.insert("priority".into(), priority.into());
        }
        route.insert("listeners".into(), target.listeners.iter().map(|name| Value::from(name.as_str())).collect::<Vec<_>>().into());
        if !middlewares.is_empty() {
            route.insert("middlewares".into(), middlewares.into());
        }
        route.extend(fields);
        let place: String = target.prefix.unwrap_or("regex").split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
        let name = if place.is_empty() { target.label.to_owned() } else { format!("{}-{place}", target.label) };
        draft.add(Section::Routes, &name, target.at, &target.what, route);
    }

    /// The upstream that requests are passed to, and what is done to their paths.
    fn pass(&mut self, pass: &Directive, scope: Scope<'_>, target: &Target<'_>, draft: &mut Draft) -> Result<(String, Vec<Value>), String> {
        let url = pass.argument(0);
        let (is_tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err("it is no http or https URL".into()),
        };
        if url.contains('$') {
            return Err("variables say where to: write the upstream by hand".into());
        }
        let (authority, path) = rest.find('/').and_then(|at| rest.split_at_checked(at)).unwrap_or((rest, ""));
        let mut changes = Vec::new();
        if let (Some(prefix), false) = (target.prefix, path.is_empty()) {
            // The location's text is replaced by that of the URL.
            let (strip, add) = (prefix.trim_end_matches('/'), path.trim_end_matches('/'));
            if prefix.ends_with('/') != path.ends_with('/') {
                draft.note(
                    &pass.at,
                    pass.text(),
                    "one of location and URL ends with `/` and the other does not: look at what endpoints see",
                );
            }
            if strip != add {
                changes.extend((!strip.is_empty()).then(|| inline([("strip_prefix", strip.into())])));
                changes.extend((!add.is_empty()).then(|| inline([("add_prefix", add.into())])));
            }
        }
        let host = scope
            .all("proxy_set_header")
            .iter()
            .find(|header| header.argument(0).eq_ignore_ascii_case("host"))
            .map_or(authority, |host| host.argument(1));
        let key = (authority.to_owned(), host.to_owned(), is_tls);
        if let Some(name) = self.made.get(&key) {
            return Ok((name.clone(), changes));
        }
        let mut fields = self.upstream(authority, is_tls, pass, draft)?;
        match host {
            "$host" | "$http_host" | "$host:$server_port" => {}
            host if host.contains('$') && host != "$proxy_host" => {
                draft.lose(&pass.at, format!("Host {host}"), "the Host that endpoints see is the client's, the endpoint's, or a fixed text")
            }
            "$proxy_host" => drop(fields.insert("host".into(), inline([("rewrite", authority.into())]))),
            host => drop(fields.insert("host".into(), inline([("rewrite", host.into())]))),
        }
        if is_tls {
            let mut tls = Table::new();
            if scope.last("proxy_ssl_verify").is_none_or(|verify| verify.argument(0) != "on") {
                tls.insert("insecure_skip_verify".into(), true.into());
                draft.note(&pass.at, pass.text(), "nginx does not verify certificates of endpoints unless it is told to, so neither does the result: better remove `insecure_skip_verify`");
            }
            if let Some(ca) = scope.last("proxy_ssl_trusted_certificate") {
                tls.insert("ca".into(), ca.argument(0).into());
            }
            if let Some(name) = scope.last("proxy_ssl_name").filter(|name| !name.argument(0).contains('$')) {
                tls.insert("server_name".into(), name.argument(0).into());
            }
            fields.insert("tls".into(), tls.into());
        }
        let mut timeouts = Table::new();
        for (theirs, ours) in
            [("proxy_connect_timeout", "connect"), ("proxy_read_timeout", "response_header"), ("proxy_read_timeout", "idle")]
        {
            if let Some(time) = scope.last(theirs).and_then(|directive| parse_time(directive.argument(0))) {
                timeouts.insert(ours.into(), duration(time));
            }
        }
        if !timeouts.is_empty() {
            fields.insert("timeouts".into(), timeouts.into());
        }
        let at = self.upstreams.get(authority).map_or(&pass.at, |upstream| &upstream.at);
        let name = draft.add(Section::Upstreams, authority, at, &pass.text(), fields);
        self.made.insert(key, name.clone());
        Ok((name, changes))
    }

    fn upstream(&self, authority: &str, is_tls: bool, pass: &Directive, draft: &mut Draft) -> Result<Table, String> {
        let Some(upstream) = self.upstreams.get(authority) else {
            let address = with_port(authority, if is_tls { 443 } else { 80 });
            nuncio::config::Endpoint::parse_address(&address)?;
            return Ok(table([("endpoints", vec![Value::from(address)].into())]));
        };
        let (endpoints, balance) = endpoints(upstream, if is_tls { 443 } else { 80 }, draft);
        if endpoints.is_empty() {
            draft.note(&pass.at, pass.text(), "its upstream has no endpoint");
        }
        let mut fields = Table::new();
        if let Some(balance) = balance {
            fields.insert("balance".into(), balance);
        }
        fields.insert("endpoints".into(), endpoints.into());
        Ok(fields)
    }
}

/// A place that a route is made of.
struct Target<'a> {
    at: &'a At,
    what: String,
    path: &'a str,
    host: Option<&'a str>,
    /// The text of the location. None: a regular expression.
    prefix: Option<&'a str>,
    label: &'a str,
    listeners: &'a [String],
}
#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::testing::{certificate, import_text, import_texts, table};

    #[test]
    fn a_site_with_tls_is_carried_over() {
        let file = certificate();
        let pem = file.path().display();
        let (text, findings) = import_text(
            Kind::Nginx,
            &format!(
                "user www-data;\nevents {{ worker_connections 768; }}\nhttp {{\n  include mime.types;\n  keepalive_timeout 65;\n  \
                 upstream app {{\n    least_conn;\n    server 10.0.0.1:8080 weight=3;\n    server app.internal:8080;\n    keepalive 32;\n  }}\n  \
                 server {{ listen 80 default_server; server_name a.test www.a.test; return 301 https://$host$request_uri; }}\n  \
                 server {{\n    listen 443 ssl http2; server_name a.test *.b.test;\n    ssl_certificate {pem}; ssl_certificate_key {pem};\n    \
                 client_max_body_size 10m;\n    proxy_set_header Host $host;\n    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    \
                 location / {{ proxy_pass http://app; proxy_read_timeout 30s; }}\n    location /api/ {{ proxy_pass http://app/v1/; add_header X-Frame-Options DENY; }}\n    \
                 location = /health {{ proxy_pass http://127.0.0.1:9000; allow 10.0.0.0/8; deny all; }}\n  }}\n}}\n"
            ),
        );
        assert!(findings.is_empty(), "{findings:#?}");
        assert_eq!(table(&text, "listeners.http"), ["address = \"0.0.0.0:80\"", "timeouts = { client_idle = \"65s\" }"]);
        let expected = ["address = \"0.0.0.0:443\"", "timeouts = { client_idle = \"65s\" }", "tls = { certificates = [\"a.test\"] }"];
        assert_eq!(table(&text, "listeners.https"), expected);
        assert_eq!(table(&text, "upstreams.app")[0], "balance = \"least_request\"");
        assert!(table(&text, "upstreams.app")[1].contains("{ address = \"10.0.0.1:8080\", weight = 3 }"));
        assert!(text.contains("match = 'PathPrefix(\"/api/\")'"), "the only server of its address takes every host: {text}");
        assert!(text.contains("{ strip_prefix = \"/api\" }") && text.contains("{ add_prefix = \"/v1\" }"), "{text}");
        assert!(text.contains("{ ip_allow = [\"10.0.0.0/8\"] }") && text.contains("{ body_limit = \"10MiB\" }"), "{text}");
        assert!(text.contains("to = \"https://${host}${path}${query}\""), "{text}");
    }

    #[test]
    fn hosts_and_regular_expressions_keep_their_order() {
        let (text, findings) = import_texts(
            Kind::Nginx,
            &[(
                "site",
                "server { listen 80; server_name one.test; location / { proxy_pass http://10.0.0.1; } }\n\
                 server { listen 80; server_name .two.test ~^v\\d+\\.three\\.test$;\n  location / { proxy_pass http://10.0.0.2; }\n  \
                 location ~ \\.php$ { proxy_pass http://10.0.0.3; }\n  location ^~ /static/ { proxy_pass https://files.internal; }\n}\n",
            )],
        );
        assert!(findings.iter().all(|finding| finding.contains("note: ")), "{findings:#?}");
        assert!(text.contains("match = 'PathPrefix(\"/\")'"), "{text}");
        let host = r#"(Host("two.test", "*.two.test") || HostRegexp("v\\d+\\.three\\.test"))"#;
        assert!(text.contains(&format!(r#"match = '{host} && PathRegexp(".*\\.php")'"#)), "{text}");
        assert!(text.contains("priority = 11000") && text.contains("priority = 15000"), "{text}");
        assert!(text.contains("host = { rewrite = \"10.0.0.1\" }"), "nginx sends the name it passes to: {text}");
        assert!(text.contains("insecure_skip_verify = true"), "{text}");
    }

    #[test]
    fn includes_are_known_when_their_files_are_given() {
        let main = "http { include /etc/nginx/sites-enabled/*; include /etc/nginx/conf.d/*.conf; }\n";
        let site = "server { listen 80; location / { proxy_pass http://10.0.0.1; } }\n";
        let (_, findings) = import_texts(Kind::Nginx, &[("/etc/nginx/nginx.conf", main), ("/etc/nginx/sites-enabled/a", site)]);
        assert!(findings.len() == 1 && findings[0].contains("conf.d"), "{findings:#?}");
    }

    #[test]
    fn streams() {
        let (text, findings) = import_text(
            Kind::Nginx,
            "stream {\n  upstream db { server 10.0.0.1:5432; server 10.0.0.2:5432 backup; }\n  \
             server { listen 127.0.0.1:5432; proxy_pass db; proxy_timeout 1h; proxy_protocol on; }\n  server { listen 53 udp; proxy_pass 10.0.0.3:53; }\n}\n",
        );
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(table(&text, "listeners.tcp-5432"), ["address = \"127.0.0.1:5432\"", "protocol = \"tcp\""]);
        assert_eq!(table(&text, "tcp_routes.tcp-5432"), ["idle_timeout = \"3600s\"", "listener = \"tcp-5432\"", "upstream = \"db\""]);
        assert_eq!(
            table(&text, "upstreams.db"),
            ["endpoints = [\"10.0.0.1:5432\", { address = \"10.0.0.2:5432\", backup = true }]", "proxy_protocol = \"v1\""]
        );
    }

    #[test]
    fn what_is_not_open_stays_so() {
        let (text, findings) = import_text(
            Kind::Nginx,
            "server {\n listen 80;\n location /adm { internal; proxy_pass http://10.0.0.1; }\n \
             location /mixed { allow 10.0.0.0/8; deny 10.0.0.1; deny all; proxy_pass http://10.0.0.1; }\n \
             location /odd { allow unix:; deny all; proxy_pass http://10.0.0.1; }\n \
             location /none { deny 10.0.0.1; deny all; allow all; proxy_pass http://10.0.0.1; }\n \
             location /some { deny 10.0.0.1; proxy_pass http://10.0.0.1; }\n location /all { allow 10.0.0.1; proxy_pass http://10.0.0.1; }\n}\n",
        );
        let guard = |place: &str| table(&text, &format!("routes.default-{place}")).into_iter().find(|line| line.starts_with("middlewares"));
        for place in ["adm", "mixed", "odd", "none"] {
            assert_eq!(guard(place), Some("middlewares = [{ ip_deny = [\"0.0.0.0/0\", \"::/0\"] }]"), "{place}: {text}");
        }
        assert_eq!(guard("some"), Some("middlewares = [{ ip_deny = [\"10.0.0.1\"] }]"));
        assert_eq!(guard("all"), None);
        let lost = findings.iter().filter(|finding| finding.contains("closed to everybody"));
        assert_eq!(
            lost.filter_map(|finding| finding.split(": ").next()).collect::<Vec<_>>(),
            ["test:3", "test:4", "test:5"],
            "{findings:#?}"
        );
    }

    #[test]
    fn streams_let_in_whom_nginx_lets_in() {
        let (text, findings) = import_text(
            Kind::Nginx,
            "stream {\n deny 10.0.0.9;\n server { listen 1001; proxy_pass 10.0.0.1:1; allow 1.1.1.1; allow 10.0.0.0/8; deny all; }\n \
             server { listen 1002; proxy_pass 10.0.0.1:1; }\n server { listen 1003; proxy_pass 10.0.0.1:1; deny all; }\n \
             server { listen 1004; proxy_pass 10.0.0.1:1; deny 10.0.0.1; allow 10.0.0.0/8; deny all; }\n}\n",
        );
        let rule = |port: &str| table(&text, &format!("tcp_routes.tcp-{port}")).into_iter().find(|line| line.starts_with("match"));
        assert_eq!(rule("1001"), Some("match = 'ClientIp(\"1.1.1.1\", \"10.0.0.0/8\")'"), "{text}");
        assert_eq!(rule("1002"), Some("match = '!ClientIp(\"10.0.0.9\")'"), "{text}");
        assert!(!text.contains("1003") && !text.contains("1004"), "{text}");
        assert_eq!(
            findings.iter().filter_map(|finding| finding.split(": ").next()).collect::<Vec<_>>(),
            ["test:5", "test:6"],
            "{findings:#?}"
        );
    }

    #[test]
    fn what_is_lost_is_said_line_by_line() {
        let (_, findings) = import_text(
            Kind::Nginx,
            "include /etc/nginx/conf.d/*.conf;\nserver {\n listen unix:/run/x;\n listen 80 proxy_protocol;\n gzip on;\n root /srv;\n location / { try_files $uri =404; }\n \
             location @named { proxy_pass http://a; }\n location /x { proxy_pass http://$backend; }\n location /y { return 403; }\n \
             location /z/ { proxy_pass http://nowhere; proxy_set_header X-User $remote_user; auth_basic x; }\n}\nserver { listen 80; location / { proxy_pass http://10.0.0.1; } }\n",
        );
        let lost: Vec<&str> =
            findings.iter().filter(|finding| !finding.contains(": note: ")).filter_map(|finding| finding.split(": ").next()).collect();
        let expected = [1, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 11, 13].map(|line| format!("test:{line}"));
        assert_eq!(lost, expected, "{findings:#?}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "((server|upstream a|location /|listen|server_name|proxy_pass|return|stream|http|server)( [-a-z0-9:./{};~$*]{0,8}){0,3}[;{}]\n?){0,16}") {
            let inputs = [super::Input { name: "x".into(), text }];
            let _ = super::import(&inputs).render("x");
        }
    }
}
