//! `nuncio run`: a server until a signal ends it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use nuncio::config::decode::FileConfig;
use nuncio::config::server::Admin;
use nuncio::config::{Address, Endpoint, Listener, ProviderConfig, Route, ServerConfig, Upstream, listener};
use nuncio::control::check::{Summary, check};
use nuncio::discovery::file::FileProvider;
use nuncio::discovery::{
    ConsulProvider, DnsProvider, DockerProvider, Etcd2Provider, EtcdProvider, HttpProvider, MarathonProvider, ProgramProvider,
    SwarmProvider, ZookeeperProvider,
};
use nuncio::server::ServerBuilder;
use nuncio::{Name, RoutingConfig, Server};

use super::check::{objects, read, render};
use super::signals::Signals;
use super::{Failure, limits, logging, output, settings};

/// Run a proxy until SIGTERM or SIGINT
#[derive(clap::Args)]
#[command(
    override_usage = "nuncio run [OPTIONS] [FILE]",
    after_help = "\
Where requests go is learned from FILE, from providers, from --to, or from several of them. Of objects with
one name the first one counts, in this order: flags, FILE, [providers] of FILE, --provider. Everything but
[server] and [providers] is live when it changes.

SIGTERM and SIGINT stop accepting and finish what is in flight; a second one ends at once.

Examples:
  nuncio run --listen :8080 --to 127.0.0.1:3000 --to 127.0.0.1:3001
  nuncio run /etc/nuncio/nuncio.toml --access-log -
  nuncio run --provider etcd://10.0.0.5:2379/nuncio
  nuncio run --provider etcd://10.0.0.5:2379/nuncio --listen :8080      listener here, routes in etcd"
)]
pub(super) struct Args {
    /// A configuration file, or a directory of which every *.toml is read. Watched: edits are live
    file: Option<PathBuf>,
    /// Accepts HTTP on this address, such as ":8080" or "127.0.0.1:8080". Makes listeners `default`, `default-2` and so on
    #[arg(long, value_name = "ADDR", value_parser = listener::parse_address)]
    listen: Vec<SocketAddr>,
    /// Sends all requests to this endpoint, such as 127.0.0.1:3000 or app.internal:3000, or to several in turn. Makes a route and
    /// an upstream `default`
    #[arg(long, value_name = "ADDR", requires = "listen", value_parser = Endpoint::parse_address)]
    to: Vec<Address>,
    /// Learns from a store: etcd://[USER:PASSWORD@]HOST:PORT[,HOST:PORT][/PREFIX], etcds://… for TLS; etcd2://… for etcd's v2
    /// API; consul://[TOKEN@]HOST:PORT[/PREFIX], with ?services=web,api-* or ?catalog for services, or consul:// for the agent that
    /// CONSUL_HTTP_ADDR names; docker:// or docker://HOST:PORT; swarm:// the same; marathon://HOST:PORT; zookeeper://HOST:PORT[/PREFIX];
    /// dns://[SERVER[:PORT]]/[UPSTREAM=]NAME:PORT[,NAME2:PORT], of which names that start with _ are SRV and have no port;
    /// https://HOST/config.toml; file:///PATH
    #[arg(long, value_name = "URL")]
    provider: Vec<String>,
    #[command(flatten)]
    flags: settings::Flags,
}

/// Runs until a signal ends it.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let urls: Vec<ProviderConfig> = args.provider.iter().map(|url| parse_provider(url)).collect();
    if args.file.is_none() && args.to.is_empty() && urls.is_empty() {
        super::usage_error(NOTHING_TO_RUN);
    }
    let file = args.file.as_ref().map(|path| (path.clone(), read(path, &file_name())));
    let server = args.flags.over(file.as_ref().map(|(_, config)| config.server.clone()).unwrap_or_default());
    let log = logging::start(server.log_level);
    let is_alone = args.listen.is_empty() && urls.is_empty();
    if let Some((path, config)) = &file {
        refuse_errors(path, config, is_alone && config.providers.is_empty())?;
    }
    let open_files = limits::raise_open_files();
    tracing::debug!(?open_files, workers = ?server.workers, data_dir = ?server.data_dir, "starting");
    let builder = settings::apply(&server, Server::builder())?;
    let builder = add_providers(builder, &args, file, urls);
    super::runtime()?.block_on(serve(builder, &server, log))
}

const NOTHING_TO_RUN: &str = "there is nothing to run. Say where requests go, in one of three ways:

  nuncio run --listen :8080 --to 127.0.0.1:3000          one listener, one endpoint
  nuncio run nuncio.toml                                 a configuration file, or a directory
  nuncio run --provider etcd://10.0.0.5:2379/nuncio      a store that is watched

`nuncio demo` shows it at work without any of them";

/// Not clap's `value_parser`, which would quote the URL with its password.
fn parse_provider(url: &str) -> ProviderConfig {
    use clap::CommandFactory;
    super::consul_env::provider(url).unwrap_or_else(|| ProviderConfig::parse_url(url)).unwrap_or_else(|error| {
        super::Cli::command().error(ErrorKind::ValueValidation, format!("--provider: {error}")).exit();
    })
}

/// A file that is wrong at the start may be wrong altogether, and nothing runs yet that could be kept running.
fn refuse_errors(path: &std::path::Path, config: &FileConfig, is_alone: bool) -> Result<(), Failure> {
    let checked = check(config, is_alone)?;
    if !checked.has_errors() {
        return Ok(());
    }
    output::complain(&render(&checked.problems, output::is_stderr_colored()));
    output::complain(&format!("error: {} is not used: {}\n", path.display(), super::check::sentence(&checked)));
    Err(Failure::Told)
}

