//! `nuncio demo`: endpoints, a proxy in front of them, and what to try.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use nuncio::discovery::ProgramProvider;
use nuncio::{Name, RoutingConfig, Server};

use super::Failure;
use super::demo_endpoint::{DemoEndpoint, Switchboard};
use super::output::say;
use super::signals::Signals;
use super::{logging, output};

/// See it work: three endpoints, a proxy in front of them, and what to try
#[derive(clap::Args)]
#[command(after_help = "\
Everything listens on 127.0.0.1, nothing is written, and all of it is gone when the command ends.

Examples:
  nuncio demo
  nuncio demo --port 9000")]
pub(super) struct Args {
    /// The proxy's port; 0 takes a free one. If it is taken, the demo takes a free one and says so
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

const NAMES: [&str; 3] = ["red", "green", "blue"];
/// Where the commands that ask an instance look, if nobody tells them otherwise.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8182);

/// Runs until a signal ends it.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let _log = logging::start_filtered("error,nuncio::health=info".parse()?);
    super::runtime()?.block_on(demo(args.port))
}

async fn demo(port: u16) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let mut endpoints = Vec::new();
    for name in NAMES {
        endpoints.push(DemoEndpoint::start_on_free_port(name).await?);
    }
    let endpoints: Arc<[DemoEndpoint]> = endpoints.into();
    let switchboard = Switchboard::start(endpoints.clone()).await?;
    let toml = configuration(free_or_any(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?, &endpoints);
    let server = start(&toml)?;
    server.ready().await;
    let Some(proxy) = server.local_addr(&Name::literal("demo")) else {
        return Err(Failure::Message(super::check::render(&server.status().problems(), output::is_stderr_colored())));
    };
    if port != 0 && proxy.port() != port {
        say(&format!("Port {port} is taken; the demo is on port {} instead.\n\n", proxy.port()))?;
    }
    say(&screen(proxy, server.admin_addr().unwrap_or(ADMIN), switchboard.address, &endpoints))?;
    signals.end().await;
    server.shutdown().await;
    switchboard.stop().await;
    for endpoint in endpoints.iter() {
        endpoint.stop().await;
    }
    Ok(())
}

fn start(toml: &str) -> Result<Server, Failure> {
    let config: RoutingConfig = toml::from_str(toml)?;
    let (provider, handle) = ProgramProvider::new(Name::literal("demo"));
    handle.publish(config);
    Ok(Server::builder().admin(free_or_any(ADMIN)?).provider(provider).start()?)
}

/// `address`, or the same with port 0 if it is taken.
fn free_or_any(address: SocketAddr) -> io::Result<SocketAddr> {
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(address),
        Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
            Ok(SocketAddr::new(address.ip(), 0))
        }
        Err(error) => Err(error),
    }
}

/// What the proxy runs with: what a file would say.
fn configuration(proxy: SocketAddr, endpoints: &[DemoEndpoint]) -> String {
    let addresses: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{}\"", endpoint.address)).collect();
    let addresses = addresses.join(", ");
    format!(
        r#"
[listeners.demo]
address = "{proxy}"

[routes.everything]
match = 'PathPrefix("/")'
upstream = "app"

[routes.sticky]
match = 'PathPrefix("/sticky")'
upstream = "sessions"

[upstreams.app]
endpoints = [{addresses}]
health = {{ http = "/", interval = "500ms" }}

[upstreams.sessions]
endpoints = [{addresses}]
health = {{ http = "/", interval = "500ms" }}
sticky = {{ cookie = "demo_session" }}
"#
    )
}

fn screen(proxy: SocketAddr, admin: SocketAddr, switchboard: SocketAddr, endpoints: &[DemoEndpoint]) -> String {
    let [bold, dim, end] = if output::is_colored() { ["\x1b[1m", "\x1b[2m", "\x1b[0m"] } else { [""; 3] };
    let names: Vec<String> = endpoints.iter().map(|endpoint| format!("{} {}", endpoint.name, endpoint.address)).collect();
    let at = if admin == ADMIN { String::new() } else { format!(" --admin http://{admin}") };
    let toml = configuration(proxy, endpoints).trim().replace('\n', "\n  ").replace("\n  \n", "\n\n");
    format!(
        r#"{bold}The proxy is on http://{proxy}{end}, and in front of three endpoints:
  {names}

Its configuration, as a file would say it:

  {dim}{toml}{end}

{bold}Try in another terminal:{end}

  {dim}# requests are shared among the endpoints{end}
  for i in 1 2 3 4; do curl -s http://{proxy}/; done

  {dim}# a cookie keeps a client on its endpoint{end}
  for i in 1 2 3 4; do curl -s -c jar -b jar http://{proxy}/sticky; done; rm jar

  {dim}# an endpoint stops, and no request fails; then it comes back{end}
  curl -s http://{switchboard}/stop/red
  for i in 1 2 3 4; do curl -s http://{proxy}/; done
  curl -s http://{switchboard}/start/red

  {dim}# what the proxy knows of it{end}
  nuncio upstreams{at}
  nuncio routes{at}
  curl -s http://{admin}/metrics

Ctrl-C ends the demo.
"#,
        names = names.join(", "),
    )
}
