//! `nuncio completions`: what a shell needs to complete our arguments.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure, output};

/// Prints a script with which a shell completes commands and options
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nuncio completions bash > /usr/share/bash-completion/completions/nuncio
  nuncio completions zsh > /usr/share/zsh/vendor-completions/_nuncio
  nuncio completions fish > ~/.config/fish/completions/nuncio.fish")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nuncio", &mut script);
    output::say(&String::from_utf8(script)?)
}
