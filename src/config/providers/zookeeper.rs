//! A ZooKeeper ensemble.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::keyring::KeyringConfig;
use super::layout::{Layout, LayoutKind, LayoutQuery, RouteTemplate};
use super::tls::ClientTls;
use super::url::{Url, is_server, list_of, with_port};
use crate::config::{Secret, duration};

/// A ZooKeeper ensemble. Its servers are of version 3.6 or later, which can watch a whole tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZookeeperConfig {
    /// The servers, such as `"10.0.0.5:2181"`, taken in turn. At least one. Default port: 2181, or 2281 with `tls`.
    #[serde(deserialize_with = "deserialize_endpoints")]
    pub endpoints: Vec<String>,
    /// The znode that all others are below, which others call a chroot. Starts with `/` and does not end with one. Default `"/nuncio"`, or
    /// as the layout is called.
    #[serde(default = "prefix_default", deserialize_with = "deserialize_prefix")]
    pub prefix: String,
    /// Whose znodes they are: `"nuncio"` (default), `"services"` or `"vulcand"`.
    #[serde(default)]
    pub layout: LayoutKind,
    /// The rule of the route that each service gets, such as `Host("{name}.example.com")`. Default: none, services make upstreams only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTemplate>,
    /// Opens values that crypt or `nuncio seal` sealed: a file of secret keys, or `{ path, passphrase_file }`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyring: Option<KeyringConfig>,
    /// Speaks TLS to the servers when present: to their `secureClientPort`. `{}` verifies against the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// The user of the scheme `digest`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password. Default: empty.
    #[serde(default, skip_serializing)]
    pub password: Option<Secret>,
    /// How long a session may be silent. A server that says nothing for two thirds of it is taken for gone. 2 s to 2 min; a server
    /// has bounds of its own, 4 s to 40 s unless it was told otherwise. Default 6 s.
    #[serde(default = "session_timeout_default", with = "duration")]
    pub session_timeout: Duration,
}

/// The server of this host.
impl Default for ZookeeperConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:2181".into()],
            prefix: prefix_default(),
            layout: LayoutKind::default(),
            route: None,
            keyring: None,
            tls: None,
            username: None,
            password: None,
            session_timeout: session_timeout_default(),
        }
    }
}

impl ZookeeperConfig {
    /// The port of a server that names none.
    pub const PORT_DEFAULT: u16 = 2181;

    /// The same with TLS.
    pub const TLS_PORT_DEFAULT: u16 = 2281;

    /// What `session_timeout` may be.
    pub const SESSION_TIMEOUT_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(120);

    /// Whether the settings go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub(super) fn check(&self) -> Result<(), String> {
        self.layout().check(&self.prefix)?;
        if !self.prefix.starts_with('/') {
            return Err(format!("`{}` is not the path of a znode, such as \"/nuncio\"", self.prefix));
        }
        if self.password.is_some() && self.username.is_none() {
            return Err("`password` needs a `username`".into());
        }
        if self.username.as_ref().is_some_and(|user| user.is_empty() || user.contains(':')) {
            return Err("`username` is not empty and has no `:`".into());
        }
        if !Self::SESSION_TIMEOUT_RANGE.contains(&self.session_timeout) {
            return Err("`session_timeout` is from 2s to 2min".into());
        }
        self.tls.as_ref().map_or(Ok(()), ClientTls::check)
    }

    /// What all keys start with unless it is said, once the layout is known.
    pub(super) fn set_default_prefix(&mut self) {
        self.prefix = self.layout.prefix_default();
    }

    /// How znodes are read.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout { kind: self.layout, route: self.route.clone() }
    }

    /// The servers, each with its port.
    #[must_use]
    pub fn servers(&self) -> Vec<String> {
        let port = if self.tls.is_some() { Self::TLS_PORT_DEFAULT } else { Self::PORT_DEFAULT };
        self.endpoints.iter().map(|endpoint| with_port(endpoint, port)).collect()
    }

    /// Reads what follows `zookeeper://`, or with `tls` `zookeepers://`.
    pub(super) fn parse_url(rest: &str, tls: Option<ClientTls>) -> Result<Self, String> {
        let (rest, LayoutQuery { layout, prefix, keyring }) = LayoutQuery::parse(rest)?;
        let Url { user, password, hosts, path } = Url::parse(rest)?;
        let endpoints = hosts.iter().map(|host| check_endpoint(host).map(|()| (*host).to_owned())).collect::<Result<_, _>>()?;
        let prefix = match prefix {
            Some(prefix) => parse_prefix(&prefix)?,
            None if path.len() > 1 => parse_prefix(path)?,
            None => layout.kind.prefix_default(),
        };
        let (layout, route) = (layout.kind, layout.route);
        let config = Self { endpoints, prefix, layout, route, keyring, tls, username: user, password, ..Self::default() };
        config.check().map(|()| config)
    }
}

