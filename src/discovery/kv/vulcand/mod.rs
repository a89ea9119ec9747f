//! The layout of vulcand: where a key belongs, and what its value says.
//!
//! | key, after the prefix | becomes |
//! |---|---|
//! | `frontends/ID/frontend` | a route: [`frontend`] |
//! | `frontends/ID/middlewares/ID` | nothing yet; a route with one is closed, see below |
//! | `backends/ID/backend`, `backends/ID/servers/ID` | an upstream and its endpoints: [`backend`] |
//! | `listeners/ID` | a listener: [`listener`] |
//! | `hosts/NAME/host` | nothing; a sealed key pair in it is a problem |
//! | `autocert_cache/…` | nothing |
//!
//! Middlewares are not carried over. A frontend that has one is **closed**: its route is there and answers 503, because to serve it without
//! its limits, its rewriting or its authentication could let through what should not be. Only `trace` is left out with a warning: it
//! changes no request.
//!
//! Of two routes that take a request, the functions that their expressions begin with decide as in vulcand, where texts are compared:
//! `PathRegexp` before `Path`, then `Method`, `HostRegexp`, `Host`, `HeaderRegexp`, `Header`. Beyond that it is our order, by
//! specificity, not the order of the texts.

use serde_json::Value;

use super::json::{Fields, whole_number};
use super::strays::Stray;
use crate::config::providers::clean_name;
use crate::config::{Certificate, Problem};
use crate::names::Name;

pub(super) mod backend;
pub(super) mod expression;
pub(super) mod frontend;
mod go_string;
pub(super) mod listener;
mod pattern;

/// What a key is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Located {
    Listener(Name),
    Host(Name),
    Backend(Name),
    Server {
        backend: Name,
        id: Name,
    },
    Frontend(Name),
    Middleware {
        frontend: Name,
        id: Name,
    },
    /// Of no concern to a proxy that reads.
    Nothing,
}

/// Where the key `{prefix}{path}` belongs.
pub(super) fn locate(prefix: &str, path: &str) -> Result<Located, Stray> {
    let name = |text: &str| clean_name(text).map_err(Stray::new);
    let segments: Vec<&str> = path.splitn(5, '/').collect();
    Ok(match *segments.as_slice() {
        ["listeners", id] => Located::Listener(name(id)?),
        ["hosts", id, "host"] => Located::Host(name(id)?),
        ["backends", id, "backend"] => Located::Backend(name(id)?),
        ["backends", backend, "servers", id] => Located::Server { backend: name(backend)?, id: name(id)? },
        ["frontends", id, "frontend"] => Located::Frontend(name(id)?),
        ["frontends", frontend, "middlewares", id] => Located::Middleware { frontend: name(frontend)?, id: name(id)? },
        ["autocert_cache", ..] => Located::Nothing,
        [folder @ ("hosts" | "backends" | "frontends"), id] => {
            let leaf = folder.trim_end_matches('s');
            return Err(Stray::new("the key belongs to no object of vulcand").help(format!("did you mean `{prefix}{folder}/{id}/{leaf}`?")));
        }
        _ => {
            let help = concat!(
                "vulcand's keys are hosts/NAME/host, listeners/ID, backends/ID/backend, backends/ID/servers/ID, ",
                "frontends/ID/frontend, frontends/ID/middlewares/ID"
            );
            return Err(Stray::new("the key belongs to no object of vulcand").help(help.to_owned()));
        }
    })
}

/// The name of the shared middleware that stands for one of a frontend: none that exists, so that the route is closed.
pub(super) fn middleware_name(frontend: &Name, id: &Name) -> Name {
    // The first `@` parts them: two middlewares never share a name. One that is too long has no place of its own, and closes as well.
    let name = format!("{}@{id}", frontend.as_str().replace('@', "%40"));
    Name::new(name).unwrap_or_else(|_| Name::literal("%unnamed"))
}

