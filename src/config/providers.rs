//! Which providers to watch: `[providers.NAME]` of a configuration file, or a URL on the command line.

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::Pem;
use super::deserialize::DecodeError;
use super::node::Node;
use crate::suggest;

/// A provider's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ProviderConfig {
    /// An etcd v3 store.
    Etcd(EtcdConfig),
    /// A file, or a directory of them.
    File(FileProviderConfig),
}

/// An etcd v3 store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdConfig {
    /// URLs of the members, such as `"http://10.0.0.5:2379"`. At least one; `https` with `tls`.
    #[serde(deserialize_with = "deserialize_endpoints")]
    pub endpoints: Vec<String>,
    /// What all keys start with. Starts with `/` and does not end with one. Default `"/nuncio"`.
    #[serde(default = "prefix_default", deserialize_with = "deserialize_prefix")]
    pub prefix: String,
    /// Speaks TLS to the members when present. `{}` verifies against the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EtcdTls>,
    /// The user to authenticate as. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password. Default: empty.
    #[serde(default, skip_serializing)]
    pub password: Option<String>,
}

/// The etcd of this host.
impl Default for EtcdConfig {
    fn default() -> Self {
        Self { endpoints: vec!["http://127.0.0.1:2379".into()], prefix: prefix_default(), tls: None, username: None, password: None }
    }
}

/// TLS towards etcd. Files are read again for each connection, so that a renewed certificate is used without a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdTls {
    /// Trusted roots, as a path or PEM text. Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Pem>,
    /// The certificate that we show, as a path or PEM text. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<Pem>,
    /// The private key of `cert`, as a path or PEM text.
    #[serde(skip_serializing)]
    pub key: Option<Pem>,
    /// The name looked for in the members' certificates. Default: the host of the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// A file, or a directory of which every `*.toml` is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileProviderConfig {
    /// The file or directory.
    pub path: PathBuf,
}

/// Never shows the password: debug output ends in logs.
impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, prefix, tls, username, password } = self;
        let password = password.as_ref().map(|_| "…");
        f.debug_struct("EtcdConfig")
            .field("endpoints", endpoints)
            .field("prefix", prefix)
            .field("tls", tls)
            .field("username", username)
            .field("password", &password)
            .finish()
    }
}

