//! Which providers to watch: `[providers.NAME]` of a configuration file, or a URL on the command line.
//!
//! One kind of provider per file; `url` reads the URLs, `tls` and `credentials` are what all of them know of TLS and of who we are,
//! `layout` how keys and values are read, `keyring` who opens those that are sealed.

mod consul;
mod consul_catalog;
mod conventions;
mod credentials;
mod dns;
mod docker;
mod etcd;
mod file;
mod http_pull;
mod keyring;
mod layout;
mod marathon;
mod mesh;
mod swarm;
mod tls;
mod url;
mod zookeeper;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::consul::ConsulConfig;
pub use self::consul_catalog::{CatalogConfig, ServicePattern, TagDialect};
pub use self::conventions::{Convention, Conventions};
pub use self::dns::{DnsConfig, ServiceName};
pub use self::docker::{AddressChoice, DockerConfig, EngineAddress};
pub use self::etcd::EtcdConfig;
pub use self::file::FileProviderConfig;
pub use self::http_pull::HttpConfig;
pub use self::keyring::KeyringConfig;
pub use self::layout::{Layout, LayoutKind, RouteTemplate, clean_name};
pub use self::marathon::{MarathonConfig, MarathonFormat};
pub use self::mesh::{Join, MeshConfig, check_identity};
pub use self::swarm::{NodeChoice, SwarmConfig};
pub use self::tls::ClientTls;
pub(crate) use self::url::port_of;
pub use self::zookeeper::ZookeeperConfig;
use super::deserialize::DecodeError;
use super::node::Node;
use crate::suggest;

/// A provider's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "there are a handful of them, read once at the start")]
pub enum ProviderConfig {
    /// The key/value store of a Consul agent.
    Consul(ConsulConfig),
    /// Names of the domain name system.
    Dns(DnsConfig),
    /// The containers of a Docker engine.
    Docker(DockerConfig),
    /// An etcd v3 store.
    Etcd(EtcdConfig),
    /// The v2 API of an etcd store, whose keys are others.
    Etcd2(EtcdConfig),
    /// A file, or a directory of them.
    File(FileProviderConfig),
    /// A document that an HTTP server has.
    Http(HttpConfig),
    /// The apps of a Marathon.
    Marathon(MarathonConfig),
    /// A mesh: a certificate among instances that know each other.
    Mesh(MeshConfig),
    /// The znodes of a ZooKeeper ensemble.
    Zookeeper(ZookeeperConfig),
    /// The services of a Docker Swarm.
    Swarm(SwarmConfig),
}

impl ProviderConfig {
    /// The kinds of providers, as a table's name or its `type` says them.
    pub(super) fn kinds() -> [&'static str; READERS.len()] {
        READERS.map(|(kind, _)| kind)
    }

    /// The kind, as a table's name or its `type` says it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Consul(_) => "consul",
            Self::Dns(_) => "dns",
            Self::Docker(_) => "docker",
            Self::Etcd(_) => "etcd",
            Self::Etcd2(_) => "etcd2",
            Self::File(_) => "file",
            Self::Http(_) => "http",
            Self::Marathon(_) => "marathon",
            Self::Mesh(_) => "mesh",
            Self::Swarm(_) => "swarm",
            Self::Zookeeper(_) => "zookeeper",
        }
    }

    /// Reads the settings of this kind. None: there is no such kind.
    pub(super) fn deserialize_kind(kind: &str, settings: &Node) -> Option<Result<Self, DecodeError>> {
        READERS.iter().find(|(known, _)| *known == kind).map(|(_, read)| read(settings))
    }

    /// Reads a provider's URL: `etcd://user:password@host:2379,host2:2379/prefix`, `etcds://…` for TLS, `etcd2://…` and
    /// `etcd2s://…` for the v2 API, `etcd://host/services?layout=services` for another layout, `consul://TOKEN@host:8500/prefix?catalog`,
    /// `consuls://…`, `file:///path`, `docker://`, `docker:///path/to/docker.sock`, `docker://host:2375`, `dockers://…`, `swarm://…`
    /// and `swarms://…` the same, also with several managers, `marathon://user:password@host:8080,host2:8080`, `marathons://…`,
    /// `zookeeper://user:password@host:2181,host2:2181/prefix`, `zookeepers://…`, `https://TOKEN@host/config.toml`, `http://…`,
    /// `dns://10.0.0.2/web=_http._tcp.web.internal,tasks.db:5432`.
    ///
    /// # Errors
    /// A sentence that says what is wrong. It never quotes a password.
    pub fn parse_url(url: &str) -> Result<Self, String> {
        let known = || SCHEMES.map(|(scheme, _)| format!("{scheme}://")).join(", ");
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(format!("a provider's URL starts with one of {}", known()));
        };
        if let Some((_, parse)) = SCHEMES.iter().find(|(known, _)| *known == scheme) {
            return parse(rest);
        }
        let near = suggest::nearest(scheme, SCHEMES.map(|(scheme, _)| scheme)).map(|near| format!("; did you mean {near}://?"));
        Err(format!("unknown provider {scheme}://: the known ones are {}{}", known(), near.unwrap_or_default()))
    }
}