/// Its error does not quote what may be a password.
fn check_endpoint(endpoint: &str) -> Result<(), String> {
    if !endpoint.contains('/') && is_server(&format!("http://{}", with_port(endpoint, ZookeeperConfig::PORT_DEFAULT))) {
        return Ok(());
    }
    let shown = endpoint.rsplit_once('@').map_or(endpoint, |(_, host)| host);
    Err(format!("`{shown}` is not a ZooKeeper server, such as \"10.0.0.5:2181\""))
}

fn parse_prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim_end_matches('/');
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..");
    if prefix.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment)) {
        return Ok(prefix.to_owned());
    }
    Err(format!("`{text}` is not the path of a znode, such as \"/nuncio\""))
}

fn prefix_default() -> String {
    "/nuncio".into()
}

fn session_timeout_default() -> Duration {
    Duration::from_secs(6)
}

fn deserialize_prefix<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_prefix(&text).map_err(serde::de::Error::custom)
}

fn deserialize_endpoints<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    list_of(deserializer, "server", check_endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_whole_configuration() {
        let config = ZookeeperConfig::parse_url("nuncio:a%40b@zk1:2182,[::1],zk3/site/edge/", None).unwrap();
        assert_eq!(config.endpoints, ["zk1:2182", "[::1]", "zk3"]);
        assert_eq!((config.prefix.as_str(), config.servers().join(" ").as_str()), ("/site/edge", "zk1:2182 [::1]:2181 zk3:2181"));
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (Some("nuncio"), Some("a@b")));
        assert!(!format!("{config:?}").contains("a@b"));
        let config = ZookeeperConfig::parse_url("zk?layout=services", Some(ClientTls::default())).unwrap();
        assert_eq!(
            (config.prefix.as_str(), config.layout, config.servers()),
            ("/services", LayoutKind::Services, vec!["zk:2281".to_owned()])
        );
    }

    #[test]
    fn what_is_none_says_so_without_its_password() {
        for (url, expected) in [
            ("", "not a ZooKeeper server"),
            ("a:geheim@", "not a ZooKeeper server"),
            ("a:geheim@b c", "not a ZooKeeper server"),
            ("a:geheim@b,,c", "not a ZooKeeper server"),
            ("a//x", "not the path of a znode"),
            ("a/x/../y", "not the path of a znode"),
            ("a?prefix=vulcand&layout=vulcand", "not the path of a znode"),
            (":geheim@a", "`username`"),
            ("a?session_timeout=9s", "unknown setting"),
        ] {
            let error = ZookeeperConfig::parse_url(url, None).unwrap_err();
            assert!(error.contains(expected) && !error.contains("geheim"), "{url}: {error}");
        }
        let check = |seconds| ZookeeperConfig { session_timeout: Duration::from_secs(seconds), ..ZookeeperConfig::default() }.check();
        assert!(check(1).is_err() && check(2).is_ok() && check(120).is_ok() && check(121).is_err());
        assert!(check_endpoint("http://a:2181").is_err() && check_endpoint("u:geheim@a").is_err_and(|error| !error.contains("geheim")));
    }
}
