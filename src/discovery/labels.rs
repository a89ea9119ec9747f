//! Labels of containers and services → pairs of the key/value layout ([`super::kv`]), which makes objects of them.
//!
//! | label | says |
//! |---|---|
//! | `nuncio.SECTION.NAME.FIELD` | a field of an object, as in a file: `nuncio.routes.web.match=Host("a.test")` |
//! | `nuncio.SECTION.NAME` | a whole object, as JSON |
//! | `nuncio.host` | a route for these hosts, separated by commas |
//! | `nuncio.upstream` | the upstream that the bearer is an endpoint of. Default: its name |
//! | `nuncio.port`, `nuncio.weight`, `nuncio.network` | of the endpoint |
//! | `nuncio.enable` | `false`: all other labels are ignored. `true`: an upstream, with nothing else to say |
//!
//! Labels of others, where the settings ask for them, are read by `conventions` after ours, which count first.
//!
//! Several bearers may say the same of an object. If they say different things, what the youngest says counts, and that is reported.
//!
//! Pure, and total: a label that cannot be read is a problem, and all others count.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::kv::Pair;
use crate::config::providers::Conventions;
use crate::config::snapshot::Place;
use crate::config::{Origin, Problem};
use crate::names::Name;
use crate::suggest;

/// What our labels start with.
pub const PREFIX: &str = "nuncio.";

/// How deep a label may reach into an object: `nuncio.upstreams.web` and so many fields.
pub const DEPTH_MAX: usize = 8;

/// The most problems that are reported of one reading.
pub const PROBLEMS_MAX: usize = 100;

/// Whatever bears labels, and where it can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bearer {
    /// For people: `container web-1`.
    pub title: String,
    /// What its upstream and its route are called by default.
    pub name: String,
    /// When it was made, in any unit. The youngest wins.
    pub created: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The variables of its environment that are read like labels.
    pub variables: BTreeMap<String, String>,
    /// Who answers for it. None while it is starting, paused, unhealthy or stopping.
    pub instances: Vec<Instance>,
}

/// One process that answers for a bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its name among the endpoints of an upstream.
    pub id: String,
    /// The ports that it says it listens on, and where they are reached.
    pub ports: BTreeMap<u16, SocketAddr>,
    /// Where a port is reached that it did not say. None: not at all.
    pub any_port: Option<IpAddr>,
    /// Whether it is asked only while none of the others can be.
    pub is_backup: bool,
    /// Why it has no address, if it has none.
    pub trouble: Option<String>,
}

/// What labels say.
#[derive(Debug, Default)]
pub struct Said {
    pairs: BTreeMap<String, (String, Place, u64)>,
    /// What is wrong beside the objects. At most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
}

impl Said {
    /// Reads what all bearers say.
    #[must_use]
    pub fn by(bearers: &[Bearer], conventions: &Conventions, provider: &Name) -> Self {
        let mut said = Self::default();
        for bearer in bearers {
            Reader { bearer, provider, said: &mut said }.read();
            super::conventions::read(Telling { bearer, provider, said: &mut said }, conventions);
        }
        said.problems.truncate(PROBLEMS_MAX);
        said
    }

    /// Takes over what a bearer that was made at `created` says at `place` of the object under `key`.
    pub(super) fn say(&mut self, provider: &Name, created: u64, key: String, value: Value, place: Place) {
        let value = match value {
            // An endpoint's address, which stands for the whole.
            Value::String(text) => text,
            value => value.to_string(),
        };
        if let Some((held, held_place, held_created)) = self.pairs.get(&key) {
            let is_younger = created > *held_created;
            let is_equal = *held == value;
            if !is_equal {
                let other = if is_younger { held_place.clone() } else { place.clone() };
                let problem = Problem::warning("another bearer of the same object says something else, and is younger");
                self.report(provider, problem.effect("what the other says is in force"), other);
            }
            if is_equal || !is_younger {
                return;
            }
        }
        self.pairs.insert(key, (value, place, created));
    }

    /// Takes over a problem at `place`.
    pub(super) fn report(&mut self, provider: &Name, problem: Problem, place: Place) {
        self.problems.push(problem.at(Origin { provider: provider.clone(), place }));
    }

    /// Key, value and place of each object.
    pub fn pairs(&self) -> impl Iterator<Item = (Pair<'_>, Option<Place>)> {
        self.pairs
            .iter()
            .map(|(key, (value, place, _))| (Pair { key: key.as_bytes(), value: value.as_bytes(), revision: 0 }, Some(place.clone())))
    }
}

