//! The servers of a HAProxy section → an upstream.

use std::time::Duration;

use toml::{Table, Value};

use super::draft::{At, Draft, Section, duration, endpoint_value, inline, table};
use super::haproxy_text::{Proxy, parse_time};

/// The upstream of a section, and its name.
pub(super) fn put_upstream(proxy: &Proxy, draft: &mut Draft) -> String {
    let at = proxy.at.clone().unwrap_or(At { file: "".into(), line: 0 });
    let mut fields = Table::new();
    if let Some((at, words)) = &proxy.balance {
        match balance(words) {
            Ok(Some(policy)) => drop(fields.insert("balance".into(), policy)),
            Ok(None) => {}
            Err(why) => draft.lose(at, format!("balance {}", words.join(" ")), why),
        }
    }
    if let Some((at, words)) = &proxy.cookie {
        match words.as_slice() {
            [name, options @ ..] if options.iter().any(|option| option == "insert") => {
                fields.insert("sticky".into(), inline([("cookie", name.as_str().into())]));
                draft.note(
                    at,
                    format!("cookie {}", words.join(" ")),
                    "its values are opaque and ours: clients that hold one of HAProxy's are balanced once more",
                );
            }
            _ => draft.lose(at, format!("cookie {}", words.join(" ")), "only `insert` has a counterpart: `sticky` of the upstream"),
        }
    }
    let mut servers = Servers { health: None, tls: None, proxy_protocol: None, endpoints: Vec::new() };
    for (at, words) in &proxy.servers {
        servers.add(proxy, at, words, draft);
    }
    fields.insert("endpoints".into(), servers.endpoints.into());
    for (key, value) in [("health", servers.health), ("tls", servers.tls)] {
        if let Some(value) = value {
            fields.insert(key.into(), value.into());
        }
    }
    if let Some(version) = servers.proxy_protocol {
        fields.insert("proxy_protocol".into(), version.into());
    }
    let mut timeouts = Table::new();
    for (theirs, ours) in [("connect", "connect"), ("server", "response_header"), ("server", "idle")] {
        if let Some(time) = proxy.timeouts.get(theirs) {
            timeouts.insert(ours.into(), duration(*time));
        }
    }
    if !timeouts.is_empty() {
        fields.insert("timeouts".into(), timeouts.into());
    }
    if let Some(retries) = proxy.retries {
        fields.insert("retries".into(), i64::from(retries).into());
    }
    draft.add(Section::Upstreams, &proxy.name, &at, &format!("{} {}", proxy.kind, proxy.name), fields)
}

fn balance(words: &[String]) -> Result<Option<Value>, String> {
    let first = words.first().map(String::as_str).unwrap_or_default();
    Ok(Some(match first.split('(').next().unwrap_or_default() {
        "roundrobin" | "static-rr" => return Ok(None),
        "leastconn" => "least_request".into(),
        "random" => "random".into(),
        "source" => inline([("hash", "client_ip".into())]),
        "hdr" => {
            let name = first.trim_start_matches("hdr(").trim_end_matches(')');
            inline([("hash", inline([("header", name.into())]))])
        }
        other => return Err(format!("`{other}` has no counterpart; without it the balance is round robin")),
    }))
}

/// What the servers of a section make together.
struct Servers {
    health: Option<Table>,
    tls: Option<Table>,
    proxy_protocol: Option<&'static str>,
    endpoints: Vec<Value>,
}

