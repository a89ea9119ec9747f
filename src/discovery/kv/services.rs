//! The layout of registrators: `{prefix}/SERVICE/INSTANCE`, whose value says where the instance listens.
//!
//! A service makes an upstream of its name, and a route if there is a template for routes; both are gone with its last instance. Folders
//! may nest, as in SkyDNS: everything above the instance is the service's name, `com/example/web`. What a name of ours may not hold is
//! escaped as in URLs: that upstream is `com%2Fexample%2Fweb`. Keys with a segment that starts with `_` are hidden, as they were in
//! etcd v2, where registrars keep what is not for others.
//!
//! nerve registers an instance again and again under numbers: in etcd as `SERVICE/INSTANCE/{20 digits}`, where the digits are the key's
//! and not an instance of a service `SERVICE/INSTANCE`; in ZooKeeper as `SERVICE/INSTANCE_{10 digits}`, or with all that the value would
//! say in the name, see `nerve`.

use super::nerve;
use super::strays::Stray;
use crate::config::providers::clean_name;
use crate::names::Name;

/// An instance's key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Located<'a> {
    /// The service's name, as it is in the key.
    pub(super) service: &'a str,
    pub(super) upstream: Name,
    pub(super) id: Name,
    /// What the key says in the place of its value.
    pub(super) value: Option<Vec<u8>>,
}

/// How many digits the numbers of etcd v2's in-order keys have.
const NUMBER_DIGITS: usize = 20;

/// Where the key `{prefix}{path}` belongs. None: it is hidden.
pub(super) fn locate<'a>(prefix: &str, path: &'a str) -> Result<Option<Located<'a>>, Stray> {
    if path.split('/').any(|segment| segment.starts_with('_')) {
        return Ok(None);
    }
    let help = || format!("instances are at `{prefix}SERVICE/INSTANCE`");
    let Some((service, id)) = path.rsplit_once('/') else {
        return Err(Stray::new("the key belongs to no service").help(help()));
    };
    if service.split('/').any(str::is_empty) {
        return Err(Stray::new("a folder in the key has no name").help(help()));
    }
    let telling = nerve::read(id).transpose().map_err(Stray::new)?;
    let (service, id, value) = match (telling, service.rsplit_once('/')) {
        (Some(telling), _) => (service, telling.id, Some(telling.value)),
        (None, Some((service, instance))) if is_number(id) => (service, format!("{instance}_{id}"), None),
        (None, _) => (service, id.to_owned(), None),
    };
    let upstream = clean_name(service).map_err(Stray::new)?;
    let id = clean_name(&id).map_err(Stray::new)?;
    Ok(Some(Located { service, upstream, id, value }))
}