/// Whether a bearer of these labels means us at all.
#[must_use]
pub fn is_meant(labels: &BTreeMap<String, String>) -> bool {
    labels.keys().any(|label| label.starts_with(PREFIX)) && labels.get("nuncio.enable").is_none_or(|enable| enable.trim() != "false")
}

const SECTIONS: [&str; 7] = ["certificates", "listeners", "middlewares", "routes", "tcp_routes", "udp_routes", "upstreams"];

/// Labels that say something of the bearer itself.
const OWN: [&str; 6] = ["enable", "host", "network", "port", "upstream", "weight"];

/// Fields that an upstream has in labels only, for this bearer's place in it.
const OF_ENDPOINT: [&str; 2] = ["port", "weight"];

/// The labels of one bearer while they are read.
struct Reader<'a> {
    bearer: &'a Bearer,
    provider: &'a Name,
    said: &'a mut Said,
}

/// What labels of others say of one bearer, as it is told.
pub(super) struct Telling<'a> {
    pub(super) bearer: &'a Bearer,
    provider: &'a Name,
    said: &'a mut Said,
}

impl Telling<'_> {
    /// Takes over an object that `label` describes, unless the bearer has described it already.
    pub(super) fn say(&mut self, key: String, label: &str, value: Value) {
        let is_said = |place: &Place| matches!(place, Place::Label { bearer, .. } if **bearer == *self.bearer.title);
        if !self.said.pairs.get(&key).is_some_and(|(_, place, _)| is_said(place)) {
            let place = self.place(label);
            self.said.say(self.provider, self.bearer.created, key, value, place);
        }
    }

    /// Makes an instance an endpoint of `upstream`, by `id`.
    pub(super) fn join(&mut self, upstream: &str, id: &str, label: &str, endpoint: Result<Map<String, Value>, String>) {
        match endpoint {
            Ok(endpoint) => self.say(format!("/upstreams/{upstream}/endpoints/{id}"), label, endpoint.into()),
            Err(message) => self.report(label, Problem::error(message).effect("it gets no requests")),
        }
    }

    /// Reports what is wrong with `label`.
    pub(super) fn report(&mut self, label: &str, problem: Problem) {
        let place = self.place(label);
        self.said.problems.push(problem.at(Origin { provider: self.provider.clone(), place }));
    }

    fn place(&self, label: &str) -> Place {
        Place::Label { bearer: self.bearer.title.as_str().into(), label: label.into() }
    }
}

/// The place of a bearer in an upstream.
#[derive(Default)]
struct Membership {
    port: Option<Value>,
    weight: Option<Value>,
}

