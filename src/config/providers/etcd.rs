//! An etcd store, by its v3 or its v2 API.

use serde::{Deserialize, Serialize};

use super::keyring::KeyringConfig;
use super::layout::{Layout, LayoutKind, LayoutQuery, RouteTemplate};
use super::tls::ClientTls;
use super::url::{Url, check_schemes, is_server, list_of, with_port};
use crate::config::{Secret, secrets};

/// An etcd store, by its v3 or its v2 API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdConfig {
    /// URLs of the members, such as `"http://10.0.0.5:2379"`. At least one; `https` with `tls`.
    #[serde(deserialize_with = "deserialize_endpoints")]
    pub endpoints: Vec<String>,
    /// What all keys start with. Starts with `/`, but for vulcand's, and does not end with one. Default `"/nuncio"`, or as the layout is
    /// called.
    #[serde(default = "prefix_default", deserialize_with = "deserialize_prefix")]
    pub prefix: String,
    /// Whose keys and values they are: `"nuncio"` (default), `"services"` or `"vulcand"`.
    #[serde(default)]
    pub layout: LayoutKind,
    /// The rule of the route that each service gets, such as `Host("{name}.example.com")`. Default: none, services make upstreams only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTemplate>,
    /// Opens values that crypt or `nuncio seal` sealed: a file of secret keys, or `{ path, passphrase_file }`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<KeyringConfig>,
    /// Speaks TLS to the members when present. `{}` verifies against the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// The user to authenticate as. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password. Default: empty.
    #[serde(default, skip_serializing)]
    pub password: Option<Secret>,
}

/// The etcd of this host.
impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".into()],
            prefix: prefix_default(),
            layout: LayoutKind::default(),
            route: None,
            keyring: None,
            tls: None,
            username: None,
            password: None,
        }
    }
}

impl EtcdConfig {
    /// The port of a member whose URL has none.
    pub const PORT_DEFAULT: u16 = 2379;

    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        self.layout().check(&self.prefix)?;
        check_schemes(&self.endpoints, self.tls.as_ref())?;
        if self.password.is_some() && self.username.is_none() {
            return Err("`password` needs a `username`".into());
        }
        self.tls.as_ref().map_or(Ok(()), ClientTls::check)
    }

    /// What all keys start with unless it is said, once the layout is known.
    pub(super) fn set_default_prefix(&mut self) {
        self.prefix = self.layout.prefix_default();
    }

    /// How keys and values are read.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout { kind: self.layout, route: self.route.clone() }
    }

    /// Reads what follows `etcd://`, or with `tls` `etcds://`.
    pub(super) fn parse_url(rest: &str, tls: Option<ClientTls>) -> Result<Self, String> {
        let (rest, LayoutQuery { layout, prefix, keyring }) = LayoutQuery::parse(rest)?;
        let Url { user, password, hosts, path } = Url::parse(rest)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = |host: &&str| {
            let url = format!("{scheme}://{}", with_port(host, Self::PORT_DEFAULT));
            check_endpoint(&url).map(|()| url)
        };
        let endpoints = hosts.iter().map(endpoint).collect::<Result<_, _>>()?;
        let prefix = match prefix {
            Some(prefix) => parse_prefix(&prefix)?,
            None if path.len() > 1 => parse_prefix(path)?,
            None => layout.kind.prefix_default(),
        };
        let config = Self { endpoints, prefix, layout: layout.kind, route: layout.route, keyring, tls, username: user, password };
        config.check().map(|()| config)
    }
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    if is_server(endpoint) {
        return Ok(());
    }
    Err(format!("`{}` is not the URL of an etcd member, such as \"http://10.0.0.5:2379\"", secrets::mask(endpoint)))
}

fn parse_prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim_end_matches('/');
    if !prefix.is_empty() && !prefix.contains("//") {
        return Ok(prefix.to_string());
    }
    Err(format!("`{text}` is not a prefix of keys, such as \"/nuncio\""))
}

fn prefix_default() -> String {
    "/nuncio".into()
}

fn deserialize_prefix<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_prefix(&text).map_err(serde::de::Error::custom)
}

fn deserialize_endpoints<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list_of(deserializer, "URL", check_endpoint)
}
