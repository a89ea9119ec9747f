//! A registration → a key and its value, as others write them too.
//!
//! | layout | key | value |
//! |---|---|---|
//! | [`Layout::DockerRegister`] | `{prefix}/SERVICE/CONTAINER` | `{"port":49155,"host":"10.0.0.1"}` and what else the container says, such as `"weight":3` |
//! | [`Layout::Registrator`] | `{prefix}/SERVICE/HOST:CONTAINER:PORT` | `10.0.0.1:49155` |
//!
//! A container's own `SERVICE_ID` takes the place of what is behind the service. Where two ports of one container are the same service,
//! docker-register's keys and such IDs have the port too: `{prefix}/SERVICE/CONTAINER:PORT`.
//!
//! Pure.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::registration::Registration;
use crate::names::Name;

/// The most bytes of a value. Containers say what is in it.
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// Names that a container may not give to what else it says: they say where the instance is, or mean another form of value.
const RESERVED: [&str; 9] = ["address", "host", "ip", "labels", "name", "port", "serviceendpoint", "tags", "url"];

/// Whose keys and values they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Those of docker-register.
    DockerRegister,
    /// Those of registrator.
    Registrator {
        /// What this host is called.
        host: String,
    },
}

/// A value, and what it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it is written.
    pub value: String,
    /// What it says.
    pub registration: Registration,
    /// What tells it from others of its service.
    pub id: String,
}

impl Layout {
    /// The entries of these registrations by their keys, and those that have none.
    #[must_use]
    pub fn entries(&self, prefix: &str, registrations: &[Registration]) -> (BTreeMap<String, Entry>, BTreeSet<String>) {
        let (mut entries, mut refused) = (BTreeMap::new(), BTreeSet::new());
        for registration in registrations {
            let entry =
                Entry { value: self.value(registration), registration: registration.clone(), id: self.id(registration, registrations) };
            let key = format!("{prefix}/{}/{}", registration.service, entry.id);
            let taken = check(&entry).and_then(|()| match entries.entry(key) {
                Slot::Vacant(slot) => {
                    slot.insert(entry);
                    Ok(())
                }
                Slot::Occupied(slot) => {
                    let other = &slot.get().registration.container;
                    Err(format!("container {other} has the same SERVICE_ID `{}`: each needs one of its own", entry.id))
                }
            });
            if let Err(trouble) = taken {
                refused.insert(format!("container {} as {}: {trouble}", registration.container, registration.service));
            }
        }
        (entries, refused)
    }

    /// What it says itself, or is called. With the port, where other ports of the container would be the same.
    fn id(&self, registration: &Registration, all: &[Registration]) -> String {
        let Registration { service, container, port, id, .. } = registration;
        let is_like = |other: &&Registration| (&other.service, &other.container) == (service, container);
        let is_alone = |is_same: &dyn Fn(&Registration) -> bool| all.iter().filter(is_like).filter(|other| is_same(other)).count() == 1;
        match (id, self) {
            (Some(id), _) if is_alone(&|other| other.id.as_ref() == Some(id)) => id.clone(),
            (Some(id), _) => format!("{id}:{port}"),
            (None, Self::DockerRegister) if is_alone(&|_| true) => container.clone(),
            (None, Self::DockerRegister) => format!("{container}:{port}"),
            (None, Self::Registrator { host }) => format!("{host}:{container}:{port}"),
        }
    }

    fn value(&self, registration: &Registration) -> String {
        match self {
            Self::Registrator { .. } => registration.address.to_string(),
            Self::DockerRegister => json(registration),
        }
    }
}

fn json(Registration { address, tags, attributes, .. }: &Registration) -> String {
    // Numbers are numbers, as docker-register has it.
    let value = |text: &String| text.parse::<u64>().map_or_else(|_| Value::from(text.as_str()), Value::from);
    let said = attributes.iter().filter(|(key, _)| !RESERVED.contains(&key.as_str()));
    let mut fields: Map<String, Value> = said.map(|(key, text)| (key.clone(), value(text))).collect();
    fields.insert("port".into(), address.port().into());
    fields.insert("host".into(), address.ip().to_string().into());
    if !tags.is_empty() {
        fields.insert("tags".into(), tags.clone().into());
    }
    Value::Object(fields).to_string()
}

