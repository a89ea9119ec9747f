//! The text of a HAProxy configuration → its sections of proxies, each with what `defaults` say.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::{Table, Value};

use super::draft::{At, Draft};
use super::haproxy_rule::Acls;

/// What has no meaning here, or is so by default.
const SILENT: &[&str] = &[
    "option httplog",
    "option tcplog",
    "option dontlognull",
    "option dontlog-normal",
    "option http-keep-alive",
    "option http-server-close",
    "option httpclose",
    "option forceclose",
    "option redispatch",
    "option abortonclose",
    "option tcpka",
    "option clitcpka",
    "option srvtcpka",
    "option splice-auto",
    "option contstats",
    "option socket-stats",
    "option log-health-checks",
    "option log-separate-errors",
    "option http-use-htx",
    "log",
    "log-format",
    "log-tag",
    "id",
    "description",
    "enabled",
    "no option",
];

/// A section of proxies, as it is read.
#[derive(Debug, Clone, Default)]
pub(super) struct Proxy {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) at: Option<At>,
    pub(super) is_tcp: bool,
    pub(super) is_disabled: bool,
    pub(super) forwards_for: bool,
    pub(super) binds: Vec<(At, Vec<String>)>,
    pub(super) acls: Acls,
    /// Redirects and changes of headers, then where to go: in the order in which they count.
    pub(super) redirects: Vec<(At, Vec<String>)>,
    pub(super) headers: BTreeMap<&'static str, Table>,
    pub(super) uses: Vec<(At, String, Vec<String>)>,
    pub(super) default_backend: Option<(At, String)>,
    pub(super) servers: Vec<(At, Vec<String>)>,
    pub(super) default_server: Vec<String>,
    pub(super) balance: Option<(At, Vec<String>)>,
    pub(super) cookie: Option<(At, Vec<String>)>,
    pub(super) check: Option<Table>,
    pub(super) timeouts: BTreeMap<String, Duration>,
    pub(super) retries: Option<u8>,
    pub(super) connections_max: Option<u32>,
}

impl Proxy {
    pub(super) fn has_front(&self) -> bool {
        matches!(self.kind.as_str(), "frontend" | "listen")
    }

    /// What its own servers, or its last rule, are written as.
    pub(super) fn default_text(&self) -> String {
        match &self.default_backend {
            Some((_, backend)) => format!("default_backend {backend}"),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    pub(super) fn has_back(&self) -> bool {
        matches!(self.kind.as_str(), "backend" | "listen")
    }
}

pub(super) fn read<'a>(lines: impl Iterator<Item = (At, &'a str)>, draft: &mut Draft) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    let mut defaults = Proxy::default();
    let mut section = String::new();
    let mut current = Proxy::default();
    for (at, line) in lines {
        let words = match split(line) {
            Ok(words) => words,
            Err(why) => {
                draft.lose(&at, line.trim(), why);
                continue;
            }
        };
        let Some(first) = words.first().cloned() else { continue };
        let is_section = !line.starts_with([' ', '\t']) || SECTIONS.contains(&first.as_str());
        if is_section && SECTIONS.contains(&first.as_str()) {
            close(&section, std::mem::take(&mut current), &mut defaults, &mut proxies);
            section.clone_from(&first);
            match section.as_str() {
                "defaults" => current = Proxy::default(),
                "frontend" | "backend" | "listen" => current = open(&at, &words, &defaults),
                "global" => draft.note(&at, "global", "settings of the process are those of the service manager and `[server]`"),
                other => draft.lose(&at, line.trim(), format!("sections of the kind `{other}` have no counterpart")),
            }
            continue;
        }
        if matches!(section.as_str(), "defaults" | "frontend" | "backend" | "listen") {
            directive(&mut current, &at, line.trim(), &words, draft);
        } else if section.is_empty() {
            draft.lose(&at, line.trim(), "it is in no section of HAProxy");
        }
    }
    close(&section, current, &mut defaults, &mut proxies);
    proxies
}

const SECTIONS: &[&str] = &[
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "userlist",
    "resolvers",
    "mailers",
    "cache",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "fcgi-app",
    "crt-store",
    "traces",
];

