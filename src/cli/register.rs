//! `nuncio register`: keeps the addresses of containers in a store.

use std::net::IpAddr;
use std::pin::pin;

use nuncio::config::providers::{AddressChoice, DockerConfig};
use nuncio::config::server::LogLevel;
use nuncio::config::{ProviderConfig, parse_duration};
use nuncio::register::{Layout, Missing, Registrar, Selection, StoreConfig, TTL_DEFAULT, TTL_RANGE};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::signals::Signals;
use super::{Failure, logging, provider, whereabouts};

/// Register containers in a store, for `nuncio ambassador` and others to find
#[derive(clap::Args)]
#[command(after_help = "\
Containers say by labels or variables which services they are, as with registrator: SERVICE_NAME=web, SERVICE_80_NAME=web, \
SERVICE_TAGS=a,b, SERVICE_IGNORE=1, SERVICE_WEIGHT=3. One that stops, pauses or fails its health check is deregistered at once. Entries \
end with the registrar, after --ttl at most.

Examples:
  nuncio register --host-ip 10.0.0.1                        ports published on it, in etcd here
  nuncio register --internal --to etcd://10.0.0.5:2379      addresses of the containers themselves
  nuncio register --host-ip 10.0.0.1 --container apache --port 80 --service apache-A
  nuncio register --host-ip 10.0.0.1 --layout registrator --to etcd://10.0.0.5/web")]
pub(super) struct Args {
    /// The store: etcd://[USER:PASSWORD@]HOST:PORT[,HOST:PORT][/PREFIX], etcds://… for TLS, etcd2://… for etcd's v2 API,
    /// zookeeper://… the same, consul://[TOKEN@]HOST:PORT for an agent's catalog. PREFIX is /services unless it is said
    #[arg(long, value_name = "URL", env = "NUNCIO_STORE", hide_env_values = true, default_value = "etcd://127.0.0.1:2379")]
    to: String,
    /// The Docker engine: docker://, docker:///path/to/docker.sock, docker://HOST:PORT, dockers://HOST:PORT for TLS
    #[arg(long, value_name = "URL", default_value = "docker://")]
    docker: String,
    /// Registers published ports, at this address of the host where they are published on all of them
    #[arg(long, value_name = "IP", required_unless_present = "internal", conflicts_with = "internal", value_parser = parse_host_ip)]
    host_ip: Option<IpAddr>,
    /// Registers the addresses and ports that containers have themselves
    #[arg(long)]
    internal: bool,
    /// Of containers in several networks: the one whose addresses are registered
    #[arg(long, value_name = "NAME", requires = "internal")]
    network: Option<String>,
    /// Registers also containers that say no SERVICE_NAME, under the names of their images
    #[arg(long, conflicts_with = "container")]
    all: bool,
    /// Registers this container alone, whatever it says
    #[arg(long, value_name = "NAME", requires_all = ["port", "service"])]
    container: Option<String>,
    /// Its port, as it is inside
    #[arg(long, requires = "container", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The service that it is
    #[arg(long, value_name = "NAME", requires = "container")]
    service: Option<String>,
    /// Whose keys and values are written: docker-register (/services/SERVICE/CONTAINER = {"port":…,"host":…}) or registrator
    /// (/services/SERVICE/HOST:CONTAINER:PORT = IP:PORT) [default: docker-register; of Consul: registrator]
    #[arg(long, value_name = "LAYOUT", value_parser = ["docker-register", "registrator"])]
    layout: Option<String>,
    /// What this host is called in registrator's keys [default: its name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// How long entries last after the registrar's last sign of life, from 2s to 10m
    #[arg(long, value_name = "DURATION", default_value_t = TTL_DEFAULT.into(), value_parser = parse_ttl)]
    ttl: humantime::Duration,
    /// Logs more
    #[arg(short, long)]
    verbose: bool,
}

/// Runs until a signal ends it.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let store = store(&args.to)?;
    let layout = layout(args, &store)?;
    let registrar = Registrar { engine: engine(args)?, selection: selection(args), layout, store, ttl: args.ttl.into() };
    let _log = logging::start(if args.verbose { LogLevel::Debug } else { LogLevel::Info });
    super::runtime()?.block_on(until_signal(registrar))
}