/// Whether a key can be made of it that readers understand.
fn check(Entry { value, registration, id }: &Entry) -> Result<(), String> {
    let segments = registration.service.split('/').chain([id.as_str()]);
    for segment in segments {
        Name::new(segment).map_err(|error| format!("`{segment}` cannot be a part of a key: {error}"))?;
        if segment.starts_with('_') || matches!(segment, "." | "..") {
            return Err(format!("`{segment}` cannot be a part of a key: what starts with `_` or is `.` is hidden or has a meaning"));
        }
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("what it says of itself has {} bytes, more than {VALUE_BYTES_MAX}", value.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::config::providers::{Layout as Read, LayoutKind};
    use crate::discovery::kv::{Pair, Tree};

    fn registration(service: &str, container: &str, port: u16) -> Registration {
        let address = ([10, 0, 0, 1], 40_000 + port).into();
        let (service, container) = (service.to_owned(), container.to_owned());
        Registration { service, container, port, address, id: None, tags: Vec::new(), attributes: BTreeMap::new() }
    }

    fn written(layout: &Layout, registrations: &[Registration]) -> Vec<String> {
        let (entries, _) = layout.entries("/services", registrations);
        entries.iter().map(|(key, entry)| format!("{key} = {}", entry.value)).collect()
    }

    #[test]
    fn as_docker_register_writes_it() {
        let attributes = BTreeMap::from([("weight", "3"), ("region", "eu"), ("host", "x")].map(|(key, value)| (key.into(), value.into())));
        let one = Registration { attributes, tags: vec!["a".into()], ..registration("apache-A", "apache", 80) };
        let several = [one, registration("web", "two", 80), registration("web", "two", 81)];
        let expected = [
            r#"/services/apache-A/apache = {"host":"10.0.0.1","port":40080,"region":"eu","tags":["a"],"weight":3}"#,
            r#"/services/web/two:80 = {"host":"10.0.0.1","port":40080}"#,
            r#"/services/web/two:81 = {"host":"10.0.0.1","port":40081}"#,
        ];
        assert_eq!(written(&Layout::DockerRegister, &several), expected);
    }

    #[test]
    fn as_registrator_writes_it() {
        let own = Registration { id: Some("own".into()), ..registration("web", "two", 80) };
        let layout = Layout::Registrator { host: "vm".into() };
        let expected = ["/services/web/own = 10.0.0.1:40080", "/services/web/vm:two:81 = 10.0.0.1:40081"];
        assert_eq!(written(&layout, &[own, registration("web", "two", 81)]), expected);
    }

    #[test]
    fn no_one_takes_the_key_of_another_one() {
        let named = |container: &str, port| Registration { id: Some("own".into()), ..registration("web", container, port) };
        let all = [named("one", 80), named("two", 80), named("two", 81), named("x", 80)];
        for layout in [Layout::DockerRegister, Layout::Registrator { host: "vm".into() }] {
            let (entries, refused) = layout.entries("/services", &all);
            let keys: Vec<_> = entries.iter().map(|(key, entry)| format!("{key} {}", entry.registration.container)).collect();
            assert_eq!(keys, ["/services/web/own one", "/services/web/own:80 two", "/services/web/own:81 two"]);
            let expected = "container x as web: container one has the same SERVICE_ID `own`: each needs one of its own";
            assert_eq!(refused, BTreeSet::from([expected.to_owned()]));
        }
    }

    #[test]
    fn our_own_readers_understand_it() {
        for layout in [Layout::DockerRegister, Layout::Registrator { host: "vm".into() }] {
            let attributes = BTreeMap::from([("weight".into(), "3".into()), ("address".into(), "nowhere".into())]);
            let one = Registration { address: "[fd00::1]:80".parse().unwrap(), attributes, ..registration("a/b", "one", 80) };
            let (entries, _) = layout.entries("/services", &[one, registration("web", "two", 80), registration("web", "two", 81)]);
            let mut tree = Tree::with_layout("/services", Name::literal("etcd"), Read { kind: LayoutKind::Services, route: None });
            tree.replace(entries.iter().map(|(key, entry)| Pair { key: key.as_bytes(), value: entry.value.as_bytes(), revision: 1 }));
            let snapshot = tree.snapshot(None, Instant::now());
            let problems: Vec<_> = snapshot.upstreams.values().flat_map(|it| it.endpoints.values()).filter_map(|it| it.problem()).collect();
            assert!(problems.is_empty() && snapshot.problems.is_empty(), "{problems:?}");
            assert_eq!(snapshot.upstreams["web"].endpoints.len(), 2, "{layout:?}");
            assert_eq!(snapshot.upstreams["a%2Fb"].endpoints.len(), 1, "{layout:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_containers_say_is_refused_or_understood(
            service in ".{0,20}|[a-z/_.]{1,8}", container in ".{0,20}|[a-z_]{1,8}", key in ".{0,9}|url|ip|weight|host|address|serviceendpoint|status|name|labels|haproxy_server_options", said in ".{0,20}|[0-9]{1,30}",
        ) {
            let attributes = BTreeMap::from([(key.clone(), said)]);
            let one = Registration { attributes, tags: vec![key.clone()], ..registration(&service, &container, 80) };
            let registrations = [one, registration("web", "one", 80)];
            let (entries, refused) = Layout::DockerRegister.entries("/services", &registrations);
            prop_assert_eq!(entries.len() + refused.len(), 2);
            let mut tree = Tree::with_layout("/services", Name::literal("etcd"), Read { kind: LayoutKind::Services, route: None });
            tree.replace(entries.iter().map(|(key, entry)| Pair { key: key.as_bytes(), value: entry.value.as_bytes(), revision: 1 }));
            let snapshot = tree.snapshot(None, Instant::now());
            prop_assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
            // Only a weight that is none spoils an instance, and its own alone.
            let problems = snapshot.upstreams.values().flat_map(|it| it.endpoints.values()).filter(|it| it.problem().is_some()).count();
            prop_assert!(problems == 0 || matches!(key.as_str(), "weight" | "haproxy_server_options"), "{entries:?}");
        }
    }

    #[test]
    fn what_makes_no_key_is_refused_and_others_are_written() {
        let long = Registration { attributes: BTreeMap::from([("x".into(), "y".repeat(VALUE_BYTES_MAX))]), ..registration("long", "x", 1) };
        let bad = ["", "_hidden", "a//b", "a/../b", "a b"].map(|service| registration(service, "x", 1));
        let (entries, refused) =
            Layout::DockerRegister.entries("/services", &[bad.as_slice(), &[long, registration("web", "x", 1)]].concat());
        assert_eq!((entries.len(), refused.len()), (1, 6), "{refused:?}");
    }
}
