//! `nuncio health`: whether a running instance is ready for traffic.

use http::StatusCode;
use nuncio::admin::readiness::Readiness;

use super::Failure;
use super::client::Instance;
use super::output::{complain, say};

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
    let (status, readiness): (StatusCode, Readiness) = args.instance.ask("/readyz")?;
    if readiness.ready && status.is_success() {
        say("ready\n");
        readiness.warnings.iter().for_each(|warning| complain(&format!("warning: {warning}\n")));
        return Ok(());
    }
    complain("not ready:\n");
    readiness.missing.iter().for_each(|missing| complain(&format!("  {missing}\n")));
    Err(Failure::Told)
}
