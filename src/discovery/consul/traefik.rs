//! Tags of traefik → routes and settings. The common part of them: the rest is reported, and a route that would be less guarded without
//! it gets no requests.
//!
//! | tag, after `traefik.` | |
//! |---|---|
//! | `enable=false` | all others are ignored |
//! | `http.routers.R.rule`, `frontend.rule` (traefik 1) | the rule of a route |
//! | `http.routers.R.entrypoints`, `frontend.entryPoints` | its listeners, by their names |
//! | `http.routers.R.middlewares` | its middlewares, by their names without `@…`. One that is missing closes the route |
//! | `http.routers.R.priority`, `.service` | its priority; its upstream, if that is not one of this service |
//! | `http.services.S.loadbalancer.server.port`, `port` | `nuncio.port` |
//! | `http.services.S.loadbalancer.server.scheme`, `protocol` | `https`: TLS to the instances |
//! | `http.services.S.loadbalancer.healthcheck.path`, `.sticky.cookie.name`, `weight` | of the upstream |
//! | `http.middlewares.M.stripprefix.prefixes`, `addprefix.prefix`, `redirectscheme.scheme`, `ipallowlist.sourcerange`, `ipwhitelist.sourcerange` | a middleware |
//!
//! Rules are those of traefik 2 and 3. A prefix is one by whole segments: traefik's `/v1` takes `/v10` too, ours does not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::tags::Tagged;
use crate::config::Problem;
use crate::config::providers::clean_name;
use crate::rule::Rule;

/// What its tags start with.
pub(super) const PREFIX: &str = "traefik.";

/// What is said of one router.
#[derive(Default)]
struct Router<'a> {
    rule: Option<(&'a str, &'a str)>,
    listeners: Vec<&'a str>,
    middlewares: Vec<&'a str>,
    priority: Option<i64>,
    service: Option<&'a str>,
}

/// Reads the tags of an instance whose upstream is `upstream`.
pub(super) fn read<'a>(upstream: &str, tags: impl Iterator<Item = &'a str> + Clone, tagged: &mut Tagged) {
    if tags.clone().any(|tag| tag.eq_ignore_ascii_case("traefik.enable=false")) {
        return;
    }
    let mut routers: BTreeMap<&str, Router<'_>> = BTreeMap::new();
    let mut services = BTreeSet::new();
    for tag in tags {
        let (path, value) = tag.strip_prefix(PREFIX).unwrap_or(tag).split_once('=').unwrap_or((tag, ""));
        let words: Vec<&str> = path.split('.').collect();
        let is_read = match words.as_slice() {
            [] | ["enable"] => true,
            ["http", "routers", router, fields @ ..] => routers.entry(router).or_default().field(fields, tag, value),
            ["http", "services", service, fields @ ..] => {
                services.insert(*service);
                setting(upstream, fields, tag, value, tagged)
            }
            ["http", "middlewares", name, fields @ ..] => middleware(name, fields, tag, value, tagged),
            ["frontend", "rule"] => {
                routers.entry("frontend").or_default().rule = Some((tag, value));
                true
            }
            ["frontend", "entryPoints"] => routers.entry("frontend").or_default().field(&["entrypoints"], tag, value),
            ["frontend", "priority"] => routers.entry("frontend").or_default().field(&["priority"], tag, value),
            ["port"] => setting(upstream, &["loadbalancer", "server", "port"], tag, value, tagged),
            ["protocol"] => setting(upstream, &["loadbalancer", "server", "scheme"], tag, value, tagged),
            ["weight"] => tagged.own("weight", value),
            _ => false,
        };
        if !is_read {
            tagged.complain(tag, Problem::warning("the tag is not known here").effect("it is ignored"));
        }
    }
    for (name, router) in routers {
        router.say(name, upstream, &services, tagged);
    }
}

impl<'a> Router<'a> {
    /// Takes over a field. Whether it is one that is read.
    fn field(&mut self, fields: &[&str], tag: &'a str, value: &'a str) -> bool {
        let names = || value.split(',').map(str::trim).filter(|name| !name.is_empty()).map(without_provider).collect();
        match fields.iter().map(|field| field.to_ascii_lowercase()).collect::<Vec<_>>().join(".").as_str() {
            "rule" => self.rule = Some((tag, value)),
            "entrypoints" => self.listeners = names(),
            "middlewares" => self.middlewares = names(),
            "priority" => {
                self.priority = value.trim().parse().ok();
                return self.priority.is_some();
            }
            "service" => self.service = Some(without_provider(value.trim())),
            // Which listener speaks TLS, and by which certificate, is not for a service to say.
            "tls" => {}
            _ => return false,
        }
        true
    }