impl Reader<'_> {
    fn read(&mut self) {
        if !is_meant(&self.bearer.labels) {
            return;
        }
        if let Some(enable) = self.own("enable").filter(|enable| !matches!(*enable, "true" | "false")) {
            return self.complain("enable", format!("`{enable}` is neither `true` nor `false`"), "all labels of the bearer are ignored");
        }
        let mut objects = self.objects();
        let mut memberships = self.memberships(&mut objects);
        self.shorthand(&mut objects, &mut memberships);
        self.default_upstream(&mut objects, &memberships);
        for ((section, name), value) in objects {
            self.say(format!("/{section}/{name}"), &format!("{section}.{name}"), value);
        }
        for (upstream, membership) in memberships {
            self.join(&upstream, &membership);
        }
    }

    fn own(&self, label: &str) -> Option<&str> {
        self.bearer.labels.get(&format!("{PREFIX}{label}")).map(|value| value.trim())
    }

    /// The objects that labels spell out, as JSON.
    fn objects(&mut self) -> BTreeMap<(String, String), Value> {
        let mut objects = BTreeMap::new();
        for (label, text) in &self.bearer.labels {
            let Some(path) = label.strip_prefix(PREFIX) else { continue };
            let segments: Vec<&str> = path.splitn(DEPTH_MAX + 3, '.').collect();
            match segments.as_slice() {
                [own] if OWN.contains(own) => (),
                ["upstreams", upstream, "endpoints", id] => {
                    self.say(format!("/upstreams/{upstream}/endpoints/{id}"), path, parse(text));
                }
                [section, name, fields @ ..] if SECTIONS.contains(section) && fields.len() <= DEPTH_MAX => {
                    let object = objects.entry(((*section).to_owned(), (*name).to_owned())).or_insert(Value::Object(Map::new()));
                    if insert(object, fields, parse(text)).is_err() {
                        self.complain(
                            path,
                            "another label says what this one reaches into, or says the same".into(),
                            "the label is ignored",
                        );
                    }
                }
                [first, ..] => self.unknown(path, first),
                [] => (),
            }
        }
        objects
    }

    fn unknown(&mut self, path: &str, first: &str) {
        let near = suggest::nearest(first, SECTIONS.into_iter().chain(OWN)).filter(|near| *near != first);
        let message = if SECTIONS.contains(&first) {
            format!("the label is not of the form `{PREFIX}{first}.NAME.FIELD`, with at most {DEPTH_MAX} fields inside each other")
        } else {
            let near = near.map(|near| format!("; did you mean `{PREFIX}{near}`?")).unwrap_or_default();
            format!("there is no `{PREFIX}{first}`{near}")
        };
        self.complain(path, message, "the label is ignored");
    }

    /// The upstreams that the bearer says something of, but for endpoints that are not itself: it is an endpoint of each.
    fn memberships(&self, objects: &mut BTreeMap<(String, String), Value>) -> BTreeMap<String, Membership> {
        let mut memberships = BTreeMap::new();
        for ((_, name), object) in objects.iter_mut().filter(|((section, _), _)| section == "upstreams") {
            let mut membership = Membership::default();
            if let Value::Object(fields) = object {
                let [port, weight] = OF_ENDPOINT.map(|field| fields.remove(field));
                membership = Membership { port, weight };
            }
            memberships.insert(name.clone(), membership);
        }
        memberships
    }

    /// What `nuncio.host` and `nuncio.upstream` stand for.
    fn shorthand(&mut self, objects: &mut BTreeMap<(String, String), Value>, memberships: &mut BTreeMap<String, Membership>) {
        let upstream = self.own("upstream").unwrap_or(&self.bearer.name).to_owned();
        let is_asked = ["upstream", "host", "enable", "port"].iter().any(|label| self.own(label).is_some());
        if self.own("upstream").is_some() || (is_asked && memberships.is_empty()) {
            memberships.entry(upstream.clone()).or_default();
            objects.entry(("upstreams".into(), upstream.clone())).or_insert(Value::Object(Map::new()));
        }
        if let Some(hosts) = self.own("host") {
            let hosts: Vec<String> = hosts.split(',').map(|host| format!("{:?}", host.trim())).collect();
            let rule = format!("Host({})", hosts.join(", "));
            let route = objects.entry(("routes".into(), self.bearer.name.clone())).or_insert(Value::Object(Map::new()));
            if insert(route, &["match"], Value::String(rule)).is_err() {
                let message = format!("`{PREFIX}routes.{}` has a `match` already", self.bearer.name);
                self.complain("host", message, "the label is ignored");
            }
        }
    }

    /// Routes that name no upstream go to the bearer's, if it has exactly one.
    fn default_upstream(&self, objects: &mut BTreeMap<(String, String), Value>, memberships: &BTreeMap<String, Membership>) {
        let mut names = memberships.keys();
        let (Some(upstream), None) = (names.next(), names.next()) else { return };
        for ((section, _), object) in objects.iter_mut() {
            if let ("routes" | "tcp_routes" | "udp_routes", Value::Object(fields)) = (section.as_str(), object) {
                fields.entry("upstream").or_insert_with(|| upstream.clone().into());
            }
        }
    }

    /// Makes all instances endpoints of `upstream`.
    fn join(&mut self, upstream: &str, membership: &Membership) {
        let port = membership.port.clone().or_else(|| self.own("port").map(parse));
        let weight = membership.weight.clone().or_else(|| self.own("weight").map(parse));
        let port = match port.as_ref().map(|port| port.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)) {
            Some(None) => return self.complain("port", "a port is a number from 1 to 65535".into(), "the bearer gets no requests"),
            Some(port) => port,
            None => None,
        };
        for instance in &self.bearer.instances {
            match instance.endpoint(port) {
                Ok(mut endpoint) => {
                    endpoint.extend(weight.iter().map(|weight| ("weight".to_owned(), weight.clone())));
                    let key = format!("/upstreams/{upstream}/endpoints/{}", instance.id);
                    self.say(key, &format!("upstreams.{upstream}"), endpoint.into());
                }
                Err(message) => self.complain("port", message, "it gets no requests"),
            }
        }
    }

    fn say(&mut self, key: String, label: &str, value: Value) {
        let place = self.place(label);
        self.said.say(self.provider, self.bearer.created, key, value, place);
    }

    fn complain(&mut self, label: &str, message: String, effect: &str) {
        let place = self.place(label);
        self.said.report(self.provider, Problem::error(message).effect(effect), place);
    }

    fn place(&self, label: &str) -> Place {
        Place::Label { bearer: self.bearer.title.as_str().into(), label: Arc::from(format!("{PREFIX}{label}")) }
    }
}

