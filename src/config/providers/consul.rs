//! A Consul agent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::consul_catalog::{CatalogConfig, ServicePattern};
use super::credentials;
use super::keyring::KeyringConfig;
use super::layout::{Layout, LayoutKind, RouteTemplate};
use super::tls::ClientTls;
use super::url::{Url, check_schemes, is_server, list_of, settings, truth, unknown_setting, with_port};
use crate::config::{Secret, duration};

/// The key/value store of a Consul agent, and the services in its catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsulConfig {
    /// URLs of agents, such as `"http://127.0.0.1:8500"`, taken in turn. At least one; `https` with `tls`.
    #[serde(deserialize_with = "deserialize_endpoints")]
    pub endpoints: Vec<String>,
    /// What all keys start with. A `/` at its start or end makes no difference. Default: the name of the layout.
    #[serde(default = "prefix_default", deserialize_with = "deserialize_prefix")]
    pub prefix: String,
    /// How the keys and their values are read. Default `"nuncio"`. Services of the catalog go with that one alone.
    #[serde(default)]
    pub layout: LayoutKind,
    /// With `layout = "services"`: the rule of the route that each service gets. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTemplate>,
    /// Whether the keys below `prefix` are read. Default true.
    #[serde(default = "kv_default")]
    pub kv: bool,
    /// Reads services of the catalog when present. `{}`: those with tags that describe routes. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<CatalogConfig>,
    /// The ACL token. It needs `key_prefix` read below `prefix`, and for the catalog `service` and `node` read. Default: the anonymous
    /// token.
    #[serde(default, skip_serializing)]
    pub token: Option<Secret>,
    /// The datacenter to read. Default: the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// Lets any server answer, not the leader alone. Default false.
    #[serde(default)]
    pub stale: bool,
    /// With `stale`: a server that has not heard from its leader for longer is not believed, and the leader is asked. Default 10 s.
    #[serde(default = "max_stale_default", with = "duration")]
    pub max_stale: Duration,
    /// Opens values that crypt or `nuncio seal` sealed: a file of secret keys, or `{ path, passphrase_file }`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<KeyringConfig>,
    /// Speaks TLS to the agents when present. `{}` verifies against the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
}

/// The agent of this host.
impl Default for ConsulConfig {
    fn default() -> Self {
        let endpoints = vec!["http://127.0.0.1:8500".into()];
        Self {
            endpoints,
            prefix: prefix_default(),
            layout: LayoutKind::default(),
            route: None,
            kv: true,
            catalog: None,
            token: None,
            datacenter: None,
            stale: false,
            max_stale: max_stale_default(),
            keyring: None,
            tls: None,
        }
    }
}

impl ConsulConfig {
    /// The port of an agent whose URL has none.
    pub const PORT_DEFAULT: u16 = 8500;

    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        check_schemes(&self.endpoints, self.tls.as_ref())?;
        credentials::check(None, None, self.token.as_ref())?;
        self.layout().check(&format!("/{}", self.prefix))?;
        if self.layout != LayoutKind::Nuncio && self.catalog.is_some() {
            return Err(format!("`layout = \"{}\"` goes without `catalog`: make two providers of it", self.layout.as_str()));
        }
        if !self.kv && self.catalog.is_none() {
            return Err("nothing is read: `kv` is false, and there is no `catalog`".into());
        }
        self.catalog.as_ref().map_or(Ok(()), CatalogConfig::check)?;
        self.tls.as_ref().map_or(Ok(()), ClientTls::check)
    }

    /// How keys and values are read.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout { kind: self.layout, route: self.route.clone() }
    }

    /// What all keys start with unless it is said, once the layout is known.
    pub(super) fn set_default_prefix(&mut self) {
        self.layout.as_str().clone_into(&mut self.prefix);
    }

    /// Reads what follows `consul://`, or with `tls` `consuls://`.
    pub(super) fn parse_url(rest: &str, tls: Option<ClientTls>) -> Result<Self, String> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let Url { user: token, password, hosts, path } = Url::parse(rest)?;
        if password.is_some() {
            return Err("a Consul URL has a token alone, not a user and a password: consul://TOKEN@host:8500/prefix".into());
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = |host: &&str| {
            let url = format!("{scheme}://{}", with_port(host, Self::PORT_DEFAULT));
            check_endpoint(&url).map(|()| url)
        };
        let endpoints = hosts.iter().map(endpoint).collect::<Result<_, _>>()?;
        let mut config = Self { endpoints, token: token.map(Secret::from), tls, ..Self::default() };
        let mut route = None;
        for setting in settings(query) {
            let (key, value) = setting?;
            match key {
                "route" => route = Some(RouteTemplate::parse(&value)?),
                _ => config.set(key, &value)?,
            }
        }
        config.set_default_prefix();
        if path.len() > 1 {
            config.prefix = parse_prefix(path)?;
        }
        match config.layout {
            LayoutKind::Services => config.route = route,
            LayoutKind::Nuncio | LayoutKind::Vulcand => {
                route.into_iter().for_each(|route| config.catalog.get_or_insert_default().route = Some(route));
            }
        }
        config.check().map(|()| config)
    }

    /// Takes over a setting of a URL's query but `route`: `?catalog`, `?services=web,api-*&kv=false`, `?layout=services`.
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        const KEYS: [&str; 8] = ["catalog", "datacenter", "keyring", "kv", "layout", "route", "services", "stale"];
        match key {
            "catalog" if !truth(key, value)? => self.catalog = None,
            "catalog" => drop(self.catalog.get_or_insert_default()),
            "datacenter" => self.datacenter = Some(value.to_owned()),
            "keyring" => self.keyring = Some(KeyringConfig::new(value)),
            "kv" => self.kv = truth(key, value)?,
            "layout" => self.layout = LayoutKind::parse(value)?,
            "services" => {
                let services: Vec<_> = value.split(',').map(ServicePattern::parse).collect::<Result<_, _>>()?;
                self.catalog.get_or_insert_default().services = services;
            }
            "stale" => self.stale = truth(key, value)?,
            _ => return Err(unknown_setting(key, &KEYS)),
        }
        Ok(())
    }
}

