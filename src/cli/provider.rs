//! Sources as the command line names them: a URL each.

use clap::error::ErrorKind;
use nuncio::Name;
use nuncio::config::ProviderConfig;
use nuncio::discovery::file::FileProvider;
use nuncio::discovery::{
    ConsulProvider, DnsProvider, DockerProvider, Etcd2Provider, EtcdProvider, HttpProvider, MarathonProvider, MeshProvider, Provider,
    SwarmProvider, ZookeeperProvider,
};
use nuncio::server::ServerBuilder;

/// A provider by its URL. Not clap's `value_parser`, which would quote the URL with its password.
pub(super) fn parse(url: &str) -> ProviderConfig {
    use clap::CommandFactory;
    read(url).unwrap_or_else(|error| {
        super::Cli::command().error(ErrorKind::ValueValidation, format!("--provider: {error}")).exit();
    })
}

/// A provider by its URL, or by the environment if that is Consul's.
pub(super) fn read(url: &str) -> Result<ProviderConfig, String> {
    super::consul_env::provider(url).unwrap_or_else(|| ProviderConfig::parse_url(url))
}

/// The URL of a store, so that its services are read or written unless it says what is.
pub(super) fn of_services(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let is_store = matches!(scheme, "etcd" | "etcds" | "etcd2" | "etcd2s" | "zookeeper" | "zookeepers");
    if !is_store || rest.contains("layout=") {
        return url.to_owned();
    }
    format!("{url}{}layout=services", if rest.contains('?') { '&' } else { '?' })
}

/// A source.
pub(super) fn make(name: Name, provider: ProviderConfig) -> Box<dyn Provider> {
    match provider {
        ProviderConfig::Consul(config) => Box::new(ConsulProvider::new(name, config)),
        ProviderConfig::Dns(config) => Box::new(DnsProvider::new(name, config)),
        ProviderConfig::Docker(config) => Box::new(DockerProvider::new(name, config)),
        ProviderConfig::Etcd(config) => Box::new(EtcdProvider::new(name, config)),
        ProviderConfig::Etcd2(config) => Box::new(Etcd2Provider::new(name, config)),
        ProviderConfig::File(config) => Box::new(FileProvider::new(name, config.path)),
        ProviderConfig::Zookeeper(config) => Box::new(ZookeeperProvider::new(name, config)),
        ProviderConfig::Http(config) => Box::new(HttpProvider::new(name, config)),
        ProviderConfig::Marathon(config) => Box::new(MarathonProvider::new(name, config)),
        ProviderConfig::Mesh(config) => Box::new(MeshProvider::new(name, config)),
        ProviderConfig::Swarm(config) => Box::new(SwarmProvider::new(name, config)),
    }
}

/// Adds a source.
pub(super) fn add(builder: ServerBuilder, name: Name, provider: ProviderConfig) -> ServerBuilder {
    builder.provider(make(name, provider))
}

/// Names of providers, each given once.
#[derive(Default)]
pub(super) struct Names(Vec<Name>);

impl Names {
    /// This one is given to somebody.
    pub(super) fn note(&mut self, name: Name) {
        self.0.push(name);
    }

    /// `name`, or `name-2` and so on if it is taken.
    pub(super) fn take(&mut self, name: &str) -> Name {
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let candidates = std::iter::once(name.to_string()).chain(numbered);
        let free = candidates.filter_map(|name| Name::new(name).ok()).find(|name| !self.0.contains(name));
        let name = free.unwrap_or_else(|| Name::literal("provider"));
        self.0.push(name.clone());
        name
    }
}