type Reader = fn(&Node) -> Result<ProviderConfig, DecodeError>;

/// By kind: how its settings are read.
const READERS: [(&str, Reader); 11] = [
    ("consul", |node| laid_out(node, ConsulConfig::set_default_prefix, ConsulConfig::check).map(ProviderConfig::Consul)),
    ("dns", |node| checked(node, DnsConfig::check).map(ProviderConfig::Dns)),
    ("docker", |node| checked(node, DockerConfig::check).map(ProviderConfig::Docker)),
    ("etcd", |node| laid_out(node, EtcdConfig::set_default_prefix, EtcdConfig::check).map(ProviderConfig::Etcd)),
    ("etcd2", |node| laid_out(node, EtcdConfig::set_default_prefix, EtcdConfig::check).map(ProviderConfig::Etcd2)),
    ("file", |node| FileProviderConfig::deserialize(node).map(ProviderConfig::File)),
    ("http", |node| checked(node, HttpConfig::check).map(ProviderConfig::Http)),
    ("marathon", |node| checked(node, MarathonConfig::check).map(ProviderConfig::Marathon)),
    ("mesh", |node| checked(node, MeshConfig::check).map(ProviderConfig::Mesh)),
    ("swarm", |node| checked(node, SwarmConfig::check).map(ProviderConfig::Swarm)),
    ("zookeeper", |node| laid_out(node, ZookeeperConfig::set_default_prefix, ZookeeperConfig::check).map(ProviderConfig::Zookeeper)),
];

type Parser = fn(&str) -> Result<ProviderConfig, String>;

/// By scheme: how what follows it in a URL is read.
const SCHEMES: [(&str, Parser); 18] = [
    ("consul", |rest| ConsulConfig::parse_url(rest, None).map(ProviderConfig::Consul)),
    ("consuls", |rest| ConsulConfig::parse_url(rest, Some(ClientTls::default())).map(ProviderConfig::Consul)),
    ("dns", |rest| DnsConfig::parse_url(rest).map(ProviderConfig::Dns)),
    ("docker", |rest| DockerConfig::parse_url(rest, None).map(ProviderConfig::Docker)),
    ("dockers", |rest| DockerConfig::parse_url(rest, Some(ClientTls::default())).map(ProviderConfig::Docker)),
    ("etcd", |rest| EtcdConfig::parse_url(rest, None).map(ProviderConfig::Etcd)),
    ("etcds", |rest| EtcdConfig::parse_url(rest, Some(ClientTls::default())).map(ProviderConfig::Etcd)),
    ("etcd2", |rest| EtcdConfig::parse_url(rest, None).map(ProviderConfig::Etcd2)),
    ("etcd2s", |rest| EtcdConfig::parse_url(rest, Some(ClientTls::default())).map(ProviderConfig::Etcd2)),
    ("file", |rest| FileProviderConfig::parse_url(rest).map(ProviderConfig::File)),
    ("http", |rest| HttpConfig::parse_url("http", rest).map(ProviderConfig::Http)),
    ("https", |rest| HttpConfig::parse_url("https", rest).map(ProviderConfig::Http)),
    ("marathon", |rest| MarathonConfig::parse_url(rest, None).map(ProviderConfig::Marathon)),
    ("marathons", |rest| MarathonConfig::parse_url(rest, Some(ClientTls::default())).map(ProviderConfig::Marathon)),
    ("swarm", |rest| SwarmConfig::parse_url(rest, None).map(ProviderConfig::Swarm)),
    ("swarms", |rest| SwarmConfig::parse_url(rest, Some(ClientTls::default())).map(ProviderConfig::Swarm)),
    ("zookeeper", |rest| ZookeeperConfig::parse_url(rest, None).map(ProviderConfig::Zookeeper)),
    ("zookeepers", |rest| ZookeeperConfig::parse_url(rest, Some(ClientTls::default())).map(ProviderConfig::Zookeeper)),
];

