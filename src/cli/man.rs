//! `nuncio man`: manual pages, one of the program and one of each command.

use std::path::PathBuf;

use clap::CommandFactory;

use super::{Cli, Failure, output};

/// Writes manual pages: nuncio(1) to standard output, or with a directory that and one of each command there
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nuncio man | man --local-file -
  nuncio man /usr/local/share/man/man1")]
pub(super) struct Args {
    /// Where nuncio.1, nuncio-run.1 and so on are written. It must be there
    directory: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.directory {
        Some(directory) => clap_mangen::generate_to(Cli::command(), directory)
            .map_err(|error| Failure::Message(format!("cannot write manual pages to {}: {error}", directory.display()))),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            output::say(&String::from_utf8(page)?)
        }
    }
}