    fn say(self, name: &str, upstream: &str, own: &BTreeSet<&str>, tagged: &mut Tagged) {
        let Some((tag, text)) = self.rule else { return };
        let effect = "there is no such route";
        let rule = match if tag.starts_with("traefik.frontend.") { rule_of_1(text) } else { rule(text) } {
            Ok(rule) => rule,
            Err(error) => return tagged.complain(tag, Problem::error(error).effect(effect)),
        };
        let name = if name == "frontend" && tag.starts_with("traefik.frontend.") { upstream } else { name };
        let name = match clean_name(name) {
            Ok(name) => name,
            Err(error) => return tagged.complain(tag, Problem::error(error).effect(effect)),
        };
        let upstream = self.service.filter(|service| !own.contains(service)).unwrap_or(upstream);
        let mut route = Map::from_iter([("match".to_owned(), rule.into()), ("upstream".to_owned(), upstream.into())]);
        if !self.listeners.is_empty() {
            route.insert("listeners".into(), self.listeners.into());
        }
        if !self.middlewares.is_empty() {
            route.insert("middlewares".into(), self.middlewares.into());
        }
        route.extend(self.priority.map(|priority| ("priority".to_owned(), priority.into())));
        tagged.say(format!("/routes/{name}"), tag, route.into());
    }
}

