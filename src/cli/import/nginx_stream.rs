//! The `stream` block of nginx → TCP listeners, routes and upstreams.

use toml::{Table, Value};

use super::draft::{Draft, Section, duration, inline, listen_address, predicate, table};
use super::nginx::report;
use super::nginx_parts::{Access, Scope, access, endpoints, parse_time};
use super::nginx_text::Directive;

/// TCP: each server a listener with one upstream.
pub(super) fn put_stream(stream: &Directive, draft: &mut Draft) {
    report(&stream.block, draft);
    for server in stream.all("server") {
        report(&server.block, draft);
        let (Some(pass), listens) = (server.last("proxy_pass"), server.all("listen").collect::<Vec<_>>()) else {
            draft.lose(&server.at, "server", "it has no `proxy_pass`");
            continue;
        };
        let clients = match clients(access(Scope(&[&stream.block, &server.block]))) {
            Ok(clients) => clients,
            Err(why) => {
                draft.lose(&server.at, server.text(), why);
                continue;
            }
        };
        if pass.argument(0).contains('$') {
            draft.lose(&pass.at, pass.text(), "variables say where to: give each upstream a listener");
            continue;
        }
        let upstream = stream.all("upstream").find(|upstream| upstream.argument(0) == pass.argument(0));
        let mut fields = Table::new();
        match upstream {
            Some(upstream) => {
                let (endpoints, balance) = endpoints(upstream, 0, draft);
                fields.insert("endpoints".into(), endpoints.into());
                fields.extend(balance.map(|balance| ("balance".to_owned(), balance)));
            }
            None => drop(fields.insert("endpoints".into(), vec![Value::from(pass.argument(0))].into())),
        }
        if let Some(time) = server.last("proxy_connect_timeout").and_then(|time| parse_time(time.argument(0))) {
            fields.insert("timeouts".into(), inline([("connect", duration(time))]));
        }
        if server.last("proxy_protocol").is_some_and(|setting| setting.argument(0) == "on") {
            fields.insert("proxy_protocol".into(), "v1".into());
        }
        let name = draft.add(Section::Upstreams, pass.argument(0), &pass.at, &pass.text(), fields);
        for listen in listens {
            let is_plain = !listen.arguments.iter().any(|word| matches!(word.as_str(), "udp" | "ssl" | "proxy_protocol"));
            let Some(address) = listen_address(listen.argument(0)).filter(|_| is_plain) else {
                draft.lose(&listen.at, listen.text(), "only TCP on an IP address and one port has a counterpart");
                continue;
            };
            let port = address.rsplit(':').next().unwrap_or_default();
            let fields = table([("address", address.as_str().into()), ("protocol", "tcp".into())]);
            let listener = draft.add(Section::Listeners, &format!("tcp-{port}"), &listen.at, &listen.text(), fields);
            let mut route = table([("listener", listener.as_str().into()), ("upstream", name.as_str().into())]);
            route.extend(clients.iter().map(|rule| ("match".to_owned(), rule.as_str().into())));
            if let Some(time) = server.last("proxy_timeout").and_then(|time| parse_time(time.argument(0))) {
                route.insert("idle_timeout".into(), duration(time));
            }
            draft.add(Section::TcpRoutes, &listener, &pass.at, &pass.text(), route);
        }
    }
}

/// The rule of the clients that are let in. None: all of them.
fn clients(access: Access) -> Result<Option<String>, &'static str> {
    let of = |networks: &[String]| predicate("ClientIp", networks.iter().map(String::as_str));
    match access {
        Access::AllBut(denied) if denied.is_empty() => Ok(None),
        Access::AllBut(denied) => Ok(Some(format!("!{}", of(&denied)))),
        Access::Only(allowed) if allowed.is_empty() => Err("it lets nobody in, and is left out"),
        Access::Only(allowed) => Ok(Some(of(&allowed))),
        Access::Mixed(_) => {
            Err("its lists of `allow` and `deny` mix, and it is left out: write a TCP route with `ClientIp` in its `match`")
        }
    }
}
