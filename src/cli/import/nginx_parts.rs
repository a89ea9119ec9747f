//! What is said in several blocks of nginx alike: servers of an upstream, times, access, header fields, redirects.

use std::time::Duration;

use nuncio::rule::Rule;
use toml::{Table, Value};

use super::draft::{At, Draft, duration, endpoint_value, inline, predicate};
use super::nginx_text::Directive;

/// Blocks from the outermost to the innermost, in which what is said further inside counts.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a>(pub(super) &'a [&'a [Directive]]);

impl<'a> Scope<'a> {
    pub(super) fn last(self, name: &str) -> Option<&'a Directive> {
        self.0.iter().rev().find_map(|block| block.iter().rev().find(|directive| directive.name == name))
    }

    /// All of the innermost block that has any.
    pub(super) fn all(self, name: &str) -> Vec<&'a Directive> {
        let of = |block: &&'a [Directive]| -> Vec<&'a Directive> { block.iter().filter(|directive| directive.name == name).collect() };
        self.0.iter().rev().map(of).find(|all| !all.is_empty()).unwrap_or_default()
    }
}

pub(super) fn with_port(authority: &str, port: u16) -> String {
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { authority.to_owned() } else { format!("{authority}:{port}") }
}

/// The endpoints of an `upstream` block, and how one is chosen.
pub(super) fn endpoints(upstream: &Directive, port: u16, draft: &mut Draft) -> (Vec<Value>, Option<Value>) {
    let mut endpoints: Vec<Value> = Vec::new();
    let mut balance = None;
    for directive in &upstream.block {
        match directive.name.as_str() {
            "server" => endpoints.extend(endpoint(directive, port, draft)),
            "least_conn" | "least_time" => balance = Some("least_request".into()),
            "ip_hash" => balance = Some(inline([("hash", "client_ip".into())])),
            "random" => balance = Some("random".into()),
            "hash" if matches!(directive.argument(0), "$remote_addr" | "$binary_remote_addr") => {
                balance = Some(inline([("hash", "client_ip".into())]))
            }
            "hash" => match directive
                .argument(0)
                .strip_prefix("$http_")
                .map(|name| ("header", name.replace('_', "-")))
                .or_else(|| directive.argument(0).strip_prefix("$cookie_").map(|name| ("cookie", name.to_owned())))
            {
                Some((kind, name)) => balance = Some(inline([("hash", inline([(kind, name.into())]))])),
                None => draft.lose(&directive.at, directive.text(), "a hash is of the client's address, a header field or a cookie"),
            },
            "sticky" if directive.argument(0) == "cookie" => {
                draft.lose(&directive.at, directive.text(), "write `sticky = { cookie = … }` of the upstream")
            }
            "keepalive" | "keepalive_timeout" | "keepalive_requests" | "zone" => {}
            _ => draft.lose(&directive.at, directive.text(), "it has no counterpart"),
        }
    }
    (endpoints, balance)
}

pub(super) fn endpoint(server: &Directive, port: u16, draft: &mut Draft) -> Option<Value> {
    let address = with_port(server.argument(0), port);
    if let Err(why) = nuncio::config::Endpoint::parse_address(&address) {
        draft.lose(&server.at, server.text(), why);
        return None;
    }
    let (mut weight, mut is_backup) = (1, false);
    for option in server.arguments.iter().skip(1) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("weight", value) => weight = value.parse::<i64>().unwrap_or(1).clamp(0, 1_000),
            ("down", _) => {
                draft.lose(&server.at, server.text(), "it is `down`, and left out");
                return None;
            }
            ("backup", _) => is_backup = true,
            ("max_fails" | "fail_timeout", _) => {
                draft.note(&server.at, server.text(), "endpoints are taken out by active checks: add `health` to the upstream")
            }
            ("resolve", _) => {}
            _ => draft.lose(&server.at, server.text(), format!("`{option}` has no counterpart")),
        }
    }
    Some(endpoint_value(&address, weight, is_backup))
}