/// `auth@file` is `auth`: names here are the same whoever provides it.
fn without_provider(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// Takes over a setting of the upstream. Whether it is one that is read.
fn setting(upstream: &str, fields: &[&str], tag: &str, value: &str, tagged: &mut Tagged) -> bool {
    match fields.iter().map(|field| field.to_ascii_lowercase()).collect::<Vec<_>>().join(".").as_str() {
        "loadbalancer.server.port" => tagged.own("port", value),
        "loadbalancer.server.scheme" => match value {
            "http" => true,
            "https" => tagged.of_upstream(upstream, "tls", "{}", tag),
            _ => false,
        },
        "loadbalancer.healthcheck.path" => tagged.of_upstream(upstream, "health.http", value, tag),
        "loadbalancer.sticky.cookie.name" => tagged.of_upstream(upstream, "sticky.cookie", value, tag),
        "loadbalancer.passhostheader" => value == "true",
        _ => false,
    }
}

/// Takes over a field of a middleware. Whether it is one that is read.
fn middleware(name: &str, fields: &[&str], tag: &str, value: &str, tagged: &mut Tagged) -> bool {
    let Ok(name) = clean_name(name) else { return false };
    let list: Vec<&str> = value.split(',').map(str::trim).collect();
    let what = match fields.iter().map(|field| field.to_ascii_lowercase()).collect::<Vec<_>>().join(".").as_str() {
        "stripprefix.prefixes" if list.len() == 1 => json!({ "strip_prefix": value.trim() }),
        "addprefix.prefix" => json!({ "add_prefix": value.trim() }),
        "redirectscheme.scheme" if value == "https" => json!({ "redirect_https": true }),
        // It always is, unless it says another status.
        "redirectscheme.permanent" => return value == "true",
        "ipallowlist.sourcerange" | "ipwhitelist.sourcerange" => json!({ "ip_allow": list }),
        _ => return false,
    };
    tagged.say(format!("/middlewares/{name}"), tag, what);
    true
}

/// Our form of a rule of traefik 2 or 3.
fn rule(text: &str) -> Result<String, String> {
    let mut ours = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.chars().next() {
        let end = match start {
            // A string, with its quotes.
            '`' => rest.get(1..).and_then(|inside| inside.find('`')).map_or(rest.len(), |at| at + 2),
            c if c.is_ascii_alphabetic() => rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (piece, after) = rest.split_at(end);
        ours.push_str(match piece {
            "Headers" => "Header",
            "HeadersRegexp" => "HeaderRegexp",
            "ClientIP" => "ClientIp",
            "Query" if after.trim_start_matches('(').split(')').next().is_some_and(|inside| inside.contains('=')) => {
                return Err("`Query` of traefik 2 is not known here: write Query(`key`, `value`)".into());
            }
            string if string.starts_with('`') && string.contains('{') => {
                return Err(format!("the placeholder in {string} is not known here: write a regular expression"));
            }
            piece => piece,
        });
        rest = after;
    }
    Rule::parse(&ours).map(|_| ours).map_err(|error| error.message)
}

/// Our form of a rule of traefik 1: `Host:a.test,b.test;PathPrefix:/v1`.
fn rule_of_1(text: &str) -> Result<String, String> {
    let predicate = |part: &str| {
        let (name, values) = part.split_once(':').ok_or_else(|| format!("`{part}` is not of the form `Host:a.test`"))?;
        let name = match name.trim() {
            name @ ("Host" | "Path" | "PathPrefix" | "Method") => name,
            // It also takes the prefix off the path, which is a middleware here.
            name => return Err(format!("`{name}` of traefik 1 is not known here")),
        };
        if values.contains('{') {
            return Err(format!("the placeholder in `{part}` is not known here"));
        }
        let values: Vec<String> = values.split(',').map(|value| Value::from(value.trim()).to_string()).collect();
        Ok(format!("{name}({})", values.join(", ")))
    };
    let ours = text.split(';').map(str::trim).filter(|part| !part.is_empty()).map(predicate).collect::<Result<Vec<_>, _>>()?.join(" && ");
    Rule::parse(&ours).map(|_| ours).map_err(|error| error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tags: &[&str], said: &[&str], problems: &[&str]) {
        let mut tagged = Tagged::default();
        read("web", tags.iter().copied(), &mut tagged);
        let labels = tagged.labels.iter().map(|(label, value)| format!("{label}={value}"));
        let objects = tagged.objects.iter().map(|object| format!("{} {}", object.key, object.value));
        assert_eq!(labels.chain(objects).collect::<Vec<_>>(), said, "{tags:?}: {:?}", tagged.problems);
        assert_eq!(tagged.problems.len(), problems.len(), "{tags:?}: {:?}", tagged.problems);
        for ((tag, problem), expected) in tagged.problems.iter().zip(problems) {
            assert!(format!("{tag}: {}", problem.message).contains(expected), "{tag}: {}", problem.message);
        }
    }

    #[test]
    fn routers_are_routes() {
        check(
            &[
                "traefik.enable=true",
                "traefik.http.routers.r.rule=Host(`a.test`) && (PathPrefix(`/v1`) || Headers(`X-A`, `1`))",
                "traefik.http.routers.r.entryPoints=web, websecure",
                "traefik.http.routers.r.middlewares=strip@consulcatalog,auth@file",
                "traefik.http.routers.r.priority=7",
                "traefik.http.routers.r.service=s",
                "traefik.http.routers.r.tls=true",
                "traefik.http.services.s.loadbalancer.server.port=8080",
                "traefik.http.services.s.loadbalancer.server.scheme=https",
                "traefik.http.services.s.loadbalancer.sticky.cookie.name=id",
                "traefik.http.middlewares.strip.stripprefix.prefixes=/v1",
            ],
            &[
                "nuncio.port=8080",
                "nuncio.upstreams.web.sticky.cookie=id",
                "nuncio.upstreams.web.tls={}",
                r#"/middlewares/strip {"strip_prefix":"/v1"}"#,
                r#"/routes/r {"listeners":["web","websecure"],"match":"Host(`a.test`) && (PathPrefix(`/v1`) || Header(`X-A`, `1`))","middlewares":["strip","auth"],"priority":7,"upstream":"web"}"#,
            ],
            &[],
        );
        check(
            &["traefik.http.routers.r.rule=Host(`a`)", "traefik.http.routers.r.service=other@file"],
            &[r#"/routes/r {"match":"Host(`a`)","upstream":"other"}"#],
            &[],
        );
    }

    #[test]
    fn traefik_1_is_read() {
        check(
            &[
                "traefik.frontend.rule=Host:a.test, b.test;PathPrefix:/v1",
                "traefik.frontend.entryPoints=http",
                "traefik.port=80",
                "traefik.weight=3",
            ],
            &[
                "nuncio.port=80",
                "nuncio.weight=3",
                r#"/routes/web {"listeners":["http"],"match":"Host(\"a.test\", \"b.test\") && PathPrefix(\"/v1\")","upstream":"web"}"#,
            ],
            &[],
        );
    }

    #[test]
    fn what_is_not_known_is_told_and_what_is_disabled_is_not_read() {
        check(&["traefik.enable=false", "traefik.http.routers.r.rule=Host(`a`)"], &[], &[]);
        check(&["traefik.tcp.routers.r.rule=HostSNI(`*`)"], &[], &["traefik.tcp.routers.r.rule=HostSNI(`*`): the tag is not known"]);
        check(&["traefik.http.routers.r.rule=HostRegexp(`{s:.+}.a`)"], &[], &["the placeholder in"]);
        check(&["traefik.http.routers.r.rule=Query(`a=b`)"], &[], &["Query(`key`, `value`)"]);
        check(&["traefik.http.routers.r.rule=Hots(`a`)"], &[], &["Hots"]);
        check(&["traefik.http.routers.r.rule=Host(`a"], &[], &["rule"]);
        check(&["traefik.frontend.rule=PathPrefixStrip:/v1"], &[], &["`PathPrefixStrip` of traefik 1"]);
        check(&["traefik.http.middlewares.m.basicauth.users=a:b"], &[], &["basicauth"]);
    }
}
