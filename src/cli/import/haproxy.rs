//! A configuration of HAProxy.
//!
//! A `frontend` becomes listeners and routes, of which earlier ones have the higher priority, as HAProxy asks its rules in their order; a
//! `backend` becomes an upstream; a `listen` both. What `defaults` say holds for the sections after it.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::Input;
use super::draft::{At, Draft, Section, duration, inline, listen_address, table};
use super::haproxy_rule::{Acls, Condition};
use super::haproxy_server::put_upstream;
use super::haproxy_text::{Proxy, read};

/// Reads files of HAProxy as if they were one.
pub(super) fn import(inputs: &[Input]) -> Draft {
    let mut draft = Draft::default();
    import_lines(inputs.iter().flat_map(Input::lines), &mut draft);
    draft
}

/// The same of lines that were written elsewhere.
pub(super) fn import_lines<'a>(lines: impl Iterator<Item = (At, &'a str)>, draft: &mut Draft) {
    let proxies: Vec<Proxy> = read(lines, draft).into_iter().filter(|proxy| is_used(proxy, draft)).collect();
    let fronts = proxies.iter().filter(|proxy| proxy.has_front() && !proxy.is_tcp).count();
    // A name that a section of servers has is the name of its upstream.
    let upstreams: BTreeMap<&str, String> =
        proxies.iter().filter(|proxy| proxy.has_back()).map(|proxy| (proxy.name.as_str(), put_upstream(proxy, draft))).collect();
    let forwards_for = |proxy: &Proxy| proxy.forwards_for || proxies.iter().any(|back| back.has_back() && back.forwards_for);
    for proxy in proxies.iter().filter(|proxy| proxy.has_front()) {
        let listeners = put_listeners(proxy, forwards_for(proxy), draft);
        if listeners.is_empty() {
            continue;
        }
        if proxy.is_tcp {
            put_tcp_routes(proxy, &listeners, &upstreams, draft);
        } else {
            put_routes(proxy, if fronts > 1 { &listeners } else { &[] }, &upstreams, draft);
        }
    }
}

fn is_used(proxy: &Proxy, draft: &mut Draft) -> bool {
    if let (true, Some(at)) = (proxy.is_disabled, &proxy.at) {
        draft.lose(at, format!("{} {}", proxy.kind, proxy.name), "it is `disabled`, and left out");
    }
    !proxy.is_disabled
}

/// The listeners of a section, with their certificates.
fn put_listeners(proxy: &Proxy, forwards_for: bool, draft: &mut Draft) -> Vec<String> {
    let mut listeners = Vec::new();
    for (at, words) in &proxy.binds {
        let options: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        let tls = put_tls(proxy, at, &options, draft);
        for text in words.first().map(String::as_str).unwrap_or_default().split(',') {
            let text = text.trim_start_matches("ipv4@").trim_start_matches("ipv6@");
            let Some(address) = listen_address(text) else {
                draft.lose(at, format!("bind {text}"), "it is no IP address with one port");
                continue;
            };
            let mut fields = table([("address", address.into())]);
            if proxy.is_tcp {
                fields.insert("protocol".into(), "tcp".into());
            } else if !forwards_for {
                fields.insert("forwarded".into(), "off".into());
            }
            if let Some(tls) = &tls {
                fields.insert("tls".into(), tls.clone());
            }
            let mut timeouts = Table::new();
            if let Some(time) = proxy.timeouts.get("client") {
                timeouts.insert("client_idle".into(), duration(*time));
            }
            if let Some(time) = proxy.timeouts.get("http-request").filter(|_| !proxy.is_tcp) {
                timeouts.insert("client_header".into(), duration(*time));
            }
            if !timeouts.is_empty() && !proxy.is_tcp {
                fields.insert("timeouts".into(), timeouts.into());
            }
            if let Some(connections) = proxy.connections_max {
                fields.insert("limits".into(), inline([("connections", i64::from(connections).into())]));
            }
            listeners.push(draft.add(Section::Listeners, &proxy.name, at, &format!("bind {}", words.join(" ")), fields));
        }
    }
    listeners
}