impl Servers {
    fn add(&mut self, proxy: &Proxy, at: &At, words: &[String], draft: &mut Draft) {
        let [name, address, own @ ..] = words else {
            return draft.lose(at, format!("server {}", words.join(" ")), "it has no address");
        };
        let what = format!("server {name}");
        let mut weight = None;
        let mut options = proxy.default_server.iter().chain(own).map(String::as_str);
        let (mut is_left_out, mut is_backup) = (false, false);
        while let Some(option) = options.next() {
            match option {
                "check" => drop(self.health.get_or_insert_with(|| proxy.check.clone().unwrap_or_else(|| table([("tcp", true.into())])))),
                "weight" => weight = options.next().and_then(|weight| weight.parse::<i64>().ok()),
                "inter" => self.time_of_check("interval", options.next()),
                "rise" | "fall" => {
                    if let Some(count) = options.next().and_then(|count| count.parse::<i64>().ok()) {
                        self.health_field(option, count.into());
                    }
                }
                "disabled" => {
                    draft.lose(at, &what, "it is `disabled`, and left out");
                    is_left_out = true;
                }
                "backup" => is_backup = true,
                "ssl" => drop(self.tls.get_or_insert_default()),
                "verify" => {
                    if options.next() == Some("none") {
                        self.tls.get_or_insert_default().insert("insecure_skip_verify".into(), true.into());
                    }
                }
                "ca-file" => {
                    if let Some(path) = options.next() {
                        self.tls.get_or_insert_default().insert("ca".into(), path.into());
                    }
                }
                "sni" | "verifyhost" => match options.next().map(|name| name.trim_start_matches("str(").trim_end_matches(')')) {
                    Some(name) if !name.contains('(') => {
                        self.tls.get_or_insert_default().insert("server_name".into(), name.into());
                    }
                    _ => draft.lose(at, &what, "`sni` of each request has no counterpart: the name of the endpoint is sent"),
                },
                // Values of cookies are ours; the others do not matter here.
                "cookie" | "id" | "fastinter" | "downinter" | "slowstart" | "maxqueue" | "minconn" | "error-limit" | "observe"
                | "on-error" | "on-marked-down" | "on-marked-up" | "pool-max-conn" | "pool-purge-delay" | "resolvers"
                | "resolve-prefer" | "init-addr" => {
                    let value = options.next().unwrap_or_default();
                    if matches!(option, "slowstart" | "observe" | "on-marked-down") {
                        draft.lose(at, &what, format!("`{option} {value}` has no counterpart"));
                    }
                }
                "alpn" | "proto" => {
                    if options.next().is_some_and(|protocols| protocols.starts_with("h2")) {
                        draft.note(at, &what, "HTTP/2 to endpoints: set `protocol = \"h2\"` of the upstream, or \"h2c\" without TLS");
                    }
                }
                "maxconn" => {
                    options.next();
                    draft.lose(at, &what, "`maxconn` of a server has no counterpart");
                }
                "port" | "addr" => {
                    options.next();
                    draft.lose(at, &what, "it is checked at another address than it serves at; ours are checked where they serve");
                }
                // One for all servers of an upstream, as TLS is; checks send it in any case.
                "send-proxy" => self.proxy_protocol = Some("v1"),
                "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => self.proxy_protocol = Some("v2"),
                "proxy-v2-options" => drop(options.next()),
                "check-send-proxy" => {}
                "enabled" | "no-check" | "check-ssl" => {}
                other => draft.lose(at, &what, format!("`{other}` has no counterpart")),
            }
        }
        if is_left_out {
            return;
        }
        let address = if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) || address.contains(['/', '@']) {
            address.clone()
        } else {
            draft.note(at, format!("server {name} {address}"), "it has no port of its own: 80 is written");
            format!("{address}:80")
        };
        if let Err(why) = nuncio::config::Endpoint::parse_address(&address) {
            return draft.lose(at, format!("server {name} {address}"), why);
        }
        // HAProxy's weights are from 0 to 256, ours to 1,000.
        self.endpoints.push(endpoint_value(&address, weight.map_or(1, |weight| weight.clamp(0, 256)), is_backup));
    }

    fn health_field(&mut self, key: &str, value: Value) {
        if let Some(health) = &mut self.health {
            health.entry(key).or_insert(value);
        }
    }

    fn time_of_check(&mut self, key: &str, text: Option<&str>) {
        if let Some(time) = text.and_then(parse_time) {
            self.health_field(key, duration(time.max(Duration::from_millis(10))));
        }
    }
}
