//! Tags of fabio → routes: `urlprefix-HOST/PATH OPTION=VALUE …`.
//!
//! | option | |
//! |---|---|
//! | `strip=/v1`, `prepend=/v1` | taken off the path, put in front of it |
//! | `proto=http`, `https` | what is spoken to the instance |
//! | `proto=tcp`, of `urlprefix-:3306` | connections to the TCP listener called `tcp-3306` |
//! | `allow=ip:10.0.0.0/8,ip:…`, `deny=…` | whose requests are taken |
//! | `redirect=301,https://…`, `auth=…` | not read: there is no route then |
//! | others | not read, and reported |
//!
//! A path is a prefix by whole segments: fabio's `/v1` takes `/v10` too, ours does not.

use serde_json::{Value, json};

use super::tags::Tagged;
use crate::config::Problem;
use crate::config::providers::clean_name;
use crate::rule::Rule;

/// What its tags start with.
pub(super) const PREFIX: &str = "urlprefix-";

/// Reads a tag of an instance whose upstream is `upstream`.
pub(super) fn read(upstream: &str, tag: &str, tagged: &mut Tagged) {
    let mut words = tag.strip_prefix(PREFIX).unwrap_or(tag).split_whitespace();
    let source = words.next().unwrap_or_default();
    let mut wanted = Wanted::default();
    for option in words {
        match wanted.option(option) {
            Ok(None) => {}
            Ok(Some(warning)) => tagged.complain(tag, Problem::warning(warning).effect("the option is ignored")),
            Err(error) => return tagged.complain(tag, Problem::error(error).effect("there is no such route")),
        }
    }
    let object = if wanted.is_tcp { tcp_route(upstream, source) } else { wanted.route(upstream, source) };
    match object {
        Ok((key, value)) => {
            if wanted.speaks_tls {
                tagged.of_upstream(upstream, "tls", "{}", tag);
            }
            tagged.say(key, tag, value);
        }
        Err(error) => tagged.complain(tag, Problem::error(error).effect("there is no such route")),
    }
}

/// What options ask for.
#[derive(Default)]
struct Wanted {
    is_tcp: bool,
    speaks_tls: bool,
    middlewares: Vec<Value>,
}

impl Wanted {
    /// Takes over an option. A warning if it is not read; an error if the route is another one without it.
    fn option(&mut self, option: &str) -> Result<Option<String>, String> {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match (key, value) {
            ("strip", path) => self.middlewares.push(json!({ "strip_prefix": path })),
            ("prepend", path) => self.middlewares.push(json!({ "add_prefix": path })),
            ("allow", list) => self.middlewares.insert(0, json!({ "ip_allow": networks(list)? })),
            ("deny", list) => self.middlewares.insert(0, json!({ "ip_deny": networks(list)? })),
            ("proto", "http") => {}
            ("proto", "https") => self.speaks_tls = true,
            ("proto", "tcp") => self.is_tcp = true,
            ("proto" | "redirect" | "auth", _) => return Err(format!("`{option}` is not known here")),
            _ => return Ok(Some(format!("`{option}` is not known here"))),
        }
        Ok(None)
    }

    /// The route of requests to `source`, a host and a path of which one may be missing.
    fn route(&self, upstream: &str, source: &str) -> Result<(String, Value), String> {
        let (host, path) = source.find('/').map_or((source, ""), |at| source.split_at(at));
        if host.is_empty() && path.is_empty() {
            return Err("it says neither a host nor a path".into());
        }
        let host_rule = (!host.is_empty()).then(|| format!("Host({})", Value::from(host)));
        // With a host, everything below its root needs no more words.
        let path_rule = (host.is_empty() || path.len() > 1).then(|| format!("PathPrefix({})", Value::from(path)));
        let rule = host_rule.into_iter().chain(path_rule).collect::<Vec<_>>().join(" && ");
        Rule::parse(&rule).map_err(|error| error.message)?;
        let mut route = json!({ "match": rule, "upstream": upstream });
        if let (Some(route), false) = (route.as_object_mut(), self.middlewares.is_empty()) {
            route.insert("middlewares".into(), self.middlewares.clone().into());
        }
        Ok((key("routes", upstream, source)?, route))
    }
}

