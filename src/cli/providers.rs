//! `nuncio providers`: where a running instance has its configuration from.

use nuncio::admin::table::{ProviderState, ProviderView, TableView};

use super::Failure;
use super::client::Question;
use super::output::{Tone, ago, faint, plain, say_table};

/// Show where a running instance has its configuration from
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nuncio providers
  nuncio providers --json | jq '.providers[] | select(.state == \"failing\")'")]
pub(super) struct Args {
    #[command(flatten)]
    question: Question,
}

/// Asks, and draws.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    args.question.ask("/api/v1/table", |table: &TableView| {
        let header = ["provider", "state", "revision", "last contact", "last change", "lag", "rejected", "restarts"];
        say_table(&header, table.providers.iter().map(row))
    })
}

fn row(provider: &ProviderView) -> Vec<(String, Tone)> {
    let when = |seconds: Option<f64>| faint(seconds.map_or("never".into(), ago));
    vec![
        plain(&provider.name),
        state(provider),
        plain(provider.revision.map(|revision| revision.to_string()).unwrap_or_default()),
        when(provider.last_contact_seconds),
        when(provider.last_change_seconds),
        lag(provider),
        (provider.rejected.to_string(), if provider.rejected == 0 { Tone::Plain } else { Tone::Bad }),
        plain(provider.restarts),
    ]
}

fn lag(provider: &ProviderView) -> (String, Tone) {
    match provider.lag_seconds {
        Some(0.0) => faint("none"),
        Some(seconds) => (format!("{} s", seconds.round()), Tone::Bad),
        None => faint(""),
    }
}

fn state(provider: &ProviderView) -> (String, Tone) {
    if let Some(seconds) = provider.from_disk_seconds {
        return (format!("from disk, kept {}: {}", ago(seconds), provider.error.as_deref().unwrap_or("connecting")), Tone::Bad);
    }
    if let (ProviderState::Live, Some(held)) = (provider.state, &provider.held) {
        let count: usize = held.gone.iter().map(|gone| gone.count).sum();
        return (format!("live, holds {count} that are gone: nuncio release {}", provider.name), Tone::Bad);
    }
    match provider.state {
        ProviderState::Connecting => ("connecting".into(), Tone::Plain),
        ProviderState::Live => ("live".into(), Tone::Good),
        ProviderState::Failing => (format!("failing: {}", provider.error.as_deref().unwrap_or_default()), Tone::Bad),
        ProviderState::Finished => ("finished".into(), Tone::Plain),
    }
}