fn open(at: &At, words: &[String], defaults: &Proxy) -> Proxy {
    let name = words.get(1).cloned().unwrap_or_default();
    let mut proxy = Proxy { kind: words.first().cloned().unwrap_or_default(), name, at: Some(at.clone()), ..defaults.clone() };
    // The address beside the name, as it was written of old.
    if let Some(address) = words.get(2).filter(|_| proxy.has_front()) {
        proxy.binds.push((at.clone(), vec![address.clone()]));
    }
    proxy
}

fn close(section: &str, current: Proxy, defaults: &mut Proxy, proxies: &mut Vec<Proxy>) {
    match section {
        "defaults" => *defaults = current,
        "frontend" | "backend" | "listen" => proxies.push(current),
        _ => {}
    }
}

/// The words of a line: quotes, escapes and comments taken away.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => match chars.next() {
                Some(c) => word.get_or_insert_default().extend(if c == ' ' || c == '#' || c == '"' || c == '\'' || c == '\\' {
                    vec![c]
                } else {
                    vec!['\\', c]
                }),
                None => return Err("a line that goes on with the next one is not read: write it as one".into()),
            },
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') => break,
            (None, c) if c.is_ascii_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

fn directive(proxy: &mut Proxy, at: &At, line: &str, words: &[String], draft: &mut Draft) {
    let word = |index: usize| words.get(index).map(String::as_str).unwrap_or_default();
    let rest = || words.get(1..).unwrap_or_default().to_vec();
    let what = if word(0) == "option" || word(0) == "no" { format!("{} {}", word(0), word(1)) } else { word(0).to_owned() };
    if SILENT.contains(&what.as_str()) {
        return;
    }
    match what.as_str() {
        "mode" => match word(1) {
            "http" => proxy.is_tcp = false,
            "tcp" => proxy.is_tcp = true,
            _ => draft.lose(at, line, "only the modes `http` and `tcp` have a counterpart"),
        },
        "disabled" => proxy.is_disabled = true,
        "bind" => proxy.binds.push((at.clone(), rest())),
        "acl" => proxy.acls.define(words.get(1..).unwrap_or_default()),
        "use_backend" => proxy.uses.push((at.clone(), word(1).to_owned(), words.get(2..).unwrap_or_default().to_vec())),
        "default_backend" => proxy.default_backend = Some((at.clone(), word(1).to_owned())),
        "redirect" => proxy.redirects.push((at.clone(), rest())),
        "reqadd" | "rspadd" => draft.lose(at, line, "add it by a `headers` middleware"),
        "http-request" | "http-response" => http_rule(proxy, at, line, words, draft),
        "server" => proxy.servers.push((at.clone(), rest())),
        "default-server" => proxy.default_server.extend(rest()),
        "balance" => proxy.balance = Some((at.clone(), rest())),
        "cookie" => proxy.cookie = Some((at.clone(), rest())),
        "option forwardfor" => {
            proxy.forwards_for = true;
            if words.len() > 2 {
                draft.lose(at, line, "`X-Forwarded-For` is always told; whose is believed is said by `trusted_proxies` of the listener");
            }
        }
        "option httpchk" => {
            let path = words.get(2..).unwrap_or_default().iter().find(|word| word.starts_with('/'));
            set(&mut proxy.check, "http", path.map_or("/", |path| path.split('?').next().unwrap_or("/")).into());
            if matches!(word(2), method if method.chars().all(|c| c.is_ascii_uppercase()) && !method.is_empty() && method != "GET") {
                draft.note(at, line, "the check is sent as GET");
            }
        }
        "option tcp-check" => {}
        "option ssl-hello-chk"
        | "option mysql-check"
        | "option redis-check"
        | "option smtpchk"
        | "option pgsql-check"
        | "option ldap-check" => {
            draft.lose(at, line, "the check is that a connection is accepted");
        }
        "http-check" => http_check(proxy, at, line, words, draft),
        "timeout" => match parse_time(word(2)) {
            Some(time) => {
                proxy.timeouts.insert(word(1).to_owned(), time);
            }
            None => draft.lose(at, line, "it is not a time"),
        },
        "contimeout" | "clitimeout" | "srvtimeout" => {
            let name = [("contimeout", "connect"), ("clitimeout", "client"), ("srvtimeout", "server")];
            let name = name.iter().find(|(old, _)| *old == what).map(|(_, new)| (*new).to_owned());
            if let Some((name, time)) = name.zip(parse_time(word(1))) {
                proxy.timeouts.insert(name, time);
            }
        }
        "retries" => proxy.retries = word(1).parse().ok(),
        "maxconn" | "fullconn" => proxy.connections_max = word(1).parse().ok(),
        "stats" => draft.lose(at, line, "what is going on is shown by `nuncio upstreams` and the admin API, see [server.admin]"),
        "stick-table" | "stick" | "appsession" => {
            draft.lose(
                at,
                line,
                "`sticky` of the upstream keeps a client by a cookie, `balance = { hash = \"client_ip\" }` by its address",
            );
        }
        "tcp-request" | "tcp-response" => draft.lose(at, line, "`ip_allow`, `ip_deny` and `rate_limit` of HTTP routes come closest"),
        "errorfile" | "errorloc" | "errorloc302" | "errorloc303" => draft.lose(at, line, "answers of the proxy itself are short texts"),
        "compression" => draft.lose(at, line, "responses are not compressed: let the endpoints do it"),
        "source" => draft.lose(at, line, "connections to endpoints come from the address that the system chooses"),
        _ => draft.lose(at, line, "it has no counterpart"),
    }
}