/// The route of connections to `:PORT`.
fn tcp_route(upstream: &str, source: &str) -> Result<(String, Value), String> {
    let port = source.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("a TCP route is of a port, `{PREFIX}:3306 proto=tcp`, not of `{source}`"))?;
    Ok((key("tcp_routes", upstream, source)?, json!({ "listener": format!("tcp-{port}"), "upstream": upstream })))
}

/// Each source makes a route of its own, of a name that does not depend on the other tags.
fn key(section: &str, upstream: &str, source: &str) -> Result<String, String> {
    clean_name(&format!("{upstream}@{source}")).map(|name| format!("/{section}/{name}"))
}

/// `ip:10.0.0.0/8,ip:10.1.2.3`
fn networks(list: &str) -> Result<Vec<&str>, String> {
    let network = |item| str::strip_prefix(item, "ip:").ok_or_else(|| format!("`{item}` is not of the form `ip:10.0.0.0/8`"));
    list.split(',').map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tag: &str, objects: &[&str], problems: &[&str]) {
        let mut tagged = Tagged::default();
        read("web", tag, &mut tagged);
        let said: Vec<_> = tagged.objects.iter().map(|object| format!("{} {}", object.key, object.value)).collect();
        assert_eq!(said, objects, "{tag}: {:?}", tagged.problems);
        assert_eq!(tagged.problems.len(), problems.len(), "{tag}: {:?}", tagged.problems);
        for ((_, problem), expected) in tagged.problems.iter().zip(problems) {
            assert!(problem.message.contains(expected), "{tag}: {}", problem.message);
        }
    }

    #[test]
    fn prefixes_are_routes() {
        check("urlprefix-a.test/", &[r#"/routes/web@a.test%2F {"match":"Host(\"a.test\")","upstream":"web"}"#], &[]);
        check("urlprefix-/v1", &[r#"/routes/web@%2Fv1 {"match":"PathPrefix(\"/v1\")","upstream":"web"}"#], &[]);
        check("urlprefix-/", &[r#"/routes/web@%2F {"match":"PathPrefix(\"/\")","upstream":"web"}"#], &[]);
        check(
            "urlprefix-*.a.test/v1 strip=/v1 weight=0.2 allow=ip:10.0.0.0/8,ip:::1",
            &[
                r#"/routes/web@*.a.test%2Fv1 {"match":"Host(\"*.a.test\") && PathPrefix(\"/v1\")","middlewares":[{"ip_allow":["10.0.0.0/8","::1"]},{"strip_prefix":"/v1"}],"upstream":"web"}"#,
            ],
            &["`weight=0.2` is not known"],
        );
        check("urlprefix-:3306 proto=tcp", &[r#"/tcp_routes/web@:3306 {"listener":"tcp-3306","upstream":"web"}"#], &[]);
    }

    #[test]
    fn what_would_be_another_route_is_none() {
        check("urlprefix-a.test/ auth=mine", &[], &["`auth=mine` is not known"]);
        check("urlprefix-a.test/ redirect=301,https://b.test", &[], &["`redirect=301"]);
        check("urlprefix-a.test/ allow=10.0.0.0/8", &[], &["`ip:10.0.0.0/8`"]);
        check("urlprefix-a.test/ proto=grpc", &[], &["`proto=grpc`"]);
        check("urlprefix-", &[], &["neither a host nor a path"]);
        check("urlprefix-:99999 proto=tcp", &[], &["a TCP route is of a port"]);
        check("urlprefix-a\"b/", &[], &[""]);
    }

    #[test]
    fn tls_is_of_the_upstream() {
        let mut tagged = Tagged::default();
        read("web", "urlprefix-/ proto=https", &mut tagged);
        assert_eq!(tagged.labels.get("nuncio.upstreams.web.tls").map(String::as_str), Some("{}"));
    }
}