/// Times of a listener.
pub(super) fn settings(fields: &mut Table, scope: Scope<'_>) {
    let mut timeouts = Table::new();
    for (theirs, ours) in [("keepalive_timeout", "client_idle"), ("client_header_timeout", "client_header")] {
        if let Some(time) = scope.last(theirs).and_then(|directive| parse_time(directive.argument(0))) {
            timeouts.insert(ours.into(), duration(time));
        }
    }
    if !timeouts.is_empty() {
        fields.entry("timeouts").or_insert_with(|| timeouts.into());
    }
}

/// Adds a server's certificate to the listener: the first is its default.
pub(super) fn tls(fields: &mut Table, certificate: Option<&str>, server: &Directive, scope: Scope<'_>) {
    let entry = fields.entry("tls").or_insert_with(|| Value::Table(Table::new()));
    let Value::Table(tls) = entry else { return };
    if let Some(certificate) = certificate {
        let all = tls.entry("certificates").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(all) = all
            && !all.iter().any(|name| name.as_str() == Some(certificate))
        {
            let is_default = server.all("listen").any(|listen| listen.arguments.iter().any(|word| word == "default_server"));
            all.insert(if is_default { 0 } else { all.len() }, certificate.into());
        }
    }
    if scope.last("ssl_protocols").is_some_and(|protocols| protocols.arguments == ["TLSv1.3"]) {
        tls.insert("min_version".into(), "1.3".into());
    }
}

/// Who is let in.
pub(super) enum Access {
    /// These networks. None: nobody.
    Only(Vec<String>),
    /// All but these networks. None: everybody.
    AllBut(Vec<String>),
    /// What no such list says, from here on.
    Mixed(At),
}

/// `allow` and `deny`, of which the first that fits counts. Whom none fits is let in.
pub(super) fn access(scope: Scope<'_>) -> Access {
    let is_rule = |directive: &&Directive| matches!(directive.name.as_str(), "allow" | "deny");
    let of_block = |block: &&'_ [Directive]| block.iter().filter(is_rule).cloned().collect::<Vec<_>>();
    let rules = scope.0.iter().rev().map(of_block).find(|rules| !rules.is_empty()).unwrap_or_default();
    let listed: Vec<&Directive> = rules.iter().take_while(|rule| rule.argument(0) != "all").collect();
    let denies_others = rules.get(listed.len()).is_some_and(|rule| rule.name == "deny");
    let of = |name: &str| listed.iter().filter(|rule| rule.name == name).map(|rule| rule.argument(0).to_owned()).collect::<Vec<_>>();
    let (allowed, denied) = (of("allow"), of("deny"));
    let is_network = |rule: &Directive| Rule::parse(&predicate("ClientIp", [rule.argument(0)])).is_ok();
    let strange = listed.iter().find(|rule| !is_network(rule) || (!allowed.is_empty() && !denied.is_empty()));
    match strange {
        Some(strange) => Access::Mixed(strange.at.clone()),
        None if denies_others => Access::Only(allowed),
        None => Access::AllBut(denied),
    }
}

/// The middleware that lets in who is let in. None: everybody is. Where that cannot be said, nobody is.
pub(super) fn guard(access: Access, draft: &mut Draft) -> Option<Value> {
    match access {
        Access::AllBut(denied) if denied.is_empty() => None,
        Access::AllBut(denied) => Some(inline([("ip_deny", denied.into())])),
        Access::Only(allowed) if allowed.is_empty() => Some(closed()),
        Access::Only(allowed) => Some(inline([("ip_allow", allowed.into())])),
        Access::Mixed(at) => {
            let why = "the route is closed to everybody until you write `ip_allow` or `ip_deny` in place of its `ip_deny`: lists of both do not mix";
            draft.lose(&at, "allow and deny", why);
            Some(closed())
        }
    }
}

/// Lets nobody in. A route that is left out would leave its requests to a wider one, which may be open.
pub(super) fn closed() -> Value {
    inline([("ip_deny", vec!["0.0.0.0/0", "::/0"].into())])
}

