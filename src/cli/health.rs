//! `nuncio health`: whether a running instance is ready for traffic.

use http::StatusCode;
use nuncio::admin::readiness::Readiness;

use super::client::Instance;
use super::output::{complain, say};
use super::{Failure, whereabouts};

/// Ask a running instance whether it is ready for traffic: exit code 0 if it is
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nuncio health && echo ready
  HEALTHCHECK --interval=5s CMD [\"nuncio\", \"health\"]        in a Dockerfile")]
pub(super) struct Args {
    #[command(flatten)]
    instance: Instance,
}

/// Asks, and says what is missing.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    // A registrar has no admin API, and says by itself how it fares.
    if args.instance.is_unknown()
        && let [told] = whereabouts::find(whereabouts::REGISTRAR).as_slice()
    {
        return conclude(told.is_empty(), told.lines());
    }
    let (status, readiness): (StatusCode, Readiness) = args.instance.ask("/readyz")?;
    let is_ready = readiness.ready && status.is_success();
    if is_ready {
        readiness.warnings.iter().for_each(|warning| complain(&format!("warning: {warning}\n")));
    }
    conclude(is_ready, readiness.missing.iter().map(String::as_str))
}

fn conclude<'a>(is_ready: bool, missing: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    if is_ready {
        return say("ready\n");
    }
    complain("not ready:\n");
    missing.for_each(|missing| complain(&format!("  {missing}\n")));
    Err(Failure::Told)
}