fn file_name() -> Name {
    Name::literal("file")
}

/// Adds the sources in the order in which they count.
fn add_providers(mut builder: ServerBuilder, args: &Args, file: Option<(PathBuf, FileConfig)>, urls: Vec<ProviderConfig>) -> ServerBuilder {
    let mut names = Names::default();
    if !args.listen.is_empty() {
        let (provider, handle) = ProgramProvider::new(names.take("flags"));
        handle.publish(of_flags(&args.listen, &args.to));
        builder = builder.provider(provider);
    }
    if let Some((path, config)) = file {
        names.0.push(file_name());
        builder = builder.provider(FileProvider::new(file_name(), path).started_with(&config));
        for (name, provider) in config.providers {
            builder = add(builder, names.take(name.as_str()), provider);
        }
    }
    for provider in urls {
        let name = names.take(match provider {
            ProviderConfig::Consul(_) => "consul",
            ProviderConfig::Dns(_) => "dns",
            ProviderConfig::Docker(_) => "docker",
            ProviderConfig::Etcd(_) => "etcd",
            ProviderConfig::Etcd2(_) => "etcd2",
            ProviderConfig::File(_) => "file",
            ProviderConfig::Zookeeper(_) => "zookeeper",
            ProviderConfig::Swarm(_) => "swarm",
            ProviderConfig::Marathon(_) => "marathon",
            ProviderConfig::Http(_) => "http",
        });
        builder = add(builder, name, provider);
    }
    builder
}

fn add(builder: ServerBuilder, name: Name, provider: ProviderConfig) -> ServerBuilder {
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
struct Names(Vec<Name>);

impl Names {
    /// `name`, or `name-2` and so on if it is taken.
    fn take(&mut self, name: &str) -> Name {
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let candidates = std::iter::once(name.to_string()).chain(numbered);
        let free = candidates.filter_map(|name| Name::new(name).ok()).find(|name| !self.0.contains(name));
        let name = free.unwrap_or_else(|| Name::literal("provider"));
        self.0.push(name.clone());
        name
    }
}

/// What `--listen` and `--to` make.
fn of_flags(listen: &[SocketAddr], to: &[Address]) -> RoutingConfig {
    let default = Name::literal("default");
    let mut config = RoutingConfig::default();
    let mut names = Names::default();
    config.listeners.extend(listen.iter().map(|address| (names.take("default"), Listener::http(*address))));
    if !to.is_empty() {
        let everything = r#"PathPrefix("/")"#.parse().expect("a rule of the program's text is valid");
        let endpoints = to.iter().cloned().map(Endpoint::new).collect();
        config.upstreams.insert(default.clone(), Upstream { endpoints, ..Upstream::default() });
        config.routes.insert(default.clone(), Route::to(everything, default));
    }
    config
}

async fn serve(builder: ServerBuilder, settings: &ServerConfig, log: logging::Log) -> Result<(), Failure> {
    // Before the server starts, so that a signal never meets the system's default.
    let mut signals = Signals::catch()?;
    let server = builder.start().map_err(|error| Failure::Message(explain(&error, settings)))?;
    announce_admin(&server);
    let signal = tokio::select! {
        signal = signals.end() => signal,
        () = announce_ready(&server) => signals.end().await,
    };
    tracing::info!("{signal}: finishing what is in flight, for {:?} at most; a second signal ends at once", settings.drain_timeout);
    tokio::select! {
        is_clean = server.shutdown() => {
            if is_clean {
                tracing::info!("ended: nothing was cut");
            }
            Ok(())
        }
        signal = signals.end() => {
            tracing::warn!("{signal} again: ending at once");
            drop(log);
            #[expect(clippy::disallowed_methods, reason = "the second signal asks for an end without any further step")]
            std::process::exit(1)
        }
    }
}

/// A start that fails, with the way to mend it.
fn explain(error: &nuncio::server::StartError, settings: &ServerConfig) -> String {
    match (error, settings.admin) {
        (nuncio::server::StartError::Admin { .. }, Admin::Address(_)) => {
            format!("{error}\n\n  Another instance may run already. Choose another address with --admin 127.0.0.1:0, or --admin off.")
        }
        _ => error.to_string(),
    }
}

fn announce_admin(server: &Server) {
    let providers: Vec<&str> = server.status().feeds().iter().map(|feed| feed.name().as_str()).collect();
    tracing::info!("nuncio {}, providers: {}", env!("CARGO_PKG_VERSION"), providers.join(", "));
    let Some(admin) = server.admin_addr() else { return };
    tracing::info!("admin API: http://{admin}");
    if !admin.ip().is_loopback() {
        tracing::warn!("the admin API has no authentication, and {admin} may be reached from other machines");
    }
}

/// Waits for the first table, and says what it holds. The listeners say themselves where they listen.
async fn announce_ready(server: &Server) {
    server.ready().await;
    let summary = Summary::of(&server.table());
    match server.status().problems().len() {
        0 => tracing::info!("ready: {}", objects(&summary)),
        problems => tracing::warn!("ready, with {}: {}", output::count(problems, "problem"), objects(&summary)),
    }
    if summary.listeners == 0 {
        tracing::warn!("there is no listener: nothing is accepted. Add [listeners.NAME], or start with --listen :8080");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_make_objects_named_default() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let config = of_flags(&[address(1), address(2)], &[address(3).into()]);
        let names: Vec<&str> = config.listeners.keys().map(Name::as_str).collect();
        assert_eq!(names, ["default", "default-2"]);
        assert!(config.routes.contains_key("default") && config.upstreams.contains_key("default"));
        assert!(of_flags(&[address(1)], &[]).routes.is_empty());
    }
}