/// Settings that also go together.
fn checked<T: DeserializeOwned>(settings: &Node, check: impl FnOnce(&T) -> Result<(), String>) -> Result<T, DecodeError> {
    let config = T::deserialize(settings)?;
    check(&config).map_err(DecodeError::new)?;
    Ok(config)
}

/// Settings of a store with keys, whose prefix, unless it is said, follows from `layout`.
fn laid_out<T: DeserializeOwned>(
    settings: &Node,
    set_default_prefix: impl FnOnce(&mut T),
    check: impl FnOnce(&T) -> Result<(), String>,
) -> Result<T, DecodeError> {
    let mut config = T::deserialize(settings)?;
    if settings.get("prefix").is_none() {
        set_default_prefix(&mut config);
    }
    check(&config).map_err(DecodeError::new)?;
    Ok(config)
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
        assert_eq!((config.prefix.as_str(), config.tls), ("/nuncio", Some(ClientTls::default())));
        assert_eq!(config.endpoints, ["https://etcd:2379"]);
        assert_eq!(etcd("etcd://[::1]").endpoints, ["http://[::1]:2379"]);
        let file = FileProviderConfig { path: "/etc/nuncio".into() };
        assert_eq!(ProviderConfig::parse_url("file:///etc/nuncio"), Ok(ProviderConfig::File(file)));
    }

    #[test]
    fn the_query_says_the_layout() {
        let config = etcd(r#"etcd://e/svc?layout=services&route=Host("{name}.example.com")%20%26%26%20Method(`GET`)"#);
        assert_eq!((config.prefix.as_str(), config.layout), ("/svc", LayoutKind::Services));
        assert_eq!(config.route, RouteTemplate::parse(r#"Host("{name}.example.com") && Method(`GET`)"#).ok());
        assert_eq!(etcd("etcd://e?layout=services").prefix, "/services");
        assert_eq!(etcd("etcd://e?keyring=/etc/ring.asc").keyring, Some(KeyringConfig::new("/etc/ring.asc")));
        assert_eq!(etcd("etcd://e?layout=vulcand&prefix=vulcand").prefix, "vulcand");
        for (url, expected) in [
            ("etcd://e?layout=service", "did you mean `services`?"),
            ("etcd://e?layuot=services", "did you mean `layout`?"),
            ("etcd://e?layout=services&route=Host(`a`)", "needs a place"),
            ("etcd://e?route=Host(`{name}`)", "needs `layout"),
            ("etcd://e?prefix=vulcand", "is not a prefix"),
        ] {
            let error = ProviderConfig::parse_url(url).unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
        }
    }

    #[test]
    fn what_is_no_url_says_so_without_its_password() {
        for (url, expected) in [
            (
                "10.0.0.5:2379",
                "etcd2s://, file://, http://, https://, marathon://, marathons://, swarm://, swarms://, zookeeper://, zookeepers://",
            ),
            ("etdc://10.0.0.5", "did you mean etcd://?"),
            ("etcd://", "not the URL of an etcd member"),
            ("etcd://a:geheim@/x", "not the URL of an etcd member"),
            ("etcd://a:geheim@b c", "not the URL of an etcd member"),
            ("etcd://a,,b", "not the URL of an etcd member"),
            ("etcd://a//x", "not a prefix"),
            ("file://", "needs a path"),
            ("etcd://me:geheim@127.0.0.1:99999", "is not the URL of an etcd member"),
            ("etcd2://me:geheim@127.0.0.1:", "is not the URL of an etcd member"),
            ("consul://geheim@127.0.0.1:85x0", "is not the URL of a Consul agent"),
            ("zookeeper://me:geheim@127.0.0.1:99999", "is not a ZooKeeper server"),
            ("marathon://me:geheim@127.0.0.1:99999", "is not the URL of a Marathon"),
            ("https://me:geheim@127.0.0.1:99999/a", "is not the URL of a document"),
        ] {
            let error = ProviderConfig::parse_url(url).unwrap_err();
            assert!(error.contains(expected) && !error.contains("geheim"), "{url}: {error}");
        }
    }
}