fn set(table: &mut Option<Table>, key: &str, value: Value) {
    table.get_or_insert_default().insert(key.to_owned(), value);
}

fn http_check(proxy: &mut Proxy, at: &At, line: &str, words: &[String], draft: &mut Draft) {
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        ["send", options @ ..] => {
            let after = |name: &str| options.iter().skip_while(|word| **word != name).nth(1).copied();
            if let Some(uri) = after("uri") {
                set(&mut proxy.check, "http", uri.into());
            }
            let host = options.windows(3).find(|window| matches!(window, ["hdr", name, _] if name.eq_ignore_ascii_case("host")));
            if let Some([_, _, host]) = host {
                set(&mut proxy.check, "host", (*host).into());
            }
        }
        ["expect", "status", status] if status.parse::<u16>().is_ok() || status.split_once('-').is_some() => {
            set(&mut proxy.check, "status", (*status).into());
        }
        ["expect", "rstatus", regex] if matches!(*regex, "^2" | "^2.." | "2..") => set(&mut proxy.check, "status", "200-299".into()),
        ["connect", ..] => {}
        _ => draft.lose(at, line, "a check asks for a path and looks at the status"),
    }
}

fn http_rule(proxy: &mut Proxy, at: &At, line: &str, words: &[String], draft: &mut Draft) {
    let side = if words.first().is_some_and(|word| word == "http-request") { "request" } else { "response" };
    let rest: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let is_conditional = rest.iter().any(|word| matches!(*word, "if" | "unless"));
    match rest.as_slice() {
        ["redirect", ..] if side == "request" => proxy.redirects.push((at.clone(), words.iter().skip(2).cloned().collect())),
        ["set-header", "X-Forwarded-Proto" | "X-Forwarded-Port" | "X-Forwarded-For" | "X-Real-IP", ..] if side == "request" => {
            draft.note(at, line, "`X-Forwarded-For`, `-Proto`, `-Host` and `-Port` are always set, see `forwarded` of the listener");
        }
        [_, _, value, ..] if value.contains("%[") || value.contains('%') => {
            draft.lose(at, line, "values of header fields are fixed texts");
        }
        _ if is_conditional => draft.lose(at, line, "middlewares have no conditions: write a route for these requests"),
        [how @ ("set-header" | "add-header"), name, value] => {
            let key = if *how == "set-header" { "set" } else { "add" };
            let fields = proxy.headers.entry(side).or_default().entry(key).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(fields) = fields {
                fields.insert((*name).to_owned(), (*value).into());
            }
        }
        ["del-header", name] => {
            let names = proxy.headers.entry(side).or_default().entry("remove").or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(names) = names {
                names.push((*name).into());
            }
        }
        _ => draft.lose(at, line, "it has no counterpart among the middlewares"),
    }
}

/// `5s`, `50000` in milliseconds.
pub(super) fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let time = match unit {
        "us" => Duration::from_micros(number),
        "" | "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3_600)?),
        "d" => Duration::from_secs(number.checked_mul(86_400)?),
        _ => return None,
    };
    (!time.is_zero()).then_some(time)
}
