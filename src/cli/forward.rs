//! `nuncio forward` and `nuncio ambassador`: one local port, and where it leads.
//!
//! An ambassador stands beside a program that knows only `localhost:PORT`, and leads to wherever a service lives now. It stays while the
//! service moves, and while there is none.

use std::time::Duration;

use nuncio::config::listen_address::{ListenAddress, Ports};
use nuncio::config::providers::clean_name;
use nuncio::config::{Address, Endpoint, Listener, ProviderConfig, ServerConfig, TcpRoute, Upstream};
use nuncio::discovery::ProgramProvider;
use nuncio::{Name, RoutingConfig, Server};

use super::provider::{self, Names};
use super::{Failure, limits, logging, serve, settings};

/// Forward a local port to fixed addresses
#[derive(clap::Args)]
#[command(after_help = "\
Connections are forwarded as they are, whatever is spoken on them; of several addresses each gets its share, and one that cannot be
reached is left out.

Examples:
  nuncio forward 10000 172.17.42.1:4001                     port 10000 of every address of this host
  nuncio forward 127.0.0.1:5432 db-1:5432 db-2:5432")]
pub(super) struct ForwardArgs {
    /// Where connections are accepted: a port, or an address such as 127.0.0.1:5432
    #[arg(value_name = "PORT|ADDR", value_parser = parse_local)]
    listen: ListenAddress,
    /// Where they go
    #[arg(value_name = "ADDR", required = true, value_parser = Endpoint::parse_address)]
    to: Vec<Address>,
    #[command(flatten)]
    flags: settings::Flags,
}

/// Forward a local port to wherever a service lives now
#[derive(clap::Args)]
#[command(after_help = "\
The instances of SERVICE are those that registrators write as /services/SERVICE/INSTANCE, or what else the provider holds under
this name: a Consul service, an upstream of ours with ?layout=nuncio, a Swarm service. Every change is followed. While there is no
instance, connections wait for one, 10 s at most.

Examples:
  nuncio ambassador apache-A 80                             from the etcd of this host
  nuncio ambassador apache-A 80 --provider etcd://10.0.0.5:2379
  nuncio ambassador db 127.0.0.1:5432 --provider consul://10.0.0.5:8500
  nuncio ambassador api 8080 --provider zookeeper://10.0.0.5:2181/services")]
pub(super) struct AmbassadorArgs {
    /// The name of the service
    service: String,
    /// Where connections are accepted: a port, or an address such as 127.0.0.1:5432
    #[arg(value_name = "PORT|ADDR", value_parser = parse_local)]
    listen: ListenAddress,
    /// Where instances are looked for, as with `nuncio run`; may be given again
    #[arg(long, value_name = "URL", env = "NUNCIO_PROVIDER", hide_env_values = true, default_value = "etcd://127.0.0.1:2379")]
    provider: Vec<String>,
    #[command(flatten)]
    flags: settings::Flags,
}

/// How long a connection of an ambassador waits for an instance.
const WAIT: Duration = Duration::from_secs(10);

/// Runs until a signal ends it.
pub(super) fn forward(args: &ForwardArgs) -> Result<(), Failure> {
    let name = Name::literal("forward");
    let mut config = leading_to(args.listen.clone(), &name, TcpRoute::to(name.clone(), name.clone()));
    let endpoints = args.to.iter().cloned().map(Endpoint::new).collect();
    config.upstreams.insert(name, Upstream { endpoints, ..Upstream::default() });
    run(&args.flags, config, Vec::new())
}

/// Runs until a signal ends it.
pub(super) fn ambassador(args: &AmbassadorArgs) -> Result<(), Failure> {
    let service = clean_name(&args.service).map_err(|error| format!("`{}` is no service: {error}", args.service))?;
    let name = Name::literal("ambassador");
    let route = TcpRoute { wait: Some(WAIT), ..TcpRoute::to(name.clone(), service) };
    let providers = args.provider.iter().map(|url| provider::parse(&of_service(url, &args.service))).collect();
    run(&args.flags, leading_to(args.listen.clone(), &name, route), providers)
}

fn run(flags: &settings::Flags, config: RoutingConfig, providers: Vec<ProviderConfig>) -> Result<(), Failure> {
    let server = flags.over(ServerConfig::default());
    let log = logging::start(server.log_level);
    limits::raise_open_files();
    let mut builder = settings::apply(&server, Server::builder())?;
    let mut names = Names::default();
    let (program, handle) = ProgramProvider::new(names.take("flags"));
    handle.publish(config);
    builder = builder.provider(program);
    for config in providers {
        builder = provider::add(builder, names.take(config.kind()), config);
    }
    super::runtime()?.block_on(serve::until_signal(builder, &server, log))
}

/// A listener, and the route of all its connections.
fn leading_to(listen: ListenAddress, name: &Name, route: TcpRoute) -> RoutingConfig {
    let mut config = RoutingConfig::default();
    config.listeners.insert(name.clone(), Listener::tcp(listen));
    config.tcp_routes.insert(name.clone(), route);
    config
}

/// The URL of a store, so that the service is read unless it says what is.
fn of_service(url: &str, service: &str) -> String {
    match url.split_once("://") {
        Some(("consul" | "consuls", rest)) if !rest.contains('?') => format!("{url}?services={service}&kv=false"),
        _ => provider::of_services(url),
    }
}

fn parse_local(text: &str) -> Result<ListenAddress, String> {
    match text.parse::<Ports>() {
        Ok(ports) => Ok(ListenAddress::Any(ports)),
        Err(()) => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read_unless_the_url_says_what_is() {
        let of = |url: &str| of_service(url, "web");
        assert_eq!(of("etcd://10.0.0.5:2379"), "etcd://10.0.0.5:2379?layout=services");
        assert_eq!(of("etcd://10.0.0.5/apps?keyring=/r"), "etcd://10.0.0.5/apps?keyring=/r&layout=services");
        assert_eq!(of("etcd://10.0.0.5?layout=nuncio"), "etcd://10.0.0.5?layout=nuncio");
        assert_eq!(of("consul://10.0.0.5"), "consul://10.0.0.5?services=web&kv=false");
        assert_eq!(of("consul://10.0.0.5?catalog"), "consul://10.0.0.5?catalog");
        assert_eq!(of("swarm://"), "swarm://");
        for url in ["etcd://10.0.0.5:2379", "consul://10.0.0.5", "zookeeper://10.0.0.5/x"] {
            assert!(ProviderConfig::parse_url(&of(url)).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_port_alone_is_one_of_every_address() {
        assert_eq!(parse_local("80").unwrap().to_string(), ":80");
        assert_eq!(parse_local("127.0.0.1:80").unwrap().to_string(), "127.0.0.1:80");
        assert!(parse_local("80000").is_err() && parse_local("localhost").is_err());
    }
}
