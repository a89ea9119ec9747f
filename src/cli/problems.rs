//! `nuncio problems`: what is wrong with the configuration of a running instance.

use nuncio::admin::table::TableView;

use super::Failure;
use super::client::Question;
use super::output::{count, say};

/// Show what is wrong with the configuration of a running instance
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nuncio problems
  nuncio problems --json | jq '.problems[].message'

Exit code 0 also when there are problems: they are the answer. `nuncio check FILE` is for scripts.")]
pub(super) struct Args {
    #[command(flatten)]
    question: Question,
}

/// Asks, and prints.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    args.question.ask("/api/v1/table", |table: &TableView| {
        for problem in &table.problems {
            say(&format!("{}\n\n", problem.text))?;
        }
        say(&format!("{} (generation {})\n", count(table.problems.len(), "problem"), table.generation))
    })
}