/// What is said of a middleware.
///
/// # Errors
/// The problem that stands in its place. `Ok`: it is left out, with this warning.
pub(super) fn middleware(value: &[u8]) -> Result<Problem, Problem> {
    let value = object(value)?;
    let kind = Fields(&value).text("Type").unwrap_or_default().to_owned();
    if kind == "trace" {
        return Ok(Problem::warning("vulcand's middleware `trace` is not carried over").effect("the frontend is served without it"));
    }
    Err(Problem::error(format!("vulcand's middleware `{}` is not carried over", kind.chars().take(40).collect::<String>()))
        .help("delete it, and write the route with middlewares of Nuncio in a file or under another prefix")
        .effect("the frontend answers 503: without the middleware it might let through what it should not"))
}

/// The certificate of a host: none, or one that cannot be had.
pub(super) fn certificate(value: &[u8]) -> Result<Option<Certificate>, Problem> {
    let value = object(value)?;
    let settings = Fields(&value).get("Settings").and_then(Value::as_object);
    if settings.is_none_or(|settings| Fields(settings).get("KeyPair").is_none()) {
        return Ok(None);
    }
    Err(Problem::error("the host's key pair is sealed, and is not carried over").help("write the certificate into a file"))
}

/// A value as an object. An empty one is none.
fn object(value: &[u8]) -> Result<serde_json::Map<String, Value>, Problem> {
    if value.len() > super::VALUE_BYTES_MAX {
        return Err(Problem::error(format!("a value has at most {} bytes, this one has {}", super::VALUE_BYTES_MAX, value.len())));
    }
    match serde_json::from_slice(value) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Problem::error("the value is not a JSON object")),
        Err(error) => Err(Problem::error(format!("the value is not JSON: {error}"))),
    }
}

/// A field that is an object; one that is absent has no fields.
fn section<'a>(fields: &Fields<'a>, name: &str) -> Result<Fields<'a>, Problem> {
    match fields.get(name) {
        None => Ok(Fields(super::json::none())),
        Some(Value::Object(map)) => Ok(Fields(map)),
        Some(_) => Err(Problem::error(format!("`{name}` is not an object"))),
    }
}

/// A field that is a string; one that is absent is empty.
fn text<'a>(fields: &Fields<'a>, name: &str) -> Result<&'a str, Problem> {
    match fields.get(name) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Problem::error(format!("`{name}` is not a string"))),
    }
}

/// A field that is `true` or `false`; one that is absent is `false`.
fn flag(fields: &Fields<'_>, name: &str) -> Result<bool, Problem> {
    match fields.get(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(Problem::error(format!("`{name}` is neither true nor false"))),
    }
}

/// A field that is a whole number and not negative; one that is absent is 0.
fn number(fields: &Fields<'_>, name: &str) -> Result<u64, Problem> {
    match fields.get(name) {
        None => Ok(0),
        Some(value) => whole_number(value).ok_or_else(|| Problem::error(format!("`{name}` is not a whole number from 0 on"))),
    }
}