impl ProviderConfig {
    /// The kinds of providers, as a table's name or its `type` says them.
    pub(super) const KINDS: [&'static str; 2] = ["etcd", "file"];

    /// Reads the settings of this kind. None: there is no such kind.
    pub(super) fn deserialize_kind(kind: &str, settings: &Node) -> Option<Result<Self, DecodeError>> {
        match kind {
            "etcd" => Some(EtcdConfig::deserialize(settings).and_then(|etcd| {
                etcd.check().map_err(DecodeError::new)?;
                Ok(Self::Etcd(etcd))
            })),
            "file" => Some(FileProviderConfig::deserialize(settings).map(Self::File)),
            _ => None,
        }
    }

    /// Reads a provider's URL: `etcd://user:password@host:2379,host2:2379/prefix`, `etcds://…` for TLS, `file:///path`.
    ///
    /// # Errors
    /// A sentence that says what is wrong. It never quotes a password.
    pub fn parse_url(url: &str) -> Result<Self, String> {
        let known = SCHEMES.map(|scheme| format!("{scheme}://")).join(", ");
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(format!("a provider's URL starts with one of {known}"));
        };
        match scheme {
            "etcd" => parse_etcd(rest, None).map(Self::Etcd),
            "etcds" => parse_etcd(rest, Some(EtcdTls::default())).map(Self::Etcd),
            "file" if rest.is_empty() => Err("a file URL needs a path, such as file:///etc/nuncio".into()),
            "file" => Ok(Self::File(FileProviderConfig { path: rest.into() })),
            _ => {
                let near = suggest::nearest(scheme, SCHEMES).map(|near| format!("; did you mean {near}://?")).unwrap_or_default();
                Err(format!("unknown provider {scheme}://: the known ones are {known}{near}"))
            }
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
    fn check(&self) -> Result<(), String> {
        let scheme = if self.tls.is_some() { "https://" } else { "http://" };
        if let Some(other) = self.endpoints.iter().find(|endpoint| !endpoint.starts_with(scheme)) {
            let other = other.split("://").next().unwrap_or_default();
            let reason = if self.tls.is_some() { "with `tls`" } else { "without `tls`" };
            return Err(format!("`endpoints` must start with {scheme} {reason}, not with {other}://"));
        }
        if self.password.is_some() && self.username.is_none() {
            return Err("`password` needs a `username`".into());
        }
        match self.tls.as_ref().map(|tls| (&tls.cert, &tls.key)) {
            Some((Some(_), None) | (None, Some(_))) => Err("`tls` needs `cert` and `key` together".into()),
            _ => Ok(()),
        }
    }
}

/// The schemes of provider URLs.
const SCHEMES: [&str; 3] = ["etcd", "etcds", "file"];

/// Reads what follows `etcd://`.
fn parse_etcd(rest: &str, tls: Option<EtcdTls>) -> Result<EtcdConfig, String> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = |host: &str| endpoint_url(scheme, host);
    let (username, password) = match user.map(|user| user.split_once(':').map_or((user, None), |(user, password)| (user, Some(password)))) {
        Some((user, password)) => (Some(decode(user)?), password.map(decode).transpose()?),
        None => (None, None),
    };
    let prefix = if path.is_empty() { prefix_default() } else { parse_prefix(&format!("/{path}"))? };
    Ok(EtcdConfig { endpoints: hosts.split(',').map(endpoint).collect::<Result<_, _>>()?, prefix, tls, username, password })
}

fn endpoint_url(scheme: &str, host: &str) -> Result<String, String> {
    let url = if has_port(host) { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{}", EtcdConfig::PORT_DEFAULT) };
    check_endpoint(&url).map(|()| url)
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(before, _)| !before.starts_with('[') || before.ends_with(']'))
}

/// Undoes the escapes that a user name or a password needs inside a URL.
fn decode(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| "the user or password in the URL is not UTF-8 once it is decoded".to_string())
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let uri: Option<http::Uri> = endpoint.parse().ok();
    let is_member = |uri: &http::Uri| {
        let is_host = uri.authority().is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
        is_host && matches!(uri.scheme_str(), Some("http" | "https")) && matches!(uri.path(), "" | "/") && uri.query().is_none()
    };
    match uri.filter(is_member) {
        Some(_) => Ok(()),
        None => Err(format!("`{}` is not the URL of an etcd member, such as \"http://10.0.0.5:2379\"", super::secrets::mask(endpoint))),
    }
}

fn parse_prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim_end_matches('/');
    if prefix.starts_with('/') && !prefix.contains("//") {
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

    fn etcd(url: &str) -> EtcdConfig {
        match ProviderConfig::parse_url(url).unwrap() {
            ProviderConfig::Etcd(etcd) => etcd,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_url_is_a_whole_configuration() {
        let config = etcd("etcd://root:a%40b@10.0.0.5:2380,[::1]:2379,etcd/edge/");
        assert_eq!(config.endpoints, ["http://10.0.0.5:2380", "http://[::1]:2379", "http://etcd:2379"]);
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (Some("root"), Some("a@b")));
        assert_eq!(config.prefix, "/edge");
        assert!(!format!("{config:?}").contains("a@b"));
    }

    #[test]
    fn the_rest_has_defaults() {
        let config = etcd("etcds://etcd");
        assert_eq!((config.prefix.as_str(), config.tls), ("/nuncio", Some(EtcdTls::default())));
        assert_eq!(config.endpoints, ["https://etcd:2379"]);
        assert_eq!(etcd("etcd://[::1]").endpoints, ["http://[::1]:2379"]);
        let file = FileProviderConfig { path: "/etc/nuncio".into() };
        assert_eq!(ProviderConfig::parse_url("file:///etc/nuncio"), Ok(ProviderConfig::File(file)));
    }

    #[test]
    fn what_is_no_url_says_so_without_its_password() {
        for (url, expected) in [
            ("10.0.0.5:2379", "etcd://, etcds://, file://"),
            ("etdc://10.0.0.5", "did you mean etcd://?"),
            ("etcd://", "not the URL of an etcd member"),
            ("etcd://a:geheim@/x", "not the URL of an etcd member"),
            ("etcd://a:geheim@b c", "not the URL of an etcd member"),
            ("etcd://a,,b", "not the URL of an etcd member"),
            ("etcd://a//x", "not a prefix"),
            ("file://", "needs a path"),
        ] {
            let error = ProviderConfig::parse_url(url).unwrap_err();
            assert!(error.contains(expected) && !error.contains("geheim"), "{url}: {error}");
        }
    }
}