/// What `ssl` and its options make of a listener.
fn put_tls(proxy: &Proxy, at: &At, options: &[&str], draft: &mut Draft) -> Option<Value> {
    let mut is_tls = false;
    let mut names: Vec<Value> = Vec::new();
    let mut fields = Table::new();
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "ssl" => is_tls = true,
            "crt" => {
                let path = *options.next().unwrap_or(&"");
                let is_file = path.rsplit('/').next().is_some_and(|name| name.contains('.'));
                if !is_file {
                    draft.lose(at, format!("crt {path}"), "a directory of certificates: name each file under [certificates]");
                    continue;
                }
                // One file for both, in the same order.
                let pem = table([("cert", path.into()), ("key", path.into())]);
                let stem = path.rsplit('/').next().unwrap_or_default();
                let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem);
                let wanted = if stem.is_empty() { &proxy.name } else { stem };
                names.push(draft.add(Section::Certificates, wanted, at, &format!("crt {path}"), pem).into());
            }
            "ssl-min-ver" => match options.next() {
                Some(&"TLSv1.3") => {
                    fields.insert("min_version".into(), "1.3".into());
                }
                Some(&"TLSv1.2") => {}
                _ => draft.note(at, "ssl-min-ver", "TLS 1.2 is the oldest version"),
            },
            "alpn" | "name" | "id" | "process" | "thread" | "maxconn" | "backlog" | "nice" | "mode" | "user" | "group" => {
                options.next();
            }
            "no-sslv3"
            | "no-tlsv10"
            | "no-tlsv11"
            | "no-tls-tickets"
            | "transparent"
            | "v4v6"
            | "defer-accept"
            | "tfo"
            | "prefer-client-ciphers" => {}
            "accept-proxy" => {
                let why = "whom to believe is to be said: `proxy_protocol = \"required\"` and `trusted_proxies` of the listener";
                draft.lose(at, "accept-proxy", why);
            }
            "verify" | "ca-file" | "crl-file" => {
                draft.lose(at, format!("{option} {}", options.next().unwrap_or(&"")), "certificates of clients are not asked for");
            }
            "crt-list" | "ciphers" | "ciphersuites" | "curves" | "ecdhe" | "npn" | "tls-ticket-keys" => {
                draft.lose(at, format!("{option} {}", options.next().unwrap_or(&"")), "it has no counterpart");
            }
            other => draft.lose(at, format!("bind … {other}"), "it has no counterpart"),
        }
    }
    if !names.is_empty() {
        fields.insert("certificates".into(), names.into());
    }
    is_tls.then_some(Value::Table(fields))
}

fn put_tcp_routes(proxy: &Proxy, listeners: &[String], upstreams: &BTreeMap<&str, String>, draft: &mut Draft) {
    for (at, backend, _) in &proxy.uses {
        draft.lose(at, format!("use_backend {backend}"), "a TCP listener has one upstream: give each backend a listener");
    }
    let own = proxy.at.clone().filter(|_| proxy.has_back()).map(|at| (at, proxy.name.clone()));
    let Some((at, backend)) = proxy.default_backend.clone().or(own) else {
        return;
    };
    let Some(upstream) = upstreams.get(backend.as_str()) else {
        return draft.lose(&at, format!("default_backend {backend}"), "there is no such backend");
    };
    for listener in listeners {
        let mut fields = table([("listener", listener.as_str().into()), ("upstream", upstream.as_str().into())]);
        let idle = proxy.timeouts.get("tunnel").or_else(|| proxy.timeouts.get("client").max(proxy.timeouts.get("server")));
        if let Some(idle) = idle {
            fields.insert("idle_timeout".into(), duration(*idle));
        }
        draft.add(Section::TcpRoutes, listener, &at, &proxy.default_text(), fields);
    }
}