/// That `Type` is `http`, which it must be.
fn is_http(fields: &Fields<'_>) -> Result<(), Problem> {
    match text(fields, "Type")? {
        "http" => Ok(()),
        other => Err(Problem::error(format!("`Type` is {other:?}: vulcand knows \"http\" alone"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{check_incremental_is_whole, snapshot};
    use super::super::{Pair, Tree};
    use super::*;
    use crate::config::providers::{Layout, LayoutKind};
    use crate::config::upstream::HostHeader;
    use crate::config::{MiddlewareRef, Snapshot};

    fn tree() -> Tree {
        Tree::with_layout("/vulcand", Name::literal("etcd"), Layout { kind: LayoutKind::Vulcand, route: None })
    }

    fn put(tree: &mut Tree, key: &str, value: &str) -> bool {
        let key = format!("/vulcand/{key}");
        tree.put(Pair { key: key.as_bytes(), value: value.as_bytes(), revision: 1 })
    }

    fn delete(tree: &mut Tree, key: &str) -> bool {
        tree.delete(format!("/vulcand/{key}").as_bytes())
    }

    const FRONTEND: &str = r#"{"Route":"Path(`/`)","Type":"http","BackendId":"b1"}"#;
    const PASSING: &str = r#"{"Route":"Path(`/`)","Type":"http","BackendId":"b1","Settings":{"PassHostHeader":true}}"#;

    #[test]
    fn the_manuals_example_is_a_route_to_an_upstream() {
        let mut tree = tree();
        assert!(put(&mut tree, "backends/b1/backend", "{\"Type\": \"http\"}\n"));
        assert!(put(&mut tree, "backends/b1/servers/srv1", "{\"URL\": \"http://10.0.0.1:5000\"}\n"));
        assert!(put(&mut tree, "frontends/f1/frontend", FRONTEND));
        assert!(put(&mut tree, "listeners/l1", r#"{"Protocol":"http","Address":{"Network":"tcp","Address":"0.0.0.0:8181"}}"#));
        assert!(!put(&mut tree, "hosts/localhost/host", r#"{"Name":"localhost","Settings":{"Default":false,"KeyPair":null}}"#));
        assert!(!put(&mut tree, "autocert_cache/x", "raw"));
        let now = snapshot(&tree);
        assert_eq!(now.all_problems().count(), 0);
        let b1 = &now.upstreams["b1"];
        assert_eq!(b1.endpoints["srv1"].value.as_ref().unwrap().address.to_string(), "10.0.0.1:5000");
        assert_eq!(b1.settings.as_ref().unwrap().value.as_ref().unwrap().host, HostHeader::Endpoint);
        assert_eq!(now.routes["f1"].value.as_ref().unwrap().upstream, Some(Name::literal("b1")));
        assert!(now.listeners["l1"].value.is_ok());
        assert_eq!(now.upstreams.len(), 1);
    }

    #[test]
    fn a_frontend_may_pass_the_clients_host_on() {
        let mut tree = tree();
        put(&mut tree, "backends/b1/servers/srv1", r#"{"URL":"http://10.0.0.1:5000"}"#);
        put(&mut tree, "frontends/f1/frontend", PASSING);
        let passing = Name::literal("b1%pass_host");
        let now = snapshot(&tree);
        assert_eq!(now.routes["f1"].value.as_ref().unwrap().upstream.as_ref(), Some(&passing));
        let host = |now: &Snapshot, name: &str| now.upstreams[name].settings.as_ref().map(|settings| settings.value.clone().unwrap().host);
        assert_eq!(host(&now, "b1"), Some(HostHeader::Endpoint));
        assert!(now.upstreams["b1%pass_host"].settings.is_none(), "it has the client's host by default");
        put(&mut tree, "frontends/f1/frontend", "{");
        assert!(snapshot(&tree).upstreams.contains_key(&passing), "the frontend's last good version stays in force");
        let pairs = [("/vulcand/backends/b1/servers/srv1", r#"{"URL":"http://10.0.0.1:5000"}"#), ("/vulcand/frontends/f1/frontend", "{")];
        tree.replace(pairs.iter().map(|(key, value)| Pair { key: key.as_bytes(), value: value.as_bytes(), revision: 1 }));
        assert!(snapshot(&tree).upstreams.contains_key(&passing), "also when all is read again");
        assert!(delete(&mut tree, "frontends/f1/frontend"));
        assert!(!snapshot(&tree).upstreams.contains_key(&passing));
    }

    #[test]
    fn a_frontend_with_a_middleware_is_closed() {
        let mut tree = tree();
        put(&mut tree, "frontends/f1/frontend", FRONTEND);
        let limit = r#"{"Id":"rl1","Priority":0,"Type":"ratelimit","Middleware":{"PeriodSeconds":1}}"#;
        assert!(put(&mut tree, "frontends/f1/middlewares/rl1", limit));
        let now = snapshot(&tree);
        let name = Name::literal("f1@rl1");
        assert_eq!(now.routes["f1"].value.as_ref().unwrap().middlewares, [MiddlewareRef::Shared(name.clone())]);
        let problem = now.middlewares[&name].problem().unwrap();
        assert!(problem.message.contains("`ratelimit`") && problem.effect.as_ref().unwrap().contains("503"));
        assert_eq!(problem.origin.as_ref().unwrap().to_string(), "etcd: key /vulcand/frontends/f1/middlewares/rl1, revision 1");
        assert!(delete(&mut tree, "frontends/f1/middlewares/rl1"));
        let now = snapshot(&tree);
        assert!(now.routes["f1"].value.as_ref().unwrap().middlewares.is_empty() && now.middlewares.is_empty());
    }

    #[test]
    fn trace_is_left_out_with_a_warning() {
        let mut tree = tree();
        put(&mut tree, "frontends/f1/frontend", FRONTEND);
        assert!(put(&mut tree, "frontends/f1/middlewares/t1", r#"{"Type":"trace","Middleware":{}}"#));
        let now = snapshot(&tree);
        assert!(now.routes["f1"].value.as_ref().unwrap().middlewares.is_empty());
        assert_eq!(now.problems[0].severity, crate::config::problem::Severity::Warning);
        assert!(delete(&mut tree, "frontends/f1/middlewares/t1") && snapshot(&tree).problems.is_empty());
    }

    #[test]
    fn what_cannot_be_carried_over_is_a_problem_at_its_key() {
        let mut tree = tree();
        put(&mut tree, "hosts/a/host", r#"{"Settings":{"KeyPair":"c2VhbGVk"}}"#);
        put(&mut tree, "frontends/f1", FRONTEND);
        put(&mut tree, "frontends/f2/frontend", r#"{"Route":"Path(`/`) || Path(`/b`)","Type":"http","BackendId":"b1"}"#);
        put(&mut tree, "upstreams/u", "{}");
        let now = snapshot(&tree);
        assert!(now.certificates["a"].problem().unwrap().message.contains("sealed"));
        assert!(now.routes["f2"].problem().unwrap().message.contains("not supported by vulcand"));
        assert_eq!(now.problems[0].help.as_deref(), Some("did you mean `/vulcand/frontends/f1/frontend`?"));
        assert!(now.problems[1].help.as_deref().unwrap().contains("backends/ID/servers/ID"));
    }

    #[test]
    fn names_of_middlewares_are_never_shared() {
        let name = |frontend: &str, id: &str| middleware_name(&Name::new(frontend).unwrap(), &Name::new(id).unwrap());
        assert_ne!(name("a@b", "c"), name("a", "b@c"));
        assert_eq!(name(&"f".repeat(200), &"i".repeat(200)).as_str(), "%unnamed");
    }

    const KEYS: [&str; 11] = [
        "backends/b1/backend",
        "backends/b1/servers/1",
        "backends/b1/servers/2",
        "backends/b2/servers/1",
        "frontends/f1/frontend",
        "frontends/f1/middlewares/m",
        "frontends/f2/frontend",
        "frontends/f1",
        "hosts/h/host",
        "listeners/l",
        "autocert_cache/x",
    ];
    /// None that cannot be read by a frontend that passes the host on: what is left of its last good version is not in the store.
    const VALUES: [&str; 8] = [
        r#"{"Type":"http"}"#,
        r#"{"Type":"http","URL":"https://10.0.0.1:5000"}"#,
        r#"{"URL":"http://10.0.0.2:5000","Type":"ratelimit"}"#,
        r#"{"Type":"trace","URL":"http://0.0.0.0:1"}"#,
        r#"{"Settings":{"KeyPair":"c2VhbGVk"}}"#,
        r#"{"Protocol":"http","Address":{"Network":"tcp","Address":":80"}}"#,
        FRONTEND,
        r#"{"Route":"Host(`a`)","Type":"http","BackendId":"b2","Settings":{"TrustForwardHeader":true}}"#,
    ];

    proptest::proptest! {
        #[test]
        fn incremental_is_the_same_as_whole(steps in proptest::collection::vec((0..KEYS.len(), proptest::option::of(0..VALUES.len())), 0..60)) {
            let keys = KEYS.map(|key| format!("/vulcand/{key}"));
            let steps = steps.iter().map(|(key, value)| (keys[*key].as_str(), value.map(|value| VALUES[value])));
            check_incremental_is_whole(tree, steps)?;
        }
    }

    #[test]
    fn a_frontend_does_not_touch_another() {
        let mut tree = tree();
        put(&mut tree, "frontends/f1/frontend", FRONTEND);
        let before = snapshot(&tree);
        put(&mut tree, "frontends/f2/frontend", PASSING);
        assert!(Arc::ptr_eq(&before.routes["f1"], &snapshot(&tree).routes["f1"]));
    }
}
