//! Which services are asked for, what is known of them, and what they say: bearers of labels ([`super::super::labels`]).
//!
//! A service is gone when its own list is empty, not when its name is missing among all names: a token that lost its rights sees fewer
//! names, and only of one service it can be told whether it may be read. What is known of a service that may not be read stays.
//!
//! Pure: who does the I/O says what was told.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Change;
use super::catalog::{Instance, Listing, Reached, ids, weights};
use super::tags::{self, Bearing, Tagged, asks};
use super::watch::{Key, Told, Watched};
use crate::config::Problem;
use crate::config::providers::{CatalogConfig, Conventions, RouteTemplate, ServicePattern, clean_name};
use crate::config::snapshot::Place;
use crate::discovery::labels::{self, Bearer, PROBLEMS_MAX, Said};
use crate::names::Name;

/// The most services that are watched. Further ones are a problem.
pub const SERVICES_MAX: usize = 4_096;

/// The label that says the upstream of an instance. Each one has it when labels are read.
const UPSTREAM: &str = "nuncio.upstream";

/// The service that Consul's servers are.
const ITSELF: &str = "consul";

/// All services that are asked for.
#[derive(Debug)]
pub(super) struct Services {
    config: CatalogConfig,
    /// None: not told yet.
    listing: Option<Listing>,
    /// The upstreams of routes that are told elsewhere, and are there only if a service makes them.
    asked: BTreeSet<String>,
    known: BTreeMap<String, Known>,
    /// The values of the keys that switch services. None: there is no such key.
    switches: BTreeMap<String, Option<String>>,
    /// How many services were asked for that are not watched.
    left_out: usize,
}

/// What is known of a service.
#[derive(Debug, Default)]
struct Known {
    /// None: not told yet.
    instances: Option<Vec<Instance>>,
    /// What is wrong with the list.
    trouble: Option<Trouble>,
    /// The tag of the instances that are used, of a service that is switched.
    group: Option<String>,
}

/// What to grant the token.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    /// So that it can be read at all.
    Denied(String),
    /// So that all instances are seen.
    Partial,
}

impl Services {
    pub(super) fn new(config: CatalogConfig) -> Self {
        let mut services =
            Self { config, listing: None, asked: BTreeSet::new(), known: BTreeMap::new(), switches: BTreeMap::new(), left_out: 0 };
        services.ask();
        services
    }

    /// Whether the names of all services have to be known. Not if each one that is asked for is named.
    pub(super) fn needs_listing(&self, has_routes: bool) -> bool {
        has_routes || !self.config.tags.is_empty() || self.config.services.iter().any(|pattern| pattern.literal().is_none())
    }

