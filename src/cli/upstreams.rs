//! `nuncio upstreams`: the endpoints of a running instance, and how they are.

use nuncio::admin::upstreams::{EndpointView, Health, UpstreamView, UpstreamsView};

use super::Failure;
use super::client::Question;
use super::output::{Tone, ago, faint, plain, say_table};

/// Show the endpoints of a running instance, and how they are
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nuncio upstreams
  watch nuncio upstreams
  nuncio upstreams --json | jq '.upstreams[].endpoints[] | select(.health == \"down\")'")]
pub(super) struct Args {
    #[command(flatten)]
    question: Question,
}

/// Asks, and draws.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    args.question.ask("/api/v1/upstreams", draw)
}

fn draw(answer: &UpstreamsView) -> Result<(), Failure> {
    let header = ["upstream", "balance", "sticky", "endpoint", "id", "weight", "health", "in flight", "last change"];
    say_table(&header, answer.upstreams.iter().flat_map(rows))
}

/// One row per endpoint; one for an upstream without any.
fn rows(upstream: &UpstreamView) -> Vec<Vec<(String, Tone)>> {
    let own = || vec![plain(&upstream.name), plain(policy(upstream)), plain(upstream.sticky_cookie.clone().unwrap_or_default())];
    if upstream.endpoints.is_empty() {
        let none = [("no endpoints: answers 503".to_string(), Tone::Bad)];
        return vec![own().into_iter().chain(none).chain((0..5).map(|_| plain(""))).collect()];
    }
    upstream.endpoints.iter().map(|endpoint| own().into_iter().chain(cells(endpoint)).collect()).collect()
}

fn cells(endpoint: &EndpointView) -> Vec<(String, Tone)> {
    let changed = endpoint.changed.as_ref().map(|change| format!("{}: {}", ago(change.seconds), change.reason));
    vec![
        plain(&endpoint.address),
        plain(endpoint.id.as_ref().map_or("", |id| id.as_str())),
        plain(format!("{}{}", endpoint.weight, if endpoint.backup { " backup" } else { "" })),
        (endpoint.health.to_string(), tone(endpoint.health)),
        plain(endpoint.in_flight),
        faint(changed.unwrap_or_default()),
    ]
}

fn tone(health: Health) -> Tone {
    match health {
        Health::Up => Tone::Good,
        Health::Down => Tone::Bad,
        Health::Unchecked | Health::Unknown => Tone::Plain,
    }
}

/// The policy as it is configured: `round_robin`, `hash client_ip`, `hash header X-User`.
fn policy(upstream: &UpstreamView) -> String {
    let value = serde_json::to_value(&upstream.balance).unwrap_or_default().to_string();
    value.replace(['{', '}', '"'], "").replace(':', " ")
}
