//! `nuncio forward` and `nuncio ambassador`: one local port, and where it leads.
//!
//! An ambassador stands beside a program that knows only `localhost:PORT`, and leads to wherever a service lives now. It stays while the
//! service moves, and while there is none.

use std::time::Duration;

use nuncio::config::listen_address::{ListenAddress, Ports};
use nuncio::config::listener::{ClientAuth, ListenerTls};
use nuncio::config::providers::{MeshConfig, clean_name};
use nuncio::config::upstream::UpstreamTls;
use nuncio::config::{Address, Endpoint, Listener, ProviderConfig, ServerConfig, TcpRoute, UdpRoute, Upstream};
use nuncio::discovery::mesh::{self, read_token};
use nuncio::discovery::{Encrypted, ProgramProvider, Provider};
use nuncio::rule::{ConnectionRule, IdentityPattern};
use nuncio::{Name, RoutingConfig, Server};

use super::provider::{self, Names};
use super::{Failure, limits, logging, serve, settings};

/// Forward a local port to fixed addresses
#[derive(clap::Args)]
#[command(after_help = "\
Connections are forwarded as they are, whatever is spoken on them; of several addresses each gets its share, and one that cannot be \
reached is left out. Of datagrams, each client's go to one address.

Examples:
  nuncio forward 10000 172.17.42.1:4001                     port 10000 of every address of this host
  nuncio forward 127.0.0.1:5432 db-1:5432 db-2:5432
  nuncio forward 53 10.0.0.2:53 --udp                       DNS
  nuncio forward 5432 db-1:6432 --join mesh.token           by mutual TLS to:
  nuncio forward 6432 127.0.0.1:5432 --join mesh.token --inbound")]
pub(super) struct ForwardArgs {
    /// Where connections are accepted: a port, or an address such as 127.0.0.1:5432
    #[arg(value_name = "PORT|ADDR", value_parser = parse_local)]
    listen: ListenAddress,
    /// Where they go
    #[arg(value_name = "ADDR", required = true, value_parser = Endpoint::parse_address)]
    to: Vec<Address>,
    /// In a mesh: takes mutual TLS on the local port, and forwards in the clear, in place of the other way round
    #[arg(long, requires = "join")]
    inbound: bool,
    #[command(flatten)]
    datagrams: DatagramArgs,
    #[command(flatten)]
    peer: PeerArgs,
    #[command(flatten)]
    flags: settings::Flags,
}

/// Forward a local port to wherever a service lives now
#[derive(clap::Args)]
#[command(after_help = "\
The instances of SERVICE are those that registrators write as /services/SERVICE/INSTANCE, or what else the provider holds under \
this name: a Consul service, an upstream of ours with ?layout=nuncio, a Swarm service. Every change is followed. While there is no \
instance, connections wait for one, 10 s at most.

Examples:
  nuncio ambassador apache-A 80                             from the etcd of this host
  nuncio ambassador apache-A 80 --provider etcd://10.0.0.5:2379
  nuncio ambassador db 127.0.0.1:5432 --provider consul://10.0.0.5:8500
  nuncio ambassador api 8080 --provider zookeeper://10.0.0.5:2181/services
  nuncio ambassador apache-A 80 --join mesh.token           by mutual TLS (forward --inbound)")]
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
    datagrams: DatagramArgs,
    #[command(flatten)]
    peer: PeerArgs,
    #[command(flatten)]
    flags: settings::Flags,
}

/// How long a connection of an ambassador waits for an instance.
const WAIT: Duration = Duration::from_secs(10);

/// What is forwarded beside connections.
#[derive(clap::Args)]
struct DatagramArgs {
    /// Forwards datagrams to this port too, as DNS needs it
    #[arg(long, conflicts_with = "join")]
    udp: bool,
}

/// Who is at the other end.
#[derive(clap::Args)]
struct PeerArgs {
    /// In a mesh: who is at the other end, as NAME, NAME/* or spiffe://TRUST-DOMAIN/NAME [default: anybody of the mesh]
    #[arg(long, value_name = "NAME", requires = "join")]
    peer: Option<String>,
}

/// Mutual TLS with others of a mesh.
struct Mutual {
    config: MeshConfig,
    /// Who they are.
    peer: IdentityPattern,
}

impl Mutual {
    /// None: no mesh is joined.
    fn new(flags: &settings::Flags, PeerArgs { peer }: &PeerArgs) -> Result<Option<Self>, Failure> {
        let Some(config) = flags.mesh() else { return Ok(None) };
        let token = read_token(&config.join)?;
        let peer = match peer.as_deref().unwrap_or("*") {
            id if id.contains("://") => id.to_owned(),
            name => format!("spiffe://{}/{name}", token.trust_domain),
        };
        let peer = IdentityPattern::new(&peer).map_err(|error| format!("--peer: {error}"))?;
        Ok(Some(Self { config, peer }))
    }

    fn towards_endpoints(&self) -> UpstreamTls {
        let certificate = Some(Name::literal(mesh::CERTIFICATE));
        UpstreamTls { certificate, server_id: Some(self.peer.clone()), ..UpstreamTls::default() }
    }