    /// The names of the services to be watched.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &String> {
        self.known.keys()
    }

    /// Whether this service is to be watched.
    pub(super) fn wants(&self, service: &str) -> bool {
        self.known.contains_key(service)
    }

    /// The keys that switch services, in full.
    pub(super) fn switch_keys(&self) -> BTreeSet<&str> {
        self.config.switch.values().map(|key| key.trim_matches('/')).collect()
    }

    /// Whether all was told that is asked for.
    pub(super) fn is_complete(&self, needs_listing: bool) -> bool {
        let is_told = |known: &Known| known.instances.is_some() || known.trouble.is_some();
        (self.listing.is_some() || !needs_listing)
            && self.known.values().all(is_told)
            && self.switch_keys().iter().all(|key| self.switches.contains_key(*key))
    }

    /// What to grant the token, if it may read none of the services that are asked for.
    pub(super) fn denied(&self) -> Option<&str> {
        let mut grants = self.known.values().map(|known| match &known.trouble {
            Some(Trouble::Denied(grant)) => Some(grant.as_str()),
            _ => None,
        });
        let first = grants.next()??;
        grants.all(|grant| grant.is_some()).then_some(first)
    }

    /// Takes over what was told. When to publish it.
    pub(super) fn hear(&mut self, watched: &Watched, told: Told) -> Change {
        let (is_changed, change) = match (watched, told) {
            (Watched::Service(service), told) => (self.tell(service, told), Change::Soon),
            (Watched::Key(key), Told::Key(value)) => (self.switch(key, value), Change::Now),
            (_, Told::Catalog(listing)) => (self.list(listing), Change::Soon),
            _ => (false, Change::None),
        };
        if is_changed { change } else { Change::None }
    }

    /// Takes over the names of all services. Whether that changes what is said.
    pub(super) fn list(&mut self, listing: Listing) -> bool {
        self.listing = Some(listing);
        self.ask()
    }

    /// Takes over the upstreams that routes name, and nobody but a service makes. Whether that changes what is said.
    pub(super) fn ask_for(&mut self, upstreams: BTreeSet<String>) -> bool {
        self.asked = upstreams;
        self.ask()
    }

    /// Takes over what was told of a service. Whether that changes what is said.
    pub(super) fn tell(&mut self, service: &str, told: Told) -> bool {
        let is_gone = matches!(&told, Told::Service(instances) if instances.is_empty()) && !self.is_asked_for(service);
        if is_gone {
            return self.known.remove(service).is_some();
        }
        let Some(known) = self.known.get_mut(service) else { return false };
        let (instances, trouble) = match told {
            Told::Service(instances) => (instances, None),
            Told::Some(instances) => (instances, Some(Trouble::Partial)),
            Told::Denied(grant) => {
                let trouble = Some(Trouble::Denied(grant));
                return std::mem::replace(&mut known.trouble, trouble.clone()) != trouble;
            }
            Told::Keys(_) | Told::Catalog(_) | Told::Key(_) => return false,
        };
        let is_changed = known.instances.as_ref() != Some(&instances) || known.trouble != trouble;
        (known.instances, known.trouble) = (Some(instances), trouble);
        is_changed
    }

    /// Takes over the value of a key that switches services. Whether that changes what is said.
    pub(super) fn switch(&mut self, key: &str, value: Option<Key>) -> bool {
        // What cannot be read is the tag of no instance, and is told so.
        let value = value.map(|key| String::from_utf8_lossy(&key.decode().unwrap_or_default()).trim().to_owned());
        self.switches.insert(key.to_owned(), value.clone()) != Some(value)
    }

    /// The services that are asked for whether they are there or not.
    fn literals(&self) -> impl Iterator<Item = &str> {
        self.config.services.iter().filter_map(ServicePattern::literal).chain(self.config.switch.keys().map(String::as_str))
    }

    /// Whether the service is asked for as far as is known.
    fn is_asked_for(&self, service: &str) -> bool {
        if self.literals().any(|literal| literal == service) {
            return true;
        }
        let Some(tags) = self.listing.as_ref().and_then(|listing| listing.get(service)) else { return false };
        let is_matched = || service != ITSELF && self.config.services.iter().any(|pattern| pattern.is_match(service));
        self.asked.contains(service) || asks(tags, &self.config.tags) || is_matched()
    }

    /// Begins to watch what is asked for, and forgets what no longer is. One whose name is missing is forgotten when its list is empty.
    fn ask(&mut self) -> bool {
        let listed = self.listing.iter().flat_map(|listing| listing.keys().map(String::as_str));
        let asked: BTreeSet<String> =
            self.literals().chain(listed).filter(|service| self.is_asked_for(service)).map(str::to_owned).collect();
        let is_missing = |service: &String| self.listing.as_ref().is_none_or(|listing| !listing.contains_key(service));
        let is_empty = |known: &Known| known.trouble.is_none() && known.instances.as_ref().is_some_and(Vec::is_empty);
        let before = self.known.len();
        self.known.retain(|service, known| asked.contains(service) || (is_missing(service) && !is_empty(known)));
        let mut is_changed = self.known.len() != before;
        let left_out = std::mem::take(&mut self.left_out);
        for service in asked {
            if self.known.len() < SERVICES_MAX || self.known.contains_key(&service) {
                self.known.entry(service).or_default();
            } else {
                self.left_out += 1;
            }
        }
        is_changed |= self.left_out != left_out;
        is_changed
    }

    /// What all services say.
    pub(super) fn say(&mut self, provider: &Name) -> Said {
        self.choose_groups();
        let told: Vec<Reading> = self.known.iter().filter_map(|(name, known)| self.read(name, known)).collect();
        let bearers: Vec<Bearer> = told.iter().flat_map(|reading| &reading.instances).map(|spoken| spoken.bearer.clone()).collect();
        let mut said = Said::by(&bearers, &Conventions::default(), provider);
        for reading in &told {
            reading.add(&mut said, provider, self.config.route.as_ref());
        }
        for (name, known) in &self.known {
            for problem in self.problems(name, known) {
                said.report(provider, problem, place(&format!("service {name}"), "catalog"));
            }
        }
        if self.left_out > 0 {
            let problem = Problem::error(format!("more than {SERVICES_MAX} services are asked for: {} are not watched", self.left_out));
            said.report(provider, problem, place("catalog", "services"));
        }
        said.problems.truncate(PROBLEMS_MAX);
        said
    }

    /// Switches services to the instances with the tag that a key says, unless none of those is well.
    fn choose_groups(&mut self) {
        for (service, known) in &mut self.known {
            let Some(key) = self.config.switch.get(service) else { continue };
            let Some(Some(value)) = self.switches.get(key.trim_matches('/')) else { continue };
            let mut instances = known.instances.iter().flatten();
            if instances.any(|instance| instance.service.tags.contains(value) && instance.is_eligible()) {
                known.group = Some(value.clone());
            }
        }
    }

    fn problems(&self, name: &str, known: &Known) -> Vec<Problem> {
        let trouble = known.trouble.as_ref().map(|trouble| match trouble {
            Trouble::Denied(grant) => Problem::error("the service cannot be read, or is not there: Consul does not say which")
                .help(format!("grant the token {grant}"))
                .effect("what was known of it stays in force"),
            Trouble::Partial => Problem::warning("the token may not read all instances of the service")
                .help(format!("grant the token service \"{name}\" read and node_prefix \"\" read"))
                .effect("the others get no requests"),
        });
        let switch = self.config.switch.get(name).and_then(|key| {
            let value = self.switches.get(key.trim_matches('/')).cloned().flatten();
            let message = match (&value, &known.group) {
                (Some(value), Some(group)) if value == group => return None,
                (Some(value), _) => format!("key `{key}` says `{value}`, which is a tag of no instance that is well"),
                (None, _) => format!("there is no key `{key}`, which says the tag of the instances that are used"),
            };
            let effect = match &known.group {
                Some(group) => format!("those with the tag `{group}` stay in use"),
                None => "the service has no endpoints".into(),
            };
            Some(Problem::error(message).effect(effect))
        });
        trouble.into_iter().chain(switch).collect()
    }

    fn read(&self, name: &str, known: &Known) -> Option<Reading> {
        let instances = known.instances.as_ref()?;
        let mut reading = Reading::new(name)?;
        let is_switched = self.config.switch.contains_key(name);
        for ((instance, id), weight) in instances.iter().zip(ids(instances)).zip(weights(instances)) {
            let is_chosen = !is_switched || known.group.as_ref().is_some_and(|group| instance.service.tags.contains(group));
            let bearing = Bearing { name: &reading.name, tags: &instance.service.tags, meta: &instance.service.meta };
            let tagged = tags::read(bearing, &self.config.tags);
            reading.take(instance, tagged, weight, (is_chosen && instance.is_eligible()).then_some(id));
        }
        Some(reading)
    }
}