/// The routes of a section, on these listeners or, if there are none, on all. Earlier rules have a higher priority.
fn put_routes(proxy: &Proxy, listeners: &[String], upstreams: &BTreeMap<&str, String>, draft: &mut Draft) {
    let mut middlewares = Vec::new();
    let mut rules: Vec<(At, String, Condition, Table)> = Vec::new();
    for (at, words) in &proxy.redirects {
        let what = format!("redirect {}", words.join(" "));
        match redirect(&proxy.acls, words) {
            Ok((Condition::WithoutTls, fields)) if fields.get("scheme") == Some(&Value::from("https")) => {
                let status = fields.get("status").cloned();
                let value = status.map_or(Value::from(true), |status| inline([("status", status)]));
                middlewares.push(inline([("redirect_https", value)]));
            }
            Ok((Condition::WithoutTls, _)) => draft.lose(at, what, "only a redirect to https can depend on TLS"),
            Ok((condition, fields)) => {
                let redirect = inline([("redirect", fields.into())]);
                rules.push((at.clone(), what, condition, table([("middlewares", vec![redirect].into())])));
            }
            Err(why) => draft.lose(at, what, why),
        }
    }
    let default = proxy.default_backend.clone().map(|(at, backend)| (at, backend, Vec::new()));
    let own = proxy.at.clone().filter(|_| proxy.has_back()).map(|at| (at, proxy.name.clone(), Vec::new()));
    for (at, backend, words) in proxy.uses.iter().cloned().chain(default.or(own)) {
        let what = if words.is_empty() { proxy.default_text() } else { format!("use_backend {backend} {}", words.join(" ")) };
        let Some(upstream) = upstreams.get(backend.as_str()) else {
            draft.lose(&at, what, format!("there is no backend `{backend}` by that name"));
            continue;
        };
        match proxy.acls.condition(&words) {
            Ok(Condition::WithoutTls) => {
                draft.lose(&at, what, "whether a request came by TLS is no part of rules: use `listeners` of a route")
            }
            Ok(condition) => rules.push((at, what, condition, table([("upstream", upstream.as_str().into())]))),
            Err(why) => draft.lose(&at, what, why),
        }
    }
    if !proxy.headers.is_empty() {
        let sides = proxy.headers.iter().map(|(side, changes)| ((*side).to_owned(), Value::Table(changes.clone())));
        middlewares.push(inline([("headers", Value::Table(sides.collect()))]));
    }
    let count = rules.len();
    for (index, (at, what, condition, mut fields)) in rules.into_iter().enumerate() {
        let rule = match condition {
            Condition::Rule(rule) => rule,
            _ => "PathPrefix(\"/\")".to_owned(),
        };
        let Some(rule) = draft.rule(&at, &what, &rule) else { continue };
        let mut route = table([("match", rule)]);
        if count > 1 && index + 1 < count {
            route.insert("priority".into(), i64::try_from(count - 1 - index).unwrap_or(i64::MAX).into());
        }
        if !listeners.is_empty() {
            route.insert("listeners".into(), listeners.iter().map(|name| Value::from(name.as_str())).collect::<Vec<_>>().into());
        }
        let own = fields.remove("middlewares");
        let all: Vec<Value> =
            middlewares.iter().cloned().chain(own.into_iter().flat_map(|own| own.as_array().cloned().unwrap_or_default())).collect();
        if !all.is_empty() {
            route.insert("middlewares".into(), all.into());
        }
        let name = fields.get("upstream").and_then(Value::as_str).map_or_else(|| format!("{}-redirect", proxy.name), str::to_owned);
        route.extend(fields);
        draft.add(Section::Routes, &name, &at, &what, route);
    }
    if count == 0
        && let Some(at) = &proxy.at
    {
        draft.note(at, format!("{} {}", proxy.kind, proxy.name), "it has no route: requests are answered 404");
    }
}