/// Whether it is the number of an in-order key.
fn is_number(id: &str) -> bool {
    id.len() == NUMBER_DIGITS && id.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{check_incremental_is_whole, snapshot};
    use super::super::{Pair, Tree};
    use super::*;
    use crate::config::Snapshot;
    use crate::config::providers::{Layout, LayoutKind, RouteTemplate};
    use crate::config::snapshot::UpstreamEntry;

    fn tree() -> Tree {
        let route = RouteTemplate::parse(r#"Host("{name}.example.com")"#).ok();
        Tree::with_layout("/services", Name::literal("etcd"), Layout { kind: LayoutKind::Services, route })
    }

    fn put(tree: &mut Tree, key: &str, value: &str) -> bool {
        tree.put(Pair { key: key.as_bytes(), value: value.as_bytes(), revision: 1 })
    }

    fn addresses(snapshot: &Snapshot, upstream: &str) -> Vec<String> {
        let endpoints = snapshot.upstreams.get(upstream).into_iter().flat_map(|upstream| &upstream.endpoints);
        endpoints.filter_map(|(id, entry)| entry.value.as_ref().ok().map(|endpoint| format!("{id}={}", endpoint.address))).collect()
    }

    #[test]
    fn an_instance_makes_upstream_and_route_and_the_last_one_ends_both() {
        let mut tree = tree();
        assert!(put(&mut tree, "/services/web/vm:web_1:80", "10.99.0.1:32768"));
        assert!(put(&mut tree, "/services/web/CONTAINER", r#"{ "port": 49155, "host": "10.0.0.1" }"#));
        let now = snapshot(&tree);
        assert_eq!(addresses(&now, "web"), ["CONTAINER=10.0.0.1:49155", "vm:web_1:80=10.99.0.1:32768"]);
        let route = now.routes["web"].value.as_ref().unwrap();
        assert_eq!((route.rule.text(), route.upstream.as_ref()), (r#"Host("web.example.com")"#, Some(&Name::literal("web"))));
        assert!(now.upstreams["web"].settings.is_none());
        assert!(tree.delete(b"/services/web/CONTAINER"));
        assert!(Arc::ptr_eq(&now.routes["web"], &snapshot(&tree).routes["web"]), "the route did not change");
        assert!(tree.delete(b"/services/web/vm:web_1:80") && !tree.delete(b"/services/web/vm:web_1:80"));
        let now = snapshot(&tree);
        assert!(now.upstreams.is_empty() && now.routes.is_empty());
    }

    #[test]
    fn a_bad_value_is_a_problem_at_its_key_and_others_serve() {
        let mut tree = tree();
        put(&mut tree, "/services/web/1", "10.0.0.1:80");
        put(&mut tree, "/services/web/2", r#"{ "port": 8088, "[": , "host": "0.0.0.0" }"#);
        let now = snapshot(&tree);
        assert_eq!(addresses(&now, "web"), ["1=10.0.0.1:80"]);
        let problem = now.upstreams["web"].endpoints["2"].problem().unwrap();
        assert_eq!(problem.origin.as_ref().unwrap().to_string(), "etcd: key /services/web/2, revision 1");
        let again = Pair { key: b"/services/web/2", value: br#"{ "port": 8088, "[": , "host": "0.0.0.0" }"#, revision: 2 };
        assert!(!tree.put(again), "docker-register writes it every second: that is no change");
    }

    #[test]
    fn an_instance_that_takes_no_traffic_leaves_the_upstream_in_place() {
        let mut tree = tree();
        put(&mut tree, "/services/web/member_1", r#"{"serviceEndpoint":{"host":"10.0.0.4","port":31000},"status":"STOPPING"}"#);
        let now = snapshot(&tree);
        assert!(now.upstreams["web"].endpoints.is_empty() && now.routes.contains_key("web"));
        assert!(now.upstreams["web"].settings.as_ref().is_some_and(|settings| settings.value.is_ok()));
    }

    #[test]
    fn what_nerve_writes() {
        let mut tree = tree();
        let json = r#"{"host":"10.0.0.2","port":3000,"name":"i-1","weight":5}"#;
        assert!(put(&mut tree, "/services/web/i-1/00000000000000001112", json));
        assert!(put(&mut tree, "/services/web/i-2_0000000003", &json.replace("0.2", "0.3")));
        let telling = "/services/web/base64_48_eyJob3N0IjoiMTAuMC4wLjQiLCJwb3J0IjozMDAwLCJuYW1l_0000000004";
        assert!(put(&mut tree, telling, ""));
        let whole = "/services/web/base64_60_eyJob3N0IjoiMTAuMC4wLjUiLCJwb3J0IjozMDAwLCJuYW1lIjoiaS0zIn0=_0000000005";
        assert!(tree.is_told_by_key(whole.as_bytes()) && !tree.is_told_by_key(b"/services/base64_x/i-1"));
        assert!(put(&mut tree, whole, ""));
        let now = snapshot(&tree);
        let expected = ["i-1_00000000000000001112=10.0.0.2:3000", "i-2_0000000003=10.0.0.3:3000", "i-3_0000000005=10.0.0.5:3000"];
        assert_eq!(addresses(&now, "web"), expected);
        assert!(now.upstreams["web"].endpoints["instance_0000000004"].problem().unwrap().message.contains("not JSON"));
        assert!(put(&mut tree, "/services/web/base64_x", "") && snapshot(&tree).problems[0].message.contains("nerve's form"));
        for key in ["i-1/00000000000000001112", "i-2_0000000003", "base64_x"] {
            assert!(tree.delete(format!("/services/web/{key}").as_bytes()), "{key}");
        }
        assert!(tree.delete(whole.as_bytes()) && tree.delete(telling.as_bytes()));
        let now = snapshot(&tree);
        assert!(now.upstreams.is_empty() && now.problems.is_empty());
        // A number right below the service is an instance.
        put(&mut tree, "/services/web/00000000000000001112", json);
        assert_eq!(addresses(&snapshot(&tree), "web"), ["00000000000000001112=10.0.0.2:3000"]);
    }

    #[test]
    fn a_value_that_could_not_be_had_is_a_problem_in_its_place() {
        let mut tree = tree();
        put(&mut tree, "/services/web/1", "10.0.0.1:80");
        assert!(tree.put_unreadable(b"/services/web/1", "it may not be read", 2));
        let now = snapshot(&tree);
        let problem = now.upstreams["web"].endpoints["1"].problem().unwrap();
        assert_eq!((problem.message.as_str(), problem.object.is_some()), ("it may not be read", true));
        assert!(!tree.put_unreadable(b"/services/web/1", "it may not be read", 3));
        assert!(put(&mut tree, "/services/web/1", "10.0.0.1:80"));
    }

    #[test]
    fn one_tls_for_all() {
        let mut tree = tree();
        let speaks_tls = |entry: &UpstreamEntry| entry.settings.as_ref().is_some_and(|it| it.value.as_ref().unwrap().tls.is_some());
        put(&mut tree, "/services/web/1", "http://10.0.0.1:80");
        put(&mut tree, "/services/web/2", "https://10.0.0.2:443");
        put(&mut tree, "/services/web/3", "10.0.0.3:80");
        put(&mut tree, "/services/web/4", "0.0.0.0:80");
        // One that differs takes nothing away from the others.
        let web = snapshot(&tree).upstreams["web"].clone();
        assert!(!speaks_tls(&web) && web.endpoints["1"].value.is_ok() && web.endpoints["3"].value.is_ok());
        let problem = web.endpoints["2"].problem().unwrap();
        assert!(problem.message.contains("it says `https://`") && problem.origin.as_ref().unwrap().to_string().contains("web/2"));
        put(&mut tree, "/services/web/1", "https://10.0.0.1:443");
        let web = snapshot(&tree).upstreams["web"].clone();
        assert!(speaks_tls(&web) && web.endpoints["1"].value.is_ok() && web.endpoints["2"].value.is_ok());
        assert!(web.endpoints["3"].problem().unwrap().message.contains("does not say `https://`"));
        tree.delete(b"/services/web/1");
        // Of one each, what is plain is reached.
        let web = snapshot(&tree).upstreams["web"].clone();
        assert!(!speaks_tls(&web) && web.endpoints["2"].value.is_err() && web.endpoints["3"].value.is_ok());
        tree.delete(b"/services/web/2");
        let web = snapshot(&tree).upstreams["web"].clone();
        assert!(web.settings.is_none() && web.endpoints["3"].value.is_ok());
    }

    #[test]
    fn folders_nest_and_what_starts_with_an_underscore_is_hidden() {
        let mut tree = tree();
        assert!(put(&mut tree, "/services/com/example/web/vm:web:80", r#"{"host":"10.0.0.1","port":80}"#));
        for hidden in ["/services/_web/1", "/services/web/_1", "/services/_state", "/services/com/_x/web/1"] {
            assert!(!put(&mut tree, hidden, "nonsense"), "{hidden}");
            assert!(!tree.delete(hidden.as_bytes()), "{hidden}");
        }
        assert!(!put(&mut tree, "/services/web/", ""));
        let now = snapshot(&tree);
        assert_eq!(addresses(&now, "com%2Fexample%2Fweb"), ["vm:web:80=10.0.0.1:80"]);
        let problem = now.routes["com%2Fexample%2Fweb"].problem().unwrap();
        assert!(problem.message.contains("gets no route"), "{}", problem.message);
        assert!(now.problems.is_empty());
    }

    #[test]
    fn keys_that_are_no_instances_are_problems() {
        for (key, message) in [
            ("/services/web", "the key belongs to no service"),
            ("/services//1", "a folder in the key has no name"),
            ("/services/web//1", "a folder in the key has no name"),
        ] {
            let mut tree = tree();
            assert!(put(&mut tree, key, "10.0.0.1:80"));
            assert_eq!(snapshot(&tree).problems[0].message, message, "{key}");
            assert!(tree.delete(key.as_bytes()) && snapshot(&tree).problems.is_empty());
        }
    }

    const KEYS: [&str; 8] =
        ["/services/a/1", "/services/a/2", "/services/b/1", "/services/b/c/1", "/services/_h/1", "/services/x", "/services/a b/1", "/else"];
    const VALUES: [&str; 6] = [
        "10.0.0.1:80",
        "https://10.0.0.2:80",
        "http://10.0.0.2:80",
        "0.0.0.0:80",
        r#"{"host":"10.0.0.1","port":80}"#,
        r#"{"serviceEndpoint":{"host":"10.0.0.4","port":31000},"status":"DEAD"}"#,
    ];

    proptest::proptest! {
        #[test]
        fn incremental_is_the_same_as_whole(steps in proptest::collection::vec((0..KEYS.len(), proptest::option::of(0..VALUES.len())), 0..60)) {
            let steps = steps.into_iter().map(|(key, value)| (KEYS[key], value.map(|value| VALUES[value])));
            check_incremental_is_whole(tree, steps)?;
        }
    }
}