/// What the instances of one service say.
struct Reading {
    service: String,
    /// The same as a name of ours.
    name: String,
    instances: Vec<Spoken>,
}

/// What one instance says.
struct Spoken {
    bearer: Bearer,
    tagged: Tagged,
    has_route: bool,
    /// The endpoint of an instance whose address is a name, which a bearer cannot have: its key and value.
    named: Option<(String, Value)>,
}

impl Reading {
    /// None: nothing can have this name.
    fn new(service: &str) -> Option<Self> {
        let name = clean_name(service).ok()?.to_string();
        Some(Self { service: service.to_owned(), name, instances: Vec::new() })
    }

    /// Takes over an instance: `id` if it gets requests.
    fn take(&mut self, instance: &Instance, mut tagged: Tagged, weight: u64, id: Option<Result<String, String>>) {
        let has_route = tagged.has_route();
        let upstream = tagged.labels.entry(UPSTREAM.into()).or_insert_with(|| self.name.clone()).trim().to_owned();
        if weight != 1 {
            tagged.own("weight", &weight.to_string());
        }
        let title = format!("service {}, instance {}", self.service, instance.service.id);
        let (name, created, labels) = (self.name.clone(), instance.modified(), std::mem::take(&mut tagged.labels));
        let mut bearer = Bearer { title, name, created, labels, variables: BTreeMap::new(), instances: Vec::new() };
        let mut named = None;
        let ip_of = |id: &str, ports, any_port, trouble| labels::Instance { id: id.to_owned(), ports, any_port, is_backup: false, trouble };
        match id.map(|id| id.and_then(|id| instance.reached().map(|reached| (id, reached)))) {
            None => {}
            Some(Ok((id, Reached::Ip(ip, at)))) => {
                bearer.instances.push(ip_of(&id, at.map(|at| (at.port(), at)).into_iter().collect(), Some(ip), None));
            }
            Some(Ok((id, Reached::Name(address)))) => {
                let weight = bearer.labels.get("nuncio.weight").map_or("1", String::as_str);
                let weight = serde_json::from_str(weight).unwrap_or_else(|_| Value::from(weight));
                named = Some((format!("/upstreams/{upstream}/endpoints/{id}"), json!({ "address": address, "weight": weight })));
            }
            Some(Err(trouble)) => bearer.instances.push(ip_of("", BTreeMap::new(), None, Some(trouble))),
        }
        self.instances.push(Spoken { bearer, tagged, has_route, named });
    }

