//! The `SERVICE_` variables and labels of registrator → names of services, by port.
//!
//! | | |
//! |---|---|
//! | `SERVICE_NAME` | the service. With `-PORT` behind it if there are several ports |
//! | `SERVICE_80_NAME` | the service of port 80, as it is |
//! | `SERVICE_IGNORE`, `SERVICE_80_IGNORE` | if it is not empty: no service |
//!
//! As `registrator -explicit` does, nothing is made of what says no name, unless there is a name by default. What else is said, such as
//! `SERVICE_TAGS`, means nothing to a proxy, and is kept for who registers.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

/// What all of them start with.
pub const PREFIX: &str = "SERVICE_";

/// A service that someone is an instance of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name, in any characters.
    pub name: String,
    /// The port inside.
    pub port: u16,
    /// The label or variable that names it. Empty if none does.
    pub label: String,
    /// What else is said of it, by keys in lower case: `tags`, `id`, `region`.
    pub meta: BTreeMap<String, String>,
}

/// What is said of one port, or of all: keys without what they start with, with whole labels.
type Meta<'a> = BTreeMap<&'a str, (&'a str, &'a str)>;

/// The services of someone who bears `said` and listens on `ports`. Of two that say the same, the later one counts: labels come after the
/// environment. `default` is the name of who says none.
#[must_use]
pub fn services<'a>(said: impl IntoIterator<Item = (&'a str, &'a str)>, ports: &BTreeSet<u16>, default: Option<&'a str>) -> Vec<Service> {
    let mut of_all = Meta::new();
    let mut of_port: BTreeMap<u16, Meta<'_>> = BTreeMap::new();
    for (label, value) in said {
        let Some(key) = label.strip_prefix(PREFIX) else { continue };
        match key.split_once('_').and_then(|(port, key)| Some((port.parse::<u16>().ok()?, key))) {
            Some((port, key)) => of_port.entry(port).or_default().insert(key, (label, value)),
            None => of_all.insert(key, (label, value)),
        };
    }
    // Ports of which something is said need not be known otherwise.
    let ports: BTreeSet<u16> = ports.iter().copied().chain(of_port.keys().copied()).filter(|port| *port > 0).collect();
    let is_one = ports.len() == 1;
    let service = |port: &u16| {
        let own = of_port.get(port);
        let ignore = own.and_then(|own| own.get("IGNORE")).or_else(|| of_all.get("IGNORE"));
        if ignore.is_some_and(|(_, value)| !value.is_empty()) {
            return None;
        }
        let of_all_or_default = of_all.get("NAME").copied().or(default.map(|name| ("", name)));
        let (label, name) = match (own.and_then(|own| own.get("NAME")), of_all_or_default) {
            (Some((label, name)), _) => (*label, (*name).to_owned()),
            (None, Some((label, name))) => (label, if is_one { name.to_owned() } else { format!("{name}-{port}") }),
            (None, None) => return None,
        };
        let meta = of_all.iter().chain(own.into_iter().flatten()).filter(|(key, _)| !matches!(**key, "NAME" | "IGNORE"));
        let meta = meta.map(|(key, (_, value))| (key.to_lowercase(), (*value).to_owned())).collect();
        Some(Service { name, port: *port, label: label.to_owned(), meta })
    };
    ports.iter().filter_map(service).collect()
}

/// The variables of an environment that count: `SERVICE_NAME=web`.
pub fn variables<'a>(environment: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, String> {
    let pairs = environment.into_iter().filter(|variable| variable.starts_with(PREFIX)).filter_map(|variable| variable.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &[(&str, &str)], ports: &[u16], expected: &[&str]) {
        let services = services(said.iter().copied(), &ports.iter().copied().collect(), None);
        let found: Vec<String> = services.iter().map(|service| format!("{} {} {}", service.port, service.name, service.label)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn names_are_those_of_registrator() {
        check(&[("SERVICE_NAME", "web"), ("SERVICE_TAGS", "a,b")], &[80], &["80 web SERVICE_NAME"]);
        check(&[("SERVICE_NAME", "web")], &[80, 443], &["80 web-80 SERVICE_NAME", "443 web-443 SERVICE_NAME"]);
        check(
            &[("SERVICE_NAME", "web"), ("SERVICE_443_NAME", "secure")],
            &[80, 443],
            &["80 web-80 SERVICE_NAME", "443 secure SERVICE_443_NAME"],
        );
        check(&[("SERVICE_80_NAME", "web")], &[], &["80 web SERVICE_80_NAME"]);
        check(&[("SERVICE_NAME", "old"), ("SERVICE_NAME", "new")], &[80], &["80 new SERVICE_NAME"]);
    }

    #[test]
    fn what_else_is_said_of_a_port_counts_more_than_what_is_said_of_all() {
        let said = [("SERVICE_TAGS", "a"), ("SERVICE_REGION", "eu"), ("SERVICE_443_TAGS", "b"), ("SERVICE_443_NAME", "secure")];
        let found = services(said, &BTreeSet::from([80, 443]), Some("web"));
        let meta = |tags: &str| BTreeMap::from([("tags".to_owned(), tags.to_owned()), ("region".to_owned(), "eu".to_owned())]);
        let service = |name: &str, port, label: &str, tags| Service { name: name.into(), port, label: label.into(), meta: meta(tags) };
        assert_eq!(found, [service("web-80", 80, "", "a"), service("secure", 443, "SERVICE_443_NAME", "b")]);
    }

    #[test]
    fn who_is_to_be_ignored_is() {
        check(&[("SERVICE_NAME", "web"), ("SERVICE_IGNORE", "true")], &[80], &[]);
        check(&[("SERVICE_NAME", "web"), ("SERVICE_443_IGNORE", "1")], &[80, 443], &["80 web-80 SERVICE_NAME"]);
        check(&[("SERVICE_NAME", "web"), ("SERVICE_IGNORE", "")], &[80], &["80 web SERVICE_NAME"]);
        check(&[("SERVICE_TAGS", "a")], &[80], &[]);
        check(&[("NAME", "a"), ("SERVICE_0_NAME", "b"), ("SERVICE_99999_NAME", "c")], &[80], &[]);
    }

    #[test]
    fn an_environment_is_filtered() {
        let variables = variables(["PATH=/bin", "SERVICE_NAME=a=b", "SERVICE_TAGS"]);
        assert_eq!(variables, BTreeMap::from([("SERVICE_NAME".to_owned(), "a=b".to_owned())]));
    }
}