/// `scheme https code 301 if …` → when, and the fields of our `redirect`.
fn redirect(acls: &Acls, words: &[String]) -> Result<(Condition, Table), String> {
    let end = words.iter().position(|word| matches!(word.as_str(), "if" | "unless")).unwrap_or(words.len());
    let (options, condition) = words.split_at_checked(end).unwrap_or((words, &[]));
    let condition = acls.condition(condition)?;
    let mut fields = Table::new();
    let mut options = options.iter().map(String::as_str);
    while let Some(option) = options.next() {
        let mut value = || options.next().filter(|value| !value.contains("%[")).ok_or("its target is computed: write it by hand");
        match option {
            "scheme" => drop(fields.insert("scheme".into(), value()?.into())),
            "location" => {
                let location = value()?.replace('$', "$$");
                let to = if location.starts_with('/') { format!("${{scheme}}://${{authority}}{location}") } else { location };
                fields.insert("to".into(), to.into());
            }
            "prefix" => {
                let prefix = value()?.replace('$', "$$");
                let to = format!("{}${{path}}${{query}}", prefix.trim_end_matches('/'));
                let to = if prefix.starts_with('/') { format!("${{scheme}}://${{authority}}{to}") } else { to };
                fields.insert("to".into(), to.into());
            }
            "code" => {
                let code: i64 = value()?.parse().map_err(|_| "its code is not a number")?;
                fields.insert("status".into(), if code == 303 { 302 } else { code }.into());
            }
            other => return Err(format!("`{other}` has no counterpart")),
        }
    }
    Ok((condition, fields))
}
#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::testing::{certificate, import_text, table};

    #[test]
    fn the_article_s_configuration_is_carried_over() {
        let (text, findings) = import_text(
            Kind::Haproxy,
            "global\n  daemon\n  maxconn 4096\n\ndefaults\n  log global\n  mode http\n  option httplog\n  option forwardfor\n  \
             option http-server-close\n  timeout connect 5000ms\n  timeout client 50000\n  timeout server 50s\n\n\
             frontend www-http\n  bind 0.0.0.0:80\n  acl api path_beg /v1 # the API\n  acl site hdr(host) -i a.test\n  \
             use_backend api-backend if api site\n  default_backend www-backend\n\n\
             backend www-backend\n  balance leastconn\n  cookie SRV insert indirect nocache\n  option httpchk GET /healthz\n  \
             http-check expect status 200\n  \
             server www-1 10.0.0.1:80 check inter 2s rise 2 fall 3 cookie a\n  server www-2 10.0.0.2:80 check weight 5 cookie b\n\n\
             backend api-backend\n  balance roundrobin\n  server api-1 10.0.0.3:8080 check\n",
        );
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings.iter().all(|finding| finding.contains(": note: ")), "{findings:?}");
        assert_eq!(table(&text, "listeners.www-http"), ["address = \"0.0.0.0:80\"", "timeouts = { client_idle = \"50s\" }"]);
        let rule = "match = 'PathRegexp(\"/v1.*\") && Host(\"a.test\")'";
        assert_eq!(table(&text, "routes.api-backend"), [rule, "priority = 1", "upstream = \"api-backend\""]);
        assert_eq!(table(&text, "routes.www-backend"), ["match = 'PathPrefix(\"/\")'", "upstream = \"www-backend\""]);
        assert_eq!(
            table(&text, "upstreams.www-backend"),
            [
                "balance = \"least_request\"",
                "endpoints = [\"10.0.0.1:80\", { address = \"10.0.0.2:80\", weight = 5 }]",
                "health = { fall = 3, http = \"/healthz\", interval = \"2s\", rise = 2, status = \"200\" }",
                "sticky = { cookie = \"SRV\" }",
                "timeouts = { connect = \"5s\", idle = \"50s\", response_header = \"50s\" }",
            ]
        );
        assert_eq!(table(&text, "upstreams.api-backend")[1], "health = { tcp = true }");
    }

    #[test]
    fn tls_and_redirects() {
        let file = certificate();
        let (text, findings) = import_text(
            Kind::Haproxy,
            &format!(
                "frontend web\n  bind *:80\n  bind :::443 ssl crt {} alpn h2,http/1.1 ssl-min-ver TLSv1.3\n  option forwardfor\n  \
                 mode http\n  redirect scheme https code 301 if !{{ ssl_fc }}\n  \
                 http-request redirect location https://b.test/ code 302 if {{ hdr(host) old.test }}\n  \
                 http-response set-header X-Frame-Options DENY\n  http-request del-header X-Debug\n  default_backend a\n\
                 backend a\n  server a a.internal:8080\n",
                file.path().display()
            ),
        );
        assert!(findings.is_empty(), "{findings:?}");
        assert!(text.contains("tls = { certificates = [\"web\"], min_version = \"1.3\" }"), "{text}");
        assert!(table(&text, "listeners.web-2").contains(&"address = \"[::]:443\""));
        let redirect = table(&text, "routes.web-redirect");
        assert_eq!(redirect[0], "match = 'Host(\"old.test\")'");
        assert!(text.contains("redirect = { status = 302, to = \"https://b.test/\" }"), "{text}");
        assert!(text.contains("{ redirect_https = { status = 301 } }"), "{text}");
        assert!(text.contains("response = { set = { X-Frame-Options = \"DENY\" } }"), "{text}");
    }

    #[test]
    fn tcp() {
        let (text, findings) = import_text(
            Kind::Haproxy,
            "listen postgres 127.0.0.1:5432\n  mode tcp\n  timeout client 1h\n  server a 10.0.0.1:5432 check send-proxy-v2\n  server b 10.0.0.2:5432 check backup\n",
        );
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(table(&text, "listeners.postgres"), ["address = \"127.0.0.1:5432\"", "protocol = \"tcp\""]);
        let route = ["idle_timeout = \"3600s\"", "listener = \"postgres\"", "upstream = \"postgres\""];
        assert_eq!(table(&text, "tcp_routes.postgres"), route);
        let upstream = [
            "endpoints = [\"10.0.0.1:5432\", { address = \"10.0.0.2:5432\", backup = true }]",
            "health = { tcp = true }",
            "proxy_protocol = \"v2\"",
        ];
        assert_eq!(table(&text, "upstreams.postgres"), upstream);
    }

    #[test]
    fn what_is_lost_is_said_line_by_line() {
        let (_, findings) = import_text(
            Kind::Haproxy,
            "userlist u\n  user a password b\ndefaults\n  mode http\nfrontend f\n  bind *:8000-8010\n  bind *:80 accept-proxy\n  \
             use_backend b if { be_conn(b) gt 3 }\n  use_backend c if { path /c }\n  compression algo gzip\n  stats enable\n  http-request deny if { src 10.0.0.1 }\n\
             backend b\n  balance uri\n  stick-table type ip size 1m\n  server s unix@/run/s\n  server t 10.0.0.1:80 disabled\n",
        );
        let lines: Vec<&str> = findings.iter().filter_map(|finding| finding.split(": ").next()).collect();
        let expected = [1, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17].map(|line| format!("test:{line}"));
        assert_eq!(lines, expected, "{findings:#?}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "((frontend|backend|listen|defaults|  bind|  server|  acl|  use_backend|  redirect|  balance|  option httpchk|  cookie)( [-a-z0-9:./{}!|()%\"']{0,12}){0,5}\n){0,12}") {
            let inputs = [super::Input { name: "x".into(), text }];
            let _ = super::import(&inputs).render("x");
        }
    }
}