    /// Adds what is no label, and the upstream and the route that the service has in any case.
    fn add(&self, said: &mut Said, provider: &Name, route: Option<&RouteTemplate>) {
        let mut meant = self.instances.iter().filter(|spoken| spoken.is_meant()).peekable();
        let is_meant = self.instances.is_empty() || meant.peek().is_some();
        for spoken in meant {
            spoken.add(said, provider);
        }
        let title = format!("service {}", self.service);
        if self.instances.is_empty() {
            said.say(provider, 0, format!("/upstreams/{}", self.name), json!({}), place(&title, "catalog"));
        }
        let has_route = self.instances.iter().any(|spoken| spoken.has_route);
        let Some(template) = route.filter(|_| is_meant && !has_route) else { return };
        match template.rule(&self.service) {
            Ok(rule) => {
                let upstream = self.instances.first().and_then(|spoken| spoken.bearer.labels.get(UPSTREAM)).unwrap_or(&self.name);
                let value = json!({ "match": rule.text(), "upstream": upstream });
                said.say(provider, 0, format!("/routes/{}", self.name), value, place(&title, "route"));
            }
            Err(error) => said.report(provider, Problem::error(error), place(&title, "route")),
        }
    }
}

impl Spoken {
    fn is_meant(&self) -> bool {
        labels::is_meant(&self.bearer.labels)
    }

