//! Containers → what to register of them: which services, and where each is reached.
//!
//! Pure. Only containers count that run, are not paused, were not told to end, and whose health check, if they have one, passes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::config::providers::DockerConfig;
use crate::discovery::containers::{Container, bearers};
use crate::discovery::labels::{Bearer, Instance};
use crate::discovery::registrator_labels::{Service, services};

/// The most registrations of one engine. What is beyond is refused.
pub const REGISTRATIONS_MAX: usize = 10_000;

/// Which containers are registered, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Those that say so by `SERVICE_NAME` and its like, as labels or variables.
    Labelled {
        /// Also those that say nothing, under the names of their images.
        is_all: bool,
    },
    /// A port of one container, as a service of this name.
    One {
        /// The container's name.
        container: String,
        /// The port inside.
        port: u16,
        /// The service.
        service: String,
    },
}

/// A port of a container as an instance of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The service.
    pub service: String,
    /// The container's name.
    pub container: String,
    /// The port inside.
    pub port: u16,
    /// Where it is reached.
    pub address: SocketAddr,
    /// The id that it wants.
    pub id: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// What else it says, by keys in lower case.
    pub attributes: BTreeMap<String, String>,
}

/// What to register, in a stable order, and what cannot be.
#[must_use]
pub fn of(
    containers: &[Container],
    stopping: &BTreeSet<String>,
    engine: &DockerConfig,
    selection: &Selection,
) -> (Vec<Registration>, BTreeSet<String>) {
    let (mut found, mut troubles) = (Vec::new(), BTreeSet::new());
    for (container, bearer) in containers.iter().zip(bearers(containers, stopping, engine)) {
        for instance in &bearer.instances {
            let wanted = wanted(container, &bearer, instance, selection);
            if wanted.is_empty() && matches!(selection, Selection::Labelled { .. }) {
                troubles.extend(portless(&bearer, instance));
            }
            for service in wanted {
                match instance.address(Some(service.port)) {
                    Ok(address) => found.push(registration(container, service, address)),
                    Err(trouble) => {
                        troubles.insert(format!("{} as {}: {trouble}", bearer.title, service.name));
                    }
                }
            }
        }
    }
    if let Selection::One { container: name, .. } = selection
        && !containers.iter().any(|container| container.name() == name)
    {
        troubles.insert(format!("container {name}: none of this name runs"));
    }
    found.sort_by(|one, other| (&one.service, &one.container, one.port).cmp(&(&other.service, &other.container, other.port)));
    if found.len() > REGISTRATIONS_MAX {
        troubles.insert(format!("{} of {}: more than {REGISTRATIONS_MAX}", found.len() - REGISTRATIONS_MAX, found.len()));
        found.truncate(REGISTRATIONS_MAX);
    }
    (found, troubles)
}

/// The services of a container.
fn wanted(container: &Container, bearer: &Bearer, instance: &Instance, selection: &Selection) -> Vec<Service> {
    match selection {
        Selection::Labelled { is_all } => {
            let ports = instance.ports.keys().copied().collect();
            let said = bearer.variables.iter().chain(&bearer.labels).map(|(key, value)| (key.as_str(), value.as_str()));
            services(said, &ports, is_all.then(|| image_name(&container.image)))
        }
        Selection::One { container: name, port, service } if container.name() == name => {
            vec![Service { name: service.clone(), port: *port, label: String::new(), meta: BTreeMap::new() }]
        }
        Selection::One { .. } => Vec::new(),
    }
}

/// What is said to who has a name, and no port that it could be the name of.
fn portless(bearer: &Bearer, instance: &Instance) -> Option<String> {
    let said = |key| bearer.labels.get(key).or_else(|| bearer.variables.get(key)).filter(|value| !value.is_empty());
    if !instance.ports.is_empty() || said("SERVICE_IGNORE").is_some() {
        return None;
    }
    let trouble = match (&instance.trouble, instance.any_port) {
        (Some(trouble), _) => trouble,
        (None, Some(_)) => "no TCP port of it is known: SERVICE_80_NAME in the place of SERVICE_NAME says one",
        (None, None) => "it publishes no TCP port",
    };
    Some(format!("{} as {}: {trouble}", bearer.title, said("SERVICE_NAME")?))
}

fn registration(container: &Container, service: Service, address: SocketAddr) -> Registration {
    let mut attributes = service.meta;
    let id = attributes.remove("id").filter(|id| !id.is_empty());
    let tags = attributes.remove("tags").map(|tags| split_tags(&tags)).unwrap_or_default();
    // Checks of registrator's, which the engine and who uses the service do better.
    attributes.retain(|key, _| !key.starts_with("check_"));
    Registration { service: service.name, container: container.name().to_owned(), port: service.port, address, id, tags, attributes }
}

/// `web` of `registry.example.com:5000/team/web:1.2@sha256:…`.
fn image_name(image: &str) -> &str {
    let base = image.rsplit('/').next().unwrap_or(image);
    base.split([':', '@']).next().unwrap_or(base)
}

