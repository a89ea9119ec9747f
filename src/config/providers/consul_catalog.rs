//! Which services of Consul's catalog are asked for, and what is made of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::layout::RouteTemplate;

/// Services of Consul's catalog. Each one that is asked for becomes an upstream of its name, whose endpoints are the instances that are
/// well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogConfig {
    /// Services by name, where `*` stands for any characters: `["web", "api-*"]`. A service without a `*` is an upstream also while it has
    /// no instance. `consul` itself is meant only by its full name. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServicePattern>,
    /// Whose tags are read: a service with one of them is asked for. Default `["nuncio", "fabio", "traefik"]`.
    pub tags: BTreeSet<TagDialect>,
    /// The rule of the route that each service gets whose tags say no route. Default: none, upstreams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTemplate>,
    /// Services of which only the instances with one tag are used, and the key whose value is that tag: `{ web = "backend/current" }`.
    /// The key is one of Consul's store, in full. A value that is the tag of no instance that is well changes nothing. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub switch: BTreeMap<String, String>,
}

/// Services with tags.
impl Default for CatalogConfig {
    fn default() -> Self {
        Self { services: Vec::new(), tags: TagDialect::ALL.into(), route: None, switch: BTreeMap::new() }
    }
}

impl CatalogConfig {
    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.services.is_empty() && self.tags.is_empty() {
            return Err("`catalog` asks for no service: it needs `services` or `tags`".into());
        }
        match self.switch.iter().find(|(service, key)| service.is_empty() || key.trim_matches('/').is_empty()) {
            Some((service, key)) => Err(format!("`switch` needs a service and a key, not `{service}` and `{key}`")),
            None => Ok(()),
        }
    }
}

/// Who writes tags that describe routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TagDialect {
    /// Our own, as labels of containers: `nuncio.host=a.test`.
    Nuncio,
    /// Of fabio: `urlprefix-a.test/`.
    Fabio,
    /// Of traefik: `traefik.http.routers.web.rule=…`.
    Traefik,
}

impl TagDialect {
    const ALL: [Self; 3] = [Self::Nuncio, Self::Fabio, Self::Traefik];
}

/// The name of a service, or of several: `*` stands for any characters, also none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServicePattern(String);

/// The longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 512;

impl ServicePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A sentence that says what is wrong: it is empty, or too long.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.len() {
            0 => Err("the name of a service is not empty".into()),
            1..=PATTERN_BYTES_MAX => Ok(Self(text.to_owned())),
            bytes => Err(format!("the name of a service has at most {PATTERN_BYTES_MAX} bytes, this one has {bytes}")),
        }
    }

    /// The one name that it stands for. None: it has a `*`.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(self.0.as_str())
    }

    /// Whether the service of this name is meant.
    #[must_use]
    pub fn is_match(&self, service: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else { return self.0 == service };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        let inside = service.strip_prefix(start).and_then(|service| service.strip_suffix(end));
        // The first place of each piece leaves the most room for the others.
        let found = inside.and_then(|inside| {
            middle.split('*').try_fold(inside, |left, piece| left.find(piece).and_then(|at| left.get(at + piece.len()..)))
        });
        found.is_some()
    }
}

impl TryFrom<String> for ServicePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<ServicePattern> for String {
    fn from(pattern: ServicePattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, service, expected) in [
            ("web", "web", true),
            ("web", "web2", false),
            ("*", "web", true),
            ("*", "", true),
            ("api-*", "api-", true),
            ("api-*", "ap", false),
            ("*-v1", "api-v1", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*a*a*", "a", false),
            ("*a*a*", "bacab", true),
        ] {
            assert_eq!(ServicePattern::parse(pattern).unwrap().is_match(service), expected, "{pattern} {service}");
        }
        assert!(ServicePattern::parse("").is_err() && ServicePattern::parse(&"a".repeat(600)).is_err());
    }

    #[test]
    fn settings_go_together() {
        let check = |text: &str| toml::from_str::<CatalogConfig>(text).unwrap().check();
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("services = [\"web\"]\ntags = []\nswitch = { web = \"a/b\" }"), Ok(()));
        assert!(check("tags = []").unwrap_err().contains("asks for no service"));
        assert!(check("switch = { web = \"/\" }").unwrap_err().contains("`switch` needs"));
    }
}