/// Its error does not quote what may be a token.
fn check_endpoint(endpoint: &str) -> Result<(), String> {
    if is_server(endpoint) {
        return Ok(());
    }
    let shown = endpoint.rsplit_once('@').map_or(endpoint, |(_, host)| host);
    Err(format!("`{shown}` is not the URL of a Consul agent, such as \"http://127.0.0.1:8500\""))
}

fn parse_prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim_matches('/');
    if !prefix.is_empty() && !prefix.contains("//") {
        return Ok(prefix.to_owned());
    }
    Err(format!("`{text}` is not a prefix of keys, such as \"nuncio\""))
}

fn prefix_default() -> String {
    "nuncio".into()
}

fn kv_default() -> bool {
    true
}

fn max_stale_default() -> Duration {
    Duration::from_secs(10)
}

fn deserialize_prefix<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_prefix(&text).map_err(serde::de::Error::custom)
}

fn deserialize_endpoints<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list_of(deserializer, "URL", check_endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_whole_configuration() {
        let config = ConsulConfig::parse_url("geheim@10.0.0.5,[::1]:8501/edge/eu/", None).unwrap();
        assert_eq!(config.endpoints, ["http://10.0.0.5:8500", "http://[::1]:8501"]);
        assert_eq!((config.prefix.as_str(), config.token.as_deref()), ("edge/eu", Some("geheim")));
        assert!(!format!("{config:?}").contains("geheim"));
        let config = ConsulConfig::parse_url("consul", Some(ClientTls::default())).unwrap();
        assert_eq!((config.endpoints.as_slice(), config.prefix.as_str()), (["https://consul:8500".to_owned()].as_slice(), "nuncio"));
    }

    #[test]
    fn the_query_asks_for_services() {
        let config = ConsulConfig::parse_url("consul?services=web,api-*&kv=false&stale&route=Host(`{name}.test`)", None).unwrap();
        assert!(!config.kv && config.stale);
        let catalog = config.catalog.unwrap();
        assert_eq!(catalog.services, ["web", "api-*"].map(|service| ServicePattern::parse(service).unwrap()));
        assert_eq!((catalog.tags.len(), catalog.route.is_some()), (3, true));
        assert_eq!(ConsulConfig::parse_url("consul/edge?catalog", None).unwrap().catalog, Some(CatalogConfig::default()));
        assert_eq!(ConsulConfig::parse_url("consul", None).unwrap().catalog, None);
    }

    #[test]
    fn the_query_says_the_layout_of_keys() {
        let config = ConsulConfig::parse_url("consul?layout=services&route=Host(`{name}.test`)&keyring=/r", None).unwrap();
        assert_eq!((config.layout, config.prefix.as_str(), config.catalog.as_ref()), (LayoutKind::Services, "services", None));
        assert!(config.route.is_some() && config.keyring == Some(KeyringConfig::new("/r")));
        assert_eq!(ConsulConfig::parse_url("consul/apps?layout=services", None).unwrap().prefix, "apps");
    }

    #[test]
    fn what_is_none_says_so_without_its_token() {
        for (url, expected) in [
            ("geheim@", "not the URL of a Consul agent"),
            ("geheim@a b", "not the URL of a Consul agent"),
            ("user:geheim@a", "a token alone"),
            ("geheim%0a@a", "no token has"),
            ("a//x//y", "not a prefix"),
            ("a?kv=no", "`true` or `false`"),
            ("a?kv=false", "nothing is read"),
            ("a?layout=services&catalog", "two providers"),
            ("a?layout=service", "did you mean `services`?"),
            ("a?service=web", "did you mean `services`?"),
            ("a?services=web,", "is not empty"),
            ("a?route=Host(`a`)", "needs a place"),
        ] {
            let error = ConsulConfig::parse_url(url, None).unwrap_err();
            assert!(error.contains(expected) && !error.contains("geheim"), "{url}: {error}");
        }
        let quoted = check_endpoint("http://geheim@host:8500").unwrap_err();
        assert!(!quoted.contains("geheim"), "{quoted}");
    }
}