    /// Nobody else is taken on this listener.
    fn guard(&self, listener: &mut Listener, route: &mut TcpRoute) -> Result<(), Failure> {
        let certificates = vec![Name::literal(mesh::CERTIFICATE)];
        listener.tls = Some(ListenerTls { certificates, client_auth: Some(ClientAuth::default()), ..ListenerTls::default() });
        route.rule = Some(ConnectionRule::parse(&format!("ClientCert(`{}`)", self.peer))?);
        Ok(())
    }
}

/// Runs until a signal ends it.
pub(super) fn forward(args: &ForwardArgs) -> Result<(), Failure> {
    let name = Name::literal("forward");
    check_datagrams(&args.to, &args.datagrams)?;
    let mutual = Mutual::new(&args.flags, &args.peer)?;
    let (mut listener, mut route) = (Listener::tcp(args.listen.clone()), TcpRoute::to(name.clone(), name.clone()));
    let endpoints = args.to.iter().cloned().map(Endpoint::new).collect();
    let mut upstream = Upstream { endpoints, ..Upstream::default() };
    match &mutual {
        Some(mutual) if args.inbound => mutual.guard(&mut listener, &mut route)?,
        Some(mutual) => upstream.tls = Some(mutual.towards_endpoints()),
        None => {}
    }
    let mut config = leading_to(listener, &name, route, &args.datagrams);
    config.upstreams.insert(name, upstream);
    run(&args.flags, config, mutual, Vec::new())
}

/// Runs until a signal ends it.
pub(super) fn ambassador(args: &AmbassadorArgs) -> Result<(), Failure> {
    let service = clean_name(&args.service).map_err(|error| format!("`{}` is no service: {error}", args.service))?;
    let name = Name::literal("ambassador");
    let mutual = Mutual::new(&args.flags, &args.peer)?;
    let route = TcpRoute { wait: Some(WAIT), ..TcpRoute::to(name.clone(), service.clone()) };
    let mut names = taken_names();
    let provider = |url: &String| {
        let config = provider::parse(&of_service(url, &args.service));
        let provider = provider::make(names.take(config.kind()), config);
        match &mutual {
            Some(mutual) => Box::new(Encrypted::new(provider, service.clone(), mutual.towards_endpoints())),
            None => provider,
        }
    };
    let providers = args.provider.iter().map(provider).collect();
    run(&args.flags, leading_to(Listener::tcp(args.listen.clone()), &name, route, &args.datagrams), mutual, providers)
}

/// Names of providers, those that every run may have already taken.
fn taken_names() -> Names {
    let mut names = Names::default();
    names.note(Name::literal(FLAGS));
    names.note(Name::literal(mesh::CERTIFICATE));
    names
}

const FLAGS: &str = "flags";

fn run(flags: &settings::Flags, config: RoutingConfig, mutual: Option<Mutual>, providers: Vec<Box<dyn Provider>>) -> Result<(), Failure> {
    let server = flags.over(ServerConfig::default());
    let log = logging::start(server.log_level);
    limits::raise_open_files();
    let mut builder = settings::apply(&server, Server::builder())?;
    let (program, handle) = ProgramProvider::new(Name::literal(FLAGS));
    handle.publish(config);
    builder = builder.provider(program);
    if let Some(Mutual { config, .. }) = mutual {
        builder = provider::add(builder, Name::literal(mesh::CERTIFICATE), ProviderConfig::Mesh(config));
    }
    builder = providers.into_iter().fold(builder, nuncio::server::ServerBuilder::provider);
    super::runtime()?.block_on(serve::until_signal(builder, &server, log))
}

/// That datagrams, if they are wanted, can be sent to all of `to`.
fn check_datagrams(to: &[Address], datagrams: &DatagramArgs) -> Result<(), String> {
    match to.iter().find(|address| matches!(address, Address::Unix(_))) {
        Some(unix) if datagrams.udp => Err(format!("`{unix}` takes no datagrams: leave out --udp, or forward to an IP address")),
        _ => Ok(()),
    }
}

/// A listener, and the route of all its connections. With datagrams: the same for those, on the same address.
fn leading_to(listener: Listener, name: &Name, route: TcpRoute, datagrams: &DatagramArgs) -> RoutingConfig {
    let mut config = RoutingConfig::default();
    if datagrams.udp {
        let udp = Name::literal("udp");
        config.listeners.insert(udp.clone(), Listener::udp(listener.address.clone()));
        config.udp_routes.insert(udp.clone(), UdpRoute::to(udp, route.upstream.clone()));
    }
    config.listeners.insert(name.clone(), listener);
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
    fn datagrams_need_addresses_that_take_them() {
        let check = |to: [&str; 2], udp| check_datagrams(&to.map(|to| Address::parse(to).unwrap()), &DatagramArgs { udp });
        assert!(check(["10.0.0.1:53", "unix:/s"], true).unwrap_err().contains("`unix:/s` takes no datagrams"));
        assert!(check(["10.0.0.1:53", "unix:/s"], false).is_ok() && check(["10.0.0.1:53", "a.test:53"], true).is_ok());
    }

    #[test]
    fn a_port_alone_is_one_of_every_address() {
        assert_eq!(parse_local("80").unwrap().to_string(), ":80");
        assert_eq!(parse_local("127.0.0.1:80").unwrap().to_string(), "127.0.0.1:80");
        assert!(parse_local("80000").is_err() && parse_local("localhost").is_err());
    }
}