impl Instance {
    /// What it is as an endpoint by `port`, or by the only one if none is asked for.
    pub(super) fn endpoint(&self, port: Option<u16>) -> Result<Map<String, Value>, String> {
        self.address(port).map(|address| self.endpoint_at(address))
    }

    /// What it is as an endpoint at one of its addresses.
    pub(super) fn endpoint_at(&self, address: SocketAddr) -> Map<String, Value> {
        let backup = self.is_backup.then(|| ("backup".to_owned(), true.into()));
        [("address".to_owned(), address.to_string().into())].into_iter().chain(backup).collect()
    }

    /// Where `port` is reached, or the only one if none is asked for.
    pub(crate) fn address(&self, port: Option<u16>) -> Result<SocketAddr, String> {
        if let Some(trouble) = &self.trouble {
            return Err(trouble.clone());
        }
        let known = || self.ports.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let Some(port) = port else {
            let mut addresses = self.ports.values();
            return match (addresses.next(), addresses.next()) {
                (Some(address), None) => Ok(*address),
                (None, _) => Err(format!("there is no port: say it with `{PREFIX}port`")),
                _ => Err(format!("there are the ports {}: say which one with `{PREFIX}port`", known())),
            };
        };
        let any = || self.any_port.map(|ip| SocketAddr::new(ip, port));
        self.ports.get(&port).copied().or_else(any).ok_or_else(|| match self.ports.len() {
            0 => format!("port {port} is not published, nor is any other"),
            _ => format!("port {port} is not published; these are: {}", known()),
        })
    }
}

/// JSON if it is a number, a boolean, an array, an object or a string in quotes, and else a string as it is.
fn parse(text: &str) -> Value {
    match serde_json::from_str(text.trim()) {
        Ok(Value::Null) | Err(_) => Value::String(text.to_owned()),
        Ok(value) => value,
    }
}

