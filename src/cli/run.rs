//! `nuncio run`: a server until a signal ends it.

use std::path::PathBuf;

use nuncio::config::decode::FileConfig;
use nuncio::config::listen_address::ListenAddress;
use nuncio::config::{Address, Endpoint, Listener, ProviderConfig, Route, Upstream};
use nuncio::control::check::check;
use nuncio::discovery::ProgramProvider;
use nuncio::discovery::file::FileProvider;
use nuncio::server::ServerBuilder;
use nuncio::{Name, RoutingConfig, Server};

use super::check::{read, render};
use super::provider::{self, Names};
use super::{Failure, limits, logging, output, serve, settings};

/// Run a proxy until SIGTERM or SIGINT
#[derive(clap::Args)]
#[command(
    override_usage = "nuncio run [OPTIONS] [FILE]",
    after_help = "\
Where requests go is learned from FILE, from providers, from --to, or from several of them. Of objects with \
one name the first one counts, in this order: flags, FILE, [providers] of FILE, --provider. Everything but \
[server] and [providers] is live when it changes.

SIGTERM and SIGINT stop accepting and finish what is in flight; a second one ends at once.

Examples:
  nuncio run --listen :8080 --to 127.0.0.1:3000 --to 127.0.0.1:3001
  nuncio run /etc/nuncio/nuncio.toml --access-log -
  nuncio run --provider etcd://10.0.0.5:2379/nuncio
  nuncio run --provider etcd://10.0.0.5:2379/nuncio --listen :8080      routes in etcd"
)]
pub(super) struct Args {
    /// A configuration file, or a directory of which every *.toml is read. Watched: edits are live
    file: Option<PathBuf>,
    /// Accepts HTTP on this address, such as ":8080" or "127.0.0.1:8080". Makes listeners `default`, `default-2` and so on
    #[arg(long, value_name = "ADDR")]
    listen: Vec<ListenAddress>,
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
    let urls: Vec<ProviderConfig> = args.provider.iter().map(|url| provider::parse(url)).collect();
    if args.file.is_none() && args.to.is_empty() && urls.is_empty() {
        super::usage_error(NOTHING_TO_RUN);
    }
    let file = args.file.as_ref().map(|path| (path.clone(), read(path, &file_name())));
    let server = args.flags.over(file.as_ref().map(|(_, config)| config.server.clone()).unwrap_or_default());
    let log = logging::start(server.log_level);
    let is_alone = args.listen.is_empty() && urls.is_empty() && args.flags.mesh().is_none();
    if let Some((path, config)) = &file {
        refuse_errors(path, config, is_alone && config.providers.is_empty())?;
    }
    let open_files = limits::raise_open_files();
    tracing::debug!(?open_files, workers = ?server.workers, data_dir = ?server.data_dir, "starting");
    let builder = settings::apply(&server, Server::builder())?;
    let builder = add_providers(builder, &args, file, urls);
    super::runtime()?.block_on(serve::until_signal(builder, &server, log))
}

const NOTHING_TO_RUN: &str = "there is nothing to run. Say where requests go, in one of three ways:

  nuncio run --listen :8080 --to 127.0.0.1:3000          one listener, one endpoint
  nuncio run nuncio.toml                                 a configuration file, or a directory
  nuncio run --provider etcd://10.0.0.5:2379/nuncio      a store that is watched

`nuncio demo` shows it at work without any of them";

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
    if let Some(mesh) = args.flags.mesh() {
        builder = provider::add(builder, names.take("mesh"), ProviderConfig::Mesh(mesh));
    }
    if let Some((path, config)) = file {
        names.note(file_name());
        builder = builder.provider(FileProvider::new(file_name(), path).started_with(&config));
        for (name, provider) in config.providers {
            builder = provider::add(builder, names.take(name.as_str()), provider);
        }
    }
    for provider in urls {
        let name = names.take(provider.kind());
        builder = provider::add(builder, name, provider);
    }
    builder
}

/// What `--listen` and `--to` make.
fn of_flags(listen: &[ListenAddress], to: &[Address]) -> RoutingConfig {
    let default = Name::literal("default");
    let mut config = RoutingConfig::default();
    let mut names = Names::default();
    config.listeners.extend(listen.iter().map(|address| (names.take("default"), Listener::http(address.clone()))));
    if !to.is_empty() {
        let everything = r#"PathPrefix("/")"#.parse().expect("a rule of the program's text is valid");
        let endpoints = to.iter().cloned().map(Endpoint::new).collect();
        config.upstreams.insert(default.clone(), Upstream { endpoints, ..Upstream::default() });
        config.routes.insert(default.clone(), Route::to(everything, default));
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_make_objects_named_default() {
        let listen = |text: &str| text.parse().unwrap();
        let config = of_flags(&[listen(":1"), listen(":2")], &[Address::parse("127.0.0.1:3").unwrap()]);
        let names: Vec<&str> = config.listeners.keys().map(Name::as_str).collect();
        assert_eq!(names, ["default", "default-2"]);
        assert!(config.routes.contains_key("default") && config.upstreams.contains_key("default"));
        assert!(of_flags(&[listen(":1")], &[]).routes.is_empty());
    }
}
