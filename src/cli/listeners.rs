//! `nuncio listeners`: the addresses that a running instance accepts on.

use nuncio::admin::table::{ListenerView, TableView};
use nuncio::config::listener::ListenerProtocol;

use super::Failure;
use super::client::Question;
use super::output::{Tone, plain, say_table};

/// Show the addresses that a running instance accepts on
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nuncio listeners
  nuncio listeners --json | jq -r '.listeners[].bound'")]
pub(super) struct Args {
    #[command(flatten)]
    question: Question,
}

/// Asks, and draws.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    args.question.ask("/api/v1/table", |table: &TableView| {
        say_table(&["listener", "address", "protocol", "tls", "state"], table.listeners.iter().map(row))
    })
}

fn row(listener: &ListenerView) -> Vec<(String, Tone)> {
    let protocol = match listener.protocol {
        ListenerProtocol::Http => "http",
        ListenerProtocol::Tcp => "tcp",
        ListenerProtocol::Udp => "udp",
    };
    let state = match &listener.error {
        Some(error) => (format!("not open: {error}"), Tone::Bad),
        None => ("open".into(), Tone::Good),
    };
    let address = listener.bound.as_ref().unwrap_or(&listener.address);
    vec![plain(&listener.name), plain(address), plain(protocol), plain(if listener.tls { "yes" } else { "no" }), state]
}