async fn until_signal(registrar: Registrar) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let stop = CancellationToken::new();
    tracing::info!("nuncio {}: registering containers of {}", env!("CARGO_PKG_VERSION"), registrar.engine.endpoint);
    let (sender, missing) = watch::channel(Missing::everything());
    let mut run = pin!(registrar.run(stop.clone(), sender));
    let telling = async {
        tell_health(missing).await;
        std::future::pending::<()>().await;
    };
    let signal = tokio::select! {
        () = &mut run => return Ok(()),
        () = telling => return Ok(()),
        signal = signals.end() => signal,
    };
    tracing::info!("{signal}: deleting what was registered; a second signal ends at once");
    stop.cancel();
    tokio::select! {
        () = run => Ok(()),
        signal = signals.end() => Err(Failure::Message(format!("{signal} again: what was registered ends with its time to live"))),
    }
}

/// Tells `nuncio health` what is missing, for as long as it is polled. Returns early only if it cannot.
async fn tell_health(mut missing: watch::Receiver<Missing>) {
    let said = async {
        let mut whereabouts = whereabouts::say(whereabouts::REGISTRAR, "")?;
        loop {
            let Missing { engine, store } = missing.borrow_and_update().clone();
            let lines: Vec<String> = [engine, store].into_iter().flatten().collect();
            whereabouts::say_again(&mut whereabouts, &lines.join("\n"))?;
            if missing.changed().await.is_err() {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    if let Err(error) = said.await {
        tracing::warn!("`nuncio health` cannot be told how this goes: {error}");
    }
}

fn engine(args: &Args) -> Result<DockerConfig, Failure> {
    let ProviderConfig::Docker(engine) = ProviderConfig::parse_url(&args.docker).map_err(|error| format!("--docker: {error}"))? else {
        return Err(Failure::Message(format!("--docker: `{}` is not the URL of a Docker engine, such as docker://", args.docker)));
    };
    let address = if args.internal { AddressChoice::Internal } else { AddressChoice::Published };
    Ok(DockerConfig { address, network: args.network.clone(), host_address: args.host_ip, ..engine })
}

fn selection(args: &Args) -> Selection {
    match (&args.container, args.port, &args.service) {
        (Some(container), Some(port), Some(service)) => {
            Selection::One { container: container.trim_start_matches('/').to_owned(), port, service: service.clone() }
        }
        _ => Selection::Labelled { is_all: args.all },
    }
}

fn layout(args: &Args, store: &StoreConfig) -> Result<Layout, Failure> {
    match (args.layout.as_deref(), store) {
        (Some("docker-register"), StoreConfig::Consul(_)) => {
            return Err(Failure::Message("--layout: services of Consul have IDs as registrator makes them".into()));
        }
        (None, StoreConfig::Consul(_)) | (Some("registrator"), _) => (),
        _ => return Ok(Layout::DockerRegister),
    }
    let host = match &args.hostname {
        Some(hostname) => hostname.clone(),
        None => {
            std::fs::read_to_string(HOSTNAME_FILE).map_err(|error| format!("{HOSTNAME_FILE}: {error}; say --hostname"))?.trim().to_owned()
        }
    };
    Ok(Layout::Registrator { host })
}

/// Where the system says what it is called.
const HOSTNAME_FILE: &str = "/proc/sys/kernel/hostname";

fn store(url: &str) -> Result<StoreConfig, Failure> {
    let config = provider::read(&provider::of_services(url)).and_then(StoreConfig::of);
    Ok(config.map_err(|error| format!("--to: {error}"))?)
}

fn parse_host_ip(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Err("nobody reaches a container there: say the address of this host that others reach".into()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn parse_ttl(text: &str) -> Result<humantime::Duration, String> {
    let ttl = parse_duration(text)?;
    if TTL_RANGE.contains(&ttl) { Ok(ttl.into()) } else { Err("it is from 2s to 10m".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_as_providers_are() {
        let prefix = |url: &str| match store(url).unwrap() {
            StoreConfig::Etcd(config) | StoreConfig::Etcd2(config) => config.prefix,
            StoreConfig::Zookeeper(config) => config.prefix,
            StoreConfig::Consul(_) => String::new(),
        };
        let prefixes = ["etcd://10.0.0.5/web", "etcd2://10.0.0.5", "zookeeper://10.0.0.5", "consul://10.0.0.5"].map(prefix);
        assert_eq!(prefixes, ["/web", "/services", "/services", ""]);
        for url in ["etcd://10.0.0.5?layout=nuncio", "docker://", "etcd:"] {
            assert!(store(url).is_err(), "{url}");
        }
        assert!(parse_ttl("1s").is_err() && parse_ttl("soon").is_err() && parse_ttl("1m").is_ok());
        assert!(parse_host_ip("0.0.0.0").is_err() && parse_host_ip("::").is_err() && parse_host_ip("::1").is_ok());
    }
}
