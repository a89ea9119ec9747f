//! `nuncio release`: lets go of what is held of a provider's update.

use nuncio::admin::release::ReleaseView;
use nuncio::admin::table::{GoneView, HeldView, TableView};

use super::Failure;
use super::client::Instance;
use super::output::say;

/// Show what a running instance holds of its providers' updates, or let go of it
#[derive(clap::Args)]
#[command(after_help = "\
When much of what a provider knows is gone at once, and nobody deleted it, it stays in force for a while: see \
[server.protection] in config/full.toml. Without PROVIDER this shows what that is; with it, lets it go now.

Examples:
  nuncio release                 what is held, of which provider
  nuncio release etcd            it is right: let it go")]
pub(super) struct Args {
    /// The provider whose update is right
    provider: Option<String>,
    #[command(flatten)]
    instance: Instance,
}

/// Asks, or orders.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.provider {
        Some(provider) => release(&args.instance, provider),
        None => show(&args.instance),
    }
}

fn release(instance: &Instance, provider: &str) -> Result<(), Failure> {
    let name = percent_encoding::utf8_percent_encode(provider, percent_encoding::NON_ALPHANUMERIC);
    let ReleaseView { provider, released } = instance.order(&format!("/api/v1/providers/{name}/release"))?;
    say(&match released {
        true => format!("{provider}: what was held is let go\n"),
        false => format!("{provider}: nothing was held\n"),
    })
}

fn show(instance: &Instance) -> Result<(), Failure> {
    let (_, table): (_, TableView) = instance.ask("/api/v1/table")?;
    let held: Vec<String> = table.providers.iter().filter_map(|it| Some(describe(it.name.as_str(), it.held.as_ref()?))).collect();
    match held.is_empty() {
        true => say("nothing is held\n"),
        false => say(&held.concat()),
    }
}

fn describe(provider: &str, held: &HeldView) -> String {
    let gone: String = held.gone.iter().map(|gone| format!("  {}\n", line(gone))).collect();
    format!("{provider}: held for {:.0} s more; `nuncio release {provider}` lets go of\n{gone}", held.left_seconds)
}

fn line(gone: &GoneView) -> String {
    let of = gone.upstream.as_ref().map(|upstream| format!(" of upstream `{upstream}`")).unwrap_or_default();
    let names: Vec<&str> = gone.names.iter().map(|name| name.as_str()).collect();
    let more = gone.count.saturating_sub(names.len());
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{} of {} {}s{of}: {}{more}", gone.count, gone.of, gone.kind, names.join(", "))
}
