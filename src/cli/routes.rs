//! `nuncio routes`: where a running instance sends what.

use nuncio::admin::routes::{MiddlewareView, RouteView, RoutesView, TcpRouteView, UdpRouteView};

use super::Failure;
use super::client::Question;
use super::output::{Tone, faint, plain, say_table};

/// Show where a running instance sends requests and connections
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nuncio routes
  nuncio routes --json | jq '.routes[] | select(.closed)'
  nuncio routes --admin http://10.0.0.5:8182")]
pub(super) struct Args {
    #[command(flatten)]
    question: Question,
}

/// Asks, and draws.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    args.question.ask("/api/v1/routes", draw)
}

fn draw(answer: &RoutesView) -> Result<(), Failure> {
    let header = ["route", "match", "priority", "listeners", "middlewares", "upstream", "state", "from"];
    say_table(
        &header,
        answer.routes.iter().map(route).chain(answer.tcp_routes.iter().map(tcp_route)).chain(answer.udp_routes.iter().map(udp_route)),
    )
}

fn route(route: &RouteView) -> Vec<(String, Tone)> {
    let listeners = if route.listeners.is_empty() { "all".into() } else { join(&route.listeners) };
    vec![
        plain(&route.name),
        plain(&route.rule),
        plain(route.priority),
        plain(listeners),
        plain(join(&route.middlewares.iter().map(middleware).collect::<Vec<_>>())),
        plain(route.upstream.as_ref().map_or("", |name| name.as_str())),
        state(route.closed.as_deref(), "answers 503"),
        faint(&route.origin),
    ]
}

fn tcp_route(route: &TcpRouteView) -> Vec<(String, Tone)> {
    vec![
        plain(&route.name),
        plain(route.rule.as_ref().map_or("TCP".into(), |rule| format!("TCP {rule}"))),
        plain(route.priority),
        plain(&route.listener),
        plain(if route.passthrough { "passthrough" } else { "" }),
        plain(&route.upstream),
        state(route.closed.as_deref(), if route.waits { "waiting" } else { "closed" }),
        faint(&route.origin),
    ]
}

fn udp_route(route: &UdpRouteView) -> Vec<(String, Tone)> {
    vec![
        plain(&route.name),
        plain("UDP"),
        plain(""),
        plain(&route.listener),
        plain(""),
        plain(&route.upstream),
        state(route.closed.as_deref(), "dropped"),
        faint(&route.origin),
    ]
}

fn middleware(middleware: &MiddlewareView) -> String {
    match (&middleware.name, &middleware.kind) {
        (Some(name), Some(kind)) => format!("{name} ({kind})"),
        (Some(name), None) => format!("{name} (missing)"),
        (None, kind) => kind.clone().unwrap_or_default(),
    }
}

fn state(closed: Option<&str>, effect: &str) -> (String, Tone) {
    match closed {
        Some(reason) => (format!("{effect}: {reason}"), Tone::Bad),
        None => ("ok".into(), Tone::Good),
    }
}

fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