pub(super) fn body_limit(scope: Scope<'_>, draft: &mut Draft) -> Option<Value> {
    let limit = scope.last("client_max_body_size")?;
    let text = limit.argument(0).to_ascii_lowercase();
    let (digits, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))?;
    let number: u64 = digits.parse().ok()?;
    let unit = match unit {
        _ if number == 0 => return None,
        "" => "B",
        "k" => "KiB",
        "m" => "MiB",
        "g" => "GiB",
        _ => {
            draft.lose(&limit.at, limit.text(), "it is not a size");
            return None;
        }
    };
    Some(inline([("body_limit", format!("{number}{unit}").into())]))
}

/// Fixed header fields of requests and responses.
pub(super) fn headers(scope: Scope<'_>, draft: &mut Draft) -> Option<Value> {
    let mut sides = Table::new();
    let mut put = |side: &str, key: &str, name: &str, value: &str| {
        let changes = sides.entry(side).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(changes) = changes else { return };
        let fields =
            changes.entry(key).or_insert_with(|| if key == "remove" { Value::Array(Vec::new()) } else { Value::Table(Table::new()) });
        match fields {
            Value::Table(fields) => drop(fields.insert(name.into(), value.into())),
            Value::Array(names) => names.push(name.into()),
            _ => {}
        }
    };
    for header in scope.all("proxy_set_header") {
        let (name, value) = (header.argument(0), header.argument(1));
        match name.to_ascii_lowercase().as_str() {
            "host" | "connection" | "upgrade" | "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "x-forwarded-port" => {}
            "x-real-ip" => draft.note(&header.at, header.text(), "endpoints learn the client's address from X-Forwarded-For"),
            _ if value.is_empty() => put("request", "remove", name, ""),
            _ if value.contains('$') => draft.lose(&header.at, header.text(), "values of header fields are fixed texts"),
            _ => put("request", "set", name, value),
        }
    }
    for header in scope.all("add_header") {
        if header.argument(1).contains('$') {
            draft.lose(&header.at, header.text(), "values of header fields are fixed texts");
        } else {
            put("response", "add", header.argument(0), header.argument(1));
        }
    }
    (!sides.is_empty()).then(|| inline([("headers", sides.into())]))
}

/// `return 301 https://$host$request_uri` → the fields of our `redirect`.
pub(super) fn redirect(answer: &Directive, label: &str) -> Result<Value, String> {
    let (status, to) = match (answer.argument(0).parse::<i64>(), answer.argument(1)) {
        (Ok(status @ (301 | 302 | 307 | 308)), to) if !to.is_empty() => (status, to),
        (Ok(303), to) if !to.is_empty() => (302, to),
        (Err(_), "") => (302, answer.argument(0)),
        _ => return Err("only redirects have a counterpart: let an endpoint answer".into()),
    };
    let variables = [
        ("$request_uri", "${path}${query}"),
        ("$is_args$args", "${query}"),
        ("$http_host", "${authority}"),
        ("$scheme", "${scheme}"),
        ("$server_name", label),
        ("$host", "${host}"),
        ("$uri", "${path}"),
    ];
    let mut ours = to.replace("${", "$").replace('}', "");
    for (index, (theirs, _)) in variables.iter().enumerate() {
        ours = ours.replace(theirs, &format!("\u{1}{index}\u{1}"));
    }
    if ours.contains('$') {
        return Err("a variable in the target has no counterpart: write a `redirect` middleware".into());
    }
    for (index, (_, value)) in variables.iter().enumerate() {
        ours = ours.replace(&format!("\u{1}{index}\u{1}"), value);
    }
    let to = if ours.starts_with('/') { format!("${{scheme}}://${{authority}}{ours}") } else { ours };
    Ok(inline([("status", status.into()), ("to", to.into())]))
}

/// `60s`, `60`, `5m`, `100ms`, `1h`.
pub(super) fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis).filter(|time| !time.is_zero())
}