/// Puts `value` at the end of a path of fields. Err: something else is there, or on the way.
fn insert(object: &mut Value, fields: &[&str], value: Value) -> Result<(), ()> {
    let Value::Object(held) = object else { return Err(()) };
    match fields {
        [] => {
            let is_free = held.is_empty();
            *object = value;
            if is_free { Ok(()) } else { Err(()) }
        }
        [field] if held.contains_key(*field) => Err(()),
        [field] => {
            held.insert((*field).to_owned(), value);
            Ok(())
        }
        [field, rest @ ..] => insert(held.entry(*field).or_insert_with(|| Map::new().into()), rest, value),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(name: &str, labels: &[(&str, &str)]) -> Bearer {
        let ports = BTreeMap::from([(80, "10.0.0.1:80".parse().unwrap())]);
        let instance = Instance { id: name.into(), ports, any_port: Some("10.0.0.1".parse().unwrap()), is_backup: false, trouble: None };
        let labels = labels.iter().map(|(label, value)| ((*label).into(), (*value).into())).collect();
        Bearer { title: format!("container {name}"), name: name.into(), created: 1, labels, instances: vec![instance], ..Bearer::default() }
    }

    fn said(bearers: &[Bearer]) -> (Vec<String>, Vec<String>) {
        let said = Said::by(bearers, &Conventions::default(), &Name::literal("docker"));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let pairs = said.pairs().map(|(pair, _)| format!("{} {}", text(pair.key), text(pair.value))).collect();
        (pairs, said.problems.iter().map(ToString::to_string).collect())
    }

    fn check(labels: &[(&str, &str)], pairs: &[&str], problems: &[&str]) {
        let (found, complaints) = said(&[bearer("web", labels)]);
        assert_eq!(found, pairs, "{labels:?}: {complaints:?}");
        assert_eq!(complaints.len(), problems.len(), "{complaints:?}");
        for (complaint, expected) in complaints.iter().zip(problems) {
            assert!(complaint.contains(expected), "{complaint}");
        }
    }

    #[test]
    fn a_host_is_enough() {
        check(
            &[("nuncio.host", "a.test, b.test")],
            &[
                r#"/routes/web {"match":"Host(\"a.test\", \"b.test\")","upstream":"web"}"#,
                "/upstreams/web {}",
                r#"/upstreams/web/endpoints/web {"address":"10.0.0.1:80"}"#,
            ],
            &[],
        );
    }

    #[test]
    fn objects_are_spelled_as_in_a_file() {
        check(
            &[
                ("nuncio.routes.r.match", "Host(\"a\")"),
                ("nuncio.routes.r.middlewares", r#"["m"]"#),
                ("nuncio.upstreams.u.sticky.cookie", "c"),
                ("nuncio.upstreams.u.retries", "3"),
                ("nuncio.upstreams.u.port", "8080"),
                ("nuncio.weight", "5"),
                ("nuncio.middlewares.m", r#"{"strip_prefix":"/v1"}"#),
            ],
            &[
                r#"/middlewares/m {"strip_prefix":"/v1"}"#,
                r#"/routes/r {"match":"Host(\"a\")","middlewares":["m"],"upstream":"u"}"#,
                r#"/upstreams/u {"retries":3,"sticky":{"cookie":"c"}}"#,
                r#"/upstreams/u/endpoints/web {"address":"10.0.0.1:8080","weight":5}"#,
            ],
            &[],
        );
    }

    #[test]
    fn what_is_not_meant_for_us_is_left_alone() {
        check(&[("traefik.enable", "true")], &[], &[]);
        check(&[("nuncio.enable", "false"), ("nuncio.host", "a")], &[], &[]);
        check(&[("nuncio.enable", "no"), ("nuncio.host", "a")], &[], &["neither `true` nor `false`"]);
    }

    #[test]
    fn bad_labels_are_told_and_the_others_count() {
        check(
            &[("nuncio.hots", "a"), ("nuncio.enable", "true"), ("nuncio.routes", "x"), ("nuncio.prot", "1")],
            &["/upstreams/web {}", r#"/upstreams/web/endpoints/web {"address":"10.0.0.1:80"}"#],
            &["did you mean `nuncio.host`?", "did you mean `nuncio.port`?", "`nuncio.routes.NAME.FIELD`"],
        );
        check(&[("nuncio.port", "http")], &["/upstreams/web {}"], &["a number from 1 to 65535"]);
        check(
            &[("nuncio.upstreams.u.sticky", "c"), ("nuncio.upstreams.u.sticky.cookie", "c")],
            &[r#"/upstreams/u {"sticky":"c"}"#, r#"/upstreams/u/endpoints/web {"address":"10.0.0.1:80"}"#],
            &["another label says"],
        );
    }

    #[test]
    fn a_port_has_to_be_known() {
        let mut two = bearer("web", &[("nuncio.host", "a")]);
        two.instances[0].ports.insert(443, "10.0.0.1:443".parse().unwrap());
        assert!(said(std::slice::from_ref(&two)).1[0].contains("the ports 80, 443"));
        two.instances[0].any_port = None;
        two.labels.insert("nuncio.port".into(), "81".into());
        assert!(said(std::slice::from_ref(&two)).1[0].contains("port 81 is not published; these are: 80, 443"));
        two.instances[0].ports.clear();
        two.labels.remove("nuncio.port");
        assert!(said(&[two]).1[0].contains("there is no port"));
    }

    #[test]
    fn bearers_of_one_upstream_are_its_endpoints() {
        let one = bearer("a", &[("nuncio.upstream", "api")]);
        let other = bearer("b", &[("nuncio.upstream", "api")]);
        let (pairs, problems) = said(&[one, other]);
        assert_eq!((pairs.len(), problems.len()), (3, 0), "{pairs:?} {problems:?}");
    }

    #[test]
    fn the_youngest_wins_in_any_order() {
        let old = bearer("a", &[("nuncio.routes.r.match", "Host(\"old\")")]);
        let young = Bearer { created: 2, ..bearer("b", &[("nuncio.routes.r.match", "Host(\"young\")")]) };
        for bearers in [[old.clone(), young.clone()], [young, old]] {
            let (pairs, problems) = said(&bearers);
            assert_eq!(pairs, [r#"/routes/r {"match":"Host(\"young\")"}"#]);
            assert_eq!(problems.len(), 1);
            assert!(problems[0].contains("container a, label nuncio.routes.r"), "{problems:?}");
        }
    }

    proptest! {
        #[test]
        fn any_labels_can_be_read(labels in prop::collection::btree_map("(nuncio\\.)?[a-z.{}\"]{0,20}|nuncio\\.(routes|upstreams)\\.[a-c](\\.[a-c]){0,10}", ".{0,12}", 0..12)) {
            let labelled = Bearer { labels, ..bearer("web", &[]) };
            let said = Said::by(&[labelled], &Conventions::default(), &Name::literal("docker"));
            let mut tree = super::super::kv::Tree::new("", Name::literal("docker"));
            tree.replace_at(said.pairs());
        }
    }
}
