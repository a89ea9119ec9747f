//! A Consul agent.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::tls::ClientTls;
use super::url::{Url, is_server, with_port};

/// The key/value store of a Consul agent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsulConfig {
    /// URLs of agents, such as `"http://127.0.0.1:8500"`, taken in turn. At least one; `https` with `tls`.
    #[serde(deserialize_with = "deserialize_endpoints")]
    pub endpoints: Vec<String>,
    /// What all keys start with. A `/` at its start or end makes no difference. Default `"nuncio"`.
    #[serde(default = "prefix_default", deserialize_with = "deserialize_prefix")]
    pub prefix: String,
    /// The ACL token. It needs `key_prefix` read below `prefix`. Default: the anonymous token.
    #[serde(default, skip_serializing)]
    pub token: Option<String>,
    /// The datacenter to read. Default: the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// Lets any server answer, not the leader alone. One that has not heard from its leader for 10 s is not believed. Default false.
    #[serde(default)]
    pub stale: bool,
    /// Speaks TLS to the agents when present. `{}` verifies against the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
}

/// The agent of this host.
impl Default for ConsulConfig {
    fn default() -> Self {
        let endpoints = vec!["http://127.0.0.1:8500".into()];
        Self { endpoints, prefix: prefix_default(), token: None, datacenter: None, stale: false, tls: None }
    }
}

/// Never shows the token: debug output ends in logs.
impl fmt::Debug for ConsulConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, prefix, token, datacenter, stale, tls } = self;
        let token = token.as_ref().map(|_| "…");
        f.debug_struct("ConsulConfig")
            .field("endpoints", endpoints)
            .field("prefix", prefix)
            .field("token", &token)
            .field("datacenter", datacenter)
            .field("stale", stale)
            .field("tls", tls)
            .finish()
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
        let scheme = if self.tls.is_some() { "https://" } else { "http://" };
        if self.endpoints.iter().any(|endpoint| !endpoint.starts_with(scheme)) {
            let reason = if self.tls.is_some() { "with `tls`" } else { "without `tls`" };
            return Err(format!("`endpoints` must start with {scheme} {reason}"));
        }
        if self.token.as_ref().is_some_and(|token| http::HeaderValue::try_from(token).is_err()) {
            return Err("`token` has characters that no token has".into());
        }
        self.tls.as_ref().map_or(Ok(()), ClientTls::check)
    }

    /// Reads what follows `consul://`, or with `tls` `consuls://`.
    pub(super) fn parse_url(rest: &str, tls: Option<ClientTls>) -> Result<Self, String> {
        let Url { user: token, password, hosts, path } = Url::parse(rest)?;
        if password.is_some() {
            return Err("a Consul URL has a token alone, not a user and a password: consul://TOKEN@host:8500/prefix".into());
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = |host: &&str| {
            let url = format!("{scheme}://{}", with_port(host, Self::PORT_DEFAULT));
            check_endpoint(&url).map(|()| url)
        };
        let prefix = if path.len() > 1 { parse_prefix(path)? } else { prefix_default() };
        let endpoints = hosts.iter().map(endpoint).collect::<Result<_, _>>()?;
        let config = Self { endpoints, prefix, token, tls, ..Self::default() };
        config.check().map(|()| config)
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

fn deserialize_prefix<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_prefix(&text).map_err(serde::de::Error::custom)
}

fn deserialize_endpoints<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let endpoints = Vec::<String>::deserialize(deserializer)?;
    if endpoints.is_empty() {
        return Err(serde::de::Error::custom("`endpoints` needs at least one URL"));
    }
    endpoints.iter().try_for_each(|endpoint| check_endpoint(endpoint)).map_err(serde::de::Error::custom)?;
    Ok(endpoints)
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
    fn what_is_none_says_so_without_its_token() {
        for (url, expected) in [
            ("geheim@", "not the URL of a Consul agent"),
            ("geheim@a b", "not the URL of a Consul agent"),
            ("user:geheim@a", "a token alone"),
            ("geheim%0a@a", "no token has"),
            ("a//x//y", "not a prefix"),
        ] {
            let error = ConsulConfig::parse_url(url, None).unwrap_err();
            assert!(error.contains(expected) && !error.contains("geheim"), "{url}: {error}");
        }
        let quoted = check_endpoint("http://geheim@host:8500").unwrap_err();
        assert!(!quoted.contains("geheim"), "{quoted}");
    }
}