    fn add(&self, said: &mut Said, provider: &Name) {
        let Bearer { title, created, .. } = &self.bearer;
        for object in &self.tagged.objects {
            said.say(provider, *created, object.key.clone(), object.value.clone(), place(title, shown(&object.tag)));
        }
        for (tag, problem) in &self.tagged.problems {
            said.report(provider, problem.clone(), place(title, shown(tag)));
        }
        if let Some((key, value)) = &self.named {
            said.say(provider, *created, key.clone(), value.clone(), place(title, UPSTREAM));
        }
    }
}

fn place(bearer: &str, label: &str) -> Place {
    Place::Label { bearer: bearer.into(), label: label.into() }
}

/// A tag without its value, which may be a secret, as those of basic authentication are.
fn shown(tag: &str) -> &str {
    let end = if tag.starts_with("urlprefix-") { tag.find(' ') } else { tag.find('=') };
    end.and_then(|end| tag.get(..end)).unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::providers::TagDialect;
    use crate::discovery::kv::Tree;

    fn config(services: &[&str]) -> CatalogConfig {
        let services = services.iter().map(|service| ServicePattern::parse(service).unwrap()).collect();
        CatalogConfig { services, ..CatalogConfig::default() }
    }

    fn instance(id: &str, tags: &[&str], status: &str) -> Instance {
        let service = json!({ "ID": id, "Tags": tags, "Address": "10.0.0.1", "Port": 80, "ModifyIndex": 5 });
        serde_json::from_value(json!({ "Node": { "Node": "vm" }, "Service": service, "Checks": [{ "CheckID": "c", "Status": status }] }))
            .unwrap()
    }

    fn listing(services: &[(&str, &str)]) -> Listing {
        services.iter().map(|(name, tag)| ((*name).to_owned(), vec![(*tag).to_owned()])).collect()
    }

    fn wanted(services: &Services) -> Vec<&str> {
        services.wanted().map(String::as_str).collect()
    }

    fn said(services: &mut Services) -> (Vec<String>, Vec<String>) {
        let said = services.say(&Name::literal("consul"));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let pairs = said.pairs().map(|(pair, _)| format!("{} {}", text(pair.key), text(pair.value))).collect();
        (pairs, said.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn services_are_asked_for_by_name_by_pattern_by_tag_and_by_routes() {
        let mut services = Services::new(config(&["web", "api-*"]));
        assert_eq!(wanted(&services), ["web"]);
        let all = [("consul", ""), ("api-1", ""), ("tagged", "nuncio.enable=true"), ("db", ""), ("other", "")];
        assert!(!services.list(listing(&all)), "nothing is known of them yet");
        services.ask_for(["db".to_owned(), "missing".to_owned()].into());
        assert_eq!(wanted(&services), ["api-1", "db", "tagged", "web"]);
        assert!(!services.is_complete(true) && services.needs_listing(false));
        for service in ["api-1", "db", "tagged", "web"] {
            services.tell(service, Told::Service(vec![instance(service, &[], "passing")]));
        }
        assert!(services.is_complete(true));
        // A name that is missing is not gone before its own list is empty; one that is there and does not ask is.
        assert!(services.list(listing(&[("consul", ""), ("tagged", "blue")])));
        assert_eq!(wanted(&services), ["api-1", "db", "web"]);
        assert!(services.tell("db", Told::Service(Vec::new())) && services.tell("web", Told::Service(Vec::new())));
        assert_eq!(wanted(&services), ["api-1", "web"], "one that is named stays");
        assert!(!Services::new(CatalogConfig { tags: [].into(), ..config(&["web"]) }).needs_listing(false));
    }

    /// The list of a service may be told to be empty before the list of names.
    #[test]
    fn a_service_that_is_gone_is_forgotten_in_any_order() {
        for is_listed_first in [false, true] {
            let mut services = Services::new(config(&["*"]));
            services.list(listing(&[("web", "")]));
            services.tell("web", Told::Service(vec![instance("a", &[], "passing")]));
            if is_listed_first {
                services.list(listing(&[]));
            }
            services.tell("web", Told::Service(Vec::new()));
            services.list(listing(&[]));
            assert!(wanted(&services).is_empty(), "{is_listed_first}");
        }
    }

    #[test]
    fn what_may_not_be_read_stays_and_is_told() {
        let mut services = Services::new(config(&["web", "api"]));
        services.tell("web", Told::Service(vec![instance("a", &[], "passing")]));
        assert!(services.tell("web", Told::Denied("this".into())) && !services.tell("web", Told::Denied("this".into())));
        assert_eq!((services.denied(), services.is_complete(false)), (None, false));
        services.tell("api", Told::Service(Vec::new()));
        let (pairs, problems) = said(&mut services);
        assert_eq!(pairs, ["/upstreams/api {}", "/upstreams/web {}", r#"/upstreams/web/endpoints/a {"address":"10.0.0.1:80"}"#]);
        assert!(problems.len() == 1 && problems[0].contains("service web"), "{problems:?}");
        services.tell("api", Told::Denied("that".into()));
        assert_eq!(services.denied(), Some("that"));
        services.tell("web", Told::Some(vec![instance("a", &[], "passing")]));
        assert!(services.denied().is_none() && said(&mut services).1.iter().any(|problem| problem.contains("not read all instances")));
    }

    #[test]
    fn instances_of_any_dialect_go_to_the_upstream_of_their_service() {
        let mut services = Services::new(config(&[]));
        services.list(listing(&[("web", "urlprefix-/")]));
        let tags = ["nuncio.port=8080", "nuncio.weight=3", "urlprefix-/a", "traefik.http.routers.r.rule=Host(`b`)"];
        let off = instance("off", &["nuncio.enable=false", "urlprefix-/off"], "passing");
        services.tell("web", Told::Service(vec![instance("a", &tags, "passing"), instance("sick", &["urlprefix-/a"], "critical"), off]));
        let expected = [
            r#"/routes/r {"match":"Host(`b`)","upstream":"web"}"#,
            r#"/routes/web@%2Fa {"match":"PathPrefix(\"/a\")","upstream":"web"}"#,
            "/upstreams/web {}",
            r#"/upstreams/web/endpoints/a {"address":"10.0.0.1:8080","weight":3}"#,
        ];
        assert_eq!(said(&mut services), (expected.map(str::to_owned).into(), Vec::new()));
    }

    #[test]
    fn services_have_a_bound() {
        let mut services = Services::new(config(&["*"]));
        let names: Vec<String> = (0..SERVICES_MAX + 2).map(|number| format!("s{number}")).collect();
        assert!(services.list(names.iter().map(|name| (name.clone(), Vec::new())).collect()));
        assert_eq!(services.wanted().count(), SERVICES_MAX);
        assert!(said(&mut services).1.iter().any(|problem| problem.contains("2 are not watched")));
    }

    proptest! {
        #[test]
        fn any_service_can_be_said(
            name in ".{1,20}",
            ids in prop::collection::vec(".{1,12}", 0..4),
            tags in prop::collection::vec("(nuncio\\.(host|port|upstream|enable)=|urlprefix-|traefik\\.)?.{0,12}", 0..4),
        ) {
            let template = RouteTemplate::parse("Host(`{name}`)").ok();
            let mut services = Services::new(CatalogConfig { route: template, tags: [TagDialect::Nuncio, TagDialect::Fabio].into(), ..config(&["*"]) });
            services.list([(name.clone(), tags.clone())].into());
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            services.tell(&name, Told::Service(ids.iter().map(|id| instance(id, &tags, "passing")).collect()));
            let said = services.say(&Name::literal("consul"));
            let mut tree = Tree::new("", Name::literal("consul"));
            tree.replace_at(said.pairs());
        }
    }
}