/// Tags are separated by commas; `\,` is a comma in a tag.
fn split_tags(text: &str) -> Vec<String> {
    let mut tags = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, tags.last_mut()) {
            ('\\', Some(tag)) if characters.next_if_eq(&',').is_some() => tag.push(','),
            (',', _) => tags.push(String::new()),
            (character, Some(tag)) => tag.push(character),
            (_, None) => (),
        }
    }
    tags.retain(|tag| !tag.is_empty());
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::providers::AddressChoice;

    const LIST: &str = r#"[
        {"Id": "1", "Names": ["/web"], "Image": "registry:5000/team/shop:1", "State": "running", "Status": "Up 1 s (healthy)",
         "Labels": {"SERVICE_NAME": "shop", "SERVICE_TAGS": "a,b\\,c", "SERVICE_443_ID": "x", "SERVICE_CHECK_HTTP": "/"},
         "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                   {"IP": "10.0.0.7", "PrivatePort": 443, "PublicPort": 8443, "Type": "tcp"}, {"PrivatePort": 9000, "Type": "tcp"}],
         "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}}},
        {"Id": "2", "Names": ["/plain"], "Image": "nginx@sha256:12", "State": "running", "Status": "Up 1 s",
         "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8081, "Type": "tcp"}],
         "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.3"}}}},
        {"Id": "3", "Names": ["/sick"], "Image": "nginx", "State": "running", "Status": "Up 1 s (unhealthy)", "Labels": {"SERVICE_NAME": "shop"},
         "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8082, "Type": "tcp"}]},
        {"Id": "4", "Names": ["/hidden"], "Image": "nginx", "State": "running", "Labels": {"SERVICE_80_NAME": "hidden"}},
        {"Id": "5", "Names": ["/silent"], "Image": "nginx", "State": "running", "Labels": {"SERVICE_NAME": "silent"}},
        {"Id": "6", "Names": ["/ignored"], "Image": "nginx", "State": "running", "Labels": {"SERVICE_NAME": "x", "SERVICE_IGNORE": "1"}},
        {"Id": "7", "Names": ["/host"], "Image": "nginx", "State": "running", "Labels": {"SERVICE_NAME": "host"},
         "HostConfig": {"NetworkMode": "host"}}]"#;

    fn check(address: AddressChoice, selection: &Selection, stopping: &[&str], expected: &[&str]) -> BTreeSet<String> {
        let engine = DockerConfig { address, host_address: Some([10, 0, 0, 9].into()), ..DockerConfig::default() };
        let containers: Vec<Container> = serde_json::from_str(LIST).unwrap();
        let stopping = stopping.iter().map(|id| (*id).to_owned()).collect();
        let (found, troubles) = of(&containers, &stopping, &engine, selection);
        let found: Vec<String> = found.iter().map(|it| format!("{} {}:{} {}", it.service, it.container, it.port, it.address)).collect();
        assert_eq!(found, expected);
        troubles
    }

    #[test]
    fn those_that_say_so_are_registered_where_they_are_published() {
        let labelled = Selection::Labelled { is_all: false };
        let troubles = check(AddressChoice::Published, &labelled, &[], &["shop-443 web:443 10.0.0.7:8443", "shop-80 web:80 10.0.0.9:8080"]);
        let expected = [
            "container hidden as hidden: port 80 is not published, nor is any other",
            "container host as host: no TCP port of it is known: SERVICE_80_NAME in the place of SERVICE_NAME says one",
            "container silent as silent: it publishes no TCP port",
        ];
        assert_eq!(troubles, expected.map(str::to_owned).into());
        check(AddressChoice::Published, &labelled, &["1"], &[]);
        let inside = ["shop-443 web:443 172.17.0.2:443", "shop-80 web:80 172.17.0.2:80", "shop-9000 web:9000 172.17.0.2:9000"];
        check(AddressChoice::Internal, &labelled, &[], &inside);
    }

    #[test]
    fn all_have_the_names_of_their_images() {
        let all = Selection::Labelled { is_all: true };
        let expected = ["nginx plain:80 10.0.0.9:8081", "shop-443 web:443 10.0.0.7:8443", "shop-80 web:80 10.0.0.9:8080"];
        check(AddressChoice::Published, &all, &[], &expected);
    }

    #[test]
    fn one_is_registered_whatever_it_says() {
        let one = |container: &str, port| Selection::One { container: container.into(), port, service: "apache-A".into() };
        check(AddressChoice::Published, &one("plain", 80), &[], &["apache-A plain:80 10.0.0.9:8081"]);
        let troubles = check(AddressChoice::Published, &one("none", 80), &[], &[]);
        assert_eq!(troubles, ["container none: none of this name runs".to_owned()].into());
        let troubles = check(AddressChoice::Published, &one("plain", 81), &[], &[]);
        assert_eq!(troubles.len(), 1);
    }

    #[test]
    fn what_else_a_container_says_is_kept() {
        let containers: Vec<Container> = serde_json::from_str(LIST).unwrap();
        let engine = DockerConfig { address: AddressChoice::Published, ..DockerConfig::default() };
        let (found, _) = of(&containers, &BTreeSet::new(), &engine, &Selection::Labelled { is_all: false });
        assert_eq!((found[0].id.as_deref(), found[1].id.as_deref()), (Some("x"), None));
        assert_eq!((found[0].tags.as_slice(), found[0].attributes.len()), (["a".to_owned(), "b,c".to_owned()].as_slice(), 0));
    }

    #[test]
    fn images_are_called_by_their_last_part() {
        for (image, expected) in [("nginx", "nginx"), ("a/b/web:1", "web"), ("r:5000/web@sha256:1", "web"), ("", "")] {
            assert_eq!(image_name(image), expected, "{image}");
        }
        assert_eq!(split_tags(r",a\b,,c\,d\"), [r"a\b", r"c,d\"]);
    }
}
