//! Sources as the command line names them: a URL each.

use clap::error::ErrorKind;
use nuncio::Name;
use nuncio::config::ProviderConfig;
use nuncio::discovery::file::FileProvider;
use nuncio::discovery::{
    ConsulProvider, DnsProvider, DockerProvider, Etcd2Provider, EtcdProvider, HttpProvider, MarathonProvider, SwarmProvider,
    ZookeeperProvider,
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

/// Adds a source.
pub(super) fn add(builder: ServerBuilder, name: Name, provider: ProviderConfig) -> ServerBuilder {
    match provider {
        ProviderConfig::Consul(config) => builder.provider(ConsulProvider::new(name, config)),
        ProviderConfig::Dns(config) => builder.provider(DnsProvider::new(name, config)),
        ProviderConfig::Docker(config) => builder.provider(DockerProvider::new(name, config)),
        ProviderConfig::Etcd(config) => builder.provider(EtcdProvider::new(name, config)),
        ProviderConfig::Etcd2(config) => builder.provider(Etcd2Provider::new(name, config)),
        ProviderConfig::File(config) => builder.provider(FileProvider::new(name, config.path)),
        ProviderConfig::Zookeeper(config) => builder.provider(ZookeeperProvider::new(name, config)),
        ProviderConfig::Http(config) => builder.provider(HttpProvider::new(name, config)),
        ProviderConfig::Marathon(config) => builder.provider(MarathonProvider::new(name, config)),
        ProviderConfig::Swarm(config) => builder.provider(SwarmProvider::new(name, config)),
    }
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
